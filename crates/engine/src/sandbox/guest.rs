//! Talking to process 1 of a running instance: one connection for every request.
//!
//! Nothing that comes back is trusted: lengths are checked, and a descriptor must be of the kind that was asked for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpStream};

use super::launch::socket_address;
use super::packet::{self, Packet, Writer};
use super::proto;
use super::wire::{Malformed, Reader};
use crate::{DirEntry, Error, ExitStatus, FileKind, FileMeta, Kind, Result, WriteOptions};

/// Longest an agent may take for an answer that needs no long work.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to process 1.
#[derive(Debug)]
pub(super) struct Channel {
    fd: AsyncFd<OwnedFd>,
}

impl Channel {
    /// Receives one packet; an empty one means that process 1 has closed the connection or is gone.
    pub(super) async fn receive(&self) -> io::Result<Packet> {
        let received = self
            .fd
            .async_io(Interest::READABLE, |fd| Ok(packet::receive(fd)?))
            .await;
        match received {
            Err(e) if e.raw_os_error() == Some(libc::ECONNRESET) => Ok(Packet {
                bytes: Vec::new(),
                fds: Vec::new(),
            }),
            other => other,
        }
    }

    /// Sends a request.
    pub(super) async fn send(&self, kind: u32, body: &[u8]) -> io::Result<()> {
        let mut head = Writer::default();
        head.u32(proto::VERSION);
        if body.len() + 8 <= proto::MAX_PACKET {
            head.u32(kind);
            let packet = [head.as_slice(), body].concat();
            return self.send_packet(&packet, &[]).await;
        }
        head.u32(kind | proto::IN_MEMFD);
        let file = packet::sealed_file("boxrig-request", body, false)?;
        self.send_packet(head.as_slice(), &[file.as_fd()]).await
    }

    async fn send_packet(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.fd
            .async_io(Interest::WRITABLE, |fd| Ok(packet::send(fd, packet, fds)?))
            .await
    }

    /// Waits for an answer; an error answer becomes `failed`'s error.
    pub(super) async fn answer(&self, failed: impl Fn(i32, u32) -> Error) -> Result<Packet> {
        let packet = tokio::time::timeout(PATIENCE, self.receive())
            .await
            .map_err(|_| Error::new(Kind::Timeout, "the instance's process 1 does not answer"))?
            .map_err(|e| Error::io("read the answer of the instance", e))?;
        let mut reader = Reader::new(&packet.bytes);
        match reader.u32() {
            Ok(proto::REPLY_ERROR) => {
                let errno = reader.u32().unwrap_or(0);
                Err(failed(
                    i32::try_from(errno).unwrap_or(libc::EIO),
                    reader.u32().unwrap_or(0),
                ))
            }
            Ok(_) => Ok(packet),
            Err(Malformed) => Err(gone()),
        }
    }
}

/// The instance has ended.
pub(super) fn gone() -> Error {
    Error::new(Kind::Gone, "the instance ended")
}

fn malformed() -> Error {
    Error::new(Kind::Io, "the answer of the instance is malformed")
}

impl From<Malformed> for Error {
    fn from(_: Malformed) -> Self {
        malformed()
    }
}

/// The address of one instance's process 1.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    dir: PathBuf,
}

/// What process 1 tells about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    /// Processes besides process 1.
    pub(super) others: u32,
    /// How the main process ended.
    pub(super) main_exit: Option<ExitStatus>,
}

impl Guest {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Connects; also the process id on the host of who listens.
    pub(super) async fn connect(&self) -> Result<(Channel, Option<u32>)> {
        let failed = |errno: Errno| match errno {
            Errno::CONNREFUSED | Errno::NOENT => gone(),
            other => Error::io("connect to the instance", other.into()),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&self.dir, flags, Mode::empty()).map_err(failed)?;
        let address = socket_address(&folder).map_err(failed)?;
        for attempt in 0..200 {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                    .map_err(failed)?;
            match rustix::net::connect(&socket, &address) {
                Ok(()) => {
                    let peer = rustix::net::sockopt::socket_peercred(&socket).ok();
                    let pid =
                        peer.and_then(|peer| u32::try_from(peer.pid.as_raw_nonzero().get()).ok());
                    let fd = packet::register(socket)
                        .map_err(|e| Error::io("connect to the instance", e))?;
                    return Ok((Channel { fd }, pid));
                }
                // The queue of connections is full.
                Err(Errno::AGAIN) => {
                    tokio::time::sleep(Duration::from_millis(1 + attempt / 10)).await
                }
                Err(errno) => return Err(failed(errno)),
            }
        }
        Err(Error::new(
            Kind::Limit,
            "too many connections to the instance wait",
        ))
    }

