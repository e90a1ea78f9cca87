//! The files of the vendor's command-line tool: who is logged in where, and which rack is meant.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use boxrig_wire::{Error, Kind, Result, Secret, Untrusted};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

/// The console that the vendor's tool uses when no other is set.
const CONSOLE: &str = "console.convox.com";
/// The largest file that is read.
const LARGEST: u64 = 1024 * 1024;

/// Host → password, token, key or session.
pub(crate) type Hosts = BTreeMap<String, Secret>;

/// Where the vendor's files are, and whom they are asked about.
///
/// The folder is `CONVOX_CONFIG`, else the platform's own for settings with `convox` in it (Linux: `XDG_CONFIG_HOME` or
/// `~/.config`), else that of version 2, `~/.convox`: the first that has a file `auth`. With neither host nor rack, the
/// rack is that of `RACK_URL`, `CONVOX_RACK`, `./.convox/rack`, then the tool's `current` one.
#[derive(Clone, Debug, Default)]
pub struct CliConfig {
    dir: Option<PathBuf>,
    host: Option<String>,
    rack: Option<String>,
}

/// A host with what opens it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Login {
    /// The host, with or without a scheme.
    pub host: String,
    /// The user part; `convox` when none is said, `jwt` for a token.
    pub user: Option<String>,
    /// The password, deploy key or token.
    pub password: Secret,
    /// The rack behind a console.
    pub rack: Option<String>,
    /// The session of the host.
    pub session: Option<Secret>,
    /// The file that sessions of this host are kept in.
    pub session_file: Option<PathBuf>,
    /// The host's name in that file.
    pub session_key: Option<String>,
}

/// A rack or console that the vendor's tool knows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Known {
    /// What the tool calls it.
    pub name: String,
    /// Its host, or the console's.
    pub host: String,
    /// The rack behind a console.
    pub rack: Option<String>,
    /// The file it was found in.
    pub file: PathBuf,
    /// Whether it is the tool's current one.
    pub current: bool,
}

impl CliConfig {
    /// The tool's own folder, the tool's own rack.
    pub fn new() -> Self {
        Self::default()
    }
    /// Another folder.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }
    /// The console or rack to look up.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }
    /// The rack that is meant; given alone, and known as a host, it is the host too.
    pub fn rack(mut self, rack: impl Into<String>) -> Self {
        self.rack = Some(rack.into());
        self
    }

    /// Looks up with the variables of this process.
    ///
    /// # Errors
    ///
    /// [`Kind::Unauthenticated`] when nobody is logged in there, [`Kind::Invalid`] for a file or name that cannot be used.
    pub fn login(&self) -> Result<Login> {
        self.login_with(&|name| std::env::var(name).ok())
    }

