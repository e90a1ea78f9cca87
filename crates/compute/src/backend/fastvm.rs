//! FastVM.