    async fn ask(&self, kind: u32, body: &Writer) -> Result<Channel> {
        self.ask_raw(kind, body.as_slice()).await
    }

    async fn ask_raw(&self, kind: u32, body: &[u8]) -> Result<Channel> {
        let (channel, _) = self.connect().await?;
        channel
            .send(kind, body)
            .await
            .map_err(|e| match e.raw_os_error() {
                Some(libc::EPIPE | libc::ECONNRESET) => gone(),
                _ => Error::io("send a request to the instance", e),
            })?;
        Ok(channel)
    }

    /// A request that is answered once.
    async fn call(
        &self,
        kind: u32,
        body: &Writer,
        failed: impl Fn(i32, u32) -> Error,
    ) -> Result<Packet> {
        self.ask(kind, body).await?.answer(failed).await
    }

    /// Opens the connection that tells of the main process's end, and closes with the instance.
    pub(super) async fn watch(&self) -> Result<(Channel, Status)> {
        let channel = self.ask(proto::REQ_WATCH, &Writer::default()).await?;
        let packet = channel.answer(plain_error).await?;
        let status = read_status(&packet.bytes)?;
        Ok((channel, status))
    }

    /// As [`Guest::watch`], without waiting for the first answer.
    pub(super) async fn watch_later(&self) -> Result<Channel> {
        self.ask(proto::REQ_WATCH, &Writer::default()).await
    }

    pub(super) async fn status(&self) -> Result<Status> {
        let packet = self
            .call(proto::REQ_STATUS, &Writer::default(), plain_error)
            .await?;
        read_status(&packet.bytes)
    }

    /// Sends a signal to every process but process 1.
    pub(super) async fn kill_all(&self, signal: i32) -> Result<()> {
        let mut body = Writer::default();
        body.u32(signal.unsigned_abs());
        self.call(proto::REQ_KILL_ALL, &body, plain_error)
            .await
            .map(drop)
    }

    /// Stops every process by signals.
    pub(super) async fn freeze(&self) -> Result<()> {
        self.call(proto::REQ_FREEZE, &Writer::default(), plain_error)
            .await
            .map(drop)
    }

    /// Starts a command: its connection, process id, and descriptors.
    pub(super) async fn exec(
        &self,
        body: &[u8],
        name: &str,
    ) -> Result<(Channel, u32, Vec<OwnedFd>)> {
        let channel = self.ask_raw(proto::REQ_EXEC, body).await?;
        let packet = channel
            .answer(|errno, place| exec_error(errno, place, name))
            .await?;
        let mut reader = Reader::new(&packet.bytes);
        if reader.u32()? != proto::REPLY_STARTED {
            return Err(malformed());
        }
        let pid = reader.u32()?;
        Ok((channel, pid, packet.fds))
    }

