//! Starting one command, and its control while it runs.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::files::below;
use super::group::{Group, MARKER};
use super::log::Log;
use super::pty::{self, Terminal};
use super::unsupported;
use crate::{
    BoxFuture, BoxWriter, Error, Exec, ExecControl, ExecSpec, ExitStatus, InstanceSpec, Kind,
    Limits, Result, WinSize, check,
};

/// A command that has been started.
pub(super) struct Started {
    pub(super) exec: Exec,
}

/// Starts a command of an instance. What a terminal shows is recorded in `record`.
pub(super) fn start(
    own: &InstanceSpec,
    root: &Path,
    group: &Arc<Group>,
    spec: &ExecSpec,
    record: Option<Log>,
) -> Result<Started> {
    check::argv(&spec.argv)?;
    check::environment(&spec.env)?;
    let is_own = |id: Option<u32>, own: u32| id.is_none_or(|id| id == 0 || id == own);
    // SAFETY: both take nothing and give numbers.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    if !is_own(spec.uid, uid) || !is_own(spec.gid, gid) {
        return Err(unsupported("run as another user"));
    }
    let mut command = Command::new(OsStr::from_bytes(&spec.argv[0]));
    command.args(spec.argv[1..].iter().map(|arg| OsStr::from_bytes(arg)));
    environment(&mut command, own, root, group, spec);
    command.current_dir(working_directory(root, spec.cwd.as_deref())?);
    let master = match spec.tty {
        Some(size) => {
            let (master, slave) =
                pty::open(size).map_err(|error| Error::io("open a terminal", error))?;
            let failed = |error| Error::io("open a terminal", error);
            command.stdin(slave.try_clone().map_err(failed)?);
            command.stdout(slave.try_clone().map_err(failed)?);
            command.stderr(slave);
            Some(master)
        }
        None => {
            command.stdin(if spec.stdin {
                Stdio::piped()
            } else {
                Stdio::null()
            });
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            None
        }
    };
    let terminal = master.is_some();
    let limits = own.limits.clone();
    // SAFETY: the closure runs in the forked child and makes system calls only.
    unsafe {
        command.pre_exec(move || prepare_child(terminal, &limits));
    }
    let child = command
        .spawn()
        .map_err(|error| spawn_error(&spec.argv[0], search_path(own, spec), error))?;
    drop(command);
    take_in(child, master, group, spec, record)
}

fn take_in(
    mut child: Child,
    master: Option<OwnedFd>,
    group: &Arc<Group>,
    spec: &ExecSpec,
    record: Option<Log>,
) -> Result<Started> {
    let gone = || Error::new(Kind::Gone, "the command has ended");
    let pid = child.id().ok_or_else(gone)?;
    let pgid = i32::try_from(pid).map_err(|_| gone())?;
    group.add(pgid);
    let (sender, ended) = watch::channel(None);
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let reaper = Arc::clone(group);
    tokio::spawn(async move {
        let status = child.wait().await;
        reaper.leader_gone(pgid);
        let status = status
            .ok()
            .map(|status| match (status.code(), status.signal()) {
                (Some(code), _) => ExitStatus::Code(code),
                (None, signal) => ExitStatus::Signal(signal.unwrap_or(libc::SIGKILL)),
            });
        sender.send_replace(Some(status));
    });
    let mut control = Control {
        pid,
        pgid,
        group: Arc::clone(group),
        ended,
        terminal: None,
        kill_on_drop: spec.kill_on_drop,
    };
    let exec = match (master, stdout) {
        (Some(master), _) => {
            let terminal = Arc::new(
                Terminal::new(master, record)
                    .map_err(|error| Error::io("use a terminal", error))?,
            );
            control.terminal = Some(Arc::clone(&terminal));
            Exec {
                stdin: Some(Box::new(pty::End(Arc::clone(&terminal)))),
                stdout: Box::new(pty::End(terminal)),
                stderr: None,
                control: Box::new(control),
            }
        }
        (None, Some(stdout)) => Exec {
            stdin: stdin.map(|stdin| Box::new(stdin) as BoxWriter),
            stdout: Box::new(stdout),
            stderr: stderr.map(|stderr| Box::new(stderr) as _),
            control: Box::new(control),
        },
        (None, None) => return Err(gone()),
    };
    Ok(Started { exec })
}

