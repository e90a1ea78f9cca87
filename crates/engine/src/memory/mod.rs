//! The simulated engine: machines that have a state and nothing else.
//!
//! It answers like the others where states, names and inventories are concerned, in microseconds and
//! for tens of thousands of machines, on any platform. Whatever would need a running process or a
//! file is refused in words. How long changes of state take can be set, and together with
//! [`VirtualClock`](crate::VirtualClock) they take exactly that long without anyone waiting.

mod journal;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::broadcast;

use self::journal::{Change, Inventory, Journal};
use crate::lock::DirectoryLock;
use crate::{
    BASE_IMAGE, BoxDuplex, BoxFuture, BoxReader, Capabilities, Clock, DirEntry, EnforcedLimits,
    Engine, EngineEvent, Error, EventKind, Exec, ExecSpec, FileMeta, FileRead, GuestListener,
    ImageInfo, InstanceId, InstanceInfo, InstanceSpec, InstanceState, Isolation, Kind, Limits,
    LogOptions, LogStream, NetworkPolicy, Result, SnapshotId, SnapshotInfo, SnapshotSpec, Source,
    Stats, StopMode, WinSize, WriteOptions, check,
};

/// How many events a slow listener may be behind.
const EVENTS: usize = 1024;

/// How long the simulated changes of state take, on the engine's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Creation.
    pub create: Duration,
    /// Start, and the start that follows a restore.
    pub start: Duration,
    /// Stop.
    pub stop: Duration,
    /// Pause and resume.
    pub pause: Duration,
    /// Making a snapshot.
    pub snapshot: Duration,
    /// Deletion.
    pub delete: Duration,
}

/// The simulated engine.
#[derive(Debug)]
pub struct Memory {
    clock: Arc<dyn Clock>,
    timings: Timings,
    state: Mutex<State>,
    events: broadcast::Sender<EngineEvent>,
    _lock: Option<DirectoryLock>,
}

#[derive(Debug)]
struct State {
    inventory: Inventory,
    journal: Option<Journal>,
}

impl State {
    fn commit(&mut self, change: Change) -> Result<()> {
        if let Some(journal) = &mut self.journal {
            journal.note(&change, &self.inventory)?;
        }
        self.inventory.apply(change);
        Ok(())
    }

    fn instance(&self, id: &InstanceId) -> Result<&InstanceInfo> {
        self.inventory
            .instances
            .get(id)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("no instance {id}")))
    }
}

