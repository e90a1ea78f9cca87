//! How the schemas of the API are declared: one macro, so that all of them are read and written by the same rules.
//!
//! Reading: `null` is the same as absent; members that this version does not know are kept in `extra` and are
//! written again. A `reply!` puts defaults where a required member is missing (Go servers leave out what is
//! empty); a `request!` refuses, and names the member. Both name the member whose value has the wrong form.
//! Writing: required members always, optional ones when they have a value.

use boxrig_wire::Patch;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;

/// Members of an object that this version does not know, as they came.
pub type Extra = serde_json::Map<String, Value>;

/// What the API description says of a schema, for the test that compares the two.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// Its name in the API description.
    pub name: &'static str,
    /// The members that are always there.
    pub required: &'static [&'static str],
    /// The members that may be absent.
    pub optional: &'static [&'static str],
}

fn named(wire: &str, e: &serde_json::Error) -> serde_json::Error {
    serde_json::Error::custom(format_args!("{wire}: {e}"))
}

fn present(map: &mut Extra, wire: &str) -> Option<Value> {
    map.remove(wire).filter(|v| !v.is_null())
}

pub(crate) fn lenient<T: DeserializeOwned + Default>(
    map: &mut Extra,
    wire: &str,
) -> serde_json::Result<T> {
    present(map, wire).map_or_else(
        || Ok(T::default()),
        |v| serde_json::from_value(v).map_err(|e| named(wire, &e)),
    )
}

pub(crate) fn strict<T: DeserializeOwned>(map: &mut Extra, wire: &str) -> serde_json::Result<T> {
    match present(map, wire) {
        Some(v) => serde_json::from_value(v).map_err(|e| named(wire, &e)),
        None => Err(serde_json::Error::custom(format_args!(
            "{wire}: is required"
        ))),
    }
}

pub(crate) fn optional<T: DeserializeOwned>(
    map: &mut Extra,
    wire: &str,
) -> serde_json::Result<Option<T>> {
    present(map, wire)
        .map(|v| serde_json::from_value(v).map_err(|e| named(wire, &e)))
        .transpose()
}

pub(crate) fn patch<T: DeserializeOwned>(
    map: &mut Extra,
    wire: &str,
) -> serde_json::Result<Patch<T>> {
    match map.remove(wire) {
        None => Ok(Patch::Leave),
        Some(Value::Null) => Ok(Patch::Clear),
        Some(v) => serde_json::from_value(v)
            .map(Patch::Set)
            .map_err(|e| named(wire, &e)),
    }
}

/// Objects that servers send, or that travel both ways.
macro_rules! reply {
    ($($body:tt)*) => { $crate::model::model! { lenient; $($body)* } };
}

/// Objects that clients send.
macro_rules! request {
    ($($body:tt)*) => { $crate::model::model! { strict; $($body)* } };
}

macro_rules! model {
    ($mode:ident; $(
        $(#[$attr:meta])*
        pub struct $name:ident = $schema:literal {
            $(required { $( $(#[$rattr:meta])* $rf:ident : $rt:ty = $rw:literal ),* $(,)? })?
            $(optional { $( $(#[$oattr:meta])* $of:ident : $ot:ty = $ow:literal ),* $(,)? })?
            $(patch { $( $(#[$pattr:meta])* $pf:ident : $pt:ty = $pw:literal ),* $(,)? })?
        }
    )*) => {$(
        $(#[$attr])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $($( $(#[$rattr])* pub $rf: $rt, )*)?
            $($( $(#[$oattr])* pub $of: Option<$ot>, )*)?
            $($( $(#[$pattr])* pub $pf: ::boxrig_wire::Patch<$pt>, )*)?
            /// Members that this version does not know.
            pub extra: $crate::model::Extra,
        }

        impl $name {
            /// What the API description says of it.
            pub const SCHEMA: $crate::model::Schema = $crate::model::Schema {
                name: $schema,
                required: &[$($($rw),*)?],
                optional: &[$($($ow,)*)? $($($pw,)*)?],
            };
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, s: S) -> ::std::result::Result<S::Ok, S::Error> {
                #[allow(unused_imports)]
                use ::serde::ser::SerializeMap;
                let mut map = s.serialize_map(None)?;
                $($( map.serialize_entry($rw, &self.$rf)?; )*)?
                $($( if let Some(v) = &self.$of { map.serialize_entry($ow, v)?; } )*)?
                $($( if !self.$pf.is_leave() { map.serialize_entry($pw, &self.$pf)?; } )*)?
                for (k, v) in &self.extra {
                    map.serialize_entry(k, v)?;
                }
                map.end()
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(d: D) -> ::std::result::Result<Self, D::Error> {
                let map = <$crate::model::Extra as ::serde::Deserialize>::deserialize(d)?;
                Self::from_members(map).map_err(::serde::de::Error::custom)
            }
        }

        impl $name {
            pub(crate) fn from_members(
                #[allow(unused_mut)] mut map: $crate::model::Extra,
            ) -> ::serde_json::Result<Self> {
                Ok(Self {
                    $($( $rf: $crate::model::$mode(&mut map, $rw)?, )*)?
                    $($( $of: $crate::model::optional(&mut map, $ow)?, )*)?
                    $($( $pf: $crate::model::patch(&mut map, $pw)?, )*)?
                    extra: map,
                })
            }
        }
    )*};
}

pub(crate) use {model, reply, request};
