//! A listener that answers as a test says, over real sockets, and remembers what it was asked.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use boxrig_fastvm::{Client, ClientBuilder};
use boxrig_wire::RetryPolicy;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body came to its end.
    pub(crate) whole: bool,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(k, _)| k == name);
        found.map(|(_, v)| v.as_str())
    }
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What is answered.
pub(crate) enum Reply {
    /// Status, content type, body.
    Full(u16, &'static str, Vec<u8>),
    /// As `Full`, with further headers.
    With(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// A chunked body in pieces with pauses between; then a proper end, a cut, or silence.
    Pieces(&'static str, Vec<(Vec<u8>, u64)>, End),
    /// The connection is closed without a word.
    Drop,
    /// Nothing ever comes.
    Silence,
    /// The answer after this many milliseconds.
    Later(u64, Box<Reply>),
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum End {
    Proper,
    Cut,
    Silence,
}

impl Reply {
    pub(crate) fn json(status: u16, value: Value) -> Self {
        Self::Full(status, "application/json", value.to_string().into_bytes())
    }
    /// Exec in its buffered form.
    pub(crate) fn exec(code: i32, stdout: &str, stderr: &str) -> Self {
        Self::json(
            200,
            serde_json::json!({"exitCode": code, "stdout": stdout, "stderr": stderr, "timedOut": false,
                "stdoutTruncated": false, "stderrTruncated": false, "durationMs": 1}),
        )
    }
    /// Exec events, a line each.
    pub(crate) fn events(lines: &[&str], end: End) -> Self {
        let text = lines.iter().map(|l| format!("{l}\n")).collect::<String>();
        Self::Pieces("application/x-ndjson", vec![(text.into_bytes(), 0)], end)
    }
}

type Handler = dyn Fn(&Seen, usize, &str) -> Reply + Send + Sync;

/// The listener.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// How many connections the client closed before the answer was over.
    pub(crate) hung_up: Arc<Mutex<usize>>,
}

impl Script {
    /// `handler` gets the request, its number from 0, and the listener's own URL.
    pub(crate) async fn new(
        handler: impl Fn(&Seen, usize, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Self {
            url,
            seen: Arc::default(),
            hung_up: Arc::default(),
        };
        let own = script.clone();
        let handler: Arc<Handler> = Arc::new(handler);
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                tokio::spawn(own.clone().serve(io, handler.clone()));
            }
        });
        script
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }
    pub(crate) fn hung_up(&self) -> usize {
        *self.hung_up.lock().unwrap()
    }

    /// A client of it, with quick retries.
    pub(crate) fn client(&self) -> Client {
        self.builder().build().unwrap()
    }
    pub(crate) fn builder(&self) -> ClientBuilder {
        let quick = RetryPolicy {
            base: Duration::from_millis(1),
            cap: Duration::from_millis(5),
            ..Client::default_retries()
        };
        Client::builder()
            .api_key("k")
            .base_url(&self.url)
            .retry(quick)
            .timeout(Some(Duration::from_secs(20)))
    }

    async fn serve(self, mut io: TcpStream, handler: Arc<Handler>) {
        let Some(seen) = read(&mut io).await else {
            return;
        };
        let n = {
            let mut all = self.seen.lock().unwrap();
            all.push(seen.clone());
            all.len() - 1
        };
        let mut reply = handler(&seen, n, &self.url);
        while let Reply::Later(ms, then) = reply {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            reply = *then;
        }
        let hung_up = || *self.hung_up.lock().unwrap() += 1;
        match reply {
            Reply::Drop | Reply::Later(..) => {}
            Reply::Silence => {
                let mut rest = [0; 1];
                if matches!(io.read(&mut rest).await, Ok(0) | Err(_)) {
                    hung_up();
                }
            }
            Reply::Full(status, kind, body) => {
                answer(&mut io, status, &[("content-type", kind.to_owned())], &body).await;
            }
            Reply::With(status, headers, body) => answer(&mut io, status, &headers, &body).await,
            Reply::Pieces(kind, pieces, end) => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
                );
                let mut broken = io.write_all(head.as_bytes()).await.is_err();
                for (piece, pause) in pieces {
                    if pause > 0 {
                        let mut rest = [0; 1];
                        let pause = Duration::from_millis(pause);
                        let closed = tokio::time::timeout(pause, io.read(&mut rest)).await;
                        broken |= matches!(closed, Ok(Ok(0) | Err(_)));
                    }
                    let mut text = format!("{:x}\r\n", piece.len()).into_bytes();
                    text.extend(piece);
                    text.extend(b"\r\n");
                    broken |= io.write_all(&text).await.is_err();
                    if broken {
                        return hung_up();
                    }
                }
                match end {
                    End::Proper => {
                        let _ = io.write_all(b"0\r\n\r\n").await;
                    }
                    End::Cut => {}
                    End::Silence => {
                        let mut rest = [0; 1];
                        if matches!(io.read(&mut rest).await, Ok(0) | Err(_)) {
                            hung_up();
                        }
                    }
                }
            }
        }
        let _ = io.shutdown().await;
    }
}

async fn answer(io: &mut TcpStream, status: u16, headers: &[(&'static str, String)], body: &[u8]) {
    let mut text = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n");
    for (k, v) in headers {
        text.push_str(&format!("{k}: {v}\r\n"));
    }
    if status != 204 {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let _ = io.write_all(text.as_bytes()).await;
    let _ = io.write_all(body).await;
}

/// Reads a request with its body.
async fn read(io: &mut TcpStream) -> Option<Seen> {
    let mut buf = Vec::new();
    let head = loop {
        if let Some(at) = buf.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if io.read_buf(&mut buf).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&buf[..head]).into_owned();
    let mut rest = buf.split_off(head + 4);
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let method = first.next()?.to_owned();
    let target = first.next()?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned()))
        .collect();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut seen = Seen {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body: Vec::new(),
        whole: true,
    };
    if seen.header("transfer-encoding").is_some() {
        loop {
            let line = loop {
                if let Some(at) = rest.windows(2).position(|w| w == b"\r\n") {
                    break rest.drain(..at + 2).collect::<Vec<_>>();
                }
                if matches!(io.read_buf(&mut rest).await, Ok(0) | Err(_)) {
                    seen.whole = false;
                    return Some(seen);
                }
            };
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            let size = usize::from_str_radix(&text, 16).ok()?;
            while rest.len() < size + 2 {
                if matches!(io.read_buf(&mut rest).await, Ok(0) | Err(_)) {
                    seen.whole = false;
                    return Some(seen);
                }
            }
            seen.body.extend(rest.drain(..size));
            rest.drain(..2);
            if size == 0 {
                return Some(seen);
            }
        }
    }
    let length: usize = seen
        .header("content-length")
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    while rest.len() < length {
        if matches!(io.read_buf(&mut rest).await, Ok(0) | Err(_)) {
            seen.whole = false;
            break;
        }
    }
    seen.body = rest;
    Some(seen)
}
