//! The table engine of the VergeOS server, over HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod accounts;
mod api;
mod bad_input;
mod crash;
mod files;
mod read;
mod tenants;
mod write;
