//! Which processes get the requests for an app's host names.

use std::collections::BTreeSet;
use std::time::Duration;

use super::records::Process;
use super::state::{Shared, instance};
use crate::services::{Backend, Protocol, Service};
use crate::state::lock;

/// How long the last requests of a process that is to end may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells the router who serves an app now: the ready processes of its active release, and no others.
pub(super) fn publish(state: &Shared, app: &str) {
    // What was read first must not be told last.
    let _one_at_a_time = lock(&state.routing);
    let Some(app) = state.apps.get(app) else {
        return;
    };
    if app.deleting {
        return;
    }
    let Ok(Some(manifest)) = super::services::active(state, &app) else {
        return;
    };
    let all = state.processes_of(&app.name);
    let mut names = BTreeSet::new();
    let mut services = Vec::new();
    for service in manifest.services.iter().filter(|s| !s.internal) {
        let Some(port) = &service.port else { continue };
        let serving = all.iter().filter(|p| p.serves(&service.name, &app.release));
        let backends = serving.filter_map(|p| {
            Some(Backend {
                instance: instance(&p.id).ok()?,
                port: port.port,
            })
        });
        let protocol = match port.scheme.to_ascii_lowercase().as_str() {
            "grpc" | "h2c" => Protocol::H2c,
            _ => Protocol::Http,
        };
        let name = format!("{}.{}", service.name, app.name);
        names.insert(name.clone());
        services.push((
            name,
            Service {
                backends: backends.collect(),
                protocol,
            },
        ));
    }
    state.core.services.publish_all(services);
    let suffix = format!(".{}", app.name);
    let stale = |name: &str| name.ends_with(&suffix) && !names.contains(name);
    state.core.services.withdraw_all(stale);
}

/// An app has no host names any more.
pub(super) fn withdraw(state: &Shared, app: &str) {
    let _one_at_a_time = lock(&state.routing);
    let suffix = format!(".{app}");
    state
        .core
        .services
        .withdraw_all(|name| name.ends_with(&suffix));
}

/// Waits until no request is under way to a process.
pub(super) async fn drained(state: &Shared, process: &Process) {
    if let Ok(id) = instance(&process.id) {
        state.core.services.drained(&id, PATIENCE).await;
    }
}

/// Whether a host name is one of an app's.
pub(super) fn is_ours(state: &Shared, name: &str) -> bool {
    let app = name.rsplit_once('.').map(|(_, app)| app);
    app.is_some_and(|app| state.apps.get(app).is_some())
}
