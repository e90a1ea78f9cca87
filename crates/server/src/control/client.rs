//! A typed client of the control API.

use boxrig_wire::ws::{Frame, Reader, Writer};
use boxrig_wire::{
    ByteBody, ByteReply, CallOptions, Caller, Endpoint, Error, Json, JsonReply, Kind, Request,
    Result, Timeout, WireBody,
};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;

use super::exec::{
    CHANNEL_STDERR, CHANNEL_STDIN, CHANNEL_STDOUT, ExecControl, ExecEvent, ExecFailure, ExecStart,
    Size,
};
use super::ops::{
    AdvanceClock, DeleteInstanceFile, Exec, GetClock, GetDoctor, GetEnv, GetFaults, GetInfo,
    GetInstance, GetInstanceFile, GetInstanceLogs, GetInstanceStats, ListInstanceFiles,
    ListInstances, LoadState, LogQuery, MakeInstanceDir, PathQuery, PutFaults, PutInstanceFile,
    Reset, Restore, SaveState, Shutdown, StatInstanceFile, WriteQuery,
};
use super::types::{
    ClockView, FaultsView, FileView, Info, InstanceView, RestoreRequest, StatsView, StepClock,
};
use crate::env::Env;

/// A client of a server's control API, over a caller whose transport goes to the unix socket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlClient {
    caller: Caller,
    options: CallOptions,
}

type NoParts = boxrig_wire::NoParams;

macro_rules! request {
    ($path:expr, $query:expr, $body:expr) => {
        Request {
            path: $path,
            query: $query,
            headers: NoParts {},
            body: $body,
        }
    };
}

impl ControlClient {
    /// A client that sends through `caller`.
    pub fn new(caller: Caller) -> Self {
        Self {
            caller,
            options: CallOptions::default(),
        }
    }

    /// With other settings for its calls.
    pub fn with_options(mut self, options: CallOptions) -> Self {
        self.options = options;
        self
    }

    /// The caller underneath: raw requests, and the platforms' clients over the same socket.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    async fn json<E, T>(&self, request: Request<E>) -> Result<T>
    where
        E: Endpoint<Reply = JsonReply<T>>,
        T: serde::Serialize + serde::de::DeserializeOwned + Send,
    {
        Ok(self.caller.call(request, &self.options).await?.value)
    }

    /// Who the server is.
    ///
    /// # Errors
    ///
    /// Those of the way to the server.
    pub async fn info(&self) -> Result<Info> {
        self.json::<GetInfo, _>(request!((), NoParts {}, boxrig_wire::NoBody))
            .await
    }

    /// The environment for vendors' programs.
    ///
    /// # Errors
    ///
    /// Those of the way to the server.
    pub async fn env(&self) -> Result<Env> {
        self.json::<GetEnv, _>(request!((), NoParts {}, boxrig_wire::NoBody))
            .await
    }

    /// Ends the server; it answers first.
    ///
    /// # Errors
    ///
    /// Those of the way to the server.
    pub async fn shutdown(&self) -> Result<()> {
        let request = request!((), NoParts {}, boxrig_wire::NoBody);
        self.json::<Shutdown, _>(request).await.map(|_| ())
    }

    /// Deletes everything the server holds.
    ///
    /// # Errors
    ///
    /// When an instance cannot be deleted.
    pub async fn reset(&self) -> Result<()> {
        let request = request!((), NoParts {}, boxrig_wire::NoBody);
        self.json::<Reset, _>(request).await.map(|_| ())
    }

    /// The state as one document.
    ///
    /// # Errors
    ///
    /// A conflict while there are instances or snapshots.
    pub async fn save(&self) -> Result<Value> {
        self.json::<SaveState, _>(request!((), NoParts {}, boxrig_wire::NoBody))
            .await
    }

    /// Replaces the state by a saved one.
    ///
    /// # Errors
    ///
    /// A conflict while there are instances or snapshots; invalid when it is no saved state.
    pub async fn load(&self, state: Value) -> Result<()> {
        let request = request!((), NoParts {}, Json(state));
        self.json::<LoadState, _>(request).await.map(|_| ())
    }

    /// The faults in force, and the passes of crash points.
    ///
    /// # Errors
    ///
    /// Those of the way to the server.
    pub async fn faults(&self) -> Result<FaultsView> {
        self.json::<GetFaults, _>(request!((), NoParts {}, boxrig_wire::NoBody))
            .await
    }

    /// Replaces the fault script, `{"fault": […]}`.
    ///
    /// # Errors
    ///
    /// Invalid with the place in the script.
    pub async fn set_faults(&self, script: Value) -> Result<FaultsView> {
        self.json::<PutFaults, _>(request!((), NoParts {}, Json(script)))
            .await
    }

    /// The server's clock.
    ///
    /// # Errors
    ///
    /// Those of the way to the server.
    pub async fn clock(&self) -> Result<ClockView> {
        self.json::<GetClock, _>(request!((), NoParts {}, boxrig_wire::NoBody))
            .await
    }

