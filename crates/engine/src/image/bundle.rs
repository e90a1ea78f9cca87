//! An image made here as one tar stream, and back: its layers with a word on how to run it.
//!
//! ```text
//! image.json          what it stands on, how many layers, how it is meant to be run
//! layers/0.tar …      the layers, the lowest first; whiteouts as in an OCI layer (`.wh.name`, `.wh..wh..opq`)
//! ```
//!
//! The built-in image's own layer is not in it: that is the host's, and another host has its own.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tar::{Entry, EntryKind, Reader};
use super::{ImportLimits, LayerKind, unpack};
use crate::ImageConfig;

const BLOCK: usize = 512;
/// Version of the form.
const VERSION: u32 = 1;
const HEAD: &str = "image.json";
/// Largest `image.json`, in bytes.
const MAX_HEAD: u64 = 4 << 20;
/// Most layers.
pub(crate) const MAX_LAYERS: usize = 100;
/// The attribute by which overlay knows a directory that hides what is below it.
const OPAQUE: &str = "user.overlay.opaque";

/// What a bundle says of its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    version: u32,
    /// It stands on the built-in image.
    pub(crate) builtin: bool,
    layers: usize,
    #[serde(default)]
    pub(crate) config: ImageConfig,
}

fn refuse(words: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words.into())
}

/// Writes an image: `layers` are folders of files, the lowest first.
pub(crate) fn write(
    out: &mut File,
    builtin: bool,
    config: &ImageConfig,
    layers: &[PathBuf],
) -> io::Result<()> {
    let head = Head {
        version: VERSION,
        builtin,
        layers: layers.len(),
        config: config.clone(),
    };
    let head = serde_json::to_vec(&head)?;
    let facts = Facts {
        mode: 0o644,
        ..Facts::default()
    };
    out.write_all(&header(
        HEAD.as_bytes(),
        b'0',
        head.len() as u64,
        &facts,
        b"",
    ))?;
    out.write_all(&head)?;
    out.write_all(&[0; BLOCK][..padding(head.len() as u64)])?;
    for (n, layer) in layers.iter().enumerate() {
        let name = format!("layers/{n}.tar");
        let at = out.stream_position()?;
        // Its size is known when it has been written.
        out.write_all(&[0; BLOCK])?;
        write_layer(&mut BufWriter::with_capacity(256 * 1024, &mut *out), layer)?;
        let end = out.stream_position()?;
        let size = end - at - BLOCK as u64;
        out.seek(SeekFrom::Start(at))?;
        out.write_all(&header(name.as_bytes(), b'0', size, &facts, b""))?;
        out.seek(SeekFrom::Start(end))?;
    }
    out.write_all(&[0; 2 * BLOCK])
}

/// Attributes of an entry.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
}

fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

/// The header of an entry, with the ones before it that long names need (GNU's form).
fn header(path: &[u8], flag: u8, size: u64, facts: &Facts, link: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (text, long) in [(path, b'L'), (link, b'K')] {
        if text.len() > 100 {
            let length = text.len() as u64 + 1;
            out.extend(header(
                b"././@LongLink",
                long,
                length,
                &Facts::default(),
                b"",
            ));
            out.extend_from_slice(text);
            out.resize(out.len() + 1 + padding(length), 0);
        }
    }
    let mut block = [0; BLOCK];
    let put = |block: &mut [u8; BLOCK], at: usize, text: &[u8], most: usize| {
        let n = text.len().min(most);
        block[at..at + n].copy_from_slice(&text[..n]);
    };
    // A number that does not fit its octal digits is written in binary (GNU's form).
    let number = |block: &mut [u8; BLOCK], at: usize, width: usize, value: i128| {
        let digits = format!("{value:0width$o}", width = width - 1);
        if value >= 0 && digits.len() < width {
            block[at..at + width - 1].copy_from_slice(digits.as_bytes());
        } else {
            let bytes = value.to_be_bytes();
            block[at..at + width].copy_from_slice(&bytes[bytes.len() - width..]);
            block[at] |= 0x80;
        }
    };
    put(&mut block, 0, path, 100);
    number(&mut block, 100, 8, facts.mode.into());
    number(&mut block, 108, 8, facts.uid.into());
    number(&mut block, 116, 8, facts.gid.into());
    number(&mut block, 124, 12, size.into());
    number(&mut block, 136, 12, facts.mtime.into());
    block[148..156].fill(b' ');
    block[156] = flag;
    put(&mut block, 157, link, 100);
    put(&mut block, 257, b"ustar  \0", 8);
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&block);
    out
}

