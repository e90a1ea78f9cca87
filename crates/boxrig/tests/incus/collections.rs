//! Collections of the daemon by native commands: each is made, listed, read, merged, replaced, renamed and removed, and
//! the official client is asked after every step.

use serde_json::{Value, json};

use super::lab::Lab;

/// A kind of thing and the operations on it, by id; an empty one is not there, or not to be tried here.
struct Kind<'a> {
    list: &'a str,
    post: &'a str,
    get: &'a str,
    patch: &'a str,
    put: &'a str,
    rename: &'a str,
    delete: &'a str,
    /// The collection.
    at: String,
    /// The arguments before the name.
    parents: Vec<&'a str>,
    name: String,
    new_name: String,
    new: Value,
    /// What changes are seen by: a member, and two values for it.
    member: &'a str,
    values: [&'a str; 2],
}

impl Kind<'_> {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.at)
    }

    fn args<'b>(&'b self, name: &'b str, more: &[&'b str]) -> Vec<&'b str> {
        let mut all = self.parents.clone();
        all.push(name);
        all.extend(more);
        all
    }

    /// Makes one and leaves it.
    fn make(&self, lab: &Lab) {
        let body = self.new.to_string();
        let mut args = self.parents.clone();
        args.extend(["-d", &body]);
        lab.later(&["query", "-X", "DELETE", &self.path(&self.name)]);
        lab.native(self.post, &args);
        let made = lab.see(&self.path(&self.name));
        assert!(made.is_some(), "{}: not made", self.post);
        lab.confirmed(self.post);
    }

    /// Reads it alone and in the list.
    fn read(&self, lab: &Lab) {
        let seen = lab.see(&self.path(&self.name)).unwrap();
        let got = lab.native(self.get, &self.args(&self.name, &[]));
        assert_eq!(stable(&got), stable(&seen), "{}", self.get);
        lab.confirmed(self.get);
        if self.list.is_empty() {
            return;
        }
        let mut args = self.parents.clone();
        args.extend(["--recursion", "1"]);
        let list = lab.native(self.list, &args);
        let key = ["name", "listen_address", "fingerprint"]
            .into_iter()
            .find(|k| seen.get(*k).is_some())
            .unwrap();
        let own = list
            .as_array()
            .unwrap()
            .iter()
            .find(|i| i[key] == seen[key]);
        let own = own.unwrap_or_else(|| panic!("{}: it is not in {list}", self.list));
        assert_eq!(own[self.member], seen[self.member], "{}", self.list);
        lab.confirmed(self.list);
    }

    fn change(&self, lab: &Lab) {
        let has = |value: &str| {
            let seen = lab.see(&self.path(&self.name)).unwrap();
            let text = seen[self.member].as_str().unwrap_or("").to_owned();
            assert!(text.starts_with(value), "{}: {text:?}", self.member);
        };
        if !self.patch.is_empty() {
            let body = json!({ self.member: self.values[0] }).to_string();
            lab.native(self.patch, &self.args(&self.name, &["-d", &body]));
            has(self.values[0]);
            lab.confirmed(self.patch);
        }
        if !self.put.is_empty() {
            let mut whole = lab.see(&self.path(&self.name)).unwrap();
            whole[self.member] = self.values[1].into();
            let body = whole.to_string();
            lab.native(self.put, &self.args(&self.name, &["-d", &body]));
            has(self.values[1]);
            lab.confirmed(self.put);
        }
    }

    fn rename(&self, lab: &Lab) -> String {
        if self.rename.is_empty() {
            return self.name.clone();
        }
        let body = json!({ "name": self.new_name }).to_string();
        lab.later(&["query", "-X", "DELETE", &self.path(&self.new_name)]);
        lab.native(self.rename, &self.args(&self.name, &["-d", &body]));
        assert!(lab.see(&self.path(&self.name)).is_none(), "{}", self.rename);
        assert!(
            lab.see(&self.path(&self.new_name)).is_some(),
            "{}",
            self.rename
        );
        lab.confirmed(self.rename);
        self.new_name.clone()
    }

    fn remove(&self, lab: &Lab, name: &str) {
        lab.native(self.delete, &self.args(name, &[]));
        assert!(
            lab.see(&self.path(name)).is_none(),
            "{}: still there",
            self.delete
        );
        lab.confirmed(self.delete);
    }

    /// A whole life.
    fn live(&self, lab: &Lab) {
        self.make(lab);
        self.read(lab);
        self.change(lab);
        let name = self.rename(lab);
        self.remove(lab, &name);
    }
}

