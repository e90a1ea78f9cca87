//! How long a server asks to wait, and whether it wants the request again.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};

/// The wait a server names: `retry-after-ms`, else `Retry-After` in seconds or as a date.
///
/// A date is measured against the answer's own `Date`, so that a wrong clock on either side does no harm;
/// `now` is used where there is none. A negative or unreadable value is none; an immense one is
/// [`Duration::MAX`].
pub(crate) fn told_wait(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| Some(headers.get::<&str>(name)?.to_str().ok()?.trim());
    if let Some(ms) = text("retry-after-ms").and_then(|t| t.parse::<f64>().ok())
        && ms >= 0.0
    {
        return Some(seconds(ms / 1000.0));
    }
    let value = text(RETRY_AFTER.as_str())?;
    if let Ok(s) = value.parse::<f64>() {
        return (s >= 0.0).then(|| seconds(s));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let from = text(DATE.as_str())
        .and_then(|t| httpdate::parse_http_date(t).ok())
        .unwrap_or(now);
    Some(until.duration_since(from).unwrap_or_default())
}

fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX)
}

/// `x-should-retry: true|false`: the platform's own word about this answer.
pub(crate) fn should_retry(headers: &HeaderMap) -> Option<bool> {
    match headers.get("x-should-retry")?.as_bytes() {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pairs: &[(&'static str, &str)]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        let now = httpdate::parse_http_date("Sat, 21 Nov 2026 10:00:00 GMT").unwrap();
        told_wait(&headers, now)
    }

    #[test]
    fn both_forms_and_the_milliseconds() {
        let s = |n| Some(Duration::from_secs(n));
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[("retry-after", "7")]), s(7));
        assert_eq!(told(&[("retry-after", " 0 ")]), s(0));
        assert_eq!(
            told(&[("retry-after", "7"), ("retry-after-ms", "250")]),
            Some(Duration::from_millis(250))
        );
        assert_eq!(
            told(&[("retry-after", "Sat, 21 Nov 2026 10:00:09 GMT")]),
            s(9)
        );
        for bad in ["", "-1", "soon", "nan"] {
            assert_eq!(told(&[("retry-after", bad)]), None, "{bad}");
        }
        assert_eq!(told(&[("retry-after", "1e300")]), Some(Duration::MAX));
        assert_eq!(told(&[("retry-after", "inf")]), Some(Duration::MAX));
    }

    /// A server whose clock is an hour off in either direction is understood all the same.
    #[test]
    fn a_date_is_measured_against_the_answers_own() {
        for (date, until) in [
            (
                "Sat, 21 Nov 2026 11:00:00 GMT",
                "Sat, 21 Nov 2026 11:00:05 GMT",
            ),
            (
                "Sat, 21 Nov 2026 09:00:00 GMT",
                "Sat, 21 Nov 2026 09:00:05 GMT",
            ),
        ] {
            assert_eq!(
                told(&[("date", date), ("retry-after", until)]),
                Some(Duration::from_secs(5))
            );
        }
        assert_eq!(
            told(&[("retry-after", "Sat, 21 Nov 2026 09:00:00 GMT")]),
            Some(Duration::ZERO),
            "a time that has passed"
        );
    }
}
