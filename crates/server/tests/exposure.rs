//! What a server withstands: many idle connections, slow heads, large bodies, deep documents.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use boxrig_server::testing::Server;
use support::{control, get, raw, raw_unix};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    pages * 4096
}

#[tokio::test]
async fn bodies_are_bounded() {
    let server = Server::start().await.unwrap();
    // Announced, over a length that no JSON body has here.
    let head = "PUT /boxrig/v1/faults HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10737418240\r\n\r\n";
    let stream = tokio::net::UnixStream::connect(server.socket())
        .await
        .unwrap();
    let (mut read, mut write) = stream.into_split();
    write.write_all(head.as_bytes()).await.unwrap();
    let before = resident();
    let feed = tokio::spawn(async move {
        let chunk = vec![b'['; 64 * 1024];
        let mut sent = 0u64;
        while write.write_all(&chunk).await.is_ok() {
            sent += chunk.len() as u64;
        }
        sent
    });
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), read.read_to_end(&mut answer)).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 4"), "{text}");
    drop(read);
    let sent = feed.await.unwrap();
    assert!(sent < 64 * 1024 * 1024, "{sent} bytes were taken");
    assert!(resident().saturating_sub(before) < 100 * 1024 * 1024);
    server.stop().await;
}

#[tokio::test]
async fn deep_documents_are_refused_in_words() {
    let server = Server::start().await.unwrap();
    let body = "[".repeat(100_000);
    let request = format!(
        "PUT /boxrig/v1/faults HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = raw_unix(&server, &request).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("recursion limit"), "{answer}");
    assert!(control(&server).info().await.is_ok());
    server.stop().await;
}

#[tokio::test]
async fn a_request_line_addresses_one_segment() {
    let server = Server::start().await.unwrap();
    for path in [
        "/boxrig/v1/instances/..%2f..%2fenv",
        "/boxrig/v1/instances/%2e%2e",
        "/boxrig/v1/instances/a%00b",
        "/boxrig/v1/instances/",
        "/boxrig/v1//instances",
        "/boxrig/v1/instances/a/b",
        "/boxrig/v1/../v1/env",
    ] {
        let answer = raw_unix(&server, &get(path, "")).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn slow_heads_and_silence_are_cut_off() {
    let server = Server::with(|mut config| {
        config.patience = Duration::from_millis(300);
        config.engine(boxrig_engine::Selection::Memory)
    })
    .await
    .unwrap();
    let address = server.url().replace("http://", "");
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let slow = TcpStream::connect(&address).await.unwrap();
    let (mut read, mut write) = slow.into_split();
    let drip = tokio::spawn(async move {
        for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nx: "
            .iter()
            .chain([b'y'; 500].iter())
        {
            if write.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let started = Instant::now();
    let mut answer = Vec::new();
    let ends = async {
        let _ = read.read_to_end(&mut answer).await;
        let mut nothing = Vec::new();
        let _ = silent.read_to_end(&mut nothing).await;
        assert!(nothing.is_empty());
    };
    tokio::time::timeout(Duration::from_secs(3), ends)
        .await
        .unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    drip.abort();
    // A handshake that does not come is cut off too.
    let mut tls = TcpStream::connect(&address).await.unwrap();
    tls.write_all(&[0x16, 3, 1]).await.unwrap();
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(3), tls.read_to_end(&mut rest)).await;
    assert!(cut.is_ok());
    assert!(
        raw(&server, &get("/healthz", ""))
            .await
            .starts_with("HTTP/1.1 200")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_refusal_of_an_upload_arrives() {
    let server = Server::start().await.unwrap();
    let address = server.url().replace("http://", "");
    for _ in 0..20 {
        let mut client = TcpStream::connect(&address).await.unwrap();
        let head = "POST /v1/vms HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        // A client that writes all it has before it listens, as some do, must still get to know why it was refused.
        let chunk = [b' '; 65536];
        for _ in 0..20 {
            if client.write_all(&chunk).await.is_err() {
                break;
            }
        }
        let mut start = [0; 12];
        client.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 401");
    }
    server.stop().await;
}
