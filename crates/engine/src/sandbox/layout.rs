//! What a start does, in order: the namespaces, mounts, network and restrictions of an instance.

use std::os::unix::ffi::OsStrExt;

use super::launch::{Launch, Tree};
use super::plan::{self, Plan, attr, ms, new};
use super::{proto, seccomp};
use crate::net;

/// Capabilities that stay within reach of an instance's root, by number: chown, dac_override, fowner, fsetid,
/// kill, setgid, setuid, setpcap, net_bind_service, sys_chroot, sys_ptrace, setfcap. What is left out would open
/// parts of the kernel (net_admin: the egress rules; net_raw, sys_admin, mknod, sys_module…).
const CAPABILITIES: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 10
    | 1 << 18
    | 1 << 19
    | 1 << 31;

/// `RLIMIT_` of asm-generic/resource.h; C libraries disagree about the type.
const RLIMIT_CORE: u32 = 4;
const RLIMIT_NOFILE: u32 = 7;

/// Slots of the first packet.
const SLOT_LISTENER: u32 = 0;
const SLOT_PROGRAM: u32 = 1;
const SLOT_LOG: u32 = 2;

/// Writes the plan, and says which folders the server opens for it.
pub(super) fn write_plan(spec: &Launch<'_>) -> (Plan, Vec<Tree>) {
    let ranges = spec.range.is_some();
    let mut plan = Plan::new(if spec.log.is_some() { 3 } else { 2 });
    plan.rlimit(RLIMIT_NOFILE, 1024);
    plan.rlimit(RLIMIT_CORE, 0);
    plan.unshare("make a user namespace", new::USER);
    plan.unshare(
        "make mount, pid, net, uts, ipc and cgroup namespaces",
        new::OTHERS,
    );
    let mut trees: Vec<Tree> = spec
        .layers
        .iter()
        .map(|layer| Tree {
            path: layer.clone(),
            host: false,
            recursive: false,
        })
        .collect();
    trees.push(Tree {
        path: spec.rw.to_owned(),
        host: false,
        recursive: false,
    });
    trees.extend(spec.host.iter().map(|folder| Tree {
        path: folder.path.clone(),
        host: true,
        recursive: folder.has_mounts,
    }));
    let mut slots = Vec::new();
    if ranges {
        for group in trees.chunks(proto::MAX_FDS) {
            let first = plan.sync("map user ids", group.len() as u32);
            slots.extend(first..first + group.len() as u32);
        }
    } else {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        plan.write("map user ids", "/proc/self/setgroups", "deny");
        plan.write(
            "map user ids",
            "/proc/self/uid_map",
            &format!("0 {uid} 1\n"),
        );
        plan.write(
            "map user ids",
            "/proc/self/gid_map",
            &format!("0 {gid} 1\n"),
        );
    }
    plan.mount(
        "make mounts private",
        "none",
        "/",
        "",
        ms::REC | ms::PRIVATE,
        "",
    );
    if !ranges {
        for tree in &trees {
            let recursive = if tree.recursive {
                plan::TREE_RECURSIVE
            } else {
                0
            };
            let slot = plan.open_tree(
                tree.path.as_os_str().as_bytes(),
                plan::TREE_CLONE | recursive,
            );
            if tree.host {
                plan.set_attributes(
                    slot,
                    tree.recursive,
                    attr::RDONLY | attr::NOSUID | attr::NODEV,
                );
            }
            slots.push(slot);
        }
        trees.clear();
    }
    // A file system in memory to build on; the paths below are relative to it. It is the only one: each more costs
    // every memory control group of the machine a little, which a thousand instances would feel.
    let scratch = spec.dir.join("mnt");
    let scratch = scratch.as_os_str().as_bytes();
    plan.mount(
        "mount a tmpfs",
        "none",
        scratch,
        "tmpfs",
        ms::NOSUID | ms::NODEV,
        "mode=755,uid=0,gid=0",
    );
    plan.chdir(scratch);
    plan.ids(ranges);
    mount_root(&mut plan, spec, &slots);
    plan.fork();
    mount_kernel_parts(&mut plan);
    plan.pivot("root");
    for folder in ["/usr", "/usr/local", "/usr/local/bin"] {
        plan.mkdir(folder, 0o755);
    }
    plan.install(
        "/usr/local/bin/curl",
        SLOT_PROGRAM,
        &["/usr/bin/curl", "/bin/curl", "/usr/local/bin/curl"],
    );
    plan.hostname(spec.hostname);
    network(&mut plan, spec.egress);
    plan.session();
    plan.undumpable();
    plan.bound(CAPABILITIES);
    plan.seccomp(&seccomp::program());
    if spec.log.is_some() {
        plan.log(SLOT_LOG);
    }
    if let Some(body) = &spec.main {
        plan.main(body);
    }
    plan.serve(SLOT_LISTENER);
    (plan, trees)
}

