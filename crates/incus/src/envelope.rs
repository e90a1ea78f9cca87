//! The envelope of every JSON answer. Its `type` decides, never the HTTP status.

use boxrig_wire::{BoxFuture, Decoding, Error, Kind, ReplyCodec, ReplyShape, Result, WireBody};
use http::header::{CONTENT_TYPE, ETAG, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::models::Operation;
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

/// An opened envelope.
struct Opened {
    kind: String,
    metadata: Value,
    etag: Option<String>,
}

/// Reads an envelope, whatever the HTTP status says; one of type `error` is an error.
async fn open(response: Response<WireBody>, cx: Decoding) -> Result<Opened> {
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
    if envelope.kind == "error" {
        // An error within a 200 (a failed operation that was waited for) has no status of its own.
        let error = match parts.status.is_success() {
            true => Error::new(Kind::Failed, ""),
            false => Error::from_status(parts.status),
        };
        let error = error.with_operation(cx.meta.id).with_body(&bytes);
        return Err(classify(error, envelope.error_code, &envelope.error));
    }
    let etag = parts
        .headers
        .get(ETAG)
        .and_then(|v| v.to_str().ok())
        .map(str::to_owned);
    Ok(Opened {
        kind: envelope.kind,
        metadata: envelope.metadata,
        etag,
    })
}

impl Opened {
    fn expect<T: DeserializeOwned>(self, cx: Decoding, expected: &str) -> Result<T> {
        if self.kind != expected {
            let kind = boxrig_wire::escape_line(&self.kind);
            return Err(cx.protocol(format_args!(
                "expected an answer of type {expected}, got {kind:?}"
            )));
        }
        serde_json::from_value(self.metadata)
            .map_err(|e| cx.protocol(format_args!("unexpected metadata: {e}")))
    }
}

/// The result of a synchronous operation.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sync<T> {
    /// The result.
    pub metadata: T,
    /// The version of what was read, to be sent back as `If-Match` with a change.
    pub etag: Option<String>,
}

impl<T> Sync<T> {
    /// A result without a version.
    pub fn new(metadata: T) -> Self {
        Self {
            metadata,
            etag: None,
        }
    }
}

impl<T: Serialize + DeserializeOwned + Send> ReplyCodec for Sync<T> {
    const SHAPE: ReplyShape = ReplyShape::Whole;

    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let mut opened = open(response, cx).await?;
            let etag = opened.etag.take();
            Ok(Self {
                metadata: opened.expect(cx, "sync")?,
                etag,
            })
        })
    }

    fn encode(self) -> Result<Response<WireBody>, String> {
        let metadata = serde_json::to_value(self.metadata).map_err(|e| e.to_string())?;
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
pub struct Async(pub Operation);

impl ReplyCodec for Async {
    const SHAPE: ReplyShape = ReplyShape::Whole;

    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move { open(response, cx).await?.expect(cx, "async").map(Self) })
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

/// What some operations answer: a result at once, or an operation in the background.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer<T> {
    /// It is done.
    Done(Sync<T>),
    /// It goes on.
    Started(Box<Async>),
}

impl<T: Serialize + DeserializeOwned + Send> ReplyCodec for Answer<T> {
    const SHAPE: ReplyShape = ReplyShape::Whole;

    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let mut opened = open(response, cx).await?;
            if opened.kind == "async" {
                return Ok(Self::Started(Box::new(Async(opened.expect(cx, "async")?))));
            }
            let etag = opened.etag.take();
            Ok(Self::Done(Sync {
                metadata: opened.expect(cx, "sync")?,
                etag,
            }))
        })
    }

    fn encode(self) -> Result<Response<WireBody>, String> {
        match self {
            Self::Done(sync) => sync.encode(),
            Self::Started(operation) => operation.encode(),
        }
    }
}

/// A list: addresses, or the objects themselves when asked for with recursion.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum List<T> {
    /// Addresses, such as `/1.0/instances/c1`.
    Urls(Vec<String>),
    /// The objects.
    Items(Vec<T>),
}

impl<T> List<T> {
    /// The objects; addresses are passed over.
    pub fn items(self) -> Vec<T> {
        match self {
            Self::Items(items) => items,
            Self::Urls(_) => Vec::new(),
        }
    }
    /// The addresses; objects are passed over.
    pub fn urls(self) -> Vec<String> {
        match self {
            Self::Urls(urls) => urls,
            Self::Items(_) => Vec::new(),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for List<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let values = Option::<Vec<Value>>::deserialize(deserializer)?.unwrap_or_default();
        if values.first().is_some_and(Value::is_string) {
            let urls = values
                .into_iter()
                .map(serde_json::from_value)
                .collect::<Result<_, _>>();
            return urls.map(Self::Urls).map_err(D::Error::custom);
        }
        let items = values
            .into_iter()
            .map(serde_json::from_value)
            .collect::<Result<_, _>>();
        items.map(Self::Items).map_err(D::Error::custom)
    }
}

fn answer(status: StatusCode, body: Value) -> Response<WireBody> {
    let mut r = Response::new(WireBody::full(body.to_string()));
    *r.status_mut() = status;
    r.headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    r
}
