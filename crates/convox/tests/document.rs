//! The examples of the vendor's SDK document, one by one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::time::Duration;

use boxrig_convox::ops::builds::BuildCreateForm;
use boxrig_convox::ops::services::ServiceUpdateForm;
use boxrig_convox::{CliConfig, Client, RetryConfig};
use boxrig_wire::{CallOptions, Kind, LineStream, RawRequest, WireBody};
use common::{Rack, json, ok, reply};
use futures_util::StreamExt;
use serde_json::json as j;

/// A rack with what the examples name.
fn rack() -> Rack {
    Rack::new(|seen| {
        let release = |id: &str| j!({"id": id, "app": "myapp", "build": "BABCDEF", "env": "DATABASE_URL=postgres://u\nKEY=old\n"});
        match seen.line().as_str() {
            "GET /apps" => json(j!([{"name": "myapp", "status": "running"}])),
            "GET /apps/myapp" => json(
                j!({"name": "myapp", "status": "running", "release": "RABCDEF", "locked": true}),
            ),
            "POST /apps" if seen.text() == "name=taken" => {
                reply(409, "app already exists: taken\n")
            }
            "POST /apps" => json(j!({"name": "newapp", "status": "creating"})),
            "GET /apps/myapp/builds" => json(j!([{"id": "BABCDEF"}])),
            "GET /apps/myapp/builds/BABCDEF"
            | "POST /apps/myapp/builds"
            | "POST /apps/myapp/builds/import" => json(j!({"id": "BABCDEF", "status": "running"})),
            "GET /apps/myapp/releases" => json(j!([release("RABCDEF"), release("RPREVIOUS")])),
            "GET /apps/myapp/releases/RABCDEF" => json(release("RABCDEF")),
            "GET /apps/myapp/releases/RPREVIOUS" => json(release("RPREVIOUS")),
            // Made of the newest, and listed as such.
            "POST /apps/myapp/releases" => {
                json(j!({"id": "RABCDEF", "app": "myapp", "build": "BABCDEF", "env": "made"}))
            }
            "GET /apps/myapp/services" => json(j!([{"name": "web", "count": 2}])),
            "GET /apps/myapp/processes" => json(j!([{"id": "proc-abc123", "status": "running"}])),
            "GET /apps/myapp/processes/proc-abc123" => {
                json(j!({"id": "proc-abc123", "status": "running"}))
            }
            "GET /apps/myapp/resources" | "GET /resources" => {
                json(j!([{"name": "database", "type": "postgres"}]))
            }
            "GET /apps/myapp/resources/database"
            | "POST /resources"
            | "POST /resources/mydb/links" => {
                json(j!({"name": "mydb", "type": "postgres", "url": "postgres://u"}))
            }
            "GET /system" => json(j!({"name": "rack", "version": "3.24.9", "provider": "local"})),
            "GET /system/capacity" => json(j!({"cluster-cpu": 4000, "cluster-gpu": 1})),
            "GET /apps/nope" => reply(404, "no such app: nope\n"),
            "GET /apps/myapp/logs" => reply(200, "one\ntwo\n"),
            _ => ok(),
        }
    })
}

#[tokio::test]
async fn quick_start() {
    let rack = rack();
    let client = rack.builder().rack("org/rack-name").build().unwrap();
    let apps = client.apps().list().await.unwrap();
    assert_eq!((&*apps[0].name, &*apps[0].status), ("myapp", "running"));
    let app = client.apps().get("myapp").await.unwrap();
    assert_eq!((&*app.release, app.locked), ("RABCDEF", true));
}

#[tokio::test]
async fn explicit_credentials() {
    let rack = rack();
    let client = rack
        .builder()
        .host("http://console.test")
        .api_key("your-deploy-key")
        .rack("org/rack-name")
        .build()
        .unwrap();
    client.apps().list().await.unwrap();
    assert_eq!(rack.seen()[0].header("rack").unwrap(), "org/rack-name");
}

#[tokio::test]
async fn credentials_of_the_environment() {
    let variables = |name: &str| match name {
        "CONVOX_HOST" => Some("console.convox.com".to_owned()),
        "CONVOX_PASSWORD" => Some("your-deploy-key".to_owned()),
        "CONVOX_RACK" => Some("org/rack-name".to_owned()),
        _ => None,
    };
    let client = Client::builder().env_from(variables).build().unwrap();
    assert_eq!(
        client.caller().base().to_string(),
        "https://console.convox.com"
    );
}

fn config(auth: &str) -> (tempfile::TempDir, CliConfig) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("auth"), auth).unwrap();
    let config = CliConfig::new().dir(dir.path());
    (dir, config)
}

