//! The sandbox: instances as processes in namespaces of their own over an overlay file system.
//!
//! - [`create`]: a new instance's name, folders and layers;
//! - [`plan`], [`launch`]: what a start does, step by step; carried out by the *stage* (`agent/stage.rs`);
//! - [`guest`], [`exec`]: requests to process 1 of a running instance (`agent/serve.rs`);
//! - [`life`]: starting, watching, ending, taking over after a restart of the server;
//! - [`snapshots`], [`tree`]: layers of files;
//! - [`record`]: what is written down, and where everything lies;
//! - [`builtin`]: the image that needs no download; [`built`]: images made of snapshots;
//! - [`refusal`]: whether any of this works here, and what to do if it does not.

mod agent;
mod built;
mod builtin;
mod create;
mod exec;
mod guest;
mod ids;
mod launch;
mod layout;
mod life;
mod logs;
mod packet;
mod plan;
#[allow(unreachable_pub)] // shared with the agent
#[path = "../../agent/proto.rs"]
mod proto;
mod record;
mod refusal;
mod ring;
mod seam;
mod seccomp;
mod snapshots;
mod tree;
#[allow(unreachable_pub, dead_code)] // shared with the agent
#[path = "../../agent/wire.rs"]
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, stream};
use tokio::sync::{broadcast, watch};

use self::ids::Ids;
use self::life::Instance;
use self::record::{Dirs, Record, SnapshotRecord};
use self::ring::Ring;
use self::snapshots::{instance_exists, must_be};
use crate::cgroup::Cgroups;
use crate::image::{ImageStore, ImportLimits};
use crate::lock::DirectoryLock;
use crate::net::{EgressOptions, Told};
use crate::{
    EngineEvent, Error, EventKind, Exec, ExecSpec, InstanceId, InstanceInfo, InstanceState, Kind,
    Limits, NetworkPolicy, Options, Result, SnapshotId, Stats, StopMode, WinSize, check,
};

pub(crate) use self::refusal::probe;

/// Events kept for a receiver that is slow.
const EVENTS: usize = 1024;
/// Instances taken over at one time when the server starts.
const ADOPT_AT_ONCE: usize = 64;

/// The sandbox engine.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox(Arc<Inner>);

struct Inner {
    dirs: Dirs,
    options: Options,
    boot: String,
    ids: Ids,
    cgroups: Cgroups,
    egress: EgressOptions,
    /// By which names instances reach each other, once a platform says so.
    neighbours: Told,
    /// The host's folders in the built-in image.
    host: Vec<builtin::HostFolder>,
    /// The built-in image's layer, as in records.
    base: String,
    images: ImageStore,
    built: Mutex<built::Built>,
    instances: Mutex<BTreeMap<InstanceId, Arc<Instance>>>,
    /// Names of instances that are being made.
    reserved: Mutex<BTreeSet<InstanceId>>,
    snapshots: Mutex<BTreeMap<SnapshotId, SnapshotRecord>>,
    /// Read while layers are chosen until their use is written down; written while unused ones are removed.
    layers: tokio::sync::RwLock<()>,
    events: broadcast::Sender<EngineEvent>,
    /// Its end ends what follows the instances.
    open: watch::Sender<()>,
    _lock: DirectoryLock,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox")
            .field("dirs", &self.dirs)
            .field("ids", &self.ids)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The sockets are the instances' own: the next engine serves them, and it alone.
        for live in self.all().iter().filter_map(|instance| instance.live()) {
            live.end_egress();
        }
        self.cgroups.remove_if_empty();
    }
}

/// Runs blocking work on the pool for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::io("run blocking work", io::Error::other(e)))?
}

/// Runs `work` to its end, even if whoever waits for it goes away.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work)
        .await
        .map_err(|e| Error::io("run an operation", io::Error::other(e)))?
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_instance(id: &InstanceId) -> Error {
    Error::new(Kind::NotFound, format!("no instance {id}"))
}

/// The digest in the name of an imported image's layer.
fn digest_of(layer: &str) -> Option<String> {
    let rest = layer.strip_prefix("images/layers/")?;
    Some(rest.strip_suffix("/fs")?.to_owned())
}

/// Lets this process hold what a thousand instances need: a few descriptors each.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        tracing::debug!("the limit of open files stays as it is");
    }
}

