//! futures-core
