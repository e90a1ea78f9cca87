//! What the vendor's exception classes are here: the table at [`Convox`], retries and deadlines.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use boxrig_convox::{Client, Convox, RetryConfig};
use boxrig_wire::{ApiError, CallOptions, Error, Kind, Protocol, RetryPolicy, Timeout};
use common::{Rack, SILENCE, json, ok, reply, with};
use http::{HeaderMap, StatusCode};

fn read(status: u16, headers: &[(&'static str, &str)], body: &str) -> Error {
    let error = Error::from_status(StatusCode::from_u16(status).unwrap());
    let headers: HeaderMap = headers
        .iter()
        .map(|(k, v)| (http::HeaderName::from_static(k), v.parse().unwrap()))
        .collect();
    Convox::decode_error(error, &headers, body.as_bytes())
}

#[test]
fn every_exception_class_has_its_kind() {
    let id = ("request-id", "0123456789ab");
    let challenge = (
        "www-authenticate",
        "Session path=\"/session\" token=\"false\"",
    );
    type Row<'a> = (&'a str, u16, &'a [(&'static str, &'a str)], &'a str, Kind);
    let table: &[Row<'_>] = &[
        (
            "ConvoxValidationError",
            400,
            &[id],
            "app name is reserved\n",
            Kind::Invalid,
        ),
        (
            "ConvoxAPIError 422",
            422,
            &[id],
            "image is required",
            Kind::Invalid,
        ),
        (
            "ConvoxAuthError",
            401,
            &[("www-authenticate", "Basic realm=\"convox\"")],
            "invalid authentication",
            Kind::Unauthenticated,
        ),
        (
            "ConvoxAuthError session",
            401,
            &[challenge],
            "",
            Kind::Unauthenticated,
        ),
        (
            "ConvoxForbiddenError",
            401,
            &[id],
            "you are unauthorized to access this",
            Kind::Denied,
        ),
        ("ConvoxAPIError 403", 403, &[id], "admin only", Kind::Denied),
        (
            "ConvoxAPIError 403 busy",
            403,
            &[id],
            "app is currently updating",
            Kind::Conflict,
        ),
        (
            "ConvoxNotFoundError",
            404,
            &[id],
            "{\"error\":\"no such app: x\"}",
            Kind::NotFound,
        ),
        ("ConvoxNotFoundError route", 404, &[], "", Kind::Unsupported),
        (
            "ConvoxConflictError",
            409,
            &[id],
            "app is locked",
            Kind::Conflict,
        ),
        ("ConvoxAPIError 429", 429, &[], "", Kind::RateLimited),
        (
            "ConvoxServerError",
            500,
            &[id],
            "strconv.Atoi: parsing \"x\": invalid syntax; not found",
            Kind::Failed,
        ),
        (
            "ConvoxNotImplementedError",
            501,
            &[id],
            "unimplemented",
            Kind::Unsupported,
        ),
        ("ConvoxGatewayError", 502, &[], "", Kind::Unavailable),
        ("ConvoxGatewayError", 503, &[], "", Kind::Unavailable),
        ("ConvoxGatewayError", 504, &[], "", Kind::Unavailable),
    ];
    for (class, status, headers, body, kind) in table {
        let e = read(*status, headers, body);
        assert_eq!(e.kind(), *kind, "{class}");
        assert_eq!(e.status().unwrap().as_u16(), *status);
    }
    let e = read(409, &[], "{\"error\": \"app is locked\\u001b[2J\"}");
    assert_eq!(e.server_message().unwrap().raw(), "app is locked\u{1b}[2J");
    assert!(!e.to_string().contains('\u{1b}'));
}

#[tokio::test]
async fn errors_carry_status_words_and_request_id() {
    let rack = Rack::new(|_| reply(404, "no such app: web\n"));
    let e = rack.client().apps().get("web").await.unwrap_err();
    assert_eq!(
        (e.kind(), e.status().unwrap().as_u16()),
        (Kind::NotFound, 404)
    );
    assert_eq!(e.server_message().unwrap().raw(), "no such app: web");
    assert_eq!(e.request_id().unwrap().raw(), "0123456789ab");
    assert_eq!(e.operation(), Some("AppGet"));
    assert!(!format!("{e:?}").contains("secret-canary"));
}

/// Without a rack a console answers any path with its web page and status 200.
#[tokio::test]
async fn a_web_page_is_no_answer() {
    let rack = Rack::new(|_| {
        with(
            reply(200, "<!doctype html><html>"),
            "content-type",
            "text/html",
        )
    });
    let client = rack.client();
    for e in [
        client.apps().list().await.unwrap_err(),
        client.apps().delete("web").await.unwrap_err(),
        client.system().auth().await.unwrap_err(),
    ] {
        assert_eq!(e.kind(), Kind::Protocol);
        assert!(e.hint().unwrap().contains("ORG/RACK"), "{e}");
    }
    let rack = Rack::new(|_| with(reply(404, "<html>"), "content-type", "text/html"));
    let e = rack.client().apps().list().await.unwrap_err();
    assert!(e.hint().unwrap().contains("web page"));
    assert!(e.server_message().is_none());
}

#[test]
fn an_unknown_route_is_an_empty_404() {
    let r = Convox::encode_error(&ApiError::not_found(""));
    assert_eq!(r.status(), 404);
    assert_eq!(r.body().as_bytes(), Some(&b""[..]));
    let r = Convox::encode_error(&ApiError::invalid("no"));
    assert_eq!(
        (r.status().as_u16(), r.body().as_bytes()),
        (400, Some(&b"no\n"[..]))
    );
}

#[test]
fn retries_are_the_documented_ones() {
    let policy = RetryPolicy::from(RetryConfig::default());
    assert_eq!(policy, Client::default_retries());
    assert_eq!(
        (policy.max_retries, policy.base, policy.cap),
        (3, Duration::from_secs(1), Duration::from_secs(30))
    );
    assert_eq!(policy.statuses, [429, 502, 503, 504]);
    assert!(!policy.names_status(StatusCode::INTERNAL_SERVER_ERROR));
    let policy = RetryPolicy::from(RetryConfig {
        max_retries: 5,
        backoff_base: Duration::from_secs(2),
        backoff_max: Duration::from_secs(60),
        retry_on_500: true,
    });
    assert_eq!(
        (policy.max_retries, policy.base, policy.cap),
        (5, Duration::from_secs(2), Duration::from_secs(60))
    );
    assert!(policy.names_status(StatusCode::INTERNAL_SERVER_ERROR));
}

fn quick(max_retries: u32, retry_on_500: bool) -> RetryConfig {
    RetryConfig {
        max_retries,
        backoff_base: Duration::from_millis(5),
        backoff_max: Duration::from_millis(20),
        retry_on_500,
    }
}

async fn over_tcp(rack: &Rack, retry: RetryConfig) -> Client {
    let url = rack.listen().await;
    Client::builder()
        .host(url)
        .api_key("k")
        .retry(retry)
        .build()
        .unwrap()
}

#[tokio::test]
async fn what_only_reads_is_tried_again() {
    for status in [429, 502, 503, 504] {
        let rack = Rack::new(move |_| reply(status, "later"));
        let client = over_tcp(&rack, quick(3, false)).await;
        let e = client.apps().list().await.unwrap_err();
        assert_eq!((e.attempts(), rack.seen().len()), (4, 4), "{status}");
        let none = CallOptions::new().retries(0);
        client.apps().with(none).list().await.unwrap_err();
        assert_eq!(rack.seen().len(), 5, "{status}");
    }
    for (again, times) in [(false, 1), (true, 3)] {
        let rack = Rack::new(|_| reply(500, "boom"));
        let client = over_tcp(&rack, quick(2, again)).await;
        assert_eq!(client.apps().list().await.unwrap_err().kind(), Kind::Failed);
        assert_eq!(rack.seen().len(), times);
    }
    let rack = Rack::new(|_| reply(503, "later"));
    let off = over_tcp(&rack, quick(0, false)).await;
    off.apps().list().await.unwrap_err();
    assert_eq!(rack.seen().len(), 1, "0 switches retries off");
}

/// Defect 3: the vendor's SDK sends one build create four times.
#[tokio::test]
async fn what_may_have_happened_is_not_sent_again() {
    let rack = Rack::new(|_| reply(502, "bad gateway"));
    let client = over_tcp(&rack, quick(3, true)).await;
    let e = client
        .builds()
        .create("web", "object://x", Default::default())
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::OutcomeUnknown);
    assert_eq!(rack.seen().len(), 1);
    let e = client.releases().promote("web", "R1").await.unwrap_err();
    assert_eq!(e.kind(), Kind::OutcomeUnknown);
    assert_eq!(rack.seen().len(), 2);
}

