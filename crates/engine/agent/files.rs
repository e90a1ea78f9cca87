//! Work on the instance's files, each request in a worker process of its own.
//!
//! Paths are resolved by the kernel inside the instance; magic links of /proc are not followed, so that no path
//! names a descriptor of this process.

use crate::chan::{self, Packet, reply_error, reply_ok};
use crate::proto::*;
use crate::sys::{
    self, AT_FDCWD, EEXIST, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, Errno, Fd, Result, Stat,
};
use crate::wire::Reader;

/// Longest path with its NUL.
const PATH_MAX: usize = 4096;
/// Deepest tree that is removed (each level holds a descriptor).
const MAX_DEPTH: u32 = 900;

/// Does one request and ends the process.
pub(crate) fn work(socket: i32, kind: u32, mut reader: Reader<'_>) -> ! {
    match dispatch(socket, kind, &mut reader) {
        Ok(()) => sys::exit(0),
        Err(errno) => {
            reply_error(socket, errno, WHERE_REQUEST);
            sys::exit(0)
        }
    }
}

fn dispatch(socket: i32, kind: u32, reader: &mut Reader<'_>) -> Result<()> {
    let path = reader.cstr().map_err(|_| EINVAL)?;
    if path.len() < 2 || path[0] != b'/' {
        return Err(EINVAL);
    }
    let mut number = || reader.u32().map_err(|_| EINVAL);
    match kind {
        REQ_READ => {
            let file = sys::open_plain(
                AT_FDCWD,
                path,
                sys::O_RDONLY | sys::O_NONBLOCK | sys::O_NOCTTY,
                0,
            )?;
            let stat = regular(&file)?;
            meta::<64>(&stat, b"").send(socket, &[file.0])
        }
        REQ_WRITE => {
            let write = Write {
                flags: number()?,
                mode: number()?,
                uid: number()?,
                gid: number()?,
                mtime: reader.u64().map_err(|_| EINVAL)?,
                nanos: reader.u32().map_err(|_| EINVAL)?,
            };
            write.run(socket, path)
        }
        REQ_STAT => {
            let flags = if number()? == 0 {
                sys::AT_SYMLINK_NOFOLLOW
            } else {
                0
            };
            let stat = sys::stat(AT_FDCWD, path, flags)?;
            let mut target = [0; PATH_MAX];
            meta::<5000>(&stat, target_of(AT_FDCWD, path, &stat, &mut target)).send(socket, &[])
        }
        REQ_LIST => list(socket, path),
        REQ_MKDIR => {
            let (mode, parents) = (number()?, number()? != 0);
            if parents {
                make_dirs(path, mode)?;
            } else {
                sys::mkdirat(AT_FDCWD, path, 0o755)?;
                set_dir_mode(path, mode)?;
            }
            reply_ok(socket, &[])
        }
        REQ_SYMLINK => {
            let target = reader.cstr().map_err(|_| EINVAL)?;
            sys::symlinkat(target, AT_FDCWD, path)?;
            reply_ok(socket, &[])
        }
        REQ_SETATTR => {
            let (uid, gid, mode) = (number()?, number()?, number()?);
            let mtime = reader.u64().map_err(|_| EINVAL)?;
            let nanos = reader.u32().map_err(|_| EINVAL)?;
            set_attributes(path, [uid, gid, mode], mtime, nanos)?;
            reply_ok(socket, &[])
        }
        REQ_REMOVE => {
            let recursive = number()? != 0;
            let (parent, name) = split(path)?;
            let dir = sys::open_plain(
                AT_FDCWD,
                parent.as_slice(),
                sys::O_PATH | sys::O_DIRECTORY,
                0,
            )?;
            remove(dir.0, name, recursive, 0)?;
            reply_ok(socket, &[])
        }
        _ => Err(EINVAL),
    }
}

fn meta<const N: usize>(stat: &Stat, target: &[u8]) -> Packet<N> {
    let mut packet = Packet::new(REPLY_META);
    put_meta(&mut packet, stat, target);
    packet
}

