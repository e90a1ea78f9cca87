//! FastVM: a machine is an instance.

use std::any::Any;
use std::time::Duration;

use boxrig_fastvm::{
    Checked, Client, Exec, ExecEvent as WireEvent, ExecExit, Launch, ListVms, MachineType,
    TransferOptions, TransferReport, Ttl, Vm, VmStatus, Wait,
};
use boxrig_wire::{BoxFuture, BoxStream, Error, Kind, Operation, Result, Untrusted};
use futures_util::{StreamExt, stream};
use std::sync::Arc;

use crate::exec::NoControl;
use crate::{
    Capabilities, Capability, Compute, CopyReport, CopySpec, Direction, ExecEvent, ExecSession,
    ExecSpec, ExitStatus, ForkSpec, Instance, LaunchSpec, ListOptions, Platform, Power, Snapshot,
    SnapshotSpec, Source, State, Stdin, WaitFor, Waiting, ready,
};

/// The metadata key under which a launch leaves its token.
pub const TOKEN_LABEL: &str = boxrig_fastvm::TOKEN_KEY;

/// The image that FastVM starts from when nothing is said.
const BASE_IMAGE: &str = "boxrig/base";

const CAPABILITIES: &[Capability] = &[
    Capability::List,
    Capability::Launch,
    Capability::LaunchFromSnapshot,
    Capability::ExactlyOnce,
    Capability::Delete,
    Capability::Pause,
    Capability::Resume,
    Capability::Exec,
    Capability::ExecStderr,
    Capability::Copy,
    Capability::Snapshot,
    Capability::SnapshotFiles,
    Capability::Fork,
];

/// A FastVM account as a context.
#[derive(Clone, Debug)]
pub struct Fastvm {
    context: String,
    client: Client,
}

impl Fastvm {
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

    /// A machine as an instance.
    pub(crate) fn instance(&self, vm: &Vm) -> Instance {
        let mut i = Instance::new(Platform::Fastvm, &*self.context, &*vm.id);
        i.name = vm.name.clone();
        i.state = state(&vm.status);
        i.native_state = Untrusted::new(vm.status.as_str());
        i.engine = Some("microvm".into());
        i.created = vm.created_at.timestamp().map(Into::into);
        i.cpus = (vm.cpu > 0).then_some(f64::from(vm.cpu));
        i.memory = (vm.memory_mib > 0).then_some(vm.memory_mib << 20);
        i.disk = (vm.disk_gib > 0).then_some(vm.disk_gib << 30);
        i.ips = vm.public_ipv6.iter().cloned().collect();
        i.labels = vm.metadata.clone().unwrap_or_default();
        i.raw = serde_json::to_value(vm).unwrap_or_default();
        i
    }

    /// The machine of an earlier launch under this token.
    async fn launched(&self, token: &str) -> Result<Option<Vm>> {
        let which = ListVms::new().metadata(TOKEN_LABEL, token);
        let found = self.client.vms().list(which).await?;
        // A service that does not know the filter answers with all machines.
        let ours = |vm: &Vm| {
            let metadata = vm.metadata.as_ref();
            metadata
                .and_then(|m| m.get(TOKEN_LABEL))
                .map(String::as_str)
                == Some(token)
        };
        Ok(found.into_iter().find(ours))
    }

    pub(crate) async fn launch_vm(&self, spec: LaunchSpec) -> Result<Vm> {
        let wait = Wait::timeout(spec.wait_timeout);
        if spec.may_be_known()
            && let Some(vm) = self.launched(&spec.token).await?
        {
            return self.client.vms().wait_ready(&vm.id, wait).await;
        }
        let mut launch = match &spec.source {
            Source::Snapshot(id) => Launch::from_snapshot(id),
            Source::Default => Launch::new(machine_type(&spec)?),
            Source::Image(image) if image == BASE_IMAGE => Launch::new(machine_type(&spec)?),
            Source::Image(image) => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!(
                        "fastvm starts no image directly: {}",
                        Untrusted::new(&**image)
                    ),
                )
                .with_hint("make a snapshot of it first: `boxrig fastvm create-snapshot-import`"));
            }
        };
        launch = launch.wait(Some(wait)).metadata(TOKEN_LABEL, spec.token);
        if let Some(name) = spec.name {
            launch = launch.name(name);
        }
        for (name, value) in spec.labels {
            launch = launch.metadata(name, value);
        }
        for (name, value) in spec.env {
            launch = launch.env(name, value);
        }
        if let Some(bytes) = spec.disk {
            launch = launch.disk_gib(bytes.div_ceil(1 << 30));
        }
        if let Some(ttl) = spec.ttl {
            launch = launch.ttl(Ttl::delete(ttl.as_secs().max(1)));
        }
        Ok(self.client.vms().launch(launch).await?.vm)
    }

    pub(crate) async fn snapshot_vm(&self, id: &str, name: Option<String>) -> Result<Snapshot> {
        let made = self.client.snapshots().create(id, name.as_deref()).await?;
        let mut s = Snapshot::new(&*made.id);
        s.name = made.name.clone();
        s.instance = Some(made.vm_id.clone());
        s.state = Untrusted::new(made.status.as_str());
        s.created = made.created_at.timestamp().map(Into::into);
        s.raw = serde_json::to_value(&made).unwrap_or_default();
        Ok(s)
    }

    /// A copy is a snapshot, a machine of it, and the end of the snapshot.
    pub(crate) async fn fork_vm(&self, id: &str, spec: ForkSpec) -> Result<Vm> {
        let snapshot = self.snapshot_vm(id, None).await?;
        let mut launch = LaunchSpec::new().snapshot(&*snapshot.id);
        launch.name = spec.name;
        // A restore with metadata of its own inherits none.
        let original = self.client.vms().get(id).await?;
        launch.labels = original.metadata.unwrap_or_default();
        launch.labels.remove(TOKEN_LABEL);
        launch.labels.extend(spec.labels);
        let made = self.launch_vm(launch).await;
        let removed = self.client.snapshots().delete(&snapshot.id).await;
        let vm = made?;
        removed.map_err(|e| {
            e.context(format!(
                "the copy {} is made, its snapshot {} is left",
                Untrusted::new(&*vm.id),
                Untrusted::new(&*snapshot.id)
            ))
        })?;
        Ok(vm)
    }
}

