//! `.dockerignore`: which files of a build context are left out.

use std::fs;
use std::io;
use std::path::Path;

/// The rules of a `.dockerignore`. The last one that matches decides; `!` takes back.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
    /// Files that are always sent: the Dockerfile and the rules themselves.
    always: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct Rule {
    pattern: Vec<u8>,
    keep: bool,
}

impl Ignore {
    /// The rules of a context: those beside the Dockerfile, else those at the top, else none.
    ///
    /// # Errors
    ///
    /// What reading them gave.
    pub fn of_context(root: &Path, dockerfile: &str) -> io::Result<Self> {
        let read = |name: &str| match fs::read(root.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        let beside = format!("{dockerfile}.dockerignore");
        let text = match read(&beside)? {
            Some(text) => Some(text),
            None => read(".dockerignore")?,
        };
        let mut ignore = Self::parse(&text.unwrap_or_default());
        ignore.always = [dockerfile, ".dockerignore", &beside]
            .map(|name| clean(name.as_bytes()))
            .to_vec();
        Ok(ignore)
    }

    /// Reads rules, one a line.
    pub fn parse(text: &[u8]) -> Self {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let rules = text.split(|b| *b == b'\n').filter_map(|line| {
            if line.first() == Some(&b'#') {
                return None;
            }
            let line = line.trim_ascii();
            let (keep, line) = match line.strip_prefix(b"!") {
                Some(rest) => (true, rest.trim_ascii()),
                None => (false, line),
            };
            let pattern = clean(line);
            (!pattern.is_empty()).then_some(Rule { pattern, keep })
        });
        Self {
            rules: rules.collect(),
            always: Vec::new(),
        }
    }

    /// Sends this file too, whatever the rules say.
    pub fn and_always(mut self, path: &[u8]) -> Self {
        self.always.push(clean(path));
        self
    }

    /// Whether a path is left out. A directory that is left out may still hold files that are not:
    /// [`may_keep_within`](Self::may_keep_within).
    pub fn leaves_out(&self, path: &[u8]) -> bool {
        if self.always.iter().any(|a| a == path) {
            return false;
        }
        let mut out = false;
        for rule in &self.rules {
            // A rule that would not change anything need not be looked at.
            if rule.keep == out && matches_or_parent(&rule.pattern, path) {
                out = !rule.keep;
            }
        }
        out
    }

    /// Whether something in a directory that is left out may be kept.
    pub fn may_keep_within(&self, directory: &[u8]) -> bool {
        let below = |path: &[u8]| {
            path.strip_prefix(directory)
                .is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        self.rules.iter().any(|r| r.keep) || self.always.iter().any(|a| below(a))
    }
}

/// A path without `.`, empty steps and slashes at its ends; `..` takes a step back where it can.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut steps: Vec<&[u8]> = Vec::new();
    for step in path.split(|b| *b == b'/') {
        match step {
            b"" | b"." => {}
            b".." => {
                steps.pop();
            }
            step => steps.push(step),
        }
    }
    steps.join(&b'/')
}

fn matches_or_parent(pattern: &[u8], path: &[u8]) -> bool {
    if glob(pattern, path) {
        return true;
    }
    path.iter()
        .enumerate()
        .any(|(i, b)| *b == b'/' && glob(pattern, &path[..i]))
}

/// Docker's globs: `*`, `?`, `[…]` and `\` within a step, `**` across steps.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Places that were tried in vain: without them a pattern of many stars takes for ever.
    let mut failed = vec![false; (pattern.len() + 1) * (text.len() + 1)];
    at(pattern, 0, text, 0, &mut failed)
}

fn at(p: &[u8], pi: usize, t: &[u8], ti: usize, failed: &mut [bool]) -> bool {
    let slot = pi * (t.len() + 1) + ti;
    if failed[slot] {
        return false;
    }
    let found = step(p, pi, t, ti, failed);
    failed[slot] = !found;
    found
}

