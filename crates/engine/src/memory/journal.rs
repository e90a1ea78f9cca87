//! The simulation's memory of itself: one line of JSON per change.
//!
//! A change is written before it is shown, so that what was acknowledged survives the end of the
//! process at any moment (not a power loss: lines are not flushed to the disk one by one). A last
//! line without its end was never acknowledged and is dropped. The file is written anew, whole, at
//! every opening and whenever most of its lines are out of date.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, ImageInfo, InstanceId, InstanceInfo, Kind, Result, SnapshotId, SnapshotInfo};

/// Lines that are always tolerated before the file is written anew.
const SLACK: usize = 4096;

/// Everything that exists.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) instances: BTreeMap<InstanceId, InstanceInfo>,
    pub(super) snapshots: BTreeMap<SnapshotId, SnapshotInfo>,
    pub(super) images: BTreeMap<String, ImageInfo>,
}

impl Inventory {
    fn len(&self) -> usize {
        self.instances.len() + self.snapshots.len() + self.images.len()
    }

    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Instance(info) => drop(self.instances.insert(info.spec.id.clone(), *info)),
            Change::InstanceGone(id) => drop(self.instances.remove(&id)),
            Change::Snapshot(info) => drop(self.snapshots.insert(info.spec.id.clone(), info)),
            Change::SnapshotGone(id) => drop(self.snapshots.remove(&id)),
            Change::Image(info) => drop(self.images.insert(info.name.clone(), *info)),
            Change::ImageGone(name) => drop(self.images.remove(&name)),
        }
    }
}

/// One change: what something is from now on, or that it is gone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    Instance(Box<InstanceInfo>),
    InstanceGone(InstanceId),
    Snapshot(SnapshotInfo),
    SnapshotGone(SnapshotId),
    Image(Box<ImageInfo>),
    ImageGone(String),
}

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
}

impl Journal {
    /// Reads the file, if there is one, and writes it anew.
    pub(super) fn open(path: &Path) -> Result<(Self, Inventory)> {
        let mut inventory = Inventory::default();
        match File::open(path) {
            Ok(file) => read(file, path, &mut inventory)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("read {}", path.display()), error)),
        }
        let file = rewrite(path, &inventory)
            .map_err(|error| Error::io(format!("write {}", path.display()), error))?;
        let lines = inventory.len();
        Ok((
            Self {
                path: path.to_owned(),
                file,
                lines,
            },
            inventory,
        ))
    }

    /// Writes a change down. `inventory` is what holds without it.
    pub(super) fn note(&mut self, change: &Change, inventory: &Inventory) -> Result<()> {
        let failed = |error| Error::io("write the inventory of simulated machines", error);
        if self.lines > SLACK + 4 * inventory.len() {
            self.file = rewrite(&self.path, inventory).map_err(failed)?;
            self.lines = inventory.len();
        }
        let mut line = serde_json::to_vec(change).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        let before = self.file.stream_position().map_err(failed)?;
        if let Err(error) = self.file.write_all(&line) {
            // Half a line must not stay in the way of the next one.
            self.file
                .set_len(before)
                .and_then(|()| self.file.seek(io::SeekFrom::Start(before)).map(drop))
                .map_err(failed)?;
            return Err(failed(error));
        }
        self.lines += 1;
        Ok(())
    }
}

fn read(file: File, path: &Path, inventory: &mut Inventory) -> Result<()> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    for number in 1usize.. {
        line.clear();
        reader
            .read_until(b'\n', &mut line)
            .map_err(|error| Error::io(format!("read {}", path.display()), error))?;
        if line.last() != Some(&b'\n') {
            break;
        }
        let change = serde_json::from_slice(&line).map_err(|error| {
            let words = format!("line {number} of {} cannot be read", path.display());
            Error::with_source(Kind::Io, words, error.into())
        })?;
        inventory.apply(change);
    }
    Ok(())
}

fn rewrite(path: &Path, inventory: &Inventory) -> io::Result<File> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut writer = BufWriter::new(options.open(&new)?);
    let mut put = |change: &Change| -> io::Result<()> {
        serde_json::to_writer(&mut writer, change)?;
        writer.write_all(b"\n")
    };
    for info in inventory.images.values() {
        put(&Change::Image(Box::new(info.clone())))?;
    }
    for info in inventory.snapshots.values() {
        put(&Change::Snapshot(info.clone()))?;
    }
    for info in inventory.instances.values() {
        put(&Change::Instance(Box::new(info.clone())))?;
    }
    let file = writer
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(file)
}
