//! The sandbox engine, on whatever this machine and user allow.
//!
//! Where instances cannot run, tests print why and pass, unless `BOXRIG_REQUIRE=sandbox` is set.
#![cfg(target_os = "linux")]

mod commands;
mod files;
mod isolation;
mod ordinary_user;
mod restart;
mod states;
mod support;
