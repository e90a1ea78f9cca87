//! Why a build failed.

use std::fmt;

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The Dockerfile cannot be read, or asks for something this builder does not do.
    Dockerfile,
    /// A file that is to be copied is missing, or lies outside of where it may be.
    Context,
    /// The image that a stage starts from is not there.
    Image,
    /// A command of the Dockerfile failed.
    Command,
    /// The engine cannot build at all.
    Unsupported,
    /// The engine failed; its words are in the message.
    Engine,
}

/// Why a build failed, and at which line.
///
/// The message quotes the Dockerfile and what programs said: whoever prints it must treat it as hostile text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError {
    /// What kind of failure it was.
    pub cause: Cause,
    /// The Dockerfile's line, counted from 1, when the failure has one.
    pub line: Option<u32>,
    /// The words, without the line.
    pub message: String,
}

/// The result of this crate's calls.
pub type Result<T, E = BuildError> = std::result::Result<T, E>;

impl BuildError {
    /// A failure without a line.
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self {
            cause,
            line: None,
            message: message.into(),
        }
    }

    /// The same failure, at this line unless it has one.
    #[must_use]
    pub fn at(mut self, line: u32) -> Self {
        self.line.get_or_insert(line);
        self
    }

    pub(crate) fn dockerfile(message: impl Into<String>) -> Self {
        Self::new(Cause::Dockerfile, message)
    }

    pub(crate) fn context(message: impl Into<String>) -> Self {
        Self::new(Cause::Context, message)
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "Dockerfile:{line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for BuildError {}

impl From<boxrig_engine::Error> for BuildError {
    fn from(error: boxrig_engine::Error) -> Self {
        Self::new(Cause::Engine, error.to_string())
    }
}
