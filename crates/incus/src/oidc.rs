//! OIDC: the device flow (RFC 8628), tokens in the standard tool's form, refresh.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use boxrig_transport::Http;
use boxrig_wire::{
    Authorize, BaseUrl, BoxFuture, CallOptions, Caller, Error, Kind, RawBody, RawRequest, Result,
    Secret, Transport, Untrusted,
};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::client::Client;
use crate::identity::write_private;

/// Says that we hold tokens: the server then answers 401 with its settings instead of treating us as a stranger.
const AUTHENTICATED: HeaderName = HeaderName::from_static("x-incus-authenticated");

/// How a server wants to be logged in to, as its 401 says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcSettings {
    /// The issuer's URL.
    pub issuer: String,
    /// Our id there.
    pub client_id: String,
    /// What the token is for, where the issuer wants it.
    pub audience: Option<String>,
    /// What is asked for.
    pub scopes: Vec<String>,
}

impl OidcSettings {
    /// Reads the headers of a 401.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let value = |name: &str| {
            let text = headers.get(name)?.to_str().ok()?.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        let scopes = value("x-incus-oidc-scopes").unwrap_or("openid,offline_access".to_owned());
        Some(Self {
            issuer: value("x-incus-oidc-issuer")?,
            client_id: value("x-incus-oidc-clientid")?,
            audience: value("x-incus-oidc-audience"),
            scopes: scopes.split(',').map(|s| s.trim().to_owned()).collect(),
        })
    }
}

impl Client {
    /// How the server wants OIDC logins; `None` when it has none.
    ///
    /// # Errors
    ///
    /// Those of the way to it.
    pub async fn oidc_settings(&self) -> Result<Option<OidcSettings>> {
        settings(self.caller()).await
    }
}

async fn settings(caller: &Caller) -> Result<Option<OidcSettings>> {
    let options = CallOptions::new().header(AUTHENTICATED, HeaderValue::from_static("true"));
    let request = RawRequest::new(Method::GET, "/1.0").options(options);
    let response = caller.raw_stream(request).await?;
    Ok(OidcSettings::from_headers(response.headers()))
}

/// The file's form: that of the standard tool; members that are not known are kept.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Tokens {
    access_token: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    token_type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    refresh_token: String,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// A login: tokens that are refreshed when the server does not take them any more. Clones share them.
#[derive(Clone)]
pub struct OidcSession(Arc<Inner>);

struct Inner {
    tokens: Mutex<Tokens>,
    file: Option<PathBuf>,
    issuer: Option<Arc<dyn Transport>>,
    /// The server, to be asked for its settings when they are needed.
    server: Mutex<Option<Caller>>,
    settings: Mutex<Option<OidcSettings>>,
    refreshing: tokio::sync::Mutex<()>,
}

impl fmt::Debug for OidcSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OidcSession")
    }
}

fn held<T>(lock: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(|e| e.into_inner())
}

impl OidcSession {
    fn new(tokens: Tokens, file: Option<PathBuf>, settings: Option<OidcSettings>) -> Self {
        Self(Arc::new(Inner {
            tokens: Mutex::new(tokens),
            file,
            issuer: None,
            server: Mutex::default(),
            settings: Mutex::new(settings),
            refreshing: tokio::sync::Mutex::default(),
        }))
    }

    /// The tokens that the standard tool keeps in a file; refreshed ones are written back (0600).
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when the file cannot be read; no part of it is in the error.
    pub fn from_file(path: &Path) -> Result<Self> {
        let wrong = |what: &str| {
            let shown = path.display().to_string();
            let shown = boxrig_wire::escape_line(&shown);
            Error::new(Kind::Invalid, format!("{what} {shown}"))
        };
        let text = std::fs::read(path).map_err(|e| wrong("cannot read").with_source(e))?;
        let tokens = serde_json::from_slice(&text).map_err(|_| wrong("no OIDC tokens are in"))?;
        Ok(Self::new(tokens, Some(path.to_owned()), None))
    }

    /// An access token from elsewhere, without refresh.
    pub fn from_access_token(token: &Secret) -> Self {
        let tokens = Tokens {
            access_token: token.expose().to_owned(),
            ..Tokens::default()
        };
        Self::new(tokens, None, None)
    }

    pub(crate) fn attach(&self, server: Caller) {
        *held(&self.0.server) = Some(server);
    }

