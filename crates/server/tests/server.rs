//! A server as a whole, over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use boxrig_server::env::EnvFormat;
use boxrig_server::testing::Server;
use boxrig_wire::Kind;
use support::{control, get, raw, raw_unix};

#[tokio::test]
async fn it_answers_on_both_doors_and_presents_itself() {
    let server = Server::start().await.unwrap();
    let here = raw(&server, &get("/1.0", "")).await;
    assert!(here.starts_with("HTTP/1.1 501"), "{here}");
    let there = raw_unix(&server, &get("/1.0", "")).await;
    assert!(there.starts_with("HTTP/1.1 501"), "{there}");
    // The health check is open; the rest of FastVM asks for its key, except on the unix socket.
    for answer in [
        raw(&server, &get("/healthz", "")).await,
        raw_unix(&server, &get("/healthz", "")).await,
        raw_unix(&server, &get("/v1/vms", "")).await,
        raw(
            &server,
            &get("/v1/vms", &format!("X-API-Key: {}\r\n", server.api_key())),
        )
        .await,
    ] {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    for headers in ["", "X-API-Key: wrong\r\n"] {
        let answer = raw(&server, &get("/v1/vms", headers)).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
    let info = control(&server).info().await.unwrap();
    assert_eq!(info.engine, "memory");
    assert_eq!(info.isolation, "simulated");
    assert_eq!(info.pid, std::process::id());
    assert_eq!(info.url, server.url());
    server.stop().await;
}

#[tokio::test]
async fn the_environment_file_is_the_ready_signal_and_private() {
    let file = std::env::temp_dir().join(format!("boxrig-env-{}", std::process::id()));
    std::fs::write(&file, "stale").unwrap();
    let server = Server::with(|mut config| {
        config.env_file = Some(file.clone());
        config.engine(boxrig_engine::Selection::Memory)
    })
    .await
    .unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let env = server.running().unwrap().env();
    assert_eq!(text, env.render(EnvFormat::Dotenv));
    for name in [
        "BOXRIG_URL",
        "BOXRIG_CA_FILE",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "VERGE_HOST",
        "VERGE_USERNAME",
        "VERGE_PASSWORD",
        "VERGE_VERIFY_SSL",
        "FASTVM_BASE_URL",
        "FASTVM_API_KEY",
        "CONVOX_HOST",
        "CONVOX_PASSWORD",
        "CONVOX_RACK",
        "RACK_URL",
        "INCUS_SOCKET",
        "INCUS_ENDPOINT",
    ] {
        assert!(text.contains(&format!("{name}=")), "{name} in {text}");
    }
    let bundle = std::fs::read_to_string(env.get("SSL_CERT_FILE").unwrap()).unwrap();
    assert!(bundle.contains("BEGIN CERTIFICATE"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    std::fs::remove_file(&file).unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_data_directory_has_one_server() {
    let server = Server::start().await.unwrap();
    let data = server.dir().join("data");
    let second = boxrig_server::config::ServerConfig::new(&data)
        .engine(boxrig_engine::Selection::Memory)
        .listen(([127, 0, 0, 1], 0).into());
    let refused = boxrig_server::serve::Server::start(second)
        .await
        .unwrap_err();
    assert_eq!(refused.kind, Kind::Conflict);
    let pid = std::process::id().to_string();
    assert!(refused.to_string().contains(&pid), "{refused}");
    // The first one is not harmed by the attempt.
    assert!(control(&server).info().await.is_ok());
    server.stop().await;
}

#[tokio::test]
async fn the_control_api_is_not_on_the_port() {
    let server = Server::start().await.unwrap();
    let answer = raw(&server, &get("/boxrig/v1/env", "")).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn foreign_hosts_and_wild_heads_are_refused() {
    let server = Server::start().await.unwrap();
    let foreign = "GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert!(raw(&server, foreign).await.starts_with("HTTP/1.1 403"));
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let many = raw(&server, &get("/healthz", &many)).await;
    assert!(many.starts_with("HTTP/1.1 431"), "{many}");
    let long = format!("x: {}\r\n", "y".repeat(100_000));
    let long = raw(&server, &get("/healthz", &long)).await;
    assert!(long.starts_with("HTTP/1.1 431"), "{long}");
    assert!(
        raw(&server, "\u{1}\u{2}garbage\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 400")
    );
    server.stop().await;
}

#[tokio::test]
async fn it_ends_in_time_even_with_requests_under_way() {
    let server = Server::start().await.unwrap();
    let address = server.url().replace("http://", "");
    let silent = tokio::net::TcpStream::connect(&address).await.unwrap();
    let mut half = tokio::net::TcpStream::connect(&address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut half, b"GET / HTTP/1.1\r\nHo")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let started = Instant::now();
    server.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5));
    drop((silent, half));
}

#[tokio::test]
async fn somebody_may_ask_it_to_end() {
    let server = Server::start().await.unwrap();
    control(&server).shutdown().await.unwrap();
    let asked = server.running().unwrap().end_asked();
    tokio::time::timeout(Duration::from_secs(1), asked)
        .await
        .unwrap();
    server.stop().await;
}

#[tokio::test]
async fn an_idle_server_leaves() {
    let server = Server::with(|mut config| {
        config.idle_exit = Some(Duration::from_millis(100));
        config.engine(boxrig_engine::Selection::Memory)
    })
    .await
    .unwrap();
    let running = server.running().unwrap();
    let started = Instant::now();
    tokio::time::timeout(Duration::from_secs(3), running.end_asked())
        .await
        .unwrap();
    assert!(started.elapsed() >= Duration::from_millis(90));
    // An instance keeps it.
    let id = boxrig_engine::InstanceId::new("held").unwrap();
    let engine = &running.core().engine;
    engine
        .create(boxrig_engine::InstanceSpec::new(id.clone()))
        .await
        .unwrap();
    let held = tokio::time::timeout(Duration::from_millis(500), running.end_asked()).await;
    assert!(held.is_err());
    server.stop().await;
}

#[tokio::test]
async fn faults_and_the_clock_over_the_control_api() {
    let server = Server::with(|mut config| {
        config.virtual_clock = true;
        config.engine(boxrig_engine::Selection::Memory)
    })
    .await
    .unwrap();
    let client = control(&server);
    let before = client.clock().await.unwrap();
    assert!(before.is_virtual);
    let after = client.advance_clock(60_000).await.unwrap();
    assert_eq!(after.now_ms, before.now_ms + 60_000);

    let script = serde_json::json!({ "fault": [
        { "operation": "boxrig.getClock", "action": "status", "status": 503, "times": 1 },
        { "operation": "boxrig.getInfo", "action": "drop" },
    ]});
    client.set_faults(script).await.unwrap();
    let met = client.clock().await.unwrap_err();
    assert_eq!(met.kind(), Kind::Unavailable);
    assert!(client.clock().await.is_ok());
    let lost = client.info().await.unwrap_err();
    assert_eq!(lost.kind(), Kind::Transport);
    let wrong = serde_json::json!({ "fault": [{ "action": "explode" }] });
    let wrong = client.set_faults(wrong).await.unwrap_err();
    assert_eq!(wrong.kind(), Kind::Invalid);
    client.set_faults(serde_json::json!({})).await.unwrap();
    assert!(client.info().await.is_ok());
    server.stop().await;
}

#[tokio::test]
async fn instances_reset_save_and_load() {
    let server = Server::start().await.unwrap();
    let client = control(&server);
    let engine = server.running().unwrap().core().engine.clone();
    for name in ["a", "b"] {
        let id = boxrig_engine::InstanceId::new(name).unwrap();
        engine
            .create(boxrig_engine::InstanceSpec::new(id))
            .await
            .unwrap();
    }
    let b = boxrig_engine::InstanceId::new("b").unwrap();
    engine.pause(&b).await.unwrap();
    let all = client.instances().await.unwrap();
    let states: Vec<_> = all
        .iter()
        .map(|i| (i.id.as_str(), i.state.as_str()))
        .collect();
    assert_eq!(states, [("a", "running"), ("b", "paused")]);
    assert_eq!(
        client.instance("nobody").await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        client.instance("../x").await.unwrap_err().kind(),
        Kind::NotFound
    );

    let saved = client.save().await.unwrap();
    assert_eq!(
        client.load(saved.clone()).await.unwrap_err().kind(),
        Kind::Conflict
    );
    client.reset().await.unwrap();
    assert!(client.instances().await.unwrap().is_empty());
    client.load(saved).await.unwrap();
    let again = client.instances().await.unwrap();
    assert_eq!(again.len(), 2);
    assert_eq!(again[1].state, "paused");
    assert_eq!(
        client.load(serde_json::json!({})).await.unwrap_err().kind(),
        Kind::Invalid
    );
    server.stop().await;
}
