//! What the handlers share: the tables, the log, and who waits for what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use boxrig_engine::InstanceId;
use boxrig_wire::{ApiError, Kind};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::certificates::Record as Certificate;
use super::logs::{Logs, Source};
use super::metrics::Samples;
use super::records::{App, Build, Event, Object, Process, Registry, Release};
use super::resources::Record;
use super::usage::Usage;
use super::who::{Tokens, Who};
use crate::core::Core;
use crate::state::{StateError, Table, Tx, lock};

/// The label by which an instance or image of the engine is known to be ours.
pub(super) const LABEL: &str = "platform";
/// Its value.
pub(super) const LABEL_VALUE: &str = "convox";
/// The rack's name.
pub(super) const RACK: &str = "boxrig";
/// How many events are kept.
const EVENTS_KEPT: usize = 1000;

/// What the handlers share.
#[derive(Debug)]
pub struct State {
    pub(super) core: Arc<Core>,
    pub(super) apps: Table<App>,
    pub(super) builds: Table<Build>,
    pub(super) releases: Table<Release>,
    pub(super) processes: Table<Process>,
    pub(super) objects: Table<Object>,
    pub(super) registries: Table<Registry>,
    /// Configuration files of apps, by `app/name`: the bytes in base64.
    pub(super) configs: Table<String>,
    pub(super) resources: Table<Record>,
    pub(super) certificates: Table<Certificate>,
    pub(super) events: Table<Event>,
    pub(super) tokens: Tokens,
    pub(super) logs: Logs,
    pub(super) usage: Usage,
    pub(super) checks: Checks,
    pub(super) samples: Samples,
    /// Held while the router is told who serves.
    pub(super) routing: Mutex<()>,
    /// When this server began.
    pub(super) started_ms: u64,
    /// Everything that goes on in the background; ended with the server.
    pub(super) tasks: Mutex<JoinSet<()>>,
    /// Processes that something is being done with.
    busy: Arc<Mutex<BTreeSet<String>>>,
    /// Wakes an app's worker.
    workers: Mutex<BTreeMap<String, Arc<Notify>>>,
    /// The folder of the rack's own files.
    pub(super) folder: PathBuf,
}

/// The state, shared.
pub(super) type Shared = Arc<State>;

/// What a handler gets: the state, and who asks. Dereferences to the state.
#[derive(Clone)]
pub struct Scope {
    pub(super) state: Shared,
    pub(super) who: Who,
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("who", &self.who)
            .finish_non_exhaustive()
    }
}

impl std::ops::Deref for Scope {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.state
    }
}

/// The key of something of an app.
pub(super) fn key(app: &str, id: &str) -> String {
    format!("{app}/{id}")
}

/// All documents of an app in a table whose keys are `app/…`.
pub(super) fn of_app<T>(table: &Table<T>, app: &str) -> Vec<(String, Arc<T>)> {
    table.with(|all| in_app(all, app))
}

/// As [`of_app`], within a transaction.
pub(super) fn in_app<T>(all: &BTreeMap<String, Arc<T>>, app: &str) -> Vec<(String, Arc<T>)> {
    let (from, to) = (format!("{app}/"), format!("{app}0"));
    let range = (Bound::Included(from.as_str()), Bound::Excluded(to.as_str()));
    all.range::<str, _>(range)
        .map(|(k, v)| (k[from.len()..].to_owned(), v.clone()))
        .collect()
}

impl State {
    pub(super) fn load(core: Arc<Core>) -> Result<Self, StateError> {
        let folder = core.data.join("convox");
        let opened = |what: &str, e: std::io::Error| StateError::Open(format!("{what}: {e}"));
        crate::files::private_dir(&folder).map_err(|e| opened("the rack's folder", e))?;
        for name in ["objects", "logs", "builds"] {
            let path = folder.join(name);
            crate::files::private_dir(&path).map_err(|e| opened(name, e))?;
        }
        let tokens = Tokens::open(core.data.join("credentials").join("convox-token-key"))
            .map_err(|e| opened("the key of tokens", e))?;
        Ok(Self {
            apps: core.store.table("convox.apps")?,
            builds: core.store.table("convox.builds")?,
            releases: core.store.table("convox.releases")?,
            processes: core.store.table("convox.processes")?,
            objects: core.store.table("convox.objects")?,
            registries: core.store.table("convox.registries")?,
            configs: core.store.table("convox.configs")?,
            resources: core.store.table("convox.resources")?,
            certificates: core.store.table("convox.certificates")?,
            events: core.store.table("convox.events")?,
            tokens,
            logs: Logs::open(folder.join("logs"), core.clock.clone()),
            usage: Usage::default(),
            checks: Checks::default(),
            samples: Samples::default(),
            routing: Mutex::default(),
            busy: Arc::default(),
            started_ms: core.now_ms(),
            tasks: Mutex::default(),
            workers: Mutex::default(),
            folder,
            core,
        })
    }

