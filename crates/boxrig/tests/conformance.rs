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

/// The rack of a server.
fn rack(server: &Server) -> boxrig::convox::Client {
    let env = server.running().unwrap().env();
    boxrig::convox::Client::builder()
        .host(env.get("CONVOX_HOST").unwrap())
        .api_key(env.get("CONVOX_PASSWORD").unwrap())
        .build()
        .unwrap()
}

/// A folder with an app of one service that runs this command.
fn app(server: &Server, command: &str) -> std::path::PathBuf {
    let dir = server.dir().join("app");
    std::fs::create_dir_all(&dir).unwrap();
    let text = format!(
        "services:\n  web:\n    build: .\n    command: {command}\n    termination: {{grace: 1}}\n"
    );
    std::fs::write(dir.join("convox.yml"), text).unwrap();
    std::fs::write(dir.join("Dockerfile"), "FROM boxrig/base\n").unwrap();
    dir
}

fn deploy(dir: std::path::PathBuf) -> boxrig::convox::Deploy {
    boxrig::convox::Deploy::new(dir).create(true).promote(true)
}

/// A rack's app whose service only sleeps, deployed from a folder, as a context that launches one-off processes of it.
async fn convox(server: &Server) -> Connection {
    let env = server.running().unwrap().env();
    let (host, key) = (
        env.get("CONVOX_HOST").unwrap(),
        env.get("CONVOX_PASSWORD").unwrap(),
    );
    let deploy = deploy(app(server, "sleep 3600"));
    rack(server).deploy("web", &deploy).await.unwrap();
    let url = format!("{}/local/boxrig", host.replace("http://", "convox+http://"));
    Connect::new(url.parse().unwrap())
        .name("test")
        .secret(Secret::new(key))
        .image("web/web")
        .open()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn convox_on_the_sandbox() {
    let Some(server) = server(Selection::Sandbox).await else {
        return;
    };
    let connection = convox(&server).await;
    let report = check(&connection).await;
    for held in [
        "output_and_status_are_told_apart",
        "input_is_written_while_it_runs",
        "a_token_launches_once",
        "logs_can_be_read",
    ] {
        assert!(report.holds(held), "{held}: {report}");
    }
    // A snapshot is a release, and restoring rolls back to it.
    let compute = &connection.compute;
    let all: Vec<_> = futures_util::TryStreamExt::try_collect(compute.list(Default::default()))
        .await
        .unwrap();
    let web = all
        .iter()
        .find(|i: &&boxrig::Instance| !i.labels.contains_key(conformance::LABEL))
        .unwrap();
    let spec = boxrig::compute::SnapshotSpec::new().name("before");
    let snapshot = compute
        .snapshot(&web.id, spec)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert!(snapshot.id.starts_with("web/R"), "{snapshot:?}");
    let back = compute
        .restore(&web.id, &snapshot.id)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(back.state, boxrig::compute::State::Running);
    assert_ne!(back.raw["release"], web.raw["release"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_tells_a_crash_loop_and_a_release_that_was_taken_back() {
    let Some(server) = server(Selection::Sandbox).await else {
        return;
    };
    let client = rack(&server);
    let tells = async |words: &str| {
        let begin = std::time::Instant::now();
        loop {
            let why = client.apps().why("a").await.unwrap();
            if why.findings.iter().any(|f| f.to_string().contains(words)) {
                return;
            }
            assert!(begin.elapsed().as_secs() < 120, "{words:?}: {why:?}");
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    // It serves for a moment, and then keeps ending.
    let sound = deploy(app(&server, "sh -c 'sleep 3; exit 9'"));
    let first = client.deploy("a", &sound).await.unwrap();
    tells("ended with code 9; started again in").await;
    // It never serves: the release before it stays.
    let broken = deploy(app(&server, "sh -c 'exit 8'"));
    let e = client.deploy("a", &broken).await.unwrap_err();
    assert!(e.to_string().contains("ended 3 times, with code 8"), "{e}");
    assert_eq!(client.apps().get("a").await.unwrap().release, first.release);
    tells("ended 3 times, with code 8").await;
    server.stop().await;
}
