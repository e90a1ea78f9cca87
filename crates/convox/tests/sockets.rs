//! Sockets: logs that survive a broken connection, commands with their exit code, bytes both ways.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use boxrig_convox::ops::processes::ProcessExecHeaders;
use boxrig_convox::{
    CATALOG, Client, EXIT_MARK, ExecEvent, LogOptions, LogStream, RetryConfig, RunAttached,
};
use boxrig_wire::ws::{Frame, WebSocket};
use boxrig_wire::{Kind, ReplyShape, Result};
use bytes::Bytes;
use common::{End, Rack, json, ok, reply, says, socket};
use futures_util::StreamExt;

fn frames(parts: &[&str]) -> Vec<Bytes> {
    parts
        .iter()
        .map(|p| Bytes::copy_from_slice(p.as_bytes()))
        .collect()
}

fn quick(rack: &Rack) -> Client {
    let retry = RetryConfig {
        backoff_base: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        ..RetryConfig::default()
    };
    rack.builder().retry(retry).build().unwrap()
}

/// The texts of a log, and how it ended.
async fn read(log: Result<LogStream>) -> (Vec<String>, Option<Kind>) {
    let mut log = match log {
        Ok(log) => log,
        Err(e) => return (Vec::new(), Some(e.kind())),
    };
    let mut out = Vec::new();
    while let Some(line) = log.next().await {
        match line {
            Ok(line) => out.push(String::from_utf8_lossy(&line.text()).into_owned()),
            Err(e) => return (out, Some(e.kind())),
        }
    }
    (out, None)
}

const fn stamp() -> &'static str {
    "2026-01-01T00:00:0"
}

fn at(second: u32, text: &str) -> String {
    format!("{}{second}Z service/web/p {text}\n", stamp())
}

#[tokio::test]
async fn every_log_is_read_by_its_own_path() {
    let rack = Rack::new(|_| {
        says(
            frames(&[
                "2026-01-01T00:00:01Z service/web/p one\n2026-01-01T00:00:02Z service/",
                "web/p two\nbare",
            ]),
            End::Mark,
        )
    });
    let c = rack.client();
    let which = || {
        LogOptions::new()
            .since(Duration::from_secs(5400))
            .tail(3)
            .filter("x")
            .previous(true)
    };
    let expected = (
        vec!["one".to_owned(), "two".to_owned(), "bare".to_owned()],
        None,
    );
    assert_eq!(read(c.apps().logs("a b", which()).await).await, expected);
    assert_eq!(
        read(c.services().logs("a", "web", which()).await).await,
        expected
    );
    assert_eq!(
        read(c.processes().logs("a", "p", which()).await).await,
        expected
    );
    assert_eq!(
        read(c.builds().logs("a", "B1", which()).await).await,
        expected
    );
    assert_eq!(read(c.system().logs(which()).await).await, expected);
    assert_eq!(
        rack.lines(),
        [
            "GET /apps/a%20b/logs",
            "GET /apps/a/services/web/logs",
            "GET /apps/a/processes/p/logs",
            "GET /apps/a/builds/B1/logs",
            "GET /system/logs"
        ]
    );
    for seen in rack.seen() {
        let header = |name: &str| seen.header(name).unwrap_or_default();
        assert_eq!(
            ["since", "tail", "filter", "previous", "prefix", "follow"].map(header),
            ["1h30m0s", "3", "x", "true", "true", "false"]
        );
        assert!(seen.header("origin").is_none() && seen.header("sec-websocket-version").is_some());
    }
}

