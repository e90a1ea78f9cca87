//! Unpacking an archive below one directory, and nowhere else.
//!
//! Every step of every path is opened relative to the directory before it and never through a
//! symbolic link; names with `..` are refused; files are always made new (`O_EXCL`), so that nothing
//! is written through a link made earlier. Devices and fifos are left out.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::ImportLimits;
use super::tar::{Entry, EntryKind, Reader};

/// Steps of a path.
const MAX_DEPTH: usize = 128;
/// Bytes of a path, as the kernel counts them.
const MAX_PATH: usize = 4095;
/// Bytes of directory names remembered until the end, when their modes and times are set.
const MAX_REMEMBERED: usize = 64 << 20;
/// Highest id that an instance can have.
const MAX_ID: u64 = 65_535;
/// What ids above are changed to.
const NOBODY: u32 = 65_534;

/// Whether there are layers below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// A whole root file system: entries that hide others (`.wh.`) have nothing to hide and are left
    /// out.
    Base,
    /// A layer of an OCI image: `.wh.name` becomes an overlay whiteout of `name`, `.wh..wh..opq` makes its
    /// directory opaque.
    Upper,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of file content.
    pub bytes: u64,
    /// Files, directories and links made.
    pub entries: u64,
    /// Devices and fifos left out.
    pub skipped: u64,
}

fn refuse(words: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words)
}

fn quoted(path: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(path).into_owned();
    if text.chars().count() > 200 {
        text = text.chars().take(200).collect();
        text.push('…');
    }
    format!("{text:?}")
}

/// Unpacks the tar archive `input` into the existing, empty directory `root`.
///
/// # Errors
/// `InvalidData` for an archive that is malformed, exceeds a limit, or tries to leave `root`;
/// otherwise what reading and writing gave. What was unpacked so far stays.
pub fn unpack(
    input: impl Read,
    root: &Path,
    kind: LayerKind,
    limits: &ImportLimits,
) -> io::Result<Unpacked> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut unpacker = Unpacker {
        root: fs::open(root, flags, Mode::empty())?,
        kind,
        limits: *limits,
        done: Unpacked::default(),
        parent: None,
        directories: Vec::new(),
        known: HashSet::new(),
        remembered: 0,
        // Only root can give files away.
        owners: rustix::process::geteuid().is_root(),
    };
    let mut reader = Reader::new(input, limits.entries);
    while let Some(entry) = reader.next_entry()? {
        unpacker.entry(&entry, &mut reader)?;
    }
    unpacker.finish()?;
    // Whoever sends the archive must be able to send all of it, and its digest covers all of it.
    reader.drain()?;
    Ok(unpacker.done)
}

struct Unpacker {
    root: OwnedFd,
    kind: LayerKind,
    limits: ImportLimits,
    done: Unpacked,
    /// The directory of the last entry: the next one is often in it too.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// What directories get at the end: while entries come, they must be open to us, and each entry
    /// changes their time.
    directories: Vec<(Vec<u8>, Attributes)>,
    known: HashSet<Vec<u8>>,
    remembered: usize,
    owners: bool,
}

#[derive(Debug, Clone)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Option<(i64, u32)>,
}

impl Attributes {
    fn of(entry: &Entry) -> Self {
        let id = |id: u64| if id > MAX_ID { NOBODY } else { id as u32 };
        Self {
            mode: entry.mode,
            uid: id(entry.uid),
            gid: id(entry.gid),
            mtime: Some(entry.mtime),
        }
    }
}

/// Splits a path of an archive into its steps. A leading `/` and steps of `.` mean nothing there.
fn steps(path: &[u8]) -> io::Result<Vec<&[u8]>> {
    if path.contains(&0) || path.len() > MAX_PATH {
        return Err(refuse(format!(
            "the name {} is too long or holds a NUL",
            quoted(path)
        )));
    }
    let steps: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|step| !step.is_empty() && *step != b".")
        .collect();
    if steps.contains(&&b".."[..]) {
        return Err(refuse(format!(
            "the name {} leads out of the archive",
            quoted(path)
        )));
    }
    if steps.len() > MAX_DEPTH || steps.iter().any(|step| step.len() > 255) {
        return Err(refuse(format!(
            "the name {} is too deep or too long",
            quoted(path)
        )));
    }
    Ok(steps)
}

