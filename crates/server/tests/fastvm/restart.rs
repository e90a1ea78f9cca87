//! What survives the end of the server.

use std::time::Duration;

use boxrig_engine::Selection;
use boxrig_fastvm::{CreateSnapshotRequest, CreateVmRequest, Ttl, VmStatus, ops};
use boxrig_wire::{Json, NoParams, Request};

use crate::api::{Api, by_id, eventually, machine};

async fn snapshot(api: &Api, vm_id: &str) -> String {
    let request = Request::<ops::CreateSnapshot> {
        path: (),
        query: NoParams,
        headers: Default::default(),
        body: Json(CreateSnapshotRequest {
            vm_id: vm_id.to_owned(),
            ..Default::default()
        }),
    };
    api.call(request).await.unwrap().value.id
}

#[tokio::test(flavor = "multi_thread")]
async fn running_machines_run_on() {
    let Some(mut api) = Api::sandbox().await else {
        return;
    };
    let (running, paused) = (api.launch().await.id, api.launch().await.id);
    api.sh(&running, "echo kept > /root/file; (while :; do date +%s%N > /root/t; mv /root/t /root/tick; sleep 0.02; done) >/dev/null 2>&1 &").await;
    api.call(by_id::<ops::PauseVm>(&paused)).await.unwrap();
    let kept = snapshot(&api, &running).await;
    let before = api.list(Default::default()).await;
    api.restart(|config| config.engine(Selection::Sandbox))
        .await;
    assert_eq!(api.list(Default::default()).await, before);
    let line =
        "a=$(cat /root/tick); sleep 0.2; b=$(cat /root/tick); [ $a != $b ] && cat /root/file";
    assert_eq!(api.sh(&running, line).await.stdout, "kept\n");
    api.call(by_id::<ops::ResumeVm>(&paused)).await.unwrap();
    assert_eq!(api.sh(&paused, "echo alive").await.stdout, "alive\n");
    let copy = CreateVmRequest {
        snapshot_id: Some(kept),
        ..Default::default()
    };
    let copy = api.launch_with(copy).await.unwrap().value.vm.id;
    assert_eq!(api.sh(&copy, "cat /root/file").await.stdout, "kept\n");
    api.server.stop().await;
}

#[tokio::test]
async fn timers_go_on_while_the_server_is_away() {
    let mut api = Api::memory().await;
    let timed = |ttl| CreateVmRequest {
        ttl: Some(ttl),
        ..machine()
    };
    let short = api
        .launch_with(timed(Ttl::pause(1)))
        .await
        .unwrap()
        .value
        .vm
        .id;
    let long = api
        .launch_with(timed(Ttl::delete(3600)))
        .await
        .unwrap()
        .value
        .vm;
    tokio::time::sleep(Duration::from_millis(1)).await;
    api.restart(|config| config.engine(Selection::Memory)).await;
    assert_eq!(api.get(&long.id).await.unwrap(), long);
    eventually("paused by its timer", async || {
        api.get(&short).await.unwrap().status == VmStatus::Paused
    })
    .await;
}

#[tokio::test]
async fn what_the_engine_does_not_have_is_told() {
    let mut api = Api::memory().await;
    let (kept, lost) = (api.launch().await.id, api.launch().await.id);
    let gone = snapshot(&api, &kept).await;
    let core = api.server.running().unwrap().core().clone();
    // Behind the server's back, as by a hand in the data directory.
    let stray = boxrig_engine::InstanceId::new("somebody-elses").unwrap();
    core.engine
        .create(boxrig_engine::InstanceSpec::new(stray.clone()))
        .await
        .unwrap();
    core.engine
        .delete(&boxrig_engine::InstanceId::new(lost.clone()).unwrap())
        .await
        .unwrap();
    core.engine
        .delete_snapshot(&boxrig_engine::SnapshotId::new(gone.clone()).unwrap())
        .await
        .unwrap();
    eventually("the loss is noticed", async || {
        api.get(&lost).await.unwrap().status == VmStatus::Error
    })
    .await;
    drop(core);
    api.restart(|config| config.engine(Selection::Memory)).await;
    assert_eq!(api.get(&kept).await.unwrap().status, VmStatus::Running);
    assert_eq!(api.get(&lost).await.unwrap().status, VmStatus::Error);
    let snapshot = api
        .call(by_id::<ops::GetSnapshot>(&gone))
        .await
        .unwrap()
        .value;
    assert_eq!(snapshot.status.as_str(), "error");
    let core = api.server.running().unwrap().core().clone();
    assert!(
        core.engine.get(&stray).await.is_ok(),
        "what is not ours is left alone"
    );
    api.delete(&lost).await.unwrap();
    api.call(by_id::<ops::DeleteSnapshot>(&gone)).await.unwrap();
}
