//! What all protocols of a server share.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use boxrig_engine::{Clock, Engine, VirtualClock};
use boxrig_wire::{ApiError, BoxFuture, Kind, WireBody};
use http::Response;

use crate::auth::Credentials;
use crate::beside::Beside;
use crate::faults::Faults;
use crate::ids::Ids;
use crate::router::{Around, RequestInfo};
use crate::services::Services;
use crate::state::Store;

/// What all protocols of a server share; held in an `Arc`.
#[derive(Debug)]
#[non_exhaustive]
pub struct Core {
    /// Durable state.
    pub store: Store,
    /// Where instances run.
    pub engine: Arc<dyn Engine>,
    /// Images from Dockerfiles, by that engine.
    pub builder: boxrig_build::Builder,
    /// Host names that lead to ports of its instances.
    pub services: Services,
    /// The time of everything that has a time: creation, expiry, tokens.
    pub clock: Arc<dyn Clock>,
    /// The same clock when it is a virtual one, which can be moved.
    pub virtual_clock: Option<VirtualClock>,
    /// Identifiers.
    pub ids: Ids,
    /// Who may use which protocol.
    pub credentials: Credentials,
    /// Fault scripts.
    pub faults: Arc<Faults>,
    /// What stands around every protocol's requests; each protocol's router gets them all.
    pub around: Vec<Arc<dyn Around>>,
    /// How many requests an hour VergeOS answers to one API key.
    pub vergeos_rate: Option<u32>,
    /// The directory of the server's own files. A protocol keeps its files in a folder with its name.
    pub data: PathBuf,
    /// The origin (`http://host:port`) that is told to clients and instances, once the server listens.
    pub(crate) origin: OnceLock<String>,
    /// Opens further listeners, once the server listens.
    pub(crate) beside: OnceLock<Beside>,
}

impl Core {
    /// `http://host:port`, or what `--public-url` says, without a slash at its end: what URLs that are handed out
    /// begin with. Empty before the server listens.
    pub fn origin(&self) -> &str {
        self.origin.get().map_or("", String::as_str)
    }

    /// The present time on the server's clock.
    pub fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// The present time in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        let since = self.now().duration_since(SystemTime::UNIX_EPOCH);
        u64::try_from(since.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(u64::MAX)
    }
}

/// One protocol as the server's front sees it.
///
/// A platform names its instances and snapshots to the engine by its own ids, so that one id serves the platform's
/// API and the control API.
pub trait Platform: std::fmt::Debug + Send + Sync + 'static {
    /// Answers a request that is this protocol's by its path.
    fn route(
        &self,
        info: RequestInfo,
        request: http::Request<WireBody>,
    ) -> BoxFuture<'_, Response<WireBody>>;

    /// Called once when the server listens and [`Core::origin`] is known: starts expiry tasks, guest listeners.
    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// Called before the server ends: stops background tasks. State is saved already.
    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// Forgets everything (`boxrig reset`): instances, snapshots, files. State documents are removed by the caller
    /// afterwards.
    fn reset(&self) -> BoxFuture<'_, Result<(), boxrig_wire::ApiError>> {
        Box::pin(async { Ok(()) })
    }

    /// Called when the state was replaced by a saved one: sets timers and caches by it.
    fn reload(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// How many things it holds that a background server must not leave behind.
    fn holdings(&self) -> usize {
        0
    }
}

/// An engine's error as a protocol's.
pub fn engine_error(e: &boxrig_engine::Error) -> ApiError {
    use boxrig_engine::Kind as Engine;
    let kind = match e.kind() {
        Engine::NotFound | Engine::CommandNotFound => Kind::NotFound,
        Engine::Exists | Engine::InvalidState | Engine::Gone => Kind::Conflict,
        Engine::Invalid => Kind::Invalid,
        Engine::Unsupported | Engine::NotPermittedHere => Kind::Unsupported,
        Engine::Denied | Engine::CannotExecute => Kind::Denied,
        Engine::Limit => Kind::Quota,
        Engine::Timeout => Kind::Timeout,
        _ => Kind::Failed,
    };
    ApiError::new(kind, e.to_string())
}
