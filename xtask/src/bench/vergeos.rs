//! Boxrig's VergeOS client and the vendor's Python SDK, on one canned TLS listener and on our server.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::clients::{Cost, Listener};
use super::report::{Figure, Goal, Report, Spread, short};
use super::scratch::Scratch;
use super::{Programs, Rounds, clean};
use crate::peers::vergeos::sdk_python;
use crate::server::{Server, User};
use crate::{Result, root, shell};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Ours,
    Sdk,
}

/// A system to talk to.
struct At<'a> {
    host: &'a str,
    ca: &'a Path,
    password: &'a str,
}

/// Runs every scenario.
pub(super) fn measure(programs: &Programs, rounds: Rounds, report: &mut Report) -> Result<()> {
    let scratch = Scratch::new()?;
    let bench = Bench {
        client: programs.benches.join("client_vergeos"),
        python: sdk_python()?,
        script: root().join("benches/vergeos_sdk.py"),
        file: scratch.path("disk.raw"),
        scratch,
    };
    let mib = if rounds.long < super::FULL.long {
        256
    } else {
        1024
    };
    let ca = bench.scratch.path("ca.pem");
    let size = mib.to_string();
    let arguments = [ca.as_os_str(), size.as_ref()];
    let listener = Listener::start(&programs.benches.join("canned_vergeos"), &arguments)?;
    let canned = At {
        host: &listener.origin,
        ca: &ca,
        password: "p",
    };
    bench.list(&canned, rounds, report)?;
    bench.first(&canned, rounds, report)?;
    bench.transfers(&canned, mib, rounds, report)?;
    drop(listener);

    let folder = tempfile::Builder::new().prefix("boxrig-bench-").tempdir()?;
    let arguments = ["--engine", "memory", "--seed", "lab", "--vms", "10000"];
    let server = Server::start(&programs.boxrig, folder.path(), User::Same, &arguments, &[])?;
    let own = At {
        host: server.var("VERGE_HOST")?,
        ca: Path::new(server.var("BOXRIG_CA_FILE")?),
        password: server.var("VERGE_PASSWORD")?,
    };
    bench.own_server(&own, rounds, report)?;
    server.stop()
}

struct Bench {
    client: PathBuf,
    python: PathBuf,
    script: PathBuf,
    file: PathBuf,
    scratch: Scratch,
}

impl Bench {
    fn command(&self, who: Who, at: &At<'_>, word: &str, path: Option<&Path>) -> Command {
        let mut command = match who {
            Who::Ours => {
                let mut ours = clean(&self.client);
                ours.arg(at.host).arg(at.ca);
                ours
            }
            Who::Sdk => {
                let mut python = clean(&self.python);
                python.arg(&self.script).arg(at.host);
                python.env("REQUESTS_CA_BUNDLE", at.ca);
                python
            }
        };
        command.env("VERGE_PASSWORD", at.password).arg(word);
        if let Some(path) = path {
            command.arg(path);
        }
        command
    }

    fn run(&self, who: Who, at: &At<'_>, word: &str, path: Option<&Path>) -> Result<Cost> {
        let line = shell::read(&mut self.command(who, at, word, path))?;
        serde_json::from_str(&line).map_err(|e| format!("{who:?} {word}: {e}: {line}").into())
    }

