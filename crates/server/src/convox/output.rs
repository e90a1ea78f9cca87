//! What processes write, taken from the engine into the log.

use std::sync::Arc;
use std::time::Duration;

use boxrig_engine::LogOptions;
use tokio::io::AsyncReadExt;

use super::logs::{Cutter, Place, Source};
use super::records::{Process, Purpose};
use super::state::{Shared, instance};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// Where a process' lines say they come from.
pub(super) fn source(process: &Process) -> Source {
    let kind = match process.purpose {
        Purpose::Service => "service",
        Purpose::Run => "process",
        Purpose::Timer => "timer",
    };
    Source::new(kind, &process.service, &process.id)
}

/// Takes a process' output into the log until its instance ends. What was taken before is not taken again, also after
/// a restart of the server.
pub(super) async fn pump(state: Shared, id: &str) {
    let Some(process) = state.processes.get(id) else {
        return;
    };
    let source = Arc::new(source(&process));
    let run = u64::from(process.restarts);
    let last = state.logs.place(&process.app, &source);
    let offset = if last.run == run { last.offset } else { 0 };
    let Ok(key) = instance(id) else { return };
    let options = LogOptions {
        since: Some(offset),
        follow: true,
        ..LogOptions::default()
    };
    let mut log = match state.core.engine.logs(&key, options).await {
        Ok(log) => log,
        Err(e) => {
            if e.kind() != boxrig_engine::Kind::Unsupported {
                tracing::warn!(process = id, error = %e, "no log of a process");
            }
            return;
        }
    };
    let mut cutter = Cutter::new(Place {
        run,
        offset: log.offset,
    });
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = log.content.read(&mut buffer).await.unwrap_or(0);
        let mut lines = cutter.push(&buffer[..n]);
        if n == 0 {
            lines.extend(cutter.finish());
        }
        if !lines.is_empty()
            && let Err(e) = state.logs.write(&process.app, &source, &lines)
        {
            tracing::warn!(process = id, error = %e, "log lines were lost");
            // A full disk has time to become less full.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if n == 0 {
            return;
        }
    }
}
