//! Documents and contents: wrong in every field, without end, deeper than anything, in thousands at once.

use std::time::{Duration, Instant};

use boxrig_server::testing::Server;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::{call, count, machine, send, split, statuses};

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// What no member of a request may be, one way or another.
const VALUES: &[&str] = &[
    "[[]]",
    "{\"a\":{\"b\":[1]}}",
    "-1",
    "1.5",
    "1e400",
    "99999999999999999999999",
    "true",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"../../etc/passwd\"",
    "\"\\u001b]0;owned\\u0007\"",
];

/// Operations, a good body with `@` where a member's value is, and the member.
const MEMBERS: &[(&str, &str, &str, &str)] = &[
    ("POST", "/v1/vms", r#"{"machineType":@}"#, "machineType"),
    ("POST", "/v1/vms", r#"{"snapshotId":@}"#, "snapshotId"),
    (
        "POST",
        "/v1/vms",
        r#"{"machineType":"c1m1","name":@}"#,
        "name",
    ),
    (
        "POST",
        "/v1/vms",
        r#"{"machineType":"c1m1","diskGiB":@}"#,
        "diskGiB",
    ),
    (
        "POST",
        "/v1/vms",
        r#"{"machineType":"c1m1","metadata":@}"#,
        "metadata",
    ),
    (
        "POST",
        "/v1/vms",
        r#"{"machineType":"c1m1","envVars":@}"#,
        "envVars",
    ),
    (
        "POST",
        "/v1/vms",
        r#"{"machineType":"c1m1","ttl":@}"#,
        "ttl",
    ),
    (
        "POST",
        "/v1/vms",
        r#"{"machineType":"c1m1","ttl":{"seconds":@,"action":"pause"}}"#,
        "seconds",
    ),
    (
        "POST",
        "/v1/vms",
        r#"{"machineType":"c1m1","ttl":{"seconds":5,"action":@}}"#,
        "action",
    ),
    (
        "POST",
        "/v1/vms",
        r#"{"machineType":"c1m1","firewall":@}"#,
        "firewall",
    ),
    ("PATCH", "/v1/vms/{id}", r#"{"metadata":@}"#, "metadata"),
    ("PATCH", "/v1/vms/{id}", r#"{"ttl":@}"#, "ttl"),
    ("POST", "/v1/vms/{id}/exec", r#"{"command":@}"#, "command"),
    (
        "POST",
        "/v1/vms/{id}/exec",
        r#"{"command":["true"],"stdin":@}"#,
        "stdin",
    ),
    (
        "POST",
        "/v1/vms/{id}/exec",
        r#"{"command":["true"],"timeoutSec":@}"#,
        "timeoutSec",
    ),
    (
        "POST",
        "/v1/vms/{id}/files/presign",
        r#"{"path":@}"#,
        "path",
    ),
    (
        "POST",
        "/v1/vms/{id}/files/fetch",
        r#"{"path":"/x","url":@}"#,
        "url",
    ),
    ("POST", "/v1/snapshots", r#"{"vmId":@}"#, "vmId"),
];

#[tokio::test]
async fn a_wrong_member_is_refused_and_changes_nothing() {
    let server = Server::start().await.unwrap();
    let id = machine(&server).await;
    let mut tried = 0;
    for (method, path, body, member) in MEMBERS {
        for value in VALUES {
            let path = path.replace("{id}", &id);
            let body = body.replace('@', value);
            let (status, text) = call(&server, method, &path, body.as_bytes()).await;
            tried += 1;
            // Some of these are good: a name may look odd, a path may be any.
            if (200..300).contains(&status) {
                let text_member =
                    ["name", "path", "stdin"].contains(member) && value.starts_with('"');
                assert!(text_member, "{method} {path} {body}: {status} {text}");
                if let Ok(Value::Object(vm)) = serde_json::from_str(&text)
                    && path == "/v1/vms"
                {
                    let name = vm["name"].as_str().unwrap();
                    assert!(!name.chars().any(char::is_control), "{name:?}");
                    let made = format!("/v1/vms/{}", vm["id"].as_str().unwrap());
                    assert_eq!(call(&server, "DELETE", &made, b"").await.0, 200);
                }
                continue;
            }
            assert!(
                matches!(status, 400 | 404 | 409 | 422 | 429 | 501),
                "{method} {path} {body}: {status} {text}"
            );
            let error: Value =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{body}: {e}: {text}"));
            let words = error["error"].as_str().unwrap();
            assert!(
                !words.is_empty() && !text.contains('\u{1b}'),
                "{body}: {text}"
            );
            if status == 400 && !value.contains("ud800") && !value.contains("1e400") {
                assert!(words.contains(member), "{body}: {words}");
            }
        }
    }
    assert!(tried >= 190, "{tried}");
    assert_eq!(count(&server).await, 1);
    server.stop().await;
}

#[tokio::test]
async fn documents_that_are_none() {
    let server = Server::start().await.unwrap();
    let deep_list = "[".repeat(200_000);
    let deep_object = "{\"a\":".repeat(200_000);
    let deep_member = format!(
        "{{\"machineType\":\"c1m1\",\"metadata\":{}",
        "{\"a\":".repeat(100_000)
    );
    let many = format!(
        "{{\"machineType\":\"c1m1\",\"metadata\":{{{}\"z\":\"\"}}}}",
        (0..100_000).fold(String::new(), |s, n| s + &format!("\"k{n}\":\"v\","))
    );
    let long = format!("{{\"machineType\":\"{}\"}}", "c".repeat(500_000));
    let cases: &[(&str, &[u8])] = &[
        ("nothing", b""),
        ("no text", b"\xff\xfe\x00\x01"),
        ("cut", b"{\"machineType\":\"c1m1\""),
        (
            "two",
            b"{\"machineType\":\"c1m1\"}{\"machineType\":\"c1m1\"}",
        ),
        ("a list", b"[]"),
        ("a number", b"5"),
        ("null", b"null"),
        ("a text", b"\"c1m1\""),
        ("a comment", b"{\"machineType\":\"c1m1\"/* x */}"),
        ("a comma too many", b"{\"machineType\":\"c1m1\",}"),
        ("single quotes", b"{'machineType':'c1m1'}"),
        ("another encoding", b"{\0\"\0m\0\"\0:\x001\0}\0"),
        (
            "a mark at the start",
            b"\xef\xbb\xbf{\"machineType\":\"c1m1\"}",
        ),
        ("no text within", b"{\"machineType\":\"\xff\"}"),
        (
            "not a number",
            b"{\"machineType\":\"c1m1\",\"diskGiB\":NaN}",
        ),
        ("a page", b"<html></html>"),
        ("a form", b"machineType=c1m1"),
        ("deep lists", deep_list.as_bytes()),
        ("deep objects", deep_object.as_bytes()),
        ("deep within", deep_member.as_bytes()),
        ("many members", many.as_bytes()),
        ("a long member", long.as_bytes()),
    ];
    for (what, body) in cases {
        let started = Instant::now();
        let (status, text) = call(&server, "POST", "/v1/vms", body).await;
        assert!(
            matches!(status, 400 | 413),
            "{what}: {status} {}",
            &text[..text.len().min(300)]
        );
        assert!(
            text.len() < 2000,
            "{what}: an answer of {} bytes",
            text.len()
        );
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "{what}: {:?}",
            started.elapsed()
        );
    }
    assert_eq!(count(&server).await, 0);
    server.stop().await;
}

/// Sends a head and then content until the server has had enough; gives the answer and how much it took.
async fn pour(server: &Server, head: String, chunked: bool) -> (String, u64) {
    let address = server.url().replace("http://", "");
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let feed = tokio::spawn(async move {
        let _ = write.write_all(head.as_bytes()).await;
        let mut piece = b"10000\r\n".to_vec();
        piece.extend(std::iter::repeat_n(b'[', 0x10000));
        piece.extend_from_slice(b"\r\n");
        let piece = if chunked {
            &piece[..]
        } else {
            &piece[7..7 + 0x10000]
        };
        let mut sent = 0;
        while sent < 300 << 20 && write.write_all(piece).await.is_ok() {
            sent += 0x10000;
        }
        sent
    });
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(Ok(n @ 1..)) =
        tokio::time::timeout(Duration::from_secs(10), read.read(&mut chunk)).await
    {
        answer.extend_from_slice(&chunk[..n]);
        if answer.len() > 65536 {
            break;
        }
    }
    drop(read);
    (
        String::from_utf8_lossy(&answer).into_owned(),
        feed.await.unwrap(),
    )
}

/// Runs a test once more in a process of its own, whose memory is that of the test alone; true in the one that asked.
fn alone(test: &str) -> bool {
    if std::env::var_os("BOXRIG_TEST_ALONE").is_some() {
        return false;
    }
    let done = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env("BOXRIG_TEST_ALONE", "1")
        .status()
        .unwrap();
    assert!(done.success(), "{test} by itself");
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_gigabytes_are_not_taken() {
    if alone("bodies::bodies_of_gigabytes_are_not_taken") {
        return;
    }
    let server = Server::start().await.unwrap();
    let id = machine(&server).await;
    let key = server.api_key();
    let before = resident();
    for (method, path) in [
        ("POST", "/v1/vms".to_owned()),
        ("PATCH", format!("/v1/vms/{id}")),
        ("POST", format!("/v1/vms/{id}/exec")),
        ("POST", "/v1/snapshots".to_owned()),
        ("POST", "/v1/volumes".to_owned()),
        ("POST", "/no/such/path".to_owned()),
    ] {
        for (length, chunked) in [
            ("Content-Length: 10737418240", false),
            ("Transfer-Encoding: chunked", true),
        ] {
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
            );
            let (answer, sent) = pour(&server, head, chunked).await;
            let got = statuses(&answer);
            assert!(
                matches!(got[..], [400..=501]),
                "{method} {path} {length}: {got:?} after {sent}"
            );
            assert!(
                sent < 150 << 20,
                "{method} {path} {length}: {sent} bytes were taken"
            );
        }
    }
    let grown = resident().saturating_sub(before) >> 20;
    println!("{grown} MiB more after twelve endless bodies");
    assert!(grown <= 100, "{grown} MiB");
    assert_eq!(
        call(&server, "GET", &format!("/v1/vms/{id}"), b"").await.0,
        200
    );
    server.stop().await;
}

#[tokio::test]
async fn names_of_every_kind_stay_names() {
    let server = Server::start().await.unwrap();
    let long = "n".repeat(65_536);
    let names: Vec<String> = [
        "..",
        "../../x",
        "/etc/passwd",
        "a\u{0}b",
        "\u{1b}[2J",
        "\u{202e}x",
        "\u{9b}31m",
        "%2f%2e%2e",
        "a\r\nX-Injected: 1",
        " ",
        "",
        "\u{1f600}",
    ]
    .iter()
    .map(|n| (*n).to_owned())
    .chain([long])
    .collect();
    for name in &names {
        let mut body = serde_json::json!({"machineType": "c1m1", "name": name});
        if !name.is_empty() && name.len() <= 256 {
            body["metadata"] = serde_json::json!({name: name});
        }
        let (status, text) = call(&server, "POST", "/v1/vms", body.to_string().as_bytes()).await;
        assert_eq!(status, 201, "{name:?}: {text}");
        let vm: Value = serde_json::from_str(&text).unwrap();
        let got = vm["name"].as_str().unwrap();
        assert!((1..=64).contains(&got.chars().count()), "{got:?}");
        assert!(!got.chars().any(char::is_control), "{got:?}");
        if let Some(metadata) = body.get("metadata") {
            assert_eq!(&vm["metadata"], metadata, "kept as it is");
        }
        let id = vm["id"].as_str().unwrap();
        let snapshot = serde_json::json!({"vmId": id, "name": name}).to_string();
        let (status, text) = call(&server, "POST", "/v1/snapshots", snapshot.as_bytes()).await;
        assert_eq!(status, 201, "{name:?}: {text}");
        let snapshot: Value = serde_json::from_str(&text).unwrap();
        assert!(
            !snapshot["name"]
                .as_str()
                .unwrap()
                .chars()
                .any(char::is_control),
            "{text}"
        );
        // No name is an address.
        let encoded: String = name
            .bytes()
            .take(300)
            .map(|b| format!("%{b:02x}"))
            .collect();
        for path in [
            format!("/v1/vms/{encoded}"),
            format!("/v1/snapshots/{encoded}"),
        ] {
            if !encoded.is_empty() {
                let (status, text) = call(&server, "GET", &path, b"").await;
                assert!(matches!(status, 404 | 400), "{path}: {status} {text}");
            }
        }
        assert_eq!(
            call(&server, "DELETE", &format!("/v1/vms/{id}"), b"")
                .await
                .0,
            200
        );
    }
    let folder = server.dir().to_owned();
    let strange: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .filter(|n| n != "data")
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_full_quota_is_429_as_documented() {
    let server = Server::start().await.unwrap();
    let quotas = call(&server, "GET", "/v1/org/quotas", b"").await.1;
    let quotas: Value = serde_json::from_str(&quotas).unwrap();
    for (machine_type, dimension) in [("c99999m1", "vcpu"), ("c1m99999", "memory_mib")] {
        let body = format!("{{\"machineType\":\"{machine_type}\"}}");
        let (status, text) = call(&server, "POST", "/v1/vms", body.as_bytes()).await;
        assert_eq!(status, 429, "{quotas}: {text}");
        let error: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(error["dimension"], dimension, "{text}");
        assert!(error["error"].is_string(), "{text}");
    }
    assert_eq!(count(&server).await, 0);
    server.stop().await;
}

#[tokio::test]
async fn staging_objects_are_not_guessed() {
    let server = Server::start().await.unwrap();
    let (one, two) = (machine(&server).await, machine(&server).await);
    let mut urls = Vec::new();
    for id in [&one, &two] {
        let path = format!("/v1/vms/{id}/files/presign");
        let (status, text) = call(&server, "POST", &path, br#"{"path":"/x"}"#).await;
        assert_eq!(status, 200, "{text}");
        let staging: Value = serde_json::from_str(&text).unwrap();
        let url = staging["uploadUrl"].as_str().unwrap();
        urls.push(url.strip_prefix(&server.url()).unwrap().to_owned());
    }
    let ask = async |method: &str, target: &str, body: &str| {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        split(&send(&server, request.as_bytes()).await)
    };
    assert_eq!(ask("PUT", &urls[0], "mine").await.0, 204);
    assert_eq!(ask("GET", &urls[0], "").await, (200, "mine".to_owned()));
    let good = &urls[0];
    // Any one character of the address that is another makes it nobody's.
    let mut tried = 0;
    for (i, c) in good
        .char_indices()
        .filter(|(_, c)| c.is_ascii_alphanumeric())
    {
        if i % 3 != 0 {
            continue;
        }
        let other = if c == 'a' { 'b' } else { 'a' };
        let bad: String = good
            .char_indices()
            .map(|(j, d)| if i == j { other } else { d })
            .collect();
        for method in ["GET", "PUT"] {
            let (status, text) = ask(method, &bad, "").await;
            assert!(
                (400..500).contains(&status),
                "{method} {bad}: {status} {text}"
            );
            tried += 1;
        }
    }
    assert!(tried >= 20, "{tried}");
    for more in [
        "/../",
        "/..%2f",
        "%00",
        "/.",
        "?x=1",
        "&expires=99999999999",
    ] {
        let (status, _) = ask("DELETE", &format!("{good}{more}"), "").await;
        assert!((400..500).contains(&status), "{more}");
    }
    assert_eq!(
        ask("GET", good, "").await,
        (200, "mine".to_owned()),
        "and it is there still"
    );
    server.stop().await;
}
