//! Which rows, in which order: filters and sorts over rows and what they refer to.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use boxrig_vergeos::filter::{Filter, Join, Op, Term};
use boxrig_vergeos::sort::SortKey;
use boxrig_wire::ApiError;
use serde_json::Value;

use super::db::Read;
use super::mutate::mutated;
use super::row::{Row, key_text, split_poly};
use super::schema::{Column, Kind, Table, schema};
use super::value::{Right, holds, sort_order};

/// The 422 of what the language does not have.
pub(super) fn bad_argument(why: impl std::fmt::Display) -> ApiError {
    ApiError::invalid(format!("Invalid argument: {why}"))
}

/// The way to a value, over references.
#[derive(Debug)]
pub(super) struct Field {
    steps: Vec<&'static Column>,
    last: Last,
}

#[derive(Debug)]
enum Last {
    Key,
    Display(&'static Table),
    Column(&'static Column),
    /// Of rows that are made on the spot, which have no described columns.
    Cell(String),
}

impl Field {
    /// Finds a way by its text, `cluster#name`.
    pub(super) fn find(table: &'static Table, text: &str) -> Result<Self, ApiError> {
        let unknown = |name: &str| bad_argument(format_args!("field '{name}' does not exist"));
        let mut names: Vec<&str> = text.split('#').collect();
        let last = names.pop().unwrap_or("");
        let mut at = table;
        let mut steps = Vec::new();
        for name in names {
            let column = at.column(name).ok_or_else(|| unknown(name))?;
            let Kind::Ref(target) = column.kind else {
                // Measured: what hangs off a row (`machine#status#running`) cannot be filtered by.
                return Err(bad_argument(format_args!(
                    "'{text}' cannot be compared: '{name}' is not a reference of the row"
                )));
            };
            steps.push(column);
            at = schema().known(target)?;
        }
        let last = match (last, at.column(last)) {
            ("$key", _) => Last::Key,
            ("$display", _) => Last::Display(at),
            (_, Some(column)) => match column.kind {
                Kind::Secret | Kind::Password | Kind::Named => return Err(unknown(last)),
                Kind::Rows(..) => {
                    return Err(bad_argument(format_args!(
                        "field '{last}' is a set of rows"
                    )));
                }
                _ => Last::Column(column),
            },
            (name, None) if at.computed => Last::Cell(name.to_owned()),
            (name, None) => return Err(unknown(name)),
        };
        Ok(Self { steps, last })
    }

    /// The value of a row; null where the way ends.
    pub(super) fn value<'a>(&self, read: &dyn Read, row: &'a Row) -> Cow<'a, Value> {
        if self.steps.is_empty() {
            return self.last_of(read, row);
        }
        let mut here: Option<Arc<Row>> = None;
        for step in &self.steps {
            let row = here.as_deref().unwrap_or(row);
            let Kind::Ref(target) = step.kind else {
                return Cow::Owned(Value::Null);
            };
            let found = key_text(row.get(step.name)).and_then(|key| read.get(target, &key));
            match found {
                Some(row) => here = Some(row),
                None => return Cow::Owned(Value::Null),
            }
        }
        let row = here.as_deref().unwrap_or(row);
        Cow::Owned(self.last_of(read, row).into_owned())
    }

    fn last_of<'a>(&self, read: &dyn Read, row: &'a Row) -> Cow<'a, Value> {
        match &self.last {
            Last::Key => Cow::Borrowed(row.get("$key")),
            Last::Cell(name) => Cow::Borrowed(row.get(name)),
            Last::Column(column) => cell(read, row, column),
            Last::Display(table) => Cow::Owned(display(table, row)),
        }
    }
}

/// A column's own value: what is stored, its default, or the key of the one row that refers to this one.
pub(super) fn cell<'a>(read: &dyn Read, row: &'a Row, column: &'static Column) -> Cow<'a, Value> {
    match column.kind {
        Kind::Row(table, back) => {
            let found = read.children(table, back, &row.key()).into_iter().next();
            Cow::Owned(found.map_or(Value::Null, |r| r.get("$key").clone()))
        }
        Kind::Rows(..) => Cow::Owned(Value::Null),
        _ => Cow::Borrowed(row.0.get(column.name).unwrap_or(&column.default)),
    }
}

/// The name by which people know a row.
pub(super) fn display(table: &Table, row: &Row) -> Value {
    let value = row.get(table.display);
    match value {
        Value::String(text) if !text.is_empty() => value.clone(),
        Value::Null | Value::String(_) => Value::from(row.key()),
        other => Value::from(other.to_string()),
    }
}

/// What a reference points at.
pub(super) fn follow(
    read: &dyn Read,
    table: &'static Table,
    row: &Row,
    column: &'static Column,
) -> Option<(&'static Table, Arc<Row>)> {
    match &column.kind {
        Kind::Ref(target) => {
            let key = key_text(row.get(column.name))?;
            Some((schema().table(target)?, read.get(target, &key)?))
        }
        Kind::Poly => {
            let (target, key) = split_poly(row.text(column.name))?;
            Some((schema().table(target)?, read.get(target, key)?))
        }
        Kind::Row(target, back) => {
            let row = rows_of(read, table, row, target, back).into_iter().next()?;
            Some((schema().table(target)?, row))
        }
        _ => None,
    }
}

