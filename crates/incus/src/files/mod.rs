//! Files in instances and volumes, one at a time, by the API's own means; stopped containers too.

mod checked;
mod local;
mod piped;
mod sftp;
mod tree;

pub(crate) use local::{Saving, hex, save};
pub use tree::{TreeOptions, TreeReport};

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use boxrig_wire::{ByteBody, ByteReply, Endpoint, Error, Kind, NoBody, Result, WireBody};
use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;

use crate::client::{Client, Parts};
use crate::collection::{Collection, Volumes};
use crate::envelope::Sync;
use crate::instances::{Instances, unlimited};
use crate::ops::{instance_files as of_instance, storage_volumes as of_volume};

/// A place that has files: an instance, or a volume.
pub trait FilePlace: 'static {
    /// Reads.
    type Get: Endpoint<Body = NoBody, Reply = ByteReply>;
    /// Reads what is said of a file.
    type Head: Endpoint<Body = NoBody, Reply = ByteReply>;
    /// Writes.
    type Post: Endpoint<Body = ByteBody, Reply = Sync<Value>>;
    /// Deletes.
    type Delete: Endpoint<Body = NoBody, Reply = Sync<Value>>;
}

/// The files of an instance.
#[derive(Clone, Copy, Debug)]
pub struct OfInstance;
impl FilePlace for OfInstance {
    type Get = of_instance::InstanceFilesGet;
    type Head = of_instance::InstanceFilesHead;
    type Post = of_instance::InstanceFilesPost;
    type Delete = of_instance::InstanceFilesDelete;
}

/// The files of a volume.
#[derive(Clone, Copy, Debug)]
pub struct OfVolume;
impl FilePlace for OfVolume {
    type Get = of_volume::StoragePoolVolumeTypeFilesGet;
    type Head = of_volume::StoragePoolVolumeTypeFilesHead;
    type Post = of_volume::StoragePoolVolumeTypeFilesPost;
    type Delete = of_volume::StoragePoolVolumeTypeFilesDelete;
}

/// Files of one place.
///
/// ```no_run
/// # async fn f(client: boxrig_incus::Client) -> boxrig_wire::Result<()> {
/// use boxrig_incus::FileMode;
///
/// let files = client.instances().files("web");
/// files.write("/etc/motd", "hello\n", FileMode::new().mode(0o644)).await?;
/// assert_eq!(files.read("/etc/motd").await?, "hello\n");
/// # Ok(()) }
/// ```
pub struct Files<'a, P = OfInstance> {
    client: &'a Client,
    place: Vec<String>,
    kind: PhantomData<fn() -> P>,
}

impl<P> fmt::Debug for Files<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Files({:?})", self.place)
    }
}

impl<'a> Instances<'a> {
    /// The files of an instance.
    pub fn files(&self, instance: &str) -> Files<'a, OfInstance> {
        Files {
            client: self.client(),
            place: self.one(instance).path,
            kind: PhantomData,
        }
    }
}

impl<'a> Collection<'a, Volumes> {
    /// The files of a volume, on servers that have the extension for it.
    pub fn files(&self, volume: &str) -> Files<'a, OfVolume> {
        Files {
            client: self.client(),
            place: self.one(volume).path,
            kind: PhantomData,
        }
    }
}

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A link.
    Symlink,
}

/// What is said of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileInfo {
    /// What it is.
    pub kind: FileKind,
    /// Its owner, where the server says.
    pub uid: Option<u32>,
    /// Its group, where the server says.
    pub gid: Option<u32>,
    /// Its mode bits, where the server says.
    pub mode: Option<u32>,
    /// When it was changed, in the server's words.
    pub modified: Option<String>,
    /// Its size in bytes, where the server says.
    pub size: Option<u64>,
}

impl FileInfo {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let number = |name: &str| text(name).and_then(|t| t.parse().ok());
        Self {
            kind: match text("x-incus-type") {
                Some("directory") => FileKind::Directory,
                Some("symlink") => FileKind::Symlink,
                _ => FileKind::File,
            },
            uid: number("x-incus-uid"),
            gid: number("x-incus-gid"),
            mode: text("x-incus-mode").and_then(|t| u32::from_str_radix(t, 8).ok()),
            modified: text("x-incus-modified").map(str::to_owned),
            size: text("content-length").and_then(|t| t.parse().ok()),
        }
    }
}

