//! The operations on machines.

use std::time::Duration;

use boxrig_engine::{BASE_IMAGE, Source};
use boxrig_fastvm::{
    CreateVmRequest, DeleteResponse, LaunchedVm, OrgQuotaUsage, Vm, Waitable, ops,
};
use boxrig_wire::{ApiError, Endpoint, JsonReply, Kind, Patch, Request};
use http::StatusCode;

use super::firewall;
use super::lifecycle::{self, Launched};
use super::once::{Wish, fulfilled_and_gone};
use super::record::{Machine, Phase, SnapshotPhase};
use super::snapshots;
use super::state::{Shared, State};
use super::ttl::Ttl;
use super::view::{ORGANISATION, amounts};
use super::{Cx, quota, rules};

/// Disk of a machine when none is asked for.
const DISK_GIB: u64 = 10;
/// The longest time that a `wait` is kept waiting.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

pub(super) async fn list(
    cx: Cx,
    rq: Request<ops::ListVms>,
) -> Result<JsonReply<Vec<Vm>>, ApiError> {
    let wanted = rq.query;
    let vms = cx.state.each_machine(|machine| {
        let pairs = wanted
            .metadata
            .iter()
            .all(|(k, v)| machine.metadata.get(k) == Some(v));
        let status = wanted
            .status
            .as_deref()
            .is_none_or(|status| status == cx.state.status(machine));
        (pairs && status).then(|| cx.state.vm(machine))
    });
    Ok(JsonReply::ok(vms))
}

pub(super) async fn get(cx: Cx, rq: Request<ops::GetVm>) -> Result<Waitable<Vm>, ApiError> {
    let (id,) = rq.path;
    let mut changes = cx.state.watch();
    let mut machine = cx.state.machine(&id)?;
    if let Some(wanted) = rq.query.wait {
        if wanted != "running" {
            return Err(ApiError::invalid("wait: running is what can be waited for"));
        }
        let seconds = rq.query.timeout.unwrap_or(LONGEST_WAIT.as_secs_f64());
        let patience = Duration::try_from_secs_f64(seconds)
            .map_err(|_| ApiError::invalid("timeout: a number of seconds is wanted"))?;
        let arrived = async {
            loop {
                let now = cx.state.machine(&id)?;
                if settled(cx.state.status(&now)) || changes.changed().await.is_err() {
                    return Ok::<_, ApiError>(now);
                }
            }
        };
        machine = match tokio::time::timeout(patience.min(LONGEST_WAIT), arrived).await {
            Ok(arrived) => arrived?,
            Err(_) => cx.state.machine(&id)?,
        };
    }
    Ok(Waitable::new(StatusCode::OK, cx.state.vm(&machine)))
}

/// Whether a machine in this status runs, or will not run without somebody's doing.
fn settled(status: &str) -> bool {
    matches!(status, "running" | "error" | "stopped" | "deleting")
}

pub(super) async fn launch(
    cx: Cx,
    rq: Request<ops::LaunchVm>,
) -> Result<Waitable<LaunchedVm>, ApiError> {
    let request = rq.body.0;
    let key = rq.headers.key.as_deref();
    let (wish, before) = Wish::of(&cx.state, ops::LaunchVm::META, key, &request).await?;
    let launched = match before {
        Some(id) => {
            let machine = cx.state.machine(&id).map_err(|_| fulfilled_and_gone(&id))?;
            match cx.state.status(&machine) {
                "provisioning" => Launched::Queued(machine),
                _ => Launched::Running(machine),
            }
        }
        None => {
            let (machine, source) = plan(&cx.state, request)?;
            lifecycle::launch(&cx.state, machine, source, wish).await?
        }
    };
    let (status, machine) = match launched {
        Launched::Running(machine) => (StatusCode::CREATED, machine),
        Launched::Queued(machine) => (StatusCode::ACCEPTED, machine),
    };
    Ok(Waitable::new(status, cx.state.vm(&machine).into()))
}

