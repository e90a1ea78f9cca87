//! Which columns of a row, of what it refers to, and what is computed of them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use boxrig_vergeos::filter::Op;
use boxrig_vergeos::projection::{Expr, Item, Projection};
use boxrig_wire::ApiError;
use serde_json::{Map, Value};
use sha1::Digest;

use super::db::Read;
use super::row::Row;
use super::schema::{Column, KeyKind, Kind, Table, label, schema};
use super::select::{bad_argument, cell, display, follow, rows_of};
use super::value::{Right, holds};
use crate::ids::to_hex;

/// The tables whose view `all` lacks `$key`, as it was measured.
const ALL_WITHOUT_KEY: [&str; 2] = ["nodes", "storage_tiers"];

/// A projection, made ready for a table.
#[derive(Debug)]
pub(super) struct Columns {
    table: &'static Table,
    items: Vec<(String, Part)>,
    /// Nothing at all was named: the answer is how many rows there are.
    pub(super) only_count: bool,
    /// Each item as it begins in an object, `"name":`, when every item is one member: no name stands there twice, and
    /// none stands for members that only the row knows.
    members: Option<Vec<Vec<u8>>>,
}

#[derive(Debug)]
enum Part {
    Key,
    Display,
    Cell(&'static Column),
    /// Of rows that are made on the spot.
    Made(String),
    Follow(&'static Column, Then),
    Select(&'static Column, Columns),
    Call(Func, Box<Part>),
    Test(Box<Part>, Op, Right),
}

/// What is asked of the row at the other end of a reference.
#[derive(Debug)]
enum Then {
    /// Of a known table.
    Known(Box<Part>),
    /// Of whatever table the reference names.
    Any(Expr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Func {
    Collapse,
    Count,
    Datetime,
    Upper,
    Lower,
    Diskspace,
    Display,
    Hex,
    Sha1,
    Sum,
    Avg,
    Min,
    Max,
    Flatten,
}

impl Func {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "collapse" => Self::Collapse,
            "count" => Self::Count,
            "datetime" => Self::Datetime,
            "upper" => Self::Upper,
            "lower" => Self::Lower,
            "diskspace" => Self::Diskspace,
            "display" => Self::Display,
            "hex" => Self::Hex,
            "sha1" => Self::Sha1,
            "sum" => Self::Sum,
            "avg" => Self::Avg,
            "min" => Self::Min,
            "max" => Self::Max,
            "flatten" => Self::Flatten,
            _ => return None,
        })
    }
}

impl Columns {
    /// Reads a projection; without one, the table's short default.
    ///
    /// # Errors
    ///
    /// A 422 for what is not of the language. Columns that are not there are passed over, as the platform does.
    pub(super) fn parse(table: &'static Table, text: Option<&str>) -> Result<Self, ApiError> {
        let Some(text) = text else {
            let mut columns = Self::empty(table);
            columns.view("summary");
            columns.prepare();
            return Ok(columns);
        };
        let projection = Projection::parse(text).map_err(bad_argument)?;
        let mut columns = Self::new(table, &projection)?;
        columns.only_count = projection.items.is_empty();
        Ok(columns)
    }

    fn empty(table: &'static Table) -> Self {
        Self {
            table,
            items: Vec::new(),
            only_count: false,
            members: None,
        }
    }

    /// Makes ready how rows are written.
    fn prepare(&mut self) {
        let mut seen = BTreeSet::new();
        let plain = self.items.iter().all(|(name, part)| {
            let one = match part {
                Part::Made(all) => !all.is_empty(),
                Part::Call(func, _) => *func != Func::Flatten,
                _ => true,
            };
            one && seen.insert(name.as_str())
        });
        self.members = plain.then(|| {
            let names = self.items.iter().map(|(name, _)| name);
            names
                .map(|name| format!("{}:", Value::from(name.as_str())).into_bytes())
                .collect()
        });
    }

    fn new(table: &'static Table, projection: &Projection) -> Result<Self, ApiError> {
        let mut columns = Self::empty(table);
        for Item { expr, alias } in &projection.items {
            if let (Expr::Column(name), None) = (expr, alias)
                && columns.view(name)
            {
                continue;
            }
            if let Some(part) = Part::new(table, expr)? {
                let name = alias.clone().unwrap_or_else(|| expr.to_string());
                columns.items.push((name, part));
            }
        }
        columns.prepare();
        Ok(columns)
    }

    /// Adds the columns of a view; false when that is none.
    fn view(&mut self, name: &str) -> bool {
        let key = match name {
            "all" => !ALL_WITHOUT_KEY.contains(&self.table.name),
            "most" | "summary" | "dashboard" => true,
            _ => return false,
        };
        // A column may have the name of a view.
        if self.table.column(name).is_some() {
            return false;
        }
        if key {
            self.items.push(("$key".to_owned(), Part::Key));
        }
        if self.table.computed {
            self.items.push((String::new(), Part::Made(String::new())));
        }
        let short = matches!(name, "summary" | "dashboard");
        for column in &self.table.columns {
            if column.kind.is_shown() && (column.list || !short) {
                self.items
                    .push((column.name.to_owned(), Part::Cell(column)));
            }
        }
        true
    }

    /// The columns of a row.
    pub(super) fn of(&self, read: &dyn Read, row: &Row) -> Map<String, Value> {
        let mut out = Map::new();
        for (name, part) in &self.items {
            match part {
                Part::Made(all) if all.is_empty() => {
                    out.extend(row.0.iter().map(|(k, v)| (k.clone(), v.clone())));
                }
                Part::Call(Func::Flatten, inner) => {
                    if let Some(Value::Object(inner)) = inner.of(read, self.table, row) {
                        out.extend(inner);
                    }
                }
                _ => {
                    if let Some(value) = part.of(read, self.table, row) {
                        out.insert(name.clone(), value);
                    }
                }
            }
        }
        out
    }

    /// Writes the columns of a row as a JSON object: what [`Columns::of`] gives, without a map in between.
    pub(super) fn write(&self, read: &dyn Read, row: &Row, out: &mut Vec<u8>) {
        let Some(members) = &self.members else {
            return json(&Value::Object(self.of(read, row)), out);
        };
        out.push(b'{');
        let empty = out.len();
        for (name, (_, part)) in members.iter().zip(&self.items) {
            let before = out.len();
            if before > empty {
                out.push(b',');
            }
            out.extend_from_slice(name);
            if !part.write(read, self.table, row, out) {
                out.truncate(before);
            }
        }
        out.push(b'}');
    }
}

/// Appends a value.
fn json(value: &Value, out: &mut Vec<u8>) {
    // Neither a value nor writing to memory can fail.
    let _ = serde_json::to_writer(out, value);
}

/// Appends values as an array.
pub(super) fn array<T>(items: &[T], out: &mut Vec<u8>, item: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (n, one) in items.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        item(one, out);
    }
    out.push(b']');
}

impl Part {
    /// Writes what [`Part::of`] gives; false: nothing was written, the column is left out.
    fn write(&self, read: &dyn Read, table: &'static Table, row: &Row, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Key => json(row.get("$key"), out),
            Self::Cell(column) => match column.kind {
                Kind::Rows(other, back) => {
                    let rows = rows_of(read, table, row, other, back);
                    array(&rows, out, |row, out| json(row.get("$key"), out));
                }
                _ => json(&cell(read, row, column), out),
            },
            Self::Follow(column, Then::Known(then)) => match follow(read, table, row, column) {
                Some((table, row)) => return then.write(read, table, &row, out),
                None => json(&Value::Null, out),
            },
            Self::Select(column, columns) => match column.kind {
                Kind::Rows(other, back) => {
                    let rows: Vec<Arc<Row>> = rows_of(read, table, row, other, back);
                    array(&rows, out, |row, out| columns.write(read, row, out));
                }
                _ => match follow(read, table, row, column) {
                    Some((_, row)) => columns.write(read, &row, out),
                    None => json(&Value::Null, out),
                },
            },
            _ => match self.of(read, table, row) {
                Some(value) => json(&value, out),
                None => return false,
            },
        }
        true
    }

