//! Releases and what is made of them: environment, rollback, waiting, reasons, deployment.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use boxrig_convox::ops::builds::BuildCreateForm;
use boxrig_convox::{Deploy, DeployEvent, EnvChange, Variables, Wait};
use boxrig_wire::Kind;
use common::{Answer, End, Rack, Seen, json, ok, reply, says};
use serde_json::{Value, json as j};

/// A rack of one app with releases, the newest first: id, build, environment.
#[derive(Default)]
struct App {
    status: Vec<&'static str>,
    active: String,
    releases: Vec<(String, String, String)>,
    promoted: Vec<String>,
    /// Releases that others make right before the next ones of ours.
    others: Vec<(String, String, String)>,
    /// Whether promotions fail.
    fails: bool,
}

fn form(seen: &Seen, name: &str) -> Option<String> {
    let text = seen.text();
    let pair = text
        .split('&')
        .find_map(|p| p.strip_prefix(&format!("{name}=")))?
        .to_owned();
    Some(
        percent_encoding::percent_decode_str(&pair)
            .decode_utf8()
            .unwrap()
            .into_owned(),
    )
}

fn release((id, build, env): &(String, String, String)) -> Value {
    j!({"id": id, "app": "web", "build": build, "env": env, "created": "2026-01-01T00:00:00Z"})
}

fn answer(app: &mut App, seen: &Seen) -> Answer {
    let path = seen.path().to_owned();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match (&*seen.method, &parts[..]) {
        ("GET", ["apps", "web"]) => {
            let status = if app.status.len() > 1 {
                app.status.remove(0)
            } else {
                app.status.first().copied().unwrap_or("running")
            };
            json(j!({"name": "web", "status": status, "release": app.active}))
        }
        ("GET", ["apps", "web", "releases"]) => json(app.releases.iter().map(release).collect()),
        ("GET", ["apps", "web", "releases", id]) => {
            match app.releases.iter().find(|r| r.0 == *id) {
                Some(found) => json(release(found)),
                None => reply(404, "no such release\n"),
            }
        }
        ("POST", ["apps", "web", "releases"]) => {
            if !app.others.is_empty() {
                let other = app.others.remove(0);
                app.releases.insert(0, other);
            }
            let build = form(seen, "build")
                .unwrap_or_else(|| app.releases.first().map_or(String::new(), |r| r.1.clone()));
            let made = (
                format!("N{}", app.releases.len()),
                build,
                form(seen, "env").unwrap_or_default(),
            );
            app.releases.insert(0, made);
            json(release(&app.releases[0]))
        }
        ("POST", ["apps", "web", "releases", id, "promote"]) => {
            if app.releases[0].0 != *id {
                return reply(400, "can not promote an older release\n");
            }
            app.promoted.push((*id).to_owned());
            if app.fails {
                app.status = vec!["updating", "rollback", "running"];
            } else {
                app.status = vec!["updating", "updating", "running"];
                app.active = (*id).to_owned();
            }
            ok()
        }
        _ => reply(501, "not here\n"),
    }
}

fn rack(app: App) -> (Rack, Arc<Mutex<App>>) {
    let state = Arc::new(Mutex::new(app));
    let shared = state.clone();
    (
        Rack::new(move |seen| answer(&mut shared.lock().unwrap(), seen)),
        state,
    )
}

fn three(id: &str, build: &str, env: &str) -> (String, String, String) {
    (id.to_owned(), build.to_owned(), env.to_owned())
}

fn soon() -> Wait {
    Wait::default()
        .timeout(Duration::from_secs(5))
        .poll(Duration::from_millis(5))
}

