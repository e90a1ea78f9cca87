//! Our command line and the official Incus client on the same daemon, in turns.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::report::{Figure, Goal, Report, Spread, short};
use super::{Programs, Rounds, clean};
use crate::peers::incus::Daemon;
use crate::{Result, shell};

/// Instances of the long list: one runs, the others are empty.
const LISTED: usize = 101;
const BIG_MIB: u64 = 256;
const SMALL_FILES: usize = 1000;

/// Names of what a run makes, and removes.
const MANY: &str = "op-bench-many";
const ONE: &str = "op-bench-one";
const GUEST: &str = "op-bench";

struct Scenario {
    name: &'static str,
    /// How many times better than the official client is wanted.
    wanted: f64,
    long: bool,
    ours: &'static [&'static str],
    theirs: &'static [&'static str],
    check: fn(&Bench<'_>, &Path) -> Result<()>,
    why: &'static str,
}

/// `@big`, `@tree`, `@out` are paths of the run.
const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "list of 101, name and state",
        wanted: 3.0,
        long: false,
        ours: &["ls", "--on", "many", "--columns", "name,state"],
        theirs: &["list", "--project", MANY, "-c", "ns"],
        check: |bench, out| bench.lists_all(out),
        why: "The daemon takes 10 to 13 ms for this answer (`curl` on its socket), more than a third of what the official \
              client takes in all. Ours adds about 6 ms: its start, 155 KB of JSON, a table.",
    },
    Scenario {
        name: "list of 101, default columns with addresses",
        wanted: 1.0,
        long: false,
        ours: &["ls", "--on", "many", "-o", "wide"],
        theirs: &["list", "--project", MANY],
        check: |bench, out| bench.lists_all(out),
        why: "",
    },
    Scenario {
        name: "list of one",
        wanted: 2.0,
        long: false,
        ours: &["ls", "--on", "one"],
        theirs: &["list", "--project", ONE],
        check: |_, out| says(out, "box"),
        why: "",
    },
    Scenario {
        name: "exec true",
        wanted: 1.0 / 0.7,
        long: false,
        ours: &["exec", GUEST, "--", "true"],
        theirs: &["exec", GUEST, "--", "true"],
        check: |_, _| Ok(()),
        why: "",
    },
    Scenario {
        name: "pull of 256 MiB",
        wanted: 1.5,
        long: true,
        ours: &["cp", "op-bench:/root/big", "@out"],
        theirs: &["file", "pull", "op-bench/root/big", "@out"],
        check: |bench, _| same(&bench.path("out"), &bench.path("big")),
        why: "",
    },
    Scenario {
        name: "push of 256 MiB",
        wanted: 1.0,
        long: true,
        ours: &["cp", "@big", "op-bench:/root/pushed"],
        theirs: &["file", "push", "@big", "op-bench/root/pushed"],
        check: |bench, out| bench.pushed(out),
        why: "",
    },
    Scenario {
        name: "exec output of 256 MiB",
        wanted: 1.0,
        long: true,
        ours: &["exec", GUEST, "--", "cat", "/root/big"],
        theirs: &["exec", GUEST, "--", "cat", "/root/big"],
        check: |bench, out| same(out, &bench.path("big")),
        why: "On a par: 1.11 × (0.64 to 1.28) and 0.88 × (0.67 to 1.06) in two runs. Both wait for the daemon and `cat` on two cores.",
    },
    Scenario {
        name: "push of 1,000 small files",
        wanted: 4.0,
        long: true,
        ours: &["cp", "@tree", "op-bench:/root/copied/tree"],
        theirs: &[
            "file",
            "push",
            "--recursive",
            "@tree",
            "op-bench/root/copied/",
        ],
        check: |bench, out| bench.copied(out),
        why: "",
    },
];

/// Runs every scenario.
pub(super) fn measure(programs: &Programs, rounds: Rounds, report: &mut Report) -> Result<()> {
    let folder = in_memory()?;
    let bench = Bench {
        programs,
        daemon: Daemon::up()?,
        folder,
        big_mib: BIG_MIB,
    };
    bench.prepare()?;
    for scenario in SCENARIOS {
        let rounds = if scenario.long {
            rounds.long
        } else {
            rounds.short * 4
        };
        bench.scenario(scenario, rounds, report)?;
    }
    Ok(())
}

/// Runs each of our commands once, on little: for who watches `program`.
pub(super) fn once(programs: &Programs) -> Result<()> {
    let bench = Bench {
        programs,
        daemon: Daemon::up()?,
        folder: in_memory()?,
        big_mib: 16,
    };
    bench.prepare()?;
    for scenario in SCENARIOS {
        bench.clear()?;
        bench.run(bench.ours(), scenario.ours, false)?;
        (scenario.check)(&bench, &bench.path("stdout"))?;
    }
    bench.remove();
    Ok(())
}

