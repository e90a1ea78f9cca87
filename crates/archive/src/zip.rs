//! A build context as a zip file.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;

use boxrig_wire::{Error, Kind, Result, escape_line};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::ignore::Ignore;
use super::pack::{cannot, mode_of, path_bytes, walk};

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
