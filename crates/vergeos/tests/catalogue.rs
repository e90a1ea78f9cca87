//! The table of members and the row types against the tables they come from.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use boxrig_vergeos::member::members;
use serde_json::json;

fn table(text: &str) -> Vec<BTreeMap<&str, &str>> {
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap().split('\t').collect();
    lines
        .map(|l| head.iter().copied().zip(l.split('\t')).collect())
        .collect()
}

/// Members that are not carried out, with the reason; the list may only get shorter.
const EXCEPTIONS: &[(&str, &str)] = &[];

#[test]
fn every_member_of_the_resources_table_is_carried_out() {
    let ours: BTreeMap<String, bool> = members()
        .map(|m| {
            (
                m.id(),
                !m.requests().is_empty() || !m.operations().is_empty() || m.is_view(),
            )
        })
        .fold(BTreeMap::new(), |mut all, (id, does)| {
            *all.entry(id).or_default() |= does;
            all
        });
    let rows = table(include_str!("../../../api/vergeos-resources.tsv"));
    assert_eq!(rows.len(), 1706);
    let mut missing = BTreeSet::new();
    for row in &rows {
        let id = format!("{}.{}", row["class"], row["member"]);
        // Those without a public path are abstract; those that give a manager are ways, not calls; keys are known.
        let abstract_ = !row["accessor"].contains("client");
        let known = row["kind"] == "property" || row["returns"].ends_with("Manager");
        if !abstract_ && !known && !ours.get(&id).copied().unwrap_or(false) {
            missing.insert(id);
        }
    }
    let allowed: BTreeSet<String> = EXCEPTIONS.iter().map(|(id, _)| (*id).to_owned()).collect();
    assert_eq!(missing, allowed);
    assert!(allowed.len() <= 20);
}

/// Computed fields without a getter of their own, with where they are.
const COMPUTED_ELSEWHERE: &[(&str, &str)] = &[
    ("AuthSourceState.key", "the row's key"),
    ("NASCIFSShare.key", "the row's key"),
    ("NASNFSShare.key", "the row's key"),
    ("NASVolumeSync.key", "the row's key"),
    ("UpdatePackage.key", "the row's key"),
    (
        "CloudSnapshot.tenants",
        "asked for: `cloud_snapshots().of(&row).get_tenants()`",
    ),
    (
        "CloudSnapshot.vms",
        "asked for: `cloud_snapshots().of(&row).get_vms()`",
    ),
    (
        "SnapshotProfile.periods",
        "asked for: `snapshot_profiles().of(&row).periods()`",
    ),
    (
        "TagCategory.tags",
        "asked for: `tags().list().category_key(&row)`",
    ),
    (
        "Tenant.shared_objects",
        "asked for: `shared_objects().list().tenant_key(&row)`",
    ),
    (
        "DNSZone.view_name",
        "known to who asked for the zone below its view",
    ),
    (
        "SystemInventory.summary",
        "sums over the tables of `system().inventory()`",
    ),
    ("VSANStatus.tiers", "a document of the column `tiers`"),
];

/// Getters, by class and property, as the generated rows have them.
fn getters() -> BTreeSet<(String, String)> {
    let files = [
        include_str!("../src/generated/rows/a_c.rs"),
        include_str!("../src/generated/rows/d_m.rs"),
        include_str!("../src/generated/rows/n_r.rs"),
        include_str!("../src/generated/rows/s.rs"),
        include_str!("../src/generated/rows/t_z.rs"),
    ];
    let mut out = BTreeSet::new();
    for file in files {
        let mut class = String::new();
        for line in file.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("/// A row of `") {
                class = rest.split('`').nth(2).unwrap().to_owned();
            } else if line.ends_with("\";") {
                let name = line.split(' ').next().unwrap().trim_start_matches("r#");
                out.insert((class.clone(), name.to_owned()));
            }
        }
    }
    out
}

#[test]
fn every_field_of_the_fields_table_has_a_getter() {
    let ours = getters();
    let rows = table(include_str!("../../../api/vergeos-fields.tsv"));
    assert_eq!(rows.len(), 2720);
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut missing = BTreeSet::new();
    for row in &rows {
        let name = row["property"].to_ascii_lowercase();
        // What is no name is reached by its text, `record().get("machine#status")`, as in the SDK.
        let by_text = !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let have = ours.contains(&(row["resource"].to_owned(), name.clone()));
        if !have && row["kind"] == "computed" {
            missing.insert(format!("{}.{}", row["resource"], row["property"]));
        }
        let have = have || by_text || name == "key";
        let count = counts.entry(row["kind"]).or_default();
        count.0 += usize::from(have);
        count.1 += 1;
    }
    // What is read from the wire is there, all of it; accessors are methods of the row's handle.
    for kind in [
        "raw",
        "raw (item access)",
        "alias",
        "server-computed",
        "server-computed (item access)",
        "projected column",
    ] {
        let (have, all) = counts[kind];
        assert_eq!(have, all, "{kind}: {counts:?}");
    }
    let elsewhere = COMPUTED_ELSEWHERE.iter();
    let elsewhere: BTreeSet<String> = elsewhere.map(|(id, _)| (*id).to_owned()).collect();
    assert_eq!(missing, elsewhere);
    assert!(elsewhere.len() <= 20);
}

