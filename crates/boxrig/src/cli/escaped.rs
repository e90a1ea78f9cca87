//! Foreign text that comes in pieces, shown so that no character of it can mislead a terminal.

use std::io::{self, Write};

use boxrig_wire::escape_text;

/// What has come of a text. The half of a character, and a carriage return that a line feed may follow, wait for the next piece.
#[derive(Debug)]
pub(crate) struct Escaped {
    escape: bool,
    rest: Vec<u8>,
}

impl Escaped {
    /// Without `escape`, bytes are written as they come.
    pub(crate) fn new(escape: bool) -> Self {
        Self {
            escape,
            rest: Vec::new(),
        }
    }

    /// Writes a piece, at once.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn write(&mut self, out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
        if !self.escape {
            out.write_all(bytes)?;
            return out.flush();
        }
        self.rest.extend_from_slice(bytes);
        let held = unfinished(&self.rest);
        self.show(out, self.rest.len() - held)
    }

    /// Writes what has waited for a piece that did not come.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn finish(mut self, out: &mut dyn Write) -> io::Result<()> {
        self.show(out, self.rest.len())
    }

    fn show(&mut self, out: &mut dyn Write, len: usize) -> io::Result<()> {
        let bytes: Vec<u8> = self.rest.drain(..len).collect();
        let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
        out.write_all(escape_text(&text).as_bytes())?;
        out.flush()
    }
}

/// How many bytes at the end are the beginning of something.
fn unfinished(bytes: &[u8]) -> usize {
    if bytes.last() == Some(&b'\r') {
        return 1;
    }
    for (before, byte) in bytes.iter().rev().take(3).enumerate() {
        let wanted = match byte {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if wanted > before + 1 { before + 1 } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pieces: &[&[u8]]) -> String {
        let (mut out, mut text) = (Vec::new(), Escaped::new(true));
        for piece in pieces {
            text.write(&mut out, piece).unwrap();
        }
        text.finish(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn pieces_may_end_anywhere() {
        let text = "a\u{fc}\r\n\u{20ac}\u{1f600}\u{1b}[2J\tend\r".as_bytes();
        let whole = "aü\n€😀\\u{1b}[2J\tend\\r";
        for size in 1..=text.len() {
            assert_eq!(
                shown(&text.chunks(size).collect::<Vec<_>>()),
                whole,
                "{size}"
            );
        }
        // What is no UTF-8 holds nothing up, also not what follows.
        assert_eq!(
            shown(&[b"\xff\xfe\x80\x80\x80\x80", b"\xe2\x82"])
                .matches('\u{fffd}')
                .count(),
            7
        );
        assert_eq!(shown(&[b"\xff\xc3", b"\xbc"]), "\u{fffd}ü");
    }

    #[test]
    fn what_is_not_escaped_is_left_alone() {
        let (mut out, mut text) = (Vec::new(), Escaped::new(false));
        text.write(&mut out, b"\x1b\xff\r\n\xc3").unwrap();
        text.finish(&mut out).unwrap();
        assert_eq!(out, b"\x1b\xff\r\n\xc3");
    }
}
