//! One row type, six ways to print it.
//!
//! A row is a JSON object whose members are the schema in `docs/json-schema.json`. Tables and CSV pick columns of it,
//! JSON and YAML print it whole. Everything that is printed for people goes through [`escape_line`], so no text of a
//! server can move the cursor or change the terminal.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::io::{self, Write};

use boxrig_wire::{Error, Kind, Result, escape_json, escape_line, escape_text};
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    #[default]
    Table,
    Wide,
    Json,
    Yaml,
    Csv,
    Name,
}

impl Format {
    pub(crate) const NAMES: [&'static str; 6] = ["table", "wide", "json", "yaml", "csv", "name"];

    pub(crate) fn parse(name: &str) -> Self {
        match name {
            "wide" => Self::Wide,
            "json" => Self::Json,
            "yaml" => Self::Yaml,
            "csv" => Self::Csv,
            "name" => Self::Name,
            _ => Self::Table,
        }
    }

    /// Whether a program reads it: errors are then JSON too.
    pub(crate) fn is_json(self) -> bool {
        self == Self::Json
    }
}

/// A column of a table: its title and the member of the row it shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// Members joined by dots.
    pub(crate) field: &'static str,
    /// Only with `-o wide` and in CSV.
    pub(crate) wide: bool,
    pub(crate) show: Show,
}

/// How a member becomes a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// As it is.
    Text,
    /// Bytes as KiB, MiB, GiB.
    Bytes,
    /// A time as how long ago it was.
    Age,
}

pub(crate) const fn column(title: &'static str, field: &'static str) -> Column {
    Column {
        title,
        field,
        wide: false,
        show: Show::Text,
    }
}

impl Column {
    pub(crate) const fn wide(mut self) -> Self {
        self.wide = true;
        self
    }
    pub(crate) const fn show(mut self, show: Show) -> Self {
        self.show = show;
        self
    }
}

/// What the flags say about printing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Style {
    pub(crate) format: Format,
    /// Members to show instead of the usual columns.
    pub(crate) columns: Vec<String>,
    pub(crate) filters: Vec<Filter>,
    /// Members to sort by; a leading `-` turns the order.
    pub(crate) sort: Vec<String>,
    pub(crate) color: bool,
    pub(crate) quiet: bool,
}

/// `FIELD=VALUE`, `FIELD!=VALUE` or `FIELD~PART`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    field: String,
    test: Test,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Equal,
    Unequal,
    Contains,
}

impl Filter {
    /// The field that is looked at.
    pub(crate) fn field(&self) -> &str {
        &self.field
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let at = text
            .find(['=', '~', '!'])
            .filter(|at| *at > 0)
            .ok_or_else(|| bad_filter(text))?;
        let (field, rest) = text.split_at(at);
        let (test, value) = if let Some(value) = rest.strip_prefix("!=") {
            (Test::Unequal, value)
        } else if let Some(value) = rest.strip_prefix('=') {
            (Test::Equal, value)
        } else if let Some(value) = rest.strip_prefix('~') {
            (Test::Contains, value)
        } else {
            return Err(bad_filter(text));
        };
        Ok(Self {
            field: field.to_owned(),
            test,
            value: value.to_owned(),
        })
    }

    fn keeps(&self, row: &Value) -> bool {
        let got = text(member(row, &self.field));
        match self.test {
            Test::Equal => got == self.value,
            Test::Unequal => got != self.value,
            Test::Contains => got.contains(&self.value),
        }
    }
}

fn bad_filter(text: &str) -> Error {
    Error::new(
        Kind::Invalid,
        format!(
            "filter {:?}: not FIELD=VALUE, FIELD!=VALUE or FIELD~PART",
            text
        ),
    )
}

/// The member at a dotted path; `labels.app.kubernetes.io` also finds a member with dots in its name.
fn member<'a>(row: &'a Value, path: &str) -> &'a Value {
    const NULL: &Value = &Value::Null;
    if let Some(value) = row.get(path) {
        return value;
    }
    let mut at = 0;
    while let Some(dot) = path[at..].find('.') {
        let (head, tail) = (&path[..at + dot], &path[at + dot + 1..]);
        if let Some(inner) = row.get(head) {
            return member(inner, tail);
        }
        at += dot + 1;
    }
    NULL
}

/// A member as plain text, unescaped.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Object(map) => map
            .iter()
            .map(|(k, v)| format!("{k}={}", text(v)))
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    }
}

