//! Text of a hostile service in everything that is printed for people: no byte of it reaches the terminal as it is.

use std::process::Output;

use serde_json::{Value, json};

use crate::scripted::{Answer, Asked, Scripted};
use crate::support::Home;

/// Every control there is, and what terminals are known to be led by.
pub(crate) fn payloads() -> Vec<String> {
    let mut all: Vec<String> = (0..=0x1fu32)
        .chain(0x7f..=0x9f)
        .filter_map(char::from_u32)
        .map(String::from)
        .collect();
    let sequences = [
        "\u{1b}[2J\u{1b}[H",
        "\u{1b}]0;owned\u{7}",
        "\u{1b}]2;owned\u{1b}\\",
        "\u{1b}]8;;http://evil.example\u{1b}\\click\u{1b}]8;;\u{1b}\\",
        "\u{1b}]52;c;cm0gLXJmIC8=\u{7}",
        "\u{1b}]1337;File=name=eA==:AAAA\u{7}",
        "\u{1b}P$q\"p\u{1b}\\",
        "\u{1b}_Gf=100;AAAA\u{1b}\\",
        "\u{1b}^private\u{1b}\\",
        "\u{1b}[?1049h",
        "\u{1b}[6n",
        "\u{1b}[5i",
        "\u{1b}c",
        "\u{1b}#8",
        "\u{1b}[31mred",
        "\u{9b}31m",
        "\u{9d}0;owned\u{9c}",
        "\u{90}q\u{9c}",
        "\r\nroot@host:~# rm -rf /",
        "safe\rEVIL",
        "\u{8}\u{8}\u{8}\u{8}EVIL",
        "\u{202e}gpj.exe",
        "\u{202a}a\u{202b}b\u{202c}c\u{202d}d",
        "\u{2066}a\u{2067}b\u{2068}c\u{2069}d",
        "\u{200e}\u{200f}\u{61c}",
        "\u{2028}\u{2029}",
        "\u{feff}\u{fff9}\u{fffb}",
        "\u{e0001}\u{e0041}\u{e007f}",
        "=cmd|'/c calc'!A1",
        "+1+1",
        "-1+1",
        "@SUM(1)",
        "\t=1+1",
        "%n%s%x",
        "{0}{name}",
        "$(reboot)`reboot`",
    ];
    all.extend(sequences.map(String::from));
    all
}

fn misleads(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Fails when something in an output could move a cursor or mislead a reader.
pub(crate) fn clean(what: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        assert!(!line.chars().any(misleads), "{what}: {line:?}");
    }
}

fn clean_output(what: &str, out: &Output) {
    clean(&format!("{what}: stdout"), &out.stdout);
    clean(&format!("{what}: stderr"), &out.stderr);
}

fn vm(n: usize, p: &str) -> Value {
    json!({
        "id": format!("id-{n}-{p}"), "name": format!("n{p}m"), "orgId": p, "cpu": 1, "memoryMiB": 1024, "diskGiB": 10,
        "status": p, "createdAt": p, "machineName": p, "sourceName": p, "publicIpv6": p,
        "metadata": {p: p}, "envVars": {p: p}, "strange": {p: [p, {p: p}]},
        "firewall": {"mode": p, "ingress": [{"protocol": p, "portStart": 1, "description": p}]},
        "volumes": [{"volumeId": p, "mountPath": p, "accessMode": p, "mountStatus": p, "statusMessage": p}],
    })
}

fn hostile_home(service: &Scripted) -> Home {
    let home = Home::new();
    let url = service.context();
    home.ok(&[
        "ctx",
        "add",
        "evil",
        &url,
        "--secret-from",
        "cmd:echo canary-key",
    ]);
    home.ok(&["ctx", "use", "evil"]);
    home
}

