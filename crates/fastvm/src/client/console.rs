//! A machine's console: a terminal over a websocket.

use std::fmt;

use boxrig_wire::ws::{self, Frame};
use boxrig_wire::{
    Decoding, Endpoint, Error, Idempotency, Kind, Outgoing, Protocol, ReplyCodec, ReplyShape,
    Result, RetryPolicy, Secret, Socket, WireBody,
};
use bytes::Bytes;
use http::{Request, Uri};

use super::Client;
use super::vms::Vms;
use crate::ops;
use crate::protocol::FastVm;
use crate::types::ConsoleTokenResponse;

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleSize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

impl Default for ConsoleSize {
    fn default() -> Self {
        Self { cols: 80, rows: 24 }
    }
}

/// An open console. Dropping it closes the connection; the machine's shell goes its own way then.
pub struct Console {
    reader: ConsoleReader,
    writer: ConsoleWriter,
}

/// What comes out of a console.
pub struct ConsoleReader(ws::Reader);

/// What goes into a console; clones write to the same one.
#[derive(Clone)]
pub struct ConsoleWriter(ws::Writer);

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Console")
    }
}

impl fmt::Debug for ConsoleReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConsoleReader")
    }
}

impl fmt::Debug for ConsoleWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConsoleWriter")
    }
}

impl Vms<'_> {
    /// Opens a machine's console: makes a token, connects, and tells the size of the terminal before anything else.
    ///
    /// ```no_run
    /// # async fn f(client: boxrig_fastvm::Client) -> boxrig_wire::Result<()> {
    /// use boxrig_fastvm::ConsoleSize;
    /// let mut console = client.vms().console("0b2e…", ConsoleSize { cols: 120, rows: 40 }).await?;
    /// console.write("uname -a\n").await?;
    /// while let Some(bytes) = console.read().await? {
    ///     print!("{}", String::from_utf8_lossy(&bytes));
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] when the machine does not run; else those of the way to it.
    pub async fn console(&self, id: &str, size: ConsoleSize) -> Result<Console> {
        let token = self.console_token(id).await?;
        let console = connect(self.client, &token).await?;
        console.writer.resize(size).await?;
        Ok(console)
    }
}

/// Where a console's websocket is: a path on the API's host, or an address of its own.
fn address(client: &Client, token: &ConsoleTokenResponse) -> Result<Uri> {
    let refuse = |why: &str| {
        Error::new(
            Kind::Protocol,
            format!("the service gave a console address that is not used: {why}"),
        )
        .with_operation(ops::OpenConsole::META.id)
    };
    let base = client.caller().base();
    let path = token.websocket_path.as_str();
    let mut text = match path.split_once("://") {
        Some(("wss", rest)) => format!("https://{rest}"),
        Some(("ws", rest)) if !base.is_https() => format!("http://{rest}"),
        Some(("ws", _)) => return Err(refuse("it is not encrypted, and the API is")),
        Some(_) => return Err(refuse("it is no websocket's")),
        None if path.starts_with("//") => return Err(refuse("it has no scheme")),
        None if path.starts_with('/') => format!("{}{path}", base.origin()),
        None => return Err(refuse("it is neither a path nor a URL")),
    };
    if !has_session(&text) {
        text.push(if text.contains('?') { '&' } else { '?' });
        text.push_str("session=");
        for b in token.token.expose().bytes() {
            if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
                text.push(char::from(b));
            } else {
                text.push_str(&format!("%{b:02X}"));
            }
        }
    }
    let text = Secret::new(text);
    text.expose()
        .parse()
        .map_err(|_| refuse("it cannot be parsed"))
}

fn has_session(url: &str) -> bool {
    url.split_once('?')
        .is_some_and(|(_, query)| query.split('&').any(|pair| pair.starts_with("session=")))
}

