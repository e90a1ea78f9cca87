//! Reading rows of one type from a reply, as it comes: what has been read need not be held.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::cells::{Cells, Place};
use crate::quick;
use crate::record::{Record, RowType, find};

/// Reads one row after the other. Rows of one reply have their columns in one order, so the order of the row before is tried first.
struct Rows<R> {
    order: Vec<usize>,
    cells: Cells,
    row: PhantomData<R>,
}

impl<R: RowType> Rows<R> {
    fn new() -> Self {
        Self {
            order: Vec::new(),
            cells: Cells::new(R::COLUMNS.len()),
            row: PhantomData,
        }
    }

    /// The row at the beginning of `text` and its length, when it is as the one before it was.
    fn quick(&mut self, text: &[u8]) -> Option<(R, usize)> {
        self.cells.clear();
        let used = quick::row(text, R::COLUMNS, &self.order, &mut self.cells)?;
        Some((self.made(None), used))
    }

    fn made(&mut self, extra: Option<Box<Map<String, Value>>>) -> R {
        R::from_record(Record::packed(R::COLUMNS, self.cells.pack(), extra))
    }
}

const UNKNOWN: usize = usize::MAX;

impl<'de, R: RowType> Visitor<'de> for &mut Rows<R> {
    type Value = R;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a row of {}", R::TABLE)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<R, A::Error> {
        // What a row that broke off has left.
        self.cells.clear();
        let mut extra: Option<Box<Map<String, Value>>> = None;
        let mut n = 0;
        while let Some((at, unknown)) = map.next_key_seed(Name(self, n))? {
            match unknown {
                None => map.next_value_seed(Place(&mut self.cells, at))?,
                Some(name) => {
                    let value = map.next_value::<Value>()?;
                    extra.get_or_insert_default().insert(name, value);
                }
            }
            n += 1;
        }
        // A shorter row than the one before.
        self.order.truncate(n);
        Ok(self.made(extra))
    }
}

impl<'de, R: RowType> DeserializeSeed<'de> for &mut Rows<R> {
    type Value = R;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<R, D::Error> {
        d.deserialize_map(self)
    }
}

/// The name of a column, as its place, or itself when the type does not know it.
struct Name<'a, R>(&'a mut Rows<R>, usize);

impl<'de, R: RowType> DeserializeSeed<'de> for Name<'_, R> {
    type Value = (usize, Option<String>);
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        // The bytes will do where the name is the expected one, as nearly all are.
        d.deserialize_bytes(self)
    }
}

impl<'de, R: RowType> Visitor<'de> for Name<'_, R> {
    type Value = (usize, Option<String>);
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column")
    }
    fn visit_bytes<E: serde::de::Error>(self, name: &[u8]) -> Result<Self::Value, E> {
        let Self(rows, n) = self;
        if let Some(&at) = rows.order.get(n)
            && R::COLUMNS
                .get(at)
                .is_some_and(|c| c.name.as_bytes() == name)
        {
            return Ok((at, None));
        }
        let name = std::str::from_utf8(name).map_err(E::custom)?;
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
pub(crate) struct RowList<R>(pub(crate) Vec<R>);

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
                Ok(RowList(rows))
            }
            fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<Self::Value, A::Error> {
                (&mut self.0).visit_map(map).map(|row| RowList(vec![row]))
            }
        }
        d.deserialize_any(V(Rows::new()))
    }
}

/// Where in an array the reading is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// Before it.
    Start,
    /// Before a row, or the end if there is none yet.
    First,
    Row,
    /// After a row.
    Next,
    End,
    /// It is no array; it is read when it is whole.
    Other,
}

/// Reads a reply piece by piece.
pub(crate) struct Reader<R> {
    rows: Rows<R>,
    read: Vec<R>,
    at: At,
    /// The beginning of a row that was not whole yet.
    held: Vec<u8>,
    /// How much of it makes another try worth its time: each is of twice the length, so that a long row costs no more than its
    /// length.
    enough: usize,
}

/// Why a reply cannot be read, and the text where it begins.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) why: String,
    pub(crate) text: Vec<u8>,
}

/// What a reply was.
#[derive(Debug)]
pub(crate) enum Read<R> {
    Rows(Vec<R>),
    /// No array: a single row, nothing, or no JSON at all.
    Document(Vec<u8>),
}

impl<R: RowType> Reader<R> {
    pub(crate) fn new() -> Self {
        Self {
            rows: Rows::new(),
            read: Vec::new(),
            at: At::Start,
            held: Vec::new(),
            enough: 0,
        }
    }

