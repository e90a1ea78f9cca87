//! The verbs on instances.

use clap::{Arg, ArgAction, Command, ValueHint, value_parser};

use super::sub;
use crate::cli::units;

fn name_arg() -> Arg {
    Arg::new("name")
        .value_name("NAME")
        .required(true)
        .help("Name or id; CONTEXT:NAME for another context")
}

fn names_arg() -> Arg {
    name_arg().num_args(1..).action(ArgAction::Append)
}

fn force() -> Arg {
    Arg::new("force")
        .long("force")
        .action(ArgAction::SetTrue)
        .help("End the processes at once")
}

fn image_args() -> Vec<Arg> {
    vec![
        Arg::new("image")
            .long("image")
            .value_name("IMAGE")
            .help("What it starts from; `boxrig/base` is the built-in image"),
        Arg::new("cpus")
            .long("cpus")
            .value_name("N")
            .value_parser(value_parser!(f64))
            .help("Processors"),
        Arg::new("memory")
            .long("memory")
            .value_name("SIZE")
            .value_parser(units::size)
            .help("Memory (512MiB, 2GiB)"),
        Arg::new("env")
            .long("env")
            .short('e')
            .value_name("NAME=VALUE")
            .action(ArgAction::Append)
            .value_parser(units::pair)
            .help("A variable of every command in it"),
    ]
}

