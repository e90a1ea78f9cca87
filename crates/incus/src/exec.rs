//! Running a command in an instance: one request, then a socket per stream.

use std::collections::BTreeMap;

use boxrig_wire::ws::{Frame, Reader, Writer};
use boxrig_wire::{CallOptions, Error, Json, Kind, Request, Result, Timeout};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};

use crate::envelope::Async;
use crate::models::{InstanceExecPost, Operation};
use crate::ops::queries::{self, ProjectQuery};
use crate::{Client, ops};

impl InstanceExecPost {
    /// Runs `command` without a terminal, with its streams on sockets.
    pub fn streams<I, S>(command: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            wait_for_websocket: true,
            ..Self::default()
        }
    }

    /// Runs `command` on a terminal of that size.
    pub fn terminal<I, S>(command: I, size: WindowSize) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            interactive: true,
            width: size.width.into(),
            height: size.height.into(),
            ..Self::streams(command)
        }
    }
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A signal by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(pub i32);

/// The secrets of an exec's sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSockets {
    /// Socket name (`0`, `1`, `2`, `control`) to secret.
    pub fds: BTreeMap<String, String>,
}

impl ExecSockets {
    /// Reads them from the operation that an exec made.
    pub fn of(operation: &Operation) -> Option<Self> {
        let fds = operation.metadata.get("fds")?.as_object()?;
        let fds = fds
            .iter()
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect();
        Some(Self { fds })
    }
}

/// What a running command says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// Standard output; with a terminal, everything.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
}

/// A running command. Read [`output`](Self::output) to its end, then ask for the [`exit_code`](Self::exit_code).
#[derive(Debug)]
pub struct ExecSession {
    client: Client,
    operation: String,
    stdin: Option<Writer0>,
    control: Option<Writer0>,
    readers: Vec<(&'static str, Reader0)>,
    interactive: bool,
}

/// Newtypes so that the session can be printed without its sockets.
struct Writer0(Writer);
struct Reader0(Reader);
impl std::fmt::Debug for Writer0 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}
impl std::fmt::Debug for Reader0 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Client {
    /// Runs a command with its streams on sockets, which are connected at the same time: the server
    /// gives them only a few seconds. Never sent twice.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when `post` does not ask for sockets; else the server's.
    pub async fn exec(
        &self,
        instance: &str,
        query: ProjectQuery,
        post: InstanceExecPost,
    ) -> Result<ExecSession> {
        if !post.wait_for_websocket || post.record_output {
            return Err(Error::new(
                Kind::Invalid,
                "this exec needs sockets: InstanceExecPost::streams or ::terminal",
            ));
        }
        let interactive = post.interactive;
        let request = Request::<ops::instances::InstanceExecPost> {
            path: (instance.to_owned(),),
            query,
            headers: Default::default(),
            body: Json(post),
        };
        let Async(operation) = self.caller().call(request, &CallOptions::new()).await?;
        let sockets = ExecSockets::of(&operation)
            .ok_or_else(|| Error::new(Kind::Protocol, "the exec answer names no sockets"))?;
        let connect = sockets.fds.into_iter().map(|(name, secret)| {
            let id = operation.id.clone();
            async move {
                let request = Request::<ops::server::OperationWebsocketGet> {
                    path: (id,),
                    query: queries::SecretQuery {
                        secret: Some(secret),
                    },
                    headers: Default::default(),
                    body: Default::default(),
                };
                let socket = self
                    .caller()
                    .call(request, &CallOptions::new())
                    .await?
                    .connected()?;
                Ok::<_, Error>((name, socket))
            }
        });
        let connected = futures_util::future::try_join_all(connect).await?;
        let mut session = ExecSession {
            client: self.clone(),
            operation: operation.id,
            stdin: None,
            control: None,
            readers: Vec::new(),
            interactive,
        };
        for (name, socket) in connected {
            let (reader, writer) = socket.split();
            let name = match name.as_str() {
                "0" => {
                    session.stdin = Some(Writer0(writer));
                    "0"
                }
                "control" => {
                    session.control = Some(Writer0(writer));
                    "control"
                }
                "1" => "1",
                _ => "2",
            };
            session.readers.push((name, Reader0(reader)));
        }
        Ok(session)
    }
}

