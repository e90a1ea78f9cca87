//! Files and directories out of machines.

use std::fs::{self, File, FileTimes};
use std::future::poll_fn;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant, UNIX_EPOCH};

use boxrig_wire::{Error, Kind, Result, WireBody};
use bytes::Bytes;
use http::Response;
use http_body::Body as _;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use super::Client;
use super::storage::{self, announced_digest, stalled};
use super::transfer::{
    CODE, Checked, TransferOptions, TransferProgress, TransferReport, blocking, check_remote,
    guest, hex, joined, plain, script,
};
use super::upload::again;
use crate::archive::channel::{self, Message};
use crate::archive::gzip::Level;
use crate::archive::pack::cannot;
use crate::archive::unpack::{Limits, Unpacked, set_mode, unpack};
use crate::types::{ExecResponse, FilePresignResponse};

/// The path is not there.
const ENOENT: i32 = 44;

/// Sends a path to the staging object and says what it is. Arguments: the path, the upload URL, whether to compress.
///
/// A pipe's status is that of its last command, so each command's is written to a third channel.
const SEND: &str = r#"
p=$1 u=$2 z=$3
[ -e "$p" ] || [ -L "$p" ] || exit 44
put() { curl -f -s -S -X PUT -H 'Content-Type: application/octet-stream' -o /dev/null -T - "$u"; }
if [ -d "$p" ]; then
  echo kind=directory
  squeeze() { cat; }
  if [ "$z" != 0 ] && command -v gzip >/dev/null 2>&1; then squeeze() { gzip "-$z"; }; fi
  r=$({ { tar cf - -C "$p" . 3>&-; echo "tar=$?" >&3; } | { squeeze 3>&-; echo "gzip=$?" >&3; } | { put 3>&-; echo "curl=$?" >&3; }; } 3>&1)
else
  n=$(($(wc -c <"$p"))) || exit 67
  printf 'kind=file\nsize=%s\n' "$n"
  stat -L -c 'mode=%a
mtime=%Y' "$p" 2>/dev/null
  r=$({ { head -c "$n" "$p" 3>&-; echo "head=$?" >&3; } | { put 3>&-; echo "curl=$?" >&3; }; } 3>&1)
  if command -v sha256sum >/dev/null 2>&1; then
    x=$(head -c "$n" "$p" | sha256sum) && echo "sha256=${x%% *}"
  fi
fi
printf '%s\n' "$r"
exit 0
"#;

impl Client {
    /// Copies a file or directory of a machine to the local disk.
    ///
    /// ```no_run
    /// # async fn f(client: boxrig_fastvm::Client) -> boxrig_wire::Result<()> {
    /// client.download("0b2e…", "/root/out.log", "./out.log").await?; // a file
    /// client.download("0b2e…", "/var/log", "./log-backup").await?;   // a directory
    /// # Ok(()) }
    /// ```
    ///
    /// A file takes the place of the local one in one step, when all of it is there and checked: a transfer that is cut
    /// leaves what was there. The files of a directory are merged into the local one, each in one step. Modes, times and links
    /// are kept; setuid bits, owners and devices are not. What the machine sends is not trusted: nothing is written outside the
    /// local directory.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`] with code `ENOENT`: the machine has no such path. A question that was not answered in time is no
    ///   such error.
    /// * Code `hostile_archive`: what the machine sent would have left the directory.
    /// * Code `file_transfer_failed`: a step in the machine failed; the error's body is what the command there answered.
    pub async fn download(
        &self,
        vm_id: &str,
        remote: &str,
        local: impl AsRef<Path>,
    ) -> Result<TransferReport> {
        self.download_with(vm_id, remote, local, &TransferOptions::new())
            .await
    }

    /// As [`download`](Self::download), with settings.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn download_with(
        &self,
        vm_id: &str,
        remote: &str,
        local: impl AsRef<Path>,
        options: &TransferOptions,
    ) -> Result<TransferReport> {
        check_remote(remote)?;
        download(self, vm_id, &plain(remote), local.as_ref(), options)
            .await
            .map_err(|e| e.context("download"))
    }
}

/// What the machine says of what it sent.
#[derive(Debug, Default)]
struct Said {
    directory: Option<bool>,
    size: Option<u64>,
    sha256: Option<String>,
    mode: Option<u32>,
    mtime: Option<i64>,
    /// The exit codes of the commands, by name.
    codes: Vec<(String, i32)>,
}

