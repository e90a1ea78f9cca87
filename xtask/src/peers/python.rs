//! A vendor's Python SDK and its source archive, installed once per version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Result, shell};

/// Where an SDK is installed and its source archive unpacked.
pub(crate) struct Sdk {
    /// The environment that has it.
    pub(crate) venv: PathBuf,
    /// Its source archive, unpacked.
    pub(crate) archive: PathBuf,
}

/// Installs `name` (with `extras`) and `packages` under `target/peers`, and unpacks the SDK's source archive there.
pub(crate) fn installed(name: &str, version: &str, extras: &str, packages: &[&str]) -> Result<Sdk> {
    let own = std::env::current_exe()?;
    let target = own
        .ancestors()
        .nth(2)
        .ok_or("this program is in no target folder")?;
    let home = target.join(format!("peers/{name}-{version}"));
    let sdk = Sdk {
        venv: home.join("venv"),
        archive: home.join(format!("{name}-{version}")),
    };
    let complete = home.join("complete");
    if complete.exists() {
        return Ok(sdk);
    }
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home)?;
    let python = system_python();
    shell::run(Command::new(&python).args(["-m", "venv"]).arg(&sdk.venv))?;
    let pip = |arguments: &[&str]| {
        let mut command = Command::new(sdk.venv.join("bin/python"));
        command
            .args(["-m", "pip", "--quiet", "--disable-pip-version-check"])
            .args(arguments);
        command.current_dir(&home);
        shell::run(&mut command)
    };
    let package = format!("{name}{extras}=={version}");
    pip(&[&["install", package.as_str()], packages].concat())?;
    let source = format!("{name}=={version}");
    pip(&["download", "--no-deps", "--no-binary=:all:", &source])?;
    let archive = format!("{name}-{version}.tar.gz");
    shell::run(
        Command::new("tar")
            .args(["-xzf", &archive])
            .current_dir(&home),
    )?;
    fs::write(&complete, "")?;
    Ok(sdk)
}

/// The number before `word` in the last line that has one.
pub(crate) fn count(output: &str, word: &str) -> Option<u32> {
    output.lines().rev().find_map(|line| {
        let words: Vec<&str> = line
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|w| !w.is_empty())
            .collect();
        words
            .windows(2)
            .find(|pair| pair[1] == word)
            .and_then(|pair| pair[0].parse().ok())
    })
}

/// The system's interpreter before one from a home folder: other users can run it.
pub(super) fn system_python() -> PathBuf {
    let system = Path::new("/usr/bin/python3");
    let usable = Command::new(system)
        .args([
            "-c",
            "import ensurepip, sys; sys.exit(sys.version_info < (3, 9))",
        ])
        .stderr(Stdio::null())
        .status();
    if usable.is_ok_and(|s| s.success()) {
        system.into()
    } else {
        "python3".into()
    }
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn counts_of_closing_lines() {
        let pytest = "12 passed yesterday\n=== 1 failed, 5 passed, 2 skipped in 3.21s ===\n";
        assert_eq!(count(pytest, "passed"), Some(5));
        assert_eq!(count(pytest, "failed"), Some(1));
        assert_eq!(count("6 passed in 1.00s\n", "failed"), None);
        assert_eq!(
            count("fastvm_sdk.py: 40 passed, 0 failed\n", "failed"),
            Some(0)
        );
    }
}
