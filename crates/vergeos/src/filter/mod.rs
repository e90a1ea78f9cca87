//! The filter language: one expression type, one serialiser, one parser.
//!
//! ```text
//! expr  := term (('and' | 'or') term)*      no precedence: strictly from left to right
//! term  := '(' expr ')' | field op value
//! field := name | name#name… | $key
//! op    := eq ne gt ge lt le bw ew cs ct rx
//! value := 'text' | integer | float | true | false | null
//! ```
//!
//! In a text `\`, `'` and `{` are reserved and escaped by `\`. A balanced `{…}` that is not escaped is dropped by the platform
//! without a word, an unbalanced `{` is refused; the parser does the same (measured on VergeOS 26.1.8).
//!
//! ```
//! use boxrig_vergeos::Filter;
//! let f = Filter::eq("status", "running").or(Filter::eq("status", "paused")).and(Filter::like("name", "web*"));
//! assert_eq!(f.encode().unwrap(), "(status eq 'running' or status eq 'paused') and name bw 'web'");
//! assert_eq!(Filter::parse("name eq 'O\\'Hara'").unwrap(), Filter::eq("name", "O'Hara"));
//! ```

mod parse;
mod wildcard;

use std::fmt;

pub(crate) use parse::Lexer;

/// How deep parentheses, traversals and sub-selections may go.
pub const MAX_DEPTH: usize = 64;

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Begins with, by case; an empty text matches every row.
    Bw,
    /// Ends with, by case.
    Ew,
    /// Contains, by case.
    Cs,
    /// Contains, whatever the case.
    Ct,
    /// Matches a POSIX extended regular expression anywhere; an empty one matches every row.
    Rx,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Eq,
        Self::Ne,
        Self::Gt,
        Self::Ge,
        Self::Lt,
        Self::Le,
        Self::Bw,
        Self::Ew,
        Self::Cs,
        Self::Ct,
        Self::Rx,
    ];
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eq => "eq",
            Self::Ne => "ne",
            Self::Gt => "gt",
            Self::Ge => "ge",
            Self::Lt => "lt",
            Self::Le => "le",
            Self::Bw => "bw",
            Self::Ew => "ew",
            Self::Cs => "cs",
            Self::Ct => "ct",
            Self::Rx => "rx",
        }
    }
    /// The comparison of that word; `like`, `in` and all others are refused by the platform.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.as_str() == word)
    }
}

/// What a column is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// A text.
    Text(String),
    /// A whole number.
    Int(i64),
    /// Another number; never NaN or infinite in an expression that can be sent.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
}

impl fmt::Display for Literal {
    /// As it is written in a filter.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => {
                f.write_str("'")?;
                for c in text.chars() {
                    if matches!(c, '\\' | '\'' | '{') {
                        f.write_str("\\")?;
                    }
                    write!(f, "{c}")?;
                }
                f.write_str("'")
            }
            Self::Int(n) => write!(f, "{n}"),
            // Debug, not Display: `1.0` must stay a float.
            Self::Float(n) => write!(f, "{n:?}"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Null => f.write_str("null"),
        }
    }
}

macro_rules! literals {
    ($($from:ty => |$v:ident| $make:expr;)*) => {$(
        impl From<$from> for Literal {
            fn from($v: $from) -> Self { $make }
        }
    )*};
}
literals! {
    &str => |v| Self::Text(v.to_owned());
    String => |v| Self::Text(v);
    &String => |v| Self::Text(v.clone());
    bool => |v| Self::Bool(v);
    i32 => |v| Self::Int(v.into());
    u32 => |v| Self::Int(v.into());
    i64 => |v| Self::Int(v);
    f64 => |v| Self::Float(v);
}

impl<T: Into<Literal>> From<Option<T>> for Literal {
    fn from(v: Option<T>) -> Self {
        v.map_or(Self::Null, Into::into)
    }
}

/// `and` or `or`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Join {
    /// Both.
    And,
    /// Either.
    Or,
}

impl Join {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::And => "and",
            Self::Or => "or",
        }
    }
}

/// One part of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// A column compared with a value.
    Compare {
        /// The column, or the way to it over references: `cluster#name`.
        field: String,
        /// The comparison.
        op: Op,
        /// The value.
        value: Literal,
    },
    /// An expression in parentheses.
    Group(Box<Filter>),
    /// Text of the caller's own, sent in parentheses as it is; the parser never makes one.
    Raw(String),
}

/// A filter: terms that are joined strictly from left to right.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// The first term.
    pub first: Term,
    /// The others, each with how it is joined to all before it.
    pub rest: Vec<(Join, Term)>,
}

/// What is wrong with a filter, a projection or a sort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// In words.
    pub reason: String,
    /// Where, in bytes from the start of the text.
    pub at: usize,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.reason, self.at)
    }
}

impl std::error::Error for SyntaxError {}

macro_rules! comparisons {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(field: impl Into<String>, value: impl Into<Literal>) -> Self {
            Self::compare(field, Op::$op, value)
        }
    )*};
}

