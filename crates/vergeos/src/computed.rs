//! What the vendor's SDK computes from columns of a row (`api/vergeos-computed.tsv`): moments, sizes, labels, comparisons.
//!
//! Each function takes the row, the names of the columns and a word of its own, and gives `None` when what it needs was not in
//! the reply: "not asked for" is not "no". Sizes and shares are not rounded, as the SDK's are.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::Record;

type Columns<'c> = &'c [&'c str];

fn one<'c>(columns: Columns<'c>) -> &'c str {
    columns.first().copied().unwrap_or("")
}

fn two<'c>(columns: Columns<'c>) -> (&'c str, &'c str) {
    (one(columns), columns.get(1).copied().unwrap_or(""))
}

fn now() -> i64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH);
    passed.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

fn at(micros: i64) -> Option<SystemTime> {
    let micros = u64::try_from(micros).ok().filter(|m| *m > 0)?;
    UNIX_EPOCH.checked_add(Duration::from_micros(micros))
}

/// The label of a word: `word=Label|word=Label`.
fn labelled<'a>(labels: &'static str, word: &'a str) -> &'a str {
    let pairs = labels.split('|').filter_map(|pair| pair.split_once('='));
    let mut found = pairs.filter(|(w, _)| *w == word).map(|(_, label)| label);
    found.next().unwrap_or(word)
}

