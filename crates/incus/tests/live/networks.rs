//! Networks, access control lists, forwards, zones; profiles, projects and other plain collections by the same cycle.

use boxrig_incus::{Collection, Create, Delete, Listed, Merge, Patch, Read, Rename, Replace};
use std::time::Duration;

use boxrig_wire::Kind;
use serde_json::{Value, json};

use super::support::{Live, PROJECTS, gone, live, model, query};

/// Made, read, patched, updated, replaced, deleted, each seen by the official client. `ids` are those of post, list, get, patch,
/// put and delete.
pub(crate) async fn cycle<K>(
    live: &Live,
    things: Collection<'_, K>,
    path: &str,
    (name, new): (&str, Value),
    ids: [&str; 6],
) where
    K: Listed + Read + Create + Replace + Patch + Delete,
{
    let one = format!("{path}/{name}");
    things.create(model(new.clone())).await.unwrap();
    let seen = query(&one).await;
    for (key, value) in new["config"].as_object().into_iter().flatten() {
        assert_eq!(&seen["config"][key], value, "{one}: {key}");
    }
    let twice = things.create(model(new)).await.unwrap_err();
    assert_eq!(twice.kind(), Kind::Conflict, "{one}: {twice}");
    assert!(
        things.names().await.unwrap().iter().any(|n| n == name),
        "{one}"
    );
    let listed = things.list().await.unwrap();
    let listed = listed.iter().any(|item| {
        let item = serde_json::to_value(item).unwrap();
        ["name", "listen_address"]
            .iter()
            .any(|key| item[key] == name)
    });
    assert!(listed, "{one} is listed");
    // The configuration goes along: 6.0 servers die on an access control list's PATCH without it.
    let patch = Merge::new()
        .set("description", "patched")
        .set("config", json!({"user.p": "1"}));
    things.patch(name, patch, None).await.unwrap();
    let seen = query(&one).await;
    assert_eq!(seen["description"], "patched", "{one}");
    // The whole again, as it is, but for one word; with the version that was read.
    let read = things.read(name).await.unwrap();
    let mut put = seen.clone();
    put["description"] = "replaced".into();
    put["config"]["user.z"] = "1".into();
    let put = put.as_object_mut().unwrap();
    put.retain(|key, _| {
        matches!(
            key.as_str(),
            "config" | "description" | "devices" | "ports" | "entries" | "ingress" | "egress"
        )
    });
    let put = Value::Object(put.clone());
    things
        .replace(name, model(put.clone()), read.etag.as_deref())
        .await
        .unwrap();
    assert_eq!(query(&one).await["description"], "replaced", "{one}");
    // Servers of the 6.0 line look at the version everywhere but here.
    if !matches!(ids[4], "network_forward_put" | "network_zone_record_put") {
        let stale = things
            .replace(name, model(put), read.etag.as_deref())
            .await
            .unwrap_err();
        assert_eq!(stale.kind(), Kind::Precondition, "{one}: {stale}");
    }
    // An update that changes nothing loses nothing.
    let before = query(&one).await;
    things.update(name, |_| {}).await.unwrap();
    assert_eq!(query(&one).await, before, "{one}");
    steady(async || things.delete(name).await).await;
    assert!(gone(&one).await, "{one}");
    assert_eq!(
        things.get(name).await.err().unwrap().kind(),
        Kind::NotFound,
        "{one}"
    );
    live.confirmed(&ids);
}

