//! Row types: a column table and a getter for each field.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use super::members::projection;
use super::{Sources, ident, pascal};
use crate::Files;

/// Classes that have a row type, by the SDK's name.
pub(super) type Types = BTreeMap<String, String>;

/// Splits at commas outside of brackets.
fn entries(text: &str) -> Vec<&str> {
    let (mut out, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (i, c) in text.char_indices() {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                out.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(text[start..].trim());
    out.retain(|e| !e.is_empty());
    out
}

/// Under which name an entry's value lands.
fn lands(entry: &str) -> &str {
    entry.rsplit_once(" as ").map_or(entry, |(_, a)| a).trim()
}

fn kind(python: &str) -> &'static str {
    let base = python.trim_end_matches('~').trim();
    let base = base.split('|').next().unwrap_or("").trim();
    match base {
        "int" | "datetime" | "timedelta" => "int",
        "float" => "float",
        "bool" => "flag",
        "str" | "string" => "text",
        b if b.starts_with("list[str") => "list",
        _ => "json",
    }
}

pub(super) fn generate(sources: &Sources, out: &mut Files) -> Types {
    let mut classes: BTreeMap<&str, Vec<&BTreeMap<String, String>>> = BTreeMap::new();
    for field in &sources.fields {
        classes.entry(&field["resource"]).or_default().push(field);
    }
    let mut types = Types::new();
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    for (class, fields) in &classes {
        let rust = pascal(class);
        types.insert((*class).to_owned(), rust.clone());
        let table = fields
            .iter()
            .map(|f| f["table"].split(',').next().unwrap_or(""))
            .find(|t| !t.is_empty())
            .unwrap_or("");
        let mut columns: BTreeMap<String, String> = BTreeMap::new();
        for entry in entries(projection(sources, class).unwrap_or("$key")) {
            columns.insert(lands(entry).to_owned(), entry.to_owned());
        }
        columns
            .entry("$key".to_owned())
            .or_insert_with(|| "$key".to_owned());
        let mut getters = BTreeMap::new();
        for f in fields {
            let name = &f["property"];
            let from = entries(&f["wire"]).first().map(|e| lands(e).to_owned());
            let computed = matches!(
                f["kind"].as_str(),
                "computed" | "accessor" | "none" | "attribute"
            );
            let Some(from) = from.filter(|_| !computed) else {
                continue;
            };
            // `key` is the trait's; what is no name cannot be a method.
            if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || name == "key" {
                continue;
            }
            columns.entry(from.clone()).or_default();
            getters.insert(name.clone(), (kind(&f["type"]), from, f["kind"].clone()));
        }
        let mut text = String::new();
        let _ = writeln!(
            text,
            "    /// A row of `{table}`: `{class}` of the vendor's SDK.\n    {rust} {class:?} {table:?} ["
        );
        for (name, entry) in &columns {
            let _ = write!(text, "{name:?} {entry:?} ");
        }
        text.push_str("] {\n");
        for (name, (kind, from, of)) in &getters {
            let what = match (name == from, of.starts_with("server-computed")) {
                (true, _) => format!("The column `{from}`."),
                (false, true) => format!("Computed by the server, as `{from}`."),
                (false, false) => format!("The column `{from}`, by the SDK's name."),
            };
            let _ = writeln!(
                text,
                "        /// {what}\n        {} {kind} {from:?};",
                ident(&name.to_ascii_lowercase())
            );
        }
        text.push_str("    }\n");
        let family = match rust.chars().next().unwrap_or('a') {
            'A'..='C' => "a_c",
            'D'..='M' => "d_m",
            'N'..='R' => "n_r",
            'S' => "s",
            _ => "t_z",
        };
        files.entry(family).or_default().push_str(&text);
    }
    let mut root = String::from("//! Row types, by the first letter of their names.\n\n");
    for (family, text) in files {
        let _ = writeln!(root, "mod {family};\npub use {family}::*;");
        out.insert(
            PathBuf::from(format!("generated/rows/{family}.rs")),
            format!("crate::row_types! {{\n{text}}}\n"),
        );
    }
    let _ = writeln!(
        root,
        "\n/// Class, table and default projection of each row type.\npub(crate) fn projection_of(class: &str) -> Option<(&'static str, String)> {{\n    use crate::RowType as _;\n    Some(match class {{"
    );
    for (class, rust) in &types {
        let _ = writeln!(
            root,
            "        {class:?} => ({rust}::TABLE, {rust}::projection()),"
        );
    }
    let _ = writeln!(root, "        _ => return None,\n    }})\n}}");
    out.insert(PathBuf::from("generated/rows/mod.rs"), root);
    types
}
