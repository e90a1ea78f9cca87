//! The local boxrig server: one address that speaks FastVM and Convox (and, later, VergeOS and Incus) over an embedded
//! engine and a durable store.
//!
//! [`serve::Server::start`] starts one. Without the feature `server` (on by default) only the control API's
//! descriptions and client are here, for programs that talk to a server of another process.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`serve`], [`config`] | starting and ending a server |
//! | [`listen`], [`tls`] | connections |
//! | [`front`] | which protocol answers a request |
//! | [`services`] | published host names, and the way to the processes that serve them |
//! | [`router`] | handlers on described operations |
//! | [`core`] | what the protocols share: [`state`], engine, clock, [`ids`], [`auth`], [`faults`] |
//! | [`control`] | the control API on the unix socket |

pub mod control;
pub mod env;

#[cfg(feature = "server")]
pub mod auth;
#[cfg(feature = "server")]
mod beside;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod convox;
#[cfg(feature = "server")]
pub mod core;
#[cfg(feature = "server")]
pub mod fastvm;
#[cfg(feature = "server")]
pub mod faults;
#[cfg(feature = "server")]
pub mod files;
#[cfg(feature = "server")]
pub mod front;
#[cfg(feature = "server")]
pub mod ids;
#[cfg(feature = "server")]
pub mod listen;
#[cfg(feature = "server")]
pub mod record;
#[cfg(feature = "server")]
pub mod router;
#[cfg(feature = "server")]
pub mod serve;
#[cfg(feature = "server")]
pub mod services;
#[cfg(feature = "server")]
pub mod state;
#[cfg(feature = "server")]
pub mod streams;
#[cfg(feature = "server")]
pub mod testing;
#[cfg(feature = "server")]
pub mod tls;
#[cfg(feature = "server")]
pub mod vergeos;
