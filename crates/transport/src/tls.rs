//! TLS: whom a client trusts and who it says it is.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use boxrig_wire::{Error, Kind};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

/// Whose certificate is accepted.
#[derive(Clone, Debug, Default)]
pub(crate) enum Trust {
    /// What the system trusts.
    #[default]
    System,
    /// What chains to one of these, and to the system's roots if told so.
    Authorities {
        roots: Vec<CertificateDer<'static>>,
        system: bool,
    },
    /// The one certificate with this SHA-256, whoever signed it and whatever names it has.
    Pin([u8; 32]),
    /// Any.
    Anything,
}

/// A client certificate.
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, message)
}

impl Identity {
    pub(crate) fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let chain = certificates(chain, "the client certificate")?;
        // The parser's error is not passed on: no part of a key gets in an error.
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| invalid("the client certificate's key is not a PEM private key"))?;
        Ok(Self { chain, key })
    }
}

/// Reads PEM certificates; at least one.
pub(crate) fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let list = list.map_err(|e| invalid(format!("{what} is not PEM")).with_source(e))?;
    if list.is_empty() {
        return Err(invalid(format!("{what} holds no PEM certificate")));
    }
    Ok(list)
}

/// Reads a SHA-256 in hex, with or without colons.
pub(crate) fn fingerprint(hex: &str) -> Result<[u8; 32], Error> {
    let wrong = || invalid("a pin is the SHA-256 of a certificate: 64 hex digits");
    let digits: Vec<u8> = hex.bytes().filter(|b| *b != b':').collect();
    let mut out = [0; 32];
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let text = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(text, 16).map_err(|_| wrong())?;
    }
    Ok(out)
}

/// The TLS settings of a client; the heavy part is made at the first use.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    trust: Trust,
    identity: Option<Identity>,
    made: OnceLock<Result<Configs, String>>,
}

#[derive(Clone, Debug)]
struct Configs {
    any: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

impl Tls {
    pub(crate) fn new(trust: Trust, identity: Option<Identity>) -> Self {
        Self {
            trust,
            identity,
            made: OnceLock::new(),
        }
    }

    /// The configuration; `http1` offers nothing else.
    pub(crate) fn config(&self, http1: bool) -> Result<Arc<ClientConfig>, Error> {
        match self.made.get_or_init(|| self.make()) {
            Ok(c) => Ok(if http1 {
                c.http1.clone()
            } else {
                c.any.clone()
            }),
            Err(why) => Err(invalid(format!("TLS cannot be set up: {why}"))),
        }
    }

    fn make(&self) -> Result<Configs, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let builder = match &self.trust {
            Trust::System => builder.with_root_certificates(system_roots()?),
            Trust::Authorities { roots, system } => {
                let mut store = if *system {
                    RootCertStore::clone(&*system_roots()?)
                } else {
                    RootCertStore::empty()
                };
                for root in roots {
                    store
                        .add(root.clone())
                        .map_err(|e| format!("a CA certificate is not usable: {e}"))?;
                }
                builder.with_root_certificates(store)
            }
            Trust::Pin(sha256) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Known {
                    pin: Some(*sha256),
                    provider,
                })),
            Trust::Anything => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Known {
                    pin: None,
                    provider,
                })),
        };
        let mut http1 = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(id) => builder
                .with_client_auth_cert(id.chain.clone(), id.key.clone_key())
                .map_err(|e| format!("the client certificate is not usable: {e}"))?,
        };
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut any = http1.clone();
        any.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Configs {
            any: Arc::new(any),
            http1: Arc::new(http1),
        })
    }
}

/// The system's roots, read once per process.
fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    ROOTS
        .get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            let mut store = RootCertStore::empty();
            // Systems carry odd roots that no verifier reads; those are passed over.
            let (added, _) = store.add_parsable_certificates(found.certs);
            if added == 0 {
                let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
                return Err(format!(
                    "the system has no root certificates{}{}",
                    if why.is_empty() { "" } else { ": " },
                    why.join("; ")
                ));
            }
            Ok(Arc::new(store))
        })
        .clone()
}

/// Accepts one certificate, or any. The handshake's signature is checked all the same: the peer
/// holds the key of what it presents.
#[derive(Debug)]
struct Known {
    pin: Option<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.pin {
            Some(pin) if Sha256::digest(end_entity)[..] != pin => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The failure of a handshake in words, and whether trying again can help.
pub(crate) fn handshake_error(host: &str, e: io::Error) -> (Error, bool) {
    let tls = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let (what, hint) = match tls {
        Some(rustls::Error::InvalidCertificate(why)) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                "its certificate has expired",
                "renew it on the server; or check this machine's clock",
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
                "its certificate is not valid yet",
                "check this machine's clock",
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                (
                    "its certificate is for another name",
                    "use the name in the certificate, or pin the certificate",
                )
            }
            // A bad signature is what a new CA of the same name as the old one looks like.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => (
                "its certificate is signed by nobody that is trusted here",
                "name the CA's file, or pin the certificate's SHA-256",
            ),
            CertificateError::ApplicationVerificationFailure => (
                "its certificate is not the pinned one",
                "the server has a new certificate, or something is between you and it",
            ),
            _ => (
                "its certificate is not acceptable",
                "look at it with `openssl s_client -connect`",
            ),
        },
        Some(rustls::Error::AlertReceived(_)) => (
            "the server broke off the TLS handshake",
            "it may want a client certificate, or another one",
        ),
        Some(rustls::Error::InvalidMessage(_)) => (
            "what it speaks is not TLS",
            "use http:// if it speaks plain HTTP",
        ),
        _ => {
            let error = Error::new(
                Kind::Transport,
                format!("the TLS handshake with {host} broke off"),
            );
            return (error.with_source(e), false);
        }
    };
    let error = Error::new(Kind::Transport, format!("no TLS with {host}: {what}"))
        .with_retryable(false)
        .with_hint(hint)
        .with_source(e);
    (error, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints() {
        let hex = "00:ff".repeat(16).replace("ff00", "ff:00");
        assert_eq!(fingerprint(&hex).unwrap()[..2], [0, 255]);
        assert_eq!(fingerprint(&"Ab".repeat(32)).unwrap(), [0xab; 32]);
        for bad in [
            "",
            "ab",
            &"zz".repeat(32),
            &"é".repeat(32),
            &"+1".repeat(32),
        ] {
            let read = fingerprint(bad);
            assert!(read.is_err(), "{bad}: {read:?}");
        }
    }

    #[test]
    fn a_wrong_key_is_not_quoted() {
        let e = Identity::from_pem(b"x", b"canary").unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid);
        let pem = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let e = Identity::from_pem(pem, b"-----BEGIN canary").unwrap_err();
        assert!(!format!("{e:?}{e}").contains("canary"));
    }
}
