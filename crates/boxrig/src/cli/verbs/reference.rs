//! Completions and manual pages, from the tree of commands.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap_complete::Shell;

use super::text;
use crate::cli::exit::Outcome;
use crate::cli::tree;

/// Prints completions for a shell.
pub(crate) fn completions(m: &ArgMatches) -> Outcome {
    let shell: Shell = text(m, "shell")
        .parse()
        .map_err(|e: String| boxrig_wire::Error::new(boxrig_wire::Kind::Invalid, e))?;
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut tree::program(), "boxrig", &mut text);
    Ok(io::stdout().lock().write_all(&text)?)
}

/// Prints the page of the program, or writes one for each command.
pub(crate) fn man(m: &ArgMatches) -> Outcome {
    let mut program = tree::program();
    program.build();
    match m.get_one::<PathBuf>("dir") {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(program).render(&mut page)?;
            io::stdout().lock().write_all(&page)?;
        }
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            pages(dir, &program, "boxrig")?;
        }
    }
    Ok(())
}

fn pages(dir: &Path, command: &clap::Command, name: &str) -> io::Result<()> {
    let mut page = Vec::new();
    let titled = command.clone().display_name(name.to_owned());
    clap_mangen::Man::new(titled).render(&mut page)?;
    std::fs::write(dir.join(format!("{name}.1")), page)?;
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        pages(dir, sub, &format!("{name}-{}", sub.get_name()))?;
    }
    Ok(())
}
