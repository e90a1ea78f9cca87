//! The tree of commands. A command's arguments are built only when it is entered.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, Styles};
use clap::{Arg, ArgAction, Command, ValueHint, value_parser};

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
        .subcommands(instance_commands())
        .subcommands(server_commands())
        .subcommands(other_commands())
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

fn name_arg() -> Arg {
    Arg::new("name")
        .value_name("NAME")
        .required(true)
        .help("Name or id; CONTEXT:NAME for another context")
}

fn names_arg() -> Arg {
    name_arg().num_args(1..).action(ArgAction::Append)
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

fn sub(
    name: &'static str,
    about: &'static str,
    args: impl Fn(Command) -> Command + 'static,
) -> Command {
    // `defer` takes a plain function; commands with few arguments are cheap enough to build at once.
    args(Command::new(name).about(about))
}

fn instance_commands() -> Vec<Command> {
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

fn force() -> Arg {
    Arg::new("force")
        .long("force")
        .action(ArgAction::SetTrue)
        .help("End the processes at once")
}

fn data_arg() -> Arg {
    Arg::new("data")
        .long("data")
        .value_name("DIR")
        .value_parser(value_parser!(PathBuf))
        .value_hint(ValueHint::DirPath)
        .help("The server's data folder")
}

fn engine_arg() -> Arg {
    Arg::new("engine")
        .long("engine")
        .value_name("ENGINE")
        .help("auto, sandbox, process (no isolation) or memory (a simulation)")
}

fn server_commands() -> Vec<Command> {
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

fn other_commands() -> Vec<Command> {
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
                                .value_parser(PossibleValuesParser::new(super::import::PLATFORMS))
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
            .defer(super::native::tree::<super::native::fastvm::Fastvm>),
        Command::new("incus")
            .about("Every operation of Incus")
            .defer(super::native::tree::<super::native::incus::Incus>),
        Command::new("convox")
            .about("Every operation of Convox")
            .defer(super::native::tree::<super::native::convox::Convox>),
        Command::new("vergeos")
            .about("Every member of VergeOS' managers")
            .defer(super::native::vergeos::tree),
    ]
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
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
