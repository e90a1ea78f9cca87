//! An archive from a machine that nobody vouches for, into a directory of ours.
//!
//! Nothing is written outside the directory, and nothing through a link: every entry is made in the directory that holds
//! it, which was opened step by step without following links, under a temporary name that then takes the place of whatever
//! was there.

use std::fs::{self, FileTimes};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boxrig_wire::{Error, Kind, Result, escape_line};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use flate2::bufread::MultiGzDecoder;

use super::LeftOut;
use super::pack::cannot;
use super::tar::{self, Entry};

/// What is done with links that lead out of the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutsideLinks {
    /// They are left out, and named in the report.
    #[default]
    Skip,
    /// They are made as they are. Whatever follows them later, follows them to where the machine's owner chose.
    Keep,
    /// They are an error.
    Refuse,
}

/// What an archive may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes after decompression, headers included.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// What becomes of links that lead out.
    pub outside_links: OutsideLinks,
}

/// What was unpacked.
#[derive(Debug, Default)]
pub struct Unpacked {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// What was left out.
    pub left_out: LeftOut,
    /// Whether the archive was compressed, and so checked by gzip's checksum.
    pub gzip: bool,
}

/// The most steps of a path.
const DEPTH: usize = 256;
/// The mode bits that are taken over: no setuid, setgid or sticky bit.
const MODE: u32 = 0o777;

/// Unpacks the tar archive (plain or gzip) that comes out of `source` into `root`, which is made if need be. What is there
/// and not in the archive stays. `seen` is called with the number of entries and bytes so far.
///
/// # Errors
///
/// `Protocol` for an archive that is broken, too large or hostile; `Transport` for one that is cut; else what writing gave.
pub fn unpack(
    root: &Path,
    source: impl Read,
    limits: Limits,
    seen: &mut dyn FnMut(u64, u64),
) -> Result<Unpacked> {
    fs::create_dir_all(root).map_err(|e| cannot("make", root, e))?;
    let dir =
        Dir::open_ambient_dir(root, ambient_authority()).map_err(|e| cannot("open", root, e))?;
    let mut unpacker = Unpacker {
        stack: vec![Level {
            name: Vec::new(),
            dir,
            meta: None,
        }],
        out: Unpacked::default(),
        limits,
        serial: 0,
        run: crate::random_hex()?,
        buffer: vec![0; 128 * 1024],
    };
    let mut source = BufReader::with_capacity(64 * 1024, source);
    let start = io::BufRead::fill_buf(&mut source).map_err(|e| failed("read the archive", e))?;
    let gzip = start.first() == Some(&0x1f);
    unpacker.out.gzip = gzip;
    if gzip {
        unpacker.all(MultiGzDecoder::new(source), seen)?;
    } else {
        unpacker.all(source, seen)?;
    }
    while unpacker.stack.len() > 1 {
        unpacker.leave()?;
    }
    if let Some(root) = unpacker.stack.pop() {
        finish(&root)?;
    }
    Ok(unpacker.out)
}

fn failed(what: &str, e: io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::InvalidData => Kind::Protocol,
        io::ErrorKind::UnexpectedEof => Kind::Transport,
        io::ErrorKind::PermissionDenied => Kind::Denied,
        _ => Kind::Failed,
    };
    Error::new(kind, format!("cannot {what}"))
        .with_retryable(false)
        .with_source(e)
}

fn hostile(path: &[u8], why: &str) -> Error {
    let path = String::from_utf8_lossy(path);
    Error::new(
        Kind::Protocol,
        format!("the archive is refused: {} {why}", escape_line(&path)),
    )
    .with_code("hostile_archive")
}

/// A directory on the way to the present entry.
struct Level {
    name: Vec<u8>,
    dir: Dir,
    /// Mode and time that it gets when everything is in it.
    #[cfg_attr(
        not(unix),
        allow(dead_code, reason = "directories have no modes there")
    )]
    meta: Option<(u32, i64)>,
}

