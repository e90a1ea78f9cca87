//! Snapshots and restores.

use boxrig_fastvm::{CreateSnapshotRequest, CreateVmRequest, EnvVars, UpdateSnapshotRequest, ops};
use boxrig_wire::{Json, Kind, NoBody, NoParams, Request, Result};
use http::StatusCode;

use crate::api::{Api, by_id, machine, post};

async fn take(api: &Api, vm_id: &str, name: Option<&str>) -> Result<boxrig_fastvm::Snapshot> {
    let request = Request::<ops::CreateSnapshot> {
        path: (),
        query: NoParams,
        headers: Default::default(),
        body: Json(CreateSnapshotRequest {
            vm_id: vm_id.to_owned(),
            name: name.map(str::to_owned),
            ..Default::default()
        }),
    };
    api.call(request).await.map(|r| {
        assert_eq!(r.status, StatusCode::CREATED);
        r.value
    })
}

async fn list(api: &Api) -> Vec<boxrig_fastvm::Snapshot> {
    let request = Request::<ops::ListSnapshots> {
        path: (),
        query: NoParams,
        headers: NoParams,
        body: NoBody,
    };
    api.call(request).await.unwrap().value
}

fn from(snapshot: &str) -> CreateVmRequest {
    CreateVmRequest {
        snapshot_id: Some(snapshot.to_owned()),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_snapshot_keeps_the_configuration() {
    let api = Api::memory().await;
    let origin = api
        .launch_with(CreateVmRequest {
            machine_type: Some("c3m5".into()),
            disk_gib: Some(20),
            metadata: Some([("k".to_owned(), "v".to_owned())].into()),
            env_vars: Some(EnvVars::from_iter([("SNAP", "shot")])),
            ..Default::default()
        })
        .await
        .unwrap()
        .value
        .vm;
    let snapshot = take(&api, &origin.id, None).await.unwrap();
    assert_eq!(snapshot.name.raw(), format!("snapshot-{}", &origin.id[..8]));
    assert_eq!(
        (snapshot.vm_id.as_str(), snapshot.status.as_str()),
        (origin.id.as_str(), "ready")
    );
    assert_eq!(list(&api).await, std::slice::from_ref(&snapshot));
    let rename = UpdateSnapshotRequest {
        name: Some(" re  named ".to_owned()),
        ..Default::default()
    };
    let renamed = api
        .call(post::<ops::UpdateSnapshot, _>(&snapshot.id, rename))
        .await
        .unwrap()
        .value;
    assert_eq!(renamed.name.raw(), "re named");

    let copy = api.launch_with(from(&snapshot.id)).await.unwrap().value.vm;
    assert_ne!(copy.id, origin.id);
    assert_eq!(
        (copy.cpu, copy.memory_mib, copy.disk_gib),
        (3, 5 * 1024, 20)
    );
    assert_eq!(
        (&copy.metadata, &copy.env_vars),
        (&origin.metadata, &origin.env_vars)
    );
    assert_eq!(copy.source_name.unwrap().raw(), "re named");
    let other = CreateVmRequest {
        metadata: Some(Default::default()),
        env_vars: Some(EnvVars::from_iter([("OTHER", "1")])),
        disk_gib: Some(30),
        ..from(&snapshot.id)
    };
    let other = api.launch_with(other).await.unwrap().value.vm;
    assert_eq!(other.metadata, Some(Default::default()));
    assert_eq!(other.env_vars, Some(EnvVars::from_iter([("OTHER", "1")])));
    let small = CreateVmRequest {
        disk_gib: Some(19),
        ..from(&snapshot.id)
    };
    let e = api.launch_with(small).await.unwrap_err();
    assert!(e.server_message().unwrap().raw().starts_with("diskGiB"));

    // The origin may go; the snapshot stays good.
    api.delete(&origin.id).await.unwrap();
    api.launch_with(from(&snapshot.id)).await.unwrap();
    api.call(by_id::<ops::DeleteSnapshot>(&snapshot.id))
        .await
        .unwrap();
    assert!(list(&api).await.is_empty());
    for e in [
        api.call(by_id::<ops::GetSnapshot>(&snapshot.id))
            .await
            .unwrap_err(),
        api.call(by_id::<ops::DeleteSnapshot>(&snapshot.id))
            .await
            .unwrap_err(),
        api.launch_with(from(&snapshot.id)).await.unwrap_err(),
        take(&api, "nope", None).await.unwrap_err(),
        take(&api, &origin.id, None).await.unwrap_err(),
    ] {
        assert_eq!(e.kind(), Kind::NotFound);
    }
}

#[tokio::test]
async fn snapshots_of_one_pause_are_one() {
    let api = Api::memory().await;
    let id = api.launch().await.id;
    api.call(by_id::<ops::PauseVm>(&id)).await.unwrap();
    let first = take(&api, &id, Some("a")).await.unwrap();
    assert_eq!(take(&api, &id, Some("b")).await.unwrap(), first);
    api.call(by_id::<ops::ResumeVm>(&id)).await.unwrap();
    let running = take(&api, &id, None).await.unwrap();
    assert_ne!(running.id, first.id);
    api.call(by_id::<ops::PauseVm>(&id)).await.unwrap();
    let next = take(&api, &id, None).await.unwrap();
    assert_ne!(next.id, first.id, "another pause");
    api.call(by_id::<ops::DeleteSnapshot>(&next.id))
        .await
        .unwrap();
    assert_ne!(
        take(&api, &id, None).await.unwrap().id,
        next.id,
        "the same one is gone"
    );
}

#[tokio::test]
async fn a_restore_is_a_copy_of_the_files() {
    let Some(api) = Api::sandbox().await else {
        return;
    };
    let id = api.launch_with(machine()).await.unwrap().value.vm.id;
    api.sh(
        &id,
        "echo before > /root/state; ln -s state /root/link; chmod 600 /root/state",
    )
    .await;
    let snapshot = take(&api, &id, None).await.unwrap().id;
    api.sh(&id, "echo after > /root/state").await;
    let one = api.launch_with(from(&snapshot)).await.unwrap().value.vm.id;
    let two = api.launch_with(from(&snapshot)).await.unwrap().value.vm.id;
    let out = api
        .sh(
            &one,
            "cat /root/link; stat -c %a /root/state; echo mine > /root/state",
        )
        .await;
    assert_eq!(out.stdout, "before\n600\n");
    assert_eq!(api.sh(&two, "cat /root/state").await.stdout, "before\n");
    assert_eq!(api.sh(&id, "cat /root/state").await.stdout, "after\n");
    api.server.stop().await;
}
