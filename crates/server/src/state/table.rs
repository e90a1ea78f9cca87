//! Typed tables, and transactions over them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::file::StateFile;
use super::{Dump, StateError, lock};

type Documents<T> = BTreeMap<String, Arc<T>>;

/// A table of documents of type `T` by key. Cheap to clone. Reads show committed values and never wait for the disk.
pub struct Table<T>(pub(super) Arc<TableData<T>>);

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> std::fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({})", self.0.name)
    }
}

impl<T> Table<T> {
    /// The document of a key.
    pub fn get(&self, key: &str) -> Option<Arc<T>> {
        self.with(|all| all.get(key).cloned())
    }
    /// All documents, ordered by key.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.with(|all| all.values().cloned().collect())
    }
    /// The number of documents.
    pub fn len(&self) -> usize {
        self.with(BTreeMap::len)
    }
    /// Whether there are no documents.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// A number that grows with every change that readers see.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }
    /// Looks at all documents in place. Commits wait for `look`: keep it short.
    pub fn with<R>(&self, look: impl FnOnce(&BTreeMap<String, Arc<T>>) -> R) -> R {
        look(&self.0.committed.read().unwrap_or_else(|e| e.into_inner()))
    }
}

pub(super) struct TableData<T> {
    name: &'static str,
    live: Mutex<Documents<T>>,
    committed: RwLock<Documents<T>>,
    /// Changes with `committed`, while its lock is held.
    version: AtomicU64,
}

impl<T: DeserializeOwned> TableData<T> {
    pub(super) fn load(name: &'static str, file: &StateFile) -> Result<Self, StateError> {
        let mut all = Documents::new();
        for (key, bytes) in file.read(name)? {
            let document = serde_json::from_slice(&bytes)
                .map_err(|e| StateError::Open(format!("{name}/{key}: {e}")))?;
            all.insert(key, Arc::new(document));
        }
        Ok(Self {
            name,
            live: Mutex::new(all.clone()),
            committed: RwLock::new(all),
            version: AtomicU64::new(0),
        })
    }
}

impl<T> TableData<T> {
    fn publish(&self, key: &str, value: Option<Arc<T>>) {
        let mut all = self.committed.write().unwrap_or_else(|e| e.into_inner());
        set(&mut all, key, value);
        self.version.fetch_add(1, Ordering::Release);
    }
    /// Throws away what was not committed.
    fn roll_back(&self, key: &str) {
        let committed = self.committed.read().unwrap_or_else(|e| e.into_inner());
        set(&mut lock(&self.live), key, committed.get(key).cloned());
    }
}

fn set<T>(all: &mut Documents<T>, key: &str, value: Option<Arc<T>>) -> Option<Arc<T>> {
    match value {
        Some(value) => all.insert(key.to_owned(), value),
        None => all.remove(key),
    }
}

/// A whole table about to be replaced.
pub(super) trait Replacement: Send {
    fn live(&self);
    fn publish(self: Box<Self>);
    fn roll_back(self: Box<Self>);
}

/// A loaded table, whatever its type.
pub(super) trait Reload: Send + Sync {
    fn prepare(self: Arc<Self>, documents: &Dump) -> Result<Box<dyn Replacement>, StateError>;
}

impl<T: DeserializeOwned + Send + Sync + 'static> Reload for TableData<T> {
    fn prepare(self: Arc<Self>, documents: &Dump) -> Result<Box<dyn Replacement>, StateError> {
        let mut all = Documents::new();
        for (_, key, value) in documents.iter().filter(|(table, ..)| table == self.name) {
            let document = T::deserialize(value)
                .map_err(|e| StateError::Open(format!("{}/{key}: {e}", self.name)))?;
            all.insert(key.clone(), Arc::new(document));
        }
        Ok(Box::new((self, all)))
    }
}

