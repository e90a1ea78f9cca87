//! Sending endpoints: the seam to the network, and the caller above it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri};

use crate::reply::DecodeError;
use crate::{
    BoxFuture, Decoding, Endpoint, Error, Idempotency, Kind, Meta, PathTemplate, Protocol,
    ReadReply, ReplyCodec, ReplyShape, Request, Result, RetryPolicy, WireBody,
};

/// A limit in time that can also be "none", told apart from "as usual".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timeout {
    /// What the client is set to.
    #[default]
    Default,
    /// No limit.
    Never,
    /// This long, over all tries.
    After(Duration),
}

impl From<Duration> for Timeout {
    fn from(d: Duration) -> Self {
        Self::After(d)
    }
}

/// Settings of one call.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CallOptions {
    /// The deadline over all tries, waits included.
    pub timeout: Timeout,
    /// Tries after the first; `None`: the operation's, else the client's.
    pub retries: Option<u32>,
    /// Further headers.
    pub headers: HeaderMap,
    /// The call has the token's protection: the caller looks for an earlier try before a resend.
    pub idempotency: Option<Idempotency>,
}

impl CallOptions {
    /// As usual.
    pub fn new() -> Self {
        Self::default()
    }
    /// With a deadline.
    pub fn timeout(mut self, timeout: impl Into<Timeout>) -> Self {
        self.timeout = timeout.into();
        self
    }
    /// With this many tries after the first.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = Some(retries);
        self
    }
    /// With one more header.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

/// One request on its way through a [`Transport`].
#[derive(Debug)]
pub struct Outgoing {
    /// The request with its absolute URI and all headers.
    pub request: http::Request<WireBody>,
    /// The operation's id, for logs and errors.
    pub operation: &'static str,
    /// Whether it may be sent twice.
    pub idempotency: Idempotency,
    /// The form of the reply; a whole one is read under the deadline.
    pub reply: ReplyShape,
    /// The deadline over all tries.
    pub timeout: Option<Duration>,
    /// When to send again.
    pub retry: RetryPolicy,
    /// The most bytes a whole reply may have.
    pub reply_limit: usize,
}

impl Outgoing {
    /// The same request once more, when its body is in hand.
    pub fn try_clone(&self) -> Option<Self> {
        let mut request = http::Request::new(self.request.body().try_clone()?);
        *request.method_mut() = self.request.method().clone();
        *request.uri_mut() = self.request.uri().clone();
        *request.headers_mut() = self.request.headers().clone();
        *request.extensions_mut() = self.request.extensions().clone();
        Some(Self {
            request,
            operation: self.operation,
            idempotency: self.idempotency,
            reply: self.reply,
            timeout: self.timeout,
            retry: self.retry.clone(),
            reply_limit: self.reply_limit,
        })
    }
}

/// What carries requests. `boxrig-transport` has the usual one; tests and embedding servers bring
/// their own.
///
/// `send` gives the response headers, after retries, under the deadline. For a reply of shape
/// [`Whole`](ReplyShape::Whole) the body has been read too. Redirects are not errors here; whether they
/// are followed is the transport's setting. For a socket or upgrade the response is the `101` with an
/// [`UpgradeSlot`](crate::UpgradeSlot), or whatever the server answered instead.
pub trait Transport: Send + Sync + fmt::Debug + 'static {
    /// Sends a request.
    fn send(&self, out: Outgoing) -> BoxFuture<'_, Result<Response<WireBody>>>;
}

/// How a platform's credentials get on a request.
pub trait Authorize: Send + Sync + fmt::Debug + 'static {
    /// The headers to add. Values must be marked sensitive.
    fn headers(&self) -> BoxFuture<'_, Result<HeaderMap>>;
    /// Called after a 401, once a call: whether fresh credentials were found and the request is worth
    /// sending again.
    fn refresh(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async { Ok(false) })
    }
}

/// No credentials.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAuth;

