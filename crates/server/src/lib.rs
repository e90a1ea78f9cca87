//! The local boxrig server: one address that speaks FastVM (and, later, VergeOS, Incus and Convox) over an embedded
//! engine and a durable store.

pub mod faults;
pub mod router;
pub mod state;
