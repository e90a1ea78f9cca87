//! Incus' words for what every platform can say of an instance.

use std::collections::BTreeMap;
use std::time::SystemTime;

use boxrig_incus::models::InstanceFull;
use boxrig_incus::{DevicesMap, StatusCode, ops};
use boxrig_wire::{Error, Kind, NoBody, Result, Timestamp, Untrusted};

use super::{Incus, LABELS};
use crate::{Instance, LaunchSpec, ListOptions, Platform, State};

impl Incus {
    /// An instance of the server as one of ours.
    pub(super) fn instance(&self, full: InstanceFull) -> Instance {
        let raw = serde_json::to_value(&full).unwrap_or_default();
        let mut i = Instance::new(Platform::Incus, &*self.context, &*full.name);
        i.name = Untrusted::new(&*full.name);
        i.state = state(full.status_code);
        i.native_state = Untrusted::new(&*full.status);
        i.engine = Some(Untrusted::new(&*full.r#type));
        i.created = time(&full.created_at);
        let config = |key: &str| {
            let own = full.config.get(key);
            own.or_else(|| full.expanded_config.get(key))
                .map(String::as_str)
        };
        i.cpus = config("limits.cpu").and_then(cpus);
        i.memory = config("limits.memory").and_then(bytes);
        i.disk = root(&full.expanded_devices)
            .and_then(|(_, device)| device.get("size"))
            .and_then(|size| bytes(size));
        i.ips = full
            .state
            .network
            .iter()
            .filter(|(name, _)| *name != "lo")
            .flat_map(|(_, network)| &network.addresses)
            .filter(|address| address.scope == "global")
            .map(|address| Untrusted::new(&*address.address))
            .collect();
        i.labels = full
            .config
            .iter()
            .filter_map(|(k, v)| Some((k.strip_prefix(LABELS)?.to_owned(), v.clone())))
            .collect();
        i.raw = raw;
        i
    }

    /// The root disk of an instance with this size: the server takes a device whole or not at all, so it is the one of
    /// the default profile with one member changed.
    pub(super) async fn root_of_size(&self, bytes: u64) -> Result<DevicesMap> {
        let profile = self
            .call::<ops::profiles::ProfileGet>(("default".to_owned(),), Default::default(), NoBody)
            .await?;
        let (name, device) = root(&profile.metadata.devices).ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                "the default profile has no root disk whose size could be set",
            )
        })?;
        let mut device = device.clone();
        device.insert("size".to_owned(), format!("{bytes}B"));
        Ok([(name.to_owned(), device)].into())
    }
}

/// The device that is mounted on `/`.
fn root(devices: &DevicesMap) -> Option<(&str, &BTreeMap<String, String>)> {
    let value = |device: &BTreeMap<String, String>, key: &str, wanted: &str| {
        device.get(key).is_some_and(|v| v == wanted)
    };
    devices
        .iter()
        .find(|(_, d)| value(d, "type", "disk") && value(d, "path", "/"))
        .map(|(name, device)| (name.as_str(), device))
}

/// A time of the server, in RFC 3339.
pub(super) fn time(text: &Timestamp) -> Option<SystemTime> {
    if text.is_never() {
        return None;
    }
    let time: jiff::Timestamp = text.0.parse().ok()?;
    Some(time.into())
}

/// The state by its number; the words beside it vary.
pub(super) fn state(code: StatusCode) -> State {
    match code.0 {
        102 => State::Stopped,
        103 | 113 | 111 => State::Running,
        // Pending, starting.
        100 | 101 | 105 | 106 => State::Starting,
        109 | 110 => State::Paused,
        112 => State::Failed,
        107 => State::from("stopping"),
        code => State::from(format!("incus-{code}").as_str()),
    }
}

/// `2` processors, or those of a list such as `0-3,8`.
fn cpus(text: &str) -> Option<f64> {
    if let Ok(count) = text.trim().parse::<u32>() {
        return Some(f64::from(count));
    }
    let mut count = 0u32;
    for part in text.split(',') {
        let (from, to) = part
            .trim()
            .split_once('-')
            .unwrap_or((part.trim(), part.trim()));
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        count = count.checked_add(to.checked_sub(from)?.checked_add(1)?)?;
    }
    Some(f64::from(count))
}

