//! Rows as nearly all of them are: the columns of the row before, in its order, with plain values.
//!
//! Half of the time of a long list goes into its JSON, and half of that into names that are known before they are read. What is
//! not as expected – another name, an escape, a fraction, a list – is left to `serde_json`, whose reading of the same bytes it
//! must agree with: see the property test in `reader.rs`.

use crate::cells::Cells;
use crate::record::Column;

/// Reads the row at the beginning of `text` into `cells`, and says how long it is. `None`: it is not as expected, or not whole.
pub(crate) fn row(
    text: &[u8],
    columns: &[Column],
    order: &[usize],
    cells: &mut Cells,
) -> Option<usize> {
    let mut rest = text.strip_prefix(b"{")?;
    let (last, before) = order.split_last()?;
    for at in before {
        rest = cell(rest, columns, *at, cells)?.strip_prefix(b",")?;
    }
    rest = cell(rest, columns, *last, cells)?.strip_prefix(b"}")?;
    Some(text.len() - rest.len())
}

/// A name, a value, and what may follow it.
fn cell<'a>(text: &'a [u8], columns: &[Column], at: usize, cells: &mut Cells) -> Option<&'a [u8]> {
    let name = columns.get(at)?.name.as_bytes();
    let rest = blank(text).strip_prefix(b"\"")?;
    let rest = rest.strip_prefix(name)?.strip_prefix(b"\":")?;
    value(blank(rest), at, cells).map(blank)
}

/// What follows the white space of JSON.
fn blank(text: &[u8]) -> &[u8] {
    let is_blank = |b: &&u8| matches!(**b, b' ' | b'\n' | b'\r' | b'\t');
    let n = text.iter().take_while(is_blank).count();
    text.get(n..).unwrap_or_default()
}

fn value<'a>(text: &'a [u8], at: usize, cells: &mut Cells) -> Option<&'a [u8]> {
    match text.first()? {
        b'"' => {
            let rest = text.get(1..)?;
            let end = memchr::memchr2(b'"', b'\\', rest)?;
            let (word, rest) = (rest.get(..end)?, rest.get(end..)?);
            // An escape, or a control character, which JSON does not have in a text.
            if rest.first() != Some(&b'"') || word.iter().any(|b| *b < 0x20) {
                return None;
            }
            cells.text(at, std::str::from_utf8(word).ok()?);
            rest.get(1..)
        }
        b'n' => text.strip_prefix(b"null").inspect(|_| cells.null(at)),
        b't' => text.strip_prefix(b"true").inspect(|_| cells.bool(at, true)),
        b'f' => text
            .strip_prefix(b"false")
            .inspect(|_| cells.bool(at, false)),
        _ => {
            let digits = text.strip_prefix(b"-").unwrap_or(text);
            let len = digits.iter().take_while(|b| b.is_ascii_digit()).count();
            let (number, rest) = digits.split_at_checked(len)?;
            // More would not fit; a number has no zeros before it; and what has not ended may go on in the next piece.
            let whole = matches!(
                rest.first(),
                Some(b',' | b'}' | b' ' | b'\n' | b'\r' | b'\t')
            );
            if !(1..=18).contains(&len) || (len > 1 && number.first() == Some(&b'0')) || !whole {
                return None;
            }
            let n = number
                .iter()
                .fold(0, |n: i64, b| n * 10 + i64::from(b - b'0'));
            // Minus nothing is a fraction to `serde_json`.
            let negative = digits.len() < text.len();
            if negative && n == 0 {
                return None;
            }
            cells.int(at, if negative { -n } else { n });
            Some(rest)
        }
    }
}
