//! What the handlers share: the tables, and the few facts that are not durable.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use boxrig_engine::InstanceId;
use boxrig_wire::{ApiError, Kind};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::console::Tokens;
use super::due::{Due, Queue};
use super::guest::Guests;
use super::imports::Import;
use super::locks::Locks;
use super::quota::Amounts;
use super::record::{Machine, Made, Object, Phase, Snapshot};
use super::staging::Staging;
use super::view::engine_facts;
use crate::core::Core;
use crate::state::{StateError, Table, lock};

/// The label by which an instance or snapshot of the engine is known to be ours.
pub(super) const LABEL: &str = "platform";
/// Its value.
pub(super) const LABEL_VALUE: &str = "fastvm";

/// What the handlers share.
#[derive(Debug)]
pub struct State {
    /// What all protocols share.
    pub core: Arc<Core>,
    pub(super) machines: Table<Machine>,
    pub(super) snapshots: Table<Snapshot>,
    pub(super) objects: Table<Object>,
    pub(super) made: Table<Made>,
    pub(super) imports: Table<Import>,
    /// Imports that are being worked on.
    pub(super) at_work: Mutex<HashMap<String, AbortHandle>>,
    /// Records that are true and acknowledged while their commit is on its way; see [`State::publish`].
    fresh: Mutex<HashMap<String, Arc<Machine>>>,
    /// Machines that are changing, with the status shown meanwhile.
    moments: Mutex<HashMap<String, &'static str>>,
    pub(super) locks: Locks,
    pub(super) queue: Queue,
    changes: watch::Sender<u64>,
    pub(super) limits: Amounts,
    /// See [`engine_facts`].
    pub(super) engine_facts: serde_json::Value,
    pub(super) staging: Staging,
    pub(super) consoles: Tokens,
    pub(super) guests: Guests,
}

/// The state, shared.
pub type Shared = Arc<State>;

/// A machine's id as the engine's. Ids of records are checked when they are made.
pub(super) fn instance(id: &str) -> Result<InstanceId, ApiError> {
    InstanceId::new(id).map_err(|_| no_machine())
}

/// The 404 for an unknown machine; also for text that could be no id.
pub(super) fn no_machine() -> ApiError {
    ApiError::not_found("no such VM")
}

impl State {
    pub(super) fn load(core: Arc<Core>, limits: Amounts) -> Result<Self, StateError> {
        let objects: Table<Object> = core.store.table("fastvm.objects")?;
        let folder: PathBuf = core.data.join("fastvm").join("objects");
        let staging = Staging::open(folder, |id| objects.get(id).is_some())
            .map_err(|e| StateError::Open(format!("the folder of uploads: {e}")))?;
        Ok(Self {
            machines: core.store.table("fastvm.machines")?,
            snapshots: core.store.table("fastvm.snapshots")?,
            objects,
            made: core.store.table("fastvm.made")?,
            imports: core.store.table("fastvm.imports")?,
            at_work: Mutex::default(),
            fresh: Mutex::default(),
            moments: Mutex::default(),
            locks: Locks::default(),
            queue: Queue::default(),
            changes: watch::Sender::new(0),
            limits,
            engine_facts: engine_facts(&*core.engine),
            staging,
            consoles: Tokens::default(),
            guests: Guests::default(),
            core,
        })
    }

    /// A machine as it is now.
    pub(super) fn machine(&self, id: &str) -> Result<Arc<Machine>, ApiError> {
        let fresh = lock(&self.fresh).get(id).cloned();
        fresh
            .or_else(|| self.machines.get(id))
            .ok_or_else(no_machine)
    }

    /// A machine that commands can be run in.
    pub(super) fn running(&self, id: &str) -> Result<Arc<Machine>, ApiError> {
        let machine = self.machine(id)?;
        match machine.phase {
            Phase::Running => Ok(machine),
            _ => Err(not_running(self.status(&machine))),
        }
    }

    /// Looks at all machines as they are now, ordered by id.
    pub(super) fn each_machine<R>(
        &self,
        mut look: impl FnMut(&Arc<Machine>) -> Option<R>,
    ) -> Vec<R> {
        let fresh = lock(&self.fresh).clone();
        self.machines.with(|all| {
            all.values()
                .filter_map(|machine| look(fresh.get(&machine.id).unwrap_or(machine)))
                .collect()
        })
    }

