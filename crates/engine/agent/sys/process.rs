//! Processes: their signals, their programs, what they may and where they live.

use super::{
    AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE, EIO, Errno, Fd, O_CLOEXEC, Result, SIGCHLD, call, nr,
    path, retry,
};

/// Blocks exactly the signals of `mask`.
pub(crate) fn set_signal_mask(mask: u64) {
    const SIG_SETMASK: u32 = 2;
    let _ = sys!(RT_SIGPROCMASK, SIG_SETMASK, &raw const mask, 0, 8);
}

/// Every signal back to its default action.
pub(crate) fn default_signals() {
    let action = [0usize; 4]; // handler SIG_DFL, no flags, no restorer, empty mask
    for signal in 1..=64usize {
        let _ = sys!(RT_SIGACTION, signal, action.as_ptr(), 0, 8);
    }
}

/// A plain `fork`; `extra` are further clone flags, `pidfd` receives a descriptor if its flag is set.
pub(crate) fn fork(extra: u64, pidfd: &mut i32) -> Result<u32> {
    // x86_64: flags, stack, parent_tid, child_tid, tls; aarch64: flags, stack, parent_tid, tls, child_tid.
    // With CLONE_PIDFD the descriptor goes to parent_tid.
    sys!(CLONE, extra | u64::from(SIGCHLD), 0, &raw mut *pidfd, 0, 0).map(|pid| pid as u32)
}

/// Runs a program; only returns on failure.
///
/// # Safety
/// `argv` and `envp` are null-ended arrays of C strings.
pub(crate) unsafe fn execve(file: &[u8], argv: *const *const u8, envp: *const *const u8) -> Errno {
    let file = match path(file) {
        Ok(file) => file,
        Err(errno) => return errno,
    };
    match sys!(EXECVE, file, argv, envp) {
        Err(errno) => errno,
        Ok(_) => EIO,
    }
}

/// Collects one ended child without waiting: its id and wait status.
pub(crate) fn reap() -> Option<(u32, u32)> {
    const WNOHANG: u32 = 1;
    let mut status = 0u32;
    match retry(|| sys!(WAIT4, -1isize, &raw mut status, WNOHANG, 0)) {
        Ok(pid) if pid > 0 => Some((pid as u32, status)),
        _ => None,
    }
}

/// Waits for one child.
pub(crate) fn wait_for(pid: u32) -> Result<u32> {
    let mut status = 0u32;
    retry(|| sys!(WAIT4, pid, &raw mut status, 0, 0))?;
    Ok(status)
}

pub(crate) fn kill(pid: i32, signal: u32) -> Result<()> {
    sys!(KILL, pid as isize, signal).map(drop)
}

pub(crate) fn setsid() -> Result<()> {
    sys!(SETSID).map(drop)
}

pub(crate) fn getpid() -> u32 {
    sys!(GETPID).unwrap_or(0) as u32
}

pub(crate) fn prctl(option: u32, a: usize, b: usize) -> Result<usize> {
    sys!(PRCTL, option, a, b, 0, 0)
}

pub(crate) fn unshare(flags: u64) -> Result<()> {
    sys!(UNSHARE, flags).map(drop)
}

pub(crate) fn mount(
    source: &[u8],
    target: &[u8],
    kind: &[u8],
    flags: u64,
    data: &[u8],
) -> Result<()> {
    let (source, target, kind, data) = (path(source)?, path(target)?, path(kind)?, path(data)?);
    sys!(MOUNT, source, target, kind, flags, data).map(drop)
}

/// Detaches a mount.
pub(crate) fn umount(target: &[u8]) -> Result<()> {
    const MNT_DETACH: u32 = 2;
    let target = path(target)?;
    sys!(UMOUNT2, target, MNT_DETACH).map(drop)
}

pub(crate) fn pivot_root(new: &[u8], old: &[u8]) -> Result<()> {
    let (new, old) = (path(new)?, path(old)?);
    sys!(PIVOT_ROOT, new, old).map(drop)
}

pub(crate) fn chdir(dir: &[u8]) -> Result<()> {
    let dir = path(dir)?;
    sys!(CHDIR, dir).map(drop)
}

pub(crate) fn sethostname(name: &[u8]) -> Result<()> {
    sys!(SETHOSTNAME, name.as_ptr(), name.len()).map(drop)
}

pub(crate) fn setresuid(id: u32) -> Result<()> {
    sys!(SETRESUID, id, id, id).map(drop)
}

pub(crate) fn setresgid(id: u32) -> Result<()> {
    sys!(SETRESGID, id, id, id).map(drop)
}

pub(crate) fn setgroups(groups: &[u32]) -> Result<()> {
    sys!(SETGROUPS, groups.len(), groups.as_ptr()).map(drop)
}

/// Puts a filter on this process and its children.
pub(crate) fn seccomp(program: &[u8]) -> Result<()> {
    const SECCOMP_SET_MODE_FILTER: u32 = 1;
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const u8,
    }
    let program = Program {
        len: (program.len() / 8) as u16,
        filter: program.as_ptr(),
    };
    sys!(SECCOMP, SECCOMP_SET_MODE_FILTER, 0, &raw const program).map(drop)
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: u32) -> Result<()> {
    sys!(CLOSE_RANGE, first, u32::MAX, 0).map(drop)
}

pub(crate) fn open_tree(name: &[u8], flags: u32) -> Result<Fd> {
    let name = path(name)?;
    sys!(OPEN_TREE, AT_FDCWD, name, flags | O_CLOEXEC).map(|fd| Fd(fd as i32))
}

pub(crate) fn move_mount(fd: i32, target: &[u8]) -> Result<()> {
    const F_EMPTY_PATH: u32 = 4;
    let target = path(target)?;
    sys!(
        MOVE_MOUNT,
        fd,
        b"\0".as_ptr(),
        AT_FDCWD,
        target,
        F_EMPTY_PATH
    )
    .map(drop)
}

/// `mount_setattr` on a descriptor: attributes to set and clear, propagation.
pub(crate) fn mount_setattr(fd: i32, recursive: bool, attr: &[u64; 4]) -> Result<()> {
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    sys!(MOUNT_SETATTR, fd, b"\0".as_ptr(), flags, attr.as_ptr(), 32).map(drop)
}

pub(crate) fn umask(mask: u32) {
    let _ = sys!(UMASK, mask);
}

/// Sets a resource limit; `u64::MAX` as hard leaves that one, and a soft above it becomes it.
pub(crate) fn rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let mut now = [0u64; 2];
    sys!(PRLIMIT64, 0, resource, 0, now.as_mut_ptr())?;
    let hard = if hard == u64::MAX {
        now[1]
    } else {
        hard.min(now[1])
    };
    let new = [soft.min(hard), hard];
    sys!(PRLIMIT64, 0, resource, new.as_ptr(), 0).map(drop)
}
