//! The background server: `up`, `down`, `status`, `env`, `reset`, `save`, `load`.

use std::io::{self, Write};
use std::path::PathBuf;

use boxrig::local::control_client;
use boxrig_server::control::{ControlClient, Info};
use boxrig_server::env::EnvFormat;
use boxrig_wire::{Error, Kind, Result};
use clap::ArgMatches;
use serde_json::{Value, json};

use super::{option, text};
use crate::cli::background;
use crate::cli::contexts::LOCAL;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::output::{self, Column, column};
use crate::cli::session::Session;

const COLUMNS: &[Column] = &[
    column("STATE", "state"),
    column("URL", "url"),
    column("ENGINE", "engine"),
    column("ISOLATION", "isolation"),
    column("INSTANCES", "instances"),
    column("PID", "pid"),
    column("VERSION", "version"),
    column("DATA", "data"),
    column("SOCKET", "socket"),
    column("LOG", "log"),
];

fn row(s: &Session, info: Option<&Info>) -> Value {
    match info {
        None => json!({"state": "down", "data": s.paths.server_data(), "log": s.paths.log()}),
        Some(i) => json!({
            "state": "up",
            "url": i.url,
            "tls_url": i.tls_url,
            "engine": i.engine,
            "isolation": i.isolation,
            "instances": i.instances,
            "pid": i.pid,
            "version": i.version,
            "data": i.data,
            "socket": i.socket,
            "log": s.paths.log(),
        }),
    }
}

fn print(s: &Session, info: Option<&Info>) -> Outcome {
    let row = row(s, info);
    Ok(output::one(
        &mut io::stdout().lock(),
        &s.style,
        COLUMNS,
        row,
    )?)
}

/// Starts the background server.
pub(crate) async fn up(s: &Session, m: &ArgMatches) -> Outcome {
    let engine = option(m, "engine");
    let info = background::up(&s.paths, engine.as_deref()).await?;
    print(s, Some(&info))
}

/// Ends the background server.
pub(crate) async fn down(s: &Session) -> Outcome {
    match background::down(&s.paths).await? {
        None => s.say("no background server runs"),
        Some(info) if info.instances > 0 => s.say(&format!(
            "ended; {} instances are kept and taken over by the next server",
            info.instances
        )),
        Some(_) => s.say("ended"),
    }
    Ok(())
}

/// Says whether the background server runs; 6 when it does not.
pub(crate) async fn status(s: &Session) -> Outcome {
    match background::running(&s.paths).await {
        Some((_, info)) => print(s, Some(&info)),
        None => {
            print(s, None)?;
            Err(Failure::Code(6))
        }
    }
}

/// The control client of a server that must run already.
async fn client(s: &Session) -> Result<ControlClient> {
    match background::running(&s.paths).await {
        Some((client, _)) => Ok(client),
        None => Err(Error::new(Kind::Unavailable, "no background server runs")
            .with_hint("`boxrig up` starts it")),
    }
}

/// Prints the variables for the vendors' own programs.
pub(crate) async fn env(s: &Session, m: &ArgMatches) -> Outcome {
    let data = m.get_one::<PathBuf>("data");
    let socket = match data {
        Some(data) => data.join("unix.socket"),
        None => {
            background::ensure(&s.paths).await?;
            s.paths.socket()
        }
    };
    let mut env = control_client(&socket)?.env().await.map_err(|e| {
        if data.is_some() && e.kind() == Kind::Transport {
            e.with_hint("is a server running on that data folder?")
        } else {
            e
        }
    })?;
    if m.get_flag("incus-conf") {
        let dir = incus_conf(s, env.get("INCUS_SOCKET").unwrap_or(""))?;
        env.push("INCUS_CONF", dir.display().to_string());
    }
    let format: EnvFormat = text(m, "format")
        .parse()
        .map_err(|e: String| Error::new(Kind::Invalid, e))?;
    io::stdout().write_all(env.render(format).as_bytes())?;
    Ok(())
}

/// A configuration folder for Incus' own client, with the remote `boxrig`.
fn incus_conf(s: &Session, socket: &str) -> Result<PathBuf> {
    let failed = |e: io::Error| Error::new(Kind::Failed, e.to_string());
    let dir = s.paths.data.join("incus-conf");
    crate::cli::paths::private_dir(&dir).map_err(failed)?;
    let config = json!({
        "default-remote": "boxrig",
        "remotes": {"boxrig": {"addr": format!("unix://{socket}"), "protocol": "incus", "public": false}},
    });
    let text =
        serde_saphyr::to_string(&config).map_err(|e| Error::new(Kind::Failed, e.to_string()))?;
    boxrig_server::files::write_private(&dir.join("config.yml"), |f| f.write_all(text.as_bytes()))
        .map_err(failed)?;
    Ok(dir)
}

/// Removes everything the server holds.
pub(crate) async fn reset(s: &Session) -> Outcome {
    let context = s.config.context(LOCAL)?;
    if !s.may_change(
        &context,
        "remove everything that the background server holds",
    )? {
        return Ok(());
    }
    let client = client(s).await?;
    let info = client.info().await?;
    s.confirm(&format!(
        "remove everything of the background server, {} instances included?",
        info.instances
    ))?;
    Ok(client.reset().await?)
}

/// Writes the state to a file.
pub(crate) async fn save(s: &Session, m: &ArgMatches) -> Outcome {
    let state = client(s).await?.save().await?;
    let mut text =
        serde_json::to_vec_pretty(&state).map_err(|e| Error::new(Kind::Failed, e.to_string()))?;
    text.push(b'\n');
    if let Some(file) = m.get_one::<PathBuf>("file") {
        boxrig_server::files::write_private(file, |f| f.write_all(&text))?;
    }
    Ok(())
}

/// Replaces the state by a saved one.
pub(crate) async fn load(s: &Session, m: &ArgMatches) -> Outcome {
    let context = s.config.context(LOCAL)?;
    if !s.may_change(&context, "replace the background server's state")? {
        return Ok(());
    }
    let Some(file) = m.get_one::<PathBuf>("file") else {
        return Ok(());
    };
    let invalid = |why: String| Error::new(Kind::Invalid, format!("{}: {why}", file.display()));
    let text = std::fs::read(file).map_err(|e| invalid(e.to_string()))?;
    let state = serde_json::from_slice(&text).map_err(|e| invalid(e.to_string()))?;
    background::ensure(&s.paths).await?;
    Ok(client(s).await?.load(state).await?)
}
