//! The instances of the engine behind VMs.
//!
//! A VM's instance is made at its first start, so a stocked laboratory costs nothing until it is used. Its id is
//! `verge-` and the key of the VM's machine, in a tenant `verge-t` and the tenant's key before it. What a VM was cloned or recovered from is kept in the machine's cell
//! `$image`: a snapshot of the engine that its first start begins with.

use boxrig_engine::{
    InstanceId, InstanceSpec, InstanceState, Kind as EngineKind, Limits, SnapshotId, SnapshotSpec,
    Source, StopMode,
};
use boxrig_wire::ApiError;
use std::collections::BTreeMap;
use std::time::Duration;

use super::kit;
use crate::core::engine_error;
use crate::vergeos::db::Read;
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;
use crate::vergeos::tx::Tx;

/// The cell of a machine that names the snapshot its files begin with.
pub(super) const IMAGE: &str = "$image";
/// The label by which an instance is known to be this platform's.
const LABEL: &str = "platform";
/// How long a guest has for its shutdown.
const GRACE: Duration = Duration::from_secs(5);

/// What the ids of a system's instances begin with: `verge-`, in tenant 5 `verge-t5-`.
fn prefix(scope: &str) -> String {
    let tenants = scope.split('@').skip(1);
    tenants.fold("verge-".to_owned(), |all, tenant| {
        format!("{all}t{tenant}-")
    })
}

/// The engine's id of a machine's instance.
pub(super) fn id_of(cx: &Cx, machine: &str) -> Result<InstanceId, ApiError> {
    let id = format!("{}{machine}", prefix(&cx.scope));
    InstanceId::new(id).map_err(|e| engine_error(&e))
}

fn labels(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (LABEL.to_owned(), "vergeos".to_owned()),
        ("name".to_owned(), name.to_owned()),
    ])
}

/// A host name made of a VM's name.
fn host_name(name: &str, id: &InstanceId) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let text: String = name.chars().map(safe).take(63).collect();
    let text = text.trim_matches('-');
    if text.is_empty() {
        id.to_string()
    } else {
        text.to_owned()
    }
}

/// Runs the instance of a VM's machine; makes it when it does not exist yet.
pub(super) async fn run(cx: &Cx, machine: &str) -> Result<(), ApiError> {
    let id = id_of(cx, machine)?;
    let engine = &cx.core.engine;
    match engine.get(&id).await {
        Ok(info) if info.state == InstanceState::Paused => {
            engine.resume(&id).await.map_err(|e| engine_error(&e))?;
        }
        Ok(info) if info.state == InstanceState::Running => {}
        Ok(_) => {
            engine.start(&id).await.map_err(|e| engine_error(&e))?;
        }
        Err(e) if e.kind() == EngineKind::NotFound => {
            let row = kit::need(&cx.db, "machines", machine)?;
            let mut spec = InstanceSpec::new(id);
            spec.hostname = host_name(row.text("name"), &spec.id);
            spec.labels = labels(row.text("name"));
            spec.limits = Limits {
                memory_bytes: u64::try_from(row.int("ram")).ok().map(|mb| mb << 20),
                cpus: Some(row.int("cores").max(1) as f64),
                ..Limits::default()
            };
            if let Some(image) = snapshot_id(row.text(IMAGE)) {
                spec.source = Source::Snapshot(image);
            }
            engine.create(spec).await.map_err(|e| engine_error(&e))?;
        }
        Err(e) => return Err(engine_error(&e)),
    }
    Ok(())
}

/// Ends what runs in a machine; one that has no instance has nothing to end.
pub(super) async fn halt(cx: &Cx, machine: &str, gently: bool) -> Result<(), ApiError> {
    let mode = StopMode {
        grace: gently.then_some(GRACE),
    };
    match cx.core.engine.stop(&id_of(cx, machine)?, mode).await {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == EngineKind::NotFound => Ok(()),
        Err(e) => Err(engine_error(&e)),
    }
}

