//! Where a value comes from: an argument, a column of a row, an earlier reply.

use boxrig_wire::{Error, Kind, Result};
use serde_json::{Map, Value, json};

use crate::Row;

/// What expressions can look at.
pub(crate) trait Look {
    /// An argument.
    fn arg(&self, name: &str) -> Option<&Value>;
    /// A column of a row on the way to the member.
    fn scope(&self, class: &str, column: &str) -> Result<Value>;
    /// A column of the reply of a step.
    fn reply(&self, step: usize, column: &str) -> Result<Value>;
}

fn broken(expr: &Value) -> Error {
    Error::new(Kind::Failed, format!("the table of members has {expr}"))
}

/// Whether a condition holds. "given" is any value; of a parameter that is a number or a name, "text" is the name, and "other" is
/// the second form of one that has two.
pub(crate) fn holds(
    look: &dyn Look,
    forms: &dyn Fn(&str) -> bool,
    name: &str,
    label: &Value,
) -> bool {
    let Some(value) = look.arg(name).filter(|v| !v.is_null()) else {
        return false;
    };
    match label.as_str() {
        Some("given") => {
            // A parameter with two forms: the name is told from the number.
            !(forms(name) && is_name(value))
        }
        Some("text") => is_name(value),
        Some("other") => false,
        Some("row") => false,
        _ => value == label,
    }
}

fn is_name(value: &Value) -> bool {
    value.as_str().is_some_and(|t| t.parse::<i64>().is_err())
}

/// Evaluates an expression; `None` is "nothing is sent".
pub(crate) fn eval(look: &dyn Look, expr: &Value) -> Result<Option<Value>> {
    let list = expr.as_array().ok_or_else(|| broken(expr))?;
    let tag = list.first().and_then(Value::as_str);
    let tag = tag.ok_or_else(|| broken(expr))?;
    Ok(match tag {
        "k" => list.get(1).cloned(),
        "v" => reference(look, list.get(1..).unwrap_or(&[]))?,
        "a" | "s" | "r" => reference(look, list)?,
        "t" | "f" => Some(Value::String(text(look, list.get(1), tag == "f")?)),
        "o" => {
            let mut out = Map::new();
            for (k, v) in list.get(1).and_then(Value::as_object).into_iter().flatten() {
                if let Some(v) = eval(look, v)? {
                    out.insert(k.clone(), v);
                }
            }
            Some(Value::Object(out))
        }
        "l" => {
            let items = list.get(1).and_then(Value::as_array).into_iter().flatten();
            let mut out = Vec::new();
            for item in items {
                out.extend(eval(look, item)?);
            }
            Some(Value::Array(out))
        }
        "now" => reference(look, list)?,
        "later" => {
            let inner = list.get(1).and_then(Value::as_array).map(Vec::as_slice);
            let unit = list.get(2).and_then(Value::as_i64).unwrap_or(1);
            match reference(look, inner.unwrap_or(&[]))? {
                Some(n) => {
                    let n = n.as_i64().ok_or_else(|| {
                        Error::new(
                            Kind::Invalid,
                            format!("{n} is not a number of units of time"),
                        )
                    })?;
                    let now = crate::Time::from(std::time::SystemTime::now()).0;
                    Some(now.saturating_add(n.saturating_mul(unit)).into())
                }
                None => None,
            }
        }
        "p" => {
            let at = list.get(1).and_then(Value::as_u64).unwrap_or(u64::MAX);
            let text = usize::try_from(at)
                .ok()
                .and_then(super::catalogue::projection);
            Some(text.ok_or_else(|| broken(expr))?.into())
        }
        _ => return Err(broken(expr)),
    })
}

/// `[a, name, conversions…]`, `[s, class, column, …]`, `[r, step, column, …]`.
fn reference(look: &dyn Look, list: &[Value]) -> Result<Option<Value>> {
    let whole = || broken(&Value::Array(list.to_vec()));
    let word = |i: usize| list.get(i).and_then(Value::as_str);
    let (value, conversions) = match word(0) {
        Some("a") => {
            let name = word(1).ok_or_else(whole)?;
            match look.arg(name) {
                Some(value) => (value.clone(), 2),
                None => return Ok(None),
            }
        }
        Some("s") => {
            let (class, column) = (word(1).ok_or_else(whole)?, word(2).ok_or_else(whole)?);
            (look.scope(class, column)?, 3)
        }
        Some("r") => {
            let step = list.get(1).and_then(Value::as_u64).ok_or_else(whole)?;
            let column = word(2).ok_or_else(whole)?;
            (
                look.reply(usize::try_from(step).unwrap_or(usize::MAX), column)?,
                3,
            )
        }
        Some("stamp") => (Value::String(stamp(word(1).unwrap_or(""))), 2),
        Some("now") => {
            let offset = list.get(1).and_then(Value::as_i64).unwrap_or(0);
            let now = crate::Time::from(std::time::SystemTime::now()).0;
            ((now + offset).into(), 2)
        }
        _ => return Err(whole()),
    };
    let mut value = value;
    for how in list.get(conversions..).unwrap_or(&[]) {
        value = convert(value, how.as_str().unwrap_or(""))?;
    }
    Ok(Some(value))
}

