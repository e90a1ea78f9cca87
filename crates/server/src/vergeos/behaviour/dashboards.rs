//! Dashboards: counters made of the tables when they are asked for.

use boxrig_wire::ApiError;
use serde_json::{Value, json};

use super::Behaviour;
use super::kit;
use crate::vergeos::db::Read;
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;

/// See the module.
pub(super) struct Dashboards;

/// How many rows the lists of a dashboard show.
const SHOWN: usize = 10;

/// Count, online, with warnings, with errors.
#[derive(Default)]
struct Count {
    all: usize,
    online: usize,
    warn: usize,
    error: usize,
}

impl Count {
    fn add(&mut self, state: &str) {
        self.all += 1;
        match state {
            "online" if kit::mutated("dashboard_counts") => {}
            "online" => self.online += 1,
            "warning" => self.warn += 1,
            "error" => self.error += 1,
            _ => {}
        }
    }
    fn put(&self, row: &mut Row, name: &str) {
        for (end, n) in [
            ("count", self.all),
            ("online", self.online),
            ("warn", self.warn),
            ("error", self.error),
        ] {
            row.set(&format!("{name}_{end}"), n);
        }
    }
}

/// The state of what stands behind a row's machine.
fn machine_state(cx: &Cx, row: &Row) -> String {
    let status = row
        .reference("machine")
        .and_then(|m| kit::satellite(&cx.db, "machine_status", "machine", &m));
    status.map_or_else(|| "offline".to_owned(), |s| s.text("state").to_owned())
}

fn of_machines(cx: &Cx, table: &str, is: impl Fn(&Row) -> bool) -> Count {
    let mut count = Count::default();
    for row in cx.db.all(table).iter().filter(|r| is(r)) {
        count.add(&machine_state(cx, row));
    }
    count
}

fn of_satellites(
    cx: &Cx,
    table: &str,
    satellite: &str,
    column: &str,
    is: impl Fn(&Row) -> bool,
) -> Count {
    let mut count = Count::default();
    for row in cx.db.all(table).iter().filter(|r| is(r)) {
        let status = kit::satellite(&cx.db, satellite, column, &row.key());
        count.add(status.as_ref().map_or("offline", |s| s.text("state")));
    }
    count
}

fn not_snapshot(row: &Row) -> bool {
    !row.flag("is_snapshot")
}

/// A row with the columns that anybody may see.
fn whole(cx: &Cx, table: &str, row: &Row) -> Value {
    let described = cx.db.schema().table(table);
    let shown = |name: &str| {
        name == "$key"
            || described
                .and_then(|t| t.column(name))
                .is_some_and(|c| c.kind.is_shown())
    };
    Value::Object(
        row.0
            .iter()
            .filter(|(name, _)| shown(name))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect(),
    )
}

fn newest(cx: &Cx, table: &str, is: impl Fn(&Row) -> bool) -> Vec<Value> {
    let mut rows: Vec<_> = cx.db.all(table).into_iter().filter(|r| is(r)).collect();
    rows.sort_by_key(|r| std::cmp::Reverse(r.int("timestamp")));
    rows.iter()
        .take(SHOWN)
        .map(|r| whole(cx, table, r))
        .collect()
}

fn running(
    cx: &Cx,
    table: &str,
    is: impl Fn(&Row) -> bool,
    show: impl Fn(&Row, &Row) -> Value,
) -> Vec<Value> {
    let mut shown = Vec::new();
    for row in cx.db.all(table).iter().filter(|r| is(r)) {
        let Some(machine) = row.reference("machine") else {
            continue;
        };
        if machine_state(cx, row) == "online"
            && let Some(stats) = kit::satellite(&cx.db, "machine_stats", "machine", &machine)
        {
            shown.push(show(row, &stats));
        }
    }
    shown.truncate(SHOWN);
    shown
}

fn system(cx: &Cx) -> Row {
    let mut row = Row::new().with("$key", 1);
    let vms = of_machines(cx, "vms", not_snapshot);
    vms.put(&mut row, "machines");
    of_satellites(cx, "tenants", "tenant_status", "tenant", not_snapshot).put(&mut row, "tenants");
    of_machines(cx, "vnets", |_| true).put(&mut row, "vnets");
    of_machines(cx, "nodes", |_| true).put(&mut row, "nodes");
    of_satellites(cx, "clusters", "cluster_status", "cluster", |_| true).put(&mut row, "clusters");
    of_satellites(cx, "cluster_tiers", "cluster_tier_status", "tier", |_| true)
        .put(&mut row, "cluster_tiers");
    let users = cx.db.all("users");
    row.set("storage_tiers_count", cx.db.len("storage_tiers"));
    row.set("users_count", users.len());
    row.set(
        "users_online",
        users
            .iter()
            .filter(|u| u.get("enabled") != &Value::Bool(false))
            .count(),
    );
    row.set("groups_count", cx.db.len("groups"));
    let mut sites = Count::default();
    cx.db.all("sites").iter().for_each(|s| {
        sites.add(if s.text("status") == "error" {
            "error"
        } else {
            "online"
        })
    });
    sites.put(&mut row, "sites");
    of_satellites(
        cx,
        "catalog_repositories",
        "catalog_repository_status",
        "repository",
        |_| true,
    )
    .put(&mut row, "repos");
    let alarms = cx.db.all("alarms");
    let level = |name: &str| alarms.iter().filter(|a| a.text("level") == name).count();
    row.set("alarms_count", alarms.len());
    row.set("alarms_warning", level("warning"));
    row.set("alarms_warn", level("warning"));
    row.set("alarms_error", level("error") + level("critical"));
    row.set(
        "resource_instance_count",
        json!({"instances_total": cx.db.len("machine_devices")}),
    );
    row.set("logs", newest(cx, "logs", |_| true));
    row
}