/// Without what changes by itself.
fn stable(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(members) = value.as_object_mut() {
        for name in ["last_used_at", "state", "status", "status_code", "used_by"] {
            members.remove(name);
        }
        // What is not said and what is empty is the same thing.
        members.retain(|_, v| {
            !(v.is_null()
                || *v == json!("")
                || *v == json!([])
                || *v == json!({})
                || *v == json!(false))
        });
    }
    value
}

/// The usual kind: changes are seen by its description.
fn described<'a>(lab: &Lab, what: &str, ops: [&'a str; 7], at: &str, new: Value) -> Kind<'a> {
    let [list, post, get, patch, put, rename, delete] = ops;
    let mut new = new;
    let name = match new.get("name").and_then(Value::as_str) {
        Some(name) => name.to_owned(),
        None => lab.name(what),
    };
    new["name"] = name.clone().into();
    Kind {
        list,
        post,
        get,
        patch,
        put,
        rename,
        delete,
        at: at.to_owned(),
        parents: Vec::new(),
        new_name: format!("{name}b"),
        name,
        new,
        member: "description",
        values: ["merged", "replaced"],
    }
}

#[test]
fn profiles() {
    let Some(lab) = Lab::open("collections.rs::profiles") else {
        return;
    };
    let ops = [
        "profiles_get",
        "profiles_post",
        "profile_get",
        "profile_patch",
        "profile_put",
        "profile_post",
        "profile_delete",
    ];
    let new = json!({"description": "new", "config": {"user.a": "1"}, "devices": {}});
    described(&lab, "profile", ops, "/1.0/profiles", new).live(&lab);
}

#[test]
fn projects() {
    let Some(lab) = Lab::open("collections.rs::projects") else {
        return;
    };
    let ops = [
        "projects_get",
        "projects_post",
        "project_get",
        "project_patch",
        "project_put",
        "project_post",
        "project_delete",
    ];
    let new = json!({"description": "new", "config": {"features.images": "false"}});
    let kind = described(&lab, "project", ops, "/1.0/projects", new);
    kind.make(&lab);
    lab.later(&["project", "delete", &kind.name]);
    kind.read(&lab);
    let state = lab.native("project_state_get", &[&kind.name]);
    let seen = lab
        .see(&format!("/1.0/projects/{}/state", kind.name))
        .unwrap();
    assert_eq!(state["resources"], seen["resources"]);
    lab.confirmed("project_state_get");
    kind.change(&lab);
    let name = kind.rename(&lab);
    kind.remove(&lab, &name);
}

#[test]
fn networks_and_what_hangs_on_them() {
    let Some(lab) = Lab::open("collections.rs::networks_and_what_hangs_on_them") else {
        return;
    };
    let ops = [
        "networks_get",
        "networks_post",
        "network_get",
        "network_patch",
        "network_put",
        "network_post",
        "network_delete",
    ];
    // A bridge's name is an interface's: 15 bytes.
    let name = format!("opn{}", std::process::id());
    // A network that a killed run has left keeps its addresses.
    let net = format!(
        "10.{}.{}",
        213 + std::process::id() % 16,
        std::process::id() / 16 % 250
    );
    let new = json!({
        "name": name, "type": "bridge", "description": "new",
        "config": {"ipv4.address": format!("{net}.1/24"), "ipv4.nat": "false", "ipv6.address": "none"},
    });
    let kind = described(&lab, "", ops, "/1.0/networks", new);
    kind.make(&lab);
    kind.read(&lab);
    for (id, below) in [
        ("networks_state_get", "state"),
        ("networks_leases_get", "leases"),
    ] {
        let got = lab.native(id, &[&kind.name]);
        let seen = lab
            .see(&format!("/1.0/networks/{}/{below}", kind.name))
            .unwrap();
        assert_eq!(got["hwaddr"], seen["hwaddr"], "{id}");
        assert_eq!(got.as_array(), seen.as_array(), "{id}");
        lab.confirmed(id);
    }
    let allocations = lab.native("network_allocations_get", &[]);
    let seen = lab.see("/1.0/network-allocations").unwrap();
    let ours = |of: &Value| {
        let all = of.as_array().unwrap().iter();
        all.filter(|a| {
            a["addresses"]
                .as_str()
                .unwrap_or("")
                .starts_with(&format!("{net}."))
        })
        .cloned()
        .collect::<Vec<_>>()
    };
    assert!(!ours(&seen).is_empty() && ours(&allocations) == ours(&seen));
    lab.confirmed("network_allocations_get");
    forwards(&lab, &kind.name, &net);
    kind.change(&lab);
    let name = kind.rename(&lab);
    kind.remove(&lab, &name);
}

