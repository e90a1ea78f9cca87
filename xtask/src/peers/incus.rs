//! Our Incus client and command line against a real daemon, with the official client as the witness.
//!
//! `ci/incus-up` brings the daemon up or uses the one that runs. The live tests of the client run over the unix socket
//! and over HTTPS, then the compute conformance suite and the checks of the command line. Each test notes which operations
//! succeeded and which effect the official client has seen (`BOXRIG_RECORD`); from these notes `docs/peers-incus.md` is
//! written, and `api/exercised.tsv` is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::{Result, coverage, root, server, shell};

/// The fewest operations that must be exercised live, and the fewest checks.
const OPERATIONS: usize = 150;
const CHECKS: usize = 150;

const DOCUMENT: &str = "docs/peers-incus.md";
const REASONS: &str = "api/incus-not-exercised.tsv";
const EXERCISED: &str = "api/exercised.tsv";

/// `compute` is a part of `cli`, which runs beside its other tests.
const SUITES: &[&str] = &["unix", "https", "cli", "seeds"];

/// How many tests run at a time: most of what they do is waiting for the daemon.
const THREADS: &str = "--test-threads=6";

/// Runs the suites that `options` name, by default all; only all of them together say something about the tables.
///
/// `--bursts N` says how many times a command's 10 MiB are read over each way, the command ending right after them.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    let mut suites = Vec::new();
    let mut write = false;
    let mut bursts = None;
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        match *option {
            "--suite" => suites.push(*rest.next().ok_or("--suite needs a value")?),
            "--write" => write = true,
            "--bursts" => {
                let times: u32 = rest.next().ok_or("--bursts needs a number")?.parse()?;
                bursts = Some(times);
            }
            other => return Err(format!("peers incus: unknown option {other}").into()),
        }
    }
    let all = suites.is_empty();
    if all {
        suites = SUITES.to_vec();
    }
    let bench = Bench::prepare(bursts)?;
    let mut failed = Vec::new();
    for suite in suites {
        let begun = Instant::now();
        let outcome = bench.suite(suite);
        let notes = bench.notes()?;
        let of_suite = |n: &&Note| n.is_of(suite) || (suite == "cli" && n.is_of("compute"));
        let lines = notes.iter().filter(of_suite).count();
        let seconds = begun.elapsed().as_secs();
        println!("peers incus {suite}: {lines} effects confirmed, {seconds} s");
        if let Err(e) = outcome {
            println!("peers incus {suite}: {e}");
            failed.push(suite);
        }
    }
    if !failed.is_empty() {
        return Err(format!("failed: {}", failed.join(", ")).into());
    }
    if all {
        bench.judge(write)?;
    }
    Ok(())
}

/// One line that a test has noted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Note {
    operation: String,
    test: String,
    way: String,
}

impl Note {
    /// `incus`, operation, verdict, test, way; only what the official client confirmed counts.
    fn parse(line: &str) -> Option<Self> {
        match line.split('\t').collect::<Vec<_>>()[..] {
            ["incus", operation, "confirmed", test, way] => Some(Self {
                operation: operation.to_owned(),
                test: test.to_owned(),
                way: way.to_owned(),
            }),
            _ => None,
        }
    }

    fn is_of(&self, suite: &str) -> bool {
        self.way == suite
    }
}

/// A daemon that is up.
pub(crate) struct Daemon(BTreeMap<String, String>);

impl Daemon {
    /// Brings it up, or uses the one that is.
    pub(crate) fn up() -> Result<Self> {
        let mut up = Command::new(root().join("ci/incus-up"));
        let said = shell::read(&mut up)?;
        let line = said
            .lines()
            .rev()
            .find_map(|l| l.strip_prefix("INCUS READY "))
            .ok_or("ci/incus-up does not say that the daemon is ready")?;
        let words = line.split(' ').filter_map(|word| word.split_once('='));
        Ok(Self(
            words.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        ))
    }

    /// What the official client prints.
    fn official(&self, words: &[&str]) -> Result<String> {
        let mut official = Command::new("incus");
        official.env("INCUS_SOCKET", self.value("socket")?);
        shell::read(official.args(words).env_remove("INCUS_REMOTE"))
    }

