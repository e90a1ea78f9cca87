//! Files and directories into machines.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use boxrig_wire::{Error, Kind, Result, Secret, WireBody};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::storage::{self, Pulse};
use super::transfer::{
    CODE, Checked, TransferOptions, TransferProgress, TransferReport, blocking, check_remote,
    guest, hex, plain, script,
};
use super::{Client, Vms, random_hex};
use crate::archive::channel::{CHUNK, Writer};
use crate::archive::gzip::{Level, Member, compress};
use crate::archive::ignore::Ignore;
use crate::archive::pack::{self, Packed, cannot, mode_of, mtime_of};
use crate::types::FilePresignResponse;

/// Checks a fetched file and puts it in its place. Arguments: the fetched file, the target, length, SHA-256, mode, time.
const FINISH_FILE: &str = r#"
t=$1 d=$2 n=$3 h=$4 m=$5 s=$6
fail() { rm -f "$t"; printf '%s\n' "$1" >&2; exit "$2"; }
if [ -d "$d" ]; then fail 'the target is a directory' 21; fi
k=$(($(wc -c <"$t"))) || fail 'what was fetched cannot be read' 65
[ "$k" -eq "$n" ] || fail "what was fetched has $k bytes, not $n" 65
if command -v sha256sum >/dev/null 2>&1; then
  x=$(sha256sum <"$t") || fail 'what was fetched cannot be read' 65
  [ "${x%% *}" = "$h" ] || fail 'what was fetched has another checksum' 65
  echo sha256
fi
chmod "$m" "$t" || fail 'its mode cannot be set' 66
touch -d "@$s" "$t" 2>/dev/null || :
if [ -L "$d" ]; then r=$(readlink -f "$d" 2>/dev/null) && [ -n "$r" ] && d=$r; fi
mv -f "$t" "$d" || fail 'it cannot be put in its place' 66
"#;

/// Checks a fetched archive and unpacks it. Arguments: the archive, the target, length, SHA-256, a name of its own.
const FINISH_DIRECTORY: &str = r#"
a=$1 d=$2 n=$3 h=$4 t=$2.$5
trap 'rm -f "$a"' EXIT
fail() { printf '%s\n' "$1" >&2; exit "$2"; }
k=$(($(wc -c <"$a"))) || fail 'what was fetched cannot be read' 65
[ "$k" -eq "$n" ] || fail "what was fetched has $k bytes, not $n" 65
if command -v sha256sum >/dev/null 2>&1; then
  x=$(sha256sum <"$a") || fail 'what was fetched cannot be read' 65
  [ "${x%% *}" = "$h" ] || fail 'what was fetched has another checksum' 65
  echo sha256
fi
if [ -e "$d" ] || [ -L "$d" ]; then
  [ -d "$d" ] || fail 'the target is not a directory' 20
  tar xpzf "$a" -C "$d" || fail 'it could not be unpacked' 66
else
  mkdir -p "$t" || fail 'the target cannot be made' 66
  tar xpzf "$a" -C "$t" && mv "$t" "$d" || { rm -rf "$t"; fail 'it could not be unpacked' 66; }
fi
"#;

/// A channel's items as a stream.
fn receiver<T: Send>(rx: mpsc::Receiver<T>) -> impl Stream<Item = T> + Send {
    stream::unfold(rx, |mut rx| async move { Some((rx.recv().await?, rx)) })
}

