//! The local boxrig server: the FastVM protocol over its unix socket, and its control API for what that protocol lacks
//! (input while a command runs, terminals, signals, logs, restore in place).

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use boxrig_fastvm::Client;
use boxrig_server::control::{
    ControlClient, ExecEvents, ExecInput, ExecStart, Info, LogQuery, SessionEvent, Size,
};
use boxrig_wire::{BoxFuture, BoxStream, Error, Kind, Operation, Result, Untrusted};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body_util::BodyDataStream;
use tokio::time::Instant;

use super::fastvm::Fastvm;
use crate::{
    Capabilities, Capability, Compute, CopyReport, CopySpec, ExecControl, ExecEvent, ExecSession,
    ExecSpec, ExitStatus, ForkSpec, Instance, LaunchSpec, ListOptions, LogOptions, Platform, Power,
    Snapshot, SnapshotSpec, Stdin, TtySize, Waiting, ready,
};

const SIGKILL: i32 = 9;

/// A local server as a context.
#[derive(Clone, Debug)]
pub struct Local {
    fastvm: Fastvm,
    control: ControlClient,
    engine: String,
    capabilities: Capabilities,
}

impl Local {
    /// Through `control`, shown as `context`. Asks the server who it is: what it can do depends on its engine.
    ///
    /// # Errors
    ///
    /// Those of the way to the server.
    pub async fn connect(context: impl Into<String>, control: ControlClient) -> Result<Self> {
        let info = control.info().await?;
        Ok(Self::of(context, control, &info))
    }

    /// As [`connect`](Self::connect), with what the server has said of itself already.
    pub fn of(context: impl Into<String>, control: ControlClient, info: &Info) -> Self {
        let fastvm = Fastvm::new(context, Client::new(control.caller().clone()));
        Self {
            capabilities: capabilities(&fastvm.capabilities(), info),
            fastvm,
            control,
            engine: info.engine.clone(),
        }
    }

    /// The control API's client.
    pub fn control(&self) -> &ControlClient {
        &self.control
    }

    /// The FastVM client over the same socket.
    pub fn fastvm(&self) -> &Client {
        self.fastvm.client()
    }

    /// A FastVM instance as one of ours.
    fn ours(&self, mut instance: Instance) -> Instance {
        instance.platform = Platform::Local;
        instance.engine = Some(Untrusted::new(&*self.engine));
        instance
    }
}

/// What the FastVM protocol can and the control API can, as far as the engine can.
fn capabilities(fastvm: &Capabilities, info: &Info) -> Capabilities {
    use Capability as C;
    const MORE: &[C] = &[
        C::ExecStdin,
        C::ExecTty,
        C::ExecSignal,
        C::Logs,
        C::LogsFollow,
        C::Restore,
    ];
    /// What needs which ability of the engine, by the names it is reported under.
    const NEEDS: &[(&str, &[C])] = &[
        (
            "exec",
            &[
                C::Exec,
                C::ExecStdin,
                C::ExecTty,
                C::ExecSignal,
                C::Logs,
                C::LogsFollow,
            ],
        ),
        ("pty", &[C::ExecTty]),
        ("files", &[C::Copy]),
        ("pause", &[C::Pause, C::Resume]),
        (
            "snapshot",
            &[C::Snapshot, C::LaunchFromSnapshot, C::Restore, C::Fork],
        ),
    ];
    // Without isolation a path means one thing to the transfer and another to the commands that check it.
    let no_copy = info.isolation == "none";
    let lacks = |what: C| {
        (what == C::Copy && no_copy)
            || NEEDS.iter().any(|(ability, needed_by)| {
                needed_by.contains(&what) && info.capabilities[ability] == serde_json::json!(false)
            })
    };
    let all: Vec<C> = C::ALL
        .iter()
        .filter(|c| (fastvm.has(**c) || MORE.contains(c)) && !lacks(**c))
        .copied()
        .collect();
    Capabilities::new("local", &all)
        .with_native(
            C::Copy,
            "the instance's files are in a folder of this machine: `boxrig exec NAME -- pwd`",
        )
        .with_native(C::Stop, "pause it: `boxrig pause`")
        .with_native(C::Start, "resume a paused instance: `boxrig resume`")
}

