//! The plan of a stage: what to do, in which order, and what each step is called when it fails.

use std::borrow::Cow;

use super::packet::Writer;
use super::proto::*;
use crate::net::Protocol;
use crate::net::netlink::Request;

/// `MOUNT_ATTR_` of linux/mount.h.
pub(super) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const IDMAP: u64 = 0x0010_0000;
}

/// `MS_` of mount(2).
pub(super) mod ms {
    pub(crate) const NOSUID: u64 = 2;
    pub(crate) const NODEV: u64 = 4;
    pub(crate) const NOEXEC: u64 = 8;
    pub(crate) const REC: u64 = 0x4000;
    pub(crate) const PRIVATE: u64 = 0x4_0000;
}

/// `CLONE_NEW` of linux/sched.h.
pub(super) mod new {
    pub(crate) const USER: u64 = 0x1000_0000;
    /// Mount, control group, uts, ipc, pid and net.
    pub(crate) const OTHERS: u64 =
        0x2_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x2000_0000 | 0x4000_0000;
}

/// `OPEN_TREE_CLONE`, `AT_RECURSIVE`.
pub(super) const TREE_CLONE: u32 = 1;
pub(super) const TREE_RECURSIVE: u32 = 0x8000;

/// A plan being written.
#[derive(Debug, Default)]
pub(super) struct Plan {
    writer: Writer,
    names: Vec<Cow<'static, str>>,
    slots: u32,
}

impl Plan {
    /// A plan whose first packet brings descriptors for `slots` slots.
    pub(super) fn new(slots: u32) -> Self {
        Self {
            slots,
            ..Self::default()
        }
    }

    fn step(&mut self, name: impl Into<Cow<'static, str>>, op: u32) -> &mut Writer {
        self.names.push(name.into());
        self.writer.u32(op)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.writer.as_slice()
    }

