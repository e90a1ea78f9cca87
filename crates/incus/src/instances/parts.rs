//! What belongs to an instance: snapshots, backups, logs, the metadata and templates of its image, and the connections into it.

use std::path::Path;

use boxrig_wire::{ByteBody, ByteReply, Duplex, Json, NoBody, Operation, Result, WireBody};
use serde_json::Value;

use super::{Instances, made, unlimited};
use crate::client::Parts;
use crate::collection::name_of_url;
use crate::model::Merge;
use crate::models::{
    Access, ImageMetadata, InstanceBackupsPost, InstanceDebugRepairPost, InstanceFull,
    InstanceNVRAMVariable, InstanceNVRAMVariablePut, InstancePortForwardPost, InstancePut,
    InstanceSnapshotsPost, StorageVolumeBitmapsPost,
};
use crate::ops::{instance_files, instance_snapshots, instances};
use crate::uploads;

impl Instances<'_> {
    /// Takes a snapshot; `stateful` with the memory of what runs. More is in [`instance_snapshots`](crate::Client::instance_snapshots).
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) when the name is taken.
    pub async fn snapshot(
        &self,
        instance: &str,
        name: &str,
        stateful: bool,
    ) -> Result<Operation<()>> {
        let post = InstanceSnapshotsPost {
            name: name.to_owned(),
            stateful,
            ..InstanceSnapshotsPost::default()
        };
        self.client()
            .begin_unit::<instance_snapshots::InstanceSnapshotsPost>(self.one(instance), Json(post))
            .await
    }

    /// Goes back to a snapshot; one that runs is stopped and started for it.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`](boxrig_wire::Kind::NotFound) without such a snapshot.
    pub async fn restore(
        &self,
        instance: &str,
        snapshot: &str,
        stateful: bool,
    ) -> Result<Operation<()>> {
        let put = InstancePut {
            restore: snapshot.to_owned(),
            stateful,
            ..InstancePut::default()
        };
        self.client()
            .begin_unit::<instances::InstancePut>(self.one(instance), Json(put))
            .await
    }

    /// Streams a backup: at once where the server can, else by a backup that is made, read to its end by the caller, and deleted by
    /// the server after an hour if the caller does not. `name` is that of the backup on the server.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn backup(&self, instance: &str, mut post: InstanceBackupsPost) -> Result<ByteReply> {
        if self.client().has_extension("direct_backup").await? {
            let accept = http::HeaderValue::from_static("application/octet-stream");
            let mut parts = unlimited(self.one(instance));
            parts.options.headers.insert(http::header::ACCEPT, accept);
            return self
                .client()
                .send::<uploads::DirectBackup>(parts, Json(post))
                .await;
        }
        if post.name.is_empty() {
            "boxrig".clone_into(&mut post.name);
        }
        let name = post.name.clone();
        let backups = self.client().instance_backups(instance);
        self.client()
            .begin_unit::<instance_snapshots::InstanceBackupsPost>(self.one(instance), Json(post))
            .await?
            .wait()
            .await?;
        backups.export(&name).await
    }

    /// Writes a backup to a file: under a temporary name first, so that a file is whole or not there.
    ///
    /// # Errors
    ///
    /// As [`backup`](Self::backup), and what writing gave.
    pub async fn backup_to(
        &self,
        instance: &str,
        post: InstanceBackupsPost,
        file: &Path,
    ) -> Result<u64> {
        let name = match post.name.is_empty() {
            true => "boxrig".to_owned(),
            false => post.name.clone(),
        };
        let reply = self.backup(instance, post).await?;
        let written = crate::files::save(reply, file).await;
        let kept = !self.client().has_extension("direct_backup").await?;
        if kept {
            let deleted = self.client().instance_backups(instance).delete(&name).await;
            written.as_ref().map(|_| deleted).unwrap_or(Ok(()))?;
        }
        written
    }

    /// Makes an instance from a backup that is streamed to the server, under `name` and in `pool` where they are given.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) when the name is taken.
    pub async fn import(
        &self,
        content: WireBody,
        name: Option<&str>,
        pool: Option<&str>,
    ) -> Result<Operation<InstanceFull>> {
        let mut parts = unlimited(self.parts());
        if let Some(name) = name {
            parts = parts.header("X-Incus-name", name);
        }
        if let Some(pool) = pool {
            parts = parts.header("X-Incus-pool", pool);
        }
        let client = self.client().clone();
        let given = name.unwrap_or_default().to_owned();
        self.client()
            .begin::<uploads::InstanceUpload, _>(parts, ByteBody::from(content), move |end| {
                let client = client.clone();
                let name = made(&end).unwrap_or_else(|| given.clone());
                Box::pin(async move { client.instances().get(&name).await })
            })
            .await
    }

    /// The names of its log files.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`](boxrig_wire::Kind::NotFound) without such an instance.
    pub async fn logs(&self, instance: &str) -> Result<Vec<String>> {
        let reply = self
            .client()
            .send::<instance_files::InstanceLogsGet>(self.one(instance), NoBody)
            .await?;
        Ok(reply.metadata.iter().map(|url| name_of_url(url)).collect())
    }

    /// A log file, streamed.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`](boxrig_wire::Kind::NotFound) without such a file, [`Kind::Invalid`](boxrig_wire::Kind::Invalid) for a name that is none of a log.
    pub async fn log(&self, instance: &str, file: &str) -> Result<ByteReply> {
        let parts = Parts::new(&[instance, file]);
        self.client()
            .send::<instance_files::InstanceLogGet>(parts, NoBody)
            .await
    }

    /// Deletes a log file.
    ///
    /// # Errors
    ///
    /// As [`log`](Self::log).
    pub async fn delete_log(&self, instance: &str, file: &str) -> Result<()> {
        let parts = Parts::new(&[instance, file]);
        self.client()
            .send::<instance_files::InstanceLogDelete>(parts, NoBody)
            .await?;
        Ok(())
    }

    /// The names of the recorded outputs of commands; see [`run_recorded`](Self::run_recorded), which leaves none.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`](boxrig_wire::Kind::NotFound) without such an instance.
    pub async fn exec_outputs(&self, instance: &str) -> Result<Vec<String>> {
        let reply = self
            .client()
            .send::<instance_files::InstanceExecOutputsGet>(self.one(instance), NoBody)
            .await?;
        Ok(reply.metadata.iter().map(|url| name_of_url(url)).collect())
    }

    /// The metadata of its image.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`](boxrig_wire::Kind::NotFound) without such an instance.
    pub async fn metadata(&self, instance: &str) -> Result<crate::Sync<ImageMetadata>> {
        self.client()
            .send::<instance_files::InstanceMetadataGet>(self.one(instance), NoBody)
            .await
    }

    /// Replaces the metadata of its image.
    ///
    /// # Errors
    ///
    /// [`Kind::Precondition`](boxrig_wire::Kind::Precondition) when it has changed since `version` was read.
    pub async fn replace_metadata(
        &self,
        instance: &str,
        metadata: ImageMetadata,
        version: Option<&str>,
    ) -> Result<()> {
        let parts = self.one(instance).if_match(version)?;
        self.client()
            .send::<instance_files::InstanceMetadataPut>(parts, Json(metadata))
            .await?;
        Ok(())
    }

    /// Changes some members of the metadata of its image.
    ///
    /// # Errors
    ///
    /// As [`replace_metadata`](Self::replace_metadata).
    pub async fn patch_metadata(
        &self,
        instance: &str,
        changes: Merge<ImageMetadata>,
    ) -> Result<()> {
        self.client()
            .send::<instance_files::InstanceMetadataPatch>(self.one(instance), Json(changes))
            .await?;
        Ok(())
    }

    /// The names of its templates.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`](boxrig_wire::Kind::NotFound) without such an instance.
    pub async fn templates(&self, instance: &str) -> Result<Vec<String>> {
        let reply = self
            .client()
            .send::<uploads::Templates>(self.one(instance), NoBody)
            .await?;
        Ok(reply.metadata)
    }

    /// A template.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`](boxrig_wire::Kind::NotFound) without such a template.
    pub async fn template(&self, instance: &str, name: &str) -> Result<ByteReply> {
        let parts = self.one(instance).query("path", name);
        self.client()
            .send::<instance_files::InstanceMetadataTemplatesGet>(parts, NoBody)
            .await
    }

    /// Writes a template.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn put_template(
        &self,
        instance: &str,
        name: &str,
        content: impl Into<bytes::Bytes>,
    ) -> Result<()> {
        let parts = self.one(instance).query("path", name);
        let body = ByteBody::from(WireBody::full(content));
        self.client()
            .send::<instance_files::InstanceMetadataTemplatesPost>(parts, body)
            .await?;
        Ok(())
    }

    /// Deletes a template.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`](boxrig_wire::Kind::NotFound) without such a template.
    pub async fn delete_template(&self, instance: &str, name: &str) -> Result<()> {
        let parts = self.one(instance).query("path", name);
        self.client()
            .send::<instance_files::InstanceMetadataTemplatesDelete>(parts, NoBody)
            .await?;
        Ok(())
    }

    /// Who may do what with it.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`](boxrig_wire::Kind::NotFound) without such an instance.
    pub async fn access(&self, instance: &str) -> Result<Access> {
        let reply = self
            .client()
            .send::<instances::InstanceAccess>(self.one(instance), NoBody)
            .await?;
        Ok(reply.metadata)
    }

    /// A connection to its files: SFTP version 3, bytes both ways. [`files`](Self::files) speaks it.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`](boxrig_wire::Kind::NotFound) without such an instance.
    pub async fn sftp(&self, instance: &str) -> Result<Box<dyn Duplex>> {
        self.client()
            .send::<instance_files::InstanceSftp>(self.one(instance), NoBody)
            .await?
            .connected()
    }

    /// A connection to a TCP port inside it, bytes both ways.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`](boxrig_wire::Kind::Unsupported) on a server that cannot.
    pub async fn port_forward(
        &self,
        instance: &str,
        address: &str,
        port: u16,
    ) -> Result<Box<dyn Duplex>> {
        let post = InstancePortForwardPost {
            address: address.to_owned(),
            port: port.into(),
            ..InstancePortForwardPost::default()
        };
        self.client()
            .send::<instances::InstancePortForwardPost>(self.one(instance), Json(post))
            .await?
            .connected()
    }

    /// A connection to the blocks of all its disks: NBD, an export a disk. Virtual machines only.
    ///
    /// # Errors
    ///
    /// As [`port_forward`](Self::port_forward).
    pub async fn nbd(&self, instance: &str, reuse: bool) -> Result<Box<dyn Duplex>> {
        let mut parts = self.one(instance);
        if reuse {
            parts = parts.query("reuse", 1);
        }
        self.client()
            .send::<instances::InstanceNbdGet>(parts, NoBody)
            .await?
            .connected()
    }

    /// Makes a dirty bitmap on all its disks. Virtual machines only.
    ///
    /// # Errors
    ///
    /// As [`port_forward`](Self::port_forward).
    pub async fn create_bitmap(
        &self,
        instance: &str,
        bitmap: StorageVolumeBitmapsPost,
    ) -> Result<()> {
        self.client()
            .send::<instances::InstanceBitmapsPost>(self.one(instance), Json(bitmap))
            .await?;
        Ok(())
    }

    /// Its memory as a dump, streamed; `format` is one of the server's (`elf`, `kdump-zlib`, …). Virtual machines only.
    ///
    /// # Errors
    ///
    /// As [`port_forward`](Self::port_forward).
    pub async fn dump_memory(&self, instance: &str, format: &str) -> Result<ByteReply> {
        let parts = self.one(instance).query("format", format);
        self.client()
            .send::<instances::InstanceDebugMemoryGet>(parts, NoBody)
            .await
    }

    /// Runs one of the server's repairs on it.
    ///
    /// # Errors
    ///
    /// As [`port_forward`](Self::port_forward).
    pub async fn repair(&self, instance: &str, action: &str) -> Result<()> {
        let post = InstanceDebugRepairPost {
            action: action.to_owned(),
            ..InstanceDebugRepairPost::default()
        };
        self.client()
            .send::<instances::InstanceDebugRepairPost>(self.one(instance), Json(post))
            .await?;
        Ok(())
    }

    /// All UEFI variables of a virtual machine, by GUID and name.
    ///
    /// # Errors
    ///
    /// As [`port_forward`](Self::port_forward).
    pub async fn nvram(&self, instance: &str) -> Result<Value> {
        let parts = self.one(instance).query("recursion", 2);
        let reply = self
            .client()
            .send::<instance_files::InstanceNvramGet>(parts, NoBody)
            .await?;
        Ok(reply.metadata)
    }

    /// One UEFI variable.
    ///
    /// # Errors
    ///
    /// As [`port_forward`](Self::port_forward).
    pub async fn nvram_variable(
        &self,
        instance: &str,
        guid: &str,
        name: &str,
    ) -> Result<InstanceNVRAMVariable> {
        let parts = Parts::new(&[instance, guid, name]);
        let reply = self
            .client()
            .send::<instance_files::InstanceNvramGuidVarGet>(parts, NoBody)
            .await?;
        Ok(reply.metadata)
    }

    /// Sets a UEFI variable, or deletes it when there is no value.
    ///
    /// # Errors
    ///
    /// As [`port_forward`](Self::port_forward).
    pub async fn set_nvram_variable(
        &self,
        instance: &str,
        guid: &str,
        name: &str,
        value: Option<InstanceNVRAMVariablePut>,
    ) -> Result<()> {
        let parts = Parts::new(&[instance, guid, name]);
        match value {
            Some(value) => {
                self.client()
                    .send::<instance_files::InstanceNvramGuidVarPut>(parts, Json(value))
                    .await?;
            }
            None => {
                self.client()
                    .send::<instance_files::InstanceNvramGuidVarDelete>(parts, NoBody)
                    .await?;
            }
        }
        Ok(())
    }
}