fn times(mtime: (i64, u32)) -> Timestamps {
    // Far beyond what file systems keep, and within what the call takes.
    let seconds = mtime.0.clamp(-(1 << 40), 1 << 40);
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(mtime.1),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn os(step: &[u8]) -> &OsStr {
    OsStr::from_bytes(step)
}

impl Unpacker {
    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> io::Result<()> {
        let steps = steps(&entry.path)?;
        let Some((name, parents)) = steps.split_last() else {
            // The root itself.
            if entry.kind == EntryKind::Directory {
                self.remember(Vec::new(), Attributes::of(entry))?;
                return Ok(());
            }
            return Err(refuse("an entry without a name".to_owned()));
        };
        if parents.iter().any(|step| step.starts_with(b".wh.")) {
            return Err(refuse(format!(
                "the name {} is below a whiteout",
                quoted(&entry.path)
            )));
        }
        if entry.kind == EntryKind::Special {
            self.done.skipped += 1;
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(parents, hidden, entry);
        }
        self.count(1)?;
        let parent = self.open_parent(parents)?;
        let made = match entry.kind {
            EntryKind::Directory => self.directory(&parent, &steps, entry),
            EntryKind::File => self.file(&parent, name, entry, reader),
            EntryKind::Symlink => self.symlink(&parent, name, entry),
            EntryKind::HardLink => self.hard_link(&parent, name, &steps, entry),
            EntryKind::Special => Ok(()),
        };
        self.parent = Some((parents.join(&b'/'), parent));
        made
    }

    fn count(&mut self, entries: u64) -> io::Result<()> {
        self.done.entries += entries;
        if self.done.entries > self.limits.entries {
            return Err(refuse(format!("more than {} entries", self.limits.entries)));
        }
        Ok(())
    }

    fn remember(&mut self, path: Vec<u8>, attributes: Attributes) -> io::Result<()> {
        self.remembered += path.len() + size_of::<(Vec<u8>, Attributes)>();
        if self.remembered > MAX_REMEMBERED {
            return Err(refuse("too many directories".to_owned()));
        }
        self.directories.push((path, attributes));
        Ok(())
    }

    /// Opens the directory of an entry, making what is missing.
    fn open_parent(&mut self, parents: &[&[u8]]) -> io::Result<OwnedFd> {
        let path = parents.join(&b'/');
        if let Some((cached, directory)) = self.parent.take()
            && cached == path
        {
            return Ok(directory);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = self.root.try_clone()?;
        for (index, step) in parents.iter().enumerate() {
            at = match fs::openat(&at, os(step), flags, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    self.count(1)?;
                    fs::mkdirat(&at, os(step), Mode::RWXU)?;
                    let implied = Attributes {
                        mode: 0o755,
                        uid: 0,
                        gid: 0,
                        mtime: None,
                    };
                    self.remember(parents[..=index].join(&b'/'), implied)?;
                    fs::openat(&at, os(step), flags, Mode::empty())?
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let through = parents[..=index].join(&b'/');
                    return Err(refuse(format!(
                        "an entry goes through {}, which is not a directory",
                        quoted(&through)
                    )));
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(at)
    }

    fn directory(&mut self, parent: &OwnedFd, steps: &[&[u8]], entry: &Entry) -> io::Result<()> {
        let name = steps.last().copied().unwrap_or_default();
        match fs::mkdirat(parent, os(name), Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let found = fs::statat(parent, os(name), AtFlags::SYMLINK_NOFOLLOW)?;
                if fs::FileType::from_raw_mode(found.st_mode) != fs::FileType::Directory {
                    fs::unlinkat(parent, os(name), AtFlags::empty())?;
                    fs::mkdirat(parent, os(name), Mode::RWXU)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if !entry.xattrs.is_empty() {
            let directory = fs::openat(parent, os(name), flags, Mode::empty())?;
            attach_xattrs(&directory, entry);
        }
        self.remember(steps.join(&b'/'), Attributes::of(entry))
    }

    /// Makes room for an entry that is no directory: a later entry of a name replaces an earlier one.
    fn make_room(&mut self, parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        match fs::unlinkat(parent, os(name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => fs::unlinkat(parent, os(name), AtFlags::REMOVEDIR)
                .map_err(|error| match error {
                    Errno::NOTEMPTY | Errno::EXIST => refuse(format!(
                        "{} replaces a directory that is not empty",
                        quoted(name)
                    )),
                    other => other.into(),
                }),
            Err(error) => Err(error.into()),
        }
    }

    fn file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> io::Result<()> {
        let too_big = || refuse(format!("more than {} bytes of files", self.limits.bytes));
        // By what the header claims, before anything is written.
        let after = self
            .done
            .bytes
            .checked_add(entry.size)
            .ok_or_else(too_big)?;
        if after > self.limits.bytes {
            return Err(too_big());
        }
        self.done.bytes = after;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || fs::openat(parent, os(name), flags, Mode::RUSR | Mode::WUSR);
        let file = match create() {
            Err(Errno::EXIST) => {
                self.make_room(parent, name)?;
                create()?
            }
            made => made?,
        };
        let mut buffer = [0; 65_536];
        loop {
            let got = reader.content(&mut buffer)?;
            if got == 0 {
                break;
            }
            write_all(&file, &buffer[..got])?;
        }
        self.attributes(&file, &Attributes::of(entry), entry)
    }

    fn attributes(&self, file: &OwnedFd, attributes: &Attributes, entry: &Entry) -> io::Result<()> {
        // In this order: a change of owner takes set-user-id bits and capabilities away.
        if self.owners {
            fs::fchown(file, Some(uid(attributes.uid)), Some(gid(attributes.gid)))?;
        }
        fs::fchmod(file, Mode::from_raw_mode(attributes.mode))?;
        attach_xattrs(file, entry);
        if let Some(mtime) = attributes.mtime {
            fs::futimens(file, &times(mtime))?;
        }
        Ok(())
    }

    fn symlink(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> io::Result<()> {
        if entry.link.is_empty() || entry.link.len() > MAX_PATH || entry.link.contains(&0) {
            return Err(refuse(format!(
                "the symbolic link {} leads nowhere",
                quoted(name)
            )));
        }
        match fs::symlinkat(os(&entry.link), parent, os(name)) {
            Err(Errno::EXIST) => {
                self.make_room(parent, name)?;
                fs::symlinkat(os(&entry.link), parent, os(name))?;
            }
            made => made?,
        }
        let attributes = Attributes::of(entry);
        if self.owners {
            let (uid, gid) = (uid(attributes.uid), gid(attributes.gid));
            fs::chownat(
                parent,
                os(name),
                Some(uid),
                Some(gid),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
        fs::utimensat(
            parent,
            os(name),
            &times(entry.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok(())
    }

    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        own: &[&[u8]],
        entry: &Entry,
    ) -> io::Result<()> {
        let target = steps(&entry.link)?;
        let missing = || {
            refuse(format!(
                "{} is a link to {}, which is no file of the archive",
                quoted(name),
                quoted(&entry.link)
            ))
        };
        let Some((last, parents)) = target.split_last() else {
            return Err(missing());
        };
        if target == own {
            return Err(missing());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = self.root.try_clone()?;
        for step in parents {
            at = fs::openat(&at, os(step), flags, Mode::empty()).map_err(|_| missing())?;
        }
        let found = fs::statat(&at, os(last), AtFlags::SYMLINK_NOFOLLOW).map_err(|_| missing())?;
        match fs::FileType::from_raw_mode(found.st_mode) {
            fs::FileType::RegularFile | fs::FileType::Symlink => {}
            _ => return Err(missing()),
        }
        // Without AT_SYMLINK_FOLLOW a symbolic link is linked to, not what it points to.
        match fs::linkat(&at, os(last), parent, os(name), AtFlags::empty()) {
            Err(Errno::EXIST) => {
                self.make_room(parent, name)?;
                // What made room may have been what was to be linked to, by another name for it.
                fs::linkat(&at, os(last), parent, os(name), AtFlags::empty()).map_err(|_| missing())
            }
            made => Ok(made?),
        }
    }

    fn whiteout(&mut self, parents: &[&[u8]], hidden: &[u8], entry: &Entry) -> io::Result<()> {
        if hidden.is_empty()
            || hidden == b"."
            || hidden == b".."
            || entry.kind != EntryKind::File
            || entry.size > 0
        {
            return Err(refuse(format!("{} is not a whiteout", quoted(&entry.path))));
        }
        if self.kind == LayerKind::Base {
            return Ok(());
        }
        self.count(1)?;
        let parent = self.open_parent(parents)?;
        if hidden == b".wh..opq" {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = fs::openat(&parent, ".", flags, Mode::empty())?;
            // Overlays mounted in a user namespace read the second name, others the first, which
            // only root can write.
            let _ = fs::fsetxattr(
                &directory,
                "trusted.overlay.opaque",
                b"y",
                XattrFlags::empty(),
            );
            fs::fsetxattr(&directory, "user.overlay.opaque", b"y", XattrFlags::empty())?;
        } else if hidden.starts_with(b".wh.") {
            return Err(refuse(format!("{} is not a whiteout", quoted(&entry.path))));
        } else {
            // A whiteout hides what is below this layer, never what the layer itself brings.
            let made = fs::mknodat(
                &parent,
                os(hidden),
                fs::FileType::CharacterDevice,
                Mode::empty(),
                0,
            );
            match made {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.parent = Some((parents.join(&b'/'), parent));
        Ok(())
    }

    /// Gives directories their owners, modes and times, the deepest first.
    fn finish(&mut self) -> io::Result<()> {
        self.parent = None;
        let mut directories = std::mem::take(&mut self.directories);
        // The last word on a directory counts.
        directories.reverse();
        directories.retain(|(path, _)| self.known.insert(path.clone()));
        directories.sort_by(|a, b| b.0.cmp(&a.0));
        let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let last = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for (path, attributes) in directories {
            let mut at = self.root.try_clone()?;
            let mut gone = false;
            for step in path
                .split(|byte| *byte == b'/')
                .filter(|step| !step.is_empty())
            {
                match fs::openat(&at, os(step), through, Mode::empty()) {
                    Ok(next) => at = next,
                    // Replaced by something else later in the archive.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                        gone = true;
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if gone {
                continue;
            }
            let directory = fs::openat(&at, ".", last, Mode::empty())?;
            if self.owners {
                fs::fchown(
                    &directory,
                    Some(uid(attributes.uid)),
                    Some(gid(attributes.gid)),
                )?;
            }
            if let Some(mtime) = attributes.mtime {
                fs::futimens(&directory, &times(mtime))?;
            }
            fs::fchmod(&directory, Mode::from_raw_mode(attributes.mode))?;
        }
        Ok(())
    }
}

fn uid(id: u32) -> Uid {
    Uid::from_raw(id)
}

fn gid(id: u32) -> Gid {
    Gid::from_raw(id)
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Keeps the extended attributes that mean something in an instance. Those of overlays are never
/// taken from an archive: they would redirect names. Failures are not errors: not every file
/// system has them, and not everyone may set capabilities.
fn attach_xattrs(file: impl AsFd, entry: &Entry) {
    for (name, value) in &entry.xattrs {
        let kept = name == b"security.capability"
            || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."));
        if kept && !name.contains(&0) && name.len() <= 255 {
            let _ = fs::fsetxattr(&file, os(name), value, XattrFlags::empty());
        }
    }
}