fn cell(row: &Value, column: &Shown<'_>) -> String {
    let value = member(row, column.field);
    match column.show {
        Show::Bytes => value.as_u64().map_or_else(|| text(value), bytes),
        Show::Age => value.as_str().and_then(age).unwrap_or_else(|| text(value)),
        Show::Text => text(value),
    }
}

/// Bytes for people: `512MiB`, `1.5GiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut size = n as f64;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if size.fract() < 0.05 || size >= 100.0 {
        format!("{size:.0}{}", UNITS[unit])
    } else {
        format!("{size:.1}{}", UNITS[unit])
    }
}

fn age(time: &str) -> Option<String> {
    let then: jiff::Timestamp = time.parse().ok()?;
    let seconds = jiff::Timestamp::now().duration_since(then).as_secs().max(0);
    Some(match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    })
}

/// A time as RFC 3339 in UTC with whole seconds, as it is in rows.
pub(crate) fn time(t: std::time::SystemTime) -> Value {
    let whole_seconds = jiff::TimestampRound::new()
        .smallest(jiff::Unit::Second)
        .mode(jiff::RoundMode::Floor);
    jiff::Timestamp::try_from(t)
        .ok()
        .and_then(|t| t.round(whole_seconds).ok())
        .map_or(Value::Null, |t| Value::String(t.to_string()))
}

struct Shown<'a> {
    title: String,
    field: &'a str,
    show: Show,
}

fn shown<'a>(style: &'a Style, columns: &'a [Column]) -> Vec<Shown<'a>> {
    if !style.columns.is_empty() {
        return style
            .columns
            .iter()
            .map(|field| match columns.iter().find(|c| c.field == field) {
                Some(c) => Shown {
                    title: c.title.to_owned(),
                    field,
                    show: c.show,
                },
                None => Shown {
                    title: field.to_uppercase(),
                    field,
                    show: Show::Text,
                },
            })
            .collect();
    }
    let all = matches!(style.format, Format::Wide | Format::Csv);
    columns
        .iter()
        .filter(|c| all || !c.wide)
        .map(|c| Shown {
            title: c.title.to_owned(),
            field: c.field,
            show: c.show,
        })
        .collect()
}

/// Prints a list of rows, filtered and sorted.
///
/// # Errors
///
/// When the output cannot be written.
pub(crate) fn list(
    out: &mut dyn Write,
    style: &Style,
    columns: &[Column],
    mut rows: Vec<Value>,
) -> io::Result<()> {
    rows.retain(|row| style.filters.iter().all(|f| f.keeps(row)));
    for key in style.sort.iter().rev() {
        let (turned, field) = match key.strip_prefix('-') {
            Some(field) => (true, field),
            None => (false, key.as_str()),
        };
        rows.sort_by(|a, b| {
            let order = compare(member(a, field), member(b, field));
            if turned { order.reverse() } else { order }
        });
    }
    // Standard output is written line by line otherwise.
    let out = &mut io::BufWriter::new(out);
    match style.format {
        Format::Json => json(out, &picked(style, rows)),
        Format::Yaml => yaml(out, &picked(style, rows)),
        Format::Csv => csv(out, &shown(style, columns), &rows),
        Format::Name => rows
            .iter()
            .try_for_each(|row| writeln!(out, "{}", escape_line(&name(row)))),
        Format::Table | Format::Wide => table(out, style, &shown(style, columns), &rows),
    }?;
    out.flush()
}

/// Prints one row: JSON and YAML as an object, a table as lines of "title: value".
///
/// # Errors
///
/// When the output cannot be written.
pub(crate) fn one(
    out: &mut dyn Write,
    style: &Style,
    columns: &[Column],
    row: Value,
) -> io::Result<()> {
    match style.format {
        Format::Json => json(out, &pick(style, row)),
        Format::Yaml => yaml(out, &pick(style, row)),
        Format::Csv | Format::Name => list(out, style, columns, vec![row]),
        Format::Table | Format::Wide => {
            let wide = Style {
                format: Format::Wide,
                ..style.clone()
            };
            let columns = shown(&wide, columns);
            let width = columns.iter().map(|c| c.title.width()).max().unwrap_or(0);
            for column in &columns {
                let value = cell(&row, column);
                if !value.is_empty() {
                    let title = title_case(&column.title);
                    let pad = width.saturating_sub(title.width());
                    writeln!(out, "{title}:{:pad$} {}", "", escape_line(&value))?;
                }
            }
            Ok(())
        }
    }
}

