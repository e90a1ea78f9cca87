//! `cargo xtask layout`: which of the program's functions its commands run, for the linker to lay side by side.
//!
//! Valgrind's `callgrind` names them; the commands are those that the benches compare with the official Incus client, and the
//! daily ones on a local server. `crates/boxrig/build.rs` says what the list is good for.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Result, bench, root, server, shell};

const LAYOUT: &str = "crates/boxrig/layout.txt";

/// Commands on a server of our own, one after the other.
const LOCAL: &[&[&str]] = &[
    &["--version"],
    &["run", "--", "true"],
    &["launch", "--name", "box"],
    &["ls"],
    &["exec", "box", "--", "true"],
    &["ls", "-o", "json"],
    &["rm", "box"],
];

/// Of the names in the list, a program of the same compiler must have so many parts in ten.
const FRESH: usize = 8;

/// Compares or writes the list.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    match options {
        [] => write(),
        ["--check"] => check(),
        other => Err(format!("layout: unknown options {other:?}").into()),
    }
}

/// The first line of the list: names are the compiler's, and another one has others.
fn compiler() -> Result<String> {
    let said = shell::read(Command::new("rustc").arg("--version"))?;
    Ok(format!("# {}", said.trim()))
}

/// Whether the program has the functions of the list. What changed since the list was written has other names, most of all the
/// dependencies.
fn check() -> Result<()> {
    let names = shell::read(Command::new("nm").arg(server::program()?))?;
    let names: HashSet<&str> = names
        .lines()
        .filter_map(|l| l.split(' ').next_back())
        .collect();
    let list = fs::read_to_string(root().join(LAYOUT))?;
    let listed: Vec<&str> = list.lines().filter(|l| !l.starts_with('#')).collect();
    let found = listed.iter().filter(|name| names.contains(**name)).count();
    println!("layout: {found} of {} functions", listed.len());
    let same = list.lines().next() == Some(&compiler()?);
    match same && found * 10 < listed.len() * FRESH {
        true => Err(format!("{LAYOUT} is stale: `cargo xtask layout` writes it anew").into()),
        false => Ok(()),
    }
}

/// Watches the commands and writes the list.
fn write() -> Result<()> {
    let program = server::program()?;
    let folder = tempfile::Builder::new()
        .prefix("boxrig-layout-")
        .tempdir()?;
    let traces = folder.path().join("traces");
    fs::create_dir(&traces)?;
    // A program that does what ours does, and is watched. What it starts in the background is not.
    let watched = folder.path().join("boxrig");
    let script = format!(
        "#!/bin/sh\nexec valgrind --quiet --tool=callgrind --demangle=no --callgrind-out-file={}/%p {} \"$@\"\n",
        traces.display(),
        program.display()
    );
    fs::write(&watched, script)?;
    fs::set_permissions(&watched, fs::Permissions::from_mode(0o700))?;

    let home = folder.path().join("home");
    for words in LOCAL {
        let mut command = Command::new(&watched);
        command.args(*words).env("BOXRIG_HOME", &home);
        shell::run(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
    }
    shell::run(Command::new(&program).arg("down").env("BOXRIG_HOME", &home))?;
    bench::incus_once(&watched)?;

    let mut all = Vec::new();
    for trace in fs::read_dir(&traces)? {
        let text = fs::read_to_string(trace?.path())?;
        all.push(functions(&text, &program));
    }
    let list = ordered(&all);
    let text = format!("{}\n{}\n", compiler()?, list.join("\n"));
    fs::write(root().join(LAYOUT), text)?;
    println!("layout: {} functions of {} commands", list.len(), all.len());
    Ok(())
}

/// The functions of `program` in a trace: <https://valgrind.org/docs/manual/cl-format.html>.
fn functions(trace: &str, program: &Path) -> BTreeSet<String> {
    let program = program.to_string_lossy();
    // A name is written once, and a number in parentheses from then on.
    let (mut objects, mut names) = (HashMap::new(), HashMap::new());
    let mut found = BTreeSet::new();
    let mut ours = false;
    for line in trace.lines() {
        let Some((what, name)) = line.split_once('=') else {
            continue;
        };
        let known = match what {
            "ob" | "cob" => &mut objects,
            "fn" | "cfn" => &mut names,
            _ => continue,
        };
        let (number, name) = name.split_once(' ').unwrap_or((name, ""));
        if !name.is_empty() {
            known.insert(number, name);
        }
        let name = known.get(number).copied().unwrap_or_default();
        match what {
            "ob" => ours = name == program,
            // `'2` is the second level of a recursion; an address or words stand for what has no name.
            "fn" if ours && !name.starts_with("0x") && !name.contains(' ') => {
                let name = name.split('\'').next().unwrap_or(name);
                found.insert(name.to_owned());
            }
            _ => {}
        }
    }
    found
}

/// What most commands run first, so that each finds what it needs in few places.
fn ordered(commands: &[BTreeSet<String>]) -> Vec<String> {
    let mut of: HashMap<&str, Vec<usize>> = HashMap::new();
    for (n, functions) in commands.iter().enumerate() {
        for function in functions {
            of.entry(function).or_default().push(n);
        }
    }
    let mut list: Vec<(usize, Vec<usize>, &str)> =
        of.into_iter().map(|(f, of)| (of.len(), of, f)).collect();
    // Those of the same commands stay together.
    list.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| (&a.1, a.2).cmp(&(&b.1, b.2))));
    list.into_iter().map(|(.., f)| f.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
ob=(1) /opt/boxrig
fn=(1) main
cob=(2) /lib/libc.so.6
cfn=(2) write
calls=1 0
fn=(3) again'2
fn=(4) 0x00000000deadbeef
fn=(6) (below main)
ob=(2)
fn=(2)
ob=(1)
fn=(5) last
";

    #[test]
    fn a_trace_names_the_functions_of_the_program() {
        let found = functions(TRACE, Path::new("/opt/boxrig"));
        assert_eq!(found.iter().collect::<Vec<_>>(), ["again", "last", "main"]);
    }

    #[test]
    fn what_most_commands_run_comes_first() {
        let of = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let commands = [of(&["a", "z", "b"]), of(&["z", "c"]), of(&["z", "b"])];
        assert_eq!(ordered(&commands), ["z", "b", "a", "c"]);
    }
}
