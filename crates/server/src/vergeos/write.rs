//! What a row may hold: types, lists of values, references, uniqueness; and what the platform fills in.

use std::sync::Arc;

use boxrig_wire::ApiError;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::db::Read;
use super::mutate::mutated;
use super::row::{Row, key_text, split_poly};
use super::schema::{Column, KeyKind, Kind, Table, label, schema};
use super::tx::Tx;
use crate::ids::{self, to_hex};

/// The cell that holds the hash of a password.
pub(super) const HASH: &str = "$hash";
/// The rounds of the hash of a password.
const ROUNDS: u32 = 10_000;

/// What a row that is about to be stored was.
#[derive(Clone, Copy)]
pub(super) enum Change<'a> {
    /// Not there.
    New,
    /// This.
    Of(&'a Arc<Row>),
}

/// Takes over what was sent, in the types of the columns. Columns that the table does not have are dropped and noted.
pub(super) fn accept(
    tx: &mut Tx<'_>,
    table: &'static Table,
    old: Option<&Row>,
    sent: Row,
    client: bool,
) -> Result<Row, ApiError> {
    let mut row = Row::new();
    for (name, value) in sent.0 {
        if name.starts_with('$') {
            // The server's own cells; a client's `$key` and the like mean nothing.
            if !client {
                row.0.insert(name, value);
            }
            continue;
        }
        let Some(column) = table.column(&name).filter(|c| c.kind.is_stored()) else {
            tx.ignored.push(name);
            continue;
        };
        let value = typed(column, value)?;
        if client && column.readonly && !mutated("readonly") {
            let same = old.is_some_and(|old| *old.get(&name) == value);
            if same {
                continue;
            }
            return Err(ApiError::invalid(format!("field '{name}' is readonly")));
        }
        if client
            && old.is_some()
            && matches!(table.key, KeyKind::Name(key) if key == name)
            && old.is_some_and(|old| *old.get(&name) != value)
        {
            return Err(ApiError::invalid(format!("field '{name}' is readonly")));
        }
        if column.kind == Kind::Password {
            if let Some(text) = value.as_str().filter(|s| !s.is_empty()) {
                row.set(HASH, password_hash(text));
            }
            continue;
        }
        row.0.insert(name, value);
    }
    Ok(row)
}

fn wrong(column: &Column, value: &Value) -> ApiError {
    let shown = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    ApiError::invalid(format!(
        "invalid value '{shown}' for field '{}'",
        column.name
    ))
}

