//! A Convox rack on the engine.
//!
//! Apps, objects, builds, releases and processes are real: what is not there yet answers a 501 that names the operation
//! (`not_implemented.txt`). A process is an instance of the engine with the same id; everything else is documents of
//! the state store and files under `convox/`.
//!
//! What racks do on the wire that no description says is here: `Rack::answer`.

mod apps;
mod budget;
mod builds;
mod certificates;
mod classic;
mod console;
mod diagnose;
mod exec;
mod files;
mod health;
mod images;
mod logging;
mod logs;
mod manifest;
mod metrics;
mod neighbours;
mod objects;
mod output;
mod params;
mod processes;
mod promotion;
mod records;
mod releases;
mod resources;
mod room;
mod routes;
mod services;
mod settings;
mod shell;
mod sockets;
mod start;
mod state;
mod system;
mod time;
mod timers;
mod transfer;
mod usage;
mod watch;
mod who;
mod worker;

use std::fmt;
use std::sync::Arc;

use boxrig_convox::{Convox, ops};
use boxrig_wire::{ApiError, BoxFuture, Meta, ReplyCodec, ReplyShape, WireBody};
use http::header::{
    ACCEPT, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE,
};
use http::{Method, Response, StatusCode, Uri};

pub use state::Scope;

use crate::core::{Core, Platform};
use crate::router::{Call, RequestInfo, Router, error};
use state::{Shared, State};

/// What handlers get.
type Cx = Call<Scope>;

/// The operations that answer 501, one a line.
pub const NOT_IMPLEMENTED: &str = include_str!("not_implemented.txt");

/// Stands in the path for the key of an object that the rack is to choose.
const NO_KEY: &str = "\u{1}";
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// Paths that are passed on with any method, by operation; both answer 501.
const ANY: [(&str, &str); 2] = [
    ("/v2/", "RegistryProxy"),
    ("/custom/http/proxy/", "ProxyHttpService"),
];

/// Old shapes that share method and path with a new one: its handler reads them too.
const READ_BY_THE_NEW: [&str; 5] = [
    "v2.BuildCreateUpload",
    "v2.BuildImportMultipart",
    "v2.BuildImportUrl",
    "v2.CertificateCreateClassic",
    "v2.ResourceCreateClassic",
];

/// Everything that is described.
fn described() -> impl Iterator<Item = &'static Meta> + Clone {
    let all = ops::CATALOG.iter().chain(ops::CONSOLE).chain(ops::CLASSIC);
    all.copied()
        .filter(|m| !READ_BY_THE_NEW.contains(&m.id) && m.id != "v2.ResourceUpdateClassic")
}

