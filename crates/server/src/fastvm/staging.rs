//! The files behind presigned addresses, in a folder of the data directory.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxrig_wire::{ApiError, Kind, WireBody};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;

use crate::faults::crash_point;
use crate::files;

/// A content is written to a file with this ending first.
const PART: &str = "part";
/// Bytes that are collected before a write, so that a peer's small frames do not become small writes.
const WRITE: usize = 256 * 1024;

/// A folder of staged contents by object id. A content is there whole or not at all.
#[derive(Debug)]
pub(super) struct Staging {
    folder: PathBuf,
}

/// What was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// Bytes.
    pub(super) bytes: u64,
    /// The value of `Content-Digest` (RFC 9530).
    pub(super) digest: String,
}

impl Staging {
    /// The folder, made if missing; what `known` does not name is removed from it: half-written contents and those
    /// of objects that are no more.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(super) fn open(folder: PathBuf, known: impl Fn(&str) -> bool) -> io::Result<Self> {
        files::private_dir(&folder)?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(&known) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { folder })
    }

    /// Where the content of an object is. Ids are hexadecimal digits of our own making, never taken from a request
    /// without having been found in the state.
    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// Stores a content; an earlier one of the object is replaced when the new one is complete.
    ///
    /// # Errors
    ///
    /// 413 when it is longer than `most` bytes, 400 when the sender breaks off or the content is not what
    /// `expected` (a `Content-Digest` of SHA-256) says, 507 when the disk is full. Nothing of it remains then.
    pub(super) async fn put(
        &self,
        id: &str,
        body: WireBody,
        most: u64,
        expected: Option<&str>,
    ) -> Result<Stored, ApiError> {
        let name = format!("{id}.{:016x}.{PART}", rand::random::<u64>());
        let temporary = Temporary(self.folder.join(name));
        let stored = write(&temporary.0, body, most).await?;
        if expected.is_some_and(|expected| !expected.split(',').any(|d| d.trim() == stored.digest))
        {
            return Err(ApiError::invalid(
                "Content-Digest: the content that arrived is another one",
            ));
        }
        fs::rename(&temporary.0, self.path(id))
            .await
            .map_err(|e| disk("store the upload", &e))?;
        Ok(stored)
    }

    /// Opens a content and tells its length.
    ///
    /// # Errors
    ///
    /// `None` inside `Ok` when nothing was uploaded yet; the system's error else.
    pub(super) async fn open_content(&self, id: &str) -> Result<Option<(File, u64)>, ApiError> {
        let failed = |e: io::Error| disk("read the upload", &e);
        match File::open(self.path(id)).await {
            Ok(file) => {
                let bytes = file.metadata().await.map_err(failed)?.len();
                Ok(Some((file, bytes)))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// The length of a content; `None` when nothing was uploaded.
    pub(super) fn size(&self, id: &str) -> Option<u64> {
        std::fs::metadata(self.path(id)).ok().map(|meta| meta.len())
    }

    /// Moves a content to another place of the same disk; `false` when nothing was uploaded.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(super) async fn take(&self, id: &str, to: &Path) -> Result<bool, ApiError> {
        match fs::rename(self.path(id), to).await {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(disk("take the upload", &e)),
        }
    }

    /// Removes a content, if there is one.
    pub(super) async fn remove(&self, id: &str) {
        if let Err(e) = fs::remove_file(self.path(id)).await
            && e.kind() != io::ErrorKind::NotFound
        {
            // It is removed at the next start at the latest.
            tracing::warn!(error = %e, "a staged file could not be removed");
        }
    }
}

/// A file that is removed at the end, if it is still there under this name.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn write(path: &Path, mut body: WireBody, most: u64) -> Result<Stored, ApiError> {
    let failed = |e: io::Error| disk("store the upload", &e);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    options.mode(0o600);
    let mut file = options.open(path).await.map_err(failed)?;
    file.set_max_buf_size(WRITE);
    let mut hash = Sha256::new();
    let mut total = 0u64;
    let mut pending = BytesMut::with_capacity(WRITE);
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| ApiError::invalid(format!("body: the upload broke off: {e}")))?;
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        total += data.len() as u64;
        if total > most {
            return Err(too_large(most));
        }
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(WRITE - pending.len()));
            pending.extend_from_slice(&chunk);
            if pending.len() == WRITE {
                flush(&mut file, &mut hash, &mut pending)
                    .await
                    .map_err(failed)?;
            }
        }
    }
    flush(&mut file, &mut hash, &mut pending)
        .await
        .map_err(failed)?;
    file.flush().await.map_err(failed)?;
    Ok(Stored {
        bytes: total,
        digest: format!("sha-256=:{}:", STANDARD.encode(hash.finalize())),
    })
}

