//! Running programs and saying what was run when they fail.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Output, Stdio};

use crate::Result;

/// Runs a program with its output shown.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .map_err(|e| format!("{}: {e}", shown(command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{}: {status}", shown(command)).into())
    }
}

/// Runs a program for what it prints on stdout; its stderr is shown.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let Output { status, stdout, .. } = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("{}: {e}", shown(command)))?;
    if !status.success() {
        return Err(format!("{}: {status}", shown(command)).into());
    }
    Ok(String::from_utf8(stdout)?)
}

/// Runs a program for what it prints, however it ends; its stderr is dropped.
pub(crate) fn outcome(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::null())
        .output()
        .map_err(|e| format!("{}: {e}", shown(command)))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The program with its arguments, for messages. Environment is left out: it holds keys.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|w| w.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a program, showing its stdout while it comes and giving it back with the status.
pub(crate) fn watch(command: &mut Command) -> Result<(String, ExitStatus)> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{}: {e}", shown(command)))?;
    let mut text = String::new();
    let output = child.stdout.take().ok_or("no stdout")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        text.push_str(&line);
        text.push('\n');
    }
    Ok((text, child.wait()?))
}
