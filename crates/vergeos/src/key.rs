//! Keys of rows, and what stands for one.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The key of a row: a number in most tables, 40 hexadecimal digits, a UUID or a name in others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Key {
    /// A number.
    Number(i64),
    /// Anything else.
    Text(String),
}

impl Key {
    /// The key in a value: a number, or a text. Numbers in text (as receipts have them) are numbers.
    pub fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Number(n) => n.as_i64().map(Self::Number),
            Value::String(text) if !text.is_empty() => Some(text.as_str().into()),
            _ => None,
        }
    }
    /// The key half of a reference such as `vms/39`.
    pub fn of_reference(text: &str) -> Option<Self> {
        let key = text.rsplit_once('/').map_or(text, |(_, key)| key);
        (!key.is_empty()).then(|| key.into())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl From<i64> for Key {
    fn from(n: i64) -> Self {
        Self::Number(n)
    }
}
impl From<i32> for Key {
    fn from(n: i32) -> Self {
        Self::Number(n.into())
    }
}
impl From<&str> for Key {
    /// A text of at most 18 digits is a number: receipts write `"36"`, rows `36`. Hash keys of digits alone are longer.
    fn from(text: &str) -> Self {
        match text.parse() {
            Ok(n) if text.len() <= 18 => Self::Number(n),
            _ => Self::Text(text.to_owned()),
        }
    }
}
impl From<String> for Key {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}
impl From<&Key> for Key {
    fn from(key: &Key) -> Self {
        key.clone()
    }
}

impl From<Key> for Value {
    fn from(key: Key) -> Self {
        match key {
            Key::Number(n) => n.into(),
            Key::Text(text) => text.into(),
        }
    }
}
