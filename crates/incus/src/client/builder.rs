//! Where a server is, whom to trust, who we are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use boxrig_transport::{Http, HttpBuilder};
use boxrig_wire::{Authorize, BaseUrl, Caller, Error, Kind, Result, RetryPolicy, Transport};

use super::Client;
use crate::identity::{Identity, fingerprint_of_pem};
use crate::oidc::OidcSession;

/// The port that servers listen on unless told otherwise.
pub const DEFAULT_PORT: u16 = 8443;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// `https://host:port`.
    Https(String),
}

impl Address {
    /// The unix socket of the server on this machine, where the standard tools look for it: `INCUS_SOCKET`, then
    /// `INCUS_DIR/unix.socket`, then `/run/incus/unix.socket` and `/var/lib/incus/unix.socket`. Where that one is not
    /// open to this user, the user's own (`unix.socket.user` beside it).
    pub fn local() -> Self {
        Self::local_in(|name| std::env::var(name).ok())
    }

    /// [`local`](Self::local) with the environment given.
    pub fn local_in(env: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name| env(name).filter(|v| !v.is_empty());
        if let Some(socket) = var("INCUS_SOCKET") {
            return Self::Unix(socket.into());
        }
        let folders = match var("INCUS_DIR") {
            Some(dir) => vec![PathBuf::from(dir)],
            None => vec!["/run/incus".into(), "/var/lib/incus".into()],
        };
        let found = folders
            .iter()
            .flat_map(|dir| [dir.join("unix.socket"), dir.join("unix.socket.user")])
            .find(|socket| is_open(socket));
        // None is open: the first that is there, so that the error names it; else the usual place.
        let there = || {
            folders
                .iter()
                .map(|dir| dir.join("unix.socket"))
                .find(|socket| std::fs::symlink_metadata(socket).is_ok())
        };
        let usual = || folders[folders.len() - 1].join("unix.socket");
        Self::Unix(found.or_else(there).unwrap_or_else(usual))
    }

    /// Reads an address as the standard tool writes it: `unix://`, `unix:///path`, `https://host[:port]`, `host[:port]`.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return Ok(match path {
                "" => Self::local(),
                path => Self::Unix(path.into()),
            });
        }
        let url = match text.split_once("://") {
            Some(_) => text.to_owned(),
            None => format!("https://{text}"),
        };
        let base = BaseUrl::parse(&url)?;
        if !base.is_https() {
            return Err(Error::new(
                Kind::Invalid,
                "an Incus server is reached by https:// or unix://",
            ));
        }
        // A port that is not named is the server's usual one, not that of the web.
        let authority = base.origin().trim_start_matches("https://");
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
        let port = if has_port {
            String::new()
        } else {
            format!(":{DEFAULT_PORT}")
        };
        Ok(Self::Https(format!(
            "{}{port}{}",
            base.origin(),
            base.prefix()
        )))
    }
}

#[cfg(unix)]
fn is_open(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}
#[cfg(not(unix))]
fn is_open(_: &Path) -> bool {
    false
}

/// Settings of a [`Client`].
///
/// ```
/// use boxrig_incus::Client;
/// # fn main() -> boxrig_wire::Result<()> {
/// let client = Client::https("https://127.0.0.1:8443")?
///     .pin_sha256(&"ab".repeat(32))
///     .project("web")
///     .build()?;
/// assert_eq!(client.caller().base().to_string(), "https://127.0.0.1:8443");
/// # Ok(()) }
/// ```
pub struct ClientBuilder {
    address: Address,
    http: HttpBuilder,
    problem: Option<Error>,
    auth: Option<Arc<dyn Authorize>>,
    oidc: Option<OidcSession>,
    transport: Option<Arc<dyn Transport>>,
    project: Option<String>,
    timeout: Option<Duration>,
    retry: RetryPolicy,
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("address", &self.address)
            .field("project", &self.project)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// The server on this machine, over its unix socket; see [`Address::local`] for the places.
    ///
    /// # Errors
    ///
    /// None yet: the first call tells whether the server is there.
    pub fn local() -> Result<Self> {
        ClientBuilder::new(Address::local()).build()
    }

    /// The server behind a unix socket.
    ///
    /// # Errors
    ///
    /// As [`local`](Self::local).
    pub fn unix(socket: impl Into<PathBuf>) -> Result<Self> {
        ClientBuilder::new(Address::Unix(socket.into())).build()
    }

    /// Begins the settings of a client of a server by HTTPS; the port is 8443 when none is named.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when it is no such address.
    pub fn https(url: &str) -> Result<ClientBuilder> {
        match Address::parse(url)? {
            address @ Address::Https(_) => Ok(ClientBuilder::new(address)),
            Address::Unix(_) => Err(Error::new(Kind::Invalid, "this is a unix socket's address")),
        }
    }

    /// The remote that the standard tool's settings name (`INCUS_REMOTE`, else its default), with its project
    /// (`INCUS_PROJECT`, else its own); see [`Remotes`](crate::Remotes).
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for settings that cannot be read, [`Kind::NotFound`] for a remote that they do not have.
    pub fn from_env() -> Result<Self> {
        let remotes = crate::Remotes::load()?;
        remotes.get(None)?.connect()
    }

    /// A remote of the standard tool by its name.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    pub fn from_remote(name: &str) -> Result<Self> {
        crate::Remotes::load()?.get(Some(name))?.connect()
    }
}

impl ClientBuilder {
    /// Settings to start from.
    pub fn new(address: Address) -> Self {
        let mut http = Http::builder();
        if let Address::Unix(path) = &address {
            http = http.unix_socket(path.clone());
        }
        Self {
            address,
            http,
            problem: None,
            auth: None,
            oidc: None,
            transport: None,
            project: None,
            timeout: Some(Duration::from_secs(60)),
            retry: RetryPolicy::default(),
        }
    }

