//! VergeOS: a virtual machine is an instance.
//!
//! The platform keeps no labels: they stand, with the token of the launch, as one line of JSON in the machine's description.

use std::any::Any;
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use boxrig_vergeos::{Client, Filter, Key, RowType, rows};
use boxrig_wire::{BoxFuture, BoxStream, Error, Kind, Operation, Result, Untrusted};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    Capabilities, Capability, Compute, ForkSpec, Instance, LaunchSpec, ListOptions, LogOptions,
    Platform, Power, Snapshot, SnapshotSpec, Source, State, WaitFor, Waiting, ready,
};

const CAPABILITIES: &[Capability] = &[
    Capability::List,
    Capability::Launch,
    Capability::ExactlyOnce,
    Capability::Delete,
    Capability::Start,
    Capability::Stop,
    Capability::Restart,
    Capability::Logs,
    Capability::Snapshot,
    Capability::Restore,
    Capability::Fork,
];

/// What the line in a description begins with.
const MARK: &str = "boxrig ";
/// How long a machine may take to change its power before it is an error.
const SETTLE: Duration = Duration::from_secs(120);

/// A VergeOS system as a context.
#[derive(Clone, Debug)]
pub struct Vergeos {
    context: String,
    client: Client,
}

/// What is kept in a machine's description.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    #[serde(skip_serializing_if = "String::is_empty")]
    token: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
}

impl Kept {
    fn of(description: Option<&str>) -> Self {
        let lines = description.unwrap_or("").lines();
        lines
            .filter_map(|l| serde_json::from_str(l.strip_prefix(MARK)?).ok())
            .next()
            .unwrap_or_default()
    }
    fn text(&self) -> String {
        format!("{MARK}{}", serde_json::to_string(self).unwrap_or_default())
    }
}

/// A machine's state in words that all platforms share.
fn state(vm: &rows::Vm) -> State {
    match vm.record().text("status").unwrap_or("") {
        "running" => State::Running,
        "stopped" | "offline" | "" if vm.record().flag("running") != Some(true) => State::Stopped,
        "" => State::Running,
        "hibernated" | "paused" => State::Paused,
        "error" => State::Failed,
        "initializing" | "starting" => State::Starting,
        other => State::from(other),
    }
}

impl Vergeos {
    /// Through `client`, shown as `context`.
    pub fn new(context: impl Into<String>, client: Client) -> Self {
        Self {
            context: context.into(),
            client,
        }
    }