/// The layers as one file system at `root`, and the host's folders in it.
fn mount_root(plan: &mut Plan, spec: &Launch<'_>, slots: &[u32]) {
    let layers = spec.layers.len();
    let mut lower = String::new();
    for (index, &slot) in slots.iter().take(layers).enumerate() {
        let name = format!("l{index}");
        plan.mkdir(&name, 0o755);
        plan.move_mount(slot, &name);
        if index > 0 {
            lower.push(':');
        }
        lower.push_str(&name);
    }
    plan.mkdir("rw", 0o755);
    plan.move_mount(slots[layers], "rw");
    plan.mkdir("root", 0o755);
    let options = format!("lowerdir={lower},upperdir=rw/upper,workdir=rw/work,userxattr");
    plan.mount(
        "mount the overlay file system",
        "overlay",
        "root",
        "overlay",
        ms::NODEV,
        &options,
    );
    for (folder, &slot) in spec.host.iter().zip(&slots[layers + 1..]) {
        // The instance's own folders inside the host's: taken out before they are covered, put on top after.
        let own: Vec<(u32, String)> = folder
            .own
            .iter()
            .map(|name| {
                let path = format!("root{name}");
                (plan.open_tree(path.as_bytes(), plan::TREE_CLONE), path)
            })
            .collect();
        plan.move_mount(slot, &format!("root{}", folder.path.display()));
        for (slot, path) in own {
            plan.move_mount(slot, &path);
        }
    }
}

/// /proc, /dev and what is in it; needs to be in the new pid namespace.
fn mount_kernel_parts(plan: &mut Plan) {
    let quiet = ms::NOSUID | ms::NODEV | ms::NOEXEC;
    for folder in ["root/proc", "root/dev", "root/sys"] {
        plan.mkdir(folder, 0o755);
    }
    plan.mount("mount /proc", "proc", "root/proc", "proc", quiet, "");
    plan.mkdir("dev", 0o755);
    plan.bind("dev", "root/dev", quiet);
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        plan.device(&format!("/dev/{name}"), &format!("root/dev/{name}"));
    }
    plan.mkdir("root/dev/pts", 0o755);
    plan.mount(
        "mount /dev/pts",
        "devpts",
        "root/dev/pts",
        "devpts",
        ms::NOSUID | ms::NOEXEC,
        "newinstance,ptmxmode=0666,mode=620",
    );
    plan.mkdir("root/dev/shm", 0o755);
    plan.mkdir("shm", 0o1777);
    plan.bind("shm", "root/dev/shm", quiet);
    for (target, name) in [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        plan.symlink(target, &format!("root/dev/{name}"));
    }
    plan.mkdir("empty", 0o555);
    for path in HIDDEN {
        plan.mask(path, "empty", "root/dev/null");
    }
    for path in READ_ONLY {
        plan.read_only(path);
    }
}

/// Parts of /proc that tell about the host.
const HIDDEN: [&str; 8] = [
    "root/proc/kcore",
    "root/proc/keys",
    "root/proc/timer_list",
    "root/proc/sched_debug",
    "root/proc/kallsyms",
    "root/proc/acpi",
    "root/proc/scsi",
    "root/proc/key-users",
];
/// Parts of /proc that change the host.
const READ_ONLY: [&str; 5] = [
    "root/proc/sys",
    "root/proc/sysrq-trigger",
    "root/proc/irq",
    "root/proc/bus",
    "root/proc/fs",
];

fn network(plan: &mut Plan, egress: bool) {
    let requests = if egress {
        net::setup()
    } else {
        net::loopback_setup()
    };
    for request in &requests {
        plan.netlink(request);
    }
    if egress {
        for (key, listener) in (0..).zip(&net::LISTENERS) {
            plan.socket(key, listener);
        }
    }
}
