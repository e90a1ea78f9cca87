//! A typed async client for Incus.
//!
//! What is here so far is the core on which the other operations stand: the envelope, operations,
//! and the exec with its sockets. The command `boxrig coverage` lists what is typed.
//!
//! The wire facts come from the Incus REST API description (`api/incus-rest-api.yaml`) and from what
//! was observed on a live 6.0 daemon.

mod envelope;
mod exec;
mod model;
pub mod models;
mod operation;
pub mod ops;
mod protocol;

pub use envelope::{Answer, Async, List, Sync};
pub use exec::{ExecEvent, ExecSession, ExecSockets, Signal, WindowSize};
pub use model::{ConfigMap, DevicesMap, Merge, Nbd, Sftp, StatusCode, TcpForward};
pub use ops::CATALOG;
pub use protocol::Incus;

use boxrig_wire::Caller;
pub use boxrig_wire::Timestamp;

/// A client of one Incus server. Cheap to clone, shared by tasks.
#[derive(Clone, Debug)]
pub struct Client {
    caller: Caller,
}

impl Client {
    /// A client that sends through `caller`.
    pub fn new(caller: Caller) -> Self {
        Self { caller }
    }
    /// The caller underneath: raw requests, settings.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}
