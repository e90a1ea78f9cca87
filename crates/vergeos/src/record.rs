//! Rows as they are held: one cell for each column of the row's type, the unknown columns beside them.
//!
//! A row type has a table of columns, from which its projection follows. A record is one piece of memory, so ten thousand rows
//! cost little more than their texts; "not asked for", `null` and a value stay three things.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::Key;
use crate::cells::{Cell, Cells, Packed};

/// A column of a row type.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The name in a row: the projection's alias, or the column's own name.
    pub name: &'static str,
    /// The projection's entry; empty for a column that is not asked for by default.
    pub entry: &'static str,
}

/// A type of rows.
pub trait RowType: Sized + Clone + fmt::Debug + Serialize + Send + Sync + 'static {
    /// The class of the vendor's SDK.
    const CLASS: &'static str;
    /// The table.
    const TABLE: &'static str;
    /// The columns, by name.
    const COLUMNS: &'static [Column];
    /// Wraps a record of these columns.
    fn from_record(record: Record) -> Self;
    /// The record inside.
    fn record(&self) -> &Record;

    /// The projection that fills this type.
    fn projection() -> String {
        let entries = Self::COLUMNS.iter().map(|c| c.entry);
        let mut out = String::from("$key");
        for entry in entries.filter(|e| !e.is_empty() && *e != "$key") {
            out.push(',');
            out.push_str(entry);
        }
        out
    }
    /// The row's key.
    fn key(&self) -> Option<Key> {
        self.record().get("$key").as_ref().and_then(Key::of)
    }
    /// What is computed from the columns, by the names of the getters: moments and spans in seconds.
    fn computed(&self) -> Map<String, Value> {
        Map::new()
    }
    /// A row of values in hand, such as the receipt's.
    fn from_map(map: Map<String, Value>) -> Self {
        Self::from_record(Record::from_map(Self::COLUMNS, map))
    }
}

/// The cells of one row.
#[derive(Clone)]
pub struct Record {
    columns: &'static [Column],
    cells: Packed,
    extra: Option<Box<Map<String, Value>>>,
}

impl Record {
    /// Nothing in any column.
    pub fn empty(columns: &'static [Column]) -> Self {
        Self::from_map(columns, Map::new())
    }
    /// The columns of a map; those that the type does not know are kept.
    pub fn from_map(columns: &'static [Column], map: Map<String, Value>) -> Self {
        let mut cells = Cells::new(columns.len());
        let mut extra: Option<Box<Map<String, Value>>> = None;
        for (name, value) in map {
            match find(columns, &name) {
                Some(at) => cells.put(at, &value),
                None => {
                    extra.get_or_insert_default().insert(name, value);
                }
            }
        }
        Self::packed(columns, cells.pack(), extra)
    }
    pub(crate) fn packed(
        columns: &'static [Column],
        cells: Packed,
        extra: Option<Box<Map<String, Value>>>,
    ) -> Self {
        Self {
            columns,
            cells,
            extra,
        }
    }
    fn cell(&self, name: &str) -> Cell<'_> {
        match find(self.columns, name) {
            Some(at) => self.cells.get(self.columns.len(), at),
            None => Cell::Absent,
        }
    }

    /// The value of any column; `None` when it was not in the reply.
    pub fn get(&self, name: &str) -> Option<Value> {
        match self.cell(name) {
            Cell::Absent => self.extra.as_ref()?.get(name).cloned(),
            cell => cell.into_value(),
        }
    }
    /// Whether the column was in the reply, be it as `null`.
    pub fn has(&self, name: &str) -> bool {
        let extra = || self.extra.as_ref().is_some_and(|e| e.contains_key(name));
        !matches!(self.cell(name), Cell::Absent) || extra()
    }
    /// A text; `None` also for `null` and for what is no text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.cell(name) {
            Cell::Text(text) => Some(text),
            _ => None,
        }
    }
    /// A whole number, written as one or in a text.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.cell(name) {
            Cell::Int(n) => Some(n),
            Cell::Bool(b) => Some(b.into()),
            // The platform writes some counts as 3.0.
            Cell::Float(n) if n.fract() == 0.0 && n.abs() < 9e15 => Some(n as i64),
            Cell::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
    /// A number.
    pub fn float(&self, name: &str) -> Option<f64> {
        match self.cell(name) {
            Cell::Float(n) => Some(n),
            Cell::Int(n) => Some(n as f64),
            Cell::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
    /// Yes or no; the platform also writes 1 and 0.
    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.cell(name) {
            Cell::Bool(b) => Some(b),
            Cell::Int(n) => Some(n != 0),
            _ => None,
        }
    }
    /// A key, or the key half of a reference such as `vms/39`.
    pub fn key(&self, name: &str) -> Option<Key> {
        match self.cell(name) {
            Cell::Int(n) => Some(Key::Number(n)),
            Cell::Text(text) => Key::of_reference(text),
            _ => None,
        }
    }
    /// A document; JSON in a text is read.
    pub fn json(&self, name: &str) -> Option<Value> {
        match self.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(serde_json::from_str(&text).unwrap_or(Value::String(text))),
            value => Some(value),
        }
    }
    /// Lines or comma-separated words, as the platform writes lists.
    pub fn list(&self, name: &str) -> Option<Vec<String>> {
        match self.get(name)? {
            Value::String(text) => Some(
                text.split(['\n', ','])
                    .map(|s| s.trim().to_owned())
                    .filter(|s| !s.is_empty())
                    .collect(),
            ),
            Value::Array(items) => Some(
                items
                    .into_iter()
                    .map(|v| match v {
                        Value::String(text) => text,
                        v => v.to_string(),
                    })
                    .collect(),
            ),
            _ => None,
        }
    }
    /// Columns that the row's type does not know, as they came.
    pub fn extra(&self) -> Option<&Map<String, Value>> {
        self.extra.as_deref()
    }
    /// All columns that were in the reply.
    pub fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        for (at, column) in self.columns.iter().enumerate() {
            if let Some(value) = self.cells.get(self.columns.len(), at).into_value() {
                map.insert(column.name.to_owned(), value);
            }
        }
        map.extend(self.extra.as_deref().cloned().unwrap_or_default());
        map
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.to_map()).finish()
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        self.to_map() == other.to_map()
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.to_map().serialize(s)
    }
}

