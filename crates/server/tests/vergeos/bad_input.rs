//! Wrong requests: the documented answer, and the right kind of error at a client.

use std::time::{Duration, Instant};

use boxrig_vergeos::VergeOs;
use boxrig_wire::{CallOptions, Kind, RawBody, RawRequest};
use http::Method;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde_json::json;

use super::api::{Api, basic};

#[tokio::test]
async fn paths_that_lead_nowhere() {
    let api = Api::start().await;
    for (method, path, status) in [
        (Method::GET, "no_such_table", 404),
        (Method::POST, "no_such_table", 404),
        (Method::GET, "vms/99", 404),
        (Method::GET, "vms/x", 404),
        (Method::GET, "vms/-1", 404),
        (Method::PUT, "vms/99", 404),
        (Method::DELETE, "vms/99", 404),
        (Method::GET, "vm_actions", 405),
        (Method::PATCH, "vms/1", 405),
        (Method::POST, "nothing_actions", 404),
        (Method::POST, "vms/1/x/y", 404),
        (Method::POST, "dashboard", 405),
        (Method::DELETE, "vms", 405),
        (Method::GET, "vms?fields=count(", 422),
        (Method::GET, "vms?fields=nothing(name)", 422),
        (Method::GET, "vms?offset=-1", 422),
        (Method::GET, "vms?filter=%ff", 422),
    ] {
        let answer = api.ask(method.clone(), path, RawBody::Empty).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        assert!(!answer.err().is_empty(), "{method} {path}");
    }
}

#[tokio::test]
async fn bodies_that_are_none() {
    let api = Api::start().await;
    let file = api
        .make("files", json!({ "name": "a.raw", "allocated_bytes": "1" }))
        .await;
    let file = format!("files/{file}");
    for (method, path) in [
        (Method::POST, "vms"),
        (Method::PUT, "settings/cloud_name"),
        (Method::POST, "vm_actions"),
        (Method::PUT, file.as_str()),
    ] {
        for body in ["{", "[]", "null", "\"x\"", "{\"name\": }", "\u{fffd}{}"] {
            let text = RawBody::Bytes(boxrig_wire::WireBody::full(body.to_owned()));
            let answer = api.ask(method.clone(), path, text).await;
            assert_eq!(
                answer.status, 400,
                "{method} {path} {body}: {}",
                answer.body
            );
            assert!(answer.err().starts_with("invalid body"), "{}", answer.err());
        }
    }
    assert_eq!(
        api.post("vms", json!({ "name": { "a": 1 } })).await.status,
        201
    );
    let deep = format!("{}1{}", "(".repeat(500), ")".repeat(500));
    assert_eq!(api.query("vms", &[("filter", &deep)]).await.status, 422);
    let deep = format!("{}name{}", "machine[".repeat(500), "]".repeat(500));
    assert_eq!(api.query("vms", &[("fields", &deep)]).await.status, 422);
}

/// What the platform takes and passes over, it says in a header: a field it does not have, an action in query form.
#[tokio::test]
async fn what_is_passed_over_is_told() {
    let api = Api::start().await;
    let answer = api.post("vms", json!({ "name": "a", "bogus": 1 })).await;
    assert_eq!(
        (answer.status, answer.warning()),
        (201, "ignored fields: bogus")
    );
    let answer = api.put("vms/1", json!({ "bogus": 1 })).await;
    assert_eq!(
        (answer.status, answer.warning()),
        (200, "ignored fields: bogus")
    );
    let answer = api.put("vms/1?action=bogus", json!({})).await;
    assert_eq!(answer.status, 200);
    assert!(answer.warning().contains("unknown action bogus"));
    let answer = api.get("vms?fields=name,bogus").await;
    assert_eq!(answer.body, json!([{ "name": "a" }]));
}

