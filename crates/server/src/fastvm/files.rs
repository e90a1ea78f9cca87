//! Files in and out: staged objects behind signed addresses, and their way into a machine.
//!
//! An address is good for whoever has it, from outside by the server's own port and from inside the machine by
//! [`super::guest`]; it needs no API key and tolerates one.

use std::sync::Arc;
use std::time::Duration;

use boxrig_engine::WriteOptions;
use boxrig_fastvm::{ExecResponse, FilePresignResponse, ops};
use boxrig_wire::{
    ApiError, ByteReply, Empty, Endpoint, JsonReply, Kind, Params, Request, Secret, WireBody,
};
use bytes::BytesMut;
use futures_util::stream;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode, Uri};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::due::Due;
use super::exec::time_limit;
use super::once::digest;
use super::record::Object;
use super::staging::too_large;
use super::state::{State, engine_error, instance, not_running};
use super::view::millis;
use super::{Cx, guest, rules};
use crate::auth::same;
use crate::ids;
use crate::router::Peer;

/// How long addresses are good for.
pub(super) const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The one media type an upload may have.
const OCTETS: &str = "application/octet-stream";
/// Bytes that are read from a staging file at a time.
const CHUNK: usize = 256 * 1024;
/// What `curl` exits with when the server answers an error.
const CURL_HTTP_ERROR: i32 = 22;
/// What `curl` exits with when the target cannot be written.
const CURL_WRITE_ERROR: i32 = 23;
/// What `curl` exits with when the time is up.
const CURL_TIMEOUT: i32 = 28;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

pub(super) async fn presign(
    cx: Cx,
    rq: Request<ops::PresignFile>,
) -> Result<JsonReply<FilePresignResponse>, ApiError> {
    let (vm_id,) = rq.path;
    let machine = cx.state.machine(&vm_id)?;
    let signature = ids::secret();
    let expires_ms = cx.state.core.now_ms() + millis(LIFETIME);
    let object = Object {
        id: cx.state.core.ids.hex(32),
        vm_id: vm_id.clone(),
        signature_sha256: digest(signature.as_bytes()),
        max_bytes: machine.disk_gib << 30,
        expires_ms,
        media: None,
    };
    let kept = object.clone();
    cx.state
        .core
        .store
        .write(|tx| {
            tx.put(&cx.state.objects, &kept.id.clone(), kept)?;
            Ok::<_, ApiError>(())
        })
        .await?;
    cx.state
        .queue
        .set(Due::Object(object.id.clone()), Some(expires_ms));
    guest::reach(&cx.state, &vm_id).await;
    let url = format!(
        "{}/v1/objects/{}?expires={}&signature={signature}",
        cx.state.core.origin(),
        object.id,
        expires_ms / 1000,
    );
    Ok(JsonReply::ok(FilePresignResponse {
        upload_url: Secret::new(url.clone()),
        download_url: Secret::new(url),
        expires_in_sec: LIFETIME.as_secs(),
        max_upload_bytes: object.max_bytes,
        ..FilePresignResponse::default()
    }))
}

fn denied(words: &str) -> ApiError {
    ApiError::new(Kind::Denied, words)
}

/// The object that an address is for, if its signature is right and its time not over.
pub(super) fn find(
    state: &State,
    id: &str,
    query: &ops::ObjectQuery,
) -> Result<Arc<Object>, ApiError> {
    let object = state
        .objects
        .get(id)
        .ok_or_else(|| ApiError::not_found("no such object"))?;
    let signature = query.signature.as_deref().unwrap_or_default();
    let given = digest(signature.as_bytes());
    let right = same(given.as_bytes(), object.signature_sha256.as_bytes())
        && query.expires == Some(object.expires_ms / 1000);
    if !right {
        return Err(denied("the signature of the address is wrong"));
    }
    if object.expires_ms <= state.core.now_ms() {
        return Err(denied("the address has expired"));
    }
    Ok(object)
}

/// As [`find`], for whoever asks: a machine sees the objects that were made for it and no other.
fn find_for(cx: &Cx, id: &str, query: &ops::ObjectQuery) -> Result<Arc<Object>, ApiError> {
    let object = find(&cx.state, id, query)?;
    match &cx.info.peer {
        Peer::Guest(vm) if *vm != object.vm_id => Err(ApiError::not_found("no such object")),
        _ => Ok(object),
    }
}

