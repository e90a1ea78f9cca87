//! Which user ids an instance has on the host.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Mutex, PoisonError};

use crate::{Error, Kind, Result};

/// Ids in a range; all ids of ordinary systems fit.
pub(super) const RANGE: u32 = 65_536;
/// First of the ranges given out: above those of people, of useradd's subordinate ids as they are usually
/// configured, and below the ones systemd reserves from 2^31 on.
const FIRST: u32 = 0x6000_0000;
/// How many ranges there are.
const COUNT: u32 = 0x2000;

/// Who instances are on the host.
#[derive(Debug)]
pub(super) enum Ids {
    /// The server is root: every running instance has a range of its own.
    Ranges(Mutex<Ranges>),
    /// The server is an ordinary user: the instance's root is that user, and there is nobody else.
    Single,
}

/// Ranges in use.
#[derive(Debug)]
pub(super) struct Ranges {
    used: BTreeSet<u32>,
    next: u32,
}

impl Ids {
    /// Finds out what the server may give.
    pub(super) fn here() -> Self {
        if rustix::process::geteuid().is_root() {
            // Start anywhere, so that several servers of one machine rarely share a range.
            let next = std::process::id().wrapping_mul(0x9e37) % COUNT;
            return Self::Ranges(Mutex::new(Ranges {
                used: BTreeSet::new(),
                next,
            }));
        }
        Self::Single
    }

    /// Whether instances have ranges.
    pub(super) fn ranges(&self) -> bool {
        matches!(self, Self::Ranges(_))
    }

    /// Takes a free range: its first id. `None` for an ordinary user.
    pub(super) fn take(&self) -> Result<Option<u32>> {
        let Self::Ranges(ranges) = self else {
            return Ok(None);
        };
        let mut ranges = ranges.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..COUNT {
            let slot = ranges.next;
            ranges.next = (slot + 1) % COUNT;
            if ranges.used.insert(slot) {
                return Ok(Some(FIRST + slot * RANGE));
            }
        }
        Err(Error::new(
            Kind::Limit,
            format!("all {COUNT} ranges of user ids are in use by running instances"),
        ))
    }

    /// Marks a range as used, by an instance that already runs.
    pub(super) fn reserve(&self, first: u32) {
        self.with(first, |used, slot| {
            used.insert(slot);
        });
    }

    /// Gives a range back.
    pub(super) fn release(&self, first: u32) {
        self.with(first, |used, slot| {
            used.remove(&slot);
        });
    }

    fn with(&self, first: u32, act: impl FnOnce(&mut BTreeSet<u32>, u32)) {
        if let (Self::Ranges(ranges), Some(offset)) = (self, first.checked_sub(FIRST)) {
            let mut ranges = ranges.lock().unwrap_or_else(PoisonError::into_inner);
            act(&mut ranges.used, offset / RANGE);
        }
    }
}

/// Whether this process's own user namespace has the ids of the ranges at all (inside a container it may not).
pub(super) fn ranges_exist() -> bool {
    let Ok(map) = fs::read_to_string("/proc/self/uid_map") else {
        return false;
    };
    let last = u64::from(FIRST) + u64::from(COUNT) * u64::from(RANGE);
    map.lines().any(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u64>);
        match (fields.next(), fields.next(), fields.next()) {
            (Some(Ok(inside)), Some(Ok(_)), Some(Ok(count))) => {
                inside <= u64::from(FIRST) && inside + count >= last
            }
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap_and_come_back() {
        let ids = Ids::Ranges(Mutex::new(Ranges {
            used: BTreeSet::new(),
            next: COUNT - 1,
        }));
        let a = ids.take().unwrap().unwrap();
        let b = ids.take().unwrap().unwrap();
        assert!(a.abs_diff(b) >= RANGE);
        ids.release(a);
        ids.reserve(a);
        for _ in 0..COUNT - 2 {
            let c = ids.take().unwrap().unwrap();
            assert!(c != a && c != b);
        }
        assert_eq!(ids.take().unwrap_err().kind(), Kind::Limit);
        ids.release(b);
        assert_eq!(ids.take().unwrap(), Some(b));
    }
}
