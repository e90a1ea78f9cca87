//! FastVM's 49 operations.

use boxrig_fastvm::ops::*;

use super::{Native, Natives};

/// The platform.
pub(crate) struct Fastvm;

macro_rules! operations {
    ($($name:ident)*) => { &[$(Native::of::<$name>()),*] };
}

impl Natives for Fastvm {
    const PLATFORM: &'static str = "fastvm";
    const OPERATIONS: &'static [Native] = operations! {
        Health ListVms LaunchVm GetVm UpdateVm DeleteVm PauseVm ResumeVm RefreshVmTtl SetVmFirewall PatchVmFirewall
        CreateConsoleToken ExecVm ListServices RegisterService UpdateService DeleteService PresignFile FetchFile
        AttachVolume DetachVolume ListBucketMounts AttachBucketMount GetBucketMount RotateBucketMount
        DeleteBucketMount ListSshKeys AddSshKey DeleteSshKey ListSnapshots CreateSnapshot GetSnapshot UpdateSnapshot
        DeleteSnapshot ListSnapshotImports CreateSnapshotImport PresignImportContext GetSnapshotImport
        DeleteSnapshotImport CancelSnapshotImport GetOrgQuotas CreateVolume GetVolume UpdateVolume DeleteVolume
        ListVolumeAttachments CreateBuild GetBuild PresignBuildContext
    };

    /// The local server speaks it too.
    fn is_spoken_by(platform: &str) -> bool {
        matches!(platform, "fastvm" | "local")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_command() {
        let ours: Vec<_> = Fastvm::OPERATIONS.iter().map(|n| n.meta.id).collect();
        let described: Vec<_> = CATALOG.iter().map(|m| m.id).collect();
        assert_eq!(ours, described);
    }

    #[test]
    fn the_tree_is_sound() {
        super::super::tree::<Fastvm>(clap::Command::new("fastvm")).debug_assert();
    }
}
