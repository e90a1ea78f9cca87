//! A service that sends its clients elsewhere: by redirects, staging URLs, console paths. The key never goes with them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use boxrig_fastvm::{Client, ConsoleSize};
use serde_json::json;

use crate::scripted::{Answer, Asked, Scripted};
use crate::support::Home;

const KEY: &str = "canary-key-4d8e1f";

/// Where the service of a test leads; made before the service, so that it can name the other one.
struct Place {
    other: Scripted,
    api: Scripted,
}

/// A service that answers by `lead`, which is given the request and the other's origin, and the usual things else.
fn place(lead: impl Fn(&Asked, &str) -> Option<Answer> + Send + Sync + 'static) -> Place {
    let other = Scripted::new(|_| Answer::json(&json!({"stolen": true})));
    let origin = other.origin.clone();
    let api = Scripted::new(move |asked| {
        if let Some(answer) = lead(asked, &origin) {
            return answer;
        }
        match asked.target.split('?').next().unwrap_or_default() {
            path if path.ends_with("/exec") => Answer::json(&json!({
                "exitCode": 0, "stdout": "kind=file\nsize=3\nhead=0\ncurl=0\n", "stderr": "", "timedOut": false,
                "stdoutTruncated": false, "stderrTruncated": false, "durationMs": 1,
            })),
            path => {
                let vm = json!({
                    "id": "x", "name": "x", "orgId": "o", "cpu": 1, "memoryMiB": 1024, "diskGiB": 1,
                    "status": "running", "createdAt": "2026-11-21T00:00:00Z",
                });
                let many = asked.method == "GET" && path == "/v1/vms";
                Answer::json(&if many { json!([vm]) } else { vm })
            }
        }
    });
    Place { other, api }
}

impl Place {
    fn home(&self) -> Home {
        let home = Home::new();
        let secret = format!("cmd:printf {KEY}");
        home.ok(&[
            "ctx",
            "add",
            "evil",
            &self.api.context(),
            "--secret-from",
            &secret,
        ]);
        home.ok(&["ctx", "use", "evil"]);
        std::fs::write(home.path().join("file"), "abc").unwrap();
        std::fs::create_dir(home.path().join("dir")).unwrap();
        std::fs::write(home.path().join("dir/file"), "abc").unwrap();
        home
    }

    /// What came to the other host holds no credential; gives how much came.
    fn nothing_stolen(&self, what: &str) -> usize {
        let seen = self.other.seen();
        for asked in &seen {
            let text = format!("{}{}", asked.head, String::from_utf8_lossy(&asked.body));
            assert!(!text.contains(KEY), "{what}: {text}");
            let head = asked.head.to_ascii_lowercase();
            for name in ["x-api-key", "authorization", "cookie"] {
                assert!(!head.contains(name), "{what}: {head}");
            }
        }
        seen.len()
    }
}

/// The key did go where it belongs, so its absence elsewhere says something.
fn key_was_used(place: &Place, what: &str) {
    assert!(
        place
            .api
            .seen()
            .iter()
            .any(|asked| asked.head.contains(KEY)),
        "{what}: the service never got the key"
    );
}

#[test]
fn redirects_take_no_key_along() {
    for status in ["301 a", "302 a", "303 a", "307 a", "308 a"] {
        for form in [
            "{other}/v1/vms",
            "//{host}/v1/vms",
            "http://127.0.0.1@{host}/v1/vms",
            "http://canary:canary@{host}/",
            "HTTP://{host}/",
            "{other}/%2e%2e/\\..",
            "ws://{host}/",
            "file:///etc/passwd",
        ] {
            let place = place(move |_, other| {
                let location = form
                    .replace("{other}", other)
                    .replace("{host}", other.trim_start_matches("http://"));
                Some(Answer::new(status, "text/plain", "").header("location", location))
            });
            let home = place.home();
            for args in [
                &["ls"][..],
                &["fastvm", "get-org-quotas"],
                &["launch", "--name", "x"],
                &["api", "evil", "GET", "/v1/vms"],
            ] {
                let out = home.run(args);
                assert!(
                    !String::from_utf8_lossy(&out.stderr).contains(KEY),
                    "{out:?}"
                );
            }
            key_was_used(&place, form);
            place.nothing_stolen(&format!("{status} to {form}"));
            // What changes something is never sent on.
            let changes = place.other.seen();
            assert!(
                changes.iter().all(|asked| asked.method != "POST"),
                "{status} {form}"
            );
        }
    }
}

