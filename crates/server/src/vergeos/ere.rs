//! POSIX extended regular expressions, as the filter's `rx` has them: a match anywhere in the text, by case.
//!
//! They are rewritten for `regex-lite`, which takes time linear in the text whatever the expression. Two things
//! are as they were measured on the platform: an empty expression matches every text, and what is no ERE (`\d`, `(?i)`)
//! matches none, without an error.

use regex_lite::{Regex, RegexBuilder};

/// The most bytes a compiled expression may take.
const SIZE_LIMIT: usize = 1 << 20;

/// A compiled expression.
#[derive(Debug)]
pub enum Ere {
    /// Matches everything.
    All,
    /// Matches nothing.
    Nothing,
    /// Matches what this does.
    Regex(Regex),
}

impl Ere {
    /// Compiles an expression; one that is wrong matches nothing.
    pub fn new(pattern: &str) -> Self {
        if pattern.is_empty() {
            return Self::All;
        }
        let Some(text) = rewrite(pattern) else {
            return Self::Nothing;
        };
        let built = RegexBuilder::new(&text)
            .dot_matches_new_line(true)
            .size_limit(SIZE_LIMIT)
            .build();
        built.map_or(Self::Nothing, Self::Regex)
    }

    /// Whether it matches somewhere in the text.
    pub fn is_match(&self, text: &str) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

/// The expression in the other syntax; `None` when it is no ERE.
fn rewrite(pattern: &str) -> Option<String> {
    let mut out = String::with_capacity(pattern.len() + 8);
    // Where in `out` the last repeatable thing begins; and where open groups begin.
    let mut atom: Option<usize> = None;
    let mut groups = Vec::new();
    // Whether the last thing was a repetition: `a+?` is (a+)? here, not a lazy a+.
    let mut repeated = false;
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        rest = rest.get(c.len_utf8()..)?;
        let at = out.len();
        match c {
            '\\' => {
                let c = rest.chars().next()?;
                // `\d`, `\w` and the like are not of the language.
                if c.is_alphanumeric() {
                    return None;
                }
                rest = rest.get(c.len_utf8()..)?;
                push_literal(&mut out, c);
                (atom, repeated) = (Some(at), false);
            }
            '[' => {
                rest = bracket(rest, &mut out)?;
                (atom, repeated) = (Some(at), false);
            }
            '(' => {
                if rest.starts_with('?') {
                    return None;
                }
                out.push_str("(?:");
                groups.push(at);
                (atom, repeated) = (None, false);
            }
            ')' => {
                let begin = groups.pop()?;
                out.push(')');
                (atom, repeated) = (Some(begin), false);
            }
            '*' | '+' | '?' => {
                repeat(&mut out, atom?, repeated, |out| out.push(c));
                repeated = true;
            }
            '{' => {
                let (interval, left) = rest.split_once('}')?;
                let (low, high) = interval.split_once(',').unwrap_or((interval, interval));
                let number = |s: &str| s.is_empty() || s.parse::<u8>().is_ok();
                if low.is_empty() || !number(low) || !number(high) {
                    return None;
                }
                repeat(&mut out, atom?, repeated, |out| {
                    out.push('{');
                    out.push_str(interval);
                    out.push('}');
                });
                rest = left;
                repeated = true;
            }
            '|' => {
                out.push('|');
                (atom, repeated) = (None, false);
            }
            '^' | '$' => {
                out.push(c);
                (atom, repeated) = (None, false);
            }
            '.' => {
                out.push('.');
                (atom, repeated) = (Some(at), false);
            }
            c => {
                push_literal(&mut out, c);
                (atom, repeated) = (Some(at), false);
            }
        }
    }
    groups.is_empty().then_some(out)
}

fn repeat(out: &mut String, atom: usize, repeated: bool, write: impl FnOnce(&mut String)) {
    if repeated {
        out.insert_str(atom, "(?:");
        out.push(')');
    }
    write(out);
}

fn push_literal(out: &mut String, c: char) {
    if c.is_ascii_punctuation() {
        out.push('\\');
    }
    out.push(c);
}

/// A bracket expression whose `[` was read; gives what is left after its `]`.
fn bracket<'a>(text: &'a str, out: &mut String) -> Option<&'a str> {
    let mut rest = text;
    out.push('[');
    if let Some(left) = rest.strip_prefix('^') {
        out.push('^');
        rest = left;
    }
    let mut first = true;
    loop {
        let c = rest.chars().next()?;
        let left = rest.get(c.len_utf8()..)?;
        match c {
            // A `]` that comes first is one of the characters.
            ']' if !first => {
                out.push(']');
                return Some(left);
            }
            '[' if left.starts_with(':') => {
                let (class, left) = left.get(1..)?.split_once(":]")?;
                if !class.bytes().all(|b| b.is_ascii_lowercase()) {
                    return None;
                }
                out.push_str(&format!("[:{class}:]"));
                rest = left;
                first = false;
                continue;
            }
            // Collating elements and equivalence classes depend on a locale.
            '[' if left.starts_with(['.', '=']) => return None,
            // Between two characters a range; at an end itself.
            '-' if !first && !left.starts_with(']') => out.push('-'),
            c => push_literal(out, c),
        }
        rest = left;
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_expressions_match() {
        for (pattern, text, is) in [
            ("", "anything", true),
            ("web", "a-web-1", true),
            ("Web", "a-web-1", false),
            ("^web-[0-9]+$", "web-12", true),
            ("^web-[0-9]+$", "web-1x", false),
            ("a|b", "xbx", true),
            ("^(ab)+$", "ababab", true),
            ("^a{2,3}$", "aaa", true),
            ("^a{2,3}$", "aaaa", false),
            // What `\d` means elsewhere is not meant here.
            (r"\d", "1", false),
            (r"\d", "d", false),
            ("(?i)WEB", "web", false),
            (r"1\.5", "1.5", true),
            (r"1\.5", "1x5", false),
            ("[[:digit:]]", "a1", true),
            ("[]x]", "]", true),
            ("[a-]", "-", true),
            (r"[\.]", r"\", true),
            ("^a+?$", "", true),
            ("^a+?$", "aa", true),
            ("(", "(", false),
            ("*a", "*a", false),
            ("a.b", "a\nb", true),
            ("[a&&b]", "&", true),
            ("ä.$", "äö", true),
        ] {
            assert_eq!(
                Ere::new(pattern).is_match(text),
                is,
                "{pattern:?} in {text:?}"
            );
        }
    }

    #[test]
    fn nothing_takes_long() {
        let started = std::time::Instant::now();
        let text = "a".repeat(5000);
        assert!(!Ere::new("^(a*)*(a*)*(a|a)*b$").is_match(&text));
        assert!(!Ere::new("((((a{99}){99}){99}){99})").is_match("a"));
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    }
}
