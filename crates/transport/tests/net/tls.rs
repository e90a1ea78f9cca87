//! Whom a client trusts.

use std::sync::Arc;

use boxrig_transport::HttpBuilder;
use boxrig_wire::{Duplex, Kind, Transport};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use crate::support::{Conn, Served, builder, get, quick, serve_over};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server's certificate and what signed it.
pub struct Site {
    ca: Issuer,
    cert: CertificateDer<'static>,
    key: KeyPair,
    alpn: Vec<Vec<u8>>,
    clients: Option<Issuer>,
}

impl Site {
    pub fn good() -> Self {
        Self::new("localhost", |_| {})
    }

    fn new(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let ca = authority();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let cert = params.signed_by(&key, &ca).unwrap().der().clone();
        Self {
            ca,
            cert,
            key,
            alpn: Vec::new(),
            clients: None,
        }
    }

    pub fn ca(&self) -> String {
        self.ca.pem()
    }

    fn pin(&self) -> String {
        Sha256::digest(&self.cert)
            .iter()
            .map(|b| format!("{b:02X}"))
            .collect::<Vec<_>>()
            .join(":")
    }

    pub async fn serve<F, Fut>(&self, script: F) -> Served
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match &self.clients {
            None => config.with_no_client_auth(),
            Some(ca) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(ca.der().clone()).unwrap();
                config.with_client_cert_verifier(
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .unwrap(),
                )
            }
        };
        let key = PrivateKeyDer::from_pem_slice(self.key.serialize_pem().as_bytes()).unwrap();
        let mut config = config
            .with_single_cert(vec![self.cert.clone()], key)
            .unwrap();
        config.alpn_protocols = self.alpn.clone();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        serve_over(script, move |io| {
            let acceptor = acceptor.clone();
            async move {
                let io = acceptor.accept(io).await.ok()?;
                Some(Box::new(io) as Box<dyn Duplex>)
            }
        })
        .await
    }
}

async fn try_it(site: &Site, http: HttpBuilder) -> Result<u16, boxrig_wire::Error> {
    let server = site
        .serve(|mut conn: Conn| async move { conn.fine("ok").await })
        .await;
    let http = http.build().unwrap();
    let mut out = get(&format!("https://localhost:{}/", server.addr.port()));
    out.retry = quick(2);
    let result = http.send(out).await.map(|r| r.status().as_u16());
    if result.is_err() {
        assert_eq!(server.counts.requests(), 0, "nothing may be sent");
    }
    result
}

fn trusting(site: &Site) -> HttpBuilder {
    builder().ca_pem(site.ca().as_bytes()).unwrap()
}

#[tokio::test]
async fn a_ca_is_trusted() {
    let site = Site::good();
    assert_eq!(try_it(&site, trusting(&site)).await.unwrap(), 200);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    std::fs::write(&path, site.ca()).unwrap();
    assert_eq!(
        try_it(&site, builder().ca_file(&path).unwrap())
            .await
            .unwrap(),
        200
    );
    let e = builder().ca_file(dir.path().join("none")).unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid);
}

#[tokio::test]
async fn what_is_refused() {
    let self_signed = Site::good();
    let expired = Site::new("localhost", |p| p.not_after = date_time_ymd(2020, 1, 1));
    let early = Site::new("localhost", |p| p.not_before = date_time_ymd(2090, 1, 1));
    let other_name = Site::new("elsewhere.example", |_| {});
    let (ex, ea, on) = (trusting(&expired), trusting(&early), trusting(&other_name));
    for (site, http, words) in [
        (
            &self_signed,
            builder().ca_pem(Site::good().ca().as_bytes()).unwrap(),
            "nobody that is trusted",
        ),
        (&expired, ex, "expired"),
        (&early, ea, "not valid yet"),
        (&other_name, on, "another name"),
        (
            &self_signed,
            builder().pin_sha256(&"00".repeat(32)).unwrap(),
            "not the pinned one",
        ),
    ] {
        let e = try_it(site, http).await.unwrap_err();
        assert!(e.to_string().contains(words), "{words}: {e}");
        assert_eq!(e.kind(), Kind::Transport);
        assert_eq!(e.attempts(), 1, "trying again cannot help");
        assert!(!e.is_retryable() && e.hint().is_some());
    }
}

