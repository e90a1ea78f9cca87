//! Running a command in a process: options in headers, output and exit code on one socket.

use std::collections::VecDeque;
use std::pin::Pin;

use boxrig_wire::{Error, Kind, Result, Untrusted, WebSocket};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};

use super::groups::two;
use super::socket::{Said, SocketInput, Talk, broken, open};
use super::{Instances, Parts, Processes};
use crate::models::Process;
use crate::ops::instances::{InstanceShell, InstanceShellHeaders};
use crate::ops::processes::{ProcessExec, ProcessExecHeaders, ProcessRunHeaders};
use crate::{Client, Trailer};

/// What an exec's socket says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// Output: what the command wrote, errors and output together.
    Output(Bytes),
    /// The command ended with this code.
    Exit(i32),
}

/// A running command. Dropping it ends the connection.
#[derive(Debug)]
pub struct ExecSession {
    socket: WebSocket,
    operation: &'static str,
}

/// What an exec gives: its input side and its output.
pub type ExecOutput = (SocketInput, ExecEvents);

/// The output of an exec as it comes.
pub type ExecEvents = Pin<Box<dyn Stream<Item = Result<ExecEvent>> + Send>>;

impl Client {
    /// Runs a command in a process; see [`Processes::exec`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn exec(
        &self,
        app: &str,
        pid: &str,
        options: ProcessExecHeaders,
    ) -> Result<ExecSession> {
        self.processes().exec(app, pid, options).await
    }
}

impl Processes<'_> {
    /// Runs a command in a process. Without `tty` saying otherwise the rack gives it a terminal. The command goes through
    /// a shell's eyes on the rack: quote what must stay one word. Never sent twice.
    ///
    /// # Errors
    ///
    /// Those before the upgrade; the rack's own come as the first thing on the socket and are given by the
    /// output stream.
    pub async fn exec(
        &self,
        app: &str,
        process: &str,
        options: ProcessExecHeaders,
    ) -> Result<ExecSession> {
        let request = Parts::<ProcessExec> {
            path: two(app, process),
            headers: options,
            ..Default::default()
        };
        let socket = self.client.send(request, &self.options).await?;
        Ok(ExecSession {
            socket,
            operation: "ProcessExec",
        })
    }

    /// Starts a one-off process of a service, waits until it runs, and runs a command in it with the image's entrypoint,
    /// as the vendor's tool does. [`AttachedRun::stop`] removes the process; dropping does so when it can, and the process
    /// ends by itself after `settings.lifetime`.
    ///
    /// # Errors
    ///
    /// [`Kind::Failed`] when the process ends before it runs, [`Kind::Timeout`] when it does not come to that; else the
    /// rack's.
    pub async fn run_attached(
        &self,
        app: &str,
        service: &str,
        settings: RunAttached,
    ) -> Result<AttachedRun> {
        let mut process = settings.process;
        process.command = Some(format!("sleep {}", settings.lifetime.as_secs().max(1)));
        let started = self.run(app, service, process).await?;
        let one_off = OneOff {
            client: Some(self.client.clone()),
            app: app.to_owned(),
            id: started.id.clone(),
        };
        let limit = tokio::time::Instant::now() + settings.wait;
        let mut now = started;
        while now.status != "running" {
            if matches!(
                &*now.status,
                "failed" | "complete" | "crashed" | "stopped" | "unhealthy"
            ) {
                let error = Error::new(
                    Kind::Failed,
                    format!(
                        "the process {} is {} before it ran",
                        Untrusted::new(&*now.id),
                        Untrusted::new(&*now.status)
                    ),
                );
                return Err(error
                    .with_operation("ProcessRun")
                    .with_hint(format!("`boxrig why {app}` looks for the reason")));
            }
            if tokio::time::Instant::now() >= limit {
                let error = Error::new(
                    Kind::Timeout,
                    format!(
                        "the process {} is still {}",
                        Untrusted::new(&*now.id),
                        Untrusted::new(&*now.status)
                    ),
                );
                return Err(error.with_operation("ProcessRun"));
            }
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            now = self.get(app, &now.id).await?;
        }
        let mut exec = settings.exec;
        exec.entrypoint = Some(true);
        let session = self.exec(app, &now.id, exec).await?;
        Ok(AttachedRun {
            process: now,
            session,
            one_off,
        })
    }
}

impl Instances<'_> {
    /// A shell on a machine under the rack, or a command there.
    ///
    /// # Errors
    ///
    /// As [`Processes::exec`].
    pub async fn shell(
        &self,
        instance: &str,
        settings: InstanceShellHeaders,
    ) -> Result<ExecSession> {
        let request = Parts::<InstanceShell> {
            path: (instance.to_owned(),),
            headers: settings,
            ..Default::default()
        };
        let socket = self.client.send(request, &self.options).await?;
        Ok(ExecSession {
            socket,
            operation: "InstanceShell",
        })
    }
}

/// Settings of an attached one-off run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunAttached {
    /// The command, its terminal and its size.
    pub exec: ProcessExecHeaders,
    /// The process that it runs in: release, sizes, environment. Its command is set by the run.
    pub process: ProcessRunHeaders,
    /// How long the process may be there, an hour by default.
    pub lifetime: std::time::Duration,
    /// How long it may take until it runs, five minutes by default.
    pub wait: std::time::Duration,
}

