//! VMs: clones, snapshots, what a snapshot brings back, drives and NICs added while running.

use boxrig_wire::{ApiError, BoxFuture};
use serde_json::{Value, json};

use super::kit::{self, Done, answer, cells, conflict, default, key};
use super::{Act, Behaviour, instances, machines};
use crate::vergeos::db::Read;
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;
use crate::vergeos::tx::Tx;
use boxrig_vergeos::Written;

/// See the module.
pub(super) struct Vms;

/// How long a snapshot is kept that says nothing about it.
const SNAPSHOT_KEPT_S: i64 = 72 * 3600;
/// Cells of a VM that a copy does not take over.
const OWN: &[&str] = &[
    "$key",
    "name",
    "machine",
    "uuid",
    "created",
    "modified",
    "is_snapshot",
    "creator",
    "created_from",
];
/// Cells of a drive, NIC or device that a copy does not take over.
const OWN_PART: &[&str] = &["$key", "machine", "uuid", "serial", "created", "modified"];

/// Cells of a row without those that are its own.
pub(super) fn copied(row: &Row, without: &[&str]) -> Row {
    Row(row
        .0
        .iter()
        .filter(|(name, _)| !without.contains(&name.as_str()))
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect())
}

/// Copies a VM with its drives, NICs, devices and cloud-init files. `image` is what its files begin with.
pub(super) fn copy(
    tx: &mut Tx<'_>,
    vm: &Row,
    name: &str,
    snapshot: bool,
    keep_macs: bool,
    image: Option<&str>,
) -> Result<String, ApiError> {
    let mut row = copied(vm, OWN);
    row.set("name", name);
    row.set("is_snapshot", snapshot);
    row.set("created_from", format!("vms/{}", vm.key()));
    let copy = tx.create("vms", row)?;
    let made = kit::need(&*tx, "vms", &copy)?;
    let (from, to) = (
        vm.reference("machine").unwrap_or_default(),
        made.reference("machine").unwrap_or_default(),
    );
    copy_parts(tx, &from, &to, keep_macs)?;
    for file in tx.children("cloudinit_files", "owner", &format!("vms/{}", vm.key())) {
        let mut row = copied(&file, &["$key", "owner", "modified"]);
        row.set("owner", format!("vms/{copy}"));
        tx.create("cloudinit_files", row)?;
    }
    if let Some(image) = image {
        tx.set("machines", &to, Row::new().with(instances::IMAGE, image))?;
    }
    Ok(copy)
}

/// Copies drives, NICs and devices from one machine to another.
fn copy_parts(tx: &mut Tx<'_>, from: &str, to: &str, keep_macs: bool) -> Done {
    for table in ["machine_drives", "machine_nics", "machine_devices"] {
        for part in tx.children(table, "machine", from) {
            let mut row = copied(&part, OWN_PART);
            row.set("machine", key(to));
            if table == "machine_nics" && !keep_macs {
                row.0.remove("macaddress");
            }
            tx.create(table, row)?;
        }
    }
    Ok(())
}

/// The VM that a machine stands behind.
fn vm_of(db: &dyn Read, machine: &str) -> Option<std::sync::Arc<Row>> {
    db.children("vms", "machine", machine).into_iter().next()
}

/// Makes the VM that holds what a snapshot keeps, and arms its expiry.
fn keep_snapshot(tx: &mut Tx<'_>, snapshot: &Row) -> Done {
    let machine = snapshot.reference("machine").unwrap_or_default();
    let Some(vm) = vm_of(&*tx, &machine) else {
        return Ok(());
    };
    let own = snapshot.key();
    let name = format!("{}_{}", vm.text("name"), snapshot.text("name"));
    let kept = copy(tx, &vm, &name, true, true, None)?;
    let kept_machine = kit::need(&*tx, "vms", &kept)?.get("machine").clone();
    tx.set(
        "machine_snapshots",
        &own,
        Row::new().with("snap_machine", kept_machine),
    )?;
    arm_expiry(tx, "machine_snapshots", &own, snapshot.int("expires"))?;
    let task = kit::begin_task(
        tx,
        &format!("Snapshot of '{}'", vm.text("name")),
        "snapshot",
        &format!("vms/{}", vm.key()),
    )?;
    kit::own_log(
        tx,
        "machine_logs",
        "machine",
        &machine,
        "message",
        &format!("Snapshot '{}' taken", snapshot.text("name")),
    )?;
    kit::log(
        tx,
        "message",
        "vm",
        vm.text("name"),
        &format!("Snapshot '{}' taken", snapshot.text("name")),
    )?;
    super::tasks::raise(tx, "vms", &vm.key(), "snapshot")?;
    // The files are copied by the engine after the answer; the row stands already.
    tx.then(move |cx| async move {
        let image = instances::keep(&cx, &machine).await;
        let failed = image.as_ref().err().map(ToString::to_string);
        let image = image.ok().flatten().unwrap_or_default();
        let told = cx.write(|tx| {
            tx.set(
                "machine_snapshots",
                &own,
                Row::new().with(instances::IMAGE, image.as_str()),
            )?;
            kit::end_task(tx, &task, failed.as_deref())
        });
        if let Err(e) = told.await {
            tracing::warn!(error = %e, snapshot = own, "what a snapshot keeps is not recorded");
        }
    });
    Ok(())
}

