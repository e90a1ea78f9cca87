//! Settings, the connection, and what errors mean.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use boxrig_vergeos::{Client, RowType, Wait};
use boxrig_wire::Kind;
use common::{Reply, Script};
use serde_json::json;
use std::time::Duration;

#[test]
fn the_eight_variables() {
    let set = |pairs: &'static [(&str, &str)]| {
        Client::builder()
            .env_from(move |name| {
                let found = pairs.iter().find(|(k, _)| *k == name);
                found.map(|(_, v)| (*v).to_owned())
            })
            .build()
    };
    let all = &[
        ("VERGE_HOST", "verge.example:8443"),
        ("VERGE_USERNAME", "admin"),
        ("VERGE_PASSWORD", "pw"),
        ("VERGE_TOKEN", "key"),
        ("VERGE_VERIFY_SSL", "no"),
        ("VERGE_TIMEOUT", "7"),
        ("VERGE_RETRY_TOTAL", "5"),
        ("VERGE_RETRY_BACKOFF", "0.5"),
    ];
    let client = set(all).unwrap();
    assert_eq!(
        client.caller().base().to_string(),
        "https://verge.example:8443"
    );
    assert_eq!(client.caller().timeout(), Some(Duration::from_secs(7)));
    assert_eq!(client.caller().retry().max_retries, 5);
    assert_eq!(client.caller().retry().base, Duration::from_millis(500));
    assert_eq!(client.connection().method.as_str(), "token");
    assert_eq!(set(&[]).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(
        set(&[("VERGE_HOST", "h")]).unwrap_err().kind(),
        Kind::Unauthenticated
    );
    let empty = set(&[
        ("VERGE_HOST", "h"),
        ("VERGE_USERNAME", "u"),
        ("VERGE_PASSWORD", ""),
    ]);
    assert_eq!(empty.unwrap_err().kind(), Kind::Unauthenticated);
    let wrong = set(&[
        ("VERGE_HOST", "h"),
        ("VERGE_TOKEN", "t"),
        ("VERGE_TIMEOUT", "soon"),
    ]);
    assert_eq!(wrong.unwrap_err().kind(), Kind::Invalid);
    let plain = set(&[
        ("VERGE_HOST", "h"),
        ("VERGE_USERNAME", "u"),
        ("VERGE_PASSWORD", "p"),
    ])
    .unwrap();
    assert_eq!(plain.caller().timeout(), Some(Duration::from_secs(30)));
    assert_eq!(plain.caller().retry().max_retries, 3);
    assert_eq!(plain.caller().retry().statuses, [429, 500, 502, 503, 504]);
    assert_eq!(plain.connection().method.as_str(), "basic");
}

#[tokio::test]
async fn connecting_is_one_request_that_says_who_the_system_is() {
    let script = Script::new(|s, n| match n {
        0 => {
            assert_eq!(s.query, "fields=%24key%2Cyb_version%2Cos_version%2Ccloud_name");
            assert_eq!(s.header("authorization"), Some("Basic YWRtaW46c2VjcmV0LXdvcmQ="));
            Reply::ok(json!([{"$key": 1, "yb_version": "26.1.8", "os_version": "6", "cloud_name": "lab"}]))
        }
        1 => Reply::ok(json!([])),
        2 => Reply::json(401, json!({"err": "Login required"})),
        _ => Reply::empty(200),
    })
    .await;
    let client = script.client();
    assert!(!client.is_connected());
    let connection = client.connect().await.unwrap();
    assert!(
        connection.is_connected && connection.is_token_valid() && connection.connected_at.is_some()
    );
    assert_eq!(client.version().as_deref(), Some("26.1.8"));
    assert_eq!(client.os_version().as_deref(), Some("6"));
    assert_eq!(client.cloud_name().as_deref(), Some("lab"));
    assert_eq!(client.connect().await.unwrap_err().kind(), Kind::Protocol);
    client.disconnect().await.unwrap();
    assert!(!client.is_connected());
    assert_eq!(
        client.vms().list().await.unwrap_err().kind(),
        Kind::Unavailable
    );
    assert_eq!(
        client.connect().await.unwrap_err().kind(),
        Kind::Unauthenticated
    );
    assert_eq!(client.connect().await.unwrap_err().kind(), Kind::Protocol);
    assert_eq!(script.seen().len(), 4);
}

