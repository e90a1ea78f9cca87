//! The VergeOS Python SDK with its live suite, and scenarios of our own through it.
//!
//! `live` runs the vendor's `tests/integration` as published, serially, against a stocked server. Most of its tests skip
//! when what they need is not there, so passes are counted, and each skip must be listed with its reason in
//! `docs/peers-vergeos.md`. `scenarios` runs `ci/vergeos_sdk.py`: every scenario once against the server as it is, where
//! it must pass, and once against a server made wrong for it (`BOXRIG_MUTATE`, builds for tests only), where it must fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use super::python::{self, Sdk, count};
use crate::server::{Server, User, program};
use crate::{Result, coverage, root, shell};

/// The version tested; the newest published one.
const VERSION: &str = "1.7.1";
/// What the live suite needs beside the SDK.
const TEST_PACKAGES: &[&str] = &["pytest==9.0.2"];
/// How many cases the suite must have passed at least, and skipped at most; none may fail.
const LIVE_PASSED: u32 = 1130;
const LIVE_SKIPPED: u32 = 58;
/// How many servers with a mutation run at the same time.
const AT_ONCE: usize = 4;
/// How many scenarios there are at least.
const SCENARIOS: usize = 60;
/// The members of the SDK with the test that was seen to call each.
const MEMBERS: &str = "api/vergeos-exercised.tsv";
/// Where skips are listed with their reasons.
const PAGE: &str = "docs/peers-vergeos.md";
/// Between these lines of the page stands what is compared.
const MARKS: [&str; 2] = [
    "<!-- skips: written by `cargo xtask peers vergeos --suite live --write` -->",
    "<!-- end -->",
];

/// The SDK's interpreter, for measurements.
pub(crate) fn sdk_python() -> Result<PathBuf> {
    let sdk = python::installed("pyvergeos", VERSION, "", TEST_PACKAGES)?;
    Ok(sdk.venv.join("bin/python"))
}

/// Runs the suites that `options` name, by default all.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    let (mut suites, mut only, mut write) = (Vec::new(), None, false);
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{option} needs a value"));
        match *option {
            "--suite" => suites.push(*value()?),
            "--only" => only = Some(*value()?),
            "--write" => write = true,
            other => return Err(format!("peers vergeos: unknown option {other}").into()),
        }
    }
    if suites.is_empty() {
        suites = vec!["live", "scenarios"];
    }
    let bench = Bench::prepare()?;
    for suite in suites {
        match suite {
            "live" => bench.live(write)?,
            "scenarios" => bench.scenarios(only, write)?,
            other => return Err(format!("peers vergeos: no suite {other}").into()),
        }
    }
    Ok(())
}

