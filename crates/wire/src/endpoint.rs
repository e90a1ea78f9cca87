//! One operation, described once.

use std::fmt;

use http::{HeaderMap, Method, StatusCode};

use crate::params::decode_pairs;
use crate::{
    ApiError, BodyCodec, BoxFuture, Error, Params, PathTemplate, PathValues, ReplyCodec,
    Unreadable, WireBody,
};

/// Whether an operation may be sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Idempotency {
    /// It changes nothing.
    Safe,
    /// Doing it twice is doing it once.
    Idempotent,
    /// It carries a token by which an earlier try can be found; the client looks before it resends.
    Token,
    /// It must never be sent twice.
    Never,
}

/// The form of a reply, for those who have to treat it before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyShape {
    /// Short: read whole, under the deadline of the call.
    Whole,
    /// Long: the deadline covers the time until the headers; the body has none.
    Stream,
    /// A websocket.
    Socket,
    /// Raw bytes both ways after a `101`; names the `Upgrade` token.
    Upgrade(&'static str),
}

/// The facts of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// The platform: `vergeos`, `incus`, `fastvm` or `convox`.
    pub platform: &'static str,
    /// The platform's own id of the operation.
    pub id: &'static str,
    /// HTTP method.
    pub method: &'static Method,
    /// Path.
    pub path: PathTemplate,
    /// What it does, as documented on the type.
    pub doc: &'static str,
    /// Whether it may be sent twice.
    pub idempotency: Idempotency,
    /// The retries of the platform's own clients when they differ from the platform's default.
    pub max_retries: Option<u32>,
    /// The form of its reply.
    pub reply: ReplyShape,
}

impl Meta {
    /// The first line of the documentation.
    pub fn summary(&self) -> &'static str {
        self.doc
            .lines()
            .map(str::trim)
            .find(|l| !l.is_empty())
            .unwrap_or("")
    }
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{} {} {}",
            self.platform, self.id, self.method, self.path
        )
    }
}

/// The operations of a platform, in the order of its documentation.
pub type Catalog = &'static [&'static Meta];

/// What all operations of a platform share: how errors look.
pub trait Protocol: Send + Sync + 'static {
    /// The platform's name.
    const PLATFORM: &'static str;

    /// Reads the platform's error body into the parts of an error. `error` comes with the status
    /// and the request id; the body is at most 1 MiB.
    fn decode_error(error: Error, headers: &HeaderMap, body: &[u8]) -> Error;

    /// Writes an error as this platform does.
    fn encode_error(error: &ApiError) -> http::Response<WireBody>;
}

/// One operation of a platform: five types and its facts. Made with [`endpoint!`](crate::endpoint).
pub trait Endpoint: Send + Sync + 'static {
    /// The platform.
    type Protocol: Protocol;
    /// The captures of the path.
    type Path: PathValues;
    /// The query.
    type Query: Params;
    /// Headers that carry options.
    type Headers: Params;
    /// The request body.
    type Body: BodyCodec;
    /// The reply.
    type Reply: ReplyCodec;
    /// The facts.
    const META: &'static Meta;
}

/// A request of an operation as a handler gets it and as a caller gives it.
pub struct Request<E: Endpoint> {
    /// The captures of the path.
    pub path: E::Path,
    /// The query.
    pub query: E::Query,
    /// Headers that carry options.
    pub headers: E::Headers,
    /// The body.
    pub body: E::Body,
}

