//! Services: seen, scaled and restarted.

use std::sync::Arc;

use boxrig_convox::{Done, Reply, models, ops};
use boxrig_wire::{ApiError, Request};

use super::Cx;
use super::manifest::{self, Manifest, Service};
use super::records::{App, Phase, Process, Purpose, Scale};
use super::state::{State, key};

/// What is shown of a service that says nothing: thousandths of a processor, and MiB.
const USUAL: (u32, u32) = (250, 512);
/// No service has more processes than this on one machine.
const MOST: i64 = 1000;

/// The manifest of the active release; `None` when none was promoted.
pub(super) fn active(state: &State, app: &App) -> Result<Option<Manifest>, ApiError> {
    let release = state.releases.get(&key(&app.name, &app.release));
    release.map(|r| manifest::of(&r)).transpose()
}

/// # Errors
///
/// 404 when the active release has no such service.
fn known(state: &State, app: &str, name: &str) -> Result<Service, ApiError> {
    let app = state.app(app)?;
    let found = active(state, &app)?.and_then(|m| m.named(name).cloned());
    found.ok_or_else(|| ApiError::not_found(format!("service not found: {name}")))
}

/// The host name of a service.
pub(super) fn host(app: &str, service: &Service) -> String {
    if service.internal {
        return format!("{}.{app}.{}.local", service.name, super::state::RACK);
    }
    format!("{}.{app}.localhost", service.name)
}

fn view(app: &App, s: &Service) -> models::Service {
    let scale = app.scale.get(&s.name).copied().unwrap_or_default();
    let mut m = models::Service::default();
    m.name = s.name.clone();
    m.count = i64::try_from(super::worker::wanted(app, s)).unwrap_or(0);
    m.cpu = scale.cpu.or(s.cpu).unwrap_or(USUAL.0).into();
    m.memory = scale.memory.or(s.memory).unwrap_or(USUAL.1).into();
    m.domain = host(&app.name, s);
    m.min = Some(s.min.into());
    m.max = Some(s.max.into());
    m.agent = s.agent;
    m.scale_override_active = Some(scale.count.is_some());
    m.triggers_override_active = Some(false);
    if let Some(port) = &s.port {
        let mut p = models::ServicePort::default();
        // A rack serves HTTPS on 443; inside it the port is the container's own.
        p.balancer = if s.internal { port.port.into() } else { 443 };
        p.container = port.port.into();
        m.ports = vec![p];
    }
    m
}

pub(super) async fn list(
    cx: Cx,
    rq: Request<ops::services::ServiceList>,
) -> Result<Reply<Vec<models::Service>>, ApiError> {
    let app = cx.app(&rq.path.0)?;
    let manifest = active(&cx, &app)?.unwrap_or_default();
    let mut all: Vec<_> = manifest.services.iter().map(|s| view(&app, s)).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Reply(all))
}

pub(super) async fn update(
    cx: Cx,
    rq: Request<ops::services::ServiceUpdate>,
) -> Result<Done, ApiError> {
    let (app, name) = rq.path;
    let f = rq.body.0;
    scale(&cx, &app, &name, f.count.or(f.min), f.cpu, f.memory, f.gpu).await?;
    Ok(Done)
}

/// Sets a service's scale; what runs gets its limits at once.
pub(super) async fn scale(
    cx: &Cx,
    app: &str,
    name: &str,
    count: Option<i64>,
    cpu: Option<i64>,
    memory: Option<i64>,
    gpu: Option<i64>,
) -> Result<(), ApiError> {
    known(cx, app, name)?;
    if gpu.is_some_and(|n| n > 0) {
        return Err(ApiError::invalid("this rack has no gpu"));
    }
    let number = |what: &str, n: Option<i64>, most: i64| match n {
        Some(n) if !(0..=most).contains(&n) => {
            Err(ApiError::invalid(format!("{what} is {n}, not 0 to {most}")))
        }
        n => Ok(n.and_then(|n| u32::try_from(n).ok())),
    };
    let count = number("count", count, MOST)?;
    let cpu = number("cpu", cpu, 1_000_000)?;
    let memory = number("memory", memory, 1 << 24)?;
    cx.change_app(app, |a| {
        let set = a.scale.entry(name.to_owned()).or_insert(Scale::default());
        set.count = count.or(set.count);
        set.cpu = cpu.or(set.cpu);
        set.memory = memory.or(set.memory);
        Ok(())
    })
    .await?;
    if cpu.is_some() || memory.is_some() {
        let all = cx.processes_of(app);
        let is = |p: &&Arc<Process>| p.service == name && p.purpose == Purpose::Service;
        for process in all.iter().filter(is) {
            let now = cx
                .change_process(&process.id, |p| {
                    p.cpu = cpu.unwrap_or(p.cpu);
                    p.memory = memory.unwrap_or(p.memory);
                    p.clone()
                })
                .await?;
            if let Some(now) = now.filter(|p| p.phase == Phase::Running) {
                super::start::limit(cx, &now).await?;
            }
        }
    }
    super::apps::happened(cx, "service:update", &[("app", app), ("service", name)]).await;
    Ok(())
}

