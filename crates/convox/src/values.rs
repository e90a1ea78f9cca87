//! The rack's encodings of values, and what its structures stand on.

use std::collections::BTreeMap;

use boxrig_wire::Value as Param;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Whether a member marked `opt` is left out.
pub(crate) fn is_empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A list in one field, joined by commas. The rack cannot escape one, so an element must not hold any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Csv(pub Vec<String>);

impl Param for Csv {
    fn write(&self, name: &str, out: &mut Vec<(String, String)>) {
        if !self.0.is_empty() {
            out.push((name.to_owned(), self.0.join(",")));
        }
    }
    fn read(name: &str, pairs: &[(String, String)]) -> Result<Self, String> {
        let text = Option::<String>::read(name, pairs)?.unwrap_or_default();
        Ok(Self(
            text.split(',')
                .filter(|s| !s.is_empty())
                .map(str::to_owned)
                .collect(),
        ))
    }
}

/// A map in one field, whose value is itself a URL-encoded query string: `parameters=A%3D1%26B%3D2`.
/// `parameters[A]=1`, as some clients send it, is ignored by racks without a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldMap(pub BTreeMap<String, String>);

impl Param for FieldMap {
    fn write(&self, name: &str, out: &mut Vec<(String, String)>) {
        if self.0.is_empty() {
            return;
        }
        let encode = |s: &str| utf8_percent_encode(s, NON_ALPHANUMERIC).to_string();
        let pairs: Vec<String> = self
            .0
            .iter()
            .map(|(k, v)| format!("{}={}", encode(k), encode(v)))
            .collect();
        out.push((name.to_owned(), pairs.join("&")));
    }
    fn read(name: &str, pairs: &[(String, String)]) -> Result<Self, String> {
        let text = Option::<String>::read(name, pairs)?.unwrap_or_default();
        let decode = |s: &str| {
            let s = s.replace('+', " ");
            percent_decode_str(&s)
                .decode_utf8()
                .map(|s| s.into_owned())
                .map_err(|e| e.to_string())
        };
        let mut map = BTreeMap::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            map.insert(decode(k)?, decode(v)?);
        }
        Ok(Self(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_one_field() {
        let map = FieldMap(BTreeMap::from([
            ("A".into(), "1".into()),
            ("B".into(), "x y&=é".into()),
        ]));
        let mut out = Vec::new();
        map.write("parameters", &mut out);
        assert_eq!(
            out,
            [(
                "parameters".to_owned(),
                "A=1&B=x%20y%26%3D%C3%A9".to_owned()
            )]
        );
        assert_eq!(FieldMap::read("parameters", &out).unwrap(), map);
    }
}
