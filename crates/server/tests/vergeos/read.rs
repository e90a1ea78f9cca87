//! Filters, orders, pages and projections.

use serde_json::{Value, json};

use super::api::Api;

/// Three networks with rules.
async fn networks() -> Api {
    let api = Api::start().await;
    for (name, kind, mtu) in [
        ("alpha", "internal", 1500),
        ("beta", "external", 9000),
        ("gamma", "internal", 1400),
    ] {
        let vnet = api
            .make(
                "vnets",
                json!({ "name": name, "type": kind, "mtu": mtu, "description": "x'y{z}" }),
            )
            .await;
        for n in 0..2 {
            let rule = json!({
                "name": format!("{name}-{n}"), "vnet": vnet, "orderid": 10 - n, "enabled": n == 0,
                "action": "accept", "protocol": "tcp",
            });
            api.make("vnet_rules", rule).await;
        }
    }
    api
}

#[tokio::test]
async fn filters() {
    let api = networks().await;
    for (filter, names) in [
        ("name eq 'alpha'", "alpha"),
        ("name ne 'alpha'", "beta gamma"),
        ("mtu gt 1400", "alpha beta"),
        ("mtu ge '1500'", "alpha beta"),
        ("name bw 'a'", "alpha"),
        ("name bw ''", "alpha beta gamma"),
        ("name ew 'ta'", "beta"),
        ("name cs 'a' and mtu lt 1500", "gamma"),
        ("name cs 'A'", ""),
        ("name ct 'ALPH'", "alpha"),
        ("name rx '^[ab]'", "alpha beta"),
        ("name rx ''", "alpha beta gamma"),
        (r"mtu rx '\\d'", ""),
        // From left to right: (beta or internal) and mtu 1400.
        (
            "name eq 'beta' or type eq 'internal' and mtu eq 1400",
            "gamma",
        ),
        (
            "name eq 'beta' or (type eq 'internal' and mtu eq 1400)",
            "beta gamma",
        ),
        // A balanced brace and what is in it are dropped from a text.
        ("name eq 'al{x}pha'", "alpha"),
        (r"description eq 'x\'y\{z}'", "alpha beta gamma"),
        ("$key eq 2", "beta"),
        ("$key eq '2'", "beta"),
        (
            "interface_vnet eq null and enabled eq true",
            "alpha beta gamma",
        ),
        ("interface_vnet ne null", ""),
        ("enabled eq 1", "alpha beta gamma"),
    ] {
        let found = api
            .query("vnets", &[("filter", filter), ("fields", "name")])
            .await;
        let names: Vec<&str> = names.split_whitespace().collect();
        assert_eq!(found.column("name"), names, "{filter}");
    }
    let rules = api
        .query(
            "vnet_rules",
            &[
                ("filter", "vnet#name eq 'beta' and system_rule eq false"),
                ("fields", "name"),
            ],
        )
        .await;
    assert_eq!(rules.column("name"), ["beta-0", "beta-1"]);
}

#[tokio::test]
async fn what_is_no_filter_is_refused() {
    let api = networks().await;
    for filter in [
        "name like 'x'",
        "name in ('x')",
        "name eq",
        "name eq 'x",
        "name eq 'x{'",
        r"name eq 'x\",
        "name eq 'x' and",
        "(name eq 'x'",
        "startswith(name,'x')",
        "nothing eq 1",
        "machine#status#running eq true",
        "name eq 'a''b'",
    ] {
        let answer = api.query("vnets", &[("filter", filter)]).await;
        assert_eq!(answer.status, 422, "{filter}");
        assert!(
            answer.err().starts_with("Invalid argument"),
            "{filter}: {}",
            answer.err()
        );
    }
}

#[tokio::test]
async fn orders_and_pages() {
    let api = networks().await;
    for (sort, names) in [
        ("name", "alpha beta gamma"),
        ("+name", "alpha beta gamma"),
        (" name", "alpha beta gamma"),
        ("-name", "gamma beta alpha"),
        ("mtu", "gamma alpha beta"),
        ("type,-mtu", "beta alpha gamma"),
    ] {
        let found = api
            .query("vnets", &[("sort", sort), ("fields", "name")])
            .await;
        let names: Vec<&str> = names.split_whitespace().collect();
        assert_eq!(found.column("name"), names, "{sort:?}");
    }
    let page = |limit, offset| {
        let api = &api;
        async move {
            let page = [
                ("sort", "name"),
                ("fields", "name"),
                ("limit", limit),
                ("offset", offset),
            ];
            api.query("vnets", &page).await.column("name")
        }
    };
    assert_eq!(page("2", "0").await, ["alpha", "beta"]);
    assert_eq!(page("2", "2").await, ["gamma"]);
    assert_eq!(page("2", "4").await, Vec::<Value>::new());
    assert_eq!(page("0", "1").await, ["beta", "gamma"]);
    assert_eq!(api.query("vnets", &[("sort", "nothing")]).await.status, 422);
    assert_eq!(api.query("vnets", &[("limit", "x")]).await.status, 422);
}

