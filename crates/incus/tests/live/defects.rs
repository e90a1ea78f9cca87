//! The fourteen defects of the vendor's Python SDK, each as it should be.

use std::time::{Duration, Instant};

use boxrig_incus::{Change, Exec, ImageUpload, Merge, NewInstance};
use boxrig_wire::{BoxFuture, Kind, Outgoing, Transport, WireBody};
use serde_json::json;

use super::support::{PROJECTS, builder, live, model, query};
use super::trust::https;

#[tokio::test]
async fn d01_a_failed_operation_is_an_error() {
    let live = live!("defects.rs::d01_a_failed_operation_is_an_error");
    let guest = live.running("d01").await;
    let started = live
        .client
        .instances()
        .start(&guest.name, Change::new())
        .await;
    let e = match started {
        Ok(operation) => operation.wait().await.unwrap_err(),
        Err(e) => e,
    };
    assert_eq!(e.kind(), Kind::Conflict, "{e}");
    assert!(
        e.server_message().unwrap().raw().contains("running"),
        "the server's words are kept: {e}"
    );
    guest.remove().await;
}

#[tokio::test]
async fn d02_https_works_with_a_usual_server() {
    let live = live!("defects.rs::d02_https_works_with_a_usual_server");
    let (url, certificate) = https(&live).await;
    let client = boxrig_incus::Client::https(&url)
        .unwrap()
        .pin_certificate(certificate.as_bytes())
        .build()
        .unwrap();
    assert_eq!(client.info().await.unwrap().auth, "untrusted");
}

#[tokio::test]
async fn d03_what_is_listed_can_be_worked_with() {
    let live = live!("defects.rs::d03_what_is_listed_can_be_worked_with");
    let guest = live.running("d03").await;
    let instances = live.client.instances();
    let listed = instances.list().await.unwrap();
    let one = listed.iter().find(|i| i.name == guest.name).unwrap();
    instances
        .restart(&one.name, Change::new().force())
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    instances
        .stop(&one.name, Change::new().force())
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    instances
        .start(&one.name, Change::new())
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(
        instances
            .run(&one.name, Exec::new(["true"]), "")
            .await
            .unwrap()
            .code,
        0
    );
    guest.remove().await;
}

#[tokio::test]
async fn d04_execute_gives_output_and_code() {
    let live = live!("defects.rs::d04_execute_gives_output_and_code");
    let guest = live.running("d04").await;
    let exec = Exec::new(["sh", "-c", "echo out; id -u; exit 2"])
        .user(0)
        .group(0);
    for recorded in [false, true] {
        let instances = live.client.instances();
        let done = match recorded {
            false => instances.run(&guest.name, exec.clone(), "").await.unwrap(),
            true => instances
                .run_recorded(&guest.name, exec.clone())
                .await
                .unwrap(),
        };
        assert_eq!((done.stdout.as_slice(), done.code), (&b"out\n0\n"[..], 2));
    }
    assert!(
        live.client
            .instances()
            .exec_outputs(&guest.name)
            .await
            .unwrap()
            .is_empty(),
        "no files pile up"
    );
    guest.remove().await;
}

#[tokio::test]
async fn d05_d06_images_go_in_and_out() {
    let live = live!("defects.rs::d05_d06_images_go_in_and_out");
    let images = live.client.images();
    let busybox = images.by_alias("busybox").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = images
        .export_to(&busybox.fingerprint, dir.path())
        .await
        .unwrap();
    // In again, in a project of its own, since the same image is there once.
    let project = live.name("d05");
    live.client
        .projects()
        .create(model(json!({"name": project})))
        .await
        .unwrap();
    let there = live.client.project(&project);
    let metadata = WireBody::full(std::fs::read(&files.metadata).unwrap());
    let about = ImageUpload::new().alias("again");
    let operation = match files.rootfs {
        None => there.images().upload(metadata, &about).await.unwrap(),
        Some(rootfs) => {
            let rootfs =
                boxrig_incus::Rootfs::Container(WireBody::full(std::fs::read(rootfs).unwrap()));
            there
                .images()
                .upload_split(metadata, rootfs, &about)
                .await
                .unwrap()
        }
    };
    let image = operation.wait().await.unwrap();
    assert_eq!(image.fingerprint, busybox.fingerprint);
    there.images().delete(&image.fingerprint).await.unwrap();
    let guard = PROJECTS.read().await;
    live.client.projects().delete(&project).await.unwrap();
    drop(guard);
}

