//! A rack that answers as a test says and remembers what it was asked, in process or over a real connection.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::{Arc, Mutex};

use boxrig_convox::{Client, ClientBuilder};
use boxrig_transport::InProcess;
use boxrig_wire::ws::{Frame, WebSocket};
use boxrig_wire::{ReplyCodec, Socket, WireBody};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path())
    }
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let value = self.headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    }
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub(crate) fn is_socket(&self) -> bool {
        self.header("upgrade").is_some()
    }
}

pub(crate) type Answer = Response<WireBody>;
type Handler = dyn Fn(&Seen) -> Answer + Send + Sync;

/// The rack.
#[derive(Clone)]
pub(crate) struct Rack {
    handler: Arc<Handler>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Rack {
    pub(crate) fn new(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self {
            handler: Arc::new(handler),
            seen: Arc::default(),
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    fn answer(&self, seen: Seen) -> Answer {
        self.seen.lock().unwrap().push(seen.clone());
        (self.handler)(&seen)
    }

    /// A client's settings, straight to the handler.
    pub(crate) fn builder(&self) -> ClientBuilder {
        let rack = self.clone();
        let transport = InProcess::new(move |request: Request<WireBody>| {
            let rack = rack.clone();
            async move {
                let (parts, body) = request.into_parts();
                rack.answer(Seen {
                    method: parts.method.to_string(),
                    target: parts.uri.to_string(),
                    headers: parts.headers,
                    body: body.collect(64 << 20).await.unwrap(),
                })
            }
        });
        Client::builder()
            .host("http://rack.test")
            .api_key("secret-canary")
            .transport(Arc::new(transport))
    }
    pub(crate) fn client(&self) -> Client {
        self.builder().build().unwrap()
    }

    /// Answers on a real port, a request a connection; gives the address.
    pub(crate) async fn listen(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rack = self.clone();
        tokio::spawn(async move {
            loop {
                let (io, _) = listener.accept().await.unwrap();
                let rack = rack.clone();
                tokio::spawn(async move { rack.connection(io).await });
            }
        });
        format!("http://{address}")
    }

    async fn connection(&self, mut io: tokio::net::TcpStream) -> Option<()> {
        let mut buffer = Vec::new();
        let head = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            (io.read_buf(&mut buffer).await.ok()? > 0).then_some(())?;
        };
        let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
        let mut lines = text.lines();
        let mut first = lines.next()?.split(' ');
        let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':')?;
            headers.insert(
                http::HeaderName::from_bytes(name.as_bytes()).ok()?,
                http::HeaderValue::from_str(value.trim()).ok()?,
            );
        }
        let length = headers
            .get("content-length")
            .and_then(|v| v.to_str().ok()?.parse().ok());
        let mut body = buffer.split_off(head + 4);
        while body.len() < length.unwrap_or(0) {
            (io.read_buf(&mut body).await.ok()? > 0).then_some(())?;
        }
        let answer = self.answer(Seen {
            method,
            target,
            headers,
            body: body.into(),
        });
        let (parts, body) = answer.into_parts();
        if parts.status == SILENCE {
            tokio::time::sleep(std::time::Duration::from_secs(600)).await;
        }
        let body = body.collect(64 << 20).await.ok()?;
        let mut out = format!(
            "HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n",
            parts.status.as_u16(),
            body.len()
        );
        for (name, value) in &parts.headers {
            out.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
        }
        io.write_all(format!("{out}\r\n").as_bytes()).await.ok()?;
        io.write_all(&body).await.ok()?;
        io.shutdown().await.ok()
    }
}

/// On a real connection: nothing ever comes.
pub(crate) const SILENCE: StatusCode = StatusCode::IM_A_TEAPOT;

pub(crate) fn reply(status: u16, body: impl Into<Bytes>) -> Answer {
    let mut r = Response::new(WireBody::full(body));
    *r.status_mut() = StatusCode::from_u16(status).unwrap();
    r.headers_mut()
        .insert("request-id", "0123456789ab".parse().unwrap());
    r
}

pub(crate) fn json(value: serde_json::Value) -> Answer {
    let mut r = reply(200, value.to_string());
    r.headers_mut()
        .insert("content-type", "application/json".parse().unwrap());
    r
}

pub(crate) fn ok() -> Answer {
    reply(200, "ok\n")
}

pub(crate) fn with(mut answer: Answer, name: &'static str, value: &str) -> Answer {
    answer.headers_mut().insert(name, value.parse().unwrap());
    answer
}

/// A socket that does what `serve` says.
pub(crate) fn socket<F, Fut>(serve: F) -> Answer
where
    F: FnOnce(WebSocket) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Socket::serve(serve).encode().unwrap()
}

/// A socket that says these texts, a frame each, and then ends as told.
pub(crate) fn says(frames: Vec<Bytes>, end: End) -> Answer {
    socket(move |mut ws| async move {
        for frame in frames {
            ws.send(Frame::text(frame)).await.unwrap();
        }
        if end == End::Mark {
            ws.send(Frame::binary(Bytes::new())).await.unwrap();
        }
        if end == End::Silence {
            while let Ok(Some(_)) = ws.next().await {}
        }
    })
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum End {
    /// The empty binary frame, then the connection is dropped, as racks do.
    Mark,
    /// The connection is dropped.
    Cut,
    /// It stays open.
    Silence,
}
