//! The program, run in a sealed environment: contexts, output, exit codes, the simulated engine.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod schema;
mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Home, golden};

#[test]
fn usage_errors_have_their_codes() {
    let home = Home::new();
    for (args, code) in [
        (&["nonsense"][..], 2),
        (&["ls", "--no-such-flag"], 2),
        (&["run"], 125),
        (&["exec", "x"], 125),
        (&["shell", "--no-such-flag", "x"], 125),
        (&["ls", "-o", "xml"], 2),
        (&["ls", "--filter", "nothing"], 2),
        (&["show", "local:"], 2),
        (&["show", "x", "--on", "a", "--on", "b"], 2),
    ] {
        let (got, words) = home.fails(args);
        assert_eq!(got, code, "{args:?}: {words}");
        assert!(!words.is_empty());
    }
    let (code, words) = home.fails(&["ls", "--no-such-flag", "-o", "json"]);
    let error: Value = serde_json::from_str(&words).unwrap();
    assert_eq!((code, &error["error"]["kind"]), (2, &json!("invalid")));
    // None of these had any reason to start a server.
    assert!(!home.path().join(".local/share/boxrig/server").exists());
}

#[test]
fn help_and_references_need_no_server() {
    let home = Home::new();
    assert_eq!(
        home.ok(&["--version"]),
        format!("boxrig {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert!(home.ok(&["--help"]).contains("Exit codes"));
    assert!(home.ok(&["fastvm", "--help"]).contains("list-vms"));
    assert!(
        home.ok(&["fastvm", "launch-vm", "--help"])
            .contains("POST /v1/vms")
    );
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let text = home.ok(&["completions", shell]);
        assert!(
            text.contains("snapshot") && text.contains("list-vms"),
            "{shell}"
        );
    }
    assert!(home.ok(&["man"]).contains(".TH boxrig"));
    home.ok(&["man", "--dir", "pages"]);
    for page in [
        "boxrig.1",
        "boxrig-run.1",
        "boxrig-ctx-add.1",
        "boxrig-fastvm-exec-vm.1",
    ] {
        assert!(home.path().join("pages").join(page).exists(), "{page}");
    }
    assert_eq!(home.fails(&["status"]).0, 6);
    assert!(!home.path().join(".local/share/boxrig/server").exists());
}

#[test]
fn coverage_has_a_row_per_operation() {
    let home = Home::new();
    let rows = home.json(&["coverage"]);
    let rows = rows.as_array().unwrap();
    for row in rows {
        schema::check("coverage", row);
    }
    let fastvm: Vec<_> = rows.iter().filter(|r| r["platform"] == "fastvm").collect();
    assert_eq!(fastvm.len(), 49);
    assert!(
        fastvm
            .iter()
            .all(|r| r["client"] == true && r["cli"].is_string())
    );
}

#[test]
fn contexts_are_kept_in_a_private_file() {
    let home = Home::new();
    home.ok(&[
        "ctx",
        "add",
        "prod",
        "fastvm://api.example.net",
        "--secret-from",
        "env:PROD_KEY",
    ]);
    home.ok(&[
        "ctx",
        "add",
        "lab",
        "fastvm+http://127.0.0.1:9",
        "--only-read",
    ]);
    let mode = |p: &std::path::Path| p.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home.config()), 0o600);
    assert_eq!(mode(home.config().parent().unwrap()), 0o700);
    let rows = home.json(&["ctx", "ls"]);
    for row in rows.as_array().unwrap() {
        schema::check("context", row);
    }
    golden("ctx-ls.json", &format!("{rows:#}\n"));
    home.ok(&["ctx", "use", "prod"]);
    golden("ctx-ls.txt", &home.ok(&["ctx", "ls", "-o", "wide"]));
    home.ok(&["ctx", "rm", "prod"]);
    assert_eq!(home.fails(&["ctx", "rm", "prod"]).0, 3);
    assert_eq!(home.fails(&["ctx", "use", "nope"]).0, 3);
    for args in [
        &["ctx", "add", "local", "fastvm://x"][..],
        &["ctx", "add", "a:b", "fastvm://x"],
        &["ctx", "add", "x", "docker://x"],
        &["ctx", "add", "x", "fastvm://canary@host"],
        &["ctx", "add", "x", "fastvm://x", "--secret-from", "canary"],
    ] {
        let (code, words) = home.fails(args);
        assert_eq!(code, 2, "{words}");
        assert!(!words.contains("canary"), "{words}");
    }
    assert_eq!(
        home.fails(&[
            "ctx",
            "add",
            "x",
            "fastvm://x",
            "--secret-from",
            "keyring:x"
        ])
        .0,
        7
    );
    std::fs::set_permissions(home.config(), PermissionsExt::from_mode(0o622)).unwrap();
    assert_eq!(home.fails(&["ctx", "ls"]).0, 5);
    std::fs::set_permissions(home.config(), PermissionsExt::from_mode(0o644)).unwrap();
    assert!(
        home.fails(&["ctx", "ls"])
            .1
            .contains("warning: others can read")
    );
}

