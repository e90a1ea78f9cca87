//! The backends, one feature each.

#[cfg(feature = "convox")]
pub mod convox;
#[cfg(feature = "fastvm")]
pub mod fastvm;
#[cfg(feature = "incus")]
pub mod incus;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "vergeos")]
pub mod vergeos;
