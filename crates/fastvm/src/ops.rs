//! The operations of the API, each described once for client and server.
//!
//! Ids, methods, paths and retries are those of `api/fastvm.openapi.yaml`; a test compares the two.
//! [`CATALOG`] has the 49 operations of the vendor, [`EXTENSIONS`] what boxrig's server adds: it never changes what the
//! vendor's clients see.

use std::collections::BTreeMap;

use boxrig_wire::{
    ByteBody, ByteReply, Catalog, Empty, Endpoint, Json, JsonReply, Socket, endpoint, params,
};

use crate::protocol::FastVm;
use crate::reply::Waitable;
use crate::types::*;

params! {
    /// Which machines to list.
    pub struct ListVmsQuery {
        /// Only those in this status; a word that the server does not know gives none.
        pub status: Option<String> = "status",
        /// Only those that have all of these metadata.
        pub metadata: BTreeMap<String, String> = "metadata.",
    }
}

params! {
    /// The long poll: an extension of boxrig's server, announced by [`WAIT_HEADER`](crate::WAIT_HEADER).
    pub struct GetVmQuery {
        /// Answer when the machine has this status, or one from which it will not get there; `running` is the one that is known.
        pub wait: Option<String> = "wait",
        /// Answer with the present state after this many seconds all the same.
        pub timeout: Option<f64> = "timeout",
    }
}

params! {
    /// A key that names one wish, so that a server that knows it does not fulfil it twice.
    pub struct IdempotencyHeaders {
        /// The key.
        pub key: Option<String> = "Idempotency-Key",
    }
}

params! {
    /// Which form exec answers in.
    pub struct ExecHeaders {
        /// `application/x-ndjson` for events, anything else for one object.
        pub accept: Option<String> = "Accept",
        /// An extension of boxrig's server: an event without members is sent whenever there was no event for this many seconds, so that a
        /// quiet command can be told from a dead connection.
        pub heartbeat: Option<u32> = "X-Boxrig-Heartbeat",
    }
}

params! {
    /// The headers of a staging object's content.
    pub struct ObjectHeaders {
        /// `sha-256=:<base64>:` (RFC 9530): checked when it is given. An extension of boxrig's server.
        pub digest: Option<String> = "Content-Digest",
        /// The length, where it is known beforehand.
        pub length: Option<u64> = "Content-Length",
    }
}

params! {
    /// What makes a staging URL good for one object and some time.
    pub struct ObjectQuery {
        /// When it ends, in seconds since 1970.
        pub expires: Option<u64> = "expires",
        /// The signature.
        pub signature: Option<String> = "signature",
    }
}

params! {
    /// What opens a console.
    pub struct ConsoleQuery {
        /// The token of [`CreateConsoleToken`].
        pub session: Option<String> = "session",
    }
}

