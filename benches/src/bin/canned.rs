//! A listener with canned FastVM answers: it does nothing but read requests and write ready bytes, so
//! that what is measured is the client. Plain threads and blocking sockets, no code of boxrig in it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use base64::Engine as _;
use boxrig_benches::{DOWNLOAD_BYTES, STREAM_BYTES, STREAM_EVENT};

struct Canned {
    origin: String,
    event: Vec<u8>,
    block: Vec<u8>,
}

fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let origin = format!("http://{}", listener.local_addr()?);
    println!("{origin}");
    io::stdout().flush()?;
    let chunk = base64::engine::general_purpose::STANDARD.encode(vec![b'x'; STREAM_EVENT]);
    let event = format!("{{\"t\":\"o\",\"d\":\"{chunk}\"}}\n").into_bytes();
    let canned = Arc::new(Canned { origin, event, block: vec![0x5a; 1024 * 1024] });
    for stream in listener.incoming() {
        let (stream, canned) = (stream?, canned.clone());
        std::thread::spawn(move || {
            // A client that hangs up ends its thread.
            let _ = serve(stream, &canned);
        });
    }
    Ok(())
}

fn serve(stream: TcpStream, canned: &Canned) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::with_capacity(256 * 1024, stream);
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_ascii_whitespace();
        let (method, path) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
        let (mut length, mut chunked, mut lines, mut expects) = (0usize, false, false, false);
        loop {
            let mut header = String::new();
            input.read_line(&mut header)?;
            let header = header.trim_end().to_ascii_lowercase();
            match header.split_once(": ") {
                None if header.is_empty() => break,
                Some(("content-length", n)) => length = n.parse().unwrap_or(0),
                Some(("transfer-encoding", v)) => chunked = v.contains("chunked"),
                Some(("accept", v)) => lines = v.contains("x-ndjson"),
                Some(("expect", _)) => expects = true,
                _ => {}
            }
        }
        if expects {
            out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = if method == "PUT" {
            drain(&mut input, length, chunked)?;
            Vec::new()
        } else {
            let mut body = vec![0; length];
            input.read_exact(&mut body)?;
            body
        };
        answer(&mut out, canned, &method, &path, &body, lines)?;
    }
}

/// Reads an upload and forgets it.
fn drain(input: &mut BufReader<TcpStream>, length: usize, chunked: bool) -> io::Result<()> {
    if !chunked {
        io::copy(&mut input.take(length as u64), &mut io::sink())?;
        return Ok(());
    }
    loop {
        let mut size = String::new();
        input.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        io::copy(&mut input.take(size as u64), &mut io::sink())?;
        let mut end = String::new();
        input.read_line(&mut end)?;
        if size == 0 {
            return Ok(());
        }
    }
}

fn answer(
    out: &mut TcpStream,
    canned: &Canned,
    method: &str,
    path: &str,
    body: &[u8],
    lines: bool,
) -> io::Result<()> {
    let json = |out: &mut TcpStream, text: &str| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length";
        out.write_all(format!("{head}: {}\r\n\r\n{text}", text.len()).as_bytes())
    };
    match (method, path) {
        ("GET", "/object") => {
            write!(
                out,
                "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {DOWNLOAD_BYTES}\r\n\r\n"
            )?;
            for _ in 0..DOWNLOAD_BYTES / canned.block.len() {
                out.write_all(&canned.block)?;
            }
            Ok(())
        }
        ("PUT", _) => out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("POST", path) if path.ends_with("/files/presign") => json(
            out,
            &format!(
                "{{\"uploadUrl\":\"{0}/object\",\"downloadUrl\":\"{0}/object\",\"expiresInSec\":900,\"maxUploadBytes\":10737418240}}",
                canned.origin
            ),
        ),
        ("POST", path) if path.ends_with("/exec") && lines => {
            out.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
            )?;
            // The stream scenario's command says so; any other is done at once.
            let events = if contains(body, b"stream-scenario") { STREAM_BYTES / STREAM_EVENT } else { 0 };
            for _ in 0..events {
                write!(out, "{:x}\r\n", canned.event.len())?;
                out.write_all(&canned.event)?;
                out.write_all(b"\r\n")?;
            }
            let end = b"{\"t\":\"x\",\"ms\":1}\n";
            write!(out, "{:x}\r\n", end.len())?;
            out.write_all(end)?;
            out.write_all(b"\r\n0\r\n\r\n")
        }
        ("POST", path) if path.ends_with("/exec") => {
            // The helpers ask whether a path is a directory: here it is a file.
            let code = i32::from(contains(body, b"test -d") || contains(body, b"test\\u0020-d"));
            json(
                out,
                &format!(
                    "{{\"exitCode\":{code},\"stdout\":\"\",\"stderr\":\"\",\"timedOut\":false,\"stdoutTruncated\":false,\"stderrTruncated\":false,\"durationMs\":1}}"
                ),
            )
        }
        ("POST", path) if path.ends_with("/files/fetch") => json(
            out,
            "{\"exitCode\":0,\"stdout\":\"\",\"stderr\":\"\",\"timedOut\":false,\"stdoutTruncated\":false,\"stderrTruncated\":false,\"durationMs\":1}",
        ),
        ("GET", "/v1/vms") => json(out, "[]"),
        _ => json(out, "{\"status\":\"ok\"}"),
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}
