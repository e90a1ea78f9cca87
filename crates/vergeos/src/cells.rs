//! The cells of a row in one piece of memory: where each begins, then what is in it.
//!
//! ```text
//! 0x0000 …          for each column the place of its cell, two bytes each, or four when a row is larger than 64 KiB;
//!                   0: it was not in the reply
//! kind, content …   the cells, in the order in which they came
//! ```

use serde_json::Value;

/// What is in a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Absent,
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    /// Anything else, as JSON.
    Other(&'a [u8]),
}

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const FLOAT: u8 = 4;
const TEXT: u8 = 5;
const OTHER: u8 = 6;

impl Cell<'_> {
    pub(crate) fn into_value(self) -> Option<Value> {
        Some(match self {
            Self::Absent => return None,
            Self::Null => Value::Null,
            Self::Bool(b) => b.into(),
            Self::Int(n) => n.into(),
            Self::Float(n) => n.into(),
            Self::Text(text) => Value::String(text.to_owned()),
            Self::Other(json) => serde_json::from_slice(json).unwrap_or_default(),
        })
    }
}

/// A row being read. It is used for one row after the other.
#[derive(Debug)]
pub(crate) struct Cells {
    /// Where the cell of each column begins in `content`, plus one.
    places: Vec<u32>,
    content: Vec<u8>,
}

impl Cells {
    pub(crate) fn new(columns: usize) -> Self {
        Self {
            places: vec![0; columns],
            content: Vec::new(),
        }
    }

    /// Everything that was put, and an empty row again.
    pub(crate) fn pack(&mut self) -> Packed {
        let columns = self.places.len();
        let wide = 2 * columns + self.content.len() > usize::from(u16::MAX);
        let head = columns * if wide { 4 } else { 2 };
        let mut out = Vec::with_capacity(head + self.content.len());
        for place in &mut self.places {
            let at = match std::mem::take(place) {
                0 => 0,
                n => n - 1 + head as u32,
            };
            match wide {
                true => out.extend_from_slice(&at.to_le_bytes()),
                false => out.extend_from_slice(&(at as u16).to_le_bytes()),
            }
        }
        out.append(&mut self.content);
        Packed {
            bytes: out.into(),
            wide,
        }
    }

    fn begin(&mut self, at: usize, kind: u8) {
        if let Some(place) = self.places.get_mut(at) {
            // A reply is never that large; what would not fit is not there.
            *place = u32::try_from(self.content.len() + 1).unwrap_or(0);
        }
        self.content.push(kind);
    }
    pub(crate) fn null(&mut self, at: usize) {
        self.begin(at, NULL);
    }
    pub(crate) fn bool(&mut self, at: usize, b: bool) {
        self.begin(at, if b { TRUE } else { FALSE });
    }
    pub(crate) fn text(&mut self, at: usize, text: &str) {
        self.sized(at, TEXT, text.as_bytes());
    }
    pub(crate) fn int(&mut self, at: usize, n: i64) {
        self.begin(at, INT);
        self.content.extend_from_slice(&n.to_le_bytes());
    }
    fn float(&mut self, at: usize, n: f64) {
        self.begin(at, FLOAT);
        self.content.extend_from_slice(&n.to_le_bytes());
    }
    fn sized(&mut self, at: usize, kind: u8, bytes: &[u8]) {
        self.begin(at, kind);
        let len = bytes.len() as u32;
        self.content.extend_from_slice(&len.to_le_bytes());
        self.content.extend_from_slice(bytes);
    }
    fn other(&mut self, at: usize, value: &Value) {
        let json = serde_json::to_vec(value).unwrap_or_default();
        self.sized(at, OTHER, &json);
    }

    /// A value in the column at this place.
    pub(crate) fn put(&mut self, at: usize, value: &Value) {
        match value {
            Value::Null => self.null(at),
            Value::Bool(b) => self.bool(at, *b),
            Value::String(text) => self.text(at, text),
            Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(n), _) => self.int(at, n),
                (None, Some(f)) if !n.is_u64() => self.float(at, f),
                _ => self.other(at, value),
            },
            value => self.other(at, value),
        }
    }
}

/// A row as it is held.
#[derive(Clone)]
pub(crate) struct Packed {
    bytes: Box<[u8]>,
    wide: bool,
}

