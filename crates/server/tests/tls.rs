//! TLS on the same port: versions, names, client certificates, HTTP/2.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;

use boxrig_server::testing::Server;
use boxrig_wire::WireBody;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

fn config(server: &Server, version: &'static SupportedProtocolVersion) -> ClientConfig {
    builder(server, version).with_no_client_auth()
}

fn builder(
    server: &Server,
    version: &'static SupportedProtocolVersion,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let ca = server
        .running()
        .unwrap()
        .env()
        .get("BOXRIG_CA_FILE")
        .unwrap()
        .to_owned();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
}

async fn connect(
    server: &Server,
    config: ClientConfig,
    name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let address = server.url().replace("http://", "");
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

async fn get(mut stream: TlsStream<TcpStream>, path: &str) -> String {
    stream
        .write_all(support::get(path, "").as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn both_versions_and_every_local_name() {
    let server = Server::start().await.unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for name in [
            "localhost",
            "127.0.0.1",
            "::1",
            "x.proxy.localhost",
            "web.app.localhost",
        ] {
            let stream = connect(&server, config(&server, version), name)
                .await
                .unwrap();
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
            let answer = get(stream, "/1.0").await;
            assert!(answer.starts_with("HTTP/1.1 501"), "{name}: {answer}");
        }
    }
    let foreign = connect(
        &server,
        config(&server, &rustls::version::TLS13),
        "example.com",
    )
    .await;
    assert!(foreign.unwrap_err().to_string().contains("certificate"));
    server.stop().await;
}

#[tokio::test]
async fn http2_by_alpn_and_by_its_preface() {
    let server = Server::start().await.unwrap();
    let mut tls = config(&server, &rustls::version::TLS13);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let secure = connect(&server, tls, "localhost").await.unwrap();
    assert_eq!(secure.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let url = server.running().unwrap().urls().https.clone();
    assert_eq!(h2(TokioIo::new(secure), &format!("{url}/1.0")).await, 501);

    let address = server.url().replace("http://", "");
    let plain = TcpStream::connect(address).await.unwrap();
    let url = server.url();
    assert_eq!(h2(TokioIo::new(plain), &format!("{url}/1.0")).await, 501);
    server.stop().await;
}

async fn h2<I>(io: I, url: &str) -> u16
where
    I: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(url).body(WireBody::empty()).unwrap();
    sender
        .send_request(request)
        .await
        .unwrap()
        .status()
        .as_u16()
}

#[tokio::test]
async fn a_client_certificate_counts_on_tls_1_3_only() {
    let server = Server::start().await.unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["me".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    for (version, envelope) in [
        (&rustls::version::TLS12, false),
        (&rustls::version::TLS13, true),
    ] {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let tls = builder(&server, version)
            .with_client_auth_cert(vec![cert.der().clone()], key)
            .unwrap();
        let stream = connect(&server, tls, "localhost").await.unwrap();
        let answer = get(stream, "/nowhere").await;
        // With a certificate an unknown path gets Incus' envelope, else Convox' answer.
        assert_eq!(answer.contains("error_code"), envelope, "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_authority_vouches_for_nothing_else() {
    use rcgen::{CertificateParams, Issuer, KeyPair};
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::UnixTime;

    let server = Server::start().await.unwrap();
    let tls = server.dir().join("data/tls");
    let key = std::fs::read_to_string(tls.join("ca-key.pem")).unwrap();
    let mut ca = CertificateParams::default();
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "boxrig local authority");
    let issuer = Issuer::new(ca, KeyPair::from_pem(&key).unwrap());
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(tls.join("ca.pem")).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap();
    // A stolen key makes certificates for names under localhost, and for no other.
    for (name, good) in [
        ("app.localhost", true),
        ("bank.example", false),
        ("192.0.2.1", false),
    ] {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let result = verifier.verify_server_cert(
            leaf.der(),
            &[],
            &ServerName::try_from(name).unwrap(),
            &[],
            UnixTime::now(),
        );
        assert_eq!(result.is_ok(), good, "{name}: {result:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_certificate_stays_over_a_restart() {
    let mut server = Server::start().await.unwrap();
    let read = |server: &Server| std::fs::read(server.dir().join("data/tls/server.pem")).unwrap();
    let before = read(&server);
    server
        .restart(|config| config.engine(boxrig_engine::Selection::Memory))
        .await
        .unwrap();
    assert_eq!(before, read(&server));
    let stream = connect(
        &server,
        config(&server, &rustls::version::TLS13),
        "localhost",
    )
    .await;
    assert!(stream.is_ok());
    server.stop().await;
}
