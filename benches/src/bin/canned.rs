//! A listener with canned answers of FastVM and of a Convox rack: it does nothing but read requests and write ready bytes, so
//! that what is measured is the client. Plain threads and blocking sockets, no code of boxrig in it.
//!
//! usage: `canned [--keep FILE]`; prints its origin, and with `--keep` writes the last upload to FILE.
//!
//! It plays machines that have `sh`, `tar` and `curl`, one of them ([`SUMMING_VM`]) also `sha256sum`, and in
//! which every path is one file of [`DOWNLOAD_BYTES`] bytes. It answers what the clients' commands ask of such
//! machines. What an upload contains is not looked at, so no machine says that it checked one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxrig_benches::{
    APPS, DOWNLOAD_BYTES, LOG_FRAMES, LOG_LINES, STREAM_BYTES, STREAM_COMMAND, STREAM_EVENT,
    SUMMING_VM,
};
use sha2::{Digest, Sha256};

/// What the download consists of.
static BLOCK: [u8; 1024 * 1024] = [0x5a; 1024 * 1024];

struct Canned {
    origin: String,
    /// One event as a chunk of HTTP's chunked coding.
    event: Vec<u8>,
    /// The list of a rack's apps.
    apps: String,
    /// One frame of a rack's log.
    frame: Vec<u8>,
    keep: Option<PathBuf>,
    sha256: OnceLock<String>,
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let keep = match arguments.next() {
        None => None,
        Some(option) if option == "--keep" => arguments.next().map(PathBuf::from),
        Some(_) => return Err(io::Error::other("usage: canned [--keep FILE]")),
    };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let origin = format!("http://{}", listener.local_addr()?);
    println!("{origin}");
    io::stdout().flush()?;
    let data = STANDARD.encode(vec![b'x'; STREAM_EVENT]);
    let canned = Arc::new(Canned {
        origin,
        event: chunk(format!("{{\"t\":\"o\",\"d\":\"{data}\"}}\n").as_bytes()),
        apps: apps(),
        frame: frame(),
        keep,
        sha256: OnceLock::new(),
    });
    for stream in listener.incoming() {
        let (stream, canned) = (stream?, canned.clone());
        std::thread::spawn(move || {
            // A client that hangs up ends its thread.
            let _ = serve(stream, &canned);
        });
    }
    Ok(())
}

/// Bytes as one chunk.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut out = format!("{:x}\r\n", bytes.len()).into_bytes();
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
    out
}

/// What of a request's head matters here.
#[derive(Default)]
struct Head {
    method: String,
    path: String,
    length: u64,
    chunked: bool,
    /// The answer is wanted as lines of JSON.
    lines: bool,
    expects: bool,
    /// The key of a websocket.
    key: String,
}

impl Head {
    /// Reads one; `None` when the client is done.
    fn read(input: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_ascii_whitespace();
        let mut word = || words.next().unwrap_or_default().to_owned();
        let mut head = Self {
            method: word(),
            path: word(),
            ..Self::default()
        };
        loop {
            line.clear();
            input.read_line(&mut line)?;
            let header = line.trim_end();
            let Some((name, value)) = header.split_once(": ") else {
                if header.is_empty() {
                    return Ok(Some(head));
                }
                continue;
            };
            match &*name.to_ascii_lowercase() {
                "content-length" => head.length = value.parse().unwrap_or(0),
                "transfer-encoding" => {
                    head.chunked = value.to_ascii_lowercase().contains("chunked")
                }
                "accept" => head.lines = value.contains("x-ndjson"),
                "expect" => head.expects = true,
                "sec-websocket-key" => head.key = value.to_owned(),
                _ => {}
            }
        }
    }
}

fn serve(stream: TcpStream, canned: &Canned) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::with_capacity(256 * 1024, stream);
    while let Some(head) = Head::read(&mut input)? {
        if head.expects {
            out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = Vec::new();
        match &canned.keep {
            Some(file) if head.method == "PUT" => {
                read_body(&mut input, &head, &mut File::create(file)?)?
            }
            None if head.method == "PUT" => read_body(&mut input, &head, &mut io::sink())?,
            _ => read_body(&mut input, &head, &mut body)?,
        }
        answer(&mut out, canned, &head, &body)?;
    }
    Ok(())
}

fn read_body(input: &mut impl BufRead, head: &Head, to: &mut dyn Write) -> io::Result<()> {
    if !head.chunked {
        return pass(input, head.length, to);
    }
    let mut line = String::new();
    loop {
        line.clear();
        input.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        pass(input, size, to)?;
        input.read_exact(&mut [0; 2])?;
        if size == 0 {
            return Ok(());
        }
    }
}

/// Hands `n` bytes on.
fn pass(input: &mut impl BufRead, mut n: u64, to: &mut dyn Write) -> io::Result<()> {
    while n > 0 {
        let have = input.fill_buf()?;
        if have.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let take = have.len().min(usize::try_from(n).unwrap_or(usize::MAX));
        to.write_all(&have[..take])?;
        input.consume(take);
        n -= take as u64;
    }
    Ok(())
}

