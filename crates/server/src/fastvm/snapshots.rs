//! Snapshots: files in the engine, and the configuration that a restore inherits.

use std::sync::Arc;

use boxrig_engine::{SnapshotId, SnapshotSpec};
use boxrig_fastvm::{DeleteResponse, Snapshot as Shown, ops};
use boxrig_wire::{ApiError, Endpoint, JsonReply, Request};

use super::once::{Wish, fulfilled_and_gone};
use super::record::{Machine, Phase, Snapshot, SnapshotPhase};
use super::state::{Shared, State, detached, engine_error, instance, not_running, start};
use super::view::shown;
use super::vms::deleted;
use super::{Cx, quota, rules};
use crate::faults::crash_point;

/// A snapshot that is shown.
pub(super) fn find(state: &State, id: &str) -> Result<Arc<Snapshot>, ApiError> {
    state
        .snapshots
        .get(id)
        .filter(|s| shown(s))
        .ok_or_else(no_snapshot)
}

fn no_snapshot() -> ApiError {
    ApiError::not_found("no such snapshot")
}

/// A snapshot's id as the engine's.
pub(super) fn engine_id(id: &str) -> Result<SnapshotId, ApiError> {
    SnapshotId::new(id).map_err(|_| no_snapshot())
}

pub(super) async fn list(
    cx: Cx,
    _: Request<ops::ListSnapshots>,
) -> Result<JsonReply<Vec<Shown>>, ApiError> {
    let all = cx.state.snapshots.list();
    let all = all.iter().filter(|s| shown(s));
    Ok(JsonReply::ok(all.map(|s| cx.state.snapshot(s)).collect()))
}

pub(super) async fn get(
    cx: Cx,
    rq: Request<ops::GetSnapshot>,
) -> Result<JsonReply<Shown>, ApiError> {
    let snapshot = find(&cx.state, &rq.path.0)?;
    Ok(JsonReply::ok(cx.state.snapshot(&snapshot)))
}

pub(super) async fn create(
    cx: Cx,
    rq: Request<ops::CreateSnapshot>,
) -> Result<JsonReply<Shown>, ApiError> {
    let request = rq.body.0;
    cx.state.machine(&request.vm_id)?;
    let key = rq.headers.key.as_deref();
    let (wish, before) = Wish::of(&cx.state, ops::CreateSnapshot::META, key, &request).await?;
    let snapshot = match before {
        Some(id) => find(&cx.state, &id).map_err(|_| fulfilled_and_gone(&id))?,
        None => {
            let state = cx.state.clone();
            detached(take(state, request.vm_id, request.name, wish)).await?
        }
    };
    Ok(JsonReply::created(cx.state.snapshot(&snapshot)))
}

async fn take(
    state: Shared,
    vm_id: String,
    name: Option<String>,
    wish: Wish,
) -> Result<Arc<Snapshot>, ApiError> {
    let _held = state.locks.hold(&vm_id).await;
    let machine = state.machine(&vm_id)?;
    match machine.phase {
        Phase::Running | Phase::Paused => {}
        _ => return Err(not_running(state.status(&machine))),
    }
    // Nothing can have changed since: the same record again.
    let same = machine.pause_snapshot.as_deref();
    if let Some(same) = same.and_then(|id| find(&state, id).ok()) {
        return Ok(same);
    }
    let mut snapshot = Snapshot {
        id: state.core.ids.uuid().to_string(),
        name: rules::name(name.as_deref(), || {
            format!("snapshot-{}", rules::short(&vm_id))
        }),
        phase: SnapshotPhase::Creating,
        vm_id: vm_id.clone(),
        created_ms: state.core.now_ms(),
        cpu: machine.cpu,
        memory_mib: machine.memory_mib,
        disk_gib: machine.disk_gib,
        metadata: machine.metadata.clone(),
        env: machine.env.clone(),
        services: machine.services.clone(),
        firewall: machine.firewall.clone(),
        image: None,
    };
    let spec = SnapshotSpec {
        id: engine_id(&snapshot.id)?,
        labels: State::labels(&snapshot.name),
    };
    let record = snapshot.clone();
    let fulfilled = wish.fulfilled_by(&state, &snapshot.id);
    let write = start(state.core.store.write(|tx| {
        let count = tx.with(&state.snapshots, std::collections::BTreeMap::len);
        quota::one_more_snapshot(&state.limits, count)?;
        tx.put(&state.snapshots, &record.id.clone(), record)?;
        if let Some((key, made)) = fulfilled {
            tx.put(&state.made, &key, made)?;
        }
        Ok::<_, ApiError>(())
    }))
    .await?;
    let slow = state
        .core
        .faults
        .slow_state(ops::CreateSnapshot::META, "creating");
    let instance = instance(&vm_id)?;
    let engine = async {
        state.slowly(slow).await;
        let made = state.core.engine.snapshot(&instance, spec.clone()).await;
        crash_point("engine.snapshot");
        made
    };
    let (written, made) = tokio::join!(write.committed(), engine);
    let wish_key = wish.recorded(&state);
    let failure = match (written, made) {
        (Ok(()), Ok(_)) => None,
        (Err(e), made) => {
            if made.is_ok() {
                let _ = state.core.engine.delete_snapshot(&spec.id).await;
            }
            Some(e)
        }
        (Ok(()), Err(e)) => Some(engine_error(&e)),
    };
    if let Some(failure) = failure {
        let forget = state.core.store.write(|tx| {
            tx.delete(&state.snapshots, &snapshot.id);
            if let Some(key) = &wish_key {
                tx.delete(&state.made, key);
            }
            Ok::<_, ApiError>(())
        });
        forget.await?;
        return Err(failure);
    }
    snapshot.phase = SnapshotPhase::Ready;
    let kept = Arc::new(snapshot.clone());
    let paused = (machine.phase == Phase::Paused).then(|| {
        let mut machine = Machine::clone(&machine);
        machine.pause_snapshot = Some(snapshot.id.clone());
        machine
    });
    let ready = state.core.store.write(|tx| {
        tx.put(&state.snapshots, &kept.id, snapshot)?;
        if let Some(machine) = paused {
            tx.put(&state.machines, &vm_id, machine)?;
        }
        Ok::<_, ApiError>(())
    });
    ready.await?;
    Ok(kept)
}