/// Everything that is described, mounted.
pub fn router() -> Router<Convox, Scope> {
    let router = Router::new()
        .body_limit(16 * 1024 * 1024)
        .mount(ops::auth::Auth, system::auth)
        .mount(ops::apps::AppList, apps::list)
        .mount(ops::apps::AppCreate, apps::create)
        .mount(ops::apps::AppGet, apps::get)
        .mount(ops::apps::AppUpdate, apps::update)
        .mount(ops::apps::AppDelete, apps::delete)
        .mount(ops::apps::AppCancel, apps::cancel)
        .mount(ops::apps::AppLogs, logging::app)
        .mount(ops::builds::BuildCreate, builds::create)
        .mount(ops::builds::BuildExport, transfer::export)
        .mount(ops::builds::BuildImport, transfer::import)
        .mount(ops::builds::BuildImportImage, builds::import_image)
        .mount(ops::builds::BuildGet, builds::get)
        .mount(ops::builds::BuildList, builds::list)
        .mount(ops::builds::BuildUpdate, builds::update)
        .mount(ops::builds::BuildLogs, logging::build)
        .mount(ops::certificates::CertificateList, certificates::list)
        .mount(ops::certificates::CertificateCreate, certificates::create)
        .mount(
            ops::certificates::CertificateGenerate,
            certificates::generate,
        )
        .mount(ops::certificates::CertificateRenew, certificates::renew)
        .mount(ops::certificates::CertificateDelete, certificates::delete)
        .mount(ops::diagnose::AppDiagnose, diagnose::diagnose)
        .mount(ops::files::FilesDownload, files::download)
        .mount(ops::files::FilesUpload, files::upload)
        .mount(ops::files::FilesDelete, files::delete)
        .mount(ops::system::SystemMetrics, metrics::system)
        .mount(ops::apps::AppMetrics, metrics::app)
        .mount(ops::services::ServiceMetrics, metrics::service)
        .mount(ops::metrics::MetricsByService, metrics::by_service)
        .mount(ops::proxy::Proxy, exec::proxy)
        .mount(ops::console::RackHost, console::host)
        .mount(ops::v2_classic::AppParametersGet, classic::parameters)
        .mount(ops::v2_classic::AppParametersSet, classic::set_parameters)
        .mount(ops::v2_classic::EnvironmentSet, classic::set_environment)
        .mount(
            ops::v2_classic::EnvironmentUnset,
            classic::unset_environment,
        )
        .mount(ops::v2_classic::ProcessRunDetached, processes::run_detached)
        .mount(ops::v2_classic::ProcessRunAttached, processes::run_attached)
        .mount(ops::v2_classic::SslList, classic::ssl)
        .mount(ops::configs::AppConfigList, settings::configs)
        .mount(ops::configs::AppConfigGet, settings::get_config)
        .mount(ops::configs::AppConfigSet, settings::set_config)
        .mount(ops::events::EventSend, system::event)
        .mount(ops::instances::InstanceList, system::instances)
        .mount(ops::objects::ObjectStore, objects::store)
        .mount(ops::objects::ObjectFetch, objects::fetch)
        .mount(ops::objects::ObjectExists, objects::exists)
        .mount(ops::objects::ObjectList, objects::list)
        .mount(ops::objects::ObjectDelete, objects::delete)
        .mount(ops::processes::ProcessList, processes::list)
        .mount(ops::processes::ProcessGet, processes::get)
        .mount(ops::processes::ProcessRun, processes::run)
        .mount(ops::processes::ProcessStop, processes::stop)
        .mount(ops::processes::ProcessLogs, logging::process)
        .mount(ops::processes::ProcessExec, exec::exec)
        .mount(ops::registries::RegistryList, settings::registries)
        .mount(ops::registries::RegistryAdd, settings::add_registry)
        .mount(ops::registries::RegistryRemove, settings::remove_registry)
        .mount(
            ops::v2_classic::RegistryRemoveClassic,
            settings::remove_registry_classic,
        )
        .mount(ops::releases::ReleaseList, releases::list)
        .mount(ops::releases::ReleaseGet, releases::get)
        .mount(ops::releases::ReleaseCreate, releases::create)
        .mount(ops::releases::ReleasePromote, releases::promote)
        .mount(ops::resources::ResourceList, resources::list)
        .mount(ops::resources::ResourceGet, resources::get)
        .mount(ops::resources::ResourceConsole, resources::console)
        .mount(ops::resources::ResourceExport, resources::export)
        .mount(ops::resources::ResourceImport, resources::import)
        .mount(
            ops::system_resources::SystemResourceList,
            resources::system_list,
        )
        .mount(
            ops::system_resources::SystemResourceGet,
            resources::system_get,
        )
        .mount(
            ops::system_resources::SystemResourceCreate,
            resources::system_create,
        )
        .mount(
            ops::system_resources::SystemResourceDelete,
            resources::system_delete,
        )
        .mount(
            ops::system_resources::SystemResourceTypes,
            resources::system_types,
        )
        .mount(ops::system_resources::SystemResourceLink, resources::link)
        .mount(
            ops::system_resources::SystemResourceUnlink,
            resources::unlink,
        )
        .mount(
            ops::system_resources::SystemResourceUpdate,
            resources::system_update,
        )
        .mount(ops::services::ServiceList, services::list)
        .mount(ops::services::ServiceUpdate, services::update)
        .mount(ops::services::ServiceRestart, services::restart)
        .mount(
            ops::services::ServiceScaleOverrideSet,
            services::scale_override,
        )
        .mount(
            ops::manifest::AppManifestService,
            services::manifest_service,
        )
        .mount(ops::balancers::BalancerList, services::balancers)
        .mount(ops::v2_classic::FormationGet, services::formation)
        .mount(ops::v2_classic::FormationUpdate, services::update_formation)
        .mount(ops::services::ServiceLogs, logging::service)
        .mount(ops::system::SystemGet, system::get)
        .mount(ops::system::SystemLogs, logging::system)
        .mount(ops::system::SystemProcesses, system::processes)
        .mount(ops::system::SystemJwtToken, system::token)
        .mount(ops::system::SystemJwtSignKeyRotate, system::rotate)
        .mount(ops::system::CapacityGet, system::capacity)
        .mount(ops::console::RackList, console::racks)
        .mount(ops::console::RackGet, console::rack)
        .mount(ops::console::MachineList, console::machines)
        .mount(ops::console::RackSync, console::sync)
        .mount(ops::console::Runtimes, console::runtimes)
        .mount(
            ops::console::OrganizationRuntimes,
            console::organization_runtimes,
        )
        .mount(ops::console::RuntimeAttach, console::attach_runtime)
        .mount(ops::console::WorkflowList, console::workflows)
        .mount(ops::console::WorkflowCustomRun, console::run_workflow)
        .mount(ops::budget::AppBudgetGet, budget::get)
        .mount(ops::budget::AppBudgetClear, budget::clear)
        .mount(
            ops::budget::AppBudgetShutdownStateGet,
            budget::shutdown_state,
        )
        .mount(ops::budget::AppBudgetSimulate, budget::simulate);
    let refused = NOT_IMPLEMENTED
        .lines()
        .filter_map(|line| line.split('#').next())
        .map(str::trim);
    refused
        .filter_map(|id| described().find(|meta| meta.id == id))
        .fold(router, |router, meta| router.not_implemented(meta))
}

