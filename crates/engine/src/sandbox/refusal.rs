//! Whether instances can run here: a trial instance, and what to do when it fails.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::launch::{self, Launch, LaunchError};
use super::{Inner, Sandbox, blocking, record, snapshots, tree};
use crate::{
    Error, ExecSpec, ExitStatus, Kind, Options, ProbeReport, ProbeStep, Remedy, Result, StepFailure,
};

/// What the trial command must answer with.
const TRIAL_CODE: i32 = 7;

/// Starts a trial instance step by step; see [`crate::probe`].
pub(crate) async fn probe(data_dir: &Path) -> ProbeReport {
    let options = Options {
        probe: false,
        ..Options::default()
    };
    let mut steps = Vec::new();
    let engine = match Sandbox::open(data_dir, options).await {
        Ok(engine) => engine,
        Err(error) => {
            steps.push(failed_step("open the data folder", &error));
            return ProbeReport {
                steps,
                remedies: Vec::new(),
            };
        }
    };
    steps.push(done_step("open the data folder"));
    match trial(&engine.0).await {
        Ok(names) => {
            steps.extend(names.iter().map(|name| done_step(name)));
            steps.push(limits_step(&engine.0));
            ProbeReport {
                steps,
                remedies: Vec::new(),
            }
        }
        Err(failed) => {
            steps.extend(failed.done.iter().map(|name| done_step(name)));
            let remedies = remedies(&failed);
            steps.push(ProbeStep {
                name: failed.step,
                failure: Some(StepFailure {
                    errno: failed.error.raw_os_error().unwrap_or(0),
                    message: failed.error.to_string(),
                }),
                note: None,
            });
            ProbeReport { steps, remedies }
        }
    }
}

/// Starts a trial instance and refuses in words if that fails.
pub(super) async fn try_once(inner: &Arc<Inner>) -> Result<()> {
    let Err(failed) = trial(inner).await else {
        return Ok(());
    };
    let remedies = remedies(&failed);
    let report = ProbeReport {
        steps: vec![ProbeStep {
            name: failed.step.clone(),
            failure: Some(StepFailure {
                errno: failed.error.raw_os_error().unwrap_or(0),
                message: failed.error.to_string(),
            }),
            note: None,
        }],
        remedies,
    };
    Err(Error::new(Kind::NotPermittedHere, report.to_string()))
}

/// The refusal of a root whose ids are too few for ranges.
pub(super) fn no_ranges() -> Error {
    let failed = LaunchError {
        step: "map a range of user ids".to_owned(),
        error: std::io::Error::from_raw_os_error(libc::EINVAL),
        place: 0,
        done: Vec::new(),
    };
    let report = ProbeReport {
        steps: vec![ProbeStep {
            name: failed.step.clone(),
            failure: Some(StepFailure {
                errno: libc::EINVAL,
                message: "this root has too few user ids to give each instance its own (a container with a user namespace)".to_owned(),
            }),
            note: None,
        }],
        remedies: vec![
            Remedy {
                text: "run it as an ordinary user of this container".to_owned(),
                command: None,
            },
            without_isolation(),
        ],
    };
    Error::new(Kind::NotPermittedHere, report.to_string())
}

fn done_step(name: &str) -> ProbeStep {
    ProbeStep {
        name: name.to_owned(),
        failure: None,
        note: None,
    }
}

fn failed_step(name: &str, error: &Error) -> ProbeStep {
    ProbeStep {
        name: name.to_owned(),
        failure: Some(StepFailure {
            errno: 0,
            message: error.to_string(),
        }),
        note: None,
    }
}

fn limits_step(inner: &Inner) -> ProbeStep {
    let enforced = inner.cgroups.enforced();
    let missing: Vec<&str> = [
        ("memory", enforced.memory),
        ("cpus", enforced.cpus),
        ("pids", enforced.pids),
    ]
    .into_iter()
    .filter_map(|(name, enforced)| (!enforced).then_some(name))
    .collect();
    let note = (!missing.is_empty()).then(|| {
        format!(
            "limits of {} are not enforced: this user may not use those control groups",
            missing.join(", ")
        )
    });
    ProbeStep {
        name: "enforce limits".to_owned(),
        failure: None,
        note,
    }
}

/// Starts an instance of the built-in image outside the inventory, runs a command in it, and removes it. What was
/// done, step by step.
async fn trial(inner: &Arc<Inner>) -> std::result::Result<Vec<String>, LaunchError> {
    let at = |step: &str, error: Error| LaunchError {
        step: step.to_owned(),
        error: std::io::Error::other(error.to_string()),
        place: 0,
        done: Vec::new(),
    };
    let dir = inner
        .dirs
        .trash()
        .join(format!("trial-{}", record::random_name()));
    let range = inner
        .ids
        .take()
        .map_err(|e| at("map a range of user ids", e))?;
    let result = run_trial(inner, &dir, range).await;
    if let Some(first) = range {
        inner.ids.release(first);
    }
    let removed =
        blocking(move || tree::remove(&dir).map_err(|e| Error::io("remove the trial instance", e)))
            .await;
    match (result, removed) {
        (Ok(_), Err(error)) => Err(at("remove the trial instance", error)),
        (result, _) => result,
    }
}