    /// Moves a virtual clock forward.
    ///
    /// # Errors
    ///
    /// A conflict when the clock is the machine's.
    pub async fn advance_clock(&self, advance_ms: u64) -> Result<ClockView> {
        let body = Json(StepClock { advance_ms });
        self.json::<AdvanceClock, _>(request!((), NoParts {}, body))
            .await
    }

    /// Tries the engine step by step.
    ///
    /// # Errors
    ///
    /// Those of the way to the server; a step that fails is in the report.
    pub async fn doctor(&self) -> Result<Value> {
        self.json::<GetDoctor, _>(request!((), NoParts {}, boxrig_wire::NoBody))
            .await
    }

    /// All instances.
    ///
    /// # Errors
    ///
    /// Those of the way to the server.
    pub async fn instances(&self) -> Result<Vec<InstanceView>> {
        self.json::<ListInstances, _>(request!((), NoParts {}, boxrig_wire::NoBody))
            .await
    }

    /// One instance.
    ///
    /// # Errors
    ///
    /// Not found.
    pub async fn instance(&self, id: &str) -> Result<InstanceView> {
        let request = request!((id.to_owned(),), NoParts {}, boxrig_wire::NoBody);
        self.json::<GetInstance, _>(request).await
    }

    /// What an instance uses.
    ///
    /// # Errors
    ///
    /// Not found.
    pub async fn stats(&self, id: &str) -> Result<StatsView> {
        let request = request!((id.to_owned(),), NoParts {}, boxrig_wire::NoBody);
        self.json::<GetInstanceStats, _>(request).await
    }

    /// Puts an instance's files back to a snapshot's.
    ///
    /// # Errors
    ///
    /// Not found, for the instance or the snapshot.
    pub async fn restore(&self, id: &str, snapshot: &str) -> Result<InstanceView> {
        let body = Json(RestoreRequest {
            snapshot: snapshot.to_owned(),
        });
        self.json::<Restore, _>(request!((id.to_owned(),), NoParts {}, body))
            .await
    }

    /// A log, as a stream when `follow`.
    ///
    /// # Errors
    ///
    /// Not found.
    pub async fn logs(&self, id: &str, query: LogQuery) -> Result<ByteReply> {
        let options = self.options.clone().timeout(Timeout::Never);
        let request: Request<GetInstanceLogs> =
            request!((id.to_owned(),), query, boxrig_wire::NoBody);
        self.caller.call(request, &options).await
    }

    /// The content of a file, as a stream.
    ///
    /// # Errors
    ///
    /// Not found, denied by the file's mode, invalid for a folder.
    pub async fn read_file(&self, id: &str, path: &str) -> Result<ByteReply> {
        let query = path_query(path, None);
        let request: Request<GetInstanceFile> =
            request!((id.to_owned(),), query, boxrig_wire::NoBody);
        self.caller.call(request, &self.options).await
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    ///
    /// Not found, denied, no space left.
    pub async fn write_file(
        &self,
        id: &str,
        query: WriteQuery,
        content: WireBody,
    ) -> Result<FileView> {
        let body = ByteBody::from(content);
        self.json::<PutInstanceFile, _>(request!((id.to_owned(),), query, body))
            .await
    }

    /// Removes a file or an empty folder; a whole tree if `recursive`.
    ///
    /// # Errors
    ///
    /// Not found, conflict for a folder that is not empty.
    pub async fn remove(&self, id: &str, path: &str, recursive: bool) -> Result<()> {
        let query = path_query(path, Some(recursive));
        let request = request!((id.to_owned(),), query, boxrig_wire::NoBody);
        self.json::<DeleteInstanceFile, _>(request)
            .await
            .map(|_| ())
    }

    /// What a path names.
    ///
    /// # Errors
    ///
    /// Not found.
    pub async fn stat(&self, id: &str, path: &str, follow: bool) -> Result<FileView> {
        let query = path_query(path, Some(follow));
        let request = request!((id.to_owned(),), query, boxrig_wire::NoBody);
        self.json::<StatInstanceFile, _>(request).await
    }

    /// The entries of a folder, by name.
    ///
    /// # Errors
    ///
    /// Not found, invalid when it is no folder.
    pub async fn list_files(&self, id: &str, path: &str) -> Result<Vec<FileView>> {
        let query = path_query(path, None);
        let request = request!((id.to_owned(),), query, boxrig_wire::NoBody);
        self.json::<ListInstanceFiles, _>(request).await
    }

    /// Makes a folder; `query.parents` also those above it.
    ///
    /// # Errors
    ///
    /// Conflict when it is there.
    pub async fn make_dir(&self, id: &str, query: WriteQuery) -> Result<()> {
        let request = request!((id.to_owned(),), query, boxrig_wire::NoBody);
        self.json::<MakeInstanceDir, _>(request).await.map(|_| ())
    }

    /// Runs a command with all its streams.
    ///
    /// # Errors
    ///
    /// Not found for the instance. What keeps the command from starting is the session's first event.
    pub async fn exec(&self, id: &str, start: &ExecStart) -> Result<ExecSession> {
        let request: Request<Exec> = request!((id.to_owned(),), NoParts {}, boxrig_wire::NoBody);
        let socket = self
            .caller
            .call(request, &self.options)
            .await?
            .connected()?;
        let (reader, writer) = socket.split();
        // Not through the session: a reference to its reader cannot be held by a future that is sent.
        send_text(&writer, start).await?;
        Ok(ExecSession { reader, writer })
    }
}

fn path_query(path: &str, deep: Option<bool>) -> PathQuery {
    PathQuery {
        path: path.to_owned(),
        deep,
    }
}

/// A running command, on the client's side. Dropping it kills the command.
pub struct ExecSession {
    reader: Reader,
    writer: Writer,
}

/// What a running command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// It runs, with this process id inside.
    Started(u32),
    /// Standard output (with a terminal all output).
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// It ended: a code, or the signal that ended it. The last event.
    Exit {
        /// Exit code.
        code: Option<i32>,
        /// Signal.
        signal: Option<i32>,
    },
    /// It did not start. The last event.
    Failed(ExecFailure),
}

