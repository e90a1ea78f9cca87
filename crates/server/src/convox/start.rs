//! Processes begun and ended: from a record to an instance of the engine, and back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use boxrig_engine::{InstanceSpec, Limits, MainProcess, Source as From, StopMode, WriteOptions};
use boxrig_wire::ApiError;

use super::manifest::{self, Manifest, Service};
use super::records::{App, Phase, Process, Purpose, Release};
use super::releases::parse_env;
use super::state::{LABEL, LABEL_VALUE, RACK, Shared, State, instance};
use super::{images, params, shell};
use crate::core::engine_error;

/// Is there in a process' instance when its resources are within reach.
const READY: &str = "/run/boxrig-resources";
/// The first wait before a process that ended is started again; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// A process that ran this long is taken for sound: its next end is the first again.
const SOUND: Duration = Duration::from_secs(600);

/// How long a process that has ended this often waits for its next start.
fn wait(ended: u32) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << ended.saturating_sub(1).min(16));
    doubled.min(LONGEST_WAIT)
}

/// What is asked of a run of its own.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) service: String,
    pub(super) release: Option<String>,
    pub(super) command: Option<String>,
    pub(super) image: Option<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) cpu: Option<u32>,
    pub(super) memory: Option<u32>,
    pub(super) purpose: Purpose,
    /// The beginning of its id.
    pub(super) name: String,
}

/// An id in the form that racks have: the name, ten hex digits, five letters.
fn new_id(state: &State, name: &str) -> String {
    let short: String = name.chars().take(40).collect();
    format!(
        "{short}-{}-{}",
        state.core.ids.hex(10),
        state.core.ids.hex(5)
    )
}

/// The image of a service in a release.
pub(super) fn image(
    state: &State,
    release: &Release,
    service: &Service,
) -> Result<String, ApiError> {
    let build = state
        .builds
        .get(&super::state::key(&release.app, &release.build));
    let built = build.and_then(|b| b.images.get(&service.name).cloned());
    built.or_else(|| service.image.clone()).ok_or_else(|| {
        ApiError::not_found(format!(
            "service {} has no image in release {}",
            service.name, release.id
        ))
    })
}

/// A process of a service, on record only.
pub(super) fn of_service(
    state: &State,
    app: &App,
    release: &Release,
    service: &Service,
) -> Result<Process, ApiError> {
    let scale = app.scale.get(&service.name).copied().unwrap_or_default();
    Ok(Process {
        id: new_id(state, &service.name),
        app: app.name.clone(),
        service: service.name.clone(),
        release: release.id.clone(),
        epoch: app.restarts.get(&service.name).copied().unwrap_or(0),
        command: words(service.command.as_deref())?,
        image: image(state, release, service)?,
        cpu: scale.cpu.or(service.cpu).unwrap_or(0),
        memory: scale.memory.or(service.memory).unwrap_or(0),
        port: service.port.as_ref().map(|p| p.port),
        created_ms: state.core.now_ms(),
        ..Process::default()
    })
}

fn words(command: Option<&str>) -> Result<Vec<String>, ApiError> {
    shell::split(command.unwrap_or("")).map_err(|e| ApiError::invalid(format!("command: {e}")))
}