pub(super) async fn update(
    cx: Cx,
    rq: Request<ops::UpdateSnapshot>,
) -> Result<JsonReply<Shown>, ApiError> {
    let snapshot = find(&cx.state, &rq.path.0)?;
    let Some(name) = rq.body.0.name else {
        return Ok(JsonReply::ok(cx.state.snapshot(&snapshot)));
    };
    let state = cx.state.clone();
    let snapshot = detached(async move {
        let renamed = state.core.store.write(|tx| {
            // As it is now, not as it was seen.
            let now = tx.get(&state.snapshots, &snapshot.id).filter(|s| shown(s));
            let mut now = Snapshot::clone(&*now.ok_or_else(no_snapshot)?);
            now.name = rules::name(Some(&name), || {
                format!("snapshot-{}", rules::short(&now.vm_id))
            });
            tx.put(&state.snapshots, &now.id.clone(), now.clone())?;
            Ok::<_, ApiError>(now)
        });
        renamed.await
    })
    .await?;
    Ok(JsonReply::ok(cx.state.snapshot(&snapshot)))
}

pub(super) async fn delete(
    cx: Cx,
    rq: Request<ops::DeleteSnapshot>,
) -> Result<JsonReply<DeleteResponse>, ApiError> {
    let (id,) = rq.path;
    remove(&cx.state, id.clone()).await?;
    Ok(JsonReply::ok(deleted(id)))
}

/// What an imported snapshot has in place of the machine it was made of.
pub(super) fn no_machine_id() -> String {
    String::new()
}

/// Removes a snapshot with its files.
pub(super) async fn remove(state: &Shared, gone: String) -> Result<(), ApiError> {
    let state = state.clone();
    detached(async move {
        let _held = state.locks.hold(&gone).await;
        let snapshot = find(&state, &gone)?;
        let engine_id = engine_id(&gone)?;
        if snapshot.phase == SnapshotPhase::Creating {
            return Err(ApiError::conflict("the snapshot is being made"));
        }
        let set = async |phase: SnapshotPhase| {
            let write = state.core.store.write(|tx| {
                if let Some(now) = tx.get(&state.snapshots, &gone) {
                    let mut now = Snapshot::clone(&now);
                    now.phase = phase;
                    tx.put(&state.snapshots, &gone, now)?;
                }
                Ok::<_, ApiError>(())
            });
            write.await
        };
        set(SnapshotPhase::Deleting).await?;
        let deleted = match &snapshot.image {
            Some(image) => state.core.engine.delete_image(image).await,
            None => state.core.engine.delete_snapshot(&engine_id).await,
        };
        match deleted {
            Ok(()) => {}
            Err(e) if e.kind() == boxrig_engine::Kind::NotFound => {}
            Err(e) => {
                set(snapshot.phase).await?;
                return Err(engine_error(&e));
            }
        }
        let forget = state.core.store.write(|tx| {
            tx.delete(&state.snapshots, &gone);
            Ok::<_, ApiError>(())
        });
        forget.await
    })
    .await
}
