//! An instance's log: what its main process writes to the console.

use std::time::Duration;

use boxrig_incus::ops;
use boxrig_wire::{BoxStream, Error, Kind, NoBody, Result};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::Incus;
use crate::LogOptions;

/// The distance of looks at a console that is followed.
const FOLLOW: Duration = Duration::from_millis(500);

impl Incus {
    pub(super) async fn log(
        &self,
        id: &str,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        // The main process of an instance writes to its console: there is one log.
        let whole = self.console(id).await?;
        let first = match options.tail {
            Some(lines) => tail(&whole, lines),
            None => whole.clone(),
        };
        let first = stream::once(async move { Ok(first) });
        if !options.follow {
            return Ok(first.boxed());
        }
        let follow = Follow {
            backend: self.clone(),
            id: id.to_owned(),
            seen: whole,
            keeps: None,
        };
        Ok(first.chain(stream::unfold(follow, Follow::next)).boxed())
    }

    /// The console's log as it is now.
    async fn console(&self, name: &str) -> Result<Bytes> {
        let reply = self
            .call::<ops::instances::InstanceConsoleGet>(
                (name.to_owned(),),
                Default::default(),
                NoBody,
            )
            .await?;
        reply
            .body
            .collect(64 << 20)
            .await
            .map_err(|e| Error::new(Kind::Transport, "the log broke off").with_source(e))
    }
}

/// The last lines of a text.
fn tail(text: &Bytes, lines: u64) -> Bytes {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let mut left = lines;
    for (at, byte) in body.iter().enumerate().rev() {
        if left == 0 {
            return Bytes::new();
        }
        if *byte == b'\n' {
            left -= 1;
            if left == 0 {
                return text.slice(at + 1..);
            }
        }
    }
    if left == 0 {
        Bytes::new()
    } else {
        text.clone()
    }
}

/// What is new in a console's log. The log is a ring: when it has dropped its beginning, the end of what was seen is
/// looked for in it.
fn news(seen: &Bytes, now: &Bytes) -> Bytes {
    if now.starts_with(seen) {
        return now.slice(seen.len()..);
    }
    let known = &seen[seen.len().saturating_sub(4096)..];
    let found = now
        .windows(known.len().max(1))
        .rposition(|window| window == known);
    match found {
        Some(at) => now.slice(at + known.len()..),
        None => now.clone(),
    }
}

/// A console's log that is followed.
struct Follow {
    backend: Incus,
    id: String,
    seen: Bytes,
    /// Whether the server shows what it has shown again: that of a running container (6.0) shows each line once.
    keeps: Option<bool>,
}

impl Follow {
    async fn next(mut self) -> Option<(Result<Bytes>, Self)> {
        loop {
            tokio::time::sleep(FOLLOW).await;
            match self.backend.console(&self.id).await {
                Ok(now) => {
                    if !self.seen.is_empty() && self.keeps.is_none() {
                        self.keeps = Some(now.starts_with(&self.seen));
                    }
                    let new = match self.keeps {
                        Some(true) => news(&self.seen, &now),
                        _ => now.clone(),
                    };
                    self.seen = now;
                    if !new.is_empty() {
                        return Some((Ok(new), self));
                    }
                }
                // An instance that has stopped or is gone writes nothing any more.
                Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Invalid) => return None,
                Err(e) if e.is_retryable() => {}
                Err(e) => return Some((Err(e), self)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines() {
        let text = Bytes::from_static(b"a\nb\nc\n");
        for (lines, wanted) in [
            (0, ""),
            (1, "c\n"),
            (2, "b\nc\n"),
            (3, "a\nb\nc\n"),
            (9, "a\nb\nc\n"),
        ] {
            assert_eq!(tail(&text, lines), wanted, "{lines}");
        }
        assert_eq!(tail(&Bytes::from_static(b"a\nb"), 1), "b");
        assert_eq!(tail(&Bytes::new(), 3), "");
    }

    #[test]
    fn a_ring_that_dropped_its_beginning_repeats_nothing() {
        let bytes = |s: &'static str| Bytes::from_static(s.as_bytes());
        assert_eq!(news(&bytes("ab"), &bytes("abc")), "c");
        assert_eq!(news(&bytes("xab"), &bytes("abc")), "abc");
        let seen = Bytes::from("x".repeat(10) + &"0123456789".repeat(500));
        let now = Bytes::from("0123456789".repeat(450) + "new");
        assert_eq!(news(&seen, &now), "new");
        assert_eq!(news(&bytes(""), &bytes("abc")), "abc");
    }
}
