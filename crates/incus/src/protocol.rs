//! How Incus writes errors.

use boxrig_wire::{ApiError, Error, Kind, Protocol, WireBody};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response};
use serde::Deserialize;
use serde_json::{Value, json};

/// The Incus protocol.
#[derive(Clone, Copy, Debug)]
pub struct Incus;

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_code: u16,
}

impl Protocol for Incus {
    const PLATFORM: &'static str = "incus";

    fn decode_error(error: Error, _: &HeaderMap, body: &[u8]) -> Error {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(b) => classify(error, b.error_code, &b.error),
            Err(_) => error,
        }
    }

    fn encode_error(error: &ApiError) -> Response<WireBody> {
        let status = error.http_status();
        let body = json!({
            "type": "error", "status": "", "status_code": 0, "operation": "",
            "error_code": status.as_u16(), "error": error.message, "metadata": Value::Null,
        });
        let mut r = Response::new(WireBody::full(body.to_string()));
        *r.status_mut() = status;
        r.headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        r
    }
}

/// What the daemon's words mean where its codes do not say it: a duplicate profile is a 500, a running instance a 400, a full pool a
/// 500, and an operation's failure has no code at all. Seen on a 6.0 daemon and in its sources; the first that fits decides.
const MEANINGS: &[(&str, Kind)] = &[
    ("no space left on device", Kind::Quota),
    ("disk quota exceeded", Kind::Quota),
    ("out of disk space", Kind::Quota),
    ("Reached maximum", Kind::Quota),
    ("Failed checking if instance creation allowed", Kind::Quota),
    ("UNIQUE constraint failed", Kind::Conflict),
    ("already exists", Kind::Conflict),
    ("already in use", Kind::Conflict),
    ("already defined", Kind::Conflict),
    ("is already running", Kind::Conflict),
    ("is already stopped", Kind::Conflict),
    ("is already frozen", Kind::Conflict),
    ("is currently in use", Kind::Conflict),
    ("is currently running", Kind::Conflict),
    ("is in use", Kind::Conflict),
    ("nstance is running", Kind::Conflict),
    ("nstance is not running", Kind::Conflict),
    ("nstance is stopped", Kind::Conflict),
    ("nstance is frozen", Kind::Conflict),
    ("is busy running", Kind::Conflict),
    ("nstance is busy", Kind::Conflict),
    ("only be done on stopped", Kind::Conflict),
    ("Renaming of running", Kind::Conflict),
    ("Cannot rename running", Kind::Conflict),
    ("is not empty", Kind::Conflict),
    ("Only empty projects", Kind::Conflict),
    ("Command not executable", Kind::Denied),
    ("Permission denied", Kind::Denied),
    ("SSH_FX_PERMISSION_DENIED", Kind::Denied),
    ("Invalid config", Kind::Invalid),
    ("Invalid value", Kind::Invalid),
    ("Invalid devices", Kind::Invalid),
    ("Device validation failed", Kind::Invalid),
    ("Command not found", Kind::NotFound),
    ("does not exist", Kind::NotFound),
    // An alias that is not there.
    ("Image not provided for instance creation", Kind::NotFound),
    ("SSH_FX_NO_SUCH_FILE", Kind::NotFound),
    ("Timed out waiting for websockets", Kind::Unavailable),
    ("context deadline exceeded", Kind::Timeout),
    ("peration cancelled", Kind::Cancelled),
];

/// The daemon's codes alone are not enough to tell meanings apart, so its words are read too.
pub(crate) fn classify(error: Error, code: u16, text: &str) -> Error {
    // These say themselves what they mean, whatever the words are.
    let by_code = matches!(code, 401 | 403 | 412 | 501 | 503);
    let by_words = MEANINGS
        .iter()
        .find(|(words, _)| text.contains(words))
        .map(|(_, kind)| *kind);
    let kind = match (code, by_words) {
        (_, Some(kind)) if !by_code => kind,
        (0 | 400, _) if text.contains("not found") => Kind::NotFound,
        (0, _) => error.kind(),
        (code, _) => http::StatusCode::from_u16(code).map_or(error.kind(), Kind::of_status),
    };
    // An operation that failed is not tried again by anybody's own decision.
    let again = kind.is_retryable() && code != 0;
    error
        .with_kind(kind)
        .with_retryable(again)
        .with_server_message(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_codes() {
        for (code, text, kind) in [
            (500, "The profile already exists", Kind::Conflict),
            (409, "The network already exists", Kind::Conflict),
            (
                0,
                "Failed creating instance record: UNIQUE constraint failed: instances.project_id, instances.name",
                Kind::Conflict,
            ),
            (400, "The instance is already running", Kind::Conflict),
            (404, "Project not found", Kind::NotFound),
            (400, "Command not found", Kind::NotFound),
            (403, "not authorized", Kind::Denied),
            (412, "ETag doesn't match: a vs b", Kind::Precondition),
            (0, "Failed: write x: no space left on device", Kind::Quota),
            (500, "something else", Kind::Failed),
            (501, "not implemented", Kind::Unsupported),
            (400, "Invalid filter", Kind::Invalid),
        ] {
            let e = classify(Error::new(Kind::Failed, ""), code, text);
            assert_eq!(e.kind(), kind, "{code} {text}");
        }
    }
}
