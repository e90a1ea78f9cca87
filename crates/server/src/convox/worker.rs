//! One worker for each app: brings what runs to what is on record, whenever something has changed.
//!
//! A promotion is a walk over records, so that it goes on where it was when the server ended:
//!
//! 1. `Starting`: processes of the new release are started beside the old ones, as many as the deployment's maximum lets;
//!    the old release serves. Where both do not fit, old ones end first, down to the minimum.
//! 2. When enough of every service are healthy, one commit makes the new release the active one. Requests go to processes
//!    of the active release only, so there is no moment with none and no mixture.
//! 3. `Switched`: the old processes end when their last request has.
//!
//! A new process that cannot be started or keeps ending, and a deadline that passes, take the promotion back: the new
//! processes end, and what was ended of the old ones is started again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use boxrig_engine::EventKind;
use boxrig_wire::ApiError;
use tokio::sync::broadcast::error::RecvError;

use super::manifest::{self, Manifest, Service};
use super::records::{App, Deploy, Event, Failure, Phase, Process, Purpose, Release, Stage};
use super::state::{Shared, State, key};
use super::{apps, objects, start};
use crate::state::lock;

/// After a failure the worker looks again this much later.
const AGAIN: Duration = Duration::from_secs(2);
/// A new process that has ended so often takes its promotion back.
const ENDS: u32 = 3;
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
            promote(state, &app, deploy, &all, now).await?;
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
async fn stop(
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
async fn add(
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

/// The room there is while a service's processes are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    /// Wanted in the end.
    want: usize,
    /// There may be so many.
    most: usize,
    /// Old ones that stay until new ones serve.
    keep: usize,
    /// New ones that must be healthy before the old ones go.
    first: usize,
}

/// `old` processes are to give way to `want` new ones, of which between `min` and `max` percent are there at any time.
fn room(want: usize, old: usize, min: u32, max: u32) -> Room {
    let percent = |p: u32, up: bool| {
        let n = want * usize::try_from(p).unwrap_or(100);
        if up { n.div_ceil(100) } else { n / 100 }
    };
    let most = percent(max, false).max(want).max(1);
    if old + want <= most {
        return Room {
            want,
            most,
            keep: old,
            first: want,
        };
    }
    // Both at their limit would never move: one goes.
    let keep = percent(min, true).min(old).min(most.saturating_sub(1));
    let first = want.min(most - keep);
    Room {
        want,
        most,
        keep,
        first,
    }
}

fn percents(service: &Service, deploy: Option<&Deploy>) -> (u32, u32) {
    let (min, max) = service.deployment;
    let set = |set: Option<u32>, usual| set.unwrap_or(usual);
    match deploy {
        Some(d) => (set(d.min, min), set(d.max, max)),
        None => (min, max),
    }
}

fn of<'a>(
    all: &'a [Arc<Process>],
    service: &'a str,
) -> impl Iterator<Item = &'a Arc<Process>> + 'a {
    all.iter()
        .filter(move |p| p.purpose == Purpose::Service && p.service == service && p.lives())
}

