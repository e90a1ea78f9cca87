//! One toolkit for VergeOS, Incus, FastVM and Convox.
//!
//! [`connect`] gives the compute API of one context; the platforms' complete native clients are the modules
//! [`fastvm`], [`incus`], [`vergeos`] and [`convox`].
//!
//! ```no_run
//! use boxrig::compute::{ComputeExt, ExecSpec, LaunchSpec};
//!
//! # async fn example() -> boxrig::Result<()> {
//! // The server of this machine (`boxrig up` starts it), or fastvm://api.fastvm.org.
//! let compute = boxrig::connect("local").await?;
//! let vm = compute.launch(LaunchSpec::new()).await?.wait().await?;
//! let out = compute.run(&vm.id, ExecSpec::new(["uname", "-a"])).await?;
//! print!("{}", String::from_utf8_lossy(&out.stdout));
//! compute.delete(&vm.id).await?;
//! # Ok(()) }
//! ```
//!
//! The feature `cli`, on by default, is the program; the library builds without its dependencies.

mod connect;
pub mod local;
mod target;

pub use boxrig_compute as compute;
pub use boxrig_convox as convox;
pub use boxrig_fastvm as fastvm;
pub use boxrig_incus as incus;
pub use boxrig_transport as transport;
pub use boxrig_vergeos as vergeos;
pub use boxrig_wire as wire;

pub use boxrig_compute::{Compute, ComputeExt, Instance, Platform};
pub use boxrig_wire::{Error, Kind, Result};
pub use connect::{Connect, Connection, connect};
pub use target::Target;
