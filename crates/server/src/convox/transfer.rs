//! Builds taken out and in.
//!
//! An export is a gzip tar of `build.json` (the build as the API shows it) and `source.tgz` (what it was built of). An
//! import builds that again: the steps are the same, and what it gives is an image of this rack.

use std::io::{Read, Write};
use std::path::Path;

use boxrig_archive::tar::{self, Entry};
use boxrig_convox::{Reply, models, ops};
use boxrig_wire::{ApiError, ByteReply, Request, WireBody};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use tokio::io::AsyncWriteExt;

use super::builds::{self, Order};
use super::state::key;
use super::{Cx, objects, params};
use crate::streams::reader_body;

/// The most of an import, in bytes, packed.
const LIMIT: u64 = 4 << 30;
/// The most of `build.json`.
const JSON_LIMIT: u64 = 16 << 20;

/// A file of the rack that goes away with this.
struct Temporary(std::path::PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn temporary(cx: &Cx) -> Temporary {
    let name = format!("transfer-{}", crate::ids::secret());
    Temporary(cx.folder.join("builds").join(name))
}

fn broken(e: impl std::fmt::Display) -> ApiError {
    params::failed(format!("the archive could not be made: {e}"))
}

pub(super) async fn export(
    cx: Cx,
    rq: Request<ops::builds::BuildExport>,
) -> Result<ByteReply, ApiError> {
    let (app, id) = rq.path;
    let build = cx.build(&app, &id)?;
    if build.status != "complete" {
        return Err(ApiError::invalid(format!(
            "build {id} is {}, not complete",
            build.status
        )));
    }
    let object = cx.objects.get(&key(&app, &build.source));
    let object = object.ok_or_else(|| {
        ApiError::conflict(format!(
            "the source of build {id} was deleted: object {}",
            build.source
        ))
    })?;
    let source = cx.folder.join("objects").join(&object.file);
    let json = serde_json::to_vec_pretty(&builds::view(&build)).map_err(broken)?;
    let whole = temporary(&cx);
    let path = whole.0.clone();
    let write = move || -> std::io::Result<()> {
        let mut out = GzEncoder::new(std::fs::File::create(&path)?, Compression::fast());
        let source = std::fs::File::open(source)?;
        let size = source.metadata()?.len();
        let parts: [(&str, u64, Box<dyn Read>); 2] = [
            (
                "build.json",
                json.len() as u64,
                Box::new(std::io::Cursor::new(json)),
            ),
            ("source.tgz", size, Box::new(source)),
        ];
        for (name, size, content) in parts {
            tar::write_header(&mut out, &file(name, size))?;
            std::io::copy(&mut content.take(size), &mut out)?;
            out.write_all(&[0; 512][..tar::padding(size)])?;
        }
        out.write_all(&tar::END)?;
        out.finish()?.flush()
    };
    let written = tokio::task::spawn_blocking(write).await;
    written.map_err(broken)?.map_err(broken)?;
    let file = tokio::fs::File::open(&whole.0).await.map_err(broken)?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/gzip"));
    Ok(ByteReply {
        status: StatusCode::OK,
        headers,
        // Open files outlive their names.
        body: reader_body(file),
    })
}

fn file(name: &str, size: u64) -> Entry {
    Entry {
        path: name.as_bytes().to_vec(),
        kind: tar::Kind::File,
        mode: 0o600,
        size,
        mtime: 0,
        link: Vec::new(),
    }
}

pub(super) async fn import(
    cx: Cx,
    rq: Request<ops::builds::BuildImport>,
) -> Result<Reply<models::Build>, ApiError> {
    let (app,) = rq.path;
    cx.app(&app)?;
    let whole = temporary(&cx);
    let form = rq.body.content_type.as_deref().unwrap_or("");
    if form.starts_with("application/x-www-form-urlencoded") {
        // Generation 1 sends the archive as an object first, and here its URL.
        let text = rq.body.body.collect(64 * 1024).await;
        let text = text.map_err(|e| ApiError::invalid(format!("the form: {e}")))?;
        let url = params::form(&text)
            .into_iter()
            .find(|(name, _)| name == "url");
        let url = url.map(|(_, url)| url).unwrap_or_default();
        let object = objects::of_url(&app, &url).and_then(|o| cx.objects.get(&key(&app, o)));
        let object =
            object.ok_or_else(|| ApiError::not_found(format!("object not found: {url}")))?;
        let from = cx.folder.join("objects").join(&object.file);
        tokio::fs::copy(from, &whole.0).await.map_err(broken)?;
    } else {
        receive(rq.body.body, &whole.0).await?;
    }
    let source = temporary(&cx);
    let (from, to) = (whole.0.clone(), source.0.clone());
    let read = tokio::task::spawn_blocking(move || take_apart(&from, &to)).await;
    let old = read
        .map_err(broken)?
        .map_err(|why| ApiError::invalid(format!("not an exported build: {why}")))?;
    let content = tokio::fs::File::open(&source.0).await.map_err(broken)?;
    let url = objects::keep(&cx, &app, None, WireBody::from_stream(bytes(content))).await?;
    let object = objects::of_url(&app, &url).unwrap_or_default().to_owned();
    let made = builds::record(&cx, &app, old.description, old.git_sha, &object).await?;
    let order = Order {
        object,
        ..Order::default()
    };
    // Even when the caller goes away it is built to its end.
    let (state, id) = (cx.state.state.clone(), made.id.clone());
    let work = tokio::spawn(async move { builds::carry_out(&state, &app, &id, order).await });
    let _ = work.await;
    let now = cx.build(&made.app, &made.id)?;
    if now.status == "complete" {
        return Ok(Reply(builds::view(&now)));
    }
    Err(ApiError::invalid(format!(
        "build {} failed: {}",
        now.id, now.reason
    )))
}

fn bytes(
    file: tokio::fs::File,
) -> impl futures_util::Stream<Item = std::io::Result<bytes::Bytes>> + Send {
    use tokio::io::AsyncReadExt;
    futures_util::stream::try_unfold(file, |mut file| async move {
        let mut buffer = bytes::BytesMut::with_capacity(64 * 1024);
        let n = file.read_buf(&mut buffer).await?;
        Ok((n > 0).then(|| (buffer.freeze(), file)))
    })
}

async fn receive(mut body: WireBody, to: &Path) -> Result<(), ApiError> {
    use http_body_util::BodyExt;
    let mut file = tokio::fs::File::create(to).await.map_err(broken)?;
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::invalid(format!("the upload broke off: {e}")))?;
        if let Ok(data) = frame.into_data() {
            size += data.len() as u64;
            if size > LIMIT {
                return Err(
                    ApiError::invalid(format!("the import is larger than {LIMIT} bytes"))
                        .with_status(StatusCode::PAYLOAD_TOO_LARGE),
                );
            }
            file.write_all(&data).await.map_err(broken)?;
        }
    }
    file.flush().await.map_err(broken)
}

/// Finds the build and writes its source to `to`.
fn take_apart(from: &Path, to: &Path) -> Result<models::Build, String> {
    let words = |e: std::io::Error| e.to_string();
    let file = std::fs::File::open(from).map_err(words)?;
    let mut archive = tar::Reader::new(MultiGzDecoder::new(file));
    let (mut build, mut source) = (None, false);
    while let Some(entry) = archive.next_entry().map_err(words)? {
        match entry.path.strip_prefix(b"./").unwrap_or(&entry.path) {
            b"build.json" if entry.size <= JSON_LIMIT => {
                let mut text = Vec::new();
                archive.read_to_end(&mut text).map_err(words)?;
                build =
                    Some(serde_json::from_slice(&text).map_err(|e| format!("build.json: {e}"))?);
            }
            b"source.tgz" => {
                let mut out = std::fs::File::create(to).map_err(words)?;
                std::io::copy(&mut archive, &mut out).map_err(words)?;
                source = true;
            }
            _ => {}
        }
    }
    match (build, source) {
        (None, _) => Err("it has no build.json".into()),
        (Some(_), false) => {
            Err("it has no source.tgz: only exports of this rack can be imported".into())
        }
        (Some(build), true) => Ok(build),
    }
}
