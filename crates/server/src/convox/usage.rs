//! How much of a processor a process uses, from the processor time it has used so far.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::state::lock;

/// Two looks that are nearer to each other say nothing new.
const SHORTEST: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    used: Duration,
    rate: f64,
}

/// The last look at each process.
#[derive(Debug, Default)]
pub(super) struct Usage(Mutex<BTreeMap<String, Look>>);

impl Usage {
    /// Thousandths of a processor between the last look and this one; 0 at the first.
    pub(super) fn cpu(&self, id: &str, used: Option<Duration>) -> f64 {
        let Some(used) = used else { return 0.0 };
        let now = Instant::now();
        let mut all = lock(&self.0);
        let rate = match all.get(id) {
            Some(last) if now - last.at < SHORTEST => return last.rate,
            Some(last) => {
                let spent = used.saturating_sub(last.used).as_secs_f64();
                spent / (now - last.at).as_secs_f64() * 1000.0
            }
            None => 0.0,
        };
        all.insert(
            id.to_owned(),
            Look {
                at: now,
                used,
                rate,
            },
        );
        rate
    }

    pub(super) fn forget(&self, id: &str) {
        lock(&self.0).remove(id);
    }
}