    /// As [`login`](Self::login), with another source of variables.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn login_with(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Login> {
        let set = |name: &str| variable(name).filter(|v| !v.trim().is_empty());
        if self.host.is_none()
            && self.rack.is_none()
            && let Some(url) = set("RACK_URL")
        {
            return rack_url(&url);
        }
        let dir = self.folder(&set);
        let mut rack = self.rack.clone();
        let mut current = None;
        if self.host.is_none() && rack.is_none() {
            rack = set("CONVOX_RACK").or_else(|| text(Path::new(".convox/rack")).ok().flatten());
            if rack.is_none() {
                current = current_rack(&dir)?;
                rack = current.as_ref().map(|c| c.name.clone());
            }
        }
        // A rack by name may be a file with its URL.
        if self.host.is_none()
            && let Some(name) = rack.as_deref().filter(|n| plain_name(n))
        {
            let file = dir.join("racks").join(name);
            if file.is_dir() {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("the rack {} is managed by Terraform in {}", Untrusted::new(name), Untrusted::new(file.to_string_lossy())),
                )
                .with_hint("take its address and password from Terraform's outputs: RACK_URL=https://convox:PASSWORD@HOST"));
            }
            if let Some(url) = text(&file)? {
                return rack_url(&url);
            }
        }
        let auth = dir.join("auth");
        if let Some(host) = &self.host
            && !auth.exists()
            && let Some(found) = rack_of_host(&dir, host)?
        {
            return Ok(found);
        }
        let hosts = map(&auth)?.ok_or_else(|| {
            Error::new(
                Kind::Unauthenticated,
                format!("no login of the vendor's tool: there is no {}", Untrusted::new(auth.to_string_lossy())),
            )
            .with_hint("log in with `convox login`, or give host and key, or set CONVOX_HOST and CONVOX_PASSWORD")
        })?;
        let is_host = |name: &Option<String>| name.clone().filter(|n| hosts.contains_key(n));
        let console = || text(&dir.join("console")).ok().flatten();
        let host = match &self.host {
            Some(host) => host.clone(),
            None => is_host(&rack)
                .or_else(|| set("CONVOX_HOST"))
                .or_else(console)
                .or_else(|| {
                    (hosts.len() == 1)
                        .then(|| hosts.keys().next().cloned())
                        .flatten()
                })
                .or_else(|| is_host(&Some(CONSOLE.to_owned())))
                .ok_or_else(|| {
                    Error::new(Kind::Invalid, "the vendor's tool knows several hosts")
                        .with_hint(format!("name one of {}", names(&hosts)))
                })?,
        };
        if !hosts.contains_key(&host)
            && let Some(found) = rack_of_host(&dir, &host)?
        {
            return Ok(found);
        }
        let password = hosts.get(&host).cloned().ok_or_else(|| {
            Error::new(
                Kind::Unauthenticated,
                format!("no login for {}", Untrusted::new(&*host)),
            )
            .with_hint(format!("there are logins for {}", names(&hosts)))
        })?;
        // A rack that is addressed directly is its own host.
        let rack = rack.filter(|r| *r != host);
        let session_file = dir.join("session");
        let session = map(&session_file)?.and_then(|mut s| s.remove(&host));
        drop(current);
        Ok(Login {
            user: None,
            password,
            rack,
            session: session.filter(|s| !s.is_empty()),
            session_file: Some(session_file),
            session_key: Some(host.clone()),
            host,
        })
    }

    /// What the tool knows: the hosts that it is logged in at, the racks by URL, the current rack. No secret is given.
    ///
    /// # Errors
    ///
    /// For a file that cannot be read.
    pub fn known_with(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Known>> {
        let set = |name: &str| variable(name).filter(|v| !v.trim().is_empty());
        let dir = self.folder(&set);
        let auth = dir.join("auth");
        let hosts = map(&auth)?.unwrap_or_default();
        let console = text(&dir.join("console"))?.unwrap_or_else(|| CONSOLE.to_owned());
        let current = current_rack(&dir)?;
        let of = |name: &str, host: &str, rack: Option<&str>, file: &Path| Known {
            name: name.to_owned(),
            host: host.to_owned(),
            rack: rack.map(str::to_owned),
            file: file.to_owned(),
            current: current.as_ref().is_some_and(|c| c.name == name),
        };
        let mut known = Vec::new();
        if let Some(current) = &current
            && hosts.contains_key(&console)
            && current.name.contains('/')
        {
            known.push(of(
                &current.name,
                &console,
                Some(&current.name),
                &dir.join("current"),
            ));
        }
        known.extend(hosts.keys().map(|host| of(host, host, None, &auth)));
        for (name, file) in rack_files(&dir) {
            let url = text(&file)?.unwrap_or_default();
            known.push(of(&name, &rack_url(&url)?.host, None, &file));
        }
        Ok(known)
    }

    /// The folder of the files.
    fn folder(&self, set: &dyn Fn(&str) -> Option<String>) -> PathBuf {
        if let Some(dir) = self
            .dir
            .clone()
            .or_else(|| set("CONVOX_CONFIG").map(Into::into))
        {
            return dir;
        }
        let candidates = folders(set);
        let found = candidates.iter().find(|dir| dir.join("auth").is_file());
        found.or(candidates.first()).cloned().unwrap_or_default()
    }
}

/// The folders that versions of the tool use, the newest first.
fn folders(set: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let home = set(if cfg!(windows) { "USERPROFILE" } else { "HOME" }).map(PathBuf::from);
    let below = |parts: &str| home.as_ref().map(|h| h.join(parts));
    let mut out: Vec<Option<PathBuf>> = Vec::new();
    if cfg!(windows) {
        out.push(set("LOCALAPPDATA").map(|d| PathBuf::from(d).join("convox")));
    } else if cfg!(target_os = "macos") {
        out.push(below("Library/Preferences/convox"));
        out.push(below("Library/Application Support/convox"));
    }
    out.push(set("XDG_CONFIG_HOME").map(|d| PathBuf::from(d).join("convox")));
    out.push(below(".config/convox"));
    out.push(below(".convox"));
    out.into_iter().flatten().collect()
}

/// The files of racks by URL.
fn rack_files(dir: &Path) -> Vec<(String, PathBuf)> {
    let listing = fs::read_dir(dir.join("racks"))
        .into_iter()
        .flatten()
        .flatten();
    let files = listing.filter(|f| f.path().is_file());
    let mut found: Vec<_> = files
        .filter_map(|f| Some((f.file_name().into_string().ok()?, f.path())))
        .collect();
    found.sort();
    found
}

