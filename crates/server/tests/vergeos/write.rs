//! Creates, changes and deletes.

use serde_json::{Value, json};

use super::api::Api;

#[tokio::test]
async fn a_create_answers_a_receipt_and_an_update_nothing() {
    let api = Api::start().await;
    let made = api
        .post(
            "tag_categories",
            json!({ "name": "env", "taggable_vms": true }),
        )
        .await;
    assert_eq!(made.status, 201);
    assert_eq!(
        made.body,
        json!({ "location": "/v4/tag_categories/1", "dbpath": "tag_categories/1", "$row": 1, "$key": "1" })
    );
    let row = api.row("tag_categories", &json!(1)).await;
    assert_eq!(row["name"], "env");
    assert_eq!(row["taggable_vms"], true);
    assert_eq!(row["taggable_vnets"], false, "the default");
    assert!(row["created"].as_i64().unwrap() > 1_700_000_000);

    let put = api
        .put("tag_categories/1", json!({ "description": "d" }))
        .await;
    assert_eq!((put.status, &put.body), (200, &Value::Null));
    let row = api.row("tag_categories", &json!(1)).await;
    assert_eq!(
        (&row["name"], &row["description"]),
        (&json!("env"), &json!("d"))
    );

    let gone = api.delete("tag_categories/1").await;
    assert_eq!((gone.status, &gone.body), (200, &Value::Null));
    assert_eq!(api.get("tag_categories/1").await.status, 404);
    let next = api.make("tag_categories", json!({ "name": "env" })).await;
    assert_eq!(next, 2, "a number is not given twice");
}

#[tokio::test]
async fn keys_are_of_their_kind() {
    let api = Api::start().await;
    let hash = api.make("catalogs", json!({ "name": "c" })).await;
    let text = hash.as_str().unwrap();
    assert!(
        text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "{text}"
    );
    assert_eq!(api.row("catalogs", &hash).await["id"], hash);
    let upper = api
        .get(&format!("catalogs/{}?fields=name", text.to_uppercase()))
        .await;
    assert_eq!(upper.body["name"], "c");
    let by_filter = api
        .query("catalogs", &[("filter", &format!("$key eq '{text}'"))])
        .await;
    assert_eq!(by_filter.rows().len(), 1);

    let uuid = api
        .make("resource_groups", json!({ "name": "r", "type": "pci" }))
        .await;
    assert_eq!(uuid.as_str().unwrap().len(), 36);
    assert_eq!(api.row("resource_groups", &uuid).await["uuid"], uuid);

    assert_eq!(
        api.get("settings/cloud_name?fields=all").await.body["value"],
        "boxrig"
    );
    let set = api
        .put("settings/cloud_name", json!({ "value": "mine" }))
        .await;
    assert_eq!(set.status, 200);
    assert_eq!(
        api.get("settings/cloud_name?fields=value").await.body["value"],
        "mine"
    );
}

#[tokio::test]
async fn what_is_not_a_column_is_dropped_with_a_warning() {
    let api = Api::start().await;
    let made = api
        .post(
            "tag_categories",
            json!({ "name": "a", "colour": "red", "$key": 77 }),
        )
        .await;
    assert_eq!(
        (made.status, made.warning()),
        (201, "ignored fields: colour")
    );
    assert_eq!(made.body["$key"], "1", "a client does not choose keys");
    let put = api
        .put("tag_categories/1", json!({ "skip_missed": true }))
        .await;
    assert_eq!(
        (put.status, put.warning()),
        (200, "ignored fields: skip_missed")
    );
    let fine = api.put("tag_categories/1", json!({})).await;
    assert_eq!((fine.status, fine.warning()), (200, ""));
}

#[tokio::test]
async fn values_are_checked() {
    let api = Api::start().await;
    let vnet = api.make("vnets", json!({ "name": "n" })).await;
    for (table, body, status, words) in [
        (
            "vms",
            json!({ "ram": 1024 }),
            422,
            "Name is a required parameter",
        ),
        (
            "vms",
            json!({ "name": "" }),
            422,
            "Name is a required parameter",
        ),
        (
            "vms",
            json!({ "name": "x", "os_family": "beos" }),
            422,
            "value 'beos' is not in list for field 'os_family'",
        ),
        (
            "vms",
            json!({ "name": "x", "machine": 1 }),
            422,
            "field 'machine' is readonly",
        ),
        (
            "vms",
            json!({ "name": "x", "ram": "much" }),
            422,
            "invalid value 'much' for field 'ram'",
        ),
        (
            "vnet_rules",
            json!({ "name": "r", "vnet": 99 }),
            404,
            "error setting field 'vnet': No such file or directory",
        ),
        (
            "tag_members",
            json!({ "tag": 1, "member": "vms/5" }),
            404,
            "error setting field 'member': No such file or directory",
        ),
    ] {
        let answer = api.post(table, body).await;
        assert_eq!((answer.status, answer.err()), (status, words), "{table}");
    }
    // In the column's type, however it was sent.
    let rule = json!({ "name": "r", "vnet": vnet.to_string(), "enabled": 0, "orderid": "7" });
    let rule = api.make("vnet_rules", rule).await;
    let row = api.row("vnet_rules", &rule).await;
    assert_eq!(
        (&row["vnet"], &row["enabled"], &row["orderid"]),
        (&vnet, &json!(false), &json!(7))
    );
}