impl Packed {
    /// The cell of a column, of so many.
    pub(crate) fn get(&self, columns: usize, at: usize) -> Cell<'_> {
        if at >= columns {
            return Cell::Absent;
        }
        self.read(at).unwrap_or(Cell::Absent)
    }

    fn read(&self, at: usize) -> Option<Cell<'_>> {
        let place = match self.wide {
            true => u32::from_le_bytes(self.array(at * 4)?) as usize,
            false => u16::from_le_bytes(self.array(at * 2)?).into(),
        };
        if place == 0 {
            return None;
        }
        let sized = || {
            let len = u32::from_le_bytes(self.array(place + 1)?) as usize;
            self.bytes.get(place + 5..place + 5 + len)
        };
        Some(match *self.bytes.get(place)? {
            NULL => Cell::Null,
            FALSE => Cell::Bool(false),
            TRUE => Cell::Bool(true),
            INT => Cell::Int(i64::from_le_bytes(self.array(place + 1)?)),
            FLOAT => Cell::Float(f64::from_le_bytes(self.array(place + 1)?)),
            TEXT => Cell::Text(std::str::from_utf8(sized()?).ok()?),
            _ => Cell::Other(sized()?),
        })
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..)?.first_chunk().copied()
    }
}

#[cfg(feature = "client")]
pub(crate) use read::Place;

#[cfg(feature = "client")]
mod read {
    use std::fmt;

    use serde::Deserialize;
    use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
    use serde_json::{Map, Value};

    use super::Cells;

    impl Cells {
        pub(crate) fn clear(&mut self) {
            self.places.fill(0);
            self.content.clear();
        }
    }

    /// Reads a value into the column at this place.
    pub(crate) struct Place<'a>(pub(crate) &'a mut Cells, pub(crate) usize);

    impl<'de> DeserializeSeed<'de> for Place<'_> {
        type Value = ();
        fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
            d.deserialize_any(self)
        }
    }

    impl<'de> Visitor<'de> for Place<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a value")
        }
        fn visit_unit<E>(self) -> Result<(), E> {
            self.0.null(self.1);
            Ok(())
        }
        fn visit_bool<E>(self, b: bool) -> Result<(), E> {
            self.0.bool(self.1, b);
            Ok(())
        }
        fn visit_i64<E>(self, n: i64) -> Result<(), E> {
            self.0.int(self.1, n);
            Ok(())
        }
        fn visit_u64<E>(self, n: u64) -> Result<(), E> {
            match i64::try_from(n) {
                Ok(n) => self.0.int(self.1, n),
                Err(_) => self.0.other(self.1, &n.into()),
            }
            Ok(())
        }
        fn visit_f64<E>(self, n: f64) -> Result<(), E> {
            self.0.float(self.1, n);
            Ok(())
        }
        fn visit_str<E>(self, text: &str) -> Result<(), E> {
            self.0.text(self.1, text);
            Ok(())
        }
        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
            let list =
                Vec::<Value>::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))?;
            self.0.other(self.1, &Value::Array(list));
            Ok(())
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
            let map = Map::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
            self.0.other(self.1, &Value::Object(map));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn packed(values: &[Option<Value>]) -> Packed {
        let mut cells = Cells::new(values.len());
        for (at, value) in values.iter().enumerate().rev() {
            if let Some(value) = value {
                cells.put(at, value);
            }
        }
        let packed = cells.pack();
        assert!(cells.pack().get(values.len(), 0) == Cell::Absent, "emptied");
        packed
    }

    #[test]
    fn what_is_put_is_there() {
        for long in [3, 70_000] {
            let values = [
                Some(json!(null)),
                None,
                Some(json!(true)),
                Some(json!(false)),
                Some(json!(i64::MIN)),
                Some(json!(u64::MAX)),
                Some(json!(1.5)),
                Some(json!("ä".repeat(long))),
                Some(json!("")),
                Some(json!([1, {"a": [null]}])),
                Some(json!({"b": 2})),
            ];
            let packed = packed(&values);
            assert_eq!(packed.wide, long > 60_000);
            for (at, value) in values.iter().enumerate() {
                assert_eq!(packed.get(values.len(), at).into_value(), *value, "{at}");
            }
            assert_eq!(packed.get(values.len(), values.len()), Cell::Absent);
        }
    }

    #[test]
    fn what_comes_twice_is_the_later() {
        let mut cells = Cells::new(1);
        cells.put(0, &json!("first"));
        cells.put(0, &json!(2));
        assert_eq!(cells.pack().get(1, 0), Cell::Int(2));
    }
}
