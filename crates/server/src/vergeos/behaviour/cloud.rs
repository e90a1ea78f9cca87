//! Snapshots of the whole system, and the profiles that take snapshots by the clock.

use boxrig_vergeos::Written;
use boxrig_wire::{ApiError, BoxFuture};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};

use super::kit::{self, Done, answer, cells, conflict, default, key};
use super::vms::{arm_expiry, copied};
use super::{Act, Behaviour, instances};
use crate::vergeos::db::Read;
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;
use crate::vergeos::tx::Tx;

/// See the module.
pub(super) struct Cloud;

/// How long a snapshot of the system is kept that says nothing about it.
const KEPT_S: i64 = 3 * 86_400;
/// The cell of a part of a snapshot that holds the rows it was made of.
const KEPT: &str = "$kept";

/// Whether a partial snapshot takes a thing that has these tags.
fn takes(tx: &Tx<'_>, snapshot: &Row, member: &str) -> bool {
    let wanted: Vec<&str> = snapshot
        .text("partial_tags")
        .split(',')
        .map(str::trim)
        .filter(|t| !t.is_empty())
        .collect();
    let has = tx
        .children("tag_members", "member", member)
        .iter()
        .any(|m| {
            m.reference("tag")
                .is_some_and(|t| wanted.contains(&t.as_str()))
        });
    match snapshot.text("type") {
        _ if kit::mutated("partial_tags") => true,
        "partial_include" => has,
        "partial_exclude" => !has,
        _ => true,
    }
}

/// Fills a snapshot with what there is; it is normal from then on.
fn build(tx: &mut Tx<'_>, own: &str) -> Done {
    let Some(snapshot) = tx.get("cloud_snapshots", own) else {
        return Ok(());
    };
    for vm in tx.all("vms").into_iter().filter(|v| !v.flag("is_snapshot")) {
        if !takes(tx, &snapshot, &format!("vms/{}", vm.key())) {
            continue;
        }
        let machine = vm.reference("machine").and_then(|m| tx.get("machines", &m));
        let parts = |table: &str| -> Vec<Value> {
            let of = machine
                .as_ref()
                .map(|m| tx.children(table, "machine", &m.key()))
                .unwrap_or_default();
            of.iter()
                .map(|r| {
                    Value::Object(copied(r, &["$key", "machine", "created", "modified", "uuid"]).0)
                })
                .collect()
        };
        let kept = json!({"cells": copied(&vm, &["$key", "machine", "created", "modified", "uuid"]), "machine_drives": parts("machine_drives"), "machine_nics": parts("machine_nics")});
        let mut row = cells(
            json!({"cloud_snapshot": key(own), "name": vm.text("name"), "description": vm.text("description"),
            "uuid": vm.text("uuid"), "machine_uuid": machine.as_ref().map_or("", |m| m.text("uuid")), "cpu_cores": vm.int("cpu_cores"),
            "ram": vm.int("ram"), "os_family": vm.text("os_family"), "is_snapshot": false, "status": "idle", "status_info": "",
            "original_key": vm.get("$key")}),
        );
        row.set(KEPT, kept);
        tx.insert("cloud_snapshot_vms", row)?;
    }
    for tenant in tx
        .all("tenants")
        .into_iter()
        .filter(|t| !t.flag("is_snapshot"))
    {
        if !takes(tx, &snapshot, &format!("tenants/{}", tenant.key())) {
            continue;
        }
        let nodes = tx.children("tenant_nodes", "tenant", &tenant.key());
        let sum = |column: &str| nodes.iter().map(|n| n.int(column)).sum::<i64>();
        let mut row = cells(
            json!({"cloud_snapshot": key(own), "name": tenant.text("name"), "description": tenant.text("description"),
            "uuid": tenant.text("uuid"), "nodes": nodes.len(), "cpu_cores": sum("cpu_cores"), "ram": sum("ram"), "is_snapshot": false,
            "status": "idle", "status_info": "", "original_key": tenant.get("$key")}),
        );
        row.set(KEPT, json!({"cells": copied(&tenant, &["$key", "vnet", "ui_address", "created", "modified", "uuid"])}));
        tx.insert("cloud_snapshot_tenants", row)?;
    }
    if !kit::mutated("cloud_snapshot_built") {
        tx.set("cloud_snapshots", own, cells(json!({"status": "normal"})))?;
    }
    let words = format!("Cloud snapshot '{}' taken", snapshot.text("name"));
    kit::log(tx, "message", "system", snapshot.text("name"), &words)?;
    super::tasks::raise(tx, "cloud_snapshots", own, "create")
}

