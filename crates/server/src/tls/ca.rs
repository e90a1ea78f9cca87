//! The certificate authority, its files, and the server's certificate.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, date_time_ymd,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use crate::files;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The authority's life.
const CA_DAYS: u32 = 3650;
/// The certificate's life: browsers and Apple's library take no more than 398 days.
const LEAF_DAYS: u32 = 397;
/// A certificate with less life left is renewed.
const RENEW_DAYS: u32 = 30;
/// Most certificates of services that are held.
const MOST_SERVICES: usize = 512;
/// Certificates begin this much in the past, for clocks that go slow.
const SKEW: Duration = Duration::from_secs(3600);

/// The names a server may answer to besides loopback and `localhost`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Host names and addresses of `--public-url`.
    pub public: Vec<String>,
}

/// What the files hold, so that no certificate has to be parsed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Facts {
    names: Names,
    ca_ends: u64,
    leaf_ends: u64,
}

/// The certificate authority of a server, with the server's certificate.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    facts: Facts,
    served: Arc<Served>,
}

/// The certificates that are shown: the server's own, and one for each service that was asked for by name. A certificate's
/// wildcard stands for one label, so none can cover the services of all apps.
#[derive(Debug)]
struct Served {
    dir: PathBuf,
    names: Names,
    own: RwLock<Option<Arc<CertifiedKey>>>,
    services: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl Served {
    fn new(dir: &Path, names: &Names) -> Arc<Self> {
        Arc::new(Self {
            dir: dir.to_owned(),
            names: names.clone(),
            own: RwLock::default(),
            services: RwLock::default(),
        })
    }

    fn set(&self, key: Arc<CertifiedKey>) {
        *self.own.write().unwrap_or_else(|e| e.into_inner()) = Some(key);
        // Those of services have its key and its life.
        self.services
            .write()
            .unwrap_or_else(|e| e.into_inner())
            .clear();
    }

    fn of_service(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let known = self.services.read().unwrap_or_else(|e| e.into_inner());
        if let Some(key) = known.get(name) {
            return Some(key.clone());
        }
        drop(known);
        let made = service_leaf(&self.dir, &self.names, name, seconds(SystemTime::now()));
        let key = made
            .inspect_err(|e| tracing::warn!(error = %e, "no certificate for a service"))
            .ok()?;
        let mut known = self.services.write().unwrap_or_else(|e| e.into_inner());
        // Whoever asks for ever new names makes it work, but not grow.
        if known.len() >= MOST_SERVICES {
            known.clear();
        }
        known.insert(name.to_owned(), key.clone());
        Some(key)
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let service = hello.server_name().map(str::to_ascii_lowercase);
        service
            .filter(|name| is_service(name))
            .and_then(|name| self.of_service(&name))
            .or_else(|| self.own.read().unwrap_or_else(|e| e.into_inner()).clone())
    }
}

/// `<service>.<app>.localhost`. Names under `proxy` are the server's own certificate's.
fn is_service(name: &str) -> bool {
    let labels: Vec<_> = name.split('.').collect();
    matches!(labels[..], [_, app, "localhost"] if app != "proxy")
}

impl Authority {
    /// Opens the authority under `dir`; makes it, or a new certificate, when there is none that lasts or the names
    /// have changed.
    ///
    /// # Errors
    ///
    /// When the files cannot be read or written, or others can read a key.
    pub fn open(dir: &Path, names: &Names, now: SystemTime) -> io::Result<Self> {
        files::private_dir(dir)?;
        let now = seconds(now);
        let soon = now + u64::from(RENEW_DAYS) * DAY.as_secs();
        let found: Option<Facts> = match fs::read(dir.join("facts.json")) {
            Ok(text) => serde_json::from_slice(&text).ok(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let found = found.filter(|f| f.names == *names && f.ca_ends > soon);
        let facts = match found {
            Some(facts) if facts.leaf_ends > soon => facts,
            Some(facts) => Facts {
                leaf_ends: make_leaf(dir, names, now)?,
                ..facts
            },
            None => Facts {
                names: names.clone(),
                ca_ends: make_ca(dir, names, now)?,
                leaf_ends: make_leaf(dir, names, now)?,
            },
        };
        for key in ["ca-key.pem", "server-key.pem"] {
            files::check_private(&dir.join(key))?;
        }
        // Written last: files without facts are made anew.
        let text = serde_json::to_vec(&facts).map_err(io::Error::other)?;
        files::write_private(&dir.join("facts.json"), |f| f.write_all(&text))?;
        Ok(Self {
            dir: dir.to_owned(),
            served: Served::new(dir, &facts.names),
            facts,
        })
    }

    /// The authority's certificate, for `BOXRIG_CA_FILE`.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A file with the system's roots and this authority, for `SSL_CERT_FILE`: programs that read that variable trust
    /// nothing else, and need both. Written anew when it is older than `life` or than the authority.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn bundle(&self, life: Duration) -> io::Result<PathBuf> {
        let path = self.dir.join("bundle.pem");
        let changed = |path: &Path| fs::metadata(path).and_then(|m| m.modified());
        if let (Ok(bundle), Ok(ca)) = (changed(&path), changed(&self.ca_file()))
            && bundle >= ca
            && bundle.elapsed().is_ok_and(|age| age < life)
        {
            return Ok(path);
        }
        let ca = fs::read(self.ca_file())?;
        // Roots that cannot be read are left out: what this server needs is its own authority.
        let roots = rustls_native_certs::load_native_certs().certs;
        files::write_private(&path, |f| {
            let mut text = ca;
            for root in &roots {
                text.extend_from_slice(pem("CERTIFICATE", root).as_bytes());
            }
            f.write_all(&text)
        })?;
        Ok(path)
    }

    /// How long until the certificate is due to be renewed (by opening the authority again and taking it over).
    pub fn renew_in(&self, now: SystemTime) -> Duration {
        let due = self.facts.leaf_ends - u64::from(RENEW_DAYS) * DAY.as_secs();
        Duration::from_secs(due.saturating_sub(seconds(now)))
    }

    /// Renews the certificate when it is due; connections made from now on get the new one.
    ///
    /// # Errors
    ///
    /// When the files cannot be written; the old one stays in use.
    pub fn renew(&mut self, now: SystemTime) -> io::Result<()> {
        let new = Self::open(&self.dir, &self.facts.names, now)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = certified(&self.dir, &provider)?;
        self.served.set(key);
        self.facts = new.facts;
        Ok(())
    }

    pub(super) fn resolver(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> io::Result<Arc<dyn ResolvesServerCert>> {
        let key = certified(&self.dir, provider)?;
        self.served.set(key);
        Ok(self.served.clone())
    }
}

fn certified(dir: &Path, provider: &CryptoProvider) -> io::Result<Arc<CertifiedKey>> {
    let chain = CertificateDer::pem_file_iter(dir.join("server.pem"))
        .map_err(io::Error::other)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(dir.join("server-key.pem")).map_err(io::Error::other)?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(io::Error::other)?;
    Ok(Arc::new(key))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Sets the life of a certificate from `now` on; gives its end.
fn set_life(params: &mut CertificateParams, now: u64, days: u32) -> u64 {
    let epoch = date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(now);
    let end = now + days * DAY;
    params.not_before = epoch + now.saturating_sub(SKEW);
    params.not_after = epoch + end;
    end.as_secs()
}

/// What the authority is called and may do; the same at every signing.
fn ca_params(names: &Names) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "boxrig local authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let loopback_v4 = CidrSubnet::from_v4_prefix(Ipv4Addr::new(127, 0, 0, 0).octets(), 8);
    let loopback_v6 = CidrSubnet::from_v6_prefix(Ipv6Addr::LOCALHOST.octets(), 128);
    let mut permitted_subtrees = vec![
        GeneralSubtree::DnsName("localhost".to_owned()),
        GeneralSubtree::IpAddress(loopback_v4),
        GeneralSubtree::IpAddress(loopback_v6),
    ];
    permitted_subtrees.extend(names.public.iter().map(|name| match name.parse() {
        Ok(ip @ IpAddr::V4(_)) => GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(ip, 32)),
        Ok(ip @ IpAddr::V6(_)) => GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(ip, 128)),
        Err(_) => GeneralSubtree::DnsName(name.clone()),
    }));
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees,
        excluded_subtrees: Vec::new(),
    });
    params
}

