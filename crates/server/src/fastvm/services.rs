//! Services: ports of a machine, reached by a host name.
//!
//! `<name>--<id in hex>.proxy.localhost` on the server's own port leads to the port in the machine, over HTTP and TLS; see
//! [`crate::services`].

use boxrig_fastvm::{Service as Shown, SnapshotService, ops};
use boxrig_wire::{ApiError, Empty, JsonReply, Kind, Request};
use serde::{Deserialize, Serialize};

use super::Cx;
use super::lifecycle::change;
use super::record::{Machine, Phase};
use super::state::{State, instance};
use crate::services::{Backend, Protocol, Service};

/// The most services of one machine.
const MOST: usize = 16;
/// The longest name: with `--` and the id it is one label of a host name.
const NAME_BYTES: usize = 29;
/// The lowest port.
const LOWEST_PORT: u16 = 1024;

/// A service of a machine, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Its name.
    pub(super) name: String,
    /// The port in the machine.
    pub(super) port: u16,
    /// Cleartext HTTP/2 instead of HTTP/1.1.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) h2c: bool,
}

impl Kept {
    fn shown(&self) -> Shown {
        Shown {
            name: self.name.clone(),
            port: self.port,
            h2c: self.h2c,
            ..Shown::default()
        }
    }

    /// As a snapshot shows it.
    pub(super) fn captured(&self) -> SnapshotService {
        SnapshotService {
            name: self.name.clone(),
            port: self.port,
            h2c: Some(self.h2c),
            ..SnapshotService::default()
        }
    }

    fn checked(name: String, port: u16, h2c: bool) -> Result<Self, ApiError> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let edges = !name.starts_with('-') && !name.ends_with('-');
        if !(1..=NAME_BYTES).contains(&name.len()) || !edges || !name.bytes().all(good) {
            let words =
                format!("name: 1 to {NAME_BYTES} lower-case letters, digits and hyphens within");
            return Err(ApiError::invalid(words));
        }
        if port < LOWEST_PORT {
            return Err(ApiError::invalid(format!("port: {LOWEST_PORT} or more")));
        }
        Ok(Self { name, port, h2c })
    }
}

/// The host name of a service without its domain.
fn host(machine: &Machine, name: &str) -> String {
    format!("{name}{}", suffix(&machine.id))
}

fn suffix(id: &str) -> String {
    format!("--{}.proxy", id.replace('-', ""))
}

impl State {
    /// Lets a machine's host names lead where they should: to its ports while it runs, nowhere while it does not.
    pub(super) fn publish_services(&self, machine: &Machine) {
        if machine.services.is_empty() {
            return;
        }
        let Ok(id) = instance(&machine.id) else {
            return;
        };
        let runs = machine.phase == Phase::Running;
        let all = machine.services.iter().map(|service| {
            let backend = runs.then(|| Backend {
                instance: id.clone(),
                port: service.port,
            });
            let protocol = if service.h2c {
                Protocol::H2c
            } else {
                Protocol::Http
            };
            let published = Service {
                backends: backend.into_iter().collect(),
                protocol,
            };
            (host(machine, &service.name), published)
        });
        self.core.services.publish_all(all);
    }

    /// Takes away all host names of a machine.
    pub(super) fn withdraw_services(&self, id: &str) {
        let suffix = suffix(id);
        self.core
            .services
            .withdraw_all(|name| name.ends_with(&suffix));
    }
}

pub(super) async fn list(
    cx: Cx,
    rq: Request<ops::ListServices>,
) -> Result<JsonReply<Vec<Shown>>, ApiError> {
    let machine = cx.state.machine(&rq.path.0)?;
    Ok(JsonReply::ok(
        machine.services.iter().map(Kept::shown).collect(),
    ))
}

/// Puts a service in its place; the list stays ordered by name.
fn insert(machine: &mut Machine, service: Kept) -> Result<(), ApiError> {
    match machine
        .services
        .binary_search_by(|s| s.name.cmp(&service.name))
    {
        Ok(at) => machine.services[at] = service,
        Err(_) if machine.services.len() >= MOST => {
            return Err(ApiError::new(Kind::Quota, "vm_service_quota_exceeded")
                .with_detail("count", machine.services.len()));
        }
        Err(at) => machine.services.insert(at, service),
    }
    Ok(())
}

pub(super) async fn register(
    cx: Cx,
    rq: Request<ops::RegisterService>,
) -> Result<JsonReply<Shown>, ApiError> {
    cx.state.machine(&rq.path.0)?;
    let request = rq.body.0;
    let service = Kept::checked(request.name, request.port, request.h2c.unwrap_or(false))?;
    let shown = service.shown();
    change(&cx.state, &rq.path.0, move |machine, _| {
        let there = machine.services.iter().find(|s| s.name == service.name);
        match there {
            Some(same) if *same == service => Ok(()),
            Some(_) => Err(ApiError::conflict(format!(
                "name: the service {} exists with another port or h2c; PUT changes it",
                service.name
            ))),
            None => insert(machine, service),
        }
    })
    .await?;
    Ok(JsonReply::created(shown))
}

pub(super) async fn update(
    cx: Cx,
    rq: Request<ops::UpdateService>,
) -> Result<JsonReply<Shown>, ApiError> {
    let (id, name) = rq.path;
    cx.state.machine(&id)?;
    let service = Kept::checked(name, rq.body.0.port, rq.body.0.h2c.unwrap_or(false))?;
    let shown = service.shown();
    change(&cx.state, &id, move |machine, _| insert(machine, service)).await?;
    Ok(JsonReply::ok(shown))
}

pub(super) async fn delete(cx: Cx, rq: Request<ops::DeleteService>) -> Result<Empty, ApiError> {
    let (id, name) = rq.path;
    let gone = name.clone();
    let machine = change(&cx.state, &id, move |machine, _| {
        machine.services.retain(|s| s.name != gone);
        Ok(())
    })
    .await?;
    cx.state.core.services.withdraw(&host(&machine, &name));
    Ok(Empty)
}
