//! `api/convox-structs.yaml` and `api/convox-routes.tsv` → the Convox crate's models and operations.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use serde_json::Value;

use crate::Files;
use crate::names::{camel, docs, snake};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Writes `models.rs` and `ops/*.rs`.
pub(crate) fn generate(
    structs: &Value,
    routes: &str,
    overlay: &Value,
    files: &mut Files,
) -> Result<()> {
    let structs = structs.as_object().ok_or("no structures")?;
    let known: BTreeSet<&str> = structs.keys().map(String::as_str).collect();
    files.insert("models/mod.rs".into(), models(structs, overlay)?);
    let mut groups: BTreeMap<String, Vec<Route<'_>>> = BTreeMap::new();
    for line in routes.lines().skip(1).filter(|l| !l.is_empty()) {
        let route = Route::read(line)?;
        groups
            .entry(route.group.replace('-', "_"))
            .or_default()
            .push(route);
    }
    let mut index = String::from(
        "//! The operations of racks and of the console, each described once.\n\nuse boxrig_wire::{Catalog, Endpoint};\n\n",
    );
    for group in groups.keys() {
        index.push_str(&format!("pub mod {group};\n"));
    }
    for (name, doc, wanted) in [
        ("CATALOG", "The routes of a rack.", 0),
        ("CONSOLE", "The routes that only a console has.", 1),
        (
            "CLASSIC",
            "The shapes of generation 1, which old tools still ask for.",
            2,
        ),
    ] {
        index.push_str(&format!("\n/// {doc}\npub const {name}: Catalog = &[\n"));
        for (group, routes) in &groups {
            let class = match group.as_str() {
                "console" => 1,
                "v2_classic" => 2,
                _ => 0,
            };
            for route in routes
                .iter()
                .filter(|r| class == wanted && r.is_described())
            {
                index.push_str(&format!("    {group}::{}::META,\n", route.name()));
            }
        }
        index.push_str("];\n");
    }
    files.insert("ops/mod.rs".into(), index);
    for (group, routes) in &groups {
        let mut body = String::new();
        for route in routes.iter().filter(|r| r.is_described()) {
            body.push_str(&route.describe(&known, overlay)?);
        }
        let mut text = format!(
            "//! Operations of {}.\n\nuse boxrig_wire::endpoint;\n",
            group.replace('_', " ")
        );
        if body.contains("params! {") {
            text.push_str("use boxrig_wire::params;\n");
        }
        for (path, words) in [
            (
                "boxrig_wire",
                &[
                    "ByteBody",
                    "ByteReply",
                    "Form<",
                    "Json<",
                    "Secret",
                    "Socket,",
                ][..],
            ),
            ("crate::values", &["Csv", "FieldMap", "Pairs"][..]),
            ("crate::reply", &["Done", "Reply<", "Text,"][..]),
            ("std::collections", &["BTreeMap"][..]),
            ("serde_json", &["Value"][..]),
        ] {
            let used: Vec<&str> = words
                .iter()
                .filter(|w| body.contains(&format!(" {w}")) || body.contains(&format!("<{w}")))
                .map(|w| w.trim_end_matches(['<', ',']))
                .collect();
            if !used.is_empty() {
                text.push_str(&format!("use {path}::{{{}}};\n", used.join(", ")));
            }
        }
        if body.contains("models::") {
            text.push_str("use crate::models;\n");
        }
        text.push_str("use crate::Convox;\n\n");
        text.push_str(&body);
        files.insert(format!("ops/{group}.rs").into(), text);
    }
    Ok(())
}

fn models(structs: &serde_json::Map<String, Value>, overlay: &Value) -> Result<String> {
    let mut body = String::new();
    for (name, fields) in structs {
        let doc = overlay["structs"][name].as_str().map_or_else(
            || format!("The `{name}` structure of a rack."),
            str::to_owned,
        );
        body.push_str(&docs(&doc, ""));
        body.push_str(&format!(
            "#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]\n#[serde(default)]\n#[non_exhaustive]\npub struct {} {{\n",
            camel(name)
        ));
        for (field, ty) in fields
            .as_object()
            .ok_or_else(|| format!("{name}: not a structure"))?
        {
            let text = ty
                .as_str()
                .ok_or_else(|| format!("{name}.{field}: not a type"))?;
            let (text, opt) = text
                .strip_suffix(" opt")
                .map_or((text, false), |t| (t, true));
            let mut ty = type_of(text, "")?;
            if is_secret(overlay, name, field) {
                ty = ty.replace("String", "Secret");
            }
            let rust = snake(field);
            let mut attrs = Vec::new();
            if rust.trim_start_matches("r#") != field {
                attrs.push(format!("rename = \"{field}\""));
            }
            if !ty.starts_with("Option<") {
                attrs.push("deserialize_with = \"nullable\"".to_owned());
            }
            // A zero time is written all the same.
            if opt && text != "time" {
                attrs.push("skip_serializing_if = \"is_empty\"".to_owned());
            }
            let words = field.replace('-', " ");
            body.push_str(&format!("    /// {words}\n"));
            if !attrs.is_empty() {
                body.push_str(&format!("    #[serde({})]\n", attrs.join(", ")));
            }
            body.push_str(&format!("    pub {rust}: {ty},\n"));
        }
        body.push_str("    /// Members that this version does not know.\n    #[serde(flatten)]\n    pub extra: Map<String, Value>,\n}\n\n");
    }
    Ok(format!(
        "//! The structures of the rack API.\n\nuse std::collections::BTreeMap;\n\nuse serde::{{Deserialize, Serialize}};\nuse serde_json::{{Map, Value}};\n\nuse boxrig_wire::{{Secret, Timestamp, nullable}};

use crate::values::is_empty;\n\n{body}"
    ))
}

