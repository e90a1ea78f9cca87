//! Why an app is as it is.

use boxrig_convox::{Reply, models, ops};
use boxrig_wire::{ApiError, Request};

use super::Cx;
use super::logs::Ask;
use super::records::{Event, Phase, Process};
use super::time::stamp;

/// Lines shown of a process' log unless the caller says a number.
const LINES: i64 = 200;
/// A process younger than this many seconds is new.
const AGE_S: i64 = 300;
/// Warnings older than this are not shown, in milliseconds.
const EVENTS_MS: u64 = 30 * 60 * 1000;

fn class(p: &Process, age: i64, limit: i64) -> &'static str {
    match p.phase {
        Phase::Crashed | Phase::Failed => "unhealthy",
        Phase::Running if p.unhealthy => "unhealthy",
        Phase::Running if p.ready || p.port.is_none() => {
            if age < limit {
                "new"
            } else {
                "healthy"
            }
        }
        _ => "not-ready",
    }
}

fn hint(p: &Process) -> String {
    let text = match p.phase {
        Phase::Crashed => "the process keeps ending: read its log, and run its command by hand",
        Phase::Running if !p.ready => {
            "the health check does not answer well: check its path and the port the process listens on"
        }
        Phase::Failed => "the run ended with an error: read its log",
        _ => "",
    };
    text.to_owned()
}

fn event(e: &Event) -> models::DiagnosticEvent {
    let mut m = models::DiagnosticEvent::default();
    m.timestamp = stamp(e.at_ms);
    m.r#type = if e.error.is_empty() {
        "Normal"
    } else {
        "Warning"
    }
    .into();
    m.reason = e.action.clone();
    m.object = e
        .data
        .get("id")
        .or(e.data.get("service"))
        .cloned()
        .unwrap_or_default();
    m.message = if e.error.is_empty() {
        e.status.clone()
    } else {
        e.error.clone()
    };
    m
}

pub(super) async fn diagnose(
    cx: Cx,
    rq: Request<ops::diagnose::AppDiagnose>,
) -> Result<Reply<models::AppDiagnosticReport>, ApiError> {
    let (name,) = rq.path;
    let app = cx.app(&name)?;
    let q = rq.query;
    let split = |s: Option<String>| -> Vec<String> {
        let s = s.unwrap_or_default();
        s.split(',')
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (checks, only) = (split(q.checks), split(q.services));
    let wants = |check: &str| checks.is_empty() || checks.iter().any(|c| c == check);
    let picked = |service: &str| only.is_empty() || only.iter().any(|s| s == service);
    let now = cx.core.now_ms();
    let limit = q.age.unwrap_or(AGE_S);
    let lines = usize::try_from(q.lines.unwrap_or(LINES)).unwrap_or(0);
    let all = cx.processes_of(&name);
    let mut m = models::AppDiagnosticReport::default();
    m.namespace = format!("{}-{name}", super::state::RACK);
    m.rack = super::state::RACK.into();
    m.app = name.clone();
    m.timestamp = stamp(now);
    let mut events: Vec<models::DiagnosticEvent> = Vec::new();
    if q.events != Some(false) {
        let of_it = |e: &&std::sync::Arc<Event>| {
            let data = |k: &str| e.data.get(k).is_some_and(|v| *v == name);
            let recent = e.at_ms + EVENTS_MS >= now;
            e.status == "error" && recent && (data("app") || data("name"))
        };
        let recent = cx.events.list();
        let recent: Vec<_> = recent.iter().filter(of_it).collect();
        let skip = recent.len().saturating_sub(50);
        events = recent.into_iter().skip(skip).map(|e| event(e)).collect();
        if let Some(failure) = &app.failure {
            let mut e = models::DiagnosticEvent::default();
            e.timestamp = stamp(failure.at_ms);
            e.r#type = "Warning".into();
            e.reason = "TakenBack".into();
            e.object = failure.release.clone();
            e.message = failure.reason.clone();
            e.hint =
                "the last good release serves; mend the cause and promote a new release".into();
            events.push(e);
        }
    }
    if wants("overview") {
        let mut overview = models::DiagnosticOverview::default();
        let manifest = super::services::active(&cx, &app)?.unwrap_or_default();
        for service in manifest.services.iter().filter(|s| picked(&s.name)) {
            let of: Vec<_> = all
                .iter()
                .filter(|p| {
                    p.service == service.name
                        && p.lives()
                        && p.purpose == super::records::Purpose::Service
                })
                .collect();
            let whole = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            let mut s = models::DiagnosticServiceStatus::default();
            s.name = service.name.clone();
            s.desired_replicas = whole(super::worker::wanted(&app, service));
            s.ready_replicas = whole(of.iter().filter(|p| p.ready).count());
            s.updated_replicas = whole(of.iter().filter(|p| p.release == app.release).count());
            s.agent = service.agent;
            let crashed = of.iter().find(|p| p.phase == Phase::Crashed);
            s.status = match (s.ready_replicas >= s.desired_replicas, &app.deploy, crashed) {
                (_, _, Some(_)) => "stalled",
                (_, Some(_), None) => "deploying",
                (true, None, None) => "running",
                (false, None, None) => "degraded",
            }
            .into();
            s.stall_reason = crashed.map(|p| p.reason.clone()).unwrap_or_default();
            overview.services.push(s);
        }
        overview.events = events.clone();
        m.overview = Some(overview);
    }
    let mut summary = models::DiagnosticSummary::default();
    for p in all.iter().filter(|p| picked(&p.service)) {
        let age = i64::try_from(now.saturating_sub(p.created_ms) / 1000).unwrap_or(i64::MAX);
        let class = class(p, age, limit);
        summary.total += 1;
        match class {
            "unhealthy" => summary.unhealthy += 1,
            "not-ready" => summary.not_ready += 1,
            "new" => summary.new += 1,
            _ => summary.healthy += 1,
        }
        // The healthy ones are shown when they are asked for.
        if class == "healthy" && q.all != Some(true) || !wants("pods") && !checks.is_empty() {
            continue;
        }
        let mut pod = models::DiagnosticPod::default();
        pod.name = p.id.clone();
        pod.service = p.service.clone();
        pod.phase = p.status().into();
        pod.ready = if p.ready { "1/1" } else { "0/1" }.into();
        pod.age_seconds = age;
        pod.restarts = p.restarts.into();
        pod.classification = class.into();
        let check = cx.checks.last(&p.id).filter(|_| !p.ready);
        pod.state_detail = if p.reason.is_empty() {
            check.unwrap_or_default()
        } else {
            p.reason.clone()
        };
        pod.hint = hint(p);
        let ask = Ask {
            id: Some(p.id.clone()),
            ..Ask::default()
        };
        let log = cx.logs.read(&name, &ask).lines;
        let run = u64::from(p.restarts);
        let text = |of: &dyn Fn(u64) -> bool| {
            let some: Vec<_> = log.iter().filter(|l| of(l.place.run)).collect();
            let skip = some.len().saturating_sub(lines);
            let some = some.into_iter().skip(skip);
            some.map(|l| String::from_utf8_lossy(&l.text).into_owned())
                .collect::<Vec<_>>()
                .join("\n")
        };
        if p.phase == Phase::Crashed {
            // The run it waits for has written nothing yet.
            pod.logs = text(&|n| n + 1 >= run);
        } else {
            pod.logs = text(&|n| n == run);
            if q.previous != Some(false) && run > 0 {
                pod.previous_logs = text(&|n| n < run);
            }
        }
        m.pods.push(pod);
    }
    m.summary = Some(summary);
    Ok(Reply(m))
}
