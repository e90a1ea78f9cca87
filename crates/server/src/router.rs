//! Mounts handlers on the operations a platform describes, and answers requests with them.
//!
//! A [`Router`] belongs to one protocol. What is described and not mounted, or mounted and not described, is found
//! by [`Router::check`], which every protocol's tests call with its catalogue.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use boxrig_wire::{
    ApiError, BoxFuture, Catalog, Endpoint, Kind, Meta, Protocol, ReplyCodec, ReplyShape, Request,
    WireBody, ws,
};
use http::header::{ALLOW, CONNECTION, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Response, StatusCode, Uri};

/// A request body that is held in memory may have this many bytes unless [`Router::body_limit`] says otherwise.
pub const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// A TCP client.
    Tcp(SocketAddr),
    /// A process on the unix socket: the server's own user or root, as the kernel says.
    Unix {
        /// Its user id.
        uid: u32,
        /// Its process id, where the system tells.
        pid: Option<i32>,
    },
    /// A process of an instance, through that instance's own listener.
    Guest(String),
}

/// What is known of a request besides what its operation describes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RequestInfo {
    /// The other end.
    pub peer: Peer,
    /// Whether it came over TLS.
    pub tls: bool,
    /// SHA-256 of the client's certificate (DER) in hex, when it presented one.
    pub client_cert: Option<String>,
    /// The method.
    pub method: Method,
    /// The target as sent.
    pub uri: Uri,
    /// All headers as sent.
    pub headers: HeaderMap,
}

impl RequestInfo {
    /// What is known of a request on a plain connection.
    pub fn new(peer: Peer, parts: &http::request::Parts) -> Self {
        Self {
            peer,
            tls: false,
            client_cert: None,
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
        }
    }

    /// The text of a header; `None` when it is absent or not ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What a handler gets besides the typed request: the protocol's state, and the facts of this request.
/// Dereferences to the state.
#[derive(Clone, Debug)]
pub struct Call<S> {
    /// The protocol's state.
    pub state: S,
    /// The facts of this request.
    pub info: Arc<RequestInfo>,
    extra: Arc<Mutex<HeaderMap>>,
}

impl<S> Call<S> {
    /// A call on `state`.
    pub fn new(state: S, info: RequestInfo) -> Self {
        Self {
            state,
            info: Arc::new(info),
            extra: Arc::default(),
        }
    }

    /// Adds a header to the answer, whether it becomes a reply or an error.
    pub fn answer_header(&self, name: HeaderName, value: HeaderValue) {
        let mut extra = self.extra.lock().unwrap_or_else(|e| e.into_inner());
        extra.insert(name, value);
    }
}

impl<S> std::ops::Deref for Call<S> {
    type Target = S;
    fn deref(&self) -> &S {
        &self.state
    }
}

/// Stands around every matched request: fault scripts, the record of exercised operations.
pub trait Around: fmt::Debug + Send + Sync + 'static {
    /// Answers instead of, before, or after `next`.
    fn around<'a>(
        &'a self,
        info: &'a RequestInfo,
        meta: &'static Meta,
        next: BoxFuture<'a, Response<WireBody>>,
    ) -> BoxFuture<'a, Response<WireBody>>;
}

