//! The schemas of the API, for both sides.
//!
//! Names, requirements and limits are those of `api/fastvm.openapi.yaml`; a test compares the two. How they are read and
//! written is told at [`Schema`](crate::Schema)'s module: tolerantly what servers send, exactly what clients send.
//!
//! Text that comes from people or guests (names, messages) is [`Untrusted`](boxrig_wire::Untrusted); what gives access (tokens,
//! signed URLs, passwords, environment values, bucket credentials) shows nothing of itself in `Debug`.

mod account;
mod build;
mod common;
mod exec;
mod firewall;
mod import;
mod service;
mod snapshot;
mod vm;
mod volume;

pub use account::*;
pub use build::*;
pub use common::*;
pub use exec::*;
pub use firewall::*;
pub use import::*;
pub use service::*;
pub use snapshot::*;
pub use vm::*;
pub use volume::*;

use crate::model::Schema;

/// The schemas that are objects, for comparison with the API description.
pub const SCHEMAS: &[Schema] = &[
    ErrorBody::SCHEMA,
    QuotaExceededError::SCHEMA,
    QuotaExceeded::SCHEMA,
    DeleteResponse::SCHEMA,
    Ttl::SCHEMA,
    IngressRule::SCHEMA,
    IngressPolicy::SCHEMA,
    EgressRule::SCHEMA,
    EgressPolicy::SCHEMA,
    DnsPolicy::SCHEMA,
    FirewallPolicy::SCHEMA,
    FirewallRuleLegacy::SCHEMA,
    FirewallPolicyLegacy::SCHEMA,
    Service::SCHEMA,
    RegisterServiceRequest::SCHEMA,
    UpdateServiceRequest::SCHEMA,
    SnapshotService::SCHEMA,
    VolumeAttachment::SCHEMA,
    VolumeAttachmentWithVm::SCHEMA,
    VolumeAttachRequest::SCHEMA,
    DetachWarning::SCHEMA,
    DetachVolumeResponse::SCHEMA,
    BucketMount::SCHEMA,
    AttachBucketMountRequest::SCHEMA,
    RotateBucketMountRequest::SCHEMA,
    Vm::SCHEMA,
    SnapshotRestoreWarnings::SCHEMA,
    LaunchedVm::SCHEMA,
    CreateVmRequest::SCHEMA,
    UpdateVmRequest::SCHEMA,
    ExecRequest::SCHEMA,
    ExecResponse::SCHEMA,
    ExecEvent::SCHEMA,
    FilePresignRequest::SCHEMA,
    FilePresignResponse::SCHEMA,
    FileFetchRequest::SCHEMA,
    ConsoleTokenResponse::SCHEMA,
    SnapshotVolumeAttachment::SCHEMA,
    SnapshotBucketMountAttachment::SCHEMA,
    Snapshot::SCHEMA,
    CreateSnapshotRequest::SCHEMA,
    UpdateSnapshotRequest::SCHEMA,
    ImportSource::SCHEMA,
    ImportSourceView::SCHEMA,
    ImportEvent::SCHEMA,
    SnapshotImport::SCHEMA,
    CreateSnapshotImportRequest::SCHEMA,
    ContextPresignRequest::SCHEMA,
    ContextPresignResponse::SCHEMA,
    SshKey::SCHEMA,
    SshKeyListResponse::SCHEMA,
    AddSshKeyRequest::SCHEMA,
    OrgQuotaValues::SCHEMA,
    OrgQuotaUsage::SCHEMA,
    Volume::SCHEMA,
    CreateVolumeRequest::SCHEMA,
    UpdateVolumeRequest::SCHEMA,
    HealthResponse::SCHEMA,
    BuildCreateRequest::SCHEMA,
    BuildResponse::SCHEMA,
];

/// The schemas that are words or maps, with the values of an enumeration that are known. An open
/// enumeration reads words that it does not know as `Unknown`.
pub const WORDS: &[(&str, &[&str])] = &[
    ("VMStatus", VmStatus::KNOWN),
    ("SnapshotStatus", SnapshotStatus::KNOWN),
    ("MachineType", &[]),
    ("Metadata", &[]),
    ("EnvVars", &[]),
    ("PolicyAction", PolicyAction::KNOWN),
    ("IngressRuleKind", IngressRuleKind::KNOWN),
    ("EgressRuleKind", EgressRuleKind::KNOWN),
    ("DNSMode", DnsMode::KNOWN),
    ("BucketMountCredentials", &[]),
];
