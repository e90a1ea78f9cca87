//! New instances: the name, the folders, the layers of files they start from.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use super::life::Instance;
use super::record::{Files, Record};
use super::snapshots::instance_exists;
use super::{Inner, blocking, lock, snapshots, tree};
use crate::{
    BASE_IMAGE, EnforcedLimits, Error, EventKind, InstanceId, InstanceInfo, InstanceSpec,
    InstanceState, Kind, Result, Source, check,
};

impl Inner {
    pub(super) async fn create(self: &Arc<Self>, spec: InstanceSpec) -> Result<InstanceInfo> {
        check::spec(&spec)?;
        let id = spec.id.clone();
        let _name = Reservation::take(self, &id)?;
        let _layers = self.layers.read().await;
        let files = self.source_files(&spec.source).await?;
        let record = Record {
            spec,
            created_at: self.options.clock.now(),
            started_at: None,
            state: InstanceState::Stopped,
            reason: None,
            main_exit: None,
            enforced: EnforcedLimits::default(),
            files,
            generation: 0,
            pending_layer: None,
            run: None,
        };
        let instance = Instance::new(id.clone(), self.dirs.instance(&id), record);
        let made = self.make_and_start(&instance).await;
        if let Err(error) = made {
            instance.mark_deleted();
            let gone = self
                .dirs
                .discard(&instance.dir)
                .map_err(|e| Error::io("remove a failed instance", e))?;
            let removed = blocking(move || {
                tree::remove(&gone).map_err(|e| Error::io("remove a failed instance", e))
            });
            if let Err(error) = removed.await {
                tracing::warn!(%error, "a failed instance leaves files in the trash");
            }
            return Err(error);
        }
        self.instances().insert(id.clone(), Arc::clone(&instance));
        self.tell(&id, EventKind::Created);
        Ok(instance.info())
    }

    async fn make_and_start(self: &Arc<Self>, instance: &Arc<Instance>) -> Result<()> {
        let (inner, at) = (Arc::clone(self), Arc::clone(instance));
        blocking(move || inner.make_folders(&at)).await?;
        let fresh = self.begin_run(instance).await?;
        self.commit_run(instance, fresh).await
    }

    fn make_folders(&self, instance: &Instance) -> Result<()> {
        let failed = |e: io::Error| Error::io("make the instance's folder", e);
        if instance.dir.exists() {
            // Left by a creation that failed and could not be removed.
            self.dirs.discard(&instance.dir).map_err(failed)?;
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&instance.dir)
            .map_err(failed)?;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(instance.dir.join("mnt"))
            .map_err(failed)?;
        let record = instance.record();
        let rw = record.rw(&instance.dir);
        snapshots::make_rw(&rw).map_err(failed)?;
        if matches!(record.spec.source, Source::Image(_)) {
            self.seed_etc(&record, &rw.join("upper")).map_err(failed)?;
        }
        Ok(())
    }

    /// The files that name the instance and its name server, over the image's.
    fn seed_etc(&self, record: &Record, upper: &Path) -> io::Result<()> {
        let lower = record
            .files
            .layers
            .iter()
            .find_map(|name| fs::symlink_metadata(self.dirs.layer(name).join("etc")).ok());
        if lower.is_some_and(|meta| !meta.is_dir()) {
            return Ok(()); // A link: the image knows what it does.
        }
        let etc = upper.join("etc");
        fs::DirBuilder::new().mode(0o755).create(&etc)?;
        fs::set_permissions(&etc, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let name = &record.spec.hostname;
        let hosts =
            format!("127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        let files = [
            ("hostname", format!("{name}\n")),
            ("hosts", hosts),
            (
                "resolv.conf",
                format!("nameserver {}\n", crate::net::NAMESERVER),
            ),
        ];
        for (name, content) in files {
            let path = etc.join(name);
            fs::write(&path, content)?;
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        }
        Ok(())
    }

    /// The layers a new instance starts from.
    pub(super) async fn source_files(self: &Arc<Self>, source: &Source) -> Result<Files> {
        match source {
            Source::Image(name) if name == BASE_IMAGE => Ok(Files {
                layers: vec![self.base.clone()],
                builtin: true,
            }),
            Source::Image(name) => {
                if let Some(files) = self.built_files(name)? {
                    return Ok(files);
                }
                let image = self.images.get(name)?;
                let layers = image
                    .layers
                    .iter()
                    .rev()
                    .map(|digest| format!("images/layers/{digest}/fs"))
                    .collect();
                Ok(Files {
                    layers,
                    builtin: false,
                })
            }
            Source::Snapshot(id) => self.snapshot_files(id),
            Source::Instance(id) => {
                let instance = self.find(id)?;
                let _op = instance.op.lock().await;
                instance_exists(&instance)?;
                self.freeze_files(&instance).await
            }
        }
    }
}

/// A name that is being used for a new instance.
struct Reservation<'a> {
    inner: &'a Inner,
    id: InstanceId,
}

impl<'a> Reservation<'a> {
    fn take(inner: &'a Inner, id: &InstanceId) -> Result<Self> {
        let taken = || Error::new(Kind::Exists, format!("instance {id} exists"));
        if !lock(&inner.reserved).insert(id.clone()) {
            return Err(taken());
        }
        let reservation = Self {
            inner,
            id: id.clone(),
        };
        if inner.instances().contains_key(id) {
            return Err(taken());
        }
        Ok(reservation)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        lock(&self.inner.reserved).remove(&self.id);
    }
}