impl Client {
    /// Copies a local file or directory into a machine.
    ///
    /// ```no_run
    /// # async fn f(client: boxrig_fastvm::Client) -> boxrig_wire::Result<()> {
    /// client.upload("0b2e…", "./config.toml", "/etc/app.toml").await?; // a file
    /// client.upload("0b2e…", "./src", "/root/src").await?;             // a directory
    /// # Ok(()) }
    /// ```
    ///
    /// A file takes the place of the target in one step, when all of it is there and checked; a directory that is not there
    /// yet, too. Into a directory that is there, files are merged: what is not in the local one stays. Modes, times and links are
    /// kept, owners are not. Memory does not grow with the size, and nothing is written to the local disk.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`] with code `ENOENT`, [`Kind::Denied`]: a local file is not there or cannot be read. Nothing is left
    ///   out silently: one unreadable file fails the upload of its directory.
    /// * [`Kind::Invalid`]: it is larger than the machine's disk.
    /// * Code `file_transfer_failed`: a step in the machine failed; the error's body is what the command there answered.
    pub async fn upload(
        &self,
        vm_id: &str,
        local: impl AsRef<Path>,
        remote: &str,
    ) -> Result<TransferReport> {
        self.upload_with(vm_id, local, remote, &TransferOptions::new())
            .await
    }

    /// As [`upload`](Self::upload), with settings.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn upload_with(
        &self,
        vm_id: &str,
        local: impl AsRef<Path>,
        remote: &str,
        options: &TransferOptions,
    ) -> Result<TransferReport> {
        check_remote(remote)?;
        let local = local.as_ref().to_owned();
        let asked = local.clone();
        let meta = blocking(move || fs::metadata(&asked).map_err(|e| cannot("read", &asked, e)));
        let done = if meta.await?.is_dir() {
            upload_directory(self, vm_id, local, &plain(remote), options).await
        } else {
            upload_file(self, vm_id, local, &plain(remote), options).await
        };
        done.map_err(|e| e.context("upload"))
    }
}

fn check_size(size: u64, staging: &FilePresignResponse) -> Result<()> {
    // 0 is what is read when a server says nothing.
    if staging.max_upload_bytes == 0 || size <= staging.max_upload_bytes {
        return Ok(());
    }
    Err(Error::new(
        Kind::Invalid,
        format!(
            "{size} bytes are more than the {} that fit on the machine's disk",
            staging.max_upload_bytes
        ),
    )
    .with_code(CODE))
}

/// Transfers, and once more what broke off: a PUT to a signed URL replaces what an earlier one left, and a GET changes
/// nothing.
pub(super) async fn again<T, F: Future<Output = Result<T>>>(
    client: &Client,
    mut transfer: impl FnMut() -> F,
) -> Result<T> {
    let policy = client.caller().retry();
    let mut attempt = 0;
    loop {
        match transfer().await {
            Err(e) if attempt < policy.max_retries && broke_off(&e) => {
                tokio::time::sleep(policy.backoff(attempt, 0.5)).await;
                attempt += 1;
            }
            done => return done,
        }
    }
}

/// Whether a transfer ended on its way, and not because somebody said so.
fn broke_off(e: &Error) -> bool {
    e.kind() == Kind::Transport && e.is_retryable()
}

/// A file that was sent.
struct Sent {
    size: u64,
    digest: String,
    mode: u32,
    mtime: i64,
}

async fn upload_file(
    client: &Client,
    vm_id: &str,
    local: PathBuf,
    remote: &str,
    options: &TransferOptions,
) -> Result<TransferReport> {
    let vms = client.vms();
    let staging = vms.files().presign(vm_id, remote).await?;
    let sent = again(client, || {
        send_file(client, &staging, local.clone(), options)
    })
    .await?;
    let (directory, _) = split(remote);
    let part = format!("{directory}.boxrig-{}.part", &random_hex()?[..12]);
    fetch(&vms, vm_id, &staging, &part, directory, options).await?;
    let args = [
        part.as_str(),
        remote,
        &sent.size.to_string(),
        &sent.digest,
        &format!("{:o}", sent.mode),
        &sent.mtime.to_string(),
    ];
    let result = script(&vms, vm_id, FINISH_FILE, &args, options.exec_timeout).await?;
    if result.exit_code != 0 {
        return Err(guest(
            &result,
            Kind::Failed,
            "the machine could not take the file",
        ));
    }
    Ok(TransferReport {
        directory: false,
        bytes: sent.size,
        entries: 1,
        wire_bytes: sent.size,
        checked: checked(&result.stdout),
        skipped: Vec::new(),
        skipped_count: 0,
        warnings: None,
    })
}