/// A log of `n` lines that breaks again and again at any byte, and is taken up as racks do: from a time on, whole lines.
#[tokio::test]
async fn a_broken_log_loses_and_repeats_nothing() {
    let lines: Vec<String> = (0..200)
        .map(|n| {
            format!(
                "2026-01-01T00:{:02}:{:02}Z service/web/p{} line {}\n",
                n / 8,
                n % 8 * 7,
                n % 3,
                n / 2
            )
        })
        .collect();
    let expected: Vec<String> = lines
        .iter()
        .map(|l| l.trim_end().split_once(" line ").unwrap().1.to_owned())
        .collect();
    let tries = Arc::new(AtomicUsize::new(0));
    let (count, all) = (tries.clone(), lines.clone());
    let rack = Rack::new(move |seen| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        // Each connection repeats a part of what was said, in an order of its own within a second.
        let begin = if seen.header("tail").is_some() {
            0
        } else {
            (n * 23).saturating_sub(9)
        };
        let text: String = all[begin.min(all.len())..].concat();
        match n {
            0..=7 => says(
                vec![Bytes::copy_from_slice(
                    &text.as_bytes()[..text.len().min(1500 + n * 131)],
                )],
                End::Cut,
            ),
            _ => says(frames(&[&text]), End::Mark),
        }
    });
    let log = quick(&rack)
        .apps()
        .logs("a", LogOptions::new().follow(true).tail(1000))
        .await;
    let (texts, end) = read(log).await;
    assert_eq!(end, None);
    let numbers: Vec<String> = texts
        .iter()
        .map(|t| t.trim_start_matches("line ").to_owned())
        .collect();
    assert_eq!(numbers, expected);
    assert_eq!(tries.load(Ordering::SeqCst), 9);
    let again = &rack.seen()[1];
    assert!(again.header("tail").is_none());
    assert!(
        boxrig_convox::parse_duration(&again.header("since").unwrap()).unwrap()
            > Duration::from_secs(10)
    );
}

#[tokio::test]
async fn a_log_that_is_not_followed_ends_in_an_error_when_cut() {
    let rack = Rack::new(|_| {
        says(
            frames(&[&at(1, "one"), "2026-01-01T00:00:02Z service/web/p ha"]),
            End::Cut,
        )
    });
    let c = quick(&rack);
    assert_eq!(
        read(c.apps().logs("a", LogOptions::new()).await).await,
        (vec!["one".into(), "ha".into()], Some(Kind::Transport))
    );
    let never = LogOptions::new().follow(true).reconnect(0);
    assert_eq!(
        read(c.apps().logs("a", never).await).await.1,
        Some(Kind::Transport)
    );
    assert_eq!(rack.seen().len(), 2);
    let thrice = LogOptions::new().follow(true).reconnect(3);
    assert_eq!(
        read(c.apps().logs("a", thrice).await).await,
        (vec!["one".into()], Some(Kind::Transport))
    );
    assert_eq!(rack.seen().len(), 2 + 4);
}

#[tokio::test]
async fn the_racks_error_is_told_from_a_line() {
    let rack = Rack::new(|seen| match seen.path() {
        "/apps/none/logs" => says(frames(&["ERROR: no such app: none\n"]), End::Mark),
        "/apps/cut/logs" => says(frames(&["ERROR: invalid authentication\n"]), End::Cut),
        "/apps/line/logs" => says(
            frames(&["2026-01-01T00:00:01Z service/web/p ERROR: mine\n"]),
            End::Mark,
        ),
        "/apps/bare/logs" => says(frames(&["ERROR: mine\n", "more\n"]), End::Mark),
        _ => reply(404, "no such app\n"),
    });
    let c = quick(&rack);
    let log = |app: &'static str| {
        let c = c.clone();
        async move { read(c.apps().logs(app, LogOptions::new().follow(true)).await).await }
    };
    assert_eq!(log("none").await, (vec![], Some(Kind::NotFound)));
    assert_eq!(log("cut").await, (vec![], Some(Kind::Unauthenticated)));
    assert_eq!(log("line").await, (vec!["ERROR: mine".into()], None));
    assert_eq!(
        log("bare").await,
        (vec!["ERROR: mine".into(), "more".into()], None)
    );
    assert_eq!(
        log("before the upgrade").await,
        (vec![], Some(Kind::NotFound))
    );
}

#[tokio::test]
async fn a_long_line_does_not_fill_the_memory() {
    let rack = Rack::new(|_| {
        says(
            vec![
                Bytes::from(vec![b'x'; 3 << 20]),
                Bytes::from_static(b"\nend\n"),
            ],
            End::Mark,
        )
    });
    let (texts, end) = read(rack.client().system().logs(LogOptions::new()).await).await;
    assert_eq!(end, None);
    assert_eq!(texts.iter().map(String::len).sum::<usize>(), (3 << 20) + 3);
    assert_eq!(texts.last().unwrap(), "end");
}

