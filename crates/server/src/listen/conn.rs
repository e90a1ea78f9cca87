//! One connection: HTTP/1.1 or HTTP/2, and what becomes of it after an upgrade.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use boxrig_wire::{BoxFuture, Duplex, UpgradeSlot, WireBody};
use http::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::Stop;
use super::linger::Linger;
use crate::faults::DropConnection;
use crate::router::{Peer, RequestInfo};
use crate::state::lock;

/// Answers requests.
pub type Service = Arc<
    dyn Fn(RequestInfo, http::Request<WireBody>) -> BoxFuture<'static, Response<WireBody>>
        + Send
        + Sync,
>;

/// How long a connection may keep the server waiting.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Most headers of a request.
const MAX_HEADERS: usize = 128;
/// Most bytes of a request's head.
const MAX_HEAD: usize = 64 * 1024;

/// What is known of a connection before its first request.
#[derive(Clone, Debug)]
pub struct About {
    /// The other end.
    pub peer: Peer,
    /// Whether it is TLS.
    pub tls: bool,
    /// The fingerprint of the client's certificate.
    pub client_cert: Option<String>,
    /// A request's head must be complete after this long, a TLS handshake too, and a connection without a request is
    /// closed after it.
    pub patience: Duration,
}

impl About {
    /// A plain connection.
    pub fn plain(peer: Peer) -> Self {
        Self {
            peer,
            tls: false,
            client_cert: None,
            patience: PATIENCE,
        }
    }
}

/// Serves a connection whose HTTP version is told by its first bytes, until it or the server ends.
pub async fn serve_connection<I>(io: I, about: About, service: Service, stop: Stop)
where
    I: Duplex + 'static,
{
    let serve = async {
        match Started::read(Linger::new(io), about.patience).await {
            Some(started) if started.bytes.starts_with(b"PRI") => {
                serve_h2(started, about, service, &stop).await;
            }
            Some(started) => serve_h1(started, about, service, &stop).await,
            None => {}
        }
    };
    tokio::select! {
        () = serve => {}
        () = stop.ended() => {}
    }
}

pub(super) async fn serve_h1<I: Duplex + 'static>(
    io: I,
    about: About,
    service: Service,
    stop: &Stop,
) {
    let upgraded = Upgraded::default();
    let of_answer = upgraded.clone();
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(about.patience)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD)
        .serve_connection(
            TokioIo::new(io),
            service_fn(move |request| {
                answer(request, about.clone(), service.clone(), of_answer.clone())
            }),
        )
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.finishing() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "connection");
    }
    // What a connection becomes after an upgrade is still this connection: counted, and ended with the server.
    let then = lock(&upgraded).take();
    if let Some(then) = then {
        tokio::select! {
            () = then => {}
            () = stop.finishing() => {}
        }
    }
}

pub(super) async fn serve_h2<I: Duplex + 'static>(
    io: I,
    about: About,
    service: Service,
    stop: &Stop,
) {
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_header_list_size(MAX_HEAD as u32)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .max_frame_size(64 * 1024)
        .keep_alive_interval(about.patience)
        .serve_connection(
            TokioIo::new(io),
            service_fn(move |request| {
                // HTTP/2 has no upgrades: the router refuses them for want of their headers.
                answer(request, about.clone(), service.clone(), Upgraded::default())
            }),
        );
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.finishing() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "connection");
    }
}

/// What a connection becomes after an upgrade.
type Upgraded = Arc<Mutex<Option<BoxFuture<'static, ()>>>>;

/// A fault script drops the connection.
#[derive(Debug)]
struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("dropped by a fault script")
    }
}
impl std::error::Error for Dropped {}

async fn answer(
    mut request: http::Request<Incoming>,
    about: About,
    service: Service,
    upgraded: Upgraded,
) -> Result<Response<WireBody>, Dropped> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let mut info = RequestInfo::new(about.peer, &parts);
    info.tls = about.tls;
    info.client_cert = about.client_cert;
    let request = http::Request::from_parts(parts, WireBody::stream(body));
    let mut response = service(info, request).await;
    if response.extensions().get::<DropConnection>().is_some() {
        return Err(Dropped);
    }
    if let Some(slot) = response.extensions_mut().remove::<UpgradeSlot>()
        && let Some(accept) = slot.take_acceptor()
    {
        *lock(&upgraded) = Some(Box::pin(async move {
            match upgrade.await {
                Ok(io) => accept(Box::new(TokioIo::new(io))).await,
                Err(e) => tracing::debug!(error = %e, "upgrade"),
            }
        }));
    }
    Ok(response)
}

/// A connection whose first bytes have been read to see what it is.
pub(super) struct Started<I> {
    pub(super) bytes: Vec<u8>,
    given: usize,
    io: I,
}

impl<I: AsyncRead + Unpin> Started<I> {
    /// Reads until the first bytes tell what it is; `None` when it ends or stays silent.
    pub(super) async fn read(mut io: I, patience: Duration) -> Option<Self> {
        let mut bytes = Vec::new();
        let read = async {
            // `PRI ` starts HTTP/2, and its first letter other methods too.
            while bytes.is_empty() || (bytes.len() < 3 && b"PRI".starts_with(&bytes)) {
                let mut buffer = [0; 3];
                let rest = &mut buffer[..3 - bytes.len()];
                match io.read(rest).await {
                    Ok(0) | Err(_) => return false,
                    Ok(n) => bytes.extend_from_slice(&rest[..n]),
                }
            }
            true
        };
        let started = tokio::time::timeout(patience, read).await.unwrap_or(false);
        started.then_some(Self {
            bytes,
            given: 0,
            io,
        })
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Started<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given < self.bytes.len() {
            let rest = &self.bytes[self.given..];
            let n = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..n]);
            self.given += n;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Started<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// A service from a plain function, for tests and guest listeners.
pub fn service<F, Fut>(f: F) -> Service
where
    F: Fn(RequestInfo, http::Request<WireBody>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Response<WireBody>> + Send + 'static,
{
    Arc::new(move |info, request| Box::pin(f(info, request)))
}
