//! `*` and `?`, which the platform does not know, in terms of what it knows.

use super::{Filter, Op};

pub(super) fn like(field: String, pattern: &str) -> Filter {
    let body = pattern.trim_matches('*');
    if pattern.contains('?') || body.contains('*') {
        return Filter::compare(field, Op::Rx, regex(pattern));
    }
    let op = match (pattern.starts_with('*'), pattern.ends_with('*')) {
        (false, false) => Op::Eq,
        // Nothing but stars: everything.
        _ if body.is_empty() => Op::Bw,
        (true, true) => Op::Cs,
        (true, false) => Op::Ew,
        (false, true) => Op::Bw,
    };
    Filter::compare(field, op, body)
}

/// The pattern as an anchored extended regular expression, never empty.
fn regex(pattern: &str) -> String {
    let mut out = String::from("^");
    for c in pattern.chars() {
        match c {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            '.' | '[' | ']' | '(' | ')' | '+' | '{' | '}' | '|' | '^' | '$' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.push('$');
    out
}
