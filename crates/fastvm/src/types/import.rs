use std::collections::BTreeMap;

use boxrig_wire::{Secret, Untrusted, open_enum};

use super::{MachineType, Time};
use crate::model::{reply, request};

open_enum! {
    /// What a snapshot is made from.
    pub enum ImportSourceKind {
        /// An image of a registry.
        Image = "image",
        /// A Dockerfile with its context.
        Dockerfile = "dockerfile",
    }
}

open_enum! {
    /// What an import is doing.
    pub enum ImportStatus {
        /// It waits for a worker.
        Pending = "pending",
        /// A worker has it.
        Claimed = "claimed",
        /// It is being worked on; the events say where.
        Running = "running",
        /// Done.
        Succeeded = "succeeded",
        /// It failed.
        Failed = "failed",
        /// It was cancelled.
        Cancelled = "cancelled",
    }
}

open_enum! {
    /// A step of an import.
    pub enum ImportPhase {
        /// Making the build machine.
        Preparing = "preparing",
        /// Connecting it.
        Network = "network",
        /// Pulling the image.
        Pull = "pull",
        /// Fetching the context.
        FetchContext = "fetch_context",
        /// Building.
        Build = "build",
        /// Turning the image into a disk.
        Export = "export",
        /// Saving the disk.
        Saving = "saving",
        /// Booting it for the snapshot.
        Warming = "warming",
        /// Over.
        Done = "done",
    }
}

open_enum! {
    /// What became of a step.
    pub enum ImportEventStatus {
        /// It has begun.
        Started = "started",
        /// It is over.
        Completed = "completed",
        /// It failed.
        Failed = "failed",
        /// It was not needed.
        Skipped = "skipped",
        /// It was cancelled.
        Cancelled = "cancelled",
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
no_word!(
    ImportSourceKind,
    ImportStatus,
    ImportPhase,
    ImportEventStatus
);

impl ImportStatus {
    /// Whether it is over.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

reply! {
    /// What a snapshot is made from, as echoed: without secrets.
    pub struct ImportSourceView = "SnapshotImportSourceView" {
        required {
            /// Image or Dockerfile.
            kind: ImportSourceKind = "type",
        }
        optional {
            /// The image.
            image: Untrusted = "image",
            /// Its platform.
            platform: Untrusted = "platform",
            /// The registry's user.
            registry_username: Untrusted = "registryUsername",
            /// The registry.
            registry_host: Untrusted = "registryHost",
            /// The Dockerfile in the context.
            dockerfile_path: Untrusted = "dockerfilePath",
            /// Build arguments.
            build_args: BTreeMap<String, String> = "buildArgs",
            /// The stage.
            target: Untrusted = "target",
            /// The size of the context in bytes.
            context_size_bytes: u64 = "contextSizeBytes",
        }
    }

    /// A step of an import.
    pub struct ImportEvent = "SnapshotImportEvent" {
        required {
            /// The step.
            phase: ImportPhase = "phase",
            /// What became of it.
            status: ImportEventStatus = "status",
            /// When, in milliseconds since 1970.
            timestamp_ms: i64 = "timestampMs",
        }
        optional {
            /// In words.
            message: Untrusted = "message",
        }
    }

    /// A snapshot being made from an image or a Dockerfile.
    pub struct SnapshotImport = "SnapshotImportResponse" {
        required {
            /// Its id.
            id: String = "id",
            /// What from.
            source: ImportSourceView = "source",
            /// What it is doing.
            status: ImportStatus = "status",
            /// When it was asked for.
            created_at: Time = "createdAt",
        }
        optional {
            /// The snapshot's name.
            name: Untrusted = "name",
            /// The snapshot, when it succeeded.
            snapshot_id: String = "snapshotId",
            /// Why it failed.
            error: Untrusted = "error",
            /// Its steps so far.
            events: Vec<ImportEvent> = "events",
            /// The machine type.
            machine_name: Untrusted = "machineName",
            /// Number of virtual processors.
            cpu: u32 = "cpu",
            /// Memory in MiB.
            memory_mib: u64 = "memoryMiB",
            /// Disk in GiB.
            disk_gib: u64 = "diskGiB",
            /// When work began.
            started_at: Time = "startedAt",
            /// When it was last changed.
            updated_at: Time = "updatedAt",
            /// When it was over.
            finished_at: Time = "finishedAt",
        }
    }

    /// Where a build context is sent.
    pub struct ContextPresignResponse = "ContextPresignResponse" {
        required {
            /// Names the context in [`ImportSource::context_ref`]; good for one import.
            context_ref: Secret = "contextRef",
            /// A signed URL for a PUT of `application/zip`.
            upload_url: Secret = "uploadUrl",
            /// How long it is good for, in seconds.
            expires_in_sec: u64 = "expiresInSec",
            /// The largest context in bytes.
            max_upload_bytes: u64 = "maxUploadBytes",
        }
    }
}

request! {
    /// What a snapshot is made from. Members of the other kind must be absent; [`image`](Self::image) and
    /// [`dockerfile`](Self::dockerfile) begin one.
    pub struct ImportSource = "SnapshotImportSourceSpec" {
        required {
            /// Image or Dockerfile.
            kind: ImportSourceKind = "type",
        }
        optional {
            /// The image, for that kind.
            image: String = "image",
            /// `os/arch`, `linux/amd64` when absent; for an image.
            platform: String = "platform",
            /// The registry's user.
            registry_username: String = "registryUsername",
            /// The registry's password.
            registry_password: Secret = "registryPassword",
            /// The registry `host[:port]`; required with credentials for a Dockerfile, passed over for an image.
            registry_host: String = "registryHost",
            /// The context, for a Dockerfile.
            context_ref: Secret = "contextRef",
            /// Where the Dockerfile is in the context: relative, without `..`; `Dockerfile` when absent.
            dockerfile_path: String = "dockerfilePath",
            /// Build arguments: at most 64, and 8 KiB in all.
            build_args: BTreeMap<String, String> = "buildArgs",
            /// The stage; the last when empty.
            target: String = "target",
        }
    }

    /// A snapshot to make.
    pub struct CreateSnapshotImportRequest = "CreateSnapshotImportRequest" {
        required {
            /// What from.
            source: ImportSource = "source",
        }
        optional {
            /// The size of the machine it boots in.
            machine_type: MachineType = "machineType",
            /// Disk in GiB.
            disk_gib: u64 = "diskGiB",
            /// The snapshot's name.
            name: String = "name",
        }
    }

    /// A build context to be sent.
    pub struct ContextPresignRequest = "ContextPresignRequest" {
        optional {
            /// Its size in bytes; refused when it is more than the platform takes.
            size_bytes: u64 = "sizeBytes",
        }
    }
}

impl ImportSource {
    /// From an image of a registry.
    pub fn image(reference: impl Into<String>) -> Self {
        Self {
            kind: ImportSourceKind::Image,
            image: Some(reference.into()),
            ..Self::default()
        }
    }
    /// From a Dockerfile in a context that was sent.
    pub fn dockerfile(context_ref: Secret) -> Self {
        Self {
            kind: ImportSourceKind::Dockerfile,
            context_ref: Some(context_ref),
            ..Self::default()
        }
    }
}
