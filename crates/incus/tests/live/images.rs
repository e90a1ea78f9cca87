//! Images: of instances, from files, out to files, by name.

use boxrig_incus::{ImageUpload, Merge, Rootfs};
use boxrig_wire::{Kind, WireBody};
use serde_json::json;
use std::path::Path;
use std::process::Command;

use super::support::{gone, incus, live, model, query};

/// A unified archive and the same as two files, of a tree with nothing in it but a name.
pub(crate) fn archives(dir: &Path, what: &str) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let rootfs = dir.join("rootfs");
    std::fs::create_dir_all(rootfs.join("etc")).unwrap();
    std::fs::write(rootfs.join("etc/what"), what).unwrap();
    let metadata = format!(
        "architecture: x86_64\ncreation_date: 1700000000\nproperties:\n  description: {what}\n"
    );
    std::fs::write(dir.join("metadata.yaml"), metadata).unwrap();
    let tar = |file: &str, at: &Path, names: &[&str]| {
        let done = Command::new("tar")
            .arg("-czf")
            .arg(dir.join(file))
            .arg("-C")
            .arg(at)
            .args(names)
            .status();
        assert!(done.unwrap().success());
        std::fs::read(dir.join(file)).unwrap()
    };
    (
        tar("unified.tar.gz", dir, &["metadata.yaml", "rootfs"]),
        tar("metadata.tar.gz", dir, &["metadata.yaml"]),
        tar("rootfs.tar.gz", &rootfs, &["."]),
    )
}

#[tokio::test]
async fn uploaded_changed_exported_deleted() {
    let live = live!("images.rs::uploaded_changed_exported_deleted");
    let dir = tempfile::tempdir().unwrap();
    let images = live.client.images();
    let (unified, metadata, rootfs) = archives(dir.path(), &live.name("image"));
    let alias = format!("{}/with/slash", live.name("alias"));
    let about = ImageUpload::new().alias(&alias).property("cl", "a b&c");
    let image = images
        .upload(WireBody::full(unified.clone()), &about)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    let path = format!("/1.0/images/{}", image.fingerprint);
    let seen = query(&path).await;
    assert_eq!(seen["properties"]["cl"], "a b&c");
    assert_eq!(seen["aliases"][0]["name"], alias.as_str());
    assert_eq!(
        images.by_alias(&alias).await.unwrap().fingerprint,
        image.fingerprint
    );
    assert!(images.names().await.unwrap().contains(&image.fingerprint));
    assert!(
        images
            .list()
            .await
            .unwrap()
            .iter()
            .any(|i| i.fingerprint == image.fingerprint)
    );
    let again = images
        .upload(WireBody::full(unified), &ImageUpload::new())
        .await
        .unwrap()
        .wait()
        .await
        .unwrap_err();
    assert_eq!(again.kind(), Kind::Conflict, "{again}");

    images
        .patch(
            &image.fingerprint,
            Merge::new().set("properties", json!({"cl": "patched"})),
            None,
        )
        .await
        .unwrap();
    assert_eq!(query(&path).await["properties"]["cl"], "patched");
    images
        .update(&image.fingerprint, |put| put.public = true)
        .await
        .unwrap();
    let seen = query(&path).await;
    assert_eq!(
        (&seen["public"], &seen["properties"]["cl"]),
        (&json!(true), &json!("patched"))
    );

    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let files = images.export_to(&image.fingerprint, &out).await.unwrap();
    assert!(files.rootfs.is_none() && files.metadata.exists());
    let secret = images.secret(&image.fingerprint).await.unwrap();
    assert!(!secret.is_empty());
    images.delete(&image.fingerprint).await.unwrap();
    assert!(gone(&path).await);

    // The same as two files; they come out as two, and are checked against the fingerprint.
    let about = ImageUpload::new().alias(live.name("split"));
    let parts = (
        WireBody::full(metadata.clone()),
        Rootfs::Container(WireBody::full(rootfs.clone())),
    );
    let split = images
        .upload_split(parts.0, parts.1, &about)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    let files = images.export_to(&split.fingerprint, &out).await.unwrap();
    assert!(std::fs::read(files.metadata).unwrap() == metadata);
    assert!(std::fs::read(files.rootfs.unwrap()).unwrap() == rootfs);
    incus(&[
        "image",
        "export",
        &split.fingerprint,
        dir.path().join("official").to_str().unwrap(),
    ])
    .await;
    images.delete(&split.fingerprint).await.unwrap();
    live.confirmed(&[
        "images_post",
        "images_get",
        "image_get",
        "image_patch",
        "image_put",
        "image_delete",
        "image_export_get",
    ]);
}

#[tokio::test]
async fn of_an_instance_and_by_names() {
    let live = live!("images.rs::of_an_instance_and_by_names");
    let guest = live.stopped("pub").await;
    let images = live.client.images();
    let aliases = live.client.image_aliases();
    let name = live.name("published");
    let image = images
        .publish(&guest.name, Some(&name))
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(
        query(&format!("/1.0/images/aliases/{name}")).await["target"],
        image.fingerprint
    );

    let other = live.name("other");
    aliases
        .create(model(
            json!({"name": other, "target": image.fingerprint, "description": "one"}),
        ))
        .await
        .unwrap();
    let path = format!("/1.0/images/aliases/{other}");
    assert_eq!(query(&path).await["description"], "one");
    let twice = aliases
        .create(model(json!({"name": other, "target": image.fingerprint})))
        .await
        .unwrap_err();
    assert_eq!(twice.kind(), Kind::Conflict, "{twice}");
    assert!(aliases.names().await.unwrap().contains(&other));
    assert!(
        aliases
            .list()
            .await
            .unwrap()
            .iter()
            .any(|a| a.name == other)
    );
    aliases
        .patch(&other, Merge::new().set("description", "two"), None)
        .await
        .unwrap();
    assert_eq!(query(&path).await["description"], "two");
    aliases
        .update(&other, |put| put.description = "three".to_owned())
        .await
        .unwrap();
    let seen = query(&path).await;
    assert_eq!(
        (&seen["description"], &seen["target"]),
        (&json!("three"), &json!(image.fingerprint))
    );
    let renamed = format!("{other}/renamed");
    aliases.rename(&other, &renamed).await.unwrap();
    assert!(gone(&path).await);
    assert_eq!(
        aliases.get(&renamed).await.unwrap().target,
        image.fingerprint
    );
    aliases.delete(&renamed).await.unwrap();
    assert_eq!(
        aliases.get(&renamed).await.unwrap_err().kind(),
        Kind::NotFound
    );

    // A local image came from nowhere: there is nothing to look for. The server says so, and it is an answer.
    let refreshed = match images.refresh(&image.fingerprint).await {
        Ok(operation) => operation.wait().await,
        Err(e) => Err(e),
    };
    assert!(refreshed.is_err() || refreshed.is_ok_and(|r| !r));
    images.delete(&image.fingerprint).await.unwrap();
    live.confirmed(&[
        "images_aliases_get",
        "images_aliases_post",
        "image_alias_get",
        "image_alias_delete",
        "images_alias_patch",
        "images_alias_post",
        "images_aliases_put",
    ]);
    guest.remove().await;
}
