//! Filters, orders and projections against a slow evaluator that reads their text from left to right, character by
//! character, and shares no code with the real one.

use std::collections::BTreeMap;
use std::sync::Arc;

use boxrig_vergeos::filter::{Filter, Join, Literal, Op, Term};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::vergeos::db::Read;
use crate::vergeos::project::Columns;
use crate::vergeos::row::{Row, key_text};
use crate::vergeos::schema::schema;
use crate::vergeos::select::{Selection, sort};

/// Rows in a list each.
#[derive(Debug, Default)]
struct Mem(BTreeMap<&'static str, Vec<Arc<Row>>>);

impl Read for Mem {
    fn get(&self, table: &str, key: &str) -> Option<Arc<Row>> {
        self.all(table).into_iter().find(|row| row.key() == key)
    }
    fn all(&self, table: &str) -> Vec<Arc<Row>> {
        self.0.get(table).cloned().unwrap_or_default()
    }
    fn children(&self, table: &str, column: &str, key: &str) -> Vec<Arc<Row>> {
        let mut rows = self.all(table);
        rows.retain(|row| key_text(row.get(column)).is_some_and(|k| k == key));
        rows
    }
}

// ------------------------------------------------------------------------------------------------ the slow evaluator

/// Text that is read once, from left to right.
struct Text<'a> {
    chars: Vec<char>,
    at: usize,
    row: &'a Map<String, Value>,
    mem: &'a Mem,
}

impl<'a> Text<'a> {
    fn new(text: &str, row: &'a Map<String, Value>, mem: &'a Mem) -> Self {
        let chars = text.chars().collect();
        Self {
            chars,
            at: 0,
            row,
            mem,
        }
    }
    fn blanks(&mut self) {
        while self.chars.get(self.at) == Some(&' ') {
            self.at += 1;
        }
    }
    fn word(&mut self) -> String {
        self.blanks();
        let from = self.at;
        while self
            .chars
            .get(self.at)
            .is_some_and(|c| !" ()'".contains(*c))
        {
            self.at += 1;
        }
        self.chars[from..self.at].iter().collect()
    }
    fn expr(&mut self) -> bool {
        let mut holds = self.term();
        loop {
            let before = self.at;
            match self.word().as_str() {
                "and" => holds &= self.term(),
                "or" => holds |= self.term(),
                _ => {
                    self.at = before;
                    return holds;
                }
            }
        }
    }
    fn term(&mut self) -> bool {
        self.blanks();
        if self.chars[self.at] == '(' {
            self.at += 1;
            let holds = self.expr();
            self.blanks();
            assert_eq!(self.chars[self.at], ')');
            self.at += 1;
            return holds;
        }
        let field = self.word();
        let op = self.word();
        self.blanks();
        let (right, quoted) = if self.chars[self.at] == '\'' {
            self.at += 1;
            let mut text = String::new();
            while self.chars[self.at] != '\'' {
                if self.chars[self.at] == '\\' {
                    self.at += 1;
                }
                text.push(self.chars[self.at]);
                self.at += 1;
            }
            self.at += 1;
            (text, true)
        } else {
            (self.word(), false)
        };
        compare(&value(&field, self.row, self.mem), &op, &right, quoted)
    }
}

/// A column, or the one of the profile that is referred to.
fn value(field: &str, row: &Map<String, Value>, mem: &Mem) -> Value {
    match field.split_once('#') {
        None => row.get(field).cloned().unwrap_or_else(|| default(field)),
        Some((reference, field)) => {
            let key = row.get(reference).cloned().unwrap_or_default();
            match mem.0["snapshot_profiles"]
                .iter()
                .find(|r| r.0["$key"] == key)
            {
                Some(row) => value(field, &row.0, mem),
                None => Value::Null,
            }
        }
    }
}

fn default(column: &str) -> Value {
    match column {
        "enabled" => json!(true),
        "mtu" => json!(0),
        "name" | "description" => json!(""),
        _ => Value::Null,
    }
}

