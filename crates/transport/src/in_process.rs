//! A transport without sockets, for tests, doctests and programs that carry their server with them.

use std::fmt;
use std::sync::Arc;

use boxrig_wire::{
    BoxFuture, Error, Idempotency, Kind, Outgoing, ReplyShape, Result, Transport, UpgradeSlot,
    WireBody, ws,
};
use http::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};

/// What an upgraded connection holds in each direction before its writer waits.
const PIPE: usize = 64 * 1024;

type Service = dyn Fn(Request<WireBody>) -> BoxFuture<'static, Response<WireBody>> + Send + Sync;

/// Hands requests to a function. Deadlines and limits hold as on [`Http`](crate::Http); nothing is sent
/// again, since nothing can get lost on the way.
///
/// ```
/// use boxrig_transport::InProcess;
/// use boxrig_wire::{WireBody, Transport};
///
/// let transport = InProcess::new(|request| async move {
///     http::Response::new(WireBody::full(request.uri().path().to_owned()))
/// });
/// # fn takes(_: impl Transport) {} takes(transport);
/// ```
#[derive(Clone)]
pub struct InProcess(Arc<Service>);

impl InProcess {
    /// `service` answers the requests. It gets the headers that a connection would add (`Host`, those of an
    /// upgrade); a `101` with an [`UpgradeSlot::acceptor`] is connected by a pipe.
    pub fn new<F, Fut>(service: F) -> Self
    where
        F: Fn(Request<WireBody>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response<WireBody>> + Send + 'static,
    {
        Self(Arc::new(move |request| Box::pin(service(request))))
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InProcess")
    }
}

impl Transport for InProcess {
    fn send(&self, out: Outgoing) -> BoxFuture<'_, Result<Response<WireBody>>> {
        Box::pin(async move {
            let (operation, idempotency, timeout) = (out.operation, out.idempotency, out.timeout);
            let answer = self.answer(out);
            let result = match timeout {
                None => answer.await,
                Some(limit) => tokio::time::timeout(limit, answer)
                    .await
                    .unwrap_or_else(|_| {
                        let kind = if idempotency == Idempotency::Safe {
                            Kind::Timeout
                        } else {
                            Kind::OutcomeUnknown
                        };
                        Err(Error::new(
                            kind,
                            format!("no whole answer within {limit:?}"),
                        ))
                    }),
            };
            result.map_err(|e| e.with_operation(operation))
        })
    }
}

impl InProcess {
    async fn answer(&self, out: Outgoing) -> Result<Response<WireBody>> {
        let mut request = out.request;
        let authority = request.uri().authority().map(|a| a.as_str().to_owned());
        if let Some(host) = authority.and_then(|a| HeaderValue::from_str(&a).ok()) {
            request.headers_mut().entry(HOST).or_insert(host);
        }
        // As a server reads it from a connection.
        if let Some(target) = request.uri().path_and_query().cloned() {
            *request.uri_mut() = target.into();
        }
        match out.reply {
            ReplyShape::Socket => {
                ws::client_handshake(request.headers_mut());
            }
            ReplyShape::Upgrade(token) => {
                let headers = request.headers_mut();
                headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(UPGRADE, HeaderValue::from_static(token));
            }
            ReplyShape::Whole | ReplyShape::Stream => {}
        }
        let mut response = (self.0)(request).await;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let acceptor = response
                .extensions()
                .get::<UpgradeSlot>()
                .and_then(UpgradeSlot::take_acceptor)
                .ok_or_else(|| {
                    Error::new(Kind::Protocol, "the service switched without an acceptor")
                })?;
            let (near, far) = tokio::io::duplex(PIPE);
            tokio::spawn(acceptor(Box::new(far)));
            response
                .extensions_mut()
                .insert(UpgradeSlot::connection(Box::new(near)));
            return Ok(response);
        }
        if out.reply == ReplyShape::Stream {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let bytes = body.collect(out.reply_limit).await.map_err(|e| {
            Error::new(Kind::Transport, "the reply could not be read to its end").with_source(e)
        })?;
        Ok(Response::from_parts(parts, WireBody::full(bytes)))
    }
}
