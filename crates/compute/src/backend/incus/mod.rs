//! Incus: a container or virtual machine is an instance, and its name, which no other has in its project, the id.

mod calls;
mod copy;
mod exec;
mod facts;
mod life;
mod logs;
mod snapshots;

use std::any::Any;

use boxrig_incus::models::InstanceFull;
use boxrig_incus::{Client, List, Sync, ops};
use boxrig_wire::{BoxFuture, BoxStream, NoBody, Operation, Result};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::{
    Capabilities, Capability, Compute, CopyReport, CopySpec, ExecSession, ExecSpec, ForkSpec,
    Instance, LaunchSpec, ListOptions, LogOptions, Platform, Power, Snapshot, SnapshotSpec, ready,
};

/// The configuration key under which a launch leaves its token.
pub const TOKEN_KEY: &str = "user.boxrig.token";

/// Configuration keys that people and programs label instances with.
const LABELS: &str = "user.";

const CAPABILITIES: &[Capability] = &[
    Capability::List,
    Capability::Launch,
    Capability::LaunchFromSnapshot,
    Capability::ExactlyOnce,
    Capability::Delete,
    Capability::Start,
    Capability::Stop,
    Capability::Restart,
    Capability::Pause,
    Capability::Resume,
    Capability::Exec,
    Capability::ExecStdin,
    Capability::ExecTty,
    Capability::ExecSignal,
    Capability::ExecStderr,
    Capability::Copy,
    Capability::Logs,
    Capability::LogsFollow,
    Capability::Snapshot,
    Capability::SnapshotFiles,
    Capability::Restore,
    Capability::Fork,
];

/// A project of an Incus server as a context.
#[derive(Clone, Debug)]
pub struct Incus {
    context: String,
    client: Client,
    image: Option<String>,
}

impl Incus {
    /// Through `client`, shown as `context`, in the client's project.
    pub fn new(context: impl Into<String>, client: Client) -> Self {
        Self {
            context: context.into(),
            client,
            image: None,
        }
    }

    /// Starting from this image (alias or fingerprint) when a launch names none.
    pub fn image(mut self, image: impl Into<String>) -> Self {
        self.image = Some(image.into());
        self
    }

    /// The complete native client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// An instance as it is kept, which the server has at hand.
    async fn kept(&self, name: &str) -> Result<InstanceFull> {
        let got = self
            .call::<ops::instances::InstanceGet>((name.to_owned(),), Default::default(), NoBody)
            .await?;
        Ok(got.metadata)
    }

    /// An instance with its addresses and what else the server has to look for in the instance itself.
    async fn full(&self, name: &str) -> Result<InstanceFull> {
        let query = ops::queries::ProjectRecursionQuery {
            recursion: Some(1),
            ..Default::default()
        };
        let got = self
            .call::<ops::instances::InstanceGet>((name.to_owned(),), query, NoBody)
            .await?;
        Ok(got.metadata)
    }
}

/// A document that is empty but for what is set.
fn with<T: Default>(set: impl FnOnce(&mut T)) -> T {
    let mut document = T::default();
    set(&mut document);
    document
}

impl Compute for Incus {
    fn platform(&self) -> Platform {
        Platform::Incus
    }

    fn context(&self) -> &str {
        &self.context
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("incus", CAPABILITIES).with_native(
            Capability::ExecDetach,
            "have the output recorded: `boxrig incus instance-exec-post NAME -d record-output=true …`",
        )
    }

    fn native(&self) -> &dyn Any {
        &self.client
    }

    fn names_are_ids(&self) -> bool {
        true
    }

    fn list(&self, options: ListOptions) -> BoxStream<'_, Result<Instance>> {
        let query = ops::instances::InstancesGetQuery {
            // Addresses are part of the state, which the server has to ask every instance for.
            recursion: Some(if options.addresses { 2 } else { 1 }),
            filter: facts::filter(&options),
            ..Default::default()
        };
        stream::once(async move {
            self.call::<ops::instances::InstancesGet>((), query, NoBody)
                .await
        })
        .flat_map(move |listed| {
            let options = options.clone();
            let items: Vec<Result<Instance>> = match listed {
                Ok(Sync { metadata, .. }) => List::items(metadata)
                    .into_iter()
                    .map(|i| self.instance(i))
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
        Box::pin(async move { Ok(self.instance(self.full(id).await?)) })
    }

    fn look<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move { Ok(self.instance(self.kept(id).await?)) })
    }

    fn launch(&self, spec: LaunchSpec) -> BoxFuture<'_, Result<Operation<Instance>>> {
        Box::pin(async move {
            let made = self.make(spec).await?;
            Ok(ready(made.id.clone(), made))
        })
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.remove(id))
    }

    fn power<'a>(&'a self, id: &'a str, power: Power) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(self.power_to(id, power))
    }

    fn exec<'a>(&'a self, id: &'a str, spec: ExecSpec) -> BoxFuture<'a, Result<ExecSession>> {
        Box::pin(self.command(id, spec))
    }

    fn copy<'a>(&'a self, id: &'a str, spec: CopySpec) -> BoxFuture<'a, Result<CopyReport>> {
        Box::pin(self.transfer(id, spec))
    }

    fn logs<'a>(
        &'a self,
        id: &'a str,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes>>>> {
        Box::pin(self.log(id, options))
    }

    fn snapshot<'a>(
        &'a self,
        id: &'a str,
        spec: SnapshotSpec,
    ) -> BoxFuture<'a, Result<Operation<Snapshot>>> {
        Box::pin(async move {
            let made = self.snapshot_of(id, spec).await?;
            Ok(ready(made.id.clone(), made))
        })
    }

    fn restore<'a>(
        &'a self,
        id: &'a str,
        snapshot: &'a str,
    ) -> BoxFuture<'a, Result<Operation<Instance>>> {
        Box::pin(async move { Ok(ready(id, self.back_to(id, snapshot).await?)) })
    }

    fn fork<'a>(
        &'a self,
        id: &'a str,
        spec: ForkSpec,
    ) -> BoxFuture<'a, Result<Operation<Instance>>> {
        Box::pin(async move {
            let made = self.copy_of(id, spec).await?;
            Ok(ready(made.id.clone(), made))
        })
    }
}
