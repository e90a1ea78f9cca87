//! The server goes away and comes back: what ran still runs.

use std::time::{Duration, Instant};

use boxrig_engine::{ExecSpec, InstanceSpec, InstanceState, LogOptions, MainProcess, StopMode};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::support::{id, open, rig};

/// Opens the folder again once the runtime has let go of the old engine.
pub(crate) async fn reopen(dir: &std::path::Path) -> std::sync::Arc<dyn boxrig_engine::Engine> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match open(dir).await {
            Ok(engine) => return engine,
            Err(error) if Instant::now() > deadline => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A server of its own: this test binary, run again. It makes instances, says so, and waits to be killed.
#[test]
fn child_server() {
    let Ok(dir) = std::env::var("BOXRIG_TEST_CHILD_DIR") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let engine = open(dir.as_ref()).await.unwrap();
        for name in ["a", "b", "paused", "stopped", "dies", "unfinished"] {
            let mut spec = InstanceSpec::new(id(name));
            spec.main = Some(MainProcess {
                argv: [
                    "sh",
                    "-c",
                    "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.02; done",
                ]
                .map(|part| part.as_bytes().to_vec())
                .to_vec(),
                env: Default::default(),
                cwd: None,
                ..Default::default()
            });
            engine.create(spec).await.unwrap();
        }
        engine.pause(&id("paused")).await.unwrap();
        engine
            .stop(&id("stopped"), StopMode::default())
            .await
            .unwrap();
        std::fs::write(format!("{dir}/ready"), "").unwrap();
        std::future::pending::<()>().await;
    });
}

