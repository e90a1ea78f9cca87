//! A server of our own on the sandbox engine, and the command line.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::report::{Figure, Goal, Report, Spread, short};
use super::{Programs, Rounds, clean};
use crate::server::{Server, User};
use crate::{Result, shell};

/// How many instances idle.
const IDLE: usize = 1000;
/// How long they do so before they are measured.
const SETTLE: Duration = Duration::from_secs(5);
/// Instances that `boxrig ls` lists.
const LISTED: usize = 3;

/// Milliseconds from the launch of each instance.
#[derive(Deserialize)]
struct Starts {
    launch_ms: Vec<f64>,
    output_ms: Vec<f64>,
}

#[derive(Deserialize)]
struct Launched {
    units: usize,
    wall_s: f64,
}

fn folder() -> Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("boxrig-bench-").tempdir()?;
    Ok(folder)
}

fn serve(programs: &Programs, folder: &Path) -> Result<Server> {
    let arguments = ["--engine", "sandbox"];
    Server::start(&programs.boxrig, folder, User::Same, &arguments, &[])
}

/// Runs `benches/src/bin/engine.rs` against a server.
fn engine(programs: &Programs, server: &Server, words: &[&str]) -> Result<String> {
    let mut command = clean(&programs.benches.join("engine"));
    for name in ["FASTVM_BASE_URL", "FASTVM_API_KEY"] {
        command.env(name, server.var(name)?);
    }
    shell::read(command.args(words))
}

/// How long each list took.
#[derive(Deserialize)]
struct Lists {
    list_ms: Vec<f64>,
    rows: usize,
    bytes: usize,
}

/// A list of VergeOS rows, filtered, sorted and projected, on the memory engine.
pub(super) fn tables(programs: &Programs, rounds: Rounds, report: &mut Report) -> Result<()> {
    const ROWS: &str = "10000";
    let folder = folder()?;
    let arguments = ["--engine", "memory"];
    let server = Server::start(&programs.boxrig, folder.path(), User::Same, &arguments, &[])?;
    let mut command = clean(&programs.benches.join("tables"));
    for name in ["BOXRIG_URL", "VERGE_PASSWORD"] {
        command.env(name, server.var(name)?);
    }
    let said = shell::read(command.args([ROWS, &(3 * rounds.short).to_string()]))?;
    server.stop()?;
    let lists: Lists = serde_json::from_str(&said)?;
    report.add(Figure {
        name: format!(
            "list of {} VergeOS rows, filtered, sorted, projected",
            lists.rows
        ),
        goal: Goal::AtMost(60.0),
        unit: "ms",
        samples: lists.list_ms,
        from: format!("{} bytes of JSON over loopback, read whole", lists.bytes),
        why: "",
    });
    Ok(())
}

/// From the launch of an instance to the output of a command in it.
pub(super) fn starts(programs: &Programs, rounds: Rounds, report: &mut Report) -> Result<()> {
    let folder = folder()?;
    let server = serve(programs, folder.path())?;
    let said = engine(programs, &server, &["start", &rounds.starts.to_string()])?;
    server.stop()?;
    let starts: Starts = serde_json::from_str(&said)?;
    let launch = Spread::of(&starts.launch_ms).median;
    report.add(Figure {
        name: "start of an instance to first output".into(),
        goal: Goal::AtMost(15.0),
        unit: "ms",
        samples: starts.output_ms,
        from: format!("of these the launch alone {} ms (median)", short(launch)),
        why: "",
    });
    Ok(())
}

/// What a thousand instances that do nothing cost in memory.
pub(super) fn idle(programs: &Programs, report: &mut Report) -> Result<()> {
    let folder = folder()?;
    let (available, kernel, known) = (meminfo("MemAvailable")?, kernel()?, processes()?);
    let server = serve(programs, folder.path())?;
    let said = engine(programs, &server, &["launch", &IDLE.to_string()])?;
    let launched: Launched = serde_json::from_str(&said)?;
    std::thread::sleep(SETTLE);
    let available = available - meminfo("MemAvailable")?;
    let kernel = self::kernel()? - kernel;
    let (mut pss, mut count) = (pss(server.id())?, 1);
    let host = fs::read_link("/proc/self/ns/pid")?;
    for pid in processes()?.difference(&known) {
        // Those in another pid namespace are the instances'; they may end while they are looked at.
        let theirs = fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns != host);
        if theirs && *pid != server.id() {
            pss += self::pss(*pid).unwrap_or(0.0);
            count += 1;
        }
    }
    engine(programs, &server, &["clear"])?;
    server.stop()?;
    if launched.units != IDLE || count <= IDLE {
        return Err(format!("{count} processes for {IDLE} instances").into());
    }
    let [available, kernel, pss] = [available, kernel, pss].map(|kib| kib / 1024.0);
    report.add(Figure {
        name: "memory of 1,000 idle instances, with the server".into(),
        goal: Goal::AtMost(600.0),
        unit: "MiB",
        samples: vec![available.max(kernel + pss)],
        from: format!(
            "proportional set size of {count} processes {} MiB and kernel {} MiB; available memory \
             went down by {} MiB; launched in {} s",
            short(pss),
            short(kernel),
            short(available),
            short(launched.wall_s)
        ),
        why: "",
    });
    Ok(())
}

