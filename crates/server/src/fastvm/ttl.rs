//! The timer of a machine: a cycle counts down only while the machine runs and is frozen while it is paused.
//!
//! Source: reference/fastvm.md, §4 (TTL), after the SDKs' models and the vendor's API page.

use boxrig_wire::ApiError;
use serde::{Deserialize, Serialize};

use super::record::{Machine, Phase};

/// The longest cycle: one year.
pub(super) const MAX_SECONDS: u64 = 31_536_000;

/// What happens when the countdown reaches zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    /// The machine is paused, and the cycle armed anew for its next running session.
    Pause,
    /// The machine is removed.
    Delete,
}

impl Action {
    /// The word on the wire.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Delete => "delete",
        }
    }
}

/// A timer's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ttl {
    /// The length of a cycle.
    pub(super) seconds: u64,
    /// What happens at its end.
    pub(super) action: Action,
}

impl Ttl {
    /// Checks what a caller wants.
    ///
    /// # Errors
    ///
    /// Names the field, `ttl.seconds` or `ttl.action`.
    pub(super) fn checked(seconds: u64, action: &str) -> Result<Self, ApiError> {
        if !(1..=MAX_SECONDS).contains(&seconds) {
            return Err(ApiError::invalid(format!(
                "ttl.seconds: 1 to {MAX_SECONDS} (one year) is allowed"
            )));
        }
        let action = match action {
            "pause" => Action::Pause,
            "delete" => Action::Delete,
            _ => return Err(ApiError::invalid("ttl.action: pause or delete is allowed")),
        };
        Ok(Self { seconds, action })
    }

    /// The length of a cycle in milliseconds.
    pub(super) fn cycle_ms(self) -> u64 {
        self.seconds * 1000
    }
}

impl Machine {
    /// Starts a new cycle: at a new setting, at a refresh, at the first start.
    pub(super) fn arm(&mut self, now_ms: u64) {
        (self.expires_ms, self.remaining_ms) = match (self.ttl, self.phase) {
            (None, _) => (None, None),
            (Some(ttl), Phase::Paused) => (None, Some(ttl.cycle_ms())),
            (Some(ttl), _) => (Some(now_ms.saturating_add(ttl.cycle_ms())), None),
        };
    }

    /// Marks it paused and freezes the countdown.
    pub(super) fn freeze(&mut self, now_ms: u64) {
        self.phase = Phase::Paused;
        self.paused_ms = Some(now_ms);
        self.pause_snapshot = None;
        let left = self.expires_ms.take().map(|at| at.saturating_sub(now_ms));
        self.remaining_ms = match (self.ttl, left) {
            (None, _) => None,
            // Nothing is left: the cycle is over, and the next one is whole.
            (Some(ttl), None | Some(0)) => Some(ttl.cycle_ms()),
            (Some(_), left) => left,
        };
    }

    /// Marks it running and lets the countdown go on.
    pub(super) fn thaw(&mut self, now_ms: u64) {
        self.phase = Phase::Running;
        self.paused_ms = None;
        self.pause_snapshot = None;
        let left = self.remaining_ms.take();
        self.expires_ms = self
            .ttl
            .map(|ttl| now_ms.saturating_add(left.unwrap_or(ttl.cycle_ms())));
    }

    /// What the timer asks for now.
    pub(super) fn due(&self, now_ms: u64) -> Option<Action> {
        let at = self.expires_ms.filter(|_| self.phase == Phase::Running)?;
        self.ttl.filter(|_| at <= now_ms).map(|ttl| ttl.action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(action: Action) -> Machine {
        let text = r#"{"id":"a","name":"n","phase":"running","cpu":1,"memory_mib":1,"disk_gib":1,"created_ms":0}"#;
        let mut machine: Machine = serde_json::from_str(text).unwrap();
        machine.ttl = Some(Ttl {
            seconds: 10,
            action,
        });
        machine.arm(1_000);
        machine
    }

    #[test]
    fn a_cycle_freezes_and_goes_on() {
        let mut m = machine(Action::Pause);
        assert_eq!((m.expires_ms, m.remaining_ms), (Some(11_000), None));
        m.freeze(5_000);
        assert_eq!((m.expires_ms, m.remaining_ms), (None, Some(6_000)));
        assert_eq!(m.due(1_000_000), None, "a frozen timer does not fire");
        m.thaw(100_000);
        assert_eq!((m.expires_ms, m.remaining_ms), (Some(106_000), None));
        assert_eq!(m.due(105_999), None);
        assert_eq!(m.due(106_000), Some(Action::Pause));
    }

    #[test]
    fn expiry_by_pause_arms_a_whole_cycle() {
        let mut m = machine(Action::Pause);
        m.freeze(11_000);
        assert_eq!(m.remaining_ms, Some(10_000));
        m.thaw(20_000);
        assert_eq!(m.expires_ms, Some(30_000));
    }

    #[test]
    fn a_refresh_starts_a_whole_cycle_in_both_states() {
        let mut m = machine(Action::Delete);
        m.arm(9_000);
        assert_eq!(m.expires_ms, Some(19_000));
        m.freeze(18_000);
        m.arm(18_500);
        assert_eq!((m.expires_ms, m.remaining_ms), (None, Some(10_000)));
        m.ttl = None;
        m.arm(18_600);
        assert_eq!((m.expires_ms, m.remaining_ms), (None, None));
    }

    #[test]
    fn limits_name_the_field() {
        for (seconds, action, field) in [
            (0, "pause", "ttl.seconds"),
            (31_536_001, "delete", "ttl.seconds"),
            (5, "explode", "ttl.action"),
        ] {
            let e = Ttl::checked(seconds, action).unwrap_err();
            assert!(e.message.starts_with(field), "{}", e.message);
        }
        assert!(Ttl::checked(31_536_000, "delete").is_ok());
    }
}
