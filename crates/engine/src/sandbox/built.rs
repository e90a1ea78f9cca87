//! Images made here: the layers of a snapshot under a name, with a word on how to run them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::record::{self, Dirs, Files};
use super::{Inner, lock};
use crate::image::{ImportLimits, bundle, channel, check_name, decompressed, hex};
use crate::{
    BASE_IMAGE, BoxReader, Error, ImageConfig, ImageInfo, Kind, Result, SCRATCH_IMAGE, SnapshotId,
    Source,
};

/// What is written down of an image made here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BuiltRecord {
    pub(super) info: ImageInfo,
    pub(super) files: Files,
}

/// The images made here, by name.
pub(super) type Built = BTreeMap<String, BuiltRecord>;

fn file_of(dirs: &Dirs, name: &str) -> PathBuf {
    dirs.built()
        .join(format!("{}.json", hex(&Sha256::digest(name))))
}

/// Reads all records.
pub(super) fn load(dirs: &Dirs) -> Result<Built> {
    let failed = |e: io::Error| Error::io("read the images", e);
    let mut built = Built::new();
    for entry in fs::read_dir(dirs.built()).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            // A record that was being written when the server was killed.
            let _ = fs::remove_file(&path);
        } else if let Some(record) = record::load::<BuiltRecord>(&path)? {
            built.insert(record.info.name.clone(), record);
        }
    }
    Ok(built)
}

/// Makes the layer without files, if it is missing, and gives its name in records.
pub(super) fn empty_layer(dirs: &Dirs) -> Result<String> {
    use std::os::unix::fs::PermissionsExt;
    let name = "layers/empty";
    let folder = dirs.layer(name);
    let make = || {
        match fs::create_dir(&folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))
    };
    make().map_err(|e| Error::io("make the empty image", e))?;
    Ok(name.to_owned())
}

impl Inner {
    /// Names the files of a snapshot.
    pub(super) async fn commit_image(
        self: &Arc<Self>,
        name: &str,
        snapshot: &SnapshotId,
        config: ImageConfig,
    ) -> Result<ImageInfo> {
        check_name(name)?;
        let info = {
            let _layers = self.layers.read().await;
            let (files, bytes) = {
                let snapshots = self.snapshots();
                let record = snapshots.get(snapshot);
                let record = record.ok_or_else(|| super::snapshots::no_snapshot(snapshot))?;
                (record.files.clone(), record.info.bytes)
            };
            self.put_built(name, files, bytes, config)?
        };
        self.forget_imported(name)?;
        self.collect_layers().await?;
        Ok(info)
    }

    /// Puts an image on record. The caller holds the lock of the layers.
    fn put_built(
        &self,
        name: &str,
        files: Files,
        bytes: u64,
        config: ImageConfig,
    ) -> Result<ImageInfo> {
        // Says which files and settings these are; it is not the digest of an archive.
        let identity = serde_json::to_vec(&(&files, &config))
            .map_err(|e| Error::io("name the image", e.into()))?;
        let digest = format!("sha256:{}", hex(&Sha256::digest(&identity)));
        let mut info = ImageInfo::new(name, Some(digest), bytes, self.options.clock.now());
        info.config = config;
        let record = BuiltRecord {
            info: info.clone(),
            files,
        };
        let mut built = lock(&self.built);
        record::save(&file_of(&self.dirs, name), &record)?;
        built.insert(name.to_owned(), record);
        Ok(info)
    }

