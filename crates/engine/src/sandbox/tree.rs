//! Whole folders of an instance's files, as they lie on the host: copying, measuring, removing.
//!
//! What instances wrote can be hostile (deep, unreadable to its owner, full of links); nothing here follows a link,
//! and everything works by descriptor and single names.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RawMode, Stat, Timespec, Timestamps, UTIME_OMIT,
    XattrFlags,
};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// Deepest tree that is walked; each level holds descriptors.
const MAX_DEPTH: usize = 2000;

/// Removes a file or a whole folder; a missing one is no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = match rustix::fs::open(parent, FOLDER, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    remove_at(parent.as_fd(), &c_name(name)?, 0)
}

fn c_name(name: &OsStr) -> io::Result<CString> {
    Ok(CString::new(name.as_bytes())?)
}

/// Opens a folder, first taking back the right to if its mode forbids even the owner.
fn open_folder(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    match rustix::fs::openat(dir, name, FOLDER, Mode::empty()) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            Ok(rustix::fs::openat(dir, name, FOLDER, Mode::empty())?)
        }
        other => Ok(other?),
    }
}

fn names(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn remove_at(dir: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    if depth > MAX_DEPTH {
        return Err(io::Error::other("the folders are nested too deeply"));
    }
    let folder = match open_folder(dir, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for (index, child) in names(&folder)?.iter().enumerate() {
        match remove_at(folder.as_fd(), child, depth + 1) {
            // The folder itself cannot be written to by its owner.
            Err(e) if index == 0 && e.raw_os_error() == Some(libc::EACCES) => {
                rustix::fs::fchmod(&folder, Mode::RWXU)?;
                remove_at(folder.as_fd(), child, depth + 1)?;
            }
            other => other?,
        }
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        // Two may remove the same tree: who discarded it, and the sweep at the start.
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Bytes that a folder and everything below takes on the disk.
pub(super) fn disk_usage(path: &Path) -> io::Result<u64> {
    let folder = rustix::fs::open(path, FOLDER, Mode::empty())?;
    usage_of(&folder, 0)
}

fn usage_of(folder: &OwnedFd, depth: usize) -> io::Result<u64> {
    let mut total = 0;
    if depth > MAX_DEPTH {
        return Ok(total);
    }
    for name in names(folder)? {
        let stat = match rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        total += stat.st_blocks as u64 * 512;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            match rustix::fs::openat(folder, &name, FOLDER, Mode::empty()) {
                Ok(sub) => total += usage_of(&sub, depth + 1)?,
                Err(Errno::ACCESS | Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(total)
}

/// Copies the folder `from`, with owners, modes, times, extended attributes, links and whiteouts, to the new folder
/// `to`. File content is shared where the file system can.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let source = rustix::fs::open(from, FOLDER, Mode::empty())?;
    rustix::fs::mkdir(to, Mode::RWXU)?;
    let target = rustix::fs::open(to, FOLDER, Mode::empty())?;
    copy_content(&source, &target, 0)?;
    let stat = rustix::fs::fstat(&source)?;
    finish(&source, &target, &stat)
}

fn copy_content(from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("the folders are nested too deeply"));
    }
    for name in names(from)? {
        let stat = rustix::fs::statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        copy_entry(from, to, &name, &stat, depth)?;
    }
    Ok(())
}

fn copy_entry(
    from: &OwnedFd,
    to: &OwnedFd,
    name: &CStr,
    stat: &Stat,
    depth: usize,
) -> io::Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let restore = unlock(from, name, stat)?;
            let source = rustix::fs::openat(from, name, FOLDER, Mode::empty())?;
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            let target = rustix::fs::openat(to, name, FOLDER, Mode::empty())?;
            copy_content(&source, &target, depth + 1)?;
            finish(&source, &target, stat)?;
            relock(from, name, restore)
        }
        FileType::RegularFile => {
            let restore = unlock(from, name, stat)?;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
            copy_data(source.try_clone()?, target.try_clone()?)?;
            finish(&source, &target, stat)?;
            relock(from, name, restore)
        }
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(&link, to, name)?;
            own(to, name, stat)
        }
        // Whiteouts are character devices 0:0, which everybody may make; real devices cannot come about in an
        // instance and are not copied for one.
        FileType::CharacterDevice if stat.st_rdev == 0 => {
            rustix::fs::mknodat(to, name, FileType::CharacterDevice, Mode::empty(), 0)?;
            Ok(())
        }
        kind @ (FileType::Fifo | FileType::Socket) => {
            rustix::fs::mknodat(to, name, kind, mode_of(stat), 0)?;
            own(to, name, stat)
        }
        _ => Ok(()),
    }
}

