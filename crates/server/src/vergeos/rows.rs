//! Reading and writing rows over HTTP.

use std::sync::Arc;

use boxrig_vergeos::ops::{
    GetQuery, RowReply, TableCreate, TableDelete, TableGet, TableList, TableSchema, TableUpdate,
};
use boxrig_vergeos::{ListQuery, RowsReply, Written};
use boxrig_wire::{ApiError, JsonReply, Request};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::access::{Reach, Right, denied, reach, require};
use super::auth;
use super::behaviour::ADMIN;
use super::db::Read;
use super::project::{Columns, array, describe};
use super::row::Row;
use super::schema::{KeyKind, Table, schema};
use super::select::{Selection, sort, with_now};
use super::state::{Cx, Shared};
use super::tx::no_row;
use crate::router::Call;

pub(super) type Called = Call<Shared>;

/// Tells a client what was accepted and had no effect.
const WARNING: HeaderName = HeaderName::from_static("x-boxrig-warning");

/// Adds a warning to the answer.
pub(super) fn warn(call: &Called, words: &str) {
    let plain: String = words
        .chars()
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .take(512)
        .collect();
    if let Ok(value) = HeaderValue::from_str(&plain) {
        call.answer_header(WARNING, value);
    }
}

/// The table of a path; tables of actions cannot be read.
fn readable(name: &str) -> Result<&'static Table, ApiError> {
    if schema().actions(name).is_some() {
        return Err(not_permitted(name));
    }
    schema().known(name)
}

fn not_permitted(name: &str) -> ApiError {
    ApiError::invalid(format!("operation not permitted on '{name}'"))
        .with_status(StatusCode::METHOD_NOT_ALLOWED)
}

/// The rows of a table, made on the spot where it has none.
fn all_rows(cx: &Cx, table: &'static Table) -> Result<Vec<Arc<Row>>, ApiError> {
    if !table.computed {
        return Ok(cx.db.all(table.name));
    }
    let maker = cx
        .behaviours
        .iter()
        .find(|b| b.computed().contains(&table.name));
    match maker {
        Some(maker) => {
            let rows = maker.rows(cx, table.name)?;
            Ok(rows.into_iter().map(Arc::new).collect())
        }
        None => Err(ApiError::not_implemented(&format!("list.{}", table.name))),
    }
}

/// One row by the key in a path.
fn one_row(cx: &Cx, table: &'static Table, key: &str) -> Result<Arc<Row>, ApiError> {
    if table.computed {
        let rows = all_rows(cx, table)?;
        return rows.into_iter().find(|r| r.key() == key).ok_or_else(no_row);
    }
    cx.db
        .get(table.name, &canonical(table, key))
        .ok_or_else(no_row)
}

/// The key as rows have it: `007` is 7, hexadecimal digits are lower case.
pub(super) fn canonical(table: &Table, key: &str) -> String {
    match table.key {
        KeyKind::Int => key
            .parse::<u64>()
            .map_or_else(|_| key.to_owned(), |n| n.to_string()),
        KeyKind::Hash | KeyKind::Uuid => key.to_ascii_lowercase(),
        KeyKind::Name(_) => key.to_owned(),
    }
}

