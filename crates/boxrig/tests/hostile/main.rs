//! Hostile services, guests and input, met by the program as people run it: in a sealed home, through the real binary.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[path = "../support/mod.rs"]
mod support;

mod archives;
mod elsewhere;
mod isolation;
mod names;
mod scripted;
mod secrets;
mod terminal;
