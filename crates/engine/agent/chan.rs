//! Packets with descriptors over a `SOCK_SEQPACKET` socket, and writing replies.

use core::mem::size_of;

use crate::proto::MAX_FDS;
use crate::sys::{self, Errno, Fd, Result};

#[repr(C)]
struct IoVec {
    base: *mut u8,
    len: usize,
}

#[repr(C)]
struct MsgHdr {
    name: usize,
    name_len: usize,
    iov: *mut IoVec,
    iov_len: usize,
    control: *mut u8,
    control_len: usize,
    flags: usize,
}

const SOL_SOCKET: u32 = 1;
const SCM_RIGHTS: u32 = 1;
/// `struct cmsghdr`: length usize, level u32, type u32.
const CMSG_HEADER: usize = size_of::<usize>() + 8;
const CONTROL: usize = CMSG_HEADER + MAX_FDS * 4;

#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Sends one packet with descriptors (which stay open here).
pub(crate) fn send(socket: i32, packet: &[u8], fds: &[i32]) -> Result<()> {
    const MSG_NOSIGNAL: u32 = 0x4000;
    if fds.len() > MAX_FDS {
        return Err(sys::EINVAL);
    }
    let mut control = Control([0; CONTROL]);
    let mut used = 0;
    if !fds.is_empty() {
        used = CMSG_HEADER + fds.len() * 4;
        control.0[..size_of::<usize>()].copy_from_slice(&used.to_le_bytes());
        control.0[size_of::<usize>()..][..4].copy_from_slice(&SOL_SOCKET.to_le_bytes());
        control.0[size_of::<usize>() + 4..][..4].copy_from_slice(&SCM_RIGHTS.to_le_bytes());
        for (slot, fd) in control.0[CMSG_HEADER..].chunks_exact_mut(4).zip(fds) {
            slot.copy_from_slice(&fd.to_le_bytes());
        }
    }
    let mut iov = IoVec {
        base: packet.as_ptr().cast_mut(),
        len: packet.len(),
    };
    let message = MsgHdr {
        name: 0,
        name_len: 0,
        iov: &raw mut iov,
        iov_len: 1,
        control: if used == 0 {
            core::ptr::null_mut()
        } else {
            control.0.as_mut_ptr()
        },
        // Space is counted with padding to the word.
        control_len: used,
        flags: 0,
    };
    // SAFETY: a complete msghdr whose parts outlive the call.
    unsafe { sys::sendmsg(socket, (&raw const message).cast(), MSG_NOSIGNAL) }.map(drop)
}

/// The descriptors that came with a packet.
#[derive(Debug, Default)]
pub(crate) struct Fds {
    fds: [Option<Fd>; MAX_FDS],
    len: usize,
}

impl Fds {
    /// Takes the descriptor at `index` out.
    pub(crate) fn take(&mut self, index: usize) -> Result<Fd> {
        self.fds
            .get_mut(index)
            .and_then(Option::take)
            .ok_or(sys::EPROTO)
    }

    /// How many came.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Receives one packet into `buf`: its length (0 is the end) and its descriptors.
pub(crate) fn recv(socket: i32, buf: &mut [u8]) -> Result<(usize, Fds)> {
    const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;
    const MSG_CTRUNC: usize = 8;
    const MSG_TRUNC: usize = 0x20;
    let mut control = Control([0; CONTROL]);
    let mut iov = IoVec {
        base: buf.as_mut_ptr(),
        len: buf.len(),
    };
    let mut message = MsgHdr {
        name: 0,
        name_len: 0,
        iov: &raw mut iov,
        iov_len: 1,
        control: control.0.as_mut_ptr(),
        control_len: CONTROL,
        flags: 0,
    };
    // SAFETY: a complete msghdr whose parts outlive the call.
    let n = unsafe { sys::recvmsg(socket, (&raw mut message).cast(), MSG_CMSG_CLOEXEC) }?;
    let mut fds = Fds::default();
    let word = |at: usize| {
        u32::from_le_bytes([
            control.0[at],
            control.0[at + 1],
            control.0[at + 2],
            control.0[at + 3],
        ])
    };
    if message.control_len >= CMSG_HEADER {
        let used = (word(0) as usize).min(message.control_len);
        let (level, kind) = (word(size_of::<usize>()), word(size_of::<usize>() + 4));
        if level == SOL_SOCKET && kind == SCM_RIGHTS {
            let mut at = CMSG_HEADER;
            while at + 4 <= used && fds.len < MAX_FDS {
                fds.fds[fds.len] = Some(Fd(word(at) as i32));
                fds.len += 1;
                at += 4;
            }
        }
    }
    if message.flags & (MSG_TRUNC | MSG_CTRUNC) != 0 {
        return Err(sys::EMSGSIZE);
    }
    Ok((n, fds))
}

/// A packet being written into a fixed buffer. What does not fit marks it as overflown.
pub(crate) struct Packet<const N: usize> {
    buf: [u8; N],
    len: usize,
    overflow: bool,
}

impl<const N: usize> Packet<N> {
    /// Begins with the message's kind.
    pub(crate) fn new(kind: u32) -> Self {
        let mut packet = Self {
            buf: [0; N],
            len: 0,
            overflow: false,
        };
        packet.u32(kind);
        packet
    }

    fn raw(&mut self, bytes: &[u8]) {
        match self.buf.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.overflow = true,
        }
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes());
        self
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u32(value.len() as u32);
        self.raw(value);
        self
    }

    /// Room left.
    pub(crate) fn room(&self) -> usize {
        N - self.len
    }

    /// Sends it.
    pub(crate) fn send(&self, socket: i32, fds: &[i32]) -> Result<()> {
        if self.overflow {
            return Err(sys::EMSGSIZE);
        }
        send(socket, &self.buf[..self.len], fds)
    }
}

/// Sends an error reply; a peer that has gone does not matter.
pub(crate) fn reply_error(socket: i32, errno: Errno, place: u32) {
    let _ = Packet::<16>::new(crate::proto::REPLY_ERROR)
        .u32(errno.0)
        .u32(place)
        .send(socket, &[]);
}

/// Sends "done".
pub(crate) fn reply_ok(socket: i32, fds: &[i32]) -> Result<()> {
    Packet::<8>::new(crate::proto::REPLY_OK).send(socket, fds)
}
