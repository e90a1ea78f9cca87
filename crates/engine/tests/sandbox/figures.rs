//! Figures, printed; run with `--ignored --nocapture --test-threads=1`.

use std::time::{Duration, Instant};

use boxrig_engine::{ExecSpec, InstanceSpec};
use tokio::io::AsyncReadExt;

use crate::support::{id, rig};

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!(
        "{what}: min {:?}, median {:?}, max {:?}, n {}",
        times[0],
        times[times.len() / 2],
        times[times.len() - 1],
        times.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn start_and_exec() {
    let Some(rig) = rig().await else { return };
    let (mut creates, mut firsts, mut execs, mut deletes) = (vec![], vec![], vec![], vec![]);
    for n in 0..60 {
        let vm = id(&format!("f{n}"));
        let started = Instant::now();
        rig.engine
            .create(InstanceSpec::new(vm.clone()))
            .await
            .unwrap();
        creates.push(started.elapsed());
        let mut exec = rig
            .engine
            .exec(&vm, ExecSpec::new(["echo", "hello"]))
            .await
            .unwrap();
        let mut buf = [0; 6];
        exec.stdout.read_exact(&mut buf).await.unwrap();
        firsts.push(started.elapsed());
        exec.wait().await.unwrap();
        for _ in 0..5 {
            let started = Instant::now();
            let exec = rig.engine.exec(&vm, ExecSpec::new(["true"])).await.unwrap();
            exec.wait().await.unwrap();
            execs.push(started.elapsed());
        }
        let started = Instant::now();
        rig.engine.delete(&vm).await.unwrap();
        deletes.push(started.elapsed());
    }
    report("create", creates);
    report("create to first output", firsts);
    report("exec true", execs);
    report("delete", deletes);
}

/// `MemAvailable` of the machine, in KiB.
fn available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("MemAvailable"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn a_thousand_idle_instances() {
    let Some(mut rig) = rig().await else { return };
    rig.instance("warm").await;
    let before = available();
    let started = Instant::now();
    for block in 0..100 {
        let jobs = (0..10).map(|n| {
            let engine = std::sync::Arc::clone(&rig.engine);
            tokio::spawn(async move {
                engine
                    .create(InstanceSpec::new(id(&format!("idle-{block}-{n}"))))
                    .await
                    .unwrap()
            })
        });
        for job in jobs.collect::<Vec<_>>() {
            job.await.unwrap();
        }
    }
    println!("1000 instances made in {:?}", started.elapsed());
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!(
        "memory of the machine: {} MiB",
        (before - available()) / 1024
    );
    let mut times = vec![];
    for n in 0..100 {
        let started = Instant::now();
        let exec = rig
            .engine
            .exec(&id(&format!("idle-{n}-3")), ExecSpec::new(["true"]))
            .await
            .unwrap();
        exec.wait().await.unwrap();
        times.push(started.elapsed());
    }
    report("exec among 1000", times);
    let elsewhere = tempfile::tempdir().unwrap();
    rig.engine = crate::support::open(elsewhere.path()).await.unwrap();
    let started = Instant::now();
    rig.engine = crate::restart::reopen(rig.dir.path()).await;
    println!("1000 taken over in {:?}", started.elapsed());
    let started = Instant::now();
    for info in rig.engine.list().await.unwrap() {
        rig.engine.delete(info.id()).await.unwrap();
    }
    println!("deleted one by one in {:?}", started.elapsed());
}
