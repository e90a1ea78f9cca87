//! Standard output and standard error for what comes as a stream.
//!
//! Bytes are handed to a thread that writes them, so that a reader that does not take them keeps nothing else waiting
//! (signals, pings, input), and so that they are on their way as soon as nothing more is at hand.

use std::io::{self, Write};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How many pieces may wait; the sender waits for the rest.
const WAITING: usize = 16;

enum Piece {
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

    /// Whether somebody still reads standard output.
    pub(crate) async fn stdout(&self, bytes: Bytes) -> bool {
        self.to.send(Piece::Stdout(bytes)).await.is_ok()
    }

    pub(crate) async fn stderr(&self, bytes: Bytes) {
        let _ = self.to.send(Piece::Stderr(bytes)).await;
    }

    /// Waits until all is written, or somebody has stopped reading standard output: then it is an error.
    pub(crate) async fn finish(self) -> io::Result<()> {
        drop(self.to);
        self.thread.await.map_err(io::Error::other)?
    }
}

/// Ends with the channel, or with the first piece that standard output does not take. What standard error does not take is
/// lost: there is nowhere else to say so.
fn write(mut from: mpsc::Receiver<Piece>) -> io::Result<()> {
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    while let Some(first) = from.blocking_recv() {
        let mut next = Some(first);
        while let Some(piece) = next {
            match piece {
                Piece::Stdout(bytes) => stdout.write_all(&bytes)?,
                Piece::Stderr(bytes) => {
                    stdout.flush()?;
                    let _ = stderr.write_all(&bytes);
                }
            }
            next = from.try_recv().ok();
        }
        stdout.flush()?;
    }
    Ok(())
}