/// A rack as a part of the server.
pub struct Rack {
    state: Shared,
    router: Arc<Router<Convox, Scope>>,
}

impl fmt::Debug for Rack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rack")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Rack {
    /// Loads the state.
    ///
    /// # Errors
    ///
    /// When the state or the folder of the rack's files cannot be read.
    pub async fn open(core: Arc<Core>) -> Result<Self, ApiError> {
        let state = Arc::new(State::load(core)?);
        objects::sweep(&state);
        let inside = neighbours::Inside::of(&state);
        if !state.core.engine.set_neighbours(inside) {
            tracing::debug!("services do not reach each other by name on this engine");
        }
        let around = state.core.around.clone();
        let router = around.into_iter().fold(router(), Router::around);
        let rack = Self {
            state,
            router: Arc::new(router),
        };
        rack.recover().await?;
        Ok(rack)
    }

    /// Brings records and engine together.
    async fn recover(&self) -> Result<(), ApiError> {
        builds::recover(&self.state).await?;
        watch::recover(&self.state).await?;
        resources::recover(&self.state).await
    }

    /// Starts everything that goes on by itself.
    async fn begin(&self) {
        let state = &self.state;
        state.background(watch::engine_events(state.clone()));
        state.background(timers::run(state.clone()));
        state.background(metrics::run(state.clone()));
        for process in state.processes.list() {
            if process.phase == records::Phase::Running {
                start::attend(state, &process.id);
                start::reconnect(state, &process).await;
            }
        }
        for record in state.resources.list() {
            resources::tend(state, &record);
        }
        for app in state.apps.list() {
            routes::publish(state, &app.name);
            state.start_worker(&app.name);
        }
    }

    /// Answers a request as a rack does.
    async fn answer(
        &self,
        mut info: RequestInfo,
        request: http::Request<WireBody>,
    ) -> Response<WireBody> {
        let (mut parts, body) = request.into_parts();
        if let Err(e) = rewrite(&mut parts.uri, &parts.method) {
            return self.dress(&info, error::<Convox>(&e));
        }
        info.uri = parts.uri.clone();
        let path = parts.uri.path();
        let any = ANY.iter().find(|(prefix, _)| path.starts_with(prefix));
        let begins = path == who::SESSION_PATH && parts.method == Method::POST;
        let meta = match (any, self.find(&parts.method, path, &parts.headers)) {
            _ if begins => None,
            (Some(_), _) => None,
            (None, Ok(meta)) => Some(meta),
            (None, Err(status)) => return empty(status),
        };
        let socket = meta.is_some_and(|m| m.reply == ReplyShape::Socket);
        let refuse = |e: ApiError| match socket {
            true => sockets::refused(&parts.headers, e),
            false => challenged(&e, error::<Convox>(&e)),
        };
        let since = self.state.core.now().duration_since(std::time::UNIX_EPOCH);
        let since = since.unwrap_or_default();
        let (tokens, now) = (&self.state.tokens, since.as_secs());
        let admitted = tokens
            .admit(&self.state.core.credentials, &info, since)
            // On a socket nobody could answer the challenge: consoles ask for something else first.
            .and_then(|who| match socket || begins {
                true => Ok(who),
                false => tokens.check_session(&info, now).map(|()| who),
            });
        let letter = if parts.method == Method::GET {
            'r'
        } else {
            'w'
        };
        let who = match admitted.and_then(|who| who.check(letter).map(|()| who)) {
            Ok(who) => who,
            Err(e) => return self.dress(&info, refuse(e)),
        };
        if begins {
            let session = serde_json::json!({ "id": tokens.session(now) });
            return self.dress(&info, encoded(boxrig_convox::Reply(session)));
        }
        let Some(meta) = meta else {
            let name = any.map_or("", |(_, name)| name);
            let e = ApiError::not_implemented(name);
            return self.dress(&info, error::<Convox>(&e));
        };
        let request = http::Request::from_parts(parts.clone(), body);
        let (request, files) = match params::bring(meta, request).await {
            Ok(brought) => brought,
            Err(e) => return self.dress(&info, refuse(e)),
        };
        let request = match self.attach(meta, request, files).await {
            Ok(request) => request,
            Err(e) => return self.dress(&info, refuse(e)),
        };
        let scope = Scope {
            state: self.state.clone(),
            who,
        };
        let mut response = self.router.route(scope, info.clone(), request).await;
        // The one action that racks answer so.
        if meta.id == "BuildImportImage" && response.status() == StatusCode::OK {
            *response.status_mut() = StatusCode::ACCEPTED;
            *response.body_mut() = WireBody::empty();
            response.headers_mut().remove(CONTENT_LENGTH);
            response.headers_mut().remove(CONTENT_TYPE);
        }
        // A socket's errors are said on the socket.
        if socket && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status();
            let words = response
                .into_body()
                .collect(64 * 1024)
                .await
                .unwrap_or_default();
            let words = String::from_utf8_lossy(&words);
            let e = params::failed(words.trim_end()).with_status(status);
            return self.dress(&info, sockets::refused(&parts.headers, e));
        }
        self.dress(&info, response)
    }

    /// Puts a file of a multipart upload where the handler looks for it.
    async fn attach(
        &self,
        meta: &Meta,
        request: http::Request<WireBody>,
        files: Vec<params::Part>,
    ) -> Result<http::Request<WireBody>, ApiError> {
        let file = files
            .into_iter()
            .find(|f| f.name == "source" || f.name == "image");
        let (Some(file), "BuildCreate") = (file, meta.id) else {
            return Ok(request);
        };
        let app = meta.path.matches(request.uri().path());
        let app = app.and_then(|v| v.into_iter().next()).unwrap_or_default();
        if file.name == "image" {
            // An exported build: another operation, with the file as its body.
            let (mut parts, _) = request.into_parts();
            parts.uri = format!("/apps/{app}/builds/import")
                .parse()
                .map_err(|_| state::no_app(&app))?;
            let octets = HeaderValue::from_static("application/octet-stream");
            parts.headers.insert(CONTENT_TYPE, octets);
            return Ok(http::Request::from_parts(
                parts,
                WireBody::full(file.content),
            ));
        }
        let url = objects::keep(&self.state, &app, None, WireBody::full(file.content)).await?;
        let (parts, body) = request.into_parts();
        let form = body.collect(1 << 24).await.unwrap_or_default();
        let mut form = String::from_utf8_lossy(&form).into_owned();
        if !form.is_empty() {
            form.push('&');
        }
        form.push_str("url=");
        form.extend(percent_encoding::utf8_percent_encode(
            &url,
            percent_encoding::NON_ALPHANUMERIC,
        ));
        Ok(http::Request::from_parts(parts, WireBody::full(form)))
    }

    /// The operation of a request, or the status of its empty answer.
    fn find(
        &self,
        method: &Method,
        path: &str,
        headers: &http::HeaderMap,
    ) -> Result<&'static Meta, StatusCode> {
        let upgrade = headers.get(http::header::UPGRADE);
        let upgrade = upgrade.is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let exact = |method: &Method| {
            let found = self.router.operation(method, path);
            found.filter(|m| m.method == method)
        };
        match exact(method) {
            // Without an upgrade there is nothing at a socket's path.
            Some(meta) if meta.reply == ReplyShape::Socket && !upgrade => {
                Err(StatusCode::NOT_FOUND)
            }
            Some(meta) => Ok(meta),
            None => {
                let known = [
                    Method::GET,
                    Method::POST,
                    Method::PUT,
                    Method::DELETE,
                    Method::HEAD,
                    Method::OPTIONS,
                ];
                let other = known.iter().filter_map(exact);
                let other = other.filter(|m| m.reply != ReplyShape::Socket).count();
                Err(match other {
                    0 => StatusCode::NOT_FOUND,
                    _ => StatusCode::METHOD_NOT_ALLOWED,
                })
            }
        }
    }

    /// What every answer of a matched route has.
    fn dress(&self, info: &RequestInfo, mut response: Response<WireBody>) -> Response<WireBody> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return response;
        }
        let wants_json = info.headers.get_all(ACCEPT).iter().any(|v| {
            let text = String::from_utf8_lossy(v.as_bytes()).into_owned();
            text.split(',')
                .any(|part| part.split(';').next().unwrap_or("").trim() == "application/json")
        });
        let failed = response.status().is_client_error() || response.status().is_server_error();
        if failed
            && wants_json
            && let Some(bytes) = response.body().to_bytes()
        {
            let words = String::from_utf8_lossy(&bytes);
            let json = serde_json::json!({ "error": words.trim_end_matches('\n') });
            *response.body_mut() = WireBody::full(format!("{json}\n"));
            response.headers_mut().remove(CONTENT_LENGTH);
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
        }
        let id = self.state.core.ids.hex(12);
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert(REQUEST_ID, id);
        }
        let fixed = [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
        ];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// An answer that no handler gives.
