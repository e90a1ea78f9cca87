//! Reset, save and load.

use boxrig_engine::{
    BASE_IMAGE, Engine, InstanceId, InstanceSpec, InstanceState, Isolation, SnapshotSpec, Source,
    StopMode,
};
use boxrig_wire::{ApiError, JsonReply, Request};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::ops::{LoadState, Reset, SaveState};
use super::super::types::Done;
use super::{Called, api};
use crate::state::Dump;

/// The form of a saved state.
const FORMAT: u32 = 1;

/// A saved state. Instances and snapshots are in it only where they have no files: on the memory engine.
#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    engine: String,
    documents: Dump,
    #[serde(default)]
    instances: Vec<(InstanceSpec, InstanceState)>,
    #[serde(default)]
    snapshots: Vec<SnapshotSpec>,
}

pub(super) async fn reset(call: Called, _: Request<Reset>) -> Result<JsonReply<Done>, ApiError> {
    let _alone = call.exclusive.lock().await;
    for platform in call.platforms() {
        platform.reset().await?;
    }
    clear(&*call.core.engine).await?;
    call.core.store.replace(Dump::new()).await?;
    // A platform may have something from its first start on.
    for platform in call.platforms() {
        platform.reload().await;
    }
    Ok(JsonReply::ok(Done { done: true }))
}

/// Removes what platforms have left in the engine.
async fn clear(engine: &dyn Engine) -> Result<(), ApiError> {
    for info in engine.list().await.map_err(api)? {
        gone(engine.delete(info.id()).await)?;
    }
    for info in engine.list_snapshots().await.map_err(api)? {
        gone(engine.delete_snapshot(&info.spec.id).await)?;
    }
    Ok(())
}

fn gone(result: boxrig_engine::Result<()>) -> Result<(), ApiError> {
    match result {
        Err(e) if e.kind() != boxrig_engine::Kind::NotFound => Err(api(e)),
        _ => Ok(()),
    }
}

fn has_files(engine: &dyn Engine) -> bool {
    engine.capabilities().isolation != Isolation::Simulated
}

async fn is_empty(engine: &dyn Engine) -> Result<bool, ApiError> {
    let instances = engine.list().await.map_err(api)?;
    let snapshots = engine.list_snapshots().await.map_err(api)?;
    Ok(instances.is_empty() && snapshots.is_empty())
}

pub(super) async fn save(
    call: Called,
    _: Request<SaveState>,
) -> Result<JsonReply<Value>, ApiError> {
    let _alone = call.exclusive.lock().await;
    let engine = &*call.core.engine;
    if has_files(engine) && !is_empty(engine).await? {
        return Err(ApiError::conflict(
            "there are instances or snapshots, whose files a saved state cannot hold on this engine; delete them \
             first, or copy the data directory while the server is stopped",
        ));
    }
    let instances = engine.list().await.map_err(api)?;
    let snapshots = engine.list_snapshots().await.map_err(api)?;
    let saved = Saved {
        format: FORMAT,
        engine: engine.name().to_owned(),
        documents: call.core.store.dump()?,
        instances: instances.into_iter().map(|i| (i.spec, i.state)).collect(),
        snapshots: snapshots.into_iter().map(|s| s.spec).collect(),
    };
    let value = serde_json::to_value(saved)
        .map_err(|e| ApiError::new(boxrig_wire::Kind::Failed, e.to_string()))?;
    Ok(JsonReply::ok(value))
}

pub(super) async fn load(
    call: Called,
    request: Request<LoadState>,
) -> Result<JsonReply<Done>, ApiError> {
    let saved: Saved = serde_json::from_value(request.body.0)
        .map_err(|e| ApiError::invalid(format!("not a saved state: {e}")))?;
    if saved.format != FORMAT {
        return Err(ApiError::invalid(format!(
            "the saved state has format {}, this version reads {FORMAT}",
            saved.format
        )));
    }
    let _alone = call.exclusive.lock().await;
    let engine = &*call.core.engine;
    if !is_empty(engine).await? {
        return Err(ApiError::conflict(
            "there are instances or snapshots: reset the server first",
        ));
    }
    if has_files(engine) && !(saved.instances.is_empty() && saved.snapshots.is_empty()) {
        return Err(ApiError::conflict(
            "the saved state has simulated instances, which only the memory engine takes",
        ));
    }
    let loaded = async {
        bring_back(engine, saved.instances, saved.snapshots).await?;
        call.core.store.replace(saved.documents).await?;
        Ok(())
    };
    let loaded: Result<(), ApiError> = loaded.await;
    if loaded.is_err() {
        clear(engine).await?;
    }
    loaded?;
    for platform in call.platforms() {
        platform.reload().await;
    }
    Ok(JsonReply::ok(Done { done: true }))
}

/// Makes simulated instances and snapshots again.
async fn bring_back(
    engine: &dyn Engine,
    instances: Vec<(InstanceSpec, InstanceState)>,
    snapshots: Vec<SnapshotSpec>,
) -> Result<(), ApiError> {
    if !snapshots.is_empty() {
        // A snapshot is made of something; what it was made of may be gone since.
        let id = InstanceId::new("boxrig-load").map_err(api)?;
        engine
            .create(InstanceSpec::new(id.clone()))
            .await
            .map_err(api)?;
        for spec in snapshots {
            engine.snapshot(&id, spec).await.map_err(api)?;
        }
        engine.delete(&id).await.map_err(api)?;
    }
    for (mut spec, state) in instances {
        let id = spec.id.clone();
        let made = engine.create(spec.clone()).await;
        if made
            .as_ref()
            .is_err_and(|e| e.kind() == boxrig_engine::Kind::NotFound)
        {
            // Its source is gone since; nothing of it is in a simulated instance.
            spec.source = Source::Image(BASE_IMAGE.to_owned());
            engine.create(spec).await.map_err(api)?;
        } else {
            made.map_err(api)?;
        }
        match state {
            InstanceState::Paused => engine.pause(&id).await.map_err(api)?,
            InstanceState::Stopped | InstanceState::Failed => {
                engine.stop(&id, StopMode::default()).await.map_err(api)?
            }
            _ => continue,
        };
    }
    Ok(())
}