fn compare(left: &Value, op: &str, right: &str, quoted: bool) -> bool {
    let text = match left {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    let null = !quoted && right == "null";
    let plain = if null { "" } else { right };
    match op {
        "bw" => return text.starts_with(plain),
        "ew" => return text.ends_with(plain),
        "cs" => return text.contains(plain),
        "ct" => return text.to_lowercase().contains(&plain.to_lowercase()),
        "rx" => return matches(plain, &text),
        _ => {}
    }
    let equal = match (left, null) {
        (Value::Null, null) => null,
        (_, true) => false,
        _ => order(left, right, quoted) == Some(0),
    };
    match op {
        "eq" => return equal,
        "ne" => return !equal,
        _ if null || left.is_null() => return false,
        _ => {}
    }
    matches!(
        (op, order(left, right, quoted)),
        ("gt", Some(1)) | ("ge", Some(0 | 1)) | ("lt", Some(-1)) | ("le", Some(-1 | 0))
    )
}

/// -1, 0 or 1; nothing when the two cannot be compared.
fn order(left: &Value, right: &str, quoted: bool) -> Option<i8> {
    if let (Value::String(left), true) = (left, quoted) {
        return Some(left.as_bytes().cmp(right.as_bytes()) as i8);
    }
    let number = |text: &str| match text {
        "true" => Some(1.0),
        "false" => Some(0.0),
        text => text.parse::<f64>().ok().filter(|n| n.is_finite()),
    };
    // A quoted `true` is a flag only for a flag.
    if quoted && matches!(right, "true" | "false") && !left.is_boolean() {
        return None;
    }
    let left = match left {
        Value::Bool(b) => f64::from(u8::from(*b)),
        Value::Number(n) => n.as_f64()?,
        Value::String(s) => s.parse::<f64>().ok().filter(|n| n.is_finite())?,
        _ => return None,
    };
    let right = number(right)?;
    left.partial_cmp(&right).map(|o| o as i8)
}

/// An extended regular expression of letters, `.`, `[..]`, `*`, `+`, `?`, `^`, `$` and `|` outside of groups, by trying.
fn matches(pattern: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    pattern.split('|').any(|branch| {
        let branch: Vec<char> = branch.chars().collect();
        (0..=text.len()).any(|from| here(&branch, &text, from))
    })
}

fn here(pattern: &[char], text: &[char], at: usize) -> bool {
    let Some(first) = pattern.first() else {
        return true;
    };
    match first {
        '^' => return at == 0 && here(&pattern[1..], text, at),
        '$' => return at == text.len() && here(&pattern[1..], text, at),
        _ => {}
    }
    let atom = match first {
        '[' => pattern.iter().position(|c| *c == ']').unwrap() + 1,
        _ => 1,
    };
    let one = |at: usize| match (first, text.get(at)) {
        (_, None) => false,
        ('.', _) => true,
        ('[', Some(c)) => pattern[1..atom - 1].contains(c),
        (p, Some(c)) => p == c,
    };
    let (least, most, rest) = match pattern.get(atom) {
        Some('*') => (0, usize::MAX, atom + 1),
        Some('+') => (1, usize::MAX, atom + 1),
        Some('?') => (0, 1, atom + 1),
        _ => (1, 1, atom),
    };
    let mut taken = 0;
    loop {
        if taken >= least && here(&pattern[rest..], text, at + taken) {
            return true;
        }
        if taken == most || !one(at + taken) {
            return false;
        }
        taken += 1;
    }
}

// ---------------------------------------------------------------------------------------------------- what is compared

fn word() -> impl Strategy<Value = String> {
    // Few letters, so that comparisons hold now and then; and what filters escape.
    "[abA'{}\\\\ é1]{0,4}"
}

fn rows() -> impl Strategy<Value = Mem> {
    let profile = (word(), word());
    let vnet = (
        word(),
        proptest::option::of(-2..12i64),
        proptest::option::of(any::<bool>()),
        proptest::option::of(word()),
        proptest::option::of(1..4i64),
    );
    (
        proptest::collection::vec(profile, 0..3),
        proptest::collection::vec(vnet, 0..8),
    )
        .prop_map(|(profiles, vnets)| {
            let mut mem = Mem::default();
            let profiles = profiles.into_iter().zip(1..).map(|((name, text), key)| {
                let row = Row::new().with("$key", key).with("name", name);
                Arc::new(row.with("description", text))
            });
            mem.0.insert("snapshot_profiles", profiles.collect());
            let vnets = vnets.into_iter().zip(1..);
            let vnets = vnets.map(|((name, mtu, enabled, text, profile), key)| {
                let mut row = Row::new().with("$key", key).with("name", name);
                // A cell that is not stored has its default; one that is null is null.
                if let Some(mtu) = mtu {
                    row.set("mtu", if mtu < 0 { Value::Null } else { mtu.into() });
                }
                if let Some(enabled) = enabled {
                    row.set("enabled", enabled);
                }
                if let Some(text) = text {
                    row.set("description", text);
                }
                row.set("snapshot_profile", profile.map_or(Value::Null, Value::from));
                Arc::new(row)
            });
            mem.0.insert("vnets", vnets.collect());
            mem
        })
}

fn field() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        "$key",
        "name",
        "mtu",
        "enabled",
        "description",
        "snapshot_profile",
        "snapshot_profile#name",
        "snapshot_profile#$key",
        "snapshot_profile#description",
    ])
    .prop_map(str::to_owned)
}

