//! Whole directories: by tar through a command where the guest has tar, by SFTP else.

use std::path::Path;

use boxrig_archive::channel::{self, Message, Writer};
use boxrig_archive::ignore::Ignore;
use boxrig_archive::pack::pack;
use boxrig_archive::unpack::{Limits, OutsideLinks, unpack};
use boxrig_archive::{LeftOut, Skipped};
use boxrig_wire::{Error, Kind, Result};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::local::blocking;
use super::piped::{guest, nothing_ran};
use super::{Files, OfInstance};
use crate::client::Client;
use crate::instances::{Exec, ExecEvent};

/// How a directory is transferred.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TreeOptions {
    /// The most bytes that a directory from an instance may unpack to; 1 TiB.
    pub max_bytes: u64,
    /// The most entries that a directory from an instance may have; 10 million.
    pub max_entries: u64,
    /// What is done with links in a directory from an instance that lead out of it.
    pub outside_links: OutsideLinks,
    /// Whether SFTP is used though the guest has tar.
    pub sftp_only: bool,
}

impl Default for TreeOptions {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 40,
            max_entries: 10_000_000,
            outside_links: OutsideLinks::default(),
            sftp_only: false,
        }
    }
}

/// What was transferred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeReport {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Whether it went by SFTP, not by tar.
    pub sftp: bool,
    /// What was left out; the first thousand of [`skipped_count`](Self::skipped_count).
    pub skipped: Vec<Skipped>,
    /// How much was left out.
    pub skipped_count: u64,
}

impl TreeReport {
    pub(super) fn of(entries: u64, bytes: u64, sftp: bool, left_out: LeftOut) -> Self {
        Self {
            entries,
            bytes,
            sftp,
            skipped: left_out.named,
            skipped_count: left_out.count,
        }
    }
}

/// Unpacks what comes in; the directory is made if need be. The words after the script are its arguments, so that no path is read as shell.
const UNPACK: &str = r#"mkdir -p -- "$1" && exec tar -xf - -C "$1""#;
/// Packs a directory.
const PACK: &str = r#"exec tar -cf - -C "$1" ."#;

impl Files<'_, OfInstance> {
    pub(super) fn instance(&self) -> &str {
        &self.place[0]
    }

    /// Copies a local directory's content into a directory of the instance, which is made if need be. What is there and not in the local one stays.
    ///
    /// # Errors
    ///
    /// What cannot be read, what the guest could not write; nothing is left out silently.
    pub async fn push_tree(
        &self,
        local: &Path,
        path: &str,
        options: &TreeOptions,
    ) -> Result<TreeReport> {
        self.at(path)?;
        if !options.sftp_only {
            match self.push_tar(local, path).await {
                Err(e) if no_tar(&e) => {}
                other => return other,
            }
        }
        super::sftp::push(self.client, self.instance(), local, path).await
    }

    /// Copies the content of a directory of the instance into a local one, which is made if need be. Nothing is written outside of it.
    ///
    /// # Errors
    ///
    /// What the guest could not read, what cannot be written, [`Kind::Protocol`] for an archive that is hostile.
    pub async fn pull_tree(
        &self,
        path: &str,
        local: &Path,
        options: &TreeOptions,
    ) -> Result<TreeReport> {
        self.at(path)?;
        if !options.sftp_only {
            match self.pull_tar(path, local, options).await {
                Err(e) if no_tar(&e) => {}
                other => return other,
            }
        }
        super::sftp::pull(self.client, self.instance(), path, local, options).await
    }

    async fn push_tar(&self, local: &Path, path: &str) -> Result<TreeReport> {
        let exec = Exec::new(["sh", "-c", UNPACK, "sh", path]);
        let (writer, packed) = Writer::new();
        let root = local.to_owned();
        let packer = blocking(move || pack(&root, &Ignore::default(), writer, &mut |_, _| {}));
        // A guest's tar that has ended before drops the channel, and that ends the packer.
        let pieces = stream::unfold(packed, |mut packed| async move {
            let piece = packed.recv().await?;
            Some((Ok(Bytes::from(piece)), packed))
        });
        let (packed, fed) = tokio::join!(packer, self.feed(exec, pieces));
        let (code, words) = fed?;
        if code != 0 {
            return Err(by_tar(code, &words, "unpack"));
        }
        let packed = packed?;
        Ok(TreeReport::of(
            packed.entries,
            packed.bytes,
            false,
            packed.left_out,
        ))
    }

    async fn pull_tar(
        &self,
        path: &str,
        local: &Path,
        options: &TreeOptions,
    ) -> Result<TreeReport> {
        let exec = Exec::new(["sh", "-c", PACK, "sh", path]);
        let mut session = self.client.instances().exec(self.instance(), exec).await?;
        let mut output = Box::pin(session.output());
        let _ = session.end_input().await;
        // The local directory is made once the first bytes have come: a guest without tar leaves nothing here.
        let mut words = Vec::new();
        let mut first: Option<Bytes> = None;
        while first.is_none() {
            match output.next().await {
                Some(event) => match event? {
                    ExecEvent::Stdout(b) => first = Some(b),
                    ExecEvent::Stderr(b) => words.extend_from_slice(&b),
                },
                None => break,
            }
        }
        let Some(first) = first else {
            drop(output);
            let code = session.exit_code().await?;
            return Err(by_tar(code, &words, "pack"));
        };
        let (to, from) = channel::channel();
        let limits = Limits {
            bytes: options.max_bytes,
            entries: options.max_entries,
            outside_links: options.outside_links,
        };
        let root = local.to_owned();
        let unpacker = blocking(move || unpack(&root, from, limits, &mut |_, _| {}));
        let feed = async {
            let mut next = Some(first);
            loop {
                if let Some(bytes) = next.take()
                    && to.send(Message::Data(bytes)).await.is_err()
                {
                    break; // the unpacker says why
                }
                match output.next().await {
                    Some(Ok(ExecEvent::Stdout(b))) => next = Some(b),
                    Some(Ok(ExecEvent::Stderr(b))) if words.len() < 16 * 1024 => {
                        words.extend_from_slice(&b);
                    }
                    Some(Ok(ExecEvent::Stderr(_))) => {}
                    Some(Err(e)) => return Err(e),
                    None => {
                        drop(output);
                        let code = session.exit_code().await?;
                        if code != 0 {
                            return Err(by_tar(code, &words, "pack"));
                        }
                        // Only an archive whose tar has said that it is whole is at its end.
                        let _ = to.send(Message::End).await;
                        drop(to);
                        break;
                    }
                }
            }
            Ok(())
        };
        let (fed, unpacked) = tokio::join!(feed, unpacker);
        fed?;
        let unpacked = unpacked?;
        Ok(TreeReport::of(
            unpacked.entries,
            unpacked.bytes,
            false,
            unpacked.left_out,
        ))
    }
}

const NO_TAR: &str = "the guest has no tar";

/// Whether another way is worth trying: nothing ran in the guest.
fn no_tar(e: &Error) -> bool {
    e.message() == NO_TAR || nothing_ran(e)
}

fn by_tar(code: i32, words: &[u8], what: &str) -> Error {
    match code {
        126 | 127 => Error::new(Kind::Unsupported, NO_TAR),
        _ => guest(code, words, what),
    }
}

pub(super) async fn connect(
    client: &Client,
    instance: &str,
) -> Result<Box<dyn boxrig_wire::Duplex>> {
    client.instances().sftp(instance).await
}
