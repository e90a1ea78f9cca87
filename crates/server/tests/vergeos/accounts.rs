//! Who may ask, and for what.

use boxrig_server::testing::Server;
use boxrig_wire::RawBody;
use http::Method;
use http::header::{AUTHORIZATION, HeaderName};
use serde_json::json;

use super::api::{Api, basic};

const SESSION: HeaderName = HeaderName::from_static("x-yottabyte-token");

async fn status(api: &Api, who: &(HeaderName, String), method: Method, path: &str) -> u16 {
    let path = format!("/api/v4/{path}");
    api.ask_as(who, method, &path, RawBody::Json(json!({})))
        .await
        .status
}

#[tokio::test]
async fn names_and_passwords() {
    let api = Api::start().await;
    let (bob, _) = api.user("bob").await;
    assert_eq!(status(&api, &bob, Method::GET, "system").await, 200);
    for wrong in [
        basic("bob", "wrong"),
        basic("bob", ""),
        basic("nobody", "a password"),
        basic("admin", "a password"),
        (AUTHORIZATION, "Basic !!!".to_owned()),
        (AUTHORIZATION, "Basic".to_owned()),
        (AUTHORIZATION, "Bearer nothing".to_owned()),
        (AUTHORIZATION, "Digest x".to_owned()),
        (SESSION, "0".repeat(40)),
    ] {
        assert_eq!(
            status(&api, &wrong, Method::GET, "system").await,
            401,
            "{wrong:?}"
        );
    }
    // What is not there is not told to strangers.
    assert_eq!(
        status(&api, &basic("x", "y"), Method::GET, "no_such_table").await,
        401
    );
    // Disabled, and with another password.
    assert_eq!(
        api.put("users/2", json!({ "enabled": false })).await.status,
        200
    );
    assert_eq!(status(&api, &bob, Method::GET, "system").await, 401);
    let back = json!({ "enabled": true, "password": "another" });
    assert_eq!(api.put("users/2", back).await.status, 200);
    assert_eq!(status(&api, &bob, Method::GET, "system").await, 401);
    assert_eq!(
        status(&api, &basic("bob", "another"), Method::GET, "system").await,
        200
    );
    assert_eq!(
        api.put("users/1", json!({ "enabled": false })).await.status,
        409
    );
    assert_eq!(api.delete("users/1").await.status, 409);
}

#[tokio::test]
async fn permissions_are_enforced() {
    let api = Api::start().await;
    let (bob, identity) = api.user("bob").await;
    let web = api.make("vms", json!({ "name": "web" })).await;
    let db = api.make("vms", json!({ "name": "db" })).await;
    assert_eq!(status(&api, &bob, Method::GET, "vms").await, 403);
    assert_eq!(
        status(&api, &bob, Method::GET, &format!("vms/{web}")).await,
        403
    );
    assert_eq!(status(&api, &bob, Method::POST, "vms").await, 403);
    assert_eq!(
        status(&api, &bob, Method::DELETE, &format!("vms/{web}")).await,
        403
    );
    assert_eq!(status(&api, &bob, Method::GET, "vms/$table").await, 403);

    // One row.
    let one =
        json!({ "identity": identity, "table": "vms", "row": web, "list": true, "read": true });
    let one = api.make("permissions", one).await;
    let list = api
        .ask_as(&bob, Method::GET, "/api/v4/vms?fields=name", RawBody::Empty)
        .await;
    assert_eq!(list.body, json!([{ "name": "web" }]));
    assert_eq!(
        status(&api, &bob, Method::GET, &format!("vms/{web}")).await,
        200
    );
    assert_eq!(
        status(&api, &bob, Method::GET, &format!("vms/{db}")).await,
        403
    );
    assert_eq!(
        status(&api, &bob, Method::PUT, &format!("vms/{web}")).await,
        403
    );
    let act = json!({ "vm": web, "action": "poweron" });
    let act = api
        .ask_as(&bob, Method::POST, "/api/v4/vm_actions", RawBody::Json(act))
        .await;
    assert_eq!(act.status, 403);
    assert_eq!(
        api.put(&format!("permissions/{one}"), json!({ "modify": true }))
            .await
            .status,
        200
    );
    assert_eq!(
        status(&api, &bob, Method::PUT, &format!("vms/{web}")).await,
        200
    );
    assert_eq!(
        status(&api, &bob, Method::DELETE, &format!("vms/{web}")).await,
        403
    );

    // By a group in a group.
    let inner = api.make("groups", json!({ "name": "inner" })).await;
    let outer = api.make("groups", json!({ "name": "outer" })).await;
    api.make(
        "members",
        json!({ "parent_group": inner, "member": "users/2" }),
    )
    .await;
    api.make(
        "members",
        json!({ "parent_group": outer, "member": format!("groups/{inner}") }),
    )
    .await;
    // A ring of groups ends.
    api.make(
        "members",
        json!({ "parent_group": inner, "member": format!("groups/{outer}") }),
    )
    .await;
    let group = api.row("groups", &outer).await["identity"].clone();
    let all = json!({ "identity": group, "table": "vms", "row": 0, "list": true, "create": true, "delete": true });
    api.make("permissions", all).await;
    let list = api
        .ask_as(&bob, Method::GET, "/api/v4/vms", RawBody::Empty)
        .await;
    assert_eq!(list.rows().len(), 2);
    assert_eq!(
        status(&api, &bob, Method::DELETE, &format!("vms/{db}")).await,
        200
    );
    assert_eq!(status(&api, &bob, Method::GET, "vnets").await, 403);

    // What was given to a user goes with the user.
    assert_eq!(api.delete("users/2").await.status, 200);
    assert_eq!(
        api.query("permissions", &[("filter", "table eq 'vms'")])
            .await
            .rows()
            .len(),
        1
    );
    assert_eq!(status(&api, &bob, Method::GET, "system").await, 401);
}