/// A command that echoes its input in capitals and ends with the number of bytes.
async fn echo(mut ws: WebSocket) {
    let mut count = 0;
    loop {
        match ws.next().await {
            Ok(Some(Frame::Data {
                text: true,
                payload,
                ..
            })) => {
                count += payload.len();
                ws.send(Frame::text(payload.to_ascii_uppercase()))
                    .await
                    .unwrap();
            }
            Ok(Some(Frame::Data { text: false, .. })) => break,
            _ => {}
        }
    }
    ws.send(Frame::text(format!("{EXIT_MARK}{count}\n")))
        .await
        .unwrap();
    ws.send(Frame::binary(Bytes::new())).await.unwrap();
}

#[tokio::test]
async fn input_output_and_exit_code() {
    let rack = Rack::new(|_| socket(echo));
    let c = rack.client();
    let options = ProcessExecHeaders {
        command: "cat".into(),
        tty: Some(false),
        height: Some(24),
        width: Some(80),
        ..Default::default()
    };
    let session = c.processes().exec("a", "p", options).await.unwrap();
    let (input, mut events) = session.split();
    input.write("ab\u{fc}").await.unwrap();
    input.write("").await.unwrap();
    input.write(Bytes::from_static(b"\xff\0")).await.unwrap();
    input.end().await.unwrap();
    let (mut out, mut code) = (Vec::new(), None);
    while let Some(event) = events.next().await {
        match event.unwrap() {
            ExecEvent::Output(bytes) => out.extend_from_slice(&bytes),
            ExecEvent::Exit(n) => code = Some(n),
        }
    }
    assert_eq!((out, code), (b"AB\xc3\xbc\xff\0".to_vec(), Some(6)));
    let seen = &rack.seen()[0];
    assert_eq!(seen.line(), "GET /apps/a/processes/p/exec");
    assert_eq!(
        ["command", "tty", "height", "width"].map(|h| seen.header(h).unwrap()),
        ["cat", "false", "24", "80"]
    );

    let shell = c.instances().shell("i", Default::default()).await.unwrap();
    assert_eq!(shell.output(100).await.unwrap(), (Vec::new(), 0));
    assert_eq!(rack.seen()[1].line(), "GET /instances/i/shell");
}

#[tokio::test]
async fn a_lost_stream_is_no_success() {
    let rack = Rack::new(|seen| match seen.header("command").as_deref() {
        Some("cut") => says(frames(&["out"]), End::Cut),
        Some("mark") => says(frames(&["out"]), End::Mark),
        Some("error") => says(
            frames(&[&format!("{EXIT_MARK}1\n"), "ERROR: exec failed\n"]),
            End::Mark,
        ),
        Some("refused") => says(frames(&["ERROR: no such process\n"]), End::Mark),
        Some("split") => says(
            frames(&["out", &EXIT_MARK[..9], &EXIT_MARK[9..], "4", "2\n"]),
            End::Mark,
        ),
        _ => says(frames(&["0123456789"]), End::Silence),
    });
    let c = rack.client();
    let run = |command: &'static str| {
        let c = c.clone();
        async move {
            let options = ProcessExecHeaders {
                command: command.into(),
                ..Default::default()
            };
            c.processes().exec("a", "p", options).await?.output(5).await
        }
    };
    assert_eq!(run("cut").await.unwrap_err().kind(), Kind::OutcomeUnknown);
    assert_eq!(run("mark").await.unwrap_err().kind(), Kind::OutcomeUnknown);
    let e = run("error").await.unwrap_err();
    assert!(e.to_string().contains("exec failed"), "{e}");
    assert_eq!(run("refused").await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(run("split").await.unwrap(), (b"out".to_vec(), 42));
    assert_eq!(run("much").await.unwrap_err().kind(), Kind::Quota);
}

