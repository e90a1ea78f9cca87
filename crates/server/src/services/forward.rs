//! One request to one backend, and its answer back.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use boxrig_engine::BoxDuplex;
use boxrig_wire::{Duplex, UpgradeSlot, WireBody};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::{Protocol, Services, UnderWay, normal, told};

/// How long a backend may take to take a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How often a set that is replaced while its backends are tried is looked at again.
const ROUNDS: u32 = 8;

/// Headers of one connection, which the next one does not get (RFC 9110, 7.6.1).
const HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Who asks, as a backend is told.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its address.
    pub address: Option<SocketAddr>,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The host that it asked for, with the port if it named one.
    pub authority: Authority,
}

impl Services {
    /// Answers a request to a service's host name.
    pub async fn answer(
        &self,
        client: Client,
        request: http::Request<WireBody>,
    ) -> Response<WireBody> {
        let name = normal(client.authority.host());
        if request.method() == Method::CONNECT {
            let words = "CONNECT is not for services";
            return told(StatusCode::METHOD_NOT_ALLOWED, words);
        }
        let mut why = None;
        let mut rounds = 0;
        loop {
            let Some((backends, protocol)) = self.in_turn(&name) else {
                let words = format!("no service is published as {name:?}");
                return told(StatusCode::NOT_FOUND, &words);
            };
            let mut changed = false;
            for backend in backends {
                let Some(under_way) = self.begin(&name, &backend) else {
                    changed = true;
                    continue;
                };
                let connect = self.0.engine.connect(&backend.instance, backend.port);
                let failed = match tokio::time::timeout(CONNECT, connect).await {
                    Ok(Ok(io)) => return send(protocol, io, &client, request, under_way).await,
                    Ok(Err(e)) => e.to_string(),
                    Err(_) => format!("{} does not take connections", backend.instance),
                };
                // Nothing was sent: the next one may have it.
                self.mark_down(&backend);
                tracing::debug!(service = name, instance = %backend.instance, error = failed, "passed over");
                why = Some(failed);
            }
            // The set was replaced in the middle: those who serve now have not been asked yet.
            rounds += 1;
            if !changed || rounds == ROUNDS {
                break;
            }
        }
        let words = match why {
            None => format!("no process of {name:?} is ready"),
            Some(why) => format!("no process of {name:?} takes connections: {why}"),
        };
        let mut response = told(StatusCode::SERVICE_UNAVAILABLE, &words);
        let soon = HeaderValue::from_static("1");
        response.headers_mut().insert(header::RETRY_AFTER, soon);
        response
    }
}

fn broken(e: &hyper::Error) -> Response<WireBody> {
    // The client's own doing is not the backend's fault, and nobody reads the answer then.
    let words = format!("the service broke off: {e}; whether it took the request is not known");
    told(StatusCode::BAD_GATEWAY, &words)
}

async fn send(
    protocol: Protocol,
    io: BoxDuplex,
    client: &Client,
    request: http::Request<WireBody>,
    under_way: UnderWay,
) -> Response<WireBody> {
    let (mut parts, body) = request.into_parts();
    let upgrade = wants_upgrade(&parts);
    prepare(&mut parts.headers, client, upgrade.as_ref());
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let io = TokioIo::new(io);
    match protocol {
        Protocol::Http => {
            parts.version = Version::HTTP_11;
            parts.uri = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
            let started = hyper::client::conn::http1::Builder::new()
                .preserve_header_case(true)
                .handshake(io)
                .await;
            let (mut sender, connection) = match started {
                Ok(started) => started,
                Err(e) => return broken(&e),
            };
            tokio::spawn(async move {
                if let Err(e) = connection.with_upgrades().await {
                    tracing::debug!(error = %e, "a service's connection");
                }
            });
            let request = http::Request::from_parts(parts, body);
            match sender.send_request(request).await {
                Ok(response) => back(response, under_way, upgrade, sender),
                Err(e) => broken(&e),
            }
        }
        Protocol::H2c => {
            if upgrade.is_some() {
                let words = "the service speaks HTTP/2, which has no upgrades";
                return told(StatusCode::NOT_IMPLEMENTED, words);
            }
            let scheme = if client.tls { "https" } else { "http" };
            let uri = Uri::builder()
                .scheme(scheme)
                .authority(client.authority.clone())
                .path_and_query(path)
                .build();
            parts.uri = uri.unwrap_or_else(|_| Uri::from_static("/"));
            parts.version = Version::HTTP_2;
            parts.headers.remove(header::HOST);
            let started = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .handshake(io)
                .await;
            let (mut sender, connection) = match started {
                Ok(started) => started,
                Err(e) => return broken(&e),
            };
            tokio::spawn(async move {
                if let Err(e) = connection.await {
                    tracing::debug!(error = %e, "a service's connection");
                }
            });
            let request = http::Request::from_parts(parts, body);
            match sender.send_request(request).await {
                Ok(response) => back(response, under_way, None, sender),
                Err(e) => broken(&e),
            }
        }
    }
}

