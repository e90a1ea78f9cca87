//! The calls of the vendor's SDK document, made with our client: each with every parameter, and
//! what then goes over the wire. The answers are the examples of the OpenAPI file.
//!
//! `api/seed-ties.tsv` ties the document's methods and parameters to these tests.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use boxrig_fastvm::{Build, Client, Exec, Launch, ListVms, Ttl, VmStatus, Wait};
use boxrig_wire::{
    BaseUrl, BoxFuture, CallOptions, Caller, Error, Kind, Outgoing, Patch, Result, Transport,
    WireBody,
};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::openapi::Document;

/// One request as it left.
#[derive(Clone, Debug, PartialEq)]
struct Sent {
    line: String,
    body: Value,
    accept: Option<String>,
    retries: u32,
    key: Option<String>,
    length: usize,
    timeout: Option<Duration>,
}

/// A transport that notes what it is given.
#[derive(Debug)]
struct Wire {
    document: Document,
    sent: Mutex<Vec<Sent>>,
    /// Answers in place of the file's examples.
    script: Mutex<VecDeque<(u16, Value)>>,
}

impl Transport for Wire {
    fn send(&self, out: Outgoing) -> BoxFuture<'_, Result<Response<WireBody>>> {
        Box::pin(async move {
            let (parts, body) = out.request.into_parts();
            let text = body.collect(1 << 20).await.unwrap();
            let target = parts.uri.path_and_query().unwrap();
            self.sent.lock().unwrap().push(Sent {
                line: format!("{} {target}", parts.method),
                body: serde_json::from_slice(&text).unwrap_or(Value::Null),
                accept: parts
                    .headers
                    .get(ACCEPT)
                    .map(|v| v.to_str().unwrap().to_owned()),
                retries: out.retry.max_retries,
                key: parts
                    .headers
                    .get("x-api-key")
                    .map(|v| v.to_str().unwrap().to_owned()),
                length: text.len(),
                timeout: out.timeout,
            });
            if !parts.uri.path().starts_with("/v1/") {
                // A signed URL: storage, not an operation of the API.
                return Ok(Response::new(WireBody::empty()));
            }
            let operation = self.document.operation(out.operation).unwrap();
            // What the file does not allow must not leave the client.
            assert_eq!(
                self.document.check_request(&operation, &text),
                Vec::<String>::new()
            );
            let (status, body) = match self.script.lock().unwrap().pop_front() {
                Some((status, body)) => (status, Some(body)),
                None => self.document.example(&operation).unwrap(),
            };
            let body = body.map_or_else(WireBody::empty, |b| WireBody::full(b.to_string()));
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            Ok(response)
        })
    }
}

struct Rig {
    client: Client,
    wire: Arc<Wire>,
}

impl Rig {
    fn new() -> Self {
        Self::scripted([])
    }

    fn scripted(script: impl IntoIterator<Item = (u16, Value)>) -> Self {
        let path = crate::root().join("api/fastvm.openapi.yaml");
        let wire = Arc::new(Wire {
            document: Document::load(&path).unwrap(),
            sent: Mutex::default(),
            script: Mutex::new(script.into_iter().collect()),
        });
        let base = BaseUrl::parse("http://127.0.0.1:1").unwrap();
        let caller = Caller::new(wire.clone(), base).with_retry(Client::default_retries());
        Self {
            client: Client::new(caller),
            wire,
        }
    }

