//! Carrying a member out: which way, which requests, what is checked between them.

use std::fmt;
use std::time::Duration;

use boxrig_wire::{Error, Json, Kind, Progress, Result};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::call::Node;
use super::catalogue::{self, Member, Step, Way};
use super::outcome::same;
use super::value::{Look, eval, holds, plain, put};
use crate::client::{Seen, Transferred, Wait};
use crate::ops::{
    ActionPost, GetQuery, ListQuery, RowAction, RowApply, RowVerb, TableAction, TableCreate,
    TableDelete, TableUpdate, TableVerb, WriteQuery, Written,
};
use crate::{Client, Filter, Row};

/// A member with its arguments.
#[derive(Clone)]
pub struct Invocation {
    pub(crate) node: Node,
    pub(crate) member: String,
    pub(crate) args: Map<String, Value>,
    pub(crate) set: Row,
    pub(crate) filter: Option<Filter>,
    pub(crate) wait: Option<Wait>,
}

impl fmt::Debug for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}(…)", self.node.place, self.member)
    }
}

impl Invocation {
    /// A member of a place.
    pub fn new(node: Node, member: &str) -> Self {
        Self {
            node,
            member: member.to_owned(),
            args: Map::new(),
            set: Row::new(),
            filter: None,
            wait: None,
        }
    }
    /// With an argument, by the parameter's name.
    pub fn arg(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.args.insert(name.to_owned(), value.into());
        self
    }
    /// With a column of the caller's own.
    pub fn column(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set.insert(name.to_owned(), value.into());
        self
    }
}

/// Carries a member out and gives what it gives as a document: rows, a row, a receipt, nothing.
///
/// # Errors
///
/// [`Kind::Invalid`] for arguments that are missing or unknown; the system's, by meaning.
pub async fn invoke(invocation: Invocation) -> Result<Value> {
    run(invocation).await?.into_value()
}

/// By step: what the row is known by that is meant.
type Picks = Vec<(usize, Vec<(String, Value)>)>;

/// One reply.
pub(crate) struct Reply {
    pub(crate) id: usize,
    pub(crate) bytes: Bytes,
    pub(crate) value: Value,
    /// The first row is meant when there are several: they were asked for in an order.
    pub(crate) ordered: bool,
    /// The table that was asked.
    table: String,
}

/// What was answered.
pub struct Ran {
    pub(crate) member: Member,
    pub(crate) replies: Vec<Reply>,
    pub(crate) returns: Option<usize>,
    pub(crate) kind: String,
    pub(crate) keep: Vec<(String, Value)>,
    pick: Picks,
    asked: String,
    pub(crate) document: Option<Value>,
    pub(crate) content: Option<Bytes>,
    pub(crate) transferred: Option<Transferred>,
    pub(crate) client: Option<Client>,
}

impl Ran {
    /// The reply that is given back.
    pub(crate) fn returned(&self) -> Option<&Reply> {
        match self.returns {
            Some(id) => self
                .replies
                .iter()
                .find(|r| r.id == id)
                .or(self.replies.last()),
            None => self.replies.last(),
        }
    }
    pub(crate) fn picked(&self) -> Option<&Vec<(String, Value)>> {
        let reply = self.returned()?;
        self.pick
            .iter()
            .find(|(id, _)| *id == reply.id)
            .map(|(_, p)| p)
    }
    pub(crate) fn asked(&self) -> &str {
        &self.asked
    }
    /// Whether a row is among those to be kept.
    pub(crate) fn keeps(&self, column: impl Fn(&str) -> Option<Value>) -> bool {
        keeps(&self.keep, column)
    }
    /// As a document.
    pub(crate) fn into_value(self) -> Result<Value> {
        if let Some(document) = self.document {
            return Ok(document);
        }
        if let Some(done) = &self.transferred {
            return Ok(serde_json::json!({
                "$key": done.key, "bytes": done.bytes, "sha256": done.sha256,
            }));
        }
        if let Some(content) = &self.content {
            return Ok(Value::String(String::from_utf8_lossy(content).into_owned()));
        }
        if self.kind == "dict" && self.returns.is_none() && self.replies.len() > 1 {
            // Several tables in one document.
            let parts = self.replies.into_iter().map(|r| (r.table, r.value));
            return Ok(Value::Object(parts.collect()));
        }
        let Some(reply) = self.returned() else {
            return Ok(Value::Null);
        };
        let list = self.kind.starts_with("list") || matches!(self.kind.as_str(), "int" | "bool");
        Ok(match (&reply.value, list) {
            (Value::Array(rows), true) => Value::Array(
                rows.iter()
                    .filter(|r| self.keeps(|c| r.get(c).cloned()))
                    .cloned()
                    .collect(),
            ),
            (Value::Array(rows), false) => {
                let mut rows: Vec<&Value> = rows.iter().collect();
                if let Some(pick) = self.picked() {
                    rows.retain(|r| pick.iter().all(|(c, v)| same(&r[c], v)));
                }
                match rows.as_slice() {
                    [] if matches!(self.kind.as_str(), "NoneType" | "dict") => Value::Null,
                    [] => return Err(crate::client::none(&self.member.table, &self.asked)),
                    [row, ..] if rows.len() == 1 || reply.ordered => (*row).clone(),
                    _ => return Err(crate::client::ambiguous(&self.member.table, &self.asked)),
                }
            }
            (value, _) => value.clone(),
        })
    }
}

