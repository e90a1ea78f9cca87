//! A budget of calls: the platform allows a thousand an hour for each API key, and answers 429 after that.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use boxrig_wire::{Error, Kind, Result};

/// How many calls may be made in a window of time. Shared by clones.
#[derive(Clone, Debug)]
pub struct RateBudget {
    limit: usize,
    window: Duration,
    spent: Arc<Mutex<VecDeque<Instant>>>,
}

impl RateBudget {
    /// At most `limit` calls in any `window`.
    pub fn new(limit: usize, window: Duration) -> Self {
        Self {
            limit,
            window,
            spent: Arc::default(),
        }
    }
    /// The platform's own: a thousand an hour.
    pub fn of_the_platform() -> Self {
        Self::new(1000, Duration::from_secs(3600))
    }
    /// The calls that are left now.
    pub fn left(&self) -> usize {
        self.limit.saturating_sub(self.recent(Instant::now()).len())
    }
    /// Counts one call.
    ///
    /// # Errors
    ///
    /// [`Kind::RateLimited`] when none is left, with the time until one is; nothing is sent then.
    pub fn spend(&self) -> Result<()> {
        let now = Instant::now();
        let mut spent = self.recent(now);
        if spent.len() >= self.limit {
            let wait = match spent.front() {
                Some(first) => self.window.saturating_sub(now.duration_since(*first)),
                None => self.window,
            };
            return Err(Error::new(
                Kind::RateLimited,
                format!("the budget of {} calls is spent", self.limit),
            )
            .with_retry_after(wait));
        }
        spent.push_back(now);
        Ok(())
    }

    fn recent(&self, now: Instant) -> std::sync::MutexGuard<'_, VecDeque<Instant>> {
        let mut spent = self.spent.lock().unwrap_or_else(|e| e.into_inner());
        while spent
            .front()
            .is_some_and(|t| now.duration_since(*t) >= self.window)
        {
            spent.pop_front();
        }
        spent
    }
}
