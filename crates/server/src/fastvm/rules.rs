//! What the API accepts: names, sizes, pairs, variables. Every refusal names the field.
//!
//! Source: reference/fastvm.md §4 and the limits written in the SDKs' docstrings.

use std::collections::BTreeMap;

use boxrig_wire::ApiError;

/// The longest name, in characters; longer ones are cut.
pub(super) const NAME_CHARS: usize = 64;
/// The most pairs of metadata.
const METADATA_KEYS: usize = 256;
/// The longest key of metadata or of the environment, in bytes.
const KEY_BYTES: usize = 256;
/// The longest value of metadata, in bytes.
const METADATA_VALUE_BYTES: usize = 4096;
/// The longest JSON text of metadata or of the environment, in bytes.
const MAP_BYTES: usize = 65_536;
/// The largest number in a machine type and the largest disk in GiB: far beyond any quota, far below an overflow.
const MAX_SIZE: u64 = 999_999;

/// Trims, makes every run of white space one blank, cuts to 64 characters; `fallback` when nothing is left.
/// Control characters count as white space, so that a name is always one line.
pub(super) fn name(text: Option<&str>, fallback: impl FnOnce() -> String) -> String {
    let mut out = String::new();
    let words = text
        .unwrap_or_default()
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty());
    for word in words {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    let cut: String = out.chars().take(NAME_CHARS).collect();
    let cut = cut.trim_end();
    if cut.is_empty() {
        fallback()
    } else {
        cut.to_owned()
    }
}

/// The first eight characters of an id, for default names.
pub(super) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Reads `c<processors>m<GiB>`; gives processors and MiB.
///
/// # Errors
///
/// Names `machineType`.
pub(super) fn machine_type(text: &str) -> Result<(u64, u64), ApiError> {
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        digits
            .parse()
            .ok()
            .filter(|n| plain && (1..=MAX_SIZE).contains(n))
    };
    text.strip_prefix('c')
        .and_then(|rest| rest.split_once('m'))
        .and_then(|(cpu, gib)| Some((number(cpu)?, number(gib)? * 1024)))
        .ok_or_else(|| {
            ApiError::invalid("machineType: c<processors>m<GiB> is wanted, for example c1m2")
        })
}

/// Checks `diskGiB`.
///
/// # Errors
///
/// Names `diskGiB`.
pub(super) fn disk_gib(gib: u64) -> Result<u64, ApiError> {
    if (1..=MAX_SIZE).contains(&gib) {
        return Ok(gib);
    }
    Err(ApiError::invalid(format!(
        "diskGiB: 1 to {MAX_SIZE} is allowed"
    )))
}

fn json_size(field: &str, map: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let size = serde_json::to_vec(map).map_or(usize::MAX, |text| text.len());
    if size > MAP_BYTES {
        return Err(ApiError::invalid(format!(
            "{field}: {size} bytes as JSON, {MAP_BYTES} are allowed"
        )));
    }
    Ok(())
}

/// Checks `metadata`.
///
/// # Errors
///
/// Names `metadata`, and the key.
pub(super) fn metadata(map: &BTreeMap<String, String>) -> Result<(), ApiError> {
    if map.len() > METADATA_KEYS {
        return Err(ApiError::invalid(format!(
            "metadata: {} keys, {METADATA_KEYS} are allowed",
            map.len()
        )));
    }
    for (key, value) in map {
        if !(1..=KEY_BYTES).contains(&key.len()) {
            return Err(ApiError::invalid(format!(
                "metadata: a key has 1 to {KEY_BYTES} bytes, not {}",
                key.len()
            )));
        }
        if value.len() > METADATA_VALUE_BYTES {
            return Err(ApiError::invalid(format!(
                "metadata.{key}: {} bytes, {METADATA_VALUE_BYTES} are allowed",
                value.len()
            )));
        }
    }
    json_size("metadata", map)
}

/// Checks `envVars`.
///
/// # Errors
///
/// Names `envVars`, and the variable.
pub(super) fn env_vars(map: &BTreeMap<String, String>) -> Result<(), ApiError> {
    for (key, value) in map {
        let mut bytes = key.bytes();
        let first = bytes.next();
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let good = first.is_some_and(|b| word(b) && !b.is_ascii_digit())
            && bytes.all(word)
            && key.len() <= KEY_BYTES;
        if !good {
            return Err(ApiError::invalid(format!(
                "envVars: {key:?} is no name of a variable ([A-Za-z_][A-Za-z0-9_]*, at most {KEY_BYTES} bytes)"
            )));
        }
        // The value is not repeated: it may be a secret.
        if value.contains(['\n', '\r', '\0']) {
            return Err(ApiError::invalid(format!(
                "envVars.{key}: a value has no line break and no NUL"
            )));
        }
    }
    json_size("envVars", map)
}

