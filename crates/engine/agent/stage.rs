//! The stage: carries out the server's plan, operation by operation, and ends as process 1.
//!
//! The plan is made and explained by the server (`sandbox/plan.rs`), so this is only an interpreter. The first
//! operation that fails is reported by its place in the plan and its error number.

use crate::ack::{self, Outcome};
use crate::chan::{self, Packet};
use crate::exec;
use crate::log::Log;
use crate::proto::*;
use crate::serve::{self, Agent};
use crate::sys::{self, AT_FDCWD, EEXIST, ENOENT, EPROTO, Errno, Fd};
use crate::wire::{Malformed, Reader};

/// The server's socket, moved out of the way of the standard streams.
const SOCKET: i32 = 3;

/// Why an operation failed, and for a main process where.
struct Failure {
    errno: Errno,
    place: u32,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self { errno, place: 0 }
    }
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        EPROTO.into()
    }
}

/// Runs the plan that arrives on descriptor 0. Never returns.
pub(crate) fn main() -> ! {
    sys::default_signals();
    sys::set_signal_mask(0);
    // What is made has the mode the plan says.
    sys::umask(0);
    let ready = (|| {
        sys::close_from(3)?;
        let socket = sys::dup_high(0)?;
        if socket.into_raw() != SOCKET {
            return Err(EPROTO);
        }
        // The standard streams of process 1 are what the server gave as 1: /dev/null.
        sys::dup_to(1, 0)?;
        // Run from a descriptor, the name would be its number.
        const PR_SET_NAME: u32 = 15;
        sys::prctl(PR_SET_NAME, c"boxrig-init".as_ptr() as usize, 0).map(drop)
    })();
    if ready.is_err() {
        sys::exit(3);
    }
    let mut slots = Slots {
        fds: [const { None }; MAX_SLOTS],
        used: 0,
    };
    let plan = match receive_plan(&mut slots) {
        Ok(plan) => plan,
        Err(errno) => fail(0, errno.into()),
    };
    let mut reader = Reader::new(plan);
    let agent = serve::agent();
    let mut index = 0;
    while !reader.at_end() {
        if let Err(failure) = operation(&mut reader, &mut slots, agent) {
            fail(index, failure);
        }
        index += 1;
    }
    fail(index, EPROTO.into())
}

fn fail(index: u32, failure: Failure) -> ! {
    let _ = Packet::<16>::new(STAGE_FAILED)
        .u32(index)
        .u32(failure.errno.0)
        .u32(failure.place)
        .send(SOCKET, &[]);
    sys::exit(1)
}

/// Descriptors the plan names by number.
struct Slots {
    fds: [Option<Fd>; MAX_SLOTS],
    used: usize,
}

impl Slots {
    fn push(&mut self, fd: Fd) -> Result<(), Errno> {
        *self.fds.get_mut(self.used).ok_or(EPROTO)? = Some(fd);
        self.used += 1;
        Ok(())
    }

    fn get(&self, slot: u32) -> Result<i32, Errno> {
        Ok(self
            .fds
            .get(slot as usize)
            .and_then(Option::as_ref)
            .ok_or(EPROTO)?
            .0)
    }

    fn take(&mut self, slot: u32) -> Result<Fd, Errno> {
        self.fds
            .get_mut(slot as usize)
            .and_then(Option::take)
            .ok_or(EPROTO)
    }

    fn push_all(&mut self, mut fds: chan::Fds, from: usize) -> Result<(), Errno> {
        for index in from..fds.len() {
            self.push(fds.take(index)?)?;
        }
        Ok(())
    }
}

/// The first packet: its first descriptor is the plan, the others fill slots.
fn receive_plan(slots: &mut Slots) -> Result<&'static [u8], Errno> {
    let mut buf = [0; 16];
    let (n, mut fds) = chan::recv(SOCKET, &mut buf)?;
    if n == 0 {
        sys::exit(0); // The server changed its mind.
    }
    let plan = fds.take(0)?;
    slots.push_all(fds, 1)?;
    sys::map_file(plan.0, MAX_REQUEST)
}

