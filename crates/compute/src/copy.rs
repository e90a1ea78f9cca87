//! Copying files and directories in and out.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use boxrig_wire::Untrusted;
use serde::Serialize;

/// Which way to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Into the instance.
    In,
    /// Out of the instance.
    Out,
}

/// Called with the bytes done so far and, where it is known, their total.
pub type CopyProgress = Arc<dyn Fn(u64, Option<u64>) + Send + Sync>;

/// A file or directory to copy. A directory is copied as `remote` or `local`, not into it.
#[derive(Clone)]
#[non_exhaustive]
pub struct CopySpec {
    /// Which way.
    pub direction: Direction,
    /// The path here.
    pub local: PathBuf,
    /// The absolute path in the instance.
    pub remote: String,
    /// Told how far it is.
    pub progress: Option<CopyProgress>,
}

impl CopySpec {
    /// From `local` to `remote` in the instance.
    pub fn into_instance(local: impl Into<PathBuf>, remote: impl Into<String>) -> Self {
        Self {
            direction: Direction::In,
            local: local.into(),
            remote: remote.into(),
            progress: None,
        }
    }

    /// From `remote` in the instance to `local`.
    pub fn out_of_instance(remote: impl Into<String>, local: impl Into<PathBuf>) -> Self {
        Self {
            direction: Direction::Out,
            local: local.into(),
            remote: remote.into(),
            progress: None,
        }
    }

    /// Told how far it is.
    pub fn progress(mut self, progress: CopyProgress) -> Self {
        self.progress = Some(progress);
        self
    }
}

impl fmt::Debug for CopySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopySpec")
            .field("direction", &self.direction)
            .field("local", &self.local)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CopyReport {
    /// Bytes of content.
    pub bytes: u64,
    /// Files, directories and links, where they were counted.
    pub entries: Option<u64>,
    /// How the copy was checked against the original: `sha256`, `gzip` (its checksum), `length`, `tar` (its end mark and
    /// the exit status of the guest's tar).
    pub checked: String,
    /// What was left out or remarked on, one line each.
    pub warnings: Vec<Untrusted>,
}

impl CopyReport {
    /// So many bytes, checked in this way.
    pub fn new(bytes: u64, entries: Option<u64>, checked: impl Into<String>) -> Self {
        Self {
            bytes,
            entries,
            checked: checked.into(),
            warnings: Vec::new(),
        }
    }
}
