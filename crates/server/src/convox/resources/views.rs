//! Resources as the API shows them: of apps, and of the rack.

use std::sync::Arc;

use boxrig_convox::{Done, Reply, models, ops};
use boxrig_engine::ExecSpec;
use boxrig_wire::{ApiError, ByteReply, Kind, Request, Socket};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};

use super::{Program, RACK_OWN, Record, is_outside, programs};
use crate::convox::Cx;
use crate::convox::manifest;
use crate::convox::releases::parse_env;
use crate::convox::state::{State, instance, key, of_app};
use crate::convox::{exec, sockets};
use crate::core::engine_error;
use crate::streams::{BodyReader, reader_body};

fn status(record: &Record) -> &'static str {
    match (record.ready, record.reason.is_empty()) {
        (true, _) => "running",
        (false, true) => "pending",
        (false, false) => "failed",
    }
}

/// The resources of an app's active release.
fn all(state: &State, app: &str) -> Result<Vec<models::Resource>, ApiError> {
    let app = state.app(app)?;
    let Some(release) = state.releases.get(&key(&app.name, &app.release)) else {
        return Ok(Vec::new());
    };
    let manifest = manifest::of(&release)?;
    let env = parse_env(&release.env);
    let mut all = Vec::new();
    for resource in manifest.resources {
        let mut m = models::Resource::default();
        m.name = resource.name.clone();
        m.r#type = resource.r#type.clone();
        m.parameters = resource.options.clone();
        if is_outside(&env, &resource.name) {
            m.status = "external".into();
            let variable = manifest::Resource::variable(&resource.name, "URL");
            m.url = env.get(&variable).cloned().unwrap_or_default().into();
        } else if let Some(record) = state.resources.get(&key(&app.name, &resource.name)) {
            m.status = status(&record).into();
            m.url = record.url(record.port);
        } else {
            m.status = "pending".into();
        }
        all.push(m);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

fn no_resource(name: &str) -> ApiError {
    ApiError::not_found(format!("no such resource: {name}"))
}

pub(in super::super) async fn list(
    cx: Cx,
    rq: Request<ops::resources::ResourceList>,
) -> Result<Reply<Vec<models::Resource>>, ApiError> {
    Ok(Reply(all(&cx, &rq.path.0)?))
}

pub(in super::super) async fn get(
    cx: Cx,
    rq: Request<ops::resources::ResourceGet>,
) -> Result<Reply<models::Resource>, ApiError> {
    let (app, name) = rq.path;
    let found = all(&cx, &app)?.into_iter().find(|r| r.name == name);
    found.map(Reply).ok_or_else(|| no_resource(&name))
}

/// A resource that runs here.
fn running(cx: &Cx, app: &str, name: &str) -> Result<(Arc<Record>, Program), ApiError> {
    cx.app(app)?;
    let record = cx
        .resources
        .get(&key(app, name))
        .ok_or_else(|| no_resource(name))?;
    let program = record.program().ok_or_else(|| no_resource(name))?;
    Ok((record, program))
}

/// A shell command beside the program, with its password at hand.
fn beside(record: &Record, command: String) -> ExecSpec {
    let mut spec = ExecSpec::new(["/bin/sh", "-c", &command]);
    spec.env
        .insert("PGPASSWORD".into(), record.password.clone());
    spec.env
        .insert("REDISCLI_AUTH".into(), record.password.clone());
    spec
}

pub(in super::super) async fn console(
    cx: Cx,
    rq: Request<ops::resources::ResourceConsole>,
) -> Result<Socket, ApiError> {
    let (app, name) = rq.path;
    exec::needs_write(&cx, "resource console")?;
    let (record, program) = running(&cx, &app, &name)?;
    let folder = program
        .find()
        .map_err(|why| ApiError::new(Kind::Failed, why))?;
    let command = program.console(&folder).ok_or_else(|| {
        ApiError::invalid(format!(
            "console not available for resources of type: {}",
            record.r#type
        ))
    })?;
    let size = exec::size(rq.headers.height, rq.headers.width);
    let state = cx.state.state.clone();
    Ok(sockets::serve(move |input, out| async move {
        let mut spec = beside(&record, command);
        spec.tty = Some(size);
        spec.stdin = true;
        let started = async {
            let id = instance(&record.instance)?;
            state
                .core
                .engine
                .exec(&id, spec)
                .await
                .map_err(|e| engine_error(&e))
        };
        match started.await {
            Ok(exec) => exec::attend(exec, input, &out, false).await,
            Err(e) => sockets::fail(&out, &e).await,
        }
    }))
}

fn no_dump(what: &str, record: &Record) -> ApiError {
    ApiError::invalid(format!(
        "{what} not available for resources of type: {}",
        record.r#type
    ))
}

pub(in super::super) async fn export(
    cx: Cx,
    rq: Request<ops::resources::ResourceExport>,
) -> Result<ByteReply, ApiError> {
    let (app, name) = rq.path;
    let (record, program) = running(&cx, &app, &name)?;
    let folder = program
        .find()
        .map_err(|why| ApiError::new(Kind::Failed, why))?;
    let (write, _) = program
        .dump(&folder)
        .ok_or_else(|| no_dump("export", &record))?;
    let id = instance(&record.instance)?;
    // Into a file first: a dump that fails in its middle must not look like a whole one.
    let path = cx
        .folder
        .join("builds")
        .join(format!("dump-{}", crate::ids::secret()));
    let exec = cx.core.engine.exec(&id, beside(&record, write)).await;
    let mut exec = exec.map_err(|e| engine_error(&e))?;
    let broken = |e: std::io::Error| {
        crate::convox::params::failed(format!("the dump could not be kept: {e}"))
    };
    let mut file = tokio::fs::File::create(&path).await.map_err(broken)?;
    // Open until it is read, and nobody else's.
    let read = tokio::fs::File::open(&path).await.map_err(broken)?;
    tokio::fs::remove_file(&path).await.map_err(broken)?;
    let mut words = Vec::new();
    let mut err = exec.stderr.take();
    let errors = async {
        if let Some(err) = &mut err {
            let _ = tokio::io::copy(err, &mut words).await;
        }
    };
    let (copied, ()) = tokio::join!(tokio::io::copy(&mut exec.stdout, &mut file), errors);
    copied.map_err(broken)?;
    let status = exec.wait().await.map_err(|e| engine_error(&e))?;
    if !status.success() {
        return Err(crate::convox::params::failed(format!(
            "the dump failed: {}",
            String::from_utf8_lossy(&words).trim()
        )));
    }
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    Ok(ByteReply {
        status: StatusCode::OK,
        headers,
        body: reader_body(read),
    })
}

pub(in super::super) async fn import(
    cx: Cx,
    rq: Request<ops::resources::ResourceImport>,
) -> Result<Done, ApiError> {
    let (app, name) = rq.path;
    let (record, program) = running(&cx, &app, &name)?;
    let folder = program
        .find()
        .map_err(|why| ApiError::new(Kind::Failed, why))?;
    let (_, read) = program
        .dump(&folder)
        .ok_or_else(|| no_dump("import", &record))?;
    let mut spec = beside(&record, read);
    spec.stdin = true;
    let id = instance(&record.instance)?;
    let exec = cx.core.engine.exec(&id, spec).await;
    let mut exec = exec.map_err(|e| engine_error(&e))?;
    let mut body = BodyReader::new(rq.body.body);
    let stdin = exec.stdin.take();
    let mut err = exec.stderr.take();
    let (mut words, mut nothing) = (Vec::new(), tokio::io::sink());
    let feed = async {
        if let Some(mut stdin) = stdin {
            let _ = tokio::io::copy(&mut body, &mut stdin).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut stdin).await;
        }
    };
    let errors = async {
        if let Some(err) = &mut err {
            let _ = tokio::io::copy(err, &mut words).await;
        }
    };
    let output = tokio::io::copy(&mut exec.stdout, &mut nothing);
    let _ = tokio::join!(feed, errors, output);
    let status = exec.wait().await.map_err(|e| engine_error(&e))?;
    if status.success() {
        return Ok(Done);
    }
    Err(crate::convox::params::failed(format!(
        "the import failed: {}",
        String::from_utf8_lossy(&words).trim()
    )))
}

fn of_rack(cx: &Cx, record: &Record) -> models::Resource {
    let mut m = models::Resource::default();
    m.name = record.name.clone();
    m.r#type = record.r#type.clone();
    m.status = status(record).into();
    m.url = record.url(record.port);
    let apps = record.links.iter().filter_map(|app| cx.apps.get(app));
    m.apps = apps
        .map(|app| crate::convox::apps::view(cx, &app))
        .collect();
    m
}

pub(in super::super) async fn system_list(
    cx: Cx,
    _: Request<ops::system_resources::SystemResourceList>,
) -> Result<Reply<Vec<models::Resource>>, ApiError> {
    let all = of_app(&cx.resources, RACK_OWN);
    Ok(Reply(all.iter().map(|(_, r)| of_rack(&cx, r)).collect()))
}

fn of_the_rack(cx: &Cx, name: &str) -> Result<Arc<Record>, ApiError> {
    let found = cx.resources.get(&key(RACK_OWN, name));
    found.ok_or_else(|| no_resource(name))
}

pub(in super::super) async fn system_get(
    cx: Cx,
    rq: Request<ops::system_resources::SystemResourceGet>,
) -> Result<Reply<models::Resource>, ApiError> {
    let record = of_the_rack(&cx, &rq.path.0)?;
    Ok(Reply(of_rack(&cx, &record)))
}

pub(in super::super) async fn system_create(
    cx: Cx,
    rq: Request<ops::system_resources::SystemResourceCreate>,
) -> Result<Reply<models::Resource>, ApiError> {
    let form = rq.body.0;
    if let Some(name) = form.parameters.0.keys().next() {
        return Err(ApiError::invalid(format!("invalid parameter: {name}")));
    }
    let name = form.name.filter(|n| !n.is_empty());
    let name = name.unwrap_or_else(|| format!("{}-{}", form.kind, cx.core.ids.hex(6)));
    let right = name.len() <= 40
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !right {
        return Err(ApiError::invalid(format!(
            "invalid resource name: {name:?}"
        )));
    }
    if cx.resources.get(&key(RACK_OWN, &name)).is_some() {
        return Err(ApiError::conflict(format!(
            "resource already exists: {name}"
        )));
    }
    let record = super::add(&cx.state.state, RACK_OWN, &name, &form.kind).await?;
    super::tend(&cx.state.state, &record);
    Ok(Reply(of_rack(&cx, &record)))
}

pub(in super::super) async fn system_delete(
    cx: Cx,
    rq: Request<ops::system_resources::SystemResourceDelete>,
) -> Result<Done, ApiError> {
    let record = of_the_rack(&cx, &rq.path.0)?;
    if let Some(app) = record.links.first() {
        return Err(ApiError::conflict(format!(
            "resource {} is linked to app {app}: unlink it first",
            record.name
        )));
    }
    super::remove(&cx.state.state, &record).await?;
    Ok(Done)
}

pub(in super::super) async fn system_types(
    _: Cx,
    _: Request<ops::system_resources::SystemResourceTypes>,
) -> Result<Reply<Vec<models::ResourceType>>, ApiError> {
    let all = programs::TYPES.map(|name| {
        let mut m = models::ResourceType::default();
        m.name = name.into();
        m
    });
    Ok(Reply(all.into()))
}

pub(in super::super) async fn link(
    cx: Cx,
    rq: Request<ops::system_resources::SystemResourceLink>,
) -> Result<Reply<models::Resource>, ApiError> {
    let (name,) = rq.path;
    let app = rq.body.0.app;
    cx.app(&app)?;
    links(&cx, &name, |links| {
        links.insert(app.clone());
        Ok(())
    })
    .await
}

pub(in super::super) async fn unlink(
    cx: Cx,
    rq: Request<ops::system_resources::SystemResourceUnlink>,
) -> Result<Reply<models::Resource>, ApiError> {
    let (name, app) = rq.path;
    links(&cx, &name, |links| match links.remove(&app) {
        true => Ok(()),
        false => Err(ApiError::not_found(format!(
            "resource {name} is not linked to app {app}"
        ))),
    })
    .await
}

/// Changes the links of a resource; processes get them at their next start.
async fn links(
    cx: &Cx,
    name: &str,
    change: impl FnOnce(&mut std::collections::BTreeSet<String>) -> Result<(), ApiError>,
) -> Result<Reply<models::Resource>, ApiError> {
    let key = key(RACK_OWN, name);
    let now = cx
        .core
        .store
        .write(|tx| {
            let record = tx
                .get(&cx.resources, &key)
                .ok_or_else(|| no_resource(name))?;
            let mut record = Record::clone(&record);
            change(&mut record.links)?;
            tx.put(&cx.resources, &key, record.clone())?;
            Ok::<_, ApiError>(record)
        })
        .await?;
    Ok(Reply(of_rack(cx, &now)))
}

/// There is nothing to set: types have no parameters here.
pub(in super::super) async fn system_update(
    cx: Cx,
    rq: Request<ops::system_resources::SystemResourceUpdate>,
) -> Result<Reply<models::Resource>, ApiError> {
    let record = of_the_rack(&cx, &rq.path.0)?;
    if let Some(name) = rq.body.0.parameters.0.keys().next() {
        return Err(ApiError::invalid(format!("invalid parameter: {name}")));
    }
    Ok(Reply(of_rack(&cx, &record)))
}
