//! What is written down of instances and snapshots, and where everything lies.
//!
//! ```text
//! DATA/instances/<id>/instance.json   the record; a folder without one was never finished and is removed
//!                    /rw-<n>/upper     the instance's own files over its layers (and overlay's work folder)
//!                    /mnt              where its root is put together
//!                    /agent.sock       process 1
//!                    /main.log /console.log
//! DATA/layers/base-<v>, l-<random>    read-only layers: the built-in one, and those of snapshots
//! DATA/images/                        imported images (`image::ImageStore`)
//! DATA/built/<hash of name>.json      images made of snapshots
//! DATA/snapshots/<id>.json
//! DATA/trash/                         what is being removed
//! ```
//!
//! Records are replaced whole (temporary file and rename), so that a killed server leaves the old one or the new
//! one. They are not flushed to the disk: a power loss may take the last seconds.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cgroup::Group;
use crate::{
    EnforcedLimits, Error, ExitStatus, InstanceInfo, InstanceSpec, InstanceState, Kind, Result,
    SnapshotInfo,
};

/// Where an engine's files are.
#[derive(Debug, Clone)]
pub(super) struct Dirs {
    root: PathBuf,
}

impl Dirs {
    /// Makes what is missing under `root` (absolute).
    pub(super) fn make(root: &Path) -> Result<Self> {
        let dirs = Self {
            root: root.to_owned(),
        };
        for dir in [
            dirs.instances(),
            dirs.layers(),
            dirs.snapshots(),
            dirs.built(),
            dirs.trash(),
        ] {
            crate::lock::make_private_dir(&dir)?;
        }
        Ok(dirs)
    }

    pub(super) fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }

    pub(super) fn instance(&self, id: &crate::InstanceId) -> PathBuf {
        self.instances().join(id.as_str())
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(super) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(super) fn built(&self) -> PathBuf {
        self.root.join("built")
    }

    pub(super) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// A layer's folder from its name in a record: a path below the root.
    pub(super) fn layer(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Moves something out of sight at once; [`Dirs::empty_trash`] or the caller removes it.
    pub(super) fn discard(&self, path: &Path) -> io::Result<PathBuf> {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("x");
        let target = self.trash().join(format!("{name}-{}", random_name()));
        match fs::rename(path, &target) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(target),
            other => other.map(|()| target),
        }
    }

    /// Removes what an earlier server did not get to.
    pub(super) fn empty_trash(&self) {
        let Ok(entries) = fs::read_dir(self.trash()) else {
            return;
        };
        for entry in entries.flatten() {
            if let Err(error) = super::tree::remove(&entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "cannot be removed");
            }
        }
    }
}

/// Sixteen hexadecimal digits nobody else has.
pub(super) fn random_name() -> String {
    let mut bytes = [0u8; 8];
    // Fails only before the machine has collected randomness; the name must be new, not secret.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK).is_err() {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        bytes =
            (now.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(32)).to_le_bytes();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The files of an instance or a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Files {
    /// Read-only layers, the uppermost first, as paths below the data folder.
    pub(super) layers: Vec<String>,
    /// The host's folders are shown in it.
    pub(super) builtin: bool,
}

/// What is written down of an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// What was asked for.
    pub(super) spec: InstanceSpec,
    pub(super) created_at: SystemTime,
    pub(super) started_at: Option<SystemTime>,
    pub(super) state: InstanceState,
    pub(super) reason: Option<String>,
    pub(super) main_exit: Option<ExitStatus>,
    pub(super) enforced: EnforcedLimits,
    /// What it is made from.
    pub(super) files: Files,
    /// Number of its own folder, `rw-<n>`.
    pub(super) generation: u32,
    /// A layer that its own files are about to become; settled when the server starts.
    pub(super) pending_layer: Option<String>,
    /// The run it is in, while it runs or is paused.
    pub(super) run: Option<Run>,
}

/// One run of an instance, from start to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// Process 1 on the host.
    pub(super) pid: u32,
    /// Its start in clock ticks since boot: with the pid, its identity.
    pub(super) start_time: u64,
    /// The boot it belongs to.
    pub(super) boot: String,
    /// First of its user ids.
    pub(super) range: Option<u32>,
    pub(super) group: Option<Group>,
}

impl Record {
    pub(super) fn info(&self) -> InstanceInfo {
        InstanceInfo {
            spec: self.spec.clone(),
            state: self.state,
            created_at: self.created_at,
            started_at: self.started_at,
            reason: self.reason.clone(),
            enforced: self.enforced,
            main_exit: self.main_exit,
            host_pid: self.run.as_ref().map(|run| run.pid),
        }
    }

    /// Its own folder in the instance's.
    pub(super) fn rw(&self, dir: &Path) -> PathBuf {
        dir.join(format!("rw-{}", self.generation))
    }
}

/// What is written down of a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SnapshotRecord {
    pub(super) info: SnapshotInfo,
    pub(super) files: Files,
}

/// Replaces a file whole.
pub(super) fn save(path: &Path, value: &impl Serialize) -> Result<()> {
    let failed = |e: io::Error| Error::io(format!("write {}", path.display()), e);
    let text = serde_json::to_vec(value).map_err(|e| failed(e.into()))?;
    let temp = path.with_extension(format!("{}.tmp", random_name()));
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temp)?;
        file.write_all(&text)?;
        fs::rename(&temp, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temp);
        failed(e)
    })
}

/// Reads a record; `None` if there is none.
pub(super) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| Error::io(format!("read {}", path.display()), e))?,
    };
    let value = serde_json::from_slice(&text).map_err(|e| {
        Error::with_source(
            Kind::Io,
            format!("{} cannot be read", path.display()),
            e.into(),
        )
    })?;
    Ok(Some(value))
}

/// This boot's identity.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

/// When a process started, in clock ticks since boot; `None` if there is none, or it has ended and nobody has
/// collected it.
pub(super) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses can hold anything: count from the last one. State is field 3, start time 22.
    let end = stat.iter().rposition(|&b| b == b')')?;
    let text = std::str::from_utf8(stat.get(end + 2..)?).ok()?;
    let mut fields = text.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_start_time() {
        let own = start_time(std::process::id()).unwrap();
        assert_eq!(start_time(std::process::id()), Some(own));
        assert!(start_time(u32::MAX / 2).is_none());
        let mut child = std::process::Command::new("sleep")
            .arg("9")
            .spawn()
            .unwrap();
        assert!(start_time(child.id()).unwrap() >= own);
        child.kill().unwrap();
        // Killed is not yet ended; until it is waited for it stays as a zombie, which has none.
        let started = std::time::Instant::now();
        while start_time(child.id()).is_some() {
            assert!(started.elapsed() < std::time::Duration::from_secs(30));
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.wait().unwrap();
    }

    #[test]
    fn records_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        assert!(load::<Vec<u32>>(&path).unwrap().is_none());
        save(&path, &vec![1, 2]).unwrap();
        save(&path, &vec![3]).unwrap();
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), Some(vec![3]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(&path, "{").unwrap();
        assert!(load::<Vec<u32>>(&path).is_err());
    }
}