    /// Removes the bridges that the tests of a killed run have left: they hold addresses.
    fn sweep(&self) -> Result<()> {
        let list = self.official(&["network", "list", "-f", "csv", "-c", "n"])?;
        for name in list.lines() {
            if ["opn", "clb"].iter().any(|of| name.starts_with(of)) {
                println!("left by another run: the network {name}");
                self.official(&["network", "delete", name])?;
            }
        }
        Ok(())
    }

    /// What is said of it: `socket`, `https`, `cert`, `key`, `servercert`, `version`.
    pub(crate) fn value(&self, name: &str) -> Result<&str> {
        let value = self.0.get(name).map(String::as_str);
        value.ok_or_else(|| format!("ci/incus-up does not say {name}").into())
    }
}

/// The daemon and where the tests note what they did.
struct Bench {
    daemon: Daemon,
    program: PathBuf,
    folder: tempfile::TempDir,
    bursts: Option<u32>,
}

impl Bench {
    fn prepare(bursts: Option<u32>) -> Result<Self> {
        let daemon = Daemon::up()?;
        daemon.sweep()?;
        Ok(Self {
            bursts,
            daemon,
            program: server::program()?,
            folder: tempfile::Builder::new().prefix("boxrig-incus-").tempdir()?,
        })
    }

    fn record(&self) -> PathBuf {
        self.folder.path().join("record.tsv")
    }