/// Whether a member of a structure or of an operation's parameters must not be shown.
fn is_secret(overlay: &Value, of: &str, member: &str) -> bool {
    let listed = overlay["secrets"][of].as_array();
    listed.is_some_and(|members| members.iter().any(|m| m == member))
}

/// The Rust type of a type of the structure table.
fn type_of(text: &str, models: &str) -> Result<String> {
    let text = text.trim();
    if let Some(inner) = text.strip_suffix('?').or(text.strip_suffix(" or null")) {
        return Ok(format!("Option<{}>", type_of(inner, models)?));
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return Ok(format!("Vec<{}>", type_of(inner, models)?));
    }
    if let Some(inner) = text
        .strip_prefix("map<str,")
        .and_then(|t| t.strip_suffix('>'))
    {
        return Ok(format!("BTreeMap<String, {}>", type_of(inner, models)?));
    }
    Ok(match text {
        "str" | "string" | "duration" | "bytes(base64)" => "String".into(),
        "int" => "i64".into(),
        "float" => "f64".into(),
        "bool" => "bool".into(),
        "time" => "Timestamp".into(),
        "map" => "BTreeMap<String, String>".into(),
        t if t.starts_with('{') => "Value".into(),
        t if t.chars().all(|c| c.is_ascii_alphanumeric()) => format!("{models}{}", camel(t)),
        other => return Err(format!("unknown type {other:?}").into()),
    })
}

/// A row of the route table.
struct Route<'a> {
    group: &'a str,
    verb: &'a str,
    path: String,
    op: &'a str,
    query: &'a str,
    form: &'a str,
    headers: &'a str,
    body: &'a str,
    response: &'a str,
    notes: &'a str,
}

impl<'a> Route<'a> {
    fn read(line: &'a str) -> Result<Self> {
        let columns: Vec<&str> = line.split('\t').collect();
        let [
            group,
            verb,
            path,
            op,
            query,
            form,
            headers,
            body,
            response,
            _,
            _,
            notes,
        ] = columns[..]
        else {
            return Err(format!("{} columns in {line:?}", columns.len()).into());
        };
        let path = path.replace(":.*}", "*}");
        Ok(Self {
            group,
            verb,
            path,
            op,
            query,
            form,
            headers,
            body,
            response,
            notes,
        })
    }

    fn name(&self) -> String {
        camel(self.op.rsplit('.').next().unwrap_or(self.op))
    }

    /// Pass-through of any method, and the session path that a challenge names, are not operations
    /// with a description; they are methods of the client.
    fn is_described(&self) -> bool {
        self.verb != "ANY" && self.path.starts_with('/')
    }

