//! Checks of what a caller asks for, the same in every engine.

use crate::{Error, InstanceSpec, Kind, Limits, Result};

fn invalid(words: String) -> Error {
    Error::new(Kind::Invalid, words)
}

/// Checks every field of a specification that could not be carried out as it stands.
pub(crate) fn spec(spec: &InstanceSpec) -> Result<()> {
    let hostname = spec.hostname.as_bytes();
    let safe = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'.';
    if !(1..=63).contains(&hostname.len()) || !hostname.iter().all(safe) {
        return Err(invalid(format!(
            "hostname {:?}: 1 to 63 letters, digits, hyphens and dots",
            spec.hostname
        )));
    }
    environment(&spec.env)?;
    limits(&spec.limits)?;
    if let Some(main) = &spec.main {
        argv(&main.argv)?;
        environment(&main.env)?;
    }
    Ok(())
}

/// Checks that a command can be handed to the kernel.
pub(crate) fn argv(argv: &[Vec<u8>]) -> Result<()> {
    match argv.first() {
        None => return Err(invalid("the command is empty".to_owned())),
        Some(command) if command.is_empty() => {
            return Err(invalid("the command's name is empty".to_owned()));
        }
        Some(_) => {}
    }
    if argv.iter().any(|part| part.contains(&0)) {
        return Err(invalid("the command holds a NUL byte".to_owned()));
    }
    Ok(())
}

/// Checks that variables can be handed to the kernel.
pub(crate) fn environment(env: &std::collections::BTreeMap<String, String>) -> Result<()> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(invalid(format!(
                "variable {name:?}: the name must not be empty or hold = or NUL"
            )));
        }
        if value.contains('\0') {
            return Err(invalid(format!(
                "variable {name:?}: the value holds a NUL byte"
            )));
        }
    }
    Ok(())
}

/// Checks that limits make sense.
pub(crate) fn limits(limits: &Limits) -> Result<()> {
    if let Some(cpus) = limits.cpus.filter(|cpus| !cpus.is_finite() || *cpus <= 0.0) {
        return Err(invalid(format!("cpus {cpus}: must be more than 0")));
    }
    for (what, value) in [
        ("memory_bytes", limits.memory_bytes),
        ("pids", limits.pids),
        ("disk_bytes", limits.disk_bytes),
    ] {
        if value == Some(0) {
            return Err(invalid(format!("{what} 0: must be more than 0")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InstanceId, MainProcess};

    #[test]
    fn every_bad_field_is_named() {
        let good = InstanceSpec::new(InstanceId::new("a").unwrap());
        assert!(spec(&good).is_ok());
        type Spoil = fn(&mut InstanceSpec);
        let cases: [(&str, Spoil); 9] = [
            ("hostname", |spec| spec.hostname = "a b".to_owned()),
            ("hostname", |spec| spec.hostname = "x".repeat(64)),
            ("variable", |spec| {
                drop(spec.env.insert("A=B".to_owned(), String::new()))
            }),
            ("variable", |spec| {
                drop(spec.env.insert("A".to_owned(), "\0".to_owned()))
            }),
            ("cpus", |spec| spec.limits.cpus = Some(f64::NAN)),
            ("pids", |spec| spec.limits.pids = Some(0)),
            ("memory_bytes", |spec| spec.limits.memory_bytes = Some(0)),
            ("command", |spec| {
                spec.main = Some(MainProcess {
                    argv: vec![],
                    env: Default::default(),
                    cwd: None,
                    ..Default::default()
                });
            }),
            ("command", |spec| {
                let argv = vec![b"a\0b".to_vec()];
                spec.main = Some(MainProcess {
                    argv,
                    env: Default::default(),
                    cwd: None,
                    ..Default::default()
                });
            }),
        ];
        for (field, spoil) in cases {
            let mut bad = good.clone();
            spoil(&mut bad);
            let error = spec(&bad).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.message().contains(field), "{error}");
        }
    }
}
