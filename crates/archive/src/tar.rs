//! Tar: GNU's form written, GNU's, POSIX' and the old form read.

use std::io::{self, Read, Write};

/// The size of a block.
const BLOCK: usize = 512;
/// The longest path that is read, in bytes.
const PATH_LIMIT: usize = 4096;
/// The most bytes of extended headers that are held.
const EXTENDED_LIMIT: u64 = 64 * 1024;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Another name of a file that came before.
    HardLink,
    /// A device, a pipe or something unheard of.
    Other,
}

/// An entry's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, with slashes.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Last change, in seconds since 1970.
    pub mtime: i64,
    /// The bytes of content that follow.
    pub size: u64,
    /// Where a link leads.
    pub link: Vec<u8>,
}

/// Writes an entry's header; the content and [`padding`] follow.
///
/// # Errors
///
/// What `out` gave.
pub fn write_header(out: &mut impl Write, entry: &Entry) -> io::Result<()> {
    let long = |out: &mut dyn Write, flag: u8, text: &[u8]| -> io::Result<()> {
        let mut header = [0; BLOCK];
        header[..13].copy_from_slice(b"././@LongLink");
        finish(&mut header, flag, 0o644, text.len() as u64 + 1, 0);
        out.write_all(&header)?;
        out.write_all(text)?;
        let rest = padding(text.len() as u64 + 1) + 1;
        out.write_all(&[0; BLOCK + 1][..rest])
    };
    if entry.path.len() > 100 {
        long(out, b'L', &entry.path)?;
    }
    if entry.link.len() > 100 {
        long(out, b'K', &entry.link)?;
    }
    let mut header = [0; BLOCK];
    let n = entry.path.len().min(100);
    header[..n].copy_from_slice(&entry.path[..n]);
    let n = entry.link.len().min(100);
    header[157..157 + n].copy_from_slice(&entry.link[..n]);
    let flag = match entry.kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::Directory => b'5',
        Kind::Other => return Err(io::Error::new(io::ErrorKind::Unsupported, "no such entry")),
    };
    finish(&mut header, flag, entry.mode, entry.size, entry.mtime);
    out.write_all(&header)
}

fn finish(header: &mut [u8; BLOCK], flag: u8, mode: u32, size: u64, mtime: i64) {
    number(&mut header[100..108], i128::from(mode & 0o7777));
    // Everything belongs to root: ids of this machine mean nothing in another.
    number(&mut header[108..116], 0);
    number(&mut header[116..124], 0);
    number(&mut header[124..136], i128::from(size));
    number(&mut header[136..148], i128::from(mtime));
    header[156] = flag;
    header[257..265].copy_from_slice(b"ustar  \0");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    header[154] = 0;
}

/// Octal where it fits, else the big-endian form with the top bit set.
fn number(field: &mut [u8], value: i128) {
    let digits = field.len() - 1;
    let fits = (0..1i128 << (3 * digits)).contains(&value);
    if fits {
        field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
        field[digits] = 0;
        return;
    }
    let bytes = value.to_be_bytes();
    let n = field.len();
    field.copy_from_slice(&bytes[bytes.len() - n..]);
    field[0] |= 0x80;
}

/// How many bytes follow content of this size up to a whole block.
pub fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

/// What ends an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Reads an archive entry by entry. Content that is not read is skipped.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    /// Content of the present entry that is still to come, and the padding after it.
    left: u64,
    pad: usize,
}

fn broken(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the archive is broken: {why}"),
    )
}

impl<R: Read> Reader<R> {
    /// A reader of the archive that `source` holds.
    pub fn new(source: R) -> Self {
        Self {
            source,
            left: 0,
            pad: 0,
        }
    }