#[tokio::test]
async fn keys_are_shown_once() {
    let api = Api::start().await;
    let made = api
        .post("user_api_keys", json!({ "user": 1, "name": "k" }))
        .await;
    let secret = made.body["response"]["private_key"]
        .as_str()
        .unwrap()
        .to_owned();
    let key = (AUTHORIZATION, format!("Bearer {secret}"));
    assert_eq!(status(&api, &key, Method::GET, "vms").await, 200);
    assert_eq!(
        status(&api, &(SESSION, secret.clone()), Method::GET, "vms").await,
        200
    );
    let rows = api.get("user_api_keys?fields=all").await;
    assert!(!rows.body.to_string().contains(&secret));
    // Where it may be used.
    for (lists, expected) in [
        (json!({ "ip_deny_list": "127.0.0.0/8" }), 403),
        (
            json!({ "ip_deny_list": "", "ip_allow_list": "10.0.0.0/8" }),
            403,
        ),
        (json!({ "ip_allow_list": "10.0.0.0/8,127.0.0.1" }), 200),
    ] {
        assert_eq!(api.put("user_api_keys/1", lists.clone()).await.status, 200);
        assert_eq!(
            status(&api, &key, Method::GET, "vms").await,
            expected,
            "{lists}"
        );
    }
    assert_eq!(api.delete("user_api_keys/1").await.status, 200);
    assert_eq!(status(&api, &key, Method::GET, "vms").await, 401);
}

#[tokio::test]
async fn sessions_outlive_the_server() {
    let mut api = Api::start().await;
    let (nobody, login) = ((AUTHORIZATION, "none".to_owned()), |api: &Api| {
        let env = api.server.running().unwrap().env().clone();
        json!({ "login": "admin", "password": env.get("VERGE_PASSWORD").unwrap() })
    });
    let mut begin = Vec::new();
    for _ in 0..2 {
        let body = RawBody::Json(login(&api));
        let begun = api.ask_as(&nobody, Method::POST, "/api/sys/tokens", body);
        begin.push((
            SESSION,
            begun.await.body["$key"].as_str().unwrap().to_owned(),
        ));
    }
    let [kept, ended] = begin.try_into().unwrap();
    let path = format!("/api/sys/tokens/{}", ended.1);
    let end = api
        .ask_as(&ended, Method::DELETE, &path, RawBody::Empty)
        .await;
    assert_eq!(end.status, 200);
    api.server
        .restart(|config| config.engine(boxrig_engine::Selection::Memory))
        .await
        .unwrap();
    let api = Api::of(api.server);
    assert_eq!(status(&api, &kept, Method::GET, "vms").await, 200);
    assert_eq!(status(&api, &ended, Method::GET, "vms").await, 401);
    // What is kept is no token.
    let dump = api.server.running().unwrap().core().store.dump().unwrap();
    let told = dump
        .iter()
        .any(|(_, key, value)| key.contains(&kept.1) || value.to_string().contains(&kept.1));
    assert!(!told);
}

