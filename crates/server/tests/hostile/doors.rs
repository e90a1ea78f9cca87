//! Who is let in: names that the server answers to, pages that browsers show, keys.

use boxrig_server::testing::Server;

use crate::raw::{count, send, statuses};

/// Names under which a web page could have this server's address looked up.
const FOREIGN_HOSTS: &[&str] = &[
    "evil.example",
    "evil.example:80",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1.nip.io",
    "evil.example.",
    "EVIL.EXAMPLE",
    "localhost.",
    "0.0.0.0",
    "[::]",
    "10.0.0.1",
    "169.254.169.254",
    "[::ffff:10.0.0.1]",
    "[fe80::1]",
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "xn--localhost-9za",
    "loc\u{ac}alhost",
    "metadata.google.internal",
    "a.b.c.localhost",
];

/// Pages that may be open in the user's browser.
const FOREIGN_ORIGINS: &[&str] = &[
    "http://evil.example",
    "https://localhost.evil.example",
    "null",
    "file://",
    "http://localhost:1",
    "http://127.0.0.1",
    "https://127.0.0.1:{port}",
    "http://127.0.0.1:{port}.evil.example",
    "http://evil@127.0.0.1:{port}",
    "http://127.0.0.1:{port}/",
    "chrome-extension://abcdef",
    "",
    " ",
];

#[tokio::test]
async fn dns_rebinding_and_cross_site_requests_are_refused() {
    let server = Server::start().await.unwrap();
    let key = server.api_key();
    let port = server.url().rsplit(':').next().unwrap().to_owned();
    let body = r#"{"machineType":"c1m1"}"#;
    let launch = |host: &str, more: &str| {
        format!(
            "POST /v1/vms HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {key}\r\nConnection: close\r\n{more}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    for host in FOREIGN_HOSTS.iter().filter(|h| **h != "localhost.") {
        for path in ["launch", "health"] {
            let request = match path {
                "launch" => launch(host, ""),
                _ => format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
            };
            let got = statuses(&send(&server, request.as_bytes()).await);
            assert!(
                matches!(got[..], [400 | 403 | 404]),
                "{host} {path}: {got:?}"
            );
        }
    }
    for origin in FOREIGN_ORIGINS {
        let origin = origin.replace("{port}", &port);
        let own = format!("127.0.0.1:{port}");
        for more in [
            format!("Origin: {origin}\r\n"),
            format!("Origin: {origin}\r\nSec-Fetch-Site: same-origin\r\n"),
        ] {
            let got = statuses(&send(&server, launch(&own, &more).as_bytes()).await);
            assert_eq!(got, [403], "{more}");
            let preflight = format!(
                "OPTIONS /v1/vms HTTP/1.1\r\nHost: {own}\r\nConnection: close\r\n{more}\
                 Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-api-key\r\n\r\n"
            );
            let answer = send(&server, preflight.as_bytes()).await;
            assert_eq!(statuses(&answer), [403], "{more}");
            assert!(
                !answer.to_lowercase().contains("access-control-allow"),
                "{answer}"
            );
        }
    }
    for site in ["cross-site", "same-site"] {
        let more = format!("Sec-Fetch-Site: {site}\r\n");
        assert_eq!(
            statuses(&send(&server, launch("localhost", &more).as_bytes()).await),
            [403]
        );
    }
    // A form of another page can send text without asking first: with an Origin, and without the key.
    let form = format!(
        "POST /v1/vms HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(statuses(&send(&server, form.as_bytes()).await), [401]);
    assert_eq!(count(&server).await, 0);
    // A page of this server's own may.
    let own = format!("127.0.0.1:{port}");
    let same = format!("Origin: http://{own}\r\nSec-Fetch-Site: same-origin\r\n");
    assert_eq!(
        statuses(&send(&server, launch(&own, &same).as_bytes()).await),
        [201]
    );
    server.stop().await;
}

#[tokio::test]
async fn a_host_twice_is_no_way_around() {
    let server = Server::start().await.unwrap();
    let key = server.api_key();
    for head in [
        "GET http://evil.example/v1/vms HTTP/1.1\r\nHost: localhost",
        "GET http://localhost/v1/vms HTTP/1.1\r\nHost: evil.example",
        "GET /v1/vms HTTP/1.1\r\nHost: localhost\r\nHost: evil.example",
        "GET /v1/vms HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: localhost",
        "GET /v1/vms HTTP/1.1\r\nHost: evil.example\r\nForwarded: host=localhost",
        "GET /v1/vms HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-For: 127.0.0.1",
    ] {
        let request = format!("{head}\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n");
        let answer = send(&server, request.as_bytes()).await;
        assert!(
            matches!(statuses(&answer)[..], [400 | 403]),
            "{head}: {answer}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn wrong_keys_open_nothing() {
    let server = Server::start().await.unwrap();
    let key = server.api_key();
    let longer = format!("{key}x");
    let upper = key.to_uppercase();
    let cut = &key[..key.len() - 1];
    let headers = [
        String::new(),
        "X-API-Key:\r\n".to_owned(),
        "X-API-Key: \t \r\n".to_owned(),
        format!("X-API-Key: {cut}\r\n"),
        format!("X-API-Key: {longer}\r\n"),
        format!("X-API-Key: {upper}\r\n"),
        format!("X-API-Key: \"{key}\"\r\n"),
        format!("X-API-Key: {key},{key}\r\n"),
        format!("X-API-Key: wrong\r\nX-API-Key: {key}\r\n"),
        format!("X_API_Key: {key}\r\n"),
        format!("Authorization: Basic {key}\r\n"),
        format!("Cookie: X-API-Key={key}\r\n"),
        "X-API-Key: undefined\r\n".to_owned(),
        "X-API-Key: null\r\n".to_owned(),
        "X-API-Key: *\r\n".to_owned(),
        "X-API-Key: \u{e9}\u{fc}\r\n".to_owned(),
        format!("X-API-Key: {}\r\n", "k".repeat(60_000)),
    ];
    for header in &headers {
        for (method, path) in [
            ("GET", "/v1/vms"),
            ("DELETE", "/v1/vms/x"),
            ("GET", "/v1/none"),
            ("POST", "/v1/volumes"),
        ] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n"
            );
            let answer = send(&server, request.as_bytes()).await;
            assert_eq!(statuses(&answer), [401], "{header} {path}: {answer}");
            assert!(!answer.contains(&key), "{answer}");
        }
    }
    let query = format!(
        "GET /v1/vms?api_key={key}&X-API-Key={key} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(statuses(&send(&server, query.as_bytes()).await), [401]);
    server.stop().await;
}