#[tokio::test]
async fn a_pin_is_enough() {
    // Whoever signed it, whatever its name.
    let site = Site::new("elsewhere.example", |_| {});
    let http = builder().pin_sha256(&site.pin()).unwrap();
    assert_eq!(try_it(&site, http).await.unwrap(), 200);
}

#[tokio::test]
async fn anything_only_when_told() {
    let site = Site::new("elsewhere.example", |_| {});
    let http = builder().danger_accept_any_certificate();
    assert_eq!(try_it(&site, http).await.unwrap(), 200);
    // The next client is as strict as ever.
    assert!(try_it(&site, builder()).await.is_err());
}

#[tokio::test]
async fn a_client_certificate() {
    let clients = authority();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["me".to_owned()])
        .unwrap()
        .signed_by(&key, &clients)
        .unwrap();
    let mut site = Site::good();
    site.clients = Some(clients);
    let http = trusting(&site)
        .client_certificate(cert.pem().as_bytes(), key.serialize_pem().as_bytes())
        .unwrap();
    assert_eq!(try_it(&site, http).await.unwrap(), 200);
    // Without one, TLS 1.3 says so only after the handshake.
    assert!(try_it(&site, trusting(&site)).await.is_err());
}

#[tokio::test]
async fn plain_http_on_a_tls_port_and_the_other_way_round() {
    let server = crate::support::serve(|mut conn: Conn| async move {
        conn.raw("HTTP/1.1 400 no\r\n\r\n").await;
        conn.until_closed().await;
    })
    .await;
    let http = builder().build().unwrap();
    let e = http
        .send(get(&format!("https://localhost:{}/", server.addr.port())))
        .await
        .unwrap_err();
    assert!(e.to_string().contains("not TLS"), "{e}");
}

/// HTTP/2 is taken when the server has it, and not for an upgrade.
#[tokio::test]
async fn http2_by_agreement() {
    let mut site = Site::good();
    site.alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server = site
        .serve(|conn: Conn| async move {
            let counts = conn.counts.clone();
            let service =
                hyper::service::service_fn(move |r: http::Request<hyper::body::Incoming>| {
                    counts
                        .requests
                        .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let text = format!("{:?}", r.version());
                    async move {
                        Ok::<_, std::convert::Infallible>(http::Response::new(
                            boxrig_wire::WireBody::full(text),
                        ))
                    }
                });
            let io = hyper_util::rt::TokioIo::new(conn.io);
            let _ =
                hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new())
                    .serve_connection(io, service)
                    .await;
        })
        .await;
    let http = trusting(&site).build().unwrap();
    let url = format!("https://localhost:{}/", server.addr.port());
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (http, url) = (http.clone(), url.clone());
            tokio::spawn(async move { http.send(get(&url)).await.unwrap() })
        })
        .collect();
    for task in tasks {
        assert_eq!(
            task.await.unwrap().body().as_bytes(),
            Some(&b"HTTP/2.0"[..])
        );
    }
    assert_eq!(server.counts.connections(), 1);
    let mut out = get(&url);
    out.reply = boxrig_wire::ReplyShape::Socket;
    let r = http.send(out).await.unwrap();
    assert_eq!(r.body().as_bytes(), Some(&b"HTTP/1.1"[..]));
}

/// Many calls to a TLS port that says nothing: all give up together, not one after the other.
#[tokio::test]
async fn a_silent_tls_port_is_waited_for_once() {
    let server = crate::support::serve(|mut conn: Conn| async move {
        conn.until_closed().await;
    })
    .await;
    let limit = std::time::Duration::from_millis(200);
    let http = builder().connect_timeout(limit).build().unwrap();
    let url = format!("https://localhost:{}/", server.addr.port());
    let start = std::time::Instant::now();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let (http, url) = (http.clone(), url.clone());
            tokio::spawn(async move { http.send(get(&url)).await.unwrap_err() })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().kind(), Kind::Transport);
    }
    assert!(start.elapsed() < limit * 5, "{:?}", start.elapsed());
    server.counts.all_closed().await;
}