impl Filter {
    /// One comparison.
    pub fn compare(field: impl Into<String>, op: Op, value: impl Into<Literal>) -> Self {
        Self::of(Term::Compare {
            field: field.into(),
            op,
            value: value.into(),
        })
    }
    comparisons! {
        /// The column equals the value.
        eq = Eq;
        /// The column differs from the value.
        ne = Ne;
        /// The column is greater.
        gt = Gt;
        /// The column is greater or equal.
        ge = Ge;
        /// The column is less.
        lt = Lt;
        /// The column is less or equal.
        le = Le;
        /// The column begins with the text, by case.
        bw = Bw;
        /// The column ends with the text, by case.
        ew = Ew;
        /// The column contains the text, by case.
        cs = Cs;
        /// The column contains the text, whatever the case.
        ct = Ct;
        /// The column matches the POSIX extended regular expression somewhere. `\d` and the like match nothing, without
        /// an error.
        rx = Rx;
    }

    /// The column fits a pattern with `*` (any text) and `?` (any character), by case. The platform has no such
    /// comparison; it becomes `bw`, `ew`, `cs`, `eq` or an anchored `rx`.
    pub fn like(field: impl Into<String>, pattern: &str) -> Self {
        wildcard::like(field.into(), pattern)
    }

    /// The column is one of the values: an `or` chain in parentheses, as the platform has no `in`. No values: matches
    /// nothing, by a comparison that no row with a key passes.
    pub fn any<V: Into<Literal>>(
        field: impl Into<String>,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        let field = field.into();
        let mut values = values.into_iter();
        let Some(first) = values.next() else {
            return Self::eq("$key", Literal::Null);
        };
        let mut chain = Self::eq(field.clone(), first);
        for value in values {
            chain.rest.push((
                Join::Or,
                Term::Compare {
                    field: field.clone(),
                    op: Op::Eq,
                    value: value.into(),
                },
            ));
        }
        Self::of(Term::Group(Box::new(chain)))
    }

    /// Text of one's own, for what the type does not say. Sent in parentheses when joined with others.
    pub fn raw(text: impl Into<String>) -> Self {
        Self::of(Term::Raw(text.into()))
    }

    /// Reads a filter.
    ///
    /// # Errors
    ///
    /// What the platform answers 422 to: an unknown comparison, a text without end, an unbalanced `{`.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        parse::filter(text)
    }

    /// Both.
    pub fn and(self, other: Self) -> Self {
        self.join(Join::And, other)
    }
    /// Either.
    pub fn or(self, other: Self) -> Self {
        self.join(Join::Or, other)
    }

    fn of(first: Term) -> Self {
        Self {
            first,
            rest: Vec::new(),
        }
    }

    fn join(mut self, join: Join, other: Self) -> Self {
        // A chain of one join needs no parentheses; everything else gets them, so that nobody has to know that
        // there is no precedence.
        if self.rest.iter().any(|(j, _)| *j != join) {
            self = Self::of(Term::Group(Box::new(self)));
        }
        let term = if other.rest.is_empty() {
            other.first
        } else {
            Term::Group(Box::new(other))
        };
        self.rest.push((join, term));
        self
    }

    /// The filter as text, the only way there is.
    ///
    /// # Errors
    ///
    /// When a column's name is none, or a number is not finite: nothing of a caller's text can change what the filter means.
    pub fn encode(&self) -> Result<String, SyntaxError> {
        let mut out = String::new();
        self.write(&mut out, 0)?;
        Ok(out)
    }

    fn write(&self, out: &mut String, depth: usize) -> Result<(), SyntaxError> {
        let wrong = |reason: String| SyntaxError { reason, at: 0 };
        if depth > MAX_DEPTH {
            return Err(wrong(format!("more than {MAX_DEPTH} parentheses deep")));
        }
        let terms = std::iter::once((None, &self.first));
        for (join, term) in terms.chain(self.rest.iter().map(|(j, t)| (Some(*j), t))) {
            if let Some(join) = join {
                out.push(' ');
                out.push_str(join.as_str());
                out.push(' ');
            }
            match term {
                Term::Compare { field, op, value } => {
                    if !is_field(field) {
                        return Err(wrong(format!("{field:?} is not a column")));
                    }
                    if matches!(value, Literal::Float(n) if !n.is_finite()) {
                        return Err(wrong(format!("{field}: the number is not finite")));
                    }
                    out.push_str(&format!("{field} {} {value}", op.as_str()));
                }
                Term::Group(inner) => {
                    out.push('(');
                    inner.write(out, depth + 1)?;
                    out.push(')');
                }
                Term::Raw(text) if self.rest.is_empty() && depth == 0 => out.push_str(text),
                Term::Raw(text) => {
                    out.push('(');
                    out.push_str(text);
                    out.push(')');
                }
            }
        }
        Ok(())
    }

    /// The comparisons in it, from left to right.
    pub fn comparisons(&self) -> Vec<(&str, Op, &Literal)> {
        let mut out = Vec::new();
        let mut todo = vec![self];
        while let Some(filter) = todo.pop() {
            for term in std::iter::once(&filter.first).chain(filter.rest.iter().map(|(_, t)| t)) {
                match term {
                    Term::Compare { field, op, value } => out.push((field.as_str(), *op, value)),
                    Term::Group(inner) => todo.push(inner),
                    Term::Raw(_) => {}
                }
            }
        }
        out
    }
}

/// Whether the text is a column or a way to one: names of letters, digits and `_`, with `$` before system names,
/// joined by `#`.
pub fn is_field(text: &str) -> bool {
    text.split('#').all(|part| {
        let name = part.strip_prefix('$').unwrap_or(part);
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    }) && !matches!(text, "and" | "or")
}