/// The host's process id of an instance's process 1, as it is written down.
fn pid_of(root: &std::path::Path, name: &str) -> rustix::process::Pid {
    let record = std::fs::read(root.join("instances").join(name).join("instance.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let pid = record["run"]["pid"].as_i64().unwrap();
    rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_outlive_a_killed_server() {
    let Some(mut rig) = rig().await else { return };
    let dir = tempfile::Builder::new()
        .prefix("boxrig-test-")
        .tempdir()
        .unwrap();
    // The first engine's folder is not used; this one is the killed server's.
    rig.dir = dir;
    let root = rig.dir.path().to_owned();
    let mut server = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["restart::child_server", "--exact", "--nocapture"])
        .env("BOXRIG_TEST_CHILD_DIR", &root)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !root.join("ready").exists() {
        assert!(Instant::now() < deadline, "the server does not come up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.kill().unwrap();
    server.wait().unwrap();
    let pid = pid_of(&root, "dies");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // A creation that was cut off.
    std::fs::create_dir_all(root.join("instances/half/rw-0/upper")).unwrap();
    // And one that was cut off between its start and its record.
    let unfinished = pid_of(&root, "unfinished");
    std::fs::remove_file(root.join("instances/unfinished/instance.json")).unwrap();
    let started = Instant::now();
    rig.engine = open(&root).await.unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    let states: Vec<_> = rig
        .engine
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(|info| (info.id().to_string(), info.state))
        .collect();
    let expected = [
        ("a", InstanceState::Running),
        ("b", InstanceState::Running),
        ("dies", InstanceState::Failed),
        ("paused", InstanceState::Paused),
        ("stopped", InstanceState::Stopped),
    ];
    assert_eq!(
        states,
        expected.map(|(name, state)| (name.to_owned(), state))
    );
    assert!(!root.join("instances/half").exists());
    assert!(!root.join("instances/unfinished").exists());
    let gone = rustix::process::test_kill_process(unfinished);
    let zombie = std::fs::read_to_string(format!("/proc/{unfinished}/stat"))
        .is_ok_and(|stat| stat.contains(") Z "));
    assert!(gone.is_err() || zombie);
    let ticks = rig.ok(&id("a"), "pgrep -c sh").await;
    assert!(ticks.parse::<u32>().unwrap() >= 1);
    // The log goes on, without a gap.
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let log = rig.engine.logs(&id("a"), follow).await.unwrap();
    let mut lines = BufReader::new(log.content).lines();
    for n in 1..50 {
        let line = tokio::time::timeout(Duration::from_secs(5), lines.next_line());
        assert_eq!(line.await.unwrap().unwrap().unwrap(), format!("tick {n}"));
    }
    rig.engine.resume(&id("paused")).await.unwrap();
    rig.ok(&id("paused"), "true").await;
    rig.engine.start(&id("stopped")).await.unwrap();
    rig.ok(&id("stopped"), "true").await;
    let reason = rig.engine.get(&id("dies")).await.unwrap().reason.unwrap();
    assert!(reason.contains("while the server was away"), "{reason}");
    for info in rig.engine.list().await.unwrap() {
        rig.engine.delete(info.id()).await.unwrap();
    }
    assert_eq!(
        std::fs::read_dir(root.join("instances")).unwrap().count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_engine_per_folder() {
    let Some(rig) = rig().await else { return };
    let error = open(rig.dir.path()).await.unwrap_err();
    assert_eq!(error.kind(), boxrig_engine::Kind::InvalidState);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_engine_leaves_its_instances_to_the_next() {
    let Some(mut rig) = rig().await else { return };
    let vm = rig.instance("kept").await;
    let pid = rig.engine.get(&vm).await.unwrap().host_pid;
    let mut listener = rig.engine.listen(&vm, 9000).await.unwrap();
    for _ in 0..3 {
        let elsewhere = tempfile::tempdir().unwrap();
        let parked = reopen(elsewhere.path()).await;
        drop(std::mem::replace(&mut rig.engine, parked));
        rig.engine = reopen(rig.dir.path()).await;
        assert_eq!(rig.engine.get(&vm).await.unwrap().host_pid, pid);
        rig.ok(&vm, "true").await;
        // The port is asked for again; a connection is not lost in between.
        let client = "import socket; socket.create_connection(('127.0.0.1',9000)); print('in')";
        assert_eq!(rig.ok(&vm, &format!("python3 -c \"{client}\"")).await, "in");
        listener = rig.engine.listen(&vm, 9000).await.unwrap();
        listener.accept().await.unwrap();
    }
    drop(listener);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once() {
    let Some(rig) = rig().await else { return };
    let started = Instant::now();
    let jobs = (0..100).map(|n| {
        let engine = std::sync::Arc::clone(&rig.engine);
        tokio::spawn(async move {
            let vm = id(&format!("many-{n}"));
            engine.create(InstanceSpec::new(vm.clone())).await.unwrap();
            let mut exec = engine
                .exec(&vm, ExecSpec::new(["sh", "-c", "hostname"]))
                .await
                .unwrap();
            let mut text = String::new();
            exec.stdout.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, format!("many-{n}\n"));
            assert!(exec.wait().await.unwrap().success());
        })
    });
    for job in jobs.collect::<Vec<_>>() {
        job.await.unwrap();
    }
    println!(
        "100 instances with one command each: {:?}",
        started.elapsed()
    );
    assert_eq!(rig.engine.list().await.unwrap().len(), 100);
    let jobs = (0..100).map(|n| {
        let engine = std::sync::Arc::clone(&rig.engine);
        tokio::spawn(async move { engine.delete(&id(&format!("many-{n}"))).await.unwrap() })
    });
    for job in jobs.collect::<Vec<_>>() {
        job.await.unwrap();
    }
    assert!(rig.engine.list().await.unwrap().is_empty());
    assert!(reopen_is_possible(rig).await);
}

async fn reopen_is_possible(mut rig: crate::support::Rig) -> bool {
    let other = tempfile::tempdir().unwrap();
    let parked = reopen(other.path()).await;
    drop(std::mem::replace(&mut rig.engine, parked));
    reopen(rig.dir.path())
        .await
        .list()
        .await
        .unwrap()
        .is_empty()
}
