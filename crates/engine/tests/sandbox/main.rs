//! The sandbox engine, on whatever this machine and user allow.
//!
//! Where instances cannot run, tests print why and pass, unless `BOXRIG_REQUIRE=sandbox` is set.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod commands;
mod files;
mod images;
mod isolation;
mod ordinary_user;
mod refusals;
mod restart;
mod states;
mod support;
