//! How a command ends: exit codes, and errors on stderr.

use std::io::Write;

use boxrig_wire::{Error, Kind, Untrusted};
use serde_json::{Value, json};

/// The failure of `run`, `exec` and `shell` that is boxrig's own and not the command's.
pub(crate) const OWN: u8 = 125;

/// Why a command ends with another code than 0.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error, with the code that its kind has.
    Error(Error),
    /// An error of `run`, `exec` or `shell` itself: 125.
    Own(Error),
    /// Everything is said already.
    Code(u8),
}

/// How a command ends.
pub(crate) type Outcome = Result<(), Failure>;

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Error(e)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        // Whoever reads our output has read enough: not an error.
        if e.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::Code(0);
        }
        Self::Error(Error::new(Kind::Failed, e.to_string()))
    }
}

/// The exit code of an error, as documented in `docs/cli.md`.
pub(crate) const fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Invalid => 2,
        Kind::NotFound => 3,
        Kind::Conflict | Kind::Precondition => 4,
        Kind::Denied | Kind::Unauthenticated => 5,
        Kind::Quota | Kind::RateLimited | Kind::Unavailable | Kind::Timeout | Kind::Transport => 6,
        Kind::Unsupported => 7,
        Kind::OutcomeUnknown => 8,
        _ => 1,
    }
}

impl Failure {
    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Error(e) => code(e.kind()),
            Self::Own(_) => OWN,
            Self::Code(n) => *n,
        }
    }

    /// Says on stderr what there is to say.
    pub(crate) fn report(&self, as_json: bool) {
        let (Self::Error(e) | Self::Own(e)) = self else {
            return;
        };
        let text = if as_json {
            let error = json_error(e, self.exit_code()).to_string();
            format!("{}\n", boxrig_wire::escape_json(&error))
        } else {
            human(e, matches!(self, Self::Own(_)))
        };
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

/// `error: …` and `hint: …`; with the kind where the exit code does not say it.
pub(crate) fn human(e: &Error, with_kind: bool) -> String {
    let mut text = if with_kind {
        format!("error: {}: {e}\n", e.kind())
    } else {
        format!("error: {e}\n")
    };
    let mut source = std::error::Error::source(e);
    while let Some(cause) = source {
        let line = Untrusted::new(cause.to_string()).to_string();
        if !text.contains(&line) {
            text.push_str(&format!("  because: {line}\n"));
        }
        source = cause.source();
    }
    for line in e.hint().unwrap_or("").lines() {
        text.push_str(&format!("hint: {line}\n"));
    }
    text
}

/// The error as one JSON object on one line.
pub(crate) fn json_error(e: &Error, exit_code: u8) -> Value {
    let raw = |t: Option<&Untrusted>| t.map(|t| t.raw().to_owned());
    json!({"error": {
        "kind": e.kind().as_str(),
        "message": e.to_string(),
        "hint": e.hint(),
        "operation": e.operation(),
        "status": e.status().map(|s| s.as_u16()),
        "code": raw(e.code()),
        "server_message": raw(e.server_message()),
        "request_id": raw(e.request_id()),
        "retryable": e.is_retryable(),
        "exit_code": exit_code,
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_documented_code() {
        for (kind, wanted) in [
            (Kind::Failed, 1),
            (Kind::Invalid, 2),
            (Kind::NotFound, 3),
            (Kind::Conflict, 4),
            (Kind::Precondition, 4),
            (Kind::Denied, 5),
            (Kind::Unauthenticated, 5),
            (Kind::Unavailable, 6),
            (Kind::Timeout, 6),
            (Kind::Transport, 6),
            (Kind::RateLimited, 6),
            (Kind::Quota, 6),
            (Kind::Unsupported, 7),
            (Kind::OutcomeUnknown, 8),
            (Kind::Cancelled, 1),
            (Kind::Protocol, 1),
        ] {
            assert_eq!(code(kind), wanted, "{kind}");
        }
    }

    #[test]
    fn foreign_words_are_escaped_for_people_and_whole_for_programs() {
        let hostile = "no\u{1b}]0;owned\u{7}\nsuch thing";
        let e = Error::from_status(http::StatusCode::NOT_FOUND).with_server_message(hostile);
        let text = human(&e, false);
        assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
        let value = json_error(&e, 3);
        assert_eq!(value["error"]["server_message"], hostile);
        assert_eq!(value["error"]["kind"], "not_found");
        assert_eq!(value.to_string().lines().count(), 1);
    }
}
