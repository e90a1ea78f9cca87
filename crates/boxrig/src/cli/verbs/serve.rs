//! `boxrig serve`: the server in the foreground.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use boxrig_server::config::ServerConfig;
use boxrig_server::faults::Script;
use boxrig_server::serve::{Running, Server};
use boxrig_server::vergeos::Lab;
use boxrig_wire::{BaseUrl, Error, Kind, Result};
use clap::ArgMatches;

use super::{option, text, texts};
use crate::cli::background::{Report, refusal};
use crate::cli::exit::Outcome;
use crate::cli::paths::Paths;

/// Runs a server until it is told to end.
pub(crate) fn run(m: &ArgMatches) -> Outcome {
    let report = m.get_one::<PathBuf>("background").cloned();
    if report.is_some() {
        // A session of its own: it outlives the terminal it was started from.
        #[cfg(unix)]
        let _ = rustix::process::setsid();
    }
    log(m.get_count("verbose"), report.is_some());
    let outcome = serve(m, report.as_deref());
    if let (Some(path), Err(e)) = (&report, &outcome) {
        let message = match e.hint() {
            Some(hint) => format!("{e}\n{hint}"),
            None => e.to_string(),
        };
        tell(path, Some(e.kind()), &message)?;
    }
    Ok(outcome?)
}

fn log(verbose: u8, background: bool) {
    let level = std::env::var("BOXRIG_LOG").unwrap_or_else(|_| {
        match (verbose, background) {
            (0, false) => "warn",
            (0, true) | (1, _) => "info",
            (2, _) => "debug",
            _ => "trace",
        }
        .to_owned()
    });
    let filter = tracing_subscriber::EnvFilter::try_new(&level)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .with_ansi(false)
        .try_init();
}

fn serve(m: &ArgMatches, report: Option<&Path>) -> Result<()> {
    let failed = |e: std::io::Error| Error::new(Kind::Failed, e.to_string());
    let config = config(m)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let result = runtime.block_on(async {
        let running = Server::start(config)
            .await
            .map_err(|e| refusal(e.kind, &e.to_string()))?;
        match report {
            Some(path) => tell(path, None, "")?,
            None => greet(&running),
        }
        running.until_ended().await.map_err(failed)
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

fn greet(running: &Running) {
    let _ = writeln!(
        std::io::stderr(),
        "boxrig {} listens on {} (and TLS on the same port)",
        env!("CARGO_PKG_VERSION"),
        running.urls().http,
    );
}

/// Written whole, so that a reader sees nothing or all of it.
fn tell(path: &Path, kind: Option<Kind>, message: &str) -> Result<()> {
    let report = Report {
        kind,
        message: message.to_owned(),
    };
    let text = serde_json::to_vec(&report).map_err(|e| Error::new(Kind::Failed, e.to_string()))?;
    boxrig_server::files::write_private(path, |f| f.write_all(&text))
        .map_err(|e| Error::new(Kind::Failed, e.to_string()))
}

/// What VergeOS is stocked with: nothing, the built-in laboratory, or that of a file.
fn lab(m: &ArgMatches) -> Result<Option<Lab>> {
    let vms = m.get_one::<usize>("vms").copied();
    let mut lab = Lab {
        vms: vms.unwrap_or(0),
        ..Lab::default()
    };
    match text(m, "seed") {
        "empty" if vms.is_none() => return Ok(None),
        "empty" => {
            return Err(Error::new(
                Kind::Invalid,
                "--vms needs --seed lab or a seed file",
            ));
        }
        "lab" => {}
        file => {
            let text = std::fs::read_to_string(file).map_err(|e| {
                let file = boxrig_wire::escape_line(file);
                Error::new(
                    Kind::Invalid,
                    format!("--seed {file}: {e} (known are: empty, lab, a file)"),
                )
            })?;
            lab.file = Some(text);
        }
    }
    Ok(Some(lab))
}

fn config(m: &ArgMatches) -> Result<ServerConfig> {
    let path = |id: &str| m.get_one::<PathBuf>(id).cloned();
    let data = match path("data") {
        Some(data) => data,
        None => Paths::new()?.data.join("serve"),
    };
    let engine = text(m, "engine");
    if engine.starts_with("incus=") {
        return Err(Error::new(
            Kind::Unsupported,
            "the incus engine is not part of this version",
        ));
    }
    let lab = lab(m)?;
    let mut config = ServerConfig::new(data).engine(
        engine
            .parse()
            .map_err(|e: boxrig_engine::Error| Error::new(Kind::Invalid, e.to_string()))?,
    );
    if let Some(listen) = m.get_one::<std::net::SocketAddr>("listen") {
        config = config.listen(*listen);
    }
    config.public_url = option(m, "public-url")
        .map(|url| BaseUrl::parse(&url).map_err(|e| e.context("--public-url")))
        .transpose()?;
    config.allow_hosts = texts(m, "allow-host");
    config.env_file = path("env-file");
    config.incus_socket = path("incus-socket");
    config.socket = path("socket");
    config.lab = lab;
    config.vergeos_rate = m.get_one::<u32>("vergeos-rate").copied();
    config.seed_ids = m.get_one::<u64>("seed-ids").copied();
    config.virtual_clock = m.get_flag("virtual-clock");
    config.idle_exit = m.get_one::<Duration>("idle-exit").copied();
    if let Some(file) = path("faults") {
        let invalid = |why: String| Error::new(Kind::Invalid, format!("{}: {why}", file.display()));
        let text = std::fs::read_to_string(&file).map_err(|e| invalid(e.to_string()))?;
        config.faults = Script::parse(&text).map_err(invalid)?;
    }
    Ok(config)
}
