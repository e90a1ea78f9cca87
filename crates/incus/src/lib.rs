//! A complete typed async client for Incus, and the descriptions of its 254 operations.
//!
//! ```no_run
//! # async fn f() -> boxrig_wire::Result<()> {
//! use boxrig_incus::Client;
//!
//! let client = Client::local()?; // or Client::https(…), Client::from_env(), Client::from_remote(…)
//! let server = client.info().await?;
//! println!("{}", server.environment.server_version);
//! # Ok(()) }
//! ```
//!
//! The wire facts come from the Incus REST API description (`api/incus-rest-api.yaml`) and from what
//! was observed on a live 6.0 daemon. Without the feature `client` there are only the types and
//! descriptions; `transport`, the default, adds boxrig's own network, certificates and remotes.

#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
mod collection;
mod envelope;
#[cfg(feature = "client")]
mod events;
#[cfg(feature = "client")]
mod files;
#[cfg(feature = "transport")]
mod identity;
#[cfg(feature = "client")]
mod images;
#[cfg(feature = "client")]
mod instances;
mod model;
pub mod models;
#[cfg(feature = "client")]
mod multipart;
#[cfg(feature = "transport")]
mod oidc;
mod operation;
#[cfg(feature = "client")]
mod operations;
pub mod ops;
mod protocol;
#[cfg(feature = "transport")]
mod remotes;
#[cfg(feature = "client")]
mod server;
#[cfg(feature = "transport")]
mod token;
pub mod uploads;
#[cfg(feature = "client")]
mod wait;

#[cfg(feature = "transport")]
pub use client::{Address, ClientBuilder, DEFAULT_PORT};
#[cfg(feature = "client")]
pub use client::{Client, OPERATION_EXTENSIONS, Outcome};
#[cfg(feature = "client")]
pub use collection::*;
pub use envelope::{Answer, Async, List, Sync};
#[cfg(feature = "client")]
pub use events::{EventFilter, Events};
#[cfg(feature = "client")]
pub use files::{
    FileInfo, FileKind, FileMode, FilePlace, Files, Found, OfInstance, OfVolume, TreeOptions,
    TreeReport,
};
#[cfg(feature = "transport")]
pub use identity::{Identity, fingerprint_of_pem};
#[cfg(feature = "client")]
pub use images::{ImageFiles, ImageUpload, Rootfs};
#[cfg(feature = "client")]
pub use instances::{
    Action, Change, Console, Copy, CopyMode, Exec, ExecControl, ExecEvent, ExecInput, ExecOutput,
    ExecSession, ExecSockets, InstanceKind, Instances, NewInstance, Signal, WindowSize, exec_code,
};
pub use model::{ConfigMap, DevicesMap, Merge, Nbd, Sftp, StatusCode, TcpForward};
#[cfg(feature = "transport")]
pub use oidc::{DeviceLogin, OidcSession, OidcSettings};
#[cfg(feature = "client")]
pub use operations::Operations;
pub use ops::CATALOG;
pub use protocol::Incus;
#[cfg(feature = "transport")]
pub use remotes::{Folders, Remote, RemoteProtocol, Remotes};
#[cfg(feature = "client")]
pub use server::{ClusterHandle, ServerHandle};
#[cfg(feature = "transport")]
pub use token::{TrustToken, Trusted};
#[cfg(feature = "client")]
pub use wait::wait_at_most;

pub use boxrig_wire::Timestamp;