fn title_case(title: &str) -> String {
    let mut chars = title.chars();
    chars.next().map_or_else(String::new, |first| {
        if title.len() <= 3 {
            // ID, URL, PID.
            return title.to_owned();
        }
        first.to_string() + &chars.as_str().to_lowercase()
    })
}

fn picked(style: &Style, rows: Vec<Value>) -> Value {
    Value::Array(rows.into_iter().map(|row| pick(style, row)).collect())
}

/// With `--columns`, only these members; else the whole row.
fn pick(style: &Style, row: Value) -> Value {
    if style.columns.is_empty() {
        return row;
    }
    style
        .columns
        .iter()
        .map(|field| (field.clone(), member(&row, field).clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => text(a).cmp(&text(b)),
    }
}

fn name(row: &Value) -> String {
    ["ref", "name", "id"]
        .iter()
        .map(|field| text(member(row, field)))
        .find(|n| !n.is_empty())
        .unwrap_or_default()
}

/// JSON in which every value is whole, and which moves no cursor when somebody looks at it.
pub(crate) fn json(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    writeln!(out, "{}", escape_json(&text))
}

/// YAML; where a plain text in it would mislead, in YAML's JSON form, which has escapes for every string.
fn yaml(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    let mut text = serde_saphyr::to_string(value).map_err(io::Error::other)?;
    if escape_text(&text) != text {
        text = serde_json::to_string_pretty(value)?
            .chars()
            .map(|c| match escape_line(c.encode_utf8(&mut [0; 4])) {
                // Here these are only the document's own line ends.
                _ if c.is_ascii() && c != '\u{7f}' => c.to_string(),
                Cow::Borrowed(plain) => plain.to_owned(),
                Cow::Owned(_) => format!("\\U{:08x}", u32::from(c)),
            })
            .collect();
    }
    out.write_all(text.as_bytes())?;
    if text.ends_with('\n') {
        Ok(())
    } else {
        writeln!(out)
    }
}

/// CSV for spreadsheets: a cell that such a program would take for a formula gets an apostrophe in front, and control
/// characters are escaped as in a table. Programs that need every byte read JSON.
fn csv(out: &mut dyn Write, columns: &[Shown<'_>], rows: &[Value]) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(columns.iter().map(|c| c.field))?;
    for row in rows {
        writer.write_record(
            columns
                .iter()
                .map(|c| harmless(&text(member(row, c.field)))),
        )?;
    }
    writer.flush()
}

fn harmless(cell: &str) -> String {
    let number = cell.parse::<f64>().is_ok();
    let shown = escape_line(cell);
    if !number && cell.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{shown}")
    } else {
        shown.into_owned()
    }
}

fn table(
    out: &mut dyn Write,
    style: &Style,
    columns: &[Shown<'_>],
    rows: &[Value],
) -> io::Result<()> {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            columns
                .iter()
                .map(|c| match escape_line(&cell(row, c)).into_owned() {
                    empty if empty.is_empty() => "-".to_owned(),
                    text => text,
                })
                .collect()
        })
        .collect();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(i, c)| {
            cells
                .iter()
                .map(|row| row[i].width())
                .chain((!style.quiet).then(|| c.title.width()))
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>, head: bool| {
        let mut text = String::new();
        for (i, cell) in cells.enumerate() {
            if i > 0 {
                text.push_str("  ");
            }
            text.push_str(&paint(style, columns[i].field, cell, head));
            if i + 1 < widths.len() {
                text.push_str(&" ".repeat(widths[i].saturating_sub(cell.width())));
            }
        }
        writeln!(out, "{}", text.trim_end())
    };
    if !style.quiet {
        let titles: Vec<String> = columns
            .iter()
            .map(|c| escape_line(&c.title).into_owned())
            .collect();
        line(&mut titles.iter().map(String::as_str), true)?;
    }
    for row in &cells {
        line(&mut row.iter().map(String::as_str), false)?;
    }
    Ok(())
}

fn paint(style: &Style, field: &str, cell: &str, head: bool) -> String {
    if !style.color {
        return cell.to_owned();
    }
    let code = match (head, field, cell) {
        (true, ..) => "1",
        (_, "state", "running") => "32",
        (_, "state", "paused" | "starting" | "deleting") => "33",
        (_, "state", "failed" | "unreachable") => "31",
        _ => return cell.to_owned(),
    };
    format!("\u{1b}[{code}m{cell}\u{1b}[0m")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const COLUMNS: &[Column] = &[
        column("NAME", "name"),
        column("STATE", "state"),
        column("MEMORY", "memory").show(Show::Bytes),
        column("LABELS", "labels").wide(),
    ];

    fn rows() -> Vec<Value> {
        vec![
            json!({"name": "web", "state": "running", "memory": 536870912u64, "labels": {"app.io/x": "1"}, "ref": "local:web"}),
            json!({"name": "a\u{1b}[2J\n", "state": "paused", "memory": null, "labels": {}, "ref": "b"}),
        ]
    }

    fn print(style: &Style) -> String {
        let mut out = Vec::new();
        list(&mut out, style, COLUMNS, rows()).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn format(format: Format) -> Style {
        Style {
            format,
            ..Style::default()
        }
    }

    #[test]
    fn a_table_is_aligned_and_escaped() {
        assert_eq!(
            print(&format(Format::Table)),
            "NAME          STATE    MEMORY\n\
             web           running  512MiB\n\
             a\\u{1b}[2J\\n  paused   -\n"
        );
        assert!(print(&format(Format::Wide)).contains("app.io/x=1"));
        assert_eq!(print(&format(Format::Name)), "local:web\nb\n");
    }

    #[test]
    fn filter_sort_and_columns() {
        let style = Style {
            filters: vec![Filter::parse("labels.app.io/x=1").unwrap()],
            ..format(Format::Name)
        };
        assert_eq!(print(&style), "local:web\n");
        let style = Style {
            sort: vec!["name".to_owned()],
            columns: vec!["name".to_owned()],
            ..format(Format::Json)
        };
        let sorted: Value = serde_json::from_str(&print(&style)).unwrap();
        assert_eq!(sorted, json!([{"name": "a\u{1b}[2J\n"}, {"name": "web"}]));
        for (text, kept) in [("state!=running", "b\n"), ("name~e", "local:web\n")] {
            let style = Style {
                filters: vec![Filter::parse(text).unwrap()],
                ..format(Format::Name)
            };
            assert_eq!(print(&style), kept);
        }
        for bad in ["", "x", "=x", "a!b"] {
            assert!(Filter::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (n, wanted) in [
            (0, "0B"),
            (1023, "1023B"),
            (1536, "1.5KiB"),
            (1 << 30, "1GiB"),
            (u64::MAX, "16777216TiB"),
        ] {
            assert_eq!(bytes(n), wanted);
        }
    }

    proptest! {
        #[test]
        fn no_control_reaches_people(name in any::<String>(), label in any::<String>()) {
            let row = json!({"name": name, "state": label, "labels": {&label: &name}, "ref": name});
            for f in [Format::Table, Format::Wide, Format::Name] {
                let mut out = Vec::new();
                list(&mut out, &format(f), COLUMNS, vec![row.clone()]).unwrap();
                let text = String::from_utf8(out).unwrap();
                prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
                prop_assert_eq!(text.matches('\n').count(), if f == Format::Name { 1 } else { 2 });
            }
            let mut out = Vec::new();
            one(&mut out, &format(Format::Table), COLUMNS, row).unwrap();
            let text = String::from_utf8(out).unwrap();
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
        }

        #[test]
        fn data_survives(name in any::<String>(), label in any::<String>()) {
            let row = json!({"name": name, "labels": {&label: &name}});
            for f in [Format::Json, Format::Yaml] {
                let mut out = Vec::new();
                list(&mut out, &format(f), COLUMNS, vec![row.clone()]).unwrap();
                let text = String::from_utf8(out).unwrap();
                let back: Value = match f {
                    Format::Json => serde_json::from_str(&text).unwrap(),
                    _ => serde_saphyr::from_str(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?,
                };
                prop_assert_eq!(back, json!([row.clone()]));
            }
        }

        #[test]
        fn csv_survives_and_holds_no_formula(name in "[=+@\t\r-]?\\PC*") {
            let mut out = Vec::new();
            let style = Style { columns: vec!["name".to_owned()], ..format(Format::Csv) };
            list(&mut out, &style, COLUMNS, vec![json!({"name": name})]).unwrap();
            let mut reader = csv::Reader::from_reader(&out[..]);
            let record = reader.records().next();
            let got = record.map(|r| r.unwrap()[0].to_owned()).unwrap_or_default();
            let shown = escape_line(&name);
            if got != shown {
                prop_assert_eq!(&got, &format!("'{shown}"));
            }
            let formula = got.starts_with(['=', '+', '-', '@', '\t', '\r']);
            prop_assert!(!formula || got.parse::<f64>().is_ok());
        }
    }
}