/// A folder that no disk is behind, where there is one.
fn in_memory() -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("boxrig-bench-");
    Ok(match builder.tempdir_in("/dev/shm") {
        Ok(dir) => dir,
        Err(_) => builder.tempdir()?,
    })
}

struct Bench<'a> {
    programs: &'a Programs,
    daemon: Daemon,
    folder: tempfile::TempDir,
    big_mib: u64,
}

/// What a run cost.
struct Cost {
    seconds: f64,
    peak_mib: f64,
}

impl Bench<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ours(&self) -> Command {
        let mut command = clean(&self.programs.boxrig);
        command.env("BOXRIG_HOME", self.path("home"));
        command
    }

    fn theirs(&self) -> Result<Command> {
        let mut command = clean(Path::new("incus"));
        command
            .env("INCUS_SOCKET", self.daemon.value("socket")?)
            .env("INCUS_CONF", self.path("official"));
        for name in ["INCUS_REMOTE", "INCUS_PROJECT", "INCUS_DIR"] {
            command.env_remove(name);
        }
        Ok(command)
    }

    fn official(&self, words: &[&str]) -> Result<String> {
        let mut command = self.theirs()?;
        shell::read(command.args(words).stdin(Stdio::null()))
    }

    /// What a command in the guest says. The official client loses what short commands say now and then: asked again until it says
    /// something.
    fn heard(&self, words: &[&str]) -> Result<String> {
        for _ in 0..20 {
            let said = self.official(words)?;
            if !said.is_empty() {
                return Ok(said);
            }
        }
        Err("a command in the guest says nothing".into())
    }

    fn prepare(&self) -> Result<()> {
        self.remove();
        let url = format!("incus+unix://{}", self.daemon.value("socket")?);
        for (name, project) in [("guest", "default"), ("many", MANY), ("one", ONE)] {
            let mut add = self.ours();
            add.args(["ctx", "add", name, &url, "--project", project]);
            shell::run(&mut add)?;
        }
        shell::run(self.ours().args(["ctx", "use", "guest"]))?;
        // One name on a network is one instance's, whatever the project.
        for (project, count, running) in [(MANY, LISTED, "box-0"), (ONE, 1, "box-one")] {
            let own = [
                "-c",
                "features.images=false",
                "-c",
                "features.profiles=false",
            ];
            self.official(&[&["project", "create", project][..], &own].concat())?;
            for n in 1..count {
                let name = format!("box-{n}");
                self.official(&["init", "--empty", &name, "--project", project])?;
            }
            self.official(&["launch", "busybox", running, "--project", project])?;
        }
        self.official(&["launch", "busybox", GUEST])?;
        let line = format!(
            "dd if=/dev/urandom of=/root/big bs=1M count={} 2>/dev/null; mkdir -p /root/copied",
            self.big_mib
        );
        self.official(&["exec", GUEST, "--", "sh", "-c", &line])?;
        let big = self.path("big");
        let big = big.to_str().ok_or("a path that is not UTF-8")?;
        self.official(&["file", "pull", &format!("{GUEST}/root/big"), big])?;
        if fs::metadata(big)?.len() != self.big_mib << 20 {
            return Err("the big file is not as big as it should be".into());
        }
        let tree = self.path("tree");
        for n in 0..SMALL_FILES {
            let dir = tree.join(format!("d{}", n % 20));
            fs::create_dir_all(&dir)?;
            fs::write(dir.join(format!("f{n}")), format!("{n}\n").repeat(100))?;
        }
        Ok(())
    }

    /// Removes what a run makes, and what one that broke off has left.
    fn remove(&self) {
        let _ = self.quiet(&["delete", "--force", GUEST]);
        for project in [MANY, ONE] {
            // Not by force: a daemon of 6.0 then empties the default profile too, which the project shares.
            let list = ["list", "--project", project, "-c", "n", "-f", "csv"];
            let names = self.official(&list).unwrap_or_default();
            let mut delete = vec!["delete", "--force", "--project", project];
            delete.extend(names.split_whitespace());
            let _ = self.quiet(&delete);
            let _ = self.quiet(&["project", "delete", project]);
        }
    }

    fn quiet(&self, words: &[&str]) -> Result<()> {
        let mut command = self.theirs()?;
        command.args(words).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status()?;
        Ok(())
    }

    fn words(&self, words: &[&str]) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        words
            .iter()
            .map(|w| w.strip_prefix('@').map_or((*w).to_owned(), path))
            .collect()
    }

    /// One run with its output in a file.
    fn run(&self, mut command: Command, words: &[&str], watch: bool) -> Result<Cost> {
        let out = self.path("stdout");
        command
            .args(self.words(words))
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(Stdio::piped());
        let begin = Instant::now();
        let mut child = command.spawn()?;
        let mut peak: f64 = 0.0;
        if watch {
            let status = format!("/proc/{}/status", child.id());
            while child.try_wait()?.is_none() {
                let text = fs::read_to_string(&status).unwrap_or_default();
                peak = peak.max(super::engine::kib(&text, "VmHWM").unwrap_or(0.0) / 1024.0);
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        let output = child.wait_with_output()?;
        let seconds = begin.elapsed().as_secs_f64();
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{}: {words}", shell::shown(&command)).into());
        }
        Ok(Cost {
            seconds,
            peak_mib: peak,
        })
    }

    /// Removes what a command has copied.
    fn clear(&self) -> Result<()> {
        let _ = fs::remove_file(self.path("out"));
        let copied = ["/root/copied/tree", "/root/pushed"];
        self.official(&[&["exec", GUEST, "--", "rm", "-rf"], &copied[..]].concat())?;
        Ok(())
    }

    /// A run of each side that is not counted but checked, then `rounds` in turns, then some for the memory.
    fn scenario(&self, s: &Scenario, rounds: usize, report: &mut Report) -> Result<()> {
        let sides = || -> Result<[(Command, &[&str]); 2]> {
            Ok([(self.ours(), s.ours), (self.theirs()?, s.theirs)])
        };
        for (command, words) in sides()? {
            self.clear()?;
            self.run(command, words, false)?;
            (s.check)(self, &self.path("stdout"))?;
        }
        let mut seconds = [Vec::new(), Vec::new()];
        let mut peaks = [Vec::new(), Vec::new()];
        for (watch, rounds) in [(false, rounds), (true, 3)] {
            for _ in 0..rounds {
                for (side, (command, words)) in sides()?.into_iter().enumerate() {
                    if s.long {
                        self.clear()?;
                    }
                    let cost = self.run(command, words, watch)?;
                    if watch {
                        peaks[side].push(cost.peak_mib);
                    } else {
                        seconds[side].push(cost.seconds);
                    }
                }
            }
        }
        let median = |of: &[f64]| short(Spread::of(of).median * 1e3);
        let ratio = |of: &[Vec<f64>; 2]| of[1].iter().zip(&of[0]).map(|(t, o)| t / o).collect();
        report.add(Figure {
            name: format!("Incus: {}, against the official client", s.name),
            goal: Goal::AtLeast((s.wanted * 100.0).round() / 100.0),
            unit: "×",
            samples: ratio(&seconds),
            from: format!(
                "boxrig {} ms, incus {} ms (medians)",
                median(&seconds[0]),
                median(&seconds[1])
            ),
            why: s.why,
        });
        report.add(Figure {
            name: format!(
                "Incus: peak memory, {}, against the official client",
                s.name
            ),
            goal: Goal::AtLeast(2.0),
            unit: "×",
            samples: ratio(&peaks),
            from: format!(
                "boxrig {} MiB, incus {} MiB (medians)",
                short(Spread::of(&peaks[0]).median),
                short(Spread::of(&peaks[1]).median)
            ),
            why: "",
        });
        Ok(())
    }

    fn lists_all(&self, out: &Path) -> Result<()> {
        let text = fs::read_to_string(out)?;
        let all = (0..LISTED).all(|n| text.contains(&format!("box-{n} ")));
        if all {
            Ok(())
        } else {
            Err(format!("not all {LISTED} are listed: {text}").into())
        }
    }

    fn pushed(&self, _: &Path) -> Result<()> {
        let there = self.heard(&[
            "exec",
            GUEST,
            "--",
            "sha256sum",
            "/root/big",
            "/root/pushed",
        ])?;
        let mut sums = there.lines().filter_map(|l| l.split(' ').next());
        if there.lines().count() == 2 && sums.next() == sums.next() {
            Ok(())
        } else {
            Err(format!("what was pushed is not what was sent: {there}").into())
        }
    }

    fn copied(&self, _: &Path) -> Result<()> {
        let line = "cd /root/copied/tree && find . -type f | wc -l; cat d0/f0 d19/f999 | sha256sum";
        let there = self.heard(&["exec", GUEST, "--", "sh", "-c", line])?;
        let mut sum = Command::new("sh");
        sum.args(["-c", "cat d0/f0 d19/f999 | sha256sum"])
            .current_dir(self.path("tree"));
        let here = shell::read(&mut sum)?;
        if there == format!("{SMALL_FILES}\n{here}") {
            Ok(())
        } else {
            Err(format!("the tree is not what was sent: {there}").into())
        }
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

fn says(out: &Path, word: &str) -> Result<()> {
    let text = fs::read_to_string(out)?;
    if text.contains(word) {
        Ok(())
    } else {
        Err(format!("no {word}: {text}").into())
    }
}

fn same(one: &Path, other: &Path) -> Result<()> {
    shell::run(Command::new("cmp").arg(one).arg(other))
}
