//! Every operation through its method: what goes on the wire, and what comes back.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::time::Duration;

use boxrig_fastvm::*;
use boxrig_wire::{Kind, Patch, RawRequest, Timeout};
use common::{Reply, Script};
use futures_util::StreamExt;
use serde_json::{Value, json};

/// An answer that is enough for every operation.
fn any(seen: &common::Seen) -> Reply {
    let path = seen.path.strip_prefix("/prefix").unwrap_or(&seen.path);
    match (seen.method.as_str(), path) {
        ("GET", "/v1/me/ssh-keys") => Reply::json(200, json!({"keys": [{"name": "k"}]})),
        ("GET", p)
            if p.ends_with("/services")
                || p.ends_with("/bucket-mounts")
                || p.ends_with("/attachments")
                || [
                    "/v1/vms",
                    "/v1/snapshots",
                    "/v1/snapshot-imports",
                    "/v1/volumes",
                ]
                .contains(&p) =>
        {
            Reply::json(200, json!([{"id": "x", "name": "n"}]))
        }
        ("DELETE", p) if p.contains("/services/") || p.contains("/bucket-mounts/") => {
            Reply::With(204, Vec::new(), Vec::new())
        }
        _ => Reply::json(
            200,
            json!({"id": "x", "status": "running", "detached": true, "deleted": true}),
        ),
    }
}

