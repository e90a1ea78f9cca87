use std::collections::BTreeMap;
use std::fmt;

use boxrig_wire::{Untrusted, open_enum};
use serde::{Deserialize, Serialize};

use crate::model::reply;

/// A free-form map of a machine's or snapshot's: at most 256 keys of 1–256 bytes, values of at most 4096 bytes, and
/// 65536 bytes as JSON in all.
pub type Metadata = BTreeMap<String, String>;

/// Environment variables that are set in a machine at boot: names `[A-Za-z_][A-Za-z0-9_]*` of 1–256 bytes, values without
/// newline, carriage return and NUL, 65536 bytes as JSON in all. `Debug` shows the names only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EnvVars(pub BTreeMap<String, String>);

impl fmt::Debug for EnvVars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for EnvVars {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
        )
    }
}

/// A point in time as the server wrote it (RFC 3339). Text that is no time is kept and fails nothing.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(String);

impl Time {
    /// The text as it came.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The time, if the text is one.
    pub fn timestamp(&self) -> Option<jiff::Timestamp> {
        self.0.parse().ok()
    }
}

impl From<jiff::Timestamp> for Time {
    fn from(t: jiff::Timestamp) -> Self {
        Self(t.to_string())
    }
}

impl From<&str> for Time {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&boxrig_wire::escape_line(&self.0))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A machine size `c<vCPU>m<GiB of memory>`, for example `c1m2`.
///
/// ```
/// use boxrig_fastvm::MachineType;
/// let m = MachineType::from("c2m4");
/// assert_eq!((m.cpus(), m.memory_gib()), (Some(2), Some(4)));
/// assert_eq!(MachineType::from("huge").cpus(), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MachineType(pub String);

impl MachineType {
    fn parts(&self) -> Option<(u32, u32)> {
        let (cpu, memory) = self.0.strip_prefix('c')?.split_once('m')?;
        let number = |s: &str| {
            let plain = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| s.parse().ok()).flatten().filter(|n| *n > 0)
        };
        Some((number(cpu)?, number(memory)?))
    }
    /// The number of virtual processors.
    pub fn cpus(&self) -> Option<u32> {
        self.parts().map(|p| p.0)
    }
    /// The memory in GiB.
    pub fn memory_gib(&self) -> Option<u32> {
        self.parts().map(|p| p.1)
    }
}

impl From<&str> for MachineType {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for MachineType {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for MachineType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&boxrig_wire::escape_line(&self.0))
    }
}

open_enum! {
    /// Whether a volume or bucket is mounted in its machine.
    pub enum MountStatus {
        /// It is.
        Mounted = "mounted",
        /// Mounting failed; the message says why.
        Failed = "failed",
        /// Not yet: the machine is paused, or it is being attached.
        Pending = "pending",
    }
}

impl Default for MountStatus {
    fn default() -> Self {
        Self::Unknown(String::new())
    }
}

open_enum! {
    /// The dimension of a quota.
    pub enum QuotaDimension {
        /// Virtual processors.
        Vcpu = "vcpu",
        /// Memory.
        MemoryMib = "memory_mib",
        /// Disk space.
        DiskGib = "disk_gib",
        /// Number of snapshots.
        SnapshotCount = "snapshot_count",
        /// Number of volumes.
        VolumeCount = "volume_count",
        /// Space of volumes.
        VolumeGib = "volume_gib",
    }
}

impl Default for QuotaDimension {
    fn default() -> Self {
        Self::Unknown(String::new())
    }
}

reply! {
    /// The body of an error answer.
    pub struct ErrorBody = "Error" {
        required {
            /// Words for people, or a token such as `VOL_NOT_READY`.
            error: Untrusted = "error",
        }
    }

    /// The 429 of a service registration.
    pub struct QuotaExceededError = "QuotaExceededError" {
        required {
            /// `vm_service_quota_exceeded`.
            error: Untrusted = "error",
            /// The most services a machine may have.
            count: u32 = "count",
        }
    }

    /// The 429 of a launch, resume or snapshot.
    pub struct QuotaExceeded = "QuotaExceeded" {
        required {
            /// Words for people.
            error: Untrusted = "error",
            /// What there is not enough of.
            dimension: QuotaDimension = "dimension",
        }
    }

    /// What a deletion answers.
    pub struct DeleteResponse = "DeleteResponse" {
        required {
            /// The id of what is gone.
            id: String = "id",
            /// `true`.
            deleted: bool = "deleted",
        }
    }

    /// What the liveness probe answers.
    pub struct HealthResponse = "HealthResponse" {
        optional {
            /// `ok`.
            status: Untrusted = "status",
        }
    }
}
