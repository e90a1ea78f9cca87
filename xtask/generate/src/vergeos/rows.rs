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

fn kind(python: &str, notes: &str) -> &'static str {
    if notes.starts_with("key half of") {
        return "key";
    }
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

/// What a function of `crates/vergeos/src/computed.rs` gives.
fn computed_type(how: &str) -> &'static str {
    match how {
        "time" | "time_us" => "Option<::std::time::SystemTime>",
        "span" => "Option<::std::time::Duration>",
        "scaled" | "hundredths" | "first_scaled" | "percent" | "ratio" | "savings"
        | "left_scaled" | "sum_scaled" => "Option<f64>",
        "left" | "sum" | "count" | "member" | "key_in" | "number" | "days_until" | "prefix"
        | "addresses" => "Option<i64>",
        "label" | "label_either" | "kind_of" | "label_of_kind" | "either" | "before" | "after" => {
            "Option<&str>"
        }
        "inside" | "title" | "upper" | "text_of_key" | "tier_name" | "text_of_size"
        | "text_of_file_size" | "text_of_rate" | "text_of_speed" | "text_of_time"
        | "text_of_mtu" => "Option<String>",
        "words" | "list_of" | "named" => "Option<Vec<String>>",
        "document" | "pick" | "when_list" => "Option<::serde_json::Value>",
        "headers" => "Option<::std::collections::BTreeMap<String, String>>",
        _ => "Option<bool>",
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
            getters.insert(
                name.clone(),
                (kind(&f["type"], &f["notes"]), from, f["kind"].clone()),
            );
        }
        let mut computed = BTreeMap::new();
        for f in sources.computed.iter().filter(|f| f["resource"] == **class) {
            let from: Vec<&str> = f["from"].split(' ').collect();
            for column in &from {
                columns.entry((*column).to_owned()).or_default();
            }
            // Of one name, the SDK's is the computed one.
            getters.remove(&f["property"]);
            computed.insert(
                f["property"].clone(),
                (f["how"].clone(), from, f["with"].clone()),
            );
        }
        // Columns that the SDK leaves to item access, where something is computed from a word in them.
        for (how, from, _) in computed.values() {
            let words = ["is", "is_not", "any", "label", "title"].contains(&how.as_str());
            for column in from.iter().filter(|_| words) {
                let plain = column.chars().all(|c| c.is_ascii_lowercase() || c == '_');
                if plain && !computed.contains_key(*column) {
                    let column = (*column).to_owned();
                    let getter = ("text", column.clone(), "raw".to_owned());
                    getters.entry(column).or_insert(getter);
                }
            }
        }
        if columns.contains_key("name") {
            let getter = ("text", "name".to_owned(), "raw".to_owned());
            getters.entry("name".to_owned()).or_insert(getter);
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
        text.push_str("    } {\n");
        for (name, (how, from, with)) in computed {
            let told: Vec<String> = from.iter().map(|c| format!("`{c}`")).collect();
            let from: Vec<String> = from.iter().map(|c| format!("{c:?}")).collect();
            let _ = writeln!(
                text,
                "        /// Computed from {}.\n        {} => {} = {how} [ {} ] {with:?};",
                told.join(", "),
                ident(&name.to_ascii_lowercase()),
                computed_type(&how),
                from.join(" "),
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
        "\n/// What is computed from a row of a class, by the SDK's names.\npub fn computed_of(class: &str, row: crate::Row) -> Option<crate::Row> {{\n    use crate::RowType as _;\n    Some(match class {{"
    );
    for (class, rust) in &types {
        let _ = writeln!(
            root,
            "        {class:?} => {rust}::from_map(row).computed(),"
        );
    }
    let _ = writeln!(
        root,
        "        _ => return None,\n    }})\n}}\n\n/// Class, table and default projection of each row type.\npub(crate) fn projection_of(class: &str) -> Option<(&'static str, String)> {{\n    use crate::RowType as _;\n    Some(match class {{"
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
