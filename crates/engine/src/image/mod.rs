//! Imported root file systems, as layers on disk.
//!
//! ```text
//! DIR/layers/<sha256>/fs/      the files of one layer: a lower directory of an overlay
//! DIR/layers/<sha256>/layer.json
//! DIR/names/<hash of name>.json   which layers a name stands for
//! DIR/work/                    half-made and half-removed things; emptied at every opening
//! ```
//!
//! A layer is named by the digest of its uncompressed tar stream, made in `work/` and moved into
//! place whole: it exists completely or not at all, and is never changed afterwards. **Its users mount
//! `fs/` read-only** (as overlay lowers, the topmost layer first: [`Image::lowers`]). Owners on disk are
//! those of the archive, 0 to 65535, when the importing process is root: mount it with an idmap from
//! 0 to the instance's range. An ordinary user owns every file of a layer itself, which is root in an
//! instance with one id mapped. Whiteouts of upper layers are character devices 0/0 and
//! `user.overlay.opaque` attributes (`trusted.overlay.opaque` too, when root imported): mount with
//! `userxattr` in a user namespace.
//!
//! Deleting an image removes its name. A layer goes when no name and no user has it:
//! [`ImageStore::collect`] is told which layers instances and snapshots still use.

pub(crate) mod bundle;
mod extract;
mod stream;
mod tar;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::extract::{LayerKind, Unpacked, unpack};
use self::stream::Hashed;
pub(crate) use self::stream::{channel, decompressed};
use crate::lock::make_private_dir;
use crate::tree;
use crate::{BASE_IMAGE, BoxReader, Error, ImageInfo, Kind, Result, SCRATCH_IMAGE};

/// Longest name of an image, in bytes.
const MAX_NAME: usize = 255;

/// What one import may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportLimits {
    /// Bytes of file content.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

impl Default for ImportLimits {
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 2_000_000,
        }
    }
}

/// One image, ready to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What is told about it.
    pub info: ImageInfo,
    /// The digests of its layers (64 hexadecimal digits), the lowest first.
    pub layers: Vec<String>,
    /// The directories to mount, the topmost layer first: the order of overlay's `lowerdir=`.
    pub lowers: Vec<PathBuf>,
}

/// Where imported images are kept. Cheap to clone; the directory must belong to one process.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    limits: ImportLimits,
    names: Mutex<Names>,
}

#[derive(Debug)]
struct Names {
    images: BTreeMap<String, Record>,
    /// Layers that imports under way are about to name; not to be collected.
    pinned: BTreeMap<String, usize>,
    works: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    info: ImageInfo,
    layers: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LayerRecord {
    unpacked_bytes: u64,
    entries: u64,
    skipped: u64,
}

/// Bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/@+".contains(&byte);
    let part_ok = |part: &str| !part.is_empty() && part != "." && part != "..";
    let ok = name.len() <= MAX_NAME && name.bytes().all(safe) && name.split('/').all(part_ok);
    if !ok {
        let words = format!(
            "image name {name:?}: letters, digits and ._-:/@+ are allowed, {MAX_NAME} bytes"
        );
        return Err(Error::new(Kind::Invalid, words));
    }
    if name.starts_with("boxrig/") || name == SCRATCH_IMAGE {
        let words = format!(
            "image name {name:?}: {SCRATCH_IMAGE} and names that begin with boxrig/ are built in"
        );
        return Err(Error::new(Kind::Invalid, words));
    }
    Ok(())
}

