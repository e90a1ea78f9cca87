//! Commands in an instance.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use boxrig_wire::{BoxFuture, BoxStream, Error, Kind, Result};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A program and its arguments, given to no shell.
    Argv(Vec<String>),
    /// A line for `sh -c`.
    Shell(String),
}

impl Command {
    /// The program and its arguments.
    pub fn argv(self) -> Vec<String> {
        match self {
            Self::Argv(argv) => argv,
            Self::Shell(line) => vec!["sh".to_owned(), "-c".to_owned(), line],
        }
    }
}

/// What the command reads as its standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stdin {
    /// Nothing.
    #[default]
    None,
    /// These bytes, then the end.
    Bytes(Bytes),
    /// What is written through [`ExecControl::write`], until [`ExecControl::close`].
    Stream,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtySize {
    /// Columns.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
}

impl Default for TtySize {
    fn default() -> Self {
        Self { cols: 80, rows: 24 }
    }
}

/// A command to run. Chain setters from [`ExecSpec::new`] or [`ExecSpec::shell`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ExecSpec {
    /// What to run.
    pub command: Command,
    /// Variables on top of the instance's.
    pub env: BTreeMap<String, String>,
    /// Working directory; the platform's when `None`.
    pub cwd: Option<String>,
    /// Standard input.
    pub stdin: Stdin,
    /// A terminal of this size instead of pipes.
    pub tty: Option<TtySize>,
    /// After this time the command is killed.
    pub timeout: Option<Duration>,
    /// Dropping the session kills the command. Without it the command goes on, where the platform can.
    pub kill_on_drop: bool,
}

impl ExecSpec {
    /// A program and its arguments: no input, no terminal, killed when the session is dropped.
    pub fn new<I, A>(argv: I) -> Self
    where
        I: IntoIterator<Item = A>,
        A: Into<String>,
    {
        Self::of(Command::Argv(argv.into_iter().map(Into::into).collect()))
    }

    /// A line for `sh -c`.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::of(Command::Shell(line.into()))
    }

    fn of(command: Command) -> Self {
        Self {
            command,
            env: BTreeMap::new(),
            cwd: None,
            stdin: Stdin::None,
            tty: None,
            timeout: None,
            kill_on_drop: true,
        }
    }

    /// With a variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// In this directory.
    pub fn cwd(mut self, dir: impl Into<String>) -> Self {
        self.cwd = Some(dir.into());
        self
    }

    /// With this input.
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// With a terminal.
    pub fn tty(mut self, size: TtySize) -> Self {
        self.tty = Some(size);
        self
    }

    /// Killed after this time.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Whether dropping the session kills the command.
    pub fn kill_on_drop(mut self, kill: bool) -> Self {
        self.kill_on_drop = kill;
        self
    }

    /// The program and arguments for a platform that has neither variables nor a working directory for a command:
    /// `env` and `sh` set them.
    pub fn wrapped_argv(&self) -> Vec<String> {
        let mut argv = Vec::new();
        if let Some(dir) = &self.cwd {
            argv.extend(["sh", "-c", "cd -- \"$0\" && exec \"$@\""].map(str::to_owned));
            argv.push(dir.clone());
        }
        if !self.env.is_empty() {
            argv.push("env".to_owned());
            argv.extend(self.env.iter().map(|(k, v)| format!("{k}={v}")));
        }
        argv.extend(self.command.clone().argv());
        argv
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExitStatus {
    /// What a shell shows: its code, or 128 plus the signal that ended it.
    pub code: i32,
    /// It was killed because its time was over.
    pub timed_out: bool,
}

impl ExitStatus {
    /// It ended with this code.
    pub fn new(code: i32) -> Self {
        Self {
            code,
            timed_out: false,
        }
    }

    /// It was killed because its time was over.
    pub fn timed_out(code: i32) -> Self {
        Self {
            code,
            timed_out: true,
        }
    }

    /// Code 0 and in time.
    pub fn success(self) -> bool {
        self.code == 0 && !self.timed_out
    }
}

/// Something a running command did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExecEvent {
    /// It wrote to its standard output; with a terminal, all output.
    Stdout(Bytes),
    /// It wrote to its standard error.
    Stderr(Bytes),
    /// It ended; the last event.
    Exit(ExitStatus),
}

/// Input, size and signals of a running command. Several tasks may hold it.
pub trait ExecControl: Send + Sync {
    /// Writes to its standard input.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`] without [`Stdin::Stream`]; a command that has ended or closed its input is
    /// [`Kind::Conflict`].
    fn write(&self, data: Bytes) -> BoxFuture<'_, Result<()>>;
    /// Ends its standard input.
    fn close(&self) -> BoxFuture<'_, Result<()>>;
    /// Tells its terminal the size.
    fn resize(&self, size: TtySize) -> BoxFuture<'_, Result<()>>;
    /// Sends a signal (Linux number) to its process group.
    fn signal(&self, signal: i32) -> BoxFuture<'_, Result<()>>;
}

/// The control of a command on a platform that has none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoControl(pub(crate) &'static str);

