//! A listener that answers as a test says, over real sockets, and remembers what it was asked.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use boxrig_vergeos::{Client, ClientBuilder};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(k, _)| k == name);
        found.map(|(_, v)| v.as_str())
    }
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// What is answered: a status and a body, of which so many bytes do not come; status 0 closes the connection without a word.
pub(crate) struct Reply(pub(crate) u16, pub(crate) Vec<u8>, pub(crate) usize);

impl Reply {
    pub(crate) fn json(status: u16, value: Value) -> Self {
        Self(status, value.to_string().into_bytes(), 0)
    }
    /// Breaks off before the last bytes.
    pub(crate) fn cut(self, missing: usize) -> Self {
        Self(self.0, self.1, missing)
    }
    pub(crate) fn bytes(body: &[u8]) -> Self {
        Self(200, body.to_vec(), 0)
    }
    pub(crate) fn ok(value: Value) -> Self {
        Self::json(200, value)
    }
    pub(crate) fn empty(status: u16) -> Self {
        Self(status, Vec::new(), 0)
    }
}

type Handler = dyn Fn(&Seen, usize) -> Reply + Send + Sync;

#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Script {
    pub(crate) async fn new(
        handler: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let handler: Arc<Handler> = Arc::new(handler);
        let all = seen.clone();
        tokio::spawn(async move {
            while let Ok((mut io, _)) = listener.accept().await {
                let (handler, all) = (handler.clone(), all.clone());
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    let head = loop {
                        let mut piece = [0; 4096];
                        match io.read(&mut piece).await {
                            Ok(0) | Err(_) => return,
                            Ok(n) => bytes.extend(&piece[..n]),
                        }
                        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                            break at;
                        }
                    };
                    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
                    let mut lines = text.lines();
                    let mut first = lines.next().unwrap_or("").split(' ');
                    let method = first.next().unwrap_or("").to_owned();
                    let target = first.next().unwrap_or("").to_owned();
                    let headers: Vec<(String, String)> = lines
                        .filter_map(|l| l.split_once(':'))
                        .map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned()))
                        .collect();
                    let length = headers
                        .iter()
                        .find(|(k, _)| k == "content-length")
                        .and_then(|(_, v)| v.parse().ok())
                        .unwrap_or(0usize);
                    let mut body = bytes[head + 4..].to_vec();
                    while body.len() < length {
                        let mut piece = [0; 65536];
                        match io.read(&mut piece).await {
                            Ok(0) | Err(_) => return,
                            Ok(n) => body.extend(&piece[..n]),
                        }
                    }
                    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
                    let seen = Seen {
                        method,
                        path: path.to_owned(),
                        query: query.to_owned(),
                        headers,
                        body,
                    };
                    let n = {
                        let mut all = all.lock().unwrap();
                        all.push(seen.clone());
                        all.len() - 1
                    };
                    let Reply(status, body, missing) = handler(&seen, n);
                    if status == 0 {
                        return;
                    }
                    let head = format!(
                        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        body.len()
                    );
                    let _ = io.write_all(head.as_bytes()).await;
                    let _ = io.write_all(&body[..body.len() - missing]).await;
                    let _ = io.shutdown().await;
                });
            }
        });
        Self { url, seen }
    }
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }
    pub(crate) fn builder(&self) -> ClientBuilder {
        Client::builder()
            .host(&self.url)
            .username("admin")
            .password("secret-word")
            .retry_backoff(Duration::from_millis(1))
    }
    pub(crate) fn client(&self) -> Client {
        self.builder().build().unwrap()
    }
}