impl Authorize for NoAuth {
    fn headers(&self) -> BoxFuture<'_, Result<HeaderMap>> {
        Box::pin(async { Ok(HeaderMap::new()) })
    }
}

/// Where a platform is: scheme, authority and a path prefix.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseUrl {
    origin: String,
    prefix: String,
}

impl BaseUrl {
    /// Reads `http://host[:port][/prefix]` or `https://…`.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for anything else, with what is wrong; credentials in a URL are refused, so that they do
    /// not end in logs.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            Error::new(Kind::Invalid, format!("not a base URL: {why}"))
                .with_hint("use http://HOST[:PORT] or https://HOST[:PORT]")
        };
        let uri: Uri = text
            .trim()
            .parse()
            .map_err(|_| invalid("it cannot be parsed"))?;
        let scheme = uri
            .scheme_str()
            .ok_or_else(|| invalid("it has no scheme"))?;
        if scheme != "http" && scheme != "https" {
            return Err(invalid("the scheme is neither http nor https"));
        }
        let authority = uri.authority().ok_or_else(|| invalid("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(invalid("it has credentials in it"));
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(invalid("it has no host"));
        }
        if uri.query().is_some() {
            return Err(invalid("it has a query"));
        }
        Ok(Self {
            origin: format!("{scheme}://{authority}"),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// `scheme://authority`.
    pub fn origin(&self) -> &str {
        &self.origin
    }
    /// The path before every operation's path, without a slash at its end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
    /// Whether it is TLS.
    pub fn is_https(&self) -> bool {
        self.origin.starts_with("https:")
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.prefix)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Sends endpoints of a platform: base URL, credentials, defaults. Cheap to clone, shared by tasks.
#[derive(Clone, Debug)]
pub struct Caller {
    transport: Arc<dyn Transport>,
    base: BaseUrl,
    auth: Arc<dyn Authorize>,
    headers: HeaderMap,
    timeout: Option<Duration>,
    retry: RetryPolicy,
    reply_limit: usize,
}

impl Caller {
    /// A caller for `base` with no credentials, 60 s and the default retries.
    pub fn new(transport: Arc<dyn Transport>, base: BaseUrl) -> Self {
        Self {
            transport,
            base,
            auth: Arc::new(NoAuth),
            headers: HeaderMap::new(),
            timeout: Some(Duration::from_secs(60)),
            retry: RetryPolicy::default(),
            reply_limit: 256 * 1024 * 1024,
        }
    }
    /// With credentials.
    pub fn with_auth(mut self, auth: Arc<dyn Authorize>) -> Self {
        self.auth = auth;
        self
    }
    /// With headers on every request; explicit ones of a call win.
    pub fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers.extend(headers);
        self
    }
    /// With a default deadline; `None`: no limit.
    pub fn with_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }
    /// With this retry policy.
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }
    /// With another limit for replies that are read whole, in bytes (256 MiB by default).
    pub fn with_reply_limit(mut self, bytes: usize) -> Self {
        self.reply_limit = bytes;
        self
    }
    /// Where it sends to.
    pub fn base(&self) -> &BaseUrl {
        &self.base
    }
    /// The transport underneath, for requests to other hosts (signed URLs).
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }
    /// The default deadline.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }
    /// The most bytes of a reply that is read whole.
    pub fn reply_limit(&self) -> usize {
        self.reply_limit
    }
    /// The retry policy in force.
    pub fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    /// Calls an operation.
    ///
    /// # Errors
    ///
    /// The platform's error by meaning, or that of the way to it; see [`Kind`].
    pub async fn call<E: Endpoint>(
        &self,
        request: Request<E>,
        options: &CallOptions,
    ) -> Result<E::Reply> {
        let cx = Decoding {
            meta: E::META,
            decode_error: <E::Protocol as Protocol>::decode_error,
            limit: self.reply_limit,
        };
        let mut request = request.encode(self.base.prefix())?;
        if let Some(make) = E::Reply::reader() {
            request.extensions_mut().insert(ReadReply::new(make, cx));
        }
        let response = self.send(request, E::META, options).await?;
        E::Reply::decode(response, cx)
            .await
            .map_err(|e| match e.operation() {
                Some(_) => e,
                None => e.with_operation(E::META.id),
            })
    }

    /// Sends the request of an operation whose types are forgotten, and gives status, headers and body unchecked.
    /// The request is made by [`Request::encode`] with the prefix of [`base`](Self::base): its target is a path.
    ///
    /// # Errors
    ///
    /// Only those of the way to the server; an error status is not one.
    pub async fn send(
        &self,
        request: http::Request<WireBody>,
        meta: &'static Meta,
        options: &CallOptions,
    ) -> Result<Response<WireBody>> {
        let (mut parts, body) = request.into_parts();
        let target = format!("{}{}", self.base.origin(), parts.uri);
        parts.uri = target.parse().map_err(|e| {
            Error::new(Kind::Invalid, format!("the target is no URI: {e}")).with_operation(meta.id)
        })?;
        for headers in [&self.headers, &options.headers] {
            for (name, value) in headers {
                if !parts.headers.contains_key(name) || std::ptr::eq(headers, &options.headers) {
                    parts.headers.insert(name, value.clone());
                }
            }
        }
        if meta.reply == ReplyShape::Whole && !parts.headers.contains_key(ACCEPT) {
            parts
                .headers
                .insert(ACCEPT, HeaderValue::from_static("application/json"));
        }
        let mut retry = self.retry.clone();
        retry.max_retries = options
            .retries
            .or(meta.max_retries)
            .unwrap_or(retry.max_retries);
        let out = Outgoing {
            request: http::Request::from_parts(parts, body),
            operation: meta.id,
            idempotency: options.idempotency.unwrap_or(meta.idempotency),
            reply: meta.reply,
            timeout: match options.timeout {
                Timeout::Default => self.timeout,
                Timeout::Never => None,
                Timeout::After(d) => Some(d),
            },
            retry,
            reply_limit: self.reply_limit,
        };
        let again = out.try_clone();
        let response = self.authorized(out).await?;
        if response.status() == http::StatusCode::UNAUTHORIZED
            && let Some(out) = again
            && self.auth.refresh().await?
        {
            // A 401 says that nothing was done.
            return self.authorized(out).await;
        }
        Ok(response)
    }

    async fn authorized(&self, mut out: Outgoing) -> Result<Response<WireBody>> {
        let operation = out.operation;
        for (name, value) in &self.auth.headers().await? {
            out.request.headers_mut().insert(name, value.clone());
        }
        self.transport
            .send(out)
            .await
            .map_err(|e| match e.operation() {
                Some(_) => e,
                None => e.with_operation(operation),
            })
    }

    /// Sends anything: the way out for what the typed operations do not cover. The status is
    /// checked; the body is read whole.
    ///
    /// # Errors
    ///
    /// The platform's error, read as `P` writes errors.
    pub async fn raw<P: Protocol>(&self, request: RawRequest) -> Result<Response<Bytes>> {
        let cx = Decoding {
            meta: if request.is_safe() { &RAW_SAFE } else { &RAW },
            decode_error: P::decode_error as DecodeError,
            limit: self.reply_limit,
        };
        let (request, options) = request.build(self.base.prefix())?;
        let response = self.send(request, cx.meta, &options).await?;
        let (parts, body) = cx.success(response).await?.into_parts();
        Ok(Response::from_parts(parts, cx.bytes(body).await?))
    }

    /// Sends anything and gives status, headers and the body as a stream, unchecked.
    ///
    /// # Errors
    ///
    /// Only those of the way to the server; an error status is not one.
    pub async fn raw_stream(&self, request: RawRequest) -> Result<Response<WireBody>> {
        let meta = if request.is_safe() {
            &RAW_STREAM_SAFE
        } else {
            &RAW_STREAM
        };
        let (request, options) = request.build(self.base.prefix())?;
        self.send(request, meta, &options).await
    }
}