/// Defect 1: there the client's deadline never takes effect. Defect 2: there retried answers are never closed.
#[tokio::test]
async fn the_deadline_holds_and_answers_are_closed() {
    let rack = Rack::new(|_| reply(SILENCE.as_u16(), ""));
    let url = rack.listen().await;
    let limit = Some(Duration::from_millis(200));
    let client = Client::builder()
        .host(&url)
        .api_key("k")
        .timeout(limit)
        .build()
        .unwrap();
    let start = Instant::now();
    assert_eq!(
        client.apps().list().await.unwrap_err().kind(),
        Kind::Timeout
    );
    let e = client.apps().create("web").await.unwrap_err();
    assert_eq!(e.kind(), Kind::OutcomeUnknown, "it may have happened");
    let longer = CallOptions::new().timeout(Duration::from_millis(500));
    assert_eq!(
        client.apps().with(longer).list().await.unwrap_err().kind(),
        Kind::Timeout
    );
    assert!(
        start.elapsed() > Duration::from_millis(850) && start.elapsed() < Duration::from_secs(10)
    );
    assert_eq!(
        Client::builder()
            .host("h")
            .api_key("k")
            .build()
            .unwrap()
            .caller()
            .timeout(),
        Some(Duration::from_secs(30))
    );

    // Far more refused answers than a pool has places.
    let rack = Rack::new(|_| reply(503, "later"));
    let client = over_tcp(&rack, quick(3, false)).await;
    for _ in 0..100 {
        let none = CallOptions::new().retries(1);
        client.apps().with(none).list().await.unwrap_err();
    }
    assert!(rack.seen().len() >= 100);
}

