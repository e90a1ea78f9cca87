//! Which proxy a request goes through.

use std::fmt;

use base64::Engine as _;
use boxrig_wire::{Error, Kind};
use http::uri::Authority;
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;

/// Which proxy to go through. Credentials in a proxy's URL are sent to the proxy as `Proxy-Authorization` and
/// shown nowhere. Loopback addresses are never proxied unless
/// [`HttpBuilder::proxy_loopback`](crate::HttpBuilder::proxy_loopback) says so.
#[derive(Clone, Debug, Default)]
pub enum Proxy {
    /// What `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say, in lower or upper case, lower case
    /// first. `HTTP_PROXY` in upper case is not read within CGI (`REQUEST_METHOD` is set), where a caller's
    /// header could set it.
    #[default]
    Environment,
    /// None.
    None,
    /// This one for everything: `http[s]://[USER:PASSWORD@]HOST[:PORT]`.
    Url(boxrig_wire::Secret),
}

impl Proxy {
    pub(crate) fn resolve(&self, loopback: bool) -> Result<Proxies, Error> {
        let proxies = match self {
            Self::Environment => Proxies::from_vars(|name| std::env::var(name).ok()),
            Self::None => Proxies::default(),
            Self::Url(url) => Proxies::all(url.expose())?,
        };
        Ok(Proxies {
            loopback,
            ..proxies
        })
    }
}

/// The proxies in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    http: Option<Result<Gateway, String>>,
    https: Option<Result<Gateway, String>>,
    except: Vec<Exception>,
    loopback: bool,
}

/// One proxy.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub(crate) tls: bool,
    pub(crate) authority: Authority,
    pub(crate) authorization: Option<HeaderValue>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gateway({})", self.authority)
    }
}

impl Proxies {
    /// Reads them from variables.
    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Self {
        let cgi = var("REQUEST_METHOD").is_some();
        let get = |name: &str| {
            let upper = name.to_ascii_uppercase();
            var(name)
                .or_else(|| {
                    (!(cgi && name == "http_proxy"))
                        .then(|| var(&upper))
                        .flatten()
                })
                .map(|v| v.trim().to_owned())
                .filter(|v| !v.is_empty())
        };
        let all = get("all_proxy");
        // A proxy that cannot be used is remembered as an error: going around it is not what was asked.
        let read = |name: &str| {
            get(name)
                .map(|v| (name, v))
                .or_else(|| all.clone().map(|v| ("all_proxy", v)))
                .map(|(name, v)| parse(&v).map_err(|e| format!("{name} {e}")))
        };
        Self {
            http: read("http_proxy"),
            https: read("https_proxy"),
            except: get("no_proxy")
                .map(|v| v.split([',', ' ']).filter_map(Exception::parse).collect())
                .unwrap_or_default(),
            loopback: false,
        }
    }

    /// Everything through one.
    fn all(url: &str) -> Result<Self, Error> {
        let proxy = parse(url).map_err(|e| Error::new(Kind::Invalid, format!("the proxy {e}")))?;
        Ok(Self {
            http: Some(Ok(proxy.clone())),
            https: Some(Ok(proxy)),
            ..Self::default()
        })
    }

    /// The proxy for a target.
    pub(crate) fn pick(&self, https: bool, target: &Authority) -> Result<Option<&Gateway>, Error> {
        let Some(proxy) = (if https { &self.https } else { &self.http }) else {
            return Ok(None);
        };
        let host = bare(target.host());
        if !self.loopback && is_loopback(&host) {
            return Ok(None);
        }
        let port = target.port_u16().unwrap_or(if https { 443 } else { 80 });
        if self.except.iter().any(|e| e.covers(&host, port)) {
            return Ok(None);
        }
        match proxy {
            Ok(proxy) => Ok(Some(proxy)),
            Err(why) => Err(Error::new(Kind::Invalid, why.clone())),
        }
    }
}

fn parse(text: &str) -> Result<Gateway, String> {
    // The text may hold a password: no error quotes it.
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let uri: Uri = full
        .parse()
        .map_err(|_| "is not a URL like http://HOST:PORT".to_owned())?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err("is neither an http nor an https proxy; others are not spoken".to_owned()),
    };
    let authority = uri.authority().ok_or("names no host")?;
    let (credentials, host) = match authority.as_str().rsplit_once('@') {
        Some((c, h)) => (Some(c), h),
        None => (None, authority.as_str()),
    };
    let host = if uri.port().is_none() {
        format!("{host}:{}", if tls { 443 } else { 80 })
    } else {
        host.to_owned()
    };
    let authorization = credentials.map(|c| {
        let (user, password) = c.split_once(':').unwrap_or((c, ""));
        let mut plain: Vec<u8> = percent_decode_str(user).collect();
        plain.push(b':');
        plain.extend(percent_decode_str(password));
        let text = base64::engine::general_purpose::STANDARD.encode(plain);
        HeaderValue::from_str(&format!("Basic {text}")).map(|mut v| {
            v.set_sensitive(true);
            v
        })
    });
    Ok(Gateway {
        tls,
        authority: host
            .parse()
            .map_err(|_| "names no usable host".to_owned())?,
        authorization: authorization
            .transpose()
            .map_err(|_| "has unusable credentials".to_owned())?,
    })
}

