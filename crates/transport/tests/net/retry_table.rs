//! Every cell of the table in `docs/retry.md`, over sockets.

use std::sync::Arc;

use boxrig_transport::Http;
use boxrig_wire::{Delivery, Error, Idempotency, Kind, Transport, WireBody};
use http::{Method, Response};

use crate::support::{Conn, Served, builder, call, client, get, nobody, post, quick, serve};

/// More than the sockets' buffers hold: a server that does not read leaves the request half written.
const LARGE: usize = 16 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Before,
    Mid,
    After,
}

/// A server that fails the first request in the given way, and answers the second.
async fn failing(phase: Phase, status: Option<u16>) -> Served {
    serve(move |mut conn: Conn| async move {
        if conn.number > 0 {
            return conn.fine("done").await;
        }
        if phase == Phase::After {
            conn.request().await;
        } else {
            conn.head().await;
        }
        if let Some(status) = status {
            conn.reply(status, "connection: close\r\n", "refused").await;
            conn.until_closed().await;
        }
    })
    .await
}

fn idempotency(word: &str) -> Option<(Idempotency, Method)> {
    Some(match word {
        "safe" => (Idempotency::Safe, Method::GET),
        "idempotent" => (Idempotency::Idempotent, Method::PUT),
        "token" => (Idempotency::Token, Method::POST),
        "never" => (Idempotency::Never, Method::POST),
        _ => return None,
    })
}

async fn cell(
    http: &Http,
    word: &str,
    status: Option<u16>,
    phase: Phase,
) -> (Result<Response<WireBody>, Error>, usize) {
    let (idempotency, method) = idempotency(word).unwrap();
    let server = failing(phase, status).await;
    let url = if phase == Phase::Before {
        format!("http://{}/x", nobody().await)
    } else {
        server.url("/x")
    };
    let mut out = call(method, &url, idempotency);
    let length = if phase == Phase::Mid { LARGE } else { 10 };
    *out.request.body_mut() = WireBody::full(vec![b'x'; length]);
    out.retry = quick(1);
    out.retry.statuses = vec![408, 409, 425, 429, 500, 502, 503, 504];
    let result = http.send(out).await;
    (result, server.counts.requests())
}

#[tokio::test]
async fn every_cell_over_sockets() {
    let text = include_str!("../../../../docs/retry.md");
    let mut cells = 0;
    for line in text.lines().filter(|l| l.starts_with("| ")) {
        let cols: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if idempotency(cols[0]).is_none() {
            continue;
        }
        let status = match cols[1] {
            "no answer" => None,
            s => Some(s.parse::<u16>().unwrap()),
        };
        for (phase, expected) in [Phase::Before, Phase::Mid, Phase::After]
            .into_iter()
            .zip(&cols[2..])
        {
            if *expected == "–" {
                continue;
            }
            // A client of its own: the budget is another test's matter.
            let http = client();
            let (result, requests) = cell(&http, cols[0], status, phase).await;
            let what = format!("{line} {phase:?}: {result:?}");
            match (*expected, phase, status) {
                ("retry", Phase::Before, _) => {
                    let e = result.unwrap_err();
                    assert_eq!((e.kind(), e.attempts()), (Kind::Transport, 2), "{what}");
                }
                ("retry", ..) => {
                    assert_eq!(requests, 2, "{what}");
                    assert_eq!(result.unwrap().status(), 200, "{what}");
                }
                ("fail", _, Some(status)) => {
                    assert_eq!(requests, 1, "{what}");
                    let r = result.unwrap();
                    assert_eq!(r.status(), status, "{what}");
                    let delivery = r.extensions().get::<Delivery>().unwrap();
                    assert!(!delivery.outcome_unknown, "{what}");
                }
                ("unknown", _, Some(status)) => {
                    assert_eq!(requests, 1, "{what}");
                    let r = result.unwrap();
                    assert_eq!(r.status(), status, "{what}");
                    let delivery = r.extensions().get::<Delivery>().unwrap();
                    assert!(delivery.outcome_unknown, "{what}");
                }
                ("unknown", _, None) => {
                    assert_eq!(requests, 1, "{what}");
                    let e = result.unwrap_err();
                    assert_eq!(e.kind(), Kind::OutcomeUnknown, "{what}");
                    assert!(e.hint().is_some(), "{what}");
                    let words = match phase {
                        Phase::Mid => "while the request was being sent",
                        _ => "before the answer came",
                    };
                    assert!(e.message().contains(words), "{what}");
                }
                _ => panic!("{what}"),
            }
            cells += 1;
        }
    }
    assert_eq!(cells, 4 * (3 + 8 * 2));
}