    /// An imported image of a name that has a new one loses it.
    fn forget_imported(&self, name: &str) -> Result<()> {
        match self.images.delete(name) {
            Err(e) if e.kind() != Kind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// An image as one stream.
    pub(super) async fn save_image(self: &Arc<Self>, name: &str) -> Result<BoxReader> {
        if name == BASE_IMAGE {
            let words = "the built-in image is every host's own, and is not saved";
            return Err(Error::new(Kind::Invalid, words));
        }
        let _layers = self.layers.read().await;
        let files = self.source_files(&Source::Image(name.to_owned())).await?;
        let config = {
            let built = lock(&self.built);
            built.get(name).map(|record| record.info.config.clone())
        };
        let layers: Vec<PathBuf> = files
            .layers
            .iter()
            .rev()
            .filter(|layer| **layer != self.base)
            .map(|layer| self.dirs.layer(layer))
            .collect();
        let place = self.dirs.trash().join(record::random_name());
        let file = super::blocking(move || {
            let write = || {
                let mut options = fs::OpenOptions::new();
                let mut file = options
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&place)?;
                // It is the reader's alone, and goes with it.
                fs::remove_file(&place)?;
                bundle::write(
                    &mut file,
                    files.builtin,
                    &config.unwrap_or_default(),
                    &layers,
                )?;
                file.rewind()?;
                Ok(file)
            };
            write().map_err(|e| Error::io("save the image", e))
        });
        Ok(Box::new(tokio::fs::File::from_std(file.await?)))
    }

    /// Takes an image in.
    pub(super) async fn load_image(
        self: &Arc<Self>,
        name: &str,
        tar: BoxReader,
    ) -> Result<ImageInfo> {
        check_name(name)?;
        let (input, feed) = channel(tar);
        let work = self.dirs.trash().join(record::random_name());
        let into = work.clone();
        let unpacking = tokio::task::spawn_blocking(move || {
            fs::create_dir(&into)?;
            bundle::read(decompressed(input)?, &into, &ImportLimits::default())
        });
        let (fed, unpacked) = tokio::join!(feed, unpacking);
        let unpacked = unpacked.map_err(|e| Error::io("load an image", io::Error::other(e)))?;
        let loaded = match (fed, unpacked) {
            (Err(e), _) => Err(Error::io("read the image", e)),
            (Ok(()), Err(e)) => Err(match e.kind() {
                io::ErrorKind::InvalidData
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::InvalidInput => {
                    Error::new(Kind::Invalid, format!("the image cannot be loaded: {e}"))
                }
                _ => Error::io("load an image", e),
            }),
            (Ok(()), Ok((head, layers))) => self.take_in(name, head, layers).await,
        };
        let removed = super::blocking(move || {
            super::tree::remove(&work).map_err(|e| Error::io("load an image", e))
        });
        removed.await?;
        loaded
    }

    async fn take_in(
        self: &Arc<Self>,
        name: &str,
        head: bundle::Head,
        unpacked: Vec<PathBuf>,
    ) -> Result<ImageInfo> {
        let info = {
            let _layers = self.layers.read().await;
            let mut layers = Vec::new();
            let mut bytes = 0;
            for folder in unpacked {
                bytes += super::tree::disk_usage(&folder)
                    .map_err(|e| Error::io("measure the image", e))?;
                let layer = format!("layers/l-{}", record::random_name());
                fs::rename(&folder, self.dirs.layer(&layer))
                    .map_err(|e| Error::io("load an image", e))?;
                layers.insert(0, layer);
            }
            if head.builtin {
                layers.push(self.base.clone());
            } else if layers.is_empty() {
                layers.push(empty_layer(&self.dirs)?);
            }
            let files = Files {
                layers,
                builtin: head.builtin,
            };
            self.put_built(name, files, bytes, head.config)?
        };
        self.forget_imported(name)?;
        self.collect_layers().await?;
        Ok(info)
    }

    /// The layers of an image made here, if there is one of the name.
    pub(super) fn built_files(&self, name: &str) -> Result<Option<Files>> {
        if name == SCRATCH_IMAGE {
            let layers = vec![empty_layer(&self.dirs)?];
            return Ok(Some(Files {
                layers,
                builtin: false,
            }));
        }
        let built = lock(&self.built);
        Ok(built.get(name).map(|record| record.files.clone()))
    }

    /// Takes away the name of an image made here; `false` if there is none of the name.
    pub(super) fn forget_built(&self, name: &str) -> Result<bool> {
        let mut built = lock(&self.built);
        if built.remove(name).is_none() {
            return Ok(false);
        }
        remove_record(&file_of(&self.dirs, name))?;
        Ok(true)
    }
}

fn remove_record(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove the image", e)),
        _ => Ok(()),
    }
}
