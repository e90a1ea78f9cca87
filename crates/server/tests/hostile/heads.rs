//! Heads: sizes, counts, lengths given twice, lines folded, and one request hidden in another.

use boxrig_server::testing::Server;

use crate::raw::{count, send, statuses};

/// What comes after the request line, and the statuses that are right. `{key}` is the API key.
const HEADS: &[(&str, &str, &[u16])] = &[
    (
        "two lengths",
        "Host: localhost\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
        &[400],
    ),
    (
        "two lengths in a list",
        "Host: localhost\r\nContent-Length: 0, 5\r\n\r\nhello",
        &[400],
    ),
    (
        "a negative length",
        "Host: localhost\r\nContent-Length: -1\r\n\r\n",
        &[400],
    ),
    (
        "a length with a sign",
        "Host: localhost\r\nContent-Length: +5\r\n\r\nhello",
        &[400],
    ),
    (
        "a hexadecimal length",
        "Host: localhost\r\nContent-Length: 0x5\r\n\r\nhello",
        &[400],
    ),
    (
        "a length that is too large",
        "Host: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        &[400],
    ),
    (
        "a length with words",
        "Host: localhost\r\nContent-Length: 5 five\r\n\r\nhello",
        &[400],
    ),
    (
        "an empty length",
        "Host: localhost\r\nContent-Length:\r\n\r\n",
        &[400],
    ),
    (
        "chunked in the middle",
        "Host: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    (
        "an unknown encoding",
        "Host: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    (
        "an encoding with a tab",
        "Host: localhost\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    (
        "a folded line",
        "Host: localhost\r\nX-A: b\r\n folded: yes\r\n\r\n",
        &[400],
    ),
    (
        "a folded encoding",
        "Host: localhost\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    (
        "a blank before the colon",
        "Host: localhost\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    (
        "a blank before the name",
        " Host: localhost\r\n\r\n",
        &[400],
    ),
    ("no colon", "Host: localhost\r\nnonsense\r\n\r\n", &[400]),
    ("no name", "Host: localhost\r\n: x\r\n\r\n", &[400]),
    (
        "a zero byte in a name",
        "Host: localhost\r\nX-\0A: b\r\n\r\n",
        &[400],
    ),
    (
        "a zero byte in a value",
        "Host: localhost\r\nX-A: b\0c\r\n\r\n",
        &[400],
    ),
    (
        "a lone carriage return",
        "Host: localhost\r\nX-A: b\rX-B: c\r\n\r\n",
        &[400],
    ),
    (
        "an escape in a value",
        "Host: localhost\r\nX-A: \x1b[2J\r\n\r\n",
        &[400],
    ),
    ("no host", "\r\n", &[400]),
    ("an empty host", "Host:\r\n\r\n", &[400, 403]),
    (
        "two hosts",
        "Host: localhost\r\nHost: evil.example\r\n\r\n",
        &[400],
    ),
    (
        "a host with a path",
        "Host: localhost/evil\r\n\r\n",
        &[400, 403],
    ),
    (
        "a host with a user",
        "Host: localhost@evil.example\r\n\r\n",
        &[400, 403],
    ),
    (
        "a host with credentials",
        "Host: evil.example@localhost\r\n\r\n",
        &[400, 403],
    ),
    (
        "a host with blanks",
        "Host: local host\r\n\r\n",
        &[400, 403],
    ),
    (
        "a host with a comma",
        "Host: localhost, evil.example\r\n\r\n",
        &[400, 403],
    ),
    (
        "a port that is none",
        "Host: localhost:port\r\n\r\n",
        &[400, 403],
    ),
    (
        "a host that ends like ours",
        "Host: evil.example.localhost.evil.example\r\n\r\n",
        &[403],
    ),
    (
        "an unknown expectation",
        "Host: localhost\r\nExpect: a-pony\r\nContent-Length: 0\r\n\r\n",
        &[417, 400, 405, 404],
    ),
];

#[tokio::test]
async fn odd_heads_are_refused() {
    let server = Server::start().await.unwrap();
    for (what, head, wanted) in HEADS {
        let request = format!(
            "POST /healthz HTTP/1.1\r\nX-API-Key: {}\r\n{head}",
            server.api_key()
        );
        let answer = send(&server, request.as_bytes()).await;
        let got = statuses(&answer);
        assert!(
            got.len() == 1 && wanted.contains(&got[0]),
            "{what}: {got:?}: {answer}"
        );
    }
    // The same door is open for an honest one.
    let honest = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&send(&server, honest.as_bytes()).await), [200]);
    server.stop().await;
}

