//! The tables: read once from `api/vergeos-schema.txt`, whose head says how it is written.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use boxrig_wire::ApiError;
use serde_json::Value;

const TEXT: &str = include_str!("../../../../api/vergeos-schema.txt");

/// The tables of the platform.
pub fn schema() -> &'static Schema {
    // The file is part of the program; a test reads it, so a program with a bad one is not made.
    static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::parse(TEXT).unwrap_or_default());
    &SCHEMA
}

/// All tables.
#[derive(Debug, Default)]
pub struct Schema {
    tables: Vec<Table>,
    by_name: HashMap<&'static str, usize>,
    actions: HashMap<&'static str, ActionTable>,
    /// By table: the columns of others that refer to it.
    referrers: HashMap<&'static str, Vec<(usize, usize)>>,
    /// Columns that may refer to any table.
    poly: Vec<(usize, usize)>,
}

/// What the keys of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// A number, given in order.
    Int,
    /// 40 hexadecimal digits; also shown in the column `id`.
    Hash,
    /// A UUID; also in the column `uuid`.
    Uuid,
    /// The value of this column.
    Name(&'static str),
}

/// One table.
#[derive(Debug)]
pub struct Table {
    /// Its place among the tables.
    pub index: usize,
    /// Its name.
    pub name: &'static str,
    /// What its keys are.
    pub key: KeyKind,
    /// The column that is its rows' `$display`.
    pub display: &'static str,
    /// Columns that are together unique, and the column that exempts a row.
    pub unique: Vec<(Vec<&'static str>, Option<&'static str>)>,
    /// What can be done to a row in query or path form.
    pub actions: Vec<&'static str>,
    /// Rows are made on the spot.
    pub computed: bool,
    /// There is one row.
    pub single: bool,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    by_name: HashMap<&'static str, usize>,
}

/// A table of actions, such as `vm_actions`.
#[derive(Debug)]
pub struct ActionTable {
    /// Its name.
    pub name: &'static str,
    /// The member of the body that names the row, and the row's table.
    pub parent: Option<(&'static str, &'static str)>,
    /// What it knows.
    pub actions: Vec<&'static str>,
}

/// One column.
#[derive(Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// It must be given when a row is made.
    pub required: bool,
    /// Clients cannot write it.
    pub readonly: bool,
    /// Shown when no columns are asked for.
    pub list: bool,
    /// What becomes of the row when what the column refers to is deleted.
    pub on_delete: OnDelete,
    /// Its value in rows that do not store one.
    pub default: Value,
}

/// What a column holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Int,
    /// A number.
    Num,
    /// True or false.
    Bool,
    /// A text.
    Text,
    /// Seconds since 1970.
    Time,
    /// Microseconds since 1970.
    TimeUs,
    /// A JSON document, which may come as its text.
    Json,
    /// Whatever was written.
    Any,
    /// Written and never shown.
    Secret,
    /// Written, kept as a hash.
    Password,
    /// Shown only to a projection that names it.
    Named,
    /// One of these values, each with its label.
    Enum(Vec<(&'static str, String)>),
    /// The key of a row of this table.
    Ref(&'static str),
    /// `table/key`.
    Poly,
    /// The one row of a table whose column refers to this row.
    Row(&'static str, &'static str),
    /// The rows of a table whose column refers to this row.
    Rows(&'static str, &'static str),
}

impl Kind {
    /// Whether the row itself holds a value.
    pub fn is_stored(&self) -> bool {
        !matches!(self, Self::Row(..) | Self::Rows(..))
    }
    /// Whether a view may show it.
    pub fn is_shown(&self) -> bool {
        !matches!(
            self,
            Self::Rows(..) | Self::Secret | Self::Password | Self::Named
        )
    }
}

/// What becomes of a row when what it refers to is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDelete {
    /// The reference becomes null.
    Clear,
    /// The row is deleted too.
    Cascade,
    /// The other row cannot be deleted.
    Restrict,
}

impl Table {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.by_name.get(name).and_then(|i| self.columns.get(*i))
    }
    /// A text for storage by which keys sort as they should.
    pub fn storage_key(&self, key: &str) -> String {
        match self.key {
            // Numbers in their order.
            KeyKind::Int => match key.parse::<u64>() {
                Ok(n) => format!("{n:012}"),
                Err(_) => key.to_owned(),
            },
            _ => key.to_owned(),
        }
    }
    /// The key as it stands in a row.
    pub fn key_value(&self, key: &str) -> Value {
        match self.key {
            KeyKind::Int => key.parse::<i64>().map_or(Value::Null, Value::from),
            _ => Value::from(key),
        }
    }
}

