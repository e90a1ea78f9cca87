//! futures-util