fn make_ca(dir: &Path, names: &Names, now: u64) -> io::Result<u64> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut params = ca_params(names);
    let end = set_life(&mut params, now, CA_DAYS);
    let cert = params.self_signed(&key).map_err(io::Error::other)?;
    write(dir, "ca", &key, &cert.pem())?;
    Ok(end)
}

fn issuer(dir: &Path, names: &Names) -> io::Result<Issuer<'static, KeyPair>> {
    let ca_key = fs::read_to_string(dir.join("ca-key.pem"))?;
    let ca_key = KeyPair::from_pem(&ca_key).map_err(io::Error::other)?;
    Ok(Issuer::new(ca_params(names), ca_key))
}

fn leaf_params(names: Vec<String>) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "boxrig local server");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A certificate for one service, on the server's own key; it is in no file.
fn service_leaf(dir: &Path, names: &Names, name: &str, now: u64) -> io::Result<Arc<CertifiedKey>> {
    let mut params = leaf_params(vec![name.to_owned()])?;
    set_life(&mut params, now, LEAF_DAYS);
    let text = fs::read_to_string(dir.join("server-key.pem"))?;
    let key = KeyPair::from_pem(&text).map_err(io::Error::other)?;
    let cert = params
        .signed_by(&key, &issuer(dir, names)?)
        .map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(io::Error::other)?;
    let provider = rustls::crypto::ring::default_provider();
    let key = CertifiedKey::from_der(vec![cert.der().clone()], key, &provider);
    Ok(Arc::new(key.map_err(io::Error::other)?))
}

