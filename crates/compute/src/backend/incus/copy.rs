//! Files and directories in and out.

use std::path::Path;

use boxrig_incus::{FileKind, FileMode, TreeOptions, TreeReport};
use boxrig_wire::{Error, Kind, Result, Untrusted};

use super::Incus;
use crate::{CopyReport, CopySpec, Direction};

/// A directory travels as a tar; it is whole when its end mark has come and the guest's tar has ended well.
const BY_TAR: &str = "tar";

impl Incus {
    pub(super) async fn transfer(&self, id: &str, spec: CopySpec) -> Result<CopyReport> {
        let done = match spec.direction {
            Direction::In => self.put(id, &spec.local, &spec.remote).await?,
            Direction::Out => self.fetch(id, &spec.remote, &spec.local).await?,
        };
        if let Some(progress) = spec.progress {
            progress(done.bytes, Some(done.bytes));
        }
        Ok(done)
    }

    async fn put(&self, id: &str, local: &Path, remote: &str) -> Result<CopyReport> {
        let meta = std::fs::metadata(local).map_err(|e| {
            let shown = Untrusted::new(local.display().to_string());
            let kind = match e.kind() {
                std::io::ErrorKind::NotFound => Kind::NotFound,
                std::io::ErrorKind::PermissionDenied => Kind::Denied,
                _ => Kind::Failed,
            };
            Error::new(kind, format!("{shown}: {e}"))
        })?;
        let instances = self.client.instances();
        let files = instances.files(id);
        if meta.is_dir() {
            let options = TreeOptions::default();
            return Ok(report(files.push_tree(local, remote, &options).await?));
        }
        let bytes = files.send(local, remote, FileMode::new()).await?;
        // The server says how much of it has arrived; a body that was cut off is no file.
        let there = files.info(remote).await?;
        if there.size != Some(bytes) {
            let size = there.size.map_or_else(|| "?".to_owned(), |s| s.to_string());
            let words = format!("{bytes} bytes were sent, the file has {size}");
            return Err(Error::new(Kind::Failed, words));
        }
        Ok(CopyReport::new(bytes, Some(1), "length"))
    }

    async fn fetch(&self, id: &str, remote: &str, local: &Path) -> Result<CopyReport> {
        let instances = self.client.instances();
        let files = instances.files(id);
        let info = files.info(remote).await.map_err(missing)?;
        if info.kind == FileKind::Directory {
            let options = TreeOptions::default();
            return Ok(report(files.pull_tree(remote, local, &options).await?));
        }
        let bytes = files.download(remote, local).await.map_err(missing)?;
        Ok(CopyReport::new(bytes, Some(1), "length"))
    }
}

/// A file that is not there, told apart from an instance that is not.
fn missing(e: Error) -> Error {
    let of_instance = |t: &Untrusted| t.raw().contains("Instance not found");
    match e.kind() {
        Kind::NotFound if !e.server_message().is_some_and(of_instance) => e.with_code("ENOENT"),
        _ => e,
    }
}

fn report(done: TreeReport) -> CopyReport {
    let how = if done.sftp { "length" } else { BY_TAR };
    let mut report = CopyReport::new(done.bytes, Some(done.entries), how);
    report.warnings = done
        .skipped
        .iter()
        .map(|s| Untrusted::new(format!("left out: {}: {}", s.path.raw(), s.why)))
        .collect();
    let more = done.skipped_count.saturating_sub(done.skipped.len() as u64);
    if more > 0 {
        let line = format!("left out: {more} more");
        report.warnings.push(Untrusted::new(line));
    }
    report
}
