//! How many old and new processes there may be at a time while the ones give way to the others.

use super::manifest::Service;
use super::records::Deploy;

/// The room there is while a service's processes are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Wanted in the end.
    pub(super) want: usize,
    /// There may be so many.
    pub(super) most: usize,
    /// Old ones that stay until new ones serve.
    pub(super) keep: usize,
    /// New ones that must be healthy before the old ones go.
    pub(super) first: usize,
}

/// `old` processes are to give way to `want` new ones, of which between `min` and `max` percent are there at any time.
pub(super) fn room(want: usize, old: usize, min: u32, max: u32) -> Room {
    let percent = |p: u32, up: bool| {
        let n = want * usize::try_from(p).unwrap_or(100);
        if up { n.div_ceil(100) } else { n / 100 }
    };
    let most = percent(max, false).max(want).max(1);
    if old + want <= most {
        return Room {
            want,
            most,
            keep: old,
            first: want,
        };
    }
    // Both at their limit would never move: one goes.
    let keep = percent(min, true).min(old).min(most.saturating_sub(1));
    let first = want.min(most - keep);
    Room {
        want,
        most,
        keep,
        first,
    }
}

/// The least and the most percent: as the promotion says, else as the manifest does.
pub(super) fn percents(service: &Service, deploy: Option<&Deploy>) -> (u32, u32) {
    let (min, max) = service.deployment;
    let set = |set: Option<u32>, usual| set.unwrap_or(usual);
    match deploy {
        Some(d) => (set(d.min, min), set(d.max, max)),
        None => (min, max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_both_or_for_some() {
        let case = |want, old, min, max| {
            let r = room(want, old, min, max);
            (r.most, r.keep, r.first)
        };
        // Twice as many may be there: all new beside all old.
        assert_eq!(case(3, 3, 50, 200), (6, 3, 3));
        assert_eq!(case(3, 0, 50, 200), (6, 0, 3));
        // No more than wanted: half stay.
        assert_eq!(case(4, 4, 50, 100), (4, 2, 2));
        assert_eq!(case(3, 3, 50, 100), (3, 2, 1));
        // The old one goes first.
        assert_eq!(case(1, 1, 0, 100), (1, 0, 1));
        // Limits that leave no way: one goes.
        assert_eq!(case(1, 1, 100, 100), (1, 0, 1));
        assert_eq!(case(3, 3, 100, 100), (3, 2, 1));
        // From many to few, and to none.
        assert_eq!(case(1, 10, 50, 200), (2, 1, 1));
        assert_eq!(case(0, 2, 50, 200), (1, 0, 0));
    }
}