    /// Writes the tokens where the standard tool looks for them, readable by the owner alone.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let tokens = held(&self.0.tokens).clone();
        let text = serde_json::to_vec(&tokens)
            .map_err(|e| Error::new(Kind::Failed, "tokens that are no JSON").with_source(e))?;
        write_private(path, &text)
    }

    async fn renew(&self, stale: &str) -> Result<bool> {
        let _one = self.0.refreshing.lock().await;
        let (access, refresh) = {
            let tokens = held(&self.0.tokens);
            (tokens.access_token.clone(), tokens.refresh_token.clone())
        };
        if access != stale {
            return Ok(true); // another task was faster
        }
        if refresh.is_empty() {
            return Ok(false);
        }
        let known = held(&self.0.settings).clone();
        let settings = match known {
            Some(settings) => settings,
            None => {
                let server = held(&self.0.server).clone();
                let Some(server) = server else {
                    return Ok(false);
                };
                let Some(found) = settings(&server).await? else {
                    return Ok(false);
                };
                *held(&self.0.settings) = Some(found.clone());
                found
            }
        };
        let issuer = Issuer::find(&settings, self.0.issuer.clone()).await?;
        let form = vec![
            ("grant_type".to_owned(), "refresh_token".to_owned()),
            ("refresh_token".to_owned(), refresh),
            ("client_id".to_owned(), settings.client_id.clone()),
        ];
        let Answer::Tokens(new) = issuer.token(form).await? else {
            return Ok(false);
        };
        self.put(*new);
        if let Some(file) = &self.0.file {
            self.save(file)?;
        }
        Ok(true)
    }

    fn put(&self, new: TokenAnswer) {
        let mut tokens = held(&self.0.tokens);
        tokens.access_token = new.access_token;
        tokens.token_type = new.token_type;
        if !new.refresh_token.is_empty() {
            tokens.refresh_token = new.refresh_token;
        }
        if !new.id_token.is_empty() {
            tokens.extra.insert("IDToken".into(), new.id_token.into());
        }
        let end = SystemTime::now() + Duration::from_secs(new.expires_in);
        if let Ok(end) = jiff::Timestamp::try_from(end) {
            tokens.extra.insert("expiry".into(), end.to_string().into());
        }
    }
}

impl Authorize for OidcSession {
    fn headers(&self) -> BoxFuture<'_, Result<HeaderMap>> {
        Box::pin(async move {
            let text = format!("Bearer {}", held(&self.0.tokens).access_token);
            let mut value = HeaderValue::from_str(&text).map_err(|_| {
                Error::new(Kind::Invalid, "the access token cannot be sent in a header")
            })?;
            value.set_sensitive(true);
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value);
            headers.insert(AUTHENTICATED, HeaderValue::from_static("true"));
            Ok(headers)
        })
    }

    fn refresh(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let stale = held(&self.0.tokens).access_token.clone();
            self.renew(&stale).await
        })
    }
}

/// A login that waits for somebody to confirm it in a browser.
pub struct DeviceLogin {
    settings: OidcSettings,
    issuer: Issuer,
    device_code: String,
    interval: Duration,
    expires: Duration,
    /// Where to go.
    pub verification_uri: Untrusted,
    /// The same with the code in it, where the issuer gives it.
    pub verification_uri_complete: Option<Untrusted>,
    /// What to type there.
    pub user_code: Untrusted,
}

impl fmt::Debug for DeviceLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceLogin")
            .field("verification_uri", &self.verification_uri)
            .field("user_code", &self.user_code)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct DeviceAnswer {
    device_code: String,
    user_code: String,
    verification_uri: String,
    #[serde(default)]
    verification_uri_complete: Option<String>,
    #[serde(default = "five")]
    interval: u64,
    #[serde(default = "ten_minutes")]
    expires_in: u64,
}

const fn five() -> u64 {
    5
}
const fn ten_minutes() -> u64 {
    600
}

impl DeviceLogin {
    /// Begins a login: show the user where to go, then [`wait`](Self::wait).
    ///
    /// # Errors
    ///
    /// Those of the issuer and of the way to it.
    pub async fn start(settings: OidcSettings) -> Result<Self> {
        Self::start_through(settings, None).await
    }