/// The end of a command; why it could not be started is shown as its error output.
fn ended(exit: &ExecExit) -> Vec<Result<ExecEvent>> {
    let mut events = Vec::new();
    if let Some(words) = &exit.diagnostic {
        // The service's words and not the command's: they are shown escaped.
        let line = format!("{words}\n");
        events.push(Ok(ExecEvent::Stderr(line.into())));
    }
    events.push(Ok(ExecEvent::Exit(if exit.timed_out {
        ExitStatus::timed_out(exit.code)
    } else {
        ExitStatus::new(exit.code)
    })));
    events
}

/// What the transfer reports, in the words of all platforms.
fn report(done: TransferReport) -> CopyReport {
    let checked = match done.checked {
        Checked::Sha256 => "sha256",
        Checked::Gzip => "gzip",
        _ => "length",
    };
    let mut report = CopyReport::new(done.bytes, Some(done.entries), checked);
    report.warnings = done
        .skipped
        .iter()
        .map(|s| Untrusted::new(format!("left out: {}: {}", s.path.raw(), s.why)))
        .collect();
    let more = done.skipped_count.saturating_sub(done.skipped.len() as u64);
    if more > 0 {
        let line = format!("left out: {more} more");
        report.warnings.push(Untrusted::new(line));
    }
    report.warnings.extend(done.warnings);
    report
}

fn state(status: &VmStatus) -> State {
    match status {
        VmStatus::Running => State::Running,
        VmStatus::Paused => State::Paused,
        VmStatus::Stopped => State::Stopped,
        VmStatus::Deleting => State::Deleting,
        VmStatus::Error => State::Failed,
        VmStatus::Provisioning | VmStatus::Resuming => State::Starting,
        other => State::from(other.as_str()),
    }
}

/// FastVM's sizes are whole processors and whole GiB.
fn machine_type(spec: &LaunchSpec) -> Result<MachineType> {
    let invalid = |what: &str| Error::new(Kind::Invalid, format!("fastvm: {what}"));
    let cpus = match spec.cpus {
        None => None,
        Some(n) if n >= 1.0 && n.fract() == 0.0 && n <= 1024.0 => Some(n as u64),
        Some(n) => return Err(invalid(&format!("cpus {n}: a whole number from 1"))),
    };
    let gib = match spec.memory {
        None => None,
        Some(bytes) if bytes > 0 && bytes % (1 << 30) == 0 => Some(bytes >> 30),
        Some(bytes) => {
            return Err(invalid(&format!(
                "memory {bytes}: whole GiB (1GiB, 2GiB, …)"
            )));
        }
    };
    let cpus = cpus.unwrap_or(1);
    let gib = gib.unwrap_or(cpus * 2);
    Ok(MachineType(format!("c{cpus}m{gib}")))
}

impl Compute for Fastvm {
    fn platform(&self) -> Platform {
        Platform::Fastvm
    }

    fn context(&self) -> &str {
        &self.context
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("fastvm", CAPABILITIES)
            .with_native(Capability::Stop, "pause it: a paused machine uses no quota")
            .with_native(Capability::Start, "resume a paused machine")
            .with_native(
                Capability::ExecTty,
                "the console: `boxrig fastvm create-console-token`",
            )
            .with_native(
                Capability::Restore,
                "launch a new machine from the snapshot: `boxrig launch --snapshot ID`",
            )
    }

    fn native(&self) -> &dyn Any {
        &self.client
    }

