//! What all sockets of a rack have in common: pings, the marks of their end, errors after the upgrade.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use boxrig_wire::ws::{Frame, Reader, WebSocket, Writer};
use boxrig_wire::{Error, Kind, Result};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use tokio::task::JoinHandle;

use crate::trailer::{error_line, rack_error};

/// The vendor's own client pings this often; racks do not ping.
const PING: Duration = Duration::from_secs(5);

/// The reading side of a socket.
pub(crate) struct Talk {
    reader: Reader,
    keepalive: JoinHandle<()>,
}

/// What a socket says.
pub(crate) enum Said {
    Data(Bytes),
    /// It is over: the empty binary frame, or a close.
    End,
    /// The connection went away without a word.
    Cut(Option<io::Error>),
}

/// The writing side of a socket.
#[derive(Clone)]
pub struct SocketInput {
    writer: Writer,
    operation: &'static str,
}

impl std::fmt::Debug for SocketInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SocketInput")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

impl SocketInput {
    /// Sends input; it travels as a text frame of any bytes. Waits while the other side takes none.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn write(&self, bytes: impl Into<Bytes>) -> Result<()> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Ok(());
        }
        self.send(Frame::text(bytes)).await
    }
    /// Ends the input: an empty binary frame.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn end(&self) -> Result<()> {
        self.send(Frame::binary(Bytes::new())).await
    }
    async fn send(&self, frame: Frame) -> Result<()> {
        self.writer
            .send(frame)
            .await
            .map_err(|e| broken(self.operation, Some(e)))
    }
}

/// The error of a connection that went away.
pub(crate) fn broken(operation: &'static str, source: Option<io::Error>) -> Error {
    let e = Error::new(Kind::Transport, "the socket broke").with_operation(operation);
    match source {
        Some(source) => e.with_source(source),
        None => e,
    }
}

/// Both sides of a socket.
pub(crate) fn open(socket: WebSocket, operation: &'static str) -> (SocketInput, Talk) {
    let (reader, writer) = socket.split();
    let pings = writer.clone();
    // A task of its own: a rack that does not read keeps the pings waiting, and must not keep the reading waiting.
    let keepalive = tokio::spawn(async move {
        loop {
            tokio::time::sleep(PING).await;
            if pings.send(Frame::Ping(Bytes::new())).await.is_err() {
                return;
            }
        }
    });
    (
        SocketInput { writer, operation },
        Talk { reader, keepalive },
    )
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.keepalive.abort();
    }
}

impl Talk {
    /// The next thing said. Safe to drop and call again.
    pub(crate) async fn next(&mut self) -> Said {
        loop {
            match self.reader.next().await {
                Ok(Some(Frame::Data {
                    text: false,
                    payload,
                    ..
                })) if payload.is_empty() => return Said::End,
                Ok(Some(Frame::Data { payload, .. })) => return Said::Data(payload),
                Ok(Some(Frame::Ping(_) | Frame::Pong(_))) => {}
                Ok(Some(Frame::Close { .. })) => return Said::End,
                Ok(None) => return Said::Cut(None),
                Err(e) => return Said::Cut(Some(e)),
            }
        }
    }
}

/// The longest that a rack's error line may be.
const LONGEST_ERROR: usize = 16 * 1024;

/// Tells the rack's error, which is the only thing on a socket when it comes, from data.
#[derive(Default)]
pub(crate) struct Opening {
    held: BytesMut,
    frames: u32,
    over: bool,
}

impl Opening {
    /// Takes a frame and gives what is data for certain.
    pub(crate) fn push(&mut self, payload: Bytes) -> Bytes {
        if self.over {
            return payload;
        }
        self.held.extend_from_slice(&payload);
        self.frames += 1;
        // An error is one frame; a start of one could only be cut by a proxy.
        let whole = self.held.len() >= START.len();
        let may_be = START.starts_with(&self.held) || self.held.starts_with(START);
        if may_be && self.held.len() <= LONGEST_ERROR && (!whole || self.frames == 1) {
            return Bytes::new();
        }
        self.over = true;
        self.held.split().freeze()
    }

    /// The end: the rack's error, or the rest of the data.
    pub(crate) fn finish(&mut self, operation: &'static str) -> Result<Bytes> {
        self.over = true;
        let held = self.held.split().freeze();
        match error_line(&held) {
            Some(words) => Err(rack_error(&words, operation)),
            None => Ok(held),
        }
    }
}

const START: &[u8] = b"ERROR: ";

/// Bytes both ways, without an exit code: a resource's console, a proxied connection.
pub struct Pipe {
    socket: WebSocket,
    operation: &'static str,
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

/// The two sides of a [`Pipe`].
pub type PipeEnds = (
    SocketInput,
    Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>,
);

impl Pipe {
    /// Over a socket that was opened by other means; `operation` is named in errors.
    pub fn new(socket: WebSocket, operation: &'static str) -> Self {
        Self { socket, operation }
    }

    /// The writing side, and what is read as it comes. An end that the rack does not mark is an error, and so is the
    /// rack's own word that it cannot be done.
    pub fn split(self) -> PipeEnds {
        let operation = self.operation;
        let (input, talk) = open(self.socket, operation);
        let state = (talk, Opening::default(), false);
        let output = stream::unfold(state, move |(mut talk, mut opening, mut done)| async move {
            while !done {
                let item = match talk.next().await {
                    Said::Data(bytes) => Ok(opening.push(bytes)),
                    Said::End => {
                        done = true;
                        opening.finish(operation)
                    }
                    Said::Cut(e) => {
                        done = true;
                        opening
                            .finish(operation)
                            .and_then(|rest| match rest.is_empty() {
                                true => Err(broken(operation, e)),
                                false => Ok(rest),
                            })
                    }
                };
                match item {
                    Ok(bytes) if bytes.is_empty() => {}
                    item => return Some((item, (talk, opening, done))),
                }
            }
            None
        });
        (input, Box::pin(output))
    }
}
