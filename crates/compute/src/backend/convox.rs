//! Convox: a process is an instance, `app/process` its id; a release is a snapshot.
//!
//! What is launched is a one-off process of a service that sleeps. Racks keep no labels; name, labels and the launch's token
//! stand as further words in its command, where they can be read again.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use boxrig_convox::models::{Process, Release};
use boxrig_convox::ops::processes::{ProcessExecHeaders, ProcessRunHeaders};
use boxrig_convox::ops::releases::ReleaseCreateForm;
use boxrig_convox::{Client, ExecEvent as WireEvent, FieldMap, SocketInput, Wait};
use boxrig_wire::{BoxFuture, BoxStream, Error, Kind, Operation, Result, Timestamp, Untrusted};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::{Instant as Clock, sleep, timeout_at};

use crate::exec::ExecControl;
use crate::{
    Capabilities, Capability, Compute, ExecEvent, ExecSession, ExecSpec, ExitStatus, Instance,
    LaunchSpec, ListOptions, LogOptions, Platform, Power, Snapshot, SnapshotSpec, Source, State,
    Stdin, TtySize, ready,
};

/// How long a process that was launched stays when nothing is said: racks end one-off processes with their command.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How many apps are asked for their processes at a time.
const AT_ONCE: usize = 8;
/// The word before name, labels and token in a command.
const MARK: &str = "boxrig";

const CAPABILITIES: &[Capability] = &[
    Capability::List,
    Capability::Launch,
    Capability::LaunchFromSnapshot,
    Capability::ExactlyOnce,
    Capability::Delete,
    Capability::Exec,
    Capability::ExecStdin,
    Capability::ExecTty,
    Capability::Logs,
    Capability::LogsFollow,
    Capability::Snapshot,
    Capability::Restore,
];

/// A rack as a context.
#[derive(Clone, Debug)]
pub struct Convox {
    context: String,
    client: Client,
    service: Option<String>,
}

impl Convox {
    /// Through `client`, shown as `context`.
    pub fn new(context: impl Into<String>, client: Client) -> Self {
        Self {
            context: context.into(),
            client,
            service: None,
        }
    }

    /// Starting one-off processes of this service, `app/service`, when a launch names none.
    pub fn service(mut self, service: impl Into<String>) -> Self {
        self.service = Some(service.into());
        self
    }

    /// The complete native client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A process as an instance.
    fn instance(&self, process: &Process) -> Instance {
        let id = format!("{}/{}", process.app, process.id);
        let mut i = Instance::new(Platform::Convox, &*self.context, id);
        let mut labels = said(&process.command);
        let name = labels.remove("name");
        i.name = Untrusted::new(name.unwrap_or_else(|| process.id.clone()));
        labels.remove("token");
        i.labels = labels
            .into_iter()
            .filter_map(|(k, v)| Some((k.strip_prefix("label.")?.to_owned(), v)))
            .collect();
        i.state = state(&process.status);
        i.native_state = Untrusted::new(&*process.status);
        i.engine = Some("container".into());
        i.created = time(&process.started);
        i.ips = Some(&process.host)
            .filter(|h| !h.is_empty())
            .map(|h| Untrusted::new(&**h))
            .into_iter()
            .collect();
        i.raw = serde_json::to_value(process).unwrap_or_default();
        i
    }

    async fn process(&self, id: &str) -> Result<Process> {
        let (app, process) = split(id)?;
        self.client.processes().get(app, process).await
    }

