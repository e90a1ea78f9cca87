//! Convox: what is more than one operation, sockets with their exit code, `deploy` and `why`.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use boxrig_convox::ops::builds::BuildCreateForm;
use boxrig_convox::{
    Client, Csv, Deploy, DeployEvent, EnvChange, ExecEvent, ExecSession, LogLine, Pipe,
    SocketInput, Wait,
};
use boxrig_wire::{Error, Kind, ReplyShape, Result, Untrusted, UpgradeSlot, WebSocket};
use clap::ArgMatches;
use futures_util::StreamExt;
use serde_json::json;
use tokio::io::AsyncReadExt;

use super::{api, option, pairs, text, texts};
use crate::cli::escaped::Escaped;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::native::{self, Native, Reply, convox::Convox, convox::has_exit_code};
use crate::cli::output::{self, Column, Format, column};
use crate::cli::session::Session;

/// A native operation, or one of the commands that are several.
pub(crate) async fn run(s: &Session, m: &ArgMatches) -> Outcome {
    match m.subcommand() {
        Some(("env", m)) => env(s, m).await,
        Some(("env-set", m)) => {
            let change = EnvChange::new();
            let change = if m.get_flag("replace") {
                change.replace()
            } else {
                change
            };
            let change = pairs(m, "variable").fold(change, |c, (k, v)| c.set(k, v));
            env_change(s, m, change).await
        }
        Some(("env-unset", m)) => {
            let change = texts(m, "variable")
                .into_iter()
                .fold(EnvChange::new(), EnvChange::unset);
            env_change(s, m, change).await
        }
        Some(("rollback", m)) => rollback(s, m).await,
        _ => operation(s, m).await,
    }
}

async fn operation(s: &Session, m: &ArgMatches) -> Outcome {
    let (native, given) = native::given::<Convox>(m)?;
    if native.meta.reply != ReplyShape::Socket {
        return api::native::<Convox>(s, m).await;
    }
    // What runs something, or reaches into something, is no reading.
    let reads = native.meta.path.as_str().ends_with("/logs");
    let context = api::spoken::<Convox>(s)?;
    let what = format!("call {} on {}", native.meta.id, context.name);
    if !reads && !s.may_change(&context, &what)? {
        return Ok(());
    }
    let connection = s.connect(&context).await?;
    let reply = (native.call)(connection.caller, given, s.call_options()).await?;
    socket(native, &reply, reads).await
}

/// Carries bytes between our input and output and a socket, until it ends.
async fn socket(native: &'static Native, reply: &Reply, reads: bool) -> Outcome {
    let io = reply
        .extensions()
        .get::<UpgradeSlot>()
        .and_then(UpgradeSlot::take_connection)
        .ok_or_else(|| Error::new(Kind::Protocol, "the rack did not switch protocols"))?;
    let (id, socket) = (native.meta.id, WebSocket::client(io));
    let mut text = Escaped::new(io::stdout().is_terminal());
    if has_exit_code(id) {
        let (input, mut events) = ExecSession::new(socket, id).split();
        let _feeding = feed(input);
        while let Some(event) = events.next().await {
            match event? {
                ExecEvent::Output(bytes) => text.write(&mut io::stdout().lock(), &bytes)?,
                ExecEvent::Exit(0) => break,
                // A code that does not fit is a failure all the same.
                ExecEvent::Exit(code) => {
                    text.finish(&mut io::stdout().lock())?;
                    return Err(Failure::Code(u8::try_from(code & 0xff).unwrap_or(1).max(1)));
                }
            }
        }
        return Ok(text.finish(&mut io::stdout().lock())?);
    }
    let (input, mut bytes) = Pipe::new(socket, id).split();
    let _feeding = (!reads).then(|| feed(input));
    while let Some(bytes) = bytes.next().await {
        text.write(&mut io::stdout().lock(), &bytes?)?;
    }
    Ok(text.finish(&mut io::stdout().lock())?)
}

