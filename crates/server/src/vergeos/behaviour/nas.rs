//! NAS services: volumes and what is made with each, mounted drives, snapshots, synchronisation, antivirus, the browser,
//! exports of VMs.

use boxrig_vergeos::Written;
use boxrig_wire::{ApiError, BoxFuture};
use serde_json::{Value, json};

use super::kit::{self, Done, answer, cells, conflict, default, key};
use super::vms::{arm_expiry, copied};
use super::{Act, Behaviour, machines};
use crate::vergeos::db::Read;
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;
use crate::vergeos::tx::Tx;

/// See the module.
pub(super) struct Nas;

/// Cells of a volume that a copy does not take over.
const OWN: &[&str] = &[
    "$key",
    "id",
    "name",
    "drive",
    "created",
    "modified",
    "is_snapshot",
];

/// The machine that a service runs in.
fn machine_of(db: &dyn Read, service: &str) -> Option<String> {
    let service = db.get("vm_services", service)?;
    db.get("vms", &service.reference("vm")?)?
        .reference("machine")
}

/// Shows a volume as mounted or not, by what it and its service are.
fn show(tx: &mut Tx<'_>, volume: &Row) -> Done {
    let own = volume.key();
    let runs = volume
        .reference("service")
        .and_then(|s| machine_of(&*tx, &s))
        .is_some_and(|m| machines::is_running(&*tx, &m));
    let mounted = runs && volume.get("enabled") != &Value::Bool(false);
    let state = if mounted { "online" } else { "offline" };
    kit::set_satellite(
        tx,
        "volume_status",
        "volume",
        &own,
        json!({"mounted": mounted, "status": state, "state": state}),
    )?;
    if let Some(drive) = volume.reference("drive") {
        kit::set_satellite(
            tx,
            "machine_drive_status",
            "parent_drive",
            &drive,
            json!({"status": state, "state": state}),
        )?;
    }
    Ok(())
}

/// Runs a synchronisation: what the source is said to hold is what is said to have been copied.
pub(super) fn start_sync(tx: &mut Tx<'_>, sync: &Row) -> Done {
    let own = sync.key();
    if sync.get("enabled") == &Value::Bool(false) {
        return Err(conflict("The sync is disabled"));
    }
    let progress = kit::satellite(&*tx, "volume_sync_progress", "sync", &own);
    if progress.is_some_and(|p| p.flag("syncing")) {
        return Err(kit::invalid("The sync is running already"));
    }
    kit::set_satellite(
        tx,
        "volume_sync_progress",
        "sync",
        &own,
        json!({"syncing": true, "status": "syncing", "start_time": tx.now(), "stop_time": 0, "files_transferred": 0, "bytes_transferred": 0, "sync_errors": 0}),
    )?;
    kit::log(
        tx,
        "message",
        "vm",
        sync.text("name"),
        "Volume sync started",
    )?;
    tx.then(move |cx| async move {
        let done = cx.write(|tx| {
            // The volumes of the laboratory hold no files: there is nothing to transfer, and that is what is told.
            kit::set_satellite(
                tx,
                "volume_sync_progress",
                "sync",
                &own,
                json!({"syncing": false, "status": "complete", "stop_time": tx.now()}),
            )
        });
        if let Err(e) = done.await {
            tracing::warn!(error = %e, "the end of a sync could not be told");
        }
    });
    Ok(())
}