    /// All processes, app by app as they answer.
    fn processes(&self) -> impl stream::Stream<Item = Result<Process>> + Send + '_ {
        stream::once(async { self.client.apps().list().await })
            .map_ok(|apps| stream::iter(apps).map(Ok::<_, Error>))
            .try_flatten()
            .map_ok(move |app| async move {
                match self.client.processes().list(&app.name).await {
                    // An app that went meanwhile has none.
                    Err(e) if e.kind() == Kind::NotFound => Ok(Vec::new()),
                    done => done,
                }
            })
            .try_buffer_unordered(AT_ONCE)
            .map_ok(|list| stream::iter(list).map(Ok::<_, Error>))
            .try_flatten()
    }

    /// The app, the service, and the release that a launch is made of.
    fn source(&self, spec: &LaunchSpec) -> Result<(String, String, Option<String>)> {
        let invalid = |what: &str| {
            Error::new(Kind::Invalid, format!("convox: {what}"))
                .with_hint("an image is APP/SERVICE, a snapshot APP/RELEASE/SERVICE; `boxrig ctx add … --image APP/SERVICE` names the usual one")
        };
        let text = match &spec.source {
            Source::Snapshot(id) => {
                let parts: Vec<&str> = id.split('/').collect();
                return match parts[..] {
                    [app, release, service] => {
                        Ok((app.into(), service.into(), Some(release.into())))
                    }
                    [app, release] => {
                        let usual = self.service.as_deref().and_then(|s| s.split_once('/'));
                        let (_, service) = usual
                            .filter(|(a, _)| *a == app)
                            .ok_or_else(|| invalid("of which service of the release?"))?;
                        Ok((app.into(), service.into(), Some(release.into())))
                    }
                    _ => Err(invalid("that is no snapshot")),
                };
            }
            Source::Image(image) => image,
            Source::Default => self
                .service
                .as_ref()
                .ok_or_else(|| invalid("which service?"))?,
        };
        let (app, service) = text
            .split_once('/')
            .ok_or_else(|| invalid("that is no service of an app"))?;
        Ok((app.to_owned(), service.to_owned(), None))
    }

    async fn make(&self, spec: LaunchSpec) -> Result<Instance> {
        let (app, service, release) = self.source(&spec)?;
        if spec.disk.is_some() {
            return Err(Error::new(
                Kind::Unsupported,
                "convox: a process has no disk of its own",
            ));
        }
        let limit = Clock::now() + spec.wait_timeout;
        if spec.may_be_known()
            && let Some(found) = self.launched(&app, &spec.token).await?
        {
            return self.running(found, limit).await;
        }
        let seconds = spec.ttl.unwrap_or(LIFETIME).as_secs().max(1);
        let mut argv = vec![
            "sh".to_owned(),
            "-c".to_owned(),
            format!("exec sleep {seconds}"),
            MARK.to_owned(),
        ];
        argv.extend(spec.name.iter().map(|n| format!("name={n}")));
        argv.push(format!("token={}", spec.token));
        argv.extend(spec.labels.iter().map(|(k, v)| format!("label.{k}={v}")));
        let headers = ProcessRunHeaders {
            command: Some(quoted(&argv)),
            cpu: spec.cpus.map(|n| (n * 1000.0).ceil() as i64),
            memory: spec
                .memory
                .map(|b| i64::try_from(b.div_ceil(1 << 20)).unwrap_or(i64::MAX)),
            environment: spec
                .env
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect::<FieldMap>(),
            release,
            ..Default::default()
        };
        let process = match self.client.processes().run(&app, &service, headers).await {
            // It may have been started all the same: its command tells.
            Err(e) if e.kind() == Kind::OutcomeUnknown => {
                match self.launched(&app, &spec.token).await? {
                    Some(found) => found,
                    None => return Err(e),
                }
            }
            done => done?,
        };
        self.running(process, limit).await
    }

    /// The process of an earlier launch under this token.
    async fn launched(&self, app: &str, token: &str) -> Result<Option<Process>> {
        let all = self.client.processes().list(app).await?;
        Ok(all
            .into_iter()
            .find(|p| said(&p.command).get("token").map(String::as_str) == Some(token)))
    }

    /// Waits until a process runs; one that does not come to that is removed.
    async fn running(&self, mut process: Process, limit: Clock) -> Result<Instance> {
        loop {
            let now = state(&process.status);
            if now == State::Running {
                return Ok(self.instance(&process));
            }
            let shown = Untrusted::new(format!("{}/{}", process.app, process.id));
            let status = Untrusted::new(&*process.status);
            let over = now.is_terminal();
            if over || Clock::now() >= limit {
                let _ = self
                    .client
                    .processes()
                    .stop(&process.app, &process.id)
                    .await;
                let kind = if over { Kind::Failed } else { Kind::Timeout };
                return Err(Error::new(kind, format!("the process {shown} is {status}"))
                    .with_hint(format!("`boxrig why {}`", process.app)));
            }
            sleep(Duration::from_millis(200)).await;
            process = self
                .client
                .processes()
                .get(&process.app, &process.id)
                .await?;
        }
    }

    fn snapshot_of(&self, app: &str, release: &Release, of: Option<&str>) -> Snapshot {
        let mut s = Snapshot::new(format!("{app}/{}", release.id));
        s.name = Untrusted::new(&*release.description);
        s.instance = of.map(str::to_owned);
        s.state = "ready".into();
        s.created = time(&release.created);
        // Its variables are secrets.
        let mut shown = release.clone();
        shown.env = Default::default();
        s.raw = serde_json::to_value(&shown).unwrap_or_default();
        s
    }

    async fn take(&self, id: &str, name: Option<String>) -> Result<Snapshot> {
        let process = self.process(id).await?;
        let releases = self.client.releases();
        let of = releases.get(&process.app, &process.release).await?;
        let form = ReleaseCreateForm {
            build: Some(of.build).filter(|b| !b.is_empty()),
            env: Some(of.env),
            description: name.or_else(|| Some(format!("snapshot of {}", process.release))),
            ..Default::default()
        };
        let made = releases.create(&process.app, form).await?;
        Ok(self.snapshot_of(&process.app, &made, Some(id)))
    }

    async fn back(&self, id: &str, snapshot: &str) -> Result<Instance> {
        let before = self.process(id).await?;
        let (app, release) = match snapshot.split('/').collect::<Vec<_>>()[..] {
            [app, release, ..] => (app, release),
            _ => (&*before.app, snapshot),
        };
        if app != before.app {
            return Err(Error::new(Kind::Invalid, "the snapshot is of another app"));
        }
        let made = self.client.releases().rollback(app, release).await?;
        self.client.apps().settle(app, Wait::default()).await?;
        // The process of before has given way to one of the new release.
        let now = self.client.processes().list(app).await?;
        let found = now
            .iter()
            .find(|p| p.release == made.id && p.service == before.service);
        let found = found.or_else(|| now.iter().find(|p| p.id == before.id));
        found.map(|p| self.instance(p)).ok_or_else(|| {
            Error::new(
                Kind::Failed,
                format!(
                    "the release {} is active, and no process of it is there",
                    Untrusted::new(&*made.id)
                ),
            )
        })
    }
}

