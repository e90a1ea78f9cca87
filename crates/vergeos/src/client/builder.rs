//! Settings of a client, given or from the environment.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use boxrig_transport::{Http, HttpBuilder};
use boxrig_wire::{BaseUrl, Caller, Error, Kind, Result, RetryPolicy, Secret, Transport};

use super::credentials::Session;
use super::{Client, Credentials, RateBudget};

/// Settings of a [`Client`].
///
/// ```
/// use boxrig_vergeos::Client;
/// let client = Client::builder().host("verge.example:8443").username("admin").password("pw").build().unwrap();
/// assert_eq!(client.caller().base().to_string(), "https://verge.example:8443");
/// assert!(!client.is_connected());
/// ```
#[must_use]
pub struct ClientBuilder {
    host: Option<String>,
    username: Option<String>,
    password: Option<Secret>,
    token: Option<Secret>,
    session: bool,
    verify: Option<bool>,
    ca_file: Option<PathBuf>,
    pin: Option<String>,
    timeout: Option<Duration>,
    auto_connect: bool,
    retry: RetryPolicy,
    retry_total: Option<u32>,
    retry_backoff: Option<Duration>,
    budget: Option<RateBudget>,
    http: Option<HttpBuilder>,
    transport: Option<Arc<dyn Transport>>,
    problem: Option<Error>,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("host", &self.host)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Begins a client's settings.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            host: None,
            username: None,
            password: None,
            token: None,
            session: false,
            verify: None,
            ca_file: None,
            pin: None,
            timeout: None,
            auto_connect: true,
            retry: Client::default_retries(),
            retry_total: None,
            retry_backoff: None,
            budget: None,
            http: None,
            transport: None,
            problem: None,
        }
    }

    /// A client with the settings of the environment: `VERGE_HOST`, `VERGE_USERNAME` and `VERGE_PASSWORD` or `VERGE_TOKEN`,
    /// `VERGE_VERIFY_SSL` (`true`, `1` or `yes`; anything else is no), `VERGE_TIMEOUT` (whole seconds), `VERGE_RETRY_TOTAL`
    /// and `VERGE_RETRY_BACKOFF` (seconds).
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] without a host or for a value that cannot be read, [`Kind::Unauthenticated`] without credentials.
    pub fn from_env() -> Result<Self> {
        Self::builder().env().build()
    }
}

