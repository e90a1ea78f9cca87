//! One worker for each app: brings what runs to what is on record, whenever something has changed.

use std::sync::Arc;
use std::time::Duration;

use boxrig_wire::ApiError;

use super::records::Phase;
use super::state::{Shared, State, instance};
use crate::core::engine_error;
use crate::state::lock;

/// After a failure the worker looks again this much later.
const AGAIN: Duration = Duration::from_secs(2);

impl State {
    /// Starts the worker of an app.
    pub(super) fn start_worker(self: &Arc<Self>, app: &str) {
        let (state, app) = (self.clone(), app.to_owned());
        let waker = self.waker(&app);
        lock(&self.tasks).spawn(async move {
            loop {
                match step(&state, &app).await {
                    Ok(true) => return,
                    Ok(false) => waker.notified().await,
                    Err(e) => {
                        tracing::warn!(app, error = %e, "an app's worker looks again");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        });
    }
}

/// Does what there is to do; true when the app is gone.
async fn step(state: &Shared, name: &str) -> Result<bool, ApiError> {
    let Some(app) = state.apps.get(name) else {
        return Ok(true);
    };
    for process in state.processes_of(name) {
        if app.deleting || process.phase == Phase::Stopping {
            remove(state, &process.id).await?;
        }
    }
    if app.deleting {
        for (_, object) in super::state::of_app(&state.objects, name) {
            super::objects::remove(state, &object.file).await;
        }
        super::apps::forget(state, name).await?;
        state.logs.forget(name);
        return Ok(true);
    }
    Ok(false)
}

/// Ends a process for good: its instance, then its record.
async fn remove(state: &Shared, id: &str) -> Result<(), ApiError> {
    match state.core.engine.delete(&instance(id)?).await {
        Ok(()) => {}
        Err(e) if e.kind() == boxrig_engine::Kind::NotFound => {}
        Err(e) => return Err(engine_error(&e)),
    }
    state
        .core
        .store
        .write(|tx| {
            tx.delete(&state.processes, id);
            Ok::<_, ApiError>(())
        })
        .await?;
    state.usage.forget(id);
    Ok(())
}