impl Sandbox {
    /// Opens the engine's data folder, and takes over what runs.
    pub(crate) async fn open(root: &Path, options: Options) -> Result<Self> {
        raise_descriptor_limit();
        let root = root.to_owned();
        let inner = blocking(move || Inner::open(&root, options)).await?;
        let inner = Arc::new(inner);
        if inner.options.probe {
            refusal::try_once(&inner).await?;
        }
        inner.load_instances().await?;
        inner.collect_layers().await?;
        let background = Arc::clone(&inner);
        tokio::task::spawn_blocking(move || background.dirs.empty_trash());
        Ok(Self(inner))
    }
}

impl Inner {
    /// The blocking part of opening.
    fn open(root: &Path, options: Options) -> Result<Self> {
        let lock = DirectoryLock::take(root)?;
        let root = fs::canonicalize(root).map_err(|e| Error::io("look up the data folder", e))?;
        let dirs = Dirs::make(&root)?;
        let ids = Ids::here();
        if ids.ranges() && !ids::ranges_exist() {
            return Err(refusal::no_ranges());
        }
        let host = builtin::host_folders(&root)?;
        let base = builtin::layer(&dirs.layers())?;
        let base = base
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let scope = scope_of(&root);
        let snapshots = load_snapshots(&dirs)?;
        Ok(Self {
            base: format!("layers/{base}"),
            boot: record::boot_id(),
            ids,
            cgroups: Cgroups::discover(&scope),
            egress: EgressOptions::default(),
            neighbours: Told::default(),
            host,
            images: ImageStore::open(&dirs.images(), ImportLimits::default())?,
            built: Mutex::new(built::load(&dirs)?),
            instances: Mutex::default(),
            reserved: Mutex::default(),
            snapshots: Mutex::new(snapshots),
            layers: tokio::sync::RwLock::default(),
            events: broadcast::channel(EVENTS).0,
            open: watch::Sender::new(()),
            dirs,
            options,
            _lock: lock,
        })
    }

    fn instances(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Arc<Instance>>> {
        lock(&self.instances)
    }

    fn snapshots(&self) -> MutexGuard<'_, BTreeMap<SnapshotId, SnapshotRecord>> {
        lock(&self.snapshots)
    }

    fn all(&self) -> Vec<Arc<Instance>> {
        self.instances().values().cloned().collect()
    }

    fn find(&self, id: &InstanceId) -> Result<Arc<Instance>> {
        self.instances()
            .get(id)
            .cloned()
            .ok_or_else(|| no_instance(id))
    }

    fn tell(&self, id: &InstanceId, kind: EventKind) {
        let event = EngineEvent {
            id: id.clone(),
            kind,
            at: self.options.clock.now(),
        };
        // Nobody listens: fine.
        let _ = self.events.send(event);
    }