    /// The only request since the last time.
    fn one(&self) -> Sent {
        let mut sent = self.wire.sent.lock().unwrap();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    /// The only request: its line and body.
    #[track_caller]
    fn expect(&self, line: &str, body: Value) {
        let sent = self.one();
        assert_eq!((sent.line.as_str(), sent.body), (line, body));
    }
}

fn vm(status: &str) -> Value {
    json!({
        "id": "00000000-0000-4000-8000-000000000000", "name": "a", "orgId": "o", "cpu": 1,
        "memoryMiB": 2048, "diskGiB": 10, "status": status, "createdAt": "2026-01-02T03:04:05Z",
    })
}

fn code(e: &Error) -> String {
    e.code().map(|c| c.to_string()).unwrap_or_default()
}

#[tokio::test]
async fn vms_take_every_parameter() {
    let rig = Rig::new();
    let vms = rig.client.vms();
    vms.list(
        ListVms::new()
            .status(VmStatus::Paused)
            .metadata("team", "a b"),
    )
    .await
    .unwrap();
    rig.expect("GET /v1/vms?status=paused&metadata.team=a%20b", Value::Null);
    vms.list(ListVms::new()).await.unwrap();
    rig.expect("GET /v1/vms", Value::Null);

    let policy: boxrig_fastvm::FirewallPolicy =
        serde_json::from_value(json!({ "egress": { "default": "deny" } })).unwrap();
    let launch = Launch::new("c1m2")
        .name("dev")
        .metadata("team", "web")
        .env("A", "1")
        .disk_gib(20)
        .firewall(policy)
        .ttl(Ttl::pause(60))
        .wait(None)
        .token(false);
    vms.launch(launch).await.unwrap();
    let sent = rig.one();
    assert_eq!(sent.line, "POST /v1/vms");
    assert_eq!(
        sent.body,
        json!({
            "machineType": "c1m2", "name": "dev", "metadata": { "team": "web" },
            "envVars": { "A": "1" }, "diskGiB": 20, "firewall": { "egress": { "default": "deny" } },
            "ttl": { "seconds": 60, "action": "pause" },
        })
    );
    assert_eq!(sent.retries, 0, "a launch is not sent twice");
    vms.launch(Launch::from_snapshot("snp_1").wait(None))
        .await
        .unwrap();
    rig.expect("POST /v1/vms", json!({ "snapshotId": "snp_1" }));

    let quick = vms
        .clone()
        .with(CallOptions::new().timeout(Duration::from_secs(7)));
    quick.launch(Launch::new("c2m4").wait(None)).await.unwrap();
    let left = rig.one().timeout.unwrap();
    assert!(left > Duration::from_secs(6) && left <= Duration::from_secs(7));

    vms.get("a/b?c").await.unwrap();
    rig.expect("GET /v1/vms/a%2Fb%3Fc", Value::Null);
    let change = boxrig_fastvm::UpdateVmRequest {
        name: Some("web".into()),
        ttl: Patch::Clear,
        ..Default::default()
    };
    vms.update("v", change).await.unwrap();
    rig.expect("PATCH /v1/vms/v", json!({ "name": "web", "ttl": null }));
    vms.delete("v").await.unwrap();
    rig.expect("DELETE /v1/vms/v", Value::Null);
    vms.pause("v").await.unwrap();
    rig.expect("POST /v1/vms/v/pause", Value::Null);
    vms.resume("v").await.unwrap();
    rig.expect("POST /v1/vms/v/resume", Value::Null);
    vms.refresh_ttl("v").await.unwrap();
    rig.expect("POST /v1/vms/v/ttl/refresh", Value::Null);
    vms.console_token("v").await.unwrap();
    rig.expect("POST /v1/vms/v/console-token", Value::Null);
}

#[tokio::test]
async fn firewalls_of_both_generations_are_sent() {
    let rig = Rig::new();
    let vms = rig.client.vms();
    let rule = json!({
        "action": "allow", "kind": "fqdn", "value": "*.example.org", "protocol": "tcp",
        "ports": "443", "description": "web",
    });
    let body = json!({
        "ingress": { "default": "deny", "rules": [] },
        "egress": { "default": "deny", "rules": [rule] },
        "dns": { "mode": "allow", "domains": ["example.org"], "blockBypass": true },
    });
    let policy: boxrig_fastvm::FirewallPolicy = serde_json::from_value(body.clone()).unwrap();
    vms.set_firewall("v", policy).await.unwrap();
    rig.expect("PUT /v1/vms/v/firewall", body);
    let old = json!({ "mode": "restricted", "ingress": [{ "protocol": "tcp", "portStart": 80 }] });
    let policy: boxrig_fastvm::FirewallPolicyLegacy = serde_json::from_value(old.clone()).unwrap();
    vms.set_firewall("v", policy).await.unwrap();
    rig.expect("PUT /v1/vms/v/firewall", old);
    let part = json!({ "dns": { "mode": "deny" } });
    let change: boxrig_fastvm::FirewallPolicy = serde_json::from_value(part.clone()).unwrap();
    vms.patch_firewall("v", boxrig_fastvm::FirewallPatch::Layered(change))
        .await
        .unwrap();
    rig.expect("PATCH /v1/vms/v/firewall", part);
}

#[tokio::test]
async fn commands_take_every_parameter() {
    let rig = Rig::new();
    let vms = rig.client.vms();
    let path = "POST /v1/vms/v/exec";
    vms.run("v", "ls -la /root").await.unwrap();
    let sent = rig.one();
    assert_eq!(
        sent.body,
        json!({ "command": ["sh", "-c", "ls -la /root"] })
    );
    assert_eq!(sent.retries, 0, "a command is not run twice");
    let argv = Exec::new(["python3", "main.py", "--flag"])
        .stdin("in")
        .timeout(Duration::from_millis(4_500));
    vms.run("v", argv).await.unwrap();
    let body = json!({
        "command": ["python3", "main.py", "--flag"], "stdin": "aW4=", "timeoutSec": 5,
    });
    rig.expect(path, body);
    let with = vms.clone().with(CallOptions::new().retries(3));
    with.run("v", "true").await.unwrap();
    assert_eq!(rig.one().retries, 3);
    // The example answers JSON, which is no stream: only the request is of interest here.
    let _ = vms
        .stream("v", Exec::new("make -j8").timeout(Duration::from_secs(9)))
        .await;
    let sent = rig.one();
    assert_eq!(sent.accept.as_deref(), Some("application/x-ndjson"));
    assert_eq!(
        sent.body,
        json!({ "command": ["sh", "-c", "make -j8"], "timeoutSec": 9 })
    );
}

#[tokio::test]
async fn parts_of_a_machine_take_every_parameter() {
    let rig = Rig::new();
    let vms = rig.client.vms();
    let services = vms.services();
    services.list("v").await.unwrap();
    rig.expect("GET /v1/vms/v/services", Value::Null);
    let body = json!({ "name": "web", "port": 8080, "h2c": true });
    services
        .register("v", serde_json::from_value(body.clone()).unwrap())
        .await
        .unwrap();
    rig.expect("POST /v1/vms/v/services", body);
    let body = json!({ "port": 8081, "h2c": true });
    services
        .update("v", "web", serde_json::from_value(body.clone()).unwrap())
        .await
        .unwrap();
    rig.expect("PUT /v1/vms/v/services/web", body);
    services.delete("v", "web").await.unwrap();
    rig.expect("DELETE /v1/vms/v/services/web", Value::Null);

    let files = vms.files();
    files.presign("v", "/root/file.txt").await.unwrap();
    rig.expect(
        "POST /v1/vms/v/files/presign",
        json!({ "path": "/root/file.txt" }),
    );
    files
        .fetch(
            "v",
            &"http://h/x".to_owned().into(),
            "/root/file.txt",
            Some(7),
        )
        .await
        .unwrap();
    let body = json!({ "url": "http://h/x", "path": "/root/file.txt", "timeoutSec": 7 });
    rig.expect("POST /v1/vms/v/files/fetch", body);

    let volumes = vms.volumes();
    let body = json!({ "volumeId": "vol_1", "mountPath": "/data", "readOnly": true });
    volumes
        .attach("v", serde_json::from_value(body.clone()).unwrap())
        .await
        .unwrap();
    rig.expect("POST /v1/vms/v/volumes", body);
    volumes.detach("v", "vol_1").await.unwrap();
    rig.expect("DELETE /v1/vms/v/volumes/vol_1", Value::Null);

    let buckets = vms.bucket_mounts();
    buckets.list("v").await.unwrap();
    rig.expect("GET /v1/vms/v/bucket-mounts", Value::Null);
    let body = json!({
        "bucketUri": "gs://b/p", "mountPath": "/b", "readOnly": true, "credentials": { "k": "v" },
    });
    buckets
        .attach("v", serde_json::from_value(body.clone()).unwrap())
        .await
        .unwrap();
    rig.expect("POST /v1/vms/v/bucket-mounts", body);
    buckets.get("v", "bm_1").await.unwrap();
    rig.expect("GET /v1/vms/v/bucket-mounts/bm_1", Value::Null);
    let credentials = json!({ "k": "new" });
    buckets
        .rotate("v", "bm_1", serde_json::from_value(credentials).unwrap())
        .await
        .unwrap();
    rig.expect(
        "PATCH /v1/vms/v/bucket-mounts/bm_1",
        json!({ "credentials": { "k": "new" } }),
    );
    buckets.delete("v", "bm_1").await.unwrap();
    rig.expect("DELETE /v1/vms/v/bucket-mounts/bm_1", Value::Null);
}

#[tokio::test]
async fn ssh_keys_take_every_parameter() {
    let rig = Rig::new();
    let me = rig.client.me();
    let keys = me.ssh_keys();
    keys.list().await.unwrap();
    rig.expect("GET /v1/me/ssh-keys", Value::Null);
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPvTRNRsIiQGpnuqfyKPPs1sCoMNu1CXwVr/mWmoDA7";
    keys.add(key, Some("laptop")).await.unwrap();
    rig.expect(
        "POST /v1/me/ssh-keys",
        json!({ "publicKey": key, "name": "laptop" }),
    );
    let refused = keys
        .add("ssh-ed25519 AAAA\nssh-ed25519 AAAA", None)
        .await
        .unwrap_err();
    assert_eq!(
        refused.kind(),
        Kind::Invalid,
        "a second line is refused before it is sent"
    );
    keys.delete("SHA256:a+b/c").await.unwrap();
    rig.expect("DELETE /v1/me/ssh-keys/SHA256%3Aa%2Bb%2Fc", Value::Null);
}

#[tokio::test]
async fn snapshots_and_imports_take_every_parameter() {
    let rig = Rig::new();
    let snapshots = rig.client.snapshots();
    snapshots.list().await.unwrap();
    rig.expect("GET /v1/snapshots", Value::Null);
    snapshots.create("v", Some("s")).await.unwrap();
    rig.expect("POST /v1/snapshots", json!({ "vmId": "v", "name": "s" }));
    snapshots.create("v", None).await.unwrap();
    rig.expect("POST /v1/snapshots", json!({ "vmId": "v" }));
    snapshots.get("s").await.unwrap();
    rig.expect("GET /v1/snapshots/s", Value::Null);
    snapshots.rename("s", "n").await.unwrap();
    rig.expect("PATCH /v1/snapshots/s", json!({ "name": "n" }));
    snapshots.delete("s").await.unwrap();
    rig.expect("DELETE /v1/snapshots/s", Value::Null);

    let imports = rig.client.snapshot_imports();
    imports.list().await.unwrap();
    rig.expect("GET /v1/snapshot-imports", Value::Null);
    let body = json!({
        "machineType": "c1m2", "diskGiB": 20, "name": "py",
        "source": {
            "type": "dockerfile", "contextRef": "c", "dockerfilePath": "Dockerfile",
            "buildArgs": { "A": "1" }, "target": "run", "registryHost": "h",
            "registryUsername": "u", "registryPassword": "p",
        },
    });
    imports
        .create(serde_json::from_value(body.clone()).unwrap())
        .await
        .unwrap();
    rig.expect("POST /v1/snapshot-imports", body);
    let body = json!({
        "source": { "type": "image", "image": "python:3.13-slim", "platform": "linux/amd64" },
    });
    imports
        .create(serde_json::from_value(body.clone()).unwrap())
        .await
        .unwrap();
    rig.expect("POST /v1/snapshot-imports", body);
    imports.presign_context(Some(1234)).await.unwrap();
    rig.expect(
        "POST /v1/snapshot-imports/context-presign",
        json!({ "sizeBytes": 1234 }),
    );
    imports.get("i").await.unwrap();
    rig.expect("GET /v1/snapshot-imports/i", Value::Null);
    imports.delete("i").await.unwrap();
    rig.expect("DELETE /v1/snapshot-imports/i", Value::Null);
    imports.cancel("i").await.unwrap();
    rig.expect("POST /v1/snapshot-imports/i/cancel", Value::Null);
}

#[tokio::test]
async fn quotas_and_volumes_take_every_parameter() {
    let rig = Rig::new();
    rig.client.quotas().get().await.unwrap();
    rig.expect("GET /v1/org/quotas", Value::Null);
    let volumes = rig.client.volumes();
    let body = json!({ "name": "data", "sizeGiB": 10, "accessMode": "rw" });
    volumes
        .create(serde_json::from_value(body.clone()).unwrap())
        .await
        .unwrap();
    rig.expect("POST /v1/volumes", body);
    volumes.get("vol_1").await.unwrap();
    rig.expect("GET /v1/volumes/vol_1", Value::Null);
    let body = json!({ "name": "data", "sizeGiB": 20, "accessMode": "ro" });
    volumes
        .update("vol_1", serde_json::from_value(body.clone()).unwrap())
        .await
        .unwrap();
    rig.expect("PATCH /v1/volumes/vol_1", body);
    volumes.delete("vol_1").await.unwrap();
    rig.expect("DELETE /v1/volumes/vol_1", Value::Null);
    volumes.list_attachments("vol_1").await.unwrap();
    rig.expect("GET /v1/volumes/vol_1/attachments", Value::Null);
}

#[tokio::test]
async fn launch_waits_as_documented() {
    // 202 and a poll; an unknown status is on the way.
    let rig = Rig::scripted([
        (202, vm("queued")),
        (200, vm("warming-up")),
        (200, vm("running")),
    ]);
    let wait = Wait::timeout(Duration::from_secs(20)).poll_interval(Duration::from_millis(1));
    let launched = rig
        .client
        .vms()
        .launch(Launch::new("c1m2").wait(Some(wait)))
        .await
        .unwrap();
    assert_eq!(launched.vm.status, VmStatus::Running);
    assert_eq!(rig.wire.sent.lock().unwrap().len(), 3);
    // 201 is done at once.
    let rig = Rig::scripted([(201, vm("running"))]);
    rig.client.vms().launch(Launch::new("c1m2")).await.unwrap();
    assert_eq!(rig.one().line, "POST /v1/vms");
    // Without waiting the answer is given as it is.
    let rig = Rig::scripted([(202, vm("provisioning"))]);
    let launched = rig
        .client
        .vms()
        .launch(Launch::new("c1m2").wait(None))
        .await
        .unwrap();
    assert_eq!(launched.vm.status, VmStatus::Provisioning);
    rig.one();
    let defaults = Wait::default();
    assert_eq!(
        (defaults.timeout, defaults.poll_interval),
        (Duration::from_secs(300), None)
    );
}

#[tokio::test]
async fn launch_is_repeated_only_when_asked_to() {
    let busy = (429, json!({ "error": "slow down" }));
    let rig = Rig::scripted([busy.clone()]);
    let launch = Launch::new("c1m2").wait(None);
    let refused = rig.client.vms().launch(launch.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::RateLimited);
    rig.one();
    let rig = Rig::scripted([busy, (202, vm("provisioning"))]);
    let vms = rig.client.vms().with(CallOptions::new().retries(1));
    vms.launch(launch).await.unwrap();
    assert_eq!(rig.wire.sent.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn launch_fails_as_documented() {
    for status in ["error", "stopped", "deleting"] {
        let rig = Rig::scripted([(202, vm("provisioning")), (200, vm(status))]);
        let failed = rig
            .client
            .vms()
            .launch(Launch::new("c1m2"))
            .await
            .unwrap_err();
        assert_eq!(code(&failed), "vm_launch_failed", "{status}");
    }
    let script = std::iter::repeat_n((200, vm("provisioning")), 200);
    let rig = Rig::scripted([(202, vm("provisioning"))].into_iter().chain(script));
    let wait = Wait::timeout(Duration::from_millis(60)).poll_interval(Duration::from_millis(5));
    let launch = Launch::new("c1m2").wait(Some(wait));
    let late = rig.client.vms().launch(launch).await.unwrap_err();
    assert_eq!(
        (late.kind(), code(&late).as_str()),
        (Kind::Timeout, "vm_not_ready")
    );
}

#[tokio::test]
async fn a_known_machine_is_waited_for_like_a_launch() {
    let rig = Rig::scripted([(200, vm("provisioning")), (200, vm("running"))]);
    let wait = Wait::timeout(Duration::from_secs(20)).poll_interval(Duration::from_millis(1));
    let ready = rig
        .client
        .wait_for_vm_ready("v", wait.clone())
        .await
        .unwrap();
    assert_eq!(ready.status, VmStatus::Running);
    let rig = Rig::scripted([(200, vm("error"))]);
    let failed = rig.client.wait_for_vm_ready("v", wait).await.unwrap_err();
    assert_eq!(code(&failed), "vm_launch_failed");
}

#[tokio::test]
async fn documented_errors_have_their_meaning() {
    let answer = |status: u16, text: &str| [(status, json!({ "error": text }))];
    let rig = Rig::scripted(answer(409, "VOL_NOT_READY"));
    let volume = json!({ "volumeId": "vol_1", "mountPath": "/data" });
    let volumes = rig
        .client
        .vms()
        .volumes()
        .with(CallOptions::new().retries(0));
    let early = volumes
        .attach("v", serde_json::from_value(volume).unwrap())
        .await
        .unwrap_err();
    assert_eq!(
        (early.kind(), code(&early).as_str()),
        (Kind::Conflict, "VOL_NOT_READY")
    );
    let rig = Rig::scripted(answer(400, "sizeBytes is above the cap"));
    let large = rig
        .client
        .snapshot_imports()
        .presign_context(Some(u64::MAX >> 12))
        .await;
    assert_eq!(large.unwrap_err().kind(), Kind::Invalid);
    let rig = Rig::scripted(answer(400, "image and contextRef"));
    let mixed = json!({ "source": { "type": "image", "image": "a", "contextRef": "c" } });
    let imports = rig.client.snapshot_imports();
    let mixed = imports
        .create(serde_json::from_value(mixed).unwrap())
        .await
        .unwrap_err();
    assert_eq!(mixed.kind(), Kind::Invalid);
}

#[tokio::test]
async fn the_client_reads_its_environment() {
    let rig = Rig::new();
    let variables = |name: &str| match name {
        "FASTVM_API_KEY" => Some("hlm_test".to_owned()),
        "FASTVM_BASE_URL" => Some("http://127.0.0.1:2".to_owned()),
        _ => None,
    };
    let client = Client::builder()
        .env_from(variables)
        .transport(rig.wire.clone())
        .build()
        .unwrap();
    assert_eq!(client.caller().base().origin(), "http://127.0.0.1:2");
    client.vms().list(ListVms::new()).await.unwrap();
    assert_eq!(rig.one().key.as_deref(), Some("hlm_test"));
    // What is given wins, and a variable that is empty is not set.
    let client = Client::builder()
        .api_key("mine")
        .env_from(|name| {
            if name == "FASTVM_BASE_URL" {
                Some(String::new())
            } else {
                variables(name)
            }
        })
        .transport(rig.wire.clone())
        .build()
        .unwrap();
    assert_eq!(client.caller().base().origin(), "https://api.fastvm.org");
    client.vms().list(ListVms::new()).await.unwrap();
    assert_eq!(rig.one().key.as_deref(), Some("mine"));
    let refused = Client::builder().env_from(|_| None).build().unwrap_err();
    assert_eq!(refused.kind(), Kind::Unauthenticated);
}

fn import(status: &str) -> Value {
    json!({
        "id": "i", "status": status, "snapshotId": "snp_1", "createdAt": "2026-01-02T03:04:05Z",
        "source": { "type": "image", "image": "python:3.13-slim" },
    })
}

fn snapshot() -> Value {
    json!({
        "id": "snp_1", "name": "s", "orgId": "o", "vmId": "v", "status": "ready",
        "createdAt": "2026-01-02T03:04:05Z",
    })
}

#[tokio::test]
async fn builds_are_imports() {
    let done = [
        (200, import("running")),
        (200, import("succeeded")),
        (200, snapshot()),
    ];
    let rig = Rig::scripted([(202, import("pending"))].into_iter().chain(done));
    let operation = rig
        .client
        .build(Build::image("python:3.13-slim"))
        .await
        .unwrap();
    let snapshot = operation.wait().await.unwrap();
    assert_eq!(snapshot.id, "snp_1");
    let sent = rig.wire.sent.lock().unwrap().clone();
    assert_eq!(sent[0].line, "POST /v1/snapshot-imports");
    let source = json!({ "type": "image", "image": "python:3.13-slim" });
    assert_eq!(sent[0].body, json!({ "source": source }));
    assert_eq!(sent.last().unwrap().line, "GET /v1/snapshots/snp_1");
}

#[tokio::test]
async fn a_dockerfile_is_built_from_its_context() {
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("app.py"), "print(1)").unwrap();
    let staging = json!({
        "contextRef": "ctx", "uploadUrl": "http://127.0.0.1:1/storage/1", "expiresInSec": 60,
        "maxUploadBytes": 1000000,
    });
    let rig = Rig::scripted([(200, staging), (202, import("pending"))]);
    let build = Build::dockerfile(context.path()).dockerfile_text("FROM scratch\nCOPY . /\n");
    rig.client.build(build).await.unwrap();
    let sent = rig.wire.sent.lock().unwrap().clone();
    let lines: Vec<&str> = sent.iter().map(|s| s.line.as_str()).collect();
    assert_eq!(
        lines,
        [
            "POST /v1/snapshot-imports/context-presign",
            "PUT /storage/1",
            "POST /v1/snapshot-imports",
        ]
    );
    assert_eq!(sent[0].body["sizeBytes"], json!(sent[1].length));
    assert_eq!(sent[1].key, None, "a signed URL gets no key");
    assert_eq!(
        sent[2].body["source"],
        json!({ "type": "dockerfile", "contextRef": "ctx" })
    );
}

#[test]
fn transfers_have_the_documented_limits() {
    let options = boxrig_fastvm::TransferOptions::new();
    assert_eq!(options.fetch_timeout, Duration::from_secs(600));
    assert_eq!(options.exec_timeout, Duration::from_secs(600));
}
