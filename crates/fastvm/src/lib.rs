//! A complete typed async client for FastVM, and the descriptions that its server is mounted from.
//!
//! The wire facts come from `api/fastvm.openapi.yaml` and from what was observed of the vendor's SDKs.

#[cfg(feature = "client")]
mod archive;
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
pub use archive::{Skipped, gzip::Level as CompressionLevel, unpack::OutsideLinks};
#[cfg(feature = "client")]
pub use client::*;
pub use model::{Extra, Schema};
pub use ops::{CATALOG, EXTENSIONS};
pub use protocol::FastVm;
pub use reply::{WAIT_HEADER, Waitable};
#[cfg(feature = "client")]
pub use ssh::ssh_fingerprint;
pub use types::*;
