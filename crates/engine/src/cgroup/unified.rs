//! Finding a place for our groups in the tree of version 2 (kernel, `admin-guide/cgroup-v2.rst`).

use std::fs;
use std::path::{Path, PathBuf};

use super::hierarchy::Place;
use super::{make, read, write};

/// Where this process goes when its own group must be free of processes.
const SERVER: &str = "boxrig-server";

/// A group of ours, and the controllers that groups below it have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) dir: PathBuf,
    pub(super) memory: bool,
    pub(super) pids: bool,
    pub(super) cpu: bool,
}

impl Base {
    /// Makes the group `name` in our own group or, where that offers more, in one above it.
    pub(super) fn find(place: &Place, name: &str) -> Option<Self> {
        let mut best: Option<Self> = None;
        for candidate in place.own.ancestors() {
            let own = candidate == place.own;
            if !candidate.starts_with(&place.root) || (candidate == place.root && !own) {
                break;
            }
            // Not ours to write to: what is above is not either.
            let Some((dir, down)) = prepare(candidate, own, name, ["memory", "pids", "cpu"]) else {
                break;
            };
            let [memory, pids, cpu] = down;
            let base = Self {
                dir,
                memory,
                pids,
                cpu,
            };
            let worse = match &best {
                Some(kept) if kept.count() >= base.count() => Some(base),
                _ => best.replace(base),
            };
            if let Some(worse) = worse {
                // Just made, or of an earlier server with instances in it: then it refuses.
                let _ = fs::remove_dir(&worse.dir);
            }
            if best.as_ref().is_some_and(|base| base.count() == 3) {
                break;
            }
        }
        best
    }

    fn count(&self) -> usize {
        [self.memory, self.pids, self.cpu]
            .into_iter()
            .filter(|has| *has)
            .count()
    }
}

fn has(dir: &Path, file: &str, controller: &str) -> bool {
    read(dir, file).is_ok_and(|list| list.split_whitespace().any(|one| one == controller))
}

/// Hands controllers down to the groups below, as far as the kernel lets us.
fn hand_down(dir: &Path, wanted: &[&str]) {
    for controller in wanted
        .iter()
        .filter(|controller| has(dir, "cgroup.controllers", controller))
    {
        // Refused where processes stand in the group. What came of it is read back.
        let _ = write(dir, "cgroup.subtree_control", &format!("+{controller}"));
    }
}

/// Makes the group `name` in `parent`; tells which of the controllers groups below it have.
///
/// In our own group the controllers are handed down first. If its processes are in the way and this
/// process is the only one, it moves one group down. Groups above are other people's: what they
/// hand down is used, and nothing about them is changed.
fn prepare<const N: usize>(
    parent: &Path,
    own: bool,
    name: &str,
    wanted: [&str; N],
) -> Option<(PathBuf, [bool; N])> {
    let dir = parent.join(name);
    make(&dir).ok()?;
    if own {
        hand_down(parent, &wanted);
        let missing = |controller: &&str| {
            has(parent, "cgroup.controllers", controller)
                && !has(&dir, "cgroup.controllers", controller)
        };
        if wanted.iter().any(missing) && alone_in(parent) {
            let server = parent.join(SERVER);
            if make(&server).is_ok() && write(&server, "cgroup.procs", "0").is_ok() {
                hand_down(parent, &wanted);
            }
        }
    }
    hand_down(&dir, &wanted);
    let down = wanted.map(|controller| has(&dir, "cgroup.subtree_control", controller));
    Some((dir, down))
}

/// Whether this process is the only one in the group.
fn alone_in(dir: &Path) -> bool {
    let own = std::process::id().to_string();
    read(dir, "cgroup.procs").is_ok_and(|list| list.lines().all(|pid| pid == own))
}

#[cfg(test)]
mod tests {
    use super::super::hierarchy::Hierarchy;
    use super::*;

    /// On the machine's own tree, with whatever controller it offers: a process alone in its group
    /// makes room by moving down; one with company does not, and gets nothing.
    #[test]
    fn making_room_for_controllers() {
        let Some(place) = Hierarchy::read().unwrap().v2 else {
            eprintln!("skipped: no tree of version 2 here");
            return;
        };
        let root = &place.root;
        let offered = read(root, "cgroup.controllers").unwrap_or_default();
        let Some(controller) = offered.split_whitespace().next() else {
            eprintln!("skipped: the tree of version 2 has no controllers here");
            return;
        };
        let handed_down = has(root, "cgroup.subtree_control", controller);
        let parent = root.join(format!("boxrig-unit-{}", std::process::id()));
        if make(&parent).is_err()
            || write(root, "cgroup.subtree_control", &format!("+{controller}")).is_err()
        {
            eprintln!("skipped: groups need root here");
            return;
        }
        let wanted = [controller, "no-such-controller"];

        // Nobody's group: as if it were above ours. Nothing is handed down for us.
        let (above, down) = prepare(&parent, false, "ours", wanted).unwrap();
        assert_eq!(down, [false, false]);
        fs::remove_dir(&above).unwrap();

        let mut other = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        write(&parent, "cgroup.procs", &other.id().to_string()).unwrap();
        write(&parent, "cgroup.procs", "0").unwrap();
        let (crowded, down) = prepare(&parent, true, "ours", wanted).unwrap();
        assert_eq!(down, [false, false]);
        assert!(!parent.join(SERVER).exists());

        other.kill().unwrap();
        other.wait().unwrap();
        let (alone, down) = prepare(&parent, true, "ours", wanted).unwrap();
        assert_eq!((&alone, down), (&crowded, [true, false]));
        assert!(alone_in(&parent.join(SERVER)) && !stands_in(&parent));
        // And it lets groups below have the controller.
        make(&alone.join("instance")).unwrap();
        assert!(has(
            &alone.join("instance"),
            "cgroup.controllers",
            controller
        ));

        write(&place.own, "cgroup.procs", "0").unwrap();
        for dir in [alone.join("instance"), alone, parent.join(SERVER), parent] {
            fs::remove_dir(dir).unwrap();
        }
        if !handed_down {
            write(root, "cgroup.subtree_control", &format!("-{controller}")).unwrap();
        }
    }

    /// Whether this process stands in the group itself.
    fn stands_in(dir: &Path) -> bool {
        let own = std::process::id().to_string();
        read(dir, "cgroup.procs")
            .unwrap()
            .lines()
            .any(|pid| pid == own)
    }
}
