//! One way to wait: with a deadline, with jitter, and with the difference between "has ended" and "has not begun".

use std::time::{Duration, Instant};

use boxrig_wire::{Error, Kind, Progress, Result};

/// How long and how often to ask.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Wait {
    /// The longest time in all.
    pub timeout: Duration,
    /// The first pause; pauses grow by half up to four times this, each with a random part.
    pub interval: Duration,
    /// How long work that looks idle may not have begun yet. The platform's tasks say `idle` before and after.
    pub grace: Duration,
}

impl Default for Wait {
    /// 300 s, every 2 s, as the vendor's SDK waits for tasks; no grace.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(300),
            interval: Duration::from_secs(2),
            grace: Duration::ZERO,
        }
    }
}

/// What one look has shown.
#[derive(Clone, Debug)]
pub(crate) enum Seen<T> {
    /// It has ended, or it has not begun.
    Idle(T),
    /// It goes on.
    Running(Progress),
}

impl Wait {
    /// With another longest time.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
    /// With another first pause.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }
    /// With a time in which the work may not have begun.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Looks until the work has ended.
    pub(crate) async fn until<T, F, Fut>(&self, what: &str, mut look: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<Seen<T>>>,
    {
        let start = Instant::now();
        let mut pause = self.interval;
        let mut began = false;
        let mut last = Progress::default();
        loop {
            match look().await? {
                Seen::Idle(value) if began || start.elapsed() >= self.grace => return Ok(value),
                Seen::Idle(_) => {}
                Seen::Running(progress) => {
                    began = true;
                    last = progress;
                }
            }
            let left = self.timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Error::new(
                    Kind::Timeout,
                    format!(
                        "{what} has not ended within {} s, it is {}",
                        self.timeout.as_secs(),
                        last.phase
                    ),
                )
                .with_retryable(true));
            }
            tokio::time::sleep(jittered(pause).min(left)).await;
            pause = (pause + pause / 2).min(self.interval * 4);
        }
    }
}

/// Between three quarters of the pause and the whole of it, so that many waiters do not ask at once.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    let unit = match getrandom::fill(&mut byte) {
        Ok(()) => f64::from(byte[0]) / 255.0,
        Err(_) => 1.0,
    };
    pause.mul_f64(0.75 + unit / 4.0)
}