async fn flush(file: &mut File, hash: &mut Sha256, pending: &mut BytesMut) -> io::Result<()> {
    let chunk: Bytes = pending.split().freeze();
    hash.update(&chunk);
    file.write_all(&chunk).await?;
    crash_point("upload.chunk");
    pending.reserve(WRITE);
    Ok(())
}

/// The 413 for a content over the cap.
pub(super) fn too_large(most: u64) -> ApiError {
    ApiError::invalid(format!(
        "body: more than {most} bytes, the size of the disk"
    ))
    .with_status(StatusCode::PAYLOAD_TOO_LARGE)
    .with_detail("maxUploadBytes", most)
}

fn disk(what: &str, e: &io::Error) -> ApiError {
    let full = matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    );
    if full {
        ApiError::new(Kind::Failed, format!("{what}: the server's disk is full"))
            .with_status(StatusCode::INSUFFICIENT_STORAGE)
    } else {
        ApiError::new(Kind::Failed, format!("{what}: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use tokio::io::AsyncReadExt;

    fn staging() -> (tempfile::TempDir, Staging) {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::open(dir.path().join("objects"), |_| true).unwrap();
        (dir, staging)
    }

    fn names(staging: &Staging) -> usize {
        std::fs::read_dir(&staging.folder).unwrap().count()
    }

    async fn content(staging: &Staging, id: &str) -> Option<Vec<u8>> {
        let (mut file, _) = staging.open_content(id).await.unwrap()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).await.unwrap();
        Some(bytes)
    }

    #[tokio::test]
    async fn a_content_is_whole_or_absent() {
        let (_dir, staging) = staging();
        assert_eq!(content(&staging, "a").await, None);
        let chunks = |last: Result<Bytes, io::Error>| {
            let mut all: Vec<Result<Bytes, io::Error>> = Vec::new();
            all.extend((0..100).map(|n| Ok(Bytes::from(vec![n; 10_000]))));
            all.push(last);
            WireBody::from_stream(stream::iter(all))
        };
        let stored = staging
            .put("a", chunks(Ok(Bytes::from_static(b"end"))), 2_000_000, None)
            .await
            .unwrap();
        assert_eq!(stored.bytes, 1_000_003);
        let whole = content(&staging, "a").await.unwrap();
        assert_eq!(whole.len(), 1_000_003);
        assert!(whole.ends_with(&[99, b'e', b'n', b'd']));

        // Broken off, too long, not what was meant: the old content stays, and nothing besides it.
        let broken = chunks(Err(io::Error::other("gone")));
        assert_eq!(
            staging
                .put("a", broken, 2_000_000, None)
                .await
                .unwrap_err()
                .http_status(),
            400
        );
        let long = staging
            .put("a", chunks(Ok(Bytes::new())), 999_999, None)
            .await;
        assert_eq!(long.unwrap_err().http_status(), 413);
        let other = staging
            .put("a", WireBody::full("x"), 10, Some("sha-256=:AAAA:"))
            .await;
        assert!(other.unwrap_err().message.starts_with("Content-Digest"));
        assert_eq!(content(&staging, "a").await.unwrap(), whole);
        assert_eq!(names(&staging), 1);

        staging.put("a", WireBody::empty(), 0, None).await.unwrap();
        assert_eq!(content(&staging, "a").await.unwrap(), b"");
        staging.remove("a").await;
        staging.remove("a").await;
        assert_eq!(names(&staging), 0);
    }

    #[tokio::test]
    async fn a_start_clears_away_what_nobody_knows() {
        let (dir, staging) = staging();
        for id in ["known", "gone"] {
            staging
                .put(id, WireBody::full("x"), 10, None)
                .await
                .unwrap();
        }
        std::fs::write(staging.folder.join("known.0123.part"), "half").unwrap();
        let staging = Staging::open(dir.path().join("objects"), |id| id == "known").unwrap();
        assert_eq!(names(&staging), 1);
        assert!(content(&staging, "known").await.is_some());
    }

    #[tokio::test]
    async fn the_digest_is_that_of_the_rfc() {
        let (_dir, staging) = staging();
        // RFC 9530, appendix B.1, with SHA-256.
        let body = WireBody::full("{\"hello\": \"world\"}\n");
        let stored = staging.put("a", body, 100, None).await.unwrap();
        assert_eq!(
            stored.digest,
            "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
        );
        let again = staging
            .put(
                "a",
                WireBody::full("{\"hello\": \"world\"}\n"),
                100,
                Some(&stored.digest),
            )
            .await;
        assert_eq!(again.unwrap(), stored);
    }
}
