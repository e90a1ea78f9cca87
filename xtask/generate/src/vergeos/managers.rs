//! Managers and row handles: one type for each class, one method for each member, one method for each way further down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

use serde_json::Value;

use super::members::text;
use super::rows::Types;
use super::{Sources, ident, pascal};
use crate::Files;

/// What a parameter is given as.
struct Kind {
    /// The macro's word for it.
    word: String,
    /// The type of an argument.
    ty: String,
}

fn kind(p: &Value, class: &str, words: &mut Words) -> Kind {
    let name = text(p, "n");
    let base = text(p, "t").replace(" | None", "").replace("None | ", "");
    let kinds: Vec<&str> = base.split('|').map(str::trim).collect();
    let make = |word: &str, ty: &str| Kind {
        word: word.to_owned(),
        ty: ty.to_owned(),
    };
    if let Some(values) = p["one_of"].as_array()
        && values.iter().all(Value::is_string)
        && !kinds.contains(&"bool")
    {
        let values: Vec<String> = values
            .iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect();
        let rust = words.name(name, class, values);
        return Kind {
            word: format!("word({rust})"),
            ty: rust,
        };
    }
    // Rows that are meant by a parameter of another name; the SDK says `int` also of tables whose keys are texts.
    const ROWS: &[&str] = &[
        "task",
        "schedule",
        "volume",
        "auth_source",
        "oidc_application",
        "repository",
        "volume_vm_exports",
        "file",
        "branch",
        "source",
    ];
    let key = name == "key"
        || name.ends_with("_key")
        || name.ends_with("_id")
        || (ROWS.contains(&name) && kinds.contains(&"int"));
    match kinds.as_slice() {
        _ if name == "filter" => make("filter", "crate::Filter"),
        _ if name == "fields" => make("list", "impl Into<crate::List>"),
        ["bool"] => make("flag", "bool"),
        ["float"] => make("float", "f64"),
        ["int"] if !key => make("int", "i64"),
        k if k.iter().any(|k| k.starts_with("datetime")) => make("time", "impl Into<crate::Time>"),
        k if k.contains(&"timedelta") => make("span", "std::time::Duration"),
        k if k.iter().any(|k| k.starts_with("list[str")) => make("list", "impl Into<crate::List>"),
        k if k
            .iter()
            .any(|k| k.starts_with("list[int") || k.starts_with("Sequence")) =>
        {
            make("keys", "impl Into<crate::Keys>")
        }
        k if k
            .iter()
            .any(|k| k.starts_with("dict") || *k == "Any" || k.starts_with("list[")) =>
        {
            make("json", "impl Into<serde_json::Value>")
        }
        ["str"] if !key => make("text", "impl Into<String>"),
        ["str", "Path"] => make("text", "impl Into<String>"),
        _ => make("key", "impl Into<crate::Key>"),
    }
}

/// Enumerations of parameters: one for each set of values.
#[derive(Default)]
struct Words {
    by_values: BTreeMap<Vec<String>, String>,
    names: BTreeSet<String>,
}

impl Words {
    fn name(&mut self, parameter: &str, class: &str, values: Vec<String>) -> String {
        if let Some(name) = self.by_values.get(&values) {
            return name.clone();
        }
        let short = format!("{}Word", pascal(parameter));
        let name = match self.names.contains(&short) {
            false => short,
            true => format!(
                "{}{}Word",
                pascal(class.trim_end_matches("Manager")),
                pascal(parameter)
            ),
        };
        self.names.insert(name.clone());
        self.by_values.insert(values, name.clone());
        name
    }
    fn render(&self) -> String {
        let mut out =
            String::from("//! Words that parameters take.\n\nuse boxrig_wire::open_enum;\n\n");
        for (values, name) in &self.by_values {
            let _ = writeln!(
                out,
                "open_enum! {{\n    /// What a parameter may say.\n    pub enum {name} {{"
            );
            let mut seen = BTreeSet::new();
            for value in values {
                let mut variant = pascal(&value.replace(['-', '.', '_'], " "));
                if variant.is_empty() {
                    variant = "Empty".to_owned();
                }
                if variant.starts_with(|c: char| c.is_ascii_digit()) {
                    variant = format!("V{variant}");
                }
                while !seen.insert(variant.clone()) {
                    variant.push('_');
                }
                let _ = writeln!(
                    out,
                    "        /// `{value}`.\n        {variant} = {value:?},"
                );
            }
            out.push_str("    }\n}\n\n");
        }
        out
    }
}

