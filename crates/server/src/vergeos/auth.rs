//! Who asks: name and password, an API key, or a session.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxrig_wire::{ApiError, Kind, Meta};
use http::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};

use super::behaviour::ADMIN;
use super::db::Read;
use super::mutate::mutated;
use super::row::Row;
use super::state::{Cx, Shared, State};
use super::write::{HASH, password_is, token_hash};
use crate::auth::same;
use crate::core::Core;
use crate::ids;
use crate::router::{Call, Peer, RequestInfo};
use crate::state::{StateError, Store, Table, lock};

/// The cell that holds the hash of an API key's secret.
pub(super) const KEY_HASH: &str = "$hash";
/// The header of sessions, and of API keys in some of the vendor's tools.
const SESSION_HEADER: &str = "x-yottabyte-token";
/// A session ends when it was not used for this long.
const SESSION_IDLE_MS: u64 = 15 * 60 * 1000;
/// The last use of a session is saved when what is saved is older than this.
const SESSION_SAVED_MS: u64 = 60 * 1000;
const HOUR_MS: u64 = 60 * 60 * 1000;
/// The last use of a key is noted when the note is older than this.
const NOTE_AFTER_SEC: i64 = 60;

/// A session, as it is kept: by the hash of its token, over a restart of the server.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Session {
    user: i64,
    used_ms: u64,
}

/// The sessions of a system.
#[derive(Debug)]
pub(super) struct Sessions {
    kept: Table<Session>,
    /// When each was last used, where that is not saved yet.
    used: Mutex<HashMap<String, u64>>,
}

impl Sessions {
    pub(super) fn open(store: &Store, name: &'static str) -> Result<Self, StateError> {
        Ok(Self {
            kept: store.table(name)?,
            used: Mutex::default(),
        })
    }

    /// Begins one and gives its token.
    pub(super) async fn begin(&self, core: &Core, user: i64) -> Result<String, StateError> {
        let mut token = ids::secret();
        token.truncate(40);
        let now = core.now_ms();
        let old = self.kept.with(|all| {
            let idle = all.keys().filter(|hash| self.live(hash, now).is_none());
            idle.cloned().collect::<Vec<_>>()
        });
        let write = core.store.write(|tx| {
            for hash in old {
                tx.delete(&self.kept, &hash);
            }
            let session = Session { user, used_ms: now };
            tx.put(&self.kept, &token_hash(&token), session)
        });
        write.await?;
        Ok(token)
    }

    /// Ends one; false when it was none.
    pub(super) async fn end(&self, core: &Core, token: &str) -> Result<bool, StateError> {
        let hash = token_hash(token);
        lock(&self.used).remove(&hash);
        let write = core
            .store
            .write(|tx| Ok::<_, StateError>(tx.delete(&self.kept, &hash)));
        write.await.map(|ended| ended.is_some())
    }

    /// Ends all.
    pub(super) async fn end_all(&self, core: &Core) -> Result<(), StateError> {
        self.forget();
        let write = core.store.write(|tx| {
            for hash in self
                .kept
                .with(|all| all.keys().cloned().collect::<Vec<_>>())
            {
                tx.delete(&self.kept, &hash);
            }
            Ok(())
        });
        write.await
    }

    /// Forgets what is not saved.
    pub(super) fn forget(&self) {
        lock(&self.used).clear();
    }

    /// A session that has not been idle for too long.
    fn live(&self, hash: &str, now_ms: u64) -> Option<Session> {
        let mut session = *self.kept.get(hash)?;
        let used = lock(&self.used).get(hash).copied();
        session.used_ms = session.used_ms.max(used.unwrap_or(0));
        (now_ms.saturating_sub(session.used_ms) < SESSION_IDLE_MS).then_some(session)
    }

    fn user(&self, core: &Arc<Core>, token: &str) -> Option<i64> {
        let (hash, now) = (token_hash(token), core.now_ms());
        let user = self.live(&hash, now)?.user;
        lock(&self.used).insert(hash.clone(), now);
        let saved = self.kept.get(&hash)?.used_ms;
        if now.saturating_sub(saved) >= SESSION_SAVED_MS {
            // Behind the answer: a use that is not saved costs at most a login after a restart.
            let (core, kept) = (core.clone(), self.kept.clone());
            tokio::spawn(async move {
                let write = core.store.write(|tx| {
                    // It may have been ended meanwhile.
                    match tx.get(&kept, &hash) {
                        Some(_) => tx.put(&kept, &hash, Session { user, used_ms: now }),
                        None => Ok(None),
                    }
                });
                if let Err(e) = write.await {
                    tracing::debug!(error = %e, "the use of a session was not saved");
                }
            });
        }
        Some(user)
    }
}

