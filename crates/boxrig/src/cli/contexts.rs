//! Contexts: named places to work on, in one configuration file.
//!
//! The file is private (0600 in a 0700 folder), written whole under a lock, and holds no secret: only where each is.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use boxrig::Target;
use boxrig_wire::{Error, Kind, Result, Untrusted};
use serde::{Deserialize, Serialize};

use super::import::{self, ImportEnv};
use super::paths::{Paths, private_dir};
use super::secret::SecretRef;

/// The context that is always there: the background server of this machine.
pub(crate) const LOCAL: &str = "local";

/// The configuration file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Config {
    /// The context that commands use without `--on`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Entry>,
    /// What this version does not know, kept.
    #[serde(flatten)]
    pub(crate) extra: toml::Table,
}

/// A context as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// A reference to the secret; see [`SecretRef`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret_from: Option<String>,
    /// A file with the certificates to trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The SHA-256 of the one certificate that the server may have, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pin: Option<String>,
    /// A file with the client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cert_file: Option<PathBuf>,
    /// A file with the client certificate's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
    /// The project, where the platform has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<String>,
    /// What instances start from when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    /// Commands that change something are refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) read_only: bool,
    #[serde(flatten)]
    pub(crate) extra: toml::Table,
}

impl Entry {
    /// A context of which only the place is known.
    pub(crate) fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            user: None,
            secret_from: None,
            ca_file: None,
            pin: None,
            cert_file: None,
            key_file: None,
            project: None,
            image: None,
            read_only: false,
            extra: toml::Table::new(),
        }
    }

    /// Reads it as commands use it.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for a URL or a reference that is none, naming the context.
    pub(crate) fn context(&self, name: &str) -> Result<Context> {
        let in_context = |e: Error| e.context(format!("context {}", Untrusted::new(name)));
        Ok(Context {
            name: name.to_owned(),
            target: self.url.parse().map_err(in_context)?,
            user: self.user.clone(),
            secret: self
                .secret_from
                .as_deref()
                .map(SecretRef::parse)
                .transpose()
                .map_err(in_context)?,
            ca_file: self.ca_file.clone(),
            pin: self.pin.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            project: self.project.clone(),
            image: self.image.clone(),
            read_only: self.read_only,
        })
    }
}

/// A context as commands use it.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) user: Option<String>,
    pub(crate) secret: Option<SecretRef>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) pin: Option<String>,
    pub(crate) cert_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) project: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) read_only: bool,
}

impl Context {
    /// A context of which only the place is known.
    pub(crate) fn new(name: impl Into<String>, target: Target) -> Self {
        Self {
            name: name.into(),
            target,
            user: None,
            secret: None,
            ca_file: None,
            pin: None,
            cert_file: None,
            key_file: None,
            project: None,
            image: None,
            read_only: false,
        }
    }
}

/// Checks a context's name: what a shell needs no quotes for, and `context:name` can be told apart.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name == LOCAL {
        return Err(Error::new(
            Kind::Invalid,
            "the context local is the server of this machine",
        ));
    }
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) || name.starts_with('-') {
        return Err(Error::new(
            Kind::Invalid,
            "a context's name is 1 to 64 letters, digits, and - _ . and does not begin with -",
        ));
    }
    Ok(())
}

impl Config {
    /// Reads the file; an absent one is empty.
    ///
    /// # Errors
    ///
    /// When it cannot be read or understood, or when others could have written it.
    pub(crate) fn load(paths: &Paths) -> Result<Self> {
        let path = paths.config_file();
        if !is_safe(&path)? {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path)
            .map_err(|e| Error::new(Kind::Failed, format!("{}: {e}", path.display())))?;
        toml::from_str(&text).map_err(|e| {
            Error::new(
                Kind::Invalid,
                format!(
                    "{}: {}",
                    path.display(),
                    Untrusted::new(e.message().to_owned())
                ),
            )
        })
    }

