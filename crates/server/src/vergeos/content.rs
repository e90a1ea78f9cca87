//! The content of files: one file each under the data directory, written in pieces in any order.

use std::io;
use std::path::PathBuf;

use boxrig_wire::{ApiError, Kind, WireBody};
use bytes::Bytes;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom};

use crate::streams::{BodyReader, reader_body};

/// The content of files.
#[derive(Debug)]
pub struct Content {
    dir: PathBuf,
}

fn failed(e: &io::Error) -> ApiError {
    ApiError::new(Kind::Failed, format!("the content of the file: {e}"))
}

impl Content {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The folder that holds it all.
    pub(super) fn folder(&self) -> &std::path::Path {
        &self.dir
    }

    /// Keys come from us, but a file name is made of them: nothing but letters, digits, `-` and `_` goes in as it is.
    fn path(&self, table: &str, key: &str) -> PathBuf {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let name = match !key.is_empty() && key.len() < 100 && key.bytes().all(plain) {
            true => key.to_owned(),
            false => format!("x.{}", crate::ids::to_hex(key.as_bytes())),
        };
        self.dir.join(table).join(name)
    }

    async fn open(&self, table: &str, key: &str, anew: bool) -> io::Result<File> {
        let path = self.path(table, key);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).await?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(anew);
        #[cfg(unix)]
        options.mode(0o600);
        options.open(path).await
    }

    /// Writes what a body gives from a byte on; gives the number of bytes and the file's size afterwards.
    ///
    /// # Errors
    ///
    /// When the body breaks off, is longer than `limit`, or it cannot be written.
    pub async fn write(
        &self,
        table: &str,
        key: &str,
        at: u64,
        body: WireBody,
        limit: u64,
    ) -> Result<(u64, u64), ApiError> {
        let mut file = self.open(table, key, false).await.map_err(|e| failed(&e))?;
        file.seek(SeekFrom::Start(at))
            .await
            .map_err(|e| failed(&e))?;
        let mut reader = BodyReader::new(body).take(limit.saturating_add(1));
        let written = tokio::io::copy(&mut reader, &mut file)
            .await
            .map_err(|e| failed(&e))?;
        file.flush().await.map_err(|e| failed(&e))?;
        if written > limit {
            return Err(ApiError::invalid("the content is larger than the file")
                .with_status(http::StatusCode::PAYLOAD_TOO_LARGE));
        }
        let size = file.metadata().await.map_err(|e| failed(&e))?.len();
        Ok((written, size))
    }

    /// Replaces the content.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub async fn put(&self, table: &str, key: &str, content: &[u8]) -> Result<(), ApiError> {
        let mut file = self.open(table, key, true).await.map_err(|e| failed(&e))?;
        file.write_all(content).await.map_err(|e| failed(&e))?;
        file.flush().await.map_err(|e| failed(&e))
    }

    /// The content as a body, and its size. What was never written is empty.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub async fn body(&self, table: &str, key: &str) -> Result<(WireBody, u64), ApiError> {
        match File::open(self.path(table, key)).await {
            Ok(file) => {
                let size = file.metadata().await.map_err(|e| failed(&e))?.len();
                // No more than was there when its size was told.
                Ok((reader_body(file.take(size)), size))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok((WireBody::empty(), 0)),
            Err(e) => Err(failed(&e)),
        }
    }

    /// The content of a short file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is longer than 16 MiB.
    pub async fn read(&self, table: &str, key: &str) -> Result<Bytes, ApiError> {
        let (body, _) = self.body(table, key).await?;
        let bytes = body.collect(16 << 20).await;
        bytes.map_err(|e| ApiError::new(Kind::Failed, format!("the content of the file: {e}")))
    }

    /// Copies one content to another place.
    ///
    /// # Errors
    ///
    /// When it cannot be read or written.
    pub async fn copy(&self, from: (&str, &str), to: (&str, &str)) -> Result<(), ApiError> {
        let target = self.path(to.0, to.1);
        if let Some(dir) = target.parent() {
            fs::create_dir_all(dir).await.map_err(|e| failed(&e))?;
        }
        match fs::copy(self.path(from.0, from.1), target).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.put(to.0, to.1, b"").await,
            Err(e) => Err(failed(&e)),
        }
    }

    /// Removes the content.
    pub async fn remove(&self, table: &str, key: &str) {
        let removed = fs::remove_file(self.path(table, key)).await;
        if let Err(e) = removed
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(table, key, error = %e, "the content of a file was not removed");
        }
    }

    /// Removes all content.
    pub(super) async fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.dir).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}
