//! Apps: their making, parameters, lock, and end.

use std::collections::BTreeMap;

use boxrig_convox::{Done, Reply, models, ops};
use boxrig_wire::{ApiError, Kind, Request};

use super::Cx;
use super::records::{App, Event, Stage};
use super::state::{State, in_app};

/// Names that a rack keeps for itself.
const RESERVED: [&str; 2] = ["rack", "system"];
/// Parameters an app has.
const PARAMETERS: [&str; 4] = ["BuildArch", "BuildCpu", "BuildLabels", "BuildMem"];
/// The longest name: it is a label of a host name, and part of process ids.
const NAME_LIMIT: usize = 40;

/// # Errors
///
/// 400 for a name that no host name could be made of.
fn check_name(name: &str) -> Result<(), ApiError> {
    if RESERVED.contains(&name) {
        return Err(ApiError::invalid(format!("app name is reserved: {name}")));
    }
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let right = name.len() <= NAME_LIMIT
        && edge(name.chars().next())
        && edge(name.chars().next_back())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if right {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "invalid app name: {name:?}: lower case letters, digits and hyphens within, at most {NAME_LIMIT}"
    )))
}

/// The status in the rack's words.
pub(super) fn status(app: &App) -> &'static str {
    match &app.deploy {
        _ if app.deleting => "deleting",
        None => "running",
        Some(deploy) if deploy.stage == Stage::TakingBack => "rollback",
        Some(_) => "updating",
    }
}

pub(super) fn view(state: &State, app: &App) -> models::App {
    let mut m = models::App::default();
    m.generation = "3".into();
    m.locked = app.locked;
    m.name = app.name.clone();
    m.release = app.release.clone();
    m.router = super::system::domain(state);
    m.status = status(app).into();
    m.parameters = PARAMETERS
        .iter()
        .map(|name| ((*name).to_owned(), String::new()))
        .collect();
    m.parameters.extend(app.parameters.clone());
    m
}

pub(super) async fn list(
    cx: Cx,
    _: Request<ops::apps::AppList>,
) -> Result<Reply<Vec<models::App>>, ApiError> {
    let all = cx.apps.list();
    Ok(Reply(all.iter().map(|app| view(&cx, app)).collect()))
}

pub(super) async fn get(
    cx: Cx,
    rq: Request<ops::apps::AppGet>,
) -> Result<Reply<models::App>, ApiError> {
    let app = cx.app(&rq.path.0)?;
    Ok(Reply(view(&cx, &app)))
}

pub(super) async fn create(
    cx: Cx,
    rq: Request<ops::apps::AppCreate>,
) -> Result<Reply<models::App>, ApiError> {
    let name = rq.body.0.name;
    check_name(&name)?;
    let app = App {
        name: name.clone(),
        created_ms: cx.core.now_ms(),
        ..App::default()
    };
    let made = app.clone();
    cx.write(&name, |tx| {
        if tx.get(&cx.apps, &name).is_some() {
            return Err(ApiError::conflict(format!("app already exists: {name}")));
        }
        tx.put(&cx.apps, &name, made)?;
        Ok(())
    })
    .await?;
    cx.start_worker(&name);
    happened(&cx, "app:create", &[("name", &name)]).await;
    Ok(Reply(view(&cx, &app)))
}

pub(super) async fn update(cx: Cx, rq: Request<ops::apps::AppUpdate>) -> Result<Done, ApiError> {
    let (name,) = rq.path;
    let form = rq.body.0;
    check_parameters(&form.parameters.0)?;
    cx.change_app(&name, |app| {
        if app.deleting {
            return Err(super::state::no_app(&name));
        }
        app.locked = form.lock.unwrap_or(app.locked);
        app.parameters.extend(form.parameters.0);
        Ok(())
    })
    .await?;
    Ok(Done)
}

/// Sets parameters only.
pub(super) async fn set_parameters(
    cx: &Cx,
    name: &str,
    given: BTreeMap<String, String>,
) -> Result<(), ApiError> {
    check_parameters(&given)?;
    cx.change_app(name, |app| {
        app.parameters.extend(given);
        Ok(())
    })
    .await
}

fn check_parameters(given: &BTreeMap<String, String>) -> Result<(), ApiError> {
    for (name, value) in given {
        if !PARAMETERS.contains(&name.as_str()) {
            return Err(ApiError::invalid(format!("invalid parameter: {name}")));
        }
        let number = matches!(name.as_str(), "BuildCpu" | "BuildMem");
        if number && !value.is_empty() && value.parse::<u32>().is_err() {
            return Err(ApiError::invalid(format!("invalid {name}: {value}")));
        }
        if name == "BuildArch" && !matches!(value.as_str(), "" | "amd64" | "arm64") {
            return Err(ApiError::invalid(format!(
                "invalid BuildArch: {value}, must be amd64 or arm64"
            )));
        }
    }
    Ok(())
}

pub(super) async fn delete(cx: Cx, rq: Request<ops::apps::AppDelete>) -> Result<Done, ApiError> {
    let (name,) = rq.path;
    cx.change_app(&name, |app| {
        if app.locked {
            return Err(ApiError::conflict(format!("app is locked: {name}")));
        }
        app.deleting = true;
        Ok(())
    })
    .await?;
    happened(&cx, "app:delete", &[("name", &name)]).await;
    Ok(Done)
}

pub(super) async fn cancel(cx: Cx, rq: Request<ops::apps::AppCancel>) -> Result<Done, ApiError> {
    let (name,) = rq.path;
    cx.change_app(&name, |app| match &mut app.deploy {
        Some(deploy) if deploy.stage == Stage::Starting => {
            deploy.stage = Stage::TakingBack;
            deploy.reason = "cancelled".into();
            Ok(())
        }
        _ => Err(ApiError::new(Kind::Denied, "app is not updating")),
    })
    .await?;
    happened(&cx, "app:cancel", &[("app", &name)]).await;
    Ok(Done)
}

/// Records what the caller did.
pub(super) async fn happened(cx: &Cx, action: &str, data: &[(&str, &str)]) {
    let data = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    cx.event(Event {
        action: action.to_owned(),
        status: "success".into(),
        data: data.collect(),
        actor: cx.who.actor.to_string(),
        ..Event::default()
    })
    .await;
}

/// Removes everything on record of an app whose processes and files are gone.
pub(super) async fn forget(state: &State, name: &str) -> Result<(), ApiError> {
    let removed = state.core.store.write(|tx| {
        macro_rules! clear {
            ($($table:ident),*) => {$(
                for (id, _) in tx.with(&state.$table, |all| in_app(all, name)) {
                    tx.delete(&state.$table, &super::state::key(name, &id));
                }
            )*};
        }
        clear!(builds, releases, objects, configs);
        tx.delete(&state.apps, name);
        Ok::<_, ApiError>(())
    });
    removed.await?;
    state.forget_waker(name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_none() {
        for right in ["a", "my-app", "a1", "2048", "sdk-it-0a1b2c3d"] {
            check_name(right).unwrap();
        }
        let long = "a".repeat(NAME_LIMIT + 1);
        for wrong in [
            "", "-a", "a-", "A", "a_b", "a/b", "..", "a b", "a\n", "rack", "system", "é", &long,
        ] {
            assert_eq!(
                check_name(wrong).unwrap_err().http_status(),
                400,
                "{wrong:?}"
            );
        }
    }
}
