use boxrig_wire::{Untrusted, open_enum};

use super::{EnvVars, Firewall, Metadata, SnapshotService, Time};
use crate::model::{reply, request};

open_enum! {
    /// What a snapshot is doing.
    pub enum SnapshotStatus {
        /// It is being made.
        Creating = "creating",
        /// It can be restored.
        Ready = "ready",
        /// It failed.
        Error = "error",
    }
}

impl Default for SnapshotStatus {
    fn default() -> Self {
        Self::Unknown(String::new())
    }
}

reply! {
    /// A volume that a snapshot remembers.
    pub struct SnapshotVolumeAttachment = "SnapshotVolumeAttachment" {
        required {
            /// The volume.
            volume_id: String = "volumeId",
            /// Where it was in the machine.
            mount_path: String = "mountPath",
            /// Whether the machine could only read.
            read_only: bool = "readOnly",
        }
    }

    /// A bucket that a snapshot remembers; its credentials are not part of it.
    pub struct SnapshotBucketMountAttachment = "SnapshotBucketMountAttachment" {
        required {
            /// The bucket.
            bucket_uri: String = "bucketUri",
            /// Where it was in the machine.
            mount_path: String = "mountPath",
            /// Whether the machine could only read.
            read_only: bool = "readOnly",
        }
    }

    /// A machine's disk and memory at one moment, with the settings that a restore inherits.
    pub struct Snapshot = "Snapshot" {
        required {
            /// Its id.
            id: String = "id",
            /// Its name.
            name: Untrusted = "name",
            /// The organisation it belongs to.
            org_id: String = "orgId",
            /// The machine it was taken from.
            vm_id: String = "vmId",
            /// What it is doing.
            status: SnapshotStatus = "status",
            /// When it was taken.
            created_at: Time = "createdAt",
        }
        optional {
            /// The machine's firewall.
            firewall: Firewall = "firewall",
            /// The machine's metadata.
            metadata: Metadata = "metadata",
            /// The machine's environment.
            env_vars: EnvVars = "envVars",
            /// The machine's services.
            services: Vec<SnapshotService> = "services",
            /// The machine's volumes.
            volumes: Vec<SnapshotVolumeAttachment> = "volumes",
            /// The machine's bucket mounts.
            bucket_mounts: Vec<SnapshotBucketMountAttachment> = "bucketMounts",
        }
    }
}

request! {
    /// A snapshot to take.
    pub struct CreateSnapshotRequest = "CreateSnapshotRequest" {
        required {
            /// The machine, running or paused.
            vm_id: String = "vmId",
        }
        optional {
            /// Its name, at most 64 characters; `snapshot-` and the first 8 characters of the machine's id when empty.
            name: String = "name",
        }
    }

    /// A new name.
    pub struct UpdateSnapshotRequest = "UpdateSnapshotRequest" {
        optional {
            /// The name.
            name: String = "name",
        }
    }
}
