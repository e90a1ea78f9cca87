//! Listening: TCP with HTTP and TLS on one port, and the unix socket.

mod conn;
mod linger;
mod stop;
mod tcp;
#[cfg(unix)]
mod unix;

pub(crate) use conn::PATIENCE;
pub use conn::{About, Service, serve_connection, service};
pub use stop::Stop;
pub use tcp::serve_tcp;
#[cfg(unix)]
pub use unix::{bind_unix, serve_unix};

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The connections of a server, counted and bounded.
#[derive(Clone, Debug)]
pub struct Connections {
    slots: Arc<Semaphore>,
    most: u32,
    patience: Duration,
}

impl Connections {
    /// At most `most` connections at a time; further ones wait to be accepted. `patience` is [`About::patience`].
    pub fn new(most: u32, patience: Duration) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(most as usize)),
            most,
            patience,
        }
    }

    /// As many as the process may have open files, less what it needs itself, and at most 20,000.
    pub fn as_allowed(patience: Duration) -> Self {
        Self::new(open_files().saturating_sub(256).clamp(64, 20_000), patience)
    }

    fn about(&self, peer: crate::router::Peer) -> About {
        About {
            patience: self.patience,
            ..About::plain(peer)
        }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        (self.most as usize).saturating_sub(self.slots.available_permits())
    }

    async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().acquire_owned().await.ok()
    }

    /// Waits until all connections have ended, or `patience` is over; tells which.
    pub async fn drained(&self, patience: Duration) -> bool {
        let all = self.slots.acquire_many(self.most);
        tokio::time::timeout(patience, all).await.is_ok()
    }
}

/// How many files the process may have open, after raising the limit as far as an ordinary user may.
fn open_files() -> u32 {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        let current = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit.maximum,
            Err(_) => limit.current,
        };
        current.map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX))
    }
    #[cfg(not(unix))]
    {
        8192
    }
}

/// After a failed accept (no descriptor left, for example): not at once again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
