//! The vendors' own clients, unmodified, against `boxrig serve`.

pub(crate) mod fastvm;
