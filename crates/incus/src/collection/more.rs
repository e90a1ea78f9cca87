//! What single collections can do beyond the usual verbs.

use boxrig_wire::{ByteBody, ByteReply, Duplex, Error, Json, Kind, NoBody, Result, WireBody};

use super::{
    BucketBackups, BucketKeys, Buckets, Certificates, ClusterMembers, Collection, InstanceBackups,
    InstanceSnapshots, NetworkAcls, NetworkLoadBalancers, Networks, Projects, StoragePools,
    VolumeBackups, Volumes,
};
use crate::client::Parts;
use crate::envelope::Answer;
use crate::models::{self, StorageVolumePost};
use crate::ops::{
    certificates, cluster, instance_snapshots, network_acls, network_services, networks, projects,
    storage_buckets, storage_pools, storage_volumes,
};
use crate::uploads;

impl Collection<'_, Networks> {
    /// The addresses that a network has given out.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a network, [`Kind::Unsupported`] or [`Kind::Invalid`] for one that gives out none.
    pub async fn leases(&self, network: &str) -> Result<Vec<models::NetworkLease>> {
        let parts = self.one(network);
        let reply = self
            .client()
            .send::<networks::NetworksLeasesGet>(parts, NoBody);
        Ok(reply.await?.metadata)
    }

    /// The state of a network: addresses, counters.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a network.
    pub async fn state(&self, network: &str) -> Result<models::NetworkState> {
        let parts = self.one(network);
        let reply = self
            .client()
            .send::<networks::NetworksStateGet>(parts, NoBody);
        Ok(reply.await?.metadata)
    }
}

impl Collection<'_, NetworkAcls> {
    /// What an access control list has logged; OVN only.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a list.
    pub async fn log(&self, acl: &str) -> Result<ByteReply> {
        let parts = self.one(acl);
        self.client()
            .send::<network_acls::NetworkAclLogGet>(parts, NoBody)
            .await
    }
}

impl Collection<'_, NetworkLoadBalancers> {
    /// The health of the backends.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a load balancer.
    pub async fn state(&self, address: &str) -> Result<models::NetworkLoadBalancerState> {
        let parts = self.one(address);
        let reply = self
            .client()
            .send::<network_services::NetworkLoadBalancerStateGet>(parts, NoBody)
            .await?;
        Ok(reply.metadata)
    }
}

impl Collection<'_, Projects> {
    /// What a project uses, and its limits.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a project.
    pub async fn state(&self, project: &str) -> Result<models::ProjectState> {
        let parts = self.one(project);
        let reply = self
            .client()
            .send::<projects::ProjectStateGet>(parts, NoBody);
        Ok(reply.await?.metadata)
    }

    /// Who may do what in a project.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a project.
    pub async fn access(&self, project: &str) -> Result<models::Access> {
        let parts = self.one(project);
        let reply = self.client().send::<projects::ProjectAccess>(parts, NoBody);
        Ok(reply.await?.metadata)
    }

    /// Deletes a project with everything in it.
    ///
    /// A project that shares the profiles of project `default` is refused: the daemon (seen on 6.0.4) would then take config and
    /// devices from the shared profile `default`, and with them the disk and the network of every instance that uses it.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a project, [`Kind::Unsupported`] on a server that cannot, [`Kind::Conflict`] for a
    /// project with shared profiles.
    pub async fn delete_with_contents(&self, project: &str) -> Result<()> {
        self.client()
            .require(
                "projects_force_delete",
                "deleting a project with its contents",
            )
            .await?;
        let config = self.get(project).await?.config;
        if config.get("features.profiles").map(String::as_str) != Some("true") {
            let words = format!(
                "project {project} shares the profiles of project default, and its deletion by force would empty the \
                 profile default there: delete what is in the project, then the project"
            );
            return Err(Error::new(Kind::Conflict, words));
        }
        let parts = self.one(project).query("force", true);
        self.client()
            .finish::<projects::ProjectDelete>(parts, NoBody)
            .await?;
        Ok(())
    }
}

