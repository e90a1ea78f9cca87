//! The exec socket: real commands, on the engines that run some.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use boxrig_engine::{InstanceId, InstanceSpec, Selection};
use boxrig_server::control::{
    ExecInput, ExecSession, ExecStart, LogQuery, SessionEvent, Size, WriteQuery,
};
use boxrig_server::testing::Server;
use boxrig_wire::{Kind, WireBody};
use support::control;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server on each engine that works here, with one instance `box`.
async fn servers() -> Vec<Server> {
    let mut servers = Vec::new();
    for engine in [Selection::Process, Selection::Sandbox] {
        match Server::on(engine).await {
            Ok(server) => {
                let core = server.running().unwrap().core();
                let id = InstanceId::new("box").unwrap();
                core.engine.create(InstanceSpec::new(id)).await.unwrap();
                servers.push(server);
            }
            Err(e) if e.kind == Kind::Unsupported => {
                let required = std::env::var("BOXRIG_REQUIRE").unwrap_or_default();
                assert_ne!(required, "sandbox", "{e}");
                println!("skipped: not run on {engine:?}: {e}");
            }
            Err(e) => panic!("{e}"),
        }
    }
    servers
}

struct Run {
    out: Vec<u8>,
    err: Vec<u8>,
    last: SessionEvent,
}

async fn finish(session: ExecSession) -> (Run, ExecInput) {
    let (mut events, input) = session.split();
    let mut run = Run {
        out: Vec::new(),
        err: Vec::new(),
        last: SessionEvent::Started(0),
    };
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next())
            .await
            .expect("an event in time")
            .unwrap();
        match event {
            SessionEvent::Started(pid) => assert!(pid > 0),
            SessionEvent::Stdout(data) => run.out.extend_from_slice(&data),
            SessionEvent::Stderr(data) => run.err.extend_from_slice(&data),
            last => {
                run.last = last;
                return (run, input);
            }
        }
    }
}

fn sh(script: &str) -> ExecStart {
    ExecStart {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..ExecStart::default()
    }
}