pub(super) async fn restart(
    cx: Cx,
    rq: Request<ops::services::ServiceRestart>,
) -> Result<Done, ApiError> {
    let (app, name) = rq.path;
    known(&cx, &app, &name)?;
    cx.change_app(&app, |a| {
        *a.restarts.entry(name.clone()).or_default() += 1;
        Ok(())
    })
    .await?;
    super::apps::happened(&cx, "service:restart", &[("app", &app), ("service", &name)]).await;
    Ok(Done)
}

/// The count set by hand is kept, or given up again.
pub(super) async fn scale_override(
    cx: Cx,
    rq: Request<ops::services::ServiceScaleOverrideSet>,
) -> Result<Done, ApiError> {
    let (app, name) = rq.path;
    let service = known(&cx, &app, &name)?;
    let active = rq
        .body
        .0
        .active
        .ok_or_else(|| super::params::failed("parameter required: active"))?;
    cx.change_app(&app, |a| {
        let now = u32::try_from(super::worker::wanted(a, &service)).unwrap_or(0);
        let set = a.scale.entry(name.clone()).or_insert(Scale::default());
        set.count = active.then(|| set.count.unwrap_or(now));
        Ok(())
    })
    .await?;
    Ok(Done)
}

pub(super) async fn manifest_service(
    cx: Cx,
    rq: Request<ops::manifest::AppManifestService>,
) -> Result<Reply<models::ManifestService>, ApiError> {
    let (app, name) = rq.path;
    let service = known(&cx, &app, &name).map_err(|e| match e.kind {
        boxrig_wire::Kind::NotFound if cx.apps.get(&app).is_some() => super::params::failed(
            format!("service {name} not found in manifest for app {app}"),
        ),
        _ => e,
    })?;
    let mut m = models::ManifestService::default();
    m.name = service.name;
    m.environment = service.environment;
    let mut scale = models::ManifestServiceScale::default();
    scale.min = Some(service.min.into());
    scale.max = Some(service.max.into());
    m.scale = Some(scale);
    Ok(Reply(m))
}

pub(super) async fn balancers(
    cx: Cx,
    rq: Request<ops::balancers::BalancerList>,
) -> Result<Reply<Vec<models::Balancer>>, ApiError> {
    // Balancers of a manifest are passed over with a warning: there are none.
    cx.app(&rq.path.0)?;
    Ok(Reply(Vec::new()))
}

/// What generation 1 calls the scale of services.
pub(super) async fn formation(
    cx: Cx,
    rq: Request<ops::v2_classic::FormationGet>,
) -> Result<Reply<Vec<models::ProcessFormation>>, ApiError> {
    let app = cx.app(&rq.path.0)?;
    let manifest = active(&cx, &app)?.unwrap_or_default();
    let all = manifest.services.iter().map(|s| {
        let now = view(&app, s);
        let mut m = models::ProcessFormation::default();
        m.count = now.count;
        m.cpu = now.cpu;
        m.memory = now.memory;
        m.hostname = now.domain;
        m.name = now.name;
        m.ports = s.port.iter().map(|p| i64::from(p.port)).collect();
        m
    });
    Ok(Reply(all.collect()))
}

pub(super) async fn update_formation(
    cx: Cx,
    rq: Request<ops::v2_classic::FormationUpdate>,
) -> Result<Done, ApiError> {
    let (app, name) = rq.path;
    let f = rq.body.0;
    scale(&cx, &app, &name, f.count.or(f.min), f.cpu, f.memory, f.gpu).await?;
    Ok(Done)
}
