//! What an instance cannot do: see the host, leave its namespaces, reach its own guard.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use boxrig_engine::{ExecSpec, InstanceSpec, NetworkPolicy};

use crate::support::{Rig, id, rig};

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_and_names_are_its_own() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("spaces").await;
    for kind in ["user", "mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let inside = rig.ok(&vm, &format!("readlink /proc/self/ns/{kind}")).await;
        let outside = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(inside, outside.to_str().unwrap(), "{kind}");
    }
    assert_eq!(rig.ok(&vm, "hostname").await, "spaces");
    assert_eq!(rig.ok(&vm, "cat /proc/1/comm").await, "boxrig-init");
    let count = rig.ok(&vm, "ls /proc | grep -c '^[0-9]'").await;
    assert!(count.parse::<u32>().unwrap() < 6, "{count}");
    let map = rig.ok(&vm, "cat /proc/self/uid_map").await;
    let fields: Vec<u32> = map
        .split_whitespace()
        .map(|field| field.parse().unwrap())
        .collect();
    if rustix::process::geteuid().is_root() {
        assert!(
            fields[0] == 0 && fields[1] >= 0x6000_0000 && fields[2] == 65_536,
            "{map}"
        );
    } else {
        assert_eq!(fields, [0, rustix::process::geteuid().as_raw(), 1]);
    }
    assert_eq!(
        rig.ok(&vm, "cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' '")
            .await,
        "lo"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_and_shared_memory() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("devices").await;
    let modes = "stat -c '%a %n' /dev /dev/shm /tmp /var/tmp /root /dev/null";
    let expected = "755 /dev\n1777 /dev/shm\n1777 /tmp\n1777 /var/tmp\n700 /root\n666 /dev/null";
    assert_eq!(rig.ok(&vm, modes).await, expected);
    rig.ok(&vm, "cp /bin/true /dev/shm/x && ! /dev/shm/x 2>/dev/null")
        .await;
    let shared = "import multiprocessing.shared_memory as s; m=s.SharedMemory(create=True,size=9); m.close(); m.unlink()";
    rig.ok(&vm, &format!("python3 -c '{shared}'")).await;
    assert_eq!(
        rig.ok(
            &vm,
            "ls -A /proc/acpi /proc/scsi 2>/dev/null | grep -v : | tr -d '\\n'"
        )
        .await,
        ""
    );
    assert_eq!(
        rig.ok(
            &vm,
            "grep -c . /proc/mounts; grep -E 'work/main|boxrig-test' /proc/mounts | wc -l"
        )
        .await
        .lines()
        .last(),
        Some("0")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_host_are_out_of_reach() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("canary").await;
    let mut canary = tempfile::Builder::new()
        .prefix("boxrig-canary-")
        .tempfile()
        .unwrap();
    canary
        .as_file_mut()
        .write_all(b"SECRET-OF-THE-HOST")
        .unwrap();
    std::fs::set_permissions(canary.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let path = canary.path().to_str().unwrap();
    assert!(!rig.sh(&vm, &format!("cat {path}")).await.status.success());
    assert!(
        !rig.sh(
            &vm,
            &format!("cat /proc/1/root{path} || cat /proc/1/cwd{path}")
        )
        .await
        .status
        .success()
    );
    for path in [
        "/etc/ssh",
        "/etc/shadow-",
        "/home/*/.ssh",
        "/root/.bash_history",
        "/var/lib/dpkg",
        "/work",
        "/boot/*",
        "/sys/*",
        "/usr/src/*",
        "/usr/local/bin/*",
        "/var/run/*.sock",
    ] {
        let found = rig
            .sh(
                &vm,
                &format!("ls -d {path} 2>/dev/null | grep -v '^/usr/local/bin/curl$'"),
            )
            .await
            .stdout;
        assert_eq!(found, "", "{path}");
    }
    assert_eq!(
        rig.ok(&vm, "cat /etc/shadow").await,
        "root:*:19000:0:99999:7:::"
    );
    let data = rig.dir.path().to_str().unwrap();
    assert!(!rig.sh(&vm, &format!("ls {data}")).await.status.success());
    // What the instance makes is outside of its own files nowhere.
    rig.ok(&vm, "echo x > /tmp/made").await;
    assert!(!std::path::Path::new("/tmp/made").exists());
    assert!(
        rig.dir
            .path()
            .join("instances/canary/rw-0/upper/tmp/made")
            .exists()
    );
}

/// Every line is tried as root of the instance and must fail, or print nothing of the host's. `(what, script)`;
/// the script succeeds only if the escape does.
const ESCAPES: &[(&str, &str)] = &[
    // Mounts.
    ("mount a tmpfs", "mount -t tmpfs none /mnt"),
    ("mount proc anew", "mount -t proc proc /mnt"),
    ("mount sysfs", "mount -t sysfs sysfs /mnt"),
    ("mount a control group", "mount -t cgroup2 none /mnt"),
    (
        "mount a v1 control group",
        "mount -t cgroup -o memory none /mnt",
    ),
    ("mount devtmpfs", "mount -t devtmpfs none /mnt"),
    (
        "mount the host's disk",
        "mknod /tmp/disk b 254 0 && mount /tmp/disk /mnt",
    ),
    (
        "mount an overlay",
        "mkdir -p /tmp/u /tmp/w && mount -t overlay -o lowerdir=/,upperdir=/tmp/u,workdir=/tmp/w none /mnt",
    ),
    ("bind over a mask", "mount --bind /tmp /proc/sys"),
    ("remount /usr for writing", "mount -o remount,rw,bind /usr"),
    ("unmount /usr/local", "umount -l /usr/local"),
    ("unmount a mask", "umount -l /proc/kcore"),
    ("unmount /proc/sys", "umount -l /proc/sys"),
    ("move a mount", "mount --move /dev /mnt"),
    ("write to /usr", "touch /usr/bin/x"),
    ("change a file of /usr", "chmod 777 /usr/bin/env"),
    ("pivot the root", "pivot_root /tmp /tmp"),
    (
        "leave by chroot",
        "python3 -c 'import os\nos.mkdir(\"/tmp/c\")\nfd=os.open(\"/\",0)\nos.chroot(\"/tmp/c\")\nos.fchdir(fd)\nfor i in range(50): os.chdir(\"..\")\nos.chroot(\".\")\nos.stat(\"/work/main\")'",
    ),
    (
        "open by handle",
        "python3 -c 'import ctypes,sys\nl=ctypes.CDLL(None,use_errno=True)\nb=ctypes.create_string_buffer(b\"\\x08\\0\\0\\0\\1\\0\\0\\0\\2\\0\\0\\0\\0\\0\\0\\0\")\nsys.exit(l.open_by_handle_at(3,b,0)<0)'",
    ),
    // Namespaces.
    ("a nested user namespace", "unshare -U true"),
    ("a nested user namespace with root", "unshare -Ur true"),
    ("a mount namespace", "unshare -m true"),
    ("a network namespace", "unshare -n true"),
    ("a pid namespace", "unshare -pf true"),
    ("enter process 1's namespaces", "nsenter -t 1 -m -p true"),
    (
        "clone a user namespace",
        "python3 -c 'import ctypes,sys,platform\nl=ctypes.CDLL(None)\nn=56 if platform.machine()==\"x86_64\" else 220\nr=l.syscall(n,0x10000011,0,0,0,0)\nsys.exit(r<0)'",
    ),
    ("set the host name", "hostname other"),
    // Devices.
    ("make a device", "mknod /tmp/mem c 1 1"),
    ("read memory", "head -c1 /dev/mem"),
    (
        "read the kernel's memory",
        "head -c1 /dev/kmem /proc/kcore | grep -q .",
    ),
    ("read a disk", "ls /dev | grep -E '^(sd|vd|nvme|loop|dm-)'"),
    ("open kvm", "test -e /dev/kvm"),
    ("open fuse", "test -e /dev/fuse"),
    ("open tun", "test -e /dev/net/tun"),
    (
        "the host's terminals",
        "ls /dev/pts | grep -v ptmx | grep -q .",
    ),
    ("the kernel's messages", "dmesg"),
    ("read kmsg", "head -c1 /dev/kmsg"),
    // /proc.
    ("trigger sysrq", "echo h > /proc/sysrq-trigger"),
    ("change a kernel setting", "echo 1 > /proc/sys/kernel/sysrq"),
    (
        "set the core pattern",
        "echo '|/tmp/x' > /proc/sys/kernel/core_pattern",
    ),
    ("set modprobe", "echo /tmp/x > /proc/sys/kernel/modprobe"),
    (
        "set a network setting",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
    ),
    (
        "write an interrupt's affinity",
        "echo 1 > /proc/irq/default_smp_affinity",
    ),
    ("read keys", "grep -q . /proc/keys"),
    ("read timers", "grep -q . /proc/timer_list"),
    (
        "read the kernel's symbols",
        "grep -qv '^0000000000000000' /proc/kallsyms",
    ),
    (
        "change the id map",
        "echo '0 0 4294967295' > /proc/self/uid_map",
    ),
    (
        "protect from the killer",
        "echo -1000 > /proc/self/oom_score_adj",
    ),
    // Process 1 and its socket.
    ("look at process 1's files", "ls /proc/1/fd/ | grep -q ."),
    ("read process 1's memory", "head -c1 /proc/1/mem"),
    ("read process 1's program", "head -c1 /proc/1/exe"),
    ("read process 1's environment", "grep -q . /proc/1/environ"),
    ("go to process 1's root", "ls /proc/1/root/"),
    (
        "attach to process 1",
        "python3 -c 'import ctypes,sys\nl=ctypes.CDLL(None)\nsys.exit(l.ptrace(16,1,0,0)!=0)'",
    ),
    (
        "take a descriptor of process 1",
        "python3 -c 'import ctypes,sys,os\nl=ctypes.CDLL(None)\np=os.pidfd_open(1)\nsys.exit(all(l.syscall(438,p,n,0)<0 for n in range(12)))'",
    ),
    (
        "write into process 1",
        "python3 -c 'import ctypes,sys\nl=ctypes.CDLL(None)\nb=ctypes.create_string_buffer(8)\nclass V(ctypes.Structure): _fields_=[(\"b\",ctypes.c_void_p),(\"l\",ctypes.c_size_t)]\nx=V(ctypes.addressof(b),8)\ny=V(0x20c660,8)\nsys.exit(l.process_vm_writev(1,ctypes.byref(x),1,ctypes.byref(y),1,0)<0)'",
    ),
    (
        "find the agent's socket",
        "grep -q agent.sock /proc/net/unix && find / -xdev -name agent.sock | grep -q .",
    ),
    ("abstract sockets of the host", "grep -q '@' /proc/net/unix"),
    // The kernel.
    (
        "load a module",
        "python3 -c 'import ctypes,sys,platform\nl=ctypes.CDLL(None)\nn=313 if platform.machine()==\"x86_64\" else 273\nsys.exit(l.syscall(n,0,0,0)!=0)'",
    ),
    (
        "a bpf program",
        "python3 -c 'import ctypes,sys,platform\nl=ctypes.CDLL(None)\nn=321 if platform.machine()==\"x86_64\" else 280\nsys.exit(l.syscall(n,0,0,0)>=0 or 1)'",
    ),
    (
        "performance counters",
        "python3 -c 'import ctypes,sys,platform\nl=ctypes.CDLL(None)\nb=ctypes.create_string_buffer(128)\nn=298 if platform.machine()==\"x86_64\" else 241\nsys.exit(l.syscall(n,b,0,-1,-1,0)<0)'",
    ),
    (
        "io_uring",
        "python3 -c 'import ctypes,sys\nl=ctypes.CDLL(None)\nb=ctypes.create_string_buffer(120)\nsys.exit(l.syscall(425,8,b)<0)'",
    ),
    (
        "the keyring",
        "python3 -c 'import ctypes,sys,platform\nl=ctypes.CDLL(None)\nn=250 if platform.machine()==\"x86_64\" else 219\nsys.exit(l.syscall(n,0,-4,1)<0)'",
    ),
    ("set the clock", "date -s 2001-01-01"),
    ("reboot", "reboot -f"),
    // Network.
    (
        "packets",
        "python3 -c 'import socket\nsocket.socket(socket.AF_PACKET,socket.SOCK_RAW)'",
    ),
    (
        "raw addresses",
        "python3 -c 'import socket\nsocket.socket(socket.AF_INET,socket.SOCK_RAW,1)'",
    ),
    (
        "the machine below (vsock)",
        "python3 -c 'import socket\nsocket.socket(40,socket.SOCK_STREAM)'",
    ),
    (
        "kernel cryptography sockets",
        "python3 -c 'import socket\nsocket.socket(38,socket.SOCK_SEQPACKET)'",
    ),
    ("take the interface down", "ip link set lo down"),
    ("flush the rules", "nft flush ruleset"),
    ("add a route", "ip route add 10.9.0.0/16 dev lo"),
    (
        "the metadata address",
        "python3 -c 'import socket\ns=socket.create_connection((\"169.254.169.254\",80),2)\ns.sendall(b\"GET / HTTP/1.0\\r\\n\\r\\n\")\nassert s.recv(1)'",
    ),
    // Capabilities.
    (
        "forbidden capabilities",
        "python3 -c 'import sys\nb=int([l for l in open(\"/proc/self/status\") if l.startswith(\"CapBnd\")][0].split()[1],16)\nsys.exit(not b & (1<<12|1<<13|1<<16|1<<17|1<<21|1<<25|1<<27|1<<34|1<<38|1<<39))'",
    ),
    ("no filter", "grep -q 'Seccomp:.0' /proc/self/status"),
];

async fn try_all(rig: &Rig, vm: &boxrig_engine::InstanceId) {
    let mut escaped = Vec::new();
    for (what, script) in ESCAPES {
        let output = rig.sh(vm, &format!("exec 2>/dev/null; {script}")).await;
        if output.status.success() {
            escaped.push((what, output.stdout));
        }
    }
    assert!(escaped.is_empty(), "{escaped:#?}");
    // It still works, and so does the host.
    rig.ok(vm, "echo fine").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_escape_succeeds() {
    assert!(ESCAPES.len() >= 60, "{}", ESCAPES.len());
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("escape").await;
    try_all(&rig, &vm).await;
}

/// The scripts can succeed at all: each program they use is there, so that "fails" does not mean "missing".
#[tokio::test(flavor = "multi_thread")]
async fn the_tools_of_the_escapes_exist() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("tools").await;
    for tool in [
        "mount",
        "umount",
        "unshare",
        "nsenter",
        "mknod",
        "dmesg",
        "python3",
        "grep",
        "pivot_root",
        "hostname",
        "find",
    ] {
        rig.ok(&vm, &format!("command -v {tool}")).await;
    }
    rig.ok(
        &vm,
        "python3 -c 'import ctypes, socket, os; ctypes.CDLL(None).getpid()'",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_do_not_see_each_other() {
    let Some(rig) = rig().await else { return };
    let (a, b) = (rig.instance("one").await, rig.instance("two").await);
    let mut spec = ExecSpec::new(["sh", "-c", "echo mine > /tmp/f; exec sleep 4321"]);
    spec.kill_on_drop = false;
    rig.engine.exec(&a, spec).await.unwrap();
    // The pattern does not match the command line that it stands in.
    let look = "pgrep -f 'sleep 432[1]'";
    let soon = format!("for i in $(seq 600); do {look} && exit; sleep 0.05; done; exit 1");
    rig.ok(&a, &soon).await;
    let other = rig.sh(&b, &format!("cat /tmp/f || {look}")).await;
    assert!(!other.status.success(), "{other:?}");
    if rustix::process::geteuid().is_root() {
        let map = "cut -c1-22 /proc/self/uid_map";
        assert_ne!(rig.ok(&a, map).await, rig.ok(&b, map).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_network_nothing_leaves() {
    let Some(rig) = rig().await else { return };
    let mut spec = InstanceSpec::new(id("alone"));
    spec.network = NetworkPolicy::None;
    rig.engine.create(spec).await.unwrap();
    let connect = "python3 -c 'import socket\nsocket.create_connection((\"203.0.113.1\",80),2)'";
    let output = rig.sh(&id("alone"), connect).await;
    assert!(output.stderr.contains("unreachable"), "{output:?}");
    // The host's own loopback is another one.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let vm = rig.instance("egress").await;
    for vm in [&id("alone"), &vm] {
        let script = format!(
            "python3 -c 'import socket\nsocket.create_connection((\"127.0.0.1\",{port}),2)'"
        );
        assert!(!rig.sh(vm, &script).await.status.success());
    }
}

/// The dialler takes every connection, and refuses to make those that lead to the host.
#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_not_reached_by_its_addresses() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("dial").await;
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut addresses = vec![
        "127.0.0.1".to_owned(),
        "0.0.0.0".to_owned(),
        "127.1.2.3".to_owned(),
    ];
    // The address this host would use to the outside; nothing is sent.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    if probe.connect("203.0.113.1:9").is_ok() {
        addresses.push(probe.local_addr().unwrap().ip().to_string());
    }
    for address in &addresses {
        let script = format!(
            "python3 -c 'import socket\ns=socket.create_connection((\"{address}\",{port}),3)\ns.sendall(b\"x\")\nassert s.recv(1)'"
        );
        assert!(!rig.sh(&vm, &script).await.status.success(), "{address}");
    }
    let seen = listener.accept();
    assert!(seen.is_err(), "{seen:?} arrived; addresses {addresses:?}");
    let counted = rig.engine.stats(&vm).await.unwrap();
    assert_eq!(counted.net_received_bytes, Some(0));
}