#[test]
fn failures_have_their_codes_and_are_json_when_asked() {
    let home = Home::with_engine("memory");
    let env = home.env();
    let base = env["FASTVM_BASE_URL"].as_str().unwrap();
    let url = base.replace("http://", "fastvm+http://");
    home.ok(&["ctx", "add", "good", &url, "--secret-from", "env:GOOD"]);
    home.ok(&["ctx", "add", "wrong", &url, "--secret-from", "env:WRONG"]);
    home.ok(&[
        "ctx",
        "add",
        "dead",
        "fastvm+http://127.0.0.1:9",
        "--secret-from",
        "env:WRONG",
    ]);
    let run = |args: &[&str]| {
        let args = [&["-o", "json"], args].concat();
        let out = home
            .command(&args)
            .env("GOOD", env["FASTVM_API_KEY"].as_str().unwrap())
            .env("WRONG", "canary-wrong-key")
            .output()
            .unwrap();
        let words = String::from_utf8(out.stderr).unwrap();
        assert!(!words.contains("canary"), "{words}");
        let error: Value =
            serde_json::from_str(&words).unwrap_or_else(|_| panic!("{args:?}: {words:?}"));
        schema::check("error", &error);
        (
            out.status.code().unwrap(),
            error["error"]["kind"].as_str().unwrap().to_owned(),
        )
    };
    home.ok(&["launch", "--name", "web"]);
    for (args, code, kind) in [
        (&["show", "none"][..], 3, "not_found"),
        (&["show", "good:none"], 3, "not_found"),
        (&["show", "wrong:web"], 5, "unauthenticated"),
        (&["show", "dead:web"], 6, "transport"),
        (&["show", "none:web"], 3, "not_found"),
        (&["stop", "good:web"], 7, "unsupported"),
        (&["restore", "good:web", "x"], 7, "unsupported"),
        (&["launch", "--cpus", "0.5"], 2, "invalid"),
        (&["launch", "--image", "ubuntu"], 7, "unsupported"),
        (&["logs", "web"], 7, "unsupported"),
        (&["rm", "web", "--read-only"], 5, "denied"),
        (
            &["wait", "web", "--for", "gone", "--timeout", "1s"],
            6,
            "timeout",
        ),
        (&["fastvm", "get-vm", "none"], 3, "not_found"),
        (&["fastvm", "list-ssh-keys"], 7, "unsupported"),
        (
            &["fastvm", "launch-vm", "-d", "machineType=5"],
            2,
            "invalid",
        ),
        (&["exec", "web", "--", "true"], 125, "unsupported"),
        (&["exec", "none", "--", "true"], 125, "not_found"),
        (&["run", "--on", "dead", "--", "true"], 125, "transport"),
    ] {
        assert_eq!(run(args), (code, kind.to_owned()), "{args:?}");
    }
}