    /// The complete native client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn instance(&self, vm: &rows::Vm) -> Instance {
        let record = vm.record();
        let id = vm.key().map(|k| k.to_string()).unwrap_or_default();
        let mut i = Instance::new(Platform::Vergeos, &*self.context, id);
        i.name = Untrusted::new(vm.name().unwrap_or(""));
        i.state = state(vm);
        i.native_state = Untrusted::new(record.text("status").unwrap_or("stopped"));
        i.engine = Some("vm".into());
        let created = record.int("created").and_then(|t| u64::try_from(t).ok());
        i.created = created.map(|t| UNIX_EPOCH + Duration::from_secs(t));
        i.cpus = record.float("cpu_cores").filter(|n| *n > 0.0);
        let ram = record.int("ram").and_then(|mb| u64::try_from(mb).ok());
        i.memory = ram.map(|mb| mb << 20);
        i.labels = Kept::of(record.text("description")).labels;
        i.raw = record.to_map().into();
        i
    }

    async fn vm(&self, id: &str) -> Result<rows::Vm> {
        let vm = self.client.vms().get().key(id).await?;
        // A snapshot has a row among the machines too, and is none.
        match vm.record().flag("is_snapshot") {
            Some(true) => Err(Error::new(
                Kind::NotFound,
                format!("no machine {}", Untrusted::new(id)),
            )),
            _ => Ok(vm),
        }
    }

    /// Waits until the machine runs, or does not.
    async fn settled(&self, id: &str, running: bool) -> Result<rows::Vm> {
        let wanted = if running {
            WaitFor::Running
        } else {
            WaitFor::Stopped
        };
        crate::wait::poll(self, id, Waiting::new(wanted).timeout(SETTLE)).await?;
        self.vm(id).await
    }

    async fn launched(&self, token: &str) -> Result<Option<rows::Vm>> {
        let filter = Filter::cs("description", token);
        let found = self.client.vms().list().filter(filter).await?;
        let ours = |vm: &rows::Vm| Kept::of(vm.record().text("description")).token == token;
        Ok(found.into_iter().find(ours))
    }

    async fn launch_vm(&self, spec: LaunchSpec) -> Result<rows::Vm> {
        let cannot = |what: &str, hint: &str| {
            Err(Error::new(
                Kind::Unsupported,
                format!("vergeos has no {what} at launch"),
            )
            .with_hint(hint.to_owned()))
        };
        if !spec.env.is_empty() {
            return cannot(
                "environment",
                "use cloud-init: `boxrig vergeos vms create --cloud-init`",
            );
        }
        if spec.ttl.is_some() {
            return cannot(
                "time to live",
                "delete it by a task: `boxrig vergeos tasks create`",
            );
        }
        if spec.may_be_known()
            && let Some(vm) = self.launched(&spec.token).await?
        {
            let id = vm.key().map(|k| k.to_string()).unwrap_or_default();
            return self.start(&id).await;
        }
        let kept = Kept {
            token: spec.token.clone(),
            labels: spec.labels.clone(),
        };
        let name = match &spec.name {
            Some(name) => name.clone(),
            None => format!("boxrig-{}", spec.token.get(..8).unwrap_or(&spec.token)),
        };
        let cpus = match spec.cpus {
            None => 1,
            Some(n) if n >= 1.0 && n.fract() == 0.0 && n <= 1024.0 => n as i64,
            Some(n) => {
                let words = format!("vergeos: cpus {n}: a whole number from 1");
                return Err(Error::new(Kind::Invalid, words));
            }
        };
        let ram =
            i64::try_from(spec.memory.unwrap_or(1 << 30).div_ceil(1 << 20)).unwrap_or(i64::MAX);
        let key = match &spec.source {
            Source::Default => {
                let vm = self
                    .client
                    .vms()
                    .create(name)
                    .ram(ram)
                    .cpu_cores(cpus)
                    .description(kept.text())
                    .await?;
                vm.key()
            }
            Source::Image(image) => match image.split_once(':') {
                Some(("clone", of)) => {
                    let original = match of.parse::<i64>() {
                        Ok(key) => self.client.vms().get().key(key).await?,
                        Err(_) => self.client.vms().get().name(of).await?,
                    };
                    Some(self.clone_of(&original, name, &kept).await?)
                }
                _ => {
                    let recipe = image.strip_prefix("recipe:").unwrap_or(image);
                    let recipe = self.client.vm_recipes().get().name(recipe).await?;
                    let made = self.client.vm_recipes().of(&recipe).deploy(name).await?;
                    let key = made.record().key("vm");
                    if let Some(key) = key.clone() {
                        let vms = self.client.vms();
                        vms.update(key).set("description", kept.text()).await?;
                    }
                    key
                }
            },
            Source::Snapshot(_) => {
                return Err(Error::new(
                    Kind::Unsupported,
                    "vergeos restores snapshots, it launches none",
                )
                .with_hint("`boxrig vergeos vms.snapshots restore VM --key SNAPSHOT --name NEW`"));
            }
        };
        let key = key.ok_or_else(|| Error::new(Kind::Protocol, "the new machine has no key"))?;
        self.start(&key.to_string()).await
    }

    async fn start(&self, id: &str) -> Result<rows::Vm> {
        let vm = self.vm(id).await?;
        if state(&vm) == State::Running {
            return Ok(vm);
        }
        self.client.vms().of(&vm).power_on().await?;
        self.settled(id, true).await
    }

    async fn stop(&self, id: &str, force: bool) -> Result<rows::Vm> {
        let vm = self.vm(id).await?;
        if state(&vm) == State::Stopped {
            return Ok(vm);
        }
        self.client.vms().of(&vm).power_off().force(force).await?;
        self.settled(id, false).await
    }

    async fn clone_of(&self, vm: &rows::Vm, name: String, kept: &Kept) -> Result<Key> {
        let receipt = self.client.vms().of(vm).clone().name(name.clone()).await?;
        let key = Key::of(&receipt["response"]["vmkey"]);
        let key = match key {
            Some(key) => key,
            None => {
                let made = self.client.vms().get().name(name).await?;
                made.key()
                    .ok_or_else(|| Error::new(Kind::Protocol, "the clone has no key"))?
            }
        };
        let vms = self.client.vms();
        vms.update(&key).set("description", kept.text()).await?;
        Ok(key)
    }
}

impl Compute for Vergeos {
    fn platform(&self) -> Platform {
        Platform::Vergeos
    }

    fn context(&self) -> &str {
        &self.context
    }

    fn capabilities(&self) -> Capabilities {
        const NO_AGENT: &str = "VergeOS reaches into no guest: use SSH to the machine's address";
        Capabilities::new("vergeos", CAPABILITIES)
            .with_native(Capability::Exec, NO_AGENT)
            .with_native(Capability::Copy, NO_AGENT)
            .with_native(
                Capability::Pause,
                "hibernate it: `boxrig vergeos vms hibernate VM`",
            )
            .with_native(
                Capability::LaunchFromSnapshot,
                "restore it under a new name: `boxrig vergeos vms.snapshots restore`",
            )
    }

    fn native(&self) -> &dyn Any {
        &self.client
    }