    /// `None` when a column on the way is not there.
    fn new(table: &'static Table, expr: &Expr) -> Result<Option<Self>, ApiError> {
        Ok(match expr {
            Expr::Column(name) => match (name.as_str(), table.column(name)) {
                ("$key", _) => Some(Self::Key),
                ("$display", _) => Some(Self::Display),
                (_, Some(column)) => match column.kind {
                    Kind::Secret | Kind::Password => None,
                    _ => Some(Self::Cell(column)),
                },
                (name, None) if table.computed => Some(Self::Made(name.to_owned())),
                (_, None) => None,
            },
            Expr::Follow { reference, then } => {
                let Some(column) = table.column(reference) else {
                    return Ok(None);
                };
                match column.kind {
                    Kind::Ref(target) | Kind::Row(target, _) => {
                        let then = Self::new(schema().known(target)?, then)?;
                        then.map(|then| Self::Follow(column, Then::Known(Box::new(then))))
                    }
                    Kind::Poly => Some(Self::Follow(column, Then::Any((**then).clone()))),
                    _ => None,
                }
            }
            Expr::Select { rows, fields } => {
                let Some(column) = table.column(rows) else {
                    return Ok(None);
                };
                match column.kind {
                    Kind::Ref(target) | Kind::Row(target, _) | Kind::Rows(target, _) => Some(
                        Self::Select(column, Columns::new(schema().known(target)?, fields)?),
                    ),
                    _ => None,
                }
            }
            Expr::Call { func, of } => {
                let func = Func::named(func)
                    .ok_or_else(|| bad_argument(format_args!("no function '{func}'")))?;
                Self::new(table, of)?.map(|of| Self::Call(func, Box::new(of)))
            }
            Expr::Compare { left, op, right } => {
                let right = Right::new(*op, right);
                Self::new(table, left)?.map(|left| Self::Test(Box::new(left), *op, right))
            }
        })
    }

