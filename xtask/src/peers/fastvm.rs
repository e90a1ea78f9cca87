//! The FastVM Python SDK and the tests of its source archive.
//!
//! Three suites, all with the SDK as published: `live` (the vendor's tests against a real
//! service, here the sandbox engine), `generated` (its 580 cases made from an API description,
//! through [`super::contract`]) and `script` (`ci/fastvm_sdk.py`, our own).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::contract::Contract;
use super::python::{self, Sdk, count};
use crate::server::{Server, User, program};
use crate::{Result, coverage, root, shell};

/// The version tested; the newest published one.
const VERSION: &str = "0.7.0";
/// What the SDK's tests need beside it, as pinned by the SDK's own lock file.
const TEST_PACKAGES: &[&str] = &[
    "dirty-equals==0.11",
    "importlib-metadata==8.7.1",
    "pytest-asyncio==1.3.0",
    "pytest-xdist==3.8.0",
    "pytest==9.0.2",
    "respx==0.22.0",
    "rich==14.2.0",
    "time-machine==3.2.0",
];
/// How many cases each suite of the archive has: fewer would be a suite that did not run.
const LIVE_CASES: u32 = 6;
const GENERATED_CASES: u32 = 580;

/// Runs the suites that `options` name, by default all.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    let mut suites = Vec::new();
    let mut user = User::Same;
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{option} needs a value"));
        match *option {
            "--suite" => suites.push(*value()?),
            "--user" => user = User::Id(value()?.parse()?),
            other => return Err(format!("peers fastvm: unknown option {other}").into()),
        }
    }
    if suites.is_empty() {
        suites = vec!["live", "script", "generated"];
    }
    let bench = Bench::prepare(user)?;
    let mut failed = Vec::new();
    for suite in suites {
        let (passed, cases) = match suite {
            "live" => bench.live()?,
            "script" => bench.script()?,
            "generated" => bench.generated()?,
            other => return Err(format!("peers fastvm: no suite {other}").into()),
        };
        println!(
            "peers fastvm {suite}: {passed} passed, {} failed",
            cases - passed
        );
        if passed != cases {
            failed.push(suite);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("failed: {}", failed.join(", ")).into())
    }
}

/// The program, the SDK and its tests, where the user can reach them.
struct Bench {
    user: User,
    program: PathBuf,
    python: PathBuf,
    archive: PathBuf,
    script: PathBuf,
    folder: tempfile::TempDir,
}

impl Bench {
    fn prepare(user: User) -> Result<Self> {
        let (sdk, program) = (installed_sdk()?, program()?);
        let folder = tempfile::Builder::new().prefix("boxrig-peers-").tempdir()?;
        let work = folder.path().join("work");
        fs::create_dir(&work)?;
        let script = root().join("ci/fastvm_sdk.py");
        // Another user may be able to read neither this checkout nor what is built in it.
        let copied = |from: &Path, name: &str| -> Result<PathBuf> {
            let to = work.join(name);
            shell::run(Command::new("cp").args(["-R", "--"]).arg(from).arg(&to))?;
            Ok(to)
        };
        let venv = if user == User::Same {
            sdk.venv
        } else {
            copied(&sdk.venv, "venv")?
        };
        let bench = Self {
            user,
            program: copied(&program, "boxrig")?,
            python: venv.join("bin/python"),
            archive: copied(&sdk.archive, "archive")?,
            script: copied(&script, "fastvm_sdk.py")?,
            folder,
        };
        if user != User::Same {
            shell::run(Command::new("chmod").arg("0755").arg(bench.folder.path()))?;
            user.own(&work)?;
        }
        Ok(bench)
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// A server on the sandbox engine with data of its own, which notes what it is asked.
    fn serve(&self, name: &str) -> Result<Server> {
        let folder = self.work().join(name);
        fs::create_dir(&folder)?;
        self.user.own(&folder)?;
        let record = self.record();
        let record = record
            .to_str()
            .ok_or("the temporary folder's name is not UTF-8")?;
        let environment = [("BOXRIG_RECORD", record)];
        Server::start(
            &self.program,
            &folder,
            self.user,
            &["--engine", "sandbox"],
            &environment,
        )
    }

    /// What the servers note: a line per request.
    fn record(&self) -> PathBuf {
        self.work().join("record.tsv")
    }

    /// The interpreter of the SDK in the archive's folder with nothing of our environment that
    /// would turn a test into another one.
    fn python(&self) -> Command {
        let mut command = self.user.command(&self.python);
        command.current_dir(&self.archive).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("FASTVM_") || text.to_ascii_lowercase().ends_with("_proxy") {
                command.env_remove(&name);
            }
        }
        command
            .env("HOME", self.work())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONUNBUFFERED", "1");
        command
    }