    fn describe(&self, known: &BTreeSet<&str>, overlay: &Value) -> Result<String> {
        let name = self.name();
        let correction = |member: &str| {
            overlay["operations"][self.op][member]
                .as_str()
                .map(str::to_owned)
        };
        let mut out = String::new();
        let mut members = String::new();
        // A GET has no body: what is called a form there travels in the query, where racks read it too.
        let (query, form) = match (self.verb, self.query) {
            ("GET", "") => (self.form, ""),
            _ => (self.query, self.form),
        };
        for (kind, list) in [("Query", query), ("Headers", self.headers), ("Form", form)] {
            let fields = fields(list)?;
            if fields.is_empty() {
                continue;
            }
            out.push_str(&format!(
                "params! {{\n    /// The {} of `{}`.\n    pub struct {name}{kind} {{\n",
                kind.to_lowercase(),
                self.op
            ));
            for (wire, ty, doc) in &fields {
                let ty = match is_secret(overlay, self.op, wire) {
                    true => ty.replace("String", "Secret"),
                    false => ty.clone(),
                };
                out.push_str(&docs(doc, "        "));
                out.push_str(&format!(
                    "        pub {}: {ty} = \"{wire}\",\n",
                    snake(wire)
                ));
            }
            out.push_str("    }\n}\n\n");
        }
        let captures = self.path.matches('{').count();
        if captures > 0 {
            members.push_str(&format!(
                "        path: ({}),\n",
                "String,".repeat(captures)
            ));
        }
        if !fields(query)?.is_empty() {
            members.push_str(&format!("        query: {name}Query,\n"));
        }
        if !fields(self.headers)?.is_empty() {
            members.push_str(&format!("        headers: {name}Headers,\n"));
        }
        let body = match self.body {
            _ if correction("body").is_some() => correction("body"),
            _ if self.verb == "SOCKET" => None,
            "" | "empty or token reply" if !fields(form)?.is_empty() && self.verb != "DELETE" => {
                Some(format!("Form<{name}Form>"))
            }
            "" => None,
            text => match text.strip_prefix("JSON ") {
                Some(model) => Some(format!("Json<models::{}>", camel(model))),
                None => Some("ByteBody".to_owned()),
            },
        };
        if let Some(body) = body {
            members.push_str(&format!("        body: {body},\n"));
        }
        let reply = match correction("reply") {
            Some(reply) => reply,
            None => self.reply(known)?,
        };
        members.push_str(&format!("        reply: {reply},\n"));
        if self.verb == "SOCKET" && !self.response.starts_with("text") {
            members.push_str("        idempotency: Never,\n");
        } else if let Some(idempotency) = correction("idempotency") {
            members.push_str(&format!("        idempotency: {idempotency},\n"));
        }
        let words = overlay["summaries"][self.op]
            .as_str()
            .map_or_else(|| sentence(self.op), str::to_owned);
        let notes = if self.notes.is_empty() || self.notes == "-" {
            String::new()
        } else {
            format!("\n\nNotes: {}.", self.notes)
        };
        let method = if self.verb == "SOCKET" {
            "GET"
        } else {
            self.verb
        };
        out.push_str("endpoint! {\n");
        out.push_str(&docs(&format!("{words}{notes}"), "    "));
        out.push_str(&format!(
            "    pub {name} = \"{}\": Convox, {method} \"{}\" {{\n{members}    }}\n}}\n\n",
            self.op, self.path
        ));
        Ok(out)
    }

    fn reply(&self, known: &BTreeSet<&str>) -> Result<String> {
        if self.verb == "SOCKET" {
            return Ok("Socket".into());
        }
        let text = self.response;
        Ok(match text {
            "ok" | "none" | "" | "202, empty body" => "Done".into(),
            "map" => "Reply<BTreeMap<String, String>>".into(),
            t if t.contains("stream") || t.starts_with("raw") => "ByteReply".into(),
            t if t.starts_with('{') || t.starts_with("[{") => "Reply<Value>".into(),
            t if t.starts_with("header ")
                || t.starts_with("200 always")
                || t.starts_with("text ") =>
            {
                "Text".into()
            }
            t => {
                let first = t.split(' ').next().unwrap_or(t);
                let inner = first.trim_matches(['[', ']']);
                if inner != "string" && !known.contains(inner) {
                    return Err(format!("{}: unknown response {t:?}", self.op).into());
                }
                format!("Reply<{}>", type_of(first, "models::")?)
            }
        })
    }
}

/// `AppBudgetGet` → `App budget get.`; better words stand in the overlay.
fn sentence(op: &str) -> String {
    let name = op.rsplit('.').next().unwrap_or(op);
    let mut out = String::new();
    for (i, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push(' ');
            out.push(c.to_ascii_lowercase());
        } else {
            out.push(c);
        }
    }
    out.push('.');
    out
}

/// `name:type[!][=default]`, comma-separated → wire name, Rust type, documentation.
fn fields(list: &str) -> Result<Vec<(String, String, String)>> {
    let mut out = Vec::new();
    for item in list
        .split(',')
        .map(str::trim)
        .filter(|i| !i.is_empty() && !i.contains(" + "))
    {
        // A remark stands in parentheses behind a blank.
        let item = item.split(" (").next().unwrap_or(item);
        let (name, ty) = item.split_once(':').unwrap_or((item, "str"));
        if name.contains(' ') || name.contains('=') {
            continue;
        }
        let (ty, default) = ty.split_once('=').map_or((ty, None), |(t, d)| (t, Some(d)));
        let (ty, required) = ty.strip_suffix('!').map_or((ty, false), |t| (t, true));
        let rust = match ty {
            "str" if required => "String",
            "int" => "Option<i64>",
            "float" => "Option<f64>",
            "bool" => "Option<bool>",
            "csv" => "Csv",
            "map" => "FieldMap",
            _ => "Option<String>",
        };
        let mut doc = name.replace(['-', '_'], " ");
        match ty {
            "time" => doc.push_str("; in the rack's form, `YYYYMMDD.HHMMSS.nnnnnnnnn`"),
            "duration" => doc.push_str("; a duration such as `1h30m`"),
            t if t.starts_with("json ") => doc.push_str("; a JSON text"),
            t if t.contains('/') => doc.push_str(&format!("; one of {t}")),
            _ => {}
        }
        if required {
            doc.push_str("; required");
        }
        if let Some(default) = default {
            doc.push_str(&format!("; the rack's default is {default}"));
        }
        out.push((name.to_owned(), rust.to_owned(), format!("{doc}.")));
    }
    Ok(out)
}
