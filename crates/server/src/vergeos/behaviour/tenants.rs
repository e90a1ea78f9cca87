//! Tenants: networks and nodes of their own, power, isolation, clones, snapshots, storage.

use boxrig_vergeos::Written;
use boxrig_wire::{ApiError, BoxFuture};
use serde_json::{Value, json};

use super::kit::{self, Done, answer, cells, conflict, default, key};
use super::vms::{arm_expiry, copied};
use super::{Act, Behaviour, power as machine_power};
use crate::vergeos::db::Read;
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;
use crate::vergeos::tenancy;
use crate::vergeos::tx::Tx;

/// See the module.
pub(super) struct Tenants;

/// Cells of a tenant that a copy does not take over.
const OWN: &[&str] = &[
    "$key",
    "name",
    "vnet",
    "ui_address",
    "uuid",
    "created",
    "modified",
    "is_snapshot",
    "creator",
    tenancy::SYSTEM,
    tenancy::LISTENER,
    tenancy::BEFORE,
    tenancy::GIVEN,
];
/// The cell of a snapshot that holds what it keeps.
const KEPT: &str = "$kept";

fn is_running(db: &dyn Read, tenant: &str) -> bool {
    kit::satellite(db, "tenant_status", "tenant", tenant).is_some_and(|s| s.flag("running"))
}

fn tenant_log(tx: &mut Tx<'_>, tenant: &Row, level: &str, text: &str) -> Done {
    kit::own_log(tx, "tenant_logs", "tenant", &tenant.key(), level, text)?;
    kit::log(tx, level, "tenant", tenant.text("name"), text)
}

/// Starts or stops a tenant with its network and nodes.
pub(super) fn power(tx: &mut Tx<'_>, tenant: &Row, on: bool) -> Result<String, ApiError> {
    let own = tenant.key();
    if tenant.flag("is_snapshot") {
        return Err(conflict("A snapshot of a tenant has no power"));
    }
    if is_running(&*tx, &own) == on {
        let state = if on { "already running" } else { "not running" };
        return Err(conflict(format!(
            "Tenant '{}' is {state}",
            tenant.text("name")
        )));
    }
    let (words, action, passing) = if on {
        ("Power on", "poweron", "starting")
    } else {
        ("Power off", "poweroff", "stopping")
    };
    kit::set_satellite(
        tx,
        "tenant_status",
        "tenant",
        &own,
        json!({"starting": on, "stopping": !on, "status": passing, "last_update": tx.now()}),
    )?;
    tenant_log(tx, tenant, "audit", &format!("{words} requested"))?;
    let task = kit::begin_task(
        tx,
        &format!("{words} '{}'", tenant.text("name")),
        action,
        &format!("tenants/{own}"),
    )?;
    let job = task.clone();
    tx.then(move |cx| async move {
        // Its own system is reached before it is told as running, and no longer before it is told as off.
        let done = match on {
            true => tenancy::up(&cx, &own).await.map(Some),
            false => tenancy::down(&cx, &own).await.map(|()| None),
        };
        let told = cx.write(|tx| match &done {
            Ok(addr) => {
                tenancy::show(tx, &own, *addr)?;
                settle(tx, &own, on, &job)
            }
            Err(e) => {
                let shown = json!({"starting": false, "stopping": false, "status": "error", "state": "error"});
                kit::set_satellite(tx, "tenant_status", "tenant", &own, shown)?;
                kit::end_task(tx, &job, Some(&e.message))
            }
        });
        if let Err(e) = told.await {
            tracing::warn!(tenant = own, error = %e, "the power of a tenant could not be told");
        }
    });
    Ok(task)
}

