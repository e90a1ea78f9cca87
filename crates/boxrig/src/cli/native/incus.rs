//! Incus' 254 operations.

use boxrig_incus::ops::EXTENSIONS;
use boxrig_incus::ops::certificates::*;
use boxrig_incus::ops::cluster::*;
use boxrig_incus::ops::images::*;
use boxrig_incus::ops::instance_files::*;
use boxrig_incus::ops::instance_snapshots::*;
use boxrig_incus::ops::instances::*;
use boxrig_incus::ops::network_acls::*;
use boxrig_incus::ops::network_address_sets::*;
use boxrig_incus::ops::network_allocations::*;
use boxrig_incus::ops::network_integrations::*;
use boxrig_incus::ops::network_services::*;
use boxrig_incus::ops::network_zones::*;
use boxrig_incus::ops::networks::*;
use boxrig_incus::ops::profiles::*;
use boxrig_incus::ops::projects::*;
use boxrig_incus::ops::server::*;
use boxrig_incus::ops::storage_buckets::*;
use boxrig_incus::ops::storage_pools::*;
use boxrig_incus::ops::storage_volumes::*;
use boxrig_incus::{Incus as Protocol, OPERATION_EXTENSIONS};
use boxrig_wire::ws::Frame;
use boxrig_wire::{
    BoxFuture, CallOptions, Caller, Decoding, Duplex, Error, Kind, Protocol as _, ReplyShape,
    Result, Timeout, UpgradeSlot, WebSocket, WireBody,
};
use bytes::{Bytes, BytesMut};
use clap::{Arg, ArgAction, ArgMatches};
use futures_util::stream;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Given, Native, Natives, Reply};

/// The platform.
pub(crate) struct Incus;

macro_rules! operations {
    ($($name:ident)*) => { &[$(Native::as_answered::<$name>()),*] };
}

impl Natives for Incus {
    const PLATFORM: &'static str = "incus";