impl ImageStore {
    /// Opens the store in `dir`, making it if it is missing, and removes what was half-made.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(dir: &Path, limits: ImportLimits) -> Result<Self> {
        let failed = |error| Error::io(format!("open the image store {}", dir.display()), error);
        tree::remove_all(&dir.join("work")).map_err(failed)?;
        for part in ["layers", "names", "work"] {
            make_private_dir(&dir.join(part))?;
        }
        let mut images = BTreeMap::new();
        for entry in fs::read_dir(dir.join("names")).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = fs::read(&path).map_err(failed)?;
            let record: Record = serde_json::from_slice(&text).map_err(|error| {
                Error::with_source(
                    Kind::Io,
                    format!("{} cannot be read", path.display()),
                    error.into(),
                )
            })?;
            images.insert(record.info.name.clone(), record);
        }
        let names = Names {
            images,
            pinned: BTreeMap::new(),
            works: 0,
        };
        let inner = Inner {
            dir: dir.to_owned(),
            limits,
            names: Mutex::new(names),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Imports a root file system: a tar stream, plain or compressed by gzip. The name then stands for
    /// it; what had the name before loses it. When the future is dropped, nothing remains.
    ///
    /// # Errors
    /// `Invalid` for a bad name or archive, in words; `Limit` when the disk is full; `Io`.
    pub async fn import(&self, name: &str, tar: BoxReader) -> Result<ImageInfo> {
        check_name(name)?;
        let (input, feed) = channel(tar);
        let inner = Arc::clone(&self.inner);
        let owned = name.to_owned();
        let work = tokio::task::spawn_blocking(move || {
            let (digest, unpacked) = inner.add_layer(input, LayerKind::Base)?;
            let named = inner.name(&owned, &digest, unpacked);
            inner.unpin(&digest);
            named
        });
        let (fed, worked) = tokio::join!(feed, work);
        let worked =
            worked.map_err(|error| Error::io("import an image", io::Error::other(error)))?;
        // When reading the stream failed, that is the cause, and not what came of it.
        fed.map_err(|error| Error::io("read the image", error))?;
        worked
    }

    /// All imported images, ordered by name.
    #[must_use]
    pub fn list(&self) -> Vec<ImageInfo> {
        self.inner
            .names()
            .images
            .values()
            .map(|record| record.info.clone())
            .collect()
    }

    /// Finds an image.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, name: &str) -> Result<Image> {
        let names = self.inner.names();
        let record = names
            .images
            .get(name)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("no image {name:?}")))?;
        Ok(Image {
            info: record.info.clone(),
            lowers: record
                .layers
                .iter()
                .rev()
                .map(|layer| self.layer_dir(layer))
                .collect(),
            layers: record.layers.clone(),
        })
    }

    /// The directory of a layer's files.
    #[must_use]
    pub fn layer_dir(&self, digest: &str) -> PathBuf {
        self.inner.layer(digest).join("fs")
    }

    /// Takes an image's name away. Its layers stay until [`ImageStore::collect`].
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for the built-in image; `Io`.
    pub fn delete(&self, name: &str) -> Result<()> {
        if name == BASE_IMAGE {
            return Err(Error::new(
                Kind::Invalid,
                "the built-in image cannot be removed",
            ));
        }
        let mut names = self.inner.names();
        if !names.images.contains_key(name) {
            return Err(Error::new(Kind::NotFound, format!("no image {name:?}")));
        }
        fs::remove_file(self.inner.name_file(name))
            .map_err(|error| Error::io(format!("remove the image {name:?}"), error))?;
        names.images.remove(name);
        Ok(())
    }

    /// Removes every layer that no name stands for and that is not `in_use` by an instance or a
    /// snapshot. Blocks for as long as removing takes. Returns how many went.
    ///
    /// # Errors
    /// `Io`.
    pub fn collect(&self, in_use: &BTreeSet<String>) -> Result<usize> {
        let failed = |error| Error::io("remove unused layers", error);
        let mut doomed = Vec::new();
        {
            let mut names = self.inner.names();
            let mut kept: BTreeSet<String> = names
                .images
                .values()
                .flat_map(|record| record.layers.iter().cloned())
                .collect();
            kept.extend(names.pinned.keys().cloned());
            for entry in fs::read_dir(self.inner.dir.join("layers")).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name();
                let used = name
                    .to_str()
                    .is_some_and(|name| kept.contains(name) || in_use.contains(name));
                if used {
                    continue;
                }
                let away = self.inner.new_work(&mut names);
                fs::rename(entry.path(), &away).map_err(failed)?;
                doomed.push(away);
            }
        }
        for away in &doomed {
            tree::remove_all(away).map_err(failed)?;
        }
        Ok(doomed.len())
    }
}

