//! The trait all engines implement.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast;

use crate::net::Neighbours;
use crate::types::{
    Attributes, Capabilities, DirEntry, EngineEvent, ExecSpec, ExitStatus, FileMeta, ImageConfig,
    ImageInfo, InstanceInfo, InstanceSpec, Limits, LogOptions, NetworkPolicy, SnapshotInfo,
    SnapshotSpec, Stats, StopMode, WinSize, WriteOptions,
};
use crate::{Error, InstanceId, Kind, Result, SnapshotId};

/// A boxed future: the price of an object-safe seam.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// A boxed stream of bytes out of an instance.
pub type BoxReader = Box<dyn AsyncRead + Send + Unpin>;
/// A boxed sink of bytes into an instance.
pub type BoxWriter = Box<dyn AsyncWrite + Send + Unpin>;

/// A two-way byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A boxed two-way byte stream.
pub type BoxDuplex = Box<dyn Duplex>;

/// A set of instances on this machine. `Arc<dyn Engine>` is what a server holds.
///
/// Every call is safe to make from many tasks at once; calls on one instance that exclude each other
/// (start, stop, delete, snapshot) wait for each other. Dropping a future before it is done leaves
/// either the old or the new state, never half of one.
///
/// Paths in an instance are bytes, absolute, and resolved inside it: its symbolic links cannot lead
/// out.
pub trait Engine: Send + Sync + Debug {
    /// `sandbox`, `process` or `memory`.
    fn name(&self) -> &'static str;

    /// What it can do here.
    fn capabilities(&self) -> Capabilities;

    /// Creates and starts an instance. When it answers, commands can run, and the instance is durable.
    ///
    /// # Errors
    /// `Exists` for a taken id, `NotFound` for an unknown source, `Invalid` for a bad field; a main
    /// process that cannot start is `CommandNotFound` or `CannotExecute`, and nothing remains.
    fn create(&self, spec: InstanceSpec) -> BoxFuture<'_, Result<InstanceInfo>>;

    /// Starts a stopped or failed instance; a running one is left as it is.
    fn start<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>>;