impl RunAttached {
    /// A command with a terminal, as racks have it by default.
    pub fn new(command: impl Into<String>) -> Self {
        Self {
            exec: ProcessExecHeaders {
                command: command.into(),
                ..Default::default()
            },
            process: ProcessRunHeaders::default(),
            lifetime: std::time::Duration::from_secs(3600),
            wait: std::time::Duration::from_secs(300),
        }
    }
}

/// An attached one-off run.
#[derive(Debug)]
pub struct AttachedRun {
    /// The process it runs in.
    pub process: Process,
    session: ExecSession,
    one_off: OneOff,
}

impl AttachedRun {
    /// Input and output of the command, and what removes the process: keep it until the end.
    pub fn split(self) -> (SocketInput, ExecEvents, OneOff) {
        let (input, events) = self.session.split();
        (input, events, self.one_off)
    }

    /// Waits for the end without input, keeps at most `limit` bytes of output, removes the process; gives output and
    /// exit code.
    ///
    /// # Errors
    ///
    /// [`Kind::OutcomeUnknown`] when the stream ends without a code, [`Kind::Quota`] past the limit.
    pub async fn output(self, limit: usize) -> Result<(Vec<u8>, i32)> {
        let (input, events, one_off) = self.split();
        input.end().await?;
        let done = collect(events, limit).await;
        one_off.stop().await?;
        done
    }

    /// Removes the process, whatever runs in it.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn stop(self) -> Result<()> {
        self.one_off.stop().await
    }
}

/// A one-off process that is removed when it is not wanted any more.
#[derive(Debug)]
pub struct OneOff {
    client: Option<Client>,
    app: String,
    id: String,
}

impl OneOff {
    /// Removes the process. One that has gone already is no error.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn stop(mut self) -> Result<()> {
        let Some(client) = self.client.take() else {
            return Ok(());
        };
        match client.processes().stop(&self.app, &self.id).await {
            Err(e) if e.kind() != Kind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

impl Drop for OneOff {
    fn drop(&mut self) {
        if let (Some(client), Ok(runtime)) =
            (self.client.take(), tokio::runtime::Handle::try_current())
        {
            let (app, id) = (std::mem::take(&mut self.app), std::mem::take(&mut self.id));
            runtime.spawn(async move { client.processes().stop(&app, &id).await });
        }
    }
}

/// All output of a command, and its exit code.
async fn collect(mut events: ExecEvents, limit: usize) -> Result<(Vec<u8>, i32)> {
    let mut out = Vec::new();
    while let Some(event) = events.next().await {
        match event? {
            ExecEvent::Output(bytes) if out.len() + bytes.len() > limit => {
                return Err(Error::new(
                    Kind::Quota,
                    format!("the command wrote more than {limit} bytes"),
                )
                .with_operation("ProcessExec"));
            }
            ExecEvent::Output(bytes) => out.extend_from_slice(&bytes),
            ExecEvent::Exit(code) => return Ok((out, code)),
        }
    }
    Err(broken("ProcessExec", None))
}

impl ExecSession {
    /// Over a socket that was opened by other means; `operation` is named in errors.
    pub fn new(socket: WebSocket, operation: &'static str) -> Self {
        Self { socket, operation }
    }

    /// The input side, and the output as a stream that ends in [`ExecEvent::Exit`] or an error: a
    /// stream without an exit trailer has no known status and is never taken for success.
    pub fn split(self) -> ExecOutput {
        let (input, talk) = open(self.socket, self.operation);
        (input, Box::pin(output(talk, self.operation)))
    }

    /// Waits for the end without input, and keeps at most `limit` bytes of output; gives output and exit code.
    ///
    /// # Errors
    ///
    /// [`Kind::OutcomeUnknown`] when the stream ends without a code, [`Kind::Quota`] past the limit.
    pub async fn output(self, limit: usize) -> Result<(Vec<u8>, i32)> {
        let (input, events) = self.split();
        input.end().await?;
        collect(events, limit).await
    }
}

struct State {
    talk: Talk,
    trailer: Trailer,
    ready: VecDeque<Result<ExecEvent>>,
    done: bool,
}

fn output(talk: Talk, operation: &'static str) -> impl Stream<Item = Result<ExecEvent>> + Send {
    let state = State {
        talk,
        trailer: Trailer::default(),
        ready: VecDeque::new(),
        done: false,
    };
    stream::unfold(state, move |mut s| async move {
        loop {
            if let Some(item) = s.ready.pop_front() {
                return Some((item, s));
            }
            if s.done {
                return None;
            }
            let cut = match s.talk.next().await {
                Said::Data(payload) => {
                    let output = s.trailer.push(&payload);
                    if !output.is_empty() {
                        s.ready.push_back(Ok(ExecEvent::Output(output)));
                    }
                    continue;
                }
                Said::End => None,
                Said::Cut(e) => e,
            };
            s.done = true;
            let (rest, end) = std::mem::take(&mut s.trailer).finish();
            if !rest.is_empty() {
                s.ready.push_back(Ok(ExecEvent::Output(rest)));
            }
            let end = end.map(ExecEvent::Exit).map_err(|e| match cut {
                Some(cut) => e.with_source(cut),
                None => e,
            });
            s.ready
                .push_back(end.map_err(|e| e.with_operation(operation)));
        }
    })
}
