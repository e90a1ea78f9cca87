//! The guest agent's executable.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use super::packet::sealed_file;

/// What `build.rs` compiled from `agent/`.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));

/// The executable as a sealed memory file, made once.
pub(super) fn program() -> io::Result<BorrowedFd<'static>> {
    static FILE: OnceLock<OwnedFd> = OnceLock::new();
    if FILE.get().is_none() {
        // Two threads may both come here; one file is then closed again.
        let _ = FILE.set(sealed_file("boxrig-agent", PROGRAM, true)?);
    }
    FILE.get()
        .map(AsFd::as_fd)
        .ok_or_else(|| io::Error::other("the agent's memory file is missing"))
}
