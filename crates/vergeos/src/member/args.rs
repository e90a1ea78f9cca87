//! What arguments may be given as.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::Key;

/// Several words: given one by one, or in a text as the platform has it.
#[derive(Clone, Debug)]
pub struct List(pub(crate) Value);

impl From<&str> for List {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}
impl From<String> for List {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}
impl<T: Into<String>> From<Vec<T>> for List {
    fn from(items: Vec<T>) -> Self {
        Self(items.into_iter().map(|i| Value::String(i.into())).collect())
    }
}
impl<T: Into<String>, const N: usize> From<[T; N]> for List {
    fn from(items: [T; N]) -> Self {
        Self(items.into_iter().map(|i| Value::String(i.into())).collect())
    }
}

/// Several keys.
#[derive(Clone, Debug)]
pub struct Keys(pub(crate) Value);

impl<T: Into<Key>> From<T> for Keys {
    fn from(key: T) -> Self {
        Self(Value::Array(vec![key.into().into()]))
    }
}
impl<T: Into<Key>> From<Vec<T>> for Keys {
    fn from(keys: Vec<T>) -> Self {
        Self(keys.into_iter().map(|k| Value::from(k.into())).collect())
    }
}

/// A moment, in whole seconds of the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub(crate) i64);

impl From<i64> for Time {
    fn from(seconds: i64) -> Self {
        Self(seconds)
    }
}
impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        let seconds = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
        };
        Self(seconds)
    }
}
