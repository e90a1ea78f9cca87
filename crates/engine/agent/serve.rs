//! Process 1: collects ended processes and answers the server's requests, one connection each.

use core::cell::{Cell, UnsafeCell};

use crate::chan::{self, Fds, Packet, reply_error, reply_ok};
use crate::log::Log;
use crate::proto::*;
use crate::sys::{self, AT_FDCWD, EINVAL, EIO, EPROTO, Event, Fd, Result};
use crate::wire::Reader;
use crate::{exec, files, stage};

/// Most connections open at one time (running commands and watchers).
const MAX_CONNECTIONS: usize = 4096;
/// Most sockets kept for the server.
const MAX_KEPT: usize = 32;

const ON_LISTENER: u64 = u64::MAX;
const ON_SIGNAL: u64 = u64::MAX - 1;
const ON_OUTPUT: u64 = u64::MAX - 2;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Free,
    /// Accepted; its request has not come.
    Fresh,
    /// A running command.
    Exec {
        pid: u32,
        kill: bool,
    },
    /// Wants to know when the main process ends.
    Watch,
}

/// A socket that the server may ask for again.
struct Kept {
    key: u32,
    socket: Fd,
    /// Which asking was the last.
    asked: u32,
}

#[derive(Clone, Copy)]
struct Connection {
    fd: i32,
    purpose: Use,
}

/// The state of process 1.
pub(crate) struct Agent {
    epoll: Option<Fd>,
    listener: Option<Fd>,
    signals: Option<Fd>,
    pub(crate) devpts: Option<Fd>,
    proc: Option<Fd>,
    pub(crate) log: Option<Log>,
    pub(crate) main_output: Option<Fd>,
    /// 0 when there is none or it has ended.
    pub(crate) main_pid: u32,
    main_status: Option<u32>,
    kept: [Option<Kept>; MAX_KEPT],
    /// How often listeners were asked for.
    asked: u32,
    connections: [Connection; MAX_CONNECTIONS],
    /// One more than the highest slot ever used.
    high: usize,
    buf: [u8; MAX_PACKET],
}

struct Static(UnsafeCell<Agent>, UnsafeCell<bool>);

// SAFETY: the agent has one thread.
unsafe impl Sync for Static {}

static AGENT: Static = Static(
    UnsafeCell::new(Agent {
        epoll: None,
        listener: None,
        signals: None,
        devpts: None,
        proc: None,
        log: None,
        main_output: None,
        main_pid: 0,
        main_status: None,
        kept: [const { None }; MAX_KEPT],
        asked: 0,
        connections: [Connection {
            fd: 0,
            purpose: Use::Free,
        }; MAX_CONNECTIONS],
        high: 0,
        buf: [0; MAX_PACKET],
    }),
    UnsafeCell::new(false),
);

/// The one agent of this process, static so that its untouched parts cost no memory. May be taken once.
pub(crate) fn agent() -> &'static mut Agent {
    // SAFETY: one thread; the flag makes sure that only one reference is ever given out.
    unsafe {
        if core::mem::replace(&mut *AGENT.1.get(), true) {
            sys::exit(134);
        }
        &mut *AGENT.0.get()
    }
}

impl Agent {
    /// Keeps a socket for the server under a key, in place of an older one.
    pub(crate) fn keep(&mut self, key: u32, socket: Fd) -> Result<()> {
        self.forget(key, None);
        let slot = self
            .kept
            .iter_mut()
            .find(|slot| slot.is_none())
            .ok_or(sys::ENFILE)?;
        *slot = Some(Kept {
            key,
            socket,
            asked: self.asked,
        });
        Ok(())
    }

    /// Closes the socket under a key; with `asked`, only if nobody has asked for it since.
    fn forget(&mut self, key: u32, asked: Option<u32>) {
        for slot in &mut self.kept {
            if slot.as_ref().is_some_and(|kept| {
                kept.key == key && asked.is_none_or(|asked| asked == kept.asked)
            }) {
                *slot = None;
            }
        }
    }

    fn kept(&mut self, key: u32) -> Option<&mut Kept> {
        self.kept.iter_mut().flatten().find(|kept| kept.key == key)
    }

    fn epoll(&self) -> i32 {
        self.epoll.as_ref().map_or(-1, |fd| fd.0)
    }
}

