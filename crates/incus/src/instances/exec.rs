//! Running commands in an instance: one request, then a socket per stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use boxrig_wire::ws::{Frame, Reader, WebSocket, Writer};
use boxrig_wire::{Error, Json, Kind, NoBody, Operation, Result};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::Instances;
use crate::client::{Client, Parts};
use crate::models::{self, InstanceExecPost};
use crate::ops::{instance_files, instances, server};

/// A command to run.
///
/// ```
/// use boxrig_incus::Exec;
/// let exec = Exec::new(["sh", "-c", "echo $A"]).env("A", "1").cwd("/tmp").user(1000).group(1000);
/// ```
#[derive(Clone, Debug)]
pub struct Exec {
    post: InstanceExecPost,
}

impl Exec {
    /// The command and its arguments, as they are: no shell is between.
    pub fn new<I, S>(command: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let post = InstanceExecPost {
            command: command.into_iter().map(Into::into).collect(),
            ..InstanceExecPost::default()
        };
        Self { post }
    }
    /// Sets an environment variable. The server adds `PATH`, `LANG` and, for root, `HOME` and `USER`.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.post.environment.insert(name.into(), value.into());
        self
    }
    /// The directory it runs in.
    pub fn cwd(mut self, path: impl Into<String>) -> Self {
        self.post.cwd = path.into();
        self
    }
    /// The user id it runs as; 0 by default.
    pub fn user(mut self, uid: u32) -> Self {
        self.post.user = uid;
        self
    }
    /// The group id it runs as; 0 by default.
    pub fn group(mut self, gid: u32) -> Self {
        self.post.group = gid;
        self
    }
    /// On a terminal of this size: one stream both ways, line editing, Ctrl-C.
    pub fn terminal(mut self, size: WindowSize) -> Self {
        self.post.interactive = true;
        self.post.width = size.width.into();
        self.post.height = size.height.into();
        self
    }
    /// Whether it runs on a terminal.
    pub fn is_terminal(&self) -> bool {
        self.post.interactive
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

/// A signal by its Linux number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(pub i32);

/// The secrets of an operation's sockets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ExecSockets {
    /// Socket name (`0`, `1`, `2`, `control`) to secret.
    pub fds: BTreeMap<String, String>,
}

impl std::fmt::Debug for ExecSockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.fds.keys()).finish()
    }
}