impl Memory {
    /// An engine that forgets everything when it is dropped.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, timings: Timings) -> Self {
        let state = State {
            inventory: Inventory::default(),
            journal: None,
        };
        Self::with(clock, timings, state, None)
    }

    /// An engine whose machines are kept under `dir` and found again in the state they had.
    ///
    /// # Errors
    /// `InvalidState` when another process has the directory; `Io`.
    pub fn open(dir: &Path, clock: Arc<dyn Clock>, timings: Timings) -> Result<Self> {
        let lock = DirectoryLock::take(dir)?;
        let (journal, inventory) = Journal::open(&dir.join("memory.jsonl"))?;
        let state = State {
            inventory,
            journal: Some(journal),
        };
        Ok(Self::with(clock, timings, state, Some(lock)))
    }

    fn with(
        clock: Arc<dyn Clock>,
        timings: Timings,
        state: State,
        lock: Option<DirectoryLock>,
    ) -> Self {
        Self {
            clock,
            timings,
            state: Mutex::new(state),
            events: broadcast::channel(EVENTS).0,
            _lock: lock,
        }
    }

    /// Lets a machine fail, as if its processes had been killed. For tests of what comes next.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn fail(&self, id: &InstanceId, reason: &str) -> Result<InstanceInfo> {
        let event = EventKind::Failed(reason.to_owned());
        self.change(id, Some(event), |info| {
            info.state = InstanceState::Failed;
            info.reason = Some(reason.to_owned());
            Ok(())
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changes are applied by single assignments; a panic cannot leave half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn emit(&self, id: &InstanceId, kind: EventKind) {
        // Without listeners there is nobody to tell.
        let _ = self.events.send(EngineEvent {
            id: id.clone(),
            kind,
            at: self.clock.now(),
        });
    }

    async fn take_time(&self, duration: Duration) {
        let end = self.clock.now().checked_add(duration);
        if let Some(end) = end.filter(|_| !duration.is_zero()) {
            self.clock.sleep_until(end).await;
        }
    }

    /// Changes one instance, writes it down and tells.
    fn change(
        &self,
        id: &InstanceId,
        event: Option<EventKind>,
        change: impl FnOnce(&mut InstanceInfo) -> Result<()>,
    ) -> Result<InstanceInfo> {
        let info = {
            let mut state = self.state();
            let mut info = state.instance(id)?.clone();
            change(&mut info)?;
            state.commit(Change::Instance(Box::new(info.clone())))?;
            info
        };
        if let Some(event) = event {
            self.emit(id, event);
        }
        Ok(info)
    }

    /// Moves an instance from one of `from` to `to`. One that is there already is left as it is.
    async fn move_to(
        &self,
        id: &InstanceId,
        from: &[InstanceState],
        to: InstanceState,
        takes: Duration,
        event: EventKind,
    ) -> Result<InstanceInfo> {
        let legal = |info: &InstanceInfo| {
            if info.state == to {
                return Ok(false);
            }
            if from.contains(&info.state) {
                return Ok(true);
            }
            let words = format!("instance {} is {:?}", info.id(), info.state).to_lowercase();
            Err(Error::new(Kind::InvalidState, words))
        };
        {
            let state = self.state();
            let info = state.instance(id)?;
            if !legal(info)? {
                return Ok(info.clone());
            }
        }
        self.take_time(takes).await;
        let now = self.clock.now();
        let mut moved = false;
        let info = self.change(id, None, |info| {
            // It may have moved while time passed.
            moved = legal(info)?;
            if moved {
                if to == InstanceState::Running && info.state != InstanceState::Paused {
                    info.started_at = Some(now);
                }
                info.state = to;
                info.reason = None;
            }
            Ok(())
        })?;
        if moved {
            self.emit(id, event);
        }
        Ok(info)
    }

    fn unsupported<'a, T: Send + 'a>(
        &'a self,
        id: &'a InstanceId,
        what: &'static str,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            self.state().instance(id)?;
            let words = format!(
                "{what}: the memory engine simulates machines and runs nothing; the sandbox engine does"
            );
            Err(Error::new(Kind::Unsupported, words))
        })
    }

    fn check_source(inventory: &Inventory, source: &Source) -> Result<()> {
        let (known, what) = match source {
            Source::Image(name) => (
                name == BASE_IMAGE || inventory.images.contains_key(name),
                format!("image {name:?}"),
            ),
            Source::Snapshot(id) => (
                inventory.snapshots.contains_key(id),
                format!("snapshot {id}"),
            ),
            Source::Instance(id) => (
                inventory.instances.contains_key(id),
                format!("instance {id}"),
            ),
        };
        if known {
            return Ok(());
        }
        Err(Error::new(Kind::NotFound, format!("no {what}")))
    }

    async fn create_now(&self, spec: InstanceSpec) -> Result<InstanceInfo> {
        check::spec(&spec)?;
        let free = |inventory: &Inventory| {
            if inventory.instances.contains_key(&spec.id) {
                return Err(Error::new(
                    Kind::Exists,
                    format!("instance {} exists", spec.id),
                ));
            }
            Self::check_source(inventory, &spec.source)
        };
        free(&self.state().inventory)?;
        self.take_time(self.timings.create).await;
        let now = self.clock.now();
        let info = {
            let mut state = self.state();
            free(&state.inventory)?;
            let mut info = InstanceInfo::new(spec, InstanceState::Running, now);
            info.started_at = Some(now);
            state.commit(Change::Instance(Box::new(info.clone())))?;
            info
        };
        self.emit(info.id(), EventKind::Created);
        Ok(info)
    }

    async fn snapshot_now(&self, id: &InstanceId, spec: SnapshotSpec) -> Result<SnapshotInfo> {
        let free = |state: &State| {
            state.instance(id)?;
            if state.inventory.snapshots.contains_key(&spec.id) {
                return Err(Error::new(
                    Kind::Exists,
                    format!("snapshot {} exists", spec.id),
                ));
            }
            Ok(())
        };
        free(&self.state())?;
        self.take_time(self.timings.snapshot).await;
        let mut state = self.state();
        free(&state)?;
        let info = SnapshotInfo::new(spec, id.clone(), self.clock.now(), 0);
        state.commit(Change::Snapshot(info.clone()))?;
        Ok(info)
    }

    async fn restore_now(&self, id: &InstanceId, snapshot: &SnapshotId) -> Result<InstanceInfo> {
        let known = |state: &State| {
            state.instance(id)?;
            Self::check_source(&state.inventory, &Source::Snapshot(snapshot.clone()))
        };
        known(&self.state())?;
        self.take_time(self.timings.start).await;
        known(&self.state())?;
        let now = self.clock.now();
        self.change(id, None, |info| {
            match info.state {
                InstanceState::Running => info.started_at = Some(now),
                _ => info.state = InstanceState::Stopped,
            }
            info.reason = None;
            Ok(())
        })
    }

    async fn import_now(&self, name: &str, mut tar: BoxReader) -> Result<ImageInfo> {
        if name == BASE_IMAGE || name.is_empty() {
            let words = format!("image {name:?}: this name cannot be given to an import");
            return Err(Error::new(Kind::Invalid, words));
        }
        let mut digest = Sha256::new();
        let mut bytes = 0u64;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let got = tar
                .read(&mut buffer)
                .await
                .map_err(|error| Error::io("read the image", error))?;
            if got == 0 {
                break;
            }
            digest.update(&buffer[..got]);
            bytes += got as u64;
        }
        let digest: String = digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let info = ImageInfo::new(
            name,
            Some(format!("sha256:{digest}")),
            bytes,
            self.clock.now(),
        );
        self.state().commit(Change::Image(Box::new(info.clone())))?;
        Ok(info)
    }
}

