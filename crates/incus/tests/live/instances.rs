//! Instances: made, changed, run, renamed, copied, kept, deleted.

use boxrig_incus::models::InstanceSource;
use boxrig_incus::{Action, Change, CopyMode, InstanceCopy, Merge, NewInstance, StatusCode};
use boxrig_wire::Kind;
use serde_json::json;

use super::support::{PROJECTS, gone, incus, live, model, query};

#[tokio::test]
async fn made_listed_changed_deleted() {
    let live = live!("instances.rs::made_listed_changed_deleted");
    let instances = live.client.instances();
    let name = live.name("life");
    let new = NewInstance::from_image(&name, "busybox")
        .device("eth0", [("type", "none")])
        .config("user.a", "1")
        .config("limits.memory", "64MiB")
        .description("first")
        .profiles(["default"]);
    let made = instances.create(new).await.unwrap().wait().await.unwrap();
    assert_eq!(
        (&*made.name, made.status_code),
        (&*name, StatusCode::STOPPED)
    );
    let path = format!("/1.0/instances/{name}");
    let seen = query(&path).await;
    assert_eq!(seen["config"]["user.a"], "1");
    assert_eq!(
        (&seen["description"], &seen["type"]),
        (&json!("first"), &json!("container"))
    );

    // Three depths of a list, and the server's filter.
    assert!(instances.names().await.unwrap().contains(&name));
    let listed = instances.list().await.unwrap();
    assert!(
        listed
            .iter()
            .any(|i| i.name == name && i.config["user.a"] == "1")
    );
    let filtered = instances
        .clone()
        .filter(format!("name eq {name}"))
        .list_full()
        .await
        .unwrap();
    assert_eq!(filtered.len(), 1);
    assert_eq!(filtered[0].state.status_code, StatusCode::STOPPED);

    // PATCH merges, an empty value unsets, and what was not named stays.
    instances
        .set_config(&name, [("user.b", "2"), ("user.a", "")])
        .await
        .unwrap();
    let seen = query(&path).await;
    assert_eq!(seen["config"]["user.b"], "2");
    assert!(seen["config"].get("user.a").is_none());
    assert!(seen["config"].get("volatile.uuid").is_some());

    // Read, changed, written: nothing else is lost.
    instances
        .update(&name, |put| {
            put.description = "second".to_owned();
            put.config.insert("user.c".to_owned(), "3".to_owned());
        })
        .await
        .unwrap();
    let seen = query(&path).await;
    assert_eq!(seen["description"], "second");
    assert_eq!(
        (&seen["config"]["user.b"], &seen["config"]["user.c"]),
        (&json!("2"), &json!("3"))
    );
    assert_eq!(seen["devices"]["eth0"]["type"], "none");

    // A whole replacement keeps the server's own keys, which it refuses to lose.
    let put = model(
        json!({"config": {"user.d": "4"}, "profiles": ["default"], "devices": {"eth0": {"type": "none"}}}),
    );
    instances.replace(&name, put, None).await.unwrap();
    let seen = query(&path).await;
    assert_eq!(seen["config"]["user.d"], "4");
    assert!(
        seen["config"].get("user.b").is_none() && seen["config"].get("volatile.uuid").is_some()
    );

    let access = instances.access(&name).await.unwrap();
    assert_eq!(
        serde_json::to_value(&access).unwrap(),
        query(&format!("{path}/access")).await
    );
    instances.delete(&name).await.unwrap().wait().await.unwrap();
    assert!(gone(&path).await);
    assert_eq!(
        instances.get(&name).await.unwrap_err().kind(),
        Kind::NotFound
    );
    live.confirmed(&[
        "instances_post",
        "instances_get",
        "instance_get",
        "instance_patch",
        "instance_put",
        "instance_delete",
        "instance_access",
    ]);
}

