//! Boxrig's FastVM client, the vendor's SDK and curl on one canned-reply listener.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Deserialize;

use super::report::{Figure, Goal, Report, Spread, short};
use super::scratch::Scratch;
use super::{Programs, Rounds, clean};
use crate::peers::fastvm::sdk_python;
use crate::{Result, root, shell};

/// The most memory that a client may ever use, in MiB.
const MEMORY: f64 = 32.0;
const DOWNLOAD: u64 = 1024 * 1024 * 1024;

/// What a run reports (`boxrig_benches::Cost`).
#[derive(Debug, Deserialize)]
pub(super) struct Cost {
    pub(super) units: u64,
    pub(super) wall_s: f64,
    pub(super) cpu_s: f64,
    pub(super) peak_mib: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Metric {
    Cpu,
    Wall,
}

struct Scenario {
    /// As the two sides call it.
    word: &'static str,
    name: &'static str,
    metric: Metric,
    /// How many times better than the SDK is wanted.
    wanted: f64,
    long: bool,
    why: &'static str,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        word: "exec",
        name: "exec round trip, CPU time",
        metric: Metric::Cpu,
        wanted: 3.0,
        long: false,
        why: "",
    },
    Scenario {
        word: "flight",
        name: "64 calls in flight, rate",
        metric: Metric::Wall,
        wanted: 8.0,
        long: false,
        why: "",
    },
    Scenario {
        word: "stream",
        name: "stream of 256 MiB in 32 KiB events",
        metric: Metric::Wall,
        wanted: 5.0,
        long: true,
        why: "",
    },
    Scenario {
        word: "download",
        name: "download of 1 GiB",
        metric: Metric::Wall,
        wanted: 2.0,
        long: true,
        why: "",
    },
    Scenario {
        word: "download-sha256",
        name: "download of 1 GiB, ours checked by SHA-256",
        metric: Metric::Wall,
        wanted: 2.0,
        long: true,
        why: SHA256_WHY,
    },
    Scenario {
        word: "upload-dir",
        name: "upload of a directory (2,000 files, 100 MiB)",
        metric: Metric::Wall,
        wanted: 8.0,
        long: true,
        why: "",
    },
];

/// Why a download that is checked may take longer than one that is not.
const SHA256_WHY: &str = "The checksum of 1 GiB takes 0.93 s of one core (OpenSSL makes 1,097 MiB/s on the same machine), so no checked \
    transfer is shorter. It is made beside the receiving, which shares the other core with the listener. The peers compute none.";

/// Runs every scenario.
pub(super) fn measure(programs: &Programs, rounds: Rounds, report: &mut Report) -> Result<()> {
    let scratch = Scratch::new()?;
    let bench = Bench {
        client: programs.benches.join("client"),
        python: sdk_python()?,
        script: root().join("benches/sdk.py"),
        canned: programs.benches.join("canned"),
        tree: scratch.tree()?,
        scratch,
    };
    bench.check_uploads()?;
    let listener = Listener::start(&bench.canned, &[])?;
    for scenario in SCENARIOS {
        let rounds = if scenario.long {
            rounds.long
        } else {
            rounds.short
        };
        bench.scenario(&listener.origin, scenario, rounds, report)?;
    }
    Ok(())
}

/// A running canned listener; ended when dropped.
pub(super) struct Listener {
    child: Child,
    pub(super) origin: String,
}

impl Listener {
    /// Starts a listener that prints where it is.
    pub(super) fn start(program: &Path, arguments: &[&OsStr]) -> Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut origin = String::new();
        if let Some(stdout) = &mut child.stdout {
            BufReader::new(stdout).read_line(&mut origin)?;
        }
        let origin = origin.trim_end().to_owned();
        let listener = Self { child, origin };
        if listener.origin.is_empty() {
            return Err("the canned listener did not start".into());
        }
        Ok(listener)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may have ended by itself, and then what ran against it has failed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Ours,
    Sdk,
}

struct Bench {
    client: PathBuf,
    python: PathBuf,
    script: PathBuf,
    canned: PathBuf,
    tree: PathBuf,
    scratch: Scratch,
}

impl Bench {
    /// What a side works on, if the scenario has files.
    fn path(&self, word: &str, who: Who) -> Option<PathBuf> {
        match (word, who) {
            (w, Who::Ours) if is_download(w) => Some(self.scratch.path("ours")),
            (w, Who::Sdk) if is_download(w) => Some(self.scratch.path("sdk")),
            ("upload-dir", _) => Some(self.tree.clone()),
            _ => None,
        }
    }

    fn run(&self, who: Who, origin: &str, word: &str) -> Result<Cost> {
        let mut command = match who {
            Who::Ours => clean(&self.client),
            Who::Sdk => {
                let mut python = clean(&self.python);
                python.arg(&self.script);
                python
            }
        };
        command.args([origin, word]);
        if let Some(path) = self.path(word, who) {
            command.arg(path);
        }
        let line = shell::read(&mut command)?;
        serde_json::from_str(&line).map_err(|e| format!("{who:?} {word}: {e}: {line}").into())
    }

