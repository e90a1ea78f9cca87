//! What a backend can do, known before the call.

use std::collections::BTreeMap;
use std::fmt;

use boxrig_wire::{Error, Kind, Result};
use serde::{Serialize, Serializer};

macro_rules! capabilities {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $name:literal ),* $(,)?) => {
        /// One thing that a backend can or cannot do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Capability { $( $(#[doc = $doc])+ $variant, )* }

        impl Capability {
            /// All of them, in the order of the verbs.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in output and in messages.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

capabilities! {
    /// Instances can be listed and read.
    List = "list",
    /// Instances can be made.
    Launch = "launch",
    /// Instances can be made from a snapshot.
    LaunchFromSnapshot = "launch-from-snapshot",
    /// A launch with a token makes one instance, however often it is sent.
    ExactlyOnce = "exactly-once-launch",
    /// Instances can be removed.
    Delete = "delete",
    /// A stopped instance can be started.
    Start = "start",
    /// A running instance can be stopped and kept.
    Stop = "stop",
    /// A running instance can be started anew.
    Restart = "restart",
    /// A running instance can be frozen.
    Pause = "pause",
    /// A frozen instance can go on.
    Resume = "resume",
    /// Commands can be run.
    Exec = "exec",
    /// A command's standard input can be written while it runs.
    ExecStdin = "exec-stdin",
    /// A command can have a terminal.
    ExecTty = "exec-tty",
    /// A command's error output is told apart from its output.
    ExecStderr = "exec-stderr",
    /// A running command can be sent signals.
    ExecSignal = "exec-signal",
    /// A command can outlive the session that started it.
    ExecDetach = "exec-detach",
    /// Files and directories can be copied in and out.
    Copy = "copy",
    /// What the main process and the console wrote can be read.
    Logs = "logs",
    /// Logs can be followed.
    LogsFollow = "logs-follow",
    /// Snapshots can be made.
    Snapshot = "snapshot",
    /// A snapshot holds the instance's files (on Convox it is a release: what the instance was made of).
    SnapshotFiles = "snapshot-files",
    /// An instance can be put back to a snapshot in place.
    Restore = "restore",
    /// An instance can be copied, files included.
    Fork = "fork",
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What a backend can do, and for the rest the native way, where there is one.
///
/// ```
/// use boxrig_compute::{Capabilities, Capability};
///
/// let can = Capabilities::new("demo", &[Capability::List])
///     .with_native(Capability::Stop, "scale the service to 0: `boxrig demo scale`");
/// assert!(can.require(Capability::List).is_ok());
/// let e = can.require(Capability::Stop).unwrap_err();
/// assert_eq!(e.kind(), boxrig_wire::Kind::Unsupported);
/// assert!(e.hint().unwrap().contains("scale"));
/// ```
#[derive(Clone, Debug)]
pub struct Capabilities {
    platform: &'static str,
    has: Vec<Capability>,
    native: BTreeMap<Capability, &'static str>,
}

impl Capabilities {
    /// Exactly these.
    pub fn new(platform: &'static str, has: &[Capability]) -> Self {
        Self {
            platform,
            has: has.to_vec(),
            native: BTreeMap::new(),
        }
    }

    /// Names the platform's own way to something it has not got as such.
    pub fn with_native(mut self, what: Capability, way: &'static str) -> Self {
        self.native.insert(what, way);
        self
    }

    /// Without this one.
    pub fn without(mut self, what: Capability) -> Self {
        self.has.retain(|c| *c != what);
        self
    }

    /// With this one too.
    pub fn with(mut self, what: Capability) -> Self {
        if !self.has(what) {
            self.has.push(what);
        }
        self
    }

    /// The platform.
    pub fn platform(&self) -> &'static str {
        self.platform
    }

    /// Whether it can.
    pub fn has(&self, what: Capability) -> bool {
        self.has.contains(&what)
    }

    /// The native way to something that it cannot do as such.
    pub fn native(&self, what: Capability) -> Option<&'static str> {
        self.native.get(&what).copied()
    }

    /// Fails unless it can.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`], with the native way as the hint.
    pub fn require(&self, what: Capability) -> Result<()> {
        if self.has(what) {
            return Ok(());
        }
        let e = Error::new(
            Kind::Unsupported,
            format!("{} has no {what}", self.platform),
        );
        Err(match self.native(what) {
            Some(way) => e.with_hint(way),
            None => e,
        })
    }
}
