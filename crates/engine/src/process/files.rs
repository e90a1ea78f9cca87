//! Files below an instance's folder. Paths are resolved beneath it, symbolic links included
//! (`cap-std`): none leads out.

use std::ffi::OsStr;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, MetadataExt, OpenOptions, OpenOptionsExt};
use tokio::io::AsyncWriteExt;

use crate::{BoxReader, DirEntry, Error, FileKind, FileMeta, FileRead, Kind, Result, WriteOptions};

/// The path below the folder that an instance's absolute path means.
pub(super) fn below(path: &[u8]) -> Result<PathBuf> {
    let invalid = |why: &str| {
        Error::new(
            Kind::Invalid,
            format!("path {:?}: {why}", String::from_utf8_lossy(path)),
        )
    };
    if path.first() != Some(&b'/') {
        return Err(invalid("must be absolute"));
    }
    if path.contains(&0) {
        return Err(invalid("holds a NUL byte"));
    }
    let mut below = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(path)).components() {
        match part {
            Component::Normal(name) => below.push(name),
            Component::ParentDir => return Err(invalid("must not hold ..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if below.as_os_str().is_empty() {
        below.push(".");
    }
    Ok(below)
}

fn failed(doing: &str, path: &[u8], error: io::Error) -> Error {
    let words = format!("{doing} {:?}", String::from_utf8_lossy(path));
    let kind = match error.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        io::ErrorKind::AlreadyExists => Kind::Exists,
        // Also what cap-std says of a link that leads out.
        io::ErrorKind::PermissionDenied => Kind::Denied,
        io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::DirectoryNotEmpty
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::InvalidFilename => Kind::Invalid,
        _ if error.raw_os_error() == Some(libc::ELOOP) => Kind::Invalid,
        _ => return Error::io(words, error),
    };
    Error::with_source(kind, words, error)
}

/// An instance's folder.
pub(super) struct Folder {
    dir: Dir,
}

impl Folder {
    pub(super) fn open(root: &Path) -> Result<Self> {
        let dir = Dir::open_ambient_dir(root, ambient_authority())
            .map_err(|error| Error::io("open the instance's folder", error))?;
        Ok(Self { dir })
    }

    fn meta(&self, path: &Path, meta: &cap_std::fs::Metadata) -> io::Result<FileMeta> {
        let kind = match meta.file_type() {
            kind if kind.is_file() => FileKind::File,
            kind if kind.is_dir() => FileKind::Directory,
            kind if kind.is_symlink() => FileKind::Symlink,
            _ => FileKind::Other,
        };
        let target = match kind {
            FileKind::Symlink => Some(
                self.dir
                    .read_link_contents(path)?
                    .into_os_string()
                    .into_vec(),
            ),
            _ => None,
        };
        Ok(FileMeta {
            kind,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            size: meta.size(),
            mtime: meta.modified()?.into_std(),
            target,
        })
    }

    pub(super) fn stat(&self, path: &[u8], follow: bool) -> Result<FileMeta> {
        let inner = below(path)?;
        let look = || {
            let meta = if follow {
                self.dir.metadata(&inner)?
            } else {
                self.dir.symlink_metadata(&inner)?
            };
            self.meta(&inner, &meta)
        };
        look().map_err(|error| failed("look at", path, error))
    }

    pub(super) fn list(&self, path: &[u8]) -> Result<Vec<DirEntry>> {
        let inner = below(path)?;
        let list = || {
            let mut found = Vec::new();
            for entry in self.dir.read_dir(&inner)? {
                let name = entry?.file_name();
                let place = inner.join(&name);
                let meta = match self.dir.symlink_metadata(&place) {
                    // Gone since it was listed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    meta => meta?,
                };
                found.push(DirEntry {
                    meta: self.meta(&place, &meta)?,
                    name: name.into_vec(),
                });
            }
            Ok(found)
        };
        let mut found = list().map_err(|error| failed("list", path, error))?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    pub(super) fn read(&self, path: &[u8], offset: u64) -> Result<FileRead> {
        let inner = below(path)?;
        let open = || {
            let mut options = OpenOptions::new();
            // A fifo without a writer must not hold us up.
            options
                .read(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
            let file = self.dir.open_with(&inner, &options)?;
            let meta = self.meta(&inner, &file.metadata()?)?;
            let mut file = file.into_std();
            if meta.kind != FileKind::File {
                let words = if meta.kind == FileKind::Directory {
                    io::ErrorKind::IsADirectory
                } else {
                    io::ErrorKind::InvalidInput
                };
                return Err(words.into());
            }
            file.seek(SeekFrom::Start(offset))?;
            Ok(FileRead {
                meta,
                content: Box::new(tokio::fs::File::from_std(file)),
            })
        };
        open().map_err(|error| failed("read", path, error))
    }

    pub(super) fn make_dir(&self, path: &[u8], mode: u32, parents: bool) -> Result<()> {
        let inner = below(path)?;
        let make = |inner: &Path, mode: u32| {
            let mut builder = DirBuilder::new();
            builder.mode(mode);
            self.dir.create_dir_with(inner, &builder)?;
            // What the process's mask has taken away.
            let mode = cap_std::fs::Permissions::from_std(std::fs::Permissions::from_mode(mode));
            self.dir.set_permissions(inner, mode)
        };
        let run = || {
            if !parents {
                return make(&inner, mode);
            }
            let mut at = PathBuf::new();
            for part in inner.components() {
                at.push(part);
                let mode = if at == inner { mode } else { 0o755 };
                match make(&at, mode) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        if !self.dir.metadata(&at)?.is_dir() {
                            return Err(io::ErrorKind::NotADirectory.into());
                        }
                    }
                    made => made?,
                }
            }
            Ok(())
        };
        run().map_err(|error| failed("make the directory", path, error))
    }

    pub(super) fn symlink(&self, path: &[u8], target: &[u8]) -> Result<()> {
        let inner = below(path)?;
        // The text of a link is free; where it leads is judged when it is followed.
        self.dir
            .symlink_contents(OsStr::from_bytes(target), &inner)
            .map_err(|error| failed("make the link", path, error))
    }

    pub(super) fn remove(&self, path: &[u8], recursive: bool) -> Result<()> {
        let inner = below(path)?;
        if inner == Path::new(".") {
            return Err(Error::new(Kind::Invalid, "the root cannot be removed"));
        }
        let run = || match (self.dir.symlink_metadata(&inner)?.is_dir(), recursive) {
            (false, _) => self.dir.remove_file(&inner),
            (true, false) => self.dir.remove_dir(&inner),
            (true, true) => self.dir.remove_dir_all(&inner),
        };
        run().map_err(|error| failed("remove", path, error))
    }

    /// Opens what a write goes to: the file itself when adding to it, else a new one beside it.
    pub(super) fn begin_write(self, path: &[u8], options: WriteOptions) -> Result<Writing> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let inner = below(path)?;
        let parent = inner.parent().unwrap_or(Path::new("")).to_owned();
        if options.parents && !parent.as_os_str().is_empty() {
            let whole = [b"/", parent.as_os_str().as_bytes()].concat();
            self.make_dir(&whole, 0o755, true)?;
        }
        let open = || {
            let mut open = OpenOptions::new();
            open.write(true)
                .mode(options.mode.unwrap_or(0o644) & 0o7777);
            if options.append {
                open.append(true).create(true);
                return Ok((self.dir.open_with(&inner, &open)?, None));
            }
            let old = match self.dir.symlink_metadata(&inner) {
                Ok(meta) if meta.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
                Ok(meta) => Some(meta.mode() & 0o7777),
                Err(_) => None,
            };
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let beside = parent.join(format!(".boxrig-{}-{number}", std::process::id()));
            open.create_new(true);
            let file = self.dir.open_with(&beside, &open)?;
            Ok((file, Some((beside, old))))
        };
        let (file, beside) = open().map_err(|error| failed("write", path, error))?;
        let (beside, old_mode) = beside.unzip();
        Ok(Writing {
            dir: self.dir,
            file: Some(file.into_std()),
            path: path.to_vec(),
            inner,
            beside,
            // A file that is replaced keeps its mode; a new one gets the usual.
            mode: match (&options, old_mode.flatten()) {
                (
                    WriteOptions {
                        mode: Some(mode), ..
                    },
                    _,
                ) => Some(*mode),
                (WriteOptions { append: true, .. }, _) => None,
                (_, old) => Some(old.unwrap_or(0o644)),
            },
            options,
        })
    }
}