impl Engine for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            pause: true,
            snapshot: true,
            images: true,
            survives_restart: self.state().journal.is_some(),
            // Nothing runs, so nothing gets past any rule.
            egress: true,
            ..Capabilities::none(Isolation::Simulated)
        }
    }

    fn create(&self, spec: InstanceSpec) -> BoxFuture<'_, Result<InstanceInfo>> {
        Box::pin(self.create_now(spec))
    }

    fn start<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(self.move_to(
            id,
            &[InstanceState::Stopped, InstanceState::Failed],
            InstanceState::Running,
            self.timings.start,
            EventKind::Started,
        ))
    }

    fn stop<'a>(&'a self, id: &'a InstanceId, _: StopMode) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(self.move_to(
            id,
            &[
                InstanceState::Running,
                InstanceState::Paused,
                InstanceState::Failed,
            ],
            InstanceState::Stopped,
            self.timings.stop,
            EventKind::Stopped,
        ))
    }

    fn pause<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(self.move_to(
            id,
            &[InstanceState::Running],
            InstanceState::Paused,
            self.timings.pause,
            EventKind::Paused,
        ))
    }

    fn resume<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(self.move_to(
            id,
            &[InstanceState::Paused],
            InstanceState::Running,
            self.timings.pause,
            EventKind::Resumed,
        ))
    }

    fn delete<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.state().instance(id)?;
            self.take_time(self.timings.delete).await;
            {
                let mut state = self.state();
                state.instance(id)?;
                state.commit(Change::InstanceGone(id.clone()))?;
            }
            self.emit(id, EventKind::Deleted);
            Ok(())
        })
    }

    fn get<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(async move { self.state().instance(id).cloned() })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceInfo>>> {
        Box::pin(async move { Ok(self.state().inventory.instances.values().cloned().collect()) })
    }

    fn update_limits<'a>(
        &'a self,
        id: &'a InstanceId,
        limits: Limits,
    ) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(async move {
            check::limits(&limits)?;
            self.change(id, None, |info| {
                info.spec.limits = limits;
                info.enforced = EnforcedLimits::default();
                Ok(())
            })
        })
    }

    fn set_network<'a>(
        &'a self,
        id: &'a InstanceId,
        network: NetworkPolicy,
    ) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(async move {
            self.change(id, None, |info| {
                info.spec.network = network;
                Ok(())
            })
        })
    }

    fn stats<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<Stats>> {
        Box::pin(async move {
            self.state().instance(id)?;
            Ok(Stats::default())
        })
    }

    fn exec<'a>(&'a self, id: &'a InstanceId, _: ExecSpec) -> BoxFuture<'a, Result<Exec>> {
        self.unsupported(id, "exec")
    }

    fn console<'a>(&'a self, id: &'a InstanceId, _: WinSize) -> BoxFuture<'a, Result<Exec>> {
        self.unsupported(id, "console")
    }

    fn read_file<'a>(
        &'a self,
        id: &'a InstanceId,
        _: &'a [u8],
        _: u64,
    ) -> BoxFuture<'a, Result<FileRead>> {
        self.unsupported(id, "read a file")
    }

    fn write_file<'a>(
        &'a self,
        id: &'a InstanceId,
        _: &'a [u8],
        _: WriteOptions,
        _: BoxReader,
    ) -> BoxFuture<'a, Result<u64>> {
        self.unsupported(id, "write a file")
    }

    fn stat<'a>(
        &'a self,
        id: &'a InstanceId,
        _: &'a [u8],
        _: bool,
    ) -> BoxFuture<'a, Result<FileMeta>> {
        self.unsupported(id, "look at a file")
    }

    fn list_dir<'a>(
        &'a self,
        id: &'a InstanceId,
        _: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<DirEntry>>> {
        self.unsupported(id, "list a directory")
    }

    fn make_dir<'a>(
        &'a self,
        id: &'a InstanceId,
        _: &'a [u8],
        _: u32,
        _: bool,
    ) -> BoxFuture<'a, Result<()>> {
        self.unsupported(id, "make a directory")
    }

    fn symlink<'a>(
        &'a self,
        id: &'a InstanceId,
        _: &'a [u8],
        _: &'a [u8],
    ) -> BoxFuture<'a, Result<()>> {
        self.unsupported(id, "make a symbolic link")
    }

    fn remove<'a>(&'a self, id: &'a InstanceId, _: &'a [u8], _: bool) -> BoxFuture<'a, Result<()>> {
        self.unsupported(id, "remove a file")
    }

    fn connect<'a>(&'a self, id: &'a InstanceId, _: u16) -> BoxFuture<'a, Result<BoxDuplex>> {
        self.unsupported(id, "connect")
    }

    fn listen<'a>(&'a self, id: &'a InstanceId, _: u16) -> BoxFuture<'a, Result<GuestListener>> {
        self.unsupported(id, "listen")
    }

    fn snapshot<'a>(
        &'a self,
        id: &'a InstanceId,
        spec: SnapshotSpec,
    ) -> BoxFuture<'a, Result<SnapshotInfo>> {
        Box::pin(self.snapshot_now(id, spec))
    }

    fn restore<'a>(
        &'a self,
        id: &'a InstanceId,
        snapshot: &'a SnapshotId,
    ) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(self.restore_now(id, snapshot))
    }

    fn list_snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotInfo>>> {
        Box::pin(async move { Ok(self.state().inventory.snapshots.values().cloned().collect()) })
    }

    fn delete_snapshot<'a>(&'a self, id: &'a SnapshotId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut state = self.state();
            Self::check_source(&state.inventory, &Source::Snapshot(id.clone()))?;
            state.commit(Change::SnapshotGone(id.clone()))
        })
    }

    fn logs<'a>(&'a self, id: &'a InstanceId, _: LogOptions) -> BoxFuture<'a, Result<LogStream>> {
        self.unsupported(id, "logs")
    }

    fn import_image<'a>(
        &'a self,
        name: &'a str,
        tar: BoxReader,
    ) -> BoxFuture<'a, Result<ImageInfo>> {
        Box::pin(self.import_now(name, tar))
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<ImageInfo>>> {
        Box::pin(async move {
            let base = ImageInfo::new(BASE_IMAGE, None, 0, std::time::SystemTime::UNIX_EPOCH);
            let mut images = vec![base];
            images.extend(self.state().inventory.images.values().cloned());
            images.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(images)
        })
    }

    fn delete_image<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut state = self.state();
            if name == BASE_IMAGE {
                let words = "the built-in image cannot be removed";
                return Err(Error::new(Kind::Invalid, words));
            }
            Self::check_source(&state.inventory, &Source::Image(name.to_owned()))?;
            state.commit(Change::ImageGone(name.to_owned()))
        })
    }

    fn events(&self) -> broadcast::Receiver<EngineEvent> {
        self.events.subscribe()
    }
}
