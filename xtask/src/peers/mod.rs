//! The vendors' own clients, unmodified, against `boxrig serve`; and our clients against the vendors' servers.

mod contract;
pub(crate) mod convox;
pub(crate) mod equivalence;
pub(crate) mod fastvm;
pub(crate) mod incus;
mod python;
pub(crate) mod vergeos;
