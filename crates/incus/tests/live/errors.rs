//! What goes wrong has the right kind, in bounded time.

use std::process::Command;
use std::time::{Duration, Instant};

use boxrig_incus::{Change, Exec, ExecEvent, NewInstance};
use boxrig_wire::Kind;
use futures_util::StreamExt;
use serde_json::json;

use super::support::{Daemon, incus_try, live, model, query};

#[tokio::test]
async fn unknown_taken_and_changed_meanwhile() {
    let live = live!("errors.rs::unknown_taken_and_changed_meanwhile");
    let instances = live.client.instances();
    // A project that is not: a list of it is empty, a name in it is not found.
    let nowhere = live.client.project("cl-nowhere");
    assert_eq!(
        nowhere.instances().get("x").await.unwrap_err().kind(),
        Kind::NotFound
    );
    let listed = nowhere.instances().list().await;
    assert!(
        listed.is_ok_and(|l| l.is_empty())
            || nowhere.instances().list().await.unwrap_err().kind() == Kind::NotFound
    );
    let e = instances.delete("cl-none").await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
    let made = instances
        .create(NewInstance::from_image(live.name("x"), "cl-no-such-image"))
        .await;
    let e = match made {
        Ok(operation) => operation.wait().await.unwrap_err(),
        Err(e) => e,
    };
    assert_eq!(e.kind(), Kind::NotFound, "{e}");

    // A taken name is accepted and fails in the operation, with a database's words.
    let guest = live.stopped("taken").await;
    let again = NewInstance::from_image(&guest.name, "busybox").device("eth0", [("type", "none")]);
    let e = match instances.create(again).await {
        Ok(operation) => operation.wait().await.unwrap_err(),
        Err(e) => e,
    };
    assert_eq!(e.kind(), Kind::Conflict, "{e}");

    // Two who change the same: the second is told what either did, and nothing of the first is lost.
    let path = format!("/1.0/instances/{}", guest.name);
    let name = guest.name.clone();
    let theirs = std::thread::spawn({
        let name = name.clone();
        move || {
            Command::new("incus")
                .args(["config", "set", &name, "user.theirs=1"])
                .status()
                .unwrap()
        }
    });
    assert!(theirs.join().unwrap().success());
    let read = instances.read(&name).await.unwrap();
    assert!(
        incus_try(&["config", "set", &name, "user.theirs=2"])
            .await
            .is_ok()
    );
    let put = model(json!({"config": {"user.ours": "1"}, "profiles": ["default"]}));
    let e = instances
        .replace(&name, put, read.etag.as_deref())
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Precondition, "{e}");
    let change = |put: &mut boxrig_incus::models::InstancePut| {
        let set = Command::new("incus")
            .args(["config", "set", &name, "user.theirs=3"])
            .status();
        assert!(set.unwrap().success());
        put.config.insert("user.ours".to_owned(), "1".to_owned());
    };
    let e = instances.update(&name, change).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Precondition, "{e}");
    let text = e.to_string();
    assert!(
        text.contains("theirs config.user.theirs") && text.contains("ours config.user.ours"),
        "{text}"
    );
    assert_eq!(query(&path).await["config"]["user.theirs"], "3");
    guest.remove().await;
}

/// Exec on what does not run, on what is not there; a wrong filter.
#[tokio::test]
async fn wrong_in_itself() {
    let live = live!("errors.rs::wrong_in_itself");
    let guest = live.stopped("wrong").await;
    let instances = live.client.instances();
    let e = instances
        .exec(&guest.name, Exec::new(["true"]))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict, "{e}");
    let e = instances
        .exec("cl-none", Exec::new(["true"]))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
    let e = instances
        .clone()
        .filter("status eq")
        .list()
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid, "{e}");
    let e = instances
        .set_config(&guest.name, [("limits.memory", "lots")])
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid, "{e}");
    guest.remove().await;
}

#[tokio::test]
async fn a_full_pool() {
    let live = live!("errors.rs::a_full_pool");
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(dir.path())
        .status();
    if !mounted.is_ok_and(|s| s.success()) {
        println!("skipped: no file system can be mounted here");
        return;
    }
    let pool = live.name("full");
    let new =
        json!({"name": pool, "driver": "dir", "config": {"source": dir.path().to_str().unwrap()}});
    live.client
        .storage_pools()
        .create(model(new))
        .await
        .unwrap();
    let root = [("type", "disk"), ("path", "/"), ("pool", &*pool)];
    let new = NewInstance::from_image(live.name("full"), "busybox")
        .device("root", root)
        .device("eth0", [("type", "none")]);
    let begun = Instant::now();
    let e = match live.client.instances().create(new).await {
        Ok(operation) => operation.wait().await.unwrap_err(),
        Err(e) => e,
    };
    assert_eq!(e.kind(), Kind::Quota, "{e}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    live.client.storage_pools().delete(&pool).await.unwrap();
    Command::new("umount").arg(dir.path()).status().unwrap();
}

/// Nobody there: told soon.
#[tokio::test]
async fn no_daemon() {
    let begun = Instant::now();
    let client = boxrig_incus::Client::unix("/nonexistent/unix.socket").unwrap();
    let e = client.info().await.unwrap_err();
    assert_eq!(e.kind(), Kind::Transport, "{e}");
    let client = boxrig_incus::Client::https("https://127.0.0.1:1")
        .unwrap()
        .build()
        .unwrap();
    assert_eq!(client.info().await.unwrap_err().kind(), Kind::Transport);
    assert!(begun.elapsed() < Duration::from_secs(30));
}

/// A daemon of its own is killed in the middle of a command, and once more in the middle of a wait, after which it comes back.
#[tokio::test]
async fn a_daemon_that_dies_and_comes_back() {
    let live = live!("errors.rs::a_daemon_that_dies_and_comes_back");
    let Some(mut daemon) = Daemon::start(&live).await else {
        return;
    };
    daemon.with_image(&live).await;
    let client = daemon.client();
    let instances = client.instances();
    let new = NewInstance::from_image("cl-mortal", "busybox").start();
    instances.create(new).await.unwrap().wait().await.unwrap();

    let exec = Exec::new(["sh", "-c", "while :; do echo x; sleep 0.1; done"]);
    let mut session = instances.exec("cl-mortal", exec).await.unwrap();
    let mut output = Box::pin(session.output());
    let first = output.next().await.unwrap().unwrap();
    assert!(matches!(first, ExecEvent::Stdout(_)));
    daemon.kill();
    let begun = Instant::now();
    while let Some(event) = output.next().await {
        if event.is_err() {
            break;
        }
    }
    drop(output);
    let e = session.exit_code().await.unwrap_err();
    assert!(
        matches!(e.kind(), Kind::Transport | Kind::OutcomeUnknown),
        "{e}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );

    daemon.restart().await;
    let operation = instances
        .spawn("cl-mortal", Exec::new(["sleep", "600"]))
        .await
        .unwrap();
    let begun = Instant::now();
    let waiting = operation.wait();
    let dying = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        daemon.kill();
        daemon.restart().await;
    };
    let (waited, ()) = tokio::join!(waiting, dying);
    let e = waited.unwrap_err();
    assert!(
        matches!(e.kind(), Kind::OutcomeUnknown | Kind::Transport),
        "{e}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
    let stop = instances
        .stop("cl-mortal", Change::new().force())
        .await
        .unwrap();
    stop.wait().await.unwrap();
    instances
        .delete("cl-mortal")
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
}
