//! Times, sizes and pairs as they are typed.

use std::time::Duration;

/// `30s`, `5m`, `1h`, `250ms`, or seconds.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "not a time like 30s, 5m, 1h or 250ms".to_owned();
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * factor).map_err(|_| wrong())
}

/// `512MiB`, `2GiB`, `512M` and `2G` (which mean the same), or bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || "not a size like 512MiB or 2GiB".to_owned();
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" | "kb" => 10,
        "m" | "mib" | "mb" => 20,
        "g" | "gib" | "gb" => 30,
        "t" | "tib" | "tb" => 40,
        _ => return Err(wrong()),
    };
    let bytes = number * (1u64 << shift) as f64;
    if !(1.0..=(1u64 << 53) as f64).contains(&bytes) {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

/// `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("not NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(time("30"), Ok(Duration::from_secs(30)));
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("2g"), Ok(2 << 30));
        assert_eq!(size("1.5KiB"), Ok(1536));
        for bad in ["", "x", "-1s", "1w", "s", "1e400d"] {
            assert!(time(bad).is_err(), "{bad}");
        }
        for bad in ["", "-1", "1X", "0", "99999999999TiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(pair("=x").is_err());
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
    }
}
