//! The `curl` stand-in: its parsers, and the real program against a server.

#![allow(clippy::unwrap_used)]
#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

#[allow(dead_code)]
#[path = "../agent/http.rs"]
mod http;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use http::{BadUrl, Body, Chunk, parse_head, parse_url};
use proptest::prelude::*;

#[test]
fn urls() {
    let url = parse_url(b"http://127.0.0.1:8080/a/b?c=d#e").unwrap();
    assert_eq!((url.address, url.port), ([127, 0, 0, 1], 8080));
    assert_eq!(
        (url.authority, url.target),
        (&b"127.0.0.1:8080"[..], &b"/a/b?c=d"[..])
    );
    let url = parse_url(b"HTTP://LocalHost").unwrap();
    assert_eq!(
        (url.address, url.port, url.target),
        ([127, 0, 0, 1], 80, &b""[..])
    );
    assert_eq!(parse_url(b"10.0.0.1/x").unwrap().address, [10, 0, 0, 1]);
    assert_eq!(parse_url(b"http://1.2.3.4?q").unwrap().target, b"?q");
    for (text, bad) in [
        (&b"https://127.0.0.1/"[..], BadUrl::Scheme),
        (b"file:///etc/passwd", BadUrl::Scheme),
        (b"http://example.com/", BadUrl::Host),
        (b"http://user@127.0.0.1/", BadUrl::Host),
        (b"http://127.0.0.01/", BadUrl::Host),
        (b"http://0x7f.0.0.1/", BadUrl::Host),
        (b"http://127.1/", BadUrl::Host),
        (b"http://256.0.0.1/", BadUrl::Host),
        (b"http:///x", BadUrl::Host),
        (b"http://[::1]/", BadUrl::Malformed),
        (b"http://127.0.0.1:/", BadUrl::Malformed),
        (b"http://127.0.0.1:0/", BadUrl::Malformed),
        (b"http://127.0.0.1:65536/", BadUrl::Malformed),
        (b"http://127.0.0.1/a b", BadUrl::Malformed),
        (b"http://127.0.0.1/\r\nX: y", BadUrl::Malformed),
    ] {
        assert_eq!(
            parse_url(text),
            Err(bad),
            "{}",
            String::from_utf8_lossy(text)
        );
    }
}

#[test]
fn heads() {
    let head = parse_head(b"HTTP/1.1 200 OK\r\nContent-LENGTH:  12 \r\nX: y\r\n\r\nbody")
        .unwrap()
        .unwrap();
    assert_eq!(
        (head.status, head.body, head.length),
        (200, Body::Length(12), 47)
    );
    let head = parse_head(b"HTTP/1.0 404\x20\r\n\r\n").unwrap().unwrap();
    assert_eq!((head.status, head.body), (404, Body::Close));
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 5\r\n\r\n";
    let start = Body::Chunked(Chunk::Size {
        value: 0,
        digits: 0,
    });
    assert_eq!(parse_head(chunked).unwrap().unwrap().body, start);
    assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\nX: y\r\n").unwrap(), None);
    for weird in [
        &b"SSH-2.0-OpenSSH\r\n\r\n"[..],
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    ] {
        assert!(
            parse_head(weird).is_err(),
            "{}",
            String::from_utf8_lossy(weird)
        );
    }
}

/// Decodes a body that comes in pieces of the given size; the content and whether it was complete.
fn decode(mut body: Body, bytes: &[u8], piece: usize) -> Result<(Vec<u8>, bool), http::Weird> {
    let mut content = Vec::new();
    for mut piece in bytes.chunks(piece.max(1)) {
        while !piece.is_empty() && !body.done() {
            let step = body.step(piece)?;
            assert!(step.consumed > 0 && step.content <= step.consumed);
            content.extend_from_slice(&piece[step.consumed - step.content..step.consumed]);
            piece = &piece[step.consumed..];
        }
    }
    Ok((content, body.may_end()))
}