fn make_leaf(dir: &Path, names: &Names, now: u64) -> io::Result<u64> {
    let issuer = issuer(dir, names)?;
    let mut all: Vec<String> = ["localhost", "*.proxy.localhost", "127.0.0.1", "::1"]
        .map(str::to_owned)
        .into();
    all.extend(names.public.iter().cloned());
    let mut params = leaf_params(all)?;
    let end = set_life(&mut params, now, LEAF_DAYS);
    // A new key each time, and with it a new serial number.
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let cert = params.signed_by(&key, &issuer).map_err(io::Error::other)?;
    write(dir, "server", &key, &cert.pem())?;
    Ok(end)
}

fn write(dir: &Path, name: &str, key: &KeyPair, cert: &str) -> io::Result<()> {
    let key = key.serialize_pem();
    files::write_private(&dir.join(format!("{name}-key.pem")), |f| {
        f.write_all(key.as_bytes())
    })?;
    files::write_private(&dir.join(format!("{name}.pem")), |f| {
        f.write_all(cert.as_bytes())
    })
}

/// PEM text (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|b| *b as char));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_stay_and_are_renewed_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names::default();
        let now = SystemTime::now();
        let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
        let mut authority = Authority::open(dir.path(), &names, now).unwrap();
        let (ca, leaf) = (read("ca.pem"), read("server.pem"));
        Authority::open(dir.path(), &names, now + 300 * DAY).unwrap();
        assert_eq!((&ca, &leaf), (&read("ca.pem"), &read("server.pem")));
        assert_eq!(
            authority.renew_in(now).as_secs() / DAY.as_secs(),
            u64::from(LEAF_DAYS - RENEW_DAYS)
        );
        authority.renew(now + 380 * DAY).unwrap();
        assert_eq!(ca, read("ca.pem"));
        assert_ne!(leaf, read("server.pem"));
        let other = Names {
            public: vec!["box.example.com".into(), "192.0.2.1".into()],
        };
        Authority::open(dir.path(), &other, now).unwrap();
        assert_ne!(ca, read("ca.pem"));
        let bundle = fs::read_to_string(authority.bundle(DAY).unwrap()).unwrap();
        assert!(bundle.starts_with("-----BEGIN CERTIFICATE-----"));
    }
}
