//! Reading tar archives that nobody vouches for.
//!
//! Formats: v7, ustar, GNU (long names), pax (`pax(1)`, POSIX.1-2001). A reader of our own, because
//! it must bound what it keeps in memory, whatever sizes the archive claims, and must not guess.

use std::io::{self, Read};

const BLOCK: usize = 512;
/// Bytes of extended headers of one entry.
const MAX_PAX: u64 = 1 << 20;
/// Bytes of a GNU long name, well above what a kernel takes.
const MAX_LONG_NAME: u64 = 16 << 10;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Directory,
    Symlink,
    HardLink,
    /// A device or fifo.
    Special,
}

/// One entry. Names are as written in the archive.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Seconds since 1970 and nanoseconds.
    pub(super) mtime: (i64, u32),
    /// Bytes of content that follow.
    pub(super) size: u64,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What precedes an entry and replaces parts of its header.
#[derive(Debug, Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after the other, with their content in between.
pub(super) struct Reader<R> {
    input: R,
    /// Content of the present entry not read yet.
    left: u64,
    /// Filling up to a whole block after it.
    padding: u64,
    headers: u64,
    max_headers: u64,
}

fn malformed(words: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words.into())
}

impl<R: Read> Reader<R> {
    /// Reads at most `max_headers` headers, those that only extend others counted too.
    pub(super) fn new(input: R, max_headers: u64) -> Self {
        Self {
            input,
            left: 0,
            padding: 0,
            headers: 0,
            max_headers,
        }
    }

    /// The next entry; `None` at the archive's end mark.
    pub(super) fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        self.skip_rest()?;
        let mut overrides = Overrides::default();
        loop {
            let mut header = [0; BLOCK];
            self.input
                .read_exact(&mut header)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        malformed("the archive ends before its end mark")
                    }
                    _ => error,
                })?;
            if header.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            self.headers += 1;
            if self.headers > self.max_headers {
                return Err(malformed(format!("more than {} entries", self.max_headers)));
            }
            check_sum(&header)?;
            let size = size(&header[124..136])?;
            match header[156] {
                b'x' => {
                    let records = self.small(size, MAX_PAX, "an extended header")?;
                    pax(&records, &mut overrides)?;
                }
                b'L' => {
                    overrides.path =
                        Some(c_text(&self.small(size, MAX_LONG_NAME, "a long name")?))
                }
                b'K' => {
                    overrides.link =
                        Some(c_text(&self.small(size, MAX_LONG_NAME, "a long name")?))
                }
                // Defaults for all entries, and a volume's label: nothing that we need.
                b'g' | b'V' => {
                    self.small(size, MAX_PAX, "an extended header")?;
                }
                b'S' => {
                    return Err(malformed(
                        "sparse files are not supported: make the archive without them",
                    ));
                }
                kind => return self.entry(&header, kind, size, overrides).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        flag: u8,
        size: u64,
        overrides: Overrides,
    ) -> io::Result<Entry> {
        let path = overrides.path.unwrap_or_else(|| name(header));
        let kind = match flag {
            // Before ustar there was no flag for directories.
            b'0' | b'7' | 0 if path.last() == Some(&b'/') => EntryKind::Directory,
            b'0' | b'7' | 0 => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' | b'4' | b'6' => EntryKind::Special,
            b'5' => EntryKind::Directory,
            other => return Err(malformed(format!("an entry of unknown type {other:#04x}"))),
        };
        // Only files have content (old directories are files in the archive); other types may name a
        // size and mean nothing by it.
        let size = match flag {
            b'0' | b'7' | 0 => overrides.size.unwrap_or(size),
            _ => 0,
        };
        let entry = Entry {
            path,
            link: overrides.link.unwrap_or_else(|| c_text(&header[157..257])),
            kind,
            mode: (octal(&header[100..108])? & 0o7777) as u32,
            uid: overrides
                .uid
                .map_or_else(|| unsigned(&header[108..116]), Ok)?,
            gid: overrides
                .gid
                .map_or_else(|| unsigned(&header[116..124]), Ok)?,
            mtime: match overrides.mtime {
                Some(mtime) => mtime,
                None => (signed(&header[136..148])?, 0),
            },
            size,
            xattrs: overrides.xattrs,
        };
        self.expect(size);
        Ok(entry)
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// Reads content of the present entry; 0 at its end.
    pub(super) fn content(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if room == 0 {
            return Ok(0);
        }
        let got = self.input.read(&mut buffer[..room])?;
        if got == 0 {
            return Err(malformed("the archive ends within a file"));
        }
        self.left -= got as u64;
        Ok(got)
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        let mut left = self.left.saturating_add(self.padding);
        let mut buffer = [0; 8192];
        while left > 0 {
            let room = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let got = self.input.read(&mut buffer[..room])?;
            if got == 0 {
                return Err(malformed("the archive ends within a file"));
            }
            left -= got as u64;
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// The whole content of a header that extends the next one.
    fn small(&mut self, size: u64, limit: u64, what: &str) -> io::Result<Vec<u8>> {
        if size > limit {
            return Err(malformed(format!("{what} of {size} bytes")));
        }
        self.expect(size);
        let mut content = vec![0; size as usize];
        let mut filled = 0;
        while filled < content.len() {
            filled += self.content(&mut content[filled..])?;
        }
        self.skip_rest()?;
        Ok(content)
    }

    /// Reads on to the end of the input, past the end mark.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; 8192];
        while self.input.read(&mut buffer)? > 0 {}
        Ok(())
    }
}

fn check_sum(header: &[u8; BLOCK]) -> io::Result<()> {
    let bad = || malformed("not a tar archive, or a damaged one: a header's check sum is wrong");
    let told = octal(&header[148..156]).map_err(|_| bad())?;
    let blanked = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| u64::from(blanked(at, *byte)))
        .sum();
    // Some old writers took bytes as signed numbers.
    let signed: i64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| i64::from(blanked(at, *byte) as i8))
        .sum();
    if told == sum || i64::try_from(told).is_ok_and(|told| told == signed) {
        return Ok(());
    }
    Err(bad())
}

