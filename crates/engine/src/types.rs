//! The values that go into and come out of an [`crate::Engine`].

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::net::EgressPolicy;
use crate::{InstanceId, SnapshotId};

/// The image that needs no download: the host's `/usr` read-only and a made-up rest.
pub const BASE_IMAGE: &str = "boxrig/base";

/// The image without any file. Nothing of its own can run in it; a Dockerfile starts from it.
pub const SCRATCH_IMAGE: &str = "scratch";

/// How far an engine keeps its instances from the host and from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Isolation {
    /// Nothing runs at all (the simulation).
    Simulated,
    /// None: ordinary processes of the server's own user.
    None,
    /// Kernel namespaces: own users, mounts, processes, network. One shared kernel.
    Namespaces,
    /// A kernel of its own.
    Machine,
}

/// What an engine can do here, on this machine, as this user. A call outside it fails with
/// [`crate::Kind::Unsupported`] before anything happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// How far instances are kept apart.
    pub isolation: Isolation,
    /// Commands can be run.
    pub exec: bool,
    /// Commands and the console can have a terminal.
    pub pty: bool,
    /// Files can be read and written.
    pub files: bool,
    /// [`crate::Engine::pause`] stops every process of the instance.
    pub pause: bool,
    /// Snapshots, restores and clones of the file system.
    pub snapshot: bool,
    /// A snapshot of a running instance keeps the memory of its processes.
    pub memory_in_snapshot: bool,
    /// [`crate::NetworkPolicy::Egress`] is enforced.
    pub egress: bool,
    /// [`crate::Engine::connect`] and [`crate::Engine::listen`] work.
    pub ports: bool,
    /// Root file systems can be imported.
    pub images: bool,
    /// Running instances outlive the server's process.
    pub survives_restart: bool,
    /// Which limits the kernel enforces for a whole instance.
    pub limits: EnforcedLimits,
}

impl Capabilities {
    /// Nothing but the isolation; an engine switches on what it has.
    pub fn none(isolation: Isolation) -> Self {
        Self {
            isolation,
            exec: false,
            pty: false,
            files: false,
            pause: false,
            snapshot: false,
            memory_in_snapshot: false,
            egress: false,
            ports: false,
            images: false,
            survives_restart: false,
            limits: EnforcedLimits::default(),
        }
    }
}

/// Per limit: does the kernel enforce it for the whole instance? `false` means the number is kept
/// and reported, and nothing more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcedLimits {
    /// [`Limits::memory_bytes`].
    pub memory: bool,
    /// [`Limits::cpus`].
    pub cpus: bool,
    /// [`Limits::pids`].
    pub pids: bool,
    /// [`Limits::disk_bytes`].
    pub disk: bool,
}

/// What an instance may use. `None` means no limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Memory of all its processes together, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processor time, in processors (0.5 is half of one).
    pub cpus: Option<f64>,
    /// Number of processes and threads.
    pub pids: Option<u64>,
    /// Bytes written over the image.
    pub disk_bytes: Option<u64>,
}

/// What an instance's processes may reach.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPolicy {
    /// Only the instance's own loopback.
    None,
    /// Outgoing connections by the server's dialler, which refuses the host and its neighbours.
    Egress(EgressPolicy),
    /// Outgoing connections with the dialler's default rules.
    #[default]
    Default,
}

/// What an instance's file system starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An image by name; [`BASE_IMAGE`] is always there.
    Image(String),
    /// A snapshot.
    Snapshot(SnapshotId),
    /// The present files of another instance (a clone; its processes start anew).
    Instance(InstanceId),
}

/// The process an instance is for. Its output is the instance's log. An instance without one idles.
/// When it ends, the instance keeps running, and its exit status is in [`InstanceInfo::main_exit`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MainProcess {
    /// Command and arguments; the command is looked up in the instance's `PATH`.
    pub argv: Vec<Vec<u8>>,
    /// Variables on top of the instance's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; `/` when `None`.
    #[serde(default)]
    pub cwd: Option<Vec<u8>>,
    /// User id inside; 0 when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group id inside; 0 when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// What to create.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// The name. A taken one gives [`crate::Kind::Exists`].
    pub id: InstanceId,
    /// Host name seen inside, 1 to 63 bytes of `A-Za-z0-9.-`.
    pub hostname: String,
    /// The caller's own notes, returned unchanged.
    pub labels: BTreeMap<String, String>,
    /// Where its files come from.
    pub source: Source,
    /// Environment of every command in it.
    pub env: BTreeMap<String, String>,
    /// What it may use.
    pub limits: Limits,
    /// What it may reach.
    pub network: NetworkPolicy,
    /// The process it is for.
    pub main: Option<MainProcess>,
}

impl InstanceSpec {
    /// An idle instance of the built-in image, named `id` inside and outside.
    pub fn new(id: InstanceId) -> Self {
        Self {
            hostname: id.as_str().chars().take(63).collect(),
            id,
            labels: BTreeMap::new(),
            source: Source::Image(BASE_IMAGE.to_owned()),
            env: BTreeMap::new(),
            limits: Limits::default(),
            network: NetworkPolicy::default(),
            main: None,
        }
    }
}

