//! Definitions → structs.

use std::collections::BTreeMap;
use std::error::Error;

use serde_json::Value;

use crate::Files;
use crate::names::{camel, docs, snake};
use crate::overlay::Overlay;

/// Definitions that are written by hand in `src/model.rs`.
const BY_HAND: &[&str] = &["ConfigMap", "DevicesMap", "StatusCode"];

/// Writes `models/*.rs`, a file a family.
pub(crate) fn generate(
    api: &Value,
    overlay: &Overlay,
    files: &mut Files,
) -> Result<(), Box<dyn Error>> {
    let definitions = api["definitions"].as_object().ok_or("no definitions")?;
    let mut families: BTreeMap<&str, String> = BTreeMap::new();
    for (name, schema) in definitions {
        if BY_HAND.contains(&name.as_str()) {
            continue;
        }
        families
            .entry(family(name))
            .or_default()
            .push_str(&definition(name, schema, overlay)?);
    }
    let mut index = String::from("//! The data of the API, as the description has it.\n\n");
    for name in families.keys() {
        index.push_str(&format!("mod {name};\n"));
    }
    for name in families.keys() {
        index.push_str(&format!("pub use {name}::*;\n"));
    }
    index.push_str("\n/// Members that need an API extension, as their descriptions say: model, member, extension. A daemon without it\n/// drops the member without a word.\npub const EXTENSIONS: &[(&str, &str, &str)] = &[\n");
    for (name, schema) in definitions {
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            if let Some(found) = crate::ops::extension(schema) {
                let found = overlay.extension(found);
                index.push_str(&format!(
                    "    (\"{}\", \"{field}\", \"{found}\"),\n",
                    camel(name)
                ));
            }
        }
    }
    index.push_str("];\n");
    files.insert("models/mod.rs".into(), index);
    for (name, body) in families {
        let mut text = format!("//! Models of {}.\n\n", name.replace('_', " "));
        let mut uses = String::new();
        for (word, line) in [
            ("BTreeMap", "use std::collections::BTreeMap;\n"),
            ("Serialize", "use serde::{Deserialize, Serialize};\n"),
            ("Value", "use serde_json::Value;\n"),
            ("Map<", "use serde_json::Map;\n"),
            ("\"nullable\"", "use boxrig_wire::nullable;\n"),
            ("nullable_values", "use crate::model::nullable_values;\n"),
            ("unset", "use crate::model::unset;\n"),
            ("ConfigMap", "use crate::model::ConfigMap;\n"),
            ("DevicesMap", "use crate::model::DevicesMap;\n"),
            ("StatusCode", "use crate::model::StatusCode;\n"),
            ("Timestamp", "use boxrig_wire::Timestamp;\n"),
        ] {
            let found = match word {
                "Map<" => body.contains(": Map<"),
                "Value" => body.contains("Value>") || body.contains(": Value"),
                word => body.contains(word),
            };
            if found {
                uses.push_str(line);
            }
        }
        text.push_str(&uses);
        text.push_str("#[allow(unused_imports)]\nuse super::*;\n\n");
        text.push_str(&body);
        files.insert(format!("models/{name}.rs").into(), text);
    }
    Ok(())
}

/// Which file a definition goes to.
fn family(name: &str) -> &'static str {
    const FAMILIES: &[(&str, &str)] = &[
        ("Instance", "instances"),
        ("NetworkACL", "network_acls"),
        ("NetworkZone", "network_zones"),
        ("Network", "networks"),
        ("InitNetworks", "networks"),
        ("StorageVolume", "storage_volumes"),
        ("StorageBucket", "storage_buckets"),
        ("Storage", "storage_pools"),
        ("Image", "images"),
        ("Cluster", "cluster"),
        ("Project", "projects"),
        ("Profile", "profiles"),
        ("Resources", "resources"),
        ("Certificate", "certificates"),
        ("Server", "server"),
        ("Warning", "server"),
        ("Event", "operations"),
        ("Operation", "operations"),
    ];
    FAMILIES
        .iter()
        .find(|(prefix, _)| name.starts_with(prefix))
        .map_or("common", |(_, f)| f)
}

