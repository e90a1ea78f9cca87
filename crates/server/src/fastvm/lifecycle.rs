//! Launch, pause, resume and removal: each keeps the record and the engine in step, so that a crash at any moment
//! leaves something that [`super::recover`] can tell apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use boxrig_engine::{InstanceSpec, Limits, Source};
use boxrig_fastvm::ops;
use boxrig_wire::{ApiError, Endpoint};
use tokio::sync::oneshot;

use super::firewall;
use super::once::Wish;
use super::quota;
use super::record::{Machine, Phase};
use super::rules;
use super::state::{
    Shared, State, detached, engine_error, instance, no_machine, not_running, start,
};
use super::ttl::Action;
use crate::faults::crash_point;

/// How long a launch may take before it is answered with a 202.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a launch gave.
pub(super) enum Launched {
    /// It runs.
    Running(Arc<Machine>),
    /// It is on its way.
    Queued(Arc<Machine>),
}

/// Whose the outcome of a launch is to tell.
struct Telling(AtomicU8);

impl Telling {
    const OPEN: u8 = 0;
    /// The caller got a 202; a failure is told by the machine's status.
    const ACCEPTED: u8 = 1;
    /// The caller waits and gets the outcome.
    const OUTCOME: u8 = 2;

    fn decide(&self, what: u8) -> bool {
        self.0
            .compare_exchange(Self::OPEN, what, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}

/// Launches a machine whose record is `machine`, in phase [`Phase::Launching`]. What `wish` fulfils is kept together with
/// it.
pub(super) async fn launch(
    state: &Shared,
    machine: Machine,
    source: Source,
    wish: Wish,
) -> Result<Launched, ApiError> {
    let slow = state
        .core
        .faults
        .slow_state(ops::LaunchVm::META, "provisioning");
    let patience = if slow.is_some() {
        Duration::ZERO
    } else {
        PATIENCE
    };
    let telling = Arc::new(Telling(AtomicU8::new(Telling::OPEN)));
    let (recorded, is_recorded) = oneshot::channel();
    let id = machine.id.clone();
    let mut work = tokio::spawn(run_launch(
        state.clone(),
        Plan {
            machine,
            source,
            wish,
            slow,
        },
        telling.clone(),
        recorded,
    ));
    let ended =
        |result: Result<Result<Arc<Machine>, ApiError>, tokio::task::JoinError>| match result {
            Ok(result) => result.map(Launched::Running),
            Err(e) => Err(ApiError::new(
                boxrig_wire::Kind::Failed,
                format!("internal error: {e}"),
            )),
        };
    let timer = async {
        // The patience begins when it is on record; a refused launch never gets there.
        if is_recorded.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(patience).await;
    };
    tokio::select! {
        biased;
        result = &mut work => return ended(result),
        () = timer => {}
    }
    if !telling.decide(Telling::ACCEPTED) {
        return ended(work.await);
    }
    // The launch holds the machine's lock and replaces the record when it is done, with or without this mark.
    let accepted = state
        .core
        .store
        .write(|tx| {
            let now = tx.get(&state.machines, &id);
            if let Some(now) = now.filter(|m| m.phase == Phase::Launching) {
                let mut now = Machine::clone(&now);
                now.accepted = true;
                tx.put(&state.machines, &id, now)?;
            }
            Ok::<_, ApiError>(())
        })
        .await;
    accepted?;
    let machine = state.machine(&id)?;
    Ok(match machine.phase {
        Phase::Running => Launched::Running(machine),
        _ => Launched::Queued(machine),
    })
}

struct Plan {
    machine: Machine,
    source: Source,
    wish: Wish,
    slow: Option<Duration>,
}

async fn run_launch(
    state: Shared,
    plan: Plan,
    telling: Arc<Telling>,
    recorded: oneshot::Sender<()>,
) -> Result<Arc<Machine>, ApiError> {
    let mut machine = plan.machine;
    let _held = state.locks.hold(&machine.id).await;
    let wish = plan.wish;
    let record = machine.clone();
    let fulfilled = wish.fulfilled_by(&state, &machine.id);
    let write = start(state.core.store.write(|tx| {
        let used = tx.with(&state.machines, quota::used);
        quota::fits(&state.limits, &used, &record)?;
        tx.put(&state.machines, &record.id.clone(), record)?;
        if let Some((key, made)) = fulfilled {
            tx.put(&state.made, &key, made)?;
        }
        Ok::<_, ApiError>(())
    }))
    .await?;
    // The engine works while the record is on its way to the disk; the caller is answered when both are done.
    let create = async {
        state.slowly(plan.slow).await;
        let created = state.core.engine.create(spec(&machine, plan.source)?).await;
        crash_point("engine.create");
        created.map_err(|e| engine_error(&e))
    };
    let recording = async {
        let written = write.committed().await;
        let _ = recorded.send(());
        // From here on a repeat finds the machine.
        let key = wish.recorded(&state);
        written.map(|()| key)
    };
    let (written, created) = tokio::join!(recording, create);
    let made_key = written.as_ref().ok().cloned().flatten();
    let failure = match (written, created) {
        (Ok(_), Ok(_)) => {
            machine.phase = Phase::Running;
            machine.accepted = false;
            machine.arm(state.core.now_ms());
            telling.decide(Telling::OUTCOME);
            return Ok(state.publish(machine).await);
        }
        (Err(e), Ok(_)) => {
            // Not on record, so it must not run.
            let _ = state.core.engine.delete(&instance(&machine.id)?).await;
            e
        }
        (_, Err(e)) => e,
    };
    if telling.decide(Telling::OUTCOME) {
        let id = machine.id.clone();
        let forget = state.core.store.write(|tx| {
            tx.delete(&state.machines, &id);
            if let Some(key) = &made_key {
                tx.delete(&state.made, key);
            }
            Ok::<_, ApiError>(())
        });
        forget.await?;
        state.changed();
    } else {
        machine.phase = Phase::Error;
        machine.reason = Some(failure.message.clone());
        state.save(machine).await?;
    }
    Err(failure)
}

/// What the engine is asked for.
fn spec(machine: &Machine, source: Source) -> Result<InstanceSpec, ApiError> {
    let mut spec = InstanceSpec::new(instance(&machine.id)?);
    spec.hostname = rules::hostname(&machine.name, &machine.id);
    spec.labels = State::labels(&machine.name);
    spec.source = source;
    spec.env = machine.env.clone();
    spec.network = firewall::network(machine.firewall.as_ref())?;
    spec.limits = Limits {
        memory_bytes: Some(machine.memory_mib << 20),
        cpus: Some(machine.cpu as f64),
        pids: None,
        disk_bytes: Some(machine.disk_gib << 30),
    };
    Ok(spec)
}

/// Pauses a machine; a paused one is left as it is.
pub(super) async fn pause(state: &Shared, id: &str) -> Result<Arc<Machine>, ApiError> {
    let (state, id) = (state.clone(), id.to_owned());
    detached(async move {
        let _held = state.locks.hold(&id).await;
        pause_held(&state, &id).await
    })
    .await
}

async fn pause_held(state: &Shared, id: &str) -> Result<Arc<Machine>, ApiError> {
    let machine = state.machine(id)?;
    match machine.phase {
        Phase::Paused => return Ok(machine),
        Phase::Running => {}
        _ => return Err(not_running(state.status(&machine))),
    }
    let slow = state.core.faults.slow_state(ops::PauseVm::META, "pausing");
    let _moment = state.moment(id, "pausing", slow).await;
    let paused = state.core.engine.pause(&instance(id)?).await;
    paused.map_err(|e| engine_error(&e))?;
    let mut machine = Machine::clone(&machine);
    machine.freeze(state.core.now_ms());
    state.save(machine).await
}

/// Resumes a machine; a running one is left as it is.
pub(super) async fn resume(state: &Shared, id: &str) -> Result<Arc<Machine>, ApiError> {
    let (state, id) = (state.clone(), id.to_owned());
    detached(async move {
        let _held = state.locks.hold(&id).await;
        let machine = state.machine(&id)?;
        match machine.phase {
            Phase::Running => return Ok(machine),
            Phase::Paused => {}
            _ => {
                let status = state.status(&machine);
                let words = format!("the VM is {status}, not paused");
                return Err(ApiError::conflict(words).with_detail("status", status));
            }
        }
        let mut resuming = Machine::clone(&machine);
        resuming.phase = Phase::Resuming;
        let record = resuming.clone();
        let write = start(state.core.store.write(|tx| {
            let used = tx.with(&state.machines, quota::used);
            quota::fits(&state.limits, &used, &record)?;
            tx.put(&state.machines, &record.id.clone(), record)?;
            Ok::<_, ApiError>(())
        }))
        .await?;
        let slow = state
            .core
            .faults
            .slow_state(ops::ResumeVm::META, "resuming");
        let _moment = state.moment(&id, "resuming", slow).await;
        let instance = instance(&id)?;
        let (written, resumed) =
            tokio::join!(write.committed(), state.core.engine.resume(&instance));
        written?;
        if let Err(e) = resumed {
            state.save(Machine::clone(&machine)).await?;
            return Err(engine_error(&e));
        }
        resuming.thaw(state.core.now_ms());
        state.save(resuming).await
    })
    .await
}

/// Removes a machine with everything it left.
pub(super) async fn delete(state: &Shared, id: &str) -> Result<(), ApiError> {
    let (state, id) = (state.clone(), id.to_owned());
    detached(async move {
        let _held = state.locks.hold(&id).await;
        delete_held(&state, &id).await
    })
    .await
}

pub(super) async fn delete_held(state: &Shared, id: &str) -> Result<(), ApiError> {
    let machine = state.machine(id)?;
    let mut leaving = Machine::clone(&machine);
    leaving.phase = Phase::Deleting;
    state.save(leaving).await?;
    let slow = state
        .core
        .faults
        .slow_state(ops::DeleteVm::META, "deleting");
    state.slowly(slow).await;
    crash_point("delete.engine");
    match state.core.engine.delete(&instance(id)?).await {
        Ok(()) => {}
        Err(e) if e.kind() == boxrig_engine::Kind::NotFound => {}
        Err(e) => {
            let mut left = Machine::clone(&machine);
            left.phase = Phase::Error;
            left.reason = Some(format!("it could not be removed: {e}"));
            state.save(left).await?;
            return Err(engine_error(&e));
        }
    }
    crash_point("delete.state");
    state.forget(id).await
}

/// What a machine's timer asks for, done if it is still due.
pub(super) async fn expire(state: &Shared, id: &str) -> Result<(), ApiError> {
    let _held = state.locks.hold(id).await;
    let Ok(machine) = state.machine(id) else {
        return Ok(());
    };
    match machine.due(state.core.now_ms()) {
        Some(Action::Pause) => pause_held(state, id).await.map(|_| ()),
        Some(Action::Delete) => delete_held(state, id).await,
        // It was refreshed or paused meanwhile.
        None => {
            state.arm_timer(&machine);
            Ok(())
        }
    }
}

/// Changes a machine's record alone.
pub(super) async fn change(
    state: &Shared,
    id: &str,
    change: impl FnOnce(&mut Machine, u64) -> Result<(), ApiError> + Send + 'static,
) -> Result<Arc<Machine>, ApiError> {
    let (state, id) = (state.clone(), id.to_owned());
    detached(async move {
        let _held = state.locks.hold(&id).await;
        let mut machine = Machine::clone(&*state.machine(&id)?);
        if machine.phase == Phase::Deleting {
            return Err(no_machine());
        }
        change(&mut machine, state.core.now_ms())?;
        state.save(machine).await
    })
    .await
}
