//! Paths → operation descriptions.

use std::collections::BTreeMap;
use std::error::Error;

use serde_json::Value;

use crate::Files;
use crate::models::type_of;
use crate::names::{camel, docs, snake};
use crate::overlay::Overlay;

/// One operation after its query variants (`?recursion=1`, `?public`) were folded into it.
struct Op<'a> {
    method: String,
    path: String,
    id: &'a str,
    base: &'a Value,
    /// The type of the items when the list is asked for with recursion, the richest of all.
    items: Option<String>,
    recursion: bool,
    /// The parameters of all variants.
    parameters: Vec<&'a Value>,
}

fn fold(api: &Value) -> Result<Vec<Op<'_>>, Box<dyn Error>> {
    let mut ops: BTreeMap<(String, String), Op<'_>> = BTreeMap::new();
    for (path, methods) in api["paths"].as_object().ok_or("no paths")? {
        let (bare, query) = path.split_once('?').unwrap_or((path, ""));
        for (method, op) in methods.as_object().into_iter().flatten() {
            let id = op["operationId"]
                .as_str()
                .ok_or_else(|| format!("{method} {path}: no operationId"))?;
            let entry = ops
                .entry((bare.to_owned(), method.clone()))
                .or_insert_with(|| Op {
                    method: method.to_uppercase(),
                    path: bare.to_owned(),
                    id,
                    base: op,
                    items: None,
                    recursion: false,
                    parameters: Vec::new(),
                });
            entry
                .parameters
                .extend(op["parameters"].as_array().into_iter().flatten());
            if query.is_empty() {
                entry.id = id;
                entry.base = op;
            }
            if query.contains("recursion=") {
                entry.recursion = true;
                let metadata = &op["responses"]["200"]["schema"]["properties"]["metadata"];
                // Paths are sorted, so the last one is the deepest.
                entry.items = Some(type_of(metadata, "models::")?);
            }
        }
    }
    Ok(ops.into_values().collect())
}

/// Writes `ops/*.rs`, a file a tag.
pub(crate) fn generate(
    api: &Value,
    overlay: &Overlay,
    files: &mut Files,
) -> Result<(), Box<dyn Error>> {
    let mut tags: BTreeMap<String, Vec<Op<'_>>> = BTreeMap::new();
    for op in fold(api)? {
        tags.entry(file_of(&op)).or_default().push(op);
    }
    let mut index = String::from(
        "//! The operations of the API, each described once.\n\nuse boxrig_wire::{Catalog, Endpoint};\n\n",
    );
    index.push_str("pub mod queries;\n");
    for tag in tags.keys() {
        index.push_str(&format!("pub mod {tag};\n"));
    }
    index.push_str(
        "\n/// Every operation, in the order of paths.\npub const CATALOG: Catalog = &[\n",
    );
    let mut all: Vec<(String, String, String)> = Vec::new();
    for (tag, ops) in &tags {
        for op in ops {
            all.push((
                op.path.clone(),
                op.method.clone(),
                format!("{tag}::{}", camel(op.id)),
            ));
        }
    }
    all.sort();
    for (_, _, name) in &all {
        index.push_str(&format!("    {name}::META,\n"));
    }
    index.push_str("];\n");
    index.push_str(&extensions(api, overlay, &tags)?);
    let mut shared = BTreeMap::new();
    for (tag, ops) in &tags {
        files.insert(
            format!("ops/{tag}.rs").into(),
            file(tag, ops, overlay, &mut shared)?,
        );
    }
    let text: String = shared.into_values().collect();
    let text =
        format!("//! Queries that several operations take.\n\nuse boxrig_wire::params;\n\n{text}");
    files.insert("ops/queries.rs".into(), text);
    files.insert("ops/mod.rs".into(), index);
    Ok(())
}

