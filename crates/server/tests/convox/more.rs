//! What the vendor's SDK does not reach: old shapes, the proxy, certificates, limits.

use boxrig_wire::ws::Frame;
use serde_json::json;

use crate::deploy::sandbox;
use crate::http::Rack;

#[tokio::test]
async fn old_shapes() {
    let rack = Rack::simulated().await;
    rack.form("POST", "/apps", "name=a").await.with(200);
    let set = rack
        .ask("POST", "/apps/a/environment", &[], "A=1\nB=2")
        .await
        .with(200);
    let id = set.headers["release-id"].to_str().unwrap().to_owned();
    assert_eq!(
        rack.get(&format!("/apps/a/releases/{id}")).await.json()["env"],
        "A=1\nB=2"
    );
    let unset = rack
        .ask("DELETE", "/apps/a/environment/A", &[], "")
        .await
        .with(200);
    let id = unset.headers["release-id"].to_str().unwrap().to_owned();
    assert_eq!(
        rack.get(&format!("/apps/a/releases/{id}")).await.json()["env"],
        "B=2"
    );
    rack.ask("DELETE", "/apps/a/environment/A", &[], "")
        .await
        .with(404);
    rack.form("POST", "/apps/a/parameters", "BuildMem=256")
        .await
        .with(200);
    assert_eq!(
        rack.get("/apps/a/parameters").await.json()["BuildMem"],
        "256"
    );
    rack.form("POST", "/apps/a/parameters", "Nope=1")
        .await
        .with(400);
    assert_eq!(rack.get("/apps/a/ssl").await.text(), "[]\n");
    assert_eq!(rack.get("/apps/a/formation").await.text(), "[]\n");
    rack.form("POST", "/registries", "server=r&username=u&password=p")
        .await
        .with(200);
    rack.ask("DELETE", "/registries?server=r", &[], "")
        .await
        .with(200);
    assert_eq!(rack.get("/registries").await.text(), "[]\n");
    rack.form("PUT", "/resources/none", "Size=1")
        .await
        .with(404);
    rack.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn builds_out_and_in() {
    let Some(rack) = sandbox().await else { return };
    rack.form("POST", "/apps", "name=a").await.with(200);
    let build = rack.build("a", &crate::deploy::FILES).await;
    let id = build["id"].as_str().unwrap();
    let archive = rack
        .get(&format!("/apps/a/builds/{id}.tgz"))
        .await
        .with(200);
    assert_eq!(archive.headers["content-type"], "application/gzip");
    // As it is, as an object, and as a file of a form.
    let raw = [("Content-Type", "application/gzip")];
    let one = rack
        .ask("POST", "/apps/a/builds/import", &raw, archive.body.clone())
        .await
        .with(200)
        .json();
    rack.ask(
        "POST",
        "/apps/a/objects/exported",
        &[],
        archive.body.clone(),
    )
    .await
    .with(200);
    let two = rack
        .form(
            "POST",
            "/apps/a/builds/import",
            "url=object%3A%2F%2Fa%2Fexported",
        )
        .await
        .with(200)
        .json();
    let mut form =
        b"--B\r\nContent-Disposition: form-data; name=\"image\"; filename=\"b.tgz\"\r\n\r\n"
            .to_vec();
    form.extend_from_slice(&archive.body);
    form.extend_from_slice(b"\r\n--B--\r\n");
    let multipart = [("Content-Type", "multipart/form-data; boundary=B")];
    let three = rack
        .ask("POST", "/apps/a/builds", &multipart, form)
        .await
        .with(200)
        .json();
    let mut ids = vec![build["id"].clone()];
    for made in [one, two, three] {
        assert_eq!(
            (&made["status"], &made["manifest"]),
            (&"complete".into(), &build["manifest"])
        );
        assert!(!ids.contains(&made["id"]));
        ids.push(made["id"].clone());
    }
    assert_eq!(
        rack.get("/apps/a/builds")
            .await
            .json()
            .as_array()
            .unwrap()
            .len(),
        4
    );
    rack.ask("POST", "/apps/a/builds/import", &raw, "no archive")
        .await
        .with(400);
    rack.form(
        "POST",
        "/apps/a/builds/import",
        "url=object%3A%2F%2Fa%2Fnone",
    )
    .await
    .with(404);
    // Another image in its place: only one that is here.
    let path = format!("/apps/a/builds/{id}/image");
    assert_eq!(rack.form("POST", &path, "image=").await.status, 422);
    rack.form("POST", &path, "image=nginx").await.with(404);
    rack.form("POST", &path, "image=boxrig%2Fbase")
        .await
        .with(202);
    rack.server.stop().await;
}

#[tokio::test]
async fn certificates() {
    let rack = Rack::simulated().await;
    let made = rack
        .form(
            "POST",
            "/certificates/generate",
            "domains=a.example,b.example&duration=48h",
        )
        .await
        .with(200)
        .json();
    assert_eq!(made["domains"], json!(["a.example", "b.example"]));
    assert_eq!(made["status"], "issued");
    let id = made["id"].as_str().unwrap();
    rack.ask("POST", &format!("/certificates/{id}/renew"), &[], "")
        .await
        .with(200);
    for (form, words) in [
        ("", "must specify a domain\n"),
        (
            "domains=a,b,c,d,e,f,g,h,i,j,k",
            "can not specify more than 10 domain name\n",
        ),
        ("domains=a&issuer=x", "invalid issuer\n"),
        ("domains=a&duration=x", "invalid duration: x\n"),
    ] {
        let no = rack
            .form("POST", "/certificates/generate", form)
            .await
            .with(400);
        assert_eq!(no.text(), words);
    }
    // One's own: only with the key that is its.
    let pair = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["own.example".to_owned()]).unwrap();
        (
            parameters.self_signed(&key).unwrap().pem(),
            key.serialize_pem(),
        )
    };
    let ((certificate, key), (_, other)) = (pair(), pair());
    let encode = |s: &str| s.replace('+', "%2B").replace('\n', "%0A");
    let form = |key: &str| format!("pub={}&key={}", encode(&certificate), encode(key));
    let own = rack
        .form("POST", "/certificates", &form(&key))
        .await
        .with(200)
        .json();
    assert_eq!(own["domain"], "own.example");
    rack.form("POST", "/certificates", &form(&other))
        .await
        .with(400);
    rack.form("POST", "/certificates", "pub=x&key=y")
        .await
        .with(400);
    let own = own["id"].as_str().unwrap();
    rack.ask("POST", &format!("/certificates/{own}/renew"), &[], "")
        .await
        .with(400);
    assert_eq!(
        rack.get("/certificates?generated=true")
            .await
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    for id in [id, own] {
        rack.ask("DELETE", &format!("/certificates/{id}"), &[], "")
            .await
            .with(200);
        rack.ask("DELETE", &format!("/certificates/{id}"), &[], "")
            .await
            .with(404);
    }
    assert_eq!(rack.get("/certificates").await.text(), "[]\n");
    rack.server.stop().await;
}

