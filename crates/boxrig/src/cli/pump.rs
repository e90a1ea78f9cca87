//! Standard output and standard error for what comes as a stream.
//!
//! Bytes are handed to a thread that writes each piece at once, so that a reader that does not take them keeps nothing else
//! waiting: signals, pings, input.

use std::io::{self, Write};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How many pieces may wait; the sender waits for the rest.
const WAITING: usize = 16;

/// Something to be written.
#[derive(Debug)]
pub(crate) enum Piece {
    Stdout(Bytes),
    Stderr(Bytes),
}

/// What writes, in the order in which it was told.
pub(crate) struct Pump {
    to: mpsc::Sender<Piece>,
    thread: JoinHandle<io::Result<()>>,
}

impl Pump {
    pub(crate) fn start() -> Self {
        let (to, from) = mpsc::channel(WAITING);
        let thread = tokio::task::spawn_blocking(|| write(from));
        Self { to, thread }
    }

    /// Room for a piece, once there is some; `None` when nobody reads standard output any more. Safe to drop and call again.
    pub(crate) async fn room(&self) -> Option<mpsc::Permit<'_, Piece>> {
        self.to.reserve().await.ok()
    }

    /// Whether somebody still reads standard output.
    pub(crate) async fn stdout(&self, bytes: Bytes) -> bool {
        self.to.send(Piece::Stdout(bytes)).await.is_ok()
    }

    /// Waits until all is written, or somebody has stopped reading standard output: then it is an error.
    pub(crate) async fn finish(self) -> io::Result<()> {
        drop(self.to);
        self.thread.await.map_err(io::Error::other)?
    }
}

/// Standard output without the library's lock and buffer: a thread that waits for a reader must not keep the end of the program
/// waiting, which flushes both.
fn standard_output() -> Box<dyn Write> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        if let Ok(own) = io::stdout().as_fd().try_clone_to_owned() {
            return Box::new(std::fs::File::from(own));
        }
    }
    Box::new(io::stdout())
}

/// Ends with the channel, or with the first piece that standard output does not take. What standard error does not take is
/// lost: there is nowhere else to say so.
fn write(mut from: mpsc::Receiver<Piece>) -> io::Result<()> {
    let (mut stdout, mut stderr) = (standard_output(), io::stderr());
    while let Some(piece) = from.blocking_recv() {
        match piece {
            Piece::Stdout(bytes) => {
                stdout.write_all(&bytes)?;
                stdout.flush()?;
            }
            Piece::Stderr(bytes) => {
                let _ = stderr.write_all(&bytes);
            }
        }
    }
    Ok(())
}
