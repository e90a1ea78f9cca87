//! Between two daemons: instances and images that go from one to the other.

use boxrig_incus::models::{ImagesPost, ImagesPostSource};
use boxrig_incus::{CopyMode, FileMode, ImageUpload, InstanceCopy};
use boxrig_wire::{Kind, WireBody};
use serde_json::json;

use super::images::archives;
use super::support::{Daemon, gone, incus, live, model, query};

const MODES: [CopyMode; 3] = [CopyMode::Relay, CopyMode::Push, CopyMode::Pull];

#[tokio::test]
async fn instances_are_copied_and_moved() {
    let live = live!("two.rs::instances_are_copied_and_moved");
    let Some(daemon) = Daemon::start_always().await else {
        return;
    };
    daemon.with_pool().await;
    daemon.listen().await;
    let there = daemon.client_of(&live);
    let guest = live.stopped("two").await;
    let instances = live.client.instances();
    let content: Vec<u8> = (0..3_000_000u32).map(|i| (i % 253) as u8).collect();
    let files = instances.files(&guest.name);
    let mode = FileMode::new().mode(0o640).owner(7, 8);
    files
        .write("/root/content", content.clone(), mode)
        .await
        .unwrap();
    let snapshot = instances.snapshot(&guest.name, "s1", false).await.unwrap();
    snapshot.wait().await.unwrap();
    let dir = tempfile::tempdir().unwrap();

    for mode in MODES {
        let name = live.name("sent");
        let copy = InstanceCopy::new(&name).mode(mode);
        let operation = instances.copy_to(&guest.name, &there, copy).await.unwrap();
        let made = operation.wait().await;
        let made = made.unwrap_or_else(|e| panic!("{mode:?}: {e}"));
        assert_eq!((&*made.name, &*made.status), (&*name, "Stopped"));
        // What the official client sees on the other daemon.
        let seen = dir.path().join(&name);
        let pull = format!("{name}/root/content");
        daemon
            .incus(&["file", "pull", &pull, seen.to_str().unwrap()])
            .await;
        assert!(std::fs::read(&seen).unwrap() == content, "{mode:?}");
        let info = there
            .instances()
            .files(&name)
            .info("/root/content")
            .await
            .unwrap();
        assert_eq!(
            (info.uid, info.gid, info.mode),
            (Some(7), Some(8), Some(0o640))
        );
        let snapshots = daemon
            .query(&format!("/1.0/instances/{name}/snapshots"))
            .await;
        assert_eq!(snapshots.as_array().map_or(0, Vec::len), 1, "{mode:?}");

        // Moved back, under another name: it is there then, and here no more.
        let back = live.name("back");
        let copy = InstanceCopy::new(&back).mode(mode);
        let moved = there.instances().move_to(&name, &live.client, copy).await;
        let moved = moved.unwrap_or_else(|e| panic!("back, {mode:?}: {e}"));
        assert_eq!(moved.name, back);
        assert!(
            daemon
                .query(&format!("/1.0/instances/{name}"))
                .await
                .is_null()
        );
        let pull = format!("{back}/root/content");
        incus(&["file", "pull", &pull, seen.to_str().unwrap()]).await;
        assert!(std::fs::read(&seen).unwrap() == content, "{mode:?}");
        incus(&["delete", &back]).await;
    }

    // One snapshot of it.
    let name = live.name("snap");
    let copy = InstanceCopy::new(&name);
    let from = format!("{}/s1", guest.name);
    let operation = instances.copy_to(&from, &there, copy).await.unwrap();
    operation.wait().await.unwrap();
    daemon
        .incus(&["file", "pull", &format!("{name}/root/content"), "-"])
        .await;

    // A name that is taken there: told so, and what is here stays.
    for mode in MODES {
        let copy = InstanceCopy::new(&name).mode(mode);
        let e = instances
            .move_to(&guest.name, &there, copy)
            .await
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict, "{mode:?}: {e}");
        assert_eq!(
            query(&format!("/1.0/instances/{}", guest.name)).await["name"],
            guest.name
        );
    }
    let copy = InstanceCopy::new("x").instance_only();
    let e = instances
        .move_to(&guest.name, &there, copy)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid, "{e}");
    daemon.incus(&["delete", &name]).await;
    guest.remove().await;
}

#[tokio::test]
async fn images_are_pushed_pulled_and_refreshed() {
    let live = live!("two.rs::images_are_pushed_pulled_and_refreshed");
    let Some(daemon) = Daemon::start_always().await else {
        return;
    };
    daemon.with_pool().await;
    daemon.listen().await;
    let there = daemon.client_of(&live);
    let images = live.client.images();
    let dir = tempfile::tempdir().unwrap();
    let upload = async |what: &str, alias: &str| {
        let folder = dir.path().join(what);
        let (unified, ..) = archives(&folder, &live.name(what));
        let about = ImageUpload::new().alias(alias).public();
        let operation = images.upload(WireBody::full(unified), &about).await;
        operation.unwrap().wait().await.unwrap()
    };
    let alias = live.name("alias");
    let first = upload("first", &alias).await;

    let pushed = images
        .push_to(&first.fingerprint, &there, &["pushed"])
        .await
        .unwrap();
    assert_eq!(pushed.fingerprint, first.fingerprint);
    let seen = daemon.query("/1.0/images/aliases/pushed").await;
    assert_eq!(seen["target"], first.fingerprint);
    daemon.incus(&["image", "delete", &first.fingerprint]).await;

    // Fetched by the other daemon itself, and followed: when the name means another image, that one is fetched.
    let info = live.client.info().await.unwrap().environment;
    let source: ImagesPostSource = model(json!({
        "type": "image", "mode": "pull", "protocol": "incus", "alias": alias,
        "server": format!("https://{}", info.addresses[0]), "certificate": info.certificate,
    }));
    let mut post: ImagesPost = model(json!({"auto_update": true, "aliases": [{"name": "pulled"}]}));
    post.source = source;
    let made = there.images().make(post).await.unwrap();
    assert_eq!(made.wait().await.unwrap().fingerprint, first.fingerprint);
    let target = async || daemon.query("/1.0/images/aliases/pulled").await["target"].clone();
    assert_eq!(target().await, first.fingerprint);
    let refreshed = there.images().refresh(&first.fingerprint).await.unwrap();
    assert!(!refreshed.wait().await.unwrap(), "nothing is newer yet");
    live.client.image_aliases().delete(&alias).await.unwrap();
    let second = upload("second", &alias).await;
    assert_ne!(second.fingerprint, first.fingerprint);
    let refreshed = there.images().refresh(&first.fingerprint).await.unwrap();
    assert!(refreshed.wait().await.unwrap());
    assert_eq!(target().await, second.fingerprint);

    for image in [&first, &second] {
        images.delete(&image.fingerprint).await.unwrap();
        assert!(gone(&format!("/1.0/images/{}", image.fingerprint)).await);
    }
    live.confirmed(&["images_export_post", "images_refresh_post"]);
}