/// The rows of a table whose column refers to this row.
pub(super) fn rows_of(
    read: &dyn Read,
    table: &'static Table,
    row: &Row,
    other: &str,
    back: &str,
) -> Vec<Arc<Row>> {
    let key = row.key();
    let poly = schema()
        .table(other)
        .and_then(|t| t.column(back))
        .is_some_and(|c| c.kind == Kind::Poly);
    match poly {
        true => read.children(other, back, &format!("{}/{key}", table.name)),
        false => read.children(other, back, &key),
    }
}

/// A filter, made ready for a table.
#[derive(Debug)]
pub(super) struct Selection {
    first: Test,
    rest: Vec<(Join, Test)>,
}

#[derive(Debug)]
enum Test {
    Compare(Field, Op, Right),
    Group(Box<Selection>),
}

/// A filter with the platform's `{$now}` as the present time; what stands in quotes is left as it is.
pub(super) fn with_now(text: &str, now: i64) -> Cow<'_, str> {
    const NOW: &str = "{$now}";
    if !text.contains(NOW) {
        return Cow::Borrowed(text);
    }
    let (mut out, mut quoted, mut escaped) = (String::new(), false, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if !quoted && let Some(after) = rest.strip_prefix(NOW) {
            out.push_str(&now.to_string());
            rest = after;
            continue;
        }
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '\'' => quoted = !quoted,
            _ => {}
        }
        out.push(c);
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    Cow::Owned(out)
}

impl Selection {
    /// Reads a filter.
    ///
    /// # Errors
    ///
    /// A 422 with the place.
    pub(super) fn parse(table: &'static Table, text: &str) -> Result<Option<Self>, ApiError> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        let filter = Filter::parse(text).map_err(bad_argument)?;
        Self::new(table, &filter).map(Some)
    }

    fn new(table: &'static Table, filter: &Filter) -> Result<Self, ApiError> {
        let rest = filter.rest.iter();
        Ok(Self {
            first: Test::new(table, &filter.first)?,
            rest: rest
                .map(|(join, term)| Ok((*join, Test::new(table, term)?)))
                .collect::<Result<_, ApiError>>()?,
        })
    }

    /// Whether a row passes: strictly from left to right.
    pub(super) fn passes(&self, read: &dyn Read, row: &Row) -> bool {
        let mut passes = self.first.passes(read, row);
        for (join, test) in &self.rest {
            passes = match join {
                Join::And => passes && test.passes(read, row),
                Join::Or if mutated("filter_or") => passes,
                Join::Or => passes || test.passes(read, row),
            };
        }
        passes
    }
}

impl Test {
    fn new(table: &'static Table, term: &Term) -> Result<Self, ApiError> {
        Ok(match term {
            Term::Compare { field, op, value } => {
                Self::Compare(Field::find(table, field)?, *op, Right::new(*op, value))
            }
            Term::Group(inner) => Self::Group(Box::new(Selection::new(table, inner)?)),
            // The parser makes none.
            Term::Raw(text) => return Err(bad_argument(text)),
        })
    }
    fn passes(&self, read: &dyn Read, row: &Row) -> bool {
        match self {
            Self::Compare(field, op, right) => holds(&field.value(read, row), *op, right),
            Self::Group(inner) => inner.passes(read, row),
        }
    }
}

/// Puts rows in order; equal ones stay as they were.
///
/// # Errors
///
/// A 422 for a column that is not there.
pub(super) fn sort(
    read: &dyn Read,
    table: &'static Table,
    rows: &mut Vec<Arc<Row>>,
    text: &str,
) -> Result<(), ApiError> {
    let keys = SortKey::parse(text).map_err(bad_argument)?;
    let mut fields = Vec::new();
    for key in &keys {
        fields.push((Field::find(table, &key.field)?, key.descending));
    }
    if fields.is_empty() || mutated("sort") {
        return Ok(());
    }
    let width = fields.len();
    let order = {
        // All values in one list, row by row: they are compared many times and found once.
        let values: Vec<Cow<'_, Value>> = rows
            .iter()
            .flat_map(|row| fields.iter().map(|(f, _)| f.value(read, row)))
            .collect();
        let values: Vec<&[Cow<'_, Value>]> = values.chunks(width).collect();
        let of = |i: usize| values.get(i).copied().unwrap_or_default();
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_unstable_by(|a, b| {
            let pairs = of(*a).iter().zip(of(*b)).zip(&fields);
            for ((a, b), (_, descending)) in pairs {
                let order = match descending {
                    true => sort_order(b, a),
                    false => sort_order(a, b),
                };
                if order != Ordering::Equal {
                    return order;
                }
            }
            // Equal ones stay as they were.
            a.cmp(b)
        });
        order
    };
    *rows = order.iter().filter_map(|i| rows.get(*i).cloned()).collect();
    Ok(())
}
