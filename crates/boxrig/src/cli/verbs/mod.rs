//! The commands.

pub(crate) mod api;
pub(crate) mod commands;
pub(crate) mod convox;
pub(crate) mod coverage;
pub(crate) mod ctx;
pub(crate) mod doctor;
pub(crate) mod files;
pub(crate) mod instances;
pub(crate) mod reference;
pub(crate) mod serve;
pub(crate) mod server;

use boxrig_compute::Power;
use clap::ArgMatches;
use std::time::Duration;

use super::exit::{Failure, Outcome};
use super::native::{fastvm::Fastvm, incus::Incus};
use super::session::Session;

/// Runs a command that works on contexts.
pub(crate) async fn run(s: &Session, name: &str, m: &ArgMatches) -> Outcome {
    let force = || m.try_get_one::<bool>("force").ok().flatten() == Some(&true);
    match name {
        "ls" => instances::ls(s, m).await,
        "show" => instances::show(s, m).await,
        "launch" => instances::launch(s, m).await,
        "rm" => instances::rm(s, m).await,
        "start" => instances::power(s, m, Power::Start, "start").await,
        "stop" => {
            let power = Power::Stop {
                force: force(),
                grace: m.get_one::<Duration>("grace").copied(),
            };
            instances::power(s, m, power, "stop").await
        }
        "restart" => {
            let power = Power::Restart { force: force() };
            instances::power(s, m, power, "restart").await
        }
        "pause" => instances::power(s, m, Power::Pause, "pause").await,
        "resume" => instances::power(s, m, Power::Resume, "resume").await,
        "wait" => instances::wait(s, m).await,
        "snapshot" => instances::snapshot(s, m).await,
        "restore" => instances::restore(s, m).await,
        "fork" => instances::fork(s, m).await,
        "run" => commands::run(s, m).await,
        "exec" => commands::exec(s, m).await,
        "shell" => commands::shell(s, m).await,
        "cp" => files::cp(s, m).await,
        "logs" => files::logs(s, m).await,
        "ctx" => ctx::run(s, m).await,
        "api" => api::raw(s, m).await,
        "fastvm" => api::native::<Fastvm>(s, m).await,
        "incus" => api::native::<Incus>(s, m).await,
        "convox" => convox::run(s, m).await,
        "deploy" => convox::deploy(s, m).await,
        "why" => convox::why(s, m).await,
        "vergeos" => super::native::vergeos::run(s, m).await,
        "doctor" => doctor::run(s, m).await,
        "up" => server::up(s, m).await,
        "down" => server::down(s).await,
        "status" => server::status(s).await,
        "env" => server::env(s, m).await,
        "reset" => server::reset(s).await,
        "save" => server::save(s, m).await,
        "load" => server::load(s, m).await,
        _ => Err(Failure::Code(2)),
    }
}

/// A text argument.
pub(crate) fn text<'a>(m: &'a ArgMatches, id: &str) -> &'a str {
    m.get_one::<String>(id).map_or("", String::as_str)
}

/// A text argument that may be absent.
pub(crate) fn option(m: &ArgMatches, id: &str) -> Option<String> {
    m.get_one::<String>(id).cloned()
}

/// All values of a text argument.
pub(crate) fn texts(m: &ArgMatches, id: &str) -> Vec<String> {
    m.get_many::<String>(id)
        .into_iter()
        .flatten()
        .cloned()
        .collect()
}

/// All values of a `NAME=VALUE` argument.
pub(crate) fn pairs(m: &ArgMatches, id: &str) -> impl Iterator<Item = (String, String)> {
    m.get_many::<(String, String)>(id)
        .into_iter()
        .flatten()
        .cloned()
        .collect::<Vec<_>>()
        .into_iter()
}