#[test]
fn lists_of_hostile_machines() {
    let count = payloads().len();
    assert!(count >= 100, "{count}");
    let list: Value = payloads()
        .iter()
        .enumerate()
        .map(|(n, p)| vm(n, p))
        .collect();
    let answer = list.clone();
    let service = Scripted::new(move |_| Answer::json(&answer));
    let home = hostile_home(&service);
    let every =
        "context,platform,id,name,ref,state,native_state,engine,created,ips,labels,raw,raw.orgId";
    for args in [
        &["ls"][..],
        &["ls", "-o", "wide"],
        &["ls", "-o", "csv"],
        &["ls", "-o", "name"],
        &["ls", "--columns", every],
        &["ls", "-o", "csv", "--columns", every],
        &["ls", "-vv"],
        &["fastvm", "list-vms"],
        &["fastvm", "list-vms", "-o", "wide"],
        &["fastvm", "list-vms", "-o", "csv"],
        &["fastvm", "list-vms", "-o", "name"],
    ] {
        let out = home.run(args);
        assert!(out.status.success(), "{args:?}: {out:?}");
        clean_output(&format!("{args:?}"), &out);
        let rows = String::from_utf8(out.stdout).unwrap().lines().count();
        let titles = usize::from(!args.contains(&"name"));
        assert_eq!(rows, count + titles, "{args:?}: a row is a line");
    }
    // For programs every name is whole, and still no terminal is moved when it is looked at.
    for args in [
        &["ls", "-o", "json"][..],
        &["fastvm", "list-vms", "-o", "json"],
    ] {
        let out = home.run(args);
        clean_output(&format!("{args:?}"), &out);
        let rows: Value = serde_json::from_slice(&out.stdout).unwrap();
        for (row, sent) in rows
            .as_array()
            .unwrap()
            .iter()
            .zip(list.as_array().unwrap())
        {
            assert_eq!(row["name"], sent["name"]);
            assert_eq!(row["id"], sent["id"]);
        }
    }
    let out = home.run(&["ls", "-o", "yaml"]);
    clean_output("yaml", &out);
    let csv = home.ok(&["ls", "-o", "csv", "--columns", "native_state"]);
    for line in csv.lines().skip(1) {
        let cell = line.trim_start_matches('"');
        assert!(
            !cell.starts_with(['=', '+', '-', '@', '\t', '\r']),
            "{line:?}"
        );
    }
}

/// All payloads in one text.
fn everything() -> String {
    payloads().concat()
}

/// A hostile name that can be an argument: no zero byte, nothing that is taken for a context.
fn odd_name() -> String {
    format!("n{}m", everything().replace(['\0', ':', '/'], ""))
}

/// A service whose every answer is hostile and well-formed.
fn eager(asked: &Asked) -> Answer {
    let p = everything();
    let path = asked.target.split('?').next().unwrap_or_default();
    let ndjson = asked.head.contains("application/x-ndjson");
    let quoted = Value::String(p.clone());
    match (asked.method.as_str(), path) {
        ("GET", "/v1/vms") => {
            let (mut plain, mut odd) = (vm(1, &p), vm(2, &p));
            plain["name"] = "x".into();
            odd["name"] = Value::String(odd_name());
            Answer::json(&json!([plain, odd]))
        }
        (_, path) if path.ends_with("/exec") && ndjson => Answer::new(
            "200 OK",
            "application/x-ndjson",
            format!("{{\"t\":\"x\",\"c\":126,\"d\":{quoted}}}\n"),
        ),
        (_, path) if path.ends_with("/exec") => Answer::json(&json!({
            "exitCode": 3, "stdout": p, "stderr": p, "timedOut": false, "stdoutTruncated": false, "stderrTruncated": false,
            "durationMs": 1,
        })),
        (_, path) if path.starts_with("/v1/snapshots") || path == "/v1/snapshots" => {
            Answer::json(&json!({
                "id": p, "name": p, "vmId": p, "status": "ready", "createdAt": p, "orgId": p, "strange": p,
            }))
        }
        (_, path) if path.contains("presign") => Answer::json(&json!({
            "uploadUrl": format!("http://127.0.0.1:1/{p}"), "downloadUrl": p, "expiresInSec": 1, "maxUploadBytes": 1 << 30,
        })),
        _ => {
            let mut vm = vm(1, &p);
            vm["status"] = "running".into();
            vm["deleted"] = true.into();
            vm["token"] = p.clone().into();
            vm["websocketPath"] = p.clone().into();
            vm["expiresInSec"] = 60.into();
            Answer::json(&vm)
        }
    }
}

