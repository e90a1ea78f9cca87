//! Service host names: from the server's port to a port of an instance.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use boxrig_engine::{Engine, InstanceId, InstanceSpec, NetworkPolicy};
use boxrig_server::services::{Backend, Probed, Protocol, Service, Services, probe};
use boxrig_server::testing::Server;
use boxrig_wire::WireBody;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

const PORT: u16 = 8080;

/// An instance whose port 8080 is served by this test.
struct App {
    id: InstanceId,
    /// Requests that came.
    seen: Arc<AtomicUsize>,
    /// Lets `/slow` answer.
    go: Arc<Notify>,
}

async fn app(engine: &Arc<dyn Engine>, name: &str, h2: bool) -> App {
    let id = InstanceId::new(name).unwrap();
    let mut spec = InstanceSpec::new(id.clone());
    spec.network = NetworkPolicy::None;
    engine.create(spec).await.unwrap();
    let mut listener = engine.listen(&id, PORT).await.unwrap();
    let app = App {
        id: id.clone(),
        seen: Arc::default(),
        go: Arc::default(),
    };
    let (seen, go) = (app.seen.clone(), app.go.clone());
    tokio::spawn(async move {
        while let Ok(io) = listener.accept().await {
            let (id, seen, go) = (id.clone(), seen.clone(), go.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    seen.fetch_add(1, Ordering::SeqCst);
                    answer(id.to_string(), go.clone(), request)
                });
                let io = TokioIo::new(io);
                if h2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(io, service).await;
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(io, service).with_upgrades().await;
                }
            });
        }
    });
    app
}

/// The app: what it does goes by the path.
async fn answer(
    name: String,
    go: Arc<Notify>,
    mut request: Request<Incoming>,
) -> Result<Response<WireBody>, std::io::Error> {
    match request.uri().path() {
        "/echo" => Ok(Response::new(WireBody::stream(request.into_body()))),
        "/break" => Err(std::io::Error::other("broken on purpose")),
        "/slow" => {
            go.notified().await;
            Ok(Response::new(WireBody::full(name)))
        }
        "/events" => {
            let chunks = futures_util::stream::unfold(0, move |n| {
                let go = go.clone();
                async move {
                    if n > 0 {
                        go.notified().await;
                    }
                    Some((
                        Ok::<_, Infallible>(Bytes::from(format!("data: {n}\n\n"))),
                        n + 1,
                    ))
                }
            });
            Ok(Response::new(WireBody::from_stream(chunks.take(3))))
        }
        "/socket" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                let mut buffer = [0; 64];
                while let Ok(n) = io.read(&mut buffer).await {
                    if n == 0 {
                        break;
                    }
                    io.write_all(&buffer[..n].to_ascii_uppercase())
                        .await
                        .unwrap();
                }
            });
            let response = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, "shout");
            Ok(response.body(WireBody::empty()).unwrap())
        }
        _ => {
            let text = |name: &str| {
                let value = request.headers().get(name);
                value
                    .and_then(|v| v.to_str().ok())
                    .unwrap_or("-")
                    .to_owned()
            };
            let words = format!(
                "{name} {} {} host={} for={} proto={}",
                request.method(),
                request.uri(),
                text("host"),
                text("x-forwarded-for"),
                text("x-forwarded-proto"),
            );
            Ok(Response::new(WireBody::full(words)))
        }
    }
}

struct Rig {
    server: Server,
    engine: Arc<dyn Engine>,
    services: Services,
}

async fn rig() -> Option<Rig> {
    let server = match Server::on(boxrig_engine::Selection::Sandbox).await {
        Ok(server) => server,
        Err(e) => {
            let required = std::env::var("BOXRIG_REQUIRE").is_ok_and(|w| w.contains("sandbox"));
            assert!(!required, "the sandbox is required: {e}");
            println!("skipped: {e}");
            return None;
        }
    };
    let core = server.running().unwrap().core().clone();
    Some(Rig {
        engine: core.engine.clone(),
        services: core.services.clone(),
        server,
    })
}

fn to(apps: &[&App]) -> Service {
    Service {
        backends: apps.iter().map(|app| backend(&app.id)).collect(),
        ..Service::default()
    }
}

fn backend(id: &InstanceId) -> Backend {
    Backend {
        instance: id.clone(),
        port: PORT,
    }
}

impl Rig {
    fn address(&self) -> String {
        self.server.url().replace("http://", "")
    }

    /// A request by HTTP/1.1 on a connection of its own.
    async fn send(&self, host: &str, request: &str) -> String {
        exchange(&self.address(), host, request).await
    }

    async fn get(&self, host: &str, path: &str) -> (u16, String) {
        let answer = self.send(host, &format!("GET {path} HTTP/1.1\r\n")).await;
        split(&answer)
    }
}