#[tokio::test]
async fn an_import_has_half_an_hour() {
    // The deadline is seen by a transport in between.
    #[derive(Debug)]
    struct Spy(std::sync::Mutex<Vec<Option<Duration>>>);
    impl boxrig_wire::Transport for Spy {
        fn send(
            &self,
            out: boxrig_wire::Outgoing,
        ) -> boxrig_wire::BoxFuture<'_, boxrig_wire::Result<http::Response<boxrig_wire::WireBody>>>
        {
            self.0.lock().unwrap().push(out.timeout);
            Box::pin(async { Ok(json(serde_json::json!({"id": "B1"}))) })
        }
    }
    let spy = std::sync::Arc::new(Spy(Default::default()));
    let client = Client::builder()
        .host("h")
        .api_key("k")
        .timeout(Some(Duration::from_secs(5)))
        .transport(spy.clone())
        .build()
        .unwrap();
    let tgz = || boxrig_wire::WireBody::full("tgz");
    client.builds().import_build("web", tgz()).await.unwrap();
    let hour = CallOptions::new().timeout(Duration::from_secs(3600));
    client
        .builds()
        .with(hour)
        .import_build("web", tgz())
        .await
        .unwrap();
    client
        .builds()
        .with(CallOptions::new().timeout(Timeout::Never))
        .import_build("web", tgz())
        .await
        .unwrap();
    client
        .api()
        .post("/apps/web/builds/import")
        .content(tgz())
        .timeout(Duration::from_secs(600))
        .await
        .unwrap();
    client.apps().list().await.unwrap_err();
    let seconds: Vec<Option<u64>> = spy
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|d| d.map(|d| d.as_secs()))
        .collect();
    assert_eq!(seconds, [Some(1800), Some(3600), None, Some(600), Some(5)]);
}

#[tokio::test]
async fn anything_goes_by_path() {
    let rack = Rack::new(|seen| match seen.line().as_str() {
        "GET /apps" => json(serde_json::json!([{"name": "web"}])),
        "POST /apps" => json(serde_json::json!({"name": "new"})),
        "DELETE /apps/web" => ok(),
        "GET /empty" => reply(200, ""),
        _ => reply(500, "partly\n"),
    });
    let client = rack.client();
    let api = client.api();
    assert_eq!(
        api.get("/apps").param("x", "1 2").await.unwrap()[0]["name"],
        "web"
    );
    assert_eq!(
        api.post("/apps").data([("name", "newapp")]).await.unwrap()["name"],
        "new"
    );
    assert_eq!(api.delete("/apps/web").await.unwrap(), "ok");
    assert!(api.get("/empty").await.unwrap().is_null());
    assert_eq!(
        api.put("/other")
            .json(serde_json::json!({}))
            .await
            .unwrap_err()
            .kind(),
        Kind::Failed
    );
    api.post("/x")
        .content(boxrig_wire::WireBody::full("a=b"))
        .await
        .unwrap_err();
    let seen = rack.seen();
    assert_eq!(seen[0].target, "/apps?x=1%202");
    assert_eq!(
        (seen[1].text(), seen[1].header("content-type").unwrap()),
        (
            "name=newapp".into(),
            "application/x-www-form-urlencoded".into()
        )
    );
    assert_eq!(
        seen[5].header("content-type").unwrap(),
        "application/octet-stream"
    );

    // A stream is given unchecked, line by line.
    let request =
        boxrig_wire::RawRequest::new(http::Method::GET, "/apps/web/logs").query("follow", "true");
    let answer = client.raw_stream(request).await.unwrap();
    assert_eq!(answer.status(), 500);
    let mut lines = boxrig_wire::LineStream::new(answer.into_body(), 1024);
    let line = futures_util::StreamExt::next(&mut lines)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(line, "partly");
}

#[tokio::test]
async fn no_connection_is_its_own_kind() {
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::builder()
        .host(url)
        .api_key("k")
        .retry(quick(1, false))
        .build()
        .unwrap();
    let e = client.apps().create("web").await.unwrap_err();
    assert_eq!(
        e.kind(),
        Kind::Transport,
        "nothing was sent, so it cannot have happened"
    );
}