#[tokio::test]
async fn what_is_unique_is_there_once() {
    let api = Api::start().await;
    api.make("vms", json!({ "name": "web" })).await;
    let again = api.post("vms", json!({ "name": "web" })).await;
    assert_eq!(again.status, 409);
    assert!(again.err().contains("row exists"), "{}", again.err());
    let other = api.make("vms", json!({ "name": "db" })).await;
    assert_eq!(
        api.put(&format!("vms/{other}"), json!({ "name": "web" }))
            .await
            .status,
        409
    );
    assert_eq!(
        api.put(&format!("vms/{other}"), json!({ "name": "db" }))
            .await
            .status,
        200
    );
    // Tags: in their category.
    let a = api.make("tag_categories", json!({ "name": "a" })).await;
    let b = api.make("tag_categories", json!({ "name": "b" })).await;
    api.make("tags", json!({ "name": "t", "category": a }))
        .await;
    api.make("tags", json!({ "name": "t", "category": b }))
        .await;
    assert_eq!(
        api.post("tags", json!({ "name": "t", "category": a }))
            .await
            .status,
        409
    );
}

#[tokio::test]
async fn a_category_rules_what_carries_its_tags() {
    let api = Api::start().await;
    let mut tags = Vec::new();
    for (name, of) in [("vms", "vms"), ("networks", "vnets")] {
        let category =
            json!({ "name": name, "single_tag_selection": true, format!("taggable_{of}"): true });
        let category = api.make("tag_categories", category).await;
        for tag in ["one", "two"] {
            let tag = json!({ "name": tag, "category": category });
            tags.push(api.make("tags", tag).await);
        }
    }
    let vm = api.make("vms", json!({ "name": "v" })).await;
    let of = |tag: usize| json!({ "tag": tags[tag], "member": format!("vms/{vm}") });
    let member = api.make("tag_members", of(0)).await;
    for (tag, status, words) in [(1, 409, "allows one"), (2, 422, "not for vms")] {
        let answer = api.post("tag_members", of(tag)).await;
        assert_eq!(answer.status, status);
        assert!(answer.err().contains(words), "{}", answer.err());
    }
    // Another tag in its place is one tag.
    let path = format!("tag_members/{member}");
    assert_eq!(api.put(&path, json!({ "tag": tags[1] })).await.status, 200);
    assert_eq!(api.put(&path, json!({ "tag": tags[2] })).await.status, 422);
    assert_eq!(api.row("tag_members", &member).await["tag"], tags[1]);
}

#[tokio::test]
async fn what_belongs_to_a_row_goes_with_it() {
    let api = Api::start().await;
    let category = json!({ "name": "c", "taggable_vms": true });
    let category = api.make("tag_categories", category).await;
    let tag = api
        .make("tags", json!({ "name": "t", "category": category }))
        .await;
    let vm = api.make("vms", json!({ "name": "v" })).await;
    let kept = api.make("vms", json!({ "name": "kept" })).await;
    for vm in [&vm, &kept] {
        api.make(
            "tag_members",
            json!({ "tag": tag, "member": format!("vms/{vm}") }),
        )
        .await;
    }
    assert_eq!(api.delete(&format!("vms/{vm}")).await.status, 200);
    assert_eq!(api.get("tag_members").await.rows().len(), 1);
    assert_eq!(
        api.delete(&format!("tag_categories/{category}"))
            .await
            .status,
        200
    );
    assert!(api.get("tags").await.rows().is_empty());
    assert!(api.get("tag_members").await.rows().is_empty());
    assert_eq!(
        api.get(&format!("vms/{kept}")).await.status,
        200,
        "it was only referred to"
    );

    // A plain reference becomes null.
    let profile = api.make("snapshot_profiles", json!({ "name": "p" })).await;
    let on = json!({ "snapshot_profile": profile });
    assert_eq!(api.put(&format!("vms/{kept}"), on).await.status, 200);
    assert_eq!(
        api.delete(&format!("snapshot_profiles/{profile}"))
            .await
            .status,
        200
    );
    assert_eq!(api.row("vms", &kept).await["snapshot_profile"], Value::Null);
}

#[tokio::test]
async fn actions_that_nobody_does_are_named() {
    let api = Api::start().await;
    let site = api.make("sites", json!({ "name": "s" })).await;
    let answer = api
        .post("site_actions", json!({ "site": site, "action": "nothing" }))
        .await;
    assert_eq!(answer.status, 422);
    assert_eq!(
        answer.err(),
        "value 'nothing' is not in list for field 'action'"
    );
    let answer = api
        .post("site_actions", json!({ "site": 99, "action": "refresh" }))
        .await;
    assert_eq!(answer.status, 404);
    let answer = api
        .post("site_actions", json!({ "action": "refresh" }))
        .await;
    assert_eq!(
        (answer.status, answer.err()),
        (422, "Site is a required parameter")
    );
    // The query form: 200, and a warning that nothing was done.
    let answer = api
        .put(&format!("sites/{site}?action=nothing"), json!({}))
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.warning(), "unknown action nothing: nothing was done");
    let answer = api.post(&format!("sites/{site}/nothing"), json!({})).await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn rows_survive_a_restart() {
    let mut api = Api::start().await;
    api.make("vms", json!({ "name": "web", "ram": 512 })).await;
    let (bob, _) = api.user("bob").await;
    let mut server = api.server;
    server
        .restart(|c| c.engine(boxrig_engine::Selection::Memory))
        .await
        .unwrap();
    api = Api::of(server);
    assert_eq!(
        api.get("vms?fields=name,ram").await.body,
        json!([{ "name": "web", "ram": 512 }])
    );
    let login = api
        .ask_as(
            &bob,
            http::Method::GET,
            "/api/v4/system",
            boxrig_wire::RawBody::Empty,
        )
        .await;
    assert_eq!(login.status, 200, "a password is kept");
    assert_eq!(
        api.get("users").await.rows().len(),
        2,
        "what is new is made once"
    );
}
