//! Containers and virtual machines.

pub(crate) mod console;
pub(crate) mod exec;
mod migrate;
mod new;
mod parts;

pub use console::Console;
pub use exec::{
    Exec, ExecControl, ExecEvent, ExecInput, ExecOutput, ExecSession, ExecSockets, Signal,
    WindowSize, exec_code,
};
pub(crate) use migrate::Place;
pub use migrate::{CopyMode, InstanceCopy};
pub use new::NewInstance;

use std::time::Duration;

use boxrig_wire::{Json, NoBody, Operation, Result, Timeout};
use serde_json::json;

use crate::client::{Client, Parts};
use crate::collection::{Collection, Listed, Patch, Read, Replace};
use crate::model::Merge;
use crate::models::{
    InstanceFull, InstancePost, InstancePut, InstanceRebuildPost, InstanceSource, InstanceState,
    InstanceStatePut, InstancesPut,
};
use crate::ops::instances;

/// The kind of the collection of instances.
#[derive(Clone, Copy, Debug)]
pub struct InstanceKind;

impl Listed for InstanceKind {
    type Item = InstanceFull;
    type List = instances::InstancesGet;
}
impl Read for InstanceKind {
    type Get = instances::InstanceGet;
}
impl Replace for InstanceKind {
    type Put = InstancePut;
    type Replace = instances::InstancePut;
    const TAKES_OVER: bool = true;
    /// The server's own keys may not be dropped: it refuses the whole change then.
    fn take_over(current: &InstanceFull, put: &mut InstancePut) {
        for (key, value) in &current.config {
            if key.starts_with("volatile.") && !put.config.contains_key(key) {
                put.config.insert(key.clone(), value.clone());
            }
        }
        if put.architecture.is_empty() {
            put.architecture.clone_from(&current.architecture);
        }
    }
}
impl Patch for InstanceKind {
    type Patch = instances::InstancePatch;
}

/// Instances of a server: containers and virtual machines. Beside what every [`Collection`] can, they run.
///
/// | to | there is |
/// | --- | --- |
/// | make | [`create`](Self::create) with a [`NewInstance`], [`import`](Self::import) |
/// | change | [`update`](Self::update), [`patch`](Self::patch), [`replace`](Self::replace), [`rename`](Self::rename), [`rebuild`](Self::rebuild) |
/// | run | [`start`](Self::start), [`stop`](Self::stop), [`restart`](Self::restart), [`freeze`](Self::freeze), [`unfreeze`](Self::unfreeze) |
/// | use | [`exec`](Self::exec), [`run`](Self::run), [`console`](Self::console), [`files`](Self::files), [`sftp`](Self::sftp) |
/// | keep | [`snapshot`](Self::snapshot), [`restore`](Self::restore), [`backup`](Self::backup), [`copy_to`](Self::copy_to) |
/// | look | [`state`](Self::state), [`logs`](Self::logs), [`console_log`](Self::console_log), [`metadata`](Self::metadata) |
pub type Instances<'a> = Collection<'a, InstanceKind>;

impl Client {
    /// Instances: containers and virtual machines.
    pub fn instances(&self) -> Instances<'_> {
        Collection::new(self, &[])
    }
}

/// What can be done to a running or stopped instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Starts it.
    Start,
    /// Stops it.
    Stop,
    /// Stops and starts it.
    Restart,
    /// Halts all its processes where they are.
    Freeze,
    /// Lets them go on.
    Unfreeze,
}

impl Action {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Freeze => "freeze",
            Self::Unfreeze => "unfreeze",
        }
    }
}

/// How a change of state is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Without asking the instance first.
    pub force: bool,
    /// With its running state kept (stop) or taken up again (start).
    pub stateful: bool,
    /// How long the instance has, to the second, after which the change has failed; `None`: as long as it takes. 30 s by default.
    pub timeout: Option<Duration>,
}

impl Default for Change {
    fn default() -> Self {
        Self {
            force: false,
            stateful: false,
            timeout: Some(Duration::from_secs(30)),
        }
    }
}

impl Change {
    /// Asking the instance, 30 s, without its running state.
    pub fn new() -> Self {
        Self::default()
    }
    /// Without asking the instance first.
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }
    /// With its running state.
    pub fn stateful(mut self) -> Self {
        self.stateful = true;
        self
    }
    /// With this long for the instance; `None`: as long as it takes.
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    fn body(self, action: Action) -> InstanceStatePut {
        InstanceStatePut {
            action: action.as_str().to_owned(),
            force: self.force,
            stateful: self.stateful,
            timeout: match self.timeout {
                None => -1,
                Some(d) => i64::try_from(d.as_secs()).unwrap_or(-1),
            },
            ..InstanceStatePut::default()
        }
    }
}