/// The client reads from the answer what it means, and what the server said.
#[tokio::test]
async fn errors_have_their_kind_at_a_client() {
    let api = Api::start().await;
    api.make("vms", json!({ "name": "web" })).await;
    let (bob, _) = api.user("bob").await;
    let post = |path: &str, body| {
        let body = RawBody::Json(body);
        RawRequest::new(Method::POST, format!("/api/v4/{path}")).body(body)
    };
    let get = |path: &str| RawRequest::new(Method::GET, format!("/api/v4/{path}"));
    let admin = api.admin();
    let wrong = basic("admin", "wrong");
    let no_key = (AUTHORIZATION, "Bearer nobody-gave-this-key".to_owned());
    let text = |path: &str, text: &'static str| {
        let body = RawBody::Bytes(boxrig_wire::WireBody::full(text));
        RawRequest::new(Method::POST, format!("/api/v4/{path}")).body(body)
    };
    // A network that runs.
    let net = api
        .make("vnets", json!({ "name": "n", "type": "internal" }))
        .await;
    let on = json!({ "vnet": net, "action": "poweron" });
    assert_eq!(api.post("vnet_actions", on).await.status, 201);
    let running = format!("vnets/{net}?fields=machine%23status%23running as running");
    let deadline = Instant::now() + Duration::from_secs(30);
    while api.get(&running.replace(' ', "%20")).await.body["running"] != true {
        assert!(Instant::now() < deadline, "the network does not start");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let delete = RawRequest::new(Method::DELETE, format!("/api/v4/vnets/{net}"));
    for (who, request, kind, words) in [
        (
            &wrong,
            get("system"),
            Kind::Unauthenticated,
            "Login is required",
        ),
        (&bob, get("vms"), Kind::Denied, "Permission denied"),
        (
            &admin,
            get("no_such_table"),
            Kind::NotFound,
            "no_such_table",
        ),
        (&admin, get("vms/99"), Kind::NotFound, "row does not exist"),
        (
            &admin,
            get("vms").query("filter", "x"),
            Kind::Invalid,
            "Invalid argument",
        ),
        (
            &admin,
            get("vms").query("fields", "name["),
            Kind::Invalid,
            "Invalid argument",
        ),
        (
            &admin,
            get("vms").query("sort", "bogus"),
            Kind::Invalid,
            "bogus",
        ),
        (
            &admin,
            post("vms", json!({ "name": "web" })),
            Kind::Conflict,
            "row exists",
        ),
        (
            &admin,
            post("vnet_actions", json!({ "vnet": 1, "action": "killpower" })),
            Kind::Invalid,
            "value 'killpower' is not in list",
        ),
        (
            &no_key,
            get("vms"),
            Kind::Unauthenticated,
            "Login is required",
        ),
        (
            &bob,
            post("vms", json!({ "name": "bobs" })),
            Kind::Denied,
            "no right to create vms",
        ),
        (
            &admin,
            post("no_such_actions", json!({ "action": "x" })),
            Kind::NotFound,
            "no_such_actions",
        ),
        (
            &admin,
            post("vm_actions", json!({ "vm": 99, "action": "poweron" })),
            Kind::NotFound,
            "row does not exist",
        ),
        (
            &admin,
            get("vms").query("filter", "bogus eq 1"),
            Kind::Invalid,
            "field 'bogus' does not exist",
        ),
        (
            &admin,
            get("vms").query("filter", "name like 'x'"),
            Kind::Invalid,
            "Invalid argument",
        ),
        (
            &admin,
            get("vms").query("fields", "bogus(name)"),
            Kind::Invalid,
            "no function 'bogus'",
        ),
        (
            &admin,
            post("vms", json!({ "name": "x", "snapshot_profile": 99 })),
            Kind::NotFound,
            "error setting field 'snapshot_profile'",
        ),
        (
            &admin,
            post("vms", json!({ "name": "x", "os_family": "amiga" })),
            Kind::Invalid,
            "value 'amiga' is not in list for field 'os_family'",
        ),
        (
            &admin,
            post("vms", json!({ "name": "x", "created": 1 })),
            Kind::Invalid,
            "field 'created' is readonly",
        ),
        (
            &admin,
            post("vms", json!({})),
            Kind::Invalid,
            "is a required parameter",
        ),
        (&admin, text("vms", "{"), Kind::Invalid, "invalid body"),
        (&admin, delete, Kind::Conflict, "running"),
    ] {
        let (name, value) = who.clone();
        let options = CallOptions::new().header(name, HeaderValue::from_str(&value).unwrap());
        let answer = api.caller.raw::<VergeOs>(request.options(options)).await;
        let e = answer.unwrap_err();
        let said = e.server_message().map_or("", |m| m.raw());
        assert_eq!(e.kind(), kind, "{words}: {e}");
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[tokio::test]
async fn answers_are_compact_unless_asked_otherwise() {
    let api = Api::start().await;
    let text = |spread: bool| {
        let (name, value) = api.admin();
        let mut options = CallOptions::new().header(name, HeaderValue::from_str(&value).unwrap());
        if spread {
            let name = HeaderName::from_static("x-json-non-compact");
            options = options.header(name, HeaderValue::from_static("1"));
        }
        let request = RawRequest::new(Method::GET, "/api/v4/settings?fields=key").options(options);
        let api = &api;
        async move {
            api.caller
                .raw::<VergeOs>(request)
                .await
                .unwrap()
                .into_body()
        }
    };
    assert_eq!(text(false).await, r#"[{"key":"cloud_name"}]"#);
    assert_eq!(
        text(true).await,
        "[\n  {\n    \"key\": \"cloud_name\"\n  }\n]"
    );
}
