//! A build context as a zip file, and such a file unpacked.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::Path;

use boxrig_wire::{Error, Kind, Result, escape_line};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::ignore::Ignore;
use super::pack::{cannot, mode_of, path_bytes, walk};
use super::tar;
use super::unpack::{Limits, Unpacked};

/// Files from this size on are written with 64-bit lengths.
const LARGE: u64 = 0xffff_0000;

/// Writes the context to an unnamed temporary file, because its size is announced before it is sent. `dockerfile` is a file
/// whose text takes the place of the one in the context.
///
/// # Errors
///
/// What cannot be read or written; `Invalid` for names that are not UTF-8.
pub fn context(root: &Path, ignore: &Ignore, dockerfile: Option<(&str, &str)>) -> Result<File> {
    let made = |e: io::Error| {
        Error::new(
            Kind::Failed,
            "cannot write the build context to a temporary file",
        )
        .with_source(e)
    };
    let packed = |e: zip::result::ZipError| {
        Error::new(Kind::Failed, "cannot pack the build context").with_source(e)
    };
    let file = tempfile::tempfile().map_err(made)?;
    let mut zip = ZipWriter::new(BufWriter::with_capacity(256 * 1024, file));
    let options = |mode: u32| {
        SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(1))
            .unix_permissions(mode & 0o777)
    };
    if let Some((name, text)) = dockerfile {
        zip.start_file(name, options(0o644)).map_err(packed)?;
        zip.write_all(text.as_bytes()).map_err(made)?;
    }
    walk(root, ignore, &mut |name, meta, path| {
        let name = std::str::from_utf8(name).map_err(|_| {
            let shown = path.to_string_lossy();
            Error::new(
                Kind::Invalid,
                format!(
                    "{} is not UTF-8, as names in a zip file are",
                    escape_line(&shown)
                ),
            )
        })?;
        if dockerfile.is_some_and(|(own, _)| own == name) {
            return Ok(());
        }
        if meta.is_dir() {
            return zip
                .add_directory(name, options(mode_of(meta)))
                .map_err(packed);
        }
        if meta.is_symlink() {
            let target = fs::read_link(path).map_err(|e| cannot("read", path, e))?;
            let target = path_bytes(&target);
            let target = String::from_utf8_lossy(&target).into_owned();
            return zip
                .add_symlink(name, target, options(0o777))
                .map_err(packed);
        }
        if !meta.is_file() {
            let why = io::Error::other("it is a socket, a device or a pipe");
            return Err(cannot("send", path, why));
        }
        let mut file = File::open(path).map_err(|e| cannot("read", path, e))?;
        let options = options(mode_of(meta)).large_file(meta.len() >= LARGE);
        zip.start_file(name, options).map_err(packed)?;
        io::copy(&mut file, &mut zip).map_err(|e| cannot("read", path, e))?;
        Ok(())
    })?;
    let buffered = zip.finish().map_err(packed)?;
    let mut file = buffered.into_inner().map_err(|e| made(e.into_error()))?;
    file.rewind().map_err(made)?;
    Ok(file)
}

/// Unpacks a zip file into `root`, with everything that [`unpack`](crate::unpack::unpack) sees to: its entries are handed to it as
/// a tar stream, so that there is one place where paths and links of strangers are made.
///
/// # Errors
///
/// `Protocol` for a file that is no zip file, is broken, too large or hostile; else what writing gave.
pub fn unpack(root: &Path, archive: File, limits: Limits) -> Result<Unpacked> {
    let broken = |e: zip::result::ZipError| {
        Error::new(Kind::Protocol, "the zip file cannot be read").with_source(e)
    };
    let mut zip = zip::ZipArchive::new(archive).map_err(broken)?;
    let (reader, writer) = io::pipe().map_err(|e| cannot("unpack into", root, e))?;
    let (sent, unpacked) = std::thread::scope(|scope| {
        let sending = scope.spawn(move || send_as_tar(&mut zip, writer));
        let unpacked = crate::unpack::unpack(root, reader, limits, &mut |_, _| {});
        let sent = sending.join();
        (sent, unpacked)
    });
    match sent {
        // The unpacker went away first, and says why.
        Ok(Err(e)) if e.kind() == io::ErrorKind::BrokenPipe => unpacked,
        Ok(Err(e)) => Err(Error::new(
            Kind::Protocol,
            format!("the zip file is refused: {e}"),
        )),
        Ok(Ok(())) => unpacked,
        Err(_) => Err(Error::new(Kind::Failed, "unpacking the zip file panicked")),
    }
}

