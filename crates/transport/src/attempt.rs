//! One try of a request, and how far it came.

use std::sync::Arc;

use boxrig_wire::{Duplex, Error, Kind, Phase, ReplyShape, UpgradeSlot, WireBody, ws};
use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;

use crate::body::{Inbound, Payload, Reading};
use crate::meter::Written;
use crate::pool::{Key, Lease, Pool, Sent};

/// What is sent, over all tries; a redirect changes `uri` and `headers`.
pub(crate) struct Plan {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
    pub(crate) reply: ReplyShape,
}

/// How far the present try has come; outlives the try itself, which a deadline may cut off.
#[derive(Default)]
pub(crate) struct Trail {
    exchange: Option<Exchange>,
}

struct Exchange {
    /// The counter, and what it showed at the start. `None` on a shared connection.
    written: Option<(Written, u64)>,
    reading: Arc<Reading>,
}

impl Trail {
    /// Nothing has left any more: before the first try, or when the last one is known not to have been taken.
    pub(crate) fn clear(&mut self) {
        self.exchange = None;
    }

    /// How much of the request has left.
    pub(crate) fn phase(&self) -> Phase {
        let Some(x) = &self.exchange else {
            return Phase::BeforeSend;
        };
        if let Some((written, start)) = &x.written {
            let left = written.get() - start;
            if left == 0 {
                return Phase::BeforeSend;
            }
            // Head and body together are longer than the body.
            if x.reading.length().is_some_and(|n| left < n) {
                return Phase::MidBody;
            }
        }
        if x.reading.ended() {
            Phase::AfterSend
        } else {
            Phase::MidBody
        }
    }
}

/// A try without an answer.
pub(crate) struct Broken {
    pub(crate) error: Error,
    /// Trying again cannot help.
    pub(crate) permanent: bool,
}

/// An answer's head, with what reads the rest.
pub(crate) struct Answer {
    pub(crate) response: Response<Inbound>,
    /// Held until a short exchange is over.
    pub(crate) _permit: Option<OwnedSemaphorePermit>,
    /// The connection after a `101`.
    pub(crate) upgraded: Option<Box<dyn Duplex>>,
}

/// Sends the request once. Connections that turn out to be closed before they took it do not count.
pub(crate) async fn attempt(
    pool: &Arc<Pool>,
    plan: &Plan,
    trail: &mut Trail,
) -> Result<Answer, Broken> {
    trail.clear();
    let permanent = |error| Broken {
        error,
        permanent: true,
    };
    let https = plan.uri.scheme_str() == Some("https");
    let authority = plan
        .uri
        .authority()
        .ok_or_else(|| permanent(Error::new(Kind::Invalid, "the request has no address")))?;
    let upgrade = matches!(plan.reply, ReplyShape::Socket | ReplyShape::Upgrade(_));
    let key = Key {
        https,
        authority: authority.clone(),
        http1: upgrade,
    };
    // Streams and sockets may stay open for hours, and so do not count.
    let permit = match plan.reply {
        ReplyShape::Whole => pool.permit(&key).await,
        _ => None,
    };
    loop {
        let mut lease = pool.lease(&key).await.map_err(|e| Broken {
            error: e.error,
            permanent: e.permanent,
        })?;
        let (request, reading, accept) = build(pool, plan, &lease).map_err(permanent)?;
        let written = lease.written().map(|w| (w.clone(), w.get()));
        let start = written.as_ref().map_or(0, |(_, start)| *start);
        trail.exchange = Some(Exchange {
            written,
            reading: reading.clone(),
        });
        let mut response = match lease.send(request).await {
            Sent::Answer(response) => response,
            Sent::NotTaken(e) => {
                trail.clear();
                if lease.reused && plan.payload.is_untouched() {
                    continue;
                }
                return Err(broken(e, Phase::BeforeSend));
            }
            Sent::Broken(e) => {
                if never_processed(&e) {
                    trail.clear();
                }
                return Err(broken(e, trail.phase()));
            }
        };
        let upgraded = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            Some(switched(&mut response, plan, accept.as_deref()).await?)
        } else {
            None
        };
        // A connection that was switched is nobody else's.
        let lease = upgraded.is_none().then_some(lease);
        return Ok(Answer {
            response: response.map(|body| Inbound::new(body, lease, reading, start)),
            _permit: permit,
            upgraded,
        });
    }
}

