//! The verbs.

use std::any::Any;
use std::fmt::Debug;

use boxrig_wire::{
    BoxFuture, BoxStream, Error, Kind, Operation, Progress, Result, Untrusted, Work,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::wait::poll;
use crate::{
    Capabilities, Capability, CopyReport, CopySpec, ExecOutput, ExecSession, ExecSpec, ForkSpec,
    Instance, LaunchSpec, ListOptions, LogOptions, Platform, Power, Snapshot, SnapshotSpec,
    Waiting,
};

/// Twelve verbs over one context of a platform. `Arc<dyn Compute>` is what programs hold.
///
/// A backend writes the verbs it declares; the others are left as they are here and fail before anything is sent. All
/// take the platform's id ([`Instance::id`]); names are looked up by [`ComputeExt::find`].
pub trait Compute: Send + Sync + Debug + 'static {
    /// Whose protocol it speaks.
    fn platform(&self) -> Platform;

    /// The name of the context, as it is shown with every instance.
    fn context(&self) -> &str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Whether the platform knows instances by their names, so that none need be looked up in the list.
    fn names_are_ids(&self) -> bool {
        false
    }

    /// The complete native client, to be downcast.
    fn native(&self) -> &dyn Any;

    /// Instances as they come; never held whole. Dropping the stream ends the reading.
    fn list(&self, options: ListOptions) -> BoxStream<'_, Result<Instance>>;

    /// One instance.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] for an unknown id; this and all other verbs: those of the platform, by meaning.
    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Instance>>;

    /// As [`get`](Self::get), without what the platform would have to ask the instance itself for, such as addresses.
    fn look<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Instance>> {
        self.get(id)
    }

    /// Makes an instance. The operation ends when commands can run in it.
    fn launch(&self, spec: LaunchSpec) -> BoxFuture<'_, Result<Operation<Instance>>> {
        let _ = spec;
        no(self.capabilities(), Capability::Launch)
    }

    /// Removes an instance with everything that belongs to it alone. One that is not there is
    /// [`Kind::NotFound`].
    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        let _ = id;
        no(self.capabilities(), Capability::Delete)
    }

    /// Starts, stops, restarts, pauses or resumes; done when the state is reached.
    fn power<'a>(&'a self, id: &'a str, power: Power) -> BoxFuture<'a, Result<Instance>> {
        let _ = id;
        no(self.capabilities(), power.capability())
    }

    /// Runs a command. That it cannot be started is [`ExecEvent::Exit`](crate::ExecEvent::Exit) with 126 or 127.
    fn exec<'a>(&'a self, id: &'a str, spec: ExecSpec) -> BoxFuture<'a, Result<ExecSession>> {
        let _ = (id, spec);
        no(self.capabilities(), Capability::Exec)
    }

    /// Copies a file or directory in or out, checked.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] with the code `ENOENT` when the source does not exist.
    fn copy<'a>(&'a self, id: &'a str, spec: CopySpec) -> BoxFuture<'a, Result<CopyReport>> {
        let _ = (id, spec);
        no(self.capabilities(), Capability::Copy)
    }

    /// Reads a log.
    fn logs<'a>(
        &'a self,
        id: &'a str,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes>>>> {
        let _ = (id, options);
        no(self.capabilities(), Capability::Logs)
    }

    /// Makes a snapshot.
    fn snapshot<'a>(
        &'a self,
        id: &'a str,
        spec: SnapshotSpec,
    ) -> BoxFuture<'a, Result<Operation<Snapshot>>> {
        let _ = (id, spec);
        no(self.capabilities(), Capability::Snapshot)
    }

    /// Puts an instance back to a snapshot of it, in place.
    fn restore<'a>(
        &'a self,
        id: &'a str,
        snapshot: &'a str,
    ) -> BoxFuture<'a, Result<Operation<Instance>>> {
        let _ = (id, snapshot);
        no(self.capabilities(), Capability::Restore)
    }

    /// Makes a copy of an instance.
    fn fork<'a>(
        &'a self,
        id: &'a str,
        spec: ForkSpec,
    ) -> BoxFuture<'a, Result<Operation<Instance>>> {
        let _ = (id, spec);
        no(self.capabilities(), Capability::Fork)
    }

    /// Waits for a state; `None` when the instance is [gone](crate::WaitFor::Gone).
    ///
    /// # Errors
    ///
    /// [`Kind::Timeout`] at the deadline, [`Kind::Failed`] when it cannot come to that any more.
    fn wait<'a>(
        &'a self,
        id: &'a str,
        waiting: Waiting,
    ) -> BoxFuture<'a, Result<Option<Instance>>> {
        Box::pin(poll(self, id, waiting))
    }
}

