//! Control groups: limits, freezing, accounting and ending of all processes of an instance.
//!
//! Version 2 is used for what its controllers offer, version 1 for the rest, each below the group
//! that this process is in; both are used side by side on machines that split them. What is not
//! permitted is reported as not enforced, limit by limit.
//!
//! The groups of one engine are children of `boxrig-<scope>`, so that servers with different data
//! directories do not meet. A server that is started anew may stand in another group than the one
//! before it: the directories of a group are therefore part of an instance's record ([`Group`]
//! can be stored).
//!
//! All calls block, for microseconds; [`Group::freeze`] and [`Group::remove`] for as long as they say.

mod hierarchy;
mod unified;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::hierarchy::{Controller, Hierarchy};
use self::unified::Base;
use crate::{EnforcedLimits, Error, InstanceId, Kind, Limits, Result};

/// The accounting period of processor time, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;
/// The least quota the kernel takes, in microseconds.
const MIN_QUOTA: u64 = 1_000;

/// Makes and finds the control groups of one engine.
#[derive(Debug, Clone)]
pub struct Cgroups {
    v2: Option<Base>,
    v1: BTreeMap<&'static str, PathBuf>,
    enforced: EnforcedLimits,
    freezes: bool,
}

/// The control group of one instance: one directory per tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    v2: Option<PathBuf>,
    memory_v1: Option<PathBuf>,
    pids_v1: Option<PathBuf>,
    cpu_v1: Option<PathBuf>,
    cpuacct_v1: Option<PathBuf>,
    freezer_v1: Option<PathBuf>,
}

/// What the processes of a group use. `None` where the kernel does not count here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupStats {
    /// Processor time since the group was made.
    pub cpu_time: Option<Duration>,
    /// Memory, without file pages that the kernel can drop at any time.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Processes ended for lack of memory.
    pub oom_kills: Option<u64>,
}

fn read(dir: &Path, file: &str) -> io::Result<String> {
    fs::read_to_string(dir.join(file))
}

fn write(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    // Not `fs::write`: its O_CREAT and O_TRUNC mean nothing here.
    use std::io::Write;
    fs::OpenOptions::new()
        .write(true)
        .open(dir.join(file))?
        .write_all(value.as_bytes())
}

fn number(dir: &Path, file: &str) -> Option<u64> {
    read(dir, file).ok()?.trim().parse().ok()
}

