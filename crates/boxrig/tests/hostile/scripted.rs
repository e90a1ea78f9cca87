//! A service that answers what a test tells it to, byte for byte, and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the service was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// As it was in the request line.
    pub(crate) target: String,
    /// The whole head, request line included.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// What it answers: everything after the status line's version.
pub(crate) struct Answer {
    pub(crate) status: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn new(status: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: status.to_owned(),
            headers: vec![(
                "content-type".to_owned(),
                content_type.to_owned().into_bytes(),
            )],
            body: body.into(),
        }
    }

    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self::new("200 OK", "application/json", value.to_string())
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// The service; one request per connection.
pub(crate) struct Scripted {
    pub(crate) origin: String,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl Scripted {
    pub(crate) fn new(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0", answer)
    }

    pub(crate) fn at(
        address: &str,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (answer.clone(), log.clone());
                std::thread::spawn(move || {
                    // A client that goes away early is no failure of the service.
                    let _ = serve(stream, &*answer, &log);
                });
            }
        });
        Self { origin, seen }
    }

    /// Everything that was asked so far.
    pub(crate) fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }

    /// The address as a context's.
    pub(crate) fn context(&self) -> String {
        self.origin.replace("http://", "fastvm+http://")
    }
}

fn serve(
    stream: TcpStream,
    answer: &dyn Fn(&Asked) -> Answer,
    log: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut from = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    loop {
        let at = head.len();
        if from.read_line(&mut head)? == 0 {
            return Ok(());
        }
        if head[at..].trim_end().is_empty() {
            break;
        }
    }
    let header = |name: &str| {
        head.lines().find_map(|l| {
            let (key, value) = l.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let mut body = Vec::new();
    if let Some(length) = header("content-length").and_then(|l| l.parse::<u64>().ok()) {
        (&mut from).take(length).read_to_end(&mut body)?;
    } else if header("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
            (&mut from).take(size).read_to_end(&mut body)?;
            from.read_line(&mut line)?;
            if size == 0 {
                break;
            }
        }
    }
    let mut words = head.split(' ');
    let asked = Asked {
        method: words.next().unwrap_or_default().to_owned(),
        target: words.next().unwrap_or_default().to_owned(),
        head: head.clone(),
        body,
    };
    log.lock().unwrap().push(asked.clone());
    let answer = answer(&asked);
    let mut out = format!("HTTP/1.1 {}\r\nconnection: close\r\n", answer.status).into_bytes();
    for (name, value) in &answer.headers {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("content-length: {}\r\n\r\n", answer.body.len()).as_bytes());
    out.extend_from_slice(&answer.body);
    let mut stream = stream;
    stream.write_all(&out)?;
    stream.flush()
}