fn checked(stdout: &str) -> Checked {
    if stdout.lines().any(|l| l.trim() == "sha256") {
        Checked::Sha256
    } else {
        Checked::Length
    }
}

/// The directory of a path with its slash, and the name.
fn split(path: &str) -> (&str, &str) {
    match path.rfind('/') {
        Some(at) => path.split_at(at + 1),
        None => ("./", path),
    }
}

/// Makes the machine fetch; once more with the directory made, if that was missing.
async fn fetch(
    vms: &Vms<'_>,
    vm_id: &str,
    staging: &FilePresignResponse,
    path: &str,
    directory: &str,
    options: &TransferOptions,
) -> Result<()> {
    let seconds = super::exec::whole_seconds(options.fetch_timeout);
    let fetch = || async {
        let url = &staging.download_url;
        let files = vms.files();
        let result = files.fetch(vm_id, url, path, Some(seconds)).await?;
        if result.timed_out {
            return Err(guest(
                &result,
                Kind::Timeout,
                "the machine took too long to fetch",
            ));
        }
        Ok(result)
    };
    let mut result = fetch().await?;
    if result.exit_code != 0 {
        let make = r#"[ -d "$1" ] && exit 3; mkdir -p "$1""#;
        let made = script(vms, vm_id, make, &[directory], options.exec_timeout).await?;
        if made.exit_code == 0 {
            result = fetch().await?;
        }
    }
    if result.exit_code != 0 {
        return Err(guest(
            &result,
            Kind::Failed,
            "the machine could not fetch what was sent",
        ));
    }
    Ok(())
}

async fn send_file(
    client: &Client,
    staging: &FilePresignResponse,
    local: PathBuf,
    options: &TransferOptions,
) -> Result<Sent> {
    let opened = local.clone();
    let (file, meta) = blocking(move || {
        let file = File::open(&opened).map_err(|e| cannot("read", &opened, e))?;
        let meta = file.metadata().map_err(|e| cannot("read", &opened, e))?;
        if !meta.is_file() {
            let why = std::io::Error::other("it is neither a file nor a directory");
            return Err(cannot("send", &opened, why));
        }
        Ok((file, meta))
    })
    .await?;
    let size = meta.len();
    check_size(size, staging)?;
    let digest = put_file(
        client,
        &staging.upload_url,
        "application/octet-stream",
        (file, size, local),
        options,
    )
    .await?;
    Ok(Sent {
        size,
        digest,
        mode: mode_of(&meta) & 0o777,
        mtime: mtime_of(&meta),
    })
}

/// Sends an open file of this size to a signed URL; gives its SHA-256.
pub(super) async fn put_file(
    client: &Client,
    url: &Secret,
    content_type: &'static str,
    (mut file, size, local): (File, u64, PathBuf),
    options: &TransferOptions,
) -> Result<String> {
    let (tx, rx) = mpsc::channel::<Bytes>(4);
    let reader = tokio::task::spawn_blocking(move || {
        let mut hash = Sha256::new();
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let mut chunk = vec![0; want];
            // The length is announced, so exactly this much is read.
            file.read_exact(&mut chunk).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => Error::new(
                    Kind::Failed,
                    format!(
                        "{} became shorter while it was read",
                        boxrig_wire::escape_line(&local.to_string_lossy())
                    ),
                ),
                _ => cannot("read", &local, e),
            })?;
            hash.update(&chunk);
            left -= want as u64;
            if tx.blocking_send(chunk.into()).is_err() {
                // The other side says why.
                return Ok(None);
            }
        }
        Ok(Some(hex(&hash.finalize())))
    });
    let pulse = Pulse::new();
    let (beat, progress) = (pulse.clone(), options.clone());
    let mut sent = 0;
    let body = receiver(rx).map(move |chunk| {
        beat.beat();
        sent += chunk.len() as u64;
        progress.report(TransferProgress {
            bytes: sent,
            total: Some(size),
            entries: 0,
        });
        Ok::<_, std::io::Error>(chunk)
    });
    let body = if size == 0 {
        WireBody::empty()
    } else {
        WireBody::from_stream(body)
    };
    let stall = (options.stall_timeout, pulse);
    let put = storage::put(client, url, content_type, body, Some(size), stall).await;
    let read = reader
        .await
        .map_err(|_| Error::new(Kind::Cancelled, "reading the file was given up"))?;
    // What went wrong here explains what went wrong there.
    let digest = read?;
    put?;
    digest.ok_or_else(|| {
        Error::new(
            Kind::Protocol,
            "the storage answered before it had read all",
        )
        .with_code(CODE)
    })
}

