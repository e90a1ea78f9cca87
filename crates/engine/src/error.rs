//! What can go wrong in an engine, told apart by meaning.

use std::{error, fmt, io};

/// The result of every engine call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an [`Error`] means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// No instance, snapshot, image or file of that name.
    NotFound,
    /// The name is taken.
    Exists,
    /// The instance is in a state in which the operation makes no sense (exec in a stopped one).
    InvalidState,
    /// An argument is malformed; the message names it.
    Invalid,
    /// This engine cannot do it at all; the message names the engine and what can.
    Unsupported,
    /// Refused by a permission inside the instance (a file's mode), not by the engine.
    Denied,
    /// A limit of the engine or of the instance is reached (disk, processes, log size).
    Limit,
    /// The host does not let this engine work; the message names the failing step, see
    /// [`crate::ProbeReport`] for the ways on.
    NotPermittedHere,
    /// The command to run does not exist in the instance (a shell says 127).
    CommandNotFound,
    /// The command exists and cannot be run (a shell says 126).
    CannotExecute,
    /// The instance ended while the operation ran.
    Gone,
    /// The operation took longer than it may.
    Timeout,
    /// The host's operating system refused something; see the source.
    Io,
}

/// An engine error: a [`Kind`], words for a person, and the cause when there is one.
///
/// Messages may quote names that came from a caller or a guest; whoever prints them must treat them
/// as hostile text.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<io::Error>,
}

impl Error {
    /// An error without a cause.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// An error of [`Kind::Io`] that says what was being done; `ENOSPC` and `EDQUOT` become [`Kind::Limit`].
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Limit,
            _ => Kind::Io,
        };
        Self::with_source(kind, doing, source)
    }

    /// An error with a cause.
    pub fn with_source(kind: Kind, message: impl Into<String>, source: io::Error) -> Self {
        Self {
            kind,
            message: message.into(),
            source: Some(source),
        }
    }

    /// What the error means.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The words without the cause.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The exit code a shell would give for a failure to start a command: 127 not found, 126 cannot run.
    pub fn shell_code(&self) -> Option<i32> {
        match self.kind {
            Kind::CommandNotFound => Some(127),
            Kind::CannotExecute => Some(126),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
