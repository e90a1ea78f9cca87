//! Credentials on requests, and a console's sessions.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxrig_wire::{
    BaseUrl, BoxFuture, Error, Idempotency, Kind, Outgoing, ReplyShape, Result, Secret, Transport,
    WireBody,
};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use serde::Deserialize;

use crate::client::files;
use crate::protocol::Challenge;

const RACK: HeaderName = HeaderName::from_static("rack");
const SESSION: HeaderName = HeaderName::from_static("session");
const ACTOR: HeaderName = HeaderName::from_static("x-convox-actor");

/// Who calls, and which rack is meant.
#[derive(Default)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) password: Secret,
    pub(crate) rack: Option<String>,
    pub(crate) actor: Option<String>,
}

/// Puts credentials, rack and session on requests, and answers a console's challenge.
pub(crate) struct Sessions {
    inner: Arc<dyn Transport>,
    base: BaseUrl,
    headers: HeaderMap,
    session: Mutex<Option<Secret>>,
    /// One task at a time asks for a session.
    renewing: tokio::sync::Mutex<()>,
    /// The vendor's file that sessions are kept in, and the host's name there.
    store: Option<(PathBuf, String)>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Sessions {
    pub(crate) fn new(
        inner: Arc<dyn Transport>,
        base: BaseUrl,
        identity: &Identity,
        session: Option<Secret>,
        store: Option<(PathBuf, String)>,
    ) -> Result<Self> {
        let mut headers = HeaderMap::new();
        let pair = Secret::new(format!("{}:{}", identity.user, identity.password.expose()));
        let basic = Secret::new(format!("Basic {}", STANDARD.encode(pair.expose())));
        headers.insert(AUTHORIZATION, sensitive(&basic, "the key")?);
        for (name, value, what) in [
            (RACK, &identity.rack, "the rack"),
            (ACTOR, &identity.actor, "the actor"),
        ] {
            if let Some(value) = value {
                headers.insert(name, header(value, what)?);
            }
        }
        Ok(Self {
            inner,
            base,
            headers,
            session: Mutex::new(session),
            renewing: tokio::sync::Mutex::new(()),
            store,
        })
    }

    fn current(&self) -> Option<Secret> {
        self.session
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .clone()
    }

    /// The headers of a request. In console mode there always is a session header, empty when there is none.
    fn on_request(&self) -> Result<HeaderMap> {
        let mut headers = self.headers.clone();
        match self.current() {
            Some(session) => headers.insert(SESSION, sensitive(&session, "the session")?),
            None if headers.contains_key(RACK) => {
                headers.insert(SESSION, HeaderValue::from_static(""))
            }
            None => None,
        };
        Ok(headers)
    }

    /// Gets a session from where the challenge says, and keeps it. `used` is the one that was refused.
    async fn renew(
        &self,
        challenge: &Challenge,
        used: Option<Secret>,
        out: &Context,
    ) -> Result<()> {
        let _one = self.renewing.lock().await;
        if self.current() != used {
            return Ok(()); // Somebody else was quicker.
        }
        let path = &challenge.path;
        if !path.starts_with('/') || path.starts_with("//") || path.contains('\\') {
            return Err(unauthenticated(
                "the console's challenge leads somewhere else",
            ));
        }
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", self.base.origin()))
            .body(WireBody::empty())
            .map_err(|e| {
                unauthenticated("the console's challenge has no usable path").with_source(e)
            })?;
        *request.headers_mut() = self.headers.clone();
        let answer = self
            .inner
            .send(Outgoing {
                request,
                operation: "console.Session",
                // A session that nobody uses does no harm.
                idempotency: Idempotency::Idempotent,
                reply: ReplyShape::Whole,
                timeout: out.timeout,
                retry: out.retry.clone(),
                reply_limit: 64 * 1024,
            })
            .await?;
        if !answer.status().is_success() {
            return Err(unauthenticated("the console gave no session")
                .with_hint("log in again with the vendor's tool, or take a deploy key"));
        }
        #[derive(Deserialize)]
        struct Session {
            id: Secret,
        }
        let body = answer.into_body().collect(64 * 1024).await.map_err(|e| {
            Error::new(Kind::Transport, "the session could not be read").with_source(e)
        })?;
        let session: Session = serde_json::from_slice(&body)
            .map_err(|_| Error::new(Kind::Protocol, "the console's session has no id"))?;
        // Checked before it is kept.
        sensitive(&session.id, "the session")?;
        if let Some((file, host)) = &self.store
            && let Err(e) = keep(file, host, &session.id)
        {
            // The session is good all the same: the next program asks for another one.
            drop(e);
        }
        *self.session.lock().unwrap_or_else(|e| e.into_inner()) = Some(session.id);
        Ok(())
    }
}

/// What is needed of a request to send another on its behalf.
struct Context {
    timeout: Option<std::time::Duration>,
    retry: boxrig_wire::RetryPolicy,
}

impl Transport for Sessions {
    fn send(&self, mut out: Outgoing) -> BoxFuture<'_, Result<Response<WireBody>>> {
        Box::pin(async move {
            let ours = format!("{}/", self.base.origin());
            if !out.request.uri().to_string().starts_with(&ours) {
                return self.inner.send(out).await;
            }
            let used = self.current();
            for (name, value) in &self.on_request()? {
                out.request.headers_mut().insert(name, value.clone());
            }
            let context = Context {
                timeout: out.timeout,
                retry: out.retry.clone(),
            };
            let again = out.try_clone();
            let answer = self.inner.send(out).await?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            let Some(challenge) = Challenge::read(answer.headers()).filter(|c| !c.token) else {
                return Ok(answer);
            };
            self.renew(&challenge, used, &context).await?;
            // A challenge says that nothing was done; a body that was streamed away cannot be sent again.
            let Some(mut again) = again else {
                return Err(unauthenticated("the console began a new session")
                    .with_retryable(true)
                    .with_hint(
                        "the body was a stream and cannot be sent again from here: do it once more",
                    ));
            };
            for (name, value) in &self.on_request()? {
                again.request.headers_mut().insert(name, value.clone());
            }
            self.inner.send(again).await
        })
    }
}

fn unauthenticated(words: &str) -> Error {
    Error::new(Kind::Unauthenticated, words)
}

fn header(text: &str, what: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text)
        .or_else(|_| HeaderValue::from_bytes(text.as_bytes()))
        .map_err(|_| {
            Error::new(
                Kind::Invalid,
                format!("{what} has a character that no header can carry"),
            )
        })
}

fn sensitive(secret: &Secret, what: &str) -> Result<HeaderValue> {
    let mut value = header(secret.expose(), what)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Writes the host's session into the vendor's file: whole or not at all, readable by the owner only.
fn keep(file: &Path, host: &str, session: &Secret) -> Result<()> {
    let mut sessions = files::map(file)?.unwrap_or_default();
    sessions.insert(host.to_owned(), session.clone());
    files::write(file, &sessions)
}
