//! What happens to instances by themselves, and how records and engine are brought together after a start.

use std::collections::BTreeSet;

use boxrig_engine::EventKind;
use boxrig_wire::ApiError;
use tokio::sync::broadcast::error::RecvError;

use super::records::Phase;
use super::start;
use super::state::Shared;

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
