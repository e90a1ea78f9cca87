//! The descriptions and the types against the API description that is kept in `api/`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use boxrig_fastvm::*;
use boxrig_wire::Secret;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

fn document() -> Value {
    let text = include_str!("../../../api/fastvm.openapi.yaml");
    serde_saphyr::from_str(text).unwrap()
}

/// A schema with its `$ref` and its `allOf` resolved.
fn resolved(doc: &Value, schema: &Value) -> Value {
    if let Some(r) = schema["$ref"].as_str() {
        let name = r.rsplit('/').next().unwrap();
        return resolved(doc, &doc["components"]["schemas"][name]);
    }
    let Some(all) = schema["allOf"].as_array() else {
        return schema.clone();
    };
    let mut out = schema.clone();
    for part in all {
        let part = resolved(doc, part);
        for (k, v) in part.as_object().unwrap() {
            match (out.get_mut(k), v) {
                (Some(Value::Object(a)), Value::Object(b)) => a.extend(b.clone()),
                (Some(Value::Array(a)), Value::Array(b)) => a.extend(b.clone()),
                _ => out[k] = v.clone(),
            }
        }
    }
    out
}

fn names(v: &Value) -> BTreeSet<String> {
    match v {
        Value::Object(o) => o.keys().cloned().collect(),
        Value::Array(a) => a.iter().map(|s| s.as_str().unwrap().to_owned()).collect(),
        _ => BTreeSet::new(),
    }
}

#[test]
fn every_operation_is_described_as_documented() {
    let doc = document();
    let mut seen = Vec::new();
    for (path, item) in doc["paths"].as_object().unwrap() {
        for (method, op) in item.as_object().unwrap() {
            let Some(id) = op["operationId"].as_str() else {
                continue;
            };
            let meta = CATALOG
                .iter()
                .find(|m| m.id == id)
                .unwrap_or_else(|| panic!("{id} is not described"));
            assert_eq!(meta.method.as_str().to_lowercase(), *method, "{id}");
            assert_eq!(meta.path.to_string(), *path, "{id}");
            let retries = op["x-max-retries"].as_u64().map(|n| n as u32);
            assert_eq!(meta.max_retries, retries, "{id}: x-max-retries");
            assert!(meta.summary().ends_with('.'), "{id}: {}", meta.summary());
            seen.push(id.to_owned());
        }
    }
    assert_eq!(seen.len(), 49);
    assert_eq!(CATALOG.len(), 49);
    for meta in EXTENSIONS {
        assert!(
            !seen.contains(&meta.id.to_owned()),
            "{} is no extension",
            meta.id
        );
    }
}

#[test]
fn every_schema_has_all_its_members() {
    let doc = document();
    let schemas = doc["components"]["schemas"].as_object().unwrap();
    assert_eq!(schemas.len(), 70);
    let mut left: BTreeSet<&str> = schemas.keys().map(String::as_str).collect();
    for (name, known) in WORDS {
        assert!(left.remove(name), "{name} is not in the document");
        let of = &schemas[*name];
        let listed = names(if of["enum"].is_array() {
            &of["enum"]
        } else {
            &of["x-known-values"]
        });
        let known: BTreeSet<String> = known.iter().map(|s| (*s).to_owned()).collect();
        assert_eq!(known, listed, "{name}");
    }
    for schema in SCHEMAS {
        assert!(
            left.remove(schema.name),
            "{} is not in the document",
            schema.name
        );
        let of = resolved(&doc, &schemas[schema.name]);
        let set = |s: &[&str]| s.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
        let (required, optional) = (set(schema.required), set(schema.optional));
        let all: BTreeSet<String> = required.union(&optional).cloned().collect();
        assert_eq!(all, names(&of["properties"]), "{}: members", schema.name);
        assert_eq!(
            required,
            names(&of["required"]),
            "{}: required",
            schema.name
        );
    }
    assert!(left.is_empty(), "not typed: {left:?}");
}

