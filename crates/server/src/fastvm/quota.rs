//! What all machines and snapshots together may use.

use std::collections::BTreeMap;
use std::sync::Arc;

use boxrig_wire::{ApiError, Kind};

use super::record::Machine;

/// Amounts by dimension: limits, or what is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amounts {
    /// Processors of running machines.
    pub vcpu: u64,
    /// Memory of running machines, in MiB.
    pub memory_mib: u64,
    /// Disk of running machines, in GiB.
    pub disk_gib: u64,
    /// Number of snapshots.
    pub snapshot_count: u64,
}

impl Amounts {
    /// Nothing.
    pub(super) const ZERO: Self = Self {
        vcpu: 0,
        memory_mib: 0,
        disk_gib: 0,
        snapshot_count: 0,
    };
}

impl Default for Amounts {
    /// The limits of a server that was told none. They keep a runaway loop from filling the machine's tables, and
    /// allow ten thousand simulated machines; what the host really has is the engine's to enforce.
    fn default() -> Self {
        Self {
            vcpu: 20_000,
            memory_mib: 40_000 * 1024,
            disk_gib: 400_000,
            snapshot_count: 10_000,
        }
    }
}

/// What machines use; paused ones use nothing.
pub(super) fn used(machines: &BTreeMap<String, Arc<Machine>>) -> Amounts {
    let mut sum = Amounts::ZERO;
    for machine in machines.values().filter(|m| m.phase.uses_quota()) {
        sum.vcpu += machine.cpu;
        sum.memory_mib += machine.memory_mib;
        sum.disk_gib += machine.disk_gib;
    }
    sum
}

/// Checks that `machine` fits besides what is in use.
///
/// # Errors
///
/// A 429 with the dimension that would be exceeded.
pub(super) fn fits(limits: &Amounts, used: &Amounts, machine: &Machine) -> Result<(), ApiError> {
    for (dimension, limit, used, wanted) in [
        ("vcpu", limits.vcpu, used.vcpu, machine.cpu),
        (
            "memory_mib",
            limits.memory_mib,
            used.memory_mib,
            machine.memory_mib,
        ),
        ("disk_gib", limits.disk_gib, used.disk_gib, machine.disk_gib),
    ] {
        one(dimension, limit, used, wanted)?;
    }
    Ok(())
}

/// Checks that one more snapshot fits.
///
/// # Errors
///
/// A 429 with the dimension `snapshot_count`.
pub(super) fn one_more_snapshot(limits: &Amounts, count: usize) -> Result<(), ApiError> {
    one("snapshot_count", limits.snapshot_count, count as u64, 1)
}

fn one(dimension: &'static str, limit: u64, used: u64, wanted: u64) -> Result<(), ApiError> {
    if used.saturating_add(wanted) <= limit {
        return Ok(());
    }
    let words =
        format!("quota exceeded: {dimension}: {used} of {limit} in use, {wanted} more wanted");
    Err(ApiError::new(Kind::Quota, words).with_detail("dimension", dimension))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dimension_is_named() {
        let text = r#"{"id":"a","name":"n","phase":"running","cpu":2,"memory_mib":4096,"disk_gib":10,"created_ms":0}"#;
        let machine: Machine = serde_json::from_str(text).unwrap();
        let limits = Amounts {
            vcpu: 4,
            memory_mib: 8192,
            disk_gib: 15,
            snapshot_count: 1,
        };
        assert!(fits(&limits, &Amounts::ZERO, &machine).is_ok());
        let all = BTreeMap::from([("a".to_owned(), Arc::new(machine.clone()))]);
        let e = fits(&limits, &used(&all), &machine).unwrap_err();
        assert_eq!(e.details["dimension"], "disk_gib");
        assert_eq!(e.http_status().as_u16(), 429);
        let mut paused = machine.clone();
        paused.freeze(0);
        let all = BTreeMap::from([("a".to_owned(), Arc::new(paused))]);
        assert_eq!(used(&all), Amounts::ZERO);
        assert!(one_more_snapshot(&limits, 0).is_ok());
        assert_eq!(
            one_more_snapshot(&limits, 1).unwrap_err().details["dimension"],
            "snapshot_count"
        );
    }
}
