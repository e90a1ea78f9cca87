//! Where files are copied from: a folder of this machine, or another instance.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use boxrig_archive::ignore::{Ignore, glob};
use boxrig_engine::{BoxReader, Engine, FileKind, InstanceId};

use crate::error::{BuildError, Result};

/// Most links that are followed on one path.
const MAX_LINKS: usize = 40;
/// Most entries of one copy.
const MAX_ENTRIES: usize = 1_000_000;
/// Deepest folder.
const MAX_DEPTH: usize = 256;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) kind: FileKind,
    pub(crate) mode: u32,
    pub(crate) mtime: Option<SystemTime>,
    pub(crate) size: u64,
    /// Where a link leads.
    pub(crate) target: Vec<u8>,
}

/// One thing to copy, with its path below what is copied (empty for that itself).
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) below: Vec<u8>,
    /// Its path in the tree.
    pub(crate) path: Vec<u8>,
    pub(crate) found: Found,
}

/// A tree of files. Its paths are relative to its root, with slashes, and cannot lead out of it.
pub(crate) enum Tree {
    /// A folder of this machine that nobody else changes, with what is left out of it.
    Folder { root: PathBuf, ignore: Ignore },
    /// The files of an instance.
    Guest {
        engine: Arc<dyn Engine>,
        id: InstanceId,
    },
}

#[cfg(unix)]
fn bytes_of(name: &std::ffi::OsStr) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    name.as_bytes().to_vec()
}

#[cfg(not(unix))]
fn bytes_of(name: &std::ffi::OsStr) -> Vec<u8> {
    name.to_string_lossy().into_owned().into_bytes()
}

#[cfg(unix)]
fn name_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(not(unix))]
fn name_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(String::from_utf8_lossy(bytes).into_owned())
}