fn filter() -> impl Strategy<Value = Filter> {
    let literal = prop_oneof![
        word().prop_map(Literal::Text),
        (-2..12i64).prop_map(Literal::Int),
        (-2..12i64).prop_map(|n| Literal::Text(n.to_string())),
        (-2..12i64).prop_map(|n| Literal::Float(n as f64 + 0.5)),
        any::<bool>().prop_map(Literal::Bool),
        any::<bool>().prop_map(|b| Literal::Text(b.to_string())),
        Just(Literal::Null),
    ];
    let ops: Vec<Op> = Op::ALL.into_iter().filter(|op| *op != Op::Rx).collect();
    let plain = (field(), proptest::sample::select(ops), literal);
    let pattern = "\\^?([a1é.]|\\[[ab1]{1,2}\\]|a\\*|\\.\\+|b\\?){0,3}\\$?(\\|[ab]{1,2})?";
    let pattern = (field(), pattern).prop_map(|(f, p)| (f, Op::Rx, Literal::Text(p)));
    let compare = prop_oneof![4 => plain, 1 => pattern]
        .prop_map(|(field, op, value)| Term::Compare { field, op, value })
        .boxed();
    let leaf = compare.clone().prop_map(|first| Filter {
        first,
        rest: vec![],
    });
    leaf.prop_recursive(3, 16, 4, move |inner| {
        let group = inner.prop_map(|f| Term::Group(Box::new(f)));
        let term = prop_oneof![compare.clone(), group].boxed();
        let join = prop_oneof![Just(Join::And), Just(Join::Or)];
        (term.clone(), proptest::collection::vec((join, term), 0..4))
            .prop_map(|(first, rest)| Filter { first, rest })
    })
}