fn keeps(keep: &[(String, Value)], column: impl Fn(&str) -> Option<Value>) -> bool {
    keep.iter().all(|(name, wanted)| {
        let have = column(name).unwrap_or_default();
        match wanted.get("prefix").and_then(Value::as_str) {
            Some(prefix) => have
                .as_str()
                .is_some_and(|t| t.split('/').next() == Some(prefix)),
            None => match wanted.get("until").and_then(Value::as_i64) {
                Some(until) => crate::client::number(&have).is_some_and(|t| t > 0 && t <= until),
                None => same(&have, wanted) || (wanted == &Value::Bool(false) && have.is_null()),
            },
        }
    })
}

/// The id of the operation that a step is.
pub(crate) fn operation(method: &str, entries: &Map<String, Value>) -> &'static str {
    let parts = (0..4)
        .filter(|n| entries.contains_key(&format!("p.{n}")))
        .count();
    let action = entries.contains_key("b.action");
    match (method, parts) {
        ("GET", 1) => "list",
        ("GET", _) => "get",
        ("POST", 1) if action => "action",
        ("POST", 1) => "create",
        ("POST", 2) => "table_verb",
        ("POST", _) => "row_verb",
        ("PUT", 2) if entries.contains_key("q.action") => "row_action",
        ("PUT", 2) => "update",
        ("PUT", _) => "row_apply",
        _ => "delete",
    }
}

/// Tables whose rows say how far work has come: the column, what it says at the end, what it says on failure.
const WORK: &[(&str, &[&str], &[&str])] = &[
    ("tasks", &["idle", "error"], &["error"]),
    ("cloud_snapshots", &["normal"], &["error"]),
    ("system_diagnostics", &["complete", "error"], &["error"]),
    ("vnet_queries", &["complete", "error"], &["error"]),
    ("node_queries", &["complete", "error"], &["error"]),
    (
        "service_container_queries",
        &["complete", "error"],
        &["error"],
    ),
    ("tenant_node_queries", &["complete", "error"], &["error"]),
    ("vsan_queries", &["complete", "error"], &["error"]),
    ("volume_browser", &["complete", "error"], &["error"]),
];

/// The state of a run.
pub(crate) struct Run {
    pub(crate) invocation: Invocation,
    pub(crate) member: Member,
    pub(crate) replies: Vec<Reply>,
    pick: Picks,
}

impl Look for Run {
    fn arg(&self, name: &str) -> Option<&Value> {
        self.invocation.args.get(name)
    }
    fn scope(&self, class: &str, column: &str) -> Result<Value> {
        let scopes = &self.invocation.node.scopes;
        // Members that several kinds of rows share are written down for one of them.
        let scope = scopes.iter().rev().find(|s| s.class == class);
        let Some(scope) = scope.or(scopes.last()) else {
            return Err(Error::new(
                Kind::Invalid,
                format!("{} belongs to a row of {class}", self.member.id()),
            ));
        };
        let value = scope.row().get(column).cloned();
        value.filter(|v| !v.is_null()).ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("{class} {} has no {column}", scope.key),
            )
        })
    }
    fn reply(&self, step: usize, column: &str) -> Result<Value> {
        let reply = self.replies.iter().find(|r| r.id == step);
        let row = match reply.map(|r| &r.value) {
            Some(Value::Array(rows)) => {
                let pick = self.pick.iter().find(|(id, _)| *id == step);
                let mut rows: Vec<&Value> = rows.iter().collect();
                if let Some((_, pick)) = pick {
                    rows.retain(|r| pick.iter().all(|(c, v)| same(&r[c], v)));
                }
                match rows.as_slice() {
                    [] => {
                        return Err(crate::client::none(&self.member.table, self.asked()));
                    }
                    [row] => Some(*row),
                    [row, ..] if reply.is_some_and(|r| r.ordered) => Some(*row),
                    _ => return Err(crate::client::ambiguous(&self.member.table, self.asked())),
                }
            }
            other => other,
        };
        let value = row.and_then(|r| r.get(column)).cloned();
        // An action's receipt names what it made within its response.
        let made = || {
            let response = row?.get("response")?.as_object()?;
            response
                .iter()
                .find(|(name, _)| column == "$key" && name.ends_with("key"))
                .map(|(_, v)| v.clone())
        };
        // Receipts have their numbers in texts.
        let number = |v: Value| match (column, crate::Key::of(&v)) {
            ("$key", Some(key)) => key.into(),
            _ => v,
        };
        let value = value.filter(|v| !v.is_null()).or_else(made).map(number);
        value.ok_or_else(|| {
            Error::new(
                Kind::Protocol,
                format!("{}: a reply has no {column}", self.member.id()),
            )
        })
    }
}