    /// Changes the file under its lock: two writers lose nothing of each other.
    ///
    /// # Errors
    ///
    /// Those of reading and writing, and `change`'s.
    pub(crate) fn update<T>(
        paths: &Paths,
        change: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let named = |e: io::Error| Error::new(Kind::Failed, format!("the configuration: {e}"));
        private_dir(&paths.config).map_err(named)?;
        let lock = private_file(&paths.config.join("config.lock")).map_err(named)?;
        lock.lock().map_err(named)?;
        let mut config = Self::load(paths)?;
        let result = change(&mut config)?;
        let text = toml::to_string_pretty(&config)
            .map_err(|e| Error::new(Kind::Failed, format!("the configuration: {e}")))?;
        write_whole(&paths.config_file(), text.as_bytes()).map_err(named)?;
        Ok(result)
    }

    /// The context of that name: one of the file, `local`, or `env:PLATFORM` from the vendor's own variables.
    pub(crate) fn context(&self, name: &str) -> Result<Context> {
        if name == LOCAL {
            return Ok(Context::new(LOCAL, Target::local()));
        }
        if let Some(platform) = name.strip_prefix("env:") {
            return from_variables(platform);
        }
        let entry = self.contexts.get(name).ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("no context is called {}", Untrusted::new(name)),
            )
            .with_hint("`boxrig ctx ls` lists them, `boxrig ctx add` makes one")
        })?;
        entry.context(name)
    }

    /// The context that is used when none is named.
    pub(crate) fn current(&self) -> &str {
        self.current.as_deref().unwrap_or(LOCAL)
    }

    /// The names of all contexts that `--all` means: `local` and those of the file.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = vec![LOCAL.to_owned()];
        names.extend(self.contexts.keys().cloned());
        names
    }

    /// Splits `context:name`. What stands before the colon counts only if it is a context.
    pub(crate) fn split<'a>(&self, text: &'a str) -> (Option<&'a str>, &'a str) {
        if let Some(rest) = text.strip_prefix("env:")
            && let Some((platform, name)) = rest.split_once(':')
        {
            return (Some(&text[.."env:".len() + platform.len()]), name);
        }
        match text.split_once(':') {
            Some((context, name)) if context == LOCAL || self.contexts.contains_key(context) => {
                (Some(context), name)
            }
            _ => (None, text),
        }
    }
}

/// A platform's own variables as a context.
fn from_variables(platform: &str) -> Result<Context> {
    let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    match platform {
        "fastvm" => {
            if var("FASTVM_API_KEY").is_none() {
                return Err(Error::new(
                    Kind::NotFound,
                    "the context env:fastvm needs FASTVM_API_KEY, which is not set",
                ));
            }
            let base =
                var("FASTVM_BASE_URL").unwrap_or_else(|| "https://api.fastvm.org".to_owned());
            let url = match base.split_once("://") {
                Some(("http", rest)) => format!("fastvm+http://{}", rest.trim_end_matches('/')),
                Some(("https", rest)) => format!("fastvm://{}", rest.trim_end_matches('/')),
                _ => {
                    return Err(Error::new(
                        Kind::Invalid,
                        "FASTVM_BASE_URL is neither http:// nor https://",
                    ));
                }
            };
            let target = url
                .parse()
                .map_err(|e: Error| e.context("FASTVM_BASE_URL"))?;
            Ok(Context {
                secret: Some(SecretRef::Env("FASTVM_API_KEY".to_owned())),
                ..Context::new("env:fastvm", target)
            })
        }
        "incus" => import::incus::from_variables(&ImportEnv::of_process())?.context("env:incus"),
        "convox" => import::convox::from_variables(&ImportEnv::of_process())?.context("env:convox"),
        "vergeos" => {
            import::vergeos::from_variables(&ImportEnv::of_process())?.context("env:vergeos")
        }
        other => Err(Error::new(
            Kind::NotFound,
            format!("no platform is called {}", Untrusted::new(other)),
        )
        .with_hint("env:fastvm, env:incus, env:vergeos or env:convox")),
    }
}