/// Brings a VM or tenant of a snapshot back under a name.
fn recover(tx: &mut Tx<'_>, table: &str, own: &str, name: &str) -> Result<String, ApiError> {
    let part = kit::need(&*tx, table, own)?;
    let kept = part.get(KEPT).clone();
    let mut row = match kept.get("cells") {
        Some(kept) => cells(kept.clone()),
        // A stocked laboratory's snapshots show what they hold and no more.
        None => cells(
            json!({"description": part.text("description"), "cpu_cores": part.int("cpu_cores").max(1), "ram": part.int("ram").max(1024)}),
        ),
    };
    row.set(
        "name",
        if name.is_empty() {
            part.text("name")
        } else {
            name
        },
    );
    let into = if table == "cloud_snapshot_vms" {
        "vms"
    } else {
        "tenants"
    };
    if into == "tenants" {
        row.0
            .retain(|column, _| !matches!(column.as_str(), "cpu_cores" | "ram"));
    }
    let made = tx.create(into, row)?;
    if into == "vms" {
        let machine = kit::need(&*tx, "vms", &made)?.get("machine").clone();
        for table in ["machine_drives", "machine_nics"] {
            for part in kept
                .get(table)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let mut row = cells(part.clone());
                row.set("machine", machine.clone());
                row.0.remove("macaddress");
                tx.create(table, row)?;
            }
        }
        let image = part.text(instances::IMAGE).to_owned();
        if let (Some(machine), false) = (kit::key_of(&machine), image.is_empty()) {
            tx.set(
                "machines",
                &machine,
                Row::new().with(instances::IMAGE, image),
            )?;
        }
    }
    tx.set(
        table,
        own,
        cells(json!({"status": "complete", "status_info": ""})),
    )?;
    Ok(made)
}

/// The next time after `after` at which a period of a profile takes snapshots; UTC.
fn next_period(period: &Row, after: i64) -> Option<i64> {
    let now = Timestamp::from_second(after).ok()?.to_zoned(TimeZone::UTC);
    let (hour, minute) = (
        i8::try_from(period.int("hour")).ok()?,
        i8::try_from(period.int("minute")).ok()?,
    );
    let wanted_day = period.text("day_of_week");
    let every_hour = period.text("frequency") == "hourly";
    let mut at = now
        .with()
        .minute(minute.clamp(0, 59))
        .second(0)
        .subsec_nanosecond(0)
        .build()
        .ok()?;
    if !every_hour {
        at = at.with().hour(hour.clamp(0, 23)).build().ok()?;
    }
    for _ in 0..9_000 {
        let day_of_month = match period.int("day_of_month") {
            0 => 1,
            n => n.min(i64::from(at.days_in_month())),
        };
        let name = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let today = usize::try_from(at.weekday().to_monday_zero_offset())
            .ok()
            .and_then(|d| name.get(d).copied())
            .unwrap_or("mon");
        let fits = match period.text("frequency") {
            "weekly" => {
                (wanted_day.is_empty() || wanted_day == "any") && today == "sun"
                    || wanted_day == today
            }
            "monthly" => i64::from(at.day()) == day_of_month,
            "yearly" => {
                i64::from(at.day()) == day_of_month
                    && i64::from(at.month()) == period.int("month").max(1)
            }
            _ => true,
        };
        let epoch = at.timestamp().as_second();
        if fits && epoch > after {
            return Some(epoch);
        }
        at = at
            .checked_add(if every_hour { 1.hour() } else { 1.day() })
            .ok()?;
    }
    None
}

fn arm(tx: &mut Tx<'_>, period: &Row) -> Done {
    let name = format!("period/{}", period.key());
    match next_period(period, tx.now()).and_then(|at| u64::try_from(at).ok()) {
        Some(at) => tx.at(
            at.saturating_mul(1000),
            &name,
            json!({"period": period.key()}),
        ),
        None => {
            tx.cancel(&name);
            Ok(())
        }
    }
}

