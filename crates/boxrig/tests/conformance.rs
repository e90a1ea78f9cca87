//! The conformance suite of the compute API, on the backends and engines there are.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use boxrig::compute::{Capability, conformance};
use boxrig::wire::{Kind, Secret};
use boxrig::{Connect, Connection};
use boxrig_engine::Selection;
use boxrig_server::testing::Server;

/// A server on an engine; `None`, said aloud, where the engine cannot run.
async fn server(engine: Selection) -> Option<Server> {
    match Server::on(engine).await {
        Ok(server) => Some(server),
        Err(e) if e.kind == Kind::Unsupported => {
            let required = std::env::var("BOXRIG_REQUIRE").is_ok_and(|v| v == "sandbox");
            assert!(!required, "{e}");
            println!("skipped: conformance on {engine:?}: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

async fn local(server: &Server) -> Connection {
    Connect::local(server.socket())
        .name("test")
        .open()
        .await
        .unwrap()
}

async fn fastvm(server: &Server) -> Connection {
    let url = server.url().replace("http://", "fastvm+http://");
    Connect::new(url.parse().unwrap())
        .name("test")
        .secret(Secret::new(server.api_key()))
        .open()
        .await
        .unwrap()
}

async fn check(connection: &Connection) -> conformance::Report {
    let report = conformance::run(&*connection.compute).await;
    println!("{report}");
    assert!(report.passed(), "{report}");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn local_on_the_sandbox() {
    let Some(server) = server(Selection::Sandbox).await else {
        return;
    };
    let connection = local(&server).await;
    let report = check(&connection).await;
    assert!(report.holds("a_terminal_has_its_size"));
    assert!(report.holds("a_snapshot_brings_files_back"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fastvm_on_the_sandbox() {
    let Some(server) = server(Selection::Sandbox).await else {
        return;
    };
    let connection = fastvm(&server).await;
    let report = check(&connection).await;
    assert!(report.holds("much_output_is_whole"));
    assert!(report.holds("a_token_launches_once"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_on_plain_processes() {
    let Some(server) = server(Selection::Process).await else {
        return;
    };
    check(&local(&server).await).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_on_the_simulation() {
    let server = server(Selection::Memory).await.unwrap();
    let connection = local(&server).await;
    assert!(!connection.compute.capabilities().has(Capability::Exec));
    let report = check(&connection).await;
    assert!(report.holds("paused_and_resumed"));
    server.stop().await;
}
