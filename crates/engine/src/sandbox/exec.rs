//! Running commands: streams, control, the console.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::guest::{Channel, exit_status, gone};
use super::packet::{self, Writer};
use super::proto;
use super::ring::Ring;
use super::wire::Reader;
use crate::{BoxFuture, Error, Exec, ExecControl, ExecSpec, ExitStatus, Kind, Result, WinSize};

/// Puts a started command together.
pub(super) fn assemble(
    channel: Channel,
    pid: u32,
    fds: Vec<OwnedFd>,
    spec: &ExecSpec,
    record: Option<Ring>,
) -> Result<Exec> {
    let failed = |e: io::Error| Error::io("use the command's streams", e);
    let missing = || Error::new(Kind::Io, "the instance gave too few streams");
    let mut fds = fds.into_iter();
    if spec.tty.is_some() {
        let master = fds.next().ok_or_else(missing)?;
        let terminal = Arc::new(Terminal::new(master, record).map_err(failed)?);
        return Ok(Exec {
            stdin: Some(Box::new(TerminalEnd(Arc::clone(&terminal)))),
            stdout: Box::new(TerminalEnd(Arc::clone(&terminal))),
            stderr: None,
            control: Box::new(Control::new(channel, pid, Some(terminal))),
        });
    }
    let stdin: Option<crate::BoxWriter> = if spec.stdin {
        let fd = fds.next().ok_or_else(missing)?;
        Some(Box::new(pipe::Sender::from_owned_fd(fd).map_err(failed)?))
    } else {
        None
    };
    let mut output = || -> Result<crate::BoxReader> {
        let fd = fds.next().ok_or_else(missing)?;
        Ok(Box::new(pipe::Receiver::from_owned_fd(fd).map_err(failed)?))
    };
    let (stdout, stderr) = (output()?, output()?);
    Ok(Exec {
        stdin,
        stdout,
        stderr: Some(stderr),
        control: Box::new(Control::new(channel, pid, None)),
    })
}

/// Control over a running command. Process 1 kills the command when the connection closes, if it was asked to.
struct Control {
    pid: u32,
    channel: Arc<Channel>,
    ended: watch::Receiver<Option<Result<ExitStatus, ()>>>,
    waiter: JoinHandle<()>,
    terminal: Option<Arc<Terminal>>,
}

impl Control {
    fn new(channel: Channel, pid: u32, terminal: Option<Arc<Terminal>>) -> Self {
        let channel = Arc::new(channel);
        let (tell, ended) = watch::channel(None);
        let waiting = Arc::clone(&channel);
        let waiter = tokio::spawn(async move {
            let status = match waiting.receive().await {
                Ok(packet) => {
                    let mut reader = Reader::new(&packet.bytes);
                    match (reader.u32(), reader.u32()) {
                        (Ok(proto::REPLY_EXITED), Ok(status)) => Ok(exit_status(status)),
                        _ => Err(()),
                    }
                }
                Err(_) => Err(()),
            };
            tell.send_replace(Some(status));
        });
        Self {
            pid,
            channel,
            ended,
            waiter,
            terminal,
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // It holds the connection.
        self.waiter.abort();
    }
}

impl ExecControl for Control {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn signal(&self, signal: i32) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if !(1..=64).contains(&signal) {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("signal {signal}: 1 to 64 are allowed"),
                ));
            }
            if self.ended.borrow().is_some() {
                return Ok(());
            }
            let mut body = Writer::default();
            body.u32(signal.unsigned_abs());
            match self.channel.send(proto::REQ_SIGNAL, body.as_slice()).await {
                Ok(()) => Ok(()),
                // It has just ended.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => {
                    Ok(())
                }
                Err(e) => Err(Error::io("send a signal", e)),
            }
        })
    }

    fn resize(&self, size: WinSize) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let terminal = self
                .terminal
                .as_ref()
                .ok_or_else(|| Error::new(Kind::Invalid, "the command has no terminal"))?;
            let size = Winsize {
                ws_row: size.rows,
                ws_col: size.cols,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            rustix::termios::tcsetwinsize(terminal.fd.get_ref(), size)
                .map_err(|e| Error::io("resize the terminal", e.into()))
        })
    }

    fn wait(&self) -> BoxFuture<'_, Result<ExitStatus>> {
        let mut ended = self.ended.clone();
        Box::pin(async move {
            let status = ended.wait_for(Option::is_some).await.map_err(|_| gone())?;
            status.and_then(Result::ok).ok_or_else(gone)
        })
    }
}

