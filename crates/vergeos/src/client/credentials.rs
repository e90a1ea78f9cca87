//! Who the client says it is.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use boxrig_wire::{
    Authorize, BoxFuture, CallOptions, Caller, Error, Json, Kind, Request, Result, Secret,
};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

#[cfg(feature = "transport")]
use super::AuthMethod;
use crate::ops::{Login, TokenCreate, TokenDelete};

const SESSION_TOKEN: HeaderName = HeaderName::from_static("x-yottabyte-token");
/// The shortest time after which a session's token was seen to be refused when it was not used.
const IDLE: Duration = Duration::from_secs(14 * 60);

/// Name and password, an API key, or a session. Never shown.
#[derive(Clone)]
pub enum Credentials {
    /// Name and password on every call.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An API key on every call.
    Token(Secret),
    /// A session that is begun with name and password when it is needed, and again when its token is refused.
    Session {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic(…)",
            Self::Token(_) => "Token(…)",
            Self::Session { .. } => "Session(…)",
        })
    }
}

/// Credentials at work.
pub(crate) struct Session {
    credentials: Credentials,
    /// Without credentials: it begins and ends sessions.
    caller: Caller,
    open: AtomicBool,
    token: Mutex<Option<(Secret, Instant)>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.credentials.fmt(f)
    }
}

fn sensitive(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Error::new(
            Kind::Invalid,
            "the credentials have a character that no header can carry",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

impl Session {
    #[cfg(feature = "transport")]
    pub(crate) fn new(credentials: Credentials, caller: Caller, open: bool) -> Result<Self> {
        let empty = match &credentials {
            Credentials::Token(token) => token.is_empty(),
            Credentials::Basic { username, password }
            | Credentials::Session { username, password } => {
                username.is_empty() || password.is_empty()
            }
        };
        if empty {
            return Err(Error::new(
                Kind::Unauthenticated,
                "no credentials: an API key, or a user name and a password",
            )
            .with_hint("set VERGE_TOKEN, or VERGE_USERNAME and VERGE_PASSWORD"));
        }
        Ok(Self {
            credentials,
            caller,
            open: AtomicBool::new(open),
            token: Mutex::new(None),
        })
    }
    #[cfg(feature = "transport")]
    pub(crate) fn method(&self) -> AuthMethod {
        match self.credentials {
            Credentials::Basic { .. } => AuthMethod::Basic,
            Credentials::Token(_) => AuthMethod::Token,
            Credentials::Session { .. } => AuthMethod::Session,
        }
    }
    #[cfg(feature = "transport")]
    pub(crate) fn username(&self) -> String {
        match &self.credentials {
            Credentials::Basic { username, .. } | Credentials::Session { username, .. } => {
                username.clone()
            }
            Credentials::Token(_) => String::new(),
        }
    }
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }
    pub(crate) fn close(&self) {
        self.open.store(false, Ordering::Release);
    }
    pub(crate) fn expires_in(&self) -> Option<Duration> {
        let token = self.token.lock().unwrap_or_else(|e| e.into_inner());
        let (_, used) = token.as_ref()?;
        Some(IDLE.saturating_sub(used.elapsed()))
    }
    fn take(&self) -> Option<Secret> {
        let mut token = self.token.lock().unwrap_or_else(|e| e.into_inner());
        token.take().map(|(secret, _)| secret)
    }

    pub(crate) async fn end(&self) -> Result<()> {
        self.close();
        let Some(token) = self.take() else {
            return Ok(());
        };
        let request = Request::<TokenDelete> {
            path: (token.expose().to_owned(),),
            query: Default::default(),
            headers: Default::default(),
            body: Default::default(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(SESSION_TOKEN, sensitive(token.expose())?);
        let mut options = CallOptions::new();
        options.headers = headers;
        match self.caller.call(request, &options).await {
            // It had ended by itself.
            Err(e) if matches!(e.kind(), Kind::Unauthenticated | Kind::NotFound) => Ok(()),
            done => done.map(|_| ()),
        }
    }

    async fn log_in(&self, username: &str, password: &Secret) -> Result<HeaderValue> {
        let request = Request::<TokenCreate> {
            path: (),
            query: Default::default(),
            headers: Default::default(),
            body: Json(Login {
                login: username.to_owned(),
                password: password.clone(),
            }),
        };
        // A session that was begun and not heard of idles out: beginning another one does no harm.
        let mut options = CallOptions::new();
        options.idempotency = Some(boxrig_wire::Idempotency::Idempotent);
        let reply = self.caller.call(request, &options).await?;
        let receipt = reply.receipt();
        let token = receipt.key.as_ref().and_then(serde_json::Value::as_str);
        let token = token.filter(|t| !t.is_empty()).ok_or_else(|| {
            Error::new(Kind::Protocol, "the session has no token").with_operation("token_create")
        })?;
        let value = sensitive(token)?;
        let mut place = self.token.lock().unwrap_or_else(|e| e.into_inner());
        *place = Some((Secret::new(token), Instant::now()));
        Ok(value)
    }

    async fn value(&self) -> Result<(HeaderName, HeaderValue)> {
        if !self.is_open() {
            return Err(Error::new(Kind::Unavailable, "the client is not connected")
                .with_retryable(false)
                .with_hint("call connect() first"));
        }
        match &self.credentials {
            Credentials::Basic { username, password } => {
                let text = base64::engine::general_purpose::STANDARD
                    .encode(format!("{username}:{}", password.expose()));
                Ok((AUTHORIZATION, sensitive(&format!("Basic {text}"))?))
            }
            Credentials::Token(token) => {
                let value = sensitive(&format!("Bearer {}", token.expose()))?;
                Ok((AUTHORIZATION, value))
            }
            Credentials::Session { username, password } => {
                {
                    let mut token = self.token.lock().unwrap_or_else(|e| e.into_inner());
                    if let Some((secret, used)) = token.as_mut() {
                        *used = Instant::now();
                        return Ok((SESSION_TOKEN, sensitive(secret.expose())?));
                    }
                }
                Ok((SESSION_TOKEN, self.log_in(username, password).await?))
            }
        }
    }
}

impl Authorize for Session {
    fn headers(&self) -> BoxFuture<'_, Result<HeaderMap>> {
        Box::pin(async { Ok(HeaderMap::from_iter([self.value().await?])) })
    }
    /// A session's token idles out; the next call begins another session.
    fn refresh(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async {
            let session = matches!(self.credentials, Credentials::Session { .. });
            Ok(session && self.take().is_some())
        })
    }
}
