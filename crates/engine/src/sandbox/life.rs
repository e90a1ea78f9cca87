//! An instance's life: starting, watching, ending, and taking over what an earlier server left running.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::guest::{Channel, Guest, read_status};
use super::launch::{self, Launch};
use super::record::{self, Record, Run};
use super::ring::Ring;
use super::{Inner, blocking, exec, packet};
use crate::cgroup::Group;
use crate::net::{Egress, EgressCounters, EgressOptions, Neighbourhood};
use crate::{
    Error, EventKind, ExecSpec, InstanceId, InstanceInfo, InstanceState, Kind, NetworkPolicy,
    Result, StopMode,
};

/// Longest to wait until killed processes are gone.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// Longest to wait until a group of processes is frozen.
const FREEZE_PATIENCE: Duration = Duration::from_secs(10);

/// One instance.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) dir: PathBuf,
    /// Held by whatever changes the instance's state.
    pub(super) op: tokio::sync::Mutex<()>,
    cell: Mutex<Cell>,
}

#[derive(Debug)]
struct Cell {
    record: Record,
    live: Option<Arc<Live>>,
    deleted: bool,
}

/// The running processes of an instance.
#[derive(Debug)]
pub(super) struct Live {
    pidfd: AsyncFd<OwnedFd>,
    egress: Mutex<Option<Egress>>,
}

impl Live {
    fn new(pidfd: OwnedFd) -> Result<Self> {
        let pidfd = packet::register(pidfd).map_err(|e| Error::io("watch the instance", e))?;
        Ok(Self {
            pidfd,
            egress: Mutex::new(None),
        })
    }

    /// Waits until process 1, and with it every process, is gone, and collects it.
    async fn ended(&self) {
        // An error would mean that the descriptor is no process: then there is nothing to wait for.
        let _ = self.pidfd.readable().await;
        launch::collect(self.pidfd.get_ref());
    }

    /// Waits until process 1 is gone.
    pub(super) async fn gone(&self) {
        let _ = self.pidfd.readable().await;
    }

    fn kill(&self) {
        // ESRCH: it has ended by itself.
        let _ = pidfd_send_signal(self.pidfd.get_ref().as_fd(), Signal::KILL);
    }

    pub(super) fn set_policy(&self, policy: crate::EgressPolicy) {
        if let Some(egress) = lock(&self.egress).as_ref() {
            egress.set_policy(policy);
        }
    }

    /// Resets its connections, and leaves its sockets to whoever asks for them next.
    pub(super) fn end_egress(&self) {
        drop(lock(&self.egress).take());
    }

