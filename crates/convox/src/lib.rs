//! A complete typed async client for Convox racks and consoles, and the descriptions that our own rack is mounted from.
//!
//! ```no_run
//! # async fn example() -> boxrig_wire::Result<()> {
//! use boxrig_convox::Client;
//!
//! let client = Client::builder()
//!     .host("console.convox.com")
//!     .api_key("your-deploy-key")
//!     .rack("org/rack-name") // behind a console
//!     .build()?; // or Client::from_env()?, Client::discover()?
//! for app in client.apps().list().await? {
//!     println!("{}: {}", app.name, app.status);
//! }
//! # Ok(()) }
//! ```
//!
//! | what | where |
//! | --- | --- |
//! | calls, by what they are about | [`Client`] |
//! | settings, environment, the vendor's files | [`ClientBuilder`], [`Client::discover`], [`CliConfig`] |
//! | anything by path | [`Client::api`], [`Client::raw_stream`] |
//! | what errors mean | [`Convox`], [`Kind`](boxrig_wire::Kind) |
//! | the operations, for servers and tools | [`ops`], [`CATALOG`], [`CONSOLE`], [`CLASSIC`] |
//!
//! The wire facts come from `api/convox-routes.tsv` and `api/convox-structs.yaml`, read from release 3.24.9 of the rack, and
//! from what was observed of the vendor's SDK. Without the feature `client` there are only the types and descriptions;
//! `transport`, the default, adds boxrig's own network.

#[cfg(feature = "client")]
mod client;
pub mod models;
pub mod ops;
mod protocol;
mod reply;
mod trailer;
mod types;
mod values;

#[cfg(feature = "client")]
pub use client::*;
pub use ops::{CATALOG, CLASSIC, CONSOLE};
pub use protocol::Convox;
pub use reply::{Done, Reply, Text};
pub use trailer::{EXIT_MARK, Trailer};
pub use types::{AppBudgetReport, SslEntry, Started};
pub use values::{Csv, FieldMap, Pairs, format_duration, format_time, parse_duration, parse_time};

pub use boxrig_wire::Timestamp;