fn mode_of(stat: &Stat) -> Mode {
    Mode::from_raw_mode((stat.st_mode & 0o7777) as RawMode)
}

/// Lets an owner read what its mode forbids; says what to put back.
fn unlock(dir: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<Option<Mode>> {
    let needed = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        0o700
    } else {
        0o400
    };
    if rustix::process::geteuid().is_root() || stat.st_mode & needed == needed {
        return Ok(None);
    }
    let mode = mode_of(stat);
    rustix::fs::chmodat(
        dir,
        name,
        mode | Mode::from_raw_mode(needed as RawMode),
        AtFlags::empty(),
    )?;
    Ok(Some(mode))
}

fn relock(dir: &OwnedFd, name: &CStr, mode: Option<Mode>) -> io::Result<()> {
    if let Some(mode) = mode {
        rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?;
    }
    Ok(())
}

fn own(dir: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(stat.st_uid),
            rustix::fs::Gid::from_raw(stat.st_gid),
        );
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn copy_data(source: OwnedFd, target: OwnedFd) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    // The library uses copy_file_range where that works.
    io::copy(
        &mut std::fs::File::from(source),
        &mut std::fs::File::from(target),
    )
    .map(drop)
}

/// Owner, extended attributes, mode and times, in the order in which they do not undo each other.
fn finish(source: &OwnedFd, target: &OwnedFd, stat: &Stat) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(stat.st_uid),
            rustix::fs::Gid::from_raw(stat.st_gid),
        );
        rustix::fs::fchown(target, Some(uid), Some(gid))?;
    }
    let mut list = vec![0; 64 * 1024];
    let n = match rustix::fs::flistxattr(source, &mut list) {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    for name in list[..n].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 * 1024];
        let n = match rustix::fs::fgetxattr(source, name, &mut value) {
            Err(Errno::NODATA | Errno::PERM) => continue,
            other => other?,
        };
        match rustix::fs::fsetxattr(target, name, &value[..n], XattrFlags::empty()) {
            // security.* and trusted.* are not for ordinary users; what the instance set is user.*.
            Ok(()) | Err(Errno::PERM | Errno::NOTSUP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    rustix::fs::fchmod(target, mode_of(stat))?;
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    };
    Ok(rustix::fs::futimens(target, &times)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn two_may_remove_the_same_tree() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let tree = dir.path().join(round.to_string());
            for n in 0..20 {
                let inner = tree.join(format!("a{n}/b/c"));
                std::fs::create_dir_all(&inner).unwrap();
                std::fs::write(inner.join("file"), "x").unwrap();
            }
            std::thread::scope(|scope| {
                let removers: Vec<_> = (0..4).map(|_| scope.spawn(|| remove(&tree))).collect();
                for remover in removers {
                    remover.join().unwrap().unwrap();
                }
            });
            assert!(!tree.exists());
        }
    }

    #[test]
    fn copies_and_removes_awkward_trees() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/file"), vec![7; 100_000]).unwrap();
        fs::write(from.join("secret"), b"x").unwrap();
        fs::set_permissions(from.join("secret"), fs::Permissions::from_mode(0o000)).unwrap();
        symlink("/nowhere", from.join("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            from.join("gone"),
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .unwrap();
        fs::set_permissions(from.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        let to = dir.path().join("to");
        copy(&from, &to).unwrap();
        assert_eq!(fs::metadata(to.join("secret")).unwrap().mode() & 0o7777, 0);
        assert_eq!(fs::metadata(from.join("a/b")).unwrap().mode() & 0o7777, 0);
        assert_eq!(fs::metadata(to.join("a/b")).unwrap().mode() & 0o7777, 0);
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("/nowhere")
        );
        assert_eq!(fs::symlink_metadata(to.join("gone")).unwrap().rdev(), 0);
        fs::set_permissions(to.join("a/b"), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(fs::read(to.join("a/b/file")).unwrap(), vec![7; 100_000]);
        fs::set_permissions(to.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        assert!(disk_usage(&to).unwrap() >= 4096);
        remove(&to).unwrap();
        remove(&to).unwrap();
        assert!(!to.exists());
    }
}
