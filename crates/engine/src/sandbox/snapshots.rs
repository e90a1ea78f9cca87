//! Snapshots, restores and clones: an instance's own files become, or are copied to, a read-only layer.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use super::life::{Instance, wrong_state};
use super::record::{self, Files, SnapshotRecord};
use super::{Inner, blocking, tree};
use crate::{
    Error, InstanceInfo, InstanceState, Kind, Result, SnapshotId, SnapshotInfo, SnapshotSpec,
    StopMode,
};

/// Most layers below an instance: what fits into the options of one overlay mount, with room to spare.
const MAX_LAYERS: usize = 100;

/// Makes an instance's own folder.
pub(super) fn make_rw(rw: &Path) -> io::Result<()> {
    for (dir, mode) in [("", 0o755), ("upper", 0o755), ("work", 0o700)] {
        let dir = rw.join(dir);
        fs::DirBuilder::new().mode(mode).create(&dir)?;
        // Apart from making it, because of the file mask.
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    }
    Ok(())
}

impl Inner {
    /// The files of an instance as layers only, without changing what the instance sees. The caller holds the
    /// instance's lock.
    pub(super) async fn freeze_files(self: &Arc<Self>, instance: &Arc<Instance>) -> Result<Files> {
        let record = instance.record();
        if record.files.layers.len() >= MAX_LAYERS {
            return Err(Error::new(
                Kind::Limit,
                format!(
                    "instance {} is {MAX_LAYERS} snapshots deep, which is the most",
                    instance.id
                ),
            ));
        }
        match record.state {
            InstanceState::Stopped | InstanceState::Failed => {
                let (inner, at) = (Arc::clone(self), Arc::clone(instance));
                blocking(move || inner.turn_into_layer(&at)).await?;
                Ok(instance.record().files)
            }
            InstanceState::Paused => self.copy_into_layer(instance).await,
            InstanceState::Running => {
                self.freeze(instance).await?;
                let copied = self.copy_into_layer(instance).await;
                self.thaw(instance).await?;
                copied
            }
        }
    }

    /// Stopped: its own folder becomes a layer as it is, and it gets a new empty one.
    fn turn_into_layer(&self, instance: &Instance) -> Result<()> {
        let name = format!("layers/l-{}", record::random_name());
        instance.change(|record| record.pending_layer = Some(name.clone()))?;
        self.settle_layer(instance)
    }

    /// Carries out a turn into a layer, from wherever it was interrupted.
    pub(super) fn settle_layer(&self, instance: &Instance) -> Result<()> {
        let failed = |e: io::Error| Error::io("make a layer", e);
        let record = instance.record();
        let Some(name) = record.pending_layer.clone() else {
            return Ok(());
        };
        let (upper, layer) = (
            record.rw(&instance.dir).join("upper"),
            self.dirs.layer(&name),
        );
        if !layer.exists() {
            fs::rename(&upper, &layer).map_err(failed)?;
        }
        let generation = record.generation + 1;
        let rw = instance.dir.join(format!("rw-{generation}"));
        tree::remove(&rw).map_err(failed)?;
        make_rw(&rw).map_err(failed)?;
        instance.change(|record| {
            record.files.layers.insert(0, name);
            record.generation = generation;
            record.pending_layer = None;
        })?;
        tree::remove(&record.rw(&instance.dir)).map_err(failed)
    }

    /// Frozen: its own folder is copied.
    async fn copy_into_layer(self: &Arc<Self>, instance: &Arc<Instance>) -> Result<Files> {
        let record = instance.record();
        let upper = record.rw(&instance.dir).join("upper");
        let name = format!("layers/l-{}", record::random_name());
        let (temp, layer) = (
            self.dirs.trash().join(record::random_name()),
            self.dirs.layer(&name),
        );
        let mut files = record.files;
        blocking(move || {
            let copied = tree::copy(&upper, &temp).and_then(|()| fs::rename(&temp, &layer));
            copied.map_err(|e| {
                let _ = tree::remove(&temp);
                Error::io("copy the instance's files", e)
            })
        })
        .await?;
        files.layers.insert(0, name);
        Ok(files)
    }

    /// Makes a snapshot.
    pub(super) async fn snapshot(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        spec: SnapshotSpec,
    ) -> Result<SnapshotInfo> {
        let _layers = self.layers.read().await;
        let _op = instance.op.lock().await;
        instance_exists(instance)?;
        let path = self.snapshot_path(&spec.id);
        if self.snapshots().contains_key(&spec.id) {
            return Err(Error::new(
                Kind::Exists,
                format!("snapshot {} exists", spec.id),
            ));
        }
        let files = self.freeze_files(instance).await?;
        let top = files.layers.first().map(|name| self.dirs.layer(name));
        let bytes = match top {
            Some(top) => {
                blocking(move || {
                    tree::disk_usage(&top).map_err(|e| Error::io("measure the snapshot", e))
                })
                .await?
            }
            None => 0,
        };
        let info = SnapshotInfo::new(spec, instance.id.clone(), self.options.clock.now(), bytes);
        let record = SnapshotRecord {
            info: info.clone(),
            files,
        };
        let mut snapshots = self.snapshots();
        // Another snapshot of that name may have been made meanwhile, of another instance.
        if snapshots.contains_key(&info.spec.id) {
            return Err(Error::new(
                Kind::Exists,
                format!("snapshot {} exists", info.spec.id),
            ));
        }
        record::save(&path, &record)?;
        snapshots.insert(info.spec.id.clone(), record);
        Ok(info)
    }

