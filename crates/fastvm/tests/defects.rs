//! The defects that were found in the vendor's SDKs, one by one, against a listener that provokes them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use boxrig_fastvm::*;
use boxrig_wire::{CallOptions, Kind};
use common::{End, Reply, Script};
use futures_util::StreamExt;
use serde_json::json;

fn vm(status: &str) -> serde_json::Value {
    json!({"id": "v", "name": "n", "orgId": "o", "cpu": 1, "memoryMiB": 2048, "diskGiB": 10,
        "status": status, "createdAt": "2026-05-01T10:00:00Z"})
}

fn presigned(url: &str) -> Reply {
    Reply::json(
        200,
        json!({"uploadUrl": format!("{url}/put?sig=s"), "downloadUrl": format!("{url}/get?sig=s"),
            "expiresInSec": 900, "maxUploadBytes": 1 << 30}),
    )
}

/// A machine whose commands all succeed, with files that are taken and none given.
fn taking(seen: &common::Seen, url: &str) -> Reply {
    match seen.path.as_str() {
        p if p.ends_with("/presign") => presigned(url),
        "/put" => Reply::json(200, json!({})),
        _ => Reply::exec(0, "", ""),
    }
}

/// D1: run and launch are sent once, whatever is answered, and say so when it is not known whether they happened.
#[tokio::test]
async fn d01_run_and_launch_are_never_sent_twice() {
    for status in [500, 502, 503, 504, 408, 429] {
        let script = Script::new(move |_, _, _| Reply::json(status, json!({"error": "no"}))).await;
        script.client().vms().run("v", "true").await.unwrap_err();
        assert_eq!(script.lines(), ["POST /v1/vms/v/exec"], "{status}");
        let script = Script::new(move |s, _, _| match s.method.as_str() {
            "POST" => Reply::json(status, json!({"error": "no"})),
            _ => Reply::json(200, json!([])),
        })
        .await;
        script
            .client()
            .vms()
            .launch(Launch::new("c1m2"))
            .await
            .unwrap_err();
        let posts = script
            .lines()
            .iter()
            .filter(|l| *l == "POST /v1/vms")
            .count();
        assert_eq!(posts, 1, "{status}");
    }
    let script = Script::new(|_, _, _| Reply::Drop).await;
    let e = script.client().vms().run("v", "true").await.unwrap_err();
    assert_eq!((e.kind(), script.seen().len()), (Kind::OutcomeUnknown, 1));
}

/// D1: a launch whose answer was lost is found again by its token, not made twice.
#[tokio::test]
async fn d01_a_lost_launch_is_found_again() {
    let token = Arc::new(std::sync::Mutex::new(String::new()));
    let left = token.clone();
    let script = Script::new(move |s, _, _| match s.line().as_str() {
        "POST /v1/vms" => {
            let sent = s.json()["metadata"][TOKEN_KEY].as_str().unwrap().to_owned();
            *left.lock().unwrap() = sent;
            Reply::Drop
        }
        "GET /v1/vms" => {
            let token = left.lock().unwrap().clone();
            assert_eq!(s.query, format!("metadata.{TOKEN_KEY}={token}"));
            let mut ours = vm("provisioning");
            ours["metadata"] = json!({TOKEN_KEY: token});
            Reply::json(200, json!([vm("running"), ours]))
        }
        _ => Reply::json(200, vm("running")),
    })
    .await;
    let launched = script
        .client()
        .vms()
        .launch(Launch::new("c1m2"))
        .await
        .unwrap();
    assert_eq!(launched.vm.status, VmStatus::Running);
    assert_eq!(
        script.lines(),
        ["POST /v1/vms", "GET /v1/vms", "GET /v1/vms/v"]
    );
    // One that is not found is not made again, and the error says how to look.
    let script = Script::new(move |s, _, _| match s.line().as_str() {
        "POST /v1/vms" => Reply::Drop,
        _ => Reply::json(200, json!([vm("running")])),
    })
    .await;
    let e = script
        .client()
        .vms()
        .launch(Launch::new("c1m2"))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::OutcomeUnknown);
    assert!(e.hint().unwrap().contains(TOKEN_KEY), "{:?}", e.hint());
    assert_eq!(
        script
            .lines()
            .iter()
            .filter(|l| l.starts_with("POST"))
            .count(),
        1
    );
    // With retries asked for it is, after looking, and with the same key.
    let script = Script::new(move |s, n, _| match (s.line().as_str(), n) {
        ("POST /v1/vms", 0) => Reply::Drop,
        ("POST /v1/vms", _) => Reply::json(201, vm("running")),
        _ => Reply::json(200, json!([])),
    })
    .await;
    let client = script.client();
    let twice = client.vms().with(CallOptions::new().retries(1));
    twice.launch(Launch::new("c1m2")).await.unwrap();
    let posts: Vec<_> = script
        .seen()
        .into_iter()
        .filter(|s| s.method == "POST")
        .collect();
    assert_eq!(posts.len(), 2);
    assert_eq!(
        posts[0].header("idempotency-key"),
        posts[1].header("idempotency-key")
    );
    assert_eq!(posts[0].body, posts[1].body);
}