impl ExecSession {
    /// Sends input.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn write(&self, bytes: impl Into<Bytes>) -> Result<()> {
        send(self.stdin.as_ref(), Frame::binary(bytes)).await
    }

    /// Ends the input: an empty text frame.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn end_input(&self) -> Result<()> {
        send(self.stdin.as_ref(), Frame::text(Bytes::new())).await
    }

    /// Sends a signal to the command.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        let text = json!({"command": "signal", "signal": signal.0}).to_string();
        send(self.control.as_ref(), Frame::text(text)).await
    }

    /// Tells the terminal's new size; the numbers travel as strings.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`] without a terminal; [`Kind::Transport`] when the connection is broken.
    pub async fn resize(&self, size: WindowSize) -> Result<()> {
        if !self.interactive {
            return Err(Error::new(
                Kind::Unsupported,
                "there is no terminal to resize",
            ));
        }
        let args = json!({"width": size.width.to_string(), "height": size.height.to_string()});
        let text = json!({"command": "window-resize", "args": args}).to_string();
        send(self.control.as_ref(), Frame::text(text)).await
    }

    /// The output, once. All sockets are read meanwhile, so that every ping is answered; it ends when
    /// the output streams have ended, which they do without a close frame.
    pub fn output(&mut self) -> impl Stream<Item = Result<ExecEvent>> + Send + use<> {
        let readers = std::mem::take(&mut self.readers);
        let interactive = self.interactive;
        let (data, side): (Vec<_>, Vec<_>) = readers.into_iter().partition(|(name, _)| {
            matches!((*name, interactive), ("1" | "2", false) | ("0", true))
        });
        let data = stream::select_all(data.into_iter().map(|(name, reader)| {
            Box::pin(frames(reader.0).map(move |r| {
                r.map(|b| {
                    if name == "2" {
                        ExecEvent::Stderr(b)
                    } else {
                        ExecEvent::Stdout(b)
                    }
                })
            }))
        }));
        // Stdin and control say nothing; they are read for their pings, as long as there is output.
        let side = stream::select_all(
            side.into_iter()
                .map(|(_, reader)| Box::pin(frames(reader.0).filter_map(|_| async { None }))),
        );
        until_left_ends(data, side)
    }

    /// Waits for the command's end and gives its code: `128 + n` after signal `n`. Call it after the output was read.
    ///
    /// # Errors
    ///
    /// The operation's failure, such as [`Kind::NotFound`] for a program that does not exist.
    pub async fn exit_code(self) -> Result<i32> {
        if let (true, Some(stdin)) = (self.interactive, &self.stdin) {
            // With a terminal the operation ends only when the client closes its socket too.
            let _ = stdin.0.send(Frame::close(1000)).await;
            let _ = stdin.0.shutdown().await;
        }
        let request = Request::<ops::server::OperationWaitGet> {
            path: (self.operation,),
            query: queries::SecretTimeoutQuery {
                timeout: Some(-1),
                secret: None,
            },
            headers: Default::default(),
            body: Default::default(),
        };
        let reply = self
            .client
            .caller()
            .call(request, &CallOptions::new().timeout(Timeout::Never))
            .await?;
        let operation = reply.metadata.succeeded()?;
        operation
            .metadata
            .get("return")
            .and_then(Value::as_i64)
            .and_then(|n| i32::try_from(n).ok())
            .ok_or_else(|| Error::new(Kind::Protocol, "the operation has no exit code"))
    }
}

async fn send(writer: Option<&Writer0>, frame: Frame) -> Result<()> {
    let writer =
        writer.ok_or_else(|| Error::new(Kind::Unsupported, "the exec has no such socket"))?;
    writer.0.send(frame).await.map_err(broken)
}

fn broken(e: std::io::Error) -> Error {
    Error::new(Kind::Transport, "the socket broke").with_source(e)
}

/// The data of one socket: until an empty text frame, a close, or an abrupt end, none of which is an
/// error here.
fn frames(reader: Reader) -> impl Stream<Item = Result<Bytes>> + Send {
    stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        loop {
            match reader.next().await {
                Ok(Some(Frame::Data {
                    text: true,
                    payload,
                    ..
                })) if payload.is_empty() => return None,
                Ok(Some(Frame::Data { payload, .. })) if payload.is_empty() => {}
                Ok(Some(Frame::Data { payload, .. })) => return Some((Ok(payload), Some(reader))),
                Ok(Some(Frame::Ping(_) | Frame::Pong(_))) => {}
                Ok(None | Some(Frame::Close { .. })) => return None,
                Err(e) if is_abrupt(&e) => return None,
                Err(e) => return Some((Err(broken(e)), None)),
            }
        }
    })
}

/// The daemon drops the connection at the end, perhaps while a pong is being written.
fn is_abrupt(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        e.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

/// Both streams polled, ending with the left one.
fn until_left_ends<T: Send>(
    left: impl Stream<Item = T> + Send + Unpin,
    right: impl Stream<Item = T> + Send + Unpin,
) -> impl Stream<Item = T> + Send {
    let left = left.map(Some).chain(stream::once(async { None }));
    let right = right.map(Some).chain(stream::pending());
    stream::select(Box::pin(left), Box::pin(right)).scan((), |(), item| async move { item })
}
