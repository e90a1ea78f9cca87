//! What is known of a connection.

use std::time::{Duration, SystemTime};

/// How the client says who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuthMethod {
    /// Name and password on every call.
    #[default]
    Basic,
    /// An API key on every call.
    Token,
    /// A session begun with name and password; its token on every call.
    Session,
}

impl AuthMethod {
    /// The word: `basic`, `token` or `session`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Token => "token",
            Self::Session => "session",
        }
    }
}

/// The facts of a connection, as of the moment they were asked for.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Connection {
    /// How it authenticates.
    pub method: AuthMethod,
    /// The user's name; empty with an API key.
    pub username: String,
    /// Whether the system has answered and the client was not disconnected since.
    pub is_connected: bool,
    /// When the system answered.
    pub connected_at: Option<SystemTime>,
    /// The platform's version (`yb_version`).
    pub vergeos_version: Option<String>,
    /// The version of its operating system.
    pub os_version: Option<String>,
    /// The cloud's name.
    pub cloud_name: Option<String>,
    /// Of a session: how long its token stays good if it is not used. The platform says nothing of it; this is the shortest
    /// idle time that was seen, 14 minutes, counted from the last call.
    pub token_expires_in: Option<Duration>,
}

impl Connection {
    #[cfg(feature = "transport")]
    pub(crate) fn begun(method: AuthMethod, username: String) -> Self {
        Self {
            method,
            username,
            ..Self::default()
        }
    }
    /// Whether calls can be expected to be let in: connected, and a session's token not past its idle time.
    pub fn is_token_valid(&self) -> bool {
        self.is_connected && self.token_expires_in != Some(Duration::ZERO)
    }
}
