//! Connections: used again, shared, limited, closed when old; unix sockets; HTTP/2.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use boxrig_transport::{Http, InProcess};
use boxrig_wire::{ReplyShape, Transport, WireBody};
use http::Response;

use crate::support::{Conn, builder, client, get, post, serve};

#[tokio::test]
async fn one_connection_for_calls_in_turn() {
    let server = serve(|mut conn: Conn| async move { conn.fine("ok").await }).await;
    let http = client();
    for _ in 0..50 {
        let r = http.send(get(&server.url("/a?b"))).await.unwrap();
        assert_eq!(r.into_body().as_bytes(), Some(&b"ok"[..]));
    }
    assert_eq!(server.counts.connections(), 1);
    assert_eq!(http.idle_connections(), 1);
}

#[tokio::test]
async fn streams_give_their_connection_back() {
    let server = serve(|mut conn: Conn| async move { conn.fine(&"x".repeat(200_000)).await }).await;
    let http = client();
    for _ in 0..10 {
        let mut out = get(&server.url("/"));
        out.reply = ReplyShape::Stream;
        let r = http.send(out).await.unwrap();
        assert_eq!(r.into_body().collect(1 << 20).await.unwrap().len(), 200_000);
    }
    assert_eq!(server.counts.connections(), 1);
}

fn assert_shared<T: Send + Sync + Clone + 'static>(_: &T) {}

/// One client for 1,000 tasks; no more connections at a time than it may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tasks() {
    let most = Arc::new(AtomicUsize::new(0));
    let seen = most.clone();
    let server = serve(move |mut conn: Conn| {
        let seen = seen.clone();
        async move {
            while let Some(got) = conn.request().await {
                seen.fetch_max(conn.counts.open(), Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
                let path = got.line().split(' ').nth(1).unwrap().to_owned();
                conn.reply(200, "", &path).await;
            }
        }
    })
    .await;
    let http = builder().in_flight_per_host(100).build().unwrap();
    assert_shared(&http);
    let tasks: Vec<_> = (0..1000)
        .map(|n| {
            let (http, url) = (http.clone(), server.url(&format!("/{n}")));
            tokio::spawn(async move {
                for _ in 0..3 {
                    let r = http.send(post(&url)).await.unwrap();
                    assert_eq!(r.body().as_bytes(), Some(format!("/{n}").as_bytes()));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(server.counts.requests(), 3000);
    let most = most.load(Ordering::SeqCst);
    assert!(most <= 200, "{most} connections at a time");
    assert!(http.idle_connections() <= 64);
}

#[tokio::test]
async fn old_connections_are_closed() {
    let server = serve(|mut conn: Conn| async move { conn.fine("").await }).await;
    let http = builder()
        .keep_idle(4, Duration::from_millis(50))
        .build()
        .unwrap();
    let (a, b) = (get(&server.url("/")), get(&server.url("/")));
    let (a, b) = tokio::join!(http.send(a), http.send(b));
    a.unwrap();
    b.unwrap();
    assert_eq!(http.idle_connections(), 2);
    server.counts.all_closed().await;
    assert_eq!(http.idle_connections(), 0);
    // And it starts anew.
    http.send(get(&server.url("/"))).await.unwrap();
    server.counts.all_closed().await;
}

/// What is left when the client goes.
#[tokio::test]
async fn a_dropped_client_closes_its_connections() {
    let server = serve(|mut conn: Conn| async move { conn.fine("").await }).await;
    let http = client();
    http.send(get(&server.url("/"))).await.unwrap();
    assert_eq!(server.counts.open(), 1);
    drop(http);
    server.counts.all_closed().await;
}

/// A server that answers before it has read everything does not get its connection used again.
#[tokio::test]
async fn an_early_answer_ends_the_connection() {
    let server = serve(|mut conn: Conn| async move {
        conn.head().await;
        conn.reply(200, "", "early").await;
        conn.until_closed().await;
    })
    .await;
    let http = client();
    let mut out = post(&server.url("/"));
    *out.request.body_mut() = WireBody::full(vec![0; 16 << 20]);
    let r = http.send(out).await.unwrap();
    assert_eq!(r.body().as_bytes(), Some(&b"early"[..]));
    assert_eq!(http.idle_connections(), 0);
    server.counts.all_closed().await;
}

async fn h2_server() -> crate::support::Served {
    serve(|conn: Conn| async move {
        let counts = conn.counts.clone();
        let service = hyper::service::service_fn(move |r: http::Request<hyper::body::Incoming>| {
            counts.requests.fetch_add(1, Ordering::SeqCst);
            async move {
                assert_eq!(r.version(), http::Version::HTTP_2);
                assert!(r.uri().authority().is_some());
                Ok::<_, std::convert::Infallible>(Response::new(WireBody::full("two")))
            }
        });
        let io = hyper_util::rt::TokioIo::new(conn.io);
        let _ = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .serve_connection(io, service)
            .await;
    })
    .await
}

#[tokio::test]
async fn http2_shares_one_connection() {
    let server = h2_server().await;
    let http = builder().http2_prior_knowledge().build().unwrap();
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let (http, url) = (http.clone(), server.url("/"));
            tokio::spawn(async move { http.send(post(&url)).await.unwrap() })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().body().as_bytes(), Some(&b"two"[..]));
    }
    assert_eq!(server.counts.connections(), 1);
    assert_eq!(server.counts.requests(), 100);
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let mut conn = Conn::new(Box::new(io), 0, Default::default());
        while let Some(got) = conn.request().await {
            conn.reply(200, "", got.header("host").unwrap()).await;
        }
    });
    let http = Http::builder().unix_socket(&path).build().unwrap();
    for _ in 0..3 {
        let r = http.send(get("http://incus/1.0")).await.unwrap();
        assert_eq!(r.body().as_bytes(), Some(&b"incus"[..]));
    }
    let http = Http::builder()
        .unix_socket(dir.path().join("none"))
        .build()
        .unwrap();
    let e = http.send(get("http://incus/1.0")).await.unwrap_err();
    assert!(e.to_string().contains("/none"), "{e}");
}

#[tokio::test]
async fn the_user_agent() {
    let server = serve(|mut conn: Conn| async move {
        while let Some(got) = conn.request().await {
            let agent = got.header("user-agent").unwrap().to_owned();
            conn.reply(200, "", &agent).await;
        }
    })
    .await;
    let r = client().send(get(&server.url("/"))).await.unwrap();
    let ours = concat!("boxrig/", env!("CARGO_PKG_VERSION"));
    assert_eq!(r.body().as_bytes(), Some(ours.as_bytes()));
    let mut out = get(&server.url("/"));
    let headers = out.request.headers_mut();
    headers.insert("user-agent", "mine".parse().unwrap());
    let r = client().send(out).await.unwrap();
    assert_eq!(r.body().as_bytes(), Some(&b"mine"[..]));
}

#[tokio::test]
async fn in_process() {
    let http = InProcess::new(|r| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let text = format!("{} {:?}", r.uri(), r.headers()["host"]);
        Response::new(WireBody::full(text))
    });
    let r = http.send(get("http://h/a?b")).await.unwrap();
    assert_eq!(r.body().as_bytes(), Some(&b"/a?b \"h\""[..]));
    let mut out = post("http://h/");
    out.timeout = Some(Duration::from_millis(1));
    let e = http.send(out).await.unwrap_err();
    assert_eq!(e.kind(), boxrig_wire::Kind::OutcomeUnknown);
}
