//! What needs a daemon of its own: a cluster, logs that can be deleted.

use boxrig_incus::{Identity, Merge, NewInstance};
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

    // Emptied and filled again; nothing runs on it.
    let status = async || daemon.query("/1.0/cluster/members/one").await["status"].clone();
    members.change_state("one", "evacuate", "").await.unwrap();
    assert_eq!(status().await, "Evacuated");
    members.change_state("one", "restore", "").await.unwrap();
    assert_eq!(status().await, "Online");

    join_and_leave(&live, &daemon).await;

    // Another certificate, by which every member is known from then on.
    let folder = tempfile::tempdir().unwrap();
    Identity::load_or_make(folder.path(), "cluster").unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let (certificate, key) = (read("client.crt"), read("client.key"));
    let put = json!({"cluster_certificate": certificate, "cluster_certificate_key": key});
    cluster.replace_certificate(model(put)).await.unwrap();
    let seen = daemon.query("/1.0").await;
    let seen = seen["environment"]["certificate"].as_str().unwrap();
    assert_eq!(seen.trim(), certificate.trim());

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
        "cluster_member_state_post",
        "cluster_member_delete",
        "clustering_update_cert",
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

/// A second daemon joins by a token, and is removed.
async fn join_and_leave(live: &super::support::Live, first: &Daemon) {
    let second = Daemon::start(live).await.unwrap();
    second.listen().await;
    let client = first.client_of(live);
    let members = client.cluster_members();
    let invited = members.invite("two").await.unwrap();
    let certificate = client.info().await.unwrap().environment.certificate;
    let token = json!({
        "server_name": invited.metadata["serverName"], "fingerprint": invited.metadata["fingerprint"],
        "addresses": invited.metadata["addresses"], "secret": invited.metadata["secret"],
        "expires_at": invited.metadata["expiresAt"],
    });
    let token = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(token.to_string())
    };
    let put = json!({
        "server_name": "two", "enabled": true, "cluster_address": first.https,
        "cluster_certificate": certificate, "server_address": second.https, "cluster_token": token,
    });
    second
        .client_of(live)
        .cluster()
        .put(model(put))
        .await
        .unwrap();
    let listed = first.query("/1.0/cluster/members").await.to_string();
    assert!(listed.contains("/1.0/cluster/members/two"), "{listed}");
    assert_eq!(members.get("two").await.unwrap().server_name, "two");
    members.delete("two").await.unwrap();
    let listed = first.query("/1.0/cluster/members").await.to_string();
    assert!(!listed.contains("/1.0/cluster/members/two"), "{listed}");
}

/// Logs that may be deleted are left by migrations and snapshots that failed; one is put there by hand.
#[tokio::test]
async fn a_log_is_deleted() {
    let live = live!("rest.rs::a_log_is_deleted");
    let Some(daemon) = Daemon::start(&live).await else {
        return;
    };
    daemon.with_pool().await;
    let client = daemon.client_of(&live);
    let instances = client.instances();
    let source = model(json!({"type": "none"}));
    let made = instances
        .create(NewInstance::from_source("cl-log", source))
        .await;
    made.unwrap().wait().await.unwrap();
    let folder = daemon.folder().join("logs/cl-log");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("migration_dump.log"), "words").unwrap();
    let logs = "/1.0/instances/cl-log/logs";
    let there = async || {
        daemon
            .query(logs)
            .await
            .to_string()
            .contains("migration_dump.log")
    };
    assert!(there().await);
    instances
        .delete_log("cl-log", "migration_dump.log")
        .await
        .unwrap();
    assert!(!there().await);
    live.confirmed(&["instance_log_delete"]);
}