/// Starts a run of its own and answers when it runs.
pub(super) async fn one_off(state: &Shared, app: &str, run: Run) -> Result<Arc<Process>, ApiError> {
    let now = state.app(app)?;
    let release = match run.release {
        Some(id) => state.release(app, &id)?,
        None if now.release.is_empty() => {
            return Err(ApiError::conflict(format!(
                "no release has been promoted for app: {app}"
            )));
        }
        None => state.release(app, &now.release)?,
    };
    let manifest = manifest::of(&release)?;
    let service = manifest
        .named(&run.service)
        .ok_or_else(|| ApiError::not_found(format!("service not found: {}", run.service)))?;
    let image = match run.image {
        Some(image) => image,
        None => image_of(state, &release, service)?,
    };
    let name = if run.name.is_empty() {
        &run.service
    } else {
        &run.name
    };
    let process = Process {
        id: new_id(state, name),
        app: app.to_owned(),
        service: run.service.clone(),
        release: release.id.clone(),
        purpose: run.purpose,
        command: words(run.command.as_deref().or(service.command.as_deref()))?,
        image,
        environment: run.environment,
        cpu: run.cpu.unwrap_or(0),
        memory: run.memory.unwrap_or(0),
        created_ms: state.core.now_ms(),
        ..Process::default()
    };
    let id = process.id.clone();
    // The worker leaves it alone: it is busy from before it is on record.
    let Some(busy) = state.busy(&id) else {
        return Err(params::failed("the id of a process was given twice"));
    };
    state
        .core
        .store
        .write(|tx| {
            if tx.get(&state.apps, app).is_none_or(|a| a.deleting) {
                return Err(super::state::no_app(app));
            }
            tx.put(&state.processes, &id, process)?;
            Ok::<_, ApiError>(())
        })
        .await?;
    let launched = super::state::detached({
        let (state, id) = (state.clone(), id.clone());
        async move {
            let _busy = busy;
            launch(&state, &id).await
        }
    })
    .await;
    if let Err(e) = launched {
        // Nothing of it has run: there is nothing to be seen of it either.
        forget(state, &id).await?;
        return Err(e);
    }
    state.process(app, &id)
}

fn image_of(state: &State, release: &Release, service: &Service) -> Result<String, ApiError> {
    image(state, release, service)
}

/// The variables of a process, besides its image's.
fn environment(
    state: &State,
    process: &Process,
    release: &Release,
    manifest: &Manifest,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        env.insert(name.to_owned(), value.to_owned());
    };
    set("APP", &process.app);
    set("RACK", RACK);
    set("RELEASE", &release.id);
    set("SERVICE", &process.service);
    if let Some(build) = state
        .builds
        .get(&super::state::key(&process.app, &release.build))
    {
        set("BUILD", &build.id);
        set("BUILD_DESCRIPTION", &build.description);
        set("BUILD_GIT_SHA", &build.git_sha);
    }
    let service = manifest.named(&process.service);
    if let Some(port) = service.and_then(|s| s.port.as_ref()) {
        set("PORT", &port.port.to_string());
    }
    for text in service.iter().flat_map(|s| &s.environment) {
        if let Some((name, value)) = text.split_once('=') {
            set(name, value);
        }
    }
    env.extend(super::resources::variables(state, &process.app, service));
    // What is set by hand wins, over resources too: that is how an outside one is used.
    env.extend(parse_env(&release.env));
    env.extend(process.environment.clone());
    env
}

