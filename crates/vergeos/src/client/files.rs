//! Content of files: uploads in pieces that can go on after a failure, downloads that take the place of a file in one step.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use boxrig_wire::{ByteBody, CallOptions, Error, Json, Kind, Result, WireBody};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http_body::Body as _;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Client;
use crate::ops::{FileGet, FilePut, GetQuery, TableCreate, TableDelete, WriteQuery};
use crate::{Key, Row};

/// What the vendor's SDK writes at once, and how much of it at a time.
const CHUNK: usize = 256 * 1024;

/// What is sent to the system.
#[derive(Clone, Debug)]
pub enum UploadSource {
    /// A local file.
    Path(PathBuf),
    /// Bytes in hand.
    Bytes(Bytes),
}

/// Settings of a transfer.
#[derive(Clone, Debug)]
#[must_use]
pub struct Transfer {
    chunk: usize,
    in_flight: usize,
    overwrite: bool,
}

impl Default for Transfer {
    fn default() -> Self {
        Self {
            chunk: CHUNK,
            in_flight: 4,
            overwrite: false,
        }
    }
}

impl Transfer {
    /// Pieces of 256 KiB, four in flight; a local file is not overwritten.
    pub fn new() -> Self {
        Self::default()
    }
    /// With pieces of this many bytes (at least 4 KiB, at most 64 MiB).
    pub fn chunk(mut self, bytes: usize) -> Self {
        self.chunk = bytes.clamp(4096, 64 << 20);
        self
    }
    /// With this many pieces in flight (1 to 64).
    pub fn in_flight(mut self, pieces: usize) -> Self {
        self.in_flight = pieces.clamp(1, 64);
        self
    }
    /// Overwrites a local file.
    pub fn overwrite(mut self, yes: bool) -> Self {
        self.overwrite = yes;
        self
    }
}

/// What was transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transferred {
    /// The file's key.
    pub key: Key,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
}

/// An upload that has begun: its entry is made, and it knows which pieces have arrived. After an error,
/// [`run`](Self::run) goes on where it stopped, and [`abandon`](Self::abandon) removes the entry.
#[derive(Clone, Debug)]
pub struct Upload {
    client: Client,
    source: UploadSource,
    settings: Transfer,
    key: Key,
    size: u64,
    arrived: BTreeSet<u64>,
}

/// Columns of a new file's entry besides its name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) description: Option<String>,
    pub(crate) tier: Option<i64>,
}

impl UploadSource {
    fn size(&self) -> Result<u64> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::Path(path) => {
                let meta = std::fs::metadata(path).map_err(|e| local(path, &e))?;
                if !meta.is_file() {
                    return Err(Error::new(Kind::Invalid, "only files can be uploaded"));
                }
                Ok(meta.len())
            }
        }
    }
    /// The last part of the path.
    pub(crate) fn name(&self) -> Option<String> {
        match self {
            Self::Path(path) => Some(path.file_name()?.to_string_lossy().into_owned()),
            Self::Bytes(_) => None,
        }
    }
}