fn c_text(field: &[u8]) -> Vec<u8> {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    field[..end].to_vec()
}

/// The name of ustar is in two parts; GNU uses the place of the first for other things.
fn name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = c_text(&header[..100]);
    let prefix = c_text(&header[345..500]);
    if &header[257..263] != b"ustar\0" || prefix.is_empty() {
        return name;
    }
    [prefix.as_slice(), b"/", &name].concat()
}

fn octal(field: &[u8]) -> io::Result<u64> {
    let bad = || malformed("a number in a header is malformed");
    let digits = field
        .iter()
        .skip_while(|byte| **byte == b' ')
        .take_while(|byte| !matches!(byte, 0 | b' '));
    digits.copied().try_fold(0u64, |sum, byte| {
        let digit = (b'0'..=b'7')
            .contains(&byte)
            .then(|| u64::from(byte - b'0'))
            .ok_or_else(bad)?;
        sum.checked_mul(8)
            .and_then(|sum| sum.checked_add(digit))
            .ok_or_else(bad)
    })
}

/// A number in octal or, with the highest bit set, in two's complement of base 256 (GNU).
fn signed(field: &[u8]) -> io::Result<i64> {
    let bad = || malformed("a number in a header is out of range");
    if field[0] & 0x80 == 0 {
        return i64::try_from(octal(field)?).map_err(|_| bad());
    }
    // The highest bit is the mark, the next one the sign.
    let first = if field[0] & 0x40 == 0 {
        field[0] & 0x7f
    } else {
        field[0]
    };
    let mut value = i128::from(first as i8);
    for byte in &field[1..] {
        value = (value << 8) | i128::from(*byte);
    }
    i64::try_from(value).map_err(|_| bad())
}

fn unsigned(field: &[u8]) -> io::Result<u64> {
    u64::try_from(signed(field)?).map_err(|_| malformed("a negative number in a header"))
}

fn size(field: &[u8]) -> io::Result<u64> {
    unsigned(field)
}

