//! Status, headers, encodings and errors, as racks have them.

use crate::http::{Rack, basic, soon};

#[tokio::test]
async fn who_may_do_what() {
    let rack = Rack::simulated().await;
    let auth = |value: &str| [("Authorization".to_owned(), value.to_owned())];
    let refused = rack
        .ask("GET", "/system", &[("Authorization", "")], "")
        .await;
    let refused = refused.with(401);
    assert_eq!(refused.text(), "invalid authentication\n");
    assert_eq!(
        refused.headers["www-authenticate"],
        "Basic realm=\"convox\""
    );
    assert_eq!(refused.headers["x-content-type-options"], "nosniff");
    assert_eq!(refused.headers["x-frame-options"], "DENY");
    assert_eq!(refused.headers["request-id"].len(), 12);
    // Any user name; the password decides.
    let any = auth(&basic("anybody", &rack.password));
    let any = any.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    let any: Vec<_> = any.collect();
    rack.ask("GET", "/auth", &any, "").await.with(200);

    let made = rack
        .form("POST", "/system/jwt/token", "role=read&durationInHour=1")
        .await;
    let read = basic("jwt", made.with(200).json()["token"].as_str().unwrap());
    let read = [("Authorization", read.as_str())];
    rack.ask("GET", "/apps", &read, "").await.with(200);
    for (method, path) in [
        ("POST", "/apps"),
        ("OPTIONS", "/resources"),
        ("HEAD", "/apps/a/objects/k"),
        ("DELETE", "/apps/a"),
    ] {
        let no = rack.ask(method, path, &read, "").await.with(401);
        if method != "HEAD" {
            assert_eq!(
                no.text(),
                "you are unauthorized to access this\n",
                "{method}"
            );
        }
        assert!(!no.headers.contains_key("www-authenticate"));
    }
    let made = rack
        .form("POST", "/system/jwt/token", "role=write&durationInHour=1")
        .await;
    let write = basic("jwt", made.with(200).json()["token"].as_str().unwrap());
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let write = [("Authorization", write.as_str()), form];
    let token = "/system/jwt/token";
    rack.ask("POST", token, &write, "role=read&durationInHour=1")
        .await
        .with(200);
    let no = rack
        .ask("POST", token, &write, "role=admin&durationInHour=1")
        .await;
    assert_eq!(
        no.with(403).text(),
        "admin role required to mint admin tokens\n"
    );
    rack.ask("PUT", "/system/jwt/rotate", &write, "")
        .await
        .with(403);
    for (form, words) in [
        (
            "role=root&durationInHour=1",
            "invalid role: must be read, write, or admin\n",
        ),
        (
            "role=read&durationInHour=0",
            "duration must be between 1 and 8760 hours\n",
        ),
        ("role=read", "invalid duration\n"),
    ] {
        assert_eq!(rack.form("POST", token, form).await.with(400).text(), words);
    }
    rack.ask("PUT", "/system/jwt/rotate", &[], "")
        .await
        .with(200);
    let void = rack.ask("GET", "/apps", &read, "").await.with(401);
    assert_eq!(
        void.text(),
        "invalid authentication: signature is invalid\n"
    );
    assert!(!void.headers.contains_key("www-authenticate"));
    rack.server.stop().await;
}

