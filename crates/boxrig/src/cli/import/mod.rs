//! What the vendors' own tools left on this machine, as contexts.
//!
//! A platform's module has `find`, which reads files and variables through [`ImportEnv`] and nothing else: no network, no
//! program is run. Secrets are never copied: an [`Entry`] says by reference where one is (`env:`, `file:`, `cmd:`).

pub(crate) mod convox;
pub(crate) mod incus;
pub(crate) mod vergeos;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::contexts::{Config, Entry, check_name};

/// The platforms that something can be taken over from.
pub(crate) const PLATFORMS: &[&str] = &["fastvm", "incus", "convox", "vergeos"];

/// A file of a vendor's tool is never read beyond this size.
const LIMIT: u64 = 4 * 1024 * 1024;

/// What a search looks at.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImportEnv {
    variables: BTreeMap<String, String>,
}

impl ImportEnv {
    /// The variables of this process, the home folder among them.
    pub(crate) fn of_process() -> Self {
        let text = |(k, v): (std::ffi::OsString, std::ffi::OsString)| {
            Some((k.into_string().ok()?, v.into_string().ok()?))
        };
        Self {
            variables: std::env::vars_os().filter_map(text).collect(),
        }
    }

    /// Variables of a test's own making.
    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        Self {
            variables: pairs.iter().map(owned).collect(),
        }
    }

    /// A variable that is set and not empty.
    pub(crate) fn var(&self, name: &str) -> Option<String> {
        self.variables.get(name).filter(|v| !v.is_empty()).cloned()
    }

    /// The home folder.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.var("HOME").map(PathBuf::from)
    }

    /// Reads a file of a vendor's tool; `None` when it is not there.
    ///
    /// # Errors
    ///
    /// In words: what cannot be read, and why.
    pub(crate) fn read(&self, path: &Path) -> Result<Option<String>, String> {
        let named = |e: io::Error| format!("{}: {e}", path.display());
        match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(named(e)),
            Ok(meta) if meta.len() > LIMIT => {
                return Err(named(io::Error::other(
                    "it is too large for a configuration",
                )));
            }
            Ok(_) => {}
        }
        fs::read_to_string(path).map(Some).map_err(named)
    }
}

/// A server that a vendor's tool knows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// The platform.
    pub(crate) platform: &'static str,
    /// The context's name; [`find`] makes a usable one of it.
    pub(crate) name: String,
    /// Where it was found: a file or variables.
    pub(crate) source: String,
    /// The context, or in words why it cannot be one.
    pub(crate) entry: Result<Entry, String>,
}

impl Found {
    /// A context that can be used.
    pub(crate) fn new(
        platform: &'static str,
        name: impl Into<String>,
        source: impl Into<String>,
        entry: Entry,
    ) -> Self {
        Self {
            platform,
            name: name.into(),
            source: source.into(),
            entry: Ok(entry),
        }
    }

    /// Something that cannot be used, and why.
    pub(crate) fn unusable(
        platform: &'static str,
        name: impl Into<String>,
        source: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self {
            platform,
            name: name.into(),
            source: source.into(),
            entry: Err(why.into()),
        }
    }
}

/// Everything that the vendors' tools know, each under a name that a context can have.
pub(crate) fn find(env: &ImportEnv) -> Vec<Found> {
    let mut all = fastvm(env);
    all.extend(incus::find(env));
    all.extend(convox::find(env));
    all.extend(vergeos::find(env));
    let mut taken: Vec<String> = Vec::new();
    for found in &mut all {
        let mut name = usable_name(&found.name, found.platform);
        if taken.contains(&name) {
            name = usable_name(&format!("{}-{name}", found.platform), found.platform);
        }
        taken.push(name.clone());
        found.name = name;
    }
    all
}

/// A name that a context can have: other characters become `-`, and `local`, which is always ours, the platform's.
fn usable_name(name: &str, platform: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name
        .chars()
        .map(|c| if good(c) { c } else { '-' })
        .take(64)
        .collect();
    let name = name.trim_start_matches('-');
    if check_name(name).is_ok() {
        name.to_owned()
    } else {
        platform.to_owned()
    }
}

/// What is done with something found: `added`, `replaced`, `same`, `kept` (the name is another's) or `unusable`.
pub(crate) fn verdict(found: &Found, config: &Config, replace: bool) -> &'static str {
    match (&found.entry, config.contexts.get(&found.name)) {
        (Err(_), _) => "unusable",
        (Ok(_), None) => "added",
        (Ok(entry), Some(old)) if entry == old => "same",
        (Ok(_), Some(_)) if replace => "replaced",
        (Ok(_), Some(_)) => "kept",
    }
}

/// FastVM's tools keep no files: only variables.
fn fastvm(env: &ImportEnv) -> Vec<Found> {
    if env.var("FASTVM_API_KEY").is_none() {
        return Vec::new();
    }
    let base = env.var("FASTVM_BASE_URL");
    let base = base.as_deref().unwrap_or("https://api.fastvm.org");
    let source = "FASTVM_API_KEY";
    let url = match base.trim_end_matches('/').split_once("://") {
        Some(("http", rest)) => format!("fastvm+http://{rest}"),
        Some(("https", rest)) => format!("fastvm://{rest}"),
        _ => {
            let why = "FASTVM_BASE_URL is neither http:// nor https://";
            return vec![Found::unusable("fastvm", "fastvm", source, why)];
        }
    };
    let entry = Entry {
        secret_from: Some("env:FASTVM_API_KEY".to_owned()),
        ..Entry::new(url)
    };
    vec![Found::new("fastvm", "fastvm", source, entry)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_usable() {
        for (name, wanted) in [
            ("lab", "lab"),
            ("local", "incus"),
            ("", "incus"),
            ("a b/c", "a-b-c"),
            ("-x", "x"),
            ("ä", "incus"),
        ] {
            assert_eq!(usable_name(name, "incus"), wanted, "{name}");
        }
    }

    #[test]
    fn variables_are_referred_to_and_never_copied() {
        let env = ImportEnv::of(&[
            ("FASTVM_API_KEY", "canary"),
            ("FASTVM_BASE_URL", "http://h:1/"),
        ]);
        let found = fastvm(&env);
        assert_eq!(found.len(), 1);
        assert!(!format!("{found:?}").contains("canary"));
        let entry = found[0].entry.as_ref().unwrap();
        assert_eq!(entry.url, "fastvm+http://h:1");
        assert_eq!(entry.secret_from.as_deref(), Some("env:FASTVM_API_KEY"));
        assert!(fastvm(&ImportEnv::default()).is_empty());
    }

    #[test]
    fn contexts_of_the_same_name_are_kept() {
        let mut config = Config::default();
        let found = Found::new("incus", "lab", "x", Entry::new("incus://lab"));
        assert_eq!(verdict(&found, &config, false), "added");
        config
            .contexts
            .insert("lab".to_owned(), Entry::new("incus://lab"));
        assert_eq!(verdict(&found, &config, false), "same");
        config
            .contexts
            .insert("lab".to_owned(), Entry::new("incus://other"));
        assert_eq!(verdict(&found, &config, false), "kept");
        assert_eq!(verdict(&found, &config, true), "replaced");
        let broken = Found::unusable("incus", "new", "x", "why");
        assert_eq!(verdict(&broken, &config, true), "unusable");
    }
}
