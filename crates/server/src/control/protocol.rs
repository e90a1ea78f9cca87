//! How the control API's errors look.

use boxrig_wire::{ApiError, Error, Kind, Protocol, WireBody};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response};
use serde::Deserialize;
use serde_json::{Value, json};

/// The protocol of the control API.
#[derive(Clone, Copy, Debug)]
pub struct Control;

#[derive(Deserialize)]
struct Body {
    error: String,
    #[serde(default)]
    kind: Option<Kind>,
}

impl Protocol for Control {
    const PLATFORM: &'static str = "boxrig";

    fn decode_error(error: Error, _: &HeaderMap, body: &[u8]) -> Error {
        match serde_json::from_slice::<Body>(body) {
            Ok(body) => {
                let error = error.with_server_message(body.error);
                match body.kind {
                    Some(kind) => error.with_kind(kind),
                    None => error,
                }
            }
            Err(_) => error,
        }
    }

    fn encode_error(error: &ApiError) -> Response<WireBody> {
        let mut body = error.details.clone();
        body.insert("error".into(), error.message.as_str().into());
        body.insert("kind".into(), json!(error.kind));
        let mut response = Response::new(WireBody::full(Value::Object(body).to_string()));
        *response.status_mut() = error.http_status();
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}
