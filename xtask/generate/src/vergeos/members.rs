//! The table of members: what was observed, corrected, in the form the client reads.

use std::error::Error;

use serde_json::{Map, Value, json};

use super::Sources;

/// `Class.member`.
pub(super) fn id(member: &Value) -> String {
    format!("{}.{}", text(member, "class"), text(member, "member"))
}

pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("")
}

/// The projection by which rows of a class are asked for: that of the manager's own reading members.
pub(super) fn projection<'a>(sources: &'a Sources, model: &str) -> Option<&'a str> {
    let mut found = None;
    for wanted in ["get", "list"] {
        for m in &sources.members {
            if text(m, "model") != model || text(m, "member") != wanted {
                continue;
            }
            for step in steps(m) {
                let fields = &step["e"]["q.fields"];
                // With alternatives, the first is the one without a condition.
                let plain = match fields[0].is_array() {
                    true => &fields[0][1],
                    false => fields,
                };
                if plain[0] == "p" && step["e"]["p.0"][1] == m["table"] {
                    let at = plain[1].as_u64()? as usize;
                    let text = sources.projections.get(at)?.as_str();
                    if found.is_none_or(|f: &str| f.len() < text.len()) {
                        found = Some(text);
                    }
                }
            }
        }
    }
    found
}

fn steps(member: &Value) -> impl Iterator<Item = &Value> {
    let ways = member["ways"].as_array().into_iter().flatten();
    ways.flat_map(|w| w["steps"].as_array().into_iter().flatten())
}

/// Applies the overlay, and gives the uniform members that the vendor's SDK cannot do what the uniform client does.
pub(super) fn correct(sources: &mut Sources, overlay: &Value) -> Result<(), Box<dyn Error>> {
    let empty = Map::new();
    let entries = overlay["members"].as_object().unwrap_or(&empty);
    let mut used = std::collections::BTreeSet::new();
    let mut own = Vec::new();
    let projections: Vec<(String, Option<usize>)> = sources
        .members
        .iter()
        .map(|m| {
            let model = text(m, "model").to_owned();
            let p = projection(sources, &model).map(str::to_owned);
            let at = p.and_then(|p| sources.projections.iter().position(|x| *x == p));
            (model, at)
        })
        .collect();
    for (member, (_, fields)) in sources.members.iter_mut().zip(&projections) {
        let id = id(member);
        let entry = entries.get(&id);
        if let Some(entry) = entry {
            if entry["reason"].as_str().is_none_or(str::is_empty) {
                return Err(format!("{id}: a correction needs a reason").into());
            }
            used.insert(id.clone());
            for name in ["keep", "pick", "special", "where"] {
                if !entry[name].is_null() {
                    member[name] = entry[name].clone();
                }
            }
            if entry["scope"] == "none"
                && let Some(m) = member.as_object_mut()
            {
                m.remove("scope");
            }
            if let Some(returns) = entry["returns"].as_str() {
                member["returned"] = returns.into();
            }
            let patch = entry["patch"].as_object().unwrap_or(&empty);
            let ways = member["ways"].as_array_mut().into_iter().flatten();
            for step in ways.filter_map(|w| w["steps"].as_array_mut()).flatten() {
                let parts = patch
                    .get(&step["id"].to_string())
                    .and_then(Value::as_object);
                for (name, value) in parts.into_iter().flatten() {
                    step["e"][name] = value.clone();
                }
            }
            if entry["steps"].is_array() {
                let mut steps = entry["steps"].clone();
                for step in steps.as_array_mut().into_iter().flatten() {
                    if step["e"]["q.fields"][0] == "row" {
                        step["e"]["q.fields"] = json!(["p", fields]);
                    }
                }
                let last = steps
                    .as_array()
                    .and_then(|s| s.last())
                    .map_or(Value::Null, |s| s["id"].clone());
                let rows = text(member, "returned").starts_with("list[");
                let kind = if rows { "list:row" } else { "row" };
                member["ways"] = json!([{ "steps": steps, "returns": [kind, last] }]);
                if let Some(m) = member.as_object_mut() {
                    m.remove("error");
                }
            }
        }
        let special = member["special"].is_string();
        if !member["error"].is_null() && !special {
            match uniform(member, *fields) {
                Some(ways) => {
                    member["ways"] = ways;
                    if let Some(m) = member.as_object_mut() {
                        m.remove("error");
                    }
                }
                None => own.push(id),
            }
        }
    }
    let unused: Vec<_> = entries.keys().filter(|k| !used.contains(*k)).collect();
    if !unused.is_empty() {
        return Err(format!("overlay: no such members: {unused:?}").into());
    }
    complete(sources);
    println!("vergeos: members without requests: {own:?}");
    Ok(())
}