    /// The next entry; `None` after the last. An archive that ends without its end mark was cut.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut path = None;
        let mut link = None;
        let mut size = None;
        let mut mtime = None;
        let mut extended = 0;
        loop {
            self.skip_content()?;
            let mut header = [0; BLOCK];
            self.source.read_exact(&mut header).map_err(cut)?;
            if header.iter().all(|b| *b == 0) {
                return Ok(None);
            }
            check_sum(&header)?;
            let own_size = u64::try_from(parse_number(&header[124..136])?)
                .ok()
                .filter(|n| *n < 1 << 62)
                .ok_or_else(|| broken("an impossible size"))?;
            let flag = header[156];
            if matches!(flag, b'L' | b'K' | b'x' | b'g') {
                extended += own_size;
                if extended > EXTENDED_LIMIT {
                    return Err(broken("its extended headers are too long"));
                }
                let mut text = vec![0; own_size as usize];
                self.source.read_exact(&mut text).map_err(cut)?;
                self.pad = padding(own_size);
                match flag {
                    b'L' => path = Some(to_nul(&text).to_vec()),
                    b'K' => link = Some(to_nul(&text).to_vec()),
                    b'x' => {
                        for (key, value) in pax(&text)? {
                            match key {
                                b"path" => path = Some(value.to_vec()),
                                b"linkpath" => link = Some(value.to_vec()),
                                b"size" => size = Some(decimal(value)?),
                                b"mtime" => mtime = seconds(value),
                                k if k.starts_with(b"GNU.sparse.") => {
                                    return Err(broken("sparse files are not supported"));
                                }
                                _ => {}
                            }
                        }
                    }
                    // What holds for all entries is nothing that is needed here.
                    _ => {}
                }
                continue;
            }
            let path = path.unwrap_or_else(|| ustar_path(&header));
            let link = link.unwrap_or_else(|| to_nul(&header[157..257]).to_vec());
            if path.len() > PATH_LIMIT || link.len() > PATH_LIMIT {
                return Err(broken("a path is too long"));
            }
            let kind = match flag {
                b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
                b'0' | 0 | b'7' => Kind::File,
                b'1' => Kind::HardLink,
                b'2' => Kind::Symlink,
                b'5' => Kind::Directory,
                b'S' => return Err(broken("sparse files are not supported")),
                _ => Kind::Other,
            };
            let size = size.unwrap_or(own_size);
            let size = match kind {
                // Links have no content, whatever the field says; POSIX says so of hard links, too.
                Kind::Symlink | Kind::Directory => 0,
                Kind::HardLink | Kind::File | Kind::Other => size,
            };
            self.left = size;
            self.pad = padding(size);
            return Ok(Some(Entry {
                path,
                kind,
                mode: (parse_number(&header[100..108])? & 0o7777) as u32,
                mtime: mtime.unwrap_or(parse_number(&header[136..148])?),
                size,
                link,
            }));
        }
    }

    fn skip_content(&mut self) -> io::Result<()> {
        let rest = self.left + self.pad as u64;
        (self.left, self.pad) = (0, 0);
        let skipped = io::copy(&mut (&mut self.source).take(rest), &mut io::sink())?;
        if skipped < rest {
            return Err(cut(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// What the entries are read from, for what comes after the end mark.
    pub fn into_inner(self) -> R {
        self.source
    }
}

/// The content of the present entry.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(out.len());
        if n == 0 {
            return Ok(0);
        }
        let got = self.source.read(&mut out[..n])?;
        if got == 0 {
            return Err(cut(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= got as u64;
        Ok(got)
    }
}

fn cut(e: io::Error) -> io::Error {
    match e.kind() {
        io::ErrorKind::UnexpectedEof if e.get_ref().is_none() => broken("it is cut off"),
        io::ErrorKind::UnexpectedEof => e,
        _ => e,
    }
}

fn to_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

fn ustar_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = to_nul(&header[..100]);
    let prefix = to_nul(&header[345..500]);
    // GNU's own form uses the prefix' place for times.
    if &header[257..263] != b"ustar\0" || prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

fn check_sum(header: &[u8; BLOCK]) -> io::Result<()> {
    let expected = parse_number(&header[148..156])?;
    // The field itself counts as blanks. Some old writers summed signed bytes.
    let parts = [&header[..148], &header[156..]];
    let blanks = 8 * i64::from(b' ');
    let unsigned = || {
        parts
            .iter()
            .flat_map(|p| p.iter())
            .map(|b| i64::from(*b))
            .sum::<i64>()
    };
    let signed = || {
        parts
            .iter()
            .flat_map(|p| p.iter())
            .map(|b| i64::from(*b as i8))
            .sum::<i64>()
    };
    if expected == unsigned() + blanks || expected == signed() + blanks {
        Ok(())
    } else {
        Err(broken("a header's checksum does not match"))
    }
}

fn parse_number(field: &[u8]) -> io::Result<i64> {
    if field[0] & 0x80 != 0 {
        // Big-endian, two's complement with bit 6 of the first byte as the sign.
        let negative = field[0] & 0x40 != 0;
        let first = if negative { field[0] } else { field[0] & 0x7f };
        let mut value = if negative { -1i128 } else { 0 };
        value = (value << 8) | i128::from(first);
        for b in &field[1..] {
            value = (value << 8) | i128::from(*b);
        }
        return i64::try_from(value).map_err(|_| broken("a number is too large"));
    }
    let text = field
        .split(|b| *b == 0)
        .next()
        .unwrap_or_default()
        .trim_ascii();
    text.iter().try_fold(0i64, |n, b| match b {
        b'0'..=b'7' => n
            .checked_mul(8)
            .and_then(|n| n.checked_add(i64::from(b - b'0')))
            .ok_or_else(|| broken("a number is too large")),
        _ => Err(broken("a number has a wrong digit")),
    })
}

fn decimal(text: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse().ok())
        .filter(|n| *n < 1 << 62)
        .ok_or_else(|| broken("an impossible size"))
}

/// Whole seconds of a time with a fraction; a time that is none is left to the header.
fn seconds(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    text.split('.').next()?.parse().ok()
}

/// The records of a POSIX extended header: `<length> <key>=<value>\n`.
fn pax(mut text: &[u8]) -> io::Result<Vec<(&[u8], &[u8])>> {
    let bad = || broken("an extended header");
    let mut records = Vec::new();
    while !text.is_empty() && text[0] != 0 {
        let blank = text.iter().position(|b| *b == b' ').ok_or_else(bad)?;
        let len = decimal(&text[..blank]).map_err(|_| bad())?;
        let len = usize::try_from(len).map_err(|_| bad())?;
        let record = text.get(blank + 1..len).ok_or_else(bad)?;
        let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
        let eq = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        records.push((&record[..eq], &record[eq + 1..]));
        text = &text[len..];
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: &[u8], size: u64) -> Entry {
        Entry {
            path: path.to_vec(),
            kind: Kind::File,
            mode: 0o640,
            mtime: 1_700_000_000,
            size,
            link: Vec::new(),
        }
    }

    #[test]
    fn a_cut_archive_is_told_from_a_whole_one() {
        let mut out = Vec::new();
        write_header(&mut out, &file(b"a", 3)).unwrap();
        out.extend_from_slice(b"abc");
        out.extend_from_slice(&[0; 509]);
        let whole = [&out[..], &END].concat();
        for n in 0..whole.len() {
            let mut r = Reader::new(&whole[..n]);
            let read = loop {
                match r.next_entry() {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            };
            // One block of the two is enough of an end.
            assert_eq!(read.is_ok(), n >= out.len() + BLOCK, "cut at {n}");
        }
    }

    #[test]
    fn sparse_files_and_long_headers_are_refused() {
        let mut out = Vec::new();
        write_header(&mut out, &file(b"a", 0)).unwrap();
        out[156] = b'S';
        finish_again(&mut out);
        assert!(
            Reader::new(&out[..])
                .next_entry()
                .unwrap_err()
                .to_string()
                .contains("sparse")
        );
        let mut out = Vec::new();
        write_header(&mut out, &file(b"a", 1 << 40)).unwrap();
        out[156] = b'L';
        finish_again(&mut out);
        assert!(
            Reader::new(&out[..])
                .next_entry()
                .unwrap_err()
                .to_string()
                .contains("too long")
        );
    }

    fn finish_again(out: &mut [u8]) {
        out[148..156].fill(b' ');
        let sum: u32 = out[..BLOCK].iter().map(|b| u32::from(*b)).sum();
        out[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        out[154] = 0;
    }

    #[test]
    fn a_pax_path_is_read() {
        assert_eq!(
            pax(b"12 path=a/b\n11 size=77\n").unwrap(),
            [(&b"path"[..], &b"a/b"[..]), (b"size", b"77")]
        );
        for bad in [
            &b"99 path=a\n"[..],
            b"x path=a\n",
            b"9 patha/b\n",
            b"3 a",
            b"0 a=b\n",
            b"1 a=b\n",
        ] {
            assert!(pax(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn entries_survive(paths in proptest::collection::vec("[a-zé/ '\"*-]{1,300}[a-z]", 1..5),
                           size in 0u64..3000, mtime in -5_000_000_000i64..50_000_000_000, mode in 0u32..0o10000) {
            let mut out = Vec::new();
            let mut all = Vec::new();
            for path in paths {
                let e = Entry { path: path.clone().into_bytes(), kind: Kind::File, mode, mtime, size, link: Vec::new() };
                write_header(&mut out, &e).unwrap();
                out.resize(out.len() + size as usize + padding(size), 7);
                let l = Entry { kind: Kind::Symlink, size: 0, link: path.into_bytes(), ..e.clone() };
                write_header(&mut out, &l).unwrap();
                all.extend([e, l]);
            }
            out.extend_from_slice(&END);
            let mut r = Reader::new(&out[..]);
            for e in all {
                prop_assert_eq!(r.next_entry().unwrap(), Some(e));
            }
            prop_assert_eq!(r.next_entry().unwrap(), None);
        }

        #[test]
        fn sizes_survive(size in 0u64..1 << 62) {
            let mut out = Vec::new();
            write_header(&mut out, &file(b"big", size)).unwrap();
            prop_assert_eq!(Reader::new(&out[..]).next_entry().unwrap().unwrap().size, size);
        }

        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..2048), flag in any::<u8>()) {
            let mut bytes = bytes;
            if bytes.len() >= BLOCK {
                // A right checksum gets further in.
                bytes[156] = flag;
                finish_again(&mut bytes);
            }
            let mut r = Reader::new(&bytes[..]);
            while let Ok(Some(_)) = r.next_entry() {}
        }
    }
}
