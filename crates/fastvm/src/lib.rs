//! A complete typed async client for FastVM, and the descriptions that its server is mounted from.
//!
//! ```
//! # use boxrig_server::testing::Server;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let server = Server::start().await?;
//! # let (key, url) = (server.api_key(), server.url());
//! use boxrig_fastvm::{Client, Launch, ListVms};
//!
//! let client = Client::builder().api_key(key).base_url(url).build()?; // or Client::from_env()?
//! let vm = client.vms().launch(Launch::new("c1m2").name("dev")).await?.vm;
//! assert_eq!(vm.status.to_string(), "running");
//! let all = client.vms().list(ListVms::new()).await?;
//! assert_eq!(all[0].id, vm.id);
//! client.vms().delete(&vm.id).await?;
//! # server.stop().await;
//! # Ok(()) }
//! ```
//!
//! | what | where |
//! | --- | --- |
//! | calls, by what they are about | [`Client`] |
//! | settings, environment | [`ClientBuilder`], [`Client::from_env`] |
//! | launching exactly once, waiting | [`Launch`], [`Wait`] |
//! | commands, streamed or whole | [`Vms::run`], [`Vms::stream`], [`Exec`], [`ExecStream`] |
//! | files and directories | [`Client::upload`], [`Client::download`], [`TransferOptions`] |
//! | snapshots from images and Dockerfiles | [`Client::build`], [`Build`] |
//! | the console | [`Vms::console`] |
//! | what errors mean | [`FastVm`], [`Kind`](boxrig_wire::Kind) |
//! | the operations, for servers and tools | [`ops`], [`CATALOG`] |
//!
//! The wire facts come from `api/fastvm.openapi.yaml` and from what was observed of the vendor's SDKs. Without the feature `client`
//! there are only the types and descriptions; `transport`, the default, adds boxrig's own network.

#[cfg(feature = "client")]
mod client;
mod model;
pub mod ops;
mod protocol;
mod reply;
#[cfg(feature = "client")]
mod ssh;
mod types;

#[cfg(feature = "client")]
pub(crate) use boxrig_archive as archive;
#[cfg(feature = "client")]
pub use boxrig_archive::{Skipped, gzip::Level as CompressionLevel, unpack::OutsideLinks};
#[cfg(feature = "client")]
pub use client::*;
pub use model::{Extra, Schema};
pub use ops::{CATALOG, EXTENSIONS};
pub use protocol::FastVm;
pub use reply::{WAIT_HEADER, Waitable};
#[cfg(feature = "client")]
pub use ssh::ssh_fingerprint;
pub use types::*;
