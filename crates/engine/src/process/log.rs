//! Logs of bounded size: two files, the older of which goes when the newer one is full.
//!
//! A file is named by the offset of its first byte (`main.0.log`), so that offsets stay true over
//! restarts. Between half the size and all of it is kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{BoxReader, Error, LogOptions, LogStream, Result};

/// How often the end is looked at while following, at most and at least.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
const PIECE: usize = 32 * 1024;

/// One log. Clones are the same log.
#[derive(Debug, Clone)]
pub(super) struct Log(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    name: &'static str,
    half: u64,
    /// First offsets of the files that exist, at most two.
    starts: Vec<u64>,
    newest: Option<File>,
    end: u64,
}

impl Log {
    pub(super) fn open(dir: &Path, name: &'static str, bytes: u64) -> Result<Self> {
        let failed = |error| Error::io(format!("open the {name} log"), error);
        let mut starts: Vec<u64> = fs::read_dir(dir)
            .map_err(failed)?
            .flatten()
            .filter_map(|entry| {
                let file = entry.file_name();
                file.to_str()?
                    .strip_prefix(name)?
                    .strip_prefix('.')?
                    .strip_suffix(".log")?
                    .parse()
                    .ok()
            })
            .collect();
        starts.sort_unstable();
        let mut inner = Inner {
            dir: dir.to_owned(),
            name,
            half: (bytes / 2).max(4096),
            starts,
            newest: None,
            end: 0,
        };
        if let Some(start) = inner.starts.last().copied() {
            inner.end = start + fs::metadata(inner.path(start)).map_err(failed)?.len();
        }
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds bytes. What the disk does not take is lost.
    pub(super) fn append(&self, bytes: &[u8]) {
        if let Err(error) = self.inner().append(bytes) {
            tracing::warn!(%error, "a log cannot be written");
        }
    }

    /// Adds all that comes out of a stream.
    pub(super) async fn fill(&self, mut from: BoxReader) {
        let mut buffer = vec![0; PIECE];
        while let Ok(got) = from.read(&mut buffer).await {
            if got == 0 {
                return;
            }
            self.append(&buffer[..got]);
        }
    }

    /// Reads as `options` say; following ends when `goes_on` says no.
    pub(super) fn stream(
        &self,
        options: &LogOptions,
        goes_on: impl Fn() -> bool + Send + 'static,
    ) -> Result<LogStream> {
        let failed = |error| Error::io("read a log", error);
        let (oldest, end) = {
            let inner = self.inner();
            (
                inner.starts.first().copied().unwrap_or(inner.end),
                inner.end,
            )
        };
        let offset = match (options.since, options.tail) {
            (Some(since), _) => since.clamp(oldest, end),
            (None, Some(lines)) => self.tail(oldest, end, lines).map_err(failed)?,
            (None, None) => oldest,
        };
        let (mut feed, content) = tokio::io::duplex(2 * PIECE);
        let (log, follow) = (self.clone(), options.follow);
        // Ends when the reader is dropped: writing fails then.
        tokio::spawn(async move {
            let mut at = offset;
            let mut pause = LOOK.0;
            loop {
                let more = goes_on();
                let Ok((from, bytes)) = log.inner().read(at, PIECE) else {
                    return;
                };
                at = from + bytes.len() as u64;
                if !bytes.is_empty() {
                    if feed.write_all(&bytes).await.is_err() {
                        return;
                    }
                    pause = LOOK.0;
                } else if follow && more {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LOOK.1);
                } else {
                    return;
                }
            }
        });
        Ok(LogStream {
            offset,
            content: Box::new(content),
        })
    }

    /// The offset `lines` lines before the end; a last line without its end counts.
    fn tail(&self, oldest: u64, end: u64, lines: u64) -> io::Result<u64> {
        let mut left = lines;
        let mut at = end;
        let mut first = true;
        if lines == 0 {
            return Ok(end);
        }
        while at > oldest {
            let from = at.saturating_sub(PIECE as u64).max(oldest);
            let (_, bytes) = self.inner().read(from, (at - from) as usize)?;
            for (index, byte) in bytes.iter().enumerate().rev() {
                // The newline that ends the last line does not begin another.
                let last = std::mem::take(&mut first) && *byte == b'\n';
                if *byte == b'\n' && !last {
                    left -= 1;
                    if left == 0 {
                        return Ok(from + index as u64 + 1);
                    }
                }
            }
            at = from;
        }
        Ok(oldest)
    }
}

