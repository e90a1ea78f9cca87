use boxrig_wire::{Secret, Untrusted, open_enum};

use super::{MachineType, Time};
use crate::model::{reply, request};

open_enum! {
    /// What a build of the older API is doing. Words that are not known count as in progress.
    pub enum BuildStatus {
        /// It waits.
        Pending = "pending",
        /// It is being worked on.
        Running = "running",
        /// Done.
        Completed = "completed",
        /// It failed.
        Failed = "failed",
    }
}

impl Default for BuildStatus {
    fn default() -> Self {
        Self::Unknown(String::new())
    }
}

reply! {
    /// A build of the older API.
    pub struct BuildResponse = "BuildResponse" {
        required {
            /// Its UUID.
            id: String = "id",
            /// When it was asked for.
            created_at: Time = "createdAt",
            /// The image.
            image_ref: Untrusted = "imageRef",
            /// What it is doing.
            status: BuildStatus = "status",
        }
        optional {
            /// Why it failed.
            error: Untrusted = "error",
            /// The snapshot's name.
            name: Untrusted = "name",
            /// Where it is, in words.
            progress: Untrusted = "progress",
            /// The snapshot, when it is completed.
            snapshot_id: String = "snapshotId",
        }
    }
}

request! {
    /// A build of the older API. At least one of `image_ref` and `dockerfile_content`.
    pub struct BuildCreateRequest = "BuildCreateRequest" {
        optional {
            /// The image, or the `FROM` where the Dockerfile has none.
            image_ref: String = "imageRef",
            /// The Dockerfile's text.
            dockerfile_content: String = "dockerfileContent",
            /// The context, a `tar.gz`: the download URL of its presign.
            context_download_url: Secret = "contextDownloadUrl",
            /// The size of the machine it boots in.
            machine_type: MachineType = "machineType",
            /// Disk in GiB; 10 when absent.
            disk_gib: u64 = "diskGiB",
            /// The snapshot's name; the build's id when absent.
            name: String = "name",
        }
    }
}
