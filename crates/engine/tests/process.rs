//! The process engine.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use boxrig_engine::{
    Engine, EventKind, Exec, ExecSpec, ExitStatus, FileKind, InstanceId, InstanceSpec,
    InstanceState, Isolation, Kind, Limits, LogOptions, MainProcess, NetworkPolicy, Options,
    Process, SnapshotId, SnapshotSpec, Source, StopMode, WinSize, WriteOptions,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

fn spec(text: &str) -> InstanceSpec {
    InstanceSpec::new(id(text))
}

fn sh(script: &str) -> ExecSpec {
    ExecSpec::new(["sh", "-c", script])
}

async fn open(dir: &Path) -> Process {
    Process::open(dir, Options::default()).await.unwrap()
}

/// Runs to the end; status, output and errors.
async fn run(engine: &Process, name: &str, spec: ExecSpec) -> (ExitStatus, String, String) {
    let mut exec = engine.exec(&id(name), spec).await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    let stderr = exec.stderr.as_mut().unwrap();
    let (a, b) = tokio::join!(
        exec.stdout.read_to_string(&mut out),
        stderr.read_to_string(&mut err)
    );
    a.unwrap();
    b.unwrap();
    (exec.wait().await.unwrap(), out, err)
}

async fn read(engine: &Process, name: &str, path: &str) -> String {
    let mut file = engine
        .read_file(&id(name), path.as_bytes(), 0)
        .await
        .unwrap();
    let mut text = String::new();
    file.content.read_to_string(&mut text).await.unwrap();
    text
}

async fn write(engine: &Process, name: &str, path: &str, text: &'static str) {
    let written = engine
        .write_file(
            &id(name),
            path.as_bytes(),
            WriteOptions::default(),
            Box::new(text.as_bytes()),
        )
        .await
        .unwrap();
    assert_eq!(written, text.len() as u64);
}

/// Waits for something that another process does.
async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn alive(pid: &str) -> bool {
    // A zombie of a dead parent waits for whoever reaps here; it does not run.
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .trim_start()
            .starts_with('Z')
    })
}

