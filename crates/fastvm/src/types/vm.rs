use boxrig_wire::{Untrusted, open_enum};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{
    AttachBucketMountRequest, BucketMount, EnvVars, Firewall, MachineType, Metadata,
    SnapshotService, Time, VolumeAttachRequest, VolumeAttachment,
};
use crate::model::{Extra, Schema, optional, reply, request};

open_enum! {
    /// What a machine is doing. Words that are not known count as on the way.
    pub enum VmStatus {
        /// It is being made.
        Provisioning = "provisioning",
        /// It runs.
        Running = "running",
        /// It has stopped; a failure for those who wait.
        Stopped = "stopped",
        /// Its memory is being written away.
        Pausing = "pausing",
        /// Memory and disk are kept, nothing runs, no quota is used.
        Paused = "paused",
        /// Its memory is being read back.
        Resuming = "resuming",
        /// It is being removed; a failure for those who wait.
        Deleting = "deleting",
        /// It failed.
        Error = "error",
    }
}

impl Default for VmStatus {
    fn default() -> Self {
        Self::Unknown(String::new())
    }
}

impl VmStatus {
    /// Whether it will never run from here on its own: `error`, `stopped`, `deleting`.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Error | Self::Stopped | Self::Deleting)
    }
    /// Whether it is on the way to another status: neither running, nor paused, nor terminal.
    pub fn is_transitional(&self) -> bool {
        !self.is_terminal() && !matches!(self, Self::Running | Self::Paused)
    }
}

open_enum! {
    /// What happens when a machine's time is up.
    pub enum TtlAction {
        /// It is paused, and the next running session gets a full cycle.
        Pause = "pause",
        /// It is deleted for good.
        Delete = "delete",
    }
}

impl Default for TtlAction {
    fn default() -> Self {
        Self::Unknown(String::new())
    }
}

reply! {
    /// A machine's time to live. It counts only while the machine runs.
    pub struct Ttl = "TTL" {
        required {
            /// The length of a cycle in seconds, 1 to 31536000 (a year).
            seconds: u64 = "seconds",
            /// What happens at its end.
            action: TtlAction = "action",
        }
    }

    /// A microVM.
    pub struct Vm = "VM" {
        required {
            /// Its UUID.
            id: String = "id",
            /// Its name.
            name: Untrusted = "name",
            /// The organisation it belongs to.
            org_id: String = "orgId",
            /// Number of virtual processors.
            cpu: u32 = "cpu",
            /// Memory in MiB.
            memory_mib: u64 = "memoryMiB",
            /// Disk in GiB.
            disk_gib: u64 = "diskGiB",
            /// What it is doing.
            status: VmStatus = "status",
            /// When it was made.
            created_at: Time = "createdAt",
        }
        optional {
            /// Its machine type.
            machine_name: Untrusted = "machineName",
            /// The snapshot or image it came from; empty on a fresh boot.
            source_name: Untrusted = "sourceName",
            /// The policy as it was written.
            firewall: Firewall = "firewall",
            /// The policy with one rule more for each registered service; computed, never stored.
            effective_firewall: Firewall = "effectiveFirewall",
            /// Its metadata.
            metadata: Metadata = "metadata",
            /// Its environment.
            env_vars: EnvVars = "envVars",
            /// Its public address.
            public_ipv6: Untrusted = "publicIpv6",
            /// When it was deleted.
            deleted_at: Time = "deletedAt",
            /// Its time to live.
            ttl: Ttl = "ttl",
            /// When the time is up, in milliseconds since 1970; only while it runs.
            expires_at_ms: i64 = "expiresAtMs",
            /// The time that is left in milliseconds; only while it is paused.
            ttl_remaining_ms: i64 = "ttlRemainingMs",
            /// When it was paused.
            paused_at: Time = "pausedAt",
            /// Its volumes.
            volumes: Vec<VolumeAttachment> = "volumes",
            /// Its bucket mounts.
            bucket_mounts: Vec<BucketMount> = "bucketMounts",
        }
    }

    /// What a restore could not replay. The machine is usable all the same.
    pub struct SnapshotRestoreWarnings = "SnapshotRestoreWarnings" {
        required {
            /// `true`.
            services_registration_failed: bool = "servicesRegistrationFailed",
        }
        optional {
            /// Why.
            reason: Untrusted = "reason",
            /// All services of the snapshot: registration is all or nothing.
            unregistered_services: Vec<SnapshotService> = "unregisteredServices",
        }
    }

    /// A console for a short time.
    pub struct ConsoleTokenResponse = "ConsoleTokenResponse" {
        required {
            /// The token; good for one connection.
            token: boxrig_wire::Secret = "token",
            /// How long it is good for, in seconds.
            expires_in_sec: u64 = "expiresInSec",
            /// Where to open the websocket: a path, or a whole `ws:` or `wss:` URL.
            websocket_path: String = "websocketPath",
        }
    }
}

impl Ttl {
    /// Pauses the machine after this many seconds of running.
    pub fn pause(seconds: u64) -> Self {
        Self {
            seconds,
            action: TtlAction::Pause,
            ..Self::default()
        }
    }
    /// Deletes the machine after this many seconds of running.
    pub fn delete(seconds: u64) -> Self {
        Self {
            seconds,
            action: TtlAction::Delete,
            ..Self::default()
        }
    }
}

