//! What is done of each platform's operations: made from the descriptions, the server's list of refusals and the recorded
//! tests.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use boxrig_wire::{Catalog, Error, Kind};
use clap::ArgMatches;
use serde_json::{Value, json};

use super::text;
use crate::cli::exit::Outcome;
use crate::cli::native::{self, convox::Convox, fastvm::Fastvm, incus::Incus};
use crate::cli::output::{self, Column, column};
use crate::cli::session::Session;

/// Tests that were seen to exercise an operation and read its effect back; kept by `cargo xtask coverage`.
const EXERCISED: &str = include_str!("../../../../../api/exercised.tsv");

/// Members of the VergeOS SDK with the test that was seen to call each on our server and look at what came of it; written by
/// `cargo xtask peers vergeos --write`.
const MEMBERS: &str = include_str!("../../../../../api/vergeos-exercised.tsv");

const COLUMNS: &[Column] = &[
    column("PLATFORM", "platform"),
    column("OPERATION", "operation"),
    column("METHOD", "method"),
    column("PATH", "path"),
    column("CLIENT", "client"),
    column("CLI", "cli").wide(),
    column("SERVER", "server"),
    column("EXERCISED", "exercised").wide(),
    column("NOTE", "note").wide(),
];

/// What is known of a platform besides its descriptions.
struct Platform {
    name: &'static str,
    catalog: Catalog,
    /// Typed calls, beyond the descriptions.
    client: bool,
    commands: BTreeMap<&'static str, String>,
    /// The operations that the server answers with 501; `None`: it does not serve the platform yet.
    refused: Option<BTreeSet<&'static str>>,
    /// What is said of a platform that the server does not serve yet.
    unserved: &'static str,
}

fn platforms() -> Vec<Platform> {
    let refused = |list: &'static str| {
        let ids = list.lines().filter_map(|line| line.split('#').next());
        ids.map(str::trim).filter(|id| !id.is_empty()).collect()
    };
    let later = |name, catalog| Platform {
        name,
        catalog,
        client: false,
        commands: BTreeMap::new(),
        refused: None,
        unserved: "described; client and server come in a later version",
    };
    let catalogs = [
        boxrig_convox::CATALOG,
        boxrig_convox::CONSOLE,
        boxrig_convox::CLASSIC,
    ];
    let convox = catalogs.map(|catalog| Platform {
        client: true,
        commands: native::commands::<Convox>("convox"),
        refused: Some(refused(boxrig_server::convox::NOT_IMPLEMENTED)),
        unserved: "",
        ..later("convox", catalog)
    });
    let mut all = vec![
        Platform {
            name: "fastvm",
            catalog: boxrig_fastvm::CATALOG,
            client: true,
            commands: native::commands::<Fastvm>("fastvm"),
            refused: Some(refused(boxrig_server::fastvm::NOT_IMPLEMENTED)),
            unserved: "",
        },
        Platform {
            client: true,
            commands: native::commands::<Incus>("incus"),
            unserved: "served in a later version",
            ..later("incus", boxrig_incus::CATALOG)
        },
    ];
    all.extend(convox);
    all
}

fn rows() -> Vec<Value> {
    let tests: BTreeMap<(&str, &str), &str> = EXERCISED
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut columns = line.split('\t');
            Some(((columns.next()?, columns.next()?), columns.next()?))
        })
        .collect();
    let mut rows = Vec::new();
    for platform in platforms() {
        for meta in platform.catalog {
            let exercised = tests.get(&(platform.name, meta.id));
            let (server, note) = match &platform.refused {
                None => ("none", platform.unserved),
                Some(refused) if refused.contains(meta.id) => (
                    "none",
                    "answers 501 and names the operation; comes in a later version",
                ),
                Some(_) if exercised.is_some() => ("full", ""),
                Some(_) => (
                    "partial",
                    "served; no recorded test reads its effect back yet",
                ),
            };
            rows.push(json!({
                "platform": platform.name,
                "operation": meta.id,
                "method": meta.method.as_str(),
                "path": meta.path.as_str(),
                "client": platform.client,
                "cli": platform.commands.get(meta.id),
                "server": server,
                "exercised": exercised,
                "note": (!note.is_empty()).then_some(note),
            }));
        }
    }
    rows
}

/// A row for each member of VergeOS' managers and rows. Those that give a manager are ways to others, and not counted.
fn members() -> Vec<Value> {
    let tests: BTreeMap<&str, &str> = MEMBERS
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once('\t'))
        .collect();
    let refused: Vec<(&str, &str)> = boxrig_server::vergeos::NOT_IMPLEMENTED
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('.'))
        .collect();
    let mut rows: BTreeMap<String, Value> = BTreeMap::new();
    for member in boxrig_vergeos::member::members() {
        let id = member.id();
        if member.returned.ends_with("Manager") || rows.contains_key(&id) {
            continue;
        }
        let exercised = tests.get(&*id);
        let requests = member.requests();
        let (method, table) = match requests.iter().find(|(m, _)| *m != "GET") {
            Some((method, table)) => (*method, *table),
            None => ("GET", requests.last().map_or(&*member.table, |(_, t)| *t)),
        };
        let actions = member.actions();
        let none = refused.iter().any(|(table, action)| {
            requests.iter().any(|(_, t)| t == table) && actions.contains(action)
        });
        let (server, note) = match (none, exercised) {
            (true, _) => (
                "none",
                "answers 501 and names the operation; comes in a later version",
            ),
            (false, Some(_)) => ("full", ""),
            (false, None) => (
                "partial",
                "served; no recorded test calls it on our server yet",
            ),
        };
        let row = json!({
            "platform": "vergeos",
            "operation": id,
            "method": method,
            "path": format!("/api/v4/{table}"),
            "client": member.is_carried_out(),
            "cli": native::vergeos::command_of(&member),
            "server": server,
            "exercised": exercised.filter(|_| !none),
            "note": (!note.is_empty()).then_some(note),
        });
        rows.insert(id, row);
    }
    rows.into_values().collect()
}

/// Prints the table.
pub(crate) fn run(m: &ArgMatches) -> Outcome {
    let s = Session::new(m)?;
    let mut rows = rows();
    rows.extend(members());
    let only = text(m, "platform");
    if !only.is_empty() {
        rows.retain(|row| row["platform"] == only);
        if rows.is_empty() {
            return Err(Error::new(Kind::NotFound, "no such platform").into());
        }
    }
    Ok(output::list(
        &mut io::stdout().lock(),
        &s.style,
        COLUMNS,
        rows,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fastvm_operation_is_typed_and_has_a_command() {
        let rows = rows();
        let fastvm: Vec<_> = rows.iter().filter(|r| r["platform"] == "fastvm").collect();
        assert_eq!(fastvm.len(), 49);
        for row in fastvm {
            assert_eq!(row["client"], true, "{row}");
            let command = row["cli"].as_str().unwrap();
            let words: Vec<&str> = command.split(' ').collect();
            let tree = crate::cli::native::tree::<Fastvm>(clap::Command::new("fastvm"));
            assert!(tree.find_subcommand(words[2]).is_some(), "{command}");
        }
    }

    #[test]
    fn nothing_is_called_full_without_a_test() {
        for row in rows().into_iter().chain(members()) {
            if row["server"] == "full" {
                assert!(row["exercised"].is_string(), "{row}");
            } else {
                assert!(row["note"].is_string(), "{row}");
            }
        }
    }
}
