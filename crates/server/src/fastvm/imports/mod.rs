//! Snapshot imports: snapshots made from images and Dockerfiles.
//!
//! An image is one of the local store, as in a Dockerfile's FROM; nothing is pulled from a registry. What an import makes is
//! an image of the engine with the snapshot's id in its name, and a machine that is launched from it starts from that image.

mod context;
pub(super) mod older;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;

use boxrig_fastvm::{
    ContextPresignResponse, DeleteResponse, ImportEvent, ImportEventStatus, ImportPhase,
    ImportSource, ImportSourceKind, ImportSourceView, ImportStatus, SnapshotImport, ops,
};
use boxrig_wire::{ApiError, Endpoint, JsonReply, Request};
use serde::{Deserialize, Serialize};

use super::Cx;
use super::once::{Wish, fulfilled_and_gone};
use super::state::{Shared, State, detached};
use super::view::time;
use super::vms::deleted;
use super::{quota, rules};
use crate::state::lock;

/// What the names of images made by imports begin with.
pub(super) const IMAGES: &str = "fastvm/";
/// Size of a machine when none is asked for: processors, MiB, GiB of disk.
const SIZE: (u64, u64, u64) = (1, 2048, 10);
/// The most build arguments.
const MAX_ARGS: usize = 64;
/// The most bytes of build arguments together.
const MAX_ARG_BYTES: usize = 8 * 1024;

/// A step of an import, as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Event {
    phase: ImportPhase,
    status: ImportEventStatus,
    at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// An import. Its id is the key of the document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Import {
    /// The id.
    pub(super) id: String,
    /// It came by the older API.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    older: bool,
    /// What from, without secrets.
    source: ImportSourceView,
    status: ImportStatus,
    /// The snapshot's name, normalised.
    name: String,
    cpu: u64,
    memory_mib: u64,
    disk_gib: u64,
    created_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_ms: Option<u64>,
    updated_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finished_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    events: Vec<Event>,
}

impl Import {
    fn over(&self) -> bool {
        self.status.is_terminal()
    }

    fn event(
        &mut self,
        phase: ImportPhase,
        status: ImportEventStatus,
        at_ms: u64,
        message: Option<String>,
    ) {
        self.updated_ms = at_ms;
        self.events.push(Event {
            phase,
            status,
            at_ms,
            message,
        });
    }

    /// Ends it, and the step that it was at.
    fn end(&mut self, status: ImportStatus, now: u64, error: Option<String>) {
        let of_step = match status {
            ImportStatus::Cancelled => ImportEventStatus::Cancelled,
            ImportStatus::Failed => ImportEventStatus::Failed,
            _ => ImportEventStatus::Completed,
        };
        if let Some(last) = self
            .events
            .last()
            .filter(|e| e.status == ImportEventStatus::Started)
        {
            let phase = last.phase.clone();
            self.event(phase, of_step.clone(), now, error.clone());
        }
        self.event(ImportPhase::Done, of_step, now, None);
        self.status = status;
        self.finished_ms = Some(now);
        self.error = error;
    }

    fn shown(&self) -> SnapshotImport {
        SnapshotImport {
            id: self.id.clone(),
            source: self.source.clone(),
            status: self.status.clone(),
            created_at: time(self.created_ms),
            name: Some(self.name.as_str().into()),
            snapshot_id: self.snapshot_id.clone(),
            error: self.error.as_deref().map(Into::into),
            events: Some(
                self.events
                    .iter()
                    .map(|e| ImportEvent {
                        phase: e.phase.clone(),
                        status: e.status.clone(),
                        timestamp_ms: i64::try_from(e.at_ms).unwrap_or(i64::MAX),
                        message: e.message.as_deref().map(Into::into),
                        ..ImportEvent::default()
                    })
                    .collect(),
            ),
            machine_name: Some(format!("c{}m{}", self.cpu, self.memory_mib / 1024).into()),
            cpu: u32::try_from(self.cpu).ok(),
            memory_mib: Some(self.memory_mib),
            disk_gib: Some(self.disk_gib),
            started_at: self.started_ms.map(time),
            updated_at: Some(time(self.updated_ms)),
            finished_at: self.finished_ms.map(time),
            ..SnapshotImport::default()
        }
    }
}

