//! The command line: from arguments to an exit code.

mod background;
mod contexts;
mod escaped;
mod exit;
mod import;
mod native;
mod output;
mod paths;
mod progress;
mod pump;
mod secret;
mod session;
mod terminal;
mod tree;
mod units;
mod verbs;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use boxrig_wire::{Error, Kind};
use clap::ArgMatches;
use clap::error::ErrorKind;

use exit::{Failure, Outcome};
use session::Session;

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // No tree and no runtime for the one question that scripts ask all the time.
    if let [_, flag] = args.as_slice()
        && (flag == "--version" || flag == "-V")
    {
        let _ = writeln!(std::io::stdout(), "boxrig {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let matches = match tree::program().try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(e) => return usage(&e, &args),
    };
    let as_json = output_is_json(&matches);
    match dispatch(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = std::io::stdout().flush();
            failure.report(as_json);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn output_is_json(matches: &ArgMatches) -> bool {
    let mut matches = matches;
    loop {
        if matches
            .try_get_one::<String>("output")
            .ok()
            .flatten()
            .is_some_and(|o| o == "json")
        {
            return true;
        }
        match matches.subcommand() {
            Some((_, inner)) => matches = inner,
            None => return false,
        }
    }
}

/// Usage errors: 2, or 125 for the commands that end with another program's code; JSON when that was asked for.
fn usage(e: &clap::Error, args: &[OsString]) -> ExitCode {
    let told = matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if told {
        let _ = e.print();
        return ExitCode::SUCCESS;
    }
    let words: Vec<&str> = args.iter().filter_map(|a| a.to_str()).collect();
    let own = words
        .iter()
        .skip(1)
        .find(|w| !w.starts_with('-'))
        .is_some_and(|w| ["run", "exec", "shell"].contains(w));
    let code = if own { exit::OWN } else { 2 };
    let json = words.contains(&"-ojson")
        || words.contains(&"--output=json")
        || words
            .windows(2)
            .any(|w| (w[0] == "-o" || w[0] == "--output") && w[1] == "json");
    if json {
        let text = boxrig_wire::escape_text(&e.render().to_string()).into_owned();
        let text = text.trim().trim_start_matches("error: ").to_owned();
        let error = Error::new(Kind::Invalid, text);
        let _ = writeln!(std::io::stderr(), "{}", exit::json_error(&error, code));
    } else {
        let text = e.render().to_string();
        let _ = write!(std::io::stderr(), "{}", boxrig_wire::escape_text(&text));
    }
    ExitCode::from(code)
}

fn dispatch(matches: &ArgMatches) -> Outcome {
    let Some((name, sub)) = matches.subcommand() else {
        return Err(Failure::Code(2));
    };
    // Commands that need neither contexts nor a runtime.
    match name {
        "completions" => return verbs::reference::completions(sub),
        "man" => return verbs::reference::man(sub),
        "coverage" => return verbs::coverage::run(sub),
        "serve" => return verbs::serve::run(sub),
        _ => {}
    }
    let own = matches!(name, "run" | "exec" | "shell");
    let session = match Session::new(sub) {
        Ok(session) => session,
        Err(e) if own => return Err(Failure::Own(e)),
        Err(e) => return Err(e.into()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let limit = if own { None } else { session.timeout };
    let outcome = runtime.block_on(async {
        let work = verbs::run(&session, name, sub);
        match limit {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                Err(Error::new(Kind::Timeout, format!("not done after {limit:?}")).into())
            }),
        }
    });
    // A thread may still wait for standard input; it is not waited for.
    runtime.shutdown_background();
    match outcome {
        Err(Failure::Error(e)) if own => Err(Failure::Own(e)),
        other => other,
    }
}
