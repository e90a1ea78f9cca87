use std::fmt;

use boxrig_wire::{Untrusted, open_enum};
use serde::{Deserialize, Serialize};

use super::{MountStatus, Time};
use crate::model::{Extra, reply, request};

open_enum! {
    /// Who may write to a volume.
    pub enum AccessMode {
        /// One machine reads and writes.
        ReadWrite = "rw",
        /// Many machines read.
        ReadOnly = "ro",
    }
}

open_enum! {
    /// What a volume is doing.
    pub enum VolumeStatus {
        /// It is being made; attaching answers `VOL_NOT_READY`.
        Creating = "creating",
        /// It can be attached.
        Ready = "ready",
        /// It is being removed.
        Deleting = "deleting",
    }
}

open_enum! {
    /// What was not certain about a detach.
    pub enum DetachWarningKind {
        /// The machine did not confirm in time.
        AckTimeout = "ack_timeout",
        /// The machine did not answer at all.
        GuestUnresponsive = "guest_unresponsive",
    }
}

macro_rules! no_word {
    ($($t:ty),*) => {$(
        impl Default for $t {
            fn default() -> Self {
                Self::Unknown(String::new())
            }
        }
    )*};
}
no_word!(AccessMode, VolumeStatus, DetachWarningKind);

/// A customer's credentials for a bucket. The vendor documents no members, so it is an open object; `Debug` shows nothing of it.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BucketMountCredentials(pub Extra);

impl fmt::Debug for BucketMountCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BucketMountCredentials(…)")
    }
}

reply! {
    /// A managed volume.
    pub struct Volume = "Volume" {
        required {
            /// `vol_` and 22 lower-case hex digits.
            id: String = "id",
            /// Its name.
            name: Untrusted = "name",
            /// The organisation it belongs to.
            org_id: String = "orgId",
            /// Who may write to it.
            access_mode: AccessMode = "accessMode",
            /// Its size in GiB.
            size_gib: u64 = "sizeGiB",
            /// What it is doing.
            status: VolumeStatus = "status",
            /// When it was made.
            created_at: Time = "createdAt",
        }
        optional {
            /// The size it is being changed to; 0 or absent otherwise.
            pending_size_gib: u64 = "pendingSizeGiB",
            /// How many machines have it.
            mounted_count: u64 = "mountedCount",
            /// The space in use in GiB.
            used_gib: u64 = "usedGiB",
        }
    }

    /// A volume as seen from a machine.
    pub struct VolumeAttachment = "VolumeAttachmentItem" {
        required {
            /// The volume.
            volume_id: String = "volumeId",
            /// Where it is in the machine.
            mount_path: String = "mountPath",
            /// Whether the machine may only read.
            read_only: bool = "readOnly",
            /// Whether it is mounted.
            mount_status: MountStatus = "mountStatus",
        }
        optional {
            /// Why it is not.
            status_message: Untrusted = "statusMessage",
        }
    }

    /// A machine as seen from a volume.
    pub struct VolumeAttachmentWithVm = "VolumeAttachmentItemWithVm" {
        required {
            /// The volume.
            volume_id: String = "volumeId",
            /// Where it is in the machine.
            mount_path: String = "mountPath",
            /// Whether the machine may only read.
            read_only: bool = "readOnly",
            /// Whether it is mounted.
            mount_status: MountStatus = "mountStatus",
            /// The machine.
            vm_id: String = "vmId",
        }
        optional {
            /// Why it is not.
            status_message: Untrusted = "statusMessage",
        }
    }

    /// Something that was not certain about a detach.
    pub struct DetachWarning = "DetachWarning" {
        required {
            /// What.
            kind: DetachWarningKind = "type",
        }
        optional {
            /// In words.
            message: Untrusted = "message",
        }
    }

    /// What a detach answers. It succeeds even if the machine did not confirm; the warnings say so.
    pub struct DetachVolumeResponse = "DetachVolumeResponse" {
        required {
            /// `true`.
            detached: bool = "detached",
        }
        optional {
            /// What was not certain.
            warnings: Vec<DetachWarning> = "warnings",
        }
    }

    /// A customer's bucket in a machine.
    pub struct BucketMount = "BucketMount" {
        required {
            /// `bm_` and 22 lower-case hex digits; unique in its machine.
            id: String = "id",
            /// The machine.
            vm_id: String = "vmId",
            /// `gs://bucket[/prefix]` or `s3://bucket[/prefix]`.
            bucket_uri: String = "bucketUri",
            /// Where it is in the machine.
            mount_path: String = "mountPath",
            /// Whether the machine may only read.
            read_only: bool = "readOnly",
            /// Whether it is mounted.
            mount_status: MountStatus = "mountStatus",
            /// When it was attached.
            created_at: Time = "createdAt",
        }
        optional {
            /// Why it is not mounted.
            status_message: Untrusted = "statusMessage",
        }
    }
}

request! {
    /// A volume to make.
    pub struct CreateVolumeRequest = "CreateVolumeRequest" {
        required {
            /// Its name.
            name: String = "name",
            /// Its size in GiB, 1 or more.
            size_gib: u64 = "sizeGiB",
            /// Who may write to it.
            access_mode: AccessMode = "accessMode",
        }
    }

    /// A change of a volume.
    pub struct UpdateVolumeRequest = "UpdateVolumeRequest" {
        optional {
            /// Its new name.
            name: String = "name",
            /// Its new size in GiB; less only as long as what is in use fits.
            size_gib: u64 = "sizeGiB",
            /// Who may write to it from now on.
            access_mode: AccessMode = "accessMode",
        }
    }

    /// A volume to attach to a machine.
    pub struct VolumeAttachRequest = "VolumeAttachRequest" {
        required {
            /// The volume.
            volume_id: String = "volumeId",
            /// An absolute path in the machine.
            mount_path: String = "mountPath",
        }
        optional {
            /// `false` when absent.
            read_only: bool = "readOnly",
        }
    }

    /// A bucket to mount in a machine.
    pub struct AttachBucketMountRequest = "AttachBucketMountRequest" {
        required {
            /// `gs://bucket[/prefix]` or `s3://bucket[/prefix]`.
            bucket_uri: String = "bucketUri",
            /// An absolute path in the machine.
            mount_path: String = "mountPath",
            /// Credentials; never echoed.
            credentials: BucketMountCredentials = "credentials",
        }
        optional {
            /// `false` when absent.
            read_only: bool = "readOnly",
        }
    }

    /// New credentials for a bucket that is mounted.
    pub struct RotateBucketMountRequest = "RotateBucketMountRequest" {
        required {
            /// The credentials; never echoed.
            credentials: BucketMountCredentials = "credentials",
        }
    }
}
