//! Time as something that can be handed in: the machine's, or one that a test moves.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::BoxFuture;

/// Tells the time and waits for it.
pub trait Clock: Send + Sync + Debug {
    /// The present time.
    fn now(&self) -> SystemTime;

    /// Waits until [`Clock::now`] is `when` or later.
    fn sleep_until(&self, when: SystemTime) -> BoxFuture<'static, ()>;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealClock;

/// Longest uninterrupted wait, so that a change of the machine's clock is noticed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

impl Clock for RealClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep_until(&self, when: SystemTime) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // An error means that `when` has passed.
            while let Ok(left) = when.duration_since(SystemTime::now()) {
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(LOOK_AGAIN)).await;
            }
        })
    }
}

/// A clock that stands still until it is moved. Clones show the same time.
#[derive(Debug, Clone)]
pub struct VirtualClock {
    now: watch::Sender<SystemTime>,
}

impl VirtualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn new(start: SystemTime) -> Self {
        Self {
            now: watch::Sender::new(start),
        }
    }

    /// Moves it forward and wakes those who wait for a time that has come. A step past the last
    /// representable time leaves it where it is.
    pub fn advance(&self, step: Duration) {
        self.now
            .send_modify(|now| *now = now.checked_add(step).unwrap_or(*now));
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> SystemTime {
        *self.now.borrow()
    }

    fn sleep_until(&self, when: SystemTime) -> BoxFuture<'static, ()> {
        let mut now = self.now.subscribe();
        // Held, so that the wait goes on when the clock's owner is gone: a clock nobody moves.
        let clock = self.now.clone();
        Box::pin(async move {
            // Only fails without a sender, and `clock` is one.
            let _ = now.wait_for(|now| *now >= when).await;
            drop(clock);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_virtual_clock_stands_until_moved() {
        let start = SystemTime::UNIX_EPOCH;
        let clock = VirtualClock::new(start);
        clock.sleep_until(start).await;
        let mut wait = clock.sleep_until(start + Duration::from_secs(60));
        clock.advance(Duration::from_secs(59));
        let early = tokio::time::timeout(Duration::from_millis(20), &mut wait).await;
        assert!(early.is_err());
        clock.clone().advance(Duration::from_secs(1));
        wait.await;
        assert_eq!(clock.now(), start + Duration::from_secs(60));
        clock.advance(Duration::MAX);
        assert_eq!(clock.now(), start + Duration::from_secs(60));
    }

    #[tokio::test]
    async fn the_real_clock_waits() {
        let started = std::time::Instant::now();
        RealClock
            .sleep_until(RealClock.now() + Duration::from_millis(30))
            .await;
        assert!(started.elapsed() >= Duration::from_millis(25));
        RealClock.sleep_until(SystemTime::UNIX_EPOCH).await;
    }
}
