//! The parser, and the lexer that projections share.

use super::{Filter, Join, Literal, MAX_DEPTH, Op, SyntaxError, Term, is_field};

pub(super) fn filter(text: &str) -> Result<Filter, SyntaxError> {
    let mut lexer = Lexer::new(text);
    let filter = expr(&mut lexer, 0)?;
    lexer.blanks();
    if lexer.peek().is_some() {
        return Err(lexer.wrong("expected 'and' or 'or'"));
    }
    Ok(filter)
}

fn expr(lexer: &mut Lexer<'_>, depth: usize) -> Result<Filter, SyntaxError> {
    let first = term(lexer, depth)?;
    let mut rest = Vec::new();
    loop {
        lexer.blanks();
        let before = lexer.at;
        let join = match lexer.word() {
            "and" => Join::And,
            "or" => Join::Or,
            _ => {
                lexer.at = before;
                return Ok(Filter { first, rest });
            }
        };
        rest.push((join, term(lexer, depth)?));
    }
}

fn term(lexer: &mut Lexer<'_>, depth: usize) -> Result<Term, SyntaxError> {
    lexer.blanks();
    if lexer.eat('(') {
        if depth >= MAX_DEPTH {
            return Err(lexer.wrong("too many parentheses"));
        }
        let inner = expr(lexer, depth + 1)?;
        lexer.blanks();
        if !lexer.eat(')') {
            return Err(lexer.wrong("expected ')'"));
        }
        return Ok(Term::Group(Box::new(inner)));
    }
    let at = lexer.at;
    let field = lexer.word();
    if !is_field(field) {
        lexer.at = at;
        return Err(lexer.wrong("expected a column"));
    }
    let field = field.to_owned();
    let (op, value) = comparison(lexer)?;
    Ok(Term::Compare { field, op, value })
}

/// `op value`.
pub(crate) fn comparison(lexer: &mut Lexer<'_>) -> Result<(Op, Literal), SyntaxError> {
    lexer.blanks();
    let at = lexer.at;
    let Some(op) = Op::from_word(lexer.word()) else {
        lexer.at = at;
        return Err(lexer.wrong("expected a comparison"));
    };
    lexer.blanks();
    Ok((op, lexer.literal()?))
}

/// Text on its way through a parser.
pub(crate) struct Lexer<'a> {
    text: &'a str,
    pub(crate) at: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }
    pub(crate) fn wrong(&self, reason: &str) -> SyntaxError {
        SyntaxError {
            reason: reason.to_owned(),
            at: self.at,
        }
    }
    fn left(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }
    pub(crate) fn peek(&self) -> Option<char> {
        self.left().chars().next()
    }
    pub(crate) fn eat(&mut self, c: char) -> bool {
        let there = self.peek() == Some(c);
        if there {
            self.at += c.len_utf8();
        }
        there
    }
    pub(crate) fn blanks(&mut self) {
        while self.peek().is_some_and(|c| c.is_ascii_whitespace()) {
            self.at += 1;
        }
    }
    fn take_while(&mut self, f: impl Fn(char) -> bool) -> &'a str {
        let left = self.left();
        let end = left.find(|c| !f(c)).unwrap_or(left.len());
        self.at += end;
        left.get(..end).unwrap_or("")
    }
    /// A column with its way, or a word of the language.
    pub(crate) fn word(&mut self) -> &'a str {
        self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '#'))
    }
    /// A name without a way.
    pub(crate) fn name(&mut self) -> &'a str {
        self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'))
    }

    pub(crate) fn literal(&mut self) -> Result<Literal, SyntaxError> {
        if self.peek() == Some('\'') {
            return self.quoted().map(Literal::Text);
        }
        let at = self.at;
        let word =
            self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_'));
        match word {
            "true" => return Ok(Literal::Bool(true)),
            "false" => return Ok(Literal::Bool(false)),
            "null" => return Ok(Literal::Null),
            _ => {}
        }
        let number = word
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'));
        if number && let Ok(n) = word.parse() {
            return Ok(Literal::Int(n));
        }
        if number
            && let Ok(n) = word.parse::<f64>()
            && n.is_finite()
        {
            return Ok(Literal::Float(n));
        }
        // Keys that are hashes are written bare too.
        if word.len() == 40 && word.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Literal::Text(word.to_owned()));
        }
        self.at = at;
        Err(self.wrong("expected a value"))
    }

    /// A text between single quotes, with what the platform does to braces.
    fn quoted(&mut self) -> Result<String, SyntaxError> {
        let start = self.at;
        self.at += 1;
        let mut out = String::new();
        // Where in `out` the outermost open brace stands.
        let mut braces = Vec::new();
        loop {
            let Some(c) = self.peek() else {
                self.at = start;
                return Err(self.wrong("the text has no end"));
            };
            self.at += c.len_utf8();
            match c {
                '\'' if braces.is_empty() => return Ok(out),
                '\'' => {
                    self.at = start;
                    return Err(self.wrong("a '{' is not closed"));
                }
                '\\' => match self.peek() {
                    Some(c) => {
                        self.at += c.len_utf8();
                        out.push(c);
                    }
                    None => return Err(self.wrong("a lone backslash")),
                },
                '{' => braces.push(out.len()),
                '}' => match braces.pop() {
                    Some(at) => out.truncate(at),
                    None => out.push('}'),
                },
                c => out.push(c),
            }
        }
    }
}