/// The members of bodies that need an API extension, by operation: a table that is read before a body is sent.
fn extensions(
    api: &Value,
    overlay: &Overlay,
    tags: &BTreeMap<String, Vec<Op<'_>>>,
) -> Result<String, Box<dyn Error>> {
    let mut found: Vec<(String, String, String)> = Vec::new();
    for op in tags.values().flatten() {
        for body in op.parameters.iter().filter(|p| p["in"] == "body") {
            members(api, &body["schema"], op.id, "", &mut found);
        }
    }
    found.sort();
    found.dedup();
    let mut text = String::from(
        "\n/// Members of bodies that need an API extension: operation, path of the member, extension. A daemon without it\n/// drops the member without a word.\npub const EXTENSIONS: &[(&str, &str, &str)] = &[\n",
    );
    for (id, member, extension) in found {
        let extension = overlay.extension(extension);
        text.push_str(&format!("    (\"{id}\", \"{member}\", \"{extension}\"),\n"));
    }
    text.push_str("];\n");
    Ok(text)
}

fn members(
    api: &Value,
    schema: &Value,
    id: &str,
    prefix: &str,
    found: &mut Vec<(String, String, String)>,
) {
    let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|r| r.strip_prefix("#/definitions/"))
    else {
        return;
    };
    let properties = &api["definitions"][name]["properties"];
    for (field, schema) in properties.as_object().into_iter().flatten() {
        let member = format!("{prefix}{field}");
        if let Some(extension) = extension(schema) {
            found.push((id.to_owned(), member.clone(), extension));
        }
        // Bodies are two levels deep at most where it matters, and definitions may refer to themselves.
        if prefix.is_empty() {
            members(api, schema, id, &format!("{member}."), found);
        }
    }
}

/// The extension that a member's description names.
pub(crate) fn extension(schema: &Value) -> Option<String> {
    let text = schema["description"].as_str()?;
    let found = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("API extension:"))?;
    let found = found.trim().trim_end_matches('.');
    (!found.is_empty()).then(|| found.to_owned())
}

fn file_of(op: &Op<'_>) -> String {
    let path = op.path.trim_start_matches("/1.0").trim_start_matches('/');
    let segments: Vec<&str> = path.split('/').collect();
    let name = match (segments[0], segments.get(2).copied()) {
        ("storage-pools", Some("buckets")) => "storage_buckets",
        ("storage-pools", Some("volumes")) => "storage_volumes",
        ("instances", Some("backups" | "snapshots")) => "instance_snapshots",
        ("instances", Some("files" | "logs" | "metadata" | "nvram" | "sftp")) => "instance_files",
        ("networks", Some("forwards" | "load-balancers" | "peers")) => "network_services",
        ("" | "events" | "metadata" | "metrics" | "resources" | "warnings" | "operations", _) => {
            "server"
        }
        (first, _) => return first.replace('-', "_"),
    };
    name.to_owned()
}