/// Takes the snapshots of a period: VMs and volumes that have its profile, and the system if that is its profile.
fn take(tx: &mut Tx<'_>, period: &Row) -> Done {
    let profile = period.reference("profile").unwrap_or_default();
    let retention = period.int("retention");
    let expires = if retention > 0 {
        tx.now() + retention
    } else {
        0
    };
    let name = format!("{} {}", period.text("name"), tx.now());
    let of = |table: &str, tx: &Tx<'_>| -> Vec<std::sync::Arc<Row>> {
        tx.children(table, "snapshot_profile", &profile)
            .into_iter()
            .filter(|r| !r.flag("is_snapshot"))
            .collect()
    };
    for vm in of("vms", tx) {
        tx.create("machine_snapshots", cells(json!({"machine": vm.get("machine"), "name": name, "expires": expires,
            "created_manually": false, "snapshot_period": period.get("$key"), "quiesce": period.flag("quiesce")})))?;
    }
    for volume in of("volumes", tx) {
        tx.create(
            "volume_snapshots",
            cells(
                json!({"volume": volume.get("$key"), "name": name, "expires": expires,
            "expires_type": if expires > 0 { "date" } else { "never" }, "created_manually": false}),
            ),
        )?;
    }
    Ok(())
}

impl Behaviour for Cloud {
    fn actions(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("cloud_snapshot_vm_actions", "recover"),
            ("cloud_snapshot_tenant_actions", "recover"),
            ("snapshot_profile_actions", "delete"),
        ]
    }

    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Done {
        if table != "cloud_snapshots" {
            return Ok(());
        }
        default(row, "name", format!("Snapshot_{}", tx.now()));
        default(row, "type", "full");
        if row.get("expires").is_null() {
            let never = row.text("expires_type") == "never";
            row.set("expires", if never { 0 } else { tx.now() + KEPT_S });
        }
        row.set(
            "expires_type",
            if row.int("expires") == 0 {
                "never"
            } else {
                "date"
            },
        );
        row.set(
            "immutable_status",
            if row.flag("immutable") {
                "locked"
            } else {
                "unlocked"
            },
        );
        row.set("status", "building");
        Ok(())
    }

    fn after_create(&self, tx: &mut Tx<'_>, table: &str, row: &Row, _: &mut Row) -> Done {
        let own = row.key();
        match table {
            "cloud_snapshots" => {
                arm_expiry(tx, table, &own, row.int("expires"))?;
                tx.then(move |cx| async move {
                    let built = cx.write(|tx| build(tx, &own)).await;
                    if let Err(e) = built {
                        tracing::warn!(snapshot = own, error = %e, "a cloud snapshot was not built");
                        let words = e.to_string();
                        let told = cx.write(|tx| tx.set("cloud_snapshots", &own, cells(json!({"status": "error", "status_info": words}))));
                        if let Err(e) = told.await {
                            tracing::warn!(error = %e, "its state could not be told");
                        }
                    } else {
                        keep_files(&cx, &own).await;
                    }
                });
            }
            "snapshot_profile_periods" => arm(tx, row)?,
            _ => {}
        }
        Ok(())
    }

    fn after_update(&self, tx: &mut Tx<'_>, table: &str, old: &Row, new: &Row) -> Done {
        match table {
            "cloud_snapshots" if old.get("expires") != new.get("expires") => {
                arm_expiry(tx, table, &new.key(), new.int("expires"))
            }
            "snapshot_profile_periods" => arm(tx, new),
            _ => Ok(()),
        }
    }

    fn before_delete(&self, _: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        if table == "cloud_snapshots"
            && row.flag("immutable")
            && row.text("immutable_status") == "locked"
            && !kit::mutated("immutable")
        {
            return Err(conflict("The snapshot is immutable and locked"));
        }
        Ok(())
    }

    fn after_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        match table {
            "cloud_snapshot_vms" => instances::drop_image(tx, row.text(instances::IMAGE)),
            "snapshot_profile_periods" => tx.cancel(&format!("period/{}", row.key())),
            "cloud_snapshots" => tx.cancel(&format!("expire/{table}/{}", row.key())),
            _ => {}
        }
        Ok(())
    }

    fn start<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let done = cx.write(|tx| {
                let known = tx.timers();
                for period in tx.all("snapshot_profile_periods") {
                    if !known.contains(&format!("period/{}", period.key())) {
                        arm(tx, &period)?;
                    }
                }
                // What was being built when the server ended is built now.
                for snapshot in tx
                    .all("cloud_snapshots")
                    .into_iter()
                    .filter(|s| s.text("status") == "building")
                {
                    for table in ["cloud_snapshot_vms", "cloud_snapshot_tenants"] {
                        for part in tx.children(table, "cloud_snapshot", &snapshot.key()) {
                            tx.remove(table, &part.key());
                        }
                    }
                    build(tx, &snapshot.key())?;
                }
                Ok(())
            });
            if let Err(e) = done.await {
                tracing::warn!(error = %e, "snapshot profiles are not armed");
            }
        })
    }

    fn timer<'a>(
        &'a self,
        cx: &'a Cx,
        name: &'a str,
        payload: &'a Value,
    ) -> BoxFuture<'a, Result<bool, ApiError>> {
        Box::pin(async move {
            if !name.starts_with("period/") {
                return Ok(false);
            }
            let own = payload
                .get("period")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            cx.write(|tx| {
                let Some(period) = tx.get("snapshot_profile_periods", &own) else {
                    return Ok(());
                };
                arm(tx, &period)?;
                take(tx, &period)
            })
            .await?;
            Ok(true)
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx, act: Act) -> BoxFuture<'a, Result<Written, ApiError>> {
        Box::pin(async move {
            if act.table == "snapshot_profile_actions" {
                let own = act.target()?.key();
                cx.write(|tx| tx.delete("snapshot_profiles", &own)).await?;
                return Ok(kit::reply(Row::new()));
            }
            let table = if act.table == "cloud_snapshot_vm_actions" {
                "cloud_snapshot_vms"
            } else {
                "cloud_snapshot_tenants"
            };
            let rows: Vec<String> = match act.params.get("rows") {
                Value::Array(rows) => rows.iter().filter_map(kit::key_of).collect(),
                one => kit::key_of(one).into_iter().collect(),
            };
            if rows.is_empty() {
                return Err(kit::invalid("Rows is a required parameter"));
            }
            let name = act.params.text("name").to_owned();
            let (task, made) = cx
                .write(|tx| {
                    let mut made = Vec::new();
                    for own in &rows {
                        made.push(recover(tx, table, own, &name)?);
                    }
                    let task = kit::begin_task(
                        tx,
                        "Recover from a cloud snapshot",
                        "recover",
                        &format!("{table}/{}", rows[0]),
                    )?;
                    kit::end_task(tx, &task, None)?;
                    Ok((task, made))
                })
                .await?;
            Ok(kit::reply(answer(Some(json!({"keys": made})), Some(&task))))
        })
    }
}

