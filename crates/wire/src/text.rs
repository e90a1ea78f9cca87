//! Text that came from a server or an instance and is printed only escaped.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Text of foreign origin. `Display` shows one line in which no character can move the cursor,
/// change colours, set a title or reorder the line; [`raw`](Self::raw) gives it as it came.
///
/// ```
/// let name = boxrig_wire::Untrusted::new("web\u{1b}[2J\n");
/// assert_eq!(name.to_string(), "web\\u{1b}[2J\\n");
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Untrusted(String);

impl Untrusted {
    /// Wraps foreign text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text as it came. Never print it to a terminal.
    pub fn raw(&self) -> &str {
        &self.0
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Untrusted {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Untrusted {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape_line(&self.0))
    }
}

impl fmt::Debug for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", escape_line(&self.0))
    }
}

/// Characters that a terminal or a reader could be misled by: C0, DEL, C1, bidi controls and
/// isolates, line and paragraph separators, zero-width joiners aside (they shape real scripts),
/// the byte order mark, tags and other default-ignorable format characters.
fn is_hostile(c: char) -> bool {
    matches!(c,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn escape(text: &str, keep: fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|c| is_hostile(c) && !keep(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !is_hostile(c) || keep(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.extend(c.escape_unicode()),
        }
    }
    Cow::Owned(out)
}

/// Foreign text made safe for one line of human output.
pub fn escape_line(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// Foreign text made safe for human output in which newlines and tabs are meant.
pub fn escape_text(text: &str) -> Cow<'_, str> {
    escape(text, |c| c == '\n' || c == '\t')
}

/// A JSON document made safe for a terminal: what could mislead is written as `\\u` and four digits, so every value
/// stays what it is. Line ends and tabs outside of strings are the document's own form.
///
/// ```
/// let document = serde_json::json!(["\u{9b}31m"]).to_string();
/// assert_eq!(boxrig_wire::escape_json(&document), r#"["\u009b31m"]"#);
/// ```
pub fn escape_json(document: &str) -> Cow<'_, str> {
    // Below DEL, JSON writers escape by themselves; above ASCII, a character can only be in a string.
    let odd = |c: char| c >= '\u{7f}' && is_hostile(c);
    if !document.chars().any(odd) {
        return Cow::Borrowed(document);
    }
    let mut out = String::with_capacity(document.len() + 64);
    for c in document.chars() {
        if odd(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_control_is_escaped() {
        for c in (0..=0x10ffffu32)
            .filter_map(char::from_u32)
            .filter(|c| c.is_control())
        {
            assert!(!escape_line(&c.to_string()).contains(c), "{:x}", c as u32);
        }
        assert_eq!(escape_text("a\tb\nc\r"), "a\tb\nc\\r");
        assert_eq!(escape_line("plain ünïcode 你好"), "plain ünïcode 你好");
    }

    proptest! {
        #[test]
        fn a_document_is_the_same_and_plain(s in any::<String>()) {
            let document = serde_json::to_string(&s).unwrap();
            let shown = escape_json(&document);
            prop_assert!(!shown.chars().any(is_hostile));
            prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), s);
        }

        #[test]
        fn printed_text_holds_no_control(s in any::<String>()) {
            prop_assert!(!escape_line(&s).chars().any(|c| c.is_control() || is_hostile(c)));
        }
    }
}