    /// One run of each side that is not counted, then `rounds` in turns. Gives the costs of ours and of the SDK's.
    fn turns(
        &self,
        at: &At<'_>,
        word: &str,
        path: impl Fn(Who) -> Option<PathBuf>,
        rounds: usize,
    ) -> Result<(Vec<Cost>, Vec<Cost>)> {
        let (mut ours, mut sdk) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            for (who, costs) in [(Who::Ours, &mut ours), (Who::Sdk, &mut sdk)] {
                let path = path(who);
                let cost = self.run(who, at, word, path.as_deref())?;
                if word == "download"
                    && let Some(path) = &path
                {
                    if round == 0 {
                        shell::run(Command::new("cmp").arg(path).arg(&self.file))?;
                    }
                    // Both begin with nothing there.
                    fs::remove_file(path)?;
                }
                if round > 0 {
                    costs.push(cost);
                }
            }
        }
        let units = ours.first().map(|c| c.units);
        match ours.iter().chain(&sdk).all(|c| Some(c.units) == units) {
            true => Ok((ours, sdk)),
            false => Err(format!("{word}: the two sides did not do the same").into()),
        }
    }

    /// In this scenario `peak_mib` is what the memory grew by.
    fn list(&self, at: &At<'_>, rounds: Rounds, report: &mut Report) -> Result<()> {
        let (ours, sdk) = self.turns(at, "list", |_| None, rounds.short)?;
        report.add(ratio(
            "VergeOS: list of 10,000 typed rows over TLS, against the SDK",
            Goal::AtLeast(6.0),
            (&sdk, &ours),
            |c| c.wall_s,
            "s",
        ));
        report.add(ratio(
            "VergeOS: growth of memory by that list, of the SDK's",
            Goal::AtMost(0.25),
            (&ours, &sdk),
            |c| c.peak_mib,
            "MiB",
        ));
        Ok(())
    }

    /// The whole process, from its start to the name of the first row.
    fn first(&self, at: &At<'_>, rounds: Rounds, report: &mut Report) -> Result<()> {
        let (mut ours, mut sdk) = (Vec::new(), Vec::new());
        for round in 0..=2 * rounds.short {
            for (who, times) in [(Who::Ours, &mut ours), (Who::Sdk, &mut sdk)] {
                let begin = Instant::now();
                let said = shell::read(&mut self.command(who, at, "first", None))?;
                let took = begin.elapsed().as_secs_f64();
                if said.trim() != "vm-00001" {
                    return Err(format!("{who:?} first: {said:?}").into());
                }
                if round > 0 {
                    times.push(took);
                }
            }
        }
        report.add(Figure {
            name: "VergeOS: start of a program to its first row, against the SDK".into(),
            goal: Goal::AtLeast(15.0),
            unit: "×",
            samples: sdk.iter().zip(&ours).map(|(p, o)| p / o).collect(),
            from: medians(&ours, &sdk, "s"),
            why: "",
        });
        Ok(())
    }

    fn transfers(&self, at: &At<'_>, mib: u64, rounds: Rounds, report: &mut Report) -> Result<()> {
        let mut file = fs::File::create(&self.file)?;
        let block = vec![0x5a; 1 << 20];
        for _ in 0..mib {
            file.write_all(&block)?;
        }
        drop(file);
        let size = if mib == 1024 {
            "1 GiB".to_owned()
        } else {
            format!("{mib} MiB")
        };
        for word in ["upload", "download"] {
            let path = |who| match (word, who) {
                ("upload", _) => Some(self.file.clone()),
                (_, Who::Ours) => Some(self.scratch.path("ours")),
                (_, Who::Sdk) => Some(self.scratch.path("sdk")),
            };
            let (ours, sdk) = self.turns(at, word, path, rounds.long)?;
            if ours.iter().any(|c| c.units != mib << 20) {
                return Err(format!("{word}: not {size}").into());
            }
            report.add(ratio(
                &format!("VergeOS: {word} of {size} over TLS, against the SDK"),
                Goal::AtLeast(2.0),
                (&sdk, &ours),
                |c| c.wall_s,
                "s",
            ));
        }
        Ok(())
    }

    /// Processor time of the client alone, on our own server.
    fn own_server(&self, at: &At<'_>, rounds: Rounds, report: &mut Report) -> Result<()> {
        for (word, name) in [("list", "list of 10,000 rows"), ("gets", "300 single rows")] {
            let (ours, sdk) = self.turns(at, word, |_| None, rounds.short)?;
            report.add(ratio(
                &format!("VergeOS: {name} from our server, CPU time against the SDK"),
                Goal::AtLeast(6.0),
                (&sdk, &ours),
                |c| c.cpu_s,
                "s",
            ));
        }
        Ok(())
    }
}

/// How many times the second side's value the first side's is, round by round.
fn ratio(
    name: &str,
    goal: Goal,
    (over, under): (&[Cost], &[Cost]),
    of: impl Fn(&Cost) -> f64,
    unit: &str,
) -> Figure {
    let (over, under): (Vec<f64>, Vec<f64>) = (
        over.iter().map(&of).collect(),
        under.iter().map(&of).collect(),
    );
    // The goal tells on which side of the division ours stand.
    let from = match goal {
        Goal::AtLeast(_) => medians(&under, &over, unit),
        _ => medians(&over, &under, unit),
    };
    Figure {
        name: name.to_owned(),
        goal,
        unit: "×",
        samples: over.iter().zip(&under).map(|(o, u)| o / u).collect(),
        from,
        why: WHY
            .iter()
            .find(|(of, _)| name.contains(of))
            .map_or("", |(_, why)| why),
    }
}

/// What is known of figures that may be missed, by a part of their names.
const WHY: &[(&str, &str)] = &[
    (
        "10,000 typed rows",
        "It was 7 × on a quieter machine. Rows are read while they come, into one piece of memory each, those like the one before \
         without a JSON parser. What is left is a third the kernel's: 5 MB to be received, page faults of the rows.",
    ),
    (
        "10,000 rows from our server",
        "As the list over TLS from the canned listener.",
    ),
    (
        "300 single rows",
        "It was 6.16 × on a quieter machine; a call costs 0.15 ms of processor time, most of it in the kernel.",
    ),
    (
        "VergeOS: download",
        "`curl` takes as long as both sides (0.32 s for 256 MiB): it is the listener that encrypts on one of two cores. Ours makes the \
         SHA-256 besides.",
    ),
];

fn medians(ours: &[f64], sdk: &[f64], unit: &str) -> String {
    let median = |of: &[f64]| match Spread::of(of).median {
        n if n < 0.1 => format!("{n:.4} {unit}"),
        n => format!("{} {unit}", short(n)),
    };
    format!("boxrig {}, SDK {} (medians)", median(ours), median(sdk))
}
