//! What was answered, before it is given its type.

use std::any::Any;

use boxrig_wire::Result;
use bytes::Bytes;
use serde_json::Value;

use super::catalogue::Member;
use super::outcome::same;
use super::run::Run;
use crate::Client;
use crate::client::Transferred;

/// By step: what the row is known by that is meant.
pub(crate) type Picks = Vec<(usize, Vec<(String, Value)>)>;

/// One reply.
pub(crate) struct Reply {
    pub(crate) id: usize,
    pub(crate) bytes: Bytes,
    pub(crate) value: Value,
    /// The first row is meant when there are several: they were asked for in an order.
    pub(crate) ordered: bool,
    /// The table that was asked.
    pub(crate) table: String,
}

/// What was answered.
pub struct Ran {
    pub(crate) member: Member,
    pub(crate) replies: Vec<Reply>,
    pub(crate) returns: Option<usize>,
    pub(crate) kind: String,
    pub(crate) keep: Vec<(String, Value)>,
    pub(crate) pick: Picks,
    pub(crate) asked: String,
    pub(crate) document: Option<Value>,
    pub(crate) content: Option<Bytes>,
    /// The rows of the reply that is given back, read already as what they are given back as.
    pub(crate) rows: Option<Box<dyn Any + Send + Sync>>,
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
            rows: None,
            transferred: None,
            client: None,
        }
    }
}
