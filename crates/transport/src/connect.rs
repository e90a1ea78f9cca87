//! Making connections.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use boxrig_wire::{Duplex, Error, Kind, Result};
use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use crate::tls::{self, Identity, Trust};

/// A connection and what it turned out to be.
pub(crate) struct Connected {
    pub(crate) io: Box<dyn Duplex>,
    pub(crate) http2: bool,
    /// The request line must hold the absolute URI: a proxy reads it.
    pub(crate) absolute: bool,
    /// What the proxy wants to see on each request.
    pub(crate) proxy_auth: Option<http::HeaderValue>,
}

/// How to get to an origin.
pub(crate) struct Connector {
    trust: Trust,
    identity: Option<Identity>,
    unix: Option<PathBuf>,
    proxy: Option<Matcher>,
    timeout: Duration,
    http2_only: bool,
    /// Made at the first TLS connection: reading the system's roots takes milliseconds that a plain client
    /// need not spend.
    any: OnceLock<Arc<ClientConfig>>,
    http1: OnceLock<Arc<ClientConfig>>,
}

impl Connector {
    pub(crate) fn new(
        trust: Trust,
        identity: Option<Identity>,
        unix: Option<PathBuf>,
        proxy: Option<Matcher>,
        timeout: Duration,
        http2_only: bool,
    ) -> Self {
        Self {
            trust,
            identity,
            unix,
            proxy,
            timeout,
            http2_only,
            any: OnceLock::new(),
            http1: OnceLock::new(),
        }
    }

    /// Connects to the origin of `uri`; for an upgrade with HTTP/1.1 only.
    pub(crate) async fn connect(&self, uri: &Uri, upgrade: bool) -> Result<Connected> {
        match tokio::time::timeout(self.timeout, self.connect_untimed(uri, upgrade)).await {
            Ok(done) => done,
            Err(_) => Err(Error::new(
                Kind::Transport,
                format!("no connection to {} within {:?}", origin(uri), self.timeout),
            )),
        }
    }

    async fn connect_untimed(&self, uri: &Uri, upgrade: bool) -> Result<Connected> {
        if let Some(path) = &self.unix {
            return self.unix(path).await;
        }
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let proxy = self
            .proxy
            .as_ref()
            .filter(|_| !is_loopback(uri))
            .and_then(|p| p.intercept(uri));
        let mut absolute = false;
        let mut proxy_auth = None;
        let io = match &proxy {
            None => tcp(uri).await.map_err(|e| unreachable(uri, e))?,
            Some(proxy) => {
                check_proxy(proxy)?;
                let mut io = tcp(proxy.uri())
                    .await
                    .map_err(|e| unreachable(proxy.uri(), e).context("the proxy"))?;
                // A socket needs a tunnel: a proxy would not pass an upgrade on.
                if secure || upgrade {
                    tunnel(&mut io, uri, proxy.basic_auth()).await?;
                } else {
                    absolute = true;
                    proxy_auth = proxy.basic_auth().cloned();
                }
                io
            }
        };
        if !secure {
            return Ok(Connected {
                io: Box::new(io),
                http2: self.http2_only && !upgrade,
                absolute,
                proxy_auth,
            });
        }
        let config = self.tls(upgrade)?;
        let host = uri
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned();
        let name = ServerName::try_from(host)
            .map_err(|e| Error::new(Kind::Invalid, "the host is no TLS name").with_source(e))?;
        let stream = TlsConnector::from(config)
            .connect(name, io)
            .await
            .map_err(|e| untrusted(uri, e))?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Connected {
            io: Box::new(stream),
            http2,
            absolute: false,
            proxy_auth: None,
        })
    }

    fn tls(&self, upgrade: bool) -> Result<Arc<ClientConfig>> {
        let (slot, alpn): (_, &[&str]) = if upgrade {
            (&self.http1, &["http/1.1"])
        } else {
            (&self.any, &["h2", "http/1.1"])
        };
        if let Some(config) = slot.get() {
            return Ok(config.clone());
        }
        let config = Arc::new(tls::config(&self.trust, self.identity.as_ref(), alpn)?);
        Ok(slot.get_or_init(|| config).clone())
    }

    #[cfg(unix)]
    async fn unix(&self, path: &std::path::Path) -> Result<Connected> {
        let io = tokio::net::UnixStream::connect(path).await.map_err(|e| {
            let hint = match e.kind() {
                io::ErrorKind::PermissionDenied => "you may not use this socket",
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "is the server running?"
                }
                _ => "the path of a unix socket may have at most 107 bytes",
            };
            Error::new(
                Kind::Transport,
                format!("no connection to {}", path.display()),
            )
            .with_hint(hint)
            .with_source(e)
        })?;
        Ok(Connected {
            io: Box::new(io),
            http2: self.http2_only,
            absolute: false,
            proxy_auth: None,
        })
    }

    #[cfg(not(unix))]
    async fn unix(&self, _: &std::path::Path) -> Result<Connected> {
        Err(Error::new(
            Kind::Unsupported,
            "unix sockets need a unix system",
        ))
    }
}