    /// The value in a row; `None`: the column is left out.
    fn of(&self, read: &dyn Read, table: &'static Table, row: &Row) -> Option<Value> {
        Some(match self {
            Self::Key => row.get("$key").clone(),
            Self::Display => display(table, row),
            Self::Cell(column) => match column.kind {
                Kind::Rows(other, back) => {
                    let rows = rows_of(read, table, row, other, back);
                    rows.iter().map(|r| r.get("$key").clone()).collect()
                }
                _ => cell(read, row, column).into_owned(),
            },
            Self::Made(name) => row.0.get(name)?.clone(),
            Self::Follow(column, then) => {
                let found = follow(read, table, row, column);
                match (found, then) {
                    (Some((table, row)), Then::Known(then)) => then.of(read, table, &row)?,
                    (Some((table, row)), Then::Any(then)) => {
                        let then = Self::new(table, then).ok().flatten()?;
                        then.of(read, table, &row)?
                    }
                    (None, Then::Known(_)) => Value::Null,
                    // Measured: a reference to any table that is null leaves the column out.
                    (None, Then::Any(_)) => return None,
                }
            }
            Self::Select(column, columns) => match column.kind {
                Kind::Rows(other, back) => rows_of(read, table, row, other, back)
                    .iter()
                    .map(|row| Value::Object(columns.of(read, row)))
                    .collect(),
                _ => match follow(read, table, row, column) {
                    Some((_, row)) => Value::Object(columns.of(read, &row)),
                    None => Value::Null,
                },
            },
            Self::Call(Func::Display, of) => of.displayed(read, table, row)?,
            Self::Call(func, of) => call(*func, of.of(read, table, row)?),
            Self::Test(of, op, right) => {
                Value::Bool(holds(&*of.borrowed(read, table, row)?, *op, right))
            }
        })
    }

    /// As [`Part::of`], without a copy of what the row itself holds.
    fn borrowed<'a>(
        &self,
        read: &dyn Read,
        table: &'static Table,
        row: &'a Row,
    ) -> Option<Cow<'a, Value>> {
        match self {
            Self::Key => Some(Cow::Borrowed(row.get("$key"))),
            Self::Cell(column) if !matches!(column.kind, Kind::Rows(..)) => {
                Some(cell(read, row, column))
            }
            _ => self.of(read, table, row).map(Cow::Owned),
        }
    }

    /// The value as people read it: the label of an enum, the name of a row.
    fn displayed(&self, read: &dyn Read, table: &'static Table, row: &Row) -> Option<Value> {
        match self {
            Self::Cell(column) => {
                let value = cell(read, row, column);
                Some(match (&column.kind, &*value) {
                    (_, Value::Null) => Value::Null,
                    (Kind::Ref(_) | Kind::Poly | Kind::Row(..), _) => {
                        match follow(read, table, row, column) {
                            Some((table, row)) => display(table, &row),
                            None => Value::Null,
                        }
                    }
                    (Kind::Enum(values), Value::String(value)) => {
                        let found = values.iter().find(|(v, _)| v == value);
                        Value::from(found.map_or_else(|| label(value), |(_, label)| label.clone()))
                    }
                    (_, Value::String(value)) => Value::from(label(value)),
                    (Kind::Bool, Value::Bool(yes)) => Value::from(if *yes { "Yes" } else { "No" }),
                    (_, value) => Value::from(value.to_string()),
                })
            }
            Self::Follow(column, Then::Known(then)) => match follow(read, table, row, column) {
                Some((table, row)) => then.displayed(read, table, &row),
                None => Some(Value::Null),
            },
            _ => self.of(read, table, row),
        }
    }
}