/// Defect 6: the vendor's SDK merges into the active release, so the first of two changes is lost.
#[tokio::test]
async fn changes_go_on_top_of_the_newest_release() {
    let (rack, state) = rack(App {
        active: "R1".into(),
        releases: vec![
            three("R2", "B2", "A=1\nB=x=y\n"),
            three("R1", "B1", "A=0\n"),
        ],
        ..App::default()
    });
    let client = rack.client();
    let env = client.environment();
    assert_eq!(env.get("web").await.unwrap().get("B").unwrap(), "x=y");
    assert_eq!(env.active("web").await.unwrap().get("A").unwrap(), "0");
    env.set("web", [("C", "3"), ("D", "#4")]).await.unwrap();
    let made = env.unset("web", &["A"]).await.unwrap();
    assert_eq!(made.env.expose(), "B=x=y\nC=3\nD=#4\n");
    assert!(state.lock().unwrap().promoted.is_empty());
    let change = EnvChange::new().set("E", "5").unset("B").promote();
    let made = env.change("web", change).await.unwrap();
    assert_eq!(state.lock().unwrap().promoted, [made.id]);
    let made = env
        .change("web", EnvChange::new().set("ONLY", "1").replace())
        .await
        .unwrap();
    assert_eq!(made.env.expose(), "ONLY=1\n");
    let e = env
        .change("web", EnvChange::new().set("X", "1").of("R2"))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Precondition);
    assert!(!format!("{:?}", env.get("web").await.unwrap()).contains('1'));
}

#[tokio::test]
async fn a_release_that_came_between_is_not_lost() {
    let (rack, _) = rack(App {
        releases: vec![three("R1", "B1", "A=0\n")],
        others: vec![three("O1", "B1", "A=0\nTHEIRS=1\n")],
        ..App::default()
    });
    let made = rack
        .client()
        .environment()
        .set("web", [("OURS", "1")])
        .await
        .unwrap();
    assert_eq!(made.env.expose(), "A=0\nOURS=1\nTHEIRS=1\n");

    // Two of them, one of which takes away and changes what ours changes too.
    let (rack, _) = self::rack(App {
        releases: vec![three("R1", "B1", "A=0\nB=0\nC=0\n")],
        others: vec![
            three("O1", "B1", "B=1\nC=1\n"),
            three("O2", "B1", "B=1\nC=1\nD=1\n"),
        ],
        ..App::default()
    });
    let change = EnvChange::new().set("C", "ours").set("E", "1");
    let made = rack
        .client()
        .environment()
        .change("web", change)
        .await
        .unwrap();
    assert_eq!(made.env.expose(), "B=1\nC=ours\nD=1\nE=1\n");

    let others = (0..9).map(|n| three(&format!("O{n}"), "B1", "")).collect();
    let (rack, state) = self::rack(App {
        releases: vec![three("R1", "B1", "")],
        others,
        ..App::default()
    });
    let e = rack
        .client()
        .environment()
        .change("web", EnvChange::new().set("A", "1").promote())
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    assert!(state.lock().unwrap().promoted.is_empty());
}

/// Defect 11: there a value of two lines silently becomes two variables.
#[tokio::test]
async fn a_line_break_is_refused_before_anything_is_sent() {
    let (rack, _) = rack(App::default());
    let client = rack.client();
    for (key, value) in [
        ("A", "two\nlines"),
        ("A", "cr\r"),
        ("A=B", "1"),
        ("", "1"),
        (" A", "1"),
        ("A\n", "1"),
    ] {
        let e = client
            .environment()
            .set("web", [(key, value)])
            .await
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid, "{key:?}");
        assert!(!format!("{e}").contains("lines"), "the value is not shown");
    }
    assert!(rack.seen().is_empty());
    // What racks keep is kept: `#` is no comment, `=` is part of a value.
    let vars = Variables::parse("#A=1\nB==\n=x\nno\n");
    assert_eq!(vars.to_lines().unwrap().expose(), "#A=1\nB==\n");
}