/// The value in the column's type; numbers may come quoted, flags as 0 and 1, JSON as its text.
fn typed(column: &Column, value: Value) -> Result<Value, ApiError> {
    let bad = |value: &Value| wrong(column, value);
    Ok(match (&column.kind, value) {
        (Kind::Int | Kind::Time | Kind::TimeUs, value) => match &value {
            Value::Null => Value::Null,
            Value::Bool(b) => Value::from(i64::from(*b)),
            Value::Number(n) if n.as_i64().is_some() => value,
            Value::Number(n) => match n.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15) {
                Some(n) => Value::from(n as i64),
                None => return Err(bad(&value)),
            },
            Value::String(s) if s.trim().is_empty() => Value::Null,
            Value::String(s) => match s.trim().parse::<i64>() {
                Ok(n) => Value::from(n),
                Err(_) => return Err(bad(&value)),
            },
            _ => return Err(bad(&value)),
        },
        (Kind::Num, value) => match &value {
            Value::Null | Value::Number(_) => value,
            Value::String(s) => match s.trim().parse::<f64>() {
                Ok(n) if n.is_finite() => Value::from(n),
                _ => return Err(bad(&value)),
            },
            _ => return Err(bad(&value)),
        },
        (Kind::Bool, value) => match &value {
            Value::Null => Value::from(false),
            Value::Bool(_) => value,
            Value::Number(n) => Value::from(n.as_f64() != Some(0.0)),
            Value::String(s) => match s.as_str() {
                "true" | "1" => Value::from(true),
                "false" | "0" | "" => Value::from(false),
                _ => return Err(bad(&value)),
            },
            _ => return Err(bad(&value)),
        },
        (Kind::Text | Kind::Secret | Kind::Password | Kind::Named | Kind::Enum(_), value) => {
            match value {
                Value::Null | Value::String(_) => value,
                Value::Number(n) => Value::from(n.to_string()),
                Value::Bool(b) => Value::from(b.to_string()),
                // Lists travel as text; one that comes as JSON is kept as its text.
                other => Value::from(other.to_string()),
            }
        }
        (Kind::Json, Value::String(text)) => {
            if text.trim().is_empty() {
                return Ok(Value::Null);
            }
            serde_json::from_str(&text).map_err(|_| bad(&Value::String(text)))?
        }
        (Kind::Ref(target), value) => match value {
            Value::String(s) if s.is_empty() => Value::Null,
            // A reference is shown as the target's key is.
            Value::String(s) => match schema().table(target).map(|t| t.key) {
                Some(KeyKind::Int) => s.parse::<i64>().map_or(Value::from(s), Value::from),
                _ => Value::from(s),
            },
            Value::Number(n) => match schema().table(target).map(|t| t.key) {
                Some(KeyKind::Int) => Value::Number(n),
                _ => Value::from(n.to_string()),
            },
            Value::Null => value,
            other => return Err(bad(&other)),
        },
        (Kind::Poly, value) => match value {
            Value::String(s) => match split_poly(&s) {
                // Measured of members: what stands before it is kept as it was written.
                Some(_) if s.starts_with("/v4/") => Value::from(s),
                Some((table, key)) => Value::from(format!("{table}/{key}")),
                None => Value::from(s),
            },
            Value::Null => value,
            Value::Number(n) => Value::from(n.to_string()),
            other => return Err(bad(&other)),
        },
        (_, value) => value,
    })
}

/// What the platform puts into a new row: its key, times, who made it, defaults that are not empty.
pub(super) fn fill(tx: &mut Tx<'_>, table: &'static Table, row: &mut Row) -> Result<(), ApiError> {
    for column in &table.columns {
        let empty = match &column.default {
            Value::Null => true,
            Value::Bool(b) => !b,
            Value::Number(n) => n.as_f64() == Some(0.0),
            Value::String(s) => s.is_empty(),
            _ => false,
        };
        if !empty && !row.0.contains_key(column.name) && column.kind.is_stored() {
            row.set(column.name, column.default.clone());
        }
    }
    let now = tx.now();
    for name in ["created", "modified"] {
        if table.column(name).is_some() && !row.0.contains_key(name) {
            row.set(name, now);
        }
    }
    if let Some(user) = tx.user
        && let Some(column) = table.column("creator")
        && row.get("creator").is_null()
    {
        match column.kind {
            Kind::Poly => row.set("creator", format!("users/{user}")),
            Kind::Text => {
                let name = tx.get("users", &user.to_string());
                row.set(
                    "creator",
                    name.map_or_else(String::new, |u| u.text("name").to_owned()),
                );
            }
            _ => {}
        }
    }
    if row.key().is_empty() {
        let key = tx.new_key(table, row)?;
        row.set("$key", key);
    }
    let key = row.key();
    if key.is_empty() {
        return Err(required(
            table,
            match table.key {
                KeyKind::Name(column) => column,
                _ => "$key",
            },
        ));
    }
    match table.key {
        KeyKind::Hash if table.column("id").is_some() => row.set("id", key),
        KeyKind::Uuid => row.set("uuid", key),
        KeyKind::Int if table.column("uuid").is_some() && row.text("uuid").is_empty() => {
            let uuid = tx.ids().uuid().to_string();
            row.set("uuid", uuid);
        }
        _ => {}
    }
    Ok(())
}

fn required(_: &Table, name: &str) -> ApiError {
    ApiError::invalid(format!("{} is a required parameter", label(name)))
}

