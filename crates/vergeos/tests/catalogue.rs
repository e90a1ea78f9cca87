//! The table of members and the row types against the tables they come from.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use boxrig_vergeos::member::members;

fn table(text: &str) -> Vec<BTreeMap<&str, &str>> {
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap().split('\t').collect();
    lines
        .map(|l| head.iter().copied().zip(l.split('\t')).collect())
        .collect()
}

/// Members that are not carried out, with the reason; the list may only get shorter.
const EXCEPTIONS: &[(&str, &str)] = &[
    (
        "BillingRecord.get_tier_stats",
        "a view of columns that the row's getters have",
    ),
    (
        "ClusterStatus.can_lose_one_node",
        "an estimate of the SDK's own",
    ),
    (
        "NetworkDashboard.get_health_summary",
        "a view of columns that the row's getters have",
    ),
    (
        "SiteSyncQueueItem.get_stats",
        "a view of columns that the row's getters have",
    ),
    (
        "TagCategory.get_taggable_types",
        "a view of columns that the row's getters have",
    ),
    (
        "UpdateDashboard.get_branches",
        "a view of columns that the row's getters have",
    ),
    (
        "UpdateDashboard.get_logs",
        "a view of columns that the row's getters have",
    ),
    (
        "UpdateDashboard.get_packages",
        "a view of columns that the row's getters have",
    ),
    (
        "UpdateDashboard.get_settings",
        "a view of columns that the row's getters have",
    ),
];

#[test]
fn every_member_of_the_resources_table_is_carried_out() {
    let ours: BTreeMap<String, bool> = members()
        .map(|m| {
            (
                m.id(),
                !m.requests().is_empty() || !m.operations().is_empty(),
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
fn every_column_of_the_fields_table_has_a_getter() {
    let ours = getters();
    let rows = table(include_str!("../../../api/vergeos-fields.tsv"));
    assert_eq!(rows.len(), 2720);
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for row in &rows {
        let name = row["property"].to_ascii_lowercase();
        // What is no name is reached by its text, `record().get("machine#status")`, as in the SDK.
        let by_text = !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let have = ours.contains(&(row["resource"].to_owned(), name.clone()));
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
}