    /// Seconds that curl takes for the download.
    fn curl(&self, origin: &str) -> Result<f64> {
        let file = self.scratch.path("curl");
        let mut curl = clean(Path::new("curl"));
        curl.args(["--silent", "--show-error", "--fail"])
            .args(["--write-out", "%{time_total} %{size_download}", "--output"])
            .arg(&file)
            .arg(format!("{origin}/object"));
        let said = shell::read(&mut curl)?;
        fs::remove_file(file)?;
        match said.split_once(' ') {
            Some((seconds, size)) if size.trim().parse() == Ok(DOWNLOAD) => Ok(seconds.parse()?),
            _ => Err(format!("curl: {said}").into()),
        }
    }

    /// What arrives is what was sent: each side's archive, unpacked, equals the tree.
    fn check_uploads(&self) -> Result<()> {
        let (kept, out) = (self.scratch.path("kept"), self.scratch.path("unpacked"));
        let listener = Listener::start(&self.canned, &["--keep".as_ref(), kept.as_os_str()])?;
        for who in [Who::Ours, Who::Sdk] {
            self.run(who, &listener.origin, "upload-dir")?;
            fs::create_dir(&out)?;
            let mut tar = Command::new("tar");
            shell::run(tar.arg("-xzf").arg(&kept).arg("-C").arg(&out))?;
            let mut diff = Command::new("diff");
            shell::run(diff.arg("-r").arg(&self.tree).arg(&out))?;
            fs::remove_dir_all(&out)?;
            fs::remove_file(&kept)?;
        }
        Ok(())
    }

    /// One run of each side that is not counted, then `rounds` in turns.
    fn scenario(
        &self,
        origin: &str,
        scenario: &Scenario,
        rounds: usize,
        report: &mut Report,
    ) -> Result<()> {
        let Scenario { word, metric, .. } = *scenario;
        let units = self.run(Who::Ours, origin, word)?.units;
        self.run(Who::Sdk, origin, word)?;
        if is_download(word) {
            check_download(&self.scratch.path("ours"))?;
            let mut cmp = Command::new("cmp");
            shell::run(cmp.args([self.scratch.path("ours"), self.scratch.path("sdk")]))?;
            self.curl(origin)?;
        }
        let (mut ours, mut sdk, mut curl) = (Vec::new(), Vec::new(), Vec::new());
        let mut peaks = Vec::new();
        for _ in 0..rounds {
            for (who, costs) in [(Who::Ours, &mut ours), (Who::Sdk, &mut sdk)] {
                let file = self.path(word, who).filter(|_| is_download(word));
                if let Some(file) = &file {
                    // Both begin with nothing there.
                    let _ = fs::remove_file(file);
                }
                let cost = self.run(who, origin, word)?;
                if cost.units != units {
                    let what = format!("{who:?} {word}: {} instead of {units}", cost.units);
                    return Err(what.into());
                }
                if let Some(file) = &file {
                    fs::remove_file(file)?;
                }
                if who == Who::Ours {
                    peaks.push(cost.peak_mib);
                }
                costs.push(match metric {
                    Metric::Cpu => cost.cpu_s,
                    Metric::Wall => cost.wall_s,
                });
            }
            if is_download(word) {
                curl.push(self.curl(origin)?);
            }
        }
        let median = |of: &[f64]| format!("{} s", short_seconds(Spread::of(of).median));
        report.add(Figure {
            name: format!("{}, against the SDK", scenario.name),
            goal: Goal::AtLeast(scenario.wanted),
            unit: "×",
            samples: ratios(&sdk, &ours),
            from: format!("boxrig {}, SDK {} (medians)", median(&ours), median(&sdk)),
            why: scenario.why,
        });
        if is_download(word) {
            report.add(Figure {
                name: format!("{}, against curl", scenario.name),
                goal: Goal::AtLeast(1.0),
                unit: "×",
                samples: ratios(&curl, &ours),
                from: format!("boxrig {}, curl {} (medians)", median(&ours), median(&curl)),
                why: scenario.why,
            });
        }
        report.add(memory(word, peaks));
        Ok(())
    }
}

fn is_download(word: &str) -> bool {
    word.starts_with("download")
}

/// The largest resident size of the client in a scenario.
pub(super) fn memory(word: &str, peaks: Vec<f64>) -> Figure {
    Figure {
        name: format!("memory of the client: {word}"),
        goal: Goal::NeverOver(MEMORY),
        unit: "MiB",
        samples: peaks,
        from: String::new(),
        why: "",
    }
}

/// How many times less than the peer, round by round.
pub(super) fn ratios(peer: &[f64], ours: &[f64]) -> Vec<f64> {
    peer.iter().zip(ours).map(|(p, o)| p / o).collect()
}

fn short_seconds(s: f64) -> String {
    if s < 0.1 { format!("{s:.4}") } else { short(s) }
}

/// The canned object is one byte over and over.
fn check_download(file: &Path) -> Result<()> {
    let mut file = File::open(file)?;
    let size = file.metadata()?.len();
    let mut block = vec![0; 1024 * 1024];
    loop {
        match file.read(&mut block)? {
            0 if size == DOWNLOAD => return Ok(()),
            n if n > 0 && block[..n].iter().all(|b| *b == 0x5a) => {}
            _ => return Err("what was downloaded is not what was sent".into()),
        }
    }
}