    pub(crate) fn feed(&mut self, piece: &[u8]) -> Result<(), Unread> {
        if self.held.is_empty() {
            let used = self.take(piece)?;
            self.hold(piece.get(used..).unwrap_or_default());
            return Ok(());
        }
        self.held.extend_from_slice(piece);
        if self.held.len() >= self.enough && self.at != At::Other {
            self.again()?;
        }
        Ok(())
    }

    fn again(&mut self) -> Result<(), Unread> {
        let held = std::mem::take(&mut self.held);
        let used = self.take(&held)?;
        self.hold(held.get(used..).unwrap_or_default());
        Ok(())
    }

    fn hold(&mut self, rest: &[u8]) {
        self.held.extend_from_slice(rest);
        self.enough = 2 * rest.len();
    }

    pub(crate) fn finish(mut self) -> Result<Read<R>, Unread> {
        match self.at {
            At::Start | At::Other => return Ok(Read::Document(self.held)),
            At::End => {}
            At::First | At::Row | At::Next => self.again()?,
        }
        match self.at {
            At::End => Ok(Read::Rows(self.read)),
            _ => Err(self.unread("the reply ends within it", &self.held)),
        }
    }

    fn unread(&self, why: impl fmt::Display, text: &[u8]) -> Unread {
        Unread {
            why: format!("row {}: {why}", self.read.len() + 1),
            text: text.get(..4096).unwrap_or(text).to_vec(),
        }
    }

    /// Reads the rows that are whole, and says how many bytes they were.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Unread> {
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            let blank = rest.iter().take_while(|b| b.is_ascii_whitespace()).count();
            used += blank;
            let rest = rest.get(blank..).unwrap_or_default();
            let Some(next) = rest.first() else {
                return Ok(used);
            };
            self.at = match (self.at, next) {
                (At::Start, b'[') => At::First,
                (At::Start | At::Other, _) => {
                    self.at = At::Other;
                    return Ok(used);
                }
                (At::Next, b',') => At::Row,
                (At::First | At::Next, b']') => At::End,
                (At::First | At::Row, _) => {
                    if let Some((row, len)) = self.rows.quick(rest) {
                        self.read.push(row);
                        used += len;
                        self.at = At::Next;
                        continue;
                    }
                    let mut json = serde_json::Deserializer::from_slice(rest);
                    match self.rows.deserialize(&mut json) {
                        Ok(row) => {
                            self.read.push(row);
                            used += json.into_iter::<IgnoredAny>().byte_offset();
                            self.at = At::Next;
                            continue;
                        }
                        Err(e) if e.is_eof() => return Ok(used),
                        Err(e) => return Err(self.unread(e, rest)),
                    }
                }
                (At::Next | At::End, _) => {
                    let why = "there is something else than a comma or the end before it";
                    return Err(self.unread(why, rest));
                }
            };
            used += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::{option, sample};
    use serde_json::json;

    use super::*;
    use crate::record::Column;

    #[derive(Clone, Debug, PartialEq, serde::Serialize)]
    struct Thing(Record);