/// Checks a row as a whole, as it is about to be stored.
pub(super) fn check(
    tx: &Tx<'_>,
    table: &'static Table,
    change: Change<'_>,
    row: &Row,
) -> Result<(), ApiError> {
    let old = match change {
        Change::New => None,
        Change::Of(old) => Some(old),
    };
    for column in &table.columns {
        let value = row.get(column.name);
        if column.required && key_text(value).is_none() && !matches!(value, Value::Bool(_)) {
            return Err(required(table, column.name));
        }
        if old.is_some_and(|old| old.get(column.name) == value) {
            continue;
        }
        match (&column.kind, value) {
            (_, Value::Null) => {}
            (Kind::Enum(values), value) => {
                let text = value.as_str().unwrap_or("");
                if !values.iter().any(|(v, _)| *v == text) && !mutated("enums") {
                    return Err(ApiError::invalid(format!(
                        "value '{text}' is not in list for field '{}'",
                        column.name
                    )));
                }
            }
            (Kind::Ref(target), value) => {
                let found = key_text(value).is_some_and(|key| tx.get(target, &key).is_some());
                if !found && !mutated("references") {
                    return Err(no_target(column));
                }
            }
            (Kind::Poly, Value::String(text)) => {
                // Free text and tables that are none of ours may stand here.
                if let Some((target, key)) = split_poly(text)
                    && schema().table(target).is_some_and(|t| !t.computed)
                    && tx.get(target, key).is_none()
                {
                    return Err(no_target(column));
                }
            }
            _ => {}
        }
    }
    if let KeyKind::Name(_) = table.key
        && old.is_none()
        && tx.get(table.name, &row.key()).is_some()
    {
        return Err(exists(table, "key"));
    }
    for (columns, exempt) in &table.unique {
        if exempt.is_some_and(|e| row.flag(e)) {
            continue;
        }
        let unchanged = old.is_some_and(|old| columns.iter().all(|c| old.get(c) == row.get(c)));
        if unchanged {
            continue;
        }
        let key = row.key();
        let wanted: Vec<_> = columns.iter().map(|c| key_text(row.get(c))).collect();
        if wanted.iter().all(Option::is_none) {
            continue;
        }
        let taken = tx.find(table.name, &|other| {
            columns
                .iter()
                .zip(&wanted)
                .all(|(c, wanted)| key_text(other.get(c)) == *wanted)
                && !exempt.is_some_and(|e| other.flag(e))
                && other.key() != key
        });
        if taken.is_some() && !mutated("unique") {
            return Err(exists(table, &columns.join("', '")));
        }
    }
    Ok(())
}

fn exists(table: &Table, columns: &str) -> ApiError {
    ApiError::conflict(format!(
        "row exists: '{columns}' must be unique in {}",
        table.name
    ))
}

/// Measured: how the platform says that a reference points nowhere.
fn no_target(column: &Column) -> ApiError {
    ApiError::not_found(format!(
        "error setting field '{}': No such file or directory",
        column.name
    ))
}

/// A password as it is kept: `salt:hash`, SHA-256 over and over. The server is for loopback and tests; what it must not do is
/// keep the password itself.
pub(super) fn password_hash(password: &str) -> String {
    let salt = ids::secret();
    let salt = salt.get(..32).unwrap_or_default();
    format!("{salt}:{}", stretched(salt, password))
}

/// Whether a password is the one that was kept.
pub(super) fn password_is(kept: &str, password: &str) -> bool {
    let Some((salt, hash)) = kept.split_once(':') else {
        return false;
    };
    crate::auth::same(stretched(salt, password).as_bytes(), hash.as_bytes())
}

fn stretched(salt: &str, password: &str) -> String {
    let mut hash = Sha256::new()
        .chain_update(salt)
        .chain_update(password)
        .finalize();
    for _ in 1..ROUNDS {
        hash = Sha256::new()
            .chain_update(hash)
            .chain_update(password)
            .finalize();
    }
    to_hex(&hash)
}

/// What a secret is found by, when it is one that nobody can guess.
pub(super) fn token_hash(token: &str) -> String {
    to_hex(&Sha256::digest(token.as_bytes()))
}
