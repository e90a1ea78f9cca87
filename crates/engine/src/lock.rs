//! One process per data directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use crate::{Error, Kind, Result};

/// Holds a data directory. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

/// Makes `dir`, with its parents, for its owner only.
pub(crate) fn make_private_dir(dir: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder
        .create(dir)
        .map_err(|error| Error::io(format!("make the directory {}", dir.display()), error))
}

/// Takes the lock, asking again for half a second: a child that its last owner was starting holds it too,
/// from `fork` until `exec`.
fn patiently(file: &File) -> std::result::Result<(), TryLockError> {
    for _ in 0..25 {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
    file.try_lock()
}

impl DirectoryLock {
    /// Makes `dir` if it is missing and takes it.
    ///
    /// # Errors
    /// `InvalidState` when another process has it.
    pub(crate) fn take(dir: &Path) -> Result<Self> {
        make_private_dir(dir)?;
        let path = dir.join("engine.lock");
        let failed = |error| Error::io(format!("lock {}", path.display()), error);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        match patiently(&file) {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                Kind::InvalidState,
                format!("another process has {} open", dir.display()),
            )),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a/b");
        let held = DirectoryLock::take(&dir).unwrap();
        assert_eq!(
            DirectoryLock::take(&dir).unwrap_err().kind(),
            Kind::InvalidState
        );
        drop(held);
        DirectoryLock::take(&dir).unwrap();
    }
}