/// Whether the configuration is there. A link of somebody else's, or a file that others can write, is refused; one that
/// others can read is warned of.
fn is_safe(path: &Path) -> Result<bool> {
    let meta = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => {
            return Err(Error::new(Kind::Failed, format!("{}: {e}", path.display())));
        }
        Ok(meta) => meta,
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let me = rustix::process::geteuid().as_raw();
        let refuse = |why: &str| {
            Error::new(Kind::Denied, format!("{}: {why}", path.display()))
                .with_hint("the configuration decides which commands are run for secrets: look at it, then own it and chmod 600")
        };
        if meta.uid() != me {
            return Err(refuse(if meta.is_symlink() {
                "a link that belongs to somebody else"
            } else {
                "it belongs to somebody else"
            }));
        }
        let target = fs::metadata(path)
            .map_err(|e| Error::new(Kind::Failed, format!("{}: {e}", path.display())))?;
        if target.uid() != me {
            return Err(refuse("it links to a file of somebody else"));
        }
        if target.mode() & 0o022 != 0 {
            return Err(refuse("others can write it"));
        }
        if target.mode() & 0o044 != 0 {
            eprintln!("warning: others can read {}: chmod 600 it", path.display());
        }
    }
    #[cfg(not(unix))]
    let _ = meta;
    Ok(true)
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

/// A reader sees the old content or all of the new one. A link keeps pointing where it points.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".config")
        .tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(&path).map(drop).map_err(|e| e.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(dir: &Path) -> Paths {
        Paths {
            config: dir.join("c"),
            data: dir.join("d"),
            runtime: dir.join("r"),
        }
    }

    #[test]
    fn a_thousand_concurrent_writes_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let paths = &paths;
                scope.spawn(move || {
                    for n in 0..125 {
                        let name = format!("c{writer}-{n}");
                        Config::update(paths, |c| {
                            c.contexts.insert(name, Entry::new("fastvm://host"));
                            Ok(())
                        })
                        .unwrap();
                    }
                });
            }
        });
        assert_eq!(Config::load(&paths).unwrap().contexts.len(), 1000);
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_private_and_a_writable_one_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        Config::update(&paths, |c| {
            c.current = Some("x".to_owned());
            Ok(())
        })
        .unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&paths.config), 0o700);
        assert_eq!(mode(&paths.config_file()), 0o600);
        fs::set_permissions(paths.config_file(), PermissionsExt::from_mode(0o620)).unwrap();
        assert_eq!(Config::load(&paths).unwrap_err().kind(), Kind::Denied);
        assert_eq!(
            Config::update(&paths, |_| Ok(())).unwrap_err().kind(),
            Kind::Denied
        );
    }

    #[test]
    fn unknown_settings_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        private_dir(&paths.config).unwrap();
        let text = "later = 1\n[contexts.a]\nurl = \"fastvm://h\"\nhue = \"x\"\n";
        write_whole(&paths.config_file(), text.as_bytes()).unwrap();
        Config::update(&paths, |c| {
            c.current = Some("a".to_owned());
            Ok(())
        })
        .unwrap();
        let text = fs::read_to_string(paths.config_file()).unwrap();
        assert!(
            text.contains("later = 1") && text.contains("hue = \"x\""),
            "{text}"
        );
    }

    #[test]
    fn names_and_contexts_are_told_apart() {
        let mut config = Config::default();
        config
            .contexts
            .insert("prod".to_owned(), Entry::new("fastvm://h"));
        for (text, wanted) in [
            ("web", (None, "web")),
            ("local:web", (Some("local"), "web")),
            ("prod:a:b", (Some("prod"), "a:b")),
            ("other:web", (None, "other:web")),
            ("env:fastvm:web", (Some("env:fastvm"), "web")),
        ] {
            assert_eq!(config.split(text), wanted, "{text}");
        }
        for bad in ["", "local", "a b", "a:b", "-a", "ä", "../x"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        check_name("prod-1.eu").unwrap();
    }
}
