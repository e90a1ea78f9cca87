//! Replies: how they are read by a client and written by a server.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{BoxFuture, Error, Kind, MakeReader, Meta, ReplyShape, Result, WebSocket, WireBody};

/// Both directions of a connection after an upgrade.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What the transport knows of how a response with an error status was got. It is in the extensions of the
/// response; [`Decoding::error`] puts it in the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// How often the request was sent.
    pub attempts: u32,
    /// Whether the request may have taken effect in spite of the status (a gateway that lost its upstream), or in
    /// an earlier try.
    pub outcome_unknown: bool,
    /// How long the server asked to wait.
    pub retry_after: Option<Duration>,
}

/// How a platform's error body is read; see [`crate::Protocol::decode_error`].
pub type DecodeError = fn(Error, &HeaderMap, &[u8]) -> Error;

impl Delivery {
    fn annotate(&self, mut error: Error) -> Error {
        error = error.with_attempts(self.attempts);
        if let Some(wait) = self.retry_after {
            error = error.with_retry_after(wait);
        }
        if self.outcome_unknown {
            error = error
                .with_kind(Kind::OutcomeUnknown)
                .with_hint("it may have happened: look before doing it again");
        }
        error
    }
}

/// What a reply codec needs besides the response.
#[derive(Clone, Copy, Debug)]
pub struct Decoding {
    /// The operation.
    pub meta: &'static Meta,
    /// How its platform writes errors.
    pub decode_error: DecodeError,
    /// The most bytes a reply that is read whole may have.
    pub limit: usize,
}

/// Error bodies are read up to this size.
const ERROR_LIMIT: usize = 1024 * 1024;

impl Decoding {
    /// Passes a response with a success status on, and turns any other into the platform's error.
    ///
    /// # Errors
    ///
    /// The server's error, with its words, status, body and request id.
    pub async fn success(&self, response: Response<WireBody>) -> Result<Response<WireBody>> {
        if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        Err(self.error(response).await)
    }

    /// Reads a response as the platform's error.
    pub async fn error(&self, response: Response<WireBody>) -> Error {
        let (parts, body) = response.into_parts();
        let mut error = Error::from_status(parts.status).with_operation(self.meta.id);
        if let Some(id) = ["x-request-id", "request-id", "x-amzn-requestid"]
            .iter()
            .find_map(|name| parts.headers.get(*name)?.to_str().ok())
        {
            error = error.with_request_id(id);
        }
        let error = match body.collect(ERROR_LIMIT).await {
            Ok(bytes) => (self.decode_error)(error.with_body(&bytes), &parts.headers, &bytes),
            Err(e) => error
                .context("the error's body could not be read")
                .with_source(e),
        };
        match parts.extensions.get::<Delivery>() {
            Some(delivery) => delivery.annotate(error),
            None => error,
        }
    }

    /// Reads the body whole.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when it breaks off, [`Kind::Protocol`] when it is too large.
    pub async fn bytes(&self, body: WireBody) -> Result<Bytes> {
        body.collect(self.limit).await.map_err(|e| {
            match e.downcast::<Error>() {
                Ok(e) => *e,
                Err(e) => Error::new(Kind::Transport, "the reply could not be read to its end")
                    .with_source(e),
            }
            .with_operation(self.meta.id)
        })
    }

    /// An answer that is not what the protocol says.
    pub fn protocol(&self, message: impl fmt::Display) -> Error {
        Error::new(Kind::Protocol, message.to_string()).with_operation(self.meta.id)
    }

    /// Parses a JSON reply.
    ///
    /// # Errors
    ///
    /// [`Kind::Protocol`], with the place in the document and the body.
    pub fn json<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
        // Checked to be UTF-8 as a whole, not text by text: that is a twentieth of a long list. What is not is left to the parser,
        // which says where.
        let parsed = match std::str::from_utf8(bytes) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(bytes),
        };
        parsed.map_err(|e| {
            let html = bytes.trim_ascii_start().first() == Some(&b'<');
            let e = self
                .protocol(format_args!("the reply is not the expected JSON: {e}"))
                .with_body(bytes);
            if html {
                e.with_hint("the address answers with a web page: is it the API's?")
            } else {
                e
            }
        })
    }
}