#[tokio::test]
async fn commands() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    assert_eq!(engine.capabilities().isolation, Isolation::None);
    assert!(!engine.capabilities().egress && !engine.capabilities().survives_restart);
    let mut with_env = spec("a");
    with_env
        .env
        .insert("OWN".to_owned(), "own value".to_owned());
    engine.create(with_env).await.unwrap();

    let (status, out, err) = run(&engine, "a", sh("echo out; echo err >&2; exit 7")).await;
    assert_eq!(
        (status, out.as_str(), err.as_str()),
        (ExitStatus::Code(7), "out\n", "err\n")
    );
    let (status, ..) = run(&engine, "a", sh("kill -9 $$")).await;
    assert_eq!(status, ExitStatus::Signal(9));
    let mut more = sh("echo \"$OWN,$MORE,$(pwd),$HOME\"");
    more.env.insert("MORE".to_owned(), "more".to_owned());
    let root = dir.path().canonicalize().unwrap().join("instances/a/root");
    let root = root.to_str().unwrap();
    assert_eq!(
        run(&engine, "a", more).await.1,
        format!("own value,more,{root},{root}\n")
    );
    let there = ExecSpec {
        cwd: Some(b"/tmp".to_vec()),
        ..sh("pwd")
    };
    assert_eq!(run(&engine, "a", there).await.1, format!("{root}/tmp\n"));

    let mut exec = engine
        .exec(
            &id("a"),
            ExecSpec {
                stdin: true,
                ..sh("cat; echo end")
            },
        )
        .await
        .unwrap();
    let mut stdin = exec.stdin.take().unwrap();
    stdin.write_all(b"in\n").await.unwrap();
    drop(stdin);
    let mut out = String::new();
    exec.stdout.read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "in\nend\n");

    let kind = async |spec: ExecSpec| engine.exec(&id("a"), spec).await.unwrap_err().kind();
    assert_eq!(
        kind(ExecSpec::new(["no-such-command"])).await,
        Kind::CommandNotFound
    );
    assert_eq!(kind(ExecSpec::new(["/etc"])).await, Kind::CannotExecute);
    assert_eq!(
        kind(ExecSpec::new(Vec::<Vec<u8>>::new())).await,
        Kind::Invalid
    );
    assert_eq!(
        kind(ExecSpec {
            cwd: Some(b"/none".to_vec()),
            ..sh("true")
        })
        .await,
        Kind::NotFound
    );
    assert_eq!(
        kind(ExecSpec {
            cwd: Some(b"/../..".to_vec()),
            ..sh("true")
        })
        .await,
        Kind::Invalid
    );
    assert_eq!(
        kind(ExecSpec {
            uid: Some(12_345),
            ..sh("true")
        })
        .await,
        Kind::Unsupported
    );

    // A burst of output and the end right after.
    let (status, out, _) = run(&engine, "a", sh("head -c 10485760 /dev/zero")).await;
    assert_eq!((status, out.len()), (ExitStatus::Code(0), 10 << 20));
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    for network in [
        NetworkPolicy::None,
        NetworkPolicy::Egress(Default::default()),
    ] {
        let error = engine
            .create(InstanceSpec {
                network,
                ..spec("a")
            })
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("no isolation"), "{error}");
    }
    let image = InstanceSpec {
        source: Source::Image("ubuntu".to_owned()),
        ..spec("a")
    };
    assert_eq!(
        engine.create(image).await.unwrap_err().kind(),
        Kind::NotFound
    );
    let error = engine
        .import_image("x", Box::new(&b""[..]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    let bad = InstanceSpec {
        hostname: "a b".to_owned(),
        ..spec("a")
    };
    assert_eq!(engine.create(bad).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(engine.list().await.unwrap(), []);
    assert_eq!(
        std::fs::read_dir(dir.path().join("instances"))
            .unwrap()
            .count(),
        0
    );
    let limits = Limits {
        memory_bytes: Some(1 << 30),
        ..Limits::default()
    };
    let info = engine
        .create(InstanceSpec {
            limits,
            ..spec("a")
        })
        .await
        .unwrap();
    assert!(!info.enforced.memory);
    assert_eq!(
        engine.create(spec("a")).await.unwrap_err().kind(),
        Kind::Exists
    );
}

/// Whatever the server was told to ignore.
#[tokio::test]
async fn commands_begin_with_the_default_signals() {
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
        // SAFETY: no handler is set.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    engine.create(spec("a")).await.unwrap();
    let script = "trap 'echo caught' INT HUP; kill -INT $$; kill -HUP $$";
    let (status, out, err) = run(&engine, "a", sh(script)).await;
    assert_eq!(
        (status, &*out, &*err),
        (ExitStatus::Code(0), "caught\ncaught\n", "")
    );
}

#[tokio::test]
async fn terminals() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    engine.create(spec("a")).await.unwrap();
    let tty = |script| ExecSpec {
        tty: Some(WinSize { rows: 33, cols: 77 }),
        ..sh(script)
    };
    // The signal finds the shell in a command of its own: dash loses one that comes while it starts a program.
    let script = "trap 'exit 42' INT; stty size; read x; stty size; tty -s && echo tty; read y";
    let mut exec = engine.exec(&id("a"), tty(script)).await.unwrap();
    assert!(exec.stderr.is_none());
    let mut seen = String::new();
    expect(&mut exec, &mut seen, "33 77").await;
    exec.control
        .resize(WinSize { rows: 5, cols: 6 })
        .await
        .unwrap();
    exec.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    expect(&mut exec, &mut seen, "5 6").await;
    expect(&mut exec, &mut seen, "tty").await;
    exec.stdin
        .as_mut()
        .unwrap()
        .write_all(b"\x03")
        .await
        .unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), exec.wait());
    let ended = ended.await.expect("the signal arrives");
    assert_eq!(ended.unwrap(), ExitStatus::Code(42));
    let exec = engine.exec(&id("a"), sh("true")).await.unwrap();
    assert_eq!(
        exec.control
            .resize(WinSize::default())
            .await
            .unwrap_err()
            .kind(),
        Kind::Invalid
    );

    let mut console = engine.console(&id("a"), WinSize::default()).await.unwrap();
    console
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"echo re''corded; exit\n")
        .await
        .unwrap();
    let mut seen = String::new();
    expect(&mut console, &mut seen, "recorded").await;
    console.wait().await.unwrap();
    let options = LogOptions {
        source: boxrig_engine::LogSource::Console,
        ..LogOptions::default()
    };
    let mut log = engine.logs(&id("a"), options).await.unwrap();
    let mut text = String::new();
    log.content.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("recorded"), "{text}");
}