struct Unpacker {
    stack: Vec<Level>,
    out: Unpacked,
    limits: Limits,
    serial: u64,
    run: String,
    buffer: Vec<u8>,
}

/// Counts what is read and refuses to go past a limit.
struct Counted<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(out)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the archive is larger than what it may unpack to",
            )
        })?;
        Ok(n)
    }
}

impl Unpacker {
    fn all(&mut self, source: impl Read, seen: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let left = self.limits.bytes;
        let mut archive = tar::Reader::new(Counted {
            inner: source,
            left,
        });
        let read = |e| failed("read the archive", e);
        while let Some(entry) = archive.next_entry().map_err(read)? {
            self.out.entries += 1;
            if self.out.entries > self.limits.entries {
                return Err(hostile(&entry.path, "is one entry too many"));
            }
            self.entry(&entry, &mut archive)?;
            seen(self.out.entries, self.out.bytes);
        }
        // The rest is padding; read, it lets gzip's checksum be compared and shows a cut.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(read)?;
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, content: &mut impl Read) -> Result<()> {
        let steps = steps(&entry.path)?;
        let Some((name, parents)) = steps.split_last() else {
            // The root itself.
            if entry.kind == tar::Kind::Directory {
                self.go_to(&[])?;
                self.stack[0].meta = Some((entry.mode & MODE, entry.mtime));
            }
            return Ok(());
        };
        match entry.kind {
            tar::Kind::Directory => {
                self.go_to(&steps)?;
                if let Some(level) = self.stack.last_mut() {
                    level.meta = Some((entry.mode & MODE, entry.mtime));
                }
                Ok(())
            }
            tar::Kind::File => {
                self.go_to(parents)?;
                self.file(name, entry, content)
            }
            tar::Kind::Symlink => {
                self.go_to(parents)?;
                self.symlink(name, parents.len(), entry)
            }
            tar::Kind::HardLink => {
                self.go_to(parents)?;
                self.hard_link(name, entry)
            }
            tar::Kind::Other => {
                self.out
                    .left_out
                    .add(&entry.path, "a device, a pipe or an unknown kind of entry");
                Ok(())
            }
        }
    }

    fn here(&self) -> &Dir {
        // The stack always holds the root.
        &self.stack[self.stack.len() - 1].dir
    }