/// Puts a process that is on record into the engine. When it answers, the process runs and its log is read.
pub(super) async fn launch(state: &Shared, id: &str) -> Result<(), ApiError> {
    let Some(process) = state.processes.get(id) else {
        return Ok(());
    };
    let release = state.release(&process.app, &process.release)?;
    let manifest = manifest::of(&release)?;
    let config = images::config(state, &process.image).await?;
    let command = (!process.command.is_empty()).then_some(&process.command[..]);
    let argv = config.argv(command).ok_or_else(|| {
        ApiError::invalid(format!(
            "nothing to run: neither service {} nor image {} says a command",
            process.service, process.image
        ))
    })?;
    let mut spec = InstanceSpec::new(instance(id)?);
    spec.labels = BTreeMap::from([
        (LABEL.to_owned(), LABEL_VALUE.to_owned()),
        ("name".to_owned(), id.to_owned()),
        ("app".to_owned(), process.app.clone()),
        ("service".to_owned(), process.service.clone()),
        ("release".to_owned(), process.release.clone()),
    ]);
    spec.source = From::Image(process.image.clone());
    spec.env = config.env.iter().cloned().collect();
    spec.env
        .extend(environment(state, &process, &release, &manifest));
    spec.limits = limits(process.cpu, process.memory);
    let main = MainProcess {
        argv: argv.into_iter().map(String::into_bytes).collect(),
        env: spec.env.clone(),
        cwd: config.workdir.map(String::into_bytes),
        uid: config.uid,
        gid: config.gid,
    };
    let key = instance(id)?;
    // The instance of the last run goes: every run begins with the image's files.
    match state.core.engine.delete(&key).await {
        Ok(()) => {}
        Err(e) if e.kind() == boxrig_engine::Kind::NotFound => {}
        Err(e) => return Err(engine_error(&e)),
    }
    let service = manifest.named(&process.service);
    create(
        state,
        spec,
        main,
        super::resources::has_any(state, &process.app, service),
    )
    .await?;
    super::resources::connect(state, &process, service).await;
    let ready = WriteOptions {
        parents: true,
        ..WriteOptions::default()
    };
    let mark =
        state
            .core
            .engine
            .write_file(&key, READY.as_bytes(), ready, Box::new(tokio::io::empty()));
    if super::resources::has_any(state, &process.app, service)
        && let Err(e) = mark.await
    {
        tracing::warn!(process = id, error = %e, "it starts without waiting for its resources");
    }
    let now = state.core.now_ms();
    let runs = state
        .change_process(id, |p| {
            if p.phase != Phase::Stopping {
                p.phase = Phase::Running;
            }
            p.started_ms = now;
            p.exit = None;
            p.ready = false;
            p.unhealthy = false;
        })
        .await?;
    if runs.is_none() {
        let _ = state.core.engine.delete(&key).await;
        return Ok(());
    }
    attend(state, id);
    // It may have ended before anybody listened.
    if let Ok(info) = state.core.engine.get(&key).await
        && let Some(status) = info.main_exit
    {
        ended(state, id, status.shell_code()).await?;
    }
    Ok(())
}

/// Creates the instance of a process. One that has resources begins when they are within its reach.
async fn create(
    state: &Shared,
    mut spec: InstanceSpec,
    main: MainProcess,
    waits: bool,
) -> Result<(), ApiError> {
    let engine = &state.core.engine;
    if waits {
        let mut waiting = main.clone();
        let script = format!(
            "n=0; while [ ! -e {READY} ] && [ $n -lt 250 ]; do sleep 0.02; n=$((n+1)); done; exec \"$@\""
        );
        let before = ["/bin/sh", "-c", &script, "sh"].map(|w| w.as_bytes().to_vec());
        waiting.argv.splice(0..0, before);
        spec.main = Some(waiting);
        match engine.create(spec.clone()).await {
            Ok(_) => return Ok(()),
            // An image without a shell cannot wait.
            Err(e) if e.kind() == boxrig_engine::Kind::CommandNotFound => {}
            Err(e) => return Err(engine_error(&e)),
        }
    }
    spec.main = Some(main);
    engine.create(spec).await.map_err(|e| engine_error(&e))?;
    Ok(())
}

fn limits(cpu: u32, memory: u32) -> Limits {
    Limits {
        memory_bytes: (memory > 0).then_some(u64::from(memory) << 20),
        cpus: (cpu > 0).then_some(f64::from(cpu) / 1000.0),
        ..Limits::default()
    }
}

/// Changes what a running process may use, at once.
pub(super) async fn limit(state: &State, process: &Process) -> Result<(), ApiError> {
    let limits = limits(process.cpu, process.memory);
    let changed = state
        .core
        .engine
        .update_limits(&instance(&process.id)?, limits)
        .await;
    match changed {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == boxrig_engine::Kind::NotFound => Ok(()),
        Err(e) => Err(engine_error(&e)),
    }
}

