//! A transaction: many rows of many tables, all or nothing.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use boxrig_wire::ApiError;
use serde_json::Value;

use super::behaviour::Behaviour;
use super::db::{Db, Read, Timer};
use super::mutate;
use super::row::{Row, key_text, poly_text, split_poly};
use super::schema::{KeyKind, Kind, OnDelete, Table, schema};
use super::state::{Cx, Shared, State};
use super::write::{self, Change};
use crate::ids::Ids;
use crate::state;

/// Work after a commit.
pub(super) type Effect = Box<dyn FnOnce(Shared) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// How many rows a cascade may go from one to the next.
const CASCADE_DEPTH: usize = 32;

/// A transaction. Reads show its own changes.
pub struct Tx<'a> {
    pub(super) state: &'a Shared,
    inner: &'a mut state::Tx,
    /// The key of the user whose request it is.
    pub(super) user: Option<i64>,
    /// Columns that were sent and are none of the table.
    pub(super) ignored: Vec<String>,
    pub(super) effects: Vec<Effect>,
    /// Rows that are being deleted, so that a ring of references ends.
    leaving: BTreeSet<(usize, String)>,
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").field("inner", &self.inner).finish()
    }
}

impl Read for Tx<'_> {
    fn get(&self, table: &str, key: &str) -> Option<Arc<Row>> {
        let (table, rows) = self.db().rows(table)?;
        self.inner.get(rows, &table.storage_key(key))
    }
    fn all(&self, table: &str) -> Vec<Arc<Row>> {
        match self.db().rows(table) {
            Some((_, rows)) => self.inner.with(rows, |all| all.values().cloned().collect()),
            None => Vec::new(),
        }
    }
    fn children(&self, table: &str, column: &str, key: &str) -> Vec<Arc<Row>> {
        let Some((_, rows)) = self.db().rows(table) else {
            return Vec::new();
        };
        self.inner.with(rows, |all| {
            let of = all
                .values()
                .filter(|row| key_text(row.get(column)).is_some_and(|k| poly_text(&k) == key));
            of.cloned().collect()
        })
    }
    fn find(&self, table: &str, is: &dyn Fn(&Row) -> bool) -> Option<Arc<Row>> {
        let (_, rows) = self.db().rows(table)?;
        self.inner
            .with(rows, |all| all.values().find(|row| is(row)).cloned())
    }
}

impl<'a> Tx<'a> {
    pub(super) fn new(state: &'a Shared, inner: &'a mut state::Tx, user: Option<i64>) -> Self {
        Self {
            state,
            inner,
            user,
            ignored: Vec::new(),
            effects: Vec::new(),
            leaving: BTreeSet::new(),
        }
    }

