//! A server whose every step is written out by the test, and shorthands for calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use boxrig_transport::{Http, HttpBuilder};
use boxrig_wire::{Duplex, Idempotency, Outgoing, ReplyShape, RetryPolicy, WireBody};
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Counters of a running server.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub connections: Arc<AtomicUsize>,
    pub requests: Arc<AtomicUsize>,
    /// Connections whose script still runs.
    pub open: Arc<AtomicUsize>,
}

impl Counts {
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
    /// Waits until no connection is open; panics when one stays for a second.
    pub async fn all_closed(&self) {
        for _ in 0..100 {
            if self.open() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} connections leaked", self.open());
    }
}

/// A server that listens on a port of its own.
pub struct Served {
    pub addr: SocketAddr,
    pub counts: Counts,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }
}

/// A connection in the hands of its script.
pub struct Conn {
    pub io: Box<dyn Duplex>,
    /// From 0, in the order of arrival.
    pub number: usize,
    pub counts: Counts,
    buffer: Vec<u8>,
}

/// A request as it came.
#[derive(Debug)]
pub struct Got {
    /// Request line and headers.
    pub head: String,
    pub body: Vec<u8>,
}

impl Got {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|l| {
            let (n, v) = l.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }
}

impl Conn {
    pub fn new(io: Box<dyn Duplex>, number: usize, counts: Counts) -> Self {
        Self {
            io,
            number,
            counts,
            buffer: Vec::new(),
        }
    }

    async fn more(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.io.read(&mut chunk).await {
            Ok(n) if n > 0 => {
                self.buffer.extend_from_slice(&chunk[..n]);
                true
            }
            _ => false,
        }
    }

    /// The head of the next request; `None` at the end.
    pub async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                self.counts.requests.fetch_add(1, Ordering::SeqCst);
                return Some(String::from_utf8(head).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next request with its body (by Content-Length).
    pub async fn request(&mut self) -> Option<Got> {
        let head = self.head().await?;
        let mut got = Got {
            head,
            body: Vec::new(),
        };
        let length = got
            .header("content-length")
            .map_or(0, |v| v.parse().unwrap());
        while self.buffer.len() < length {
            if !self.more().await {
                return None;
            }
        }
        got.body = self.buffer.drain(..length).collect();
        Some(got)
    }

    /// Sends these bytes as they are.
    pub async fn raw(&mut self, text: impl AsRef<[u8]>) {
        // The client may have gone, which is what some tests want.
        let _ = self.io.write_all(text.as_ref()).await;
        let _ = self.io.flush().await;
    }

    /// A whole answer; `headers` end in `\r\n` each.
    pub async fn reply(&mut self, status: u16, headers: &str, body: &str) {
        let text = format!(
            "HTTP/1.1 {status} Words\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        self.raw(text).await;
    }

    /// Answers everything with 200 and `body` until the client goes.
    pub async fn fine(&mut self, body: &str) {
        while self.request().await.is_some() {
            self.reply(200, "", body).await;
        }
    }

    /// Waits until the client closes.
    pub async fn until_closed(&mut self) {
        while self.more().await {
            self.buffer.clear();
        }
    }
}

struct Open(Counts);
impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Runs `script` on every connection.
pub async fn serve<F, Fut>(script: F) -> Served
where
    F: Fn(Conn) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    serve_over(
        script,
        |io| async move { Some(Box::new(io) as Box<dyn Duplex>) },
    )
    .await
}

/// The same, with something between socket and script (TLS).
pub async fn serve_over<F, Fut, W, WFut>(script: F, wrap: W) -> Served
where
    F: Fn(Conn) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
    W: Fn(tokio::net::TcpStream) -> WFut + Send + Sync + 'static,
    WFut: Future<Output = Option<Box<dyn Duplex>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let counts = Counts::default();
    let (script, wrap) = (Arc::new(script), Arc::new(wrap));
    let task = tokio::spawn({
        let counts = counts.clone();
        async move {
            loop {
                let (io, _) = listener.accept().await.unwrap();
                let _ = io.set_nodelay(true);
                let number = counts.connections.fetch_add(1, Ordering::SeqCst);
                counts.open.fetch_add(1, Ordering::SeqCst);
                let (script, wrap, counts) = (script.clone(), wrap.clone(), counts.clone());
                tokio::spawn(async move {
                    let _open = Open(counts.clone());
                    if let Some(io) = wrap(io).await {
                        script(Conn::new(io, number, counts)).await;
                    }
                });
            }
        }
    });
    Served { addr, counts, task }
}

/// A client for tests: no proxy, whatever the machine's environment says.
pub fn builder() -> HttpBuilder {
    Http::builder().proxy(boxrig_transport::Proxy::None)
}

pub fn client() -> Http {
    builder().build().unwrap()
}

/// Retries without a noticeable wait.
pub fn quick(retries: u32) -> RetryPolicy {
    RetryPolicy {
        max_retries: retries,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(2),
        ..RetryPolicy::default()
    }
}

/// A request with the usual settings: 5 s, no retries, read whole.
pub fn call(method: Method, url: &str, idempotency: Idempotency) -> Outgoing {
    Outgoing {
        request: Request::builder()
            .method(method)
            .uri(url)
            .body(WireBody::empty())
            .unwrap(),
        operation: "testOperation",
        idempotency,
        reply: ReplyShape::Whole,
        timeout: Some(Duration::from_secs(5)),
        retry: RetryPolicy::none(),
        reply_limit: 1024 * 1024,
    }
}

pub fn get(url: &str) -> Outgoing {
    call(Method::GET, url, Idempotency::Safe)
}

pub fn post(url: &str) -> Outgoing {
    call(Method::POST, url, Idempotency::Never)
}

/// A port on which nobody listens.
pub async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}
