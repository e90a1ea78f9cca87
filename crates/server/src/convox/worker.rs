//! One worker for each app: brings what runs to what is on record, whenever something has changed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use boxrig_wire::ApiError;

use super::manifest::{self, Service};
use super::records::{App, Phase, Process, Purpose, Release, Stage};
use super::room::{percents, room};
use super::state::{Shared, State, key};
use super::{apps, objects, start};
use crate::state::lock;

/// After a failure the worker looks again this much later.
const AGAIN: Duration = Duration::from_secs(2);
/// So many processes of an app that have ended by themselves are kept to be seen.
const ENDED_KEPT: usize = 20;
/// So many processes of an app are started at a time.
const AT_ONCE: usize = 4;

impl State {
    /// Starts the worker of an app.
    pub(super) fn start_worker(self: &Arc<Self>, app: &str) {
        let (state, app) = (self.clone(), app.to_owned());
        let waker = self.waker(&app);
        self.background(async move {
            loop {
                let next = match step(&state, &app).await {
                    Ok(Next::Gone) => return,
                    Ok(Next::At(next)) => next,
                    Err(e) => {
                        tracing::warn!(app, error = %e, "an app's worker looks again");
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                };
                match next {
                    None => waker.notified().await,
                    Some(ms) => {
                        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
                        tokio::select! {
                            () = waker.notified() => {}
                            () = state.core.clock.sleep_until(at) => {}
                        }
                    }
                }
            }
        });
    }
}

/// When there is something to do again.
enum Next {
    /// Never: the app is gone.
    Gone,
    /// When woken, or at this time.
    At(Option<u64>),
}

/// Does what there is to do now.
async fn step(state: &Shared, name: &str) -> Result<Next, ApiError> {
    let Some(app) = state.apps.get(name) else {
        return Ok(Next::Gone);
    };
    let all = state.processes_of(name);
    if app.deleting {
        return delete(state, name, all).await;
    }
    let now = state.core.now_ms();
    let mut next: Option<u64> = None;
    let mut at = |ms: u64| next = Some(next.map_or(ms, |n| n.min(ms)));
    for process in &all {
        match process.phase {
            Phase::Stopping => end(state, process),
            Phase::Crashed if process.next_start_ms <= now => {
                state
                    .change_process(&process.id, |p| p.phase = Phase::Pending)
                    .await?;
            }
            Phase::Crashed => at(process.next_start_ms),
            _ => {}
        }
    }
    let mut pending: Vec<_> = all.iter().filter(|p| p.phase == Phase::Pending).collect();
    pending.sort_by_key(|p| p.created_ms);
    for process in pending.into_iter().take(AT_ONCE) {
        begin(state, process);
    }
    for process in surplus(&all) {
        let Some(_busy) = state.busy(&process.id) else {
            continue;
        };
        start::end(state, &process).await?;
    }
    match &app.deploy {
        None => steady(state, &app, &all).await?,
        Some(deploy) => {
            if deploy.stage == Stage::Starting {
                at(deploy.deadline_ms);
            }
            super::promotion::step(state, &app, deploy, &all, now).await?;
        }
    }
    Ok(Next::At(next))
}

/// Those that ended by themselves and need not be seen any longer, oldest first.
fn surplus(all: &[Arc<Process>]) -> Vec<Arc<Process>> {
    let mut ended: Vec<_> = all
        .iter()
        .filter(|p| matches!(p.phase, Phase::Complete | Phase::Failed))
        .cloned()
        .collect();
    ended.sort_by_key(|p| p.ended_ms);
    let many = ended.len().saturating_sub(ENDED_KEPT);
    ended.truncate(many);
    ended
}

/// Starts a process that is on record.
fn begin(state: &Shared, process: &Process) {
    let Some(busy) = state.busy(&process.id) else {
        return;
    };
    let (state, id, app) = (state.clone(), process.id.clone(), process.app.clone());
    let work = state.clone();
    work.background(async move {
        let done = start::launch(&state, &id).await;
        if let Err(e) = done {
            let words = e.message.clone();
            state.say(
                &app,
                "start",
                &format!("process {id} could not be started: {words}"),
            );
            let now = state.core.now_ms();
            let failed = state.change_process(&id, |p| {
                p.ended_ms = now;
                p.reason = words;
                p.restarts += 1;
                p.phase = match p.purpose {
                    Purpose::Service => Phase::Crashed,
                    _ => Phase::Failed,
                };
                p.exit = None;
                // What cannot be started will not be by itself: look again, and not too often.
                p.next_start_ms = now + 1000 * u64::from(p.restarts.min(60));
            });
            if let Err(e) = failed.await {
                tracing::warn!(process = id, error = %e, "a failure was not recorded");
            }
        }
        drop(busy);
        state.wake(&app);
    });
}

/// Ends a process that is to end.
fn end(state: &Shared, process: &Arc<Process>) {
    let Some(busy) = state.busy(&process.id) else {
        return;
    };
    let (state, process) = (state.clone(), process.clone());
    let work = state.clone();
    work.background(async move {
        if let Err(e) = start::end(&state, &process).await {
            tracing::warn!(process = process.id, error = %e, "a process was not ended");
            tokio::time::sleep(AGAIN).await;
        }
        drop(busy);
        state.wake(&process.app);
    });
}

/// Marks processes to be ended.
pub(super) async fn stop(
    state: &Shared,
    some: impl IntoIterator<Item = &Arc<Process>>,
) -> Result<(), ApiError> {
    for process in some {
        state
            .change_process(&process.id, |p| {
                if p.phase != Phase::Stopping {
                    p.phase = Phase::Stopping;
                    p.ready = false;
                }
            })
            .await?;
    }
    Ok(())
}

/// Puts new processes of a service on record.
pub(super) async fn add(
    state: &Shared,
    app: &App,
    release: &Release,
    service: &Service,
    count: usize,
) -> Result<(), ApiError> {
    for _ in 0..count {
        let process = start::of_service(state, app, release, service)?;
        state
            .write(&app.name, |tx| {
                tx.put(&state.processes, &process.id.clone(), process)?;
                Ok(())
            })
            .await?;
    }
    Ok(())
}

/// How many of a service are wanted.
pub(super) fn wanted(app: &App, service: &Service) -> usize {
    let set = app.scale.get(&service.name).and_then(|s| s.count);
    // One machine: an agent is one process.
    let usual = if service.agent {
        service.min.min(1)
    } else {
        service.min
    };
    usize::try_from(set.unwrap_or(usual)).unwrap_or(0)
}

pub(super) fn of<'a>(
    all: &'a [Arc<Process>],
    service: &'a str,
) -> impl Iterator<Item = &'a Arc<Process>> + 'a {
    all.iter()
        .filter(move |p| p.purpose == Purpose::Service && p.service == service && p.lives())
}

