//! Fingerprints of SSH keys.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use boxrig_wire::{Error, Kind, Result};
use sha2::{Digest, Sha256};

const TYPES: &[&str] = &[
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// The fingerprint of a public key, as `ssh-keygen -l` prints it. `public_key` is `<type> <base64> [comment]`, as in a `.pub`
/// file; a line end after it does no harm.
///
/// ```
/// let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPvTRNRsIiQGpnuqfyKPPs1sCoMNu1CXwVr/mWmoDA7 me@laptop\n";
/// let fingerprint = boxrig_fastvm::ssh_fingerprint(key).unwrap();
/// assert_eq!(fingerprint, "SHA256:96MyNgpjmqgWJdlPwE/kJKtLtR2cgyYRtHDbDdZWvJ8");
/// ```
///
/// # Errors
///
/// [`Kind::Invalid`] for text that is not one line of a public key of a type that the service takes.
pub fn ssh_fingerprint(public_key: &str) -> Result<String> {
    let invalid = |why: &str| Error::new(Kind::Invalid, format!("not an SSH public key: {why}"));
    let line = public_key.trim();
    if line.contains(['\n', '\r', '\0']) {
        return Err(invalid("more than one line"));
    }
    if line.contains("PRIVATE KEY") {
        return Err(invalid("it is a private key"));
    }
    let mut words = line.split_whitespace();
    let (Some(kind), Some(blob)) = (words.next(), words.next()) else {
        return Err(invalid("it is not '<type> <base64>'"));
    };
    if !TYPES.contains(&kind) {
        return Err(invalid("the type is not one that the service takes"));
    }
    let blob = STANDARD
        .decode(blob)
        .map_err(|_| invalid("its second word is not base64"))?;
    // The blob repeats the type, with its length before it.
    let named = blob
        .split_first_chunk::<4>()
        .and_then(|(len, rest)| rest.get(..u32::from_be_bytes(*len) as usize));
    if named != Some(kind.as_bytes()) {
        return Err(invalid("its type is not that of its content"));
    }
    Ok(format!(
        "SHA256:{}",
        STANDARD_NO_PAD.encode(Sha256::digest(&blob))
    ))
}
