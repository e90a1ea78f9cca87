//! Secrets: what the program is given in confidence is in nothing that it prints, logs, or hands to other processes.

use std::process::Stdio;
use std::time::{Duration, Instant};

use boxrig_wire::Secret;

use crate::scripted::{Answer, Scripted};
use crate::support::Home;

/// A secret of a test, different in every run.
fn canary(n: u32) -> String {
    format!(
        "canary{n}x{:x}",
        std::process::id().wrapping_mul(2_654_435_761)
    )
}

/// Command lines and environments of all processes but this one, as far as they can be read.
fn processes() -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        for file in ["cmdline", "environ"] {
            if let Ok(bytes) = std::fs::read(entry.path().join(file)) {
                found.push((pid, String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
    }
    found
}

fn assert_nowhere(what: &str, text: &str, secrets: &[String]) {
    for secret in secrets {
        assert!(
            !text.contains(secret.as_str()),
            "{what} shows {secret}: {text}"
        );
    }
}

#[test]
fn no_process_that_we_start_is_given_the_callers_secrets() {
    let secrets: Vec<String> = (0..8).map(canary).collect();
    let home = Home::new();
    let with_secrets = |args: &[&str]| {
        let mut command = home.command(args);
        for (name, secret) in [
            "FASTVM_API_KEY",
            "CONVOX_PASSWORD",
            "VERGE_PASSWORD",
            "RACK_URL",
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_TOKEN",
            "BOXRIG_SERVE_PASSWORD",
            "SSH_AUTH_SOCK",
        ]
        .iter()
        .zip(&secrets)
        {
            command.env(name, secret);
        }
        command
    };
    // Starts the background server from an environment full of secrets.
    let out = with_secrets(&["up"]).output().unwrap();
    if !out.status.success() {
        let words = String::from_utf8_lossy(&out.stderr);
        let required = std::env::var("BOXRIG_REQUIRE").is_ok_and(|v| v == "sandbox");
        assert!(!required && out.status.code() == Some(7), "{words}");
        println!("skipped: a test of secrets that needs the sandbox: {words}");
        return;
    }
    let out = with_secrets(&["launch", "--name", "web"]).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let mut inside = with_secrets(&[
        "exec",
        "web",
        "--",
        "sh",
        "-c",
        "cat /proc/[0-9]*/environ; sleep 2",
    ])
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    std::thread::sleep(Duration::from_millis(800));
    let ours = inside.id();
    let seen = processes();
    assert!(
        seen.iter().any(|(pid, _)| *pid == ours),
        "processes can be read"
    );
    for (pid, text) in seen {
        // The command itself was given them by its caller.
        if pid != ours {
            assert_nowhere(&format!("process {pid}"), &text, &secrets);
        }
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut inside.stdout.take().unwrap(), &mut text).unwrap();
    inside.wait().unwrap();
    assert_nowhere("the guest's environment", &text, &secrets);
    let log = std::fs::read_to_string(home.path().join(".local/share/boxrig/server.log")).unwrap();
    assert_nowhere("the server's log", &log, &secrets);
}

#[test]
fn a_server_tells_its_credentials_to_nobody() {
    let secrets = [canary(20), canary(21)];
    let home = Home::new();
    let env_file = home.path().join("env");
    let log = home.path().join("log");
    let log_file = std::fs::File::create(&log).unwrap();
    let mut server = home
        .command(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--data",
            "data",
            "--engine",
            "memory",
            "-vv",
            "--env-file",
        ])
        .arg(&env_file)
        .env("BOXRIG_SERVE_API_KEY", &secrets[0])
        .env("BOXRIG_SERVE_PASSWORD", &secrets[1])
        .env("BOXRIG_LOG", "trace")
        .env("RUST_LOG", "trace")
        .env("RUST_BACKTRACE", "1")
        .stdout(log_file.try_clone().unwrap())
        .stderr(log_file)
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while !env_file.exists() && begin.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let env = std::fs::read_to_string(&env_file).unwrap();
    let value = |name: &str| {
        env.lines()
            .find_map(|l| l.strip_prefix(&format!("{name}=")))
            .unwrap_or_else(|| panic!("{name}"))
            .trim_matches(['"', '\''])
            .to_owned()
    };
    assert_eq!(value("FASTVM_API_KEY"), secrets[0]);
    let url = value("FASTVM_BASE_URL");
    let context = url.replace("http://", "fastvm+http://");
    for (name, key) in [("right", "GOOD"), ("wrong", "BAD")] {
        home.ok(&[
            "ctx",
            "add",
            name,
            &context,
            "--secret-from",
            &format!("env:{key}"),
        ]);
    }
    let bad = canary(22);
    let all = [secrets[0].clone(), secrets[1].clone(), bad.clone()];
    for args in [
        &["ls", "--on", "right", "-vv"][..],
        &["ls", "--on", "wrong", "-vv"],
        &["launch", "--on", "right", "--name", "x", "-vv"],
        &["exec", "right:x", "-vv", "--", "true"],
        &["cp", "right:x:/f", "f", "-vv"],
        &["snapshot", "right:x", "-vv"],
        &[
            "fastvm",
            "create-console-token",
            "none",
            "--on",
            "right",
            "-vv",
        ],
        &[
            "fastvm",
            "get-org-quotas",
            "--on",
            "wrong",
            "-vv",
            "-o",
            "json",
        ],
        &["api", "right", "GET", "/v1/nothing", "-i", "-vv"],
        &["api", "right", "GET", &format!("/v1/vms?api_key={}", "x")],
        &["ctx", "ls", "-o", "json"],
        &["ctx", "test", "wrong", "-vv"],
        &["rm", "right:x", "--yes", "-vv"],
        &["show", "--on", "right", "--timeout", "1ms", "x", "-vv"],
    ] {
        let out = home
            .command(args)
            .env("GOOD", &secrets[0])
            .env("BAD", &bad)
            .env("RUST_LOG", "trace")
            .output()
            .unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        assert_nowhere(&format!("{args:?}"), &text, &all);
    }
    for (pid, text) in processes() {
        // The server's own environment is what its caller gave it.
        if pid != server.id() {
            assert_nowhere(&format!("process {pid}"), &text, &all);
        }
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&server),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert!(server.wait().unwrap().success());
    assert_nowhere(
        "the server's log",
        &std::fs::read_to_string(&log).unwrap(),
        &all,
    );
    // On disk only where it says, for its owner alone; these were given and not made, so nowhere.
    let config = std::fs::read_to_string(home.config()).unwrap();
    assert_nowhere("the configuration", &config, &all);
}

#[test]
fn secrets_that_a_service_repeats_are_not_repeated_by_us() {
    let secret = canary(40);
    let sent = secret.clone();
    // A proxy's error page that shows the whole request, as some do.
    let service = Scripted::new(move |asked| {
        Answer::new(
            "502 Bad Gateway",
            "application/json",
            format!("{{\"error\":\"bad gateway {sent}\"}}"),
        )
        .header("x-request-id", format!("request {}", asked.target))
    });
    let home = Home::new();
    home.ok(&[
        "ctx",
        "add",
        "echo",
        &service.context(),
        "--secret-from",
        "env:KEY",
    ]);
    let out = home
        .command(&["ls", "--on", "echo", "-vv"])
        .env("KEY", &secret)
        .env("RUST_LOG", "trace")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success());
    // The service's own words are its own; what is ours is kept: the request's headers are in no log line.
    let ours: String = text
        .lines()
        .filter(|l| !l.contains("bad gateway"))
        .collect();
    assert_nowhere("what is logged", &ours, &[secret]);
    assert!(
        service
            .seen()
            .iter()
            .any(|a| a.head.to_lowercase().contains("x-api-key"))
    );
}