/// Defect 5: there the old release itself is promoted, which racks refuse.
#[tokio::test]
async fn a_rollback_is_a_new_release_of_the_old_one() {
    let (rack, state) = rack(App {
        active: "R2".into(),
        releases: vec![
            three("R2", "B2", "A=2\n"),
            three("R1", "B1", "A=1\n"),
            three("R0", "", ""),
        ],
        ..App::default()
    });
    let client = rack.client();
    let made = client.releases().rollback("web", "R1").await.unwrap();
    assert_eq!((&*made.build, made.env.expose()), ("B1", "A=1\n"));
    assert_eq!(
        state.lock().unwrap().promoted.as_slice(),
        std::slice::from_ref(&made.id)
    );
    assert_eq!(
        client.apps().settle("web", soon()).await.unwrap().release,
        made.id
    );
    assert_eq!(
        client
            .releases()
            .rollback("web", "R0")
            .await
            .unwrap_err()
            .kind(),
        Kind::Invalid
    );
    assert_eq!(
        client
            .releases()
            .rollback("web", "none")
            .await
            .unwrap_err()
            .kind(),
        Kind::NotFound
    );
    let e = client.releases().promote("web", "R1").await.unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid);
}

#[tokio::test]
async fn waiting_ends_with_the_release_or_the_reason() {
    let app = |fails| App {
        releases: vec![three("R2", "B2", ""), three("R1", "B1", "")],
        active: "R1".into(),
        fails,
        ..App::default()
    };
    let (rack, _) = rack(app(false));
    let client = rack.client();
    let done = client
        .releases()
        .promote_and_wait("web", "R2", Default::default(), soon())
        .await
        .unwrap();
    assert_eq!((&*done.status, &*done.release), ("running", "R2"));

    let (rack, _) = self::rack(app(true));
    let client = rack.client();
    let e = client
        .releases()
        .promote_and_wait("web", "R2", Default::default(), soon())
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Failed);
    assert!(e.to_string().contains("R1, not R2"), "{e}");
    assert!(e.hint().unwrap().contains("boxrig why web"));

    // The reason is in the error of a wait that does not end.
    let rack = Rack::new(|seen| match seen.path() {
        "/apps/web" => json(j!({"name": "web", "status": "updating", "release": "R1"})),
        "/apps/web/services" => json(j!([{"name": "api", "count": 3}])),
        "/apps/web/processes" => json(
            j!([{"id": "p1", "service": "api", "status": "running"}, {"id": "p2", "service": "api", "status": "crashed"}]),
        ),
        _ => reply(501, "not here\n"),
    });
    let wait = soon().timeout(Duration::from_millis(50));
    let e = rack.client().apps().settle("web", wait).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Timeout);
    assert!(
        e.to_string().contains("service api: 1 of 3 processes run"),
        "{e}"
    );
    assert!(
        e.to_string().contains("process p2 of api: it is crashed"),
        "{e}"
    );
    let rack = Rack::new(|_| reply(404, "no such app\n"));
    rack.client().apps().gone("web", soon()).await.unwrap();
}