fn put_meta<const N: usize>(packet: &mut Packet<N>, stat: &Stat, target: &[u8]) {
    packet
        .u32(stat.mode)
        .u32(stat.uid)
        .u32(stat.gid)
        .u64(stat.size);
    packet.u64(stat.mtime as u64).u32(stat.nanos).bytes(target);
}

/// The metadata of an opened file that must be a regular one.
fn regular(file: &Fd) -> Result<Stat> {
    let stat = sys::stat(file.0, b"\0", sys::AT_EMPTY_PATH)?;
    match stat.mode & sys::S_IFMT {
        sys::S_IFREG => Ok(stat),
        sys::S_IFDIR => Err(EISDIR),
        _ => Err(EINVAL),
    }
}

fn target_of<'b>(dir: i32, name: &[u8], stat: &Stat, buf: &'b mut [u8]) -> &'b [u8] {
    if stat.mode & sys::S_IFMT != sys::S_IFLNK {
        return b"";
    }
    sys::readlinkat(dir, name, buf).unwrap_or(b"")
}

/// A C string of one's own.
struct Text {
    buf: [u8; PATH_MAX],
    len: usize,
}

impl Text {
    fn new(parts: &[&[u8]]) -> Result<Self> {
        let mut text = Self {
            buf: [0; PATH_MAX],
            len: 0,
        };
        for part in parts {
            let end = text.len + part.len();
            text.buf
                .get_mut(text.len..end)
                .ok_or(ENAMETOOLONG)?
                .copy_from_slice(part);
            text.len = end;
        }
        if text.len >= PATH_MAX {
            return Err(ENAMETOOLONG);
        }
        text.len += 1;
        Ok(text)
    }

