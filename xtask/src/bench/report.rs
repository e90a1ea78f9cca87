//! What was measured, as lines on the terminal and as `docs/performance.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Result, shell};

/// What is wanted of a figure.
#[derive(Clone, Copy)]
pub(super) enum Goal {
    /// Its median is at least this.
    AtLeast(f64),
    /// Its median is at most this.
    AtMost(f64),
    /// Its largest value is at most this.
    NeverOver(f64),
}

/// Something measured several times.
pub(super) struct Figure {
    /// What it is.
    pub(super) name: String,
    /// What is wanted.
    pub(super) goal: Goal,
    /// `×`, `ms` or `MiB`.
    pub(super) unit: &'static str,
    /// The values, in any order.
    pub(super) samples: Vec<f64>,
    /// What the values were made from, in words.
    pub(super) from: String,
    /// Why it is known to be missed on some machines; empty where nobody has looked into it.
    pub(super) why: &'static str,
}

impl Figure {
    fn spread(&self) -> Spread {
        Spread::of(&self.samples)
    }

    fn met(&self) -> bool {
        let spread = self.spread();
        match self.goal {
            Goal::AtLeast(least) => spread.median >= least,
            Goal::AtMost(most) => spread.median <= most,
            Goal::NeverOver(most) => spread.max <= most,
        }
    }

    fn wanted(&self) -> String {
        let unit = self.unit;
        match self.goal {
            Goal::AtLeast(n) => format!("≥ {n} {unit}"),
            Goal::AtMost(n) | Goal::NeverOver(n) => format!("≤ {n} {unit}"),
        }
    }
}

/// Smallest, middle and largest value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of these values; of none, all are NaN, which meets no goal.
    pub(super) fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 || sorted.is_empty() {
            at(half)
        } else {
            f64::midpoint(at(half - 1), at(half))
        };
        Self {
            min: at(0),
            median,
            max: at(sorted.len().wrapping_sub(1)),
        }
    }
}

/// Three significant places are more than any of these figures repeats to.
pub(super) fn short(n: f64) -> String {
    match n.abs() {
        a if a >= 99.95 => format!("{n:.0}"),
        a if a >= 9.995 => format!("{n:.1}"),
        _ => format!("{n:.2}"),
    }
}

/// Everything measured in a run.
pub(super) struct Report {
    command: String,
    machine: String,
    figures: Vec<Figure>,
}

impl Report {
    /// Of a run with these options, which begins now.
    pub(super) fn new(options: &[&str]) -> Result<Self> {
        let command = [&["cargo", "xtask", "bench"], options].concat().join(" ");
        let machine = machine()?;
        println!("{command}: {machine}");
        Ok(Self {
            command,
            machine,
            figures: Vec::new(),
        })
    }

    /// Takes a figure in and shows it.
    pub(super) fn add(&mut self, figure: Figure) {
        let Spread { min, median, max } = figure.spread();
        println!(
            "{:<58} {:>6} {} (min {}, max {}, n {}; wanted {}){}",
            figure.name,
            short(median),
            figure.unit,
            short(min),
            short(max),
            figure.samples.len(),
            figure.wanted(),
            if figure.met() { "" } else { "  MISSED" },
        );
        if !figure.from.is_empty() {
            println!("    {}", figure.from);
        }
        self.figures.push(figure);
    }

    /// The closing line.
    pub(super) fn verdict(&self) -> String {
        let met = self.figures.iter().filter(|f| f.met()).count();
        let missed = self.figures.len() - met;
        format!("bench: {met} figures as wanted, {missed} missed")
    }

    /// Writes the document.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = format!(
            "<!-- Written by `cargo xtask bench`: a run replaces it. -->\n\
             # Performance\n\n\
             {METHOD}\n\
             * **When and how**: {}, `{}`.\n\
             * **Machine**: {}.\n\n\
             | figure | wanted | median | min – max | n | |\n\
             | --- | --- | --- | --- | --- | --- |\n",
            jiff::Zoned::now().strftime("%Y-%m-%d"),
            self.command,
            self.machine
        );
        for figure in &self.figures {
            let Spread { min, median, max } = figure.spread();
            let _ = writeln!(
                text,
                "| {} | {} | {} {} | {} – {} | {} | {} |",
                figure.name,
                figure.wanted(),
                short(median),
                figure.unit,
                short(min),
                short(max),
                figure.samples.len(),
                if figure.met() { "met" } else { "**missed**" },
            );
        }
        text.push_str("\n## What the figures were made from\n\n");
        for figure in self.figures.iter().filter(|f| !f.from.is_empty()) {
            let _ = writeln!(text, "* {}: {}", figure.name, figure.from);
        }
        let missed: Vec<&Figure> = self.figures.iter().filter(|f| !f.met()).collect();
        if !missed.is_empty() {
            text.push_str("\n## What was missed, and why\n\n");
            for figure in missed {
                let why = match figure.why {
                    "" => "Not looked into yet.",
                    why => why,
                };
                let _ = writeln!(text, "* **{}**: {why}", figure.name);
            }
        }
        fs::write(path, text)?;
        println!("written: {}", path.display());
        Ok(())
    }
}

