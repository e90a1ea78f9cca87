//! The command line on a real Incus daemon; every effect is confirmed by the official client. `cargo xtask peers incus`
//! brings the daemon up and names it in `BOXRIG_INCUS_SOCKET`; without one these tests say that they were skipped.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod collections;
mod conformance;
mod contexts;
mod errors;
mod instances;
mod lab;
#[path = "../support/mod.rs"]
mod support;
mod verbs;
