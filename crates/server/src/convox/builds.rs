//! Builds: an uploaded source, made into an image for each service.

use boxrig_convox::{Reply, models, ops};
use boxrig_wire::{ApiError, Request};

use super::Cx;
use super::records::Build;
use super::state::{key, no_app};
use super::time::{parse_sortable, stamp};

pub(super) fn view(build: &Build) -> models::Build {
    let mut m = models::Build::default();
    m.id = build.id.clone();
    m.app = build.app.clone();
    m.description = build.description.clone();
    m.git_sha = build.git_sha.clone();
    m.entrypoint = build.entrypoint.clone();
    m.logs = build.logs.clone();
    m.manifest = build.manifest.clone();
    m.release = build.release.clone();
    m.reason = build.reason.clone();
    m.status = build.status.clone();
    m.started = stamp(build.started_ms);
    m.ended = stamp(build.ended_ms);
    m
}

pub(super) async fn get(
    cx: Cx,
    rq: Request<ops::builds::BuildGet>,
) -> Result<Reply<models::Build>, ApiError> {
    let (app, id) = rq.path;
    Ok(Reply(view(&*cx.build(&app, &id)?)))
}

pub(super) async fn list(
    cx: Cx,
    rq: Request<ops::builds::BuildList>,
) -> Result<Reply<Vec<models::Build>>, ApiError> {
    let (app,) = rq.path;
    cx.app(&app)?;
    let all = cx.builds_of(&app);
    let some = all.iter().take(super::releases::limit(rq.query.limit));
    Ok(Reply(some.map(|b| view(b)).collect()))
}

pub(super) async fn update(
    cx: Cx,
    rq: Request<ops::builds::BuildUpdate>,
) -> Result<Reply<models::Build>, ApiError> {
    let (app, id) = rq.path;
    cx.build(&app, &id)?;
    let form = rq.body.0;
    let time = |t: Option<String>| t.and_then(|t| parse_sortable(&t));
    let (started, ended) = (time(form.started), time(form.ended));
    let now = cx
        .write(&app, |tx| {
            let build = tx.get(&cx.builds, &key(&app, &id));
            let mut build = Build::clone(&*build.ok_or_else(|| no_app(&app))?);
            let set = |field: &mut String, value: Option<String>| {
                if let Some(value) = value {
                    *field = value;
                }
            };
            set(&mut build.entrypoint, form.entrypoint);
            set(&mut build.logs, form.logs);
            set(&mut build.manifest, form.manifest);
            set(&mut build.release, form.release);
            set(&mut build.status, form.status);
            build.started_ms = started.unwrap_or(build.started_ms);
            build.ended_ms = ended.unwrap_or(build.ended_ms);
            tx.put(&cx.builds, &key(&app, &id), build.clone())?;
            Ok(build)
        })
        .await?;
    Ok(Reply(view(&now)))
}
