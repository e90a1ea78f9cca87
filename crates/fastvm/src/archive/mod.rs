//! Archives: tar written and read, gzip, directories packed and unpacked.
//!
//! What is read here comes from machines that nobody vouches for, so the reader is our own: every length is checked before
//! anything is held in memory.

pub(crate) mod channel;
pub(crate) mod gzip;
#[cfg(test)]
mod hostile;
pub(crate) mod ignore;
pub(crate) mod pack;
pub(crate) mod tar;
pub(crate) mod unpack;
pub(crate) mod zip;

use boxrig_wire::Untrusted;

/// Something in a directory that was not transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its path in the directory.
    pub path: Untrusted,
    /// Why.
    pub why: &'static str,
}

/// The most things that are named one by one; the rest is only counted.
pub(crate) const NAMED: usize = 1000;

/// What was left out of an archive.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    pub(crate) named: Vec<Skipped>,
    pub(crate) count: u64,
}

impl LeftOut {
    pub(crate) fn add(&mut self, path: &[u8], why: &'static str) {
        self.count += 1;
        if self.named.len() < NAMED {
            let path = Untrusted::new(String::from_utf8_lossy(path));
            self.named.push(Skipped { path, why });
        }
    }
}