fn forwards(lab: &Lab, network: &str, net: &str) {
    let address = format!("10.229.{}", net.trim_start_matches("10."));
    let [list, post, get, patch, put, delete] = [
        "network_forwards_get",
        "network_forwards_post",
        "network_forward_get",
        "network_forward_patch",
        "network_forward_put",
        "network_forward_delete",
    ];
    let kind = Kind {
        list,
        post,
        get,
        patch,
        put,
        rename: "",
        delete,
        at: format!("/1.0/networks/{network}/forwards"),
        parents: vec![network],
        name: address.to_owned(),
        new_name: String::new(),
        new: json!({
            "listen_address": address, "description": "new",
            "config": {}, "ports": [{"protocol": "tcp", "listen_port": "80", "target_address": format!("{net}.9")}],
        }),
        member: "description",
        values: ["merged", "replaced"],
    };
    kind.live(lab);
}

#[test]
fn network_acls() {
    let Some(lab) = Lab::open("collections.rs::network_acls") else {
        return;
    };
    let ops = [
        "network_acls_get",
        "network_acls_post",
        "network_acl_get",
        "network_acl_patch",
        "network_acl_put",
        "network_acl_post",
        "network_acl_delete",
    ];
    let new = json!({"description": "new", "egress": [], "ingress": [{"action": "allow", "state": "enabled"}]});
    described(&lab, "acl", ops, "/1.0/network-acls", new).live(&lab);
}

#[test]
fn network_zones_and_records() {
    let Some(lab) = Lab::open("collections.rs::network_zones_and_records") else {
        return;
    };
    let ops = [
        "network_zones_get",
        "network_zones_post",
        "network_zone_get",
        "network_zone_patch",
        "network_zone_put",
        "",
        "network_zone_delete",
    ];
    let zone = format!("op{}.test", std::process::id());
    let new = json!({"name": zone, "description": "new", "config": {}});
    let zones = described(&lab, "", ops, "/1.0/network-zones", new);
    zones.make(&lab);
    lab.later(&["network", "zone", "delete", &zone]);
    zones.read(&lab);
    zones.change(&lab);
    let ops = [
        "network_zone_records_get",
        "network_zone_records_post",
        "network_zone_record_get",
        "network_zone_record_patch",
        "network_zone_record_put",
        "",
        "network_zone_record_delete",
    ];
    let at = format!("/1.0/network-zones/{zone}/records");
    let new = json!({
        "name": "www", "description": "new", "config": {},
        "entries": [{"type": "A", "ttl": 300, "value": "10.0.0.1"}],
    });
    let mut records = described(&lab, "", ops, &at, new);
    records.parents = vec![&zone];
    records.live(&lab);
    zones.remove(&lab, &zone);
}

#[test]
fn storage_pools() {
    let Some(lab) = Lab::open("collections.rs::storage_pools") else {
        return;
    };
    let ops = [
        "storage_pools_get",
        "storage_pools_post",
        "storage_pool_get",
        "storage_pool_patch",
        "storage_pool_put",
        "",
        "storage_pools_delete",
    ];
    let new = json!({"driver": "dir", "description": "new", "config": {}});
    let kind = described(&lab, "pool", ops, "/1.0/storage-pools", new);
    kind.make(&lab);
    lab.later(&["storage", "delete", &kind.name]);
    kind.read(&lab);
    let got = lab.native("storage_pool_resources", &[&kind.name]);
    let seen = lab
        .see(&format!("/1.0/storage-pools/{}/resources", kind.name))
        .unwrap();
    assert_eq!(got["space"]["total"], seen["space"]["total"]);
    lab.confirmed("storage_pool_resources");
    kind.change(&lab);
    kind.remove(&lab, &kind.name);
}

