//! What the behaviours share: rows written as JSON, log lines, satellites, tasks.

use std::sync::Arc;

use boxrig_vergeos::Written;
use boxrig_wire::ApiError;
use serde_json::{Value, json};

use crate::vergeos::db::Read;
use crate::vergeos::tx::Tx;

pub(super) use crate::vergeos::mutate::mutated;
use crate::vergeos::row::{Row, split_poly};

/// What most hooks answer.
pub(super) type Done = Result<(), ApiError>;

/// How long a finished task is shown that nobody made by hand.
const TASK_KEPT_MS: u64 = 3_600_000;

/// A row written as a JSON object.
pub(super) fn cells(value: Value) -> Row {
    match value {
        Value::Object(cells) => Row(cells),
        _ => Row::new(),
    }
}

/// A key as a reference column holds it: a number, unless it is a name or a hash.
pub(super) fn key(text: &str) -> Value {
    match text.parse::<i64>() {
        Ok(n) if text.len() < 19 => Value::from(n),
        _ => Value::from(text),
    }
}

/// The key that a JSON number or text is.
pub(super) fn key_of(value: &Value) -> Option<String> {
    crate::vergeos::row::key_text(value).map(std::borrow::Cow::into_owned)
}

/// Refused because of the state things are in.
pub(super) fn conflict(words: impl Into<String>) -> ApiError {
    ApiError::conflict(words.into())
}

/// Refused because a value is wrong: 422 on this platform.
pub(super) fn invalid(words: impl Into<String>) -> ApiError {
    ApiError::invalid(words.into())
}

/// There is no such row.
pub(super) fn missing(table: &str, key: &str) -> ApiError {
    ApiError::not_found(format!("row '{key}' of '{table}' does not exist"))
}

/// A row that must be there.
pub(super) fn need(db: &dyn Read, table: &str, key: &str) -> Result<Arc<Row>, ApiError> {
    db.get(table, key).ok_or_else(|| missing(table, key))
}

/// Sets a cell unless the request gave one.
pub(super) fn default(row: &mut Row, column: &str, value: impl Into<Value>) {
    let given = row.get(column);
    if given.is_null() || given.as_str() == Some("") {
        row.set(column, value);
    }
}

/// The one row of a satellite table (`machine_status` of a machine).
pub(super) fn satellite(db: &dyn Read, table: &str, column: &str, of: &str) -> Option<Arc<Row>> {
    db.children(table, column, of).into_iter().next()
}

/// Changes the one row of a satellite table; makes it when it is missing.
pub(super) fn set_satellite(
    tx: &mut Tx<'_>,
    table: &str,
    column: &str,
    of: &str,
    changes: Value,
) -> Done {
    match satellite(&*tx, table, column, of) {
        Some(row) => {
            tx.set(table, &row.key(), cells(changes))?;
        }
        None => {
            let mut row = cells(changes);
            row.set(column, key(of));
            tx.insert(table, row)?;
        }
    }
    Ok(())
}

/// Who asks: the name of a user, or `system` for the server's own doing.
pub(super) fn who(tx: &Tx<'_>) -> String {
    let user = tx.user().and_then(|key| tx.get("users", &key.to_string()));
    user.map_or_else(|| "system".to_owned(), |row| row.text("name").to_owned())
}

/// The present time in milliseconds since 1970.
pub(super) fn now_ms(tx: &Tx<'_>) -> u64 {
    tx.state.core.now_ms()
}

/// The present time in microseconds since 1970.
pub(super) fn now_us(tx: &Tx<'_>) -> i64 {
    i64::try_from(now_ms(tx))
        .unwrap_or(i64::MAX / 1000)
        .saturating_mul(1000)
}

/// A line of the system's log. `kind` is `vm`, `vnet`, `tenant`, `task` and so on.
pub(super) fn log(tx: &mut Tx<'_>, level: &str, kind: &str, name: &str, text: &str) -> Done {
    let line = json!({"level": level, "object_type": kind, "object_name": name, "text": text,
        "user": who(&*tx), "timestamp": now_us(&*tx)});
    tx.insert("logs", cells(line))?;
    Ok(())
}

/// A line of the log of a thing of its own (`machine_logs`, `tenant_logs`, …).
pub(super) fn own_log(
    tx: &mut Tx<'_>,
    table: &str,
    column: &str,
    of: &str,
    level: &str,
    text: &str,
) -> Done {
    let mut line =
        cells(json!({"level": level, "text": text, "user": who(&*tx), "timestamp": now_us(&*tx)}));
    line.set(column, key(of));
    tx.insert(table, line)?;
    Ok(())
}

/// A task that the platform itself runs, shown while it runs and for an hour after it.
pub(super) fn begin_task(
    tx: &mut Tx<'_>,
    name: &str,
    action: &str,
    owner: &str,
) -> Result<String, ApiError> {
    let (table, _) = split_poly(owner).unwrap_or(("", ""));
    let row = json!({"name": name, "description": "", "enabled": true, "status": "running", "progress": 0,
        "action": action, "action_display": crate::vergeos::schema::label(action), "table": table, "owner": owner,
        "creator": "users/1", "system_created": true, "delete_after_run": true, "last_run": tx.now(),
        "created": tx.now(), "id": tx.ids().hex(40), "error": ""});
    tx.insert("tasks", cells(row))
}

/// Ends a task, with an error or without.
pub(super) fn end_task(tx: &mut Tx<'_>, task: &str, error: Option<&str>) -> Done {
    let Some(row) = tx.get("tasks", task) else {
        return Ok(());
    };
    let error = error.filter(|_| !mutated("task_errors"));
    let status = if error.is_some() { "error" } else { "idle" };
    let changes = json!({"status": status, "progress": 100, "error": error.unwrap_or(""), "last_run": tx.now()});
    tx.set("tasks", task, cells(changes))?;
    if row.flag("system_created") && row.flag("delete_after_run") {
        let at = now_ms(&*tx).saturating_add(TASK_KEPT_MS);
        tx.at(at, &format!("task.forget/{task}"), json!({"task": task}))?;
    }
    let (level, text) = match error {
        None => ("message", "Task finished".to_owned()),
        Some(words) => ("error", format!("Task failed: {words}")),
    };
    let name = row.text("name").to_owned();
    log(tx, level, "task", &name, &text)
}

/// A reply to an action: nothing, or what the action gave under `response`.
pub(super) fn answer(response: Option<Value>, task: Option<&str>) -> Row {
    let mut reply = Row::new();
    if let Some(response) = response {
        reply.set("response", response);
    }
    if let Some(task) = task {
        reply.set("task", key(task));
    }
    reply
}

/// The answer to an action: 201, with a body when there is something to say.
pub(super) fn reply(row: Row) -> Written {
    Written::created((!row.0.is_empty()).then_some(Value::Object(row.0)))
}
