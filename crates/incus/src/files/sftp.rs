//! Directories over SFTP: for guests without tar, and for instances that do not run.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::Duration;

use boxrig_archive::LeftOut;
use boxrig_archive::channel::{self, Message};
use boxrig_archive::ignore::Ignore;
use boxrig_archive::pack::{cannot, mode_of, mtime_of, walk};
use boxrig_archive::tar::{self, Entry};
use boxrig_archive::unpack::{Limits, unpack};
use boxrig_wire::{Error, Kind, Result, Untrusted};
use bytes::Bytes;
use russh_sftp::client::SftpSession;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, FileType, OpenFlags, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::local::blocking;
use super::tree::{TreeOptions, TreeReport, connect};
use crate::client::Client;

/// How long one answer may take; a file system that is busy takes its time.
const ANSWER: Duration = Duration::from_secs(60);
/// How much is read at a time.
const CHUNK: usize = 256 * 1024;

async fn session(client: &Client, instance: &str) -> Result<SftpSession> {
    let io = connect(client, instance).await?;
    let config = russh_sftp::client::Config {
        request_timeout_secs: ANSWER.as_secs(),
        ..russh_sftp::client::Config::default()
    };
    SftpSession::new_with_config(io, config)
        .await
        .map_err(|e| failed("begin SFTP", "/", e))
}

fn failed(what: &str, path: &str, e: SftpError) -> Error {
    let kind = match &e {
        SftpError::Status(status) => match status.status_code {
            StatusCode::NoSuchFile => Kind::NotFound,
            StatusCode::PermissionDenied => Kind::Denied,
            StatusCode::OpUnsupported => Kind::Unsupported,
            _ => Kind::Failed,
        },
        SftpError::Timeout => Kind::Timeout,
        SftpError::IO(_) => Kind::Transport,
        _ => Kind::Protocol,
    };
    let path = boxrig_wire::escape_line(path).into_owned();
    let mut error = Error::new(kind, format!("cannot {what} {path}")).with_retryable(false);
    if let SftpError::Status(status) = &e {
        error = error.with_server_message(Untrusted::new(status.error_message.clone()));
    }
    error
}

fn broken(what: &str, path: &str, e: std::io::Error) -> Error {
    let path = boxrig_wire::escape_line(path).into_owned();
    Error::new(Kind::Transport, format!("cannot {what} {path}"))
        .with_retryable(false)
        .with_source(e)
}

/// Something that is sent.
struct Local {
    name: String,
    meta: Metadata,
    path: PathBuf,
}

/// Copies a local directory's content into a directory of the instance.
pub(super) async fn push(
    client: &Client,
    instance: &str,
    local: &Path,
    path: &str,
) -> Result<TreeReport> {
    let root = local.to_owned();
    let (found, mut left_out) = blocking(move || {
        let (mut found, mut left_out) = (Vec::new(), LeftOut::default());
        walk(&root, &Ignore::default(), &mut |name, meta, path| {
            match std::str::from_utf8(name) {
                Ok(name) => found.push(Local {
                    name: name.to_owned(),
                    meta: meta.clone(),
                    path: path.to_owned(),
                }),
                Err(_) => left_out.add(name, "a name that is not UTF-8 cannot be sent"),
            }
            Ok(())
        })?;
        Ok((found, left_out))
    })
    .await?;
    let sftp = session(client, instance).await?;
    let base = path.trim_end_matches('/').to_owned();
    make_all(&sftp, &base).await?;
    let (mut entries, mut bytes) = (0, 0);
    for Local { name, meta, path } in found {
        let there = format!("{base}/{name}");
        if meta.is_dir() {
            make(&sftp, &there).await?;
        } else if meta.is_symlink() {
            let target = std::fs::read_link(&path).map_err(|e| cannot("read", &path, e))?;
            let Some(target) = target.to_str() else {
                left_out.add(
                    name.as_bytes(),
                    "a link's target that is not UTF-8 cannot be sent",
                );
                continue;
            };
            // What is there gives way, as with tar.
            let _ = sftp.remove_file(&there).await;
            // The server takes the target first, as OpenSSH does, whatever the draft says.
            sftp.symlink(target, &there)
                .await
                .map_err(|e| failed("link", &there, e))?;
            entries += 1;
            continue;
        } else if meta.is_file() {
            bytes += send(&sftp, &path, &there).await?;
        } else {
            left_out.add(name.as_bytes(), "a socket, device or pipe cannot be sent");
            continue;
        }
        let mut attributes = FileAttributes::empty();
        attributes.permissions = Some(mode_of(&meta) & 0o7777);
        let time = u32::try_from(mtime_of(&meta)).ok();
        attributes.mtime = time;
        attributes.atime = time;
        sftp.set_metadata(&there, attributes)
            .await
            .map_err(|e| failed("set the mode of", &there, e))?;
        entries += 1;
    }
    let _ = sftp.close().await;
    Ok(TreeReport::of(entries, bytes, true, left_out))
}