impl Run {
    /// What was asked for, for errors.
    pub(crate) fn asked(&self) -> String {
        for name in ["name", "key", "hostname", "ip", "domain", "tag", "tier"] {
            if let Some(value) = self.invocation.args.get(name) {
                return plain(value);
            }
        }
        self.member.member.clone()
    }

    fn forms(&self, name: &str) -> bool {
        let param = self.member.params.iter().find(|p| p.name == name);
        param.is_some_and(|p| p.ty.contains("int") && p.ty.contains("str"))
    }

    fn meets(&self, (name, label): &(String, Value)) -> bool {
        let param = self.member.params.iter().find(|p| p.name == *name);
        let document = self.arg(name).is_some_and(Value::is_object);
        // Of a parameter that is a text or a document, the form named second is the other one.
        let forms =
            param.filter(|p| p.ty.contains("dict") && p.ty.split('|').any(|t| t.trim() == "str"));
        if let (Some(param), Some("given" | "other")) = (forms, label.as_str()) {
            let first = param.ty.starts_with("dict") == document;
            return self.arg(name).is_some_and(|v| !v.is_null()) && first == (label == "given");
        }
        holds(self, &|n| self.forms(n), name, label)
    }

    /// The alternative of an entry that applies.
    fn choose<'a>(&self, entry: &'a Value) -> Option<&'a Value> {
        let first = entry.get(0)?;
        if !first.is_array() {
            return Some(entry);
        }
        let mut chosen = None;
        for alternative in entry.as_array()? {
            let (condition, value) = (alternative.get(0)?, alternative.get(1)?);
            let applies = match condition {
                Value::Null => chosen.is_none(),
                condition => self.meets(&(
                    condition.get(0)?.as_str()?.to_owned(),
                    condition.get(1)?.clone(),
                )),
            };
            if applies {
                chosen = Some(value);
                if condition.get(0).is_some_and(|c| c == "fields") {
                    // The caller's own columns win.
                    break;
                }
            }
        }
        chosen.filter(|v| !v.is_null())
    }

    pub(crate) fn way(&self) -> Result<Way> {
        let ways = &self.member.ways;
        // Words before things given, several things before one.
        let weight = |w: &Way| {
            let words = w.when.iter().filter(|(_, l)| l != "given" && l != "text");
            (words.count(), w.when.len())
        };
        let mut best: Option<&Way> = None;
        for way in ways {
            if way.when.iter().all(|c| self.meets(c))
                && best.is_none_or(|b| weight(way) > weight(b))
            {
                best = Some(way);
            }
        }
        best.cloned().ok_or_else(|| {
            let names: Vec<String> = ways
                .iter()
                .map(|w| {
                    w.when
                        .iter()
                        .map(|(n, _)| n.as_str())
                        .collect::<Vec<_>>()
                        .join(" and ")
                })
                .collect();
            Error::new(
                Kind::Invalid,
                format!("{} needs one of: {}", self.member.id(), names.join(", ")),
            )
        })
    }

    /// Saving a row in which nothing was changed writes nothing.
    fn idle(&self, step: &Step) -> bool {
        self.member.member == "save"
            && step.method == "PUT"
            && self.invocation.set.is_empty()
            && !step.entries.keys().any(|k| k.starts_with('b'))
    }

    fn applies(&self, step: &Step) -> bool {
        (step.conditions.is_empty() || step.conditions.iter().any(|c| self.meets(c)))
            && !step.unless.iter().any(|c| self.meets(c))
    }
}

/// A member by its place.
fn member_at(place: &str, name: &str) -> Result<Member> {
    match catalogue::find(place, name) {
        Some(found) => found,
        None => Err(Error::new(
            Kind::Unsupported,
            format!("{place} has no member {name}"),
        )),
    }
}

