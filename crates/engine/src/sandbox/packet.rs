//! Packets with descriptors: writing requests, and sending and receiving over a `SOCK_SEQPACKET` socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use tokio::io::unix::AsyncFd;

use super::proto;

/// Room for one packet of the agent, with its largest answer.
pub(super) const BUFFER: usize = proto::MAX_PACKET + 4096;

/// Writes the fields of a message, see `agent/wire.rs`.
#[derive(Debug, Default, Clone)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A length; everything longer than 4 GiB has been refused before.
    fn len(&mut self, len: usize) {
        self.u32(u32::try_from(len).unwrap_or(u32::MAX));
    }

    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.len(value.len());
        self.bytes.extend_from_slice(value);
        self
    }

    /// A C string. A NUL inside ends it early on the other side, so callers refuse such strings first
    /// (see [`no_nul`]); here it is cut off rather than trusted.
    pub(super) fn cstr(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        let value = value.as_ref();
        let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
        self.bytes(&value[..end]);
        self.bytes.push(0);
        self
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }
}

/// Refuses text with a NUL, which no system call could carry.
pub(super) fn no_nul(what: &str, text: &[u8]) -> crate::Result<()> {
    if text.contains(&0) {
        return Err(crate::Error::new(
            crate::Kind::Invalid,
            format!("{what} contains a NUL byte"),
        ));
    }
    Ok(())
}

/// A memory file with `content` that nobody can change any more.
pub(super) fn sealed_file(name: &str, content: &[u8], executable: bool) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Linux 6.3 wants to be told whether the file may be run; older kernels do not know the flag.
    let told = if executable {
        MemfdFlags::EXEC
    } else {
        MemfdFlags::NOEXEC_SEAL
    };
    let file = match rustix::fs::memfd_create(name, flags | told) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
        other => other?,
    };
    let mut rest = content;
    while !rest.is_empty() {
        let n = rustix::io::write(&file, rest)?;
        rest = &rest[n..];
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// Hands a descriptor to the runtime, to wait for it.
pub(super) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the result, which never gives it away or closes it early.
    unsafe { AsyncFd::register(fd) }.map_err(|refused| refused.into_parts().1)
}

/// Sends one packet with descriptors.
pub(super) fn send(
    socket: impl AsFd,
    packet: &[u8],
    fds: &[BorrowedFd<'_>],
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(proto::MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(rustix::io::Errno::TOOBIG);
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(packet)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .map(drop)
}

/// A received packet: its bytes (none at the end) and its descriptors.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// Receives one packet. One that was cut off is an error.
pub(super) fn receive(socket: impl AsFd) -> rustix::io::Result<Packet> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(proto::MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; BUFFER];
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(rustix::io::Errno::MSGSIZE);
    }
    bytes.truncate(received.bytes);
    bytes.shrink_to_fit();
    Ok(Packet { bytes, fds })
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Malformed, Reader};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(number in any::<u32>(), long in any::<u64>(), bytes: Vec<u8>, text in "[^\0]{0,40}") {
            let mut writer = Writer::default();
            writer.u32(number).u64(long).bytes(&bytes).cstr(&text);
            let mut reader = Reader::new(writer.as_slice());
            prop_assert_eq!(reader.u32(), Ok(number));
            prop_assert_eq!(reader.u64(), Ok(long));
            prop_assert_eq!(reader.bytes(), Ok(&bytes[..]));
            let read = reader.cstr().map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
            prop_assert_eq!(&read[..read.len() - 1], text.as_bytes());
            prop_assert!(reader.at_end());
            // Cut anywhere, it is malformed and never reads beyond.
            for end in 0..writer.as_slice().len() {
                let mut reader = Reader::new(&writer.as_slice()[..end]);
                let all = reader.u32().and_then(|_| reader.u64()).and_then(|_| reader.bytes()).and_then(|_| reader.cstr());
                prop_assert_eq!(all, Err(Malformed));
            }
        }

        #[test]
        fn hostile_bytes_do_no_harm(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while reader.cstr().is_ok() || reader.bytes().is_ok() || reader.u64().is_ok() {}
        }
    }
}
