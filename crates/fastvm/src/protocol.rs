//! How FastVM writes errors.

use boxrig_wire::{ApiError, Error, Kind, Protocol, WireBody};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Map, Value};

/// The FastVM protocol.
///
/// # What the exception classes of the vendor's SDK are here
///
/// | class of the SDK | [`Kind`] |
/// | --- | --- |
/// | `BadRequestError`, `UnprocessableEntityError` | `Invalid` |
/// | `AuthenticationError` | `Unauthenticated` |
/// | `PermissionDeniedError` | `Denied` |
/// | `NotFoundError` | `NotFound` |
/// | `ConflictError` | `Conflict` |
/// | `RateLimitError` with a quota's token or dimension | `Quota` |
/// | `RateLimitError` otherwise | `RateLimited` |
/// | `InternalServerError` 502, 503, 504 | `Unavailable` |
/// | `InternalServerError` otherwise | `Failed` |
/// | `APIConnectionError` | `Transport`, or `OutcomeUnknown` where the call may have taken effect |
/// | `APITimeoutError` | `Timeout`, or `OutcomeUnknown` where the call may have taken effect |
/// | `APIResponseValidationError` | `Protocol` |
/// | `VMLaunchError` | `Failed`, code `vm_launch_failed` |
/// | `VMNotReadyError` | `Timeout`, code `vm_not_ready` |
/// | `FileNotFoundError`; `FileTransferError` with code `ENOENT` | `NotFound`, code `ENOENT` |
/// | `FileTransferError` otherwise | `Failed` (or what the step that failed answered), code `file_transfer_failed` |
/// | code `VOL_NOT_READY` | `Conflict`, retryable |
///
/// The table is tested in `crates/fastvm/tests/errors.rs`.
#[derive(Clone, Copy, Debug)]
pub struct FastVm;

/// Words that are tokens: no blanks, and letters, digits and underscores only.
fn is_token(text: &str) -> bool {
    (3..=64).contains(&text.len())
        && text.contains('_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl Protocol for FastVm {
    const PLATFORM: &'static str = "fastvm";

    fn decode_error(mut error: Error, _: &HeaderMap, body: &[u8]) -> Error {
        let members: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        // The API writes `error`; its command line also looks at the other two.
        let words: Vec<&str> = ["error", "message", "detail"]
            .into_iter()
            .filter_map(text)
            .filter(|t| !t.trim().is_empty())
            .collect();
        let code = text("code").or_else(|| words.iter().copied().find(|w| is_token(w)));
        let said = words
            .iter()
            .copied()
            .find(|w| !is_token(w))
            .or(words.first().copied());
        if let Some(code) = code {
            error = error.with_code(code);
        }
        if let Some(said) = said {
            error = error.with_server_message(said);
        }
        let dimension = text("dimension");
        let quota = dimension.is_some() || code.is_some_and(|c| c.ends_with("quota_exceeded"));
        if error.status() == Some(StatusCode::TOO_MANY_REQUESTS) && quota {
            error = error.with_kind(Kind::Quota);
            if let Some(dimension) = dimension {
                let dimension = boxrig_wire::escape_line(dimension);
                error = error.context(format_args!("no quota left for {dimension}"));
            }
        }
        if code == Some("VOL_NOT_READY") {
            error = error
                .with_kind(Kind::Conflict)
                .with_retryable(true)
                .with_hint("the volume is still being made: wait until its status is ready");
        }
        error
    }

    fn encode_error(error: &ApiError) -> Response<WireBody> {
        let mut body = error.details.clone();
        // A known token is what the API puts in `error`; the words go beside it.
        match error.code {
            Some(code) => {
                body.insert("error".into(), code.into());
                if !error.message.is_empty() {
                    body.insert("message".into(), error.message.as_str().into());
                }
            }
            None => {
                body.insert("error".into(), error.message.as_str().into());
            }
        }
        let mut r = Response::new(WireBody::full(Value::Object(body).to_string()));
        *r.status_mut() = error.http_status();
        r.headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = error.retry_after {
            r.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        r
    }
}