/// Those to end first: what does not serve, then the youngest.
pub(super) fn worst_first(mut some: Vec<&Arc<Process>>) -> Vec<&Arc<Process>> {
    some.sort_by_key(|p| (p.ready, std::cmp::Reverse(p.created_ms)));
    some
}

/// No promotion is under way: every service has its number of processes of its last restart, and nothing else runs.
async fn steady(state: &Shared, app: &App, all: &[Arc<Process>]) -> Result<(), ApiError> {
    let active = state.releases.get(&key(&app.name, &app.release));
    let manifest = active.as_ref().map(|r| manifest::of(r)).transpose()?;
    let (Some(release), Some(manifest)) = (active, manifest) else {
        let strays: Vec<_> = all.iter().filter(|p| is_service(p)).collect();
        return stop(state, strays).await;
    };
    // What serves goes on serving; a resource that fails is told in its own status.
    let _ = super::resources::ensure(state, &app.name, &manifest, &release.env).await;
    for service in &manifest.services {
        let epoch = app.restarts.get(&service.name).copied().unwrap_or(0);
        let (new, old): (Vec<_>, Vec<_>) = of(all, &service.name)
            .filter(|p| p.release == app.release)
            .partition(|p| p.epoch == epoch);
        replace(state, app, &release, service, new, old).await?;
    }
    let strays: Vec<_> = all
        .iter()
        .filter(|p| {
            is_service(p) && (p.release != app.release || manifest.named(&p.service).is_none())
        })
        .collect();
    stop(state, strays).await
}

pub(super) fn is_service(p: &Process) -> bool {
    p.purpose == Purpose::Service && p.lives()
}

/// Brings a service to its number, old processes giving way to new ones of the same release.
async fn replace(
    state: &Shared,
    app: &App,
    release: &Release,
    service: &Service,
    new: Vec<&Arc<Process>>,
    old: Vec<&Arc<Process>>,
) -> Result<(), ApiError> {
    let want = wanted(app, service);
    if new.len() > want {
        let many = new.len() - want;
        return stop(state, worst_first(new).into_iter().take(many)).await;
    }
    let (min, max) = percents(service, None);
    let room = room(want, old.len(), min, max);
    let ready = new.iter().filter(|p| p.ready).count();
    let may_stay = if room.keep + ready >= want {
        want.saturating_sub(ready)
    } else {
        room.keep
    };
    let surplus = old.len().saturating_sub(may_stay.min(old.len()));
    stop(state, worst_first(old.clone()).into_iter().take(surplus)).await?;
    let free = room.most.saturating_sub(new.len() + old.len() - surplus);
    add(state, app, release, service, (want - new.len()).min(free)).await
}

async fn delete(state: &Shared, name: &str, all: Vec<Arc<Process>>) -> Result<Next, ApiError> {
    let ending: Vec<_> = all.iter().collect();
    stop(state, ending).await?;
    super::routes::withdraw(state, name);
    for process in &all {
        end(state, process);
    }
    if !all.is_empty() {
        return Ok(Next::At(None));
    }
    super::resources::remove_all(state, name).await?;
    for build in state.builds_of(name) {
        for image in build
            .images
            .values()
            .filter(|i| super::builds::is_own(name, i))
        {
            let _ = state.core.engine.delete_image(image).await;
        }
    }
    for (_, object) in super::state::of_app(&state.objects, name) {
        objects::remove(state, &object.file).await;
    }
    apps::forget(state, name).await?;
    state.logs.forget(name);
    Ok(Next::Gone)
}

/// Stops everything in the background.
pub(super) fn halt(state: &State) {
    lock(&state.tasks).abort_all();
}
