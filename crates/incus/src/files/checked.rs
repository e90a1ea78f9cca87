//! Files whose content is compared on both sides: the instance computes its own checksum.

use std::path::Path;

use boxrig_wire::{Error, Kind, Result, Untrusted};

use super::{FileMode, Files, OfInstance, hex};
use crate::images::{Hash, hashed, sum};
use crate::instances::Exec;

impl Files<'_, OfInstance> {
    /// The SHA-256 of a file in hex, computed in the instance by its own `sha256sum`.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without the file or the program, [`Kind::Conflict`] for an instance that does not run.
    pub async fn sha256(&self, path: &str) -> Result<String> {
        self.at(path)?;
        // By standard input: a name with a backslash would change how the answer is written.
        let script = r#"exec sha256sum < "$1""#;
        let exec = Exec::new(["sh", "-c", script, "sh", path]);
        let instances = self.client.instances();
        let done = instances.run(self.instance(), exec, "").await?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let sum = said.split_whitespace().next().unwrap_or_default();
        if done.code == 0 && sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(sum.to_ascii_lowercase());
        }
        let words = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        // Shells write the system's words in their own way.
        let kind = match (done.code, words.to_ascii_lowercase()) {
            (126 | 127, _) => Kind::NotFound,
            (_, w) if w.contains("no such file") || w.contains("nonexistent") => Kind::NotFound,
            (_, w) if w.contains("permission denied") => Kind::Denied,
            _ => Kind::Failed,
        };
        let what = format!(
            "the instance gives no checksum (exit code {code})",
            code = done.code
        );
        Err(Error::new(kind, what).with_server_message(Untrusted::new(words)))
    }

    /// [`upload`](Self::upload) to an instance that runs, after which its checksum there is compared with that of what was sent.
    ///
    /// # Errors
    ///
    /// As there and of [`sha256`](Self::sha256); [`Kind::Protocol`] when they differ.
    pub async fn upload_checked(&self, local: &Path, path: &str, mode: FileMode) -> Result<u64> {
        let hash = Hash::default();
        let pass = |body| hashed(body, &hash);
        let bytes = self.send_file(local, path, mode, pass).await?;
        same(&hash, &self.sha256(path).await?)?;
        Ok(bytes)
    }

    /// [`download`](Self::download) from an instance that runs; what came replaces the local file only if its checksum is the one that
    /// the instance has computed.
    ///
    /// # Errors
    ///
    /// As there and of [`sha256`](Self::sha256); [`Kind::Protocol`] when they differ.
    pub async fn download_checked(&self, path: &str, local: &Path) -> Result<u64> {
        let hash = Hash::default();
        let fetched = self.fetch(path, local, |body| hashed(body, &hash));
        // At the same time: the instance reads the file while it is fetched.
        let (saving, there) = futures_util::future::try_join(fetched, self.sha256(path)).await?;
        same(&hash, &there)?;
        saving.finish().await
    }
}

fn same(hash: &Hash, there: &str) -> Result<()> {
    if hex(&sum(hash)) == there {
        return Ok(());
    }
    let words = "what was transferred is not what is in the instance: its checksum differs";
    Err(Error::new(Kind::Protocol, words).with_retryable(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told() {
        use sha2::Digest;
        let hash = Hash::default();
        hash.lock().unwrap().update("abc");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        same(&hash, abc).unwrap();
        let e = same(&hash, &abc.replace('b', "c")).unwrap_err();
        assert_eq!((e.kind(), e.is_retryable()), (Kind::Protocol, false));
    }
}