    /// Where it goes.
    pub fn address(&self) -> &Address {
        &self.address
    }

    fn http(mut self, change: impl FnOnce(HttpBuilder) -> Result<HttpBuilder>) -> Self {
        match change(std::mem::take(&mut self.http)) {
            Ok(http) => self.http = http,
            Err(e) => self.problem = self.problem.or(Some(e)),
        }
        self
    }

    /// Trusts the one certificate with this SHA-256 (of its DER form, in hex), as Incus servers are usually trusted: they
    /// sign their own.
    pub fn pin_sha256(self, hex: &str) -> Self {
        self.http(|http| http.pin_sha256(hex))
    }

    /// Trusts exactly this certificate (PEM).
    pub fn pin_certificate(self, pem: &[u8]) -> Self {
        match fingerprint_of_pem(pem) {
            Ok(hex) => self.pin_sha256(&hex),
            Err(e) => self.http(|_| Err(e)),
        }
    }

    /// Trusts what these CA certificates (PEM) have signed, for servers with a PKI. By default it is the system's roots.
    pub fn ca_pem(self, pem: &[u8]) -> Self {
        self.http(|http| http.ca_pem(pem))
    }

    /// Presents this client certificate.
    pub fn identity(self, identity: &Identity) -> Self {
        self.http(|http| http.client_certificate(identity.certificate(), identity.key()))
    }

    /// Logged in by OIDC; the session refreshes its tokens when the server wants it.
    pub fn oidc(mut self, session: &OidcSession) -> Self {
        self.oidc = Some(session.clone());
        self
    }

    /// With these credentials in headers.
    pub fn auth(mut self, auth: Arc<dyn Authorize>) -> Self {
        self.auth = Some(auth);
        self
    }

    /// Works in this project.
    pub fn project(mut self, name: impl Into<String>) -> Self {
        self.project = Some(name.into());
        self
    }

    /// The deadline of a call over all its tries, 60 s by default; `None`: no limit. Waiting for operations has none.
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a connection may take to be made, 10 s by default.
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.http(|http| Ok(http.connect_timeout(timeout)))
    }

    /// When to send again; see `docs/retry.md`.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Changes the transport's other settings: proxies, limits.
    pub fn with_http(self, change: impl FnOnce(HttpBuilder) -> HttpBuilder) -> Self {
        self.http(|http| Ok(change(http)))
    }

    /// Through this transport instead of one with the settings above.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// The transport alone, with these settings.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn build_transport(self) -> Result<Http> {
        match self.problem {
            Some(e) => Err(e),
            None => self.http.build(),
        }
    }

    /// The client. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for a setting that is not what it should be.
    pub fn build(mut self) -> Result<Client> {
        if let Some(e) = self.problem {
            return Err(e);
        }
        let base = match &self.address {
            // The host is ignored on the socket; it is what the standard tools send.
            Address::Unix(_) => BaseUrl::parse("http://unix.socket")?,
            Address::Https(url) => BaseUrl::parse(url)?,
        };
        let transport = match self.transport {
            Some(transport) => transport,
            None => Arc::new(self.http.build()?),
        };
        if let Some(session) = &self.oidc {
            session.attach(Caller::new(transport.clone(), base.clone()));
            self.auth = Some(Arc::new(session.clone()));
        }
        let mut caller = Caller::new(transport, base)
            .with_timeout(self.timeout)
            .with_retry(self.retry);
        if let Some(auth) = self.auth {
            caller = caller.with_auth(auth);
        }
        let client = Client::new(caller);
        Ok(match self.project {
            Some(project) => client.project(project),
            None => client,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_the_standard_tool_writes_them() {
        let https = |s: &str| Address::Https(s.to_owned());
        for (text, expected) in [
            ("https://h:1", https("https://h:1")),
            ("https://h", https("https://h:8443")),
            ("10.0.0.1", https("https://10.0.0.1:8443")),
            ("[fd00::1]", https("https://[fd00::1]:8443")),
            ("https://[fd00::1]:99/", https("https://[fd00::1]:99")),
            ("unix:///a/b.socket", Address::Unix("/a/b.socket".into())),
            ("unix:/a", Address::Unix("/a".into())),
        ] {
            assert_eq!(Address::parse(text).unwrap(), expected, "{text}");
        }
        for bad in ["http://h", "https://u:p@h", "", "ftp://x"] {
            assert_eq!(
                Address::parse(bad).unwrap_err().kind(),
                Kind::Invalid,
                "{bad}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_socket_is_looked_for_where_the_tools_do() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_str().unwrap().to_owned();
        let env = |name: &str, value: &str| {
            let (name, value) = (name.to_owned(), value.to_owned());
            move |asked: &str| (asked == name).then(|| value.clone())
        };
        assert_eq!(
            Address::local_in(env("INCUS_SOCKET", "/x/y")),
            Address::Unix("/x/y".into())
        );
        let usual = Address::Unix(dir.path().join("unix.socket"));
        assert_eq!(Address::local_in(env("INCUS_DIR", &folder)), usual);
        // Only the user's own daemon listens: it is taken.
        let user = dir.path().join("unix.socket.user");
        let _listener = std::os::unix::net::UnixListener::bind(&user).unwrap();
        assert_eq!(
            Address::local_in(env("INCUS_DIR", &folder)),
            Address::Unix(user)
        );
        let _full = std::os::unix::net::UnixListener::bind(dir.path().join("unix.socket")).unwrap();
        assert_eq!(Address::local_in(env("INCUS_DIR", &folder)), usual);
    }
}