/// What is to be built: where the Dockerfile comes from, and the files.
#[derive(Debug)]
pub(super) struct Job {
    /// The Dockerfile's text, when it is not one of the context.
    text: Option<String>,
    dockerfile: String,
    args: BTreeMap<String, String>,
    target: Option<String>,
    /// The staged object with the context.
    context: Option<String>,
}

/// Imports that were being worked on when the server ended, as they are now.
pub(super) fn cut_off(state: &State, now: u64) -> Vec<Import> {
    let all = state.imports.list();
    let under_way = all.iter().filter(|import| !import.over());
    under_way
        .map(|import| {
            let mut import = Import::clone(import);
            let words = "the server ended while it was being made";
            import.end(ImportStatus::Failed, now, Some(words.to_owned()));
            import
        })
        .collect()
}

fn no_import() -> ApiError {
    ApiError::not_found("no such snapshot import")
}

fn find(state: &State, id: &str) -> Result<Arc<Import>, ApiError> {
    state.imports.get(id).ok_or_else(no_import)
}

pub(super) async fn list(
    cx: Cx,
    _: Request<ops::ListSnapshotImports>,
) -> Result<JsonReply<Vec<SnapshotImport>>, ApiError> {
    let mut all = cx.state.imports.list();
    all.retain(|import| !import.older);
    all.sort_by_key(|import| (import.created_ms, import.id.clone()));
    Ok(JsonReply::ok(all.iter().map(|i| i.shown()).collect()))
}

pub(super) async fn get(
    cx: Cx,
    rq: Request<ops::GetSnapshotImport>,
) -> Result<JsonReply<SnapshotImport>, ApiError> {
    Ok(JsonReply::ok(find(&cx.state, &rq.path.0)?.shown()))
}

pub(super) async fn presign(
    cx: Cx,
    rq: Request<ops::PresignImportContext>,
) -> Result<JsonReply<ContextPresignResponse>, ApiError> {
    context::presign(&cx, rq.body.0.size_bytes)
        .await
        .map(JsonReply::ok)
}

