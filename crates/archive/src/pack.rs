//! A directory as a tar stream.

use std::fs::{self, File, Metadata, ReadDir};
use std::io::{self, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use boxrig_wire::{Error, Kind, Result};

use super::LeftOut;
use super::channel::Writer;
use super::ignore::Ignore;
use super::tar::{self, Entry};

/// What was packed.
#[derive(Debug, Default)]
pub struct Packed {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// What a tar stream cannot carry.
    pub left_out: LeftOut,
}

/// Called for each thing in a directory, with its name in it.
pub type Visit<'a> = dyn FnMut(&[u8], &Metadata, &Path) -> Result<()> + 'a;

/// Visits everything in `root` but what `ignore` leaves out, directories before what is in them. Names are relative, with slashes.
///
/// # Errors
///
/// What cannot be listed or read, and what `visit` gave.
pub fn walk(root: &Path, ignore: &Ignore, visit: &mut Visit<'_>) -> Result<()> {
    let listing = fs::read_dir(root).map_err(|e| cannot("list", root, e))?;
    let mut stack: Vec<(ReadDir, Vec<u8>)> = vec![(listing, Vec::new())];
    while let Some((listing, prefix)) = stack.last_mut() {
        let Some(found) = listing.next() else {
            stack.pop();
            continue;
        };
        let found = found.map_err(|e| cannot("list", root, e))?;
        let path = found.path();
        let mut name = prefix.clone();
        name.extend_from_slice(&name_bytes(&found.file_name()));
        let meta = fs::symlink_metadata(&path).map_err(|e| cannot("read", &path, e))?;
        let left_out = ignore.leaves_out(&name);
        if !left_out {
            visit(&name, &meta, &path)?;
        }
        if meta.is_dir() && (!left_out || ignore.may_keep_within(&name)) {
            let listing = fs::read_dir(&path).map_err(|e| cannot("list", &path, e))?;
            name.push(b'/');
            stack.push((listing, name));
        }
    }
    Ok(())
}

/// Writes everything in `root` as an archive rooted at `.`. Nothing is left out silently: what cannot be read is an error,
/// and what a tar stream cannot carry (sockets, devices, pipes) is listed.
///
/// `seen` is called with the number of entries and bytes so far.
///
/// # Errors
///
/// What cannot be read, and the `Transport` error of a reader that went away.
pub fn pack(
    root: &Path,
    ignore: &Ignore,
    out: Writer,
    seen: &mut dyn FnMut(u64, u64),
) -> Result<Packed> {
    let mut packer = Packer {
        out,
        packed: Packed::default(),
    };
    let meta = fs::metadata(root).map_err(|e| cannot("read", root, e))?;
    packer.directory(b"./".to_vec(), &meta, root)?;
    walk(root, ignore, &mut |name, meta, path| {
        let mut full = b"./".to_vec();
        full.extend_from_slice(name);
        if meta.is_dir() {
            full.push(b'/');
            packer.directory(full, meta, path)?;
        } else if meta.is_symlink() {
            packer.symlink(full, meta, path)?;
        } else if meta.is_file() {
            packer.file(full, path)?;
        } else {
            let left_out = &mut packer.packed.left_out;
            left_out.add(name, "a socket, device or pipe cannot be sent");
        }
        seen(packer.packed.entries, packer.packed.bytes);
        Ok(())
    })?;
    let finished = packer
        .out
        .write_all(&tar::END)
        .and_then(|()| packer.out.finish());
    finished.map_err(|e| cannot("send", root, e))?;
    Ok(packer.packed)
}

/// An error of a file that names it.
pub fn cannot(what: &str, path: &Path, e: io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        io::ErrorKind::PermissionDenied => Kind::Denied,
        io::ErrorKind::BrokenPipe => Kind::Transport,
        _ => Kind::Failed,
    };
    let path = path.to_string_lossy();
    let path = boxrig_wire::escape_line(&path);
    let mut error = Error::new(kind, format!("cannot {what} {path}")).with_retryable(false);
    if e.kind() == io::ErrorKind::NotFound {
        error = error.with_code("ENOENT");
    }
    error.with_source(e)
}

