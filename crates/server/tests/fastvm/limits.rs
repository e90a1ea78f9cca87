//! Quotas, validation, credentials.

use boxrig_fastvm::{CreateSnapshotRequest, CreateVmRequest, MachineType, OrgQuotaUsage, ops};
use boxrig_server::fastvm::QuotaLimits;
use boxrig_wire::{CallOptions, Json, Kind, NoBody, NoParams, Request};

use crate::api::{Api, by_id};

async fn small() -> Api {
    Api::with(|mut config| {
        config.quotas = QuotaLimits {
            vcpu: 4,
            memory_mib: 8 * 1024,
            disk_gib: 40,
            snapshot_count: 2,
        };
        config
    })
    .await
}

fn sized(machine_type: &str, disk_gib: Option<u64>) -> CreateVmRequest {
    CreateVmRequest {
        machine_type: Some(MachineType::from(machine_type)),
        disk_gib,
        ..Default::default()
    }
}

async fn quotas(api: &Api) -> OrgQuotaUsage {
    let request = Request::<ops::GetOrgQuotas> {
        path: (),
        query: NoParams,
        headers: NoParams,
        body: NoBody,
    };
    api.call(request).await.unwrap().value
}

/// The 429's dimension.
fn dimension(e: &boxrig_wire::Error) -> String {
    assert_eq!(
        (e.kind(), e.status().unwrap().as_u16()),
        (Kind::Quota, 429),
        "{e}"
    );
    let body: serde_json::Value = serde_json::from_str(e.body().unwrap().raw()).unwrap();
    body["dimension"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_full_quota_names_its_dimension() {
    let api = small().await;
    for (request, full) in [
        (sized("c5m1", None), "vcpu"),
        (sized("c1m9", None), "memory_mib"),
        (sized("c1m1", Some(41)), "disk_gib"),
    ] {
        assert_eq!(
            dimension(&api.launch_with(request).await.unwrap_err()),
            full
        );
    }
    assert_eq!(quotas(&api).await.usage.vcpu, 0, "a refusal leaves nothing");
    let id = api
        .launch_with(sized("c3m1", None))
        .await
        .unwrap()
        .value
        .vm
        .id;
    let now = quotas(&api).await;
    assert_eq!(
        (
            now.limits.vcpu,
            now.usage.vcpu,
            now.usage.memory_mib,
            now.usage.disk_gib
        ),
        (4, 3, 1024, 10)
    );
    assert_eq!(
        dimension(&api.launch_with(sized("c2m1", None)).await.unwrap_err()),
        "vcpu"
    );

    // A paused machine uses nothing, and comes back only if there is room.
    api.call(by_id::<ops::PauseVm>(&id)).await.unwrap();
    assert_eq!(quotas(&api).await.usage.vcpu, 0);
    let other = api
        .launch_with(sized("c2m1", None))
        .await
        .unwrap()
        .value
        .vm
        .id;
    assert_eq!(
        dimension(&api.call(by_id::<ops::ResumeVm>(&id)).await.unwrap_err()),
        "vcpu"
    );
    assert_eq!(api.get(&id).await.unwrap().status.as_str(), "paused");
    api.delete(&other).await.unwrap();
    api.call(by_id::<ops::ResumeVm>(&id)).await.unwrap();

    let snapshot = || Request::<ops::CreateSnapshot> {
        path: (),
        query: NoParams,
        headers: Default::default(),
        body: Json(CreateSnapshotRequest {
            vm_id: id.clone(),
            ..Default::default()
        }),
    };
    for _ in 0..2 {
        api.call(snapshot()).await.unwrap();
    }
    assert_eq!(
        dimension(&api.call(snapshot()).await.unwrap_err()),
        "snapshot_count"
    );
    assert_eq!(quotas(&api).await.usage.snapshot_count, 2);
}

#[tokio::test]
async fn many_at_once_cannot_exceed_a_quota() {
    let api = small().await;
    let launches = (0..20).map(|_| api.launch_with(sized("c1m1", Some(1))));
    let launches = futures_util::future::join_all(launches).await;
    assert_eq!(launches.iter().filter(|l| l.is_ok()).count(), 4);
    assert_eq!(api.list(Default::default()).await.len(), 4);
}

#[tokio::test]
async fn a_bad_field_is_named() {
    let api = Api::memory().await;
    let id = api.launch().await.id;
    let vm = format!("/v1/vms/{id}");
    let long = format!(
        r#"{{"machineType":"c1m1","metadata":{{"k":"{}"}}}}"#,
        "v".repeat(4097)
    );
    for (method, path, body, field) in [
        ("POST", "/v1/vms", r#"{}"#, "machineType"),
        (
            "POST",
            "/v1/vms",
            r#"{"machineType":"enormous"}"#,
            "machineType",
        ),
        ("POST", "/v1/vms", r#"{"machineType":5}"#, "machineType"),
        (
            "POST",
            "/v1/vms",
            r#"{"machineType":"c1m1","snapshotId":"x"}"#,
            "snapshotId",
        ),
        (
            "POST",
            "/v1/vms",
            r#"{"machineType":"c1m1","diskGiB":0}"#,
            "diskGiB",
        ),
        (
            "POST",
            "/v1/vms",
            r#"{"machineType":"c1m1","diskGiB":-1}"#,
            "diskGiB",
        ),
        (
            "POST",
            "/v1/vms",
            r#"{"machineType":"c1m1","name":[]}"#,
            "name",
        ),
        (
            "POST",
            "/v1/vms",
            r#"{"machineType":"c1m1","envVars":{"1A":"x"}}"#,
            "envVars",
        ),
        (
            "POST",
            "/v1/vms",
            r#"{"machineType":"c1m1","envVars":{"A":"x\ny"}}"#,
            "envVars",
        ),
        (
            "POST",
            "/v1/vms",
            r#"{"machineType":"c1m1","metadata":{"":"x"}}"#,
            "metadata",
        ),
        (
            "POST",
            "/v1/vms",
            r#"{"machineType":"c1m1","metadata":{"a":1}}"#,
            "metadata",
        ),
        ("POST", "/v1/vms", &long, "metadata"),
        (
            "POST",
            "/v1/vms",
            r#"{"machineType":"c1m1","ttl":{"seconds":0,"action":"pause"}}"#,
            "seconds",
        ),
        (
            "POST",
            "/v1/vms",
            r#"{"machineType":"c1m1","ttl":{"seconds":31536001,"action":"pause"}}"#,
            "seconds",
        ),
        (
            "POST",
            "/v1/vms",
            r#"{"machineType":"c1m1","ttl":{"seconds":5,"action":"explode"}}"#,
            "action",
        ),
        (
            "PATCH",
            vm.as_str(),
            r#"{"ttl":{"seconds":0,"action":"pause"}}"#,
            "seconds",
        ),
        ("PATCH", vm.as_str(), r#"{"metadata":5}"#, "metadata"),
        ("POST", "/v1/snapshots", r#"{}"#, "vmId"),
        ("POST", "/v1/vms", r#"[1"#, "body"),
    ] {
        let (status, text) = api.plain(method, path, body).await;
        assert_eq!(status, 400, "{body}: {text}");
        let error: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(
            error["error"].as_str().unwrap().contains(field),
            "{body}: {text}"
        );
    }
    assert_eq!(api.list(Default::default()).await.len(), 1);
}

#[tokio::test]
async fn unknown_ids_are_404_whatever_they_look_like() {
    let api = Api::memory().await;
    let ids = [
        "nope",
        "vm_does_not_exist_000000",
        "00000000-0000-4000-8000-000000000000",
        "a%20b%2Fc%3Fd",
        "..%2f..",
        "%00",
        "%C3%BC",
    ];
    for id in ids {
        for (method, path) in [
            ("GET", format!("/v1/vms/{id}")),
            ("GET", format!("/v1/vms/{id}?wait=running&timeout=1")),
            ("PATCH", format!("/v1/vms/{id}")),
            ("DELETE", format!("/v1/vms/{id}")),
            ("POST", format!("/v1/vms/{id}/pause")),
            ("POST", format!("/v1/vms/{id}/resume")),
            ("POST", format!("/v1/vms/{id}/ttl/refresh")),
            ("POST", format!("/v1/vms/{id}/console-token")),
            ("GET", format!("/v1/snapshots/{id}")),
            ("PATCH", format!("/v1/snapshots/{id}")),
            ("DELETE", format!("/v1/snapshots/{id}")),
        ] {
            let (status, body) = api.plain(method, &path, "{}").await;
            assert_eq!(status, 404, "{method} {path}: {body}");
            assert!(body.contains("\"error\""), "{body}");
        }
        let body = r#"{"command":["true"],"path":"/x","url":"u"}"#;
        for tail in ["exec", "files/presign", "files/fetch"] {
            let (status, text) = api
                .plain("POST", &format!("/v1/vms/{id}/{tail}"), body)
                .await;
            assert_eq!(status, 404, "{id} {tail}: {text}");
        }
    }
}

#[tokio::test]
async fn only_the_key_opens() {
    let api = Api::memory().await;
    let list = || Request::<ops::ListVms> {
        path: (),
        query: Default::default(),
        headers: NoParams,
        body: NoBody,
    };
    let e = api
        .nobody()
        .call(list(), &CallOptions::default())
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Unauthenticated);
    for key in ["wrong", "", &format!("{}x", api.server.api_key())] {
        let request = format!(
            "GET /v1/vms HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-API-Key: {key}\r\n\r\n"
        );
        let (status, body) = crate::api::split(&api.raw(request.as_bytes()).await);
        assert_eq!(status, 401, "{body}");
    }
    // What is not there is not told to those without the key either.
    let unknown = "GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(crate::api::split(&api.raw(unknown.as_bytes()).await).0, 401);
    let health = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(
        crate::api::split(&api.raw(health.as_bytes()).await),
        (200, r#"{"status":"ok"}"#.to_owned())
    );
}