fn command_args() -> Vec<Arg> {
    vec![
        Arg::new("interactive")
            .short('i')
            .long("interactive")
            .action(ArgAction::SetTrue)
            .help("Pass standard input on"),
        Arg::new("tty")
            .short('t')
            .long("tty")
            .action(ArgAction::SetTrue)
            .help("With a terminal"),
        Arg::new("cwd")
            .long("cwd")
            .value_name("DIR")
            .help("Directory to run it in"),
        Arg::new("command")
            .value_name("COMMAND")
            .required(true)
            .num_args(1..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
            .value_hint(ValueHint::CommandWithArguments)
            .help("The command and its arguments, given to no shell"),
    ]
}

pub(super) fn commands() -> Vec<Command> {
    vec![
        sub(
            "run",
            "Launch an instance, run a command in it, remove it",
            |c| {
                c.args(image_args())
                    .arg(
                        Arg::new("keep")
                            .long("keep")
                            .action(ArgAction::SetTrue)
                            .help("Keep the instance afterwards"),
                    )
                    .arg(
                        Arg::new("as")
                            .long("name")
                            .value_name("NAME")
                            .help("Its name"),
                    )
                    .args(command_args())
            },
        ),
        sub("launch", "Launch an instance and keep it", |c| {
            c.arg(
                Arg::new("as")
                    .long("name")
                    .value_name("NAME")
                    .help("Its name"),
            )
            .args(image_args())
            .arg(
                Arg::new("snapshot")
                    .long("snapshot")
                    .value_name("SNAPSHOT")
                    .conflicts_with("image")
                    .help("Start from this snapshot (id)"),
            )
            .arg(
                Arg::new("label")
                    .long("label")
                    .value_name("NAME=VALUE")
                    .action(ArgAction::Append)
                    .value_parser(units::pair)
                    .help("A label"),
            )
            .arg(
                Arg::new("ttl")
                    .long("ttl")
                    .value_name("TIME")
                    .value_parser(units::time)
                    .help("Remove it after this time of running"),
            )
            .arg(
                Arg::new("token")
                    .long("token")
                    .value_name("TOKEN")
                    .help("Launch at most once under this name of your own"),
            )
        }),
        sub("ls", "List instances", |c| {
            c.visible_alias("list").arg(
                Arg::new("label")
                    .long("label")
                    .value_name("NAME=VALUE")
                    .action(ArgAction::Append)
                    .value_parser(units::pair)
                    .help("Only those with this label"),
            )
        }),
        sub("show", "Show an instance", |c| c.arg(name_arg())),
        sub("start", "Start stopped instances", |c| c.arg(names_arg())),
        sub("stop", "Stop instances and keep their files", |c| {
            c.arg(names_arg()).arg(force()).arg(
                Arg::new("grace")
                    .long("grace")
                    .value_name("TIME")
                    .value_parser(units::time)
                    .help("How long the processes may take to end by themselves"),
            )
        }),
        sub("restart", "Stop and start instances", |c| {
            c.arg(names_arg()).arg(force())
        }),
        sub("pause", "Freeze instances", |c| c.arg(names_arg())),
        sub("resume", "Let frozen instances go on", |c| {
            c.arg(names_arg())
        }),
        sub("rm", "Remove instances", |c| {
            c.visible_alias("delete").arg(names_arg())
        }),
        sub("exec", "Run a command in an instance", |c| {
            c.arg(name_arg())
                .arg(
                    Arg::new("env")
                        .long("env")
                        .short('e')
                        .value_name("NAME=VALUE")
                        .action(ArgAction::Append)
                        .value_parser(units::pair)
                        .help("A variable of the command"),
                )
                .args(command_args())
        }),
        sub("shell", "Open a shell in an instance", |c| {
            c.arg(name_arg())
        }),
        sub("cp", "Copy files and directories in and out", |c| {
            c.arg(
                Arg::new("from")
                    .value_name("FROM")
                    .required(true)
                    .value_hint(ValueHint::AnyPath)
                    .help("PATH, NAME:PATH, or - for standard input"),
            )
            .arg(
                Arg::new("to")
                    .value_name("TO")
                    .required(true)
                    .value_hint(ValueHint::AnyPath)
                    .help("PATH, NAME:PATH, or - for standard output"),
            )
        }),
        sub("logs", "Print what an instance's main process wrote", |c| {
            c.arg(name_arg())
                .arg(
                    Arg::new("follow")
                        .long("follow")
                        .short('f')
                        .action(ArgAction::SetTrue)
                        .help("And what it goes on to write"),
                )
                .arg(
                    Arg::new("tail")
                        .long("tail")
                        .value_name("LINES")
                        .value_parser(value_parser!(u64))
                        .help("Only the last lines"),
                )
                .arg(
                    Arg::new("console")
                        .long("console")
                        .action(ArgAction::SetTrue)
                        .help("What the console showed"),
                )
                .arg(
                    Arg::new("raw")
                        .long("raw")
                        .action(ArgAction::SetTrue)
                        .help("Control characters too, also to a terminal"),
                )
        }),
        sub("wait", "Wait until instances are in a state", |c| {
            c.arg(names_arg()).arg(
                Arg::new("for")
                    .long("for")
                    .value_name("WHAT")
                    .value_parser(wanted)
                    .default_value("running")
                    .help("running, paused, stopped, gone, ip, exec, cloud-init or file:PATH"),
            )
        }),
        sub("snapshot", "Make a snapshot of an instance", |c| {
            c.arg(name_arg()).arg(
                Arg::new("as")
                    .long("name")
                    .value_name("NAME")
                    .help("Its name"),
            )
        }),
        sub("restore", "Put an instance back to a snapshot of it", |c| {
            c.arg(name_arg()).arg(
                Arg::new("snapshot")
                    .value_name("SNAPSHOT")
                    .required(true)
                    .help("The snapshot's id"),
            )
        }),
        sub("fork", "Make a copy of an instance", |c| {
            c.arg(name_arg()).arg(
                Arg::new("as")
                    .long("name")
                    .value_name("NAME")
                    .help("The copy's name"),
            )
        }),
    ]
}

/// What `wait` can wait for.
fn wanted(text: &str) -> Result<String, String> {
    let known = [
        "running",
        "paused",
        "stopped",
        "gone",
        "ip",
        "exec",
        "cloud-init",
    ];
    if known.contains(&text)
        || text
            .strip_prefix("file:")
            .is_some_and(|p| p.starts_with('/'))
    {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{}, or file:PATH with an absolute path",
        known.join(", ")
    ))
}
