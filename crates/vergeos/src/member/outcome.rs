//! What a member gives back, made of the replies.

use std::any::Any;

use boxrig_wire::{BoxFuture, Error, Kind, Result};
use bytes::Bytes;
use serde_json::Value;

use super::ran::Ran;
use crate::client::Transferred;
use crate::ops::ListQuery;
use crate::reader::RowList;
use crate::{Client, Key, RowType};

/// A type that a member can give back.
pub trait Outcome: Sized + Send + 'static {
    /// Lists what is nothing but rows, so that they are read as they come.
    #[doc(hidden)]
    fn lister() -> Option<Lister> {
        None
    }
    /// Makes it of what was answered.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when the row that is meant is not there, [`Kind::Conflict`] when there are several,
    /// [`Kind::Protocol`] when the answer is of another form.
    fn from_ran(ran: Ran) -> Result<Self>;
}

/// Lists the rows of a table, as the type that a member gives back.
#[doc(hidden)]
pub(crate) type Lister =
    fn(Client, String, ListQuery) -> BoxFuture<'static, Result<Box<dyn Any + Send + Sync>>>;

fn form(ran: &Ran, what: &str) -> Error {
    Error::new(
        Kind::Protocol,
        format!("{}: the answer is no {what}", ran.member.id()),
    )
}

/// Rows of the reply that is given back, those that are to be kept.
fn rows<R: RowType>(ran: &Ran) -> Result<Vec<R>> {
    let reply = ran.returned();
    let Some(reply) = reply else {
        return Ok(Vec::new());
    };
    let bytes = reply.bytes.trim_ascii();
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let rows: RowList<R> = serde_json::from_slice(bytes).map_err(|e| {
        Error::new(
            Kind::Protocol,
            format!("the reply is not the expected JSON: {e}"),
        )
        .with_operation("list")
        .with_body(bytes)
    })?;
    if ran.keep.is_empty() {
        return Ok(rows.0);
    }
    Ok(rows
        .0
        .into_iter()
        .filter(|row| ran.keeps(|column| row.record().get(column)))
        .collect())
}

impl<R: RowType> Outcome for Vec<R> {
    fn lister() -> Option<Lister> {
        Some(|client, table, query| {
            Box::pin(async move {
                let rows = client.rows::<R>(&table, query).await?;
                Ok(Box::new(rows) as Box<dyn Any + Send + Sync>)
            })
        })
    }
    fn from_ran(mut ran: Ran) -> Result<Self> {
        match ran.rows.take().map(|rows| rows.downcast()) {
            Some(Ok(rows)) => Ok(*rows),
            _ => rows(&ran),
        }
    }
}

/// The one row that is meant.
fn one<R: RowType>(ran: &Ran) -> Result<Option<R>> {
    let mut rows: Vec<R> = rows(ran)?;
    if let Some(pick) = ran.picked() {
        rows.retain(|row| {
            pick.iter()
                .all(|(column, value)| row.record().get(column).is_some_and(|v| same(&v, value)))
        });
    }
    match rows.len() {
        0 => Ok(None),
        1 => Ok(rows.pop()),
        _ if ran.returned().is_some_and(|r| r.ordered) => Ok(rows.into_iter().next()),
        _ => Err(crate::client::ambiguous(&ran.member.table, ran.asked())),
    }
}

pub(crate) fn same(a: &Value, b: &Value) -> bool {
    a == b || (super::value::plain(a) == super::value::plain(b) && !a.is_null() && !b.is_null())
}

impl<R: RowType> Outcome for R {
    fn from_ran(ran: Ran) -> Result<Self> {
        one(&ran)?.ok_or_else(|| crate::client::none(&ran.member.table, ran.asked()))
    }
}

impl<R: RowType> Outcome for Option<R> {
    fn from_ran(ran: Ran) -> Result<Self> {
        one(&ran)
    }
}

impl Outcome for () {
    fn from_ran(_: Ran) -> Result<Self> {
        Ok(())
    }
}

impl Outcome for Value {
    fn from_ran(ran: Ran) -> Result<Self> {
        ran.into_value()
    }
}

impl Outcome for Vec<Value> {
    fn from_ran(ran: Ran) -> Result<Self> {
        match ran.into_value()? {
            Value::Array(items) => Ok(items),
            Value::Null => Ok(Vec::new()),
            Value::Object(map) => match map.into_iter().find(|(_, v)| v.is_array()) {
                Some((_, Value::Array(items))) => Ok(items),
                _ => Ok(Vec::new()),
            },
            other => Ok(vec![other]),
        }
    }
}

impl Outcome for i64 {
    fn from_ran(ran: Ran) -> Result<Self> {
        let no = form(&ran, "number");
        match ran.into_value()? {
            Value::Array(rows) => Ok(rows.len() as i64),
            value => crate::client::number(&value).ok_or(no),
        }
    }
}

impl Outcome for bool {
    fn from_ran(ran: Ran) -> Result<Self> {
        Ok(match ran.into_value()? {
            Value::Bool(b) => b,
            Value::Array(rows) => !rows.is_empty(),
            Value::Null => false,
            _ => true,
        })
    }
}

impl Outcome for String {
    fn from_ran(ran: Ran) -> Result<Self> {
        ran.into_value().map(|v| super::value::plain(&v))
    }
}

impl Outcome for Bytes {
    fn from_ran(ran: Ran) -> Result<Self> {
        let no = form(&ran, "content");
        ran.content.ok_or(no)
    }
}

impl Outcome for Transferred {
    fn from_ran(ran: Ran) -> Result<Self> {
        let no = form(&ran, "transfer");
        ran.transferred.ok_or(no)
    }
}

impl Outcome for Client {
    fn from_ran(ran: Ran) -> Result<Self> {
        let no = form(&ran, "client");
        ran.client.ok_or(no)
    }
}

impl Outcome for Key {
    fn from_ran(ran: Ran) -> Result<Self> {
        let no = form(&ran, "key");
        Key::of(&ran.into_value()?).ok_or(no)
    }
}