/// Checks an absolute path inside a machine.
///
/// # Errors
///
/// Names `path`.
pub(super) fn guest_path(path: &str) -> Result<(), ApiError> {
    if path.is_empty() {
        return Err(ApiError::invalid("path: must not be empty"));
    }
    if !path.starts_with('/') {
        return Err(ApiError::invalid("path: must be absolute"));
    }
    if path.contains('\0') || path.len() > 4096 {
        return Err(ApiError::invalid(
            "path: at most 4096 bytes without a NUL are allowed",
        ));
    }
    Ok(())
}

/// The host name of a machine: its name where that is one, else `vm-` and the start of its id.
pub(super) fn hostname(name: &str, id: &str) -> String {
    let edges = !name.starts_with(['-', '.']) && !name.ends_with(['-', '.']);
    let safe = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if edges && (1..=63).contains(&name.len()) && name.bytes().all(safe) {
        name.to_owned()
    } else {
        format!("vm-{}", short(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        let none = || "fallback".to_owned();
        assert_eq!(name(Some("  two \t\n words "), none), "two words");
        assert_eq!(name(Some("a\u{1b}[2Jb"), none), "a [2Jb");
        assert_eq!(name(Some("   "), none), "fallback");
        assert_eq!(name(None, none), "fallback");
        assert_eq!(name(Some(&"ü".repeat(80)), none), "ü".repeat(64));
        let cut_at_a_blank = format!("{} tail", "x".repeat(63));
        assert_eq!(name(Some(&cut_at_a_blank), none), "x".repeat(63));
    }

    #[test]
    fn machine_types() {
        assert_eq!(machine_type("c1m2").unwrap(), (1, 2048));
        assert_eq!(machine_type("c16m64").unwrap(), (16, 65_536));
        for bad in [
            "",
            "c",
            "c1",
            "m1",
            "c0m1",
            "c1m0",
            "c1m",
            "cm1",
            "c-1m1",
            "c+1m1",
            "c1m2 ",
            "C1M2",
            "c1.5m2",
            "c1000000m1",
            "c1m2m3",
            "enormous",
            "c١m1",
        ] {
            let e = machine_type(bad).unwrap_err();
            assert!(e.message.starts_with("machineType"), "{bad}");
        }
    }

    #[test]
    fn pairs_and_variables_have_limits() {
        let map = |k: &str, v: &str| BTreeMap::from([(k.to_owned(), v.to_owned())]);
        assert!(metadata(&map("any key!", &"v".repeat(4096))).is_ok());
        assert!(metadata(&map("k", &"v".repeat(4097))).is_err());
        assert!(metadata(&map("", "v")).is_err());
        assert!(metadata(&map(&"k".repeat(257), "v")).is_err());
        let many = |n: usize| (0..n).map(|i| (i.to_string(), String::new())).collect();
        assert!(metadata(&many(256)).is_ok());
        assert!(metadata(&many(257)).is_err());
        let large = (0..17).map(|i| (i.to_string(), "v".repeat(4096))).collect();
        assert!(metadata(&large).unwrap_err().message.contains("as JSON"));

        assert!(env_vars(&map("_A1", "any value = ok")).is_ok());
        for (k, v) in [
            ("1A", "x"),
            ("A-B", "x"),
            ("", "x"),
            ("A", "a\nb"),
            ("A", "\0"),
            ("ä", "x"),
        ] {
            let e = env_vars(&map(k, v)).unwrap_err();
            assert!(e.message.starts_with("envVars"), "{}", e.message);
        }
        let e = env_vars(&map("TOKEN", "secret\n")).unwrap_err();
        assert!(!e.message.contains("secret"));
    }

    #[test]
    fn host_names() {
        let id = "0123456789abcdef";
        assert_eq!(hostname("web-1", id), "web-1");
        for bad in ["two words", "-a", "a-", "ü", &"x".repeat(64)] {
            assert_eq!(hostname(bad, id), "vm-01234567");
        }
    }

    #[test]
    fn paths() {
        assert!(guest_path("/root/a b/ü").is_ok());
        for bad in ["", "relative", "/a\0b"] {
            assert!(guest_path(bad).unwrap_err().message.starts_with("path"));
        }
    }
}
