//! Machines: what stands behind VMs, networks and nodes of tenants – status, statistics, drives, NICs, devices.

use boxrig_wire::ApiError;
use serde_json::{Value, json};

use super::Behaviour;
use super::kit::{self, Done, cells, default, key};
use crate::vergeos::db::Read;
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;
use crate::vergeos::tx::Tx;

/// See the module.
pub(super) struct Machines;

/// A machine with its status and statistics.
pub(super) fn new_machine(tx: &mut Tx<'_>, row: &Row, kind: &str) -> Result<String, ApiError> {
    let or = |value: &Value, other: Value| {
        if value.is_null() {
            other
        } else {
            value.clone()
        }
    };
    let first_cluster = tx.all("clusters").first().map(|c| key(&c.key()));
    let ram = row.int("ram").max(512);
    let cores = row.int("cpu_cores").max(1);
    let machine = tx.insert(
        "machines",
        cells(json!({
            "name": row.text("name"), "description": row.text("description"), "type": kind,
            "cluster": or(row.get("cluster"), first_cluster.unwrap_or(Value::Null)),
            "preferred_node": row.get("preferred_node"), "ram": ram, "cores": cores,
            "is_snapshot": row.flag("is_snapshot"), "created": tx.now(), "uuid": tx.ids().uuid().to_string(),
            "ha_group": row.text("ha_group"), "on_power_loss": or(row.get("on_power_loss"), "last_state".into()),
        })),
    )?;
    tx.insert("machine_status", cells(stopped(&machine, tx.now())))?;
    tx.insert(
        "machine_stats",
        cells(json!({"machine": key(&machine), "core_usagelist": [], "modified": tx.now()})),
    )?;
    Ok(machine)
}

/// The status row of a machine that does not run.
pub(super) fn stopped(machine: &str, now: i64) -> Value {
    json!({"machine": key(machine), "running": false, "status": "stopped", "status_info": "", "state": "offline",
        "powerstate": false, "node": null, "migratable": true, "started": 0, "running_cores": 0, "running_ram": 0,
        "agent_version": "", "agent_features": [], "agent_guest_info": {}, "last_update": now})
}

/// Whether a machine runs.
pub(super) fn is_running(db: &dyn Read, machine: &str) -> bool {
    kit::satellite(db, "machine_status", "machine", machine).is_some_and(|s| s.flag("running"))
}

/// The next free place among the children of a machine.
fn next_order(tx: &Tx<'_>, table: &str, machine: &str) -> i64 {
    let taken = tx.children(table, "machine", machine);
    taken
        .iter()
        .map(|row| row.int("orderid") + 1)
        .max()
        .unwrap_or(0)
}

/// A hardware address of our range that no other NIC has.
pub(super) fn new_mac(tx: &Tx<'_>) -> String {
    let n = tx.all("machine_nics").len();
    let taken = |mac: &str| {
        tx.find("machine_nics", &|row| row.text("macaddress") == mac)
            .is_some()
    };
    (n + 1..)
        .map(|n| {
            format!(
                "f0:db:30:{:02x}:{:02x}:{:02x}",
                (n >> 16) & 255,
                (n >> 8) & 255,
                n & 255
            )
        })
        .find(|mac| !taken(mac))
        .unwrap_or_default()
}

impl Behaviour for Machines {
    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Done {
        match table {
            "vms" => {
                default(row, "cpu_cores", 1);
                default(row, "ram", 1024);
                default(row, "machine_type", "pc-q35-10.0");
                default(row, "console", "vnc");
                default(row, "uuid", tx.ids().uuid().to_string());
                if row.int("ram") < 256 || row.int("cpu_cores") < 1 {
                    return Err(kit::invalid(
                        "A machine needs at least 256 MB of RAM and one core",
                    ));
                }
                let machine = new_machine(tx, row, "vm")?;
                row.set("machine", key(&machine));
            }
            "vnets" => {
                default(row, "type", "internal");
                default(row, "layer2_type", "vxlan");
                default(row, "mtu", 1500);
                default(row, "dns", "simple");
                default(row, "uuid", tx.ids().uuid().to_string());
                if row.int("layer2_id") == 0 {
                    let used = tx.all("vnets").iter().map(|v| v.int("layer2_id")).max();
                    row.set("layer2_id", used.unwrap_or(100).max(100) + 1);
                }
                let machine = new_machine(tx, row, "vnet")?;
                row.set("machine", key(&machine));
            }
            "tenant_nodes" => {
                let tenant = row.reference("tenant").unwrap_or_default();
                let number = tx.children("tenant_nodes", "tenant", &tenant).len() + 1;
                default(row, "cpu_cores", 4);
                default(row, "ram", 16384);
                default(row, "nodeid", number);
                default(row, "name", format!("node{number}"));
                let machine = new_machine(tx, row, "tenant_node")?;
                row.set("machine", key(&machine));
            }
            "machine_drives" => drive(tx, row)?,
            "machine_nics" => {
                let machine = row.reference("machine").unwrap_or_default();
                let order = next_order(tx, table, &machine);
                default(row, "orderid", order);
                default(row, "name", format!("nic_{order}"));
                default(row, "interface", "virtio");
                default(row, "macaddress", new_mac(tx));
            }
            "machine_devices" => {
                let machine = row.reference("machine").unwrap_or_default();
                if is_running(&*tx, &machine) && row.text("type") == "tpm" {
                    return Err(kit::conflict("A TPM cannot be added to a running machine"));
                }
                default(row, "machine_type", "vm");
                default(row, "orderid", next_order(tx, table, &machine));
                default(row, "name", row.text("type").to_owned());
                default(row, "uuid", tx.ids().uuid().to_string());
            }
            _ => {}
        }
        Ok(())
    }