fn settle(tx: &mut Tx<'_>, tenant: &str, on: bool, task: &str) -> Done {
    let Some(row) = tx.get("tenants", tenant) else {
        return Ok(());
    };
    let shown = if on {
        json!({"running": true, "starting": false, "stopping": false, "status": "online", "state": "online", "started": tx.now()})
    } else {
        json!({"running": false, "starting": false, "stopping": false, "status": "offline", "state": "offline", "stopped": tx.now()})
    };
    kit::set_satellite(tx, "tenant_status", "tenant", tenant, shown)?;
    let nodes = tx.children("tenant_nodes", "tenant", tenant);
    let mut ram = 0;
    for node in &nodes {
        if let Some(machine) = node.reference("machine") {
            let host = tx
                .find("nodes", &|n| !n.flag("maintenance"))
                .map(|n| n.key());
            machine_power::show(
                tx,
                &machine,
                if on { "running" } else { "stopped" },
                host.as_deref(),
            )?;
            ram += node.int("ram");
        }
    }
    if let Some(vnet) = row.reference("vnet").and_then(|v| tx.get("vnets", &v))
        && let Some(machine) = vnet.reference("machine")
    {
        let host = tx
            .find("nodes", &|n| !n.flag("maintenance"))
            .map(|n| n.key());
        machine_power::show(
            tx,
            &machine,
            if on { "running" } else { "stopped" },
            host.as_deref(),
        )?;
    }
    kit::set_satellite(
        tx,
        "tenant_stats",
        "tenant",
        tenant,
        json!({"ram_used": if on { ram / 4 } else { 0 }, "last_update": tx.now()}),
    )?;
    tenant_log(
        tx,
        &row,
        "message",
        if on {
            "Power on finished"
        } else {
            "Power off finished"
        },
    )?;
    kit::end_task(tx, task, None)?;
    super::tasks::raise(
        tx,
        "tenants",
        tenant,
        if on { "poweron" } else { "poweroff" },
    )
}

/// A network's name that is free, made of a tenant's.
fn network_name(tx: &Tx<'_>, tenant: &str) -> String {
    let taken = |name: &str| tx.find("vnets", &|v| v.text("name") == name).is_some();
    let base = format!("tenant-{tenant}");
    if !taken(&base) {
        return base;
    }
    (2..)
        .map(|n| format!("{base}-{n}"))
        .find(|name| !taken(name))
        .unwrap_or(base)
}

/// Nodes and storage of a tenant as values, for a snapshot or a copy.
fn parts(db: &dyn Read, tenant: &str) -> Value {
    let of = |table: &str| -> Vec<Value> {
        let rows = db.children(table, "tenant", tenant);
        rows.iter()
            .map(|r| {
                Value::Object(copied(r, &["$key", "tenant", "machine", "created", "modified"]).0)
            })
            .collect()
    };
    json!({"tenant_nodes": of("tenant_nodes"), "tenant_storage": of("tenant_storage")})
}

fn put_parts(tx: &mut Tx<'_>, tenant: &str, parts: &Value, only: &[&str]) -> Done {
    for table in only {
        for part in parts
            .get(*table)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let mut row = cells(part.clone());
            row.set("tenant", key(tenant));
            tx.create(table, row)?;
        }
    }
    Ok(())
}

fn clone(tx: &mut Tx<'_>, tenant: &Row, params: &Row) -> Result<Row, ApiError> {
    let given = params.text("name").trim();
    let name = if given.is_empty() {
        format!("{} clone", tenant.text("name"))
    } else {
        given.to_owned()
    };
    let mut row = copied(tenant, OWN);
    row.set("name", name);
    let made = tx.create("tenants", row)?;
    let all = parts(&*tx, &tenant.key());
    if !params.flag("no_storage") {
        put_parts(tx, &made, &all, &["tenant_storage"])?;
    }
    if !params.flag("no_nodes") {
        put_parts(tx, &made, &all, &["tenant_nodes"])?;
    }
    let task = kit::begin_task(
        tx,
        &format!("Clone '{}'", tenant.text("name")),
        "clone",
        &format!("tenants/{made}"),
    )?;
    kit::end_task(tx, &task, None)?;
    tenant_log(tx, tenant, "message", "Cloned")?;
    Ok(answer(Some(json!({"tenantkey": made})), Some(&task)))
}