    /// Whoever is asked about rows of a table.
    fn behaviours(&self, table: &str, hook: &str) -> &'a [Box<dyn Behaviour>] {
        let state: &'a State = self.state;
        match mutate::is("hook", || format!("{table}.{hook}")) {
            true => &[],
            false => &state.behaviours,
        }
    }

    fn db(&self) -> &'a Db {
        &self.state.db
    }
    /// What the server shares.
    pub fn cx(&self) -> Cx {
        Cx::of(self.state.clone(), self.user)
    }
    /// The present time in seconds since 1970.
    pub fn now(&self) -> i64 {
        self.state.now()
    }
    /// Identifiers.
    pub fn ids(&self) -> &Ids {
        &self.state.core.ids
    }
    /// The key of the user whose request it is; `None` for the server's own doing.
    pub fn user(&self) -> Option<i64> {
        self.user
    }

    /// A cell of a row, or the column's default.
    pub fn value<'r>(&self, table: &str, row: &'r Row, column: &str) -> Cow<'r, Value> {
        let described = schema().table(table).and_then(|t| t.column(column));
        match (row.0.get(column), described) {
            (Some(value), _) => Cow::Borrowed(value),
            (None, Some(column)) => Cow::Owned(column.default.clone()),
            (None, None) => Cow::Owned(Value::Null),
        }
    }

    /// Makes a row as a request would: checked, with what behaviours do about it. Gives its key.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or a behaviour's refusal.
    pub fn create(&mut self, table: &str, row: Row) -> Result<String, ApiError> {
        let (key, _) = self.create_with_receipt(table, row, false)?;
        Ok(key)
    }

    /// As [`Tx::create`], with what behaviours add to the receipt. `client`: the row was sent, and read-only columns in it are refused.
    pub(super) fn create_with_receipt(
        &mut self,
        name: &str,
        sent: Row,
        client: bool,
    ) -> Result<(String, Row), ApiError> {
        let table = schema().known(name)?;
        let mut row = write::accept(self, table, None, sent, client)?;
        for behaviour in self.behaviours(name, "before_create") {
            behaviour.before_create(self, name, &mut row)?;
        }
        write::fill(self, table, &mut row)?;
        write::check(self, table, Change::New, &row)?;
        let key = row.key();
        self.put(table, &key, row.clone())?;
        let mut receipt = Row::new();
        for behaviour in self.behaviours(name, "after_create") {
            behaviour.after_create(self, name, &row, &mut receipt)?;
        }
        Ok((key, receipt))
    }

    /// Changes cells of a row as a request would.
    ///
    /// # Errors
    ///
    /// A 404 when it is not there, what is wrong with the change, or a behaviour's refusal.
    pub fn update(&mut self, table: &str, key: &str, changes: Row) -> Result<Arc<Row>, ApiError> {
        self.update_as(table, key, changes, false)
    }

    pub(super) fn update_as(
        &mut self,
        name: &str,
        key: &str,
        changes: Row,
        client: bool,
    ) -> Result<Arc<Row>, ApiError> {
        let table = schema().known(name)?;
        let old = self.row(name, key)?;
        let changes = write::accept(self, table, Some(&old), changes, client)?;
        let mut new = (*old).clone();
        new.0.extend(changes.0);
        for behaviour in self.behaviours(name, "before_update") {
            behaviour.before_update(self, name, &old, &mut new)?;
        }
        if new == *old {
            return Ok(old);
        }
        if table.column("modified").is_some() {
            new.set("modified", self.now());
        }
        write::check(self, table, Change::Of(&old), &new)?;
        self.put(table, key, new.clone())?;
        for behaviour in self.behaviours(name, "after_update") {
            behaviour.after_update(self, name, &old, &new)?;
        }
        Ok(Arc::new(new))
    }

    /// Deletes a row with what belongs to it.
    ///
    /// # Errors
    ///
    /// A 404 when it is not there, a 409 when something keeps it, or a behaviour's refusal.
    pub fn delete(&mut self, name: &str, key: &str) -> Result<(), ApiError> {
        let table = schema().known(name)?;
        let row = self.row(name, key)?;
        if !self.leaving.insert((table.index, row.key())) {
            return Ok(());
        }
        if self.leaving.len() > CASCADE_DEPTH {
            return Err(ApiError::conflict("too much belongs to the row"));
        }
        for behaviour in self.behaviours(name, "before_delete") {
            behaviour.before_delete(self, name, &row)?;
        }
        let key = row.key();
        for (other, column) in schema().referrers(name) {
            let holds = match column.kind {
                Kind::Poly => format!("{name}/{key}"),
                _ => key.clone(),
            };
            for child in self.children(other.name, column.name, &holds) {
                let child_key = child.key();
                if self.leaving.contains(&(other.index, child_key.clone())) {
                    continue;
                }
                match column.on_delete {
                    OnDelete::Cascade if mutate::mutated("cascade") => {}
                    OnDelete::Cascade => self.delete(other.name, &child_key)?,
                    OnDelete::Restrict => {
                        return Err(ApiError::conflict(format!(
                            "the row is in use by {}/{child_key}",
                            other.name
                        )));
                    }
                    // A reference to any table keeps its text, as it may be a record of what was.
                    OnDelete::Clear if column.kind == Kind::Poly => {}
                    OnDelete::Clear => {
                        self.set(
                            other.name,
                            &child_key,
                            Row::new().with(column.name, Value::Null),
                        )?;
                    }
                }
            }
        }
        // A behaviour may have removed it on the way.
        if let Some((_, rows)) = self.db().rows(name) {
            self.inner.delete(rows, &table.storage_key(&key));
        }
        for behaviour in self.behaviours(name, "after_delete") {
            behaviour.after_delete(self, name, &row)?;
        }
        self.leaving.remove(&(table.index, key));
        Ok(())
    }

    /// A row that must be there.
    ///
    /// # Errors
    ///
    /// A 404.
    pub fn row(&self, table: &str, key: &str) -> Result<Arc<Row>, ApiError> {
        self.get(table, key).ok_or_else(no_row)
    }

    /// Puts a row without checks and behaviours. Without a `$key` it gets the next one; over one that is there, its
    /// cells are laid. Gives its key.
    ///
    /// # Errors
    ///
    /// When there is no such table, or the key is none of its kind.
    pub fn insert(&mut self, name: &str, mut row: Row) -> Result<String, ApiError> {
        let table = schema().known(name)?;
        let key = row.key();
        if !key.is_empty()
            && let Some(old) = self.get(name, &key)
        {
            let mut merged = (*old).clone();
            merged.0.extend(row.0);
            merged.set("$key", table.key_value(&key));
            self.put(table, &key, merged)?;
            return Ok(key);
        }
        write::fill(self, table, &mut row)?;
        let key = row.key();
        self.put(table, &key, row)?;
        Ok(key)
    }

    /// Sets cells of a row without checks and behaviours; nothing when it is not there.
    ///
    /// # Errors
    ///
    /// When there is no such table.
    pub fn set(&mut self, name: &str, key: &str, changes: Row) -> Result<(), ApiError> {
        let table = schema().known(name)?;
        if let Some(old) = self.get(name, key) {
            let mut new = (*old).clone();
            new.0.extend(changes.0);
            if new != *old {
                self.put(table, key, new)?;
            }
        }
        Ok(())
    }

    /// Removes a row and nothing else; nothing when it is not there.
    pub fn remove(&mut self, name: &str, key: &str) {
        if let Some((table, rows)) = self.db().rows(name) {
            self.inner.delete(rows, &table.storage_key(key));
        }
    }

    fn put(&mut self, table: &Table, key: &str, mut row: Row) -> Result<(), ApiError> {
        if let Some(column) = mutate::lost_cell(table.name) {
            row.0.remove(column);
        }
        if let Some((_, rows)) = self.db().rows(table.name) {
            self.inner.put(rows, &table.storage_key(key), row)?;
        }
        Ok(())
    }

    /// The next number of a table, never given twice.
    pub(super) fn next_key(&mut self, table: &Table) -> Result<i64, ApiError> {
        let Some((_, rows)) = self.db().rows(table.name) else {
            return Ok(1);
        };
        let last = self.inner.with(rows, |all| {
            let last = all.last_key_value();
            last.and_then(|(k, _)| k.parse::<u64>().ok()).unwrap_or(0)
        });
        let counters = &self.db().counters;
        let counted = self.inner.get(counters, table.name).map_or(0, |n| *n);
        let next = last.max(counted) + 1;
        self.inner.put(counters, table.name, next)?;
        Ok(i64::try_from(next).unwrap_or(i64::MAX))
    }

    /// A new key of a table that has no numbers.
    pub(super) fn new_key(&mut self, table: &Table, row: &Row) -> Result<Value, ApiError> {
        Ok(match table.key {
            KeyKind::Int => Value::from(self.next_key(table)?),
            KeyKind::Hash => Value::from(self.ids().hex(40)),
            KeyKind::Uuid => match row.text("uuid") {
                "" => Value::from(self.ids().uuid().to_string()),
                given => Value::from(given),
            },
            KeyKind::Name(column) => row.get(column).clone(),
        })
    }

    /// Has `name` done at a time (milliseconds since 1970 on the server's clock), also after a restart; one that
    /// was set under the name is replaced.
    ///
    /// # Errors
    ///
    /// When it cannot be saved.
    pub fn at(&mut self, at_ms: u64, name: &str, payload: Value) -> Result<(), ApiError> {
        let timer = Timer { at_ms, payload };
        self.inner.put(&self.db().timers, name, timer)?;
        self.state.wake_timers();
        Ok(())
    }

    /// Forgets what was to be done.
    pub fn cancel(&mut self, name: &str) {
        self.inner.delete(&self.db().timers, name);
    }

    /// What is to be done under a name.
    pub fn timer(&self, name: &str) -> Option<Arc<Timer>> {
        self.inner.get(&self.db().timers, name)
    }

    /// The names of what is to be done.
    pub fn timers(&self) -> Vec<String> {
        self.inner
            .with(&self.db().timers, |all| all.keys().cloned().collect())
    }

    /// Has work done after the commit; not when it fails.
    pub fn then<F, Fut>(&mut self, work: F)
    where
        F: FnOnce(Cx) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let user = self.user;
        self.effects
            .push(Box::new(move |state| Box::pin(work(Cx::of(state, user)))));
    }

    /// What a reference to any table points at.
    pub fn poly(&self, text: &str) -> Option<Arc<Row>> {
        let (table, key) = split_poly(text)?;
        self.get(table, key)
    }
}

/// The 404 of a row.
pub(super) fn no_row() -> ApiError {
    ApiError::not_found("row does not exist")
}
