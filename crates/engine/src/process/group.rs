//! The processes of one instance, as far as they can be found.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{InstanceId, Stats};

/// Rounds of stopping: every round finds what was forked during the one before it.
const ROUNDS: usize = 50;

/// Finds and signals the processes of one instance.
#[derive(Debug)]
pub(super) struct Group {
    marker: String,
    /// Process groups whose leader has not been waited for: their number cannot be anyone else's.
    led: Mutex<BTreeSet<i32>>,
    /// Process groups whose leader is gone. On Linux they are found by the marker instead.
    #[cfg(not(target_os = "linux"))]
    leaderless: Mutex<BTreeSet<i32>>,
}

/// The variable by which processes are recognised.
pub(super) const MARKER: &str = "BOXRIG_INSTANCE";

impl Group {
    pub(super) fn new(scope: &str, id: &InstanceId) -> Self {
        Self {
            marker: format!("{scope}/{id}"),
            led: Mutex::default(),
            #[cfg(not(target_os = "linux"))]
            leaderless: Mutex::default(),
        }
    }

    /// The value of [`MARKER`] in this instance.
    pub(super) fn marker(&self) -> &str {
        &self.marker
    }

    fn led(&self) -> std::sync::MutexGuard<'_, BTreeSet<i32>> {
        self.led.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a new process group in.
    pub(super) fn add(&self, group: i32) {
        self.led().insert(group);
    }

    /// Signals one group while its leader is known; `false` when it is not.
    pub(super) fn signal(&self, group: i32, signal: i32) -> bool {
        let led = self.led();
        if !led.contains(&group) {
            return false;
        }
        // SAFETY: kill takes numbers only; the group is ours while its leader has not been waited for.
        unsafe { libc::kill(-group, signal) == 0 }
    }

    /// Takes note that a leader has been waited for.
    pub(super) fn leader_gone(&self, group: i32) {
        self.led().remove(&group);
        #[cfg(not(target_os = "linux"))]
        self.leaderless
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(group);
    }

