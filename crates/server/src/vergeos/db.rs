//! The rows: every table in memory, each change durable before it is told.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::row::{Row, key_text, poly_text};
use super::schema::{Schema, Table, schema};
use crate::state::{self, StateError, Store, lock};

/// Rows by the text of what one of their columns refers to.
type Index = HashMap<String, Vec<Arc<Row>>>;
/// By table and by column, with the version of the table each was made of.
type Indexes = HashMap<usize, HashMap<String, (u64, Arc<Index>)>>;

/// What can be read, of what is committed or of a transaction.
pub trait Read {
    /// A row by its key.
    fn get(&self, table: &str, key: &str) -> Option<Arc<Row>>;
    /// All rows of a table, in the order of their keys.
    fn all(&self, table: &str) -> Vec<Arc<Row>>;
    /// The rows whose column holds this key.
    fn children(&self, table: &str, column: &str, key: &str) -> Vec<Arc<Row>>;
    /// The first row for which `is` holds.
    fn find(&self, table: &str, is: &dyn Fn(&Row) -> bool) -> Option<Arc<Row>> {
        self.all(table).into_iter().find(|row| is(row))
    }
}

/// Something to be done at a time, kept over a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Timer {
    /// When, in milliseconds since 1970 on the server's clock.
    pub at_ms: u64,
    /// For whom.
    pub payload: Value,
}

/// A name for as long as the program: there is one of each, however many servers a process starts.
pub(super) fn interned(name: String) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = lock(&NAMES);
    match names.get(name.as_str()) {
        Some(known) => known,
        None => {
            let name: &'static str = Box::leak(name.into_boxed_str());
            names.insert(name);
            name
        }
    }
}

/// All rows. Reads show what is committed.
pub struct Db {
    tables: Vec<state::Table<Row>>,
    /// The last number that was given as a key, by table.
    pub(super) counters: state::Table<u64>,
    /// What is due later, by name.
    pub(super) timers: state::Table<Timer>,
    indexes: Mutex<Indexes>,
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Db({} tables)", self.tables.len())
    }
}

impl Db {
    /// Loads all tables of a system: the server's own has no scope, a tenant's is named by it.
    ///
    /// # Errors
    ///
    /// When the state cannot be read.
    pub fn open(store: &Store, scope: &str) -> Result<Self, StateError> {
        let schema = schema();
        let named = |name: &str| interned(format!("vergeos{scope}.{name}"));
        let mut tables = Vec::new();
        for table in schema.tables() {
            tables.push(store.table(named(table.name))?);
        }
        Ok(Self {
            tables,
            counters: store.table(named("$counters"))?,
            timers: store.table(named("$timers"))?,
            indexes: Mutex::default(),
        })
    }

    /// Removes every row, all counters and all timers.
    pub(super) fn wipe(&self, tx: &mut state::Tx) {
        for table in &self.tables {
            for key in table.with(|all| all.keys().cloned().collect::<Vec<_>>()) {
                tx.delete(table, &key);
            }
        }
        for key in self
            .counters
            .with(|all| all.keys().cloned().collect::<Vec<_>>())
        {
            tx.delete(&self.counters, &key);
        }
        for key in self
            .timers
            .with(|all| all.keys().cloned().collect::<Vec<_>>())
        {
            tx.delete(&self.timers, &key);
        }
    }

    /// The tables as they are described.
    pub fn schema(&self) -> &'static Schema {
        schema()
    }

    pub(super) fn rows(&self, name: &str) -> Option<(&'static Table, &state::Table<Row>)> {
        let table = schema().table(name)?;
        Some((table, self.tables.get(table.index)?))
    }

    /// Whether there is nothing yet.
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(state::Table::is_empty)
    }

    /// The number of rows of a table.
    pub fn len(&self, table: &str) -> usize {
        self.rows(table).map_or(0, |(_, rows)| rows.len())
    }

    fn index(&self, table: &'static Table, rows: &state::Table<Row>, column: &str) -> Arc<Index> {
        // The version is read before the rows: what comes in between makes the index too new, never too old.
        let version = rows.version();
        {
            let all = lock(&self.indexes);
            let known = all.get(&table.index).and_then(|of| of.get(column));
            if let Some((of, index)) = known
                && *of == version
            {
                return index.clone();
            }
        }
        let mut index = Index::new();
        for row in rows.list() {
            if let Some(key) = key_text(row.get(column)) {
                let key = poly_text(&key).to_owned();
                index.entry(key).or_default().push(row.clone());
            }
        }
        let index = Arc::new(index);
        let made = (version, index.clone());
        let mut all = lock(&self.indexes);
        let of = all.entry(table.index).or_default();
        of.insert(column.to_owned(), made);
        drop(all);
        index
    }
}

impl Read for Db {
    fn get(&self, table: &str, key: &str) -> Option<Arc<Row>> {
        let (table, rows) = self.rows(table)?;
        rows.get(&table.storage_key(key))
    }
    fn all(&self, table: &str) -> Vec<Arc<Row>> {
        self.rows(table)
            .map_or_else(Vec::new, |(_, rows)| rows.list())
    }
    fn children(&self, table: &str, column: &str, key: &str) -> Vec<Arc<Row>> {
        let Some((table, rows)) = self.rows(table) else {
            return Vec::new();
        };
        let index = self.index(table, rows, column);
        index.get(key).cloned().unwrap_or_default()
    }
}
