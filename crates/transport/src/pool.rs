//! Keeps connections for the next request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use boxrig_wire::{Error, Kind};
use http::uri::Authority;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::body::Outbound;
use crate::dial::{DialError, Dialer};
use crate::meter::{Metered, Written};

/// Where connections lead, as far as they can stand in for each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) https: bool,
    pub(crate) authority: Authority,
    /// HTTP/1.1 is needed, for an upgrade.
    pub(crate) http1: bool,
}

/// How many connections, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) idle_per_host: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) in_flight_per_host: usize,
    pub(crate) prior_knowledge: bool,
}

/// The connections of a client.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) dialer: Dialer,
    limits: Limits,
    hosts: Mutex<Hosts>,
}

#[derive(Debug, Default)]
struct Hosts {
    map: HashMap<Key, Host>,
    sweeping: bool,
}

#[derive(Debug)]
struct Host {
    /// Last in, first out: the others grow old and are closed.
    idle: Vec<Idle>,
    h2: Option<(http2::SendRequest<Outbound>, Instant)>,
    /// Held while the first connection is made, until it is known whether one is enough.
    first: Arc<tokio::sync::Mutex<()>>,
    /// The first connection has been made or has failed: the others need not wait for it.
    tried: bool,
    permits: Arc<Semaphore>,
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<Outbound>,
    written: Written,
    since: Instant,
}

enum Sender {
    Http1(http1::SendRequest<Outbound>, Written),
    Http2(http2::SendRequest<Outbound>),
}

/// A connection lent to one exchange.
pub(crate) struct Lease {
    sender: Sender,
    pool: Weak<Pool>,
    key: Key,
    /// It was used before: it may have been closed in the meantime.
    pub(crate) reused: bool,
}

impl Pool {
    pub(crate) fn new(dialer: Dialer, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            dialer,
            limits,
            hosts: Mutex::default(),
        })
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_host<T>(&self, key: &Key, f: impl FnOnce(&mut Host) -> T) -> T {
        let mut hosts = self.hosts();
        if let Some(host) = hosts.map.get_mut(key) {
            return f(host);
        }
        f(hosts.map.entry(key.clone()).or_insert_with(|| Host {
            idle: Vec::new(),
            h2: None,
            first: Arc::default(),
            tried: false,
            permits: Arc::new(Semaphore::new(self.limits.in_flight_per_host)),
        }))
    }

    /// Waits until the host has room for one more short exchange.
    pub(crate) async fn permit(&self, key: &Key) -> Option<OwnedSemaphorePermit> {
        let permits = self.with_host(key, |h| h.permits.clone());
        // The semaphore is never closed.
        permits.acquire_owned().await.ok()
    }

    /// A connection: an idle one, a shared one, or a new one.
    pub(crate) async fn lease(self: &Arc<Self>, key: &Key) -> Result<Lease, DialError> {
        if let Some(lease) = self.reuse(key).await {
            return Ok(lease);
        }
        // Where one connection may be enough for all, the first one is waited for.
        let may_share = !key.http1 && (key.https || self.limits.prior_knowledge);
        if !may_share || self.with_host(key, |h| h.tried) {
            return self.connect(key).await;
        }
        let first = self.with_host(key, |h| h.first.clone());
        let guard = first.lock_owned().await;
        if let Some(lease) = self.reuse(key).await {
            return Ok(lease);
        }
        if self.with_host(key, |h| h.tried) {
            // Not one after the other, each with its own timeout.
            drop(guard);
            return self.connect(key).await;
        }
        let result = self.connect(key).await;
        self.with_host(key, |h| h.tried = true);
        result
    }

    fn lent(self: &Arc<Self>, key: &Key, sender: Sender, reused: bool) -> Lease {
        Lease {
            sender,
            pool: Arc::downgrade(self),
            key: key.clone(),
            reused,
        }
    }

    async fn reuse(self: &Arc<Self>, key: &Key) -> Option<Lease> {
        loop {
            let sender = self.with_host(key, |host| {
                if let Some((sender, used)) = &mut host.h2 {
                    if !sender.is_closed() {
                        *used = Instant::now();
                        return Some(Sender::Http2(sender.clone()));
                    }
                    host.h2 = None;
                    host.tried = false;
                }
                let idle = host.idle.pop()?;
                Some(Sender::Http1(idle.sender, idle.written))
            })?;
            let mut lease = self.lent(key, sender, true);
            if lease.is_usable().await {
                return Some(lease);
            }
        }
    }

    async fn connect(self: &Arc<Self>, key: &Key) -> Result<Lease, DialError> {
        let dialed = self
            .dialer
            .dial(key.https, &key.authority, key.http1)
            .await?;
        let (io, written) = Metered::new(dialed.io);
        let io = TokioIo::new(io);
        let refused = |e: hyper::Error| DialError {
            error: Error::new(
                Kind::Transport,
                format!("{} does not speak HTTP", key.authority),
            )
            .with_source(e),
            permanent: false,
        };
        if dialed.h2 || (self.limits.prior_knowledge && !key.https && !key.http1) {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                // A window of 64 KiB would hold a fast stream up on every round trip.
                .initial_stream_window_size(4 * 1024 * 1024)
                .initial_connection_window_size(16 * 1024 * 1024)
                .max_frame_size(64 * 1024)
                .handshake(io)
                .await
                .map_err(refused)?;
            tokio::spawn(async move {
                if let Err(e) = connection.await {
                    tracing::trace!(error = %e, "an HTTP/2 connection ended");
                }
            });
            self.with_host(key, |h| h.h2 = Some((sender.clone(), Instant::now())));
            self.sweep_later();
            return Ok(self.lent(key, Sender::Http2(sender), false));
        }
        let (sender, connection) = http1::Builder::new().handshake(io).await.map_err(refused)?;
        let connection = connection.with_upgrades();
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::trace!(error = %e, "an HTTP/1 connection ended");
            }
        });
        Ok(self.lent(key, Sender::Http1(sender, written), false))
    }

    fn keep(self: &Arc<Self>, key: &Key, idle: Idle) {
        let limit = self.limits.idle_per_host;
        let old = self.with_host(key, |host| {
            host.idle.push(idle);
            (host.idle.len() > limit).then(|| host.idle.remove(0))
        });
        // Closed outside the lock.
        drop(old);
        self.sweep_later();
    }

    /// Starts the task that closes old connections, unless it runs. It ends with the last connection.
    fn sweep_later(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if std::mem::replace(&mut self.hosts().sweeping, true) {
            return;
        }
        let mut sweeper = Sweeper(Arc::downgrade(self));
        let every = (self.limits.idle_timeout / 2).max(Duration::from_millis(10));
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                if !sweeper.sweep() {
                    return;
                }
            }
        });
    }

    /// How many connections wait for a request (for tests and statistics).
    pub(crate) fn idle(&self) -> usize {
        self.hosts()
            .map
            .values()
            .map(|h| h.idle.len() + usize::from(h.h2.is_some()))
            .sum()
    }
}