/// Writes one layer, as the archive of an OCI layer. Its end mark too.
fn write_layer(out: &mut impl Write, root: &Path) -> io::Result<()> {
    // Only root's files have owners that mean something in an instance.
    let owners = rustix::process::geteuid().is_root();
    let mut names: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut todo = vec![(root.to_owned(), Vec::new())];
    while let Some((folder, prefix)) = todo.pop() {
        let mut entries = fs::read_dir(&folder)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let meta = fs::symlink_metadata(&path)?;
            let kind = meta.file_type();
            let mut name: Vec<u8> = prefix.clone();
            let facts = Facts {
                mode: meta.mode() & 0o7777,
                uid: if owners { meta.uid() } else { 0 },
                gid: if owners { meta.gid() } else { 0 },
                mtime: meta.mtime(),
            };
            if kind.is_char_device() && meta.rdev() == 0 {
                name.extend_from_slice(b".wh.");
                name.extend_from_slice(entry.file_name().as_bytes());
                out.write_all(&header(&name, b'0', 0, &facts, b""))?;
                continue;
            }
            name.extend_from_slice(entry.file_name().as_bytes());
            if kind.is_dir() {
                name.push(b'/');
                out.write_all(&header(&name, b'5', 0, &facts, b""))?;
                if is_opaque(&path) {
                    let mut mark = name.clone();
                    mark.extend_from_slice(b".wh..wh..opq");
                    out.write_all(&header(&mark, b'0', 0, &Facts::default(), b""))?;
                }
                todo.push((path, name));
            } else if kind.is_symlink() {
                let target = fs::read_link(&path)?;
                let target = target.as_os_str().as_bytes();
                out.write_all(&header(&name, b'2', 0, &facts, target))?;
            } else if kind.is_file() {
                let same = (meta.dev(), meta.ino());
                if let Some(first) = names.get(&same).filter(|_| meta.nlink() > 1) {
                    out.write_all(&header(&name, b'1', 0, &facts, first))?;
                    continue;
                }
                names.insert(same, name.clone());
                let file = File::open(&path)?;
                let size = meta.len();
                out.write_all(&header(&name, b'0', size, &facts, b""))?;
                if io::copy(&mut file.take(size), out)? != size {
                    return Err(refuse("a file of a layer has become shorter"));
                }
                out.write_all(&[0; BLOCK][..padding(size)])?;
            }
            // Pipes and sockets are of their processes, which are not in it.
        }
    }
    out.write_all(&[0; 2 * BLOCK])?;
    out.flush()
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::lgetxattr(path, OPAQUE, &mut value).is_ok_and(|n| value[..n] == *b"y")
}

/// Reads an image and unpacks its layers below `root`, as `0`, `1`, …, each with its files. Gives them, the lowest first.
pub(crate) fn read(
    input: impl Read,
    root: &Path,
    limits: &ImportLimits,
) -> io::Result<(Head, Vec<PathBuf>)> {
    let mut reader = Reader::new(input, MAX_LAYERS as u64 + 8);
    let first = reader.next_entry()?;
    let first = first.filter(|e| e.path == HEAD.as_bytes() && e.size <= MAX_HEAD);
    let first = first.ok_or_else(|| refuse(format!("it does not begin with {HEAD}")))?;
    let mut text = Vec::new();
    Content::of(&mut reader, &first).read_to_end(&mut text)?;
    let head: Head = serde_json::from_slice(&text).map_err(|e| refuse(format!("{HEAD}: {e}")))?;
    if head.version != VERSION {
        return Err(refuse(format!(
            "{HEAD}: version {} is not known",
            head.version
        )));
    }
    if head.layers > MAX_LAYERS {
        return Err(refuse(format!("more than {MAX_LAYERS} layers")));
    }
    let mut limits = *limits;
    let mut layers = Vec::new();
    for n in 0..head.layers {
        let wanted = format!("layers/{n}.tar");
        let entry = reader.next_entry()?;
        let entry = entry.filter(|e| e.path == wanted.as_bytes() && e.kind == EntryKind::File);
        let entry = entry.ok_or_else(|| refuse(format!("{wanted} is missing")))?;
        let folder = root.join(n.to_string());
        fs::create_dir(&folder)?;
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        let content = io::BufReader::with_capacity(256 * 1024, Content::of(&mut reader, &entry));
        let done = unpack(content, &folder, LayerKind::Upper, &limits)?;
        // All layers together.
        limits.bytes = limits.bytes.saturating_sub(done.bytes);
        limits.entries = limits.entries.saturating_sub(done.entries);
        layers.push(folder);
    }
    if reader.next_entry()?.is_some() {
        return Err(refuse("it holds more than its layers"));
    }
    reader.drain()?;
    Ok((head, layers))
}

