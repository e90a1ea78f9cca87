//! Instances of imported images.

use std::process::Command;
use std::sync::Arc;

use boxrig_engine::{
    Attributes, ImageConfig, InstanceSpec, Kind, MainProcess, Memory, RealClock, SnapshotId,
    SnapshotSpec, Source, Timings,
};

use crate::support::{id, rig};

/// A root file system with a shell and nothing else, as a tar: the host's, with what it is linked to.
fn small_root() -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
        set -e
        mkdir -p "$1/bin" "$1/etc" "$1/root" "$1/opt/deep"
        for program in sh cat stat ls chown; do
            path=$(readlink -f "$(command -v $program)")
            cp "$path" "$1/bin/$program"
            for lib in $(ldd "$path" | grep -o '/[^ )]*'); do
                mkdir -p "$1$(dirname $lib)"
                cp -L "$lib" "$1$lib"
            done
        done
        echo small > "$1/etc/name"
        ln -s ../etc/name "$1/opt/link"
        tar -C "$1" -cf "$2" .
    "#;
    let tar = dir.path().join("root.tar");
    let root = dir.path().join("root");
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(&root)
        .arg(&tar)
        .status()
        .ok()?;
    status.success().then(|| std::fs::read(tar).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_root_runs() {
    let Some(rig) = rig().await else { return };
    let Some(tar) = small_root() else {
        println!("skipped: no small root file system can be made of this host's programs");
        return;
    };
    let info = rig
        .engine
        .import_image("test/small", Box::new(std::io::Cursor::new(tar)))
        .await
        .unwrap();
    assert!(info.digest.unwrap().starts_with("sha256:"));
    for name in ["a", "b"] {
        let mut spec = InstanceSpec::new(id(name));
        spec.source = Source::Image("test/small".to_owned());
        rig.engine.create(spec).await.unwrap();
        assert_eq!(
            rig.ok(&id(name), "cat /opt/link /etc/hostname").await,
            format!("small\n{name}")
        );
        assert_eq!(
            rig.ok(&id(name), "stat -c '%u %g' /etc/name /bin/sh /")
                .await,
            "0 0\n0 0\n0 0"
        );
        assert!(!rig.sh(&id(name), "ls /usr/bin").await.status.success());
        // It has no curl: ours is put in.
        assert_eq!(rig.ok(&id(name), "ls /usr/local/bin").await, "curl");
        assert_eq!(rig.sh(&id(name), "curl").await.status.shell_code(), 2);
        rig.ok(&id(name), "echo changed > /etc/name").await;
        if rustix::process::geteuid().is_root() {
            rig.ok(&id(name), "chown 1000:1001 /etc/name").await;
        }
    }
    // In use: only the name goes.
    rig.engine.delete_image("test/small").await.unwrap();
    assert_eq!(
        rig.ok(&id("a"), "cat /etc/name /opt/link").await,
        "changed\nchanged"
    );
    let mut spec = InstanceSpec::new(id("c"));
    spec.source = Source::Image("test/small".to_owned());
    assert_eq!(
        rig.engine.create(spec).await.unwrap_err().kind(),
        Kind::NotFound
    );
    rig.engine.delete(&id("a")).await.unwrap();
    assert_eq!(rig.ok(&id("b"), "cat /opt/link").await, "changed");
    // A clone of one that has other ids on the host keeps its owners.
    let mut spec = InstanceSpec::new(id("clone"));
    spec.source = Source::Instance(id("b"));
    rig.engine.create(spec).await.unwrap();
    let owner = if rustix::process::geteuid().is_root() {
        "1000 1001"
    } else {
        "0 0"
    };
    assert_eq!(
        rig.ok(&id("clone"), "stat -c '%u %g' /etc/name").await,
        owner
    );
    rig.engine.delete(&id("b")).await.unwrap();
    rig.engine.delete(&id("clone")).await.unwrap();
    let layers = std::fs::read_dir(rig.dir.path().join("images/layers"))
        .unwrap()
        .count();
    assert_eq!(layers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_becomes_an_image() {
    let Some(mut rig) = rig().await else { return };
    let maker = rig.instance("maker").await;
    rig.ok(
        &maker,
        "mkdir /app && echo one > /app/file && ln -s file /app/link",
    )
    .await;
    let owned = Attributes {
        mode: Some(0o750),
        ..Attributes::default()
    };
    rig.engine
        .set_attributes(&maker, b"/app", owned)
        .await
        .unwrap();
    if rustix::process::geteuid().is_root() {
        let owned = Attributes {
            uid: Some(7),
            gid: Some(8),
            ..Attributes::default()
        };
        for path in ["/app", "/app/link"] {
            let set = rig.engine.set_attributes(&maker, path.as_bytes(), owned);
            set.await.unwrap();
        }
        assert_eq!(
            rig.ok(&maker, "stat -c '%u %g %a' /app /app/link /app/file")
                .await,
            "7 8 750\n7 8 777\n0 0 644"
        );
    }
    let snapshot = SnapshotId::new("made").unwrap();
    let spec = SnapshotSpec {
        id: snapshot.clone(),
        labels: Default::default(),
    };
    rig.engine.snapshot(&maker, spec).await.unwrap();
    let mut config = ImageConfig::default();
    config.set_env("A", "1");
    config.cmd = Some(vec!["cat".into(), "/app/file".into()]);
    let commit = |name| rig.engine.commit_image(name, &snapshot, config.clone());
    let made = commit("test/made").await.unwrap();
    assert_eq!(made.config, config);
    for bad in ["boxrig/made", "scratch", "a//b"] {
        assert_eq!(commit(bad).await.unwrap_err().kind(), Kind::Invalid);
    }
    rig.engine.delete_snapshot(&snapshot).await.unwrap();
    rig.engine.delete(&maker).await.unwrap();

    // It is durable, and knows its own name in every instance.
    let dir = rig.dir.path().to_owned();
    let nothing = Memory::open(
        &dir.join("nothing"),
        Arc::new(RealClock),
        Timings::default(),
    );
    rig.engine = Arc::new(nothing.unwrap());
    rig.engine = crate::restart::reopen(&dir).await;
    let found = rig.engine.get_image("test/made").await.unwrap();
    assert_eq!(found, made);
    let mut spec = InstanceSpec::new(id("user"));
    spec.source = Source::Image("test/made".to_owned());
    spec.main = Some(MainProcess {
        argv: vec![b"sh".to_vec(), b"-c".to_vec(), b"id -u; sleep 60".to_vec()],
        uid: rustix::process::geteuid().is_root().then_some(1000),
        ..MainProcess::default()
    });
    rig.engine.create(spec).await.unwrap();
    assert_eq!(
        rig.ok(&id("user"), "cat /app/link /etc/hostname").await,
        "one\nuser"
    );
    if rustix::process::geteuid().is_root() {
        let owner = rig.ok(&id("user"), "ps -o uid= -C sleep").await;
        assert_eq!(owner.trim(), "1000");
    }

    // Saved, and loaded under another name: the same files and settings.
    let saved = rig.engine.save_image("test/made").await.unwrap();
    let loaded = rig.engine.load_image("test/loaded", saved).await.unwrap();
    assert_eq!(loaded.config, config);
    let mut spec = InstanceSpec::new(id("loaded"));
    spec.source = Source::Image("test/loaded".to_owned());
    rig.engine.create(spec).await.unwrap();
    assert_eq!(
        rig.ok(
            &id("loaded"),
            "cat /app/link && stat -c %a /app && command -v sh"
        )
        .await,
        "one\n750\n/usr/bin/sh"
    );
    if rustix::process::geteuid().is_root() {
        assert_eq!(rig.ok(&id("loaded"), "stat -c '%u %g' /app").await, "7 8");
    }
    rig.engine.delete(&id("loaded")).await.unwrap();
    rig.engine.delete_image("test/loaded").await.unwrap();
    for (name, kind) in [("boxrig/base", Kind::Invalid), ("none", Kind::NotFound)] {
        let refused = rig.engine.save_image(name).await.map(drop);
        assert_eq!(refused.unwrap_err().kind(), kind, "{name}");
    }
    let nonsense = Box::new(std::io::Cursor::new(vec![7; 4096]));
    let refused = rig.engine.load_image("test/bad", nonsense).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);

    // Nothing but the program that is put into every image without one.
    let mut spec = InstanceSpec::new(id("empty"));
    spec.source = Source::Image("scratch".to_owned());
    rig.engine.create(spec).await.unwrap();
    let names = rig.engine.list_dir(&id("empty"), b"/").await.unwrap();
    let names: Vec<_> = names
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.name).into_owned())
        .collect();
    assert_eq!(names, ["dev", "etc", "proc", "sys", "usr"]);

    rig.engine.delete_image("test/made").await.unwrap();
    assert_eq!(
        rig.engine.get_image("test/made").await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(rig.ok(&id("user"), "cat /app/file").await, "one");
    rig.engine.delete(&id("user")).await.unwrap();
    let layers = std::fs::read_dir(rig.dir.path().join("layers")).unwrap();
    let left = layers
        .filter(|entry| {
            entry
                .as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with("l-")
        })
        .count();
    assert_eq!(left, 0);
}
