//! Every name of the vendors' SDK documents, tied to what boxrig offers for it and to a test.
//!
//! `api/seed-surface.tsv` lists the names, `api/seed-ties.tsv` ties them: `id`, item, test. An item
//! is a path in our API (`boxrig_fastvm::Vm::name`: a type, field, variant, function or constant).
//! That it exists is checked by rustdoc, the only stable tool that resolves such a path whatever
//! it is: the ties are written as links into a table (`docs/fastvm-surface.md`), the table is the
//! documentation of a module here, and `cargo doc` with warnings denied fails on a dead link.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::tests_named::Tests;
use crate::{Result, root, shell};

/// The platforms whose rows must all be tied.
const DONE: &[&str] = &["fastvm", "incus", "convox", "vergeos"];

#[doc = include_str!("../../docs/fastvm-surface.md")]
#[allow(dead_code, reason = "only its documentation is of use")]
mod fastvm_surface {}

#[doc = include_str!("../../docs/incus-surface.md")]
#[allow(dead_code, reason = "only its documentation is of use")]
mod incus_surface {}
#[doc = include_str!("../../docs/convox-surface.md")]
#[allow(dead_code, reason = "only its documentation is of use")]
mod convox_surface {}
#[doc = include_str!("../../docs/vergeos-surface.md")]
#[allow(dead_code, reason = "only its documentation is of use")]
mod vergeos_surface {}

/// A row of the surface with its tie.
struct Row {
    id: String,
    kind: String,
    name: String,
    item: String,
    test: String,
}

/// Reads both tables; gives the rows of a platform and what is wrong with the ties.
fn rows(platform: &str) -> Result<(Vec<Row>, Vec<String>)> {
    let surface = fs::read_to_string(root().join("api/seed-surface.tsv"))?;
    let text = fs::read_to_string(root().join("api/seed-ties.tsv"))?;
    let (mut ties, mut problems) = (BTreeMap::new(), Vec::new());
    for line in text.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [id, item, test] = columns[..] else {
            return Err(format!("seed-ties.tsv: not three columns: {line:?}").into());
        };
        if ties.insert(id, (item, test)).is_some() {
            problems.push(format!("{id}: tied twice"));
        }
    }
    let mut rows = Vec::new();
    for line in surface.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [id, of, kind, name, ..] = columns[..] else {
            return Err(format!("seed-surface.tsv: too few columns: {line:?}").into());
        };
        if of != platform {
            continue;
        }
        match ties.remove(id) {
            Some((item, test)) => rows.push(Row {
                id: id.to_owned(),
                kind: kind.to_owned(),
                name: name.to_owned(),
                item: item.to_owned(),
                test: test.to_owned(),
            }),
            None => problems.push(format!("{id} ({kind} {name}): not tied")),
        }
    }
    let platforms: Vec<&str> = surface
        .lines()
        .skip(1)
        .filter_map(|l| l.split('\t').nth(1))
        .collect();
    if !platforms.contains(&platform) {
        problems.push(format!("seed-surface.tsv has no platform {platform}"));
    }
    let unknown = ties
        .keys()
        .filter(|id| !surface.contains(&format!("\n{id}\t")));
    problems.extend(unknown.map(|id| format!("{id}: tied, but not in seed-surface.tsv")));
    Ok((rows, problems))
}

/// The table with links, as checked in.
fn table(platform: &str, rows: &[Row]) -> Result<String> {
    let name = match platform {
        "fastvm" => "FastVM",
        "incus" => "Incus",
        "convox" => "Convox",
        "vergeos" => "VergeOS",
        other => other,
    };
    let mut text = format!(
        "# The vendor's {name} SDK document and boxrig\n\n\
         Written by `cargo xtask coverage --write` from `api/seed-ties.tsv`: every name, parameter, default,\n\
         exception, variable and example of the Python SDK's reference, what boxrig has for it, and the test\n\
         that exercises it.\n\n\
         | id | kind | SDK document | boxrig | test |\n| --- | --- | --- | --- | --- |\n",
    );
    for Row {
        id,
        kind,
        name,
        item,
        test,
    } in rows
    {
        let name = name.replace('|', "\\|");
        writeln!(text, "| {id} | {kind} | `{name}` | [`{item}`] | `{test}` |")?;
    }
    Ok(text)
}

/// Writes the table.
pub(crate) fn write() -> Result<()> {
    for platform in DONE {
        let (rows, _) = rows(platform)?;
        fs::write(
            root().join(format!("docs/{platform}-surface.md")),
            table(platform, &rows)?,
        )?;
    }
    Ok(())
}

