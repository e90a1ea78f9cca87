//! Build contexts: sent to a signed address, good for one import.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use boxrig_archive::unpack::{Limits, OutsideLinks};
use boxrig_fastvm::{ContextPresignResponse, FilePresignResponse, ops};
use boxrig_wire::{ApiError, Kind, Secret};

use super::super::Cx;
use super::super::due::Due;
use super::super::files::{LIFETIME, find, issued};
use super::super::once::digest;
use super::super::record::Object;
use super::super::state::State;
use super::super::view::millis;
use crate::{files, ids};

/// The Dockerfile's name when none is given.
pub(super) const DOCKERFILE: &str = "Dockerfile";
/// The largest context as it is sent, in bytes.
const MAX_UPLOAD: u64 = 1 << 30;
/// The media type of contexts.
const ZIP: &str = "application/zip";
/// The media type of contexts of the older API.
const GZIP: &str = "application/gzip";
/// What a context may hold.
const LIMITS: Limits = Limits {
    bytes: 8 << 30,
    entries: 500_000,
    outside_links: OutsideLinks::Keep,
};

/// A place for a context: the object, its signature, its address.
async fn place(cx: &Cx, media: &str) -> Result<(Object, String, String), ApiError> {
    let signature = ids::secret();
    let object = Object {
        id: cx.state.core.ids.hex(32),
        // No machine's: none reaches it from inside.
        vm_id: String::new(),
        signature_sha256: digest(signature.as_bytes()),
        max_bytes: MAX_UPLOAD,
        expires_ms: cx.state.core.now_ms() + millis(LIFETIME),
        media: Some(media.to_owned()),
    };
    let kept = object.clone();
    let write = cx.state.core.store.write(|tx| {
        tx.put(&cx.state.objects, &kept.id.clone(), kept)?;
        Ok::<_, ApiError>(())
    });
    write.await?;
    let due = Due::Object(object.id.clone());
    cx.state.queue.set(due, Some(object.expires_ms));
    let url = format!(
        "{}/v1/objects/{}?expires={}&signature={signature}",
        cx.state.core.origin(),
        object.id,
        object.expires_ms / 1000,
    );
    Ok((object, signature, url))
}

/// A place for a context of an import.
pub(super) async fn presign(
    cx: &Cx,
    size: Option<u64>,
) -> Result<ContextPresignResponse, ApiError> {
    if size.is_some_and(|size| size > MAX_UPLOAD) {
        return Err(ApiError::invalid(format!(
            "sizeBytes: at most {MAX_UPLOAD}"
        )));
    }
    let (object, signature, url) = place(cx, ZIP).await?;
    Ok(ContextPresignResponse {
        context_ref: Secret::new(format!("{}.{signature}", object.id)),
        upload_url: Secret::new(url),
        expires_in_sec: LIFETIME.as_secs(),
        max_upload_bytes: object.max_bytes,
        ..ContextPresignResponse::default()
    })
}

/// A place for a context of the older API.
pub(super) async fn presign_older(cx: &Cx) -> Result<FilePresignResponse, ApiError> {
    let (object, _, url) = place(cx, GZIP).await?;
    Ok(FilePresignResponse {
        upload_url: Secret::new(url.clone()),
        download_url: Secret::new(url),
        expires_in_sec: LIFETIME.as_secs(),
        max_upload_bytes: object.max_bytes,
        ..FilePresignResponse::default()
    })
}

/// The object that a reference names, and the size of what was sent to it.
pub(super) fn referenced(
    state: &State,
    reference: &str,
) -> Result<(String, Option<u64>), ApiError> {
    let unknown =
        || ApiError::invalid("source.contextRef: it names no context, or was used before");
    let (id, signature) = reference.split_once('.').ok_or_else(unknown)?;
    let object = state.objects.get(id).ok_or_else(unknown)?;
    let query = ops::ObjectQuery {
        expires: Some(object.expires_ms / 1000),
        signature: Some(signature.to_owned()),
    };
    let object = find(state, id, &query).map_err(|_| unknown())?;
    if object.media.as_deref() != Some(ZIP) {
        return Err(unknown());
    }
    let size = state.staging.size(&object.id);
    if size.is_none() {
        return Err(ApiError::invalid(
            "source.contextRef: nothing has been uploaded to it",
        ));
    }
    Ok((object.id.clone(), size))
}

/// The object of an address of the older API.
pub(super) fn addressed(state: &State, url: &str) -> Result<Arc<Object>, ApiError> {
    let object = issued(state, url)
        .map_err(|e| ApiError::invalid(e.message.replace("url:", "contextDownloadUrl:")))?;
    if object.media.as_deref() != Some(GZIP) {
        return Err(ApiError::invalid(
            "contextDownloadUrl: it is no address of a build context",
        ));
    }
    Ok(object)
}

fn failed(e: &std::io::Error) -> ApiError {
    ApiError::new(Kind::Failed, format!("the folder of an import: {e}"))
}

/// A folder for an import's files.
pub(super) fn folder(state: &State, id: &str) -> Result<PathBuf, ApiError> {
    let all = state.core.data.join("fastvm").join("imports");
    files::private_dir(&all).map_err(|e| failed(&e))?;
    let folder = all.join(id);
    files::private_dir(&folder).map_err(|e| failed(&e))?;
    Ok(folder)
}

/// Takes an uploaded context for one import.
pub(super) async fn claim(state: &State, object: &str, folder: &Path) -> Result<(), ApiError> {
    match state.staging.take(object, &folder.join("context")).await {
        Ok(true) => {
            state.queue.set(Due::Object(object.to_owned()), None);
            Ok(())
        }
        Ok(false) => {
            remove(folder.to_owned()).await;
            Err(ApiError::invalid(
                "contextRef: nothing has been uploaded to it",
            ))
        }
        Err(e) => {
            remove(folder.to_owned()).await;
            Err(e)
        }
    }
}

/// Unpacks the context of an import into `files` of its folder.
pub(super) async fn unpack(folder: &Path) -> Result<PathBuf, String> {
    let (archive, files) = (folder.join("context"), folder.join("files"));
    let into = files.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut start = [0; 2];
        let mut file = File::open(&archive).map_err(|e| e.to_string())?;
        let _ = std::io::Read::read(&mut file, &mut start);
        let file = File::open(&archive).map_err(|e| e.to_string())?;
        let unpacked = if start == *b"PK" {
            boxrig_archive::zip::unpack(&into, file, LIMITS)
        } else {
            boxrig_archive::unpack::unpack(&into, file, LIMITS, &mut |_, _| {})
        };
        unpacked.map(drop).map_err(|e| e.to_string())
    });
    work.await.map_err(|e| e.to_string())??;
    Ok(files)
}

/// Removes an import's folder, as far as it can.
pub(super) async fn remove(folder: PathBuf) {
    let removed = tokio::fs::remove_dir_all(&folder).await;
    if let Err(e) = removed
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), error = %e, "an import's files remain");
    }
}