/// The server's end of a terminal.
struct Terminal {
    fd: AsyncFd<OwnedFd>,
    record: Option<Ring>,
}

impl Terminal {
    fn new(master: OwnedFd, record: Option<Ring>) -> io::Result<Self> {
        if !rustix::termios::isatty(&master) {
            return Err(io::Error::other("not a terminal"));
        }
        let flags = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self {
            fd: packet::register(master)?,
            record,
        })
    }
}

struct TerminalEnd(Arc<Terminal>);

impl AsyncRead for TerminalEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let terminal = &self.0;
        loop {
            let mut guard = ready!(terminal.fd.poll_read_ready(cx))?;
            let read = guard.try_io(|fd| {
                Ok(rustix::io::read(
                    fd.get_ref().as_fd(),
                    buf.initialize_unfilled(),
                )?)
            });
            match read {
                Ok(Ok(n)) => {
                    if let Some(record) = &terminal.record {
                        // A full disk must not end the session.
                        let start = buf.filled().len();
                        let seen = &buf.initialized()[start..start + n];
                        let _ = record.append(seen);
                    }
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // Nobody holds the other end any more: the end of the output.
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for TerminalEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.fd.poll_write_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref().as_fd(), buf)?)) {
                Ok(Err(e)) if e.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The body of an exec request, see `agent/proto.rs`.
pub(super) fn exec_body(
    spec: &crate::ExecSpec,
    environment: &std::collections::BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    if spec.argv.first().is_none_or(Vec::is_empty) {
        return Err(Error::new(Kind::Invalid, "argv: a command is needed"));
    }
    let mut flags = 0;
    if spec.tty.is_some() {
        flags |= proto::EXEC_TTY;
    }
    if spec.stdin {
        flags |= proto::EXEC_STDIN;
    }
    if spec.kill_on_drop {
        flags |= proto::EXEC_KILL;
    }
    let size = spec.tty.unwrap_or_default();
    let mut body = Writer::default();
    body.u32(flags)
        .u32(spec.uid.unwrap_or(0))
        .u32(spec.gid.unwrap_or(0));
    body.u32(size.rows.into()).u32(size.cols.into());
    let cwd = spec.cwd.as_deref().unwrap_or(b"/");
    packet::no_nul("cwd", cwd)?;
    body.cstr(cwd);
    body.u32(spec.argv.len() as u32);
    for argument in &spec.argv {
        packet::no_nul("argv", argument)?;
        body.cstr(argument);
    }
    let mut variables: std::collections::BTreeMap<&str, &str> = std::collections::BTreeMap::new();
    if !spec.clear_env {
        variables.insert(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        variables.insert(
            "HOME",
            if spec.uid.unwrap_or(0) == 0 {
                "/root"
            } else {
                "/"
            },
        );
        if spec.tty.is_some() {
            variables.insert("TERM", "xterm-256color");
        }
        if !rustix::process::geteuid().is_root() {
            // One id is mapped then, and root's tar would fail on an archive of anybody else's files.
            variables.insert("TAR_OPTIONS", "--no-same-owner");
        }
        variables.extend(environment.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    }
    variables.extend(spec.env.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    body.u32(variables.len() as u32);
    for (name, value) in variables {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Error::new(
                Kind::Invalid,
                format!("env: the name {name:?} is empty or contains = or NUL"),
            ));
        }
        packet::no_nul("env", value.as_bytes())?;
        body.cstr(format!("{name}={value}"));
    }
    if body.as_slice().len() > proto::MAX_REQUEST {
        return Err(Error::new(Kind::Limit, "argv and env are too long"));
    }
    Ok(body.as_slice().to_vec())
}
