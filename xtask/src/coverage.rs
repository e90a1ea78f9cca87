//! What `boxrig coverage` claims, checked: totals per platform, recorded tests, the vendors' names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde::Deserialize;

use crate::tests_named::Tests;
use crate::{Result, root, seeds, server, shell};

/// A row of `boxrig coverage -o json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    platform: String,
    operation: String,
    method: String,
    path: String,
    client: bool,
    cli: Option<String>,
    server: String,
    exercised: Option<String>,
    note: Option<String>,
}

/// What must hold of a platform's rows.
struct Floor {
    platform: &'static str,
    rows: usize,
    /// Rows that the server does fully; a smaller number is a step back.
    full: usize,
    /// Rows without a typed client or a command, at most; each says why in its note.
    untyped: usize,
}

/// Grows with the work; nothing here may shrink.
const FLOORS: &[Floor] = &[
    Floor {
        platform: "fastvm",
        rows: 49,
        full: 34,
        untyped: 0,
    },
    Floor {
        platform: "incus",
        rows: 254,
        full: 0,
        untyped: 0,
    },
    Floor {
        platform: "convox",
        rows: 130,
        full: 100,
        untyped: 0,
    },
    // A row for each member, not for each operation.
    Floor {
        platform: "vergeos",
        rows: 1594,
        full: 611,
        untyped: 20,
    },
];

/// Prints the totals; with `--check` fails on anything amiss, with `--write` writes what is
/// generated.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    match options {
        [] => totals(&rows()?).map(drop),
        ["--write"] => seeds::write(),
        ["--check"] => check(),
        _ => Err("coverage takes --check or --write".into()),
    }
}

fn rows() -> Result<Vec<Row>> {
    let mut boxrig = Command::new(server::program()?);
    boxrig.args(["coverage", "-o", "json"]);
    Ok(serde_json::from_str(&shell::read(&mut boxrig)?)?)
}

/// Prints a line per platform.
fn totals(rows: &[Row]) -> Result<()> {
    let mut platforms: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        platforms.entry(&row.platform).or_default().push(row);
    }
    println!("platform   rows  typed  cli   full  partial  none  exercised");
    for (platform, rows) in platforms {
        let count = |test: fn(&&&Row) -> bool| rows.iter().filter(test).count();
        println!(
            "{platform:<9} {:>5}  {:>5}  {:>3}  {:>5}  {:>7}  {:>4}  {:>9}",
            rows.len(),
            count(|r| r.client),
            count(|r| r.cli.is_some()),
            count(|r| r.server == "full"),
            count(|r| r.server == "partial"),
            count(|r| r.server == "none"),
            count(|r| r.exercised.is_some()),
        );
    }
    Ok(())
}

fn check() -> Result<()> {
    let rows = rows()?;
    totals(&rows)?;
    let mut problems = seeds::check()?;
    let mut tests = Tests::default();
    let mut names = BTreeSet::new();
    for row in &rows {
        let name = format!("{}.{}", row.platform, row.operation);
        let mut wrong = |what: &str| problems.push(format!("{name}: {what}"));
        if !["full", "partial", "none"].contains(&row.server.as_str()) {
            wrong(&format!("server is {:?}", row.server));
        }
        if row.server == "full" && row.exercised.is_none() {
            wrong("called full without a test");
        }
        if row.server == "none" && row.note.as_deref().is_none_or(str::is_empty) {
            wrong("not done by the server, and no note says when");
        }
        if row.method.is_empty() || !row.path.starts_with('/') {
            wrong("no method or path");
        }
        if let Some(test) = &row.exercised {
            problems.extend(tests.problem(test).map(|p| format!("{name}: {p}")));
        }
        if !names.insert(name.clone()) {
            problems.push(format!("{name}: there twice"));
        }
    }
    for floor in FLOORS {
        let of: Vec<&Row> = rows
            .iter()
            .filter(|r| r.platform == floor.platform)
            .collect();
        let mut wrong = |what: String| problems.push(format!("{}: {what}", floor.platform));
        if of.len() != floor.rows {
            wrong(format!("{} rows, must be {}", of.len(), floor.rows));
        }
        let full = of.iter().filter(|r| r.server == "full").count();
        if full < floor.full {
            wrong(format!("{full} rows are full, were {}", floor.full));
        }
        let untyped: Vec<&str> = of
            .iter()
            .filter(|r| !r.client || r.cli.is_none())
            .map(|r| r.operation.as_str())
            .collect();
        if untyped.len() > floor.untyped {
            wrong(format!(
                "no typed client or no command: {}",
                untyped.join(", ")
            ));
        }
    }
    for (platform, operation, test) in exercised()? {
        if !names.contains(&format!("{platform}.{operation}")) {
            problems.push(format!(
                "exercised.tsv: no operation {platform}.{operation}"
            ));
        }
        problems.extend(tests.problem(&test).map(|p| format!("exercised.tsv: {p}")));
    }
    for problem in &problems {
        println!("{problem}");
    }
    println!("coverage: {} passed, {} failed", rows.len(), problems.len());
    if problems.is_empty() {
        Ok(())
    } else {
        Err("coverage is not what it should be".into())
    }
}

/// The rows of `api/exercised.tsv`: platform, operation, test.
pub(crate) fn exercised() -> Result<Vec<(String, String, String)>> {
    let text = fs::read_to_string(root().join("api/exercised.tsv"))?;
    text.lines()
        .skip(1)
        .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            [platform, operation, test] => Ok((platform.into(), operation.into(), test.into())),
            _ => Err(format!("exercised.tsv: not three columns: {line:?}").into()),
        })
        .collect()
}