    const OPERATIONS: &'static [Native] = operations! {
        ApiGet ServerGet ServerPatch ServerPut CertificatesGet CertificatesPost CertificateDelete
        CertificateGet CertificatePatch CertificatePut ClusterGet ClusterPut ClusteringUpdateCert
        ClusterGroupsGet ClusterGroupsPost ClusterGroupDelete ClusterGroupGet ClusterGroupPatch
        ClusterGroupPost ClusterGroupPut ClusterMembersGet ClusterMembersPost ClusterMemberDelete
        ClusterMemberGet ClusterMemberPatch ClusterMemberPost ClusterMemberPut ClusterMemberStateGet
        ClusterMemberStatePost EventsGet ImagesGet ImagesPost ImagesAliasesGet ImagesAliasesPost
        ImageAliasDelete ImageAliasGet ImagesAliasPatch ImagesAliasPost ImagesAliasesPut ImageDelete
        ImageGet ImagePatch ImagePut ImageExportGet ImagesExportPost ImagesRefreshPost ImagesSecretPost
        InstancesGet InstancesPost InstancesPut InstanceDelete InstanceGet InstancePatch InstancePost
        InstancePut InstanceAccess InstanceBackupsGet InstanceBackupsPost InstanceBackupDelete
        InstanceBackupGet InstanceBackupPost InstanceBackupExport InstanceBitmapsPost InstanceConsoleDelete
        InstanceConsoleGet InstanceConsolePost InstanceDebugMemoryGet InstanceDebugRepairPost
        InstanceExecPost InstanceFilesDelete InstanceFilesGet InstanceFilesHead InstanceFilesPost
        InstanceLogsGet InstanceExecOutputsGet InstanceExecOutputDelete InstanceExecOutputGet
        InstanceLogDelete InstanceLogGet InstanceMetadataGet InstanceMetadataPatch InstanceMetadataPut
        InstanceMetadataTemplatesDelete InstanceMetadataTemplatesGet InstanceMetadataTemplatesPost
        InstanceNbdGet InstanceNvramGet InstanceNvramPatch InstanceNvramGuidGet InstanceNvramGuidVarDelete
        InstanceNvramGuidVarGet InstanceNvramGuidVarPut InstancePortForwardPost InstanceRebuildPost
        InstanceSftp InstanceSnapshotsGet InstanceSnapshotsPost InstanceSnapshotDelete InstanceSnapshotGet
        InstanceSnapshotPatch InstanceSnapshotPost InstanceSnapshotPut InstanceStateGet InstanceStatePut
        MetadataConfigurationGet MetricsGet NetworkAclsGet NetworkAclsPost NetworkAclDelete NetworkAclGet
        NetworkAclPatch NetworkAclPost NetworkAclPut NetworkAclLogGet NetworkAddressSetsGet
        NetworkAddressSetsPost NetworkAddressSetDelete NetworkAddressSetGet NetworkAddressSetPatch
        NetworkAddressSetPost NetworkAddressSetPut NetworkAllocationsGet NetworkIntegrationsGet
        NetworkIntegrationsPost NetworkIntegrationDelete NetworkIntegrationGet NetworkIntegrationPatch
        NetworkIntegrationPost NetworkIntegrationPut NetworkZonesGet NetworkZonesPost NetworkZoneDelete
        NetworkZoneGet NetworkZonePatch NetworkZonePut NetworkZoneRecordsGet NetworkZoneRecordsPost
        NetworkZoneRecordDelete NetworkZoneRecordGet NetworkZoneRecordPatch NetworkZoneRecordPut NetworksGet
        NetworksPost NetworkDelete NetworkGet NetworkPatch NetworkPost NetworkPut NetworksLeasesGet
        NetworksStateGet NetworkForwardsGet NetworkForwardsPost NetworkForwardDelete NetworkForwardGet
        NetworkForwardPatch NetworkForwardPut NetworkLoadBalancersGet NetworkLoadBalancersPost
        NetworkLoadBalancerDelete NetworkLoadBalancerGet NetworkLoadBalancerPatch NetworkLoadBalancerPut
        NetworkLoadBalancerStateGet NetworkPeersGet NetworkPeersPost NetworkPeerDelete NetworkPeerGet
        NetworkPeerPatch NetworkPeerPut OperationsGet OperationDelete OperationGet OperationWaitGet
        OperationWebsocketGet ProfilesGet ProfilesPost ProfileDelete ProfileGet ProfilePatch ProfilePost
        ProfilePut ProjectsGet ProjectsPost ProjectDelete ProjectGet ProjectPatch ProjectPost ProjectPut
        ProjectAccess ProjectStateGet ResourcesGet StoragePoolsGet StoragePoolsPost StoragePoolBucketDelete
        StoragePoolBucketPatch StoragePoolBucketPut StoragePoolBucketKeyDelete StoragePoolBucketKeyPut
        StoragePoolResources StoragePoolsDelete StoragePoolGet StoragePoolPatch StoragePoolPut
        StoragePoolBucketsGet StoragePoolBucketPost StoragePoolBucketGet StoragePoolBucketsBackupsGet
        StoragePoolBucketsBackupsPost StoragePoolBucketsBackupDelete StoragePoolBucketsBackupGet
        StoragePoolBucketsBackupPost StoragePoolBucketsBackupExportGet StoragePoolBucketKeysGet
        StoragePoolBucketKeyPost StoragePoolBucketKeyGet StoragePoolVolumesGet StoragePoolVolumesPost
        StoragePoolVolumesTypeGet StoragePoolVolumesTypePost StoragePoolVolumeTypeDelete
        StoragePoolVolumeTypeGet StoragePoolVolumeTypePatch StoragePoolVolumeTypePost
        StoragePoolVolumeTypePut StoragePoolVolumesTypeBackupsGet StoragePoolVolumesTypeBackupsPost
        StoragePoolVolumesTypeBackupDelete StoragePoolVolumesTypeBackupGet StoragePoolVolumesTypeBackupPost
        StoragePoolVolumesTypeBackupExportGet StoragePoolVolumeTypeBitmapsGet
        StoragePoolVolumesTypeBitmapsPost StoragePoolVolumesTypeBitmapDelete StoragePoolVolumeTypeBitmapGet
        StoragePoolVolumeTypeFilesDelete StoragePoolVolumeTypeFilesGet StoragePoolVolumeTypeFilesHead
        StoragePoolVolumeTypeFilesPost StoragePoolVolumeTypeNbdGet StoragePoolVolumeTypeRebuildPost
        StoragePoolVolumeTypeSftpGet StoragePoolVolumesTypeSnapshotsGet StoragePoolVolumesTypeSnapshotsPost
        StoragePoolVolumesTypeSnapshotDelete StoragePoolVolumesTypeSnapshotGet
        StoragePoolVolumesTypeSnapshotPatch StoragePoolVolumesTypeSnapshotPost
        StoragePoolVolumesTypeSnapshotPut StoragePoolVolumeTypeStateGet WarningsGet WarningDelete WarningGet
        WarningPatch WarningPut
    };

    fn flags() -> Vec<Arg> {
        vec![
            Arg::new("no-wait")
                .long("no-wait")
                .action(ArgAction::SetTrue)
                .help("Print what was started and do not wait for its end"),
        ]
    }

    fn call<'a>(
        native: &'static Native,
        caller: Caller,
        given: Given,
        options: CallOptions,
        matches: &'a ArgMatches,
    ) -> BoxFuture<'a, Result<Reply>> {
        Box::pin(async move {
            check_extensions(native, &caller, &given).await?;
            let reply = (native.call)(caller.clone(), given, options).await?;
            match native.meta.reply {
                ReplyShape::Socket => Ok(stream_of(frames(connection(&reply)?))),
                ReplyShape::Upgrade(_) => Ok(stream_of(through(connection(&reply)?))),
                _ if is_json(&reply) => envelope(native, caller, reply, matches).await,
                _ => Ok(reply),
            }
        })
    }
}