/// A member that was observed at one place of its class only is the same at the others.
fn complete(sources: &mut Sources) {
    let mut places: std::collections::BTreeMap<String, Vec<String>> = Default::default();
    for m in &sources.members {
        let list = places.entry(text(m, "class").to_owned()).or_default();
        if !list.iter().any(|a| a == text(m, "accessor")) {
            list.push(text(m, "accessor").to_owned());
        }
    }
    let mut more = Vec::new();
    for m in &sources.members {
        if text(m, "class") == "SystemDiagnosticManager" {
            continue;
        }
        for place in &places[text(m, "class")] {
            let there =
                |x: &Value| text(x, "accessor") == place && text(x, "member") == text(m, "member");
            if !sources.members.iter().any(there) && !more.iter().any(there) {
                let mut copy = m.clone();
                copy["accessor"] = place.as_str().into();
                more.push(copy);
            }
        }
    }
    sources.members.append(&mut more);
}

/// The uniform members of a table, where the SDK's own fail (a `get` with other parameters breaks its `update`).
fn uniform(member: &Value, fields: Option<usize>) -> Option<Value> {
    let table = text(member, "table");
    if table.is_empty() {
        return None;
    }
    let key = json!(["v", "a", "key"]);
    let mut read = json!({"id": 1, "m": "GET", "e": {"p.0": ["k", table], "p.1": key}});
    if let Some(at) = fields {
        read["e"]["q.fields"] = json!(["p", at]);
    }
    match text(member, "member") {
        "update" => Some(json!([{
            "spread": ["b"], "returns": ["row", 1],
            "steps": [{"id": 0, "m": "PUT", "e": {"p.0": ["k", table], "p.1": key}}, read],
        }])),
        "delete" => Some(json!([{
            "returns": ["NoneType"],
            "steps": [{"id": 0, "m": "DELETE", "e": {"p.0": ["k", table], "p.1": key}}],
        }])),
        _ => None,
    }
}

/// One line for each member, sorted by accessor and member; the first line has the projections.
pub(super) fn data(sources: &Sources) -> String {
    let mut lines = Vec::new();
    for member in &sources.members {
        let mut line = member.clone();
        for way in line["ways"].as_array_mut().into_iter().flatten() {
            for step in way["steps"].as_array_mut().into_iter().flatten() {
                shorten(step);
            }
        }
        if let Some(line) = line.as_object_mut() {
            line.remove("error");
        }
        lines.push((
            format!("{}\t{}", text(member, "accessor"), text(member, "member")),
            line,
        ));
    }
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    let mut out = json!({ "projections": sources.projections }).to_string();
    out.push('\n');
    for (name, line) in lines {
        out.push_str(&format!("{name}\t{line}\n"));
    }
    out
}

/// Filters are named by their number instead of their text.
fn shorten(step: &mut Value) {
    let Some(entries) = step["e"].as_object_mut() else {
        return;
    };
    let filters: Vec<String> = entries
        .keys()
        .filter(|k| k.starts_with("f.["))
        .cloned()
        .collect();
    for (n, name) in filters.into_iter().enumerate() {
        if let Some(value) = entries.remove(&name) {
            entries.insert(format!("f.{n}"), value);
        }
    }
}
