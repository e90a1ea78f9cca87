//! Published services: host names that lead to ports of instances.
//!
//! A platform publishes a name (`web.app`, `api--<id>.proxy`; `.localhost` follows) with the processes that serve it, and changes
//! the set whenever it likes. A request is given to one of them in turn, over a connection of its own; one that does not take the
//! connection is passed over, because nothing was sent yet. A request that was sent is never sent again.
//!
//! To stop a process without losing a request: take it out of the set, wait for [`Services::drained`], stop it.
//!
//! The table is in memory. Platforms publish again when the server starts ([`crate::core::Platform::ready`]).

mod forward;
mod probe;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use boxrig_engine::{Engine, InstanceId};
use boxrig_wire::WireBody;
use http::{Response, StatusCode};
use tokio::sync::watch;

use crate::state::lock;

pub use forward::Client;
pub use probe::{Probed, probe};

/// How long a backend that did not take a connection is tried last.
const DOWN: Duration = Duration::from_secs(2);

/// A port of an instance that serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    /// The instance.
    pub instance: InstanceId,
    /// The TCP port on its loopback.
    pub port: u16,
}

/// What is spoken to backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, with upgrades.
    #[default]
    Http,
    /// HTTP/2 without TLS, for gRPC.
    H2c,
}

/// A published name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Who serves it; only those that are ready to. Without any, requests are answered with a 503.
    pub backends: Vec<Backend>,
    /// What is spoken to them.
    pub protocol: Protocol,
}

/// The published services of a server. Cheap to clone; clones are one table.
#[derive(Clone, Debug)]
pub struct Services(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Arc<dyn Engine>,
    table: Mutex<Table>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    services: HashMap<String, Entry>,
    /// Requests under way by instance, sockets included.
    under_way: HashMap<InstanceId, usize>,
    /// Backends that did not take a connection, and until when they are tried last.
    down: HashMap<Backend, Instant>,
}

#[derive(Debug, Default)]
struct Entry {
    service: Service,
    turn: usize,
}

/// A request under way; it counts until this goes.
#[derive(Debug)]
pub(crate) struct UnderWay {
    services: Services,
    instance: InstanceId,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut table = self.services.table();
        if let Some(count) = table.under_way.get_mut(&self.instance) {
            *count -= 1;
            if *count == 0 {
                table.under_way.remove(&self.instance);
            }
        }
        drop(table);
        self.services.changed();
    }
}

/// A name as it is kept: lower case, without `.localhost` and a dot at its end.
fn normal(name: &str) -> String {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.strip_suffix(".localhost").unwrap_or(&name).to_owned()
}

