//! The process engine: plain child processes in a folder of their own. **No isolation.**
//!
//! A command is an ordinary process of the server's own user: it sees the host's files, network and
//! processes, and can do whatever that user can. What an instance has of its own is a folder, which is
//! its home and working directory and what [`crate::Engine`]'s file calls work in (`/` there is the folder,
//! and nothing above it can be named), an environment, a session per command, and a record of what it
//! started. For machines on which the sandbox cannot run, and only when asked for.
//!
//! - Commands name the host's programs and files. A file written as `/data/x` is `$HOME/data/x` to them.
//! - The engine knows its processes by their process groups and, on Linux, by a variable in their
//!   environment (`BOXRIG_INSTANCE`), so that those that leave their group are found as well; a
//!   process that takes care to do both is lost to it.
//! - Limits cannot be enforced for a whole instance. Per process: memory (data segments, Linux), the
//!   size of a file.
//! - Rules for the network cannot be enforced and are refused; the network is the host's.
//! - Processes end with the server: after a restart an instance that ran is reported as failed.
//! - A snapshot is a copy of the folder, made while the processes are stopped.

mod control;
mod engine;
mod files;
mod group;
mod log;
mod pty;
mod store;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::broadcast;

use self::control::Started;
use self::group::Group;
use self::log::Log;
use self::store::Store;
use crate::lock::DirectoryLock;
use crate::{
    BASE_IMAGE, Clock, EngineEvent, Error, EventKind, Exec, ExecSpec, InstanceId, InstanceInfo,
    InstanceSpec, InstanceState, Kind, NetworkPolicy, Options, Result, SnapshotId, SnapshotInfo,
    SnapshotSpec, Source, StopMode, check,
};

const EVENTS: usize = 1024;
/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// The process engine. See the module's words on what it is not.
#[derive(Debug, Clone)]
pub struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
    log_bytes: u64,
    /// Tells this engine's instances from those of other data directories.
    scope: String,
    instances: Mutex<BTreeMap<InstanceId, Arc<Instance>>>,
    snapshots: Mutex<BTreeMap<SnapshotId, SnapshotInfo>>,
    events: broadcast::Sender<EngineEvent>,
    _lock: DirectoryLock,
}

#[derive(Debug)]
struct Instance {
    info: Mutex<InstanceInfo>,
    /// Held by what changes its state.
    busy: tokio::sync::Mutex<()>,
    root: PathBuf,
    group: Arc<Group>,
    main_log: Log,
    console_log: Log,
}

impl Instance {
    fn info(&self) -> MutexGuard<'_, InstanceInfo> {
        self.info.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> InstanceState {
        self.info().state
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs blocking work off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(Error::io(
                "work of the process engine",
                io::Error::other(error),
            ))
        })
}

fn unsupported(words: &str) -> Error {
    Error::new(
        Kind::Unsupported,
        format!("{words}: the process engine has no isolation; the sandbox engine does this"),
    )
}

fn no_instance(id: &InstanceId) -> Error {
    Error::new(Kind::NotFound, format!("no instance {id}"))
}

impl Process {
    /// Opens the engine with its state under `dir`. What an earlier server left running is ended, as
    /// far as it can be found, and reported as failed.
    ///
    /// # Errors
    /// `InvalidState` when another process has the directory; `Io`.
    pub async fn open(dir: &Path, options: Options) -> Result<Self> {
        let dir = dir.to_owned();
        blocking(move || Self::open_now(&dir, &options)).await
    }

    fn open_now(dir: &Path, options: &Options) -> Result<Self> {
        let held = DirectoryLock::take(dir)?;
        let dir = dir
            .canonicalize()
            .map_err(|error| Error::io(format!("open {}", dir.display()), error))?;
        let scope: String = Sha256::digest(std::os::unix::ffi::OsStrExt::as_bytes(dir.as_os_str()))
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let store = Store::open(&dir)?;
        let mut instances = BTreeMap::new();
        for mut info in store.instances()? {
            let id = info.id().clone();
            let group = Arc::new(Group::new(&scope, &id));
            if matches!(info.state, InstanceState::Running | InstanceState::Paused) {
                group.kill_all(KILL_PATIENCE);
                info.state = InstanceState::Failed;
                info.reason =
                    Some("the server ended, and the instance's processes with it".to_owned());
                store.write_instance(&info)?;
            }
            let instance = Self::instance(&store, info, group, options.log_bytes)?;
            instances.insert(id, Arc::new(instance));
        }
        let snapshots = store
            .snapshots()?
            .into_iter()
            .map(|info| (info.spec.id.clone(), info))
            .collect();
        Ok(Self(Arc::new(Inner {
            store,
            clock: Arc::clone(&options.clock),
            log_bytes: options.log_bytes,
            scope,
            instances: Mutex::new(instances),
            snapshots: Mutex::new(snapshots),
            events: broadcast::channel(EVENTS).0,
            _lock: held,
        })))
    }