    fn as_slice(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

/// A path's folder and last name (both C strings). A path without a real last name is invalid.
fn split(path: &[u8]) -> Result<(Text, &[u8])> {
    let mut end = path.len() - 1;
    while end > 1 && path[end - 1] == b'/' {
        end -= 1;
    }
    let slash = path[..end].iter().rposition(|&b| b == b'/').ok_or(EINVAL)?;
    if end != path.len() - 1 {
        // The name must end with NUL in place: trailing slashes are not worth a copy.
        return Err(EINVAL);
    }
    let name = &path[slash + 1..];
    if matches!(name, b"\0" | b".\0" | b"..\0") {
        return Err(EINVAL);
    }
    Ok((Text::new(&[&path[..slash.max(1)]])?, name))
}

fn set_dir_mode(path: &[u8], mode: u32) -> Result<()> {
    let dir = sys::open_plain(
        AT_FDCWD,
        path,
        sys::O_RDONLY | sys::O_DIRECTORY | sys::O_NOFOLLOW,
        0,
    )?;
    sys::fchmod(dir.0, mode & 0o7777)
}

/// Makes a directory and the missing ones above; existing ones stay as they are.
fn make_dirs(path: &[u8], mode: u32) -> Result<()> {
    let text = &path[..path.len() - 1];
    for end in 1..=text.len() {
        if end < text.len() && text[end] != b'/' {
            continue;
        }
        let part = Text::new(&[&text[..end]])?;
        match sys::mkdirat(AT_FDCWD, part.as_slice(), 0o755) {
            Ok(()) if end == text.len() => set_dir_mode(part.as_slice(), mode)?,
            Ok(()) => {}
            Err(EEXIST) => {
                let stat = sys::stat(AT_FDCWD, part.as_slice(), 0)?;
                if stat.mode & sys::S_IFMT != sys::S_IFDIR {
                    return Err(if end == text.len() {
                        EEXIST
                    } else {
                        sys::ENOTDIR
                    });
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Changes owner, mode and time, in the order in which they do not undo each other.
fn set_attributes(path: &[u8], [uid, gid, mode]: [u32; 3], mtime: u64, nanos: u32) -> Result<()> {
    let flags = sys::O_PATH | sys::O_NOFOLLOW;
    let named = sys::open_plain(AT_FDCWD, path, flags, 0)?;
    if uid != NONE || gid != NONE {
        sys::chown_opened(named.0, uid, gid)?;
    }
    if mode == NONE && mtime == NO_TIME {
        return Ok(());
    }
    let flags = sys::O_RDONLY | sys::O_NONBLOCK | sys::O_NOCTTY | sys::O_NOFOLLOW;
    let opened = sys::open_plain(AT_FDCWD, path, flags, 0)?;
    if mode != NONE {
        sys::fchmod(opened.0, mode & 0o7777)?;
    }
    if mtime != NO_TIME {
        sys::set_mtime(opened.0, mtime as i64, nanos)?;
    }
    Ok(())
}

/// A file to write.
struct Write {
    flags: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: u64,
    nanos: u32,
}

impl Write {
    fn run(&self, socket: i32, path: &[u8]) -> Result<()> {
        let (parent, name) = split(path)?;
        if self.flags & WRITE_PARENTS != 0 && parent.as_slice() != b"/\0" {
            make_dirs(parent.as_slice(), 0o755)?;
        }
        let dir = sys::open_plain(
            AT_FDCWD,
            parent.as_slice(),
            sys::O_PATH | sys::O_DIRECTORY,
            0,
        )?;
        let old = match sys::stat(dir.0, name, sys::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        let kind = old.as_ref().map(|stat| stat.mode & sys::S_IFMT);
        match kind {
            None | Some(sys::S_IFREG | sys::S_IFLNK) => {}
            Some(sys::S_IFDIR) => return Err(EISDIR),
            Some(_) => return Err(EINVAL),
        }
        // A link is written through, as every program does; appending is in place by nature.
        let append = self.flags & WRITE_APPEND != 0;
        if append || kind == Some(sys::S_IFLNK) {
            let how = if append { sys::O_APPEND } else { sys::O_TRUNC };
            let flags = sys::O_WRONLY | sys::O_CREAT | sys::O_NONBLOCK | sys::O_NOCTTY | how;
            let file = sys::open_plain(dir.0, name, flags, 0o644)?;
            regular(&file)?;
            reply_ok(socket, &[file.0])?;
            if committed(socket) {
                self.attributes(&file, None)?;
                reply_ok(socket, &[])?;
            }
            return Ok(());
        }
        let mut digits = [0; 10];
        let temp = Text::new(&[b".boxrig-write-", decimal(sys::getpid(), &mut digits)])?;
        let flags = sys::O_WRONLY | sys::O_CREAT | sys::O_EXCL | sys::O_NOFOLLOW;
        let open = || sys::openat(dir.0, temp.as_slice(), flags, 0o600);
        let file = match open() {
            // Left by a worker that was killed and had the same number.
            Err(EEXIST) => {
                sys::unlinkat(dir.0, temp.as_slice(), 0)?;
                open()?
            }
            other => other?,
        };
        let written = (|| {
            reply_ok(socket, &[file.0])?;
            if !committed(socket) {
                return Ok(false);
            }
            self.attributes(&file, Some(old.as_ref()))?;
            sys::renameat(dir.0, temp.as_slice(), name)?;
            Ok(true)
        })();
        match written {
            Ok(true) => reply_ok(socket, &[]),
            other => {
                let _ = sys::unlinkat(dir.0, temp.as_slice(), 0);
                other.map(drop)
            }
        }
    }

    /// Sets what was asked for. `fresh` is given for a new file, with what it replaces: that one's mode and owner
    /// are kept unless asked otherwise.
    fn attributes(&self, file: &Fd, fresh: Option<Option<&Stat>>) -> Result<()> {
        let old = fresh.flatten();
        let uid = if self.uid == NONE {
            old.map_or(NONE, |stat| stat.uid)
        } else {
            self.uid
        };
        let gid = if self.gid == NONE {
            old.map_or(NONE, |stat| stat.gid)
        } else {
            self.gid
        };
        if uid != NONE || gid != NONE {
            let set = sys::fchown(file.0, uid, gid);
            // Keeping an old owner that this instance cannot name is not possible, and not asked for.
            if self.uid != NONE || self.gid != NONE {
                set?;
            }
        }
        if self.mode != NONE {
            sys::fchmod(file.0, self.mode & 0o7777)?;
        } else if fresh.is_some() {
            sys::fchmod(file.0, old.map_or(0o644, |stat| stat.mode & 0o7777))?;
        }
        if self.mtime != NO_TIME {
            sys::set_mtime(file.0, self.mtime as i64, self.nanos)?;
        }
        Ok(())
    }
}

/// Waits for the server's word that all content is written.
fn committed(socket: i32) -> bool {
    let mut buf = [0; 64];
    let Ok((n, _)) = chan::recv(socket, &mut buf) else {
        return false;
    };
    let mut reader = Reader::new(&buf[..n]);
    matches!((reader.u32(), reader.u32()), (Ok(VERSION), Ok(REQ_COMMIT)))
}

fn decimal(mut value: u32, buf: &mut [u8; 10]) -> &[u8] {
    let mut at = buf.len();
    loop {
        at -= 1;
        buf[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &buf[at..];
        }
    }
}

/// Calls `visit` with every name of an open directory (a C string) but `.` and `..`.
pub(crate) fn each_entry(dir: i32, mut visit: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buf = [0u8; 4096];
    loop {
        let n = sys::getdents(dir, &mut buf)?;
        if n == 0 {
            return Ok(());
        }
        each_in(&buf[..n], &mut visit)?;
    }
}

/// The names in one block of `getdents64`: inode u64, offset u64, length u16, type u8, name.
fn each_in(mut block: &[u8], visit: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    while block.len() > 19 {
        let length = u16::from_le_bytes([block[16], block[17]]) as usize;
        let entry = block.get(19..length).ok_or(EINVAL)?;
        let nul = entry.iter().position(|&b| b == 0).ok_or(EINVAL)?;
        let name = &entry[..=nul];
        if name != b".\0" && name != b"..\0" {
            visit(name)?;
        }
        block = &block[length..];
    }
    Ok(())
}

fn list(socket: i32, path: &[u8]) -> Result<()> {
    /// The most one entry takes: name, target and the numbers.
    const MAX_ENTRY: usize = 256 + PATH_MAX + 64;
    let dir = sys::open_plain(AT_FDCWD, path, sys::O_RDONLY | sys::O_DIRECTORY, 0)?;
    let mut packet = Packet::<MAX_PACKET>::new(REPLY_ENTRIES);
    let mut target = [0; PATH_MAX];
    each_entry(dir.0, |name| {
        let stat = match sys::stat(dir.0, name, sys::AT_SYMLINK_NOFOLLOW) {
            Err(ENOENT) => return Ok(()), // Removed meanwhile.
            other => other?,
        };
        if packet.room() < MAX_ENTRY {
            packet.send(socket, &[])?;
            packet = Packet::new(REPLY_ENTRIES);
        }
        packet.bytes(&name[..name.len() - 1]);
        put_meta(
            &mut packet,
            &stat,
            target_of(dir.0, name, &stat, &mut target),
        );
        Ok(())
    })?;
    packet.send(socket, &[])?;
    reply_ok(socket, &[])
}

fn remove(dir: i32, name: &[u8], recursive: bool, depth: u32) -> Result<()> {
    match sys::unlinkat(dir, name, 0) {
        // Linux says EISDIR; POSIX would say EPERM.
        Err(EISDIR | sys::EPERM) => {}
        other => return other,
    }
    match sys::unlinkat(dir, name, sys::AT_REMOVEDIR) {
        Err(Errno(39)) if recursive => {} // ENOTEMPTY
        other => return other,
    }
    if depth == MAX_DEPTH {
        return Err(ELOOP);
    }
    let sub = sys::openat(
        dir,
        name,
        sys::O_RDONLY | sys::O_DIRECTORY | sys::O_NOFOLLOW,
        0,
    )?;
    let mut buf = [0u8; 2048];
    loop {
        // From the start each time: what was read has been removed.
        sys::seek(sub.0, 0)?;
        let n = sys::getdents(sub.0, &mut buf)?;
        let mut found = false;
        each_in(&buf[..n], &mut |entry| {
            found = true;
            remove(sub.0, entry, true, depth + 1)
        })?;
        if !found {
            break;
        }
    }
    sys::unlinkat(dir, name, sys::AT_REMOVEDIR)
}
