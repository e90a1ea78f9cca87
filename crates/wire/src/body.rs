//! Bodies: the one type that travels, and the codecs that fill it.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::params::{decode_pairs, encode_pairs};
use crate::{BoxFuture, Params};

/// The error of a body's stream.
pub type BodyError = Box<dyn StdError + Send + Sync>;

/// A body on its way: bytes in hand, or a stream that is never held whole.
#[derive(Debug)]
pub struct WireBody(Inner);

#[derive(Debug)]
enum Inner {
    Bytes(Option<Bytes>),
    Stream(UnsyncBoxBody<Bytes, BodyError>),
}

impl WireBody {
    /// No body.
    pub fn empty() -> Self {
        Self(Inner::Bytes(None))
    }
    /// A body that is in hand, and so can be sent again.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(Inner::Bytes((!bytes.is_empty()).then_some(bytes)))
    }
    /// A streamed body.
    pub fn stream<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self(Inner::Stream(body.map_err(Into::into).boxed_unsync()))
    }
    /// A streamed body from a stream of chunks.
    pub fn from_stream<S, E>(stream: S) -> Self
    where
        S: futures_core::Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<BodyError> + 'static,
    {
        use futures_util::TryStreamExt;
        Self::stream(http_body_util::StreamBody::new(
            stream.map_ok(Frame::data).map_err(Into::into),
        ))
    }
    /// The same body once more, when it is in hand; `None` for a stream.
    pub fn try_clone(&self) -> Option<Self> {
        match &self.0 {
            Inner::Bytes(b) => Some(Self(Inner::Bytes(b.clone()))),
            Inner::Stream(_) => None,
        }
    }
    /// The bytes, when they are in hand, without a copy.
    pub fn to_bytes(&self) -> Option<Bytes> {
        match &self.0 {
            Inner::Bytes(b) => Some(b.clone().unwrap_or_default()),
            Inner::Stream(_) => None,
        }
    }
    /// The bytes, when they are in hand.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match &self.0 {
            Inner::Bytes(b) => Some(b.as_deref().unwrap_or_default()),
            Inner::Stream(_) => None,
        }
    }
    /// Reads it whole.
    ///
    /// # Errors
    ///
    /// When the stream breaks, or holds more than `limit` bytes.
    pub async fn collect(self, limit: usize) -> Result<Bytes, BodyError> {
        let mut body = match self.0 {
            Inner::Bytes(bytes) => {
                let bytes = bytes.unwrap_or_default();
                return if bytes.len() > limit {
                    Err(too_large(limit))
                } else {
                    Ok(bytes)
                };
            }
            Inner::Stream(body) => body,
        };
        let mut first: Option<Bytes> = None;
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            let held = first.as_ref().map_or(0, Bytes::len) + rest.len();
            if held + data.len() > limit {
                return Err(too_large(limit));
            }
            // One chunk, the usual case, is handed on without a copy.
            match &first {
                None => first = Some(data),
                Some(_) => rest.extend_from_slice(&data),
            }
        }
        Ok(match first {
            None => Bytes::new(),
            Some(first) if rest.is_empty() => first,
            Some(first) => {
                let mut all = BytesMut::with_capacity(first.len() + rest.len());
                all.extend_from_slice(&first);
                all.extend_from_slice(&rest);
                all.freeze()
            }
        })
    }
}

fn too_large(limit: usize) -> BodyError {
    Unreadable::TooLarge(limit).into()
}

impl Default for WireBody {
    fn default() -> Self {
        Self::empty()
    }
}

impl Body for WireBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Inner::Bytes(b) => Poll::Ready(b.take().map(|b| Ok(Frame::data(b)))),
            Inner::Stream(s) => Pin::new(s).poll_frame(cx),
        }
    }
    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Bytes(b) => b.is_none(),
            Inner::Stream(s) => s.is_end_stream(),
        }
    }
    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Bytes(b) => SizeHint::with_exact(b.as_ref().map_or(0, |b| b.len() as u64)),
            Inner::Stream(s) => s.size_hint(),
        }
    }
}

/// Why a request body cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreadable {
    /// It is larger than this many bytes.
    TooLarge(usize),
    /// It is not what it should be, in words.
    Wrong(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(limit) => write!(f, "it is larger than {limit} bytes"),
            Self::Wrong(why) => f.write_str(why),
        }
    }
}

impl StdError for Unreadable {}

impl From<BodyError> for Unreadable {
    fn from(e: BodyError) -> Self {
        match e.downcast::<Self>() {
            Ok(e) => *e,
            Err(e) => Self::Wrong(e.to_string()),
        }
    }
}

