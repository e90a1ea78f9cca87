//! Deadlines and cancellation: calls end in time, and leave nothing behind.

use std::time::{Duration, Instant};

use boxrig_wire::{Delivery, Idempotency, Kind, ReplyShape, Transport};
use http::Method;

use crate::support::{Conn, call, client, get, nobody, post, quick, serve};

const DEADLINE: Duration = Duration::from_millis(400);
const SLACK: Duration = Duration::from_millis(250);

/// Servers that never come to an end, by what they do with a request.
async fn endless(conn: &mut Conn, way: &str) {
    match way {
        "accepts and stays silent" => conn.until_closed().await,
        "drips its head" => {
            conn.request().await;
            for byte in b"HTTP/1.1 200 OK\r\nx: ".iter().chain(&[b'y'; 1000]) {
                conn.raw([*byte]).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        "drips its body" => {
            conn.request().await;
            conn.raw("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                .await;
            for _ in 0..1000 {
                conn.raw("x").await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        "never ends its chunks" => {
            conn.request().await;
            conn.raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            loop {
                conn.raw("1\r\nx\r\n").await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        _ => unreachable!(),
    }
}

#[tokio::test]
async fn every_call_ends_in_time() {
    for way in [
        "accepts and stays silent",
        "drips its head",
        "drips its body",
        "never ends its chunks",
    ] {
        for (idempotency, kind) in [
            (Idempotency::Safe, Kind::Timeout),
            (Idempotency::Never, Kind::OutcomeUnknown),
        ] {
            let server = serve(move |mut conn: Conn| async move {
                let limit = Duration::from_millis(1500);
                let _ = tokio::time::timeout(limit, endless(&mut conn, way)).await;
            })
            .await;
            let mut out = call(Method::POST, &server.url("/"), idempotency);
            out.timeout = Some(DEADLINE);
            out.retry = quick(3);
            let start = Instant::now();
            let e = client().send(out).await.unwrap_err();
            let took = start.elapsed();
            assert_eq!(e.kind(), kind, "{way}: {e}");
            assert!(
                took >= DEADLINE && took < DEADLINE + SLACK,
                "{way}: {took:?}"
            );
        }
    }
}

/// Retries and their waits count too.
#[tokio::test]
async fn one_deadline_over_all_tries() {
    let server = serve(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            conn.reply(503, "", "").await;
        }
    })
    .await;
    let mut out = get(&server.url("/"));
    out.timeout = Some(DEADLINE);
    out.retry = quick(100);
    let start = Instant::now();
    let result = client().send(out).await;
    assert!(start.elapsed() < DEADLINE + SLACK);
    assert_eq!(result.unwrap_err().kind(), Kind::Timeout);
}

/// A full backlog, an address that swallows everything: the connection itself is under the deadline, and what
/// never left may be said to have timed out.
#[tokio::test]
async fn a_connection_that_does_not_come_about() {
    // RFC 5737: a documentation address, which is routed nowhere, or refused at once by a machine without a network.
    let mut out = post("http://192.0.2.1:9/");
    out.timeout = Some(DEADLINE);
    let start = Instant::now();
    let e = client().send(out).await.unwrap_err();
    assert!(start.elapsed() < DEADLINE + SLACK);
    assert!(matches!(e.kind(), Kind::Timeout | Kind::Transport), "{e}");
}

/// The status is what counts: an error whose body does not come is still that error.
#[tokio::test]
async fn an_error_without_its_body() {
    let server = serve(|mut conn: Conn| async move {
        conn.request().await;
        conn.raw("HTTP/1.1 409 Conflict\r\ncontent-length: 10\r\n\r\nhalf")
            .await;
        conn.until_closed().await;
    })
    .await;
    let mut out = post(&server.url("/"));
    out.timeout = Some(DEADLINE);
    let start = Instant::now();
    let r = client().send(out).await.unwrap();
    assert!(start.elapsed() < DEADLINE + SLACK);
    assert_eq!(r.status(), 409);
    assert_eq!(r.extensions().get::<Delivery>().unwrap().attempts, 1);
    assert!(r.into_body().collect(100).await.is_err());
}

/// A stream has its deadline until the headers, and none after.
#[tokio::test]
async fn a_stream_may_take_longer() {
    let server = serve(|mut conn: Conn| async move {
        conn.request().await;
        conn.raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na")
            .await;
        tokio::time::sleep(DEADLINE * 2).await;
        conn.raw("b").await;
    })
    .await;
    let mut out = get(&server.url("/"));
    out.timeout = Some(DEADLINE);
    out.reply = ReplyShape::Stream;
    let r = client().send(out).await.unwrap();
    assert_eq!(r.into_body().collect(10).await.unwrap(), "ab");
}

/// A dropped call closes its connection, wherever it is: no task and no socket stays.
#[tokio::test]
async fn cancelled_at_every_step() {
    for way in ["silent", "head", "body"] {
        for micros in [0, 100, 1000, 20_000, 60_000] {
            let server = serve(move |mut conn: Conn| async move {
                if way != "silent" {
                    conn.request().await;
                    conn.raw("HTTP/1.1 200 OK\r\n").await;
                    if way == "body" {
                        conn.raw("content-length: 10\r\n\r\nhalf").await;
                    }
                }
                conn.until_closed().await;
            })
            .await;
            let http = client();
            let call = http.send(post(&server.url("/")));
            let cut = tokio::time::timeout(Duration::from_micros(micros), call).await;
            assert!(cut.is_err());
            server.counts.all_closed().await;
            assert_eq!(http.idle_connections(), 0);
        }
    }
}

/// A stream that is dropped half way closes its connection.
#[tokio::test]
async fn a_dropped_stream() {
    let server = serve(|mut conn: Conn| async move {
        conn.request().await;
        conn.raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            .await;
        conn.until_closed().await;
    })
    .await;
    let mut out = get(&server.url("/"));
    out.reply = ReplyShape::Stream;
    let http = client();
    let r = http.send(out).await.unwrap();
    drop(r);
    server.counts.all_closed().await;
}

/// More than the limit is refused, whether announced or not.
#[tokio::test]
async fn replies_have_a_limit() {
    for head in ["content-length: 2000000\r\n", "connection: close\r\n"] {
        let server = serve(move |mut conn: Conn| async move {
            conn.request().await;
            conn.raw(format!("HTTP/1.1 200 OK\r\n{head}\r\n")).await;
            for _ in 0..20 {
                conn.raw(vec![b'x'; 100_000]).await;
            }
        })
        .await;
        let e = client().send(get(&server.url("/"))).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Protocol, "{e}");
        assert_eq!(server.counts.requests(), 1);
    }
}

/// The connect timeout is shorter than the deadline, and its own error.
#[tokio::test]
async fn refused_connections_say_so() {
    let addr = nobody().await;
    let e = client()
        .send(get(&format!("http://{addr}/")))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Transport);
    assert!(e.to_string().contains(&addr.to_string()), "{e}");
    assert!(e.hint().is_some());
}
