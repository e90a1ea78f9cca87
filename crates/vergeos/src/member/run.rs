//! Carrying a member out: which way, which requests, what is checked between them.

use std::any::Any;
use std::fmt;
use std::time::Duration;

use boxrig_wire::{Error, Kind, Result};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::call::Node;
use super::catalogue::{self, Member, Step, Way};
use super::outcome::{Lister, same};
use super::ran::{Picks, Ran, Reply};
use super::send::parse;
use super::shown::{property, view};
use super::value::{Look, eval, holds, plain};
use crate::client::Wait;
use crate::ops::{GetQuery, ListQuery};
use crate::{Filter, Row};

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
    run(invocation, None).await?.into_value()
}
/// The state of a run.
pub(crate) struct Run {
    pub(crate) invocation: Invocation,
    pub(crate) member: Member,
    pub(crate) replies: Vec<Reply>,
    pub(super) pick: Picks,
    /// How the rows that are given back are listed, when that is all that is done with them.
    lister: Option<Lister>,
    rows: Option<Box<dyn Any + Send + Sync>>,
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
    pub(crate) fn choose<'a>(&self, entry: &'a Value) -> Option<&'a Value> {
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
        lister: None,
        rows: None,
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

    async fn step(&mut self, way: &Way, step: &Step, after_write: bool) -> Result<()> {
        let built = self.build(way, step)?;
        if step.method == "PUT" && self.member.member == "save" && built.is_empty() {
            return Ok(());
        }
        let ordered = built.query.contains_key("sort");
        let unique = built.unique;
        let listed = step.method == "GET" && built.path.len() == 1;
        let table_name = built.path.first().cloned().unwrap_or_default();
        let wait = self.waits(step, &built);
        let mut bytes = Bytes::new();
        let lister = self
            .lister
            .filter(|_| listed && !after_write && !unique && self.only_gives_back(way, step));
        let value = if let Some(list) = lister {
            // Ten thousand rows are read once, and not held as text besides.
            let client = self.invocation.node.client.clone();
            self.rows = Some(list(client, table_name.clone(), built.list()).await?);
            Value::Null
        } else if let Some((wait, at)) = wait {
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
            parse(&bytes)?
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
    /// Whether a step's reply is given back as it is, and nothing is looked up in it.
    fn only_gives_back(&self, way: &Way, step: &Step) -> bool {
        let last = way.steps.last().is_some_and(|s| s.id == step.id);
        let returned = way.returns.get(1).and_then(Value::as_u64) == Some(step.id as u64);
        last && returned && self.member.pick.is_empty() && self.member.keep.is_empty()
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
pub(crate) async fn run(invocation: Invocation, lister: Option<Lister>) -> Result<Ran> {
    let mut run = begin(invocation)?;
    if let Some(special) = run.member.special.clone()
        && let Some(ran) = super::special::run(&special, &mut run).await?
    {
        return Ok(ran);
    }
    if crate::views::is_one(&run.member.class, &run.member.member) {
        return view(run).await;
    }
    if run.member.kind == "property" && run.member.ways.iter().all(|w| w.steps.is_empty()) {
        return property(run).await;
    }
    run.lister = lister;
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
        rows: run.rows,
        transferred: None,
        client: None,
    })
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