impl Schema {
    /// The table of that name.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.by_name.get(name).and_then(|i| self.tables.get(*i))
    }
    /// The table of that name, which the request names.
    ///
    /// # Errors
    ///
    /// A 404 that names it.
    pub fn known(&self, name: &str) -> Result<&Table, ApiError> {
        self.table(name)
            .ok_or_else(|| ApiError::not_found(format!("table '{name}' does not exist")))
    }
    /// All tables, by name.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }
    /// The table of actions of that name.
    pub fn actions(&self, name: &str) -> Option<&ActionTable> {
        self.actions.get(name)
    }
    /// All tables of actions.
    pub fn action_tables(&self) -> impl Iterator<Item = &ActionTable> {
        self.actions.values()
    }
    /// The columns that can refer to rows of a table.
    pub fn referrers(&self, table: &str) -> impl Iterator<Item = (&Table, &Column)> {
        let own = self.referrers.get(table).into_iter().flatten();
        own.chain(&self.poly).filter_map(|(t, c)| {
            let table = self.tables.get(*t)?;
            Some((table, table.columns.get(*c)?))
        })
    }

    fn parse(text: &'static str) -> Result<Self, String> {
        let mut schema = Self::default();
        for (n, line) in text.lines().enumerate() {
            let wrong = |why: &str| format!("vergeos-schema.txt, line {}: {why}", n + 1);
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let name = words.next().unwrap_or("");
            if line.starts_with(' ') {
                let table = schema
                    .tables
                    .last_mut()
                    .ok_or_else(|| wrong("a column before a table"))?;
                let column = column(name, words).map_err(|e| wrong(&e))?;
                if table
                    .by_name
                    .insert(column.name, table.columns.len())
                    .is_some()
                {
                    return Err(wrong("the column is there twice"));
                }
                table.columns.push(column);
            } else if line.split_whitespace().nth(1) == Some("action") {
                let actions = action_table(name, words);
                schema.actions.insert(name, actions);
            } else {
                let table = table(schema.tables.len(), name, words).map_err(|e| wrong(&e))?;
                if schema.by_name.insert(name, table.index).is_some() {
                    return Err(wrong("the table is there twice"));
                }
                schema.tables.push(table);
            }
        }
        schema.link()?;
        Ok(schema)
    }

    /// Checks what names what, and keeps the way back.
    fn link(&mut self) -> Result<(), String> {
        for (t, table) in self.tables.iter().enumerate() {
            let place = |column: &str| format!("{}.{column}", table.name);
            for (c, column) in table.columns.iter().enumerate() {
                match &column.kind {
                    Kind::Ref(target) => {
                        if !self.by_name.contains_key(target) {
                            return Err(format!("{}: no table {target}", place(column.name)));
                        }
                        self.referrers.entry(target).or_default().push((t, c));
                    }
                    Kind::Poly => self.poly.push((t, c)),
                    Kind::Row(other, back) | Kind::Rows(other, back) => {
                        let found = self.table(other).and_then(|o| o.column(back));
                        match found.map(|c| &c.kind) {
                            Some(Kind::Poly) => {}
                            Some(Kind::Ref(target)) if *target == table.name => {}
                            _ => {
                                return Err(format!(
                                    "{}: {other}.{back} does not refer back",
                                    place(column.name)
                                ));
                            }
                        }
                    }
                    _ => {}
                }
            }
            let named = table
                .unique
                .iter()
                .flat_map(|(columns, exempt)| columns.iter().chain(exempt));
            for name in named.chain((table.display != "$key").then_some(&table.display)) {
                if table.column(name).is_none() {
                    return Err(format!("{}: no such column", place(name)));
                }
            }
        }
        Ok(())
    }
}

fn table(
    index: usize,
    name: &'static str,
    words: impl Iterator<Item = &'static str>,
) -> Result<Table, String> {
    let mut table = Table {
        index,
        name,
        key: KeyKind::Int,
        display: "$key",
        unique: Vec::new(),
        actions: Vec::new(),
        computed: false,
        single: false,
        columns: Vec::new(),
        by_name: HashMap::new(),
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("key", "int") => table.key = KeyKind::Int,
            ("key", "hash") => table.key = KeyKind::Hash,
            ("key", "uuid") => table.key = KeyKind::Uuid,
            ("key", named) => match inner(named, "name") {
                Some(column) => table.key = KeyKind::Name(column),
                None => return Err(format!("no kind of key: {named}")),
            },
            ("display", column) => table.display = column,
            ("unique", columns) => {
                let (columns, exempt) = match columns.split_once('!') {
                    Some((columns, exempt)) => (columns, Some(exempt)),
                    None => (columns, None),
                };
                table.unique.push((columns.split(',').collect(), exempt));
            }
            ("actions", names) => table.actions = names.split(',').collect(),
            ("virtual", "") => table.computed = true,
            ("single", "") => table.single = true,
            _ => return Err(format!("not known of a table: {word}")),
        }
    }
    Ok(table)
}

fn action_table(name: &'static str, words: impl Iterator<Item = &'static str>) -> ActionTable {
    let mut parent = None;
    let mut actions = Vec::new();
    for word in words {
        match word.split_once('=') {
            Some(("parent", text)) => parent = text.split_once(':'),
            Some(("actions", names)) => actions = names.split(',').collect(),
            _ => {}
        }
    }
    ActionTable {
        name,
        parent,
        actions,
    }
}

