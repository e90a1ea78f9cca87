//! Hostile names: as arguments, in request lines, as names of instances, snapshots, labels and files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::scripted::{Answer, Scripted};
use crate::support::Home;
use crate::terminal::{clean, payloads};

/// Names that some program somewhere took for something else.
fn names() -> Vec<String> {
    let mut names: Vec<String> = [
        "..",
        ".",
        "../..",
        "../../etc/passwd",
        "/etc/passwd",
        "a/b",
        "a//b",
        "a/./b",
        "a/../b",
        "..\\..\\x",
        "%2e%2e",
        "%2e%2e%2f",
        "..%2f..%2f",
        "a%2fb",
        "a%252fb",
        "%00",
        "%0d%0aX-Injected:%201",
        "a?b=c",
        "a#b",
        "a;b",
        "a&b=c",
        "a b",
        " a ",
        "a+b",
        "a:b",
        "a@b",
        "*",
        "~",
        "~root",
        "$HOME",
        "$(touch injected)",
        "`touch injected`",
        "';touch injected;'",
        "\"quoted\"",
        "a\\",
        "con",
        "nul.txt",
        ".hidden",
        "-",
        "http://evil.example/",
        "//evil.example/x",
        "ünïcødé",
        "你好",
        "e\u{301}",
        "\u{1f600}",
        "\u{ff0e}\u{ff0e}\u{ff0f}x",
        "a\u{2215}b",
    ]
    .map(String::from)
    .to_vec();
    names.extend(
        payloads()
            .into_iter()
            .filter(|p| !p.contains('\0'))
            .map(|p| format!("n{p}m")),
    );
    names.push("x".repeat(64 * 1024));
    names.push("ü".repeat(32 * 1024));
    names
}

#[test]
fn a_name_is_one_segment_of_one_request() {
    assert!(names().len() >= 100);
    let service = Scripted::new(|_| Answer::new("404 no", "application/json", "{}"));
    let home = Home::new();
    home.ok(&[
        "ctx",
        "add",
        "there",
        &service.context(),
        "--secret-from",
        "cmd:echo key",
    ]);
    home.ok(&["ctx", "use", "there"]);
    let mut asked = 0;
    for name in names() {
        let before = service.seen().len();
        let out = home.run(&["fastvm", "get-vm", "--", &name]);
        clean(&name, &out.stderr);
        assert!(!out.status.success());
        let seen = service.seen();
        assert!(seen.len() <= before + 1, "{name:?}: more than one request");
        for request in &seen[before..] {
            asked += 1;
            let target = &request.target;
            let segment = target
                .strip_prefix("/v1/vms/")
                .unwrap_or_else(|| panic!("{name:?}: {target}"));
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%".contains(&b);
            assert!(segment.bytes().all(plain), "{name:?}: {target}");
            assert!(
                ![".", "..", ""].contains(&segment) && !segment.starts_with("%2e%2e"),
                "{name:?}: {target}"
            );
            assert!(!request.head.contains("\nX-Injected"), "{}", request.head);
            assert_eq!(decoded(segment), name, "what arrives is what was meant");
        }
    }
    assert!(asked >= 90, "{asked} names were sent");
    // In a query a name is one value.
    for name in ["a&status=running", "a=b", "a#b", "a b", "+", "%26", "\r\nx"] {
        let before = service.seen().len();
        home.run(&["fastvm", "list-vms", "--status", name]);
        let seen = service.seen();
        let target = &seen[before].target;
        let value = target.strip_prefix("/v1/vms?status=").unwrap();
        assert!(!value.contains(['&', '#', ' ', '=']), "{target}");
        assert_eq!(decoded(&value.replace('+', " ")), name);
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b == b'%' {
            let hex = [rest.next().unwrap(), rest.next().unwrap()];
            let hex = std::str::from_utf8(&hex).unwrap();
            bytes.push(u8::from_str_radix(hex, 16).unwrap());
        } else {
            bytes.push(b);
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// Every path under a directory, but those of the server's own working.
fn census(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                todo.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}

#[test]
fn our_own_server_keeps_names_as_names() {
    let home = Home::with_engine("memory");
    home.ok(&["launch", "--name", "first"]);
    let first = home.json(&["show", "first"])["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let before = census(home.path());
    for name in names() {
        let out = home.run(&[
            "launch",
            &format!("--name={name}"),
            "--label",
            &format!("l={name}"),
            "-o",
            "json",
        ]);
        if out.status.success() {
            let row: Value = serde_json::from_slice(&out.stdout).unwrap();
            let (id, got) = (row["id"].as_str().unwrap(), row["name"].as_str().unwrap());
            assert!(got.chars().count() <= 64, "{name:?}: {got:?}");
            assert!(!got.chars().any(char::is_control), "{name:?}: {got:?}");
            assert_eq!(row["labels"]["l"], json!(name), "a label is kept as it is");
            home.ok(&["rm", "--yes", id]);
        } else {
            // Too long for a label: refused in words that name it, not cut.
            assert!(name.len() > 4096, "{name:?}: {out:?}");
            assert!(
                String::from_utf8_lossy(&out.stderr).contains("metadata"),
                "{out:?}"
            );
        }
        clean(&name, &out.stderr);
    }
    for name in names().iter().take(60) {
        // As the name of what is not there.
        for args in [
            &["show", "--", name][..],
            &["rm", "--yes", "--", name],
            &["exec", name, "true"],
        ] {
            let out = home.run(args);
            let code = out.status.code().unwrap();
            assert!([2, 3, 125].contains(&code), "{args:?}: {out:?}");
            clean(name, &out.stderr);
        }
        // As a snapshot's.
        let row = home.json(&["snapshot", &first, &format!("--name={name}")]);
        let got = row["name"].as_str().unwrap();
        assert!(
            !got.is_empty() && !got.chars().any(char::is_control),
            "{row}"
        );
        home.ok(&["fastvm", "delete-snapshot", row["id"].as_str().unwrap()]);
    }
    assert_eq!(home.json(&["ls"]).as_array().unwrap().len(), 1);
    let grown: Vec<PathBuf> = census(home.path())
        .difference(&before)
        .filter(|p| !p.starts_with(home.path().join(".local/share/boxrig")))
        .cloned()
        .collect();
    assert!(grown.is_empty(), "{grown:?}");
    assert!(!home.path().join("injected").exists());
}

#[test]
fn environment_and_labels_have_their_limits() {
    let home = Home::with_engine("memory");
    for (flag, value, field) in [
        ("--env", "1A=x", "envVars"),
        ("--env", "A-B=x", "envVars"),
        ("--env", "A B=x", "envVars"),
        ("--env", "ü=x", "envVars"),
        ("--env", "A\u{1b}=x", "envVars"),
        ("--env", "A=x\ny", "envVars"),
        ("--env", "A=x\ry", "envVars"),
        ("--label", &format!("{}=x", "k".repeat(257)), "metadata"),
        ("--label", &format!("k={}", "v".repeat(4097)), "metadata"),
    ] {
        let (code, words) = home.fails(&["launch", flag, value]);
        assert_eq!(code, 2, "{value:?}: {words}");
        assert!(words.contains(field), "{value:?}: {words}");
        clean(value, words.as_bytes());
    }
    assert_eq!(home.ok(&["ls", "-o", "name"]), "");
}