impl NoControl {
    fn no<T: Send + 'static>(&self, what: &str) -> BoxFuture<'static, Result<T>> {
        let e = Error::new(Kind::Unsupported, format!("{} has no {what}", self.0));
        Box::pin(async move { Err(e) })
    }
}

impl ExecControl for NoControl {
    fn write(&self, _: Bytes) -> BoxFuture<'_, Result<()>> {
        self.no("exec-stdin")
    }
    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.no("exec-stdin")
    }
    fn resize(&self, _: TtySize) -> BoxFuture<'_, Result<()>> {
        self.no("exec-tty")
    }
    fn signal(&self, _: i32) -> BoxFuture<'_, Result<()>> {
        self.no("exec-signal")
    }
}

/// A running command. Its events must be read, or it blocks like any process on a full pipe.
pub struct ExecSession {
    events: BoxStream<'static, Result<ExecEvent>>,
    control: Arc<dyn ExecControl>,
}

impl ExecSession {
    /// A session of a backend. `events` ends after [`ExecEvent::Exit`] or an error, and never without one of the two.
    pub fn new(
        events: BoxStream<'static, Result<ExecEvent>>,
        control: Arc<dyn ExecControl>,
    ) -> Self {
        Self { events, control }
    }

    /// The next event; `None` after the end.
    ///
    /// # Errors
    ///
    /// When the connection to the command is lost: what became of it is then not known.
    pub async fn next(&mut self) -> Option<Result<ExecEvent>> {
        self.events.next().await
    }

    /// Input, size and signals.
    pub fn control(&self) -> Arc<dyn ExecControl> {
        Arc::clone(&self.control)
    }

    /// Reads to the end and keeps at most `limit` bytes of each stream.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next); [`Kind::Protocol`] when the events end without an exit status.
    pub async fn output(mut self, limit: usize) -> Result<ExecOutput> {
        let (mut stdout, mut stderr) = (BytesMut::new(), BytesMut::new());
        let mut truncated = false;
        let mut keep = |into: &mut BytesMut, data: Bytes| {
            let room = limit.saturating_sub(into.len()).min(data.len());
            truncated |= room < data.len();
            into.extend_from_slice(&data[..room]);
        };
        while let Some(event) = self.next().await {
            match event? {
                ExecEvent::Stdout(data) => keep(&mut stdout, data),
                ExecEvent::Stderr(data) => keep(&mut stderr, data),
                ExecEvent::Exit(status) => {
                    return Ok(ExecOutput {
                        stdout: stdout.freeze(),
                        stderr: stderr.freeze(),
                        status,
                        truncated,
                    });
                }
            }
        }
        Err(Error::new(
            Kind::Protocol,
            "the command's output ended without an exit status",
        ))
    }

    /// Waits for the end and passes over the output.
    ///
    /// # Errors
    ///
    /// As [`output`](Self::output).
    pub async fn wait(self) -> Result<ExitStatus> {
        self.output(0).await.map(|o| o.status)
    }
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExecSession")
    }
}

/// What a command wrote and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecOutput {
    /// Its standard output.
    pub stdout: Bytes,
    /// Its standard error.
    pub stderr: Bytes,
    /// How it ended.
    pub status: ExitStatus,
    /// It wrote more than was kept.
    pub truncated: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn session(events: Vec<Result<ExecEvent>>) -> ExecSession {
        ExecSession::new(
            Box::pin(stream::iter(events)),
            Arc::new(NoControl("nothing")),
        )
    }

    #[tokio::test]
    async fn output_is_kept_up_to_the_limit() {
        let events = || {
            vec![
                Ok(ExecEvent::Stdout(Bytes::from_static(b"abc"))),
                Ok(ExecEvent::Stderr(Bytes::from_static(b"e"))),
                Ok(ExecEvent::Stdout(Bytes::from_static(b"def"))),
                Ok(ExecEvent::Exit(ExitStatus::new(3))),
            ]
        };
        let all = session(events()).output(6).await.unwrap();
        assert_eq!((&all.stdout[..], all.truncated), (&b"abcdef"[..], false));
        assert_eq!((all.status.code, &all.stderr[..]), (3, &b"e"[..]));
        let cut = session(events()).output(4).await.unwrap();
        assert_eq!((&cut.stdout[..], cut.truncated), (&b"abcd"[..], true));
    }

    #[tokio::test]
    async fn an_end_without_a_status_is_an_error() {
        let e = session(vec![Ok(ExecEvent::Stdout(Bytes::from_static(b"a")))])
            .wait()
            .await
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Protocol);
    }

    #[test]
    fn directory_and_variables_wrap_the_command() {
        let plain = ExecSpec::new(["ls", "-l"]);
        assert_eq!(plain.wrapped_argv(), ["ls", "-l"]);
        let both = ExecSpec::shell("x y").cwd("/a b").env("K", "v w");
        assert_eq!(
            both.wrapped_argv(),
            [
                "sh",
                "-c",
                "cd -- \"$0\" && exec \"$@\"",
                "/a b",
                "env",
                "K=v w",
                "sh",
                "-c",
                "x y"
            ]
        );
    }
}
