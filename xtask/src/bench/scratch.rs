//! What transfers read and write.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Result, root};

/// Room for what is downloaded, in bytes.
const ROOM: u64 = 4 * 1024 * 1024 * 1024;
/// The tree that is uploaded: 2,000 files of 51.2 KiB, every second one of random bytes, the others cut from this
/// repository's own sources.
const FOLDERS: usize = 40;
const FILES: usize = 50;
const FILE_BYTES: usize = 52_429;

/// A folder that is removed in the end: in memory where there is room, so that no disk is measured.
pub(super) struct Scratch(tempfile::TempDir);

impl Scratch {
    /// Makes one.
    pub(super) fn new() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let room = rustix::fs::statvfs(memory).map_or(0, |s| s.f_bavail * s.f_frsize);
        let mut builder = tempfile::Builder::new();
        builder.prefix("boxrig-bench-");
        let folder = if room > ROOM {
            builder.tempdir_in(memory)?
        } else {
            builder.tempdir()?
        };
        Ok(Self(folder))
    }

    /// A path in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes the tree; the same one each time.
    pub(super) fn tree(&self) -> Result<PathBuf> {
        let tree = self.path("tree");
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        let mut text = Vec::new();
        sources(&root().join("crates"), &mut text)?;
        // Far more than what gzip looks back on, so that it cannot tell that the text comes around again.
        if text.len() < 20 * FILE_BYTES {
            return Err("the sources are too few to make a tree of".into());
        }
        let mut text = text.iter().copied().cycle();
        for folder in 0..FOLDERS {
            let folder = tree.join(format!("folder-{folder:02}"));
            fs::create_dir_all(&folder)?;
            for file in 0..FILES {
                let mut content = Vec::with_capacity(FILE_BYTES + 16);
                while content.len() < FILE_BYTES {
                    if file % 2 == 0 {
                        content.extend(text.by_ref().take(FILE_BYTES));
                    } else {
                        content.extend_from_slice(&noise.next().to_le_bytes());
                    }
                }
                content.truncate(FILE_BYTES);
                fs::write(folder.join(format!("file-{file:02}")), content)?;
            }
        }
        Ok(tree)
    }
}

/// Appends every Rust file under `folder`, in the order of their names.
fn sources(folder: &Path, text: &mut Vec<u8>) -> Result<()> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<std::io::Result<_>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, text)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            text.extend(fs::read(path)?);
        }
    }
    Ok(())
}

/// Repeatable noise (xorshift64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