async fn make_all(sftp: &SftpSession, path: &str) -> Result<()> {
    let mut at = String::new();
    for step in path.split('/').filter(|s| !s.is_empty()) {
        at = format!("{at}/{step}");
        make(sftp, &at).await?;
    }
    Ok(())
}

async fn make(sftp: &SftpSession, path: &str) -> Result<()> {
    if let Ok(there) = sftp.metadata(path).await
        && there.file_type().is_dir()
    {
        return Ok(());
    }
    sftp.create_dir(path)
        .await
        .map_err(|e| failed("make", path, e))
}

async fn send(sftp: &SftpSession, local: &Path, path: &str) -> Result<u64> {
    let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::WRITE;
    let mut there = sftp
        .open_with_flags(path, flags)
        .await
        .map_err(|e| failed("write", path, e))?;
    let mut file = tokio::fs::File::open(local)
        .await
        .map_err(|e| cannot("read", local, e))?;
    let (mut buffer, mut bytes) = (vec![0; CHUNK], 0);
    loop {
        let n = file
            .read(&mut buffer)
            .await
            .map_err(|e| cannot("read", local, e))?;
        if n == 0 {
            break;
        }
        there
            .write_all(&buffer[..n])
            .await
            .map_err(|e| broken("write", path, e))?;
        bytes += n as u64;
    }
    there.close().await.map_err(|e| broken("finish", path, e))?;
    let size = sftp
        .metadata(path)
        .await
        .map_err(|e| failed("look at", path, e))?
        .size;
    if size != Some(bytes) {
        return Err(Error::new(
            Kind::Failed,
            "what has arrived has another length than what was sent",
        ));
    }
    Ok(bytes)
}

/// Copies the content of a directory of the instance into a local one. What is read becomes an archive that is unpacked like any other
/// from a stranger.
pub(super) async fn pull(
    client: &Client,
    instance: &str,
    path: &str,
    local: &Path,
    options: &TreeOptions,
) -> Result<TreeReport> {
    let sftp = session(client, instance).await?;
    let root = path.trim_end_matches('/').to_owned();
    let there = sftp
        .metadata(path)
        .await
        .map_err(|e| failed("read", path, e))?;
    if !there.file_type().is_dir() {
        return Err(Error::new(Kind::Invalid, "it is not a directory"));
    }
    let (to, from) = channel::channel();
    let limits = Limits {
        bytes: options.max_bytes,
        entries: options.max_entries,
        outside_links: options.outside_links,
    };
    let target = local.to_owned();
    let unpacker = blocking(move || unpack(&target, from, limits, &mut |_, _| {}));
    let mut other = LeftOut::default();
    let feed = archive(&sftp, &root, there, to, &mut other);
    let (fed, unpacked) = tokio::join!(feed, unpacker);
    fed?;
    let mut unpacked = unpacked?;
    unpacked.left_out.count += other.count;
    unpacked.left_out.named.extend(other.named);
    Ok(TreeReport::of(
        unpacked.entries,
        unpacked.bytes,
        true,
        unpacked.left_out,
    ))
}