    fn list(&self, options: ListOptions) -> BoxStream<'_, Result<Instance>> {
        let mut which = ListVms::new();
        for (key, value) in &options.labels {
            which = which.metadata(key, value);
        }
        stream::once(async move { self.client.vms().list(which).await })
            .flat_map(move |listed| {
                let options = options.clone();
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
        Box::pin(async move { Ok(self.instance(&self.client.vms().get(id).await?)) })
    }

    fn launch(&self, spec: LaunchSpec) -> BoxFuture<'_, Result<Operation<Instance>>> {
        Box::pin(async move {
            let vm = self.launch_vm(spec).await?;
            Ok(ready(vm.id.clone(), self.instance(&vm)))
        })
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.client.vms().delete(id).await.map(drop) })
    }

    fn power<'a>(&'a self, id: &'a str, power: Power) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move {
            self.capabilities().require(power.capability())?;
            let vm = match power {
                Power::Pause => self.client.vms().pause(id).await?,
                _ => {
                    let vm = self.client.vms().resume(id).await?;
                    match vm.status {
                        VmStatus::Running => vm,
                        _ => self.client.vms().wait_ready(id, Wait::default()).await?,
                    }
                }
            };
            Ok(self.instance(&vm))
        })
    }

    fn exec<'a>(&'a self, id: &'a str, spec: ExecSpec) -> BoxFuture<'a, Result<ExecSession>> {
        Box::pin(async move {
            let can = self.capabilities();
            for (asked, what) in [
                (spec.tty.is_some(), Capability::ExecTty),
                (spec.stdin == Stdin::Stream, Capability::ExecStdin),
                (!spec.kill_on_drop, Capability::ExecDetach),
            ] {
                if asked {
                    can.require(what)?;
                }
            }
            let mut exec = Exec::new(spec.wrapped_argv());
            if let Stdin::Bytes(bytes) = spec.stdin {
                exec = exec.stdin(bytes);
            }
            if let Some(limit) = spec.timeout {
                exec = exec.timeout(limit);
            }
            let events = self.client.vms().stream(id, exec).await?;
            let events = events.flat_map(|event| {
                stream::iter(match event {
                    Ok(WireEvent::Stdout(data)) => vec![Ok(ExecEvent::Stdout(data))],
                    Ok(WireEvent::Stderr(data)) => vec![Ok(ExecEvent::Stderr(data))],
                    Ok(WireEvent::Exit(exit)) => ended(&exit),
                    Ok(_) => Vec::new(),
                    Err(e) => vec![Err(e)],
                })
            });
            Ok(ExecSession::new(
                events.boxed(),
                Arc::new(NoControl("fastvm")),
            ))
        })
    }

    fn copy<'a>(&'a self, id: &'a str, spec: CopySpec) -> BoxFuture<'a, Result<CopyReport>> {
        Box::pin(async move {
            let mut options = TransferOptions::new();
            if let Some(progress) = spec.progress {
                options = options.progress(move |p| progress(p.bytes, p.total));
            }
            let done = match spec.direction {
                Direction::In => {
                    let sent = self
                        .client
                        .upload_with(id, &spec.local, &spec.remote, &options);
                    sent.await?
                }
                Direction::Out => {
                    let got = self
                        .client
                        .download_with(id, &spec.remote, &spec.local, &options);
                    got.await?
                }
            };
            Ok(report(done))
        })
    }

    fn snapshot<'a>(
        &'a self,
        id: &'a str,
        spec: SnapshotSpec,
    ) -> BoxFuture<'a, Result<Operation<Snapshot>>> {
        Box::pin(async move {
            let snapshot = self.snapshot_vm(id, spec.name).await?;
            Ok(ready(snapshot.id.clone(), snapshot))
        })
    }

    fn fork<'a>(
        &'a self,
        id: &'a str,
        spec: ForkSpec,
    ) -> BoxFuture<'a, Result<Operation<Instance>>> {
        Box::pin(async move {
            let vm = self.fork_vm(id, spec).await?;
            Ok(ready(vm.id.clone(), self.instance(&vm)))
        })
    }

    fn wait<'a>(
        &'a self,
        id: &'a str,
        waiting: Waiting,
    ) -> BoxFuture<'a, Result<Option<Instance>>> {
        Box::pin(async move {
            if waiting.wanted != WaitFor::Running {
                return crate::wait::poll(self, id, waiting).await;
            }
            let wait = Wait::timeout(waiting.timeout.max(Duration::from_millis(1)));
            let vm = self.client.vms().wait_ready(id, wait).await?;
            Ok(Some(self.instance(&vm)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_or_refused() {
        let size = |spec: LaunchSpec| machine_type(&spec).map(|m| m.0);
        assert_eq!(size(LaunchSpec::new()).unwrap(), "c1m2");
        assert_eq!(size(LaunchSpec::new().cpus(2.0)).unwrap(), "c2m4");
        assert_eq!(size(LaunchSpec::new().memory(8 << 30)).unwrap(), "c1m8");
        for bad in [
            LaunchSpec::new().cpus(0.5),
            LaunchSpec::new().cpus(f64::NAN),
            LaunchSpec::new().memory(512 << 20),
            LaunchSpec::new().memory(0),
        ] {
            assert_eq!(machine_type(&bad).unwrap_err().kind(), Kind::Invalid);
        }
    }

    #[test]
    fn words_for_states() {
        assert_eq!(state(&VmStatus::Error), State::Failed);
        assert_eq!(state(&VmStatus::Provisioning), State::Starting);
        let odd = state(&VmStatus::from("migrating"));
        assert_eq!(odd, State::Unknown("migrating".into()));
    }
}