struct Packer {
    out: Writer,
    packed: Packed,
}

impl Packer {
    fn directory(&mut self, name: Vec<u8>, meta: &Metadata, path: &Path) -> Result<()> {
        let entry = entry(name, tar::Kind::Directory, meta);
        self.header(&entry, path)
    }

    fn symlink(&mut self, name: Vec<u8>, meta: &Metadata, path: &Path) -> Result<()> {
        let target = fs::read_link(path).map_err(|e| cannot("read", path, e))?;
        let mut entry = entry(name, tar::Kind::Symlink, meta);
        entry.link = path_bytes(&target);
        self.header(&entry, path)
    }

    fn file(&mut self, name: Vec<u8>, path: &Path) -> Result<()> {
        let mut file = File::open(path).map_err(|e| cannot("read", path, e))?;
        // The size is that of the file that is open, not of the one that was listed.
        let meta = file.metadata().map_err(|e| cannot("read", path, e))?;
        let mut entry = entry(name, tar::Kind::File, &meta);
        entry.size = meta.len();
        self.header(&entry, path)?;
        self.out
            .copy(&mut file, meta.len())
            .map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => Error::new(
                    Kind::Failed,
                    format!(
                        "{} became shorter while it was read",
                        boxrig_wire::escape_line(&path.to_string_lossy())
                    ),
                ),
                _ => cannot("read", path, e),
            })?;
        let pad = tar::padding(meta.len());
        self.packed.bytes += meta.len();
        self.out
            .write_all(&[0; 512][..pad])
            .map_err(|e| cannot("send", path, e))
    }

    fn header(&mut self, entry: &Entry, path: &Path) -> Result<()> {
        self.packed.entries += 1;
        tar::write_header(&mut self.out, entry).map_err(|e| cannot("send", path, e))
    }
}

fn entry(path: Vec<u8>, kind: tar::Kind, meta: &Metadata) -> Entry {
    Entry {
        path,
        kind,
        mode: mode_of(meta),
        mtime: mtime_of(meta),
        size: 0,
        link: Vec::new(),
    }
}

/// The permission bits of a file, as far as the system has any.
#[cfg(unix)]
pub fn mode_of(meta: &Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o7777
}

/// The permission bits of a file, as far as the system has any.
#[cfg(not(unix))]
pub fn mode_of(meta: &Metadata) -> u32 {
    match (meta.is_dir(), meta.permissions().readonly()) {
        (true, _) => 0o755,
        (false, false) => 0o644,
        (false, true) => 0o444,
    }
}

/// Whole seconds since 1970, 0 where the system does not say.
pub fn mtime_of(meta: &Metadata) -> i64 {
    let Ok(time) = meta.modified() else { return 0 };
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(0),
        Err(before) => {
            let d = before.duration();
            let whole = i64::try_from(d.as_secs()).unwrap_or(0);
            -whole - i64::from(d.subsec_nanos() > 0)
        }
    }
}

#[cfg(unix)]
fn name_bytes(name: &std::ffi::OsStr) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    name.as_bytes().to_vec()
}

#[cfg(not(unix))]
fn name_bytes(name: &std::ffi::OsStr) -> Vec<u8> {
    name.to_string_lossy().into_owned().into_bytes()
}

/// The bytes of a path, with slashes.
#[cfg(unix)]
pub fn path_bytes(path: &Path) -> Vec<u8> {
    name_bytes(path.as_os_str())
}

/// Archives use slashes.
#[cfg(not(unix))]
pub fn path_bytes(path: &Path) -> Vec<u8> {
    path.to_string_lossy().replace('\\', "/").into_bytes()
}