/// Opens what process 1 needs while the plan can still fail.
pub(crate) fn prepare(agent: &mut Agent, listener: Fd) -> Result<()> {
    let flags = sys::O_PATH | sys::O_DIRECTORY;
    sys::listen(listener.0, 4096)?;
    agent.devpts = Some(sys::openat(AT_FDCWD, b"/dev/pts\0", flags, 0)?);
    agent.proc = Some(sys::openat(AT_FDCWD, b"/proc\0", flags, 0)?);
    let mask = 1u64 << (sys::SIGCHLD - 1);
    sys::set_signal_mask(mask);
    let signals = sys::signalfd(mask)?;
    let epoll = sys::epoll()?;
    sys::epoll_add(epoll.0, listener.0, ON_LISTENER)?;
    sys::epoll_add(epoll.0, signals.0, ON_SIGNAL)?;
    if let Some(output) = &agent.main_output {
        sys::epoll_add(epoll.0, output.0, ON_OUTPUT)?;
    }
    agent.listener = Some(listener);
    agent.signals = Some(signals);
    agent.epoll = Some(epoll);
    // The main process may have ended before its signal was watched for.
    reap(agent);
    Ok(())
}

/// Serves until the instance ends.
pub(crate) fn run(agent: &mut Agent) -> ! {
    loop {
        let mut events = [Event { events: 0, data: 0 }; 32];
        let Ok(n) = sys::epoll_wait(agent.epoll(), &mut events) else {
            sys::exit(1);
        };
        for event in events.iter().take(n) {
            match event.data {
                ON_LISTENER => accept(agent),
                ON_SIGNAL => {
                    let mut info = [0; 1024];
                    if let Some(signals) = &agent.signals {
                        let _ = sys::read(signals.0, &mut info);
                    }
                    reap(agent);
                }
                ON_OUTPUT => copy_output(agent),
                index => readable(agent, index as usize),
            }
        }
    }
}

fn accept(agent: &mut Agent) {
    let Some(Ok(connection)) = agent.listener.as_ref().map(|fd| sys::accept(fd.0)) else {
        return;
    };
    let Some(index) = agent
        .connections
        .iter()
        .position(|c| c.purpose == Use::Free)
    else {
        reply_error(connection.0, sys::ENFILE, WHERE_REQUEST);
        return;
    };
    if sys::epoll_add(agent.epoll(), connection.0, index as u64).is_ok() {
        agent.connections[index] = Connection {
            fd: connection.into_raw(),
            purpose: Use::Fresh,
        };
        agent.high = agent.high.max(index + 1);
    }
}

fn close(agent: &mut Agent, index: usize) {
    let fd = agent.connections[index].fd;
    agent.connections[index].purpose = Use::Free;
    sys::epoll_remove(agent.epoll(), fd);
    sys::close(fd);
}

/// Collects every ended child and tells who waits for it.
fn reap(agent: &mut Agent) {
    while let Some((pid, status)) = sys::reap() {
        if pid == agent.main_pid {
            copy_output(agent);
            agent.main_pid = 0;
            agent.main_status = Some(status);
            for index in 0..agent.high {
                if agent.connections[index].purpose == Use::Watch {
                    send_status(agent, agent.connections[index].fd);
                }
            }
        }
        for index in 0..agent.high {
            let connection = agent.connections[index];
            if matches!(connection.purpose, Use::Exec { pid: waited, .. } if waited == pid) {
                let _ = Packet::<8>::new(REPLY_EXITED)
                    .u32(status)
                    .send(connection.fd, &[]);
                close(agent, index);
            }
        }
    }
}

/// Moves what the main process has written to the log.
fn copy_output(agent: &mut Agent) {
    let Some(output) = agent.main_output.as_ref().map(|fd| fd.0) else {
        return;
    };
    const FIONREAD: u32 = 0x541b;
    let mut waiting = [0; 4];
    // Only what is there: the pipe is blocking, and others may hold its other end.
    let more =
        sys::ioctl_buf(output, FIONREAD, &mut waiting).is_ok() && u32::from_le_bytes(waiting) > 0;
    let n = if more {
        sys::read(output, &mut agent.buf).unwrap_or(0)
    } else {
        0
    };
    if n > 0 {
        if let Some(log) = &mut agent.log {
            log.append(&agent.buf[..n]);
        }
    }
    if n == 0 && sys::hung_up(output) {
        sys::epoll_remove(agent.epoll(), output);
        agent.main_output = None;
    }
}