/// The rack by URL that has this host.
fn rack_of_host(dir: &Path, host: &str) -> Result<Option<Login>> {
    let bare = |host: &str| {
        host.split_once("://")
            .map_or(host, |(_, h)| h)
            .trim_end_matches('/')
            .to_owned()
    };
    for (_, file) in rack_files(dir) {
        if let Some(url) = text(&file)? {
            let login = rack_url(&url)?;
            if bare(&login.host) == bare(host) {
                return Ok(Some(login));
            }
        }
    }
    Ok(None)
}

/// A rack's name that is one step of a path.
fn plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

#[derive(Deserialize)]
struct Current {
    #[serde(default)]
    name: String,
}

/// The tool's current rack; version 2 wrote the name alone.
fn current_rack(dir: &Path) -> Result<Option<Current>> {
    let Some(text) = text(&dir.join("current"))?.or(text(&dir.join("rack"))?) else {
        return Ok(None);
    };
    let current = match text.starts_with('{') {
        true => serde_json::from_str(&text).map_err(|e| {
            Error::new(Kind::Invalid, "the vendor's file `current` cannot be read").with_source(e)
        })?,
        false => Current { name: text },
    };
    Ok(Some(current).filter(|c| !c.name.is_empty()))
}

/// Reads `https://USER:PASSWORD@HOST`. The text may be wrong in any way and is never shown.
pub(crate) fn rack_url(text: &str) -> Result<Login> {
    let invalid = |why: &str| {
        Error::new(Kind::Invalid, format!("RACK_URL: {why}"))
            .with_hint("https://convox:PASSWORD@HOST, or https://jwt:TOKEN@HOST")
    };
    let (scheme, rest) = text
        .trim()
        .split_once("://")
        .ok_or_else(|| invalid("it has no scheme"))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let (user, host) = authority
        .rsplit_once('@')
        .ok_or_else(|| invalid("it has no password"))?;
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let decode = |text: &str| {
        percent_decode_str(text)
            .decode_utf8()
            .map(|t| t.into_owned())
            .map_err(|_| invalid("user or password are not UTF-8"))
    };
    if password.is_empty() {
        return Err(invalid("it has no password"));
    }
    Ok(Login {
        host: format!("{scheme}://{host}"),
        user: Some(decode(user)?).filter(|u| !u.is_empty()),
        password: Secret::new(decode(password)?),
        ..Login::default()
    })
}

fn names(hosts: &Hosts) -> String {
    let names: Vec<String> = hosts
        .keys()
        .map(|h| Untrusted::new(&**h).to_string())
        .collect();
    names.join(", ")
}

/// A file's text, trimmed; nothing when it is not there or empty.
fn text(file: &Path) -> Result<Option<String>> {
    let opened = match fs::File::open(file) {
        Ok(opened) => opened,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(cannot("read", file, e)),
    };
    let mut text = String::new();
    opened
        .take(LARGEST)
        .read_to_string(&mut text)
        .map_err(|e| cannot("read", file, e))?;
    let text = text.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// A file of host → secret; nothing when it is not there.
pub(crate) fn map(file: &Path) -> Result<Option<Hosts>> {
    let Some(text) = text(file)? else {
        return Ok(None);
    };
    // What is wrong with it may quote a secret, and so is not said.
    serde_json::from_str(&text).map(Some).map_err(|_| {
        let shown = Untrusted::new(file.to_string_lossy());
        Error::new(
            Kind::Invalid,
            format!("{shown} is not a JSON object of texts"),
        )
    })
}

/// Writes such a file whole or not at all, for the owner only.
#[cfg(feature = "transport")]
pub(crate) fn write(file: &Path, hosts: &Hosts) -> Result<()> {
    use std::io::Write as _;

    let dir = file.parent().unwrap_or(Path::new("."));
    let text = serde_json::to_vec_pretty(hosts)
        .map_err(|e| Error::new(Kind::Failed, "the file cannot be written").with_source(e))?;
    let mut new = tempfile::NamedTempFile::new_in(dir).map_err(|e| cannot("write", file, e))?;
    new.write_all(&text)
        .and_then(|()| new.as_file().sync_all())
        .map_err(|e| cannot("write", file, e))?;
    new.persist(file)
        .map_err(|e| cannot("write", file, e.error))?;
    Ok(())
}

fn cannot(what: &str, file: &Path, e: std::io::Error) -> Error {
    let shown = Untrusted::new(file.to_string_lossy());
    Error::new(Kind::Invalid, format!("cannot {what} {shown}")).with_source(e)
}