/// What a member gives, as a Rust type.
fn output(member: &Value, types: &Types) -> String {
    let special = text(member, "special");
    match special {
        "download" => return "crate::client::Transferred".to_owned(),
        "file_content" | "cloudinit_content" | "licence_payload" => {
            return "bytes::Bytes".to_owned();
        }
        "tenant_client" => return "crate::Client".to_owned(),
        _ => {}
    }
    let returned = text(member, "returned");
    let ways = member["ways"].as_array().into_iter().flatten();
    let step = ways.clone().any(|w| w["returns"][1].is_u64());
    let inner = returned.trim_end_matches(" | None");
    let row = |class: &str| types.get(class).map(|t| format!("rows::{t}"));
    if let Some(class) = inner
        .strip_prefix("list[")
        .and_then(|r| r.strip_suffix(']'))
    {
        return format!(
            "Vec<{}>",
            row(class).unwrap_or_else(|| "serde_json::Value".to_owned())
        );
    }
    if let Some(rust) = row(inner) {
        let own = text(member, "kind") == "object-method" && !step && member["special"].is_null();
        return match (own, returned.ends_with("None")) {
            // The SDK gives the object back on which it was called.
            (true, _) => "()".to_owned(),
            (_, true) => format!("Option<{rust}>"),
            _ => rust,
        };
    }
    match inner {
        "None" => "()",
        "int" => "i64",
        "bool" => "bool",
        "str" => "String",
        _ => "serde_json::Value",
    }
    .to_owned()
}

/// A place in the tree of accessors.
#[derive(Default)]
struct Place {
    /// The class behind it.
    class: String,
    /// Ways further down: a property, or `[Row]`.
    children: BTreeMap<String, String>,
}

pub(super) fn generate(sources: &Sources, types: &Types, out: &mut Files) {
    let mut classes: BTreeMap<String, BTreeMap<String, &Value>> = BTreeMap::new();
    let mut canonical: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for m in &sources.members {
        let class = class_of(m);
        let members = classes.entry(class.clone()).or_default();
        // Of several shapes, the one that could be observed and knows more.
        let better = members
            .get(text(m, "member"))
            .is_none_or(|old| text(m, "accessor").len() > text(old, "accessor").len());
        if better {
            members.insert(text(m, "member").to_owned(), m);
        }
        let shapes = canonical.entry(class).or_default();
        if !shapes.iter().any(|s| s == text(m, "accessor")) {
            shapes.push(text(m, "accessor").to_owned());
        }
    }
    let places = places(sources);
    for place in places.values() {
        // A row without members of its own still leads further down.
        if !place.class.is_empty() && types.contains_key(&place.class) {
            classes.entry(place.class.clone()).or_default();
            canonical.entry(place.class.clone()).or_default();
        }
    }
    let mut words = Words::default();
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for (class, members) in &classes {
        let row = types.contains_key(class);
        let rust = type_name(class, row);
        let mut text_ = String::new();
        let shapes = &canonical[class];
        let _ = writeln!(
            text_,
            "/// {} of the vendor's SDK: {}.\n#[derive(Clone, Debug)]\npub struct {rust}(pub(crate) Node);\n\nimpl {rust} {{",
            class,
            shapes
                .iter()
                .map(|s| format!("`{s}`"))
                .collect::<Vec<_>>()
                .join(", ")
        );
        let mut calls = String::new();
        for (name, m) in members {
            member(
                class, &rust, name, m, types, &mut words, &mut text_, &mut calls,
            );
        }
        let down = Down {
            places: &places,
            types,
            canonical: &canonical,
        };
        down.ways(class, members, &mut text_);
        text_.push_str("}\n\n");
        let family = family(class);
        let file = files.entry(family).or_default();
        file.push_str(&text_);
        file.push_str(&calls);
    }
    let mut root = String::from("//! Managers and row handles, by what they are about.\n\n");
    for (family, body) in &files {
        let _ = writeln!(root, "mod {family};\npub use {family}::*;");
        out.insert(
            PathBuf::from(format!("generated/managers/{family}.rs")),
            format!(
                "#![allow(clippy::wrong_self_convention, clippy::should_implement_trait, unused_imports)]\n\nuse crate::generated::{{managers, rows, words}};\nuse crate::generated::words::*;\nuse crate::member::{{Call, Iter, Node, calls}};\n\n{body}"
            ),
        );
    }
    root.push_str("\nuse crate::member::Node;\n\nimpl crate::Client {\n");
    let top = &places["client"];
    for (name, child) in &top.children {
        let class = &places[child].class;
        let rust = type_name(class, false);
        let _ = writeln!(
            root,
            "    /// `client.{name}`: {class}.\n    pub fn {}(&self) -> {rust} {{\n        {rust}(Node::top(self, {child:?}))\n    }}",
            ident(name)
        );
    }
    root.push_str("}\n");
    out.insert(PathBuf::from("generated/managers/mod.rs"), root);
    out.insert(PathBuf::from("generated/words.rs"), words.render());
    out.insert(
        PathBuf::from("generated/mod.rs"),
        "//! What the generator writes: row types, managers, words.\n\npub mod managers;\npub mod rows;\npub mod words;\n".to_owned(),
    );
}

