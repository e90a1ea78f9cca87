//! Words, quotes and variables.

use crate::error::{BuildError, Result};

/// Longest value that replacing variables may give: a few lines could otherwise double one into all memory.
const MAX_VALUE: usize = 64 * 1024;
/// Deepest nesting of `${a:-${b:-…}}`.
const MAX_DEPTH: u32 = 16;

/// Looks variables up.
pub(crate) type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Replaces variables in a word and takes its quotes off.
pub(crate) fn expand(word: &str, escape: char, lookup: &Lookup<'_>) -> Result<String> {
    let mut reader = Reader {
        chars: word.chars().collect(),
        at: 0,
        escape,
        lookup,
        keep_quotes: false,
    };
    reader.until(None, 0)
}

/// Replaces variables in a text in which quotes mean nothing: a here-document.
pub(crate) fn expand_document(text: &str, escape: char, lookup: &Lookup<'_>) -> Result<String> {
    let mut reader = Reader {
        chars: text.chars().collect(),
        at: 0,
        escape,
        lookup,
        keep_quotes: true,
    };
    reader.until(None, 0)
}

struct Reader<'a> {
    chars: Vec<char>,
    at: usize,
    escape: char,
    lookup: &'a Lookup<'a>,
    keep_quotes: bool,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    /// Reads to the end, or to `end` outside of quotes, which is taken too.
    fn until(&mut self, end: Option<char>, depth: u32) -> Result<String> {
        let mut out = String::new();
        loop {
            let Some(c) = self.next() else {
                return match end {
                    None => Ok(out),
                    Some(end) => Err(BuildError::dockerfile(format!("{end:?} is missing"))),
                };
            };
            if Some(c) == end {
                return Ok(out);
            }
            match c {
                '\'' if !self.keep_quotes => self.single(&mut out)?,
                '"' if !self.keep_quotes => self.double(&mut out, depth)?,
                '$' => self.variable(&mut out, depth)?,
                c if c == self.escape => match self.next() {
                    Some(next) if self.keep_quotes && next != '$' && next != self.escape => {
                        out.extend([c, next]);
                    }
                    Some(next) => out.push(next),
                    None => out.push(c),
                },
                c => out.push(c),
            }
            if out.len() > MAX_VALUE {
                let words = format!("a value of more than {MAX_VALUE} bytes");
                return Err(BuildError::dockerfile(words));
            }
        }
    }

    fn single(&mut self, out: &mut String) -> Result<()> {
        loop {
            match self.next() {
                Some('\'') => return Ok(()),
                Some(c) => out.push(c),
                None => return Err(BuildError::dockerfile("a single quote is not closed")),
            }
        }
    }

    fn double(&mut self, out: &mut String, depth: u32) -> Result<()> {
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('$') => self.variable(out, depth)?,
                Some(c) if c == self.escape => match self.next() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        out.push(next);
                    }
                    Some(next) => out.extend([c, next]),
                    None => return Err(BuildError::dockerfile("a double quote is not closed")),
                },
                Some(c) => out.push(c),
                None => return Err(BuildError::dockerfile("a double quote is not closed")),
            }
            if out.len() > MAX_VALUE {
                let words = format!("a value of more than {MAX_VALUE} bytes");
                return Err(BuildError::dockerfile(words));
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            let good =
                c.is_ascii_alphabetic() || c == '_' || (c.is_ascii_digit() && !name.is_empty());
            if !good {
                break;
            }
            name.push(c);
            self.at += 1;
        }
        name
    }

    fn variable(&mut self, out: &mut String, depth: u32) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(BuildError::dockerfile("variables are nested too deeply"));
        }
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                out.push('$');
            } else {
                out.push_str(&(self.lookup)(&name).unwrap_or_default());
            }
            return Ok(());
        }
        self.at += 1;
        let name = self.name();
        if name.is_empty() {
            return Err(BuildError::dockerfile("${: a variable's name is missing"));
        }
        let value = (self.lookup)(&name);
        let mut present = value.is_some();
        let mut what = self.next();
        if what == Some('}') {
            out.push_str(&value.unwrap_or_default());
            return Ok(());
        }
        if what == Some(':') {
            present = value.as_ref().is_some_and(|v| !v.is_empty());
            what = self.next();
        }
        let word = match what {
            Some('-' | '+' | '?') => self.until(Some('}'), depth + 1)?,
            Some(other) => {
                let words = format!(
                    "${{{name}{other}…}}: of the modifiers of variables, -, + and ? are possible, with or without : before them"
                );
                return Err(BuildError::dockerfile(words));
            }
            None => return Err(BuildError::dockerfile(format!("${{{name}: }} is missing"))),
        };
        match what {
            Some('+') if present => out.push_str(&word),
            Some('+') => {}
            Some('?') if !present => {
                let words = if word.is_empty() {
                    "it is not set"
                } else {
                    &word
                };
                return Err(BuildError::dockerfile(format!("{name}: {words}")));
            }
            _ if present => out.push_str(&value.unwrap_or_default()),
            _ => out.push_str(&word),
        }
        Ok(())
    }
}