fn environment(
    command: &mut Command,
    own: &InstanceSpec,
    root: &Path,
    group: &Group,
    spec: &ExecSpec,
) {
    command.env_clear();
    if !spec.clear_env {
        // Of the server's own environment only what programs need to be found and to speak.
        for name in ["PATH", "LANG", "LC_ALL", "TZ"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("HOME", root)
            .env("TMPDIR", root.join("tmp"))
            .env("HOSTNAME", &own.hostname);
        if spec.tty.is_some() {
            command.env("TERM", "xterm-256color");
        }
        command.envs(&own.env);
    }
    command.envs(&spec.env);
    command.env(MARKER, group.marker());
}

/// The search path that the command was looked up in.
fn search_path(own: &InstanceSpec, spec: &ExecSpec) -> Option<OsString> {
    let given = spec
        .env
        .get("PATH")
        .or_else(|| own.env.get("PATH").filter(|_| !spec.clear_env));
    given
        .map(OsString::from)
        .or_else(|| std::env::var_os("PATH"))
}

fn working_directory(root: &Path, cwd: Option<&[u8]>) -> Result<PathBuf> {
    let Some(cwd) = cwd else {
        return Ok(root.to_owned());
    };
    let dir = root.join(below(cwd)?);
    if dir.is_dir() {
        return Ok(dir);
    }
    let words = format!(
        "no directory {:?} in the instance",
        String::from_utf8_lossy(cwd)
    );
    Err(Error::new(Kind::NotFound, words))
}

fn spawn_error(command: &[u8], path: Option<OsString>, error: io::Error) -> Error {
    let name = String::from_utf8_lossy(command).into_owned();
    let code = match error.raw_os_error() {
        // Also the answer when a directory of the search path denies access and no other has the
        // command: to a shell that is "not found".
        Some(libc::EACCES) if !command.contains(&b'/') && !in_path(command, path) => {
            Some(libc::ENOENT)
        }
        code => code,
    };
    match code {
        Some(libc::ENOENT | libc::ENOTDIR) => {
            Error::with_source(Kind::CommandNotFound, format!("no command {name:?}"), error)
        }
        Some(libc::EACCES | libc::ENOEXEC | libc::EISDIR | libc::E2BIG) => {
            Error::with_source(Kind::CannotExecute, format!("cannot run {name:?}"), error)
        }
        Some(libc::EAGAIN) => {
            Error::with_source(Kind::Limit, format!("cannot run {name:?}"), error)
        }
        _ => Error::io(format!("run {name:?}"), error),
    }
}

fn in_path(command: &[u8], path: Option<OsString>) -> bool {
    let path = path.unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(OsStr::from_bytes(command)).is_file())
}

/// In the child, between fork and exec: system calls only.
fn prepare_child(terminal: bool, limits: &Limits) -> io::Result<()> {
    // SAFETY: system calls with numbers and pointers to locals.
    unsafe {
        if libc::setsid() < 0 {
            return Err(io::Error::last_os_error());
        }
        if terminal && libc::ioctl(0, libc::TIOCSCTTY as _, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        // A server that was started in the background of a script ignores ^C, and a shell cannot catch what it was born to ignore.
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let limit = |resource, bytes: u64| {
            let value = libc::rlimit {
                rlim_cur: bytes as libc::rlim_t,
                rlim_max: bytes as libc::rlim_t,
            };
            // A limit above the server's own is refused and would not limit anything.
            libc::setrlimit(resource, &value);
        };
        limit(libc::RLIMIT_CORE, 0);
        #[cfg(target_os = "linux")]
        if let Some(bytes) = limits.memory_bytes {
            limit(libc::RLIMIT_DATA, bytes);
        }
        if let Some(bytes) = limits.disk_bytes {
            limit(libc::RLIMIT_FSIZE, bytes);
        }
    }
    Ok(())
}

struct Control {
    pid: u32,
    pgid: i32,
    group: Arc<Group>,
    ended: watch::Receiver<Option<Option<ExitStatus>>>,
    terminal: Option<Arc<Terminal>>,
    kill_on_drop: bool,
}

impl ExecControl for Control {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn signal(&self, signal: i32) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if !(1..=64).contains(&signal) {
                return Err(Error::new(Kind::Invalid, format!("no signal {signal}")));
            }
            // One that has ended is no error.
            self.group.signal(self.pgid, signal);
            Ok(())
        })
    }

    fn resize(&self, size: WinSize) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let terminal = self
                .terminal
                .as_ref()
                .ok_or_else(|| Error::new(Kind::Invalid, "the command has no terminal"))?;
            terminal
                .resize(size)
                .map_err(|error| Error::io("resize the terminal", error))
        })
    }

    fn wait(&self) -> BoxFuture<'_, Result<ExitStatus>> {
        let mut ended = self.ended.clone();
        Box::pin(async move {
            let gone = || Error::new(Kind::Gone, "the command's status is lost");
            let status = ended.wait_for(Option::is_some).await.map_err(|_| gone())?;
            (*status).flatten().ok_or_else(gone)
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if self.kill_on_drop {
            self.group.signal(self.pgid, libc::SIGKILL);
        }
    }
}