#[tokio::test]
async fn d07_d08_updates_change_what_they_say_and_nothing_else() {
    let live = live!("defects.rs::d07_d08_updates_change_what_they_say_and_nothing_else");
    let name = live.name("d07");
    let profiles = live.client.profiles();
    let new = json!({"name": name, "config": {"user.a": "1"}, "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}}});
    profiles.create(model(new)).await.unwrap();
    profiles
        .update(&name, |p| {
            _ = p.config.insert("user.foo".to_owned(), "bar".to_owned())
        })
        .await
        .unwrap();
    let seen = query(&format!("/1.0/profiles/{name}")).await;
    assert_eq!(seen["config"], json!({"user.a": "1", "user.foo": "bar"}));
    assert_eq!(seen["devices"]["root"]["path"], "/");
    profiles
        .patch(
            &name,
            Merge::new().set("config", json!({"user.foo": "baz"})),
            None,
        )
        .await
        .unwrap();
    let seen = query(&format!("/1.0/profiles/{name}")).await;
    assert_eq!(seen["config"], json!({"user.a": "1", "user.foo": "baz"}));
    profiles.delete(&name).await.unwrap();
}

#[tokio::test]
async fn d09_operations_are_listed_and_cancelled() {
    let live = live!("defects.rs::d09_operations_are_listed_and_cancelled");
    let (_, token) = live
        .client
        .certificates()
        .create_token(&live.name("d09"), &[])
        .await
        .unwrap();
    let operations = live.client.operations();
    assert!(
        operations
            .list()
            .await
            .unwrap()
            .iter()
            .any(|o| o.id == token.id)
    );
    operations.cancel(&token.id).await.unwrap();
    assert!(
        !operations
            .list()
            .await
            .unwrap()
            .iter()
            .any(|o| o.id == token.id && !o.is_final())
    );
}

#[tokio::test]
async fn d10_a_wait_outlives_the_calls_deadline() {
    let live = live!("defects.rs::d10_a_wait_outlives_the_calls_deadline");
    let guest = live.running("d10").await;
    let (settings, _) = builder().unwrap();
    let client = settings
        .timeout(Some(Duration::from_secs(1)))
        .build()
        .unwrap();
    for client in [client.clone(), client.without_events()] {
        let exec = Exec::new(["sh", "-c", "sleep 3; exit 8"]);
        let operation = client.instances().spawn(&guest.name, exec).await.unwrap();
        let e = boxrig_incus::wait_at_most(&operation, Duration::from_millis(200))
            .await
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Timeout);
        assert_eq!(operation.wait().await.unwrap(), 8);
    }
    guest.remove().await;
}

#[tokio::test]
async fn d11_names_are_names() {
    let live = live!("defects.rs::d11_names_are_names");
    let guest = live.stopped("d11").await;
    let instances = live.client.instances();
    for name in [
        format!("{}?recursion=1&x=", guest.name),
        "../images".to_owned(),
        "..".to_owned(),
        String::new(),
    ] {
        let e = instances.get(&name).await.unwrap_err();
        assert!(
            matches!(e.kind(), Kind::NotFound | Kind::Invalid),
            "{name}: {e}"
        );
    }
    guest.remove().await;
}

#[tokio::test]
async fn d12_every_recursion_of_a_list() {
    let live = live!("defects.rs::d12_every_recursion_of_a_list");
    let guest = live.stopped("d12").await;
    let instances = live.client.instances();
    assert!(instances.names().await.unwrap().contains(&guest.name));
    assert!(
        instances
            .list()
            .await
            .unwrap()
            .iter()
            .any(|i| i.name == guest.name)
    );
    let full = instances.list_full().await.unwrap();
    let full = full.iter().find(|i| i.name == guest.name).unwrap();
    assert_eq!(full.state.status_code, boxrig_incus::StatusCode::STOPPED);
    guest.remove().await;
}

#[tokio::test]
async fn d13_what_is_documented_is_there() {
    let live = live!("defects.rs::d13_what_is_documented_is_there");
    let guest = live.running("d13").await;
    let instances = live.client.instances();
    assert!(instances.state(&guest.name).await.unwrap().pid > 0);
    assert!(!instances.logs(&guest.name).await.unwrap().is_empty());
    let files = instances.files(&guest.name);
    files
        .write("/root/f", &b"\x00\xff"[..], Default::default())
        .await
        .unwrap();
    assert_eq!(files.read("/root/f").await.unwrap(), &b"\x00\xff"[..]);
    // A stop that the instance does not follow in time has failed, and says so.
    let begun = Instant::now();
    let change = Change::new().timeout(Some(Duration::from_secs(1)));
    let stopped = instances
        .stop(&guest.name, change)
        .await
        .unwrap()
        .wait()
        .await;
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "the timeout is the one given"
    );
    if stopped.is_err() {
        let change = Change::new().force().timeout(None);
        instances
            .restart(&guest.name, change)
            .await
            .unwrap()
            .wait()
            .await
            .unwrap();
    }
    guest.remove().await;
}

/// A page of a proxy, say, in front of the server.
#[derive(Debug)]
struct Page;
impl Transport for Page {
    fn send(&self, _: Outgoing) -> BoxFuture<'_, boxrig_wire::Result<http::Response<WireBody>>> {
        Box::pin(async {
            let mut response = http::Response::new(WireBody::full("<html>Bad gateway</html>"));
            *response.status_mut() = http::StatusCode::BAD_GATEWAY;
            Ok(response)
        })
    }
}

#[tokio::test]
async fn d14_versions_filters_and_bodies_that_are_no_json() {
    let live = live!("defects.rs::d14_versions_filters_and_bodies_that_are_no_json");
    let (settings, _) = builder().unwrap();
    let client = settings
        .transport(std::sync::Arc::new(Page))
        .build()
        .unwrap();
    let e = client.instances().list().await.unwrap_err();
    assert_eq!(
        (e.kind(), e.status().map(|s| s.as_u16())),
        (Kind::Unavailable, Some(502)),
        "{e}"
    );
    let guest = live.stopped("d14").await;
    let instances = live.client.instances();
    let read = instances.read(&guest.name).await.unwrap();
    assert!(read.etag.is_some());
    let patch = Merge::new().set("config", json!({"user.x": "1"}));
    instances
        .patch(&guest.name, patch.clone(), read.etag.as_deref())
        .await
        .unwrap();
    let stale = instances
        .patch(&guest.name, patch, read.etag.as_deref())
        .await
        .unwrap_err();
    assert_eq!(stale.kind(), Kind::Precondition, "{stale}");
    let filtered = instances.clone().filter("config.user.x eq 1").names().await;
    assert!(filtered.is_ok());
    let by_project = live
        .client
        .all_projects()
        .instances()
        .names()
        .await
        .unwrap();
    assert!(by_project.contains(&guest.name));
    let new = NewInstance::copy_of(live.name("d14b"), &guest.name);
    let copy = instances.create(new).await.unwrap().wait().await.unwrap();
    instances
        .delete(&copy.name)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    guest.remove().await;
}
