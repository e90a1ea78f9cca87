//! The envelope of every JSON answer. Its `type` decides, never the HTTP status.

use boxrig_wire::{BoxFuture, Decoding, Error, Kind, ReplyCodec, ReplyShape, Result, WireBody};
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::OperationView;
use crate::protocol::classify;

#[derive(Deserialize)]
struct Envelope {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_code: u16,
    #[serde(default)]
    metadata: Value,
}

/// Reads an envelope of the expected type, whatever the HTTP status says.
async fn open<T: DeserializeOwned>(
    response: Response<WireBody>,
    cx: Decoding,
    expected: &'static str,
) -> Result<T> {
    let (parts, body) = response.into_parts();
    let bytes = cx.bytes(body).await?;
    let envelope: Envelope = match cx.json(&bytes) {
        Ok(envelope) => envelope,
        // Not an envelope at all: a proxy's page, say. Its status then is all there is.
        Err(e) if parts.status.is_success() => return Err(e),
        Err(_) => {
            return Err(Error::from_status(parts.status)
                .with_operation(cx.meta.id)
                .with_body(&bytes));
        }
    };
    match envelope.kind.as_str() {
        "error" => {
            let error = Error::new(Kind::Failed, "")
                .with_operation(cx.meta.id)
                .with_body(&bytes);
            Err(classify(error, envelope.error_code, &envelope.error))
        }
        kind if kind == expected => serde_json::from_value(envelope.metadata).map_err(|e| {
            cx.protocol(format_args!("unexpected metadata: {e}"))
                .with_body(&bytes)
        }),
        kind => Err(cx
            .protocol(format_args!(
                "expected an answer of type {expected}, got {:?}",
                boxrig_wire::escape_line(kind)
            ))
            .with_body(&bytes)),
    }
}

/// The result of a synchronous operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Sync<T>(pub T);

impl<T: Serialize + DeserializeOwned + Send> ReplyCodec for Sync<T> {
    const SHAPE: ReplyShape = ReplyShape::Whole;

    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move { open(response, cx, "sync").await.map(Self) })
    }

    fn encode(self) -> Result<Response<WireBody>, String> {
        let metadata = serde_json::to_value(self.0).map_err(|e| e.to_string())?;
        Ok(answer(
            StatusCode::OK,
            json!({
                "type": "sync", "status": "Success", "status_code": 200, "operation": "",
                "error_code": 0, "error": "", "metadata": metadata,
            }),
        ))
    }
}

/// An operation in the background: 202 with its address.
#[derive(Clone, Debug, PartialEq)]
pub struct Async(pub OperationView);

impl ReplyCodec for Async {
    const SHAPE: ReplyShape = ReplyShape::Whole;

    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move { open(response, cx, "async").await.map(Self) })
    }

    fn encode(self) -> Result<Response<WireBody>, String> {
        let path = format!("/1.0/operations/{}", self.0.id);
        let metadata = serde_json::to_value(self.0).map_err(|e| e.to_string())?;
        let mut r = answer(
            StatusCode::ACCEPTED,
            json!({
                "type": "async", "status": "Operation created", "status_code": 100, "operation": path,
                "error_code": 0, "error": "", "metadata": metadata,
            }),
        );
        r.headers_mut().insert(
            LOCATION,
            HeaderValue::from_str(&path).map_err(|e| e.to_string())?,
        );
        Ok(r)
    }
}

fn answer(status: StatusCode, body: Value) -> Response<WireBody> {
    let mut r = Response::new(WireBody::full(body.to_string()));
    *r.status_mut() = status;
    r.headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    r
}
