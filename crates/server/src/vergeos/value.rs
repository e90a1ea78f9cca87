//! How values compare, in filters and orders.

use std::cmp::Ordering;

use boxrig_vergeos::filter::{Literal, Op};
use serde_json::Value;

use super::ere::Ere;

/// The right side of a comparison, made ready.
#[derive(Debug)]
pub(super) enum Right {
    /// A value.
    Literal(Literal),
    /// The text of `ct`, in lower case.
    Lower(String),
    /// The expression of `rx`.
    Pattern(Ere),
}

impl Right {
    /// Makes a literal ready for a comparison.
    pub(super) fn new(op: Op, literal: &Literal) -> Self {
        match op {
            Op::Rx => Self::Pattern(Ere::new(&literal_text(literal))),
            Op::Ct => Self::Lower(literal_text(literal).to_lowercase()),
            _ => Self::Literal(literal.clone()),
        }
    }
}

/// A literal as the text that text comparisons look for.
fn literal_text(literal: &Literal) -> String {
    match literal {
        Literal::Text(text) => text.clone(),
        Literal::Null => String::new(),
        other => other.to_string(),
    }
}

/// A value as the text in which text comparisons look; null is an empty one.
fn value_text(value: &Value) -> std::borrow::Cow<'_, str> {
    match value {
        Value::String(text) => text.as_str().into(),
        Value::Null => "".into(),
        other => other.to_string().into(),
    }
}

/// Whether a comparison holds.
pub(super) fn holds(value: &Value, op: Op, right: &Right) -> bool {
    match right {
        Right::Pattern(pattern) => pattern.is_match(&value_text(value)),
        Right::Lower(text) => value_text(value).to_lowercase().contains(text.as_str()),
        Right::Literal(literal) => match op {
            Op::Eq => equal(value, literal),
            Op::Ne => !equal(value, literal),
            Op::Gt => order(value, literal).is_some_and(Ordering::is_gt),
            Op::Ge => order(value, literal).is_some_and(Ordering::is_ge),
            Op::Lt => order(value, literal).is_some_and(Ordering::is_lt),
            Op::Le => order(value, literal).is_some_and(Ordering::is_le),
            Op::Bw => value_text(value).starts_with(&literal_text(literal)),
            Op::Ew => value_text(value).ends_with(&literal_text(literal)),
            Op::Cs => value_text(value).contains(&literal_text(literal)),
            // Made ready as the other kinds.
            Op::Ct | Op::Rx => false,
        },
    }
}

fn equal(value: &Value, literal: &Literal) -> bool {
    match (value, literal) {
        (Value::Null, Literal::Null) => true,
        (Value::Null, _) | (_, Literal::Null) => false,
        (Value::String(a), Literal::Text(b)) => a == b,
        _ => order(value, literal) == Some(Ordering::Equal),
    }
}

/// Numbers as numbers, also when one of them is quoted or is true or false; else texts by their bytes. Nothing is
/// greater or less than null.
fn order(value: &Value, literal: &Literal) -> Option<Ordering> {
    let right = match literal {
        Literal::Null => return None,
        Literal::Text(text) => match value {
            Value::String(value) => return Some(value.as_bytes().cmp(text.as_bytes())),
            Value::Bool(_) if text == "true" => Number::Int(1),
            Value::Bool(_) if text == "false" => Number::Int(0),
            _ => number(text)?,
        },
        Literal::Int(n) => Number::Int(*n),
        Literal::Float(n) => Number::Float(*n),
        Literal::Bool(b) => Number::Int((*b).into()),
    };
    let left = match value {
        Value::Bool(b) => Number::Int((*b).into()),
        Value::Number(n) => match n.as_i64() {
            Some(n) => Number::Int(n),
            None => Number::Float(n.as_f64()?),
        },
        Value::String(text) => number(text)?,
        _ => return None,
    };
    left.compare(right)
}

#[derive(Clone, Copy)]
enum Number {
    Int(i64),
    Float(f64),
}

fn number(text: &str) -> Option<Number> {
    if let Ok(n) = text.parse() {
        return Some(Number::Int(n));
    }
    text.parse()
        .ok()
        .filter(|n: &f64| n.is_finite())
        .map(Number::Float)
}

impl Number {
    fn float(self) -> f64 {
        match self {
            Self::Int(n) => n as f64,
            Self::Float(n) => n,
        }
    }
    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (a, b) => a.float().partial_cmp(&b.float()),
        }
    }
}

/// The order of rows by a column: null first, then false and true, numbers, texts by their bytes, the rest as equal.
pub(super) fn sort_order(a: &Value, b: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Null => 0,
            Value::Bool(_) => 1,
            Value::Number(_) => 2,
            Value::String(_) => 3,
            Value::Array(_) | Value::Object(_) => 4,
        }
    }
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::String(a), Value::String(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => {
                let (a, b) = (a.as_f64().unwrap_or(0.0), b.as_f64().unwrap_or(0.0));
                a.total_cmp(&b)
            }
        },
        _ => rank(a).cmp(&rank(b)),
    }
}
