//! What is known of a process' image.

use boxrig_engine::ImageConfig;
use boxrig_wire::ApiError;

use super::records::Process;
use super::state::State;
use crate::core::engine_error;

/// How an image says its commands are run.
pub(super) async fn config(state: &State, image: &str) -> Result<ImageConfig, ApiError> {
    let info = state.core.engine.get_image(image).await;
    let info = info.map_err(|e| match e.kind() {
        boxrig_engine::Kind::NotFound => ApiError::not_found(format!(
            "no image {image:?} on this rack: it takes boxrig/base, images built here and imported ones"
        )),
        _ => engine_error(&e),
    })?;
    Ok(info.config)
}

/// The entry point of a process' image.
pub(super) async fn entrypoint(state: &State, process: &Process) -> Result<Vec<String>, ApiError> {
    Ok(config(state, &process.image)
        .await?
        .entrypoint
        .unwrap_or_default())
}