#[tokio::test]
async fn every_operation_has_its_method() {
    let script = Script::new(|s, _, _| any(s)).await;
    let client = script.client();
    let mut expected: Vec<(&str, String, Value)> = Vec::new();
    let mut done =
        |id: &'static str, line: &str, body: Value| expected.push((id, line.to_owned(), body));
    let null = Value::Null;

    client.health().await.unwrap();
    done("health", "GET /healthz", null.clone());
    let vms = client.vms();
    assert_eq!(vms.list(ListVms::new()).await.unwrap()[0].id, "x");
    done("listVms", "GET /v1/vms", null.clone());
    let launch = Launch::new("c1m2")
        .name("dev")
        .env("A", "b")
        .disk_gib(20)
        .ttl(Ttl::pause(60))
        .metadata("k", "v")
        .token(false);
    vms.launch(launch.wait(None)).await.unwrap();
    let sent = json!({"machineType": "c1m2", "name": "dev", "envVars": {"A": "b"}, "diskGiB": 20, "ttl": {"seconds": 60, "action": "pause"}, "metadata": {"k": "v"}});
    done("launchVm", "POST /v1/vms", sent);
    vms.get("a/b").await.unwrap();
    done("getVm", "GET /v1/vms/a%2Fb", null.clone());
    let change = UpdateVmRequest {
        name: Some("n".into()),
        ttl: Patch::Clear,
        ..Default::default()
    };
    vms.update("v", change).await.unwrap();
    done(
        "updateVm",
        "PATCH /v1/vms/v",
        json!({"name": "n", "ttl": null}),
    );
    vms.set_ttl("v", Some(Ttl::delete(5))).await.unwrap();
    done(
        "updateVm",
        "PATCH /v1/vms/v",
        json!({"ttl": {"seconds": 5, "action": "delete"}}),
    );
    assert!(vms.delete("v").await.unwrap().deleted);
    done("deleteVm", "DELETE /v1/vms/v", null.clone());
    vms.pause("v").await.unwrap();
    done("pauseVm", "POST /v1/vms/v/pause", null.clone());
    vms.resume("v").await.unwrap();
    done("resumeVm", "POST /v1/vms/v/resume", null.clone());
    vms.refresh_ttl("v").await.unwrap();
    done("refreshVmTtl", "POST /v1/vms/v/ttl/refresh", null.clone());
    let policy = json!({"ingress": {"default": "deny", "rules": [{"action": "allow", "kind": "cidr", "value": "::/0", "protocol": "tcp", "ports": "443"}]},
        "egress": {"default": "allow"}, "dns": {"mode": "deny", "domains": ["x.test"], "blockBypass": true}});
    let typed: FirewallPolicy = serde_json::from_value(policy.clone()).unwrap();
    vms.set_firewall("v", typed.clone()).await.unwrap();
    done("setVmFirewall", "PUT /v1/vms/v/firewall", policy.clone());
    vms.set_firewall(
        "v",
        FirewallPolicyLegacy {
            mode: FirewallMode::Open,
            ..Default::default()
        },
    )
    .await
    .unwrap();
    done(
        "setVmFirewall",
        "PUT /v1/vms/v/firewall",
        json!({"mode": "open"}),
    );
    vms.patch_firewall("v", typed).await.unwrap();
    done("patchVmFirewall", "PATCH /v1/vms/v/firewall", policy);
    vms.patch_firewall(
        "v",
        FirewallPatchLegacy {
            ingress: Some(vec![]),
            ..Default::default()
        },
    )
    .await
    .unwrap();
    done(
        "patchVmFirewall",
        "PATCH /v1/vms/v/firewall",
        json!({"ingress": []}),
    );
    vms.console_token("v").await.unwrap();
    done(
        "createConsoleToken",
        "POST /v1/vms/v/console-token",
        null.clone(),
    );
    vms.run("v", Exec::new("ls").timeout(Duration::from_secs(9)))
        .await
        .unwrap();
    done(
        "execVm",
        "POST /v1/vms/v/exec",
        json!({"command": ["sh", "-c", "ls"], "timeoutSec": 9}),
    );

    let services = vms.services();
    services.list("v").await.unwrap();
    done("listServices", "GET /v1/vms/v/services", null.clone());
    services
        .register(
            "v",
            RegisterServiceRequest {
                name: "web".into(),
                port: 8080,
                ..Default::default()
            },
        )
        .await
        .unwrap();
    done(
        "registerService",
        "POST /v1/vms/v/services",
        json!({"name": "web", "port": 8080}),
    );
    services
        .update(
            "v",
            "w b",
            UpdateServiceRequest {
                port: 81,
                h2c: Some(true),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    done(
        "updateService",
        "PUT /v1/vms/v/services/w%20b",
        json!({"port": 81, "h2c": true}),
    );
    services.delete("v", "web").await.unwrap();
    done(
        "deleteService",
        "DELETE /v1/vms/v/services/web",
        null.clone(),
    );
    vms.files().presign("v", "/root/f").await.unwrap();
    done(
        "presignFile",
        "POST /v1/vms/v/files/presign",
        json!({"path": "/root/f"}),
    );
    vms.files()
        .fetch("v", &"http://h/x".into(), "/root/f", None)
        .await
        .unwrap();
    done(
        "fetchFile",
        "POST /v1/vms/v/files/fetch",
        json!({"url": "http://h/x", "path": "/root/f"}),
    );
    let volume = VolumeAttachRequest {
        volume_id: "vol_1".into(),
        mount_path: "/data".into(),
        read_only: Some(true),
        ..Default::default()
    };
    vms.volumes().attach("v", volume).await.unwrap();
    done(
        "attachVolume",
        "POST /v1/vms/v/volumes",
        json!({"volumeId": "vol_1", "mountPath": "/data", "readOnly": true}),
    );
    assert!(vms.volumes().detach("v", "vol_1").await.unwrap().detached);
    done(
        "detachVolume",
        "DELETE /v1/vms/v/volumes/vol_1",
        null.clone(),
    );
    let buckets = vms.bucket_mounts();
    let credentials =
        || serde_json::from_value::<BucketMountCredentials>(json!({"key": "s"})).unwrap();
    buckets.list("v").await.unwrap();
    done(
        "listBucketMounts",
        "GET /v1/vms/v/bucket-mounts",
        null.clone(),
    );
    let bucket = AttachBucketMountRequest {
        bucket_uri: "s3://b".into(),
        mount_path: "/b".into(),
        credentials: credentials(),
        ..Default::default()
    };
    buckets.attach("v", bucket).await.unwrap();
    done(
        "attachBucketMount",
        "POST /v1/vms/v/bucket-mounts",
        json!({"bucketUri": "s3://b", "mountPath": "/b", "credentials": {"key": "s"}}),
    );
    buckets.get("v", "bm_1").await.unwrap();
    done(
        "getBucketMount",
        "GET /v1/vms/v/bucket-mounts/bm_1",
        null.clone(),
    );
    buckets.rotate("v", "bm_1", credentials()).await.unwrap();
    done(
        "rotateBucketMount",
        "PATCH /v1/vms/v/bucket-mounts/bm_1",
        json!({"credentials": {"key": "s"}}),
    );
    buckets.delete("v", "bm_1").await.unwrap();
    done(
        "deleteBucketMount",
        "DELETE /v1/vms/v/bucket-mounts/bm_1",
        null.clone(),
    );

    let keys = client.me().ssh_keys();
    assert_eq!(
        keys.list().await.unwrap()[0].name.as_ref().unwrap().raw(),
        "k"
    );
    done("listSshKeys", "GET /v1/me/ssh-keys", null.clone());
    let line =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPvTRNRsIiQGpnuqfyKPPs1sCoMNu1CXwVr/mWmoDA7 me";
    keys.add(&format!("{line}\n"), Some("laptop"))
        .await
        .unwrap();
    done(
        "addSshKey",
        "POST /v1/me/ssh-keys",
        json!({"name": "laptop", "publicKey": line}),
    );
    keys.delete("SHA256:a+b/c").await.unwrap();
    done(
        "deleteSshKey",
        "DELETE /v1/me/ssh-keys/SHA256%3Aa%2Bb%2Fc",
        null.clone(),
    );

    let snapshots = client.snapshots();
    snapshots.list().await.unwrap();
    done("listSnapshots", "GET /v1/snapshots", null.clone());
    snapshots.create("v", None).await.unwrap();
    done("createSnapshot", "POST /v1/snapshots", json!({"vmId": "v"}));
    snapshots.get("s").await.unwrap();
    done("getSnapshot", "GET /v1/snapshots/s", null.clone());
    snapshots.rename("s", "new").await.unwrap();
    done(
        "updateSnapshot",
        "PATCH /v1/snapshots/s",
        json!({"name": "new"}),
    );
    snapshots.delete("s").await.unwrap();
    done("deleteSnapshot", "DELETE /v1/snapshots/s", null.clone());
    let imports = client.snapshot_imports();
    imports.list().await.unwrap();
    done(
        "listSnapshotImports",
        "GET /v1/snapshot-imports",
        null.clone(),
    );
    imports
        .create(CreateSnapshotImportRequest {
            source: ImportSource::image("alpine"),
            ..Default::default()
        })
        .await
        .unwrap();
    done(
        "createSnapshotImport",
        "POST /v1/snapshot-imports",
        json!({"source": {"type": "image", "image": "alpine"}}),
    );
    imports.presign_context(Some(5)).await.unwrap();
    done(
        "presignImportContext",
        "POST /v1/snapshot-imports/context-presign",
        json!({"sizeBytes": 5}),
    );
    imports.get("i").await.unwrap();
    done(
        "getSnapshotImport",
        "GET /v1/snapshot-imports/i",
        null.clone(),
    );
    imports.delete("i").await.unwrap();
    done(
        "deleteSnapshotImport",
        "DELETE /v1/snapshot-imports/i",
        null.clone(),
    );
    imports.cancel("i").await.unwrap();
    done(
        "cancelSnapshotImport",
        "POST /v1/snapshot-imports/i/cancel",
        null.clone(),
    );
    client.quotas().get().await.unwrap();
    done("getOrgQuotas", "GET /v1/org/quotas", null.clone());
    let volumes = client.volumes();
    volumes
        .create(CreateVolumeRequest {
            name: "d".into(),
            size_gib: 3,
            access_mode: AccessMode::ReadWrite,
            ..Default::default()
        })
        .await
        .unwrap();
    done(
        "createVolume",
        "POST /v1/volumes",
        json!({"name": "d", "sizeGiB": 3, "accessMode": "rw"}),
    );
    volumes.get("vol_1").await.unwrap();
    done("getVolume", "GET /v1/volumes/vol_1", null.clone());
    volumes
        .update(
            "vol_1",
            UpdateVolumeRequest {
                size_gib: Some(4),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    done(
        "updateVolume",
        "PATCH /v1/volumes/vol_1",
        json!({"sizeGiB": 4}),
    );
    volumes.delete("vol_1").await.unwrap();
    done("deleteVolume", "DELETE /v1/volumes/vol_1", null.clone());
    volumes.list_attachments("vol_1").await.unwrap();
    done(
        "listVolumeAttachments",
        "GET /v1/volumes/vol_1/attachments",
        null.clone(),
    );
    volumes.list().await.unwrap();
    done("listVolumes", "GET /v1/volumes", null.clone());
    let builds = client.builds();
    builds
        .create(BuildCreateRequest {
            image_ref: Some("alpine".into()),
            ..Default::default()
        })
        .await
        .unwrap();
    done(
        "createBuild",
        "POST /v1/builds",
        json!({"imageRef": "alpine"}),
    );
    builds.get("b").await.unwrap();
    done("getBuild", "GET /v1/builds/b", null.clone());
    builds.presign_context().await.unwrap();
    done(
        "presignBuildContext",
        "POST /v1/build-contexts/presign",
        null,
    );

    let seen = script.seen();
    assert_eq!(seen.len(), expected.len());
    for (seen, (id, line, body)) in seen.iter().zip(&expected) {
        assert_eq!((&seen.line(), &seen.json()), (line, body), "{id}");
        assert_eq!(seen.header("x-api-key"), Some("k"), "{id}");
    }
    for meta in CATALOG {
        assert!(
            expected.iter().any(|(id, ..)| *id == meta.id),
            "{} has no method here",
            meta.id
        );
    }
    // What creates something carries a key that names the wish.
    for (id, path) in [
        ("launchVm", "/v1/vms"),
        ("createSnapshot", "/v1/snapshots"),
        ("createVolume", "/v1/volumes"),
    ] {
        let post = seen
            .iter()
            .find(|s| s.method == "POST" && s.path == path)
            .unwrap();
        assert_eq!(
            post.header("idempotency-key").map(str::len),
            Some(32),
            "{id}"
        );
    }
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_before_it_is_sent() {
    let script = Script::new(|s, _, _| any(s)).await;
    let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nx";
    let dsa = "ssh-dss AAAAB3NzaC1kc3MAAAEB x";
    for bad in [
        "",
        "ssh-ed25519",
        "ssh-ed25519 ??",
        "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIGPv",
        private,
        dsa,
        "ssh-rsa A\nssh-rsa B",
    ] {
        let e = script
            .client()
            .me()
            .ssh_keys()
            .add(bad, None)
            .await
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid, "{bad:?}");
        assert!(!e.to_string().contains("OPENSSH"), "{e}");
    }
    assert!(script.seen().is_empty());
}

#[tokio::test]
async fn settings_come_from_the_builder_then_the_environment() {
    let script = Script::new(|s, _, _| any(s)).await;
    let url = script.url.clone();
    let env = move |name: &str| {
        let value = match name {
            "FASTVM_API_KEY" => "env-key\n",
            "FASTVM_BASE_URL" => return Some(format!("{url}/prefix/")),
            "FASTVM_CUSTOM_HEADERS" => "X-One: 1\n\n X-Two : a:b \nX-Both: env",
            "FASTVM_LOG" => "",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let client = Client::builder()
        .default_header("x-both".parse().unwrap(), "own".parse().unwrap())
        .default_query("tenant", "a b")
        .env_from(&env)
        .build()
        .unwrap();
    client
        .vms()
        .list(ListVms::new().metadata("k", "v"))
        .await
        .unwrap();
    let explicit = Client::builder()
        .api_key("own-key")
        .base_url(&script.url)
        .env_from(&env)
        .build()
        .unwrap();
    explicit.health().await.unwrap();
    let bearer = Client::builder()
        .bearer("jwt")
        .base_url(&script.url)
        .build()
        .unwrap();
    bearer.health().await.unwrap();
    let seen = script.seen();
    let got = |n: usize, name: &str| seen[n].header(name).map(str::to_owned);
    assert_eq!(
        (seen[0].path.as_str(), seen[0].query.as_str()),
        ("/prefix/v1/vms", "metadata.k=v&tenant=a%20b")
    );
    assert_eq!(got(0, "x-api-key").as_deref(), Some("env-key"));
    assert_eq!(
        (
            got(0, "x-one").as_deref(),
            got(0, "x-two").as_deref(),
            got(0, "x-both").as_deref()
        ),
        (Some("1"), Some("a:b"), Some("own"))
    );
    assert_eq!(
        (seen[1].path.as_str(), got(1, "x-api-key").as_deref()),
        ("/healthz", Some("own-key"))
    );
    assert_eq!(
        (got(2, "authorization").as_deref(), got(2, "x-api-key")),
        (Some("Bearer jwt"), None)
    );

    // Empty counts as not set.
    let e = Client::builder()
        .env_from(|_| Some(" ".to_owned()))
        .build()
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Unauthenticated);
    assert!(e.hint().unwrap().contains("FASTVM_API_KEY"));
    let hosted = Client::builder()
        .api_key("k")
        .env_from(|_| Some(String::new()))
        .build()
        .unwrap();
    assert_eq!(hosted.caller().base().to_string(), "https://api.fastvm.org");
    assert_eq!(hosted.caller().timeout(), Some(Duration::from_secs(60)));
    let retry = hosted.caller().retry();
    assert_eq!(
        (retry.max_retries, retry.base, retry.cap),
        (2, Duration::from_millis(500), Duration::from_secs(8))
    );
    let bad = |name: &'static str, value: &'static str| {
        let b = Client::builder()
            .api_key("k")
            .env_from(move |n| (n == name).then(|| value.to_owned()));
        b.build().unwrap_err()
    };
    let e = bad("FASTVM_CUSTOM_HEADERS", "ok: 1\nhush-secret");
    assert!(
        e.to_string().contains("line 2") && !e.to_string().contains("hush"),
        "{e}"
    );
    assert_eq!(bad("FASTVM_BASE_URL", "ftp://x").kind(), Kind::Invalid);
    // No secret is shown.
    let shown = format!("{client:?} {:?}", Client::builder().api_key("hush-key"));
    assert!(
        !shown.contains("env-key") && !shown.contains("hush-key"),
        "{shown}"
    );
}

#[tokio::test]
async fn waiting_ends_as_documented() {
    let vm = |status: &str| json!({"id": "v", "status": status, "reason": "no disk"});
    for status in ["error", "stopped", "deleting"] {
        let script = Script::new(move |_, _, _| Reply::json(200, vm(status))).await;
        let e = script
            .client()
            .wait_for_vm_ready("v", Wait::default())
            .await
            .unwrap_err();
        assert_eq!(
            (e.kind(), e.code().unwrap().raw()),
            (Kind::Failed, "vm_launch_failed"),
            "{status}"
        );
        assert_eq!(e.server_message().unwrap().raw(), "no disk");
        let body: Vm = serde_json::from_str(e.body().unwrap().raw()).unwrap();
        assert_eq!(body.status.as_str(), status);
    }
    for status in ["paused", "provisioning", "a-word-of-tomorrow", ""] {
        let script = Script::new(move |_, _, _| Reply::json(200, vm(status))).await;
        let wait =
            Wait::timeout(Duration::from_millis(200)).poll_interval(Duration::from_millis(60));
        let e = script
            .client()
            .wait_for_vm_ready("v", wait)
            .await
            .unwrap_err();
        assert_eq!(
            (e.kind(), e.code().unwrap().raw()),
            (Kind::Timeout, "vm_not_ready"),
            "{status}"
        );
        assert_eq!(
            e.hint().is_some_and(|h| h.contains("resume")),
            status == "paused"
        );
        assert!(
            (3..=5).contains(&script.seen().len()),
            "{} questions",
            script.seen().len()
        );
    }
    // A service that is away for a moment does not end the wait; an unknown machine does.
    let script = Script::new(move |_, n, _| {
        if n < 5 {
            Reply::json(503, json!({}))
        } else {
            Reply::json(200, vm("running"))
        }
    })
    .await;
    script
        .client()
        .wait_for_vm_ready("v", Wait::default())
        .await
        .unwrap();
    let script = Script::new(|_, _, _| Reply::json(404, json!({"error": "not found"}))).await;
    let e = script
        .client()
        .wait_for_vm_ready("v", Wait::default())
        .await
        .unwrap_err();
    assert_eq!((e.kind(), script.seen().len()), (Kind::NotFound, 1));
}

#[tokio::test]
async fn a_launch_leaves_a_token_where_that_changes_nothing() {
    let script = Script::new(|_, _, _| Reply::json(201, json!({"id": "v", "status": "running",
        "snapshotRestoreWarnings": {"servicesRegistrationFailed": true, "reason": "taken"}, "attachmentWarnings": ["x"]}))).await;
    let client = script.client();
    let launched = client.vms().launch(Launch::new("c1m2")).await.unwrap();
    assert_eq!(
        launched
            .snapshot_restore_warnings
            .unwrap()
            .reason
            .unwrap()
            .raw(),
        "taken"
    );
    assert_eq!(launched.attachment_warnings, Some(json!(["x"])));
    client
        .vms()
        .launch(Launch::from_snapshot("s"))
        .await
        .unwrap();
    client
        .vms()
        .launch(Launch::from_snapshot("s").metadata("a", "b"))
        .await
        .unwrap();
    client
        .vms()
        .launch(Launch::new("c1m2").metadata(TOKEN_KEY, "mine"))
        .await
        .unwrap();
    let sent: Vec<Value> = script
        .seen()
        .iter()
        .map(|s| s.json()["metadata"].clone())
        .collect();
    assert_eq!(sent[0][TOKEN_KEY].as_str().map(str::len), Some(32));
    assert_eq!(
        sent[1],
        Value::Null,
        "a restore inherits the snapshot's metadata"
    );
    assert!(sent[2][TOKEN_KEY].is_string() && sent[2]["a"] == "b");
    assert_eq!(sent[3], json!({TOKEN_KEY: "mine"}));
}

#[tokio::test]
async fn raw_requests_go_out_and_come_back() {
    let script = Script::new(|s, _, _| match s.path.as_str() {
        "/v1/new" => Reply::json(200, json!({"any": 1})),
        _ => Reply::json(404, json!({"error": "no such thing"})),
    })
    .await;
    let client = script.client();
    let reply = client
        .raw(RawRequest::new(http::Method::GET, "/v1/new?x=1").query("y", "2"))
        .await
        .unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(reply.body()).unwrap(),
        json!({"any": 1})
    );
    let e = client
        .raw(RawRequest::new(http::Method::GET, "/v1/old"))
        .await
        .unwrap_err();
    assert_eq!(
        (e.kind(), e.server_message().unwrap().raw()),
        (Kind::NotFound, "no such thing")
    );
    let reply = client
        .raw_stream(RawRequest::new(http::Method::GET, "/v1/old"))
        .await
        .unwrap();
    assert_eq!(reply.status(), 404);
    assert_eq!(script.seen()[0].query, "x=1&y=2");
}

#[tokio::test]
async fn every_call_takes_deadline_and_retries() {
    let script = Script::new(|_, _, _| Reply::Silence).await;
    let client = script.client();
    let quick = boxrig_wire::CallOptions::new().timeout(Timeout::After(Duration::from_millis(100)));
    let start = std::time::Instant::now();
    client.vms().with(quick.clone()).get("v").await.unwrap_err();
    client
        .vms()
        .services()
        .with(quick.clone())
        .list("v")
        .await
        .unwrap_err();
    client.quotas().with(quick).get().await.unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(1050));
    let script = Script::new(|_, _, _| Reply::json(503, json!({}))).await;
    let client = script.client();
    client.vms().get("v").await.unwrap_err();
    assert_eq!(script.seen().len(), 3);
    client
        .vms()
        .with(boxrig_wire::CallOptions::new().retries(0))
        .get("v")
        .await
        .unwrap_err();
    assert_eq!(script.seen().len(), 4);
}

/// The archive of a context: names, and the text of its Dockerfile.
fn context(zip: &[u8]) -> (Vec<String>, String) {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(zip)).unwrap();
    let mut names: Vec<String> = archive
        .file_names()
        .map(|n| n.unwrap().into_owned())
        .collect();
    names.sort();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut archive.by_name("Dockerfile").unwrap(), &mut text).unwrap();
    (names, text)
}

#[tokio::test]
async fn builds_send_their_context_and_can_be_followed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (name, text) in [
        ("Dockerfile", "FROM a\n"),
        (
            ".dockerignore",
            "node_modules\n*.md\n!KEEP.md\nDockerfile\n",
        ),
        ("KEEP.md", "k"),
        ("x.md", "x"),
        ("src/main", "m"),
        ("node_modules/big", "b"),
    ] {
        std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        std::fs::write(at(name), text).unwrap();
    }
    let handler = |s: &common::Seen, n: usize, url: &str| match s.line().as_str() {
        "POST /v1/snapshot-imports/context-presign" | "POST /v1/build-contexts/presign" => {
            Reply::json(
                200,
                json!({"contextRef": "ref", "uploadUrl": format!("{url}/put"), "downloadUrl": format!("{url}/get"), "expiresInSec": 9, "maxUploadBytes": 1 << 20}),
            )
        }
        "PUT /put" => Reply::json(200, json!({})),
        "POST /v1/snapshot-imports" => Reply::json(202, json!({"id": "i", "status": "pending"})),
        "POST /v1/builds" => Reply::json(202, json!({"id": "b", "status": "pending"})),
        "GET /v1/snapshot-imports/i" if n < 5 => Reply::json(
            200,
            json!({"id": "i", "status": "running", "events": [{"phase": "preparing", "status": "started", "timestampMs": 1}]}),
        ),
        "GET /v1/snapshot-imports/i" => Reply::json(
            200,
            json!({"id": "i", "status": "succeeded", "snapshotId": "s", "events": [
            {"phase": "preparing", "status": "started", "timestampMs": 1}, {"phase": "build", "status": "completed", "timestampMs": 2, "message": "ok"}]}),
        ),
        "GET /v1/builds/b" => Reply::json(
            200,
            json!({"id": "b", "status": "completed", "snapshotId": "s"}),
        ),
        "GET /v1/snapshots/s" => Reply::json(200, json!({"id": "s", "status": "ready"})),
        "POST /v1/snapshot-imports/i/cancel" => {
            Reply::json(200, json!({"id": "i", "status": "cancelled"}))
        }
        other => panic!("{other}"),
    };
    let script = Script::new(handler).await;
    let client = script.client();
    let build = Build::dockerfile(dir.path())
        .build_arg("V", "1")
        .target("t")
        .name("n")
        .registry(Some("r:5000"), "u", "p");
    let work = client.build(build).await.unwrap();
    let steps: Vec<String> = work
        .progress()
        .map(|p| {
            let p = p.unwrap();
            format!("{} {}", p.phase, p.message.unwrap())
        })
        .collect()
        .await;
    assert_eq!(steps, ["preparing started", "build completed: ok"]);
    assert_eq!(work.wait().await.unwrap().id, "s");
    work.cancel().await.unwrap();
    let seen = script.seen();
    assert_eq!(seen[1].header("content-type"), Some("application/zip"));
    assert_eq!(seen[0].json()["sizeBytes"], seen[1].body.len());
    let (names, text) = context(&seen[1].body);
    assert_eq!(
        names,
        [".dockerignore", "Dockerfile", "KEEP.md", "src/", "src/main"]
    );
    assert_eq!(text, "FROM a\n");
    assert_eq!(
        seen[2].json(),
        json!({"name": "n", "source": {"type": "dockerfile", "contextRef": "ref", "buildArgs": {"V": "1"}, "target": "t",
        "registryHost": "r:5000", "registryUsername": "u", "registryPassword": "p"}})
    );
    // The Dockerfile's text takes the place of the file.
    let script = Script::new(handler).await;
    script
        .client()
        .build(Build::dockerfile(dir.path()).dockerfile_text("FROM own\n"))
        .await
        .unwrap();
    assert_eq!(context(&script.seen()[1].body).1, "FROM own\n");
    // The older API.
    let script = Script::new(handler).await;
    let older = script
        .client()
        .build_older(Build::dockerfile(dir.path()))
        .await
        .unwrap();
    assert_eq!(older.wait().await.unwrap().id, "s");
    let seen = script.seen();
    assert_eq!(seen[1].header("content-type"), Some("application/gzip"));
    assert_eq!(seen[2].json()["dockerfileContent"], "FROM a\n");
    assert_eq!(older.cancel().await.unwrap_err().kind(), Kind::Unsupported);
    // What does not fit together is refused before anything is sent.
    let script = Script::new(handler).await;
    let client = script.client();
    for bad in [
        Build::image("a").target("t"),
        Build::dockerfile(dir.path()).platform("linux/arm64"),
        Build::dockerfile(dir.path()).dockerfile_path("../Dockerfile"),
        Build::dockerfile(dir.path()).dockerfile_path("missing"),
        Build::dockerfile(dir.path()).registry(None, "u", "p"),
        (0..65).fold(Build::dockerfile(dir.path()), |b, i| {
            b.build_arg(format!("A{i}"), "")
        }),
    ] {
        let e = client.build(bad.clone()).await.unwrap_err();
        assert!(
            matches!(e.kind(), Kind::Invalid | Kind::NotFound),
            "{bad:?}: {e}"
        );
        assert!(
            !format!("{bad:?}").contains("\"p\""),
            "the password is shown"
        );
    }
    assert!(script.seen().is_empty());
}

