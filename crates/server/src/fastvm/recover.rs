//! After a start: records and engine are brought together again.
//!
//! What was acknowledged is on record and in the engine. What is in one of them only was under way when the server
//! ended and is undone; what the engine says of the state of a machine is true.

use std::collections::BTreeMap;

use boxrig_engine::{InstanceInfo, InstanceState, Kind};
use boxrig_wire::ApiError;
use futures_util::{StreamExt, stream};

use super::due::Due;
use super::imports;
use super::record::{Machine, Phase, Snapshot, SnapshotPhase};
use super::snapshots::engine_id;
use super::state::{LABEL, LABEL_VALUE, Shared, engine_error, instance};

/// How many instances are removed at a time.
const AT_ONCE: usize = 16;

/// What becomes of a record.
#[derive(Debug, PartialEq)]
enum Fate {
    Keep,
    Change(Box<Machine>),
    Remove,
}

/// Compares a record with what the engine has of it.
fn fate(machine: &Machine, found: Option<&InstanceInfo>, now_ms: u64) -> Fate {
    if machine.phase == Phase::Deleting {
        return Fate::Remove;
    }
    let mut now = machine.clone();
    let ended = |m: &mut Machine, phase: Phase, reason: Option<String>| {
        let left = m.expires_ms.take().map(|at| at.saturating_sub(now_ms));
        m.remaining_ms = left.or(m.remaining_ms);
        m.phase = phase;
        m.reason = reason;
    };
    match (machine.phase, found.map(|i| i.state)) {
        // The caller was not answered yet, and nothing was made.
        (Phase::Launching, None) if !machine.accepted => return Fate::Remove,
        (Phase::Launching, None) => {
            let words = "the server ended while it was being made";
            ended(&mut now, Phase::Error, Some(words.to_owned()));
        }
        (_, None) => {
            let words = "its files are gone from the engine";
            ended(&mut now, Phase::Error, Some(words.to_owned()));
        }
        (Phase::Launching, Some(InstanceState::Running)) => {
            now.phase = Phase::Running;
            now.accepted = false;
            now.arm(machine.created_ms);
        }
        (Phase::Running, Some(InstanceState::Running))
        | (Phase::Paused, Some(InstanceState::Paused)) => {}
        (_, Some(InstanceState::Running)) => {
            now.reason = None;
            now.thaw(now_ms);
        }
        (Phase::Resuming, Some(InstanceState::Paused)) => now.phase = Phase::Paused,
        (_, Some(InstanceState::Paused)) => {
            now.reason = None;
            now.freeze(now_ms);
        }
        (_, Some(InstanceState::Stopped)) => ended(&mut now, Phase::Stopped, None),
        (_, Some(_)) => {
            let words = found.and_then(|i| i.reason.clone());
            let words = words.unwrap_or_else(|| "it ended without being asked to".to_owned());
            ended(&mut now, Phase::Error, Some(words));
        }
    }
    if now == *machine {
        Fate::Keep
    } else {
        Fate::Change(Box::new(now))
    }
}