fn file(
    tag: &str,
    ops: &[Op<'_>],
    overlay: &Overlay,
    shared: &mut BTreeMap<String, String>,
) -> Result<String, Box<dyn Error>> {
    let mut params: BTreeMap<String, String> = BTreeMap::new();
    let mut body = String::new();
    for op in ops {
        body.push_str(&endpoint(op, overlay, &mut params, shared)?);
    }
    let params: String = params.into_values().collect();
    let mut text = format!("//! Operations of {}.\n\n", tag.replace('_', " "));
    for (word, line) in [
        ("BTreeMap", "use std::collections::BTreeMap;\n"),
        ("Value", "use serde_json::Value;\n"),
    ] {
        if body.contains(word) {
            text.push_str(line);
        }
    }
    let wire: Vec<&str> = ["ByteBody", "ByteReply", "Json", "Socket", "Upgrade"]
        .into_iter()
        .filter(|w| body.contains(&format!("{w}<")) || body.contains(&format!(": {w},")))
        .collect();
    text.push_str("use boxrig_wire::endpoint;\n");
    if !params.is_empty() {
        text.push_str("use boxrig_wire::params;\n");
    }
    if !wire.is_empty() {
        text.push_str(&format!("use boxrig_wire::{{{}}};\n", wire.join(", ")));
    }
    for (path, words) in [
        (
            "crate::envelope",
            &["Answer<", "Async,", "List<", "Sync<"][..],
        ),
        (
            "crate::model",
            &["Merge<", "Nbd>", "Sftp>", "TcpForward>"][..],
        ),
    ] {
        let used: Vec<&str> = words
            .iter()
            .filter(|w| body.contains(**w))
            .map(|w| w.trim_end_matches(['<', ',', '>']))
            .collect();
        if !used.is_empty() {
            text.push_str(&format!("use {path}::{{{}}};\n", used.join(", ")));
        }
    }
    if body.contains("queries::") {
        text.push_str("use super::queries;\n");
    }
    if body.contains("models::") {
        text.push_str("use crate::models;\n");
    }
    text.push_str("use crate::Incus;\n\n");
    text.push_str(&params);
    text.push_str(&body);
    Ok(text)
}

fn endpoint(
    op: &Op<'_>,
    overlay: &Overlay,
    params: &mut BTreeMap<String, String>,
    shared: &mut BTreeMap<String, String>,
) -> Result<String, Box<dyn Error>> {
    let place = |place: &str| -> Vec<&Value> {
        op.parameters
            .iter()
            .copied()
            .filter(|p| p["in"] == place)
            .collect()
    };
    let summary = op.base["summary"]
        .as_str()
        .unwrap_or(op.id)
        .trim()
        .trim_end_matches('.');
    let description = op.base["description"].as_str().unwrap_or("");
    let mut out = String::from("endpoint! {\n");
    out.push_str(&docs(&format!("{summary}.\n\n{description}"), "    "));
    out.push_str(&format!(
        "    pub {} = \"{}\": Incus, {} \"{}\" {{\n",
        camel(op.id),
        op.id,
        op.method,
        op.path
    ));
    let captures = op.path.matches('{').count();
    if captures > 0 {
        out.push_str(&format!(
            "        path: ({}),\n",
            "String,".repeat(captures)
        ));
    }
    let text: Vec<&str> = overlay
        .op(op.id, "text")
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let param = |p: &Value| {
        let (name, ty, doc) = param(p);
        match text.contains(&&*name) {
            true => (name, "Option<String>".to_owned(), doc),
            false => (name, ty, doc),
        }
    };
    let mut query: Vec<(String, String, String)> = place("query").into_iter().map(param).collect();
    if op.recursion {
        query.push((
            "recursion".into(),
            "Option<u32>".into(),
            "0: addresses only; 1: the objects; 2: with their parts, where there are any.".into(),
        ));
    }
    if let Some(extra) = overlay.op(op.id, "query") {
        for name in extra.split_whitespace() {
            query.push((
                name.into(),
                "Option<String>".into(),
                format!("The `{name}` option."),
            ));
        }
    }
    if !query.is_empty() {
        out.push_str(&format!(
            "        query: {},\n",
            declare(op, "Query", query, params, shared)
        ));
    }
    let headers: Vec<_> = place("header").into_iter().map(param).collect();
    if !headers.is_empty() {
        out.push_str(&format!(
            "        headers: {},\n",
            declare(op, "Headers", headers, params, shared)
        ));
    }
    if let Some(body) = body_type(op, overlay, &place("body"))? {
        out.push_str(&format!("        body: {body},\n"));
    }
    out.push_str(&format!("        reply: {},\n", reply_type(op, overlay)?));
    if let Some(idempotency) = overlay.op(op.id, "idempotency") {
        out.push_str(&format!("        idempotency: {idempotency},\n"));
    }
    out.push_str("    }\n}\n\n");
    Ok(out)
}

fn param(p: &Value) -> (String, String, String) {
    let name = p["name"].as_str().unwrap_or("").to_owned();
    let ty = match p["type"].as_str() {
        Some("boolean") => "Option<bool>",
        Some("integer") => "Option<i64>",
        Some("array") => "Vec<String>",
        _ => "Option<String>",
    };
    let doc = p["description"]
        .as_str()
        .map_or_else(|| format!("The `{name}` option."), str::to_owned);
    (name, ty.to_owned(), doc)
}

/// Declares the set of named values, once a file for equal sets, and gives its name.
fn declare(
    op: &Op<'_>,
    kind: &str,
    mut list: Vec<(String, String, String)>,
    params: &mut BTreeMap<String, String>,
    shared: &mut BTreeMap<String, String>,
) -> String {
    list.sort();
    list.dedup_by(|a, b| a.0 == b.0);
    let names: String = list.iter().map(|(n, _, _)| camel(n)).collect();
    // Short queries are named for what they hold and shared, long ones for their operation.
    let short = list.len() <= 3 && kind == "Query";
    let name = if short {
        format!("{names}{kind}")
    } else {
        format!("{}{kind}", camel(op.id))
    };
    let wires = list
        .iter()
        .map(|(n, _, _)| format!("`{n}`"))
        .collect::<Vec<_>>()
        .join(", ");
    let doc = if short {
        format!("A query of {wires}.")
    } else {
        format!("The {} of `{}`.", kind.to_lowercase(), op.id)
    };
    let mut text = format!("params! {{\n    /// {doc}\n    pub struct {name} {{\n");
    for (wire, ty, doc) in &list {
        text.push_str(&docs(doc, "        "));
        text.push_str(&format!(
            "        pub {}: {ty} = \"{wire}\",\n",
            snake(wire)
        ));
    }
    text.push_str("    }\n}\n\n");
    if short {
        shared.entry(name.clone()).or_insert(text);
        return format!("queries::{name}");
    }
    params.insert(name.clone(), text);
    name
}

fn body_type(
    op: &Op<'_>,
    overlay: &Overlay,
    body: &[&Value],
) -> Result<Option<String>, Box<dyn Error>> {
    if let Some(ty) = overlay.op(op.id, "body") {
        return Ok((ty != "none").then(|| ty.to_owned()));
    }
    let json = |ty: String| {
        if op.method == "PATCH" && !ty.contains('<') {
            format!("Json<Merge<{ty}>>")
        } else {
            format!("Json<{ty}>")
        }
    };
    // A request that can be raw or JSON is listed with both; the JSON one is the typed one.
    let schema = body
        .iter()
        .map(|p| &p["schema"])
        .find(|s| s["$ref"].is_string())
        .or(body.first().map(|p| &p["schema"]));
    Ok(match schema {
        None => None,
        Some(s) if s["type"] == "string" => Some("ByteBody".to_owned()),
        Some(s) => Some(json(type_of(s, "models::")?)),
    })
}

fn reply_type(op: &Op<'_>, overlay: &Overlay) -> Result<String, Box<dyn Error>> {
    if let Some(ty) = overlay.op(op.id, "reply") {
        return Ok(ty.to_owned());
    }
    let responses = &op.base["responses"];
    if let Some(switch) = responses.get("101") {
        let text = switch["description"].as_str().unwrap_or("");
        return Ok(match text {
            t if t.contains("NBD") => "Upgrade<Nbd>".into(),
            t if t.contains("SFTP") => "Upgrade<Sftp>".into(),
            t if t.contains("TCP") => "Upgrade<TcpForward>".into(),
            _ => "Socket".into(),
        });
    }
    let done = responses.get("200").or(responses.get("201"));
    let sync = done.map(|r| sync_type(op, r)).transpose()?;
    Ok(match (sync, responses.get("202")) {
        (Some(ty), Some(_)) => match ty.strip_prefix("Sync<").and_then(|t| t.strip_suffix('>')) {
            Some(inner) => format!("Answer<{inner}>"),
            None => return Err(format!("{}: raw or operation", op.id).into()),
        },
        (None, Some(_)) => "Async".into(),
        (Some(ty), None) => ty,
        (None, None) => return Err(format!("{}: no success", op.id).into()),
    })
}

fn sync_type(op: &Op<'_>, response: &Value) -> Result<String, Box<dyn Error>> {
    if response["$ref"].as_str() == Some("#/responses/EmptySyncResponse") {
        return Ok("Sync<Value>".into());
    }
    if let Some(name) = response["$ref"]
        .as_str()
        .and_then(|r| r.strip_prefix("#/definitions/"))
    {
        return Ok(format!("Sync<models::{}>", camel(name)));
    }
    let metadata = &response["schema"]["properties"]["metadata"];
    if metadata.is_null() {
        return Ok("ByteReply".into());
    }
    let ty = type_of(metadata, "models::")?;
    Ok(match &op.items {
        Some(items) => match items.strip_prefix("Vec<").and_then(|t| t.strip_suffix('>')) {
            Some(item) => format!("Sync<List<{item}>>"),
            None => "Sync<Value>".into(),
        },
        None => format!("Sync<{ty}>"),
    })
}