/// Where a column stands; the tables are sorted by name.
pub(crate) fn find(columns: &[Column], name: &str) -> Option<usize> {
    columns.binary_search_by(|c| c.name.cmp(name)).ok()
}

/// Declares row types. Columns are sorted by name; the third word of a getter says how a column is read. In braces of
/// their own stand those that are computed ([`computed`](crate::computed)).
#[macro_export]
#[doc(hidden)]
macro_rules! row_types {
    ($(
        $(#[$attr:meta])*
        $name:ident $class:literal $table:literal [ $($col:literal $entry:literal)* ] {
            $( $(#[$doc:meta])* $getter:ident $kind:ident $from:literal; )*
        } {
            $( $(#[$cdoc:meta])* $cgetter:ident => $cty:ty = $how:ident [ $($ccol:literal)* ] $with:literal; )*
        }
    )*) => {$(
        $(#[$attr])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name($crate::Record);

        impl $crate::RowType for $name {
            const CLASS: &'static str = $class;
            const TABLE: &'static str = $table;
            const COLUMNS: &'static [$crate::Column] = &[
                $($crate::Column { name: $col, entry: $entry },)*
            ];
            fn from_record(record: $crate::Record) -> Self {
                Self(record)
            }
            fn record(&self) -> &$crate::Record {
                &self.0
            }
            #[allow(unused_mut, reason = "a type of which nothing is computed")]
            fn computed(&self) -> ::serde_json::Map<String, ::serde_json::Value> {
                let mut all = ::serde_json::Map::new();
                $( all.insert(
                    stringify!($cgetter).to_owned(),
                    $crate::computed::Shown::shown(self.$cgetter()),
                ); )*
                all
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, s: S) -> ::std::result::Result<S::Ok, S::Error> {
                self.0.serialize(s)
            }
        }

        impl From<&$name> for $crate::Key {
            fn from(row: &$name) -> Self {
                $crate::RowType::key(row).unwrap_or($crate::Key::Text(String::new()))
            }
        }

        impl $name {
            $( $(#[$doc])* pub fn $getter(&self) -> $crate::row_types!(@ty $kind) {
                self.0.$kind($from)
            } )*
            $( $(#[$cdoc])* pub fn $cgetter(&self) -> $cty {
                $crate::computed::$how(&self.0, &[$($ccol),*], $with)
            } )*
        }
    )*};
    (@ty text) => { Option<&str> };
    (@ty int) => { Option<i64> };
    (@ty float) => { Option<f64> };
    (@ty flag) => { Option<bool> };
    (@ty key) => { Option<$crate::Key> };
    (@ty json) => { Option<::serde_json::Value> };
    (@ty list) => { Option<Vec<String>> };
}
