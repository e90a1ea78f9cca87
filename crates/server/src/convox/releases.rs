//! Releases: an environment and a build, made one from the other.

use std::collections::BTreeMap;

use boxrig_convox::{Done, Reply, models, ops};
use boxrig_wire::{ApiError, Kind, Request};

use super::Cx;
use super::apps::happened;
use super::records::{Deploy, Release};
use super::state::{State, in_app, put};
use super::time::stamp;
use crate::state::Tx;

/// How many are listed unless the caller says a number.
const LISTED: usize = 10;
/// How long a promotion may take unless the caller says otherwise, in seconds.
const TIMEOUT_S: u64 = 3000;

/// The caller's limit, or the rack's.
pub(super) fn limit(asked: Option<i64>) -> usize {
    asked.map_or(LISTED, |n| usize::try_from(n).unwrap_or(0))
}

pub(super) fn view(release: &Release) -> models::Release {
    let mut m = models::Release::default();
    m.id = release.id.clone();
    m.app = release.app.clone();
    m.build = release.build.clone();
    m.env = release.env.as_str().into();
    m.manifest = release.manifest.clone();
    m.description = release.description.clone();
    m.created = stamp(release.created_ms);
    m
}

/// Reads `KEY=value` lines, split at the first `=`; lines without one and empty ones are passed over.
pub(super) fn parse_env(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            let key = key.trim();
            (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// What changed, in the rack's words: `add:A change:B remove:C`.
fn differences(old: &str, new: &str) -> String {
    let (old, new) = (parse_env(old), parse_env(new));
    let mut words = Vec::new();
    words.extend(
        new.keys()
            .filter(|k| !old.contains_key(*k))
            .map(|k| format!("add:{k}")),
    );
    let changed = |(k, v): &(&String, &String)| old.get(*k).is_some_and(|o| o != *v);
    words.extend(
        new.iter()
            .filter(changed)
            .map(|(k, _)| format!("change:{k}")),
    );
    words.extend(
        old.keys()
            .filter(|k| !new.contains_key(*k))
            .map(|k| format!("remove:{k}")),
    );
    words.join(" ")
}

/// What a new release is made of; what is not given comes from its parent.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) build: Option<String>,
    pub(super) env: Option<String>,
    pub(super) description: Option<String>,
    pub(super) parent: Option<String>,
}

/// Makes a release within a transaction.
pub(super) fn make(
    state: &State,
    tx: &mut Tx,
    app: &str,
    id: &str,
    change: Change,
) -> Result<Release, ApiError> {
    if tx.get(&state.apps, app).is_none_or(|a| a.deleting) {
        return Err(super::state::no_app(app));
    }
    let all = tx.with(&state.releases, |all| in_app(all, app));
    let newest = all.iter().map(|(_, r)| r).max_by_key(|r| r.seq);
    let parent = match change.parent.as_deref().filter(|p| !p.is_empty()) {
        None => newest,
        Some(id) => Some(
            all.iter()
                .find(|(key, _)| key == id)
                .map(|(_, r)| r)
                .ok_or_else(|| ApiError::not_found(format!("release not found: {id}")))?,
        ),
    };
    let mut release = Release {
        id: id.to_owned(),
        app: app.to_owned(),
        seq: newest.map_or(1, |r| r.seq + 1),
        build: parent.map_or_else(String::new, |r| r.build.clone()),
        env: parent.map_or_else(String::new, |r| r.env.clone()),
        // No two of an app have the same time, whatever the clock does.
        created_ms: state
            .core
            .now_ms()
            .max(newest.map_or(0, |r| r.created_ms + 1)),
        ..Release::default()
    };
    if let Some(build) = change.build.filter(|b| !b.is_empty()) {
        release.build = build;
    }
    if !release.build.is_empty() {
        let build = tx.get(&state.builds, &super::state::key(app, &release.build));
        let missing = || ApiError::not_found(format!("build not found: {}", release.build));
        let build = build.ok_or_else(missing)?;
        release.manifest = build.manifest.clone();
        release.description = build.description.clone();
    }
    if let Some(env) = change.env {
        let words = differences(&release.env, &env);
        if !words.is_empty() {
            release.description = format!("env {words}");
        }
        release.env = env;
    }
    if let Some(description) = change.description {
        release.description = description;
    }
    put(tx, &state.releases, app, id, release.clone())?;
    Ok(release)
}

pub(super) async fn create(
    cx: Cx,
    rq: Request<ops::releases::ReleaseCreate>,
) -> Result<Reply<models::Release>, ApiError> {
    let (app,) = rq.path;
    let form = rq.body.0;
    let change = Change {
        build: form.build,
        env: form.env.map(|env| env.expose().to_owned()),
        description: form.description,
        parent: form.parent_release,
    };
    let id = cx.id('R');
    let made = cx
        .write(&app, |tx| make(&cx, tx, &app, &id, change))
        .await?;
    happened(&cx, "release:create", &[("app", &app), ("id", &id)]).await;
    Ok(Reply(view(&made)))
}

pub(super) async fn get(
    cx: Cx,
    rq: Request<ops::releases::ReleaseGet>,
) -> Result<Reply<models::Release>, ApiError> {
    let (app, id) = rq.path;
    Ok(Reply(view(&*cx.release(&app, &id)?)))
}

pub(super) async fn list(
    cx: Cx,
    rq: Request<ops::releases::ReleaseList>,
) -> Result<Reply<Vec<models::Release>>, ApiError> {
    let (app,) = rq.path;
    cx.app(&app)?;
    let all = cx.releases_of(&app);
    let some = all.iter().take(limit(rq.query.limit));
    Ok(Reply(some.map(|r| view(r)).collect()))
}

pub(super) async fn promote(
    cx: Cx,
    rq: Request<ops::releases::ReleasePromote>,
) -> Result<Done, ApiError> {
    let (name, id) = rq.path;
    let form = rq.body.0;
    let force = form.force == Some(true);
    cx.app(&name)?;
    if !force && super::apps::status(&*cx.app(&name)?) != "running" {
        return Err(busy());
    }
    let release = cx.release(&name, &id)?;
    if release.manifest.trim().is_empty() {
        return Err(ApiError::invalid(
            "can not promote a release with an empty manifest",
        ));
    }
    super::manifest::of(&release)?;
    super::resources::try_again(&cx.state.state, &name).await?;
    let percent = |n: Option<i64>| n.map(|n| u32::try_from(n.clamp(0, 1000)).unwrap_or(100));
    let seconds = form
        .timeout
        .and_then(|n| u64::try_from(n).ok())
        .filter(|n| *n > 0);
    let now = cx.core.now_ms();
    let deploy = Deploy {
        release: id.clone(),
        started_ms: now,
        deadline_ms: now + seconds.unwrap_or(TIMEOUT_S) * 1000,
        min: percent(form.min),
        max: percent(form.max),
        actor: cx.who.actor.to_string(),
        ..Deploy::default()
    };
    cx.write(&name, |tx| {
        let app = tx
            .get(&cx.apps, &name)
            .ok_or_else(|| super::state::no_app(&name))?;
        let mut app = super::records::App::clone(&app);
        if app.deleting || (app.deploy.is_some() && !force) {
            return Err(busy());
        }
        let active = super::state::key(&name, &app.release);
        if tx
            .get(&cx.releases, &active)
            .is_some_and(|a| release.seq < a.seq)
        {
            return Err(ApiError::invalid(
                "can not promote an older release, try rollback",
            ));
        }
        app.deploy = Some(Deploy {
            from: app.release.clone(),
            ..deploy
        });
        app.failure = None;
        tx.put(&cx.apps, &name, app)?;
        Ok(())
    })
    .await?;
    happened(&cx, "release:promote", &[("app", &name), ("id", &id)]).await;
    Ok(Done)
}

fn busy() -> ApiError {
    ApiError::new(Kind::Denied, "app is currently updating")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments() {
        let env = parse_env("A=1\nB=x=y\n\nno\n =z\nC=");
        let pairs: Vec<_> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("A", "1"), ("B", "x=y"), ("C", "")]);
        assert_eq!(
            differences("A=1\nB=2\nC=3", "B=2\nC=4\nD=5"),
            "add:D change:C remove:A"
        );
        assert_eq!(differences("A=1", "A=1\n"), "");
    }
}
