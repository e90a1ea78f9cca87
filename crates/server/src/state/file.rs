//! The state file: a redb database with one table of documents, keyed by table and key.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction,
};

use super::StateError;
use crate::faults::crash_point;

/// The version this program writes. A change of the meaning of documents raises it and adds a step to [`UPGRADES`].
pub(super) const VERSION: u64 = 1;

/// Step `n` turns a file of version `n + 1` into one of version `n + 2`.
const UPGRADES: &[Upgrade] = &[];

pub(super) type Upgrade = fn(&mut Batch) -> Result<(), StateError>;

/// `(table, key)` → JSON.
const DOCUMENTS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("documents");
type Documents = ReadOnlyTable<(&'static str, &'static str), &'static [u8]>;
const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("facts");

/// The database's own page cache. Small: values are read from it once, at the start.
const CACHE: usize = 8 * 1024 * 1024;

pub(super) struct StateFile(Database);

fn open_error(e: impl std::fmt::Display) -> StateError {
    StateError::Open(e.to_string())
}
fn commit_error(e: impl std::fmt::Display) -> StateError {
    StateError::Commit(e.to_string())
}

impl StateFile {
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        Self::open_with(path, VERSION, UPGRADES)
    }

    /// Opens a file as a program would whose version is `version`.
    pub(super) fn open_with(
        path: &Path,
        version: u64,
        upgrades: &[Upgrade],
    ) -> Result<Self, StateError> {
        let named = |e: String| StateError::Open(format!("{}: {e}", path.display()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600);
        }
        let file = options.open(path).map_err(|e| named(e.to_string()))?;
        let backend = Backend::new(file).map_err(|e| named(e.to_string()))?;
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create_with_backend(backend)
            .map_err(|e| named(e.to_string()))?;
        let file = Self(database);
        let mut batch = file.begin()?;
        let found = batch.version()?;
        match found {
            // A new file.
            None => {}
            Some(found) if found > version => {
                return Err(named(format!(
                    "it was written by a newer boxrig (state version {found}, this one knows {version})"
                )));
            }
            Some(found) => {
                let from = usize::try_from(found.saturating_sub(1)).unwrap_or(usize::MAX);
                for upgrade in upgrades.iter().skip(from) {
                    upgrade(&mut batch)?;
                }
            }
        }
        if found != Some(version) {
            batch.set_version(version)?;
            batch.commit()?;
        }
        Ok(file)
    }

    pub(super) fn begin(&self) -> Result<Batch, StateError> {
        self.0.begin_write().map(Batch).map_err(commit_error)
    }

    /// The documents of a table.
    pub(super) fn read(&self, name: &str) -> Result<Vec<(String, Vec<u8>)>, StateError> {
        let Some(table) = self.documents()? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for entry in table.range((name, "")..).map_err(open_error)? {
            let (at, bytes) = entry.map_err(open_error)?;
            let (of, key) = at.value();
            if of != name {
                break;
            }
            found.push((key.to_owned(), bytes.value().to_vec()));
        }
        Ok(found)
    }

    /// `None` as long as nothing was written.
    fn documents(&self) -> Result<Option<Documents>, StateError> {
        let tx = self.0.begin_read().map_err(open_error)?;
        match tx.open_table(DOCUMENTS) {
            Ok(table) => Ok(Some(table)),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(e) => Err(open_error(e)),
        }
    }

    /// All documents.
    pub(super) fn read_all(&self) -> Result<Vec<(String, String, Vec<u8>)>, StateError> {
        let Some(table) = self.documents()? else {
            return Ok(Vec::new());
        };
        table
            .iter()
            .map_err(open_error)?
            .map(|entry| {
                let (key, bytes) = entry.map_err(open_error)?;
                let (table, key) = key.value();
                Ok((table.to_owned(), key.to_owned(), bytes.value().to_vec()))
            })
            .collect()
    }
}

/// Changes that are committed together.
pub(super) struct Batch(WriteTransaction);

impl Batch {
    pub(super) fn set(
        &mut self,
        table: &str,
        key: &str,
        bytes: Option<&[u8]>,
    ) -> Result<(), StateError> {
        let mut documents = self.0.open_table(DOCUMENTS).map_err(commit_error)?;
        match bytes {
            Some(bytes) => documents.insert((table, key), bytes).map(|_| ()),
            None => documents.remove((table, key)).map(|_| ()),
        }
        .map_err(commit_error)
    }

    pub(super) fn clear(&mut self) -> Result<(), StateError> {
        self.0.delete_table(DOCUMENTS).map_err(commit_error)?;
        Ok(())
    }

    pub(super) fn commit(self) -> Result<(), StateError> {
        self.0.commit().map_err(commit_error)
    }

    fn version(&mut self) -> Result<Option<u64>, StateError> {
        let facts = self.0.open_table(FACTS).map_err(commit_error)?;
        let version = facts.get("version").map_err(commit_error)?;
        Ok(version.map(|v| v.value()))
    }

    fn set_version(&mut self, version: u64) -> Result<(), StateError> {
        let mut facts = self.0.open_table(FACTS).map_err(commit_error)?;
        facts.insert("version", version).map_err(commit_error)?;
        Ok(())
    }
}

/// The file underneath, with a crash point before every write, so that the crash test meets half-written commits.
/// Without locks: the data directory has one (see `crate::serve`).
#[derive(Debug)]
struct Backend(FileBackend);

impl Backend {
    fn new(file: File) -> Result<Self, redb::DatabaseError> {
        FileBackend::new(file).map(Self)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        crash_point("state.sync");
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        crash_point("state.write");
        self.0.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}