/// Two classes of one name are told apart by the place they are at.
fn class_of(m: &Value) -> String {
    match (text(m, "class"), text(m, "accessor")) {
        ("SystemDiagnosticManager", a) if a.contains("client.system.") => {
            "SystemDiagnosticsManager".to_owned()
        }
        (class, _) => class.to_owned(),
    }
}

fn type_name(class: &str, row: bool) -> String {
    match row {
        true => format!("{}At", pascal(class)),
        false => pascal(class),
    }
}

/// A file for each first letter, as evenly as names allow.
fn family(class: &str) -> String {
    let c = pascal(class)
        .chars()
        .next()
        .unwrap_or('a')
        .to_ascii_lowercase();
    format!("{c}_")
}

#[allow(clippy::too_many_arguments)]
fn member(
    class: &str,
    rust: &str,
    name: &str,
    m: &Value,
    types: &Types,
    words: &mut Words,
    out: &mut String,
    calls: &mut String,
) {
    if text(m, "returned").ends_with("Manager") {
        return;
    }
    let mut required = Vec::new();
    let mut optional = Vec::new();
    let mut spread = false;
    for p in m["params"].as_array().into_iter().flatten() {
        match text(p, "t") {
            "**" => spread = true,
            t if t.starts_with("Callable") => {}
            _ if p["req"] == true => required.push((text(p, "n"), kind(p, class, words))),
            _ => optional.push((text(p, "n"), kind(p, class, words))),
        }
    }
    if text(m, "member") == "action" {
        spread = true;
    }
    let output = output(m, types);
    let args: String = required
        .iter()
        .map(|(n, k)| format!(", {}: {}", ident(n), k.ty))
        .collect();
    let sets: String = required
        .iter()
        .map(|(n, k)| {
            let word = k.word.split('(').next().unwrap_or("");
            format!(".{word}({n:?}, {})", ident(n))
        })
        .collect();
    let mut requests = BTreeSet::new();
    for way in m["ways"].as_array().into_iter().flatten() {
        for step in way["steps"].as_array().into_iter().flatten() {
            let path = step["e"]["p.0"][1].as_str().unwrap_or("…");
            requests.insert(format!("`{} {path}`", text(step, "m")));
        }
    }
    let requests: Vec<_> = requests.into_iter().collect();
    let doc = match (text(m, "special"), requests.is_empty()) {
        ("", true) => "known without a request".to_owned(),
        (special, true) => special.replace('_', " "),
        _ => requests.join(", "),
    };
    let _ = writeln!(out, "    /// `{class}.{name}`: {doc}.");
    let f = ident(name);
    if name == "iter_all" {
        let row = output_row(m, types);
        let _ = writeln!(
            out,
            "    pub fn {f}(&self) -> Iter<{row}> {{ Iter::new(self.0.clone()) }}"
        );
    } else if optional.is_empty() && !spread {
        let _ = writeln!(
            out,
            "    pub fn {f}(&self{args}) -> Call<{output}> {{ self.0.call({name:?}){sets} }}"
        );
    } else {
        let call = format!("{rust}{}", pascal(name));
        let _ = writeln!(
            out,
            "    pub fn {f}(&self{args}) -> {call} {{ {call}(self.0.call({name:?}){sets}) }}"
        );
        let mut setters = String::new();
        for (n, k) in &optional {
            let _ = write!(setters, "{} {}; ", ident(n), k.word);
        }
        let set = if spread { "+ set" } else { "" };
        let _ = writeln!(
            calls,
            "calls! {{ /// Settings of [`{rust}::{name}`].\n {call} -> {output} {{ {setters} }} {set} }}"
        );
    }
}

fn output_row(m: &Value, types: &Types) -> String {
    match types.get(text(m, "model")) {
        Some(t) => format!("rows::{t}"),
        None => "serde_json::Value".to_owned(),
    }
}