impl Compute for Local {
    fn platform(&self) -> Platform {
        Platform::Local
    }

    fn context(&self) -> &str {
        self.fastvm.context()
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    fn native(&self) -> &dyn Any {
        self
    }

    fn list(&self, options: ListOptions) -> BoxStream<'_, Result<Instance>> {
        self.fastvm
            .list(options)
            .map_ok(|instance| self.ours(instance))
            .boxed()
    }

    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move { Ok(self.ours(self.fastvm.get(id).await?)) })
    }

    fn launch(&self, spec: LaunchSpec) -> BoxFuture<'_, Result<Operation<Instance>>> {
        Box::pin(async move {
            let vm = self.fastvm.launch_vm(spec).await?;
            let instance = self.ours(self.fastvm.instance(&vm));
            Ok(ready(vm.id, instance))
        })
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        self.fastvm.delete(id)
    }

    fn power<'a>(&'a self, id: &'a str, power: Power) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move {
            self.capabilities.require(power.capability())?;
            Ok(self.ours(self.fastvm.power(id, power).await?))
        })
    }

    fn exec<'a>(&'a self, id: &'a str, spec: ExecSpec) -> BoxFuture<'a, Result<ExecSession>> {
        Box::pin(async move {
            for (asked, what) in [
                (true, Capability::Exec),
                (spec.tty.is_some(), Capability::ExecTty),
                (!spec.kill_on_drop, Capability::ExecDetach),
            ] {
                if asked {
                    self.capabilities.require(what)?;
                }
            }
            let start = ExecStart {
                argv: spec.command.argv(),
                env: spec.env,
                cwd: spec.cwd,
                tty: spec.tty.map(size),
                stdin: spec.stdin != Stdin::None,
                ..ExecStart::default()
            };
            let (events, input) = self.control.exec(id, &start).await?.split();
            let writable = spec.stdin == Stdin::Stream;
            if let Stdin::Bytes(bytes) = spec.stdin {
                let input = input.clone();
                // A command that ends without reading its input is no error.
                tokio::spawn(async move {
                    if input.write(&bytes).await.is_ok() {
                        let _ = input.close().await;
                    }
                });
            }
            let state = Running {
                events,
                input: input.clone(),
                deadline: spec.timeout.map(|t| Instant::now() + t),
                timed_out: false,
                queue: VecDeque::new(),
                ended: false,
            };
            let control = Arc::new(Control { input, writable });
            Ok(ExecSession::new(
                stream::unfold(state, Running::step).boxed(),
                control,
            ))
        })
    }

    fn copy<'a>(&'a self, id: &'a str, spec: CopySpec) -> BoxFuture<'a, Result<CopyReport>> {
        Box::pin(async move {
            self.capabilities.require(Capability::Copy)?;
            self.fastvm.copy(id, spec).await
        })
    }

    fn logs<'a>(
        &'a self,
        id: &'a str,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes>>>> {
        Box::pin(async move {
            self.capabilities.require(Capability::Logs)?;
            let query = LogQuery {
                source: options.console.then(|| "console".to_owned()),
                tail: options.tail,
                follow: options.follow.then_some(true),
                ..LogQuery::default()
            };
            let reply = self.control.logs(id, query).await?;
            let broken = |e| Error::new(Kind::Transport, "the log broke off").with_source(e);
            Ok(BodyDataStream::new(reply.body).map_err(broken).boxed())
        })
    }

    fn snapshot<'a>(
        &'a self,
        id: &'a str,
        spec: SnapshotSpec,
    ) -> BoxFuture<'a, Result<Operation<Snapshot>>> {
        Box::pin(async move {
            self.capabilities.require(Capability::Snapshot)?;
            self.fastvm.snapshot(id, spec).await
        })
    }

    fn restore<'a>(
        &'a self,
        id: &'a str,
        snapshot: &'a str,
    ) -> BoxFuture<'a, Result<Operation<Instance>>> {
        Box::pin(async move {
            self.capabilities.require(Capability::Restore)?;
            self.control.restore(id, snapshot).await?;
            Ok(ready(id, self.get(id).await?))
        })
    }

    fn fork<'a>(
        &'a self,
        id: &'a str,
        spec: ForkSpec,
    ) -> BoxFuture<'a, Result<Operation<Instance>>> {
        Box::pin(async move {
            self.capabilities.require(Capability::Fork)?;
            let vm = self.fastvm.fork_vm(id, spec).await?;
            let instance = self.ours(self.fastvm.instance(&vm));
            Ok(ready(vm.id, instance))
        })
    }

    fn wait<'a>(
        &'a self,
        id: &'a str,
        waiting: Waiting,
    ) -> BoxFuture<'a, Result<Option<Instance>>> {
        Box::pin(async move {
            let found = self.fastvm.wait(id, waiting).await?;
            Ok(found.map(|instance| self.ours(instance)))
        })
    }
}

