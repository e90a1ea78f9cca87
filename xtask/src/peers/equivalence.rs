//! Our VergeOS client beside the vendor's SDK, call by call, on one listener (`ci/vergeos/equivalence.py`).

use std::process::Command;

use crate::{Result, root, shell};

/// The version that was observed; the newest published one.
const VERSION: &str = "1.7.1";

/// Compares the requests of all members; differences need a reason in `api/vergeos-differences.tsv`. `rest` may name members.
pub(crate) fn run(rest: &[&str]) -> Result<()> {
    let venv = root().join("target/peers/pyvergeos");
    let python = venv.join("bin/python");
    if !python.exists() {
        shell::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    shell::run(Command::new(&python).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        &format!("pyvergeos=={VERSION}"),
    ]))?;
    // With the features of the whole workspace, so that nothing is compiled a second time.
    shell::run(Command::new(env!("CARGO")).current_dir(root()).args([
        "build",
        "--quiet",
        "--workspace",
        "--example",
        "replay",
    ]))?;
    let report = root().join("target/peers/vergeos-equivalence.txt");
    shell::run(
        Command::new(&python)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(root().join("ci/vergeos"))
            .arg("equivalence.py")
            .arg(root().join("target/debug/examples/replay"))
            .arg(&report)
            .args(rest),
    )?;
    println!("peers vergeos equivalence: {}", report.display());
    Ok(())
}
