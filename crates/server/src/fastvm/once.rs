//! `Idempotency-Key`: a wish that is sent twice is fulfilled once.
//!
//! The vendor's page says that operations that change something accept the header; its SDKs do not send it, ours does.

use std::time::Duration;

use boxrig_wire::{ApiError, Meta};
use http::StatusCode;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::due::Due;
use super::locks::Held;
use super::record::Made;
use super::state::State;
use super::view::millis;
use crate::ids::to_hex;

/// How long a key is remembered.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// The longest key, in bytes.
const LONGEST: usize = 255;

/// The key of the document of a wish.
pub(super) fn key_of(operation: &str, key: &str) -> String {
    format!("{operation}:{}", digest(key.as_bytes()))
}

pub(super) fn digest(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

/// A request, and whether it was made before.
#[derive(Debug, Default)]
pub(super) struct Wish(Option<Named>);

#[derive(Debug)]
struct Named {
    key: String,
    request: String,
    /// Held until the wish is on record, so that a repeat that comes meanwhile waits.
    held: Held,
}

impl Wish {
    /// A wish, and the id of what fulfilled it before. A request without a key is a new wish each time.
    ///
    /// # Errors
    ///
    /// 400 for a key that is empty or too long, 422 for one that came with another request.
    pub(super) async fn of(
        state: &State,
        operation: &Meta,
        key: Option<&str>,
        request: &impl Serialize,
    ) -> Result<(Self, Option<String>), ApiError> {
        let Some(key) = key else {
            return Ok((Self(None), None));
        };
        if !(1..=LONGEST).contains(&key.len()) {
            return Err(ApiError::invalid(format!(
                "Idempotency-Key: 1 to {LONGEST} bytes are allowed"
            )));
        }
        let key = key_of(operation.id, key);
        let request = serde_json::to_vec(request)
            .map(|text| digest(&text))
            .map_err(|e| ApiError::invalid(e.to_string()))?;
        let held = state.locks.hold(&key).await;
        if let Some(made) = state.made.get(&key) {
            if made.request != request {
                let words = "Idempotency-Key: it came with another request before";
                return Err(ApiError::invalid(words).with_status(StatusCode::UNPROCESSABLE_ENTITY));
            }
            return Ok((Self(None), Some(made.id.clone())));
        }
        Ok((Self(Some(Named { key, request, held })), None))
    }

    /// What says that `id` fulfils it, to be put on record with it.
    pub(super) fn fulfilled_by(&self, state: &State, id: &str) -> Option<(String, Made)> {
        let named = self.0.as_ref()?;
        let made = Made {
            request: named.request.clone(),
            id: id.to_owned(),
            expires_ms: state.core.now_ms() + millis(KEPT),
        };
        Some((named.key.clone(), made))
    }

    /// Lets repeats see what is on record; gives the key of the document.
    pub(super) fn recorded(self, state: &State) -> Option<String> {
        let Named { key, held, .. } = self.0?;
        let expires = state.made.get(&key).map(|made| made.expires_ms);
        state.queue.set(Due::Key(key.clone()), expires);
        drop(held);
        Some(key)
    }
}

/// The 409 for a repeat whose object is gone.
pub(super) fn fulfilled_and_gone(id: &str) -> ApiError {
    ApiError::conflict(format!(
        "Idempotency-Key: the request was carried out before, and {id} is gone since"
    ))
    .with_detail("id", id)
}