/// What a launch asks for: the record, and where the files come from.
fn plan(state: &State, request: CreateVmRequest) -> Result<(Machine, Source), ApiError> {
    let machine_type = request.machine_type.filter(|t| !t.0.is_empty());
    let snapshot_id = request.snapshot_id.filter(|id| !id.is_empty());
    let size = match (&machine_type, &snapshot_id) {
        (Some(machine_type), None) => Some(rules::machine_type(&machine_type.0)?),
        (None, Some(_)) => None,
        (None, None) => {
            return Err(ApiError::invalid(
                "machineType: one of machineType and snapshotId is required",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid(
                "machineType, snapshotId: only one of them can be given",
            ));
        }
    };
    let disk_gib = request.disk_gib.map(rules::disk_gib).transpose()?;
    if let Some(metadata) = &request.metadata {
        rules::metadata(metadata)?;
    }
    if let Some(env) = &request.env_vars {
        rules::env_vars(&env.0)?;
    }
    let ttl = request.ttl.map(|ttl| checked(&ttl)).transpose()?;
    firewall::network(request.firewall.as_ref())?;
    not_yet("volumes", request.volumes.is_some_and(|v| !v.is_empty()))?;
    not_yet(
        "bucketMounts",
        request.bucket_mounts.is_some_and(|b| !b.is_empty()),
    )?;
    let id = state.core.ids.uuid().to_string();
    let mut machine = Machine {
        name: rules::name(request.name.as_deref(), || {
            format!("vm-{}", rules::short(&id))
        }),
        id,
        phase: Phase::Launching,
        reason: None,
        accepted: false,
        cpu: 0,
        memory_mib: 0,
        disk_gib: disk_gib.unwrap_or(DISK_GIB),
        source_name: None,
        metadata: Default::default(),
        env: Default::default(),
        created_ms: state.core.now_ms(),
        paused_ms: None,
        ttl,
        expires_ms: None,
        remaining_ms: None,
        pause_snapshot: None,
        services: Vec::new(),
        firewall: None,
    };
    let source = if let Some(id) = snapshot_id {
        let snapshot = snapshots::find(state, &id)?;
        if snapshot.phase != SnapshotPhase::Ready {
            let status = snapshot.phase.status();
            let words = format!("snapshotId: the snapshot is {status}, not ready");
            return Err(ApiError::conflict(words));
        }
        (machine.cpu, machine.memory_mib) = (snapshot.cpu, snapshot.memory_mib);
        // What was written must fit: a restore has at least the disk of its origin.
        machine.disk_gib = disk_gib.unwrap_or(snapshot.disk_gib);
        if machine.disk_gib < snapshot.disk_gib {
            return Err(ApiError::invalid(format!(
                "diskGiB: the snapshot has {}, a restore cannot have less",
                snapshot.disk_gib
            )));
        }
        machine.metadata = snapshot.metadata.clone();
        machine.env = snapshot.env.clone();
        machine.source_name = Some(snapshot.name.clone());
        machine.services = snapshot.services.clone();
        machine.firewall = snapshot.firewall.clone();
        match &snapshot.image {
            Some(image) => Source::Image(image.clone()),
            None => Source::Snapshot(snapshots::engine_id(&id)?),
        }
    } else {
        (machine.cpu, machine.memory_mib) = size.unwrap_or_default();
        Source::Image(BASE_IMAGE.to_owned())
    };
    // What is given replaces what a snapshot brings.
    if let Some(metadata) = request.metadata {
        machine.metadata = metadata;
    }
    if let Some(env) = request.env_vars {
        machine.env = env.0;
    }
    if request.firewall.is_some() {
        machine.firewall = request.firewall;
    }
    Ok((machine, source))
}

/// Refuses what would have to be enforced and is not.
fn not_yet(field: &str, given: bool) -> Result<(), ApiError> {
    if given {
        let words = format!("{field}: launchVm does not do this in this version of the server");
        return Err(ApiError::new(Kind::Unsupported, words)
            .with_detail("operation", "launchVm")
            .with_detail("field", field));
    }
    Ok(())
}

fn checked(ttl: &boxrig_fastvm::Ttl) -> Result<Ttl, ApiError> {
    Ttl::checked(ttl.seconds, ttl.action.as_str())
}

pub(super) async fn update(cx: Cx, rq: Request<ops::UpdateVm>) -> Result<JsonReply<Vm>, ApiError> {
    let (id,) = rq.path;
    let request = rq.body.0;
    cx.state.machine(&id)?;
    if let Some(metadata) = &request.metadata {
        rules::metadata(metadata)?;
    }
    let ttl = match request.ttl {
        Patch::Leave => None,
        Patch::Clear => Some(None),
        Patch::Set(ttl) => Some(Some(checked(&ttl)?)),
    };
    let machine = lifecycle::change(&cx.state, &id, move |machine, now| {
        if let Some(name) = request.name {
            machine.name = rules::name(Some(&name), || format!("vm-{}", rules::short(&machine.id)));
        }
        if let Some(metadata) = request.metadata {
            machine.metadata = metadata;
        }
        if let Some(ttl) = ttl {
            machine.ttl = ttl;
            machine.arm(now);
        }
        Ok(())
    })
    .await?;
    Ok(JsonReply::ok(cx.state.vm(&machine)))
}

pub(super) async fn refresh_ttl(
    cx: Cx,
    rq: Request<ops::RefreshVmTtl>,
) -> Result<JsonReply<Vm>, ApiError> {
    let machine = lifecycle::change(&cx.state, &rq.path.0, |machine, now| {
        if machine.ttl.is_none() {
            return Err(ApiError::conflict("the VM has no TTL"));
        }
        machine.arm(now);
        Ok(())
    })
    .await?;
    Ok(JsonReply::ok(cx.state.vm(&machine)))
}

pub(super) async fn pause(cx: Cx, rq: Request<ops::PauseVm>) -> Result<JsonReply<Vm>, ApiError> {
    let machine = lifecycle::pause(&cx.state, &rq.path.0).await?;
    Ok(JsonReply::ok(cx.state.vm(&machine)))
}

pub(super) async fn resume(cx: Cx, rq: Request<ops::ResumeVm>) -> Result<JsonReply<Vm>, ApiError> {
    let machine = lifecycle::resume(&cx.state, &rq.path.0).await?;
    Ok(JsonReply::ok(cx.state.vm(&machine)))
}

pub(super) async fn delete(
    cx: Cx,
    rq: Request<ops::DeleteVm>,
) -> Result<JsonReply<DeleteResponse>, ApiError> {
    let (id,) = rq.path;
    lifecycle::delete(&cx.state, &id).await?;
    Ok(JsonReply::ok(deleted(id)))
}

/// What a deletion answers.
pub(super) fn deleted(id: String) -> DeleteResponse {
    DeleteResponse {
        id,
        deleted: true,
        ..DeleteResponse::default()
    }
}

pub(super) async fn quotas(
    cx: Cx,
    _: Request<ops::GetOrgQuotas>,
) -> Result<JsonReply<OrgQuotaUsage>, ApiError> {
    Ok(JsonReply::ok(OrgQuotaUsage {
        org_id: ORGANISATION.to_owned(),
        limits: amounts(&cx.state.limits),
        usage: amounts(&usage(&cx.state)),
        ..OrgQuotaUsage::default()
    }))
}

fn usage(state: &Shared) -> quota::Amounts {
    let mut used = state.machines.with(quota::used);
    used.snapshot_count = state.snapshots.len() as u64;
    used
}
