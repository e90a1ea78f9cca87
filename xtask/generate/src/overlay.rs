//! Corrections of the API description, each with its reason.

use std::collections::BTreeMap;
use std::error::Error;

use serde_json::Value;

/// `api/incus-overlay.yaml`.
#[derive(Default)]
pub(crate) struct Overlay {
    /// Definition → field → Rust type.
    pub(crate) fields: BTreeMap<String, BTreeMap<String, String>>,
    /// Operation id → member (`body`, `reply`, `idempotency`, …) → value.
    pub(crate) ops: BTreeMap<String, BTreeMap<String, String>>,
    /// Extension as the description names it → its real name.
    pub(crate) extensions: BTreeMap<String, BTreeMap<String, String>>,
}

impl Overlay {
    pub(crate) fn read(text: &str) -> Result<Self, Box<dyn Error>> {
        let value: Value = serde_saphyr::from_str(text)?;
        Ok(Self {
            fields: section(&value, "fields")?,
            ops: section(&value, "operations")?,
            extensions: section(&value, "extensions")?,
        })
    }

    /// An extension by its real name.
    pub(crate) fn extension(&self, named: String) -> String {
        match self.extensions.get(&named).and_then(|e| e.get("name")) {
            Some(name) => name.clone(),
            None => named,
        }
    }

    /// A correction of an operation.
    pub(crate) fn op(&self, id: &str, member: &str) -> Option<&str> {
        self.ops.get(id)?.get(member).map(String::as_str)
    }
}

type Section = BTreeMap<String, BTreeMap<String, String>>;

fn section(value: &Value, name: &str) -> Result<Section, Box<dyn Error>> {
    let mut out = Section::new();
    for (key, entry) in value
        .get(name)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let mut members = BTreeMap::new();
        for (k, v) in entry
            .as_object()
            .ok_or_else(|| format!("{name}.{key}: not a map"))?
        {
            let v = v
                .as_str()
                .ok_or_else(|| format!("{name}.{key}.{k}: not a text"))?;
            members.insert(k.clone(), v.to_owned());
        }
        if members.remove("reason").is_none_or(|r| r.is_empty()) {
            return Err(format!("{name}.{key}: a correction needs a reason").into());
        }
        out.insert(key.clone(), members);
    }
    Ok(out)
}