    fn snapshot_path(&self, id: &SnapshotId) -> std::path::PathBuf {
        self.dirs.snapshots().join(format!("{id}.json"))
    }

    /// The files of a snapshot.
    pub(super) fn snapshot_files(&self, id: &SnapshotId) -> Result<Files> {
        let snapshots = self.snapshots();
        let record = snapshots.get(id);
        record
            .map(|record| record.files.clone())
            .ok_or_else(|| no_snapshot(id))
    }

    /// Puts an instance's files back.
    pub(super) async fn restore(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        id: &SnapshotId,
    ) -> Result<InstanceInfo> {
        let layers = self.layers.read().await;
        let op = instance.op.lock().await;
        instance_exists(instance)?;
        let files = self.snapshot_files(id)?;
        let before = instance.state();
        self.end_run(instance, StopMode::default()).await?;
        let old = instance.record();
        let generation = old.generation + 1;
        let rw = instance.dir.join(format!("rw-{generation}"));
        make_rw(&rw).map_err(|e| Error::io("make the instance's folder", e))?;
        instance.change(|record| {
            record.files = files;
            record.generation = generation;
            record.pending_layer = None;
            record.state = InstanceState::Stopped;
            record.reason = None;
            record.run = None;
        })?;
        let discarded = self
            .dirs
            .discard(&old.rw(&instance.dir))
            .map_err(|e| Error::io("remove the old files", e))?;
        if matches!(before, InstanceState::Running | InstanceState::Paused) {
            let fresh = self.begin_run(instance).await?;
            self.commit_run(instance, fresh).await?;
        }
        drop((op, layers));
        blocking(move || {
            tree::remove(&discarded).map_err(|e| Error::io("remove the old files", e))
        })
        .await?;
        self.collect_layers().await?;
        Ok(instance.info())
    }

    /// Removes a snapshot.
    pub(super) async fn delete_snapshot(self: &Arc<Self>, id: &SnapshotId) -> Result<()> {
        {
            let mut snapshots = self.snapshots();
            if !snapshots.contains_key(id) {
                return Err(no_snapshot(id));
            }
            fs::remove_file(self.snapshot_path(id))
                .map_err(|e| Error::io("remove the snapshot", e))?;
            snapshots.remove(id);
        }
        self.collect_layers().await
    }

    /// Removes the layers that no instance and no snapshot needs.
    pub(super) async fn collect_layers(self: &Arc<Self>) -> Result<()> {
        // Nobody is between choosing layers and writing down that they are used.
        let _alone = self.layers.write().await;
        let mut used: BTreeSet<String> = BTreeSet::new();
        for instance in self.all() {
            let record = instance.record();
            used.extend(record.files.layers);
            used.extend(record.pending_layer);
        }
        for record in self.snapshots().values() {
            used.extend(record.files.layers.iter().cloned());
        }
        for record in super::lock(&self.built).values() {
            used.extend(record.files.layers.iter().cloned());
        }
        let inner = Arc::clone(self);
        blocking(move || inner.remove_unused(&used)).await
    }

    fn remove_unused(&self, used: &BTreeSet<String>) -> Result<()> {
        let failed = |e: io::Error| Error::io("remove unused layers", e);
        for entry in fs::read_dir(self.dirs.layers()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.starts_with("l-")) else {
                continue;
            };
            if !used.contains(&format!("layers/{name}")) {
                let gone = self.dirs.discard(&entry.path()).map_err(failed)?;
                tree::remove(&gone).map_err(failed)?;
            }
        }
        let digests = used
            .iter()
            .filter_map(|name| super::digest_of(name))
            .collect();
        self.images.collect(&digests).map(drop)
    }
}

/// The instance was not deleted while its lock was waited for.
pub(super) fn instance_exists(instance: &Instance) -> Result<()> {
    if instance.is_deleted() {
        return Err(super::no_instance(&instance.id));
    }
    Ok(())
}

pub(super) fn no_snapshot(id: &SnapshotId) -> Error {
    Error::new(Kind::NotFound, format!("no snapshot {id}"))
}

/// Refuses unless the instance is in `wanted`.
pub(super) fn must_be(instance: &Instance, wanted: InstanceState, word: &str) -> Result<()> {
    match instance.state() {
        state if state == wanted => Ok(()),
        state => Err(wrong_state(&instance.id, state, word)),
    }
}
