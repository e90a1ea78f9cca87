//! The local server, in the foreground and in the background.

use std::path::PathBuf;

use clap::{Arg, ArgAction, Command, ValueHint, value_parser};

use super::sub;
use crate::cli::units;

fn engine_arg() -> Arg {
    Arg::new("engine")
        .long("engine")
        .value_name("ENGINE")
        .help("auto, sandbox, process (no isolation) or memory (a simulation)")
}

fn data_arg() -> Arg {
    Arg::new("data")
        .long("data")
        .value_name("DIR")
        .value_parser(value_parser!(PathBuf))
        .value_hint(ValueHint::DirPath)
        .help("The server's data folder")
}

pub(super) fn commands() -> Vec<Command> {
    vec![
        sub("serve", "Run a server in the foreground", serve_args),
        sub("up", "Start the background server", |c| c.arg(engine_arg())),
        sub(
            "down",
            "End the background server; instances are kept",
            |c| c,
        ),
        sub("status", "Say whether the background server runs", |c| c),
        sub(
            "env",
            "Print the variables for the vendors' own programs",
            |c| {
                c.arg(
                    Arg::new("format")
                        .long("format")
                        .value_name("FORMAT")
                        .value_parser(["sh", "fish", "dotenv", "json"])
                        .default_value("sh")
                        .help("How to write them"),
                )
                .arg(data_arg())
                .arg(
                    Arg::new("incus-conf")
                        .long("incus-conf")
                        .action(ArgAction::SetTrue)
                        .help("Also INCUS_CONF with the remote `boxrig`"),
                )
            },
        ),
        sub(
            "reset",
            "Remove everything that the background server holds",
            |c| c,
        ),
        sub(
            "save",
            "Write the background server's state to a file",
            |c| c.arg(file_arg()),
        ),
        sub(
            "load",
            "Replace the background server's state by a saved one",
            |c| c.arg(file_arg()),
        ),
    ]
}

fn file_arg() -> Arg {
    Arg::new("file")
        .value_name("FILE")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .value_hint(ValueHint::FilePath)
}

fn serve_args(c: Command) -> Command {
    let flag = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    c.arg(
        flag(
            "listen",
            "ADDRESS",
            "Where to listen; port 0 takes a free one",
        )
        .value_parser(value_parser!(std::net::SocketAddr))
        .default_value("127.0.0.1:7979"),
    )
    .arg(data_arg())
    .arg(engine_arg().default_value("auto"))
    .arg(flag(
        "public-url",
        "URL",
        "The address by which clients and instances reach the server",
    ))
    .arg(
        flag(
            "allow-host",
            "NAME",
            "A further host name that requests may carry",
        )
        .action(ArgAction::Append),
    )
    .arg(
        flag(
            "seed",
            "WHAT",
            "What a new server holds: empty, lab (a stocked VergeOS), or a file like it",
        )
        .default_value("empty"),
    )
    .arg(flag("vms", "N", "With a seed: this many VMs in all").value_parser(value_parser!(usize)))
    .arg(
        flag(
            "env-file",
            "PATH",
            "Write the variables there when the server is ready",
        )
        .value_parser(value_parser!(PathBuf)),
    )
    .arg(
        flag(
            "incus-socket",
            "PATH",
            "A second unix socket, for Incus' clients",
        )
        .value_parser(value_parser!(PathBuf)),
    )
    .arg(flag("socket", "PATH", "The unix socket").value_parser(value_parser!(PathBuf)))
    .arg(
        flag("faults", "FILE", "Faults to play from the start on (tests)")
            .value_parser(value_parser!(PathBuf)),
    )
    .arg(
        flag(
            "vergeos-rate",
            "N",
            "Requests an hour that VergeOS answers to one API key (the platform: 1000)",
        )
        .value_parser(value_parser!(u32)),
    )
    .arg(flag("seed-ids", "N", "Make identifiers repeat (tests)").value_parser(value_parser!(u64)))
    .arg(
        Arg::new("virtual-clock")
            .long("virtual-clock")
            .action(ArgAction::SetTrue)
            .help("A clock that stands until it is moved (tests)"),
    )
    .arg(
        flag(
            "idle-exit",
            "TIME",
            "End after this long without a request and without instances",
        )
        .value_parser(units::time),
    )
    .arg(
        flag("background", "REPORT", "")
            .value_parser(value_parser!(PathBuf))
            .hide(true),
    )
}