fn code(code: i32) -> SessionEvent {
    SessionEvent::Exit {
        code: Some(code),
        signal: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_codes_and_failures() {
    for server in servers().await {
        let client = control(&server);
        let mut start = sh("echo out; echo err >&2; echo \"$X\"; exit 7");
        start.env.insert("X".into(), "from env".into());
        let (run, _) = finish(client.exec("box", &start).await.unwrap()).await;
        assert_eq!(run.out, b"out\nfrom env\n");
        assert_eq!(run.err, b"err\n");
        assert_eq!(run.last, code(7));

        let (run, _) = finish(client.exec("box", &sh("kill -9 $$")).await.unwrap()).await;
        assert_eq!(
            run.last,
            SessionEvent::Exit {
                code: None,
                signal: Some(9)
            }
        );

        // Output written just before the end is all there.
        let burst = sh("head -c 3000000 /dev/zero");
        let (run, _) = finish(client.exec("box", &burst).await.unwrap()).await;
        assert_eq!((run.out.len(), run.last), (3_000_000, code(0)));

        let missing = ExecStart {
            argv: vec!["no-such-command".into()],
            ..ExecStart::default()
        };
        let (run, _) = finish(client.exec("box", &missing).await.unwrap()).await;
        let SessionEvent::Failed(failure) = run.last else {
            panic!("{:?}", run.last);
        };
        assert_eq!(failure.shell_code, Some(127));

        let e = client.exec("nobody", &sh("true")).await.unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_and_its_end() {
    for server in servers().await {
        let client = control(&server);
        let start = ExecStart {
            stdin: true,
            ..sh("cat; echo end")
        };
        let session = client.exec("box", &start).await.unwrap();
        let (mut events, input) = session.split();
        let big: Vec<u8> = (0..500_000u32).map(|n| n as u8).collect();
        let feed = {
            let big = big.clone();
            tokio::spawn(async move {
                input.write(&big).await.unwrap();
                input.close().await.unwrap();
                input
            })
        };
        let mut out = Vec::new();
        let last = loop {
            let event = tokio::time::timeout(PATIENCE, events.next()).await;
            match event.expect("in time").unwrap() {
                SessionEvent::Stdout(data) => out.extend_from_slice(&data),
                SessionEvent::Started(_) | SessionEvent::Stderr(_) => {}
                last => break last,
            }
        };
        assert_eq!(last, code(0));
        assert_eq!(&out[..big.len()], &big);
        assert_eq!(&out[big.len()..], b"end\n");
        drop(feed.await.unwrap());
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_reach_the_group() {
    for server in servers().await {
        let client = control(&server);
        let session = client
            .exec(
                "box",
                &sh("trap 'kill $!; echo caught; exit 3' TERM; sleep 100 & echo ready; wait"),
            )
            .await
            .unwrap();
        let (mut events, input) = session.split();
        let mut out = Vec::new();
        let last = loop {
            let event = tokio::time::timeout(PATIENCE, events.next()).await;
            match event.expect("in time").unwrap() {
                SessionEvent::Stdout(data) => {
                    out.extend_from_slice(&data);
                    if out == b"ready\n" {
                        input.signal(15).await.unwrap();
                    }
                }
                SessionEvent::Started(_) | SessionEvent::Stderr(_) => {}
                last => break last,
            }
        };
        assert_eq!(out, b"ready\ncaught\n");
        assert_eq!(last, code(3));
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_has_a_size_and_takes_keys() {
    for server in servers().await {
        if !server.running().unwrap().core().engine.capabilities().pty {
            server.stop().await;
            continue;
        }
        let client = control(&server);
        let start = ExecStart {
            tty: Some(Size { rows: 31, cols: 97 }),
            ..sh("stty size; read line; stty size; echo \"got $line\"")
        };
        let session = client.exec("box", &start).await.unwrap();
        let (mut events, input) = session.split();
        let mut out = String::new();
        let last = loop {
            let event = tokio::time::timeout(PATIENCE, events.next()).await;
            match event.expect("in time").unwrap() {
                SessionEvent::Stdout(data) => {
                    out.push_str(&String::from_utf8_lossy(&data));
                    if out.ends_with("31 97\r\n") {
                        input.resize(40, 100).await.unwrap();
                        input.write(b"keys\r").await.unwrap();
                    }
                }
                SessionEvent::Started(_) | SessionEvent::Stderr(_) => {}
                last => break last,
            }
        };
        assert!(
            out.contains("40 100") && out.contains("got keys"),
            "{out:?}"
        );
        assert_eq!(last, code(0));
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_takes_its_command_with_it() {
    for server in servers().await {
        let client = control(&server);
        let script = "while :; do date +%s%N > b; mv b beat; sleep 0.05; done";
        let session = client.exec("box", &sh(script)).await.unwrap();
        let (mut events, input) = session.split();
        assert!(matches!(events.next().await, Ok(SessionEvent::Started(_))));
        let beat = async || {
            let start = sh("cat beat");
            let (run, _) = finish(client.exec("box", &start).await.unwrap()).await;
            run.out
        };
        let begin = Instant::now();
        while beat().await.is_empty() {
            assert!(begin.elapsed() < PATIENCE, "it never beat");
        }
        drop((events, input));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let first = beat().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(first, beat().await, "the command goes on");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_in_the_background_does_not_hold_the_end() {
    for server in servers().await {
        let client = control(&server);
        let start = sh("sleep 30 & echo started");
        let session = client.exec("box", &start).await.unwrap();
        let (run, _) = tokio::time::timeout(Duration::from_secs(5), finish(session))
            .await
            .unwrap();
        assert_eq!((run.out.as_slice(), run.last), (&b"started\n"[..], code(0)));
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_there_and_back() {
    for server in servers().await {
        let client = control(&server);
        let content: Vec<u8> = (0..300_000u32).map(|n| (n / 7) as u8).collect();
        let query = WriteQuery {
            path: "/tmp/deep/er/ünîcödé file".into(),
            mode: Some(0o640),
            mtime_ms: Some(1_700_000_000_000),
            parents: Some(true),
            ..WriteQuery::default()
        };
        let written = client
            .write_file("box", query.clone(), WireBody::full(content.clone()))
            .await
            .unwrap();
        assert_eq!((written.size, written.mode), (300_000, 0o640));
        assert_eq!(written.mtime_ms, 1_700_000_000_000);
        let read = client.read_file("box", &query.path).await.unwrap();
        assert_eq!(read.headers["content-length"], "300000");
        assert_eq!(read.body.collect(1 << 20).await.unwrap(), content);
        let names: Vec<_> = client.list_files("box", "/tmp/deep").await.unwrap();
        assert_eq!(
            (names[0].name.as_str(), names[0].kind.as_str()),
            ("er", "directory")
        );
        let e = client.read_file("box", "/tmp/absent").await.unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
        client.remove("box", "/tmp/deep", true).await.unwrap();
        let e = client.stat("box", "/tmp/deep", true).await.unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_of_the_main_process() {
    for server in servers().await {
        let client = control(&server);
        let core = server.running().unwrap().core();
        let id = InstanceId::new("main").unwrap();
        let mut spec = InstanceSpec::new(id);
        spec.main = Some(boxrig_engine::MainProcess {
            argv: vec![
                b"sh".to_vec(),
                b"-c".to_vec(),
                b"echo one; echo two".to_vec(),
            ],
            env: Default::default(),
            cwd: None,
            ..Default::default()
        });
        core.engine.create(spec).await.unwrap();
        let mut text = Vec::new();
        for _ in 0..100 {
            let log = client.logs("main", LogQuery::default()).await.unwrap();
            assert_eq!(log.headers["x-boxrig-offset"], "0");
            text = log.body.collect(1 << 20).await.unwrap().to_vec();
            if text.ends_with(b"two\n") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(text, b"one\ntwo\n");
        let query = LogQuery {
            source: Some("wrong".into()),
            ..LogQuery::default()
        };
        assert_eq!(
            client.logs("main", query).await.unwrap_err().kind(),
            Kind::Invalid
        );
        server.stop().await;
    }
}
