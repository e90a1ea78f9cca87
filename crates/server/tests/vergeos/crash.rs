//! `kill -9` in the middle of 64 clients' writes, two of them to one row: what was acknowledged is there.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use boxrig_engine::Selection;
use boxrig_server::config::ServerConfig;
use boxrig_server::serve::Server;
use boxrig_wire::{BaseUrl, CallOptions, Caller, RawBody, RawRequest};
use http::Method;
use http::header::HeaderValue;
use serde_json::{Value, json};

use super::api::basic;

const DIR: &str = "BOXRIG_TEST_VERGEOS_DIR";
const PASSWORD: &str = "BOXRIG_SERVE_PASSWORD";
const CLIENTS: usize = 64;
/// Killed after this many acknowledgements.
const ACKS: u64 = 600;

fn config(dir: &Path) -> ServerConfig {
    let mut config = ServerConfig::new(dir.join("data"))
        .listen(([127, 0, 0, 1], 0).into())
        .engine(Selection::Memory);
    config.env_file = Some(dir.join("env"));
    config
}

/// The process that is killed; run by the test below.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let _running = Server::start(config(Path::new(&dir))).await.unwrap();
        std::future::pending::<()>().await;
    });
}

fn variable(env: &str, name: &str) -> String {
    let line = env
        .lines()
        .find_map(|l| l.strip_prefix(&format!("{name}=")));
    line.unwrap().trim_matches(['"', '\'']).to_owned()
}

fn caller(env: &str) -> Caller {
    let transport = boxrig_transport::Http::builder().build().unwrap();
    let (name, value) = basic("admin", &variable(env, "VERGE_PASSWORD"));
    let headers = http::HeaderMap::from_iter([(name, HeaderValue::from_str(&value).unwrap())]);
    let base = BaseUrl::parse(&variable(env, "BOXRIG_URL")).unwrap();
    Caller::new(Arc::new(transport), base).with_headers(headers)
}

async fn ask(caller: &Caller, method: Method, path: &str, body: Value) -> Option<(u16, Value)> {
    let request = RawRequest::new(method, format!("/api/v4/{path}"))
        .body(RawBody::Json(body))
        .options(CallOptions::new().retries(0));
    let (parts, body) = caller.raw_stream(request).await.ok()?.into_parts();
    let bytes = body.collect(64 << 20).await.ok()?;
    let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Some((parts.status.as_u16(), value))
}

/// What clients were told before the server died.
#[derive(Default)]
struct Told {
    names: Mutex<Vec<String>>,
    /// The last number each of two writers was told is saved in its column of the one row.
    last: [AtomicU64; 2],
    acks: AtomicU64,
}

/// Gives how many acknowledged things are missing.
fn round(commit: bool) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["crash::child", "--exact", "--nocapture"])
        .env(DIR, dir.path())
        .env_remove(PASSWORD)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !commit {
        command.env("BOXRIG_FAULT_NO_COMMIT", "1");
    }
    let mut child = command.spawn().unwrap();
    let env_file = dir.path().join("env");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !env_file.exists() {
        assert!(Instant::now() < deadline, "the server does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let env = std::fs::read_to_string(&env_file).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let told = Arc::new(Told::default());
    runtime.block_on(async {
        let caller = caller(&env);
        let one = ask(
            &caller,
            Method::POST,
            "tag_categories",
            json!({ "name": "one" }),
        )
        .await;
        assert_eq!(one.unwrap().0, 201);
        let tasks: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (caller, told) = (caller.clone(), told.clone());
                tokio::spawn(async move {
                    for n in 1.. {
                        let sent = match client {
                            // Two writers of one row, each a column of its own.
                            0 => {
                                let body = json!({ "description": n.to_string() });
                                ask(&caller, Method::PUT, "tag_categories/1", body).await
                            }
                            1 => {
                                let body = json!({ "name": format!("one-{n}") });
                                ask(&caller, Method::PUT, "tag_categories/1", body).await
                            }
                            _ => {
                                let body = json!({ "name": format!("c{client}-{n}") });
                                ask(&caller, Method::POST, "tag_categories", body).await
                            }
                        };
                        let Some((status, _)) = sent else { return };
                        assert!(matches!(status, 200 | 201), "{status}");
                        match client {
                            0 | 1 => told.last[client].store(n, Ordering::SeqCst),
                            _ => told.names.lock().unwrap().push(format!("c{client}-{n}")),
                        }
                        told.acks.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        while told.acks.load(Ordering::SeqCst) < ACKS {
            assert!(Instant::now() < deadline, "the writes do not come about");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
        for task in tasks {
            task.await.unwrap();
        }

        let running = Server::start(config(dir.path())).await.unwrap();
        let env = std::fs::read_to_string(&env_file).unwrap();
        let caller = self::caller(&env);
        let fields = "tag_categories?fields=$key,name,description";
        let (status, rows) = ask(&caller, Method::GET, fields, json!({})).await.unwrap();
        assert_eq!(status, 200);
        let rows = rows.as_array().unwrap();
        let names: BTreeSet<&str> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
        let told_names = told.names.lock().unwrap().clone();
        let mut lost = told_names
            .iter()
            .filter(|n| !names.contains(n.as_str()))
            .count();
        let one = rows.iter().find(|r| r["$key"] == 1);
        // The last that was acknowledged, or the one on its way then.
        let at_least = |value: Option<&str>, told: u64| {
            value.and_then(|v| v.parse::<u64>().ok()).unwrap_or(0) >= told
        };
        let description = one.and_then(|r| r["description"].as_str());
        let name = one
            .and_then(|r| r["name"].as_str())
            .and_then(|n| n.strip_prefix("one-"));
        let last = told.last.each_ref().map(|n| n.load(Ordering::SeqCst));
        lost += usize::from(!at_least(description, last[0]));
        lost += usize::from(!at_least(name, last[1]));
        running.shutdown().await;
        lost
    })
}

#[test]
fn nothing_acknowledged_is_lost() {
    assert_eq!(round(true), 0);
}

/// The same test finds a loss when there is one.
#[test]
fn without_commits_it_is_found() {
    assert!(round(false) > 0);
}