impl ExecSockets {
    /// Reads them from the operation that an exec or a console made.
    pub fn of(operation: &models::Operation) -> Option<Self> {
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

/// What a command has said, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecOutput {
    /// Its exit code: `128 + n` after signal `n`.
    pub code: i32,
    /// Standard output; with a terminal, everything.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// The exit code that shells give a command that could not be run: 127 for one that is not there, 126 for one that cannot
/// be executed. `None` for every other error.
pub fn exec_code(e: &Error) -> Option<i32> {
    let text = e.server_message()?.raw();
    if text.contains("Command not found") {
        Some(127)
    } else if text.contains("Command not executable") {
        Some(126)
    } else {
        None
    }
}

impl Instances<'_> {
    /// Runs a command with its streams on sockets, which are connected at the same time: the server gives them only a few
    /// seconds. Never sent twice.
    ///
    /// # Errors
    ///
    /// The server's: [`Kind::NotFound`] without such an instance, [`Kind::Conflict`] for one that does not run.
    pub async fn exec(&self, instance: &str, exec: Exec) -> Result<ExecSession> {
        let interactive = exec.post.interactive;
        let mut post = exec.post;
        post.wait_for_websocket = true;
        post.record_output = false;
        let client = self.client();
        let operation = client
            .send::<instances::InstanceExecPost>(Parts::new(&[instance]), Json(post))
            .await?
            .0;
        let sockets = ExecSockets::of(&operation)
            .ok_or_else(|| Error::new(Kind::Protocol, "the exec answer names no sockets"))?;
        ExecSession::connect(client, operation.id, sockets, interactive).await
    }

    /// Runs a command to its end, with `input` as its standard input, and gives all that it says. What is large is better
    /// read from [`exec`](Self::exec) as it comes.
    ///
    /// # Errors
    ///
    /// As [`exec`](Self::exec) and [`ExecSession::exit_code`]; see [`exec_code`] for commands that cannot be run.
    pub async fn run(
        &self,
        instance: &str,
        exec: Exec,
        input: impl Into<Bytes>,
    ) -> Result<ExecOutput> {
        let mut session = self.exec(instance, exec).await?;
        let mut input = input.into();
        let mut output = Box::pin(session.output());
        let writer = session.input();
        let feed = async {
            // A command that does not read its input is no failure of ours.
            while !input.is_empty() {
                let chunk = input.split_to(input.len().min(CHUNK));
                if writer.write(chunk).await.is_err() {
                    return;
                }
            }
            let _ = writer.end().await;
        };
        let read = async {
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            while let Some(event) = output.next().await {
                match event? {
                    ExecEvent::Stdout(b) => stdout.extend_from_slice(&b),
                    ExecEvent::Stderr(b) => stderr.extend_from_slice(&b),
                }
            }
            Ok::<_, Error>((stdout, stderr))
        };
        let (stdout, stderr) = {
            let feed = std::pin::pin!(feed);
            let read = std::pin::pin!(read);
            use futures_util::future::Either;
            // The output decides: input that nobody reads is not waited for.
            match futures_util::future::select(read, feed).await {
                Either::Left((read, _)) => read?,
                Either::Right(((), read)) => read.await?,
            }
        };
        drop(output);
        Ok(ExecOutput {
            code: session.exit_code().await?,
            stdout,
            stderr,
        })
    }

    /// Runs a command whose output the server records, then fetches the records and deletes them. For ways that have no
    /// websockets.
    ///
    /// # Errors
    ///
    /// As [`exec`](Self::exec); [`Kind::Invalid`] with a terminal, which the server does not record.
    pub async fn run_recorded(&self, instance: &str, exec: Exec) -> Result<ExecOutput> {
        if exec.post.interactive {
            return Err(Error::new(
                Kind::Invalid,
                "output on a terminal is not recorded",
            ));
        }
        let mut post = exec.post;
        post.record_output = true;
        let operation = self
            .client()
            .finish::<instances::InstanceExecPost>(Parts::new(&[instance]), Json(post))
            .await?;
        let code = return_code(&operation)?;
        let mut texts = [Vec::new(), Vec::new()];
        for (fd, text) in ["1", "2"].iter().zip(&mut texts) {
            let record = operation
                .metadata
                .get("output")
                .and_then(|output| output.get(fd))
                .and_then(Value::as_str)
                .and_then(|url| url.rsplit('/').next());
            let Some(record) = record else { continue };
            let record = percent_decoded(record);
            let path = [instance, &*record];
            let reply = self
                .client()
                .get::<instance_files::InstanceExecOutputGet>(&path)
                .await?;
            let body = reply.body.collect(1 << 30).await.map_err(|e| {
                Error::new(Kind::Transport, "the recorded output could not be read").with_source(e)
            })?;
            *text = body.to_vec();
            self.client()
                .get::<instance_files::InstanceExecOutputDelete>(&path)
                .await?;
        }
        let [stdout, stderr] = texts;
        Ok(ExecOutput {
            code,
            stdout,
            stderr,
        })
    }

    /// Starts a command whose output is lost; the operation ends with its exit code.
    ///
    /// # Errors
    ///
    /// As [`exec`](Self::exec).
    pub async fn spawn(&self, instance: &str, exec: Exec) -> Result<Operation<i32>> {
        let mut post = exec.post;
        post.wait_for_websocket = false;
        post.record_output = false;
        self.client()
            .begin::<instances::InstanceExecPost, _>(Parts::new(&[instance]), Json(post), |end| {
                Box::pin(async move { return_code(&end) })
            })
            .await
    }
}

/// Names on the server hold no percent signs but those of the encoding.
fn percent_decoded(text: &str) -> String {
    text.replace("%20", " ")
}

fn return_code(operation: &models::Operation) -> Result<i32> {
    operation
        .metadata
        .get("return")
        .and_then(Value::as_i64)
        .and_then(|n| i32::try_from(n).ok())
        .ok_or_else(|| Error::new(Kind::Protocol, "the operation has no exit code"))
}

/// Input travels in pieces of this size.
const CHUNK: usize = 64 * 1024;

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct Bound<T>(pub(super) JoinHandle<T>);

impl<T> Drop for Bound<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A running command. Read [`output`](Self::output) to its end, then ask for the [`exit_code`](Self::exit_code). Dropping it kills the command: the
/// server does so when the control socket goes.
pub struct ExecSession {
    operation: String,
    input: ExecInput,
    control: Option<Writer>,
    /// Behind a lock so that a session can be shared; only its owner takes them.
    data: Mutex<Vec<(bool, Reader)>>,
    interactive: bool,
    /// Says how an output stream ended without its end mark: the connection broke.
    cut: Cut,
    /// Reads what says nothing (input, control), so that its pings are answered.
    _side: Vec<Bound<()>>,
    /// Asks for the end from the start, so that the server has not forgotten it when the output has been read.
    end: Bound<Result<models::Operation>>,
}

impl std::fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecSession")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

/// The input of a running command; clones feed the same one.
#[derive(Clone)]
pub struct ExecInput(Option<Writer>);

impl std::fmt::Debug for ExecInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExecInput")
    }
}