    /// An app that is there, also while it is being deleted.
    pub(super) fn app(&self, name: &str) -> Result<Arc<App>, ApiError> {
        self.apps.get(name).ok_or_else(|| no_app(name))
    }

    pub(super) fn build(&self, app: &str, id: &str) -> Result<Arc<Build>, ApiError> {
        self.app(app)?;
        let found = self.builds.get(&key(app, id));
        found.ok_or_else(|| ApiError::not_found(format!("build not found: {id}")))
    }

    pub(super) fn release(&self, app: &str, id: &str) -> Result<Arc<Release>, ApiError> {
        self.app(app)?;
        let found = self.releases.get(&key(app, id));
        found.ok_or_else(|| ApiError::not_found(format!("release not found: {id}")))
    }

    pub(super) fn process(&self, app: &str, id: &str) -> Result<Arc<Process>, ApiError> {
        self.app(app)?;
        let found = self.processes.get(id).filter(|p| p.app == app);
        found.ok_or_else(|| ApiError::not_found(format!("process not found: {id}")))
    }

    /// An app's processes, ordered by service and id.
    pub(super) fn processes_of(&self, app: &str) -> Vec<Arc<Process>> {
        let mut all: Vec<_> = self.processes.with(|all| {
            let of_it = all.values().filter(|p| p.app == app);
            of_it.cloned().collect()
        });
        all.sort_by(|a, b| (&a.service, &a.id).cmp(&(&b.service, &b.id)));
        all
    }

    /// An app's releases, newest first.
    pub(super) fn releases_of(&self, app: &str) -> Vec<Arc<Release>> {
        let mut all: Vec<_> = of_app(&self.releases, app)
            .into_iter()
            .map(|(_, r)| r)
            .collect();
        all.sort_by_key(|r| std::cmp::Reverse(r.seq));
        all
    }

    /// An app's builds, newest first.
    pub(super) fn builds_of(&self, app: &str) -> Vec<Arc<Build>> {
        let mut all: Vec<_> = of_app(&self.builds, app)
            .into_iter()
            .map(|(_, b)| b)
            .collect();
        all.sort_by_key(|b| std::cmp::Reverse(b.seq));
        all
    }

    /// Saves a change and wakes the app's worker.
    pub(super) async fn write<R>(
        &self,
        app: &str,
        change: impl FnOnce(&mut Tx) -> Result<R, ApiError>,
    ) -> Result<R, ApiError> {
        let done = self.core.store.write(change).await?;
        self.wake(app);
        Ok(done)
    }

    /// Saves an app as `change` leaves it.
    pub(super) async fn change_app<R>(
        &self,
        name: &str,
        change: impl FnOnce(&mut App) -> Result<R, ApiError>,
    ) -> Result<R, ApiError> {
        self.write(name, |tx| {
            let app = tx.get(&self.apps, name).ok_or_else(|| no_app(name))?;
            let mut app = App::clone(&app);
            let done = change(&mut app)?;
            tx.put(&self.apps, name, app)?;
            Ok(done)
        })
        .await
    }

    /// Saves a process as `change` leaves it; `None` when it is gone.
    pub(super) async fn change_process<R>(
        &self,
        id: &str,
        change: impl FnOnce(&mut Process) -> R,
    ) -> Result<Option<R>, ApiError> {
        let mut of_app = None;
        let done = self
            .core
            .store
            .write(|tx| {
                let Some(process) = tx.get(&self.processes, id) else {
                    return Ok(None);
                };
                of_app = Some(process.app.clone());
                let mut now = Process::clone(&process);
                let done = change(&mut now);
                if now != *process {
                    tx.put(&self.processes, id, now)?;
                }
                Ok::<_, ApiError>(Some(done))
            })
            .await?;
        if let Some(app) = of_app {
            self.wake(&app);
        }
        Ok(done)
    }

