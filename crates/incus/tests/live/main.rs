//! The client against a real daemon.
//!
//! They run when one is named: `BOXRIG_INCUS_SOCKET` is its unix socket; or `BOXRIG_INCUS_HTTPS` its address with
//! `BOXRIG_INCUS_CERT`, `BOXRIG_INCUS_KEY` (ours) and `BOXRIG_INCUS_SERVER_CERT` (its own) as files. `BOXRIG_REQUIRE=incus`
//! makes a skip a failure. The daemon must have an image `busybox`, a pool `default` and a bridge in the profile `default`; the
//! official client `incus` is asked what has really happened. With `BOXRIG_RECORD=FILE` every operation that
//! was exercised is appended there, for `cargo xtask peers incus`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod defects;
mod errors;
mod exec;
mod files;
mod images;
mod instances;
mod networks;
mod oidc;
mod rest;
mod seed;
mod server;
mod storage;
mod support;
mod trust;
mod two;
