//! The simulated engine.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use boxrig_engine::{
    Clock, Engine, EventKind, ExecSpec, InstanceId, InstanceSpec, InstanceState, Isolation, Kind,
    Memory, RealClock, SnapshotId, SnapshotSpec, Source, StopMode, Timings, VirtualClock,
};

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

fn spec(text: &str) -> InstanceSpec {
    InstanceSpec::new(id(text))
}

fn snapshot(text: &str) -> SnapshotSpec {
    SnapshotSpec {
        id: SnapshotId::new(text).unwrap(),
        labels: Default::default(),
    }
}

fn forgetful() -> Memory {
    Memory::new(Arc::new(RealClock), Timings::default())
}

#[tokio::test]
async fn a_life() {
    use InstanceState::{Failed, Paused, Running, Stopped};
    let engine = forgetful();
    let mut events = engine.events();
    assert_eq!(engine.capabilities().isolation, Isolation::Simulated);
    assert_eq!(engine.create(spec("a")).await.unwrap().state, Running);
    assert_eq!(
        engine.create(spec("a")).await.unwrap_err().kind(),
        Kind::Exists
    );
    assert_eq!(engine.pause(&id("a")).await.unwrap().state, Paused);
    assert_eq!(engine.pause(&id("a")).await.unwrap().state, Paused);
    assert_eq!(
        engine.start(&id("a")).await.unwrap_err().kind(),
        Kind::InvalidState
    );
    assert_eq!(engine.resume(&id("a")).await.unwrap().state, Running);
    assert_eq!(
        engine
            .stop(&id("a"), StopMode::default())
            .await
            .unwrap()
            .state,
        Stopped
    );
    assert_eq!(
        engine.pause(&id("a")).await.unwrap_err().kind(),
        Kind::InvalidState
    );
    assert_eq!(engine.start(&id("a")).await.unwrap().state, Running);
    let failed = engine.fail(&id("a"), "struck by lightning").unwrap();
    assert_eq!(
        (failed.state, failed.reason.as_deref()),
        (Failed, Some("struck by lightning"))
    );
    let started = engine.start(&id("a")).await.unwrap();
    assert_eq!((started.state, started.reason), (Running, None));
    engine.delete(&id("a")).await.unwrap();
    assert_eq!(
        engine.get(&id("a")).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        engine.delete(&id("a")).await.unwrap_err().kind(),
        Kind::NotFound
    );
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(event.kind);
    }
    use EventKind as E;
    let lightning = E::Failed("struck by lightning".to_owned());
    assert_eq!(
        seen,
        [
            E::Created,
            E::Paused,
            E::Resumed,
            E::Stopped,
            E::Started,
            lightning,
            E::Started,
            E::Deleted
        ]
    );
}