const fn raw_meta(idempotency: Idempotency, reply: ReplyShape) -> Meta {
    Meta {
        platform: "any",
        id: "raw",
        method: &Method::GET,
        path: PathTemplate::new("/{path*}"),
        doc: "A request of the caller's own making.",
        idempotency,
        max_retries: None,
        reply,
    }
}
static RAW: Meta = raw_meta(Idempotency::Never, ReplyShape::Whole);
static RAW_SAFE: Meta = raw_meta(Idempotency::Safe, ReplyShape::Whole);
static RAW_STREAM: Meta = raw_meta(Idempotency::Never, ReplyShape::Stream);
static RAW_STREAM_SAFE: Meta = raw_meta(Idempotency::Safe, ReplyShape::Stream);

/// The body of a raw request.
#[derive(Debug, Default)]
pub enum RawBody {
    /// None.
    #[default]
    Empty,
    /// A JSON document.
    Json(serde_json::Value),
    /// A form.
    Form(Vec<(String, String)>),
    /// Bytes in hand or a stream, with the content type set in the headers.
    Bytes(WireBody),
}

/// A request of the caller's own making, for [`Caller::raw`] and [`Caller::raw_stream`].
#[derive(Debug)]
pub struct RawRequest {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    body: RawBody,
    options: CallOptions,
}