/// A connection has something to say, or is closed.
fn readable(agent: &mut Agent, index: usize) {
    let Some(&Connection { fd, purpose }) = agent.connections.get(index) else {
        return;
    };
    if purpose == Use::Free {
        return;
    }
    match chan::recv(fd, &mut agent.buf) {
        Ok((n, fds)) if n > 0 => match purpose {
            Use::Exec { pid, .. } => {
                signal(&agent.buf[..n], pid);
            }
            Use::Fresh => request(agent, index, n, fds),
            Use::Watch | Use::Free => {}
        },
        _ => {
            if let Use::Exec { pid, kill: true } = purpose {
                let _ = sys::kill(-(pid as i32), sys::SIGKILL);
            }
            close(agent, index);
        }
    }
}

/// A message on the connection of a running command: a signal for its process group.
fn signal(message: &[u8], pid: u32) {
    let mut reader = Reader::new(message);
    if let (Ok(_), Ok(REQ_SIGNAL), Ok(signal)) = (reader.u32(), reader.u32(), reader.u32()) {
        let _ = sys::kill(-(pid as i32), signal);
    }
}

/// The first message of a connection.
fn request(agent: &mut Agent, index: usize, n: usize, mut fds: Fds) {
    let fd = agent.connections[index].fd;
    // The packet is copied out of the way of `agent` by address: it is only read until the next receive.
    let packet: &[u8] = {
        let (start, len) = (agent.buf.as_ptr(), n);
        // SAFETY: `buf` is static and not written again before the request is done: every writer below
        // (`chan::recv`, `copy_output`) runs from the event loop.
        unsafe { core::slice::from_raw_parts(start, len) }
    };
    let mut reader = Reader::new(packet);
    let (Ok(version), Ok(kind)) = (reader.u32(), reader.u32()) else {
        reply_error(fd, EINVAL, WHERE_REQUEST);
        return close(agent, index);
    };
    if version != VERSION {
        reply_error(fd, EPROTO, WHERE_REQUEST);
        return close(agent, index);
    }
    let mut mapped: Option<&'static [u8]> = None;
    if kind & IN_MEMFD != 0 {
        match fds
            .take(0)
            .and_then(|file| sys::map_file(file.0, MAX_REQUEST))
        {
            Ok(block) => {
                mapped = Some(block);
                reader = Reader::new(block);
            }
            Err(errno) => {
                reply_error(fd, errno, WHERE_REQUEST);
                return close(agent, index);
            }
        }
    }
    let body = mapped.unwrap_or(&packet[8..]);
    let keep_open = handle(agent, index, fd, kind & !IN_MEMFD, body, reader);
    if let Some(block) = mapped {
        sys::unmap(block);
    }
    if !keep_open {
        close(agent, index);
    }
}

/// Does what a request asks. Returns whether the connection stays open.
fn handle(
    agent: &mut Agent,
    index: usize,
    fd: i32,
    kind: u32,
    body: &[u8],
    mut reader: Reader<'_>,
) -> bool {
    match kind {
        REQ_STATUS => {
            send_status(agent, fd);
            false
        }
        REQ_WATCH => {
            agent.connections[index].purpose = Use::Watch;
            send_status(agent, fd);
            true
        }
        REQ_EXEC => match exec::start(agent, body) {
            Ok(started) => {
                let mut ends = [0; 3];
                let mut count = 0;
                for end in started.ends.iter().flatten() {
                    ends[count] = end.0;
                    count += 1;
                }
                let kill = started.flags & EXEC_KILL != 0;
                agent.connections[index].purpose = Use::Exec {
                    pid: started.pid,
                    kill,
                };
                if Packet::<8>::new(REPLY_STARTED)
                    .u32(started.pid)
                    .send(fd, &ends[..count])
                    .is_err()
                    && kill
                {
                    let _ = sys::kill(-(started.pid as i32), sys::SIGKILL);
                }
                true
            }
            Err(failed) => {
                reply_error(fd, failed.errno, failed.place);
                false
            }
        },
        REQ_READ..=REQ_SETATTR => {
            // A worker of its own, so that long work on files holds nobody up.
            match sys::fork(0, &mut 0) {
                Ok(0) => {
                    sys::set_signal_mask(0);
                    files::work(fd, kind, reader)
                }
                Ok(_) => {}
                Err(errno) => reply_error(fd, errno, WHERE_FORK),
            }
            false
        }
        _ => {
            if let Err(errno) = quick(agent, fd, kind, &mut reader) {
                reply_error(fd, errno, WHERE_REQUEST);
            }
            false
        }
    }
}

