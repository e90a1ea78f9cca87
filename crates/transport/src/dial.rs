//! Makes connections: TCP or unix socket, through a proxy or not, with TLS or without.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use boxrig_wire::{Duplex, Error, Kind};
use http::Uri;
use http::uri::Authority;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower_service::Service;

use crate::filled::Filled;
use crate::proxy::{Gateway, Proxies};
use crate::tls::{Tls, handshake_error};

/// How a client gets to servers.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) tcp: HttpConnector,
    pub(crate) tls: Tls,
    pub(crate) proxies: Proxies,
    /// Everything goes to this socket, whatever the host.
    pub(crate) unix: Option<PathBuf>,
    pub(crate) timeout: Option<Duration>,
}

/// A connection as it was made.
pub(crate) struct Dialed {
    pub(crate) io: Box<dyn Duplex>,
    /// Whether the server chose HTTP/2 in the TLS handshake.
    pub(crate) h2: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) struct DialError {
    pub(crate) error: Error,
    /// Trying again cannot help.
    pub(crate) permanent: bool,
}

impl DialError {
    fn passing(error: Error) -> Self {
        Self {
            error,
            permanent: false,
        }
    }
    fn permanent(error: Error) -> Self {
        Self {
            error,
            permanent: true,
        }
    }
}

impl Dialer {
    /// The proxy that gets the request itself (plain HTTP), as opposed to a tunnel.
    pub(crate) fn forwarder(&self, https: bool, to: &Authority) -> Result<Option<&Gateway>, Error> {
        if https || self.unix.is_some() {
            return Ok(None);
        }
        self.proxies.pick(false, to)
    }

    /// Connects, within the connect timeout.
    pub(crate) async fn dial(
        &self,
        https: bool,
        to: &Authority,
        http1: bool,
    ) -> Result<Dialed, DialError> {
        let Some(limit) = self.timeout else {
            return self.connect(https, to, http1).await;
        };
        match tokio::time::timeout(limit, self.connect(https, to, http1)).await {
            Ok(result) => result,
            Err(_) => Err(DialError::passing(Error::new(
                Kind::Transport,
                format!("no connection to {to} within {limit:?}"),
            ))),
        }
    }

    async fn connect(&self, https: bool, to: &Authority, http1: bool) -> Result<Dialed, DialError> {
        let io = if let Some(path) = &self.unix {
            unix(path).await?
        } else {
            match self.proxies.pick(https, to).map_err(DialError::permanent)? {
                None => self.tcp(https, to).await?,
                Some(proxy) => {
                    let mut io = self.tcp(proxy.tls, &proxy.authority).await?;
                    if proxy.tls {
                        io = self.handshake(io, &proxy.authority, true).await?.io;
                    }
                    if https {
                        tunnel(&mut io, proxy, to).await?;
                    }
                    io
                }
            }
        };
        if https {
            self.handshake(io, to, http1).await
        } else {
            Ok(Dialed { io, h2: false })
        }
    }

    async fn tcp(&self, https: bool, to: &Authority) -> Result<Box<dyn Duplex>, DialError> {
        let cannot = |e: &dyn std::fmt::Display| {
            DialError::permanent(Error::new(Kind::Invalid, format!("no usable address: {e}")))
        };
        let target = Uri::builder()
            .scheme(if https { "https" } else { "http" })
            .authority(to.clone())
            .path_and_query("/")
            .build()
            .map_err(|e| cannot(&e))?;
        let stream = self.tcp.clone().call(target).await.map_err(|e| {
            DialError::passing(
                Error::new(Kind::Transport, format!("cannot connect to {to}"))
                    .with_hint("is the server running, and are host and port right?")
                    .with_source(e),
            )
        })?;
        Ok(Box::new(stream.into_inner()))
    }

    async fn handshake(
        &self,
        io: Box<dyn Duplex>,
        to: &Authority,
        http1: bool,
    ) -> Result<Dialed, DialError> {
        let host = to.host().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            DialError::permanent(Error::new(
                Kind::Invalid,
                format!("{host} is not a name that a certificate can have"),
            ))
        })?;
        let config = self.tls.config(http1).map_err(DialError::permanent)?;
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(name, io)
            .await
            .map_err(|e| {
                let (error, permanent) = handshake_error(host, e);
                DialError { error, permanent }
            })?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Dialed {
            io: Box::new(Filled::new(stream)),
            h2,
        })
    }
}

#[cfg(unix)]
async fn unix(path: &std::path::Path) -> Result<Box<dyn Duplex>, DialError> {
    match tokio::net::UnixStream::connect(path).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(e) => Err(DialError::passing(
            Error::new(
                Kind::Transport,
                format!(
                    "cannot connect to the socket {}",
                    boxrig_wire::escape_line(&path.display().to_string())
                ),
            )
            .with_hint("is the server running, and may you use its socket?")
            .with_source(e),
        )),
    }
}

#[cfg(not(unix))]
async fn unix(_: &std::path::Path) -> Result<Box<dyn Duplex>, DialError> {
    Err(DialError::permanent(Error::new(
        Kind::Unsupported,
        "unix sockets are not there on this system",
    )))
}

/// The most bytes a proxy's answer may have.
const ANSWER_LIMIT: usize = 16 * 1024;

/// Asks a proxy for a way through (RFC 9110 §9.3.6).
async fn tunnel(
    io: &mut Box<dyn Duplex>,
    proxy: &Gateway,
    to: &Authority,
) -> Result<(), DialError> {
    let port = to.port_u16().unwrap_or(443);
    let target = format!("{}:{port}", to.host());
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(value) = &proxy.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let broken = |e: io::Error| {
        DialError::passing(
            Error::new(
                Kind::Transport,
                format!("the proxy {} broke off", proxy.authority),
            )
            .with_source(e),
        )
    };
    io.write_all(&request).await.map_err(broken)?;
    io.flush().await.map_err(broken)?;
    let mut head = Vec::new();
    // Byte by byte: what comes after the head belongs to the tunnel.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= ANSWER_LIMIT {
            return Err(broken(io::ErrorKind::InvalidData.into()));
        }
        head.push(io.read_u8().await.map_err(broken)?);
    }
    let status = head
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|code| std::str::from_utf8(code).ok()?.parse::<u16>().ok());
    let refused = |why: String| Error::new(Kind::Transport, why);
    match status {
        Some(200..=299) => Ok(()),
        Some(407) => Err(DialError::permanent(
            refused(format!("the proxy {} wants credentials", proxy.authority))
                .with_retryable(false)
                .with_hint("put them in the proxy's URL: http://USER:PASSWORD@HOST:PORT"),
        )),
        Some(code @ 400..=499) => Err(DialError::permanent(
            refused(format!(
                "the proxy {} refuses {target} (HTTP {code})",
                proxy.authority
            ))
            .with_retryable(false),
        )),
        Some(code) => Err(DialError::passing(refused(format!(
            "the proxy {} does not get to {target} (HTTP {code})",
            proxy.authority
        )))),
        None => Err(broken(io::ErrorKind::InvalidData.into())),
    }
}