    /// [`start`](Self::start), with the transport to the issuer given.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn start_through(
        settings: OidcSettings,
        transport: Option<Arc<dyn Transport>>,
    ) -> Result<Self> {
        let issuer = Issuer::find(&settings, transport).await?;
        let endpoint = issuer
            .device
            .clone()
            .ok_or_else(|| Error::new(Kind::Unsupported, "the issuer has no device flow"))?;
        let mut form = vec![
            ("client_id".to_owned(), settings.client_id.clone()),
            ("scope".to_owned(), settings.scopes.join(" ")),
        ];
        if let Some(audience) = &settings.audience {
            form.push(("audience".to_owned(), audience.clone()));
        }
        let (status, body) = issuer.post(&endpoint, form).await?;
        let answer: DeviceAnswer = serde_json::from_slice(&body).map_err(|_| {
            Error::new(
                Kind::Protocol,
                format!("the issuer's answer (HTTP {status}) begins no login"),
            )
        })?;
        Ok(Self {
            settings,
            issuer,
            device_code: answer.device_code,
            interval: Duration::from_secs(answer.interval.clamp(1, 60)),
            expires: Duration::from_secs(answer.expires_in.min(3600)),
            verification_uri: Untrusted::new(answer.verification_uri),
            verification_uri_complete: answer.verification_uri_complete.map(Untrusted::new),
            user_code: Untrusted::new(answer.user_code),
        })
    }

    /// Waits until the login is confirmed.
    ///
    /// # Errors
    ///
    /// [`Kind::Denied`] when it was refused, [`Kind::Timeout`] when nobody came in time.
    pub async fn wait(self) -> Result<OidcSession> {
        let begun = tokio::time::Instant::now();
        let mut interval = self.interval;
        loop {
            tokio::time::sleep(interval).await;
            if begun.elapsed() > self.expires {
                return Err(Error::new(
                    Kind::Timeout,
                    "the login was not confirmed in time",
                ));
            }
            let form = vec![
                (
                    "grant_type".to_owned(),
                    "urn:ietf:params:oauth:grant-type:device_code".to_owned(),
                ),
                ("device_code".to_owned(), self.device_code.clone()),
                ("client_id".to_owned(), self.settings.client_id.clone()),
            ];
            match self.issuer.token(form).await? {
                Answer::Tokens(new) => {
                    let session = OidcSession::new(Tokens::default(), None, Some(self.settings));
                    session.put(*new);
                    return Ok(session);
                }
                Answer::Refused(code) => match &*code {
                    "authorization_pending" => {}
                    "slow_down" => interval += Duration::from_secs(5),
                    "expired_token" => {
                        return Err(Error::new(
                            Kind::Timeout,
                            "the login was not confirmed in time",
                        ));
                    }
                    _ => {
                        return Err(Error::new(Kind::Denied, "the issuer refused the login")
                            .with_code(code));
                    }
                },
            }
        }
    }
}

#[derive(Deserialize)]
struct Discovery {
    token_endpoint: String,
    #[serde(default)]
    device_authorization_endpoint: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TokenAnswer {
    access_token: String,
    token_type: String,
    refresh_token: String,
    id_token: String,
    expires_in: u64,
    error: String,
}

enum Answer {
    Tokens(Box<TokenAnswer>),
    Refused(String),
}

/// The issuer's addresses and the way to it.
struct Issuer {
    transport: Arc<dyn Transport>,
    token: String,
    device: Option<String>,
}

impl Issuer {
    async fn find(settings: &OidcSettings, transport: Option<Arc<dyn Transport>>) -> Result<Self> {
        let transport = match transport {
            Some(transport) => transport,
            None => Arc::new(Http::new()?),
        };
        let url = format!(
            "{}/.well-known/openid-configuration",
            settings.issuer.trim_end_matches('/')
        );
        let (caller, path) = split(&transport, &url)?;
        let response = caller
            .raw::<crate::Incus>(RawRequest::new(Method::GET, path))
            .await
            .map_err(|e| e.context("the OIDC issuer"))?;
        let found: Discovery = serde_json::from_slice(response.body()).map_err(|e| {
            Error::new(Kind::Protocol, "the OIDC issuer describes itself otherwise").with_source(e)
        })?;
        Ok(Self {
            transport,
            token: found.token_endpoint,
            device: found.device_authorization_endpoint,
        })
    }

    async fn post(&self, url: &str, form: Vec<(String, String)>) -> Result<(u16, bytes::Bytes)> {
        let (caller, path) = split(&self.transport, url)?;
        let request = RawRequest::new(Method::POST, path).body(RawBody::Form(form));
        let response = caller.raw_stream(request).await?;
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect(1024 * 1024)
            .await
            .map_err(|e| {
                Error::new(Kind::Transport, "the OIDC issuer's answer broke off").with_source(e)
            })?;
        Ok((status, body))
    }

    async fn token(&self, form: Vec<(String, String)>) -> Result<Answer> {
        let (status, body) = self.post(&self.token, form).await?;
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| {
            // The body is not quoted: it may hold a token.
            Error::new(
                Kind::Protocol,
                format!("the OIDC issuer's answer (HTTP {status}) is no token"),
            )
        })?;
        Ok(match answer.access_token.is_empty() {
            false => Answer::Tokens(Box::new(answer)),
            true => Answer::Refused(answer.error),
        })
    }
}