    fn after_create(&self, tx: &mut Tx<'_>, table: &str, row: &Row, _: &mut Row) -> Done {
        let own = row.key();
        match table {
            "vms" | "vnets" | "tenant_nodes" => {
                let machine = row.reference("machine").unwrap_or_default();
                tx.set(
                    "machines",
                    &machine,
                    cells(json!({"owner": format!("{table}/{own}")})),
                )?;
                let kind = if table == "vnets" { "vnet" } else { "vm" };
                kit::own_log(
                    tx,
                    "machine_logs",
                    "machine",
                    &machine,
                    "audit",
                    &format!("{} created", row.text("name")),
                )?;
                kit::log(tx, "audit", kind, row.text("name"), "Created")?;
                if table == "vnets" {
                    for (order, name) in ["nic", "nic_dmz"].into_iter().enumerate() {
                        let nic = tx.create("machine_nics", cells(json!({"machine": key(&machine), "name": name,
                            "orderid": order, "vnet": if order == 0 { key(&own) } else { Value::Null },
                            "ipaddress": if order == 0 { row.text("ipaddress") } else { "" }})))?;
                        tx.set(table, &own, Row::new().with(name, key(&nic)))?;
                    }
                }
            }
            "machine_drives" => {
                let online = is_running(&*tx, &row.reference("machine").unwrap_or_default());
                let state = if online { "online" } else { "offline" };
                tx.insert(
                    "machine_drive_status",
                    cells(json!({"parent_drive": key(&own), "status": state, "state": state})),
                )?;
                tx.insert(
                    "machine_drive_stats",
                    cells(
                        json!({"parent_drive": key(&own), "max_bytes": row.int("disksize"),
                    "used_bytes": row.int("used_bytes"), "last_update": tx.now()}),
                    ),
                )?;
            }
            "machine_nics" => {
                let online = is_running(&*tx, &row.reference("machine").unwrap_or_default());
                let (status, state, speed) = if online {
                    ("up", "online", 10_000)
                } else {
                    ("down", "offline", 0)
                };
                tx.insert(
                    "machine_nic_status",
                    cells(
                        json!({"parent_nic": key(&own), "status": status, "state": state,
                    "speed": speed, "last_update": tx.now()}),
                    ),
                )?;
                tx.insert(
                    "machine_nic_stats",
                    cells(json!({"parent_nic": key(&own), "last_update": tx.now()})),
                )?;
            }
            "machine_devices" => {
                tx.insert(
                    "machine_device_status",
                    cells(
                        json!({"machine_device": key(&own), "status": "idle", "state": "online"}),
                    ),
                )?;
            }
            _ => {}
        }
        Ok(())
    }

    fn after_update(&self, tx: &mut Tx<'_>, table: &str, old: &Row, new: &Row) -> Done {
        if !matches!(table, "vms" | "vnets" | "tenant_nodes") {
            return Ok(());
        }
        let Some(machine) = new.reference("machine") else {
            return Ok(());
        };
        let mut changes = Row::new();
        for (column, there) in [
            ("name", "name"),
            ("ram", "ram"),
            ("cpu_cores", "cores"),
            ("cluster", "cluster"),
            ("preferred_node", "preferred_node"),
            ("on_power_loss", "on_power_loss"),
            ("ha_group", "ha_group"),
        ] {
            if old.get(column) != new.get(column) {
                changes.set(there, new.get(column).clone());
            }
        }
        if changes.0.is_empty() {
            return Ok(());
        }
        let grown = changes.get("ram") != &Value::Null || changes.get("cores") != &Value::Null;
        tx.set("machines", &machine, changes)?;
        if table == "vms" && grown && is_running(&*tx, &machine) {
            tx.set(table, &new.key(), cells(json!({"need_restart": true})))?;
        }
        Ok(())
    }