impl Vm {
    /// How long it may still run, if it has a time to live; `now_ms` is the present time in milliseconds since 1970.
    pub fn ttl_left(&self, now_ms: i64) -> Option<std::time::Duration> {
        let left = self
            .ttl_remaining_ms
            .or_else(|| Some(self.expires_at_ms?.saturating_sub(now_ms)))?;
        Some(std::time::Duration::from_millis(
            u64::try_from(left).unwrap_or(0),
        ))
    }

    /// The host name under which one of its services is reached: `domain` is the platform's stack domain.
    ///
    /// ```
    /// let vm = boxrig_fastvm::Vm { id: "0b2e6d6e-1111-4222-8333-444455556666".into(), ..Default::default() };
    /// assert_eq!(vm.service_host("web", "fastvm.org"), "web--0b2e6d6e111142228333444455556666.proxy.fastvm.org");
    /// ```
    pub fn service_host(&self, service: &str, domain: &str) -> String {
        let hex: String = self.id.chars().filter(|c| *c != '-').collect();
        format!("{service}--{hex}.proxy.{domain}")
    }
}

/// What a launch answers: the machine, and what went wrong beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LaunchedVm {
    /// The machine.
    pub vm: Vm,
    /// What a restore could not replay.
    pub snapshot_restore_warnings: Option<SnapshotRestoreWarnings>,
    /// Volumes and buckets that could not be attached; the form is not documented.
    pub attachment_warnings: Option<Value>,
}

impl LaunchedVm {
    /// What the API description says of it.
    pub const SCHEMA: Schema = Schema {
        name: "VMCreateResponse",
        required: Vm::SCHEMA.required,
        optional: LAUNCHED_OPTIONAL,
    };
}

const RESTORE_WARNINGS: &str = "snapshotRestoreWarnings";
const ATTACHMENT_WARNINGS: &str = "attachmentWarnings";
const LAUNCHED_OPTIONAL: &[&str] = &{
    const OF: &[&str] = Vm::SCHEMA.optional;
    let mut all = [""; OF.len() + 2];
    let mut i = 0;
    while i < OF.len() {
        all[i] = OF[i];
        i += 1;
    }
    all[i] = RESTORE_WARNINGS;
    all[i + 1] = ATTACHMENT_WARNINGS;
    all
};

impl From<Vm> for LaunchedVm {
    fn from(vm: Vm) -> Self {
        Self {
            vm,
            ..Self::default()
        }
    }
}

impl Serialize for LaunchedVm {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        let mut vm = self.vm.clone();
        if let Some(w) = &self.snapshot_restore_warnings {
            let w = serde_json::to_value(w).map_err(S::Error::custom)?;
            vm.extra.insert(RESTORE_WARNINGS.to_owned(), w);
        }
        if let Some(w) = &self.attachment_warnings {
            vm.extra.insert(ATTACHMENT_WARNINGS.to_owned(), w.clone());
        }
        vm.serialize(s)
    }
}

impl<'de> Deserialize<'de> for LaunchedVm {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let mut map = Extra::deserialize(d)?;
        let read = |map: &mut Extra| -> serde_json::Result<Self> {
            Ok(Self {
                snapshot_restore_warnings: optional(map, RESTORE_WARNINGS)?,
                attachment_warnings: optional(map, ATTACHMENT_WARNINGS)?,
                vm: Vm::from_members(std::mem::take(map))?,
            })
        };
        read(&mut map).map_err(serde::de::Error::custom)
    }
}

request! {
    /// A launch. Exactly one of `machine_type` and `snapshot_id`.
    pub struct CreateVmRequest = "CreateVMRequest" {
        optional {
            /// The size of a fresh machine.
            machine_type: MachineType = "machineType",
            /// The snapshot to restore.
            snapshot_id: String = "snapshotId",
            /// Its name: trimmed, blanks collapsed, cut to 64 characters; `vm-` and the first 8 characters of the id when empty.
            name: String = "name",
            /// Disk in GiB, instead of the size's own.
            disk_gib: u64 = "diskGiB",
            /// Metadata.
            metadata: Metadata = "metadata",
            /// Environment.
            env_vars: EnvVars = "envVars",
            /// Firewall; the platform's default when absent.
            firewall: Firewall = "firewall",
            /// Time to live.
            ttl: super::Ttl = "ttl",
            /// Volumes to attach (not documented by the vendor; inferred from its answers).
            volumes: Vec<VolumeAttachRequest> = "volumes",
            /// Buckets to mount (not documented by the vendor; inferred from its answers).
            bucket_mounts: Vec<AttachBucketMountRequest> = "bucketMounts",
        }
    }

    /// A change of a machine. At least one member.
    pub struct UpdateVmRequest = "UpdateVMRequest" {
        optional {
            /// Its new name.
            name: String = "name",
            /// Its new metadata, all of it: an empty map clears.
            metadata: Metadata = "metadata",
        }
        patch {
            /// Its time to live: a value starts a new cycle, `Clear` removes it.
            ttl: super::Ttl = "ttl",
        }
    }
}
