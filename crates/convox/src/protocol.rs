//! How Convox writes errors: plain text or `{"error": …}`.

use boxrig_wire::{ApiError, Error, Protocol, WireBody};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response};
use serde::Deserialize;

/// The Convox protocol.
#[derive(Clone, Copy, Debug)]
pub struct Convox;

#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

impl Protocol for Convox {
    const PLATFORM: &'static str = "convox";

    fn decode_error(error: Error, _: &HeaderMap, body: &[u8]) -> Error {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        if text.starts_with('<') {
            return error.with_hint("the address answers with a web page: is it the rack's?");
        }
        match serde_json::from_str::<ErrorBody>(text) {
            Ok(b) => error.with_server_message(b.error),
            Err(_) if text.is_empty() => error,
            Err(_) => error.with_server_message(text),
        }
    }

    fn encode_error(error: &ApiError) -> Response<WireBody> {
        // Plain text; an unknown route is an empty 404.
        let text = if error.message.is_empty() {
            String::new()
        } else {
            format!("{}\n", error.message)
        };
        let mut r = Response::new(WireBody::full(text));
        *r.status_mut() = error.http_status();
        r.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        r
    }
}
