//! FastVM on the engine.
//!
//! Machines, commands, files, snapshots, imports, services, firewalls, the console, timers and quotas are real; what is not there yet answers a 501
//! that names the operation (`not_implemented.txt`). A machine is an instance of the engine with the same id; its
//! configuration is a document of the state store. How the two are kept together over a crash is told at
//! `lifecycle.rs` and `recover.rs`.

mod console;
mod due;
mod exec;
mod files;
mod firewall;
mod guest;
mod imports;
mod lifecycle;
mod locks;
mod once;
mod quota;
mod record;
mod recover;
mod rules;
mod services;
mod snapshots;
mod staging;
mod state;
mod ttl;
mod view;
mod vms;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use boxrig_engine::EventKind;
use boxrig_fastvm::{FastVm, HealthResponse, ops};
use boxrig_wire::{ApiError, BoxFuture, Endpoint, JsonReply, Meta, Request, WireBody};
use http::Response;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;

pub use quota::Amounts as QuotaLimits;
pub use state::Shared as FastVmState;

use due::Due;
use state::{State, engine_error};

use crate::core::{Core, Platform};
use crate::listen;
use crate::router::{Call, Peer, RequestInfo, Router, error};
use crate::state::{StateError, lock};

/// What handlers get.
type Cx = Call<FastVmState>;

/// The operations that answer 501, one a line.
pub const NOT_IMPLEMENTED: &str = include_str!("not_implemented.txt");

/// How long something that was due and failed waits for its next try.
const AGAIN: Duration = Duration::from_secs(5);

/// Operations that need no API key: the health check, and those whose address carries its own proof.
fn is_open(meta: &Meta) -> bool {
    [
        ops::Health::META.id,
        ops::PutObject::META.id,
        ops::GetObject::META.id,
        ops::OpenConsole::META.id,
    ]
    .contains(&meta.id)
}

/// Operations that a machine may ask for from inside.
fn is_for_guests(meta: &Meta) -> bool {
    [ops::PutObject::META.id, ops::GetObject::META.id].contains(&meta.id)
}

/// Lets a request through to its handler, or not.
fn admit(cx: &Cx, meta: Option<&'static Meta>) -> Result<(), ApiError> {
    if let Peer::Guest(_) = cx.info.peer {
        return match meta {
            Some(meta) if is_for_guests(meta) => Ok(()),
            _ => Err(ApiError::not_found("no such path")),
        };
    }
    match meta {
        Some(meta) if is_open(meta) => Ok(()),
        _ => cx.state.core.credentials.check_api_key(&cx.info),
    }
}

/// Everything that is described, mounted.
pub fn router() -> Router<FastVm, FastVmState> {
    let router = Router::new()
        .guard(admit)
        .mount(ops::Health, health)
        .mount(ops::ListVms, vms::list)
        .mount(ops::LaunchVm, vms::launch)
        .mount(ops::GetVm, vms::get)
        .mount(ops::UpdateVm, vms::update)
        .mount(ops::DeleteVm, vms::delete)
        .mount(ops::PauseVm, vms::pause)
        .mount(ops::ResumeVm, vms::resume)
        .mount(ops::RefreshVmTtl, vms::refresh_ttl)
        .mount(ops::CreateConsoleToken, console::token)
        .mount(ops::OpenConsole, console::open)
        .mount(ops::ExecVm, exec::exec)
        .mount(ops::PresignFile, files::presign)
        .mount(ops::FetchFile, files::fetch)
        .mount(ops::PutObject, files::put)
        .mount(ops::GetObject, files::get)
        .mount(ops::ListSnapshots, snapshots::list)
        .mount(ops::CreateSnapshot, snapshots::create)
        .mount(ops::GetSnapshot, snapshots::get)
        .mount(ops::UpdateSnapshot, snapshots::update)
        .mount(ops::DeleteSnapshot, snapshots::delete)
        .mount(ops::SetVmFirewall, firewall::set)
        .mount(ops::PatchVmFirewall, firewall::patch)
        .mount(ops::ListServices, services::list)
        .mount(ops::RegisterService, services::register)
        .mount(ops::UpdateService, services::update)
        .mount(ops::DeleteService, services::delete)
        .mount(ops::ListSnapshotImports, imports::list)
        .mount(ops::CreateSnapshotImport, imports::create)
        .mount(ops::PresignImportContext, imports::presign)
        .mount(ops::GetSnapshotImport, imports::get)
        .mount(ops::DeleteSnapshotImport, imports::delete)
        .mount(ops::CancelSnapshotImport, imports::cancel)
        .mount(ops::CreateBuild, imports::older::create)
        .mount(ops::GetBuild, imports::older::get)
        .mount(ops::PresignBuildContext, imports::older::presign)
        .mount(ops::GetOrgQuotas, vms::quotas);
    let refused = NOT_IMPLEMENTED
        .lines()
        .filter_map(|line| line.split('#').next())
        .map(str::trim);
    let described = ops::CATALOG.iter().chain(ops::EXTENSIONS);
    refused
        .filter_map(|id| described.clone().find(|meta| meta.id == id))
        .fold(router, |router, meta| router.not_implemented(meta))
}

async fn health(_: Cx, _: Request<ops::Health>) -> Result<JsonReply<HealthResponse>, ApiError> {
    Ok(JsonReply::ok(HealthResponse {
        status: Some("ok".into()),
        ..HealthResponse::default()
    }))
}

/// FastVM as a part of the server.
pub struct Fastvm {
    state: FastVmState,
    router: Arc<Router<FastVm, FastVmState>>,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Fastvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fastvm")
            .field("state", &self.state)
            .finish()
    }
}