#[test]
fn a_login_at_a_console() {
    let (_dir, config) = config(r#"{"console.convox.com": "key"}"#);
    let config = config.host("console.convox.com").rack("org/rack-name");
    assert_eq!(
        config.login().unwrap().rack.as_deref(),
        Some("org/rack-name")
    );
    let client = Client::from_cli_config(&config).unwrap();
    assert_eq!(
        client.caller().base().to_string(),
        "https://console.convox.com"
    );
}

#[test]
fn a_login_at_a_rack() {
    let (_dir, config) = config(r#"{"rack.example.com": "key", "other": "x"}"#);
    let client = Client::from_cli_config(&config.rack("rack.example.com")).unwrap();
    assert_eq!(
        client.caller().base().to_string(),
        "https://rack.example.com"
    );
}

#[tokio::test]
async fn apps() {
    let rack = rack();
    let apps = rack.client();
    let apps = apps.apps();
    assert_eq!(apps.list().await.unwrap().len(), 1);
    assert_eq!(apps.get("myapp").await.unwrap().name, "myapp");
    assert_eq!(apps.create("newapp").await.unwrap().status, "creating");
    apps.delete("myapp").await.unwrap();
    apps.lock("myapp", true).await.unwrap();
    apps.set_parameters("myapp", [("BuildCpu", "512")])
        .await
        .unwrap();
    apps.cancel("myapp").await.unwrap();
    assert_eq!(rack.seen()[5].text(), "parameters=BuildCpu%3D512");
}

#[tokio::test]
async fn builds() {
    let client = rack().client();
    let builds = client.builds();
    assert_eq!(builds.list("myapp", None).await.unwrap()[0].id, "BABCDEF");
    assert_eq!(builds.get("myapp", "BABCDEF").await.unwrap().id, "BABCDEF");
    let options = BuildCreateForm {
        description: Some("v2.0 release".into()),
        ..Default::default()
    };
    let build = builds
        .create("myapp", "https://example.com/source.tgz", options)
        .await
        .unwrap();
    assert_eq!(build.status, "running");
}

#[tokio::test]
async fn releases() {
    let rack = rack();
    let client = rack.client();
    let releases = client.releases();
    assert_eq!(releases.list("myapp", None).await.unwrap().len(), 2);
    assert_eq!(
        releases.get("myapp", "RABCDEF").await.unwrap().build,
        "BABCDEF"
    );
    releases.promote("myapp", "RABCDEF").await.unwrap();
    assert_eq!(
        releases.rollback("myapp", "RPREVIOUS").await.unwrap().id,
        "RABCDEF"
    );
    assert_eq!(
        rack.lines().last().unwrap(),
        "POST /apps/myapp/releases/RABCDEF/promote"
    );
}

#[tokio::test]
async fn environment() {
    // Releases that are made are the newest.
    let made = std::sync::Mutex::new(vec![(
        "R1".to_owned(),
        "DATABASE_URL=postgres://u\n".to_owned(),
    )]);
    let rack = Rack::new(move |seen| {
        let mut made = made.lock().unwrap();
        let show = |(id, env): &(String, String)| j!({"id": id, "env": env});
        match seen.line().as_str() {
            "GET /apps/myapp/releases" => json(made.iter().rev().map(show).collect()),
            "POST /apps/myapp/releases" => {
                let env = seen.text().strip_prefix("env=").unwrap().to_owned();
                let env = percent_encoding::percent_decode_str(&env)
                    .decode_utf8()
                    .unwrap()
                    .into_owned();
                let id = format!("R{}", made.len() + 1);
                made.push((id, env));
                json(show(made.last().unwrap()))
            }
            line => {
                let id = line.rsplit('/').next().unwrap();
                json(show(made.iter().find(|(i, _)| i == id).unwrap()))
            }
        }
    });
    let client = rack.client();
    let env = client.environment();
    assert_eq!(
        env.get("myapp").await.unwrap().get("DATABASE_URL").unwrap(),
        "postgres://u"
    );
    let release = env
        .set("myapp", [("KEY", "value"), ("OTHER", "val")])
        .await
        .unwrap();
    assert_eq!(release.id, "R2");
    let release = env.unset("myapp", &["KEY"]).await.unwrap();
    assert_eq!(
        release.env.expose(),
        "DATABASE_URL=postgres://u\nOTHER=val\n"
    );
}

#[tokio::test]
async fn services() {
    let rack = rack();
    let client = rack.client();
    let services = client.services();
    assert_eq!(services.list("myapp").await.unwrap()[0].name, "web");
    let scale = ServiceUpdateForm {
        count: Some(3),
        memory: Some(1024),
        ..Default::default()
    };
    services.update("myapp", "web", scale).await.unwrap();
    services.restart("myapp", "web").await.unwrap();
    assert_eq!(rack.seen()[1].text(), "count=3&memory=1024");
}

#[tokio::test]
async fn processes() {
    let client = rack().client();
    let processes = client.processes();
    assert_eq!(processes.list("myapp").await.unwrap()[0].id, "proc-abc123");
    assert_eq!(
        processes.get("myapp", "proc-abc123").await.unwrap().status,
        "running"
    );
    processes.stop("myapp", "proc-abc123").await.unwrap();
}

#[tokio::test]
async fn resources() {
    let rack = rack();
    let client = rack.client();
    let resources = client.resources();
    assert_eq!(resources.list("myapp").await.unwrap()[0].name, "database");
    assert_eq!(
        resources
            .get("myapp", "database")
            .await
            .unwrap()
            .url
            .expose(),
        "postgres://u"
    );
    assert_eq!(resources.system_list().await.unwrap().len(), 1);
    let made = resources
        .system_create("postgres", Some("mydb"), Default::default())
        .await
        .unwrap();
    assert_eq!(made.name, "mydb");
    resources.system_link("mydb", "myapp").await.unwrap();
    assert_eq!(rack.seen()[3].text(), "kind=postgres&name=mydb");
}

#[tokio::test]
async fn system() {
    let client = rack().client();
    let rack = client.system().get().await.unwrap();
    assert_eq!(
        (&*rack.name, &*rack.version, &*rack.provider),
        ("rack", "3.24.9", "local")
    );
    let capacity = client.system().capacity().await.unwrap();
    assert_eq!((capacity.cluster_cpu, capacity.cluster_gpu), (4000, 1));
}

#[tokio::test]
async fn low_level() {
    let rack = rack();
    let client = rack.client();
    assert_eq!(client.api().get("/apps").await.unwrap()[0]["name"], "myapp");
    let made = client
        .api()
        .post("/apps")
        .data([("name", "newapp")])
        .await
        .unwrap();
    assert_eq!(made["name"], "newapp");
    assert_eq!(rack.seen()[1].text(), "name=newapp");
}

#[tokio::test]
async fn errors() {
    let client = rack().client();
    match client.apps().get("nope").await {
        Err(e) if e.kind() == Kind::NotFound => {
            assert_eq!(e.status().unwrap().as_u16(), 404);
            assert_eq!(e.server_message().unwrap().raw(), "no such app: nope");
            assert_eq!(e.request_id().unwrap().raw(), "0123456789ab");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        client.apps().create("taken").await.unwrap_err().kind(),
        Kind::Conflict
    );
}

#[tokio::test]
async fn retries() {
    let more = RetryConfig {
        max_retries: 5,
        backoff_base: Duration::from_secs(2),
        backoff_max: Duration::from_secs(60),
        retry_on_500: true,
    };
    let client = rack().builder().retry(more).build().unwrap();
    assert_eq!(client.caller().retry().max_retries, 5);
    assert!(client.caller().retry().statuses.contains(&500));
    let none = RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    };
    let client = rack().builder().retry(none).build().unwrap();
    assert_eq!(client.caller().retry().max_retries, 0);
}

#[tokio::test]
async fn imports() {
    let rack = rack();
    let client = rack.client();
    let tarball = || WireBody::full("tgz");
    assert_eq!(
        client
            .builds()
            .import_build("myapp", tarball())
            .await
            .unwrap()
            .id,
        "BABCDEF"
    );
    let hour = CallOptions::new().timeout(Duration::from_secs(3600));
    client
        .builds()
        .with(hour)
        .import_build("myapp", tarball())
        .await
        .unwrap();
    let by_path = client
        .api()
        .post("/apps/myapp/builds/import")
        .content(tarball());
    by_path.timeout(Duration::from_secs(600)).await.unwrap();
    assert!(rack.seen().iter().all(|s| s.text() == "tgz"));
}

/// A plain GET is answered as the rack answers it; logs themselves are sockets: `apps().logs()`.
#[tokio::test]
async fn streams() {
    let client = rack().client();
    let request = RawRequest::new(http::Method::GET, "/apps/myapp/logs").query("follow", "true");
    let response = client.raw_stream(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let lines: Vec<_> = LineStream::new(response.into_body(), 1024)
        .map(|l| l.unwrap())
        .collect()
        .await;
    assert_eq!(lines, ["one", "two"]);
}

/// Licence, oldest compiler, version and tests, where the SDK's package has its own.
#[test]
fn the_package() {
    assert_eq!(env!("CARGO_PKG_LICENSE"), "Apache-2.0 OR MIT");
    assert!(env!("CARGO_PKG_RUST_VERSION").starts_with("1."));
    assert!(env!("CARGO_PKG_VERSION").starts_with("0."));
}
