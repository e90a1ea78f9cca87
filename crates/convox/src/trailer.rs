//! The end of an exec's output: the line with the exit code, and the rack's own errors.

use boxrig_wire::{Error, Kind, Result};
use bytes::{Bytes, BytesMut};

/// The line that carries the exit code at the end of an exec: this, the code, a newline.
pub const EXIT_MARK: &str = "F1E49A85-0AD7-4AEF-A618-C249C6E6568D:";

/// Finds the exit trailer and the error line in the bytes of an exec, wherever frames are cut.
///
/// Bytes that could still be the start of a trailer are held back until it is known.
#[derive(Debug, Default)]
pub struct Trailer {
    held: BytesMut,
    any_output: bool,
}

/// The most that is held back as a possible end: a trailer and the rack's error line. A program that
/// prints the mark and goes on for longer has printed output.
const LONGEST_END: usize = 16 * 1024;

impl Trailer {
    /// Takes the next bytes and gives those that are output for certain.
    pub fn push(&mut self, bytes: &[u8]) -> Bytes {
        self.held.extend_from_slice(bytes);
        let len = self.held.len();
        let mark = rfind(&self.held, EXIT_MARK.as_bytes()).filter(|at| len - at <= LONGEST_END);
        let certain = match mark {
            // An error line is told apart only at the end, when nothing else was said.
            None if !self.any_output && is_error_start(&self.held) && len <= LONGEST_END => 0,
            Some(at) => at,
            None => len - partial_mark(&self.held),
        };
        let output = self.held.split_to(certain).freeze();
        self.any_output |= !output.is_empty();
        output
    }

    /// Ends the stream: the last output, and the code or why there is none.
    pub fn finish(mut self) -> (Bytes, Result<i32>) {
        let (mut code, mut error) = (None, None);
        if let Some(at) = rfind(&self.held, EXIT_MARK.as_bytes()) {
            let tail = self.held.split_off(at);
            let text = &tail[EXIT_MARK.len()..];
            let end = text.iter().position(|b| *b == b'\n').unwrap_or(text.len());
            match std::str::from_utf8(&text[..end])
                .ok()
                .and_then(|c| c.trim().parse::<i32>().ok())
            {
                Some(n) => code = Some(n),
                None => self.held.extend_from_slice(&tail),
            }
            // On a failure of the exec itself the rack sends the trailer first, then the error.
            error = error_line(text.get(end + 1..).unwrap_or_default());
        }
        if error.is_none() && !self.any_output && is_error_start(&self.held) {
            error = error_line(&self.held);
            self.held.clear();
        }
        let rest = self.held.freeze();
        if let Some(text) = error {
            let error = rack_error(&text, "ProcessExec");
            // The code before the error says why: 126 and 127 as a shell has them.
            return (
                rest,
                Err(match code {
                    Some(code) => error.with_code(code.to_string()),
                    None => error,
                }),
            );
        }
        let end = code.ok_or_else(|| {
            Error::new(
                Kind::OutcomeUnknown,
                "the stream ended without an exit code",
            )
            .with_operation("ProcessExec")
            .with_hint("the command may still run: look with `boxrig convox processes list`")
        });
        (rest, end)
    }
}

fn is_error_start(bytes: &[u8]) -> bool {
    const START: &[u8] = b"ERROR: ";
    bytes.len() < START.len() && START.starts_with(bytes) && !bytes.is_empty()
        || bytes.starts_with(START)
}

pub(crate) fn error_line(bytes: &[u8]) -> Option<String> {
    let text = bytes.strip_prefix(b"ERROR: ")?;
    Some(String::from_utf8_lossy(text).trim_end().to_owned())
}

/// The rack's errors on a socket carry no status: these are the texts that were observed.
pub(crate) fn rack_error(text: &str, operation: &'static str) -> Error {
    let kind = match text {
        t if t.contains("not found") || t.contains("no such") => Kind::NotFound,
        t if t.contains("invalid authentication") => Kind::Unauthenticated,
        t if t.contains("unauthorized") || t.contains("forbidden") => Kind::Denied,
        _ => Kind::Failed,
    };
    Error::new(kind, "")
        .with_operation(operation)
        .with_server_message(text)
}

fn rfind(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).rposition(|w| w == needle)
}

/// How many bytes at the end could be the start of a mark.
fn partial_mark(bytes: &[u8]) -> usize {
    (1..EXIT_MARK.len())
        .rev()
        .find(|n| bytes.ends_with(&EXIT_MARK.as_bytes()[..*n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(parts: &[&[u8]]) -> (Vec<u8>, Result<i32>) {
        let mut t = Trailer::default();
        let mut out = Vec::new();
        for p in parts {
            out.extend_from_slice(&t.push(p));
        }
        let (rest, end) = t.finish();
        out.extend_from_slice(&rest);
        (out, end)
    }

    #[test]
    fn the_trailer_is_found_across_any_cut() {
        let output = b"out\xffput";
        let text = [output, EXIT_MARK.as_bytes(), b"42\n"].concat();
        for cut in 0..text.len() {
            let (out, end) = run(&[&text[..cut], &text[cut..]]);
            assert_eq!(end.unwrap(), 42, "cut at {cut}");
            assert_eq!(out, output);
        }
    }

    #[test]
    fn no_trailer_is_no_success() {
        let (out, end) = run(&[b"half"]);
        assert_eq!(out, b"half");
        assert_eq!(end.unwrap_err().kind(), Kind::OutcomeUnknown);
    }

    #[test]
    fn errors_on_the_socket() {
        let text = b"ERROR: app not found: x\n";
        for cut in 0..text.len() {
            let (out, end) = run(&[&text[..cut], &text[cut..]]);
            assert_eq!(out, b"");
            assert_eq!(end.unwrap_err().kind(), Kind::NotFound);
        }
        let (_, end) = run(&[format!("{EXIT_MARK}1\nERROR: boom\n").as_bytes()]);
        let e = end.unwrap_err();
        assert!(e.to_string().contains("boom"));
        assert_eq!(e.code().unwrap().raw(), "1");
        let (out, end) = run(&[format!("{EXIT_MARK}3\nmore\n{EXIT_MARK}0\n").as_bytes()]);
        assert_eq!(
            (out, end.unwrap()),
            (format!("{EXIT_MARK}3\nmore\n").into_bytes(), 0)
        );
        // A program's own words are not taken for the rack's.
        let (out, end) = run(&[b"x\nERROR: mine\n", format!("{EXIT_MARK}0\n").as_bytes()]);
        assert_eq!((out, end.unwrap()), (b"x\nERROR: mine\n".to_vec(), 0));
    }
}