    impl RowType for Thing {
        const CLASS: &'static str = "Thing";
        const TABLE: &'static str = "things";
        const COLUMNS: &'static [Column] = &[
            Column {
                name: "$key",
                entry: "$key",
            },
            Column {
                name: "name",
                entry: "name",
            },
            Column {
                name: "ram",
                entry: "ram",
            },
        ];
        fn from_record(record: Record) -> Self {
            Self(record)
        }
        fn record(&self) -> &Record {
            &self.0
        }
    }

    /// The reply in pieces of this size.
    fn read(text: &str, size: usize) -> Result<Read<Thing>, Unread> {
        let mut reader = Reader::new();
        for piece in text.as_bytes().chunks(size) {
            reader.feed(piece)?;
        }
        reader.finish()
    }

    #[test]
    fn pieces_of_any_size_are_the_same_rows() {
        let rows = json!([
            {"$key": 1, "name": "a,]}[{\"\\", "ram": 1.5},
            {"name": null, "ram": [{"x": "]"}], "$key": 2, "new": {"y": 1}},
            {},
            {"$key": -3, "name": "\u{1f600}ä", "ram": true, "name2": ""},
        ]);
        for text in [
            rows.to_string(),
            serde_json::to_string_pretty(&rows).unwrap(),
        ] {
            let text = format!(" {text}\n ");
            for size in 1..=text.len() {
                let Ok(Read::Rows(read)) = read(&text, size) else {
                    panic!("{size}");
                };
                assert_eq!(serde_json::to_value(read).unwrap(), rows, "{size}");
            }
        }
        for none in ["[]", " [ ] "] {
            assert!(matches!(read(none, 1), Ok(Read::Rows(rows)) if rows.is_empty()));
        }
    }

    /// A value, as text.
    fn value() -> impl Strategy<Value = String> {
        let text = "[a-zä\u{1f600}\"\\\\\n ]{0,12}".prop_map(|t| Value::from(t).to_string());
        let plain = "[ -!#-\\[\\]-~ä]{0,12}".prop_map(|t| format!("\"{t}\""));
        let word = sample::select(vec![
            "null", "true", "false", "-0", "007", "1.5", "1e3", "[1]", "{}", "tru", "-",
        ]);
        prop_oneof![
            4 => plain,
            1 => text,
            3 => any::<i64>().prop_map(|n| n.to_string()),
            1 => any::<u64>().prop_map(|n| n.to_string()),
            2 => word.prop_map(str::to_owned),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// What the quick way reads, the slow one reads as the same row from as many bytes.
        #[test]
        fn the_quick_way_agrees(
            values in vec(value(), 3),
            blanks in vec(sample::select(vec!["", "", "", " ", "\n\t"]), 12),
            change in option::of((any::<sample::Index>(), any::<u8>())),
        ) {
            let mut rows = Rows::<Thing>::new();
            let slow = |rows: &mut Rows<Thing>, text: &[u8]| {
                let mut json = serde_json::Deserializer::from_slice(text);
                let row = rows.deserialize(&mut json).ok()?;
                Some((row, json.into_iter::<IgnoredAny>().byte_offset()))
            };
            slow(&mut rows, br#"{"name":"","$key":1,"ram":2}"#).unwrap();
            let mut blank = blanks.iter().copied().cycle();
            let mut text = "{".to_owned();
            for (name, value) in ["name", "$key", "ram"].iter().zip(&values) {
                let mut gap = || blank.next().unwrap();
                let (a, b, c, d) = (gap(), gap(), gap(), gap());
                let comma = if *name == "name" { "" } else { "," };
                text += &format!("{comma}{a}\"{name}\"{b}:{c}{value}{d}");
            }
            text += "},{";
            let mut text = text.into_bytes();
            if let Some((at, byte)) = change {
                let at = at.index(text.len());
                text[at] = byte;
            }
            if let Some(quick) = rows.quick(&text) {
                prop_assert_eq!(Some(quick), slow(&mut Rows::new(), &text));
            }
        }
    }

    #[test]
    fn rows_like_the_one_before_are_read_the_quick_way() {
        let mut rows = Rows::<Thing>::new();
        let text = br#"{"$key":1,"name":"a","ram":null}"#;
        assert!(rows.quick(text).is_none());
        let mut json = serde_json::Deserializer::from_slice(text);
        let row = rows.deserialize(&mut json).unwrap();
        assert_eq!(rows.quick(text), Some((row, text.len())));
        // Not when another column comes, nor when it has not all come.
        assert!(rows.quick(br#"{"$key":1,"nam":"a","ram":null}"#).is_none());
        for n in 0..text.len() {
            assert!(rows.quick(&text[..n]).is_none(), "{n}");
        }
    }

    #[test]
    fn no_array_is_a_document() {
        for text in ["", "null", r#"{"$key":1}"#, "<html>[]</html>"] {
            for size in 1..=text.len().max(1) {
                let Ok(Read::Document(read)) = read(text, size) else {
                    panic!("{text}");
                };
                assert_eq!(read, text.as_bytes());
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_row() {
        for (text, row) in [
            (r#"[{"$key":1},"#, "row 2"),
            (r#"[{"$key":1}"#, "row 2"),
            (r#"[{"$key":1} {"$key":2}]"#, "row 2"),
            (r#"[{"$key":1},]"#, "row 2"),
            (r#"[{"$key":1}]]"#, "row 2"),
            (r#"[{"$key":}]"#, "row 1"),
            ("[1]", "row 1"),
            ("[,]", "row 1"),
            ("[", "row 1"),
        ] {
            for size in [1, 2, 5, 100] {
                let e = read(text, size).unwrap_err();
                assert!(e.why.starts_with(row), "{text} {size}: {}", e.why);
            }
        }
    }

    /// A long row in small pieces is not read from its beginning with each of them.
    #[test]
    fn a_long_row_is_tried_seldom() {
        let text = format!(r#"[{{"name":"{}"}}]"#, "x".repeat(4 << 20));
        let mut reader = Reader::<Thing>::new();
        let mut tries = 0;
        for piece in text.as_bytes().chunks(100) {
            let enough = reader.enough;
            assert!(reader.feed(piece).is_ok());
            tries += usize::from(reader.enough != enough);
        }
        assert!(tries < 20, "{tries}");
        assert!(matches!(reader.finish(), Ok(Read::Rows(rows)) if rows.len() == 1));
    }
}
