//! Files in instances.

use std::time::{Duration, UNIX_EPOCH};

use boxrig_engine::{FileKind, FileMeta, WriteOptions};
use boxrig_wire::{ApiError, ByteReply, JsonReply, Request};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};

use super::super::ops::{
    DeleteInstanceFile, GetInstanceFile, ListInstanceFiles, MakeInstanceDir, PutInstanceFile,
    StatInstanceFile,
};
use super::super::types::{Done, FileView};
use super::{Called, api, instance_id, ms};
use crate::streams::{BodyReader, reader_body};

const DIR_MODE: u32 = 0o755;

pub(super) async fn read(
    call: Called,
    request: Request<GetInstanceFile>,
) -> Result<ByteReply, ApiError> {
    let id = instance_id(&request.path.0)?;
    let path = request.query.path;
    let file = call
        .core
        .engine
        .read_file(&id, path.as_bytes(), 0)
        .await
        .map_err(api)?;
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    // Files of /proc say 0 and have content.
    if file.meta.kind == FileKind::File && file.meta.size > 0 {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(file.meta.size));
    }
    let size = file.meta.size;
    let content: boxrig_engine::BoxReader = if size > 0 {
        // A file that grows meanwhile gives what it had.
        Box::new(tokio::io::AsyncReadExt::take(file.content, size))
    } else {
        file.content
    };
    Ok(ByteReply {
        status: StatusCode::OK,
        headers,
        body: reader_body(content),
    })
}

pub(super) async fn write(
    call: Called,
    request: Request<PutInstanceFile>,
) -> Result<JsonReply<FileView>, ApiError> {
    let id = instance_id(&request.path.0)?;
    let query = request.query;
    let options = WriteOptions {
        mode: query.mode,
        uid: query.uid,
        gid: query.gid,
        mtime: query
            .mtime_ms
            .map(|t| UNIX_EPOCH + Duration::from_millis(t)),
        parents: query.parents.unwrap_or(false),
        append: query.append.unwrap_or(false),
    };
    let path = query.path.as_bytes();
    let content = Box::new(BodyReader::new(request.body.body));
    let engine = &call.core.engine;
    engine
        .write_file(&id, path, options, content)
        .await
        .map_err(api)?;
    let meta = engine.stat(&id, path, true).await.map_err(api)?;
    Ok(JsonReply::ok(view(name_of(path), &meta)))
}

pub(super) async fn remove(
    call: Called,
    request: Request<DeleteInstanceFile>,
) -> Result<JsonReply<Done>, ApiError> {
    let id = instance_id(&request.path.0)?;
    let (path, deep) = (request.query.path, request.query.deep.unwrap_or(false));
    call.core
        .engine
        .remove(&id, path.as_bytes(), deep)
        .await
        .map_err(api)?;
    Ok(JsonReply::ok(Done { done: true }))
}

pub(super) async fn stat(
    call: Called,
    request: Request<StatInstanceFile>,
) -> Result<JsonReply<FileView>, ApiError> {
    let id = instance_id(&request.path.0)?;
    let (path, deep) = (request.query.path, request.query.deep.unwrap_or(true));
    let meta = call
        .core
        .engine
        .stat(&id, path.as_bytes(), deep)
        .await
        .map_err(api)?;
    Ok(JsonReply::ok(view(name_of(path.as_bytes()), &meta)))
}

pub(super) async fn list(
    call: Called,
    request: Request<ListInstanceFiles>,
) -> Result<JsonReply<Vec<FileView>>, ApiError> {
    let id = instance_id(&request.path.0)?;
    let path = request.query.path;
    let entries = call
        .core
        .engine
        .list_dir(&id, path.as_bytes())
        .await
        .map_err(api)?;
    let views = entries.iter().map(|e| view(&e.name, &e.meta));
    Ok(JsonReply::ok(views.collect()))
}

pub(super) async fn make_dir(
    call: Called,
    request: Request<MakeInstanceDir>,
) -> Result<JsonReply<Done>, ApiError> {
    let id = instance_id(&request.path.0)?;
    let query = request.query;
    let mode = query.mode.unwrap_or(DIR_MODE);
    let parents = query.parents.unwrap_or(false);
    call.core
        .engine
        .make_dir(&id, query.path.as_bytes(), mode, parents)
        .await
        .map_err(api)?;
    Ok(JsonReply::ok(Done { done: true }))
}

fn name_of(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

fn view(name: &[u8], meta: &FileMeta) -> FileView {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    FileView {
        name: text(name),
        kind: match meta.kind {
            FileKind::File => "file",
            FileKind::Directory => "directory",
            FileKind::Symlink => "symlink",
            FileKind::Other => "other",
        }
        .to_owned(),
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        size: meta.size,
        mtime_ms: ms(meta.mtime),
        target: meta.target.as_deref().map(text),
    }
}