/// Renamed there and back.
pub(crate) async fn rename<K>(things: &Collection<'_, K>, path: &str, (name, new): (&str, &str))
where
    K: Rename,
{
    steady(async || things.rename(name, new).await).await;
    assert!(gone(&format!("{path}/{name}")).await);
    assert_eq!(query(&format!("{path}/{new}")).await["name"], new);
    steady(async || things.rename(new, name).await).await;
}

/// Asked again when the daemon has met itself: one that stops a bridge looks at every interface of the machine, and fails when
/// another test's has just gone. Then its DHCP server may still hold the address.
async fn steady<T: std::fmt::Debug>(call: impl AsyncFn() -> boxrig_wire::Result<T>) -> T {
    const MET: [&str; 2] = [
        "bridge children interfaces",
        "dnsmasq: failed to create listening socket",
    ];
    let mut tries = 0;
    loop {
        match call().await {
            Err(e) if tries < 20 && MET.iter().any(|m| format!("{e:?}").contains(m)) => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            done => return done.unwrap(),
        }
    }
}

#[tokio::test]
async fn bridges() {
    let live = live!("networks.rs::bridges");
    let net = std::process::id() % 200 + 20;
    // Names of interfaces are short.
    let name = format!("clb{}", std::process::id() % 100_000);
    let config = json!({"ipv4.address": format!("10.231.{net}.1/24"), "ipv4.nat": "false", "ipv6.address": "none"});
    let new = json!({"name": name, "type": "bridge", "config": config});
    let ids = [
        "networks_post",
        "networks_get",
        "network_get",
        "network_patch",
        "network_put",
        "network_delete",
    ];
    cycle(
        &live,
        live.client.networks(),
        "/1.0/networks",
        (&name, new.clone()),
        ids,
    )
    .await;

    live.client.networks().create(model(new)).await.unwrap();
    let networks = live.client.networks();
    let state = networks.state(&name).await.unwrap();
    let seen = query(&format!("/1.0/networks/{name}/state")).await;
    assert_eq!(
        (seen["hwaddr"].as_str(), seen["state"].as_str()),
        (Some(&*state.hwaddr), Some(&*state.state))
    );
    let leases = networks.leases(&name).await.unwrap();
    let seen = query(&format!("/1.0/networks/{name}/leases")).await;
    assert_eq!(seen.as_array().map_or(0, Vec::len), leases.len());
    let allocations = live.client.server().network_allocations().await.unwrap();
    assert!(
        allocations
            .iter()
            .any(|a| a.addresses.starts_with(&format!("10.231.{net}.1"))),
        "{allocations:?}"
    );

    let forwards = live.client.network_forwards(&name);
    let forward = json!({"listen_address": "192.0.2.77", "config": {"user.a": "1"},
        "ports": [{"protocol": "tcp", "listen_port": "80", "target_address": format!("10.231.{net}.9"), "target_port": "8080"}]});
    let ids = [
        "network_forwards_post",
        "network_forwards_get",
        "network_forward_get",
        "network_forward_patch",
        "network_forward_put",
        "network_forward_delete",
    ];
    let path = format!("/1.0/networks/{name}/forwards");
    cycle(&live, forwards, &path, ("192.0.2.77", forward), ids).await;

    let renamed = format!("{name}r");
    rename(&networks, "/1.0/networks", (&name, &renamed)).await;
    steady(async || networks.delete(&name).await).await;
    live.confirmed(&[
        "networks_state_get",
        "networks_leases_get",
        "network_post",
        "network_allocations_get",
    ]);
}

#[tokio::test]
async fn access_control_lists() {
    let live = live!("networks.rs::access_control_lists");
    let _guard = PROJECTS.write().await;
    let name = live.name("acl");
    let new = json!({"name": name, "config": {"user.a": "1"},
        "ingress": [{"action": "allow", "protocol": "tcp", "destination_port": "22", "state": "enabled"}]});
    let ids = [
        "network_acls_post",
        "network_acls_get",
        "network_acl_get",
        "network_acl_patch",
        "network_acl_put",
        "network_acl_delete",
    ];
    cycle(
        &live,
        live.client.network_acls(),
        "/1.0/network-acls",
        (&name, new.clone()),
        ids,
    )
    .await;
    let acls = live.client.network_acls();
    acls.create(model(new)).await.unwrap();
    rename(&acls, "/1.0/network-acls", (&name, &live.name("acl2"))).await;
    acls.delete(&name).await.unwrap();
    live.confirmed(&["network_acl_post"]);
}

#[tokio::test]
async fn zones_and_records() {
    let live = live!("networks.rs::zones_and_records");
    let zone = format!("{}.example.net", live.name("zone"));
    let new = json!({"name": zone, "config": {"user.a": "1"}});
    let ids = [
        "network_zones_post",
        "network_zones_get",
        "network_zone_get",
        "network_zone_patch",
        "network_zone_put",
        "network_zone_delete",
    ];
    cycle(
        &live,
        live.client.network_zones(),
        "/1.0/network-zones",
        (&zone, new.clone()),
        ids,
    )
    .await;
    live.client
        .network_zones()
        .create(model(new))
        .await
        .unwrap();
    let record = json!({"name": "www", "config": {"user.a": "1"}, "entries": [{"type": "A", "value": "192.0.2.1", "ttl": 60}]});
    let ids = [
        "network_zone_records_post",
        "network_zone_records_get",
        "network_zone_record_get",
        "network_zone_record_patch",
        "network_zone_record_put",
        "network_zone_record_delete",
    ];
    let path = format!("/1.0/network-zones/{zone}/records");
    cycle(
        &live,
        live.client.network_zone_records(&zone),
        &path,
        ("www", record),
        ids,
    )
    .await;
    live.client.network_zones().delete(&zone).await.unwrap();
}

#[tokio::test]
async fn profiles() {
    let live = live!("networks.rs::profiles");
    let name = live.name("profile");
    let new = json!({"name": name, "config": {"user.a": "1"}, "devices": {"x": {"type": "none"}}});
    let ids = [
        "profiles_post",
        "profiles_get",
        "profile_get",
        "profile_patch",
        "profile_put",
        "profile_delete",
    ];
    cycle(
        &live,
        live.client.profiles(),
        "/1.0/profiles",
        (&name, new.clone()),
        ids,
    )
    .await;
    let profiles = live.client.profiles();
    profiles.create(model(new)).await.unwrap();
    rename(&profiles, "/1.0/profiles", (&name, &live.name("profile2"))).await;
    profiles.delete(&name).await.unwrap();
    let e = profiles.delete("default").await.unwrap_err();
    assert_eq!(e.kind(), Kind::Denied, "{e}");
    live.confirmed(&["profile_post"]);
}

#[tokio::test]
async fn projects() {
    let live = live!("networks.rs::projects");
    let _guard = PROJECTS.read().await;
    let name = live.name("project");
    let new = json!({"name": name, "config": {"user.a": "1", "features.images": "true", "features.profiles": "true"}});
    let ids = [
        "projects_post",
        "projects_get",
        "project_get",
        "project_patch",
        "project_put",
        "project_delete",
    ];
    cycle(
        &live,
        live.client.projects(),
        "/1.0/projects",
        (&name, new.clone()),
        ids,
    )
    .await;
    let projects = live.client.projects();
    projects.create(model(new)).await.unwrap();
    rename(&projects, "/1.0/projects", (&name, &live.name("project2"))).await;
    let state = projects.state(&name).await.unwrap();
    assert_eq!(
        serde_json::to_value(&state).unwrap()["resources"],
        query(&format!("/1.0/projects/{name}/state")).await["resources"]
    );
    let access = projects.access(&name).await.unwrap();
    assert_eq!(
        serde_json::to_value(&access).unwrap(),
        query(&format!("/1.0/projects/{name}/access")).await
    );
    // With what is in it; never where the daemon would empty the profile that instances elsewhere use.
    let shared = live.name("shared");
    let new = json!({"name": shared, "config": {"features.images": "false", "features.profiles": "false"}});
    projects.create(model(new)).await.unwrap();
    let before = query("/1.0/profiles/default").await["devices"].clone();
    let refused = projects.delete_with_contents(&shared).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict, "{refused}");
    assert_eq!(query("/1.0/profiles/default").await["devices"], before);
    projects.delete(&shared).await.unwrap();
    live.client
        .project(&name)
        .profiles()
        .patch("default", Merge::new().set("description", "x"), None)
        .await
        .unwrap();
    projects.delete_with_contents(&name).await.unwrap();
    assert!(gone(&format!("/1.0/projects/{name}")).await);
    live.confirmed(&["project_post", "project_state_get", "project_access"]);
}