/// The app and the process of an id.
fn split(id: &str) -> Result<(&str, &str)> {
    id.split_once('/')
        .filter(|(app, process)| !app.is_empty() && !process.is_empty())
        .ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("no process {}: an id is APP/PROCESS", Untrusted::new(id)),
            )
        })
}

/// What stands behind the mark in a command: name, token, labels.
fn said(command: &str) -> BTreeMap<String, String> {
    let words = words(command);
    let behind = words.iter().skip_while(|w| *w != MARK).skip(1);
    behind
        .filter_map(|w| w.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

/// A command line as a shell's words.
fn words(line: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let (mut word, mut any) = (String::new(), false);
    let mut chars = line.chars();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (None, '\'' | '"') => (quote, any) = (Some(c), true),
            (None | Some('"'), '\\') => {
                word.extend(chars.next());
                any = true;
            }
            (None, c) if c.is_whitespace() => {
                if any || !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
                any = false;
            }
            (_, c) => word.push(c),
        }
    }
    if any || !word.is_empty() {
        out.push(word);
    }
    out
}

/// Words as a line that a shell reads back as they are.
fn quoted(words: &[String]) -> String {
    let plain = |w: &str| {
        !w.is_empty()
            && w.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_./=:@%+,".contains(c))
    };
    let quote = |w: &String| match plain(w) {
        true => w.clone(),
        false => format!("'{}'", w.replace('\'', "'\\''")),
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

fn state(status: &str) -> State {
    match status {
        "running" => State::Running,
        "pending" | "starting" | "created" => State::Starting,
        "complete" | "stopped" => State::Stopped,
        "crashed" | "failed" | "unhealthy" => State::Failed,
        other => State::from(other),
    }
}

fn time(at: &Timestamp) -> Option<std::time::SystemTime> {
    let parsed: jiff::Timestamp = Some(&at.0).filter(|_| !at.is_never())?.parse().ok()?;
    Some(parsed.into())
}

/// The code of a command that could not be started, 126 or 127, where the rack says so.
fn not_started(e: &Error) -> Option<ExitStatus> {
    let code = e.code()?.raw().parse().ok()?;
    matches!(code, 126 | 127).then(|| ExitStatus::new(code))
}

/// Standard input of a command; a rack has neither signals nor new sizes.
struct Control {
    input: SocketInput,
    stream: bool,
}

impl ExecControl for Control {
    fn write(&self, data: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if !self.stream {
                return Err(Error::new(
                    Kind::Unsupported,
                    "the command was given its input at the start",
                ));
            }
            self.input.write(data).await
        })
    }
    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.input.end())
    }
    fn resize(&self, _: TtySize) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            Err(Error::new(
                Kind::Unsupported,
                "convox: a terminal keeps the size it began with",
            ))
        })
    }
    fn signal(&self, _: i32) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Err(Error::new(Kind::Unsupported, "convox has no exec-signal")) })
    }
}

