//! Keys of WireGuard tunnels: a private key of 32 random bytes, and the public key that belongs to it.

use x25519_dalek::{PublicKey, StaticSecret};

/// A new private key, clamped as WireGuard's own tools do.
pub(super) fn new_private() -> [u8; 32] {
    let mut bytes: [u8; 32] = rand::random();
    bytes[0] &= 248;
    bytes[31] = (bytes[31] & 127) | 64;
    bytes
}

/// The public key of a private one.
pub(super) fn public(private: &[u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*private)).to_bytes()
}

#[cfg(test)]
mod tests {
    /// Made by `openssl pkey` from the private key of the bytes 1 to 32.
    const PUBLIC: &str = "07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c";

    #[test]
    fn a_public_key_is_that_of_openssl() {
        let mut private = [0; 32];
        private.iter_mut().zip(1..).for_each(|(byte, n)| *byte = n);
        assert_eq!(crate::ids::to_hex(&super::public(&private)), PUBLIC);
        assert_ne!(super::new_private(), super::new_private());
    }
}