impl Said {
    fn read(stdout: &str) -> Self {
        let mut said = Self::default();
        for (key, value) in stdout.lines().filter_map(|l| l.trim().split_once('=')) {
            match key {
                "kind" => said.directory = Some(value == "directory"),
                "size" => said.size = value.parse().ok(),
                "sha256" => said.sha256 = Some(value.to_owned()).filter(|v| v.len() == 64),
                "mode" => said.mode = u32::from_str_radix(value, 8).ok(),
                "mtime" => said.mtime = value.parse().ok(),
                "tar" | "gzip" | "curl" | "head" => {
                    if let Ok(code) = value.parse() {
                        said.codes.push((key.to_owned(), code));
                    }
                }
                _ => {}
            }
        }
        said
    }

    /// The first command that failed. GNU tar ends with 1 when a file changed while it was read: the archive is whole then,
    /// and its words are handed on.
    fn failure(&self, stderr: &str) -> Option<(&str, i32)> {
        let only_changed = !stderr.trim().is_empty()
            && stderr
                .lines()
                .filter(|l| !l.trim().is_empty())
                .all(|l| l.contains("file changed as we read it"));
        let bad = |(name, code): &&(String, i32)| {
            *code != 0 && !(name == "tar" && *code == 1 && only_changed)
        };
        self.codes
            .iter()
            .find(bad)
            .map(|(name, code)| (name.as_str(), *code))
    }
}

async fn download(
    client: &Client,
    vm_id: &str,
    remote: &str,
    local: &Path,
    options: &TransferOptions,
) -> Result<TransferReport> {
    let vms = client.vms();
    let staging = vms.files().presign(vm_id, remote).await?;
    let level = match options.compression {
        Level::None => "0".to_owned(),
        Level::Of(n) => n.clamp(1, 9).to_string(),
        _ => "1".to_owned(),
    };
    let args = [remote, staging.upload_url.expose(), &level];
    let result = script(&vms, vm_id, SEND, &args, options.exec_timeout).await?;
    let said = check(&result, remote)?;
    if said.directory == Some(true) {
        let asked = local.to_owned();
        let report = again(client, || {
            directory(client, &staging, asked.clone(), options)
        })
        .await?;
        let words = result.stderr.trim();
        return Ok(TransferReport {
            warnings: (!words.is_empty()).then(|| words.into()),
            ..report
        });
    }
    again(client, || {
        file(client, &staging, local.to_owned(), &said, options)
    })
    .await
}

/// What the command said, if it went well.
fn check(result: &ExecResponse, remote: &str) -> Result<Said> {
    if result.exit_code == ENOENT {
        let remote = boxrig_wire::escape_line(remote);
        return Err(guest(
            result,
            Kind::NotFound,
            &format!("{remote} is not in the machine"),
        )
        .with_code("ENOENT"));
    }
    if result.exit_code != 0 {
        return Err(guest(result, Kind::Failed, "the machine could not send it"));
    }
    let said = Said::read(&result.stdout);
    if let Some((name, code)) = said.failure(&result.stderr) {
        let what = format!("the machine could not send it: {name} ended with {code}");
        return Err(guest(result, Kind::Failed, &what));
    }
    let told = said.directory == Some(true) || said.size.is_some();
    if said.directory.is_none() || !told || said.codes.is_empty() {
        return Err(guest(
            result,
            Kind::Protocol,
            "the machine's shell did not say what it sent",
        ));
    }
    Ok(said)
}

/// A body as it comes, under the clock that ends a transfer which stands still.
struct Incoming {
    body: Pin<Box<WireBody>>,
    stall: Duration,
    bytes: u64,
}

impl Incoming {
    fn new(response: Response<WireBody>, options: &TransferOptions) -> Self {
        Self {
            body: Box::pin(response.into_body()),
            stall: options.stall_timeout,
            bytes: 0,
        }
    }

    /// The next bytes; `None` at the proper end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = poll_fn(|cx| self.body.as_mut().poll_frame(cx));
            let frame = tokio::time::timeout(self.stall, frame)
                .await
                .map_err(|_| stalled(self.stall))?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.bytes += data.len() as u64;
                        return Ok(Some(data));
                    }
                }
                Some(Err(e)) => {
                    return Err(Error::new(Kind::Transport, "the transfer broke off")
                        .with_operation("getObject")
                        .with_code(CODE)
                        .with_source(e));
                }
            }
        }
    }
}

