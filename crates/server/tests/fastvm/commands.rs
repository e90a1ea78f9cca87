//! Exec in both forms, against real commands.

use std::time::{Duration, Instant};

use boxrig_fastvm::{Base64, Command, ExecEvent, ExecRequest};
use boxrig_wire::Kind;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::api::{Api, command, eventually, gather, machine};

#[tokio::test]
async fn a_command_reports_everything() {
    let Some(api) = Api::sandbox().await else {
        return;
    };
    let id = api.launch().await.id;
    let out = api.sh(&id, "echo out; echo err >&2; exit 7").await;
    assert_eq!(
        (out.exit_code, out.stdout.as_str(), out.stderr.as_str()),
        (7, "out\n", "err\n")
    );
    assert!(!out.timed_out && !out.stdout_truncated && !out.stderr_truncated);

    let argv = ExecRequest {
        command: Command::from(["printf", "%s,", "a b", "", "$HOME", "'"]),
        ..Default::default()
    };
    assert_eq!(
        api.exec_with(&id, argv).await.unwrap().stdout,
        "a b,,$HOME,',"
    );

    let large = vec![b'x'; 3_000_000];
    let piped = ExecRequest {
        stdin: Some(Base64::from(large)),
        ..command("wc -c")
    };
    assert_eq!(
        api.exec_with(&id, piped).await.unwrap().stdout.trim(),
        "3000000"
    );
    let unread = ExecRequest {
        stdin: Some(Base64::from(vec![b'x'; 1_000_000])),
        ..command("exit 4")
    };
    assert_eq!(api.exec_with(&id, unread).await.unwrap().exit_code, 4);
    let killed = api.sh(&id, "kill -9 $$").await;
    assert_eq!(killed.exit_code, 137);

    let (status, body) = api
        .plain(
            "POST",
            &format!("/v1/vms/{id}/exec"),
            r#"{"command":"echo one; echo two"}"#,
        )
        .await;
    assert!(
        status == 200 && body.contains(r#""stdout":"one\ntwo\n""#),
        "{body}"
    );
    api.server.stop().await;
}

#[tokio::test]
async fn a_command_that_cannot_start_is_an_answer() {
    let Some(api) = Api::sandbox().await else {
        return;
    };
    let id = api.launch().await.id;
    for (path, code) in [("/no/such/program", 127), ("/etc/passwd", 126)] {
        let request = || ExecRequest {
            command: Command::from([path]),
            ..Default::default()
        };
        let out = api.exec_with(&id, request()).await.unwrap();
        assert_eq!(out.exit_code, code, "{out:?}");
        assert!(!out.stderr.is_empty());
        let (_, err, exits) = gather(api.stream(&id, request()).await.unwrap()).await;
        assert!(!err.is_empty(), "the diagnostic is an error event");
        assert_eq!((exits.len(), exits[0].code), (1, code));
        // Both of the vendor's SDKs decode `d` of an exit as base64 and fail on text.
        assert!(exits[0].diagnostic.is_none());
    }
    api.server.stop().await;
}

#[tokio::test]
async fn time_limits_end_the_whole_group() {
    let Some(api) = Api::sandbox().await else {
        return;
    };
    let id = api.launch().await.id;
    let start = Instant::now();
    let limited = |line: &str| ExecRequest {
        timeout_sec: Some(1),
        ..command(line)
    };
    let late = api
        .exec_with(&id, limited("echo early; sleep 98 & sleep 99"))
        .await
        .unwrap();
    assert!(late.timed_out && late.stdout == "early\n", "{late:?}");
    assert_eq!(late.exit_code, 137);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    let (out, _, exits) = gather(
        api.stream(&id, limited("echo early; sleep 99"))
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(out, b"early\n");
    assert!(exits[0].timed_out && exits[0].duration_ms >= 1000);
    assert_eq!(sleepers(&api, &id).await, 0);
    api.server.stop().await;
}

/// How many `sleep` processes there are.
async fn sleepers(api: &Api, id: &str) -> usize {
    let line = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done 2>/dev/null | grep -c '^sleep' || true";
    api.sh(id, line).await.stdout.trim().parse().unwrap()
}

#[tokio::test]
async fn a_background_process_does_not_hold_the_answer() {
    let Some(api) = Api::sandbox().await else {
        return;
    };
    let id = api.launch().await.id;
    let start = Instant::now();
    let out = api.sh(&id, "sleep 60 & echo done").await;
    assert_eq!((out.stdout.as_str(), out.exit_code), ("done\n", 0));
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(
        sleepers(&api, &id).await,
        1,
        "it goes on, as on any machine"
    );
    let start = Instant::now();
    let out = api.sh(&id, "yes & echo done").await;
    assert_eq!(out.exit_code, 0);
    assert!(start.elapsed() < Duration::from_secs(10));
    api.server.stop().await;
}

#[tokio::test]
async fn the_buffered_form_is_cut_at_4_mib_and_the_stream_is_not() {
    let Some(api) = Api::sandbox().await else {
        return;
    };
    let id = api.launch().await.id;
    let out = api
        .sh(
            &id,
            "head -c 5000000 /dev/zero | tr '\\0' x; echo e >&2; exit 3",
        )
        .await;
    assert_eq!(
        (out.stdout.len(), out.stdout_truncated),
        (4 * 1024 * 1024, true)
    );
    assert_eq!(
        (out.stderr.as_str(), out.stderr_truncated, out.exit_code),
        ("e\n", false, 3)
    );
    let line = "head -c 9000000 /dev/zero; echo e >&2; exit 3";
    let (out, err, exits) = gather(api.stream(&id, command(line)).await.unwrap()).await;
    assert_eq!(
        (out.len(), err.as_slice(), exits[0].code),
        (9_000_000, &b"e\n"[..], 3)
    );
    api.server.stop().await;
}

#[tokio::test]
async fn a_slow_reader_slows_the_command() {
    let Some(api) = Api::sandbox().await else {
        return;
    };
    let id = api.launch().await.id;
    let line =
        "head -c 100000000 /dev/zero | { dd bs=64k status=none; } ; echo finished > /root/finished";
    let mut events = api.stream(&id, command(line)).await.unwrap();
    assert!(matches!(
        events.next().await,
        Some(Ok(ExecEvent::Stdout(_)))
    ));
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(
        api.sh(&id, "test -e /root/finished").await.exit_code,
        1,
        "the command waits for its reader"
    );
    let (rest, ..) = gather(events).await;
    assert!(rest.len() > 99_000_000);
    api.server.stop().await;
}

#[tokio::test]
async fn the_end_of_the_connection_is_the_end_of_the_command() {
    let Some(api) = Api::sandbox().await else {
        return;
    };
    let id = api.launch().await.id;
    // The streaming form, dropped between two events.
    let mut events = api
        .stream(&id, command("echo go; sleep 1000 & exec sleep 1000"))
        .await
        .unwrap();
    assert!(events.next().await.is_some());
    drop(events);
    eventually("the stream's command is gone", async || {
        sleepers(&api, &id).await == 0
    })
    .await;
    // The buffered form, before there is any answer.
    let mut connection = api.connect().await;
    let body = r#"{"command":["sh","-c","touch /root/here; exec sleep 1000"]}"#;
    let request = format!(
        "POST /v1/vms/{id}/exec HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nContent-Length: {}\r\n\r\n{body}",
        api.server.api_key(),
        body.len()
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    eventually("the command runs", async || {
        api.sh(&id, "test -e /root/here").await.exit_code == 0
    })
    .await;
    assert_eq!(sleepers(&api, &id).await, 1);
    drop(connection);
    eventually("the buffered command is gone", async || {
        sleepers(&api, &id).await == 0
    })
    .await;
    api.server.stop().await;
}

#[tokio::test]
async fn a_quiet_command_beats() {
    let Some(api) = Api::sandbox().await else {
        return;
    };
    let id = api.launch().await.id;
    let mut connection = api.connect().await;
    let body = r#"{"command":"sleep 2.5"}"#;
    let request = format!(
        "POST /v1/vms/{id}/exec HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nAccept: application/x-ndjson\r\n\
         X-Boxrig-Heartbeat: 1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        api.server.api_key(),
        body.len()
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    let beats = answer.matches("\r\n{}\n\r\n").count();
    assert_eq!(beats, 2, "{answer}");
    api.server.stop().await;
}

#[tokio::test]
async fn machines_have_their_environment_and_keep_to_themselves() {
    let Some(api) = Api::sandbox().await else {
        return;
    };
    let mut request = machine();
    request.env_vars = Some(
        [("GREETING", "hé llo"), ("EMPTY", "")]
            .into_iter()
            .collect(),
    );
    let one = api.launch_with(request).await.unwrap().value.vm.id;
    let two = api.launch().await.id;
    let out = api
        .sh(&one, r#"printf "%s|%s" "$GREETING" "${EMPTY-unset}""#)
        .await;
    assert_eq!(out.stdout, "hé llo|");
    assert_eq!(
        api.sh(&two, "echo ${GREETING-none}; touch /root/mine")
            .await
            .stdout,
        "none\n"
    );
    assert_eq!(api.sh(&one, "test -e /root/mine").await.exit_code, 1);
    api.server.stop().await;
}

#[tokio::test]
async fn refusals_have_their_status() {
    let api = Api::memory().await;
    let id = api.launch().await.id;
    let path = format!("/v1/vms/{id}/exec");
    for (body, status, word) in [
        (r#"{}"#, 400, "command"),
        (r#"{"command":[]}"#, 400, "command"),
        (r#"{"command":["","x"]}"#, 400, "command"),
        (r#"{"command":["a\u0000b"]}"#, 400, "command"),
        (r#"{"command":[1]}"#, 400, "command"),
        (r#"{"command":["cat"],"stdin":"not base64!"}"#, 400, "stdin"),
        (r#"{"command":["cat"],"timeoutSec":0}"#, 400, "timeoutSec"),
        (r#"{"command":"#, 400, "body"),
        (r#"{"command":["true"]}"#, 501, "memory"),
    ] {
        let (found, text) = api.plain("POST", &path, body).await;
        assert!(
            found == status && text.contains(word),
            "{body}: {found} {text}"
        );
    }
    let e = api.exec_with("nope", command("true")).await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    api.call(crate::api::by_id::<boxrig_fastvm::ops::PauseVm>(&id))
        .await
        .unwrap();
    let e = api.exec_with(&id, command("true")).await.unwrap_err();
    assert_eq!(
        (e.kind(), e.status().unwrap().as_u16()),
        (Kind::Conflict, 409)
    );
}