fn call(func: Func, value: Value) -> Value {
    let numbers = || -> Vec<f64> {
        let each = |v: &Value| match v {
            // Of a sub-selection: the values of its one column.
            Value::Object(row) => row.values().next().and_then(Value::as_f64),
            other => other.as_f64(),
        };
        match &value {
            Value::Array(items) => items.iter().filter_map(each).collect(),
            other => each(other).into_iter().collect(),
        }
    };
    // Whole numbers stay whole.
    let number = |n: f64| match n.fract() == 0.0 && n.abs() < 9e15 {
        true => Value::from(n as i64),
        false => Value::from(n),
    };
    match func {
        Func::Count => match &value {
            Value::Array(items) => Value::from(items.len()),
            Value::Null => Value::from(0),
            _ => Value::from(1),
        },
        Func::Sum => number(numbers().iter().sum()),
        Func::Avg => match numbers() {
            all if all.is_empty() => Value::Null,
            all => number(all.iter().sum::<f64>() / all.len() as f64),
        },
        Func::Min => numbers()
            .into_iter()
            .reduce(f64::min)
            .map_or(Value::Null, number),
        Func::Max => numbers()
            .into_iter()
            .reduce(f64::max)
            .map_or(Value::Null, number),
        Func::Collapse | Func::Flatten => match value {
            Value::Array(items) if items.len() == 1 => items.into_iter().next().unwrap_or_default(),
            other => other,
        },
        Func::Upper => text(&value, str::to_uppercase),
        Func::Lower => text(&value, str::to_lowercase),
        Func::Sha1 | Func::Hex if value.is_null() => Value::Null,
        Func::Sha1 => text(&value, |s| to_hex(&sha1::Sha1::digest(s.as_bytes()))),
        Func::Hex => match value.as_i64() {
            Some(n) => Value::from(format!("{n:x}")),
            None => text(&value, |s| to_hex(s.as_bytes())),
        },
        Func::Datetime => match value.as_i64() {
            None | Some(0) => Value::from(""),
            Some(n) => match jiff::Timestamp::from_second(n) {
                Ok(at) => Value::from(at.strftime("%Y-%m-%d %H:%M:%S").to_string()),
                Err(_) => Value::Null,
            },
        },
        Func::Diskspace => match value.as_f64() {
            Some(bytes) => Value::from(diskspace(bytes)),
            None => Value::Null,
        },
        // Needs the column, not the value.
        Func::Display => value,
    }
}

fn text(value: &Value, f: impl FnOnce(&str) -> String) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::String(s) => Value::from(f(s)),
        other => Value::from(f(&other.to_string())),
    }
}

/// Bytes as people read them: `1.50 GB`.
fn diskspace(bytes: f64) -> String {
    const UNITS: [&str; 6] = ["KB", "MB", "GB", "TB", "PB", "EB"];
    if bytes.abs() < 1024.0 {
        return format!("{bytes:.0} B");
    }
    let mut value = bytes;
    let mut unit = "B";
    for next in UNITS {
        if value.abs() < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.2} {unit}")
}

/// The schema of a table, as `GET /{table}/$table` tells it.
pub(super) fn describe(table: &Table) -> Value {
    let columns = table.columns.iter().map(|column| {
        let mut out = Map::from_iter([
            ("name".to_owned(), Value::from(column.name)),
            ("type".to_owned(), Value::from(column.kind.to_string())),
            ("required".to_owned(), Value::from(column.required)),
            (
                "readonly".to_owned(),
                Value::from(column.readonly || !column.kind.is_stored()),
            ),
            ("default".to_owned(), column.default.clone()),
        ]);
        match &column.kind {
            Kind::Enum(values) => {
                let list = values
                    .iter()
                    .map(|(v, l)| ((*v).to_owned(), Value::from(l.as_str())));
                out.insert("list".to_owned(), Value::Object(list.collect()));
            }
            Kind::Ref(target) => {
                out.insert("table".to_owned(), Value::from(*target));
            }
            Kind::Row(target, back) | Kind::Rows(target, back) => {
                out.insert("table".to_owned(), Value::from(*target));
                out.insert("column".to_owned(), Value::from(*back));
            }
            _ => {}
        }
        Value::Object(out)
    });
    let key = match table.key {
        KeyKind::Int => "int",
        KeyKind::Hash => "hash",
        KeyKind::Uuid => "uuid",
        KeyKind::Name(column) => column,
    };
    serde_json::json!({
        "name": table.name,
        "key": key,
        "display": table.display,
        "actions": table.actions,
        "fields": columns.collect::<Vec<_>>(),
    })
}