/// A status that the policy does not name is an answer, and a good one needs no note.
#[tokio::test]
async fn other_statuses_are_answers() {
    let server = serve(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.reply(404, "", "no").await;
        }
    })
    .await;
    let mut out = get(&server.url("/"));
    out.retry = quick(3);
    assert_eq!(client().send(out).await.unwrap().status(), 404);
    assert_eq!(server.counts.requests(), 1);
}

/// A connection that was closed while nobody used it costs no try and repeats no request: also a call that
/// must never be sent twice goes through.
#[tokio::test]
async fn a_closed_idle_connection_is_no_failure() {
    let server = serve(|mut conn: Conn| async move {
        // One request per connection, then it is closed without a word.
        conn.request().await;
        conn.reply(200, "", "ok").await;
    })
    .await;
    let http = client();
    for n in 1..=20 {
        let r = http.send(post(&server.url("/"))).await.unwrap();
        assert_eq!(r.status(), 200);
        assert_eq!(server.counts.requests(), n);
        server.counts.all_closed().await;
    }
}

/// The answer's body is part of a whole reply: a read is repeated when it breaks.
#[tokio::test]
async fn a_broken_reply_body() {
    let server = || {
        serve(|mut conn: Conn| async move {
            conn.request().await;
            if conn.number == 0 {
                conn.raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
                    .await;
            } else {
                conn.reply(200, "", "whole").await;
            }
        })
    };
    let s = server().await;
    let mut out = get(&s.url("/"));
    out.retry = quick(1);
    let r = client().send(out).await.unwrap();
    assert_eq!(r.body().as_bytes(), Some(&b"whole"[..]));

    let s = server().await;
    let mut out = post(&s.url("/"));
    out.retry = quick(1);
    let e = client().send(out).await.unwrap_err();
    assert_eq!(e.kind(), Kind::OutcomeUnknown);
    assert_eq!(s.counts.requests(), 1);
}

/// A streamed body is sent again only if nothing of it was read.
#[tokio::test]
async fn a_streamed_body_goes_once() {
    let stream = || {
        WireBody::from_stream(futures_util::stream::iter([Ok::<_, Error>(
            bytes::Bytes::from_static(b"abc"),
        )]))
    };
    let s = serve(|mut conn: Conn| async move {
        conn.head().await;
    })
    .await;
    let mut out = call(Method::PUT, &s.url("/"), Idempotency::Idempotent);
    *out.request.body_mut() = stream();
    out.retry = quick(3);
    let e = client().send(out).await.unwrap_err();
    assert_eq!((e.kind(), e.attempts()), (Kind::OutcomeUnknown, 1));
    assert!(e.is_retryable(), "doing it again does no harm");

    let addr = nobody().await;
    let mut out = call(Method::PUT, &format!("http://{addr}/"), Idempotency::Never);
    *out.request.body_mut() = stream();
    out.retry = quick(3);
    let e = client().send(out).await.unwrap_err();
    assert_eq!((e.kind(), e.attempts()), (Kind::Transport, 4), "untouched");
}

