//! Steps that have been carried out before: snapshots of the engine, known by what led to them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use boxrig_engine::{Engine, Kind, SnapshotId, SnapshotInfo};
use sha2::{Digest, Sha256};

use crate::error::Result;

/// The label by which instances and snapshots of builds are known.
pub(crate) const LABEL: &str = "platform";
/// Its value.
pub(crate) const LABEL_VALUE: &str = "build";
/// The label with a step's key.
const KEY: &str = "step";
/// Most snapshots that are kept.
const KEPT: usize = 400;

/// What led to a state of files: 64 hexadecimal digits.
pub(crate) type Key = String;

/// A key out of its parts.
pub(crate) fn key(parts: &[&[u8]]) -> Key {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    hex(&digest.finalize())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The labels of a build's instance or snapshot.
pub(crate) fn labels(key: Option<&str>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([(LABEL.to_owned(), LABEL_VALUE.to_owned())]);
    if let Some(key) = key {
        labels.insert(KEY.to_owned(), key.to_owned());
    }
    labels
}

/// Which snapshots builds of this process stand on right now.
#[derive(Debug, Default, Clone)]
pub(crate) struct InUse(Arc<Mutex<HashMap<SnapshotId, usize>>>);

impl InUse {
    fn counts(&self) -> MutexGuard<'_, HashMap<SnapshotId, usize>> {
        // Changed by single steps only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a snapshot until the guard goes.
    pub(crate) fn hold(&self, id: &SnapshotId) -> Held {
        *self.counts().entry(id.clone()).or_default() += 1;
        Held {
            all: self.clone(),
            id: id.clone(),
        }
    }
}

/// A snapshot that is not to be removed.
#[derive(Debug)]
pub(crate) struct Held {
    all: InUse,
    id: SnapshotId,
}

impl Held {
    pub(crate) fn id(&self) -> &SnapshotId {
        &self.id
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        self.all.hold(&self.id)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut counts = self.all.counts();
        if let Some(count) = counts.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.id);
            }
        }
    }
}

/// The snapshots of builds, the oldest first.
pub(crate) async fn all(engine: &dyn Engine) -> Result<Vec<SnapshotInfo>> {
    let mut found = engine.list_snapshots().await?;
    found.retain(|s| s.spec.labels.get(LABEL).is_some_and(|v| v == LABEL_VALUE));
    found.sort_by_key(|s| s.created_at);
    Ok(found)
}

/// The newest snapshot for every key.
pub(crate) async fn index(engine: &dyn Engine) -> Result<HashMap<Key, SnapshotId>> {
    let with_key = |s: SnapshotInfo| Some((s.spec.labels.get(KEY)?.clone(), s.spec.id));
    Ok(all(engine)
        .await?
        .into_iter()
        .filter_map(with_key)
        .collect())
}

/// Removes the oldest snapshots beyond `KEPT`, or all of them, but those in use.
pub(crate) async fn prune(engine: &dyn Engine, in_use: &InUse, everything: bool) -> Result<usize> {
    let found = all(engine).await?;
    let kept = if everything { 0 } else { KEPT };
    let surplus = found.len().saturating_sub(kept);
    let mut gone = 0;
    for snapshot in found.into_iter().take(surplus) {
        if in_use.counts().contains_key(&snapshot.spec.id) {
            continue;
        }
        match engine.delete_snapshot(&snapshot.spec.id).await {
            Ok(()) => gone += 1,
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(gone)
}
