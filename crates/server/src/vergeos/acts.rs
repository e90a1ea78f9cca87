//! Actions over HTTP, in their three forms.

use boxrig_vergeos::Written;
use boxrig_vergeos::ops::{RowAction, RowApply, RowVerb, TableAction, TableVerb};
use boxrig_wire::{ApiError, Request};

use super::access::{Right, require};
use super::auth;
use super::behaviour::Act;
use super::db::Read;
use super::mutate;
use super::row::{Row, key_text};
use super::rows::{Called, canonical, change, user, warn};
use super::schema::{ActionTable, label, schema};
use super::state::Cx;
use super::tx::no_row;

/// Has an action done by whoever does it.
async fn run(cx: &Cx, act: Act) -> Result<Written, ApiError> {
    let name = (act.table.as_str(), act.verb.as_str());
    if mutate::is("act", || format!("{}.{}", name.0, name.1)) {
        return Ok(Written::created(None));
    }
    let behaviour = cx.behaviours.iter().find(|b| b.actions().contains(&name));
    match behaviour {
        Some(behaviour) => behaviour.act(cx, act).await,
        None => Err(ApiError::not_implemented(&format!("{}.{}", name.0, name.1))),
    }
}

fn action_table(name: &str) -> Result<&'static ActionTable, ApiError> {
    schema()
        .actions(name)
        .ok_or_else(|| ApiError::not_found(format!("table '{name}' does not exist")))
}

fn known(table: &ActionTable, action: &str) -> Result<(), ApiError> {
    if action.is_empty() {
        return Err(ApiError::invalid("Action is a required parameter"));
    }
    match table.actions.contains(&action) {
        true => Ok(()),
        // Measured: `killpower` of a network.
        false => Err(ApiError::invalid(format!(
            "value '{action}' is not in list for field 'action'"
        ))),
    }
}

/// `POST /{x}_actions`.
pub(super) async fn by_table(
    call: Called,
    request: Request<TableAction>,
) -> Result<Written, ApiError> {
    let cx = auth::cx(&call)?;
    let name = format!("{}_actions", request.path.0);
    let table = action_table(&name)?;
    let post = request.body.0;
    known(table, &post.action)?;
    let body = Row(post.row);
    let row = match table.parent {
        None => {
            require(&cx.db, user(&cx), Right::Modify, &name, None)?;
            None
        }
        Some((member, parent)) => {
            let key = key_text(body.get(member)).ok_or_else(|| {
                ApiError::invalid(format!("{} is a required parameter", label(member)))
            })?;
            let key = canonical(schema().known(parent)?, &key);
            require(&cx.db, user(&cx), Right::Modify, parent, Some(&key))?;
            let row = cx.db.get(parent, &key).ok_or_else(no_row)?;
            Some((parent, row))
        }
    };
    let act = Act {
        table: name,
        verb: post.action,
        row,
        params: Row(post.params),
        body,
    };
    run(&cx, act).await
}

/// `POST /{x}_actions/{verb}`.
pub(super) async fn by_table_path(
    call: Called,
    request: Request<TableVerb>,
) -> Result<Written, ApiError> {
    let cx = auth::cx(&call)?;
    let (name, verb) = request.path;
    let Some(table) = schema().actions(&name) else {
        schema().known(&name)?;
        return Err(ApiError::not_found(format!(
            "'{name}' has no action '{verb}'"
        )));
    };
    known(table, &verb)?;
    require(&cx.db, user(&cx), Right::Modify, &name, None)?;
    let body = Row(request.body.0);
    let act = Act {
        table: name,
        verb,
        row: None,
        params: body.clone(),
        body,
    };
    run(&cx, act).await
}

/// `PUT /{table}/{key}?action={action}`.
pub(super) async fn by_query(
    call: &Called,
    cx: &Cx,
    name: &str,
    key: &str,
    action: &str,
    body: Row,
) -> Result<Written, ApiError> {
    let table = schema().known(name)?;
    let row = cx.db.get(name, &canonical(table, key)).ok_or_else(no_row)?;
    require(&cx.db, user(cx), Right::Modify, name, Some(&row.key()))?;
    if !table.actions.contains(&action) {
        // Measured: answered 200 and ignored.
        warn(call, &format!("unknown action {action}: nothing was done"));
        return Ok(Written::done());
    }
    let act = Act {
        table: name.to_owned(),
        verb: action.to_owned(),
        row: Some((table.name, row)),
        params: body.clone(),
        body,
    };
    run(cx, act).await
}

pub(super) async fn by_query_route(
    call: Called,
    request: Request<RowAction>,
) -> Result<Written, ApiError> {
    let cx = auth::cx(&call)?;
    let (table, key) = &request.path;
    let body = Row(request.body.0);
    match &request.query.action {
        Some(action) => by_query(&call, &cx, table, key, action, body).await,
        None => change(&call, &cx, table, key, body).await,
    }
}

/// `POST` or `PUT /{table}/{key}/{verb}`.
async fn by_path(
    call: &Called,
    (name, key, verb): (String, String, String),
    body: Row,
) -> Result<Written, ApiError> {
    let cx = auth::cx(call)?;
    let table = schema().known(&name)?;
    let row = cx
        .db
        .get(&name, &canonical(table, &key))
        .ok_or_else(no_row)?;
    require(&cx.db, user(&cx), Right::Modify, &name, Some(&row.key()))?;
    if !table.actions.contains(&verb.as_str()) {
        return Err(ApiError::not_found(format!(
            "'{name}' has no action '{verb}'"
        )));
    }
    let act = Act {
        table: name,
        verb,
        row: Some((table.name, row)),
        params: body.clone(),
        body,
    };
    run(&cx, act).await
}

pub(super) async fn by_row_path(
    call: Called,
    request: Request<RowVerb>,
) -> Result<Written, ApiError> {
    by_path(&call, request.path, Row(request.body.0)).await
}

pub(super) async fn apply(call: Called, request: Request<RowApply>) -> Result<Written, ApiError> {
    by_path(&call, request.path, Row(request.body.0)).await
}
