//! What instances may reach, and how it is enforced.

mod policy;

pub use policy::{EgressPolicy, EgressRule, Verdict};
