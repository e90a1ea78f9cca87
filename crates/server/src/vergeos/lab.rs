//! `--seed lab`: a stocked system, from a plain data file.
//!
//! `data/vergeos-lab.json` holds rows by table. Beside values a cell may be `{"$ago": SECONDS}` or `{"$ago_us":
//! SECONDS}`, a moment before the file is loaded, in seconds or microseconds; a row may have `$series`, which repeats it
//! back in time with keys of its own, and `$content`, the text of a file. The same file gives the same laboratory.

use boxrig_wire::ApiError;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::db::Read as _;
use super::row::Row;
use super::state::Cx;
use super::tx::Tx;

const LAB: &str = include_str!("../../data/vergeos-lab.json");

/// The hidden cell by which a system that was stocked is known.
const STOCKED: &str = "$stocked";
/// Rows that are put in one transaction.
const BATCH: usize = 2_000;

/// How a row is repeated.
#[derive(Debug, Deserialize)]
struct Series {
    count: i64,
    step: i64,
    column: String,
}

/// A stocked laboratory that is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lab {
    /// The text of a data file; the built-in one when `None`.
    pub file: Option<String>,
    /// How many VMs there are to be in all; more than the file has are made of its pattern, powered off.
    pub vms: usize,
}

/// Makes the laboratory in a system that is not stocked yet.
///
/// # Errors
///
/// When the file is none, names a table or column that there is not, or it cannot be saved.
pub(super) async fn stock(cx: &Cx, lab: &Lab) -> Result<(), ApiError> {
    if cx.db.get("system", "1").is_some_and(|s| s.flag(STOCKED)) {
        return Ok(());
    }
    let text = lab.file.as_deref().unwrap_or(LAB);
    let wrong = |e: &dyn std::fmt::Display| ApiError::invalid(format!("the seed's file: {e}"));
    let tables: Map<String, Value> = serde_json::from_str(text).map_err(|e| wrong(&e))?;
    let (now, now_us) = (cx.now(), cx.now_us());
    let mut rows = Vec::new();
    let mut contents = Vec::new();
    for (table, list) in &tables {
        let described = cx.db.schema().known(table)?;
        let list = list
            .as_array()
            .ok_or_else(|| wrong(&format!("'{table}' is no list of rows")))?;
        for row in list {
            let mut row = row
                .as_object()
                .cloned()
                .ok_or_else(|| wrong(&format!("a row of '{table}' is no object")))?;
            let series = row
                .remove("$series")
                .map(serde_json::from_value::<Series>)
                .transpose()
                .map_err(|e| wrong(&e))?;
            let content = row
                .remove("$content")
                .and_then(|c| c.as_str().map(str::to_owned));
            for (column, cell) in &mut row {
                if column != "$key" && described.column(column).is_none() {
                    return Err(wrong(&format!("'{table}' has no column '{column}'")));
                }
                moment(cell, now, now_us);
            }
            let row = Row(row);
            if let Some(content) = content {
                contents.push((row.key(), content));
            }
            match series {
                None => rows.push((table.clone(), row)),
                Some(series) => {
                    let (first, at) = (row.int("$key"), row.int(&series.column));
                    for n in 0..series.count {
                        let mut row = row.clone();
                        row.set("$key", first + n);
                        row.set(&series.column, at - n * series.step);
                        rows.push((table.clone(), row));
                    }
                }
            }
        }
    }
    for batch in rows.chunks(BATCH) {
        cx.write(|tx| {
            for (table, row) in batch {
                tx.insert(table, row.clone())?;
            }
            Ok(())
        })
        .await?;
    }
    let mut there = cx
        .db
        .all("vms")
        .iter()
        .filter(|v| !v.flag("is_snapshot"))
        .count();
    while there < lab.vms {
        let upto = lab.vms.min(there + BATCH / 4);
        cx.write(|tx| (there..upto).try_for_each(|n| one_more(tx, n + 1)))
            .await?;
        there = upto;
    }
    for (key, content) in contents {
        cx.content.put("files", &key, content.as_bytes()).await?;
    }
    cx.write(|tx| tx.set("system", "1", Row::new().with(STOCKED, true)))
        .await
}