async fn expect(exec: &mut Exec, seen: &mut String, wanted: &str) {
    let mut buffer = [0; 1024];
    while !seen.contains(wanted) {
        let read = tokio::time::timeout(Duration::from_secs(10), exec.stdout.read(&mut buffer));
        let got = read
            .await
            .unwrap_or_else(|_| panic!("no {wanted:?} in {seen:?}"))
            .unwrap();
        assert!(got > 0, "no {wanted:?} in {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..got]));
    }
}

#[tokio::test]
async fn dropping_ends_the_group_or_lets_it_go() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    engine.create(spec("a")).await.unwrap();
    let mut exec = engine
        .exec(&id("a"), sh("sleep 100 & echo $!; wait"))
        .await
        .unwrap();
    let mut pid = [0; 16];
    let got = exec.stdout.read(&mut pid).await.unwrap();
    let pid = String::from_utf8_lossy(&pid[..got]).into_owned();
    assert!(alive(&pid));
    drop(exec);
    eventually("killed with its group", || !alive(&pid)).await;

    let script = "sleep 0.1; echo done > later";
    let exec = engine
        .exec(
            &id("a"),
            ExecSpec {
                kill_on_drop: false,
                ..sh(script)
            },
        )
        .await
        .unwrap();
    drop(exec);
    let later = dir.path().join("instances/a/root/later");
    eventually("went on unattended", || later.exists()).await;

    let exec = engine.exec(&id("a"), sh("sleep 100")).await.unwrap();
    exec.control.signal(15).await.unwrap();
    assert_eq!(exec.wait().await.unwrap(), ExitStatus::Signal(15));
    exec.control.signal(15).await.unwrap();
    assert_eq!(
        exec.control.signal(99).await.unwrap_err().kind(),
        Kind::Invalid
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn pause_and_stop_reach_those_that_left_their_group() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    engine.create(spec("a")).await.unwrap();
    let script = "setsid sh -c 'echo $$ > pid; while :; do echo >> ticks; sleep 0.005; done' & \
                  while :; do echo >> ticks; sleep 0.005; done";
    let exec = engine
        .exec(
            &id("a"),
            ExecSpec {
                kill_on_drop: false,
                ..sh(script)
            },
        )
        .await
        .unwrap();
    let root = dir.path().join("instances/a/root");
    let ticks = || std::fs::metadata(root.join("ticks")).map_or(0, |meta| meta.len());
    eventually("both run", || ticks() > 10 && root.join("pid").exists()).await;
    assert!(engine.stats(&id("a")).await.unwrap().pids.unwrap() >= 2);

    assert_eq!(
        engine.pause(&id("a")).await.unwrap().state,
        InstanceState::Paused
    );
    let before = ticks();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(ticks(), before);
    assert_eq!(
        engine.exec(&id("a"), sh("true")).await.unwrap_err().kind(),
        Kind::InvalidState
    );
    engine.resume(&id("a")).await.unwrap();
    eventually("go on", || ticks() > before + 10).await;

    let pid = std::fs::read_to_string(root.join("pid")).unwrap();
    let stopped = engine
        .stop(
            &id("a"),
            StopMode {
                grace: Some(Duration::from_millis(50)),
            },
        )
        .await
        .unwrap();
    assert_eq!(stopped.state, InstanceState::Stopped);
    assert!(!alive(&pid));
    assert!(matches!(
        exec.wait().await.unwrap(),
        ExitStatus::Signal(9 | 15)
    ));
    assert_eq!(
        engine.pause(&id("a")).await.unwrap_err().kind(),
        Kind::InvalidState
    );
    engine.start(&id("a")).await.unwrap();
    assert_eq!(run(&engine, "a", sh("true")).await.0, ExitStatus::Code(0));
}

#[tokio::test]
async fn files_stay_below_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    let canary = outside.path().join("canary");
    std::fs::write(&canary, "untouched").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let a = id("a");
    engine.create(spec("a")).await.unwrap();
    let options = WriteOptions {
        mode: Some(0o750),
        parents: true,
        ..WriteOptions::default()
    };
    engine
        .write_file(
            &a,
            b"/d/e/tool",
            options,
            Box::new(&b"#!/bin/sh\necho ran\n"[..]),
        )
        .await
        .unwrap();
    assert_eq!(
        run(&engine, "a", ExecSpec::new(["./d/e/tool"])).await.1,
        "ran\n"
    );
    let meta = engine.stat(&a, b"/d/e/tool", true).await.unwrap();
    assert_eq!(
        (meta.kind, meta.mode, meta.size),
        (FileKind::File, 0o750, 19)
    );
    // Replaced whole, with its mode.
    write(&engine, "a", "/d/e/tool", "new").await;
    assert_eq!(
        engine.stat(&a, b"/d/e/tool", true).await.unwrap().mode,
        0o750
    );
    let add = WriteOptions {
        append: true,
        ..WriteOptions::default()
    };
    engine
        .write_file(&a, b"/d/e/tool", add, Box::new(&b"er"[..]))
        .await
        .unwrap();
    assert_eq!(read(&engine, "a", "/d/e/tool").await, "newer");
    let mut part = engine.read_file(&a, b"/d/e/tool", 3).await.unwrap();
    let mut text = String::new();
    part.content.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "er");

    engine.symlink(&a, b"/inside", b"d/e").await.unwrap();
    assert_eq!(read(&engine, "a", "/inside/tool").await, "newer");
    engine
        .symlink(&a, b"/out", outside.path().to_str().unwrap().as_bytes())
        .await
        .unwrap();
    engine
        .symlink(&a, b"/up", b"../../../../../../../../etc")
        .await
        .unwrap();
    let meta = engine.stat(&a, b"/up", false).await.unwrap();
    assert_eq!(
        (meta.kind, meta.target.unwrap()),
        (FileKind::Symlink, b"../../../../../../../../etc".to_vec())
    );
    for path in ["/out/canary", "/up/passwd", "/out/new"] {
        let path = path.as_bytes();
        let kind = |error: boxrig_engine::Error| error.kind();
        assert_eq!(
            kind(engine.read_file(&a, path, 0).await.unwrap_err()),
            Kind::Denied
        );
        assert_eq!(
            kind(engine.stat(&a, path, true).await.unwrap_err()),
            Kind::Denied
        );
        assert_eq!(
            kind(engine.remove(&a, path, true).await.unwrap_err()),
            Kind::Denied
        );
        assert_eq!(
            kind(engine.make_dir(&a, path, 0o755, false).await.unwrap_err()),
            Kind::Denied
        );
        let write = engine.write_file(&a, path, WriteOptions::default(), Box::new(&b"x"[..]));
        assert_eq!(kind(write.await.unwrap_err()), Kind::Denied);
    }
    for path in ["/../x", "relative", "", "/a/../../b", "/nul\0"] {
        assert_eq!(
            engine
                .stat(&a, path.as_bytes(), true)
                .await
                .unwrap_err()
                .kind(),
            Kind::Invalid,
            "{path}"
        );
    }
    // A link in the last place is replaced, not written through.
    engine
        .symlink(&a, b"/last", canary.to_str().unwrap().as_bytes())
        .await
        .unwrap();
    write(&engine, "a", "/last", "mine").await;
    assert_eq!(
        engine.stat(&a, b"/last", false).await.unwrap().kind,
        FileKind::File
    );
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "untouched");

    engine.make_dir(&a, b"/m/n", 0o700, true).await.unwrap();
    engine.make_dir(&a, b"/m/n", 0o700, true).await.unwrap();
    assert_eq!(
        engine
            .make_dir(&a, b"/m/n", 0o700, false)
            .await
            .unwrap_err()
            .kind(),
        Kind::Exists
    );
    let names: Vec<Vec<u8>> = engine
        .list_dir(&a, b"/")
        .await
        .unwrap()
        .into_iter()
        .map(|e| e.name)
        .collect();
    assert_eq!(
        names,
        [&b"d"[..], b"inside", b"last", b"m", b"out", b"tmp", b"up"]
    );
    assert_eq!(
        engine.remove(&a, b"/m", false).await.unwrap_err().kind(),
        Kind::Invalid
    );
    engine.remove(&a, b"/m", true).await.unwrap();
    assert_eq!(
        engine.stat(&a, b"/m", true).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        engine.remove(&a, b"/", true).await.unwrap_err().kind(),
        Kind::Invalid
    );
    assert_eq!(
        engine.read_file(&a, b"/d", 0).await.unwrap_err().kind(),
        Kind::Invalid
    );
}

