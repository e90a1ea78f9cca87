//! The uniform part: every table can be listed, read, written and streamed in the same way.

use std::marker::PhantomData;

use boxrig_wire::{Error, Json, Kind, Patch, Result, pages};
use futures_util::Stream;
use serde_json::Value;

use super::{Client, Query, none};
use crate::ops::{Receipt, TableCreate, TableDelete, TableList, TableUpdate};
use crate::sort::SortKey;
use crate::{Filter, Key, Row, RowType};

/// Changes to columns. What is not named stays as it is.
///
/// ```
/// use boxrig_vergeos::Changes;
/// let changes = Changes::new().set("description", "build host").clear("note");
/// assert_eq!(serde_json::to_string(&changes).unwrap(), r#"{"description":"build host","note":null}"#);
/// ```
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[serde(transparent)]
#[must_use]
pub struct Changes(pub(crate) Row);

impl Changes {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }
    /// The column gets this value.
    pub fn set(mut self, column: impl Into<String>, value: impl Into<Value>) -> Self {
        self.0.insert(column.into(), value.into());
        self
    }
    /// The column is emptied.
    pub fn clear(self, column: impl Into<String>) -> Self {
        self.set(column, Value::Null)
    }
    /// The column is left, emptied or set.
    pub fn patch<T: Into<Value>>(self, column: impl Into<String>, patch: Patch<T>) -> Self {
        match patch {
            Patch::Leave => self,
            Patch::Clear => self.clear(column),
            Patch::Set(value) => self.set(column, value),
        }
    }
}

/// A table by the type of its rows.
#[derive(Debug)]
pub struct Table<R> {
    client: Client,
    name: String,
    row: PhantomData<fn() -> R>,
}

impl<R> Clone for Table<R> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            name: self.name.clone(),
            row: PhantomData,
        }
    }
}

impl<R: RowType> Table<R> {
    pub(super) fn new(client: Client, name: String) -> Self {
        Self {
            client,
            name,
            row: PhantomData,
        }
    }

    /// Rows, in one reply.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for a filter that cannot be sent; the system's, by meaning.
    pub async fn list(&self, query: impl Into<Query>) -> Result<Vec<R>> {
        let query = query.into().encode(R::projection)?;
        self.client.rows(&self.name, query).await
    }

    /// One row by its key.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`]; the system's, by meaning.
    pub async fn get(&self, key: impl Into<Key>) -> Result<R> {
        let fields = Some(R::projection());
        self.client.row(&self.name, &key.into(), fields).await
    }

    /// The row of this name.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`]; [`Kind::Conflict`] when there are several, as names are not unique in every table.
    pub async fn find(&self, name: &str) -> Result<R> {
        let query = Query::from(Filter::eq("name", name)).limit(2);
        let mut rows = self.list(query).await?;
        match (rows.pop(), rows.pop()) {
            (Some(row), None) => Ok(row),
            (None, _) => Err(none(&self.name, name)),
            (Some(_), Some(_)) => Err(ambiguous(&self.name, name)),
        }
    }

    /// Adds a row and says under which key. Never sent twice.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] for a name that is taken; the system's, by meaning.
    pub async fn create(&self, columns: Changes) -> Result<Receipt> {
        let path = (self.name.clone(),);
        let reply = self
            .client
            .call::<TableCreate>(path, Default::default(), Json(columns.0))
            .await?;
        Ok(reply.receipt())
    }

    /// Changes columns of a row, all in one request.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`]; [`Kind::Invalid`] for a value or a column that cannot be written.
    pub async fn update(&self, key: impl Into<Key>, changes: Changes) -> Result<()> {
        let path = (self.name.clone(), key.into().to_string());
        self.client
            .call::<TableUpdate>(path, Default::default(), Json(changes.0))
            .await?;
        Ok(())
    }

    /// Removes a row.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`]; [`Kind::Conflict`] for what is in use.
    pub async fn delete(&self, key: impl Into<Key>) -> Result<()> {
        let path = (self.name.clone(), key.into().to_string());
        self.client
            .call::<TableDelete>(path, Default::default(), Default::default())
            .await?;
        Ok(())
    }

    /// How many rows pass the filter; no row is sent.
    ///
    /// # Errors
    ///
    /// [`Kind::Protocol`] when the system does not count.
    pub async fn count(&self, filter: Option<Filter>) -> Result<u64> {
        let query = Query {
            filter,
            // A projection without a column is answered with the number of rows (measured on 26.1.8).
            fields: Some(",".to_owned()),
            ..Query::default()
        };
        let query = query.encode(String::new)?;
        let path = (self.name.clone(),);
        let rows = self
            .client
            .call::<TableList>(path, query, Default::default())
            .await?;
        let count = rows.rows.first().and_then(|r| r.get("$count")?.as_u64());
        count.ok_or_else(|| {
            Error::new(Kind::Protocol, "the system did not count").with_operation("list")
        })
    }

    /// All rows that the query means, page by page, as one stream.
    ///
    /// Pages go on from the last key that was read, so rows that come and go meanwhile neither hide others nor show them
    /// twice. A query with an order of its own is paged by offset, with the key as the last column of the order.
    pub fn stream(
        &self,
        query: Query,
        page: u64,
    ) -> impl Stream<Item = Result<R>> + Send + 'static + use<R> {
        enum Mark {
            After(Key),
            Offset(u64),
        }
        let table = self.clone();
        let page = page.max(1);
        let by_key = query.sort.is_empty() && query.offset.is_none();
        pages(move |mark: Option<Mark>| {
            let table = table.clone();
            let mut query = query.clone().sort(SortKey::up("$key"));
            let most = query.limit;
            async move {
                let done = match &mark {
                    Some(Mark::Offset(n)) => *n,
                    _ => 0,
                };
                query.limit = Some(most.map_or(page, |m| page.min(m.saturating_sub(done))));
                match mark {
                    Some(Mark::After(Key::Number(n))) => {
                        query = query.filter(Filter::gt("$key", n))
                    }
                    Some(Mark::After(Key::Text(t))) => query = query.filter(Filter::gt("$key", t)),
                    Some(Mark::Offset(n)) => query.offset = Some(query.offset.unwrap_or(0) + n),
                    None => {}
                }
                let asked = query.limit.unwrap_or(page);
                let rows = if asked == 0 {
                    Vec::new()
                } else {
                    table.list(query).await?
                };
                let full = rows.len() as u64 >= asked && asked > 0;
                let next = match rows.last() {
                    _ if !full => None,
                    // A limit of the caller's is counted, and so needs the offset.
                    Some(last) if by_key && most.is_none() => last.key().map(Mark::After),
                    _ => Some(Mark::Offset(done + rows.len() as u64)),
                };
                Ok((rows, next))
            }
        })
    }
}

pub(crate) fn ambiguous(table: &str, what: impl std::fmt::Display) -> Error {
    let what = boxrig_wire::Untrusted::new(what.to_string());
    Error::new(
        Kind::Conflict,
        format!("{table} has more than one row for {what}"),
    )
    .with_hint("use the key")
}
