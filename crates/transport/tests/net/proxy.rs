//! Proxies: the whole address for http, a tunnel for https, credentials for the proxy alone.

use std::sync::{Arc, Mutex};

use boxrig_transport::{Http, Proxy};
use boxrig_wire::{Kind, Transport};

use crate::support::{Conn, client, get, serve};
use crate::tls::Site;

fn through(url: String) -> boxrig_transport::HttpBuilder {
    Http::builder()
        .proxy(Proxy::Url(url.into()))
        .proxy_loopback()
}

#[tokio::test]
async fn http_is_forwarded() {
    let proxy = serve(|mut conn: Conn| async move {
        while let Some(got) = conn.request().await {
            conn.reply(200, "", &got.head).await;
        }
    })
    .await;
    let http = through(format!("http://me:pass@{}", proxy.addr))
        .build()
        .unwrap();
    for _ in 0..3 {
        let r = http.send(get("http://far.example:81/x?y")).await.unwrap();
        let seen = String::from_utf8(r.body().as_bytes().unwrap().to_vec()).unwrap();
        assert!(
            seen.starts_with("GET http://far.example:81/x?y HTTP/1.1\r\n"),
            "{seen}"
        );
        assert!(seen.contains("host: far.example:81\r\n"), "{seen}");
        assert!(
            seen.contains("proxy-authorization: Basic bWU6cGFzcw==\r\n"),
            "{seen}"
        );
    }
    assert_eq!(
        proxy.counts.connections(),
        1,
        "connections to a proxy are kept too"
    );
    assert!(!format!("{http:?}").contains("pass"));
}

/// Answers CONNECT with `answer`, and joins to `to` when that is a 200.
async fn tunnelling(
    to: std::net::SocketAddr,
    answer: &'static str,
) -> (crate::support::Served, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let server = serve(move |mut conn: Conn| {
        let seen = seen.clone();
        async move {
            let Some(head) = conn.head().await else {
                return;
            };
            seen.lock().unwrap().push(head);
            conn.raw(answer).await;
            if answer.contains(" 200 ") {
                let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut conn.io, &mut far).await;
            }
        }
    })
    .await;
    (server, heads)
}

#[tokio::test]
async fn https_goes_through_a_tunnel() {
    let site = Site::good();
    let server = site
        .serve(|mut conn: Conn| async move {
            while let Some(got) = conn.request().await {
                conn.reply(200, "", &got.head).await;
            }
        })
        .await;
    let (proxy, heads) = tunnelling(server.addr, "HTTP/1.1 200 fine\r\nx: y\r\n\r\n").await;
    let http = through(format!("http://me:pass@{}", proxy.addr))
        .ca_pem(site.ca().as_bytes())
        .unwrap()
        .build()
        .unwrap();
    let r = http
        .send(get(&format!("https://localhost:{}/x", server.addr.port())))
        .await
        .unwrap();
    let seen = String::from_utf8(r.body().as_bytes().unwrap().to_vec()).unwrap();
    assert!(seen.starts_with("GET /x HTTP/1.1\r\n"), "{seen}");
    assert!(!seen.to_lowercase().contains("proxy"), "{seen}");
    let heads = heads.lock().unwrap();
    assert!(heads[0].starts_with(&format!(
        "CONNECT localhost:{} HTTP/1.1",
        server.addr.port()
    )));
    assert!(heads[0].contains("Proxy-Authorization: Basic bWU6cGFzcw=="));
}

#[tokio::test]
async fn a_proxy_that_refuses() {
    for (answer, words) in [
        ("HTTP/1.1 407 x\r\n\r\n", "credentials"),
        ("HTTP/1.1 403 x\r\n\r\n", "refuses"),
        ("HTTP/1.1 502 x\r\n\r\n", "502"),
        ("SSH-2.0-x\r\n\r\n", "broke off"),
        ("", "broke off"),
    ] {
        let (proxy, _) = tunnelling("127.0.0.1:1".parse().unwrap(), answer).await;
        let http = through(format!("http://{}", proxy.addr)).build().unwrap();
        let e = http.send(get("https://far.example/")).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Transport);
        assert!(e.to_string().contains(words), "{answer:?}: {e}");
    }
}

/// Loopback is not proxied unless told; a dead proxy shows it.
#[tokio::test]
async fn loopback_is_direct() {
    let server = serve(|mut conn: Conn| async move { conn.fine("direct").await }).await;
    let proxy = Proxy::Url("http://127.0.0.1:1".into());
    let http = Http::builder().proxy(proxy).build().unwrap();
    let r = http.send(get(&server.url("/"))).await.unwrap();
    assert_eq!(r.body().as_bytes(), Some(&b"direct"[..]));
    drop(client());
}
