//! What the vendor's SDK gives of a row without asking for more: several columns as one document, an estimate.
//!
//! ```
//! use boxrig_vergeos::{RowType, rows::TagCategory};
//! let row = serde_json::json!({"$key": 1, "taggable_vms": true, "taggable_vnets": false, "taggable_nodes": true});
//! let category = TagCategory::from_map(row.as_object().unwrap().clone());
//! assert_eq!(category.get_taggable_types(), ["vms", "nodes"]);
//! ```

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::rows::{
    BillingRecord, ClusterStatus, NetworkDashboard, SiteSyncQueueItem, SiteSyncStats, TagCategory,
    UpdateDashboard,
};
use crate::{Record, Row, RowType};

/// The tables whose rows can carry tags; the column of a category is called after each.
const TAGGABLE: &[&str] = &[
    "vms",
    "vnets",
    "volumes",
    "vnet_rules",
    "vmware_containers",
    "users",
    "tenant_nodes",
    "sites",
    "nodes",
    "groups",
    "clusters",
    "tenants",
];

/// How many of a kind there are, and how they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Health {
    /// All of them.
    pub count: i64,
    /// Those that run.
    pub online: i64,
    /// Those with a warning.
    pub warning: i64,
    /// Those with an error.
    pub error: i64,
}

/// What a storage tier holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct TierUse {
    /// Bytes used.
    pub used: i64,
    /// Bytes in all.
    pub total: i64,
}

fn number(row: &Record, column: &str) -> i64 {
    row.int(column).unwrap_or(0)
}

fn rows_in(row: &Record, column: &str) -> Vec<Row> {
    let list = match row.json(column) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let rows = list.into_iter().filter_map(|row| match row {
        Value::Object(map) => Some(map),
        _ => None,
    });
    rows.collect()
}

impl TagCategory {
    /// The tables whose rows can carry the category's tags.
    pub fn get_taggable_types(&self) -> Vec<&'static str> {
        let set = |table: &&str| self.record().flag(&format!("taggable_{table}")) == Some(true);
        TAGGABLE.iter().copied().filter(set).collect()
    }
}

impl NetworkDashboard {
    /// How the networks of each kind are: `total`, `external`, `internal`, `tenant`, `vpn`.
    pub fn get_health_summary(&self) -> BTreeMap<&'static str, Health> {
        let kinds = [
            ("total", "vnets"),
            ("external", "ext"),
            ("internal", "int"),
            ("tenant", "ten"),
            ("vpn", "vpn"),
        ];
        let of = |what: &str, how: &str| number(self.record(), &format!("{what}_{how}"));
        let health = |what: &str| Health {
            count: of(what, "count"),
            online: of(what, "online"),
            warning: of(what, "warn"),
            error: of(what, "error"),
        };
        kinds.map(|(name, what)| (name, health(what))).into()
    }
}

impl UpdateDashboard {
    /// The settings of updates, by column.
    pub fn get_settings(&self) -> Row {
        match self.record().json("settings") {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }
    /// The packages, by column.
    pub fn get_packages(&self) -> Vec<Row> {
        rows_in(self.record(), "packages")
    }
    /// The branches, by column.
    pub fn get_branches(&self) -> Vec<Row> {
        rows_in(self.record(), "branches")
    }
    /// The newest lines of the log, by column.
    pub fn get_logs(&self) -> Vec<Row> {
        rows_in(self.record(), "logs")
    }
}

impl BillingRecord {
    /// What a tier, 0 to 5, held; `None` for others.
    pub fn get_tier_stats(&self, tier: u8) -> Option<TierUse> {
        let of = |what: &str| number(self.record(), &format!("tier_{tier}_{what}"));
        (tier <= 5).then(|| TierUse {
            used: of("used"),
            total: of("total"),
        })
    }
}

impl SiteSyncQueueItem {
    /// The statistics that came with the row.
    pub fn get_stats(&self) -> Option<SiteSyncStats> {
        match self.record().json("stats") {
            Some(Value::Object(map)) => Some(SiteSyncStats::from_map(map)),
            _ => None,
        }
    }
}

impl ClusterStatus {
    /// Whether what runs would fit on one node less, if the nodes are alike. With unlike nodes it errs towards yes: look at the
    /// nodes themselves before maintenance.
    pub fn can_lose_one_node(&self) -> bool {
        let row = self.record();
        let nodes = number(row, "online_nodes");
        let fits = |online: &str, used: &str| {
            let (online, used) = (number(row, online), number(row, used));
            online.saturating_mul(nodes - 1) >= used.saturating_mul(nodes)
        };
        nodes >= 2 && fits("online_ram", "used_ram") && fits("online_cores", "used_cores")
    }
}

/// A view by the names of its class and member, for tools.
pub(crate) fn of(class: &str, member: &str, args: &Map<String, Value>, row: Row) -> Option<Value> {
    Some(match (class, member) {
        ("TagCategory", "get_taggable_types") => {
            json!(TagCategory::from_map(row).get_taggable_types())
        }
        ("NetworkDashboard", "get_health_summary") => {
            json!(NetworkDashboard::from_map(row).get_health_summary())
        }
        ("UpdateDashboard", "get_settings") => json!(UpdateDashboard::from_map(row).get_settings()),
        ("UpdateDashboard", "get_packages") => json!(UpdateDashboard::from_map(row).get_packages()),
        ("UpdateDashboard", "get_branches") => json!(UpdateDashboard::from_map(row).get_branches()),
        ("UpdateDashboard", "get_logs") => json!(UpdateDashboard::from_map(row).get_logs()),
        ("BillingRecord", "get_tier_stats") => {
            let tier = args.get("tier").and_then(Value::as_u64);
            let tier = u8::try_from(tier.unwrap_or(0)).unwrap_or(u8::MAX);
            json!(BillingRecord::from_map(row).get_tier_stats(tier)?)
        }
        ("SiteSyncQueueItem", "get_stats") => json!(SiteSyncQueueItem::from_map(row).get_stats()),
        ("ClusterStatus", "can_lose_one_node") => {
            json!(ClusterStatus::from_map(row).can_lose_one_node())
        }
        _ => return None,
    })
}

/// The members that are views.
pub(crate) fn is_one(class: &str, member: &str) -> bool {
    let args = Map::from_iter([("tier".to_owned(), 0.into())]);
    of(class, member, &args, Row::new()).is_some()
}