    /// Ends all processes; files are kept. A stopped one is left as it is.
    fn stop<'a>(
        &'a self,
        id: &'a InstanceId,
        mode: StopMode,
    ) -> BoxFuture<'a, Result<InstanceInfo>>;

    /// Freezes every process. A paused one is left as it is.
    fn pause<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>>;

    /// Lets a paused instance go on. A running one is left as it is.
    fn resume<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>>;

    /// Ends and removes an instance with everything it left on the host.
    fn delete<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<()>>;

    /// The present truth about one instance.
    fn get<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>>;

    /// All instances, ordered by id.
    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceInfo>>>;

    /// Changes limits, at once on a running instance. Returns what is enforced now.
    fn update_limits<'a>(
        &'a self,
        id: &'a InstanceId,
        limits: Limits,
    ) -> BoxFuture<'a, Result<InstanceInfo>>;

    /// Changes what it may reach, at once: open connections that the new rules deny are reset. Whether a running instance has
    /// a network at all cannot be changed.
    ///
    /// # Errors
    /// `InvalidState` for that; `Unsupported` by engines that enforce no rules.
    fn set_network<'a>(
        &'a self,
        id: &'a InstanceId,
        network: NetworkPolicy,
    ) -> BoxFuture<'a, Result<InstanceInfo>> {
        let _ = (id, network);
        let words = format!("the {} engine does not change networks", self.name());
        Box::pin(async move { Err(Error::new(Kind::Unsupported, words)) })
    }

    /// What it uses now.
    fn stats<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<Stats>>;

    /// Runs a command. When it answers, the command has been started.
    ///
    /// # Errors
    /// `InvalidState` unless running, `CommandNotFound` (127), `CannotExecute` (126).
    fn exec<'a>(&'a self, id: &'a InstanceId, spec: ExecSpec) -> BoxFuture<'a, Result<Exec>>;

    /// Opens the console: a terminal with a login shell, recorded in the console log. Every call is a
    /// shell of its own, ended when the [`Exec`] is dropped.
    fn console<'a>(&'a self, id: &'a InstanceId, size: WinSize) -> BoxFuture<'a, Result<Exec>>;

    /// Opens a file for reading, from `offset`. The metadata is that of the opened file.
    fn read_file<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        offset: u64,
    ) -> BoxFuture<'a, Result<FileRead>>;

    /// Writes a file from `content` and returns the number of bytes written.
    fn write_file<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        options: WriteOptions,
        content: BoxReader,
    ) -> BoxFuture<'a, Result<u64>>;

    /// What a path names; the last symbolic link is followed if `follow`.
    fn stat<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        follow: bool,
    ) -> BoxFuture<'a, Result<FileMeta>>;

    /// The entries of a directory, ordered by name, without `.` and `..`.
    fn list_dir<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<DirEntry>>>;

    /// Makes a directory; with `parents` also the missing ones above, and an existing one is no error.
    fn make_dir<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        mode: u32,
        parents: bool,
    ) -> BoxFuture<'a, Result<()>>;

    /// Makes a symbolic link at `path` that says `target`.
    fn symlink<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        target: &'a [u8],
    ) -> BoxFuture<'a, Result<()>>;

    /// Changes owner, mode or time of a path; the last symbolic link is not followed. An engine without owners
    /// answers `Unsupported`.
    fn set_attributes<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<()>> {
        let _ = (id, path, attributes);
        let words = format!("the {} engine does not change attributes", self.name());
        Box::pin(async move { Err(Error::new(Kind::Unsupported, words)) })
    }

    /// Removes a file or an empty directory; with `recursive` a whole tree.
    fn remove<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        recursive: bool,
    ) -> BoxFuture<'a, Result<()>>;

    /// Connects to TCP `port` on the instance's loopback, whether or not it has a network.
    ///
    /// # Errors
    /// `NotFound` when nothing listens there.
    fn connect<'a>(&'a self, id: &'a InstanceId, port: u16) -> BoxFuture<'a, Result<BoxDuplex>>;

    /// Listens on TCP `port` of the instance's loopback on behalf of the server (guest to server).
    /// Port 0 picks a free one. After a restart of the server or the instance it must be asked for again;
    /// asking again for a port of one's own replaces the old listener.
    ///
    /// # Errors
    /// `Exists` when a process of the instance holds the port.
    fn listen<'a>(&'a self, id: &'a InstanceId, port: u16) -> BoxFuture<'a, Result<GuestListener>>;

    /// Keeps the present files of an instance. A running one is frozen for the copy.
    fn snapshot<'a>(
        &'a self,
        id: &'a InstanceId,
        spec: SnapshotSpec,
    ) -> BoxFuture<'a, Result<SnapshotInfo>>;

    /// Puts an instance's files back to a snapshot's, in place: its processes end, and start anew if it
    /// was running.
    fn restore<'a>(
        &'a self,
        id: &'a InstanceId,
        snapshot: &'a SnapshotId,
    ) -> BoxFuture<'a, Result<InstanceInfo>>;

    /// All snapshots, ordered by id.
    fn list_snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotInfo>>>;

    /// Removes a snapshot. Instances made from it are not affected.
    fn delete_snapshot<'a>(&'a self, id: &'a SnapshotId) -> BoxFuture<'a, Result<()>>;

    /// Reads a log. Without `follow` the stream ends at the present end.
    fn logs<'a>(
        &'a self,
        id: &'a InstanceId,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<LogStream>>;

    /// Imports a root file system from a tar stream (plain or gzip). Replaces an image of that name;
    /// instances of the old one are not affected.
    fn import_image<'a>(
        &'a self,
        name: &'a str,
        tar: BoxReader,
    ) -> BoxFuture<'a, Result<ImageInfo>>;

    /// Makes the files of a snapshot an image of this name, to be run as `config` says. Replaces an image of that
    /// name; instances of the old one are not affected, and the snapshot is not needed any more.
    ///
    /// # Errors
    /// `NotFound` for the snapshot, `Invalid` for the name, `Unsupported` by engines without images.
    fn commit_image<'a>(
        &'a self,
        name: &'a str,
        snapshot: &'a SnapshotId,
        config: ImageConfig,
    ) -> BoxFuture<'a, Result<ImageInfo>> {
        let _ = (name, snapshot, config);
        let words = format!("the {} engine does not make images", self.name());
        Box::pin(async move { Err(Error::new(Kind::Unsupported, words)) })
    }

    /// An image as a tar stream of boxrig's own form, with how it is meant to be run, for
    /// [`Engine::load_image`] of this engine or another.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for the built-in image, which every engine has; `Unsupported`.
    fn save_image<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<BoxReader>> {
        let _ = name;
        let words = format!("the {} engine does not save images", self.name());
        Box::pin(async move { Err(Error::new(Kind::Unsupported, words)) })
    }

    /// Takes in what [`Engine::save_image`] gave (plain or gzip), under this name. Replaces an image of that name.
    ///
    /// # Errors
    /// `Invalid` for a bad name or archive, in words; `Limit` when the disk is full; `Unsupported`.
    fn load_image<'a>(&'a self, name: &'a str, tar: BoxReader) -> BoxFuture<'a, Result<ImageInfo>> {
        let _ = (name, tar);
        let words = format!("the {} engine does not load images", self.name());
        Box::pin(async move { Err(Error::new(Kind::Unsupported, words)) })
    }

    /// One image.
    ///
    /// # Errors
    /// `NotFound`.
    fn get_image<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ImageInfo>> {
        Box::pin(async move {
            let images = self.list_images().await?;
            let found = images.into_iter().find(|image| image.name == name);
            found.ok_or_else(|| Error::new(Kind::NotFound, format!("no image {name:?}")))
        })
    }

    /// All images, ordered by name; the built-in one included.
    fn list_images(&self) -> BoxFuture<'_, Result<Vec<ImageInfo>>>;

    /// Removes an imported image. Instances made from it are not affected.
    fn delete_image<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Tells the engine by which names its instances reach each other, those that run already included. Only the first call
    /// counts. Answers whether this engine makes use of it: only one with networks of its own does.
    fn set_neighbours(&self, _neighbours: Arc<dyn Neighbours>) -> bool {
        false
    }

    /// What happens from now on. A receiver that falls behind by 1,024 events is told so by the channel;
    /// it then calls [`Engine::list`].
    fn events(&self) -> broadcast::Receiver<EngineEvent>;
}

