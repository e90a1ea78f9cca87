//! Credentials: made at the first start, kept in files only their owner can read, always required over TCP.

use std::fs;
use std::io::Write;
use std::path::Path;

use boxrig_wire::{ApiError, Kind, Secret};
use subtle::ConstantTimeEq;

use crate::files;
use crate::ids;
use crate::router::{Peer, RequestInfo};

/// Overrides the password of VergeOS and Convox, for tests.
pub const PASSWORD_ENV: &str = "BOXRIG_SERVE_PASSWORD";
/// Overrides the API key of FastVM, for tests.
pub const API_KEY_ENV: &str = "BOXRIG_SERVE_API_KEY";

/// The credentials of a server. `Debug` shows nothing of them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Credentials {
    /// The password of the user `admin` (VergeOS) and of the rack (Convox).
    pub password: Secret,
    /// The API key of FastVM.
    pub api_key: Secret,
}

impl Credentials {
    /// Reads the credentials under `dir`, and makes those that are not there yet (mode 0600).
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written, or others can read it.
    pub fn open(dir: &Path) -> std::io::Result<Self> {
        files::private_dir(dir)?;
        Ok(Self {
            password: one(dir, "password", PASSWORD_ENV, "")?,
            api_key: one(dir, "api-key", API_KEY_ENV, "hlm_")?,
        })
    }

    /// Whether a FastVM request may go on: its key is right, or it came by the unix socket.
    ///
    /// # Errors
    ///
    /// A 401 that does not tell a missing key from a wrong one by anything but its words.
    pub fn check_api_key(&self, info: &RequestInfo) -> Result<(), ApiError> {
        if matches!(info.peer, Peer::Unix { .. }) {
            return Ok(());
        }
        match info.headers.get("x-api-key") {
            Some(key) if same(key.as_bytes(), self.api_key.expose().as_bytes()) => Ok(()),
            Some(_) => Err(ApiError::new(Kind::Unauthenticated, "invalid API key")),
            None => Err(ApiError::new(
                Kind::Unauthenticated,
                "missing API key: send the header X-API-Key",
            )),
        }
    }
}

/// Compares in a time that does not depend on where two texts differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

fn one(dir: &Path, name: &str, variable: &str, prefix: &str) -> std::io::Result<Secret> {
    if let Ok(value) = std::env::var(variable)
        && !value.is_empty()
    {
        return Ok(Secret::new(value));
    }
    let path = dir.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => {
            files::check_private(&path)?;
            let text = text.trim_end_matches(['\r', '\n']);
            if text.is_empty() {
                return Err(std::io::Error::other(format!(
                    "{} is empty; remove it to have a new one made",
                    path.display()
                )));
            }
            Ok(Secret::new(text))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let text = format!("{prefix}{}", ids::secret());
            files::write_private(&path, |f| writeln!(f, "{text}"))?;
            Ok(Secret::new(text))
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_and_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("credentials");
        let first = Credentials::open(&dir).unwrap();
        let second = Credentials::open(&dir).unwrap();
        assert_eq!(first.api_key, second.api_key);
        assert_eq!(first.password, second.password);
        assert_ne!(first.api_key, first.password);
        assert!(!format!("{first:?}").contains(first.password.expose()));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let path = dir.join("api-key");
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let refused = Credentials::open(&dir).unwrap_err().to_string();
            assert!(refused.contains("others can read"), "{refused}");
        }
    }

    #[test]
    fn only_the_right_key_passes() {
        let credentials = Credentials {
            password: "p".into(),
            api_key: "My API Key".into(),
        };
        let ask = |peer: Peer, key: Option<&str>| {
            let mut request = http::Request::builder();
            if let Some(key) = key {
                request = request.header("X-API-Key", key);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            credentials
                .check_api_key(&RequestInfo::new(peer, &parts))
                .map_err(|e| e.http_status().as_u16())
        };
        let tcp = Peer::Tcp(([127, 0, 0, 1], 1).into());
        assert_eq!(ask(tcp.clone(), Some("My API Key")), Ok(()));
        assert_eq!(ask(tcp.clone(), Some("My API Ke")), Err(401));
        assert_eq!(ask(tcp.clone(), Some("")), Err(401));
        assert_eq!(ask(tcp, None), Err(401));
        assert_eq!(ask(Peer::Guest("x".into()), None), Err(401));
        assert_eq!(ask(Peer::Unix { uid: 0, pid: None }, None), Ok(()));
    }
}