#[tokio::test]
async fn errors_and_missing_routes() {
    let rack = Rack::simulated().await;
    let missing = rack.get("/apps/nope").await.with(404);
    assert_eq!(missing.text(), "app not found: nope\n");
    assert_eq!(missing.headers["content-type"], "text/plain; charset=utf-8");
    let json = [("Accept", "text/html, application/json;q=0.9")];
    let missing = rack.ask("GET", "/apps/nope", &json, "").await.with(404);
    assert_eq!(missing.text(), "{\"error\":\"app not found: nope\"}\n");
    assert_eq!(missing.headers["content-type"], "application/json");
    // No route, another verb, a socket's path without an upgrade: nothing at all.
    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("GET", "/apps/a/b/c/d", 404),
        ("PATCH", "/apps", 405),
        ("PUT", "/apps", 405),
        ("GET", "/apps/a/logs", 404),
        ("GET", "/system/logs", 404),
        ("GET", "/apps/../system", 404),
    ] {
        let none = rack.ask(method, path, &[], "").await.with(status);
        assert_eq!(none.text(), "", "{path}");
        assert!(!none.headers.contains_key("request-id"), "{path}");
    }
    // By name, whatever the method.
    for (path, name) in [
        ("/v2/x/manifests/1", "RegistryProxy"),
        ("/custom/http/proxy/x", "ProxyHttpService"),
    ] {
        let refused = rack.ask("PUT", path, &[], "").await.with(501);
        assert!(refused.text().starts_with(name), "{}", refused.text());
        rack.ask("PUT", path, &[("Authorization", "")], "")
            .await
            .with(401);
    }
    // The Go client ends every URL in `?`.
    rack.get("/apps?").await.with(200);
    rack.server.stop().await;
}

#[tokio::test]
async fn apps() {
    let rack = Rack::simulated().await;
    assert_eq!(rack.get("/apps").await.with(200).text(), "[]\n");
    for bad in ["rack", "system", "A", "", "-a", "a/b", "a%0ab"] {
        rack.form("POST", "/apps", &format!("name={bad}"))
            .await
            .with(400);
    }
    let made = rack.form("POST", "/apps", "name=zoo").await.with(200);
    assert!(
        made.text().starts_with("{\n  \"generation\": \"3\""),
        "{}",
        made.text()
    );
    assert_eq!(made.headers["content-type"], "application/json");
    // A header is as good as a field for some.
    rack.ask("POST", "/apps", &[("Name", "ant")], "")
        .await
        .with(200);
    rack.form("POST", "/apps", "name=zoo").await.with(409);
    let names: Vec<_> = rack
        .get("/apps")
        .await
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["name"].clone())
        .collect();
    assert_eq!(names, ["ant", "zoo"]);

    let done = rack
        .form(
            "PUT",
            "/apps/zoo",
            "lock=true&parameters=BuildMem%3D512%26BuildCpu%3D",
        )
        .await
        .with(200);
    assert_eq!(done.text(), "ok\n");
    assert_eq!(done.headers["content-type"], "text/plain; charset=utf-8");
    let app = rack.get("/apps/zoo").await.json();
    assert_eq!(
        (&app["locked"], &app["parameters"]["BuildMem"]),
        (&true.into(), &"512".into())
    );
    rack.form("PUT", "/apps/zoo", "parameters=Nope%3D1")
        .await
        .with(400);
    rack.form("PUT", "/apps/zoo", "parameters=BuildMem%3Dx")
        .await
        .with(400);
    let locked = rack.ask("DELETE", "/apps/zoo", &[], "").await.with(409);
    assert_eq!(locked.text(), "app is locked: zoo\n");
    rack.form("PUT", "/apps/zoo", "lock=banana").await.with(200);
    let cancel = rack
        .ask("POST", "/apps/zoo/cancel", &[], "")
        .await
        .with(403);
    assert_eq!(cancel.text(), "app is not updating\n");
    rack.ask("DELETE", "/apps/zoo", &[], "").await.with(200);
    soon("the app is gone", async || {
        rack.get("/apps/zoo").await.status == 404
    })
    .await;
    rack.form("POST", "/apps", "name=zoo").await.with(200);
    rack.server.stop().await;
}

