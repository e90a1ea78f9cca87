//! Convox: the logins and racks of the vendor's tool, and its variables.
//!
//! A context made of a login has no reference to a secret: the key, and a console's session, stay in the tool's own files and
//! are read there when the context is used.

use boxrig_convox::{CliConfig, Known};
use boxrig_wire::{Error, Kind, Result};

use super::{Found, ImportEnv};
use crate::cli::contexts::Entry;

/// What is looked for.
const PLATFORM: &str = "convox";

/// The variables, the tool's current rack, its logins, its racks by URL.
pub(crate) fn find(env: &ImportEnv) -> Vec<Found> {
    let mut all = Vec::new();
    if env.var("RACK_URL").is_some() || env.var("CONVOX_HOST").is_some() {
        let source = if env.var("RACK_URL").is_some() {
            "RACK_URL"
        } else {
            "CONVOX_HOST"
        };
        all.push(match from_variables(env) {
            Ok(entry) => Found::new(PLATFORM, PLATFORM, source, entry),
            Err(e) => Found::unusable(PLATFORM, PLATFORM, source, e.to_string()),
        });
    }
    match CliConfig::new().known_with(&|name| env.var(name)) {
        Ok(known) => all.extend(known.iter().map(of)),
        Err(e) => all.push(Found::unusable(
            PLATFORM,
            PLATFORM,
            "the vendor's files",
            e.to_string(),
        )),
    }
    all
}

fn of(known: &Known) -> Found {
    let source = known.file.display().to_string();
    match url(&known.host, known.rack.as_deref()) {
        Ok(url) => Found::new(PLATFORM, &*known.name, source, Entry::new(url)),
        Err(e) => Found::unusable(PLATFORM, &*known.name, source, e.to_string()),
    }
}

/// The context's URL of a host, which may have a scheme.
fn url(host: &str, rack: Option<&str>) -> Result<String> {
    let (scheme, host) = match host.trim_end_matches('/').split_once("://") {
        Some(("http", host)) => ("convox+http", host),
        None | Some(("https", _)) => (
            "convox",
            host.trim_start_matches("https://").trim_end_matches('/'),
        ),
        Some(_) => {
            return Err(Error::new(
                Kind::Invalid,
                "the host is neither http:// nor https://",
            ));
        }
    };
    Ok(match rack {
        Some(rack) => format!("{scheme}://{host}/{rack}"),
        None => format!("{scheme}://{host}"),
    })
}

/// The platform's own variables as a context.
///
/// # Errors
///
/// [`Kind::NotFound`] when they are not set.
pub(crate) fn from_variables(env: &ImportEnv) -> Result<Entry> {
    if env.var("RACK_URL").is_some() {
        // Its password stays where it is.
        let login =
            CliConfig::new().login_with(&|name| env.var(name).filter(|_| name == "RACK_URL"))?;
        let entry = Entry::new(url(&login.host, None)?);
        return Ok(Entry {
            user: login.user.filter(|user| user != "convox"),
            secret_from: Some("env:RACK_URL".to_owned()),
            ..entry
        });
    }
    let missing = |name: &str| {
        Error::new(
            Kind::NotFound,
            format!("the context env:convox needs {name}, which is not set"),
        )
        .with_hint(
            "CONVOX_HOST and CONVOX_PASSWORD (and CONVOX_RACK behind a console), or RACK_URL",
        )
    };
    let host = env
        .var("CONVOX_HOST")
        .ok_or_else(|| missing("CONVOX_HOST"))?;
    if env.var("CONVOX_PASSWORD").is_none() {
        return Err(missing("CONVOX_PASSWORD"));
    }
    Ok(Entry {
        secret_from: Some("env:CONVOX_PASSWORD".to_owned()),
        ..Entry::new(url(&host, env.var("CONVOX_RACK").as_deref())?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(env: &ImportEnv) -> Vec<(String, String, Option<String>)> {
        let found = find(env);
        assert!(!format!("{found:?}").contains("canary"));
        let entry = |f: &Found| {
            let e = f.entry.clone().unwrap();
            (f.name.clone(), e.url, e.secret_from)
        };
        found.iter().map(entry).collect()
    }

    #[test]
    fn logins_and_racks_become_contexts_without_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = dir.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        let env = ImportEnv::of(&[("CONVOX_CONFIG", dir.path().to_str().unwrap())]);
        assert!(entries(&env).is_empty());
        write(
            "auth",
            r#"{"console.convox.com": "canary", "rack.test": "canary"}"#,
        );
        write("current", r#"{"name": "org/rack", "type": "console"}"#);
        write("racks/mine", "https://convox:canary@mine.test:5443");
        let expected: Vec<(String, String, Option<String>)> = [
            ("org/rack", "convox://console.convox.com/org/rack"),
            ("console.convox.com", "convox://console.convox.com"),
            ("rack.test", "convox://rack.test"),
            ("mine", "convox://mine.test:5443"),
        ]
        .map(|(n, u)| (n.to_owned(), u.to_owned(), None))
        .to_vec();
        assert_eq!(entries(&env), expected);
    }

    #[test]
    fn variables_are_referred_to() {
        let env = ImportEnv::of(&[
            ("CONVOX_HOST", "http://127.0.0.1:1"),
            ("CONVOX_PASSWORD", "canary"),
            ("CONVOX_RACK", "local/boxrig"),
        ]);
        let secret = Some("env:CONVOX_PASSWORD".to_owned());
        assert_eq!(
            entries(&env)[0],
            (
                "convox".to_owned(),
                "convox+http://127.0.0.1:1/local/boxrig".to_owned(),
                secret
            )
        );
        let env = ImportEnv::of(&[("RACK_URL", "https://jwt:canary@r.test")]);
        let entry = from_variables(&env).unwrap();
        assert_eq!(
            (&*entry.url, entry.user.as_deref()),
            ("convox://r.test", Some("jwt"))
        );
        assert_eq!(
            from_variables(&ImportEnv::default()).unwrap_err().kind(),
            Kind::NotFound
        );
    }
}