#[tokio::test]
async fn an_attached_run_takes_its_process_along() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let rack = Rack::new(move |seen| match (seen.method.as_str(), seen.path()) {
        ("POST", _) => json(serde_json::json!({"id": "one-off", "status": "pending"})),
        ("DELETE", _) => ok(),
        ("GET", "/apps/bad/processes/one-off") => {
            json(serde_json::json!({"id": "one-off", "status": "failed"}))
        }
        ("GET", path) if path.ends_with("/exec") => {
            says(frames(&["done", &format!("{EXIT_MARK}3\n")]), End::Mark)
        }
        _ => {
            let status = if count.fetch_add(1, Ordering::SeqCst) > 0 {
                "running"
            } else {
                "pending"
            };
            json(serde_json::json!({"id": "one-off", "status": status}))
        }
    });
    let c = rack.client();
    let mut run = RunAttached::new("rake db:migrate");
    run.process.release = Some("R1".into());
    let attached = c
        .processes()
        .run_attached("web", "worker", run)
        .await
        .unwrap();
    assert_eq!(attached.process.status, "running");
    assert_eq!(attached.output(100).await.unwrap(), (b"done".to_vec(), 3));
    let seen = rack.seen();
    assert_eq!(seen[0].line(), "POST /apps/web/services/worker/processes");
    assert_eq!(
        (
            seen[0].header("command").unwrap(),
            seen[0].header("release").unwrap()
        ),
        ("sleep 3600".into(), "R1".into())
    );
    let exec = seen.iter().find(|s| s.is_socket()).unwrap();
    assert_eq!(
        (
            exec.header("command").unwrap(),
            exec.header("entrypoint").unwrap()
        ),
        ("rake db:migrate".into(), "true".into())
    );
    assert_eq!(
        seen.last().unwrap().line(),
        "DELETE /apps/web/processes/one-off"
    );

    let e = c
        .processes()
        .run_attached("bad", "worker", RunAttached::new("x"))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Failed);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        rack.lines().last().unwrap(),
        "DELETE /apps/bad/processes/one-off",
        "a failed one is removed too"
    );
}

#[tokio::test]
async fn bytes_both_ways() {
    let rack = Rack::new(|seen| match seen.path() {
        "/proxy/refused/1" => says(frames(&["ERROR: invalid host\n"]), End::Mark),
        "/proxy/cut/1" => says(frames(&["a"]), End::Cut),
        _ => socket(|mut ws| async move {
            while let Ok(Some(Frame::Data { payload, .. })) = ws.next().await {
                if payload.is_empty() {
                    break;
                }
                ws.send(Frame::text(payload)).await.unwrap();
            }
            ws.send(Frame::binary(Bytes::new())).await.unwrap();
        }),
    });
    let c = rack.client();
    for pipe in [
        c.system().proxy("10.0.0.1", 5432).await.unwrap(),
        c.resources()
            .console("a", "db", Some((24, 80)))
            .await
            .unwrap(),
    ] {
        let (input, output) = pipe.split();
        input
            .write(Bytes::from_static(b"\0\xffping"))
            .await
            .unwrap();
        input.end().await.unwrap();
        let got: Vec<u8> = output.map(|b| b.unwrap().to_vec()).concat().await;
        assert_eq!(got, b"\0\xffping");
    }
    assert_eq!(
        rack.lines(),
        [
            "GET /proxy/10.0.0.1/5432",
            "GET /apps/a/resources/db/console"
        ]
    );
    assert_eq!(rack.seen()[1].header("height").unwrap(), "24");
    let ends = |host: &'static str| {
        let c = c.clone();
        async move {
            let (_, output) = c.system().proxy(host, 1).await.unwrap().split();
            output
                .map(|r| r.map_err(|e| e.kind()))
                .collect::<Vec<_>>()
                .await
        }
    };
    assert_eq!(ends("refused").await, [Err(Kind::Failed)]);
    assert_eq!(
        ends("cut").await,
        [Ok(Bytes::from_static(b"a")), Err(Kind::Transport)]
    );
}

/// Every socket is opened by a test here.
#[test]
fn every_socket_is_opened() {
    let text = include_str!("sockets.rs");
    let missing: Vec<&str> = CATALOG
        .iter()
        .filter(|m| m.reply == ReplyShape::Socket)
        .filter(|m| {
            let lines = text.split('"').filter_map(|t| t.strip_prefix("GET /"));
            !lines
                .map(|t| format!("/{t}"))
                .any(|path| m.path.matches(&path).is_some())
        })
        .map(|m| m.id)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
