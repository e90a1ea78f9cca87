//! The names by which services reach each other inside the rack.
//!
//! As on a rack (docs.convox.com, *Service Discovery*): `SERVICE` in one's own app, `SERVICE.APP` from any, and the full names
//! `SERVICE.APP.RACK.local`, `SERVICE.APP.convox.local` and Kubernetes' `SERVICE.RACK-APP.svc.cluster.local`. They lead straight to
//! the service's `port` and `ports`, without TLS, whether or not the service is `internal`.
//!
//! A process is led to processes of its own release, while they are ready: during a promotion the new release is tried with itself,
//! and the old one stays with itself. Otherwise the active release answers.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use boxrig_engine::{BoxDuplex, InstanceId, Neighbours};
use boxrig_wire::BoxFuture;

use super::manifest::{self, Service};
use super::state::{RACK, Shared, State, instance, key};

/// How long a process may take to take a connection before the next is asked.
const CONNECT: Duration = Duration::from_secs(3);

/// The services of a rack, to each other.
#[derive(Debug)]
pub(super) struct Inside {
    /// The engine keeps this, and the state keeps the engine.
    state: Weak<State>,
    turn: AtomicUsize,
}

impl Inside {
    pub(super) fn of(state: &Shared) -> Arc<Self> {
        Arc::new(Self {
            state: Arc::downgrade(state),
            turn: AtomicUsize::new(0),
        })
    }
}

/// The service and the app that a name means; the app is the asker's own when none is said.
fn meant(name: &str) -> Option<(&str, Option<&str>)> {
    let rack = |domain: &str| name.strip_suffix(domain)?.strip_suffix('.');
    let own = format!("{RACK}.local");
    if let Some(rest) = rack(&own).or_else(|| rack("convox.local")) {
        return in_app(rest);
    }
    if let Some(rest) = rack("svc.cluster.local") {
        let (service, space) = in_app(rest)?;
        return Some((service, Some(space?.strip_prefix(RACK)?.strip_prefix('-')?)));
    }
    match name.contains('.') {
        true => in_app(name),
        false => Some((name, None)),
    }
}

/// `SERVICE.APP`: two parts, no more.
fn in_app(text: &str) -> Option<(&str, Option<&str>)> {
    let (service, app) = text.split_once('.')?;
    (!app.contains('.')).then_some((service, Some(app)))
}

/// A service in one release of its app.
struct Found {
    app: String,
    release: String,
    service: Service,
}

/// What a name means to a process, in the releases that may answer, the first one first.
fn find(state: &State, from: &InstanceId, name: &str) -> Vec<Found> {
    // Whoever is not a process of the rack knows nobody here.
    let Some(from) = state.processes.get(from.as_str()) else {
        return Vec::new();
    };
    let Some((service, app)) = meant(name) else {
        return Vec::new();
    };
    let Some(app) = state.apps.get(app.unwrap_or(&from.app)) else {
        return Vec::new();
    };
    let mut releases = vec![app.release.clone()];
    if app.name == from.app && from.release != app.release {
        releases.insert(0, from.release.clone());
    }
    let of = |release: String| {
        let record = state.releases.get(&key(&app.name, &release))?;
        let manifest = manifest::of(&record).ok()?;
        let service = manifest.named(service)?.clone();
        (service.port.is_some() || !service.ports.is_empty()).then(|| Found {
            app: app.name.clone(),
            release,
            service,
        })
    };
    releases.into_iter().filter_map(of).collect()
}

impl Found {
    fn has_port(&self, port: u16) -> bool {
        let main = self.service.port.as_ref().map(|p| p.port);
        main == Some(port) || self.service.ports.contains(&port)
    }
}

impl Neighbours for Inside {
    fn knows(&self, from: &InstanceId, name: &str) -> bool {
        let state = self.state.upgrade();
        state.is_some_and(|state| !find(&state, from, name).is_empty())
    }

    fn connect<'a>(
        &'a self,
        from: &'a InstanceId,
        name: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<BoxDuplex>> {
        Box::pin(async move {
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let state = self.state.upgrade().ok_or_else(refused)?;
            for found in find(&state, from, name) {
                if !found.has_port(port) {
                    continue;
                }
                let mut all = state.processes_of(&found.app);
                all.retain(|p| p.serves(&found.service.name, &found.release));
                if !all.is_empty() {
                    let turn = self.turn.fetch_add(1, Ordering::Relaxed) % all.len();
                    all.rotate_left(turn);
                }
                for process in all {
                    let Ok(id) = instance(&process.id) else {
                        continue;
                    };
                    let connect = state.core.engine.connect(&id, port);
                    match tokio::time::timeout(CONNECT, connect).await {
                        Ok(Ok(stream)) => return Ok(stream),
                        Ok(Err(error)) => {
                            tracing::debug!(process = process.id, %error, "a neighbour is passed over");
                        }
                        Err(_) => {
                            tracing::debug!(process = process.id, "a neighbour takes no connection")
                        }
                    }
                }
            }
            Err(refused())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_a_rack_has_them() {
        for (name, wanted) in [
            ("api", Some(("api", None))),
            ("api.shop", Some(("api", Some("shop")))),
            ("api.shop.boxrig.local", Some(("api", Some("shop")))),
            ("api.shop.convox.local", Some(("api", Some("shop")))),
            (
                "api.boxrig-shop.svc.cluster.local",
                Some(("api", Some("shop"))),
            ),
            ("api.other-shop.svc.cluster.local", None),
            ("a.b.c", None),
            ("a.b.c.convox.local", None),
            ("api.convox.local", None),
            ("xconvox.local", Some(("xconvox", Some("local")))),
        ] {
            assert_eq!(meant(name), wanted, "{name}");
        }
    }
}
