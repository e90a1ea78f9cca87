//! The order of rows: `-timestamp`, `+orderid`, `tag,sequence`.

use std::fmt;

use crate::filter::{SyntaxError, is_field};

/// One column of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortKey {
    /// The column, or the way to it.
    pub field: String,
    /// From the greatest down.
    pub descending: bool,
}

impl SortKey {
    /// From the least up.
    pub fn up(field: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            descending: false,
        }
    }
    /// From the greatest down.
    pub fn down(field: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            descending: true,
        }
    }
    /// Reads an order. A leading blank stands for a `+` that was not percent-encoded.
    ///
    /// # Errors
    ///
    /// When an entry is not a column.
    pub fn parse(text: &str) -> Result<Vec<Self>, SyntaxError> {
        let mut at = 0;
        let mut out = Vec::new();
        for part in text.split(',') {
            let start = at;
            at += part.len() + 1;
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            let (descending, field) = match part.strip_prefix('-') {
                Some(field) => (true, field),
                None => (false, part.strip_prefix('+').unwrap_or(part)),
            };
            if !is_field(field) {
                return Err(SyntaxError {
                    reason: "expected a column".to_owned(),
                    at: start,
                });
            }
            out.push(Self {
                field: field.to_owned(),
                descending,
            });
        }
        Ok(out)
    }
}

impl fmt::Display for SortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.descending { "-" } else { "+" };
        write!(f, "{sign}{}", self.field)
    }
}
