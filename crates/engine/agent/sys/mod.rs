//! System calls without a C library, for x86_64 and aarch64.
//!
//! The safe functions take slices and descriptors that cannot be used wrongly for memory; the kernel checks the
//! rest. C strings are slices that end with NUL; [`path`] refuses others.

use core::arch::asm;

/// A kernel error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) u32);

/// The result of a system call.
pub(crate) type Result<T> = core::result::Result<T, Errno>;

pub(crate) const EPERM: Errno = Errno(1);
pub(crate) const ENOENT: Errno = Errno(2);
pub(crate) const EINTR: Errno = Errno(4);
pub(crate) const EIO: Errno = Errno(5);
pub(crate) const EAGAIN: Errno = Errno(11);
pub(crate) const EACCES: Errno = Errno(13);
pub(crate) const EEXIST: Errno = Errno(17);
pub(crate) const ENOTDIR: Errno = Errno(20);
pub(crate) const EISDIR: Errno = Errno(21);
pub(crate) const EINVAL: Errno = Errno(22);
pub(crate) const ENFILE: Errno = Errno(23);
pub(crate) const ENAMETOOLONG: Errno = Errno(36);
pub(crate) const ELOOP: Errno = Errno(40);
pub(crate) const EPROTO: Errno = Errno(71);
pub(crate) const EMSGSIZE: Errno = Errno(90);
pub(crate) const ECONNREFUSED: Errno = Errno(111);
pub(crate) const EINPROGRESS: Errno = Errno(115);
pub(crate) const ETIMEDOUT: Errno = Errno(110);

pub(crate) const AT_FDCWD: i32 = -100;
pub(crate) const AT_EMPTY_PATH: u32 = 0x1000;
pub(crate) const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
pub(crate) const AT_REMOVEDIR: u32 = 0x200;
pub(crate) const AT_RECURSIVE: u32 = 0x8000;
pub(crate) const O_RDONLY: u32 = 0;
pub(crate) const O_WRONLY: u32 = 1;
pub(crate) const O_RDWR: u32 = 2;
pub(crate) const O_CREAT: u32 = 0o100;
pub(crate) const O_EXCL: u32 = 0o200;
pub(crate) const O_NOCTTY: u32 = 0o400;
pub(crate) const O_TRUNC: u32 = 0o1000;
pub(crate) const O_APPEND: u32 = 0o2000;
pub(crate) const O_NONBLOCK: u32 = 0o4000;
pub(crate) const O_CLOEXEC: u32 = 0o2000000;
pub(crate) const O_PATH: u32 = 0o10000000;
#[cfg(target_arch = "x86_64")]
pub(crate) const O_DIRECTORY: u32 = 0o200000;
#[cfg(target_arch = "x86_64")]
pub(crate) const O_NOFOLLOW: u32 = 0o400000;
#[cfg(target_arch = "aarch64")]
pub(crate) const O_DIRECTORY: u32 = 0o40000;
#[cfg(target_arch = "aarch64")]
pub(crate) const O_NOFOLLOW: u32 = 0o100000;

pub(crate) const MS_RDONLY: u64 = 1;
pub(crate) const MS_NOSUID: u64 = 2;
pub(crate) const MS_NODEV: u64 = 4;
pub(crate) const MS_NOEXEC: u64 = 8;
pub(crate) const MS_REMOUNT: u64 = 32;
pub(crate) const MS_BIND: u64 = 4096;

pub(crate) const SIGKILL: u32 = 9;
pub(crate) const SIGCHLD: u32 = 17;
pub(crate) const SIGSTOP: u32 = 19;

