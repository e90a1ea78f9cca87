//! Resources are the real programs, and what is in them stays.

use crate::deploy::sandbox;
use crate::http::soon;

const MANIFEST: &str = "
resources:
  db:
    type: postgres
  cache:
    type: redis
  memory:
    type: memcached
services:
  web:
    image: boxrig/base
    command: sleep 1000
    resources: [db, 'cache:CACHE', memory]
    termination: {grace: 0}
";

fn installed() -> bool {
    let all = [
        "/usr/bin/redis-server",
        "/usr/bin/memcached",
        "/usr/lib/postgresql",
    ];
    let here = all.iter().all(|p| std::path::Path::new(p).exists());
    if !here {
        let wanted = std::env::var("BOXRIG_REQUIRE").is_ok_and(|v| v.contains("resources"));
        assert!(
            !wanted,
            "postgresql, redis-server and memcached are required"
        );
        eprintln!("skipped: postgresql, redis-server and memcached are not installed");
    }
    here
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_that_are_ones() {
    if !installed() {
        return;
    }
    let Some(mut rack) = sandbox().await else {
        return;
    };
    rack.form("POST", "/apps", "name=a").await.with(200);
    let build = rack.build("a", &[("convox.yml", MANIFEST)]).await;
    assert_eq!(build["status"], "complete", "{build}");
    let release = build["release"].as_str().unwrap();
    let app = rack.promote("a", release).await;
    let mut log = rack.socket("/apps/a/logs", &[("Follow", "false")]).await;
    assert_eq!(app["release"], release, "{}", log.text().await);
    let all = rack.get("/apps/a/resources").await.with(200).json();
    for (n, name) in ["cache", "db", "memory"].iter().enumerate() {
        assert_eq!(
            (&all[n]["name"], &all[n]["status"]),
            (&(*name).into(), &"running".into()),
            "{all}"
        );
    }
    let url = all[1]["url"].as_str().unwrap();
    assert!(url.starts_with("postgres://app:"), "{url}");

    // From a service's process, by the variables it has.
    let sql = |sql: &str| format!("sh -c 'psql -At \"$DB_URL\" -c \"{sql}\"'");
    let run = |command: String| {
        let rack = &rack;
        async move { rack.exec("a", "web", &command, None).await }
    };
    let made = run(sql("create table t (n int); insert into t values (41)")).await;
    assert_eq!(made.1, 0, "{}", made.0);
    let set = run("sh -c 'redis-cli -u \"$CACHE\" set key value'".into()).await;
    assert!(set.0.ends_with("OK\n"), "{}", set.0);
    let talk = "python3 -c 'import os,socket; h,p=os.environ[\"MEMORY_URL\"].split(\":\"); s=socket.create_connection((h,int(p))); s.sendall(b\"version\\r\\n\"); print(s.recv(99).decode())'";
    let (version, _) = run(talk.into()).await;
    assert!(version.starts_with("VERSION "), "{version}");
    // A wrong password is one.
    let (no, code) =
        run("sh -c 'PGPASSWORD=x psql -h 127.0.0.1 -p $DB_PORT -U app app -c \"select 1\"'".into())
            .await;
    assert!(code != 0 && no.contains("authentication failed"), "{no}");

    // Out and in again.
    let dump = rack.get("/apps/a/resources/db/data").await.with(200);
    assert!(
        dump.text().contains("CREATE TABLE public.t"),
        "{}",
        dump.text()
    );
    run(sql("drop table t")).await;
    rack.ask(
        "PUT",
        "/apps/a/resources/db/data",
        &[("Content-Type", "application/octet-stream")],
        dump.body,
    )
    .await
    .with(200);
    assert_eq!(run(sql("select n + 1 from t")).await.0, "42\n");
    rack.ask("PUT", "/apps/a/resources/db/data", &[], "no sql;")
        .await
        .with(500);
    rack.get("/apps/a/resources/cache/data").await.with(400);
    rack.get("/apps/a/resources/none").await.with(404);

    // They outlive the server, and a program that is killed comes back with its data.
    rack.server
        .restart(|config| config.engine(boxrig_engine::Selection::Sandbox))
        .await
        .unwrap();
    let (n, _) = rack.exec("a", "web", &sql("select n from t"), None).await;
    assert_eq!(n, "41\n", "after a restart of the server");
    let core = rack.server.running().unwrap().core().clone();
    let info = core.engine.list().await.unwrap();
    let db = info
        .iter()
        .find(|i| i.spec.labels.get("resource").is_some_and(|r| r == "db"))
        .unwrap();
    let kill = boxrig_engine::ExecSpec::new([
        "sh",
        "-c",
        "kill -9 $(cat /data/db/postmaster.pid | head -1)",
    ]);
    core.engine
        .exec(db.id(), kill)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    soon(
        "the data are there after the program was killed",
        async || rack.exec("a", "web", &sql("select n from t"), None).await.0 == "41\n",
    )
    .await;
    rack.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_offered_is_said() {
    let Some(rack) = sandbox().await else { return };
    rack.form("POST", "/apps", "name=a").await.with(200);
    let text = "resources:\n  db:\n    type: oracle\nservices:\n  web:\n    image: boxrig/base\n    command: sleep 9\n    resources: [db]\n";
    let build = rack.build("a", &[("convox.yml", text)]).await;
    let release = build["release"].as_str().unwrap();
    let app = rack.promote("a", release).await;
    assert_eq!(app["release"], "", "{app}");
    let mut log = rack.socket("/apps/a/logs", &[("Follow", "false")]).await;
    let log = log.text().await;
    assert!(log.contains("resource type \"oracle\" is not offered by this rack; it has postgres, redis, memcached"), "{log}");
    // An address of one's own is as good.
    let made = rack
        .form(
            "POST",
            "/apps/a/releases",
            "env=DB_URL%3Doracle%3A%2F%2Felsewhere",
        )
        .await
        .json();
    let app = rack.promote("a", made["id"].as_str().unwrap()).await;
    assert_eq!(app["release"], made["id"]);
    assert_eq!(
        rack.get("/apps/a/resources/db").await.json()["status"],
        "external"
    );
    assert_eq!(
        rack.exec("a", "web", "sh -c 'echo $DB_URL'", None).await.0,
        "oracle://elsewhere\n"
    );
    for (form, status) in [
        ("kind=webhook&name=h", 400),
        ("kind=redis&name=A", 400),
        ("kind=redis&parameters=X%3D1", 400),
    ] {
        rack.form("POST", "/resources", form).await.with(status);
    }
    assert_eq!(
        rack.ask("OPTIONS", "/resources", &[], "").await.json()[0]["name"],
        "postgres"
    );
    rack.get("/resources/none").await.with(404);
    rack.server.stop().await;
}