    /// The status that is shown of a machine.
    pub(super) fn status(&self, machine: &Machine) -> &'static str {
        let moment = lock(&self.moments).get(&machine.id).copied();
        moment.unwrap_or(machine.phase.status())
    }

    /// Shows `status` for a machine until the guard is dropped; as long as a fault script says, on the server's clock.
    pub(super) async fn moment(
        self: &Arc<Self>,
        id: &str,
        status: &'static str,
        slow: Option<Duration>,
    ) -> Moment {
        lock(&self.moments).insert(id.to_owned(), status);
        let moment = Moment {
            state: self.clone(),
            id: id.to_owned(),
        };
        self.changed();
        self.slowly(slow).await;
        moment
    }

    /// Lets time pass on the server's clock.
    pub(super) async fn slowly(&self, slow: Option<Duration>) {
        if let Some(end) = slow.and_then(|d| self.core.now().checked_add(d)) {
            self.core.clock.sleep_until(end).await;
        }
    }

    /// Saves a machine's record. Call it with the machine's lock held.
    pub(super) async fn save(&self, machine: Machine) -> Result<Arc<Machine>, ApiError> {
        let kept = Arc::new(machine.clone());
        let id = machine.id.clone();
        self.core
            .store
            .write(|tx| {
                tx.put(&self.machines, &id, machine)?;
                Ok::<_, ApiError>(())
            })
            .await?;
        lock(&self.fresh).remove(&kept.id);
        self.arm_timer(&kept);
        self.publish_services(&kept);
        self.changed();
        Ok(kept)
    }

    /// Shows a record at once and saves it behind. Only for what a restart would find out by itself: that a machine whose
    /// launch is recorded runs in the engine. Call it with the machine's lock held.
    pub(super) async fn publish(self: &Arc<Self>, machine: Machine) -> Arc<Machine> {
        let kept = Arc::new(machine.clone());
        let id = machine.id.clone();
        lock(&self.fresh).insert(id.clone(), kept.clone());
        let state = self.clone();
        let saved = kept.clone();
        let mut write = Box::pin(async move {
            let written = state
                .core
                .store
                .write(|tx| tx.put(&state.machines, &saved.id, machine).map(|_| ()))
                .await;
            match written {
                Ok(()) => {
                    let mut fresh = lock(&state.fresh);
                    if fresh
                        .get(&saved.id)
                        .is_some_and(|now| Arc::ptr_eq(now, &saved))
                    {
                        fresh.remove(&saved.id);
                    }
                }
                // What is shown stays true; only a restart has to find it out again.
                Err(e) => {
                    tracing::error!(vm = saved.id, error = %e, "a launch was not saved to its end")
                }
            }
        });
        // The first poll puts the change in order before those that follow.
        if futures_util::poll!(write.as_mut()).is_pending() {
            tokio::spawn(write);
        }
        self.arm_timer(&kept);
        self.publish_services(&kept);
        self.changed();
        kept
    }

    /// Forgets a machine. Call it with the machine's lock held.
    pub(super) async fn forget(&self, id: &str) -> Result<(), ApiError> {
        let staged: Vec<String> = self.objects.with(|all| {
            let of_it = all.values().filter(|o| o.vm_id == id);
            of_it.map(|o| o.id.clone()).collect()
        });
        self.core
            .store
            .write(|tx| {
                tx.delete(&self.machines, id);
                for object in &staged {
                    tx.delete(&self.objects, object);
                }
                Ok::<_, ApiError>(())
            })
            .await?;
        lock(&self.fresh).remove(id);
        self.guests.close(id);
        self.withdraw_services(id);
        self.queue.set(Due::Machine(id.to_owned()), None);
        for object in &staged {
            self.queue.set(Due::Object(object.clone()), None);
            self.staging.remove(object).await;
        }
        self.changed();
        Ok(())
    }

    pub(super) fn arm_timer(&self, machine: &Machine) {
        let at = machine
            .expires_ms
            .filter(|_| machine.phase == Phase::Running);
        self.queue.set(Due::Machine(machine.id.clone()), at);
    }

    /// Tells those who wait that something has changed.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Wakes after every change of a machine.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The labels of an instance or snapshot in the engine.
    pub(super) fn labels(name: &str) -> BTreeMap<String, String> {
        BTreeMap::from([
            (LABEL.to_owned(), LABEL_VALUE.to_owned()),
            ("name".to_owned(), name.to_owned()),
        ])
    }
}

/// A machine shows a passing status; ends with the guard.
#[derive(Debug)]
pub(super) struct Moment {
    state: Shared,
    id: String,
}

impl Drop for Moment {
    fn drop(&mut self) {
        lock(&self.state.moments).remove(&self.id);
        self.state.changed();
    }
}

/// The 409 for a machine that does not run.
pub(super) fn not_running(status: &str) -> ApiError {
    ApiError::conflict(format!("the VM is {status}, not running")).with_detail("status", status)
}

/// What an error of the engine is for a caller.
pub(super) fn engine_error(e: &boxrig_engine::Error) -> ApiError {
    use boxrig_engine::Kind as E;
    use http::StatusCode;
    let words = e.to_string();
    match e.kind() {
        E::NotFound => ApiError::not_found(words),
        E::Exists | E::InvalidState | E::Gone => ApiError::conflict(words),
        E::Invalid | E::CommandNotFound | E::CannotExecute => ApiError::invalid(words),
        E::Unsupported => ApiError::new(Kind::Unsupported, words),
        E::Denied => ApiError::new(Kind::Denied, words),
        E::Limit => {
            ApiError::new(Kind::Failed, words).with_status(StatusCode::INSUFFICIENT_STORAGE)
        }
        E::NotPermittedHere => ApiError::new(Kind::Unavailable, words),
        E::Timeout => ApiError::new(Kind::Timeout, words),
        _ => ApiError::new(Kind::Failed, words),
    }
}

/// Runs work to its end even when the caller goes away: half of it must not remain.
pub(super) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(e) => Err(ApiError::new(Kind::Failed, format!("internal error: {e}"))),
    }
}

/// A write whose change has been applied, or refused, and whose commit is awaited later.
pub(super) enum Started<F: Future> {
    /// It is committed.
    Done(F::Output),
    /// Its commit is on its way.
    Pending(Pin<Box<F>>),
}

/// Applies a write's change now.
///
/// # Errors
///
/// The refusal of the change itself, before anything else is begun.
pub(super) async fn start<F, R, E>(write: F) -> Result<Started<F>, E>
where
    F: Future<Output = Result<R, E>>,
{
    let mut write = Box::pin(write);
    match futures_util::poll!(write.as_mut()) {
        std::task::Poll::Ready(Err(e)) => Err(e),
        std::task::Poll::Ready(done) => Ok(Started::Done(done)),
        std::task::Poll::Pending => Ok(Started::Pending(write)),
    }
}

impl<F: Future> Started<F> {
    /// Waits for the commit.
    pub(super) async fn committed(self) -> F::Output {
        match self {
            Self::Done(done) => done,
            Self::Pending(write) => write.await,
        }
    }
}
