//! A listener with canned FastVM answers: it does nothing but read requests and write ready bytes, so
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
use boxrig_benches::{DOWNLOAD_BYTES, STREAM_BYTES, STREAM_COMMAND, STREAM_EVENT, SUMMING_VM};
use sha2::{Digest, Sha256};

/// What the download consists of.
static BLOCK: [u8; 1024 * 1024] = [0x5a; 1024 * 1024];

struct Canned {
    origin: String,
    /// One event as a chunk of HTTP's chunked coding.
    event: Vec<u8>,
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
            let header = line.trim_end().to_ascii_lowercase();
            match header.split_once(": ") {
                None if header.is_empty() => return Ok(Some(head)),
                Some(("content-length", n)) => head.length = n.parse().unwrap_or(0),
                Some(("transfer-encoding", v)) => head.chunked = v.contains("chunked"),
                Some(("accept", v)) => head.lines = v.contains("x-ndjson"),
                Some(("expect", _)) => head.expects = true,
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

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}