    /// A connection to a port of the instance.
    pub(super) async fn connect_port(&self, port: u16) -> Result<TcpStream> {
        let mut body = Writer::default();
        body.u32(port.into());
        let failed = |errno, _| match errno {
            libc::ECONNREFUSED => Error::new(
                Kind::NotFound,
                format!("nothing listens on port {port} of the instance"),
            ),
            errno => plain_error(errno, 0),
        };
        let mut packet = self.call(proto::REQ_CONNECT, &body, failed).await?;
        let fd = packet.fds.pop().ok_or_else(malformed)?;
        let stream =
            TcpStream::from_std(fd.into()).map_err(|e| Error::io("use the connection", e))?;
        // It may still be connecting (a full queue of the listener).
        let ready = async {
            stream.writable().await?;
            match stream.take_error()? {
                Some(error) => Err(error),
                None => Ok(()),
            }
        };
        match tokio::time::timeout(PATIENCE, ready).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(e)) => Err(Error::io(
                format!("connect to port {port} of the instance"),
                e,
            )),
            Err(_) => Err(Error::new(
                Kind::Timeout,
                format!("port {port} of the instance does not accept"),
            )),
        }
    }

    /// A listener on a port of the instance, the port, and the number of this asking.
    pub(super) async fn listen(&self, port: u16) -> Result<(TcpListener, u16, u32)> {
        let mut body = Writer::default();
        body.u32(port.into());
        let failed = |errno, _| match errno {
            libc::EADDRINUSE => Error::new(
                Kind::Exists,
                format!("a process of the instance has port {port}"),
            ),
            errno => plain_error(errno, 0),
        };
        let mut packet = self.call(proto::REQ_LISTEN, &body, failed).await?;
        let mut reader = Reader::new(&packet.bytes);
        reader.u32()?;
        let port = u16::try_from(reader.u32()?).map_err(|_| malformed())?;
        let asked = reader.u32()?;
        let fd = packet.fds.pop().ok_or_else(malformed)?;
        let listener: std::net::TcpListener = fd.into();
        listener
            .set_nonblocking(true)
            .map_err(|e| Error::io("use the listener", e))?;
        let listener =
            TcpListener::from_std(listener).map_err(|e| Error::io("use the listener", e))?;
        Ok((listener, port, asked))
    }

    /// Gives a port back, unless it was asked for again.
    pub(super) async fn unlisten(&self, port: u16, asked: u32) -> Result<()> {
        let mut body = Writer::default();
        body.u32(port.into()).u32(asked);
        self.call(proto::REQ_UNLISTEN, &body, plain_error)
            .await
            .map(drop)
    }

    /// A socket that was made when the instance started; `None` if there is none under the key.
    pub(super) async fn socket(&self, key: u32) -> Result<Option<OwnedFd>> {
        let mut body = Writer::default();
        body.u32(key);
        match self.call(proto::REQ_SOCKET, &body, plain_error).await {
            Ok(mut packet) => Ok(packet.fds.pop()),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a file for reading.
    pub(super) async fn read_file(&self, path: &[u8]) -> Result<(FileMeta, std::fs::File)> {
        let mut packet = self
            .call(proto::REQ_READ, &path_body(path)?, on(path))
            .await?;
        let meta = read_meta(&packet.bytes)?;
        let file = regular_file(packet.fds.pop().ok_or_else(malformed)?)?;
        Ok((meta, file))
    }

    /// Opens a file for writing; [`Guest::commit`] puts it in its place.
    pub(super) async fn write_file(
        &self,
        path: &[u8],
        options: &WriteOptions,
    ) -> Result<(Channel, std::fs::File)> {
        let mut flags = 0;
        if options.parents {
            flags |= proto::WRITE_PARENTS;
        }
        if options.append {
            flags |= proto::WRITE_APPEND;
        }
        let mut body = path_body(path)?;
        body.u32(flags).u32(options.mode.unwrap_or(proto::NONE));
        body.u32(options.uid.unwrap_or(proto::NONE))
            .u32(options.gid.unwrap_or(proto::NONE));
        let (seconds, nanos) = options.mtime.map_or((proto::NO_TIME, 0), time_fields);
        body.u64(seconds).u32(nanos);
        let channel = self.ask(proto::REQ_WRITE, &body).await?;
        let mut packet = channel.answer(on(path)).await?;
        let file = regular_file(packet.fds.pop().ok_or_else(malformed)?)?;
        Ok((channel, file))
    }

    /// Ends a write.
    pub(super) async fn commit(&self, channel: &Channel, path: &[u8]) -> Result<()> {
        channel
            .send(proto::REQ_COMMIT, &[])
            .await
            .map_err(|_| gone())?;
        channel.answer(on(path)).await.map(drop)
    }

    pub(super) async fn stat(&self, path: &[u8], follow: bool) -> Result<FileMeta> {
        let mut body = path_body(path)?;
        body.u32(follow.into());
        let packet = self.call(proto::REQ_STAT, &body, on(path)).await?;
        read_meta(&packet.bytes)
    }

    pub(super) async fn list_dir(&self, path: &[u8]) -> Result<Vec<DirEntry>> {
        let channel = self.ask(proto::REQ_LIST, &path_body(path)?).await?;
        let mut entries = Vec::new();
        loop {
            let packet = channel.answer(on(path)).await?;
            let mut reader = Reader::new(&packet.bytes);
            match reader.u32()? {
                proto::REPLY_OK => break,
                proto::REPLY_ENTRIES => {}
                _ => return Err(malformed()),
            }
            while !reader.at_end() {
                let name = reader.bytes()?.to_vec();
                if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
                    return Err(malformed());
                }
                entries.push(DirEntry {
                    name,
                    meta: meta_fields(&mut reader)?,
                });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    pub(super) async fn make_dir(&self, path: &[u8], mode: u32, parents: bool) -> Result<()> {
        let mut body = path_body(path)?;
        body.u32(mode).u32(parents.into());
        self.call(proto::REQ_MKDIR, &body, on(path)).await.map(drop)
    }

    pub(super) async fn symlink(&self, path: &[u8], target: &[u8]) -> Result<()> {
        packet::no_nul("target", target)?;
        let mut body = path_body(path)?;
        body.cstr(target);
        self.call(proto::REQ_SYMLINK, &body, on(path))
            .await
            .map(drop)
    }

    pub(super) async fn set_attributes(
        &self,
        path: &[u8],
        attributes: crate::Attributes,
    ) -> Result<()> {
        let or_none = |value: Option<u32>| value.unwrap_or(proto::NONE);
        let mut body = path_body(path)?;
        body.u32(or_none(attributes.uid))
            .u32(or_none(attributes.gid))
            .u32(or_none(attributes.mode));
        let (seconds, nanos) = attributes.mtime.map_or((proto::NO_TIME, 0), time_fields);
        body.u64(seconds).u32(nanos);
        self.call(proto::REQ_SETATTR, &body, on(path))
            .await
            .map(drop)
    }

    pub(super) async fn remove(&self, path: &[u8], recursive: bool) -> Result<()> {
        let mut body = path_body(path)?;
        body.u32(recursive.into());
        self.call(proto::REQ_REMOVE, &body, on(path))
            .await
            .map(drop)
    }
}

/// A request that begins with a path.
fn path_body(path: &[u8]) -> Result<Writer> {
    packet::no_nul("path", path)?;
    if path.first() != Some(&b'/') {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "path {:?}: it must begin with /",
                String::from_utf8_lossy(path)
            ),
        ));
    }
    // Trailing slashes say nothing the operation does not say.
    let end = path
        .iter()
        .rposition(|&b| b != b'/')
        .map_or(1, |last| last + 1);
    let mut body = Writer::default();
    body.cstr(&path[..end]);
    Ok(body)
}