#[tokio::test]
async fn without_auto_connect_nothing_is_sent_before() {
    let script = Script::new(|_, _| Reply::ok(json!([{"$key": 1, "yb_version": "26"}]))).await;
    let client = script.builder().auto_connect(false).build().unwrap();
    assert_eq!(
        client.vms().list().await.unwrap_err().kind(),
        Kind::Unavailable
    );
    assert!(script.seen().is_empty());
    client.connect().await.unwrap();
    client.vms().list().await.unwrap();
}

/// Rows are read as they come; those of a reply that broke off do not come twice.
#[tokio::test]
async fn a_list_that_breaks_off_is_begun_again() {
    let rows: Vec<_> = (1..=2000)
        .map(|n| json!({"$key": n, "name": format!("vm{n}"), "cpu_cores": 2, "new": n}))
        .collect();
    let wanted = rows.clone();
    let script = Script::new(move |_, n| {
        let reply = Reply::ok(json!(rows));
        match n {
            0 | 2 | 4 => reply.cut(1000),
            // Not for lack of the end, but for what is in it: that is not asked for again.
            6 => Reply::ok(json!([{"$key": 1}, 2])),
            _ => reply,
        }
    })
    .await;
    let client = script.client();
    let members = client.vms().list().await.unwrap();
    assert_eq!(serde_json::to_value(&members).unwrap(), json!(wanted));
    let query = boxrig_vergeos::Query::new();
    let table = client.table::<boxrig_vergeos::rows::Vm>();
    let listed = table.list(query.clone()).await.unwrap();
    assert_eq!(listed.len(), wanted.len());
    assert_eq!(listed[1999].record().get("new"), Some(json!(2000)));
    assert_eq!(script.seen().len(), 4);
    let once = script.builder().retry_total(0).build().unwrap();
    let table = once.table::<boxrig_vergeos::rows::Vm>();
    let e = table.list(query.clone()).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Transport, "{e}");
    table.list(query.clone()).await.unwrap();
    let table = client.table::<boxrig_vergeos::rows::Vm>();
    let e = table.list(query).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Protocol, "{e}");
    assert!(e.to_string().contains("row 2"), "{e}");
    assert_eq!(script.seen().len(), 7);
}

/// Every exception class of the vendor's SDK is one kind.
#[tokio::test]
async fn statuses_and_exceptions_by_meaning() {
    for (status, kind, exception) in [
        (400, Kind::Invalid, "APIError"),
        (401, Kind::Unauthenticated, "AuthenticationError"),
        (403, Kind::Denied, "AuthenticationError"),
        (404, Kind::NotFound, "NotFoundError"),
        (405, Kind::Invalid, "APIError"),
        (409, Kind::Conflict, "ConflictError"),
        (422, Kind::Invalid, "ValidationError"),
        (429, Kind::RateLimited, "RetryError"),
        (500, Kind::Failed, "RetryError"),
        (501, Kind::Unsupported, "APIError"),
        (503, Kind::Unavailable, "RetryError"),
        (507, Kind::Quota, "APIError"),
    ] {
        let script =
            Script::new(move |_, _| Reply::json(status, json!({"error": {"message": "why"}})))
                .await;
        let client = script.builder().retry_total(0).build().unwrap();
        let e = client.vms().get().key(1).await.unwrap_err();
        assert_eq!(e.kind(), kind, "{exception} {status}");
        assert_eq!(e.server_message().unwrap().to_string(), "why");
    }
    // VergeTimeoutError, TaskTimeoutError, TaskError.
    let script = Script::new(|_, _| Reply::ok(json!({"$key": 1, "status": "running"}))).await;
    let wait = Wait::default().timeout(Duration::ZERO);
    let e = script
        .client()
        .tasks()
        .wait(1)
        .waiting(wait)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Timeout);
    // VergeConnectionError.
    let nobody = Client::builder()
        .host("http://127.0.0.1:9")
        .token("t")
        .retry_total(0)
        .build()
        .unwrap();
    assert_eq!(nobody.connect().await.unwrap_err().kind(), Kind::Transport);
}

