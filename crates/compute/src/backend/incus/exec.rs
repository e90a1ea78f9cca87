//! Commands: the client's session as ours.

use std::sync::Arc;

use boxrig_incus::{
    Exec, ExecControl as Signals, ExecEvent as Said, ExecInput, ExecSession as Session, Signal,
    WindowSize, exec_code,
};
use boxrig_wire::{BoxFuture, BoxStream, Error, Kind, Result, Untrusted};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::Incus;
use crate::{
    Capability, Compute, ExecControl, ExecEvent, ExecSession, ExecSpec, ExitStatus, Stdin, TtySize,
};

const SIGKILL: i32 = 9;

impl Incus {
    pub(super) async fn command(&self, id: &str, spec: ExecSpec) -> Result<ExecSession> {
        if !spec.kill_on_drop {
            self.capabilities().require(Capability::ExecDetach)?;
        }
        let mut exec = Exec::new(spec.command.argv());
        for (name, value) in spec.env {
            exec = exec.env(name, value);
        }
        if let Some(dir) = spec.cwd {
            exec = exec.cwd(dir);
        }
        if let Some(tty) = spec.tty {
            exec = exec.terminal(size(tty));
        }
        let mut session = self.client.instances().exec(id, exec).await?;
        let (input, signals) = (session.input(), session.control());
        let writable = spec.stdin == Stdin::Stream;
        match spec.stdin {
            Stdin::Stream => {}
            Stdin::Bytes(bytes) => {
                let input = input.clone();
                // A command that ends without reading its input is no error.
                tokio::spawn(async move {
                    if input.write(bytes).await.is_ok() {
                        let _ = input.end().await;
                    }
                });
            }
            // A terminal without an end of input is one that nobody types on.
            _ if spec.tty.is_some() => {}
            // It may have ended already.
            _ => drop(input.end().await),
        }
        let state = Running {
            output: session.output().boxed(),
            session: Some(session),
            signals: signals.clone(),
            deadline: spec.timeout.map(|t| Instant::now() + t),
            timed_out: false,
            last: None,
        };
        let control = Arc::new(Control {
            input,
            signals,
            writable,
        });
        let events = stream::unfold(state, Running::step).boxed();
        Ok(ExecSession::new(events, control))
    }
}

fn size(size: TtySize) -> WindowSize {
    WindowSize {
        width: size.cols,
        height: size.rows,
    }
}

/// A running command on its way to becoming our events.
struct Running {
    output: BoxStream<'static, Result<Said>>,
    /// Dropped, it kills the command; taken when the output has ended.
    session: Option<Session>,
    signals: Signals,
    deadline: Option<Instant>,
    timed_out: bool,
    /// What follows the last words.
    last: Option<ExecEvent>,
}

impl Running {
    async fn step(mut self) -> Option<(Result<ExecEvent>, Self)> {
        if let Some(last) = self.last.take() {
            return Some((Ok(last), self));
        }
        self.session.as_ref()?;
        loop {
            let said = match self.deadline {
                None => self.output.next().await,
                Some(at) => match tokio::time::timeout_at(at, self.output.next()).await {
                    Ok(said) => said,
                    Err(_) => {
                        // Once: what it wrote, and how it ended, is still to come.
                        if let Err(e) = self.kill().await {
                            self.session = None;
                            return Some((Err(e), self));
                        }
                        continue;
                    }
                },
            };
            let event = match said {
                Some(Ok(Said::Stdout(data))) => Ok(ExecEvent::Stdout(data)),
                Some(Ok(Said::Stderr(data))) => Ok(ExecEvent::Stderr(data)),
                Some(Err(e)) => {
                    self.session = None;
                    Err(e)
                }
                None => self.end().await,
            };
            return Some((event, self));
        }
    }

    async fn kill(&mut self) -> Result<()> {
        self.deadline = None;
        self.timed_out = true;
        self.signals.signal(Signal(SIGKILL)).await
    }

    /// How it ended; a command may close its output and go on.
    async fn end(&mut self) -> Result<ExecEvent> {
        let session = self
            .session
            .take()
            .ok_or_else(|| Error::new(Kind::Protocol, "the command has ended already"))?;
        let mut code = std::pin::pin!(session.exit_code());
        let code = loop {
            match self.deadline {
                None => break code.await,
                Some(at) => match tokio::time::timeout_at(at, &mut code).await {
                    Ok(code) => break code,
                    Err(_) => self.kill().await?,
                },
            }
        };
        let status = match code {
            Ok(code) if self.timed_out => ExitStatus::timed_out(code),
            Ok(code) => ExitStatus::new(code),
            Err(e) => match exec_code(&e) {
                Some(code) => {
                    let words = e.server_message().map(Untrusted::to_string);
                    let line = format!("{}\n", words.unwrap_or_default());
                    self.last = Some(ExecEvent::Exit(ExitStatus::new(code)));
                    return Ok(ExecEvent::Stderr(line.into()));
                }
                None => return Err(e),
            },
        };
        Ok(ExecEvent::Exit(status))
    }
}

struct Control {
    input: ExecInput,
    signals: Signals,
    writable: bool,
}

impl Control {
    fn writable(&self) -> Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(Error::new(
            Kind::Unsupported,
            "the command was started without an input that can be written",
        ))
    }
}

impl ExecControl for Control {
    fn write(&self, data: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.writable()?;
            self.input.write(data).await
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.writable()?;
            self.input.end().await
        })
    }

    fn resize(&self, to: TtySize) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.signals.resize(size(to)).await })
    }

    fn signal(&self, signal: i32) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.signals.signal(Signal(signal)).await })
    }
}