/// Has a row deleted when its time is over; 0 is never.
pub(super) fn arm_expiry(tx: &mut Tx<'_>, table: &str, row: &str, expires: i64) -> Done {
    let name = format!("expire/{table}/{row}");
    match u64::try_from(expires) {
        Ok(at) if at > 0 => tx.at(
            at.saturating_mul(1000),
            &name,
            json!({"table": table, "key": row}),
        ),
        _ => {
            tx.cancel(&name);
            Ok(())
        }
    }
}

/// Puts a VM back to what a snapshot kept: its own cells, its drives, NICs and devices.
fn restore_cells(tx: &mut Tx<'_>, vm: &Row, kept: &Row) -> Done {
    let machine = vm.reference("machine").unwrap_or_default();
    if machines::is_running(&*tx, &machine) {
        return Err(conflict(format!(
            "'{}' must be powered off to be restored",
            vm.text("name")
        )));
    }
    let mut cells_kept = copied(kept, OWN);
    // A cell that was not stored then is its default again.
    for (name, _) in vm.0.iter().filter(|(n, _)| !OWN.contains(&n.as_str())) {
        if !cells_kept.0.contains_key(name) {
            cells_kept.set(name, Value::Null);
        }
    }
    if !kit::mutated("restore_values") {
        tx.set("vms", &vm.key(), cells_kept)?;
    }
    let kept_machine = kept.reference("machine").unwrap_or_default();
    for table in ["machine_drives", "machine_nics", "machine_devices"] {
        for part in tx.children(table, "machine", &machine) {
            tx.delete(table, &part.key())?;
        }
    }
    copy_parts(tx, &kept_machine, &machine, true)?;
    let was = kit::need(&*tx, "machines", &kept_machine)?;
    tx.set(
        "machines",
        &machine,
        cells(json!({"ram": was.get("ram"), "cores": was.get("cores")})),
    )?;
    kit::own_log(
        tx,
        "machine_logs",
        "machine",
        &machine,
        "message",
        "Restored from a snapshot",
    )?;
    kit::log(
        tx,
        "message",
        "vm",
        vm.text("name"),
        "Restored from a snapshot",
    )
}