    pub(super) fn counters(&self) -> Option<EgressCounters> {
        lock(&self.egress).as_ref().map(Egress::counters)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Instance {
    pub(super) fn new(id: InstanceId, dir: PathBuf, record: Record) -> Arc<Self> {
        Arc::new(Self {
            id,
            dir,
            op: tokio::sync::Mutex::new(()),
            cell: Mutex::new(Cell {
                record,
                live: None,
                deleted: false,
            }),
        })
    }

    fn cell(&self) -> MutexGuard<'_, Cell> {
        lock(&self.cell)
    }

    pub(super) fn record(&self) -> Record {
        self.cell().record.clone()
    }

    pub(super) fn info(&self) -> InstanceInfo {
        self.cell().record.info()
    }

    pub(super) fn state(&self) -> InstanceState {
        self.cell().record.state
    }

    pub(super) fn live(&self) -> Option<Arc<Live>> {
        self.cell().live.clone()
    }

    pub(super) fn guest(&self) -> Guest {
        Guest::new(&self.dir)
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.cell().deleted
    }

    pub(super) fn mark_deleted(&self) {
        self.cell().deleted = true;
    }

    /// Changes the record, here and on the disk. On the disk first: what was not written did not happen.
    pub(super) fn change(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut cell = self.cell();
        let mut record = cell.record.clone();
        change(&mut record);
        record::save(&self.dir.join("instance.json"), &record)?;
        cell.record = record;
        Ok(())
    }

    /// For commands and files: the instance must run.
    pub(super) fn running(&self) -> Result<Guest> {
        match self.state() {
            InstanceState::Running => Ok(self.guest()),
            state => Err(wrong_state(&self.id, state, "running")),
        }
    }
}

pub(super) fn wrong_state(id: &InstanceId, state: InstanceState, wanted: &str) -> Error {
    let state = match state {
        InstanceState::Running => "running",
        InstanceState::Paused => "paused",
        InstanceState::Stopped => "stopped",
        InstanceState::Failed => "failed",
    };
    Error::new(
        Kind::InvalidState,
        format!("instance {id} is {state}, not {wanted}"),
    )
}

/// A run that has begun and is not yet part of an instance's record.
pub(super) struct Fresh {
    run: Run,
    enforced: crate::EnforcedLimits,
    live: Arc<Live>,
    watch: Channel,
    main_exit: Option<crate::ExitStatus>,
}

impl Inner {
    /// Starts the processes of an instance from what its record says.
    pub(super) async fn begin_run(self: &Arc<Self>, instance: &Arc<Instance>) -> Result<Fresh> {
        let record = instance.record();
        let inner = Arc::clone(self);
        let at = Arc::clone(instance);
        let launched = blocking(move || inner.launch(&at, &record)).await?;
        let Started {
            run,
            enforced,
            pidfd,
            sockets,
        } = launched;
        let live = match Live::new(pidfd) {
            Ok(live) => Arc::new(live),
            Err(error) => {
                self.clean_up(&run).await;
                return Err(error);
            }
        };
        let begun = async {
            if self.egress_wanted(instance) {
                self.start_egress(instance, &live, sockets)?;
            }
            instance.guest().watch().await
        };
        match begun.await {
            Ok((watch, status)) => Ok(Fresh {
                run,
                enforced,
                live,
                watch,
                main_exit: status.main_exit,
            }),
            Err(error) => {
                self.end_fresh(&live, &run).await;
                Err(error)
            }
        }
    }

    /// Ends a run that did not become an instance's.
    async fn end_fresh(&self, live: &Live, run: &Run) {
        live.kill();
        if tokio::time::timeout(END_PATIENCE, live.ended())
            .await
            .is_err()
        {
            tracing::warn!(pid = run.pid, "a process does not end");
        }
        self.clean_up(run).await;
    }

    /// The blocking part of a start.
    fn launch(&self, instance: &Instance, record: &Record) -> Result<Started> {
        let range = self.ids.take()?;
        let group = self
            .cgroups
            .create(&instance.id)
            .inspect_err(|_| self.release(range))?;
        let attempt = || {
            let enforced = group.set_limits(&record.spec.limits)?;
            let layers: Vec<PathBuf> = record
                .files
                .layers
                .iter()
                .map(|name| self.dirs.layer(name))
                .collect();
            let (log, main) = match &record.spec.main {
                Some(main) => {
                    let ring = Ring::open(&instance.dir.join("main.log"), self.options.log_bytes)
                        .map_err(|e| Error::io("open the log", e))?;
                    let mut command = ExecSpec::new(main.argv.clone());
                    command.env = main.env.clone();
                    command.cwd = main.cwd.clone();
                    (command.uid, command.gid) = (main.uid, main.gid);
                    command.kill_on_drop = false;
                    (
                        Some(OwnedFd::from(ring.into_file())),
                        Some(exec::exec_body(&command, &record.spec.env)?),
                    )
                }
                None => (None, None),
            };
            let rw = record.rw(&instance.dir);
            let launched = launch::launch(&Launch {
                dir: &instance.dir,
                rw: &rw,
                layers: &layers,
                host: if record.files.builtin {
                    &self.host
                } else {
                    &[]
                },
                hostname: &record.spec.hostname,
                range,
                group: Some(&group),
                egress: !matches!(record.spec.network, NetworkPolicy::None),
                log,
                main,
            })?;
            let start_time = record::start_time(launched.pid).ok_or_else(|| {
                Error::new(Kind::Gone, "the instance ended right after its start")
            })?;
            Ok((launched, enforced, start_time))
        };
        match attempt() {
            Ok((launched, enforced, start_time)) => Ok(Started {
                run: Run {
                    pid: launched.pid,
                    start_time,
                    boot: self.boot.clone(),
                    range,
                    group: Some(group),
                },
                enforced,
                pidfd: launched.pidfd,
                sockets: launched.sockets,
            }),
            Err(error) => {
                group.kill();
                if let Err(error) = group.remove(Duration::from_secs(2)) {
                    tracing::warn!(%error, "a control group remains");
                }
                self.release(range);
                Err(error)
            }
        }
    }

