//! Named text values: a query, a form or a set of headers are the same thing in three places.

use std::fmt;

use crate::Secret;

/// What is wrong with a named value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamError {
    /// The name on the wire.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

impl std::error::Error for ParamError {}

/// A set of named text values that an operation takes. Usually made with [`params!`](crate::params).
pub trait Params: Sized + Send {
    /// Whether names are compared without regard to case (headers) is the reader's affair; the
    /// names here are as they are written.
    fn to_pairs(&self) -> Vec<(String, String)>;
    /// Reads the values; names that are not known are passed over.
    ///
    /// # Errors
    ///
    /// Names the value that cannot be read.
    fn from_pairs(pairs: &[(String, String)]) -> Result<Self, ParamError>;
    /// The names on the wire, in order; one that ends in `.` stands for all that begin with it.
    fn names() -> &'static [&'static str] {
        &[]
    }
}

/// No values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoParams;

impl Params for NoParams {
    fn to_pairs(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    fn from_pairs(_: &[(String, String)]) -> Result<Self, ParamError> {
        Ok(Self)
    }
}

/// A type that can be one named value, several, or none.
pub trait Value: Sized {
    /// Appends the pairs of this value.
    fn write(&self, name: &str, out: &mut Vec<(String, String)>);
    /// Reads the value from all pairs of the request.
    ///
    /// # Errors
    ///
    /// In words, without the name.
    fn read(name: &str, pairs: &[(String, String)]) -> Result<Self, String>;
}

fn find<'a>(name: &str, pairs: &'a [(String, String)]) -> Option<&'a str> {
    pairs
        .iter()
        .find(|(k, _)| k.eq_ignore_ascii_case(name))
        .map(|(_, v)| v.as_str())
}

macro_rules! text_values {
    ($($t:ty),*) => {$(
        impl Value for Option<$t> {
            fn write(&self, name: &str, out: &mut Vec<(String, String)>) {
                if let Some(v) = self {
                    out.push((name.to_owned(), v.to_string()));
                }
            }
            fn read(name: &str, pairs: &[(String, String)]) -> Result<Self, String> {
                match find(name, pairs) {
                    None => Ok(None),
                    Some(v) => v.parse().map(Some).map_err(|_| {
                        format!("{v:?} is not {}", stringify!($t))
                    }),
                }
            }
        }
    )*};
}
text_values!(String, u16, u32, u64, i32, i64, f64);

impl Value for Option<bool> {
    fn write(&self, name: &str, out: &mut Vec<(String, String)>) {
        if let Some(v) = self {
            out.push((name.to_owned(), v.to_string()));
        }
    }
    fn read(name: &str, pairs: &[(String, String)]) -> Result<Self, String> {
        match find(name, pairs) {
            None => Ok(None),
            Some("true" | "1" | "yes" | "on") => Ok(Some(true)),
            Some("false" | "0" | "no" | "off" | "") => Ok(Some(false)),
            Some(v) => Err(format!("{v:?} is not true or false")),
        }
    }
}

impl Value for String {
    fn write(&self, name: &str, out: &mut Vec<(String, String)>) {
        out.push((name.to_owned(), self.clone()));
    }
    fn read(name: &str, pairs: &[(String, String)]) -> Result<Self, String> {
        find(name, pairs)
            .map(str::to_owned)
            .ok_or_else(|| "is required".to_owned())
    }
}

/// A secret is plain text where it travels, and shown nowhere else.
impl Value for Secret {
    fn write(&self, name: &str, out: &mut Vec<(String, String)>) {
        out.push((name.to_owned(), self.expose().to_owned()));
    }
    fn read(name: &str, pairs: &[(String, String)]) -> Result<Self, String> {
        String::read(name, pairs).map(Self::new)
    }
}

impl Value for Option<Secret> {
    fn write(&self, name: &str, out: &mut Vec<(String, String)>) {
        if let Some(secret) = self {
            secret.write(name, out);
        }
    }
    fn read(name: &str, pairs: &[(String, String)]) -> Result<Self, String> {
        Ok(find(name, pairs).map(Secret::from))
    }
}

/// Every pair of the same name, in order.
impl Value for Vec<String> {
    fn write(&self, name: &str, out: &mut Vec<(String, String)>) {
        out.extend(self.iter().map(|v| (name.to_owned(), v.clone())));
    }
    fn read(name: &str, pairs: &[(String, String)]) -> Result<Self, String> {
        Ok(pairs
            .iter()
            .filter(|(k, _)| k.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.clone())
            .collect())
    }
}