async fn connect(client: &Client, token: &ConsoleTokenResponse) -> Result<Console> {
    let meta = ops::OpenConsole::META;
    let mut request = Request::new(WireBody::empty());
    // The token opens it: no API key is sent.
    *request.uri_mut() = address(client, token)?;
    let response = client
        .caller()
        .transport()
        .send(Outgoing {
            request,
            operation: meta.id,
            // The token is good for one connection, so a second try could only fail.
            idempotency: Idempotency::Never,
            reply: ReplyShape::Socket,
            timeout: client.caller().timeout(),
            retry: RetryPolicy::none(),
            reply_limit: 1024 * 1024,
        })
        .await?;
    let cx = Decoding {
        meta,
        decode_error: <FastVm as Protocol>::decode_error,
        limit: 1024 * 1024,
    };
    let (reader, writer) = Socket::decode(response, cx).await?.connected()?.split();
    Ok(Console {
        reader: ConsoleReader(reader),
        writer: ConsoleWriter(writer),
    })
}

impl Console {
    /// Both halves, for two tasks.
    pub fn split(self) -> (ConsoleReader, ConsoleWriter) {
        (self.reader, self.writer)
    }
    /// What the terminal showed next; see [`ConsoleReader::read`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn read(&mut self) -> Result<Option<Bytes>> {
        self.reader.read().await
    }
    /// Sends keystrokes; see [`ConsoleWriter::write`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn write(&self, keys: impl AsRef<[u8]>) -> Result<()> {
        self.writer.write(keys).await
    }
    /// Tells a new size of the terminal.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn resize(&self, size: ConsoleSize) -> Result<()> {
        self.writer.resize(size).await
    }
    /// Closes it.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn close(self) -> Result<()> {
        self.writer.close().await
    }
}

impl ConsoleReader {
    /// What the terminal showed next, raw bytes; `None` when the console was closed.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection ended without a close, [`Kind::Denied`] and the like when the service closed it
    /// with a reason.
    pub async fn read(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.0.next().await {
                Ok(Some(Frame::Data { payload, .. })) if payload.is_empty() => {}
                Ok(Some(Frame::Data { payload, .. })) => return Ok(Some(payload)),
                Ok(Some(Frame::Ping(_) | Frame::Pong(_))) => {}
                // 1000 and 1001 are how consoles end; without a code nothing is said against it.
                Ok(Some(Frame::Close {
                    code: None | Some(1000 | 1001 | 1005),
                    ..
                })) => return Ok(None),
                Ok(Some(Frame::Close { code, reason })) => {
                    let code = code.unwrap_or_default();
                    let kind = match code {
                        1008 => Kind::Denied,
                        1011..=1013 => Kind::Unavailable,
                        _ => Kind::Failed,
                    };
                    return Err(broken(kind, format!("the console was closed with {code}"))
                        .with_server_message(reason));
                }
                Ok(None) => return Err(broken(Kind::Transport, "the console's connection ended")),
                Err(e) => {
                    return Err(
                        broken(Kind::Transport, "the console's connection broke").with_source(e)
                    );
                }
            }
        }
    }
}

fn broken(kind: Kind, what: impl Into<String>) -> Error {
    Error::new(kind, what).with_operation(ops::OpenConsole::META.id)
}

impl ConsoleWriter {
    /// Sends keystrokes, in text frames as the service wants them; bytes that are no text in binary ones.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn write(&self, keys: impl AsRef<[u8]>) -> Result<()> {
        let keys = keys.as_ref();
        // Pasted text may look like the frame that resizes; its brace alone does not.
        let (first, rest) = match keys {
            [b'{', _, ..] => keys.split_at(1),
            _ => (keys, &[][..]),
        };
        for part in [first, rest] {
            // Frames of a server's usual limit.
            for part in part.chunks(256 * 1024) {
                let part = Bytes::copy_from_slice(part);
                let text = std::str::from_utf8(&part).is_ok();
                let frame = if text {
                    Frame::text(part)
                } else {
                    Frame::binary(part)
                };
                self.send(frame).await?;
            }
        }
        Ok(())
    }

    /// Tells a new size of the terminal.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn resize(&self, size: ConsoleSize) -> Result<()> {
        let ConsoleSize { cols, rows } = size;
        let text = format!(r#"{{"type":"resize","cols":{cols},"rows":{rows}}}"#);
        self.send(Frame::text(text)).await
    }

    /// Closes the console.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn close(&self) -> Result<()> {
        self.send(Frame::close(1000)).await
    }

    async fn send(&self, frame: Frame) -> Result<()> {
        let broke = |e| broken(Kind::Transport, "the console's connection broke").with_source(e);
        self.0.send(frame).await.map_err(broke)
    }
}
