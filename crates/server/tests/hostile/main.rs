//! Requests that no honest client sends, over sockets: heads, bodies, names, documents, many connections.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod doors;
mod heads;
mod raw;
