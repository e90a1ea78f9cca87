//! `Retry-After` over sockets: never earlier than told, never past the deadline.

use std::time::{Duration, Instant, SystemTime};

use boxrig_wire::{Delivery, Transport};

use crate::support::{Conn, Served, client, get, quick, serve};

/// Answers 503 once with these headers, then 200.
async fn busy(headers: String) -> Served {
    serve(move |mut conn: Conn| {
        let headers = headers.clone();
        async move {
            while conn.request().await.is_some() {
                if conn.counts.requests() == 1 {
                    conn.reply(503, &headers, "").await;
                } else {
                    conn.reply(200, "", "").await;
                }
            }
        }
    })
    .await
}

fn date(offset: i64) -> String {
    let seconds = Duration::from_secs(offset.unsigned_abs());
    let now = SystemTime::now();
    httpdate::fmt_http_date(if offset < 0 {
        now - seconds
    } else {
        now + seconds
    })
}

#[tokio::test]
async fn never_earlier_than_told() {
    for (headers, least) in [
        ("retry-after: 1\r\n".to_owned(), 1000),
        ("retry-after-ms: 150\r\n".to_owned(), 150),
        // Clocks that are an hour off, either way.
        (
            format!("date: {}\r\nretry-after: {}\r\n", date(3600), date(3601)),
            1000,
        ),
        (
            format!("date: {}\r\nretry-after: {}\r\n", date(-3600), date(-3599)),
            1000,
        ),
    ] {
        let server = busy(headers.clone()).await;
        let mut out = get(&server.url("/"));
        out.retry = quick(1);
        let start = Instant::now();
        assert_eq!(client().send(out).await.unwrap().status(), 200);
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(least), "{headers}: {took:?}");
        assert!(
            took < Duration::from_millis(least * 2 + 500),
            "{headers}: {took:?}"
        );
    }
}

/// A wait that is too long ends the retries at once, and the caller learns how long it is.
#[tokio::test]
async fn too_long_a_wait_is_given_to_the_caller() {
    for (told, deadline) in [("61", 300), ("3", 2), ("1e300", 300)] {
        let server = busy(format!("retry-after: {told}\r\n")).await;
        let mut out = get(&server.url("/"));
        out.retry = quick(1);
        out.timeout = Some(Duration::from_secs(deadline));
        let start = Instant::now();
        let r = client().send(out).await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(500));
        assert_eq!((r.status().as_u16(), server.counts.requests()), (503, 1));
        let wait = r
            .extensions()
            .get::<Delivery>()
            .unwrap()
            .retry_after
            .unwrap();
        assert!(wait >= Duration::from_secs(3), "{wait:?}");
    }
}
