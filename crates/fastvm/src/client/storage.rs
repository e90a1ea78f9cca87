//! Signed URLs: content to and from a staging object, without the API's credentials.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxrig_wire::{
    Decoding, Endpoint, Error, Idempotency, Kind, Meta, Outgoing, Protocol, ReplyShape, Result,
    Secret, WireBody,
};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Request, Response, Uri};
use tokio::time::Instant;

use crate::ops;
use crate::protocol::FastVm;

/// RFC 9530: the digest of a content.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// When something last moved, so that a transfer that stands still is told from one that is slow.
#[derive(Clone)]
pub(super) struct Pulse {
    start: Instant,
    at: Arc<AtomicU64>,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            at: Arc::new(AtomicU64::new(0)),
        }
    }
    pub(super) fn beat(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at.store(now, Ordering::Relaxed);
    }
    /// Returns when nothing has moved for this long.
    pub(super) async fn stopped(&self, period: Duration) {
        loop {
            let last = self.start + Duration::from_millis(self.at.load(Ordering::Relaxed));
            let end = last + period;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// A signed URL that may be used: a web address, and no step down from TLS.
fn checked(client: &super::Client, url: &Secret, meta: &Meta) -> Result<Uri> {
    let refuse = |why: &str| {
        Error::new(
            Kind::Protocol,
            format!("the service gave a staging URL that is not used: {why}"),
        )
        .with_operation(meta.id)
    };
    let uri: Uri = url
        .expose()
        .parse()
        .map_err(|_| refuse("it cannot be parsed"))?;
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if !client.caller().base().is_https() => {}
        Some("http") => return Err(refuse("it is not encrypted, and the API is")),
        _ => return Err(refuse("it is no web address")),
    }
    if uri.authority().is_none_or(|a| a.as_str().contains('@')) {
        return Err(refuse("it has no host, or credentials in it"));
    }
    Ok(uri)
}

/// Sends a content. `body` is streamed; what is in hand can be sent again.
pub(super) async fn put(
    client: &super::Client,
    url: &Secret,
    content_type: &'static str,
    body: WireBody,
    length: Option<u64>,
    stall: (Duration, Pulse),
) -> Result<()> {
    let meta = ops::PutObject::META;
    let mut request = Request::new(body);
    *request.method_mut() = Method::PUT;
    *request.uri_mut() = checked(client, url, meta)?;
    // Signed for exactly this type, and refused with an API key.
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(length) = length {
        headers.insert(http::header::CONTENT_LENGTH, length.into());
    }
    let send = client.caller().transport().send(Outgoing {
        request,
        operation: meta.id,
        idempotency: Idempotency::Idempotent,
        reply: ReplyShape::Whole,
        timeout: None,
        retry: client.caller().retry().clone(),
        reply_limit: 1024 * 1024,
    });
    let (period, pulse) = stall;
    let response = tokio::select! {
        // What became of a staging object is of no consequence: nothing takes it from there before it is whole.
        response = send => response.map_err(|e| match e.kind() {
            Kind::OutcomeUnknown => e.with_kind(Kind::Transport),
            _ => e,
        })?,
        () = pulse.stopped(period) => return Err(stalled(period)),
    };
    cx(meta).success(response).await.map(drop)
}

/// Gets a content: the response with its body as a stream.
pub(super) async fn get(client: &super::Client, url: &Secret) -> Result<Response<WireBody>> {
    let meta = ops::GetObject::META;
    let mut request = Request::new(WireBody::empty());
    *request.uri_mut() = checked(client, url, meta)?;
    let response = client
        .caller()
        .transport()
        .send(Outgoing {
            request,
            operation: meta.id,
            idempotency: Idempotency::Safe,
            reply: ReplyShape::Stream,
            timeout: Some(Duration::from_secs(60)),
            retry: client.caller().retry().clone(),
            reply_limit: usize::MAX,
        })
        .await?;
    cx(meta).success(response).await
}

fn cx(meta: &'static Meta) -> Decoding {
    Decoding {
        meta,
        decode_error: <FastVm as Protocol>::decode_error,
        limit: 1024 * 1024,
    }
}

pub(super) fn stalled(period: Duration) -> Error {
    Error::new(
        Kind::Timeout,
        format!("the transfer stood still for {period:?}"),
    )
    .with_code("file_transfer_failed")
}

/// The SHA-256 that a response announces.
pub(super) fn announced_digest(response: &Response<WireBody>) -> Option<[u8; 32]> {
    let text = response.headers().get(CONTENT_DIGEST)?.to_str().ok()?;
    let value = text
        .split(',')
        .find_map(|part| part.trim().strip_prefix("sha-256=:"))?;
    let bytes = STANDARD.decode(value.split(':').next()?).ok()?;
    bytes.try_into().ok()
}