    /// The vendor's tests against a real service.
    fn live(&self) -> Result<(u32, u32)> {
        let server = self.serve("live")?;
        let mut pytest = self.python();
        pytest
            .args([
                "-m",
                "pytest",
                "-p",
                "no:cacheprovider",
                "-q",
                "tests/lib/live",
            ])
            .envs(&server.env);
        let passed = passed_cases(&mut pytest, LIVE_CASES)?;
        if passed != LIVE_CASES {
            println!("{}", server.log());
        }
        server.stop()?;
        Ok((passed, LIVE_CASES))
    }

    /// Our own script.
    fn script(&self) -> Result<(u32, u32)> {
        let server = self.serve("script")?;
        let mut command = self.python();
        command.arg(&self.script).envs(&server.env);
        let (output, _) = shell::watch(&mut command)?;
        let (passed, failed) = (count(&output, "passed"), count(&output, "failed"));
        if failed != Some(0) {
            println!("{}", server.log());
        }
        server.stop()?;
        self.compare_record()?;
        let (passed, failed) = (passed.ok_or("no closing line")?, failed.unwrap_or(0));
        Ok((passed, passed + failed))
    }

    /// The generated cases, each through our descriptions and judged by the OpenAPI file.
    fn generated(&self) -> Result<(u32, u32)> {
        let server = self.serve("generated")?;
        let contract = Contract::listen(
            server.var("FASTVM_BASE_URL")?,
            server.var("FASTVM_API_KEY")?,
        )?;
        let mut pytest = self.python();
        pytest
            .args([
                "-m",
                "pytest",
                "-p",
                "no:cacheprovider",
                "-q",
                // One after the other: the cases share what the server holds, and a case that lists machines strictly in the
                // SDK's own form of a firewall fails while another has a service of its own there.
                "-n",
                "0",
                "tests/api_resources",
            ])
            .env("TEST_API_BASE_URL", &contract.url);
        let passed = passed_cases(&mut pytest, GENERATED_CASES)?;
        contract.finish()?;
        server.stop()?;
        Ok((passed, GENERATED_CASES))
    }

    /// Compares what the script's server noted with what `api/exercised.tsv` says of the script.
    fn compare_record(&self) -> Result<()> {
        let noted = fs::read_to_string(self.record())?;
        let noted: BTreeSet<(&str, &str)> = noted
            .lines()
            .filter_map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
                ["fastvm", operation, status, test] if status.starts_with('2') => {
                    Some((operation, test))
                }
                _ => None,
            })
            .collect();
        let claimed = coverage::exercised()?;
        let mut missing = Vec::new();
        for (_, operation, test) in claimed.iter().filter(|(p, _, _)| p == "fastvm") {
            if let Some(name) = test.strip_prefix("ci/fastvm_sdk.py::")
                && !noted.contains(&(operation.as_str(), name))
            {
                missing.push(format!("{operation} by {name}"));
            }
        }
        let known: BTreeSet<&str> = claimed
            .iter()
            .map(|(_, operation, _)| &**operation)
            .collect();
        for (operation, test) in noted.iter().filter(|(o, _)| !known.contains(o)) {
            println!("note: {operation} was exercised by {test}; exercised.tsv has no test for it");
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "exercised.tsv claims what did not happen: {}",
                missing.join(", ")
            )
            .into())
        }
    }
}

/// Runs pytest and says how many cases passed; a skipped case is none.
pub(super) fn passed_cases(pytest: &mut Command, cases: u32) -> Result<u32> {
    let (output, status) = shell::watch(pytest)?;
    let passed = count(&output, "passed").unwrap_or(0);
    if status.success() != (passed == cases) {
        return Err(format!(
            "{}: {passed} of {cases} passed, but {status}",
            shell::shown(pytest)
        )
        .into());
    }
    Ok(passed)
}

/// The interpreter that has the SDK; installs it when that was not done yet.
pub(crate) fn sdk_python() -> Result<PathBuf> {
    Ok(installed_sdk()?.venv.join("bin/python"))
}

fn installed_sdk() -> Result<Sdk> {
    python::installed("fastvm", VERSION, "[aiohttp]", TEST_PACKAGES)
}
