//! Websockets and raw upgrades: a connection of their own, with HTTP/1.1.

use boxrig_wire::{Error, Kind, Phase, ReplyShape, UpgradeSlot, WireBody, ws};
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{Response, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::attempt::{Broken, Head, Track, request};
use crate::body::Payload;
use crate::builder::Inner;
use crate::connect::hyper_io;

impl Inner {
    /// Asks for an upgrade. The answer is the `101` with its connection, or what the server said instead.
    pub(crate) async fn upgrade(
        &self,
        head: &Head,
        payload: &Payload,
        shape: ReplyShape,
        track: &Track,
    ) -> Result<Response<WireBody>, Broken> {
        let connected = self
            .connector
            .connect(&head.uri, true)
            .await
            .map_err(Broken::before)?;
        let (mut sender, connection) =
            http1::handshake(hyper_io(connected.io))
                .await
                .map_err(|e| {
                    Broken::before(
                        Error::new(Kind::Transport, "no HTTP/1.1 with the server").with_source(e),
                    )
                })?;
        tokio::spawn(async move {
            if let Err(e) = connection.with_upgrades().await {
                tracing::debug!(error = %e, "connection for an upgrade");
            }
        });
        let mut head = head.clone();
        let (token, accept) = match shape {
            ReplyShape::Upgrade(token) => {
                head.headers
                    .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                head.headers
                    .insert(UPGRADE, HeaderValue::from_static(token));
                (token, None)
            }
            _ => ("websocket", Some(ws::client_handshake(&mut head.headers))),
        };
        let (body, _) = payload.outbound();
        track.sent_unseen();
        let answer = sender
            .send_request(request(&head, body, false, None))
            .await
            .map_err(|e| Broken {
                phase: Phase::AfterSend,
                error: Error::new(
                    Kind::Transport,
                    "the connection broke before the upgrade was answered",
                )
                .with_source(e),
            })?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            // Errors are short; they are read while the connection is there.
            let (parts, body) = answer.into_parts();
            return Ok(Response::from_parts(parts, WireBody::stream(body)));
        }
        let protocol = |words: &str| Broken {
            phase: Phase::AfterSend,
            error: Error::new(Kind::Protocol, words),
        };
        let same = |name, wanted: &str| {
            answer
                .headers()
                .get(name)
                .is_some_and(|v: &HeaderValue| v.as_bytes().eq_ignore_ascii_case(wanted.as_bytes()))
        };
        if !same(UPGRADE, token) {
            return Err(protocol(
                "the server switched to another protocol than it was asked for",
            ));
        }
        if let Some(accept) = accept
            && answer
                .headers()
                .get(SEC_WEBSOCKET_ACCEPT)
                .is_none_or(|v| v.as_bytes() != accept.as_bytes())
        {
            return Err(protocol("the websocket handshake's answer is wrong"));
        }
        let headers = answer.headers().clone();
        let io = hyper::upgrade::on(answer).await.map_err(|e| Broken {
            phase: Phase::AfterSend,
            error: Error::new(Kind::Transport, "the connection broke at the upgrade")
                .with_source(e),
        })?;
        let mut response = Response::new(WireBody::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = headers;
        response
            .extensions_mut()
            .insert(UpgradeSlot::connection(Box::new(TokioIo::new(io))));
        Ok(response)
    }
}
