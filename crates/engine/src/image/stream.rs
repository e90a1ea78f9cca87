//! From an asynchronous stream to a blocking reader, through decompression and hashing.

use std::future::Future;
use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use crate::BoxReader;

/// Bytes per piece, and pieces in flight: what an import holds in memory.
const PIECE: usize = 256 * 1024;
const PIECES: usize = 4;

enum Piece {
    Bytes(Bytes),
    /// The stream ended by itself. Without it the other side has gone away in the middle.
    End,
}

/// The reading end of [`channel`]. Blocks; not for asynchronous code.
pub(crate) struct Input {
    pieces: mpsc::Receiver<Piece>,
    present: Bytes,
    ended: bool,
}

/// Connects a stream with a blocking reader. The future moves the bytes and must run meanwhile; it
/// ends when the stream ends or the reader is dropped.
pub(crate) fn channel(mut from: BoxReader) -> (Input, impl Future<Output = io::Result<()>>) {
    let (sender, pieces) = mpsc::channel(PIECES);
    let feed = async move {
        loop {
            let mut buffer = Vec::with_capacity(PIECE);
            // Filled, so that the other side wakes seldom.
            while buffer.len() < PIECE {
                if from.read_buf(&mut buffer).await? == 0 {
                    break;
                }
            }
            let piece = if buffer.is_empty() {
                Piece::End
            } else {
                Piece::Bytes(buffer.into())
            };
            let last = matches!(piece, Piece::End);
            if sender.send(piece).await.is_err() || last {
                return Ok(());
            }
        }
    };
    (
        Input {
            pieces,
            present: Bytes::new(),
            ended: false,
        },
        feed,
    )
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.present.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.present = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let count = self.present.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.present.split_to(count));
        Ok(count)
    }
}

/// Looks at the first bytes and decompresses what gzip has compressed.
pub(crate) fn decompressed(input: impl Read) -> io::Result<impl Read> {
    let mut input = BufReader::with_capacity(PIECE, input);
    let head = input.fill_buf()?;
    let refuse = |what: &str| {
        let words = format!("{what} is not supported: decompress it first, or use gzip");
        Err(io::Error::new(io::ErrorKind::InvalidData, words))
    };
    if head.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the archive is empty",
        ));
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return refuse("zstd");
    }
    if head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        return refuse("xz");
    }
    if head.starts_with(b"BZh") {
        return refuse("bzip2");
    }
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        Either::Gzip(Box::new(MultiGzDecoder::new(input)))
    } else {
        Either::Plain(input)
    })
}

enum Either<R: Read> {
    Plain(BufReader<R>),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
}

impl<R: Read> Read for Either<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Either::Plain(input) => input.read(buffer),
            Either::Gzip(input) => input.read(buffer),
        }
    }
}

/// Hashes what passes, and lets no more than `limit` bytes pass.
pub(super) struct Hashed<R> {
    input: R,
    hash: Sha256,
    left: u64,
}

impl<R: Read> Hashed<R> {
    pub(super) fn new(input: R, limit: u64) -> Self {
        Self {
            input,
            hash: Sha256::new(),
            left: limit,
        }
    }

    pub(super) fn digest(self) -> [u8; 32] {
        self.hash.finalize().into()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.hash.update(&buffer[..got]);
        self.left = self.left.checked_sub(got as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the archive is larger than allowed",
            )
        })?;
        Ok(got)
    }
}
