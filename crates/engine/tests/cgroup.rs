//! Limits, freezing and ending by control groups, on the machine's own trees (root only).

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use boxrig_engine::cgroup::{Cgroups, Group};
use boxrig_engine::{InstanceId, Kind, Limits};

/// A scope and its groups; removed at the end, also of a failed test.
struct Scope(Cgroups);

impl Drop for Scope {
    fn drop(&mut self) {
        self.0.sweep(|_| false);
        self.0.remove_if_empty();
    }
}

/// The groups of a scope of this test's own, or `None` when there are no rights here.
fn scope(test: &str) -> Option<Scope> {
    let scope = Scope(Cgroups::discover(&format!(
        "test-{test}-{}",
        std::process::id()
    )));
    let enforced = scope.0.enforced();
    if enforced.memory && enforced.pids && enforced.cpus && scope.0.freezes() {
        return Some(scope);
    }
    assert_ne!(
        std::env::var("BOXRIG_REQUIRE").as_deref(),
        Ok("sandbox"),
        "this test must run, and limits are not permitted here: {enforced:?}"
    );
    eprintln!("skipped: not all limits are permitted here: {enforced:?}");
    None
}

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

/// A shell in the group, which runs `script` once it is in.
fn shell(group: &Group, script: &str) -> Child {
    let mut child = Command::new("sh")
        .args(["-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    group.add(child.id()).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child
}

#[test]
fn memory_is_limited() {
    let Some(scope) = scope("memory") else { return };
    let group = scope.0.create(&id("a")).unwrap();
    let limits = Limits {
        memory_bytes: Some(64 << 20),
        ..Limits::default()
    };
    assert!(group.set_limits(&limits).unwrap().memory);
    // tail keeps the last line, which is all of it.
    let eater = "head -c 200000000 /dev/zero | tail | wc -c";
    let output = shell(&group, eater).wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0");
    assert!(group.stats().oom_kills.unwrap() >= 1);

    // The same without the limit: it was the limit that ended it.
    assert!(group.set_limits(&Limits::default()).unwrap().memory);
    let output = shell(&group, eater).wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "200000000");
}

#[test]
fn a_limit_below_what_is_used_is_refused_or_holds() {
    let Some(scope) = scope("busy") else { return };
    let group = scope.0.create(&id("a")).unwrap();
    let mut child = shell(
        &group,
        "head -c 100000000 /dev/zero | { tail; } | { sleep 100; }",
    );
    let started = Instant::now();
    while group.stats().memory_bytes.unwrap() < 90 << 20 {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{:?}",
            group.stats()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let limits = Limits {
        memory_bytes: Some(32 << 20),
        ..Limits::default()
    };
    match group.set_limits(&limits) {
        // Version 1.
        Err(error) => assert_eq!(error.kind(), Kind::Limit),
        // Version 2 makes room by ending processes.
        Ok(enforced) => assert!(enforced.memory && group.stats().memory_bytes.unwrap() <= 33 << 20),
    }
    group.kill();
    child.wait().unwrap();
}

#[test]
fn processes_are_limited() {
    let Some(scope) = scope("pids") else { return };
    let group = scope.0.create(&id("a")).unwrap();
    let limits = Limits {
        pids: Some(10),
        ..Limits::default()
    };
    assert!(group.set_limits(&limits).unwrap().pids);
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 30 & done; wait";
    let mut child = shell(&group, script);
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(5) {
        assert!(group.stats().pids.unwrap() <= 10);
        std::thread::sleep(Duration::from_millis(5));
    }
    // The shell gave up when it could not fork, and left nine behind.
    assert_eq!(group.stats().pids, Some(9));
    group.kill();
    child.wait().unwrap();
    group.remove(Duration::from_secs(5)).unwrap();
}

#[test]
fn processor_time_is_limited() {
    let Some(scope) = scope("cpu") else { return };
    let group = scope.0.create(&id("a")).unwrap();
    let limits = Limits {
        cpus: Some(0.2),
        ..Limits::default()
    };
    assert!(group.set_limits(&limits).unwrap().cpus);
    let mut child = shell(&group, "while :; do :; done");
    std::thread::sleep(Duration::from_millis(1500));
    let used = group.stats().cpu_time.unwrap();
    group.kill();
    child.wait().unwrap();
    // 0.3 s are due; a busy loop alone would have used 1.5 s, or half of it on a busy machine.
    assert!(
        used < Duration::from_millis(500) && used > Duration::from_millis(20),
        "{used:?}"
    );
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let limits = Limits {
            cpus: Some(bad),
            ..Limits::default()
        };
        assert_eq!(group.set_limits(&limits).unwrap_err().kind(), Kind::Invalid);
    }
}

#[test]
fn nothing_runs_while_frozen() {
    let Some(scope) = scope("freeze") else { return };
    let group = scope.0.create(&id("a")).unwrap();
    let mut child = shell(
        &group,
        "while :; do :; done & while :; do sleep 0.001; done",
    );
    std::thread::sleep(Duration::from_millis(200));
    assert!(!group.is_frozen());
    let started = Instant::now();
    group.freeze(Duration::from_secs(5)).unwrap();
    println!("frozen in {:?}", started.elapsed());
    assert!(group.is_frozen());
    let before = group.stats().cpu_time.unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let idle = group.stats().cpu_time.unwrap() - before;
    // Accounting of version 1 lags by up to a tick.
    assert!(idle < Duration::from_millis(15), "{idle:?}");
    group.thaw().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while group.stats().cpu_time.unwrap() - before < Duration::from_millis(30) {
        assert!(Instant::now() < deadline, "it does not go on");
        std::thread::sleep(Duration::from_millis(10));
    }

    // Frozen processes can be ended.
    group.freeze(Duration::from_secs(5)).unwrap();
    group.kill();
    child.wait().unwrap();
    group.remove(Duration::from_secs(5)).unwrap();
}

#[test]
fn groups_are_stored_found_and_swept() {
    let Some(scope) = scope("sweep") else { return };
    let started = Instant::now();
    let kept = scope.0.create(&id("kept")).unwrap();
    println!("made in {:?}", started.elapsed());
    let left = scope.0.create(&id("left")).unwrap();
    let mut child = shell(&left, "exec sleep 100");
    assert_eq!(left.pids(), [child.id() as i32]);

    // A server that comes later finds the group again by its record.
    let record = serde_json::to_string(&kept).unwrap();
    assert_eq!(serde_json::from_str::<Group>(&record).unwrap(), kept);

    let later = Cgroups::discover(&format!("test-sweep-{}", std::process::id()));
    assert_eq!(later.sweep(|name| name == "kept"), 1);
    child.wait().unwrap();
    assert!(kept.join_files().iter().all(|file| file.exists()));
    assert!(left.join_files().iter().all(|file| !file.exists()));
    kept.remove(Duration::from_secs(1)).unwrap();
    kept.remove(Duration::from_secs(1)).unwrap();
    let group = scope.0.create(&id("half")).unwrap();
    let mut child = shell(&group, "sleep 100");
    let error = group.remove(Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    group.kill();
    child.wait().unwrap();
}