    /// What step `index` does; used when it failed.
    pub(super) fn name(&self, index: u32) -> Cow<'static, str> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        self.names
            .get(index)
            .cloned()
            .unwrap_or(Cow::Borrowed("run the plan"))
    }

    /// All steps in order.
    pub(super) fn names(&self) -> &[Cow<'static, str>] {
        &self.names
    }

    pub(super) fn unshare(&mut self, name: &'static str, flags: u64) {
        self.step(name, OP_UNSHARE).u64(flags);
    }

    /// Waits for the server, which then sends `fds` descriptors; returns the first slot.
    pub(super) fn sync(&mut self, name: &'static str, fds: u32) -> u32 {
        self.step(name, OP_SYNC);
        let first = self.slots;
        self.slots += fds;
        first
    }

    pub(super) fn write(&mut self, name: &'static str, path: &str, content: &str) {
        self.step(name, OP_WRITE)
            .cstr(path)
            .bytes(content.as_bytes());
    }

    /// Returns the slot.
    pub(super) fn open_tree(&mut self, path: &[u8], flags: u32) -> u32 {
        let name = format!("open the folder {}", String::from_utf8_lossy(path));
        self.step(name, OP_OPEN_TREE).cstr(path).u32(flags);
        self.slots += 1;
        self.slots - 1
    }

    pub(super) fn set_attributes(&mut self, slot: u32, recursive: bool, set: u64) {
        self.step("restrict a mount", OP_SETATTR)
            .u32(slot)
            .u32(recursive.into())
            .u64(set)
            .u64(0)
            .u64(0);
    }

    pub(super) fn move_mount(&mut self, slot: u32, path: &str) {
        let name = format!("attach the mount {path}");
        self.step(name, OP_MOVE_MOUNT).u32(slot).cstr(path);
    }

    pub(super) fn mount(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        source: &str,
        target: impl AsRef<[u8]>,
        kind: &str,
        flags: u64,
        data: &str,
    ) {
        self.step(name, OP_MOUNT)
            .cstr(source)
            .cstr(target)
            .cstr(kind)
            .u64(flags)
            .cstr(data);
    }

    pub(super) fn mkdir(&mut self, path: &str, mode: u32) {
        self.step(format!("make the folder {path}"), OP_MKDIR)
            .cstr(path)
            .u32(mode);
    }

    pub(super) fn symlink(&mut self, target: &str, path: &str) {
        self.step(format!("make the link {path}"), OP_SYMLINK)
            .cstr(target)
            .cstr(path);
    }

    pub(super) fn pivot(&mut self, path: &str) {
        self.step("change the root (pivot_root)", OP_PIVOT)
            .cstr(path);
    }

    pub(super) fn fork(&mut self) {
        self.step("start process 1", OP_FORK);
    }

    pub(super) fn hostname(&mut self, name: &str) {
        self.step("set the host name", OP_HOSTNAME)
            .bytes(name.as_bytes());
    }

    pub(super) fn netlink(&mut self, request: &Request) {
        self.step(format!("network: {}", request.what), OP_NETLINK)
            .u32(request.protocol.unsigned_abs())
            .u32(request.last_seq)
            .u32(request.optional.into())
            .bytes(&request.bytes);
    }

    /// The socket of `listener`, kept under `key`.
    pub(super) fn socket(&mut self, key: u32, listener: &crate::net::Listener) {
        let kind = if listener.protocol == Protocol::Tcp {
            1
        } else {
            2
        };
        self.step(format!("open the socket {}", listener.address), OP_SOCKET)
            .u32(key)
            .u32(kind)
            .u32(if listener.address.is_ipv4() { 4 } else { 6 })
            .u32(listener.address.port().into())
            .u32(listener.optional.into());
    }

    pub(super) fn session(&mut self) {
        self.step("start a session", OP_SESSION);
    }

    pub(super) fn ids(&mut self, clear_groups: bool) {
        self.step("become root of the user namespace", OP_IDS)
            .u32(clear_groups.into());
    }

    pub(super) fn bound(&mut self, keep: u64) {
        self.step("drop capabilities", OP_BOUND).u64(keep);
    }

    pub(super) fn seccomp(&mut self, program: &[u8]) {
        self.step("filter system calls (seccomp)", OP_SECCOMP)
            .bytes(program);
    }

    pub(super) fn undumpable(&mut self) {
        self.step("guard process 1", OP_UNDUMPABLE);
    }

    pub(super) fn log(&mut self, slot: u32) {
        self.step("open the log", OP_LOG).u32(slot);
    }

    pub(super) fn main(&mut self, body: &[u8]) {
        self.step("start the main process", OP_MAIN).bytes(body);
    }

    pub(super) fn serve(&mut self, slot: u32) {
        self.step("serve", OP_SERVE).u32(slot);
    }

    pub(super) fn chdir(&mut self, path: &[u8]) {
        self.step("enter the work folder", OP_CHDIR).cstr(path);
    }

    pub(super) fn rlimit(&mut self, resource: u32, soft: u64) {
        self.step("set resource limits", OP_RLIMIT)
            .u32(resource)
            .u64(soft)
            .u64(u64::MAX);
    }

    pub(super) fn install(&mut self, path: &str, slot: u32, unless: &[&str]) {
        let count = u32::try_from(unless.len()).unwrap_or(0);
        let step = self.step(format!("install {path}"), OP_INSTALL);
        step.cstr(path).u32(slot).u32(count);
        for path in unless {
            step.cstr(path);
        }
    }

    pub(super) fn bind(&mut self, source: &str, target: &str, flags: u64) {
        self.step(format!("mount {target}"), OP_BIND)
            .cstr(source)
            .cstr(target)
            .u64(flags);
    }

    /// Hides `path`: behind the folder `folder` if it is one, else behind the file `file`.
    pub(super) fn mask(&mut self, path: &str, folder: &str, file: &str) {
        self.step(format!("hide {path}"), OP_MASK)
            .cstr(path)
            .cstr(folder)
            .cstr(file);
    }

    pub(super) fn read_only(&mut self, path: &str) {
        self.step(format!("make {path} read-only"), OP_READONLY)
            .cstr(path);
    }

    pub(super) fn device(&mut self, source: &str, target: &str) {
        self.step(format!("give the device {source}"), OP_DEVICE)
            .cstr(source)
            .cstr(target);
    }
}