const LINES: &[&str] = &[
    "GET /healthz HTTP/9.9",
    "GET /healthz HTTP/1.1 extra",
    "GET  /healthz HTTP/1.1",
    "GET /heal thz HTTP/1.1",
    "GET\t/healthz\tHTTP/1.1",
    "GET healthz HTTP/1.1",
    "G\u{1b}T /healthz HTTP/1.1",
    "GET /heal\u{0}thz HTTP/1.1",
    "GET /\u{7f} HTTP/1.1",
    "GET http://evil.example/healthz HTTP/1.1",
    "GET ftp://localhost/healthz HTTP/1.1",
    "GET //evil.example/healthz HTTP/1.1",
    "CONNECT evil.example:443 HTTP/1.1",
    "CONNECT localhost:22 HTTP/1.1",
    "TRACE / HTTP/1.1",
    "PRI * HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "GET * HTTP/1.1",
    "GET /../healthz HTTP/1.1",
    "GET /%2e%2e/healthz HTTP/1.1",
    "GET /healthz/ HTTP/1.1",
    "GET /healthz%00 HTTP/1.1",
    "GET /HEALTHZ HTTP/1.1",
    "SSH-2.0-OpenSSH_9.9",
    "*3 $3 SET",
    "EHLO evil.example",
    "",
];

#[tokio::test]
async fn odd_request_lines_are_refused() {
    let server = Server::start().await.unwrap();
    for line in LINES {
        let request = format!("{line}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = send(&server, request.as_bytes()).await;
        let ok = statuses(&answer).iter().any(|s| *s < 400);
        assert!(!ok, "{line:?}: {answer}");
        assert!(
            !answer.to_lowercase().contains("\r\nx-injected"),
            "{line:?}: {answer}"
        );
    }
    for size in [70_000, 1_000_000] {
        let long = format!(
            "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "a".repeat(size)
        );
        let answer = statuses(&send(&server, long.as_bytes()).await);
        assert!(
            matches!(answer[..], [414 | 431 | 400] | []),
            "{size}: {answer:?}"
        );
    }
    server.stop().await;
}

/// A launch that must never be carried out: hidden where only one of two readers sees a request.
fn hidden(key: &str) -> String {
    let body = r#"{"machineType":"c1m1","name":"smuggled"}"#;
    format!(
        "POST /v1/vms HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn no_request_is_hidden_in_another() {
    let server = Server::start().await.unwrap();
    let key = server.api_key();
    let hidden = hidden(&key);
    let n = hidden.len();
    let shapes = [
        // The length counts the hidden request as content; the encoding says there is none.
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
            n + 5
        ),
        format!(
            "Transfer-Encoding: chunked\r\nContent-Length: {}\r\n\r\n0\r\n\r\n{hidden}",
            n + 5
        ),
        format!(
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\nContent-Length: {}\r\n\r\n0\r\n\r\n{hidden}",
            n + 5
        ),
        format!(
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!("Transfer-Encoding: xchunked\r\nContent-Length: {n}\r\n\r\n{hidden}"),
        format!("Transfer-Encoding:\x0bchunked\r\nContent-Length: {n}\r\n\r\n{hidden}"),
        format!("Content-Length: 0\r\nContent-Length: {n}\r\n\r\n{hidden}"),
        format!("Content-Length: {n}\r\nContent-Length: 0\r\n\r\n{hidden}"),
        format!("Content-Length: {n}, 0\r\n\r\n{hidden}"),
        format!("Content-Length: {n}\r\n\r\n{hidden}"),
        format!("Content-Length : 0\r\n\r\n{hidden}"),
        format!(" Content-Length: 0\r\n\r\n{hidden}"),
        format!("Content-Length: \r\n 0\r\n\r\n{hidden}"),
        // Chunks.
        format!("Transfer-Encoding: chunked\r\n\r\n{n:x};a=\"\r\n{hidden}\r\n0\r\n\r\n"),
        format!("Transfer-Encoding: chunked\r\n\r\n-1\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\n 0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\n0\n\n{hidden}"),
        // Upgrades and other ways to change the subject.
        format!(
            "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nContent-Length: {n}\r\n\r\n{hidden}"
        ),
        format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\nContent-Length: {n}\r\n\r\n{hidden}"
        ),
        format!("Connection: close\r\nContent-Length: 0\r\n\r\n{hidden}"),
        format!("Connection: close, X-API-Key\r\nContent-Length: {n}\r\n\r\n{hidden}"),
    ];
    for (i, shape) in shapes.iter().enumerate() {
        for (method, path) in [("GET", "/healthz"), ("POST", "/v1/vms/none/pause")] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n{shape}"
            );
            let answer = send(&server, request.as_bytes()).await;
            assert!(
                statuses(&answer).len() <= 1,
                "shape {i} with {method}: {answer}"
            );
            assert!(
                !answer.contains("smuggled"),
                "shape {i} with {method}: {answer}"
            );
        }
    }
    assert_eq!(count(&server).await, 0, "a hidden request was carried out");
    // Two requests that are two are two answers.
    let two = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&send(&server, two.as_bytes()).await), [200, 200]);
    server.stop().await;
}
