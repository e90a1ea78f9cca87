//! "Leave", "clear" and "set" are three different writes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a change does to one field.
///
/// Put it in a request struct with `#[serde(default, skip_serializing_if = "Patch::is_leave")]`:
/// the field is then absent, `null` or a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Patch<T> {
    /// The field is not sent and stays as it is.
    #[default]
    Leave,
    /// `null` is sent: the field is emptied.
    Clear,
    /// The field gets this value.
    Set(T),
}

impl<T> Patch<T> {
    /// Whether the field is left alone.
    pub fn is_leave(&self) -> bool {
        matches!(self, Self::Leave)
    }
    /// The new value, if one is set.
    pub fn as_set(&self) -> Option<&T> {
        match self {
            Self::Set(v) => Some(v),
            _ => None,
        }
    }
    /// Applies the change to `field`.
    pub fn apply(self, field: &mut Option<T>) {
        match self {
            Self::Leave => {}
            Self::Clear => *field = None,
            Self::Set(v) => *field = Some(v),
        }
    }
}

impl<T> From<T> for Patch<T> {
    fn from(value: T) -> Self {
        Self::Set(value)
    }
}

impl<T: Serialize> Serialize for Patch<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Set(v) => v.serialize(serializer),
            Self::Leave | Self::Clear => serializer.serialize_none(),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<T>::deserialize(deserializer)?.map_or(Self::Clear, Self::Set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct P {
        #[serde(default, skip_serializing_if = "Patch::is_leave")]
        a: Patch<u32>,
    }

    #[test]
    fn three_writes() {
        for (p, text) in [
            (Patch::Leave, "{}"),
            (Patch::Clear, r#"{"a":null}"#),
            (Patch::Set(1), r#"{"a":1}"#),
        ] {
            let p = P { a: p };
            assert_eq!(serde_json::to_string(&p).unwrap(), text);
            assert_eq!(serde_json::from_str::<P>(text).unwrap(), p);
        }
    }
}
