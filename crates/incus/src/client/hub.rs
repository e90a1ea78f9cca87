//! The states of operations as the event socket tells them, kept for those who wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use boxrig_wire::Kind;
use tokio::sync::watch;

use super::Client;
use crate::events::{EventFilter, Events};
use crate::models::Operation;

/// This many operations are remembered; the server itself forgets finished ones after seconds.
const REMEMBERED: usize = 4096;

/// Where clones of a client find their hub.
#[derive(Default)]
pub(crate) struct Slot(tokio::sync::Mutex<State>, std::sync::atomic::AtomicBool);

#[derive(Default)]
enum State {
    #[default]
    Unused,
    /// The server gave no event socket; it is not asked again.
    Refused,
    Running(Arc<Hub>),
}

/// Reads the event socket until it ends or nobody needs it.
pub(crate) struct Hub {
    table: Arc<Table>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct Table {
    known: Mutex<Known>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    states: HashMap<String, Operation>,
    order: VecDeque<String>,
    ended: bool,
}

impl Slot {
    pub(crate) fn switch_off(&self) {
        self.1.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// The hub, connected; `None` when there is no event socket: then operations are asked about.
    pub(crate) async fn get(&self, client: &Client) -> Option<Arc<Hub>> {
        if self.1.load(std::sync::atomic::Ordering::Relaxed) {
            return None;
        }
        let mut state = self.0.lock().await;
        if let State::Running(hub) = &*state
            && !hub.table.lock().ended
        {
            return Some(hub.clone());
        }
        if matches!(*state, State::Refused) {
            return None;
        }
        match connect(client).await {
            Ok(events) => {
                let hub = Arc::new(Hub::run(events));
                *state = State::Running(hub.clone());
                Some(hub)
            }
            Err(e) => {
                if !matches!(e.kind(), Kind::Transport | Kind::Timeout) {
                    *state = State::Refused;
                }
                None
            }
        }
    }
}

/// All projects if we may see them, since clones work in different ones; else the client's own.
async fn connect(client: &Client) -> boxrig_wire::Result<Events> {
    let filter = EventFilter::operations();
    match client.all_projects().events(filter.clone()).await {
        Err(e) if matches!(e.kind(), Kind::Denied | Kind::Invalid) => client.events(filter).await,
        other => other,
    }
}

impl Table {
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn put(&self, operation: Operation) {
        let mut known = self.lock();
        if let Some(old) = known.states.get(&operation.id) {
            // Events may come out of order; an end stays an end.
            if old.is_final() && !operation.is_final() {
                return;
            }
        } else {
            known.order.push_back(operation.id.clone());
        }
        known.states.insert(operation.id.clone(), operation);
        while known.order.len() > REMEMBERED {
            if let Some(oldest) = known.order.pop_front() {
                known.states.remove(&oldest);
            }
        }
        drop(known);
        self.changed.send_modify(|n| *n += 1);
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.send_modify(|n| *n += 1);
    }
}

impl Hub {
    fn run(mut events: Events) -> Self {
        let table = Arc::new(Table::default());
        let weak: Weak<Table> = Arc::downgrade(&table);
        let task = tokio::spawn(async move {
            loop {
                let event = events.next().await;
                let Some(table) = weak.upgrade() else { return };
                match event {
                    Some(Ok(event)) => {
                        if let Some(operation) = event.operation() {
                            table.put(operation);
                        }
                    }
                    Some(Err(_)) | None => return table.end(),
                }
            }
        });
        Self { table, task }
    }

    /// What is known of an operation.
    pub(crate) fn peek(&self, id: &str) -> Option<Operation> {
        self.table.lock().states.get(id).cloned()
    }

    /// Waits for the end of an operation; `None` when the socket ended before.
    pub(crate) async fn finished(&self, id: &str) -> Option<Operation> {
        let mut changed = self.table.changed.subscribe();
        loop {
            {
                let known = self.table.lock();
                if let Some(operation) = known.states.get(id).filter(|o| o.is_final()) {
                    return Some(operation.clone());
                }
                if known.ended {
                    return None;
                }
            }
            if changed.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Waits until an operation is known in another state than `last`; `None` when the socket ended.
    pub(crate) async fn next(&self, id: &str, last: Option<&Operation>) -> Option<Operation> {
        let mut changed = self.table.changed.subscribe();
        loop {
            {
                let known = self.table.lock();
                if let Some(operation) = known.states.get(id)
                    && Some(operation) != last
                {
                    return Some(operation.clone());
                }
                if known.ended {
                    return None;
                }
            }
            if changed.changed().await.is_err() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StatusCode;

    fn operation(id: &str, code: u16) -> Operation {
        Operation {
            id: id.to_owned(),
            status_code: StatusCode(code),
            ..Operation::default()
        }
    }

    #[test]
    fn an_end_stays_an_end() {
        let table = Table::default();
        table.put(operation("a", 200));
        table.put(operation("a", 103));
        assert!(table.lock().states["a"].is_final());
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let table = Table::default();
        for i in 0..=REMEMBERED {
            table.put(operation(&i.to_string(), 103));
        }
        let known = table.lock();
        assert!(!known.states.contains_key("0") && known.states.len() == REMEMBERED);
    }
}
