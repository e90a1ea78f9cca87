//! The collections of the API, a row each: what is in them and by which operations they are reached.

use super::{Collection, Create, Delete, Listed, Patch, Read, Rename, Replace};
use crate::client::Client;
use crate::models;
use crate::ops::{
    certificates, cluster, images, instance_snapshots, network_acls, network_address_sets,
    network_integrations, network_services, network_zones, networks, profiles, projects, server,
    storage_buckets, storage_pools, storage_volumes,
};

macro_rules! collections {
    ($(
        $(#[$attr:meta])*
        $name:ident = $method:ident($($parent:ident),*) {
            list $item:ident: $list:path,
            $(get: $get:path,)?
            $(create $new:ident: $create:path,)?
            $(put $put:ident: $replace:path,)?
            $(patch: $patch:path,)?
            $(rename $post:ident $(by $member:literal)?: $rename:path,)?
            $(delete: $delete:path,)?
        }
    )*) => {
        $(
            $(#[$attr])*
            #[derive(Clone, Copy, Debug)]
            pub struct $name;
            impl Listed for $name {
                type Item = models::$item;
                type List = $list;
            }
            $(impl Read for $name { type Get = $get; })?
            $(impl Create for $name { type New = models::$new; type Create = $create; })?
            $(impl Replace for $name { type Put = models::$put; type Replace = $replace; })?
            $(impl Patch for $name { type Patch = $patch; })?
            $(impl Rename for $name {
                type Post = models::$post;
                type Rename = $rename;
                $(const NAME: &'static str = $member;)?
            })?
            $(impl Delete for $name { type Delete = $delete; })?
        )*
        impl Client {
            $(
                $(#[$attr])*
                pub fn $method(&self, $($parent: &str),*) -> Collection<'_, $name> {
                    Collection::new(self, &[$($parent),*])
                }
            )*
        }
    };
}

collections! {
    /// Profiles: configuration and devices that instances share.
    Profiles = profiles() {
        list Profile: profiles::ProfilesGet,
        get: profiles::ProfileGet,
        create ProfilesPost: profiles::ProfilesPost,
        put ProfilePut: profiles::ProfilePut,
        patch: profiles::ProfilePatch,
        rename ProfilePost: profiles::ProfilePost,
        delete: profiles::ProfileDelete,
    }
    /// Projects.
    Projects = projects() {
        list Project: projects::ProjectsGet,
        get: projects::ProjectGet,
        create ProjectsPost: projects::ProjectsPost,
        put ProjectPut: projects::ProjectPut,
        patch: projects::ProjectPatch,
        rename ProjectPost: projects::ProjectPost,
        delete: projects::ProjectDelete,
    }
    /// Certificates that the server trusts, by fingerprint.
    Certificates = certificates() {
        list Certificate: certificates::CertificatesGet,
        get: certificates::CertificateGet,
        create CertificatesPost: certificates::CertificatesPost,
        put CertificatePut: certificates::CertificatePut,
        patch: certificates::CertificatePatch,
        delete: certificates::CertificateDelete,
    }
    /// Warnings, by UUID. Their status can be set: new, acknowledged or resolved.
    Warnings = warnings() {
        list Warning: server::WarningsGet,
        get: server::WarningGet,
        put WarningPut: server::WarningPut,
        patch: server::WarningPatch,
        delete: server::WarningDelete,
    }
    /// Images, by fingerprint. What is made from a file is uploaded instead: [`Collection::upload`].
    Images = images() {
        list Image: images::ImagesGet,
        get: images::ImageGet,
        create ImagesPost: images::ImagesPost,
        put ImagePut: images::ImagePut,
        patch: images::ImagePatch,
        delete: images::ImageDelete,
    }
    /// Names of images; they may hold slashes.
    ImageAliases = image_aliases() {
        list ImageAliasesEntry: images::ImagesAliasesGet,
        get: images::ImageAliasGet,
        create ImageAliasesPost: images::ImagesAliasesPost,
        put ImageAliasesEntryPut: images::ImagesAliasesPut,
        patch: images::ImagesAliasPatch,
        rename ImageAliasesEntryPost: images::ImagesAliasPost,
        delete: images::ImageAliasDelete,
    }
    /// Snapshots of an instance.
    InstanceSnapshots = instance_snapshots(instance) {
        list InstanceSnapshot: instance_snapshots::InstanceSnapshotsGet,
        get: instance_snapshots::InstanceSnapshotGet,
        create InstanceSnapshotsPost: instance_snapshots::InstanceSnapshotsPost,
        put InstanceSnapshotPut: instance_snapshots::InstanceSnapshotPut,
        patch: instance_snapshots::InstanceSnapshotPatch,
        rename InstanceSnapshotPost: instance_snapshots::InstanceSnapshotPost,
        delete: instance_snapshots::InstanceSnapshotDelete,
    }
    /// Backups of an instance that are kept on the server.
    InstanceBackups = instance_backups(instance) {
        list InstanceBackup: instance_snapshots::InstanceBackupsGet,
        get: instance_snapshots::InstanceBackupGet,
        create InstanceBackupsPost: instance_snapshots::InstanceBackupsPost,
        rename InstanceBackupPost: instance_snapshots::InstanceBackupPost,
        delete: instance_snapshots::InstanceBackupDelete,
    }
    /// Networks.
    Networks = networks() {
        list Network: networks::NetworksGet,
        get: networks::NetworkGet,
        create NetworksPost: networks::NetworksPost,
        put NetworkPut: networks::NetworkPut,
        patch: networks::NetworkPatch,
        rename NetworkPost: networks::NetworkPost,
        delete: networks::NetworkDelete,
    }
    /// Access control lists of networks.
    NetworkAcls = network_acls() {
        list NetworkACL: network_acls::NetworkAclsGet,
        get: network_acls::NetworkAclGet,
        create NetworkACLsPost: network_acls::NetworkAclsPost,
        put NetworkACLPut: network_acls::NetworkAclPut,
        patch: network_acls::NetworkAclPatch,
        rename NetworkACLPost: network_acls::NetworkAclPost,
        delete: network_acls::NetworkAclDelete,
    }
    /// Sets of addresses for access control lists.
    NetworkAddressSets = network_address_sets() {
        list NetworkAddressSet: network_address_sets::NetworkAddressSetsGet,
        get: network_address_sets::NetworkAddressSetGet,
        create NetworkAddressSetsPost: network_address_sets::NetworkAddressSetsPost,
        put NetworkAddressSetPut: network_address_sets::NetworkAddressSetPut,
        patch: network_address_sets::NetworkAddressSetPatch,
        rename NetworkAddressSetPost: network_address_sets::NetworkAddressSetPost,
        delete: network_address_sets::NetworkAddressSetDelete,
    }
    /// Integrations of networks with systems outside.
    NetworkIntegrations = network_integrations() {
        list NetworkIntegration: network_integrations::NetworkIntegrationsGet,
        get: network_integrations::NetworkIntegrationGet,
        create NetworkIntegrationsPost: network_integrations::NetworkIntegrationsPost,
        put NetworkIntegrationPut: network_integrations::NetworkIntegrationPut,
        patch: network_integrations::NetworkIntegrationPatch,
        rename NetworkIntegrationPost: network_integrations::NetworkIntegrationPost,
        delete: network_integrations::NetworkIntegrationDelete,
    }
    /// Address forwards of a network, by listen address.
    NetworkForwards = network_forwards(network) {
        list NetworkForward: network_services::NetworkForwardsGet,
        get: network_services::NetworkForwardGet,
        create NetworkForwardsPost: network_services::NetworkForwardsPost,
        put NetworkForwardPut: network_services::NetworkForwardPut,
        patch: network_services::NetworkForwardPatch,
        delete: network_services::NetworkForwardDelete,
    }
    /// Load balancers of a network, by listen address.
    NetworkLoadBalancers = network_load_balancers(network) {
        list NetworkLoadBalancer: network_services::NetworkLoadBalancersGet,
        get: network_services::NetworkLoadBalancerGet,
        create NetworkLoadBalancersPost: network_services::NetworkLoadBalancersPost,
        put NetworkLoadBalancerPut: network_services::NetworkLoadBalancerPut,
        patch: network_services::NetworkLoadBalancerPatch,
        delete: network_services::NetworkLoadBalancerDelete,
    }
    /// Peerings of a network.
    NetworkPeers = network_peers(network) {
        list NetworkPeer: network_services::NetworkPeersGet,
        get: network_services::NetworkPeerGet,
        create NetworkPeersPost: network_services::NetworkPeersPost,
        put NetworkPeerPut: network_services::NetworkPeerPut,
        patch: network_services::NetworkPeerPatch,
        delete: network_services::NetworkPeerDelete,
    }
    /// DNS zones.
    NetworkZones = network_zones() {
        list NetworkZone: network_zones::NetworkZonesGet,
        get: network_zones::NetworkZoneGet,
        create NetworkZonesPost: network_zones::NetworkZonesPost,
        put NetworkZonePut: network_zones::NetworkZonePut,
        patch: network_zones::NetworkZonePatch,
        delete: network_zones::NetworkZoneDelete,
    }
    /// Records of a DNS zone.
    NetworkZoneRecords = network_zone_records(zone) {
        list NetworkZoneRecord: network_zones::NetworkZoneRecordsGet,
        get: network_zones::NetworkZoneRecordGet,
        create NetworkZoneRecordsPost: network_zones::NetworkZoneRecordsPost,
        put NetworkZoneRecordPut: network_zones::NetworkZoneRecordPut,
        patch: network_zones::NetworkZoneRecordPatch,
        delete: network_zones::NetworkZoneRecordDelete,
    }
    /// Storage pools.
    StoragePools = storage_pools() {
        list StoragePool: storage_pools::StoragePoolsGet,
        get: storage_pools::StoragePoolGet,
        create StoragePoolsPost: storage_pools::StoragePoolsPost,
        put StoragePoolPut: storage_pools::StoragePoolPut,
        patch: storage_pools::StoragePoolPatch,
        delete: storage_pools::StoragePoolsDelete,
    }
    /// Volumes of a storage pool and type (`custom`, `container`, `virtual-machine`, `image`).
    Volumes = volumes(pool, r#type) {
        list StorageVolumeFull: storage_volumes::StoragePoolVolumesTypeGet,
        get: storage_volumes::StoragePoolVolumeTypeGet,
        create StorageVolumesPost: storage_volumes::StoragePoolVolumesTypePost,
        put StorageVolumePut: storage_volumes::StoragePoolVolumeTypePut,
        patch: storage_volumes::StoragePoolVolumeTypePatch,
        rename StorageVolumePost: storage_volumes::StoragePoolVolumeTypePost,
        delete: storage_volumes::StoragePoolVolumeTypeDelete,
    }
    /// All volumes of a storage pool, of every type; one that is made names its type itself.
    AllVolumes = all_volumes(pool) {
        list StorageVolume: storage_volumes::StoragePoolVolumesGet,
        create StorageVolumesPost: storage_volumes::StoragePoolVolumesPost,
    }
    /// Snapshots of a volume.
    VolumeSnapshots = volume_snapshots(pool, r#type, volume) {
        list StorageVolumeSnapshot: storage_volumes::StoragePoolVolumesTypeSnapshotsGet,
        get: storage_volumes::StoragePoolVolumesTypeSnapshotGet,
        create StorageVolumeSnapshotsPost: storage_volumes::StoragePoolVolumesTypeSnapshotsPost,
        put StorageVolumeSnapshotPut: storage_volumes::StoragePoolVolumesTypeSnapshotPut,
        patch: storage_volumes::StoragePoolVolumesTypeSnapshotPatch,
        rename StorageVolumeSnapshotPost: storage_volumes::StoragePoolVolumesTypeSnapshotPost,
        delete: storage_volumes::StoragePoolVolumesTypeSnapshotDelete,
    }
    /// Backups of a volume that are kept on the server.
    VolumeBackups = volume_backups(pool, r#type, volume) {
        list StorageVolumeBackup: storage_volumes::StoragePoolVolumesTypeBackupsGet,
        get: storage_volumes::StoragePoolVolumesTypeBackupGet,
        create StorageVolumeBackupsPost: storage_volumes::StoragePoolVolumesTypeBackupsPost,
        rename StorageVolumeBackupPost: storage_volumes::StoragePoolVolumesTypeBackupPost,
        delete: storage_volumes::StoragePoolVolumesTypeBackupDelete,
    }
    /// Dirty bitmaps of a block volume, for incremental backups.
    VolumeBitmaps = volume_bitmaps(pool, r#type, volume) {
        list StorageVolumeBitmap: storage_volumes::StoragePoolVolumeTypeBitmapsGet,
        get: storage_volumes::StoragePoolVolumeTypeBitmapGet,
        create StorageVolumeBitmapsPost: storage_volumes::StoragePoolVolumesTypeBitmapsPost,
        delete: storage_volumes::StoragePoolVolumesTypeBitmapDelete,
    }
    /// Object buckets of a storage pool.
    Buckets = buckets(pool) {
        list StorageBucketFull: storage_buckets::StoragePoolBucketsGet,
        get: storage_buckets::StoragePoolBucketGet,
        create StorageBucketsPost: storage_buckets::StoragePoolBucketPost,
        put StorageBucketPut: storage_buckets::StoragePoolBucketPut,
        patch: storage_buckets::StoragePoolBucketPatch,
        delete: storage_buckets::StoragePoolBucketDelete,
    }
    /// Access keys of a bucket.
    BucketKeys = bucket_keys(pool, bucket) {
        list StorageBucketKey: storage_buckets::StoragePoolBucketKeysGet,
        get: storage_buckets::StoragePoolBucketKeyGet,
        create StorageBucketKeysPost: storage_buckets::StoragePoolBucketKeyPost,
        put StorageBucketKeyPut: storage_buckets::StoragePoolBucketKeyPut,
        delete: storage_buckets::StoragePoolBucketKeyDelete,
    }
    /// Backups of a bucket that are kept on the server.
    BucketBackups = bucket_backups(pool, bucket) {
        list StorageBucketBackup: storage_buckets::StoragePoolBucketsBackupsGet,
        get: storage_buckets::StoragePoolBucketsBackupGet,
        create StorageBucketBackupsPost: storage_buckets::StoragePoolBucketsBackupsPost,
        rename StorageBucketBackupPost: storage_buckets::StoragePoolBucketsBackupPost,
        delete: storage_buckets::StoragePoolBucketsBackupDelete,
    }
    /// Members of the cluster.
    ClusterMembers = cluster_members() {
        list ClusterMember: cluster::ClusterMembersGet,
        get: cluster::ClusterMemberGet,
        put ClusterMemberPut: cluster::ClusterMemberPut,
        patch: cluster::ClusterMemberPatch,
        rename ClusterMemberPost by "server_name": cluster::ClusterMemberPost,
        delete: cluster::ClusterMemberDelete,
    }
    /// Groups of cluster members.
    ClusterGroups = cluster_groups() {
        list ClusterGroup: cluster::ClusterGroupsGet,
        get: cluster::ClusterGroupGet,
        create ClusterGroupsPost: cluster::ClusterGroupsPost,
        put ClusterGroupPut: cluster::ClusterGroupPut,
        patch: cluster::ClusterGroupPatch,
        rename ClusterGroupPost: cluster::ClusterGroupPost,
        delete: cluster::ClusterGroupDelete,
    }
}
