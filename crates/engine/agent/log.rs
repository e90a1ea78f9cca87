//! The main process's output, kept in a file that never grows beyond its size: a ring behind a header.
//!
//! The header counts the bytes written since the beginning, so readers (the server) know which part is still
//! there, also after a restart of either side.

use crate::proto::{LOG_HEADER, LOG_MAGIC};
use crate::sys::{self, EPROTO, Fd, Result};

/// An open log.
pub(crate) struct Log {
    file: Fd,
    ring: u64,
    written: u64,
}

impl Log {
    /// Reads the header that the server has written.
    pub(crate) fn open(file: Fd) -> Result<Self> {
        let mut header = [0u8; 24];
        if sys::pread(file.0, &mut header, 0)? != header.len() {
            return Err(EPROTO);
        }
        let field = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        if field(0) != LOG_MAGIC || field(8) == 0 {
            return Err(EPROTO);
        }
        Ok(Self {
            file,
            ring: field(8),
            written: field(16),
        })
    }

    /// Adds `data`; what the disk does not take is lost, but counted, so that offsets stay true.
    pub(crate) fn append(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let at = self.written % self.ring;
            let n = data.len().min((self.ring - at) as usize);
            let _ = sys::pwrite(self.file.0, &data[..n], LOG_HEADER + at);
            self.written += n as u64;
            data = &data[n..];
        }
        let _ = sys::pwrite(self.file.0, &self.written.to_le_bytes(), 16);
    }
}
