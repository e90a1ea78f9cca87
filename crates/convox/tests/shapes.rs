//! Every structure of `api/convox-structs.yaml`, field by field: read, written again, read when everything is null.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use boxrig_convox::models;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

fn table() -> Map<String, Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../api/convox-structs.yaml");
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The type without its remarks, and whether it is nullable and left out when empty.
fn facts(text: &str) -> (&str, bool, bool) {
    let (text, opt) = text
        .strip_suffix(" opt")
        .map_or((text, false), |t| (t, true));
    let nullable = text.strip_suffix('?').or(text.strip_suffix(" or null"));
    (nullable.unwrap_or(text), nullable.is_some(), opt)
}

/// A value of a type, of `n`'s own.
fn sample(table: &Map<String, Value>, ty: &str, n: usize) -> Value {
    let (ty, ..) = facts(ty.trim());
    if let Some(inner) = ty.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return json!([sample(table, inner, n), sample(table, inner, n + 1)]);
    }
    if let Some(inner) = ty
        .strip_prefix("map<str,")
        .and_then(|t| t.strip_suffix('>'))
    {
        return json!({"a key": sample(table, inner, n)});
    }
    match ty {
        "str" | "string" | "duration" | "bytes(base64)" => json!(format!("text {n}")),
        "int" => json!(n + 1),
        "float" => json!(n as f64 + 0.5),
        "bool" => json!(true),
        "time" => json!(format!("2026-01-01T00:00:00.{n:09}Z")),
        "map" => json!({"a": "b"}),
        t if t.starts_with('{') => json!({"name": "x"}),
        structure => {
            let fields = table[structure].as_object().unwrap();
            let members = fields.iter().enumerate();
            members
                .map(|(i, (k, t))| (k.clone(), sample(table, t.as_str().unwrap(), i)))
                .collect()
        }
    }
}

fn check<T: DeserializeOwned + Serialize + Default>(table: &Map<String, Value>, name: &str) {
    let full = sample(table, name, 0);
    let read: T = serde_json::from_value(full.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(serde_json::to_value(&read).unwrap(), full, "{name}");

    // What is unknown survives; what is null or missing is read as nothing.
    let fields = table[name].as_object().unwrap();
    let mut odd: Map<String, Value> = fields.keys().map(|k| (k.clone(), Value::Null)).collect();
    odd.insert("of a later version".into(), json!([1]));
    let read: T = serde_json::from_value(odd.into()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let written = serde_json::to_value(&read).unwrap();
    assert_eq!(written["of a later version"], json!([1]), "{name}");
    let empty = serde_json::to_value(T::default()).unwrap();
    assert_eq!(
        serde_json::to_value(serde_json::from_value::<T>(json!({})).unwrap()).unwrap(),
        empty
    );

    // Nothing is left out that the rack writes, nothing written that it leaves out.
    for (field, ty) in fields {
        let text = ty.as_str().unwrap();
        let (bare, nullable, opt) = facts(text);
        let expected = match (bare, opt, nullable) {
            ("time", true, false) => Some(json!("0001-01-01T00:00:00Z")),
            (_, true, _) => None,
            (_, false, true) => Some(Value::Null),
            ("time", ..) => Some(json!("0001-01-01T00:00:00Z")),
            ("str" | "duration", ..) => Some(json!("")),
            ("int", ..) => Some(json!(0)),
            ("float", ..) => Some(json!(0.0)),
            ("bool", ..) => Some(json!(false)),
            (t, ..) if t.starts_with('[') => Some(json!([])),
            (t, ..) if t.starts_with("map") => Some(json!({})),
            // A structure in a structure, and console members of a form of their own.
            _ => continue,
        };
        assert_eq!(empty.get(field), expected.as_ref(), "{name}.{field}");
    }
}

macro_rules! all {
    ($($name:ident)*) => {
        /// Name and check of every structure.
        const ALL: &[(&str, fn(&Map<String, Value>, &str))] = &[$((stringify!($name), check::<models::$name>)),*];
    };
}

all! {
    App AppBudget AppBudgetDismissRecoveryResult AppBudgetShutdownState AppBudgetShutdownStateKeda
    AppBudgetShutdownStateOriginalScale AppBudgetShutdownStateService AppBudgetSimulationEligibility
    AppBudgetSimulationResult AppBudgetState AppConfig AppCost AppDiagnosticReport Balancer BalancerPort Build Capacity
    Certificate ConsoleRack DiagnosticContainer DiagnosticEvent DiagnosticInitPod DiagnosticOverview DiagnosticPod
    DiagnosticServiceStatus DiagnosticSummary Dns01Solver Instance KeyPair LetsEncryptConfig Machine ManifestService
    ManifestServiceScale Metric MetricValue Object Process ProcessFormation RackData RackResponse Registry Release Resource
    ResourceParameter ResourceType Route53 Runtime Service ServiceAutoscaleState ServiceCostLine ServiceMetricsRow
    ServiceNlbPort ServicePort ServiceTriggersOptions ServiceVariantCostLine System SystemJwt TriggerSpec
    WorkflowCustomRunResp WorkflowListResp WorkflowResp
}

#[test]
fn every_structure_field_by_field() {
    let table = table();
    let ours: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
    let mut theirs: Vec<&str> = table.keys().map(String::as_str).collect();
    theirs.sort_unstable();
    let mut sorted = ours.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, theirs);
    for (name, check) in ALL {
        check(&table, name);
    }
}

#[test]
fn secrets_are_not_shown() {
    let release: models::Release = serde_json::from_value(json!({"env": "A=canary"})).unwrap();
    let resource: models::Resource =
        serde_json::from_value(json!({"url": "postgres://u:canary@h"})).unwrap();
    let registry: models::Registry = serde_json::from_value(json!({"password": "canary"})).unwrap();
    let token: models::SystemJwt = serde_json::from_value(json!({"token": "canary"})).unwrap();
    let key: models::KeyPair = serde_json::from_value(json!({"private-key": "canary"})).unwrap();
    let shown = format!("{release:?}{resource:?}{registry:?}{token:?}{key:?}");
    assert!(!shown.contains("canary"), "{shown}");
    assert_eq!(release.env.expose(), "A=canary");
}
