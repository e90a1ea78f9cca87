//! A console with one organization and one rack: this one.

use boxrig_convox::{Done, Reply, models, ops};
use boxrig_wire::{ApiError, Request};

use super::Cx;
use super::state::RACK;
use super::system::VERSION;

/// The one organization.
const ORGANIZATION: &str = "local";

/// # Errors
///
/// 404 for every other rack.
fn known(organization: &str, name: &str) -> Result<(), ApiError> {
    if (organization, name) == (ORGANIZATION, RACK) {
        return Ok(());
    }
    Err(ApiError::not_found(format!(
        "rack not found: {organization}/{name}"
    )))
}

/// The one rack, as a console lists it.
pub(super) async fn racks(
    _: Cx,
    _: Request<ops::console::RackList>,
) -> Result<Reply<Vec<models::ConsoleRack>>, ApiError> {
    Ok(Reply(vec![console_rack()]))
}

fn console_rack() -> models::ConsoleRack {
    let mut m = models::ConsoleRack::default();
    m.name = RACK.into();
    m.organization = serde_json::json!({ "name": ORGANIZATION });
    m.provider = "local".into();
    m.status = "running".into();
    m.version = VERSION.into();
    m
}

pub(super) async fn rack(
    _: Cx,
    rq: Request<ops::console::RackGet>,
) -> Result<Reply<models::ConsoleRack>, ApiError> {
    known(&rq.path.0, &rq.path.1)?;
    Ok(Reply(console_rack()))
}

pub(super) async fn machines(
    _: Cx,
    _: Request<ops::console::MachineList>,
) -> Result<Reply<Vec<models::Machine>>, ApiError> {
    Ok(Reply(Vec::new()))
}

pub(super) async fn host(
    cx: Cx,
    rq: Request<ops::console::RackHost>,
) -> Result<Reply<models::RackData>, ApiError> {
    known(&rq.path.0, &rq.path.1)?;
    let mut m = models::RackData::default();
    m.host = super::system::authority(&cx).to_owned();
    Ok(Reply(m))
}

/// What a console has on record of the rack is what the rack says: there is nothing to bring together.
pub(super) async fn sync(_: Cx, rq: Request<ops::console::RackSync>) -> Result<Done, ApiError> {
    known(&rq.path.0, &rq.path.1)?;
    Ok(Done)
}

/// Cloud accounts: there are none.
pub(super) async fn runtimes(
    _: Cx,
    rq: Request<ops::console::Runtimes>,
) -> Result<Reply<Vec<models::Runtime>>, ApiError> {
    known(&rq.path.0, &rq.path.1)?;
    Ok(Reply(Vec::new()))
}

pub(super) async fn organization_runtimes(
    _: Cx,
    rq: Request<ops::console::OrganizationRuntimes>,
) -> Result<Reply<Vec<models::Runtime>>, ApiError> {
    let (organization,) = rq.path;
    if organization != ORGANIZATION {
        return Err(ApiError::not_found(format!(
            "organization not found: {organization}"
        )));
    }
    Ok(Reply(Vec::new()))
}

pub(super) async fn attach_runtime(
    _: Cx,
    rq: Request<ops::console::RuntimeAttach>,
) -> Result<Done, ApiError> {
    known(&rq.path.0, &rq.path.1)?;
    let runtime = rq.body.0.runtime.unwrap_or_default();
    Err(ApiError::not_found(format!("runtime not found: {runtime}")))
}

/// Pipelines: there are none.
pub(super) async fn workflows(
    _: Cx,
    rq: Request<ops::console::WorkflowList>,
) -> Result<Reply<models::WorkflowListResp>, ApiError> {
    known(&rq.path.0, &rq.path.1)?;
    let mut m = models::WorkflowListResp::default();
    m.oid = ORGANIZATION.into();
    Ok(Reply(m))
}

pub(super) async fn run_workflow(
    _: Cx,
    rq: Request<ops::console::WorkflowCustomRun>,
) -> Result<Reply<models::WorkflowCustomRunResp>, ApiError> {
    let (organization, rack, id) = rq.path;
    known(&organization, &rack)?;
    Err(ApiError::not_found(format!("workflow not found: {id}")))
}
