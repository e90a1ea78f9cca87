//! Where this process stands in the control group trees of the kernel.

use std::path::{Path, PathBuf};

/// A controller we make use of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Controller {
    Memory,
    Pids,
    Cpu,
    /// Accounting of processor time; part of `cpu` in version 2.
    CpuAccounting,
    /// Version 1 only; every group of version 2 can be frozen.
    Freezer,
}

impl Controller {
    pub(super) const ALL: [Controller; 5] = [
        Controller::Memory,
        Controller::Pids,
        Controller::Cpu,
        Controller::CpuAccounting,
        Controller::Freezer,
    ];

    pub(super) fn v1_name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Cpu => "cpu",
            Controller::CpuAccounting => "cpuacct",
            Controller::Freezer => "freezer",
        }
    }
}

/// The directory of our own group in one tree, and the tree's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) root: PathBuf,
    pub(super) own: PathBuf,
}

/// All trees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) v2: Option<Place>,
    pub(super) v1: Vec<(Controller, Place)>,
}

impl Hierarchy {
    /// Reads `/proc/self`.
    pub(super) fn read() -> std::io::Result<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup")?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self::parse(&groups, &mounts))
    }

    /// From the texts of `/proc/self/cgroup` (`cgroups(7)`) and `/proc/self/mountinfo` (`proc(5)`).
    pub(super) fn parse(groups: &str, mounts: &str) -> Self {
        let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
        let mut found = Self::default();
        for line in groups.lines() {
            // hierarchy id : controllers : path
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if controllers.is_empty() {
                found.v2 = mounts
                    .iter()
                    .filter(|mount| mount.v2)
                    .find_map(|mount| mount.place(path));
                continue;
            }
            for controller in Controller::ALL {
                if !controllers
                    .split(',')
                    .any(|name| name == controller.v1_name())
                {
                    continue;
                }
                let place = mounts
                    .iter()
                    .filter(|mount| !mount.v2 && mount.has(controller.v1_name()))
                    .find_map(|mount| mount.place(path));
                if let Some(place) = place {
                    found.v1.push((controller, place));
                }
            }
        }
        found
    }
}

/// A mounted control group tree.
struct Mount {
    v2: bool,
    /// The group that is at the mount point.
    root: String,
    point: PathBuf,
    options: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let kind = after.next()?;
        let options = after.nth(1).unwrap_or("").to_owned();
        let v2 = match kind {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        Some(Self {
            v2,
            root: unescape(root),
            point: PathBuf::from(unescape(point)),
            options,
        })
    }

    fn has(&self, controller: &str) -> bool {
        self.options.split(',').any(|option| option == controller)
    }

    /// Where the group with `path` is, if this mount shows it. Paths that lead out of our control
    /// group namespace (`/../…`) are not shown.
    fn place(&self, path: &str) -> Option<Place> {
        let below = if self.root == "/" {
            path
        } else {
            let below = path.strip_prefix(self.root.as_str())?;
            if !below.is_empty() && !below.starts_with('/') {
                return None;
            }
            below
        };
        let below = Path::new(below.trim_start_matches('/'));
        if below
            .components()
            .any(|part| !matches!(part, std::path::Component::Normal(_)))
        {
            return None;
        }
        let own = if below.as_os_str().is_empty() {
            self.point.clone()
        } else {
            self.point.join(below)
        };
        Some(Place {
            root: self.point.clone(),
            own,
        })
    }
}

/// The kernel writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 4);
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if byte.is_ascii() => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            _ => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(root: &str, own: &str) -> Place {
        Place {
            root: root.into(),
            own: own.into(),
        }
    }

    #[test]
    fn hybrid() {
        let groups =
            "9:name=systemd:/\n8:pids:/\n4:memory:/process_api/f67\n1:cpu,cpuacct:/a:b\n0::/\n";
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
            39 31 0:36 / /sys/fs/cgroup/my\\040pids rw,relatime - cgroup cgroup rw,pids\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let found = Hierarchy::parse(groups, mounts);
        assert_eq!(
            found.v2,
            Some(place("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified"))
        );
        let cpu = place(
            "/sys/fs/cgroup/cpu,cpuacct",
            "/sys/fs/cgroup/cpu,cpuacct/a:b",
        );
        assert_eq!(
            found.v1,
            [
                (
                    Controller::Pids,
                    place("/sys/fs/cgroup/my pids", "/sys/fs/cgroup/my pids")
                ),
                (
                    Controller::Memory,
                    place(
                        "/sys/fs/cgroup/memory",
                        "/sys/fs/cgroup/memory/process_api/f67"
                    )
                ),
                (Controller::Cpu, cpu.clone()),
                (Controller::CpuAccounting, cpu),
            ]
        );
    }

    #[test]
    fn in_a_container() {
        let found = |groups: &str, root: &str| {
            let mounts = format!("41 31 0:38 {root} /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
            Hierarchy::parse(groups, &mounts).v2.map(|place| place.own)
        };
        assert_eq!(found("0::/\n", "/"), Some("/sys/fs/cgroup".into()));
        assert_eq!(
            found("0::/docker/abc/x\n", "/docker/abc"),
            Some("/sys/fs/cgroup/x".into())
        );
        assert_eq!(
            found("0::/docker/abc\n", "/docker/abc"),
            Some("/sys/fs/cgroup".into())
        );
        assert_eq!(found("0::/docker/abcd\n", "/docker/abc"), None);
        assert_eq!(found("0::/../other\n", "/"), None);
        assert_eq!(found("", "/"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_judged(groups in "[0-9:/a-z.\\n\\\\]{0,120}", mounts in "[0-9 /a-z.\\n\\\\-]{0,200}") {
            let found = Hierarchy::parse(&groups, &mounts);
            if let Some(place) = found.v2 {
                prop_assert!(place.own.starts_with(&place.root));
            }
        }
    }
}