fn shown(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

/// `a/b` of two.
pub(crate) fn joined(above: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = above.to_vec();
    if !path.is_empty() && !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn found(meta: &fs::Metadata, path: &Path) -> io::Result<Found> {
    let kind = if meta.is_symlink() {
        FileKind::Symlink
    } else if meta.is_dir() {
        FileKind::Directory
    } else if meta.is_file() {
        FileKind::File
    } else {
        FileKind::Other
    };
    let target = match kind {
        FileKind::Symlink => bytes_of(fs::read_link(path)?.as_os_str()),
        _ => Vec::new(),
    };
    Ok(Found {
        kind,
        // No set-uid bits: who sends a context does not choose who a program runs as.
        mode: boxrig_archive::pack::mode_of(meta) & 0o777,
        mtime: meta.modified().ok(),
        size: meta.len(),
        target,
    })
}

fn cannot(path: &[u8], e: &io::Error) -> BuildError {
    match e.kind() {
        io::ErrorKind::NotFound => missing(path),
        _ => BuildError::context(format!("{}: {e}", shown(path))),
    }
}

fn missing(path: &[u8]) -> BuildError {
    BuildError::context(format!("{} is not there", shown(path)))
}

impl Tree {
    /// A folder, with the rules of its `.dockerignore`: those beside the Dockerfile, else those at the top.
    pub(crate) fn context(root: &Path, dockerfile: &str) -> Result<Self> {
        let failed = |e: io::Error| BuildError::context(format!("the build context: {e}"));
        let root = fs::canonicalize(root).map_err(failed)?;
        let bare = Self::Folder {
            root,
            ignore: Ignore::default(),
        };
        let beside = format!("{dockerfile}.dockerignore");
        let mut rules = Vec::new();
        for name in [beside.as_str(), ".dockerignore"] {
            if let Ok(text) = bare.small_file(name.as_bytes()) {
                rules = text;
                break;
            }
        }
        let Self::Folder { root, .. } = bare else {
            return Err(BuildError::context("the build context is no folder"));
        };
        Ok(Self::Folder {
            root,
            ignore: Ignore::parse(&rules),
        })
    }

    /// A small text file of a folder, whatever is left out.
    pub(crate) fn small_file(&self, path: &[u8]) -> Result<Vec<u8>> {
        let Self::Folder { root, .. } = self else {
            return Err(missing(path));
        };
        let at = resolve(root, path)?;
        let place = root.join(name_of(&at));
        let meta = fs::symlink_metadata(&place).map_err(|e| cannot(path, &e))?;
        if !meta.is_file() || meta.len() > crate::lines::MAX_BYTES as u64 {
            let words = format!(
                "{} is no file of at most {} bytes",
                shown(path),
                crate::lines::MAX_BYTES
            );
            return Err(BuildError::context(words));
        }
        fs::read(&place).map_err(|e| cannot(path, &e))
    }

    /// The paths that a source means: itself, or what matches its wildcards, in order.
    pub(crate) async fn matching(&self, source: &str) -> Result<Vec<Vec<u8>>> {
        let pattern = normal(source)?;
        if !source.contains(['*', '?', '[']) {
            return Ok(vec![pattern]);
        }
        // Only what is above the first wildcard need be read.
        let fixed: Vec<&[u8]> = pattern
            .split(|b| *b == b'/')
            .take_while(|step| !step.iter().any(|b| b"*?[\\".contains(b)))
            .collect();
        let steps = pattern.split(|b| *b == b'/').count();
        let deep = source.contains("**");
        let mut level = vec![fixed.join(&b'/')];
        let mut out = Vec::new();
        let mut depth = fixed.len();
        while !level.is_empty() && (deep || depth < steps) && depth < MAX_DEPTH {
            depth += 1;
            let mut next = Vec::new();
            for folder in &level {
                let Ok(entries) = self.list(folder).await else {
                    continue;
                };
                for (name, found) in entries {
                    let path = joined(folder, &name);
                    if glob(&pattern, &path) {
                        out.push(path.clone());
                    }
                    if found.kind == FileKind::Directory {
                        next.push(path);
                    }
                }
                if out.len() > MAX_ENTRIES {
                    return Err(BuildError::context(format!("{source:?}: too many files")));
                }
            }
            level = next;
        }
        out.sort();
        out.dedup();
        if out.is_empty() {
            return Err(BuildError::context(format!("nothing matches {source:?}")));
        }
        Ok(out)
    }

    /// What a path names; a link at its end is followed, within the tree. Also the path it led to.
    pub(crate) async fn at(&self, path: &[u8]) -> Result<(Vec<u8>, Found)> {
        match self {
            Self::Folder { root, ignore } => {
                let at = resolve(root, path)?;
                if !at.is_empty() && ignore.leaves_out(&at) && !ignore.may_keep_within(&at) {
                    let words = format!("{} is left out by .dockerignore", shown(path));
                    return Err(BuildError::context(words));
                }
                let place = root.join(name_of(&at));
                let meta = fs::symlink_metadata(&place).map_err(|e| cannot(path, &e))?;
                let found = found(&meta, &place).map_err(|e| cannot(path, &e))?;
                Ok((at, found))
            }
            Self::Guest { engine, id } => {
                let full = joined(b"/", path);
                let meta = engine.stat(id, &full, true).await;
                let meta = meta.map_err(|e| guest_error(&full, &e))?;
                Ok((path.to_vec(), guest_found(&meta)))
            }
        }
    }

    /// A folder's entries, ordered by name, without what is left out.
    async fn list(&self, folder: &[u8]) -> Result<Vec<(Vec<u8>, Found)>> {
        match self {
            Self::Folder { root, ignore } => {
                let place = root.join(name_of(folder));
                let mut out = Vec::new();
                for entry in fs::read_dir(&place).map_err(|e| cannot(folder, &e))? {
                    let entry = entry.map_err(|e| cannot(folder, &e))?;
                    let name = bytes_of(&entry.file_name());
                    let path = joined(folder, &name);
                    let meta = entry.metadata().map_err(|e| cannot(&path, &e))?;
                    if ignore.leaves_out(&path) && !(meta.is_dir() && ignore.may_keep_within(&path))
                    {
                        continue;
                    }
                    let found = found(&meta, &entry.path()).map_err(|e| cannot(&path, &e))?;
                    out.push((name, found));
                }
                out.sort_by(|a, b| a.0.cmp(&b.0));
                Ok(out)
            }
            Self::Guest { engine, id } => {
                let full = joined(b"/", folder);
                let entries = engine.list_dir(id, &full).await;
                let entries = entries.map_err(|e| guest_error(&full, &e))?;
                Ok(entries
                    .into_iter()
                    .map(|entry| (entry.name, guest_found(&entry.meta)))
                    .collect())
            }
        }
    }

    /// Everything at and below a path, folders before what is in them.
    pub(crate) async fn items(&self, path: &[u8]) -> Result<Vec<Item>> {
        let (at, found) = self.at(path).await?;
        let is_folder = found.kind == FileKind::Directory;
        let mut out = vec![Item {
            below: Vec::new(),
            path: at.clone(),
            found,
        }];
        let mut folders = Vec::new();
        if is_folder {
            folders.push((Vec::new(), at, 0));
        }
        while let Some((below, path, depth)) = folders.pop() {
            if depth > MAX_DEPTH {
                return Err(BuildError::context(format!("{}: too deep", shown(&path))));
            }
            let mut inner = Vec::new();
            for (name, found) in self.list(&path).await? {
                let (below, path) = (joined(&below, &name), joined(&path, &name));
                if found.kind == FileKind::Directory {
                    inner.push((below.clone(), path.clone(), depth + 1));
                }
                out.push(Item { below, path, found });
            }
            if out.len() > MAX_ENTRIES {
                let words = format!("more than {MAX_ENTRIES} files");
                return Err(BuildError::context(words));
            }
            inner.reverse();
            folders.append(&mut inner);
        }
        // A folder that is left out and has nothing in it that is not.
        if let Self::Folder { ignore, .. } = self {
            let kept = |path: &[u8]| !ignore.leaves_out(path);
            let needed: Vec<bool> = out
                .iter()
                .map(|item| {
                    item.below.is_empty()
                        || item.found.kind != FileKind::Directory
                        || kept(&item.path)
                        || out.iter().any(|other| {
                            other.found.kind != FileKind::Directory
                                && other.path.starts_with(&joined(&item.path, b"/"))
                        })
                })
                .collect();
            let mut needed = needed.into_iter();
            out.retain(|_| needed.next().unwrap_or(true));
        }
        Ok(out)
    }

    /// Opens a regular file that [`Tree::items`] or [`Tree::at`] gave.
    pub(crate) async fn read(&self, path: &[u8]) -> Result<BoxReader> {
        match self {
            Self::Folder { root, .. } => {
                let place = root.join(name_of(path));
                let file = tokio::fs::File::open(&place).await;
                let mut file = file.map_err(|e| cannot(path, &e))?;
                file.set_max_buf_size(1 << 20);
                Ok(Box::new(file))
            }
            Self::Guest { engine, id } => {
                let full = joined(b"/", path);
                let read = engine.read_file(id, &full, 0).await;
                Ok(read.map_err(|e| guest_error(&full, &e))?.content)
            }
        }
    }
}

fn guest_found(meta: &boxrig_engine::FileMeta) -> Found {
    Found {
        kind: meta.kind,
        mode: meta.mode,
        mtime: Some(meta.mtime),
        size: meta.size,
        target: meta.target.clone().unwrap_or_default(),
    }
}

fn guest_error(path: &[u8], e: &boxrig_engine::Error) -> BuildError {
    match e.kind() {
        boxrig_engine::Kind::NotFound => missing(path),
        _ => BuildError::context(e.to_string()),
    }
}

/// A source's path without empty steps and `.`. One that leads out is refused.
fn normal(source: &str) -> Result<Vec<u8>> {
    let mut steps: Vec<&str> = Vec::new();
    for step in source.split('/') {
        match step {
            "" | "." => {}
            ".." => {
                if steps.pop().is_none() {
                    let words = format!("{source:?} lies outside of the build context");
                    return Err(BuildError::context(words));
                }
            }
            step => steps.push(step),
        }
    }
    Ok(steps.join("/").into_bytes())
}

/// Follows a path with all its links, taking `root` for `/`. Nobody changes the folder meanwhile.
fn resolve(root: &Path, path: &[u8]) -> Result<Vec<u8>> {
    let mut todo: Vec<Vec<u8>> = steps_of(path);
    let mut done: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(step) = todo.pop() {
        match step.as_slice() {
            b"" | b"." => continue,
            b".." => {
                done.pop();
                continue;
            }
            _ => {}
        }
        done.push(step);
        let so_far = done.join(&b'/');
        let place = root.join(name_of(&so_far));
        let meta = fs::symlink_metadata(&place).map_err(|e| cannot(path, &e))?;
        if !meta.is_symlink() {
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(BuildError::context(format!(
                "{}: too many links",
                shown(path)
            )));
        }
        let target = fs::read_link(&place).map_err(|e| cannot(path, &e))?;
        let target = bytes_of(target.as_os_str());
        done.pop();
        if target.starts_with(b"/") {
            done.clear();
        }
        todo.extend(steps_of(&target));
    }
    Ok(done.join(&b'/'))
}

/// A path's steps, the last one first.
fn steps_of(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/')
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn folder() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("context");
        fs::create_dir_all(root.join("src/deep")).unwrap();
        fs::write(dir.path().join("secret"), "no").unwrap();
        for name in [
            "a.txt",
            "b.txt",
            "src/c.txt",
            "src/deep/d.txt",
            "src/deep/e.bin",
        ] {
            fs::write(root.join(name), name).unwrap();
        }
        symlink("../secret", root.join("out")).unwrap();
        symlink("/a.txt", root.join("absolute")).unwrap();
        symlink("src/../../../b.txt", root.join("clamped")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("src", root.join("folder")).unwrap();
        fs::write(root.join(".dockerignore"), "**/*.bin\nb.*\n").unwrap();
        let tree = Tree::context(&root, "Dockerfile").unwrap();
        (dir, tree)
    }

    #[tokio::test]
    async fn links_stay_inside() {
        let (_dir, tree) = folder();
        let Tree::Folder { root, .. } = &tree else {
            unreachable!()
        };
        assert!(
            resolve(root, b"out")
                .unwrap_err()
                .message
                .contains("not there")
        );
        assert_eq!(resolve(root, b"absolute").unwrap(), b"a.txt");
        assert_eq!(resolve(root, b"clamped").unwrap(), b"b.txt");
        assert_eq!(
            resolve(root, b"folder/deep/../c.txt").unwrap(),
            b"src/c.txt"
        );
        assert!(
            resolve(root, b"loop")
                .unwrap_err()
                .message
                .contains("links")
        );
        assert!(
            tree.matching("../secret")
                .await
                .unwrap_err()
                .message
                .contains("outside")
        );
        // A link that is copied with its folder stays a link.
        let items = tree.items(b"").await.unwrap();
        let out = items.iter().find(|item| item.below == b"out").unwrap();
        assert_eq!(out.found.kind, FileKind::Symlink);
        assert_eq!(out.found.target, b"../secret");
    }

    #[tokio::test]
    async fn wildcards_and_what_is_left_out() {
        let (_dir, tree) = folder();
        let names = async |pattern: &str| -> Vec<String> {
            let found = tree.matching(pattern).await;
            let found = found.unwrap().into_iter();
            found.map(|p| String::from_utf8(p).unwrap()).collect()
        };
        assert_eq!(names("*.txt").await, ["a.txt"]);
        assert_eq!(names("src/*").await, ["src/c.txt", "src/deep"]);
        assert_eq!(names("./s?c/[c-d].txt").await, ["src/c.txt"]);
        assert_eq!(names("**/d.txt").await, ["src/deep/d.txt"]);
        assert!(
            tree.matching("*.bin")
                .await
                .unwrap_err()
                .message
                .contains("matches")
        );
        let error = tree.at(b"b.txt").await.unwrap_err();
        assert!(error.message.contains(".dockerignore"), "{error}");
        let below: Vec<_> = tree.items(b"src").await.unwrap();
        let below: Vec<_> = below
            .iter()
            .map(|i| String::from_utf8_lossy(&i.below).into_owned())
            .collect();
        assert_eq!(below, ["", "c.txt", "deep", "deep/d.txt"]);
    }
}
