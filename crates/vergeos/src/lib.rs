//! A typed async client for VergeOS (API v4), and the descriptions that its server is mounted from.
//!
//! ```no_run
//! # async fn f() -> boxrig_wire::Result<()> {
//! use boxrig_vergeos::{Client, Filter, rows::Vm};
//!
//! let client = Client::from_env()?; // VERGE_HOST, VERGE_USERNAME and VERGE_PASSWORD, or VERGE_TOKEN
//! client.connect().await?;
//! let vm = client.vms().create("web").ram(2048).cpu_cores(2).await?;
//! client.vms().of(&vm).power_on().await?;
//! for drive in client.vms().of(&vm).drives().list().await? {
//!     println!("{:?} {:?}", drive.name(), drive.status());
//! }
//! let linux = client.table::<Vm>().list(Filter::eq("os_family", "linux")).await?;
//! # let _ = linux; Ok(()) }
//! ```
//!
//! | what | where |
//! | --- | --- |
//! | settings, environment, connection | [`ClientBuilder`], [`Client::from_env`], [`Client::connect`] |
//! | managers with all members of the vendor's SDK, by its names | the methods of [`Client`]: `vms()`, `networks()`, … |
//! | what belongs to a row | `client.vms().at(36).drives()`, `client.vms().of(&vm).power_on()` |
//! | every table in the same way | [`Table`], [`Query`], [`Changes`] |
//! | rows: a getter for each field and for what the SDK computes, unknown columns kept | [`rows`], [`RowType`], [`Record`] |
//! | what the SDK gives of a row without asking for more | [`views`] |
//! | filters, projections, orders | [`Filter`], [`Projection`], [`sort`] |
//! | content of files | [`Client::upload`], [`Client::begin_upload`], [`Client::download`] |
//! | waiting | [`Wait`] |
//! | members by name, for tools | [`member`] |
//! | what is not covered | [`Client::raw`], [`Client::schema`] |
//! | the operations, for servers | [`ops`], [`CATALOG`] |
//!
//! A member is carried out from a table of requests (`data/members.jsonl`) that was made by watching the vendor's SDK; see `ci/vergeos`. What differs
//! on purpose is listed in `api/vergeos-differences.tsv`. Without the feature `client` there are only the types and
//! descriptions; `transport`, the default, adds boxrig's own network.

mod cells;
#[cfg(feature = "client")]
pub mod client;
#[doc(hidden)]
pub mod computed;
pub mod filter;
#[cfg(feature = "client")]
pub mod generated;
mod key;
#[cfg(feature = "client")]
pub mod member;
pub mod ops;
pub mod projection;
mod protocol;
#[cfg(feature = "client")]
mod quick;
#[cfg(feature = "client")]
mod reader;
mod record;
#[cfg(feature = "client")]
mod reply;
pub mod sort;
#[cfg(feature = "client")]
pub mod views;

#[cfg(all(feature = "client", feature = "transport"))]
pub use client::ClientBuilder;
#[cfg(feature = "client")]
pub use client::{Changes, Client, Connection, Query, RateBudget, Table, Wait};
pub use filter::Filter;
#[cfg(feature = "client")]
pub use generated::{rows, words};
pub use key::Key;
#[cfg(feature = "client")]
pub use member::{Keys, List, Time};
pub use projection::Projection;
pub use record::{Column, Record, RowType};

pub use ops::{
    Action, ActionPost, CATALOG, ListQuery, Receipt, RowsReply, TableAction, TableList, Written,
};
pub use protocol::VergeOs;

use serde_json::{Map, Value};

/// A row of a table, as the server gave it.
pub type Row = Map<String, Value>;