/// `x-should-retry` is the platform's word.
#[tokio::test]
async fn the_platforms_own_word() {
    let server = |status: u16, word: &'static str| {
        serve(move |mut conn: Conn| async move {
            while conn.request().await.is_some() {
                let status = if conn.counts.requests() == 1 {
                    status
                } else {
                    200
                };
                conn.reply(status, &format!("x-should-retry: {word}\r\n"), "")
                    .await;
            }
        })
    };
    for (status, word, safe, never) in [
        (503, "false", 1, 1),
        (400, "true", 2, 1),
        (429, "true", 2, 2),
        (500, "true", 2, 1),
    ] {
        for (idempotency, expected) in [(Idempotency::Safe, safe), (Idempotency::Never, never)] {
            let s = server(status, word).await;
            let mut out = call(Method::POST, &s.url("/"), idempotency);
            out.retry = quick(2);
            client().send(out).await.unwrap();
            assert_eq!(
                s.counts.requests(),
                expected,
                "{status} {word} {idempotency:?}"
            );
        }
    }
}

/// Errors name host and tries, and neither query nor header.
#[tokio::test]
async fn errors_hold_no_secret() {
    let addr = nobody().await;
    let mut out = get(&format!("http://{addr}/path?token=canary1"));
    let mut value: http::HeaderValue = "canary2".parse().unwrap();
    value.set_sensitive(true);
    out.request.headers_mut().insert("x-api-key", value);
    out.retry = quick(1);
    let e = client().send(out).await.unwrap_err();
    let mut text = format!("{e} {e:?} {:?}", e.hint());
    let mut source = std::error::Error::source(&e);
    while let Some(s) = source {
        text += &format!("{s} {s:?}");
        source = s.source();
    }
    assert!(!text.contains("canary"), "{text}");
    assert!(e.to_string().contains("after 2 attempts"), "{e}");
    assert_eq!(e.operation(), Some("testOperation"));

    let e = client()
        .send(get("http://user:canary@h/"))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid);
    assert!(!format!("{e:?}").contains("canary"));
}

/// HTTP/2: a refused stream was not looked at, says the protocol, and may always be sent again.
#[tokio::test]
async fn an_http2_refusal_is_before_send() {
    let refusals = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = refusals.clone();
    let server = serve(move |conn: Conn| {
        let seen = seen.clone();
        async move {
            let mut h2 = h2::server::handshake(conn.io).await.unwrap();
            while let Some(Ok((_, mut answer))) = h2.accept().await {
                if seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                    answer.send_reset(h2::Reason::REFUSED_STREAM);
                } else {
                    let _ = answer.send_response(Response::new(()), true);
                }
            }
        }
    })
    .await;
    let http = builder().http2_prior_knowledge().build().unwrap();
    let mut out = post(&server.url("/"));
    out.retry = quick(1);
    assert_eq!(http.send(out).await.unwrap().status(), 200);
    assert_eq!(refusals.load(std::sync::atomic::Ordering::SeqCst), 2);
}

struct Demo;

impl boxrig_wire::Protocol for Demo {
    const PLATFORM: &'static str = "demo";
    fn decode_error(error: Error, _: &http::HeaderMap, body: &[u8]) -> Error {
        error.with_server_message(String::from_utf8_lossy(body).into_owned())
    }
    fn encode_error(_: &boxrig_wire::ApiError) -> Response<WireBody> {
        Response::default()
    }
}

/// The platform's error carries what the transport knows: tries, the wait, an open outcome.
#[tokio::test]
async fn errors_carry_how_they_came_about() {
    use boxrig_wire::{BaseUrl, Caller, RawRequest};
    let server = serve(|mut conn: Conn| async move {
        while let Some(got) = conn.request().await {
            let status = if got.line().starts_with("GET") {
                503
            } else {
                502
            };
            conn.reply(status, "retry-after-ms: 5\r\n", "gateway").await;
        }
    })
    .await;
    let base = BaseUrl::parse(&server.url("")).unwrap();
    let caller = Caller::new(Arc::new(client()), base).with_retry(quick(2));
    for (method, kind, attempts) in [
        (Method::GET, Kind::Unavailable, 3),
        (Method::POST, Kind::OutcomeUnknown, 1),
    ] {
        let request = RawRequest::new(method, "/x");
        let e = caller.raw::<Demo>(request).await.unwrap_err();
        assert_eq!((e.kind(), e.attempts()), (kind, attempts), "{e}");
        assert_eq!(e.retry_after(), Some(std::time::Duration::from_millis(5)));
        assert_eq!(e.server_message().unwrap().raw(), "gateway");
    }
}
