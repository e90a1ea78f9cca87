//! Processes: seen, run and ended.

use boxrig_convox::{Done, Reply, models, ops};
use boxrig_wire::{ApiError, Request, Socket};
use futures_util::{StreamExt, stream};

use super::records::{Phase, Process, Purpose};
use super::state::{State, instance};
use super::time::stamp;
use super::{Cx, shell};

/// A run as the headers of an operation say it.
macro_rules! spec_of {
    ($service:expr, $headers:expr) => {{
        let h = $headers;
        let whole = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
        super::start::Run {
            service: $service,
            release: h.release.filter(|r| !r.is_empty()),
            command: h.command.filter(|c| !c.is_empty()),
            image: h.image.filter(|i| !i.is_empty()),
            environment: h.environment.0,
            cpu: whole(h.cpu_limit.or(h.cpu)),
            memory: whole(h.memory_limit.or(h.memory)),
            purpose: Purpose::Run,
            name: String::new(),
        }
    }};
}

/// How many processes are measured at a time.
const AT_ONCE: usize = 16;

/// A process in the rack's form, with what it uses now.
pub(super) async fn view(state: &State, process: &Process) -> models::Process {
    let mut m = models::Process::default();
    m.id = process.id.clone();
    m.app = process.app.clone();
    m.command = shell::join(&process.command);
    m.image = process.image.clone();
    m.instance = super::system::INSTANCE.into();
    m.host = "127.0.0.1".into();
    m.name = process.service.clone();
    m.service = process.service.clone();
    m.release = process.release.clone();
    m.started = stamp(process.created_ms);
    m.status = process.status().into();
    m.ports = process.port.iter().map(u16::to_string).collect();
    if process.phase == Phase::Running
        && let Ok(id) = instance(&process.id)
        && let Ok(stats) = state.core.engine.stats(&id).await
    {
        m.memory = stats.memory_bytes.unwrap_or(0) as f64 / (1024.0 * 1024.0);
        m.cpu = state.usage.cpu(&process.id, stats.cpu_time);
    }
    m
}

/// Several, measured side by side.
pub(super) async fn views(
    state: &State,
    all: Vec<std::sync::Arc<Process>>,
) -> Vec<models::Process> {
    stream::iter(all)
        .map(|process| async move { view(state, &process).await })
        .buffered(AT_ONCE)
        .collect()
        .await
}

pub(super) async fn list(
    cx: Cx,
    rq: Request<ops::processes::ProcessList>,
) -> Result<Reply<Vec<models::Process>>, ApiError> {
    let (app,) = rq.path;
    cx.app(&app)?;
    let mut all = cx.processes_of(&app);
    let is =
        |want: &Option<String>, is: &str| want.as_ref().is_none_or(|w| w.is_empty() || w == is);
    all.retain(|p| is(&rq.query.service, &p.service) && is(&rq.query.release, &p.release));
    Ok(Reply(views(&cx, all).await))
}

pub(super) async fn get(
    cx: Cx,
    rq: Request<ops::processes::ProcessGet>,
) -> Result<Reply<models::Process>, ApiError> {
    let (app, id) = rq.path;
    let process = cx.process(&app, &id)?;
    Ok(Reply(view(&cx, &process).await))
}

/// Ends a process. A service's is replaced by its worker, as everything that goes away without being asked to.
pub(super) async fn stop(
    cx: Cx,
    rq: Request<ops::processes::ProcessStop>,
) -> Result<Done, ApiError> {
    let (app, id) = rq.path;
    cx.process(&app, &id)?;
    cx.change_process(&id, |p| {
        p.phase = Phase::Stopping;
        p.ready = false;
    })
    .await?;
    Ok(Done)
}
pub(super) async fn run(
    cx: Cx,
    rq: Request<ops::processes::ProcessRun>,
) -> Result<Reply<models::Process>, ApiError> {
    let (app, service) = rq.path;
    let h = rq.headers;
    let unsupported = [
        ("Gpu", h.gpu.is_some_and(|n| n > 0)),
        ("Volumes", !h.volumes.0.is_empty()),
        ("Use-Service-Volume", h.use_service_volume == Some(true)),
        ("Privileged", h.privileged == Some(true)),
        (
            "Node-Labels",
            h.node_labels.as_ref().is_some_and(|l| !l.is_empty()),
        ),
    ];
    if let Some((name, _)) = unsupported.iter().find(|(_, asked)| *asked) {
        return Err(ApiError::not_implemented("ProcessRun")
            .with_detail("option", *name)
            .reworded(format!(
                "ProcessRun with {name} is not implemented by this server"
            )));
    }
    let spec = spec_of!(service, h);
    let process = super::start::one_off(&cx.state.state, &app, spec).await?;
    Ok(Reply(view(&cx, &process).await))
}

/// Generation 1's way of running, with the command in the form.
pub(super) async fn run_detached(
    cx: Cx,
    rq: Request<ops::v2_classic::ProcessRunDetached>,
) -> Result<Reply<boxrig_convox::Started>, ApiError> {
    let (app, service) = rq.path;
    let (h, form) = (rq.headers, rq.body.0);
    let mut spec = spec_of!(service, h);
    spec.command = form.command.filter(|c| !c.is_empty()).or(spec.command);
    spec.release = form.release.filter(|r| !r.is_empty()).or(spec.release);
    let process = super::start::one_off(&cx.state.state, &app, spec).await?;
    let mut started = boxrig_convox::Started::default();
    started.pid = process.id.clone();
    Ok(Reply(started))
}

/// Generation 1's way of running attached: a process that waits, and the command in it.
pub(super) async fn run_attached(
    cx: Cx,
    rq: Request<ops::v2_classic::ProcessRunAttached>,
) -> Result<Socket, ApiError> {
    let (app, service) = rq.path;
    super::exec::needs_write(&cx, "process run")?;
    let h = rq.headers;
    let timeout = h.timeout.filter(|t| *t > 0).unwrap_or(3600);
    let size = super::exec::size(h.height, h.width);
    let command = h.command.clone().unwrap_or_default();
    let mut spec = spec_of!(service, h);
    spec.command = Some(format!("sleep {timeout}"));
    let state = cx.state.state.clone();
    Ok(super::sockets::serve(move |input, out| async move {
        let begun = async {
            let argv = shell::split(&command).map_err(super::params::failed)?;
            let process = super::start::one_off(&state, &app, spec).await?;
            let exec = super::exec::start(&state, &process, argv, Some(size), true).await;
            Ok::<_, ApiError>((process.id.clone(), exec))
        };
        match begun.await {
            Ok((id, exec)) => {
                match exec {
                    Ok(exec) => super::exec::attend(exec, input, &out, true).await,
                    Err(e) => super::sockets::fail(&out, &e).await,
                }
                let ended = state.change_process(&id, |p| p.phase = Phase::Stopping);
                if let Err(e) = ended.await {
                    tracing::warn!(process = id, error = %e, "a run was not ended");
                }
            }
            Err(e) => super::sockets::fail(&out, &e).await,
        }
    }))
}

/// An error with other words.
trait Reworded {
    fn reworded(self, words: String) -> Self;
}

impl Reworded for ApiError {
    fn reworded(mut self, words: String) -> Self {
        self.message = words;
        self
    }
}
