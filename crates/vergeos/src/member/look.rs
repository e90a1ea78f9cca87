//! Where a run finds the values that its requests are made of.

use boxrig_wire::{Error, Kind, Result};
use serde_json::Value;

use super::outcome::same;
use super::run::Run;
use super::value::Look;

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
