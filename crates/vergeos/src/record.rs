//! Rows as they are held: one cell for each column of the row's type, the unknown columns beside them.
//!
//! A row type has a table of columns, from which its projection follows. Cells are small and in the columns' order, so ten thousand
//! rows cost little more than their texts; "not asked for", `null` and a value stay three things.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::Key;

/// A column of a row type.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The name in a row: the projection's alias, or the column's own name.
    pub name: &'static str,
    /// The projection's entry; empty for a column that is not asked for by default.
    pub entry: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum Cell {
    #[default]
    Absent,
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Box<str>),
    Other(Box<Value>),
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
    cells: Box<[Cell]>,
    extra: Option<Box<Map<String, Value>>>,
}

impl Record {
    /// Nothing in any column.
    pub fn empty(columns: &'static [Column]) -> Self {
        Self {
            columns,
            cells: vec![Cell::Absent; columns.len()].into(),
            extra: None,
        }
    }
    /// The columns of a map; those that the type does not know are kept.
    pub fn from_map(columns: &'static [Column], map: Map<String, Value>) -> Self {
        let mut record = Self::empty(columns);
        for (name, value) in map {
            record.put(&name, value.into());
        }
        record
    }
    fn put(&mut self, name: &str, cell: Cell) {
        match find(self.columns, name).and_then(|i| self.cells.get_mut(i)) {
            Some(place) => *place = cell,
            None => {
                let extra = self.extra.get_or_insert_default();
                extra.insert(name.to_owned(), cell.into_value().unwrap_or_default());
            }
        }
    }
    fn cell(&self, name: &str) -> &Cell {
        find(self.columns, name)
            .and_then(|i| self.cells.get(i))
            .unwrap_or(&Cell::Absent)
    }

    /// The value of any column; `None` when it was not in the reply.
    pub fn get(&self, name: &str) -> Option<Value> {
        match self.cell(name) {
            Cell::Absent => self.extra.as_ref()?.get(name).cloned(),
            cell => cell.clone().into_value(),
        }
    }
    /// Whether the column was in the reply, be it as `null`.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
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
            Cell::Int(n) => Some(*n),
            Cell::Bool(b) => Some((*b).into()),
            // The platform writes some counts as 3.0.
            Cell::Float(n) if n.fract() == 0.0 && n.abs() < 9e15 => Some(*n as i64),
            Cell::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
    /// A number.
    pub fn float(&self, name: &str) -> Option<f64> {
        match self.cell(name) {
            Cell::Float(n) => Some(*n),
            Cell::Int(n) => Some(*n as f64),
            Cell::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
    /// Yes or no; the platform also writes 1 and 0.
    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.cell(name) {
            Cell::Bool(b) => Some(*b),
            Cell::Int(n) => Some(*n != 0),
            _ => None,
        }
    }
    /// A key, or the key half of a reference such as `vms/39`.
    pub fn key(&self, name: &str) -> Option<Key> {
        match self.cell(name) {
            Cell::Int(n) => Some(Key::Number(*n)),
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
        for (column, cell) in self.columns.iter().zip(&self.cells) {
            if let Some(value) = cell.clone().into_value() {
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

impl Cell {
    fn into_value(self) -> Option<Value> {
        Some(match self {
            Self::Absent => return None,
            Self::Null => Value::Null,
            Self::Bool(b) => b.into(),
            Self::Int(n) => n.into(),
            Self::Float(n) => n.into(),
            Self::Text(text) => Value::String(text.into()),
            Self::Other(value) => *value,
        })
    }
}

impl From<Value> for Cell {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(b),
            Value::String(text) => Self::Text(text.into()),
            Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(n), _) => Self::Int(n),
                (None, Some(f)) if !n.is_u64() => Self::Float(f),
                _ => Self::Other(Box::new(Value::Number(n))),
            },
            value => Self::Other(Box::new(value)),
        }
    }
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Cell;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Cell, E> {
                Ok(Cell::Null)
            }
            fn visit_bool<E>(self, b: bool) -> Result<Cell, E> {
                Ok(Cell::Bool(b))
            }
            fn visit_i64<E>(self, n: i64) -> Result<Cell, E> {
                Ok(Cell::Int(n))
            }
            fn visit_u64<E>(self, n: u64) -> Result<Cell, E> {
                Ok(match i64::try_from(n) {
                    Ok(n) => Cell::Int(n),
                    Err(_) => Cell::Other(Box::new(n.into())),
                })
            }
            fn visit_f64<E>(self, n: f64) -> Result<Cell, E> {
                Ok(Cell::Float(n))
            }
            fn visit_str<E>(self, text: &str) -> Result<Cell, E> {
                Ok(Cell::Text(text.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Cell, A::Error> {
                let list =
                    Vec::<Value>::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))?;
                Ok(Cell::Other(Box::new(Value::Array(list))))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Cell, A::Error> {
                let map = Map::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(Cell::Other(Box::new(Value::Object(map))))
            }
        }
        d.deserialize_any(V)
    }
}

/// Where a column stands; the tables are sorted by name.
fn find(columns: &[Column], name: &str) -> Option<usize> {
    columns.binary_search_by(|c| c.name.cmp(name)).ok()
}

/// Reads rows of one type. Rows of one reply have their columns in one order, so the order of the row before is tried first.
struct Rows<R> {
    order: Vec<usize>,
    row: std::marker::PhantomData<R>,
}

const UNKNOWN: usize = usize::MAX;

impl<'de, R: RowType> Visitor<'de> for &mut Rows<R> {
    type Value = R;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a row of {}", R::TABLE)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<R, A::Error> {
        let mut record = Record::empty(R::COLUMNS);
        let mut n = 0;
        while let Some(at) = map.next_key_seed(Name(self, n))? {
            let (index, unknown) = at;
            match (record.cells.get_mut(index), unknown) {
                (Some(cell), _) => *cell = map.next_value()?,
                (None, name) => {
                    let value = map.next_value::<Value>()?;
                    let extra = record.extra.get_or_insert_default();
                    extra.insert(name.unwrap_or_default(), value);
                }
            }
            n += 1;
        }
        Ok(R::from_record(record))
    }
}

impl<'de, R: RowType> DeserializeSeed<'de> for &mut Rows<R> {
    type Value = R;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<R, D::Error> {
        d.deserialize_map(self)
    }
}

/// The name of a column, as its place.
struct Name<'a, R>(&'a mut Rows<R>, usize);

