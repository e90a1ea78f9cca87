//! Settings of a client, given, from the environment or from the vendor's files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use boxrig_transport::{Http, HttpBuilder};
use boxrig_wire::{BaseUrl, Caller, Error, Kind, Result, RetryPolicy, Secret, Transport};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::session::{Identity, Sessions};
use super::{CliConfig, Client, DEFAULT_TIMEOUT, Login, files};

/// The vendor's settings of retries, under the vendor's names; see [`Client::default_retries`].
#[derive(Clone, Debug, PartialEq)]
pub struct RetryConfig {
    /// Tries after the first, 3 by default; 0 switches retries off.
    pub max_retries: u32,
    /// The longest wait before the first retry, a second by default; it doubles from there.
    pub backoff_base: Duration,
    /// The longest wait before any retry, 30 s by default.
    pub backoff_max: Duration,
    /// Whether a 500 is tried again; not by default, since it may be permanent.
    pub retry_on_500: bool,
}

impl Default for RetryConfig {
    fn default() -> Self {
        let policy = Client::default_retries();
        Self {
            max_retries: policy.max_retries,
            backoff_base: policy.base,
            backoff_max: policy.cap,
            retry_on_500: false,
        }
    }
}

impl From<RetryConfig> for RetryPolicy {
    fn from(config: RetryConfig) -> Self {
        let mut policy = Self {
            max_retries: config.max_retries,
            base: config.backoff_base,
            cap: config.backoff_max,
            ..Client::default_retries()
        };
        if config.retry_on_500 {
            policy.statuses.push(500);
        }
        policy
    }
}

/// Settings of a [`Client`].
///
/// What is given counts first, then the environment ([`env`](Self::env)), then the files of the vendor's tool
/// ([`cli_config`](Self::cli_config)): each fills in only a host that is still missing.
///
/// ```
/// use boxrig_convox::Client;
/// let client = Client::builder()
///     .host("console.convox.com")
///     .api_key("your-deploy-key")
///     .rack("org/rack-name")
///     .build()
///     .unwrap();
/// assert_eq!(client.caller().base().to_string(), "https://console.convox.com");
/// ```
pub struct ClientBuilder {
    login: Login,
    actor: Option<String>,
    timeout: Option<Duration>,
    retry: RetryPolicy,
    headers: HeaderMap,
    transport: Option<Arc<dyn Transport>>,
    http: Option<HttpBuilder>,
    problem: Option<Error>,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("host", &self.login.host)
            .field("rack", &self.login.rack)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Begins a client's settings.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            login: Login::default(),
            actor: None,
            timeout: Some(DEFAULT_TIMEOUT),
            retry: Self::default_retries(),
            headers: HeaderMap::new(),
            transport: None,
            http: None,
            problem: None,
        }
    }

    /// A client with the settings of the environment: `RACK_URL`, or `CONVOX_HOST`, `CONVOX_PASSWORD` (or a token in
    /// `CONVOX_TOKEN`) and `CONVOX_RACK`; `CONVOX_ACTOR`. A variable that is empty counts as not set.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] without a host, [`Kind::Unauthenticated`] without a key.
    pub fn from_env() -> Result<Self> {
        Self::builder().env().build()
    }

    /// A client with a login of the vendor's command-line tool. Its session is used, renewed and written back.
    ///
    /// # Errors
    ///
    /// [`Kind::Unauthenticated`] when there is no such login.
    pub fn from_cli_config(config: &CliConfig) -> Result<Self> {
        Self::builder().cli_config(config).build()
    }

    /// A client of whatever this machine is set up for: the environment, else the vendor's tool.
    ///
    /// # Errors
    ///
    /// [`Kind::Unauthenticated`] when there is neither.
    pub fn discover() -> Result<Self> {
        Self::builder().env().cli_config(&CliConfig::new()).build()
    }
}

