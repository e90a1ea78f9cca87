//! The backends, one feature each.

#[cfg(feature = "fastvm")]
pub mod fastvm;
#[cfg(feature = "local")]
pub mod local;