pub(super) async fn put(cx: Cx, rq: Request<ops::PutObject>) -> Result<Empty, ApiError> {
    let object = find_for(&cx, &rq.path.0, &rq.query)?;
    let signed = object.media.as_deref().unwrap_or(OCTETS);
    if rq.body.content_type.as_deref() != Some(signed) {
        return Err(
            ApiError::invalid(format!("Content-Type: exactly {signed} is signed"))
                .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        );
    }
    // Refused before anything is sent, where the sender waits for it (`Expect: 100-continue`).
    if rq.headers.length.is_some_and(|n| n > object.max_bytes) {
        return Err(too_large(object.max_bytes));
    }
    let expected = rq.headers.digest.as_deref();
    let stored = cx
        .state
        .staging
        .put(&object.id, rq.body.body, object.max_bytes, expected)
        .await?;
    if cx.state.objects.get(&object.id).is_none() {
        // The machine was removed meanwhile, and its objects with it.
        cx.state.staging.remove(&object.id).await;
        return Err(ApiError::not_found("no such object"));
    }
    if let Ok(value) = HeaderValue::from_str(&stored.digest) {
        cx.answer_header(CONTENT_DIGEST, value);
    }
    Ok(Empty)
}

pub(super) async fn get(cx: Cx, rq: Request<ops::GetObject>) -> Result<ByteReply, ApiError> {
    let object = find_for(&cx, &rq.path.0, &rq.query)?;
    let Some((file, bytes)) = cx.state.staging.open_content(&object.id).await? else {
        return Err(ApiError::not_found("nothing has been uploaded to it"));
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCTETS));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    Ok(ByteReply {
        status: StatusCode::OK,
        headers,
        body: WireBody::from_stream(chunks(file)),
    })
}

fn chunks(file: File) -> impl futures_util::Stream<Item = std::io::Result<bytes::Bytes>> + Send {
    stream::try_unfold(file, |mut file| async move {
        file.set_max_buf_size(CHUNK);
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let read = file.read_buf(&mut chunk).await?;
        Ok((read > 0).then(|| (chunk.freeze(), file)))
    })
}

pub(super) async fn fetch(
    cx: Cx,
    rq: Request<ops::FetchFile>,
) -> Result<JsonReply<ExecResponse>, ApiError> {
    let (vm_id,) = rq.path;
    let request = rq.body.0;
    cx.state.machine(&vm_id)?;
    rules::guest_path(&request.path)?;
    let limit = time_limit(request.timeout_sec)?;
    let object = issued(&cx.state, request.url.expose())?;
    cx.state.running(&vm_id)?;
    let started = Instant::now();
    let mut answer = ExecResponse::default();
    match cx.state.staging.open_content(&object.id).await? {
        None => {
            answer.exit_code = CURL_HTTP_ERROR;
            answer.stderr = "nothing has been uploaded to the address (404)\n".to_owned();
        }
        Some((mut file, _)) => {
            file.set_max_buf_size(CHUNK);
            let instance = instance(&vm_id)?;
            let options = WriteOptions {
                parents: true,
                ..WriteOptions::default()
            };
            let write = cx.state.core.engine.write_file(
                &instance,
                request.path.as_bytes(),
                options,
                Box::new(file),
            );
            let written = match limit {
                Some(limit) => tokio::time::timeout(limit, write).await,
                None => Ok(write.await),
            };
            match written {
                Ok(Ok(_)) => {}
                Ok(Err(e)) => {
                    use boxrig_engine::Kind as E;
                    match e.kind() {
                        E::InvalidState | E::Gone => return Err(not_running("not ready")),
                        E::Unsupported | E::NotPermittedHere => return Err(engine_error(&e)),
                        _ => {
                            answer.exit_code = CURL_WRITE_ERROR;
                            answer.stderr = format!("{e}\n");
                        }
                    }
                }
                Err(_) => {
                    answer.exit_code = CURL_TIMEOUT;
                    answer.timed_out = true;
                    answer.stderr = "the time is up\n".to_owned();
                }
            }
        }
    }
    answer.duration_ms = millis(started.elapsed());
    Ok(JsonReply::ok(answer))
}

/// The object of an address that presign gave out.
pub(super) fn issued(state: &State, url: &str) -> Result<Arc<Object>, ApiError> {
    let foreign = || ApiError::invalid("url: only a download URL of presign is fetched");
    let rest = url
        .strip_prefix(state.core.origin())
        .filter(|_| !state.core.origin().is_empty())
        .ok_or_else(foreign)?;
    let target: Uri = rest.parse().map_err(|_| foreign())?;
    let id = ops::GetObject::META
        .path
        .matches(target.path())
        .and_then(|captures| captures.into_iter().next())
        .ok_or_else(foreign)?;
    let pairs: Vec<(String, String)> = target
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let query = ops::ObjectQuery::from_pairs(&pairs).map_err(|_| foreign())?;
    find(state, &id, &query).map_err(|e| ApiError::invalid(format!("url: {}", e.message)))
}
