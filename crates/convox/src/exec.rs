//! Running a command in a process: options in headers, output and exit code on one socket.

use boxrig_wire::ws::{Frame, Reader, WebSocket, Writer};
use boxrig_wire::{CallOptions, Error, Kind, Request, Result, Timeout};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};

use crate::Client;
use crate::ops::processes::{ProcessExec, ProcessExecHeaders};

/// The line that carries the exit code at the end of an exec: this, the code, a newline.
pub const EXIT_MARK: &str = "F1E49A85-0AD7-4AEF-A618-C249C6E6568D:";

/// What an exec's socket says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// Output.
    Output(Bytes),
    /// The command ended with this code.
    Exit(i32),
}

/// A running command.
#[derive(Debug)]
pub struct ExecSession(WebSocket);

/// The writing side of a running command.
#[derive(Clone)]
pub struct ExecInput(Writer);

/// What an exec gives: its input side and its output.
pub type ExecOutput = (
    ExecInput,
    std::pin::Pin<Box<dyn Stream<Item = Result<ExecEvent>> + Send>>,
);

impl std::fmt::Debug for ExecInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExecInput")
    }
}

impl Client {
    /// Runs a command in a process. Never sent twice.
    ///
    /// # Errors
    ///
    /// Those before the upgrade; the rack's own come as the first thing on the socket and are given by the
    /// output stream.
    pub async fn exec(
        &self,
        app: &str,
        pid: &str,
        options: ProcessExecHeaders,
    ) -> Result<ExecSession> {
        let request = Request::<ProcessExec> {
            path: (app.to_owned(), pid.to_owned()),
            query: Default::default(),
            headers: options,
            body: Default::default(),
        };
        let options = CallOptions::new().timeout(Timeout::Default);
        Ok(ExecSession(
            self.caller.call(request, &options).await?.connected()?,
        ))
    }
}

impl ExecSession {
    /// The input side, and the output as a stream that ends in [`ExecEvent::Exit`] or an error: a
    /// stream without an exit trailer has no known status and is never taken for success.
    pub fn split(self) -> ExecOutput {
        let (reader, writer) = self.0.split();
        (ExecInput(writer), Box::pin(output(reader)))
    }
}

impl ExecInput {
    /// Sends input; it travels as a text frame of any bytes.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn write(&self, bytes: impl Into<Bytes>) -> Result<()> {
        self.0.send(Frame::text(bytes)).await.map_err(broken)
    }
    /// Ends the input: an empty binary frame.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn end(&self) -> Result<()> {
        self.0
            .send(Frame::binary(Bytes::new()))
            .await
            .map_err(broken)
    }
}

fn broken(e: std::io::Error) -> Error {
    Error::new(Kind::Transport, "the socket broke")
        .with_operation("ProcessExec")
        .with_source(e)
}

struct State {
    reader: Reader,
    trailer: Trailer,
    ready: std::collections::VecDeque<Result<ExecEvent>>,
    done: bool,
}

fn output(reader: Reader) -> impl Stream<Item = Result<ExecEvent>> + Send {
    let state = State {
        reader,
        trailer: Trailer::default(),
        ready: Default::default(),
        done: false,
    };
    stream::unfold(state, |mut s| async move {
        loop {
            if let Some(item) = s.ready.pop_front() {
                return Some((item, s));
            }
            if s.done {
                return None;
            }
            match s.reader.next().await {
                Ok(Some(Frame::Data {
                    text: false,
                    payload,
                    ..
                })) if payload.is_empty() => s.done = true,
                Ok(Some(Frame::Data { payload, .. })) => {
                    let output = s.trailer.push(&payload);
                    if !output.is_empty() {
                        s.ready.push_back(Ok(ExecEvent::Output(output)));
                    }
                }
                Ok(Some(Frame::Ping(_) | Frame::Pong(_))) => {}
                Ok(None | Some(Frame::Close { .. })) => s.done = true,
                Err(e) => {
                    s.done = true;
                    s.ready.push_back(Err(broken(e)));
                    continue;
                }
            }
            if s.done {
                let (rest, end) = std::mem::take(&mut s.trailer).finish();
                if !rest.is_empty() {
                    s.ready.push_back(Ok(ExecEvent::Output(rest)));
                }
                s.ready.push_back(end.map(ExecEvent::Exit));
            }
        }
    })
}

/// Finds the exit trailer and the error line in the bytes of an exec, wherever frames are cut.
///
/// Bytes that could still be the start of a trailer are held back until it is known.
#[derive(Debug, Default)]
pub struct Trailer {
    held: BytesMut,
    any_output: bool,
}

/// The most that is held back as a possible end: a trailer and the rack's error line. A program that
/// prints the mark and goes on for longer has printed output.
const LONGEST_END: usize = 16 * 1024;

