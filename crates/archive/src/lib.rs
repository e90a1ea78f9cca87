//! Archives: tar written and read, gzip, zip, directories packed and unpacked, `.dockerignore`.
//!
//! What is read here comes from machines that nobody vouches for, so the reader is our own: every length is checked before
//! anything is held in memory.

pub mod channel;
pub mod gzip;
#[cfg(test)]
mod hostile;
pub mod ignore;
pub mod pack;
pub mod tar;
pub mod unpack;
pub mod zip;

use boxrig_wire::{Error, Kind, Result, Untrusted};

/// Something in a directory that was not transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its path in the directory.
    pub path: Untrusted,
    /// Why.
    pub why: &'static str,
}

/// The most things that are named one by one; the rest is only counted.
pub const NAMED: usize = 1000;

/// What was left out of an archive.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// The first [`NAMED`] of them.
    pub named: Vec<Skipped>,
    /// How many there are.
    pub count: u64,
}

impl LeftOut {
    /// Takes note of one more.
    pub fn add(&mut self, path: &[u8], why: &'static str) {
        self.count += 1;
        if self.named.len() < NAMED {
            let path = Untrusted::new(String::from_utf8_lossy(path));
            self.named.push(Skipped { path, why });
        }
    }
}

/// Thirty-two random hexadecimal digits.
fn random_hex() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| {
        Error::new(Kind::Failed, "the system gives no random numbers").with_source(e)
    })?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