    fn list(&self, options: ListOptions) -> BoxStream<'_, Result<Instance>> {
        stream::once(async move { self.client.vms().list().await })
            .flat_map(move |listed| {
                let items: Vec<Result<Instance>> = match listed {
                    Ok(vms) => vms
                        .iter()
                        .map(|vm| self.instance(vm))
                        .filter(|i| options.matches(i))
                        .map(Ok)
                        .collect(),
                    Err(e) => vec![Err(e)],
                };
                stream::iter(items)
            })
            .boxed()
    }

    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move { Ok(self.instance(&self.vm(id).await?)) })
    }

    fn launch(&self, spec: LaunchSpec) -> BoxFuture<'_, Result<Operation<Instance>>> {
        Box::pin(async move {
            let instance = self.instance(&self.launch_vm(spec).await?);
            Ok(ready(instance.id.clone(), instance))
        })
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.stop(id, true).await?;
            self.client.vms().delete(id).await
        })
    }

    fn power<'a>(&'a self, id: &'a str, power: Power) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move {
            self.capabilities().require(power.capability())?;
            let vm = match power {
                Power::Start => self.start(id).await?,
                Power::Stop { force, .. } => self.stop(id, force).await?,
                Power::Restart { force } => {
                    let vm = self.vm(id).await?;
                    let handle = self.client.vms().of(&vm);
                    match (state(&vm), force) {
                        (State::Stopped, _) => return Ok(self.instance(&self.start(id).await?)),
                        (_, true) => handle.reset().await?,
                        (_, false) => handle.guest_reboot().await?,
                    }
                    self.settled(id, true).await?
                }
                _ => self.vm(id).await?,
            };
            Ok(self.instance(&vm))
        })
    }

    fn logs<'a>(
        &'a self,
        id: &'a str,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes>>>> {
        Box::pin(async move {
            if options.follow {
                self.capabilities().require(Capability::LogsFollow)?;
            }
            let vm = self.vm(id).await?;
            let limit = options.tail.unwrap_or(1000).min(100_000);
            let logs = self.client.vms().of(&vm).machine_logs();
            let mut rows = logs.list().limit(limit as i64).await?;
            // They come newest first.
            rows.reverse();
            let lines: Vec<Result<Bytes>> = rows
                .iter()
                .map(|row| {
                    let text = row.record().text("text").unwrap_or("").to_owned();
                    Ok(Bytes::from(format!("{text}\n")))
                })
                .collect();
            Ok(stream::iter(lines).boxed())
        })
    }

    fn snapshot<'a>(
        &'a self,
        id: &'a str,
        spec: SnapshotSpec,
    ) -> BoxFuture<'a, Result<Operation<Snapshot>>> {
        Box::pin(async move {
            let vm = self.vm(id).await?;
            let mut create = self.client.vms().of(&vm).snapshots().create();
            if let Some(name) = spec.name {
                create = create.name(name);
            }
            let made = create.await?;
            let key = made.get("$key").and_then(Key::of);
            let key = key.ok_or_else(|| Error::new(Kind::Protocol, "the snapshot has no key"))?;
            let mut snapshot = Snapshot::new(key.to_string());
            snapshot.name = Untrusted::new(made["name"].as_str().unwrap_or(""));
            snapshot.instance = Some(id.to_owned());
            snapshot.raw = made;
            Ok(ready(snapshot.id.clone(), snapshot))
        })
    }

    fn restore<'a>(
        &'a self,
        id: &'a str,
        snapshot: &'a str,
    ) -> BoxFuture<'a, Result<Operation<Instance>>> {
        Box::pin(async move {
            let vm = self.vm(id).await?;
            let ran = state(&vm) == State::Running;
            self.stop(id, true).await?;
            let snapshots = self.client.vms().of(&vm).snapshots();
            snapshots.restore(snapshot).replace_original(true).await?;
            let vm = match ran {
                true => self.start(id).await?,
                false => self.vm(id).await?,
            };
            let instance = self.instance(&vm);
            Ok(ready(instance.id.clone(), instance))
        })
    }

    fn fork<'a>(
        &'a self,
        id: &'a str,
        spec: ForkSpec,
    ) -> BoxFuture<'a, Result<Operation<Instance>>> {
        Box::pin(async move {
            let vm = self.vm(id).await?;
            let mut kept = Kept::of(vm.record().text("description"));
            kept.token.clear();
            kept.labels.extend(spec.labels);
            let name = match spec.name {
                Some(name) => name,
                None => format!("{}-copy", vm.name().unwrap_or("vm")),
            };
            let key = self.clone_of(&vm, name, &kept).await?;
            let vm = match state(&vm) {
                State::Running => self.start(&key.to_string()).await?,
                _ => self.vm(&key.to_string()).await?,
            };
            let instance = self.instance(&vm);
            Ok(ready(instance.id.clone(), instance))
        })
    }

    fn wait<'a>(
        &'a self,
        id: &'a str,
        waiting: Waiting,
    ) -> BoxFuture<'a, Result<Option<Instance>>> {
        Box::pin(async move { crate::wait::poll(self, id, waiting).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_live_in_the_description() {
        let kept = Kept {
            token: "t".into(),
            labels: [("a".to_owned(), "b\nc".to_owned())].into(),
        };
        let text = format!("a person's words\n{}", kept.text());
        let back = Kept::of(Some(&text));
        assert_eq!((back.token.as_str(), back.labels), ("t", kept.labels));
        assert!(Kept::of(Some("boxrig is nice")).labels.is_empty());
        assert!(Kept::of(None).token.is_empty());
    }
}
