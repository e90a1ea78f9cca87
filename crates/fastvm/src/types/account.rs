use boxrig_wire::Untrusted;

use super::Time;
use crate::model::{reply, request};

reply! {
    /// An SSH key of the calling user.
    pub struct SshKey = "SshKey" {
        required {
            /// `<type> <base64>`, without a comment.
            public_key: Untrusted = "publicKey",
            /// `SHA256:` and unpadded base64; names the key.
            fingerprint: String = "fingerprint",
            /// When it was added.
            created_at: Time = "createdAt",
        }
        optional {
            /// Its name.
            name: Untrusted = "name",
        }
    }

    /// The user's keys.
    pub struct SshKeyListResponse = "SshKeyListResponse" {
        required {
            /// The keys.
            keys: Vec<SshKey> = "keys",
        }
    }

    /// Amounts that quotas are about.
    pub struct OrgQuotaValues = "OrgQuotaValues" {
        required {
            /// Virtual processors.
            vcpu: i64 = "vcpu",
            /// Memory in MiB.
            memory_mib: i64 = "memoryMiB",
            /// Disk in GiB.
            disk_gib: i64 = "diskGiB",
            /// Number of snapshots.
            snapshot_count: i64 = "snapshotCount",
        }
        optional {
            /// Number of volumes.
            volume_count: i64 = "volumeCount",
            /// Space of volumes in GiB.
            volume_gib: i64 = "volumeGiB",
        }
    }

    /// What an organisation may use, and what it uses.
    pub struct OrgQuotaUsage = "OrgQuotaUsage" {
        required {
            /// The organisation.
            org_id: String = "orgId",
            /// What it may use.
            limits: OrgQuotaValues = "limits",
            /// What it uses; paused machines use nothing.
            usage: OrgQuotaValues = "usage",
        }
    }
}

request! {
    /// A key to add.
    pub struct AddSshKeyRequest = "AddSshKeyRequest" {
        required {
            /// A line of `authorized_keys`: ed25519, RSA, ECDSA or their hardware forms; the comment is dropped.
            public_key: String = "publicKey",
        }
        optional {
            /// Its name.
            name: String = "name",
        }
    }
}