/// Takes a member apart far enough to send its first request.
pub(crate) fn begin(mut invocation: Invocation) -> Result<Run> {
    let member = member_at(&invocation.node.place, &invocation.member)?;
    for param in &member.params {
        let given = invocation.args.get(&param.name);
        if param.required && given.is_none_or(Value::is_null) {
            return Err(Error::new(
                Kind::Invalid,
                format!("{} needs {}", member.id(), param.name),
            ));
        }
    }
    let open = member.params.iter().any(|p| p.ty == "**") || member.member == "action";
    let unknown: Vec<String> = invocation
        .args
        .keys()
        .filter(|name| !member.params.iter().any(|p| p.name == **name))
        .cloned()
        .collect();
    for name in unknown {
        if !open {
            return Err(Error::new(
                Kind::Invalid,
                format!("{} has no parameter {name}", member.id()),
            ));
        }
        if let Some(value) = invocation.args.remove(&name) {
            invocation.set.insert(name, value);
        }
    }
    if let Some(filter) = invocation.filter.take() {
        let text = filter
            .encode()
            .map_err(|e| Error::new(Kind::Invalid, format!("the filter: {e}")))?;
        invocation.args.insert("filter".to_owned(), text.into());
    }
    if let Some(Value::Array(items)) = invocation.args.get("fields") {
        let text: Vec<String> = items.iter().map(plain).collect();
        invocation
            .args
            .insert("fields".to_owned(), text.join(",").into());
    }
    Ok(Run {
        invocation,
        member,
        replies: Vec::new(),
        pick: Vec::new(),
    })
}

impl Run {
    /// Makes sure that the columns of rows on the way are known that the requests need.
    pub(crate) async fn learn(&self, way: &Way) -> Result<()> {
        let mut wanted: Vec<(String, String)> = Vec::new();
        for step in &way.steps {
            for value in step.entries.values() {
                columns(value, &mut wanted);
            }
        }
        for (_, value) in &self.member.scope {
            columns(value, &mut wanted);
        }
        for pick in self.member.pick.values() {
            for value in pick.as_object().into_iter().flat_map(|m| m.values()) {
                columns(value, &mut wanted);
            }
        }
        let scopes = &self.invocation.node.scopes;
        for scope in scopes {
            let missing = wanted.iter().any(|(class, column)| {
                let mine = *class == scope.class || !scopes.iter().any(|s| s.class == *class);
                mine && !scope.row().contains_key(column)
            });
            if !missing {
                continue;
            }
            let Some((table, fields)) = crate::generated::rows::projection_of(&scope.class) else {
                continue;
            };
            let get = GetQuery {
                fields: Some(fields),
                ..GetQuery::default()
            };
            let key = scope.key.to_string();
            let bytes = self
                .invocation
                .node
                .client
                .document(table.to_owned(), Some(key), ListQuery::default(), get)
                .await?;
            let value: Value = parse(&bytes)?;
            let row = match value {
                Value::Array(rows) => rows.into_iter().next().unwrap_or_default(),
                value => value,
            };
            if let Value::Object(row) = row {
                scope.row().extend(row);
            }
        }
        Ok(())
    }

