//! A cluster of one, on a daemon of its own.

use boxrig_incus::Merge;
use boxrig_wire::Kind;
use serde_json::json;

use super::support::{Daemon, live, model};

#[tokio::test]
async fn a_cluster_of_one() {
    let live = live!("rest.rs::a_cluster_of_one");
    let Some(daemon) = Daemon::start(&live).await else {
        return;
    };
    let client = daemon.client_of(&live);
    let cluster = client.cluster();
    assert!(!cluster.get().await.unwrap().metadata.enabled);
    client
        .server()
        .set([("core.https_address", &*daemon.https)])
        .await
        .unwrap();
    cluster
        .put(model(json!({"server_name": "one", "enabled": true})))
        .await
        .unwrap();
    assert_eq!(daemon.query("/1.0/cluster").await["enabled"], true);
    assert!(cluster.get().await.unwrap().metadata.enabled);
    assert_eq!(cluster.members().await.unwrap(), ["one"]);

    let members = client.cluster_members();
    assert_eq!(members.list().await.unwrap()[0].server_name, "one");
    assert_eq!(members.get("one").await.unwrap().status, "Online");
    members
        .patch(
            "one",
            Merge::new()
                .set("description", "patched")
                .set("roles", json!(["database-leader", "database"]))
                .set("groups", json!(["default"]))
                .set("failure_domain", "default"),
            None,
        )
        .await
        .unwrap();
    assert_eq!(
        daemon.query("/1.0/cluster/members/one").await["description"],
        "patched"
    );
    members
        .update("one", |m| m.description = "put".to_owned())
        .await
        .unwrap();
    assert_eq!(
        daemon.query("/1.0/cluster/members/one").await["description"],
        "put"
    );
    let state = members.state("one").await.unwrap();
    let seen = daemon.query("/1.0/cluster/members/one/state").await;
    assert_eq!(
        seen["sysinfo"]["total_ram"].as_u64(),
        Some(state.sysinfo.total_ram)
    );
    let invited = members.invite("two").await.unwrap();
    assert_eq!(
        daemon
            .query(&format!("/1.0/operations/{}", invited.id))
            .await["class"],
        "token"
    );
    client.operations().cancel(&invited.id).await.unwrap();

    let groups = client.cluster_groups();
    groups
        .create(model(
            json!({"name": "g", "description": "new", "members": ["one"]}),
        ))
        .await
        .unwrap();
    assert_eq!(
        daemon.query("/1.0/cluster/groups/g").await["description"],
        "new"
    );
    assert!(groups.list().await.unwrap().iter().any(|g| g.name == "g"));
    groups.get("g").await.unwrap();
    groups
        .patch(
            "g",
            Merge::new()
                .set("description", "patched")
                .set("members", json!(["one"])),
            None,
        )
        .await
        .unwrap();
    assert_eq!(
        daemon.query("/1.0/cluster/groups/g").await["description"],
        "patched"
    );
    groups
        .update("g", |g| {
            g.description = "put".to_owned();
            g.members.clear();
        })
        .await
        .unwrap();
    assert_eq!(
        daemon.query("/1.0/cluster/groups/g").await["description"],
        "put"
    );
    groups.rename("g", "h").await.unwrap();
    assert_eq!(daemon.query("/1.0/cluster/groups/h").await["name"], "h");
    groups.delete("h").await.unwrap();
    assert!(daemon.query("/1.0/cluster/groups/h").await.is_null());

    members.rename("one", "uno").await.unwrap();
    // The daemon answers for the new name once it has told itself.
    let begun = std::time::Instant::now();
    loop {
        let listed = daemon.query("/1.0/cluster/members").await;
        if listed.to_string().contains("/1.0/cluster/members/uno") {
            break;
        }
        assert!(begun.elapsed().as_secs() < 20, "{listed}");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    let e = members.delete("nobody").await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
    live.confirmed(&[
        "cluster_get",
        "cluster_put",
        "cluster_members_get",
        "cluster_member_get",
        "cluster_member_patch",
        "cluster_member_put",
        "cluster_member_post",
        "cluster_member_state_get",
        "cluster_members_post",
        "cluster_groups_get",
        "cluster_groups_post",
        "cluster_group_get",
        "cluster_group_patch",
        "cluster_group_put",
        "cluster_group_post",
        "cluster_group_delete",
    ]);
}