fn tenants(cx: &Cx) -> Row {
    let mut row = Row::new().with("$key", 1);
    of_satellites(cx, "tenants", "tenant_status", "tenant", not_snapshot).put(&mut row, "tenants");
    of_machines(cx, "tenant_nodes", |_| true).put(&mut row, "nodes");
    of_satellites(
        cx,
        "tenant_recipes",
        "tenant_recipe_status",
        "recipe",
        |_| true,
    )
    .put(&mut row, "tenant_recipes");
    Count::default().put(&mut row, "devices");
    row.set("storage_count", cx.db.len("tenant_storage"));
    row.set("snapshots_count", cx.db.len("tenant_snapshots"));
    row.set("cloud_snapshots_count", cx.db.len("cloud_snapshots"));
    let nodes = |show: &dyn Fn(&Row, &Row) -> Value| running(cx, "tenant_nodes", |_| true, show);
    row.set("running_tenants_cores", nodes(&|n, _| json!({"$key": n.get("tenant"), "cores": n.int("cpu_cores"), "name": n.text("name")})));
    row.set("running_nodes_cpu", nodes(&|n, s| json!({"$key": n.get("$key"), "name": n.text("name"), "total_cpu": s.int("total_cpu")})));
    row.set("running_nodes_ram", nodes(&|n, s| json!({"$key": n.get("$key"), "name": n.text("name"), "ram_used": s.int("ram_used")})));
    row.set("running_nodes_nic", Value::Array(Vec::new()));
    let storage: Vec<Value> = cx.db.all("tenant_storage").iter().take(SHOWN).map(|s| json!({"tenant": s.get("tenant"), "tier": s.get("tier"), "used": s.int("used"), "provisioned": s.int("provisioned")})).collect();
    row.set("tenant_storage", storage);
    row.set("tenant_snapshots", cx.db.all("tenant_snapshots").iter().take(SHOWN).map(|s| json!({"$key": s.get("$key"), "name": s.text("name"), "tenant": s.get("tenant")})).collect::<Vec<_>>());
    row.set("logs", newest(cx, "tenant_logs", |_| true));
    row
}

fn networks(cx: &Cx) -> Row {
    let mut row = Row::new().with("$key", 1);
    of_machines(cx, "vnets", |_| true).put(&mut row, "vnets");
    for (kind, name) in [
        ("external", "ext"),
        ("internal", "int"),
        ("tenant", "ten"),
        ("vpn", "vpn"),
    ] {
        of_machines(cx, "vnets", |v| v.text("type") == kind).put(&mut row, name);
        if name != "vpn" {
            let shown = running(
                cx,
                "vnets",
                |v| v.text("type") == kind,
                |v, s| json!({"$key": v.get("$key"), "name": v.text("name"), "total_cpu": s.int("total_cpu"), "ram_used": s.int("ram_used")}),
            );
            row.set(
                &format!(
                    "running_{}_vnets",
                    if name == "ten" { "tenant" } else { name }
                ),
                shown,
            );
        }
    }
    of_satellites(
        cx,
        "machine_nics",
        "machine_nic_status",
        "parent_nic",
        |n| n.reference("vnet").is_some(),
    )
    .put(&mut row, "nics");
    row.set("wireguards_count", cx.db.len("vnet_wireguards"));
    let mut rates: Vec<_> = cx.db.all("machine_nic_stats");
    rates.sort_by_key(|s| std::cmp::Reverse(s.int("totalxbps")));
    row.set(
        "nics_rate",
        rates
            .iter()
            .take(SHOWN)
            .map(|s| json!({"parent_nic": s.get("parent_nic"), "totalxbps": s.int("totalxbps")}))
            .collect::<Vec<_>>(),
    );
    row.set(
        "logs",
        newest(cx, "logs", |l| l.text("object_type") == "vnet"),
    );
    row
}

fn updates(cx: &Cx) -> Row {
    let list = |table: &str| -> Vec<Value> {
        cx.db
            .all(table)
            .iter()
            .map(|r| whole(cx, table, r))
            .collect()
    };
    let settings = cx
        .db
        .all("update_settings")
        .first()
        .map(|s| whole(cx, "update_settings", s));
    let packages = cx.db.all("update_source_packages");
    let loaded = packages.iter().filter(|p| p.flag("downloaded")).count();
    Row::new()
        .with("$key", 1)
        .with("node_count", cx.db.len("nodes"))
        .with("counts", json!({"packages": packages.len(), "downloaded": loaded, "pending": packages.len() - loaded}))
        .with("settings", settings)
        .with("packages", list("update_packages"))
        .with("branches", list("update_branches"))
        .with("sources", list("update_sources"))
        .with("logs", newest(cx, "update_logs", |_| true))
}

impl Behaviour for Dashboards {
    fn computed(&self) -> &'static [&'static str] {
        &[
            "dashboard",
            "tenant_dashboard",
            "vnet_dashboard",
            "update_dashboard",
        ]
    }

    fn rows(&self, cx: &Cx, table: &str) -> Result<Vec<Row>, ApiError> {
        Ok(vec![match table {
            "dashboard" => system(cx),
            "tenant_dashboard" => tenants(cx),
            "vnet_dashboard" => networks(cx),
            _ => updates(cx),
        }])
    }
}
