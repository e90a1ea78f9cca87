//! A row as it is kept.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// The cells of a row by column, `$key` among them. A cell that is missing is false, 0, empty or null; what has
/// another default is stored. Cells whose name begins with `$` are never shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Row(pub Map<String, Value>);

impl Row {
    /// A row without cells.
    pub fn new() -> Self {
        Self::default()
    }
    /// With a cell.
    #[must_use]
    pub fn with(mut self, column: &str, value: impl Into<Value>) -> Self {
        self.set(column, value);
        self
    }
    /// Sets a cell.
    pub fn set(&mut self, column: &str, value: impl Into<Value>) {
        self.0.insert(column.to_owned(), value.into());
    }
    /// A cell; null when it is not stored.
    pub fn get(&self, column: &str) -> &Value {
        self.0.get(column).unwrap_or(&NULL)
    }
    /// The key as text; empty in a row that is not stored yet.
    pub fn key(&self) -> String {
        key_text(self.get("$key")).unwrap_or_default().into_owned()
    }
    /// A cell as text; empty when it is none.
    pub fn text(&self, column: &str) -> &str {
        self.get(column).as_str().unwrap_or("")
    }
    /// A cell as a whole number; 0 when it is none.
    pub fn int(&self, column: &str) -> i64 {
        let value = self.get(column);
        let float = || value.as_f64().map(|f| f as i64);
        let text = || value.as_str().and_then(|s| s.trim().parse().ok());
        value.as_i64().or_else(float).or_else(text).unwrap_or(0)
    }
    /// A cell as true or false.
    pub fn flag(&self, column: &str) -> bool {
        match self.get(column) {
            Value::Bool(b) => *b,
            Value::Number(n) => n.as_f64().is_some_and(|n| n != 0.0),
            Value::String(s) => matches!(s.as_str(), "true" | "1"),
            _ => false,
        }
    }
    /// A reference as the text of the key it holds; `None` when it is null.
    pub fn reference(&self, column: &str) -> Option<String> {
        key_text(self.get(column)).map(Cow::into_owned)
    }
}

impl From<Map<String, Value>> for Row {
    fn from(cells: Map<String, Value>) -> Self {
        Self(cells)
    }
}

impl<const N: usize> From<[(&str, Value); N]> for Row {
    fn from(cells: [(&str, Value); N]) -> Self {
        Self(cells.map(|(k, v)| (k.to_owned(), v)).into_iter().collect())
    }
}

/// A key or a reference as text: 36 and "36" are one. `None` for null and what can be no key.
pub fn key_text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(s) if !s.is_empty() => Some(Cow::Borrowed(s)),
        Value::Number(n) => Some(Cow::Owned(n.to_string())),
        _ => None,
    }
}

/// What a reference to any table is known by: `vms/39`, also when `/v4/` stands before it.
pub fn poly_text(text: &str) -> &str {
    text.strip_prefix("/v4/").unwrap_or(text)
}

/// The table and the key of a reference to any table: `vms/39`, also with `/v4/` before it.
pub fn split_poly(text: &str) -> Option<(&str, &str)> {
    let text = poly_text(text);
    let (table, key) = text.split_once('/')?;
    (!table.is_empty() && !key.is_empty()).then_some((table, key))
}
