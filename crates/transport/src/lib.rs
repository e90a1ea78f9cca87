//! The network under the boxrig clients.
//!
//! [`Http`] is the [`Transport`](boxrig_wire::Transport) over real connections: TCP, TLS and unix sockets,
//! HTTP/1.1 and HTTP/2, websockets and upgrades, proxies, redirects. It keeps connections, sends again what
//! may be sent again (the table is `docs/retry.md`), and holds every call to its deadline.
//! [`InProcess`] carries requests to a function in the same process.
//!
//! One transport is made per destination with its own trust ([`HttpBuilder`]), shared by all tasks:
//!
//! ```no_run
//! use boxrig_transport::Http;
//! use boxrig_wire::{BaseUrl, Caller};
//! use std::sync::Arc;
//!
//! # fn main() -> boxrig_wire::Result<()> {
//! let http = Http::builder().ca_file("ca.pem")?.build()?;
//! let caller = Caller::new(Arc::new(http), BaseUrl::parse("https://127.0.0.1:7979")?);
//! # let _ = caller; Ok(())
//! # }
//! ```
//!
//! Every call is a `tracing` span `call` at debug level with operation id, method and host, and ends in an event
//! with status and latency. Headers, queries and bodies are never logged.

mod after;
mod attempt;
mod body;
mod budget;
mod call;
mod dial;
mod filled;
mod http;
mod in_process;
mod meter;
mod pool;
mod proxy;
mod redirect;
mod tls;

pub use crate::http::{Http, HttpBuilder};
pub use in_process::InProcess;
pub use proxy::Proxy;