/// Those to end first: what does not serve, then the youngest.
fn worst_first(mut some: Vec<&Arc<Process>>) -> Vec<&Arc<Process>> {
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

fn is_service(p: &Process) -> bool {
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

/// A step of a promotion.
async fn promote(
    state: &Shared,
    app: &App,
    deploy: &Deploy,
    all: &[Arc<Process>],
    now: u64,
) -> Result<(), ApiError> {
    match deploy.stage {
        Stage::Starting => {
            let release = state.release(&app.name, &deploy.release)?;
            let manifest = match manifest::of(&release) {
                Ok(manifest) => manifest,
                Err(e) => return take_back(state, &app.name, &e.message).await,
            };
            if let Some(why) = hopeless(deploy, all) {
                return take_back(state, &app.name, &why).await;
            }
            if deploy.deadline_ms <= now {
                let why = late(state, deploy, all);
                return take_back(state, &app.name, &why).await;
            }
            match super::resources::ensure(state, &app.name, &manifest, &release.env).await {
                Ok(true) => {}
                // Woken when they are there.
                Ok(false) => return Ok(()),
                Err(e) => return take_back(state, &app.name, &e.message).await,
            }
            starting(state, app, deploy, &release, &manifest, all).await
        }
        Stage::Switched => {
            let old: Vec<_> = all
                .iter()
                .filter(|p| p.purpose == Purpose::Service && p.release != deploy.release)
                .collect();
            let gone = old.is_empty();
            stop(state, old).await?;
            steady_part(state, app, all).await?;
            if gone {
                finish(state, app, deploy).await?;
            }
            Ok(())
        }
        Stage::TakingBack => {
            let new: Vec<_> = all
                .iter()
                .filter(|p| p.purpose == Purpose::Service && p.release == deploy.release)
                .filter(|_| deploy.release != app.release)
                .collect();
            let gone = new.is_empty();
            stop(state, new).await?;
            if gone {
                taken_back(state, app, deploy).await?;
            }
            Ok(())
        }
    }
}

/// The active release is brought to its numbers while old processes still end.
async fn steady_part(state: &Shared, app: &App, all: &[Arc<Process>]) -> Result<(), ApiError> {
    let release = state.release(&app.name, &app.release)?;
    let manifest = manifest::of(&release)?;
    for service in &manifest.services {
        let new: Vec<_> = of(all, &service.name)
            .filter(|p| p.release == app.release)
            .collect();
        let old = of(all, &service.name)
            .filter(|p| p.release != app.release)
            .count();
        let (min, max) = percents(service, app.deploy.as_ref());
        let room = room(wanted(app, service), old, min, max);
        let free = room.most.saturating_sub(new.len() + old);
        add(
            state,
            app,
            &release,
            service,
            room.want.saturating_sub(new.len()).min(free),
        )
        .await?;
    }
    Ok(())
}

async fn starting(
    state: &Shared,
    app: &App,
    deploy: &Deploy,
    release: &Release,
    manifest: &Manifest,
    all: &[Arc<Process>],
) -> Result<(), ApiError> {
    let mut enough = true;
    for service in &manifest.services {
        let new: Vec<_> = of(all, &service.name)
            .filter(|p| p.release == deploy.release)
            .collect();
        let old: Vec<_> = of(all, &service.name)
            .filter(|p| p.release != deploy.release)
            .collect();
        // Those that end still take room.
        let ending = all
            .iter()
            .filter(|p| p.service == service.name && p.phase == Phase::Stopping)
            .count();
        let (min, max) = percents(service, Some(deploy));
        let room = room(wanted(app, service), old.len(), min, max);
        let surplus = old.len().saturating_sub(room.keep);
        stop(state, worst_first(old.clone()).into_iter().take(surplus)).await?;
        let free = room.most.saturating_sub(new.len() + old.len() + ending);
        let more = room.first.saturating_sub(new.len()).min(free);
        if let Err(e) = add(state, app, release, service, more).await {
            return take_back(state, &app.name, &e.message).await;
        }
        enough &= new.iter().filter(|p| p.ready).count() >= room.first;
    }
    if enough {
        switch(state, app, deploy).await?;
    }
    Ok(())
}

/// The one commit by which a release begins to serve.
async fn switch(state: &Shared, app: &App, deploy: &Deploy) -> Result<(), ApiError> {
    let to = deploy.release.clone();
    state
        .change_app(&app.name, |a| {
            // It may have been cancelled or replaced meanwhile.
            if let Some(d) = &mut a.deploy
                && d.stage == Stage::Starting
                && d.release == to
            {
                d.stage = Stage::Switched;
                a.release = to;
            }
            Ok(())
        })
        .await?;
    super::routes::publish(state, &app.name);
    Ok(())
}

async fn finish(state: &Shared, app: &App, deploy: &Deploy) -> Result<(), ApiError> {
    let ended = |a: &mut App| {
        if a.deploy
            .as_ref()
            .is_some_and(|d| d.release == deploy.release && d.stage == Stage::Switched)
        {
            a.deploy = None;
        }
        Ok(())
    };
    state.change_app(&app.name, ended).await?;
    state.say(
        &app.name,
        "promote",
        &format!("release {} is promoted", deploy.release),
    );
    told(state, app, deploy, "success", "").await;
    Ok(())
}

/// Why a promotion cannot succeed any more.
fn hopeless(deploy: &Deploy, all: &[Arc<Process>]) -> Option<String> {
    let bad = all.iter().find(|p| {
        is_service(p)
            && p.release == deploy.release
            && p.restarts >= ENDS
            && p.phase == Phase::Crashed
    })?;
    Some(match bad.exit {
        Some(code) => format!(
            "process {} of service {} ended {} times, with code {code}",
            bad.id, bad.service, bad.restarts
        ),
        None => format!(
            "process {} of service {}: {}",
            bad.id, bad.service, bad.reason
        ),
    })
}

/// What a promotion waited for when its time was over.
fn late(state: &State, deploy: &Deploy, all: &[Arc<Process>]) -> String {
    let waiting = all
        .iter()
        .find(|p| is_service(p) && p.release == deploy.release && !p.ready);
    let Some(p) = waiting else {
        return "timeout".into();
    };
    let why = state.checks.last(&p.id).unwrap_or_else(|| p.reason.clone());
    format!(
        "timeout: process {} of service {} is {}: {why}",
        p.id,
        p.service,
        p.status()
    )
}

/// Decides that a promotion is taken back.
pub(super) async fn take_back(state: &Shared, app: &str, why: &str) -> Result<(), ApiError> {
    state
        .change_app(app, |a| {
            if let Some(d) = &mut a.deploy
                && d.stage == Stage::Starting
            {
                d.stage = Stage::TakingBack;
                d.reason = why.to_owned();
            }
            Ok(())
        })
        .await
}

async fn taken_back(state: &Shared, app: &App, deploy: &Deploy) -> Result<(), ApiError> {
    let failure = Failure {
        release: deploy.release.clone(),
        reason: deploy.reason.clone(),
        at_ms: state.core.now_ms(),
    };
    let ended = |a: &mut App| {
        if a.deploy
            .as_ref()
            .is_some_and(|d| d.stage == Stage::TakingBack)
        {
            a.deploy = None;
            a.failure = Some(failure);
        }
        Ok(())
    };
    state.change_app(&app.name, ended).await?;
    let words = format!(
        "release {} was taken back: {}",
        deploy.release, deploy.reason
    );
    state.say(&app.name, "promote", &words);
    told(state, app, deploy, "error", &deploy.reason).await;
    Ok(())
}

async fn told(state: &Shared, app: &App, deploy: &Deploy, status: &str, error: &str) {
    let data = [("app", &app.name), ("id", &deploy.release)];
    state
        .event(Event {
            action: "release:promote".into(),
            status: status.into(),
            data: data.map(|(k, v)| (k.to_owned(), v.clone())).into(),
            error: error.into(),
            actor: deploy.actor.clone(),
            ..Event::default()
        })
        .await;
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

/// Takes over what happens to instances by themselves.
pub(super) async fn engine_events(state: Shared) {
    let mut events = state.core.engine.events();
    loop {
        let ids: Vec<String> = match events.recv().await {
            Ok(event) => match event.kind {
                EventKind::MainExited(status) => {
                    let (state, id) = (state.clone(), event.id.to_string());
                    let work = state.clone();
                    work.background(async move {
                        super::resources::ended(&state, &id).await;
                        if let Err(e) = start::ended(&state, &id, status.shell_code()).await {
                            tracing::warn!(process = id, error = %e, "its end was not recorded");
                        }
                    });
                    continue;
                }
                EventKind::Failed(_) | EventKind::Stopped | EventKind::Deleted => {
                    vec![event.id.to_string()]
                }
                _ => continue,
            },
            Err(RecvError::Lagged(_)) => {
                let all = state.processes.list();
                all.iter().map(|p| p.id.clone()).collect()
            }
            Err(RecvError::Closed) => return,
        };
        for id in ids {
            if let Err(e) = look(&state, &id).await {
                tracing::warn!(process = id, error = %e, "the state of a process is not known");
            }
        }
    }
}

/// Compares a process' record with what the engine has of it.
pub(super) async fn look(state: &Shared, id: &str) -> Result<(), ApiError> {
    let Some(process) = state
        .processes
        .get(id)
        .filter(|p| p.phase == Phase::Running)
    else {
        return Ok(());
    };
    // Somebody is at it, and will leave it right.
    let Some(_busy) = state.busy(id) else {
        return Ok(());
    };
    let found = state.core.engine.get(&super::state::instance(id)?).await;
    let code = match found {
        Ok(info) if info.main_exit.is_some() => info.main_exit.map(|s| s.shell_code()),
        Ok(info) if info.state == boxrig_engine::InstanceState::Running => None,
        Ok(_) => Some(137),
        Err(e) if e.kind() == boxrig_engine::Kind::NotFound => Some(137),
        Err(e) => return Err(crate::core::engine_error(&e)),
    };
    match code {
        Some(code) => start::ended(state, &process.id, code).await,
        None => Ok(()),
    }
}

/// After a start: records and engine are brought together again.
pub(super) async fn recover(state: &Shared) -> Result<(), ApiError> {
    let all = state.core.engine.list().await;
    let all = all.map_err(|e| crate::core::engine_error(&e))?;
    let known: BTreeSet<String> = state.processes.with(|all| all.keys().cloned().collect());
    for info in all {
        let labels = &info.spec.labels;
        let ours = labels
            .get(super::state::LABEL)
            .is_some_and(|v| v == super::state::LABEL_VALUE);
        let id = info.id().to_string();
        if ours && !labels.contains_key("resource") && !known.contains(&id) {
            let _ = state.core.engine.delete(info.id()).await;
        }
    }
    for process in state.processes.list() {
        if process.phase == Phase::Running {
            look(state, &process.id).await?;
        }
    }
    Ok(())
}

/// Stops everything in the background.
pub(super) fn halt(state: &State) {
    lock(&state.tasks).abort_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_both_or_for_some() {
        let case = |want, old, min, max| {
            let r = room(want, old, min, max);
            (r.most, r.keep, r.first)
        };
        // Twice as many may be there: all new beside all old.
        assert_eq!(case(3, 3, 50, 200), (6, 3, 3));
        assert_eq!(case(3, 0, 50, 200), (6, 0, 3));
        // No more than wanted: half stay.
        assert_eq!(case(4, 4, 50, 100), (4, 2, 2));
        assert_eq!(case(3, 3, 50, 100), (3, 2, 1));
        // The old one goes first.
        assert_eq!(case(1, 1, 0, 100), (1, 0, 1));
        // Limits that leave no way: one goes.
        assert_eq!(case(1, 1, 100, 100), (1, 0, 1));
        assert_eq!(case(3, 3, 100, 100), (3, 2, 1));
        // From many to few, and to none.
        assert_eq!(case(1, 10, 50, 200), (2, 1, 1));
        assert_eq!(case(0, 2, 50, 200), (1, 0, 0));
    }
}
