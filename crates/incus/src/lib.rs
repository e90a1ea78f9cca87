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
//! | what | where |
//! | --- | --- |
//! | calls, by what they are about | [`Client`] |
//! | addresses, certificates, the standard tool's remotes | [`ClientBuilder`], [`Identity`], [`TrustToken`], [`Remotes`], [`OidcSession`] |
//! | instances: life, commands, files, snapshots, backups, copies | [`Instances`], [`NewInstance`], [`Exec`], [`Files`], [`InstanceCopy`] |
//! | every other collection, by the same verbs | [`Collection`] |
//! | long work | [`boxrig_wire::Operation`], [`wait_at_most`], [`Events`] |
//! | image servers | [`Simplestreams`] |
//! | the operations, for servers and tools | [`ops`], [`CATALOG`] |
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
mod simplestreams;
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
    Action, Change, Console, CopyMode, Exec, ExecControl, ExecEvent, ExecInput, ExecOutput,
    ExecSession, ExecSockets, InstanceCopy, InstanceKind, Instances, NewInstance, Signal,
    WindowSize, exec_code,
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
pub use simplestreams::{Simplestreams, StreamFile, StreamImage};
#[cfg(feature = "transport")]
pub use token::{TrustToken, Trusted};
#[cfg(feature = "client")]
pub use wait::wait_at_most;

pub use boxrig_wire::Timestamp;

#[cfg(all(test, feature = "transport"))]
mod tests {
    use super::*;

    /// What programs spawn must be able to move between threads.
    #[test]
    fn futures_and_sessions_can_be_moved_and_shared() {
        fn moved<T: Send>(_: &T) {}
        fn shared<T: Send + std::marker::Sync>() {}
        shared::<Client>();
        shared::<ExecSession>();
        shared::<Console>();
        let client = Client::unix("/nonexistent").unwrap();
        let instances = client.instances();
        let files = instances.files("c");
        let path = std::path::Path::new("/nonexistent");
        let options = TreeOptions::default();
        moved(&files.upload(path, "/x", FileMode::new()));
        moved(&files.send(path, "/x", FileMode::new()));
        moved(&files.download("/x", path));
        moved(&files.push_tree(path, "/x", &options));
        moved(&files.pull_tree("/x", path, &options));
        moved(&instances.run("c", Exec::new(["true"]), ""));
        moved(&instances.create(NewInstance::empty("x")));
        moved(&client.images().export_to("x", path));
    }
}