endpoint! {
    /// Says whether the service is there; needs no key.
    pub Health = "health": FastVm, GET "/healthz" {
        reply: JsonReply<HealthResponse>,
    }
}
endpoint! {
    /// Lists the machines that are not deleted.
    pub ListVms = "listVms": FastVm, GET "/v1/vms" {
        query: ListVmsQuery,
        reply: JsonReply<Vec<Vm>>,
    }
}
endpoint! {
    /// Launches a machine, fresh or from a snapshot.
    ///
    /// 201: it runs. 202: it is queued; ask for it until it runs.
    pub LaunchVm = "launchVm": FastVm, POST "/v1/vms" {
        headers: IdempotencyHeaders,
        body: Json<CreateVmRequest>,
        reply: Waitable<LaunchedVm>,
        max_retries: 0,
    }
}
endpoint! {
    /// Gets a machine.
    pub GetVm = "getVm": FastVm, GET "/v1/vms/{id}" {
        path: (String,),
        query: GetVmQuery,
        reply: Waitable<Vm>,
    }
}
endpoint! {
    /// Changes a machine's name, metadata or time to live.
    pub UpdateVm = "updateVm": FastVm, PATCH "/v1/vms/{id}" {
        path: (String,),
        body: Json<UpdateVmRequest>,
        reply: JsonReply<Vm>,
        idempotency: Idempotent,
    }
}
endpoint! {
    /// Deletes a machine.
    pub DeleteVm = "deleteVm": FastVm, DELETE "/v1/vms/{id}" {
        path: (String,),
        reply: JsonReply<DeleteResponse>,
    }
}
endpoint! {
    /// Pauses a machine: memory and disk are kept, its quota is free.
    pub PauseVm = "pauseVm": FastVm, POST "/v1/vms/{id}/pause" {
        path: (String,),
        reply: JsonReply<Vm>,
        idempotency: Idempotent,
    }
}
endpoint! {
    /// Resumes a paused machine. 200: it runs. 202: it is queued.
    pub ResumeVm = "resumeVm": FastVm, POST "/v1/vms/{id}/resume" {
        path: (String,),
        reply: JsonReply<Vm>,
        idempotency: Idempotent,
    }
}
endpoint! {
    /// Begins a machine's time to live again.
    pub RefreshVmTtl = "refreshVmTtl": FastVm, POST "/v1/vms/{id}/ttl/refresh" {
        path: (String,),
        reply: JsonReply<Vm>,
        idempotency: Idempotent,
    }
}
endpoint! {
    /// Replaces a machine's firewall policy.
    pub SetVmFirewall = "setVmFirewall": FastVm, PUT "/v1/vms/{id}/firewall" {
        path: (String,),
        body: Json<Firewall>,
        reply: JsonReply<Vm>,
    }
}
endpoint! {
    /// Changes parts of a machine's firewall policy.
    pub PatchVmFirewall = "patchVmFirewall": FastVm, PATCH "/v1/vms/{id}/firewall" {
        path: (String,),
        body: Json<FirewallPatch>,
        reply: JsonReply<Vm>,
        idempotency: Idempotent,
    }
}
endpoint! {
    /// Makes a token that opens a machine's console once.
    pub CreateConsoleToken = "createConsoleToken": FastVm, POST "/v1/vms/{id}/console-token" {
        path: (String,),
        reply: JsonReply<ConsoleTokenResponse>,
        idempotency: Idempotent,
    }
}
endpoint! {
    /// Runs a command in a machine.
    pub ExecVm = "execVm": FastVm, POST "/v1/vms/{id}/exec" {
        path: (String,),
        headers: ExecHeaders,
        body: Json<ExecRequest>,
        reply: ExecReply,
        max_retries: 0,
    }
}
endpoint! {
    /// Lists a machine's services.
    pub ListServices = "listServices": FastVm, GET "/v1/vms/{id}/services" {
        path: (String,),
        reply: JsonReply<Vec<Service>>,
    }
}
endpoint! {
    /// Registers a service. The same once more gives the one that is there.
    pub RegisterService = "registerService": FastVm, POST "/v1/vms/{id}/services" {
        path: (String,),
        body: Json<RegisterServiceRequest>,
        reply: JsonReply<Service>,
        idempotency: Idempotent,
        max_retries: 0,
    }
}
endpoint! {
    /// Registers a service, or changes the one of this name.
    pub UpdateService = "updateService": FastVm, PUT "/v1/vms/{id}/services/{serviceName}" {
        path: (String, String),
        body: Json<UpdateServiceRequest>,
        reply: JsonReply<Service>,
    }
}
endpoint! {
    /// Removes a service.
    pub DeleteService = "deleteService": FastVm, DELETE "/v1/vms/{id}/services/{serviceName}" {
        path: (String, String),
        reply: Empty,
    }
}
endpoint! {
    /// Makes a staging object: two signed URLs, to bring a file in or out.
    pub PresignFile = "presignFile": FastVm, POST "/v1/vms/{id}/files/presign" {
        path: (String,),
        body: Json<FilePresignRequest>,
        reply: JsonReply<FilePresignResponse>,
        idempotency: Idempotent,
        max_retries: 0,
    }
}
endpoint! {
    /// Makes a machine fetch a staging object to a path of its own.
    pub FetchFile = "fetchFile": FastVm, POST "/v1/vms/{id}/files/fetch" {
        path: (String,),
        body: Json<FileFetchRequest>,
        reply: JsonReply<ExecResponse>,
        idempotency: Idempotent,
        max_retries: 0,
    }
}
endpoint! {
    /// Attaches a volume; at once when the machine runs, at its resume when it is paused.
    pub AttachVolume = "attachVolume": FastVm, POST "/v1/vms/{id}/volumes" {
        path: (String,),
        headers: IdempotencyHeaders,
        body: Json<VolumeAttachRequest>,
        reply: JsonReply<VolumeAttachment>,
    }
}
endpoint! {
    /// Detaches a volume.
    pub DetachVolume = "detachVolume": FastVm, DELETE "/v1/vms/{id}/volumes/{volumeId}" {
        path: (String, String),
        reply: JsonReply<DetachVolumeResponse>,
    }
}
endpoint! {
    /// Lists a machine's bucket mounts.
    pub ListBucketMounts = "listBucketMounts": FastVm, GET "/v1/vms/{id}/bucket-mounts" {
        path: (String,),
        reply: JsonReply<Vec<BucketMount>>,
    }
}
endpoint! {
    /// Mounts a customer's bucket in a machine.
    pub AttachBucketMount = "attachBucketMount": FastVm, POST "/v1/vms/{id}/bucket-mounts" {
        path: (String,),
        headers: IdempotencyHeaders,
        body: Json<AttachBucketMountRequest>,
        reply: JsonReply<BucketMount>,
    }
}
endpoint! {
    /// Gets a bucket mount.
    pub GetBucketMount = "getBucketMount": FastVm, GET "/v1/vms/{id}/bucket-mounts/{bucketMountId}" {
        path: (String, String),
        reply: JsonReply<BucketMount>,
    }
}
endpoint! {
    /// Gives a bucket mount new credentials, in place.
    pub RotateBucketMount = "rotateBucketMount": FastVm, PATCH "/v1/vms/{id}/bucket-mounts/{bucketMountId}" {
        path: (String, String),
        body: Json<RotateBucketMountRequest>,
        reply: JsonReply<BucketMount>,
        idempotency: Idempotent,
    }
}
endpoint! {
    /// Unmounts a bucket.
    pub DeleteBucketMount = "deleteBucketMount": FastVm, DELETE "/v1/vms/{id}/bucket-mounts/{bucketMountId}" {
        path: (String, String),
        reply: Empty,
    }
}
endpoint! {
    /// Lists the caller's SSH keys.
    pub ListSshKeys = "listSshKeys": FastVm, GET "/v1/me/ssh-keys" {
        reply: JsonReply<SshKeyListResponse>,
    }
}
endpoint! {
    /// Adds an SSH key.
    pub AddSshKey = "addSshKey": FastVm, POST "/v1/me/ssh-keys" {
        headers: IdempotencyHeaders,
        body: Json<AddSshKeyRequest>,
        reply: JsonReply<SshKey>,
    }
}
endpoint! {
    /// Removes an SSH key, by its fingerprint.
    pub DeleteSshKey = "deleteSshKey": FastVm, DELETE "/v1/me/ssh-keys/{fingerprint}" {
        path: (String,),
        reply: JsonReply<DeleteResponse>,
    }
}
endpoint! {
    /// Lists the snapshots.
    pub ListSnapshots = "listSnapshots": FastVm, GET "/v1/snapshots" {
        reply: JsonReply<Vec<Snapshot>>,
    }
}
endpoint! {
    /// Takes a snapshot of a machine that runs or is paused.
    pub CreateSnapshot = "createSnapshot": FastVm, POST "/v1/snapshots" {
        headers: IdempotencyHeaders,
        body: Json<CreateSnapshotRequest>,
        reply: JsonReply<Snapshot>,
        max_retries: 0,
    }
}
endpoint! {
    /// Gets a snapshot.
    pub GetSnapshot = "getSnapshot": FastVm, GET "/v1/snapshots/{id}" {
        path: (String,),
        reply: JsonReply<Snapshot>,
    }
}
endpoint! {
    /// Renames a snapshot.
    pub UpdateSnapshot = "updateSnapshot": FastVm, PATCH "/v1/snapshots/{id}" {
        path: (String,),
        body: Json<UpdateSnapshotRequest>,
        reply: JsonReply<Snapshot>,
        idempotency: Idempotent,
    }
}
endpoint! {
    /// Deletes a snapshot.
    pub DeleteSnapshot = "deleteSnapshot": FastVm, DELETE "/v1/snapshots/{id}" {
        path: (String,),
        reply: JsonReply<DeleteResponse>,
    }
}
endpoint! {
    /// Lists the organisation's snapshot imports.
    pub ListSnapshotImports = "listSnapshotImports": FastVm, GET "/v1/snapshot-imports" {
        reply: JsonReply<Vec<SnapshotImport>>,
    }
}
endpoint! {
    /// Makes a snapshot from an image or a Dockerfile.
    pub CreateSnapshotImport = "createSnapshotImport": FastVm, POST "/v1/snapshot-imports" {
        headers: IdempotencyHeaders,
        body: Json<CreateSnapshotImportRequest>,
        reply: JsonReply<SnapshotImport>,
        max_retries: 0,
    }
}
endpoint! {
    /// Makes a place for a build context.
    pub PresignImportContext = "presignImportContext": FastVm, POST "/v1/snapshot-imports/context-presign" {
        body: Json<ContextPresignRequest>,
        reply: JsonReply<ContextPresignResponse>,
        idempotency: Idempotent,
        max_retries: 0,
    }
}
endpoint! {
    /// Gets a snapshot import.
    pub GetSnapshotImport = "getSnapshotImport": FastVm, GET "/v1/snapshot-imports/{id}" {
        path: (String,),
        reply: JsonReply<SnapshotImport>,
    }
}
endpoint! {
    /// Deletes a snapshot import that is over, and its snapshot.
    pub DeleteSnapshotImport = "deleteSnapshotImport": FastVm, DELETE "/v1/snapshot-imports/{id}" {
        path: (String,),
        reply: JsonReply<DeleteResponse>,
    }
}
endpoint! {
    /// Cancels a snapshot import.
    pub CancelSnapshotImport = "cancelSnapshotImport": FastVm, POST "/v1/snapshot-imports/{id}/cancel" {
        path: (String,),
        reply: JsonReply<SnapshotImport>,
        idempotency: Idempotent,
    }
}
endpoint! {
    /// Gets the organisation's quotas and what it uses of them.
    pub GetOrgQuotas = "getOrgQuotas": FastVm, GET "/v1/org/quotas" {
        reply: JsonReply<OrgQuotaUsage>,
    }
}
endpoint! {
    /// Makes a volume.
    pub CreateVolume = "createVolume": FastVm, POST "/v1/volumes" {
        headers: IdempotencyHeaders,
        body: Json<CreateVolumeRequest>,
        reply: JsonReply<Volume>,
    }
}
endpoint! {
    /// Gets a volume.
    pub GetVolume = "getVolume": FastVm, GET "/v1/volumes/{id}" {
        path: (String,),
        reply: JsonReply<Volume>,
    }
}
endpoint! {
    /// Changes a volume's name, size or access.
    pub UpdateVolume = "updateVolume": FastVm, PATCH "/v1/volumes/{id}" {
        path: (String,),
        body: Json<UpdateVolumeRequest>,
        reply: JsonReply<Volume>,
        idempotency: Idempotent,
    }
}
endpoint! {
    /// Deletes a volume.
    pub DeleteVolume = "deleteVolume": FastVm, DELETE "/v1/volumes/{id}" {
        path: (String,),
        reply: JsonReply<DeleteResponse>,
    }
}
endpoint! {
    /// Lists the machines that have a volume.
    pub ListVolumeAttachments = "listVolumeAttachments": FastVm, GET "/v1/volumes/{id}/attachments" {
        path: (String,),
        reply: JsonReply<Vec<VolumeAttachmentWithVm>>,
    }
}
endpoint! {
    /// Makes a snapshot through the older API.
    pub CreateBuild = "createBuild": FastVm, POST "/v1/builds" {
        headers: IdempotencyHeaders,
        body: Json<BuildCreateRequest>,
        reply: JsonReply<BuildResponse>,
        max_retries: 0,
    }
}
endpoint! {
    /// Gets a build of the older API.
    pub GetBuild = "getBuild": FastVm, GET "/v1/builds/{id}" {
        path: (String,),
        reply: JsonReply<BuildResponse>,
    }
}
endpoint! {
    /// Makes a place for a build context of the older API.
    pub PresignBuildContext = "presignBuildContext": FastVm, POST "/v1/build-contexts/presign" {
        reply: JsonReply<FilePresignResponse>,
        idempotency: Idempotent,
        max_retries: 0,
    }
}

