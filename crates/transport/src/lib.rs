//! The network under the boxrig clients: [`Http`] is the usual [`boxrig_wire::Transport`].
//!
//! TCP, TLS (system roots, CA file, pin, client certificate), unix sockets, proxies, websockets and raw
//! upgrades; HTTP/1.1 and HTTP/2; connections that are used again; one deadline over all tries; the
//! retry table of `docs/retry.md` with a budget. [`InProcess`] hands requests to a service without a
//! socket.
//!
//! ```no_run
//! use std::sync::Arc;
//! use boxrig_wire::{BaseUrl, Caller};
//!
//! # fn main() -> boxrig_wire::Result<()> {
//! let transport = boxrig_transport::Http::builder().build()?;
//! let caller = Caller::new(Arc::new(transport), BaseUrl::parse("https://api.example.net")?);
//! # Ok(()) }
//! ```

mod after;
mod attempt;
mod body;
mod budget;
mod builder;
mod connect;
mod in_process;
mod meter;
mod pool;
mod redirect;
mod send;
mod tls;
mod upgrade;

pub use builder::{Http, HttpBuilder, Proxy};
pub use in_process::InProcess;
pub use tls::Pin;
