//! What the control API says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A server, as it presents itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Info {
    /// The program's version.
    pub version: String,
    /// The version of the control API; a client with another one starts a server of its own version.
    pub api: u32,
    /// Its process.
    pub pid: u32,
    /// Its data directory.
    pub data: String,
    /// The engine's name: `sandbox`, `process` or `memory`.
    pub engine: String,
    /// How far the engine keeps instances apart: `namespaces`, `none`, `simulated`.
    pub isolation: String,
    /// What the engine can do here, as it says itself.
    pub capabilities: serde_json::Value,
    /// The HTTP origin.
    pub url: String,
    /// The HTTPS origin.
    pub tls_url: String,
    /// The unix socket.
    pub socket: String,
    /// Since when it runs, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// Instances of all platforms.
    pub instances: usize,
    /// After how many idle seconds it ends; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_exit_sec: Option<u64>,
}

/// An operation was carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Always true.
    pub done: bool,
}

/// The server's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClockView {
    /// Its time, in milliseconds since 1970.
    pub now_ms: u64,
    /// Whether it stands until it is moved.
    pub is_virtual: bool,
}

/// How far to move a virtual clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepClock {
    /// Milliseconds, forward.
    pub advance_ms: u64,
}

/// The fault script in force, and how often crash points were passed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FaultsView {
    /// The rules, as they are written in a script.
    pub fault: Vec<serde_json::Value>,
    /// Passes of each crash point since the server was ready.
    pub crash_points: BTreeMap<String, u64>,
}

/// An instance as the engine sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceView {
    /// The engine's id.
    pub id: String,
    /// `running`, `paused`, `stopped` or `failed`.
    pub state: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its image or snapshot, as the engine writes it.
    pub source: serde_json::Value,
    /// The platform's notes.
    pub labels: BTreeMap<String, String>,
    /// When it was created, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// When it last started, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<u64>,
    /// Which of its limits the kernel enforces: `memory`, `cpus`, `pids`, `disk`.
    pub enforced: serde_json::Value,
    /// The host's process id of its first process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_pid: Option<u32>,
}

/// What an instance uses now; what is not known is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatsView {
    /// Processor time since it started, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Memory in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Bytes written over the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Bytes sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
    /// Bytes received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<u64>,
}

/// What a path in an instance names. Names that are not UTF-8 are shown with replacement characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FileView {
    /// The last part of its path.
    pub name: String,
    /// `file`, `directory`, `symlink` or `other`.
    pub kind: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Last change, in milliseconds since 1970.
    pub mtime_ms: u64,
    /// Where a symbolic link points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Which snapshot to go back to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// The engine's id of a snapshot; FastVM's snapshot ids are these.
    pub snapshot: String,
}
