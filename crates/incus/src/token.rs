//! Trust tokens: one-time secrets by which a server learns a new client's certificate.

use std::time::SystemTime;

use base64::Engine as _;
use boxrig_wire::{Error, Kind, Result, Secret, Timestamp};
use serde::Deserialize;

use crate::client::{Address, Client, ClientBuilder};
use crate::identity::Identity;
use crate::models::CertificatesPost;
use crate::ops::certificates;

/// A trust token as `incus config trust add` prints it: base64 of a JSON document.
#[derive(Clone, Debug)]
pub struct TrustToken {
    /// The name that the client will have on the server.
    pub client_name: String,
    /// The SHA-256 of the server's certificate.
    pub fingerprint: String,
    /// Where the server listens.
    pub addresses: Vec<String>,
    /// When it ends; never, when it says so.
    pub expires_at: Timestamp,
    text: Secret,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Document {
    #[serde(deserialize_with = "boxrig_wire::nullable")]
    client_name: String,
    #[serde(deserialize_with = "boxrig_wire::nullable")]
    fingerprint: String,
    #[serde(deserialize_with = "boxrig_wire::nullable")]
    addresses: Vec<String>,
    #[serde(deserialize_with = "boxrig_wire::nullable")]
    secret: String,
    #[serde(deserialize_with = "boxrig_wire::nullable")]
    expires_at: Timestamp,
}

/// A server that has come to trust us.
#[derive(Debug)]
pub struct Trusted {
    /// A client of it.
    pub client: Client,
    /// The address of the token's that answered.
    pub address: String,
    /// The SHA-256 of the server's certificate, to be pinned from now on.
    pub fingerprint: String,
}

impl TrustToken {
    /// Reads a token.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when it is none. The token is in no error.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::new(Kind::Invalid, "this is not a trust token");
        let text = text.trim();
        let json = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|_| wrong())?;
        let document: Document = serde_json::from_slice(&json).map_err(|_| wrong())?;
        if document.secret.is_empty() || document.addresses.is_empty() {
            return Err(wrong());
        }
        // It is what says that the right server is spoken to.
        if document.fingerprint.len() != 64
            || !document.fingerprint.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Err(wrong().context("it has no fingerprint"));
        }
        Ok(Self {
            client_name: document.client_name,
            fingerprint: document.fingerprint,
            addresses: document.addresses,
            expires_at: document.expires_at,
            text: Secret::new(text),
        })
    }

    /// Whether it has ended at `now`.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        if self.expires_at.is_never() {
            return false;
        }
        let end: Option<jiff::Timestamp> = self.expires_at.0.parse().ok();
        let now = jiff::Timestamp::try_from(now).ok();
        matches!((end, now), (Some(end), Some(now)) if end <= now)
    }

    /// Redeems it for `identity`. Each of its addresses is tried; nothing is sent to a server whose certificate is not
    /// the token's, and the token is sent once.
    ///
    /// # Errors
    ///
    /// [`Kind::Unauthenticated`] for a token that has ended or was used, [`Kind::Conflict`] when the server trusts the
    /// identity already, [`Kind::Transport`] when no address leads to the token's server.
    pub async fn redeem(&self, identity: &Identity) -> Result<Trusted> {
        if self.is_expired(SystemTime::now()) {
            return Err(
                Error::new(Kind::Unauthenticated, "the trust token has expired")
                    .with_hint("ask for a new one: incus config trust add NAME"),
            );
        }
        let mut last = Error::new(Kind::Invalid, "the token names no address");
        for address in &self.addresses {
            let builder = ClientBuilder::new(Address::parse(address)?)
                .pin_sha256(&self.fingerprint)
                .identity(identity);
            match self.redeem_at(builder).await {
                Ok(client) => {
                    return Ok(Trusted {
                        client,
                        address: address.clone(),
                        fingerprint: self.fingerprint.clone(),
                    });
                }
                // Not reached, or not the right one: the next address may be.
                Err(e) if e.kind() == Kind::Transport => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last.context("no address of the token leads to its server"))
    }

    /// Redeems it through settings of one's own, which must pin [`fingerprint`](Self::fingerprint).
    ///
    /// # Errors
    ///
    /// As [`redeem`](Self::redeem).
    pub async fn redeem_at(&self, builder: ClientBuilder) -> Result<Client> {
        let client = builder.build()?;
        let post = CertificatesPost {
            r#type: "client".to_owned(),
            trust_token: self.text.expose().to_owned(),
            ..CertificatesPost::default()
        };
        client
            .send::<certificates::CertificatesPost>(Default::default(), boxrig_wire::Json(post))
            .await
            .map_err(|e| {
                let text = e.server_message().map_or("", |t| t.raw()).to_owned();
                if text.contains("already trusted") {
                    e.with_kind(Kind::Conflict)
                } else if text.contains("No matching certificate add operation") {
                    e.with_kind(Kind::Unauthenticated).with_hint(
                        "the token was used, cancelled or has expired: ask for a new one",
                    )
                } else {
                    e
                }
            })?;
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn token(json: &str) -> Result<TrustToken> {
        TrustToken::parse(&base64::engine::general_purpose::STANDARD.encode(json))
    }

    #[test]
    fn tokens_are_read_and_hidden() {
        let print = "ab".repeat(32);
        let t = token(&format!(
            r#"{{"client_name":"c","fingerprint":"{print}","addresses":["h:8443"],"secret":"canary","expires_at":"2026-01-01T00:00:00Z"}}"#
        ))
        .unwrap();
        assert_eq!((&*t.client_name, &*t.addresses[0]), ("c", "h:8443"));
        assert!(!format!("{t:?}").contains(t.text.expose()));
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        assert!(t.is_expired(then) && !t.is_expired(then - Duration::from_secs(1)));
        let never = format!(
            r#"{{"fingerprint":"{print}","addresses":["h"],"secret":"s","expires_at":"0001-01-01T00:00:00Z"}}"#
        );
        assert!(!token(&never).unwrap().is_expired(SystemTime::now()));
    }

    #[test]
    fn what_is_no_token_is_refused_without_quoting_it() {
        for bad in ["canary", "", "bnVsbA=="] {
            let e = TrustToken::parse(bad).unwrap_err();
            assert_eq!(e.kind(), Kind::Invalid);
            assert!(!format!("{e}{e:?}").contains("canary"));
        }
        let e = token(r#"{"fingerprint":"","addresses":["h"],"secret":"s"}"#).unwrap_err();
        assert!(e.to_string().contains("fingerprint"), "{e}");
    }
}