/// A server drops members, and has no paths, of extensions that it lacks: it is asked first, where one is needed.
async fn check_extensions(native: &Native, caller: &Caller, given: &Given) -> Result<()> {
    let id = native.meta.id;
    let body: Value = given
        .body
        .as_deref()
        .and_then(|b| serde_json::from_slice(b).ok())
        .unwrap_or_default();
    let has = |member: &str| {
        let found = member.split('.').try_fold(&body, |v, name| v.get(name));
        found.is_some_and(|v| !v.is_null())
    };
    let whole = OPERATION_EXTENSIONS.iter().filter(|(of, _)| *of == id);
    let members = EXTENSIONS.iter().filter(|(of, m, _)| *of == id && has(m));
    let needed = whole
        .map(|(_, extension)| (id, *extension))
        .chain(members.map(|(_, member, extension)| (*member, *extension)));
    let client = boxrig_incus::Client::new(caller.clone());
    for (what, extension) in needed {
        let required = client.require(extension, what).await;
        required.map_err(|e| e.with_operation(id))?;
    }
    Ok(())
}

fn is_json(reply: &Reply) -> bool {
    let kind = reply.headers().get(CONTENT_TYPE);
    kind.is_some_and(|v| v.as_bytes().starts_with(b"application/json"))
}

/// Opens an envelope, whose type says whether it is an error; waits for what goes on in the background.
async fn envelope(
    native: &'static Native,
    caller: Caller,
    reply: Reply,
    matches: &ArgMatches,
) -> Result<Reply> {
    let cx = Decoding {
        meta: native.meta,
        decode_error: Protocol::decode_error,
        limit: caller.reply_limit(),
    };
    let (parts, body) = reply.into_parts();
    let bytes = cx.bytes(body).await?;
    let mut value: Value = cx.json(&bytes)?;
    match value.get("type").and_then(Value::as_str) {
        Some("error") => {
            let error = Error::new(Kind::Failed, "")
                .with_operation(native.meta.id)
                .with_body(&bytes);
            Err(Protocol::decode_error(error, &parts.headers, &bytes))
        }
        Some("async") => {
            let started = value["metadata"].take();
            let waits = started["class"] == "task" && !matches.get_flag("no-wait");
            match started["id"].as_str() {
                Some(id) if waits => ended(caller, id, native.meta.id).await,
                _ => Ok(document(&started)),
            }
        }
        Some("sync") => match value["metadata"].take() {
            Value::Null => Ok(Response::new(WireBody::empty())),
            metadata => Ok(document(&metadata)),
        },
        // The content of a file may be JSON too.
        _ => Ok(Response::from_parts(parts, WireBody::full(bytes))),
    }
}

