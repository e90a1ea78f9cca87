//! Builds: an uploaded source, made into an image for each service.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use boxrig_archive::unpack::{Limits, OutsideLinks};
use boxrig_build::BuildSpec;
use boxrig_convox::{Done, Reply, models, ops};
use boxrig_wire::{ApiError, Kind, Request};

use super::Cx;
use super::logs::Source;
use super::manifest::Manifest;
use super::records::Build;
use super::state::{Shared, in_app, key, no_app};
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

/// Bytes and entries of a source after it is unpacked.
const SOURCE: Limits = Limits {
    bytes: 8 << 30,
    entries: 500_000,
    outside_links: OutsideLinks::Keep,
};
/// A build takes no longer.
const LONGEST: Duration = Duration::from_secs(3600);

/// The name the engine has a service's image under.
fn image_name(app: &str, service: &str, build: &str) -> String {
    format!("convox/{app}/{service}:{build}")
}

/// Whether an image was built here for this app.
pub(super) fn is_own(app: &str, image: &str) -> bool {
    image.starts_with(&format!("convox/{app}/"))
}

/// What a build is asked to do.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    pub(super) object: String,
    pub(super) manifest: Option<String>,
    pub(super) args: BTreeMap<String, String>,
    pub(super) no_cache: bool,
}

pub(super) async fn create(
    cx: Cx,
    rq: Request<ops::builds::BuildCreate>,
) -> Result<Reply<models::Build>, ApiError> {
    let (app,) = rq.path;
    let form = rq.body.0;
    cx.app(&app)?;
    if form.external == Some(true) {
        return Err(ApiError::new(
            Kind::Unsupported,
            "BuildCreate with external is not implemented by this server: it has no image registry to push to",
        ));
    }
    let url = form.url.unwrap_or_default();
    let object = super::objects::of_url(&app, &url).ok_or_else(|| {
        ApiError::invalid(format!(
            "url {url:?} is no object of app {app}: upload the source first"
        ))
    })?;
    if cx.objects.get(&key(&app, object)).is_none() {
        return Err(ApiError::not_found(format!("object not found: {object}")));
    }
    let mut args = BTreeMap::new();
    for text in form.build_args.0 {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| ApiError::invalid(format!("invalid build args:{text}")))?;
        args.insert(name.to_owned(), value.to_owned());
    }
    let order = Order {
        object: object.to_owned(),
        manifest: form.manifest.filter(|m| !m.is_empty()),
        args,
        no_cache: form.no_cache == Some(true),
    };
    let description = form.description.unwrap_or_default();
    let build = record(
        &cx,
        &app,
        description,
        form.git_sha.unwrap_or_default(),
        object,
    )
    .await?;
    let (state, id) = (cx.state.state.clone(), build.id.clone());
    let work = state.clone();
    work.background(async move { carry_out(&state, &app, &id, order).await });
    Ok(Reply(view(&build)))
}

/// Puts a build that runs on record.
pub(super) async fn record(
    cx: &Cx,
    app: &str,
    description: String,
    git_sha: String,
    source: &str,
) -> Result<Build, ApiError> {
    let id = cx.id('B');
    let now = cx.core.now_ms();
    let build = cx
        .write(app, |tx| {
            if tx.get(&cx.apps, app).is_none_or(|a| a.deleting) {
                return Err(no_app(app));
            }
            let last = tx.with(&cx.builds, |all| in_app(all, app));
            let seq = last.iter().map(|(_, b)| b.seq).max().unwrap_or(0) + 1;
            let build = Build {
                id: id.clone(),
                app: app.to_owned(),
                seq,
                description,
                git_sha,
                source: source.to_owned(),
                status: "running".into(),
                started_ms: now,
                ..Build::default()
            };
            tx.put(&cx.builds, &key(app, &id), build.clone())?;
            Ok(build)
        })
        .await?;
    super::apps::happened(cx, "build:create", &[("app", app), ("id", &id)]).await;
    Ok(build)
}