    fn instance(
        store: &Store,
        info: InstanceInfo,
        group: Arc<Group>,
        log_bytes: u64,
    ) -> Result<Instance> {
        let dir = store.instance_dir(info.id());
        Ok(Instance {
            root: dir.join("root"),
            main_log: Log::open(&dir, "main", log_bytes)?,
            console_log: Log::open(&dir, "console", log_bytes)?,
            busy: tokio::sync::Mutex::new(()),
            info: Mutex::new(info),
            group,
        })
    }

    fn find(&self, id: &InstanceId) -> Result<Arc<Instance>> {
        lock(&self.0.instances)
            .get(id)
            .cloned()
            .ok_or_else(|| no_instance(id))
    }

    /// Finds an instance in which commands can run.
    fn running(&self, id: &InstanceId) -> Result<Arc<Instance>> {
        let instance = self.find(id)?;
        match instance.state() {
            InstanceState::Running => Ok(instance),
            other => Err(Self::wrong_state(id, other)),
        }
    }

    fn wrong_state(id: &InstanceId, state: InstanceState) -> Error {
        Error::new(
            Kind::InvalidState,
            format!("instance {id} is {state:?}").to_lowercase(),
        )
    }

    fn emit(&self, id: &InstanceId, kind: EventKind) {
        // Without listeners there is nobody to tell.
        let _ = self.0.events.send(EngineEvent {
            id: id.clone(),
            kind,
            at: self.0.clock.now(),
        });
    }

    /// Changes what is known of an instance: on disk first.
    fn change(
        &self,
        instance: &Instance,
        change: impl FnOnce(&mut InstanceInfo),
    ) -> Result<InstanceInfo> {
        let mut info = instance.info();
        let mut new = info.clone();
        change(&mut new);
        self.0.store.write_instance(&new)?;
        *info = new.clone();
        Ok(new)
    }

    fn check_spec(spec: &InstanceSpec) -> Result<()> {
        check::spec(spec)?;
        match &spec.network {
            NetworkPolicy::Default => Ok(()),
            _ => Err(unsupported("rules for the network")),
        }
    }

    async fn create_now(&self, spec: InstanceSpec) -> Result<InstanceInfo> {
        Self::check_spec(&spec)?;
        let id = spec.id.clone();
        if lock(&self.0.instances).contains_key(&id) {
            return Err(Error::new(Kind::Exists, format!("instance {id} exists")));
        }
        let from = match &spec.source {
            Source::Image(name) if name == BASE_IMAGE => None,
            Source::Image(name) => {
                return Err(Error::new(Kind::NotFound, format!("no image {name:?}")));
            }
            Source::Snapshot(snapshot) => {
                Some((self.0.store.snapshot_root(self.known(snapshot)?), None))
            }
            Source::Instance(other) => {
                let other = self.find(other)?;
                Some((other.root.clone(), Some(other)))
            }
        };
        let now = self.0.clock.now();
        let mut info = InstanceInfo::new(spec, InstanceState::Running, now);
        info.started_at = Some(now);
        let work = self.0.store.new_work()?;
        let (engine, made) = (self.clone(), info.clone());
        // The copy stays in the work folder until it is whole.
        let prepared = self
            .while_stopped(
                from.as_ref().and_then(|(_, other)| other.clone()),
                move || {
                    engine.0.store.prepare(
                        &work,
                        &made,
                        from.as_ref().map(|(root, _)| root.as_path()),
                    )?;
                    Ok(work)
                },
            )
            .await?;
        let instance = {
            // From here on nothing waits: either it exists or it does not.
            let mut instances = lock(&self.0.instances);
            if instances.contains_key(&id) {
                return Err(Error::new(Kind::Exists, format!("instance {id} exists")));
            }
            self.0.store.publish(prepared, &id)?;
            let group = Arc::new(Group::new(&self.0.scope, &id));
            let instance = Self::instance(&self.0.store, info.clone(), group, self.0.log_bytes)?;
            let instance = Arc::new(instance);
            instances.insert(id.clone(), Arc::clone(&instance));
            instance
        };
        if let Err(error) = self.start_main(&instance) {
            self.remove(&instance).await?;
            return Err(error);
        }
        self.emit(&id, EventKind::Created);
        Ok(info)
    }