/// Reads the log of a running process and watches its health, until it ends.
pub(super) fn attend(state: &Shared, id: &str) {
    let (log, watch) = (state.clone(), state.clone());
    let (a, b) = (id.to_owned(), id.to_owned());
    state.background(async move { super::output::pump(log, &a).await });
    state.background(async move { super::health::watch(watch, &b).await });
}

/// Makes the resources of a running process reachable again, after a restart of the server.
pub(super) async fn reconnect(state: &Shared, process: &Process) {
    let release = state
        .releases
        .get(&super::state::key(&process.app, &process.release));
    if let Some(manifest) = release.and_then(|r| manifest::of(&r).ok()) {
        super::resources::connect(state, process, manifest.named(&process.service)).await;
    }
}

/// Takes over that the main process of an instance has ended.
pub(super) async fn ended(state: &Shared, id: &str, code: i32) -> Result<(), ApiError> {
    let now = state.core.now_ms();
    let taken = state
        .change_process(id, |p| {
            if p.phase != Phase::Running || p.exit.is_some() {
                return None;
            }
            p.exit = Some(code);
            p.ended_ms = now;
            p.ready = false;
            p.unhealthy = false;
            if p.purpose == Purpose::Service {
                let ran = Duration::from_millis(now.saturating_sub(p.started_ms));
                p.restarts = if ran >= SOUND { 1 } else { p.restarts + 1 };
                let wait = wait(p.restarts);
                p.next_start_ms = now + u64::try_from(wait.as_millis()).unwrap_or(0);
                p.phase = Phase::Crashed;
                p.reason = format!(
                    "it ended with code {code}; started again in {} s",
                    wait.as_secs()
                );
            } else {
                p.phase = if code == 0 {
                    Phase::Complete
                } else {
                    Phase::Failed
                };
                p.reason = format!("it ended with code {code}");
            }
            Some((
                p.app.clone(),
                p.service.clone(),
                p.reason.clone(),
                p.purpose,
            ))
        })
        .await?
        .flatten();
    if let Some((app, service, reason, purpose)) = taken {
        if purpose == Purpose::Service {
            state.say(&app, &service, &format!("process {id}: {reason}"));
        }
        super::routes::publish(state, &app);
    }
    Ok(())
}

/// Ends a process for good: no new requests, the word to end, its time, the end; then its record goes.
pub(super) async fn end(state: &Shared, process: &Process) -> Result<(), ApiError> {
    super::routes::publish(state, &process.app);
    super::routes::drained(state, process).await;
    let key = instance(&process.id)?;
    let grace = state
        .releases
        .get(&super::state::key(&process.app, &process.release));
    let grace = grace
        .and_then(|r| manifest::of(&r).ok())
        .and_then(|m| m.named(&process.service).map(|s| s.grace));
    let mode = StopMode {
        grace: Some(Duration::from_secs(grace.unwrap_or(30).into())),
    };
    // Whatever stopping says: deleting decides.
    let _ = state.core.engine.stop(&key, mode).await;
    // The last words are on their way.
    tokio::time::sleep(Duration::from_millis(50)).await;
    match state.core.engine.delete(&key).await {
        Ok(()) => {}
        Err(e) if e.kind() == boxrig_engine::Kind::NotFound => {}
        Err(e) => return Err(engine_error(&e)),
    }
    forget(state, &process.id).await?;
    state.wake(&process.app);
    Ok(())
}

/// Removes a process' record; its log stays for a while.
pub(super) async fn forget(state: &Shared, id: &str) -> Result<(), ApiError> {
    let gone = state
        .core
        .store
        .write(|tx| Ok::<_, ApiError>(tx.delete(&state.processes, id)))
        .await?;
    state.usage.forget(id);
    state.checks.forget(id);
    if let Some(process) = gone {
        state
            .logs
            .ended(&process.app, &super::output::source(&process));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_have_an_end() {
        let seconds: Vec<u64> = [1, 2, 3, 4, 9, 10, 40].map(|n| wait(n).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 8, 256, 300, 300]);
    }
}
