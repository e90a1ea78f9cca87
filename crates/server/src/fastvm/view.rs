//! Records as the API shows them.

use std::time::Duration;

use boxrig_fastvm as api;
use boxrig_fastvm::{Time, Ttl, TtlAction, VmStatus};
use serde_json::{Value, json};

use super::firewall;
use super::quota::Amounts;
use super::record::{Machine, Phase, Snapshot, SnapshotPhase};
use super::services::Kept;
use super::state::State;

/// There is one organisation.
pub(super) const ORGANISATION: &str = "local";

/// A time in milliseconds since 1970 as RFC 3339 with `Z`.
pub(super) fn time(ms: u64) -> Time {
    let at = i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .unwrap_or_default();
    at.into()
}

/// What the vendor's API has no member for: the engine, how far it keeps machines apart, and which limits it does not
/// enforce here.
pub(super) fn engine_facts(engine: &dyn boxrig_engine::Engine) -> Value {
    let can = engine.capabilities();
    let limits = [
        ("cpu", can.limits.cpus),
        ("memoryMiB", can.limits.memory),
        ("diskGiB", can.limits.disk),
    ];
    let not: Vec<&str> = limits
        .into_iter()
        .filter_map(|(name, enforced)| (!enforced).then_some(name))
        .collect();
    json!({ "engine": engine.name(), "isolation": can.isolation, "notEnforced": not })
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl State {
    /// A machine.
    pub(super) fn vm(&self, m: &Machine) -> api::Vm {
        let mut vm = api::Vm {
            id: m.id.clone(),
            name: m.name.as_str().into(),
            org_id: ORGANISATION.to_owned(),
            cpu: u32::try_from(m.cpu).unwrap_or(u32::MAX),
            memory_mib: m.memory_mib,
            disk_gib: m.disk_gib,
            status: VmStatus::from(self.status(m)),
            created_at: time(m.created_ms),
            machine_name: Some(format!("c{}m{}", m.cpu, m.memory_mib / 1024).into()),
            source_name: m.source_name.as_deref().map(Into::into),
            metadata: Some(m.metadata.clone()),
            env_vars: Some(m.env.clone().into_iter().collect()),
            ttl: m.ttl.map(|ttl| Ttl {
                seconds: ttl.seconds,
                action: TtlAction::from(ttl.action.as_str()),
                ..Ttl::default()
            }),
            expires_at_ms: m
                .expires_ms
                .filter(|_| m.phase == Phase::Running)
                .map(signed),
            ttl_remaining_ms: m
                .remaining_ms
                .filter(|_| m.phase == Phase::Paused)
                .map(signed),
            paused_at: m.paused_ms.map(time),
            firewall: m.firewall.clone(),
            effective_firewall: firewall::effective(m),
            ..api::Vm::default()
        };
        vm.extra
            .insert("boxrig".to_owned(), self.engine_facts.clone());
        if let Some(reason) = &m.reason {
            // The oldest SDKs read it from a failed machine.
            vm.extra.insert("reason".to_owned(), reason.as_str().into());
        }
        vm
    }

    /// A snapshot.
    pub(super) fn snapshot(&self, s: &Snapshot) -> api::Snapshot {
        api::Snapshot {
            id: s.id.clone(),
            name: s.name.as_str().into(),
            org_id: ORGANISATION.to_owned(),
            vm_id: s.vm_id.clone(),
            status: s.phase.status().into(),
            created_at: time(s.created_ms),
            metadata: Some(s.metadata.clone()),
            env_vars: Some(s.env.clone().into_iter().collect()),
            firewall: s.firewall.clone(),
            services: Some(s.services.iter().map(Kept::captured).collect()),
            ..api::Snapshot::default()
        }
    }
}

/// Whether a snapshot is shown.
pub(super) fn shown(s: &Snapshot) -> bool {
    s.phase != SnapshotPhase::Deleting
}

/// Amounts of a quota.
pub(super) fn amounts(a: &Amounts) -> api::OrgQuotaValues {
    api::OrgQuotaValues {
        vcpu: signed(a.vcpu),
        memory_mib: signed(a.memory_mib),
        disk_gib: signed(a.disk_gib),
        snapshot_count: signed(a.snapshot_count),
        volume_count: Some(0),
        volume_gib: Some(0),
        ..api::OrgQuotaValues::default()
    }
}

/// Whole milliseconds.
pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