fn encoded(reply: impl ReplyCodec) -> Response<WireBody> {
    let failed = |words: String| error::<Convox>(&params::failed(words));
    reply.encode().unwrap_or_else(failed)
}

fn challenged(e: &ApiError, mut response: Response<WireBody>) -> Response<WireBody> {
    if let Some(challenge) = who::challenge(e) {
        let challenge = HeaderValue::from_static(challenge);
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// What racks answer where there is no route: nothing.
fn empty(status: StatusCode) -> Response<WireBody> {
    let mut response = Response::new(WireBody::empty());
    *response.status_mut() = status;
    response.headers_mut().remove(ALLOW);
    response
}

/// Brings a path to the form that the templates have.
///
/// # Errors
///
/// 400 for an object's key with `..` in it.
fn rewrite(uri: &mut Uri, method: &Method) -> Result<(), ApiError> {
    let mut path = uri.path().to_owned();
    // A console's machines: the same apps behind a prefix.
    if let Some(rest) = path.strip_prefix("/machines/")
        && let Some((_, rest)) = rest.split_once('/')
        && rest.starts_with("apps")
    {
        path = format!("/{rest}");
    }
    let mut parts = path.splitn(5, '/').skip(1);
    if let (Some("apps"), Some(app), Some("objects")) = (parts.next(), parts.next(), parts.next()) {
        let key = parts.next().unwrap_or("");
        let decoded = percent_encoding::percent_decode_str(key).decode_utf8_lossy();
        if decoded.split('/').any(|part| part == "..") {
            return Err(ApiError::invalid("invalid object key"));
        }
        if key.is_empty() && *method == Method::POST {
            path = format!("/apps/{app}/objects/%01");
        } else if key.contains("%2F") || key.contains("%2f") {
            // A client that escapes slashes means the same key.
            path = format!(
                "/apps/{app}/objects/{}",
                key.replace("%2F", "/").replace("%2f", "/")
            );
        }
    }
    if path != uri.path() {
        let target = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = target.parse().ok();
        if let Ok(new) = Uri::from_parts(parts) {
            *uri = new;
        }
    }
    Ok(())
}

impl Platform for Rack {
    fn route(
        &self,
        info: RequestInfo,
        request: http::Request<WireBody>,
    ) -> BoxFuture<'_, Response<WireBody>> {
        Box::pin(self.answer(info, request))
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.begin())
    }

    fn reset(&self) -> BoxFuture<'_, Result<(), ApiError>> {
        Box::pin(async {
            let state = &self.state;
            worker::halt(state);
            state
                .core
                .services
                .withdraw_all(|name| routes::is_ours(state, name));
            for app in state.apps.list() {
                for build in state.builds_of(&app.name) {
                    for image in build.images.values() {
                        if builds::is_own(&app.name, image) {
                            let _ = state.core.engine.delete_image(image).await;
                        }
                    }
                }
            }
            state.logs.forget_all();
            for name in ["objects", "builds"] {
                let _ = std::fs::remove_dir_all(state.folder.join(name));
                crate::files::private_dir(&state.folder.join(name))
                    .map_err(|e| params::failed(format!("{name}: {e}")))?;
            }
            Ok(())
        })
    }

    fn reload(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            worker::halt(&self.state);
            if let Err(e) = self.recover().await {
                tracing::error!(error = %e, "the loaded rack could not be brought together with the engine");
            }
            self.begin().await;
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { worker::halt(&self.state) })
    }

    fn holdings(&self) -> usize {
        self.state.apps.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boxrig_wire::{Endpoint, Protocol};

    #[test]
    fn everything_described_is_mounted() {
        let all: Vec<&'static Meta> = described().collect();
        router().check(all.leak(), NOT_IMPLEMENTED).unwrap();
        assert_eq!(Convox::PLATFORM, "convox");
        assert_eq!(ops::apps::AppList::META.id, "AppList");
    }
}
