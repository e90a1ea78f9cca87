//! What has to happen at a time: one queue and one task for all timers.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use boxrig_engine::Clock;
use tokio::sync::Notify;

use crate::state::lock;

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Due {
    /// The timer of this machine.
    Machine(String),
    /// The end of this staged object.
    Object(String),
    /// The end of this idempotency key.
    Key(String),
}

/// The queue: each thing at most once.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    earlier: Notify,
}

#[derive(Debug, Default)]
struct State {
    order: BTreeSet<(u64, Due)>,
    times: HashMap<Due, u64>,
}

impl Queue {
    /// Sets when `what` is due, in milliseconds since 1970; `None` takes it off.
    pub(super) fn set(&self, what: Due, at_ms: Option<u64>) {
        let mut state = lock(&self.state);
        let first = state.order.first().map(|(at, _)| *at);
        if let Some(old) = state.times.remove(&what) {
            state.order.remove(&(old, what.clone()));
        }
        if let Some(at) = at_ms {
            state.times.insert(what.clone(), at);
            state.order.insert((at, what));
            if first.is_none_or(|first| at < first) {
                self.earlier.notify_one();
            }
        }
    }

    /// Waits for the next thing that is due by `clock` and takes it off the queue.
    pub(super) async fn next(&self, clock: &dyn Clock) -> Due {
        loop {
            let first = lock(&self.state).order.first().map(|(at, _)| *at);
            let Some(at) = first else {
                self.earlier.notified().await;
                continue;
            };
            let when = SystemTime::UNIX_EPOCH + Duration::from_millis(at);
            tokio::select! {
                () = clock.sleep_until(when) => {}
                () = self.earlier.notified() => continue,
            }
            let mut state = lock(&self.state);
            // It may have been moved while this task slept.
            if state.order.first().is_some_and(|(first, _)| *first <= at)
                && let Some((_, what)) = state.order.pop_first()
            {
                state.times.remove(&what);
                return what;
            }
        }
    }

    /// Takes everything off.
    pub(super) fn clear(&self) {
        *lock(&self.state) = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boxrig_engine::VirtualClock;
    use std::sync::Arc;

    #[tokio::test]
    async fn things_come_in_order_and_can_be_moved() {
        let clock = VirtualClock::new(SystemTime::UNIX_EPOCH);
        let queue = Arc::new(Queue::default());
        let machine = |n: &str| Due::Machine(n.to_owned());
        queue.set(machine("late"), Some(3_000));
        queue.set(machine("moved"), Some(1_000));
        queue.set(machine("moved"), Some(2_000));
        queue.set(machine("gone"), Some(500));
        queue.set(machine("gone"), None);
        let task = {
            let (queue, clock) = (queue.clone(), clock.clone());
            tokio::spawn(async move {
                let mut seen = Vec::new();
                for _ in 0..4 {
                    seen.push(queue.next(&clock).await);
                }
                seen
            })
        };
        tokio::task::yield_now().await;
        clock.advance(Duration::from_millis(1_500));
        tokio::task::yield_now().await;
        // Earlier than everything the task sleeps for.
        queue.set(Due::Object("soon".to_owned()), Some(1_600));
        clock.advance(Duration::from_millis(10_000));
        queue.set(Due::Key("k".to_owned()), Some(20_000));
        clock.advance(Duration::from_millis(10_000));
        let seen = tokio::time::timeout(Duration::from_secs(5), task).await;
        assert_eq!(
            seen.unwrap().unwrap(),
            [
                Due::Object("soon".to_owned()),
                machine("moved"),
                machine("late"),
                Due::Key("k".to_owned())
            ]
        );
    }
}
