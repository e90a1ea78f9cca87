//! Where a context points: the URLs `fastvm://host`, `vergeos://host`, `incus://host`, `incus+unix:///path`,
//! `convox://host/org/rack` and `local`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use boxrig_compute::Platform;
use boxrig_wire::{Error, Kind};

/// A parsed context URL. `+http` after the platform means plain HTTP.
///
/// ```
/// use boxrig::Target;
///
/// let t: Target = "fastvm+http://127.0.0.1:7979".parse().unwrap();
/// assert_eq!(t.base(), "http://127.0.0.1:7979");
/// assert!("fastvm://key@host".parse::<Target>().is_err(), "no secret in a URL");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    platform: Platform,
    /// `host[:port]`, or the path of a unix socket.
    address: String,
    path: String,
    plain: bool,
    unix: bool,
}

impl Target {
    /// The local background server.
    pub fn local() -> Self {
        Self {
            platform: Platform::Local,
            address: String::new(),
            path: String::new(),
            plain: true,
            unix: true,
        }
    }

    /// Whose protocol is spoken there.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// `http(s)://host[:port]`, with the platform's own port where it is not the scheme's.
    pub fn base(&self) -> String {
        let scheme = if self.plain { "http" } else { "https" };
        let host = self.address.rsplit(']').next().unwrap_or("");
        let port = match self.platform {
            Platform::Incus if !host.contains(':') => ":8443",
            _ => "",
        };
        format!("{scheme}://{}{port}", self.address)
    }

    /// The unix socket, where it is one.
    pub fn unix_socket(&self) -> Option<&Path> {
        (self.unix && self.platform != Platform::Local).then(|| Path::new(&self.address))
    }

    /// What follows the host: a rack of Convox.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the connection is neither encrypted nor local.
    pub fn is_plain(&self) -> bool {
        self.plain && !self.unix
    }
}

impl FromStr for Target {
    type Err = Error;

    /// # Errors
    ///
    /// [`Kind::Invalid`], in words.
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| {
            Error::new(Kind::Invalid, format!("not a context URL: {why}")).with_hint(
                "fastvm://HOST, vergeos://HOST, incus://HOST:8443, incus+unix:///PATH, \
                 convox://HOST/ORG/RACK or local; +http after the platform for plain HTTP",
            )
        };
        if text == "local" || text == "local:" || text == "local://" {
            return Ok(Self::local());
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| invalid("it has no ://"))?;
        let (platform, how) = match scheme.split_once('+') {
            Some((platform, how)) => (platform, Some(how)),
            None => (scheme, None),
        };
        let platform = match Platform::from(platform) {
            Platform::Unknown(_) | Platform::Local => {
                return Err(invalid("the platform is not known"));
            }
            known => known,
        };
        if how == Some("unix") {
            if platform != Platform::Incus {
                return Err(invalid("only Incus is reached by a unix socket"));
            }
            if !rest.starts_with('/') {
                return Err(invalid("the path of the unix socket is not absolute"));
            }
            return Ok(Self {
                platform,
                address: rest.to_owned(),
                path: String::new(),
                plain: true,
                unix: true,
            });
        }
        let plain = match how {
            None | Some("https") => false,
            Some("http") => true,
            Some(_) => return Err(invalid("after + there is neither http nor unix")),
        };
        let (address, path) = match rest.split_once('/') {
            Some((address, path)) => (address, path.trim_end_matches('/')),
            None => (rest, ""),
        };
        if address.is_empty() {
            return Err(invalid("it has no host"));
        }
        if address.contains('@') {
            return Err(invalid("it has a user or a secret in it").with_hint(
                "give the user with --user and the secret with --secret-from env:VAR, cmd:… or file:…",
            ));
        }
        if rest.contains(['?', '#', ' ', '\t', '\\']) || rest.chars().any(char::is_control) {
            return Err(invalid(
                "it has a query, a fragment, a blank or a control character",
            ));
        }
        if !path.is_empty() && platform != Platform::Convox {
            return Err(invalid("only a Convox URL has a path"));
        }
        // The host and port are checked by the strictest reader there is: the one that will use them.
        format!("https://{address}/")
            .parse::<http::Uri>()
            .map_err(|_| invalid("the host cannot be parsed"))?;
        Ok(Self {
            platform,
            address: address.to_owned(),
            path: path.to_owned(),
            plain,
            unix: false,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.platform == Platform::Local {
            return f.write_str("local");
        }
        let how = match (self.unix, self.plain) {
            (true, _) => "+unix",
            (_, true) => "+http",
            _ => "",
        };
        write!(f, "{}{how}://{}", self.platform, self.address)?;
        if !self.path.is_empty() {
            write!(f, "/{}", self.path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_survive() {
        for text in [
            "fastvm://api.fastvm.org",
            "fastvm+http://127.0.0.1:7979",
            "vergeos://[::1]:443",
            "incus://host:8443",
            "incus+unix:///var/lib/incus/unix.socket",
            "convox://console.convox.com/org/rack",
            "local",
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), text);
        }
    }

    #[test]
    fn incus_has_a_port_of_its_own_and_sockets() {
        for (text, base) in [
            ("incus://host", "https://host:8443"),
            ("incus://host:9", "https://host:9"),
            ("incus://[::1]", "https://[::1]:8443"),
            ("incus://[::1]:9", "https://[::1]:9"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.base(), base);
            assert_eq!(target.unix_socket(), None);
        }
        let target: Target = "incus+unix:///run/s".parse().unwrap();
        assert_eq!(target.unix_socket(), Some(Path::new("/run/s")));
        assert_eq!(Target::local().unix_socket(), None);
    }

    #[test]
    fn wrong_urls_are_refused_in_words() {
        for text in [
            "",
            "fastvm",
            "http://host",
            "docker://host",
            "fastvm://",
            "fastvm://key@host",
            "fastvm://host/path",
            "fastvm://host?x=1",
            "fastvm+ftp://host",
            "fastvm+unix:///x",
            "incus+unix://relative",
            "fastvm://ho st",
            "fastvm://host\u{1b}[2J",
        ] {
            let e = text.parse::<Target>().unwrap_err();
            assert_eq!(e.kind(), Kind::Invalid, "{text}");
            assert!(e.hint().is_some());
            assert!(!e.to_string().contains("key@"));
        }
    }
}