/// A value that fills every member of a schema.
fn sample(doc: &Value, schema: &Value) -> Value {
    let schema = &resolved(doc, schema);
    if let Some(words) = schema["enum"].as_array() {
        return words[0].clone();
    }
    if let Some(any) = schema["anyOf"].as_array() {
        return sample(doc, &any[0]);
    }
    match schema["type"].as_str() {
        Some("string") => match schema["format"].as_str() {
            Some("byte") => json!("aGk="),
            Some("date-time") => json!("2026-05-01T10:00:00Z"),
            _ => json!("text"),
        },
        Some("integer") => json!(2048),
        Some("boolean") => json!(true),
        Some("array") => json!([sample(doc, &schema["items"])]),
        Some("object") if schema["properties"].is_object() => {
            let members = schema["properties"].as_object().unwrap();
            let object: Map<String, Value> = members
                .iter()
                .map(|(k, v)| (k.clone(), sample(doc, v)))
                .collect();
            Value::Object(object)
        }
        Some("object") => json!({"key": "value"}),
        _ => json!({"any": 1}),
    }
}

/// Reads a value, writes it, and gives what was written.
type Through = fn(Value) -> Result<Value, String>;

fn through<T: Serialize + DeserializeOwned>(value: Value) -> Result<Value, String> {
    let read: T = serde_json::from_value(value).map_err(|e| e.to_string())?;
    Ok(serde_json::to_value(&read).unwrap())
}

macro_rules! all_types {
    ($($t:ty),* $(,)?) => { BTreeMap::from([$((<$t>::SCHEMA.name, through::<$t> as Through)),*]) };
}

fn types() -> BTreeMap<&'static str, Through> {
    all_types![
        ErrorBody,
        QuotaExceededError,
        QuotaExceeded,
        DeleteResponse,
        Ttl,
        IngressRule,
        IngressPolicy,
        EgressRule,
        EgressPolicy,
        DnsPolicy,
        FirewallPolicy,
        FirewallRuleLegacy,
        FirewallPolicyLegacy,
        Service,
        RegisterServiceRequest,
        UpdateServiceRequest,
        SnapshotService,
        VolumeAttachment,
        VolumeAttachmentWithVm,
        VolumeAttachRequest,
        DetachWarning,
        DetachVolumeResponse,
        BucketMount,
        AttachBucketMountRequest,
        RotateBucketMountRequest,
        Vm,
        SnapshotRestoreWarnings,
        LaunchedVm,
        CreateVmRequest,
        UpdateVmRequest,
        ExecResponse,
        FilePresignRequest,
        FilePresignResponse,
        FileFetchRequest,
        ConsoleTokenResponse,
        SnapshotVolumeAttachment,
        SnapshotBucketMountAttachment,
        Snapshot,
        CreateSnapshotRequest,
        UpdateSnapshotRequest,
        ImportSource,
        ImportSourceView,
        ImportEvent,
        SnapshotImport,
        CreateSnapshotImportRequest,
        ContextPresignRequest,
        ContextPresignResponse,
        SshKey,
        SshKeyListResponse,
        AddSshKeyRequest,
        OrgQuotaValues,
        OrgQuotaUsage,
        Volume,
        CreateVolumeRequest,
        UpdateVolumeRequest,
        HealthResponse,
        BuildCreateRequest,
        BuildResponse,
        ExecRequest,
        ExecEvent,
    ]
}

#[test]
fn a_full_value_of_every_schema_survives_with_what_is_unknown() {
    let doc = document();
    let types = types();
    assert_eq!(types.len(), SCHEMAS.len());
    for (name, through) in types {
        let mut value = sample(
            &doc,
            &json!({"$ref": format!("#/components/schemas/{name}")}),
        );
        match name {
            // A full event of each kind is tested below; no event has all members.
            "ExecEvent" => value = json!({"t": "x", "d": "why", "c": 3, "to": true, "ms": 5}),
            "ExecVMRequest" => value["command"] = json!(["a", "b"]),
            _ => {}
        }
        value["memberOfTomorrow"] = json!({"deep": [1, null, "x"]});
        assert_eq!(through(value.clone()), Ok(value), "{name}");
    }
}

