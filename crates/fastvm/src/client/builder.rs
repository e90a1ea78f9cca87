//! Settings of a client, given or from the environment.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use boxrig_transport::{Http, HttpBuilder};
use boxrig_wire::{
    Authorize, BaseUrl, BoxFuture, Caller, Error, Kind, Outgoing, Result, RetryPolicy, Secret,
    Transport, WireBody,
};
use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Response, Uri};

use super::Client;

/// The hosted service.
const HOSTED: &str = "https://api.fastvm.org";
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// How much a client tells on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogLevel {
    /// A line for each call: operation, method, host and path, status, time.
    Info,
    /// Also when a call begins, and the whole error of one that fails.
    Debug,
}

enum Credentials {
    Key(Secret),
    Bearer(Secret),
}

/// Settings of a [`Client`].
///
/// ```
/// use boxrig_fastvm::Client;
/// use std::time::Duration;
/// let client = Client::builder()
///     .api_key("hlm_123")
///     .base_url("http://127.0.0.1:7979")
///     .timeout(Some(Duration::from_secs(20)))
///     .max_retries(4)
///     .build()
///     .unwrap();
/// assert_eq!(client.caller().base().to_string(), "http://127.0.0.1:7979");
/// ```
pub struct ClientBuilder {
    credentials: Option<Credentials>,
    base_url: Option<String>,
    timeout: Option<Option<Duration>>,
    connect_timeout: Duration,
    retry: RetryPolicy,
    headers: HeaderMap,
    query: Vec<(String, String)>,
    transport: Option<Arc<dyn Transport>>,
    http: Option<HttpBuilder>,
    log: Option<LogLevel>,
    problem: Option<Error>,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Begins a client's settings.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            credentials: None,
            base_url: None,
            timeout: None,
            connect_timeout: Duration::from_secs(5),
            retry: Client::default_retries(),
            headers: HeaderMap::new(),
            query: Vec::new(),
            transport: None,
            http: None,
            log: None,
            problem: None,
        }
    }

    /// A client with the settings of the environment: `FASTVM_API_KEY`, `FASTVM_BASE_URL`, `FASTVM_CUSTOM_HEADERS` (one
    /// `Name: value` a line) and `FASTVM_LOG` (`info` or `debug`). A variable that is empty counts as not set.
    ///
    /// # Errors
    ///
    /// [`Kind::Unauthenticated`] without a key, [`Kind::Invalid`] for a value that cannot be used.
    pub fn from_env() -> Result<Self> {
        Self::builder().env().build()
    }
}

impl ClientBuilder {
    /// With this API key.
    pub fn api_key(mut self, key: impl Into<Secret>) -> Self {
        self.credentials = Some(Credentials::Key(key.into()));
        self
    }
    /// With a token of a browser's session instead of a key.
    pub fn bearer(mut self, token: impl Into<Secret>) -> Self {
        self.credentials = Some(Credentials::Bearer(token.into()));
        self
    }
    /// Where the service is; the hosted one by default.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = Some(url.into());
        self
    }
    /// The deadline of a call over all its tries, 60 s by default; `None`: no limit.
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = Some(timeout);
        self
    }
    /// How long a connection may take to be made, 5 s by default. Not used with [`transport`](Self::transport).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }
    /// Tries after the first, 2 by default; launch, run and their like have none unless the call says so.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.retry.max_retries = retries;
        self
    }
    /// When to try again, instead of [`Client::default_retries`].
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }
    /// With this header on every call to the service.
    pub fn default_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
    /// With this query value on every call to the service.
    pub fn default_query(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.query.push((name.into(), value.into()));
        self
    }
    /// Through this transport.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }
    /// Through connections with these settings: trust, proxies, unix socket.
    pub fn http(mut self, http: HttpBuilder) -> Self {
        self.http = Some(http);
        self
    }
    /// Tells on standard error what is called. Programs that have a `tracing` subscriber get more from that.
    pub fn log(mut self, level: LogLevel) -> Self {
        self.log = Some(level);
        self
    }
    /// Fills what is not set from the environment; see [`Client::from_env`].
    pub fn env(self) -> Self {
        self.env_from(|name| std::env::var(name).ok())
    }
    /// As [`env`](Self::env), from another source of variables.
    pub fn env_from(mut self, variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| variable(name).filter(|v: &String| !v.trim().is_empty());
        if self.credentials.is_none() {
            self.credentials = set("FASTVM_API_KEY").map(|k| Credentials::Key(k.trim().into()));
        }
        if self.base_url.is_none() {
            self.base_url = set("FASTVM_BASE_URL");
        }
        if let Some(text) = set("FASTVM_CUSTOM_HEADERS") {
            match custom_headers(&text) {
                Ok(headers) => {
                    for (name, value) in &headers {
                        if !self.headers.contains_key(name) {
                            self.headers.append(name, value.clone());
                        }
                    }
                }
                Err(e) => self.problem = Some(e),
            }
        }
        if self.log.is_none() {
            // Other words mean silence, as in the vendor's SDKs.
            self.log = match set("FASTVM_LOG").as_deref().map(str::trim) {
                Some("info") => Some(LogLevel::Info),
                Some("debug") => Some(LogLevel::Debug),
                _ => None,
            };
        }
        self
    }

    /// Makes the client. No connection is made yet.
    ///
    /// # Errors
    ///
    /// [`Kind::Unauthenticated`] without credentials, [`Kind::Invalid`] for a setting that cannot be used.
    pub fn build(self) -> Result<Client> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let base = self.base_url.as_deref().map(str::trim);
        let base = BaseUrl::parse(base.filter(|u| !u.is_empty()).unwrap_or(HOSTED))?;
        let credentials = self.credentials.ok_or_else(|| {
            Error::new(Kind::Unauthenticated, "no API key")
                .with_hint("give one, or set FASTVM_API_KEY")
        })?;
        let auth = Auth::new(credentials)?;
        let mut transport = match (self.transport, self.http) {
            (Some(transport), _) => transport,
            (None, Some(http)) => Arc::new(http.build()?) as Arc<dyn Transport>,
            (None, None) => Arc::new(
                Http::builder()
                    .connect_timeout(self.connect_timeout)
                    .in_flight_per_host(100)
                    .build()?,
            ),
        };
        if let Some(level) = self.log {
            transport = Arc::new(Logged {
                inner: transport,
                level,
            });
        }
        if !self.query.is_empty() {
            transport = Arc::new(WithQuery {
                inner: transport,
                origin: base.origin().to_owned(),
                query: self.query,
            });
        }
        let mut caller = Caller::new(transport, base)
            .with_auth(Arc::new(auth))
            .with_headers(self.headers)
            .with_retry(self.retry);
        if let Some(timeout) = self.timeout {
            caller = caller.with_timeout(timeout);
        }
        Ok(Client::new(caller))
    }
}