/// Checks a source, and tells what is to be built.
fn job(state: &State, source: &ImportSource) -> Result<(ImportSourceView, Job), ApiError> {
    let given = |what: &Option<String>| what.as_ref().is_some_and(|text| !text.is_empty());
    let mut view = ImportSourceView {
        kind: source.kind.clone(),
        registry_username: source.registry_username.as_deref().map(Into::into),
        registry_host: source.registry_host.as_deref().map(Into::into),
        ..ImportSourceView::default()
    };
    let word = |field: &str, text: &str| {
        let good = |b: u8| b.is_ascii_graphic() && !b"$\"'\\`#".contains(&b);
        if text.is_empty() || text.len() > 512 || text.starts_with('-') || !text.bytes().all(good) {
            return Err(ApiError::invalid(format!(
                "{field}: {text:?} is no name of an image or platform"
            )));
        }
        Ok(())
    };
    match &source.kind {
        ImportSourceKind::Image => {
            let foreign = source.context_ref.is_some()
                || given(&source.dockerfile_path)
                || given(&source.target)
                || source.build_args.as_ref().is_some_and(|a| !a.is_empty());
            if foreign {
                return Err(ApiError::invalid(
                    "source: contextRef, dockerfilePath, buildArgs and target are for a Dockerfile",
                ));
            }
            let image = source.image.as_deref().unwrap_or_default();
            word("source.image", image)?;
            let mut from = "FROM ".to_owned();
            if let Some(platform) = source.platform.as_deref().filter(|p| !p.is_empty()) {
                word("source.platform", platform)?;
                from.push_str(&format!("--platform={platform} "));
            }
            from.push_str(image);
            view.image = Some(image.into());
            view.platform = source.platform.as_deref().map(Into::into);
            let job = Job {
                text: Some(from),
                dockerfile: context::DOCKERFILE.to_owned(),
                args: BTreeMap::new(),
                target: None,
                context: None,
            };
            Ok((view, job))
        }
        ImportSourceKind::Dockerfile => {
            if given(&source.image) || given(&source.platform) {
                return Err(ApiError::invalid(
                    "source: image and platform are for an image",
                ));
            }
            let credentials =
                source.registry_username.is_some() || source.registry_password.is_some();
            if credentials && !given(&source.registry_host) {
                return Err(ApiError::invalid(
                    "source.registryHost: needed with credentials",
                ));
            }
            let Some(reference) = &source.context_ref else {
                return Err(ApiError::invalid(
                    "source.contextRef: needed for a Dockerfile",
                ));
            };
            let path = source.dockerfile_path.as_deref().filter(|p| !p.is_empty());
            let path = path.unwrap_or(context::DOCKERFILE);
            if path.starts_with('/') || path.split('/').any(|step| step == "..") {
                return Err(ApiError::invalid(
                    "source.dockerfilePath: relative to the context, without ..",
                ));
            }
            let args = source.build_args.clone().unwrap_or_default();
            let bytes: usize = args.iter().map(|(k, v)| k.len() + v.len()).sum();
            if args.len() > MAX_ARGS || bytes > MAX_ARG_BYTES {
                return Err(ApiError::invalid(format!(
                    "source.buildArgs: at most {MAX_ARGS}, and {MAX_ARG_BYTES} bytes in all"
                )));
            }
            let (object, size) = context::referenced(state, reference.expose())?;
            view.dockerfile_path = Some(path.into());
            view.build_args = (!args.is_empty()).then(|| args.clone());
            view.target = source.target.as_deref().map(Into::into);
            view.context_size_bytes = size;
            let job = Job {
                text: None,
                dockerfile: path.to_owned(),
                args,
                target: source.target.clone().filter(|t| !t.is_empty()),
                context: Some(object),
            };
            Ok((view, job))
        }
        _ => Err(ApiError::invalid("source.type: image or dockerfile")),
    }
}

pub(super) async fn create(
    cx: Cx,
    rq: Request<ops::CreateSnapshotImport>,
) -> Result<JsonReply<SnapshotImport>, ApiError> {
    let request = rq.body.0;
    let key = rq.headers.key.as_deref();
    let (wish, before) =
        Wish::of(&cx.state, ops::CreateSnapshotImport::META, key, &request).await?;
    let import = match before {
        Some(id) => find(&cx.state, &id).map_err(|_| fulfilled_and_gone(&id))?,
        None => {
            let (source, job) = job(&cx.state, &request.source)?;
            let size = size(
                request.machine_type.as_ref().map(|t| t.0.as_str()),
                request.disk_gib,
            )?;
            let import = new(&cx.state, source, size, request.name.as_deref(), false);
            begin(&cx.state, import, job, wish).await?
        }
    };
    Ok(JsonReply::accepted(import.shown()))
}

/// The machine that is asked for: processors, MiB, GiB of disk.
fn size(machine_type: Option<&str>, disk_gib: Option<u64>) -> Result<(u64, u64, u64), ApiError> {
    let (cpu, memory) = match machine_type.filter(|t| !t.is_empty()) {
        Some(text) => rules::machine_type(text)?,
        None => (SIZE.0, SIZE.1),
    };
    let disk = disk_gib.map(rules::disk_gib).transpose()?;
    Ok((cpu, memory, disk.unwrap_or(SIZE.2)))
}

fn new(
    state: &State,
    source: ImportSourceView,
    (cpu, memory_mib, disk_gib): (u64, u64, u64),
    name: Option<&str>,
    older: bool,
) -> Import {
    let id = state.core.ids.uuid().to_string();
    let now = state.core.now_ms();
    Import {
        name: rules::name(name, || match older {
            true => id.clone(),
            false => format!("snapshot-{}", rules::short(&id)),
        }),
        id,
        older,
        source,
        status: ImportStatus::Pending,
        cpu,
        memory_mib,
        disk_gib,
        created_ms: now,
        started_ms: None,
        updated_ms: now,
        finished_ms: None,
        snapshot_id: None,
        error: None,
        events: Vec::new(),
    }
}