#[tokio::test]
async fn what_needs_a_process_is_refused_in_words() {
    let engine = forgetful();
    engine.create(spec("a")).await.unwrap();
    let error = engine
        .exec(&id("a"), ExecSpec::new(["true"]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("memory engine") && error.to_string().contains("sandbox"));
    assert_eq!(
        engine.stat(&id("a"), b"/", true).await.unwrap_err().kind(),
        Kind::Unsupported
    );
    let error = engine
        .exec(&id("b"), ExecSpec::new(["true"]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn snapshots_and_sources() {
    let engine = forgetful();
    engine.create(spec("a")).await.unwrap();
    engine.snapshot(&id("a"), snapshot("s")).await.unwrap();
    assert_eq!(
        engine
            .snapshot(&id("a"), snapshot("s"))
            .await
            .unwrap_err()
            .kind(),
        Kind::Exists
    );
    engine.delete(&id("a")).await.unwrap();
    let from = |source| InstanceSpec {
        source,
        ..spec("b")
    };
    let s = SnapshotId::new("s").unwrap();
    engine
        .create(from(Source::Snapshot(s.clone())))
        .await
        .unwrap();
    engine.stop(&id("b"), StopMode::default()).await.unwrap();
    assert_eq!(
        engine.restore(&id("b"), &s).await.unwrap().state,
        InstanceState::Stopped
    );
    engine.delete_snapshot(&s).await.unwrap();
    assert_eq!(
        engine.restore(&id("b"), &s).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(engine.list_snapshots().await.unwrap(), []);
    engine.delete(&id("b")).await.unwrap();
    for missing in [
        Source::Snapshot(s),
        Source::Instance(id("a")),
        Source::Image("none".to_owned()),
    ] {
        assert_eq!(
            engine.create(from(missing)).await.unwrap_err().kind(),
            Kind::NotFound
        );
    }
    let image = engine
        .import_image("mine", Box::new(&b"abc"[..]))
        .await
        .unwrap();
    let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!((image.digest.as_deref(), image.bytes), (Some(abc), 3));
    engine
        .create(from(Source::Image("mine".to_owned())))
        .await
        .unwrap();
    let names: Vec<String> = engine
        .list_images()
        .await
        .unwrap()
        .into_iter()
        .map(|i| i.name)
        .collect();
    assert_eq!(names, ["boxrig/base", "mine"]);
    engine.delete_image("mine").await.unwrap();
    assert_eq!(
        engine.delete_image("mine").await.unwrap_err().kind(),
        Kind::NotFound
    );
}

#[tokio::test]
async fn changes_take_their_time_on_the_virtual_clock() {
    let clock = VirtualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    let timings = Timings {
        create: Duration::from_secs(60),
        ..Timings::default()
    };
    let engine = Arc::new(Memory::new(Arc::new(clock.clone()), timings));
    let created = {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move { engine.create(spec("a")).await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    clock.advance(Duration::from_secs(59));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!created.is_finished());
    assert_eq!(engine.list().await.unwrap(), []);
    clock.advance(Duration::from_secs(1));
    let info = created.await.unwrap().unwrap();
    assert_eq!(info.created_at, clock.now());

    // A creation that is given up leaves nothing.
    let given_up = tokio::time::timeout(Duration::from_millis(10), engine.create(spec("b"))).await;
    assert!(given_up.is_err());
    clock.advance(Duration::from_secs(600));
    assert_eq!(
        engine.get(&id("b")).await.unwrap_err().kind(),
        Kind::NotFound
    );
}

#[tokio::test]
async fn what_was_acknowledged_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Memory::open(dir.path(), Arc::new(RealClock), Timings::default());
    let engine = open().unwrap();
    assert_eq!(open().unwrap_err().kind(), Kind::InvalidState);
    engine.create(spec("a")).await.unwrap();
    engine.create(spec("b")).await.unwrap();
    engine.create(spec("c")).await.unwrap();
    engine.snapshot(&id("a"), snapshot("s")).await.unwrap();
    engine.delete(&id("b")).await.unwrap();
    let paused = engine.pause(&id("c")).await.unwrap();
    drop(engine);

    // Killed in the middle of a line.
    let journal = dir.path().join("memory.jsonl");
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&journal)
        .unwrap();
    file.write_all(b"{\"instance\":{\"spec\":{\"id\":\"half")
        .unwrap();
    drop(file);
    let engine = open().unwrap();
    let names: Vec<String> = engine
        .list()
        .await
        .unwrap()
        .iter()
        .map(|info| info.id().to_string())
        .collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(engine.get(&id("c")).await.unwrap(), paused);
    assert_eq!(engine.list_snapshots().await.unwrap().len(), 1);
    drop(engine);

    // A damaged line in the middle is told, not skipped.
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, format!("rubbish\n{text}")).unwrap();
    let error = open().unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[tokio::test]
async fn the_journal_does_not_grow_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Memory::open(dir.path(), Arc::new(RealClock), Timings::default()).unwrap();
    engine.create(spec("a")).await.unwrap();
    for _ in 0..5_000 {
        engine.pause(&id("a")).await.unwrap();
        engine.resume(&id("a")).await.unwrap();
    }
    let text = std::fs::read_to_string(dir.path().join("memory.jsonl")).unwrap();
    assert!(text.lines().count() < 4_200);
    drop(engine);
    let engine = Memory::open(dir.path(), Arc::new(RealClock), Timings::default()).unwrap();
    assert_eq!(
        engine.get(&id("a")).await.unwrap().state,
        InstanceState::Running
    );
}

#[tokio::test]
async fn ten_thousand() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Memory::open(dir.path(), Arc::new(RealClock), Timings::default()).unwrap();
    let started = Instant::now();
    for number in 0..10_000 {
        engine.create(spec(&format!("vm-{number}"))).await.unwrap();
    }
    let created = started.elapsed();
    let started = Instant::now();
    assert_eq!(engine.list().await.unwrap().len(), 10_000);
    let listed = started.elapsed();
    drop(engine);
    let started = Instant::now();
    let engine = Memory::open(dir.path(), Arc::new(RealClock), Timings::default()).unwrap();
    println!(
        "10,000 created in {created:?}, listed in {listed:?}, opened in {:?}",
        started.elapsed()
    );
    assert_eq!(engine.list().await.unwrap().len(), 10_000);
    // A hundred times what was measured; a mistake in the order of growth would be far beyond.
    assert!(created < Duration::from_secs(10) && listed < Duration::from_secs(2));
}