fn step(p: &[u8], mut pi: usize, t: &[u8], mut ti: usize, failed: &mut [bool]) -> bool {
    loop {
        let Some(c) = p.get(pi) else {
            return ti == t.len();
        };
        match c {
            b'*' if p.get(pi + 1) == Some(&b'*') => {
                pi += 2;
                while p.get(pi) == Some(&b'*') {
                    pi += 1;
                }
                if p.get(pi) == Some(&b'/') {
                    pi += 1;
                }
                if pi == p.len() {
                    return true;
                }
                // Nothing, or whole steps.
                let starts = (ti..t.len()).filter(|i| t[*i] == b'/').map(|i| i + 1);
                return std::iter::once(ti)
                    .chain(starts)
                    .any(|i| at(p, pi, t, i, failed));
            }
            b'*' => {
                let end = t[ti..]
                    .iter()
                    .position(|b| *b == b'/')
                    .map_or(t.len(), |n| ti + n);
                return (ti..=end).any(|i| at(p, pi + 1, t, i, failed));
            }
            _ => {}
        }
        let Some(b) = t.get(ti) else { return false };
        match c {
            b'?' if *b != b'/' => pi += 1,
            b'[' => match class(&p[pi..], *b) {
                Some((true, len)) if *b != b'/' => pi += len,
                _ => return false,
            },
            b'\\' if pi + 1 < p.len() => {
                if p[pi + 1] != *b {
                    return false;
                }
                pi += 2;
            }
            c if c == b => pi += 1,
            _ => return false,
        }
        ti += 1;
    }
}

/// Whether a class at the start of `p` has this byte, and how long the class is; `None` when it does not end.
fn class(p: &[u8], b: u8) -> Option<(bool, usize)> {
    let mut i = 1;
    let negated = matches!(p.get(i), Some(b'^' | b'!'));
    i += usize::from(negated);
    let mut found = false;
    let start = i;
    loop {
        let mut low = *p.get(i)?;
        if low == b']' && i > start {
            return Some((found != negated, i + 1));
        }
        if low == b'\\' {
            i += 1;
            low = *p.get(i)?;
        }
        i += 1;
        let mut high = low;
        if p.get(i) == Some(&b'-') && p.get(i + 1).is_some_and(|c| *c != b']') {
            i += 1;
            if p[i] == b'\\' {
                i += 1;
            }
            high = *p.get(i)?;
            i += 1;
        }
        found |= (low..=high).contains(&b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs_as_docker_has_them() {
        for (pattern, path, expected) in [
            ("*.go", "a.go", true),
            ("*.go", "x/a.go", false),
            ("**/*.go", "a.go", true),
            ("**/*.go", "x/y/a.go", true),
            ("x/**", "x/y/z", true),
            ("x/**", "xy", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/xb", false),
            ("**", "any/thing", true),
            ("?.md", "a.md", true),
            ("?.md", "/.md", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[]]x", "]x", true),
            ("[a", "a", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a", "a/b", false),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), path.as_bytes()),
                expected,
                "{pattern} {path}"
            );
        }
    }

    #[test]
    fn rules_in_order_with_exceptions() {
        let text = b"\xef\xbb\xbf# a comment\n  \n/node_modules/\n*.md\n!README.md\nREADME-secret.md\ndir\n!dir/keep\n **/*.tmp \n";
        let ignore = Ignore::parse(text);
        for (path, out) in [
            ("node_modules", true),
            ("node_modules/a/b", true),
            ("x/node_modules", false),
            ("a.md", true),
            ("README.md", false),
            ("README-secret.md", true),
            ("dir/a", true),
            ("dir/keep", false),
            ("dir/keep/sub", false),
            ("a/b/c.tmp", true),
            ("src/main.rs", false),
            ("# a comment", false),
        ] {
            assert_eq!(ignore.leaves_out(path.as_bytes()), out, "{path}");
        }
        assert!(ignore.may_keep_within(b"dir"));
        assert!(!Ignore::parse(b"dir").may_keep_within(b"dir"));
    }

    #[test]
    fn a_pattern_of_many_stars_ends() {
        let pattern = "a*".repeat(60) + "b";
        assert!(!glob(pattern.as_bytes(), "a".repeat(200).as_bytes()));
        let pattern = "**/a".repeat(40) + "/b";
        assert!(!glob(pattern.as_bytes(), "a/".repeat(100).as_bytes()));
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in proptest::collection::vec(prop_oneof![Just(b'*'), Just(b'['), Just(b']'), Just(b'\\'), Just(b'-'), Just(b'/'), any::<u8>()], 0..24),
                             path in "[a-c/]{0,24}") {
            Ignore::parse(&pattern).leaves_out(path.as_bytes());
            glob(&pattern, path.as_bytes());
        }

        #[test]
        fn a_literal_matches_itself_and_what_is_below(path in "[a-z]{1,5}(/[a-z]{1,5}){0,3}") {
            let ignore = Ignore::parse(path.as_bytes());
            prop_assert!(ignore.leaves_out(path.as_bytes()));
            let below = format!("{path}/x/y");
            prop_assert!(ignore.leaves_out(below.as_bytes()));
            let beside = format!("{path}x");
            prop_assert!(!ignore.leaves_out(beside.as_bytes()));
        }
    }
}
