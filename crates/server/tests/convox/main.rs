//! The rack over real sockets, on the simulation and on the engine that runs commands.
//!
//! Requests are made by hand where the wire matters: that is what other programs see.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod api;
mod console;
mod deploy;
mod http;
mod more;
mod neighbours;
mod resources;
mod rest;
#[path = "../support/mod.rs"]
mod support;