/// Where an instance is in its life. There is no "creating": a creation that has not answered does
/// not exist yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum InstanceState {
    /// Processes can run in it.
    Running,
    /// Its processes exist and do not run.
    Paused,
    /// No process; its files are kept.
    Stopped,
    /// It ended without being asked to (killed, out of memory, machine restarted); see
    /// [`InstanceInfo::reason`]. Its files are kept; it can be started or deleted.
    Failed,
}

/// What is known of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InstanceInfo {
    /// What was asked for.
    pub spec: InstanceSpec,
    /// Where it is in its life.
    pub state: InstanceState,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it last started.
    pub started_at: Option<SystemTime>,
    /// Why it is in [`InstanceState::Failed`], in words.
    pub reason: Option<String>,
    /// Which of its limits are enforced.
    pub enforced: EnforcedLimits,
    /// How its main process ended, if it has.
    pub main_exit: Option<ExitStatus>,
    /// The host's process id of its first process, while it runs.
    pub host_pid: Option<u32>,
}

impl InstanceInfo {
    /// A fresh instance in `state`, created now.
    pub fn new(spec: InstanceSpec, state: InstanceState, created_at: SystemTime) -> Self {
        Self {
            spec,
            state,
            created_at,
            started_at: None,
            reason: None,
            enforced: EnforcedLimits::default(),
            main_exit: None,
            host_pid: None,
        }
    }

    /// Its name.
    pub fn id(&self) -> &InstanceId {
        &self.spec.id
    }
}

/// How to stop an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StopMode {
    /// Time between `SIGTERM` to all processes and the end of all; `None` ends them at once.
    pub grace: Option<Duration>,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WinSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

impl Default for WinSize {
    fn default() -> Self {
        Self { rows: 24, cols: 80 }
    }
}

/// A command to run in an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSpec {
    /// Command and arguments; not given to a shell. The command is looked up in `PATH`.
    pub argv: Vec<Vec<u8>>,
    /// Variables on top of the instance's environment.
    pub env: BTreeMap<String, String>,
    /// Start with an empty environment instead of the instance's.
    pub clear_env: bool,
    /// Working directory; `/` when `None`.
    pub cwd: Option<Vec<u8>>,
    /// User id inside; 0 when `None`.
    pub uid: Option<u32>,
    /// Group id inside; 0 when `None`.
    pub gid: Option<u32>,
    /// A terminal of this size instead of pipes.
    pub tty: Option<WinSize>,
    /// A pipe as standard input (always with a terminal); else `/dev/null`.
    pub stdin: bool,
    /// Kill the command's process group when the [`crate::Exec`] is dropped before it ended.
    pub kill_on_drop: bool,
}

impl ExecSpec {
    /// `argv` as root in `/`, pipes for output, no input, killed on drop.
    pub fn new<I, A>(argv: I) -> Self
    where
        I: IntoIterator<Item = A>,
        A: Into<Vec<u8>>,
    {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            clear_env: false,
            cwd: None,
            uid: None,
            gid: None,
            tty: None,
            stdin: false,
            kill_on_drop: true,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It exited with this code (0 to 255).
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl ExitStatus {
    /// What a shell shows: the code, or 128 plus the signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// It exited with code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, fifo or socket.
    Other,
}

/// What is known of a file in an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits (0o7777).
    pub mode: u32,
    /// Owner inside the instance.
    pub uid: u32,
    /// Group inside the instance.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: SystemTime,
    /// Where a symbolic link points.
    pub target: Option<Vec<u8>>,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name: one path segment, any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// What it is; a symbolic link is not followed.
    pub meta: FileMeta,
}

/// How to write a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Permission bits of a new file; 0o644 when `None`. Given, it is also set on an existing one.
    pub mode: Option<u32>,
    /// Owner to set.
    pub uid: Option<u32>,
    /// Group to set.
    pub gid: Option<u32>,
    /// Time of last change to set.
    pub mtime: Option<SystemTime>,
    /// Make missing parent directories (0o755).
    pub parents: bool,
    /// Add to the end instead of replacing. Without it the new content appears at once and whole
    /// (temporary file and rename), or not at all.
    pub append: bool,
}

/// A snapshot to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSpec {
    /// The name. A taken one gives [`crate::Kind::Exists`].
    pub id: SnapshotId,
    /// The caller's own notes, returned unchanged.
    pub labels: BTreeMap<String, String>,
}

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// What was asked for.
    pub spec: SnapshotSpec,
    /// The instance it was made of (which may be gone).
    pub instance: InstanceId,
    /// When.
    pub created_at: SystemTime,
    /// Bytes it holds beyond what it shares with its image.
    pub bytes: u64,
}