/// A size as Incus writes it: `512MiB`, `2GB`, `1024`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let unit: u64 = match text[end..].trim() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// Processors and memory as configuration.
pub(super) fn limits(spec: &LaunchSpec, config: &mut BTreeMap<String, String>) -> Result<()> {
    match spec.cpus {
        None => {}
        Some(n) if n >= 1.0 && n.fract() == 0.0 && n <= 4096.0 => {
            config.insert("limits.cpu".to_owned(), format!("{n}"));
        }
        Some(n) if n > 0.0 && n <= 4096.0 => {
            // Parts of a processor are time on it.
            let allowance = format!("{}ms/100ms", (n * 100.0).round().max(1.0));
            config.insert("limits.cpu.allowance".to_owned(), allowance);
        }
        Some(n) => {
            return Err(Error::new(
                Kind::Invalid,
                format!("incus: cpus {n}: above 0"),
            ));
        }
    }
    if let Some(memory) = spec.memory {
        config.insert("limits.memory".to_owned(), format!("{memory}B"));
    }
    Ok(())
}

/// A name made of a launch's token: the server lets no two instances have it, so that the second of two launches under
/// one token finds the first.
pub(super) fn name_of(token: &str) -> String {
    // FNV-1a, 64 bits: short, the same everywhere, and a chance meeting of two tokens is found out by the token kept
    // with the instance.
    let hash = token.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("box-{hash:016x}")
}

/// What the server can filter by itself; the rest, and all of it once more, is looked at here.
pub(super) fn filter(options: &ListOptions) -> Option<String> {
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let clauses: Vec<String> = options
        .labels
        .iter()
        .filter(|(k, v)| plain(k) && plain(v))
        .map(|(k, v)| format!("config.{LABELS}{k} eq {v}"))
        .collect();
    (!clauses.is_empty()).then(|| clauses.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts() {
        assert_eq!(
            (bytes("512MiB"), bytes("2GB")),
            (Some(512 << 20), Some(2_000_000_000))
        );
        assert_eq!((bytes("1024"), bytes("7B")), (Some(1024), Some(7)));
        for odd in ["", "50%", "MiB", "1XB", "99999999999TiB"] {
            assert_eq!(bytes(odd), None, "{odd}");
        }
        assert_eq!((cpus("2"), cpus("0-3,8")), (Some(2.0), Some(5.0)));
        for odd in ["", "a", "3-1", "1-"] {
            assert_eq!(cpus(odd), None, "{odd}");
        }
    }

    #[test]
    fn limits_are_configuration() {
        let of = |spec: LaunchSpec| {
            let mut config = BTreeMap::new();
            limits(&spec, &mut config).map(|()| config)
        };
        let whole = of(LaunchSpec::new().cpus(2.0).memory(1 << 30)).unwrap();
        assert_eq!(whole["limits.cpu"], "2");
        assert_eq!(whole["limits.memory"], "1073741824B");
        let half = of(LaunchSpec::new().cpus(0.5)).unwrap();
        assert_eq!(half["limits.cpu.allowance"], "50ms/100ms");
        assert_eq!(
            of(LaunchSpec::new().cpus(-1.0)).unwrap_err().kind(),
            Kind::Invalid
        );
        assert!(of(LaunchSpec::new().cpus(f64::NAN)).is_err());
    }

    #[test]
    fn a_token_has_one_name() {
        assert_eq!(name_of("a"), name_of("a"));
        assert_ne!(name_of("a"), name_of("b"));
        let name = name_of("anything at all / ..");
        assert!(name.len() <= 63 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
    }

    #[test]
    fn only_plain_labels_are_filtered_by_the_server() {
        let options = ListOptions::new().label("a.b", "1").label("x", "two words");
        assert_eq!(filter(&options).as_deref(), Some("config.user.a.b eq 1"));
        assert_eq!(filter(&ListOptions::new()), None);
    }
}
