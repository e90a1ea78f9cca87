mod model;

use std::collections::BTreeSet;

use super::schema::schema;
use super::*;

#[test]
fn everything_described_is_mounted() {
    router().check(ops::CATALOG, "").unwrap();
}

/// An action is done by a behaviour or stands in the list; never both, never neither.
#[test]
fn every_action_is_done_or_refused() {
    let behaviours = behaviour::all();
    let mut claimed = BTreeSet::new();
    for behaviour in &behaviours {
        for (table, action) in behaviour.actions() {
            assert!(
                claimed.insert(format!("{table}.{action}")),
                "{table}.{action} is done twice"
            );
        }
        claimed.extend(
            behaviour
                .computed()
                .iter()
                .map(|table| format!("list.{table}")),
        );
    }
    let mut described = BTreeSet::new();
    for table in schema().tables() {
        described.extend(table.actions.iter().map(|a| format!("{}.{a}", table.name)));
        if table.computed {
            described.insert(format!("list.{}", table.name));
        }
    }
    for table in schema().action_tables() {
        described.extend(table.actions.iter().map(|a| format!("{}.{a}", table.name)));
    }
    let refused: BTreeSet<String> = NOT_IMPLEMENTED
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
        .map(str::to_owned)
        .collect();
    let missing: Vec<_> = described
        .difference(&claimed)
        .filter(|a| !refused.contains(*a))
        .collect();
    assert!(
        missing.is_empty(),
        "neither done nor in not_implemented.txt: {missing:?}"
    );
    let both: Vec<_> = refused.intersection(&claimed).collect();
    assert!(
        both.is_empty(),
        "done, so strike them out of not_implemented.txt: {both:?}"
    );
    let unknown: Vec<_> = refused
        .union(&claimed)
        .filter(|a| !described.contains(*a))
        .collect();
    assert!(unknown.is_empty(), "not in vergeos-schema.txt: {unknown:?}");
}