/// A reply: read by a client, written by a server.
pub trait ReplyCodec: Sized + Send {
    /// Its form.
    const SHAPE: ReplyShape;
    /// Reads it while it comes. What was read is then in [`HasRead`](crate::HasRead) when [`decode`](Self::decode) is called;
    /// where the transport did not, the body is there as ever.
    fn reader() -> Option<MakeReader> {
        None
    }
    /// Reads it.
    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>>;
    /// Writes it.
    ///
    /// # Errors
    ///
    /// In words, when the value cannot be written.
    fn encode(self) -> Result<Response<WireBody>, String>;
}

/// Success without content (204; any success status is read).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Empty;

impl ReplyCodec for Empty {
    const SHAPE: ReplyShape = ReplyShape::Whole;
    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move { cx.success(response).await.map(|_| Self) })
    }
    fn encode(self) -> Result<Response<WireBody>, String> {
        let mut r = Response::new(WireBody::empty());
        *r.status_mut() = StatusCode::NO_CONTENT;
        Ok(r)
    }
}

/// A JSON document, with the status it came or goes with.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonReply<T> {
    /// The document.
    pub value: T,
    /// The status.
    pub status: StatusCode,
}

impl<T> JsonReply<T> {
    /// With status 200.
    pub fn ok(value: T) -> Self {
        Self {
            value,
            status: StatusCode::OK,
        }
    }
    /// With status 201.
    pub fn created(value: T) -> Self {
        Self {
            value,
            status: StatusCode::CREATED,
        }
    }
    /// With status 202.
    pub fn accepted(value: T) -> Self {
        Self {
            value,
            status: StatusCode::ACCEPTED,
        }
    }
}

impl<T: Serialize + DeserializeOwned + Send> ReplyCodec for JsonReply<T> {
    const SHAPE: ReplyShape = ReplyShape::Whole;
    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let (parts, body) = cx.success(response).await?.into_parts();
            let bytes = cx.bytes(body).await?;
            Ok(Self {
                value: cx.json(&bytes)?,
                status: parts.status,
            })
        })
    }
    fn encode(self) -> Result<Response<WireBody>, String> {
        let text = serde_json::to_vec(&self.value).map_err(|e| e.to_string())?;
        let mut r = Response::new(WireBody::full(text));
        *r.status_mut() = self.status;
        r.headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(r)
    }
}

/// Bytes, streamed, with their headers.
#[derive(Debug)]
pub struct ByteReply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The content.
    pub body: WireBody,
}

impl ReplyCodec for ByteReply {
    const SHAPE: ReplyShape = ReplyShape::Stream;
    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let (parts, body) = cx.success(response).await?.into_parts();
            Ok(Self {
                status: parts.status,
                headers: parts.headers,
                body,
            })
        })
    }
    fn encode(self) -> Result<Response<WireBody>, String> {
        let mut r = Response::new(self.body);
        *r.status_mut() = self.status;
        *r.headers_mut() = self.headers;
        Ok(r)
    }
}

/// Where an upgraded connection is handed over, in the extensions of a `101` response.
///
/// On a client the transport puts the connection in, on a server the handler puts in what is to be
/// done with it.
#[derive(Clone)]
pub struct UpgradeSlot(Arc<Mutex<Option<Slot>>>);

enum Slot {
    Connection(Box<dyn Duplex>),
    Acceptor(Acceptor),
}

/// What a server does with the connection once it is upgraded.
pub type Acceptor = Box<dyn FnOnce(Box<dyn Duplex>) -> BoxFuture<'static, ()> + Send>;

impl UpgradeSlot {
    /// For a client's transport: the connection after the `101`.
    pub fn connection(io: Box<dyn Duplex>) -> Self {
        Self(Arc::new(Mutex::new(Some(Slot::Connection(io)))))
    }
    /// For a handler: what to do with the connection.
    pub fn acceptor(f: Acceptor) -> Self {
        Self(Arc::new(Mutex::new(Some(Slot::Acceptor(f)))))
    }
    /// Takes the connection, once.
    pub fn take_connection(&self) -> Option<Box<dyn Duplex>> {
        match self.take()? {
            Slot::Connection(io) => Some(io),
            Slot::Acceptor(_) => None,
        }
    }
    /// Takes the acceptor, once.
    pub fn take_acceptor(&self) -> Option<Acceptor> {
        match self.take()? {
            Slot::Acceptor(f) => Some(f),
            Slot::Connection(_) => None,
        }
    }
    fn take(&self) -> Option<Slot> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).take()
    }
}