/// The commands of the compute API, about a machine of the service.
const VERBS: &[&[&str]] = &[
    &["show", "x"],
    &["show", "x", "-o", "wide"],
    &["show", "x", "-o", "csv"],
    &["show", "x", "-o", "name"],
    &["launch", "--name", "x"],
    &["launch", "--name", "x", "-o", "wide"],
    &["snapshot", "x"],
    &["snapshot", "x", "-o", "wide"],
    &["snapshot", "x", "-o", "csv"],
    &["snapshot", "x", "-o", "name"],
    &["pause", "x"],
    &["resume", "x", "-vv"],
    &["fork", "x"],
    &["wait", "x", "--timeout", "2s"],
    &["wait", "x", "--for", "paused", "--timeout", "1s"],
    &["rm", "x", "--yes"],
    &["restore", "x", "s"],
    &["start", "x"],
    &["stop", "x"],
    &["exec", "x", "--", "true"],
    &["run", "--", "true"],
    &["cp", "x:/etc/passwd", "out"],
    &["cp", "x:/etc/passwd", "-"],
    &["cp", "in", "x:/root/in", "--timeout", "20s"],
    &["logs", "x"],
    &["ctx", "test", "evil"],
];

/// An argument in which `x` is another name.
fn spelled(argument: &str, name: &str) -> String {
    match argument.strip_prefix('x') {
        Some(rest) if rest.is_empty() || rest.starts_with(':') => format!("{name}{rest}"),
        _ => argument.to_owned(),
    }
}

#[test]
fn every_verb_on_a_hostile_service() {
    let service = Scripted::new(eager);
    let home = hostile_home(&service);
    std::fs::write(home.path().join("in"), "content").unwrap();
    let odd = odd_name();
    for args in VERBS {
        for name in ["x", &odd] {
            let args: Vec<String> = args.iter().map(|a| spelled(a, name)).collect();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let out = home.run(&args);
            clean_output(&format!("{args:?}"), &out);
            let words = [&out.stdout[..], &out.stderr[..]].concat();
            let found = !String::from_utf8_lossy(&words).contains("not found");
            assert!(found, "{args:?}: {}", String::from_utf8_lossy(&words));
        }
    }
    assert!(service.seen().len() > VERBS.len());
}

/// The native operations that take nothing but what the path names, with as many arguments as that is.
const NATIVE: &[(&str, usize)] = &[
    ("health", 0),
    ("get-vm", 1),
    ("delete-vm", 1),
    ("pause-vm", 1),
    ("resume-vm", 1),
    ("refresh-vm-ttl", 1),
    ("create-console-token", 1),
    ("list-services", 1),
    ("delete-service", 2),
    ("list-bucket-mounts", 1),
    ("get-bucket-mount", 2),
    ("delete-bucket-mount", 2),
    ("list-ssh-keys", 0),
    ("delete-ssh-key", 1),
    ("list-snapshots", 0),
    ("get-snapshot", 1),
    ("delete-snapshot", 1),
    ("list-snapshot-imports", 0),
    ("get-snapshot-import", 1),
    ("delete-snapshot-import", 1),
    ("cancel-snapshot-import", 1),
    ("get-org-quotas", 0),
    ("get-volume", 1),
    ("delete-volume", 1),
    ("list-volume-attachments", 1),
    ("get-build", 1),
];

#[test]
fn every_native_operation_on_a_hostile_service() {
    let service = Scripted::new(eager);
    let home = hostile_home(&service);
    for (operation, arguments) in NATIVE {
        for format in ["table", "csv"] {
            let mut args = vec!["fastvm", operation];
            args.extend(std::iter::repeat_n("x", *arguments));
            args.extend(["-o", format]);
            let out = home.run(&args);
            assert_ne!(out.status.code(), Some(2), "{args:?}: {out:?}");
            clean_output(&format!("{args:?}"), &out);
        }
    }
    assert!(service.seen().len() >= 2 * NATIVE.len());
}

/// Makes the same answer again and again.
type Telling = Box<dyn Fn() -> Answer + Send + Sync>;

