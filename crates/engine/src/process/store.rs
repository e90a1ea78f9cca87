//! What is written down of instances and snapshots, and their folders.
//!
//! ```text
//! DIR/instances/<id>/instance.json  root/  main.<offset>.log  console.<offset>.log
//! DIR/snapshots/<id>/snapshot.json  root/
//! DIR/work/        half-made and half-removed things; emptied at every opening
//! ```
//!
//! Everything is prepared in `work/` and renamed into place, and leaves by a rename into `work/`.

use std::fs::{self, FileTimes};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::lock::make_private_dir;
use crate::{Error, InstanceId, InstanceInfo, Kind, Result, SnapshotId, SnapshotInfo, tree};

#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    works: AtomicU64,
}

fn failed(doing: &str, path: &Path) -> impl Fn(io::Error) -> Error {
    let words = format!("{doing} {}", path.display());
    move |error| Error::io(words.clone(), error)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).map_err(failed("read", path))?;
    serde_json::from_slice(&text).map_err(|error| {
        Error::with_source(
            Kind::Io,
            format!("{} cannot be read", path.display()),
            error.into(),
        )
    })
}

/// Replaces a file whole.
fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let new = path.with_extension("new");
    let write = || {
        fs::write(&new, serde_json::to_vec(value)?)?;
        fs::rename(&new, path)
    };
    write().map_err(failed("write", path))
}

impl Store {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let work = dir.join("work");
        tree::remove_all(&work).map_err(failed("empty", &work))?;
        for part in ["instances", "snapshots", "work"] {
            make_private_dir(&dir.join(part))?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            works: AtomicU64::new(0),
        })
    }

    pub(super) fn instance_dir(&self, id: &InstanceId) -> PathBuf {
        self.dir.join("instances").join(id.as_str())
    }

    fn snapshot_dir(&self, id: &SnapshotId) -> PathBuf {
        self.dir.join("snapshots").join(id.as_str())
    }

    pub(super) fn snapshot_root(&self, id: &SnapshotId) -> PathBuf {
        self.snapshot_dir(id).join("root")
    }

    fn read_all<T: DeserializeOwned>(&self, part: &str, file: &str) -> Result<Vec<T>> {
        let dir = self.dir.join(part);
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(failed("read", &dir))? {
            let path = entry.map_err(failed("read", &dir))?.path();
            found.push(read_json(&path.join(file))?);
        }
        Ok(found)
    }

    pub(super) fn instances(&self) -> Result<Vec<InstanceInfo>> {
        self.read_all("instances", "instance.json")
    }

    pub(super) fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        self.read_all("snapshots", "snapshot.json")
    }

    pub(super) fn write_instance(&self, info: &InstanceInfo) -> Result<()> {
        write_json(&self.instance_dir(info.id()).join("instance.json"), info)
    }

    fn work_path(&self) -> PathBuf {
        self.dir
            .join("work")
            .join(self.works.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// A new folder to prepare something in.
    pub(super) fn new_work(&self) -> Result<PathBuf> {
        let path = self.work_path();
        make_private_dir(&path)?;
        Ok(path)
    }

    /// Fills a work folder with a new instance.
    pub(super) fn prepare(
        &self,
        work: &Path,
        info: &InstanceInfo,
        from: Option<&Path>,
    ) -> Result<()> {
        let root = work.join("root");
        match from {
            Some(from) => {
                copy_tree(from, &root)?;
            }
            None => make_private_dir(&root)?,
        }
        let temporary = root.join("tmp");
        if !temporary.exists() {
            make_private_dir(&temporary)?;
        }
        write_json(&work.join("instance.json"), info)
    }

    pub(super) fn publish(&self, work: PathBuf, id: &InstanceId) -> Result<()> {
        fs::rename(&work, self.instance_dir(id)).map_err(failed("move", &work))
    }

    pub(super) fn publish_snapshot(&self, work: PathBuf, info: &SnapshotInfo) -> Result<()> {
        write_json(&work.join("snapshot.json"), info)?;
        fs::rename(&work, self.snapshot_dir(&info.spec.id)).map_err(failed("move", &work))
    }

    fn discard(&self, path: &Path) -> Result<PathBuf> {
        let away = self.work_path();
        fs::rename(path, &away).map_err(failed("remove", path))?;
        Ok(away)
    }

    /// Takes an instance out of sight; [`Store::remove`] does the rest.
    pub(super) fn discard_instance(&self, id: &InstanceId) -> Result<PathBuf> {
        self.discard(&self.instance_dir(id))
    }

    pub(super) fn discard_snapshot(&self, id: &SnapshotId) -> Result<PathBuf> {
        self.discard(&self.snapshot_dir(id))
    }

    pub(super) fn remove(path: &Path) -> Result<()> {
        tree::remove_all(path).map_err(failed("remove", path))
    }

    /// Puts `work/root` in the place of `root`, which then is `work/old`.
    pub(super) fn swap(work: &Path, root: &Path) -> Result<()> {
        let (new, old) = (work.join("root"), work.join("old"));
        fs::rename(root, &old).map_err(failed("move", root))?;
        fs::rename(&new, root).map_err(|error| {
            // Back to what was; if that fails too there is nothing better to do.
            let _ = fs::rename(&old, root);
            failed("move", root)(error)
        })
    }
}

/// Copies a tree: files, directories, symbolic links (as they are), modes and times. Devices, fifos
/// and sockets are left out. Gives the bytes of the files.
pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<u64> {
    let mut bytes = 0;
    make_private_dir(to)?;
    let mut open = vec![(from.to_owned(), to.to_owned())];
    let mut made = Vec::new();
    while let Some((from, to)) = open.pop() {
        for entry in fs::read_dir(&from).map_err(failed("read", &from))? {
            let entry = entry.map_err(failed("read", &from))?;
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            let copy = || -> io::Result<u64> {
                let meta = fs::symlink_metadata(&source)?;
                if meta.is_symlink() {
                    symlink(fs::read_link(&source)?, &target)?;
                } else if meta.is_file() {
                    let count = fs::copy(&source, &target)?;
                    let file = fs::File::open(&target)?;
                    file.set_times(FileTimes::new().set_modified(meta.modified()?))?;
                    return Ok(count);
                } else if meta.is_dir() {
                    fs::create_dir(&target)?;
                }
                Ok(0)
            };
            bytes += copy().map_err(failed("copy", &source))?;
            if target.is_dir() && !target.is_symlink() {
                open.push((source, target));
            }
        }
        made.push((from, to));
    }
    // At the end, the deepest first: a directory may deny writing, and its time changes with its content.
    for (from, to) in made.into_iter().rev() {
        let set = || {
            let meta = fs::metadata(&from)?;
            fs::File::open(&to)?.set_times(FileTimes::new().set_modified(meta.modified()?))?;
            fs::set_permissions(
                &to,
                fs::Permissions::from_mode(meta.permissions().mode() & 0o7777),
            )
        };
        set().map_err(failed("copy", &from))?;
    }
    Ok(bytes)
}