/// Hands a body to a blocking thread; gives its length when it came to its end.
async fn feed(mut from: Incoming, to: channel::Sender) -> Result<u64> {
    while let Some(data) = from.next().await? {
        if to.send(Message::Data(data)).await.is_err() {
            // The other side says why.
            return Ok(from.bytes);
        }
    }
    let _ = to.send(Message::End).await;
    Ok(from.bytes)
}

/// A local file that is being written, under a name of its own.
///
/// The bytes were received on the thread that writes them, which is more than twice as fast as handing them to another
/// processor. A disk that makes writers wait gets a thread that may wait.
struct Part {
    file: tempfile::NamedTempFile,
    slow: bool,
}

impl Part {
    const PATIENCE: Duration = Duration::from_millis(4);

    async fn write(mut self, chunk: Bytes, target: &Path) -> Result<Self> {
        if !self.slow {
            let start = Instant::now();
            let written = self.file.as_file_mut().write_all(&chunk);
            written.map_err(|e| cannot("write", target, e))?;
            self.slow = start.elapsed() > Self::PATIENCE;
            return Ok(self);
        }
        let target = target.to_owned();
        blocking(move || {
            let written = self.file.as_file_mut().write_all(&chunk);
            written.map_err(|e| cannot("write", &target, e))?;
            Ok(self)
        })
        .await
    }
}

/// The checksum of what is received.
enum Sum {
    /// Made by whoever receives.
    Here(Sha256),
    /// Made beside it: of a large file, the sum takes as long as receiving and writing it.
    Beside(channel::Sender, JoinHandle<Result<String>>),
}

impl Sum {
    /// Less is summed before a thread has begun.
    const LARGE: u64 = 8 << 20;

    fn begin(total: Option<u64>) -> Self {
        let alone = std::thread::available_parallelism().map_or(1, usize::from) == 1;
        if alone || total.is_none_or(|total| total < Self::LARGE) {
            return Self::Here(Sha256::new());
        }
        let (to, mut from) = channel::channel();
        let sum = tokio::task::spawn_blocking(move || {
            let mut sum = Sha256::new();
            let cut = |e| Error::new(Kind::Cancelled, "the checksum was not made").with_source(e);
            while let Some(chunk) = from.chunk().map_err(cut)? {
                sum.update(&chunk);
            }
            Ok(hex(&sum.finalize()))
        });
        Self::Beside(to, sum)
    }

    async fn update(&mut self, chunk: &Bytes) {
        match self {
            Self::Here(sum) => sum.update(chunk),
            // One that broke off says so at the end.
            Self::Beside(to, _) => {
                let _ = to.send(Message::Data(chunk.clone())).await;
            }
        }
    }

    async fn finish(self) -> Result<String> {
        match self {
            Self::Here(sum) => Ok(hex(&sum.finalize())),
            Self::Beside(to, sum) => {
                let _ = to.send(Message::End).await;
                drop(to);
                joined(sum.await)
            }
        }
    }
}