/// Carries a build out and records what became of it.
pub(super) async fn carry_out(state: &Shared, app: &str, id: &str, order: Order) {
    let source = Arc::new(Source::new("build", "build", id));
    let folder = state.folder.join("builds").join(id);
    let made = tokio::time::timeout(LONGEST, make(state, app, id, &order, &folder, &source)).await;
    let made = made.unwrap_or_else(|_| Err(format!("not done within {} s", LONGEST.as_secs())));
    let _ = tokio::fs::remove_dir_all(&folder).await;
    let now = state.core.now_ms();
    let release = state.id('R');
    if let Err(why) = &made {
        state.logs.say(app, &source, format!("ERROR: {why}"));
    }
    let done = state
        .write(app, |tx| {
            let found = tx
                .get(&state.builds, &key(app, id))
                .ok_or_else(|| no_app(app))?;
            let mut build = Build::clone(&found);
            build.ended_ms = now;
            match made {
                Err(why) => {
                    build.status = "failed".into();
                    build.reason = why;
                    tx.put(&state.builds, &key(app, id), build)?;
                }
                Ok(made) => {
                    build.status = "complete".into();
                    build.manifest = made.manifest;
                    build.images = made.images;
                    build.entrypoint = made.entrypoint;
                    build.release = release.clone();
                    tx.put(&state.builds, &key(app, id), build)?;
                    let change = super::releases::Change {
                        build: Some(id.to_owned()),
                        ..Default::default()
                    };
                    super::releases::make(state, tx, app, &release, change)?;
                }
            }
            Ok(())
        })
        .await;
    if let Err(e) = done
        && e.kind != Kind::NotFound
    {
        tracing::warn!(build = id, error = %e, "the end of a build was not recorded");
    }
    state.logs.ended(app, &source);
}

struct Made {
    manifest: String,
    images: BTreeMap<String, String>,
    entrypoint: String,
}

async fn make(
    state: &Shared,
    app: &str,
    id: &str,
    order: &Order,
    folder: &Path,
    source: &Arc<Source>,
) -> Result<Made, String> {
    let say = |text: String| state.logs.say(app, source, text);
    let object = state
        .objects
        .get(&key(app, &order.object))
        .ok_or("the source is gone")?;
    let file = state.folder.join("objects").join(&object.file);
    let to = folder.to_owned();
    let unpacked = tokio::task::spawn_blocking(move || {
        crate::files::private_dir(&to).map_err(|e| e.to_string())?;
        let file = std::fs::File::open(file).map_err(|e| e.to_string())?;
        let all = boxrig_archive::unpack::unpack(&to, file, SOURCE, &mut |_, _| {});
        all.map_err(|e| format!("the source cannot be unpacked: {e}"))
    });
    let unpacked = unpacked.await.map_err(|e| e.to_string())??;
    say(format!("Unpacked {} files", unpacked.entries));
    let name = order.manifest.as_deref().unwrap_or("convox.yml");
    let text = read_below(folder, name).await?;
    let newest = state
        .releases_of(app)
        .first()
        .map(|r| r.env.clone())
        .unwrap_or_default();
    let env = super::releases::parse_env(&newest);
    let manifest = Manifest::parse(&text, &env).map_err(|e| e.to_string())?;
    for warning in &manifest.warnings {
        say(format!("WARNING: {warning}"));
    }
    let (mut images, mut same) = (BTreeMap::new(), Vec::new());
    let mut entrypoint = String::new();
    for service in &manifest.services {
        let image = match (&service.build, &service.image) {
            (None, Some(image)) => {
                super::images::config(state, image)
                    .await
                    .map_err(|e| format!("service {}: {}", service.name, e.message))?;
                image.clone()
            }
            (None, None) => return Err(format!("service {} has no image", service.name)),
            (Some(build), _) => {
                let before = same
                    .iter()
                    .find(|(b, _)| *b == build)
                    .map(|(_, i): &(_, String)| i.clone());
                match before {
                    Some(image) => image,
                    None => {
                        say(format!("Building: {}", service.name));
                        let image = image_name(app, &service.name, id);
                        build_one(state, app, source, order, folder, build, &image, &env)
                            .await
                            .map_err(|why| format!("service {}: {why}", service.name))?;
                        same.push((build, image.clone()));
                        image
                    }
                }
            }
        };
        if entrypoint.is_empty()
            && let Ok(config) = super::images::config(state, &image).await
        {
            entrypoint = super::shell::join(&config.entrypoint.unwrap_or_default());
        }
        images.insert(service.name.clone(), image);
    }
    say("Build complete".to_owned());
    Ok(Made {
        manifest: text,
        images,
        entrypoint,
    })
}

