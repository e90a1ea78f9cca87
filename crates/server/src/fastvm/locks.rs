//! Locks by name, for work that must not overlap on one machine or one idempotency key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::state::lock;

/// Locks by name. A name that nobody holds or waits for takes no memory for long.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    locks: HashMap<String, Weak<AsyncMutex<()>>>,
    /// When the table has this many entries, the dead ones are swept out.
    sweep_at: usize,
}

/// The lock of a name, held until dropped.
pub(super) type Held = OwnedMutexGuard<()>;

impl Locks {
    /// Waits for the lock of `name`.
    pub(super) async fn hold(&self, name: &str) -> Held {
        let mutex = {
            let mut table = lock(&self.0);
            match table.locks.get(name).and_then(Weak::upgrade) {
                Some(mutex) => mutex,
                None => {
                    if table.locks.len() >= table.sweep_at {
                        table.locks.retain(|_, weak| weak.strong_count() > 0);
                        table.sweep_at = 64.max(2 * table.locks.len());
                    }
                    let mutex = Arc::new(AsyncMutex::new(()));
                    table.locks.insert(name.to_owned(), Arc::downgrade(&mutex));
                    mutex
                }
            }
        };
        mutex.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn one_name_excludes_itself_and_nothing_stays() {
        let locks = Locks::default();
        let held = locks.hold("a").await;
        let _other = locks.hold("b").await;
        let short = Duration::from_millis(20);
        assert!(tokio::time::timeout(short, locks.hold("a")).await.is_err());
        drop(held);
        let _again = locks.hold("a").await;
        for n in 0..1000 {
            drop(locks.hold(&n.to_string()).await);
        }
        assert!(lock(&locks.0).locks.len() <= 130);
    }
}