/// D2: a file that cannot be read fails the upload of its directory; nothing is lost silently.
#[cfg(unix)]
#[tokio::test]
async fn d02_an_unreadable_file_fails_the_upload() {
    let script = Script::new(|s, _, url| taking(s, url)).await;
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(dir.path().join(name), vec![1; 400_000]).unwrap();
    }
    // A link in the place of a directory's entry that cannot be opened, for root cannot be kept out by modes.
    fs::remove_file(dir.path().join("b")).unwrap();
    unreadable(&dir.path().join("b"));
    let e = script
        .client()
        .upload("v", dir.path(), "/root/d")
        .await
        .unwrap_err();
    assert!(e.to_string().contains("b"), "{e}");
    assert!(matches!(e.kind(), Kind::Denied | Kind::Failed), "{e:?}");
    // The storage never saw a whole body, and the machine never fetched.
    for seen in script.seen() {
        assert!(
            seen.path != "/put" || !seen.whole,
            "a whole archive was sent"
        );
        assert!(!seen.path.ends_with("/fetch"));
    }
}

/// A file that even root cannot read: on Linux a file of the kernel's that refuses.
#[cfg(unix)]
fn unreadable(at: &std::path::Path) {
    fs::write(at, "x").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(at, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(at).is_ok() {
        // Root reads everything; what fails for it, too, is a name that is taken by a file that vanishes in between. A FIFO would
        // be skipped, so a file that shrinks while it is read stands in: its size is announced, its bytes are not there.
        fs::remove_file(at).unwrap();
        let file = fs::File::create(at).unwrap();
        file.set_len(3 << 30).unwrap();
        let path = at.to_owned();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(150));
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(10)
                .unwrap();
        });
    }
}