    /// A test of the workspace with the daemon in its environment; a skipped one is a failure. Of the workspace, not of its
    /// package: that would be built with other features, all over again.
    fn tests(&self, test: &str, arguments: &[&str], way: &str) -> Result<()> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["test", "--quiet", "--workspace", "--test", test, "--"])
            .arg(THREADS)
            .args(arguments)
            .current_dir(root())
            .env("BOXRIG_REQUIRE", "incus")
            .env("BOXRIG_RECORD", self.record())
            .env("BOXRIG_TEST_PROGRAM", &self.program)
            .env("BOXRIG_INCUS_VERSION", self.daemon.value("version")?);
        for name in [
            "INCUS_REMOTE",
            "INCUS_PROJECT",
            "INCUS_CONF",
            "INCUS_SOCKET",
            "INCUS_DIR",
        ] {
            cargo.env_remove(name);
        }
        if let Some(times) = self.bursts {
            cargo.env("BOXRIG_INCUS_BURSTS", times.to_string());
        }
        if way != "https" {
            cargo.env("BOXRIG_INCUS_SOCKET", self.daemon.value("socket")?);
        }
        if way != "unix" {
            cargo
                .env("BOXRIG_INCUS_HTTPS", self.daemon.value("https")?)
                .env("BOXRIG_INCUS_CERT", self.daemon.value("cert")?)
                .env("BOXRIG_INCUS_KEY", self.daemon.value("key")?)
                .env("BOXRIG_INCUS_SERVER_CERT", self.daemon.value("servercert")?);
        }
        shell::run(&mut cargo)
    }

    fn suite(&self, name: &str) -> Result<()> {
        match name {
            "unix" | "https" => self.tests("incus_live", &[], name),
            "compute" => self.tests("incus", &["conformance"], name),
            "cli" => self.tests("incus", &[], name),
            "seeds" => self.seeds(),
            other => Err(format!("peers incus: no suite {other}").into()),
        }
    }

    /// The examples of the vendor's document, which end badly when one does not hold.
    fn seeds(&self) -> Result<()> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--workspace", "--example=incus"]);
        shell::run(cargo.current_dir(root()))?;
        let own = std::env::current_exe()?;
        let folder = own.parent().ok_or("this program is in no folder")?;
        let built = folder.join("examples/incus");
        let mut run = Command::new(built);
        for name in ["INCUS_REMOTE", "INCUS_PROJECT", "INCUS_CONF", "INCUS_DIR"] {
            run.env_remove(name);
        }
        run.env("INCUS_SOCKET", self.daemon.value("socket")?);
        shell::run(run.env("BOXRIG_IMAGE", "busybox"))
    }

    fn notes(&self) -> Result<Vec<Note>> {
        match fs::read_to_string(self.record()) {
            Ok(text) => Ok(text.lines().filter_map(Note::parse).collect()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }

    /// Compares what was noted with the tables, or writes them.
    fn judge(&self, write: bool) -> Result<()> {
        let notes: BTreeSet<Note> = self.notes()?.into_iter().collect();
        let mut confirmed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for note in &notes {
            confirmed
                .entry(&note.operation)
                .or_default()
                .insert(&note.test);
        }
        let checks = notes.len();
        let reasons = reasons()?;
        let version = self.daemon.value("version")?;
        let extensions = extensions(&self.daemon)?;
        let mut problems = Vec::new();
        let mut table = String::new();
        let mut live = 0;
        for meta in boxrig_incus::CATALOG {
            let path = format!("{} {}", meta.method, meta.path);
            let verdict = match confirmed.get(meta.id) {
                Some(tests) => {
                    live += 1;
                    if reasons.contains_key(meta.id) {
                        problems.push(format!("{}: confirmed, and in {REASONS}", meta.id));
                    }
                    let test = tests.first().copied().unwrap_or("");
                    format!("yes | `{test}`")
                }
                None => format!("no | {}", why(meta.id, &reasons, &extensions, version)),
            };
            if verdict.ends_with("| ") {
                problems.push(format!(
                    "{}: neither confirmed nor a reason why not",
                    meta.id
                ));
            }
            let _ = writeln!(table, "| `{}` | `{path}` | {verdict} |", meta.id);
        }
        let known: BTreeSet<&str> = boxrig_incus::CATALOG.iter().map(|m| m.id).collect();
        for note in notes
            .iter()
            .filter(|n| !known.contains(n.operation.as_str()))
        {
            problems.push(format!("{}: noted, and no operation", note.operation));
        }
        for (name, _) in reasons
            .iter()
            .filter(|(name, _)| !known.contains(name.as_str()))
        {
            problems.push(format!("{REASONS}: no operation {name}"));
        }
        if live < OPERATIONS || checks < CHECKS {
            problems.push(format!(
                "{live} operations by {checks} checks; wanted {OPERATIONS} and {CHECKS}"
            ));
        }
        let document = document(version, live, &table);
        let rows = rows(&confirmed);
        if write {
            fs::write(root().join(DOCUMENT), &document)?;
            write_exercised(&rows)?;
        } else {
            if fs::read_to_string(root().join(DOCUMENT)).unwrap_or_default() != document {
                problems.push(format!(
                    "{DOCUMENT} is not what this run says; --write writes it"
                ));
            }
            for (platform, operation, test) in coverage::exercised()? {
                let happened = confirmed
                    .get(operation.as_str())
                    .is_some_and(|tests| tests.contains(test.as_str()));
                if platform == "incus" && !happened {
                    problems.push(format!("{EXERCISED}: {operation} by {test} did not happen"));
                }
            }
        }
        for problem in &problems {
            println!("{problem}");
        }
        println!(
            "peers incus: {checks} checks, {live} of {} operations exercised live, {} problems",
            boxrig_incus::CATALOG.len(),
            problems.len()
        );
        if problems.is_empty() {
            Ok(())
        } else {
            Err("the tables are not what the run says".into())
        }
    }
}

/// Why an operation is not exercised: the extension that the daemon lacks, or the reason written down.
fn why(
    id: &str,
    reasons: &BTreeMap<String, String>,
    extensions: &BTreeSet<String>,
    version: &str,
) -> String {
    if let Some(reason) = reasons.get(id) {
        return reason.clone();
    }
    let lacking = boxrig_incus::OPERATION_EXTENSIONS
        .iter()
        .find(|(operation, extension)| *operation == id && !extensions.contains(*extension));
    match lacking {
        Some((_, extension)) => format!("needs the extension `{extension}`, which {version} lacks"),
        None => String::new(),
    }
}

/// The rows of `api/exercised.tsv`: one test for each operation.
fn rows(confirmed: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<String> {
    confirmed
        .iter()
        .filter_map(|(operation, tests)| Some(format!("incus\t{operation}\t{}", tests.first()?)))
        .collect()
}

fn write_exercised(rows: &[String]) -> Result<()> {
    let path = root().join(EXERCISED);
    let text = fs::read_to_string(&path)?;
    let mut lines: Vec<&str> = text.lines().filter(|l| !l.starts_with("incus\t")).collect();
    // The platforms stand one after the other, in the order of the alphabet but for the title.
    let at = lines
        .iter()
        .skip(1)
        .position(|l| *l > "incus\t")
        .map_or(lines.len(), |at| at + 1);
    for (place, row) in rows.iter().enumerate() {
        lines.insert(at + place, row);
    }
    fs::write(path, lines.join("\n") + "\n")?;
    Ok(())
}

/// The rows of `api/incus-not-exercised.tsv`: operation, reason.
fn reasons() -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(root().join(REASONS))?;
    text.lines()
        .skip(1)
        .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            [operation, reason] if !reason.is_empty() => Ok((operation.into(), reason.into())),
            _ => Err(format!("{REASONS}: not two columns: {line:?}").into()),
        })
        .collect()
}

