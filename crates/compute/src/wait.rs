//! Waiting for a state, with the right ends and a deadline.

use std::time::Duration;

use boxrig_wire::{Error, Kind, Result};

use crate::{Compute, Instance, State};

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitFor {
    /// Commands can run in it. Fails at once when it stops, fails or is being removed.
    Running,
    /// It is frozen.
    Paused,
    /// It does not run any more, whether stopped or failed.
    Stopped,
    /// It does not exist any more.
    Gone,
}

impl WaitFor {
    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Gone => "gone",
        }
    }

    /// Whether `state` is it.
    ///
    /// # Errors
    ///
    /// [`Kind::Failed`] when it can not come to that any more.
    pub fn check(self, state: &State) -> Result<bool> {
        let hopeless = match self {
            Self::Running | Self::Paused => state.is_terminal(),
            Self::Stopped | Self::Gone => false,
        };
        if hopeless {
            return Err(Error::new(
                Kind::Failed,
                format!("it is {state} and will not become {}", self.as_str()),
            ));
        }
        Ok(match self {
            Self::Running => *state == State::Running,
            Self::Paused => *state == State::Paused,
            Self::Stopped => matches!(state, State::Stopped | State::Failed),
            Self::Gone => false,
        })
    }
}

/// How to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// What for.
    pub wanted: WaitFor,
    /// How long at most.
    pub timeout: Duration,
}

impl Waiting {
    /// For `wanted`, 300 s at most.
    pub fn new(wanted: WaitFor) -> Self {
        Self {
            wanted,
            timeout: Duration::from_secs(300),
        }
    }

    /// This long at most.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Asks again and again: at first after 25 ms, then at longer distances up to 1 s. For backends whose platform has no
/// better way. Gives the instance, or `None` when it is [gone](WaitFor::Gone).
///
/// # Errors
///
/// [`Kind::Timeout`] at the deadline, [`Kind::Failed`] when it cannot come to that any more, and those of asking.
pub(crate) async fn poll<C: Compute + ?Sized>(
    compute: &C,
    id: &str,
    waiting: Waiting,
) -> Result<Option<Instance>> {
    let mut last = None;
    let asking = async {
        let mut pause = Duration::from_millis(25);
        loop {
            match compute.get(id).await {
                Ok(instance) => {
                    if waiting.wanted.check(&instance.state)? {
                        return Ok(Some(instance));
                    }
                    last = Some(instance.state);
                }
                Err(e) if e.kind() == Kind::NotFound && waiting.wanted == WaitFor::Gone => {
                    return Ok(None);
                }
                Err(e) if e.is_retryable() => {}
                Err(e) => return Err(e),
            }
            tokio::time::sleep(pause).await;
            pause = pause.mul_f64(1.6).min(Duration::from_secs(1));
        }
    };
    match tokio::time::timeout(waiting.timeout, asking).await {
        Ok(result) => result,
        Err(_) => {
            let state = last.map_or_else(String::new, |s| format!("; it is {s}"));
            Err(Error::new(
                Kind::Timeout,
                format!(
                    "not {} after {:?}{state}",
                    waiting.wanted.as_str(),
                    waiting.timeout
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_states_are_transitional_and_terminal_ones_fail() {
        let odd = State::from("hibernating");
        assert!(!WaitFor::Running.check(&odd).unwrap());
        assert!(WaitFor::Running.check(&State::Running).unwrap());
        assert!(!WaitFor::Running.check(&State::Paused).unwrap());
        for state in [State::Failed, State::Stopped, State::Deleting] {
            assert_eq!(
                WaitFor::Running.check(&state).unwrap_err().kind(),
                Kind::Failed
            );
        }
        assert!(WaitFor::Stopped.check(&State::Failed).unwrap());
        assert!(!WaitFor::Gone.check(&State::Deleting).unwrap());
    }
}