// What boxrig's server adds.

endpoint! {
    /// Lists the volumes; the vendor documents no such operation.
    pub ListVolumes = "listVolumes": FastVm, GET "/v1/volumes" {
        reply: JsonReply<Vec<Volume>>,
    }
}
endpoint! {
    /// Takes the content of a staging object. Needs no key: the URL is signed.
    pub PutObject = "putObject": FastVm, PUT "/v1/objects/{object}" {
        path: (String,),
        query: ObjectQuery,
        headers: ObjectHeaders,
        body: ByteBody,
        reply: Empty,
    }
}
endpoint! {
    /// Gives the content of a staging object. Needs no key: the URL is signed.
    pub GetObject = "getObject": FastVm, GET "/v1/objects/{object}" {
        path: (String,),
        query: ObjectQuery,
        reply: ByteReply,
    }
}
endpoint! {
    /// Opens a machine's console. Needs no key: the token opens it, once.
    ///
    /// The server sends raw bytes of the terminal in binary or text frames; the client sends keystrokes in text frames, and
    /// `{"type":"resize","cols":C,"rows":R}` first and on every change.
    pub OpenConsole = "openConsole": FastVm, GET "/v1/vms/{id}/console" {
        path: (String,),
        query: ConsoleQuery,
        reply: Socket,
    }
}