async fn run_trial(
    inner: &Arc<Inner>,
    dir: &Path,
    range: Option<u32>,
) -> std::result::Result<Vec<String>, LaunchError> {
    let (starter, folder) = (Arc::clone(inner), dir.to_owned());
    let started = tokio::task::spawn_blocking(move || {
        let rw = folder.join("rw-0");
        let made = fs::create_dir(&folder)
            .and_then(|()| fs::create_dir(folder.join("mnt")))
            .and_then(|()| snapshots::make_rw(&rw));
        made.map_err(|error| LaunchError {
            step: "make the instance's folder".to_owned(),
            error,
            place: 0,
            done: Vec::new(),
        })?;
        launch::launch(&Launch {
            dir: &folder,
            rw: &rw,
            layers: &[starter.dirs.layer(&starter.base)],
            host: &starter.host,
            hostname: "trial",
            range,
            group: None,
            egress: true,
            log: None,
            main: None,
        })
    });
    let lost = |error: String, step: &str| LaunchError {
        step: step.to_owned(),
        error: std::io::Error::other(error),
        place: 0,
        done: Vec::new(),
    };
    let launched = started
        .await
        .map_err(|e| lost(e.to_string(), "start the trial instance"))??;
    let answer = run_command(dir).await;
    let pidfd = launched.pidfd;
    let ended = tokio::task::spawn_blocking(move || launch::end_process(&pidfd)).await;
    ended.map_err(|e| lost(e.to_string(), "end the trial instance"))?;
    match answer {
        Ok(ExitStatus::Code(TRIAL_CODE)) => {}
        Ok(other) => return Err(lost(format!("it ended with {other:?}"), "run a command")),
        Err(error) => return Err(lost(error.to_string(), "run a command")),
    }
    let mut names: Vec<String> = launched.steps;
    names.push("run a command".to_owned());
    Ok(names)
}

async fn run_command(dir: &Path) -> Result<ExitStatus> {
    let spec = ExecSpec::new([
        "/bin/sh".to_owned(),
        "-c".to_owned(),
        format!("exit {TRIAL_CODE}"),
    ]);
    let body = super::exec::exec_body(&spec, &std::collections::BTreeMap::new())?;
    let (channel, pid, fds) = super::guest::Guest::new(dir).exec(&body, "/bin/sh").await?;
    let exec = super::exec::assemble(channel, pid, fds, &spec, None)?;
    exec.wait().await
}

/// What could be done about a failure, most likely first.
fn remedies(failed: &LaunchError) -> Vec<Remedy> {
    let mut remedies = Vec::new();
    let root = rustix::process::geteuid().is_root();
    let setting = |name: &str| {
        fs::read_to_string(format!("/proc/sys/{name}"))
            .ok()
            .map(|text| text.trim().to_owned())
    };
    if setting("user/max_user_namespaces").as_deref() == Some("0") {
        remedies.push(Remedy {
            text:
                "user namespaces are switched off on this machine (user.max_user_namespaces is 0)"
                    .to_owned(),
            command: Some("sudo sysctl -w user.max_user_namespaces=15000".to_owned()),
        });
    }
    if !root && setting("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        remedies.push(Remedy {
            text: "ordinary users may not make user namespaces here".to_owned(),
            command: Some("sudo sysctl -w kernel.unprivileged_userns_clone=1".to_owned()),
        });
    }
    if !root && setting("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        remedies.push(Remedy {
            text: "AppArmor limits user namespaces of ordinary users (Ubuntu); this writes a profile for this one program"
                .to_owned(),
            command: Some("sudo boxrig doctor --fix".to_owned()),
        });
    }
    if in_container() {
        remedies.push(Remedy {
            text: "this is a container: start it with namespaces and mounts allowed".to_owned(),
            command: Some(
                "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined …"
                    .to_owned(),
            ),
        });
    }
    if !root && failed.error.raw_os_error() == Some(libc::EPERM) {
        remedies.push(Remedy {
            text: "root may be allowed what this user is not".to_owned(),
            command: Some("sudo boxrig …".to_owned()),
        });
    }
    if failed.step.contains("overlay") || failed.step.starts_with("map the ids of") {
        remedies.push(Remedy {
            text: "the file system of the data folder does not take part in overlays: choose one on ext4, xfs, btrfs or tmpfs"
                .to_owned(),
            command: Some("boxrig serve --data DIR".to_owned()),
        });
    }
    remedies.push(without_isolation());
    remedies
}

fn without_isolation() -> Remedy {
    Remedy {
        text: "run commands as plain processes, without any isolation".to_owned(),
        command: Some("boxrig up --engine process".to_owned()),
    }
}

fn in_container() -> bool {
    Path::new("/.dockerenv").exists()
        || Path::new("/run/.containerenv").exists()
        || std::env::var_os("container").is_some()
}
