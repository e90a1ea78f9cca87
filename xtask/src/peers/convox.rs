//! The Convox Python SDK and the tests of its source archive, against our rack.
//!
//! Four suites: `integration` (the vendor's tests against a real rack, unmodified), `script` (`ci/convox_sdk.py`, our
//! own with that SDK), `examples` (`examples/seeds/convox.rs`: every example of the SDK's document, in Rust) and `crash`
//! (`ci/convox_crash.py`: the server ended in the middle of promotions).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::fastvm::passed_cases;
use super::python::{self, Sdk, count};
use crate::server::{Server, User, program};
use crate::{Result, root, shell};

/// The version tested; the newest published one.
const VERSION: &str = "0.1.0";
/// How many integration tests the archive has: fewer would be a suite that did not run.
const CASES: u32 = 25;

/// Runs the suites that `options` name, by default all.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    let mut suites = Vec::new();
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        match *option {
            "--suite" => suites.push(*rest.next().ok_or("--suite needs a value")?),
            other => return Err(format!("peers convox: unknown option {other}").into()),
        }
    }
    if suites.is_empty() {
        suites = vec!["integration", "script", "examples", "crash"];
    }
    let sdk = installed_sdk()?;
    let program = program()?;
    let mut failed = Vec::new();
    for suite in suites {
        let (passed, cases) = match suite {
            "integration" => integration(&sdk, &program)?,
            "script" => script(&sdk, &program)?,
            "examples" => examples(&program)?,
            "crash" => crash(&sdk, &program)?,
            other => return Err(format!("peers convox: no suite {other}").into()),
        };
        println!(
            "peers convox {suite}: {passed} passed, {} failed",
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

/// The SDK's interpreter with nothing of our environment that would turn a test into another one.
fn interpreter(sdk: &Sdk, folder: &Path) -> Command {
    let mut command = Command::new(sdk.venv.join("bin/python"));
    command.current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CONVOX_")
            || text == "RACK_URL"
            || text.to_ascii_lowercase().ends_with("_proxy")
        {
            command.env_remove(&name);
        }
    }
    command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUNBUFFERED", "1")
        .env("HOME", folder);
    command
}

fn serve(program: &Path, folder: &Path) -> Result<Server> {
    Server::start(program, folder, User::Same, &["--engine", "sandbox"], &[])
}

fn integration(sdk: &Sdk, program: &Path) -> Result<(u32, u32)> {
    let folder = tempfile::Builder::new().prefix("boxrig-peers-").tempdir()?;
    let server = serve(program, folder.path())?;
    let mut pytest = interpreter(sdk, &sdk.archive);
    pytest
        .args([
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-q",
            "integration_tests",
        ])
        .envs(&server.env);
    let passed = passed_cases(&mut pytest, CASES)?;
    if passed != CASES {
        println!("{}", server.log());
    }
    server.stop()?;
    Ok((passed, CASES))
}

fn script(sdk: &Sdk, program: &Path) -> Result<(u32, u32)> {
    let folder = tempfile::Builder::new().prefix("boxrig-peers-").tempdir()?;
    let server = serve(program, folder.path())?;
    let mut command = interpreter(sdk, folder.path());
    command
        .arg(root().join("ci/convox_sdk.py"))
        .env("BOXRIG_API", root().join("api"))
        .envs(&server.env);
    let (output, _) = shell::watch(&mut command)?;
    let (passed, failed) = (count(&output, "passed"), count(&output, "failed"));
    if failed != Some(0) {
        println!("{}", server.log());
    }
    server.stop()?;
    let passed = passed.ok_or("no closing line")?;
    Ok((passed, passed + failed.unwrap_or(0)))
}

/// Every example of the SDK's document in Rust; each that holds says so in a line.
fn examples(program: &Path) -> Result<(u32, u32)> {
    let folder = tempfile::Builder::new().prefix("boxrig-peers-").tempdir()?;
    let server = serve(program, folder.path())?;
    let mut cargo = Command::new(env!("CARGO"));
    // As the tests build it: nothing is compiled anew after them.
    cargo
        .args(["build", "--quiet", "--workspace", "--example", "convox"])
        .current_dir(root());
    shell::run(&mut cargo)?;
    let mut example = Command::new(root().join("target/debug/examples/convox"));
    let (output, status) = shell::watch(example.current_dir(folder.path()).envs(&server.env))?;
    let said = |mark: &str| output.lines().filter(|l| l.starts_with(mark)).count();
    let refused = said("501 ");
    if !status.success() || refused > 0 {
        println!("{}", server.log());
    }
    server.stop()?;
    let held = u32::try_from(said("ok "))?;
    let missing = u32::try_from(refused)? + u32::from(!status.success());
    Ok((held, held + missing))
}

fn crash(sdk: &Sdk, program: &Path) -> Result<(u32, u32)> {
    let folder = tempfile::Builder::new().prefix("boxrig-peers-").tempdir()?;
    let mut command = interpreter(sdk, folder.path());
    command.arg(root().join("ci/convox_crash.py")).arg(program);
    let (output, status) = shell::watch(&mut command)?;
    let passed = count(&output, "passed").unwrap_or(0);
    Ok((passed, passed + u32::from(!status.success())))
}

/// The SDK's interpreter, for the measurements.
pub(crate) fn sdk_python() -> Result<PathBuf> {
    Ok(installed_sdk()?.venv.join("bin/python"))
}

fn installed_sdk() -> Result<Sdk> {
    python::installed("convox", VERSION, "", &["pytest==9.0.2"])
}