    fn known<'a>(&self, snapshot: &'a SnapshotId) -> Result<&'a SnapshotId> {
        if lock(&self.0.snapshots).contains_key(snapshot) {
            return Ok(snapshot);
        }
        Err(Error::new(
            Kind::NotFound,
            format!("no snapshot {snapshot}"),
        ))
    }

    /// Does blocking work on an instance's files while its processes are stopped.
    async fn while_stopped<T: Send + 'static>(
        &self,
        instance: Option<Arc<Instance>>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        blocking(move || {
            let running = instance.filter(|instance| instance.state() == InstanceState::Running);
            if let Some(instance) = &running {
                instance.group.stop_all();
            }
            let done = work();
            if let Some(instance) = &running {
                instance.group.continue_all();
            }
            done
        })
        .await
    }

    /// Starts the main process, if the instance is for one.
    fn start_main(&self, instance: &Arc<Instance>) -> Result<()> {
        let (spec, id) = {
            let info = instance.info();
            (info.spec.clone(), info.id().clone())
        };
        let Some(main) = spec.main.clone() else {
            return Ok(());
        };
        let exec = ExecSpec {
            env: main.env,
            cwd: main.cwd,
            uid: main.uid,
            gid: main.gid,
            kill_on_drop: false,
            ..ExecSpec::new(main.argv)
        };
        let Started { exec, .. } =
            control::start(&spec, &instance.root, &instance.group, &exec, None)?;
        let (engine, instance) = (self.clone(), Arc::downgrade(instance));
        let log = instance.upgrade().map(|instance| instance.main_log.clone());
        tokio::spawn(async move {
            let Exec {
                stdout,
                stderr,
                control,
                ..
            } = exec;
            if let Some(log) = log {
                let errors = log.clone();
                tokio::spawn(async move { log.fill(stdout).await });
                if let Some(stderr) = stderr {
                    tokio::spawn(async move { errors.fill(stderr).await });
                }
            }
            let Ok(status) = control.wait().await else {
                return;
            };
            if let Some(instance) = instance.upgrade() {
                // What cannot be written down is still true for this server's life.
                if engine
                    .change(&instance, |info| info.main_exit = Some(status))
                    .is_err()
                {
                    instance.info().main_exit = Some(status);
                }
                engine.emit(&id, EventKind::MainExited(status));
            }
        });
        Ok(())
    }

    async fn end_processes(&self, instance: &Arc<Instance>, grace: Option<Duration>) -> Result<()> {
        if let Some(grace) = grace {
            let until = Instant::now() + grace;
            instance.group.signal_all(libc::SIGTERM);
            instance.group.continue_all();
            while Instant::now() < until && !instance.group.pids().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let instance = Arc::clone(instance);
        blocking(move || {
            if instance.group.kill_all(KILL_PATIENCE) {
                return Ok(());
            }
            Err(Error::new(Kind::Timeout, "a killed process does not end"))
        })
        .await
    }

    async fn remove(&self, instance: &Arc<Instance>) -> Result<()> {
        self.end_processes(instance, None).await?;
        let id = instance.info().id().clone();
        let away = self.0.store.discard_instance(&id)?;
        lock(&self.0.instances).remove(&id);
        blocking(move || Store::remove(&away)).await
    }

    async fn start_now(&self, id: &InstanceId) -> Result<InstanceInfo> {
        let instance = self.find(id)?;
        let _busy = instance.busy.lock().await;
        match instance.state() {
            InstanceState::Running => return Ok(instance.info().clone()),
            InstanceState::Stopped | InstanceState::Failed => {}
            other => return Err(Self::wrong_state(id, other)),
        }
        self.start_main(&instance)?;
        let now = self.0.clock.now();
        let info = self.change(&instance, |info| {
            info.state = InstanceState::Running;
            info.started_at = Some(now);
            info.reason = None;
            info.main_exit = None;
        })?;
        self.emit(id, EventKind::Started);
        Ok(info)
    }

    async fn stop_now(&self, id: &InstanceId, mode: StopMode) -> Result<InstanceInfo> {
        let instance = self.find(id)?;
        let _busy = instance.busy.lock().await;
        if instance.state() == InstanceState::Stopped {
            return Ok(instance.info().clone());
        }
        self.end_processes(&instance, mode.grace).await?;
        let info = self.change(&instance, |info| {
            info.state = InstanceState::Stopped;
            info.reason = None;
        })?;
        self.emit(id, EventKind::Stopped);
        Ok(info)
    }

    async fn freeze(&self, id: &InstanceId, pause: bool) -> Result<InstanceInfo> {
        use InstanceState::{Paused, Running};
        let (from, to) = if pause {
            (Running, Paused)
        } else {
            (Paused, Running)
        };
        let instance = self.find(id)?;
        let _busy = instance.busy.lock().await;
        match instance.state() {
            state if state == to => return Ok(instance.info().clone()),
            state if state == from => {}
            other => return Err(Self::wrong_state(id, other)),
        }
        let info = self.change(&instance, |info| info.state = to)?;
        let group = Arc::clone(&instance.group);
        blocking(move || {
            if pause {
                group.stop_all();
            } else {
                group.continue_all();
            }
            Ok(())
        })
        .await?;
        self.emit(
            id,
            if pause {
                EventKind::Paused
            } else {
                EventKind::Resumed
            },
        );
        Ok(info)
    }

    async fn snapshot_now(&self, id: &InstanceId, spec: SnapshotSpec) -> Result<SnapshotInfo> {
        let instance = self.find(id)?;
        let _busy = instance.busy.lock().await;
        let taken = || Error::new(Kind::Exists, format!("snapshot {} exists", spec.id));
        if lock(&self.0.snapshots).contains_key(&spec.id) {
            return Err(taken());
        }
        let work = self.0.store.new_work()?;
        let root = instance.root.clone();
        let (work, bytes) = self
            .while_stopped(Some(Arc::clone(&instance)), move || {
                let bytes = store::copy_tree(&root, &work.join("root"))?;
                Ok((work, bytes))
            })
            .await?;
        let info = SnapshotInfo::new(spec.clone(), id.clone(), self.0.clock.now(), bytes);
        let mut snapshots = lock(&self.0.snapshots);
        if snapshots.contains_key(&spec.id) {
            return Err(taken());
        }
        self.0.store.publish_snapshot(work, &info)?;
        snapshots.insert(spec.id, info.clone());
        Ok(info)
    }

    async fn restore_now(&self, id: &InstanceId, snapshot: &SnapshotId) -> Result<InstanceInfo> {
        let instance = self.find(id)?;
        let _busy = instance.busy.lock().await;
        let from = self.0.store.snapshot_root(self.known(snapshot)?);
        let work = self.0.store.new_work()?;
        let was_running = instance.state() == InstanceState::Running;
        let copy = work.join("root");
        blocking(move || store::copy_tree(&from, &copy)).await?;
        self.end_processes(&instance, None).await?;
        let (store_work, root) = (work.clone(), instance.root.clone());
        blocking(move || Store::swap(&store_work, &root)).await?;
        if was_running {
            self.start_main(&instance)?;
        }
        let now = self.0.clock.now();
        let info = self.change(&instance, |info| {
            info.reason = None;
            info.main_exit = None;
            if was_running {
                info.started_at = Some(now);
            } else {
                info.state = InstanceState::Stopped;
            }
        })?;
        blocking(move || Store::remove(&work)).await?;
        Ok(info)
    }

    fn start_exec(&self, id: &InstanceId, spec: &ExecSpec, record: bool) -> Result<Exec> {
        let instance = self.running(id)?;
        let own = instance.info().spec.clone();
        let log = record.then(|| instance.console_log.clone());
        Ok(control::start(&own, &instance.root, &instance.group, spec, log)?.exec)
    }

    /// Does blocking work below an instance's folder.
    async fn in_files<T: Send + 'static>(
        &self,
        id: &InstanceId,
        work: impl FnOnce(files::Folder) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let root = self.find(id)?.root.clone();
        blocking(move || work(files::Folder::open(&root)?)).await
    }
}
