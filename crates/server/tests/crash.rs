//! `kill -9` in the middle of saving: what was acknowledged is there, what is there is whole.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use boxrig_server::faults;
use boxrig_server::state::{StateError, Store};
use serde::{Deserialize, Serialize};

/// Two documents that are always written together.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Half {
    n: u64,
    // Large enough for a commit to be many writes.
    filler: String,
}

const DIR: &str = "BOXRIG_TEST_CRASH_DIR";
const WRITES: u64 = 40;

/// The process that is killed; run by the test below.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let commit = std::env::var_os("BOXRIG_FAULT_NO_COMMIT").is_none();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::open(&Path::new(&dir).join("state.redb"), commit).unwrap();
        let left = store.table::<Half>("left").unwrap();
        let right = store.table::<Half>("right").unwrap();
        faults::arm().unwrap();
        let tasks: Vec<_> = (0..4u64)
            .map(|task| {
                let (store, left, right) = (store.clone(), left.clone(), right.clone());
                tokio::spawn(async move {
                    for n in 1..=WRITES {
                        let half = |n| Half {
                            n,
                            filler: "x".repeat(5000),
                        };
                        let key = format!("k{task}");
                        let write = store.write(|tx| {
                            tx.put(&left, &key, half(n))?;
                            tx.put(&right, &key, half(n))?;
                            Ok::<_, StateError>(())
                        });
                        write.await.unwrap();
                        println!("\nack {key} {n}");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

struct Outcome {
    crashed: bool,
    lost: bool,
}

fn crash(point: &str, n: u64, commit: bool) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(DIR, dir.path())
        .env("BOXRIG_CRASH_AT", format!("{point}:{n}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if !commit {
        command.env("BOXRIG_FAULT_NO_COMMIT", "1");
    }
    let mut child = command.spawn().unwrap();
    let mut acked: BTreeMap<String, u64> = BTreeMap::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        if let (Some("ack"), Some(key), Some(n)) = (words.next(), words.next(), words.next()) {
            acked.insert(key.to_owned(), n.parse().unwrap());
        }
    }
    let crashed = !child.wait().unwrap().success();

    let started = Instant::now();
    let store = Store::open(&dir.path().join("state.redb"), true).unwrap();
    let left = store.table::<Half>("left").unwrap();
    let right = store.table::<Half>("right").unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "recovery");
    let mut lost = false;
    for task in 0..4 {
        let key = format!("k{task}");
        let (l, r) = (left.get(&key), right.get(&key));
        assert_eq!(l, r, "{point}:{n}: half a transaction is visible");
        let found = l.map_or(0, |half| half.n);
        let acked = acked.get(&key).copied().unwrap_or(0);
        lost |= found < acked;
        assert!(found <= acked + 1, "{point}:{n}: more than was asked for");
    }
    Outcome { crashed, lost }
}

#[test]
fn nothing_acknowledged_is_lost() {
    let mut within = 0;
    for point in [
        "state.begin",
        "state.write",
        "state.sync",
        "state.before_commit",
        "state.after_commit",
    ] {
        let counts: &[u64] = match point {
            "state.write" => &[1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144],
            _ => &[1, 2, 7, 19, 31],
        };
        for n in counts {
            let outcome = crash(point, *n, true);
            assert!(!outcome.lost, "{point}:{n}: an acknowledged write is lost");
            within += u32::from(outcome.crashed);
        }
    }
    println!("{within} crashes within a write");
    assert!(within >= 20, "only {within} runs crashed");
}

#[test]
fn the_test_finds_a_loss_when_there_is_one() {
    // Without commits the points within them are not passed; the run ends by itself.
    let outcome = crash("state.begin", 50, false);
    assert!(outcome.crashed);
    assert!(
        outcome.lost,
        "the commit was switched off and nothing was missed"
    );
}