struct Sweeper(Weak<Pool>);

impl Sweeper {
    /// Closes old connections; `false` when none is left.
    fn sweep(&mut self) -> bool {
        let Some(pool) = self.0.upgrade() else {
            return false;
        };
        let limit = pool.limits.idle_timeout;
        let full = pool.limits.in_flight_per_host;
        let mut closed = Vec::new();
        let mut hosts = pool.hosts();
        hosts.map.retain(|_, host| {
            closed.extend(
                host.idle
                    .extract_if(.., |i| i.sender.is_closed() || i.since.elapsed() >= limit),
            );
            // A shared connection ends when its last stream has; only the pool's hand on it is dropped.
            if host
                .h2
                .as_ref()
                .is_some_and(|(s, used)| s.is_closed() || used.elapsed() >= limit)
            {
                host.h2 = None;
                host.tried = false;
            }
            !host.idle.is_empty()
                || host.h2.is_some()
                || host.permits.available_permits() < full
                || Arc::strong_count(&host.first) > 1
        });
        let left = !hosts.map.is_empty();
        hosts.sweeping = left;
        drop(hosts);
        if !left {
            // The drop below must not undo what a newly started sweeper has set.
            self.0 = Weak::new();
        }
        left
    }
}

impl Drop for Sweeper {
    /// The runtime went away under the task: the next one may start another.
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.hosts().sweeping = false;
        }
    }
}

/// What became of a request.
pub(crate) enum Sent {
    /// The head of the answer.
    Answer(Response<Incoming>),
    /// It was never taken by the connection.
    NotTaken(hyper::Error),
    /// It was taken, and then something broke.
    Broken(hyper::Error),
}

impl Lease {
    pub(crate) fn is_h2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// The counter of what was written, where the connection is this exchange's alone.
    pub(crate) fn written(&self) -> Option<&Written> {
        match &self.sender {
            Sender::Http1(_, written) => Some(written),
            Sender::Http2(_) => None,
        }
    }

    async fn is_usable(&mut self) -> bool {
        // The end of the exchange before may not have come round to the connection's task yet.
        const MOMENT: Duration = Duration::from_millis(50);
        match &mut self.sender {
            Sender::Http1(s, _) if s.is_closed() => false,
            Sender::Http1(s, _) if s.is_ready() => true,
            Sender::Http1(s, _) => {
                matches!(tokio::time::timeout(MOMENT, s.ready()).await, Ok(Ok(())))
            }
            Sender::Http2(s) => s.ready().await.is_ok(),
        }
    }

    pub(crate) async fn send(&mut self, request: Request<Outbound>) -> Sent {
        let result = match &mut self.sender {
            Sender::Http1(s, _) => {
                // A new connection's task may not have run yet.
                if let Err(e) = s.ready().await {
                    return Sent::NotTaken(e);
                }
                s.try_send_request(request).await
            }
            Sender::Http2(s) => {
                if let Err(e) = s.ready().await {
                    return Sent::NotTaken(e);
                }
                s.try_send_request(request).await
            }
        };
        match result {
            Ok(response) => Sent::Answer(response),
            Err(mut e) => {
                let taken = e.take_message().is_none();
                let e = e.into_error();
                if taken {
                    Sent::Broken(e)
                } else {
                    Sent::NotTaken(e)
                }
            }
        }
    }

    /// Gives the connection back after a whole exchange.
    pub(crate) fn give_back(self) {
        if let (Sender::Http1(sender, written), Some(pool)) = (self.sender, self.pool.upgrade())
            && !sender.is_closed()
        {
            let idle = Idle {
                sender,
                written,
                since: Instant::now(),
            };
            pool.keep(&self.key, idle);
        }
    }
}