/// An archive that was sent.
pub(super) struct Archive {
    packed: Packed,
    size: u64,
    digest: String,
}

async fn upload_directory(
    client: &Client,
    vm_id: &str,
    local: PathBuf,
    remote: &str,
    options: &TransferOptions,
) -> Result<TransferReport> {
    let vms = client.vms();
    let name = format!("boxrig-{}", &random_hex()?[..12]);
    let stage = format!("/tmp/{name}.tar.gz");
    let staging = vms.files().presign(vm_id, &stage).await?;
    let sent = again(client, || {
        let source = (local.clone(), Ignore::default());
        send_directory(
            client,
            &staging,
            "application/octet-stream",
            source,
            options,
        )
    })
    .await?;
    fetch(&vms, vm_id, &staging, &stage, "/tmp", options).await?;
    let trimmed = remote.trim_end_matches('/');
    let target = if trimmed.is_empty() { "/" } else { trimmed };
    let args = [
        stage.as_str(),
        target,
        &sent.size.to_string(),
        &sent.digest,
        &name,
    ];
    let result = script(&vms, vm_id, FINISH_DIRECTORY, &args, options.exec_timeout).await?;
    if result.exit_code != 0 {
        return Err(guest(
            &result,
            Kind::Failed,
            "the machine could not take the directory",
        ));
    }
    let said = result.stderr.trim();
    Ok(TransferReport {
        directory: true,
        bytes: sent.packed.bytes,
        entries: sent.packed.entries,
        wire_bytes: sent.size,
        checked: checked(&result.stdout).max(Checked::Gzip),
        skipped: sent.packed.left_out.named,
        skipped_count: sent.packed.left_out.count,
        warnings: (!said.is_empty()).then(|| said.into()),
    })
}

/// The directory as a stream of pieces, packed and compressed as it is sent.
struct Packing {
    done: tokio::task::JoinHandle<Result<Packed>>,
    pieces: mpsc::Receiver<Vec<u8>>,
    level: Level,
    threads: usize,
}

impl Packing {
    fn start((local, ignore): (PathBuf, Ignore), options: &TransferOptions) -> Self {
        let (writer, pieces) = Writer::new();
        let progress = options.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut seen = |entries, bytes| {
                progress.report(TransferProgress {
                    bytes,
                    total: None,
                    entries,
                });
            };
            pack::pack(&local, &ignore, writer, &mut seen)
        });
        Self {
            done,
            pieces,
            level: options.compression,
            threads: options.threads.max(1),
        }
    }

    /// The gzip member. It ends properly whatever happened to the packing: the body must end it in an error then.
    fn gzip(
        pieces: mpsc::Receiver<Vec<u8>>,
        level: Level,
        threads: usize,
    ) -> impl Stream<Item = Vec<u8>> + Send {
        let compressed = receiver(pieces)
            .map(move |piece| tokio::task::spawn_blocking(move || compress(&piece, level)))
            .buffered(threads);
        let head = stream::once(async { Member::HEADER.to_vec() });
        let state = (Box::pin(compressed), Some(Member::new()));
        let rest = stream::unfold(state, |(mut compressed, member)| async move {
            let mut member = member?;
            match compressed.next().await {
                Some(Ok(piece)) => {
                    let bytes = member.add(piece);
                    Some((bytes, (compressed, Some(member))))
                }
                // The runtime is shutting down; the stream just ends, and so does the request.
                Some(Err(_)) => None,
                None => Some((member.trailer().to_vec(), (compressed, None))),
            }
        });
        head.chain(rest)
    }
}

