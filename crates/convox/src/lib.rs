//! A typed async client for Convox racks.
//!
//! What is here so far is the core: errors, and the process exec over a websocket with the exit
//! trailer. The command `boxrig coverage` lists what is typed.

mod exec;
mod protocol;

pub use exec::{EXIT_MARK, ExecEvent, ExecHeaders, ExecOutput, ExecSession, ProcessExec, Trailer};
pub use protocol::Convox;

use boxrig_wire::{Caller, Catalog, Endpoint};

/// The operations that are described so far.
pub const CATALOG: Catalog = &[ProcessExec::META];

/// A client of one rack. Cheap to clone, shared by tasks.
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