impl ClientBuilder {
    /// The system: a host name or address, with `:port` where it is not 443. `http://…` and `https://…` are taken as they are.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }
    /// The user's name.
    pub fn username(mut self, name: impl Into<String>) -> Self {
        self.username = Some(name.into());
        self
    }
    /// The user's password. An empty one counts as none.
    pub fn password(mut self, password: impl Into<Secret>) -> Self {
        self.password = Some(password.into());
        self
    }
    /// An API key; it wins over name and password.
    pub fn token(mut self, token: impl Into<Secret>) -> Self {
        self.token = Some(token.into());
        self
    }
    /// Begins a session with name and password instead of sending them on every call; begun again when its token is refused.
    pub fn session(mut self) -> Self {
        self.session = true;
        self
    }
    /// Whether the server's certificate is checked; it is unless this says no.
    pub fn verify_ssl(mut self, verify: bool) -> Self {
        self.verify = Some(verify);
        self
    }
    /// Trusts the CA in this file, and no other. Variables such as `REQUESTS_CA_BUNDLE` change nothing.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }
    /// Trusts the one certificate with this SHA-256 fingerprint.
    pub fn pin_sha256(mut self, hex: impl Into<String>) -> Self {
        self.pin = Some(hex.into());
        self
    }
    /// The deadline of a call over all its tries; 30 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
    /// Whether calls may be made before [`Client::connect`]; they may by default.
    pub fn auto_connect(mut self, yes: bool) -> Self {
        self.auto_connect = yes;
        self
    }
    /// Tries after the first, 3 by default.
    pub fn retry_total(mut self, retries: u32) -> Self {
        self.retry_total = Some(retries);
        self
    }
    /// The longest pause before the first retry, 1 s by default; it doubles from there.
    pub fn retry_backoff(mut self, pause: Duration) -> Self {
        self.retry_backoff = Some(pause);
        self
    }
    /// The statuses that are tried again: 429, 500, 502, 503 and 504 by default.
    pub fn retry_status_codes(mut self, statuses: impl IntoIterator<Item = u16>) -> Self {
        self.retry.statuses = statuses.into_iter().collect();
        self
    }
    /// Refuses calls beyond this budget before they are sent.
    pub fn budget(mut self, budget: RateBudget) -> Self {
        self.budget = Some(budget);
        self
    }
    /// Through connections with these settings: proxies, user agent. Trust is set here too then, not above.
    pub fn http(mut self, http: HttpBuilder) -> Self {
        self.http = Some(http);
        self
    }
    /// Through this transport.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }
    /// Fills what is not set from the environment; see [`Client::from_env`].
    pub fn env(self) -> Self {
        self.env_from(|name| std::env::var(name).ok())
    }
    /// As [`env`](Self::env), from another source of variables.
    pub fn env_from(mut self, variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| variable(name).filter(|v: &String| !v.is_empty());
        self.host = self.host.or_else(|| set("VERGE_HOST"));
        self.username = self.username.or_else(|| set("VERGE_USERNAME"));
        self.password = self
            .password
            .or_else(|| set("VERGE_PASSWORD").map(Secret::new));
        self.token = self.token.or_else(|| set("VERGE_TOKEN").map(Secret::new));
        if self.verify.is_none() {
            self.verify = set("VERGE_VERIFY_SSL")
                .map(|v| matches!(v.to_ascii_lowercase().as_str(), "true" | "1" | "yes"));
        }
        let mut wrong = None;
        let mut number = |name: &'static str| {
            let text = set(name)?;
            match text.trim().parse::<f64>() {
                Ok(n) if n.is_finite() && (0.0..1e9).contains(&n) => Some(n),
                _ => {
                    wrong = Some(Error::new(Kind::Invalid, format!("{name} is not a number")));
                    None
                }
            }
        };
        self.timeout = self
            .timeout
            .or_else(|| number("VERGE_TIMEOUT").map(Duration::from_secs_f64));
        self.retry_total = self
            .retry_total
            .or_else(|| number("VERGE_RETRY_TOTAL").map(|n| n as u32));
        self.retry_backoff = self
            .retry_backoff
            .or_else(|| number("VERGE_RETRY_BACKOFF").map(Duration::from_secs_f64));
        self.problem = self.problem.or(wrong);
        self
    }

    /// Makes the client. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] without a host or for a setting that cannot be used, [`Kind::Unauthenticated`] without credentials.
    pub fn build(self) -> Result<Client> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let host = self.host.as_deref().map(str::trim).unwrap_or("");
        if host.is_empty() {
            return Err(
                Error::new(Kind::Invalid, "no host").with_hint("give one, or set VERGE_HOST")
            );
        }
        let url = match host.contains("://") {
            true => host.to_owned(),
            false => format!("https://{host}"),
        };
        let base = BaseUrl::parse(&url)?;
        let username = self.username.unwrap_or_default();
        let password = self.password.unwrap_or_default();
        let credentials = match self.token.filter(|t| !t.is_empty()) {
            Some(token) => Credentials::Token(token),
            None if self.session => Credentials::Session { username, password },
            None => Credentials::Basic { username, password },
        };
        let transport = match (self.transport, self.http) {
            (Some(transport), _) => transport,
            (None, Some(http)) => Arc::new(http.build()?) as Arc<dyn Transport>,
            (None, None) => {
                let mut http = Http::builder();
                if let Some(path) = &self.ca_file {
                    http = http.ca_file(path)?;
                }
                if let Some(pin) = &self.pin {
                    http = http.pin_sha256(pin)?;
                }
                if self.verify == Some(false) {
                    http = http.danger_accept_any_certificate();
                }
                Arc::new(http.build()?)
            }
        };
        let mut retry = self.retry;
        retry.max_retries = self.retry_total.unwrap_or(retry.max_retries);
        retry.base = self.retry_backoff.unwrap_or(retry.base);
        let caller = Caller::new(transport, base)
            .with_retry(retry)
            .with_timeout(Some(self.timeout.unwrap_or(Duration::from_secs(30))));
        let session = Session::new(credentials, caller.clone(), self.auto_connect)?;
        let session = Arc::new(session);
        let caller = caller.with_auth(session.clone());
        Ok(Client::with_session(
            caller,
            host.to_owned(),
            session,
            self.budget,
        ))
    }

    /// Makes the client and connects it.
    ///
    /// # Errors
    ///
    /// Those of [`build`](Self::build) and [`Client::connect`].
    pub async fn connect(self) -> Result<Client> {
        let client = self.build()?;
        client.connect().await?;
        Ok(client)
    }
}
