//! The retry budget of a client.

use std::sync::atomic::{AtomicU32, Ordering};

/// What a retry costs, in tenths.
const RETRY: u32 = 10;
/// What is kept at most, and what a client starts with.
const FULL: u32 = 10 * RETRY;

/// Shared by all calls of a client: a retry takes one token, a success gives back a tenth of one, at most ten
/// are kept. When everything fails, the retries soon stop and the server gets hardly more than the calls.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU32);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU32::new(FULL))
    }
}

impl Budget {
    /// Takes a token; `false` when there is none.
    pub(crate) fn take(&self) -> bool {
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                n.checked_sub(RETRY)
            })
            .is_ok()
    }

    /// Notes a success.
    pub(crate) fn refill(&self) {
        if self.0.load(Ordering::Relaxed) < FULL {
            // Full in the meantime is as good.
            let _ = self
                .0
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                    (n < FULL).then_some(n + 1)
                });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_then_one_for_ten_successes() {
        let budget = Budget::default();
        assert_eq!((0..100).filter(|_| budget.take()).count(), 10);
        for _ in 0..9 {
            budget.refill();
        }
        assert!(!budget.take());
        budget.refill();
        assert!(budget.take());
        for _ in 0..1000 {
            budget.refill();
        }
        assert_eq!((0..100).filter(|_| budget.take()).count(), 10);
    }
}
