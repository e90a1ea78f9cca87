//! The projection language: which columns of a row, of what it points at, and what is computed of them.
//!
//! ```text
//! fields := item (',' item)*
//! item   := expr ['as' alias]
//! expr   := column | ref '#' expr | rows '[' fields ']' | func '(' expr ')' | expr op literal
//! ```
//!
//! ```
//! use boxrig_vergeos::Projection;
//! let p = Projection::parse("$key,machine#status#running as running,stats[reads,writes]").unwrap();
//! assert_eq!(p.items[1].lands_under(), "running");
//! assert_eq!(p.to_string(), "$key,machine#status#running as running,stats[reads,writes]");
//! ```

use std::fmt;

use crate::filter::{Lexer, Literal, MAX_DEPTH, Op, SyntaxError};

/// The columns that are asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Projection {
    /// In order.
    pub items: Vec<Item>,
}

/// One entry of a projection.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// What is asked for.
    pub expr: Expr,
    /// The name under which the value lands, when it is another than the expression.
    pub alias: Option<String>,
}

/// What an entry asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A column, `$key`, `$display`, or a view such as `all`.
    Column(String),
    /// What a reference points at.
    Follow {
        /// The column that holds the reference.
        reference: String,
        /// What is asked of the row there.
        then: Box<Expr>,
    },
    /// Some columns of a row or of a set of rows.
    Select {
        /// The column that holds them.
        rows: String,
        /// The columns.
        fields: Projection,
    },
    /// A function: `count`, `display`, `datetime`, …
    Call {
        /// Its name.
        func: String,
        /// What it is of.
        of: Box<Expr>,
    },
    /// A comparison, true or false.
    Compare {
        /// What is compared.
        left: Box<Expr>,
        /// How.
        op: Op,
        /// With what.
        right: Literal,
    },
}

impl Expr {
    /// Whether it is a column of the row itself.
    pub fn is_column(&self) -> bool {
        matches!(self, Self::Column(_))
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Column(name) => f.write_str(name),
            Self::Follow { reference, then } => write!(f, "{reference}#{then}"),
            Self::Select { rows, fields } => write!(f, "{rows}[{fields}]"),
            Self::Call { func, of } => write!(f, "{func}({of})"),
            Self::Compare { left, op, right } => write!(f, "{left} {} {right}", op.as_str()),
        }
    }
}

impl Item {
    /// The name of the value in the row: the alias, or the expression as it was written.
    pub fn lands_under(&self) -> String {
        match &self.alias {
            Some(alias) => alias.clone(),
            None => self.expr.to_string(),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)?;
        match &self.alias {
            Some(alias) => write!(f, " as {alias}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, item) in self.items.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}

impl Projection {
    /// Reads a projection. Empty entries are passed over, as the platform does.
    ///
    /// # Errors
    ///
    /// Where it is not of the language.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut lexer = Lexer::new(text);
        let projection = fields(&mut lexer, 0)?;
        match lexer.peek() {
            None => Ok(projection),
            Some(_) => Err(lexer.wrong("expected ','")),
        }
    }
}

fn fields(lexer: &mut Lexer<'_>, depth: usize) -> Result<Projection, SyntaxError> {
    let mut items = Vec::new();
    loop {
        lexer.blanks();
        match lexer.peek() {
            None | Some(']') => return Ok(Projection { items }),
            Some(',') => {
                lexer.eat(',');
            }
            Some(_) => {
                items.push(item(lexer, depth)?);
                lexer.blanks();
                if !matches!(lexer.peek(), None | Some(',' | ']')) {
                    return Err(lexer.wrong("expected ','"));
                }
            }
        }
    }
}

fn item(lexer: &mut Lexer<'_>, depth: usize) -> Result<Item, SyntaxError> {
    let mut expr = self::expr(lexer, depth)?;
    let mut alias = None;
    loop {
        lexer.blanks();
        let at = lexer.at;
        let word = lexer.name();
        if word == "as" {
            lexer.blanks();
            let name = lexer.name();
            if name.is_empty() {
                return Err(lexer.wrong("expected a name after 'as'"));
            }
            alias = Some(name.to_owned());
            return Ok(Item { expr, alias });
        }
        let Some(op) = Op::from_word(word) else {
            lexer.at = at;
            return Ok(Item { expr, alias });
        };
        if matches!(expr, Expr::Compare { .. }) {
            return Err(lexer.wrong("a comparison of a comparison"));
        }
        lexer.blanks();
        expr = Expr::Compare {
            left: Box::new(expr),
            op,
            right: lexer.literal()?,
        };
    }
}

fn expr(lexer: &mut Lexer<'_>, depth: usize) -> Result<Expr, SyntaxError> {
    if depth > MAX_DEPTH {
        return Err(lexer.wrong("too deep"));
    }
    lexer.blanks();
    let name = lexer.name();
    if name.is_empty() {
        return Err(lexer.wrong("expected a column"));
    }
    let name = name.to_owned();
    if lexer.eat('#') {
        let then = Box::new(expr(lexer, depth + 1)?);
        return Ok(Expr::Follow {
            reference: name,
            then,
        });
    }
    if lexer.eat('[') {
        let fields = fields(lexer, depth + 1)?;
        if !lexer.eat(']') {
            return Err(lexer.wrong("expected ']'"));
        }
        return Ok(Expr::Select { rows: name, fields });
    }
    if lexer.eat('(') {
        let of = Box::new(expr(lexer, depth + 1)?);
        lexer.blanks();
        if !lexer.eat(')') {
            return Err(lexer.wrong("expected ')'"));
        }
        return Ok(Expr::Call { func: name, of });
    }
    Ok(Expr::Column(name))
}
