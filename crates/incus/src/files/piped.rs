//! Content through the input of a command in the instance: the server hands it on as it is, while a file that is posted goes
//! through a protocol of its own.

use std::path::Path;
use std::pin::pin;

use boxrig_wire::{Error, Kind, Result, Untrusted};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::{FileMode, Files, OfInstance, local};
use crate::images::chunks;
use crate::instances::{Exec, ExecEvent, exec_code};

/// Writes what comes in; the words after the script are its arguments, so that no path is read as shell.
const WRITE: &str = r#"cat > "$1" && chmod "$2" "$1""#;
/// What is said of a guest that has no shell, no `cat` or no `chmod`.
const NO_SHELL: &str = "the guest has no shell";

/// A smaller file is posted: that is one request.
const PIPED: u64 = 8 << 20;
/// What of a command's words is kept.
const WORDS: usize = 16 * 1024;

impl Files<'_, OfInstance> {
    /// [`upload`](Self::upload) by the quicker way. A large file goes through the input of a command, when the instance runs and has a
    /// shell; it is then written by the guest's root, which is the server's choice for posted files too.
    ///
    /// # Errors
    ///
    /// As there, and what the guest could not write: [`Kind::Quota`] when its disk is full.
    pub async fn send(&self, local: &Path, path: &str, mode: FileMode) -> Result<u64> {
        if mode.uid.is_none() && mode.gid.is_none() {
            match self.pipe(local, path, mode.mode).await {
                Err(e) if e.message() == NO_SHELL || nothing_ran(&e) => {}
                Ok(None) => {}
                Ok(Some(bytes)) => return Ok(bytes),
                Err(e) => return Err(e),
            }
        }
        self.upload(local, path, mode).await
    }

    /// `None` for a file that is better posted.
    async fn pipe(&self, local: &Path, path: &str, mode: Option<u32>) -> Result<Option<u64>> {
        self.at(path)?;
        let (body, meta) = local::stream(local).await?;
        if meta.len() < PIPED {
            return Ok(None);
        }
        let mode = mode.unwrap_or(boxrig_archive::pack::mode_of(&meta) & 0o777);
        let exec = Exec::new(["sh", "-c", WRITE, "sh", path, &format!("{mode:o}")]);
        let pieces = chunks(body).map(|piece| {
            piece.map_err(|e| match e.downcast::<Error>() {
                Ok(e) => *e,
                Err(e) => Error::new(Kind::Failed, "the file could not be read").with_source(e),
            })
        });
        match self.feed(exec, pieces).await? {
            (0, _) => Ok(Some(meta.len())),
            (126 | 127, _) => Err(Error::new(Kind::Unsupported, NO_SHELL)),
            (code, words) => Err(guest(code, &words, "write the file")),
        }
    }

    /// Runs a command with this input; gives its code, and what it has said. One that ends before its input has done so for a reason
    /// that it tells. Input that cannot be read ends the command, which is not told that it was whole.
    pub(super) async fn feed(
        &self,
        exec: Exec,
        pieces: impl Stream<Item = Result<Bytes>> + Send,
    ) -> Result<(i32, Vec<u8>)> {
        let mut session = self.client.instances().exec(self.instance(), exec).await?;
        let mut output = Box::pin(session.output());
        let input = session.input();
        let fed = async move {
            let mut pieces = pin!(pieces);
            while let Some(piece) = pieces.next().await {
                if input.write(piece?).await.is_err() {
                    return Ok(());
                }
            }
            let _ = input.end().await;
            Ok::<_, Error>(())
        };
        let heard = async {
            let mut words = Vec::new();
            while let Some(event) = output.next().await {
                if let (Ok(ExecEvent::Stderr(b) | ExecEvent::Stdout(b)), true) =
                    (event, words.len() < WORDS)
                {
                    words.extend_from_slice(&b);
                }
            }
            Ok(words)
        };
        let ((), words) = futures_util::future::try_join(fed, heard).await?;
        drop(output);
        Ok((session.exit_code().await?, words))
    }
}

/// Whether another way is worth trying: the command was not run at all.
pub(super) fn nothing_ran(e: &Error) -> bool {
    exec_code(e).is_some()
        || (e.kind() == Kind::Conflict && e.operation() == Some("instance_exec_post"))
}

/// What a command in the guest has failed at, by its words.
pub(super) fn guest(code: i32, words: &[u8], what: &str) -> Error {
    let words = String::from_utf8_lossy(words).trim().to_owned();
    let kind = match words.as_str() {
        w if w.contains("No such file") || w.contains("nonexistent") => Kind::NotFound,
        w if w.contains("Permission denied") => Kind::Denied,
        w if w.contains("No space left") => Kind::Quota,
        w if w.contains("Is a directory") => Kind::Invalid,
        _ => Kind::Failed,
    };
    Error::new(
        kind,
        format!("the guest could not {what} (exit code {code})"),
    )
    .with_server_message(Untrusted::new(words))
}
