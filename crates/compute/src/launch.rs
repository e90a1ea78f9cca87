//! What the verbs take.

use std::collections::BTreeMap;
use std::time::Duration;

/// What an instance starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// What the platform starts from when nothing is said.
    #[default]
    Default,
    /// An image by name.
    Image(String),
    /// A snapshot by id.
    Snapshot(String),
}

/// An instance to make. Chain setters from [`LaunchSpec::new`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LaunchSpec {
    /// The name; the platform makes one when `None`.
    pub name: Option<String>,
    /// What it starts from.
    pub source: Source,
    /// Processors.
    pub cpus: Option<f64>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Disk in bytes.
    pub disk: Option<u64>,
    /// Variables of every command in it.
    pub env: BTreeMap<String, String>,
    /// Labels, metadata or tags.
    pub labels: BTreeMap<String, String>,
    /// After this time of running it is removed.
    pub ttl: Option<Duration>,
    /// Names this launch: one instance is made, however often the launch is sent. Made at random by `new`; a caller
    /// that keeps its own record of work puts its own here and can launch again after a crash.
    pub token: String,
    /// How long its start may take; 300 s unless said otherwise.
    pub wait_timeout: Duration,
    /// Nobody can have launched under this token before.
    pub(crate) fresh: bool,
}

impl Default for LaunchSpec {
    fn default() -> Self {
        Self::new()
    }
}

impl LaunchSpec {
    /// As the platform does it when nothing is said, under a fresh token.
    pub fn new() -> Self {
        Self {
            name: None,
            source: Source::Default,
            cpus: None,
            memory: None,
            disk: None,
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
            ttl: None,
            token: uuid::Uuid::new_v4().simple().to_string(),
            wait_timeout: Duration::from_secs(300),
            fresh: true,
        }
    }

    /// With a name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// From an image.
    pub fn image(mut self, image: impl Into<String>) -> Self {
        self.source = Source::Image(image.into());
        self
    }

    /// From a snapshot.
    pub fn snapshot(mut self, id: impl Into<String>) -> Self {
        self.source = Source::Snapshot(id.into());
        self
    }

    /// With this many processors.
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// With this much memory, in bytes.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// With a variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// With a label.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// Removed after this time of running.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Under the caller's own token.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = token.into();
        self.fresh = false;
        self
    }

    /// Whether an earlier launch under the same token is possible, so that a backend has to look for it.
    pub fn may_be_known(&self) -> bool {
        !self.fresh
    }
}

/// What to do with an instance's power. Asking for the state it is in is no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Power {
    /// Start a stopped one.
    Start,
    /// End its processes and keep its files.
    Stop {
        /// End them at once.
        force: bool,
        /// How long they may take to end by themselves.
        grace: Option<Duration>,
    },
    /// Stop and start.
    Restart {
        /// End the processes at once.
        force: bool,
    },
    /// Freeze.
    Pause,
    /// Go on after a pause.
    Resume,
}

impl Power {
    /// What a backend needs for it.
    pub const fn capability(self) -> crate::Capability {
        match self {
            Self::Start => crate::Capability::Start,
            Self::Stop { .. } => crate::Capability::Stop,
            Self::Restart { .. } => crate::Capability::Restart,
            Self::Pause => crate::Capability::Pause,
            Self::Resume => crate::Capability::Resume,
        }
    }
}

/// A snapshot to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotSpec {
    /// Its name; the platform makes one when `None`.
    pub name: Option<String>,
}

impl SnapshotSpec {
    /// With a name made by the platform.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

/// A copy of an instance to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForkSpec {
    /// The copy's name; the platform makes one when `None`.
    pub name: Option<String>,
    /// Labels on top of the original's.
    pub labels: BTreeMap<String, String>,
}

impl ForkSpec {
    /// With a name made by the platform.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

/// Which part of which log to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogOptions {
    /// What the console showed, instead of what the main process wrote.
    pub console: bool,
    /// Only this many lines before the end.
    pub tail: Option<u64>,
    /// Wait for more at the end.
    pub follow: bool,
}

impl LogOptions {
    /// All of the main process's log up to now.
    pub fn new() -> Self {
        Self::default()
    }

    /// And what comes.
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }

    /// Only this many lines before the end.
    pub fn tail(mut self, lines: Option<u64>) -> Self {
        self.tail = lines;
        self
    }

    /// The console's log instead of the main process's.
    pub fn console(mut self, console: bool) -> Self {
        self.console = console;
        self
    }
}