    /// Opens the directory at these steps, making what is missing. No step may be a link.
    fn go_to(&mut self, steps: &[&[u8]]) -> Result<()> {
        let same = self
            .stack
            .iter()
            .skip(1)
            .zip(steps)
            .take_while(|(level, step)| level.name == **step)
            .count();
        while self.stack.len() > same + 1 {
            self.leave()?;
        }
        for (i, step) in steps.iter().enumerate().skip(same) {
            let name = os_name(step)?;
            let here = self.here();
            match here.symlink_metadata(&name) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => {
                    let path = steps[..=i].join(&b'/');
                    return Err(hostile(
                        &path,
                        "is a directory in the archive, and none here",
                    ));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    here.create_dir(&name)
                        .map_err(|e| failed("make a directory", e))?;
                }
                Err(e) => return Err(failed("look at a directory", e)),
            }
            let dir = here
                .open_dir(&name)
                .map_err(|e| failed("open a directory", e))?;
            self.stack.push(Level {
                name: step.to_vec(),
                dir,
                meta: None,
            });
        }
        Ok(())
    }

    /// Leaves the innermost directory, which now gets its mode and its time.
    fn leave(&mut self) -> Result<()> {
        match self.stack.pop() {
            Some(level) => finish(&level),
            None => Ok(()),
        }
    }

    fn temporary(&mut self) -> String {
        self.serial += 1;
        format!(".boxrig-{}-{}.part", &self.run[..12], self.serial)
    }

    fn file(&mut self, name: &[u8], entry: &Entry, content: &mut impl Read) -> Result<()> {
        let target = os_name(name)?;
        let part = self.temporary();
        let mut buffer = std::mem::take(&mut self.buffer);
        let made = self.write_file(&part, entry, content, &mut buffer);
        self.buffer = buffer;
        let here = self.here();
        let placed = made.and_then(|()| {
            here.rename(&part, here, &target)
                .map_err(|e| named("replace", &entry.path, e))
        });
        if placed.is_err() {
            // The first error is the one that counts.
            let _ = here.remove_file(&part);
        }
        placed?;
        self.out.bytes += entry.size;
        Ok(())
    }

    fn write_file(
        &self,
        part: &str,
        entry: &Entry,
        content: &mut impl Read,
        buffer: &mut [u8],
    ) -> Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let file = self
            .here()
            .open_with(part, &options)
            .map_err(|e| named("make", &entry.path, e))?;
        let mut file = file.into_std();
        loop {
            let n = match content.read(buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(failed("read the archive", e)),
            };
            file.write_all(&buffer[..n])
                .map_err(|e| named("write", &entry.path, e))?;
        }
        set_meta(&file, entry.mode & MODE, entry.mtime).map_err(|e| named("finish", &entry.path, e))
    }

    #[cfg(unix)]
    fn symlink(&mut self, name: &[u8], depth: usize, entry: &Entry) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let target = os_name(name)?;
        if entry.link.is_empty() || entry.link.contains(&0) {
            return Err(hostile(&entry.path, "is a link to nothing"));
        }
        if leads_outside(&entry.link, depth) {
            match self.limits.outside_links {
                OutsideLinks::Keep => {}
                OutsideLinks::Refuse => return Err(hostile(&entry.path, "links to the outside")),
                OutsideLinks::Skip => {
                    self.out
                        .left_out
                        .add(&entry.path, "a link that leads out of the directory");
                    return Ok(());
                }
            }
        }
        let part = self.temporary();
        let link = std::ffi::OsStr::from_bytes(&entry.link);
        let here = self.here();
        here.symlink_contents(link, &part)
            .map_err(|e| named("make", &entry.path, e))?;
        here.rename(&part, here, &target).map_err(|e| {
            let _ = here.remove_file(&part);
            named("replace", &entry.path, e)
        })
    }

    /// Links need a privilege on this system.
    #[cfg(not(unix))]
    fn symlink(&mut self, _: &[u8], _: usize, entry: &Entry) -> Result<()> {
        self.out
            .left_out
            .add(&entry.path, "links are not made on this system");
        Ok(())
    }

    fn hard_link(&mut self, name: &[u8], entry: &Entry) -> Result<()> {
        let target = os_name(name)?;
        let steps = steps(&entry.link)?;
        let Some((first, parents)) = steps.split_last() else {
            return Err(hostile(&entry.path, "is a link to the directory itself"));
        };
        let original = os_name(first)?;
        // The original's directory is opened without following links, as every other.
        let mut from = self.stack[0]
            .dir
            .try_clone()
            .map_err(|e| failed("open a directory", e))?;
        for step in parents {
            let step = os_name(step)?;
            let is_dir = from.symlink_metadata(&step).is_ok_and(|m| m.is_dir());
            if !is_dir {
                return Err(hostile(
                    &entry.path,
                    "is a link to what is not in the archive",
                ));
            }
            from = from
                .open_dir(&step)
                .map_err(|e| failed("open a directory", e))?;
        }
        let found = from.symlink_metadata(&original);
        if !found.is_ok_and(|m| m.is_file()) {
            return Err(hostile(
                &entry.path,
                "is a link to what is not in the archive",
            ));
        }
        let part = self.temporary();
        let here = self.here();
        from.hard_link(&original, here, &part)
            .map_err(|e| named("link", &entry.path, e))?;
        let placed = here.rename(&part, here, &target);
        // Two names of one file: the rename then leaves both.
        let _ = here.remove_file(&part);
        placed.map_err(|e| named("replace", &entry.path, e))
    }
}

