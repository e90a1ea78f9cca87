//! The HTTP transport and its settings.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use boxrig_wire::{BoxFuture, Error, Kind, Outgoing, Result, Transport, WireBody};
use http::header::USER_AGENT;
use http::{HeaderValue, Response};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::time::Instant;
use tracing::Instrument;

use crate::budget::Budget;
use crate::call::Call;
use crate::dial::Dialer;
use crate::pool::{Limits, Pool};
use crate::proxy::Proxy;
use crate::tls::{Identity, Tls, Trust, certificates, fingerprint};

/// The transport over real connections. Cheap to clone; clones share connections and retry budget.
///
/// ```
/// # fn main() -> boxrig_wire::Result<()> {
/// let http = boxrig_transport::Http::builder()
///     .connect_timeout(std::time::Duration::from_secs(3))
///     .build()?;
/// # let _ = http; Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Http {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) pool: Arc<Pool>,
    pub(crate) budget: Budget,
    pub(crate) redirects: u8,
    user_agent: HeaderValue,
}

impl Http {
    /// With the usual settings: the system's roots, proxies from the environment.
    ///
    /// # Errors
    ///
    /// None of its own; see [`HttpBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Settings to start from.
    pub fn builder() -> HttpBuilder {
        HttpBuilder::default()
    }

    /// How many connections are kept open without a request on them.
    pub fn idle_connections(&self) -> usize {
        self.shared.pool.idle()
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("idle", &self.idle_connections())
            .finish_non_exhaustive()
    }
}

impl Transport for Http {
    fn send(&self, mut out: Outgoing) -> BoxFuture<'_, Result<Response<WireBody>>> {
        Box::pin(async move {
            let authority = out.request.uri().authority();
            if authority.is_some_and(|a| a.as_str().contains('@')) {
                return Err(
                    Error::new(Kind::Invalid, "the address has credentials in it")
                        .with_operation(out.operation),
                );
            }
            out.request
                .headers_mut()
                .entry(USER_AGENT)
                .or_insert_with(|| self.shared.user_agent.clone());
            let span = tracing::debug_span!(
                "call",
                operation = out.operation,
                method = %out.request.method(),
                host = out.request.uri().host().unwrap_or_default(),
            );
            let call = Call::new(&self.shared, out);
            let start = Instant::now();
            async move {
                let result = call.run().await;
                let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                match &result {
                    Ok(r) => tracing::debug!(status = r.status().as_u16(), latency_ms = ms),
                    Err(e) => tracing::debug!(
                        kind = e.kind().as_str(),
                        attempts = e.attempts(),
                        latency_ms = ms,
                        "failed"
                    ),
                }
                result
            }
            .instrument(span)
            .await
        })
    }
}

/// Settings of an [`Http`].
#[derive(Debug)]
pub struct HttpBuilder {
    trust: Trust,
    system_roots: bool,
    identity: Option<Identity>,
    proxy: Proxy,
    proxy_loopback: bool,
    unix: Option<PathBuf>,
    connect_timeout: Option<Duration>,
    limits: Limits,
    redirects: u8,
    user_agent: String,
}

