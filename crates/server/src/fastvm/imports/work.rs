//! Working on an import, step by step.

use std::path::PathBuf;

use boxrig_build::{BuildSpec, Cause, LogLine, Stream};
use boxrig_engine::{ImageInfo, Limits};
use boxrig_fastvm::{ImportEventStatus, ImportPhase, ImportStatus};
use boxrig_wire::ApiError;
use tokio::sync::mpsc;

use super::super::record::{Snapshot, SnapshotPhase};
use super::super::rules;
use super::super::snapshots::no_machine_id;
use super::super::state::{Shared, State};
use super::{IMAGES, Import, Job, context, no_import};
use crate::state::lock;

/// Longest piece of a command's output in an error, in characters.
const SAID: usize = 300;

/// Removes an import's files however its work ends.
struct Folder(Option<PathBuf>);

impl Drop for Folder {
    fn drop(&mut self) {
        let (Some(folder), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        runtime.spawn(context::remove(folder));
    }
}

/// Works on an import to its end.
pub(super) async fn run(state: Shared, id: String, job: Job, folder: PathBuf) {
    let files = Folder(Some(folder.clone()));
    if let Err(words) = steps(&state, &id, job, folder).await {
        let now = state.core.now_ms();
        let failed = change(&state, &id, |import| {
            import.end(ImportStatus::Failed, now, Some(words));
        });
        if let Err(e) = failed.await {
            tracing::error!(import = id, error = %e, "the end of an import is not on record");
        }
    }
    lock(&state.at_work).remove(&id);
    drop(files);
}

/// Changes the record of an import that is not over.
async fn change(state: &State, id: &str, change: impl FnOnce(&mut Import)) -> Result<(), ApiError> {
    let write = state.core.store.write(|tx| {
        let import = tx.get(&state.imports, id).ok_or_else(no_import)?;
        if import.over() {
            return Err(ApiError::conflict("the import is over"));
        }
        let mut import = Import::clone(&import);
        change(&mut import);
        tx.put(&state.imports, id, import)?;
        Ok(())
    });
    write.await
}

async fn event(
    state: &State,
    id: &str,
    phase: ImportPhase,
    status: ImportEventStatus,
) -> Result<(), String> {
    let now = state.core.now_ms();
    change(state, id, |import| import.event(phase, status, now, None))
        .await
        .map_err(|e| e.message)
}

async fn steps(state: &Shared, id: &str, job: Job, folder: PathBuf) -> Result<(), String> {
    use ImportEventStatus::{Completed, Skipped, Started};
    let now = state.core.now_ms();
    let begun = change(state, id, |import| {
        import.status = ImportStatus::Running;
        import.started_ms = Some(now);
        import.event(ImportPhase::Preparing, Started, now, None);
        import.event(ImportPhase::Preparing, Completed, now, None);
        // Instances have their network from their start.
        import.event(ImportPhase::Network, Skipped, now, None);
    });
    begun.await.map_err(|e| e.message)?;
    let Some(import) = state.imports.get(id) else {
        return Err("the import is gone".to_owned());
    };
    let mut files = None;
    let phase = match job.context {
        Some(_) => {
            event(state, id, ImportPhase::FetchContext, Started).await?;
            files = Some(context::unpack(&folder).await?);
            event(state, id, ImportPhase::FetchContext, Completed).await?;
            ImportPhase::Build
        }
        None if import.older => ImportPhase::Build,
        None => ImportPhase::Pull,
    };
    event(state, id, phase.clone(), Started).await?;
    let snapshot_id = state.core.ids.uuid().to_string();
    let image = format!("{IMAGES}{snapshot_id}");
    let mut spec = BuildSpec::new(&image);
    spec.context = files;
    spec.dockerfile = job.dockerfile;
    spec.text = job.text;
    spec.args = job.args;
    spec.target = job.target;
    spec.limits = Limits {
        memory_bytes: Some(import.memory_mib << 20),
        cpus: Some(import.cpu as f64),
        pids: None,
        disk_bytes: Some(import.disk_gib << 30),
    };
    let made = build(state, spec).await?;
    event(state, id, phase, Completed).await?;
    event(state, id, ImportPhase::Export, Skipped).await?;
    event(state, id, ImportPhase::Saving, Started).await?;
    let saved = save(state, id, &import, snapshot_id, made).await;
    if saved.is_err() {
        // It was cancelled, or its record is gone: nobody would know of the image.
        let _ = state.core.engine.delete_image(&image).await;
    }
    saved
}

/// Builds, and gives the image.
async fn build(state: &State, spec: BuildSpec) -> Result<ImageInfo, String> {
    let (log, mut lines) = mpsc::channel::<LogLine>(64);
    let build = state.core.builder.build(spec, log);
    // The last words of a command say more than its exit code.
    let last = async {
        let mut said = None;
        while let Some(line) = lines.recv().await {
            if line.stream != Stream::Step && !line.text.trim().is_empty() {
                said = Some(line.text);
            }
        }
        said
    };
    let (built, said) = tokio::join!(build, last);
    built.map(|built| built.image).map_err(|e| match said {
        Some(said) if e.cause == Cause::Command => {
            let said: String = said.chars().take(SAID).collect();
            format!("{e}: {said}")
        }
        _ => e.to_string(),
    })
}

async fn save(
    state: &State,
    id: &str,
    import: &Import,
    snapshot_id: String,
    image: ImageInfo,
) -> Result<(), String> {
    let now = state.core.now_ms();
    let env = image.config.env.iter().cloned().collect();
    let snapshot = Snapshot {
        id: snapshot_id.clone(),
        name: import.name.clone(),
        phase: SnapshotPhase::Ready,
        vm_id: no_machine_id(),
        created_ms: now,
        cpu: import.cpu,
        memory_mib: import.memory_mib,
        disk_gib: import.disk_gib,
        metadata: Default::default(),
        // What the API could not take as a machine's environment is the image's own affair.
        env: if rules::env_vars(&env).is_ok() {
            env
        } else {
            Default::default()
        },
        services: Vec::new(),
        firewall: None,
        image: Some(image.name),
    };
    let write = state.core.store.write(|tx| {
        let import = tx.get(&state.imports, id).ok_or_else(no_import)?;
        if import.over() {
            return Err(ApiError::conflict("the import is over"));
        }
        let mut import = Import::clone(&import);
        import.event(ImportPhase::Saving, ImportEventStatus::Completed, now, None);
        // A machine boots in milliseconds: there is nothing to be warmed.
        import.event(ImportPhase::Warming, ImportEventStatus::Skipped, now, None);
        import.end(ImportStatus::Succeeded, now, None);
        import.snapshot_id = Some(snapshot_id.clone());
        tx.put(&state.imports, id, import)?;
        tx.put(&state.snapshots, &snapshot_id, snapshot)?;
        Ok(())
    });
    write.await.map_err(|e| e.message)
}