/// The value of `key` in a file of `key value` lines.
fn keyed(dir: &Path, file: &str, key: &str) -> Option<u64> {
    let text = read(dir, file).ok()?;
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

impl Cgroups {
    /// Finds out what is permitted, by doing it: makes the group `boxrig-<scope>` and a trial group
    /// below it in every tree, writes limits to the trial group and removes it again. Never fails:
    /// where nothing is permitted, nothing is enforced.
    ///
    /// On a machine with version 2 a group with processes of its own cannot hand controllers down. If
    /// this process is alone in its group it moves itself one group down (`boxrig-server`); if it
    /// is not, groups above are tried, as far up as they may be written to, but never the root.
    #[must_use]
    pub fn discover(scope: &str) -> Self {
        let hierarchy = Hierarchy::read().unwrap_or_default();
        Self::discover_in(&hierarchy, scope)
    }

    fn discover_in(hierarchy: &Hierarchy, scope: &str) -> Self {
        let name = format!("boxrig-{scope}");
        let v2 = hierarchy
            .v2
            .as_ref()
            .and_then(|place| Base::find(place, &name))
            .filter(|base| may_make_groups(&base.dir));
        let mut v1 = BTreeMap::new();
        for (controller, place) in &hierarchy.v1 {
            // One controller serves in one version only.
            let served = v2.as_ref().is_some_and(|base| match controller {
                Controller::Memory => base.memory,
                Controller::Pids => base.pids,
                Controller::Cpu => base.cpu,
                // Counted in every group of version 2, also without its controller. Each further group
                // costs the kernel some 10 KiB.
                Controller::CpuAccounting => base.dir.join("cpu.stat").exists(),
                Controller::Freezer => base.dir.join("cgroup.freeze").exists(),
            });
            let dir = place.own.join(&name);
            // A group of that name may be there and belong to somebody else.
            if !served && make(&dir).is_ok() && may_make_groups(&dir) {
                v1.insert(controller.v1_name(), dir);
            }
        }
        let mut found = Self {
            v2,
            v1,
            enforced: EnforcedLimits::default(),
            freezes: false,
        };
        // `_` cannot be in an instance's id.
        let trial = found.group("_trial");
        if trial.make_all().is_ok() {
            found.freezes = trial.can_freeze();
            let limits = Limits {
                memory_bytes: Some(64 << 20),
                cpus: Some(1.0),
                pids: Some(64),
                disk_bytes: None,
            };
            found.enforced = trial.set_limits(&limits).unwrap_or_default();
        }
        // An empty group goes at once.
        let _ = trial.remove(Duration::from_millis(100));
        found
    }

    /// Which limits hold for instances made here.
    #[must_use]
    pub fn enforced(&self) -> EnforcedLimits {
        self.enforced
    }

    /// Whether groups can be frozen by the kernel.
    #[must_use]
    pub fn freezes(&self) -> bool {
        self.freezes
    }

    fn group(&self, name: &str) -> Group {
        let v1 = |controller: &str| self.v1.get(controller).map(|dir| dir.join(name));
        Group {
            v2: self.v2.as_ref().map(|base| base.dir.join(name)),
            memory_v1: v1("memory"),
            pids_v1: v1("pids"),
            cpu_v1: v1("cpu"),
            cpuacct_v1: v1("cpuacct"),
            freezer_v1: v1("freezer"),
        }
    }

    /// Makes the group of an instance. Without any rights this is a group of no directories, for
    /// which every operation is a no-op or says that it is not possible.
    ///
    /// # Errors
    /// `Io`; nothing remains.
    pub fn create(&self, id: &InstanceId) -> Result<Group> {
        let group = self.group(id.as_str());
        group.make_all().map_err(|error| {
            let _ = group.remove(Duration::from_millis(100));
            Error::io(format!("make the control group of {id}"), error)
        })?;
        Ok(group)
    }

    /// Ends and removes the groups that no living instance has: those whose name `keep` denies.
    /// Returns how many were removed.
    pub fn sweep(&self, keep: impl Fn(&str) -> bool) -> usize {
        let mut names = std::collections::BTreeSet::new();
        let bases = self.v1.values().chain(self.v2.iter().map(|base| &base.dir));
        for base in bases {
            let Ok(entries) = fs::read_dir(base) else {
                continue;
            };
            for entry in entries.flatten() {
                let is_group = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if let Some(name) = entry.file_name().to_str().filter(|_| is_group) {
                    names.insert(name.to_owned());
                }
            }
        }
        let mut removed = 0;
        for name in names.iter().filter(|name| !keep(name)) {
            let group = self.group(name);
            group.kill();
            match group.remove(Duration::from_secs(2)) {
                Ok(()) => removed += 1,
                Err(error) => tracing::warn!(name, %error, "a left-over control group stays"),
            }
        }
        removed
    }

    /// Removes the engine's own group from all trees, where it is empty. For the end of a server.
    pub fn remove_if_empty(&self) {
        for base in self.v1.values().chain(self.v2.iter().map(|base| &base.dir)) {
            // A group with groups below refuses.
            let _ = fs::remove_dir(base);
        }
    }
}

/// Whether this process may make groups in `dir`, found out by doing it.
fn may_make_groups(dir: &Path) -> bool {
    // `_` cannot be in an instance's id.
    let trial = dir.join("_trial");
    make(&trial).is_ok() && fs::remove_dir(&trial).is_ok()
}

impl Group {
    /// All directories, each once (version 1 trees can be mounted together).
    fn dirs(&self) -> Vec<&Path> {
        let all = [
            &self.v2,
            &self.memory_v1,
            &self.pids_v1,
            &self.cpu_v1,
            &self.cpuacct_v1,
            &self.freezer_v1,
        ];
        let mut dirs: Vec<&Path> = all.into_iter().flatten().map(PathBuf::as_path).collect();
        dirs.sort_unstable();
        dirs.dedup();
        dirs
    }

    fn make_all(&self) -> io::Result<()> {
        self.dirs().into_iter().try_for_each(make)
    }

    /// The files through which a process joins, by writing `0` (itself) or its process id. Opened by
    /// the server and written by an instance's stage, they take the server's rights.
    #[must_use]
    pub fn join_files(&self) -> Vec<PathBuf> {
        self.dirs()
            .into_iter()
            .map(|dir| dir.join("cgroup.procs"))
            .collect()
    }

    /// Puts a process into the group; the processes that it makes later are in it from the start.
    ///
    /// # Errors
    /// `Io` when a tree refuses.
    pub fn add(&self, pid: u32) -> Result<()> {
        for dir in self.dirs() {
            write(dir, "cgroup.procs", &pid.to_string()).map_err(|error| {
                Error::io(format!("put process {pid} into {}", dir.display()), error)
            })?;
        }
        Ok(())
    }

    /// Sets all limits, at once, and tells which of them hold. `None` takes a limit away.
    /// `disk_bytes` is never enforced here.
    ///
    /// # Errors
    /// `Invalid` for a number of processors that is not positive; `Limit` when the processes use more
    /// memory than they shall have.
    pub fn set_limits(&self, limits: &Limits) -> Result<EnforcedLimits> {
        let cpus_ok = |cpus: f64| cpus.is_finite() && cpus > 0.0;
        if let Some(cpus) = limits.cpus.filter(|cpus| !cpus_ok(*cpus)) {
            return Err(Error::new(
                Kind::Invalid,
                format!("cpus {cpus}: must be more than 0"),
            ));
        }
        Ok(EnforcedLimits {
            memory: self.limit_memory(limits.memory_bytes)?,
            cpus: self.limit_cpus(limits.cpus),
            pids: self.limit_pids(limits.pids),
            disk: false,
        })
    }

    fn limit_memory(&self, bytes: Option<u64>) -> Result<bool> {
        // In use and not to be reclaimed: the kernel cannot lower the limit (version 1).
        let busy = |error: io::Error| match error.raw_os_error() {
            Some(libc::EBUSY) => Err(Error::with_source(
                Kind::Limit,
                "the processes use more memory than the new limit",
                error,
            )),
            _ => Ok(false),
        };
        if let Some(dir) = self
            .v2
            .as_deref()
            .filter(|dir| dir.join("memory.max").exists())
        {
            let text = bytes.map_or("max".to_owned(), |bytes| bytes.to_string());
            if let Err(error) = write(dir, "memory.max", &text) {
                return busy(error);
            }
            // Without it the limit would only move memory to swap. Missing where there is no swap.
            let _ = write(
                dir,
                "memory.swap.max",
                if bytes.is_some() { "0" } else { "max" },
            );
            return Ok(true);
        }
        let Some(dir) = self.memory_v1.as_deref() else {
            return Ok(false);
        };
        let text = bytes.map_or("-1".to_owned(), |bytes| bytes.to_string());
        // The limit of memory and swap together may never be below that of memory: one order fits
        // when limits rise, the other when they fall. The file is missing where swap is not counted.
        let _ = write(dir, "memory.memsw.limit_in_bytes", &text);
        if let Err(error) = write(dir, "memory.limit_in_bytes", &text) {
            return busy(error);
        }
        let _ = write(dir, "memory.memsw.limit_in_bytes", &text);
        Ok(true)
    }

    fn limit_pids(&self, pids: Option<u64>) -> bool {
        let text = pids.map_or("max".to_owned(), |pids| pids.to_string());
        let v2 = self
            .v2
            .as_deref()
            .filter(|dir| dir.join("pids.max").exists());
        v2.or(self.pids_v1.as_deref())
            .is_some_and(|dir| write(dir, "pids.max", &text).is_ok())
    }

    fn limit_cpus(&self, cpus: Option<f64>) -> bool {
        // A float to integer cast saturates, and the number is positive here.
        let quota = cpus.map(|cpus| ((cpus * PERIOD as f64) as u64).max(MIN_QUOTA));
        if let Some(dir) = self
            .v2
            .as_deref()
            .filter(|dir| dir.join("cpu.max").exists())
        {
            let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
            return write(dir, "cpu.max", &format!("{quota} {PERIOD}")).is_ok();
        }
        let Some(dir) = self.cpu_v1.as_deref() else {
            return false;
        };
        let quota = quota.map_or("-1".to_owned(), |quota| quota.to_string());
        write(dir, "cpu.cfs_period_us", &PERIOD.to_string()).is_ok()
            && write(dir, "cpu.cfs_quota_us", &quota).is_ok()
    }

    /// Whether [`Group::freeze`] works for it.
    #[must_use]
    pub fn can_freeze(&self) -> bool {
        self.v2
            .as_deref()
            .is_some_and(|dir| dir.join("cgroup.freeze").exists())
            || self
                .freezer_v1
                .as_deref()
                .is_some_and(|dir| dir.join("freezer.state").exists())
    }

    /// Stops every process, and returns when all are stopped: well under a millisecond, unless one is
    /// busy in the kernel. Gives up (and thaws) after `patience`.
    ///
    /// # Errors
    /// `Unsupported` where groups cannot be frozen; `Timeout`; `Io`.
    pub fn freeze(&self, patience: Duration) -> Result<()> {
        let started = Instant::now();
        let mut pause = Duration::from_micros(20);
        self.write_frozen(true)?;
        while !self.is_frozen() {
            if started.elapsed() >= patience {
                self.thaw()?;
                return Err(Error::new(Kind::Timeout, "a process cannot be frozen now"));
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
            if self.v2_freezer().is_none() {
                // Version 1 freezes processes that were made meanwhile only when asked again.
                self.write_frozen(true)?;
            }
        }
        Ok(())
    }

    /// Lets every process go on.
    ///
    /// # Errors
    /// `Unsupported` where groups cannot be frozen; `Io`.
    pub fn thaw(&self) -> Result<()> {
        self.write_frozen(false)
    }

    /// Whether every process is stopped by [`Group::freeze`] at this moment.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        match (self.v2_freezer(), &self.freezer_v1) {
            (Some(dir), _) => keyed(dir, "cgroup.events", "frozen") == Some(1),
            (None, Some(dir)) => {
                read(dir, "freezer.state").is_ok_and(|state| state.trim() == "FROZEN")
            }
            (None, None) => false,
        }
    }

    fn v2_freezer(&self) -> Option<&Path> {
        self.v2
            .as_deref()
            .filter(|dir| dir.join("cgroup.freeze").exists())
    }

    fn write_frozen(&self, frozen: bool) -> Result<()> {
        let written = match (self.v2_freezer(), &self.freezer_v1) {
            (Some(dir), _) => write(dir, "cgroup.freeze", if frozen { "1" } else { "0" }),
            (None, Some(dir)) => write(
                dir,
                "freezer.state",
                if frozen { "FROZEN" } else { "THAWED" },
            ),
            (None, None) => {
                let words = "control groups cannot be frozen here";
                return Err(Error::new(Kind::Unsupported, words));
            }
        };
        written.map_err(|error| Error::io("freeze or thaw a control group", error))
    }

    /// Sends `SIGKILL` to every process, frozen ones too. Returns before they have ended.
    pub fn kill(&self) {
        let whole = self
            .v2
            .as_deref()
            .is_some_and(|dir| write(dir, "cgroup.kill", "1").is_ok());
        if whole {
            return;
        }
        // Frozen, none can slip away between being listed and being killed. Where that fails, the
        // list is gone through until it is empty, which a fork bomb can only delay by being faster.
        let frozen = self.freeze(Duration::from_millis(50)).is_ok();
        for _ in 0..100 {
            let pids = self.pids();
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                // SAFETY: kill takes numbers only. 0 and 1 are never in a list of ours.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            if frozen {
                break;
            }
        }
        if frozen {
            let _ = self.thaw();
        }
    }

    /// The processes in the group, as this process sees them; those of other pid namespaces that it
    /// cannot see are left out.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        let list = self
            .dirs()
            .first()
            .and_then(|dir| read(dir, "cgroup.procs").ok());
        list.unwrap_or_default()
            .lines()
            .filter_map(|pid| pid.trim().parse().ok())
            .filter(|pid| *pid > 1)
            .collect()
    }

    /// What the processes use.
    #[must_use]
    pub fn stats(&self) -> GroupStats {
        let mut stats = GroupStats::default();
        if let Some(dir) = self.v2.as_deref() {
            stats.cpu_time = keyed(dir, "cpu.stat", "usage_usec").map(Duration::from_micros);
            let droppable = keyed(dir, "memory.stat", "inactive_file").unwrap_or(0);
            stats.memory_bytes =
                number(dir, "memory.current").map(|bytes| bytes.saturating_sub(droppable));
            stats.pids = number(dir, "pids.current");
            stats.oom_kills = keyed(dir, "memory.events", "oom_kill");
        }
        if let Some(dir) = self
            .cpuacct_v1
            .as_deref()
            .filter(|_| stats.cpu_time.is_none())
        {
            stats.cpu_time = number(dir, "cpuacct.usage").map(Duration::from_nanos);
        }
        if let Some(dir) = self
            .memory_v1
            .as_deref()
            .filter(|_| stats.memory_bytes.is_none())
        {
            let droppable = keyed(dir, "memory.stat", "total_inactive_file").unwrap_or(0);
            stats.memory_bytes =
                number(dir, "memory.usage_in_bytes").map(|bytes| bytes.saturating_sub(droppable));
            stats.oom_kills = keyed(dir, "memory.oom_control", "oom_kill");
        }
        if let Some(dir) = self.pids_v1.as_deref().filter(|_| stats.pids.is_none()) {
            stats.pids = number(dir, "pids.current");
        }
        stats
    }

    /// Removes the group, waiting for ending processes for up to `patience`. A group that is gone is
    /// no error.
    ///
    /// # Errors
    /// `Io` when processes remain.
    pub fn remove(&self, patience: Duration) -> Result<()> {
        let started = Instant::now();
        for dir in self.dirs() {
            let mut pause = Duration::from_micros(100);
            loop {
                match remove_tree(dir) {
                    Ok(()) => break,
                    Err(_) if started.elapsed() < patience => {}
                    Err(error) => {
                        return Err(Error::io(format!("remove {}", dir.display()), error));
                    }
                }
                sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}

/// Removes a group and those below it. The files in a group are not files that could be removed.
fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        other => return other,
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}