/// Decides before a body is read whether a request may go on; the operation is `None` for an unknown path.
pub type Guard<S> =
    Box<dyn Fn(&Call<S>, Option<&'static Meta>) -> Result<(), ApiError> + Send + Sync>;

type Handler<S> = Box<
    dyn Fn(
            Call<S>,
            Vec<String>,
            http::request::Parts,
            WireBody,
            usize,
        ) -> BoxFuture<'static, Response<WireBody>>
        + Send
        + Sync,
>;

struct Route<S> {
    meta: &'static Meta,
    /// `None`: described, and answered with a 501 that names it.
    handler: Option<Handler<S>>,
}

/// The operations of protocol `P` over a state `S` (cheap to clone: an `Arc`).
pub struct Router<P, S> {
    /// Ordered so that the first match is the most specific one.
    routes: Vec<Route<S>>,
    guard: Option<Guard<S>>,
    around: Vec<Arc<dyn Around>>,
    body_limit: usize,
    protocol: std::marker::PhantomData<fn() -> P>,
}

impl<P, S> Default for Router<P, S>
where
    P: Protocol,
    S: Clone + Send + Sync + 'static,
{
    fn default() -> Self {
        Self::new()
    }
}

impl<P, S> Router<P, S>
where
    P: Protocol,
    S: Clone + Send + Sync + 'static,
{
    /// A router without routes.
    pub fn new() -> Self {
        Self {
            routes: Vec::new(),
            guard: None,
            around: Vec::new(),
            body_limit: BODY_LIMIT,
            protocol: std::marker::PhantomData,
        }
    }

    /// With the most bytes that a body held in memory may have; streams are not concerned.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// With a check (credentials) that runs before a body is read.
    pub fn guard<F>(mut self, guard: F) -> Self
    where
        F: Fn(&Call<S>, Option<&'static Meta>) -> Result<(), ApiError> + Send + Sync + 'static,
    {
        self.guard = Some(Box::new(guard));
        self
    }

    /// With something around every matched request; the last one added is outermost.
    pub fn around(mut self, around: Arc<dyn Around>) -> Self {
        self.around.push(around);
        self
    }

    /// Mounts the handler of an operation.
    pub fn mount<E, F, Fut>(self, _: E, handler: F) -> Self
    where
        E: Endpoint<Protocol = P>,
        F: Fn(Call<S>, Request<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<E::Reply, ApiError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let run: Handler<S> = Box::new(move |call, captures, parts, body, limit| {
            let handler = handler.clone();
            Box::pin(async move {
                let answer = async {
                    // A socket's handshake is checked first: a handler may use up a one-time token.
                    let handshake = match E::Reply::SHAPE {
                        ReplyShape::Socket => {
                            Some(ws::server_handshake(&parts.headers).map_err(ApiError::invalid)?)
                        }
                        _ => None,
                    };
                    let request = Request::<E>::decode(captures, &parts, body, limit).await?;
                    let reply = handler(call.clone(), request).await?;
                    let mut response = reply.encode().map_err(|e| {
                        ApiError::new(Kind::Failed, format!("the reply cannot be written: {e}"))
                    })?;
                    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                        match handshake {
                            Some(headers) => response.headers_mut().extend(headers),
                            None => {
                                let upgrade = HeaderValue::from_static("Upgrade");
                                response.headers_mut().insert(CONNECTION, upgrade);
                            }
                        }
                    }
                    Ok(response)
                };
                answer.await.unwrap_or_else(|e| error::<P>(&e))
            })
        });
        self.add(E::META, Some(run))
    }

    /// Mounts a 501 that names the operation.
    pub fn not_implemented(self, meta: &'static Meta) -> Self {
        self.add(meta, None)
    }

    fn add(mut self, meta: &'static Meta, handler: Option<Handler<S>>) -> Self {
        let key = meta.path.specificity();
        let at = self
            .routes
            .partition_point(|r| r.meta.path.specificity() >= key);
        self.routes.insert(at, Route { meta, handler });
        self
    }

    /// Answers a request. Errors look as the protocol's do.
    pub async fn route(
        &self,
        state: S,
        info: RequestInfo,
        request: http::Request<WireBody>,
    ) -> Response<WireBody> {
        let (parts, body) = request.into_parts();
        let call = Call::new(state, info);
        let found = self.find(&parts.method, parts.uri.path());
        let meta = found.as_ref().ok().map(|(route, _)| route.meta);
        if let Some(guard) = &self.guard
            && let Err(e) = guard(&call, meta)
        {
            return finish(error::<P>(&e), &call.extra);
        }
        let (route, captures) = match found {
            Ok(found) => found,
            Err(missed) => return missed.response::<P>(&parts),
        };
        let inner: BoxFuture<'_, Response<WireBody>> = match &route.handler {
            Some(handler) => handler(call.clone(), captures, parts, body, self.body_limit),
            None => Box::pin(async { error::<P>(&ApiError::not_implemented(route.meta.id)) }),
        };
        let mut next = inner;
        for around in &self.around {
            next = around.around(&call.info, route.meta, next);
        }
        let started = std::time::Instant::now();
        let response = finish(next.await, &call.extra);
        // The operation, not the path: paths and queries of presigned objects are secrets.
        tracing::debug!(
            platform = route.meta.platform,
            operation = route.meta.id,
            status = response.status().as_u16(),
            elapsed = ?started.elapsed(),
        );
        response
    }

    /// The operation a request is, whether or not it is implemented.
    pub fn operation(&self, method: &Method, path: &str) -> Option<&'static Meta> {
        self.find(method, path).ok().map(|(route, _)| route.meta)
    }

    fn find(&self, method: &Method, path: &str) -> Result<(&Route<S>, Vec<String>), Missed> {
        let mut allowed = Vec::new();
        let mut get = None;
        for route in &self.routes {
            let Some(captures) = route.meta.path.matches(path) else {
                continue;
            };
            if route.meta.method == method {
                return Ok((route, captures));
            }
            if route.meta.method == Method::GET && get.is_none() {
                get = Some((route, captures));
            }
            allowed.push(route.meta.method);
        }
        // HEAD is GET without the content (RFC 9110, 9.3.2), which hyper leaves out.
        if let (&Method::HEAD, Some(found)) = (method, get)
            && found.0.meta.reply == ReplyShape::Whole
        {
            return Ok(found);
        }
        Err(Missed { allowed })
    }

    /// Compares what is mounted with what is described. `allowed_501` is the text of the checked-in list: one
    /// operation id a line, `#` starts a comment.
    ///
    /// # Errors
    ///
    /// Every difference, by operation: described and not mounted, mounted and not described, mounted twice,
    /// answered with 501 and not in the list, in the list and not (or no longer) answered with 501.
    pub fn check(&self, catalog: Catalog, allowed_501: &str) -> Result<(), RouteErrors> {
        let described: BTreeSet<&str> = catalog.iter().map(|m| m.id).collect();
        let mut mounted: BTreeMap<&str, usize> = BTreeMap::new();
        for route in &self.routes {
            *mounted.entry(route.meta.id).or_default() += 1;
        }
        let allowed: BTreeSet<&str> = allowed_501
            .lines()
            .map(|l| l.split_once('#').map_or(l, |(before, _)| before).trim())
            .filter(|l| !l.is_empty())
            .collect();
        let refused: BTreeSet<&str> = self
            .routes
            .iter()
            .filter(|r| r.handler.is_none())
            .map(|r| r.meta.id)
            .collect();
        let mut errors = Vec::new();
        for id in &described {
            if !mounted.contains_key(id) {
                errors.push(format!("{id}: described and not mounted"));
            }
        }
        for (id, count) in &mounted {
            if !described.contains(id) {
                errors.push(format!("{id}: mounted and not described"));
            }
            if *count > 1 {
                errors.push(format!("{id}: mounted {count} times"));
            }
        }
        for id in refused.difference(&allowed) {
            errors.push(format!(
                "{id}: answers 501 and is not in the list of allowed ones"
            ));
        }
        for id in allowed.difference(&refused) {
            errors.push(format!(
                "{id}: in the list of allowed 501s and not answered with one; strike it out"
            ));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(RouteErrors(errors))
        }
    }

    /// The ids of the operations that are served, without those that answer 501.
    pub fn served(&self) -> impl Iterator<Item = &'static Meta> + '_ {
        self.routes
            .iter()
            .filter(|r| r.handler.is_some())
            .map(|r| r.meta)
    }
}

