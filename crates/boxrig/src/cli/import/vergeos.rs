//! VergeOS: the profiles of the vendor's tool (`~/.vrg/config.toml`), and the variables of its SDK.

use boxrig_wire::{Error, Kind, Result};
use toml::{Table, Value};

use super::{Found, ImportEnv};
use crate::cli::contexts::Entry;

/// The variables, and every profile with a host.
pub(crate) fn find(env: &ImportEnv) -> Vec<Found> {
    let mut all = Vec::new();
    if env.var("VERGE_HOST").is_some() {
        all.push(match from_variables(env) {
            Ok(entry) => Found::new("vergeos", "vergeos", "VERGE_HOST", entry),
            Err(e) => Found::unusable("vergeos", "vergeos", "VERGE_HOST", e.to_string()),
        });
    }
    let Some(path) = env.home().map(|h| h.join(".vrg/config.toml")) else {
        return all;
    };
    let source = path.display().to_string();
    let text = match env.read(&path) {
        Ok(Some(text)) => text,
        Ok(None) => return all,
        Err(why) => {
            all.push(Found::unusable("vergeos", "vrg", source, why));
            return all;
        }
    };
    let table: Table = match text.parse() {
        Ok(table) => table,
        Err(_) => {
            // The parser's words quote the line, which may be a secret.
            all.push(Found::unusable("vergeos", "vrg", source, "it is no TOML"));
            return all;
        }
    };
    let mut profiles: Vec<(String, String, &Value)> = Vec::new();
    if let Some(value) = table.get("default") {
        profiles.push(("vrg".to_owned(), "default".to_owned(), value));
    }
    for key in ["profile", "profiles"] {
        let named = table
            .get(key)
            .and_then(Value::as_table)
            .into_iter()
            .flatten();
        profiles.extend(named.map(|(n, v)| (n.clone(), format!("{key}.{n}"), v)));
    }
    for (name, section, profile) in profiles {
        let Some(profile) = profile.as_table().filter(|p| p.contains_key("host")) else {
            continue;
        };
        all.push(match entry(profile, &section, &source) {
            Ok(entry) => Found::new("vergeos", name, source.clone(), entry),
            Err(why) => Found::unusable("vergeos", name, source.clone(), why),
        });
    }
    all
}

/// A profile as a context. The secret stays in its file: a command reads it from there.
fn entry(profile: &Table, section: &str, source: &str) -> std::result::Result<Entry, String> {
    let text = |name: &str| {
        profile
            .get(name)
            .and_then(Value::as_str)
            .filter(|t| !t.is_empty())
    };
    let host = text("host").ok_or("the host is no text")?;
    if profile.get("verify_ssl") == Some(&Value::Boolean(false)) {
        return Err("it checks no certificate: add it with --ca-file or --pin".to_owned());
    }
    let secret = ["token", "api_key", "password"]
        .into_iter()
        .find(|name| text(name).is_some())
        .ok_or("it has no secret")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !section.chars().all(plain) || source.contains('\'') {
        return Err("its name cannot be written in a command".to_owned());
    }
    let user = (secret == "password").then(|| text("username")).flatten();
    if secret == "password" && user.is_none() {
        return Err("it has a password and no user".to_owned());
    }
    let pattern = section.replace('.', "\\.");
    Ok(Entry {
        user: user.map(str::to_owned),
        secret_from: Some(format!(
            "cmd:sed -n '/^\\[{pattern}\\]/,/^\\[/s/^{secret} *= *\"\\(.*\\)\"$/\\1/p' '{source}'"
        )),
        ..Entry::new(url(host))
    })
}

fn url(host: &str) -> String {
    match host.trim_end_matches('/').split_once("://") {
        Some(("http", rest)) => format!("vergeos+http://{rest}"),
        Some((_, rest)) => format!("vergeos://{rest}"),
        None => format!("vergeos://{host}"),
    }
}

/// What `env:vergeos` means: the variables of the vendor's SDK.
///
/// # Errors
///
/// [`Kind::NotFound`] without `VERGE_HOST`, [`Kind::Unauthenticated`] without a secret.
pub(crate) fn from_variables(env: &ImportEnv) -> Result<Entry> {
    let host = env.var("VERGE_HOST").ok_or_else(|| {
        Error::new(
            Kind::NotFound,
            "the context env:vergeos needs VERGE_HOST, which is not set",
        )
    })?;
    let (user, secret) = match (env.var("VERGE_TOKEN"), env.var("VERGE_USERNAME")) {
        (Some(_), _) => (None, "VERGE_TOKEN"),
        (None, Some(user)) if env.var("VERGE_PASSWORD").is_some() => (Some(user), "VERGE_PASSWORD"),
        _ => {
            return Err(Error::new(
                Kind::Unauthenticated,
                "VERGE_HOST is set without credentials",
            )
            .with_hint("set VERGE_TOKEN, or VERGE_USERNAME and VERGE_PASSWORD"));
        }
    };
    Ok(Entry {
        user,
        secret_from: Some(format!("env:{secret}")),
        // The trust that `boxrig env` sets up for all clients of this shell.
        ca_file: env
            .var("BOXRIG_CA_FILE")
            .filter(|_| host.starts_with("127.0.0.1"))
            .map(Into::into),
        ..Entry::new(url(&host))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_and_variables_become_contexts_without_secrets() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".vrg")).unwrap();
        let file = home.path().join(".vrg/config.toml");
        let text = "[default]\nhost = \"https://a.example\"\ntoken = \"canary\"\n[profile.lab]\nhost = \"b.example:8443\"\nusername = \"admin\"\npassword = \"canary2\"\n[profile.off]\nhost = \"c\"\nverify_ssl = false\ntoken = \"x\"\n";
        std::fs::write(&file, text).unwrap();
        let home = home.path().display().to_string();
        let env = ImportEnv::of(&[
            ("HOME", &home),
            ("VERGE_HOST", "v.example"),
            ("VERGE_TOKEN", "canary3"),
        ]);
        let found = find(&env);
        assert!(!format!("{found:?}").contains("canary"));
        let urls: Vec<_> = found
            .iter()
            .filter_map(|f| f.entry.as_ref().ok().map(|e| e.url.as_str()))
            .collect();
        assert_eq!(
            urls,
            [
                "vergeos://v.example",
                "vergeos://a.example",
                "vergeos://b.example:8443"
            ]
        );
        assert!(found[3].entry.is_err());
        let lab = found[2].entry.as_ref().unwrap();
        assert_eq!(lab.user.as_deref(), Some("admin"));
        let command = lab
            .secret_from
            .as_deref()
            .unwrap()
            .strip_prefix("cmd:")
            .unwrap();
        let out = std::process::Command::new("sh")
            .args(["-c", command])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "canary2");
    }
}
