//! Sending a step, waiting for the work behind it.

use std::time::Duration;

use boxrig_wire::{Error, Json, Kind, Progress, Result};
use bytes::Bytes;
use serde_json::Value;

use super::catalogue::Step;
use super::request::{Built, action_post};
use super::run::Run;
use super::value::Look;
use crate::client::{Seen, Wait};
use crate::ops::{
    GetQuery, RowAction, RowApply, RowVerb, TableAction, TableCreate, TableDelete, TableUpdate,
    TableVerb, WriteQuery, Written,
};

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
impl Run {
    /// Whether a step waits for the row to say that it has ended.
    pub(crate) fn waits(&self, step: &Step, built: &Built) -> Option<(Wait, usize)> {
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

    pub(crate) async fn poll(
        &self,
        built: &Built,
        wait: Wait,
        at: usize,
    ) -> Result<(Value, Bytes)> {
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

    pub(crate) async fn read(&self, built: &Built) -> Result<Bytes> {
        let mut path = built.path.iter();
        let table = path.next().cloned().unwrap_or_default();
        let get = GetQuery {
            fields: built.query.get("fields").cloned(),
            ..GetQuery::default()
        };
        let client = &self.invocation.node.client;
        client
            .document(table, path.next().cloned(), built.list(), get)
            .await
    }

    pub(crate) async fn write(&self, step: &Step, built: Built) -> Result<Written> {
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
pub(crate) fn parse(bytes: &Bytes) -> Result<Value> {
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
