//! The rows: every table in memory, each change durable before it is told.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::row::{Row, key_text, poly_text};
use super::schema::{Schema, Table, schema};
use crate::state::{self, StateError, Store, lock};

/// Rows by the text of what one of their columns refers to.
type Index = HashMap<String, Vec<Arc<Row>>>;
/// By table and column, with the version of the table each was made of.
type Indexes = HashMap<(usize, String), (u64, Arc<Index>)>;

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
    /// Loads all tables.
    ///
    /// # Errors
    ///
    /// When the state cannot be read.
    pub fn open(store: &Store) -> Result<Self, StateError> {
        let schema = schema();
        let mut tables = Vec::new();
        for table in schema.tables() {
            // As long as the program: the names of the schema, each made once a server.
            let name: &'static str = Box::leak(format!("vergeos.{}", table.name).into_boxed_str());
            tables.push(store.table(name)?);
        }
        Ok(Self {
            tables,
            counters: store.table("vergeos.$counters")?,
            timers: store.table("vergeos.$timers")?,
            indexes: Mutex::default(),
        })
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
        let name = (table.index, column.to_owned());
        if let Some((of, index)) = lock(&self.indexes).get(&name)
            && *of == version
        {
            return index.clone();
        }
        let mut index = Index::new();
        for row in rows.list() {
            if let Some(key) = key_text(row.get(column)) {
                let key = poly_text(&key).to_owned();
                index.entry(key).or_default().push(row.clone());
            }
        }
        let index = Arc::new(index);
        lock(&self.indexes).insert(name, (version, index.clone()));
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