/// One system call with up to six arguments.
///
/// # Safety
/// Pointers among the arguments must be valid for what the call does with them.
pub(crate) unsafe fn call(n: usize, a: [usize; 6]) -> Result<usize> {
    let ret: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel's calling convention; rcx and r11 are clobbered by `syscall`.
    unsafe {
        asm!("syscall", inlateout("rax") n as isize => ret, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the kernel's calling convention.
    unsafe {
        asm!("svc 0", in("x8") n, inlateout("x0") a[0] as isize => ret, in("x1") a[1], in("x2") a[2],
            in("x3") a[3], in("x4") a[4], in("x5") a[5], options(nostack));
    }
    if (-4095..0).contains(&ret) {
        Err(Errno((-ret) as u32))
    } else {
        Ok(ret as usize)
    }
}

macro_rules! sys {
    ($nr:ident $(, $arg:expr)*) => {{
        let given = [$($arg as usize),*];
        let mut all = [0usize; 6];
        all[..given.len()].copy_from_slice(&given);
        // SAFETY: the wrapper around this macro passes lengths with pointers and NUL-ended strings.
        unsafe { call(nr::$nr, all) }
    }};
}

mod nr;
mod process;

pub(crate) use process::*;

/// Checks that a slice is a C string and gives its address.
pub(crate) fn path(text: &[u8]) -> Result<*const u8> {
    match text.last() {
        Some(0) => Ok(text.as_ptr()),
        _ => Err(EINVAL),
    }
}

/// A descriptor that closes itself.
#[derive(Debug)]
pub(crate) struct Fd(pub(crate) i32);

impl Fd {
    /// Lets go of the descriptor without closing it.
    pub(crate) fn into_raw(self) -> i32 {
        let fd = self.0;
        core::mem::forget(self);
        fd
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        close(self.0);
    }
}

pub(crate) fn exit(code: i32) -> ! {
    loop {
        let _ = sys!(EXIT_GROUP, code);
    }
}

pub(crate) fn close(fd: i32) {
    let _ = sys!(CLOSE, fd);
}

pub(crate) fn read(fd: i32, buf: &mut [u8]) -> Result<usize> {
    retry(|| sys!(READ, fd, buf.as_mut_ptr(), buf.len()))
}

pub(crate) fn write(fd: i32, buf: &[u8]) -> Result<usize> {
    retry(|| sys!(WRITE, fd, buf.as_ptr(), buf.len()))
}

/// Writes all of `buf`.
pub(crate) fn write_all(fd: i32, mut buf: &[u8]) -> Result<()> {
    while !buf.is_empty() {
        match write(fd, buf)? {
            0 => return Err(EIO),
            n => buf = &buf[n..],
        }
    }
    Ok(())
}

pub(crate) fn pread(fd: i32, buf: &mut [u8], at: u64) -> Result<usize> {
    sys!(PREAD64, fd, buf.as_mut_ptr(), buf.len(), at)
}

pub(crate) fn pwrite(fd: i32, buf: &[u8], at: u64) -> Result<usize> {
    sys!(PWRITE64, fd, buf.as_ptr(), buf.len(), at)
}

fn retry(mut f: impl FnMut() -> Result<usize>) -> Result<usize> {
    loop {
        match f() {
            Err(EINTR) => {}
            other => return other,
        }
    }
}

pub(crate) fn openat(dir: i32, name: &[u8], flags: u32, mode: u32) -> Result<Fd> {
    let name = path(name)?;
    sys!(OPENAT, dir, name, flags | O_CLOEXEC, mode).map(|fd| Fd(fd as i32))
}

/// `openat2` that never follows a magic link of /proc.
pub(crate) fn open_plain(dir: i32, name: &[u8], flags: u32, mode: u32) -> Result<Fd> {
    const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
    let name = path(name)?;
    let how: [u64; 3] = [
        u64::from(flags | O_CLOEXEC),
        u64::from(mode),
        RESOLVE_NO_MAGICLINKS,
    ];
    sys!(OPENAT2, dir, name, how.as_ptr(), 24).map(|fd| Fd(fd as i32))
}

pub(crate) fn mkdirat(dir: i32, name: &[u8], mode: u32) -> Result<()> {
    let name = path(name)?;
    sys!(MKDIRAT, dir, name, mode).map(drop)
}

pub(crate) fn symlinkat(target: &[u8], dir: i32, name: &[u8]) -> Result<()> {
    let (target, name) = (path(target)?, path(name)?);
    sys!(SYMLINKAT, target, dir, name).map(drop)
}

pub(crate) fn unlinkat(dir: i32, name: &[u8], flags: u32) -> Result<()> {
    let name = path(name)?;
    sys!(UNLINKAT, dir, name, flags).map(drop)
}

pub(crate) fn renameat(dir: i32, from: &[u8], to: &[u8]) -> Result<()> {
    let (from, to) = (path(from)?, path(to)?);
    sys!(RENAMEAT2, dir, from, dir, to, 0).map(drop)
}

pub(crate) fn fchmod(fd: i32, mode: u32) -> Result<()> {
    sys!(FCHMOD, fd, mode).map(drop)
}

pub(crate) fn fchown(fd: i32, uid: u32, gid: u32) -> Result<()> {
    sys!(FCHOWN, fd, uid, gid).map(drop)
}

/// As [`fchown`], also of what was opened by `O_PATH`: a symbolic link itself.
pub(crate) fn chown_opened(fd: i32, uid: u32, gid: u32) -> Result<()> {
    sys!(FCHOWNAT, fd, b"\0".as_ptr(), uid, gid, AT_EMPTY_PATH).map(drop)
}

/// Sets the time of last change; the time of last access stays.
pub(crate) fn set_mtime(fd: i32, seconds: i64, nanos: u32) -> Result<()> {
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    let times: [i64; 4] = [0, UTIME_OMIT, seconds, i64::from(nanos)];
    sys!(UTIMENSAT, fd, 0, times.as_ptr(), 0).map(drop)
}

/// What `statx` tells, as far as it is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) nanos: u32,
}

pub(crate) const S_IFMT: u32 = 0o170000;
pub(crate) const S_IFREG: u32 = 0o100000;
pub(crate) const S_IFDIR: u32 = 0o040000;
pub(crate) const S_IFLNK: u32 = 0o120000;

pub(crate) fn stat(dir: i32, name: &[u8], flags: u32) -> Result<Stat> {
    const BASIC: u32 = 0x7ff;
    let name = path(name)?;
    let mut raw = [0u64; 32]; // struct statx is 256 bytes
    sys!(STATX, dir, name, flags, BASIC, raw.as_mut_ptr())?;
    // linux/stat.h: nlink, uid at 16; gid, mode at 24; size at 40; mtime at 112.
    Ok(Stat {
        uid: (raw[2] >> 32) as u32,
        gid: raw[3] as u32,
        mode: ((raw[3] >> 32) & 0xffff) as u32,
        size: raw[5],
        mtime: raw[14] as i64,
        nanos: raw[15] as u32,
    })
}

pub(crate) fn getdents(fd: i32, buf: &mut [u8]) -> Result<usize> {
    sys!(GETDENTS64, fd, buf.as_mut_ptr(), buf.len())
}

pub(crate) fn readlinkat<'b>(dir: i32, name: &[u8], buf: &'b mut [u8]) -> Result<&'b [u8]> {
    let name = path(name)?;
    let n = sys!(READLINKAT, dir, name, buf.as_mut_ptr(), buf.len())?;
    Ok(&buf[..n])
}

