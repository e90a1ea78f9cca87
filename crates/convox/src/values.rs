//! The rack's encodings of values, and what its structures stand on.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use boxrig_wire::{Error, Kind, ParamError, Params, Result, Value as Param};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Whether a member marked `opt` is left out.
pub(crate) fn is_empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A list in one field, joined by commas. The rack cannot escape one, so an element must not hold any:
/// [`Csv::new`] refuses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Csv(pub Vec<String>);

impl Csv {
    /// A list whose elements can be sent.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for an element with a comma.
    pub fn new<S: Into<String>>(elements: impl IntoIterator<Item = S>) -> Result<Self> {
        let list = Self(elements.into_iter().map(Into::into).collect());
        list.check()?;
        Ok(list)
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.0.iter().find(|e| e.contains(',')) {
            None => Ok(()),
            Some(_) => Err(Error::new(
                Kind::Invalid,
                "a rack cannot be sent a comma within an element of a list",
            )),
        }
    }
}

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
/// `parameters[A]=1`, as some clients send it, is ignored by racks without a word. Values may be secret: only the
/// names are shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FieldMap(pub BTreeMap<String, String>);

impl fmt::Debug for FieldMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for FieldMap {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
        )
    }
}

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

/// Fields whose names are the caller's, as generation 1 takes parameters. Only the names are shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pairs(pub Vec<(String, String)>);

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(k, _)| k))
            .finish()
    }
}

impl Params for Pairs {
    fn to_pairs(&self) -> Vec<(String, String)> {
        self.0.clone()
    }
    fn from_pairs(pairs: &[(String, String)]) -> Result<Self, ParamError> {
        Ok(Self(pairs.to_vec()))
    }
}

/// The form of times in requests; RFC 3339 is answered by a 500.
const SORTABLE: &str = "%Y%m%d.%H%M%S.";

/// A moment as racks read it, `YYYYMMDD.HHMMSS.nnnnnnnnn` in UTC.
///
/// ```
/// let new_year: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
/// assert_eq!(boxrig_convox::format_time(new_year), "20260101.000000.000000000");
/// assert_eq!(boxrig_convox::parse_time("20260101.000000.000000000"), Some(new_year));
/// ```
pub fn format_time(at: Timestamp) -> String {
    let utc = at.to_zoned(TimeZone::UTC);
    format!("{}{:09}", utc.strftime(SORTABLE), utc.subsec_nanosecond())
}

/// Reads a moment in the rack's form; nothing for any other text.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_once('.')?;
    let (time, nanos) = rest.split_once('.')?;
    let digits = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(date, 8) || !digits(time, 6) || !digits(nanos, 9) {
        return None;
    }
    let at = DateTime::strptime("%Y%m%d%H%M%S", format!("{date}{time}")).ok()?;
    let at = at
        .with()
        .subsec_nanosecond(nanos.parse().ok()?)
        .build()
        .ok()?;
    Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// A span as racks read it: `1h30m0s`, `5s`, `1.5s`.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(boxrig_convox::format_duration(Duration::from_secs(5400)), "1h30m0s");
/// ```
pub fn format_duration(span: Duration) -> String {
    let (hours, minutes) = (span.as_secs() / 3600, span.as_secs() / 60 % 60);
    let mut out = String::new();
    if hours > 0 {
        out.push_str(&format!("{hours}h"));
    }
    if hours > 0 || minutes > 0 {
        out.push_str(&format!("{minutes}m"));
    }
    let seconds = span.as_secs() % 60;
    match span.subsec_nanos() {
        0 => out.push_str(&format!("{seconds}s")),
        nanos => {
            let fraction = format!("{nanos:09}");
            out.push_str(&format!("{seconds}.{}s", fraction.trim_end_matches('0')));
        }
    }
    out
}

/// Reads a span as the rack does (`300ms`, `1h30m`, `1.5s`, `0`); nothing for any other text, and for one that is
/// negative.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total: u128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let nanos: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: u128 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        total = total.checked_add(whole.checked_mul(nanos)?)?;
        let mut scale = nanos;
        for digit in fraction.bytes() {
            scale /= 10;
            total += u128::from(digit - b'0') * scale;
        }
        rest = tail;
    }
    let seconds = u64::try_from(total / 1_000_000_000).ok()?;
    Some(Duration::new(seconds, (total % 1_000_000_000) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        assert!(!format!("{map:?}").contains("x y"));
    }

    #[test]
    fn a_comma_is_refused_in_words() {
        let e = Csv::new(["a=1,b"]).unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid);
        assert!(e.to_string().contains("comma"));
        assert_eq!(Csv::new(["a", "b"]).unwrap().0, ["a", "b"]);
    }

    #[test]
    fn spans_as_go_reads_them() {
        for (text, millis) in [
            ("0", Some(0)),
            ("5s", Some(5_000)),
            ("1h30m", Some(5_400_000)),
            ("2m0s", Some(120_000)),
            ("1.5s", Some(1_500)),
            (".5s", Some(500)),
            ("300ms", Some(300)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("1d", None),
            ("1.2.3s", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(
                parse_duration(text),
                millis.map(Duration::from_millis),
                "{text}"
            );
        }
    }

    #[test]
    fn other_forms_of_a_time_are_none() {
        for bad in [
            "2026-01-01T00:00:00Z",
            "20260101.000000",
            "20260101.000000.0",
            "20261301.000000.000000000",
            "2026010a.000000.000000000",
        ] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn times_survive(seconds in -2_000_000_000i64..4_000_000_000, nanos in 0i32..1_000_000_000) {
            let at = Timestamp::new(seconds, nanos).unwrap_or_default();
            prop_assert_eq!(parse_time(&format_time(at)), Some(at));
        }

        #[test]
        fn spans_survive(seconds in 0u64..10_000_000, nanos in 0u32..1_000_000_000) {
            let span = Duration::new(seconds, nanos);
            prop_assert_eq!(parse_duration(&format_duration(span)), Some(span));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            parse_time(&text);
            parse_duration(&text);
        }
    }
}