    fn before_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        let running = matches!(table, "vms" | "vnets")
            && row
                .reference("machine")
                .is_some_and(|m| is_running(&*tx, &m));
        if running && !kit::mutated("delete_running") {
            let what = if table == "vms" { "Machine" } else { "vNet" };
            return Err(kit::conflict(format!(
                "{what} '{}' is running and cannot be deleted",
                row.text("name")
            )));
        }
        if table == "vnets" && matches!(row.text("type"), "core" | "dmz") {
            return Err(kit::conflict("This network is part of the system"));
        }
        Ok(())
    }

    fn after_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        if matches!(table, "vms" | "vnets" | "tenant_nodes")
            && let Some(machine) = row.reference("machine")
        {
            if tx.get("machines", &machine).is_some() {
                tx.delete("machines", &machine)?;
            }
            let kind = if table == "vnets" { "vnet" } else { "vm" };
            kit::log(tx, "audit", kind, row.text("name"), "Deleted")?;
            super::instances::forget(tx, &machine);
        }
        Ok(())
    }
}

/// The cells of a drive that were not given; media of an import come from a file of the catalogue.
fn drive(tx: &mut Tx<'_>, row: &mut Row) -> Done {
    let machine = row.reference("machine").unwrap_or_default();
    let order = next_order(tx, "machine_drives", &machine);
    default(row, "orderid", order);
    default(row, "name", format!("drive_{order}"));
    default(row, "media", "disk");
    default(row, "interface", "virtio-scsi");
    default(row, "preferred_tier", "1");
    let serial = tx.ids().hex(40);
    default(row, "serial", serial.get(..8).unwrap_or_default());
    default(row, "uuid", tx.ids().uuid().to_string());
    if matches!(row.text("media"), "import" | "cdrom" | "clone")
        && let Some(file) = row.reference("media_source")
    {
        let file = kit::need(&*tx, "files", &file)?;
        if row.text("media") == "import" {
            // The platform copies the file into a disk at once; the disk is as large as what it came from.
            default(row, "disksize", file.int("filesize"));
            row.set("used_bytes", file.int("used_bytes"));
            row.set("media", "disk");
        }
    }
    if row.text("media") == "disk" && row.int("disksize") < 0 {
        return Err(kit::invalid("disksize cannot be negative"));
    }
    if is_running(&*tx, &machine)
        && !matches!(row.text("interface"), "virtio" | "virtio-scsi")
        && row.text("media") == "disk"
    {
        return Err(kit::conflict(
            "Only virtio and virtio-scsi drives can be added to a running machine",
        ));
    }
    Ok(())
}

/// Statistics are taken every five minutes of the server's clock.
const SAMPLE_MS: u64 = 300_000;
/// How many samples of a machine are kept in the short history.
const SHORT_KEPT: usize = 288;

/// Arms the sampling of statistics.
pub(super) fn arm_samples(tx: &mut Tx<'_>) -> Done {
    let at = kit::now_ms(&*tx).saturating_add(SAMPLE_MS);
    tx.at(at, "machines.sample", json!({}))
}

/// Takes one sample of every running machine into the short history.
pub(super) fn sample(tx: &mut Tx<'_>) -> Done {
    for status in tx.all("machine_status") {
        let Some(machine) = status
            .reference("machine")
            .filter(|_| status.flag("running"))
        else {
            continue;
        };
        let Some(stats) = kit::satellite(&*tx, "machine_stats", "machine", &machine) else {
            continue;
        };
        let mut point = Row::new()
            .with("machine", key(&machine))
            .with("timestamp", tx.now());
        for column in [
            "total_cpu",
            "user_cpu",
            "system_cpu",
            "iowait_cpu",
            "vmusage_cpu",
            "irq_cpu",
            "ram_used",
            "vram_used",
            "core_peak",
        ] {
            point.set(column, stats.int(column));
        }
        tx.insert("machine_stats_history_short", point)?;
        let past = tx.children("machine_stats_history_short", "machine", &machine);
        for old in past.iter().take(past.len().saturating_sub(SHORT_KEPT)) {
            tx.remove("machine_stats_history_short", &old.key());
        }
    }
    arm_samples(tx)
}

/// What a machine that runs shows as its use, from what the engine says.
pub(super) async fn measure(cx: &Cx, machine: &str) -> Result<Value, ApiError> {
    let found = kit::need(&cx.db, "machines", machine)?;
    let stats = super::instances::stats(cx, machine).await;
    let used_mb = stats
        .and_then(|s| s.memory_bytes)
        .map_or(0, |b| i64::try_from(b >> 20).unwrap_or(0));
    let ram = found.int("ram").max(1);
    Ok(
        json!({"ram_used": used_mb, "ram_pct": (used_mb * 100 / ram).min(100), "modified": cx.now()}),
    )
}