#[tokio::test]
async fn objects() {
    let rack = Rack::simulated().await;
    rack.form("POST", "/apps", "name=a").await.with(200);
    let bytes = bytes::Bytes::from(vec![0xffu8; 100_000]);
    let kept = rack
        .ask("POST", "/apps/a/objects/tmp/x%20y.tgz", &[], bytes.clone())
        .await
        .with(200);
    assert_eq!(kept.json()["Url"], "object://a/tmp/x y.tgz");
    let back = rack.get("/apps/a/objects/tmp/x%20y.tgz").await.with(200);
    assert_eq!(back.body, bytes);
    // The rack chooses a key.
    for path in ["/apps/a/objects/", "/apps/a/objects"] {
        let kept = rack.ask("POST", path, &[], "x").await;
        if path.ends_with('/') {
            let url = kept.with(200).json()["Url"].as_str().unwrap().to_owned();
            let key = url.strip_prefix("object://a/tmp/").unwrap();
            assert_eq!(key.len(), 30);
        }
    }
    for bad in ["..", "x/../y", "%2e%2e/x", "x%2f..%2fy"] {
        rack.ask("POST", &format!("/apps/a/objects/{bad}"), &[], "x")
            .await
            .with(400);
    }
    for key in ["tmp/x%20y.tgz", "absent"] {
        rack.ask("HEAD", &format!("/apps/a/objects/{key}"), &[], "")
            .await
            .with(200);
    }
    let names = rack.get("/apps/a/objects?prefix=tmp/x").await.json();
    assert_eq!(names, serde_json::json!(["tmp/x y.tgz"]));
    rack.ask("DELETE", "/apps/a/objects/tmp/x%20y.tgz", &[], "")
        .await
        .with(200);
    rack.ask("DELETE", "/apps/a/objects/tmp/x%20y.tgz", &[], "")
        .await
        .with(404);
    rack.get("/apps/a/objects/tmp/x%20y.tgz").await.with(404);
    rack.ask("POST", "/apps/b/objects/k", &[], "x")
        .await
        .with(404);
    rack.server.stop().await;
}

#[tokio::test]
async fn releases_fork_the_newest() {
    let rack = Rack::simulated().await;
    rack.form("POST", "/apps", "name=a").await.with(200);
    assert_eq!(rack.get("/apps/a/releases").await.with(200).text(), "[]\n");
    let one = rack
        .form("POST", "/apps/a/releases", "env=A%3D1%0AB%3Dx%3Dy")
        .await
        .with(200)
        .json();
    assert_eq!(one["description"], "env add:A add:B");
    let id = one["id"].as_str().unwrap();
    assert!(
        id.len() == 11 && id.starts_with('R') && id.bytes().all(|b| b.is_ascii_uppercase()),
        "{id}"
    );
    let two = rack
        .form("POST", "/apps/a/releases", "description=same")
        .await
        .with(200)
        .json();
    assert_eq!(
        (&two["env"], &two["description"]),
        (&one["env"], &"same".into())
    );
    let three = rack
        .form("POST", "/apps/a/releases", "env=A%3D2")
        .await
        .with(200)
        .json();
    assert_eq!(three["description"], "env change:A remove:B");
    let fork = rack
        .form("POST", "/apps/a/releases", &format!("parent-release={id}"))
        .await
        .with(200)
        .json();
    assert_eq!(fork["env"], one["env"]);
    rack.form("POST", "/apps/a/releases", "parent-release=RNONE")
        .await
        .with(404);
    rack.form("POST", "/apps/a/releases", "build=BNONE")
        .await
        .with(404);
    let all = rack.get("/apps/a/releases?limit=2").await.json();
    assert_eq!(
        (all.as_array().unwrap().len(), &all[0]["id"]),
        (2, &fork["id"])
    );
    assert_eq!(
        rack.get("/apps/a/releases?limit=x").await.with(500).text(),
        "strconv.Atoi: parsing \"x\": invalid syntax\n"
    );
    rack.get("/apps/a/releases/RNONE").await.with(404);
    assert_eq!(
        rack.get(&format!("/apps/a/releases/{id}")).await.json(),
        one
    );
    rack.server.stop().await;
}

