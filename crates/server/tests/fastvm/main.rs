//! FastVM over real sockets, on the simulation and on the engine that runs commands.
//!
//! The requests are made from the same descriptions that the server is mounted from, and, where the wire matters, by hand.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod api;
mod commands;
mod console;
mod files;
mod lifecycle;
mod limits;
mod restart;
mod snapshots;
