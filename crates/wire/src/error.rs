//! Errors by meaning.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::Untrusted;

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error means, the same for every platform. Programs match on this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// The thing named does not exist, or not for this caller.
    NotFound,
    /// The state of the thing forbids it: taken name, wrong state, lock held.
    Conflict,
    /// The caller is known and may not do this.
    Denied,
    /// The caller is not known: missing, wrong or expired credentials.
    Unauthenticated,
    /// The request is wrong in itself; sending it again cannot help.
    Invalid,
    /// A condition sent along (an ETag, an expected version) does not hold any more.
    Precondition,
    /// A quota is used up.
    Quota,
    /// Too many requests; later is fine.
    RateLimited,
    /// The platform or a part of it is not there at the moment.
    Unavailable,
    /// The deadline passed, and it is known that nothing was changed or only reading was asked.
    Timeout,
    /// The caller, or somebody else, cancelled it.
    Cancelled,
    /// The platform, server or backend does not do this.
    Unsupported,
    /// The request may or may not have taken effect, and it cannot be found out from here.
    OutcomeUnknown,
    /// No connection, or it broke before anything was done.
    Transport,
    /// The answer is not what the protocol says.
    Protocol,
    /// Everything else: the platform failed within itself.
    Failed,
}

impl Kind {
    /// The name in JSON, logs and on the command line, for example `not_found`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Unauthenticated => "unauthenticated",
            Self::Invalid => "invalid",
            Self::Precondition => "precondition",
            Self::Quota => "quota",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Unsupported => "unsupported",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Transport => "transport",
            Self::Protocol => "protocol",
            Self::Failed => "failed",
        }
    }

    /// The meaning of an HTTP status where the platform says nothing more exact.
    pub const fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            400 | 405 | 406 | 411 | 413 | 414 | 415 | 422 | 431 => Self::Invalid,
            401 => Self::Unauthenticated,
            403 | 451 => Self::Denied,
            404 | 410 => Self::NotFound,
            408 => Self::Timeout,
            409 | 423 => Self::Conflict,
            412 | 428 => Self::Precondition,
            425 | 429 => Self::RateLimited,
            501 | 505 => Self::Unsupported,
            502..=504 => Self::Unavailable,
            507 => Self::Quota,
            _ => Self::Failed,
        }
    }

    /// Whether trying the same later can help, as far as the meaning alone tells.
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::RateLimited | Self::Unavailable | Self::Timeout | Self::Transport
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error of a call: what it means, which operation, and what the server said in its own words.
///
/// Its `Display` is one safe line without secrets; the server's words are escaped in it.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    retryable: bool,
    message: String,
    operation: Option<&'static str>,
    status: Option<StatusCode>,
    code: Option<Untrusted>,
    server: Option<Untrusted>,
    body: Option<Untrusted>,
    request_id: Option<Untrusted>,
    retry_after: Option<Duration>,
    hint: Option<String>,
    attempts: u32,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of our own, in our own words (safe text, no secret, no foreign text).
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            retryable: kind.is_retryable(),
            message: message.into(),
            operation: None,
            status: None,
            code: None,
            server: None,
            body: None,
            request_id: None,
            retry_after: None,
            hint: None,
            attempts: 1,
            source: None,
        }))
    }

    /// An error that the server answered.
    pub fn from_status(status: StatusCode) -> Self {
        let mut e = Self::new(Kind::of_status(status), String::new());
        e.0.status = Some(status);
        e
    }

    /// Sets the kind and, with it, whether it is retryable.
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self.0.retryable = kind.is_retryable();
        self
    }
    /// Sets whether trying again can help.
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }
    /// Names the operation, by its id in the catalogue.
    pub fn with_operation(mut self, id: &'static str) -> Self {
        self.0.operation = Some(id);
        self
    }
    /// Adds the server's own words.
    pub fn with_server_message(mut self, text: impl Into<Untrusted>) -> Self {
        self.0.server = Some(text.into());
        self
    }
    /// Adds the server's machine-readable token, such as `VOL_NOT_READY`.
    pub fn with_code(mut self, code: impl Into<Untrusted>) -> Self {
        self.0.code = Some(code.into());
        self
    }
    /// Keeps the server's body, cut at a sane size.
    pub fn with_body(mut self, body: &[u8]) -> Self {
        const KEEP: usize = 64 * 1024;
        let cut = &body[..body.len().min(KEEP)];
        self.0.body = Some(Untrusted::new(String::from_utf8_lossy(cut)));
        self
    }
    /// Adds the id under which the platform logged the request.
    pub fn with_request_id(mut self, id: impl Into<Untrusted>) -> Self {
        self.0.request_id = Some(id.into());
        self
    }
    /// Adds how long the server asked to wait.
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }
    /// Adds what the reader can do about it (our words).
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }
    /// Says how often it was tried in all.
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.0.attempts = attempts;
        self
    }
    /// Adds the error underneath.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }
    /// Puts words in front of the message, outermost first.
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.0.message = if self.0.message.is_empty() {
            what.to_string()
        } else {
            format!("{what}: {}", self.0.message)
        };
        self
    }

    /// What it means.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }
    /// Our own words.
    pub fn message(&self) -> &str {
        &self.0.message
    }
    /// The id of the operation that failed.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }
    /// The HTTP status, when there was an answer.
    pub fn status(&self) -> Option<StatusCode> {
        self.0.status
    }
    /// The server's machine-readable token.
    pub fn code(&self) -> Option<&Untrusted> {
        self.0.code.as_ref()
    }
    /// The server's own words.
    pub fn server_message(&self) -> Option<&Untrusted> {
        self.0.server.as_ref()
    }
    /// The server's body.
    pub fn body(&self) -> Option<&Untrusted> {
        self.0.body.as_ref()
    }
    /// The platform's id of the request.
    pub fn request_id(&self) -> Option<&Untrusted> {
        self.0.request_id.as_ref()
    }
    /// How long the server asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
    /// What the reader can do about it.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
    /// How often it was tried.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        if let Some(operation) = e.operation {
            write!(f, "{operation}: ")?;
        }
        let mut wrote = false;
        let mut part = |f: &mut fmt::Formatter<'_>, text: &dyn fmt::Display| {
            let sep = if std::mem::replace(&mut wrote, true) {
                ": "
            } else {
                ""
            };
            write!(f, "{sep}{text}")
        };
        if !e.message.is_empty() {
            part(f, &e.message)?;
        }
        if let Some(server) = e.server.as_ref().filter(|s| !s.is_empty()) {
            part(f, server)?;
        } else if let Some(code) = &e.code {
            part(f, code)?;
        }
        if !wrote {
            f.write_str(e.kind.as_str())?;
        }
        if let Some(status) = e.status {
            write!(f, " (HTTP {})", status.as_u16())?;
        }
        if e.attempts > 1 {
            write!(f, " after {} attempts", e.attempts)?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|s| &**s as &(dyn StdError + 'static))
    }
}

