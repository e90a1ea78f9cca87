//! What the generated models and operations stand on.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use boxrig_wire::UpgradeToken;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Configuration keys with their values; all values are text.
pub type ConfigMap = BTreeMap<String, String>;

/// Devices by name, each a map of keys with their values.
pub type DevicesMap = BTreeMap<String, BTreeMap<String, String>>;

/// The state of an operation or instance by number. The texts beside it vary in spelling.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StatusCode(pub u16);

impl StatusCode {
    /// The instance is stopped.
    pub const STOPPED: Self = Self(102);
    /// The instance or operation runs.
    pub const RUNNING: Self = Self(103);
    /// The operation is being cancelled.
    pub const CANCELLING: Self = Self(104);
    /// The operation has not begun.
    pub const PENDING: Self = Self(105);
    /// The instance is frozen.
    pub const FROZEN: Self = Self(110);
    /// The instance is in error.
    pub const ERROR: Self = Self(112);
    /// The instance reports that it is ready.
    pub const READY: Self = Self(113);
    /// The operation succeeded.
    pub const SUCCESS: Self = Self(200);
    /// The operation failed.
    pub const FAILURE: Self = Self(400);
    /// The operation was cancelled.
    pub const CANCELLED: Self = Self(401);

    /// Whether an operation in this state has ended; it stays so, even if an older event comes later.
    pub fn is_final(self) -> bool {
        self.0 >= 200
    }
}

/// Reads a map in which the map itself or any value may be `null`.
pub(crate) fn nullable_values<'de, D, T>(
    deserializer: D,
) -> std::result::Result<BTreeMap<String, T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    let map = Option::<BTreeMap<String, Option<T>>>::deserialize(deserializer)?;
    let values = map.unwrap_or_default().into_iter();
    Ok(values.map(|(k, v)| (k, v.unwrap_or_default())).collect())
}

/// Whether a member of a request says nothing.
pub(crate) fn unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A PATCH of a `T`: only the members that are in it change. Made from a map or by setting members.
///
/// ```
/// # use boxrig_incus::{Merge, models::ProfilePut};
/// let patch = Merge::<ProfilePut>::new().set("description", "the usual");
/// assert_eq!(serde_json::to_string(&patch).unwrap(), r#"{"description":"the usual"}"#);
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Merge<T>(Map<String, Value>, #[serde(skip)] PhantomData<fn() -> T>);

impl<T> Merge<T> {
    /// A PATCH that changes nothing yet.
    pub fn new() -> Self {
        Self(Map::new(), PhantomData)
    }
    /// Sets a member, by its name on the wire.
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }
    /// The members.
    pub fn members(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl<T> Default for Merge<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> From<Map<String, Value>> for Merge<T> {
    fn from(members: Map<String, Value>) -> Self {
        Self(members, PhantomData)
    }
}

impl<T> fmt::Debug for Merge<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

impl<T> PartialEq for Merge<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

/// The `Upgrade` token of SFTP sessions.
#[derive(Clone, Copy, Debug)]
pub struct Sftp;
impl UpgradeToken for Sftp {
    const TOKEN: &'static str = "sftp";
}

/// The `Upgrade` token of block device exports.
#[derive(Clone, Copy, Debug)]
pub struct Nbd;
impl UpgradeToken for Nbd {
    const TOKEN: &'static str = "nbd";
}

/// The `Upgrade` token of forwarded ports.
#[derive(Clone, Copy, Debug)]
pub struct TcpForward;
impl UpgradeToken for TcpForward {
    const TOKEN: &'static str = "tcp";
}

#[cfg(test)]
mod tests {
    use crate::models::Instance;

    #[test]
    fn null_missing_and_unknown_members() {
        let text =
            r#"{"name":"c1","config":null,"profiles":null,"status_code":103,"new_member":{"a":1}}"#;
        let instance: Instance = serde_json::from_str(text).unwrap();
        assert_eq!(instance.name, "c1");
        assert!(instance.config.is_empty() && instance.profiles.is_empty());
        assert_eq!(instance.extra["new_member"]["a"], 1);
        let again = serde_json::to_value(&instance).unwrap();
        assert_eq!(again["new_member"]["a"], 1);
    }
}
