//! What a server is started with.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use boxrig_engine::Selection;
use boxrig_wire::BaseUrl;

use crate::fastvm::QuotaLimits;
use crate::faults::Script;
use crate::vergeos::Lab;

/// The port when none is asked for.
pub const DEFAULT_PORT: u16 = 7979;

/// What a server is started with; see `boxrig serve --help`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Where state, credentials and instances are kept; made if missing, mode 0700.
    pub data: PathBuf,
    /// The TCP address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where instances run.
    pub engine: Selection,
    /// Try the engine with a real instance before the server is ready.
    pub probe: bool,
    /// The address by which clients and instances reach the server, when it is not the one it listens on.
    pub public_url: Option<BaseUrl>,
    /// Further host names that requests may be addressed to.
    pub allow_hosts: Vec<String>,
    /// The unix socket; `unix.socket` in the data directory when `None`.
    pub socket: Option<PathBuf>,
    /// A second unix socket for Incus' clients.
    pub incus_socket: Option<PathBuf>,
    /// Written, mode 0600, when the server is ready.
    pub env_file: Option<PathBuf>,
    /// What VergeOS is stocked with at the first start; what every new system has when `None`.
    pub lab: Option<Lab>,
    /// How many requests an hour VergeOS answers to one API key, as the platform does with 1,000; no limit when `None`.
    pub vergeos_rate: Option<u32>,
    /// Makes identifiers repeat; never for real use.
    pub seed_ids: Option<u64>,
    /// A clock that stands until it is moved by the control API.
    pub virtual_clock: bool,
    /// Faults from the start on.
    pub faults: Script,
    /// A request's head must be complete after this long, a TLS handshake too, and a connection without a request is
    /// closed after it.
    pub patience: Duration,
    /// What FastVM's machines and snapshots may use together.
    pub quotas: QuotaLimits,
    /// End after this long without a request, if there are no instances.
    pub idle_exit: Option<Duration>,
}

impl ServerConfig {
    /// The defaults, with data under `data`.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)),
            engine: Selection::Auto,
            probe: true,
            public_url: None,
            allow_hosts: Vec::new(),
            socket: None,
            incus_socket: None,
            env_file: None,
            lab: None,
            vergeos_rate: None,
            seed_ids: None,
            virtual_clock: false,
            faults: Script::default(),
            patience: crate::listen::PATIENCE,
            quotas: QuotaLimits::default(),
            idle_exit: None,
        }
    }

    /// With another TCP address.
    pub fn listen(mut self, listen: SocketAddr) -> Self {
        self.listen = listen;
        self
    }
    /// With another engine.
    pub fn engine(mut self, engine: Selection) -> Self {
        self.engine = engine;
        self
    }

    /// The path of the unix socket.
    pub fn socket_path(&self) -> PathBuf {
        match &self.socket {
            Some(path) => path.clone(),
            None => self.data.join("unix.socket"),
        }
    }
}