impl Trailer {
    /// Takes the next bytes and gives those that are output for certain.
    pub fn push(&mut self, bytes: &[u8]) -> Bytes {
        self.held.extend_from_slice(bytes);
        let len = self.held.len();
        let mark = rfind(&self.held, EXIT_MARK.as_bytes()).filter(|at| len - at <= LONGEST_END);
        let certain = match mark {
            // An error line is told apart only at the end, when nothing else was said.
            None if !self.any_output && is_error_start(&self.held) && len <= LONGEST_END => 0,
            Some(at) => at,
            None => len - partial_mark(&self.held),
        };
        let output = self.held.split_to(certain).freeze();
        self.any_output |= !output.is_empty();
        output
    }

    /// Ends the stream: the last output, and the code or why there is none.
    pub fn finish(mut self) -> (Bytes, Result<i32>) {
        let (mut code, mut error) = (None, None);
        if let Some(at) = rfind(&self.held, EXIT_MARK.as_bytes()) {
            let tail = self.held.split_off(at);
            let text = &tail[EXIT_MARK.len()..];
            let end = text.iter().position(|b| *b == b'\n').unwrap_or(text.len());
            match std::str::from_utf8(&text[..end])
                .ok()
                .and_then(|c| c.trim().parse().ok())
            {
                Some(n) => code = Some(n),
                None => self.held.extend_from_slice(&tail),
            }
            // On a failure of the exec itself the rack sends the trailer first, then the error.
            error = error_line(text.get(end + 1..).unwrap_or_default());
        }
        if error.is_none() && !self.any_output && is_error_start(&self.held) {
            error = error_line(&self.held);
            self.held.clear();
        }
        let rest = self.held.freeze();
        if let Some(text) = error {
            return (rest, Err(rack_error(&text)));
        }
        let end = code.ok_or_else(|| {
            Error::new(
                Kind::OutcomeUnknown,
                "the stream ended without an exit code",
            )
            .with_operation("ProcessExec")
            .with_hint("the command may still run: look with `boxrig convox processes list`")
        });
        (rest, end)
    }
}

fn is_error_start(bytes: &[u8]) -> bool {
    const START: &[u8] = b"ERROR: ";
    bytes.len() < START.len() && START.starts_with(bytes) && !bytes.is_empty()
        || bytes.starts_with(START)
}

fn error_line(bytes: &[u8]) -> Option<String> {
    let text = bytes.strip_prefix(b"ERROR: ")?;
    Some(String::from_utf8_lossy(text).trim_end().to_owned())
}

/// The rack's errors on a socket carry no status: these are the texts that were observed.
fn rack_error(text: &str) -> Error {
    let kind = match text {
        t if t.contains("not found") || t.contains("no such") => Kind::NotFound,
        t if t.contains("invalid authentication") => Kind::Unauthenticated,
        t if t.contains("unauthorized") || t.contains("forbidden") => Kind::Denied,
        _ => Kind::Failed,
    };
    Error::new(kind, "")
        .with_operation("ProcessExec")
        .with_server_message(text)
}

fn rfind(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).rposition(|w| w == needle)
}

/// How many bytes at the end could be the start of a mark.
fn partial_mark(bytes: &[u8]) -> usize {
    (1..EXIT_MARK.len())
        .rev()
        .find(|n| bytes.ends_with(&EXIT_MARK.as_bytes()[..*n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(parts: &[&[u8]]) -> (Vec<u8>, Result<i32>) {
        let mut t = Trailer::default();
        let mut out = Vec::new();
        for p in parts {
            out.extend_from_slice(&t.push(p));
        }
        let (rest, end) = t.finish();
        out.extend_from_slice(&rest);
        (out, end)
    }

    #[test]
    fn the_trailer_is_found_across_any_cut() {
        let output = b"out\xffput";
        let text = [output, EXIT_MARK.as_bytes(), b"42\n"].concat();
        for cut in 0..text.len() {
            let (out, end) = run(&[&text[..cut], &text[cut..]]);
            assert_eq!(end.unwrap(), 42, "cut at {cut}");
            assert_eq!(out, output);
        }
    }

    #[test]
    fn no_trailer_is_no_success() {
        let (out, end) = run(&[b"half"]);
        assert_eq!(out, b"half");
        assert_eq!(end.unwrap_err().kind(), Kind::OutcomeUnknown);
    }

    #[test]
    fn errors_on_the_socket() {
        let text = b"ERROR: app not found: x\n";
        for cut in 0..text.len() {
            let (out, end) = run(&[&text[..cut], &text[cut..]]);
            assert_eq!(out, b"");
            assert_eq!(end.unwrap_err().kind(), Kind::NotFound);
        }
        let (_, end) = run(&[format!("{EXIT_MARK}1\nERROR: boom\n").as_bytes()]);
        assert!(end.unwrap_err().to_string().contains("boom"));
        let (out, end) = run(&[format!("{EXIT_MARK}3\nmore\n{EXIT_MARK}0\n").as_bytes()]);
        assert_eq!(
            (out, end.unwrap()),
            (format!("{EXIT_MARK}3\nmore\n").into_bytes(), 0)
        );
        // A program's own words are not taken for the rack's.
        let (out, end) = run(&[b"x\nERROR: mine\n", format!("{EXIT_MARK}0\n").as_bytes()]);
        assert_eq!((out, end.unwrap()), (b"x\nERROR: mine\n".to_vec(), 0));
    }
}
