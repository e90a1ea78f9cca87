//! Files and directories in and out of machines.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use boxrig_wire::{Error, Kind, Result, Untrusted};

use tokio::task::JoinError;

use super::exec::Exec;
use super::vms::Vms;
use crate::archive::Skipped;
use crate::archive::gzip::Level;
use crate::archive::unpack::OutsideLinks;
use crate::types::ExecResponse;

/// The code of every failure of a transfer that has no better one.
pub(super) const CODE: &str = "file_transfer_failed";

/// How a transfer is done.
#[derive(Clone)]
#[non_exhaustive]
pub struct TransferOptions {
    /// How long the machine may take to fetch what was sent; 600 s.
    pub fetch_timeout: Duration,
    /// How long each command in the machine may take (packing, unpacking, checking); 600 s.
    pub exec_timeout: Duration,
    /// A transfer on which nothing moves for this long is given up; 900 s.
    pub stall_timeout: Duration,
    /// How directories are compressed on their way.
    pub compression: Level,
    /// How many pieces are compressed at the same time; as many as there are processors, at most 4.
    pub threads: usize,
    /// The most bytes that a directory from a machine may unpack to; 1 TiB.
    pub max_unpacked_bytes: u64,
    /// The most entries that a directory from a machine may have; 10 million.
    pub max_entries: u64,
    /// What is done with links in a directory from a machine that lead out of it.
    pub outside_links: OutsideLinks,
    progress: Option<Arc<dyn Fn(TransferProgress) + Send + Sync>>,
}

impl fmt::Debug for TransferOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransferOptions")
            .field("fetch_timeout", &self.fetch_timeout)
            .field("exec_timeout", &self.exec_timeout)
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

impl Default for TransferOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            fetch_timeout: Duration::from_secs(600),
            exec_timeout: Duration::from_secs(600),
            stall_timeout: Duration::from_secs(900),
            compression: Level::Fast,
            threads: threads.clamp(1, 4),
            max_unpacked_bytes: 1 << 40,
            max_entries: 10_000_000,
            outside_links: OutsideLinks::default(),
            progress: None,
        }
    }
}

impl TransferOptions {
    /// As usual.
    pub fn new() -> Self {
        Self::default()
    }
    /// Calls this as bytes move; it must be quick.
    pub fn progress(mut self, f: impl Fn(TransferProgress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(f));
        self
    }
    pub(super) fn report(&self, progress: TransferProgress) {
        if let Some(f) = &self.progress {
            f(progress);
        }
    }
}

/// How far a transfer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransferProgress {
    /// Bytes of content so far.
    pub bytes: u64,
    /// Bytes of content in all, where that is known: for files.
    pub total: Option<u64>,
    /// Entries so far, for directories.
    pub entries: u64,
}

/// What was transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransferReport {
    /// Whether it was a directory.
    pub directory: bool,
    /// Bytes of content.
    pub bytes: u64,
    /// Files, directories and links; 1 for a file.
    pub entries: u64,
    /// Bytes on the way.
    pub wire_bytes: u64,
    /// How the content was checked.
    pub checked: Checked,
    /// What was left out; the first thousand of [`skipped_count`](Self::skipped_count).
    pub skipped: Vec<Skipped>,
    /// How much was left out.
    pub skipped_count: u64,
    /// What the machine's tools had to say though they succeeded.
    pub warnings: Option<Untrusted>,
}

/// How a content was checked, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Checked {
    /// By its length: the machine has no `sha256sum`.
    Length,
    /// By the checksum in gzip, from end to end.
    Gzip,
    /// By SHA-256, from end to end.
    Sha256,
}

/// Runs a script with `sh`; the arguments are its `$1` and so on, so no quoting is needed.
pub(super) async fn script(
    vms: &Vms<'_>,
    vm_id: &str,
    script: &str,
    args: &[&str],
    timeout: Duration,
) -> Result<ExecResponse> {
    let argv = ["sh", "-c", script, "boxrig"]
        .into_iter()
        .chain(args.iter().copied());
    let exec = Exec::new(argv.map(str::to_owned).collect::<Vec<_>>()).timeout(timeout);
    let result = vms.run(vm_id, exec).await?;
    if result.timed_out {
        return Err(guest(
            &result,
            Kind::Timeout,
            "a command in the machine took too long",
        ));
    }
    Ok(result)
}

/// A failure in the machine, with what the command there answered.
pub(super) fn guest(result: &ExecResponse, kind: Kind, what: &str) -> Error {
    let mut error = Error::new(kind, format!("{what} (exit code {})", result.exit_code))
        .with_retryable(false)
        .with_code(CODE);
    let said = result.stderr.trim();
    if !said.is_empty() {
        let start = said.len().saturating_sub(2000);
        let start = (start..said.len()).find(|i| said.is_char_boundary(*i));
        error = error.with_server_message(&said[start.unwrap_or(0)..]);
    }
    match serde_json::to_vec(result) {
        Ok(body) => error.with_body(&body),
        Err(_) => error,
    }
}

/// A path that no tool takes for an option.
pub(super) fn plain(path: &str) -> String {
    if path.starts_with('-') {
        format!("./{path}")
    } else {
        path.to_owned()
    }
}

/// A path that can be named to a machine at all.
pub(super) fn check_remote(path: &str) -> Result<()> {
    let why = if path.is_empty() {
        "it is empty"
    } else if path.contains('\0') {
        "it has a zero byte in it"
    } else {
        return Ok(());
    };
    Err(Error::new(
        Kind::Invalid,
        format!("not a path in a machine: {why}"),
    ))
}

pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// Work on a blocking thread, whose panic is ours.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    joined(tokio::task::spawn_blocking(work).await)
}

/// What a task gave, whose panic is ours.
pub(super) fn joined<T>(ended: Result<Result<T>, JoinError>) -> Result<T> {
    match ended {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(Error::new(Kind::Cancelled, "the runtime is shutting down")),
    }
}
