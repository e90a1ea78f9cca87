//! The server itself: configuration, hardware, metrics, events, operations, warnings.

use boxrig_incus::{EventFilter, NewInstance};
use boxrig_wire::{Error, Kind};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;

use super::support::{gone, incus, incus_try, live, model, query};

#[tokio::test]
async fn configuration_hardware_and_metrics() {
    let live = live!("server.rs::configuration_hardware_and_metrics");
    let server = live.client.server();
    assert_eq!(json!(server.versions().await.unwrap()), query("/").await);
    let key = format!("user.{}", live.name("key"));
    server.set([(&key, "1")]).await.unwrap();
    assert_eq!(query("/1.0").await["config"][&key], "1");
    let read = server.get().await.unwrap();
    let mut put = read.metadata.config.clone();
    put.insert(key.clone(), "2".to_owned());
    server
        .replace(model(json!({"config": put})), read.etag.as_deref())
        .await
        .unwrap();
    assert_eq!(query("/1.0").await["config"][&key], "2");
    server.set([(&key, "")]).await.unwrap();
    assert!(query("/1.0").await["config"].get(&key).is_none());
    assert_eq!(live.client.info().await.unwrap().auth, "trusted");

    let resources = server.resources().await.unwrap();
    assert_eq!(
        query("/1.0/resources").await["cpu"]["total"].as_u64(),
        Some(resources.cpu.total)
    );
    let text = server
        .metrics()
        .await
        .unwrap()
        .body
        .collect(1 << 24)
        .await
        .unwrap();
    assert!(String::from_utf8_lossy(&text).contains("# EOF"));
    assert!(
        incus(&["query", "--raw", "/1.0/metrics"])
            .await
            .contains("# EOF")
    );
    let keys = server.configuration_metadata().await.unwrap();
    let ours = serde_json::to_value(&keys.configs).unwrap();
    let seen = query("/1.0/metadata/configuration").await;
    let count = |v: &Value| v["instance"]["boot"]["keys"].as_array().map_or(0, Vec::len);
    assert!(count(&ours) > 0 && count(&ours) == count(&seen["configs"]));
    live.confirmed(&[
        "api_get",
        "server_get",
        "server_patch",
        "server_put",
        "resources_get",
        "metrics_get",
        "metadata_configuration_get",
    ]);
}

#[tokio::test]
async fn events_come_as_things_happen() {
    let live = live!("server.rs::events_come_as_things_happen");
    let filter = EventFilter::lifecycle().and("operation");
    let events = live.client.events(filter).await.unwrap();
    let mut events = Box::pin(events.stream());
    let guest = live.stopped("event").await;
    let seen = async {
        let (mut created, mut operation) = (false, false);
        while let Some(event) = events.next().await {
            let event = event.unwrap();
            let text = event.metadata.to_string();
            created |= event.r#type == "lifecycle"
                && text.contains("instance-created")
                && text.contains(&guest.name);
            operation |= event
                .operation()
                .is_some_and(|o| o.is_final() && text.contains(&guest.name));
            if created && operation {
                return;
            }
        }
        panic!("the events ended");
    };
    tokio::time::timeout(Duration::from_secs(10), seen)
        .await
        .unwrap();
    assert_eq!(
        query(&format!("/1.0/instances/{}", guest.name)).await["name"],
        guest.name
    );
    live.confirmed(&["events_get"]);
    guest.remove().await;
}