proptest! {
    #[test]
    fn chunks_are_put_together(
        parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
        piece in 1usize..50,
        cut in 0usize..10,
    ) {
        let start = Body::Chunked(Chunk::Size { value: 0, digits: 0 });
        let mut bytes = Vec::new();
        for part in &parts {
            bytes.extend_from_slice(format!("{:X};ext=1\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\nTrailer: x\r\n\r\n");
        let (content, complete) = decode(start, &bytes, piece).unwrap();
        prop_assert_eq!(&content, &parts.concat());
        prop_assert!(complete);
        if cut > 0 {
            bytes.truncate(bytes.len() - cut);
            prop_assert!(!decode(start, &bytes, piece).unwrap().1);
        }
    }

    #[test]
    fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1usize..50) {
        let _ = parse_url(&bytes);
        let _ = parse_head(&bytes);
        let _ = parse_head(&[b"HTTP/1.1 200 OK\r\n", &bytes[..], b"\r\n\r\n"].concat());
        let start = Body::Chunked(Chunk::Size { value: 0, digits: 0 });
        let _ = decode(start, &bytes, piece);
    }
}

struct Curl {
    dir: tempfile::TempDir,
    program: PathBuf,
}

impl Curl {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("curl");
        fs::write(&program, include_bytes!(concat!(env!("OUT_DIR"), "/agent"))).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir, program }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new(&self.program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            // The program may end without reading it all.
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().unwrap()
        })
    }
}

/// Takes one connection, reads the request's head and body, answers, and gives what was sent.
fn serve(
    answer: &'static [u8],
    read_body: bool,
) -> (u16, std::thread::JoinHandle<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let body = if read_body {
            request_body(&head, &mut stream)
        } else {
            Vec::new()
        };
        stream.write_all(answer).unwrap();
        (head, body)
    });
    (port, thread)
}

