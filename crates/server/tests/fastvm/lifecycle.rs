//! Launch, list, change, pause, resume, timers, removal.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use boxrig_fastvm::{CreateVmRequest, EnvVars, MachineType, Ttl, UpdateVmRequest, VmStatus, ops};
use boxrig_wire::{Json, Kind, NoParams, Patch, Request};
use http::StatusCode;

use crate::api::{Api, by_id, eventually, machine, post};

fn timed(seconds: u64, action: fn(u64) -> Ttl) -> CreateVmRequest {
    CreateVmRequest {
        ttl: Some(action(seconds)),
        ..machine()
    }
}

async fn advance(api: &Api, seconds: u64) {
    let clock = api.server.running().unwrap().core().virtual_clock.clone();
    clock.unwrap().advance(Duration::from_secs(seconds));
}

async fn virtual_time() -> Api {
    Api::with(|mut config| {
        config.virtual_clock = true;
        config
    })
    .await
}

#[tokio::test]
async fn a_machine_from_launch_to_removal() {
    let api = Api::memory().await;
    let launched = api
        .launch_with(CreateVmRequest {
            machine_type: Some(MachineType::from("c2m4")),
            name: Some("  two \n words ".to_owned()),
            metadata: Some([("team".to_owned(), "a".to_owned())].into()),
            env_vars: Some(EnvVars::from_iter([("A", "1")])),
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(launched.status, StatusCode::CREATED);
    assert!(launched.can_wait, "the long poll is announced");
    let vm = launched.value.vm;
    assert_eq!((vm.cpu, vm.memory_mib, vm.disk_gib), (2, 4096, 10));
    assert_eq!(vm.name.raw(), "two words");
    assert_eq!(vm.status, VmStatus::Running);
    assert!(vm.created_at.as_str().ends_with('Z'));
    assert!(vm.firewall.is_none() && vm.effective_firewall.is_none());
    assert_eq!(vm.extra["boxrig"]["engine"], "memory");
    assert_eq!(api.get(&vm.id).await.unwrap(), vm);

    let change = UpdateVmRequest {
        name: Some("renamed".to_owned()),
        metadata: Some(Default::default()),
        ..Default::default()
    };
    let changed = api
        .call(post::<ops::UpdateVm, _>(&vm.id, change))
        .await
        .unwrap()
        .value;
    assert_eq!(changed.name.raw(), "renamed");
    assert_eq!(
        changed.metadata,
        Some(Default::default()),
        "an empty map clears"
    );
    assert_eq!(changed.env_vars, vm.env_vars);
    let nothing = UpdateVmRequest::default();
    let same = api
        .call(post::<ops::UpdateVm, _>(&vm.id, nothing))
        .await
        .unwrap()
        .value;
    assert_eq!(same, changed);

    api.delete(&vm.id).await.unwrap();
    assert_eq!(api.get(&vm.id).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(api.delete(&vm.id).await.unwrap_err().kind(), Kind::NotFound);
    assert!(api.list(Default::default()).await.is_empty());
    let engine = &api.server.running().unwrap().core().engine;
    assert!(engine.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn lists_are_filtered_by_status_and_metadata() {
    let api = Api::memory().await;
    let with = |tier: &str| CreateVmRequest {
        metadata: Some(
            [
                ("team".to_owned(), "a".to_owned()),
                ("tier".to_owned(), tier.to_owned()),
            ]
            .into(),
        ),
        ..machine()
    };
    let one = api.launch_with(with("x")).await.unwrap().value.vm.id;
    let two = api.launch_with(with("y")).await.unwrap().value.vm.id;
    api.launch().await;
    let ids = async |status: Option<&str>, pairs: &[(&str, &str)]| {
        let query = ops::ListVmsQuery {
            status: status.map(str::to_owned),
            metadata: pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        };
        api.list(query)
            .await
            .into_iter()
            .map(|vm| vm.id)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(ids(None, &[]).await.len(), 3);
    assert_eq!(
        ids(None, &[("team", "a")]).await,
        [one.clone(), two.clone()].into()
    );
    assert_eq!(
        ids(None, &[("team", "a"), ("tier", "y")]).await,
        [two.clone()].into()
    );
    assert!(ids(None, &[("team", "b")]).await.is_empty());
    api.call(by_id::<ops::PauseVm>(&one)).await.unwrap();
    assert_eq!(ids(Some("paused"), &[]).await, [one].into());
    assert_eq!(ids(Some("running"), &[("team", "a")]).await, [two].into());
    assert!(ids(Some("no-such-status"), &[]).await.is_empty());
}

#[tokio::test]
async fn pause_and_resume_can_be_repeated() {
    let api = Api::memory().await;
    let id = api.launch().await.id;
    for _ in 0..2 {
        let paused = api.call(by_id::<ops::PauseVm>(&id)).await.unwrap().value;
        assert_eq!(paused.status, VmStatus::Paused);
        assert!(paused.paused_at.is_some());
    }
    for _ in 0..2 {
        let resumed = api.call(by_id::<ops::ResumeVm>(&id)).await.unwrap().value;
        assert_eq!(resumed.status, VmStatus::Running);
        assert!(resumed.paused_at.is_none());
    }
}

#[tokio::test]
async fn timers_count_while_running_and_freeze_while_paused() {
    let api = virtual_time().await;
    let id = api
        .launch_with(timed(100, Ttl::pause))
        .await
        .unwrap()
        .value
        .vm
        .id;
    let started = api.get(&id).await.unwrap().expires_at_ms.unwrap();
    advance(&api, 40).await;
    let paused = api.call(by_id::<ops::PauseVm>(&id)).await.unwrap().value;
    assert_eq!(
        (paused.expires_at_ms, paused.ttl_remaining_ms),
        (None, Some(60_000))
    );
    advance(&api, 1_000_000).await;
    assert_eq!(api.get(&id).await.unwrap().ttl_remaining_ms, Some(60_000));
    let resumed = api.call(by_id::<ops::ResumeVm>(&id)).await.unwrap().value;
    assert_eq!(resumed.expires_at_ms, Some(started + 1_000_000_000));
    advance(&api, 59).await;
    assert_eq!(api.get(&id).await.unwrap().status, VmStatus::Running);
    advance(&api, 2).await;
    eventually("paused by its timer", async || {
        api.get(&id).await.unwrap().status == VmStatus::Paused
    })
    .await;
    assert_eq!(
        api.get(&id).await.unwrap().ttl_remaining_ms,
        Some(100_000),
        "a whole cycle is armed"
    );

    let refreshed = api
        .call(by_id::<ops::RefreshVmTtl>(&id))
        .await
        .unwrap()
        .value;
    assert_eq!(refreshed.ttl_remaining_ms, Some(100_000));
    api.call(by_id::<ops::ResumeVm>(&id)).await.unwrap();
    advance(&api, 99).await;
    api.call(by_id::<ops::RefreshVmTtl>(&id)).await.unwrap();
    advance(&api, 99).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(api.get(&id).await.unwrap().status, VmStatus::Running);
}

#[tokio::test]
async fn a_timer_deletes_and_can_be_taken_away() {
    let api = virtual_time().await;
    let gone = api
        .launch_with(timed(5, Ttl::delete))
        .await
        .unwrap()
        .value
        .vm
        .id;
    let kept = api
        .launch_with(timed(5, Ttl::delete))
        .await
        .unwrap()
        .value
        .vm
        .id;
    let clear = UpdateVmRequest {
        ttl: Patch::Clear,
        ..Default::default()
    };
    let cleared = api
        .call(post::<ops::UpdateVm, _>(&kept, clear))
        .await
        .unwrap()
        .value;
    assert!(cleared.ttl.is_none() && cleared.expires_at_ms.is_none());
    let e = api
        .call(by_id::<ops::RefreshVmTtl>(&kept))
        .await
        .unwrap_err();
    assert_eq!(e.status(), Some(StatusCode::CONFLICT));
    advance(&api, 6).await;
    eventually("deleted by its timer", async || {
        api.get(&gone)
            .await
            .is_err_and(|e| e.kind() == Kind::NotFound)
    })
    .await;
    assert!(api.get(&kept).await.is_ok());
}

#[tokio::test]
async fn a_slow_launch_is_queued_and_waited_for() {
    let api = virtual_time().await;
    let script = "[[fault]]\naction='slow_state'\nstate='provisioning'\ndelay_ms=5000\noperation='fastvm.launchVm'\ntimes=1";
    let core = api.server.running().unwrap().core().clone();
    core.faults
        .set(boxrig_server::faults::Script::parse(script).unwrap());
    let queued = api.launch_with(machine()).await.unwrap();
    assert_eq!(queued.status, StatusCode::ACCEPTED);
    let id = queued.value.vm.id;
    assert_eq!(queued.value.vm.status, VmStatus::Provisioning);
    let wait = |timeout: f64| Request::<ops::GetVm> {
        path: (id.clone(),),
        query: ops::GetVmQuery {
            wait: Some("running".to_owned()),
            timeout: Some(timeout),
        },
        headers: NoParams,
        body: boxrig_wire::NoBody,
    };
    let start = Instant::now();
    let still = api.call(wait(0.2)).await.unwrap().value;
    assert_eq!(still.status, VmStatus::Provisioning);
    assert!(start.elapsed() >= Duration::from_millis(200));
    let waiting = api.call(wait(30.0));
    let moving = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        advance(&api, 6).await;
    };
    let (arrived, ()) = tokio::join!(waiting, moving);
    assert_eq!(arrived.unwrap().value.status, VmStatus::Running);
    assert!(start.elapsed() < Duration::from_secs(10));
    for bad in [
        ("wait=stopped", "wait"),
        ("wait=running&timeout=-1", "timeout"),
    ] {
        let (status, body) = api
            .plain("GET", &format!("/v1/vms/{id}?{}", bad.0), "")
            .await;
        assert!(status == 400 && body.contains(bad.1), "{status} {body}");
    }
}

#[tokio::test]
async fn a_wish_with_a_key_is_fulfilled_once() {
    let api = Api::memory().await;
    let wish = |key: &str, name: &str| Request::<ops::LaunchVm> {
        path: (),
        query: NoParams,
        headers: ops::IdempotencyHeaders {
            key: Some(key.to_owned()),
        },
        body: Json(CreateVmRequest {
            name: Some(name.to_owned()),
            ..machine()
        }),
    };
    let same: Vec<_> = (0..20).map(|_| api.call(wish("k1", "a"))).collect();
    let same = futures_util::future::join_all(same).await;
    let ids: BTreeSet<String> = same.into_iter().map(|r| r.unwrap().value.vm.id).collect();
    assert_eq!(ids.len(), 1, "at the same time too");
    assert_eq!(api.list(Default::default()).await.len(), 1);
    assert_ne!(
        api.call(wish("k2", "a")).await.unwrap().value.vm.id,
        *ids.first().unwrap()
    );
    let e = api.call(wish("k1", "b")).await.unwrap_err();
    assert_eq!(e.status(), Some(StatusCode::UNPROCESSABLE_ENTITY));
    api.delete(ids.first().unwrap()).await.unwrap();
    let e = api.call(wish("k1", "a")).await.unwrap_err();
    assert_eq!(e.status(), Some(StatusCode::CONFLICT));
    let e = api.call(wish(&"k".repeat(256), "a")).await.unwrap_err();
    assert!(
        e.server_message()
            .unwrap()
            .raw()
            .starts_with("Idempotency-Key")
    );
}

#[tokio::test]
async fn what_is_not_enforced_is_refused_by_name() {
    let api = Api::memory().await;
    // A rule that would be accepted and not enforced.
    let (status, body) = api
        .plain(
            "POST",
            "/v1/vms",
            r#"{"machineType":"c1m1","firewall":{"quarantine":true}}"#,
        )
        .await;
    assert_eq!(status, 400, "{body}");
    assert!(
        body.contains("firewall") && body.contains("quarantine"),
        "{body}"
    );
    assert!(api.list(Default::default()).await.is_empty());
    let (status, body) = api
        .plain(
            "POST",
            "/v1/vms",
            r#"{"machineType":"c1m1","firewall":null,"ttl":null}"#,
        )
        .await;
    assert_eq!(status, 201, "{body}");
    for line in boxrig_server::fastvm::NOT_IMPLEMENTED.lines() {
        let id = line.split('#').next().unwrap().trim();
        let meta = ops::CATALOG
            .iter()
            .chain(ops::EXTENSIONS)
            .find(|m| m.id == id);
        let Some(meta) = meta else { continue };
        let path: String = meta.path.to_string().replace(['{', '}'], "");
        let (status, body) = api.plain(meta.method.as_str(), &path, "{}").await;
        assert_eq!(status, 501, "{id}: {body}");
        assert!(body.contains(id), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_launches_at_once() {
    for api in [Some(Api::memory().await), Api::sandbox().await]
        .into_iter()
        .flatten()
    {
        let launches =
            futures_util::future::join_all((0..64).map(|_| api.launch_with(machine()))).await;
        let ids: BTreeSet<String> = launches
            .into_iter()
            .map(|l| l.unwrap().value.vm.id)
            .collect();
        assert_eq!(ids.len(), 64);
        let listed = api.list(Default::default()).await;
        assert_eq!(listed.len(), 64);
        assert!(listed.iter().all(|vm| vm.status == VmStatus::Running));
        api.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_simulated_machines_are_listed_fast() {
    let api = Api::memory().await;
    for _ in 0..40 {
        let some = (0..250).map(|_| api.launch_with(machine()));
        for launched in futures_util::future::join_all(some).await {
            launched.unwrap();
        }
    }
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        assert_eq!(api.list(Default::default()).await.len(), 10_000);
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "list of 10,000: {:?} (median of 5, both halves, debug: {})",
        times[2],
        cfg!(debug_assertions)
    );
    // A quadratic list would take minutes.
    assert!(times[2] < Duration::from_secs(5), "{times:?}");
}

#[tokio::test]
async fn what_ends_without_us_is_told() {
    let Some(api) = Api::sandbox().await else {
        return;
    };
    let id = api.launch().await.id;
    let core = api.server.running().unwrap().core().clone();
    let instance = boxrig_engine::InstanceId::new(id.clone()).unwrap();
    let pid = core.engine.get(&instance).await.unwrap().host_pid.unwrap();
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("the end is noticed", async || {
        api.get(&id).await.unwrap().status == VmStatus::Error
    })
    .await;
    assert!(api.get(&id).await.unwrap().extra["reason"].is_string());
    let e = api
        .exec_with(&id, crate::api::command("true"))
        .await
        .unwrap_err();
    assert_eq!(e.status(), Some(StatusCode::CONFLICT));
    api.delete(&id).await.unwrap();
    api.server.stop().await;
}