/// The operations of the vendor, in the order of its API description.
pub const CATALOG: Catalog = &[
    Health::META,
    ListVms::META,
    LaunchVm::META,
    GetVm::META,
    UpdateVm::META,
    DeleteVm::META,
    PauseVm::META,
    ResumeVm::META,
    RefreshVmTtl::META,
    SetVmFirewall::META,
    PatchVmFirewall::META,
    CreateConsoleToken::META,
    ExecVm::META,
    ListServices::META,
    RegisterService::META,
    UpdateService::META,
    DeleteService::META,
    PresignFile::META,
    FetchFile::META,
    AttachVolume::META,
    DetachVolume::META,
    ListBucketMounts::META,
    AttachBucketMount::META,
    GetBucketMount::META,
    RotateBucketMount::META,
    DeleteBucketMount::META,
    ListSshKeys::META,
    AddSshKey::META,
    DeleteSshKey::META,
    ListSnapshots::META,
    CreateSnapshot::META,
    GetSnapshot::META,
    UpdateSnapshot::META,
    DeleteSnapshot::META,
    ListSnapshotImports::META,
    CreateSnapshotImport::META,
    PresignImportContext::META,
    GetSnapshotImport::META,
    DeleteSnapshotImport::META,
    CancelSnapshotImport::META,
    GetOrgQuotas::META,
    CreateVolume::META,
    GetVolume::META,
    UpdateVolume::META,
    DeleteVolume::META,
    ListVolumeAttachments::META,
    CreateBuild::META,
    GetBuild::META,
    PresignBuildContext::META,
];

/// What boxrig's server adds to them.
pub const EXTENSIONS: Catalog = &[
    ListVolumes::META,
    PutObject::META,
    GetObject::META,
    OpenConsole::META,
];
