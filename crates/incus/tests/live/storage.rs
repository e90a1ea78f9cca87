//! Pools, volumes, their snapshots and backups.

use boxrig_incus::Merge;
use boxrig_wire::{Kind, WireBody};
use serde_json::json;

use super::networks::{cycle, rename};
use super::support::{gone, live, model, query};

#[tokio::test]
async fn pools() {
    let live = live!("storage.rs::pools");
    let name = live.name("pool");
    let new = json!({"name": name, "driver": "dir", "config": {"user.a": "1"}});
    let ids = [
        "storage_pools_post",
        "storage_pools_get",
        "storage_pool_get",
        "storage_pool_patch",
        "storage_pool_put",
        "storage_pools_delete",
    ];
    cycle(
        &live,
        live.client.storage_pools(),
        "/1.0/storage-pools",
        (&name, new),
        ids,
    )
    .await;
    let pools = live.client.storage_pools();
    let resources = pools.resources("default").await.unwrap();
    let seen = query("/1.0/storage-pools/default/resources").await;
    assert_eq!(seen["space"]["total"].as_u64(), Some(resources.space.total));
    live.confirmed(&["storage_pool_resources"]);
}

#[tokio::test]
async fn volumes() {
    let live = live!("storage.rs::volumes");
    let name = live.name("vol");
    let path = "/1.0/storage-pools/default/volumes/custom";
    let volumes = live.client.volumes("default", "custom");
    let new = json!({"name": name, "config": {"user.a": "1"}, "content_type": "filesystem"});
    let ids = [
        "storage_pool_volumes_type_post",
        "storage_pool_volumes_type_get",
        "storage_pool_volume_type_get",
        "storage_pool_volume_type_patch",
        "storage_pool_volume_type_put",
        "storage_pool_volume_type_delete",
    ];
    cycle(&live, volumes.clone(), path, (&name, new), ids).await;

    let all = live.client.all_volumes("default");
    all.create(model(json!({"name": name, "type": "custom", "config": {}})))
        .await
        .unwrap();
    assert!(all.list().await.unwrap().iter().any(|v| v.name == name));
    assert_eq!(query(&format!("{path}/{name}")).await["name"], name);
    rename(&volumes, path, (&name, &live.name("vol2"))).await;
    let state = volumes.state(&name).await;
    if let Ok(state) = state {
        let seen = query(&format!("{path}/{name}/state")).await;
        // Where the driver knows nothing the server says null.
        let used = seen["usage"]["used"].as_u64().unwrap_or(0);
        assert_eq!(state.usage.used, used);
        live.confirmed(&["storage_pool_volume_type_state_get"]);
    }

    let snapshots = live.client.volume_snapshots("default", "custom", &name);
    let spath = format!("{path}/{name}/snapshots");
    snapshots
        .create(model(json!({"name": "s1"})))
        .await
        .unwrap();
    assert_eq!(snapshots.names().await.unwrap(), ["s1"]);
    assert_eq!(snapshots.list().await.unwrap().len(), 1);
    assert_eq!(
        query(&format!("{spath}/s1")).await["name"]
            .as_str()
            .map(|n| n.ends_with("s1")),
        Some(true)
    );
    snapshots
        .patch("s1", Merge::new().set("description", "patched"), None)
        .await
        .unwrap();
    assert_eq!(
        query(&format!("{spath}/s1")).await["description"],
        "patched"
    );
    snapshots
        .replace("s1", model(json!({"description": "put"})), None)
        .await
        .unwrap();
    assert_eq!(query(&format!("{spath}/s1")).await["description"], "put");
    snapshots.rename("s1", "s2").await.unwrap();
    assert!(gone(&format!("{spath}/s1")).await && snapshots.get("s2").await.is_ok());
    volumes.restore(&name, "s2").await.unwrap();
    snapshots.delete("s2").await.unwrap();
    assert!(gone(&format!("{spath}/s2")).await);

    let backups = live.client.volume_backups("default", "custom", &name);
    let bpath = format!("{path}/{name}/backups");
    backups
        .create(model(
            json!({"name": "b1", "compression_algorithm": "gzip"}),
        ))
        .await
        .unwrap();
    assert_eq!(backups.names().await.unwrap(), ["b1"]);
    assert_eq!(backups.list().await.unwrap().len(), 1);
    backups.rename("b1", "b2").await.unwrap();
    assert!(gone(&format!("{bpath}/b1")).await && backups.get("b2").await.is_ok());
    let content = backups
        .export("b2")
        .await
        .unwrap()
        .body
        .collect(1 << 30)
        .await
        .unwrap();
    assert_eq!(content[..2], [0x1f, 0x8b]);
    backups.delete("b2").await.unwrap();
    assert!(gone(&format!("{bpath}/b2")).await);
    let back = live.name("volback");
    volumes
        .import(&back, WireBody::full(content), false)
        .await
        .unwrap();
    assert_eq!(query(&format!("{path}/{back}")).await["name"], back);

    // An ISO is stored as it is.
    let iso = live.name("iso");
    volumes
        .import(&iso, WireBody::full(vec![1u8; 64 * 1024]), true)
        .await
        .unwrap();
    assert_eq!(query(&format!("{path}/{iso}")).await["content_type"], "iso");

    // To another pool.
    let pool = live.name("pool");
    live.client
        .storage_pools()
        .create(model(json!({"name": pool, "driver": "dir"})))
        .await
        .unwrap();
    volumes.move_to(&back, &pool, "moved").await.unwrap();
    assert_eq!(
        query(&format!("/1.0/storage-pools/{pool}/volumes/custom/moved")).await["name"],
        "moved"
    );
    live.client
        .volumes(&pool, "custom")
        .delete("moved")
        .await
        .unwrap();
    live.client.storage_pools().delete(&pool).await.unwrap();
    for name in [&name, &iso] {
        volumes.delete(name).await.unwrap();
    }
    live.confirmed(&[
        "storage_pool_volumes_post",
        "storage_pool_volumes_get",
        "storage_pool_volume_type_post",
        "storage_pool_volumes_type_snapshots_post",
        "storage_pool_volumes_type_snapshots_get",
        "storage_pool_volumes_type_snapshot_get",
        "storage_pool_volumes_type_snapshot_patch",
        "storage_pool_volumes_type_snapshot_put",
        "storage_pool_volumes_type_snapshot_post",
        "storage_pool_volumes_type_snapshot_delete",
        "storage_pool_volumes_type_backups_post",
        "storage_pool_volumes_type_backups_get",
        "storage_pool_volumes_type_backup_get",
        "storage_pool_volumes_type_backup_post",
        "storage_pool_volumes_type_backup_delete",
        "storage_pool_volumes_type_backup_export_get",
    ]);
}

/// What a 6.0 server lacks is refused before it is sent, by the extension's name.
#[tokio::test]
async fn what_the_server_lacks_is_not_sent() {
    let live = live!("storage.rs::what_the_server_lacks_is_not_sent");
    let volumes = live.client.volumes("default", "custom");
    if live
        .client
        .has_extension("storage_volumes_rebuild")
        .await
        .unwrap()
    {
        return; // a newer server
    }
    let e = volumes.rebuild("none").await.unwrap_err();
    assert_eq!(e.kind(), Kind::Unsupported);
    assert!(e.to_string().contains("storage_volumes_rebuild"), "{e}");
    assert!(e.status().is_none(), "nothing was sent");
    // A member that the server would drop without a word.
    let post = model(json!({"format": "split", "source": {"type": "instance", "name": "x"}}));
    let e = live.client.images().make(post).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Unsupported);
    assert!(
        e.to_string().contains("`format`") && e.to_string().contains("instance_publish_split"),
        "{e}"
    );
}
