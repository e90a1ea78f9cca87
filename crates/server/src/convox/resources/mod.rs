//! Resources: postgres, redis and memcached, the real programs, each in an instance of its own.
//!
//! The program is the host's, found by looking for it: the instance sees `/usr`. Its data are the instance's files: they
//! stay when the program, the server or the machine ends, and go with the app. A service reaches a resource on a port of
//! its own loopback, which the server carries over.

mod programs;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use boxrig_engine::{InstanceSpec, InstanceState, MainProcess, StopMode};
use boxrig_wire::{ApiError, Kind, Secret};
use serde::{Deserialize, Serialize};

pub(super) use programs::Program;
pub(super) use views::*;

use super::logs::Source;
use super::manifest::{Manifest, Resource, Service};
use super::records::Process;
use super::releases::parse_env;
use super::state::{LABEL, LABEL_VALUE, Shared, State, instance, key};
use crate::core::engine_error;

/// Whose resources of the whole rack are: no app can have the name.
pub(super) const RACK_OWN: &str = "_rack";
/// How long a resource may take until it takes connections.
const PATIENCE: Duration = Duration::from_secs(60);

/// A resource.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// The app, or [`RACK_OWN`].
    pub(super) app: String,
    pub(super) name: String,
    pub(super) r#type: String,
    pub(super) instance: String,
    password: String,
    /// The port it is reached on from a service's process.
    pub(super) port: u16,
    pub(super) created_ms: u64,
    /// It has taken connections once.
    pub(super) ready: bool,
    /// Why it cannot run.
    pub(super) reason: String,
    /// Apps that a resource of the rack is for.
    pub(super) links: BTreeSet<String>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("app", &self.app)
            .field("name", &self.name)
            .field("type", &self.r#type)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl Record {
    fn program(&self) -> Option<Program> {
        Program::of_type(&self.r#type)
    }

    /// Its address, for whom it is carried over to `port` of the loopback.
    pub(super) fn url(&self, port: u16) -> Secret {
        let url = self.program().map(|p| p.url(&self.password, port));
        Secret::new(url.unwrap_or_default())
    }
}

/// The variables that lead a service to its resources.
pub(super) fn variables(
    state: &State,
    app: &str,
    service: Option<&Service>,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (record, variable) in used(state, app, service) {
        let Some(program) = record.program() else {
            continue;
        };
        match variable {
            Some(name) => {
                all.insert(name, program.url(&record.password, record.port));
            }
            None => {
                for (what, value) in program.parts(&record.password, record.port) {
                    all.insert(Resource::variable(&record.name, what), value);
                }
            }
        }
    }
    all
}

/// The resources that a service's processes reach, and the variable that is wanted for each.
fn used(state: &State, app: &str, service: Option<&Service>) -> Vec<(Arc<Record>, Option<String>)> {
    let mut all = Vec::new();
    for (name, variable) in service.iter().flat_map(|s| &s.resources) {
        if let Some(record) = state.resources.get(&key(app, name)) {
            all.push((record, variable.clone()));
        }
    }
    for (_, record) in super::state::of_app(&state.resources, RACK_OWN) {
        if record.links.contains(app) {
            all.push((record, None));
        }
    }
    all
}

/// Whether a service's processes reach any resource.
pub(super) fn has_any(state: &State, app: &str, service: Option<&Service>) -> bool {
    !used(state, app, service).is_empty()
}

/// Whether the app's environment leads elsewhere.
fn is_outside(env: &BTreeMap<String, String>, name: &str) -> bool {
    env.get(&Resource::variable(name, "URL"))
        .is_some_and(|v| !v.is_empty())
}

/// Makes sure that the resources of a manifest are there; whether all take connections.
///
/// # Errors
///
/// Why one of them cannot run, and what to do about it.
pub(super) async fn ensure(
    state: &Shared,
    app: &str,
    manifest: &Manifest,
    env: &str,
) -> Result<bool, ApiError> {
    let env = parse_env(env);
    let mut all = true;
    for resource in &manifest.resources {
        if is_outside(&env, &resource.name) {
            continue;
        }
        let record = match state.resources.get(&key(app, &resource.name)) {
            Some(record) => record,
            None => add(state, app, &resource.name, &resource.r#type).await?,
        };
        if !record.reason.is_empty() {
            return Err(ApiError::new(
                Kind::Failed,
                format!("resource {}: {}", record.name, record.reason),
            ));
        }
        all &= record.ready;
        tend(state, &record);
    }
    Ok(all)
}

/// Puts a resource on record.
///
/// # Errors
///
/// When its program is not here, with the way to get it.
pub(super) async fn add(
    state: &Shared,
    app: &str,
    name: &str,
    r#type: &str,
) -> Result<Arc<Record>, ApiError> {
    let program = Program::of_type(r#type).ok_or_else(|| {
        ApiError::invalid(format!(
            "resource type {type:?} is not offered by this rack; it has {}",
            programs::TYPES.join(", ")
        ))
    })?;
    program
        .find()
        .map_err(|why| ApiError::new(Kind::Failed, why))?;
    let id = format!(
        "resource-{}-{}",
        name.chars().take(40).collect::<String>(),
        state.core.ids.hex(10)
    );
    let taken: BTreeSet<u16> = state.resources.list().iter().map(|r| r.port).collect();
    // Several of a kind in one process need a port each.
    let first = program.port();
    let port = (first..first + 1000)
        .find(|p| !taken.contains(p))
        .unwrap_or(first);
    let record = Record {
        app: app.to_owned(),
        name: name.to_owned(),
        r#type: r#type.to_owned(),
        instance: id,
        password: crate::ids::secret()[..32].to_owned(),
        port,
        created_ms: state.core.now_ms(),
        ..Record::default()
    };
    let kept = record.clone();
    state
        .core
        .store
        .write(|tx| {
            tx.put(&state.resources, &key(app, name), kept)?;
            Ok::<_, ApiError>(())
        })
        .await?;
    Ok(Arc::new(record))
}

/// Sees to it that a resource runs, beside everything else.
pub(super) fn tend(state: &Shared, record: &Arc<Record>) {
    let Some(busy) = state.busy(&record.instance) else {
        return;
    };
    let (state, record) = (state.clone(), record.clone());
    let work = state.clone();
    work.background(async move {
        let source = Arc::new(Source::new("resource", &record.name, &record.instance));
        let done = run(&state, &record).await;
        let ready = done.is_ok();
        if let Err(e) = &done {
            state.logs.say(&record.app, &source, e.message.clone());
        }
        let reason = done.err().map(|e| e.message).unwrap_or_default();
        let written = state.core.store.write(|tx| {
            let key = key(&record.app, &record.name);
            let Some(now) = tx.get(&state.resources, &key) else {
                return Ok(false);
            };
            let next = Record {
                ready,
                reason,
                ..Record::clone(&now)
            };
            let changed = next != *now;
            if changed {
                tx.put(&state.resources, &key, next)?;
            }
            Ok::<_, ApiError>(changed)
        });
        match written.await {
            // The worker tends resources whenever it is woken: only news may wake it, or it would never rest.
            Ok(true) => state.wake(&record.app),
            Ok(false) => {}
            Err(e) => {
                tracing::warn!(resource = record.name, error = %e, "its state was not recorded");
            }
        }
        drop(busy);
    });
}

/// Brings a resource's instance up, if it is not, and waits until it takes connections.
async fn run(state: &Shared, record: &Record) -> Result<(), ApiError> {
    let Some(program) = record.program() else {
        return Err(ApiError::invalid("its type is not known"));
    };
    let id = instance(&record.instance)?;
    let engine = &state.core.engine;
    match engine.get(&id).await {
        Ok(info) if info.state == InstanceState::Running && info.main_exit.is_none() => {}
        Ok(_) => {
            // Its files are kept: the program goes on with its data.
            let _ = engine.stop(&id, StopMode::default()).await;
            engine.start(&id).await.map_err(|e| engine_error(&e))?;
        }
        Err(e) if e.kind() == boxrig_engine::Kind::NotFound => {
            let folder = program
                .find()
                .map_err(|why| ApiError::new(Kind::Failed, why))?;
            let mut spec = InstanceSpec::new(id.clone());
            spec.labels = BTreeMap::from([
                (LABEL.to_owned(), LABEL_VALUE.to_owned()),
                ("name".to_owned(), record.instance.clone()),
                ("app".to_owned(), record.app.clone()),
                ("resource".to_owned(), record.name.clone()),
            ]);
            spec.network = boxrig_engine::NetworkPolicy::None;
            spec.main = Some(MainProcess {
                argv: vec![
                    b"/bin/sh".to_vec(),
                    b"-c".to_vec(),
                    program.script(&folder).into_bytes(),
                ],
                env: BTreeMap::from([("SECRET".to_owned(), record.password.clone())]),
                ..MainProcess::default()
            });
            engine.create(spec).await.map_err(|e| engine_error(&e))?;
        }
        Err(e) => return Err(engine_error(&e)),
    }
    let begin = tokio::time::Instant::now();
    loop {
        if engine.connect(&id, program.port()).await.is_ok() {
            return Ok(());
        }
        let info = engine.get(&id).await.map_err(|e| engine_error(&e))?;
        if let Some(status) = info.main_exit {
            let log = last_words(state, &id).await;
            return Err(ApiError::new(
                Kind::Failed,
                format!(
                    "{} ended with code {}: {log}",
                    record.r#type,
                    status.shell_code()
                ),
            ));
        }
        if begin.elapsed() > PATIENCE {
            return Err(ApiError::new(
                Kind::Failed,
                format!("{} takes no connections", record.r#type),
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn last_words(state: &Shared, id: &boxrig_engine::InstanceId) -> String {
    use tokio::io::AsyncReadExt;
    let options = boxrig_engine::LogOptions {
        tail: Some(5),
        ..Default::default()
    };
    let mut text = Vec::new();
    if let Ok(log) = state.core.engine.logs(id, options).await {
        let _ = log.content.take(4096).read_to_end(&mut text).await;
    }
    String::from_utf8_lossy(&text).trim().replace('\n', "; ")
}

/// Makes a service's resources reachable from one of its processes.
pub(super) async fn connect(state: &Shared, process: &Process, service: Option<&Service>) {
    for (record, _) in used(state, &process.app, service) {
        let Some(program) = record.program() else {
            continue;
        };
        let (Ok(inside), Ok(to)) = (instance(&process.id), instance(&record.instance)) else {
            continue;
        };
        let mut listener = match state.core.engine.listen(&inside, record.port).await {
            Ok(listener) => listener,
            Err(e) => {
                let words = format!(
                    "resource {} is not reachable from process {}: {e}",
                    record.name, process.id
                );
                state.say(&process.app, "resource", &words);
                continue;
            }
        };
        let state = state.clone();
        let work = state.clone();
        work.background(async move {
            // Ends with the process' instance.
            while let Ok(mut near) = listener.accept().await {
                let (state, to) = (state.clone(), to.clone());
                let port = program.port();
                tokio::spawn(async move {
                    if let Ok(mut far) = state.core.engine.connect(&to, port).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
    }
}

/// Takes over that the main process of an instance has ended: a resource's is started again.
pub(super) async fn ended(state: &Shared, id: &str) {
    let found = state
        .resources
        .list()
        .into_iter()
        .find(|r| r.instance == id);
    if let Some(record) = found.filter(|r| r.ready) {
        // Not at once: what cannot run would run in a circle.
        tokio::time::sleep(Duration::from_secs(1)).await;
        tend(state, &record);
    }
}

/// Forgets why resources of an app could not run: a new promotion tries them again.
pub(super) async fn try_again(state: &Shared, app: &str) -> Result<(), ApiError> {
    let failed: Vec<_> = super::state::of_app(&state.resources, app)
        .into_iter()
        .filter(|(_, r)| !r.reason.is_empty())
        .collect();
    for (name, record) in failed {
        let mut record = Record::clone(&record);
        record.reason.clear();
        state
            .core
            .store
            .write(|tx| {
                tx.put(&state.resources, &key(app, &name), record)?;
                Ok::<_, ApiError>(())
            })
            .await?;
    }
    Ok(())
}

/// Removes the resources of an app, with their data.
pub(super) async fn remove_all(state: &Shared, app: &str) -> Result<(), ApiError> {
    for (_, record) in super::state::of_app(&state.resources, app) {
        remove(state, &record).await?;
    }
    Ok(())
}

/// Removes a resource with its data.
pub(super) async fn remove(state: &Shared, record: &Record) -> Result<(), ApiError> {
    match state.core.engine.delete(&instance(&record.instance)?).await {
        Ok(()) => {}
        Err(e) if e.kind() == boxrig_engine::Kind::NotFound => {}
        Err(e) => return Err(engine_error(&e)),
    }
    state
        .core
        .store
        .write(|tx| {
            tx.delete(&state.resources, &key(&record.app, &record.name));
            Ok::<_, ApiError>(())
        })
        .await
}

/// After a start: what is on record runs again, and what is not goes.
pub(super) async fn recover(state: &Shared) -> Result<(), ApiError> {
    let known: BTreeSet<String> = state
        .resources
        .list()
        .iter()
        .map(|r| r.instance.clone())
        .collect();
    let all = state
        .core
        .engine
        .list()
        .await
        .map_err(|e| engine_error(&e))?;
    for info in all {
        let labels = &info.spec.labels;
        let ours =
            labels.get(LABEL).is_some_and(|v| v == LABEL_VALUE) && labels.contains_key("resource");
        if ours && !known.contains(info.id().as_str()) {
            let _ = state.core.engine.delete(info.id()).await;
        }
    }
    Ok(())
}
