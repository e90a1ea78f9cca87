//! Timers of apps: runs that begin by the server's clock.

use std::time::{Duration, SystemTime};

use super::records::{Phase, Purpose};
use super::services::active;
use super::start::{self, Run};
use super::state::Shared;

/// How often it is looked whether apps have other timers.
const LOOK: Duration = Duration::from_secs(20);

/// Fires timers for as long as the server runs. A time that passes while it does not run is not made up for.
pub(super) async fn run(state: Shared) {
    let mut last = state.core.now_ms() / 1000;
    loop {
        let next = due(&state, last).iter().map(|(at, ..)| *at).min();
        let look = tokio::time::sleep(LOOK);
        match next {
            None => look.await,
            Some(at) => {
                let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
                tokio::select! {
                    () = state.core.clock.sleep_until(at) => {}
                    () = look => {}
                }
            }
        }
        let now = state.core.now_ms() / 1000;
        for (at, app, timer) in due(&state, last) {
            if at <= now {
                fire(&state, app, timer);
            }
        }
        last = now.max(last);
    }
}

/// The next firing of every timer after `last`.
fn due(state: &Shared, last: u64) -> Vec<(u64, String, super::manifest::Timer)> {
    let mut all = Vec::new();
    for app in state.apps.list() {
        if app.deleting {
            continue;
        }
        let Ok(Some(manifest)) = active(state, &app) else {
            continue;
        };
        for timer in manifest.timers {
            if let Some(at) = timer.schedule.next_after(last) {
                all.push((at, app.name.clone(), timer));
            }
        }
    }
    all
}

fn fire(state: &Shared, app: String, timer: super::manifest::Timer) {
    let state = state.clone();
    let work = state.clone();
    work.background(async move {
        let name = format!("timer-{}", timer.name);
        let busy = state.processes_of(&app).iter().any(|p| {
            p.purpose == Purpose::Timer
                && p.id.starts_with(&format!("{name}-"))
                && matches!(p.phase, Phase::Pending | Phase::Running)
        });
        if busy && !timer.concurrent {
            state.say(
                &app,
                "timer",
                &format!("timer {}: the last run goes on, not started", timer.name),
            );
            return;
        }
        let run = Run {
            service: timer.service,
            command: timer.command,
            purpose: Purpose::Timer,
            name,
            ..Run::default()
        };
        match start::one_off(&state, &app, run).await {
            Ok(process) => state.say(
                &app,
                "timer",
                &format!("timer {}: process {}", timer.name, process.id),
            ),
            Err(e) => state.say(
                &app,
                "timer",
                &format!("timer {}: {}", timer.name, e.message),
            ),
        }
    });
}