impl Inner {
    fn path(&self, start: u64) -> PathBuf {
        self.dir.join(format!("{}.{start}.log", self.name))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(self.half as usize) {
            let full = self
                .starts
                .last()
                .is_none_or(|start| self.end - start + piece.len() as u64 > self.half);
            if full {
                while self.starts.len() > 1 {
                    fs::remove_file(self.path(self.starts[0]))?;
                    self.starts.remove(0);
                }
                self.newest = None;
                self.starts.push(self.end);
            }
            if self.newest.is_none() {
                let start = self.starts.last().copied().unwrap_or(self.end);
                let mut options = OpenOptions::new();
                options.create(true).append(true).mode(0o600);
                self.newest = Some(options.open(self.path(start))?);
            }
            if let Some(file) = &mut self.newest {
                file.write_all(piece)?;
                self.end += piece.len() as u64;
            }
        }
        Ok(())
    }

    /// Reads at most `count` bytes from `at`, or from the oldest byte if that one is gone.
    fn read(&self, at: u64, count: usize) -> io::Result<(u64, Vec<u8>)> {
        let mut bytes = Vec::new();
        let at = at.max(self.starts.first().copied().unwrap_or(self.end));
        for (index, start) in self.starts.iter().enumerate() {
            let end = self.starts.get(index + 1).copied().unwrap_or(self.end);
            let from = at + bytes.len() as u64;
            if from < *start || from >= end {
                continue;
            }
            let mut file = File::open(self.path(*start))?;
            file.seek(SeekFrom::Start(from - start))?;
            let room = (count - bytes.len()) as u64;
            file.take(room.min(end - from)).read_to_end(&mut bytes)?;
        }
        Ok((at, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(log: &Log, options: LogOptions) -> (u64, String) {
        let mut stream = log.stream(&options, || false).unwrap();
        let mut text = String::new();
        stream.content.read_to_string(&mut text).await.unwrap();
        (stream.offset, text)
    }

    #[tokio::test]
    async fn offsets_stay_true_over_rotation_and_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let mut written = String::new();
        let mut log = Log::open(dir.path(), "main", 0).unwrap();
        for number in 0..2000 {
            let line = format!("line {number}\n");
            log.append(line.as_bytes());
            written.push_str(&line);
            if number % 500 == 0 {
                log = Log::open(dir.path(), "main", 0).unwrap();
            }
        }
        let (offset, kept) = all(&log, LogOptions::default()).await;
        assert_eq!(offset as usize + kept.len(), written.len());
        assert!((4096..=8192).contains(&kept.len()), "{}", kept.len());
        assert!(written.ends_with(&kept));
        assert!(fs::read_dir(dir.path()).unwrap().count() <= 2);
        let tail = |lines| LogOptions {
            tail: Some(lines),
            ..LogOptions::default()
        };
        assert_eq!(all(&log, tail(2)).await.1, "line 1998\nline 1999\n");
        assert_eq!(all(&log, tail(0)).await.1, "");
        assert_eq!(all(&log, tail(99_999)).await.1, kept);
        let since = |offset| LogOptions {
            since: Some(offset),
            ..LogOptions::default()
        };
        let end = written.len() as u64;
        assert_eq!(
            all(&log, since(end - 5)).await,
            (end - 5, "1999\n".to_owned())
        );
        assert_eq!(all(&log, since(end + 100)).await, (end, String::new()));
        assert_eq!(all(&log, since(1)).await.1, kept);
        log.append(b"open");
        assert_eq!(all(&log, tail(1)).await.1, "open");
        log.append(&vec![b'x'; 20_000]);
        assert!(all(&log, LogOptions::default()).await.1.len() <= 8192);
    }
}
