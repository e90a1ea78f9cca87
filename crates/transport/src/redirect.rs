//! Redirects of reads: followed a few times, never with credentials to another origin, never from TLS to
//! plain.

use boxrig_wire::{Error, Kind, Phase};
use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, LOCATION};
use http::{Method, Response, StatusCode, Uri};

use crate::attempt::{Broken, Head, Track};
use crate::body::{Inbound, Payload};
use crate::builder::Inner;
use crate::connect::origin;

/// Headers that hold credentials on one of the platforms, besides those that are marked sensitive.
const CREDENTIALS: &[&str] = &[
    "x-api-key",
    "rack",
    "session",
    "x-yottabyte-token",
    "proxy-authorization",
];

impl Inner {
    /// Follows the redirects of a GET or HEAD; any other answer is given as it is.
    pub(crate) async fn redirected(
        &self,
        head: &Head,
        mut answer: Response<Inbound>,
        track: &Track,
    ) -> Result<Response<Inbound>, Broken> {
        if self.redirects == 0 || !matches!(head.method, Method::GET | Method::HEAD) {
            return Ok(answer);
        }
        let mut head = head.clone();
        for _ in 0..self.redirects {
            let Some(location) = location(&answer) else {
                return Ok(answer);
            };
            let next = resolve(&head.uri, &location)
                .ok_or_else(|| refused("the address of a redirect is not usable"))?;
            if head.uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(refused(
                    "a redirect from https to a plain connection is not followed",
                ));
            }
            if origin(&head.uri) != origin(&next) {
                strip(&mut head.headers);
            }
            head.uri = next;
            answer = self
                .attempt(&head, &Payload::new(Default::default()), track)
                .await?;
        }
        match location(&answer) {
            Some(_) => Err(refused("too many redirects")),
            None => Ok(answer),
        }
    }
}

fn refused(words: &str) -> Broken {
    Broken {
        phase: Phase::BeforeSend,
        error: Error::new(Kind::Protocol, words),
    }
}

fn location(answer: &Response<Inbound>) -> Option<String> {
    let followed = matches!(
        answer.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    followed
        .then(|| {
            answer
                .headers()
                .get(LOCATION)?
                .to_str()
                .ok()
                .map(str::to_owned)
        })
        .flatten()
}

/// Takes everything off that another origin must not see.
fn strip(headers: &mut HeaderMap) {
    let names: Vec<_> = headers
        .iter()
        .filter(|(name, value)| {
            value.is_sensitive()
                || [AUTHORIZATION, COOKIE, HOST].contains(name)
                || CREDENTIALS.contains(&name.as_str())
        })
        .map(|(name, _)| name.clone())
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Where a redirect leads (RFC 3986, 5.2, without dot segments).
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let absolute = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{}://{rest}", base.scheme_str()?)
    } else if location.starts_with('/') {
        format!("{}{location}", origin(base))
    } else if location.contains("://") || location.is_empty() {
        return None;
    } else {
        let folder = base
            .path()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        format!("{}{folder}/{location}", origin(base))
    };
    let uri: Uri = absolute.parse().ok()?;
    // Credentials in the address would go to a host that the server chose.
    (uri.host().is_some() && !uri.authority()?.as_str().contains('@')).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_redirects_lead() {
        let base: Uri = "https://a.example/x/y?z".parse().unwrap();
        for (location, expected) in [
            ("/n", Some("https://a.example/n")),
            ("n?q", Some("https://a.example/x/n?q")),
            ("//b.example/n", Some("https://b.example/n")),
            ("http://b.example/n#f", Some("http://b.example/n")),
            ("ftp://b.example/", None),
            ("https://u:p@b.example/", None),
            ("", None),
        ] {
            assert_eq!(
                resolve(&base, location).map(|u| u.to_string()).as_deref(),
                expected,
                "{location}"
            );
        }
    }
}
