//! The Convox Python SDK and the tests of its source archive, against our rack.
//!
//! Three suites: `integration` (the vendor's tests against a real rack, unmodified), `script` (`ci/convox_sdk.py`, our
//! own with that SDK) and `crash` (`ci/convox_crash.py`: the server ended in the middle of promotions).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::fastvm::passed_cases;
use super::python::{count, system_python};
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
        suites = vec!["integration", "script", "crash"];
    }
    let sdk = installed_sdk()?;
    let program = program()?;
    let mut failed = Vec::new();
    for suite in suites {
        let (passed, cases) = match suite {
            "integration" => integration(&sdk, &program)?,
            "script" => script(&sdk, &program)?,
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
fn python(sdk: &Sdk, folder: &Path) -> Command {
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
    let mut pytest = python(sdk, &sdk.archive);
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
    let mut command = python(sdk, folder.path());
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

fn crash(sdk: &Sdk, program: &Path) -> Result<(u32, u32)> {
    let folder = tempfile::Builder::new().prefix("boxrig-peers-").tempdir()?;
    let mut command = python(sdk, folder.path());
    command.arg(root().join("ci/convox_crash.py")).arg(program);
    let (output, status) = shell::watch(&mut command)?;
    let passed = count(&output, "passed").unwrap_or(0);
    Ok((passed, passed + u32::from(!status.success())))
}

/// Where the SDK is installed and its source archive unpacked.
struct Sdk {
    venv: PathBuf,
    archive: PathBuf,
}

/// Installs the SDK once per version under `target/peers`.
fn installed_sdk() -> Result<Sdk> {
    let own = std::env::current_exe()?;
    let target = own
        .ancestors()
        .nth(2)
        .ok_or("this program is in no target folder")?;
    let home = target.join(format!("peers/convox-{VERSION}"));
    let sdk = Sdk {
        venv: home.join("venv"),
        archive: home.join(format!("convox-{VERSION}")),
    };
    let complete = home.join("complete");
    if complete.exists() {
        return Ok(sdk);
    }
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home)?;
    shell::run(
        Command::new(system_python())
            .args(["-m", "venv"])
            .arg(&sdk.venv),
    )?;
    let pip = |arguments: &[&str]| {
        let mut command = Command::new(sdk.venv.join("bin/python"));
        command
            .args(["-m", "pip", "--quiet", "--disable-pip-version-check"])
            .args(arguments);
        command.current_dir(&home);
        shell::run(&mut command)
    };
    let package = format!("convox=={VERSION}");
    pip(&["install", &package, "pytest==9.0.2"])?;
    pip(&["download", "--no-deps", "--no-binary=:all:", &package])?;
    let archive = format!("convox-{VERSION}.tar.gz");
    shell::run(
        Command::new("tar")
            .args(["-xzf", &archive])
            .current_dir(&home),
    )?;
    fs::write(&complete, "")?;
    Ok(sdk)
}