/// Staging addresses that a service may think of. `{other}` is the other host's origin, `{host}` its name and port.
const STAGING: &[&str] = &[
    "{other}/bucket/object?signature=1",
    "{other}",
    "http://{host}@{host}/",
    "http://user:password@{host}/x",
    "http://{host}\\@127.0.0.1/",
    "http://{host}\r\nX-Injected: 1/",
    "http://{host}/a b",
    "http://{host}/\r\nX-Injected: 1",
    "//{host}/x",
    "/v1/vms/x",
    "file:///etc/passwd",
    "file://{host}/etc/passwd",
    "ftp://{host}/x",
    "gopher://{host}/x",
    "data:text/plain,x",
    "javascript:alert(1)",
    "unix:///run/docker.sock",
    "ws://{host}/x",
    "http://",
    "http:///x",
    "http://[::1/x",
    "http://{host}:99999/",
    "",
    " ",
    "\u{0}",
    "-o/etc/cron.d/x",
    "--config=/etc/passwd",
    "$(touch injected)",
    "`touch injected`",
    "';touch injected;'",
    "\u{1b}]0;owned\u{7}",
];

#[test]
fn staging_urls_get_content_and_no_key() {
    let mut reached = 0;
    for form in STAGING {
        let place = place(move |asked, other| {
            let url = form
                .replace("{other}", other)
                .replace("{host}", other.trim_start_matches("http://"));
            asked.target.ends_with("/presign").then(|| {
                Answer::json(&json!({
                    "uploadUrl": url, "downloadUrl": url, "expiresInSec": 60, "maxUploadBytes": 1 << 30,
                }))
            })
        });
        let home = place.home();
        for args in [
            &["cp", "file", "x:/root/file", "--timeout", "10s"][..],
            &["cp", "dir", "x:/root/dir", "--timeout", "10s"],
            &["cp", "x:/root/file", "out", "--timeout", "10s"],
        ] {
            let out = home.run(args);
            crate::terminal::clean(form, &out.stderr);
            assert!(
                !String::from_utf8_lossy(&out.stderr).contains(KEY),
                "{out:?}"
            );
        }
        key_was_used(&place, form);
        reached += place.nothing_stolen(form);
        for asked in place.other.seen().iter().chain(&place.api.seen()) {
            assert!(
                !asked.head.contains("\nX-Injected"),
                "{form}: {}",
                asked.head
            );
        }
        // The API's own host gets no key for a staging object either: signed addresses refuse one.
        for asked in place.api.seen() {
            let is_staging = !asked.target.starts_with("/v1/vms");
            assert!(
                !is_staging || !asked.head.contains(KEY),
                "{form}: {}",
                asked.head
            );
        }
        assert!(!home.path().join("injected").exists(), "{form}");
        assert!(!home.path().join("etc").exists(), "{form}");
    }
    assert!(reached >= 2, "the good address was used: {reached}");
}

#[tokio::test]
async fn console_paths_take_no_key_along() {
    let form = Arc::new(Mutex::new(String::new()));
    let now = form.clone();
    let place = place(move |asked, other| {
        let path = now
            .lock()
            .unwrap()
            .replace("{host}", other.trim_start_matches("http://"));
        asked.target.ends_with("/console-token").then(|| {
            Answer::json(&json!({"token": "one-time", "expiresInSec": 60, "websocketPath": path}))
        })
    });
    let client = Client::builder()
        .api_key(KEY)
        .base_url(&place.api.origin)
        .timeout(Some(Duration::from_secs(5)))
        .build()
        .unwrap();
    for path in [
        "ws://{host}/console",
        "ws://127.0.0.1@{host}/console",
        "ws://{host}/console?session=mine",
        "//{host}/console",
        "http://{host}/console",
        "file:///etc/passwd",
        "@{host}/console",
        ".{host}/console",
        ":80@{host}/console",
        "",
        "console",
        "\\\\{host}\\console",
        "/console\r\nX-Injected: 1",
        "/../../v1/vms",
    ] {
        *form.lock().unwrap() = path.to_owned();
        let size = ConsoleSize { cols: 80, rows: 24 };
        let e = client.vms().console("x", size).await.unwrap_err();
        let words = format!("{e} {e:?}");
        assert!(!words.contains(KEY), "{path}: {words}");
        assert!(!words.contains("one-time"), "{path}: {words}");
        place.nothing_stolen(path);
    }
    key_was_used(&place, "console");
    // To the service's own host too it is the token that opens a console, and nothing else.
    for asked in place.api.seen() {
        let is_token = asked.target.ends_with("/console-token");
        assert!(is_token || !asked.head.contains(KEY), "{}", asked.head);
        assert!(!asked.head.contains("\nX-Injected"), "{}", asked.head);
    }
}
