//! Instances that run commands.
//!
//! An [`Engine`] creates, runs, freezes, copies and removes *instances*. Three engines live here:
//!
//! - `sandbox`: processes in their own user, mount, pid, net, uts, ipc and cgroup namespaces over an overlay
//!   file system; Linux, as root or as an ordinary user;
//! - `process`: plain child processes in a folder of their own, with no isolation at all;
//! - `memory`: a simulation that runs nothing.
//!
//! ```no_run
//! use boxrig_engine::{Exec, ExecSpec, InstanceId, InstanceSpec, Options, Selection};
//!
//! # async fn example() -> boxrig_engine::Result<()> {
//! let engine = boxrig_engine::open(Selection::Auto, "/var/lib/boxrig".as_ref(), Options::default()).await?;
//! let id = InstanceId::new("first")?;
//! engine.create(InstanceSpec::new(id.clone())).await?;
//! let exec = engine.exec(&id, ExecSpec::new(["uname", "-a"])).await?;
//! let status = exec.wait().await?;
//! engine.delete(&id).await?;
//! # Ok(()) }
//! ```
//!
//! This is the only crate of the workspace with `unsafe`: it talks to the kernel. It is a leaf: it knows
//! nothing of platforms, protocols or stores.

#[cfg(target_os = "linux")]
pub mod cgroup;
mod check;
mod clock;
mod engine;
mod error;
mod id;
#[cfg(target_os = "linux")]
pub mod image;
mod lock;
mod memory;
pub mod net;
mod open;
mod probe;
#[cfg(unix)]
mod process;
#[cfg(all(target_os = "linux", agent))]
mod sandbox;
#[cfg(unix)]
mod tree;
mod types;

pub use clock::{Clock, RealClock, VirtualClock};
pub use engine::{
    BoxDuplex, BoxFuture, BoxReader, BoxWriter, Duplex, Engine, Exec, ExecControl, FileRead,
    GuestAccept, GuestListener, LogStream,
};
pub use error::{Error, Kind, Result};
pub use id::{InstanceId, MAX_ID_LEN, SnapshotId};
pub use memory::{Memory, Timings};
pub use net::{EgressPolicy, Neighbours};
pub use open::{Options, Selection, open, probe};
pub use probe::{ProbeReport, ProbeStep, Remedy, StepFailure};
#[cfg(unix)]
pub use process::Process;
pub use types::{
    Attributes, BASE_IMAGE, Capabilities, DirEntry, EnforcedLimits, EngineEvent, EventKind,
    ExecSpec, ExitStatus, FileKind, FileMeta, ImageConfig, ImageInfo, InstanceInfo, InstanceSpec,
    InstanceState, Isolation, Limits, LogOptions, LogSource, MainProcess, NetworkPolicy,
    SCRATCH_IMAGE, SnapshotInfo, SnapshotSpec, Source, Stats, StopMode, WinSize, WriteOptions,
};