pub(super) async fn send_directory(
    client: &Client,
    staging: &FilePresignResponse,
    content_type: &'static str,
    source: (PathBuf, Ignore),
    options: &TransferOptions,
) -> Result<Archive> {
    let Packing {
        done,
        pieces,
        level,
        threads,
    } = Packing::start(source, options);
    let pulse = Pulse::new();
    let beat = pulse.clone();
    // How the packing ended goes to the body, which must not end well if that did not; what was packed goes to the report.
    let (told, ended) = tokio::sync::oneshot::channel();
    let outcome = tokio::spawn(async move {
        let result = match done.await {
            Ok(result) => result,
            Err(_) => Err(Error::new(Kind::Cancelled, "packing was given up")),
        };
        let _ = told.send(result.is_ok());
        result
    });
    let sums = std::sync::Arc::new(std::sync::Mutex::new((Sha256::new(), 0u64)));
    let counted = sums.clone();
    let limit = staging.max_upload_bytes;
    let gzip = Packing::gzip(pieces, level, threads).map(move |bytes| {
        beat.beat();
        let mut sums = counted.lock().unwrap_or_else(|e| e.into_inner());
        sums.0.update(&bytes);
        sums.1 += bytes.len() as u64;
        if limit != 0 && sums.1 > limit {
            return Err(std::io::Error::other("too large for the machine's disk"));
        }
        Ok(Bytes::from(bytes))
    });
    // The last piece is held back until the packing is known to have gone well.
    let body = hold_last(gzip, ended);
    let put = storage::put(
        client,
        &staging.upload_url,
        content_type,
        WireBody::from_stream(body),
        None,
        (options.stall_timeout, pulse),
    )
    .await;
    let packed = outcome
        .await
        .map_err(|_| Error::new(Kind::Cancelled, "packing was given up"))?;
    let (digest, size) = {
        let sums = sums.lock().unwrap_or_else(|e| e.into_inner());
        (hex(&sums.0.clone().finalize()), sums.1)
    };
    let packed = match packed {
        // Nobody took the pieces any more: the storage's answer is the reason.
        Err(e) if e.kind() == Kind::Transport => {
            check_size(size, staging)?;
            put?;
            return Err(e);
        }
        other => other?,
    };
    check_size(size, staging)?;
    put?;
    Ok(Archive {
        packed,
        size,
        digest,
    })
}

/// Passes pieces on, but the last only when `ended` says that all went well; else the stream ends in an error.
fn hold_last(
    pieces: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ended: tokio::sync::oneshot::Receiver<bool>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let state = (Box::pin(pieces.fuse()), None::<Bytes>, Some(ended));
    stream::unfold(state, |(mut pieces, held, mut ended)| async move {
        let mut held = held;
        loop {
            match pieces.next().await {
                Some(Ok(piece)) => match held.replace(piece) {
                    Some(before) => return Some((Ok(before), (pieces, held, ended))),
                    None => continue,
                },
                Some(Err(e)) => return Some((Err(e), (pieces, None, None))),
                None => {
                    let last = held?;
                    let well = match ended.take() {
                        Some(ended) => ended.await.unwrap_or(false),
                        None => false,
                    };
                    let last = if well {
                        Ok(last)
                    } else {
                        Err(std::io::Error::other("packing failed"))
                    };
                    return Some((last, (pieces, None, None)));
                }
            }
        }
    })
}