/// A caller for a URL's host, and the URL's path. Only https, and http to loopback: tokens go there.
fn split(transport: &Arc<dyn Transport>, url: &str) -> Result<(Caller, String)> {
    let uri: http::Uri = url.parse().map_err(|_| {
        Error::new(
            Kind::Protocol,
            "the OIDC issuer names an address that is none",
        )
    })?;
    let host = uri.host().unwrap_or_default();
    let loopback = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    if uri.scheme_str() != Some("https") && !loopback {
        return Err(Error::new(
            Kind::Protocol,
            "the OIDC issuer names an address that is not https",
        ));
    }
    let origin = format!(
        "{}://{}",
        uri.scheme_str().unwrap_or("https"),
        uri.authority().map_or("", |a| a.as_str())
    );
    let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    Ok((
        Caller::new(transport.clone(), BaseUrl::parse(&origin)?),
        path,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use boxrig_transport::InProcess;
    use boxrig_wire::WireBody;
    use http::Response;

    fn issuer() -> (Arc<dyn Transport>, Arc<Mutex<Vec<String>>>) {
        let seen = Arc::new(Mutex::new(Vec::<String>::new()));
        let log = seen.clone();
        let transport = InProcess::new(move |request: http::Request<WireBody>| {
            let log = log.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect(10_000).await.unwrap();
                let body = String::from_utf8_lossy(&body).into_owned();
                let path = parts.uri.path().to_owned();
                let asked = held(&log)
                    .iter()
                    .filter(|l| l.contains("device_code"))
                    .count();
                held(&log).push(format!("{path} {body}"));
                let json = match &*path {
                    "/.well-known/openid-configuration" => r#"{"token_endpoint":"https://i/token","device_authorization_endpoint":"https://i/device"}"#.to_owned(),
                    "/device" => r#"{"device_code":"d","user_code":"AB-CD","verification_uri":"https://i/go","interval":1}"#.to_owned(),
                    "/token" if body.contains("refresh_token=old") => r#"{"access_token":"fresh","token_type":"Bearer","expires_in":60}"#.to_owned(),
                    "/token" if asked == 0 => r#"{"error":"authorization_pending"}"#.to_owned(),
                    "/token" => r#"{"access_token":"first","refresh_token":"old","token_type":"Bearer","expires_in":60}"#.to_owned(),
                    _ => "{}".to_owned(),
                };
                Response::new(WireBody::full(json))
            }
        });
        (Arc::new(transport), seen)
    }

    fn settings() -> OidcSettings {
        let mut headers = HeaderMap::new();
        headers.insert("x-incus-oidc-issuer", HeaderValue::from_static("https://i"));
        headers.insert("x-incus-oidc-clientid", HeaderValue::from_static("me"));
        headers.insert("x-incus-oidc-audience", HeaderValue::from_static("aud"));
        OidcSettings::from_headers(&headers).unwrap()
    }

    #[tokio::test]
    async fn a_login_is_waited_for_and_refreshed() {
        let (transport, seen) = issuer();
        let login = DeviceLogin::start_through(settings(), Some(transport.clone()))
            .await
            .unwrap();
        assert_eq!(login.user_code.raw(), "AB-CD");
        let session = login.wait().await.unwrap();
        let text = format!("{:?}", session.headers().await.unwrap());
        assert!(
            text.contains("Sensitive") && !text.contains("first"),
            "{text}"
        );
        let asked = held(&seen).join("\n");
        assert!(
            asked.contains("scope=openid%20offline_access&audience=aud"),
            "{asked}"
        );

        let inner = Inner {
            tokens: Mutex::new(held(&session.0.tokens).clone()),
            file: Some(tempfile::tempdir().unwrap().keep().join("t.json")),
            issuer: Some(transport),
            server: Mutex::default(),
            settings: Mutex::new(Some(settings())),
            refreshing: tokio::sync::Mutex::default(),
        };
        let session = OidcSession(Arc::new(inner));
        assert!(session.refresh().await.unwrap());
        let path = session.0.file.clone().unwrap();
        let again = OidcSession::from_file(&path).unwrap();
        assert_eq!(held(&again.0.tokens).access_token, "fresh");
        assert_eq!(held(&again.0.tokens).refresh_token, "old");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn tokens_go_nowhere_unencrypted() {
        let (transport, _) = issuer();
        assert!(split(&transport, "http://evil/token").is_err());
        assert!(split(&transport, "http://127.0.0.1:1/token").is_ok());
    }
}