impl<P, S> fmt::Debug for Router<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.routes.iter().map(|r| r.meta.id))
            .finish()
    }
}

/// What is wrong between a catalogue and a router.
#[derive(Debug, PartialEq, Eq)]
pub struct RouteErrors(pub Vec<String>);

impl fmt::Display for RouteErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for RouteErrors {}

/// No route for a request: these methods are there for its path.
struct Missed {
    allowed: Vec<&'static Method>,
}

impl Missed {
    fn response<P: Protocol>(self, parts: &http::request::Parts) -> Response<WireBody> {
        if self.allowed.is_empty() {
            return error::<P>(&ApiError::not_found("no such path"));
        }
        let names: BTreeSet<&str> = self.allowed.iter().map(|m| m.as_str()).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        let words = format!("this path takes {names}, not {}", parts.method);
        let e = ApiError::invalid(words).with_status(StatusCode::METHOD_NOT_ALLOWED);
        let mut response = error::<P>(&e);
        if let Ok(value) = HeaderValue::from_str(&names) {
            response.headers_mut().insert(ALLOW, value);
        }
        response
    }
}

/// An error as protocol `P` writes it, with `Retry-After` when it says one.
pub fn error<P: Protocol>(e: &ApiError) -> Response<WireBody> {
    let mut response = P::encode_error(e);
    if let Some(seconds) = e.retry_after {
        response
            .headers_mut()
            .entry(RETRY_AFTER)
            .or_insert(HeaderValue::from(seconds));
    }
    response
}

fn finish(mut response: Response<WireBody>, extra: &Mutex<HeaderMap>) -> Response<WireBody> {
    let extra = std::mem::take(&mut *extra.lock().unwrap_or_else(|e| e.into_inner()));
    response.headers_mut().extend(extra);
    response
}

#[cfg(test)]
#[allow(unreachable_pub)]
mod tests {
    use super::*;
    use boxrig_wire::{Json, JsonReply, Socket, endpoint};
    use serde_json::{Value, json};

    pub struct Demo;
    impl Protocol for Demo {
        const PLATFORM: &'static str = "demo";
        fn decode_error(e: boxrig_wire::Error, _: &HeaderMap, _: &[u8]) -> boxrig_wire::Error {
            e
        }
        fn encode_error(e: &ApiError) -> Response<WireBody> {
            let mut r = Response::new(WireBody::full(
                json!({ "error": e.message, "details": e.details }).to_string(),
            ));
            *r.status_mut() = e.http_status();
            r
        }
    }

