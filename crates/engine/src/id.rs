//! Names that are safe as one path segment, a host name and a cgroup name.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Kind, Result};

/// Longest accepted name, in bytes (a DNS label has 63, which leaves room for nothing more).
pub const MAX_ID_LEN: usize = 64;

fn check(what: &str, text: &str) -> Result<()> {
    let safe = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edges_ok = !text.starts_with('-') && !text.ends_with('-');
    if (1..=MAX_ID_LEN).contains(&text.len()) && text.bytes().all(safe) && edges_ok {
        return Ok(());
    }
    Err(Error::new(
        Kind::Invalid,
        format!(
            "{what} id {text:?}: 1 to {MAX_ID_LEN} of a-z, 0-9 and -, not at the ends, are allowed"
        ),
    ))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            #[doc = concat!("Checks `text` as ", $what, " id.")]
            ///
            /// # Errors
            /// [`Kind::Invalid`] unless it is 1 to 64 bytes of `a-z`, `0-9` and inner `-`.
            pub fn new(text: impl Into<String>) -> Result<Self> {
                let text = text.into();
                check($what, &text)?;
                Ok(Self(text))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id!(
    /// Names one instance of one engine. Chosen by the caller, so that a creation can be found again.
    InstanceId,
    "instance"
);
id!(
    /// Names one snapshot of one engine.
    SnapshotId,
    "snapshot"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_one_safe_segment() {
        for good in ["a", "vm-1", "0", &"x".repeat(64)] {
            assert!(InstanceId::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a/b",
            "..",
            "a.b",
            "a b",
            "ä",
            &"x".repeat(65),
        ] {
            assert!(InstanceId::new(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<SnapshotId>("\"../x\"").is_err());
    }
}
