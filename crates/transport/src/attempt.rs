//! One try of a request: a connection, the request on it, the head of the answer.

use std::sync::Arc;

use boxrig_wire::{Error, Kind, Phase};
use http::header::HOST;
use http::{HeaderValue, Method, Response, Uri, Version};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::body::{Inbound, Outbound, Payload};
use crate::builder::Inner;
use crate::connect::{Connected, hyper_io, origin};
use crate::meter::{Metered, Written};
use crate::pool::{Lease, Sender};

/// A request without its body, to be sent more than once.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: http::HeaderMap,
}

/// A try that gave no answer.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) phase: Phase,
    pub(crate) error: Error,
}

impl Broken {
    pub(crate) fn before(error: Error) -> Self {
        Self {
            phase: Phase::BeforeSend,
            error,
        }
    }
}

/// Follows how far a try has come, also when its future is dropped at a deadline.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track(Arc<std::sync::Mutex<Option<Sent>>>);

#[derive(Debug)]
enum Sent {
    /// On a connection that is followed.
    Seen(Seen),
    /// It has to be taken for sent.
    Unseen,
}

#[derive(Debug)]
struct Seen {
    /// The connection's counter and where it stood; `None` where it is shared by other requests.
    written: Option<(Written, u64)>,
    reading: Arc<crate::body::Reading>,
}

impl Track {
    fn set(&self, sent: Sent) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = Some(sent);
    }

    /// From here on it has to be taken for sent.
    pub(crate) fn sent_unseen(&self) {
        self.set(Sent::Unseen);
    }

    /// How far it has come.
    pub(crate) fn phase(&self) -> Phase {
        match &*self.0.lock().unwrap_or_else(|e| e.into_inner()) {
            None => Phase::BeforeSend,
            Some(Sent::Seen(Seen {
                written: Some((written, before)),
                ..
            })) if written.get() == *before => Phase::BeforeSend,
            Some(Sent::Seen(seen)) if !seen.reading.ended() => Phase::MidBody,
            Some(_) => Phase::AfterSend,
        }
    }
}

impl Inner {
    /// Tries once, on a connection that is open or on a new one.
    pub(crate) async fn attempt(
        &self,
        head: &Head,
        payload: &Payload,
        track: &Track,
    ) -> Result<Response<Inbound>, Broken> {
        let key = origin(&head.uri);
        while let Some(sender) = self.pool.take(&key) {
            // A kept connection may have been closed meanwhile; that shows here or not at all.
            let ready = match sender {
                Sender::H1(mut h1, written) => h1.ready().await.map(|()| Sender::H1(h1, written)),
                Sender::H2(mut h2) => h2.ready().await.map(|()| Sender::H2(h2)),
            };
            if let Ok(sender) = ready {
                return self.send_on(sender, &key, head, payload, track, None).await;
            }
        }
        let connected = self
            .connector
            .connect(&head.uri, false)
            .await
            .map_err(Broken::before)?;
        let via = connected.absolute.then(|| connected.proxy_auth.clone());
        let sender = self.open(connected, &key).await.map_err(Broken::before)?;
        self.send_on(sender, &key, head, payload, track, via).await
    }

    async fn open(&self, connected: Connected, key: &str) -> Result<Sender, Error> {
        let refused = |e: hyper::Error| {
            Error::new(Kind::Transport, format!("no HTTP with {key}")).with_source(e)
        };
        let (io, written) = Metered::new(connected.io);
        if connected.http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(4 * 1024 * 1024)
                .initial_connection_window_size(8 * 1024 * 1024)
                .max_frame_size(64 * 1024)
                .keep_alive_interval(std::time::Duration::from_secs(20))
                .handshake(hyper_io(io))
                .await
                .map_err(refused)?;
            tokio::spawn(async move {
                if let Err(e) = connection.await {
                    tracing::debug!(error = %e, "http/2 connection");
                }
            });
            self.pool.share(key, &sender);
            return Ok(Sender::H2(sender));
        }
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(512 * 1024)
            .handshake(hyper_io(io))
            .await
            .map_err(refused)?;
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "http/1.1 connection");
            }
        });
        Ok(Sender::H1(sender, written))
    }

    /// `via` is set on a connection to a proxy that reads the requests, with its credentials. Such a
    /// connection is not kept: another request on it would need the same treatment.
    async fn send_on(
        &self,
        sender: Sender,
        key: &str,
        head: &Head,
        payload: &Payload,
        track: &Track,
        via: Option<Option<HeaderValue>>,
    ) -> Result<Response<Inbound>, Broken> {
        let (body, reading) = payload.outbound();
        let request = request(head, body, matches!(sender, Sender::H2(_)), via.as_ref());
        let written = match &sender {
            Sender::H1(_, written) => Some((written.clone(), written.get())),
            Sender::H2(_) => None,
        };
        track.set(Sent::Seen(Seen {
            written,
            reading: reading.clone(),
        }));
        let (answer, kept) = match sender {
            Sender::H1(mut h1, written) => {
                let answer = h1.send_request(request).await;
                (answer, via.is_none().then_some((h1, written)))
            }
            Sender::H2(mut h2) => (h2.send_request(request).await, None),
        };
        match answer {
            Ok(answer) => {
                let lease = Lease {
                    pool: self.pool.clone(),
                    key: key.to_owned(),
                    sender: kept,
                };
                Ok(answer.map(|body| Inbound::new(body, lease, reading)))
            }
            Err(e) => {
                // "Canceled" is hyper's word for a request that was never taken up by a connection.
                let phase = if e.is_canceled() {
                    Phase::BeforeSend
                } else {
                    track.phase()
                };
                let words = match phase {
                    Phase::BeforeSend => "the connection was closed before the request was sent",
                    Phase::MidBody => "the connection broke while the request was being sent",
                    Phase::AfterSend => "the connection broke before the answer came",
                };
                Err(Broken {
                    phase,
                    error: Error::new(Kind::Transport, words).with_source(e),
                })
            }
        }
    }
}

/// The request in the form the connection wants.
pub(crate) fn request(
    head: &Head,
    body: Outbound,
    http2: bool,
    via: Option<&Option<HeaderValue>>,
) -> http::Request<Outbound> {
    let mut request = http::Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.headers_mut() = head.headers.clone();
    if http2 {
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = head.uri.clone();
        return request;
    }
    if let Some(authority) = head.uri.authority()
        && !request.headers().contains_key(HOST)
        && let Ok(value) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, value);
    }
    match via {
        Some(auth) => {
            *request.uri_mut() = head.uri.clone();
            if let Some(auth) = auth {
                request
                    .headers_mut()
                    .insert(http::header::PROXY_AUTHORIZATION, auth.clone());
            }
        }
        None => {
            let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
            *request.uri_mut() = path.parse().unwrap_or_default();
        }
    }
    request
}