pub(crate) fn pipe(flags: u32) -> Result<(Fd, Fd)> {
    let mut fds = [0i32; 2];
    sys!(PIPE2, fds.as_mut_ptr(), flags | O_CLOEXEC)?;
    Ok((Fd(fds[0]), Fd(fds[1])))
}

/// Makes `to` (0, 1 or 2) the same as `from`, kept over an exec.
pub(crate) fn dup_to(from: i32, to: i32) -> Result<()> {
    if from == to {
        const F_SETFD: u32 = 2;
        return sys!(FCNTL, from, F_SETFD, 0).map(drop);
    }
    sys!(DUP3, from, to, 0).map(drop)
}

/// A duplicate that is not 0, 1 or 2.
pub(crate) fn dup_high(fd: i32) -> Result<Fd> {
    const F_DUPFD_CLOEXEC: u32 = 1030;
    sys!(FCNTL, fd, F_DUPFD_CLOEXEC, 3).map(|fd| Fd(fd as i32))
}

/// An `ioctl` whose argument is a number.
pub(crate) fn ioctl_value(fd: i32, request: u32, value: usize) -> Result<usize> {
    sys!(IOCTL, fd, request, value)
}

/// An `ioctl` on a buffer of the size the request wants.
pub(crate) fn ioctl_buf(fd: i32, request: u32, buf: &mut [u8]) -> Result<usize> {
    sys!(IOCTL, fd, request, buf.as_mut_ptr())
}