fn size(size: TtySize) -> Size {
    Size {
        rows: size.rows,
        cols: size.cols,
    }
}

/// A running command on its way to becoming our events.
struct Running {
    events: ExecEvents,
    input: ExecInput,
    deadline: Option<Instant>,
    timed_out: bool,
    queue: VecDeque<Result<ExecEvent>>,
    ended: bool,
}

impl Running {
    async fn step(mut self) -> Option<(Result<ExecEvent>, Self)> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some((event, self));
            }
            if self.ended {
                return None;
            }
            let event = match self.deadline {
                None => self.events.next().await,
                Some(at) => match tokio::time::timeout_at(at, self.events.next()).await {
                    Ok(event) => event,
                    Err(_) => {
                        // Once: what it wrote, and how it ended, is still to come.
                        self.deadline = None;
                        self.timed_out = true;
                        if let Err(e) = self.input.signal(SIGKILL).await {
                            self.end(Err(e));
                        }
                        continue;
                    }
                },
            };
            self.take(event);
        }
    }

    fn take(&mut self, event: Result<SessionEvent>) {
        match event {
            Ok(SessionEvent::Started(_)) => {}
            Ok(SessionEvent::Stdout(data)) => self.queue.push_back(Ok(ExecEvent::Stdout(data))),
            Ok(SessionEvent::Stderr(data)) => self.queue.push_back(Ok(ExecEvent::Stderr(data))),
            Ok(SessionEvent::Exit { code, signal }) => {
                let code = code.unwrap_or_else(|| 128 + signal.unwrap_or(0));
                let status = if self.timed_out {
                    ExitStatus::timed_out(code)
                } else {
                    ExitStatus::new(code)
                };
                self.end(Ok(ExecEvent::Exit(status)));
            }
            Ok(SessionEvent::Failed(failure)) => match failure.shell_code {
                Some(code) => {
                    let line = format!("{}\n", Untrusted::new(failure.message));
                    self.queue.push_back(Ok(ExecEvent::Stderr(line.into())));
                    self.end(Ok(ExecEvent::Exit(ExitStatus::new(code))));
                }
                None => {
                    let e = Error::new(failure.kind, "the command cannot be run");
                    self.end(Err(e.with_server_message(failure.message)));
                }
            },
            Err(e) => self.end(Err(e)),
        }
    }

    fn end(&mut self, event: Result<ExecEvent>) {
        self.queue.push_back(event);
        self.ended = true;
    }
}

struct Control {
    input: ExecInput,
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
            self.input.write(&data).await
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.writable()?;
            self.input.close().await
        })
    }

    fn resize(&self, size: TtySize) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.input.resize(size.rows, size.cols))
    }

    fn signal(&self, signal: i32) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.input.signal(signal))
    }
}