/// The requests that are answered at once.
fn quick(agent: &mut Agent, fd: i32, kind: u32, reader: &mut Reader<'_>) -> Result<()> {
    let mut number = || reader.u32().map_err(|_| EINVAL);
    match kind {
        REQ_CONNECT => {
            let socket = connect(number()? as u16)?;
            reply_ok(fd, &[socket.0])
        }
        REQ_LISTEN => {
            let port = number()?;
            agent.asked = agent.asked.wrapping_add(1);
            let asked = agent.asked;
            if let Some(kept) = agent.kept(LISTEN_KEY | port).filter(|_| port != 0) {
                kept.asked = asked;
                return Packet::<16>::new(REPLY_OK)
                    .u32(port)
                    .u32(asked)
                    .send(fd, &[kept.socket.0]);
            }
            let socket = bound_socket(STREAM, 4, port as u16)?;
            let mut name = [0; 16];
            sys::sockname(socket.0, &mut name)?;
            let port = u32::from(u16::from_be_bytes([name[2], name[3]]));
            let listener = socket.0;
            agent.keep(LISTEN_KEY | port, socket)?;
            Packet::<16>::new(REPLY_OK)
                .u32(port)
                .u32(asked)
                .send(fd, &[listener])
        }
        REQ_UNLISTEN => {
            let (port, asked) = (number()?, number()?);
            agent.forget(LISTEN_KEY | port, Some(asked));
            reply_ok(fd, &[])
        }
        REQ_SOCKET => {
            let kept = agent.kept(number()?).ok_or(sys::ENOENT)?;
            reply_ok(fd, &[kept.socket.0])
        }
        REQ_KILL_ALL => {
            // ESRCH: there is nobody left, which is what was wanted.
            let _ = sys::kill(-1, number()?);
            reply_ok(fd, &[])
        }
        REQ_FREEZE => {
            freeze(agent)?;
            reply_ok(fd, &[])
        }
        REQ_NETLINK => {
            let (protocol, last) = (number()?, number()?);
            stage::netlink(protocol, last, reader.bytes().map_err(|_| EINVAL)?)?;
            reply_ok(fd, &[])
        }
        _ => Err(EINVAL),
    }
}

fn send_status(agent: &Agent, fd: i32) {
    let (state, status) = match (agent.main_pid, agent.main_status) {
        (0, None) => (0, 0),
        (0, Some(status)) => (2, status),
        _ => (1, 0),
    };
    let _ = Packet::<32>::new(REPLY_STATUS)
        .u32(VERSION)
        .u32(others(agent, |_| true).unwrap_or(0))
        .u32(state)
        .u32(status)
        .send(fd, &[]);
}

/// Added to a port, the key of a kept listener; plans use small keys.
const LISTEN_KEY: u32 = 0x0100_0000;
const STREAM: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const SOCK_NONBLOCK: u32 = 0o4000;

/// A socket bound to the loopback address of family 4 or 6; a stream socket listens.
pub(crate) fn bound_socket(kind: u32, family: u32, port: u16) -> Result<Fd> {
    const SOL_SOCKET: u32 = 1;
    const SO_REUSEADDR: u32 = 2;
    const IPPROTO_IPV6: u32 = 41;
    const IPV6_V6ONLY: u32 = 26;
    let domain = if family == 6 { AF_INET6 } else { AF_INET };
    let socket = sys::socket(domain, kind | SOCK_NONBLOCK, 0)?;
    sys::setsockopt(socket.0, SOL_SOCKET, SO_REUSEADDR, 1)?;
    if family == 6 {
        sys::setsockopt(socket.0, IPPROTO_IPV6, IPV6_V6ONLY, 1)?;
        sys::bind(socket.0, &inet6(port))?;
    } else {
        sys::bind(socket.0, &inet(port))?;
    }
    if kind == STREAM {
        sys::listen(socket.0, 1024)?;
    }
    Ok(socket)
}