impl ExecSession {
    /// Both halves: events, and a handle for input and signals that can be cloned and used by other tasks.
    pub fn split(self) -> (ExecEvents, ExecInput) {
        (ExecEvents(self.reader), ExecInput(self.writer))
    }
}

impl std::fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExecSession")
    }
}

/// The events of a running command.
pub struct ExecEvents(Reader);

impl std::fmt::Debug for ExecEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExecEvents")
    }
}

impl ExecEvents {
    /// The next event. Safe to drop and call again.
    ///
    /// # Errors
    ///
    /// When the connection ends before the command's end is known.
    pub async fn next(&mut self) -> Result<SessionEvent> {
        loop {
            let frame = self.0.next().await.map_err(broken)?;
            match frame {
                Some(Frame::Data {
                    text: true,
                    payload,
                    ..
                }) => {
                    let event = serde_json::from_slice(&payload).map_err(|e| {
                        Error::new(Kind::Protocol, "unknown exec event")
                            .with_operation(Exec::META.id)
                            .with_source(e)
                    })?;
                    return Ok(match event {
                        ExecEvent::Started { pid } => SessionEvent::Started(pid),
                        ExecEvent::Error(failure) => SessionEvent::Failed(failure),
                        ExecEvent::Exit { code, signal } => SessionEvent::Exit { code, signal },
                    });
                }
                Some(Frame::Data { payload, .. }) => match payload.first() {
                    Some(&CHANNEL_STDOUT) => return Ok(SessionEvent::Stdout(payload.slice(1..))),
                    Some(&CHANNEL_STDERR) => return Ok(SessionEvent::Stderr(payload.slice(1..))),
                    _ => {}
                },
                Some(Frame::Ping(_) | Frame::Pong(_)) => {}
                Some(Frame::Close { .. }) | None => {
                    return Err(Error::new(
                        Kind::OutcomeUnknown,
                        "the connection ended before the command's end was known",
                    )
                    .with_operation(Exec::META.id));
                }
            }
        }
    }
}

/// Input, signals and terminal size of a running command. Clones send to the same command.
#[derive(Clone)]
pub struct ExecInput(Writer);

impl std::fmt::Debug for ExecInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExecInput")
    }
}

impl ExecInput {
    /// Sends standard input; waits while the command does not take it.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub async fn write(&self, data: &[u8]) -> Result<()> {
        // An empty frame would be the end of input; large ones are cut to the size of a frame.
        for chunk in data.chunks(64 * 1024) {
            self.stdin(chunk).await?;
        }
        Ok(())
    }

    /// Ends standard input.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub async fn close(&self) -> Result<()> {
        self.stdin(&[]).await
    }

    async fn stdin(&self, data: &[u8]) -> Result<()> {
        let mut frame = BytesMut::with_capacity(1 + data.len());
        frame.put_u8(CHANNEL_STDIN);
        frame.put_slice(data);
        let frame = Frame::binary(frame.freeze());
        self.0.send(frame).await.map_err(broken)
    }

    /// Sends a signal, by its Linux number, to the command's process group.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub async fn signal(&self, signal: i32) -> Result<()> {
        send_text(&self.0, &ExecControl::Signal(signal)).await
    }

    /// Tells the terminal its size.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<()> {
        send_text(&self.0, &ExecControl::Resize(Size { rows, cols })).await
    }
}

async fn send_text(writer: &Writer, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_vec(value)
        .map_err(|e| Error::new(Kind::Invalid, "the frame cannot be written").with_source(e))?;
    writer.send(Frame::text(text)).await.map_err(broken)
}

fn broken(e: std::io::Error) -> Error {
    Error::new(Kind::Transport, "the connection of the command broke")
        .with_operation(Exec::META.id)
        .with_source(e)
}