impl ExecInput {
    /// Sends input. Waits while the command does not take it.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the command has ended or the connection is broken.
    pub async fn write(&self, bytes: impl Into<Bytes>) -> Result<()> {
        let mut bytes = bytes.into();
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK));
            send(self.0.as_ref(), Frame::binary(chunk)).await?;
        }
        Ok(())
    }

    /// Ends the input: an empty text frame.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub async fn end(&self) -> Result<()> {
        send(self.0.as_ref(), Frame::text(Bytes::new())).await
    }
}

/// Connects one socket of an operation.
pub(super) async fn socket(client: &Client, operation: &str, secret: &str) -> Result<WebSocket> {
    let parts = Parts::new(&[operation]).query("secret", secret);
    client
        .send::<server::OperationWebsocketGet>(parts, NoBody)
        .await?
        .connected()
}

impl ExecSession {
    async fn connect(
        client: &Client,
        operation: String,
        sockets: ExecSockets,
        interactive: bool,
    ) -> Result<Self> {
        let connect = sockets.fds.into_iter().map(|(name, secret)| {
            let operation = &operation;
            async move {
                match socket(client, operation, &secret).await {
                    Ok(socket) => Ok::<_, Error>(Some((name, socket))),
                    // Without a terminal the server does not wait for this one: a short command is over before it is connected.
                    Err(e) if name == "control" && !interactive && e.status().is_some() => {
                        match client.is_over(operation).await {
                            true => Ok(None),
                            false => Err(e),
                        }
                    }
                    Err(e) => Err(e),
                }
            }
        });
        let connected = futures_util::future::try_join_all(connect).await?;
        let connected = connected.into_iter().flatten();
        let (waiter, id) = (client.clone(), operation.clone());
        let end = Bound(tokio::spawn(async move { waiter.wait_for(&id).await }));
        let mut session = Self {
            operation,
            input: ExecInput(None),
            control: None,
            data: Mutex::default(),
            interactive,
            cut: Arc::default(),
            _side: Vec::new(),
            end,
        };
        for (name, socket) in connected {
            let (mut reader, writer) = socket.split();
            // The server never reads the sockets of the output. What lies unread there when it closes them, as it does right
            // at the command's end, makes the kernel drop what the server has written and we have not read yet: an answered
            // ping costs the output of a short command. Their pings are read, and not answered.
            reader.answer_pings(interactive || matches!(&*name, "0" | "control"));
            match (&*name, interactive) {
                ("0", true) => {
                    session.input = ExecInput(Some(writer));
                    session.data().push((false, reader));
                }
                ("0", false) => {
                    session.input = ExecInput(Some(writer));
                    session.side(reader);
                }
                ("control", _) => {
                    session.control = Some(writer);
                    session.side(reader);
                }
                ("2", _) => session.data().push((true, reader)),
                _ => session.data().push((false, reader)),
            }
        }
        Ok(session)
    }

    fn data(&mut self) -> &mut Vec<(bool, Reader)> {
        self.data.get_mut().unwrap_or_else(|e| e.into_inner())
    }

    fn side(&mut self, reader: Reader) {
        self._side.push(Bound(tokio::spawn(silent(reader))));
    }

    /// The id of the operation behind it.
    pub fn operation(&self) -> &str {
        &self.operation
    }

    /// The input, to be fed from another task.
    pub fn input(&self) -> ExecInput {
        self.input.clone()
    }

