//! Boxrig's Convox client and program, and the vendor's SDK, on one canned-reply listener.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde::Deserialize;

use super::clients::{Cost, Listener, memory, ratios};
use super::report::{Figure, Goal, Report, Spread, short};
use super::{Programs, Rounds, clean};
use crate::peers::convox::sdk_python;
use crate::server::{Server, User};
use crate::{Result, root, shell};

/// Apps of the canned rack (`boxrig_benches::APPS`).
const APPS: usize = 1000;

/// Runs every scenario.
pub(super) fn measure(programs: &Programs, rounds: Rounds, report: &mut Report) -> Result<()> {
    let listener = Listener::start(&programs.benches.join("canned"), &[])?;
    let python = sdk_python()?;
    let script = root().join("benches/convox_sdk.py");
    let origin = &*listener.origin;
    let ours = |word: &str| {
        let mut command = clean(&programs.benches.join("client"));
        command.args([origin, word]);
        command
    };
    let sdk = |word: &str| {
        let mut command = clean(&python);
        command.arg(&script).args([origin, word]);
        command
    };
    list(&ours, &sdk, rounds.short, report)?;
    first_row(programs, origin, &sdk, rounds.short, report)?;
    logs(&ours, rounds.long, report)?;
    drop(listener);
    promote(programs, rounds, report)
}

/// Milliseconds of each promotion.
#[derive(Deserialize)]
struct Promotions {
    serving_ms: Vec<f64>,
}

/// From the call that promotes to the first answer of the new release, on a rack of our own; the SDK has no part in it.
fn promote(programs: &Programs, rounds: Rounds, report: &mut Report) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("boxrig-bench-").tempdir()?;
    let arguments = ["--engine", "sandbox"];
    let server = Server::start(&programs.boxrig, folder.path(), User::Same, &arguments, &[])?;
    let mut command = clean(&programs.benches.join("rack"));
    for name in ["CONVOX_HOST", "CONVOX_PASSWORD"] {
        command.env(name, server.var(name)?);
    }
    let said = shell::read(command.args(["promote", &(2 * rounds.short).to_string()]))?;
    server.stop()?;
    let promotions: Promotions = serde_json::from_str(&said)?;
    report.add(Figure {
        name: "Convox: promote of a ready one-process app, from the call to serving".into(),
        goal: Goal::AtLeast(0.0),
        unit: "ms",
        samples: promotions.serving_ms,
        from: "recorded; the app's process is a Python program, whose own start is in it".into(),
        why: "",
    });
    Ok(())
}

fn cost(command: &mut Command) -> Result<Cost> {
    let line = shell::read(command)?;
    serde_json::from_str(&line).map_err(|e| format!("{command:?}: {e}: {line}").into())
}

/// A list of 1,000 apps, one time after the other.
fn list(
    ours: &dyn Fn(&str) -> Command,
    sdk: &dyn Fn(&str) -> Command,
    rounds: usize,
    report: &mut Report,
) -> Result<()> {
    let (mut mine, mut theirs, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (a, b) = (
            cost(&mut ours("convox-list"))?,
            cost(&mut sdk("convox-list"))?,
        );
        if a.units != b.units || a.units == 0 {
            return Err(format!("convox-list: {} and {} apps", a.units, b.units).into());
        }
        // The first round is not counted.
        if round > 0 {
            mine.push(a.wall_s);
            theirs.push(b.wall_s);
            peaks.push(a.peak_mib);
        }
    }
    let median = |of: &[f64]| short(Spread::of(of).median);
    report.add(Figure {
        name: "Convox: list of 1,000 apps, rate, against the SDK".into(),
        goal: Goal::AtLeast(5.0),
        unit: "×",
        samples: ratios(&theirs, &mine),
        from: format!(
            "boxrig {} s, SDK {} s (medians)",
            median(&mine),
            median(&theirs)
        ),
        why: "Two thirds of the time that a list takes go into reading the apps, and half of that into their memory: seven texts and a map \
              each. Tried on the same text, outside the client: texts held in place (`compact_str`) halve the reading, which makes 4 × of \
              it; `sonic-rs` is no faster than `serde_json`; to look over the text and keep nothing takes a quarter already.",
    });
    report.add(memory("convox-list", peaks));
    Ok(())
}

/// From the start of the process to the list on standard output.
fn first_row(
    programs: &Programs,
    origin: &str,
    sdk: &dyn Fn(&str) -> Command,
    rounds: usize,
    report: &mut Report,
) -> Result<()> {
    let ours = || {
        let mut command = clean(Path::new(&programs.boxrig));
        command.args([
            "convox",
            "app-list",
            "--on",
            "env:convox",
            "-q",
            "--columns",
            "name",
        ]);
        command
            .env("CONVOX_HOST", origin)
            .env("CONVOX_PASSWORD", "k");
        command
    };
    let time = |mut command: Command| -> Result<f64> {
        let begin = Instant::now();
        let said = shell::read(&mut command)?;
        let took = begin.elapsed().as_secs_f64();
        match said.lines().count() {
            APPS => Ok(took),
            n => Err(format!("{command:?}: {n} lines").into()),
        }
    };
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (a, b) = (time(ours())?, time(sdk("names"))?);
        if round > 0 {
            mine.push(a);
            theirs.push(b);
        }
    }
    let median = |of: &[f64]| short(Spread::of(of).median * 1000.0);
    report.add(Figure {
        name: "Convox: process start to the listed apps, against a script with the SDK".into(),
        goal: Goal::AtLeast(15.0),
        unit: "×",
        samples: ratios(&theirs, &mine),
        from: format!(
            "boxrig {} ms, SDK {} ms (medians)",
            median(&mine),
            median(&theirs)
        ),
        why: "",
    });
    Ok(())
}

/// A followed log read to its end; the SDK has none.
fn logs(ours: &dyn Fn(&str) -> Command, rounds: usize, report: &mut Report) -> Result<()> {
    let (mut rates, mut peaks) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let cost = cost(&mut ours("convox-logs"))?;
        rates.push(cost.units as f64 / cost.wall_s / (1024.0 * 1024.0));
        peaks.push(cost.peak_mib);
    }
    report.add(Figure {
        name: "Convox: log lines followed, repeats watched for".into(),
        goal: Goal::AtLeast(0.0),
        unit: "MiB/s",
        samples: rates,
        from: "recorded".into(),
        why: "",
    });
    report.add(memory("convox-logs", peaks));
    Ok(())
}
