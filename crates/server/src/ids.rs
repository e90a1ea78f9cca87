//! Identifiers: random, or, on demand, a sequence that repeats.

use std::fmt;
use std::sync::{Arc, Mutex};

use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng, TryRng};
use uuid::Uuid;

use crate::state::lock;

/// Makes identifiers. Clones continue the same sequence.
#[derive(Clone, Default)]
pub struct Ids(Option<Arc<Mutex<StdRng>>>);

impl Ids {
    /// Identifiers that nobody can guess.
    pub fn random() -> Self {
        Self(None)
    }

    /// The same identifiers in the same order for the same seed, for tests. Never for secrets: those stay random.
    pub fn seeded(seed: u64) -> Self {
        Self(Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))))
    }

    fn fill(&self, bytes: &mut [u8]) {
        match &self.0 {
            Some(rng) => lock(rng).fill_bytes(bytes),
            None => bytes.copy_from_slice(&random(bytes.len())),
        }
    }

    /// A UUID (version 4).
    pub fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// `digits` lowercase hexadecimal digits, as in `vol_<22 digits>`.
    pub fn hex(&self, digits: usize) -> String {
        let mut bytes = vec![0; digits.div_ceil(2)];
        self.fill(&mut bytes);
        let mut text = to_hex(&bytes);
        text.truncate(digits);
        text
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Ids(seeded)"
        } else {
            "Ids(random)"
        })
    }
}

/// A secret of 256 bits in hex (a password, a key, a token), from the system's generator whatever the seed.
pub fn secret() -> String {
    to_hex(&random(32))
}

fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    if SysRng.try_fill_bytes(&mut bytes).is_err() {
        // Without the system's source there is no secret to be had; going on with a weaker one would be a lie.
        std::process::abort();
    }
    bytes
}

/// Lowercase hexadecimal text.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_its_absence_does_not() {
        let (a, b) = (Ids::seeded(7), Ids::seeded(7));
        assert_eq!(a.uuid(), b.uuid());
        assert_eq!(a.hex(22), b.hex(22));
        assert_ne!(a.uuid(), a.clone().uuid());
        assert_eq!(a.uuid().get_version_num(), 4);
        assert_ne!(Ids::seeded(7).uuid(), Ids::seeded(8).uuid());
        assert_ne!(Ids::random().uuid(), Ids::random().uuid());
        assert_eq!(Ids::random().hex(5).len(), 5);
        assert_eq!(secret().len(), 64);
    }
}
