//! Logs that never grow beyond their size: a ring behind a header that counts the bytes ever written.
//!
//! The agent writes the main process's log (`agent/log.rs`), the server the console's; both read here.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::proto::{LOG_HEADER, LOG_MAGIC};

/// An open log.
#[derive(Debug)]
pub(super) struct Ring {
    file: File,
    size: u64,
}

impl Ring {
    /// Opens the log, or makes an empty one of `size` bytes.
    pub(super) fn open(path: &Path, size: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let file = options.open(path)?;
        let mut header = [0; 24];
        let found = file.read_at(&mut header, 0)? == header.len() && field(&header, 0) == LOG_MAGIC;
        if found && field(&header, 8) > 0 {
            let size = field(&header, 8);
            return Ok(Self { file, size });
        }
        let size = size.max(4096);
        header[..8].copy_from_slice(&LOG_MAGIC.to_le_bytes());
        header[8..16].copy_from_slice(&size.to_le_bytes());
        header[16..].fill(0);
        file.write_all_at(&header, 0)?;
        Ok(Self { file, size })
    }

    /// The file, for the agent.
    pub(super) fn into_file(self) -> File {
        self.file
    }

    /// Bytes written since the beginning.
    pub(super) fn written(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        self.file.read_exact_at(&mut count, 16)?;
        Ok(u64::from_le_bytes(count))
    }

    /// The offset of the oldest byte kept.
    pub(super) fn oldest(&self) -> io::Result<u64> {
        Ok(self.written()?.saturating_sub(self.size))
    }

    /// Adds `data`.
    pub(super) fn append(&self, mut data: &[u8]) -> io::Result<()> {
        let mut written = self.written()?;
        while !data.is_empty() {
            let at = written % self.size;
            let n = data
                .len()
                .min(usize::try_from(self.size - at).unwrap_or(usize::MAX));
            self.file.write_all_at(&data[..n], LOG_HEADER + at)?;
            written += n as u64;
            data = &data[n..];
        }
        self.file.write_all_at(&written.to_le_bytes(), 16)
    }

    /// Reads from `offset` on, or from the oldest byte if that is gone: where it began, and how much.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<(u64, usize)> {
        loop {
            let written = self.written()?;
            let offset = offset.clamp(written.saturating_sub(self.size), written);
            let at = offset % self.size;
            let most = (written - offset).min(self.size - at).min(buf.len() as u64);
            let n = usize::try_from(most).unwrap_or(0);
            let n = self.file.read_at(&mut buf[..n], LOG_HEADER + at)?;
            // Overwritten while it was read: again from what is there now.
            if self.oldest()? <= offset {
                return Ok((offset, n));
            }
        }
    }

    /// Where the last `lines` lines begin.
    pub(super) fn tail(&self, lines: u64) -> io::Result<u64> {
        let (oldest, end) = (self.oldest()?, self.written()?);
        let mut left = lines;
        let mut at = end;
        let mut buf = vec![0; 16 * 1024];
        // A line break at the very end does not begin another line.
        let mut skip_last = true;
        while at > oldest {
            let from = at.saturating_sub(buf.len() as u64).max(oldest);
            let mut filled = 0;
            while from + (filled as u64) < at {
                let (began, n) =
                    self.read(from + filled as u64, &mut buf[filled..(at - from) as usize])?;
                if n == 0 || began != from + filled as u64 {
                    return Ok(self.oldest()?.max(from));
                }
                filled += n;
            }
            for index in (0..filled).rev() {
                if buf[index] == b'\n' && !std::mem::take(&mut skip_last) {
                    if left <= 1 {
                        return Ok(if left == 0 {
                            end
                        } else {
                            from + index as u64 + 1
                        });
                    }
                    left -= 1;
                }
                skip_last = false;
            }
            at = from;
        }
        Ok(if lines == 0 { end } else { oldest })
    }
}

fn field(header: &[u8; 24], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(ring: &Ring, from: u64) -> (u64, Vec<u8>) {
        let (mut out, mut buf) = (Vec::new(), [0; 1000]);
        let start = from.max(ring.oldest().unwrap());
        loop {
            let (_, n) = ring.read(start + out.len() as u64, &mut buf).unwrap();
            if n == 0 {
                return (start, out);
            }
            out.extend_from_slice(&buf[..n]);
        }
    }

    #[test]
    fn keeps_the_end_and_true_offsets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let ring = Ring::open(&path, 4096).unwrap();
        let mut written = Vec::new();
        for line in 0..2000 {
            let text = format!("line {line}\n");
            ring.append(text.as_bytes()).unwrap();
            written.extend_from_slice(text.as_bytes());
        }
        let ring = Ring::open(&path, 9999).unwrap();
        assert_eq!(ring.written().unwrap(), written.len() as u64);
        let (start, kept) = all(&ring, 0);
        assert_eq!(kept.len(), 4096);
        assert_eq!(&written[start as usize..], kept);
        for lines in [1, 2, 50] {
            let (_, tail) = all(&ring, ring.tail(lines).unwrap());
            assert_eq!(tail.iter().filter(|&&b| b == b'\n').count() as u64, lines);
            assert!(tail.starts_with(format!("line {}\n", 2000 - lines).as_bytes()));
        }
        assert_eq!(ring.tail(0).unwrap(), ring.written().unwrap());
        assert_eq!(ring.tail(u64::MAX).unwrap(), ring.oldest().unwrap());
        let bytes = std::fs::metadata(&path).unwrap().len();
        assert!(bytes <= LOG_HEADER + 4096, "{bytes}");
    }
}