    /// Sends input; see [`ExecInput::write`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn write(&self, bytes: impl Into<Bytes>) -> Result<()> {
        self.input.write(bytes).await
    }

    /// Ends the input; see [`ExecInput::end`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn end_input(&self) -> Result<()> {
        self.input.end().await
    }

    /// Says signals and sizes to the command, from another task.
    pub fn control(&self) -> ExecControl {
        ExecControl {
            writer: self.control.clone(),
            interactive: self.interactive,
        }
    }

    /// Sends a signal to the command.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        self.control().signal(signal).await
    }

    /// Tells the terminal's new size.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`] without a terminal; [`Kind::Transport`] when the connection is broken.
    pub async fn resize(&self, size: WindowSize) -> Result<()> {
        self.control().resize(size).await
    }

    /// The output, once; it ends when the command's streams have ended.
    pub fn output(&mut self) -> impl Stream<Item = Result<ExecEvent>> + Send + use<> {
        let data = std::mem::take(self.data());
        stream::select_all(data.into_iter().map(|(is_stderr, reader)| {
            Box::pin(frames(reader, self.cut.clone()).map(move |frame| {
                frame.map(|bytes| match is_stderr {
                    true => ExecEvent::Stderr(bytes),
                    false => ExecEvent::Stdout(bytes),
                })
            }))
        }))
    }

    /// Waits for the command's end and gives its code: `128 + n` after signal `n`. Call it after the output was read.
    ///
    /// # Errors
    ///
    /// The operation's failure, such as [`Kind::NotFound`] for a program that does not exist; [`Kind::OutcomeUnknown`] when the server has been
    /// started again meanwhile; [`Kind::Transport`] when output was lost because a connection broke.
    pub async fn exit_code(mut self) -> Result<i32> {
        if let (true, Some(input)) = (self.interactive, &self.input.0) {
            // With a terminal the operation ends only when the client closes its socket too.
            let _ = input.send(Frame::close(1000)).await;
            let _ = input.shutdown().await;
        }
        let end = (&mut self.end.0).await.map_err(|e| {
            Error::new(Kind::Failed, "the task that waits for the end died").with_source(e)
        })??;
        let code = return_code(&end.succeeded()?)?;
        if let Some(how) = self.cut.get() {
            return Err(Error::new(
                Kind::Transport,
                format!(
                    "a connection broke and output may be lost ({how}); the command ended with code {code}"
                ),
            )
            .with_retryable(false));
        }
        Ok(code)
    }
}

/// Signals and terminal sizes for a running command.
#[derive(Clone)]
pub struct ExecControl {
    pub(super) writer: Option<Writer>,
    pub(super) interactive: bool,
}

impl std::fmt::Debug for ExecControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExecControl")
    }
}

impl ExecControl {
    /// Sends a signal to the command.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        let text = json!({"command": "signal", "signal": signal.0}).to_string();
        send(self.writer.as_ref(), Frame::text(text)).await
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
        send(self.writer.as_ref(), Frame::text(text)).await
    }
}

pub(super) async fn send(writer: Option<&Writer>, frame: Frame) -> Result<()> {
    let writer = writer.ok_or_else(|| Error::new(Kind::Unsupported, "there is no such socket"))?;
    writer.send(frame).await.map_err(broken)
}

fn broken(e: std::io::Error) -> Error {
    Error::new(Kind::Transport, "the socket broke").with_source(e)
}

/// Reads a socket that says nothing until it ends; its pings are answered by that.
pub(super) async fn silent(mut reader: Reader) {
    while let Ok(Some(frame)) = reader.next().await {
        if matches!(frame, Frame::Close { .. }) {
            return;
        }
    }
}

/// How an output stream ended that had no end mark.
pub(super) type Cut = Arc<OnceLock<String>>;

/// The data of one socket: until an empty text frame, a close, or an abrupt end, none of which is an error here. An end
/// without the empty frame sets `cut`: whether that matters is known when the operation has ended.
pub(super) fn frames(reader: Reader, cut: Cut) -> impl Stream<Item = Result<Bytes>> + Send {
    stream::unfold(Some((reader, cut, 0_u64)), |state| async move {
        let (mut reader, cut, bytes) = state?;
        loop {
            match reader.next().await {
                Ok(Some(Frame::Data {
                    text: true,
                    payload,
                    ..
                })) if payload.is_empty() => return None,
                Ok(Some(Frame::Data { payload, .. })) if payload.is_empty() => {}
                Ok(Some(Frame::Data { payload, .. })) => {
                    let bytes = bytes + payload.len() as u64;
                    return Some((Ok(payload), Some((reader, cut, bytes))));
                }
                Ok(Some(Frame::Ping(_) | Frame::Pong(_))) => {}
                Ok(None) => {
                    let _ = cut.set(format!("after {bytes} bytes, without an end"));
                    return None;
                }
                Ok(Some(Frame::Close { code, .. })) => {
                    let _ = cut.set(format!("after {bytes} bytes, closed with {code:?}"));
                    return None;
                }
                Err(e) if is_abrupt(&e) => {
                    let _ = cut.set(format!("after {bytes} bytes: {e}"));
                    return None;
                }
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