/// Splits at blanks outside of quotes; the quotes stay.
pub(crate) fn words(text: &str, escape: char) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_ascii_whitespace() => {
                if !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
                continue;
            }
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            // In single quotes the escape character is one like any other.
            (open, c) if c == escape && open != Some('\'') => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if quote.is_some() {
        return Err(BuildError::dockerfile("a quote is not closed"));
    }
    if !word.is_empty() {
        out.push(word);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(word: &str) -> Result<String> {
        let lookup = |name: &str| match name {
            "a" => Some("1 2".to_owned()),
            "empty" => Some(String::new()),
            _ => None,
        };
        expand(word, '\\', &lookup)
    }

    #[test]
    fn variables_and_quotes() {
        let cases = [
            ("$a", "1 2"),
            ("x${a}y", "x1 2y"),
            ("$b", ""),
            ("${b:-d}", "d"),
            ("${b-d}", "d"),
            ("${empty:-d}", "d"),
            ("${empty-d}", ""),
            ("${a:+d}", "d"),
            ("${empty:+d}${empty+e}", "e"),
            ("${b:-${c:-$a}}", "1 2"),
            ("\\$a", "$a"),
            ("'$a'", "$a"),
            ("\"$a\"", "1 2"),
            ("\"\\$a \\n \\\"\"", "$a \\n \""),
            ("a' b'\"c\"", "a bc"),
            ("$", "$"),
            ("$1", "$1"),
            ("${a:?never}", "1 2"),
            ("\\", "\\"),
        ];
        for (word, expected) in cases {
            assert_eq!(with(word).unwrap(), expected, "{word}");
        }
        for bad in [
            "${",
            "${a",
            "${}",
            "${a/x/y}",
            "'x",
            "\"x",
            "${b:?needed}",
            "${a:",
            "${b:-x",
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
        assert!(with("${b:?needed}").unwrap_err().message.contains("needed"));
        assert!(with(&"${b:-".repeat(40)).is_err());
    }

    #[test]
    fn values_cannot_grow_without_end() {
        let mut value = "x".to_owned();
        let grown = (0..40).try_for_each(|_| {
            let now = value.clone();
            value = expand("$v$v", '\\', &|_| Some(now.clone()))?;
            Ok::<_, BuildError>(())
        });
        assert!(grown.is_err());
        assert!(value.len() <= MAX_VALUE);
    }

    #[test]
    fn words_are_split_outside_of_quotes() {
        let split = words(r#"a="b c" d\ e 'f g'h"#, '\\').unwrap();
        assert_eq!(split, [r#"a="b c""#, r"d\ e", "'f g'h"]);
        assert!(words("'a", '\\').is_err());
        // The escape character means nothing in single quotes.
        assert_eq!(words(r"'a\' b", '\\').unwrap(), [r"'a\'", "b"]);
    }

    #[test]
    fn documents_keep_their_quotes() {
        let lookup = |_: &str| Some("1".to_owned());
        let text = expand_document("'$a' \"$a\" \\$a \\n", '\\', &lookup).unwrap();
        assert_eq!(text, "'1' \"1\" $a \\n");
    }

    proptest::proptest! {
        #[test]
        fn any_word_is_read_or_refused(word in "[$a{}:?+\\-\\\\'\" ]{0,40}") {
            let _ = with(&word);
            let _ = words(&word, '\\');
        }
    }
}