/// The content of one entry.
struct Content<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<'a, R: Read> Content<'a, R> {
    fn of(reader: &'a mut Reader<R>, _: &Entry) -> Self {
        Self { reader }
    }
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.content(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn layer(root: &Path, name: &str) -> PathBuf {
        let layer = root.join(name);
        let long = "d".repeat(120);
        fs::create_dir_all(layer.join(&long).join("in")).unwrap();
        fs::write(layer.join(&long).join("in/file"), vec![7; 70_000]).unwrap();
        fs::hard_link(layer.join(&long).join("in/file"), layer.join("same")).unwrap();
        symlink("x".repeat(150), layer.join("link")).unwrap();
        fs::write(layer.join("script"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(layer.join("script"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::create_dir(layer.join("opaque")).unwrap();
        let mut device = rustix::fs::mknodat(
            rustix::fs::CWD,
            layer.join("gone"),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
            0,
        );
        if rustix::fs::setxattr(
            layer.join("opaque"),
            OPAQUE,
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .is_err()
        {
            // A file system without such attributes: nothing to be carried.
            device = Ok(());
        }
        device.unwrap();
        layer
    }

    #[test]
    fn layers_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let layers = [layer(dir.path(), "a"), layer(dir.path(), "b")];
        let config = ImageConfig {
            cmd: Some(vec!["x".into()]),
            ..ImageConfig::default()
        };
        let mut file = tempfile::tempfile().unwrap();
        write(&mut file, true, &config, &layers).unwrap();
        file.rewind().unwrap();
        let root = dir.path().join("back");
        fs::create_dir(&root).unwrap();
        let (head, back) = read(file, &root, &ImportLimits::default()).unwrap();
        assert!(head.builtin);
        assert_eq!(head.config, config);
        assert_eq!(back.len(), 2);
        let long = "d".repeat(120);
        let file = back[1].join(&long).join("in/file");
        assert_eq!(fs::read(&file).unwrap(), vec![7; 70_000]);
        let inode = |path: PathBuf| fs::symlink_metadata(path).unwrap().ino();
        assert_eq!(inode(file), inode(back[1].join("same")));
        assert_eq!(
            fs::read_link(back[0].join("link"))
                .unwrap()
                .as_os_str()
                .len(),
            150
        );
        let mode = fs::metadata(back[0].join("script")).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o4755);
        if layers[0].join("gone").symlink_metadata().is_ok() {
            let gone = fs::symlink_metadata(back[0].join("gone")).unwrap();
            assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        }
        assert_eq!(
            is_opaque(&layers[0].join("opaque")),
            is_opaque(&back[0].join("opaque"))
        );
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let limits = ImportLimits::default();
        let mut bad = header(b"other", b'0', 0, &Facts::default(), b"");
        bad.extend([0; 1024]);
        for bytes in [Vec::new(), vec![0; 2048], vec![7; 2048], bad] {
            assert!(read(&bytes[..], dir.path(), &limits).is_err());
        }
        let head = br#"{"version":1,"builtin":false,"layers":1}"#;
        let mut missing = header(
            HEAD.as_bytes(),
            b'0',
            head.len() as u64,
            &Facts::default(),
            b"",
        );
        missing.extend(head);
        missing.resize(missing.len() + padding(head.len() as u64) + 1024, 0);
        let error = read(&missing[..], dir.path(), &limits).unwrap_err();
        assert!(error.to_string().contains("layers/0.tar"), "{error}");
    }
}
