//! COPY and ADD: files out of a tree into an instance.

use std::collections::HashMap;
use std::io::{Cursor, Read};

use boxrig_archive::ignore::Ignore;
use boxrig_archive::unpack::{Limits, OutsideLinks, unpack};
use boxrig_engine::{Attributes, Engine, FileKind, InstanceId, Kind, WriteOptions};
use futures_util::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use crate::error::{BuildError, Cause, Result};
use crate::tree::{Found, Item, Tree, joined};

/// Files written at one time.
const AT_ONCE: usize = 8;
/// What an archive that ADD unpacks may hold.
const ARCHIVE: Limits = Limits {
    bytes: 16 << 30,
    entries: 1_000_000,
    outside_links: OutsideLinks::Keep,
};

/// One source with everything below it.
pub(crate) struct Piece<'t> {
    pub(crate) tree: &'t Tree,
    /// The last step of its path: its name in a folder.
    pub(crate) name: Vec<u8>,
    pub(crate) items: Vec<Item>,
}

/// A small file with its content at hand: a here-document.
pub(crate) struct Text {
    pub(crate) name: String,
    pub(crate) content: String,
}

/// What is copied where.
pub(crate) struct Plan<'t> {
    pub(crate) pieces: Vec<Piece<'t>>,
    pub(crate) texts: Vec<Text>,
    /// Absolute, without a slash at its end.
    pub(crate) target: Vec<u8>,
    /// The target was written with a slash at its end, or there are several sources.
    pub(crate) into: bool,
    pub(crate) mode: Option<u32>,
}

/// A path's folder (empty for the root) and its last step.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    (&path[..slash], path.get(slash + 1..).unwrap_or_default())
}

fn shown(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

/// Takes a source apart, or gives all that match it.
pub(crate) async fn pieces<'t>(tree: &'t Tree, source: &str) -> Result<Vec<Piece<'t>>> {
    let mut out = Vec::new();
    for path in tree.matching(source).await? {
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        out.push(Piece {
            tree,
            name: name.to_vec(),
            items: tree.items(&path).await?,
        });
    }
    Ok(out)
}

/// Feeds everything that decides what a copy gives into a digest. Times are left out: a fresh checkout is the same
/// context.
pub(crate) async fn digest(plan: &Plan<'_>, into: &mut Sha256) -> Result<()> {
    let field = |into: &mut Sha256, bytes: &[u8]| {
        into.update((bytes.len() as u64).to_le_bytes());
        into.update(bytes);
    };
    for piece in &plan.pieces {
        field(into, b"piece");
        field(into, &piece.name);
        for item in &piece.items {
            let kind = match item.found.kind {
                FileKind::File => "f",
                FileKind::Directory => "d",
                FileKind::Symlink => "l",
                FileKind::Other => continue,
            };
            field(into, kind.as_bytes());
            field(into, &item.below);
            into.update(item.found.mode.to_le_bytes());
            field(into, &item.found.target);
            if item.found.kind == FileKind::File {
                let content = content_digest(piece.tree, item).await?;
                field(into, &content);
            }
        }
    }
    for text in &plan.texts {
        field(into, text.name.as_bytes());
        field(into, text.content.as_bytes());
    }
    field(into, &plan.target);
    into.update([u8::from(plan.into)]);
    into.update(plan.mode.unwrap_or(u32::MAX).to_le_bytes());
    Ok(())
}

async fn content_digest(tree: &Tree, item: &Item) -> Result<Vec<u8>> {
    let mut reader = tree.read(&item.path).await?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = reader.read(&mut buffer).await;
        let n = n.map_err(|e| BuildError::context(format!("{}: {e}", shown(&item.path))))?;
        if n == 0 {
            return Ok(digest.finalize().to_vec());
        }
        digest.update(&buffer[..n]);
    }
}

