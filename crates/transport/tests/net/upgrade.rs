//! Websockets and raw upgrades.

use boxrig_transport::InProcess;
use boxrig_wire::ws::Frame;
use boxrig_wire::{Kind, Outgoing, ReplyShape, Transport, UpgradeSlot, WebSocket, WireBody, ws};
use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Conn, client, post, serve};

fn asking(url: &str, reply: ReplyShape) -> Outgoing {
    let mut out = post(url);
    out.reply = reply;
    out
}

fn io(r: &Response<WireBody>) -> Box<dyn boxrig_wire::Duplex> {
    assert_eq!(r.status(), StatusCode::SWITCHING_PROTOCOLS);
    let slot = r.extensions().get::<UpgradeSlot>().unwrap();
    slot.take_connection().unwrap()
}

async fn accept(conn: &mut Conn) -> String {
    let got = conn.request().await.unwrap();
    ws::accept_key(got.header("sec-websocket-key").unwrap().as_bytes())
}

#[tokio::test]
async fn a_websocket_echoes() {
    let server = serve(|mut conn: Conn| async move {
        let accept = accept(&mut conn).await;
        // The first frame comes with the head: it must not be lost.
        let mut bytes = format!(
            "HTTP/1.1 101 Go\r\nupgrade: WebSocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        )
        .into_bytes();
        bytes.extend(b"\x82\x05first");
        conn.raw(bytes).await;
        let mut socket = WebSocket::server(conn.io);
        while let Ok(Some(frame)) = socket.next().await {
            if matches!(frame, Frame::Close { .. }) || socket.send(frame).await.is_err() {
                break;
            }
        }
    })
    .await;
    let http = client();
    let r = http
        .send(asking(&server.url("/"), ReplyShape::Socket))
        .await
        .unwrap();
    let mut socket = WebSocket::client(io(&r));
    assert_eq!(socket.next().await.unwrap(), Some(Frame::binary("first")));
    for size in [0, 1, 125, 126, 65536, 1 << 20] {
        let frame = Frame::binary(vec![7; size]);
        socket.send(frame.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap(), Some(frame));
    }
    drop(socket);
    server.counts.all_closed().await;
    assert_eq!(http.idle_connections(), 0);
}

#[tokio::test]
async fn a_raw_upgrade() {
    let server = serve(|mut conn: Conn| async move {
        let got = conn.request().await.unwrap();
        assert_eq!(got.header("upgrade"), Some("tcp"));
        conn.raw("HTTP/1.1 101 Go\r\nupgrade: tcp\r\nconnection: upgrade\r\n\r\nhello")
            .await;
        let mut back = [0; 4];
        conn.io.read_exact(&mut back).await.unwrap();
        conn.raw(back).await;
    })
    .await;
    let r = client()
        .send(asking(&server.url("/"), ReplyShape::Upgrade("tcp")))
        .await
        .unwrap();
    let mut io = io(&r);
    io.write_all(b"back").await.unwrap();
    let mut text = String::new();
    io.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "helloback");
}

#[tokio::test]
async fn wrong_switches() {
    for head in [
        "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: bm90IHRoZSByaWdodCBvbmU=\r\n",
        "upgrade: websocket\r\nconnection: upgrade\r\n",
        "upgrade: tcp\r\nconnection: upgrade\r\n",
        "connection: upgrade\r\n",
    ] {
        let server = serve(move |mut conn: Conn| async move {
            conn.request().await;
            conn.raw(format!("HTTP/1.1 101 Go\r\n{head}\r\n")).await;
            conn.until_closed().await;
        })
        .await;
        let e = client()
            .send(asking(&server.url("/"), ReplyShape::Socket))
            .await
            .unwrap_err();
        // An exec may run: its socket's handshake is not proof of the opposite.
        assert!(
            matches!(e.kind(), Kind::Protocol | Kind::OutcomeUnknown),
            "{e}"
        );
        server.counts.all_closed().await;
    }
}

/// A switch that nobody asked for.
#[tokio::test]
async fn an_unasked_switch() {
    let server = serve(|mut conn: Conn| async move {
        conn.request().await;
        conn.raw("HTTP/1.1 101 Go\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
            .await;
        conn.until_closed().await;
    })
    .await;
    assert!(client().send(post(&server.url("/"))).await.is_err());
    server.counts.all_closed().await;
}

/// An error instead of the switch comes with its body.
#[tokio::test]
async fn a_refused_socket() {
    let server = serve(|mut conn: Conn| async move {
        conn.request().await;
        conn.reply(404, "", "no such process").await;
    })
    .await;
    let r = client()
        .send(asking(&server.url("/"), ReplyShape::Socket))
        .await
        .unwrap();
    assert_eq!(r.status(), 404);
    assert_eq!(r.body().as_bytes(), Some(&b"no such process"[..]));
}

#[tokio::test]
async fn in_process() {
    let http = InProcess::new(|r| async move {
        let headers = ws::server_handshake(r.headers()).unwrap();
        let mut answer = Response::new(WireBody::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = headers;
        answer
            .extensions_mut()
            .insert(UpgradeSlot::acceptor(Box::new(|io| {
                Box::pin(async move {
                    let mut socket = WebSocket::server(io);
                    socket.send(Frame::text("hi")).await.unwrap();
                })
            })));
        answer
    });
    let r = http
        .send(asking("http://h/", ReplyShape::Socket))
        .await
        .unwrap();
    let mut socket = WebSocket::client(io(&r));
    assert_eq!(socket.next().await.unwrap(), Some(Frame::text("hi")));
}