#[tokio::test]
async fn projections() {
    let api = networks().await;
    let fields = "$key,vnet,vnet#name,vnet#name as net,vnet#$display as shown,display(action) as act,\
                  upper(name) as loud,orderid gt 9 as first,vnet[name,mtu] as whole,nothing,nothing#name";
    let answer = api
        .query(
            "vnet_rules",
            &[("fields", fields), ("filter", "name eq 'alpha-0'")],
        )
        .await;
    assert_eq!(
        answer.body,
        json!([{
            "$key": 3, "vnet": 1, "vnet#name": "alpha", "net": "alpha", "shown": "alpha", "act": "Accept",
            "loud": "ALPHA-0", "first": true, "whole": { "name": "alpha", "mtu": 1500 },
        }])
    );
    // Nothing named: how many there are.
    let count = api
        .query(
            "vnets",
            &[("fields", ","), ("filter", "type eq 'internal'")],
        )
        .await;
    assert_eq!(count.body, json!([{ "$count": 2 }]));
    // Sets of rows, counted and shown.
    let category = api.make("groups", json!({ "name": "g" })).await;
    let user = api.make("users", json!({ "name": "u" })).await;
    let member = json!({ "parent_group": category, "member": format!("users/{user}") });
    api.make("members", member).await;
    let fields = "name,count(members) as n,members[member,parent_group#name as g]";
    let groups = api.query("groups", &[("fields", fields)]).await;
    assert_eq!(
        groups.body,
        json!([{ "name": "g", "n": 1, "members[member,parent_group#name as g]": [{ "member": "users/2", "g": "g" }] }])
    );
    // A reference to any table: followed, or left out when it is null.
    let users = api
        .query("users", &[("fields", "name,creator#$display as by")])
        .await;
    assert_eq!(
        users.body,
        json!([{ "name": "admin" }, { "name": "u", "by": "admin" }])
    );
    // A plain one that is null is null.
    let vnets = api
        .query(
            "vnets",
            &[("fields", "interface_vnet#name as m"), ("limit", "1")],
        )
        .await;
    assert_eq!(vnets.body, json!([{ "m": null }]));
}

#[tokio::test]
async fn views() {
    let api = networks().await;
    let all = api
        .query(
            "vnets",
            &[
                ("fields", "all,vnet_default_gateway#name as g"),
                ("limit", "1"),
            ],
        )
        .await;
    let row = all.rows()[0].as_object().unwrap();
    assert!(row.contains_key("mtu") && row.contains_key("$key") && row.contains_key("g"));
    let short = api.query("vnets", &[("limit", "1")]).await;
    let short = short.rows()[0].as_object().unwrap();
    assert!(short.contains_key("$key") && short.contains_key("name") && !short.contains_key("mtu"));
    // Secrets are in none, and cannot be asked for or compared.
    let users = api
        .query("users", &[("fields", "all,password,$hash")])
        .await;
    for row in users.rows() {
        assert!(
            !row.as_object()
                .unwrap()
                .keys()
                .any(|k| k.contains("password") && k != "change_password"),
            "{row}"
        );
        assert!(!row.to_string().contains("$hash"));
    }
    assert_eq!(
        api.query("users", &[("filter", "password bw ''")])
            .await
            .status,
        422
    );
    // Keys of certificates only when they are named.
    let key = api
        .make(
            "certificates",
            json!({ "domainname": "d", "type": "letsencrypt", "private": "PEM" }),
        )
        .await;
    assert!(!api.row("certificates", &key).await.contains_key("private"));
    let named = api.get(&format!("certificates/{key}?fields=private")).await;
    assert_eq!(named.body, json!({ "private": "PEM" }));
}

#[tokio::test]
async fn the_schema_is_told() {
    let api = Api::start().await;
    let schema = api.get("vnet_rules/$table").await;
    assert_eq!(schema.body["name"], "vnet_rules");
    let fields = schema.body["fields"].as_array().unwrap();
    let field = |name: &str| fields.iter().find(|f| f["name"] == name).unwrap();
    assert_eq!(field("vnet")["table"], "vnets");
    assert_eq!(field("action")["list"]["accept"], "Accept");
}