/// A moment, from seconds; none for 0.
pub fn time(row: &Record, columns: Columns<'_>, _: &str) -> Option<SystemTime> {
    at(row.int(one(columns))?.checked_mul(1_000_000)?)
}
/// A moment, from microseconds; none for 0.
pub fn time_us(row: &Record, columns: Columns<'_>, _: &str) -> Option<SystemTime> {
    at(row.int(one(columns))?)
}
/// A span of seconds.
pub fn span(row: &Record, columns: Columns<'_>, _: &str) -> Option<Duration> {
    let seconds = u64::try_from(row.int(one(columns))?).ok()?;
    Some(Duration::from_secs(seconds))
}
/// Whether a column is one of these words.
pub fn is(row: &Record, columns: Columns<'_>, words: &str) -> Option<bool> {
    row.get(one(columns))?;
    let have = row.text(one(columns));
    Some(have.is_some_and(|have| words.split(',').any(|word| word == have)))
}
/// Whether a column is none of these words.
pub fn is_not(row: &Record, columns: Columns<'_>, words: &str) -> Option<bool> {
    is(row, columns, words).map(|is| !is)
}
/// Whether one of the columns is its word.
pub fn any(row: &Record, columns: Columns<'_>, words: &str) -> Option<bool> {
    let mut pairs = columns.iter().zip(words.split(','));
    if columns.iter().all(|c| row.get(c).is_none()) {
        return None;
    }
    Some(pairs.any(|(c, word)| row.text(c) == Some(word)))
}
/// Whether the first column is set, or the second one is the word.
pub fn any_flag(row: &Record, columns: Columns<'_>, word: &str) -> Option<bool> {
    let (flag, text) = two(columns);
    match (row.flag(flag), row.text(text)) {
        (None, None) => None,
        (set, text) => Some(set == Some(true) || text == Some(word)),
    }
}
/// A number in other units.
pub fn scaled(row: &Record, columns: Columns<'_>, unit: &str) -> Option<f64> {
    Some(row.float(one(columns))? / unit.parse::<f64>().ok()?)
}
/// The first of the columns that is a number and not 0, in other units.
pub fn first_scaled(row: &Record, columns: Columns<'_>, unit: &str) -> Option<f64> {
    let found: Vec<f64> = columns.iter().filter_map(|c| row.float(c)).collect();
    let chosen = found.iter().find(|n| **n != 0.0).or(found.first())?;
    Some(chosen / unit.parse::<f64>().ok()?)
}
/// The first as a share of the second, 0 to 100; 0 where there is nothing. A third column that has it already wins.
pub fn percent(row: &Record, columns: Columns<'_>, _: &str) -> Option<f64> {
    if let Some(share) = columns.get(2).and_then(|ready| row.float(ready)) {
        return Some(share);
    }
    let (part, whole) = two(columns);
    let (part, whole) = (row.float(part)?, row.float(whole)?);
    Some(if whole > 0.0 {
        part / whole * 100.0
    } else {
        0.0
    })
}
/// The first over the second; 0 where that is nothing.
pub fn ratio(row: &Record, columns: Columns<'_>, _: &str) -> Option<f64> {
    let (part, whole) = two(columns);
    let (part, whole) = (row.float(part)?, row.float(whole)?);
    Some(if whole == 0.0 { 0.0 } else { part / whole })
}
/// A ratio in hundredths; one to one where none is said.
pub fn hundredths(row: &Record, columns: Columns<'_>, _: &str) -> Option<f64> {
    let ratio = row.float(one(columns))?;
    Some(if ratio == 0.0 { 1.0 } else { ratio / 100.0 })
}
/// What a ratio of hundredths saves, in per cent.
pub fn savings(row: &Record, columns: Columns<'_>, unit: &str) -> Option<f64> {
    let ratio = scaled(row, columns, unit)?;
    Some(if ratio > 1.0 {
        (1.0 - 1.0 / ratio) * 100.0
    } else {
        0.0
    })
}
/// What is left of the first when the second is taken, at least 0.
pub fn left(row: &Record, columns: Columns<'_>, _: &str) -> Option<i64> {
    let (whole, part) = two(columns);
    Some(row.int(whole)?.saturating_sub(row.int(part)?).max(0))
}
/// As [`left`], in other units.
pub fn left_scaled(row: &Record, columns: Columns<'_>, unit: &str) -> Option<f64> {
    Some(left(row, columns, "")? as f64 / unit.parse::<f64>().ok()?)
}
/// The sum of the columns that are there.
pub fn sum(row: &Record, columns: Columns<'_>, _: &str) -> Option<i64> {
    let found: Vec<i64> = columns.iter().filter_map(|c| row.int(c)).collect();
    (!found.is_empty()).then(|| found.iter().fold(0i64, |all, n| all.saturating_add(*n)))
}
/// As [`sum`], in other units.
pub fn sum_scaled(row: &Record, columns: Columns<'_>, unit: &str) -> Option<f64> {
    Some(sum(row, columns, "")? as f64 / unit.parse::<f64>().ok()?)
}
/// A count: a number, or a document that has one.
pub fn count(row: &Record, columns: Columns<'_>, _: &str) -> Option<i64> {
    match row.get(one(columns))? {
        Value::Object(map) => {
            let count = map.get("$count").or_else(|| map.get("instances_total"));
            Some(count.and_then(Value::as_i64).unwrap_or(0))
        }
        value => Some(value.as_i64().unwrap_or(0)),
    }
}
/// A number within a document.
pub fn member(row: &Record, columns: Columns<'_>, name: &str) -> Option<i64> {
    let document = row.json(one(columns))?;
    Some(document.get(name).and_then(Value::as_i64).unwrap_or(0))
}
/// The first text of these names within a document.
pub fn inside(row: &Record, columns: Columns<'_>, names: &str) -> Option<String> {
    let document = row.json(one(columns))?;
    let mut found = names
        .split(',')
        .filter_map(|name| document.get(name)?.as_str());
    found.next().map(str::to_owned)
}
/// The label of a word; the word where it has none.
pub fn label<'a>(row: &'a Record, columns: Columns<'_>, labels: &'static str) -> Option<&'a str> {
    row.text(one(columns)).map(|word| labelled(labels, word))
}
/// The label of the first word that is there.
pub fn label_either<'a>(
    row: &'a Record,
    columns: Columns<'_>,
    labels: &'static str,
) -> Option<&'a str> {
    either(row, columns, "").map(|word| labelled(labels, word))
}
/// The table of a reference such as `vms/39`.
pub fn kind_of<'a>(row: &'a Record, columns: Columns<'_>, _: &str) -> Option<&'a str> {
    let text = row.text(one(columns))?;
    let text = text.strip_prefix("/v4/").unwrap_or(text);
    text.split_once('/').map(|(table, _)| table)
}
/// The label of a reference's table.
pub fn label_of_kind<'a>(
    row: &'a Record,
    columns: Columns<'_>,
    labels: &'static str,
) -> Option<&'a str> {
    kind_of(row, columns, "").map(|word| labelled(labels, word))
}
/// The number of a reference to one of these tables, or to any.
pub fn key_in(row: &Record, columns: Columns<'_>, tables: &str) -> Option<i64> {
    let table = kind_of(row, columns, "")?;
    if !tables.is_empty() && !tables.split(',').any(|t| t == table) {
        return None;
    }
    row.text(one(columns))?.rsplit('/').next()?.parse().ok()
}
/// With a capital.
pub fn title(row: &Record, columns: Columns<'_>, _: &str) -> Option<String> {
    let text = row.text(one(columns))?;
    let mut letters = text.chars();
    let first = letters.next()?;
    Some(first.to_uppercase().chain(letters).collect())
}
/// In capitals.
pub fn upper(row: &Record, columns: Columns<'_>, _: &str) -> Option<String> {
    Some(row.text(one(columns))?.to_uppercase())
}
/// The first text that is there and not empty.
pub fn either<'a>(row: &'a Record, columns: Columns<'_>, _: &str) -> Option<&'a str> {
    let mut texts = columns.iter().filter_map(|c| row.text(c));
    texts.find(|t| !t.is_empty())
}
/// Words between commas, or lines.
pub fn words(row: &Record, columns: Columns<'_>, by: &str) -> Option<Vec<String>> {
    let by = if by == "lines" { '\n' } else { ',' };
    let words = row.text(one(columns))?.split(by).map(str::trim);
    Some(words.filter(|w| !w.is_empty()).map(str::to_owned).collect())
}
/// Texts of a list.
pub fn list_of(row: &Record, columns: Columns<'_>, _: &str) -> Option<Vec<String>> {
    row.list(one(columns))
}
/// A document.
pub fn document(row: &Record, columns: Columns<'_>, _: &str) -> Option<Value> {
    row.json(one(columns))
}
/// A whole number.
pub fn number(row: &Record, columns: Columns<'_>, _: &str) -> Option<i64> {
    row.int(one(columns))
}
/// A key as a text.
pub fn text_of_key(row: &Record, columns: Columns<'_>, _: &str) -> Option<String> {
    row.key(one(columns)).map(|key| key.to_string())
}
/// Above 0.
pub fn positive(row: &Record, columns: Columns<'_>, _: &str) -> Option<bool> {
    Some(row.float(one(columns))? > 0.0)
}
/// One of them is above 0.
pub fn any_positive(row: &Record, columns: Columns<'_>, _: &str) -> Option<bool> {
    let found: Vec<f64> = columns.iter().filter_map(|c| row.float(c)).collect();
    (!found.is_empty()).then(|| found.iter().any(|n| *n > 0.0))
}
/// At least so much.
pub fn at_least(row: &Record, columns: Columns<'_>, least: &str) -> Option<bool> {
    Some(row.float(one(columns))? >= least.parse::<f64>().ok()?)
}
/// One of them is set.
pub fn any_set(row: &Record, columns: Columns<'_>, _: &str) -> Option<bool> {
    let found: Vec<bool> = columns.iter().filter_map(|c| row.flag(c)).collect();
    (!found.is_empty()).then(|| found.contains(&true))
}
/// All of them are set.
pub fn all_set(row: &Record, columns: Columns<'_>, _: &str) -> Option<bool> {
    let found: Vec<bool> = columns.iter().filter_map(|c| row.flag(c)).collect();
    (!found.is_empty()).then(|| found.len() == columns.len() && !found.contains(&false))
}
/// 0.
pub fn zero(row: &Record, columns: Columns<'_>, _: &str) -> Option<bool> {
    Some(row.int(one(columns))? == 0)
}
/// There is a value.
pub fn there(row: &Record, columns: Columns<'_>, _: &str) -> Option<bool> {
    row.get(one(columns)).map(|value| !value.is_null())
}
/// There is a text that is not empty.
pub fn filled(row: &Record, columns: Columns<'_>, _: &str) -> Option<bool> {
    row.get(one(columns))?;
    Some(row.text(one(columns)).is_some_and(|t| !t.is_empty()))
}
/// They are not the same.
pub fn differ(row: &Record, columns: Columns<'_>, _: &str) -> Option<bool> {
    let (a, b) = two(columns);
    Some(row.get(a)? != row.get(b)?)
}
/// An expiry of 0, or the word `never` in the second column.
pub fn never(row: &Record, columns: Columns<'_>, _: &str) -> Option<bool> {
    let (expires, kind) = two(columns);
    match (row.text(kind), row.int(expires)) {
        (Some("never"), _) => Some(true),
        (_, Some(at)) => Some(at == 0),
        (Some(_), None) => Some(false),
        (None, None) => row.get(expires).map(|_| true),
    }
}
/// A moment that is over; none given is never.
pub fn past(row: &Record, columns: Columns<'_>, _: &str) -> Option<bool> {
    row.get(one(columns))?;
    let until = row.int(one(columns)).filter(|at| *at != 0);
    Some(until.is_some_and(|at| at < now()))
}
/// A moment to come.
pub fn future(row: &Record, columns: Columns<'_>, _: &str) -> Option<bool> {
    Some(row.int(one(columns))? > now())
}
/// A moment, in microseconds, that is more than so many seconds ago; none given counts as that.
pub fn older(row: &Record, columns: Columns<'_>, seconds: &str) -> Option<bool> {
    row.get(one(columns))?;
    let limit: i64 = seconds.parse().ok()?;
    let made = row.int(one(columns)).filter(|at| *at != 0);
    Some(made.is_none_or(|made| now().saturating_sub(made / 1_000_000) > limit))
}
/// A moment less than so many seconds ago.
pub fn within(row: &Record, columns: Columns<'_>, seconds: &str) -> Option<bool> {
    row.get(one(columns))?;
    let limit: i64 = seconds.parse().ok()?;
    let last = row.int(one(columns)).filter(|at| *at != 0);
    Some(last.is_some_and(|last| now().saturating_sub(last) < limit))
}
/// Now is after the first and not after the second; one that is not given does not limit.
pub fn between(row: &Record, columns: Columns<'_>, _: &str) -> Option<bool> {
    let (from, until) = two(columns);
    if row.get(from).is_none() && row.get(until).is_none() {
        return None;
    }
    let limit = |column: &str| row.int(column).filter(|at| *at != 0);
    Some(limit(from).is_none_or(|at| now() >= at) && limit(until).is_none_or(|at| now() <= at))
}
/// Whole days until a moment; negative when it is over.
pub fn days_until(row: &Record, columns: Columns<'_>, _: &str) -> Option<i64> {
    let at = row.int(one(columns)).filter(|at| *at != 0)?;
    Some(at.saturating_sub(now()).div_euclid(86_400))
}
/// What stands before the slash.
pub fn before<'a>(row: &'a Record, columns: Columns<'_>, _: &str) -> Option<&'a str> {
    row.text(one(columns))?.split('/').next()
}
/// What stands after the slash, or the word.
pub fn after<'a>(row: &'a Record, columns: Columns<'_>, none: &'static str) -> Option<&'a str> {
    let text = row.text(one(columns))?;
    Some(text.split_once('/').map_or(none, |(_, after)| after))
}
/// The length of a network's prefix.
pub fn prefix(row: &Record, columns: Columns<'_>, _: &str) -> Option<i64> {
    row.text(one(columns))?.split_once('/')?.1.parse().ok()
}
/// How many addresses an IPv4 network has.
pub fn addresses(row: &Record, columns: Columns<'_>, _: &str) -> Option<i64> {
    let host = 32 - prefix(row, columns, "")?;
    (0..=32).contains(&host).then(|| 1 << host)
}
/// `Tier 3`.
pub fn tier_name(row: &Record, columns: Columns<'_>, _: &str) -> Option<String> {
    row.int(one(columns)).map(|tier| format!("Tier {tier}"))
}
/// Some columns as a document, under names of their own.
pub fn pick(row: &Record, columns: Columns<'_>, names: &str) -> Option<Value> {
    let pairs = names.split(',').zip(columns);
    let picked: Map<String, Value> = pairs
        .map(|(name, column)| (name.to_owned(), row.get(column).unwrap_or_default()))
        .collect();
    Some(picked.into())
}
/// The words whose columns are set: `always|first|second|…`.
pub fn named(row: &Record, columns: Columns<'_>, words: &str) -> Option<Vec<String>> {
    let (always, words) = words.split_once('|')?;
    if columns.iter().all(|c| row.get(c).is_none()) {
        return None;
    }
    let set = columns.iter().zip(words.split('|'));
    let set = set
        .filter(|(c, _)| row.flag(c) == Some(true))
        .map(|(_, word)| word);
    let all = std::iter::once(always).chain(set).filter(|w| !w.is_empty());
    Some(all.map(str::to_owned).collect())
}
/// The document in the second column, where the first says `list`.
pub fn when_list(row: &Record, columns: Columns<'_>, _: &str) -> Option<Value> {
    let (kind, document) = two(columns);
    (row.text(kind) == Some("list")).then(|| row.json(document))?
}
/// Lines of `name: value`.
pub fn headers(row: &Record, columns: Columns<'_>, _: &str) -> Option<BTreeMap<String, String>> {
    let lines = row.text(one(columns))?.lines();
    let pairs = lines.filter_map(|line| line.trim().split_once(':'));
    Some(
        pairs
            .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
            .collect(),
    )
}

