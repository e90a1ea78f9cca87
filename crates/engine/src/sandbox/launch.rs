//! Starting an instance: runs the stage with a plan and follows it until process 1 serves.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::builtin::HostFolder;
use super::ids::RANGE;
use super::packet;
use super::plan::{self, Plan, attr};
use super::wire::Reader;
use super::{agent, layout, proto};
use crate::cgroup::Group;
use crate::net::{self, Protocol};
use crate::{Error, Kind};

/// Longest the stage may take for one step.
const PATIENCE: Duration = Duration::from_secs(20);

/// Name of process 1's socket in an instance's folder.
pub(super) const SOCKET_NAME: &str = "agent.sock";

/// What to start.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    /// The instance's folder: the socket is made here, and `mnt` in it is where the root is put together.
    pub(super) dir: &'a Path,
    /// The folder with `upper` and `work`.
    pub(super) rw: &'a Path,
    /// Read-only layers, the uppermost first.
    pub(super) layers: &'a [PathBuf],
    /// Folders of the host to show.
    pub(super) host: &'a [HostFolder],
    /// Host name inside.
    pub(super) hostname: &'a str,
    /// First id of the instance's range; `None` maps its root to the server's own user.
    pub(super) range: Option<u32>,
    /// The control group to join, if there is one.
    pub(super) group: Option<&'a Group>,
    /// Transparent egress, else loopback only.
    pub(super) egress: bool,
    /// The log of the main process.
    pub(super) log: Option<OwnedFd>,
    /// The main process: an exec body.
    pub(super) main: Option<Vec<u8>>,
}

/// A started instance.
#[derive(Debug)]
pub(super) struct Launched {
    /// Process 1 on the host.
    pub(super) pid: u32,
    /// Its descriptor.
    pub(super) pidfd: OwnedFd,
    /// Sockets of the egress dialler by their place in [`net::LISTENERS`].
    pub(super) sockets: Vec<(u32, OwnedFd)>,
    /// What was done, in order.
    pub(super) steps: Vec<String>,
}

/// Why a stage failed.
#[derive(Debug)]
pub(super) struct LaunchError {
    /// What it was doing.
    pub(super) step: String,
    /// The kernel's answer.
    pub(super) error: io::Error,
    /// Where a main process failed (`WHERE_`), else 0.
    pub(super) place: u32,
    /// What had worked before, in order.
    pub(super) done: Vec<String>,
}

impl LaunchError {
    fn new(step: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Self {
            step: step.into(),
            error: error.into(),
            place: 0,
            done: Vec::new(),
        }
    }
}

impl From<LaunchError> for Error {
    fn from(failed: LaunchError) -> Self {
        if failed.place != 0 {
            let errno = failed.error.raw_os_error().unwrap_or(libc::EIO);
            return super::guest::exec_error(errno, failed.place, "the main process");
        }
        let kind = match failed.error.raw_os_error() {
            Some(
                libc::ENOSPC
                | libc::EDQUOT
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOMEM
                | libc::EAGAIN,
            ) => Kind::Limit,
            Some(libc::EPERM | libc::EACCES | libc::EINVAL | libc::ENOSYS | libc::EUSERS) => {
                Kind::NotPermittedHere
            }
            _ => Kind::Io,
        };
        Error::with_source(
            kind,
            format!(
                "starting the instance failed at the step \"{}\"",
                failed.step
            ),
            failed.error,
        )
    }
}

