//! The rack's ways of writing times and durations.

use std::time::Duration;

use boxrig_wire::Timestamp;
use jiff::tz::TimeZone;

/// Milliseconds since 1970 as RFC 3339; 0 is Go's zero time, which stands for "none".
pub(super) fn stamp(ms: u64) -> Timestamp {
    if ms == 0 {
        return Timestamp::default();
    }
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| Timestamp::default(), |t| Timestamp(t.to_string()))
}

/// Nanoseconds since 1970 as RFC 3339 without a fraction, as log lines begin.
pub(super) fn log_stamp(nanos: u64) -> String {
    let seconds = i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |t| t.to_string())
}

/// `YYYYMMDD.HHMMSS.nnnnnnnnn` in UTC, in milliseconds since 1970.
pub(super) fn parse_sortable(text: &str) -> Option<u64> {
    let (date, rest) = text.split_once('.')?;
    let (time, fraction) = rest.split_once('.')?;
    let digits = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
    if !(digits(date, 8) && digits(time, 6) && digits(fraction, 9)) {
        return None;
    }
    let n = |s: &str| s.parse::<i8>().ok();
    let at = jiff::civil::date(date[..4].parse().ok()?, 1, 1)
        .with()
        .month(n(&date[4..6])?)
        .day(n(&date[6..])?)
        .build()
        .ok()?;
    let time = jiff::civil::Time::new(n(&time[..2])?, n(&time[2..4])?, n(&time[4..])?, 0).ok()?;
    let at = at.to_datetime(time).to_zoned(TimeZone::UTC).ok()?;
    let ms = u64::try_from(at.timestamp().as_millisecond()).ok()?;
    Some(ms + fraction[..3].parse::<u64>().ok()?)
}

/// A Go duration, `1h30m`, `5s`, `2m0s`, `1.5h`, `300ms`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let (unit, seconds) = [
            ("ns", 1e-9),
            ("us", 1e-6),
            ("µs", 1e-6),
            ("ms", 1e-3),
            ("s", 1.0),
            ("m", 60.0),
            ("h", 3600.0),
        ]
        .into_iter()
        .find(|(unit, _)| rest.starts_with(unit) && !(*unit == "m" && rest.starts_with("ms")))?;
        rest = &rest[unit.len()..];
        total += number * seconds;
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(stamp(0).0, "0001-01-01T00:00:00Z");
        assert_eq!(stamp(1_767_225_600_123).0, "2026-01-01T00:00:00.123Z");
        assert_eq!(log_stamp(1_767_225_600_123_000_000), "2026-01-01T00:00:00Z");
        assert_eq!(
            parse_sortable("20260101.000000.123000000"),
            Some(1_767_225_600_123)
        );
        for bad in [
            "2026-01-01T00:00:00Z",
            "20261301.000000.000000000",
            "",
            "20260101.000000.1",
        ] {
            assert_eq!(parse_sortable(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("5s", 5000),
            ("2m0s", 120_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("300ms", 300),
            ("0", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for bad in ["", "5", "s", "5x", "-5s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
