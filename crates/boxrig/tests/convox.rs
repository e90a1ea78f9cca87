//! Convox on the command line: the rows of the vendor's own table, forms and sockets, deployment, reasons.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::sync::{Arc, Mutex};

use serde_json::json;
use support::{Home, golden};

/// A rack whose answers are in this file; it remembers what it was asked.
struct Rack {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

const APP: &str = r#"{"generation":"3","locked":false,"name":"myapp","parameters":{},"release":"RABCDEF","router":"","status":"running"}"#;

/// Releases that were made: id and variables, the newest last.
type Made = Mutex<Vec<(String, String)>>;

/// What is answered to a method and a path.
fn answer(line: &str, body: &str, made: &Made) -> (u16, String) {
    let mut made = made.lock().unwrap();
    let release = |(id, env): &(String, String)| json!({"app": "myapp", "build": "BABCDEF", "created": "2026-01-02T03:04:05Z", "description": "", "env": env, "id": id, "manifest": ""});
    let body = match line {
        "GET /apps" => format!("[{APP}]"),
        "GET /apps/myapp" | "POST /apps" => APP.to_owned(),
        "DELETE /apps/myapp" | "POST /apps/myapp/releases/RABCDEF/promote" | "PUT /apps/myapp" => {
            "ok\n".to_owned()
        }
        "GET /apps/myapp/builds" => BUILDS.to_owned(),
        "GET /apps/myapp/releases" => {
            let all: Vec<_> = made.iter().rev().map(release).collect();
            json!(all).to_string()
        }
        "POST /apps/myapp/releases" => {
            let env = body
                .strip_prefix("env=")
                .unwrap()
                .replace("%3D", "=")
                .replace("%0A", "\n");
            let id = format!("RNEW{}", made.len());
            made.push((id, env));
            release(made.last().unwrap()).to_string()
        }
        "GET /apps/none" => return (404, "no such app: none\n".to_owned()),
        other => match made
            .iter()
            .find(|(id, _)| other == format!("GET /apps/myapp/releases/{id}"))
        {
            Some(found) => release(found).to_string(),
            None => return (501, "not here\n".to_owned()),
        },
    };
    (200, body)
}

const BUILDS: &str = r#"[{"app":"myapp","description":"v2.0","ended":"2026-01-02T03:05:05Z","entrypoint":"","git-sha":"","id":"BABCDEF","logs":"","manifest":"","process":"","reason":"","release":"RABCDEF","repository":"","started":"2026-01-02T03:04:05Z","status":"complete"}]"#;

impl Rack {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let first = |id: &str, env: &str| (id.to_owned(), env.to_owned());
        let made = Arc::new(Mutex::new(vec![
            first("ROLD", ""),
            first("RABCDEF", "KEY=old\nOTHER=1\n"),
        ]));
        std::thread::spawn(move || {
            for io in listener.incoming() {
                let (log, made, io) = (log.clone(), made.clone(), io.unwrap());
                std::thread::spawn(move || serve(io, &log, &made));
            }
        });
        Self { url, seen }
    }