impl fmt::Debug for UpgradeSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UpgradeSlot")
    }
}

async fn upgraded(
    response: Response<WireBody>,
    cx: Decoding,
) -> Result<(HeaderMap, Box<dyn Duplex>)> {
    let response = cx.success(response).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(cx.protocol(format_args!(
            "expected a switch of protocols, got HTTP {}",
            response.status().as_u16()
        )));
    }
    let io = response
        .extensions()
        .get::<UpgradeSlot>()
        .and_then(UpgradeSlot::take_connection);
    let io = io.ok_or_else(|| cx.protocol("the transport gave no upgraded connection"))?;
    Ok((response.headers().clone(), io))
}

fn switching(slot: UpgradeSlot) -> Response<WireBody> {
    let mut r = Response::new(WireBody::empty());
    *r.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    r.extensions_mut().insert(slot);
    r
}

/// A websocket: on a client connected, on a server the code that serves it.
pub struct Socket(Side<WebSocket>);

/// Raw bytes both ways, after an upgrade to `P::TOKEN`.
pub struct Upgrade<P>(Side<Box<dyn Duplex>>, std::marker::PhantomData<fn() -> P>);

/// The `Upgrade` token of a protocol, for [`Upgrade`].
pub trait UpgradeToken: 'static {
    /// The token.
    const TOKEN: &'static str;
}

enum Side<T> {
    Client(T),
    Server(Acceptor),
}

impl Socket {
    /// A server's socket: `serve` runs with the connection after the `101` was sent.
    pub fn serve<F, Fut>(serve: F) -> Self
    where
        F: FnOnce(WebSocket) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self(Side::Server(Box::new(move |io| {
            Box::pin(serve(WebSocket::server(io)))
        })))
    }

    /// The connected socket, on a client.
    ///
    /// # Errors
    ///
    /// [`Kind::Protocol`] on a server's socket.
    pub fn connected(self) -> Result<WebSocket> {
        match self.0 {
            Side::Client(ws) => Ok(ws),
            Side::Server(_) => Err(Error::new(Kind::Protocol, "not a client's socket")),
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Socket")
    }
}

impl ReplyCodec for Socket {
    const SHAPE: ReplyShape = ReplyShape::Socket;
    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let (_, io) = upgraded(response, cx).await?;
            Ok(Self(Side::Client(WebSocket::client(io))))
        })
    }
    fn encode(self) -> Result<Response<WireBody>, String> {
        match self.0 {
            Side::Server(f) => Ok(switching(UpgradeSlot::acceptor(f))),
            Side::Client(_) => Err("a client's socket cannot be answered with".to_owned()),
        }
    }
}

impl<P: UpgradeToken> Upgrade<P> {
    /// A server's side: `serve` runs with the connection after the `101` was sent.
    pub fn serve<F, Fut>(serve: F) -> Self
    where
        F: FnOnce(Box<dyn Duplex>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self(
            Side::Server(Box::new(move |io| Box::pin(serve(io)))),
            std::marker::PhantomData,
        )
    }

    /// The connection, on a client.
    ///
    /// # Errors
    ///
    /// [`Kind::Protocol`] on a server's side.
    pub fn connected(self) -> Result<Box<dyn Duplex>> {
        match self.0 {
            Side::Client(io) => Ok(io),
            Side::Server(_) => Err(Error::new(Kind::Protocol, "not a client's connection")),
        }
    }
}

impl<P: UpgradeToken> ReplyCodec for Upgrade<P> {
    const SHAPE: ReplyShape = ReplyShape::Upgrade(P::TOKEN);
    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let (_, io) = upgraded(response, cx).await?;
            Ok(Self(Side::Client(io), std::marker::PhantomData))
        })
    }
    fn encode(self) -> Result<Response<WireBody>, String> {
        match self.0 {
            Side::Server(f) => {
                let mut r = switching(UpgradeSlot::acceptor(f));
                r.headers_mut()
                    .insert(http::header::UPGRADE, HeaderValue::from_static(P::TOKEN));
                Ok(r)
            }
            Side::Client(_) => Err("a client's connection cannot be answered with".to_owned()),
        }
    }
}