#[tokio::test]
async fn snapshots_clones_and_restores() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    engine.create(spec("a")).await.unwrap();
    write(&engine, "a", "/file", "old").await;
    run(&engine, "a", sh("mkdir -p d; echo x > d/ro; ln -s ../file d/link; chmod 500 d; touch -d @1000000000 file")).await;
    let named = |name: &str| SnapshotSpec {
        id: SnapshotId::new(name).unwrap(),
        labels: Default::default(),
    };
    let s = named("s").id;
    let info = engine.snapshot(&id("a"), named("s")).await.unwrap();
    assert_eq!(info.bytes, 5);
    assert_eq!(
        engine
            .snapshot(&id("a"), named("s"))
            .await
            .unwrap_err()
            .kind(),
        Kind::Exists
    );
    write(&engine, "a", "/file", "new").await;

    let from = |source, name: &str| InstanceSpec {
        source,
        ..spec(name)
    };
    engine
        .create(from(Source::Snapshot(s.clone()), "b"))
        .await
        .unwrap();
    engine
        .create(from(Source::Instance(id("a")), "c"))
        .await
        .unwrap();
    assert_eq!(read(&engine, "b", "/file").await, "old");
    assert_eq!(read(&engine, "c", "/file").await, "new");
    let (_, out, _) = run(
        &engine,
        "b",
        sh("stat -c '%a' d; stat -c %Y file; cat d/link d/ro"),
    )
    .await;
    assert_eq!(out, "500\n1000000000\noldx\n");
    write(&engine, "b", "/file", "of b").await;
    assert_eq!(read(&engine, "a", "/file").await, "new");

    let info = engine.restore(&id("a"), &s).await.unwrap();
    assert_eq!(info.state, InstanceState::Running);
    assert_eq!(read(&engine, "a", "/file").await, "old");
    drop(engine);
    let engine = open(dir.path()).await;
    assert_eq!(engine.list_snapshots().await.unwrap().len(), 1);
    engine.delete_snapshot(&s).await.unwrap();
    assert_eq!(
        engine.delete_snapshot(&s).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(read(&engine, "b", "/file").await, "of b");
    for name in ["a", "b", "c"] {
        engine.delete(&id(name)).await.unwrap();
    }
    for part in ["instances", "snapshots", "work"] {
        assert_eq!(
            std::fs::read_dir(dir.path().join(part)).unwrap().count(),
            0,
            "{part}"
        );
    }
}

