//! `doctor`: whether instances can run here, found out by running one.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use boxrig_engine::ProbeReport;
use boxrig_wire::{Error, Kind, escape_line};
use clap::ArgMatches;
use serde_json::json;

use crate::cli::exit::{Failure, Outcome};
use crate::cli::output::Format;
use crate::cli::session::Session;

/// Ubuntu's switch that keeps ordinary programs from making user namespaces.
const RESTRICTION: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";

/// Says step by step what works; 7 when instances cannot run here.
pub(crate) async fn run(s: &Session, m: &ArgMatches) -> Outcome {
    crate::cli::paths::private_dir(&s.paths.data)?;
    let report = boxrig_engine::probe(&s.paths.data.join("doctor")).await;
    let _ = std::fs::remove_dir_all(s.paths.data.join("doctor"));
    let restricted = is_restricted(Path::new(RESTRICTION));
    match s.style.format {
        Format::Json | Format::Yaml => {
            let value = json!({
                "ok": report.ok(),
                "steps": report.steps,
                "remedies": report.remedies,
                "apparmor_restricted": restricted,
            });
            crate::cli::output::one(&mut io::stdout().lock(), &s.style, &[], value)?;
        }
        _ => print(&report)?,
    }
    if m.get_flag("fix") {
        return fix(s, &report, restricted);
    }
    if report.ok() {
        Ok(())
    } else {
        Err(Failure::Code(crate::cli::exit::code(Kind::Unsupported)))
    }
}

fn print(report: &ProbeReport) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for step in &report.steps {
        match &step.failure {
            None => writeln!(out, "ok      {}", escape_line(&step.name))?,
            Some(failure) => writeln!(
                out,
                "FAILED  {}: {}",
                escape_line(&step.name),
                escape_line(&failure.message)
            )?,
        }
        if let Some(note) = &step.note {
            writeln!(out, "        {}", escape_line(note))?;
        }
    }
    if report.ok() {
        return writeln!(out, "instances can run here");
    }
    writeln!(out, "instances cannot run here; ways on:")?;
    for remedy in &report.remedies {
        writeln!(out, "  - {}", escape_line(&remedy.text))?;
        if let Some(command) = &remedy.command {
            writeln!(out, "      {}", escape_line(command))?;
        }
    }
    Ok(())
}

fn is_restricted(switch: &Path) -> bool {
    std::fs::read_to_string(switch).is_ok_and(|text| text.trim() == "1")
}

/// Prints the profile for this one program, then writes and loads it; only where AppArmor's limit is the cause.
fn fix(s: &Session, report: &ProbeReport, restricted: bool) -> Outcome {
    if report.ok() {
        s.say("there is nothing to fix");
        return Ok(());
    }
    if !restricted {
        return Err(Error::new(
            Kind::Unsupported,
            "the cause is not AppArmor's limit on user namespaces: there is nothing that --fix can do",
        )
        .into());
    }
    let program = std::env::current_exe()?;
    let (file, text) = profile(&program)?;
    writeln!(io::stdout().lock(), "\n# {}\n{text}", file.display())?;
    if !s.may_change(
        &s.config.context(crate::cli::contexts::LOCAL)?,
        &format!("write {}", file.display()),
    )? {
        return Ok(());
    }
    s.confirm("write and load this profile?")?;
    std::fs::write(&file, &text).map_err(|e| {
        Error::new(Kind::Denied, format!("{}: {e}", file.display()))
            .with_hint(format!("sudo {} doctor --fix", program.display()))
    })?;
    let loaded = std::process::Command::new("apparmor_parser")
        .arg("--replace")
        .arg(&file)
        .status();
    match loaded {
        Ok(status) if status.success() => {
            s.say("written and loaded; try `boxrig doctor` again");
            Ok(())
        }
        other => Err(Error::new(
            Kind::Failed,
            format!(
                "apparmor_parser: {}",
                other.map_or_else(|e| e.to_string(), |s| s.to_string())
            ),
        )
        .into()),
    }
}

/// A profile that takes nothing away from this program and allows it user namespaces, and no other program.
fn profile(program: &Path) -> Result<(PathBuf, String), Error> {
    let path = program.to_str().filter(|p| {
        p.chars()
            .all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c))
    });
    let Some(path) = path else {
        return Err(Error::new(
            Kind::Unsupported,
            "the program's path has characters that cannot be in an AppArmor profile; move it",
        ));
    };
    let name = format!("boxrig{}", path.replace('/', "."));
    let text = format!(
        "abi <abi/4.0>,\ninclude <tunables/global>\n\nprofile {name} {path} flags=(unconfined) {{\n  userns,\n}}\n"
    );
    Ok((Path::new("/etc/apparmor.d").join(&name), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_for_one_program() {
        let (file, text) = profile(Path::new("/usr/local/bin/boxrig")).unwrap();
        assert_eq!(
            file,
            Path::new("/etc/apparmor.d/boxrig.usr.local.bin.boxrig")
        );
        assert!(text.contains("profile boxrig.usr.local.bin.boxrig /usr/local/bin/boxrig flags=(unconfined) {\n  userns,\n}"));
        for bad in ["/tmp/a b", "/tmp/{x}", "/tmp/*", "/tmp/ü"] {
            assert!(profile(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