/// Fresh zeroed memory, never given back (its process is short-lived or the block small).
pub(crate) fn pages(len: usize) -> Result<&'static mut [u8]> {
    let address = sys!(MMAP, 0, len.max(1), 3, 0x22, -1isize, 0)?;
    // SAFETY: a new private mapping of at least `len` bytes, owned by nobody else.
    Ok(unsafe { core::slice::from_raw_parts_mut(address as *mut u8, len) })
}

/// The content of a memory file, mapped; private, so that later changes by others of mapped pages that were
/// already written do not matter. The file is sealed by its sender.
pub(crate) fn map_file(fd: i32, max: usize) -> Result<&'static [u8]> {
    let size = stat(fd, b"\0", AT_EMPTY_PATH)?.size as usize;
    if size == 0 || size > max {
        return Err(EMSGSIZE);
    }
    let address = sys!(MMAP, 0, size, 1, 2, fd, 0)?;
    // SAFETY: a new mapping of `size` bytes of a file sealed against shrinking.
    Ok(unsafe { core::slice::from_raw_parts(address as *const u8, size) })
}

pub(crate) fn unmap(block: &'static [u8]) {
    let _ = sys!(MUNMAP, block.as_ptr(), block.len());
}

pub(crate) fn socket(family: u32, kind: u32, protocol: u32) -> Result<Fd> {
    const SOCK_CLOEXEC: u32 = 0o2000000;
    sys!(SOCKET, family, kind | SOCK_CLOEXEC, protocol).map(|fd| Fd(fd as i32))
}

pub(crate) fn bind(fd: i32, address: &[u8]) -> Result<()> {
    sys!(BIND, fd, address.as_ptr(), address.len()).map(drop)
}

pub(crate) fn listen(fd: i32, backlog: u32) -> Result<()> {
    sys!(LISTEN, fd, backlog).map(drop)
}

pub(crate) fn connect(fd: i32, address: &[u8]) -> Result<()> {
    sys!(CONNECT, fd, address.as_ptr(), address.len()).map(drop)
}

pub(crate) fn accept(fd: i32) -> Result<Fd> {
    const SOCK_CLOEXEC: u32 = 0o2000000;
    sys!(ACCEPT4, fd, 0, 0, SOCK_CLOEXEC).map(|fd| Fd(fd as i32))
}

pub(crate) fn sockname(fd: i32, buf: &mut [u8]) -> Result<usize> {
    let mut len = buf.len() as u32;
    sys!(GETSOCKNAME, fd, buf.as_mut_ptr(), &raw mut len)?;
    Ok(len as usize)
}

pub(crate) fn setsockopt(fd: i32, level: u32, option: u32, value: u32) -> Result<()> {
    sys!(SETSOCKOPT, fd, level, option, &raw const value, 4).map(drop)
}

/// `sendmsg` on a message laid out by [`crate::chan`].
///
/// # Safety
/// `message` points to a valid `msghdr`.
pub(crate) unsafe fn sendmsg(fd: i32, message: *const u8, flags: u32) -> Result<usize> {
    retry(|| sys!(SENDMSG, fd, message, flags))
}

/// `recvmsg` on a message laid out by [`crate::chan`].
///
/// # Safety
/// `message` points to a valid `msghdr`.
pub(crate) unsafe fn recvmsg(fd: i32, message: *mut u8, flags: u32) -> Result<usize> {
    retry(|| sys!(RECVMSG, fd, message, flags))
}

/// Sends one datagram; an empty address means the socket's peer.
pub(crate) fn send(fd: i32, data: &[u8]) -> Result<usize> {
    retry(|| sys!(SENDTO, fd, data.as_ptr(), data.len(), 0, 0, 0))
}

/// Sends all of `data` on a stream; a peer that is gone is an error and not a signal.
pub(crate) fn send_quiet(fd: i32, mut data: &[u8]) -> Result<()> {
    const MSG_NOSIGNAL: u32 = 0x4000;
    while !data.is_empty() {
        let sent = retry(|| sys!(SENDTO, fd, data.as_ptr(), data.len(), MSG_NOSIGNAL, 0, 0))?;
        data = data.get(sent..).unwrap_or(&[]);
    }
    Ok(())
}

/// Looks at what has arrived, without waiting and without taking it; [`EAGAIN`] when nothing has.
pub(crate) fn peek(fd: i32, buf: &mut [u8]) -> Result<usize> {
    const MSG_PEEK: u32 = 0x2;
    const MSG_DONTWAIT: u32 = 0x40;
    let flags = MSG_PEEK | MSG_DONTWAIT;
    retry(|| sys!(RECVFROM, fd, buf.as_mut_ptr(), buf.len(), flags, 0, 0))
}

