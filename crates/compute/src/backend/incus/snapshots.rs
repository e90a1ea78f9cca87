//! Snapshots of an instance, and copies of it.

use std::collections::BTreeMap;
use std::time::Duration;

use boxrig_incus::models::{InstancePut, InstanceSnapshotsPost, InstanceSource, InstancesPost};
use boxrig_incus::ops;
use boxrig_wire::{Error, Json, Kind, NoBody, Result, Untrusted};

use super::{Incus, LABELS, TOKEN_KEY, facts, with};
use crate::{ForkSpec, Instance, Snapshot, SnapshotSpec};

impl Incus {
    pub(super) async fn snapshot_of(&self, name: &str, spec: SnapshotSpec) -> Result<Snapshot> {
        let own = || format!("snap-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let snapshot = spec.name.unwrap_or_else(own);
        let post = with(|p: &mut InstanceSnapshotsPost| {
            p.name = snapshot.clone();
        });
        let started = self
            .call::<ops::instance_snapshots::InstanceSnapshotsPost>(
                (name.to_owned(),),
                Default::default(),
                Json(post),
            )
            .await?;
        self.ended(started, Duration::from_secs(600)).await?;
        let path = (name.to_owned(), snapshot.clone());
        let got = self
            .call::<ops::instance_snapshots::InstanceSnapshotGet>(path, Default::default(), NoBody)
            .await?;
        let mut made = Snapshot::new(format!("{name}/{snapshot}"));
        made.name = Untrusted::new(snapshot);
        made.instance = Some(name.to_owned());
        made.state = Untrusted::new("ready");
        made.created = facts::time(&got.metadata.created_at);
        made.raw = serde_json::to_value(&got.metadata).unwrap_or_default();
        Ok(made)
    }

    pub(super) async fn back_to(&self, name: &str, snapshot: &str) -> Result<Instance> {
        let snapshot = match split_snapshot(snapshot) {
            Ok((of, snapshot)) if of == name => snapshot,
            Ok((of, _)) => {
                let (of, name) = (Untrusted::new(of), Untrusted::new(name));
                let why = format!("that is a snapshot of {of}, not of {name}");
                return Err(Error::new(Kind::Invalid, why));
            }
            Err(_) => snapshot,
        };
        // With `restore` the server takes nothing else of the document.
        let put = with(|p: &mut InstancePut| {
            p.restore = snapshot.to_owned();
        });
        let started = self
            .call::<ops::instances::InstancePut>((name.to_owned(),), Default::default(), Json(put))
            .await?;
        self.ended(started, Duration::from_secs(600)).await?;
        Ok(self.instance(self.kept(name).await?))
    }

    pub(super) async fn copy_of(&self, name: &str, spec: ForkSpec) -> Result<Instance> {
        let original = self.kept(name).await?;
        let token = uuid::Uuid::new_v4().simple().to_string();
        let copy = spec.name.unwrap_or_else(|| facts::name_of(&token));
        let mut config: BTreeMap<String, String> = spec
            .labels
            .iter()
            .map(|(k, v)| (format!("{LABELS}{k}"), v.clone()))
            .collect();
        // The copy is no launch of the original's token.
        config.insert(TOKEN_KEY.to_owned(), token.clone());
        let mut post = with(|p: &mut InstancesPost| {
            p.name = copy;
            p.config = config;
            p.start = true;
            p.source = with(|p: &mut InstanceSource| {
                p.r#type = "copy".to_owned();
                p.source = name.to_owned();
                p.instance_only = true;
                // Files may change while a running instance is copied: no reason to give up.
                p.allow_inconsistent = true;
            });
        });
        post.r#type = original.r#type;
        self.create(post, &token, Duration::from_secs(600)).await
    }
}

/// `instance/snapshot`.
pub(super) fn split_snapshot(id: &str) -> Result<(&str, &str)> {
    id.split_once('/')
        .ok_or_else(|| Error::new(Kind::Invalid, "a snapshot's id is INSTANCE/SNAPSHOT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_named_with_its_instance() {
        assert_eq!(split_snapshot("c1/s").unwrap(), ("c1", "s"));
        assert_eq!(split_snapshot("c1").unwrap_err().kind(), Kind::Invalid);
    }
}
