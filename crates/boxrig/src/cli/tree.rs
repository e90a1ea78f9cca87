//! The tree of commands. A command's arguments are built only when it is entered.

mod instances;
mod other;
mod server;

use clap::builder::{PossibleValuesParser, Styles};
use clap::{Arg, ArgAction, Command};

use super::output::Format;
use super::units;

/// The whole program.
pub(crate) fn program() -> Command {
    Command::new("boxrig")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Instances on this machine and on VergeOS, Incus, FastVM and Convox")
        .styles(Styles::plain())
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .after_help(
            "A NAME may be CONTEXT:NAME. With no configuration the context is `local`: a server of this \
             machine, started when it is needed.\n\n\
             Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 5 denied, 6 unavailable or timeout, \
             7 unsupported, 8 outcome unknown. `run`, `exec` and `shell` end with the command's own code, or 125 \
             for a failure of boxrig itself.",
        )
        .args(common())
        .subcommands(instances::commands())
        .subcommands(server::commands())
        .subcommands(other::commands())
}

fn common() -> Vec<Arg> {
    let global = |name: &'static str| Arg::new(name).long(name).global(true);
    vec![
        global("on")
            .value_name("CONTEXT")
            .action(ArgAction::Append)
            .help("Work on this context; several for lists")
            .help_heading("Common"),
        global("all")
            .action(ArgAction::SetTrue)
            .conflicts_with("on")
            .help("Work on all contexts (lists)")
            .help_heading("Common"),
        global("output")
            .short('o')
            .value_name("FORMAT")
            .value_parser(PossibleValuesParser::new(Format::NAMES))
            .default_value("table")
            .hide_default_value(true)
            .help("How to print")
            .help_heading("Common"),
        global("columns")
            .value_name("FIELD,…")
            .value_delimiter(',')
            .help("Print these members instead of the usual columns")
            .help_heading("Common"),
        global("filter")
            .value_name("FIELD=VALUE")
            .action(ArgAction::Append)
            .help("Only rows with this; also FIELD!=VALUE and FIELD~PART")
            .help_heading("Common"),
        global("sort")
            .value_name("FIELD,…")
            .value_delimiter(',')
            .allow_hyphen_values(true)
            .help("Sort by these; -FIELD turns the order")
            .help_heading("Common"),
        global("no-color")
            .action(ArgAction::SetTrue)
            .help("Print without colours (also NO_COLOR)")
            .help_heading("Common"),
        global("quiet")
            .short('q')
            .action(ArgAction::SetTrue)
            .help("Say only what was asked for: no titles, no progress")
            .help_heading("Common"),
        global("verbose")
            .short('v')
            .action(ArgAction::Count)
            .help("Say what is done on stderr; twice for more")
            .help_heading("Common"),
        global("timeout")
            .value_name("TIME")
            .value_parser(units::time)
            .help("The longest that the whole command may take (30s, 5m)")
            .help_heading("Common"),
        global("yes")
            .action(ArgAction::SetTrue)
            .help("Ask nothing")
            .help_heading("Common"),
        global("dry-run")
            .action(ArgAction::SetTrue)
            .help("Say what would be changed and change nothing")
            .help_heading("Common"),
        global("read-only")
            .action(ArgAction::SetTrue)
            .help("Refuse every command that changes something")
            .help_heading("Common"),
    ]
}

fn sub(
    name: &'static str,
    about: &'static str,
    args: impl Fn(Command) -> Command + 'static,
) -> Command {
    // `defer` takes a plain function; commands with few arguments are cheap enough to build at once.
    args(Command::new(name).about(about))
}

/// How a request body is given; the same for `api` and the native operations.
pub(crate) fn body_args() -> Vec<Arg> {
    vec![
        Arg::new("body")
            .long("body")
            .short('d')
            .value_name("BODY")
            .action(ArgAction::Append)
            .help("JSON, @FILE, @- for standard input, or FIELD=VALUE (several; a.b=VALUE goes deeper; VALUE is JSON if it can be)"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line per command and argument.
    fn describe(c: &Command, path: &str, common: bool, out: &mut String) {
        out.push_str(&format!(
            "{path}  -- {}\n",
            c.get_about().map(ToString::to_string).unwrap_or_default()
        ));
        for arg in c.get_arguments().filter(|a| !a.is_hide_set()) {
            if arg.is_global_set() != common || arg.get_id() == "help" || arg.get_id() == "version"
            {
                continue;
            }
            let values = arg.get_value_names().unwrap_or_default().join(" ");
            let takes = arg.get_action().takes_values();
            let shown = match (arg.get_long(), arg.get_short()) {
                (Some(long), Some(short)) => format!("-{short}, --{long}"),
                (Some(long), None) => format!("--{long}"),
                (None, Some(short)) => format!("-{short}"),
                (None, None) => String::new(),
            };
            let values = if takes { values.as_str() } else { "" };
            let required = if arg.is_required_set() {
                " (required)"
            } else {
                ""
            };
            out.push_str(format!("    {shown} {values}{required}").trim_end());
            out.push('\n');
        }
        if path.starts_with("boxrig vergeos ") {
            // Their parameters stand in the client's table of members (crates/vergeos/data).
            let members: Vec<&str> = c.get_subcommands().map(Command::get_name).collect();
            out.push_str(&format!("    {}\n", members.join(" ")));
            return;
        }
        for sub in c.get_subcommands() {
            describe(sub, &format!("{path} {}", sub.get_name()), false, out);
        }
    }

    #[test]
    fn the_tree_is_the_golden_one() {
        let mut program = program();
        program.build();
        let mut got = String::new();
        describe(&program, "boxrig", true, &mut got);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/commands.txt");
        if std::env::var_os("BOXRIG_BLESS").is_some() {
            std::fs::write(path, &got).unwrap();
        }
        let wanted = std::fs::read_to_string(path).unwrap_or_default();
        assert!(got == wanted, "BOXRIG_BLESS=1 writes it:\n{got}");
    }

    /// The words of a command line, as far as documents use quotes.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        for c in line.chars() {
            match (quote, c) {
                (Some(q), _) if c == q => quote = None,
                (None, '\'' | '"') => quote = Some(c),
                (None, ' ') => words.push(std::mem::take(&mut word)),
                _ => word.push(c),
            }
        }
        words.push(word);
        words.retain(|w| !w.is_empty());
        words
    }

    #[test]
    fn commands_in_the_documents_are_commands() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut tried = 0;
        for file in [
            "README.md",
            "docs/cli.md",
            "docs/server.md",
            "docs/peers-fastvm.md",
            "CONTRIBUTING.md",
        ] {
            let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            let shown = text.lines().filter_map(|l| l.trim().strip_prefix("$ "));
            for line in shown.flat_map(|l| l.split("&&")) {
                let line = line.split(" #").next().unwrap_or(line);
                let line = line.replace("cargo run --release -- ", "boxrig ");
                let line = words(line.split(['|', '>', '<']).next().unwrap_or(&line).trim());
                if line.first().is_none_or(|w| w != "boxrig") {
                    continue;
                }
                tried += 1;
                if let Err(e) = program().try_get_matches_from(&line) {
                    panic!("{file}: {line:?}: {e}");
                }
            }
        }
        assert!(tried >= 5, "only {tried} command lines were found");
    }

    #[test]
    fn the_tree_is_sound() {
        program().debug_assert();
    }
}
