//! Members without a request of their own: what a row shows of itself.

use boxrig_wire::{Error, Kind, Result};
use serde_json::Value;

use super::catalogue::Way;
use super::ran::Ran;
use super::run::Run;
use super::send::parse;
use super::value::Look;
use crate::ops::{GetQuery, ListQuery};

/// A document of the row's columns, which are asked for unless they are known.
pub(super) async fn view(run: Run) -> Result<Ran> {
    let member = &run.member;
    let node = &run.invocation.node;
    let scope = node
        .scopes
        .last()
        .ok_or_else(|| Error::new(Kind::Invalid, format!("{} belongs to a row", member.id())))?;
    let known = scope.row().clone();
    let row = match known.len() > 1 {
        true => known,
        false => {
            // All columns: some are in no projection.
            let get = GetQuery::default();
            let (table, key) = (member.table.clone(), Some(scope.key.to_string()));
            let list = ListQuery::default();
            let bytes = match member.table.ends_with("dashboard") {
                // There is one, without a key.
                true => node.client.document(table, None, list, get).await?,
                false => node.client.document(table, key, list, get).await?,
            };
            match parse(&bytes)? {
                Value::Array(rows) => rows.into_iter().next().unwrap_or_default(),
                row => row,
            }
            .as_object()
            .cloned()
            .unwrap_or_default()
        }
    };
    let shown = crate::views::of(&member.class, &member.member, &run.invocation.args, row);
    let shown = shown.ok_or_else(|| {
        let asked = boxrig_wire::Untrusted::new(run.asked());
        Error::new(Kind::Invalid, format!("{} has no {asked}", member.id()))
    })?;
    Ok(Ran::of(&run, shown))
}

/// A property: the key of the row that a manager belongs to.
pub(super) async fn property(run: Run) -> Result<Ran> {
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
