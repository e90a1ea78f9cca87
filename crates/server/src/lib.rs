//! boxrig-incus