#[tokio::test]
async fn why_puts_together_what_is_said_in_several_places() {
    let rack = Rack::new(|seen| match seen.path() {
        "/apps/web" => {
            json(j!({"name": "web", "status": "running", "release": "", "locked": true}))
        }
        "/apps/web/services" => json(j!([{"name": "api", "count": 1}])),
        "/apps/web/builds" => json(
            j!([{"id": "B9", "app": "web", "status": "failed", "reason": "exit code 1\u{1b}[2J"}]),
        ),
        "/apps/web/releases" => json(j!([{"id": "R1"}])),
        "/apps/web/diagnose" => json(j!({
            "overview": {"services": [{"name": "api", "stallReason": "no memory"}], "events": [{"type": "Warning", "object": "pod/x", "reason": "Failed", "message": "m"}]},
            "pods": [{"name": "x", "classification": "unhealthy", "stateDetail": "CrashLoopBackOff", "restarts": 7, "hint": "look at its log"}],
        })),
        "/apps/web/logs" => says(
            vec!["2026-01-01T00:00:01Z service/api/x boom\n".into()],
            End::Mark,
        ),
        _ => json(Value::Null),
    });
    let why = rack.client().apps().why("web").await.unwrap();
    let problems: Vec<String> = why.problems().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "app: no release is active; the newest is R1",
            "build B9: the last build failed: exit code 1\\u{1b}[2J",
            "service api: 0 of 1 processes run",
            "service api: no memory",
            "process x: unhealthy, CrashLoopBackOff, restarted 7 times",
        ]
    );
    assert_eq!(
        why.findings.len(),
        problems.len() + 2,
        "the lock and the event are no problems"
    );
    assert_eq!(why.log[0].raw(), "2026-01-01T00:00:01Z service/api/x boom");
    let healthy = Rack::new(|seen| match seen.path() {
        "/apps/web" => json(j!({"name": "web", "status": "running", "release": "R1"})),
        "/apps/web/services" => json(j!([{"name": "api", "count": 1}])),
        "/apps/web/processes" => json(j!([{"id": "p", "name": "api", "status": "running"}])),
        "/apps/web/releases" => json(j!([{"id": "R1"}])),
        "/apps/web/logs" => says(Vec::new(), End::Mark),
        "/apps/web/diagnose" => no_route(),
        _ => json(Value::Null),
    });
    let why = healthy.client().apps().why("web").await.unwrap();
    assert!(why.findings.is_empty(), "{why:?}");
}

/// As a rack answers that has no such route.
fn no_route() -> Answer {
    let mut r = reply(404, "");
    r.headers_mut().clear();
    r
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = dir.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    write("convox.yml", "services:\n  api:\n    build: .\n");
    write("Dockerfile", "FROM scratch\n");
    write("src/main.c", &"int main(void);\n".repeat(10_000));
    write("secret.env", "canary");
    write(".dockerignore", "*.env\nDockerfile\nconvox.yml\n");
    dir
}

