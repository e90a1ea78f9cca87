//! Local files: written whole or not at all, read as streams.

use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use boxrig_archive::channel::CHUNK;
use boxrig_archive::pack::cannot;
use boxrig_wire::{ByteReply, Error, Kind, Result, WireBody};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::images::chunks;

/// A download on which nothing comes for this long is given up: a server may hold a file that it never reads to its end.
const STALL: std::time::Duration = std::time::Duration::from_secs(300);

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// Runs what blocks elsewhere.
pub(crate) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(f)
        .await
        .map_err(|e| Error::new(Kind::Failed, "a task died").with_source(e))?
}

/// A local file that is being written, under a name of its own until it is whole.
pub(crate) struct Saving {
    file: tempfile::NamedTempFile,
    target: PathBuf,
    bytes: u64,
    mode: Option<u32>,
}

impl Saving {
    pub(crate) async fn begin(target: &Path) -> Result<Self> {
        let target = target.to_owned();
        blocking(move || {
            if target.is_dir() {
                return Err(Error::new(
                    Kind::Invalid,
                    "a file would take the place of a directory",
                ));
            }
            let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            let file = tempfile::Builder::new()
                .prefix(".boxrig-")
                .suffix(".part")
                .tempfile_in(parent)
                .map_err(|e| cannot("write in", parent, e))?;
            Ok(Self {
                file,
                target,
                bytes: 0,
                mode: None,
            })
        })
        .await
    }

    pub(crate) fn mode(&mut self, mode: Option<u32>) {
        self.mode = mode;
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes come in pieces that the page cache takes at once; handing each to another thread costs more than it saves.
    pub(crate) async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let written = self.file.as_file_mut().write_all(&chunk);
        written.map_err(|e| cannot("write", &self.target, e))?;
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// Writes a body to its end, which must come at `size` where that is known.
    pub(crate) async fn take(&mut self, body: WireBody, size: Option<u64>) -> Result<()> {
        let mut chunks = std::pin::pin!(chunks(body));
        loop {
            let next = tokio::time::timeout(STALL, chunks.next()).await;
            let Some(chunk) = next.map_err(|_| {
                Error::new(
                    Kind::Timeout,
                    format!("nothing has come for {STALL:?}; the transfer is given up"),
                )
                .with_retryable(false)
            })?
            else {
                break;
            };
            let chunk = chunk.map_err(|e| {
                Error::new(Kind::Transport, "the transfer broke off").with_source(e)
            })?;
            self.write(chunk).await?;
        }
        match size {
            Some(size) if size != self.bytes => Err(Error::new(
                Kind::Transport,
                format!("the transfer ended after {} of {size} bytes", self.bytes),
            )),
            _ => Ok(()),
        }
    }

    pub(crate) async fn finish(self) -> Result<u64> {
        blocking(move || {
            let mode = self.mode.unwrap_or(0o644) & 0o777;
            boxrig_archive::unpack::set_mode(self.file.as_file(), mode)
                .map_err(|e| cannot("finish", &self.target, e))?;
            self.file
                .persist(&self.target)
                .map_err(|e| cannot("replace", &self.target, e.error))?;
            Ok(self.bytes)
        })
        .await
    }
}

/// Writes a reply's content to a file; its length is checked where the server says it.
pub(crate) async fn save(reply: ByteReply, target: &Path) -> Result<u64> {
    let size = reply
        .headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse().ok());
    let mut saving = Saving::begin(target).await?;
    saving.take(reply.body, size).await?;
    saving.finish().await
}

/// A local file as a stream of exactly the length that it has when it is opened.
pub(crate) async fn stream(local: &Path) -> Result<(WireBody, Metadata)> {
    let path = local.to_owned();
    let (file, meta, path) = blocking(move || {
        let file = File::open(&path).map_err(|e| cannot("read", &path, e))?;
        let meta = file.metadata().map_err(|e| cannot("read", &path, e))?;
        if !meta.is_file() {
            return Err(Error::new(Kind::Invalid, "what is sent is not a file"));
        }
        Ok((file, meta, path))
    })
    .await?;
    let left = meta.len();
    let pieces =
        futures_util::stream::try_unfold((file, left, path), |(mut file, left, path)| async move {
            if left == 0 {
                return Ok(None);
            }
            let piece = blocking(move || {
                let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                let mut piece = vec![0; want];
                // A file that became shorter is an error, not a shorter file on the other side.
                file.read_exact(&mut piece)
                    .map_err(|e| cannot("read to its end", &path, e))?;
                Ok((Bytes::from(piece), file, path))
            });
            let (piece, file, path) = piece.await?;
            let left = left - piece.len() as u64;
            Ok::<_, Error>(Some((piece, (file, left, path))))
        });
    Ok((WireBody::from_stream(pieces), meta))
}
