//! The local boxrig server: one address that speaks FastVM (and, later, VergeOS, Incus and Convox) over an embedded
//! engine and a durable store.

pub mod auth;
pub mod core;
pub mod faults;
pub mod files;
pub mod front;
pub mod ids;
pub mod listen;
pub mod router;
pub mod state;
pub mod tls;
