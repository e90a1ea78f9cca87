//! From a URL and credentials to a backend.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use boxrig_compute::backend::convox::Convox;
use boxrig_compute::backend::fastvm::Fastvm;
use boxrig_compute::backend::incus::Incus;
use boxrig_compute::backend::local::Local;
use boxrig_compute::backend::vergeos::Vergeos;
use boxrig_compute::{Compute, Platform};
use boxrig_incus::{Address, ClientBuilder, Identity};
use boxrig_transport::Http;
use boxrig_wire::{Authorize, BaseUrl, BoxFuture, Caller, Error, Kind, Result, Secret, Untrusted};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::Target;

/// The compute API of a context URL. The secret comes from the platform's own variable (`FASTVM_API_KEY`,
/// `CONVOX_PASSWORD`).
///
/// # Errors
///
/// [`Kind::Invalid`] for a URL that is none, [`Kind::Unauthenticated`] without a secret, [`Kind::Unavailable`] when
/// no local server runs.
pub async fn connect(url: &str) -> Result<Arc<dyn Compute>> {
    let target: Target = url.parse()?;
    if *target.platform() == Platform::Local {
        let socket = crate::local::default_socket()?;
        return Ok(Connect::local(socket).open().await?.compute);
    }
    let mut connect = Connect::new(target);
    // Each platform's secret goes to that platform only.
    let variable = match connect.target.platform() {
        Platform::Fastvm => "FASTVM_API_KEY",
        Platform::Convox => "CONVOX_PASSWORD",
        _ => "",
    };
    if let Some(key) = std::env::var(variable)
        .ok()
        .filter(|_| !variable.is_empty())
        && !key.is_empty()
    {
        connect = connect.secret(Secret::new(key));
    }
    Ok(connect.open().await?.compute)
}

/// A connection to make.
#[derive(Debug)]
pub struct Connect {
    target: Target,
    socket: Option<PathBuf>,
    name: Option<String>,
    secret: Option<Secret>,
    user: Option<String>,
    ca_file: Option<PathBuf>,
    pin: Option<String>,
    certificate: Option<(PathBuf, PathBuf)>,
    project: Option<String>,
    image: Option<String>,
    info: Option<boxrig_server::control::Info>,
}

/// What a connection gives.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The compute verbs.
    pub compute: Arc<dyn Compute>,
    /// What requests go through: typed native operations and raw ones.
    pub caller: Caller,
}

impl Connect {
    /// To where a URL points.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            socket: None,
            name: None,
            secret: None,
            user: None,
            ca_file: None,
            pin: None,
            certificate: None,
            project: None,
            image: None,
            info: None,
        }
    }

    /// To the local server behind this unix socket.
    pub fn local(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: Some(socket.into()),
            ..Self::new(Target::local())
        }
    }

    /// The name that instances carry as their context; the URL when none is given.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// With this API key or password.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// As this user, where the platform has users.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Trusting the certificates in this file (PEM) besides the system's.
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(file.into());
        self
    }

    /// Accepting the one server certificate with this SHA-256 (hex), whoever signed it.
    pub fn pin(mut self, sha256: impl Into<String>) -> Self {
        self.pin = Some(sha256.into());
        self
    }

    /// Showing the client certificate in the first file with the key in the second (PEM), where the platform knows
    /// clients by certificate.
    pub fn certificate(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.certificate = Some((cert.into(), key.into()));
        self
    }

    /// In this project, where the platform has projects.
    pub fn project(mut self, project: impl Into<String>) -> Self {
        self.project = Some(project.into());
        self
    }

    /// Starting instances from this image when a launch names none, where the platform has no such image of its own.
    pub fn image(mut self, image: impl Into<String>) -> Self {
        self.image = Some(image.into());
        self
    }

    /// With what a local server has said of itself already, which is then not asked for again.
    pub fn info(mut self, info: boxrig_server::control::Info) -> Self {
        self.info = Some(info);
        self
    }

    /// Makes the backend. A local server is asked who it is; nothing is sent to others yet.
    ///
    /// # Errors
    ///
    /// [`Kind::Unauthenticated`] where a secret is needed and none is given, [`Kind::Unsupported`] for a platform whose
    /// compute verbs are not there yet.
    pub async fn open(self) -> Result<Connection> {
        let name = self.name.clone().unwrap_or_else(|| self.target.to_string());
        match self.target.platform() {
            Platform::Local => {
                let socket = match self.socket {
                    Some(socket) => socket,
                    None => crate::local::default_socket()?,
                };
                let control = crate::local::control_client(&socket)?;
                let caller = control.caller().clone();
                let local = match &self.info {
                    Some(info) => Local::of(name, control, info),
                    None => Local::connect(name, control).await?,
                };
                Ok(Connection {
                    compute: Arc::new(local),
                    caller,
                })
            }
            Platform::Fastvm => self.fastvm(name),
            Platform::Incus => self.incus(name),
            Platform::Convox => self.convox(name),
            Platform::Vergeos => self.vergeos(name),
            other => Err(Error::new(
                Kind::Unsupported,
                format!("the compute verbs do not reach {other} yet"),
            )
            .with_hint("they do reach local, fastvm, incus, convox and vergeos")),
        }
    }

    fn fastvm(self, name: String) -> Result<Connection> {
        let secret = self.secret.filter(|s| !s.is_empty()).ok_or_else(|| {
            Error::new(Kind::Unauthenticated, "fastvm needs an API key")
                .with_hint("set FASTVM_API_KEY, or give the context one with --secret-from")
        })?;
        let mut http = Http::builder();
        if let Some(file) = &self.ca_file {
            http = http.ca_file(file)?.and_system_roots();
        }
        let caller = Caller::new(
            Arc::new(http.build()?),
            BaseUrl::parse(&self.target.base())?,
        )
        .with_retry(boxrig_fastvm::Client::default_retries())
        .with_auth(Arc::new(ApiKey::new(&secret)?));
        let client = boxrig_fastvm::Client::new(caller.clone());
        Ok(Connection {
            compute: Arc::new(Fastvm::new(name, client)),
            caller,
        })
    }
}

