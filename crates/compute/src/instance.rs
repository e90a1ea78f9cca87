//! What every platform can say of an instance.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use boxrig_wire::Untrusted;
use serde::Serialize;

boxrig_wire::open_enum! {
    /// Where an instance is in its life, in words that all platforms share. A value that is not known is a
    /// state in transition.
    pub enum State {
        /// It is being made or started.
        Starting = "starting",
        /// Commands can run in it.
        Running = "running",
        /// It is frozen.
        Paused = "paused",
        /// It does not run; its files are kept.
        Stopped = "stopped",
        /// It is being removed.
        Deleting = "deleting",
        /// It ended by a failure.
        Failed = "failed",
    }
}

impl State {
    /// Whether it will not become running by itself any more.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Stopped | Self::Deleting | Self::Failed)
    }
}

boxrig_wire::open_enum! {
    /// Whose protocol a backend speaks.
    pub enum Platform {
        /// VergeOS.
        Vergeos = "vergeos",
        /// Incus.
        Incus = "incus",
        /// FastVM.
        Fastvm = "fastvm",
        /// Convox.
        Convox = "convox",
        /// The local boxrig server.
        Local = "local",
    }
}

/// A machine, container or process of a platform.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Instance {
    /// The platform's id; what the verbs take.
    pub id: String,
    /// The name that people gave it.
    pub name: Untrusted,
    /// The platform.
    pub platform: Platform,
    /// The context it was found by.
    pub context: String,
    /// Where it is in its life.
    pub state: State,
    /// The platform's own word for the state.
    pub native_state: Untrusted,
    /// What it runs on (`sandbox`, `process`, `memory`, `microvm`): how far it is kept apart.
    pub engine: Option<Untrusted>,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// Processors.
    pub cpus: Option<f64>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Disk in bytes.
    pub disk: Option<u64>,
    /// Addresses.
    pub ips: Vec<Untrusted>,
    /// Labels, metadata or tags.
    pub labels: BTreeMap<String, String>,
    /// Everything the platform said, unchanged.
    pub raw: serde_json::Value,
}

impl Instance {
    /// An instance of which nothing more is known yet.
    pub fn new(platform: Platform, context: impl Into<String>, id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            name: Untrusted::default(),
            platform,
            context: context.into(),
            state: State::Starting,
            native_state: Untrusted::default(),
            engine: None,
            created: None,
            cpus: None,
            memory: None,
            disk: None,
            ips: Vec::new(),
            labels: BTreeMap::new(),
            raw: serde_json::Value::Null,
        }
    }

    /// How long ago it was made, by this machine's clock.
    pub fn age(&self) -> Option<Duration> {
        SystemTime::now().duration_since(self.created?).ok()
    }
}

/// A snapshot of an instance.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// The platform's id.
    pub id: String,
    /// Its name.
    pub name: Untrusted,
    /// The instance it was made of.
    pub instance: Option<String>,
    /// The platform's word for its state.
    pub state: Untrusted,
    /// When it was made.
    #[serde(skip)]
    pub created: Option<SystemTime>,
    /// Everything the platform said, unchanged.
    pub raw: serde_json::Value,
}

impl Snapshot {
    /// A snapshot of which nothing more is known yet.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            name: Untrusted::default(),
            instance: None,
            state: Untrusted::default(),
            created: None,
            raw: serde_json::Value::Null,
        }
    }
}

/// Which instances to list. An empty one lists all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListOptions {
    /// Only in this state.
    pub state: Option<State>,
    /// Only with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// With their addresses, which some platforms have to ask every instance for. Without it they may be missing.
    pub addresses: bool,
}

impl ListOptions {
    /// All.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only those with this label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Only those in this state.
    pub fn state(mut self, state: State) -> Self {
        self.state = Some(state);
        self
    }

    /// With their addresses.
    pub fn addresses(mut self, wanted: bool) -> Self {
        self.addresses = wanted;
        self
    }

    /// Whether an instance is meant; for backends whose platform does not filter.
    pub fn matches(&self, instance: &Instance) -> bool {
        self.state.as_ref().is_none_or(|s| *s == instance.state)
            && self
                .labels
                .iter()
                .all(|(k, v)| instance.labels.get(k) == Some(v))
    }
}
