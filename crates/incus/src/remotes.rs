//! The remotes of the standard tool, read from its folder: addresses, projects, certificates, tokens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use boxrig_wire::{Error, Kind, Result};
use serde::Deserialize;

use crate::client::{Address, Client, ClientBuilder};
use crate::identity::Identity;
use crate::oidc::OidcSession;

/// The file's form (`shared/cliconfig` of Incus); members that are not known are passed over.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Document {
    #[serde(rename = "default-remote", deserialize_with = "boxrig_wire::nullable")]
    default_remote: String,
    #[serde(deserialize_with = "boxrig_wire::nullable")]
    remotes: BTreeMap<String, Entry>,
    #[serde(deserialize_with = "boxrig_wire::nullable")]
    aliases: BTreeMap<String, String>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct Entry {
    #[serde(deserialize_with = "boxrig_wire::nullable")]
    addr: String,
    #[serde(deserialize_with = "boxrig_wire::nullable")]
    auth_type: String,
    #[serde(deserialize_with = "boxrig_wire::nullable")]
    project: String,
    #[serde(deserialize_with = "boxrig_wire::nullable")]
    protocol: String,
    #[serde(deserialize_with = "boxrig_wire::nullable")]
    public: bool,
}

/// What a remote speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoteProtocol {
    /// The Incus API.
    Incus,
    /// A read-only list of images; see [`Simplestreams`](crate::Simplestreams).
    Simplestreams,
    /// A registry of application images, which only servers read.
    Oci,
}

/// One remote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Remote {
    /// Its name.
    pub name: String,
    /// Where it is, as written: one or more, the first that answers is taken.
    pub addresses: Vec<String>,
    /// What it speaks.
    pub protocol: RemoteProtocol,
    /// The project to work in.
    pub project: Option<String>,
    /// Whether it is used without saying who we are.
    pub public: bool,
    /// Whether we log in with OIDC, not with a certificate.
    pub oidc: bool,
    /// Its certificate, when one is kept.
    pub server_certificate: Option<PathBuf>,
    /// Our certificate and its key, when we have them.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Our OIDC tokens, when we have them.
    pub tokens: Option<PathBuf>,
    /// Whether it comes from the system's settings.
    pub global: bool,
}

/// The remotes of the standard tool.
#[derive(Clone, Debug)]
pub struct Remotes {
    default: String,
    remotes: BTreeMap<String, Remote>,
    aliases: BTreeMap<String, String>,
    /// `INCUS_REMOTE` and `INCUS_PROJECT`.
    chosen: Option<String>,
    project: Option<String>,
}

/// Where the standard tool keeps its things.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Folders {
    /// The user's folder, when there is one.
    pub user: Option<PathBuf>,
    /// The system's folder.
    pub global: PathBuf,
}

impl Folders {
    /// From the environment: `INCUS_CONF`, else `incus` in the user's configuration folder; `INCUS_GLOBAL_CONF`, else
    /// `/etc/incus`. Without a home there is no user's folder, which is no error.
    pub fn find(env: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = || {
            let name = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
            var(name)
        };
        let user = var("INCUS_CONF").or_else(|| {
            let places = [
                var("XDG_CONFIG_HOME"),
                home().map(|h| h.join(".config")),
                cfg!(target_os = "macos")
                    .then(|| home().map(|h| h.join("Library/Application Support")))
                    .flatten(),
                cfg!(windows).then(|| var("APPDATA")).flatten(),
            ];
            let mut places = places.into_iter().flatten().map(|p| p.join("incus"));
            let first = places.next()?;
            let there = |p: &PathBuf| p.join("config.yml").exists();
            Some(match there(&first) {
                true => first,
                false => places.find(there).unwrap_or(first),
            })
        });
        Self {
            user,
            global: var("INCUS_GLOBAL_CONF").unwrap_or_else(|| "/etc/incus".into()),
        }
    }
}

impl Remotes {
    /// Reads the settings that the environment points to. Where there are none there is one remote, `local`.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for a file that is there and cannot be read.
    pub fn load() -> Result<Self> {
        Self::load_in(|name| std::env::var(name).ok())
    }