/// Puts an import on record and begins to work on it.
async fn begin(
    state: &Shared,
    import: Import,
    job: Job,
    wish: Wish,
) -> Result<Arc<Import>, ApiError> {
    state
        .core
        .builder
        .check()
        .map_err(|e| ApiError::new(boxrig_wire::Kind::Unsupported, e.to_string()))?;
    let state = state.clone();
    detached(async move {
        let _held = state.locks.hold(&import.id).await;
        let folder = context::folder(&state, &import.id)?;
        // The context is good for this one import.
        if let Some(object) = &job.context {
            context::claim(&state, object, &folder).await?;
        }
        let kept = Arc::new(import.clone());
        let fulfilled = wish.fulfilled_by(&state, &import.id);
        let write = state.core.store.write(|tx| {
            let count = tx.with(&state.snapshots, BTreeMap::len);
            quota::one_more_snapshot(&state.limits, count)?;
            tx.put(&state.imports, &kept.id, import)?;
            if let Some(object) = &job.context {
                tx.delete(&state.objects, object);
            }
            if let Some((key, made)) = fulfilled {
                tx.put(&state.made, &key, made)?;
            }
            Ok::<_, ApiError>(())
        });
        if let Err(e) = write.await {
            context::remove(folder).await;
            return Err(e);
        }
        wish.recorded(&state);
        let (work, id) = (state.clone(), kept.id.clone());
        let task = tokio::spawn(async move { work::run(work, id, job, folder).await });
        lock(&state.at_work).insert(kept.id.clone(), task.abort_handle());
        Ok(kept)
    })
    .await
}

pub(super) async fn cancel(
    cx: Cx,
    rq: Request<ops::CancelSnapshotImport>,
) -> Result<JsonReply<SnapshotImport>, ApiError> {
    let (id,) = rq.path;
    let state = cx.state.clone();
    let import = detached(async move {
        let _held = state.locks.hold(&id).await;
        let now = state.core.now_ms();
        let cancelled = state.core.store.write(|tx| {
            let import = tx.get(&state.imports, &id).ok_or_else(no_import)?;
            if import.over() {
                let words = format!("the import is {} already", import.status.as_str());
                return Err(ApiError::conflict(words));
            }
            let mut import = Import::clone(&import);
            import.end(ImportStatus::Cancelled, now, None);
            tx.put(&state.imports, &id, import.clone())?;
            Ok(import)
        });
        let import = cancelled.await?;
        let work = lock(&state.at_work).remove(&id);
        if let Some(work) = work {
            work.abort();
        }
        Ok(import)
    })
    .await?;
    Ok(JsonReply::ok(import.shown()))
}

pub(super) async fn delete(
    cx: Cx,
    rq: Request<ops::DeleteSnapshotImport>,
) -> Result<JsonReply<DeleteResponse>, ApiError> {
    let (id,) = rq.path;
    let import = find(&cx.state, &id)?;
    if !import.over() {
        let words = format!("the import is {}: cancel it first", import.status.as_str());
        return Err(ApiError::conflict(words));
    }
    if let Some(snapshot) = import.snapshot_id.clone() {
        match super::snapshots::remove(&cx.state, snapshot).await {
            Err(e) if e.kind != boxrig_wire::Kind::NotFound => return Err(e),
            _ => {}
        }
    }
    let (state, gone) = (cx.state.clone(), id.clone());
    detached(async move {
        let forget = state.core.store.write(|tx| {
            tx.delete(&state.imports, &gone);
            Ok::<_, ApiError>(())
        });
        forget.await
    })
    .await?;
    Ok(JsonReply::ok(deleted(id)))
}