impl Default for HttpBuilder {
    fn default() -> Self {
        Self {
            trust: Trust::System,
            system_roots: false,
            identity: None,
            proxy: Proxy::Environment,
            proxy_loopback: false,
            unix: None,
            connect_timeout: Some(Duration::from_secs(10)),
            limits: Limits {
                idle_per_host: 64,
                idle_timeout: Duration::from_secs(60),
                in_flight_per_host: 256,
                prior_knowledge: false,
            },
            redirects: 5,
            user_agent: concat!("boxrig/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl HttpBuilder {
    /// Trusts the CA certificates of this PEM file instead of the system's roots (see [`Self::and_system_roots`]).
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when the file cannot be read or holds no certificate.
    pub fn ca_file(self, path: impl AsRef<Path>) -> Result<Self> {
        let pem = std::fs::read(path.as_ref()).map_err(|e| {
            let shown = path.as_ref().display().to_string();
            let shown = boxrig_wire::escape_line(&shown);
            Error::new(Kind::Invalid, format!("cannot read the CA file {shown}")).with_source(e)
        })?;
        self.ca_pem(&pem)
    }

    /// Trusts these CA certificates (PEM) instead of the system's roots.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when there is none in it.
    pub fn ca_pem(mut self, pem: &[u8]) -> Result<Self> {
        self.trust = Trust::Authorities {
            roots: certificates(pem, "the CA file")?,
            system: false,
        };
        Ok(self)
    }

    /// Trusts the system's roots beside those of [`Self::ca_file`].
    pub fn and_system_roots(mut self) -> Self {
        self.system_roots = true;
        self
    }

    /// Trusts the one certificate with this SHA-256 (of its DER form, in hex, colons allowed), whoever signed it
    /// and whatever name it has.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when it is no such number.
    pub fn pin_sha256(mut self, hex: &str) -> Result<Self> {
        self.trust = Trust::Pin(fingerprint(hex)?);
        Ok(self)
    }

    /// Accepts any certificate: whoever stands between can read and change everything, the credentials too.
    /// Holds for this transport only.
    pub fn danger_accept_any_certificate(mut self) -> Self {
        self.trust = Trust::Anything;
        self
    }

    /// Presents a client certificate: the chain and its key, both PEM.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when one of them is not what it should be.
    pub fn client_certificate(mut self, chain: &[u8], key: &[u8]) -> Result<Self> {
        self.identity = Some(Identity::from_pem(chain, key)?);
        Ok(self)
    }

    /// Goes through this proxy instead of the environment's.
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = proxy;
        self
    }

    /// Goes through the proxy to loopback addresses too.
    pub fn proxy_loopback(mut self) -> Self {
        self.proxy_loopback = true;
        self
    }

    /// Sends everything to this unix socket, whatever the host of a request.
    pub fn unix_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.unix = Some(path.into());
        self
    }

    /// The longest time for a connection to come about, TLS included (10 s by default); `None`: only the
    /// call's deadline.
    pub fn connect_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.connect_timeout = limit.into();
        self
    }

    /// How many connections per host are kept without a request on them (64 by default), and for how long (60 s).
    pub fn keep_idle(mut self, per_host: usize, timeout: Duration) -> Self {
        self.limits.idle_per_host = per_host;
        self.limits.idle_timeout = timeout;
        self
    }

    /// How many short calls to a host run at a time (256 by default); the others wait their turn. Streams and
    /// sockets do not count.
    pub fn in_flight_per_host(mut self, calls: usize) -> Self {
        self.limits.in_flight_per_host = calls.max(1);
        self
    }

    /// Speaks HTTP/2 on plain connections without asking (h2c). Upgrades still go over HTTP/1.1.
    pub fn http2_prior_knowledge(mut self) -> Self {
        self.limits.prior_knowledge = true;
        self
    }

    /// How many redirects a GET or HEAD follows (5 by default, 0: none); other methods follow none.
    pub fn redirects(mut self, most: u8) -> Self {
        self.redirects = most;
        self
    }

    /// The `User-Agent` of requests that name none; `boxrig/VERSION` by default.
    pub fn user_agent(mut self, text: impl Into<String>) -> Self {
        self.user_agent = text.into();
        self
    }

    /// The transport. Nothing is connected or read yet.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when the user agent is not a header value, or the proxy no proxy's URL.
    pub fn build(self) -> Result<Http> {
        let mut trust = self.trust;
        if let Trust::Authorities { system, .. } = &mut trust {
            *system = self.system_roots;
        }
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        let dialer = Dialer {
            tcp,
            tls: Tls::new(trust, self.identity),
            proxies: self.proxy.resolve(self.proxy_loopback)?,
            unix: self.unix,
            timeout: self.connect_timeout,
        };
        let user_agent = HeaderValue::from_str(&self.user_agent).map_err(|e| {
            Error::new(Kind::Invalid, "the user agent is not a header value").with_source(e)
        })?;
        Ok(Http {
            shared: Arc::new(Shared {
                pool: Pool::new(dialer, self.limits),
                budget: Budget::default(),
                redirects: self.redirects,
                user_agent,
            }),
        })
    }
}