#[test]
fn storage_volumes() {
    let Some(lab) = Lab::open("collections.rs::storage_volumes") else {
        return;
    };
    let ops = [
        "storage_pool_volumes_type_get",
        "storage_pool_volumes_type_post",
        "storage_pool_volume_type_get",
        "storage_pool_volume_type_patch",
        "storage_pool_volume_type_put",
        "storage_pool_volume_type_post",
        "storage_pool_volume_type_delete",
    ];
    let at = "/1.0/storage-pools/default/volumes/custom";
    let new = json!({"description": "new", "content_type": "filesystem", "config": {}});
    let mut kind = described(&lab, "vol", ops, at, new);
    kind.parents = vec!["default", "custom"];
    kind.make(&lab);
    lab.later(&["storage", "volume", "delete", "default", &kind.name]);
    kind.read(&lab);
    let all = lab.native("storage_pool_volumes_get", &["default", "--recursion", "1"]);
    let there = |v: &Value| v["name"] == kind.name.as_str();
    assert!(all.as_array().unwrap().iter().any(there));
    lab.confirmed("storage_pool_volumes_get");
    let volume = kind.name.clone();
    volume_snapshots(&lab, &volume);
    volume_backups(&lab, &volume);
    kind.change(&lab);
    let name = kind.rename(&lab);
    kind.remove(&lab, &name);
    // The other way in: the type is in the body.
    let body = json!({"name": volume, "type": "custom", "config": {}}).to_string();
    lab.native("storage_pool_volumes_post", &["default", "-d", &body]);
    assert!(lab.see(&format!("{at}/{volume}")).is_some());
    lab.confirmed("storage_pool_volumes_post");
}

fn volume_snapshots(lab: &Lab, volume: &str) {
    let ops = [
        "storage_pool_volumes_type_snapshots_get",
        "storage_pool_volumes_type_snapshots_post",
        "storage_pool_volumes_type_snapshot_get",
        "storage_pool_volumes_type_snapshot_patch",
        "storage_pool_volumes_type_snapshot_put",
        "storage_pool_volumes_type_snapshot_post",
        "storage_pool_volumes_type_snapshot_delete",
    ];
    let at = format!("/1.0/storage-pools/default/volumes/custom/{volume}/snapshots");
    let mut kind = described(lab, "", ops, &at, json!({"name": "s1"}));
    kind.parents = vec!["default", "custom", volume];
    // Lists name them with their volume.
    kind.make(lab);
    let list = lab.native(
        kind.list,
        &["default", "custom", volume, "--recursion", "1"],
    );
    assert!(list[0]["name"].as_str().unwrap().ends_with("s1"), "{list}");
    lab.confirmed(kind.list);
    let got = lab.native(kind.get, &kind.args("s1", &[]));
    assert_eq!(
        got["created_at"],
        lab.see(&kind.path("s1")).unwrap()["created_at"]
    );
    lab.confirmed(kind.get);
    kind.change(lab);
    let name = kind.rename(lab);
    kind.remove(lab, &name);
}

fn volume_backups(lab: &Lab, volume: &str) {
    let ops = [
        "storage_pool_volumes_type_backups_get",
        "storage_pool_volumes_type_backups_post",
        "storage_pool_volumes_type_backup_get",
        "",
        "",
        "storage_pool_volumes_type_backup_post",
        "storage_pool_volumes_type_backup_delete",
    ];
    let at = format!("/1.0/storage-pools/default/volumes/custom/{volume}/backups");
    let mut kind = described(lab, "", ops, &at, json!({"name": "b1"}));
    kind.parents = vec!["default", "custom", volume];
    backups(lab, &kind, "storage_pool_volumes_type_backup_export_get");
}

