//! How VergeOS writes errors.

use boxrig_wire::{ApiError, Error, Kind, Protocol, WireBody};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response};
use serde_json::{Value, json};

/// The VergeOS protocol, API v4.
#[derive(Clone, Copy, Debug)]
pub struct VergeOs;

impl Protocol for VergeOs {
    const PLATFORM: &'static str = "vergeos";

    /// One of `err`, `error`, `message`: a text, or an object that has `message`.
    fn decode_error(error: Error, _: &HeaderMap, body: &[u8]) -> Error {
        let Ok(Value::Object(body)) = serde_json::from_slice(body) else {
            return error;
        };
        let text = ["err", "error", "message"]
            .iter()
            .find_map(|name| match body.get(*name)? {
                Value::String(text) => Some(text.as_str()),
                Value::Object(inner) => inner.get("message")?.as_str(),
                _ => None,
            });
        match text {
            Some(text) => error.with_server_message(text),
            None => error,
        }
    }

    fn encode_error(error: &ApiError) -> Response<WireBody> {
        let status = match error.kind {
            // A value that fails validation is 422; 400 is a request that cannot be read.
            Kind::Invalid if error.status.is_none() => http::StatusCode::UNPROCESSABLE_ENTITY,
            _ => error.http_status(),
        };
        let mut r = Response::new(WireBody::full(json!({ "err": error.message }).to_string()));
        *r.status_mut() = status;
        r.headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = error.retry_after {
            r.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        r
    }
}