/// The protocol that a request wants to change to.
fn wants_upgrade(parts: &http::request::Parts) -> Option<HeaderValue> {
    let asked = parts.headers.get_all(header::CONNECTION).iter().any(|v| {
        let text = v.to_str().unwrap_or_default();
        text.split(',')
            .any(|t| t.trim().eq_ignore_ascii_case("upgrade"))
    });
    let token = parts.headers.get(header::UPGRADE).cloned();
    token.filter(|_| asked && parts.version == Version::HTTP_11)
}

fn without_hops(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP) {
        headers.remove(name);
    }
}

/// Makes a client's headers a backend's: without those of the connection, and with who asked.
fn prepare(headers: &mut HeaderMap, client: &Client, upgrade: Option<&HeaderValue>) {
    let trailers = headers
        .get(header::TE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| {
            v.split(',')
                .any(|t| t.trim().eq_ignore_ascii_case("trailers"))
        });
    without_hops(headers);
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    // The listener answers it when the body is asked for.
    headers.remove(header::EXPECT);
    if let Some(token) = upgrade {
        headers.insert(header::UPGRADE, token.clone());
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let mut set = |name: &'static str, value: Option<String>| {
        let name = HeaderName::from_static(name);
        // What a client says of itself is not passed on as ours.
        headers.remove(&name);
        if let Some(value) = value.and_then(|v| HeaderValue::try_from(v).ok()) {
            headers.insert(name, value);
        }
    };
    let scheme = if client.tls { "https" } else { "http" };
    let port = client.authority.port_u16();
    set(
        "x-forwarded-for",
        client.address.map(|a| a.ip().to_string()),
    );
    set("x-forwarded-proto", Some(scheme.to_owned()));
    set("x-forwarded-host", Some(client.authority.to_string()));
    let port = port.unwrap_or(if client.tls { 443 } else { 80 });
    set("x-forwarded-port", Some(port.to_string()));
    if let Ok(host) = HeaderValue::try_from(client.authority.as_str()) {
        headers.insert(header::HOST, host);
    }
}

/// A backend's answer as the client's.
fn back(
    mut response: Response<Incoming>,
    under_way: UnderWay,
    upgrade: Option<HeaderValue>,
    sender: impl Send + 'static,
) -> Response<WireBody> {
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switched && upgrade.is_none() {
        let words = "the service changed the protocol, which was not asked of it";
        return told(StatusCode::BAD_GATEWAY, words);
    }
    let token = response.headers().get(header::UPGRADE).cloned();
    let other = switched.then(|| hyper::upgrade::on(&mut response));
    without_hops(response.headers_mut());
    let Some(other) = other else {
        return response.map(|body| {
            WireBody::stream(Counted {
                body,
                under_way: Some(under_way),
                _sender: Box::new(sender),
            })
        });
    };
    let mut answer = response.map(|_| WireBody::empty());
    let headers = answer.headers_mut();
    if let Some(token) = token.or(upgrade) {
        headers.insert(header::UPGRADE, token);
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    let slot = UpgradeSlot::acceptor(Box::new(move |client| {
        Box::pin(async move {
            let _under_way = under_way;
            match other.await {
                Ok(io) => splice(client, TokioIo::new(io)).await,
                Err(e) => tracing::debug!(error = %e, "a service's upgrade"),
            }
        })
    }));
    answer.extensions_mut().insert(slot);
    answer
}

/// Carries bytes both ways until both sides have ended, or one is gone.
async fn splice(mut client: Box<dyn Duplex>, mut service: impl Duplex) {
    if let Err(e) = tokio::io::copy_bidirectional(&mut client, &mut service).await {
        tracing::debug!(error = %e, "a service's socket");
    }
}

/// A body that counts as a request under way until its end.
struct Counted {
    body: Incoming,
    under_way: Option<UnderWay>,
    /// Without it the connection would end with the request's head, whatever is still to be sent.
    _sender: Box<dyn Send>,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.under_way = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(headers: &[(&str, &str)]) -> http::request::Parts {
        let mut request = http::Request::get("/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn client(tls: bool) -> Client {
        Client {
            address: Some(([127, 0, 0, 1], 5).into()),
            tls,
            authority: "web.app.localhost:7979".parse().unwrap(),
        }
    }

    #[test]
    fn headers_of_the_connection_stay_there() {
        let mut parts = parts(&[
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("keep-alive", "5"),
            ("te", "gzip, trailers"),
            ("expect", "100-continue"),
            ("x-forwarded-for", "1.2.3.4"),
            ("cookie", "kept"),
        ]);
        prepare(&mut parts.headers, &client(true), None);
        let mut left: Vec<_> = parts
            .headers
            .iter()
            .map(|(n, v)| format!("{n}: {}", v.to_str().unwrap()))
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                "cookie: kept",
                "host: web.app.localhost:7979",
                "te: trailers",
                "x-forwarded-for: 127.0.0.1",
                "x-forwarded-host: web.app.localhost:7979",
                "x-forwarded-port: 7979",
                "x-forwarded-proto: https",
            ]
        );
    }

    #[test]
    fn upgrades_are_asked_for_by_both_headers() {
        let both = parts(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        assert_eq!(wants_upgrade(&both).unwrap(), "websocket");
        assert!(wants_upgrade(&parts(&[("upgrade", "websocket")])).is_none());
        assert!(wants_upgrade(&parts(&[("connection", "upgrade")])).is_none());
    }
}