#[tokio::test]
async fn an_api_key_has_its_hourly_limit() {
    let server = Server::with(|mut config| {
        config.virtual_clock = true;
        config.vergeos_rate = Some(3);
        config.engine(boxrig_engine::Selection::Memory)
    });
    let api = Api::of(server.await.unwrap());
    let made = api
        .post("user_api_keys", json!({ "user": 1, "name": "k" }))
        .await;
    let secret = made.body["response"]["private_key"].as_str().unwrap();
    let key = (AUTHORIZATION, format!("Bearer {secret}"));
    for _ in 0..3 {
        assert_eq!(status(&api, &key, Method::GET, "vms").await, 200);
    }
    let refused = api
        .ask_as(&key, Method::GET, "/api/v4/vms", RawBody::Empty)
        .await;
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert_eq!(refused.headers["retry-after"], "3600");
    assert_eq!(
        api.get("vms").await.status,
        200,
        "a password has no such limit"
    );
    let core = api.server.running().unwrap().core().clone();
    let clock = core.virtual_clock.clone().unwrap();
    clock.advance(std::time::Duration::from_secs(3600));
    assert_eq!(status(&api, &key, Method::GET, "vms").await, 200);
}

#[tokio::test]
async fn keys_and_sessions_end_by_the_clock() {
    let server = Server::with(|mut config| {
        config.virtual_clock = true;
        config.engine(boxrig_engine::Selection::Memory)
    });
    let api = Api::of(server.await.unwrap());
    let core = api.server.running().unwrap().core().clone();
    let clock = core.virtual_clock.clone().unwrap();
    let expires = core.now_ms() / 1000 + 3600;
    let body = json!({ "user": 1, "name": "k", "expires_type": "date", "expires": expires });
    let made = api.post("user_api_keys", body).await;
    let secret = made.body["response"]["private_key"].as_str().unwrap();
    let key = (AUTHORIZATION, format!("Bearer {secret}"));

    let password = api
        .server
        .running()
        .unwrap()
        .env()
        .get("VERGE_PASSWORD")
        .unwrap()
        .to_owned();
    let login = json!({ "login": "admin", "password": password });
    let nobody = (AUTHORIZATION, "none".to_owned());
    let begun = api
        .ask_as(
            &nobody,
            Method::POST,
            "/api/sys/tokens",
            RawBody::Json(login),
        )
        .await;
    assert_eq!(begun.status, 201, "{}", begun.body);
    let token = begun.body["$key"].as_str().unwrap().to_owned();
    assert_eq!(begun.body["location"], format!("/sys/tokens/{token}"));
    let session = (SESSION, token.clone());
    let wrong = json!({ "login": "admin", "password": "x" });
    let refused = api
        .ask_as(
            &nobody,
            Method::POST,
            "/api/sys/tokens",
            RawBody::Json(wrong),
        )
        .await;
    assert_eq!(refused.status, 401);

    assert_eq!(status(&api, &key, Method::GET, "vms").await, 200);
    for _ in 0..3 {
        clock.advance(std::time::Duration::from_secs(10 * 60));
        assert_eq!(
            status(&api, &session, Method::GET, "vms").await,
            200,
            "it was used"
        );
    }
    clock.advance(std::time::Duration::from_secs(16 * 60));
    assert_eq!(status(&api, &session, Method::GET, "vms").await, 401);
    assert_eq!(status(&api, &key, Method::GET, "vms").await, 200);
    clock.advance(std::time::Duration::from_secs(20 * 60));
    assert_eq!(status(&api, &key, Method::GET, "vms").await, 401);
}
