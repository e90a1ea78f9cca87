//! Builds, services and firewalls against boxrig's own server and instances that really run.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use boxrig_engine::{InstanceId, NetworkPolicy, Selection};
use boxrig_fastvm::*;
use boxrig_server::testing::Server;
use boxrig_wire::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server, or a word on why there is none here.
async fn server() -> Option<(Server, Client)> {
    let server = match Server::on(Selection::Sandbox).await {
        Ok(server) => server,
        Err(e) if std::env::var_os("BOXRIG_REQUIRE").is_none() => {
            eprintln!("skipped: no sandbox here: {e}");
            return None;
        }
        Err(e) => panic!("no sandbox here: {e}"),
    };
    let client = client(&server);
    Some((server, client))
}

fn client(server: &Server) -> Client {
    let builder = Client::builder()
        .api_key(server.api_key())
        .base_url(server.url());
    builder.build().unwrap()
}

fn context(server: &Server, files: &[(&str, &str)]) -> PathBuf {
    let root = server.dir().join("context");
    for (name, content) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

async fn said(client: &Client, snapshot: &Snapshot, line: &str) -> String {
    let launch = Launch::from_snapshot(&snapshot.id);
    let vm = client.vms().launch(launch).await.unwrap().vm;
    let done = client.vms().run(&vm.id, line).await.unwrap();
    client.vms().delete(&vm.id).await.unwrap();
    assert_eq!(done.exit_code, 0, "{line}: {}", done.stderr);
    done.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_becomes_a_snapshot() {
    let Some((mut server, client)) = server().await else {
        return;
    };
    let root = context(
        &server,
        &[
            (
                "Dockerfile",
                "FROM boxrig/base AS base\nARG WHO=nobody\nENV APP=/srv WHO=$WHO\nWORKDIR /srv\nCOPY . .\nRUN echo \"made for $WHO\" > note\nFROM base AS broken\nRUN echo the last words; exit 3\nFROM base\n",
            ),
            ("in/file", "content"),
            ("secret.key", "x"),
            (".dockerignore", "*.key\n"),
        ],
    );
    let build = Build::dockerfile(&root)
        .build_arg("WHO", "you")
        .name("app")
        .machine_type("c2m3");
    let snapshot = client.build(build).await.unwrap().wait().await.unwrap();
    assert_eq!(snapshot.name.raw(), "app");
    assert_eq!(snapshot.env_vars.as_ref().unwrap().0["APP"], "/srv");
    let line = "cd $APP && cat note in/file && ls -A && hostname";
    let out = said(&client, &snapshot, line).await;
    assert!(
        out.starts_with("made for you\ncontent.dockerignore\nDockerfile\nin\nnote\nvm-"),
        "{out}"
    );
    let vm = client
        .vms()
        .launch(Launch::from_snapshot(&snapshot.id))
        .await
        .unwrap()
        .vm;
    assert_eq!((vm.cpu, vm.memory_mib), (2, 3 * 1024));
    client.vms().delete(&vm.id).await.unwrap();

    let failed = Build::dockerfile(&root).target("broken");
    let error = client
        .build(failed)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap_err();
    let words = error.to_string();
    assert!(
        words.contains("Dockerfile:8")
            && words.contains("exit code 3")
            && words.contains("the last words"),
        "{words}"
    );
    let imports = client.snapshot_imports().list().await.unwrap();
    assert_eq!(imports.len(), 2);
    assert_eq!(imports[1].status, ImportStatus::Failed);
    assert!(
        imports[0]
            .events
            .as_ref()
            .unwrap()
            .iter()
            .any(|e| e.phase == ImportPhase::FetchContext
                && e.status == ImportEventStatus::Completed)
    );

    // A restart keeps it; what an import made goes with the import.
    server
        .restart(|config| config.engine(Selection::Sandbox))
        .await
        .unwrap();
    let client = self::client(&server);
    assert!(
        said(&client, &snapshot, "cat /srv/note")
            .await
            .contains("you")
    );
    client
        .snapshot_imports()
        .delete(&imports[0].id)
        .await
        .unwrap();
    assert_eq!(
        client
            .snapshots()
            .get(&snapshot.id)
            .await
            .unwrap_err()
            .kind(),
        Kind::NotFound
    );
    let engine = &server.running().unwrap().core().engine;
    assert!(
        engine
            .list_images()
            .await
            .unwrap()
            .iter()
            .all(|i| !i.name.starts_with("fastvm/"))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_the_store_and_what_is_refused() {
    let Some((server, client)) = server().await else {
        return;
    };
    let snapshot = client
        .build(Build::image("boxrig/base"))
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(said(&client, &snapshot, "echo ok").await, "ok\n");
    let error = client
        .build(Build::image("python:3.13-slim"))
        .await
        .unwrap()
        .wait()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("local store"), "{error}");
    let error = client
        .build(Build::image("boxrig/base").platform("linux/s390x"))
        .await
        .unwrap()
        .wait()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("s390x"), "{error}");

    let imports = client.snapshot_imports();
    let create = async |source| {
        let request = CreateSnapshotImportRequest {
            source,
            ..CreateSnapshotImportRequest::default()
        };
        imports.create(request).await
    };
    let spec = |change: fn(&mut ImportSource)| {
        let mut source = ImportSource::image("boxrig/base");
        change(&mut source);
        source
    };
    for (source, field) in [
        (spec(|s| s.image = None), "source.image"),
        (
            spec(|s| s.image = Some("a b\nRUN x".into())),
            "source.image",
        ),
        (spec(|s| s.target = Some("x".into())), "target"),
        (spec(|s| s.kind = ImportSourceKind::Dockerfile), "image"),
        (ImportSource::dockerfile("nonsense".into()), "contextRef"),
    ] {
        let error = create(source).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains(field), "{field}: {error}");
    }
    // A reference is good for one import, and only when something was sent.
    let place = client
        .snapshot_imports()
        .presign_context(None)
        .await
        .unwrap();
    let error = create(ImportSource::dockerfile(place.context_ref.clone()))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("nothing has been uploaded"),
        "{error}"
    );
    let error = client
        .snapshot_imports()
        .presign_context(Some(1 << 40))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("sizeBytes"), "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_cancelled_and_the_older_api_builds_too() {
    let Some((server, client)) = server().await else {
        return;
    };
    let root = context(
        &server,
        &[
            ("Dockerfile", "FROM boxrig/base\nRUN sleep 600\n"),
            ("file", "x"),
        ],
    );
    let build = client.build(Build::dockerfile(&root)).await.unwrap();
    let id = build.id().to_owned();
    let running = async {
        loop {
            let import = client.snapshot_imports().get(&id).await.unwrap();
            let last = import.events.unwrap().pop();
            if last.is_some_and(|e| e.phase == ImportPhase::Build) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), running)
        .await
        .unwrap();
    let refused = client.snapshot_imports().delete(&id).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    let cancelled = client.snapshot_imports().cancel(&id).await.unwrap();
    assert_eq!(cancelled.status, ImportStatus::Cancelled);
    assert_eq!(
        client
            .snapshot_imports()
            .cancel(&id)
            .await
            .unwrap_err()
            .kind(),
        Kind::Conflict
    );
    let engine = server.running().unwrap().core().engine.clone();
    for _ in 0..200 {
        if engine.list().await.unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(engine.list().await.unwrap().is_empty());
    client.snapshot_imports().delete(&id).await.unwrap();
    let left: Vec<_> = fs::read_dir(server.dir().join("data/fastvm/imports"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");

    let text = "RUN echo older > /made\nCOPY file /file\n";
    let request = BuildCreateRequest {
        image_ref: Some("boxrig/base".into()),
        dockerfile_content: Some(text.into()),
        ..BuildCreateRequest::default()
    };
    let older = client.builds().create(request).await.unwrap();
    // Without a context there is nothing to copy.
    let failed = loop {
        let now = client.builds().get(&older.id).await.unwrap();
        if now.status == BuildStatus::Failed {
            break now;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(failed.error.unwrap().raw().contains("Dockerfile:3"));
    let build = Build::dockerfile(&root)
        .dockerfile_text("FROM boxrig/base\nRUN echo older > /made\nCOPY file /file\n");
    let snapshot = client
        .build_older(build)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(
        said(&client, &snapshot, "cat /made /file").await,
        "older\nx"
    );
    server.stop().await;
}

async fn get(server: &Server, host: &str) -> (u16, String) {
    let mut io = TcpStream::connect(server.url().replace("http://", ""))
        .await
        .unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.unwrap();
    let body = answer
        .split_once("\r\n\r\n")
        .map_or("", |(_, b)| b)
        .to_owned();
    (answer[9..12].parse().unwrap(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_reached_by_their_names() {
    let Some((mut server, client)) = server().await else {
        return;
    };
    let vm = client.vms().launch(Launch::new("c1m1")).await.unwrap().vm;
    let vms = client.vms();
    let services = vms.services();
    let web = |port| RegisterServiceRequest {
        name: "web".into(),
        port,
        ..RegisterServiceRequest::default()
    };
    let made = services.register(&vm.id, web(8080)).await.unwrap();
    assert_eq!(
        (made.name.as_str(), made.port, made.h2c),
        ("web", 8080, false)
    );
    // The same again is the same; another one of the name is not.
    services.register(&vm.id, web(8080)).await.unwrap();
    assert_eq!(
        services
            .register(&vm.id, web(8081))
            .await
            .unwrap_err()
            .kind(),
        Kind::Conflict
    );
    for (name, port) in [
        ("", 8080),
        ("Web", 8080),
        ("-a", 8080),
        (&*"x".repeat(30), 8080),
        ("a.b", 8080),
        ("low", 80),
    ] {
        let request = RegisterServiceRequest {
            name: name.into(),
            port,
            ..RegisterServiceRequest::default()
        };
        assert_eq!(
            services.register(&vm.id, request).await.unwrap_err().kind(),
            Kind::Invalid,
            "{name} {port}"
        );
    }
    let host = format!("web--{}.proxy.localhost", vm.id.replace('-', ""));
    assert_eq!(get(&server, &host).await.0, 503);
    let engine = server.running().unwrap().core().engine.clone();
    let id = InstanceId::new(vm.id.clone()).unwrap();
    let mut listener = engine.listen(&id, 8080).await.unwrap();
    let serving = tokio::spawn(async move {
        while let Ok(mut io) = listener.accept().await {
            let _ = io.read(&mut [0; 4096]).await;
            let _ = io
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
                .await;
        }
    });
    assert_eq!(get(&server, &host).await, (200, "hello".to_owned()));
    let effective = client
        .vms()
        .get(&vm.id)
        .await
        .unwrap()
        .effective_firewall
        .unwrap();
    let Firewall::Layered(effective) = effective else {
        panic!("three parts")
    };
    let rule = &effective.ingress.unwrap().rules.unwrap()[0];
    assert_eq!((rule.value.as_str(), rule.ports.as_str()), ("::/0", "8080"));
    assert_eq!(
        rule.description.as_ref().unwrap().raw(),
        "auto: proxy service web"
    );

    // A pause and a restart: the name stays, and leads there again.
    client.vms().pause(&vm.id).await.unwrap();
    assert_eq!(get(&server, &host).await.0, 503);
    client.vms().resume(&vm.id).await.unwrap();
    assert_eq!(get(&server, &host).await.0, 200);
    let snapshot = client.snapshots().create(&vm.id, None).await.unwrap();
    assert_eq!(snapshot.services.as_ref().unwrap()[0].name, "web");
    let copy = client
        .vms()
        .launch(Launch::from_snapshot(&snapshot.id))
        .await
        .unwrap()
        .vm;
    assert_eq!(services.list(&copy.id).await.unwrap()[0].port, 8080);
    serving.abort();
    drop(engine);
    server
        .restart(|config| config.engine(Selection::Sandbox))
        .await
        .unwrap();
    assert_eq!(get(&server, &host).await.0, 503);

    let client = self::client(&server);
    let vms = client.vms();
    let services = vms.services();
    let many = (0..15).map(|n| format!("s{n}"));
    for name in many {
        let change = UpdateServiceRequest {
            port: 9000,
            h2c: Some(true),
            ..UpdateServiceRequest::default()
        };
        services.update(&vm.id, &name, change).await.unwrap();
    }
    let names: Vec<_> = services
        .list(&vm.id)
        .await
        .unwrap()
        .into_iter()
        .map(|s| s.name)
        .collect();
    assert_eq!(names.len(), 16);
    assert!(names.is_sorted());
    let error = services
        .register(
            &vm.id,
            RegisterServiceRequest {
                name: "more".into(),
                port: 9000,
                ..RegisterServiceRequest::default()
            },
        )
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("vm_service_quota_exceeded"),
        "{error}"
    );
    services.delete(&vm.id, "web").await.unwrap();
    services.delete(&vm.id, "web").await.unwrap();
    assert_eq!(get(&server, &host).await.0, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firewall_is_in_force_at_once() {
    let Some((server, client)) = server().await else {
        return;
    };
    let firewall = |text: &str| serde_json::from_str::<Firewall>(text).unwrap();
    let closed = firewall(
        r#"{"egress":{"default":"deny"},"dns":{"mode":"allow","domains":["*.example.com"]}}"#,
    );
    let launch = Launch::new("c1m1").firewall(closed.clone());
    let vm = client.vms().launch(launch).await.unwrap().vm;
    assert_eq!(vm.firewall.as_ref(), Some(&closed));
    let engine = server.running().unwrap().core().engine.clone();
    let id = InstanceId::new(vm.id.clone()).unwrap();
    let policy = async || match engine.get(&id).await.unwrap().spec.network {
        NetworkPolicy::Egress(policy) => policy,
        other => panic!("{other:?}"),
    };
    let address = "192.0.2.1".parse().unwrap();
    let decide = async || {
        policy()
            .await
            .decide(boxrig_engine::net::Protocol::Tcp, address, 443, &[])
    };
    assert_eq!(decide().await, boxrig_engine::net::Verdict::Deny);
    // A name that must not be known is not: the answer is ours, and comes at once.
    let done = client
        .vms()
        .run(&vm.id, "getent hosts www.denied.test; echo $?")
        .await
        .unwrap();
    assert_eq!(done.stdout, "2\n");
    // What is refused by the rules is refused at once, not when a connection has timed out.
    let started = std::time::Instant::now();
    let done = client
        .vms()
        .run(&vm.id, "curl -sS -m 30 http://192.0.2.1/; echo $?")
        .await
        .unwrap();
    assert_ne!(done.stdout, "0\n");
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );

    let open: FirewallPatch = serde_json::from_str(r#"{"egress":{"rules":[{"action":"allow","kind":"cidr","value":"192.0.2.0/24","protocol":"tcp","ports":"443"}]}}"#).unwrap();
    let vm = client.vms().patch_firewall(&vm.id, open).await.unwrap();
    assert_eq!(decide().await, boxrig_engine::net::Verdict::Allow);
    let Some(Firewall::Layered(now)) = &vm.firewall else {
        panic!("three parts")
    };
    assert_eq!(now.dns.as_ref().unwrap().mode, Some(DnsMode::Allow));
    let bad = firewall(
        r#"{"egress":{"rules":[{"action":"allow","kind":"cidr","value":"x","protocol":"tcp","ports":"443"}]}}"#,
    );
    assert_eq!(
        client
            .vms()
            .set_firewall(&vm.id, bad)
            .await
            .unwrap_err()
            .kind(),
        Kind::Invalid
    );
    let legacy = firewall(r#"{"mode":"restricted","ingress":[{"protocol":"tcp","portStart":22}]}"#);
    let vm = client
        .vms()
        .set_firewall(&vm.id, legacy.clone())
        .await
        .unwrap();
    assert_eq!(vm.firewall.as_ref(), Some(&legacy));
    let snapshot = client.snapshots().create(&vm.id, None).await.unwrap();
    assert_eq!(snapshot.firewall.as_ref(), Some(&legacy));
    server.stop().await;
}