impl<'de, R: RowType> DeserializeSeed<'de> for Name<'_, R> {
    type Value = (usize, Option<String>);
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_str(self)
    }
}

impl<'de, R: RowType> Visitor<'de> for Name<'_, R> {
    type Value = (usize, Option<String>);
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column")
    }
    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let Self(rows, n) = self;
        if let Some(&at) = rows.order.get(n)
            && R::COLUMNS.get(at).is_some_and(|c| c.name == name)
        {
            return Ok((at, None));
        }
        let at = find(R::COLUMNS, name).unwrap_or(UNKNOWN);
        if n >= rows.order.len() {
            rows.order.resize(n + 1, UNKNOWN);
        }
        if let Some(place) = rows.order.get_mut(n) {
            *place = at;
        }
        Ok((at, (at == UNKNOWN).then(|| name.to_owned())))
    }
}

/// An array of rows, or the one object that singletons answer.
#[cfg(feature = "client")]
pub(crate) struct RowList<R>(pub(crate) Vec<R>);

#[cfg(feature = "client")]
impl<'de, R: RowType> Deserialize<'de> for RowList<R> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V<R>(Rows<R>);
        impl<'de, R: RowType> Visitor<'de> for V<R> {
            type Value = RowList<R>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "rows of {}", R::TABLE)
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(RowList(Vec::new()))
            }
            fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = seq.next_element_seed(&mut self.0)? {
                    rows.push(row);
                }
                rows.shrink_to_fit();
                Ok(RowList(rows))
            }
            fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<Self::Value, A::Error> {
                (&mut self.0).visit_map(map).map(|row| RowList(vec![row]))
            }
        }
        d.deserialize_any(V(Rows {
            order: Vec::new(),
            row: std::marker::PhantomData,
        }))
    }
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