/// A write under way. Dropped before its end it leaves nothing (but what was added).
pub(super) struct Writing {
    dir: Dir,
    file: Option<std::fs::File>,
    path: Vec<u8>,
    inner: PathBuf,
    beside: Option<PathBuf>,
    mode: Option<u32>,
    options: WriteOptions,
}

impl Writing {
    /// Writes all of `content` and puts the file into place.
    pub(super) async fn run(mut self, mut content: BoxReader) -> Result<u64> {
        let path = self.path.clone();
        let wrong = |error| failed("write", &path, error);
        let file = self
            .file
            .take()
            .ok_or_else(|| wrong(io::ErrorKind::Other.into()))?;
        let mut file = tokio::fs::File::from_std(file);
        let bytes = tokio::io::copy(&mut content, &mut file)
            .await
            .map_err(wrong)?;
        file.flush().await.map_err(wrong)?;
        let file = file.into_std().await;
        super::blocking(move || self.finish(&file)).await?;
        Ok(bytes)
    }

    fn finish(mut self, file: &std::fs::File) -> Result<()> {
        let run = || {
            if self.options.uid.is_some() || self.options.gid.is_some() {
                std::os::unix::fs::fchown(file, self.options.uid, self.options.gid)?;
            }
            if let Some(mode) = self.mode {
                file.set_permissions(std::fs::Permissions::from_mode(mode & 0o7777))?;
            }
            if let Some(mtime) = self.options.mtime {
                file.set_modified(mtime)?;
            }
            if let Some(beside) = &self.beside {
                self.dir.rename(beside, &self.dir, &self.inner)?;
            }
            Ok(())
        };
        run().map_err(|error| failed("write", &self.path, error))?;
        self.beside = None;
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            // Nothing to be done about a failure; it lies in the instance's folder.
            let _ = self.dir.remove_file(beside);
        }
    }
}