/// D3: the machine's own result of a fetch counts.
#[tokio::test]
async fn d03_a_failed_fetch_fails_the_upload() {
    let script = Script::new(|s, _, url| match s.path.as_str() {
        p if p.ends_with("/fetch") => Reply::exec(23, "", "curl: (23) disk full"),
        p if p.ends_with("/exec") => Reply::exec(3, "", ""),
        _ => taking(s, url),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "x").unwrap();
    for local in [dir.path().join("f"), dir.path().to_owned()] {
        let e = script
            .client()
            .upload("v", &local, "/root/f")
            .await
            .unwrap_err();
        assert_eq!(e.code().unwrap().raw(), "file_transfer_failed");
        assert!(e.to_string().contains("disk full"), "{e}");
        // The whole result goes with the error.
        let body: ExecResponse = serde_json::from_str(e.body().unwrap().raw()).unwrap();
        assert_eq!(body.exit_code, 23);
    }
}

/// D4, D5: an upload ends, and holds little: the storage takes the first bytes, waits, and the client waits with it.
#[tokio::test]
async fn d04_d05_uploads_end_and_wait_for_the_reader() {
    let script = Script::new(|s, _, url| taking(s, url)).await;
    let dir = tempfile::tempdir().unwrap();
    for round in 0..12 {
        fs::write(dir.path().join(format!("f{round}")), vec![round; 100_000]).unwrap();
        let client = script.client();
        let up = client.upload("v", dir.path(), "/root/d");
        tokio::time::timeout(Duration::from_secs(10), up)
            .await
            .expect("hangs")
            .unwrap();
    }
    // A storage that reads nothing for a while: what the client has read of the file by then is what fits in its buffers and the sockets'.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = format!("http://{}/put", listener.local_addr().unwrap());
    let script = Script::new(move |s, _, url| match s.path.as_str() {
        p if p.ends_with("/presign") => Reply::json(
            200,
            json!({"uploadUrl": slow, "downloadUrl": "http://127.0.0.1/x"}),
        ),
        _ => taking(s, url),
    })
    .await;
    let big = dir.path().join("big");
    fs::File::create(&big).unwrap().set_len(1 << 30).unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let options = TransferOptions::new().progress(move |p| count.store(p.bytes, Ordering::Relaxed));
    let client = script.client();
    let upload =
        tokio::spawn(async move { client.upload_with("v", &big, "/root/big", &options).await });
    let (_held, _) = listener.accept().await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let after = sent.load(Ordering::Relaxed);
    assert!(
        after > 0 && after < 24 << 20,
        "{after} bytes were read ahead"
    );
    upload.abort();
}

/// D6: a stream that ends without an exit is an error.
#[tokio::test]
async fn d06_a_stream_without_an_exit_is_an_error() {
    for end in [End::Proper, End::Cut] {
        let script =
            Script::new(move |_, _, _| Reply::events(&[r#"{"t":"o","d":"aGk="}"#], end)).await;
        let mut events = script.client().vms().stream("v", "x").await.unwrap();
        assert_eq!(
            events.next().await.unwrap().unwrap(),
            ExecEvent::Stdout("hi".into())
        );
        let e = events.next().await.unwrap().unwrap_err();
        assert_eq!(e.kind(), Kind::OutcomeUnknown, "{e}");
        assert!(events.next().await.is_none());
    }
    // After an exit nothing more is said, whatever follows.
    let script = Script::new(|_, _, _| Reply::events(&[r#"{"t":"x","ms":1}"#], End::Cut)).await;
    let out = script
        .client()
        .vms()
        .stream("v", "x")
        .await
        .unwrap()
        .output()
        .await;
    assert_eq!(out.end.unwrap().code, 0);
}

/// D7: the diagnostic of an exit is text.
#[tokio::test]
async fn d07_a_text_diagnostic_survives() {
    for text in ["exec: no such file", "aGk=", "ünï\u{1b}[2J"] {
        let line = json!({"t": "x", "c": 127, "d": text, "ms": 0}).to_string();
        let script = Script::new(move |_, _, _| Reply::events(&[&line], End::Proper)).await;
        let out = script
            .client()
            .vms()
            .stream("v", "x")
            .await
            .unwrap()
            .output()
            .await;
        let exit = out.end.unwrap();
        assert_eq!(exit.diagnostic.unwrap().raw(), text);
        assert_eq!(exit.code, 127);
    }
}

/// D8: a stream is a call like the others: its errors have their meaning and words, headers go with it, stdin too.
#[tokio::test]
async fn d08_streams_are_calls_like_the_others() {
    let script = Script::new(|_, _, _| Reply::json(404, json!({"error": "no such vm"}))).await;
    let client = script
        .builder()
        .default_header("x-own".parse().unwrap(), "1".parse().unwrap())
        .build()
        .unwrap();
    let e = client
        .vms()
        .stream("v", Exec::new(["cat"]).stdin("hi"))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    assert_eq!(e.server_message().unwrap().raw(), "no such vm");
    let seen = &script.seen()[0];
    assert_eq!(
        (seen.header("x-own"), seen.header("x-api-key")),
        (Some("1"), Some("k"))
    );
    assert_eq!(seen.header("accept"), Some("application/x-ndjson"));
    assert_eq!(seen.json(), json!({"command": ["cat"], "stdin": "aGk="}));
}

/// D9: a string is a line for the shell in both forms.
#[tokio::test]
async fn d09_strings_go_through_the_shell() {
    let script = Script::new(|s, _, _| match s.header("accept") {
        Some("application/x-ndjson") => Reply::events(&[r#"{"t":"x","ms":1}"#], End::Proper),
        _ => Reply::exec(0, "", ""),
    })
    .await;
    let client = script.client();
    client.vms().run("v", "ls -la").await.unwrap();
    client
        .vms()
        .stream("v", "ls -la")
        .await
        .unwrap()
        .output()
        .await
        .end
        .unwrap();
    client.vms().run("v", ["ls", "-la"]).await.unwrap();
    let sent: Vec<_> = script
        .seen()
        .iter()
        .map(|s| s.json()["command"].clone())
        .collect();
    assert_eq!(
        sent,
        [
            json!(["sh", "-c", "ls -la"]),
            json!(["sh", "-c", "ls -la"]),
            json!(["ls", "-la"])
        ]
    );
}

/// A machine that gives a file of this content; `get` makes the storage's answer.
async fn giving(said: String, get: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Script {
    let gets = AtomicU64::new(0);
    Script::new(move |s, _, url| match s.path.as_str() {
        p if p.ends_with("/presign") => presigned(url),
        "/get" => get(gets.fetch_add(1, Ordering::Relaxed) as usize),
        _ => Reply::exec(0, &said, ""),
    })
    .await
}

const SUM_OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// D10: a download that is cut leaves what was there, and one that is wrong in length or content does, too.
#[tokio::test]
async fn d10_a_cut_or_wrong_download_leaves_what_was_there() {
    let said = |size: u64, sum: &str| {
        format!("kind=file\nsize={size}\nmode=644\nmtime=5\nsha256={sum}\nhead=0\ncurl=0\n")
    };
    let dir = tempfile::tempdir().unwrap();
    let local = dir.path().join("f");
    let pieces = |end| {
        Reply::Pieces(
            "application/octet-stream",
            vec![(b"ab".to_vec(), 0), (b"c".to_vec(), 0)],
            end,
        )
    };
    let cases: Vec<(Script, &str)> = vec![
        (
            giving(said(3, SUM_OF_ABC), move |_| pieces(End::Cut)).await,
            "broke off",
        ),
        (
            giving(said(4, SUM_OF_ABC), move |_| pieces(End::Proper)).await,
            "length",
        ),
        (
            giving(said(3, &"0".repeat(64)), move |_| pieces(End::Proper)).await,
            "checksum",
        ),
        (
            giving(said(3, SUM_OF_ABC), |_| {
                let digest = (
                    "content-digest",
                    format!("sha-256=:{}:", "A".repeat(43) + "="),
                );
                Reply::With(200, vec![digest], b"abc".to_vec())
            })
            .await,
            "storage",
        ),
    ];
    for (script, words) in cases {
        fs::write(&local, "precious").unwrap();
        let e = script
            .client()
            .download("v", "/f", &local)
            .await
            .unwrap_err();
        assert!(e.to_string().contains(words), "{words}: {e}");
        assert_eq!(fs::read(&local).unwrap(), b"precious", "{words}");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "{words}: something is left behind"
        );
    }
    // One that broke off is fetched again.
    let script = giving(said(3, SUM_OF_ABC), move |n| {
        pieces(if n == 0 { End::Cut } else { End::Proper })
    })
    .await;
    let report = script.client().download("v", "/f", &local).await.unwrap();
    assert_eq!(
        (fs::read(&local).unwrap(), report.checked),
        (b"abc".to_vec(), Checked::Sha256)
    );
}

/// D11: a tar that failed in the machine is an error, though curl went well; so is an archive that is cut.
#[tokio::test]
async fn d11_a_failed_tar_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for (said, words) in [
        (
            "kind=directory\ntar=2\ngzip=0\ncurl=0\n",
            "tar ended with 2",
        ),
        (
            "kind=directory\ntar=0\ngzip=1\ncurl=0\n",
            "gzip ended with 1",
        ),
        (
            "kind=directory\ntar=0\ngzip=0\ncurl=22\n",
            "curl ended with 22",
        ),
        ("kind=directory\ntar=0\ngzip=0\ncurl=0\n", "archive"),
        ("", "did not say"),
    ] {
        let script = giving(said.to_owned(), |_| {
            Reply::Full(200, "application/octet-stream", Vec::new())
        })
        .await;
        let e = script
            .client()
            .download("v", "/d", dir.path().join("d"))
            .await
            .unwrap_err();
        assert!(
            e.to_string().contains(words) || format!("{e:?}").contains(words),
            "{said:?}: {e:?}"
        );
    }
}

/// D12: a path that is not there is told from a question that was not answered.
#[tokio::test]
async fn d12_missing_is_told_from_unanswered() {
    let answer = |code, timed_out| {
        Script::new(move |s, _, url| match s.path.as_str() {
            p if p.ends_with("/presign") => presigned(url),
            _ => Reply::json(200, json!({"exitCode": code, "timedOut": timed_out})),
        })
    };
    let local = std::env::temp_dir().join("boxrig-never-written");
    let e = answer(44, false)
        .await
        .client()
        .download("v", "/no", &local)
        .await
        .unwrap_err();
    assert_eq!(
        (e.kind(), e.code().unwrap().raw()),
        (Kind::NotFound, "ENOENT")
    );
    let e = answer(44, true)
        .await
        .client()
        .download("v", "/no", &local)
        .await
        .unwrap_err();
    assert_eq!(
        (e.kind(), e.code().unwrap().raw()),
        (Kind::Timeout, "file_transfer_failed")
    );
    let e = answer(2, false)
        .await
        .client()
        .download("v", "/no", &local)
        .await
        .unwrap_err();
    assert_eq!(
        (e.kind(), e.code().unwrap().raw()),
        (Kind::Failed, "file_transfer_failed")
    );
    assert!(!local.exists());
}

/// D13: a machine that boots quickly is not waited for long; where there is a long poll it is used.
#[tokio::test]
async fn d13_waiting_is_adaptive() {
    let born = Instant::now();
    let script = Script::new(move |s, _, _| match s.method.as_str() {
        "POST" => Reply::json(202, vm("provisioning")),
        _ if born.elapsed() < Duration::from_millis(150) => Reply::json(200, vm("queued-somehow")),
        _ => Reply::json(200, vm("running")),
    })
    .await;
    let start = Instant::now();
    script
        .client()
        .vms()
        .launch(Launch::new("c1m2"))
        .await
        .unwrap();
    assert!(
        start.elapsed() < Duration::from_millis(600),
        "{:?}",
        start.elapsed()
    );
    let script = Script::new(|s, _, _| {
        let wait = vec![
            ("x-boxrig-wait", "1".to_owned()),
            ("content-type", "application/json".to_owned()),
        ];
        match s.method.as_str() {
            "POST" => Reply::With(202, wait, vm("provisioning").to_string().into_bytes()),
            _ => Reply::With(200, wait, vm("running").to_string().into_bytes()),
        }
    })
    .await;
    script
        .client()
        .vms()
        .launch(Launch::new("c1m2"))
        .await
        .unwrap();
    let query = script.seen()[1].query.clone();
    assert!(query.starts_with("wait=running&timeout="), "{query}");
}

/// D14: a call does not give up on a command, or a fetch, before its own time is up.
#[tokio::test]
async fn d14_calls_outlast_their_commands() {
    let script =
        Script::new(|_, _, _| Reply::Later(700, Box::new(Reply::exec(0, "late", "")))).await;
    let client = script
        .builder()
        .timeout(Some(Duration::from_millis(200)))
        .build()
        .unwrap();
    let exec = Exec::new("make").timeout(Duration::from_secs(600));
    assert_eq!(client.vms().run("v", exec).await.unwrap().stdout, "late");
    assert_eq!(script.seen()[0].json()["timeoutSec"], 600);
    client
        .vms()
        .files()
        .fetch("v", &"http://x/".into(), "/f", Some(600))
        .await
        .unwrap();
    // The client's own deadline holds where the command has none, and an explicit one always.
    let e = client.vms().run("v", "make").await.unwrap_err();
    assert_eq!(e.kind(), Kind::OutcomeUnknown);
    let hurried = CallOptions::new().timeout(Duration::from_millis(100));
    let exec = Exec::new("make").timeout(Duration::from_secs(600));
    let start = Instant::now();
    client.vms().with(hurried).run("v", exec).await.unwrap_err();
    assert!(
        start.elapsed() < Duration::from_millis(600),
        "{:?}",
        start.elapsed()
    );
    // Fractions of a second are rounded up: 0 must never be sent.
    client
        .vms()
        .run("v", Exec::new("x").timeout(Duration::from_millis(1)))
        .await
        .unwrap();
    assert_eq!(script.seen().last().unwrap().json()["timeoutSec"], 1);
}

/// D15: filters by metadata are typed; a command is ended by dropping its stream, or by its deadline, which gives what came.
#[tokio::test]
async fn d15_filters_and_ends_of_commands() {
    let script = Script::new(|s, _, _| match s.method.as_str() {
        "GET" => Reply::json(200, json!([])),
        _ => Reply::events(&[r#"{"t":"o","d":"aGk="}"#], End::Silence),
    })
    .await;
    let client = script.client();
    let which = ListVms::new()
        .status(VmStatus::Running)
        .metadata("team", "web & more");
    client.vms().list(which).await.unwrap();
    assert_eq!(
        script.seen()[0].query,
        "status=running&metadata.team=web%20%26%20more"
    );
    let mut events = client.vms().stream("v", "x").await.unwrap();
    events.next().await.unwrap().unwrap();
    assert_eq!(script.hung_up(), 0);
    drop(events);
    for _ in 0..100 {
        if script.hung_up() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        script.hung_up(),
        1,
        "the connection is closed when the stream is dropped"
    );
    let exec = Exec::new("x").deadline(Duration::from_millis(150));
    let out = client.vms().run("v", exec).await.unwrap();
    assert_eq!(
        (out.timed_out, out.exit_code, out.stdout.as_str()),
        (true, 124, "hi")
    );
    let exec = Exec::new("x").idle_timeout(Duration::from_millis(150));
    let e = client
        .vms()
        .stream("v", exec)
        .await
        .unwrap()
        .output()
        .await
        .end
        .unwrap_err();
    assert_eq!(e.code().unwrap().raw(), "idle_timeout");
    assert_eq!(
        script.seen().last().unwrap().header("x-boxrig-heartbeat"),
        Some("1")
    );
}

/// D15: with the option, dropping the stream lets the command go on.
#[tokio::test]
async fn d15_a_stream_may_outlive_its_handle() {
    let script = Script::new(|_, _, _| {
        let pieces = vec![
            (b"{\"t\":\"o\",\"d\":\"aGk=\"}\n".to_vec(), 0),
            (b"{\"t\":\"x\"}\n".to_vec(), 400),
        ];
        Reply::Pieces("application/x-ndjson", pieces, End::Proper)
    })
    .await;
    let client = script.client();
    let mut events = client
        .vms()
        .stream("v", Exec::new("x").outlive_stream())
        .await
        .unwrap();
    events.next().await.unwrap().unwrap();
    drop(events);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(script.hung_up(), 0);
}

/// D16: what cannot be compressed is not: packing it is as fast as reading it (the figure is in the benchmarks).
#[tokio::test]
async fn d16_incompressible_content_is_stored() {
    let script = Script::new(|s, _, url| taking(s, url)).await;
    let dir = tempfile::tempdir().unwrap();
    let mut x = 7u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        x = x
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (x >> 56) as u8
    })
    .take(3 << 20)
    .collect();
    fs::write(dir.path().join("noise"), &noise).unwrap();
    fs::write(dir.path().join("zeros"), vec![0; 3 << 20]).unwrap();
    let report = script.client().upload("v", dir.path(), "/d").await.unwrap();
    assert_eq!(report.bytes, 6 << 20);
    let wire = report.wire_bytes;
    assert!((3 << 20..(3 << 20) + 200_000).contains(&wire), "{wire}");
    // What was sent is the directory, and its checksum is what the machine is told to compare.
    let seen = script.seen();
    let put = seen.iter().find(|s| s.path == "/put").unwrap();
    let mut tar = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&put.body[..]), &mut tar).unwrap();
    assert!(tar.windows(4096).any(|w| w == &noise[..4096]));
    assert_eq!(put.header("content-type"), Some("application/octet-stream"));
    assert_eq!(put.header("x-api-key"), None, "signed URLs refuse the key");
    let finish = seen.last().unwrap().json();
    assert_eq!(finish["command"][6], json!(wire.to_string()));
}

/// D18: arguments keep their borders.
#[tokio::test]
async fn d18_arguments_keep_their_borders() {
    let script = Script::new(|_, _, _| Reply::exec(0, "", "")).await;
    script
        .client()
        .vms()
        .run("v", ["a", "b c", "", "'"])
        .await
        .unwrap();
    assert_eq!(
        script.seen()[0].json()["command"],
        json!(["a", "b c", "", "'"])
    );
    let e = script.client().vms().run("v", ["", "x"]).await.unwrap_err();
    assert_eq!(
        (e.kind(), script.seen().len()),
        (Kind::Invalid, 1),
        "refused before it is sent"
    );
}
