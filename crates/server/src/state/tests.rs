use super::*;
use serde::Deserialize;
use std::time::Instant;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Doc {
    name: String,
    n: u32,
}

fn doc(n: u32) -> Doc {
    Doc {
        name: format!("d{n}"),
        n,
    }
}

#[tokio::test]
async fn writes_are_read_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    {
        let store = Store::open(&path, true).unwrap();
        let docs = store.table::<Doc>("docs").unwrap();
        let other = store.table::<Doc>("docs2").unwrap();
        store
            .write(|tx| {
                tx.put(&docs, "a", doc(1))?;
                tx.put(&docs, "b", doc(2))?;
                tx.put(&other, "a", doc(3))?;
                assert!(docs.get("a").is_none(), "readers see committed values only");
                assert_eq!(tx.get(&docs, "a").unwrap().n, 1);
                Ok::<_, StateError>(())
            })
            .await
            .unwrap();
        store
            .write(|tx| {
                assert_eq!(tx.delete(&docs, "b").unwrap().n, 2);
                Ok::<_, StateError>(())
            })
            .await
            .unwrap();
        assert_eq!(docs.len(), 1);
        // Not closed in an orderly way: dropped.
    }
    let store = Store::open(&path, true).unwrap();
    let docs = store.table::<Doc>("docs").unwrap();
    assert_eq!(*docs.get("a").unwrap(), doc(1));
    assert!(docs.get("b").is_none());
    assert_eq!(store.table::<Doc>("docs2").unwrap().list()[0].n, 3);
    store.close().await;
    let late = store.write(|_| Ok::<_, StateError>(())).await;
    assert_eq!(late, Err(StateError::Closed));
}

#[cfg(unix)]
#[test]
fn the_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let _store = Store::open(&path, true).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_failed_transaction_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s"), true).unwrap();
    let docs = store.table::<Doc>("docs").unwrap();
    store.write(|tx| tx.put(&docs, "a", doc(1))).await.unwrap();
    let failed: Result<(), StateError> = store
        .write(|tx| {
            tx.put(&docs, "a", doc(2))?;
            tx.put(&docs, "a", doc(3))?;
            tx.put(&docs, "b", doc(4))?;
            Err(StateError::Commit("no".into()))
        })
        .await;
    assert!(failed.is_err());
    store
        .write(|tx| {
            assert_eq!(tx.get(&docs, "a").unwrap().n, 1);
            assert!(tx.get(&docs, "b").is_none());
            Ok::<_, StateError>(())
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_count_without_loss_and_share_commits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::open(&path, true).unwrap();
    let docs = store.table::<Doc>("docs").unwrap();
    store.write(|tx| tx.put(&docs, "n", doc(0))).await.unwrap();
    let started = Instant::now();
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (store, docs) = (store.clone(), docs.clone());
            tokio::spawn(async move {
                for _ in 0..20 {
                    store
                        .write(|tx| {
                            let n = tx.get(&docs, "n").unwrap().n;
                            tx.put(&docs, "n", doc(n + 1))
                        })
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    println!("1,280 transactions of 64 tasks: {:?}", started.elapsed());
    let alone = Instant::now();
    for _ in 0..20 {
        store.write(|tx| tx.put(&docs, "x", doc(0))).await.unwrap();
    }
    println!("one transaction alone: {:?}", alone.elapsed() / 20);
    assert_eq!(docs.get("n").unwrap().n, 1280);
    drop((store, docs));
    let store = Store::open(&path, true).unwrap();
    assert_eq!(
        store.table::<Doc>("docs").unwrap().get("n").unwrap().n,
        1280
    );
}

#[tokio::test]
async fn without_commit_there_is_a_loss_to_find() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    {
        let store = Store::open(&path, false).unwrap();
        let docs = store.table::<Doc>("docs").unwrap();
        store.write(|tx| tx.put(&docs, "a", doc(1))).await.unwrap();
        assert_eq!(docs.len(), 1);
    }
    let store = Store::open(&path, true).unwrap();
    assert!(store.table::<Doc>("docs").unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_view_no_half_of_a_write_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s"), false).unwrap();
    let one = store.table::<Doc>("one").unwrap();
    let two = store.table::<Doc>("two").unwrap();
    let both = |tx: &mut Tx, n: u32| {
        // Much is published between the two that are compared.
        tx.put(&one, "a", doc(n))?;
        for i in 0..50 {
            tx.put(&two, &i.to_string(), doc(n))?;
        }
        tx.put(&two, "a", doc(n)).map(drop)
    };
    store.write(|tx| both(tx, 0)).await.unwrap();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (store, one, two, done) = (store.clone(), one.clone(), two.clone(), done.clone());
        move || {
            let mut torn = 0;
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                let _view = store.view();
                let (one, two) = (one.get("a").unwrap().n, two.get("a").unwrap().n);
                torn += u32::from(one != two);
            }
            torn
        }
    });
    for n in 1..1_000 {
        store.write(|tx| both(tx, n)).await.unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::Release);
    assert_eq!(reader.join().unwrap(), 0);
}

#[tokio::test]
async fn a_dump_replaces_everything_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s"), true).unwrap();
    let docs = store.table::<Doc>("docs").unwrap();
    store.write(|tx| tx.put(&docs, "a", doc(1))).await.unwrap();
    let saved = store.dump().unwrap();
    store.write(|tx| tx.put(&docs, "b", doc(2))).await.unwrap();
    store.replace(saved).await.unwrap();
    assert_eq!(docs.len(), 1);
    let bad = vec![("docs".into(), "c".into(), serde_json::json!({ "n": "x" }))];
    assert!(store.replace(bad).await.is_err());
    assert_eq!(docs.len(), 1);
    store.replace(Vec::new()).await.unwrap();
    assert!(docs.is_empty());
    assert!(store.dump().unwrap().is_empty());
    store
        .write(|tx| {
            assert!(tx.get(&docs, "a").is_none());
            tx.put(&docs, "z", doc(9))
        })
        .await
        .unwrap();
    assert_eq!(store.dump().unwrap().len(), 1);
}

#[test]
fn older_files_are_upgraded_and_newer_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let file = StateFile::open(&path).unwrap();
    let mut batch = file.begin().unwrap();
    batch.set("docs", "a", Some(b"{}")).unwrap();
    batch.commit().unwrap();
    drop(file);
    let rename: file::Upgrade = |batch| {
        batch.set("docs", "a", None)?;
        batch.set("docs", "A", Some(b"{\"new\":1}"))
    };
    let upgraded = StateFile::open_with(&path, file::VERSION + 1, &[rename]).unwrap();
    assert_eq!(
        upgraded.read("docs").unwrap(),
        [("A".to_owned(), b"{\"new\":1}".to_vec())]
    );
    drop(upgraded);
    let Err(refused) = StateFile::open(&path) else {
        panic!("a newer file was opened");
    };
    assert!(refused.to_string().contains("newer boxrig"), "{refused}");
    std::fs::write(dir.path().join("bad"), b"not a database").unwrap();
    assert!(StateFile::open(&dir.path().join("bad")).is_err());
}