impl<E: Endpoint> Request<E> {
    /// Builds the HTTP request with `prefix` before the path (empty, or without a slash at its end).
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`](crate::Kind::Invalid) when a value cannot be put where it belongs.
    pub fn encode(self, prefix: &str) -> Result<http::Request<WireBody>, Error> {
        let invalid = |m: String| Error::new(crate::Kind::Invalid, m).with_operation(E::META.id);
        let path = E::META
            .path
            .render(&self.path.to_values())
            .map_err(|e| invalid(e.to_string()))?;
        let pairs = self.query.to_pairs();
        let mut target = format!("{prefix}{path}");
        if !pairs.is_empty() {
            target.push('?');
            target.push_str(&crate::params::encode_pairs(&pairs));
        }
        let mut headers = HeaderMap::new();
        let body = self.body.encode(&mut headers).map_err(invalid)?;
        for (name, value) in self.headers.to_pairs() {
            let parsed = http::HeaderName::from_bytes(name.as_bytes())
                .map_err(|e| invalid(format!("header {name}: {e}")))?;
            let value = http::HeaderValue::from_str(&value)
                .or_else(|_| http::HeaderValue::from_bytes(value.as_bytes()))
                .map_err(|_| {
                    invalid(format!("header {name}: the value has a control character"))
                })?;
            headers.insert(parsed, value);
        }
        let mut request = http::Request::builder()
            .method(E::META.method)
            .uri(target)
            .body(body)
            .map_err(|e| invalid(e.to_string()))?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Reads an HTTP request whose path has matched with `captures`.
    ///
    /// # Errors
    ///
    /// Names the part and the value that cannot be read.
    pub fn decode(
        captures: Vec<String>,
        parts: &http::request::Parts,
        body: WireBody,
        limit: usize,
    ) -> BoxFuture<'_, Result<Self, ApiError>> {
        Box::pin(async move {
            let path = E::Path::from_values(captures)
                .ok_or_else(|| ApiError::not_found("no such path"))?;
            let pairs = decode_pairs(parts.uri.query().unwrap_or(""))
                .ok_or_else(|| ApiError::invalid("the query is not UTF-8"))?;
            let query =
                E::Query::from_pairs(&pairs).map_err(|e| ApiError::invalid(e.to_string()))?;
            let pairs: Vec<(String, String)> = parts
                .headers
                .iter()
                .map(|(k, v)| {
                    (
                        k.as_str().to_owned(),
                        String::from_utf8_lossy(v.as_bytes()).into_owned(),
                    )
                })
                .collect();
            let headers =
                E::Headers::from_pairs(&pairs).map_err(|e| ApiError::invalid(e.to_string()))?;
            let body = E::Body::decode(&parts.headers, body, limit)
                .await
                .map_err(|e| {
                    let error = ApiError::invalid(format!("invalid body: {e}"));
                    match e {
                        Unreadable::TooLarge(_) => error.with_status(StatusCode::PAYLOAD_TOO_LARGE),
                        // Not a value that a platform refuses, for which some have a status of their own.
                        _ => error.with_status(StatusCode::BAD_REQUEST),
                    }
                })?;
            Ok(Self {
                path,
                query,
                headers,
                body,
            })
        })
    }
}

/// Describes one operation.
///
/// ```
/// # use boxrig_wire::*;
/// # pub struct Demo;
/// # impl Protocol for Demo {
/// #     const PLATFORM: &'static str = "demo";
/// #     fn decode_error(e: Error, _: &http::HeaderMap, _: &[u8]) -> Error { e }
/// #     fn encode_error(e: &ApiError) -> http::Response<WireBody> {
/// #         http::Response::new(WireBody::full(e.message.clone()))
/// #     }
/// # }
/// endpoint! {
///     /// Deletes a machine.
///     pub DeleteVm = "deleteVm": Demo, DELETE "/v1/vms/{id}" {
///         path: (String,),
///         reply: JsonReply<serde_json::Value>,
///     }
/// }
/// assert_eq!(DeleteVm::META.to_string(), "demo.deleteVm DELETE /v1/vms/{id}");
/// ```
///
/// Members: `path`, `query`, `headers`, `body`, `reply` (in this order, each may be left out: nothing of
/// it), then `idempotency` (by default GET and HEAD are safe, PUT and DELETE idempotent, the rest
/// never) and `max_retries`.
#[macro_export]
macro_rules! endpoint {
    (
        $(#[doc = $doc:literal])+
        pub $name:ident = $id:literal : $protocol:ty, $method:ident $path:literal {
            $(path: $pt:ty,)?
            $(query: $qt:ty,)?
            $(headers: $ht:ty,)?
            $(body: $bt:ty,)?
            $(reply: $rt:ty,)?
            $(idempotency: $idem:ident,)?
            $(max_retries: $retries:literal,)?
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl $crate::Endpoint for $name {
            type Protocol = $protocol;
            type Path = $crate::endpoint!(@or $($pt)?; ());
            type Query = $crate::endpoint!(@or $($qt)?; $crate::NoParams);
            type Headers = $crate::endpoint!(@or $($ht)?; $crate::NoParams);
            type Body = $crate::endpoint!(@or $($bt)?; $crate::NoBody);
            type Reply = $crate::endpoint!(@or $($rt)?; $crate::Empty);
            const META: &'static $crate::Meta = &$crate::Meta {
                platform: <$protocol as $crate::Protocol>::PLATFORM,
                id: $id,
                method: &$crate::__private::http::Method::$method,
                path: $crate::PathTemplate::new($path),
                doc: concat!($($doc, "\n"),+),
                idempotency: $crate::endpoint!(@idem $method $($idem)?),
                max_retries: $crate::endpoint!(@retries $($retries)?),
                reply: <<Self as $crate::Endpoint>::Reply as $crate::ReplyCodec>::SHAPE,
            };
        }
    };
    (@or ; $default:ty) => { $default };
    (@or $given:ty; $default:ty) => { $given };
    (@idem $method:ident $idem:ident) => { $crate::Idempotency::$idem };
    (@idem GET) => { $crate::Idempotency::Safe };
    (@idem HEAD) => { $crate::Idempotency::Safe };
    (@idem PUT) => { $crate::Idempotency::Idempotent };
    (@idem DELETE) => { $crate::Idempotency::Idempotent };
    (@idem $method:ident) => { $crate::Idempotency::Never };
    (@retries) => { None };
    (@retries $n:literal) => { Some($n) };
}