    /// Other columns are asked for in every way of reading the rows, also where that was not written down.
    fn fields_entry<'a>(&self, way: &'a Way, step: &Step, entry: &Value) -> Option<&'a Value> {
        if self.arg("fields").is_none() || entry[0] != "p" {
            return None;
        }
        let siblings = way.steps.iter().filter(|s| {
            s.id != step.id && s.method == "GET" && s.entries.get("p.0") == step.entries.get("p.0")
        });
        let mut entries = siblings.filter_map(|s| s.entries.get("q.fields"));
        entries.find(|e| e[0].is_array() && e[0][1] == *entry)
    }

    /// The parts of a step's request.
    pub(crate) fn build(&self, way: &Way, step: &Step) -> Result<Built> {
        let mut built = Built::default();
        let mut filters = Vec::new();
        let mut own_filter = None;
        for (name, entry) in &step.entries {
            let shared = (name == "q.fields").then(|| self.fields_entry(way, step, entry));
            let entry = shared.flatten().unwrap_or(entry);
            let Some(expr) = self.choose(entry) else {
                continue;
            };
            let Some(value) = eval(self, expr)? else {
                continue;
            };
            match name.split_once('.') {
                Some(("p", _)) => built.path.push(plain(&value)),
                Some(("f", _)) => {
                    let own = expr[1][0][0] == "a" && expr[1][0][1] == "filter";
                    match own {
                        true => own_filter = Some(plain(&value)),
                        false => filters.push(plain(&value)),
                    }
                }
                Some(("q", name)) => {
                    built.query.insert(name.to_owned(), plain(&value));
                }
                Some(("b", way)) => {
                    put(built.body.get_or_insert_default(), way, value);
                }
                None if name == "b" => {
                    if let Value::Object(map) = value {
                        built.body.get_or_insert_default().extend(map);
                    }
                }
                _ => {}
            }
        }
        let here = way.spread_step.is_empty() || way.spread_step.contains(&step.id);
        if here && !self.invocation.set.is_empty() {
            for place in &way.spread {
                match place.as_str() {
                    "f" if step.method == "GET" => {
                        for (column, value) in &self.invocation.set {
                            filters.push(condition(column, value)?);
                        }
                    }
                    "b" if matches!(step.method.as_str(), "POST" | "PUT") => {
                        let body = built.body.get_or_insert_default();
                        body.extend(self.invocation.set.clone());
                    }
                    place if place.starts_with("b.") && step.method != "GET" => {
                        let body = built.body.get_or_insert_default();
                        for (column, value) in &self.invocation.set {
                            put(body, &format!("{}.{column}", &place[2..]), value.clone());
                        }
                    }
                    _ => {}
                }
            }
        }
        if let Some(own) = own_filter {
            filters.insert(
                0,
                match filters.is_empty() {
                    true => own,
                    false => format!("({own})"),
                },
            );
        }
        if filters.len() > 1 {
            for f in &mut filters {
                // An alternative in the middle would swallow what stands before it.
                if f.contains(" or ") && !f.starts_with('(') {
                    *f = format!("({f})");
                }
            }
        }
        if !filters.is_empty() {
            built
                .query
                .insert("filter".to_owned(), filters.join(" and "));
        }
        let limit = step.entries.get("q.limit");
        built.unique = limit.is_some_and(|l| l == &serde_json::json!(["k", "1"]))
            && built.query.contains_key("filter")
            && !built.query.contains_key("sort");
        if built.unique {
            // Two, to know whether the one is the only one.
            built.query.insert("limit".to_owned(), "2".to_owned());
        }
        Ok(built)
    }

    async fn step(&mut self, way: &Way, step: &Step, after_write: bool) -> Result<()> {
        let built = self.build(way, step)?;
        let ordered = built.query.contains_key("sort");
        let unique = built.unique;
        let listed = step.method == "GET" && built.path.len() == 1;
        let table_name = built.path.first().cloned().unwrap_or_default();
        let wait = self.waits(step, &built);
        let mut bytes;
        let value = if let Some((wait, at)) = wait {
            let (value, got) = self.poll(&built, wait, at).await?;
            bytes = got;
            value
        } else if step.method == "GET" {
            let mut tries = 0;
            loop {
                bytes = self.read(&built).await?;
                // Some tables give no usable receipt, and the new row is found a moment later.
                let empty = bytes.trim_ascii() == b"[]" || bytes.trim_ascii().is_empty();
                if !(empty && listed && after_write && tries < 5) {
                    break;
                }
                tries += 1;
                tokio::time::sleep(Duration::from_millis(100 << tries)).await;
            }
            let last = way.steps.last().is_some_and(|s| s.id == step.id);
            let typed = way.returns.get(1).and_then(Value::as_u64) == Some(step.id as u64);
            // Ten thousand rows are not read twice: what is only given back is read there.
            match last && typed && listed && self.member.pick.is_empty() && bytes.len() > 65536 {
                true => Value::Null,
                false => parse(&bytes)?,
            }
        } else {
            let value = self.write(step, built).await?.value.unwrap_or_default();
            bytes = match &value {
                Value::Null => Bytes::new(),
                value => serde_json::to_vec(value).unwrap_or_default().into(),
            };
            value
        };
        if unique && value.as_array().is_some_and(|rows| rows.len() > 1) {
            return Err(crate::client::ambiguous(&self.member.table, self.asked()));
        }
        self.replies.push(Reply {
            id: step.id,
            bytes,
            value,
            ordered,
            table: table_name,
        });
        self.check_scope(step)
    }

    /// A row of another parent is refused before anything is done to it.
    fn check_scope(&self, step: &Step) -> Result<()> {
        let Some(reply) = self.replies.last() else {
            return Ok(());
        };
        let own = step
            .entries
            .get("p.0")
            .is_some_and(|t| t[1] == self.member.table.as_str());
        if step.method != "GET" || !step.entries.contains_key("p.1") || !own {
            return Ok(());
        }
        let row = match &reply.value {
            Value::Array(rows) => rows.first(),
            value => Some(value),
        };
        for (column, expr) in &self.member.scope {
            let Some(have) = row.and_then(|r| r.get(column)) else {
                continue;
            };
            let Some(wanted) = eval(self, expr)? else {
                continue;
            };
            if !same(have, &wanted) {
                return Err(Error::new(
                    Kind::NotFound,
                    format!(
                        "{} {} does not belong to {column} {}",
                        self.member.model,
                        boxrig_wire::Untrusted::new(self.asked()),
                        boxrig_wire::Untrusted::new(plain(&wanted)),
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Whether a step waits for the row to say that it has ended.
    fn waits(&self, step: &Step, built: &Built) -> Option<(Wait, usize)> {
        if step.method != "GET" || built.path.len() != 2 {
            return None;
        }
        let at = WORK
            .iter()
            .position(|(t, ..)| built.path.first().is_some_and(|p| p == t))?;
        let has = |name: &str| self.member.params.iter().any(|p| p.name == name);
        let on = self.arg("wait").is_none_or(|v| v == &Value::Bool(true));
        let waits = match has("wait") {
            true => self.arg("wait") == Some(&Value::Bool(true)),
            false => {
                has("timeout") || has("wait_timeout") || self.member.member.starts_with("wait")
            }
        };
        if !waits || !on {
            return None;
        }
        let seconds = |names: [&str; 2]| {
            let value = names.iter().find_map(|n| self.arg(n))?.as_f64()?;
            (value.is_finite() && value >= 0.0).then(|| Duration::from_secs_f64(value))
        };
        let mut wait = self.invocation.wait.unwrap_or_default();
        if let Some(timeout) = seconds(["timeout", "wait_timeout"]) {
            wait.timeout = timeout;
        }
        if let Some(interval) = seconds(["poll_interval", "interval"]) {
            wait.interval = interval;
        }
        Some((wait, at))
    }

    async fn poll(&self, built: &Built, wait: Wait, at: usize) -> Result<(Value, Bytes)> {
        let Some((table, done, failed)) = WORK.get(at) else {
            return Err(Error::new(Kind::Failed, "no such work"));
        };
        let (value, bytes) = wait
            .until(table, || async {
                let bytes = self.read(built).await?;
                let value: Value = parse(&bytes)?;
                let status = value["status"].as_str().unwrap_or("").to_owned();
                Ok(match done.contains(&status.as_str()) {
                    true => Seen::Idle((value, bytes)),
                    false => {
                        let mut progress = Progress::phase(status);
                        progress.fraction = value["progress"].as_f64().map(|p| p / 100.0);
                        Seen::Running(progress)
                    }
                })
            })
            .await?;
        let status = value["status"].as_str().unwrap_or("");
        let words = ["error", "result", "status_info"]
            .iter()
            .find_map(|n| value[*n].as_str().filter(|t| !t.is_empty()));
        let quiet = self.arg("raise_on_error") == Some(&Value::Bool(false));
        let task = *table == "tasks" && value["error"].as_str().is_some_and(|t| !t.is_empty());
        if (failed.contains(&status) || task) && !quiet {
            return Err(
                Error::new(Kind::Failed, format!("{table}: the work failed"))
                    .with_operation("get")
                    .with_server_message(words.unwrap_or(status)),
            );
        }
        Ok((value, bytes))
    }

    async fn read(&self, built: &Built) -> Result<Bytes> {
        let mut path = built.path.iter();
        let table = path.next().cloned().unwrap_or_default();
        let text = |name: &str| built.query.get(name).cloned();
        let number = |name: &str| {
            let text = text(name)?;
            text.parse::<u64>().ok()
        };
        let list = ListQuery {
            filter: text("filter"),
            fields: text("fields"),
            sort: text("sort"),
            limit: number("limit"),
            offset: number("offset"),
        };
        let get = GetQuery {
            fields: text("fields"),
            ..GetQuery::default()
        };
        let client = &self.invocation.node.client;
        client
            .document(table, path.next().cloned(), list, get)
            .await
    }

    async fn write(&self, step: &Step, built: Built) -> Result<Written> {
        let client = &self.invocation.node.client;
        let mut path = built.path.into_iter();
        let mut next = || path.next().unwrap_or_default();
        let (table, key, verb) = (next(), next(), next());
        let body = built.body.unwrap_or_default();
        match (step.method.as_str(), key.is_empty(), verb.is_empty()) {
            ("POST", true, _) => match table.strip_suffix("_actions") {
                Some(kind) if body.contains_key("action") => {
                    let body = Json(action_post(body));
                    client
                        .call::<TableAction>((kind.to_owned(),), Default::default(), body)
                        .await
                }
                _ => {
                    client
                        .call::<TableCreate>((table,), Default::default(), Json(body))
                        .await
                }
            },
            ("POST", false, true) => {
                client
                    .call::<TableVerb>((table, key), Default::default(), Json(body))
                    .await
            }
            ("POST", false, false) => {
                client
                    .call::<RowVerb>((table, key, verb), Default::default(), Json(body))
                    .await
            }
            ("PUT", _, true) => {
                let query = WriteQuery {
                    action: built.query.get("action").cloned(),
                    filepos: None,
                };
                match query.action.is_some() {
                    true => {
                        client
                            .call::<RowAction>((table, key), query, Json(body))
                            .await
                    }
                    false => {
                        client
                            .call::<TableUpdate>((table, key), query, Json(body))
                            .await
                    }
                }
            }
            ("PUT", ..) => {
                client
                    .call::<RowApply>((table, key, verb), Default::default(), Json(body))
                    .await
            }
            ("DELETE", ..) => {
                client
                    .call::<TableDelete>((table, key), Default::default(), Default::default())
                    .await
            }
            (method, ..) => Err(Error::new(
                Kind::Failed,
                format!("the table of members has {method}"),
            )),
        }
    }
}

fn action_post(mut body: Row) -> ActionPost {
    let action = body.remove("action").map(|v| plain(&v));
    let mut post = ActionPost {
        action: action.unwrap_or_default(),
        ..ActionPost::default()
    };
    match body.remove("params") {
        Some(Value::Object(params)) => post.params = params,
        Some(other) => {
            body.insert("params".to_owned(), other);
        }
        None => {}
    }
    post.row = body;
    post
}

/// A column and its value as a filter; wildcards and lists as the vendor's SDK takes them.
fn condition(column: &str, value: &Value) -> Result<String> {
    let one = |value: &Value| match value {
        Value::String(text) if text.contains(['*', '?']) => Filter::like(column, text),
        Value::String(text) => Filter::eq(column, text.as_str()),
        Value::Bool(b) => Filter::eq(column, *b),
        Value::Number(n) => match n.as_i64() {
            Some(n) => Filter::eq(column, n),
            None => Filter::eq(column, n.as_f64().unwrap_or(f64::NAN)),
        },
        _ => Filter::eq(column, crate::filter::Literal::Null),
    };
    let filter = match value {
        Value::Array(items) => {
            let mut items = items.iter();
            let Some(first) = items.next() else {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("{column}: no value, which would match nothing"),
                ));
            };
            let chain = items.fold(one(first), |chain, item| chain.or(one(item)));
            return chain
                .encode()
                .map(|text| format!("({text})"))
                .map_err(|e| Error::new(Kind::Invalid, format!("the filter: {e}")));
        }
        value => one(value),
    };
    filter
        .encode()
        .map_err(|e| Error::new(Kind::Invalid, format!("the filter: {e}")))
}

/// A request in parts.
#[derive(Default)]
pub(crate) struct Built {
    pub(crate) path: Vec<String>,
    pub(crate) query: std::collections::BTreeMap<String, String>,
    body: Option<Row>,
    unique: bool,
}

fn parse(bytes: &Bytes) -> Result<Value> {
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes).map_err(|e| {
        Error::new(
            Kind::Protocol,
            format!("the reply is not the expected JSON: {e}"),
        )
        .with_body(bytes)
    })
}

/// The columns of rows on the way that an expression names.
fn columns(value: &Value, out: &mut Vec<(String, String)>) {
    if let Value::Array(list) = value {
        let at = usize::from(list.first().is_some_and(|t| t == "v"));
        if list.get(at).is_some_and(|t| t == "s")
            && let (Some(class), Some(column)) = (
                list.get(at + 1).and_then(Value::as_str),
                list.get(at + 2).and_then(Value::as_str),
            )
        {
            out.push((class.to_owned(), column.to_owned()));
        }
        for item in list {
            columns(item, out);
        }
    } else if let Value::Object(map) = value {
        for item in map.values() {
            columns(item, out);
        }
    }
}

/// Carries a member out.
pub(crate) async fn run(invocation: Invocation) -> Result<Ran> {
    let mut run = begin(invocation)?;
    if let Some(special) = run.member.special.clone()
        && let Some(ran) = super::special::run(&special, &mut run).await?
    {
        return Ok(ran);
    }
    if run.member.kind == "property" && run.member.ways.iter().all(|w| w.steps.is_empty()) {
        return property(run).await;
    }
    let way = run.way()?;
    run.learn(&way).await?;
    carry_out(run, way).await
}

pub(crate) async fn carry_out(mut run: Run, way: Way) -> Result<Ran> {
    let steps: Vec<Step> = way.steps.clone();
    let last = steps.iter().rfind(|s| run.applies(s)).map(|s| s.id);
    run.pick = picks(&run, last)?;
    let mut wrote = false;
    let mut sent = false;
    for step in &steps {
        if !run.applies(step) || run.idle(step) {
            continue;
        }
        run.step(&way, step, wrote).await?;
        wrote = step.method == "POST";
        sent = true;
    }
    if !sent && !steps.is_empty() {
        return Err(Error::new(
            Kind::Invalid,
            format!("{}: nothing to do was given", run.member.id()),
        ));
    }
    finish(run, &way)
}

fn picks(run: &Run, last: Option<usize>) -> Result<Picks> {
    let mut out = Vec::new();
    for (step, columns) in &run.member.pick {
        let id = match step.as_str() {
            "last" => last,
            n => n.parse().ok(),
        };
        let mut pairs = Vec::new();
        for (column, expr) in columns.as_object().into_iter().flatten() {
            let tail = expr[0] == "tail";
            let expr = if tail { &expr[1] } else { expr };
            if let Some(value) = eval(run, expr)? {
                pairs.push((column.clone(), value));
            }
        }
        if let (Some(id), false) = (id, pairs.is_empty()) {
            out.push((id, pairs));
        }
    }
    Ok(out)
}

pub(crate) fn finish(run: Run, way: &Way) -> Result<Ran> {
    let mut keep = Vec::new();
    for (column, expr) in &run.member.keep {
        let value = match expr[0].as_str() {
            Some("prefix") => eval(&run, &expr[1])?.map(|v| serde_json::json!({ "prefix": v })),
            Some("within_days") => {
                let days = eval(&run, &expr[1])?.and_then(|v| v.as_i64()).unwrap_or(30);
                let now = crate::Time::from(std::time::SystemTime::now()).0;
                let until = now.saturating_add(days.saturating_mul(86400));
                Some(serde_json::json!({ "until": until }))
            }
            _ => eval(&run, expr)?,
        };
        if let Some(value) = value {
            keep.push((column.clone(), value));
        }
    }
    let asked = run.asked();
    let kind = way
        .returns
        .first()
        .and_then(Value::as_str)
        .unwrap_or("")
        .to_owned();
    let returns = way.returns.get(1).and_then(Value::as_u64);
    Ok(Ran {
        returns: returns.and_then(|n| usize::try_from(n).ok()),
        kind,
        replies: run.replies,
        keep,
        pick: run.pick,
        asked,
        member: run.member,
        document: None,
        content: None,
        transferred: None,
        client: None,
    })
}

impl Reply {
    /// The table that was asked.
    pub(crate) fn table_name(&self) -> &str {
        &self.table
    }
}

impl Ran {
    /// Makes the document the reply, so that it can be read as a row.
    pub(crate) fn give_row(&mut self) {
        let value = self.document.take().unwrap_or_default();
        self.replies.push(Reply {
            id: 0,
            bytes: serde_json::to_vec(&value).unwrap_or_default().into(),
            value,
            ordered: false,
            table: self.member.table.clone(),
        });
    }
    /// With nothing but a document.
    pub(crate) fn of(run: &Run, document: Value) -> Self {
        Self {
            member: run.member.clone(),
            replies: Vec::new(),
            returns: None,
            kind: String::new(),
            keep: Vec::new(),
            pick: Vec::new(),
            asked: run.asked(),
            document: Some(document),
            content: None,
            transferred: None,
            client: None,
        }
    }
}

/// A property: the key of the row that a manager belongs to.
async fn property(run: Run) -> Result<Ran> {
    let want = run.member.member.trim_end_matches("_key").to_owned();
    let scopes = &run.invocation.node.scopes;
    let by_class = |name: &str| {
        scopes
            .iter()
            .rev()
            .find(|s| s.class.to_ascii_lowercase().contains(name))
    };
    let scope = match want.as_str() {
        "machine" => scopes.last(),
        "network" => by_class("network"),
        "view" => by_class("dnsview"),
        "zone" => by_class("dnszone"),
        other => by_class(other).or(scopes.last()),
    };
    let Some(scope) = scope else {
        return Ok(Ran::of(&run, Value::Null));
    };
    let value = match want.as_str() {
        "machine" => {
            let way = Way {
                when: Vec::new(),
                spread: Vec::new(),
                spread_step: Vec::new(),
                steps: Vec::new(),
                returns: Vec::new(),
            };
            run.learn(&way).await?;
            let class = scope.class.clone();
            run.scope(&class, "machine")?
        }
        _ => scope.key.clone().into(),
    };
    Ok(Ran::of(&run, value))
}

/// What a manager's `list` would ask for.
pub(crate) struct Plan {
    pub(crate) table: String,
    pub(crate) filter: Option<String>,
    pub(crate) fields: Option<String>,
    pub(crate) sort: Option<String>,
}

pub(crate) async fn plan_list(invocation: Invocation) -> Result<Plan> {
    let run = begin(invocation)?;
    let way = run.way()?;
    run.learn(&way).await?;
    let steps = way.steps.iter();
    let step = steps
        .filter(|s| run.applies(s))
        .rfind(|s| s.method == "GET")
        .ok_or_else(|| Error::new(Kind::Unsupported, "there is no list to go through"))?;
    let mut built = run.build(&way, step)?;
    Ok(Plan {
        table: built.path.into_iter().next().unwrap_or_default(),
        filter: built.query.remove("filter"),
        fields: built.query.remove("fields"),
        sort: built.query.remove("sort"),
    })
}