    /// Reads all records, finishes or removes what was interrupted, and takes over what runs.
    async fn load_instances(self: &Arc<Self>) -> Result<()> {
        let failed = |e: io::Error| Error::io("read the instances", e);
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dirs.instances()).map_err(failed)? {
            let dir = entry.map_err(failed)?.path();
            let name = dir
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let record = record::load::<Record>(&dir.join("instance.json"))?;
            match (InstanceId::new(name), record) {
                (Ok(id), Some(record)) => found.push(Instance::new(id, dir, record)),
                _ => {
                    life::end_stray(&dir).await;
                    self.dirs.discard(&dir).map_err(failed)?;
                }
            }
        }
        let ids: BTreeSet<String> = found
            .iter()
            .map(|instance| instance.id.to_string())
            .collect();
        let inner = Arc::clone(self);
        blocking(move || {
            inner.cgroups.sweep(|name| ids.contains(name));
            Ok(())
        })
        .await?;
        stream::iter(&found)
            .for_each_concurrent(ADOPT_AT_ONCE, |instance| async move {
                self.adopt(instance).await;
                if let Err(error) = self.settle_layer(instance) {
                    tracing::error!(id = %instance.id, %error, "an interrupted snapshot cannot be finished");
                }
                self.remove_old_folders(instance);
            })
            .await;
        let mut instances = self.instances();
        for instance in found {
            instances.insert(instance.id.clone(), instance);
        }
        Ok(())
    }

    /// Own folders of generations that are over.
    fn remove_old_folders(&self, instance: &Instance) {
        let current = instance.record().rw(&instance.dir);
        let Ok(entries) = fs::read_dir(&instance.dir) else {
            return;
        };
        for entry in entries.flatten() {
            let old = entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with("rw-"));
            if old && entry.path() != current {
                let _ = self.dirs.discard(&entry.path());
            }
        }
    }

    async fn start(self: &Arc<Self>, instance: &Arc<Instance>) -> Result<InstanceInfo> {
        let _op = instance.op.lock().await;
        instance_exists(instance)?;
        match instance.state() {
            InstanceState::Running => {}
            InstanceState::Paused => {
                return Err(life::wrong_state(
                    &instance.id,
                    InstanceState::Paused,
                    "stopped",
                ));
            }
            _ => {
                let fresh = self.begin_run(instance).await?;
                self.commit_run(instance, fresh).await?;
                self.tell(&instance.id, EventKind::Started);
            }
        }
        Ok(instance.info())
    }

    async fn stop(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        mode: StopMode,
    ) -> Result<InstanceInfo> {
        let _op = instance.op.lock().await;
        instance_exists(instance)?;
        if matches!(
            instance.state(),
            InstanceState::Running | InstanceState::Paused
        ) {
            self.end_run(instance, mode).await?;
            instance.change(|record| {
                record.state = InstanceState::Stopped;
                record.run = None;
            })?;
            self.tell(&instance.id, EventKind::Stopped);
        }
        Ok(instance.info())
    }

    async fn pause(self: &Arc<Self>, instance: &Arc<Instance>) -> Result<InstanceInfo> {
        let _op = instance.op.lock().await;
        instance_exists(instance)?;
        if instance.state() != InstanceState::Paused {
            must_be(instance, InstanceState::Running, "running")?;
            // The intent first: after a crash in between, resuming is right in both cases.
            instance.change(|record| record.state = InstanceState::Paused)?;
            if let Err(error) = self.freeze(instance).await {
                self.thaw(instance).await?;
                instance.change(|record| record.state = InstanceState::Running)?;
                return Err(error);
            }
            self.tell(&instance.id, EventKind::Paused);
        }
        Ok(instance.info())
    }

    async fn resume(self: &Arc<Self>, instance: &Arc<Instance>) -> Result<InstanceInfo> {
        let _op = instance.op.lock().await;
        instance_exists(instance)?;
        if instance.state() != InstanceState::Running {
            must_be(instance, InstanceState::Paused, "paused")?;
            self.thaw(instance).await?;
            instance.change(|record| record.state = InstanceState::Running)?;
            self.tell(&instance.id, EventKind::Resumed);
        }
        Ok(instance.info())
    }

    async fn delete(self: &Arc<Self>, instance: &Arc<Instance>) -> Result<()> {
        {
            let _op = instance.op.lock().await;
            instance_exists(instance)?;
            self.end_run(instance, StopMode::default()).await?;
            let failed = |e: io::Error| Error::io("remove the instance", e);
            // From here on it is gone, also for a server that starts now.
            let gone = self.dirs.discard(&instance.dir).map_err(failed)?;
            instance.mark_deleted();
            self.instances().remove(&instance.id);
            blocking(move || tree::remove(&gone).map_err(failed)).await?;
        }
        self.tell(&instance.id, EventKind::Deleted);
        // Layers only go with the last one that used them; the built-in one never does.
        if instance
            .record()
            .files
            .layers
            .iter()
            .any(|layer| layer != &self.base)
        {
            self.collect_layers().await?;
        }
        Ok(())
    }

    async fn update_limits(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        limits: Limits,
    ) -> Result<InstanceInfo> {
        check::limits(&limits)?;
        let _op = instance.op.lock().await;
        instance_exists(instance)?;
        let group = instance.record().run.and_then(|run| run.group);
        let enforced = match group {
            Some(group) => {
                let limits = limits.clone();
                Some(blocking(move || group.set_limits(&limits)).await?)
            }
            None => None,
        };
        instance.change(|record| {
            record.spec.limits = limits;
            record.enforced = enforced.unwrap_or(record.enforced);
        })?;
        Ok(instance.info())
    }

    async fn set_network(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        network: NetworkPolicy,
    ) -> Result<InstanceInfo> {
        let _op = instance.op.lock().await;
        instance_exists(instance)?;
        let none = |network: &NetworkPolicy| matches!(network, NetworkPolicy::None);
        let runs = matches!(
            instance.state(),
            InstanceState::Running | InstanceState::Paused
        );
        if runs && none(&instance.record().spec.network) != none(&network) {
            return Err(Error::new(
                Kind::InvalidState,
                format!(
                    "instance {} must be stopped to get a network or lose it",
                    instance.id
                ),
            ));
        }
        let policy = match &network {
            NetworkPolicy::Egress(policy) => policy.clone(),
            NetworkPolicy::None | NetworkPolicy::Default => crate::EgressPolicy::default(),
        };
        // On record first: after a crash in between, the next start of the server puts it in force.
        instance.change(|record| record.spec.network = network)?;
        if let Some(live) = instance.live() {
            live.set_policy(policy);
        }
        Ok(instance.info())
    }

    async fn stats(&self, instance: &Arc<Instance>) -> Result<Stats> {
        let record = instance.record();
        let upper = record.rw(&instance.dir).join("upper");
        let group = record.run.and_then(|run| run.group);
        let mut stats = blocking(move || {
            let mut stats = Stats {
                disk_bytes: tree::disk_usage(&upper).ok(),
                ..Stats::default()
            };
            if let Some(now) = group.map(|group| group.stats()) {
                stats.cpu_time = now.cpu_time;
                stats.memory_bytes = now.memory_bytes;
                stats.pids = now.pids;
            }
            Ok(stats)
        })
        .await?;
        if let Some(counters) = instance.live().and_then(|live| live.counters()) {
            stats.net_sent_bytes = Some(counters.sent_bytes);
            stats.net_received_bytes = Some(counters.received_bytes);
        }
        Ok(stats)
    }

    async fn exec(
        &self,
        instance: &Instance,
        spec: ExecSpec,
        record: Option<Ring>,
    ) -> Result<Exec> {
        let guest = instance.running()?;
        let body = exec::exec_body(&spec, &instance.record().spec.env)?;
        let name = spec
            .argv
            .first()
            .map(|name| String::from_utf8_lossy(name).into_owned());
        let (channel, pid, fds) = guest.exec(&body, &name.unwrap_or_default()).await?;
        exec::assemble(channel, pid, fds, &spec, record)
    }

    async fn console(&self, instance: &Instance, size: WinSize) -> Result<Exec> {
        let path = instance.dir.join("console.log");
        for shell in ["/bin/bash", "/bin/sh"] {
            let ring = Ring::open(&path, self.options.log_bytes)
                .map_err(|e| Error::io("open the console's log", e))?;
            let mut spec = ExecSpec::new([shell, "-l"]);
            spec.tty = Some(size);
            spec.cwd = Some(b"/root".to_vec());
            let mut opened = self.exec(instance, spec.clone(), Some(ring)).await;
            if opened.as_ref().is_err_and(|e| e.kind() == Kind::Invalid) {
                // An image without /root.
                spec.cwd = None;
                let ring = Ring::open(&path, self.options.log_bytes)
                    .map_err(|e| Error::io("open the console's log", e))?;
                opened = self.exec(instance, spec, Some(ring)).await;
            }
            match opened {
                Err(error) if error.kind() == Kind::CommandNotFound => {}
                other => return other,
            }
        }
        Err(Error::new(
            Kind::CommandNotFound,
            "the image has neither /bin/bash nor /bin/sh",
        ))
    }
}

/// A short name of a data folder, for its control groups: the same folder has the same name at every start.
fn scope_of(root: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    match fs::metadata(root) {
        // The number may be used again, for a folder of somebody else's.
        Ok(meta) => format!("{:x}-{:x}-{:x}", meta.uid(), meta.dev(), meta.ino()),
        Err(_) => record::random_name(),
    }
}

fn load_snapshots(dirs: &Dirs) -> Result<BTreeMap<SnapshotId, SnapshotRecord>> {
    let failed = |e: io::Error| Error::io("read the snapshots", e);
    let mut snapshots = BTreeMap::new();
    for entry in fs::read_dir(dirs.snapshots()).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            if let Some(record) = record::load::<SnapshotRecord>(&path)? {
                snapshots.insert(record.info.spec.id.clone(), record);
            }
        } else {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
                _ => {}
            }
        }
    }
    Ok(snapshots)
}