#[tokio::test]
async fn a_row_of_another_parent_is_refused_before_anything_is_done() {
    let script = Script::new(|s, _| match s.path.as_str() {
        "/api/v4/vnets/3" => Reply::ok(json!({"$key": 3, "name": "lan"})),
        _ => Reply::ok(json!({"$key": 8, "vnet": 4})),
    })
    .await;
    let client = script.client();
    let e = client.networks().at(3).rules().delete(8).await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    assert!(
        script.lines().iter().all(|l| !l.starts_with("DELETE")),
        "{:?}",
        script.lines()
    );
}

#[tokio::test]
async fn names_are_one_segment() {
    let script = Script::new(|_, _| Reply::ok(json!({"$key": 1}))).await;
    let client = script.client();
    client
        .nas_volumes()
        .delete("../../sys/tokens/x")
        .await
        .unwrap();
    assert_eq!(
        script.lines(),
        ["DELETE /api/v4/volumes/..%2F..%2Fsys%2Ftokens%2Fx"]
    );
    for bad in ["..", ".", ""] {
        let e = client.nas_volumes().delete(bad).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid, "{bad:?}");
    }
}

/// Retries: how many, on which statuses, never of what may have happened.
#[tokio::test]
async fn retries_are_counted() {
    let tries = |build: fn(boxrig_vergeos::ClientBuilder) -> boxrig_vergeos::ClientBuilder,
                 status| async move {
        let script = Script::new(move |_, _| Reply::json(status, json!({"err": "no"}))).await;
        let client = build(script.builder()).build().unwrap();
        client.vms().list().await.unwrap_err();
        script.seen().len()
    };
    for status in [429, 500, 502, 503, 504] {
        assert_eq!(tries(|b| b, status).await, 4, "{status}");
        assert_eq!(tries(|b| b.retry_total(1), status).await, 2, "{status}");
        assert_eq!(
            tries(|b| b.retry_status_codes([418]), status).await,
            1,
            "{status}"
        );
    }
    assert_eq!(tries(|b| b, 418).await, 1);
    assert_eq!(tries(|b| b.retry_status_codes([418]), 418).await, 4);
    // The pause doubles from the one that is set.
    let base = Duration::from_millis(250);
    let client = Client::builder().host("h").token("t").retry_backoff(base);
    let client = client.build().unwrap();
    assert_eq!(client.caller().retry().base, base);
    let retry = Client::default_retries();
    assert_eq!((retry.max_retries, retry.base), (3, Duration::from_secs(1)));
}

/// Each kind of credentials is one header, and none is shown.
#[tokio::test]
async fn credentials_are_sent_as_they_should() {
    let script = Script::new(|_, _| Reply::ok(json!([]))).await;
    let basic = script.client();
    basic.vms().list().await.unwrap();
    let token = script.builder().token("api-key").build().unwrap();
    token.vms().list().await.unwrap();
    let sent: Vec<Option<String>> = script
        .seen()
        .iter()
        .map(|s| s.header("authorization").map(str::to_owned))
        .collect();
    // "admin:secret-word", and the key as it is; the key wins over name and password.
    let wanted = ["Basic YWRtaW46c2VjcmV0LXdvcmQ=", "Bearer api-key"];
    assert_eq!(sent, wanted.map(|w| Some(w.to_owned())));
    for client in [&basic, &token] {
        let shown = format!("{client:?}");
        assert!(
            !shown.contains("secret-word") && !shown.contains("api-key"),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn a_connection_says_what_is_known() {
    let script = Script::new(|_, _| Reply::ok(json!([{"$key": 1, "yb_version": "26"}]))).await;
    let client = script.client();
    let before = client.connection();
    assert_eq!(
        (before.username.as_str(), before.is_connected),
        ("admin", false)
    );
    assert!(before.connected_at.is_none() && before.vergeos_version.is_none());
    assert!(!before.is_token_valid());
    client.connect().await.unwrap();
    assert_eq!(client.host(), script.url);
    assert_eq!(client.caller().base().to_string(), script.url);
    let after = client.connection();
    assert!(after.is_connected && after.token_expires_in.is_none());
    client.disconnect().await.unwrap();
    let ended = client.connection();
    assert!(!ended.is_connected && !ended.is_token_valid());
    assert_eq!(ended.connected_at, None);
}
