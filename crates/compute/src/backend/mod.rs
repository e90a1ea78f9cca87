//! The backends, one feature each.

#[cfg(feature = "fastvm")]
pub mod fastvm;
#[cfg(feature = "incus")]
pub mod incus;
#[cfg(feature = "local")]
pub mod local;