#[test]
fn the_life_of_a_simulated_instance() {
    let home = Home::with_engine("memory");
    assert_eq!(
        home.ok(&[
            "launch", "--name", "web", "--label", "team=a", "--token", "t1"
        ]),
        "local:web\n"
    );
    // The same token once more is the same instance.
    assert_eq!(
        home.ok(&[
            "launch", "--name", "web", "--label", "team=a", "--token", "t1"
        ]),
        "local:web\n"
    );
    assert_eq!(home.ok(&["ls", "-o", "name"]), "web\n");
    let rows = home.json(&["ls", "--label", "team=a"]);
    schema::check("instance", &rows[0]);
    golden(
        "instance.json",
        &format!("{:#}\n", blanked(rows[0].clone())),
    );
    assert_eq!(home.json(&["ls", "--label", "team=b"]), json!([]));
    assert_eq!(home.json(&["ls", "--filter", "state=paused"]), json!([]));
    assert_eq!(home.ok(&["pause", "local:web"]), "local:web\n");
    assert_eq!(
        home.ok(&["ls", "--columns", "name,state", "-q"]),
        "web  paused\n"
    );
    assert_eq!(
        home.ok(&["ls", "--columns", "name,state", "-o", "csv"]),
        "name,state\nweb,paused\n"
    );
    assert_eq!(home.ok(&["wait", "web", "--for", "paused"]), "local:web\n");
    home.ok(&["resume", "web"]);
    let id = rows[0]["id"].as_str().unwrap();
    assert_eq!(home.json(&["show", id])["state"], "running");
    let snapshot = home.ok(&["snapshot", "web", "--name", "s"]);
    let snapshot = snapshot.trim();
    assert_eq!(
        home.ok(&["launch", "--snapshot", snapshot, "--name", "from-snapshot"]),
        "local:from-snapshot\n"
    );
    assert_eq!(home.ok(&["fork", "web", "--name", "copy"]), "local:copy\n");
    assert_eq!(home.json(&["show", "copy"])["labels"]["team"], "a");
    assert_eq!(
        home.ok(&["rm", "web", "--dry-run"]),
        "would remove local:web\n"
    );
    assert_eq!(
        home.ok(&["launch", "--name", "x", "--dry-run"]),
        "would launch x on local\n"
    );
    assert_eq!(
        home.ok(&["ls", "-o", "name", "--sort", "-name"]),
        "web\nfrom-snapshot\ncopy\n"
    );
    // One that is missing does not keep the others.
    let out = home.run(&["rm", "web", "none", "copy", "from-snapshot"]);
    assert_eq!(out.status.code(), Some(3));
    assert_eq!(home.ok(&["ls", "-o", "name"]), "");
    assert_eq!(home.ok(&["wait", "web", "--for", "gone"]), "");
}

/// Without what differs from run to run.
fn blanked(mut row: Value) -> Value {
    row["id"] = json!("ID");
    row["created"] = json!("TIME");
    row["labels"]["boxrig.token"] = json!("TOKEN");
    row["raw"] = json!("as the platform said it");
    row
}

#[test]
fn several_names_are_told_apart_by_id() {
    let home = Home::with_engine("memory");
    home.ok(&["launch", "--name", "twin"]);
    home.ok(&["launch", "--name", "twin"]);
    let (code, words) = home.fails(&["show", "twin"]);
    assert_eq!(code, 4, "{words}");
    for row in home.json(&["ls"]).as_array().unwrap() {
        let id = row["id"].as_str().unwrap();
        assert!(words.contains(id), "{words}");
        home.ok(&["rm", id]);
    }
}

