//! Webhooks: a message is queued and really sent. Only to addresses of this machine, unless the server was started with
//! `BOXRIG_WEBHOOKS=any`: a test must not reach out by accident.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use boxrig_vergeos::Written;
use boxrig_wire::{ApiError, BoxFuture};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{Method, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

use super::kit::{self, Done, cells, default, key};
use super::{Act, Behaviour};
use crate::vergeos::db::Read;
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;
use crate::vergeos::tx::Tx;

/// See the module.
pub(super) struct Webhooks;

/// The longest answer that is read.
const MAX_ANSWER: usize = 64 << 10;
/// Wait between two tries.
const AGAIN: Duration = Duration::from_millis(500);

/// Queues a message; it is sent after the commit.
pub(super) fn queue(tx: &mut Tx<'_>, webhook: &str, message: &str) -> Result<String, ApiError> {
    let row = kit::need(&*tx, "webhook_urls", webhook)?;
    let entry = tx.insert(
        "webhooks",
        cells(
            json!({"webhook_url": key(webhook), "message": message, "status": "queued",
        "status_info": "", "created": tx.now(), "last_attempt": 0}),
        ),
    )?;
    let own = entry.clone();
    let message = message.to_owned();
    tx.then(move |cx| async move {
        tokio::spawn(async move { send(&cx, &row, &own, &message).await });
    });
    Ok(entry)
}

async fn send(cx: &Cx, webhook: &Row, entry: &str, message: &str) {
    let tell = |status: &'static str, info: String| {
        let (cx, entry) = (cx.clone(), entry.to_owned());
        async move {
            let now = cx.now();
            let changes =
                cells(json!({"status": status, "status_info": info, "last_attempt": now}));
            if let Err(e) = cx.write(|tx| tx.set("webhooks", &entry, changes)).await {
                tracing::warn!(error = %e, "the state of a webhook is lost");
            }
        }
    };
    tell("running", String::new()).await;
    let tries = webhook.int("retries").clamp(0, 100) + 1;
    let mut last = String::new();
    for n in 0..tries {
        if n > 0 {
            tokio::time::sleep(AGAIN).await;
        }
        let limit =
            Duration::from_secs(u64::try_from(webhook.int("timeout").clamp(3, 120)).unwrap_or(5));
        match tokio::time::timeout(limit, deliver(webhook, message)).await {
            Ok(Ok(status)) => return tell("sent", status).await,
            Ok(Err(Refusal::Final(words))) => return tell("error", words).await,
            Ok(Err(Refusal::Again(words))) => last = words,
            Err(_) => last = format!("no answer within {} s", limit.as_secs()),
        }
    }
    tell("error", last).await;
}

enum Refusal {
    /// Trying again would change nothing.
    Final(String),
    /// It may work later.
    Again(String),
}

