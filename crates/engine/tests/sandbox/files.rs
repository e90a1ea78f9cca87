//! Files through the agent.

use std::time::{Duration, UNIX_EPOCH};

use boxrig_engine::{BoxReader, FileKind, Kind, WriteOptions};
use tokio::io::AsyncReadExt;

use crate::support::{Rig, rig};

fn bytes(data: &[u8]) -> BoxReader {
    Box::new(std::io::Cursor::new(data.to_vec()))
}

async fn read(rig: &Rig, id: &boxrig_engine::InstanceId, path: &str) -> Vec<u8> {
    let mut file = rig.engine.read_file(id, path.as_bytes(), 0).await.unwrap();
    let mut data = Vec::new();
    file.content.read_to_end(&mut data).await.unwrap();
    data
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_and_writing() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("files").await;
    let engine = &rig.engine;
    let data: Vec<u8> = (0..5_000_000u32).map(|n| (n % 253) as u8).collect();
    let options = WriteOptions {
        mode: Some(0o751),
        mtime: Some(UNIX_EPOCH + Duration::from_secs(1_000_000_000)),
        parents: true,
        ..WriteOptions::default()
    };
    let n = engine
        .write_file(&vm, b"/srv/a/b/file", options, bytes(&data))
        .await
        .unwrap();
    assert_eq!(n, data.len() as u64);
    assert!(read(&rig, &vm, "/srv/a/b/file").await == data);
    assert_eq!(
        rig.ok(
            &vm,
            "stat -c '%a %s %Y %u %g' /srv/a/b/file; ls -A /srv/a/b"
        )
        .await,
        "751 5000000 1000000000 0 0\nfile"
    );
    let mut part = engine
        .read_file(&vm, b"/srv/a/b/file", 4_999_990)
        .await
        .unwrap();
    let mut rest = Vec::new();
    part.content.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, data[4_999_990..]);
    let meta = engine.stat(&vm, b"/srv/a/b/file", true).await.unwrap();
    assert_eq!(
        (meta.kind, meta.mode, meta.size),
        (FileKind::File, 0o751, 5_000_000)
    );
    // Replacing keeps the mode; appending adds.
    engine
        .write_file(
            &vm,
            b"/srv/a/b/file",
            WriteOptions::default(),
            bytes(b"new"),
        )
        .await
        .unwrap();
    let append = WriteOptions {
        append: true,
        ..WriteOptions::default()
    };
    engine
        .write_file(&vm, b"/srv/a/b/file", append, bytes(b"er"))
        .await
        .unwrap();
    assert_eq!(read(&rig, &vm, "/srv/a/b/file").await, b"newer");
    assert_eq!(rig.ok(&vm, "stat -c %a /srv/a/b/file").await, "751");
    // A link is written through.
    engine
        .symlink(&vm, b"/srv/link", b"a/b/file")
        .await
        .unwrap();
    engine
        .write_file(
            &vm,
            b"/srv/link",
            WriteOptions::default(),
            bytes(b"by link"),
        )
        .await
        .unwrap();
    assert_eq!(
        rig.ok(&vm, "cat /srv/a/b/file; readlink /srv/link").await,
        "by linka/b/file"
    );
    // An empty file; names that are no text.
    engine
        .write_file(&vm, b"/srv/\xff\n", WriteOptions::default(), bytes(b""))
        .await
        .unwrap();
    let names: Vec<_> = engine
        .list_dir(&vm, b"/srv/")
        .await
        .unwrap()
        .into_iter()
        .map(|e| (e.name, e.meta.kind))
        .collect();
    assert_eq!(
        names,
        [
            (b"a".to_vec(), FileKind::Directory),
            (b"link".to_vec(), FileKind::Symlink),
            (b"\xff\n".to_vec(), FileKind::File)
        ]
    );
    engine
        .make_dir(&vm, b"/srv/x/y/z", 0o700, true)
        .await
        .unwrap();
    engine
        .make_dir(&vm, b"/srv/x/y/z", 0o700, true)
        .await
        .unwrap();
    assert_eq!(
        engine
            .make_dir(&vm, b"/srv/x/y/z", 0o700, false)
            .await
            .unwrap_err()
            .kind(),
        Kind::Exists
    );
    assert_eq!(
        engine
            .remove(&vm, b"/srv/x", false)
            .await
            .unwrap_err()
            .kind(),
        Kind::Invalid
    );
    rig.ok(&vm, "cd /srv/x; for i in $(seq 3000); do : > f$i; done; d=.; for i in $(seq 200); do d=$d/d; done; mkdir -p $d").await;
    engine.remove(&vm, b"/srv/x", true).await.unwrap();
    engine.remove(&vm, b"/srv/link", false).await.unwrap();
    assert_eq!(
        rig.ok(&vm, "ls /srv/a/b; ls -A /srv | head -1").await,
        "file\na"
    );
    let listed = engine.list_dir(&vm, b"/usr/bin").await.unwrap().len();
    assert_eq!(
        listed.to_string(),
        rig.ok(&vm, "ls -A /usr/bin | wc -l").await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_kind() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("refused").await;
    rig.ok(
        &vm,
        "mkfifo /tmp/fifo; ln -s /proc/self/fd/5 /tmp/magic; ln -s loop /tmp/loop",
    )
    .await;
    let kind = async |path: &[u8]| match rig.engine.read_file(&vm, path, 0).await {
        Ok(_) => panic!("{path:?} was opened"),
        Err(error) => error.kind(),
    };
    assert_eq!(kind(b"/nowhere").await, Kind::NotFound);
    assert_eq!(kind(b"/tmp").await, Kind::Invalid);
    assert_eq!(kind(b"/tmp/fifo").await, Kind::Invalid);
    assert_eq!(kind(b"/dev/zero").await, Kind::Invalid);
    assert_eq!(kind(b"/tmp/magic").await, Kind::Invalid);
    assert_eq!(kind(b"/tmp/loop").await, Kind::Invalid);
    assert_eq!(kind(b"relative").await, Kind::Invalid);
    assert_eq!(kind(b"/a\0b").await, Kind::Invalid);
    let error = rig
        .engine
        .write_file(&vm, b"/usr/bin/x", WriteOptions::default(), bytes(b"x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    let error = rig
        .engine
        .write_file(&vm, b"/no/folder/x", WriteOptions::default(), bytes(b"x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let error = rig
        .engine
        .write_file(&vm, b"/tmp/fifo", WriteOptions::default(), bytes(b"x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
}

/// A writer that goes away in the middle leaves the old content and no rubbish.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_write_changes_nothing() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("interrupted").await;
    rig.ok(&vm, "echo old > /srv/f").await;
    let (mut feed, content) = tokio::io::duplex(1024);
    tokio::io::AsyncWriteExt::write_all(&mut feed, b"half")
        .await
        .unwrap();
    let write = rig
        .engine
        .write_file(&vm, b"/srv/f", WriteOptions::default(), Box::new(content));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), write)
            .await
            .is_err()
    );
    rig.until(&vm, "cat /srv/f; ls -A /srv", "old\nf").await;
}
