//! An app from its source to its end, on the engine that runs commands.

use std::path::Path;
use std::time::{Duration, Instant};

use boxrig_engine::Selection;
use boxrig_server::testing::Server;
use boxrig_wire::ws::Frame;
use bytes::Bytes;
use serde_json::Value;

use crate::http::{PATIENCE, Rack, soon};

/// A rack on the sandbox; `None`, with a word, where it cannot run.
pub async fn sandbox() -> Option<Rack> {
    match Server::on(Selection::Sandbox).await {
        Ok(server) => Some(Rack::of(server)),
        Err(e) if std::env::var("BOXRIG_REQUIRE").is_ok_and(|v| v.contains("sandbox")) => {
            panic!("the sandbox is required: {e}")
        }
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

/// A gzip tar of these files.
pub fn source(dir: &Path, files: &[(&str, &str)]) -> Bytes {
    let dir = dir.join(format!("source-{}", files.len()));
    let _ = std::fs::remove_dir_all(&dir);
    for (name, text) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let out = std::process::Command::new("tar")
        .args(["czf", "-", "-C"])
        .arg(&dir)
        .arg(".")
        .output()
        .unwrap();
    assert!(out.status.success());
    out.stdout.into()
}

/// A web server that says which release and process it is.
const SERVER: &str = r#"
import http.server, os, signal, sys, threading, time
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        if self.path == '/health' and os.path.exists('/tmp/sick'):
            return self.send_error(503)
        text = '%s %s\n' % (os.environ['RELEASE'], os.environ.get('GREETING', '-'))
        self.send_response(200)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *a): pass
if os.environ.get('SICK'): open('/tmp/sick', 'w').close()
s = http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), H)
def stop(*a): threading.Thread(target=s.shutdown).start()
signal.signal(signal.SIGTERM, stop)
print('serving', os.environ['RELEASE'], flush=True)
s.serve_forever()
"#;

const MANIFEST: &str = "
services:
  web:
    build: .
    port: 3000
    health: /health
    environment: [GREETING=hello]
    scale: {count: 1, memory: 128}
    termination: {grace: 5}
  worker:
    build: .
    command: sh -c 'while :; do echo tick; sleep 0.2; done'
    termination: {grace: 1}
timers:
  report:
    schedule: '* * * * *'
    command: sh -c 'echo it is time'
    service: worker
";

