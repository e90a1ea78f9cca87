//! Which rows, in which order, with which columns.

use boxrig_wire::{Error, Kind, Result};

use crate::Filter;
use crate::ops::ListQuery;
use crate::sort::SortKey;

/// Which rows of a table. Everything by default: all rows, the columns of their type, in no order.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Query {
    pub(super) filter: Option<Filter>,
    pub(super) fields: Option<String>,
    pub(super) sort: Vec<SortKey>,
    pub(super) limit: Option<u64>,
    pub(super) offset: Option<u64>,
}

impl Query {
    /// All rows.
    pub fn new() -> Self {
        Self::default()
    }
    /// Only rows that pass; with another filter before: both.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(match self.filter {
            Some(before) => before.and(filter),
            None => filter,
        });
        self
    }
    /// Other columns than those of the row's type.
    pub fn fields(mut self, fields: impl Into<String>) -> Self {
        self.fields = Some(fields.into());
        self
    }
    /// Ordered by this column, after those named before.
    pub fn sort(mut self, key: SortKey) -> Self {
        self.sort.push(key);
        self
    }
    /// At most this many rows.
    pub fn limit(mut self, rows: u64) -> Self {
        self.limit = Some(rows);
        self
    }
    /// Without the first so many rows.
    pub fn offset(mut self, rows: u64) -> Self {
        self.offset = Some(rows);
        self
    }

    pub(super) fn encode(&self, projection: impl FnOnce() -> String) -> Result<ListQuery> {
        let filter = match &self.filter {
            Some(filter) => Some(
                filter
                    .encode()
                    .map_err(|e| Error::new(Kind::Invalid, format!("the filter: {e}")))?,
            ),
            None => None,
        };
        let sort: Vec<_> = self.sort.iter().map(SortKey::to_string).collect();
        Ok(ListQuery {
            filter,
            fields: Some(self.fields.clone().unwrap_or_else(projection)),
            sort: (!sort.is_empty()).then(|| sort.join(",")),
            limit: self.limit,
            offset: self.offset,
        })
    }
}

impl From<Filter> for Query {
    fn from(filter: Filter) -> Self {
        Self::new().filter(filter)
    }
}
