//! Who asks, and what they may do: the rack's password, or a signed token with a role.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use boxrig_wire::{ApiError, Kind, Secret};
use http::StatusCode;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::auth::{Credentials, same};
use crate::router::RequestInfo;
use crate::{files, ids};

/// The block of SHA-256, which HMAC pads its key to (RFC 2104).
const BLOCK: usize = 64;
/// The longest text of an actor that is kept.
const ACTOR_LIMIT: usize = 128;

/// Somebody who was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Who {
    /// A set of letters: `r`, `w`, `a`.
    pub(super) role: Arc<str>,
    /// The name for the record of who did what.
    pub(super) actor: Arc<str>,
}

impl Who {
    pub(super) fn can(&self, letter: char) -> bool {
        self.role.contains(letter)
    }

    /// # Errors
    ///
    /// 401 in the rack's words: its roles are too low for reading and writing at all.
    pub(super) fn check(&self, letter: char) -> Result<(), ApiError> {
        if self.can(letter) {
            return Ok(());
        }
        Err(ApiError::new(
            Kind::Unauthenticated,
            "you are unauthorized to access this",
        ))
    }

    /// # Errors
    ///
    /// 403 with `words`.
    pub(super) fn check_admin(&self, words: &str) -> Result<(), ApiError> {
        if self.can('a') {
            return Ok(());
        }
        Err(ApiError::new(Kind::Denied, words))
    }
}

/// The roles a token can be made for, by the words of the API.
const ROLES: [(&str, &str); 3] = [("read", "r"), ("write", "rw"), ("admin", "rwa")];

/// Signs and checks tokens; the key is in a file of its own that only the owner can read.
pub(super) struct Tokens {
    path: PathBuf,
    key: RwLock<Secret>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// Reads the key, and makes one at the first start.
    pub(super) fn open(path: PathBuf) -> std::io::Result<Self> {
        let key = match std::fs::read_to_string(&path) {
            Ok(text) => {
                files::check_private(&path)?;
                text.trim().to_owned()
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e),
        };
        let tokens = Self {
            path,
            key: RwLock::new(Secret::new(key.clone())),
        };
        if key.is_empty() {
            tokens.rotate()?;
        }
        Ok(tokens)
    }

    /// Makes a new key: every token so far is void.
    pub(super) fn rotate(&self) -> std::io::Result<()> {
        let key = ids::secret();
        files::write_private(&self.path, |f| writeln!(f, "{key}"))?;
        *self.key.write().unwrap_or_else(|e| e.into_inner()) = Secret::new(key);
        Ok(())
    }

    fn sign(&self, text: &str) -> String {
        let key = self.key.read().unwrap_or_else(|e| e.into_inner());
        URL_SAFE_NO_PAD.encode(hmac_sha256(key.expose().as_bytes(), text.as_bytes()))
    }

