//! The rack itself: what it is, what it has, who may use it.

use std::collections::BTreeMap;

use boxrig_convox::{Done, Reply, Text, models, ops};
use boxrig_wire::{ApiError, Kind, Request};
use http::HeaderMap;

use super::Cx;
use super::records::{Event, Phase};
use super::state::{RACK, State};
use super::time::stamp;

/// The version that is told. Tools compare it as text with dates.
pub(super) const VERSION: &str = concat!("3.24.9-boxrig.", env!("CARGO_PKG_VERSION"));
/// The one machine's id.
pub(super) const INSTANCE: &str = "local";
/// The longest life of a token, in hours.
const TOKEN_HOURS: i64 = 8760;

/// The domain of services.
pub(super) fn domain(_: &State) -> String {
    "localhost".into()
}

pub(super) async fn auth(_: Cx, _: Request<ops::auth::Auth>) -> Result<Text, ApiError> {
    Ok(Text {
        text: "ok\n".into(),
        headers: HeaderMap::new(),
    })
}

pub(super) async fn get(
    cx: Cx,
    _: Request<ops::system::SystemGet>,
) -> Result<Reply<models::System>, ApiError> {
    let mut m = models::System::default();
    m.count = 1;
    m.domain = format!("router.{}", domain(&cx));
    m.name = RACK.into();
    m.provider = "local".into();
    m.rack_domain = authority(&cx).to_owned();
    m.region = "local".into();
    m.status = "running".into();
    m.r#type = cx.core.engine.name().into();
    m.version = VERSION.into();
    Ok(Reply(m))
}

/// The rack's host and port, as tools put them behind a scheme of their own.
pub(super) fn authority(state: &State) -> &str {
    let origin = state.core.origin();
    origin.split_once("://").map_or(origin, |(_, rest)| rest)
}

/// What the machine has: processors and bytes of memory.
pub(super) fn machine() -> (usize, u64) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| {
        let rest = line.strip_prefix("MemTotal:")?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    (cpus, total.unwrap_or(0) * 1024)
}

pub(super) async fn capacity(
    cx: Cx,
    _: Request<ops::system::CapacityGet>,
) -> Result<Reply<models::Capacity>, ApiError> {
    let (cpus, memory) = machine();
    let all = cx.processes.list();
    let live = || all.iter().filter(|p| p.lives());
    let whole = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let mut m = models::Capacity::default();
    // Thousandths of a processor and MiB, as services say what they want.
    m.cluster_cpu = whole(cpus) * 1000;
    m.cluster_memory = i64::try_from(memory >> 20).unwrap_or(i64::MAX);
    m.process_count = whole(live().count());
    m.process_cpu = live().map(|p| i64::from(p.cpu)).sum();
    m.process_memory = live().map(|p| i64::from(p.memory)).sum();
    Ok(Reply(m))
}

pub(super) async fn instances(
    cx: Cx,
    _: Request<ops::instances::InstanceList>,
) -> Result<Reply<Vec<models::Instance>>, ApiError> {
    let (cpus, memory) = machine();
    let running: Vec<_> = cx
        .processes
        .list()
        .into_iter()
        .filter(|p| p.phase == Phase::Running)
        .collect();
    let used = super::processes::views(&cx, running).await;
    let mib = (memory >> 20) as f64;
    let mut m = models::Instance::default();
    m.id = INSTANCE.into();
    m.agent = true;
    m.cpu = used.iter().map(|p| p.cpu).sum();
    m.cpu_capacity = cpus as f64 * 1000.0;
    m.cpu_allocatable = m.cpu_capacity;
    m.memory = used.iter().map(|p| p.memory).sum();
    m.memory_capacity = mib;
    m.memory_allocatable = mib;
    m.private_ip = "127.0.0.1".into();
    m.processes = i64::try_from(used.len()).unwrap_or(i64::MAX);
    m.status = "running".into();
    m.started = stamp(cx.started_ms);
    Ok(Reply(vec![m]))
}

pub(super) async fn processes(
    cx: Cx,
    rq: Request<ops::system::SystemProcesses>,
) -> Result<Reply<Vec<models::Process>>, ApiError> {
    // The rack is one program: it has no processes of its own to show.
    if rq.query.all != Some(true) {
        return Ok(Reply(Vec::new()));
    }
    let mut all = cx.processes.list();
    all.sort_by(|a, b| (&a.app, &a.service, &a.id).cmp(&(&b.app, &b.service, &b.id)));
    Ok(Reply(super::processes::views(&cx, all).await))
}

pub(super) async fn token(
    cx: Cx,
    rq: Request<ops::system::SystemJwtToken>,
) -> Result<Reply<models::SystemJwt>, ApiError> {
    let form = rq.body.0;
    let hours = form
        .duration_in_hour
        .ok_or_else(|| ApiError::invalid("invalid duration"))?;
    if !(1..=TOKEN_HOURS).contains(&hours) {
        return Err(ApiError::invalid(format!(
            "duration must be between 1 and {TOKEN_HOURS} hours"
        )));
    }
    let role = form.role.unwrap_or_default();
    if role == "admin" {
        cx.who
            .check_admin("admin role required to mint admin tokens")?;
    }
    let now = cx.core.now_ms() / 1000;
    let hours = u64::try_from(hours).unwrap_or(1);
    let token = cx
        .tokens
        .mint(&role, now, hours)
        .ok_or_else(|| ApiError::invalid("invalid role: must be read, write, or admin"))?;
    let mut m = models::SystemJwt::default();
    m.token = token.into();
    Ok(Reply(m))
}

pub(super) async fn rotate(
    cx: Cx,
    _: Request<ops::system::SystemJwtSignKeyRotate>,
) -> Result<Done, ApiError> {
    cx.who
        .check_admin("admin role required to rotate the key of tokens")?;
    cx.tokens
        .rotate()
        .map_err(|e| ApiError::new(Kind::Failed, format!("the key could not be written: {e}")))?;
    Ok(Done)
}

pub(super) async fn event(cx: Cx, rq: Request<ops::events::EventSend>) -> Result<Done, ApiError> {
    let form = rq.body.0;
    let data: BTreeMap<String, String> = form.data.0;
    cx.event(Event {
        action: form.action,
        status: form.status.unwrap_or_else(|| "success".into()),
        data,
        error: form.error.unwrap_or_default(),
        actor: cx.who.actor.to_string(),
        ..Event::default()
    })
    .await;
    Ok(Done)
}
