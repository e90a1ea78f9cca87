//! A bare client: one connection for each request, and frames as they come.

use std::time::{Duration, Instant};

use base64::Engine as _;
use boxrig_server::testing::Server;
use boxrig_wire::ws::{self, Frame, WebSocket};
use boxrig_wire::{UpgradeSlot, WireBody};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// The longest that anything is waited for: these tests run beside others on two processors.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until something holds.
pub async fn soon(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(
            begin.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A rack and its password.
pub struct Rack {
    pub server: Server,
    pub password: String,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
    /// The body, which must have come with this status.
    pub fn with(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }
}

pub fn basic(user: &str, password: &str) -> String {
    let text = format!("{user}:{password}");
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(text)
    )
}

impl Rack {
    pub async fn simulated() -> Self {
        Self::of(Server::start().await.unwrap())
    }

    pub fn of(server: Server) -> Self {
        let env = server.running().unwrap().env();
        let password = env.get("CONVOX_PASSWORD").unwrap().to_owned();
        Self { server, password }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: WireBody,
        socket: bool,
    ) -> http::Response<WireBody> {
        let address = self.server.url().replace("http://", "");
        let stream = TcpStream::connect(&address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = http::Request::builder().method(method).uri(path);
        let says = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        if !says("host") {
            request = request.header(header::HOST, address);
        }
        if !says("authorization") {
            request = request.header("Authorization", basic("convox", &self.password));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body).unwrap();
        if socket {
            ws::client_handshake(request.headers_mut());
        }
        let mut response = sender.send_request(request).await.unwrap();
        let upgrade = (response.status() == StatusCode::SWITCHING_PROTOCOLS)
            .then(|| hyper::upgrade::on(&mut response));
        let mut response = response.map(WireBody::stream);
        if let Some(upgrade) = upgrade {
            let io = Box::new(TokioIo::new(upgrade.await.unwrap()));
            response
                .extensions_mut()
                .insert(UpgradeSlot::connection(io));
        }
        response
    }

    /// A request with headers of one's own and any body.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let method = method.parse().unwrap();
        let body = WireBody::full(body.into());
        let response = self.send(method, path, headers, body, false).await;
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect(1 << 28).await.unwrap(),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    /// A form.
    pub async fn form(&self, method: &str, path: &str, body: &str) -> Answer {
        let kind = ("Content-Type", "application/x-www-form-urlencoded");
        self.ask(method, path, &[kind], body.to_owned()).await
    }

    /// A socket that was opened.
    pub async fn socket(&self, path: &str, headers: &[(&str, &str)]) -> Talk {
        let response = self
            .send(Method::GET, path, headers, WireBody::empty(), true)
            .await;
        assert_eq!(response.status(), 101);
        for name in ["request-id", "x-frame-options", "x-content-type-options"] {
            assert!(!response.headers().contains_key(name), "{name}");
        }
        let slot = response.extensions().get::<UpgradeSlot>().unwrap();
        Talk(WebSocket::client(slot.take_connection().unwrap()))
    }
}

/// An open socket.
pub struct Talk(pub WebSocket);

impl Talk {
    /// Frames until the end mark: their content, and whether the connection ended without a close frame after it.
    pub async fn frames(&mut self) -> Vec<Bytes> {
        let mut all = Vec::new();
        let read = async {
            loop {
                match self.0.next().await.unwrap() {
                    Some(Frame::Data {
                        text: false,
                        payload,
                        ..
                    }) => {
                        assert!(payload.is_empty(), "a binary frame is the end mark");
                        break;
                    }
                    Some(Frame::Data { payload, .. }) => all.push(payload),
                    Some(Frame::Ping(_) | Frame::Pong(_)) => {}
                    other => panic!("{other:?} before the end mark; so far {all:?}"),
                }
            }
            // Then the connection ends, without a close frame.
            assert_eq!(self.0.next().await.unwrap(), None);
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap();
        all
    }

    /// All text until the end mark.
    pub async fn text(&mut self) -> String {
        let frames = self.frames().await.concat();
        String::from_utf8_lossy(&frames).into_owned()
    }
}