fn texts(names: &[std::borrow::Cow<'static, str>]) -> Vec<String> {
    names.iter().map(|name| name.clone().into_owned()).collect()
}

fn at(step: &'static str) -> impl Fn(Errno) -> LaunchError {
    move |errno| LaunchError::new(step, errno)
}

/// Starts an instance. Blocks for milliseconds.
pub(super) fn launch(spec: &Launch<'_>) -> std::result::Result<Launched, LaunchError> {
    let program =
        agent::program().map_err(|e| LaunchError::new("make the agent's memory file", e))?;
    let listener = bind(spec.dir).map_err(at("make the agent's socket"))?;
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(at("make a socket pair"))?;
    rustix::net::sockopt::set_socket_timeout(&ours, Timeout::Recv, Some(PATIENCE))
        .map_err(at("make a socket pair"))?;
    let plan = layout::write_plan(spec);
    let mut stage = Stage::spawn(program, theirs)?;
    if let Some(group) = spec.group {
        group
            .add(stage.child.id())
            .map_err(|e| LaunchError::new("join the control group", io::Error::other(e)))?;
    }
    let file = packet::sealed_file("boxrig-plan", plan.0.bytes(), false)
        .map_err(|e| LaunchError::new("write the plan", e))?;
    let mut fds = vec![file.as_fd(), listener.as_fd(), program.as_fd()];
    fds.extend(spec.log.as_ref().map(AsFd::as_fd));
    packet::send(&ours, &[0; 4], &fds).map_err(at("send the plan"))?;
    drop(listener);
    let result = follow(spec, &plan.0, plan.1, &ours, &mut stage);
    if result.is_err() {
        stage.abandon();
    }
    result
}

/// The socket of process 1, bound and not yet listening. Long paths work, because the folder is named by descriptor.
fn bind(dir: &Path) -> std::result::Result<OwnedFd, Errno> {
    let folder = rustix::fs::open(
        dir,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    match rustix::fs::unlinkat(&folder, SOCKET_NAME, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::bind(&socket, &socket_address(&folder)?)?;
    Ok(socket)
}

/// The address of process 1's socket in an open folder.
pub(super) fn socket_address(folder: &OwnedFd) -> std::result::Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!(
        "/proc/self/fd/{}/{SOCKET_NAME}",
        folder.as_raw_fd()
    ))
}

/// The stage's process, collected when it is done.
struct Stage {
    child: Child,
    first: Option<(u32, OwnedFd)>,
}

impl Stage {
    fn spawn(program: BorrowedFd<'_>, socket: OwnedFd) -> std::result::Result<Self, LaunchError> {
        // To be read as well: it becomes the standard input of commands that are given none.
        let null = fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(|e| LaunchError::new("open /dev/null", e))?;
        let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0(proto::STAGE_NAME)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(socket))
            .stdout(Stdio::from(null))
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| LaunchError::new("run the agent from memory", e))?;
        Ok(Self { child, first: None })
    }

    /// Ends what has been started and waits for it.
    fn abandon(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some((_, pidfd)) = &self.first {
            end_process(pidfd);
        }
    }
}

/// Kills a process by descriptor and waits until it is gone; collects it if it is our child.
pub(super) fn end_process(pidfd: &OwnedFd) {
    let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
    let mut poll = [rustix::event::PollFd::new(
        pidfd,
        rustix::event::PollFlags::IN,
    )];
    let timeout = rustix::event::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let _ = rustix::event::poll(&mut poll, Some(&timeout));
    collect(pidfd);
}

/// Collects an ended process if it is our child.
pub(super) fn collect(pidfd: &OwnedFd) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), options);
}

fn follow(
    spec: &Launch<'_>,
    plan: &Plan,
    trees: Vec<Tree>,
    socket: &OwnedFd,
    stage: &mut Stage,
) -> std::result::Result<Launched, LaunchError> {
    let mut sockets = Vec::new();
    let mut trees = trees.into_iter();
    let mut mapped = false;
    let malformed = || LaunchError::new("talk to the agent", Errno::PROTO);
    loop {
        let mut packet = packet::receive(socket).map_err(|errno| {
            let errno = if errno == Errno::AGAIN {
                Errno::TIMEDOUT
            } else {
                errno
            };
            LaunchError::new("wait for the agent", errno)
        })?;
        if packet.bytes.is_empty() {
            return Err(LaunchError::new(
                "wait for the agent",
                io::Error::other("it ended without a word"),
            ));
        }
        let mut reader = Reader::new(&packet.bytes);
        match reader.u32() {
            Ok(proto::STAGE_SYNC) => {
                let pid = stage.child.id();
                if !mapped {
                    mapped = true;
                    write_maps(spec, pid)?;
                }
                let mut fds = Vec::new();
                for tree in trees.by_ref().take(proto::MAX_FDS) {
                    fds.push(tree.open(pid)?);
                }
                let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                packet::send(socket, &[0; 4], &borrowed).map_err(at("talk to the agent"))?;
            }
            Ok(proto::STAGE_PID) => {
                let (Ok(pid), Some(pidfd)) = (reader.u32(), packet.fds.pop()) else {
                    return Err(malformed());
                };
                stage.first = Some((pid, pidfd));
                let _ = stage.child.wait();
            }
            Ok(proto::STAGE_SOCKET) => {
                let (Ok(key), Some(fd)) = (reader.u32(), packet.fds.pop()) else {
                    return Err(malformed());
                };
                sockets.push((key, fd));
            }
            Ok(proto::STAGE_READY) => {
                // Process 1 may be quicker than the stage that reports it.
                while stage.first.is_none() {
                    let mut packet = packet::receive(socket).map_err(at("wait for the agent"))?;
                    let mut reader = Reader::new(&packet.bytes);
                    match (reader.u32(), reader.u32(), packet.fds.pop()) {
                        (Ok(proto::STAGE_PID), Ok(pid), Some(pidfd)) => {
                            stage.first = Some((pid, pidfd))
                        }
                        _ => return Err(malformed()),
                    }
                }
                let _ = stage.child.wait();
                let (pid, pidfd) = stage.first.take().ok_or_else(malformed)?;
                return Ok(Launched {
                    pid,
                    pidfd,
                    sockets,
                    steps: texts(plan.names()),
                });
            }
            Ok(proto::STAGE_FAILED) => {
                let (Ok(index), Ok(errno), Ok(place)) = (reader.u32(), reader.u32(), reader.u32())
                else {
                    return Err(malformed());
                };
                let errno = i32::try_from(errno).unwrap_or(libc::EIO);
                let done = usize::try_from(index).unwrap_or(0).min(plan.names().len());
                return Err(LaunchError {
                    step: plan.name(index).into_owned(),
                    error: io::Error::from_raw_os_error(errno),
                    place,
                    done: texts(&plan.names()[..done]),
                });
            }
            _ => return Err(malformed()),
        }
    }
}

