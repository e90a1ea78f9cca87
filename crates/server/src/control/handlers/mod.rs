//! The server's side of the control API.

mod exec;
mod files;
mod instances;
mod state;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boxrig_engine::InstanceId;
use boxrig_wire::{ApiError, BoxFuture, JsonReply, WireBody};
use http::Response;
use tokio::sync::{Mutex, Notify};

use super::ops;
use super::types::{ClockView, Done, FaultsView, Info};
use crate::core::{Core, Platform, engine_error};
use crate::env::Env;
use crate::faults::{self, Script};
use crate::router::{Call, RequestInfo, Router};

/// What the handlers work on.
#[derive(Debug)]
pub(super) struct State {
    pub(super) core: Arc<Core>,
    /// Known once the server listens.
    pub(super) facts: OnceLock<Facts>,
    pub(super) platforms: OnceLock<Vec<Arc<dyn Platform>>>,
    /// One reset or load at a time.
    pub(super) exclusive: Mutex<()>,
    shutdown: Notify,
}

/// What a server tells of itself.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) info: Info,
    pub(crate) env: Env,
}

/// The control API as a platform of the front.
#[derive(Debug)]
pub(crate) struct Control {
    state: Arc<State>,
    router: Router<super::ControlProtocol, Arc<State>>,
}

impl Control {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let router = core.around.iter().cloned().fold(router(), Router::around);
        Self {
            state: Arc::new(State {
                core,
                facts: OnceLock::new(),
                platforms: OnceLock::new(),
                exclusive: Mutex::default(),
                shutdown: Notify::new(),
            }),
            router,
        }
    }

    /// Says what is known only when the server listens.
    pub(crate) fn complete(&self, facts: Facts, platforms: Vec<Arc<dyn Platform>>) {
        let _ = self.state.platforms.set(platforms);
        let _ = self.state.facts.set(facts);
    }

    /// Waits until somebody asks the server to end.
    pub(crate) async fn shutdown_asked(&self) {
        self.state.shutdown.notified().await;
    }
}

impl Platform for Control {
    fn route(
        &self,
        info: RequestInfo,
        request: http::Request<WireBody>,
    ) -> BoxFuture<'_, Response<WireBody>> {
        Box::pin(self.router.route(self.state.clone(), info, request))
    }
}

type Called = Call<Arc<State>>;

fn router() -> Router<super::ControlProtocol, Arc<State>> {
    Router::new()
        .mount(ops::GetInfo, |call: Called, _| async move {
            let mut info = call.facts()?.info.clone();
            info.instances = call.core.engine.list().await.map_err(api)?.len();
            Ok(JsonReply::ok(info))
        })
        .mount(ops::GetEnv, |call, _| async move {
            Ok(JsonReply::ok(call.facts()?.env.clone()))
        })
        .mount(ops::Shutdown, |call, _| async move {
            call.shutdown.notify_one();
            Ok(JsonReply::ok(Done { done: true }))
        })
        .mount(ops::Reset, state::reset)
        .mount(ops::SaveState, state::save)
        .mount(ops::LoadState, state::load)
        .mount(ops::GetFaults, |call, _| async move {
            Ok(JsonReply::ok(faults_view(&call)?))
        })
        .mount(ops::PutFaults, |call, request| async move {
            let script: Script = serde_json::from_value(request.body.0)
                .map_err(|e| ApiError::invalid(format!("fault script: {e}")))?;
            call.core.faults.set(script);
            Ok(JsonReply::ok(faults_view(&call)?))
        })
        .mount(ops::GetClock, |call, _| async move {
            Ok(JsonReply::ok(clock_view(&call)))
        })
        .mount(ops::AdvanceClock, |call, request| async move {
            let Some(clock) = &call.core.virtual_clock else {
                return Err(ApiError::conflict(
                    "the server runs on the machine's clock; start it with a virtual one to move it",
                ));
            };
            clock.advance(Duration::from_millis(request.body.0.advance_ms));
            Ok(JsonReply::ok(clock_view(&call)))
        })
        .mount(ops::GetDoctor, |call, _| async move {
            let report = boxrig_engine::probe(&call.core.data.join("doctor")).await;
            let value = serde_json::to_value(report)
                .map_err(|e| ApiError::new(boxrig_wire::Kind::Failed, e.to_string()))?;
            Ok(JsonReply::ok(value))
        })
        .mount(ops::ListInstances, instances::list)
        .mount(ops::GetInstance, instances::get)
        .mount(ops::GetInstanceStats, instances::stats)
        .mount(ops::Restore, instances::restore)
        .mount(ops::GetInstanceLogs, instances::logs)
        .mount(ops::Exec, exec::exec)
        .mount(ops::GetInstanceFile, files::read)
        .mount(ops::PutInstanceFile, files::write)
        .mount(ops::DeleteInstanceFile, files::remove)
        .mount(ops::StatInstanceFile, files::stat)
        .mount(ops::ListInstanceFiles, files::list)
        .mount(ops::MakeInstanceDir, files::make_dir)
}

impl State {
    fn facts(&self) -> Result<&Facts, ApiError> {
        self.facts
            .get()
            .ok_or_else(|| ApiError::new(boxrig_wire::Kind::Unavailable, "the server is starting"))
    }
    pub(super) fn platforms(&self) -> &[Arc<dyn Platform>] {
        self.platforms.get().map_or(&[], Vec::as_slice)
    }
}

fn faults_view(call: &Called) -> Result<FaultsView, ApiError> {
    let rules = call.core.faults.script().fault;
    Ok(FaultsView {
        fault: rules
            .into_iter()
            .map(serde_json::to_value)
            .collect::<Result<_, _>>()
            .map_err(|e| ApiError::new(boxrig_wire::Kind::Failed, e.to_string()))?,
        crash_points: faults::passes()
            .into_iter()
            .map(|(name, n)| (name.to_owned(), n))
            .collect(),
    })
}

fn clock_view(call: &Called) -> ClockView {
    ClockView {
        now_ms: call.core.now_ms(),
        is_virtual: call.core.virtual_clock.is_some(),
    }
}

fn api(e: boxrig_engine::Error) -> ApiError {
    engine_error(&e)
}

fn instance_id(text: &str) -> Result<InstanceId, ApiError> {
    // A text that is no id names nothing.
    InstanceId::new(text).map_err(|_| ApiError::not_found("no such instance"))
}

pub(crate) fn ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_mounted() {
        assert_eq!(router().check(super::super::CATALOG, ""), Ok(()));
    }
}