/// Keeps the files of the VMs that a snapshot holds, one after the other.
async fn keep_files(cx: &Cx, own: &str) {
    for part in cx.db.children("cloud_snapshot_vms", "cloud_snapshot", own) {
        let machine = cx
            .db
            .get("vms", &part.int("original_key").to_string())
            .and_then(|vm| vm.reference("machine"));
        let Some(machine) = machine else { continue };
        match instances::keep(cx, &machine).await {
            Ok(Some(image)) => {
                let told = cx.write(|tx| {
                    tx.set(
                        "cloud_snapshot_vms",
                        &part.key(),
                        Row::new().with(instances::IMAGE, image),
                    )
                });
                if let Err(e) = told.await {
                    tracing::warn!(error = %e, "what a cloud snapshot keeps is not recorded");
                }
            }
            Ok(None) => {}
            Err(e) => tracing::warn!(vm = part.text("name"), error = %e, "its files were not kept"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_snapshot_of_a_period() {
        // 2026-01-01 00:00 UTC, a Thursday.
        const NEW_YEAR: i64 = 1_767_225_600;
        let next = |period: Value, after| next_period(&cells(period), after);
        assert_eq!(
            next(json!({"frequency": "hourly", "minute": 30}), NEW_YEAR),
            Some(NEW_YEAR + 1800)
        );
        assert_eq!(
            next(json!({"frequency": "daily", "hour": 2}), NEW_YEAR + 7200),
            Some(NEW_YEAR + 86_400 + 7200)
        );
        assert_eq!(
            next(
                json!({"frequency": "weekly", "day_of_week": "sun", "hour": 3}),
                NEW_YEAR
            ),
            Some(NEW_YEAR + 3 * 86_400 + 10_800)
        );
        assert_eq!(
            next(
                json!({"frequency": "monthly", "day_of_month": 31}),
                NEW_YEAR
            ),
            Some(NEW_YEAR + 30 * 86_400)
        );
        assert_eq!(
            next(
                json!({"frequency": "yearly", "month": 3, "day_of_month": 1}),
                NEW_YEAR
            ),
            Some(NEW_YEAR + 59 * 86_400)
        );
    }
}