/// Backups of volumes and of instances: also fetched.
fn backups(lab: &Lab, kind: &Kind<'_>, export: &str) {
    kind.make(lab);
    let mut args = kind.parents.clone();
    args.extend(["--recursion", "1"]);
    let list = lab.native(kind.list, &args);
    assert!(list[0]["name"].as_str().unwrap().ends_with("b1"), "{list}");
    lab.confirmed(kind.list);
    let got = lab.native(kind.get, &kind.args("b1", &[]));
    assert_eq!(
        got["created_at"],
        lab.see(&kind.path("b1")).unwrap()["created_at"]
    );
    lab.confirmed(kind.get);
    let command = export.replace('_', "-");
    let mut args = vec!["incus", &command];
    args.extend(kind.args("b1", &[]));
    let out = lab.home.run(&args);
    assert!(out.status.success(), "{export}");
    assert!(
        out.stdout.starts_with(&[0x1f, 0x8b]),
        "{export}: no archive came"
    );
    let listed = tar_list(&out.stdout);
    assert!(listed.contains("backup/index.yaml"), "{listed}");
    lab.confirmed(export);
    let name = kind.rename(lab);
    kind.remove(lab, &name);
}

/// The names in an archive, by the system's own program.
pub(crate) fn tar_list(archive: &[u8]) -> String {
    use std::io::Write;
    let mut tar = std::process::Command::new("tar")
        .args(["-tzf", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    tar.stdin.take().unwrap().write_all(archive).unwrap();
    let out = tar.wait_with_output().unwrap();
    assert!(out.status.success());
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn instance_snapshots_and_backups() {
    let Some(lab) = Lab::open("collections.rs::instance_snapshots_and_backups") else {
        return;
    };
    let instance = lab.instance("parts", false);
    let ops = [
        "instance_snapshots_get",
        "instance_snapshots_post",
        "instance_snapshot_get",
        "instance_snapshot_patch",
        "instance_snapshot_put",
        "instance_snapshot_post",
        "instance_snapshot_delete",
    ];
    let at = format!("/1.0/instances/{instance}/snapshots");
    let mut kind = described(&lab, "", ops, &at, json!({"name": "s1"}));
    kind.parents = vec![&instance];
    kind.member = "expires_at";
    kind.values = ["2031-01-02T03:04:05Z", "2032-01-02T03:04:05Z"];
    kind.live(&lab);
    let ops = [
        "instance_backups_get",
        "instance_backups_post",
        "instance_backup_get",
        "",
        "",
        "instance_backup_post",
        "instance_backup_delete",
    ];
    let at = format!("/1.0/instances/{instance}/backups");
    let mut kind = described(&lab, "", ops, &at, json!({"name": "b1"}));
    kind.parents = vec![&instance];
    backups(&lab, &kind, "instance_backup_export");
}

#[test]
fn image_aliases() {
    let Some(lab) = Lab::open("collections.rs::image_aliases") else {
        return;
    };
    let fingerprint = lab.see("/1.0/images/aliases/busybox").unwrap()["target"].clone();
    let ops = [
        "images_aliases_get",
        "images_aliases_post",
        "image_alias_get",
        "images_alias_patch",
        "images_aliases_put",
        "images_alias_post",
        "image_alias_delete",
    ];
    let new = json!({"description": "new", "target": fingerprint, "type": "container"});
    let kind = described(&lab, "alias", ops, "/1.0/images/aliases", new);
    lab.later(&["image", "alias", "delete", &kind.name]);
    kind.live(&lab);
}

#[test]
fn certificates() {
    let Some(lab) = Lab::open("collections.rs::certificates") else {
        return;
    };
    let (cert, _) = lab.certificate("trusted");
    let pem = std::fs::read_to_string(&cert).unwrap();
    let fingerprint = boxrig::incus::fingerprint_of_pem(pem.as_bytes()).unwrap();
    let base64: String = pem.lines().filter(|l| !l.starts_with("-----")).collect();
    lab.later(&["config", "trust", "remove", &fingerprint]);
    let mut kind = described(
        &lab,
        "cert",
        [
            "certificates_get",
            "certificates_post",
            "certificate_get",
            "certificate_patch",
            "certificate_put",
            "",
            "certificate_delete",
        ],
        "/1.0/certificates",
        json!({"type": "client", "certificate": base64, "description": "new", "restricted": true, "projects": ["default"]}),
    );
    kind.name = fingerprint;
    kind.live(&lab);
}