/// What is at a path.
#[derive(Debug)]
#[non_exhaustive]
pub enum Found {
    /// A file, streamed.
    File(WireBody),
    /// A directory: the names in it.
    Directory(Vec<String>),
    /// A link: where it points. The server makes it absolute.
    Symlink(String),
}

/// Owner and mode of what is written. What is not set is the server's choice: root, and 0644 or 0755.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileMode {
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The mode bits.
    pub mode: Option<u32>,
}

impl FileMode {
    /// The server's choice.
    pub fn new() -> Self {
        Self::default()
    }
    /// Owned by this user and group.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.uid = Some(uid);
        self.gid = Some(gid);
        self
    }
    /// With these mode bits.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    fn headers(self, mut parts: Parts) -> Parts {
        if let Some(uid) = self.uid {
            parts = parts.header("X-Incus-uid", uid);
        }
        if let Some(gid) = self.gid {
            parts = parts.header("X-Incus-gid", gid);
        }
        if let Some(mode) = self.mode {
            parts = parts.header("X-Incus-mode", format!("{mode:04o}"));
        }
        parts
    }
}

/// Small files, read whole, may have this many bytes.
const WHOLE: usize = 64 * 1024 * 1024;

impl<P: FilePlace> Files<'_, P> {
    fn at(&self, path: &str) -> Result<Parts> {
        if !path.starts_with('/') {
            return Err(Error::new(
                Kind::Invalid,
                "a path in an instance is absolute",
            ));
        }
        if path.contains('\0') {
            return Err(Error::new(Kind::Invalid, "a path holds no zero byte"));
        }
        Ok(Parts::new(&self.place).query("path", path))
    }

    /// What is at a path, with what is said of it.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when there is nothing.
    pub async fn open(&self, path: &str) -> Result<(FileInfo, Found)> {
        self.open_from(path, 0).await
    }

    /// What is at a path, a file from this byte on: to go on with a transfer that was cut.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); [`Kind::Invalid`] when the file is shorter.
    pub async fn open_from(&self, path: &str, from: u64) -> Result<(FileInfo, Found)> {
        let mut parts = self.at(path)?;
        if from > 0 {
            let range = http::HeaderValue::from_str(&format!("bytes={from}-"))
                .map_err(|e| Error::new(Kind::Invalid, "no such range").with_source(e))?;
            parts.options.headers.insert(http::header::RANGE, range);
        }
        let reply = self.client.send::<P::Get>(parts, NoBody).await?;
        let info = FileInfo::of(&reply.headers);
        if from > 0
            && info.kind == FileKind::File
            && reply.status != http::StatusCode::PARTIAL_CONTENT
        {
            return Err(Error::new(
                Kind::Unsupported,
                "the server sends files only from their beginning",
            ));
        }
        let found = match info.kind {
            FileKind::File => Found::File(reply.body),
            FileKind::Directory => {
                let text = whole(reply.body, WHOLE).await?;
                let names = serde_json::from_slice::<Value>(&text).ok();
                let names = names.and_then(|v| v.get("metadata").cloned());
                let names: Option<Option<Vec<String>>> =
                    names.and_then(|v| serde_json::from_value(v).ok());
                let names = names
                    .ok_or_else(|| Error::new(Kind::Protocol, "the directory's listing is none"))?;
                // A name is one step of a path, whatever the server says.
                let fine = |n: &String| !n.is_empty() && !n.contains('/') && n != "." && n != "..";
                Found::Directory(names.unwrap_or_default().into_iter().filter(fine).collect())
            }
            FileKind::Symlink => {
                let target = whole(reply.body, 64 * 1024).await?;
                let target = String::from_utf8_lossy(&target);
                Found::Symlink(target.trim_end_matches('\n').to_owned())
            }
        };
        Ok((info, found))
    }

    /// A file's content, whole; at most 64 MiB.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when there is nothing, [`Kind::Invalid`] for a directory or link.
    pub async fn read(&self, path: &str) -> Result<Bytes> {
        match self.open(path).await? {
            (_, Found::File(body)) => whole(body, WHOLE).await,
            _ => Err(Error::new(Kind::Invalid, "it is not a file")),
        }
    }

    /// The names in a directory.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when there is nothing, [`Kind::Invalid`] for what is no directory.
    pub async fn list(&self, path: &str) -> Result<Vec<String>> {
        match self.open(path).await? {
            (_, Found::Directory(names)) => Ok(names),
            _ => Err(Error::new(Kind::Invalid, "it is not a directory")),
        }
    }

    /// What is said of what is at a path.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when there is nothing.
    pub async fn info(&self, path: &str) -> Result<FileInfo> {
        let parts = self.at(path)?;
        let reply = self.client.send::<P::Head>(parts, NoBody).await?;
        Ok(FileInfo::of(&reply.headers))
    }

    /// Writes a file: made, or replaced. Its directory must be there.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without the directory.
    pub async fn write(&self, path: &str, content: impl Into<Bytes>, mode: FileMode) -> Result<()> {
        self.write_stream(path, WireBody::full(content), mode).await
    }

    /// [`write`](Self::write) from a stream.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn write_stream(&self, path: &str, content: WireBody, mode: FileMode) -> Result<()> {
        let parts = self
            .at(path)?
            .header("X-Incus-type", "file")
            .header("X-Incus-write", "overwrite");
        self.post(mode.headers(parts), content).await
    }

    /// Writes at the end of a file, which is made if it is not there. Never sent twice.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub async fn append(&self, path: &str, content: impl Into<Bytes>) -> Result<()> {
        let parts = self
            .at(path)?
            .header("X-Incus-type", "file")
            .header("X-Incus-write", "append");
        self.post(parts, WireBody::full(content)).await
    }

    async fn post(&self, parts: Parts, content: WireBody) -> Result<()> {
        // The content type is always that of bytes: the server reads a form's away and writes an empty file.
        self.client
            .send::<P::Post>(unlimited(parts), ByteBody::from(content))
            .await?;
        Ok(())
    }

    /// Makes a directory; its parent must be there.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub async fn mkdir(&self, path: &str, mode: FileMode) -> Result<()> {
        let parts = self.at(path)?.header("X-Incus-type", "directory");
        self.post(mode.headers(parts), WireBody::empty()).await
    }

    /// Makes a directory and those above it that are missing.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] when something else is in the way.
    pub async fn mkdir_all(&self, path: &str, mode: FileMode) -> Result<()> {
        let mut missing = Vec::new();
        let mut at = path.trim_end_matches('/');
        while !at.is_empty() {
            match self.info(at).await {
                Ok(info) if info.kind == FileKind::File => {
                    return Err(Error::new(
                        Kind::Conflict,
                        "a file is in the way of the directory",
                    ));
                }
                Ok(_) => break,
                Err(e) if e.kind() == Kind::NotFound => missing.push(at),
                Err(e) => return Err(e),
            }
            at = at.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
        for path in missing.into_iter().rev() {
            self.mkdir(path, mode).await?;
        }
        Ok(())
    }

    /// Makes a link that points to `target`.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub async fn symlink(&self, path: &str, target: &str) -> Result<()> {
        let parts = self.at(path)?.header("X-Incus-type", "symlink");
        self.post(parts, WireBody::full(target.to_owned())).await
    }

    /// Deletes a file, a link, or an empty directory.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when there is nothing, [`Kind::Conflict`] for a directory that is not empty.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let parts = self.at(path)?;
        self.client.send::<P::Delete>(parts, NoBody).await?;
        Ok(())
    }

    /// Deletes whatever is at a path, with all that is in it: by the server where it can, else step by step. Links are not
    /// followed.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when there is nothing.
    pub async fn delete_all(&self, path: &str) -> Result<()> {
        if self.client.has_extension("file_delete_force").await? {
            // Without the extension a server passes over this header and fails, or deletes less than was asked.
            let parts = self.at(path)?.header("X-Incus-force", true);
            self.client.send::<P::Delete>(parts, NoBody).await?;
            return Ok(());
        }
        let mut stack = vec![(path.trim_end_matches('/').to_owned(), false)];
        while let Some((path, emptied)) = stack.pop() {
            let is_directory = !emptied && self.info(&path).await?.kind == FileKind::Directory;
            if !is_directory {
                self.delete(&path).await?;
                continue;
            }
            let names = self.list(&path).await?;
            stack.push((path.clone(), true));
            stack.extend(names.iter().map(|name| (format!("{path}/{name}"), false)));
        }
        Ok(())
    }

    /// Writes a file's content to a local file: under a temporary name first, so that it is whole or not there, and with its mode bits. Gives
    /// the number of bytes. A transfer that is cut goes on where it was.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and what writing gave.
    pub async fn download(&self, path: &str, local: &Path) -> Result<u64> {
        self.fetch(path, local, |body| body).await?.finish().await
    }

    /// Everything of a file, in a temporary one; each body goes through `pass`.
    async fn fetch(
        &self,
        path: &str,
        local: &Path,
        pass: impl Fn(WireBody) -> WireBody,
    ) -> Result<Saving> {
        let (info, found) = self.open(path).await?;
        let Found::File(body) = found else {
            return Err(Error::new(Kind::Invalid, "it is not a file"));
        };
        let mut saving = Saving::begin(local).await?;
        saving.mode(info.mode);
        let mut left = 3;
        let mut cut = saving.take(pass(body), info.size).await;
        while let Err(e) = cut {
            if left == 0 || e.kind() != Kind::Transport {
                return Err(e);
            }
            left -= 1;
            let (now, found) = self.open_from(path, saving.bytes()).await?;
            let Found::File(body) = found else {
                return Err(e);
            };
            if now.modified != info.modified {
                return Err(e.context("the file was changed while it was read"));
            }
            cut = saving.take(pass(body), info.size).await;
        }
        Ok(saving)
    }

    /// Writes a local file's content to a file, streamed, with the local mode bits unless `mode` says otherwise. Gives the
    /// number of bytes. It is never sent twice.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), and what reading gave.
    pub async fn upload(&self, local: &Path, path: &str, mode: FileMode) -> Result<u64> {
        self.send_file(local, path, mode, |body| body).await
    }

    async fn send_file(
        &self,
        local: &Path,
        path: &str,
        mode: FileMode,
        pass: impl Fn(WireBody) -> WireBody,
    ) -> Result<u64> {
        let (body, meta) = local::stream(local).await?;
        let mode = FileMode {
            mode: mode
                .mode
                .or(Some(boxrig_archive::pack::mode_of(&meta) & 0o777)),
            ..mode
        };
        self.write_stream(path, pass(body), mode).await?;
        Ok(meta.len())
    }
}

