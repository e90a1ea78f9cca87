//! The content of files over HTTP, and sessions.

use boxrig_vergeos::Written;
use boxrig_vergeos::ops::{CloudInitGet, FileGet, FilePut, GetQuery, TokenCreate, TokenDelete};
use boxrig_wire::{ApiError, ByteReply, Request};
use http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::access::{Right, require};
use super::auth;
use super::db::Read;
use super::mutate::mutated;
use super::row::Row;
use super::rows::{Called, canonical, change, get_row, user};
use super::schema::schema;
use super::state::Cx;
use super::tx::no_row;

/// The most bytes of a JSON body.
const JSON_LIMIT: usize = 8 << 20;
/// The most bytes that a file may grow to when its row does not say.
const FILE_LIMIT: u64 = 1 << 44;

async fn read(cx: &Cx, table: &str, key: &str, query: &GetQuery) -> Result<ByteReply, ApiError> {
    let mut headers = HeaderMap::new();
    if query.download != Some(1) {
        let row = get_row(cx, table, key, query)?;
        let text = serde_json::Value::Object(row).to_string();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return Ok(ByteReply {
            status: StatusCode::OK,
            headers,
            body: boxrig_wire::WireBody::full(text),
        });
    }
    let row = cx
        .db
        .get(table, &canonical(schema().known(table)?, key))
        .ok_or_else(no_row)?;
    require(&cx.db, user(cx), Right::Read, table, Some(&row.key()))?;
    let (body, size) = match table {
        // Short, and written with the row: they are of one piece with it.
        "cloudinit_files" => {
            let text = row.text("contents").to_owned();
            let size = text.len() as u64;
            (boxrig_wire::WireBody::full(text), size)
        }
        _ => cx.content.body(table, &row.key()).await?,
    };
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, octets);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    let name = query.asname.as_deref().unwrap_or_else(|| row.text("name"));
    // What could end the quotes or the header is left out.
    let name: String = name
        .chars()
        .filter(|c| (c.is_ascii_graphic() || *c == ' ') && !matches!(c, '"' | '\\'))
        .collect();
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    Ok(ByteReply {
        status: StatusCode::OK,
        headers,
        body,
    })
}

pub(super) async fn get(call: Called, request: Request<FileGet>) -> Result<ByteReply, ApiError> {
    let cx = auth::cx(&call)?;
    read(&cx, "files", &request.path.0, &request.query).await
}

pub(super) async fn get_cloudinit(
    call: Called,
    request: Request<CloudInitGet>,
) -> Result<ByteReply, ApiError> {
    let cx = auth::cx(&call)?;
    read(&cx, "cloudinit_files", &request.path.0, &request.query).await
}

pub(super) async fn put(call: Called, request: Request<FilePut>) -> Result<Written, ApiError> {
    let cx = auth::cx(&call)?;
    let key = request.path.0;
    let Some(at) = request.query.filepos else {
        let bytes = request.body.body.collect(JSON_LIMIT).await;
        let unreadable = |e: &dyn std::fmt::Display| {
            ApiError::invalid(format!("invalid body: {e}")).with_status(StatusCode::BAD_REQUEST)
        };
        let bytes = bytes.map_err(|e| unreadable(&e))?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let body = serde_json::from_slice(text).map_err(|e| unreadable(&e))?;
        let body = Row(body);
        return match &request.query.action {
            Some(action) => super::acts::by_query(&call, &cx, "files", &key, action, body).await,
            None => change(&call, &cx, "files", &key, body).await,
        };
    };
    let key = canonical(schema().known("files")?, &key);
    require(&cx.db, user(&cx), Right::Modify, "files", Some(&key))?;
    let row = cx.db.get("files", &key).ok_or_else(no_row)?;
    let allocated = u64::try_from(row.int("allocated_bytes")).unwrap_or(0);
    let room = match allocated {
        0 => FILE_LIMIT,
        n => n,
    };
    let limit = room.checked_sub(at).ok_or_else(|| {
        ApiError::invalid("filepos is after the end of the file")
            .with_status(StatusCode::UNPROCESSABLE_ENTITY)
    })?;
    let (_, size) = cx
        .content
        .write(
            "files",
            &key,
            if mutated("filepos") { 0 } else { at },
            request.body.body,
            limit,
        )
        .await?;
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    cx.write(|tx| {
        let row = tx.row("files", &key)?;
        // Pieces come in any order, four at a time: the greatest end counts.
        let size = size.max(row.int("filesize"));
        let now = tx.now();
        let mut changes = Row::new()
            .with("filesize", size)
            .with("used_bytes", size)
            .with("modified", now);
        if row.int("allocated_bytes") < size {
            changes.set("allocated_bytes", size);
        }
        tx.set("files", &key, changes)
    })
    .await?;
    Ok(Written::done())
}

pub(super) async fn begin_session(
    call: Called,
    request: Request<TokenCreate>,
) -> Result<Written, ApiError> {
    let login = request.body.0;
    let user = auth::by_password(&call.state, &login.login, login.password.expose())?;
    let token = call.state.sessions.begin(&call.state.core, user).await?;
    Ok(Written::created(Some(json!({
        "location": format!("/sys/tokens/{token}"),
        "dbpath": format!("tokens/{token}"),
        "$row": 1,
        "$key": token,
    }))))
}

pub(super) async fn end_session(
    call: Called,
    request: Request<TokenDelete>,
) -> Result<Written, ApiError> {
    let core = &call.state.core;
    match call.state.sessions.end(core, &request.path.0).await? {
        true => Ok(Written::done()),
        false => Err(ApiError::not_found("no such session")),
    }
}