/// Makes sure that reading cannot wait for ever and writing goes to a file.
fn regular_file(fd: OwnedFd) -> Result<std::fs::File> {
    let stat = rustix::fs::fstat(&fd).map_err(|e| Error::io("look at the file", e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(malformed());
    }
    Ok(fd.into())
}

/// Seconds (two's complement) and nanoseconds since 1970.
fn time_fields(time: SystemTime) -> (u64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after.as_secs(), after.subsec_nanos()),
        Err(before) => (
            (before.duration().as_secs() as i64).wrapping_neg() as u64,
            0,
        ),
    }
}

fn system_time(seconds: i64, nanos: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds >= 0 {
        UNIX_EPOCH.checked_add(whole)
    } else {
        UNIX_EPOCH.checked_sub(whole)
    };
    time.and_then(|time| time.checked_add(Duration::from_nanos(nanos.into())))
        .unwrap_or(UNIX_EPOCH)
}

fn read_meta(packet: &[u8]) -> Result<FileMeta> {
    let mut reader = Reader::new(packet);
    if reader.u32()? != proto::REPLY_META {
        return Err(malformed());
    }
    meta_fields(&mut reader)
}

fn meta_fields(reader: &mut Reader<'_>) -> Result<FileMeta> {
    let mode = reader.u32()?;
    let (uid, gid, size) = (reader.u32()?, reader.u32()?, reader.u64()?);
    let (seconds, nanos) = (reader.u64()? as i64, reader.u32()?);
    let target = reader.bytes()?;
    let kind = match FileType::from_raw_mode(mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    };
    Ok(FileMeta {
        kind,
        mode: mode & 0o7777,
        uid,
        gid,
        size,
        mtime: system_time(seconds, nanos),
        target: (kind == FileKind::Symlink).then(|| target.to_vec()),
    })
}

