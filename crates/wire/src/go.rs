//! What servers written in Go have in common on the wire (Incus and Convox are).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// Reads `null` as the type's empty value: Go writes an empty list or map that was never made as `null`. For
/// `#[serde(deserialize_with = "nullable")]`.
///
/// # Errors
///
/// When the value is neither `null` nor of the type.
pub fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A moment in RFC 3339, kept as it came; Go's zero time, in the year 1, stands for "never".
///
/// ```
/// use boxrig_wire::Timestamp;
/// assert!(Timestamp::default().is_never());
/// assert!(!Timestamp("2026-11-21T09:10:00.123Z".into()).is_never());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub String);

impl Timestamp {
    /// Whether it stands for "never" or "not yet".
    pub fn is_never(&self) -> bool {
        self.0.is_empty() || self.0.starts_with("0001-01-01T00:00:00")
    }
}

impl Default for Timestamp {
    fn default() -> Self {
        Self("0001-01-01T00:00:00Z".to_owned())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::escape_line(&self.0))
    }
}