fn request_body(head: &str, stream: &mut TcpStream) -> Vec<u8> {
    let mut body = Vec::new();
    if let Some(length) = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
    {
        body.resize(length.parse().unwrap(), 0);
        stream.read_exact(&mut body).unwrap();
    } else if head.contains("Transfer-Encoding: chunked\r\n") {
        let mut state = Body::Chunked(Chunk::Size {
            value: 0,
            digits: 0,
        });
        let mut buffer = [0; 1000];
        while !state.done() {
            let got = stream.read(&mut buffer).unwrap();
            let mut piece = &buffer[..got];
            while !piece.is_empty() {
                let step = state.step(piece).unwrap();
                body.extend_from_slice(&piece[step.consumed - step.content..step.consumed]);
                piece = &piece[step.consumed..];
            }
        }
    }
    body
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn uploads_as_the_sdk_asks() {
    let curl = Curl::new();
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    for name in ["file", "ünîçødé fïlé.txt"] {
        fs::write(curl.path(name), &content).unwrap();
        let (port, server) = serve(OK, true);
        let url = format!("http://127.0.0.1:{port}/put?sig=a%20b");
        let file = curl.path(name);
        let args = [
            "--fail",
            "--silent",
            "--show-error",
            "-T",
            &file,
            "-H",
            "Content-Type: application/octet-stream",
            &url,
        ];
        let output = curl.run(&args, b"");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(output.stdout, b"hello");
        let (head, body) = server.join().unwrap();
        assert!(
            head.starts_with("PUT /put?sig=a%20b HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(head.contains(&format!("\r\nHost: 127.0.0.1:{port}\r\n")));
        assert!(head.contains("\r\nContent-Type: application/octet-stream\r\n"));
        assert!(head.contains("\r\nContent-Length: 3000000\r\n") && !head.contains("Expect"));
        assert_eq!(body, content);
    }
    // From a pipe: in chunks. An empty file: no content, and still a request.
    let (port, server) = serve(OK, true);
    let output = curl.run(
        &["-fsS", "-T", "-", &format!("http://localhost:{port}")],
        &content,
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (head, body) = server.join().unwrap();
    assert!(head.starts_with("PUT / HTTP/1.1\r\n") && head.contains("Transfer-Encoding: chunked"));
    assert_eq!(body, content);
    fs::write(curl.path("empty"), b"").unwrap();
    let (port, server) = serve(OK, true);
    let output = curl.run(
        &[
            "-XPOST",
            "-T",
            &curl.path("empty"),
            &format!("http://localhost:{port}"),
        ],
        b"",
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (head, _) = server.join().unwrap();
    assert!(
        head.starts_with("POST / ") && head.contains("Content-Length: 0\r\n"),
        "{head}"
    );
}

#[test]
fn downloads() {
    let curl = Curl::new();
    for (answer, expected) in [
        (OK, &b"hello"[..]),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops", b"oops"),
    ] {
        let (port, server) = serve(answer, false);
        let output = curl.run(&["-sSL", "-o", &curl.path("out"), &format!("http://127.0.0.1:{port}/x#y")], b"");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(fs::read(curl.path("out")).unwrap(), expected);
        assert!(server.join().unwrap().0.starts_with("GET /x HTTP/1.1\r\n"));
    }
    let (port, server) = serve(OK, false);
    let url = format!("http://127.0.0.1:{port}");
    let output = curl.run(
        &[
            "-H",
            "User-Agent: me",
            "-H",
            "Accept:",
            "--header",
            "X: y",
            &url,
        ],
        b"",
    );
    assert_eq!(
        (output.status.code(), output.stdout),
        (Some(0), b"hello".to_vec())
    );
    let head = server.join().unwrap().0;
    assert!(head.contains("User-Agent: me\r\n") && head.contains("X: y\r\n"));
    assert!(
        !head.contains("Accept") && !head.contains("boxrig"),
        "{head}"
    );
}

#[test]
fn failures_have_the_codes_of_curl() {
    let curl = Curl::new();
    let answered = |answer: &'static [u8], args: &[&str]| {
        let (port, server) = serve(answer, false);
        let url = format!("http://127.0.0.1:{port}/");
        let output = curl.run(&[args, &[&url]].concat(), &vec![7; 8 << 20]);
        server.join().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let not_found = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!";
    let out = curl.path("never");
    let (code, words) = answered(not_found, &["--fail", "-sS", "-o", &out]);
    assert_eq!(code, 22);
    assert_eq!(words, "curl: (22) The requested URL returned error: 404\n");
    assert!(!std::path::Path::new(&out).exists());
    assert_eq!(answered(not_found, &["-f", "-s"]), (22, String::new()));
    // The server refuses before it has read the content: its answer counts, not the broken pipe.
    let too_large = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n";
    let (code, _) = answered(too_large, &["-f", "-T", "-"]);
    assert!(matches!(code, 22 | 55 | 56), "{code}");
    assert_eq!(
        answered(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", &[]).0,
        18
    );
    assert_eq!(
        answered(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            &[]
        )
        .0,
        18
    );
    assert_eq!(
        answered(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            &[]
        )
        .0,
        56
    );
    assert_eq!(answered(b"rubbish\r\n\r\n", &[]).0, 8);
    assert_eq!(answered(b"", &[]).0, 52);
    assert_eq!(
        answered(
            b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
            &["-L"]
        )
        .0,
        47
    );
    assert_eq!(answered(OK, &["-o", "/nonexistent/file"]).0, 23);

    let code = |args: &[&str]| curl.run(args, b"").status.code().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(code(&[&format!("http://{closed}/")]), 7);
    assert_eq!(
        code(&["-T", "/nonexistent", &format!("http://{closed}/")]),
        26
    );
    assert_eq!(code(&["-T", "/", &format!("http://{closed}/")]), 26);
    assert_eq!(code(&["https://127.0.0.1/"]), 1);
    assert_eq!(code(&["http://example.com/"]), 6);
    assert_eq!(code(&["http://127.0.0.1:99999/"]), 3);
    assert_eq!(code(&[]), 2);
    assert_eq!(code(&["--compressed", "http://127.0.0.1/"]), 2);
    assert_eq!(code(&["-z", "http://127.0.0.1/"]), 2);
    assert_eq!(code(&["-o"]), 2);
    assert_eq!(code(&["-H", "A: b\r\nC: d", "http://127.0.0.1/"]), 2);
    assert_eq!(code(&["-X", "GET /", "http://127.0.0.1/"]), 2);
    assert_eq!(code(&["http://127.0.0.1/", "http://127.0.0.1/"]), 2);
    assert_eq!(code(&["-V"]), 0);
    let words = curl.run(&["http://example.com/\x1b[2J"], b"").stderr;
    assert!(!words.contains(&0x1b));
}