fn named(what: &str, path: &[u8], e: io::Error) -> Error {
    let path = String::from_utf8_lossy(path);
    failed(&format!("{what} {}", escape_line(&path)), e)
}

#[cfg(unix)]
fn finish(level: &Level) -> Result<()> {
    let Some((mode, mtime)) = level.meta else {
        return Ok(());
    };
    // Opened anew: the handle that entries are made through may be one for paths only.
    let done = level
        .dir
        .open(".")
        .and_then(|dir| set_meta(&dir.into_std(), mode, mtime));
    done.map_err(|e| named("finish", &level.name, e))
}

/// Directories have no modes here, and cannot be opened as files are.
#[cfg(not(unix))]
fn finish(_: &Level) -> Result<()> {
    Ok(())
}

fn set_meta(file: &fs::File, mode: u32, mtime: i64) -> io::Result<()> {
    let since = Duration::from_secs(mtime.unsigned_abs());
    let time = if mtime < 0 {
        UNIX_EPOCH.checked_sub(since)
    } else {
        UNIX_EPOCH.checked_add(since)
    };
    // A time that this system cannot express is no reason to fail.
    file.set_times(FileTimes::new().set_modified(time.unwrap_or_else(SystemTime::now)))?;
    set_mode(file, mode)
}

/// Sets the permission bits of an open file, where the system has them.
///
/// # Errors
///
/// What the system gave.
#[cfg(unix)]
pub fn set_mode(file: &fs::File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
pub fn set_mode(_: &fs::File, _: u32) -> io::Result<()> {
    Ok(())
}

/// The steps of a path in an archive: relative, and never up.
fn steps(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.first() == Some(&b'/') {
        return Err(hostile(path, "is an absolute path"));
    }
    if path.contains(&0) {
        return Err(hostile(path, "has a zero byte in it"));
    }
    let mut steps = Vec::new();
    for step in path.split(|b| *b == b'/') {
        match step {
            b"" | b"." => {}
            b".." => return Err(hostile(path, "leads up")),
            step => steps.push(step),
        }
    }
    if steps.len() > DEPTH {
        return Err(hostile(path, "is too deep"));
    }
    Ok(steps)
}

/// Whether a link in a directory at this depth leads out. The directories on the way to it are real ones, so leading `..` are
/// what they seem; a `..` after a name may go through a link and is not trusted.
#[cfg(unix)]
fn leads_outside(link: &[u8], depth: usize) -> bool {
    if link.first() == Some(&b'/') {
        return true;
    }
    let mut up = 0;
    let mut named = false;
    for step in link.split(|b| *b == b'/') {
        match step {
            b"" | b"." => {}
            b".." if named => return true,
            b".." => up += 1,
            _ => named = true,
        }
    }
    up > depth
}

#[cfg(unix)]
fn os_name(step: &[u8]) -> Result<std::ffi::OsString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(std::ffi::OsStr::from_bytes(step).to_owned())
}

/// Names that mean something else on this system are refused.
#[cfg(not(unix))]
fn os_name(step: &[u8]) -> Result<std::ffi::OsString> {
    const RESERVED: &[&str] = &["con", "prn", "aux", "nul"];
    let name = std::str::from_utf8(step).map_err(|_| hostile(step, "is no name here"))?;
    let stem = name.split('.').next().unwrap_or(name).to_ascii_lowercase();
    let port = (stem.starts_with("com") || stem.starts_with("lpt")) && stem.len() == 4;
    let odd =
        name.contains(['\\', ':', '*', '?', '"', '<', '>', '|']) || name.ends_with([' ', '.']);
    if odd || port || RESERVED.contains(&stem.as_str()) || name.bytes().any(|b| b < 32) {
        return Err(hostile(step, "is no name here"));
    }
    Ok(name.into())
}
