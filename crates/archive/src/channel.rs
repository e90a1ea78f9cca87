//! Bytes between a blocking thread and the async side, with back-pressure.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// The size of the chunks that archives travel in.
pub const CHUNK: usize = 256 * 1024;
/// How many chunks wait between the two sides.
const DEPTH: usize = 4;

/// What is sent to a [`Reader`].
#[derive(Debug)]
pub enum Message {
    /// Bytes.
    Data(Bytes),
    /// The stream came to its proper end.
    End,
}

/// The sending end.
pub type Sender = mpsc::Sender<Message>;

/// A channel into a blocking reader.
pub fn channel() -> (Sender, Reader) {
    let (tx, rx) = mpsc::channel(DEPTH);
    let reader = Reader {
        rx,
        current: Bytes::new(),
        ended: false,
    };
    (tx, reader)
}

/// The blocking end that reads. A stream whose sender went away without an end is cut, not over.
#[derive(Debug)]
pub struct Reader {
    rx: mpsc::Receiver<Message>,
    current: Bytes,
    ended: bool,
}

impl Reader {
    /// The next chunk as it came; `None` at the end.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the sender went away before the end.
    pub fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        if !self.current.is_empty() {
            return Ok(Some(std::mem::take(&mut self.current)));
        }
        while !self.ended {
            match self.rx.blocking_recv() {
                Some(Message::Data(bytes)) if bytes.is_empty() => {}
                Some(Message::Data(bytes)) => return Ok(Some(bytes)),
                Some(Message::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the transfer was cut",
                    ));
                }
            }
        }
        Ok(None)
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            match self.chunk()? {
                Some(bytes) => self.current = bytes,
                None => return Ok(0),
            }
        }
        let n = out.len().min(self.current.len());
        self.current.copy_to_slice(&mut out[..n]);
        Ok(n)
    }
}

/// The blocking end that writes, in chunks of [`CHUNK`] bytes.
#[derive(Debug)]
pub struct Writer {
    tx: mpsc::Sender<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Writer {
    /// The writer and what it wrote, chunk by chunk.
    pub fn new() -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (tx, rx) = mpsc::channel(DEPTH);
        let writer = Self {
            tx,
            buffer: Vec::with_capacity(CHUNK),
        };
        (writer, rx)
    }

    fn pass_on(&mut self) -> io::Result<()> {
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.tx
            .blocking_send(full)
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads any more"))
    }

    /// Takes exactly `n` bytes from `source`.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when it has less.
    pub fn copy(&mut self, source: &mut impl Read, mut n: u64) -> io::Result<()> {
        while n > 0 {
            let at = self.buffer.len();
            let room = usize::try_from(n).unwrap_or(CHUNK).min(CHUNK - at);
            self.buffer.resize(at + room, 0);
            let got = loop {
                match source.read(&mut self.buffer[at..]) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            let got = match got {
                Ok(got) => got,
                Err(e) => {
                    self.buffer.truncate(at);
                    return Err(e);
                }
            };
            self.buffer.truncate(at + got);
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            n -= got as u64;
            if self.buffer.len() == CHUNK {
                self.pass_on()?;
            }
        }
        Ok(())
    }

    /// Hands on what is left.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` when nobody reads any more.
    pub fn finish(mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.pass_on()
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        if self.buffer.len() == CHUNK {
            self.pass_on()?;
        }
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