#[tokio::test]
async fn every_change_of_state() {
    let live = live!("instances.rs::every_change_of_state");
    let guest = live.stopped("power").await;
    let instances = live.client.instances();
    let path = format!("/1.0/instances/{}", guest.name);
    let name = &*guest.name;
    let status = || async {
        query(&path).await["status"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    instances
        .start(name, Change::new())
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(status().await, "Running");
    let state = instances.state(name).await.unwrap();
    assert!(state.pid > 0 && state.processes > 0 && state.status_code == StatusCode::RUNNING);
    assert_eq!(query(&format!("{path}/state")).await["pid"], state.pid);
    instances.freeze(name).await.unwrap().wait().await.unwrap();
    assert_eq!(status().await, "Frozen");
    instances
        .unfreeze(name)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(status().await, "Running");
    instances
        .restart(name, Change::new().force())
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(status().await, "Running");
    let again = instances.start(name, Change::new()).await;
    let e = match again {
        Ok(operation) => operation.wait().await.unwrap_err(),
        Err(e) => e,
    };
    assert_eq!(e.kind(), Kind::Conflict, "{e}");
    instances
        .stop(name, Change::new().force())
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(status().await, "Stopped");
    live.confirmed(&["instance_state_get", "instance_state_put"]);
    guest.remove().await;
}

/// In a project of its own, so that only its instances are changed.
#[tokio::test]
async fn all_instances_of_a_project_at_once() {
    let live = live!("instances.rs::all_instances_of_a_project_at_once");
    let project = live.name("bulk");
    let config = json!({"name": project, "config": {"features.images": "false", "features.profiles": "false"}});
    live.client.projects().create(model(config)).await.unwrap();
    let client = live.client.project(&project);
    for name in ["a", "b"] {
        let new = NewInstance::from_image(name, "busybox").device("eth0", [("type", "none")]);
        client
            .instances()
            .create(new)
            .await
            .unwrap()
            .wait()
            .await
            .unwrap();
    }
    let all = client
        .instances()
        .change_all(Action::Start, Change::new())
        .await
        .unwrap();
    all.wait().await.unwrap();
    let seen = query(&format!("/1.0/instances?recursion=1&project={project}")).await;
    let seen = seen.as_array().unwrap();
    assert!(
        seen.len() == 2 && seen.iter().all(|i| i["status"] == "Running"),
        "{seen:?}"
    );
    let everywhere = live.client.all_projects().instances().list().await.unwrap();
    assert_eq!(
        everywhere.iter().filter(|i| i.project == project).count(),
        2
    );
    for name in ["a", "b"] {
        client
            .instances()
            .delete_running(name)
            .await
            .unwrap()
            .wait()
            .await
            .unwrap();
    }
    let guard = PROJECTS.read().await;
    live.client.projects().delete(&project).await.unwrap();
    drop(guard);
    live.confirmed(&["instances_put"]);
}

#[tokio::test]
async fn renamed_rebuilt_and_copied() {
    let live = live!("instances.rs::renamed_rebuilt_and_copied");
    let guest = live.stopped("ren").await;
    let instances = live.client.instances();
    let renamed = live.name("renamed");
    instances
        .rename(&guest.name, &renamed)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert!(gone(&format!("/1.0/instances/{}", guest.name)).await);
    incus(&["file", "create", &format!("{renamed}/root/kept")]).await;
    let copy = live.name("copy");
    let new = NewInstance::copy_of(&copy, &renamed);
    let made = instances.create(new).await.unwrap().wait().await.unwrap();
    assert_eq!(made.name, copy);
    incus(&["file", "pull", &format!("{copy}/root/kept"), "-"]).await;
    // Made anew from its image: what was in it is gone.
    let source = model::<InstanceSource>(json!({"type": "image", "alias": "busybox"}));
    instances
        .rebuild(&copy, source)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    let files = live.client.instances().files(&copy);
    assert_eq!(
        files.info("/root/kept").await.unwrap_err().kind(),
        Kind::NotFound
    );
    instances.delete(&copy).await.unwrap().wait().await.unwrap();
    instances
        .rename(&renamed, &guest.name)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    live.confirmed(&["instance_post", "instance_rebuild_post"]);
    guest.remove().await;
}

/// From this server to itself, under another name: pulled, pushed, and through us.
#[tokio::test]
async fn copies_between_servers() {
    let live = live!("instances.rs::copies_between_servers");
    let guest = live.stopped("mig").await;
    let instances = live.client.instances();
    live.client
        .instances()
        .files(&guest.name)
        .write("/root/here", "there", Default::default())
        .await
        .unwrap();
    instances
        .snapshot(&guest.name, "s1", false)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    for mode in [CopyMode::Relay, CopyMode::Push, CopyMode::Pull] {
        let name = live.name("migrated");
        let copy = InstanceCopy::new(&name).mode(mode);
        let operation = instances
            .copy_to(&guest.name, &live.client, copy)
            .await
            .unwrap();
        let made = operation
            .wait()
            .await
            .unwrap_or_else(|e| panic!("{mode:?}: {e}"));
        assert_eq!(made.name, name);
        let seen = incus(&["file", "pull", &format!("{name}/root/here"), "-"]).await;
        assert_eq!(seen, "there", "{mode:?}");
        let snapshots = query(&format!("/1.0/instances/{name}/snapshots")).await;
        assert_eq!(snapshots.as_array().map_or(0, Vec::len), 1, "{mode:?}");
        instances.delete(&name).await.unwrap().wait().await.unwrap();
    }
    guest.remove().await;
}

#[tokio::test]
async fn snapshots_are_kept_renamed_and_gone_back_to() {
    let live = live!("instances.rs::snapshots_are_kept_renamed_and_gone_back_to");
    let guest = live.stopped("snap").await;
    let instances = live.client.instances();
    let name = &*guest.name;
    let path = format!("/1.0/instances/{name}/snapshots");
    incus(&["file", "create", &format!("{name}/root/old")]).await;
    instances
        .snapshot(name, "s 1", false)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap_err();
    instances
        .snapshot(name, "s1", false)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    assert_eq!(query(&format!("{path}/s1")).await["name"], "s1");
    let twice = match instances.snapshot(name, "s1", false).await {
        Ok(operation) => operation.wait().await.unwrap_err(),
        Err(e) => e,
    };
    assert_eq!(twice.kind(), Kind::Conflict, "{twice}");
    let snapshots = live.client.instance_snapshots(name);
    assert_eq!(snapshots.names().await.unwrap(), ["s1"]);
    assert_eq!(snapshots.list().await.unwrap()[0].name, "s1");
    let at = boxrig_incus::Timestamp("2099-01-02T03:04:05Z".to_owned());
    snapshots.expire("s1", at).await.unwrap();
    assert_eq!(
        query(&format!("{path}/s1")).await["expires_at"],
        "2099-01-02T03:04:05Z"
    );
    let patch = Merge::new().set("expires_at", "2098-01-02T03:04:05Z");
    snapshots.patch("s1", patch, None).await.unwrap();
    assert_eq!(
        query(&format!("{path}/s1")).await["expires_at"],
        "2098-01-02T03:04:05Z"
    );
    snapshots.rename("s1", "s2").await.unwrap();
    assert!(snapshots.get("s1").await.is_err() && snapshots.get("s2").await.is_ok());
    let files = live.client.instances().files(name);
    files.delete("/root/old").await.unwrap();
    instances
        .restore(name, "s2", false)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    incus(&["file", "pull", &format!("{name}/root/old"), "-"]).await;
    snapshots.delete("s2").await.unwrap();
    assert!(gone(&format!("{path}/s2")).await);
    live.confirmed(&[
        "instance_snapshots_post",
        "instance_snapshots_get",
        "instance_snapshot_get",
        "instance_snapshot_put",
        "instance_snapshot_patch",
        "instance_snapshot_post",
        "instance_snapshot_delete",
    ]);
    guest.remove().await;
}

#[tokio::test]
async fn backups_go_out_and_come_back() {
    let live = live!("instances.rs::backups_go_out_and_come_back");
    let guest = live.stopped("bak").await;
    let instances = live.client.instances();
    let name = &*guest.name;
    let path = format!("/1.0/instances/{name}/backups");
    incus(&["file", "create", &format!("{name}/root/saved")]).await;
    let backups = live.client.instance_backups(name);
    backups
        .create(model(
            json!({"name": "b1", "instance_only": true, "compression_algorithm": "gzip"}),
        ))
        .await
        .unwrap();
    assert_eq!(
        query(&format!("{path}/b1")).await["name"],
        format!("{name}/b1").as_str().rsplit('/').next().unwrap()
    );
    assert_eq!(backups.names().await.unwrap(), ["b1"]);
    assert_eq!(backups.list().await.unwrap().len(), 1);
    backups.get("b1").await.unwrap();
    backups.rename("b1", "b2").await.unwrap();
    assert!(gone(&format!("{path}/b1")).await);
    let exported = backups
        .export("b2")
        .await
        .unwrap()
        .body
        .collect(1 << 30)
        .await
        .unwrap();
    assert_eq!(exported[..2], [0x1f, 0x8b], "a gzip archive");
    backups.delete("b2").await.unwrap();
    assert!(gone(&format!("{path}/b2")).await);
    // In one go, to a file, nothing left on the server.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("b.tar");
    let written = instances
        .backup_to(name, model(json!({"instance_only": true})), &file)
        .await
        .unwrap();
    assert_eq!(written, std::fs::metadata(&file).unwrap().len());
    assert!(backups.names().await.unwrap().is_empty());
    // And back, under another name.
    let back = live.name("back");
    let body = boxrig_wire::WireBody::full(std::fs::read(&file).unwrap());
    let made = instances.import(body, Some(&back), None).await.unwrap();
    assert_eq!(made.wait().await.unwrap().name, back);
    incus(&["file", "pull", &format!("{back}/root/saved"), "-"]).await;
    instances.delete(&back).await.unwrap().wait().await.unwrap();
    live.confirmed(&[
        "instance_backups_post",
        "instance_backups_get",
        "instance_backup_get",
        "instance_backup_post",
        "instance_backup_delete",
        "instance_backup_export",
    ]);
    guest.remove().await;
}

#[tokio::test]
async fn logs_metadata_and_templates() {
    let live = live!("instances.rs::logs_metadata_and_templates");
    let guest = live.running("meta").await;
    let instances = live.client.instances();
    let name = &*guest.name;
    let path = format!("/1.0/instances/{name}");
    let logs = instances.logs(name).await.unwrap();
    assert!(logs.contains(&"lxc.log".to_owned()), "{logs:?}");
    let seen = query(&format!("{path}/logs")).await;
    assert_eq!(seen.as_array().unwrap().len(), logs.len());
    let log = instances.log(name, "lxc.log").await.unwrap();
    log.body.collect(1 << 20).await.unwrap();
    let e = instances.log(name, "../../etc/passwd").await.unwrap_err();
    assert!(matches!(e.kind(), Kind::Invalid | Kind::NotFound), "{e}");
    // The current log cannot be deleted.
    let e = instances.delete_log(name, "lxc.log").await.unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid, "{e}");

    let read = instances.metadata(name).await.unwrap();
    let mut metadata = read.metadata.clone();
    metadata
        .properties
        .insert("cl".to_owned(), "put".to_owned());
    instances
        .replace_metadata(name, metadata, read.etag.as_deref())
        .await
        .unwrap();
    assert_eq!(
        query(&format!("{path}/metadata")).await["properties"]["cl"],
        "put"
    );
    instances
        .patch_metadata(name, Merge::new().set("properties", json!({"cl": "patch"})))
        .await
        .unwrap();
    assert_eq!(
        query(&format!("{path}/metadata")).await["properties"]["cl"],
        "patch"
    );

    instances
        .put_template(name, "cl.tpl", "{{ name }}\n")
        .await
        .unwrap();
    assert_eq!(
        query(&format!("{path}/metadata/templates")).await,
        json!(["cl.tpl"])
    );
    assert_eq!(instances.templates(name).await.unwrap(), ["cl.tpl"]);
    let text = instances
        .template(name, "cl.tpl")
        .await
        .unwrap()
        .body
        .collect(1 << 20)
        .await
        .unwrap();
    assert_eq!(text, "{{ name }}\n");
    instances.delete_template(name, "cl.tpl").await.unwrap();
    assert_eq!(
        query(&format!("{path}/metadata/templates")).await,
        json!([])
    );
    live.confirmed(&[
        "instance_logs_get",
        "instance_log_get",
        "instance_metadata_get",
        "instance_metadata_put",
        "instance_metadata_patch",
        "instance_metadata_templates_get",
        "instance_metadata_templates_post",
        "instance_metadata_templates_delete",
    ]);
    guest.remove().await;
}
