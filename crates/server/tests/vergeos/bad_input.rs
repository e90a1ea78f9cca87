//! Wrong requests: the documented answer, and the right kind of error at a client.

use boxrig_vergeos::VergeOs;
use boxrig_wire::{Kind, RawBody};
use http::Method;
use serde_json::json;

use super::api::Api;

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
    for body in ["{", "[]", "null", "\"x\"", "{\"name\": }"] {
        let body = RawBody::Bytes(boxrig_wire::WireBody::full(body.to_owned()));
        let answer = api.ask(Method::POST, "vms", body).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
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

/// The statuses are of the right kind for a client.
#[test]
fn statuses_have_kinds() {
    use boxrig_wire::{ApiError, Protocol};
    for (error, status) in [
        (ApiError::invalid("x"), 422),
        (ApiError::not_found("x"), 404),
        (ApiError::conflict("x"), 409),
        (ApiError::new(Kind::Denied, "x"), 403),
        (ApiError::new(Kind::Unauthenticated, "x"), 401),
        (ApiError::not_implemented("x"), 501),
    ] {
        assert_eq!(VergeOs::encode_error(&error).status().as_u16(), status);
    }
}
