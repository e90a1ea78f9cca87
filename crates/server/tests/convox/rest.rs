//! What else an app that runs is asked for, each read back.

use serde_json::json;

use crate::deploy::{FILES, sandbox, source};
use crate::http::Rack;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_app_by_its_old_and_new_shapes() {
    let Some(rack) = sandbox().await else { return };
    rack.form("POST", "/apps", "name=a").await.with(200);
    // Generation 1's upload: the source in the form.
    let mut form = b"--B\r\nContent-Disposition: form-data; name=\"description\"\r\n\r\nold\r\n--B\r\nContent-Disposition: form-data; name=\"source\"; filename=\"s.tgz\"\r\n\r\n".to_vec();
    form.extend_from_slice(&source(rack.server.dir(), &FILES));
    form.extend_from_slice(b"\r\n--B--\r\n");
    let multipart = [("Content-Type", "multipart/form-data; boundary=B")];
    let made = rack
        .ask("POST", "/apps/a/builds", &multipart, form)
        .await
        .with(200)
        .json();
    let path = format!("/apps/a/builds/{}", made["id"].as_str().unwrap());
    let build = rack.until(&path, |b| b["status"] != "running").await;
    assert_eq!(
        (&build["status"], &build["description"]),
        (&"complete".into(), &"old".into()),
        "{build}"
    );
    let all = rack.get("/apps/a/builds?limit=5").await.with(200).json();
    assert_eq!(all, json!([build]));
    rack.promote("a", build["release"].as_str().unwrap()).await;

    let service = rack.get("/apps/a/manifest/services/web").await.with(200);
    let service = service.json();
    assert_eq!(service["environment"], json!(["GREETING=hello"]));
    assert_eq!(rack.get("/apps/a/balancers").await.with(200).text(), "[]\n");

    // The scale in generation 1's words, and kept by hand in 3's.
    rack.form("POST", "/apps/a/formation/worker", "count=2&memory=64")
        .await
        .with(200);
    let two = rack.get("/apps/a/formation").await.with(200).json();
    let worker = two
        .as_array()
        .unwrap()
        .iter()
        .find(|f| f["name"] == "worker");
    let worker = worker.unwrap();
    assert_eq!(
        (&worker["count"], &worker["memory"]),
        (&2.into(), &64.into())
    );
    rack.until("/apps/a/processes?service=worker", |p| {
        p.as_array().unwrap().len() == 2
    })
    .await;
    let active = async |is: bool, count: i64| {
        let path = "/apps/a/services/worker/scale-override";
        rack.form("POST", path, &format!("active={is}"))
            .await
            .with(200);
        let now = rack.get("/apps/a/services").await.json();
        let worker = &now[1];
        assert_eq!(
            (&worker["scale-override-active"], &worker["count"]),
            (&is.into(), &count.into()),
            "{worker}"
        );
    };
    active(true, 2).await;
    active(false, 1).await;
    rack.until("/apps/a/processes?service=worker", |p| {
        p.as_array().unwrap().len() == 1
    })
    .await;

    // A run in generation 1's words.
    let run = rack
        .form(
            "POST",
            "/apps/a/processes/worker/run",
            "command=sh+-c+'echo+old+run;+exit+5'",
        )
        .await
        .with(200)
        .json();
    let path = format!("/apps/a/processes/{}", run["pid"].as_str().unwrap());
    rack.until(&path, |p| p["status"] == "failed").await;
    let mut log = rack.socket(&format!("{path}/logs"), &[]).await;
    assert_eq!(log.text().await, "old run\n");

    // All processes of the rack, and what they use.
    let all = rack
        .get("/system/processes?all=true")
        .await
        .with(200)
        .json();
    let apps: Vec<_> = all.as_array().unwrap().iter().map(|p| &p["app"]).collect();
    assert!(
        apps.len() >= 3 && apps.iter().all(|a| *a == "a"),
        "{apps:?}"
    );
    for path in [
        "/apps/a/services/web/metrics",
        "/apps/a/metrics-by-service?services=web",
        "/system/metrics",
    ] {
        rack.until(path, |m| m.to_string().contains("\"avg\""))
            .await;
    }
    rack.server.stop().await;
}

#[tokio::test]
async fn what_is_said_is_seen() {
    let rack = Rack::simulated().await;
    rack.form("POST", "/apps", "name=a").await.with(200);
    // Only a warning is told by a diagnosis.
    for (status, error) in [("success", ""), ("error", "it broke")] {
        let form = format!("action=deploy:hook&status={status}&error={error}&data=app%3Da");
        rack.form("POST", "/events", &form).await.with(200);
    }
    let report = rack.get("/apps/a/diagnose").await.with(200).json();
    let events = report["overview"]["events"].as_array().unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(
        (&events[0]["reason"], &events[0]["message"]),
        (&"deploy:hook".into(), &"it broke".into())
    );
    // Configuration files, listed.
    for name in ["nginx", "app"] {
        rack.form("PUT", &format!("/apps/a/configs/{name}"), "value=eA%3D%3D")
            .await
            .with(200);
    }
    let all = rack.get("/apps/a/configs").await.with(200).json();
    let names: Vec<_> = all.as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["app", "nginx"]);
    rack.server.stop().await;
}