/// The SDK, its tests, the program.
struct Bench {
    sdk: Sdk,
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl Bench {
    fn prepare() -> Result<Self> {
        Ok(Self {
            sdk: python::installed("pyvergeos", VERSION, "", TEST_PACKAGES)?,
            program: program()?,
            folder: tempfile::Builder::new().prefix("boxrig-peers-").tempdir()?,
        })
    }

    /// A stocked server with data of its own.
    fn serve(
        &self,
        program: &Path,
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Server> {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder)?;
        let arguments = [&["--seed", "lab"], arguments].concat();
        Server::start(program, &folder, User::Same, &arguments, environment)
    }

    /// The SDK's interpreter in the archive's folder, in the server's environment and no other.
    fn python(&self, server: &Server) -> Command {
        let mut command = Command::new(self.sdk.venv.join("bin/python"));
        command.current_dir(&self.sdk.archive).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("VERGE_") || text.to_ascii_lowercase().ends_with("_proxy") {
                command.env_remove(&name);
            }
        }
        command
            .envs(&server.env)
            .env("HOME", self.folder.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONUNBUFFERED", "1");
        command
    }

    /// The vendor's live suite.
    fn live(&self, write: bool) -> Result<()> {
        let begin = Instant::now();
        let server = self.serve(&self.program, "live", &["--engine", "auto"], &[])?;
        let noted = self.folder.path().join("members-live.tsv");
        let mut pytest = self.python(&server);
        pytest
            .env("BOXRIG_MEMBERS", &noted)
            .env("PYTHONPATH", root().join("ci/vergeos"));
        pytest.args([
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-p",
            "members",
            "-q",
            "-rs",
            "tests/integration",
        ]);
        let (output, _) = shell::watch(&mut pytest)?;
        let of = |word: &str| closing(&output, word);
        let (passed, failed, errors, skipped) = (
            of("passed"),
            of("failed"),
            of("errors").max(of("error")),
            of("skipped"),
        );
        println!(
            "peers vergeos live: {passed} passed, {failed} failed, {errors} errors, {skipped} skipped in {} s",
            begin.elapsed().as_secs()
        );
        if failed + errors > 0 {
            println!("{}", server.log());
        }
        server.stop()?;
        if failed + errors > 0 || passed < LIVE_PASSED || skipped > LIVE_SKIPPED {
            return Err(format!(
                "at least {LIVE_PASSED} must pass, none fail and at most {LIVE_SKIPPED} be skipped"
            )
            .into());
        }
        compare_members(&noted, "pyvergeos:", write)?;
        compare_page(&skips(&output), write)
    }

    /// Whether a scenario fails on a server with this mutation.
    fn notices(&self, debug: &Path, script: &Path, name: &str, mutation: &str) -> Result<bool> {
        let server = self.serve(
            debug,
            &format!("mutant-{name}"),
            &["--engine", "memory", "--virtual-clock"],
            &[("BOXRIG_MUTATE", mutation)],
        )?;
        let mut one = self.python(&server);
        one.arg(script).arg("--quiet").arg(name);
        let output = shell::outcome(&mut one)?;
        server.stop()?;
        // It must fail because of what it looked at, not because the server was gone.
        let noticed =
            output.contains(&format!("FAILED {name}")) && !output.contains("VergeConnectionError");
        if !noticed {
            println!("{output}");
        }
        Ok(noticed)
    }

    /// Our own scenarios, and that each of them can fail.
    fn scenarios(&self, only: Option<&str>, write: bool) -> Result<()> {
        let script = root().join("ci/vergeos_sdk.py");
        let begin = Instant::now();
        let record = self.folder.path().join("record.tsv");
        let record = record
            .to_str()
            .ok_or("the temporary folder's name is not UTF-8")?;
        let server = self.serve(
            &self.program,
            "scenarios",
            &["--engine", "memory", "--virtual-clock"],
            &[("BOXRIG_RECORD", record)],
        )?;
        let mut list = self.python(&server);
        list.arg(&script).arg("--list");
        let listed = shell::read(&mut list)?;
        let wanted: BTreeMap<&str, &str> = listed
            .lines()
            .filter_map(|l| l.split_once('\t'))
            .filter(|(name, _)| only.is_none_or(|o| name.contains(o)))
            .collect();
        if wanted.is_empty() {
            return Err(format!("no scenario has {only:?} in its name").into());
        }
        if only.is_none() && wanted.len() < SCENARIOS {
            return Err(format!("{} scenarios, {SCENARIOS} are wanted", wanted.len()).into());
        }
        let noted = self.folder.path().join("members-scenarios.tsv");
        let mut all = self.python(&server);
        all.env("BOXRIG_MEMBERS", &noted);
        all.arg(&script).args(wanted.keys());
        let (output, _) = shell::watch(&mut all)?;
        let passed = output.lines().filter(|l| l.starts_with("ok ")).count();
        if passed != wanted.len() {
            println!("{}", server.log());
            return Err(format!("{passed} of {} scenarios passed", wanted.len()).into());
        }
        server.stop()?;
        if only.is_none() {
            compare_record(record)?;
            compare_members(&noted, "ci/vergeos_sdk.py::", write)?;
        }
        // Mutations are known to builds for tests only.
        let debug = debug_program()?;
        // Each mostly waits: for its server's start, for something that will not come about.
        let queue = Mutex::new(wanted.iter());
        let next = || queue.lock().ok()?.next();
        let work = || -> std::result::Result<Vec<String>, String> {
            let mut blind = Vec::new();
            while let Some((name, mutation)) = next() {
                let noticed = self.notices(&debug, &script, name, mutation);
                if !noticed.map_err(|e| format!("{name} under {mutation}: {e}"))? {
                    blind.push(format!("{name} under {mutation}"));
                }
            }
            Ok(blind)
        };
        let mut blind = Vec::new();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
            for worker in workers {
                let found = worker.join().map_err(|_| "a worker panicked".to_owned());
                blind.extend(found.and_then(|found| found)?);
            }
            Ok::<_, String>(())
        })?;
        println!(
            "peers vergeos scenarios: {passed} passed, {} noticed their mutation, in {} s",
            wanted.len() - blind.len(),
            begin.elapsed().as_secs()
        );
        match blind.is_empty() {
            true => Ok(()),
            false => {
                Err(format!("these do not notice their mutation: {}", blind.join(", ")).into())
            }
        }
    }
}

/// The program as it is built for tests, with the features that everything together has: else all of it is compiled once more.
fn debug_program() -> Result<PathBuf> {
    shell::run(
        Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--workspace"])
            .current_dir(root()),
    )?;
    Ok(root().join("target/debug/boxrig"))
}

/// The count before a word in pytest's closing line alone: the words stand in test names too.
fn closing(output: &str, word: &str) -> u32 {
    let last = output
        .lines()
        .rev()
        .find(|l| l.contains(" passed") && l.contains(" in "));
    last.and_then(|line| count(line, word)).unwrap_or(0)
}

