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

/// The daemon's codes alone are not enough to tell meanings apart (a duplicate profile is a 500), so
/// its words are read for the few cases that were observed.
pub(crate) fn classify(error: Error, code: u16, text: &str) -> Error {
    let kind = match code {
        _ if text.contains("already exists") => Kind::Conflict,
        // "Command not found" of an exec comes as a 400 or as the operation's own failure.
        0 | 400 if text.contains("not found") => Kind::NotFound,
        0 => error.kind(),
        code => http::StatusCode::from_u16(code).map_or(error.kind(), Kind::of_status),
    };
    error.with_kind(kind).with_server_message(text)
}
