//! A typed async client for Convox racks.
//!
//! What is here so far is the core: errors, and the process exec over a websocket with the exit
//! trailer. The command `boxrig coverage` lists what is typed.

mod exec;
pub mod models;
pub mod ops;
mod protocol;
mod reply;
mod values;

pub use exec::{EXIT_MARK, ExecEvent, ExecInput, ExecOutput, ExecSession, Trailer};
pub use ops::{CATALOG, CLASSIC, CONSOLE};
pub use protocol::Convox;
pub use reply::{Done, Reply, Text};
pub use values::{Csv, FieldMap};

use boxrig_wire::Caller;
pub use boxrig_wire::Timestamp;

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