    fn release(&self, range: Option<u32>) {
        if let Some(first) = range {
            self.ids.release(first);
        }
    }

    fn egress_wanted(&self, instance: &Instance) -> bool {
        !matches!(instance.cell().record.spec.network, NetworkPolicy::None)
    }

    fn start_egress(
        &self,
        instance: &Instance,
        live: &Live,
        sockets: Vec<(u32, OwnedFd)>,
    ) -> Result<()> {
        let policy = match &instance.cell().record.spec.network {
            NetworkPolicy::None => return Ok(()),
            NetworkPolicy::Egress(policy) => policy.clone(),
            NetworkPolicy::Default => crate::EgressPolicy::default(),
        };
        let neighbours = Neighbourhood::new(instance.id.clone(), Arc::clone(&self.neighbours));
        let options = EgressOptions {
            neighbours: Some(neighbours),
            ..self.egress.clone()
        };
        let egress = Egress::start(launch::egress_listeners(sockets), policy, options)
            .map_err(|e| Error::io("serve the instance's outgoing connections", e))?;
        *lock(&live.egress) = Some(egress);
        Ok(())
    }

    /// Makes a fresh run the instance's: in memory, on the disk, and watched.
    pub(super) async fn commit_run(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        fresh: Fresh,
    ) -> Result<()> {
        let Fresh {
            run,
            enforced,
            live,
            watch,
            main_exit,
        } = fresh;
        let now = self.options.clock.now();
        let changed = instance.change(|record| {
            record.state = InstanceState::Running;
            record.reason = None;
            record.started_at = Some(now);
            record.enforced = enforced;
            record.main_exit = main_exit;
            record.run = Some(run.clone());
        });
        if let Err(error) = changed {
            self.end_fresh(&live, &run).await;
            return Err(error);
        }
        instance.cell().live = Some(Arc::clone(&live));
        if let Some(status) = main_exit {
            self.tell(&instance.id, EventKind::MainExited(status));
        }
        self.follow(instance, live, watch);
        Ok(())
    }

    /// Has a running instance followed until it ends, or the engine is dropped.
    fn follow(self: &Arc<Self>, instance: &Arc<Instance>, live: Arc<Live>, watch: Channel) {
        let mut open = self.open.subscribe();
        let following = monitor(Arc::downgrade(self), Arc::clone(instance), live, watch);
        tokio::spawn(async move {
            tokio::select! {
                () = following => {}
                // Nothing is ever sent: this is the sender's end.
                _ = open.changed() => {}
            }
        });
    }

    async fn mark_failed(&self, instance: &Instance, reason: &str) {
        let run = instance.record().run;
        instance.cell().live = None;
        if let Some(run) = &run {
            self.clean_up(run).await;
        }
        let changed = instance.change(|record| {
            record.state = InstanceState::Failed;
            record.reason = Some(reason.to_owned());
            record.run = None;
        });
        if let Err(error) = changed {
            tracing::warn!(id = %instance.id, %error, "cannot write the record");
        }
        self.tell(&instance.id, EventKind::Failed(reason.to_owned()));
    }

    /// Gives back what an ended run had on the host.
    async fn clean_up(&self, run: &Run) {
        if let Some(group) = run.group.clone() {
            let removed = blocking(move || {
                group.kill();
                group.remove(Duration::from_secs(5))
            });
            if let Err(error) = removed.await {
                tracing::warn!(%error, "a control group remains");
            }
        }
        self.release(run.range);
    }

