//! One compute API over several platforms.
//!
//! [`Compute`] has twelve verbs: list, get, launch, delete, power, exec, copy, logs, snapshot, restore, fork and
//! wait. A backend declares which of them it has ([`Capabilities`]); a call outside fails with
//! [`Kind::Unsupported`](boxrig_wire::Kind::Unsupported) before anything is sent, and names the native way. The full
//! native client of a backend stays reachable through [`Compute::native`].
//!
//! | concept | what it is |
//! | --- | --- |
//! | [`Compute`], [`ComputeExt`] | the object-safe verbs, and what is built from them |
//! | [`Instance`], [`State`] | what every platform can say of a machine, container or process |
//! | [`Capability`], [`Capabilities`] | what a backend can do, known before the call |
//! | [`ExecSession`] | a running command: events out, input and signals in |
//! | [`conformance`] | the checks that every backend passes, also for backends of others |
//!
//! ```
//! use boxrig_compute::{Capability, Compute, ComputeExt, ExecSpec, LaunchSpec};
//!
//! # async fn example(compute: &dyn Compute) -> boxrig_wire::Result<()> {
//! let web = compute.launch(LaunchSpec::new().name("web")).await?.wait().await?;
//! if compute.capabilities().has(Capability::Exec) {
//!     let out = compute.run(&web.id, ExecSpec::new(["uname", "-a"])).await?;
//!     assert!(out.status.success());
//! }
//! compute.delete(&web.id).await?;
//! # Ok(()) }
//! ```

pub mod backend;
mod capability;
mod compute;
pub mod conformance;
mod copy;
mod exec;
mod instance;
mod launch;
mod wait;

pub use capability::{Capabilities, Capability};
pub use compute::{Compute, ComputeExt, ready};
pub use copy::{CopyProgress, CopyReport, CopySpec, Direction};
pub use exec::{
    Command, ExecControl, ExecEvent, ExecOutput, ExecSession, ExecSpec, ExitStatus, Stdin, TtySize,
};
pub use instance::{Instance, ListOptions, Platform, Snapshot, State};
pub use launch::{ForkSpec, LaunchSpec, LogOptions, Power, SnapshotSpec, Source};
pub use wait::{Condition, WaitFor, Waiting, until};
