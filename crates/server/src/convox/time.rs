//! The rack's ways of writing times.

use boxrig_wire::Timestamp;

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
    let at = boxrig_convox::parse_time(text)?;
    u64::try_from(at.as_millisecond()).ok()
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
        assert_eq!(parse_sortable("2026-01-01T00:00:00Z"), None);
    }
}
