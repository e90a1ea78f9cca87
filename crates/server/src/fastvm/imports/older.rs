//! The older build API: the same work, with other words.

use boxrig_fastvm::{
    BuildResponse, BuildStatus, FilePresignResponse, ImportSourceKind, ImportSourceView,
    ImportStatus, ops,
};
use boxrig_wire::{ApiError, Endpoint, JsonReply, Request};

use super::super::Cx;
use super::super::once::{Wish, fulfilled_and_gone};
use super::super::view::time;
use super::{Import, Job, begin, context, find, new, size};

fn shown(import: &Import) -> BuildResponse {
    let status = match &import.status {
        ImportStatus::Pending => BuildStatus::Pending,
        ImportStatus::Succeeded => BuildStatus::Completed,
        ImportStatus::Failed | ImportStatus::Cancelled => BuildStatus::Failed,
        _ => BuildStatus::Running,
    };
    let progress = import
        .events
        .last()
        .map(|e| format!("{}: {}", e.phase.as_str(), e.status.as_str()));
    BuildResponse {
        id: import.id.clone(),
        created_at: time(import.created_ms),
        image_ref: import.source.image.clone().unwrap_or_default(),
        status,
        error: import.error.as_deref().map(Into::into),
        name: Some(import.name.as_str().into()),
        progress: progress.map(|p| p.as_str().into()),
        snapshot_id: import.snapshot_id.clone(),
        ..BuildResponse::default()
    }
}

pub(in super::super) async fn presign(
    cx: Cx,
    _: Request<ops::PresignBuildContext>,
) -> Result<JsonReply<FilePresignResponse>, ApiError> {
    context::presign_older(&cx).await.map(JsonReply::ok)
}

/// Whether a Dockerfile names what it starts from.
fn has_from(text: &str) -> bool {
    text.lines().any(|line| {
        let word = line.split_ascii_whitespace().next();
        word.is_some_and(|word| word.eq_ignore_ascii_case("from"))
    })
}

pub(in super::super) async fn create(
    cx: Cx,
    rq: Request<ops::CreateBuild>,
) -> Result<JsonReply<BuildResponse>, ApiError> {
    let request = rq.body.0;
    let key = rq.headers.key.as_deref();
    let (wish, before) = Wish::of(&cx.state, ops::CreateBuild::META, key, &request).await?;
    if let Some(id) = before {
        let import = find(&cx.state, &id).map_err(|_| fulfilled_and_gone(&id))?;
        return Ok(JsonReply::accepted(shown(&import)));
    }
    let image = request.image_ref.as_deref().filter(|text| !text.is_empty());
    let text = request
        .dockerfile_content
        .as_deref()
        .filter(|text| !text.is_empty());
    if let Some(image) = image
        && (image.contains(|c: char| c.is_whitespace() || c.is_control()) || image.starts_with('-'))
    {
        return Err(ApiError::invalid(format!(
            "imageRef: {image:?} is no name of an image"
        )));
    }
    let text = match (text, image) {
        (Some(text), Some(image)) if !has_from(text) => format!("FROM {image}\n{text}"),
        (Some(text), _) => text.to_owned(),
        (None, Some(image)) => format!("FROM {image}"),
        (None, None) => {
            return Err(ApiError::invalid(
                "imageRef, dockerfileContent: one of them is needed",
            ));
        }
    };
    let object = match &request.context_download_url {
        Some(url) => Some(context::addressed(&cx.state, url.expose())?.id.clone()),
        None => None,
    };
    let source = ImportSourceView {
        kind: match request.dockerfile_content {
            Some(_) => ImportSourceKind::Dockerfile,
            None => ImportSourceKind::Image,
        },
        image: image.map(Into::into),
        ..ImportSourceView::default()
    };
    let size = size(
        request.machine_type.as_ref().map(|t| t.0.as_str()),
        request.disk_gib,
    )?;
    let import = new(&cx.state, source, size, request.name.as_deref(), true);
    let job = Job {
        text: Some(text),
        dockerfile: context::DOCKERFILE.to_owned(),
        args: Default::default(),
        target: None,
        context: object,
    };
    let import = begin(&cx.state, import, job, wish).await?;
    Ok(JsonReply::accepted(shown(&import)))
}

pub(in super::super) async fn get(
    cx: Cx,
    rq: Request<ops::GetBuild>,
) -> Result<JsonReply<BuildResponse>, ApiError> {
    let import = find(&cx.state, &rq.path.0).map_err(|_| ApiError::not_found("no such build"))?;
    Ok(JsonReply::ok(shown(&import)))
}