/// Checks that every row is tied, to an item and a test that are there.
pub(crate) fn check() -> Result<Vec<String>> {
    let (mut problems, mut tests) = (Vec::new(), Tests::default());
    for platform in DONE {
        let (rows, found) = rows(platform)?;
        problems.extend(found);
        for row in &rows {
            problems.extend(tests.problem(&row.test).map(|p| format!("{}: {p}", row.id)));
        }
        let file = format!("docs/{platform}-surface.md");
        if fs::read_to_string(root().join(&file)).unwrap_or_default() != table(platform, &rows)? {
            problems.push(format!("{file} is stale: cargo xtask coverage --write"));
        }
        println!("seed surface {platform}: {} rows tied", rows.len());
    }
    // The items: links of the documentation above.
    let mut doc = Command::new(env!("CARGO"));
    doc.args([
        "doc",
        "--quiet",
        "--package=xtask",
        "--no-deps",
        "--document-private-items",
    ])
    .env("RUSTDOCFLAGS", "-D rustdoc::broken_intra_doc_links")
    .current_dir(root());
    if let Err(e) = shell::run(&mut doc) {
        problems.push(format!("an item of seed-ties.tsv does not exist: {e}"));
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use boxrig_fastvm as fastvm;

    use super::DONE;

    /// Every value of an enum in the vendor's document is one that our types know by name.
    #[test]
    fn every_word_of_an_enum_is_known() {
        let known: &[(&str, &[&str])] = &[
            ("VMStatus", fastvm::VmStatus::KNOWN),
            ("SnapshotStatus", fastvm::SnapshotStatus::KNOWN),
            ("PolicyAction", fastvm::PolicyAction::KNOWN),
            ("IngressRuleKind", fastvm::IngressRuleKind::KNOWN),
            ("EgressRuleKind", fastvm::EgressRuleKind::KNOWN),
            ("DNSMode", fastvm::DnsMode::KNOWN),
            ("IngressRule.protocol", fastvm::FirewallProtocol::KNOWN),
            ("EgressRule.protocol", fastvm::FirewallProtocol::KNOWN),
            (
                "SnapshotImportSourceSpec.type",
                fastvm::ImportSourceKind::KNOWN,
            ),
            (
                "SnapshotImportSourceView.type",
                fastvm::ImportSourceKind::KNOWN,
            ),
            ("SnapshotImportEvent.phase", fastvm::ImportPhase::KNOWN),
            (
                "SnapshotImportEvent.status",
                fastvm::ImportEventStatus::KNOWN,
            ),
            ("SnapshotImportResponse.status", fastvm::ImportStatus::KNOWN),
            ("Volume.status", fastvm::VolumeStatus::KNOWN),
            ("Volume.access_mode", fastvm::AccessMode::KNOWN),
            (
                "VolumeAttachmentItem.mount_status",
                fastvm::MountStatus::KNOWN,
            ),
            ("BucketMount.mount_status", fastvm::MountStatus::KNOWN),
            ("DetachWarning.type", fastvm::DetachWarningKind::KNOWN),
        ];
        let text = std::fs::read_to_string(crate::root().join("api/seed-surface.tsv")).unwrap();
        let mut checked = 0;
        for line in text
            .lines()
            .filter(|line| line.contains("\tfastvm\tenum-value\t"))
        {
            let name = line.split('\t').nth(3).unwrap();
            let (of, word) = name.rsplit_once('.').unwrap();
            if matches!(of, "MachineType" | "ExecEvent.t") {
                continue; // an open set of sizes; the tag of a typed enum
            }
            let words = known
                .iter()
                .find(|(name, _)| *name == of)
                .unwrap_or_else(|| panic!("{of}"));
            assert!(words.1.contains(&word), "{name}");
            checked += 1;
        }
        assert_eq!(checked, 61);
    }

    #[test]
    fn machine_types_are_read() {
        for (text, cpus, gib) in [("c1m2", 1, 2), ("c2m4", 2, 4)] {
            let machine: fastvm::MachineType =
                serde_json::from_value(serde_json::json!(text)).unwrap();
            assert_eq!(
                (machine.cpus(), machine.memory_gib()),
                (Some(cpus), Some(gib)),
                "{text}"
            );
        }
    }

    /// The part of the check that needs no documentation built.
    #[test]
    fn every_row_is_tied_to_a_test() {
        let mut tests = crate::tests_named::Tests::default();
        for platform in DONE {
            let (rows, mut problems) = super::rows(platform).unwrap();
            problems.extend(rows.iter().filter_map(|row| tests.problem(&row.test)));
            assert!(problems.is_empty(), "{}: {problems:#?}", problems.len());
        }
    }
}
