//! What is kept of machines, snapshots and staged objects. These are documents of the state store, not of the API:
//! times are milliseconds since 1970.

use std::collections::BTreeMap;

use boxrig_fastvm::Firewall;
use serde::{Deserialize, Serialize};

use super::services::Kept;
use super::ttl::Ttl;

/// Where a machine is in its life, as far as it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// The engine has not answered yet. Shown as `provisioning`.
    Launching,
    /// Commands can run.
    Running,
    /// Being thawed; counts for the quota already. Shown as `resuming`.
    Resuming,
    /// Frozen.
    Paused,
    /// Its processes have been ended from outside; its files are kept.
    Stopped,
    /// It ended without being asked to; see [`Machine::reason`].
    Error,
    /// Being removed.
    Deleting,
}

impl Phase {
    /// The status on the wire.
    pub(super) fn status(self) -> &'static str {
        match self {
            Self::Launching => "provisioning",
            Self::Running => "running",
            Self::Resuming => "resuming",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Error => "error",
            Self::Deleting => "deleting",
        }
    }

    /// Whether a machine in this phase counts for the quota of processors, memory and disk.
    pub(super) fn uses_quota(self) -> bool {
        !matches!(self, Self::Paused | Self::Deleting)
    }
}

/// A machine. Its id is the key of the document, the id of the engine's instance, and a UUID.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Machine {
    /// The id.
    pub(super) id: String,
    /// The name, normalised.
    pub(super) name: String,
    /// Where it is in its life.
    pub(super) phase: Phase,
    /// Why it is in [`Phase::Error`], in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// The caller was told of it before it was made (202): it is never dropped without a word.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) accepted: bool,
    /// Number of processors.
    pub(super) cpu: u64,
    /// Memory in MiB.
    pub(super) memory_mib: u64,
    /// Disk in GiB.
    pub(super) disk_gib: u64,
    /// The name of the snapshot it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source_name: Option<String>,
    /// Free-form pairs of the caller.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) metadata: BTreeMap<String, String>,
    /// Environment of every command.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) env: BTreeMap<String, String>,
    /// When it was created.
    pub(super) created_ms: u64,
    /// When it was paused, while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) paused_ms: Option<u64>,
    /// Its timer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ttl: Option<Ttl>,
    /// When the timer fires, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_ms: Option<u64>,
    /// What is left of the cycle, while it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) remaining_ms: Option<u64>,
    /// The snapshot that was made in the present pause: a repeat gives the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pause_snapshot: Option<String>,
    /// Its services, ordered by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) services: Vec<Kept>,
    /// Its firewall as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) firewall: Option<Firewall>,
}

/// Where a snapshot is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SnapshotPhase {
    /// The engine has not answered yet.
    Creating,
    /// Machines can be made from it.
    Ready,
    /// Its files are gone.
    Error,
    /// Being removed; no longer shown.
    Deleting,
}

impl SnapshotPhase {
    /// The status on the wire.
    pub(super) fn status(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Error | Self::Deleting => "error",
        }
    }
}

/// A snapshot: files in the engine, and the configuration that a restore inherits. Its id is the key of the document
/// and the id of the engine's snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// The id.
    pub(super) id: String,
    /// The name, normalised.
    pub(super) name: String,
    /// Where it is in its life.
    pub(super) phase: SnapshotPhase,
    /// The machine it was made of, which may be gone.
    pub(super) vm_id: String,
    /// When it was made.
    pub(super) created_ms: u64,
    /// Processors of the machine.
    pub(super) cpu: u64,
    /// Memory of the machine in MiB.
    pub(super) memory_mib: u64,
    /// Disk of the machine in GiB.
    pub(super) disk_gib: u64,
    /// The machine's pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) metadata: BTreeMap<String, String>,
    /// The machine's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) env: BTreeMap<String, String>,
    /// The machine's services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) services: Vec<Kept>,
    /// The machine's firewall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) firewall: Option<Firewall>,
    /// The engine's image that it is instead of a snapshot, when it was imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<String>,
}

/// An object on its way into or out of a machine: one file in the staging folder, reached by signed addresses.
/// The key of the document is the id in the address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Object {
    /// The id.
    pub(super) id: String,
    /// The machine it was made for; only that machine's processes reach it from inside.
    pub(super) vm_id: String,
    /// SHA-256 of the signature in the address, in hex: the address itself is not kept.
    pub signature_sha256: String,
    /// The largest content, in bytes.
    pub(super) max_bytes: u64,
    /// When the addresses end and the content is removed.
    pub(super) expires_ms: u64,
    /// The media type that is signed, where it is not `application/octet-stream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media: Option<String>,
}

/// What a request with an `Idempotency-Key` made. The key of the document is [`super::once::key_of`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Made {
    /// SHA-256 of the request's body in hex: the same key with another body is an error.
    pub(super) request: String,
    /// The id of what was made.
    pub(super) id: String,
    /// When the key is forgotten.
    pub(super) expires_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_an_older_program_are_read() {
        let text = r#"{"id":"a","name":"n","phase":"running","cpu":1,"memory_mib":2048,"disk_gib":10,"created_ms":5}"#;
        let machine: Machine = serde_json::from_str(text).unwrap();
        assert_eq!(machine.phase, Phase::Running);
        assert_eq!(serde_json::to_string(&machine).unwrap(), text);
    }

    #[test]
    fn paused_machines_use_no_quota() {
        assert!(Phase::Launching.uses_quota() && Phase::Resuming.uses_quota());
        assert!(!Phase::Paused.uses_quota());
    }
}