/// Reads the tree and writes it as an archive. A receiver that went away ends it; it says why itself.
async fn archive(
    sftp: &SftpSession,
    root: &str,
    attributes: FileAttributes,
    to: channel::Sender,
    other: &mut LeftOut,
) -> Result<()> {
    let mut stack = vec![(String::new(), attributes)];
    while let Some((name, attributes)) = stack.pop() {
        let path = format!("{root}/{name}");
        let kind = match attributes.file_type() {
            FileType::Dir => tar::Kind::Directory,
            FileType::File => tar::Kind::File,
            FileType::Symlink => tar::Kind::Symlink,
            FileType::Other => {
                other.add(
                    name.as_bytes(),
                    "a socket, device or pipe cannot be received",
                );
                continue;
            }
        };
        let mut entry = Entry {
            path: format!("./{name}").into_bytes(),
            kind,
            mode: attributes.permissions.unwrap_or(0o644) & 0o777,
            mtime: i64::from(attributes.mtime.unwrap_or(0)),
            size: 0,
            link: Vec::new(),
        };
        match attributes.file_type() {
            FileType::Dir => {
                if !name.is_empty() {
                    entry.path.push(b'/');
                }
                if !head(&entry, &to).await? {
                    return Ok(());
                }
                let listing = sftp
                    .read_dir(&path)
                    .await
                    .map_err(|e| failed("list", &path, e))?;
                for child in listing {
                    let step = child.file_name();
                    // A name is one step of a path, whatever the other side says.
                    if step.is_empty() || step.contains('/') || step == "." || step == ".." {
                        continue;
                    }
                    let name = match name.is_empty() {
                        true => step,
                        false => format!("{name}/{step}"),
                    };
                    stack.push((name, child.metadata()));
                }
            }
            FileType::Symlink => {
                let link = sftp
                    .read_link(&path)
                    .await
                    .map_err(|e| failed("read", &path, e))?;
                entry.link = link.into_bytes();
                if !head(&entry, &to).await? {
                    return Ok(());
                }
            }
            _ => {
                entry.size = attributes.size.unwrap_or(0);
                if !head(&entry, &to).await? || !content(sftp, &path, entry.size, &to).await? {
                    return Ok(());
                }
            }
        }
    }
    if to
        .send(Message::Data(Bytes::from_static(&tar::END)))
        .await
        .is_ok()
    {
        let _ = to.send(Message::End).await;
    }
    Ok(())
}

async fn head(entry: &Entry, to: &channel::Sender) -> Result<bool> {
    let mut bytes = Vec::new();
    tar::write_header(&mut bytes, entry)
        .map_err(|e| Error::new(Kind::Failed, "an entry does not fit").with_source(e))?;
    Ok(to.send(Message::Data(bytes.into())).await.is_ok())
}

async fn content(sftp: &SftpSession, path: &str, size: u64, to: &channel::Sender) -> Result<bool> {
    let mut file = sftp.open(path).await.map_err(|e| failed("read", path, e))?;
    let mut left = size;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = vec![0; want];
        let n = file
            .read(&mut chunk)
            .await
            .map_err(|e| broken("read", path, e))?;
        if n == 0 {
            return Err(Error::new(
                Kind::Failed,
                format!(
                    "{} became shorter while it was read",
                    boxrig_wire::escape_line(path)
                ),
            ));
        }
        chunk.truncate(n);
        left -= n as u64;
        if to.send(Message::Data(chunk.into())).await.is_err() {
            return Ok(false);
        }
    }
    let _ = file.close().await;
    let padding = vec![0; tar::padding(size)];
    Ok(padding.is_empty() || to.send(Message::Data(padding.into())).await.is_ok())
}
