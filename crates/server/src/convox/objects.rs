//! Uploaded objects: a record each, and a file that is whole when the record is there.

use boxrig_convox::{Done, Reply, Text, models, ops};
use boxrig_wire::{ApiError, ByteReply, Request, WireBody};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use tokio::io::AsyncWriteExt;

use super::Cx;
use super::records::Object;
use super::state::{State, key};
use crate::streams::reader_body;

/// The largest object, unless [`LIMIT_ENV`] says another number of bytes.
const LIMIT: u64 = 4 << 30;
/// Sets the largest object, in bytes.
pub(super) const LIMIT_ENV: &str = "BOXRIG_CONVOX_OBJECT_BYTES";

fn limit() -> u64 {
    let set = std::env::var(LIMIT_ENV).ok();
    set.and_then(|v| v.parse().ok()).unwrap_or(LIMIT)
}

/// # Errors
///
/// 400 for a key that could be no path of files: its segments are names.
fn check_key(text: &str) -> Result<(), ApiError> {
    let wrong =
        |part: &str| part.is_empty() || part == "." || part == ".." || part.contains(['\0', '\\']);
    if text.len() > 1024 || text.split('/').any(wrong) {
        return Err(ApiError::invalid(format!("invalid object key: {text:?}")));
    }
    Ok(())
}

/// The object that a build's `url` names.
pub(super) fn of_url<'a>(app: &str, url: &'a str) -> Option<&'a str> {
    let rest = url.strip_prefix("object://")?;
    let (of, object) = rest.split_once('/')?;
    (of == app).then_some(object)
}

/// Keeps a stream as an object and gives its URL.
pub(super) async fn keep(
    state: &State,
    app: &str,
    name: Option<String>,
    mut body: WireBody,
) -> Result<String, ApiError> {
    state.app(app)?;
    let name = name.unwrap_or_else(|| format!("tmp/{}", state.core.ids.hex(30)));
    check_key(&name)?;
    let broken =
        |e: std::io::Error| super::params::failed(format!("the object could not be kept: {e}"));
    let file = crate::ids::secret();
    let path = state.folder.join("objects").join(&file);
    let half = Half(Some(path.clone()));
    let mut out = tokio::fs::File::create(&path).await.map_err(broken)?;
    let (mut bytes, limit) = (0, limit());
    use http_body_util::BodyExt;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::invalid(format!("the upload broke off: {e}")))?;
        if let Ok(data) = frame.into_data() {
            bytes += data.len() as u64;
            if bytes > limit {
                return Err(
                    ApiError::invalid(format!("the object is larger than {limit} bytes"))
                        .with_status(StatusCode::PAYLOAD_TOO_LARGE),
                );
            }
            out.write_all(&data).await.map_err(broken)?;
        }
    }
    out.flush().await.map_err(broken)?;
    out.sync_data().await.map_err(broken)?;
    let object = Object {
        file,
        bytes,
        created_ms: state.core.now_ms(),
    };
    let old = state
        .core
        .store
        .write(|tx| {
            if tx.get(&state.apps, app).is_none() {
                return Err(super::state::no_app(app));
            }
            Ok::<_, ApiError>(tx.put(&state.objects, &key(app, &name), object)?)
        })
        .await?;
    half.keep();
    if let Some(old) = old {
        remove(state, &old.file).await;
    }
    Ok(format!("object://{app}/{name}"))
}

/// A file that goes away unless it is kept.
struct Half(Option<std::path::PathBuf>);

impl Half {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes an object's file.
pub(super) async fn remove(state: &State, file: &str) {
    let _ = tokio::fs::remove_file(state.folder.join("objects").join(file)).await;
}

/// Removes files that belong to no record.
pub(super) fn sweep(state: &State) {
    let known: std::collections::BTreeSet<String> = state
        .objects
        .with(|all| all.values().map(|o| o.file.clone()).collect());
    let dir = state.folder.join("objects");
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if !known.contains(&*entry.file_name().to_string_lossy()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

pub(super) async fn store(
    cx: Cx,
    rq: Request<ops::objects::ObjectStore>,
) -> Result<Reply<models::Object>, ApiError> {
    let (app, name) = rq.path;
    // The wrapper names an empty key so.
    let name = (name != super::NO_KEY).then_some(name);
    let mut object = models::Object::default();
    object.url = keep(&cx, &app, name, rq.body.body).await?;
    Ok(Reply(object))
}

pub(super) async fn fetch(
    cx: Cx,
    rq: Request<ops::objects::ObjectFetch>,
) -> Result<ByteReply, ApiError> {
    let (app, name) = rq.path;
    cx.app(&app)?;
    let missing = || ApiError::not_found(format!("object not found: {name}"));
    let object = cx.objects.get(&key(&app, &name)).ok_or_else(missing)?;
    let path = cx.folder.join("objects").join(&object.file);
    let file = tokio::fs::File::open(path).await.map_err(|_| missing())?;
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(CONTENT_LENGTH, HeaderValue::from(object.bytes));
    Ok(ByteReply {
        status: StatusCode::OK,
        headers,
        body: reader_body(file),
    })
}

/// A rack answers 200 whether the object is there or not: its clients read nothing else.
pub(super) async fn exists(
    cx: Cx,
    rq: Request<ops::objects::ObjectExists>,
) -> Result<Text, ApiError> {
    let (app, name) = rq.path;
    let found = cx.objects.get(&key(&app, &name)).is_some();
    Ok(Text {
        text: format!("{found}\n"),
        headers: HeaderMap::new(),
    })
}

pub(super) async fn list(
    cx: Cx,
    rq: Request<ops::objects::ObjectList>,
) -> Result<Reply<Vec<String>>, ApiError> {
    let (app,) = rq.path;
    cx.app(&app)?;
    let prefix = rq.query.prefix.unwrap_or_default();
    let all = super::state::of_app(&cx.objects, &app);
    let names = all.into_iter().map(|(name, _)| name);
    Ok(Reply(names.filter(|n| n.starts_with(&prefix)).collect()))
}

pub(super) async fn delete(
    cx: Cx,
    rq: Request<ops::objects::ObjectDelete>,
) -> Result<Done, ApiError> {
    let (app, name) = rq.path;
    cx.app(&app)?;
    let gone = cx
        .core
        .store
        .write(|tx| Ok::<_, ApiError>(tx.delete(&cx.objects, &key(&app, &name))))
        .await?;
    let gone = gone.ok_or_else(|| ApiError::not_found(format!("object not found: {name}")))?;
    remove(&cx, &gone.file).await;
    Ok(Done)
}