/// Brings records and engine together, before anybody is answered.
pub(super) async fn recover(state: &Shared) -> Result<(), ApiError> {
    let now = state.core.now_ms();
    let mut instances: BTreeMap<String, InstanceInfo> = BTreeMap::new();
    for info in state
        .core
        .engine
        .list()
        .await
        .map_err(|e| engine_error(&e))?
    {
        if info
            .spec
            .labels
            .get(LABEL)
            .is_some_and(|v| v == LABEL_VALUE)
        {
            instances.insert(info.id().to_string(), info);
        }
    }
    let (mut changed, mut removed, mut orphans) = (Vec::new(), Vec::new(), Vec::new());
    for machine in state.machines.list() {
        let found = instances.remove(&machine.id);
        match fate(&machine, found.as_ref(), now) {
            Fate::Keep => {}
            Fate::Change(machine) => changed.push(*machine),
            Fate::Remove => {
                removed.push(machine.id.clone());
                orphans.extend(found.map(|i| i.spec.id));
            }
        }
    }
    orphans.extend(instances.into_values().map(|i| i.spec.id));
    // The engine first: what cannot be removed now stays on record and is tried again.
    let failures: Vec<String> = stream::iter(orphans)
        .map(|id| async move {
            match state.core.engine.delete(&id).await {
                Ok(()) => None,
                Err(e) if e.kind() == Kind::NotFound => None,
                Err(e) => {
                    tracing::error!(vm = %id, error = %e, "what was left of a machine cannot be removed");
                    Some(id.to_string())
                }
            }
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    removed.retain(|id| !failures.contains(id));
    let (ready, gone) = recover_snapshots(state).await?;
    let imports = imports::cut_off(state, now);
    let write = state.core.store.write(|tx| {
        for machine in changed {
            tx.put(&state.machines, &machine.id.clone(), machine)?;
        }
        for snapshot in ready {
            tx.put(&state.snapshots, &snapshot.id.clone(), snapshot)?;
        }
        for id in &removed {
            tx.delete(&state.machines, id);
        }
        for import in imports {
            tx.put(&state.imports, &import.id.clone(), import)?;
        }
        for id in &gone {
            tx.delete(&state.snapshots, id);
        }
        let objects: Vec<String> = tx.with(&state.objects, |all| {
            let of_gone = all
                .values()
                .filter(|o| removed.contains(&o.vm_id) || o.expires_ms <= now);
            of_gone.map(|o| o.id.clone()).collect()
        });
        for id in &objects {
            tx.delete(&state.objects, id);
        }
        let wishes: Vec<String> = tx.with(&state.made, |all| {
            all.iter()
                .filter(|(_, m)| {
                    removed.contains(&m.id) || gone.contains(&m.id) || m.expires_ms <= now
                })
                .map(|(key, _)| key.clone())
                .collect()
        });
        for key in &wishes {
            tx.delete(&state.made, key);
        }
        Ok::<_, ApiError>(objects)
    });
    for id in write.await? {
        state.staging.remove(&id).await;
    }
    set_timers(state);
    state
        .core
        .services
        .withdraw_all(|name| name.ends_with(".proxy"));
    for machine in state.machines.list() {
        state.publish_services(&machine);
    }
    Ok(())
}

/// The snapshots that are ready after all, and those that never came to be.
async fn recover_snapshots(state: &Shared) -> Result<(Vec<Snapshot>, Vec<String>), ApiError> {
    let all = state.core.engine.list_snapshots().await;
    let all = all.map_err(|e| engine_error(&e))?;
    let mut found: Vec<String> = all
        .into_iter()
        .filter(|s| s.spec.labels.get(LABEL).is_some_and(|v| v == LABEL_VALUE))
        .map(|s| s.spec.id.to_string())
        .collect();
    let (mut ready, mut gone) = (Vec::new(), Vec::new());
    let images = state.core.engine.list_images().await;
    let mut images: Vec<String> = images
        .map_err(|e| engine_error(&e))?
        .into_iter()
        .map(|image| image.name)
        .filter(|name| name.starts_with(imports::IMAGES))
        .collect();
    for snapshot in state.snapshots.list() {
        if let Some(image) = &snapshot.image {
            let there = images.iter().position(|name| name == image);
            match (snapshot.phase, there) {
                // Stays in `images`, and is removed below.
                (SnapshotPhase::Deleting, _) => gone.push(snapshot.id.clone()),
                (_, Some(at)) => drop(images.swap_remove(at)),
                (SnapshotPhase::Error, None) => {}
                (_, None) => {
                    let mut now = Snapshot::clone(&snapshot);
                    now.phase = SnapshotPhase::Error;
                    ready.push(now);
                }
            }
            continue;
        }
        let there = found.iter().position(|id| *id == snapshot.id);
        let phase = match (snapshot.phase, there) {
            // Stays in `found`, and is removed below.
            (SnapshotPhase::Deleting, _) => {
                gone.push(snapshot.id.clone());
                continue;
            }
            (SnapshotPhase::Creating, None) => {
                gone.push(snapshot.id.clone());
                continue;
            }
            (_, Some(_)) => SnapshotPhase::Ready,
            (_, None) => SnapshotPhase::Error,
        };
        if let Some(at) = there {
            found.swap_remove(at);
        }
        if phase != snapshot.phase {
            let mut now = Snapshot::clone(&snapshot);
            now.phase = phase;
            ready.push(now);
        }
    }
    for id in found {
        if let Err(e) = state.core.engine.delete_snapshot(&engine_id(&id)?).await
            && e.kind() != Kind::NotFound
        {
            tracing::error!(snapshot = id, error = %e, "what was left of a snapshot cannot be removed");
            gone.retain(|gone| *gone != id);
        }
    }
    for name in images {
        if let Err(e) = state.core.engine.delete_image(&name).await
            && e.kind() != Kind::NotFound
        {
            tracing::error!(image = name, error = %e, "what was left of an import cannot be removed");
        }
    }
    Ok((ready, gone))
}

/// Puts everything that has a time on the queue.
fn set_timers(state: &Shared) {
    state.queue.clear();
    for machine in state.machines.list() {
        state.arm_timer(&machine);
    }
    state.objects.with(|all| {
        for object in all.values() {
            let due = Due::Object(object.id.clone());
            state.queue.set(due, Some(object.expires_ms));
        }
    });
    state.made.with(|all| {
        for (key, made) in all {
            state
                .queue
                .set(Due::Key(key.clone()), Some(made.expires_ms));
        }
    });
}

/// Takes over what the engine says of one machine: it may have ended, or been changed past this API.
pub(super) async fn follow(state: &Shared, id: &str) -> Result<(), ApiError> {
    let _held = state.locks.hold(id).await;
    let Ok(machine) = state.machine(id) else {
        return Ok(());
    };
    if matches!(machine.phase, Phase::Launching | Phase::Deleting) {
        return Ok(());
    }
    let found = match state.core.engine.get(&instance(id)?).await {
        Ok(found) => Some(found),
        Err(e) if e.kind() == Kind::NotFound => None,
        Err(e) => return Err(engine_error(&e)),
    };
    match fate(&machine, found.as_ref(), state.core.now_ms()) {
        Fate::Change(machine) => state.save(*machine).await.map(|_| ()),
        Fate::Keep | Fate::Remove => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boxrig_engine::{InstanceId, InstanceSpec};
    use std::time::SystemTime;

    fn machine(phase: Phase) -> Machine {
        let text = r#"{"id":"a","name":"n","phase":"running","cpu":1,"memory_mib":1,"disk_gib":1,"created_ms":50,
            "ttl":{"seconds":10,"action":"pause"}}"#;
        let mut machine: Machine = serde_json::from_str(text).unwrap();
        machine.arm(100);
        match phase {
            Phase::Paused | Phase::Resuming => machine.freeze(5_100),
            Phase::Launching => machine.expires_ms = None,
            _ => {}
        }
        machine.phase = phase;
        machine
    }

    fn found(state: InstanceState) -> InstanceInfo {
        let spec = InstanceSpec::new(InstanceId::new("a").unwrap());
        InstanceInfo::new(spec, state, SystemTime::UNIX_EPOCH)
    }

    fn after(phase: Phase, state: Option<InstanceState>) -> Fate {
        fate(&machine(phase), state.map(found).as_ref(), 6_100)
    }

    #[test]
    fn what_was_under_way_is_undone_or_done() {
        assert_eq!(after(Phase::Launching, None), Fate::Remove);
        assert_eq!(
            after(Phase::Deleting, Some(InstanceState::Running)),
            Fate::Remove
        );
        assert_eq!(after(Phase::Deleting, None), Fate::Remove);
        let Fate::Change(m) = after(Phase::Launching, Some(InstanceState::Running)) else {
            panic!()
        };
        assert_eq!((m.phase, m.expires_ms), (Phase::Running, Some(10_050)));
        let mut told = machine(Phase::Launching);
        told.accepted = true;
        let Fate::Change(m) = fate(&told, None, 0) else {
            panic!("a 202 is an answer")
        };
        assert_eq!(m.phase, Phase::Error);
    }

    #[test]
    fn the_engine_tells_the_truth() {
        assert_eq!(
            after(Phase::Running, Some(InstanceState::Running)),
            Fate::Keep
        );
        assert_eq!(
            after(Phase::Paused, Some(InstanceState::Paused)),
            Fate::Keep
        );
        let change = |phase, state| match after(phase, Some(state)) {
            Fate::Change(m) => m,
            other => panic!("{other:?}"),
        };
        let m = change(Phase::Running, InstanceState::Paused);
        assert_eq!((m.phase, m.remaining_ms), (Phase::Paused, Some(4_000)));
        let m = change(Phase::Resuming, InstanceState::Running);
        assert_eq!((m.phase, m.expires_ms), (Phase::Running, Some(11_100)));
        let m = change(Phase::Resuming, InstanceState::Paused);
        assert_eq!((m.phase, m.remaining_ms), (Phase::Paused, Some(5_000)));
        let m = change(Phase::Running, InstanceState::Failed);
        assert_eq!(m.phase, Phase::Error);
        assert!(m.reason.is_some());
        let m = change(Phase::Paused, InstanceState::Stopped);
        assert_eq!(m.phase, Phase::Stopped);
        let Fate::Change(m) = after(Phase::Running, None) else {
            panic!()
        };
        assert_eq!(m.phase, Phase::Error);
        let again = fate(&m, None, 9_999);
        assert_eq!(again, Fate::Keep, "the same finding changes nothing");
    }
}