/// An opened file.
pub struct FileRead {
    /// What it is.
    pub meta: FileMeta,
    /// Its bytes, from the offset asked for.
    pub content: BoxReader,
}

/// An opened log.
pub struct LogStream {
    /// Offset of the first byte of `content`; add what was read to continue later with `since`.
    pub offset: u64,
    /// The bytes.
    pub content: BoxReader,
}

/// A running command.
///
/// Its output must be read, or it blocks like any process on a full pipe. Output that was written
/// before the command ended is still there after [`Exec::wait`]; the streams end when every process
/// that inherited them has closed them, which can be later than the command's end.
///
/// Dropping it before the end kills the command's process group if [`ExecSpec::kill_on_drop`], else the
/// command goes on unattended.
pub struct Exec {
    /// Standard input, if asked for. Dropping it is end of file (not on a terminal: send `^D`).
    pub stdin: Option<BoxWriter>,
    /// Standard output; with a terminal, all output.
    pub stdout: BoxReader,
    /// Standard error; `None` with a terminal.
    pub stderr: Option<BoxReader>,
    /// Signals, window size and end of the command.
    pub control: Box<dyn ExecControl>,
}

impl Exec {
    /// Waits for the command itself (not for what it left in the background). May be called again.
    ///
    /// # Errors
    /// `Gone` if the instance ended first and the status is lost.
    pub fn wait(&self) -> BoxFuture<'_, Result<ExitStatus>> {
        self.control.wait()
    }
}

/// Control over a running command; the methods take `&self` so that one task can wait while another signals.
pub trait ExecControl: Send + Sync {
    /// The command's process id as the instance sees it.
    fn pid(&self) -> u32;

    /// Sends a signal (Linux number) to the command's process group. A command that has ended is no error.
    fn signal(&self, signal: i32) -> BoxFuture<'_, Result<()>>;

    /// Tells the terminal its size. Without a terminal it is `Invalid`.
    fn resize(&self, size: WinSize) -> BoxFuture<'_, Result<()>>;

    /// See [`Exec::wait`].
    fn wait(&self) -> BoxFuture<'_, Result<ExitStatus>>;
}

/// Accepts connections that processes of an instance make to a port of the server's.
/// Dropping it closes the port.
pub struct GuestListener {
    port: u16,
    source: Box<dyn GuestAccept>,
}

/// Where a [`GuestListener`] gets its connections from.
pub trait GuestAccept: Send {
    /// The next connection.
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxDuplex>>;
}

impl GuestListener {
    /// A listener on `port` of an instance's loopback.
    pub fn new(port: u16, source: Box<dyn GuestAccept>) -> Self {
        Self { port, source }
    }

    /// The port inside the instance.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// `Gone` when the instance has ended.
    pub async fn accept(&mut self) -> Result<BoxDuplex> {
        self.source.accept().await
    }
}

macro_rules! opaque_debug {
    ($($name:ident { $($field:ident),* })*) => {$(
        impl Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))$(.field(stringify!($field), &self.$field))*.finish_non_exhaustive()
            }
        }
    )*};
}

opaque_debug! {
    FileRead { meta }
    LogStream { offset }
    Exec {}
    GuestListener { port }
}