    /// A token for `role` (`read`, `write` or `admin`); `None` for another word.
    pub(super) fn mint(&self, role: &str, now_s: u64, hours: u64) -> Option<String> {
        let (word, letters) = ROLES.iter().find(|(word, _)| *word == role)?;
        let header = json!({ "alg": "HS256", "typ": "JWT" }).to_string();
        let claims = json!({
            "user": format!("system-{word}"),
            "role": letters,
            "expiresAt": now_s + hours * 3600,
        });
        let text = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims.to_string()),
        );
        let signature = self.sign(&text);
        Some(format!("{text}.{signature}"))
    }

    fn verify(&self, token: &str, now_s: u64) -> Result<Who, &'static str> {
        let (text, signature) = token.rsplit_once('.').ok_or("token is malformed")?;
        let (header, claims) = text.split_once('.').ok_or("token is malformed")?;
        let read = |part: &str| -> Result<Value, &'static str> {
            let bytes = URL_SAFE_NO_PAD.decode(part);
            let bytes = bytes.map_err(|_| "token is malformed")?;
            serde_json::from_slice(&bytes).map_err(|_| "token is malformed")
        };
        if read(header)?["alg"] != "HS256" {
            return Err("unexpected signing method");
        }
        if !same(self.sign(text).as_bytes(), signature.as_bytes()) {
            return Err("signature is invalid");
        }
        let claims = read(claims)?;
        let word = |name: &str| claims[name].as_str().ok_or("invalid token");
        let expires = claims["expiresAt"].as_f64().ok_or("invalid token")?;
        if expires < now_s as f64 {
            return Err("token is expired");
        }
        Ok(Who {
            role: word("role")?.into(),
            actor: word("user")?.into(),
        })
    }

    /// A console's session: an id that says its end, and is void with the key.
    pub(super) fn session(&self, now_s: u64) -> String {
        let until = now_s + SESSION_S;
        format!("{until}.{}", self.sign(&format!("session {until}")))
    }

    /// Only consoles are sent `Session`; an empty one asks for the challenge.
    ///
    /// # Errors
    ///
    /// 401 with a challenge ([`challenge`]) when it is none of ours, or over.
    pub(super) fn check_session(&self, info: &RequestInfo, now_s: u64) -> Result<(), ApiError> {
        let Some(id) = info.header("session") else {
            return Ok(());
        };
        let holds = id.trim().split_once('.').is_some_and(|(until, signature)| {
            until.parse::<u64>().is_ok_and(|until| until > now_s)
                && same(
                    self.sign(&format!("session {until}")).as_bytes(),
                    signature.as_bytes(),
                )
        });
        if holds {
            return Ok(());
        }
        Err(ApiError::new(Kind::Unauthenticated, NO_SESSION))
    }

    /// Lets a request in.
    ///
    /// # Errors
    ///
    /// The 401s of a rack; the one for a wrong password carries a challenge ([`challenge`]).
    pub(super) fn admit(
        &self,
        credentials: &Credentials,
        info: &RequestInfo,
        now: Duration,
    ) -> Result<Who, ApiError> {
        let refused = |words: String| ApiError::new(Kind::Unauthenticated, words);
        let (user, password) = basic(info).unwrap_or_default();
        if user == "jwt" {
            return self
                .verify(&password, now.as_secs())
                .map_err(|why| refused(format!("invalid authentication: {why}")));
        }
        if !same(
            password.as_bytes(),
            credentials.password.expose().as_bytes(),
        ) {
            return Err(refused(INVALID.to_owned()));
        }
        let actor = ["convox-actor", "x-convox-actor"]
            .iter()
            .filter_map(|name| info.header(name).map(str::trim))
            .find(|text| !text.is_empty())
            .map(|text| text.chars().filter(|c| !c.is_control()).take(ACTOR_LIMIT));
        Ok(Who {
            role: "rwa".into(),
            actor: actor.map_or_else(|| "rack-password".into(), |a| a.collect::<String>().into()),
        })
    }
}

const INVALID: &str = "invalid authentication";

const NO_SESSION: &str = "session expired";
/// Where a session is begun.
pub(super) const SESSION_PATH: &str = "/session";
/// How long it lasts, in seconds.
const SESSION_S: u64 = 12 * 3600;

/// What `WWW-Authenticate` says with an error, if it comes with one.
pub(super) fn challenge(e: &ApiError) -> Option<&'static str> {
    match &*e.message {
        _ if e.http_status() != StatusCode::UNAUTHORIZED => None,
        INVALID => Some("Basic realm=\"convox\""),
        NO_SESSION => Some("Session path=\"/session\" token=\"false\""),
        _ => None,
    }
}

fn basic(info: &RequestInfo) -> Option<(String, String)> {
    let value = info.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = STANDARD.decode(rest.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// HMAC with SHA-256 (RFC 2104).
fn hmac_sha256(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut padded = [0; BLOCK];
    if key.len() > BLOCK {
        padded[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        padded[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new()
        .chain_update(padded.map(|b| b ^ 0x36))
        .chain_update(text)
        .finalize();
    Sha256::new()
        .chain_update(padded.map(|b| b ^ 0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        // Test cases 2 and 6 (a key longer than a block).
        let hex = |mac: [u8; 32]| crate::ids::to_hex(&mac);
        assert_eq!(
            hex(hmac_sha256(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(hmac_sha256(
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First"
            )),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn tokens_end_and_are_voided() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path().join("key")).unwrap();
        let token = tokens.mint("write", 1000, 1).unwrap();
        let who = tokens.verify(&token, 1000).unwrap();
        assert_eq!((&*who.role, &*who.actor), ("rw", "system-write"));
        assert!(who.check_admin("no").is_err());
        assert_eq!(tokens.verify(&token, 4601), Err("token is expired"));
        let other = Tokens::open(dir.path().join("key")).unwrap();
        assert!(other.verify(&token, 1000).is_ok(), "the key is kept");
        let (text, _) = token.rsplit_once('.').unwrap();
        let none = format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}"),
            "e30"
        );
        for forged in [format!("{text}."), format!("{text}.AAAA"), none, "x".into()] {
            assert!(tokens.verify(&forged, 1000).is_err(), "{forged}");
        }
        tokens.rotate().unwrap();
        assert_eq!(tokens.verify(&token, 1000), Err("signature is invalid"));
        assert!(tokens.mint("root", 0, 1).is_none());
    }
}