async fn tcp(
    uri: &Uri,
) -> std::result::Result<tokio::net::TcpStream, Box<dyn std::error::Error + Send + Sync>> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    Ok(connector.call(uri.clone()).await?.into_inner())
}

fn check_proxy(proxy: &Intercept) -> Result<()> {
    match proxy.uri().scheme_str() {
        Some("http") | None => Ok(()),
        Some(other) => Err(Error::new(
            Kind::Unsupported,
            format!("a proxy with scheme {other} is not supported"),
        )
        .with_hint("use an http:// proxy, or exclude the host by NO_PROXY")),
    }
}

/// Asks a proxy for a tunnel.
async fn tunnel(
    io: &mut tokio::net::TcpStream,
    uri: &Uri,
    auth: Option<&http::HeaderValue>,
) -> Result<()> {
    let port = uri
        .port_u16()
        .unwrap_or(if uri.scheme() == Some(&Scheme::HTTPS) {
            443
        } else {
            80
        });
    let target = format!("{}:{port}", uri.host().unwrap_or_default());
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(auth) = auth {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(auth.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let broken = |e: io::Error| {
        Error::new(Kind::Transport, "the proxy broke the connection off").with_source(e)
    };
    io.write_all(&head).await.map_err(broken)?;
    // A byte at a time: what follows the head belongs to the tunnel.
    let mut answer = Vec::with_capacity(256);
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() > 16 * 1024 {
            return Err(Error::new(Kind::Protocol, "the proxy's answer is too long"));
        }
        answer.push(io.read_u8().await.map_err(broken)?);
    }
    let line = String::from_utf8_lossy(&answer);
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse::<u16>().ok())
        .unwrap_or(0);
    match status {
        200..=299 => Ok(()),
        407 => Err(
            Error::new(Kind::Unauthenticated, "the proxy wants credentials")
                .with_hint("put them in the proxy's URL: http://USER:PASSWORD@HOST:PORT"),
        ),
        n => Err(Error::new(
            Kind::Transport,
            format!("the proxy refuses the connection to {target} (HTTP {n})"),
        )),
    }
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Scheme and authority, for words.
pub(crate) fn origin(uri: &Uri) -> String {
    format!(
        "{}://{}",
        uri.scheme_str().unwrap_or("http"),
        uri.authority().map_or("", |a| a.as_str())
    )
}

fn unreachable(uri: &Uri, e: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::new(Kind::Transport, format!("no connection to {}", origin(uri))).with_source(e)
}

fn untrusted(uri: &Uri, e: io::Error) -> Error {
    let certificate = e
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>())
        .is_some_and(|e| {
            matches!(
                e,
                rustls::Error::InvalidCertificate(_) | rustls::Error::General(_)
            )
        });
    let error = Error::new(
        Kind::Transport,
        format!("no TLS connection to {}: {e}", origin(uri)),
    );
    let error = if certificate {
        error
            .with_retryable(false)
            .with_hint("give the server's CA file or its pin; check the host name and the clock")
    } else {
        error
    };
    error.with_source(e)
}

/// What hyper reads and writes.
pub(crate) fn hyper_io<T>(io: T) -> TokioIo<T> {
    TokioIo::new(io)
}
