//! The TCP port: HTTP, and TLS told apart from it by the first byte.

use tokio::net::{TcpListener, TcpStream};

use super::conn::{Started, serve_h1, serve_h2};
use super::linger::Linger;
use super::{ACCEPT_PAUSE, About, Connections, Service, Stop};
use crate::router::Peer;
use crate::tls::Tls;

/// The first byte of a TLS handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Accepts connections until the server ends.
pub async fn serve_tcp(
    listener: TcpListener,
    tls: Option<Tls>,
    service: Service,
    connections: Connections,
    stop: Stop,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.finishing() => return,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!(error = %e, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // With no slot left this one waits, and further ones wait in the system's queue.
        let Some(slot) = connections.slot().await else {
            return;
        };
        let about = connections.about(Peer::Tcp(from));
        let (tls, service, stop) = (tls.clone(), service.clone(), stop.clone());
        tokio::spawn(async move {
            let _slot = slot;
            tokio::select! {
                () = serve(stream, about, tls, service, &stop) => {}
                () = stop.ended() => {}
            }
        });
    }
}

async fn serve(
    stream: TcpStream,
    mut about: About,
    tls: Option<Tls>,
    service: Service,
    stop: &Stop,
) {
    // Small answers go out at once (Nagle's algorithm would wait for the client's acknowledgement).
    let _ = stream.set_nodelay(true);
    let started = tokio::select! {
        started = Started::read(Linger::new(stream), about.patience) => started,
        // A connection without a request has nothing to be finished.
        () = stop.finishing() => None,
    };
    let Some(started) = started else { return };
    if started.bytes.first() != Some(&TLS_HANDSHAKE) {
        // Boxed, so that an idle connection is not as large as a busy one.
        return match started.bytes.starts_with(b"PRI") {
            true => Box::pin(serve_h2(started, about, service, stop)).await,
            false => Box::pin(serve_h1(started, about, service, stop)).await,
        };
    }
    let Some(tls) = tls else { return };
    match tokio::time::timeout(about.patience, Box::pin(tls.accept(started))).await {
        Ok(Ok(stream)) => {
            let facts = stream.get_ref().1;
            about.tls = true;
            about.client_cert = crate::tls::client_fingerprint(facts);
            let h2 = facts.alpn_protocol() == Some(b"h2");
            match h2 {
                true => Box::pin(serve_h2(stream, about, service, stop)).await,
                false => Box::pin(serve_h1(stream, about, service, stop)).await,
            }
        }
        Ok(Err(e)) => tracing::debug!(error = %e, "TLS handshake"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}