fn definition(name: &str, schema: &Value, overlay: &Overlay) -> Result<String, Box<dyn Error>> {
    let title = schema["title"]
        .as_str()
        .or(schema["description"].as_str())
        .unwrap_or(name);
    let doc = docs(title, "");
    if let Some(alias) = alias(schema)? {
        return Ok(format!("{doc}pub type {} = {alias};\n\n", camel(name)));
    }
    let mut out = format!(
        "{doc}#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]\n#[serde(default)]\n#[non_exhaustive]\npub struct {} {{\n",
        camel(name)
    );
    for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
        let text = schema["description"].as_str().or(schema["title"].as_str());
        let text = text.map_or_else(|| format!("The `{field}` member."), str::to_owned);
        out.push_str(&docs(&text, "    "));
        let ty = match overlay.fields.get(name).and_then(|f| f.get(field)) {
            Some(ty) => ty.clone(),
            None => type_of(schema, "")?,
        };
        let rust = snake(field);
        let bare = rust.trim_start_matches("r#");
        // Go writes an empty list within a map as `null` too.
        let reader = match ty.starts_with("BTreeMap<String, Vec<") {
            true => "nullable_values",
            false => "nullable",
        };
        let mut attrs = vec![format!("deserialize_with = \"{reader}\"")];
        // In a request an empty member says the same as a missing one, but for those that the server tells apart: an empty
        // `target` would be one.
        if is_request(name) {
            attrs.push("skip_serializing_if = \"unset\"".to_owned());
        }
        if bare != field {
            attrs.insert(0, format!("rename = \"{field}\""));
        }
        out.push_str(&format!(
            "    #[serde({})]\n    pub {rust}: {ty},\n",
            attrs.join(", ")
        ));
    }
    out.push_str(
        "    /// Members that this version does not know.\n    #[serde(flatten)]\n    pub extra: Map<String, Value>,\n}\n\n",
    );
    Ok(out)
}

/// Whether a definition is only ever sent.
fn is_request(name: &str) -> bool {
    ["Post", "Put", "Target", "Source"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The type of a definition that is not a struct.
fn alias(schema: &Value) -> Result<Option<String>, Box<dyn Error>> {
    if schema.get("properties").is_some() {
        return Ok(None);
    }
    match schema["type"].as_str() {
        Some("object") if schema.get("additionalProperties").is_none() => Ok(None),
        _ => type_of(schema, "").map(Some),
    }
}

/// The Rust type of a schema; `models` is the path to the models from where it stands.
pub(crate) fn type_of(schema: &Value, models: &str) -> Result<String, Box<dyn Error>> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name
            .strip_prefix("#/definitions/")
            .ok_or_else(|| format!("reference {name}"))?;
        return Ok(match BY_HAND.contains(&name) {
            true => camel(name),
            false => format!("{models}{}", camel(name)),
        });
    }
    Ok(match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("string"), Some("date-time")) => "Timestamp".into(),
        (Some("string"), _) => "String".into(),
        (Some("boolean"), _) => "bool".into(),
        (Some("integer"), Some("uint64")) => "u64".into(),
        (Some("integer"), Some("uint32")) => "u32".into(),
        (Some("integer"), Some("uint16")) => "u16".into(),
        (Some("integer"), _) => "i64".into(),
        (Some("number"), _) => "f64".into(),
        (Some("array"), _) => format!("Vec<{}>", type_of(&schema["items"], models)?),
        (Some("object"), _) if schema["additionalProperties"].is_object() => {
            format!(
                "BTreeMap<String, {}>",
                type_of(&schema["additionalProperties"], models)?
            )
        }
        (Some("object") | None, _) => "Value".into(),
        (other, _) => return Err(format!("unknown type {other:?}").into()),
    })
}