async fn exchange(address: &str, host: &str, request: &str) -> String {
    let mut io = TcpStream::connect(address).await.unwrap();
    let head = format!("{request}Host: {host}\r\nConnection: close\r\n\r\n");
    io.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = io.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), read).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn split(answer: &str) -> (u16, String) {
    let status = answer.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_reach_processes_in_turn() {
    let Some(rig) = rig().await else { return };
    let (a, b) = (
        app(&rig.engine, "a", false).await,
        app(&rig.engine, "b", false).await,
    );
    assert_eq!(rig.get("web.app.localhost", "/").await.0, 404);
    rig.services.publish("web.app", Service::default());
    let (status, words) = rig.get("web.app.localhost", "/").await;
    assert_eq!(status, 503);
    assert!(words.contains("no process"), "{words}");

    rig.services.publish("web.app", to(&[&a, &b]));
    let (status, body) = rig.get("web.app.localhost:80", "/x?y=1").await;
    assert_eq!(status, 200);
    assert_eq!(
        body,
        "a GET /x?y=1 host=web.app.localhost:80 for=127.0.0.1 proto=http"
    );
    assert!(rig.get("WEB.app.localhost", "/").await.1.starts_with("b "));
    assert!(rig.get("web.app.localhost.", "/").await.1.starts_with("a "));

    // No path of a service's host leads to the server's own protocols.
    for path in [
        "/boxrig/v1/info",
        "/v1/vms",
        "/healthz",
        "/1.0",
        "/api/v4/vms",
        "/apps",
        "//boxrig/v1/info",
    ] {
        let (status, body) = rig.get("web.app.localhost", path).await;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(body.contains(&format!("GET {path} ")), "{body}");
    }
    // Nor does a request with two hosts, or another one in its target.
    let two = rig
        .send(
            "web.app.localhost",
            "GET /v1/vms HTTP/1.1\r\nHost: localhost\r\n",
        )
        .await;
    assert_eq!(split(&two).0, 400);
    let absolute = "GET http://localhost/v1/vms HTTP/1.1\r\n";
    assert_eq!(split(&rig.send("web.app.localhost", absolute).await).0, 403);
    // A page of another site may ask a service what it likes.
    let origin = "GET / HTTP/1.1\r\nOrigin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\n";
    assert_eq!(split(&rig.send("web.app.localhost", origin).await).0, 200);

    // One that takes no connection is passed over, and one that breaks off is not asked again.
    let gone = InstanceId::new("gone").unwrap();
    let service = Service {
        backends: vec![backend(&gone), backend(&a.id)],
        ..Service::default()
    };
    rig.services.publish("web.app", service);
    for _ in 0..4 {
        assert_eq!(rig.get("web.app.localhost", "/").await.0, 200);
    }
    rig.services.publish("web.app", to(&[&a]));
    let before = a.seen.load(Ordering::SeqCst);
    let (status, words) = rig.get("web.app.localhost", "/break").await;
    assert_eq!(status, 502, "{words}");
    assert_eq!(a.seen.load(Ordering::SeqCst), before + 1);

    let well = |path| probe(&*rig.engine, &a.id, PORT, path, Duration::from_secs(5));
    assert_eq!(well(Some("/check")).await, Probed::Answered(StatusCode::OK));
    assert!(well(None).await.is_well());
    assert!(!well(Some("/break")).await.is_well());
    let none = probe(&*rig.engine, &a.id, 9, None, Duration::from_secs(5)).await;
    assert!(none.to_string().contains("nothing listens"), "{none}");
    let late = probe(
        &*rig.engine,
        &a.id,
        PORT,
        Some("/slow"),
        Duration::from_millis(50),
    )
    .await;
    assert!(late.to_string().contains("no answer"), "{late}");
    rig.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_sockets_and_tls_pass() {
    let Some(rig) = rig().await else { return };
    let a = app(&rig.engine, "a", false).await;
    rig.services.publish("web.app", to(&[&a]));

    // A body in both directions, longer than any buffer.
    let mut io = TcpStream::connect(rig.address()).await.unwrap();
    let body = "0123456789abcdef".repeat(128 * 1024);
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: web.app.localhost\r\nExpect: 100-continue\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    io.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = io.into_split();
    let sent = body.clone();
    // Dropped later: a closed half would end the connection.
    let sending = tokio::spawn(async move {
        write.write_all(sent.as_bytes()).await.unwrap();
        write
    });
    let mut answer = Vec::new();
    read.read_to_end(&mut answer).await.unwrap();
    drop(sending.await.unwrap());
    let answer = String::from_utf8(answer).unwrap();
    let answer = answer
        .strip_prefix("HTTP/1.1 100 Continue\r\n\r\n")
        .unwrap_or(&answer);
    let (status, echoed) = split(answer);
    assert_eq!(status, 200);
    assert_eq!(echoed.len(), body.len());

    // Events come when they are written, not at the end.
    let mut io = TcpStream::connect(rig.address()).await.unwrap();
    io.write_all(b"GET /events HTTP/1.1\r\nHost: web.app.localhost\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    for n in 0..3 {
        while !text.contains(&format!("data: {n}")) {
            let mut buffer = [0; 4096];
            let got = io.read(&mut buffer).await.unwrap();
            assert!(got > 0);
            text.push_str(std::str::from_utf8(&buffer[..got]).unwrap());
        }
        assert!(!text.contains(&format!("data: {}", n + 1)));
        a.go.notify_one();
    }
    drop(io);

    // A socket, and what a service without one says.
    let mut io = TcpStream::connect(rig.address()).await.unwrap();
    let head = "GET /socket HTTP/1.1\r\nHost: web.app.localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: shout\r\n\r\nearly";
    io.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.ends_with("EARLY") {
        let mut buffer = [0; 4096];
        let got = io.read(&mut buffer).await.unwrap();
        assert!(got > 0, "{text}");
        text.push_str(std::str::from_utf8(&buffer[..got]).unwrap());
    }
    assert!(text.starts_with("HTTP/1.1 101"), "{text}");
    io.write_all(b"and more").await.unwrap();
    let mut buffer = [0; 8];
    io.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"AND MORE");
    // An open socket is a request under way, until it is closed.
    assert!(!rig.services.drained(&a.id, Duration::from_millis(50)).await);
    drop(io);
    assert!(rig.services.drained(&a.id, Duration::from_secs(5)).await);

    // Over TLS, with a certificate for the very name.
    let ca = rig
        .server
        .running()
        .unwrap()
        .env()
        .get("BOXRIG_CA_FILE")
        .unwrap()
        .to_owned();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(rig.address()).await.unwrap();
    let name = ServerName::try_from("web.app.localhost").unwrap();
    let mut io = tls.connect(name, stream).await.unwrap();
    io.write_all(b"GET / HTTP/1.1\r\nHost: web.app.localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = io.read_to_end(&mut answer).await;
    let (status, body) = split(&String::from_utf8_lossy(&answer));
    assert_eq!(status, 200);
    assert!(body.ends_with("proto=https"), "{body}");
    rig.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_loses_no_request() {
    let Some(rig) = rig().await else { return };
    let mut old = app(&rig.engine, "v0", false).await;
    rig.services.publish("web.app", to(&[&old]));
    let address = rig.address();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (address, over) = (address.clone(), over.clone());
            tokio::spawn(async move {
                let (mut all, mut bad) = (0, Vec::new());
                while all < 250 || !over.load(Ordering::SeqCst) {
                    let answer =
                        exchange(&address, "web.app.localhost", "GET / HTTP/1.1\r\n").await;
                    all += 1;
                    if split(&answer).0 != 200 {
                        bad.push(answer);
                    }
                }
                (all, bad)
            })
        })
        .collect();
    for version in 1..=5 {
        let new = app(&rig.engine, &format!("v{version}"), false).await;
        rig.services.publish("web.app", to(&[&new]));
        assert!(rig.services.drained(&old.id, Duration::from_secs(10)).await);
        rig.engine.delete(&old.id).await.unwrap();
        old = new;
    }
    over.store(true, Ordering::SeqCst);
    let mut all = 0;
    for client in clients {
        let (count, bad) = client.await.unwrap();
        assert!(
            bad.is_empty(),
            "{} of {count} failed: {}",
            bad.len(),
            bad[0]
        );
        all += count;
    }
    assert!(all >= 1000);
    rig.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_to_a_service() {
    let Some(rig) = rig().await else { return };
    let (one, two) = (
        app(&rig.engine, "one", false).await,
        app(&rig.engine, "two", true).await,
    );
    rig.services.publish("web.app", to(&[&one]));
    rig.services.publish(
        "grpc.app",
        Service {
            protocol: Protocol::H2c,
            ..to(&[&two])
        },
    );
    let io = TcpStream::connect(rig.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
            .await
            .unwrap();
    tokio::spawn(connection);
    for (host, name) in [("web.app.localhost", "one"), ("grpc.app.localhost", "two")] {
        let request = Request::get(format!("http://{host}/p")).body(WireBody::empty());
        let response = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = WireBody::stream(response.into_body())
            .collect(4096)
            .await
            .unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.starts_with(&format!("{name} GET ")), "{body}");
        assert!(
            body.contains(&format!(
                "/p host={}",
                if name == "one" { host } else { "-" }
            )),
            "{body}"
        );
    }
    rig.server.stop().await;
}