/// Pairs that share a prefix, as FastVM's `metadata.<key>=<value>`; the wire name is the prefix.
impl Value for std::collections::BTreeMap<String, String> {
    fn write(&self, name: &str, out: &mut Vec<(String, String)>) {
        out.extend(self.iter().map(|(k, v)| (format!("{name}{k}"), v.clone())));
    }
    fn read(name: &str, pairs: &[(String, String)]) -> Result<Self, String> {
        Ok(pairs
            .iter()
            .filter_map(|(k, v)| Some((k.strip_prefix(name)?.to_owned(), v.clone())))
            .collect())
    }
}

/// Declares a struct of named values. Each field names its wire name.
///
/// ```
/// boxrig_wire::params! {
///     /// Which machines to list.
///     pub struct ListQuery {
///         /// Only this status.
///         pub status: Option<String> = "status",
///         /// Only machines with all of these metadata.
///         pub metadata: std::collections::BTreeMap<String, String> = "metadata.",
///     }
/// }
/// use boxrig_wire::Params;
/// let q = ListQuery { status: Some("running".into()), ..Default::default() };
/// assert_eq!(q.to_pairs(), [("status".to_string(), "running".to_string())]);
/// assert_eq!(ListQuery::from_pairs(&q.to_pairs()).unwrap(), q);
/// ```
#[macro_export]
macro_rules! params {
    (
        $(#[$attr:meta])*
        pub struct $name:ident {
            $( $(#[$fattr:meta])* pub $field:ident : $ty:ty = $wire:literal ),* $(,)?
        }
    ) => {
        $(#[$attr])*
        #[derive(Clone, Debug, Default, PartialEq)]
        #[allow(unreachable_pub)]
        pub struct $name {
            $( $(#[$fattr])* pub $field: $ty, )*
        }

        impl $crate::Params for $name {
            fn to_pairs(&self) -> Vec<(String, String)> {
                let mut out = Vec::new();
                $( $crate::Value::write(&self.$field, $wire, &mut out); )*
                out
            }
            fn from_pairs(pairs: &[(String, String)]) -> Result<Self, $crate::ParamError> {
                Ok(Self {
                    $( $field: $crate::Value::read($wire, pairs).map_err(|reason| {
                        $crate::ParamError { name: $wire.to_owned(), reason }
                    })?, )*
                })
            }
            fn names() -> &'static [&'static str] {
                &[$($wire),*]
            }
        }
    };
}

/// `application/x-www-form-urlencoded` text of the pairs; blanks as `+`-free `%20`.
pub(crate) fn encode_pairs(pairs: &[(String, String)]) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const SET: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.extend(utf8_percent_encode(name, SET));
        out.push('=');
        out.extend(utf8_percent_encode(value, SET));
    }
    out
}

/// Reads `application/x-www-form-urlencoded` text; `None` when it is not UTF-8.
pub(crate) fn decode_pairs(text: &str) -> Option<Vec<(String, String)>> {
    let decode = |s: &str| {
        let s = s.replace('+', " ");
        percent_encoding::percent_decode_str(&s)
            .decode_utf8()
            .ok()
            .map(|s| s.into_owned())
    };
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    crate::params! {
        /// A sample.
        pub struct Sample {
            /// A number.
            pub limit: Option<u32> = "limit",
            /// A switch.
            pub force: Option<bool> = "force",
            /// Several.
            pub tag: Vec<String> = "tag",
        }
    }

    #[test]
    fn a_bad_value_is_named() {
        let pairs = [("limit".to_owned(), "x".to_owned())];
        let e = Sample::from_pairs(&pairs).unwrap_err();
        assert_eq!(e.to_string(), "limit: \"x\" is not u32");
    }

    proptest! {
        #[test]
        fn pairs_survive(pairs in proptest::collection::vec((".{1,5}", ".{0,8}"), 0..5)) {
            let text = encode_pairs(&pairs);
            prop_assert!(text.is_ascii());
            prop_assert_eq!(decode_pairs(&text), Some(pairs));
        }

        #[test]
        fn sample_survives(limit in any::<Option<u32>>(), force in any::<Option<bool>>(),
                           tag in proptest::collection::vec(".*", 0..3)) {
            let s = Sample { limit, force, tag };
            prop_assert_eq!(Sample::from_pairs(&s.to_pairs()).unwrap(), s);
        }
    }
}