impl RawRequest {
    /// `path` starts with `/` and may carry a query; it is sent as it is, on the caller's host.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            body: RawBody::Empty,
            options: CallOptions::default(),
        }
    }
    /// Adds a query value.
    pub fn query(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.query.push((name.into(), value.into()));
        self
    }
    /// Sets the body.
    pub fn body(mut self, body: RawBody) -> Self {
        self.body = body;
        self
    }
    /// Sets timeout, retries and headers.
    pub fn options(mut self, options: CallOptions) -> Self {
        self.options = options;
        self
    }

    fn is_safe(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }

    fn build(self, prefix: &str) -> Result<(http::Request<WireBody>, CallOptions)> {
        if !self.path.starts_with('/') || self.path.starts_with("//") {
            return Err(
                Error::new(Kind::Invalid, "a raw path starts with one '/'").with_operation("raw")
            );
        }
        let mut target = format!("{prefix}{}", self.path);
        if !self.query.is_empty() {
            target.push(if target.contains('?') { '&' } else { '?' });
            target.push_str(&crate::params::encode_pairs(&self.query));
        }
        let mut builder = http::Request::builder().method(self.method).uri(target);
        let body = match self.body {
            RawBody::Empty => WireBody::empty(),
            RawBody::Json(v) => {
                builder = builder.header(CONTENT_TYPE, "application/json");
                WireBody::full(v.to_string())
            }
            RawBody::Form(pairs) => {
                builder = builder.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
                WireBody::full(crate::params::encode_pairs(&pairs))
            }
            RawBody::Bytes(body) => body,
        };
        let request = builder.body(body).map_err(|e| {
            Error::new(Kind::Invalid, format!("the request cannot be built: {e}"))
                .with_operation("raw")
        })?;
        Ok((request, self.options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls() {
        let u = BaseUrl::parse("https://h:1/a/").unwrap();
        assert_eq!(
            (u.origin(), u.prefix(), u.is_https()),
            ("https://h:1", "/a", true)
        );
        for bad in [
            "",
            "h:1",
            "ftp://h",
            "http://u:p@h",
            "http://",
            "http://h?x",
            "/x",
        ] {
            let e = BaseUrl::parse(bad).unwrap_err();
            assert_eq!(e.kind(), Kind::Invalid, "{bad}");
            assert!(!e.to_string().contains("u:p"), "{e}");
        }
    }

    #[test]
    fn a_raw_path_stays_on_the_host() {
        for bad in ["x", "//evil/x", "@evil"] {
            assert!(
                RawRequest::new(Method::GET, bad).build("").is_err(),
                "{bad}"
            );
        }
    }
}