impl ClientBuilder {
    /// The console or rack: a host with a port where needed, or a URL. HTTPS unless the URL says otherwise.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.login.host = host.into();
        self
    }
    /// The deploy key (console), the rack's password, or the tool's token.
    pub fn api_key(mut self, key: impl Into<Secret>) -> Self {
        self.login.password = key.into();
        self
    }
    /// The user part of the credentials; `convox` when none is said, and it does not matter but for `jwt`.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.login.user = Some(user.into());
        self
    }
    /// A signed token, as `system().jwt_token()` makes them.
    pub fn jwt(mut self, token: impl Into<Secret>) -> Self {
        self.login.user = Some("jwt".to_owned());
        self.login.password = token.into();
        self
    }
    /// The rack behind a console, `org/rack`. Given without a host it is the host: a rack that is addressed directly.
    pub fn rack(mut self, rack: impl Into<String>) -> Self {
        self.login.rack = Some(rack.into());
        self
    }
    /// A session of the console.
    pub fn session(mut self, session: impl Into<Secret>) -> Self {
        self.login.session = Some(session.into());
        self
    }
    /// Keeps sessions of the host in this file, which has the form of the vendor's.
    pub fn session_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.login.session_file = Some(file.into());
        self
    }
    /// A host with its credentials, as [`CliConfig::login`] finds them.
    pub fn login(mut self, login: Login) -> Self {
        self.login = login;
        self
    }
    /// Who is named in the rack's audit trail.
    pub fn actor(mut self, name: impl Into<String>) -> Self {
        self.actor = Some(name.into());
        self
    }
    /// The deadline of a call over all its tries, 30 s by default; `None`: no limit.
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }
    /// When to try again; a [`RetryConfig`] or a policy.
    pub fn retry(mut self, retry: impl Into<RetryPolicy>) -> Self {
        self.retry = retry.into();
        self
    }
    /// With this header on every call.
    pub fn default_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
    /// Trusts the CA certificates of this file (PEM) beside the system's. Certificates are always verified.
    pub fn ca_file(mut self, file: impl AsRef<Path>) -> Self {
        match Http::builder().ca_file(file) {
            Ok(http) => self.http = Some(http.and_system_roots()),
            Err(e) => self.problem = Some(e),
        }
        self
    }
    /// Through connections with these settings: trust, proxies, pool, unix socket.
    pub fn http(mut self, http: HttpBuilder) -> Self {
        self.http = Some(http);
        self
    }
    /// Through this transport.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }
    /// Fills what is missing from the environment; see [`Client::from_env`].
    pub fn env(self) -> Self {
        self.env_from(|name| std::env::var(name).ok())
    }
    /// As [`env`](Self::env), from another source of variables.
    pub fn env_from(mut self, variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| variable(name).filter(|v: &String| !v.trim().is_empty());
        if self.actor.is_none() {
            self.actor = set("CONVOX_ACTOR");
        }
        let login = &mut self.login;
        if login.host.is_empty()
            && login.rack.is_none()
            && let Some(url) = set("RACK_URL")
        {
            match files::rack_url(&url) {
                Ok(found) => *login = found,
                Err(e) => self.problem = Some(e),
            }
            return self;
        }
        if login.host.is_empty() {
            login.host = set("CONVOX_HOST").unwrap_or_default();
        }
        if login.password.is_empty() {
            if let Some(password) = set("CONVOX_PASSWORD") {
                login.password = Secret::new(password);
            } else if let Some(token) = set("CONVOX_TOKEN") {
                login.user = Some("jwt".to_owned());
                login.password = Secret::new(token);
            }
        }
        if login.rack.is_none() {
            login.rack = set("CONVOX_RACK");
        }
        self
    }
    /// Takes a login of the vendor's tool when no credentials were given so far.
    pub fn cli_config(mut self, config: &CliConfig) -> Self {
        if self.login.password.is_empty() && self.problem.is_none() {
            let mut config = config.clone();
            if !self.login.host.is_empty() {
                config = config.host(&*self.login.host);
            }
            if let Some(rack) = &self.login.rack {
                config = config.rack(&**rack);
            }
            match config.login() {
                Ok(login) => self.login = login,
                Err(e) => self.problem = Some(e),
            }
        }
        self
    }

    /// Makes the client. No connection is made yet.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] without a host and for a setting that cannot be used, [`Kind::Unauthenticated`] without a key.
    pub fn build(self) -> Result<Client> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let mut login = self.login;
        if login.host.is_empty() {
            // With a rack alone, the rack is the host.
            login.host = login.rack.take().unwrap_or_default();
        }
        let host = login.host.trim();
        if host.is_empty() {
            return Err(Error::new(Kind::Invalid, "no host")
                .with_hint("give the console or rack, or set CONVOX_HOST or RACK_URL"));
        }
        if login.password.is_empty() {
            return Err(Error::new(Kind::Unauthenticated, "no key").with_hint(
                "give a deploy key or the rack's password, set CONVOX_PASSWORD, or log in with `convox login`",
            ));
        }
        let url = match host.contains("://") {
            true => host.to_owned(),
            false => format!("https://{host}"),
        };
        let base = BaseUrl::parse(&url)?;
        let inner: Arc<dyn Transport> = match (self.transport, self.http) {
            (Some(transport), _) => transport,
            (None, Some(http)) => Arc::new(http.build()?),
            (None, None) => Arc::new(Http::new()?),
        };
        let identity = Identity {
            user: login.user.unwrap_or_else(|| "convox".to_owned()),
            password: login.password,
            rack: login.rack,
            actor: self.actor,
        };
        let key = login.session_key.unwrap_or_else(|| login.host.clone());
        let store = login.session_file.map(|file| (file, key));
        let sessions = Sessions::new(inner, base.clone(), &identity, login.session, store)?;
        let caller = Caller::new(Arc::new(sessions), base)
            .with_headers(self.headers)
            .with_timeout(self.timeout)
            .with_retry(self.retry);
        Ok(Client::new(caller))
    }
}
