//! What the measurements share: sizes, and what a run reports.
//!
//! `cargo xtask bench` runs the same scenario with boxrig's client and with the vendor's Python SDK
//! against one canned-reply listener, in turns, and prints ratios. Nothing here is a timed test.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Calls of the exec scenario, one after the other. `sdk.py` makes as many.
pub const CALLS: u64 = 400;
/// Calls that are under way at the same time in the flight scenario, which makes four times [`CALLS`].
pub const FLIGHT: usize = 64;
/// Bytes of the stream scenario.
pub const STREAM_BYTES: usize = 256 * 1024 * 1024;
/// Bytes in one event of the stream scenario.
pub const STREAM_EVENT: usize = 32 * 1024;
/// Bytes of the download scenario.
pub const DOWNLOAD_BYTES: usize = 1024 * 1024 * 1024;
/// A machine of the canned listener that has no `sha256sum`: a transfer is checked by its length, as the peers do.
pub const VM: &str = "00000000-0000-4000-8000-000000000001";
/// A machine of the canned listener that says the SHA-256 of what it sends.
pub const SUMMING_VM: &str = "00000000-0000-4000-8000-000000000002";
/// The command that the canned listener answers with [`STREAM_BYTES`] of output.
pub const STREAM_COMMAND: &str = "stream-scenario";

/// Apps of the canned rack.
pub const APPS: usize = 1000;
/// How often the list scenario lists them. `convox_sdk.py` does as often.
pub const LISTS: u64 = 40;
/// Lines in a frame of the canned log.
pub const LOG_LINES: usize = 400;
/// Frames of the canned log.
pub const LOG_FRAMES: usize = 5000;

/// Virtual machines of the canned VergeOS system.
pub const ROWS: usize = 10_000;
/// Single rows that the scenario `gets` reads, one after the other. `vergeos_sdk.py` reads as many.
pub const GETS: u64 = 300;

/// What one run of a scenario cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// The scenario.
    pub scenario: String,
    /// How many calls, or bytes, it did.
    pub units: u64,
    /// Wall time in seconds.
    pub wall_s: f64,
    /// User and system CPU time of the process in seconds.
    pub cpu_s: f64,
    /// The largest resident size of the process, in MiB.
    pub peak_mib: f64,
}

/// Measures a scenario from its start to [`finish`](Self::finish).
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    cpu: Duration,
}

impl Meter {
    /// Starts.
    #[must_use]
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            cpu: cpu_time(),
        }
    }

    /// Ends, after `units` calls or bytes.
    #[must_use]
    pub fn finish(self, scenario: &str, units: u64) -> Cost {
        Cost {
            scenario: scenario.to_owned(),
            units,
            wall_s: self.started.elapsed().as_secs_f64(),
            cpu_s: (cpu_time() - self.cpu).as_secs_f64(),
            peak_mib: peak_mib(),
        }
    }
}

/// CPU time of this process so far.
fn cpu_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        t.tv_sec.unsigned_abs(),
        u32::try_from(t.tv_nsec).unwrap_or(0),
    )
}

/// The peak resident size; 0 where it is not told.
fn peak_mib() -> f64 {
    status_mib("VmHWM:")
}

/// The present resident size of this process, in MiB; 0 where it is not told.
#[must_use]
pub fn rss_mib() -> f64 {
    status_mib("VmRSS:")
}

fn status_mib(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(name));
    let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