/// Reads a text below a folder that somebody else filled: no link leads out of it.
async fn read_below(folder: &Path, name: &str) -> Result<String, String> {
    let path = folder.join(name);
    let real = tokio::fs::canonicalize(&path).await;
    let root = tokio::fs::canonicalize(folder)
        .await
        .map_err(|e| e.to_string())?;
    match real {
        Ok(real) if real.starts_with(&root) => tokio::fs::read_to_string(real)
            .await
            .map_err(|e| format!("{name}: {e}")),
        Ok(_) => Err(format!("{name} leads out of the source")),
        Err(_) => Err(format!("the source has no {name}")),
    }
}

#[allow(clippy::too_many_arguments)]
async fn build_one(
    state: &Shared,
    app: &str,
    source: &Arc<Source>,
    order: &Order,
    folder: &Path,
    build: &super::manifest::Build,
    image: &str,
    env: &BTreeMap<String, String>,
) -> Result<(), String> {
    let context = folder.join(&build.path);
    let root = tokio::fs::canonicalize(folder)
        .await
        .map_err(|e| e.to_string())?;
    let context = tokio::fs::canonicalize(&context)
        .await
        .ok()
        .filter(|c| c.starts_with(&root))
        .ok_or_else(|| format!("the source has no folder {}", build.path))?;
    let mut spec = BuildSpec::new(image);
    spec.context = Some(context);
    spec.dockerfile = build.dockerfile.clone();
    spec.target = build.target.clone();
    // What the environment has, then what the manifest says, then what the caller says.
    spec.args = env.clone();
    spec.args.extend(build.args.clone());
    spec.args.extend(order.args.clone());
    spec.cache = !order.no_cache;
    spec.labels = BTreeMap::from([("convox.app".to_owned(), app.to_owned())]);
    let (lines, mut read) = tokio::sync::mpsc::channel::<boxrig_build::LogLine>(64);
    let print = async {
        while let Some(line) = read.recv().await {
            state.logs.say(app, source, line.text);
        }
    };
    let (built, ()) = tokio::join!(state.core.builder.build(spec, lines), print);
    built.map(|_| ()).map_err(|e| e.to_string())
}

/// Builds that were under way when the server ended have failed.
pub(super) async fn recover(state: &Shared) -> Result<(), ApiError> {
    let under_way: Vec<_> = state.builds.with(|all| {
        let some = all.values().filter(|b| b.status == "running");
        some.map(|b| (b.app.clone(), b.id.clone())).collect()
    });
    for (app, id) in under_way {
        let now = state.core.now_ms();
        state
            .write(&app, |tx| {
                if let Some(build) = tx.get(&state.builds, &key(&app, &id)) {
                    let mut build = Build::clone(&build);
                    build.status = "failed".into();
                    build.reason = "the server ended during the build".into();
                    build.ended_ms = now;
                    tx.put(&state.builds, &key(&app, &id), build)?;
                }
                Ok(())
            })
            .await?;
    }
    let _ = std::fs::remove_dir_all(state.folder.join("builds"));
    let _ = crate::files::private_dir(&state.folder.join("builds"));
    Ok(())
}

/// Puts another image in the place of what a build has given.
pub(super) async fn import_image(
    cx: Cx,
    rq: Request<ops::builds::BuildImportImage>,
) -> Result<Done, ApiError> {
    let (app, id) = rq.path;
    let build = cx.build(&app, &id)?;
    let image = rq.body.0.image;
    if image.trim().is_empty() {
        return Err(ApiError::invalid("image is required")
            .with_status(http::StatusCode::UNPROCESSABLE_ENTITY));
    }
    if build.status == "running" {
        return Err(ApiError::conflict(format!("build {id} is running")));
    }
    // Only what is here: there is no registry to fetch from.
    super::images::config(&cx, &image).await?;
    cx.write(&app, |tx| {
        let found = tx
            .get(&cx.builds, &key(&app, &id))
            .ok_or_else(|| no_app(&app))?;
        let mut build = Build::clone(&found);
        for now in build.images.values_mut() {
            now.clone_from(&image);
        }
        tx.put(&cx.builds, &key(&app, &id), build)?;
        Ok(())
    })
    .await?;
    Ok(Done)
}