impl Services {
    /// An empty table over an engine's instances.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self(Arc::new(Inner {
            engine,
            table: Mutex::default(),
            changes: watch::Sender::new(0),
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.0.table)
    }

    fn changed(&self) {
        self.0.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Publishes a name, or replaces what it leads to. Requests that are under way are not touched.
    pub fn publish(&self, name: &str, service: Service) {
        self.publish_all([(name.to_owned(), service)]);
    }

    /// Publishes several names at one moment: no request sees some of them changed and others not.
    pub fn publish_all(&self, services: impl IntoIterator<Item = (String, Service)>) {
        let mut table = self.table();
        for (name, service) in services {
            table.services.entry(normal(&name)).or_default().service = service;
        }
        drop(table);
        self.changed();
    }

    /// Takes a name away. Requests that are under way are not touched.
    pub fn withdraw(&self, name: &str) {
        self.table().services.remove(&normal(name));
        self.changed();
    }

    /// Takes away the names that `of` is true for.
    pub fn withdraw_all(&self, of: impl Fn(&str) -> bool) {
        self.table().services.retain(|name, _| !of(name));
        self.changed();
    }

    /// What a name leads to.
    pub fn get(&self, name: &str) -> Option<Service> {
        let table = self.table();
        table.services.get(&normal(name)).map(|e| e.service.clone())
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.table().services.keys().cloned().collect();
        names.sort();
        names
    }

    /// How many requests are under way to an instance, open sockets included.
    pub fn under_way(&self, instance: &InstanceId) -> usize {
        self.table().under_way.get(instance).copied().unwrap_or(0)
    }

    /// Waits until no request is under way to an instance, at most this long; tells whether that is so. Take it out of every set
    /// first, or new ones go on coming.
    pub async fn drained(&self, instance: &InstanceId, patience: Duration) -> bool {
        let mut changes = self.0.changes.subscribe();
        let quiet = async {
            while self.under_way(instance) > 0 {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(patience, quiet).await.is_ok()
    }

    /// The backends of a name in the order in which they are to be tried; the first one's turn is taken.
    fn in_turn(&self, name: &str) -> Option<(Vec<Backend>, Protocol)> {
        let mut table = self.table();
        let now = Instant::now();
        table.down.retain(|_, until| *until > now);
        let Table { services, down, .. } = &mut *table;
        let entry = services.get_mut(name)?;
        let all = &entry.service.backends;
        let first = entry.turn % all.len().max(1);
        entry.turn = if all.is_empty() { 0 } else { first + 1 };
        let mut order: Vec<Backend> = all[first..].iter().chain(&all[..first]).cloned().collect();
        order.sort_by_key(|backend| down.contains_key(backend));
        Some((order, entry.service.protocol))
    }

    /// Counts a request to a backend, if the name still leads there.
    fn begin(&self, name: &str, backend: &Backend) -> Option<UnderWay> {
        let mut table = self.table();
        let entry = table.services.get(name)?;
        if !entry.service.backends.contains(backend) {
            return None;
        }
        let instance = backend.instance.clone();
        *table.under_way.entry(instance.clone()).or_default() += 1;
        Some(UnderWay {
            services: self.clone(),
            instance,
        })
    }

    fn mark_down(&self, backend: &Backend) {
        let until = Instant::now() + DOWN;
        self.table().down.insert(backend.clone(), until);
    }
}

/// What a client is told when no backend answers: JSON with the words, as the front's other refusals.
fn told(status: StatusCode, words: &str) -> Response<WireBody> {
    let body = serde_json::json!({ "error": words }).to_string();
    let mut response = Response::new(WireBody::full(body));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use boxrig_engine::{Memory, RealClock, Timings};

    fn services() -> Services {
        let engine = Memory::new(Arc::new(RealClock), Timings::default());
        Services::new(Arc::new(engine))
    }

    fn backend(name: &str) -> Backend {
        Backend {
            instance: InstanceId::new(name).unwrap(),
            port: 80,
        }
    }

    fn of(names: &[&str]) -> Service {
        Service {
            backends: names.iter().map(|n| backend(n)).collect(),
            ..Service::default()
        }
    }

    #[test]
    fn backends_take_turns_and_those_that_are_down_come_last() {
        let services = services();
        services.publish("Web.App.localhost.", of(&["a", "b", "c"]));
        let turn = || {
            let (order, _) = services.in_turn("web.app").unwrap();
            order
                .iter()
                .map(|b| b.instance.to_string())
                .collect::<String>()
        };
        assert_eq!(
            [turn(), turn(), turn(), turn()],
            ["abc", "bca", "cab", "abc"]
        );
        services.mark_down(&backend("c"));
        assert_eq!([turn(), turn()], ["bac", "abc"]);
        services.publish("web.app", of(&[]));
        assert_eq!(turn(), "");
        services.withdraw("web.app");
        assert!(services.in_turn("web.app").is_none());
    }

    #[tokio::test]
    async fn an_instance_is_drained_when_its_last_request_ends() {
        let services = services();
        services.publish("web.app", of(&["a"]));
        let one = services.begin("web.app", &backend("a")).unwrap();
        let two = services.begin("web.app", &backend("a")).unwrap();
        services.publish("web.app", of(&["b"]));
        // What is out of the set gets nothing new.
        assert!(services.begin("web.app", &backend("a")).is_none());
        let a = InstanceId::new("a").unwrap();
        assert_eq!(services.under_way(&a), 2);
        assert!(!services.drained(&a, Duration::from_millis(20)).await);
        let waiting = services.clone();
        let id = a.clone();
        let drained =
            tokio::spawn(async move { waiting.drained(&id, Duration::from_secs(5)).await });
        drop(one);
        tokio::task::yield_now().await;
        assert!(!drained.is_finished());
        drop(two);
        assert!(drained.await.unwrap());
    }
}
