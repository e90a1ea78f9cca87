//! Who asks: name and password, an API key, or a session.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxrig_wire::{ApiError, Kind, Meta};
use http::header::AUTHORIZATION;

use super::behaviour::ADMIN;
use super::db::Read;
use super::mutate::mutated;
use super::row::Row;
use super::state::{Cx, Shared, State};
use super::write::{HASH, password_is, token_hash};
use crate::auth::same;
use crate::ids;
use crate::router::{Call, Peer, RequestInfo};
use crate::state::lock;

/// The cell that holds the hash of an API key's secret.
pub(super) const KEY_HASH: &str = "$hash";
/// The header of sessions, and of API keys in some of the vendor's tools.
const SESSION_HEADER: &str = "x-yottabyte-token";
/// A session ends when it was not used for this long.
const SESSION_IDLE_MS: u64 = 15 * 60 * 1000;
/// The last use of a key is noted when the note is older than this.
const NOTE_AFTER_SEC: i64 = 60;

/// The sessions, by the hash of their token: whose, and when it was last used. They end with the server.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, (i64, u64)>>);

impl Sessions {
    /// Begins one and gives its token.
    pub(super) fn begin(&self, user: i64, now_ms: u64) -> String {
        let mut token = ids::secret();
        token.truncate(40);
        let mut all = lock(&self.0);
        all.retain(|_, (_, used)| now_ms.saturating_sub(*used) < SESSION_IDLE_MS);
        all.insert(token_hash(&token), (user, now_ms));
        token
    }
    /// Ends one; false when it was none.
    pub(super) fn end(&self, token: &str) -> bool {
        lock(&self.0).remove(&token_hash(token)).is_some()
    }
    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }
    fn user(&self, token: &str, now_ms: u64) -> Option<i64> {
        let mut all = lock(&self.0);
        let hash = token_hash(token);
        let (user, used) = all.get_mut(&hash)?;
        if now_ms.saturating_sub(*used) >= SESSION_IDLE_MS {
            all.remove(&hash);
            return None;
        }
        *used = now_ms;
        Some(*user)
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
    who(&call.state, &call.info).map(drop)
}

/// The request's user, whom [`admit`] has let in, with the state.
pub(super) fn cx(call: &Call<Shared>) -> Result<Cx, ApiError> {
    let user = who(&call.state, &call.info)?;
    Ok(Cx::of(call.state.clone(), Some(user)))
}

fn who(state: &Shared, info: &RequestInfo) -> Result<i64, ApiError> {
    // The unix socket is full power.
    if matches!(info.peer, Peer::Unix { .. }) && info.headers.get(AUTHORIZATION).is_none() {
        return Ok(ADMIN);
    }
    if let Some(token) = info.header(SESSION_HEADER)
        && !token.is_empty()
    {
        if let Some(user) = state.sessions.user(token, state.core.now_ms()) {
            return enabled(state, user);
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
            by_password(state, name, password)
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

fn by_key(state: &Shared, info: &RequestInfo, token: &str) -> Result<i64, ApiError> {
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
    Ok(user)
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
    fn sessions_end_when_idle() {
        let sessions = Sessions::default();
        let token = sessions.begin(7, 0);
        assert_eq!(token.len(), 40);
        assert_eq!(sessions.user(&token, SESSION_IDLE_MS - 1), Some(7));
        assert_eq!(sessions.user(&token, 2 * SESSION_IDLE_MS - 2), Some(7));
        assert_eq!(sessions.user(&token, 4 * SESSION_IDLE_MS), None);
        let token = sessions.begin(7, 0);
        assert!(sessions.end(&token));
        assert_eq!(sessions.user(&token, 1), None);
    }
}