    /// [`load`](Self::load) with the environment given.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn load_in(env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let folders = Folders::find(&env);
        let mut out = Self {
            default: "local".to_owned(),
            remotes: BTreeMap::new(),
            aliases: BTreeMap::new(),
            chosen: env("INCUS_REMOTE").filter(|v| !v.is_empty()),
            project: env("INCUS_PROJECT").filter(|v| !v.is_empty()),
        };
        let user = folders.user.as_deref();
        if let Some(document) = read(&folders.global)? {
            out.add(document, &folders.global, user, true);
        }
        if let Some(folder) = user
            && let Some(document) = read(folder)?
        {
            if !document.default_remote.is_empty() {
                out.default.clone_from(&document.default_remote);
            }
            out.aliases.clone_from(&document.aliases);
            out.add(document, folder, user, false);
        }
        // The tool knows this one without being told.
        out.remotes
            .entry("local".to_owned())
            .or_insert_with(|| remote("local", &Entry::local(), Path::new(""), None, false));
        Ok(out)
    }

    fn add(&mut self, document: Document, folder: &Path, user: Option<&Path>, global: bool) {
        for (name, entry) in document.remotes {
            let remote = remote(&name, &entry, folder, user, global);
            self.remotes.insert(name, remote);
        }
    }

    /// The name that is meant when none is given: `INCUS_REMOTE`, else the settings' default.
    pub fn default_name(&self) -> &str {
        self.chosen.as_deref().unwrap_or(&self.default)
    }

    /// A remote; `None`: the default one. `INCUS_PROJECT` wins over the remote's own project.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when there is none of this name.
    pub fn get(&self, name: Option<&str>) -> Result<Remote> {
        let name = name.unwrap_or_else(|| self.default_name());
        let mut remote = self.remotes.get(name).cloned().ok_or_else(|| {
            let known: Vec<_> = self.remotes.keys().map(String::as_str).collect();
            let name = boxrig_wire::escape_line(name);
            Error::new(Kind::NotFound, format!("there is no remote {name}")).with_hint(format!(
                "the remotes are {}",
                boxrig_wire::escape_line(&known.join(", "))
            ))
        })?;
        if let Some(project) = &self.project {
            remote.project = Some(project.clone());
        }
        Ok(remote)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Remote> {
        self.remotes.values()
    }

    /// The tool's command aliases.
    pub fn aliases(&self) -> &BTreeMap<String, String> {
        &self.aliases
    }
}

impl Entry {
    fn local() -> Self {
        Self {
            addr: "unix://".to_owned(),
            ..Self::default()
        }
    }
}