pub(crate) async fn whole(body: WireBody, limit: usize) -> Result<Bytes> {
    body.collect(limit)
        .await
        .map_err(|e| match e.downcast::<Error>() {
            Ok(e) => *e,
            Err(e) => Error::new(Kind::Transport, "the content could not be read to its end")
                .with_source(e),
        })
}

#[cfg(all(test, feature = "transport"))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use boxrig_wire::{BaseUrl, Caller};

    use super::*;

    /// The first answer breaks off after four bytes; the next gives the rest that is asked for.
    #[tokio::test]
    async fn a_download_that_is_cut_goes_on() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let transport =
            boxrig_transport::InProcess::new(move |request: http::Request<WireBody>| {
                let n = count.fetch_add(1, Ordering::Relaxed);
                async move {
                    let mut response = match n {
                        0 => http::Response::new(WireBody::from_stream(
                            futures_util::stream::iter([
                                Ok(Bytes::from_static(b"0123")),
                                Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
                            ]),
                        )),
                        _ => {
                            let range = request.headers()[http::header::RANGE].clone();
                            assert_eq!(range, "bytes=4-");
                            let mut rest = http::Response::new(WireBody::full("456789"));
                            *rest.status_mut() = http::StatusCode::PARTIAL_CONTENT;
                            rest
                        }
                    };
                    let headers = response.headers_mut();
                    headers.insert("x-incus-type", http::HeaderValue::from_static("file"));
                    headers.insert("x-incus-mode", http::HeaderValue::from_static("0600"));
                    response
                }
            });
        let base = BaseUrl::parse("http://unix.socket").unwrap();
        let client = Client::new(Caller::new(Arc::new(transport), base));
        let dir = tempfile::tempdir().unwrap();
        let local = dir.path().join("f");
        let files = client.instances().files("c");
        assert_eq!(files.download("/f", &local).await.unwrap(), 10);
        assert_eq!(std::fs::read(&local).unwrap(), b"0123456789");
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