fn convert(value: Value, how: &str) -> Result<Value> {
    let wrong = || {
        Error::new(
            Kind::Invalid,
            format!("{value} is not what is expected here"),
        )
    };
    let times = |factor: i64| -> Result<Value> {
        match (value.as_i64(), value.as_f64()) {
            (Some(n), _) => n.checked_mul(factor).map(Value::from).ok_or_else(wrong),
            (None, Some(f)) => Ok(json!((f * factor as f64) as i64)),
            _ => Err(wrong()),
        }
    };
    let joined = |by: &str| match &value {
        Value::Array(items) => {
            let words: Vec<String> = items.iter().map(plain).collect();
            Value::String(words.join(by))
        }
        Value::Number(n) => Value::String(n.to_string()),
        other => other.clone(),
    };
    Ok(match how {
        "gib" => times(1 << 30)?,
        "mib" => times(1 << 20)?,
        "kib" => times(1 << 10)?,
        "k" => times(1000)?,
        "us" => times(1_000_000)?,
        "hours" => times(3600)?,
        "days" => times(86400)?,
        "minutes" => times(60)?,
        "secs" => value,
        "at_most_1440" => value.as_i64().ok_or_else(wrong)?.min(1440).into(),
        "up256" => {
            let n = value.as_i64().ok_or_else(wrong)?;
            (n.div_euclid(256) + i64::from(n.rem_euclid(256) != 0))
                .checked_mul(256)
                .ok_or_else(wrong)?
                .into()
        }
        "text" => Value::String(plain(&value)),
        "int" => match &value {
            Value::String(text) => text
                .trim()
                .parse::<i64>()
                .map(Value::from)
                .map_err(|_| wrong())?,
            _ => value,
        },
        "comma" => joined(","),
        "lines" => joined("\n"),
        "upper" => Value::String(plain(&value).to_uppercase()),
        "json" => match &value {
            Value::Object(_) | Value::Array(_) => Value::String(value.to_string()),
            _ => value,
        },
        "headers" => match &value {
            Value::Object(map) => Value::String(
                map.iter()
                    .map(|(k, v)| format!("{k}:{}\n", plain(v)))
                    .collect(),
            ),
            _ => value,
        },
        _ => return Err(Error::new(Kind::Failed, format!("no conversion {how:?}"))),
    })
}

/// The time as it stands in the names of snapshots, in UTC: `20261128_1155`, `20261128-115710`.
fn stamp(form: &str) -> String {
    let now = crate::Time::from(std::time::SystemTime::now()).0;
    let (days, seconds) = (now.div_euclid(86400), now.rem_euclid(86400));
    // Years begin in March here, so that the day that comes and goes is the last one.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match form {
        "ymd_hm" => format!("{year:04}{month:02}{day:02}_{h:02}{m:02}"),
        "ymd-hms" => format!("{year:04}{month:02}{day:02}-{h:02}{m:02}{s:02}"),
        _ => format!("{:05}", now.rem_euclid(100_000)),
    }
}

/// A value as the text that stands for it.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Texts and references in a row. In a filter, what is put between quotes is escaped, and what stands bare must be a number.
fn text(look: &dyn Look, parts: Option<&Value>, filter: bool) -> Result<String> {
    let mut out = String::new();
    for part in parts.and_then(Value::as_array).into_iter().flatten() {
        if let Some(words) = part.as_str() {
            out.push_str(words);
            continue;
        }
        let value = match part.as_array() {
            Some(list) => reference(look, list)?,
            None => return Err(broken(part)),
        };
        let value = match value {
            // Several in a text stand between commas.
            Some(Value::Array(items)) => items.iter().map(plain).collect::<Vec<_>>().join(","),
            value => plain(&value.unwrap_or_default()),
        };
        match (filter, out.ends_with('\'')) {
            (true, true) => {
                let quoted = crate::filter::Literal::Text(value).to_string();
                out.push_str(quoted.get(1..quoted.len() - 1).unwrap_or(""));
            }
            (true, false) => {
                // A caller's own filter stands whole; anything else bare is a number, a column or a comma list of keys.
                let whole = part[0] == "a" && part[1] == "filter";
                let plain = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
                let bare = value.chars().all(plain) || value.parse::<f64>().is_ok();
                if !whole && !bare {
                    out.push_str(&crate::filter::Literal::Text(value).to_string());
                } else {
                    out.push_str(&value);
                }
            }
            _ => out.push_str(&value),
        }
    }
    Ok(out)
}

/// The value of a dotted way into a map.
pub(crate) fn put(row: &mut Row, way: &str, value: Value) {
    match way.split_once('.') {
        None => {
            row.insert(way.to_owned(), value);
        }
        Some((head, tail)) => {
            let inner = row.entry(head).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                put(inner, tail, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_stamp_is_a_date_and_a_time() {
        let text = super::stamp("ymd-hms");
        assert_eq!(text.len(), 15);
        let (date, time) = text.split_once('-').unwrap();
        let days = crate::Time::from(std::time::SystemTime::now()).0 / 86400;
        // Counted from the first of 2026, day by day.
        let mut left = days - 20_454;
        let (mut year, mut month) = (2026, 1);
        loop {
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + i64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            if left < length {
                break;
            }
            left -= length;
            month += 1;
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!(date, format!("{year:04}{month:02}{:02}", left + 1));
        assert!(time.chars().all(|c| c.is_ascii_digit()));
    }
}
