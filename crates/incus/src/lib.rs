//! A typed async client for Incus.
//!
//! What is here so far is the core on which the other operations stand: the envelope, operations,
//! and the exec with its sockets. The command `boxrig coverage` lists what is typed.
//!
//! The wire facts come from the Incus REST API description (`api/incus-rest-api.yaml`) and from what
//! was observed on a live 6.0 daemon.

mod envelope;
mod exec;
mod operation;
mod protocol;

pub use envelope::{Async, Sync};
pub use exec::{
    ExecEvent, ExecPost, ExecSession, ExecSockets, InstanceExec, OperationSocketQuery,
    OperationWebsocket, ProjectQuery, Signal, WindowSize,
};
pub use operation::{OperationView, OperationWait, OperationWaitQuery};
pub use protocol::Incus;

use boxrig_wire::{Caller, Catalog, Endpoint};

/// The operations that are described so far.
pub const CATALOG: Catalog = &[
    InstanceExec::META,
    OperationWait::META,
    OperationWebsocket::META,
];

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
