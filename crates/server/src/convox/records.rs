//! What is kept of a rack, one document each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct App {
    pub(super) name: String,
    pub(super) locked: bool,
    pub(super) parameters: BTreeMap<String, String>,
    /// The release that serves; empty at first.
    pub(super) release: String,
    pub(super) created_ms: u64,
    pub(super) deleting: bool,
    /// What was set by hand, by service; it outlives releases.
    pub(super) scale: BTreeMap<String, Scale>,
    /// How often each service was restarted: its processes carry the number.
    pub(super) restarts: BTreeMap<String, u64>,
    pub(super) deploy: Option<Deploy>,
    /// Why the last promotion was taken back.
    pub(super) failure: Option<Failure>,
}

/// A service's scale as set by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Scale {
    pub(super) count: Option<u32>,
    /// Thousandths of a processor.
    pub(super) cpu: Option<u32>,
    /// MiB.
    pub(super) memory: Option<u32>,
}

/// A promotion under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Deploy {
    pub(super) release: String,
    /// The release that served before; empty when none did.
    pub(super) from: String,
    pub(super) started_ms: u64,
    pub(super) deadline_ms: u64,
    /// Percent of a service's processes that stay, and that may be there, at any time; `None`: as the manifest says.
    pub(super) min: Option<u32>,
    pub(super) max: Option<u32>,
    pub(super) stage: Stage,
    /// Why it is taken back.
    pub(super) reason: String,
    pub(super) actor: String,
}

/// How far a promotion is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// The new processes are started and become healthy; the old ones serve.
    #[default]
    Starting,
    /// The new release serves; the old processes end.
    Switched,
    /// The new processes end; the old ones serve.
    TakingBack,
}

/// A promotion that was taken back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Failure {
    pub(super) release: String,
    pub(super) reason: String,
    pub(super) at_ms: u64,
}

/// A build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Build {
    pub(super) id: String,
    pub(super) app: String,
    /// Its place in the order of the app's builds.
    pub(super) seq: u64,
    pub(super) description: String,
    pub(super) git_sha: String,
    pub(super) manifest: String,
    pub(super) entrypoint: String,
    pub(super) release: String,
    pub(super) reason: String,
    /// `created`, `running`, `complete` or `failed`.
    pub(super) status: String,
    pub(super) logs: String,
    pub(super) started_ms: u64,
    pub(super) ended_ms: u64,
    /// The object it was made of.
    pub(super) source: String,
    /// The image of each service, by the name the engine has it under.
    pub(super) images: BTreeMap<String, String>,
}

/// A release.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Release {
    pub(super) id: String,
    pub(super) app: String,
    /// Its place in the order of the app's releases.
    pub(super) seq: u64,
    pub(super) build: String,
    pub(super) env: String,
    pub(super) manifest: String,
    pub(super) description: String,
    pub(super) created_ms: u64,
}

/// What a process is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Purpose {
    /// One of a service's.
    #[default]
    Service,
    /// A run of its own.
    Run,
    /// A timer's run.
    Timer,
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// On record, not in the engine yet.
    #[default]
    Pending,
    /// It runs.
    Running,
    /// It ended and is started again at `next_start_ms`.
    Crashed,
    /// It ended by itself, well.
    Complete,
    /// It ended by itself, not well.
    Failed,
    /// It is being ended and goes away.
    Stopping,
}

/// A process; an instance of the engine with the same id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Process {
    pub(super) id: String,
    pub(super) app: String,
    /// The service, or the timer's name for a timer's run.
    pub(super) service: String,
    pub(super) release: String,
    pub(super) purpose: Purpose,
    pub(super) phase: Phase,
    /// The number of the service's restart it was started for.
    pub(super) epoch: u64,
    pub(super) command: Vec<String>,
    pub(super) image: String,
    /// Variables of this run only.
    pub(super) environment: BTreeMap<String, String>,
    /// Thousandths of a processor; 0: no limit.
    pub(super) cpu: u32,
    /// MiB; 0: no limit.
    pub(super) memory: u32,
    /// The port that is asked whether it is healthy, and that is routed to.
    pub(super) port: Option<u16>,
    pub(super) created_ms: u64,
    pub(super) started_ms: u64,
    pub(super) ended_ms: u64,
    pub(super) exit: Option<i32>,
    /// How often it was started anew after it ended.
    pub(super) restarts: u32,
    pub(super) next_start_ms: u64,
    /// It answered its health check; what has none is ready when it has run for a moment.
    pub(super) ready: bool,
    /// It was ready and is not any more.
    pub(super) unhealthy: bool,
    pub(super) reason: String,
}

impl Process {
    /// Whether requests to this service, in this release, can be given to it.
    pub(super) fn serves(&self, service: &str, release: &str) -> bool {
        self.purpose == Purpose::Service
            && self.service == service
            && self.release == release
            && self.phase == Phase::Running
            && self.ready
    }

    /// Whether it may be running in the engine.
    pub(super) fn lives(&self) -> bool {
        matches!(self.phase, Phase::Pending | Phase::Running | Phase::Crashed)
    }

    /// The status in the rack's words.
    pub(super) fn status(&self) -> &'static str {
        match self.phase {
            Phase::Pending => "pending",
            Phase::Running if self.unhealthy => "unhealthy",
            Phase::Running if self.purpose == Purpose::Service && !self.ready => "starting",
            // What has ended stays so until its record is gone.
            Phase::Stopping if self.exit.is_some_and(|code| code != 0) => "failed",
            Phase::Stopping if self.exit.is_some() => "complete",
            Phase::Running | Phase::Stopping => "running",
            Phase::Crashed => "crashed",
            Phase::Complete => "complete",
            Phase::Failed => "failed",
        }
    }
}

/// An uploaded object; its bytes are in a file named `file`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Object {
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) created_ms: u64,
}

/// Credentials of an image registry, as given.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Registry {
    pub(super) server: String,
    pub(super) username: String,
    pub(super) password: String,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("server", &self.server)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    pub(super) action: String,
    pub(super) status: String,
    pub(super) data: BTreeMap<String, String>,
    pub(super) error: String,
    pub(super) actor: String,
    pub(super) at_ms: u64,
}
