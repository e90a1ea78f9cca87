//! Contexts, the program itself, what only one platform has, and every native operation.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, ValueHint, value_parser};

use super::{body_args, sub};
use crate::cli::{import, native, units};

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

pub(super) fn commands() -> Vec<Command> {
    vec![
        sub("ctx", "Contexts: where to work", |c| {
            c.subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(
                    Command::new("add")
                        .about("Make or change a context")
                        .arg(context_name())
                        .arg(
                            Arg::new("url").value_name("URL").required(true).help(
                                "fastvm://HOST, vergeos://HOST, incus://HOST:8443, convox://HOST/ORG/RACK",
                            ),
                        )
                        .arg(Arg::new("user").long("user").value_name("USER").help("User name"))
                        .arg(
                            Arg::new("secret-from")
                                .long("secret-from")
                                .value_name("REFERENCE")
                                .help("Where the secret is: env:VAR, cmd:COMMAND or file:PATH"),
                        )
                        .arg(
                            Arg::new("ca-file")
                                .long("ca-file")
                                .value_name("FILE")
                                .value_parser(value_parser!(PathBuf))
                                .value_hint(ValueHint::FilePath)
                                .help("Certificates to trust besides the system's"),
                        )
                        .arg(
                            Arg::new("pin")
                                .long("pin")
                                .value_name("SHA256")
                                .conflicts_with("ca-file")
                                .help("Accept the one server certificate with this fingerprint"),
                        )
                        .arg(file_flag("cert-file", "The client certificate (Incus)").requires("key-file"))
                        .arg(file_flag("key-file", "The client certificate's key").requires("cert-file"))
                        .args(place_args())
                        .arg(
                            Arg::new("only-read")
                                .long("only-read")
                                .action(ArgAction::SetTrue)
                                .help("Refuse every command that changes something there"),
                        ),
                )
                .subcommand(Command::new("ls").about("List contexts"))
                .subcommand(
                    Command::new("use")
                        .about("Work on this context when none is named")
                        .arg(context_name()),
                )
                .subcommand(
                    Command::new("rm")
                        .about("Forget a context")
                        .arg(context_name()),
                )
                .subcommand(
                    Command::new("trust")
                        .about("Have an Incus server trust this user by its token, and keep it as a context")
                        .arg(context_name())
                        .arg(
                            Arg::new("token")
                                .value_name("REFERENCE")
                                .required(true)
                                .help("Where the token is: env:VAR, cmd:COMMAND or file:PATH"),
                        )
                        .args(place_args()),
                )
                .subcommand(
                    Command::new("import")
                        .about("Take over what the vendors' own tools know of servers; secrets stay where they are")
                        .arg(
                            Arg::new("from")
                                .long("from")
                                .value_name("PLATFORM")
                                .value_parser(PossibleValuesParser::new(import::PLATFORMS))
                                .action(ArgAction::Append)
                                .help("Only of this platform"),
                        )
                        .arg(
                            Arg::new("replace")
                                .long("replace")
                                .action(ArgAction::SetTrue)
                                .help("Replace contexts of the same name"),
                        ),
                )
                .subcommand(
                    Command::new("test")
                        .about("Try a context and say what it can do")
                        .arg(context_name()),
                )
        }),
        sub(
            "deploy",
            "Build a folder on a Convox rack, and promote it",
            |c| {
                c.arg(
                Arg::new("dir")
                    .value_name("DIR")
                    .required(true)
                    .value_parser(value_parser!(PathBuf))
                    .value_hint(ValueHint::DirPath)
                    .help("The folder with the manifest (convox.yml); what .dockerignore names stays here"),
            )
            .arg(
                Arg::new("app")
                    .long("app")
                    .short('a')
                    .value_name("APP")
                    .required(true)
                    .help("The app"),
            )
            .args([
                switch("promote", "Make the release the active one, and wait for it"),
                switch("create", "Create the app when it is not there"),
                switch("no-cache", "Build everything anew"),
            ])
            .arg(
                Arg::new("description")
                    .long("description")
                    .value_name("TEXT")
                    .help("A word on the build"),
            )
            .arg(
                Arg::new("manifest")
                    .long("manifest")
                    .value_name("FILE")
                    .help("The manifest's name in the folder"),
            )
            .arg(
                Arg::new("build-arg")
                    .long("build-arg")
                    .value_name("NAME=VALUE")
                    .action(ArgAction::Append)
                    .value_parser(units::pair)
                    .help("An argument of the build"),
            )
            },
        ),
        sub(
            "why",
            "Say why an app is not as it should be (Convox)",
            |c| {
                c.arg(
                    Arg::new("name")
                        .value_name("APP")
                        .required(true)
                        .help("The app"),
                )
            },
        ),
        sub("api", "Send a request of your own making", |c| {
            c.arg(
                Arg::new("context")
                    .value_name("CONTEXT")
                    .required(true)
                    .help("Where to send it"),
            )
            .arg(Arg::new("method").value_name("METHOD").required(true))
            .arg(
                Arg::new("path")
                    .value_name("PATH")
                    .required(true)
                    .help("Path and query, sent as they are"),
            )
            .args(body_args())
            .arg(
                Arg::new("header")
                    .long("header")
                    .short('H')
                    .value_name("NAME: VALUE")
                    .action(ArgAction::Append)
                    .help("A header"),
            )
            .arg(
                Arg::new("include")
                    .long("include")
                    .short('i')
                    .action(ArgAction::SetTrue)
                    .help("Print status and headers too"),
            )
        }),
        sub(
            "doctor",
            "Say whether instances can run here, step by step",
            |c| {
                c.arg(
                    Arg::new("fix")
                        .long("fix")
                        .action(ArgAction::SetTrue)
                        .help("Print and write the AppArmor profile, where its limit is the cause"),
                )
            },
        ),
        sub(
            "coverage",
            "What is done of each platform's operations",
            |c| {
                c.arg(
                    Arg::new("platform")
                        .value_name("PLATFORM")
                        .help("Only this platform"),
                )
            },
        ),
        sub("completions", "Print completions for a shell", |c| {
            c.arg(
                Arg::new("shell")
                    .value_name("SHELL")
                    .required(true)
                    .value_parser(["bash", "zsh", "fish", "powershell", "elvish"]),
            )
        }),
        sub("man", "Print or write the manual pages", |c| {
            c.arg(
                Arg::new("dir")
                    .long("dir")
                    .value_name("DIR")
                    .value_parser(value_parser!(PathBuf))
                    .value_hint(ValueHint::DirPath)
                    .help("Write one page per command there"),
            )
        }),
        Command::new("fastvm")
            .about("Every operation of FastVM")
            .defer(native::tree::<native::fastvm::Fastvm>),
        Command::new("incus")
            .about("Every operation of Incus")
            .defer(native::tree::<native::incus::Incus>),
        Command::new("convox")
            .about("Every operation of Convox")
            .defer(native::tree::<native::convox::Convox>),
        Command::new("vergeos")
            .about("Every member of VergeOS' managers")
            .defer(native::vergeos::tree),
    ]
}

/// Where on an Incus server, and from what.
fn place_args() -> Vec<Arg> {
    vec![
        Arg::new("project")
            .long("project")
            .value_name("PROJECT")
            .help("The project (Incus)"),
        Arg::new("image")
            .long("image")
            .value_name("IMAGE")
            .help("What instances start from when nothing is said (Incus)"),
    ]
}

fn file_flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .value_hint(ValueHint::FilePath)
        .help(help)
}

fn context_name() -> Arg {
    Arg::new("context")
        .value_name("NAME")
        .required(true)
        .help("The context's name")
}