fn send_as_tar(zip: &mut zip::ZipArchive<File>, out: io::PipeWriter) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(64 * 1024, out);
    for index in 0..zip.len() {
        let mut file = zip.by_index(index).map_err(io::Error::other)?;
        let mode = file.unix_mode();
        let kind = if file.is_dir() {
            tar::Kind::Directory
        } else if file.is_symlink() {
            tar::Kind::Symlink
        } else {
            tar::Kind::File
        };
        let mut entry = tar::Entry {
            path: file.name_raw().to_vec(),
            kind,
            mode: mode.unwrap_or(if file.is_dir() { 0o755 } else { 0o644 }) & 0o777,
            mtime: 0,
            size: 0,
            link: Vec::new(),
        };
        match kind {
            tar::Kind::Symlink => {
                file.by_ref().take(4096).read_to_end(&mut entry.link)?;
                tar::write_header(&mut out, &entry)?;
            }
            tar::Kind::File => {
                entry.size = file.size();
                tar::write_header(&mut out, &entry)?;
                // What the directory of the file says is not what comes out of it, when somebody means harm.
                let copied = io::copy(&mut file.by_ref().take(entry.size), &mut out)?;
                if copied != entry.size || file.read(&mut [0])? != 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "an entry has another size than it says",
                    ));
                }
                out.write_all(&[0; 512][..tar::padding(entry.size)])?;
            }
            _ => tar::write_header(&mut out, &entry)?,
        }
    }
    out.write_all(&tar::END)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::OutsideLinks;

    const LIMITS: Limits = Limits {
        bytes: 1 << 20,
        entries: 100,
        outside_links: OutsideLinks::Keep,
    };

    fn made(fill: impl FnOnce(&mut ZipWriter<File>)) -> File {
        let mut zip = ZipWriter::new(tempfile::tempfile().unwrap());
        fill(&mut zip);
        let mut file = zip.finish().unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn a_context_is_unpacked_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/file"), "x".repeat(100_000)).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("b/file", from.join("a/link")).unwrap();
        let zip = context(&from, &Ignore::default(), Some(("Dockerfile", "FROM x"))).unwrap();
        let to = dir.path().join("to");
        unpack(&to, zip, LIMITS).unwrap();
        assert_eq!(fs::read(to.join("a/b/file")).unwrap().len(), 100_000);
        assert_eq!(fs::read_to_string(to.join("Dockerfile")).unwrap(), "FROM x");
        #[cfg(unix)]
        assert_eq!(
            fs::read_link(to.join("a/link")).unwrap(),
            Path::new("b/file")
        );
    }

    #[test]
    fn hostile_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        for name in ["../outside", "/../outside", "a/../../outside"] {
            let zip = made(|zip| {
                zip.start_file(name, SimpleFileOptions::default()).unwrap();
                zip.write_all(b"x").unwrap();
            });
            let _ = unpack(&dir.path().join("to"), zip, LIMITS);
            assert!(!outside.exists(), "{name}");
        }
        // A link out, and a file through it.
        let zip = made(|zip| {
            let options = SimpleFileOptions::default();
            zip.add_symlink("out", "..", options).unwrap();
            zip.start_file("out/outside", options).unwrap();
            zip.write_all(b"x").unwrap();
        });
        let _ = unpack(&dir.path().join("to"), zip, LIMITS);
        assert!(!outside.exists());
        // A bomb.
        let zip = made(|zip| {
            zip.start_file("bomb", SimpleFileOptions::default())
                .unwrap();
            for _ in 0..64 {
                zip.write_all(&[0; 65_536]).unwrap();
            }
        });
        assert!(unpack(&dir.path().join("bomb"), zip, LIMITS).is_err());
        let mut no_zip = tempfile::tempfile().unwrap();
        no_zip.write_all(b"not a zip file").unwrap();
        let error = unpack(&dir.path().join("none"), no_zip, LIMITS).unwrap_err();
        assert_eq!(error.kind(), Kind::Protocol);
    }
}
