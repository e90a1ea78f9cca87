//! Waiting for a state, with the right ends and a deadline.

use std::time::Duration;

use boxrig_wire::{Error, Kind, Result};

use crate::{Capability, Compute, ComputeExt, ExecSpec, Instance, State};

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

/// What an instance is to have come to beyond its state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// It has an address.
    Ip,
    /// Commands run in it.
    Exec,
    /// Its first boot is done, as cloud-init says.
    CloudInit,
    /// This file, folder or socket is there.
    File(String),
}

/// Waits until a running instance has come to a condition, and gives it as it is then.
///
/// # Errors
///
/// [`Kind::Timeout`] at the deadline, [`Kind::Failed`] when it cannot come to that any more, [`Kind::Unsupported`] where the
/// platform runs no commands or the instance has no cloud-init.
pub async fn until(
    compute: &dyn Compute,
    id: &str,
    condition: &Condition,
    timeout: Duration,
) -> Result<Instance> {
    if *condition != Condition::Ip {
        compute.capabilities().require(Capability::Exec)?;
    }
    let asking = async {
        let mut pause = Duration::from_millis(25);
        loop {
            let now = match condition {
                Condition::Ip => compute.get(id).await,
                _ => compute.look(id).await,
            };
            match now {
                Ok(now) => {
                    WaitFor::Running.check(&now.state)?;
                    if now.state == State::Running && holds(compute, &now, condition).await? {
                        return Ok(now);
                    }
                }
                Err(e) if e.is_retryable() => {}
                Err(e) => return Err(e),
            }
            tokio::time::sleep(pause).await;
            pause = pause.mul_f64(1.6).min(Duration::from_secs(1));
        }
    };
    tokio::time::timeout(timeout, asking)
        .await
        .unwrap_or_else(|_| {
            let what = match condition {
                Condition::Ip => "no address",
                Condition::Exec => "no command runs in it",
                Condition::CloudInit => "its first boot is not done",
                Condition::File(_) => "the file is not there",
            };
            let words = format!("{what} after {timeout:?}");
            Err(Error::new(Kind::Timeout, words))
        })
}

async fn holds(compute: &dyn Compute, now: &Instance, condition: &Condition) -> Result<bool> {
    let command = match condition {
        Condition::Ip => return Ok(!now.ips.is_empty()),
        Condition::Exec => ExecSpec::new(["true"]),
        Condition::CloudInit => ExecSpec::new(["cloud-init", "status"]),
        Condition::File(path) => ExecSpec::new(["test", "-e", path]),
    };
    let done = match compute.run(&now.id, command).await {
        Ok(done) => done,
        // It may be on its way up, or down: the next look at its state tells.
        Err(e) if e.is_retryable() || e.kind() == Kind::Conflict => return Ok(false),
        Err(e) => return Err(e),
    };
    if *condition != Condition::CloudInit {
        return Ok(done.status.success());
    }
    let said = String::from_utf8_lossy(&done.stdout);
    match done.status.code {
        127 => Err(Error::new(Kind::Unsupported, "it has no cloud-init")),
        // 2: done, with errors that it has got over.
        _ if said.contains("status: done") => Ok(true),
        _ if said.contains("status: error") => Err(Error::new(
            Kind::Failed,
            "cloud-init has failed: `cloud-init status --long` says why",
        )),
        _ if said.contains("status: disabled") => Ok(true),
        _ => Ok(false),
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
            match compute.look(id).await {
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
