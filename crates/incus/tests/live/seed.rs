//! Every name of the vendor's document of instances: parameters, defaults, behaviours. `api/seed-ties.tsv` ties each to one of these.

use std::time::Duration;

use boxrig_incus::models::InstanceSource;
use boxrig_incus::{
    Action, Change, Client, Exec, FileMode, Merge, NewInstance, StatusCode, WindowSize,
};
use boxrig_wire::{Kind, RawBody, RawRequest};
use http::Method;
use serde_json::{Value, json};

use super::support::{gone, live, model, query};

#[tokio::test]
async fn the_client_and_its_groups() {
    let live = live!("seed.rs::the_client_and_its_groups");
    // Without arguments it finds the server by itself; what is found is a setting, and nothing is connected before a call.
    let found = Client::local().unwrap();
    assert_eq!(found.caller().base().to_string(), "http://unix.socket");
    let guest = live.stopped("group").await;
    let group = live.client.instances();
    assert!(group.names().await.unwrap().contains(&guest.name));
    guest.remove().await;
}

#[tokio::test]
async fn requests_of_ones_own() {
    let live = live!("seed.rs::requests_of_ones_own");
    let name = live.name("raw");
    let path = format!("/1.0/profiles/{name}");
    let send = |method, path: &str, body: Option<Value>| {
        let request = RawRequest::new(method, path);
        match body {
            Some(body) => request.body(RawBody::Json(body)),
            None => request,
        }
    };
    let client = &live.client;
    client
        .raw(send(
            Method::POST,
            "/1.0/profiles",
            Some(json!({"name": name})),
        ))
        .await
        .unwrap();
    client
        .raw(send(
            Method::PUT,
            &path,
            Some(json!({"description": "put"})),
        ))
        .await
        .unwrap();
    let query_one = RawRequest::new(Method::GET, "/1.0/profiles").query("recursion", "1");
    let listed: Value =
        serde_json::from_slice(client.raw(query_one).await.unwrap().body()).unwrap();
    assert!(
        listed["metadata"]
            .as_array()
            .unwrap()
            .iter()
            .any(|p| p["description"] == "put")
    );
    client.raw(send(Method::DELETE, &path, None)).await.unwrap();
    assert!(gone(&path).await);
    // An operation is waited for by its id; without waiting, the answer is there at once.
    let guest = live.running("wait").await;
    let exec = format!("/1.0/instances/{}/exec", guest.name);
    let body = json!({"command": ["sh", "-c", "sleep 1; exit 3"]});
    let started: Value = serde_json::from_slice(
        client
            .raw(send(Method::POST, &exec, Some(body)))
            .await
            .unwrap()
            .body(),
    )
    .unwrap();
    assert_eq!(started["metadata"]["status_code"], 103);
    let id = started["metadata"]["id"].as_str().unwrap();
    let ended = client
        .operations()
        .attach(id)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(ended.metadata["return"], 3);
    guest.remove().await;
}

#[tokio::test]
async fn list_and_get() {
    let live = live!("seed.rs::list_and_get");
    let guest = live.stopped("list").await;
    let instances = live.client.instances();
    let all = instances.list().await.unwrap();
    let one = all.iter().find(|i| i.name == guest.name).unwrap();
    assert_eq!(one.status_code, StatusCode::STOPPED);
    assert!(!one.config.is_empty(), "whole objects, not addresses");
    let got = instances.get(&guest.name).await.unwrap();
    assert_eq!((&got.name, &got.config), (&one.name, &one.config));
    assert_eq!(
        got.config,
        model::<boxrig_incus::ConfigMap>(
            query(&format!("/1.0/instances/{}", guest.name)).await["config"].clone()
        )
    );
    // Nothing there is an empty list.
    let nothing = instances
        .clone()
        .filter("name eq cl-no-such-instance")
        .list()
        .await
        .unwrap();
    assert!(nothing.is_empty());
    guest.remove().await;
}

