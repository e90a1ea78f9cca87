//! The local boxrig server: the FastVM protocol over its unix socket, and its control API for what that protocol lacks
//! (input while a command runs, terminals, signals, logs, restore in place).

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use boxrig_fastvm::Client;
use boxrig_server::control::{
    ControlClient, ExecEvents, ExecInput, ExecStart, LogQuery, SessionEvent, Size,
};
use boxrig_wire::{BoxFuture, BoxStream, Error, Kind, Operation, Result, Untrusted};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body_util::BodyDataStream;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::fastvm::Fastvm;
use crate::{
    Capabilities, Capability, Compute, ExecControl, ExecEvent, ExecSession, ExecSpec, ExitStatus,
    ForkSpec, Instance, LaunchSpec, ListOptions, LogOptions, Platform, Power, Snapshot,
    SnapshotSpec, Stdin, TtySize, Waiting, ready,
};

const SIGKILL: i32 = 9;

/// A local server as a context.
#[derive(Clone, Debug)]
pub struct Local {
    fastvm: Fastvm,
    control: ControlClient,
    engine: Arc<OnceCell<String>>,
}

impl Local {
    /// Through `control`, shown as `context`.
    pub fn new(context: impl Into<String>, control: ControlClient) -> Self {
        let client = Client::new(control.caller().clone());
        Self {
            fastvm: Fastvm::new(context, client),
            control,
            engine: Arc::default(),
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

    /// The name of the engine that instances run on; asked for once.
    async fn engine(&self) -> Result<&str> {
        let engine = self
            .engine
            .get_or_try_init(|| async { Ok::<_, Error>(self.control.info().await?.engine) });
        engine.await.map(String::as_str)
    }

    /// A FastVM instance as one of ours.
    fn ours(&self, mut instance: Instance, engine: &str) -> Instance {
        instance.platform = Platform::Local;
        instance.engine = Some(Untrusted::new(engine));
        instance
    }

    async fn named(&self, instance: Instance) -> Result<Instance> {
        Ok(self.ours(instance, self.engine().await?))
    }
}

impl Compute for Local {
    fn platform(&self) -> Platform {
        Platform::Local
    }

    fn context(&self) -> &str {
        self.fastvm.context()
    }

    fn capabilities(&self) -> Capabilities {
        const MORE: &[Capability] = &[
            Capability::ExecStdin,
            Capability::ExecTty,
            Capability::ExecSignal,
            Capability::Logs,
            Capability::LogsFollow,
            Capability::Restore,
        ];
        let base = self.fastvm.capabilities();
        let all: Vec<Capability> = Capability::ALL
            .iter()
            .filter(|c| base.has(**c) || MORE.contains(c))
            .copied()
            .collect();
        Capabilities::new("local", &all)
            .with_native(Capability::Stop, "pause it: `boxrig pause`")
            .with_native(Capability::Start, "resume a paused instance: `boxrig resume`")
    }

    fn native(&self) -> &dyn Any {
        self
    }

    fn list(&self, options: ListOptions) -> BoxStream<'_, Result<Instance>> {
        stream::once(self.engine())
            .flat_map(move |engine| match engine {
                Err(e) => stream::iter([Err(e)]).boxed(),
                Ok(engine) => self
                    .fastvm
                    .list(options.clone())
                    .map_ok(move |i| self.ours(i, engine))
                    .boxed(),
            })
            .boxed()
    }

    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move { self.named(self.fastvm.get(id).await?).await })
    }

    fn launch(&self, spec: LaunchSpec) -> BoxFuture<'_, Result<Operation<Instance>>> {
        Box::pin(async move {
            let vm = self.fastvm.launch_vm(spec).await?;
            let instance = self.named(self.fastvm.instance(&vm)).await?;
            Ok(ready(vm.id, instance))
        })
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        self.fastvm.delete(id)
    }

    fn power<'a>(&'a self, id: &'a str, power: Power) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move {
            self.capabilities().require(power.capability())?;
            self.named(self.fastvm.power(id, power).await?).await
        })
    }

    fn exec<'a>(&'a self, id: &'a str, spec: ExecSpec) -> BoxFuture<'a, Result<ExecSession>> {
        Box::pin(async move {
            if !spec.kill_on_drop {
                self.capabilities().require(Capability::ExecDetach)?;
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
            let control = Arc::new(Control {
                input,
                writable,
            });
            Ok(ExecSession::new(
                stream::unfold(state, Running::step).boxed(),
                control,
            ))
        })
    }

    fn logs<'a>(
        &'a self,
        id: &'a str,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes>>>> {
        Box::pin(async move {
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
        self.fastvm.snapshot(id, spec)
    }

    fn restore<'a>(
        &'a self,
        id: &'a str,
        snapshot: &'a str,
    ) -> BoxFuture<'a, Result<Operation<Instance>>> {
        Box::pin(async move {
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
            let vm = self.fastvm.fork_vm(id, spec).await?;
            let instance = self.named(self.fastvm.instance(&vm)).await?;
            Ok(ready(vm.id, instance))
        })
    }

    fn wait<'a>(
        &'a self,
        id: &'a str,
        waiting: Waiting,
    ) -> BoxFuture<'a, Result<Option<Instance>>> {
        Box::pin(async move {
            match self.fastvm.wait(id, waiting).await? {
                Some(instance) => Ok(Some(self.named(instance).await?)),
                None => Ok(None),
            }
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