#[test]
fn every_error_of_a_hostile_service() {
    let p = everything();
    let quoted = Value::String(p.clone());
    let latin: Vec<u8> = (0x80..=0xffu8).chain(*b"x").collect();
    let error = json!({"error": p, "message": p, "detail": p, "dimension": p, "code": p});
    let answers: Vec<(&str, Telling)> = vec![
        ("400", {
            let error = error.to_string();
            Box::new(move || Answer::new("400 no", "application/json", error.clone()))
        }),
        ("401", {
            let error = error.to_string();
            Box::new(move || Answer::new("401 no", "application/json", error.clone()))
        }),
        ("409 with headers", {
            let (error, latin) = (error.to_string(), latin.clone());
            Box::new(move || {
                Answer::new("409 no", "application/json", error.clone())
                    .header("x-request-id", latin.clone())
                    .header("retry-after", latin.clone())
            })
        }),
        ("429", {
            let error = error.to_string();
            Box::new(move || {
                Answer::new("429 no", "application/json", error.clone()).header("retry-after", "0")
            })
        }),
        ("404 as text", {
            let p = p.clone();
            Box::new(move || Answer::new("404 no", "text/plain", p.clone()))
        }),
        ("403 as a page", {
            let p = p.clone();
            Box::new(move || Answer::new("403 no", "text/html", format!("<title>{p}</title>{p}")))
        }),
        ("418 with a wild reason", {
            let mut reason = b"418 ".to_vec();
            reason.extend_from_slice(b"I'm \t a teapot");
            let reason = String::from_utf8(reason).unwrap();
            Box::new(move || Answer::new(&reason, "text/plain", "\u{1b}[2J"))
        }),
        ("a list of another kind", {
            let text = format!("[{quoted}]");
            Box::new(move || Answer::new("200 OK", "application/json", text.clone()))
        }),
        ("a text", {
            let text = quoted.to_string();
            Box::new(move || Answer::new("200 OK", "application/json", text.clone()))
        }),
        ("fields of other kinds", {
            let text =
                json!({"id": [p], "name": {"x": p}, "cpu": p, "memoryMiB": p, "createdAt": [p]})
                    .to_string();
            Box::new(move || Answer::new("200 OK", "application/json", text.clone()))
        }),
        ("no JSON", {
            let p = p.clone();
            Box::new(move || Answer::new("200 OK", "application/json", p.clone()))
        }),
        ("no UTF-8", {
            Box::new(move || {
                Answer::new(
                    "200 OK",
                    "application/json",
                    b"\"\x9b31m\xff\xfe\"".to_vec(),
                )
            })
        }),
        ("depth", {
            Box::new(move || Answer::new("200 OK", "application/json", "[".repeat(1_000_000)))
        }),
        ("a redirect", {
            let latin = latin.clone();
            Box::new(move || {
                Answer::new("302 Found", "text/plain", "").header("location", latin.clone())
            })
        }),
        ("a redirect to a hostile name", {
            Box::new(move || {
                Answer::new("302 Found", "text/plain", "")
                    .header("location", "javascript:alert(1)\t//")
            })
        }),
    ];
    for (what, answer) in answers {
        let service = Scripted::new(move |_| answer());
        let home = hostile_home(&service);
        for args in [
            &["ls", "-vv"][..],
            &["show", "x"],
            &["launch", "--name", "x"],
            &["exec", "x", "--", "true"],
            &["cp", "x:/f", "out"],
            &["fastvm", "get-org-quotas", "-vv"],
        ] {
            let out = home.run(args);
            clean_output(&format!("{what}: {args:?}"), &out);
            assert!(
                !out.stderr.is_empty() || out.status.success(),
                "{what}: {args:?}"
            );
            // The same for programs: one line of JSON, nothing raw in it.
            let mut args = args.to_vec();
            args.retain(|a| *a != "-vv");
            args.insert(1, "-ojson");
            let out = home.run(&args);
            clean_output(&format!("{what}: {args:?}"), &out);
            if !out.status.success() && !out.stderr.is_empty() {
                let error: Value = serde_json::from_slice(&out.stderr)
                    .unwrap_or_else(|e| panic!("{what}: {args:?}: {e}: {out:?}"));
                assert!(error["error"]["kind"].is_string(), "{what}: {error}");
            }
        }
    }
}

#[test]
fn hostile_words_on_our_own_command_line() {
    let home = Home::new();
    for p in payloads() {
        if p.contains('\0') {
            continue;
        }
        let name = format!("a{p}b");
        for args in [
            &["ctx", "add", &name, "fastvm://x"][..],
            &["ctx", "add", "x", &name],
            &["show", "--on", &name, "x"],
            &[&name],
        ] {
            let out = home.run(args);
            assert!(!out.status.success(), "{args:?}");
            clean_output(&format!("{args:?}"), &out);
        }
    }
}
