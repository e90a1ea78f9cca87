//! Budgets: none is set on this rack, since nothing on one machine has a price, and that is what is answered.

use boxrig_convox::{AppBudgetReport, Done, Reply, models, ops};
use boxrig_wire::{ApiError, Request};

use super::Cx;

pub(super) async fn get(
    cx: Cx,
    rq: Request<ops::budget::AppBudgetGet>,
) -> Result<Reply<AppBudgetReport>, ApiError> {
    cx.app(&rq.path.0)?;
    Ok(Reply(AppBudgetReport::default()))
}

/// Takes away a budget that is not there, which racks answer alike.
pub(super) async fn clear(
    cx: Cx,
    rq: Request<ops::budget::AppBudgetClear>,
) -> Result<Done, ApiError> {
    cx.who
        .check_admin("admin role required to clear a budget")?;
    cx.app(&rq.path.0)?;
    Ok(Done)
}

pub(super) async fn shutdown_state(
    cx: Cx,
    rq: Request<ops::budget::AppBudgetShutdownStateGet>,
) -> Result<Reply<Option<models::AppBudgetShutdownState>>, ApiError> {
    cx.app(&rq.path.0)?;
    Ok(Reply(None))
}

pub(super) async fn simulate(
    cx: Cx,
    rq: Request<ops::budget::AppBudgetSimulate>,
) -> Result<Reply<models::AppBudgetSimulationResult>, ApiError> {
    let (app,) = rq.path;
    cx.app(&app)?;
    Err(ApiError::invalid(format!(
        "no budget configured for app {app}"
    )))
}
