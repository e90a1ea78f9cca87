//! The control API `/boxrig/v1/…`: what the command line needs of a server beyond the platforms' protocols.
//!
//! It is on the unix socket only, which belongs to the server's user and root; it needs no credentials and is never
//! reached over TCP or by an instance. Errors are `{"error": words, "kind": meaning}` with members for details.
//!
//! Descriptions, types and [`ControlClient`] are here without the server's own parts: a program that only talks to a
//! server takes this crate with `default-features = false`.
//!
//! # Ids
//!
//! `{id}` is the engine's id of an instance. Platforms name their instances to the engine by their own ids (FastVM: the
//! VM's UUID), so one id serves both APIs.
//!
//! # The exec socket
//!
//! `GET /boxrig/v1/instances/{id}/exec` is a websocket. The client's first frame is text, an [`ExecStart`] as JSON. Then:
//!
//! | from | frame | meaning |
//! | --- | --- | --- |
//! | server | text [`ExecEvent`] `{"started": {"pid": 12}}` | the command runs |
//! | server | text `{"error": {…}}` | it does not; the last frame |
//! | server | binary, first byte 1 or 2 | standard output or error (with a terminal all is 1) |
//! | client | binary, first byte 0 | standard input; without further bytes: end of file |
//! | client | text [`ExecControl`] `{"resize": {"rows": 24, "cols": 80}}` | the terminal's size |
//! | client | text `{"signal": 15}` | a signal (Linux number) to the command's process group |
//! | server | text `{"exit": {"code": 0}}` or `{"exit": {"signal": 9}}` | its end; the last frame |
//!
//! All output the command wrote before its end comes before `exit`. What it left in the background may hold its output
//! open: the server waits for that no longer than a moment of silence. When the client goes away before the end, the
//! command's process group is killed. Input that the command does not read is held back, and with it later frames of
//! the client: to end such a command close the socket.

mod client;
mod exec;
#[cfg(feature = "server")]
mod handlers;
mod ops;
mod protocol;
mod types;

pub use client::{ControlClient, ExecEvents, ExecInput, ExecSession, SessionEvent};
pub use exec::{
    CHANNEL_STDERR, CHANNEL_STDIN, CHANNEL_STDOUT, ExecControl, ExecEvent, ExecFailure, ExecStart,
    Size,
};
#[cfg(feature = "server")]
pub(crate) use handlers::{Control, Facts, ms};
pub use ops::{
    AdvanceClock, CATALOG, DeleteInstanceFile, Exec, GetClock, GetDoctor, GetEnv, GetFaults,
    GetInfo, GetInstance, GetInstanceFile, GetInstanceLogs, GetInstanceStats, ListInstanceFiles,
    ListInstances, LoadState, LogQuery, MakeInstanceDir, PathQuery, PutFaults, PutInstanceFile,
    Reset, Restore, SaveState, Shutdown, StatInstanceFile, WriteQuery,
};
pub use protocol::Control as ControlProtocol;
pub use types::{
    ClockView, Done, FaultsView, FileView, Info, InstanceView, RestoreRequest, StatsView, StepClock,
};