/// Records of the form `length key=value\n`.
fn pax(mut records: &[u8], overrides: &mut Overrides) -> io::Result<()> {
    let bad = || malformed("an extended header is malformed");
    while !records.is_empty() {
        let blank = records
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or_else(bad)?;
        let length: usize = decimal(&records[..blank])
            .and_then(|n| n.try_into().ok())
            .ok_or_else(bad)?;
        let record = records.get(blank + 1..length).ok_or_else(bad)?;
        let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        records = &records[length..];
        // An empty value takes an override back.
        let given = (!value.is_empty()).then_some(value);
        let number =
            |value: Option<&[u8]>| value.map(|text| decimal(text).ok_or_else(bad)).transpose();
        match key {
            b"path" => overrides.path = given.map(<[u8]>::to_vec),
            b"linkpath" => overrides.link = given.map(<[u8]>::to_vec),
            b"size" => overrides.size = number(given)?,
            b"uid" => overrides.uid = number(given)?,
            b"gid" => overrides.gid = number(given)?,
            b"mtime" => {
                overrides.mtime = given.map(|text| time(text).ok_or_else(bad)).transpose()?
            }
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(malformed(
                    "sparse files are not supported: make the archive without them",
                ));
            }
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    overrides.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// Seconds with an optional sign and fraction.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = text
        .iter()
        .position(|byte| *byte == b'.')
        .unwrap_or(text.len());
    let whole = i64::try_from(decimal(&text[..dot])?).ok()?;
    let mut nanos = 0u32;
    let mut unit = 100_000_000;
    for byte in text.get(dot + 1..).unwrap_or(&[]) {
        if !byte.is_ascii_digit() {
            return None;
        }
        nanos += u32::from(byte - b'0') * unit;
        unit /= 10;
    }
    match (negative, nanos) {
        (false, _) => Some((whole, nanos)),
        (true, 0) => Some((-whole, 0)),
        // Nanoseconds always count upwards.
        (true, _) => Some(((-whole).checked_sub(1)?, 1_000_000_000 - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers() {
        assert_eq!(octal(b"0000644\0").unwrap(), 0o644);
        assert_eq!(octal(b"   644 \0").unwrap(), 0o644);
        assert_eq!(octal(b"\0\0\0\0\0\0\0\0").unwrap(), 0);
        assert!(octal(b"0000648\0").is_err());
        assert!(octal(b"-000644\0").is_err());
        assert_eq!(signed(&[0x80, 0, 0, 0, 0, 0, 1, 0]).unwrap(), 256);
        assert_eq!(signed(&[0xff; 8]).unwrap(), -1);
        assert!(unsigned(&[0xff; 8]).is_err());
        let huge = [
            0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ];
        assert!(signed(&huge).is_err());
    }

    #[test]
    fn times() {
        assert_eq!(time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b"1.1234567899"), Some((1, 123_456_789)));
        for bad in ["", "-", ".5", "1.x", "1e5", "99999999999999999999"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn extended_headers() {
        let mut overrides = Overrides::default();
        pax(b"12 path=a b\n13 mtime=1.5\n11 size=07\n", &mut overrides).unwrap();
        assert_eq!(overrides.path.as_deref(), Some(&b"a b"[..]));
        assert_eq!(
            (overrides.mtime, overrides.size),
            (Some((1, 500_000_000)), Some(7))
        );
        for bad in [
            &b"5"[..],
            b" a=b\n",
            b"3 a=b\n",
            b"99 a=b\n",
            b"7 a=bbb",
            b"6 abc\n",
            b"9 size=x\n",
            b"99999999999999999999999 a=b\n",
            b"22 GNU.sparse.major=1\n",
        ] {
            assert!(pax(bad, &mut Overrides::default()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let mut reader = Reader::new(&bytes[..], 10);
            while let Ok(Some(_)) = reader.next_entry() {}
            let _ = pax(&bytes, &mut Overrides::default());
        }

        // With a right check sum, whatever else the header says.
        #[test]
        fn any_header_is_judged(mut header in proptest::collection::vec(any::<u8>(), BLOCK), flag in "[0-7xgLKSV]") {
            header[156] = flag.as_bytes()[0];
            header[124..136].copy_from_slice(b"00000001000\0");
            header[148..156].fill(b' ');
            let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            header.resize(4 * BLOCK, 0);
            let mut reader = Reader::new(&header[..], 10);
            while let Ok(Some(entry)) = reader.next_entry() {
                prop_assert!(entry.mode <= 0o7777);
            }
        }
    }
}