impl Fastvm {
    /// Loads the state and brings it together with the engine: when it answers, only whole things are shown.
    ///
    /// # Errors
    ///
    /// When the state cannot be read, or the engine cannot tell what it has.
    pub async fn open(core: Arc<Core>, limits: QuotaLimits) -> Result<Self, ApiError> {
        let state = Arc::new(State::load(core, limits)?);
        recover::recover(&state).await?;
        let around = state.core.around.clone();
        let router = around.into_iter().fold(router(), Router::around);
        Ok(Self {
            state,
            router: Arc::new(router),
            tasks: Mutex::default(),
        })
    }
}

impl Platform for Fastvm {
    fn route(
        &self,
        info: RequestInfo,
        request: http::Request<WireBody>,
    ) -> BoxFuture<'_, Response<WireBody>> {
        Box::pin(self.router.route(self.state.clone(), info, request))
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // Weak: the state holds its guests, and would hold itself by them.
            let (router, state) = (self.router.clone(), Arc::downgrade(&self.state));
            self.state
                .guests
                .serve_with(listen::service(move |info, request| {
                    let (router, state) = (router.clone(), state.upgrade());
                    async move {
                        match state {
                            Some(state) => router.route(state, info, request).await,
                            None => error::<FastVm>(&StateError::Closed.into()),
                        }
                    }
                }));
            let mut tasks = lock(&self.tasks);
            tasks.spawn(timers(self.state.clone()));
            tasks.spawn(engine_events(self.state.clone()));
            let state = self.state.clone();
            tasks.spawn(async move { guest::reach_all(&state).await });
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            lock(&self.tasks).abort_all();
            for (_, work) in lock(&self.state.at_work).drain() {
                work.abort();
            }
            self.state.guests.close_all();
        })
    }

    fn reset(&self) -> BoxFuture<'_, Result<(), ApiError>> {
        Box::pin(async {
            for (_, work) in lock(&self.state.at_work).drain() {
                work.abort();
            }
            let cleared = self.state.core.builder.clear_cache().await;
            cleared.map_err(|e| ApiError::new(boxrig_wire::Kind::Failed, e.to_string()))?;
            let ids = self.state.each_machine(|m| Some(m.id.clone()));
            for id in ids {
                let gone = lifecycle::delete(&self.state, &id).await;
                if let Err(e) = gone
                    && e.kind != boxrig_wire::Kind::NotFound
                {
                    return Err(e);
                }
            }
            for snapshot in self.state.snapshots.list() {
                let id = snapshots::engine_id(&snapshot.id)?;
                let gone = match &snapshot.image {
                    Some(image) => self.state.core.engine.delete_image(image).await,
                    None => self.state.core.engine.delete_snapshot(&id).await,
                };
                if let Err(e) = gone
                    && e.kind() != boxrig_engine::Kind::NotFound
                {
                    return Err(engine_error(&e));
                }
            }
            self.state.queue.clear();
            Ok(())
        })
    }

    fn reload(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Err(e) = recover::recover(&self.state).await {
                tracing::error!(error = %e, "the loaded state could not be brought together with the engine");
            }
            guest::reach_all(&self.state).await;
        })
    }

    fn holdings(&self) -> usize {
        self.state.machines.len()
    }
}

/// Does what is due, when it is due.
async fn timers(state: FastVmState) {
    loop {
        let due = state.queue.next(&*state.core.clock).await;
        let state = state.clone();
        // One machine that takes long does not keep the others waiting.
        tokio::spawn(async move {
            let done = match &due {
                Due::Machine(id) => lifecycle::expire(&state, id).await,
                Due::Object(id) => forget_object(&state, id).await,
                Due::Key(key) => forget_key(&state, key).await,
            };
            if let Err(e) = done {
                tracing::warn!(?due, error = %e, "not done in time, tried again");
                let again = u64::try_from(AGAIN.as_millis()).unwrap_or_default();
                let at = state.core.now_ms() + again;
                state.queue.set(due, Some(at));
            }
        });
    }
}

async fn forget_object(state: &State, id: &str) -> Result<(), ApiError> {
    let forget = state.core.store.write(|tx| {
        tx.delete(&state.objects, id);
        Ok::<_, ApiError>(())
    });
    forget.await?;
    state.staging.remove(id).await;
    Ok(())
}

async fn forget_key(state: &State, key: &str) -> Result<(), ApiError> {
    let forget = state.core.store.write(|tx| {
        tx.delete(&state.made, key);
        Ok::<_, ApiError>(())
    });
    forget.await
}

/// Takes over what happens to instances without this API's doing.
async fn engine_events(state: FastVmState) {
    let mut events = state.core.engine.events();
    loop {
        let ids = match events.recv().await {
            Ok(event) => match event.kind {
                EventKind::Created | EventKind::MainExited(_) => continue,
                _ => vec![event.id.to_string()],
            },
            Err(RecvError::Lagged(_)) => state.each_machine(|m| Some(m.id.clone())),
            Err(RecvError::Closed) => return,
        };
        for id in ids {
            let state = state.clone();
            tokio::spawn(async move {
                if let Err(e) = recover::follow(&state, &id).await {
                    tracing::warn!(vm = id, error = %e, "the state of a machine is not known");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_described_is_mounted() {
        let all: Vec<&'static Meta> = ops::CATALOG
            .iter()
            .chain(ops::EXTENSIONS)
            .copied()
            .collect();
        router().check(all.leak(), NOT_IMPLEMENTED).unwrap();
        assert_eq!(ops::CATALOG.len(), 49);
    }
}