/// `struct sockaddr_in` of 127.0.0.1.
fn inet(port: u16) -> [u8; 16] {
    let mut raw = [0; 16];
    raw[..2].copy_from_slice(&(AF_INET as u16).to_le_bytes());
    raw[2..4].copy_from_slice(&port.to_be_bytes());
    raw[4..8].copy_from_slice(&[127, 0, 0, 1]);
    raw
}

/// `struct sockaddr_in6` of ::1: family, port, flow, 16 bytes of address, scope.
fn inet6(port: u16) -> [u8; 28] {
    let mut raw = [0; 28];
    raw[..2].copy_from_slice(&(AF_INET6 as u16).to_le_bytes());
    raw[2..4].copy_from_slice(&port.to_be_bytes());
    raw[23] = 1;
    raw
}

/// A socket connected, or still connecting, to a port of the instance's own loopback.
fn connect(port: u16) -> Result<Fd> {
    match connect_to(AF_INET, &inet(port)) {
        Err(sys::ECONNREFUSED) => {}
        other => return other,
    }
    // A kernel without IPv6 has another error for it, which says less.
    connect_to(AF_INET6, &inet6(port)).map_err(|_| sys::ECONNREFUSED)
}

fn connect_to(family: u32, address: &[u8]) -> Result<Fd> {
    let socket = sys::socket(family, STREAM | SOCK_NONBLOCK, 0)?;
    match sys::connect(socket.0, address) {
        Ok(()) => Ok(socket),
        // On the loopback the answer is there at once, unless the listener's queue is full.
        Err(sys::EINPROGRESS) => match sys::connected(socket.0) {
            None | Some(Ok(())) => Ok(socket),
            Some(Err(errno)) => Err(errno),
        },
        Err(errno) => Err(errno),
    }
}

/// Counts the processes besides this one whose state (a letter of /proc/PID/stat) satisfies `wanted`.
fn others(agent: &Agent, wanted: impl Fn(u8) -> bool) -> Result<u32> {
    let proc = agent.proc.as_ref().ok_or(EIO)?;
    let dir = sys::openat(proc.0, b".\0", sys::O_RDONLY | sys::O_DIRECTORY, 0)?;
    let mut count = 0;
    files::each_entry(dir.0, |name| {
        let digits = name.len() > 1 && name[..name.len() - 1].iter().all(u8::is_ascii_digit);
        if !digits || name == b"1\0" {
            return Ok(());
        }
        let mut path = [0; 32];
        let used = name.len() - 1;
        path[..used].copy_from_slice(&name[..used]);
        path[used..used + 6].copy_from_slice(b"/stat\0");
        let mut stat = [0; 256];
        let n = match sys::openat(dir.0, &path[..used + 6], sys::O_RDONLY, 0) {
            Ok(file) => sys::read(file.0, &mut stat).unwrap_or(0),
            Err(_) => 0, // It has ended meanwhile.
        };
        // "pid (name) S …": the name may hold anything, so the last parenthesis counts.
        if let Some(end) = stat[..n].iter().rposition(|&b| b == b')') {
            let state = stat.get(end + 2).copied().unwrap_or(b'Z');
            if state != b'Z' && state != b'X' && wanted(state) {
                count += 1;
            }
        }
        Ok(())
    })?;
    Ok(count)
}

/// Stops every process by signal. One that was being forked meanwhile is caught by the next round; one that the machine has no
/// time for stops only when it is its turn, so on a busy one this takes a while.
///
/// A shell that starts a program with `vfork` waits in the kernel (`D`) until its child runs the program. When the child was
/// stopped before that, the shell never stops; but it cannot run either before the child does, and what it does then is stop. So
/// those that only wait count as stopped when they are seen to wait again and again.
fn freeze(agent: &Agent) -> Result<()> {
    const WAITS: u32 = 20;
    let (mut quiet, mut waits) = (0, 0);
    for _ in 0..5_000 {
        let _ = sys::kill(-1, sys::SIGSTOP);
        let waiting = Cell::new(0);
        let running = others(agent, |state| {
            waiting.set(waiting.get() + u32::from(state == b'D'));
            !matches!(state, b'T' | b't' | b'D')
        })?;
        let still = running == 0;
        quiet = if still && waiting.get() == 0 {
            quiet + 1
        } else {
            0
        };
        waits = if still { waits + 1 } else { 0 };
        if quiet == 2 || waits == WAITS {
            return Ok(());
        }
        if quiet == 0 {
            sys::sleep_ms(1);
        }
    }
    Err(sys::ETIMEDOUT)
}