fn no<T: Send>(can: Capabilities, what: Capability) -> BoxFuture<'static, Result<T>> {
    let error = match can.require(what) {
        Err(e) => e,
        // Declared and not written: the backend's mistake, said as such.
        Ok(()) => Error::new(
            Kind::Unsupported,
            format!("{} declares {what} and does not do it", can.platform()),
        ),
    };
    Box::pin(async move { Err(error) })
}

/// What is built from the verbs.
pub trait ComputeExt: Compute {
    /// The instance of that id or name.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] for none, [`Kind::Conflict`] when several have the name; their ids are named.
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move {
            let not_found = || Error::new(Kind::NotFound, "no such instance");
            if name.is_empty() {
                return Err(Error::new(Kind::Invalid, "the name is empty"));
            }
            if self.names_are_ids() {
                return self.look(name).await.map_err(|e| match e.kind() {
                    Kind::NotFound => not_found()
                        .with_source(e)
                        .context(format!("{}:{}", self.context(), Untrusted::new(name)))
                        .with_hint(format!("`boxrig ls --on {}` lists them", self.context())),
                    _ => e,
                });
            }
            let mut found: Vec<Instance> = Vec::new();
            let mut list = self.list(ListOptions::new());
            while let Some(instance) = list.try_next().await? {
                if instance.id == name {
                    return Ok(instance);
                }
                if instance.name.raw() == name {
                    found.push(instance);
                }
            }
            drop(list);
            match found.len() {
                0 => Err(not_found()
                    .context(format!("{}:{}", self.context(), Untrusted::new(name)))
                    .with_hint(format!("`boxrig ls --on {}` lists them", self.context()))),
                1 => found.pop().ok_or_else(not_found),
                n => {
                    let ids: Vec<String> = found
                        .iter()
                        .map(|i| Untrusted::new(&*i.id).to_string())
                        .collect();
                    Err(Error::new(
                        Kind::Conflict,
                        format!("{n} instances are called {}", Untrusted::new(name)),
                    )
                    .with_hint(format!("use one of the ids {}", ids.join(", "))))
                }
            }
        })
    }

    /// Runs a command and keeps up to 64 MiB of each of its streams.
    ///
    /// # Errors
    ///
    /// Those of [`Compute::exec`]; a command that fails is not one.
    fn run<'a>(&'a self, id: &'a str, spec: ExecSpec) -> BoxFuture<'a, Result<ExecOutput>> {
        Box::pin(async move { self.exec(id, spec).await?.output(64 << 20).await })
    }
}

impl<C: Compute + ?Sized> ComputeExt for C {}

struct Ready<T> {
    id: String,
    value: T,
}

impl<T: Clone + Send + Sync> Work<T> for Ready<T> {
    fn id(&self) -> &str {
        &self.id
    }
    fn poll(&self) -> BoxFuture<'_, Result<Option<T>>> {
        Box::pin(async { Ok(Some(self.value.clone())) })
    }
    fn wait(&self) -> BoxFuture<'_, Result<T>> {
        Box::pin(async { Ok(self.value.clone()) })
    }
    fn cancel(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Err(Error::new(Kind::Conflict, "it is done already")) })
    }
    fn progress(&self) -> BoxStream<'_, Result<Progress>> {
        stream::empty().boxed()
    }
}

/// Work that is done already, for platforms that answer at once.
pub fn ready<T: Clone + Send + Sync + 'static>(id: impl Into<String>, value: T) -> Operation<T> {
    Operation::new(Ready {
        id: id.into(),
        value,
    })
}