/// The command line: what every call of it pays, and the commonest one.
pub(super) fn command_line(programs: &Programs, rounds: Rounds, report: &mut Report) -> Result<()> {
    let folder = folder()?;
    let home = Home {
        programs,
        folder: folder.path(),
    };
    let version = home.time(rounds.commands, &["--version"], 1)?;
    report.add(Figure {
        name: "`boxrig --version`".into(),
        goal: Goal::AtMost(10.0),
        unit: "ms",
        samples: version,
        from: String::new(),
        why: "",
    });
    home.run(&["up", "--engine", "sandbox"])?;
    let names: Vec<String> = (0..LISTED).map(|i| format!("bench-{i}")).collect();
    for name in &names {
        home.run(&["launch", "--name", name])?;
    }
    let ls = home.time(rounds.commands, &["ls"], LISTED)?;
    report.add(Figure {
        name: "`boxrig ls` on a local server".into(),
        goal: Goal::AtMost(40.0),
        unit: "ms",
        samples: ls,
        from: String::new(),
        why: "",
    });
    Ok(())
}

/// A user with nothing but a background server, which is ended with its instances in the end.
struct Home<'a> {
    programs: &'a Programs,
    folder: &'a Path,
}

impl Home<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = clean(&self.programs.boxrig);
        command.args(words).env("BOXRIG_HOME", self.folder);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        shell::read(&mut self.command(words))
    }

    /// Milliseconds of each of `times` runs, after three that do not count. Each must print at least `lines` lines.
    fn time(&self, times: usize, words: &[&str], lines: usize) -> Result<Vec<f64>> {
        let mut samples = Vec::new();
        for round in 0..times + 3 {
            let begin = Instant::now();
            let said = self.run(words)?;
            let took = begin.elapsed();
            if said.lines().count() < lines {
                return Err(format!("boxrig {}: {said:?}", words.join(" ")).into());
            }
            if round >= 3 {
                samples.push(took.as_secs_f64() * 1e3);
            }
        }
        Ok(samples)
    }
}

impl Drop for Home<'_> {
    fn drop(&mut self) {
        let names = self.run(&["ls", "-o", "name"]).unwrap_or_default();
        let names: Vec<&str> = names.lines().collect();
        if !names.is_empty() {
            let _ = self.run(&[&["rm", "--yes"], &names[..]].concat());
        }
        // Where it never ran, this says so.
        let _ = self.run(&["down"]);
    }
}

/// A line of `/proc/meminfo`, in KiB.
pub(super) fn meminfo(name: &str) -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    kib(&text, name).ok_or_else(|| format!("/proc/meminfo has no {name}").into())
}

/// What the kernel has allocated for itself and cannot drop, in KiB.
fn kernel() -> Result<f64> {
    let parts = ["SUnreclaim", "KernelStack", "PageTables", "Percpu"];
    parts.into_iter().map(meminfo).sum()
}

/// The proportional set size of a process, in KiB.
fn pss(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    kib(&text, "Pss").ok_or_else(|| format!("process {pid} has no Pss").into())
}

/// The value of a line such as `VmHWM:  1234 kB`.
pub(super) fn kib(text: &str, name: &str) -> Option<f64> {
    let of = |line: &str| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        value.trim().strip_suffix(" kB")?.trim().parse().ok()
    };
    text.lines().find_map(of)
}

fn processes() -> Result<BTreeSet<u32>> {
    let entries = fs::read_dir("/proc")?;
    let pid = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(pid).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn kib() {
        let text = "MemTotal:       100 kB\nPss:                2123 kB\nPss_Dirty:  7 kB\n";
        assert_eq!(super::kib(text, "Pss"), Some(2123.0));
        assert_eq!(super::kib(text, "MemTotal"), Some(100.0));
        assert_eq!(super::kib(text, "Mem"), None);
    }
}