impl SnapshotInfo {
    /// A snapshot as it is reported.
    pub fn new(
        spec: SnapshotSpec,
        instance: InstanceId,
        created_at: SystemTime,
        bytes: u64,
    ) -> Self {
        Self {
            spec,
            instance,
            created_at,
            bytes,
        }
    }
}

/// What is known of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageInfo {
    /// Its name.
    pub name: String,
    /// Digest of what was imported (`sha256:…`); `None` for the built-in image.
    pub digest: Option<String>,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was imported or made.
    pub created_at: SystemTime,
    /// How its maker meant it to be run; empty for what was imported without any word of that.
    #[serde(default)]
    pub config: ImageConfig,
}

/// How an image is meant to be run. The engine keeps it and does not act on it: whoever makes an instance takes
/// from it what it wants (the environment, the user, the command of [`ImageConfig::argv`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// Variables, in the order they were set; each name once.
    pub env: Vec<(String, String)>,
    /// The folder commands run in; `/` when `None`.
    pub workdir: Option<String>,
    /// The user as it was written (`name`, `id`, `name:group`).
    pub user: Option<String>,
    /// The user's id, looked up when the image was made.
    pub uid: Option<u32>,
    /// The group's id, looked up when the image was made.
    pub gid: Option<u32>,
    /// What every command is put behind.
    pub entrypoint: Option<Vec<String>>,
    /// The command when none is given; arguments of the entry point if there is one.
    pub cmd: Option<Vec<String>>,
    /// Ports that its services listen on, as `8080/tcp`.
    pub exposed: Vec<String>,
    /// Free-form pairs.
    pub labels: BTreeMap<String, String>,
    /// Folders whose content is meant to outlive an instance. Nothing is mounted for it.
    pub volumes: Vec<String>,
    /// The signal that asks its main process to end.
    pub stop_signal: Option<String>,
    /// What commands in shell form are given to; `/bin/sh -c` when `None`.
    pub shell: Option<Vec<String>>,
    /// The health check as it was written. Nothing runs it here.
    pub healthcheck: Option<String>,
}

impl ImageConfig {
    /// The whole command: the entry point, then `command` or else the image's own. `None` when there is nothing
    /// to run.
    pub fn argv(&self, command: Option<&[String]>) -> Option<Vec<String>> {
        let entry = self.entrypoint.iter().flatten();
        let rest = command.or(self.cmd.as_deref()).into_iter().flatten();
        let argv: Vec<String> = entry.chain(rest).cloned().collect();
        (!argv.is_empty()).then_some(argv)
    }

    /// Sets a variable, in its old place if it has one.
    pub fn set_env(&mut self, name: &str, value: &str) {
        match self.env.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.to_owned(),
            None => self.env.push((name.to_owned(), value.to_owned())),
        }
    }
}

impl ImageInfo {
    /// An image as it is reported.
    pub fn new(
        name: impl Into<String>,
        digest: Option<String>,
        bytes: u64,
        created_at: SystemTime,
    ) -> Self {
        Self {
            name: name.into(),
            digest,
            bytes,
            created_at,
            config: ImageConfig::default(),
        }
    }
}

/// What to change of a file's or folder's attributes; what is `None` stays. A symbolic link is not followed, and
/// only its owner can be changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Owner inside the instance.
    pub uid: Option<u32>,
    /// Group inside the instance.
    pub gid: Option<u32>,
    /// Permission bits (0o7777).
    pub mode: Option<u32>,
    /// Time of last change.
    pub mtime: Option<SystemTime>,
}

/// Which record of an instance to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogSource {
    /// Standard output and error of the main process.
    #[default]
    Main,
    /// What the console showed.
    Console,
}

/// Which part of a log to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Which log.
    pub source: LogSource,
    /// Start at this offset (bytes since the log began). An offset that has been dropped by the size
    /// limit starts at the oldest byte kept.
    pub since: Option<u64>,
    /// Start this many lines before the end. Ignored with `since`.
    pub tail: Option<u64>,
    /// Wait for more at the end, until the instance stops.
    pub follow: bool,
}

/// What an instance uses now. `None` means not known here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// Processor time used since it started.
    pub cpu_time: Option<Duration>,
    /// Memory in use, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes written over the image.
    pub disk_bytes: Option<u64>,
    /// Bytes that left by the dialler.
    pub net_sent_bytes: Option<u64>,
    /// Bytes that came in by the dialler.
    pub net_received_bytes: Option<u64>,
}

/// Something that happened to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineEvent {
    /// Which instance.
    pub id: InstanceId,
    /// What.
    pub kind: EventKind,
    /// When.
    pub at: SystemTime,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// It exists and runs.
    Created,
    /// It runs again.
    Started,
    /// It was stopped.
    Stopped,
    /// It was frozen.
    Paused,
    /// It was thawed.
    Resumed,
    /// It is gone.
    Deleted,
    /// It ended without being asked to; the words say why.
    Failed(String),
    /// Its main process ended.
    MainExited(ExitStatus),
}
