//! Dialling for an instance: the server's side of transparent egress.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::address::{AddressGuard, SystemAddresses};
use super::copy::both_ways;
use super::dns::DnsServer;
use super::names::NameTable;
use super::neighbours::Neighbourhood;
use super::original::{ConntrackTarget, OriginalTarget};
use super::policy::{EgressPolicy, Protocol, Verdict};
use super::resolve::{Resolve, SystemResolve};
use crate::{BoxDuplex, BoxFuture};

const DNS: u16 = 53;

/// Opens connections for instances. A seam: tests connect elsewhere.
pub trait Dial: Send + Sync + std::fmt::Debug {
    /// Connects to an address that has passed the guard and the policy.
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<BoxDuplex>>;
}

/// Connects by the host's network.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDial;

impl Dial for SystemDial {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<BoxDuplex>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            // A route of type `local` leads to this host without an interface having the address. The
            // kernel then gives both ends the same one. Nothing has been sent yet.
            if stream.local_addr()?.ip() == stream.peer_addr()?.ip() {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxDuplex)
        })
    }
}

/// How much one instance may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EgressLimits {
    /// Connections at a time; further ones are reset.
    pub connections: usize,
    /// Time to connect.
    pub connect: Duration,
    /// Time without a byte in either direction after which a connection is reset.
    pub idle: Duration,
}

impl Default for EgressLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(3600),
        }
    }
}

/// The sockets made inside the instance's network namespace (see [`super::LISTENERS`]).
#[derive(Debug, Default)]
pub struct EgressListeners {
    /// Listening sockets that TCP is redirected to.
    pub tcp: Vec<StdTcpListener>,
    /// Bound sockets that DNS is redirected to.
    pub dns: Vec<StdUdpSocket>,
}

/// What [`Egress`] works with. The parts are shared by all instances of an engine.
#[derive(Debug, Clone)]
pub struct EgressOptions {
    /// Opens connections.
    pub dial: Arc<dyn Dial>,
    /// Resolves names.
    pub resolve: Arc<dyn Resolve>,
    /// Finds out where a redirected connection was going.
    pub original: Arc<dyn OriginalTarget>,
    /// Refuses addresses whatever the policy says.
    pub guard: AddressGuard,
    /// How much may be open.
    pub limits: EgressLimits,
    /// Names that lead to other instances; of one instance.
    pub neighbours: Option<Neighbourhood>,
}

impl Default for EgressOptions {
    /// The real ones.
    fn default() -> Self {
        Self {
            dial: Arc::new(SystemDial),
            resolve: Arc::new(SystemResolve::default()),
            original: Arc::new(ConntrackTarget),
            guard: AddressGuard::new(Arc::new(SystemAddresses::default())),
            limits: EgressLimits::default(),
            neighbours: None,
        }
    }
}

/// What an instance has used its network for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EgressCounters {
    /// Bytes that left by connections.
    pub sent_bytes: u64,
    /// Bytes that came in by connections.
    pub received_bytes: u64,
    /// Connections made.
    pub connected: u64,
    /// Connections refused by the guard, the policy or the limits.
    pub refused: u64,
    /// Connections that were allowed and could not be made.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    connected: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

/// The egress of one instance while the server serves it. Dropping it resets the instance's
/// connections and closes the server's copies of the listeners.
#[derive(Debug)]
pub struct Egress {
    counters: Arc<Counters>,
    policy: watch::Sender<Arc<EgressPolicy>>,
    _tasks: JoinSet<()>,
}

struct Shared {
    options: EgressOptions,
    counters: Arc<Counters>,
    policy: watch::Receiver<Arc<EgressPolicy>>,
    names: Arc<NameTable>,
    dns: Arc<DnsServer>,
    slots: Arc<Semaphore>,
}

impl Egress {
    /// Starts serving. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the sockets cannot be used with the runtime.
    pub fn start(
        listeners: EgressListeners,
        policy: EgressPolicy,
        options: EgressOptions,
    ) -> io::Result<Self> {
        let counters = Arc::new(Counters::default());
        let (sender, receiver) = watch::channel(Arc::new(policy));
        let names = Arc::new(NameTable::default());
        let dns = Arc::new(DnsServer {
            resolve: Arc::clone(&options.resolve),
            guard: options.guard.clone(),
            policy: receiver.clone(),
            names: Arc::clone(&names),
            neighbours: options.neighbours.clone(),
        });
        let shared = Arc::new(Shared {
            slots: Arc::new(Semaphore::new(options.limits.connections)),
            options,
            counters: Arc::clone(&counters),
            policy: receiver,
            names,
            dns: Arc::clone(&dns),
        });
        let mut tasks = JoinSet::new();
        for listener in listeners.tcp {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            tasks.spawn(Arc::clone(&shared).accept(listener));
        }
        for socket in listeners.dns {
            socket.set_nonblocking(true)?;
            tasks.spawn(Arc::clone(&dns).serve_udp(UdpSocket::from_std(socket)?));
        }
        Ok(Self {
            counters,
            policy: sender,
            _tasks: tasks,
        })
    }