fn column(
    name: &'static str,
    mut words: impl Iterator<Item = &'static str>,
) -> Result<Column, String> {
    let kind = kind(words.next().unwrap_or(""))?;
    let default = match &kind {
        Kind::Int | Kind::Num | Kind::Time | Kind::TimeUs => Value::from(0),
        Kind::Bool => Value::from(false),
        Kind::Text => Value::from(""),
        Kind::Enum(values) => values.first().map_or(Value::Null, |(v, _)| Value::from(*v)),
        _ => Value::Null,
    };
    let mut column = Column {
        name,
        kind,
        required: false,
        readonly: false,
        list: false,
        on_delete: OnDelete::Clear,
        default,
    };
    for word in words {
        match word {
            "req" => column.required = true,
            "ro" => column.readonly = true,
            "list" => column.list = true,
            "cascade" => column.on_delete = OnDelete::Cascade,
            "restrict" => column.on_delete = OnDelete::Restrict,
            _ => match word.strip_prefix('=') {
                Some(json) => {
                    column.default =
                        serde_json::from_str(json).map_err(|e| format!("{word}: {e}"))?;
                }
                None => return Err(format!("not known of a column: {word}")),
            },
        }
    }
    Ok(column)
}

fn kind(word: &'static str) -> Result<Kind, String> {
    Ok(match word {
        "int" => Kind::Int,
        "num" => Kind::Num,
        "bool" => Kind::Bool,
        "text" => Kind::Text,
        "time" => Kind::Time,
        "timeus" => Kind::TimeUs,
        "json" => Kind::Json,
        "any" => Kind::Any,
        "secret" => Kind::Secret,
        "password" => Kind::Password,
        "named" => Kind::Named,
        "poly" => Kind::Poly,
        _ => {
            let pair = |text: &'static str| text.split_once('.');
            if let Some(target) = inner(word, "ref") {
                Kind::Ref(target)
            } else if let Some((table, column)) = inner(word, "rows").and_then(pair) {
                Kind::Rows(table, column)
            } else if let Some((table, column)) = inner(word, "row").and_then(pair) {
                Kind::Row(table, column)
            } else if let Some(values) = inner(word, "enum") {
                Kind::Enum(values.split(',').map(labelled).collect())
            } else {
                return Err(format!("no type: {word}"));
            }
        }
    })
}

fn labelled(text: &'static str) -> (&'static str, String) {
    match text.split_once(':') {
        Some((value, label)) => (value, label.replace('_', " ")),
        None => (text, label(text)),
    }
}

/// `power_on` as people read it: `Power On`.
pub fn label(value: &str) -> String {
    let words = value.split(['_', ' ']).filter(|w| !w.is_empty());
    let words = words.map(|word| {
        let mut chars = word.chars();
        let first = chars.next().into_iter().flat_map(char::to_uppercase);
        first.chain(chars).collect::<String>()
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The text between `name(` and `)`.
fn inner<'a>(word: &'a str, name: &str) -> Option<&'a str> {
    word.strip_prefix(name)?
        .strip_prefix('(')?
        .strip_suffix(')')
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int => "num",
            Self::Num => "float",
            Self::Bool => "bool",
            Self::Text | Self::Any => "text",
            Self::Time => "timestamp",
            Self::TimeUs => "timestamp_us",
            Self::Json => "json",
            Self::Secret | Self::Password | Self::Named => "password",
            Self::Enum(_) => "enum",
            Self::Ref(_) | Self::Poly => "row",
            Self::Row(..) => "row_of",
            Self::Rows(..) => "rows",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read() {
        let schema = Schema::parse(TEXT).unwrap();
        assert!(schema.tables().len() > 180, "{}", schema.tables().len());
        let vms = schema.table("vms").unwrap();
        assert_eq!(vms.column("machine").unwrap().kind, Kind::Ref("machines"));
        assert!(
            schema
                .referrers("machines")
                .any(|(t, c)| t.name == "machine_drives" && c.name == "machine")
        );
        assert_eq!(schema.table("volumes").unwrap().key, KeyKind::Hash);
        assert_eq!(
            schema.actions("vm_actions").unwrap().parent,
            Some(("vm", "vms"))
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, what) in [
            ("    a int", "a column before a table"),
            ("t key=int\n    a nothing", "no type: nothing"),
            ("t key=int\n    a ref(u)", "no table u"),
            ("t key=int display=x", "no such column"),
            (
                "t key=int\n    a rows(t.b)\n    b int",
                "does not refer back",
            ),
            ("t key=int\nt key=int", "twice"),
        ] {
            let e = Schema::parse(text).unwrap_err();
            assert!(e.contains(what), "{e}");
        }
    }

    #[test]
    fn numbers_sort_as_numbers() {
        let schema = Schema::parse("t key=int").unwrap();
        let t = schema.table("t").unwrap();
        assert!(t.storage_key("9") < t.storage_key("10"));
        assert_eq!(label("power_on"), "Power On");
    }
}
