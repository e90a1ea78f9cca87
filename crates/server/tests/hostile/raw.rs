//! Bytes out and bytes in.

use std::time::Duration;

use boxrig_server::testing::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer's status and body.
pub(crate) type Answer = (u16, String);

/// Sends bytes and reads until the server closes, or is silent for a while.
pub(crate) async fn send(server: &Server, request: &[u8]) -> String {
    let address = server.url().replace("http://", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has refused already may have closed.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(Ok(n @ 1..)) =
        tokio::time::timeout(Duration::from_millis(1500), stream.read(&mut chunk)).await
    {
        answer.extend_from_slice(&chunk[..n]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of each answer on the connection.
pub(crate) fn statuses(text: &str) -> Vec<u16> {
    text.split("HTTP/1.1 ")
        .skip(1)
        .filter_map(|part| part.get(..3)?.parse().ok())
        .collect()
}

/// A whole request with the key.
pub(crate) async fn call(server: &Server, method: &str, path: &str, body: &[u8]) -> Answer {
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-API-Key: {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        server.api_key(),
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    split(&send(server, &request).await)
}

pub(crate) fn split(text: &str) -> Answer {
    let status = statuses(text).first().copied().unwrap_or_default();
    let (_, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    (status, body.to_owned())
}

/// A machine of the simulation.
pub(crate) async fn machine(server: &Server) -> String {
    let (status, body) = call(server, "POST", "/v1/vms", br#"{"machineType":"c1m1"}"#).await;
    assert_eq!(status, 201, "{body}");
    let vm: serde_json::Value = serde_json::from_str(&body).unwrap();
    vm["id"].as_str().unwrap().to_owned()
}

/// How many machines there are.
pub(crate) async fn count(server: &Server) -> usize {
    let (status, body) = call(server, "GET", "/v1/vms", b"").await;
    assert_eq!(status, 200, "{body}");
    let list: serde_json::Value = serde_json::from_str(&body).unwrap();
    list.as_array().unwrap().len()
}