/// A number with the largest of the units that leaves at least one whole.
fn in_units(amount: f64, step: f64, units: &[&str]) -> String {
    let (mut amount, mut unit) = (amount, 0);
    while amount >= step && unit + 1 < units.len() {
        amount /= step;
        unit += 1;
    }
    let unit = units.get(unit).copied().unwrap_or("");
    match amount == 0.0 {
        true => format!("0 {unit}"),
        false => format!("{amount:.2} {unit}"),
    }
}
/// Bytes for a person.
pub fn text_of_size(row: &Record, columns: Columns<'_>, _: &str) -> Option<String> {
    let units = ["B", "KB", "MB", "GB", "TB", "PB"];
    Some(in_units(row.float(one(columns))?, 1024.0, &units))
}
/// As [`text_of_size`], with whole bytes.
pub fn text_of_file_size(row: &Record, columns: Columns<'_>, _: &str) -> Option<String> {
    match row.int(one(columns))? {
        n @ 0..1024 => Some(format!("{n} B")),
        _ => text_of_size(row, columns, ""),
    }
}
/// Bits in a second for a person.
pub fn text_of_rate(row: &Record, columns: Columns<'_>, _: &str) -> Option<String> {
    let units = ["bps", "Kbps", "Mbps", "Gbps", "Tbps"];
    Some(in_units(row.float(one(columns))?, 1000.0, &units))
}
/// The speed of a link for a person, from megabits.
pub fn text_of_speed(row: &Record, columns: Columns<'_>, _: &str) -> Option<String> {
    Some(match row.int(one(columns))? {
        0 => "Unknown".to_owned(),
        n if n >= 1000 => format!("{} Gbps", n / 1000),
        n => format!("{n} Mbps"),
    })
}
/// Days and hours, from seconds.
pub fn text_of_time(row: &Record, columns: Columns<'_>, _: &str) -> Option<String> {
    let seconds = row.int(one(columns))?;
    let (days, hours) = (seconds / 86_400, seconds % 86_400 / 3600);
    Some(match (seconds, days, hours) {
        (..=0, ..) => "None".to_owned(),
        (_, 0, hours) => format!("{hours}h"),
        (_, days, 0) => format!("{days}d"),
        (_, days, hours) => format!("{days}d {hours}h"),
    })
}
/// A link's MTU; 0 leaves it to the system.
pub fn text_of_mtu(row: &Record, columns: Columns<'_>, _: &str) -> Option<String> {
    Some(match row.int(one(columns))? {
        0 => "Auto".to_owned(),
        mtu => mtu.to_string(),
    })
}

/// What is computed, as JSON: moments in seconds, spans in seconds.
pub trait Shown {
    /// The value.
    fn shown(self) -> Value;
}

impl<T: Shown> Shown for Option<T> {
    fn shown(self) -> Value {
        self.map_or(Value::Null, Shown::shown)
    }
}
impl Shown for SystemTime {
    fn shown(self) -> Value {
        let since = self.duration_since(UNIX_EPOCH);
        since.map_or(Value::Null, |d| json!(d.as_secs_f64()))
    }
}
impl Shown for Duration {
    fn shown(self) -> Value {
        json!(self.as_secs())
    }
}
macro_rules! shown {
    ($($ty:ty)*) => {$(
        impl Shown for $ty {
            fn shown(self) -> Value {
                json!(self)
            }
        }
    )*};
}
shown! { bool i64 f64 &str String Value Vec<String> BTreeMap<String, String> }
