//! Which names an instance was given an address for.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Pairs kept per instance; the oldest go first.
const MAX_PAIRS: usize = 4096;
/// How long an address stays tied to a name after the last answer: much longer than the time to
/// live of our answers, because programs keep addresses longer than they should.
const KEEP: Duration = Duration::from_secs(3600);

/// Ties addresses to the names they were answered for, so that rules about domains can be applied
/// to connections, which carry addresses only. Bounded; of one instance.
#[derive(Debug, Default)]
pub struct NameTable {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    names: HashMap<IpAddr, Vec<(String, Instant)>>,
    order: VecDeque<(IpAddr, String)>,
}

impl NameTable {
    /// Notes that `name` was answered with `address` at `now`. The name is kept in lower case,
    /// without a final dot.
    pub fn tie(&self, name: &str, address: IpAddr, now: Instant) {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let address = address.to_canonical();
        let mut inner = self.lock();
        let names = inner.names.entry(address).or_default();
        if let Some(known) = names.iter_mut().find(|known| known.0 == name) {
            known.1 = now;
            return;
        }
        names.push((name.clone(), now));
        inner.order.push_back((address, name));
        while inner.order.len() > MAX_PAIRS {
            inner.forget_oldest();
        }
    }

    /// The names tied to `address` at `now`.
    #[must_use]
    pub fn names(&self, address: IpAddr, now: Instant) -> Vec<String> {
        let inner = self.lock();
        let names = inner.names.get(&address.to_canonical());
        names
            .into_iter()
            .flatten()
            .filter(|(_, seen)| now.saturating_duration_since(*seen) < KEEP)
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Inner {
    fn forget_oldest(&mut self) {
        let Some((address, name)) = self.order.pop_front() else {
            return;
        };
        if let Some(names) = self.names.get_mut(&address) {
            names.retain(|known| known.0 != name);
            if names.is_empty() {
                self.names.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_and_forgets() {
        let table = NameTable::default();
        let now = Instant::now();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        table.tie("Example.COM.", address, now);
        table.tie("example.com", address, now);
        table.tie("other.example", address, now);
        assert_eq!(table.names(address, now), ["example.com", "other.example"]);
        assert!(table.names(address, now + KEEP).is_empty());
        for index in 0..MAX_PAIRS {
            table.tie(&format!("n{index}"), "192.0.2.2".parse().unwrap(), now);
        }
        assert!(table.names(address, now).is_empty());
        let inner = table.lock();
        assert_eq!(inner.order.len(), MAX_PAIRS);
        assert_eq!(inner.names.len(), 1);
    }
}