/// A cell that says how long ago something was, as the moment it was.
fn moment(cell: &mut Value, now: i64, now_us: i64) {
    let of = |cell: &Value, name: &str| {
        let map = cell.as_object().filter(|m| m.len() == 1)?;
        map.get(name)?.as_i64()
    };
    if let Some(seconds) = of(cell, "$ago") {
        *cell = Value::from(now - seconds);
    } else if let Some(seconds) = of(cell, "$ago_us") {
        *cell = Value::from(now_us - seconds * 1_000_000);
    }
}

/// A VM more, powered off, with a drive and a NIC.
fn one_more(tx: &mut Tx<'_>, n: usize) -> Result<(), ApiError> {
    let cells = |value: Value| match value {
        Value::Object(cells) => Row(cells),
        _ => Row::new(),
    };
    let (cores, ram) = (1 << (n % 4), 1024 << (n % 5));
    let name = format!("vm-{n:05}");
    let created = tx.now() - 60 * i64::try_from(n % 100_000).unwrap_or(0);
    let key = |text: String| text.parse::<i64>().map_or(Value::Null, Value::from);
    let machine = key(tx.insert("machines", cells(json!({"name": name, "type": "vm", "cluster": 1 + n % 2, "cores": cores, "ram": ram, "on_power_loss": "last_state", "created": created})))?);
    tx.insert("machine_status", cells(json!({"machine": machine, "status": "stopped", "state": "offline", "migratable": true, "last_update": created})))?;
    tx.insert("machine_stats", cells(json!({"machine": machine})))?;
    let drive = key(tx.insert("machine_drives", cells(json!({"machine": machine, "name": "Disk 1", "interface": "virtio-scsi", "media": "disk", "preferred_tier": "1", "disksize": (10_i64 << 30) * i64::try_from(1 + n % 8).unwrap_or(1)})))?);
    tx.insert(
        "machine_drive_status",
        cells(json!({"parent_drive": drive, "status": "offline", "state": "offline"})),
    )?;
    let mac = format!(
        "f0:db:31:{:02x}:{:02x}:{:02x}",
        (n >> 16) & 255,
        (n >> 8) & 255,
        n & 255
    );
    let nic = key(tx.insert("machine_nics", cells(json!({"machine": machine, "name": "NIC 1", "interface": "virtio", "macaddress": mac, "vnet": 4})))?);
    tx.insert(
        "machine_nic_status",
        cells(json!({"parent_nic": nic, "status": "down", "state": "offline"})),
    )?;
    let os = if n.is_multiple_of(3) {
        "windows"
    } else {
        "linux"
    };
    let uuid = tx.ids().uuid().to_string();
    let vm = tx.insert("vms", cells(json!({"name": name, "description": format!("Made by --vms, number {n}"), "cpu_cores": cores, "ram": ram, "os_family": os,
        "machine_type": "pc-q35-10.0", "console": "vnc", "machine": machine, "created": created, "modified": created, "creator": "admin", "uuid": uuid})))?;
    let owner = Row::new().with("owner", format!("vms/{vm}"));
    let machine = machine.to_string();
    tx.set("machines", &machine, owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vergeos::schema::schema;

    #[test]
    fn every_row_of_the_file_fits_its_table() {
        let tables: Map<String, Value> = serde_json::from_str(LAB).unwrap();
        assert!(tables.len() > 150);
        for (table, rows) in &tables {
            let described = schema()
                .table(table)
                .unwrap_or_else(|| panic!("no table {table}"));
            for row in rows.as_array().unwrap() {
                for column in row
                    .as_object()
                    .unwrap()
                    .keys()
                    .filter(|c| !c.starts_with('$'))
                {
                    assert!(described.column(column).is_some(), "{table}.{column}");
                }
            }
        }
    }

    #[test]
    fn moments() {
        let mut cell = json!({"$ago": 60});
        moment(&mut cell, 1000, 0);
        assert_eq!(cell, 940);
        let mut cell = json!({"$ago": 60, "other": 1});
        moment(&mut cell, 1000, 0);
        assert!(cell.is_object(), "a document that only looks like one");
    }
}