/// Without the brackets of an IPv6 address, and in lower case.
fn bare(host: &str) -> String {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .trim_end_matches('.')
        .to_ascii_lowercase()
}

pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// An entry of `NO_PROXY`.
#[derive(Clone, Debug)]
enum Exception {
    Everything,
    /// The name and everything under it, on one port or all.
    Name(String, Option<u16>),
    Network(std::net::IpAddr, u8),
}

impl Exception {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        if text == "*" {
            return Some(Self::Everything);
        }
        if let Some((ip, bits)) = text.split_once('/')
            && let (Ok(ip), Ok(bits)) = (bare(ip).parse(), bits.parse())
        {
            return Some(Self::Network(ip, bits));
        }
        if let Ok(ip) = bare(text).parse::<std::net::IpAddr>() {
            return Some(Self::Network(ip, if ip.is_ipv4() { 32 } else { 128 }));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (text, None),
        };
        Some(Self::Name(
            bare(name.trim_start_matches("*.").trim_start_matches('.')),
            port,
        ))
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        match self {
            Self::Everything => true,
            Self::Name(name, at) => {
                at.is_none_or(|at| at == port)
                    && host
                        .strip_suffix(name.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Self::Network(net, bits) => {
                use std::net::IpAddr::{V4, V6};
                let under = |a: u128, b: u128, width: u32| {
                    let shift = width.saturating_sub(u32::from(*bits));
                    (a ^ b).checked_shr(shift).unwrap_or(0) == 0
                };
                match (net, host.parse()) {
                    (V4(a), Ok(V4(b))) => under(a.to_bits().into(), b.to_bits().into(), 32),
                    (V6(a), Ok(V6(b))) => under(a.to_bits(), b.to_bits(), 128),
                    _ => false,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(vars: &[(&str, &str)]) -> Proxies {
        Proxies::from_vars(|name| {
            vars.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        })
    }
    fn pick(p: &Proxies, url: &str) -> Option<String> {
        let uri: Uri = url.parse().unwrap();
        p.pick(uri.scheme_str() == Some("https"), uri.authority().unwrap())
            .unwrap()
            .map(|p| p.authority.to_string())
    }

    #[test]
    fn the_environment() {
        let p = proxies(&[
            ("HTTP_PROXY", "http://upper:1"),
            ("http_proxy", "lower:2"),
            ("ALL_PROXY", "https://all"),
            (
                "NO_PROXY",
                "internal, .corp:8443,10.0.0.0/8 , fd00::/8,1.2.3.4",
            ),
        ]);
        assert_eq!(pick(&p, "http://h/").as_deref(), Some("lower:2"));
        assert_eq!(pick(&p, "https://h/").as_deref(), Some("all:443"));
        for direct in [
            "http://internal/",
            "http://a.internal:9/",
            "https://x.corp:8443/",
            "http://10.1.2.3/",
            "http://[fd00::1]/",
            "http://1.2.3.4/",
            "http://localhost/",
            "http://x.localhost/",
            "http://127.9.9.9/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert_eq!(pick(&p, direct), None, "{direct}");
        }
        for proxied in [
            "http://xinternal/",
            "https://x.corp/",
            "http://11.0.0.1/",
            "http://1.2.3.5/",
            "http://[fe00::1]/",
        ] {
            assert!(pick(&p, proxied).is_some(), "{proxied}");
        }
        let all = proxies(&[("http_proxy", "p:1"), ("no_proxy", "*")]);
        assert_eq!(pick(&all, "http://h/"), None);
        let cgi = proxies(&[("HTTP_PROXY", "p:1"), ("REQUEST_METHOD", "GET")]);
        assert_eq!(pick(&cgi, "http://h/"), None);
        assert_eq!(
            pick(
                &Proxy::Url("p:1".to_owned().into()).resolve(true).unwrap(),
                "http://[::1]/"
            )
            .as_deref(),
            Some("p:1")
        );
    }

    #[test]
    fn an_unusable_proxy_is_an_error_and_not_a_way_around() {
        let p = proxies(&[("ALL_PROXY", "socks5://user:canary@p:1")]);
        let e = p.pick(true, &"h".parse().unwrap()).unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid);
        assert!(!format!("{e} {e:?} {p:?}").contains("canary"));
    }

    #[test]
    fn credentials_are_decoded_and_hidden() {
        let p = Proxies::all("http://u%40:can%3aary@p:1").unwrap();
        let got = p.pick(false, &"h".parse().unwrap()).unwrap().unwrap();
        let value = got.authorization.clone().unwrap();
        assert_eq!(value.as_bytes(), b"Basic dUA6Y2FuOmFyeQ==");
        assert!(value.is_sensitive());
        assert_eq!(got.authority.as_str(), "p:1");
        assert!(!format!("{p:?}").contains("can"));
    }
}