#[tokio::test]
async fn the_rack_itself() {
    let rack = Rack::simulated().await;
    let system = rack.get("/system").await.with(200).json();
    for (name, value) in [
        ("name", "boxrig"),
        ("provider", "local"),
        ("status", "running"),
        ("domain", "router.localhost"),
    ] {
        assert_eq!(system[name], value, "{name}");
    }
    let capacity = rack.get("/system/capacity").await.json();
    assert!(capacity["cluster-cpu"].as_i64().unwrap() >= 1000);
    assert!(capacity["cluster-memory"].as_i64().unwrap() > 100);
    let instances = rack.get("/instances").await.json();
    assert_eq!(instances[0]["status"], "running");
    assert_eq!(
        rack.get("/racks").await.json()[0]["organization"]["name"],
        "local"
    );
    rack.get("/racks/local/boxrig").await.with(200);
    rack.get("/racks/local/other").await.with(404);
    assert_eq!(rack.get("/system/processes").await.text(), "[]\n");

    rack.form(
        "POST",
        "/registries",
        "server=r.example%2Fx&username=u&password=p",
    )
    .await
    .with(200);
    assert_eq!(
        rack.get("/registries").await.json()[0]["server"],
        "r.example/x"
    );
    rack.ask("DELETE", "/registries/r.example/x", &[], "")
        .await
        .with(200);
    rack.ask("DELETE", "/registries/r.example/x", &[], "")
        .await
        .with(404);
    rack.form("POST", "/apps", "name=a").await.with(200);
    rack.form("PUT", "/apps/a/configs/nginx", "value=aGVsbG8%3D")
        .await
        .with(200);
    assert_eq!(
        rack.get("/apps/a/configs/nginx").await.json()["value"],
        "hello"
    );
    rack.form("PUT", "/apps/a/configs/nginx", "value=%21")
        .await
        .with(400);
    rack.get("/apps/a/configs/none").await.with(404);
    rack.server.stop().await;
}

#[tokio::test]
async fn errors_of_sockets_come_after_the_upgrade() {
    let rack = Rack::simulated().await;
    rack.form("POST", "/apps", "name=a").await.with(200);
    let none = [("Authorization", "")];
    for (path, headers, words) in [
        ("/apps/a/logs", &none[..], "ERROR: invalid authentication\n"),
        ("/apps/b/logs", &[], "ERROR: app not found: b\n"),
        (
            "/apps/a/logs",
            &[("Tail", "x")],
            "ERROR: strconv.Atoi: parsing \"x\": invalid syntax\n",
        ),
        (
            "/apps/a/processes/web-1/exec",
            &[("command", "true")],
            "F1E49A85-0AD7-4AEF-A618-C249C6E6568D:1\nERROR: process not found: web-1\n",
        ),
        (
            "/instances/local/shell",
            &[],
            "ERROR: InstanceShell is not implemented by this server\n",
        ),
    ] {
        let mut talk = rack.socket(path, headers).await;
        assert_eq!(talk.text().await, words, "{path}");
    }
    let read = rack
        .form("POST", "/system/jwt/token", "role=read&durationInHour=1")
        .await;
    let read = basic("jwt", read.json()["token"].as_str().unwrap());
    let mut talk = rack
        .socket(
            "/apps/a/processes/web/exec",
            &[("Authorization", &read), ("command", "true")],
        )
        .await;
    assert_eq!(
        talk.text().await,
        "ERROR: process exec requires write access\n"
    );
    // A log without anything in it, not followed, is an end mark.
    let mut talk = rack.socket("/apps/a/logs", &[("Follow", "false")]).await;
    assert_eq!(talk.frames().await.len(), 0);
    rack.server.stop().await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let mut rack = Rack::simulated().await;
    rack.form("POST", "/apps", "name=a").await.with(200);
    let release = rack
        .form("POST", "/apps/a/releases", "env=A%3D1")
        .await
        .with(200)
        .json();
    rack.ask("POST", "/apps/a/objects/k", &[], "content")
        .await
        .with(200);
    let token = rack
        .form("POST", "/system/jwt/token", "role=read&durationInHour=1")
        .await;
    let token = basic("jwt", token.json()["token"].as_str().unwrap());
    rack.server
        .restart(|config| config.engine(boxrig_engine::Selection::Memory))
        .await
        .unwrap();
    let id = release["id"].as_str().unwrap();
    let read = [("Authorization", token.as_str())];
    let again = rack
        .ask("GET", &format!("/apps/a/releases/{id}"), &read, "")
        .await;
    assert_eq!(again.with(200).json(), release);
    assert_eq!(rack.get("/apps/a/objects/k").await.text(), "content");
    rack.server.stop().await;
}
