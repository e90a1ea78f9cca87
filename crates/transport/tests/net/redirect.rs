//! Redirects: followed for reads, without credentials to another origin.

use boxrig_wire::{Kind, Transport};
use http::HeaderValue;

use crate::support::{Conn, Served, client, get, post, serve};

/// Redirects everything to `to`, with `302`.
async fn sends_to(to: String) -> Served {
    serve(move |mut conn: Conn| {
        let to = to.clone();
        async move {
            while let Some(got) = conn.request().await {
                if got.line().contains("/end") {
                    conn.reply(200, "", &got.head).await;
                } else {
                    conn.reply(302, &format!("location: {to}\r\n"), "").await;
                }
            }
        }
    })
    .await
}

fn with_secrets(url: &str) -> boxrig_wire::Outgoing {
    let mut out = get(url);
    for name in ["authorization", "cookie", "x-api-key", "rack"] {
        let headers = out.request.headers_mut();
        headers.insert(name, HeaderValue::from_static("canary"));
    }
    let mut value = HeaderValue::from_static("canary");
    value.set_sensitive(true);
    out.request.headers_mut().insert("x-own", value);
    out.request
        .headers_mut()
        .insert("x-plain", HeaderValue::from_static("kept"));
    out
}

fn text(r: http::Response<boxrig_wire::WireBody>) -> String {
    String::from_utf8(r.body().as_bytes().unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn credentials_stay_at_their_origin() {
    let other = serve(|mut conn: Conn| async move {
        while let Some(got) = conn.request().await {
            conn.reply(200, "", &got.head).await;
        }
    })
    .await;
    let server = sends_to(other.url("/there")).await;
    let seen = text(client().send(with_secrets(&server.url("/"))).await.unwrap());
    assert!(!seen.contains("canary"), "{seen}");
    assert!(seen.contains("x-plain: kept"));
    assert!(seen.contains(&format!("host: {}", other.addr)), "{seen}");

    // At the same origin they are needed.
    let server = sends_to("/end".to_owned()).await;
    let seen = text(client().send(with_secrets(&server.url("/"))).await.unwrap());
    assert_eq!(seen.matches("canary").count(), 5, "{seen}");
}

#[tokio::test]
async fn only_reads_and_only_a_few() {
    let server = sends_to("/end".to_owned()).await;
    let r = client().send(post(&server.url("/"))).await.unwrap();
    assert_eq!(r.status(), 302);

    let server = sends_to("/again".to_owned()).await;
    let e = client().send(get(&server.url("/"))).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Protocol);
    assert_eq!(server.counts.requests(), 6, "one and five more");
}

#[tokio::test]
async fn nowhere_else() {
    for to in [
        "unix:///run/x",
        "file:///etc/passwd",
        "ftp://h/",
        "http://u:p@h/",
    ] {
        let server = sends_to(to.to_owned()).await;
        let e = client().send(get(&server.url("/"))).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Protocol, "{to}: {e}");
        assert_eq!(server.counts.requests(), 1);
    }
}
