//! Ten thousand idle connections, in a process of its own: its memory is measured.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use boxrig_server::testing::Server;
use support::{get, raw};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections() {
    let server = Server::start().await.unwrap();
    let address = server.url().replace("http://", "");
    // Both ends are in this process; the server has raised its limit of open files as far as it may.
    let limit = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files: usize = limit
        .lines()
        .find_map(|l| {
            l.strip_prefix("Max open files")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(1024);
    let count = 10_000.min((files.saturating_sub(500)) / 2);
    println!("{count} connections, {files} open files allowed");
    let before = resident();
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        idle.push(TcpStream::connect(&address).await.unwrap());
    }
    let mut times = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        let answer = raw(&server, &get("/1.0", "")).await;
        assert!(answer.starts_with("HTTP/1.1 501"), "{answer}");
        times.push(started.elapsed());
    }
    times.sort();
    let grown = resident().saturating_sub(before) / (1024 * 1024);
    println!("p99 {:?}, {grown} MiB more", times[197]);
    assert!(times[197] < Duration::from_millis(50), "{:?}", times[197]);
    assert!(grown <= 100, "{grown} MiB");
    drop(idle);
    server.stop().await;
}