/// How often each API key was used in its present hour: when that began, and the number.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<HashMap<String, (u64, u32)>>);

impl Rates {
    /// Counts a request by a key.
    ///
    /// # Errors
    ///
    /// A 429 with the time until it may be used again.
    fn count(&self, key: &str, limit: Option<u32>, now_ms: u64) -> Result<(), ApiError> {
        let Some(limit) = limit else { return Ok(()) };
        let mut all = lock(&self.0);
        let (began, count) = all.entry(key.to_owned()).or_insert((now_ms, 0));
        if now_ms.saturating_sub(*began) >= HOUR_MS {
            (*began, *count) = (now_ms, 0);
        }
        if *count >= limit {
            let left = HOUR_MS.saturating_sub(now_ms.saturating_sub(*began));
            let words = format!("the API key was used {limit} times in an hour");
            let mut error = ApiError::new(Kind::RateLimited, words);
            error.retry_after = Some(left.div_ceil(1000).max(1));
            return Err(error);
        }
        *count += 1;
        Ok(())
    }
}

/// The 401. It does not tell an unknown user from a wrong password.
fn login_required() -> ApiError {
    ApiError::new(Kind::Unauthenticated, "Login is required")
}

/// The guard before every request but the start of a session.
pub(super) fn admit(call: &Call<Shared>, meta: Option<&'static Meta>) -> Result<(), ApiError> {
    if let Peer::Guest(_) = call.info.peer {
        return Err(ApiError::not_found("no such path"));
    }
    if meta.is_some_and(|m| m.id == "token_create") {
        return Ok(());
    }
    let who = who(&call.state, &call.info)?;
    match who.key {
        Some(key) => {
            let core = &call.state.core;
            call.state
                .rates
                .count(&key, core.vergeos_rate, core.now_ms())
        }
        None => Ok(()),
    }
}

/// The request's user, whom [`admit`] has let in, with the state.
pub(super) fn cx(call: &Call<Shared>) -> Result<Cx, ApiError> {
    let who = who(&call.state, &call.info)?;
    Ok(Cx::of(call.state.clone(), Some(who.user)))
}

/// Who asks.
struct Who {
    user: i64,
    /// The API key that was used.
    key: Option<String>,
}

impl From<i64> for Who {
    fn from(user: i64) -> Self {
        Self { user, key: None }
    }
}

fn who(state: &Shared, info: &RequestInfo) -> Result<Who, ApiError> {
    // The unix socket is full power.
    if matches!(info.peer, Peer::Unix { .. }) && info.headers.get(AUTHORIZATION).is_none() {
        return Ok(ADMIN.into());
    }
    if let Some(token) = info.header(SESSION_HEADER)
        && !token.is_empty()
    {
        if let Some(user) = state.sessions.user(&state.core, token) {
            return enabled(state, user).map(Who::from);
        }
        return by_key(state, info, token);
    }
    let header = info.headers.get(AUTHORIZATION).ok_or_else(login_required)?;
    let header = std::str::from_utf8(header.as_bytes()).map_err(|_| login_required())?;
    let (scheme, rest) = header.split_once(' ').ok_or_else(login_required)?;
    let rest = rest.trim();
    match scheme.to_ascii_lowercase().as_str() {
        "basic" => {
            let decoded = STANDARD.decode(rest).map_err(|_| login_required())?;
            let text = String::from_utf8(decoded).map_err(|_| login_required())?;
            let (name, password) = text.split_once(':').ok_or_else(login_required)?;
            by_password(state, name, password).map(Who::from)
        }
        "bearer" => by_key(state, info, rest),
        _ => Err(login_required()),
    }
}

/// The user of a name and a password.
///
/// # Errors
///
/// A 401.
pub(super) fn by_password(state: &State, name: &str, password: &str) -> Result<i64, ApiError> {
    let user = state
        .db
        .find("users", &|user| user.text("name") == name)
        .ok_or_else(login_required)?;
    let key = user.int("$key");
    if password.is_empty() || user.text("type") == "api" {
        return Err(login_required());
    }
    let kept = user.text(HASH);
    let right = if kept.is_empty() {
        // The admin's password is the server's own until another is set.
        let own = state.core.credentials.password.expose();
        key == ADMIN && same(own.as_bytes(), password.as_bytes())
    } else {
        let seen = token_hash(&format!("{key}\0{password}"));
        let known = lock(&state.verified).get(&seen).is_some_and(|k| k == kept);
        let right = known || password_is(kept, password);
        if right && !known {
            lock(&state.verified).insert(seen, kept.to_owned());
        }
        right
    };
    if !right {
        return Err(login_required());
    }
    usable(&user)
}