/// An error as a server's handler gives it: the meaning and the words. The protocol decides how it
/// looks on the wire ([`crate::Protocol::encode_error`]).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ApiError {
    /// What it means; decides the status unless `status` is set.
    pub kind: Kind,
    /// The words for the caller.
    pub message: String,
    /// A token of the platform, such as `vm_service_quota_exceeded`.
    pub code: Option<&'static str>,
    /// The status, where the platform's differs from the usual one for the kind.
    pub status: Option<StatusCode>,
    /// Further members of a JSON error body.
    pub details: serde_json::Map<String, serde_json::Value>,
    /// Seconds to announce in `Retry-After`.
    pub retry_after: Option<u64>,
}

impl ApiError {
    /// An error with words.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            code: None,
            status: None,
            details: serde_json::Map::new(),
            retry_after: None,
        }
    }
    /// The thing named does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }
    /// The request is wrong; name the field in the message.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }
    /// The state forbids it.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }
    /// This server does not do the operation; answers 501 and names it.
    pub fn not_implemented(operation: &str) -> Self {
        let mut e = Self::new(
            Kind::Unsupported,
            format!("{operation} is not implemented by this server"),
        );
        e.details.insert("operation".into(), operation.into());
        e
    }
    /// Sets the status.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }
    /// Sets the platform's token.
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }
    /// Adds a member to the JSON body.
    pub fn with_detail(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// The HTTP status to answer with.
    pub fn http_status(&self) -> StatusCode {
        self.status.unwrap_or(match self.kind {
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Denied => StatusCode::FORBIDDEN,
            Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::Precondition => StatusCode::PRECONDITION_FAILED,
            Kind::Quota | Kind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        })
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl StdError for ApiError {}