/// The order of values by their kinds.
fn slow_order(a: &Value, b: &Value) -> std::cmp::Ordering {
    let place = |v: &Value| match v {
        Value::Null => (0, 0.0, String::new()),
        Value::Bool(b) => (1, f64::from(u8::from(*b)), String::new()),
        Value::Number(n) => (2, n.as_f64().unwrap(), String::new()),
        Value::String(s) => (3, 0.0, s.clone()),
        _ => (4, 0.0, String::new()),
    };
    place(a).partial_cmp(&place(b)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn filters_select_what_they_say(mem in rows(), filter in filter()) {
        let text = filter.encode().unwrap();
        let table = schema().table("vnets").unwrap();
        let selection = Selection::parse(table, &text).unwrap().unwrap();
        for row in mem.all("vnets") {
            let mut slow = Text::new(&text, &row.0, &mem);
            let expected = slow.expr();
            prop_assert_eq!(slow.at, slow.chars.len(), "{}", text);
            prop_assert_eq!(selection.passes(&mem, &row), expected, "{} of {:?}", text, row);
        }
    }

    #[test]
    fn orders_are_as_they_say(
        mem in rows(),
        keys in proptest::collection::vec((field(), proptest::sample::select(vec!["", "+", "-", " "])), 0..3),
    ) {
        let text: Vec<String> = keys.iter().map(|(f, sign)| format!("{sign}{f}")).collect();
        let table = schema().table("vnets").unwrap();
        let mut fast = mem.all("vnets");
        sort(&mem, table, &mut fast, &text.join(",")).unwrap();
        // One after the other into its place, after all that do not come later.
        let mut slow: Vec<Arc<Row>> = Vec::new();
        for row in mem.all("vnets") {
            let later = |other: &Arc<Row>| {
                for (field, sign) in &keys {
                    let order = slow_order(&value(field, &row.0, &mem), &value(field, &other.0, &mem));
                    let order = if *sign == "-" { order.reverse() } else { order };
                    if order.is_ne() {
                        return order.is_lt();
                    }
                }
                false
            };
            let at = slow.iter().position(later).unwrap_or(slow.len());
            slow.insert(at, row);
        }
        let keys = |rows: &[Arc<Row>]| rows.iter().map(|r| r.key()).collect::<Vec<_>>();
        prop_assert_eq!(keys(&fast), keys(&slow), "{:?}", text);
    }

    #[test]
    fn projections_show_what_they_say(
        mem in rows(),
        fields in proptest::collection::vec((shown(), proptest::option::of("[xyz]")), 1..5),
    ) {
        let text: Vec<String> = fields
            .iter()
            .map(|(expr, alias)| match alias {
                Some(alias) => format!("{expr} as {alias}"),
                None => expr.clone(),
            })
            .collect();
        let table = schema().table("vnets").unwrap();
        let columns = Columns::parse(table, Some(&text.join(","))).unwrap();
        for row in mem.all("vnets") {
            let mut expected = Map::new();
            for (expr, alias) in &fields {
                if let Some(value) = slow_value(expr, &row.0, &mem) {
                    expected.insert(alias.clone().unwrap_or_else(|| expr.clone()), value);
                }
            }
            prop_assert_eq!(columns.of(&mem, &row), expected.clone(), "{:?}", text);
            let mut written = Vec::new();
            columns.write(&mem, &row, &mut written);
            let read: Value = serde_json::from_slice(&written).unwrap();
            let expected = Value::Object(expected);
            // As long as it: no member stands there twice.
            prop_assert_eq!(written.len(), expected.to_string().len(), "{:?}", text);
            prop_assert_eq!(read, expected, "{:?}", text);
        }
    }

    /// Whatever comes in, something reasonable comes out.
    #[test]
    fn nothing_panics(text in ".{0,60}") {
        let table = schema().table("vms").unwrap();
        let mem = Mem::default();
        let row = Row::new().with("$key", 1).with("name", "x");
        if let Ok(Some(selection)) = Selection::parse(table, &text) {
            selection.passes(&mem, &row);
        }
        if let Ok(columns) = Columns::parse(table, Some(&text)) {
            let mut written = Vec::new();
            columns.write(&mem, &row, &mut written);
            let read: Value = serde_json::from_slice(&written).unwrap();
            prop_assert_eq!(read, Value::Object(columns.of(&mem, &row)));
        }
        let _ = sort(&mem, table, &mut vec![Arc::new(row)], &text);
        let _ = crate::vergeos::ere::Ere::new(&text).is_match("text");
    }
}

fn shown() -> impl Strategy<Value = String> {
    let column = prop_oneof![4 => field(), 1 => Just("nothing".to_owned())];
    column.prop_flat_map(|c| {
        proptest::sample::select(vec![
            c.clone(),
            format!("upper({c})"),
            format!("count({c})"),
            format!("{c} eq 1"),
            format!("{c} cs 'a'"),
            "snapshot_profile[$key,name]".to_owned(),
            "$display".to_owned(),
        ])
    })
}

/// What an entry shows of a row; `None`: nothing.
fn slow_value(expr: &str, row: &Map<String, Value>, mem: &Mem) -> Option<Value> {
    if let Some(inner) = expr.strip_prefix("upper(") {
        return Some(match slow_value(inner.strip_suffix(')')?, row, mem)? {
            Value::Null => Value::Null,
            Value::String(s) => json!(s.to_uppercase()),
            other => json!(other.to_string().to_uppercase()),
        });
    }
    if let Some(inner) = expr.strip_prefix("count(") {
        let value = slow_value(inner.strip_suffix(')')?, row, mem)?;
        return Some(json!(i32::from(!value.is_null())));
    }
    for (end, op, right, quoted) in [(" eq 1", "eq", "1", false), (" cs 'a'", "cs", "a", true)] {
        if let Some(inner) = expr.strip_suffix(end) {
            let value = slow_value(inner, row, mem)?;
            return Some(json!(compare(&value, op, right, quoted)));
        }
    }
    match expr {
        "nothing" => None,
        "snapshot_profile[$key,name]" => {
            let key = &row["snapshot_profile"];
            let found = mem.0["snapshot_profiles"]
                .iter()
                .find(|r| r.0["$key"] == *key);
            Some(found.map_or(
                Value::Null,
                |r| json!({ "$key": r.0["$key"], "name": r.0["name"] }),
            ))
        }
        "$display" => Some(match row["name"].as_str() {
            Some(name) if !name.is_empty() => json!(name),
            _ => json!(row["$key"].to_string()),
        }),
        field => Some(value(field, row, mem)),
    }
}