fn enabled(state: &State, user: i64) -> Result<i64, ApiError> {
    let user = state.db.get("users", &user.to_string());
    user.ok_or_else(login_required)
        .and_then(|user| usable(&user))
}

fn usable(user: &Row) -> Result<i64, ApiError> {
    match (user.flag("enabled") && !user.flag("account_locked")) || mutated("disabled_users") {
        true => Ok(user.int("$key")),
        false => Err(login_required()),
    }
}

fn by_key(state: &Shared, info: &RequestInfo, token: &str) -> Result<Who, ApiError> {
    let hash = token_hash(token);
    let key = state
        .db
        .children("user_api_keys", KEY_HASH, &hash)
        .into_iter()
        .next()
        .ok_or_else(login_required)?;
    let expires = key.int("expires");
    if key.text("expires_type") != "never"
        && expires != 0
        && expires <= state.now()
        && !mutated("key_expiry")
    {
        return Err(ApiError::new(
            Kind::Unauthenticated,
            "the API key has expired",
        ));
    }
    if let Peer::Tcp(addr) = info.peer {
        let ip = addr.ip().to_canonical();
        let (allow, deny) = (key.text("ip_allow_list"), key.text("ip_deny_list"));
        let refused = listed(deny, ip) || (!allow.trim().is_empty() && !listed(allow, ip));
        if refused && !mutated("key_addresses") {
            let words = format!("the API key may not be used from {ip}");
            return Err(ApiError::new(Kind::Denied, words));
        }
    }
    let user = enabled(state, key.int("user"))?;
    note_use(state, info, &key);
    let key = Some(key.key());
    Ok(Who { user, key })
}

/// Notes when and from where a key was used, without making the request wait.
fn note_use(state: &Shared, info: &RequestInfo, key: &Arc<Row>) {
    let now = state.now();
    if now - key.int("lastlogin_stamp") < NOTE_AFTER_SEC {
        return;
    }
    let ip = match info.peer {
        Peer::Tcp(addr) => addr.ip().to_canonical().to_string(),
        _ => String::new(),
    };
    let note = Row::new()
        .with("lastlogin_stamp", now)
        .with("lastlogin_ip", ip);
    let (cx, key) = (Cx::of(state.clone(), None), key.key());
    tokio::spawn(async move {
        if let Err(e) = cx.write(|tx| tx.set("user_api_keys", &key, note)).await {
            tracing::warn!(error = %e, "the use of an API key was not noted");
        }
    });
}

/// Whether an address is in a list of addresses and networks, separated by commas, blanks or lines.
fn listed(list: &str, ip: IpAddr) -> bool {
    list.split([',', '\n', ' '])
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| in_network(entry, ip).unwrap_or(false))
}

/// `None` for what is no network.
fn in_network(network: &str, ip: IpAddr) -> Option<bool> {
    let (base, bits) = match network.split_once('/') {
        Some((base, bits)) => (base, Some(bits.parse::<u32>().ok()?)),
        None => (network, None),
    };
    let base: IpAddr = base.parse().ok()?;
    let same = |a: u128, b: u128, width: u32| -> Option<bool> {
        let bits = bits.unwrap_or(width);
        if bits > width {
            return None;
        }
        // A shift by the whole width is none.
        let ignored = width - bits;
        let cut = |n: u128| n.checked_shr(ignored).unwrap_or(0);
        Some(cut(a) == cut(b))
    };
    match (base, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_hold_addresses_and_networks() {
        let ip: IpAddr = "10.1.2.3".parse().unwrap();
        for (list, is) in [
            ("", false),
            ("10.1.2.3", true),
            ("10.0.0.0/8", true),
            ("10.1.2.0/24,192.168.0.0/16", true),
            ("192.168.0.0/16\n10.1.2.3", true),
            ("10.1.3.0/24", false),
            ("0.0.0.0/0", true),
            ("nonsense", false),
            ("10.0.0.0/64", false),
            ("::/0", false),
        ] {
            assert_eq!(listed(list, ip), is, "{list:?}");
        }
        assert!(listed("::/0", "::1".parse().unwrap()));
    }

    #[test]
    fn an_hour_has_its_limit() {
        let rates = Rates::default();
        for n in 0..3 {
            assert!(rates.count("1", Some(3), n).is_ok());
        }
        let e = rates.count("1", Some(3), 1_000).unwrap_err();
        assert_eq!((e.kind, e.retry_after), (Kind::RateLimited, Some(3_599)));
        assert!(rates.count("2", Some(3), 1_000).is_ok());
        assert!(rates.count("1", None, 1_000).is_ok());
        assert!(rates.count("1", Some(3), HOUR_MS).is_ok());
    }
}
