//! Development tasks: `cargo xtask <task>`.

mod bench;
mod coverage;
#[cfg(test)]
mod fastvm_document;
mod layout;
mod licences;
mod openapi;
mod peers;
mod seeds;
mod server;
mod shell;
mod tests_named;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Tasks end in words for a person, not in something a program would match on.
type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const USAGE: &str = "\
usage: cargo xtask TASK

  coverage [--check|--write]   what is done per platform; compares or writes the tables
  generate [--check]           the generated models and descriptions; compares or writes them
  bench [--quick]              the clients, the engine and the command line, measured against peers;
                               prints the figures and writes docs/performance.md
      --only clients|convox|engine|tables|cli|incus   only this part; writes nothing
  layout [--check]             which functions the commands of BOXRIG_BIN (a release build) run; writes the order in which
                               the linker lays them out (needs valgrind, root, and Debian for the Incus daemon), or says how
                               many of them the program has
  licences                     every dependency has an accepted licence and none is banned
  peers fastvm [OPTIONS]       the vendor's Python SDK, unmodified, against `boxrig serve`
      --suite live|generated|script    only this one (repeatable)
      --user UID               run server and SDK as this user (needs root)
  peers convox [OPTIONS]       the vendor's Python SDK, unmodified, against our rack
      --suite integration|script|examples|crash   only this one (repeatable)
  peers vergeos [OPTIONS]      the vendor's Python SDK, unmodified, against `boxrig serve --seed lab`
      --suite live|scenarios           only this one (repeatable)
      --only NAME                      of the scenarios, those whose names have this in them
      --write                          write docs/peers-vergeos.md and api/vergeos-exercised.tsv
  peers incus [OPTIONS]        our client and command line against a real daemon (needs root; ci/incus-up)
      --suite unix|https|compute|cli   only this one (repeatable); says nothing about the tables
      --write                          write docs/peers-incus.md and the rows of api/exercised.tsv
  peers vergeos --suite equivalence [CLASS.MEMBER …]
                               our client's requests beside those of the vendor's SDK, on one listener
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["coverage", options @ ..] => coverage::run(options),
        ["generate", options @ ..] => generate(options),
        ["layout", options @ ..] => layout::run(options),
        ["licences"] => licences::check(),
        ["bench", options @ ..] => bench::run(options),
        ["peers", "fastvm", options @ ..] => peers::fastvm::run(options),
        ["peers", "convox", options @ ..] => peers::convox::run(options),
        ["peers", "vergeos", "--suite", "equivalence", rest @ ..] => peers::equivalence::run(rest),
        ["peers", "vergeos", options @ ..] => peers::vergeos::run(options),
        ["peers", "incus", options @ ..] => peers::incus::run(options),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The generator is a program of its own: this one is built on what it writes.
fn generate(options: &[&str]) -> Result<()> {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo
        .args(["run", "--quiet", "--package=boxrig-generate", "--"])
        .args(options);
    shell::run(cargo.current_dir(root()))
}

/// The folder of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
