//! The vendors' own clients, unmodified, against `boxrig serve`.

mod contract;
pub(crate) mod fastvm;