/// Carries a copy out. Gives what was left out, in words.
pub(crate) async fn run(
    plan: &Plan<'_>,
    engine: &dyn Engine,
    id: &InstanceId,
    owner: (u32, u32),
    unpack_archives: bool,
) -> Result<Vec<String>> {
    let mut writer = Writer {
        engine,
        id,
        owner,
        mode: plan.mode,
        folders: HashMap::new(),
        left_out: Vec::new(),
    };
    let target = plan.target.as_slice();
    let is_folder = writer.is_folder(target).await?;
    let many = plan.pieces.len() + plan.texts.len() > 1;
    if many && !plan.into && !is_folder {
        let words = "several sources need a target that is a folder: put a / at its end";
        return Err(BuildError::dockerfile(words));
    }
    for piece in &plan.pieces {
        let Some(first) = piece.items.first() else {
            continue;
        };
        match first.found.kind {
            FileKind::Directory => writer.tree(piece.tree, &piece.items, target).await?,
            FileKind::File if unpack_archives => {
                let unpacked = archive(piece.tree, first).await?;
                match unpacked {
                    Some(folder) => {
                        let tree = Tree::Folder {
                            root: folder.path().to_owned(),
                            ignore: Ignore::default(),
                        };
                        let items = tree.items(b"").await?;
                        writer.tree(&tree, &items, target).await?;
                    }
                    None => {
                        writer
                            .file(piece, first, target, plan.into || is_folder)
                            .await?
                    }
                }
            }
            _ => {
                writer
                    .file(piece, first, target, plan.into || is_folder)
                    .await?
            }
        }
    }
    for text in &plan.texts {
        let path = match plan.into || is_folder {
            true => joined(target, text.name.as_bytes()),
            false => target.to_vec(),
        };
        writer.parents(&path).await?;
        writer.make_room(&path).await?;
        let options = writer.options(0o644, None);
        let content = Box::new(Cursor::new(text.content.clone().into_bytes()));
        let written = engine.write_file(id, &path, options, content).await;
        written.map_err(|e| refused(&path, &e))?;
    }
    Ok(writer.left_out)
}

/// An error of the engine at a path of the image, with the way on where there is one.
fn refused(path: &[u8], e: &boxrig_engine::Error) -> BuildError {
    let mut words = e.to_string();
    let in_usr = path.starts_with(b"/usr/") && !path.starts_with(b"/usr/local/");
    if in_usr && e.kind() == Kind::Denied {
        words.push_str(": /usr of the built-in image is the host's, read-only; /usr/local and /opt are the image's own");
    }
    let cause = match e.kind() {
        Kind::Denied | Kind::Invalid | Kind::Exists => Cause::Context,
        _ => Cause::Engine,
    };
    BuildError::new(cause, words)
}

fn no_folder(path: &[u8]) -> BuildError {
    BuildError::context(format!("{} is no folder in the image", shown(path)))
}

struct Writer<'a> {
    engine: &'a dyn Engine,
    id: &'a InstanceId,
    owner: (u32, u32),
    mode: Option<u32>,
    /// What is in folders that were there before: those that are not are made, and empty.
    folders: HashMap<Vec<u8>, HashMap<Vec<u8>, FileKind>>,
    left_out: Vec<String>,
}