/// Gives the stage's user namespace its range of ids.
fn write_maps(spec: &Launch<'_>, pid: u32) -> std::result::Result<(), LaunchError> {
    let Some(first) = spec.range else {
        return Ok(());
    };
    for file in ["uid_map", "gid_map"] {
        fs::write(
            format!("/proc/{pid}/{file}"),
            format!("0 {first} {RANGE}\n"),
        )
        .map_err(|e| LaunchError::new("map a range of user ids", e))?;
    }
    Ok(())
}

/// A folder that the server opens for the stage, with its ids mapped.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) path: PathBuf,
    /// Read-only for ever, without devices and set-uid programs.
    pub(super) host: bool,
    /// With the mounts below it.
    pub(super) recursive: bool,
}

impl Tree {
    fn open(&self, stage: u32) -> std::result::Result<OwnedFd, LaunchError> {
        let failed = |what: &str, errno: io::Error| {
            LaunchError::new(format!("{what} {}", self.path.display()), errno)
        };
        let recursive = if self.recursive {
            plan::TREE_RECURSIVE
        } else {
            0
        };
        let fd = open_tree(&self.path, recursive).map_err(|e| failed("open the folder", e))?;
        let users = fs::File::open(format!("/proc/{stage}/ns/user"))
            .map_err(|e| failed("map the ids of", e))?;
        let restrict = if self.host {
            attr::RDONLY | attr::NOSUID | attr::NODEV
        } else {
            attr::NODEV
        };
        let mapped = mount_setattr(
            &fd,
            self.recursive,
            restrict | attr::IDMAP,
            Some(users.as_fd()),
        );
        match mapped {
            // Some file systems cannot map ids. What is only read then seems to belong to nobody.
            Err(_) if self.host => mount_setattr(&fd, self.recursive, restrict, None),
            other => other,
        }
        .map_err(|e| failed("map the ids of", e))?;
        Ok(fd)
    }
}

fn open_tree(path: &Path, flags: u32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = plan::TREE_CLONE | flags | libc::O_CLOEXEC as u32;
    // SAFETY: a valid C string; the call makes a new descriptor or fails.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor the kernel just gave us, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn mount_setattr(
    fd: &OwnedFd,
    recursive: bool,
    set: u64,
    users: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let attributes = [set, 0, 0, users.map_or(0, |fd| fd.as_raw_fd() as u64)];
    let flags = libc::AT_EMPTY_PATH as u32 | if recursive { plan::TREE_RECURSIVE } else { 0 };
    // SAFETY: an empty C string and a `struct mount_attr` of its first version (32 bytes).
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The dialler's sockets from what the agent gave.
pub(super) fn egress_listeners(sockets: Vec<(u32, OwnedFd)>) -> net::EgressListeners {
    let mut listeners = net::EgressListeners::default();
    for (key, fd) in sockets {
        match net::LISTENERS
            .get(key as usize)
            .map(|listener| listener.protocol)
        {
            Some(Protocol::Tcp) => listeners.tcp.push(fd.into()),
            Some(_) => listeners.dns.push(fd.into()),
            None => {}
        }
    }
    listeners
}
