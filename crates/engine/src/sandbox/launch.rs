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
use super::packet::{self, Writer};
use super::plan::{self, Plan, attr, ms, new};
use super::wire::Reader;
use super::{agent, proto, seccomp};
use crate::cgroup::Group;
use crate::net::{self, Protocol};
use crate::{Error, Kind, Result};

/// Longest the stage may take for one step.
const PATIENCE: Duration = Duration::from_secs(20);

/// Capabilities that stay within reach of an instance's root, by number: chown, dac_override, fowner, fsetid,
/// kill, setgid, setuid, setpcap, net_bind_service, sys_chroot, sys_ptrace, setfcap. What is left out would open
/// parts of the kernel (net_admin: the egress rules; net_raw, sys_admin, mknod, sys_module…).
const CAPABILITIES: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 10
    | 1 << 18
    | 1 << 19
    | 1 << 31;

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

/// `RLIMIT_` of asm-generic/resource.h; C libraries disagree about the type.
const RLIMIT_CORE: u32 = 4;
const RLIMIT_NOFILE: u32 = 7;

/// Slots of the first packet.
const SLOT_LISTENER: u32 = 0;
const SLOT_PROGRAM: u32 = 1;
const SLOT_LOG: u32 = 2;

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
    let plan = write_plan(spec);
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
        let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0(proto::STAGE_NAME)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
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
struct Tree {
    path: PathBuf,
    /// Read-only for ever, without devices and set-uid programs.
    host: bool,
    recursive: bool,
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

/// Writes the plan, and says which folders the server opens for it.
fn write_plan(spec: &Launch<'_>) -> (Plan, Vec<Tree>) {
    let ranges = spec.range.is_some();
    let mut plan = Plan::new(if spec.log.is_some() { 3 } else { 2 });
    plan.rlimit(RLIMIT_NOFILE, 1024);
    plan.rlimit(RLIMIT_CORE, 0);
    plan.unshare("make a user namespace", new::USER);
    plan.unshare(
        "make mount, pid, net, uts, ipc and cgroup namespaces",
        new::OTHERS,
    );
    let mut trees: Vec<Tree> = spec
        .layers
        .iter()
        .map(|layer| Tree {
            path: layer.clone(),
            host: false,
            recursive: false,
        })
        .collect();
    trees.push(Tree {
        path: spec.rw.to_owned(),
        host: false,
        recursive: false,
    });
    trees.extend(spec.host.iter().map(|folder| Tree {
        path: folder.path.clone(),
        host: true,
        recursive: folder.has_mounts,
    }));
    let mut slots = Vec::new();
    if ranges {
        for group in trees.chunks(proto::MAX_FDS) {
            let first = plan.sync("map user ids", group.len() as u32);
            slots.extend(first..first + group.len() as u32);
        }
    } else {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        plan.write("map user ids", "/proc/self/setgroups", "deny");
        plan.write(
            "map user ids",
            "/proc/self/uid_map",
            &format!("0 {uid} 1\n"),
        );
        plan.write(
            "map user ids",
            "/proc/self/gid_map",
            &format!("0 {gid} 1\n"),
        );
    }
    plan.mount(
        "make mounts private",
        "none",
        "/",
        "",
        ms::REC | ms::PRIVATE,
        "",
    );
    if !ranges {
        for tree in &trees {
            let recursive = if tree.recursive {
                plan::TREE_RECURSIVE
            } else {
                0
            };
            let slot = plan.open_tree(
                tree.path.as_os_str().as_bytes(),
                plan::TREE_CLONE | recursive,
            );
            if tree.host {
                plan.set_attributes(
                    slot,
                    tree.recursive,
                    attr::RDONLY | attr::NOSUID | attr::NODEV,
                );
            }
            slots.push(slot);
        }
        trees.clear();
    }
    // A small file system to build on; the paths below are relative to it.
    let scratch = spec.dir.join("mnt");
    let scratch = scratch.as_os_str().as_bytes();
    plan.mount(
        "mount a tmpfs",
        "none",
        scratch,
        "tmpfs",
        ms::NOSUID | ms::NODEV,
        "mode=755,uid=0,gid=0,size=64k",
    );
    plan.chdir(scratch);
    plan.ids(ranges);
    mount_root(&mut plan, spec, &slots);
    plan.fork();
    mount_kernel_parts(&mut plan);
    plan.pivot("root");
    for path in HIDDEN {
        plan.mask(path);
    }
    for path in READ_ONLY {
        plan.read_only(path);
    }
    for folder in ["/usr", "/usr/local", "/usr/local/bin"] {
        plan.mkdir(folder, 0o755);
    }
    plan.install(
        "/usr/local/bin/curl",
        SLOT_PROGRAM,
        &["/usr/bin/curl", "/bin/curl", "/usr/local/bin/curl"],
    );
    plan.hostname(spec.hostname);
    network(&mut plan, spec.egress);
    plan.session();
    plan.undumpable();
    plan.bound(CAPABILITIES);
    plan.seccomp(&seccomp::program());
    if spec.log.is_some() {
        plan.log(SLOT_LOG);
    }
    if let Some(body) = &spec.main {
        plan.main(body);
    }
    plan.serve(SLOT_LISTENER);
    (plan, trees)
}

/// The layers as one file system at `root`, and the host's folders in it.
fn mount_root(plan: &mut Plan, spec: &Launch<'_>, slots: &[u32]) {
    let layers = spec.layers.len();
    let mut lower = String::new();
    for (index, &slot) in slots.iter().take(layers).enumerate() {
        let name = format!("l{index}");
        plan.mkdir(&name, 0o755);
        plan.move_mount(slot, &name);
        if index > 0 {
            lower.push(':');
        }
        lower.push_str(&name);
    }
    plan.mkdir("rw", 0o755);
    plan.move_mount(slots[layers], "rw");
    plan.mkdir("root", 0o755);
    let options = format!("lowerdir={lower},upperdir=rw/upper,workdir=rw/work,userxattr");
    plan.mount(
        "mount the overlay file system",
        "overlay",
        "root",
        "overlay",
        ms::NODEV,
        &options,
    );
    for (folder, &slot) in spec.host.iter().zip(&slots[layers + 1..]) {
        // The instance's own folders inside the host's: taken out before they are covered, put on top after.
        let own: Vec<(u32, String)> = folder
            .own
            .iter()
            .map(|name| {
                let path = format!("root{name}");
                (plan.open_tree(path.as_bytes(), plan::TREE_CLONE), path)
            })
            .collect();
        plan.move_mount(slot, &format!("root{}", folder.path.display()));
        for (slot, path) in own {
            plan.move_mount(slot, &path);
        }
    }
}

/// /proc, /dev and what is in it; needs to be in the new pid namespace.
fn mount_kernel_parts(plan: &mut Plan) {
    let quiet = ms::NOSUID | ms::NODEV | ms::NOEXEC;
    for folder in ["root/proc", "root/dev", "root/sys"] {
        plan.mkdir(folder, 0o755);
    }
    plan.mount("mount /proc", "proc", "root/proc", "proc", quiet, "");
    plan.mount(
        "mount /dev",
        "none",
        "root/dev",
        "tmpfs",
        ms::NOSUID | ms::NOEXEC,
        "mode=755,size=64k",
    );
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        plan.device(&format!("/dev/{name}"), &format!("root/dev/{name}"));
    }
    plan.mkdir("root/dev/pts", 0o755);
    plan.mount(
        "mount /dev/pts",
        "devpts",
        "root/dev/pts",
        "devpts",
        ms::NOSUID | ms::NOEXEC,
        "newinstance,ptmxmode=0666,mode=620",
    );
    plan.mkdir("root/dev/shm", 0o1777);
    plan.mount(
        "mount /dev/shm",
        "none",
        "root/dev/shm",
        "tmpfs",
        quiet,
        "mode=1777",
    );
    for (target, name) in [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        plan.symlink(target, &format!("root/dev/{name}"));
    }
}

/// Parts of /proc that tell about the host.
const HIDDEN: [&str; 8] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/kallsyms",
    "/proc/acpi",
    "/proc/scsi",
    "/proc/key-users",
];
/// Parts of /proc that change the host.
const READ_ONLY: [&str; 5] = [
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/irq",
    "/proc/bus",
    "/proc/fs",
];

fn network(plan: &mut Plan, egress: bool) {
    let requests = if egress {
        net::setup()
    } else {
        net::loopback_setup()
    };
    for request in &requests {
        plan.netlink(request);
    }
    if egress {
        for (key, listener) in (0..).zip(&net::LISTENERS) {
            plan.socket(key, listener);
        }
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
