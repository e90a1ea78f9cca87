//! What the handlers and behaviours share.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use boxrig_wire::ApiError;
use tokio::sync::Notify;

use super::auth::{Rates, Sessions};
use super::behaviour::Behaviour;
use super::content::Content;
use super::db::{Db, interned};
use super::tenancy::Systems;
use super::tx::Tx;
use crate::core::Core;
use crate::state::{StateError, lock};

/// What the handlers and behaviours share.
pub struct State {
    /// What all protocols share.
    pub core: Arc<Core>,
    /// The rows.
    pub db: Db,
    /// The content of files.
    pub content: Content,
    /// Which system it is: empty for the server's own, `@5` for tenant 5, `@5@2` for that tenant's tenant 2.
    pub(super) scope: String,
    pub(super) systems: Systems,
    pub(super) behaviours: Vec<Box<dyn Behaviour>>,
    pub(super) sessions: Sessions,
    pub(super) rates: Rates,
    /// Passwords that were found right, by the hash of user and password, with the hash that was kept then.
    pub(super) verified: Mutex<HashMap<String, String>>,
    wake: Notify,
}

/// The state, shared.
pub type Shared = Arc<State>;

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("db", &self.db).finish()
    }
}

impl State {
    pub(super) fn load(
        core: Arc<Core>,
        behaviours: Vec<Box<dyn Behaviour>>,
        scope: String,
    ) -> Result<Self, StateError> {
        let mut files = core.data.join("vergeos");
        for tenant in scope.split('@').skip(1) {
            files = files.join("tenants").join(tenant);
        }
        Ok(Self {
            db: Db::open(&core.store, &scope)?,
            content: Content::new(files.join("content")),
            systems: Systems::default(),
            behaviours,
            sessions: Sessions::open(&core.store, interned(format!("vergeos{scope}.$sessions")))?,
            rates: Rates::default(),
            verified: Mutex::default(),
            wake: Notify::new(),
            scope,
            core,
        })
    }

    /// The present time in seconds since 1970, on the server's clock.
    pub fn now(&self) -> i64 {
        i64::try_from(self.core.now_ms() / 1000).unwrap_or(i64::MAX)
    }
    /// The present time in microseconds since 1970, on the server's clock.
    pub fn now_us(&self) -> i64 {
        i64::try_from(self.core.now_ms().saturating_mul(1000)).unwrap_or(i64::MAX)
    }

    pub(super) fn wake_timers(&self) {
        self.wake.notify_one();
    }
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Forgets what is not durable.
    pub(super) fn forget(&self) {
        self.systems.close();
        self.sessions.forget();
        lock(&self.verified).clear();
    }
}

/// The state, and the user whose request is being answered.
#[derive(Clone, Debug)]
pub struct Cx {
    state: Shared,
    user: Option<i64>,
}

impl Deref for Cx {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl Cx {
    /// For a user; `None` for the server's own doing.
    pub(super) fn of(state: Shared, user: Option<i64>) -> Self {
        Self { state, user }
    }
    /// The state.
    pub fn state(&self) -> &Shared {
        &self.state
    }
    /// The key of the user whose request it is.
    pub fn user(&self) -> Option<i64> {
        self.user
    }

    /// Runs a transaction over all tables, alone, and saves what it did. Keep it short: everybody waits for it. When
    /// `change` gives an error, nothing of it remains.
    ///
    /// # Errors
    ///
    /// Those of `change`; a 500 when it cannot be saved.
    pub async fn write<R>(
        &self,
        change: impl FnOnce(&mut Tx<'_>) -> Result<R, ApiError>,
    ) -> Result<R, ApiError> {
        let ((result, effects), saving) = self.core.store.begin(|inner| {
            let mut tx = Tx::new(&self.state, inner, self.user);
            let result = change(&mut tx)?;
            Ok::<_, ApiError>((result, std::mem::take(&mut tx.effects)))
        })?;
        if effects.is_empty() {
            saving.saved().await?;
            return Ok(result);
        }
        // What follows a commit is done even when the caller goes away.
        let state = self.state.clone();
        let (told, saved) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let outcome = saving.saved().await;
            let go_on = outcome.is_ok();
            let _ = told.send(outcome);
            if go_on {
                for effect in effects {
                    effect(state.clone()).await;
                }
            }
        });
        saved.await.map_err(|_| StateError::Closed)??;
        Ok(result)
    }
}
