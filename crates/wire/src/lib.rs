//! The wire layer of boxrig: what an operation of a platform looks like on the wire, described once
//! and read by both halves.
//!
//! * A client builds its request and reads the reply through an [`Endpoint`].
//! * The local server mounts the same [`Endpoint`] with a handler.
//! * The command line, the coverage table and the docs read its [`Meta`].
//!
//! Nothing here opens a socket or keeps time: [`Transport`] is the seam that does, and
//! `boxrig-transport` is its default implementation.
//!
//! The concepts, from the bottom up:
//!
//! | concept | what it is |
//! | --- | --- |
//! | [`PathTemplate`] | one path with captures; renders and matches, the two being inverses |
//! | [`Params`] | named text values: a query, a form or a set of headers |
//! | [`BodyCodec`], [`ReplyCodec`] | how a request body and a reply are written and read |
//! | [`Endpoint`], [`Meta`] | one operation: the five types and its facts |
//! | [`Caller`] | sends endpoints through a [`Transport`] |
//! | [`Error`], [`Kind`] | errors by meaning, the same for all platforms |
//! | [`Operation`] | long work as a value: wait, poll, cancel, progress |
//! | [`Secret`], [`Untrusted`] | text that is never printed, and text that is printed only escaped |
//! | [`WebSocket`] | frames, not messages: raw bytes in text frames, empty frames, abrupt ends |

mod body;
mod call;
mod endpoint;
mod error;
mod go;
mod lines;
mod open_enum;
mod operation;
mod paging;
mod params;
mod patch;
mod path;
mod reader;
mod reply;
mod retry;
mod secret;
mod text;
pub mod ws;

pub use body::{BodyCodec, BodyError, ByteBody, Form, Json, NoBody, Unreadable, WireBody};
pub use call::{
    Authorize, BaseUrl, CallOptions, Caller, NoAuth, Outgoing, RawBody, RawRequest, Timeout,
    Transport,
};
pub use endpoint::{Catalog, Endpoint, Idempotency, Meta, Protocol, ReplyShape, Request};
pub use error::{ApiError, Error, Kind, Result};
pub use go::{Timestamp, nullable};
pub use lines::{LineStream, Lines};
pub use operation::{Operation, Progress, Work};
pub use paging::pages;
pub use params::{NoParams, ParamError, Params, Value};
pub use patch::Patch;
pub use path::{PathError, PathTemplate, PathValues};
pub use reader::{HasRead, MakeReader, ReadReply, ReplyReader};
pub use reply::{
    Acceptor, ByteReply, DecodeError, Decoding, Delivery, Duplex, Empty, JsonReply, ReplyCodec,
    Socket, Upgrade, UpgradeSlot, UpgradeToken,
};
pub use retry::{Decision, Phase, RetryPolicy};
pub use secret::Secret;
pub use text::{Untrusted, escape_json, escape_line, escape_text};
pub use ws::WebSocket;

/// A boxed future, used only at object-safe seams.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// A boxed stream, used only at object-safe seams.
pub type BoxStream<'a, T> = std::pin::Pin<Box<dyn futures_core::Stream<Item = T> + Send + 'a>>;

#[doc(hidden)]
pub mod __private {
    pub use http;
    pub use serde;
    pub use serde_json;
}