/// Sends once; gives the status of the answer.
async fn deliver(webhook: &Row, message: &str) -> Result<String, Refusal> {
    let fatal = |words: &str| Refusal::Final(words.to_owned());
    let again = |e: &dyn std::fmt::Display| Refusal::Again(e.to_string());
    let uri: Uri = webhook
        .text("url")
        .parse()
        .map_err(|_| fatal("the URL cannot be read"))?;
    let host = uri
        .host()
        .ok_or_else(|| fatal("the URL has no host"))?
        .trim_matches(['[', ']'])
        .to_owned();
    let plain = uri.scheme_str() == Some("http");
    let port = uri.port_u16().unwrap_or(if plain { 80 } else { 443 });
    let anywhere = std::env::var("BOXRIG_WEBHOOKS").is_ok_and(|v| v == "any");
    // A name is resolved only when it may be reached at all.
    let local = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    if !local && !anywhere && kit::mutated("webhook_anywhere") {
        return Ok("200 OK".to_owned());
    }
    if !local && !anywhere {
        return Err(fatal(
            "not sent: the local server sends webhooks to this machine only (BOXRIG_WEBHOOKS=any allows others)",
        ));
    }
    if !plain {
        return Err(fatal(
            "not sent: the local server sends webhooks over http only",
        ));
    }
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), port))
        .await
        .map_err(|e| again(&e))?
        .filter(|a| anywhere || a.ip().is_loopback())
        .collect();
    let stream = TcpStream::connect(found.as_slice())
        .await
        .map_err(|e| again(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| again(&e))?;
    let driver = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = http::Request::builder().method(Method::POST).uri(path);
    if let Some(headers) = request.headers_mut() {
        let authority = uri.authority().map_or(host.as_str(), |a| a.as_str());
        let authority = authority.rsplit('@').next().unwrap_or(authority);
        headers.insert(
            HOST,
            HeaderValue::from_str(authority).map_err(|_| fatal("the URL's host cannot be sent"))?,
        );
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for line in webhook.text("headers").lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let name = HeaderName::from_bytes(name.trim().as_bytes())
                .map_err(|_| fatal("a header's name cannot be sent"))?;
            headers.insert(
                name,
                HeaderValue::from_str(value.trim())
                    .map_err(|_| fatal("a header's value cannot be sent"))?,
            );
        }
        let secret = webhook.text("authorization_value");
        let proof = match webhook.text("authorization_type") {
            "basic" => Some((AUTHORIZATION, format!("Basic {}", BASE64.encode(secret)))),
            "bearer" => Some((AUTHORIZATION, format!("Bearer {secret}"))),
            "apikey" => Some((HeaderName::from_static("x-api-key"), secret.to_owned())),
            _ => None,
        };
        if let Some((name, text)) = proof {
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| fatal("the authorization cannot be sent"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    let body = Full::new(Bytes::from(message.to_owned()));
    let request = request
        .body(body)
        .map_err(|e| Refusal::Final(e.to_string()))?;
    let answer = sender.send_request(request).await.map_err(|e| again(&e))?;
    let status = answer.status();
    let read = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    driver.abort();
    if let Err(e) = read {
        return Err(Refusal::Again(e.to_string()));
    }
    if status.is_success() {
        Ok(status.to_string())
    } else if status.is_server_error() || status == http::StatusCode::TOO_MANY_REQUESTS {
        Err(Refusal::Again(format!("answered {status}")))
    } else {
        Err(Refusal::Final(format!("answered {status}")))
    }
}

impl Behaviour for Webhooks {
    fn actions(&self) -> &'static [(&'static str, &'static str)] {
        &[("webhook_urls", "send")]
    }

    fn before_create(&self, _: &mut Tx<'_>, table: &str, row: &mut Row) -> Done {
        if table == "webhook_urls" {
            default(row, "type", "custom");
            default(row, "authorization_type", "none");
            for (column, value) in [("timeout", 5), ("retries", 3)] {
                if row.get(column).is_null() {
                    row.set(column, value);
                }
            }
        }
        Ok(())
    }

    fn start<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // What was on its way when the server ended may have arrived: it is not sent again.
            let told = cx.write(|tx| {
                for entry in tx.all("webhooks").into_iter().filter(|e| matches!(e.text("status"), "queued" | "running")) {
                    tx.set("webhooks", &entry.key(), cells(json!({"status": "error", "status_info": "the server ended while it was sent"})))?;
                }
                Ok::<_, ApiError>(())
            });
            if let Err(e) = told.await {
                tracing::warn!(error = %e, "the state of webhooks is not known");
            }
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx, act: Act) -> BoxFuture<'a, Result<Written, ApiError>> {
        Box::pin(async move {
            let own = act.target()?.key();
            let message = match act.params.get("message") {
                Value::String(text) => text.clone(),
                Value::Null => "{}".to_owned(),
                other => other.to_string(),
            };
            if !kit::mutated("webhook_sent") {
                cx.write(|tx| queue(tx, &own, &message)).await?;
            }
            Ok(kit::reply(Row::new()))
        })
    }
}
