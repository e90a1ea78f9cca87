//! A stand-in for `curl` in instances whose image has none.

use crate::Args;

/// Runs it and gives its exit code.
pub(crate) fn main(_args: Args) -> i32 {
    2
}