#[tokio::test]
async fn a_folder_becomes_a_running_release() {
    let uploaded = Arc::new(Mutex::new(Vec::new()));
    let (kept, polls) = (uploaded.clone(), Arc::new(Mutex::new(0)));
    let rack = Rack::new(move |seen| match (&*seen.method, seen.path()) {
        ("GET", "/apps/web") => json(j!({"name": "web", "status": "running", "release": "R1"})),
        ("POST", path) if path.starts_with("/apps/web/objects/tmp/") => {
            let mut uploads = kept.lock().unwrap();
            uploads.push(seen.clone());
            // The first one breaks.
            if uploads.len() == 1 {
                return reply(503, "later\n");
            }
            json(j!({"Url": "object://web/tmp/x.tgz"}))
        }
        ("POST", "/apps/web/builds") => json(j!({"id": "B1", "status": "running"})),
        ("GET", "/apps/web/builds/B1/logs") => {
            says(vec!["step 1\nste".into(), "p 2\n".into()], End::Mark)
        }
        ("GET", "/apps/web/builds/B1") => {
            let mut polls = polls.lock().unwrap();
            *polls += 1;
            let status = if *polls < 3 { "running" } else { "complete" };
            json(j!({"id": "B1", "status": status, "release": "R1"}))
        }
        ("GET", "/apps/web/logs") => says(
            vec!["2026-01-01T00:00:01Z service/api/x up\n".into()],
            End::Silence,
        ),
        ("POST", "/apps/web/releases/R1/promote") => ok(),
        other => panic!("{other:?}"),
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    let dir = folder();
    let build = BuildCreateForm {
        description: Some("v1".into()),
        ..Default::default()
    };
    let deploy = Deploy::new(dir.path())
        .build(build)
        .promote(true)
        .wait(soon())
        .on_event(move |event| {
            let text = match event {
                DeployEvent::Sending { .. } => return,
                DeployEvent::Sent {
                    entries, left_out, ..
                } => format!("sent {entries} {left_out}"),
                DeployEvent::Building { build } => format!("building {build}"),
                DeployEvent::BuildLog(line) => {
                    format!("build: {}", String::from_utf8_lossy(&line.text()))
                }
                DeployEvent::Built { build, release } => format!("built {build} {release}"),
                DeployEvent::Promoting { release } => format!("promoting {release}"),
                DeployEvent::AppLog(line) => {
                    format!("app: {}", String::from_utf8_lossy(&line.text()))
                }
                DeployEvent::Promoted { release } => format!("promoted {release}"),
                _ => return,
            };
            tell.lock().unwrap().push(text);
        });
    let deployed = rack.client().deploy("web", &deploy).await.unwrap();
    assert_eq!((&*deployed.build.id, &*deployed.release), ("B1", "R1"));
    assert_eq!(deployed.app.unwrap().release, "R1");
    assert_eq!(
        *told.lock().unwrap(),
        [
            "sent 6 0",
            "building B1",
            "build: step 1",
            "build: step 2",
            "built B1 R1",
            "promoting R1",
            "app: up",
            "promoted R1",
        ]
    );
    let create = rack
        .seen()
        .into_iter()
        .find(|s| s.line() == "POST /apps/web/builds")
        .unwrap();
    assert_eq!(
        create.text(),
        "url=object%3A%2F%2Fweb%2Ftmp%2Fx.tgz&description=v1"
    );

    // What arrived is a whole gzip tar, without what is left out, and never under the name of the broken one.
    let uploads = uploaded.lock().unwrap();
    assert_eq!(uploads.len(), 2);
    assert_ne!(uploads[0].target, uploads[1].target);
    assert_eq!(
        uploads[1].header("content-type").unwrap(),
        "application/octet-stream"
    );
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(&uploads[1].body[..])
        .read_to_end(&mut tar)
        .unwrap();
    let text = String::from_utf8_lossy(&tar);
    for name in ["convox.yml", "Dockerfile", "src/main.c", ".dockerignore"] {
        assert!(text.contains(name), "{name}");
    }
    assert!(!text.contains("canary"));
}

#[tokio::test]
async fn what_is_missing_is_said_before_anything_is_sent() {
    let rack = Rack::new(|seen| match (&*seen.method, seen.path()) {
        ("GET", "/apps/web") => reply(404, "no such app: web\n"),
        other => panic!("{other:?}"),
    });
    let client = rack.client();
    let empty = tempfile::tempdir().unwrap();
    let e = client
        .deploy("web", &Deploy::new(empty.path()))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    assert!(e.to_string().contains("convox.yml") && rack.seen().is_empty());
    let e = client
        .deploy("web", &Deploy::new(folder().path()))
        .await
        .unwrap_err();
    assert!(e.hint().unwrap().contains("--create"), "{e:?}");
    let build = BuildCreateForm {
        build_args: boxrig_convox::Csv(vec!["A=1,2".into()]),
        ..Default::default()
    };
    let e = client
        .deploy("web", &Deploy::new(folder().path()).build(build))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid);
}

#[tokio::test]
async fn a_failed_build_ends_the_deployment_with_its_reason() {
    let rack = Rack::new(|seen| match (&*seen.method, seen.path()) {
        ("GET", "/apps/web") => json(j!({"name": "web", "status": "running"})),
        ("POST", "/apps/web/builds") => json(j!({"id": "B1", "status": "running"})),
        ("GET", "/apps/web/builds/B1") => {
            json(j!({"id": "B1", "status": "failed", "reason": "Dockerfile:3: exit code 2"}))
        }
        ("GET", "/apps/web/builds/B1/logs") => reply(404, "no log\n"),
        ("POST", _) => json(j!({"Url": "object://x"})),
        other => panic!("{other:?}"),
    });
    let deploy = Deploy::new(folder().path()).promote(true);
    // The folder is gone before it is packed.
    let e = rack.client().deploy("web", &deploy).await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    let dir = folder();
    let e = rack
        .client()
        .deploy("web", &Deploy::new(dir.path()).promote(true))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Failed);
    assert!(e.to_string().contains("Dockerfile:3: exit code 2"), "{e}");
}