/// Ends a task with its value.
struct Ends(tokio::task::JoinHandle<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends our standard input, as long as the value lives.
fn feed(input: SocketInput) -> Ends {
    Ends(tokio::spawn(async move {
        let mut stdin = tokio::io::stdin();
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(n @ 1..) = stdin.read(&mut buffer).await {
            if input.write(buffer[..n].to_vec()).await.is_err() {
                return;
            }
        }
        let _ = input.end().await;
    }))
}

/// The native client of the context.
async fn client(s: &Session) -> Result<Client> {
    let context = api::spoken::<Convox>(s)?;
    Ok(Client::new(s.connect(&context).await?.caller))
}

fn waiting(s: &Session) -> Wait {
    s.timeout
        .map_or_else(Wait::default, |limit| Wait::default().timeout(limit))
}

const VARIABLES: &[Column] = &[column("NAME", "name"), column("VALUE", "value")];

async fn env(s: &Session, m: &ArgMatches) -> Outcome {
    let variables = client(s).await?.environment().get(text(m, "app")).await?;
    let rows = variables
        .iter()
        .map(|(k, v)| json!({"name": k, "value": v}))
        .collect();
    Ok(output::list(
        &mut io::stdout().lock(),
        &s.style,
        VARIABLES,
        rows,
    )?)
}

const RELEASES: &[Column] = &[
    column("ID", "id"),
    column("BUILD", "build"),
    column("DESCRIPTION", "description"),
    column("PROMOTED", "promoted"),
];

async fn env_change(s: &Session, m: &ArgMatches, change: EnvChange) -> Outcome {
    let app = text(m, "app");
    if !may_change(
        s,
        &format!("change the variables of {}", Untrusted::new(app)),
    )? {
        return Ok(());
    }
    let client = client(s).await?;
    let promote = m.get_flag("promote");
    let change = if promote { change.promote() } else { change };
    let release = client.environment().change(app, change).await?;
    if promote {
        client.apps().settle(app, waiting(s)).await?;
    } else {
        s.say(&format!(
            "not promoted yet: `boxrig convox release-promote {} {}`",
            Untrusted::new(app),
            Untrusted::new(&*release.id)
        ));
    }
    print_release(s, &release, promote)
}

fn print_release(s: &Session, release: &boxrig_convox::models::Release, promoted: bool) -> Outcome {
    let row = json!({
        "id": release.id,
        "app": release.app,
        "build": release.build,
        "description": release.description,
        "promoted": promoted,
    });
    Ok(output::one(
        &mut io::stdout().lock(),
        &s.style,
        RELEASES,
        row,
    )?)
}

async fn rollback(s: &Session, m: &ArgMatches) -> Outcome {
    let (app, release) = (text(m, "app"), text(m, "release"));
    if !may_change(
        s,
        &format!(
            "roll {} back to {}",
            Untrusted::new(app),
            Untrusted::new(release)
        ),
    )? {
        return Ok(());
    }
    let client = client(s).await?;
    let made = client.releases().rollback(app, release).await?;
    client.apps().settle(app, waiting(s)).await?;
    print_release(s, &made, true)
}

fn may_change(s: &Session, what: &str) -> Result<bool> {
    s.may_change(&api::spoken::<Convox>(s)?, what)
}

const DEPLOYED: &[Column] = &[
    column("APP", "app"),
    column("BUILD", "build"),
    column("RELEASE", "release"),
    column("PROMOTED", "promoted"),
    column("STATUS", "status"),
];

/// Deploys a folder, telling what is done as it goes.
pub(crate) async fn deploy(s: &Session, m: &ArgMatches) -> Outcome {
    let app = text(m, "app");
    let dir = m.get_one::<PathBuf>("dir").cloned().unwrap_or_default();
    let promote = m.get_flag("promote");
    let what = format!(
        "deploy {} as {}",
        Untrusted::new(dir.to_string_lossy()),
        Untrusted::new(app)
    );
    if !may_change(s, &what)? {
        return Ok(());
    }
    let client = client(s).await?;
    let form = BuildCreateForm {
        build_args: Csv::new(pairs(m, "build-arg").map(|(k, v)| format!("{k}={v}")))?,
        description: option(m, "description"),
        manifest: option(m, "manifest"),
        no_cache: m.get_flag("no-cache").then_some(true),
        ..Default::default()
    };
    let quiet = s.style.quiet;
    let plan = Deploy::new(dir)
        .build(form)
        .promote(promote)
        .create(m.get_flag("create"))
        .wait(waiting(s))
        .on_event(move |event| {
            if !quiet {
                tell(&event);
            }
        });
    let deployed = client.deploy(app, &plan).await?;
    let row = json!({
        "app": app,
        "build": deployed.build.id,
        "release": deployed.release,
        "promoted": promote,
        "status": deployed.app.map_or(deployed.build.status, |a| a.status),
    });
    Ok(output::one(
        &mut io::stdout().lock(),
        &s.style,
        DEPLOYED,
        row,
    )?)
}

/// What goes on, on stderr.
fn tell(event: &DeployEvent) {
    let line = |what: &str, line: &LogLine| {
        let text = String::from_utf8_lossy(line.raw()).into_owned();
        format!("{what}{}", boxrig_wire::escape_line(&text))
    };
    let id = |text: &str| Untrusted::new(text).to_string();
    let text = match event {
        DeployEvent::Sending { bytes, .. } => format!("packing: {} MiB", bytes >> 20),
        DeployEvent::Sent {
            entries,
            bytes,
            left_out,
        } => {
            let more = match left_out {
                0 => String::new(),
                n => format!(", {n} left out that no archive can hold"),
            };
            format!("sent {entries} files and folders, {bytes} bytes{more}")
        }
        DeployEvent::Building { build } => format!("building {}", id(build)),
        DeployEvent::BuildLog(l) => line("  ", l),
        DeployEvent::Built { build, release } => {
            format!("built {}: release {}", id(build), id(release))
        }
        DeployEvent::Promoting { release } => format!("promoting {}", id(release)),
        DeployEvent::AppLog(l) => line("  ", l),
        DeployEvent::Promoted { release } => format!("{} is the active release", id(release)),
        _ => return,
    };
    let _ = writeln!(io::stderr(), "{text}");
}

const FINDINGS: &[Column] = &[
    column("ABOUT", "about"),
    column("WHAT", "what"),
    column("PROBLEM", "problem"),
    column("HINT", "hint").wide(),
];

/// Looks for the reason why an app is not as it should be; 1 when something keeps it from running.
pub(crate) async fn why(s: &Session, m: &ArgMatches) -> Outcome {
    let why = client(s).await?.apps().why(text(m, "name")).await?;
    let value = serde_json::to_value(&why).map_err(|e| Error::new(Kind::Failed, e.to_string()))?;
    if s.style.format.is_json() || s.style.format == Format::Yaml {
        output::one(&mut io::stdout().lock(), &s.style, &[], value)?;
    } else {
        let release = if why.release.is_empty() {
            "none".into()
        } else {
            why.release.clone()
        };
        s.say(&format!(
            "{}: {}, active release {release}",
            why.app, why.status
        ));
        let rows = value["findings"].as_array().cloned().unwrap_or_default();
        output::list(&mut io::stdout().lock(), &s.style, FINDINGS, rows)?;
        for line in &why.log {
            s.say(&format!("log: {line}"));
        }
        if why.findings.is_empty() {
            s.say("nothing is amiss");
        }
    }
    if why.problems().next().is_some() {
        return Err(Failure::Code(1));
    }
    Ok(())
}