#[test]
fn a_dead_context_is_a_row_and_holds_nothing_up() {
    let home = Home::with_engine("memory");
    home.ok(&["launch", "--name", "web"]);
    // A listener that takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("fastvm+http://{}", silent.local_addr().unwrap());
    home.ok(&["ctx", "add", "silent", &url, "--secret-from", "cmd:echo x"]);
    home.ok(&[
        "ctx",
        "add",
        "refused",
        "fastvm+http://127.0.0.1:9",
        "--secret-from",
        "cmd:echo x",
    ]);
    let begin = Instant::now();
    let out = home.run(&[
        "ls",
        "--all",
        "--timeout",
        "2s",
        "--columns",
        "context,name,state",
    ]);
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(
        text,
        "CONTEXT  NAME  STATE\nlocal    web   running\nrefused  -     unreachable\nsilent   -     unreachable\n"
    );
    assert_eq!(out.status.code(), Some(6));
    assert_eq!(
        String::from_utf8(out.stderr)
            .unwrap()
            .matches("error: ")
            .count(),
        2
    );
    // Programs get the rows there are, and the errors on stderr.
    let out = home.run(&["ls", "--all", "--timeout", "2s", "-o", "json"]);
    let rows: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 1);
}

#[test]
fn hostile_names_move_no_cursor() {
    let home = Home::with_engine("memory");
    let names = [
        "\u{1b}[2J\u{1b}]0;owned\u{7}",
        "\u{1b}]52;c;aGk=\u{7}",
        "a\u{202e}b\u{2066}c",
        "\u{9b}31m",
        "=1+1",
        "tab\there",
    ];
    for name in names {
        home.ok(&["launch", "--name", name, "--label", &format!("l={name}")]);
    }
    let clean = |text: &str| {
        assert!(
            !text.chars().any(|c| (c.is_control() && c != '\n')
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')),
            "{text:?}"
        );
    };
    clean(&home.ok(&["ls"]));
    clean(&home.ok(&["ls", "-o", "wide"]));
    clean(&home.ok(&["ls", "-o", "name"]));
    clean(&home.ok(&["fastvm", "list-vms"]));
    let rows = home.json(&["ls"]);
    for row in rows.as_array().unwrap() {
        let id = row["id"].as_str().unwrap();
        clean(&home.ok(&["show", id]));
        clean(&home.fails(&["show", &format!("{id}\u{1b}[2J")]).1);
        clean(&home.ok(&["rm", id]));
    }
    let csv = rows.as_array().unwrap().len();
    assert_eq!(csv, names.len());
}

#[test]
fn secrets_are_in_no_output_and_no_command_line() {
    let home = Home::with_engine("memory");
    let env = home.env();
    let key = env["FASTVM_API_KEY"].as_str().unwrap();
    let url = env["FASTVM_BASE_URL"]
        .as_str()
        .unwrap()
        .replace("http://", "fastvm+http://");
    home.ok(&["ctx", "add", "tcp", &url, "--secret-from", "env:CANARY"]);
    for args in [
        &["ls", "--on", "tcp", "-vv"][..],
        &["launch", "--on", "tcp", "--name", "x", "-vv"],
        &["show", "tcp:none", "-vv"],
        &["ctx", "ls", "-o", "json"],
        &["ctx", "test", "tcp", "-vv"],
        &["api", "tcp", "GET", "/v1/vms", "-i", "-vv"],
        &["status", "-o", "json"],
    ] {
        let out = home.command(args).env("CANARY", key).output().unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        assert!(!text.contains(key), "{args:?}: {text}");
    }
    let log = std::fs::read_to_string(home.path().join(".local/share/boxrig/server.log")).unwrap();
    assert!(!log.contains(key));
    let pid = home.json(&["status"])["pid"].as_u64().unwrap();
    if let Ok(line) = std::fs::read_to_string(format!("/proc/{pid}/cmdline")) {
        assert!(!line.contains(key));
    }
    if let Ok(environment) = std::fs::read_to_string(format!("/proc/{pid}/environ")) {
        assert!(!environment.contains("CANARY"));
    }
}

#[test]
fn the_vendors_variables_are_a_context_for_on_only() {
    let home = Home::with_engine("memory");
    home.ok(&["launch", "--name", "web"]);
    let env = home.env();
    let run = |args: &[&str]| {
        let mut c = home.command(args);
        for name in ["FASTVM_API_KEY", "FASTVM_BASE_URL"] {
            c.env(name, env[name].as_str().unwrap());
        }
        c.output().unwrap()
    };
    let out = run(&["ls", "--on", "env:fastvm", "-o", "json"]);
    let rows: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(
        (&rows[0]["context"], &rows[0]["platform"]),
        (&json!("env:fastvm"), &json!("fastvm"))
    );
    assert!(run(&["show", "env:fastvm:web"]).status.success());
    let out = run(&["ls", "-o", "json"]);
    let rows: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(rows[0]["context"], "local");
    assert_eq!(home.fails(&["ls", "--on", "env:fastvm"]).0, 3);
    assert_eq!(home.fails(&["ctx", "use", "env:fastvm"]).0, 2);
}

#[test]
fn one_server_however_many_ask_for_it() {
    let home = Home::new();
    let many: Vec<_> = (0..8)
        .map(|_| {
            home.command(&["up", "--engine", "memory", "-o", "json"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut pids = std::collections::BTreeSet::new();
    for child in many {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success());
        let row: Value = serde_json::from_slice(&out.stdout).unwrap();
        schema::check("status", &row);
        pids.insert(row["pid"].as_u64().unwrap());
    }
    assert_eq!(pids.len(), 1, "{pids:?}");
    let socket = home.path().join("run/boxrig/server.socket");
    let mode = |p: &std::path::Path| p.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()), 0o700);
    // A session of its own: the terminal that it was started from may go.
    let pid = pids.first().unwrap();
    if let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        let session = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .nth(3)
            .unwrap();
        assert_eq!(session, pid.to_string());
    }
    home.ok(&["down"]);
    assert_eq!(home.fails(&["status"]).0, 6);
    home.ok(&["down"]);
}

#[test]
fn the_servers_state_is_saved_loaded_and_reset() {
    let home = Home::with_engine("memory");
    home.ok(&["save", "state.json"]);
    let mode = home
        .path()
        .join("state.json")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    home.ok(&["load", "state.json"]);
    home.ok(&["launch", "--name", "web"]);
    assert_eq!(
        home.ok(&["reset", "--dry-run"]),
        "would remove everything that the background server holds\n"
    );
    home.ok(&["reset", "--yes"]);
    assert_eq!(home.ok(&["ls", "-o", "name"]), "");
    assert_eq!(home.fails(&["load", "none.json"]).0, 2);
}

#[test]
fn serve_in_the_foreground_says_ready_by_its_env_file() {
    let home = Home::new();
    let mut server = home
        .command(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--data",
            "data",
            "--engine",
            "memory",
            "--env-file",
            "env",
        ])
        .env("BOXRIG_SERVE_API_KEY", "test-key")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let file = home.path().join("env");
    let begin = Instant::now();
    while !file.exists() && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    for name in [
        "BOXRIG_URL=",
        "FASTVM_BASE_URL=http://127.0.0.1:",
        "FASTVM_API_KEY=test-key",
        "CONVOX_RACK=",
        "INCUS_SOCKET=",
    ] {
        assert!(text.contains(name), "{name} in {text}");
    }
    let rendered = home.ok(&["env", "--data", "data", "--format", "dotenv"]);
    assert_eq!(rendered, text);
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&server),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    let begin = Instant::now();
    assert!(server.wait().unwrap().success());
    assert!(begin.elapsed() < Duration::from_secs(5));
    let (code, words) = home.fails(&["serve", "--data", "data", "--engine", "nonsense"]);
    assert_eq!(code, 2, "{words}");
    assert_eq!(
        home.fails(&[
            "serve",
            "--data",
            "data",
            "--engine",
            "memory",
            "--seed",
            "no-such-file.json"
        ])
        .0,
        2
    );
    assert_eq!(
        home.fails(&[
            "serve",
            "--data",
            "data",
            "--engine",
            "memory",
            "--listen",
            "0.0.0.0:0"
        ])
        .0,
        2
    );
}
