//! Measurements against peers in the same run, and `docs/performance.md`.
//!
//! A slow figure never fails this task: machines differ, and so does what else they do. A crash
//! and a wrong result do.

mod clients;
mod convox;
mod engine;
mod incus;
mod report;
mod scratch;
mod vergeos;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, root, shell};

/// How often everything is measured.
#[derive(Clone, Copy)]
struct Rounds {
    /// Runs of a scenario that takes less than a second.
    short: usize,
    /// Runs of a scenario that takes seconds.
    long: usize,
    /// Instances started one after the other.
    starts: usize,
    /// Runs of a command of the command line.
    commands: usize,
}

const FULL: Rounds = Rounds {
    short: 9,
    long: 7,
    starts: 100,
    commands: 50,
};
const QUICK: Rounds = Rounds {
    short: 5,
    long: 3,
    starts: 50,
    commands: 30,
};

/// Builds, measures, prints, and writes `docs/performance.md`.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    let (mut rounds, mut only) = (FULL, None);
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        match *option {
            "--quick" => rounds = QUICK,
            "--only" => {
                only =
                    Some(*rest.next().ok_or(
                        "--only needs clients, convox, engine, tables, vergeos, cli or incus",
                    )?)
            }
            other => return Err(format!("bench: unknown option {other}").into()),
        }
    }
    let wanted = |part: &str| only.is_none_or(|o| o == part);
    // The Incus part measures the program alone.
    let given = std::env::var_os("BOXRIG_BIN");
    let programs = match (only, &given) {
        (Some("incus"), Some(program)) => Programs::given(Path::new(program))?,
        _ => Programs::build()?,
    };
    let mut report = report::Report::new(options)?;
    if wanted("clients") {
        clients::measure(&programs, rounds, &mut report)?;
    }
    if wanted("convox") {
        convox::measure(&programs, rounds, &mut report)?;
    }
    if wanted("engine") {
        engine::starts(&programs, rounds, &mut report)?;
        engine::idle(&programs, &mut report)?;
    }
    if wanted("tables") {
        engine::tables(&programs, rounds, &mut report)?;
    }
    if wanted("vergeos") {
        vergeos::measure(&programs, rounds, &mut report)?;
    }
    if wanted("cli") {
        engine::command_line(&programs, rounds, &mut report)?;
    }
    if only == Some("incus") || (only.is_none() && can_have_incus()) {
        incus::measure(&programs, rounds, &mut report)?;
    }
    if only.is_none() {
        report.write(&root().join("docs/performance.md"))?;
    }
    println!("{}", report.verdict());
    Ok(())
}

/// Runs every command of the Incus part once, for who watches `program`.
pub(crate) fn incus_once(program: &Path) -> Result<()> {
    incus::once(&Programs::given(program)?)
}

/// Whether a daemon can be brought up here: by root, from Debian's packages.
fn can_have_incus() -> bool {
    let can = rustix::process::geteuid().is_root() && Path::new("/etc/debian_version").exists();
    if !can {
        println!("left out: Incus, whose daemon needs root and Debian");
    }
    can
}

/// What is measured and what measures.
struct Programs {
    boxrig: PathBuf,
    /// The folder of `canned`, `client` and `engine`.
    benches: PathBuf,
}

impl Programs {
    /// Nothing is built: `program` is measured, and nothing else is needed.
    fn given(program: &Path) -> Result<Self> {
        Ok(Self {
            boxrig: program.canonicalize()?,
            benches: PathBuf::new(),
        })
    }

    /// Builds them in the release profile; `BOXRIG_BIN` names a program to measure instead.
    ///
    /// One call for both packages: built apart, their dependencies get other features, and everything is compiled twice.
    fn build() -> Result<Self> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--release"]);
        cargo.args(["--package=boxrig", "--package=boxrig-benches"]);
        shell::run(cargo.current_dir(root()))?;
        let own = std::env::current_exe()?;
        let target = own
            .ancestors()
            .nth(2)
            .ok_or("this program is in no target folder")?;
        let benches = target.join("release");
        let boxrig = match std::env::var_os("BOXRIG_BIN") {
            Some(given) => Path::new(&given).canonicalize()?,
            None => benches.join("boxrig"),
        };
        Ok(Self { boxrig, benches })
    }
}

/// A command without what our environment would change in it: other servers, other credentials, proxies.
fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = [
            "FASTVM_", "VERGE_", "CONVOX_", "RACK_URL", "BOXRIG_", "XDG_",
        ]
        .iter()
        .any(|prefix| text.starts_with(prefix));
        if ours || text.to_ascii_lowercase().ends_with("_proxy") {
            command.env_remove(&name);
        }
    }
    command
}
