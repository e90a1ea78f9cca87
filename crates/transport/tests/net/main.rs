//! The transport over real sockets, against servers that misbehave on purpose.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod budget;
mod deadline;
mod logs;
mod pool;
mod proxy;
mod redirect;
mod retry_after;
mod retry_table;
mod support;
mod tls;
mod upgrade;
