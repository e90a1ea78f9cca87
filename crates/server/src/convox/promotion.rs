//! A promotion: a walk over records, so that it goes on where it was when the server ended.
//!
//! 1. `Starting`: processes of the new release are started beside the old ones, as many as the deployment's maximum lets;
//!    the old release serves. Where both do not fit, old ones end first, down to the minimum.
//! 2. When enough of every service are healthy, one commit makes the new release the active one. Requests go to processes
//!    of the active release only, so there is no moment with none and no mixture.
//! 3. `Switched`: the old processes end when their last request has.
//!
//! A new process that cannot be started or keeps ending, and a deadline that passes, take the promotion back: the new
//! processes end, and what was ended of the old ones is started again.

use std::sync::Arc;

use boxrig_wire::ApiError;

use super::manifest::{self, Manifest};
use super::records::{App, Deploy, Event, Failure, Phase, Process, Purpose, Release, Stage};
use super::room::{percents, room};
use super::state::{Shared, State};
use super::worker::{add, is_service, of, stop, wanted, worst_first};

/// A new process that has ended so often takes its promotion back.
const ENDS: u32 = 3;

/// A step of a promotion.
pub(super) async fn step(
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