fn local(path: &Path, e: &std::io::Error) -> Error {
    let kind = match e.kind() {
        std::io::ErrorKind::NotFound => Kind::NotFound,
        std::io::ErrorKind::PermissionDenied => Kind::Denied,
        _ => Kind::Failed,
    };
    let path = boxrig_wire::Untrusted::new(path.to_string_lossy());
    Error::new(kind, format!("{path}: {e}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The source, read piece by piece.
enum Reader {
    File(std::fs::File),
    Bytes(Bytes, usize),
}

impl Reader {
    fn open(source: &UploadSource) -> Result<Self> {
        Ok(match source {
            UploadSource::Bytes(bytes) => Self::Bytes(bytes.clone(), 0),
            UploadSource::Path(path) => {
                let mut file = std::fs::File::open(path).map_err(|e| local(path, &e))?;
                file.seek(SeekFrom::Start(0)).map_err(|e| local(path, &e))?;
                Self::File(file)
            }
        })
    }
    fn next(&mut self, most: usize) -> std::io::Result<Bytes> {
        match self {
            Self::Bytes(bytes, at) => {
                let end = bytes.len().min(*at + most);
                let piece = bytes.slice(*at..end);
                *at = end;
                Ok(piece)
            }
            Self::File(file) => {
                let mut piece = Vec::with_capacity(most);
                Read::by_ref(file)
                    .take(most as u64)
                    .read_to_end(&mut piece)?;
                Ok(piece.into())
            }
        }
    }
}

impl Upload {
    /// The key of the file's entry.
    pub fn key(&self) -> &Key {
        &self.key
    }
    /// The bytes that have arrived, and those there are in all.
    pub fn progress(&self) -> (u64, u64) {
        let chunk = self.settings.chunk as u64;
        let arrived = self
            .arrived
            .iter()
            .map(|at| chunk.min(self.size.saturating_sub(*at)))
            .sum();
        (arrived, self.size)
    }

    /// Sends the pieces that have not arrived. A zero-length file needs none.
    ///
    /// # Errors
    ///
    /// The first error of a piece, when those in flight have ended; the upload can be run again. [`Kind::Conflict`] when the
    /// local file has changed its size.
    pub async fn run(&mut self) -> Result<Transferred> {
        let mut reader = Reader::open(&self.source)?;
        let mut hash = Sha256::new();
        let mut at = 0u64;
        let mut flying = FuturesUnordered::new();
        let mut failed = None;
        while at < self.size && failed.is_none() {
            let chunk = self.settings.chunk;
            // Pieces are read ahead only as far as they may fly; a file's read is short and needs no thread of its own.
            let piece = reader
                .next(chunk)
                .map_err(|e| Error::new(Kind::Failed, format!("reading the file: {e}")))?;
            let wanted = (chunk as u64).min(self.size - at);
            if piece.len() as u64 != wanted {
                failed = Some(Error::new(
                    Kind::Conflict,
                    "the file is shorter than it was",
                ));
                break;
            }
            hash.update(&piece);
            if !self.arrived.contains(&at) {
                flying.push(put(self.client.clone(), self.key.clone(), at, piece));
            }
            at += wanted;
            while flying.len() >= self.settings.in_flight {
                failed = landed(flying.next().await, &mut self.arrived).or(failed);
            }
        }
        while !flying.is_empty() {
            failed = landed(flying.next().await, &mut self.arrived).or(failed);
        }
        match failed {
            Some(e) => Err(e.context("upload")),
            None => Ok(Transferred {
                key: self.key.clone(),
                bytes: self.size,
                sha256: hex(&hash.finalize()),
            }),
        }
    }

    /// Gives the upload up and removes its entry.
    ///
    /// # Errors
    ///
    /// The system's, by meaning; the entry is still there then.
    pub async fn abandon(self) -> Result<()> {
        let path = ("files".to_owned(), self.key.to_string());
        self.client
            .call::<TableDelete>(path, Default::default(), Default::default())
            .await?;
        Ok(())
    }
}

fn landed(result: Option<(u64, Result<()>)>, arrived: &mut BTreeSet<u64>) -> Option<Error> {
    match result? {
        (at, Ok(())) => {
            arrived.insert(at);
            None
        }
        (_, Err(e)) => Some(e),
    }
}

async fn put(client: Client, key: Key, at: u64, piece: Bytes) -> (u64, Result<()>) {
    let query = WriteQuery {
        filepos: Some(at),
        ..WriteQuery::default()
    };
    // A piece that is written twice is the same piece. 120 s is what the vendor's SDK gives one.
    let options = CallOptions::new().timeout(std::time::Duration::from_secs(120));
    let body = ByteBody::from(WireBody::full(piece));
    let done = client
        .call_with::<FilePut>((key.to_string(),), query, body, &options)
        .await;
    (at, done.map(|_| ()))
}

/// Writes a file and makes its sum on a thread of its own: the one that receives has the decrypting to do.
struct Sink {
    pieces: SyncSender<Bytes>,
    writer: JoinHandle<std::io::Result<(u64, String)>>,
}

impl Sink {
    /// Pieces that may wait to be written; each is a TLS record or a few.
    const WAITING: usize = 512;

    fn start(mut file: std::fs::File) -> std::io::Result<Self> {
        let (pieces, received) = std::sync::mpsc::sync_channel::<Bytes>(Self::WAITING);
        let writer = std::thread::Builder::new().spawn(move || {
            let (mut hash, mut bytes) = (Sha256::new(), 0);
            for piece in received {
                hash.update(&piece);
                bytes += piece.len() as u64;
                file.write_all(&piece)?;
            }
            file.sync_data()?;
            Ok((bytes, hex(&hash.finalize())))
        })?;
        Ok(Self { pieces, writer })
    }
    /// Takes a piece over; false when it cannot be written, which [`finish`](Self::finish) explains.
    fn take(&mut self, piece: Bytes) -> bool {
        self.pieces.send(piece).is_ok()
    }
    /// The number of bytes and their sum, when all is written.
    fn finish(self) -> std::io::Result<(u64, String)> {
        drop(self.pieces);
        let done = self.writer.join();
        done.map_err(|_| std::io::Error::other("the writer ended early"))?
    }
}

impl Client {
    /// Begins an upload to the file catalogue: makes the entry. [`Upload::run`] sends the content.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when the local file is not there; the system's, by meaning.
    pub async fn begin_upload(
        &self,
        source: UploadSource,
        name: &str,
        settings: Transfer,
    ) -> Result<Upload> {
        self.begin_upload_as(source, name, Entry::default(), settings)
            .await
    }

    pub(crate) async fn begin_upload_as(
        &self,
        source: UploadSource,
        name: &str,
        entry: Entry,
        settings: Transfer,
    ) -> Result<Upload> {
        let size = source.size()?;
        let mut row = Row::new();
        row.insert("name".to_owned(), name.into());
        row.insert("allocated_bytes".to_owned(), size.to_string().into());
        if let Some(text) = entry.description {
            row.insert("description".to_owned(), text.into());
        }
        if let Some(tier) = entry.tier {
            row.insert("preferred_tier".to_owned(), tier.to_string().into());
        }
        let reply = self
            .call::<TableCreate>(("files".to_owned(),), Default::default(), Json(row))
            .await?;
        let key = reply.receipt().key.as_ref().and_then(Key::of);
        let key = key.ok_or_else(|| Error::new(Kind::Protocol, "the new file has no key"))?;
        Ok(Upload {
            client: self.clone(),
            source,
            settings,
            key,
            size,
            arrived: BTreeSet::new(),
        })
    }

    /// Sends a file, and removes its entry again when that fails.
    ///
    /// # Errors
    ///
    /// As [`begin_upload`](Self::begin_upload) and [`Upload::run`].
    pub async fn upload(
        &self,
        source: UploadSource,
        name: &str,
        settings: Transfer,
    ) -> Result<Transferred> {
        let mut upload = self.begin_upload(source, name, settings).await?;
        match upload.run().await {
            Ok(done) => Ok(done),
            Err(e) => {
                // The first error is the one to tell; an entry that stays is visible in the catalogue.
                let _ = upload.abandon().await;
                Err(e)
            }
        }
    }

    /// Writes a file of the catalogue to `local`, in one step when all of it is there.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] when `local` exists and may not be overwritten; [`Kind::NotFound`]; [`Kind::Transport`] when the content
    /// breaks off or is shorter than announced, and nothing is left then.
    pub async fn download(
        &self,
        key: impl Into<Key>,
        name: &str,
        local_path: impl AsRef<Path>,
        settings: Transfer,
    ) -> Result<Transferred> {
        let key = key.into();
        let target = local_path.as_ref();
        if !settings.overwrite && target.symlink_metadata().is_ok() {
            return Err(Error::new(
                Kind::Conflict,
                "the local file is there already",
            ));
        }
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let temporary = tempfile::Builder::new()
            .prefix(".boxrig-")
            .tempfile_in(directory)
            .map_err(|e| local(directory, &e))?;
        let mut body = self.file_content(&key, name).await?;
        let file = temporary.reopen().map_err(|e| local(target, &e))?;
        let mut sink = Sink::start(file).map_err(|e| local(target, &e))?;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.map_err(|e| {
                Error::new(Kind::Transport, "the content broke off")
                    .with_operation("file_get")
                    .with_source(e)
            })?;
            if let Ok(data) = frame.into_data()
                && !sink.take(data)
            {
                break;
            }
        }
        let (bytes, sha256) = sink.finish().map_err(|e| local(target, &e))?;
        let kept = match settings.overwrite {
            true => temporary.persist(target),
            false => temporary.persist_noclobber(target),
        };
        kept.map_err(|e| local(target, &e.error))?;
        Ok(Transferred { key, bytes, sha256 })
    }

    /// The content of a file of the catalogue, as a stream.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`]; the system's, by meaning.
    pub async fn file_content(&self, key: &Key, name: &str) -> Result<WireBody> {
        let query = GetQuery {
            download: Some(1),
            asname: (!name.is_empty()).then(|| name.to_owned()),
            ..GetQuery::default()
        };
        let reply = self
            .call::<FileGet>((key.to_string(),), query, Default::default())
            .await?;
        Ok(reply.body)
    }
}

/// A number of seconds or bytes in a value.
pub(crate) fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}