    /// Ends every process of an instance. The caller holds the instance's lock.
    pub(super) async fn end_run(&self, instance: &Instance, mode: StopMode) -> Result<()> {
        let Some(live) = instance.live() else {
            return Ok(());
        };
        let record = instance.record();
        if let Some(grace) = mode.grace {
            if record.state == InstanceState::Paused {
                self.thaw(instance).await?;
            }
            let deadline = Instant::now() + grace;
            let guest = instance.guest();
            if guest.kill_all(libc::SIGTERM).await.is_ok() {
                let mut pause = Duration::from_millis(2);
                while Instant::now() < deadline {
                    match guest.status().await {
                        Ok(status) if status.others > 0 => {}
                        _ => break,
                    }
                    tokio::time::sleep(pause.min(deadline - Instant::now())).await;
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
            }
        }
        // Only now is its end no surprise to the monitor.
        instance.cell().live = None;
        live.kill();
        if let Some(group) = record.run.as_ref().and_then(|run| run.group.clone()) {
            // Frozen processes of version 1 die only when they are thawed.
            blocking(move || {
                group.kill();
                group.thaw().or(Ok(()))
            })
            .await?;
        }
        let ended = tokio::time::timeout(END_PATIENCE, live.ended()).await;
        if ended.is_err() {
            instance.cell().live = Some(live);
            return Err(Error::new(
                Kind::Timeout,
                format!("the processes of instance {} do not end", instance.id),
            ));
        }
        live.end_egress();
        if let Some(run) = &record.run {
            self.clean_up(run).await;
        }
        Ok(())
    }

    /// Stops every process, without a word in the record.
    pub(super) async fn freeze(&self, instance: &Instance) -> Result<()> {
        match frozen_by_group(&instance.record()) {
            Some(group) => blocking(move || group.freeze(FREEZE_PATIENCE)).await,
            None => instance.guest().freeze().await,
        }
    }

    /// Lets every process go on.
    pub(super) async fn thaw(&self, instance: &Instance) -> Result<()> {
        match frozen_by_group(&instance.record()) {
            Some(group) => blocking(move || group.thaw()).await?,
            None => instance.guest().kill_all(libc::SIGCONT).await?,
        }
        if let Some(live) = instance.live() {
            self.restore_egress(instance, &live).await?;
        }
        Ok(())
    }

    /// Asks the agent for the dialler's sockets again, after a restart of the server.
    async fn restore_egress(&self, instance: &Instance, live: &Live) -> Result<()> {
        if !self.egress_wanted(instance) || lock(&live.egress).is_some() {
            return Ok(());
        }
        let guest = instance.guest();
        let mut sockets = Vec::new();
        for key in 0..crate::net::LISTENERS.len() as u32 {
            if let Some(fd) = guest.socket(key).await? {
                sockets.push((key, fd));
            }
        }
        self.start_egress(instance, live, sockets)
    }

    /// Takes over an instance whose record says that it runs, or finds out that it does not.
    pub(super) async fn adopt(self: &Arc<Self>, instance: &Arc<Instance>) {
        let record = instance.record();
        let Some(run) = record.run.clone() else {
            return;
        };
        let alive = run.boot == self.boot && record::start_time(run.pid) == Some(run.start_time);
        if !alive {
            let reason = if run.boot == self.boot {
                "it ended while the server was away"
            } else {
                "the machine was restarted"
            };
            self.mark_failed(instance, reason).await;
            return;
        }
        if let Some(first) = run.range {
            self.ids.reserve(first);
        }
        if let Err(error) = self.take_over(instance, &record, &run).await {
            tracing::warn!(id = %instance.id, %error, "an instance does not answer and is ended");
            if let Ok(pidfd) = open_pid(run.pid) {
                let _ = pidfd_send_signal(pidfd.as_fd(), Signal::KILL);
            }
            self.mark_failed(instance, "it did not answer after a restart of the server")
                .await;
        }
    }

    async fn take_over(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        record: &Record,
        run: &Run,
    ) -> Result<()> {
        let pidfd = open_pid(run.pid)?;
        if record::start_time(run.pid) != Some(run.start_time) {
            return Err(super::guest::gone());
        }
        let live = Arc::new(Live::new(pidfd)?);
        let group_frozen = run
            .group
            .as_ref()
            .is_some_and(|group| group.can_freeze() && group.is_frozen());
        if group_frozen && record.state == InstanceState::Running {
            // The server ended in the midst of a snapshot.
            self.thaw(instance).await?;
        }
        let silent = group_frozen && record.state == InstanceState::Paused;
        let watch = if silent {
            // It answers when it is resumed; the monitor reads it then.
            instance.guest().watch_later().await?
        } else {
            let (watch, status) = instance.guest().watch().await?;
            if status.main_exit != record.main_exit {
                instance.change(|record| record.main_exit = status.main_exit)?;
            }
            self.restore_egress(instance, &live).await?;
            watch
        };
        instance.cell().live = Some(Arc::clone(&live));
        self.follow(instance, live, watch);
        Ok(())
    }
}

/// Follows a running instance until it ends. It does not keep the engine: one that is dropped leaves its
/// instances running, and the folder to the next.
async fn monitor(engine: Weak<Inner>, instance: Arc<Instance>, live: Arc<Live>, watch: Channel) {
    while let Ok(packet) = watch.receive().await {
        if packet.bytes.is_empty() {
            break;
        }
        let Ok(status) = read_status(&packet.bytes) else {
            continue;
        };
        let Some(inner) = engine.upgrade() else {
            return;
        };
        let known = instance.cell().record.main_exit;
        if let Some(exit) = status.main_exit.filter(|exit| known != Some(*exit)) {
            if let Err(error) = instance.change(|record| record.main_exit = Some(exit)) {
                tracing::warn!(id = %instance.id, %error, "cannot write the record");
            }
            inner.tell(&instance.id, EventKind::MainExited(exit));
        }
    }
    live.ended().await;
    let Some(inner) = engine.upgrade() else {
        return;
    };
    let _op = instance.op.lock().await;
    let current = instance.live().is_some_and(|now| Arc::ptr_eq(&now, &live));
    if !current || instance.is_deleted() {
        return; // It was stopped or deleted on purpose.
    }
    let run = instance.record().run;
    let oom = run
        .as_ref()
        .and_then(|run| run.group.as_ref()?.stats().oom_kills)
        .is_some_and(|kills| kills > 0);
    let reason = if oom {
        "its first process was killed, after it ran out of memory"
    } else {
        "its first process was killed from outside"
    };
    inner.mark_failed(&instance, reason).await;
}

/// The parts of a start that need no waiting.
struct Started {
    run: Run,
    enforced: crate::EnforcedLimits,
    pidfd: OwnedFd,
    sockets: Vec<(u32, OwnedFd)>,
}

/// The control group that freezes the instance, if one can; otherwise signals do.
fn frozen_by_group(record: &Record) -> Option<Group> {
    record.run.as_ref()?.group.clone().filter(Group::can_freeze)
}

fn open_pid(pid: u32) -> Result<OwnedFd> {
    let failed = |e: io::Error| Error::io(format!("open process {pid}"), e);
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    pidfd_open(pid, PidfdFlags::empty()).map_err(|e| failed(e.into()))
}

/// Ends whatever still runs in a folder that was never finished.
pub(super) async fn end_stray(dir: &std::path::Path) {
    let Ok((_, Some(pid))) = Guest::new(dir).connect().await else {
        return;
    };
    // The listener is process 1 itself, so this is its id; 1 would be a process of another namespace.
    if let (true, Ok(pidfd)) = (pid > 1, open_pid(pid)) {
        let _ = blocking(move || {
            launch::end_process(&pidfd);
            Ok(())
        })
        .await;
    }
}
