//! Programs that use boxrig as its users do.
//!
//! `seeds/` has one program per platform with every example of that platform's own SDK document, in Rust. They run in CI
//! against a real daemon (Incus) or the local server.