#[tokio::test]
async fn create_takes_every_parameter() {
    let live = live!("seed.rs::create_takes_every_parameter");
    let instances = live.client.instances();
    let name = live.name("create");
    let new = NewInstance::from_image(&name, "busybox")
        .config("limits.cpu", "2")
        .config("limits.memory", "2GB")
        .device(
            "root",
            [("path", "/"), ("pool", "default"), ("type", "disk")],
        )
        .profiles(["default"])
        .ephemeral()
        .kind("container");
    let operation = instances.create(new).await.unwrap();
    // Waiting gives the instance.
    let made = operation.wait().await.unwrap();
    let seen = query(&format!("/1.0/instances/{name}")).await;
    assert_eq!(seen["config"]["limits.cpu"], "2");
    assert_eq!(seen["config"]["limits.memory"], "2GB");
    assert_eq!(
        seen["devices"]["root"],
        json!({"path": "/", "pool": "default", "type": "disk"})
    );
    assert_eq!(
        (&seen["profiles"], &seen["ephemeral"], &seen["type"]),
        (&json!(["default"]), &json!(true), &json!("container"))
    );
    assert_eq!((&*made.name, made.ephemeral), (&*name, true));
    instances.delete(&name).await.unwrap().wait().await.unwrap();
    // A source as a map, and nothing but a source: the server's defaults hold.
    let source = model::<InstanceSource>(json!({"type": "image", "alias": "busybox"}));
    let made = instances
        .create(NewInstance::from_source(&name, source))
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(
        (&*made.r#type, made.ephemeral, &made.profiles[..]),
        ("container", false, &["default".to_owned()][..])
    );
    instances.delete(&name).await.unwrap().wait().await.unwrap();
}

#[tokio::test]
async fn virtual_machines_are_asked_for() {
    let live = live!("seed.rs::virtual_machines_are_asked_for");
    let name = live.name("vm");
    let made = live
        .client
        .instances()
        .create(NewInstance::from_image(&name, "busybox").virtual_machine())
        .await;
    let made = match made {
        Ok(operation) => operation.wait().await,
        Err(e) => Err(e),
    };
    // The image is a container's: whether the server can run virtual machines or not, it refuses, for the type's sake.
    let e = made.unwrap_err();
    let words = e.server_message().unwrap().raw().to_lowercase();
    assert!(
        words.contains("virtual-machine")
            || words.contains("virtual machine")
            || words.contains("type"),
        "{e}"
    );
    assert!(gone(&format!("/1.0/instances/{name}")).await);
}

#[tokio::test]
async fn update_and_delete() {
    let live = live!("seed.rs::update_and_delete");
    let guest = live.stopped("update").await;
    let instances = live.client.instances();
    let path = format!("/1.0/instances/{}", guest.name);
    // The whole configuration, as the document has it, and a part of it, as one usually wants it.
    let whole = model(
        json!({"config": {"user.whole": "1"}, "profiles": ["default"], "devices": {"eth0": {"type": "none"}}}),
    );
    instances.replace(&guest.name, whole, None).await.unwrap();
    assert_eq!(query(&path).await["config"]["user.whole"], "1");
    instances
        .patch(
            &guest.name,
            Merge::new().set("config", json!({"user.part": "2"})),
            None,
        )
        .await
        .unwrap();
    let seen = query(&path).await;
    assert_eq!(
        (&seen["config"]["user.whole"], &seen["config"]["user.part"]),
        (&json!("1"), &json!("2"))
    );
    instances
        .delete(&guest.name)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert!(gone(&path).await);
}

#[tokio::test]
async fn state_actions_take_every_parameter() {
    let live = live!("seed.rs::state_actions_take_every_parameter");
    let guest = live.stopped("state").await;
    let instances = live.client.instances();
    let name = &*guest.name;
    assert_eq!(
        Change::new(),
        Change {
            force: false,
            stateful: false,
            timeout: Some(Duration::from_secs(30))
        }
    );
    let status =
        || async { query(&format!("/1.0/instances/{name}")).await["status_code"].as_u64() };
    // Without waiting the answer is there at once; waiting is another step.
    let operation = instances.start(name, Change::new()).await.unwrap();
    operation.wait().await.unwrap();
    assert_eq!(status().await, Some(103));
    instances.freeze(name).await.unwrap().wait().await.unwrap();
    assert_eq!(status().await, Some(110));
    instances
        .unfreeze(name)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    let timeout = Change::new().force().timeout(Some(Duration::from_secs(5)));
    instances
        .restart(name, timeout)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    instances
        .stop(name, timeout)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(status().await, Some(102));
    // With its state kept: what a server without CRIU cannot, and says.
    for action in [Action::Start, Action::Stop] {
        let kept = instances
            .change_state(name, action, Change::new().stateful())
            .await;
        let kept = match kept {
            Ok(operation) => operation.wait().await,
            Err(e) => Err(e),
        };
        if let Err(e) = kept {
            assert!(e.server_message().is_some(), "{e}");
        }
    }
    guest.remove().await;
}

#[tokio::test]
async fn execute_takes_every_parameter() {
    let live = live!("seed.rs::execute_takes_every_parameter");
    let guest = live.running("execute").await;
    let instances = live.client.instances();
    let script = "echo $A; id -u; id -g; pwd";
    let exec = Exec::new(["sh", "-c", script])
        .env("A", "b")
        .user(1000)
        .group(1001)
        .cwd("/tmp");
    // With sockets and with records.
    let streamed = instances.run(&guest.name, exec.clone(), "").await.unwrap();
    let recorded = instances.run_recorded(&guest.name, exec).await.unwrap();
    assert_eq!(streamed.stdout, b"b\n1000\n1001\n/tmp\n");
    assert_eq!(recorded.stdout, streamed.stdout);
    let hello = Exec::new(["echo", "Hello, World!"]);
    assert_eq!(
        instances
            .run_recorded(&guest.name, hello)
            .await
            .unwrap()
            .stdout,
        b"Hello, World!\n"
    );
    // Zero is a number like any other: root.
    let root = Exec::new(["id", "-u"]).user(0).group(0);
    assert_eq!(
        instances.run(&guest.name, root, "").await.unwrap().stdout,
        b"0\n"
    );
    let size = WindowSize {
        width: 101,
        height: 31,
    };
    let terminal = Exec::new(["stty", "size"]).terminal(size);
    let said = instances.run(&guest.name, terminal, "").await.unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "31 101");
    // Without waiting.
    let operation = instances
        .spawn(&guest.name, Exec::new(["sh", "-c", "exit 5"]))
        .await
        .unwrap();
    assert_eq!(operation.wait().await.unwrap(), 5);
    guest.remove().await;
}

#[tokio::test]
async fn what_is_documented_and_missing_there() {
    let live = live!("seed.rs::what_is_documented_and_missing_there");
    let guest = live.running("missing").await;
    let instances = live.client.instances();
    let state = instances.state(&guest.name).await.unwrap();
    assert_eq!(
        query(&format!("/1.0/instances/{}/state", guest.name)).await["pid"],
        state.pid
    );
    assert!(
        instances
            .logs(&guest.name)
            .await
            .unwrap()
            .contains(&"lxc.log".to_owned())
    );
    let files = instances.files(&guest.name);
    files
        .write("/root/new", &b"\x00bytes\xff"[..], FileMode::new())
        .await
        .unwrap();
    assert_eq!(
        files.read("/root/new").await.unwrap(),
        &b"\x00bytes\xff"[..]
    );
    assert!(
        files
            .list("/root")
            .await
            .unwrap()
            .contains(&"new".to_owned())
    );
    assert_eq!(
        files.read("/root/none").await.unwrap_err().kind(),
        Kind::NotFound
    );
    guest.remove().await;
}