fn answer(out: &mut TcpStream, canned: &Canned, head: &Head, body: &[u8]) -> io::Result<()> {
    let json = |out: &mut TcpStream, text: &str| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length";
        out.write_all(format!("{head}: {}\r\n\r\n{text}", text.len()).as_bytes())
    };
    match (head.method.as_str(), head.path.as_str()) {
        ("GET", "/object") => {
            let kind = "application/octet-stream";
            write!(
                out,
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {DOWNLOAD_BYTES}\r\n\r\n"
            )?;
            for _ in 0..DOWNLOAD_BYTES / BLOCK.len() {
                out.write_all(&BLOCK)?;
            }
            Ok(())
        }
        ("PUT", _) => out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("POST", path) if path.ends_with("/files/presign") => {
            let object = format!("{}/object", canned.origin);
            json(
                out,
                &format!(
                    "{{\"uploadUrl\":\"{object}\",\"downloadUrl\":\"{object}\",\"expiresInSec\":900,\
                     \"maxUploadBytes\":10737418240}}"
                ),
            )
        }
        ("POST", path) if path.ends_with("/files/fetch") => json(out, &result(0, "")),
        ("POST", path) if path.ends_with("/exec") && head.lines => events(out, canned, body),
        ("POST", path) if path.ends_with("/exec") => {
            let (code, stdout) = machine(canned, path, body);
            json(out, &result(code, &stdout))
        }
        ("GET", "/v1/vms") => json(out, "[]"),
        ("GET", "/apps") => json(out, &canned.apps),
        ("GET", path) if path.starts_with("/apps/x/logs") => log(out, canned, &head.key),
        _ => json(out, "{\"status\":\"ok\"}"),
    }
}

/// What the machine answers to a command: exit code and output, the latter as the text of a JSON string.
fn machine(canned: &Canned, path: &str, command: &[u8]) -> (i32, String) {
    if contains(command, b"kind=directory") {
        // Boxrig's client asks what a path is, and has it sent to the storage, in one command.
        let size = DOWNLOAD_BYTES;
        let mut said = format!("kind=file\\nsize={size}\\nmode=644\\nmtime=1700000000\\n");
        if path.contains(SUMMING_VM) {
            let sum = canned.sha256.get_or_init(sum_of_download);
            said.push_str(&format!("sha256={sum}\\n"));
        }
        said.push_str("head=0\\ncurl=0\\n");
        return (0, said);
    }
    // The SDK asks first whether it is a directory: 1 says that it is a file.
    (i32::from(contains(command, b"test -d")), String::new())
}

fn sum_of_download() -> String {
    let mut hash = Sha256::new();
    for _ in 0..DOWNLOAD_BYTES / BLOCK.len() {
        hash.update(BLOCK);
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// The answer to a command in the buffered form.
fn result(code: i32, stdout: &str) -> String {
    format!(
        "{{\"exitCode\":{code},\"stdout\":\"{stdout}\",\"stderr\":\"\",\"timedOut\":false,\
         \"stdoutTruncated\":false,\"stderrTruncated\":false,\"durationMs\":1}}"
    )
}

/// The answer to a command as events.
fn events(out: &mut TcpStream, canned: &Canned, command: &[u8]) -> io::Result<()> {
    out.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    if contains(command, STREAM_COMMAND.as_bytes()) {
        for _ in 0..STREAM_BYTES / STREAM_EVENT {
            out.write_all(&canned.event)?;
        }
    }
    let mut end = chunk(b"{\"t\":\"x\",\"ms\":1}\n");
    end.extend_from_slice(b"0\r\n\r\n");
    out.write_all(&end)
}

/// [`APPS`] apps, as a rack writes them: indented by two spaces.
fn apps() -> String {
    let app = |n: usize| {
        format!(
            "  {{\n    \"generation\": \"3\",\n    \"locked\": false,\n    \"name\": \"app-{n:04}\",\n    \"release\": \"RABCDEFGHIJ\",\n    \
             \"router\": \"router.example.com\",\n    \"status\": \"running\",\n    \"parameters\": {{\n      \"BuildCpu\": \"512\"\n    }}\n  }}"
        )
    };
    let all: Vec<String> = (0..APPS).map(app).collect();
    format!("[\n{}\n]\n", all.join(",\n"))
}

/// A text frame of [`LOG_LINES`] lines of a log.
fn frame() -> Vec<u8> {
    let line = |n: usize| {
        format!("2026-01-02T03:04:05.{n:09}Z service/web/web-{n:04} GET /path/{n} 200 in 12 ms\n")
    };
    let text: String = (0..LOG_LINES).map(line).collect();
    let mut out = vec![0x81, 126];
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    out
}

/// A log on a websocket: [`LOG_FRAMES`] frames and the mark of its end.
fn log(out: &mut TcpStream, canned: &Canned, key: &str) -> io::Result<()> {
    let accept = boxrig_wire::ws::accept_key(key.as_bytes());
    write!(
        out,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )?;
    for _ in 0..LOG_FRAMES {
        out.write_all(&canned.frame)?;
    }
    out.write_all(&[0x82, 0])
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}
