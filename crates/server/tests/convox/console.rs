//! The rack as a console: sessions, machines, what a console has besides racks; and what the official tool asks for.

use serde_json::json;

use crate::http::Rack;

#[tokio::test]
async fn sessions_are_challenged_and_begun() {
    let rack = Rack::simulated().await;
    rack.form("POST", "/apps", "name=a").await.with(200);
    // Who sends no session has a rack before him; an empty one, a made-up one and one that is over are challenged.
    for id in ["", "x", "1.AAAA", "99999999999.AAAA"] {
        let no = rack
            .ask("GET", "/apps", &[("Session", id)], "")
            .await
            .with(401);
        assert_eq!(
            no.headers["www-authenticate"], "Session path=\"/session\" token=\"false\"",
            "{id}"
        );
        assert_eq!(no.text(), "session expired\n");
    }
    let begin = async || {
        let headers = [("Session", ""), ("Rack", "local/boxrig")];
        let made = rack.ask("POST", "/session", &headers, "").await.with(200);
        made.json()["id"].as_str().unwrap().to_owned()
    };
    let id = begin().await;
    let session = [("Session", &*id), ("Rack", "local/boxrig")];
    rack.ask("GET", "/apps", &session, "").await.with(200);
    rack.ask("DELETE", "/apps/a", &session, "").await.with(200);
    // A wrong key begins none, and is told so by the usual challenge.
    let wrong = [("Authorization", "Basic eDp5"), ("Session", "")];
    let no = rack.ask("POST", "/session", &wrong, "").await.with(401);
    assert_eq!(no.headers["www-authenticate"], "Basic realm=\"convox\"");
    // With the key of tokens, sessions are void too.
    rack.ask("PUT", "/system/jwt/rotate", &session, "")
        .await
        .with(200);
    rack.ask("GET", "/apps", &session, "").await.with(401);
    let session = begin().await;
    rack.ask("GET", "/apps", &[("Session", &session)], "")
        .await
        .with(200);
    // Nobody could answer a challenge on a socket.
    let headers = [("Session", "over"), ("Follow", "false")];
    let mut log = rack.socket("/system/logs", &headers).await;
    assert!(!log.text().await.contains("session"));
    rack.server.stop().await;
}

#[tokio::test]
async fn machines_are_the_rack_behind_a_prefix() {
    let rack = Rack::simulated().await;
    let prefix = "/machines/m-1";
    rack.form("POST", &format!("{prefix}/apps"), "name=a")
        .await
        .with(200);
    assert_eq!(rack.get("/apps/a").await.with(200).json()["name"], "a");
    for path in ["/apps", "/apps/a", "/apps/a/releases?limit=1"] {
        let here = rack.get(path).await.with(200);
        let there = rack.get(&format!("{prefix}{path}")).await.with(200);
        assert_eq!(here.text(), there.text(), "{path}");
    }
    let mut log = rack
        .socket(
            &format!("{prefix}/apps/a/logs"),
            &[("Follow", "false"), ("Since", "1h")],
        )
        .await;
    log.frames().await;
    rack.ask(
        "POST",
        &format!("{prefix}/apps/a/objects/tmp/k"),
        &[],
        "content",
    )
    .await
    .with(200);
    assert_eq!(rack.get("/apps/a/objects/tmp/k").await.text(), "content");
    // Nothing else is there.
    for path in [
        "/machines/m-1/system",
        "/machines/m-1",
        "/machines/m-1/racks",
    ] {
        assert_eq!(rack.get(path).await.with(404).text(), "", "{path}");
    }
    rack.ask("DELETE", &format!("{prefix}/apps/a"), &[], "")
        .await
        .with(200);
    rack.server.stop().await;
}

#[tokio::test]
async fn what_a_console_has_besides() {
    let rack = Rack::simulated().await;
    let this = "/racks/local/boxrig";
    assert_eq!(rack.get("/machines").await.with(200).text(), "[]\n");
    let host = rack.get(&format!("{this}/host")).await.with(200).json();
    assert_eq!(host["host"], rack.server.url().replace("http://", ""));
    assert_eq!(
        host["host"],
        rack.get("/system").await.json()["rack-domain"]
    );
    rack.ask("POST", &format!("{this}/sync"), &[], "")
        .await
        .with(200);
    for path in [
        &*format!("{this}/runtimes"),
        "/organizations/local/runtimes",
    ] {
        assert_eq!(rack.get(path).await.with(200).text(), "[]\n", "{path}");
    }
    let none = rack.get(&format!("{this}/workflows")).await.with(200);
    assert_eq!(none.json(), json!({ "oid": "local", "workflows": [] }));
    for (method, path) in [
        ("POST", "/racks/local/other/sync"),
        ("GET", "/racks/other/boxrig/runtimes"),
        ("GET", "/racks/local/other/workflows"),
        ("GET", "/organizations/other/runtimes"),
        ("PUT", "/racks/local/boxrig/runtimes"),
        ("POST", "/racks/local/boxrig/workflows/w/run"),
    ] {
        let no = rack.form(method, path, "runtime=r&app=a").await.with(404);
        assert!(no.text().contains("not found"), "{method} {path}");
    }
    rack.server.stop().await;
}

#[tokio::test]
async fn an_app_without_a_budget_has_none() {
    let rack = Rack::simulated().await;
    rack.form("POST", "/apps", "name=a").await.with(200);
    // The official tool reads it before every list of processes.
    assert_eq!(
        rack.get("/apps/a/budget").await.with(200).text(),
        "{\n  \"config\": null,\n  \"state\": null\n}\n"
    );
    let state = rack.get("/apps/a/budget/shutdown-state").await;
    assert_eq!(state.with(200).text(), "null\n");
    let simulated = rack
        .form("POST", "/apps/a/budget/simulate-shutdown", "")
        .await;
    assert_eq!(
        simulated.with(400).text(),
        "no budget configured for app a\n"
    );
    rack.ask("DELETE", "/apps/a/budget", &[], "")
        .await
        .with(200);
    let set = rack
        .form("POST", "/apps/a/budget", "monthly-cap-usd=5")
        .await
        .with(501);
    assert!(set.text().starts_with("AppBudgetSet"), "{}", set.text());
    for (method, path) in [
        ("GET", "/apps/b/budget"),
        ("GET", "/apps/b/budget/shutdown-state"),
        ("POST", "/apps/b/budget/simulate-shutdown"),
        ("DELETE", "/apps/b/budget"),
    ] {
        rack.ask(method, path, &[], "").await.with(404);
    }
    rack.server.stop().await;
}