impl Collection<'_, Certificates> {
    /// Makes a trust token for a new client: the text that it redeems. `projects` narrow what it may do, when
    /// there are any.
    ///
    /// # Errors
    ///
    /// [`Kind::Denied`] for callers that may not.
    pub async fn create_token(
        &self,
        name: &str,
        projects: &[&str],
    ) -> Result<(String, models::Operation)> {
        let post = models::CertificatesPost {
            name: name.to_owned(),
            r#type: "client".to_owned(),
            token: true,
            restricted: !projects.is_empty(),
            projects: projects.iter().map(|p| (*p).to_owned()).collect(),
            ..models::CertificatesPost::default()
        };
        let reply = self
            .client()
            .send::<certificates::CertificatesPost>(Parts::default(), Json(post))
            .await?;
        let Answer::Started(operation) = reply else {
            return Err(Error::new(Kind::Protocol, "a token is an operation"));
        };
        let operation = operation.0;
        Ok((token_text(&operation)?, operation))
    }
}

/// The text of a token: the base64 of what the operation says.
fn token_text(operation: &models::Operation) -> Result<String> {
    let member = |name: &str| operation.metadata.get(name).cloned().unwrap_or_default();
    let document = serde_json::json!({
        "client_name": operation.metadata.get("request").and_then(|r| r.get("name")).cloned().unwrap_or_default(),
        "fingerprint": member("fingerprint"),
        "addresses": member("addresses"),
        "secret": member("secret"),
        "expires_at": operation.metadata.get("expiresAt").cloned().unwrap_or("0001-01-01T00:00:00Z".into()),
    });
    if document["secret"].as_str().is_none_or(str::is_empty) {
        return Err(Error::new(
            Kind::Protocol,
            "the token's operation has no secret",
        ));
    }
    use base64::Engine as _;
    Ok(base64::engine::general_purpose::STANDARD.encode(document.to_string()))
}

impl Collection<'_, StoragePools> {
    /// How full a pool is.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a pool.
    pub async fn resources(&self, pool: &str) -> Result<models::ResourcesStoragePool> {
        let parts = self.one(pool);
        let reply = self
            .client()
            .send::<storage_pools::StoragePoolResources>(parts, NoBody)
            .await?;
        Ok(reply.metadata)
    }
}

impl Collection<'_, Volumes> {
    /// How full a volume is.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a volume.
    pub async fn state(&self, volume: &str) -> Result<models::StorageVolumeState> {
        let parts = self.one(volume);
        let reply = self
            .client()
            .send::<storage_volumes::StoragePoolVolumeTypeStateGet>(parts, NoBody)
            .await?;
        Ok(reply.metadata)
    }

    /// Moves a volume to another pool, under a name of its own there.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a volume or pool, [`Kind::Conflict`] when the name is taken.
    pub async fn move_to(&self, volume: &str, pool: &str, name: &str) -> Result<()> {
        let post = StorageVolumePost {
            name: name.to_owned(),
            pool: pool.to_owned(),
            ..StorageVolumePost::default()
        };
        self.client()
            .finish::<storage_volumes::StoragePoolVolumeTypePost>(self.one(volume), Json(post))
            .await?;
        Ok(())
    }

    /// Goes back to a snapshot.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a snapshot.
    pub async fn restore(&self, volume: &str, snapshot: &str) -> Result<()> {
        let put = models::StorageVolumePut {
            restore: snapshot.to_owned(),
            ..models::StorageVolumePut::default()
        };
        self.client()
            .finish::<storage_volumes::StoragePoolVolumeTypePut>(self.one(volume), Json(put))
            .await?;
        Ok(())
    }

    /// Makes a volume from a backup or an ISO image that is streamed to the server. `iso` says which.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] when the name is taken; else the server's.
    pub async fn import(&self, volume: &str, content: WireBody, iso: bool) -> Result<()> {
        let mut parts = self.parts().header("X-Incus-name", volume);
        if iso {
            self.client()
                .require("custom_volume_iso", "an ISO volume")
                .await?;
            parts = parts.header("X-Incus-type", "iso");
        }
        self.client()
            .finish::<uploads::VolumeUpload>(
                parts.timeout(boxrig_wire::Timeout::Never),
                ByteBody::from(content),
            )
            .await?;
        Ok(())
    }

    /// Empties a volume by making it anew.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`] on a server that cannot, [`Kind::Conflict`] for a volume with snapshots.
    pub async fn rebuild(&self, volume: &str) -> Result<()> {
        self.client()
            .finish::<storage_volumes::StoragePoolVolumeTypeRebuildPost>(
                self.one(volume),
                Json(Default::default()),
            )
            .await?;
        Ok(())
    }

    /// A connection to the blocks of a volume: NBD, bytes both ways.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`] on a server that cannot.
    pub async fn nbd(&self, volume: &str, writable: bool) -> Result<Box<dyn Duplex>> {
        let parts = self.one(volume).query("writable", i64::from(writable));
        self.client()
            .send::<storage_volumes::StoragePoolVolumeTypeNbdGet>(parts, NoBody)
            .await?
            .connected()
    }

    /// A connection to the files of a volume: SFTP version 3.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`] on a server that cannot.
    pub async fn sftp(&self, volume: &str) -> Result<Box<dyn Duplex>> {
        let parts = self.one(volume);
        self.client()
            .send::<storage_volumes::StoragePoolVolumeTypeSftpGet>(parts, NoBody)
            .await?
            .connected()
    }
}