const METHOD: &str = "\
Measured against peers in the same run and in turns (ours, theirs, ours, theirs …), because a
figure of its own says more about the machine than about the program. Every value of a ratio is made from
two neighbouring runs; a ratio is how many times better boxrig did than its peer. A goal is compared
with the median, that of memory with the largest value.

* The **clients** talk to `benches/src/bin/canned.rs`, a listener that does nothing but read requests and
  write ready bytes. Peer: the vendor's Python SDK 0.7.0 (`benches/sdk.py`), unmodified; for the download
  also `curl`. What is measured begins when a client is connected, so no interpreter's or program's start is in
  it. Boxrig's calls are made in a spawned task of a multi-threaded runtime; awaited in `main` itself, each event of the
  stream wakes another thread, and the stream takes about half as long again. Downloads are written to memory (tmpfs) where there is room. Boxrig's client checks a
  transfer by its SHA-256 where the machine says one, and else by its length, which is all that the peers do; the download is
  measured both ways. Most real machines have `sha256sum`, so the checked download is the usual one. Half the files of the
  uploaded tree are cut from this repository's sources, half are random bytes.
* The **engine** is measured through the HTTP API of `boxrig serve --engine sandbox` with its data on
  disk: from sending the launch to having the output of `echo`, an instance at a time, none started ahead.
* **Idle instances**: the proportional set size of the server and of every process in the instances, with what the
  kernel allocated meanwhile and cannot drop (slabs, stacks, page tables, per-processor data); and what the system's
  available memory lost (`MemAvailable`). The larger of the two counts.
* **Command line**: wall time of the whole process.
* **VergeOS**: boxrig's client and the vendor's Python SDK 1.7.1 (`benches/vergeos_sdk.py`), unmodified, on
  `benches/src/bin/canned_vergeos.rs`, a TLS listener as the one above; both with the columns that they ask for by default. The
  growth of memory is the peak resident size, less what the connected client had before. Start to first row is the whole process,
  the interpreter's start and the TLS handshake in it. Uploads are in the SDK's pieces, four in flight on both sides, and ours makes
  the SHA-256 of every transfer, which the SDK does not. CPU time is that of the client, on `boxrig serve --seed lab --vms 10000`.
* **Incus**: `boxrig` and the official client of the same version as the daemon (`ci/incus-up`), the whole process of each, on the
  daemon's unix socket, in turns. Files are in memory on our side; what arrived is compared. Peak memory is that of extra
  runs, read from the kernel five times a millisecond.
* **Convox**: boxrig's client and the vendor's Python SDK 0.1.0 (`benches/convox_sdk.py`) on the same canned listener, which answers with
  the apps of a rack and with a log of two million lines. The start to the listed apps is the whole process of `boxrig convox app-list` and of a
  script of five lines with the SDK. A promotion (`benches/src/bin/rack.rs`) is one on a `boxrig serve` of its own.
";

/// Processor, memory, system, versions and how busy the machine was when the run began.
fn machine() -> Result<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kib = super::engine::meminfo("MemTotal")?;
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("unknown");
    let rustc = shell::read(Command::new("rustc").arg("--version"))?;
    Ok(format!(
        "{model}, {cores} cores, {} GiB, Linux {}, {}, load {load} at the start",
        short(kib / 1024.0 / 1024.0),
        kernel.trim(),
        rustc.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::{Figure, Goal, Spread};

    #[test]
    fn spreads() {
        let of = |samples: &[f64]| {
            let Spread { min, median, max } = Spread::of(samples);
            (min, median, max)
        };
        assert_eq!(of(&[3.0, 1.0, 2.0]), (1.0, 2.0, 3.0));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), (1.0, 2.5, 4.0));
        assert_eq!(of(&[7.0]), (7.0, 7.0, 7.0));
        assert!(Spread::of(&[]).median.is_nan());
    }

    #[test]
    fn goals() {
        let met = |goal, samples: &[f64]| {
            let figure = Figure {
                name: String::new(),
                goal,
                unit: "ms",
                samples: samples.to_vec(),
                from: String::new(),
                why: "",
            };
            figure.met()
        };
        assert!(met(Goal::AtMost(2.0), &[1.0, 2.0, 9.0]));
        assert!(!met(Goal::NeverOver(2.0), &[1.0, 2.0, 9.0]));
        assert!(met(Goal::AtLeast(2.0), &[1.0, 2.0, 9.0]));
        assert!(!met(Goal::AtLeast(2.1), &[1.0, 2.0, 9.0]));
        assert!(!met(Goal::AtMost(1.0), &[]) && !met(Goal::AtLeast(1.0), &[]));
    }
}