impl<T: Send + Sync + 'static> Replacement for (Arc<TableData<T>>, Documents<T>) {
    fn live(&self) {
        *lock(&self.0.live) = self.1.clone();
    }
    fn publish(self: Box<Self>) {
        let (table, all) = *self;
        let mut committed = table.committed.write().unwrap_or_else(|e| e.into_inner());
        *committed = all;
        table.version.fetch_add(1, Ordering::Release);
    }
    fn roll_back(self: Box<Self>) {
        let committed = self.0.committed.read().unwrap_or_else(|e| e.into_inner());
        *lock(&self.0.live) = committed.clone();
    }
}

/// One changed document on its way to the disk.
pub(super) struct Change {
    pub(super) table: &'static str,
    pub(super) key: String,
    /// `None`: removed.
    pub(super) bytes: Option<Vec<u8>>,
    settle: Settle,
}

/// Brings live and committed values to what became of a change of the key.
type Settle = Box<dyn FnOnce(Outcome, &str) + Send>;

/// What became of a change.
enum Outcome {
    /// Saved: readers may see it.
    Committed,
    /// Not saved: the live value goes back to the committed one.
    RolledBack,
    /// The transaction itself failed: the live value goes back to what it was before the change.
    Undone,
}

impl Change {
    pub(super) fn publish(self) {
        (self.settle)(Outcome::Committed, &self.key);
    }
    pub(super) fn roll_back(self) {
        (self.settle)(Outcome::RolledBack, &self.key);
    }
}

/// A transaction: reads what is there now, this transaction's changes included.
pub struct Tx {
    changes: Vec<Change>,
}

impl Tx {
    pub(super) fn new() -> Self {
        Self {
            changes: Vec::new(),
        }
    }

    pub(super) fn take(mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The document of a key.
    pub fn get<T>(&self, table: &Table<T>, key: &str) -> Option<Arc<T>> {
        lock(&table.0.live).get(key).cloned()
    }

    /// Looks at all documents of a table in place; do not ask the transaction for the same table within `look`.
    pub fn with<T, R>(
        &self,
        table: &Table<T>,
        look: impl FnOnce(&BTreeMap<String, Arc<T>>) -> R,
    ) -> R {
        look(&lock(&table.0.live))
    }

    /// Sets a document and gives the former one.
    ///
    /// # Errors
    ///
    /// [`StateError::Commit`] when it cannot be written as JSON.
    pub fn put<T>(
        &mut self,
        table: &Table<T>,
        key: &str,
        value: T,
    ) -> Result<Option<Arc<T>>, StateError>
    where
        T: Serialize + Send + Sync + 'static,
    {
        let bytes = serde_json::to_vec(&value)
            .map_err(|e| StateError::Commit(format!("{}/{key}: {e}", table.0.name)))?;
        Ok(self.change(table, key, Some((Arc::new(value), bytes))))
    }

    /// Removes a document and gives it; `None` when there was none.
    pub fn delete<T: Send + Sync + 'static>(
        &mut self,
        table: &Table<T>,
        key: &str,
    ) -> Option<Arc<T>> {
        self.get(table, key)?;
        self.change(table, key, None)
    }

    fn change<T: Send + Sync + 'static>(
        &mut self,
        table: &Table<T>,
        key: &str,
        value: Option<(Arc<T>, Vec<u8>)>,
    ) -> Option<Arc<T>> {
        let (value, bytes) = value.unzip();
        let before = set(&mut lock(&table.0.live), key, value.clone());
        let (data, undo) = (table.0.clone(), before.clone());
        self.changes.push(Change {
            table: table.0.name,
            key: key.to_owned(),
            bytes,
            settle: Box::new(move |outcome, key| match outcome {
                Outcome::Committed => data.publish(key, value),
                Outcome::RolledBack => data.roll_back(key),
                Outcome::Undone => {
                    set(&mut lock(&data.live), key, undo);
                }
            }),
        });
        before
    }
}

impl Drop for Tx {
    /// Undoes what was not taken: the closure failed or panicked.
    fn drop(&mut self) {
        for change in self.changes.drain(..).rev() {
            (change.settle)(Outcome::Undone, &change.key);
        }
    }
}

impl std::fmt::Debug for Tx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tx({} changes)", self.changes.len())
    }
}
