//! Fault scripts against a protocol: what is lost, what is done, what is deterministic.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use boxrig_server::faults::Script;
use boxrig_server::testing::Server;
use support::{get, raw};

async fn server(script: &str, seed: u64) -> Server {
    let faults = Script::parse(script).unwrap();
    Server::with(|mut config| {
        config.faults = faults;
        config.seed_ids = Some(seed);
        config.engine(boxrig_engine::Selection::Memory)
    })
    .await
    .unwrap()
}

fn launch(server: &Server) -> String {
    let body = r#"{"machineType":"c1m2"}"#;
    format!(
        "POST /v1/vms HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-API-Key: {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        server.api_key(),
        body.len()
    )
}

async fn list(server: &Server) -> String {
    let headers = format!("X-API-Key: {}\r\n", server.api_key());
    raw(server, &get("/v1/vms", &headers)).await
}

fn ids(listing: &str) -> Vec<String> {
    let body = listing.split_once("\r\n\r\n").unwrap().1;
    let all: serde_json::Value = serde_json::from_str(body).unwrap();
    let all = all.as_array().unwrap();
    all.iter()
        .map(|vm| vm["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_lost_reply_is_of_work_that_was_done() {
    let script = "[[fault]]\noperation = 'fastvm.launchVm'\nnth = 2\naction = 'drop_reply'";
    let server = server(script, 1).await;
    for answered in [true, false, true] {
        let answer = raw(&server, &launch(&server)).await;
        assert_eq!(answer.starts_with("HTTP/1.1 20"), answered, "{answer}");
        assert_eq!(answer.is_empty(), !answered, "{answer}");
    }
    assert_eq!(ids(&list(&server).await).len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn a_lost_request_is_of_work_that_was_not_done() {
    let script = "[[fault]]\noperation = 'fastvm.launchVm'\ntimes = 1\naction = 'drop'";
    let server = server(script, 1).await;
    assert!(raw(&server, &launch(&server)).await.is_empty());
    assert!(ids(&list(&server).await).is_empty());
    server.stop().await;
}

#[tokio::test]
async fn statuses_cuts_and_delays() {
    let script = "
        [[fault]]
        operation = 'fastvm.listVms'
        times = 1
        action = 'status'
        status = 429
        retry_after = 7
        [[fault]]
        operation = 'fastvm.health'
        times = 1
        action = 'cut'
        bytes = 5
        [[fault]]
        operation = 'fastvm.getOrgQuotas'
        action = 'delay'
        delay_ms = 300";
    let server = server(script, 1).await;
    let told = list(&server).await;
    assert!(
        told.starts_with("HTTP/1.1 429") && told.contains("retry-after: 7"),
        "{told}"
    );
    assert!(list(&server).await.starts_with("HTTP/1.1 200"));
    let cut = raw(&server, &get("/healthz", "")).await;
    let (head, body) = cut.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-length: 15"), "{head}");
    assert!(body.len() <= 5, "{body}");
    let whole = raw(&server, &get("/healthz", "")).await;
    assert!(whole.ends_with(r#"{"status":"ok"}"#), "{whole}");
    let started = Instant::now();
    let headers = format!("X-API-Key: {}\r\n", server.api_key());
    let late = raw(&server, &get("/v1/org/quotas", &headers)).await;
    assert!(late.starts_with("HTTP/1.1 200"), "{late}");
    assert!(started.elapsed() >= Duration::from_millis(300));
    server.stop().await;
}

#[tokio::test]
async fn the_same_seed_gives_the_same_identifiers() {
    let mut seen = Vec::new();
    for seed in [7, 7, 8] {
        let server = server("", seed).await;
        for _ in 0..3 {
            raw(&server, &launch(&server)).await;
        }
        let mut ids = ids(&list(&server).await);
        ids.sort();
        seen.push(ids);
        server.stop().await;
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[0], seen[2]);
}

/// A saved inventory comes back with its machines, and its clocks go on.
#[tokio::test]
async fn machines_are_saved_and_loaded() {
    let first = server("", 1).await;
    for _ in 0..2 {
        raw(&first, &launch(&first)).await;
    }
    let before = ids(&list(&first).await);
    let saved = support::control(&first).save().await.unwrap();
    first.stop().await;
    let second = server("", 2).await;
    support::control(&second).load(saved).await.unwrap();
    let listing = list(&second).await;
    assert_eq!(ids(&listing), before);
    assert_eq!(
        listing.matches(r#""status":"running""#).count(),
        2,
        "{listing}"
    );
    support::control(&second).reset().await.unwrap();
    assert!(ids(&list(&second).await).is_empty());
    second.stop().await;
}

/// How long a server takes to be ready; the figure is printed, not judged: the machine may be busy.
#[tokio::test]
async fn starting_is_quick() {
    let started = Instant::now();
    let mut server = server("", 1).await;
    let first = started.elapsed();
    let again = Instant::now();
    server
        .restart(|config| config.engine(boxrig_engine::Selection::Memory))
        .await
        .unwrap();
    println!(
        "ready: first {first:?}, restarted (with the end before) {:?}",
        again.elapsed()
    );
    assert!(first < Duration::from_secs(5));
    server.stop().await;
}
