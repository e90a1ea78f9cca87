//! Durable state: typed tables of JSON documents in one file.
//!
//! # What is promised
//!
//! * A [`Store::write`] that has answered `Ok` survives `kill -9` of the server at any later moment, and, because the
//!   file is synchronised before the answer, a power loss too as far as the disk honours `fsync`.
//! * A write is all or nothing, over all tables it touches.
//! * Readers see committed values only: nothing that was shown can be undone by a crash.
//! * Under a [`View`], readers see every write whole or not at all, also when they read one document after the other.
//! * When the disk is full or broken, the write fails with the cause, and the old values stay, in memory and on disk.
//!
//! # How
//!
//! Every table is held in memory twice, by reference: `live` is what transactions read and write, one at a time, under
//! a lock that is never held over IO; `committed` is what readers see. One thread takes all transactions that wait,
//! writes them in one commit of the file (so that many callers share one `fsync`), publishes them and answers.
//!
//! The file has a version; an older one is upgraded at the start, step by step and in one commit, a newer one is
//! refused.

mod file;
mod table;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, RwLockReadGuard};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

pub use table::{Table, Tx};

use crate::faults::crash_point;
use file::StateFile;
use table::{Reload, TableData};
use writer::{Work, Writer};

/// What went wrong with the state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateError {
    /// The file cannot be opened, read or understood.
    Open(String),
    /// A commit failed (a full disk, for example); nothing was changed.
    Commit(String),
    /// The store is being closed.
    Closed,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(why) => write!(f, "the state cannot be opened: {why}"),
            Self::Commit(why) => write!(f, "the change could not be saved: {why}"),
            Self::Closed => f.write_str("the server is shutting down"),
        }
    }
}

impl std::error::Error for StateError {}

impl From<StateError> for boxrig_wire::ApiError {
    fn from(e: StateError) -> Self {
        let kind = match e {
            StateError::Closed => boxrig_wire::Kind::Unavailable,
            StateError::Open(_) | StateError::Commit(_) => boxrig_wire::Kind::Failed,
        };
        Self::new(kind, e.to_string())
    }
}

/// The state of a server. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    writer: Writer,
    tables: Mutex<Vec<Arc<dyn Reload>>>,
    file: Arc<StateFile>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

/// A change on its way to the disk. Dropping this does not stop it.
#[must_use = "a change must be saved before anybody is told of it"]
#[derive(Debug)]
pub struct Saving(oneshot::Receiver<Result<(), StateError>>);

impl Saving {
    /// Waits until the change is saved.
    ///
    /// # Errors
    ///
    /// When it cannot be saved; nothing of it remains.
    pub async fn saved(self) -> Result<(), StateError> {
        self.0.await.map_err(|_| StateError::Closed)?
    }
}

/// While this lives, no reader sees anything new: see [`Store::view`].
#[must_use = "what is read after it is dropped may be newer"]
#[derive(Debug)]
pub struct View<'a>(#[allow(dead_code)] RwLockReadGuard<'a, ()>);

/// All documents of a store as `(table, key, JSON)`, ordered.
pub type Dump = Vec<(String, String, serde_json::Value)>;

impl Store {
    /// Opens the state file at `path`, made if missing (mode 0600), upgraded if older. `commit: false` acknowledges
    /// writes without saving them: only for the crash test, which must then find a loss.
    ///
    /// # Errors
    ///
    /// [`StateError::Open`] with the cause: damaged, newer than this program, no permission.
    pub fn open(path: &Path, commit: bool) -> Result<Self, StateError> {
        let file = Arc::new(StateFile::open(path)?);
        Ok(Self(Arc::new(Inner {
            writer: Writer::start(file.clone(), commit)?,
            tables: Mutex::default(),
            file,
        })))
    }

    /// Loads a table. Ask once a table and keep it: two handles of one table do not see each other's changes.
    ///
    /// # Errors
    ///
    /// [`StateError::Open`] naming the document that cannot be read.
    pub fn table<T>(&self, name: &'static str) -> Result<Table<T>, StateError>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let data = Arc::new(TableData::load(name, &self.0.file)?);
        lock(&self.0.tables).push(data.clone());
        Ok(Table(data))
    }

    /// Runs `change` on the present values, alone, and saves what it did. Keep it short: everybody waits for it.
    /// When `change` gives an error, nothing of it remains. When the returned future is dropped after its first
    /// poll, the change is still saved.
    ///
    /// # Errors
    ///
    /// Those of `change`; [`StateError`] when it cannot be saved.
    pub async fn write<R, E>(&self, change: impl FnOnce(&mut Tx) -> Result<R, E>) -> Result<R, E>
    where
        E: From<StateError>,
    {
        let (result, saving) = self.begin(change)?;
        saving.saved().await?;
        Ok(result)
    }

    /// As [`Store::write`], without waiting for the disk: later transactions see the change, readers do not yet. For
    /// work that goes on meanwhile; nobody is to be told of the change before [`Saving::saved`].
    ///
    /// # Errors
    ///
    /// Those of `change`.
    pub fn begin<R, E>(
        &self,
        change: impl FnOnce(&mut Tx) -> Result<R, E>,
    ) -> Result<(R, Saving), E>
    where
        E: From<StateError>,
    {
        crash_point("state.begin");
        let mut queue = self.0.writer.queue()?;
        let mut tx = Tx::new();
        let result = change(&mut tx)?;
        // Even without a change there is something to wait for: what was read may be on its way to the disk.
        Ok((result, Saving(queue.push(Work::Changes(tx.take())))))
    }

    /// Keeps what readers see as it is, so that an answer made of several documents shows no half of a write. Commits
    /// wait for it to be dropped: keep it short, and take no second one while it lives.
    pub fn view(&self) -> View<'_> {
        View(self.0.writer.view())
    }

    /// Saves what is waiting and closes the file. Later writes fail with [`StateError::Closed`].
    pub async fn close(&self) {
        if let Some(thread) = self.0.writer.close() {
            // Joining a thread blocks; it has at most two commits before it.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// Every document of every table, also of those not loaded.
    ///
    /// # Errors
    ///
    /// [`StateError::Open`] when the file cannot be read.
    pub fn dump(&self) -> Result<Dump, StateError> {
        let mut dump = Dump::new();
        for (table, key, bytes) in self.0.file.read_all()? {
            let value = serde_json::from_slice(&bytes)
                .map_err(|e| StateError::Open(format!("{table}/{key}: {e}")))?;
            dump.push((table, key, value));
        }
        Ok(dump)
    }

    /// Replaces everything by `documents`; an empty dump is a reset. Loaded tables show the new values.
    ///
    /// # Errors
    ///
    /// When a document does not fit a loaded table, or it cannot be saved; the old values stay.
    pub async fn replace(&self, documents: Dump) -> Result<(), StateError> {
        let tables: Vec<_> = lock(&self.0.tables).clone();
        let done = {
            let mut queue = self.0.writer.queue()?;
            let mut replacements = Vec::new();
            for table in tables {
                replacements.push(table.prepare(&documents)?);
            }
            for replacement in &replacements {
                replacement.live();
            }
            queue.push(Work::Replace(documents, replacements))
        };
        done.await.map_err(|_| StateError::Closed)?
    }
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in a transaction is undone by `Tx::drop` before the lock is let go.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests;
