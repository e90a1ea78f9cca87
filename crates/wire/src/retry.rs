//! When a request may be sent again. Pure decisions; `boxrig-transport` carries them out.
//!
//! The table is written out in `docs/retry.md` and tested cell by cell.

use std::time::Duration;

use http::StatusCode;

use crate::Idempotency;

/// How far a request had come when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing was written: no connection, no free slot, a refused handshake.
    BeforeSend,
    /// Part of the request was written; the server cannot have read it to the end.
    MidBody,
    /// The request was written whole, or it cannot be excluded.
    AfterSend,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Send it again.
    Retry,
    /// Give the error to the caller as it is.
    Fail,
    /// Give the caller `OutcomeUnknown`: it may have happened.
    OutcomeUnknown,
}

/// How often, when and on what a request is sent again. Defaults are set per platform, and can be
/// changed per client and per call.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Tries after the first one.
    pub max_retries: u32,
    /// The longest wait before the first retry; it doubles from there.
    pub base: Duration,
    /// The longest wait before any retry.
    pub cap: Duration,
    /// Statuses that are tried again (where the method allows it).
    pub statuses: Vec<u16>,
    /// Whether any status ≥ 500 is tried again, listed or not.
    pub server_errors: bool,
    /// A longer `Retry-After` than this ends the retries; the error carries the time.
    pub longest_retry_after: Duration,
}

impl Default for RetryPolicy {
    /// Two retries on 408, 425, 429, 502, 503 and 504; half a second doubling to eight.
    fn default() -> Self {
        Self {
            max_retries: 2,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(8),
            statuses: vec![408, 425, 429, 502, 503, 504],
            server_errors: false,
            longest_retry_after: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// No retries at all.
    pub fn none() -> Self {
        Self {
            max_retries: 0,
            ..Self::default()
        }
    }

    /// Whether the policy names this status at all.
    pub fn names_status(&self, status: StatusCode) -> bool {
        self.statuses.contains(&status.as_u16()) || (self.server_errors && status.as_u16() >= 500)
    }

    /// What a failure without an answer allows.
    pub fn on_broken(&self, idempotency: Idempotency, phase: Phase) -> Decision {
        match (idempotency, phase) {
            (_, Phase::BeforeSend) => Decision::Retry,
            (Idempotency::Safe | Idempotency::Idempotent | Idempotency::Token, _) => {
                Decision::Retry
            }
            // A server that acts on half a body is not excluded by anything we could see.
            (Idempotency::Never, Phase::MidBody | Phase::AfterSend) => Decision::OutcomeUnknown,
        }
    }

    /// What an answer with an error status allows. `phase` is how much of the request had been
    /// written when the answer came.
    pub fn on_status(
        &self,
        idempotency: Idempotency,
        status: StatusCode,
        _phase: Phase,
    ) -> Decision {
        if !self.names_status(status) {
            return Decision::Fail;
        }
        match idempotency {
            Idempotency::Safe | Idempotency::Idempotent | Idempotency::Token => Decision::Retry,
            Idempotency::Never => match status.as_u16() {
                // Refused before it was looked at, says the status itself.
                425 | 429 => Decision::Retry,
                // A gateway lost its upstream: the request may have been handed on.
                408 | 502 | 504 => Decision::OutcomeUnknown,
                // 503 from the platform itself means "not now"; from a gateway it may not.
                // 409 and 500 are answers about something that was looked at.
                _ => Decision::Fail,
            },
        }
    }

    /// The wait before retry number `retry` (from 0) when the server named none: a random part of
    /// `base · 2^retry`, at most `cap` (full jitter). `unit` is in `0.0..1.0`.
    pub fn backoff(&self, retry: u32, unit: f64) -> Duration {
        let ceiling = self
            .base
            .saturating_mul(1u32.checked_shl(retry).unwrap_or(u32::MAX))
            .min(self.cap);
        ceiling.mul_f64(unit.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Decision::{Fail, OutcomeUnknown, Retry};
    use Idempotency::{Idempotent, Never, Safe, Token};

    /// The table of `docs/retry.md`, read from the document itself, against the code: every cell.
    #[test]
    fn every_cell_of_the_written_table() {
        let text = include_str!("../../../docs/retry.md");
        let policy = RetryPolicy {
            statuses: vec![408, 409, 425, 429, 500, 502, 503, 504],
            ..RetryPolicy::default()
        };
        let mut cells = 0;
        for line in text.lines().filter(|l| l.starts_with("| ")) {
            let cols: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let idempotency = match cols[0] {
                "safe" => Safe,
                "idempotent" => Idempotent,
                "token" => Token,
                "never" => Never,
                _ => continue,
            };
            for (phase, cell) in [Phase::BeforeSend, Phase::MidBody, Phase::AfterSend]
                .iter()
                .zip(&cols[2..])
            {
                let expected = match *cell {
                    "retry" => Retry,
                    "fail" => Fail,
                    "unknown" => OutcomeUnknown,
                    "–" => continue,
                    other => panic!("{other:?} in {line}"),
                };
                let decision = match cols[1] {
                    "no answer" => policy.on_broken(idempotency, *phase),
                    status => policy.on_status(
                        idempotency,
                        StatusCode::from_bytes(status.as_bytes()).unwrap(),
                        *phase,
                    ),
                };
                assert_eq!(decision, expected, "{line} {phase:?}");
                cells += 1;
            }
        }
        assert_eq!(
            cells,
            4 * (3 + 8 * 2),
            "cells of the table in docs/retry.md"
        );
    }

    #[test]
    fn waits_grow_to_the_cap_and_are_jittered() {
        let p = RetryPolicy::default();
        assert_eq!(p.backoff(0, 1.0), Duration::from_millis(500));
        assert_eq!(p.backoff(3, 1.0), Duration::from_secs(4));
        assert_eq!(p.backoff(40, 1.0), Duration::from_secs(8));
        assert_eq!(p.backoff(3, 0.0), Duration::ZERO);
    }
}