#[test]
fn what_servers_leave_out_or_null_fails_no_read() {
    let doc = document();
    let requests = [
        "RegisterServiceRequest",
        "UpdateServiceRequest",
        "VolumeAttachRequest",
        "AttachBucketMountRequest",
        "RotateBucketMountRequest",
        "CreateVMRequest",
        "UpdateVMRequest",
        "ExecVMRequest",
        "FilePresignRequest",
        "FileFetchRequest",
        "CreateSnapshotRequest",
        "UpdateSnapshotRequest",
        "SnapshotImportSourceSpec",
        "CreateSnapshotImportRequest",
        "ContextPresignRequest",
        "AddSshKeyRequest",
        "CreateVolumeRequest",
        "UpdateVolumeRequest",
        "BuildCreateRequest",
    ];
    for (name, through) in types() {
        let schema = SCHEMAS.iter().find(|s| s.name == name).unwrap();
        let full = sample(
            &doc,
            &json!({"$ref": format!("#/components/schemas/{name}")}),
        );
        for member in schema.required.iter().chain(schema.optional) {
            for missing in [true, false] {
                let mut value = full.clone();
                if name == "ExecEvent" {
                    value = json!({"t": "o", "d": "aGk="});
                }
                let members = value.as_object_mut().unwrap();
                members.remove(*member);
                if !missing {
                    members.insert((*member).to_owned(), Value::Null);
                }
                let read = through(value);
                if requests.contains(&name) && schema.required.contains(member) {
                    // What a client must send is asked for by name.
                    assert_eq!(
                        read.unwrap_err(),
                        format!("{member}: is required"),
                        "{name}"
                    );
                } else {
                    assert!(read.is_ok(), "{name}.{member}: {read:?}");
                }
            }
        }
    }
}

#[test]
fn a_wrong_value_is_named_with_its_place() {
    let e =
        serde_json::from_value::<CreateVmRequest>(json!({"ttl": {"seconds": "x"}})).unwrap_err();
    assert!(
        e.to_string().starts_with("ttl: seconds: invalid type"),
        "{e}"
    );
    let e =
        serde_json::from_value::<ExecRequest>(json!({"command": ["a"], "stdin": "%"})).unwrap_err();
    assert!(e.to_string().starts_with("stdin: not base64"), "{e}");
}

#[test]
fn unknown_words_survive() {
    for (text, terminal) in [("hibernating", false), ("error", true), ("running", false)] {
        let vm: Vm = serde_json::from_value(json!({"status": text})).unwrap();
        assert_eq!(vm.status.is_terminal(), terminal);
        assert_eq!(serde_json::to_value(&vm).unwrap()["status"], text);
    }
}

#[test]
fn leave_clear_and_set_are_three_writes() {
    let write = |ttl| {
        serde_json::to_value(UpdateVmRequest {
            ttl,
            ..Default::default()
        })
        .unwrap()
    };
    use boxrig_wire::Patch;
    assert_eq!(write(Patch::Leave), json!({}));
    assert_eq!(write(Patch::Clear), json!({"ttl": null}));
    assert_eq!(
        write(Patch::Set(Ttl::pause(60))),
        json!({"ttl": {"seconds": 60, "action": "pause"}})
    );
    let read: UpdateVmRequest = serde_json::from_value(json!({"ttl": null})).unwrap();
    assert_eq!(read.ttl, Patch::Clear);
    let request = UpdateVmRequest {
        metadata: Some(Metadata::new()),
        ..Default::default()
    };
    assert_eq!(
        serde_json::to_value(request).unwrap(),
        json!({"metadata": {}})
    );
}

#[test]
fn both_generations_of_firewall_are_told_apart() {
    let legacy = json!({"mode": "restricted", "ingress": [{"protocol": "tcp", "portStart": 443}]});
    let layered = json!({"ingress": {"default": "deny", "rules": []}, "dns": {"mode": "allow"}});
    for (value, old) in [
        (&legacy, true),
        (&layered, false),
        (&json!({}), false),
        (&json!({"mode": null}), false),
    ] {
        let vm: Vm = serde_json::from_value(json!({"firewall": value})).unwrap();
        assert_eq!(
            matches!(vm.firewall, Some(Firewall::Legacy(_))),
            old,
            "{value}"
        );
    }
    let patch: FirewallPatch = serde_json::from_value(json!({"ingress": []})).unwrap();
    assert!(
        matches!(&patch, FirewallPatch::Legacy(p) if p.ingress == Some(vec![]) && p.mode.is_none())
    );
    assert_eq!(
        serde_json::to_value(&patch).unwrap(),
        json!({"ingress": []})
    );
    for value in [legacy, layered] {
        assert_eq!(through::<Firewall>(value.clone()), Ok(value));
    }
}