const DOCKERFILE: &str = "FROM boxrig/base
WORKDIR /app
COPY server.py .
RUN echo built > /app/mark
ENV FROM_IMAGE=yes
CMD [\"python3\", \"server.py\"]
";

pub const FILES: [(&str, &str); 3] = [
    ("convox.yml", MANIFEST),
    ("Dockerfile", DOCKERFILE),
    ("server.py", SERVER),
];

impl Rack {
    /// Uploads a source and builds it; gives the build when it has ended.
    pub async fn build(&self, app: &str, files: &[(&str, &str)]) -> Value {
        let tgz = source(self.server.dir(), files);
        let kept = self
            .ask("POST", &format!("/apps/{app}/objects/tmp/s.tgz"), &[], tgz)
            .await
            .with(200)
            .json();
        let url = kept["Url"].as_str().unwrap().replace('/', "%2F");
        let made = self
            .form(
                "POST",
                &format!("/apps/{app}/builds"),
                &format!("url={url}"),
            )
            .await
            .with(200)
            .json();
        assert_eq!(made["status"], "running");
        let path = format!("/apps/{app}/builds/{}", made["id"].as_str().unwrap());
        self.until(&path, |b| b["status"] != "running").await
    }

    /// Asks until an answer is as wanted.
    pub async fn until(&self, path: &str, is: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let answer = self.get(path).await;
            if answer.status == 200 {
                let now = answer.json();
                if is(&now) {
                    return now;
                }
                assert!(begin.elapsed() < PATIENCE, "{path} stays {now}");
            } else {
                assert!(begin.elapsed() < PATIENCE, "{path}: {answer:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Promotes a release and waits until the app is running again; gives the app.
    pub async fn promote(&self, app: &str, release: &str) -> Value {
        self.form(
            "POST",
            &format!("/apps/{app}/releases/{release}/promote"),
            "",
        )
        .await
        .with(200);
        self.until(&format!("/apps/{app}"), |a| a["status"] == "running")
            .await
    }

    pub async fn processes(&self, app: &str, service: &str) -> Vec<Value> {
        let path = format!("/apps/{app}/processes?service={service}");
        self.get(&path)
            .await
            .with(200)
            .json()
            .as_array()
            .unwrap()
            .clone()
    }

    /// Runs a command over a socket; gives its output and code.
    pub async fn exec(
        &self,
        app: &str,
        process: &str,
        command: &str,
        stdin: Option<&str>,
    ) -> (String, i32) {
        let path = format!("/apps/{app}/processes/{process}/exec");
        let headers = [("command", command), ("Tty", "false")];
        let mut talk = self.socket(&path, &headers).await;
        if let Some(text) = stdin {
            talk.0.send(Frame::text(text.to_owned())).await.unwrap();
            talk.0.send(Frame::binary(Bytes::new())).await.unwrap();
        }
        let mut frames = talk.frames().await;
        // The trailer has a frame of its own; the rack's words come after it.
        let mut words = Bytes::new();
        if frames.last().unwrap().starts_with(b"ERROR: ") {
            words = frames.pop().unwrap();
        }
        let trailer = frames.pop().unwrap();
        frames.push(words);
        let text = String::from_utf8_lossy(&trailer).into_owned();
        let code = text
            .strip_prefix("F1E49A85-0AD7-4AEF-A618-C249C6E6568D:")
            .and_then(|t| t.strip_suffix('\n'))
            .unwrap_or_else(|| panic!("no trailer: {text:?} after {frames:?}"));
        let output = String::from_utf8_lossy(&frames.concat()).into_owned();
        (output, code.parse().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_source_to_end() {
    let Some(rack) = sandbox().await else { return };
    rack.form("POST", "/apps", "name=shop").await.with(200);
    let build = rack.build("shop", &FILES).await;
    assert_eq!(build["status"], "complete", "{build}");
    assert_eq!(build["manifest"], MANIFEST);
    let release = build["release"].as_str().unwrap();
    let id = build["id"].as_str().unwrap();
    let mut log = rack
        .socket(&format!("/apps/shop/builds/{id}/logs"), &[])
        .await;
    let log = log.text().await;
    assert!(
        log.contains("RUN echo built") && log.contains("Build complete"),
        "{log}"
    );

    let app = rack.promote("shop", release).await;
    assert_eq!(app["release"], release, "{app}");
    let web = rack.processes("shop", "web").await;
    assert_eq!(web.len(), 1, "{web:?}");
    assert_eq!(web[0]["status"], "running");
    assert_eq!(web[0]["ports"], serde_json::json!(["3000"]));
    let services = rack.get("/apps/shop/services").await.json();
    assert_eq!(services[0]["domain"], "web.shop.localhost");
    assert_eq!(
        (&services[0]["memory"], &services[1]["memory"]),
        (&128.into(), &512.into())
    );

    // Commands: output, code, input, the image's folder and variables.
    let pid = web[0]["id"].as_str().unwrap();
    let (out, code) = rack
        .exec(
            "shop",
            pid,
            "sh -c 'cat mark; echo $FROM_IMAGE $GREETING $SERVICE; exit 7'",
            None,
        )
        .await;
    assert_eq!((out.as_str(), code), ("built\nyes hello web\n", 7));
    assert_eq!(
        rack.exec("shop", "web", "cat", Some("in\u{0}put")).await,
        ("in\u{0}put".to_owned(), 0)
    );
    let (out, code) = rack.exec("shop", pid, "no-such-command", None).await;
    assert_eq!(code, 127, "{out}");

    // The worker's log, followed, with and without a prefix.
    let mut talk = rack
        .socket("/apps/shop/services/worker/logs", &[("Since", "1m")])
        .await;
    let mut seen = String::new();
    while seen.matches("tick").count() < 5 {
        match talk.0.next().await.unwrap().unwrap() {
            Frame::Data {
                payload,
                text: true,
                ..
            } => seen.push_str(&String::from_utf8_lossy(&payload)),
            other => panic!("{other:?}"),
        }
    }
    let first = seen.lines().next().unwrap();
    let parts: Vec<_> = first.splitn(3, ' ').collect();
    assert!(
        parts[0].ends_with('Z') && parts[1].starts_with("service/worker/worker-"),
        "{first}"
    );
    drop(talk);
    let mut talk = rack
        .socket(
            "/apps/shop/logs",
            &[
                ("Follow", "false"),
                ("Prefix", "false"),
                ("Tail", "1"),
                ("Filter", "serving"),
            ],
        )
        .await;
    assert_eq!(talk.text().await, format!("serving {release}\n"));

    // Scale, by hand, and limits that the kernel has.
    rack.form("PUT", "/apps/shop/services/web", "count=3&memory=96")
        .await
        .with(200);
    let three = |p: &Value| {
        let all = p.as_array().unwrap();
        all.len() == 3 && all.iter().all(|p| p["status"] == "running")
    };
    rack.until("/apps/shop/processes?service=web", three).await;
    assert_eq!(rack.get("/apps/shop/services").await.json()[0]["count"], 3);
    rack.form("PUT", "/apps/shop/services/web", "count=1")
        .await
        .with(200);
    rack.until("/apps/shop/processes?service=web", |p| {
        p.as_array().unwrap().len() == 1
    })
    .await;
    rack.form("PUT", "/apps/shop/services/nope", "count=1")
        .await
        .with(404);

    // A run of its own.
    let run = rack
        .ask(
            "POST",
            "/apps/shop/services/web/processes",
            &[("Command", "sh -c 'echo ran $RELEASE; exit 3'")],
            "",
        )
        .await
        .with(200)
        .json();
    let path = format!("/apps/shop/processes/{}", run["id"].as_str().unwrap());
    rack.until(&path, |p| p["status"] == "failed").await;
    let mut talk = rack.socket(&format!("{path}/logs"), &[]).await;
    assert_eq!(talk.text().await, format!("ran {release}\n"));
    rack.ask("DELETE", &path, &[], "").await.with(200);

    // Another environment; then back to the first.
    let second = rack
        .form("POST", "/apps/shop/releases", "env=GREETING%3Dbonjour")
        .await
        .with(200)
        .json();
    let second = second["id"].as_str().unwrap();
    let app = rack.promote("shop", second).await;
    assert_eq!(app["release"], second);
    let (out, _) = rack
        .exec("shop", "web", "sh -c 'echo $GREETING'", None)
        .await;
    assert_eq!(out, "bonjour\n");
    let older = rack
        .form(
            "POST",
            &format!("/apps/shop/releases/{release}/promote"),
            "",
        )
        .await
        .with(400);
    assert_eq!(
        older.text(),
        "can not promote an older release, try rollback\n"
    );
    let back = rack
        .form(
            "POST",
            "/apps/shop/releases",
            &format!("parent-release={release}&build={id}"),
        )
        .await
        .with(200)
        .json();
    let back = back["id"].as_str().unwrap();
    rack.promote("shop", back).await;
    let (out, _) = rack
        .exec("shop", "web", "sh -c 'echo $GREETING'", None)
        .await;
    assert_eq!(out, "hello\n");

    // A restart gives new processes, one stopped by hand too.
    let old = rack.processes("shop", "web").await[0]["id"].clone();
    rack.ask("POST", "/apps/shop/services/web/restart", &[], "")
        .await
        .with(200);
    let other = |p: &Value| {
        p.as_array().unwrap().len() == 1 && p[0]["id"] != old && p[0]["status"] == "running"
    };
    let now = rack.until("/apps/shop/processes?service=web", other).await;
    let old = now[0]["id"].as_str().unwrap().to_owned();
    rack.ask("DELETE", &format!("/apps/shop/processes/{old}"), &[], "")
        .await
        .with(200);
    let other = |p: &Value| {
        p.as_array().unwrap().len() == 1
            && p[0]["id"] != old.as_str()
            && p[0]["status"] == "running"
    };
    rack.until("/apps/shop/processes?service=web", other).await;

    // The end leaves nothing in the engine.
    rack.ask("DELETE", "/apps/shop", &[], "").await.with(200);
    soon("the app is gone", async || {
        rack.get("/apps/shop").await.status == 404
    })
    .await;
    let core = rack.server.running().unwrap().core().clone();
    assert_eq!(core.engine.list().await.unwrap().len(), 0);
    rack.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_releases_are_taken_back() {
    let Some(rack) = sandbox().await else { return };
    rack.form("POST", "/apps", "name=a").await.with(200);
    // Broken sources: the reason, with its line.
    for (files, words) in [
        (
            &[("Dockerfile", "FROM scratch\n")][..],
            "the source has no convox.yml",
        ),
        (
            &[("convox.yml", "services:\n  web:\n    port: no\n")],
            "convox.yml:3: invalid port",
        ),
        (
            &[("convox.yml", "services:\n  web:\n    build: .\n")],
            "Dockerfile",
        ),
        (
            &[("convox.yml", "services:\n  web:\n    build: ../..\n")],
            "the source has no folder",
        ),
        (
            &[("convox.yml", "services:\n  web:\n    image: nginx\n")],
            "no image \"nginx\"",
        ),
        (
            &[
                ("convox.yml", "services:\n  web:\n    build: .\n"),
                ("Dockerfile", "FROM boxrig/base\nRUN exit 3\n"),
            ],
            "Dockerfile:2",
        ),
    ] {
        let build = rack.build("a", files).await;
        assert_eq!(build["status"], "failed", "{build}");
        assert_eq!(build["release"], "");
        let reason = build["reason"].as_str().unwrap();
        assert!(reason.contains(words), "{reason}");
        let id = build["id"].as_str().unwrap();
        let mut talk = rack.socket(&format!("/apps/a/builds/{id}/logs"), &[]).await;
        assert!(talk.text().await.contains(words));
    }
    let good = rack.build("a", &FILES).await;
    let release = good["release"].as_str().unwrap();
    rack.promote("a", release).await;
    let before = rack.processes("a", "web").await[0]["id"].clone();

    // One that never becomes healthy.
    let sick = rack
        .form("POST", "/apps/a/releases", "env=SICK%3D1")
        .await
        .json();
    let sick = sick["id"].as_str().unwrap();
    rack.form(
        "POST",
        &format!("/apps/a/releases/{sick}/promote"),
        "timeout=4",
    )
    .await
    .with(200);
    let busy = rack
        .form("POST", &format!("/apps/a/releases/{sick}/promote"), "")
        .await
        .with(403);
    assert_eq!(busy.text(), "app is currently updating\n");
    let app = rack.until("/apps/a", |a| a["status"] == "running").await;
    assert_eq!(app["release"], release, "the old release serves");
    let now = rack.processes("a", "web").await;
    assert_eq!(
        (now.len(), &now[0]["id"]),
        (1, &before),
        "by the same process"
    );
    let mut talk = rack
        .socket(
            "/apps/a/logs",
            &[("Follow", "false"), ("Filter", "taken back")],
        )
        .await;
    let log = talk.text().await;
    assert!(
        log.contains("GET /health on port 3000 answers 503"),
        "{log}"
    );

    // One that keeps ending.
    let files = [(
        "convox.yml",
        "services:\n  web:\n    image: boxrig/base\n    command: sh -c 'echo oops; exit 9'\n",
    )];
    let build = rack.build("a", &files).await;
    let crash = build["release"].as_str().unwrap();
    let app = rack.promote("a", crash).await;
    assert_eq!(app["release"], release);
    let mut talk = rack
        .socket(
            "/apps/a/logs",
            &[("Follow", "false"), ("Filter", "taken back")],
        )
        .await;
    let log = talk.text().await;
    assert!(log.contains("ended 3 times, with code 9"), "{log}");

    // One that is cancelled.
    rack.form("POST", &format!("/apps/a/releases/{crash}/promote"), "")
        .await
        .with(200);
    rack.ask("POST", "/apps/a/cancel", &[], "").await.with(200);
    let app = rack.until("/apps/a", |a| a["status"] == "running").await;
    assert_eq!(app["release"], release);
    rack.server.stop().await;
}
