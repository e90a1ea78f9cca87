//! The table of members.

use std::sync::OnceLock;

use boxrig_wire::{Error, Kind, Result};
use serde::Deserialize;
use serde_json::Value;

const DATA: &str = include_str!("../../data/members.jsonl");

/// One member: how it is called and what it asks.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Member {
    /// The place it is at, such as `client.vms[VM].drives`.
    pub accessor: String,
    /// The class of the vendor's SDK.
    pub class: String,
    /// Its name.
    pub member: String,
    /// `method`, `property` or `object-method`.
    pub kind: String,
    /// The vendor's word for what it gives back.
    pub returned: String,
    /// The class of the rows it is about.
    #[serde(default)]
    pub model: String,
    /// The table it is about.
    #[serde(default)]
    pub table: String,
    /// Its parameters.
    #[serde(default)]
    pub params: Vec<Param>,
    #[serde(default)]
    pub(crate) ways: Vec<Way>,
    #[serde(default)]
    pub(crate) scope: Vec<(String, Value)>,
    #[serde(default)]
    pub(crate) keep: serde_json::Map<String, Value>,
    #[serde(default)]
    pub(crate) pick: serde_json::Map<String, Value>,
    #[serde(default)]
    pub(crate) special: Option<String>,
}

/// A parameter.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Param {
    /// Its name.
    #[serde(rename = "n")]
    pub name: String,
    /// Its type in the vendor's SDK; `**` takes any column.
    #[serde(rename = "t")]
    pub ty: String,
    /// Whether it must be given.
    #[serde(rename = "req", default)]
    pub required: bool,
    /// What the vendor's SDK takes when it is not given.
    #[serde(rename = "d", default)]
    pub default: Option<Value>,
    /// The words it may say.
    #[serde(default)]
    pub one_of: Vec<Value>,
}

/// One way of a member, taken when its conditions hold.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Way {
    #[serde(default)]
    pub(crate) when: Vec<(String, Value)>,
    #[serde(default)]
    pub(crate) spread: Vec<String>,
    #[serde(default)]
    pub(crate) spread_step: Vec<usize>,
    #[serde(default)]
    pub(crate) steps: Vec<Step>,
    #[serde(default)]
    pub(crate) returns: Vec<Value>,
}

/// One request.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Step {
    pub(crate) id: usize,
    #[serde(rename = "m")]
    pub(crate) method: String,
    #[serde(rename = "e")]
    pub(crate) entries: serde_json::Map<String, Value>,
    #[serde(rename = "if", default)]
    pub(crate) conditions: Vec<(String, Value)>,
    #[serde(default)]
    pub(crate) unless: Vec<(String, Value)>,
}

impl Member {
    /// Whether it is made of the row's own columns ([`crate::views`]).
    pub fn is_view(&self) -> bool {
        crate::views::is_one(&self.class, &self.member)
    }
    /// Whether it is carried out: by requests, by content, or as a view. A property is known without any of these.
    pub fn is_carried_out(&self) -> bool {
        self.kind == "property"
            || self.is_view()
            || self.special.is_some()
            || self.ways.iter().any(|w| !w.steps.is_empty())
    }
    /// The names of the actions that it asks for.
    pub fn actions(&self) -> Vec<&str> {
        let steps = self.ways.iter().flat_map(|w| &w.steps);
        let named = steps.flat_map(|s| ["b.action", "q.action", "p.2"].map(|e| s.entries.get(e)));
        named.flatten().filter_map(|e| e[1].as_str()).collect()
    }
    /// `Class.member`.
    pub fn id(&self) -> String {
        format!("{}.{}", self.class, self.member)
    }
    /// The wire operations it uses, by their ids in the catalogue.
    pub fn operations(&self) -> Vec<&'static str> {
        let mut out: Vec<&'static str> = Vec::new();
        for step in self.ways.iter().flat_map(|w| &w.steps) {
            let id = super::request::operation(&step.method, &step.entries);
            if !out.contains(&id) {
                out.push(id);
            }
        }
        match self.special.as_deref() {
            Some("upload") => out.extend(["create", "file_put"]),
            Some("download" | "file_content" | "licence_payload") => out.push("file_get"),
            Some("cloudinit_content") => out.push("cloudinit_get"),
            Some("tenant_client") => out.extend(["get", "list"]),
            _ => {}
        }
        out
    }
    /// The tables its requests are about, without their keys.
    pub fn tables(&self) -> Vec<&str> {
        let mut out: Vec<&str> = Vec::new();
        for step in self.ways.iter().flat_map(|w| &w.steps) {
            if let Some(table) = step.entries.get("p.0").and_then(|v| v[1].as_str())
                && !out.contains(&table)
            {
                out.push(table);
            }
        }
        out
    }
    /// The method of each request it can make, with its table.
    pub fn requests(&self) -> Vec<(&str, &str)> {
        let steps = self.ways.iter().flat_map(|w| &w.steps);
        steps
            .filter_map(|s| Some((s.method.as_str(), s.entries.get("p.0")?[1].as_str()?)))
            .collect()
    }
}

/// The lines, sorted by place and name.
fn lines() -> &'static [(&'static str, &'static str, &'static str)] {
    static LINES: OnceLock<Vec<(&'static str, &'static str, &'static str)>> = OnceLock::new();
    LINES.get_or_init(|| {
        let mut lines: Vec<_> = DATA
            .lines()
            .skip(1)
            .filter_map(|line| {
                let (accessor, rest) = line.split_once('\t')?;
                let (member, json) = rest.split_once('\t')?;
                Some((accessor, member, json))
            })
            .collect();
        lines.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        lines
    })
}

/// A projection by its number.
pub(crate) fn projection(at: usize) -> Option<&'static str> {
    static TEXTS: OnceLock<Vec<String>> = OnceLock::new();
    let texts = TEXTS.get_or_init(|| {
        #[derive(Deserialize)]
        struct Head {
            projections: Vec<String>,
        }
        let head = DATA.lines().next().unwrap_or("");
        serde_json::from_str::<Head>(head).map_or_else(|_| Vec::new(), |h| h.projections)
    });
    texts.get(at).map(String::as_str)
}

/// A member by its place and name.
pub(crate) fn find(accessor: &str, member: &str) -> Option<Result<Member>> {
    let lines = lines();
    let at = lines
        .binary_search_by(|l| (l.0, l.1).cmp(&(accessor, member)))
        .ok()?;
    lines.get(at).map(|(_, _, json)| {
        serde_json::from_str(json)
            .map_err(|e| Error::new(Kind::Failed, format!("the table of members: {e}")))
    })
}

/// All members, in the order of places and names.
pub fn members() -> impl Iterator<Item = Member> {
    lines()
        .iter()
        .filter_map(|(_, _, json)| serde_json::from_str(json).ok())
}

/// Places with their members' names; cheaper than [`members`].
pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    lines().iter().map(|l| (l.0, l.1))
}
