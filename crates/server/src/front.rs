//! The front door: which names a request may be addressed to, and which protocol answers it.
//!
//! The order is fixed: service host names first (they reach no protocol), then the checks of `Host` and `Origin`, then the
//! path: VergeOS `/api` and `/files`; FastVM `/v1` and `/healthz`; Incus `/`, `/1.0`, `/os` and `/internal`; Convox the
//! rest. The control API is on the unix socket only.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use boxrig_wire::{ApiError, BoxFuture, Kind, Protocol, WireBody};
use http::header::{CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use http::uri::Authority;
use http::{Response, StatusCode};

use crate::core::Platform;
use crate::router::{Peer, RequestInfo, error};
use crate::services::{Client, Services};

/// The domain of services: `<service>.<app>.localhost`, `<name>--<vm id in hex>.proxy.localhost`.
const SERVICE_DOMAIN: &str = ".localhost";

/// The host names a request over TCP may be addressed to. Without this check a web page could reach the server by a
/// name of its own that points to 127.0.0.1 (DNS rebinding).
#[derive(Clone, Debug, Default)]
pub struct AllowedHosts(BTreeSet<String>);

impl AllowedHosts {
    /// Loopback names and addresses, and these.
    pub fn new(more: impl IntoIterator<Item = String>) -> Self {
        Self(more.into_iter().map(|name| normal(&name)).collect())
    }

    fn contains(&self, host: &str) -> bool {
        let host = normal(host);
        host == "localhost"
            || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            || self.0.contains(&host)
    }
}

/// Lower case, without brackets and the dot at the end.
fn normal(host: &str) -> String {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// The protocols of a server behind its addresses.
pub struct Front {
    hosts: AllowedHosts,
    services: Option<Services>,
    control: Arc<dyn Platform>,
    fastvm: Arc<dyn Platform>,
    vergeos: Arc<dyn Platform>,
    incus: Arc<dyn Platform>,
    convox: Arc<dyn Platform>,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("hosts", &self.hosts).finish()
    }
}

impl Front {
    /// A front with FastVM; the other platforms answer that they are not there yet.
    pub fn new(hosts: AllowedHosts, control: Arc<dyn Platform>, fastvm: Arc<dyn Platform>) -> Self {
        Self {
            hosts,
            services: None,
            control,
            fastvm,
            vergeos: Absent::<boxrig_vergeos::VergeOs>::platform(),
            incus: Absent::<boxrig_incus::Incus>::platform(),
            convox: Absent::<boxrig_convox::Convox>::platform(),
        }
    }

    /// A front that answers VergeOS' paths and no others: that of a system with an address of its own.
    pub(crate) fn of_vergeos(hosts: AllowedHosts, vergeos: Arc<dyn Platform>) -> Self {
        let nothing: Arc<dyn Platform> = Arc::new(Nothing);
        Self {
            hosts,
            services: None,
            control: nothing.clone(),
            fastvm: nothing.clone(),
            vergeos,
            incus: nothing.clone(),
            convox: nothing,
        }
    }

    /// With host names that lead to instances.
    #[must_use]
    pub fn services(mut self, services: Services) -> Self {
        self.services = Some(services);
        self
    }

    /// With VergeOS answered by `platform`.
    #[must_use]
    pub fn vergeos(mut self, platform: Arc<dyn Platform>) -> Self {
        self.vergeos = platform;
        self
    }

    /// With Convox answered by `platform`.
    #[must_use]
    pub fn convox(mut self, platform: Arc<dyn Platform>) -> Self {
        self.convox = platform;
        self
    }

    /// All protocols.
    pub fn platforms(&self) -> impl Iterator<Item = &Arc<dyn Platform>> {
        [&self.fastvm, &self.vergeos, &self.incus, &self.convox].into_iter()
    }

    /// Answers a request.
    pub async fn answer(
        &self,
        info: RequestInfo,
        request: http::Request<WireBody>,
    ) -> Response<WireBody> {
        let local = matches!(info.peer, Peer::Unix { .. });
        if !local {
            match self.admit(&info) {
                Err(refusal) => return refusal.response(),
                Ok(Addressed::Server) => {}
                Ok(Addressed::Service(authority)) => {
                    return self.service(info, authority, request).await;
                }
            }
        }
        let path = request.uri().path();
        let platform = match first_segment(path) {
            "boxrig" if local => &self.control,
            "api" | "files" => &self.vergeos,
            "v1" => &self.fastvm,
            "healthz" if path == "/healthz" => &self.fastvm,
            "" | "1.0" => &self.incus,
            "os" | "internal" => {
                return error::<boxrig_incus::Incus>(&ApiError::not_found("not found"));
            }
            // Incus' clients come by the socket or with a certificate, and read its envelope.
            _ if local || info.client_cert.is_some() => {
                return error::<boxrig_incus::Incus>(&ApiError::not_found("not found"));
            }
            // Not even to say that it is elsewhere.
            "boxrig" => return error::<boxrig_convox::Convox>(&ApiError::not_found("")),
            _ => &self.convox,
        };
        platform.route(info, request).await
    }

    /// Answers a request to a service's host name. Whatever its path, it reaches no protocol of the server's.
    async fn service(
        &self,
        info: RequestInfo,
        authority: Authority,
        request: http::Request<WireBody>,
    ) -> Response<WireBody> {
        let client = Client {
            address: match info.peer {
                Peer::Tcp(address) => Some(address),
                _ => None,
            },
            tls: info.tls,
            authority,
        };
        match &self.services {
            Some(services) => services.answer(client, request).await,
            None => Refusal {
                status: StatusCode::NOT_FOUND,
                words: "no services are published here".to_owned(),
            }
            .response(),
        }
    }

    /// Whether a request that came over TCP is addressed to this server, by a program of the user's own choice.
    fn admit(&self, info: &RequestInfo) -> Result<Addressed, Refusal> {
        let mut hosts = info.headers.get_all(HOST).iter();
        let host = match hosts.next() {
            None => None,
            Some(host) => Some(
                host.to_str()
                    .ok()
                    .and_then(|h| h.parse::<Authority>().ok())
                    .ok_or_else(|| Refusal::bad("the Host header is not a host"))?,
            ),
        };
        if host.as_ref().is_some_and(|h| !is_host_and_port(h)) {
            return Err(Refusal::bad("the Host header is not a host and a port"));
        }
        // Two names are one for each reader of the request (RFC 9112, 3.2).
        if hosts.next().is_some() {
            return Err(Refusal::bad("there are two Host headers"));
        }
        if !matches!(info.uri.scheme_str(), None | Some("http" | "https")) {
            return Err(Refusal::bad("the request is for another scheme"));
        }
        let authority = match (info.uri.authority(), host) {
            (Some(one), Some(other)) if *one != other => {
                return Err(Refusal::forbidden(
                    "the Host header is not the request's host",
                ));
            }
            (Some(authority), _) => authority.clone(),
            (None, Some(host)) => host,
            (None, None) => return Err(Refusal::bad("the Host header is missing")),
        };
        let host = authority.host();
        if is_service(host) {
            // Who may come from where is the service's own affair.
            return Ok(Addressed::Service(authority));
        }
        if !self.hosts.contains(host) {
            return Err(Refusal {
                status: StatusCode::FORBIDDEN,
                words: format!(
                    "this server does not answer to the host {host:?}; start it with --allow-host to add a name"
                ),
            });
        }
        // A browser tells where a request comes from; only pages of this server's own may send one.
        let origin = info.headers.get(ORIGIN);
        let same_origin = origin.is_none_or(|origin| {
            let scheme = if info.tls { "https" } else { "http" };
            let own = format!("{scheme}://{authority}");
            origin.as_bytes().eq_ignore_ascii_case(own.as_bytes())
        });
        let site = info.header("sec-fetch-site");
        if !same_origin || matches!(site, Some("cross-site" | "same-site")) {
            return Err(Refusal::forbidden(
                "requests from other web sites are refused",
            ));
        }
        Ok(Addressed::Server)
    }
}

/// What a request is addressed to.
enum Addressed {
    /// The server's own protocols.
    Server,
    /// A service, by this host.
    Service(Authority),
}

/// Whether a host name is a service's: `<service>.<app>` or `<name>--<id>.proxy`, two labels, and the domain.
fn is_service(host: &str) -> bool {
    let host = normal(host);
    let name = host.strip_suffix(SERVICE_DOMAIN);
    name.is_some_and(|name| name.split('.').count() == 2)
}

/// Whether there is nothing but a host and a port: no user, no words in the port's place.
fn is_host_and_port(authority: &Authority) -> bool {
    let rest = authority.as_str().strip_prefix(authority.host());
    match rest {
        Some("" | ":") => true,
        Some(_) => authority.port_u16().is_some(),
        None => false,
    }
}

fn first_segment(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split('/').next().unwrap_or("")
}

/// A request that no protocol gets to see.
struct Refusal {
    status: StatusCode,
    words: String,
}

impl Refusal {
    fn forbidden(words: &str) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            words: words.to_owned(),
        }
    }
    fn bad(words: &str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            words: words.to_owned(),
        }
    }
    fn response(self) -> Response<WireBody> {
        let body = serde_json::json!({ "error": self.words }).to_string();
        let mut response = Response::new(WireBody::full(body));
        *response.status_mut() = self.status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

/// No platform: what has no place at this address.
#[derive(Debug)]
struct Nothing;

impl Platform for Nothing {
    fn route(
        &self,
        _: RequestInfo,
        _: http::Request<WireBody>,
    ) -> BoxFuture<'_, Response<WireBody>> {
        Box::pin(async { error::<boxrig_vergeos::VergeOs>(&ApiError::not_found("no such path")) })
    }
}

/// A platform that this version does not serve: a 501 in its own form, which names it.
pub(crate) struct Absent<P>(std::marker::PhantomData<fn() -> P>);

impl<P: Protocol> std::fmt::Debug for Absent<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Absent({})", P::PLATFORM)
    }
}

impl<P: Protocol> Absent<P> {
    pub(crate) fn platform() -> Arc<dyn Platform> {
        Arc::new(Self(std::marker::PhantomData))
    }
}

impl<P: Protocol> Platform for Absent<P> {
    fn route(
        &self,
        info: RequestInfo,
        request: http::Request<WireBody>,
    ) -> BoxFuture<'_, Response<WireBody>> {
        Box::pin(async move {
            let words = format!(
                "this version of boxrig does not serve {}: {} {}",
                P::PLATFORM,
                info.method,
                request.uri().path(),
            );
            error::<P>(&ApiError::new(Kind::Unsupported, words))
        })
    }
}

#[cfg(test)]
mod tests;