    endpoint! {
        /// Any thing.
        pub GetAny = "getAny": Demo, GET "/v1/things/{id}" { path: (String,), reply: JsonReply<Value>, }
    }
    endpoint! {
        /// The named thing.
        pub GetSelf = "getSelf": Demo, GET "/v1/things/self" { reply: JsonReply<Value>, }
    }
    endpoint! {
        /// Makes a thing.
        pub Make = "make": Demo, POST "/v1/things" { body: Json<Value>, reply: JsonReply<Value>, }
    }
    endpoint! {
        /// A socket.
        pub Talk = "talk": Demo, GET "/v1/talk" { reply: Socket, }
    }
    const CATALOG: Catalog = &[GetAny::META, GetSelf::META, Make::META, Talk::META];

    fn router() -> Router<Demo, Arc<u32>> {
        Router::<Demo, Arc<u32>>::new()
            .mount(GetAny, |call, r| async move {
                call.answer_header(
                    HeaderName::from_static("x-boxrig-wait"),
                    HeaderValue::from_static("1"),
                );
                Ok(JsonReply::ok(
                    json!({ "id": r.path.0, "state": *call.state }),
                ))
            })
            .mount(
                GetSelf,
                |_, _| async move { Ok(JsonReply::ok(json!("self"))) },
            )
            .not_implemented(Make::META)
            .mount(Talk, |_, _| async move { Ok(Socket::serve(|_| async {})) })
    }

    async fn ask(method: Method, path: &str) -> (StatusCode, HeaderMap, Value) {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .body(WireBody::empty())
            .unwrap();
        let (parts, body) = request.into_parts();
        let info = RequestInfo::new(Peer::Guest("x".into()), &parts);
        let request = http::Request::from_parts(parts, body);
        let response = router().route(Arc::new(7), info, request).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect(1 << 20).await.unwrap();
        (
            parts.status,
            parts.headers,
            serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        )
    }

    #[tokio::test]
    async fn the_most_specific_path_wins() {
        assert_eq!(ask(Method::GET, "/v1/things/self").await.2, json!("self"));
        let (status, headers, body) = ask(Method::GET, "/v1/things/a%2Fb").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body, json!({ "id": "a/b", "state": 7 }));
        assert_eq!(headers["x-boxrig-wait"], "1");
    }

    #[tokio::test]
    async fn misses_are_told_apart() {
        assert_eq!(
            ask(Method::GET, "/v1/nothing").await.0,
            StatusCode::NOT_FOUND
        );
        assert_eq!(
            ask(Method::GET, "/v1/things/..").await.0,
            StatusCode::NOT_FOUND
        );
        let (status, headers, _) = ask(Method::DELETE, "/v1/things/x").await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(headers[ALLOW], "GET");
        let (status, _, body) = ask(Method::POST, "/v1/things").await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
        assert_eq!(body["details"]["operation"], "make");
        assert_eq!(ask(Method::HEAD, "/v1/things/self").await.0, StatusCode::OK);
        let (status, _, body) = ask(Method::GET, "/v1/talk").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(body["error"].as_str().unwrap().contains("websocket"));
    }

    #[tokio::test]
    async fn a_guard_comes_before_everything() {
        let router = router().guard(|_, meta| match meta {
            Some(m) if m.id == "getSelf" => Ok(()),
            _ => Err(ApiError::new(Kind::Unauthenticated, "who are you?")),
        });
        for (path, status) in [
            ("/v1/things/self", 200),
            ("/v1/things/x", 401),
            ("/nowhere", 401),
        ] {
            let request = http::Request::get(path).body(WireBody::empty()).unwrap();
            let (parts, body) = request.into_parts();
            let info = RequestInfo::new(Peer::Guest("x".into()), &parts);
            let request = http::Request::from_parts(parts, body);
            let r = router.route(Arc::new(7), info, request).await;
            assert_eq!(r.status().as_u16(), status, "{path}");
        }
    }

    #[test]
    fn differences_from_the_catalogue_are_found() {
        assert_eq!(router().check(CATALOG, "make # not yet"), Ok(()));
        let text = |r: Result<(), RouteErrors>| r.unwrap_err().to_string();
        assert!(text(router().check(CATALOG, "")).contains("make: answers 501 and is not in"));
        assert!(text(router().check(CATALOG, "make\ntalk")).contains("talk: in the list"));
        assert!(
            text(router().check(&CATALOG[1..], "make"))
                .contains("getAny: mounted and not described")
        );
        let short = Router::<Demo, Arc<u32>>::new();
        assert!(text(short.check(CATALOG, "")).contains("getAny: described and not mounted"));
        assert!(
            text(
                router()
                    .not_implemented(Talk::META)
                    .check(CATALOG, "make\ntalk")
            )
            .contains("talk: mounted 2 times")
        );
    }
}