    /// Reserves a process for what is to be done with it; `None` when something is.
    pub(super) fn busy(&self, id: &str) -> Option<Busy> {
        lock(&self.busy).insert(id.to_owned()).then(|| Busy {
            all: self.busy.clone(),
            id: id.to_owned(),
        })
    }

    /// Runs something beside everything else, until it ends or the server does.
    pub(super) fn background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        // What has ended is forgotten here.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    /// Writes a line of the rack itself into an app's log.
    pub(super) fn say(&self, app: &str, what: &str, text: &str) {
        let source = Arc::new(Source::new("system", "boxrig", what));
        self.logs.say(app, &source, text.to_owned());
    }

    /// What wakes the worker of an app.
    pub(super) fn waker(&self, app: &str) -> Arc<Notify> {
        lock(&self.workers)
            .entry(app.to_owned())
            .or_default()
            .clone()
    }

    /// Lets an app's worker look at what there is to do.
    pub(super) fn wake(&self, app: &str) {
        self.waker(app).notify_one();
    }

    pub(super) fn forget_waker(&self, app: &str) {
        lock(&self.workers).remove(app);
    }

    /// An id in the rack's form: a letter and ten capitals.
    pub(super) fn id(&self, letter: char) -> String {
        let bytes = self.core.ids.uuid();
        let capitals = bytes.as_bytes()[..10]
            .iter()
            .map(|b| char::from(b'A' + b % 26));
        std::iter::once(letter).chain(capitals).collect()
    }

    /// Records that something happened; a failure to do so is only told.
    pub(super) async fn event(&self, event: Event) {
        let at_ms = self.core.now_ms();
        let written = self.core.store.write(|tx| {
            let (last, surplus) = tx.with(&self.events, |all| {
                let last = all.keys().next_back().and_then(|k| k.parse::<u64>().ok());
                let surplus = (all.len() + 1).saturating_sub(EVENTS_KEPT);
                let surplus: Vec<String> = all.keys().take(surplus).cloned().collect();
                (last.unwrap_or(0), surplus)
            });
            for old in surplus {
                tx.delete(&self.events, &old);
            }
            tx.put(
                &self.events,
                &format!("{:016}", last + 1),
                Event { at_ms, ..event },
            )?;
            Ok::<_, ApiError>(())
        });
        if let Err(e) = written.await {
            tracing::warn!(error = %e, "an event was not recorded");
        }
    }
}

/// Saves a document under `app/id`.
pub(super) fn put<T: Serialize + Send + Sync + 'static>(
    tx: &mut Tx,
    table: &Table<T>,
    app: &str,
    id: &str,
    value: T,
) -> Result<(), ApiError> {
    tx.put(table, &key(app, id), value)?;
    Ok(())
}

/// The 404 for an unknown app.
pub(super) fn no_app(name: &str) -> ApiError {
    ApiError::not_found(format!("app not found: {name}"))
}

/// A process' id as the engine's.
pub(super) fn instance(id: &str) -> Result<InstanceId, ApiError> {
    InstanceId::new(id).map_err(|_| ApiError::not_found(format!("process not found: {id}")))
}

/// Runs work to its end even when the caller goes away.
pub(super) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(e) => Err(ApiError::new(Kind::Failed, format!("internal error: {e}"))),
    }
}

/// A process that something is being done with, until this is dropped.
#[derive(Debug)]
pub(super) struct Busy {
    all: Arc<Mutex<BTreeSet<String>>>,
    id: String,
}

impl Drop for Busy {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.id);
    }
}

/// What the last health check of each process said, when it failed.
#[derive(Debug, Default)]
pub(super) struct Checks(Mutex<BTreeMap<String, String>>);

impl Checks {
    pub(super) fn note(&self, id: &str, why: String) {
        lock(&self.0).insert(id.to_owned(), why);
    }
    pub(super) fn last(&self, id: &str) -> Option<String> {
        lock(&self.0).get(id).cloned()
    }
    pub(super) fn forget(&self, id: &str) {
        lock(&self.0).remove(id);
    }
}