fn restore(tx: &mut Tx<'_>, tenant: &Row, snapshot: &str) -> Done {
    let own = tenant.key();
    if is_running(&*tx, &own) {
        return Err(conflict(format!(
            "Tenant '{}' must be powered off to be restored",
            tenant.text("name")
        )));
    }
    let row = kit::need(&*tx, "tenant_snapshots", snapshot)?;
    if row.reference("tenant").as_deref() != Some(own.as_str()) {
        return Err(kit::invalid("The snapshot is of another tenant"));
    }
    let kept = row.get(KEPT).clone();
    if kept.is_null() {
        return Err(conflict(
            "The snapshot holds nothing that could be restored",
        ));
    }
    if !kit::mutated("tenant_restore") {
        let cells_kept = cells(kept.get("cells").cloned().unwrap_or_default());
        tx.set("tenants", &own, cells_kept)?;
        for table in ["tenant_nodes", "tenant_storage"] {
            for part in tx.children(table, "tenant", &own) {
                tx.delete(table, &part.key())?;
            }
        }
        put_parts(tx, &own, &kept, &["tenant_nodes", "tenant_storage"])?;
    }
    tenant_log(
        tx,
        tenant,
        "message",
        &format!("Restored from '{}'", row.text("name")),
    )
}

impl Behaviour for Tenants {
    fn actions(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("tenant_actions", "poweron"),
            ("tenant_actions", "poweroff"),
            ("tenant_actions", "reset"),
            ("tenant_actions", "clone"),
            ("tenant_actions", "restore"),
            ("tenant_actions", "isolateon"),
            ("tenant_actions", "isolateoff"),
            ("tenant_actions", "give_file"),
        ]
    }

    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Done {
        match table {
            "tenants" => {
                default(row, "uuid", tx.ids().uuid().to_string());
                if !row.flag("is_snapshot") {
                    let name = network_name(tx, row.text("name"));
                    let vnet = tx.create(
                        "vnets",
                        cells(json!({"name": name, "type": "tenant", "layer2_type": "vxlan"})),
                    )?;
                    row.set("vnet", key(&vnet));
                }
            }
            "tenant_storage" => {
                let tenant = row.reference("tenant").unwrap_or_default();
                let tier = row.reference("tier");
                if tx
                    .children(table, "tenant", &tenant)
                    .iter()
                    .any(|s| s.reference("tier") == tier)
                {
                    return Err(conflict("row exists: the tenant has storage of this tier"));
                }
                row.set("last_update", tx.now());
            }
            "tenant_snapshots" => {
                let tenant = row.reference("tenant").unwrap_or_default();
                let name = row.text("name").to_owned();
                if tx
                    .children(table, "tenant", &tenant)
                    .iter()
                    .any(|s| s.text("name") == name)
                {
                    return Err(conflict(format!(
                        "row exists: there is a snapshot '{name}'"
                    )));
                }
                let of = kit::need(&*tx, "tenants", &tenant)?;
                let mut kept = parts(&*tx, &tenant);
                if let Some(map) = kept.as_object_mut() {
                    map.insert("cells".to_owned(), Value::Object(copied(&of, OWN).0));
                }
                row.set(KEPT, kept);
            }
            _ => {}
        }
        Ok(())
    }

    fn after_create(&self, tx: &mut Tx<'_>, table: &str, row: &Row, _: &mut Row) -> Done {
        let own = row.key();
        match table {
            "tenants" => {
                tx.insert("tenant_status", cells(json!({"tenant": key(&own), "status": "offline", "state": "offline",
                    "running": false, "starting": false, "stopping": false, "migrating": false, "last_update": tx.now()})))?;
                tx.insert(
                    "tenant_stats",
                    cells(json!({"tenant": key(&own), "ram_used": 0, "last_update": tx.now()})),
                )?;
                tenant_log(tx, row, "audit", "Tenant created")?;
            }
            "tenant_snapshots" => {
                arm_expiry(tx, table, &own, row.int("expires"))?;
                let tenant = row.reference("tenant").and_then(|t| tx.get("tenants", &t));
                if let Some(tenant) = tenant {
                    tenant_log(
                        tx,
                        &tenant,
                        "message",
                        &format!("Snapshot '{}' taken", row.text("name")),
                    )?;
                }
            }
            "vnet_addresses" => {
                // An address given to a tenant is the one its interface is reached at, if it has none yet.
                let owner = row
                    .text("owner")
                    .strip_prefix("tenants/")
                    .map(str::to_owned);
                if let Some(tenant) = owner.and_then(|t| tx.get("tenants", &t))
                    && tenant.reference("ui_address").is_none()
                    && row.text("type") == "virtual"
                {
                    tx.set(
                        "tenants",
                        &tenant.key(),
                        Row::new().with("ui_address", key(&own)),
                    )?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn before_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        if table == "tenants" && is_running(&*tx, &row.key()) {
            return Err(conflict(format!(
                "Tenant '{}' is running and cannot be deleted",
                row.text("name")
            )));
        }
        Ok(())
    }

    fn after_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        if table != "tenants" {
            return Ok(());
        }
        let own = format!("tenants/{}", row.key());
        for table in ["vnet_addresses", "vnet_cidrs"] {
            for given in tx.children(table, "owner", &own) {
                tx.delete(table, &given.key())?;
            }
        }
        if let Some(vnet) = row.reference("vnet").and_then(|v| tx.get("vnets", &v)) {
            if let Some(machine) = vnet.reference("machine") {
                machine_power::show(tx, &machine, "stopped", None)?;
            }
            tx.delete("vnets", &vnet.key())?;
        }
        let gone = row.clone();
        tx.then(move |cx| async move { tenancy::forget(&cx, &gone).await });
        kit::log(tx, "audit", "tenant", row.text("name"), "Tenant deleted")?;
        Ok(())
    }

    fn act<'a>(&'a self, cx: &'a Cx, act: Act) -> BoxFuture<'a, Result<Written, ApiError>> {
        Box::pin(async move {
            let row = act.target()?.clone();
            let own = row.key();
            let params = act.params.clone();
            let reply = match act.verb.as_str() {
                "poweron" | "poweroff" => {
                    let on = act.verb == "poweron";
                    let task = cx.write(|tx| power(tx, &row, on)).await?;
                    answer(None, Some(&task))
                }
                "reset" => {
                    let task = cx.write(|tx| {
                        if !is_running(&*tx, &own) {
                            return Err(conflict(format!(
                                "Tenant '{}' is not running",
                                row.text("name")
                            )));
                        }
                        let task = kit::begin_task(
                            tx,
                            &format!("Reset '{}'", row.text("name")),
                            "reset",
                            &format!("tenants/{own}"),
                        )?;
                        settle(tx, &own, true, &task)?;
                        Ok(task)
                    });
                    answer(None, Some(&task.await?))
                }
                "clone" => cx.write(|tx| clone(tx, &row, &params)).await?,
                "restore" => {
                    let snapshot = params
                        .reference("snapshot")
                        .ok_or_else(|| kit::invalid("Snapshot is a required parameter"))?;
                    cx.write(|tx| restore(tx, &row, &snapshot)).await?;
                    Row::new()
                }
                "isolateon" | "isolateoff" => {
                    let on = act.verb == "isolateon";
                    cx.write(|tx| {
                        tx.set("tenants", &own, Row::new().with("isolate", on))?;
                        tenant_log(
                            tx,
                            &row,
                            "audit",
                            if on {
                                "Isolation began"
                            } else {
                                "Isolation ended"
                            },
                        )
                    })
                    .await?;
                    Row::new()
                }
                _ => {
                    let file = params
                        .reference("file")
                        .ok_or_else(|| kit::invalid("File is a required parameter"))?;
                    let file = kit::need(&cx.db, "files", &file)?;
                    cx.write(|tx| {
                        // Kept with the tenant until its own system has it.
                        let mut given = tx
                            .row("tenants", &own)?
                            .get(tenancy::GIVEN)
                            .as_array()
                            .cloned()
                            .unwrap_or_default();
                        given.push(file.get("$key").clone());
                        tx.set("tenants", &own, Row::new().with(tenancy::GIVEN, given))?;
                        let words = format!("File '{}' was given", file.text("name"));
                        tenant_log(tx, &row, "message", &words)
                    })
                    .await?;
                    tenancy::give(cx, &own).await?;
                    Row::new()
                }
            };
            Ok(kit::reply(reply))
        })
    }

    fn start<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, ()> {
        Box::pin(tenancy::open_running(cx))
    }
}
