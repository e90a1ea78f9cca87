//! The VergeOS client: row types, managers and members, and the table of members that the client carries out.
//!
//! Sources: `vergeos-fields.tsv` (fields of rows), `vergeos-computed.tsv` (what the SDK computes from them), `vergeos-calls.jsonl` (the requests of each member, observed by
//! `ci/vergeos/observe.py`), `vergeos-resources.tsv` (the accessor paths), `vergeos-overlay.yaml` (corrections).

mod managers;
mod members;
mod rows;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

use serde_json::Value;

use crate::Files;

/// Everything that is read.
pub(super) struct Sources {
    /// Requests' projections, by number.
    pub(super) projections: Vec<String>,
    /// Members as observed, corrected.
    pub(super) members: Vec<Value>,
    /// Lines of the fields' table.
    pub(super) fields: Vec<BTreeMap<String, String>>,
    /// Lines of the table of what is computed.
    pub(super) computed: Vec<BTreeMap<String, String>>,
    /// Lines of the resources' table.
    pub(super) resources: Vec<BTreeMap<String, String>>,
}

/// A table with a head line.
fn table(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap_or("").split('\t').collect();
    lines
        .map(|line| {
            head.iter()
                .map(|h| (*h).to_owned())
                .zip(line.split('\t').map(str::to_owned))
                .collect()
        })
        .collect()
}

pub(crate) fn generate(
    calls: &str,
    fields: &str,
    computed: &str,
    resources: &str,
    overlay: &Value,
    out: &mut Files,
) -> Result<(), Box<dyn Error>> {
    let mut lines = calls.lines();
    let head: Value = serde_json::from_str(lines.next().ok_or("vergeos-calls.jsonl is empty")?)?;
    let projections = head["projections"].as_array().into_iter().flatten();
    let mut sources = Sources {
        projections: projections
            .filter_map(|p| p.as_str().map(str::to_owned))
            .collect(),
        members: lines
            .map(serde_json::from_str)
            .collect::<Result<_, serde_json::Error>>()?,
        fields: table(fields),
        computed: table(computed),
        resources: table(resources),
    };
    members::correct(&mut sources, overlay)?;
    let types = rows::generate(&sources, out);
    managers::generate(&sources, &types, out);
    out.insert(
        PathBuf::from("../data/members.jsonl"),
        members::data(&sources),
    );
    Ok(())
}

/// `BGPRouteMap` → `BgpRouteMap`: words of capitals become words.
pub(super) fn pascal(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    let mut start = true;
    for (i, c) in chars.iter().enumerate() {
        if !c.is_ascii_alphanumeric() {
            start = true;
            continue;
        }
        let before_upper = i > 0 && chars[i - 1].is_ascii_uppercase();
        let next_lower = chars.get(i + 1).is_some_and(char::is_ascii_lowercase);
        // A capital after a capital is inside a word, unless it begins the next one; the plural's s does not.
        let inside = before_upper && !(next_lower && chars.get(i + 1) != Some(&'s'));
        if start || (c.is_ascii_uppercase() && !inside) {
            out.extend(c.to_uppercase());
        } else {
            out.push(c.to_ascii_lowercase());
        }
        start = false;
    }
    out
}

/// A name that Rust takes.
pub(super) fn ident(name: &str) -> String {
    match name {
        "type" | "move" | "match" | "use" | "ref" | "where" | "in" | "mod" | "static" | "final"
        | "enum" | "trait" | "as" | "box" | "async" | "await" | "loop" | "for" | "if" | "impl"
        | "let" | "override" | "priv" | "try" | "virtual" | "abstract" | "macro" => {
            format!("r#{name}")
        }
        "self" | "super" | "crate" => format!("{name}_"),
        _ => name.to_owned(),
    }
}