impl Instances<'_> {
    /// Makes an instance. Waiting for the operation gives it as it is then.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) when the name is taken (told by the operation), [`Kind::NotFound`](boxrig_wire::Kind::NotFound) without such
    /// an image.
    pub async fn create(&self, new: NewInstance) -> Result<Operation<InstanceFull>> {
        let client = self.client().clone();
        let given = new.name().to_owned();
        self.client()
            .begin::<instances::InstancesPost, _>(self.parts(), Json(new.into_post()), move |end| {
                let client = client.clone();
                let name = made(&end).unwrap_or_else(|| given.clone());
                Box::pin(async move { client.instances().get(&name).await })
            })
            .await
    }

    /// Changes the state.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) when it is in that state already.
    pub async fn change_state(
        &self,
        name: &str,
        action: Action,
        change: Change,
    ) -> Result<Operation<()>> {
        let body = Json(change.body(action));
        self.client()
            .begin_unit::<instances::InstanceStatePut>(self.one(name), body)
            .await
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// As [`change_state`](Self::change_state).
    pub async fn start(&self, name: &str, change: Change) -> Result<Operation<()>> {
        self.change_state(name, Action::Start, change).await
    }
    /// Stops it.
    ///
    /// # Errors
    ///
    /// As [`change_state`](Self::change_state).
    pub async fn stop(&self, name: &str, change: Change) -> Result<Operation<()>> {
        self.change_state(name, Action::Stop, change).await
    }
    /// Restarts it.
    ///
    /// # Errors
    ///
    /// As [`change_state`](Self::change_state).
    pub async fn restart(&self, name: &str, change: Change) -> Result<Operation<()>> {
        self.change_state(name, Action::Restart, change).await
    }
    /// Halts all its processes where they are.
    ///
    /// # Errors
    ///
    /// As [`change_state`](Self::change_state).
    pub async fn freeze(&self, name: &str) -> Result<Operation<()>> {
        self.change_state(name, Action::Freeze, Change::new()).await
    }
    /// Lets its processes go on.
    ///
    /// # Errors
    ///
    /// As [`change_state`](Self::change_state).
    pub async fn unfreeze(&self, name: &str) -> Result<Operation<()>> {
        self.change_state(name, Action::Unfreeze, Change::new())
            .await
    }

    /// Changes the state of all instances of the project.
    ///
    /// # Errors
    ///
    /// The operation's failure names those that could not be changed.
    pub async fn change_all(&self, action: Action, change: Change) -> Result<Operation<()>> {
        let put = InstancesPut {
            state: change.body(action),
            ..InstancesPut::default()
        };
        self.client()
            .begin_unit::<instances::InstancesPut>(self.parts(), Json(put))
            .await
    }

    /// Deletes it with its snapshots and backups; it must be stopped.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) while it runs, [`Kind::NotFound`](boxrig_wire::Kind::NotFound) without such an instance.
    pub async fn delete(&self, name: &str) -> Result<Operation<()>> {
        self.client()
            .begin_unit::<instances::InstanceDelete>(self.one(name), NoBody)
            .await
    }

    /// Deletes it, stopped by force if it runs.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`](boxrig_wire::Kind::NotFound) without such an instance.
    pub async fn delete_running(&self, name: &str) -> Result<Operation<()>> {
        let now = self.get(name).await?;
        if now.status_code != crate::StatusCode::STOPPED {
            let stop = self.stop(name, Change::new().force()).await?.wait().await;
            // One that stopped by itself meanwhile, or was ephemeral and is gone, is no failure.
            if let Err(e) = stop
                && self
                    .get(name)
                    .await
                    .is_ok_and(|i| i.status_code != crate::StatusCode::STOPPED)
            {
                return Err(e);
            }
            if now.ephemeral && self.get(name).await.is_err() {
                return Ok(self
                    .client()
                    .follow(None, None, |_| Box::pin(async { Ok(()) })));
            }
        }
        self.delete(name).await
    }

    /// Gives it another name; it must be stopped.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) while it runs or when the name is taken.
    pub async fn rename(&self, name: &str, new: &str) -> Result<Operation<()>> {
        let post = InstancePost {
            name: new.to_owned(),
            ..InstancePost::default()
        };
        self.move_with(name, post).await
    }

    /// Moves it: to another pool, project or member, under another name, as `post` says.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn move_with(&self, name: &str, post: InstancePost) -> Result<Operation<()>> {
        self.client()
            .begin_unit::<instances::InstancePost>(self.one(name), Json(post))
            .await
    }

    /// Makes its root file system anew from an image, or empty (`type: none`); it must be stopped.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) while it runs or has snapshots.
    pub async fn rebuild(&self, name: &str, source: InstanceSource) -> Result<Operation<()>> {
        let post = InstanceRebuildPost {
            source,
            ..InstanceRebuildPost::default()
        };
        self.client()
            .begin_unit::<instances::InstanceRebuildPost>(self.one(name), Json(post))
            .await
    }

    /// Its state now: processes, memory, addresses.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`](boxrig_wire::Kind::NotFound) without such an instance.
    pub async fn state(&self, name: &str) -> Result<InstanceState> {
        let reply = self
            .client()
            .send::<instances::InstanceStateGet>(self.one(name), NoBody)
            .await?;
        Ok(reply.metadata)
    }

    /// Sets configuration keys and leaves the rest; an empty value unsets.
    ///
    /// # Errors
    ///
    /// As [`patch`](Self::patch).
    pub async fn set_config<K, V>(
        &self,
        name: &str,
        keys: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()>
    where
        K: Into<String>,
        V: Into<String>,
    {
        let keys: std::collections::BTreeMap<String, String> = keys
            .into_iter()
            .map(|(k, v)| (k.into(), v.into()))
            .collect();
        self.patch(name, Merge::new().set("config", json!(keys)), None)
            .await
    }
}

/// The name of the instance that an operation has made.
fn made(operation: &crate::models::Operation) -> Option<String> {
    let urls = operation.resources.get("instances")?;
    Some(crate::collection::name_of_url(urls.first()?))
}

/// Parts of an upload or download, whose time the content decides.
pub(crate) fn unlimited(parts: Parts) -> Parts {
    parts.timeout(Timeout::Never)
}