#[tokio::test]
async fn metrics_have_limits() {
    let rack = Rack::simulated().await;
    rack.form("POST", "/apps", "name=a").await.with(200);
    for (query, status) in [
        ("", 200),
        ("?period=4", 400),
        (
            "?start=20260101.000000.000000000&end=20260103.000000.000000000",
            400,
        ),
        (
            "?start=20260102.000000.000000000&end=20260101.000000.000000000",
            400,
        ),
        ("?start=2026-01-01T00:00:00Z", 500),
        ("?period=x", 500),
    ] {
        rack.get(&format!("/apps/a/metrics{query}"))
            .await
            .with(status);
    }
    let one = rack
        .get("/system/metrics?metrics=cpu")
        .await
        .with(200)
        .json();
    assert_eq!(
        (one.as_array().unwrap().len(), &one[0]["name"]),
        (1, &"cpu".into())
    );
    rack.get("/apps/none/metrics").await.with(404);
    rack.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_reaches_this_rack_only() {
    let Some(rack) = sandbox().await else { return };
    rack.form("POST", "/apps", "name=a").await.with(200);
    let text = "services:\n  echo:\n    image: boxrig/base\n    termination: {grace: 0}\n    command: >-\n      python3 -c 'import socketserver as s; s.ThreadingTCPServer((\"127.0.0.1\", 7000), type(\"H\", (s.BaseRequestHandler,), dict(handle=lambda h: h.request.sendall(h.request.recv(99).upper())))).serve_forever()'\n";
    let build = rack.build("a", &[("convox.yml", text)]).await;
    assert_eq!(build["status"], "complete", "{build}");
    rack.promote("a", build["release"].as_str().unwrap()).await;
    let mut talk = rack.socket("/proxy/echo.a/7000", &[]).await;
    talk.0.send(Frame::text("hello")).await.unwrap();
    assert_eq!(talk.text().await, "HELLO");
    for (host, words) in [
        ("127.0.0.1", "invalid proxy host"),
        ("169.254.169.254", "invalid proxy host"),
        ("localhost", "invalid proxy host"),
        ("example.com", "invalid proxy host"),
    ] {
        let mut talk = rack.socket(&format!("/proxy/{host}/7000"), &[]).await;
        assert_eq!(talk.text().await, format!("ERROR: {words}\n"), "{host}");
    }
    let mut talk = rack.socket("/proxy/echo.a/x", &[]).await;
    assert_eq!(talk.text().await, "ERROR: invalid proxy port\n");
    // Attached runs of generation 1.
    let mut talk = rack
        .socket(
            "/apps/a/processes/echo/run",
            &[("Command", "sh -c 'echo out; exit 4'")],
        )
        .await;
    let text = talk.text().await;
    assert!(
        text.starts_with("out\r\n") && text.ends_with(":4\n"),
        "{text:?}"
    );
    // Limits are the kernel's where it enforces them. The process of that run may still be ending.
    rack.form("PUT", "/apps/a/services/echo", "memory=64")
        .await
        .with(200);
    let core = rack.server.running().unwrap().core().clone();
    crate::http::soon("the limit is the instance's", async || {
        let all = core.engine.list().await.unwrap();
        all.iter().any(|i| {
            i.spec.labels.get("service").is_some_and(|s| s == "echo")
                && i.spec.limits.memory_bytes == Some(64 << 20)
        })
    })
    .await;
    rack.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_leaves_nothing() {
    let Some(rack) = sandbox().await else { return };
    rack.form("POST", "/apps", "name=a").await.with(200);
    let files = crate::deploy::FILES;
    let build = rack.build("a", &files).await;
    rack.promote("a", build["release"].as_str().unwrap()).await;
    crate::support::control(&rack.server).reset().await.unwrap();
    assert_eq!(rack.get("/apps").await.text(), "[]\n");
    let core = rack.server.running().unwrap().core().clone();
    assert_eq!(core.engine.list().await.unwrap().len(), 0);
    let images = core.engine.list_images().await.unwrap();
    assert!(
        images.iter().all(|i| !i.name.starts_with("convox/")),
        "{images:?}"
    );
    assert_eq!(core.services.names(), Vec::<String>::new());
    for name in ["objects", "builds", "logs"] {
        let folder = core.data.join("convox").join(name);
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "{name}");
    }
    // And it works on.
    rack.form("POST", "/apps", "name=a").await.with(200);
    let build = rack.build("a", &files).await;
    let app = rack.promote("a", build["release"].as_str().unwrap()).await;
    assert_eq!(app["release"], build["release"]);
    rack.server.stop().await;
}