fn read(folder: &Path) -> Result<Option<Document>> {
    let path = folder.join("config.yml");
    let wrong = |what: &str| {
        let shown = path.display().to_string();
        let shown = boxrig_wire::escape_line(&shown);
        Error::new(Kind::Invalid, format!("{what} {shown}"))
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(wrong("cannot read").with_source(e)),
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    serde_saphyr::from_str(&text)
        .map(Some)
        .map_err(|e| wrong("not the standard tool's settings:").with_source(e))
}

fn remote(name: &str, entry: &Entry, folder: &Path, user: Option<&Path>, global: bool) -> Remote {
    // A remote's name becomes a file's name; one that would lead elsewhere has no files.
    let plain = !name.is_empty() && !name.contains(['/', '\\']) && name != "." && name != "..";
    let file = |folder: &Path, dir: &str, end: &str| {
        let path = folder.join(dir).join(format!("{name}.{end}"));
        (plain && path.is_file()).then_some(path)
    };
    let pair = |certificate: PathBuf, key: PathBuf| {
        (certificate.is_file() && key.is_file()).then_some((certificate, key))
    };
    let user = user.unwrap_or(folder);
    let own = plain
        .then(|| {
            let dir = user.join("clientcerts");
            pair(
                dir.join(format!("{name}.crt")),
                dir.join(format!("{name}.key")),
            )
        })
        .flatten();
    Remote {
        name: name.to_owned(),
        addresses: entry
            .addr
            .split(',')
            .map(|a| a.trim().to_owned())
            .filter(|a| !a.is_empty())
            .collect(),
        protocol: match &*entry.protocol {
            "simplestreams" => RemoteProtocol::Simplestreams,
            "oci" => RemoteProtocol::Oci,
            _ => RemoteProtocol::Incus,
        },
        project: (!entry.project.is_empty()).then(|| entry.project.clone()),
        public: entry.public,
        oidc: entry.auth_type == "oidc",
        server_certificate: file(folder, "servercerts", "crt"),
        client_certificate: own.or_else(|| pair(user.join("client.crt"), user.join("client.key"))),
        tokens: file(user, "oidctokens", "json"),
        global,
    }
}

impl Remote {
    /// The settings of a client of it, at its first address.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for an address or a file that cannot be used, [`Kind::Unsupported`] for a remote of images only.
    pub fn builder(&self) -> Result<ClientBuilder> {
        let address = self.addresses.first().map_or("", String::as_str);
        self.builder_at(address)
    }

    fn builder_at(&self, address: &str) -> Result<ClientBuilder> {
        if self.protocol != RemoteProtocol::Incus {
            return Err(Error::new(
                Kind::Unsupported,
                "this remote holds images only; it has no Incus API",
            ));
        }
        let mut builder = ClientBuilder::new(Address::parse(address)?);
        if let Some(path) = &self.server_certificate {
            let pem = std::fs::read(path).map_err(|e| {
                let shown = path.display().to_string();
                let shown = boxrig_wire::escape_line(&shown);
                Error::new(Kind::Invalid, format!("cannot read {shown}")).with_source(e)
            })?;
            builder = builder.pin_certificate(&pem);
        }
        if self.oidc {
            if let Some(path) = &self.tokens {
                builder = builder.oidc(&OidcSession::from_file(path)?);
            }
        } else if let (false, Some((certificate, key))) = (self.public, &self.client_certificate) {
            builder = builder.identity(&Identity::from_files(certificate, key)?);
        }
        if let Some(project) = &self.project {
            builder = builder.project(project.clone());
        }
        Ok(builder)
    }

    /// A client of it.
    ///
    /// # Errors
    ///
    /// As [`builder`](Self::builder).
    pub fn connect(&self) -> Result<Client> {
        self.builder()?.build()
    }

    /// A client at the first of its addresses that answers.
    ///
    /// # Errors
    ///
    /// As [`builder`](Self::builder); the last address's error when none answers.
    pub async fn connect_first(&self) -> Result<Client> {
        let mut last = Error::new(Kind::Invalid, "the remote has no address");
        for address in &self.addresses {
            let client = self.builder_at(address)?.build()?;
            match client.info().await {
                Ok(_) => return Ok(client),
                Err(e) if matches!(e.kind(), Kind::Transport | Kind::Timeout) => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn load(dir: &Path, extra: &[(&str, &str)]) -> Result<Remotes> {
        Remotes::load_in(|name| {
            let dir = dir.display().to_string();
            match name {
                "INCUS_CONF" => Some(dir),
                "INCUS_GLOBAL_CONF" => Some(format!("{dir}/global")),
                _ => extra
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| (*v).to_owned()),
            }
        })
    }

    #[test]
    fn what_the_tool_wrote_is_read() {
        let identity = Identity::generate("x").unwrap();
        let pem = String::from_utf8(identity.certificate().to_vec()).unwrap();
        let key = String::from_utf8(identity.key().to_vec()).unwrap();
        let dir = folder(&[
            (
                "config.yml",
                "default-remote: lab\nremotes:\n  images:\n    addr: https://images.example\n    protocol: simplestreams\n    public: true\n  lab:\n    addr: https://a:1,https://b\n    auth_type: tls\n    project: web\n    public: false\n    new_member: 1\naliases: {l: list}\n",
            ),
            (
                "global/config.yml",
                "remotes:\n  site:\n    addr: https://s\n  lab:\n    addr: https://other\n",
            ),
            ("servercerts/lab.crt", &pem),
            ("client.crt", &pem),
            ("client.key", &key),
        ]);
        let remotes = load(dir.path(), &[]).unwrap();
        let lab = remotes.get(None).unwrap();
        assert_eq!((&*lab.name, lab.project.as_deref()), ("lab", Some("web")));
        assert_eq!(lab.addresses, ["https://a:1", "https://b"]);
        assert!(lab.server_certificate.is_some() && lab.client_certificate.is_some());
        let client = lab.connect().unwrap();
        assert_eq!(client.caller().base().to_string(), "https://a:1");
        assert_eq!(client.project_name(), Some("web"));
        let site = remotes.get(Some("site")).unwrap();
        assert!(site.global && site.server_certificate.is_none());
        let images = remotes.get(Some("images")).unwrap();
        assert_eq!(images.connect().unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(
            remotes.get(Some("nope")).unwrap_err().kind(),
            Kind::NotFound
        );
        assert_eq!(remotes.iter().count(), 4, "local is always there");
        assert_eq!(remotes.aliases()["l"], "list");

        let chosen = load(
            dir.path(),
            &[("INCUS_REMOTE", "site"), ("INCUS_PROJECT", "p")],
        )
        .unwrap();
        let site = chosen.get(None).unwrap();
        assert_eq!((&*site.name, site.project.as_deref()), ("site", Some("p")));
    }

    #[test]
    fn nothing_there_means_local_and_rubbish_is_named() {
        let dir = folder(&[]);
        let remotes = load(dir.path(), &[("INCUS_SOCKET", "/s")]).unwrap();
        assert_eq!(remotes.get(None).unwrap().addresses, ["unix://"]);
        assert!(
            Folders::find(|_| None).user.is_none(),
            "no home is no error"
        );
        let dir = folder(&[("config.yml", "remotes: [1")]);
        let e = load(dir.path(), &[]).unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid);
        assert!(e.to_string().contains("config.yml"), "{e}");
    }

    #[test]
    fn a_name_is_not_a_path() {
        let dir = folder(&[
            (
                "config.yml",
                "remotes:\n  \"../client\":\n    addr: https://a\n",
            ),
            ("client.crt", "x"),
        ]);
        let remotes = load(dir.path(), &[]).unwrap();
        let remote = remotes.get(Some("../client")).unwrap();
        assert!(remote.server_certificate.is_none());
    }
}