impl Compute for Convox {
    fn platform(&self) -> Platform {
        Platform::Convox
    }

    fn context(&self) -> &str {
        &self.context
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("convox", CAPABILITIES)
            .with_native(
                Capability::Start,
                "scale the service up: `boxrig convox service-update APP SERVICE --count N`",
            )
            .with_native(
                Capability::Stop,
                "scale the service to 0: `boxrig convox service-update APP SERVICE --count 0`",
            )
            .with_native(
                Capability::Restart,
                "restart the service: `boxrig convox service-restart APP SERVICE`",
            )
            .with_native(
                Capability::Copy,
                "tar streams: `boxrig convox files-upload` and `files-download`",
            )
            .with_native(
                Capability::ExecSignal,
                "end its process: `boxrig rm APP/PROCESS`",
            )
    }

    fn native(&self) -> &dyn Any {
        &self.client
    }

    fn list(&self, options: ListOptions) -> BoxStream<'_, Result<Instance>> {
        self.processes()
            .map_ok(|p| self.instance(&p))
            .try_filter(move |i| std::future::ready(options.matches(i)))
            .boxed()
    }

    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move { Ok(self.instance(&self.process(id).await?)) })
    }

    fn launch(&self, spec: LaunchSpec) -> BoxFuture<'_, Result<Operation<Instance>>> {
        Box::pin(async move {
            let made = self.make(spec).await?;
            Ok(ready(made.id.clone(), made))
        })
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (app, process) = split(id)?;
            self.client.processes().stop(app, process).await?;
            // A process takes a moment to go.
            for _ in 0..150 {
                match self.client.processes().get(app, process).await {
                    Err(e) if e.kind() == Kind::NotFound => return Ok(()),
                    Err(e) => return Err(e),
                    Ok(now) if state(&now.status).is_terminal() => return Ok(()),
                    Ok(_) => sleep(Duration::from_millis(200)).await,
                }
            }
            Err(Error::new(Kind::Timeout, "the process does not end"))
        })
    }

    fn power<'a>(&'a self, _: &'a str, power: Power) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move {
            self.capabilities().require(power.capability())?;
            Err(Error::new(
                Kind::Unsupported,
                "convox: processes are scaled, not switched",
            ))
        })
    }

    fn exec<'a>(&'a self, id: &'a str, spec: ExecSpec) -> BoxFuture<'a, Result<ExecSession>> {
        Box::pin(async move {
            if !spec.kill_on_drop {
                self.capabilities().require(Capability::ExecDetach)?;
            }
            let (app, process) = split(id)?;
            // On a socket an unknown process is told by words only.
            self.client.processes().get(app, process).await?;
            let headers = ProcessExecHeaders {
                command: quoted(&spec.wrapped_argv()),
                tty: Some(spec.tty.is_some()),
                height: spec.tty.map(|t| i64::from(t.rows)),
                width: spec.tty.map(|t| i64::from(t.cols)),
                ..Default::default()
            };
            let session = self.client.processes().exec(app, process, headers).await?;
            let (input, events) = session.split();
            let stream = spec.stdin == Stdin::Stream;
            if !stream {
                let given = input.clone();
                let stdin = spec.stdin;
                // While the output is read: neither side may wait for the other.
                tokio::spawn(async move {
                    if let Stdin::Bytes(bytes) = stdin {
                        for piece in bytes.chunks(32 * 1024) {
                            if given.write(bytes.slice_ref(piece)).await.is_err() {
                                return;
                            }
                        }
                    }
                    let _ = given.end().await;
                });
            }
            let limit = spec.timeout.map(|t| Clock::now() + t);
            let events = stream::unfold(Some(events), move |events| async move {
                let mut events = events?;
                let next = match limit {
                    None => events.next().await,
                    Some(limit) => match timeout_at(limit, events.next()).await {
                        Ok(next) => next,
                        // Letting the socket go ends the command.
                        Err(_) => {
                            return Some((Ok(ExecEvent::Exit(ExitStatus::timed_out(137))), None));
                        }
                    },
                };
                match next? {
                    Ok(WireEvent::Output(bytes)) => {
                        Some((Ok(ExecEvent::Stdout(bytes)), Some(events)))
                    }
                    Ok(WireEvent::Exit(code)) => {
                        Some((Ok(ExecEvent::Exit(ExitStatus::new(code))), None))
                    }
                    Err(e) => match not_started(&e) {
                        Some(exit) => Some((Ok(ExecEvent::Exit(exit)), None)),
                        None => Some((Err(e), None)),
                    },
                }
            });
            Ok(ExecSession::new(
                events.boxed(),
                Arc::new(Control { input, stream }),
            ))
        })
    }

    fn logs<'a>(
        &'a self,
        id: &'a str,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes>>>> {
        Box::pin(async move {
            let (app, process) = split(id)?;
            self.client.processes().get(app, process).await?;
            let mut which = boxrig_convox::LogOptions::new()
                .follow(options.follow)
                .since(LIFETIME * 365);
            if let Some(lines) = options.tail {
                which = which.tail(u32::try_from(lines).unwrap_or(u32::MAX));
            }
            let log = self.client.processes().logs(app, process, which).await?;
            let lines = log.map_ok(|line| {
                let mut text = line.text().to_vec();
                text.push(b'\n');
                Bytes::from(text)
            });
            Ok(lines.boxed())
        })
    }

    fn snapshot<'a>(
        &'a self,
        id: &'a str,
        spec: SnapshotSpec,
    ) -> BoxFuture<'a, Result<Operation<Snapshot>>> {
        Box::pin(async move {
            let made = self.take(id, spec.name).await?;
            Ok(ready(made.id.clone(), made))
        })
    }

    fn restore<'a>(
        &'a self,
        id: &'a str,
        snapshot: &'a str,
    ) -> BoxFuture<'a, Result<Operation<Instance>>> {
        Box::pin(async move {
            let now = self.back(id, snapshot).await?;
            Ok(ready(now.id.clone(), now))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        let list: Vec<String> = [
            "sh", "-c", "a b", "", "it's", "$HOME", "\"", "x=y", "\\", "a\nb",
        ]
        .map(str::to_owned)
        .to_vec();
        assert_eq!(words(&quoted(&list)), list);
        assert_eq!(words(r#"a "b \" c" d\ e"#), ["a", "b \" c", "d e"]);
    }

    #[test]
    fn labels_stand_in_the_command() {
        let command = "sh -c 'exec sleep 5' boxrig name=web token=t 'label.a=x y' label.b=";
        let said = said(command);
        assert_eq!(said["name"], "web");
        assert_eq!((&*said["label.a"], &*said["label.b"]), ("x y", ""));
        assert!(super::said("rails server name=x").is_empty());
    }

    #[test]
    fn ids_name_app_and_process() {
        assert_eq!(split("web/p-1/x").unwrap(), ("web", "p-1/x"));
        for bad in ["", "web", "/p", "web/"] {
            assert_eq!(split(bad).unwrap_err().kind(), Kind::NotFound);
        }
    }
}
