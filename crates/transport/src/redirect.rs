//! Where a redirect leads, and what may go there.

use boxrig_wire::{Error, Kind};
use http::header::{AUTHORIZATION, COOKIE, HOST, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, StatusCode, Uri};

/// Whether the status asks a reader to go elsewhere.
pub(crate) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn refused(why: &str) -> Error {
    Error::new(
        Kind::Protocol,
        format!("a redirect was not followed: {why}"),
    )
    .with_hint("use the address it leads to, if you trust it")
}

/// The target of a `Location`, seen from `from` (RFC 3986 §5.2, http and https only).
///
/// # Errors
///
/// Says why it is not followed: another scheme, from https to http, credentials in it, unreadable.
pub(crate) fn target(from: &Uri, location: &[u8]) -> Result<Uri, Error> {
    let text = std::str::from_utf8(location).map_err(|_| refused("its target is not text"))?;
    let text = text.split('#').next().unwrap_or_default().trim();
    let (scheme, authority) = match (from.scheme_str(), from.authority()) {
        (Some(s), Some(a)) => (s, a),
        _ => return Err(refused("the request had no address")),
    };
    let origin = format!("{scheme}://{authority}");
    let full = if has_scheme(text) {
        text.to_owned()
    } else if text.starts_with("//") {
        format!("{scheme}:{text}")
    } else if text.starts_with('/') {
        format!("{origin}{text}")
    } else if text.starts_with('?') {
        format!("{origin}{}{text}", from.path())
    } else if text.is_empty() {
        return Err(refused("it names no target"));
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(f, _)| f);
        let (path, query) = text
            .split_once('?')
            .map_or((text, None), |(p, q)| (p, Some(q)));
        let path = without_dots(&format!("{folder}/{path}"));
        match query {
            Some(q) => format!("{origin}{path}?{q}"),
            None => format!("{origin}{path}"),
        }
    };
    let uri: Uri = full
        .parse()
        .map_err(|_| refused("its target is not a URL"))?;
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if scheme == "http" => {}
        Some("http") => return Err(refused("it leads from https to http")),
        _ => return Err(refused("it leads to something other than http or https")),
    }
    let authority = uri.authority().ok_or_else(|| refused("it names no host"))?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(refused("its target has credentials or no host"));
    }
    Ok(uri)
}

/// Whether the text starts with `scheme:`.
fn has_scheme(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

fn without_dots(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    out.pop();
                }
                if last {
                    out.push("");
                }
            }
            _ => out.push(part),
        }
    }
    format!("/{}", out.join("/"))
}

/// Whether scheme, host and port are the same.
pub(crate) fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |u: &Uri| {
        u.port_u16().unwrap_or(if u.scheme_str() == Some("https") {
            443
        } else {
            80
        })
    };
    let host = |u: &Uri| u.host().map(str::to_ascii_lowercase);
    a.scheme() == b.scheme() && host(a) == host(b) && port(a) == port(b)
}

/// Takes out what another origin must not see: credentials, by name and by mark.
pub(crate) fn strip_credentials(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers
        .iter()
        .filter(|(name, value)| {
            value.is_sensitive()
                || *name == AUTHORIZATION
                || *name == COOKIE
                || *name == PROXY_AUTHORIZATION
                || *name == HOST
                || matches!(name.as_str(), "x-api-key" | "rack")
        })
        .map(|(name, _)| name.clone())
        .collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(from: &str, location: &str) -> Result<String, String> {
        target(&from.parse().unwrap(), location.as_bytes())
            .map(|u| u.to_string())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn references() {
        for (location, expected) in [
            ("https://other/x", "https://other/x"),
            ("//other:1/x", "https://other:1/x"),
            ("/x?y=z#part", "https://h:8/x?y=z"),
            ("x", "https://h:8/a/x"),
            ("./x", "https://h:8/a/x"),
            ("../x", "https://h:8/x"),
            ("../../../x", "https://h:8/x"),
            ("?q", "https://h:8/a/b?q"),
            ("..", "https://h:8/"),
        ] {
            assert_eq!(
                to("https://h:8/a/b?c", location).as_deref(),
                Ok(expected),
                "{location}"
            );
        }
    }

    #[test]
    fn what_is_not_followed() {
        for bad in [
            "http://h/",
            "unix:///run/x",
            "unix:/x",
            "file:///etc/passwd",
            "ftp://h/",
            "",
            "https://u:p@h/",
            "https://",
            "javascript:alert(1)",
            "//",
            "/a b",
            "http+unix://x/",
            "/\u{1b}[2J",
        ] {
            assert!(to("https://h/a", bad).is_err(), "{bad:?}");
        }
        assert!(to("http://h/a", "http://other/").is_ok());
    }

    #[test]
    fn origins() {
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("http://h/", "http://H:80/x"));
        assert!(same("https://h:443/", "https://h/x"));
        assert!(!same("http://h/", "https://h/"));
        assert!(!same("http://h/", "http://h:81/"));
        assert!(!same("http://h/", "http://g/"));
    }

    #[test]
    fn credentials_by_name_and_by_mark() {
        let mut h = HeaderMap::new();
        for name in [
            "authorization",
            "cookie",
            "x-api-key",
            "rack",
            "host",
            "accept",
        ] {
            h.insert(name, "v".parse().unwrap());
        }
        let mut secret: http::HeaderValue = "v".parse().unwrap();
        secret.set_sensitive(true);
        h.insert("x-own", secret);
        strip_credentials(&mut h);
        assert_eq!(
            h.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["accept"]
        );
    }
}