#[test]
fn secrets_have_no_form_for_people() {
    let secret = Secret::new(canary(60));
    for text in [
        format!("{secret:?}"),
        format!("{secret:#?}"),
        format!("{:?}", Some(&secret)),
    ] {
        assert_nowhere("Debug", &text, &[canary(60)]);
    }
    let client = boxrig_fastvm::Client::builder()
        .api_key(canary(61))
        .base_url("http://127.0.0.1:9")
        .build()
        .unwrap();
    assert_nowhere(
        "the client",
        &format!("{client:?} {:?}", client.caller()),
        &[canary(61)],
    );
    let home = Home::new();
    // A secret in a place where everybody could read it is refused, and not shown again.
    for url in [
        format!("fastvm://user:{}@host", canary(62)),
        format!("fastvm://{}@host/x", canary(62)),
    ] {
        let (code, words) = home.fails(&["ctx", "add", "x", &url]);
        assert_eq!(code, 2, "{words}");
        assert_nowhere("the refusal", &words, &[canary(62)]);
    }
    let (code, words) = home.fails(&[
        "ctx",
        "add",
        "x",
        "fastvm://host",
        "--secret-from",
        &canary(63),
    ]);
    assert_eq!(code, 2, "{words}");
    assert_nowhere("the refusal", &words, &[canary(63)]);
}