#[tokio::test]
async fn the_main_process_and_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let main = |argv: &[&str]| {
        let argv = argv.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        Some(MainProcess {
            argv,
            env: Default::default(),
            cwd: None,
            ..Default::default()
        })
    };
    let error = engine
        .create(InstanceSpec {
            main: main(&["no-such-command"]),
            ..spec("x")
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::CommandNotFound);
    assert_eq!(engine.list().await.unwrap(), []);

    let mut events = engine.events();
    let script =
        "echo one; echo two >&2; while [ ! -e go ]; do sleep 0.01; done; echo three; exit 3";
    engine
        .create(InstanceSpec {
            main: main(&["sh", "-c", script]),
            ..spec("a")
        })
        .await
        .unwrap();
    let mut log = engine
        .logs(
            &id("a"),
            LogOptions {
                follow: true,
                ..LogOptions::default()
            },
        )
        .await
        .unwrap();
    let mut seen = Vec::new();
    while seen.len() < 8 {
        log.content.read_buf(&mut seen).await.unwrap();
    }
    write(&engine, "a", "/go", "").await;
    while seen.len() < 14 {
        log.content.read_buf(&mut seen).await.unwrap();
    }
    let text = String::from_utf8(seen).unwrap();
    assert!(
        text.contains("one\n") && text.contains("two\n") && text.ends_with("three\n"),
        "{text}"
    );
    let exited = async {
        loop {
            if let EventKind::MainExited(status) = events.recv().await.unwrap().kind {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(5), exited)
        .await
        .unwrap();
    assert_eq!(status, ExitStatus::Code(3));
    let info = engine.get(&id("a")).await.unwrap();
    assert_eq!(
        (info.state, info.main_exit),
        (InstanceState::Running, Some(ExitStatus::Code(3)))
    );
    // Following ends with the instance.
    engine.stop(&id("a"), StopMode::default()).await.unwrap();
    let mut rest = Vec::new();
    let ended = log.content.read_to_end(&mut rest);
    tokio::time::timeout(Duration::from_secs(5), ended)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn ports() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    engine.create(spec("a")).await.unwrap();
    let mut listener = engine.listen(&id("a"), 0).await.unwrap();
    let (a, port) = (id("a"), listener.port());
    assert_eq!(
        engine.listen(&id("a"), port).await.unwrap_err().kind(),
        Kind::Exists
    );
    let (client, server) = tokio::join!(engine.connect(&a, port), listener.accept());
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    client.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    engine.stop(&id("a"), StopMode::default()).await.unwrap();
    let gone = listener.accept().await.err().unwrap();
    assert_eq!(gone.kind(), Kind::Gone);
    drop(listener);
    engine.start(&id("a")).await.unwrap();
    let Err(error) = engine.connect(&id("a"), port).await else {
        panic!("connected")
    };
    assert_eq!(error.kind(), Kind::NotFound);
}

/// A process with much memory takes its time to die, and has no mark any more meanwhile.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stop_waits_for_those_who_die_slowly() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    engine.create(spec("a")).await.unwrap();
    // It leaves its session, and its leader ends: only the mark finds it.
    let script = "setsid dd if=/dev/zero of=/dev/null bs=400M count=1000000 2>/dev/null & echo $!";
    let root = dir.path().join("instances/a/root");
    for _ in 0..5 {
        let script = format!("({script} > pid) >/dev/null 2>&1 </dev/null");
        run(&engine, "a", sh(&script)).await;
        let pid = std::fs::read_to_string(root.join("pid")).unwrap();
        let memory = || {
            let text = std::fs::read_to_string(format!("/proc/{}/statm", pid.trim())).ok()?;
            text.split(' ').nth(1)?.parse::<u64>().ok()
        };
        eventually("takes memory", || {
            memory().is_some_and(|pages| pages > 90_000)
        })
        .await;
        engine
            .stop(&id("a"), StopMode { grace: None })
            .await
            .unwrap();
        assert!(!alive(&pid));
        engine.start(&id("a")).await.unwrap();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn after_the_end_of_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    assert_eq!(
        Process::open(dir.path(), Options::default())
            .await
            .unwrap_err()
            .kind(),
        Kind::InvalidState
    );
    engine.create(spec("a")).await.unwrap();
    engine.create(spec("s")).await.unwrap();
    engine.stop(&id("s"), StopMode::default()).await.unwrap();
    write(&engine, "a", "/file", "kept").await;
    let script = "echo $$ > pid; while :; do sleep 0.1; done";
    let exec = engine
        .exec(
            &id("a"),
            ExecSpec {
                kill_on_drop: false,
                ..sh(script)
            },
        )
        .await
        .unwrap();
    let root = dir.path().join("instances/a/root");
    eventually("runs", || {
        std::fs::read_to_string(root.join("pid")).is_ok_and(|pid| pid.ends_with('\n'))
    })
    .await;
    let pid = std::fs::read_to_string(root.join("pid")).unwrap();
    drop(exec);
    drop(engine);
    std::fs::create_dir_all(dir.path().join("work/half/made")).unwrap();

    let engine = open(dir.path()).await;
    assert!(!alive(&pid));
    let info = engine.get(&id("a")).await.unwrap();
    assert_eq!(info.state, InstanceState::Failed);
    assert!(info.reason.unwrap().contains("server ended"));
    assert_eq!(
        engine.get(&id("s")).await.unwrap().state,
        InstanceState::Stopped
    );
    assert_eq!(read(&engine, "a", "/file").await, "kept");
    assert_eq!(
        engine.start(&id("a")).await.unwrap().state,
        InstanceState::Running
    );
    assert_eq!(run(&engine, "a", sh("cat file")).await.1, "kept");
    assert!(!dir.path().join("work/half").exists());
}