impl Inner {
    fn names(&self) -> MutexGuard<'_, Names> {
        // Changed by single insertions and removals only.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layer(&self, digest: &str) -> PathBuf {
        self.dir.join("layers").join(digest)
    }

    fn name_file(&self, name: &str) -> PathBuf {
        self.dir
            .join("names")
            .join(format!("{}.json", hex(&Sha256::digest(name))))
    }

    /// A path in `work/` that nothing has. Numbers start anew with the process, and so does `work/`.
    fn new_work(&self, names: &mut Names) -> PathBuf {
        names.works += 1;
        self.dir.join("work").join(names.works.to_string())
    }

    /// Unpacks a layer and moves it into place; it is pinned until [`Inner::unpin`].
    fn add_layer(&self, input: impl io::Read, kind: LayerKind) -> Result<(String, Unpacked)> {
        let work = self.new_work(&mut self.names());
        let added = self.add_layer_in(&work, input, kind);
        // Moved away when all went well. What cannot be removed now is removed at the next opening.
        if let Err(error) = tree::remove_all(&work) {
            tracing::warn!(path = %work.display(), %error, "half of an import stays until the next start");
        }
        added
    }

    fn add_layer_in(
        &self,
        work: &Path,
        input: impl io::Read,
        kind: LayerKind,
    ) -> Result<(String, Unpacked)> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidInput => Error::new(
                Kind::Invalid,
                format!("the archive cannot be imported: {error}"),
            ),
            _ => Error::io("import an image", error),
        };
        let files = work.join("fs");
        make_private_dir(&files)?;
        // The root of a file system is for everyone in it; `work` and `layers` keep others out.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&files, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        let limit = self
            .limits
            .bytes
            .saturating_add(self.limits.entries.saturating_mul(4096))
            .saturating_add(1 << 20);
        let mut input = Hashed::new(decompressed(input).map_err(failed)?, limit);
        // Headers are small; decompressing and hashing want large pieces.
        let buffered = io::BufReader::with_capacity(256 * 1024, &mut input);
        let unpacked = unpack(buffered, &files, kind, &self.limits).map_err(failed)?;
        let digest = hex(&input.digest());
        let record = LayerRecord {
            unpacked_bytes: unpacked.bytes,
            entries: unpacked.entries,
            skipped: unpacked.skipped,
        };
        let text = serde_json::to_vec(&record).map_err(|error| failed(io::Error::other(error)))?;
        fs::write(work.join("layer.json"), text).map_err(failed)?;
        // Everything on disk before the name that promises it.
        let directory = fs::File::open(work).map_err(failed)?;
        rustix::fs::syncfs(&directory).map_err(|error| failed(error.into()))?;
        let mut names = self.names();
        let place = self.layer(&digest);
        if !place.exists() {
            fs::rename(work, &place).map_err(failed)?;
        }
        *names.pinned.entry(digest.clone()).or_default() += 1;
        Ok((digest, unpacked))
    }

    fn unpin(&self, digest: &str) {
        let mut names = self.names();
        if let Some(count) = names.pinned.get_mut(digest) {
            *count -= 1;
            if *count == 0 {
                names.pinned.remove(digest);
            }
        }
    }

    fn name(&self, name: &str, digest: &str, unpacked: Unpacked) -> Result<ImageInfo> {
        let failed = |error| Error::io(format!("name the image {name:?}"), error);
        let digest_text = format!("sha256:{digest}");
        let info = ImageInfo::new(name, Some(digest_text), unpacked.bytes, SystemTime::now());
        let record = Record {
            info: info.clone(),
            layers: vec![digest.to_owned()],
        };
        let text = serde_json::to_vec(&record).map_err(|error| failed(io::Error::other(error)))?;
        let mut names = self.names();
        let work = self.new_work(&mut names);
        let write = || {
            use io::Write;
            let mut file = fs::File::create(&work)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&work, self.name_file(name))
        };
        write().map_err(failed)?;
        names.images.insert(name.to_owned(), record);
        Ok(info)
    }
}
