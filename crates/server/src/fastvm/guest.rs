//! From a machine to the server: a listener per machine, at the server's own address as seen inside, that gives the
//! machine's staged objects and nothing else, whatever its network may reach.
//!
//! A listener is made with the first address that is presigned for a machine, and again after a restart of the server.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

use boxrig_engine::GuestListener;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::record::Phase;
use super::state::{Shared, instance};
use crate::listen::{About, Service, Stop, serve_connection};
use crate::router::Peer;
use crate::state::lock;

/// The most connections that a machine may have open: it cannot use up the server's.
const CONNECTIONS: usize = 64;

/// The listeners by machine.
#[derive(Default)]
pub(super) struct Guests {
    service: OnceLock<Service>,
    listeners: Mutex<HashMap<String, AbortHandle>>,
}

impl fmt::Debug for Guests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guests({})", lock(&self.listeners).len())
    }
}

impl Guests {
    /// Sets what answers; once, before the first listener.
    pub(super) fn serve_with(&self, service: Service) {
        let _ = self.service.set(service);
    }

    /// Closes a machine's listener.
    pub(super) fn close(&self, id: &str) {
        if let Some(listener) = lock(&self.listeners).remove(id) {
            listener.abort();
        }
    }

    /// Closes all listeners.
    pub(super) fn close_all(&self) {
        for (_, listener) in lock(&self.listeners).drain() {
            listener.abort();
        }
    }
}

/// The port of an origin `http://host[:port]`; `None` for another scheme: inside, the address is served plainly.
fn port(origin: &str) -> Option<u16> {
    let uri: http::Uri = origin.parse().ok()?;
    (uri.scheme_str() == Some("http")).then(|| uri.port_u16().unwrap_or(80))
}

/// Makes the server's address work inside a machine, if it does not yet.
pub(super) async fn reach(state: &Shared, id: &str) {
    if !state.core.engine.capabilities().ports {
        return;
    }
    let (Some(port), Some(service)) = (port(state.core.origin()), state.guests.service.get())
    else {
        return;
    };
    let _one = state.locks.hold(&format!("guest:{id}")).await;
    let there = lock(&state.guests.listeners)
        .get(id)
        .is_some_and(|listener| !listener.is_finished());
    if there {
        return;
    }
    let Ok(instance) = instance(id) else {
        return;
    };
    match state.core.engine.listen(&instance, port).await {
        Ok(listener) => {
            let serve = serve(listener, id.to_owned(), service.clone());
            let task = tokio::spawn(serve).abort_handle();
            lock(&state.guests.listeners).insert(id.to_owned(), task);
            if state.machine(id).is_err() {
                state.guests.close(id);
            }
        }
        // Uploads do not need it. A download then fails in the machine, where `curl` says that it has no connection.
        Err(e) => {
            tracing::warn!(vm = id, port, error = %e, "the server cannot be reached from this machine")
        }
    }
}

async fn serve(mut listener: GuestListener, id: String, service: Service) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok(io) => {
                let about = About::plain(Peer::Guest(id.clone()));
                let service = service.clone();
                tokio::spawn(async move {
                    serve_connection(io, about, service, Stop::default()).await;
                    drop(slot);
                });
            }
            Err(e) => {
                tracing::debug!(vm = id, error = %e, "guest listener");
                return;
            }
        }
    }
}

/// Makes the listeners of machines whose addresses are still good.
pub(super) async fn reach_all(state: &Shared) {
    let now = state.core.now_ms();
    let mut ids: Vec<String> = state.objects.with(|all| {
        let live = all.values().filter(|o| o.expires_ms > now);
        live.map(|o| o.vm_id.clone()).collect()
    });
    ids.sort();
    ids.dedup();
    for id in ids {
        let runs = state
            .machine(&id)
            .is_ok_and(|m| matches!(m.phase, Phase::Running | Phase::Paused));
        if runs {
            reach(state, &id).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_origins() {
        assert_eq!(port("http://127.0.0.1:7979"), Some(7979));
        assert_eq!(port("http://boxrig.example"), Some(80));
        assert_eq!(port("https://boxrig.example"), None);
        assert_eq!(port(""), None);
    }
}
