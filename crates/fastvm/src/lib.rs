//! A complete typed async client for FastVM, and the descriptions that its server is mounted from.
//!
//! The wire facts come from `api/fastvm.openapi.yaml` and from what was observed of the vendor's SDKs.

mod model;
pub mod ops;
mod protocol;
mod reply;
mod types;

pub use model::{Extra, Schema};
pub use ops::{CATALOG, EXTENSIONS};
pub use protocol::FastVm;
pub use reply::{WAIT_HEADER, Waitable};
pub use types::*;