#[tokio::test]
async fn a_failed_import_says_why() {
    for (status, kind) in [("failed", Kind::Failed), ("cancelled", Kind::Cancelled)] {
        let script = Script::new(move |_, _, _| {
            Reply::json(
                200,
                json!({"id": "i", "status": status, "error": "no such image"}),
            )
        })
        .await;
        let work = script.client().import_operation("i");
        let e = work.wait().await.unwrap_err();
        assert_eq!(
            (e.kind(), e.server_message().unwrap().raw()),
            (kind, "no such image")
        );
    }
}

#[tokio::test]
async fn console_addresses_are_checked() {
    for (path, ok) in [
        ("/v1/vms/v/console", true),
        ("/c?x=1", true),
        ("ftp://evil/", false),
        ("//evil/c", false),
        ("c", false),
        ("@evil", false),
    ] {
        let script = Script::new(move |s, _, _| match s.method.as_str() {
            "POST" => Reply::json(
                200,
                json!({"token": "to/k", "expiresInSec": 60, "websocketPath": path}),
            ),
            _ => Reply::json(403, json!({"error": "used up"})),
        })
        .await;
        let e = script
            .client()
            .vms()
            .console("v", ConsoleSize::default())
            .await
            .unwrap_err();
        let seen = script.seen();
        if ok {
            assert_eq!((e.kind(), seen.len()), (Kind::Denied, 2), "{path}: {e}");
            assert!(
                seen[1].query.ends_with("session=to%2Fk"),
                "{}",
                seen[1].query
            );
            assert_eq!(seen[1].header("x-api-key"), None);
        } else {
            assert_eq!((e.kind(), seen.len()), (Kind::Protocol, 1), "{path}: {e}");
        }
        assert!(!format!("{e:?}").contains("to/k"));
    }
}