/// A server's word in HTTP/2 that it has not looked at a request (RFC 9113 §8.7).
fn never_processed(e: &hyper::Error) -> bool {
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(e) = at {
        if let Some(h2) = e.downcast_ref::<h2::Error>() {
            return h2.is_remote() && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        at = e.source();
    }
    false
}

fn broken(e: hyper::Error, phase: Phase) -> Broken {
    let malformed = e.is_parse();
    let error = if malformed {
        Error::new(Kind::Protocol, "the answer is not HTTP")
    } else if e.is_user() {
        Error::new(Kind::Transport, "the request's body could not be read")
    } else {
        Error::new(
            Kind::Transport,
            match phase {
                Phase::BeforeSend => "the connection broke before the request was sent",
                Phase::MidBody => "the connection broke while the request was being sent",
                Phase::AfterSend => "the connection broke before the answer came",
            },
        )
    };
    Broken {
        permanent: e.is_user(),
        error: error.with_source(e),
    }
}

type Built = (Request<crate::body::Outbound>, Arc<Reading>, Option<String>);

/// The request as this connection wants it, and the websocket accept to expect.
fn build(pool: &Pool, plan: &Plan, lease: &Lease) -> Result<Built, Error> {
    let (outbound, reading) = plan.payload.outbound();
    let mut request = Request::new(outbound);
    *request.method_mut() = plan.method.clone();
    let mut headers = plan.headers.clone();
    let mut accept = None;
    match plan.reply {
        ReplyShape::Socket => accept = Some(ws::client_handshake(&mut headers)),
        ReplyShape::Upgrade(token) => {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(token));
        }
        ReplyShape::Whole | ReplyShape::Stream => {}
    }
    if lease.is_h2() {
        for name in [
            HOST,
            CONNECTION,
            UPGRADE,
            HeaderName::from_static("keep-alive"),
        ] {
            headers.remove(name);
        }
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = plan.uri.clone();
    } else {
        let https = plan.uri.scheme_str() == Some("https");
        let authority = plan
            .uri
            .authority()
            .ok_or_else(|| Error::new(Kind::Invalid, "the request has no address"))?;
        if !headers.contains_key(HOST) {
            let host = HeaderValue::from_str(authority.as_str())
                .map_err(|e| Error::new(Kind::Invalid, "the host is not usable").with_source(e))?;
            headers.insert(HOST, host);
        }
        *request.uri_mut() = match pool.dialer.forwarder(https, authority)? {
            Some(proxy) => {
                if let Some(value) = &proxy.authorization {
                    headers.insert(http::header::PROXY_AUTHORIZATION, value.clone());
                }
                plan.uri.clone()
            }
            None => Uri::from(
                plan.uri
                    .path_and_query()
                    .cloned()
                    .unwrap_or_else(|| PathAndQuery::from_static("/")),
            ),
        };
    }
    *request.headers_mut() = headers;
    Ok((request, reading, accept))
}

/// Checks a `101`, and takes the connection.
async fn switched(
    response: &mut Response<hyper::body::Incoming>,
    plan: &Plan,
    accept: Option<&str>,
) -> Result<Box<dyn Duplex>, Broken> {
    let wrong = |why: &str| Broken {
        error: Error::new(
            Kind::Protocol,
            format!("a wrong switch of protocols: {why}"),
        ),
        permanent: true,
    };
    let token = match plan.reply {
        ReplyShape::Socket => "websocket",
        ReplyShape::Upgrade(token) => token,
        ReplyShape::Whole | ReplyShape::Stream => return Err(wrong("none was asked for")),
    };
    let upgrade = response.headers().get_all(UPGRADE);
    let named = upgrade
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token));
    if !named {
        return Err(wrong("the server switched to another protocol"));
    }
    if let Some(expected) = accept
        && response
            .headers()
            .get(SEC_WEBSOCKET_ACCEPT)
            .is_none_or(|v| v.as_bytes() != expected.as_bytes())
    {
        return Err(wrong("the server did not read the websocket's key"));
    }
    let io = hyper::upgrade::on(response)
        .await
        .map_err(|e| broken(e, Phase::AfterSend))?;
    Ok(Box::new(TokioIo::new(io)))
}

impl Answer {
    /// The response as callers get it when its body is not read here.
    pub(crate) fn into_response(self) -> Response<WireBody> {
        let slot = self.upgraded.map(UpgradeSlot::connection);
        let upgraded = slot.is_some();
        let mut response = self.response.map(|body| {
            if upgraded {
                WireBody::empty()
            } else {
                WireBody::stream(body)
            }
        });
        if let Some(slot) = slot {
            response.extensions_mut().insert(slot);
        }
        response
    }
}