/// How a request body is written by a client and read by a server.
pub trait BodyCodec: Sized + Send {
    /// The document that will be sent, where the body is one: for checks of what is in it before it goes.
    fn document(&self) -> Option<serde_json::Value> {
        None
    }
    /// Writes the body and the headers that describe it.
    ///
    /// # Errors
    ///
    /// In words, when the value cannot be written.
    fn encode(self, headers: &mut HeaderMap) -> Result<WireBody, String>;
    /// Reads the body; at most `limit` bytes where it is held in memory.
    fn decode(
        headers: &HeaderMap,
        body: WireBody,
        limit: usize,
    ) -> BoxFuture<'_, Result<Self, Unreadable>>;
    /// The names of its fields, when it is a form (see [`Params::names`]); none stand for any.
    fn form() -> Option<&'static [&'static str]> {
        None
    }
}

/// No body. Reading passes over whatever was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoBody;

impl BodyCodec for NoBody {
    fn encode(self, _: &mut HeaderMap) -> Result<WireBody, String> {
        Ok(WireBody::empty())
    }
    fn decode(
        _: &HeaderMap,
        body: WireBody,
        limit: usize,
    ) -> BoxFuture<'_, Result<Self, Unreadable>> {
        // Read to its end, so that the connection can be used again.
        Box::pin(async move {
            body.collect(limit)
                .await
                .map(|_| Self)
                .map_err(Unreadable::from)
        })
    }
}

/// A JSON document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: Serialize + DeserializeOwned + Send> BodyCodec for Json<T> {
    fn document(&self) -> Option<serde_json::Value> {
        serde_json::to_value(&self.0).ok()
    }
    fn encode(self, headers: &mut HeaderMap) -> Result<WireBody, String> {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        serde_json::to_vec(&self.0)
            .map(WireBody::full)
            .map_err(|e| e.to_string())
    }
    fn decode(
        _: &HeaderMap,
        body: WireBody,
        limit: usize,
    ) -> BoxFuture<'_, Result<Self, Unreadable>> {
        Box::pin(async move {
            let bytes = body.collect(limit).await?;
            // An absent body is an empty object: every member is then its default or named missing.
            let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
            serde_json::from_slice(text)
                .map(Self)
                .map_err(|e| Unreadable::Wrong(e.to_string()))
        })
    }
}

/// `application/x-www-form-urlencoded`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form<P>(pub P);

impl<P: Params> BodyCodec for Form<P> {
    fn encode(self, headers: &mut HeaderMap) -> Result<WireBody, String> {
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        Ok(WireBody::full(encode_pairs(&self.0.to_pairs())))
    }
    fn decode(
        _: &HeaderMap,
        body: WireBody,
        limit: usize,
    ) -> BoxFuture<'_, Result<Self, Unreadable>> {
        Box::pin(async move {
            let bytes = body.collect(limit).await?;
            let text = std::str::from_utf8(&bytes).map_err(|e| Unreadable::Wrong(e.to_string()))?;
            let pairs = decode_pairs(text)
                .ok_or_else(|| Unreadable::Wrong("the form is not UTF-8".to_owned()))?;
            P::from_pairs(&pairs)
                .map(Self)
                .map_err(|e| Unreadable::Wrong(e.to_string()))
        })
    }
    fn form() -> Option<&'static [&'static str]> {
        Some(P::names())
    }
}

/// Raw bytes with a content type, streamed.
#[derive(Debug, Default)]
pub struct ByteBody {
    /// The body.
    pub body: WireBody,
    /// Its media type; `application/octet-stream` when `None`.
    pub content_type: Option<String>,
}

impl From<WireBody> for ByteBody {
    fn from(body: WireBody) -> Self {
        Self {
            body,
            content_type: None,
        }
    }
}

impl BodyCodec for ByteBody {
    fn encode(self, headers: &mut HeaderMap) -> Result<WireBody, String> {
        let text = self
            .content_type
            .as_deref()
            .unwrap_or("application/octet-stream");
        let value = HeaderValue::from_str(text).map_err(|e| e.to_string())?;
        headers.insert(CONTENT_TYPE, value);
        Ok(self.body)
    }
    fn decode(
        headers: &HeaderMap,
        body: WireBody,
        _: usize,
    ) -> BoxFuture<'_, Result<Self, Unreadable>> {
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        Box::pin(async move { Ok(Self { body, content_type }) })
    }
}