fn operation(
    plan: &mut Reader<'static>,
    slots: &mut Slots,
    agent: &mut Agent,
) -> Result<(), Failure> {
    match plan.u32()? {
        OP_UNSHARE => sys::unshare(plan.u64()?)?,
        OP_SYNC => {
            Packet::<8>::new(STAGE_SYNC).send(SOCKET, &[])?;
            let mut buf = [0; 16];
            let (n, fds) = chan::recv(SOCKET, &mut buf)?;
            if n == 0 {
                sys::exit(0);
            }
            slots.push_all(fds, 0)?;
        }
        OP_WRITE => {
            let file = sys::openat(AT_FDCWD, plan.cstr()?, sys::O_WRONLY, 0)?;
            sys::write_all(file.0, plan.bytes()?)?;
        }
        OP_OPEN_TREE => {
            let path = plan.cstr()?;
            slots.push(sys::open_tree(path, plan.u32()?)?)?;
        }
        OP_SETATTR => {
            let (slot, recursive) = (plan.u32()?, plan.u32()? != 0);
            let attr = [plan.u64()?, plan.u64()?, plan.u64()?, 0];
            sys::mount_setattr(slots.get(slot)?, recursive, &attr)?;
        }
        OP_MOVE_MOUNT => {
            let slot = slots.take(plan.u32()?)?;
            sys::move_mount(slot.0, plan.cstr()?)?;
        }
        OP_MOUNT => {
            let (source, target, kind) = (plan.cstr()?, plan.cstr()?, plan.cstr()?);
            sys::mount(source, target, kind, plan.u64()?, plan.cstr()?)?;
        }
        OP_MKDIR => {
            let path = plan.cstr()?;
            existing_is_fine(sys::mkdirat(AT_FDCWD, path, plan.u32()?))?;
        }
        OP_SYMLINK => {
            let target = plan.cstr()?;
            existing_is_fine(sys::symlinkat(target, AT_FDCWD, plan.cstr()?))?;
        }
        OP_TOUCH => {
            let path = plan.cstr()?;
            sys::openat(AT_FDCWD, path, sys::O_WRONLY | sys::O_CREAT, plan.u32()?)?;
        }
        OP_PIVOT => {
            sys::chdir(plan.cstr()?)?;
            sys::pivot_root(b".\0", b".\0")?;
            sys::umount(b".\0")?;
            sys::chdir(b"/\0")?;
        }
        OP_FORK => become_first_process()?,
        OP_HOSTNAME => sys::sethostname(plan.bytes()?)?,
        OP_LO_UP => loopback_up()?,
        OP_NETLINK => {
            let (protocol, last, optional) = (plan.u32()?, plan.u32()?, plan.u32()? != 0);
            let sent = netlink(protocol, last, plan.bytes()?);
            if !optional {
                sent?;
            }
        }
        OP_SOCKET => {
            let (key, kind, family, port) = (plan.u32()?, plan.u32()?, plan.u32()?, plan.u32()?);
            let optional = plan.u32()? != 0;
            match serve::bound_socket(kind, family, port as u16) {
                Ok(socket) => {
                    Packet::<8>::new(STAGE_SOCKET)
                        .u32(key)
                        .send(SOCKET, &[socket.0])?;
                    agent.keep(key, socket)?;
                }
                Err(_) if optional => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        OP_SESSION => {
            sys::setsid()?;
            sys::umask(0o022);
        }
        OP_IDS => {
            if plan.u32()? != 0 {
                sys::setgroups(&[])?;
            }
            sys::setresgid(0)?;
            sys::setresuid(0)?;
        }
        OP_BOUND => bound_capabilities(plan.u64()?)?,
        OP_SECCOMP => sys::seccomp(plan.bytes()?)?,
        OP_UNDUMPABLE => {
            const PR_SET_DUMPABLE: u32 = 4;
            sys::prctl(PR_SET_DUMPABLE, 0, 0)?;
        }
        OP_LOG => {
            let fd = slots.take(plan.u32()?)?;
            agent.log = Some(Log::open(fd)?);
        }
        OP_MAIN => {
            let body = plan.bytes()?;
            exec::start_main(agent, body).map_err(|failed| Failure {
                errno: failed.errno,
                place: failed.place,
            })?;
        }
        OP_SERVE => {
            let listener = slots.take(plan.u32()?)?;
            serve::prepare(agent, listener)?;
            for slot in &mut slots.fds {
                *slot = None;
            }
            Packet::<8>::new(STAGE_READY).send(SOCKET, &[])?;
            sys::close(SOCKET);
            serve::run(agent)
        }
        OP_CHDIR => sys::chdir(plan.cstr()?)?,
        OP_RLIMIT => {
            let (resource, soft, hard) = (plan.u32()?, plan.u64()?, plan.u64()?);
            sys::rlimit(resource, soft, hard)?;
        }
        OP_INSTALL => {
            let (path, slot, count) = (plan.cstr()?, plan.u32()?, plan.u32()?);
            let mut present = false;
            for _ in 0..count {
                present |= sys::stat(AT_FDCWD, plan.cstr()?, 0).is_ok();
            }
            let source = slots.take(slot)?;
            if !present {
                install(path, source.0)?;
            }
        }
        OP_BIND => {
            let (source, target) = (plan.cstr()?, plan.cstr()?);
            bind(source, target, plan.u64()?)?;
        }
        OP_MASK => {
            let (path, folder, file) = (plan.cstr()?, plan.cstr()?, plan.cstr()?);
            match mask(path, folder, file) {
                Ok(()) | Err(ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        OP_READONLY => match read_only(plan.cstr()?) {
            Ok(()) | Err(ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        },
        OP_DEVICE => {
            let (source, target) = (plan.cstr()?, plan.cstr()?);
            sys::openat(AT_FDCWD, target, sys::O_WRONLY | sys::O_CREAT, 0o666)?;
            sys::mount(source, target, b"\0", sys::MS_BIND, b"\0")?;
        }
        _ => return Err(EPROTO.into()),
    }
    Ok(())
}

fn existing_is_fine(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(EEXIST) => Ok(()),
        other => other,
    }
}

/// Forks as a child of the *server*, so that the server can collect it; the stage itself ends.
fn become_first_process() -> Result<(), Errno> {
    const CLONE_PIDFD: u64 = 0x1000;
    const CLONE_PARENT: u64 = 0x8000;
    let mut pidfd = -1;
    match sys::fork(CLONE_PARENT | CLONE_PIDFD, &mut pidfd)? {
        0 => Ok(()),
        pid => {
            let told = Packet::<8>::new(STAGE_PID).u32(pid).send(SOCKET, &[pidfd]);
            sys::exit(i32::from(told.is_err()))
        }
    }
}

fn loopback_up() -> Result<(), Errno> {
    const AF_INET: u32 = 2;
    const SOCK_DGRAM: u32 = 2;
    const SIOCSIFFLAGS: u32 = 0x8914;
    const IFF_UP_RUNNING: u8 = 0x41;
    let socket = sys::socket(AF_INET, SOCK_DGRAM, 0)?;
    let mut request = [0u8; 40]; // struct ifreq: name in 16 bytes, then flags
    request[..2].copy_from_slice(b"lo");
    request[16] = IFF_UP_RUNNING;
    sys::ioctl_buf(socket.0, SIOCSIFFLAGS, &mut request).map(drop)
}

/// Sends one netlink request and reads its outcome, which is there when sending returns.
pub(crate) fn netlink(protocol: u32, last: u32, blob: &[u8]) -> Result<(), Errno> {
    const AF_NETLINK: u32 = 16;
    const SOCK_RAW: u32 = 3;
    const SOCK_NONBLOCK: u32 = 0o4000;
    let socket = sys::socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, protocol)?;
    sys::send(socket.0, blob)?;
    let mut buf = [0u8; 8192];
    loop {
        let n = match sys::recv(socket.0, &mut buf) {
            Err(sys::EAGAIN) => return Err(EPROTO),
            other => other?,
        };
        match ack::outcome(&buf[..n], last) {
            Outcome::More => {}
            Outcome::Done => return Ok(()),
            Outcome::Failed { errno, .. } => return Err(Errno(errno.unsigned_abs())),
            Outcome::Malformed => return Err(EPROTO),
        }
    }
}

/// Drops every capability outside `keep` from the bounding set, for good.
fn bound_capabilities(keep: u64) -> Result<(), Errno> {
    const PR_CAPBSET_DROP: u32 = 24;
    for capability in 0..64usize {
        if keep >> capability & 1 == 0 {
            match sys::prctl(PR_CAPBSET_DROP, capability, 0) {
                Ok(_) => {}
                Err(sys::EINVAL) => break, // Beyond the last one this kernel knows.
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

fn install(path: &[u8], source: i32) -> Result<(), Errno> {
    let flags = sys::O_WRONLY | sys::O_CREAT | sys::O_EXCL | sys::O_NOFOLLOW;
    let target = match sys::openat(AT_FDCWD, path, flags, 0o755) {
        Err(EEXIST) => return Ok(()),
        other => other?,
    };
    let mut buf = [0u8; 8192];
    let mut at = 0;
    loop {
        let n = sys::pread(source, &mut buf, at)?;
        if n == 0 {
            break;
        }
        sys::write_all(target.0, &buf[..n])?;
        at += n as u64;
    }
    sys::fchmod(target.0, 0o755)
}

const RESTRICTED: u64 = sys::MS_NOSUID | sys::MS_NODEV | sys::MS_NOEXEC;

fn bind(source: &[u8], target: &[u8], flags: u64) -> Result<(), Errno> {
    sys::mount(source, target, b"\0", sys::MS_BIND, b"\0")?;
    let flags = sys::MS_REMOUNT | sys::MS_BIND | flags;
    sys::mount(b"none\0", target, b"\0", flags, b"\0")
}

fn mask(path: &[u8], folder: &[u8], file: &[u8]) -> Result<(), Errno> {
    if sys::stat(AT_FDCWD, path, 0)?.mode & sys::S_IFMT == sys::S_IFDIR {
        bind(folder, path, sys::MS_RDONLY | RESTRICTED)
    } else {
        sys::mount(file, path, b"\0", sys::MS_BIND, b"\0")
    }
}

fn read_only(path: &[u8]) -> Result<(), Errno> {
    bind(path, path, sys::MS_RDONLY | RESTRICTED)
}