#[tokio::test]
async fn operations_are_listed_watched_and_cancelled() {
    let live = live!("server.rs::operations_are_listed_watched_and_cancelled");
    let guest = live.running("op").await;
    let operations = live.client.operations();
    let exec = boxrig_incus::Exec::new(["sleep", "2"]);
    let running = live
        .client
        .instances()
        .spawn(&guest.name, exec)
        .await
        .unwrap();
    assert!(
        operations
            .list()
            .await
            .unwrap()
            .iter()
            .any(|o| o.id == running.id())
    );
    let path = format!("/1.0/operations/{}", running.id());
    assert_eq!(query(&path).await["status"], "Running");
    assert_eq!(
        operations.get(running.id()).await.unwrap().status_code.0,
        103
    );
    let e = running.cancel().await.unwrap_err();
    assert_eq!(
        e.kind(),
        Kind::Unsupported,
        "a command cannot be cancelled: {e}"
    );
    // Running out of time is not a failure, and stops nothing.
    let e = boxrig_incus::wait_at_most(&running, Duration::from_millis(100))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Timeout);
    assert_eq!(running.wait().await.unwrap(), 0);
    // One that is taken up by its id.
    let exec = boxrig_incus::Exec::new(["sh", "-c", "sleep 1; exit 5"]);
    let running = live
        .client
        .instances()
        .spawn(&guest.name, exec)
        .await
        .unwrap();
    let again = operations.attach(running.id()).await.unwrap();
    let phases: Vec<_> = again.progress().collect().await;
    assert!(phases.iter().all(Result::is_ok) && !phases.is_empty());
    assert_eq!(again.wait().await.unwrap().metadata["return"], 5);
    // Without the event socket it is the same.
    let quiet = live.client.without_events();
    let exec = boxrig_incus::Exec::new(["sh", "-c", "sleep 1; exit 6"]);
    let running = quiet.instances().spawn(&guest.name, exec).await.unwrap();
    assert_eq!(running.wait().await.unwrap(), 6);

    let (_, token) = live
        .client
        .certificates()
        .create_token(&live.name("tok"), &[])
        .await
        .unwrap();
    let path = format!("/1.0/operations/{}", token.id);
    assert_eq!(query(&path).await["class"], "token");
    operations.cancel(&token.id).await.unwrap();
    assert!(gone(&path).await || query(&path).await["status"] == "Cancelled");
    assert_eq!(
        operations.cancel("nope").await.unwrap_err().kind(),
        Kind::NotFound
    );
    live.confirmed(&["operations_get", "operation_get", "operation_delete"]);
    guest.remove().await;
}

/// Progress of something that takes long enough to have some.
#[tokio::test]
async fn progress_is_told() {
    let live = live!("server.rs::progress_is_told");
    let name = live.name("progress");
    let new = NewInstance::from_image(&name, "busybox").device("eth0", [("type", "none")]);
    let operation = live.client.instances().create(new).await.unwrap();
    let seen: Vec<_> = operation.progress().collect().await;
    let last = seen.last().unwrap().as_ref().unwrap();
    assert_eq!(last.fraction, Some(1.0), "{seen:?}");
    operation.wait().await.unwrap();
    live.client
        .instances()
        .delete(&name)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
}

#[tokio::test]
async fn warnings_are_acknowledged_and_deleted() {
    let live = live!("server.rs::warnings_are_acknowledged_and_deleted");
    let warnings = live.client.warnings();
    // The server's own way of making one for a test; it is there on the unix socket only.
    let message = live.name("warning");
    let body =
        json!({"location": "", "entity_type_code": -1, "entity_id": -1, "project": "default",
        "type_code": 0, "message": message})
        .to_string();
    incus_try(&[
        "query",
        "-X",
        "POST",
        "-d",
        &body,
        "/internal/debug/warnings",
    ])
    .await
    .unwrap();
    let listed = warnings.list().await.unwrap();
    let mine = listed
        .iter()
        .find(|w| w.last_message == message)
        .expect("the warning");
    let path = format!("/1.0/warnings/{}", mine.uuid);
    assert_eq!(query(&path).await["last_message"], message);
    warnings
        .patch(
            &mine.uuid,
            boxrig_incus::Merge::new().set("status", "acknowledged"),
            None,
        )
        .await
        .unwrap();
    assert_eq!(query(&path).await["status"], "acknowledged");
    warnings
        .replace(&mine.uuid, model(json!({"status": "new"})), None)
        .await
        .unwrap();
    assert_eq!(query(&path).await["status"], "new");
    warnings.delete(&mine.uuid).await.unwrap();
    assert!(gone(&path).await);
    live.confirmed(&[
        "warnings_get",
        "warning_get",
        "warning_patch",
        "warning_put",
        "warning_delete",
    ]);
}

/// Raw requests: the way out.
#[tokio::test]
async fn anything_else_goes_raw() {
    let live = live!("server.rs::anything_else_goes_raw");
    use boxrig_wire::RawRequest;
    let get = |path: &str| RawRequest::new(http::Method::GET, path);
    let reply = live.client.raw(get("/1.0/profiles/default")).await.unwrap();
    let body: Value = serde_json::from_slice(reply.body()).unwrap();
    assert_eq!(body["metadata"]["name"], "default");
    let e: Error = live
        .client
        .raw(get("/1.0/profiles/none"))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    let reply = live.client.raw_stream(get("/2.0")).await.unwrap();
    assert_eq!(reply.status(), 404);
}