/// What the daemon says it can, asked by the official client.
fn extensions(daemon: &Daemon) -> Result<BTreeSet<String>> {
    let said: serde_json::Value = serde_json::from_str(&daemon.official(&["query", "/1.0"])?)?;
    let list = said["api_extensions"].as_array().cloned();
    let list = list.ok_or("the daemon lists no extensions")?;
    Ok(list
        .iter()
        .filter_map(|e| e.as_str().map(str::to_owned))
        .collect())
}

fn document(version: &str, live: usize, table: &str) -> String {
    format!(
        "<!-- Written by `cargo xtask peers incus --write`. -->\n\
         # Incus, against a real daemon\n\n\
         `cargo xtask peers incus` brings up Incus {version} with the distribution's packages (`ci/incus-up`) and runs the live tests \
         of the client over its unix socket and over HTTPS, the compute conformance suite, the checks of the command \
         line and the vendor's examples. \"Exercised live\" means: the operation succeeded, and the official client (`incus`) showed the effect; the \
         tests note it when they have compared. {live} of {} operations are.\n\n\
         | operation | | exercised live | by, or why not |\n| --- | --- | --- | --- |\n{table}",
        boxrig_incus::CATALOG.len()
    )
}

/// Where a test binary of the workspace notes what it did; for the tests' own use.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_confirmed_effects_count() {
        let line = "incus\tprofiles_post\tconfirmed\tcrates/incus/tests/live/a.rs::t\tunix";
        let note = Note::parse(line).unwrap();
        assert!(note.is_of("unix") && !note.is_of("https"));
        assert_eq!(note.operation, "profiles_post");
        for other in [
            "incus\tprofiles_post\tok\tt\tunix",
            "fastvm\tprofiles_post\tconfirmed\tt\tunix",
            "incus\tprofiles_post\tconfirmed\tt",
            "",
        ] {
            assert_eq!(Note::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_missing_extension_is_a_reason() {
        let (id, extension) = boxrig_incus::OPERATION_EXTENSIONS[0];
        let none = BTreeSet::new();
        let reasons = BTreeMap::new();
        assert!(why(id, &reasons, &none, "6.0").contains(extension));
        let has = [extension.to_owned()].into();
        assert_eq!(why(id, &reasons, &has, "6.0"), "");
        let said = [(id.to_owned(), "a cluster's".to_owned())].into();
        assert_eq!(why(id, &said, &has, "6.0"), "a cluster's");
    }

    #[test]
    fn reasons_are_of_operations() {
        let known: BTreeSet<&str> = boxrig_incus::CATALOG.iter().map(|m| m.id).collect();
        for (operation, _) in reasons().unwrap() {
            assert!(known.contains(operation.as_str()), "{operation}");
        }
    }
}
