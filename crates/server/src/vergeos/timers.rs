//! What is due later: done when the server's clock shows its time, also after a restart.

use std::time::{Duration, SystemTime};

use boxrig_wire::ApiError;

use super::mutate;
use super::state::Cx;

/// How long something that was due and failed waits for its next try.
const AGAIN_MS: u64 = 5_000;

/// Does what is due, when it is due, until it is dropped.
pub(super) async fn run(cx: Cx) {
    loop {
        let next = cx.db.timers.with(|all| {
            let first = all.iter().min_by_key(|(name, timer)| (timer.at_ms, *name));
            first.map(|(name, timer)| (name.clone(), timer.clone()))
        });
        let Some((name, timer)) = next else {
            cx.woken().await;
            continue;
        };
        let due = SystemTime::UNIX_EPOCH + Duration::from_millis(timer.at_ms);
        if cx.core.now_ms() < timer.at_ms {
            tokio::select! {
                () = cx.core.clock.sleep_until(due) => {}
                () = cx.woken() => {}
            }
            // What was due first may have been cancelled, or something earlier set.
            continue;
        }
        let done = fire(&cx, &name, &timer.payload).await;
        let settled = cx.write(|tx| {
            // It may have been set again meanwhile, by its own doing too.
            let set_again = tx.timer(&name).is_some_and(|now| now.at_ms != timer.at_ms);
            match &done {
                _ if set_again => {}
                Ok(()) => tx.cancel(&name),
                Err(_) => tx.at(
                    cx.core.now_ms().saturating_add(AGAIN_MS),
                    &name,
                    timer.payload.clone(),
                )?,
            }
            Ok(())
        });
        let settled = settled.await;
        if let Err(e) = done.and(settled) {
            tracing::warn!(name, error = %e, "not done in time, tried again");
            // A store that is closing ends this task soon; until then it must not spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn fire(cx: &Cx, name: &str, payload: &serde_json::Value) -> Result<(), ApiError> {
    if mutate::lost_timer(name) {
        return Ok(());
    }
    for behaviour in &cx.behaviours {
        if behaviour.timer(cx, name, payload).await? {
            return Ok(());
        }
    }
    tracing::warn!(name, "a timer is nobody's");
    Ok(())
}