    /// Puts a new policy in force, also for the connections that are open: those it denies are reset.
    pub fn set_policy(&self, policy: EgressPolicy) {
        self.policy.send_replace(Arc::new(policy));
    }

    /// What has been used so far.
    #[must_use]
    pub fn counters(&self) -> EgressCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EgressCounters {
            sent_bytes: read(&self.counters.sent),
            received_bytes: read(&self.counters.received),
            connected: read(&self.counters.connected),
            refused: read(&self.counters.refused),
            failed: read(&self.counters.failed),
        }
    }
}

/// Ends a connection so that the process in the instance gets "connection reset", at once, instead of
/// an orderly end that looks like an empty answer.
fn reset(stream: &TcpStream) {
    // Without it the end is orderly: less clear, and no harm.
    let _ = stream.set_zero_linger();
}

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        // Owned by this task: when it is dropped, so are the connections.
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely; accepting at once would fail at once.
                    tracing::debug!(%error, "cannot accept a connection of an instance");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                reset(&stream);
                continue;
            };
            let shared = Arc::clone(&self);
            connections.spawn(async move {
                shared.serve(stream).await;
                drop(slot);
            });
        }
    }

    async fn serve(&self, mut stream: TcpStream) {
        let target = match self.options.original.target(&stream) {
            Ok(target) => target,
            Err(error) => {
                // Someone in the instance connected to the listener itself.
                tracing::debug!(%error, "a connection of an instance has no target");
                self.refuse(&stream);
                return;
            }
        };
        if target.port() == DNS {
            if self.dns.serve_tcp(&mut stream).await.is_err() {
                reset(&stream);
            }
            return;
        }
        let neighbour = self.neighbour(target);
        let address = match (&neighbour, self.options.guard.check(target.ip())) {
            (Some(_), _) => target,
            (None, Ok(ip)) => SocketAddr::new(ip, target.port()),
            (None, Err(why)) => {
                tracing::debug!(%target, %why, "an instance's connection is refused");
                self.refuse(&stream);
                return;
            }
        };
        let mut policy = self.policy.clone();
        if self.denies(&policy.borrow_and_update(), address) {
            tracing::debug!(%address, "an instance's connection is denied by its rules");
            self.refuse(&stream);
            return;
        }
        let dial = async {
            match &neighbour {
                Some((neighbours, name)) => neighbours.connect(name, address.port()).await,
                None => self.options.dial.dial(address).await,
            }
        };
        let dialled = tokio::time::timeout(self.options.limits.connect, dial);
        let upstream = match dialled.await {
            Ok(Ok(upstream)) => upstream,
            Ok(Err(_)) | Err(_) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                reset(&stream);
                return;
            }
        };
        self.counters.connected.fetch_add(1, Ordering::Relaxed);
        let _ = stream.set_nodelay(true);
        let copy = both_ways(
            &mut stream,
            upstream,
            self.options.limits.idle,
            &self.counters.sent,
            &self.counters.received,
        );
        let denied = async {
            loop {
                if policy.changed().await.is_err() {
                    // No new policy can come; the connection goes on.
                    std::future::pending::<()>().await;
                }
                if self.denies(&policy.borrow_and_update(), address) {
                    return;
                }
            }
        };
        let ended = tokio::select! {
            ended = copy => ended,
            () = denied => Err(io::ErrorKind::PermissionDenied.into()),
        };
        if ended.is_err() {
            reset(&stream);
        }
    }

    /// The neighbour whose name was answered with this address.
    fn neighbour(&self, target: SocketAddr) -> Option<(&Neighbourhood, String)> {
        let neighbours = self.options.neighbours.as_ref()?;
        Some((neighbours, neighbours.name(target.ip())?))
    }

    fn denies(&self, policy: &EgressPolicy, address: SocketAddr) -> bool {
        let names = self.names.names(address.ip(), Instant::now());
        policy.decide(Protocol::Tcp, address.ip(), address.port(), &names) == Verdict::Deny
    }

    fn refuse(&self, stream: &TcpStream) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        reset(stream);
    }
}