/// The rows that were asked for, as JSON.
fn select(
    cx: &Cx,
    table: &'static Table,
    query: &ListQuery,
    may: &Reach,
) -> Result<Vec<u8>, ApiError> {
    let db = &cx.db;
    let _view = cx.core.store.view();
    let columns = Columns::parse(table, query.fields.as_deref())?;
    let filter = with_now(query.filter.as_deref().unwrap_or(""), cx.now());
    let selection = Selection::parse(table, &filter)?;
    let mut rows = all_rows(cx, table)?;
    if let Reach::Rows(_) = may {
        rows.retain(|row| may.holds(&row.key()));
    }
    if let Some(selection) = selection {
        rows.retain(|row| selection.passes(db, row));
    }
    if columns.only_count {
        return Ok(format!(r#"[{{"$count":{}}}]"#, rows.len()).into_bytes());
    }
    sort(db, table, &mut rows, query.sort.as_deref().unwrap_or(""))?;
    let offset = match super::mutate::mutated("offset") {
        true => 0,
        false => usize::try_from(query.offset.unwrap_or(0)).unwrap_or(usize::MAX),
    };
    let limit = match query.limit {
        None | Some(0) => usize::MAX,
        Some(n) => usize::try_from(n).unwrap_or(usize::MAX),
    };
    let page = rows.get(offset..).unwrap_or_default();
    let page = page.get(..limit).unwrap_or(page);
    let mut out = Vec::new();
    match page {
        // The one dashboard whose row the SDK expects without a list around it.
        [row] if table.name == "update_dashboard" => columns.write(db, row, &mut out),
        _ => array(page, &mut out, |row, out| columns.write(db, row, out)),
    }
    Ok(out)
}

pub(super) async fn list(call: Called, request: Request<TableList>) -> Result<RowsReply, ApiError> {
    let cx = auth::cx(&call)?;
    let table = readable(&request.path.0)?;
    let may = reach(&cx.db, user(&cx), Right::List, table.name);
    if may == Reach::Rows(Default::default()) {
        return Err(denied(Right::List, table.name));
    }
    select(&cx, table, &request.query, &may).map(RowsReply::written)
}

/// The user of a request; handlers always have one.
pub(super) fn user(cx: &Cx) -> i64 {
    cx.user().unwrap_or(ADMIN)
}

pub(super) fn get_row(
    cx: &Cx,
    name: &str,
    key: &str,
    query: &GetQuery,
) -> Result<Map<String, Value>, ApiError> {
    let table = readable(name)?;
    let _view = cx.core.store.view();
    let row = one_row(cx, table, key)?;
    require(&cx.db, user(cx), Right::Read, table.name, Some(&row.key()))?;
    if table.name == "vnet_wireguard_peers"
        && query.fields.as_deref() == Some("wg_config")
        && row.text("wg_config").is_empty()
    {
        // A configuration that was never made is no column but a missing thing, to the SDK at least.
        return Err(no_row());
    }
    let columns = Columns::parse(table, query.fields.as_deref())?;
    Ok(columns.of(&cx.db, &row))
}

pub(super) async fn get(call: Called, request: Request<TableGet>) -> Result<RowReply, ApiError> {
    let cx = auth::cx(&call)?;
    let (table, key) = &request.path;
    get_row(&cx, table, key, &request.query).map(RowReply)
}

pub(super) async fn describe_table(
    call: Called,
    request: Request<TableSchema>,
) -> Result<JsonReply<Value>, ApiError> {
    let cx = auth::cx(&call)?;
    let table = readable(&request.path.0)?;
    if !is_admin(&cx) {
        return Err(denied(Right::Read, "the schema of"));
    }
    Ok(JsonReply::ok(describe(table)))
}

fn is_admin(cx: &Cx) -> bool {
    reach(&cx.db, user(cx), Right::Modify, "/") == Reach::All
}

/// The receipt of a row that was made.
pub(super) fn receipt(table: &Table, key: &str, more: Row) -> Written {
    let path = format!("{}/{key}", table.name);
    let mut receipt = Map::from_iter([
        ("location".to_owned(), Value::from(format!("/v4/{path}"))),
        ("dbpath".to_owned(), Value::from(path)),
        ("$row".to_owned(), table.key_value(key)),
        ("$key".to_owned(), Value::from(key)),
    ]);
    receipt.extend(more.0);
    Written::created(Some(Value::Object(receipt)))
}

pub(super) async fn create(
    call: Called,
    request: Request<TableCreate>,
) -> Result<Written, ApiError> {
    let cx = auth::cx(&call)?;
    let name = request.path.0;
    let table = writable(&name)?;
    let row = Row(request.body.0);
    require(&cx.db, user(&cx), Right::Create, table.name, None)?;
    let (key, more, ignored) = cx
        .write(|tx| {
            let (key, more) = tx.create_with_receipt(table.name, row, true)?;
            Ok((key, more, std::mem::take(&mut tx.ignored)))
        })
        .await?;
    warn_ignored(&call, &ignored);
    Ok(receipt(table, &key, more))
}

fn writable(name: &str) -> Result<&'static Table, ApiError> {
    let table = readable(name)?;
    match table.computed {
        true => Err(not_permitted(name)),
        false => Ok(table),
    }
}

fn warn_ignored(call: &Called, ignored: &[String]) {
    if !ignored.is_empty() {
        warn(call, &format!("ignored fields: {}", ignored.join(", ")));
    }
}

/// Changes the columns that were sent; of no columns, nothing.
pub(super) async fn change(
    call: &Called,
    cx: &Cx,
    name: &str,
    key: &str,
    changes: Row,
) -> Result<Written, ApiError> {
    let table = writable(name)?;
    let key = one_row(cx, table, key)?.key();
    require(&cx.db, user(cx), Right::Modify, table.name, Some(&key))?;
    let ignored = cx
        .write(|tx| {
            tx.update_as(table.name, &key, changes, true)?;
            Ok(std::mem::take(&mut tx.ignored))
        })
        .await?;
    warn_ignored(call, &ignored);
    Ok(Written::done())
}

pub(super) async fn update(
    call: Called,
    request: Request<TableUpdate>,
) -> Result<Written, ApiError> {
    let cx = auth::cx(&call)?;
    let (table, key) = &request.path;
    let body = Row(request.body.0);
    match &request.query.action {
        Some(action) => super::acts::by_query(&call, &cx, table, key, action, body).await,
        None => change(&call, &cx, table, key, body).await,
    }
}

pub(super) async fn delete(
    call: Called,
    request: Request<TableDelete>,
) -> Result<Written, ApiError> {
    let cx = auth::cx(&call)?;
    let (name, key) = &request.path;
    let table = writable(name)?;
    let key = one_row(&cx, table, key)?.key();
    require(&cx.db, user(&cx), Right::Delete, table.name, Some(&key))?;
    cx.write(|tx| tx.delete(table.name, &key)).await?;
    Ok(Written::done())
}