impl Writer<'_> {
    async fn is_folder(&self, path: &[u8]) -> Result<bool> {
        match self.engine.stat(self.id, path, true).await {
            Ok(meta) => Ok(meta.kind == FileKind::Directory),
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Invalid) => Ok(false),
            Err(e) => Err(refused(path, &e)),
        }
    }

    fn options(&self, mode: u32, found: Option<&Found>) -> WriteOptions {
        WriteOptions {
            mode: Some(self.mode.unwrap_or(mode)),
            uid: Some(self.owner.0),
            gid: Some(self.owner.1),
            mtime: found.and_then(|f| f.mtime),
            ..WriteOptions::default()
        }
    }

    /// Makes a folder that is known to be missing.
    async fn make_folder(&mut self, path: &[u8], mode: u32) -> Result<()> {
        let mode = self.mode.unwrap_or(mode);
        let made = self.engine.make_dir(self.id, path, mode, false).await;
        made.map_err(|e| match e.kind() {
            Kind::Exists => no_folder(path),
            _ => refused(path, &e),
        })?;
        self.own(path).await?;
        self.folders.insert(path.to_vec(), HashMap::new());
        self.note(path, Some(FileKind::Directory));
        Ok(())
    }

    /// Remembers what is at a path now.
    fn note(&mut self, path: &[u8], kind: Option<FileKind>) {
        let (folder, name) = split(path);
        if let Some(names) = self.folders.get_mut(folder) {
            match kind {
                Some(kind) => drop(names.insert(name.to_vec(), kind)),
                None => drop(names.remove(name)),
            }
        }
    }

    /// Sets the owner of what was just made.
    async fn own(&self, path: &[u8]) -> Result<()> {
        if self.owner == (0, 0) {
            return Ok(());
        }
        let attributes = Attributes {
            uid: Some(self.owner.0),
            gid: Some(self.owner.1),
            ..Attributes::default()
        };
        let set = self.engine.set_attributes(self.id, path, attributes).await;
        set.map_err(|e| refused(path, &e))
    }

    /// Makes a folder and what is missing above it.
    async fn folder(&mut self, path: &[u8], mode: u32) -> Result<()> {
        if path.is_empty()
            || path == b"/"
            || self.folders.contains_key(path)
            || self.is_folder(path).await?
        {
            return Ok(());
        }
        let mut missing = vec![path];
        let mut at = path;
        while let Some(slash) = at.iter().rposition(|b| *b == b'/').filter(|n| *n > 0) {
            at = &at[..slash];
            if self.folders.contains_key(at) || self.is_folder(at).await? {
                break;
            }
            missing.push(at);
        }
        let last = missing.len() - 1;
        for (n, path) in missing.into_iter().rev().enumerate() {
            let mode = if n == last { mode } else { 0o755 };
            self.make_folder(path, mode).await?;
        }
        Ok(())
    }

    async fn parents(&mut self, path: &[u8]) -> Result<()> {
        self.folder(split(path).0, 0o755).await
    }

    /// What is in a folder.
    async fn entries(&mut self, folder: &[u8]) -> Result<&HashMap<Vec<u8>, FileKind>> {
        if !self.folders.contains_key(folder) {
            let path = if folder.is_empty() { b"/" } else { folder };
            let list = self.engine.list_dir(self.id, path).await;
            let list = list.map_err(|e| refused(path, &e))?;
            let names = list.into_iter().map(|e| (e.name, e.meta.kind)).collect();
            self.folders.insert(folder.to_vec(), names);
        }
        Ok(&self.folders[folder])
    }

    /// Takes away what a file or link cannot simply replace: a link would be written through.
    async fn make_room(&mut self, path: &[u8]) -> Result<()> {
        let (folder, name) = split(path);
        let there = self.entries(folder).await?.get(name).copied();
        match there {
            Some(FileKind::Directory) => {
                let words = format!(
                    "{} is a folder in the image, and no file can take its place",
                    shown(path)
                );
                Err(BuildError::context(words))
            }
            Some(FileKind::Symlink | FileKind::Other) => {
                let gone = self.engine.remove(self.id, path, false).await;
                gone.map_err(|e| refused(path, &e))?;
                self.note(path, None);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// One file or link.
    async fn file(
        &mut self,
        piece: &Piece<'_>,
        item: &Item,
        target: &[u8],
        into: bool,
    ) -> Result<()> {
        let path = match into {
            true => joined(target, &piece.name),
            false => target.to_vec(),
        };
        self.parents(&path).await?;
        self.one(piece.tree, item, path).await
    }

    async fn one(&mut self, tree: &Tree, item: &Item, path: Vec<u8>) -> Result<()> {
        match item.found.kind {
            FileKind::File => {
                self.make_room(&path).await?;
                self.note(&path, Some(FileKind::File));
                self.write(tree, item, &path).await
            }
            FileKind::Symlink => self.link(item, &path).await,
            _ => {
                let words = format!(
                    "{} is a device, pipe or socket, and is left out",
                    shown(&item.path)
                );
                self.left_out.push(words);
                Ok(())
            }
        }
    }

    async fn write(&self, tree: &Tree, item: &Item, path: &[u8]) -> Result<()> {
        let content = tree.read(&item.path).await?;
        let options = self.options(item.found.mode, Some(&item.found));
        let written = self
            .engine
            .write_file(self.id, path, options, content)
            .await;
        written.map(drop).map_err(|e| refused(path, &e))
    }

    async fn link(&mut self, item: &Item, path: &[u8]) -> Result<()> {
        self.make_room(path).await?;
        let (folder, name) = split(path);
        if self.entries(folder).await?.get(name) == Some(&FileKind::File) {
            let gone = self.engine.remove(self.id, path, false).await;
            gone.map_err(|e| refused(path, &e))?;
        }
        let made = self.engine.symlink(self.id, path, &item.found.target).await;
        made.map_err(|e| refused(path, &e))?;
        self.note(path, Some(FileKind::Symlink));
        self.own(path).await
    }

    /// A folder's content into `target`.
    async fn tree(&mut self, tree: &Tree, items: &[Item], target: &[u8]) -> Result<()> {
        self.folder(target, items.first().map_or(0o755, |i| i.found.mode))
            .await?;
        let mut files = Vec::new();
        for item in items.iter().skip(1) {
            let path = joined(target, &item.below);
            match item.found.kind {
                FileKind::Directory => {
                    let (folder, name) = split(&path);
                    let there = self.entries(folder).await?.get(name).copied();
                    match there {
                        None => self.make_folder(&path, item.found.mode).await?,
                        Some(FileKind::Directory) => {}
                        // A link to a folder is as good as one.
                        Some(_) if self.is_folder(&path).await? => {}
                        Some(_) => {
                            return Err(no_folder(&path));
                        }
                    }
                }
                FileKind::File => {
                    self.make_room(&path).await?;
                    self.note(&path, Some(FileKind::File));
                    files.push((item, path));
                }
                _ => self.one(tree, item, path).await?,
            }
        }
        let this = &*self;
        let writes: Vec<_> = files
            .iter()
            .map(|(item, path)| this.write(tree, item, path))
            .collect();
        stream::iter(writes)
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await
    }
}

/// Unpacks an archive into a folder of its own; `None` when the file is none.
async fn archive(tree: &Tree, item: &Item) -> Result<Option<tempfile::TempDir>> {
    let failed = |e: std::io::Error| BuildError::context(format!("{}: {e}", shown(&item.path)));
    let mut head = Vec::new();
    let reader = tree.read(&item.path).await?;
    reader
        .take(64 * 1024)
        .read_to_end(&mut head)
        .await
        .map_err(failed)?;
    for (magic, name) in [
        (&b"BZh"[..], "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
    ] {
        if head.starts_with(magic) {
            let words = format!(
                "ADD {}: this builder unpacks plain and gzip archives, not {name}; COPY it and unpack it in a RUN",
                shown(&item.path)
            );
            return Err(BuildError::dockerfile(words));
        }
    }
    if !is_tar(&head) {
        return Ok(None);
    }
    let folder = tempfile::tempdir().map_err(failed)?;
    let into = folder.path().to_owned();
    let reader = tree.read(&item.path).await?;
    // Blocking reads of an asynchronous file, on a thread that may block.
    let handle = tokio::runtime::Handle::current();
    let unpacked = tokio::task::spawn_blocking(move || {
        unpack(&into, Blocking { reader, handle }, ARCHIVE, &mut |_, _| {})
    });
    let unpacked = unpacked
        .await
        .map_err(|e| failed(std::io::Error::other(e)))?;
    unpacked.map_err(|e| BuildError::context(format!("{}: {e}", shown(&item.path))))?;
    Ok(Some(folder))
}

/// Whether a file that begins like this is a tar archive, perhaps compressed by gzip.
fn is_tar(head: &[u8]) -> bool {
    let mark = |bytes: &[u8]| bytes.get(257..262) == Some(b"ustar");
    if !head.starts_with(&[0x1f, 0x8b]) {
        return mark(head);
    }
    let mut start = Vec::new();
    let read = flate2::read::MultiGzDecoder::new(head)
        .take(512)
        .read_to_end(&mut start);
    // A head that was cut in the middle of a block still gives its first bytes.
    let _ = read;
    mark(&start)
}

struct Blocking {
    reader: boxrig_engine::BoxReader,
    handle: tokio::runtime::Handle,
}

impl Read for Blocking {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.handle.block_on(self.reader.read(buffer))
    }
}