/// Reads `Name: value` lines. Values may be secret, so they are never shown.
fn custom_headers(text: &str) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (n, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = || {
            Error::new(
                Kind::Invalid,
                format!("FASTVM_CUSTOM_HEADERS: line {} is not 'Name: value'", n + 1),
            )
        };
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

#[derive(Debug)]
struct Auth {
    headers: HeaderMap,
}

impl Auth {
    fn new(credentials: Credentials) -> Result<Self> {
        let (name, text) = match &credentials {
            Credentials::Key(key) => (API_KEY, key.expose().trim().to_owned()),
            Credentials::Bearer(token) => {
                (AUTHORIZATION, format!("Bearer {}", token.expose().trim()))
            }
        };
        if text.is_empty() || text == "Bearer " {
            return Err(Error::new(Kind::Unauthenticated, "the API key is empty"));
        }
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            Error::new(
                Kind::Invalid,
                "the API key has a character that no header can carry",
            )
        })?;
        value.set_sensitive(true);
        Ok(Self {
            headers: HeaderMap::from_iter([(name, value)]),
        })
    }
}

impl Authorize for Auth {
    fn headers(&self) -> BoxFuture<'_, Result<HeaderMap>> {
        Box::pin(async { Ok(self.headers.clone()) })
    }
}

/// Adds query values to the calls to one origin; signed URLs elsewhere are left alone.
#[derive(Debug)]
struct WithQuery {
    inner: Arc<dyn Transport>,
    origin: String,
    query: Vec<(String, String)>,
}

impl WithQuery {
    fn add(&self, uri: &Uri) -> Result<Uri> {
        let mut text = uri
            .path_and_query()
            .map_or("/", PathAndQuery::as_str)
            .to_owned();
        for (name, value) in &self.query {
            text.push(if text.contains('?') { '&' } else { '?' });
            text.push_str(&encode(name));
            text.push('=');
            text.push_str(&encode(value));
        }
        format!("{}{text}", self.origin)
            .parse()
            .map_err(|_| Error::new(Kind::Invalid, "a default query value cannot be sent"))
    }
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

impl Transport for WithQuery {
    fn send(&self, mut out: Outgoing) -> BoxFuture<'_, Result<Response<WireBody>>> {
        Box::pin(async move {
            let uri = out.request.uri();
            let signed = matches!(out.operation, "putObject" | "getObject");
            let ours = uri
                .to_string()
                .strip_prefix(&self.origin)
                .is_some_and(|rest| rest.starts_with('/'));
            if ours && !signed {
                *out.request.uri_mut() = self.add(uri)?;
            }
            self.inner.send(out).await
        })
    }
}

/// Tells what is called. Headers, queries and bodies are not shown.
#[derive(Debug)]
struct Logged {
    inner: Arc<dyn Transport>,
    level: LogLevel,
}

impl Transport for Logged {
    fn send(&self, out: Outgoing) -> BoxFuture<'_, Result<Response<WireBody>>> {
        Box::pin(async move {
            let uri = out.request.uri();
            let what = format!(
                "fastvm: {} {} {}{}",
                out.operation,
                out.request.method(),
                uri.authority().map_or("", |a| a.as_str()),
                uri.path()
            );
            if self.level >= LogLevel::Debug {
                eprintln!("{what} …");
            }
            let start = std::time::Instant::now();
            let result = self.inner.send(out).await;
            let ms = start.elapsed().as_millis();
            match &result {
                Ok(response) => eprintln!("{what} {} in {ms} ms", response.status().as_u16()),
                Err(e) if self.level >= LogLevel::Debug => eprintln!("{what} {e} in {ms} ms"),
                Err(e) => eprintln!("{what} {} in {ms} ms", e.kind()),
            }
            result
        })
    }
}