    fn run(&self, home: &Home, args: &[&str]) -> Output {
        let mut c = home.command(args);
        c.env("CONVOX_HOST", &self.url)
            .env("CONVOX_PASSWORD", "secret-canary");
        c.output().unwrap()
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

fn serve(mut io: TcpStream, log: &Mutex<Vec<String>>, made: &Made) -> Option<()> {
    let mut reader = BufReader::new(io.try_clone().ok()?);
    let (mut first, mut length, mut command, mut socket) = (String::new(), 0, String::new(), None);
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ")?;
        match &*name.to_ascii_lowercase() {
            "content-length" => length = value.parse().ok()?,
            "command" => command = format!(" [command: {value}]"),
            "sec-websocket-key" => socket = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let mut shown = format!("{method} {target}{command}");
    if !body.is_empty() {
        let text = String::from_utf8_lossy(&body);
        // An archive is not a form.
        shown.push_str(&if text.is_ascii() {
            format!(" {text}")
        } else {
            " (bytes)".to_owned()
        });
    }
    log.lock().unwrap().push(shown);
    let path = target.split('?').next()?;
    if let Some(key) = socket {
        let accept = boxrig::wire::ws::accept_key(key.as_bytes());
        write!(io, "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n").ok()?;
        let text = match path {
            p if p.ends_with("/exec") => format!("hi\n{}7\n", boxrig::convox::EXIT_MARK),
            p if p.ends_with("/none/logs") => "ERROR: no such app: none\n".to_owned(),
            _ => "2026-01-02T03:04:05Z service/web/p1 GET /\n".to_owned(),
        };
        // A text frame, then the empty binary one.
        let mut out = vec![0x81, u8::try_from(text.len()).ok()?];
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(&[0x82, 0]);
        io.write_all(&out).ok()?;
        // The client may still be sending.
        let _ = io.shutdown(std::net::Shutdown::Write);
        let _ = reader.read_to_end(&mut Vec::new());
        return Some(());
    }
    let (status, body) = answer(
        &format!("{method} {path}"),
        &String::from_utf8_lossy(&body),
        made,
    );
    let kind = if body.starts_with(['[', '{']) {
        "application/json"
    } else {
        "text/plain"
    };
    write!(io, "HTTP/1.1 {status} X\r\nRequest-Id: 0123456789ab\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).ok()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The eleven rows of the vendor's table of its tool and its SDK.
#[test]
fn the_rows_of_the_vendors_table() {
    let rack = Rack::start();
    let home = Home::new();
    let mut transcript = String::new();
    for (theirs, ours) in [
        ("convox apps", "convox app-list"),
        ("convox apps info -a myapp", "convox app-get myapp"),
        ("convox apps create myapp", "convox app-create --name myapp"),
        ("convox apps delete myapp", "convox app-delete myapp"),
        ("convox builds -a myapp", "convox build-list myapp"),
        (
            "convox releases -a myapp",
            "convox release-list myapp --columns id,build,created",
        ),
        (
            "convox releases promote RABCDEF -a myapp",
            "convox release-promote myapp RABCDEF",
        ),
        ("convox env -a myapp", "convox env myapp"),
        (
            "convox env set KEY=val -a myapp",
            "convox env-set myapp KEY=val --dry-run",
        ),
        (
            "convox env unset KEY -a myapp",
            "convox env-unset myapp KEY --dry-run",
        ),
        ("convox api get /apps", "api env:convox GET /apps"),
    ] {
        let mut args: Vec<&str> = ours.split(' ').collect();
        if args[0] != "api" {
            args.extend(["--on", "env:convox"]);
        }
        let out = rack.run(&home, &args);
        assert!(out.status.success(), "{ours}: {}", text(&out.stderr));
        transcript.push_str(&format!(
            "$ {theirs}\n$ boxrig {}\n{}",
            args.join(" "),
            text(&out.stdout)
        ));
        for line in rack.take() {
            transcript.push_str(&format!("> {line}\n"));
        }
        transcript.push('\n');
    }
    assert!(!transcript.contains("canary"));
    golden("convox.txt", &transcript);
}

#[test]
fn forms_headers_and_maps_go_to_their_places() {
    let rack = Rack::start();
    let home = Home::new();
    let run = |args: &[&str]| {
        let out = rack.run(&home, &[args, &["--on", "env:convox"]].concat());
        (out.status.code(), rack.take())
    };
    let (code, seen) = run(&[
        "convox",
        "app-update",
        "myapp",
        "--lock",
        "true",
        "--parameters",
        "A=1&B=x%20y",
    ]);
    assert_eq!(
        (code, seen),
        (
            Some(0),
            vec!["PUT /apps/myapp lock=true&parameters=A%3D1%26B%3Dx%2520y".to_owned()]
        )
    );
    let (code, seen) = run(&[
        "convox",
        "process-run",
        "myapp",
        "web",
        "--command",
        "rake db",
    ]);
    assert_eq!(code, Some(7), "501 is unsupported");
    assert_eq!(
        seen,
        ["POST /apps/myapp/services/web/processes [command: rake db]"]
    );
    let (code, seen) = run(&[
        "convox",
        "v2-resource-create-classic",
        "--field",
        "type=redis",
        "--field",
        "size=1",
    ]);
    assert_eq!(
        (code, seen),
        (
            Some(7),
            vec!["POST /resources type=redis&size=1".to_owned()]
        )
    );
    let (code, seen) = run(&["convox", "app-create"]);
    assert_eq!(
        (code, seen.len()),
        (Some(2), 0),
        "a name is needed, and nothing is sent without it"
    );
    let (code, seen) = run(&["convox", "app-get", "../none"]);
    assert_eq!(
        (code, seen),
        (Some(7), vec!["GET /apps/..%2Fnone".to_owned()])
    );
    assert_eq!(run(&["convox", "app-get", "none"]).0, Some(3));
    assert_eq!(run(&["convox", "app-list", "--read-only"]).0, Some(0));
    assert_eq!(
        run(&["convox", "app-delete", "myapp", "--read-only"]).0,
        Some(5)
    );
    assert_eq!(
        run(&["convox", "env-set", "myapp", "A=two\nlines"]).0,
        Some(2)
    );
}

#[test]
fn sockets_end_with_the_commands_code_or_the_racks_error() {
    let rack = Rack::start();
    let home = Home::new();
    let run = |args: &[&str]| rack.run(&home, &[args, &["--on", "env:convox"]].concat());
    let out = run(&[
        "convox",
        "process-exec",
        "myapp",
        "p1",
        "--command",
        "ls",
        "--tty",
        "false",
    ]);
    assert_eq!(
        (out.status.code(), text(&out.stdout)),
        (Some(7), "hi\n".to_owned())
    );
    assert_eq!(
        rack.take(),
        ["GET /apps/myapp/processes/p1/exec [command: ls]"]
    );
    let out = run(&["convox", "app-logs", "myapp", "--follow", "true"]);
    assert_eq!(
        (out.status.code(), text(&out.stdout)),
        (
            Some(0),
            "2026-01-02T03:04:05Z service/web/p1 GET /\n".to_owned()
        )
    );
    let out = run(&["convox", "app-logs", "none"]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
    // What runs something is no reading.
    rack.take();
    let out = run(&[
        "convox",
        "process-exec",
        "myapp",
        "p1",
        "--command",
        "ls",
        "--read-only",
    ]);
    assert_eq!((out.status.code(), rack.take().len()), (Some(5), 0));
}

#[test]
fn a_deployment_says_what_it_does_and_why_says_what_is_wrong() {
    let rack = Rack::start();
    let home = Home::new();
    let run = |args: &[&str]| rack.run(&home, &[args, &["--on", "env:convox"]].concat());
    let out = run(&["deploy", ".", "--app", "myapp"]);
    assert_eq!(out.status.code(), Some(3));
    assert!(text(&out.stderr).contains("convox.yml"));
    std::fs::write(home.path().join("convox.yml"), "services: {}\n").unwrap();
    let out = run(&["deploy", ".", "--app", "none"]);
    assert_eq!(out.status.code(), Some(3));
    assert!(
        text(&out.stderr).contains("--create"),
        "{}",
        text(&out.stderr)
    );
    let out = run(&["deploy", ".", "--app", "myapp", "--dry-run"]);
    assert!(out.status.success() && text(&out.stdout).contains("would deploy"));
    // This rack stores no objects.
    assert_eq!(
        run(&["deploy", ".", "--app", "myapp"]).status.code(),
        Some(7)
    );

    let out = run(&["why", "myapp"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("myapp: running, active release RABCDEF"));
    assert!(text(&out.stderr).contains("nothing is amiss"));
    let out = run(&["why", "myapp", "-o", "json"]);
    let why: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(why["status"], "running");
    assert_eq!(run(&["why", "none"]).status.code(), Some(3));
}

/// A context without a secret takes the login of the vendor's tool.
#[test]
fn the_vendors_logins_are_taken_over() {
    let rack = Rack::start();
    let home = Home::new();
    let dir = home.path().join(".config/convox");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(
        dir.join("auth"),
        format!(r#"{{"{}": "file-canary"}}"#, rack.url),
    )
    .unwrap();
    let out = home.run(&["ctx", "import", "--from", "convox", "-o", "json"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let config = std::fs::read_to_string(home.config()).unwrap();
    assert!(
        config.contains("convox+http://127.0.0.1") && !config.contains("canary"),
        "{config}"
    );
    let name = text(&home.run(&["ctx", "ls", "-o", "name"]).stdout);
    let name = name.lines().find(|l| *l != "local").unwrap().to_owned();
    let out = home.run(&["convox", "app-list", "-o", "name", "--on", &name]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(rack.take(), ["GET /apps"]);
    // Unified verbs reach it as well: the rack has no processes to list.
    let out = home.run(&["ls", "--on", &name]);
    assert_eq!(out.status.code(), Some(7), "{}", text(&out.stderr));
}
