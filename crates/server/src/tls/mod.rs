//! TLS of the server's port: a certificate authority of its own, and a certificate made by it.
//!
//! The authority is made at the first start and can vouch only for loopback addresses, names under `localhost` and the
//! host of `--public-url` (name constraints), so trusting it does not open anything else. Its key is readable only by
//! its owner. The server's certificate stays the same over restarts and is renewed before it ends.

mod ca;

pub use ca::{Authority, Names};

use std::io;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, ProtocolVersion, ServerConfig, ServerConnection,
    SignatureScheme,
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::ids::to_hex;

/// Accepts TLS connections. Cheap to clone.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// TLS 1.2 and 1.3 with the authority's certificate; HTTP/2 and HTTP/1.1 are offered.
    ///
    /// # Errors
    ///
    /// When the certificate cannot be used.
    pub fn new(authority: &Authority) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let resolver = authority.resolver(&provider)?;
        let mut config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(io::Error::other)?
            .with_client_cert_verifier(Arc::new(AnyClient(provider)))
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// The server's side of a handshake.
    ///
    /// # Errors
    ///
    /// The client's or the connection's fault.
    pub async fn accept<I>(&self, io: I) -> io::Result<TlsStream<I>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        self.0.accept(io).await
    }
}

/// The fingerprint (SHA-256 of the DER, in hex) of the client's certificate. Only on TLS 1.3: there it travels
/// encrypted, and Incus counts it only there.
pub fn client_fingerprint(connection: &ServerConnection) -> Option<String> {
    if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return None;
    }
    let cert = connection.peer_certificates()?.first()?;
    Some(to_hex(&Sha256::digest(cert)))
}

/// Asks for a client certificate, takes none too, and any whose key the client shows to have: who it is, is decided
/// by its fingerprint, by the one protocol that reads it.
#[derive(Debug)]
struct AnyClient(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