/// Receives one datagram.
pub(crate) fn recv(fd: i32, buf: &mut [u8]) -> Result<usize> {
    retry(|| sys!(RECVFROM, fd, buf.as_mut_ptr(), buf.len(), 0, 0, 0))
}

pub(crate) fn epoll() -> Result<Fd> {
    sys!(EPOLL_CREATE1, O_CLOEXEC).map(|fd| Fd(fd as i32))
}

/// `struct epoll_event`, which is packed on x86_64 only.
#[derive(Clone, Copy)]
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
pub(crate) struct Event {
    pub(crate) events: u32,
    pub(crate) data: u64,
}

/// Adds readability of `fd` to the set under `data`.
pub(crate) fn epoll_add(epoll: i32, fd: i32, data: u64) -> Result<()> {
    const EPOLLIN: u32 = 1;
    const EPOLL_CTL_ADD: u32 = 1;
    let event = Event {
        events: EPOLLIN,
        data,
    };
    sys!(EPOLL_CTL, epoll, EPOLL_CTL_ADD, fd, &raw const event).map(drop)
}

/// Takes `fd` out of the set.
pub(crate) fn epoll_remove(epoll: i32, fd: i32) {
    const EPOLL_CTL_DEL: u32 = 2;
    let _ = sys!(EPOLL_CTL, epoll, EPOLL_CTL_DEL, fd, 0);
}

pub(crate) fn epoll_wait(epoll: i32, events: &mut [Event]) -> Result<usize> {
    retry(|| {
        sys!(
            EPOLL_PWAIT,
            epoll,
            events.as_mut_ptr(),
            events.len(),
            -1isize,
            0,
            8
        )
    })
}

pub(crate) fn signalfd(mask: u64) -> Result<Fd> {
    sys!(
        SIGNALFD4,
        -1isize,
        &raw const mask,
        8,
        O_CLOEXEC | O_NONBLOCK
    )
    .map(|fd| Fd(fd as i32))
}

pub(crate) fn seek(fd: i32, to: u64) -> Result<()> {
    sys!(LSEEK, fd, to, 0).map(drop)
}

pub(crate) fn sleep_ms(ms: u32) {
    let time = [i64::from(ms / 1000), i64::from(ms % 1000) * 1_000_000];
    let _ = sys!(NANOSLEEP, time.as_ptr(), 0);
}

/// `struct pollfd`.
#[repr(C)]
struct PollFd {
    fd: i32,
    events: u16,
    revents: u16,
}

const POLLIN: u16 = 1;
const POLLOUT: u16 = 4;
const POLLHUP: u16 = 0x10;

/// What of `events` is true of a descriptor, after at most `ms` milliseconds.
fn poll(fd: i32, events: u16, ms: u32) -> u16 {
    let mut entry = PollFd {
        fd,
        events,
        revents: 0,
    };
    let time = [i64::from(ms / 1000), i64::from(ms % 1000) * 1_000_000];
    match sys!(PPOLL, &raw mut entry, 1, time.as_ptr(), 0, 8) {
        Ok(_) => entry.revents,
        Err(_) => 0,
    }
}

/// Whether every writer of a pipe is gone and nothing is left to read.
pub(crate) fn hung_up(pipe: i32) -> bool {
    let now = poll(pipe, POLLIN, 0);
    now & POLLHUP != 0 && now & POLLIN == 0
}

/// How a connection that was begun has gone on: `None` while it still waits.
pub(crate) fn connected(socket: i32) -> Option<Result<()>> {
    const SOL_SOCKET: u32 = 1;
    const SO_ERROR: u32 = 4;
    if poll(socket, POLLOUT, 2) == 0 {
        return None;
    }
    let (mut error, mut len) = (0u32, 4u32);
    Some(
        sys!(
            GETSOCKOPT,
            socket,
            SOL_SOCKET,
            SO_ERROR,
            &raw mut error,
            &raw mut len
        )
        .and_then(|_| match error {
            0 => Ok(()),
            errno => Err(Errno(errno)),
        }),
    )
}