macro_rules! exports {
    ($($kind:ident: $endpoint:path),*) => {$(
        impl Collection<'_, $kind> {
            /// The backup's content, streamed.
            ///
            /// # Errors
            ///
            /// [`Kind::NotFound`] without such a backup.
            pub async fn export(&self, backup: &str) -> Result<ByteReply> {
                self.client().send::<$endpoint>(self.one(backup), NoBody).await
            }
        }
    )*};
}
exports! {
    InstanceBackups: instance_snapshots::InstanceBackupExport,
    VolumeBackups: storage_volumes::StoragePoolVolumesTypeBackupExportGet,
    BucketBackups: storage_buckets::StoragePoolBucketsBackupExportGet
}

impl Collection<'_, InstanceSnapshots> {
    /// Sets when a snapshot goes by itself.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a snapshot.
    pub async fn expire(&self, snapshot: &str, at: crate::Timestamp) -> Result<()> {
        let put = models::InstanceSnapshotPut {
            expires_at: at,
            ..models::InstanceSnapshotPut::default()
        };
        self.replace(snapshot, put, None).await
    }
}

impl Collection<'_, Buckets> {
    /// Makes a bucket and gives its first key, where the server makes one.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] when the name is taken.
    pub async fn create_with_key(
        &self,
        new: models::StorageBucketsPost,
    ) -> Result<Option<models::StorageBucketKey>> {
        let reply = self
            .client()
            .send::<storage_buckets::StoragePoolBucketPost>(self.parts(), Json(new))
            .await?;
        Ok(match reply {
            Answer::Done(key) => Some(key.metadata),
            Answer::Started(operation) => {
                self.client().wait_for(&operation.0.id).await?.succeeded()?;
                None
            }
        })
    }

    /// Makes a bucket from a backup that is streamed to the server.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] when the name is taken.
    pub async fn import(&self, bucket: &str, content: WireBody) -> Result<()> {
        let parts = self.parts().header("X-Incus-name", bucket);
        self.client()
            .finish::<uploads::BucketUpload>(
                parts.timeout(boxrig_wire::Timeout::Never),
                ByteBody::from(content),
            )
            .await?;
        Ok(())
    }
}

impl Collection<'_, BucketKeys> {
    /// Makes a key and gives it with its secret.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] when the name is taken.
    pub async fn create_key(
        &self,
        new: models::StorageBucketKeysPost,
    ) -> Result<models::StorageBucketKey> {
        let reply = self
            .client()
            .send::<storage_buckets::StoragePoolBucketKeyPost>(self.parts(), Json(new))
            .await?;
        Ok(reply.metadata)
    }
}

impl Collection<'_, ClusterMembers> {
    /// The state of a member: memory, load, pools.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a member.
    pub async fn state(&self, member: &str) -> Result<models::ClusterMemberState> {
        let parts = self.one(member);
        let reply = self
            .client()
            .send::<cluster::ClusterMemberStateGet>(parts, NoBody)
            .await?;
        Ok(reply.metadata)
    }

    /// Evacuates a member (`evacuate`) or brings its instances back (`restore`); `mode` is one of the server's, or empty.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a member.
    pub async fn change_state(&self, member: &str, action: &str, mode: &str) -> Result<()> {
        let post = models::ClusterMemberStatePost {
            action: action.to_owned(),
            mode: mode.to_owned(),
            ..models::ClusterMemberStatePost::default()
        };
        self.client()
            .finish::<cluster::ClusterMemberStatePost>(self.one(member), Json(post))
            .await?;
        Ok(())
    }

    /// Begins the joining of a new member: the operation holds the join token.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] on a server that is in no cluster.
    pub async fn invite(&self, name: &str) -> Result<models::Operation> {
        let post = models::ClusterMembersPost {
            server_name: name.to_owned(),
            ..models::ClusterMembersPost::default()
        };
        let reply = self
            .client()
            .send::<cluster::ClusterMembersPost>(self.parts(), Json(post))
            .await?;
        Ok(reply.0)
    }
}
