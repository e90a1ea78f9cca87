//! The one thread that writes the state file.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

use super::file::StateFile;
use super::table::{Change, Replacement};
use super::{Dump, StateError, lock};
use crate::faults::crash_point;

/// What a transaction wants saved.
pub(super) enum Work {
    Changes(Vec<Change>),
    Replace(Dump, Vec<Box<dyn Replacement>>),
}

impl Work {
    fn publish(self) {
        match self {
            Self::Changes(changes) => changes.into_iter().for_each(Change::publish),
            Self::Replace(_, tables) => tables.into_iter().for_each(Replacement::publish),
        }
    }
    fn roll_back(self) {
        match self {
            Self::Changes(changes) => changes.into_iter().for_each(Change::roll_back),
            Self::Replace(_, tables) => tables.into_iter().for_each(Replacement::roll_back),
        }
    }
    fn is_empty(&self) -> bool {
        matches!(self, Self::Changes(changes) if changes.is_empty())
    }
}

type Answer = oneshot::Sender<Result<(), StateError>>;

/// The transactions that wait for the disk. Whoever holds it is the only one to change live values.
#[derive(Default)]
pub(super) struct Queue {
    jobs: VecDeque<(Work, Answer)>,
    closed: bool,
}

impl Queue {
    pub(super) fn push(&mut self, work: Work) -> oneshot::Receiver<Result<(), StateError>> {
        let (answer, done) = oneshot::channel();
        self.jobs.push_back((work, answer));
        done
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Held while a transaction is published, and by readers who want it whole.
    shown: RwLock<()>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The queue, held by one transaction; the writer is woken when it is let go.
pub(super) struct Turn<'a> {
    queue: MutexGuard<'a, Queue>,
    wake: &'a Condvar,
}

impl std::ops::Deref for Turn<'_> {
    type Target = Queue;
    fn deref(&self) -> &Queue {
        &self.queue
    }
}
impl std::ops::DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }
}
impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl Writer {
    pub(super) fn start(file: Arc<StateFile>, commit: bool) -> Result<Self, StateError> {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let thread = thread::Builder::new()
            .name("boxrig-state".to_owned())
            .spawn(move || run(&of_thread, &file, commit))
            .map_err(|e| StateError::Open(format!("no thread for it: {e}")))?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(super) fn queue(&self) -> Result<Turn<'_>, StateError> {
        let queue = lock(&self.shared.queue);
        if queue.closed {
            return Err(StateError::Closed);
        }
        Ok(Turn {
            queue,
            wake: &self.shared.wake,
        })
    }

    /// Has nothing published while it lives.
    pub(super) fn view(&self) -> RwLockReadGuard<'_, ()> {
        self.shared.shown.read().unwrap_or_else(|e| e.into_inner())
    }

    /// Lets the thread end after what is waiting; gives it to be joined.
    pub(super) fn close(&self) -> Option<JoinHandle<()>> {
        lock(&self.shared.queue).closed = true;
        self.shared.wake.notify_one();
        lock(&self.thread).take()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(thread) = self.close() {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, file: &StateFile, commit: bool) {
    loop {
        let jobs = {
            let mut queue = lock(&shared.queue);
            while queue.jobs.is_empty() {
                if queue.closed {
                    return;
                }
                queue = shared.wake.wait(queue).unwrap_or_else(|e| e.into_inner());
            }
            std::mem::take(&mut queue.jobs)
        };
        let saved = if commit && jobs.iter().any(|(work, _)| !work.is_empty()) {
            save(file, &jobs)
        } else {
            Ok(())
        };
        match saved {
            Ok(()) => {
                for (work, answer) in jobs {
                    {
                        let _shown = shared.shown.write().unwrap_or_else(|e| e.into_inner());
                        work.publish();
                    }
                    let _ = answer.send(Ok(()));
                }
            }
            Err(e) => {
                tracing::error!(error = %e, "the state could not be saved");
                // What was queued meanwhile may rest on what is now rolled back, so it fails with it.
                let mut queue = lock(&shared.queue);
                let later = std::mem::take(&mut queue.jobs);
                for (work, answer) in jobs.into_iter().chain(later) {
                    work.roll_back();
                    let _ = answer.send(Err(e.clone()));
                }
            }
        }
    }
}

fn save(file: &StateFile, jobs: &VecDeque<(Work, Answer)>) -> Result<(), StateError> {
    let mut batch = file.begin()?;
    for (work, _) in jobs {
        match work {
            Work::Changes(changes) => {
                for change in changes {
                    batch.set(change.table, &change.key, change.bytes.as_deref())?;
                }
            }
            Work::Replace(documents, _) => {
                batch.clear()?;
                for (table, key, value) in documents {
                    let bytes =
                        serde_json::to_vec(value).map_err(|e| StateError::Commit(e.to_string()))?;
                    batch.set(table, key, Some(&bytes))?;
                }
            }
        }
    }
    crash_point("state.before_commit");
    batch.commit()?;
    crash_point("state.after_commit");
    Ok(())
}