    /// All processes that can be found, without zombies.
    #[cfg(target_os = "linux")]
    pub(super) fn pids(&self) -> Vec<i32> {
        let wanted = format!("{MARKER}={}", self.marker).into_bytes();
        let led = self.led().clone();
        let mut found = Vec::new();
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return found;
        };
        for entry in entries.flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            let Some(stat) = Stat::read(pid) else {
                continue;
            };
            let ours = || {
                let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environ
                    .split(|byte| *byte == 0)
                    .any(|variable| variable == wanted)
            };
            // Every command leads a session of its own: what it holds is ours without a mark, too.
            let held = led.contains(&stat.group) || led.contains(&stat.session);
            if !stat.zombie() && (held || ours()) {
                found.push(pid);
            }
        }
        found
    }

    /// All process groups that still exist, as negative numbers: what `kill` takes for a group.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn pids(&self) -> Vec<i32> {
        // SAFETY: kill takes numbers only; signal 0 only asks.
        let exists = |group: &i32| unsafe { libc::kill(-group, 0) == 0 };
        let mut leaderless = self
            .leaderless
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        leaderless.retain(exists);
        let led = self.led();
        led.iter()
            .chain(leaderless.iter())
            .filter(|group| exists(group))
            .map(|group| -group)
            .collect()
    }

    /// Sends a signal to all of them, and says who they were.
    pub(super) fn signal_all(&self, signal: i32) -> Vec<i32> {
        let pids = self.pids();
        for pid in &pids {
            // SAFETY: kill takes numbers only. The process was ours a moment ago.
            unsafe { libc::kill(*pid, signal) };
        }
        pids
    }

    /// Stops all of them: again and again, until no new one is found.
    pub(super) fn stop_all(&self) {
        let mut before = Vec::new();
        for _ in 0..ROUNDS {
            let pids = self.pids();
            let all_stopped = pids.iter().all(|pid| is_stopped(*pid));
            if all_stopped && pids == before {
                return;
            }
            for pid in &pids {
                // SAFETY: as in `signal_all`.
                unsafe { libc::kill(*pid, libc::SIGSTOP) };
            }
            before = pids;
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Lets all of them go on.
    pub(super) fn continue_all(&self) {
        self.signal_all(libc::SIGCONT);
    }

    /// Kills all of them and waits until they are gone; `false` when some are not after `patience`.
    pub(super) fn kill_all(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        // A process that dies gives up its environment first, and with it the mark by which it is
        // found, and only then its files and its parent's wait: those seen once are followed by number.
        let mut dying = BTreeSet::new();
        loop {
            let pids = self.signal_all(libc::SIGKILL);
            dying.retain(|seen: &Seen| seen.runs());
            dying.extend(pids.iter().filter_map(|pid| Seen::now(*pid)));
            if pids.is_empty() && dying.is_empty() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The sum over the processes that live now; what has ended is not in it.
    #[cfg(target_os = "linux")]
    pub(super) fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        let (mut ticks, mut pages, mut threads) = (0u64, 0u64, 0u64);
        for stat in self.pids().into_iter().filter_map(Stat::read) {
            ticks += stat.ticks;
            pages += stat.pages;
            threads += stat.threads;
        }
        // SAFETY: sysconf takes a number and gives one.
        let (hertz, page) = unsafe {
            (
                libc::sysconf(libc::_SC_CLK_TCK),
                libc::sysconf(libc::_SC_PAGESIZE),
            )
        };
        let (hertz, page) = (
            u64::try_from(hertz).unwrap_or(100).max(1),
            u64::try_from(page).unwrap_or(4096),
        );
        stats.cpu_time = Some(Duration::from_millis(ticks * 1000 / hertz));
        stats.memory_bytes = Some(pages * page);
        stats.pids = Some(threads);
        stats
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn stats(&self) -> Stats {
        Stats::default()
    }
}

/// A process, as long as it is the same: its number is given again to another.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    pid: i32,
    #[cfg(target_os = "linux")]
    since: u64,
}

#[cfg(target_os = "linux")]
impl Seen {
    fn now(pid: i32) -> Option<Self> {
        Stat::read(pid).map(|stat| Self {
            pid,
            since: stat.since,
        })
    }

    fn runs(&self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| !stat.zombie() && stat.since == self.since)
    }
}

/// A whole process group.
#[cfg(not(target_os = "linux"))]
impl Seen {
    fn now(pid: i32) -> Option<Self> {
        Some(Self { pid })
    }

    fn runs(&self) -> bool {
        // SAFETY: kill takes numbers only; signal 0 only asks.
        unsafe { libc::kill(self.pid, 0) == 0 }
    }
}

#[cfg(target_os = "linux")]
fn is_stopped(pid: i32) -> bool {
    // One that is gone does not run either.
    Stat::read(pid).is_none_or(|stat| matches!(stat.state, b'T' | b't' | b'Z' | b'X'))
}

#[cfg(not(target_os = "linux"))]
fn is_stopped(_: i32) -> bool {
    true
}

/// Fields of `/proc/PID/stat` (`proc_pid_stat(5)`).
#[cfg(target_os = "linux")]
struct Stat {
    state: u8,
    group: i32,
    session: i32,
    ticks: u64,
    threads: u64,
    /// When it began, in ticks since the machine's start.
    since: u64,
    pages: u64,
}

#[cfg(target_os = "linux")]
impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field is the program's name in parentheses, and may hold anything.
    fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            state: *fields.first()?.as_bytes().first()?,
            group: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            ticks: number(11)? + number(12)?,
            threads: number(17)?,
            since: number(19)?,
            pages: number(21)?,
        })
    }

    fn zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let own = Stat::read(std::process::id() as i32).unwrap();
        assert!(own.threads >= 1 && own.pages > 0 && own.group > 0);
        let odd = b"7 (a) b (c) S 1 42 7 0 -1 0 0 0 0 0 5 6 0 0 20 0 3 0 9 8192 11 0";
        let stat = Stat::parse(odd).unwrap();
        assert_eq!(
            (stat.state, stat.group, stat.ticks, stat.threads, stat.pages),
            (b'S', 42, 11, 3, 11)
        );
        assert_eq!((stat.session, stat.since), (7, 9));
        for bad in [
            &b""[..],
            b")",
            b"1 (x) ",
            b"1 (x) S 1 2",
            b"1 (x) S 1 x 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2",
        ] {
            assert!(Stat::parse(bad).is_none());
        }
    }
}