/// The status in a packet of process 1.
pub(super) fn read_status(packet: &[u8]) -> Result<Status> {
    let mut reader = Reader::new(packet);
    if reader.u32()? != proto::REPLY_STATUS {
        return Err(malformed());
    }
    let (_version, others, state, status) =
        (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    Ok(Status {
        others,
        main_exit: (state == 2).then(|| exit_status(status)),
    })
}

/// Reads a wait status.
pub(super) fn exit_status(status: u32) -> ExitStatus {
    let signal = (status & 0x7f) as i32;
    if signal == 0 {
        ExitStatus::Code((status >> 8 & 0xff) as i32)
    } else {
        ExitStatus::Signal(signal)
    }
}

fn plain_error(errno: i32, _: u32) -> Error {
    let source = io::Error::from_raw_os_error(errno);
    let kind = match errno {
        libc::ENOENT => Kind::NotFound,
        libc::EAGAIN
        | libc::ENFILE
        | libc::EMFILE
        | libc::ENOMEM
        | libc::ENOSPC
        | libc::EDQUOT
        | libc::EMSGSIZE => Kind::Limit,
        _ => Kind::Io,
    };
    Error::with_source(kind, "the instance refused", source)
}

/// The error of a request on a path.
fn on(path: &[u8]) -> impl Fn(i32, u32) -> Error {
    let path = String::from_utf8_lossy(path).into_owned();
    move |errno, _| {
        let kind = match errno {
            libc::ENOENT => Kind::NotFound,
            libc::EEXIST => Kind::Exists,
            libc::EACCES | libc::EPERM | libc::EROFS => Kind::Denied,
            libc::ENOTDIR
            | libc::EISDIR
            | libc::EINVAL
            | libc::ELOOP
            | libc::ENAMETOOLONG
            | libc::ENOTEMPTY => Kind::Invalid,
            libc::ENOSPC | libc::EDQUOT | libc::EAGAIN | libc::EMFILE | libc::ENFILE => Kind::Limit,
            _ => Kind::Io,
        };
        Error::with_source(kind, path.clone(), io::Error::from_raw_os_error(errno))
    }
}

/// The error of a command that did not start.
pub(super) fn exec_error(errno: i32, place: u32, name: &str) -> Error {
    let source = io::Error::from_raw_os_error(errno);
    let (kind, what) = match (place, errno) {
        (proto::WHERE_COMMAND, libc::ENOENT | libc::ENOTDIR) => {
            (Kind::CommandNotFound, "command not found")
        }
        (proto::WHERE_COMMAND, libc::E2BIG) => (Kind::Limit, "its arguments are too long"),
        (proto::WHERE_COMMAND, _) => (Kind::CannotExecute, "it cannot be run"),
        (proto::WHERE_CWD, _) => (Kind::Invalid, "cwd: the folder cannot be entered"),
        (proto::WHERE_IDS, _) => (Kind::Invalid, "uid, gid: not possible in this instance"),
        (
            proto::WHERE_FORK | proto::WHERE_STREAMS,
            libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOSPC,
        ) => (Kind::Limit, "a limit of the instance is reached"),
        (proto::WHERE_REQUEST, libc::ENFILE) => {
            (Kind::Limit, "too many commands run in the instance")
        }
        _ => (Kind::Io, "it could not be started"),
    };
    Error::with_source(kind, format!("{name}: {what}"), source)
}