impl Behaviour for Nas {
    fn actions(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("volume_sync_actions", "start_sync"),
            ("volume_sync_actions", "stop_sync"),
            ("volumes", "reset"),
            ("volume_actions", "clone"),
            ("volume_antivirus_actions", "start"),
            ("volume_antivirus_actions", "stop"),
            ("volume_antivirus_actions", "enable"),
            ("volume_antivirus_actions", "disable"),
            ("volume_vm_export_actions", "start_export"),
            ("volume_vm_export_actions", "stop_export"),
            ("volume_vm_export_actions", "cleanup"),
        ]
    }

    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Done {
        match table {
            "volumes" => {
                default(row, "fs_type", "ext4");
                default(row, "preferred_tier", "1");
                if row.get("discard").is_null() {
                    row.set("discard", true);
                }
                let service = row.reference("service").unwrap_or_default();
                if !row.flag("is_snapshot")
                    && let Some(machine) = machine_of(&*tx, &service)
                {
                    let drive = tx.create("machine_drives", cells(json!({"machine": key(&machine), "name": row.text("name"),
                        "media": "disk", "interface": "virtio-scsi", "disksize": row.int("maxsize"), "preferred_tier": row.text("preferred_tier")})))?;
                    row.set("drive", key(&drive));
                }
            }
            "volume_snapshots" => {
                if row.get("expires").is_null() {
                    row.set("expires", 0);
                }
                row.set(
                    "expires_type",
                    if row.int("expires") == 0 {
                        "never"
                    } else {
                        "date"
                    },
                );
                if row.get("created_manually").is_null() {
                    row.set("created_manually", true);
                }
            }
            "volume_syncs" => {
                for (column, value) in [("sync_method", "ysync"), ("destination_delete", "never")] {
                    default(row, column, value);
                }
                if row.reference("source_volume") == row.reference("destination_volume")
                    && row.text("source_path") == row.text("destination_path")
                {
                    return Err(kit::invalid("Source and destination are the same"));
                }
                if row.int("workers") == 0 {
                    row.set("workers", 4);
                }
            }
            "volume_cifs_shares" | "volume_nfs_shares" => {
                default(row, "share_path", "/");
                if table == "volume_nfs_shares"
                    && !row.flag("allow_all")
                    && row.text("allowed_hosts").is_empty()
                {
                    return Err(kit::invalid("Allowed Hosts is a required parameter"));
                }
            }
            "volume_browser" => return browse(tx, row),
            "volume_vm_exports" => {
                row.set("status", "idle");
                if row.int("max_exports") == 0 {
                    row.set("max_exports", 3);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn after_create(&self, tx: &mut Tx<'_>, table: &str, row: &Row, _: &mut Row) -> Done {
        let own = row.key();
        match table {
            "volumes" => {
                show(tx, row)?;
                if !row.flag("is_snapshot") {
                    // One row for each volume, made with it.
                    let av = tx.insert("volume_antivirus", cells(json!({"volume": own, "enabled": false, "infected_action": "move",
                        "on_access": false, "scan": "entire", "include": "", "exclude": "", "quarantine_location": ".quarantine"})))?;
                    tx.insert("volume_antivirus_status", cells(json!({"volume_antivirus": key(&av), "status": "offline", "state": "offline", "last_update": tx.now()})))?;
                    tx.insert("volume_antivirus_stats", cells(json!({"volume_antivirus": key(&av), "infected_files": 0, "quarantine_count": 0, "created": tx.now()})))?;
                }
            }
            "volume_syncs" => {
                tx.insert(
                    "volume_sync_progress",
                    cells(json!({"sync": own, "syncing": false, "status": "offline"})),
                )?;
            }
            "volume_snapshots" => arm_expiry(tx, table, &own, row.int("expires"))?,
            "volume_cifs_shares" | "volume_nfs_shares" => {
                let status = format!("{}_status", table.trim_end_matches('s'));
                tx.insert(
                    &status,
                    cells(json!({"share": own, "status": "online", "state": "online"})),
                )?;
            }
            "vm_service_users" => {
                let ids = 1000 + tx.all(table).len();
                tx.insert("vm_service_user_status", cells(json!({"service_user": own, "status": "online",
                    "user_sid": format!("S-1-5-21-{ids}"), "group_sid": "S-1-5-21-513", "user_id": ids, "group_id": ids})))?;
            }
            "vm_services" => {
                for child in ["vm_service_cifs", "vm_service_nfs"] {
                    tx.insert(child, cells(json!({"service": key(&own)})))?;
                }
                tx.insert(
                    "vm_service_antivirus",
                    cells(
                        json!({"service": key(&own), "enabled": false, "max_recursion": 16,
                    "database_location": "/var/lib/clamav", "database_updates_enabled": true}),
                    ),
                )?;
            }
            _ => {}
        }
        Ok(())
    }

    fn after_update(&self, tx: &mut Tx<'_>, table: &str, old: &Row, new: &Row) -> Done {
        if table == "volumes" {
            show(tx, new)?;
            if old.int("maxsize") != new.int("maxsize")
                && let Some(drive) = new.reference("drive")
            {
                tx.set(
                    "machine_drives",
                    &drive,
                    cells(json!({"disksize": new.int("maxsize")})),
                )?;
            }
        }
        Ok(())
    }

    fn before_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        if table == "volume_antivirus"
            && row
                .reference("volume")
                .is_some_and(|v| tx.get("volumes", &v).is_some_and(|v| !v.flag("$leaving")))
        {
            return Err(conflict(
                "The antivirus settings of a volume go with the volume",
            ));
        }
        if table != "volumes" {
            return Ok(());
        }
        // A volume that is used by shares is unmounted with them; one that was mounted a moment ago has to be disabled.
        let own = row.key();
        let used = tx.children("volume_syncs", "source_volume", &own).len()
            + tx.children("volume_syncs", "destination_volume", &own)
                .len();
        if used > 0 {
            return Err(conflict("The volume is used by a sync"));
        }
        tx.set(table, &own, Row::new().with("$leaving", true))
    }

    fn after_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        match table {
            "volumes" => {
                if let Some(drive) = row
                    .reference("drive")
                    .filter(|d| tx.get("machine_drives", d).is_some())
                {
                    tx.delete("machine_drives", &drive)?;
                }
            }
            "volume_snapshots" => tx.cancel(&format!("expire/{table}/{}", row.key())),
            _ => {}
        }
        Ok(())
    }

    fn act<'a>(&'a self, cx: &'a Cx, act: Act) -> BoxFuture<'a, Result<Written, ApiError>> {
        Box::pin(async move {
            let row = act.target()?.clone();
            let own = row.key();
            let reply = match (act.table.as_str(), act.verb.as_str()) {
                ("volume_sync_actions", "start_sync") => {
                    cx.write(|tx| start_sync(tx, &row)).await?;
                    Row::new()
                }
                ("volume_sync_actions", _) => {
                    cx.write(|tx| {
                        let runs = kit::satellite(&*tx, "volume_sync_progress", "sync", &own)
                            .is_some_and(|p| p.flag("syncing"));
                        if !runs {
                            return Err(kit::invalid("The sync is not running"));
                        }
                        kit::set_satellite(
                            tx,
                            "volume_sync_progress",
                            "sync",
                            &own,
                            json!({"syncing": false, "status": "aborted", "stop_time": tx.now()}),
                        )
                    })
                    .await?;
                    Row::new()
                }
                ("volumes", _) => {
                    cx.write(|tx| {
                        tx.set("volumes", &own, Row::new().with("enabled", true))?;
                        let row = tx.row("volumes", &own)?;
                        show(tx, &row)
                    })
                    .await?;
                    return Ok(Written::done());
                }
                ("volume_actions", _) => {
                    let given = act.params.text("name").trim().to_owned();
                    let made = cx.write(|tx| {
                        let mut copy = copied(&row, OWN);
                        copy.set(
                            "name",
                            if given.is_empty() {
                                format!("{} clone", row.text("name"))
                            } else {
                                given
                            },
                        );
                        tx.create("volumes", copy)
                    });
                    answer(Some(json!({"volumekey": made.await?})), None)
                }
                ("volume_antivirus_actions", verb) => {
                    let words = match verb {
                        "start" => "Scan finished",
                        "stop" => "Scan stopped",
                        "enable" => "Enabled",
                        _ => "Disabled",
                    };
                    let verb = verb.to_owned();
                    cx.write(|tx| {
                        match verb.as_str() {
                            "enable" | "disable" => {
                                let on = verb == "enable";
                                tx.set("volume_antivirus", &own, Row::new().with("enabled", on))?;
                                let state = if on { ("idle", "online") } else { ("offline", "offline") };
                                kit::set_satellite(tx, "volume_antivirus_status", "volume_antivirus", &own, json!({"status": state.0, "state": state.1, "last_update": tx.now()}))?;
                            }
                            "start" => {
                                let found = tx.children("volume_antivirus_infections", "volume_antivirus", &own).len();
                                kit::set_satellite(tx, "volume_antivirus_stats", "volume_antivirus", &own, json!({"last_scan": tx.now(), "infected_files": found}))?;
                            }
                            _ => {}
                        }
                        kit::own_log(tx, "volume_antivirus_logs", "volume_antivirus", &own, "message", words)
                    })
                    .await?;
                    Row::new()
                }
                ("volume_vm_export_actions", "start_export") => {
                    let wanted: Option<Vec<String>> = act
                        .params
                        .get("vms")
                        .as_array()
                        .map(|l| l.iter().filter_map(kit::key_of).collect());
                    let name = act.params.text("name").to_owned();
                    let task = cx
                        .write(|tx| export(tx, &row, wanted.as_deref(), &name))
                        .await?;
                    answer(None, Some(&task))
                }
                ("volume_vm_export_actions", "cleanup") => {
                    cx.write(|tx| {
                        let kept = usize::try_from(row.int("max_exports").max(0)).unwrap_or(0);
                        let mut past =
                            tx.children("volume_vm_export_stats", "volume_vm_exports", &own);
                        past.sort_by_key(|r| std::cmp::Reverse(r.int("timestamp")));
                        for old in past.iter().skip(kept) {
                            tx.delete("volume_vm_export_stats", &old.key())?;
                        }
                        Ok(())
                    })
                    .await?;
                    Row::new()
                }
                _ => {
                    cx.write(|tx| {
                        tx.set(
                            "volume_vm_exports",
                            &own,
                            cells(json!({"status": "idle", "status_info": "Stopped"})),
                        )
                    })
                    .await?;
                    Row::new()
                }
            };
            Ok(kit::reply(reply))
        })
    }
}

/// Exports VMs into a volume: what is written is the description of each VM.
fn export(
    tx: &mut Tx<'_>,
    row: &Row,
    wanted: Option<&[String]>,
    name: &str,
) -> Result<String, ApiError> {
    let own = row.key();
    let vms: Vec<_> = tx
        .all("vms")
        .into_iter()
        .filter(|v| !v.flag("is_snapshot") && wanted.is_none_or(|w| w.contains(&v.key())))
        .collect();
    if wanted.is_some_and(|w| w.len() != vms.len()) {
        return Err(ApiError::not_found("A VM of the list does not exist"));
    }
    let size: usize = vms
        .iter()
        .map(|v| serde_json::to_string(&v.0).map_or(0, |t| t.len()))
        .sum();
    let folder = if name.is_empty() {
        format!("export-{}", tx.now())
    } else {
        name.to_owned()
    };
    tx.insert("volume_vm_export_stats", cells(json!({"volume_vm_exports": key(&own), "duration": 0, "virtual_machines": vms.len(),
        "export_success": vms.len(), "errors": 0, "quiesced": row.flag("quiesced"), "size_bytes": size, "file_name": folder, "timestamp": tx.now()})))?;
    tx.set(
        "volume_vm_exports",
        &own,
        cells(json!({"status": "idle", "status_info": ""})),
    )?;
    let task = kit::begin_task(
        tx,
        &format!("Export '{folder}'"),
        "start_export",
        &format!("volume_vm_exports/{own}"),
    )?;
    kit::end_task(tx, &task, None)?;
    Ok(task)
}

/// A job of the browser: what is in a folder of a volume. There are the exports; other files the laboratory has none.
fn browse(tx: &Tx<'_>, row: &mut Row) -> Done {
    let volume = row
        .reference("volume")
        .ok_or_else(|| kit::invalid("Volume is a required parameter"))?;
    kit::need(tx, "volumes", &volume)?;
    if row.text("query") != "get-dir" {
        row.set("status", "error");
        row.set(
            "result",
            format!("query '{}' is not supported", row.text("query")),
        );
        return Ok(());
    }
    let params = match row.get("params") {
        Value::String(text) => serde_json::from_str(text).unwrap_or_default(),
        other => other.clone(),
    };
    let folder = params
        .get("dir")
        .and_then(Value::as_str)
        .unwrap_or("")
        .trim_matches('/')
        .to_owned();
    let number = |name: &str| {
        params
            .get(name)
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok())
    };
    let mut entries = Vec::new();
    if folder.is_empty() {
        for exports in tx.children("volume_vm_exports", "volume", &volume) {
            for export in tx.children(
                "volume_vm_export_stats",
                "volume_vm_exports",
                &exports.key(),
            ) {
                entries.push(json!({"name": export.text("file_name"), "n_name": export.text("file_name").to_lowercase(),
                    "size": export.int("size_bytes"), "date": export.int("timestamp"), "type": "directory"}));
            }
        }
    }
    let shown: Vec<Value> = entries
        .into_iter()
        .skip(number("offset").unwrap_or(0))
        .take(number("limit").filter(|n| *n > 0).unwrap_or(usize::MAX))
        .collect();
    row.set("status", "complete");
    // An empty folder's result is null.
    row.set(
        "result",
        if shown.is_empty() {
            Value::Null
        } else {
            Value::Array(shown)
        },
    );
    Ok(())
}