impl Behaviour for Vms {
    fn actions(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("vm_actions", "clone"),
            ("vm_actions", "restore"),
            ("vm_actions", "hotplugdrive"),
            ("vm_actions", "hotplugnic"),
            ("machine_drives", "apply_universal_vars"),
            ("shared_object_actions", "import"),
            ("shared_object_actions", "refresh"),
        ]
    }

    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Done {
        match table {
            "machine_snapshots" => {
                let machine = row.reference("machine").unwrap_or_default();
                if vm_of(&*tx, &machine).is_some_and(|vm| vm.flag("is_snapshot")) {
                    return Err(conflict("A snapshot cannot be taken of a snapshot"));
                }
                let never = row.text("expires_type") == "never";
                if row.get("expires").is_null() {
                    row.set(
                        "expires",
                        if never { 0 } else { tx.now() + SNAPSHOT_KEPT_S },
                    );
                }
                row.set(
                    "expires_type",
                    if row.int("expires") == 0 {
                        "never"
                    } else {
                        "date"
                    },
                );
                row.set("quiesced", row.flag("quiesce"));
            }
            "shared_objects" => {
                default(row, "type", "vm");
                default(row, "id", tx.ids().hex(40));
                let snapshot = row.text("snapshot").to_owned();
                let found = tx.poly(&snapshot).ok_or_else(|| {
                    ApiError::not_found("error setting field 'snapshot': No such file or directory")
                })?;
                default(row, "name", found.text("name").to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    fn after_create(&self, tx: &mut Tx<'_>, table: &str, row: &Row, _: &mut Row) -> Done {
        if table == "machine_snapshots" {
            keep_snapshot(tx, row)?;
        }
        Ok(())
    }

    fn after_update(&self, tx: &mut Tx<'_>, table: &str, old: &Row, new: &Row) -> Done {
        if table == "machine_snapshots" && old.get("expires") != new.get("expires") {
            arm_expiry(tx, table, &new.key(), new.int("expires"))?;
        }
        Ok(())
    }

    fn after_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        match table {
            "machine_snapshots" => {
                tx.cancel(&format!("expire/{table}/{}", row.key()));
                if let Some(kept) = row.reference("snap_machine").and_then(|m| vm_of(&*tx, &m)) {
                    tx.delete("vms", &kept.key())?;
                }
                instances::drop_image(tx, row.text(instances::IMAGE));
            }
            "machines" => instances::drop_image(tx, row.text(instances::IMAGE)),
            _ => {}
        }
        Ok(())
    }

    fn timer<'a>(
        &'a self,
        cx: &'a Cx,
        name: &'a str,
        payload: &'a Value,
    ) -> BoxFuture<'a, Result<bool, ApiError>> {
        Box::pin(async move {
            if !name.starts_with("expire/") {
                return Ok(false);
            }
            let of = |field: &str| {
                payload
                    .get(field)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let (table, own) = (of("table"), of("key"));
            cx.write(|tx| match tx.get(&table, &own) {
                Some(row) if row.int("expires") > 0 && row.int("expires") <= tx.now() => {
                    tx.delete(&table, &own)
                }
                _ => Ok(()),
            })
            .await?;
            Ok(true)
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx, act: Act) -> BoxFuture<'a, Result<Written, ApiError>> {
        Box::pin(async move {
            let row = act.target()?.clone();
            let params = act.params.clone();
            let machine = row.reference("machine").unwrap_or_default();
            let reply = match (act.table.as_str(), act.verb.as_str()) {
                ("vm_actions", "clone") => {
                    // A snapshot's own files are those it kept.
                    let image = match kept_by(&cx.db, &machine) {
                        Some(snapshot) => Some(snapshot.text(instances::IMAGE).to_owned()),
                        None => instances::keep(cx, &machine).await?,
                    };
                    let image = image.filter(|i| !i.is_empty());
                    let given = params.text("name").trim();
                    let name = if given.is_empty() {
                        format!("{} clone", row.text("name"))
                    } else {
                        given.to_owned()
                    };
                    let macs = params.flag("preserve_macs");
                    let made = cx.write(|tx| {
                        let made = copy(tx, &row, &name, false, macs, image.as_deref())?;
                        let task = kit::begin_task(
                            tx,
                            &format!("Clone '{}'", row.text("name")),
                            "clone",
                            &format!("vms/{made}"),
                        )?;
                        kit::end_task(tx, &task, None)?;
                        super::tasks::raise(tx, "vms", &row.key(), "clone")?;
                        Ok(made)
                    });
                    answer(Some(json!({"vmkey": made.await?})), None)
                }
                ("vm_actions", "restore") => restore(cx, &row, &params).await?,
                ("vm_actions", "hotplugdrive" | "hotplugnic") => {
                    let table = if act.verb == "hotplugdrive" {
                        "machine_drives"
                    } else {
                        "machine_nics"
                    };
                    let device = params
                        .reference("device")
                        .ok_or_else(|| kit::invalid("Device is a required parameter"))?;
                    cx.write(|tx| {
                        let part = kit::need(&*tx, table, &device)?;
                        if part.reference("machine").as_deref() != Some(machine.as_str()) {
                            return Err(kit::invalid("The device belongs to another machine"));
                        }
                        if !machines::is_running(&*tx, &machine) {
                            return Err(conflict(format!("'{}' is not running", row.text("name"))));
                        }
                        if !row.flag("allow_hotplug") && row.0.contains_key("allow_hotplug") {
                            return Err(conflict("Hot plug is not allowed for this machine"));
                        }
                        kit::own_log(
                            tx,
                            "machine_logs",
                            "machine",
                            &machine,
                            "message",
                            &format!("'{}' added while running", part.text("name")),
                        )
                    })
                    .await?;
                    Row::new()
                }
                ("shared_object_actions", "import") => {
                    let snapshot = row.text("snapshot").to_owned();
                    let kept = crate::vergeos::row::split_poly(&snapshot)
                        .and_then(|(t, k)| cx.db.get(t, k));
                    let kept = kept.ok_or_else(|| conflict("What was shared is gone"))?;
                    let vm = kept
                        .reference("snap_machine")
                        .and_then(|m| vm_of(&cx.db, &m))
                        .ok_or_else(|| conflict("What was shared is gone"))?;
                    let image = kept.text(instances::IMAGE).to_owned();
                    let name = row.text("name").to_owned();
                    let made = cx.write(|tx| {
                        let free = |name: &str| {
                            tx.find("vms", &|v| v.text("name") == name && !v.flag("is_snapshot"))
                                .is_none()
                        };
                        let name = if free(&name) {
                            name.clone()
                        } else {
                            format!("{name} imported")
                        };
                        copy(
                            tx,
                            &vm,
                            &name,
                            false,
                            false,
                            Some(&image).filter(|i| !i.is_empty()).map(String::as_str),
                        )
                    });
                    answer(Some(json!({"vmkey": made.await?})), None)
                }
                ("shared_object_actions", _) => {
                    cx.write(|tx| {
                        tx.set(
                            "shared_objects",
                            &row.key(),
                            cells(json!({"created": tx.now()})),
                        )
                    })
                    .await?;
                    Row::new()
                }
                _ => {
                    // The Secure Boot keys of 2023, into the EFI variables of a machine that is off.
                    let vm =
                        vm_of(&cx.db, &machine).ok_or_else(|| kit::missing("vms", &machine))?;
                    if row.text("media") != "efidisk"
                        || !vm.flag("secure_boot")
                        || machines::is_running(&cx.db, &machine)
                    {
                        return Err(ApiError::conflict("Operation not permitted")
                            .with_status(http::StatusCode::METHOD_NOT_ALLOWED));
                    }
                    cx.write(|tx| {
                        tx.set(
                            "machine_drives",
                            &row.key(),
                            Row::new().with("ms_2023_kek_applied", true),
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

/// The snapshot that keeps its state in this machine.
fn kept_by(db: &dyn Read, machine: &str) -> Option<std::sync::Arc<Row>> {
    db.children("machine_snapshots", "snap_machine", machine)
        .into_iter()
        .next()
}

/// `restore` of a snapshot's VM, in place or as a new VM; of a VM with `snapshot` in its parameters likewise.
async fn restore(cx: &Cx, row: &Row, params: &Row) -> Result<Row, ApiError> {
    let machine = row.reference("machine").unwrap_or_default();
    let snapshot = match params.reference("snapshot") {
        Some(own) => kit::need(&cx.db, "machine_snapshots", &own)?,
        None => kept_by(&cx.db, &machine)
            .ok_or_else(|| conflict(format!("'{}' is no snapshot", row.text("name"))))?,
    };
    let kept = snapshot
        .reference("snap_machine")
        .and_then(|m| vm_of(&cx.db, &m))
        .ok_or_else(|| conflict("What the snapshot kept is gone"))?;
    let vm = snapshot
        .reference("machine")
        .and_then(|m| vm_of(&cx.db, &m));
    let image = snapshot.text(instances::IMAGE).to_owned();
    let name = params.text("name").to_owned();
    if !name.is_empty() || vm.is_none() {
        let name = if name.is_empty() {
            format!("{} restored", snapshot.text("name"))
        } else {
            name
        };
        let macs = params.flag("preserve_macs");
        let made = cx
            .write(|tx| {
                copy(
                    tx,
                    &kept,
                    &name,
                    false,
                    macs,
                    Some(image.as_str()).filter(|i| !i.is_empty()),
                )
            })
            .await?;
        return Ok(answer(Some(json!({"vmkey": made})), None));
    }
    let Some(vm) = vm else {
        return Err(conflict("The machine of the snapshot is gone"));
    };
    let machine = vm.reference("machine").unwrap_or_default();
    // Checked first, then the files, then the cells: a refusal leaves both as they were.
    if machines::is_running(&cx.db, &machine) {
        return Err(conflict(format!(
            "'{}' must be powered off to be restored",
            vm.text("name")
        )));
    }
    instances::put_back(cx, &machine, &image).await?;
    cx.write(|tx| restore_cells(tx, &vm, &kept)).await?;
    Ok(Row::new())
}