async fn file(
    client: &Client,
    staging: &FilePresignResponse,
    local: PathBuf,
    said: &Said,
    options: &TransferOptions,
) -> Result<TransferReport> {
    let (mut part, target) = blocking(move || {
        let target = target(&local)?;
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|e| cannot("make", parent, e))?;
        let file = tempfile::Builder::new()
            .prefix(".boxrig-")
            .suffix(".part")
            .tempfile_in(parent)
            .map_err(|e| cannot("write in", parent, e))?;
        Ok((Part { file, slow: false }, target))
    })
    .await?;
    let response = storage::get(client, &staging.download_url).await?;
    let announced = announced_digest(&response);
    let length = response
        .headers()
        .get(http::header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let total = said.size.or(length);
    // A checksum that nothing is compared with is not computed.
    let summed = announced.is_some() || said.sha256.is_some();
    let mut sum = summed.then(|| Sum::begin(total));
    let mut incoming = Incoming::new(response, options);
    while let Some(chunk) = incoming.next().await? {
        if let Some(sum) = &mut sum {
            sum.update(&chunk).await;
        }
        part = part.write(chunk, &target).await?;
        options.report(TransferProgress {
            bytes: incoming.bytes,
            total,
            entries: 0,
        });
    }
    let bytes = incoming.bytes;
    let digest = match sum {
        Some(sum) => Some(sum.finish().await?),
        None => None,
    };
    let wrong = |what: &str| {
        let hint = "it may have been changed while it was sent";
        Error::new(
            Kind::Failed,
            format!("what was received is not what was sent: {what}"),
        )
        .with_code(CODE)
        .with_hint(hint)
    };
    if said.size.is_some_and(|n| n != bytes) {
        return Err(wrong("its length differs"));
    }
    if announced.is_some_and(|d| digest.as_deref() != Some(&hex(&d))) {
        return Err(wrong("its checksum differs from the storage's"));
    }
    let checked = match &said.sha256 {
        Some(sum) if digest.as_ref() != Some(sum) => return Err(wrong("its checksum differs")),
        Some(_) => Checked::Sha256,
        None => Checked::Length,
    };
    let (mode, mtime) = (said.mode, said.mtime);
    blocking(move || {
        let finish = |file: &File| -> std::io::Result<()> {
            let after = |s: i64| Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(s).ok()?));
            if let Some(time) = mtime.and_then(after) {
                file.set_times(FileTimes::new().set_modified(time))?;
            }
            set_mode(file, mode.unwrap_or(0o644) & 0o777)
        };
        finish(part.file.as_file()).map_err(|e| cannot("finish", &target, e))?;
        part.file
            .persist(&target)
            .map_err(|e| cannot("replace", &target, e.error))?;
        Ok(())
    })
    .await?;
    Ok(TransferReport {
        directory: false,
        bytes,
        entries: 1,
        wire_bytes: bytes,
        checked,
        skipped: Vec::new(),
        skipped_count: 0,
        warnings: None,
    })
}

/// Where a file goes: through a local link, never onto a directory.
fn target(local: &Path) -> Result<PathBuf> {
    let target = match fs::symlink_metadata(local) {
        Ok(meta) if meta.is_symlink() => {
            fs::canonicalize(local).map_err(|e| cannot("follow", local, e))?
        }
        _ => local.to_owned(),
    };
    if target.is_dir() {
        let target = target.to_string_lossy();
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "{} is a directory, and what is downloaded is a file",
                boxrig_wire::escape_line(&target)
            ),
        )
        .with_code(CODE));
    }
    Ok(target)
}

async fn directory(
    client: &Client,
    staging: &FilePresignResponse,
    local: PathBuf,
    options: &TransferOptions,
) -> Result<TransferReport> {
    let response = storage::get(client, &staging.download_url).await?;
    let (to, from) = channel::channel();
    let limits = Limits {
        bytes: options.max_unpacked_bytes,
        entries: options.max_entries,
        outside_links: options.outside_links,
    };
    let progress = options.clone();
    let unpacker = blocking(move || {
        let mut seen = |entries, bytes| {
            progress.report(TransferProgress {
                bytes,
                total: None,
                entries,
            });
        };
        unpack(&local, from, limits, &mut seen)
    });
    let (fed, unpacked) = tokio::join!(feed(Incoming::new(response, options), to), unpacker);
    let (wire_bytes, out): (u64, Unpacked) = both(fed, unpacked)?;
    Ok(TransferReport {
        directory: true,
        bytes: out.bytes,
        entries: out.entries,
        wire_bytes,
        checked: if out.gzip {
            Checked::Gzip
        } else {
            Checked::Length
        },
        skipped: out.left_out.named,
        skipped_count: out.left_out.count,
        warnings: None,
    })
}

/// Both halves of a transfer. A cut stream makes the writing half fail too; the cut is the reason then, else the writing.
fn both<A, B>(fed: Result<A>, written: Result<B>) -> Result<(A, B)> {
    match (fed, written) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(e), _) | (Ok(_), Err(e)) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sum_beside_the_transfer_is_the_same() {
        for total in [None, Some(1), Some(Sum::LARGE)] {
            let mut sum = Sum::begin(total);
            for n in 0..40_u8 {
                sum.update(&vec![n; 1000 * usize::from(n)].into()).await;
            }
            let bytes: Vec<u8> = (0..40_u8)
                .flat_map(|n| vec![n; 1000 * usize::from(n)])
                .collect();
            assert_eq!(sum.finish().await.unwrap(), hex(&Sha256::digest(&bytes)));
        }
    }
}