#[test]
fn what_is_computed_is_right() {
    let of = |class: &str, row: serde_json::Value| {
        let row = row.as_object().unwrap().clone();
        boxrig_vergeos::rows::computed_of(class, row).unwrap()
    };
    let hour_ago = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        - 3600;
    for (class, row, name, wanted) in [
        (
            "APIKey",
            json!({"expires": hour_ago}),
            "is_expired",
            json!(true),
        ),
        (
            "APIKey",
            json!({"expires": null}),
            "is_expired",
            json!(false),
        ),
        ("APIKey", json!({}), "is_expired", json!(null)),
        (
            "AuthSourceState",
            json!({"timestamp": hour_ago * 1_000_000}),
            "is_expired",
            json!(true),
        ),
        (
            "AuthSourceState",
            json!({"timestamp": (hour_ago + 3599) * 1_000_000}),
            "is_expired",
            json!(false),
        ),
        (
            "BillingRecord",
            json!({"used_cores": 1, "total_cores": 4}),
            "cpu_utilization_pct",
            json!(25.0),
        ),
        (
            "BillingRecord",
            json!({"used_cores": 1, "total_cores": 0}),
            "cpu_utilization_pct",
            json!(0.0),
        ),
        (
            "BillingRecord",
            json!({"tier_0_used": 1, "tier_5_used": 2}),
            "total_storage_used",
            json!(3),
        ),
        (
            "ClusterTier",
            json!({"capacity": 8, "used": 2}),
            "used_percent",
            json!(25.0),
        ),
        (
            "ClusterTier",
            json!({"capacity": 8, "used": 2, "used_pct": 7}),
            "used_percent",
            json!(7.0),
        ),
        (
            "ClusterTier",
            json!({"capacity": 1, "used": 2}),
            "free_bytes",
            json!(0),
        ),
        (
            "CloudSnapshot",
            json!({"expires": 0}),
            "never_expires",
            json!(true),
        ),
        (
            "Log",
            json!({"timestamp": 1_500_000}),
            "created_at",
            json!(1.5),
        ),
        (
            "Log",
            json!({"object_type": "vnet"}),
            "object_type_display",
            json!("Network"),
        ),
        (
            "Log",
            json!({"object_type": "news"}),
            "object_type_display",
            json!("news"),
        ),
        (
            "Log",
            json!({"level": "error"}),
            "level_display",
            json!("Error"),
        ),
        (
            "TagMember",
            json!({"member": "vms/39"}),
            "resource_key",
            json!(39),
        ),
        (
            "TagMember",
            json!({"member": "vms/39"}),
            "resource_type_display",
            json!("Virtual Machine"),
        ),
        (
            "GroupMember",
            json!({"member": "/v4/users/7"}),
            "member_type",
            json!("User"),
        ),
        (
            "GroupMember",
            json!({"member": "/v4/users/7"}),
            "member_key",
            json!(7),
        ),
        (
            "TenantNetworkBlock",
            json!({"cidr": "10.0.0.0/24"}),
            "address_count",
            json!(256),
        ),
        (
            "TenantNetworkBlock",
            json!({"cidr": "10.0.0.0/24"}),
            "network_address",
            json!("10.0.0.0"),
        ),
        (
            "OidcApplication",
            json!({"scope_profile": true, "scope_email": false}),
            "scopes",
            json!(["openid", "profile"]),
        ),
        (
            "Webhook",
            json!({"headers": "A: b\nC: d:e\n"}),
            "headers",
            json!({"A": "b", "C": "d:e"}),
        ),
        (
            "SnapshotProfilePeriod",
            json!({"retention": 90_000}),
            "retention_display",
            json!("1d 1h"),
        ),
        (
            "MachineNicStatus",
            json!({"speed": 25_000}),
            "speed_display",
            json!("25 Gbps"),
        ),
        (
            "StorageTier",
            json!({"dedupe_ratio": 200}),
            "dedupe_savings_percent",
            json!(50.0),
        ),
        (
            "SystemStatistics",
            json!({"vnets_count": {"$count": 5}}),
            "networks_total",
            json!(5),
        ),
        (
            "VMSnapshot",
            json!({"expires_type": "never", "expires": 9}),
            "never_expires",
            json!(true),
        ),
    ] {
        assert_eq!(
            of(class, row.clone())[name],
            wanted,
            "{class}.{name} of {row}"
        );
    }
}
