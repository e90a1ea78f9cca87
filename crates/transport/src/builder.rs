//! The settings of a client's connections.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use boxrig_wire::{Error, Kind, Result};
use http::HeaderValue;
use http::header::USER_AGENT;
use hyper_util::client::proxy::matcher::Matcher;

use crate::budget::Budget;
use crate::connect::Connector;
use crate::pool::Pool;
use crate::tls::{self, Identity, Pin, Trust};

/// Which proxy to go through.
#[derive(Clone, Debug, Default)]
pub enum Proxy {
    /// What `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` (or their lower-case forms) say.
    /// Loopback addresses are never proxied.
    #[default]
    Environment,
    /// None.
    None,
    /// This one, `http://[user:password@]host:port`, for everything but loopback.
    Url(boxrig_wire::Secret),
}

/// The usual transport. Cheap to clone; clones share connections and the retry budget.
#[derive(Clone)]
pub struct Http(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) connector: Connector,
    pub(crate) pool: Arc<Pool>,
    pub(crate) budget: Budget,
    pub(crate) user_agent: HeaderValue,
    pub(crate) redirects: u32,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

impl Http {
    /// The usual settings, to be changed.
    pub fn builder() -> HttpBuilder {
        HttpBuilder::default()
    }
}

/// Settings of an [`Http`].
#[derive(Debug)]
pub struct HttpBuilder {
    trust: Trust,
    identity: Option<Identity>,
    unix: Option<PathBuf>,
    proxy: Proxy,
    connect_timeout: Duration,
    idle_timeout: Duration,
    max_idle: usize,
    redirects: u32,
    http2_only: bool,
    user_agent: String,
}

impl Default for HttpBuilder {
    fn default() -> Self {
        Self {
            trust: Trust::System,
            identity: None,
            unix: None,
            proxy: Proxy::Environment,
            connect_timeout: Duration::from_secs(10),
            // Shorter than the keep-alive of the usual servers, so that a connection is rarely closed
            // while a request is on its way.
            idle_timeout: Duration::from_secs(20),
            max_idle: 100,
            redirects: 5,
            http2_only: false,
            user_agent: concat!("boxrig/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl HttpBuilder {
    /// Trusts these authorities (PEM) besides the system's.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when there is no certificate in it.
    pub fn ca_pem(mut self, pem: &[u8]) -> Result<Self> {
        self.trust = Trust::SystemAnd(tls::certificates(pem)?);
        Ok(self)
    }

    /// Trusts the authorities in this file (PEM) besides the system's.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when the file cannot be read or holds no certificate.
    pub fn ca_file(self, path: &Path) -> Result<Self> {
        self.ca_pem(&read(path)?)
    }

    /// Trusts only these authorities (PEM), not the system's.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when there is no certificate in it.
    pub fn only_ca_pem(mut self, pem: &[u8]) -> Result<Self> {
        self.trust = Trust::Authorities(tls::certificates(pem)?);
        Ok(self)
    }

    /// Trusts exactly one certificate.
    pub fn pin(mut self, pin: Pin) -> Self {
        self.trust = Trust::Pinned(pin);
        self
    }

    /// Trusts any certificate, for this client only. Whoever is on the way can read and change everything.
    pub fn danger_accept_any_certificate(mut self) -> Self {
        self.trust = Trust::Anyone;
        self
    }

    /// Presents this certificate chain and key (PEM) to servers that ask.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when one cannot be read.
    pub fn client_certificate(mut self, chain: &[u8], key: &[u8]) -> Result<Self> {
        self.identity = Some(tls::identity(chain, key)?);
        Ok(self)
    }

    /// Sends everything to this unix socket, whatever the host of a URL.
    pub fn unix_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.unix = Some(path.into());
        self
    }

    /// Sets the proxy.
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = proxy;
        self
    }

    /// The longest a connection may take to be made (10 s).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long an unused connection is kept (20 s).
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How many unused connections are kept for one origin (100).
    pub fn max_idle(mut self, connections: usize) -> Self {
        self.max_idle = connections;
        self
    }

    /// How many redirects of a GET or HEAD are followed (5); 0: none. Others are never followed.
    pub fn redirects(mut self, most: u32) -> Self {
        self.redirects = most;
        self
    }

    /// Speaks HTTP/2 on plain connections too, without asking first.
    pub fn http2_prior_knowledge(mut self) -> Self {
        self.http2_only = true;
        self
    }

    /// Sets the `User-Agent`.
    pub fn user_agent(mut self, text: impl Into<String>) -> Self {
        self.user_agent = text.into();
        self
    }

    /// Makes the transport. Connections are made when they are needed.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when settings do not fit together.
    pub fn build(self) -> Result<Http> {
        let user_agent = HeaderValue::from_str(&self.user_agent)
            .map_err(|_| Error::new(Kind::Invalid, "the user agent has a control character"))?;
        let matcher = match &self.proxy {
            Proxy::Environment => Some(Matcher::from_env()),
            Proxy::None => None,
            Proxy::Url(url) => Some(Matcher::builder().all(url.expose()).build()),
        };
        let connector = Connector::new(
            self.trust,
            self.identity,
            self.unix,
            matcher,
            self.connect_timeout,
            self.http2_only,
        );
        Ok(Http(Arc::new(Inner {
            connector,
            pool: Arc::new(Pool::new(self.max_idle, self.idle_timeout)),
            budget: Budget::default(),
            user_agent,
            redirects: self.redirects,
        })))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| {
        Error::new(Kind::Invalid, format!("{} cannot be read", path.display())).with_source(e)
    })
}

impl Inner {
    /// Puts the client's name on a request that has none.
    pub(crate) fn name_agent(&self, headers: &mut http::HeaderMap) {
        if !headers.contains_key(USER_AGENT) {
            headers.insert(USER_AGENT, self.user_agent.clone());
        }
    }
}
