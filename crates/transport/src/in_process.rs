//! A transport without a socket, for tests and for programs that embed a server.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use boxrig_wire::{
    BoxFuture, Error, Kind, Outgoing, ReplyShape, Result, Transport, UpgradeSlot, WireBody, ws,
};
use http::{Request, Response, StatusCode};

type Service = dyn Fn(Request<WireBody>) -> BoxFuture<'static, Response<WireBody>> + Send + Sync;

/// Hands requests to a service in this process. Nothing is retried; the deadline holds.
#[derive(Clone)]
pub struct InProcess(Arc<Service>);

impl InProcess {
    /// A transport to `service`. Upgrades work through the [`UpgradeSlot`] of the answer.
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
            let mut request = out.request;
            if out.reply == ReplyShape::Socket {
                ws::client_handshake(request.headers_mut());
            }
            let call = async {
                let mut answer = (self.0)(request).await;
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    let acceptor = answer
                        .extensions()
                        .get::<UpgradeSlot>()
                        .and_then(UpgradeSlot::take_acceptor);
                    let acceptor = acceptor.ok_or_else(|| {
                        Error::new(Kind::Protocol, "the service switched without a connection")
                    })?;
                    let (ours, theirs) = tokio::io::duplex(64 * 1024);
                    tokio::spawn(acceptor(Box::new(theirs)));
                    answer
                        .extensions_mut()
                        .insert(UpgradeSlot::connection(Box::new(ours)));
                } else if out.reply == ReplyShape::Whole {
                    let (parts, body) = answer.into_parts();
                    let bytes = body.collect(out.reply_limit).await.map_err(|e| {
                        Error::new(Kind::Transport, "the reply broke off before its end")
                            .with_source(e)
                    })?;
                    answer = Response::from_parts(parts, WireBody::full(bytes));
                }
                Ok(answer)
            };
            let answer = match out.timeout {
                Some(limit) => tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
                    Err(Error::new(
                        Kind::Timeout,
                        format!("no answer within {limit:?}"),
                    ))
                }),
                None => call.await,
            };
            answer.map_err(|e| e.with_operation(out.operation))
        })
    }
}