#[test]
fn a_command_may_be_a_string() {
    let of = |v: Value| {
        serde_json::from_value::<ExecRequest>(json!({"command": v}))
            .unwrap()
            .command
    };
    assert_eq!(of(json!("a b")).argv(), ["sh", "-c", "a b"]);
    assert_eq!(of(json!(["a", "b c"])).argv(), ["a", "b c"]);
}

#[test]
fn exec_events_are_read_and_written() {
    let events = [
        (
            json!({"t": "o", "d": "aGk="}),
            ExecEvent::Stdout("hi".into()),
        ),
        (
            json!({"t": "e", "d": "/w=="}),
            ExecEvent::Stderr(vec![0xff].into()),
        ),
        (
            json!({"t": "x", "ms": 12}),
            ExecEvent::Exit(ExecExit {
                duration_ms: 12,
                ..Default::default()
            }),
        ),
        (
            json!({"t": "x", "d": "no such file", "c": 127, "to": true, "ms": 0}),
            ExecEvent::Exit(ExecExit {
                code: 127,
                timed_out: true,
                diagnostic: Some("no such file".into()),
                ..Default::default()
            }),
        ),
        (
            json!({"t": "z", "d": "?", "n": 1}),
            ExecEvent::Other(
                json!({"t": "z", "d": "?", "n": 1})
                    .as_object()
                    .unwrap()
                    .clone(),
            ),
        ),
    ];
    for (wire, event) in events {
        assert_eq!(
            serde_json::from_value::<ExecEvent>(wire.clone()).unwrap(),
            event
        );
        assert_eq!(serde_json::to_value(&event).unwrap(), wire);
    }
    // Members in another order, an escape in the payload, no padding.
    for line in [
        r#"{"d":"aGk=","t":"o"}"#,
        r#"{"t":"o","d":"aGk\u003d"}"#,
        r#"{"new":[{}],"t":"o","d":"aGk"}"#,
    ] {
        assert_eq!(
            serde_json::from_str::<ExecEvent>(line).unwrap(),
            ExecEvent::Stdout("hi".into()),
            "{line}"
        );
    }
    assert!(serde_json::from_str::<ExecEvent>(r#"{"t":"o","d":"%%"}"#).is_err());
}

#[test]
fn debug_shows_no_secret() {
    let secret = "hush";
    let env: EnvVars = [("KEY", secret)].into_iter().collect();
    let shown = [
        format!(
            "{:?}",
            CreateVmRequest {
                env_vars: Some(env),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            FilePresignResponse {
                upload_url: secret.into(),
                download_url: secret.into(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            FileFetchRequest {
                url: secret.into(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            ConsoleTokenResponse {
                token: secret.into(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            ImportSource {
                registry_password: Some(Secret::from(secret)),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            ContextPresignResponse {
                context_ref: secret.into(),
                upload_url: secret.into(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            BucketMountCredentials(json!({"k": secret}).as_object().unwrap().clone())
        ),
        format!(
            "{:?}",
            ExecRequest {
                stdin: Some(secret.as_bytes().to_vec().into()),
                ..Default::default()
            }
        ),
    ];
    for text in shown {
        assert!(!text.contains(secret), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn any_event_survives(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        kind in 0u8..3,
        code in proptest::prelude::any::<i32>(),
        timed_out in proptest::prelude::any::<bool>(),
        duration_ms in proptest::prelude::any::<u64>(),
        text in ".{0,20}",
    ) {
        let event = match kind {
            0 => ExecEvent::Stdout(bytes.into()),
            1 => ExecEvent::Stderr(bytes.into()),
            _ => ExecEvent::Exit(ExecExit {
                code,
                timed_out,
                duration_ms,
                diagnostic: (!text.is_empty()).then(|| text.into()),
                ..Default::default()
            }),
        };
        let line = serde_json::to_string(&event).unwrap();
        proptest::prop_assert!(!line.contains('\n'));
        proptest::prop_assert_eq!(serde_json::from_str::<ExecEvent>(&line).unwrap(), event);
    }

    #[test]
    fn no_line_does_harm(line in r#"\{("[tdcoms]{1,2}":("[oexz=AQ]{0,5}"|-?[0-9]{1,20}|null|true|\[\]|\{\}),?){0,5}\}?"#) {
        // Read or refused, and what is read is written again.
        if let Ok(event) = serde_json::from_str::<ExecEvent>(&line) {
            serde_json::to_string(&event).unwrap();
        }
    }
}