/// Freezes a machine with its memory; where the engine cannot, it is stopped.
pub(super) async fn freeze(cx: &Cx, machine: &str) -> Result<(), ApiError> {
    if !cx.core.engine.capabilities().pause {
        return halt(cx, machine, false).await;
    }
    match cx.core.engine.pause(&id_of(cx, machine)?).await {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == EngineKind::NotFound => Ok(()),
        Err(e) => Err(engine_error(&e)),
    }
}

/// Removes the instance and what its files begin with, once the transaction is committed.
pub(super) fn forget(tx: &mut Tx<'_>, machine: &str) {
    let machine = machine.to_owned();
    tx.then(move |cx| async move { remove(&cx, &machine).await });
}

/// Removes the instance of a machine.
pub(super) async fn remove(cx: &Cx, machine: &str) {
    let Ok(id) = id_of(cx, machine) else { return };
    if let Err(e) = cx.core.engine.delete(&id).await
        && e.kind() != EngineKind::NotFound
    {
        tracing::warn!(instance = %id, error = %e, "the instance of a deleted VM remains");
    }
}

/// The name of a snapshot of the engine, when it is one.
pub(super) fn snapshot_id(text: &str) -> Option<SnapshotId> {
    (!text.is_empty())
        .then(|| SnapshotId::new(text).ok())
        .flatten()
}

/// Keeps the files of a machine. `None` when it never ran, or the engine keeps none: there is nothing to keep then.
pub(super) async fn keep(cx: &Cx, machine: &str) -> Result<Option<String>, ApiError> {
    let id = id_of(cx, machine)?;
    let engine = &cx.core.engine;
    if !engine.capabilities().snapshot || engine.get(&id).await.is_err() {
        let row = kit::need(&cx.db, "machines", machine)?;
        // Not started yet: what it begins with is what it has.
        return Ok(Some(row.text(IMAGE).to_owned()).filter(|image| !image.is_empty()));
    }
    let name = format!("verge-{}", cx.core.ids.uuid());
    let snapshot = SnapshotId::new(name.clone()).map_err(|e| engine_error(&e))?;
    let spec = SnapshotSpec {
        id: snapshot,
        labels: labels(&name),
    };
    engine
        .snapshot(&id, spec)
        .await
        .map_err(|e| engine_error(&e))?;
    Ok(Some(name))
}

/// Puts the files of a machine back to what was kept.
pub(super) async fn put_back(cx: &Cx, machine: &str, image: &str) -> Result<(), ApiError> {
    let Some(snapshot) = snapshot_id(image) else {
        return Ok(());
    };
    match cx
        .core
        .engine
        .restore(&id_of(cx, machine)?, &snapshot)
        .await
    {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == EngineKind::NotFound => Ok(()),
        Err(e) => Err(engine_error(&e)),
    }
}

/// Drops kept files that nothing refers to any more, once the transaction is committed.
pub(super) fn drop_image(tx: &mut Tx<'_>, image: &str) {
    let Some(snapshot) = snapshot_id(image) else {
        return;
    };
    let image = image.to_owned();
    tx.then(move |cx| async move {
        let used = |row: &Row| row.text(IMAGE) == image;
        let still = ["machines", "machine_snapshots", "cloud_snapshot_vms"];
        if still.iter().any(|table| cx.db.find(table, &used).is_some()) {
            return;
        }
        if let Err(e) = cx.core.engine.delete_snapshot(&snapshot).await
            && e.kind() != EngineKind::NotFound
        {
            tracing::warn!(%snapshot, error = %e, "a snapshot that nothing uses remains");
        }
    });
}

/// What the engine measures of a machine.
pub(super) async fn stats(cx: &Cx, machine: &str) -> Option<boxrig_engine::Stats> {
    cx.core.engine.stats(&id_of(cx, machine).ok()?).await.ok()
}

/// The machine of a system whose instance this is.
pub(super) fn machine_of<'a>(scope: &str, id: &'a InstanceId) -> Option<&'a str> {
    id.as_str()
        .strip_prefix(prefix(scope).as_str())
        .filter(|m| m.bytes().all(|b| b.is_ascii_digit()))
}
