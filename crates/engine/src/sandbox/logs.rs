//! Logs as streams.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::life::Instance;
use super::ring::Ring;
use crate::{Error, InstanceState, LogOptions, LogStream, Result};

/// How often the end of a log is looked at, at most and at least.
const POLL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// Reads a log as `options` say.
pub(super) fn stream(
    ring: Ring,
    instance: Arc<Instance>,
    options: &LogOptions,
) -> Result<LogStream> {
    let failed = |e| Error::io("read the log", e);
    let oldest = ring.oldest().map_err(failed)?;
    let offset = match (options.since, options.tail) {
        (Some(since), _) => since.clamp(oldest, ring.written().map_err(failed)?),
        (None, Some(lines)) => ring.tail(lines).map_err(failed)?,
        (None, None) => oldest,
    };
    let (mut feed, content) = tokio::io::duplex(64 * 1024);
    let follow = options.follow;
    // Ends when the reader is dropped: writing to the pipe then fails, and the follower looks for that.
    tokio::spawn(async move {
        let mut at = offset;
        let mut buf = vec![0; 32 * 1024];
        let mut pause = POLL.0;
        loop {
            let runs = matches!(
                instance.state(),
                InstanceState::Running | InstanceState::Paused
            );
            let Ok((began, n)) = ring.read(at, &mut buf) else {
                return;
            };
            at = began + n as u64;
            if n > 0 {
                if feed.write_all(&buf[..n]).await.is_err() {
                    return;
                }
                pause = POLL.0;
                continue;
            }
            if !follow || !runs || instance.is_deleted() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL.1);
            if feed.write(&[]).await.is_err() {
                return;
            }
        }
    });
    Ok(LogStream {
        offset,
        content: Box::new(content),
    })
}