impl Connect {
    /// A secret alone is an API key; with a user's name it is the password.
    fn vergeos(self, name: String) -> Result<Connection> {
        let mut builder = boxrig_vergeos::Client::builder().host(self.target.base());
        if let Some(secret) = self.secret {
            builder = match &self.user {
                Some(user) => builder.username(user).password(secret),
                None => builder.token(secret),
            };
        }
        if let Some(pin) = &self.pin {
            builder = builder.pin_sha256(pin);
        } else if let Some(file) = &self.ca_file {
            builder = builder.ca_file(file);
        }
        let client = builder.build()?;
        Ok(Connection {
            caller: client.caller().clone(),
            compute: Arc::new(Vergeos::new(name, client)),
        })
    }

    fn incus(self, name: String) -> Result<Connection> {
        let address = match self.target.unix_socket() {
            Some(socket) => Address::Unix(socket.to_owned()),
            None => Address::Https(self.target.base()),
        };
        let mut builder = ClientBuilder::new(address);
        if let Some(pin) = &self.pin {
            builder = builder.pin_sha256(pin);
        } else if let Some(file) = &self.ca_file {
            builder = builder.ca_pem(&read(file)?);
        }
        if let Some((cert, key)) = &self.certificate {
            builder = builder.identity(&Identity::from_files(cert, key)?);
        }
        if let Some(project) = self.project {
            builder = builder.project(project);
        }
        let client = builder.build()?;
        let caller = client.caller().clone();
        let mut incus = Incus::new(name, client);
        if let Some(image) = self.image {
            incus = incus.image(image);
        }
        Ok(Connection {
            compute: Arc::new(incus),
            caller,
        })
    }
}

impl Connect {
    /// Without a secret, the login of the vendor's tool for that host is taken, with its session.
    fn convox(self, name: String) -> Result<Connection> {
        let (base, rack) = (self.target.base(), self.target.path());
        let mut builder = boxrig_convox::Client::builder();
        match &self.secret {
            Some(secret) if secret.expose().contains("://") => {
                // A whole rack URL, whose password is meant.
                let url = secret.expose().to_owned();
                builder = builder.env_from(|name| (name == "RACK_URL").then(|| url.clone()));
            }
            Some(secret) => builder = builder.api_key(secret.clone()),
            None => {
                let host = base.split_once("://").map_or(&*base, |(_, host)| host);
                builder = builder.login(vendors_login(&[host, &base])?);
            }
        }
        builder = builder.host(&*base);
        if let Some(user) = self.user {
            builder = builder.user(user);
        }
        if !rack.is_empty() {
            builder = builder.rack(rack);
        }
        if let Some(file) = &self.ca_file {
            builder = builder.ca_file(file);
        }
        let client = builder.build()?;
        let caller = client.caller().clone();
        let mut convox = Convox::new(name, client);
        if let Some(image) = self.image {
            convox = convox.service(image);
        }
        Ok(Connection {
            compute: Arc::new(convox),
            caller,
        })
    }
}

/// The vendor's login under one of these names.
fn vendors_login(names: &[&str]) -> Result<boxrig_convox::Login> {
    let mut last = None;
    for name in names {
        match boxrig_convox::CliConfig::new().host(*name).login() {
            Ok(login) => return Ok(login),
            Err(e) => last = Some(e),
        }
    }
    let e = last.unwrap_or_else(|| Error::new(Kind::Unauthenticated, "no login"));
    Err(e.with_hint("give the context a key with --secret-from, or log in with `convox login`"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|e| {
        let shown = Untrusted::new(file.display().to_string());
        Error::new(Kind::Unauthenticated, format!("{shown}: {e}"))
    })
}

/// FastVM's credentials: the header `X-API-Key`.
#[derive(Clone)]
struct ApiKey(HeaderValue);

impl ApiKey {
    fn new(secret: &Secret) -> Result<Self> {
        let mut value = HeaderValue::from_str(secret.expose())
            .map_err(|_| Error::new(Kind::Invalid, "the API key cannot be sent in a header"))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey")
    }
}

impl Authorize for ApiKey {
    fn headers(&self) -> BoxFuture<'_, Result<HeaderMap>> {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("x-api-key"), self.0.clone());
        Box::pin(async move { Ok(headers) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_needed_and_never_shown() {
        let target: Target = "fastvm://host".parse().unwrap();
        let e = Connect::new(target.clone()).open().await.unwrap_err();
        assert_eq!(e.kind(), Kind::Unauthenticated);
        let connect = Connect::new(target).secret(Secret::new("canary"));
        assert!(!format!("{connect:?}").contains("canary"));
        let made = connect.open().await.unwrap();
        assert!(!format!("{made:?}").contains("canary"));
    }

    #[tokio::test]
    async fn vergeos_needs_credentials() {
        let target: Target = "vergeos://host".parse().unwrap();
        assert_eq!(
            Connect::new(target).open().await.unwrap_err().kind(),
            Kind::Unauthenticated
        );
    }
}