/// Every place that an accessor path passes, with the class behind it.
fn places(sources: &Sources) -> BTreeMap<String, Place> {
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for r in &sources.resources {
        for path in r["accessor"]
            .split(" | ")
            .filter(|a| a.starts_with("client"))
        {
            let mut at = "client".to_owned();
            places.entry(at.clone()).or_default();
            let mut parts = Vec::new();
            let mut rest = &path["client".len()..];
            while !rest.is_empty() {
                if let Some(r) = rest.strip_prefix('[') {
                    let end = r.find(']').unwrap_or(r.len());
                    parts.push(format!("[{}]", &r[..end]));
                    rest = r.get(end + 1..).unwrap_or("");
                } else {
                    let r = rest.trim_start_matches('.');
                    let end = r.find(['.', '[']).unwrap_or(r.len());
                    parts.push(r[..end].to_owned());
                    rest = &r[end..];
                }
            }
            if parts.iter().any(|p| p.contains('(')) && r["accessor"].contains('[') {
                continue;
            }
            for part in parts {
                let next = match part.starts_with('[') {
                    true => format!("{at}{part}"),
                    false => format!("{at}.{part}"),
                };
                let place = places.entry(at.clone()).or_default();
                place.children.insert(part.clone(), next.clone());
                places.entry(next.clone()).or_default();
                at = next;
            }
            let class = match (r["class"].as_str(), at.contains("client.system.")) {
                ("SystemDiagnosticManager", true) => "SystemDiagnosticsManager",
                (class, _) => class,
            };
            if let Some(place) = places.get_mut(&at) {
                place.class = class.to_owned();
            }
        }
    }
    // A row on the way to something has a class even when it has no members of its own.
    let names: Vec<String> = places.keys().cloned().collect();
    for name in names {
        if places[&name].class.is_empty()
            && let Some(row) = name.strip_suffix(']').and_then(|n| n.rsplit('[').next())
        {
            let row = row.to_owned();
            if let Some(p) = places.get_mut(&name) {
                p.class = row;
            }
        }
    }
    places
}

/// What leads from a class to what is below it.
struct Down<'a> {
    places: &'a BTreeMap<String, Place>,
    types: &'a Types,
    canonical: &'a BTreeMap<String, Vec<String>>,
}

impl Down<'_> {
    /// The place in the table of members where a class is looked up that is reached at `path`.
    fn place(&self, class: &str, path: &str) -> String {
        let shapes = self.canonical.get(class);
        let shapes = shapes.map(Vec::as_slice).unwrap_or_default();
        let exact = shapes.iter().find(|s| *s == path);
        let scoped = shapes.iter().find(|s| s.contains('['));
        let found = exact
            .or(scoped.filter(|_| path.contains('[')))
            .or(shapes.first());
        found.map_or_else(|| path.to_owned(), Clone::clone)
    }

    fn ways(&self, class: &str, members: &BTreeMap<String, &Value>, out: &mut String) {
        let mut done = BTreeSet::new();
        for place in self.places.values().filter(|p| p.class == class) {
            for (part, child) in &place.children {
                let target = &self.places[child];
                let name = part.split('(').next().unwrap_or(part);
                if target.class.is_empty() || name != part || !done.insert(name.to_owned()) {
                    continue;
                }
                let at = self.place(&target.class, child);
                if let Some(model) = part.strip_prefix('[').and_then(|p| p.strip_suffix(']')) {
                    let rust = type_name(model, true);
                    let _ = writeln!(
                        out,
                        "    /// The row of this key, with what belongs to it. Nothing is asked before it is needed.\n    pub fn at(&self, key: impl Into<crate::Key>) -> managers::{rust} {{ managers::{rust}(self.0.row({at:?}, {model:?}, key.into(), None)) }}"
                    );
                    if let Some(t) = self.types.get(model) {
                        let _ = writeln!(
                            out,
                            "    /// The row in hand, with what belongs to it.\n    pub fn of(&self, row: &rows::{t}) -> managers::{rust} {{ managers::{rust}(self.0.row({at:?}, {model:?}, row.into(), Some(crate::RowType::record(row)))) }}"
                        );
                    }
                    continue;
                }
                let rust = type_name(&target.class, self.types.contains_key(&target.class));
                let _ = writeln!(
                    out,
                    "    /// {}.\n    pub fn {}(&self) -> managers::{rust} {{ managers::{rust}(self.0.child({at:?})) }}",
                    target.class,
                    ident(name)
                );
            }
        }
        // `tasks.triggers(key)` is `tasks.at(key).triggers()`.
        for (name, m) in members {
            if !text(m, "returned").ends_with("Manager") || done.contains(name) {
                continue;
            }
            let model = text(m, "model");
            let returned = match (text(m, "returned"), text(m, "accessor")) {
                ("SystemDiagnosticManager", "client.system") => "SystemDiagnosticsManager",
                (class, _) => class,
            };
            let rust = type_name(returned, false);
            let at = self.place(
                returned,
                &format!("{}[{model}].{name}", text(m, "accessor")),
            );
            let keyed = m["params"].as_array().is_some_and(|p| !p.is_empty());
            let (args, node) = match keyed {
                true => (
                    ", key: impl Into<crate::Key>",
                    format!("self.0.row({at:?}, {model:?}, key.into(), None)"),
                ),
                false => ("", format!("self.0.child({at:?})")),
            };
            let _ = writeln!(
                out,
                "    /// `{class}.{name}`: {returned}.\n    pub fn {}(&self{args}) -> managers::{rust} {{ managers::{rust}({node}) }}",
                ident(name)
            );
        }
    }
}