/// The operation when it has ended well.
async fn ended(caller: Caller, id: &str, what: &'static str) -> Result<Reply> {
    let request = boxrig_wire::Request::<OperationWaitGet> {
        path: (id.to_owned(),),
        query: boxrig_incus::ops::queries::SecretTimeoutQuery {
            timeout: Some(-1),
            secret: None,
        },
        headers: Default::default(),
        body: Default::default(),
    };
    let options = CallOptions::new().timeout(Timeout::Never);
    let operation = caller.call(request, &options).await.map_err(|e| {
        let shown = boxrig_wire::escape_line(id).into_owned();
        e.context("what was started cannot be waited for")
            .with_hint(format!("boxrig incus operation-get {shown}"))
    })?;
    let operation = operation.metadata.succeeded();
    let operation = operation.map_err(|e| e.with_operation(what))?;
    let value = serde_json::to_value(operation);
    value
        .map(|v| document(&v))
        .map_err(|e| Error::new(Kind::Protocol, e.to_string()))
}

fn document(value: &Value) -> Reply {
    let mut reply = Response::new(WireBody::full(value.to_string()));
    let json = HeaderValue::from_static("application/json");
    reply.headers_mut().insert(CONTENT_TYPE, json);
    reply
}

fn stream_of(
    stream: impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
) -> Reply {
    let mut reply = Response::new(WireBody::from_stream(stream));
    let bytes = HeaderValue::from_static("application/octet-stream");
    reply.headers_mut().insert(CONTENT_TYPE, bytes);
    reply
}

fn connection(reply: &Reply) -> Result<Box<dyn Duplex>> {
    let slot = reply.extensions().get::<UpgradeSlot>();
    slot.and_then(UpgradeSlot::take_connection)
        .ok_or_else(|| Error::new(Kind::Protocol, "the server did not switch protocols"))
}

/// The messages of a socket, a line each.
fn frames(io: Box<dyn Duplex>) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send {
    stream::try_unfold(WebSocket::client(io), |mut socket| async move {
        loop {
            match socket.next().await? {
                Some(Frame::Data { payload, fin, .. }) => {
                    let mut line = payload.to_vec();
                    if fin && !line.ends_with(b"\n") {
                        line.push(b'\n');
                    }
                    return Ok(Some((Bytes::from(line), socket)));
                }
                Some(Frame::Ping(_) | Frame::Pong(_)) => {}
                Some(Frame::Close { .. }) | None => return Ok(None),
            }
        }
    })
}

/// The bytes of a connection; standard input goes the other way.
fn through(io: Box<dyn Duplex>) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send {
    let (read, mut write) = tokio::io::split(io);
    tokio::spawn(async move {
        // Whichever side ends first: the reader says what there is to say.
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut write).await;
        let _ = write.shutdown().await;
    });
    stream::try_unfold(read, |mut read| async move {
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        match read.read_buf(&mut buffer).await? {
            0 => Ok(None),
            _ => Ok(Some((buffer.freeze(), read))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_command() {
        let ours: Vec<_> = Incus::OPERATIONS.iter().map(|n| n.meta.id).collect();
        let described: Vec<_> = boxrig_incus::CATALOG.iter().map(|m| m.id).collect();
        assert_eq!(ours, described);
    }

    #[test]
    fn the_tree_is_sound() {
        super::super::tree::<Incus>(clap::Command::new("incus")).debug_assert();
    }
}