/// Each skipped place with its reason, as pytest tells them.
fn skips(output: &str) -> BTreeSet<String> {
    let lines = output.lines().filter_map(|l| l.strip_prefix("SKIPPED ["));
    lines
        .filter_map(|line| {
            let (n, rest) = line.split_once("] ")?;
            let (place, reason) = rest.split_once(": ")?;
            let place = place.strip_prefix("tests/integration/").unwrap_or(place);
            Some(format!("| {n} | `{place}` | {reason} |"))
        })
        .collect()
}

/// Compares the skips with those that the page lists, or writes them there.
fn compare_page(found: &BTreeSet<String>, write: bool) -> Result<()> {
    let path = root().join(PAGE);
    let text = fs::read_to_string(&path)?;
    let (head, rest) = text
        .split_once(MARKS[0])
        .ok_or_else(|| format!("{PAGE} has no {}", MARKS[0]))?;
    let (listed, tail) = rest
        .split_once(MARKS[1])
        .ok_or_else(|| format!("{PAGE} has no {}", MARKS[1]))?;
    if write {
        let lines: Vec<&str> = found.iter().map(String::as_str).collect();
        let table = format!(
            "| tests | place | the suite's reason |\n| --- | --- | --- |\n{}\n",
            lines.join("\n")
        );
        fs::write(
            &path,
            format!("{head}{}\n{table}{}{tail}", MARKS[0], MARKS[1]),
        )?;
        return Ok(());
    }
    let listed: BTreeSet<String> = listed
        .lines()
        .filter(|l| l.starts_with("| ") && l.contains('`'))
        .map(str::to_owned)
        .collect();
    let new: Vec<&String> = found.difference(&listed).collect();
    match new.is_empty() {
        true => Ok(()),
        false => Err(format!("skips that {PAGE} does not list: {new:?}").into()),
    }
}

/// Compares the members that a suite was seen to call with those that the table says of it, or writes them there: one test for
/// each member, the first by name; a scenario of ours goes before a test of the vendor's.
fn compare_members(noted: &Path, suite: &str, write: bool) -> Result<()> {
    let noted = fs::read_to_string(noted)?;
    let pairs: BTreeSet<(&str, &str)> = noted
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .collect();
    let path = root().join(MEMBERS);
    let text = fs::read_to_string(&path).unwrap_or_default();
    let listed: BTreeMap<&str, &str> = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once('\t'))
        .collect();
    if !write {
        let missing: Vec<String> = listed
            .iter()
            .filter(|(_, test)| test.starts_with(suite))
            .filter(|(member, test)| !pairs.contains(&(**member, **test)))
            .map(|(member, test)| format!("{member} by {test}"))
            .collect();
        return match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("{MEMBERS} claims what did not happen: {missing:?}").into()),
        };
    }
    let mut known: BTreeMap<&str, &str> = listed
        .into_iter()
        .filter(|(_, test)| !test.starts_with(suite))
        .collect();
    for (member, test) in pairs {
        let other = known.get(member).copied();
        if other.is_none_or(|o| o.starts_with("pyvergeos:") && !test.starts_with("pyvergeos:")) {
            known.insert(member, test);
        }
    }
    let lines: String = known
        .iter()
        .map(|(member, test)| format!("{member}\t{test}\n"))
        .collect();
    fs::write(path, format!("member\ttest\n{lines}"))?;
    Ok(())
}

/// Compares what the script's server noted with what `api/exercised.tsv` says of the script.
fn compare_record(record: &str) -> Result<()> {
    let noted = fs::read_to_string(record)?;
    let noted: BTreeSet<(&str, &str)> = noted
        .lines()
        .filter_map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            ["vergeos", operation, status, test] if status.starts_with('2') => {
                Some((operation, test))
            }
            _ => None,
        })
        .collect();
    let claimed = coverage::exercised()?;
    let missing: Vec<String> = claimed
        .iter()
        .filter(|(platform, ..)| platform == "vergeos")
        .filter_map(|(_, operation, test)| {
            let name = test.strip_prefix("ci/vergeos_sdk.py::")?;
            (!noted.contains(&(operation.as_str(), name))).then(|| format!("{operation} by {name}"))
        })
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "exercised.tsv claims what did not happen: {}",
            missing.join(", ")
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_and_counts() {
        let output = "SKIPPED [2] tests/integration/test_a.py:7: No alarms: none\n== 1 failed, 5 passed, 2 skipped, 3 errors in 3.21s ==\n";
        assert_eq!(
            skips(output).into_iter().collect::<Vec<_>>(),
            ["| 2 | `test_a.py:7` | No alarms: none |"]
        );
        assert_eq!(
            (
                closing(output, "passed"),
                closing(output, "errors"),
                closing(output, "skipped")
            ),
            (5, 3, 2)
        );
    }
}
