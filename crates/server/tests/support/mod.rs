//! What the server's own tests speak to it with: a bare HTTP/1.1 connection, and a transport over the unix socket.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use boxrig_server::control::ControlClient;
use boxrig_server::testing::Server;
use boxrig_wire::{
    BaseUrl, BoxFuture, Caller, Error, Kind, Outgoing, ReplyShape, Result, Transport, UpgradeSlot,
    WireBody, ws,
};
use http::{HeaderValue, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Sends text as it is over TCP and reads all that comes until the server closes or is silent.
pub async fn raw(server: &Server, request: &str) -> String {
    let address = server.url().replace("http://", "");
    let stream = TcpStream::connect(address).await.unwrap();
    exchange(stream, request).await
}

/// The same over the unix socket.
pub async fn raw_unix(server: &Server, request: &str) -> String {
    let stream = UnixStream::connect(server.socket()).await.unwrap();
    exchange(stream, request).await
}

async fn exchange<I: AsyncRead + AsyncWrite + Unpin>(mut io: I, request: &str) -> String {
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = io.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// A GET that closes the connection afterwards.
pub fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
}

/// A connection of its own for each request, to a unix socket.
#[derive(Debug)]
pub struct Unix(pub PathBuf);

impl Transport for Unix {
    fn send(&self, out: Outgoing) -> BoxFuture<'_, Result<Response<WireBody>>> {
        Box::pin(async move {
            let lost = |e: &dyn std::fmt::Display| Error::new(Kind::Transport, e.to_string());
            let stream = UnixStream::connect(&self.0).await.map_err(|e| lost(&e))?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|e| lost(&e))?;
            tokio::spawn(connection.with_upgrades());
            let (mut parts, body) = out.request.into_parts();
            parts.uri = parts
                .uri
                .path_and_query()
                .unwrap()
                .to_string()
                .parse()
                .unwrap();
            let host = HeaderValue::from_static("boxrig");
            parts.headers.insert(header::HOST, host);
            if out.reply == ReplyShape::Socket {
                ws::client_handshake(&mut parts.headers);
            }
            let mut response = sender
                .send_request(http::Request::from_parts(parts, body))
                .await
                .map_err(|e| lost(&e))?;
            let upgrade = (response.status() == StatusCode::SWITCHING_PROTOCOLS)
                .then(|| hyper::upgrade::on(&mut response));
            let mut response = response.map(WireBody::stream);
            if let Some(upgrade) = upgrade {
                let io = upgrade.await.map_err(|e| lost(&e))?;
                let slot = UpgradeSlot::connection(Box::new(TokioIo::new(io)));
                response.extensions_mut().insert(slot);
            }
            Ok(response)
        })
    }
}

/// A client of a server's control API.
pub fn control(server: &Server) -> ControlClient {
    let base = BaseUrl::parse("http://boxrig").unwrap();
    ControlClient::new(Caller::new(Arc::new(Unix(server.socket())), base))
}
