//! Tenants as systems of their own, each at its own address.

use std::sync::Arc;
use std::time::{Duration, Instant};

use boxrig_engine::Selection;
use boxrig_transport::Http;
use boxrig_vergeos::Client;
use boxrig_wire::{BaseUrl, Caller, Kind, RawBody};
use http::Method;
use serde_json::{Value, json};

use super::api::{Answer, Api, basic};

const FIELDS: &str = "fields=ui_address%23ip%20as%20ip,status%23running%20as%20running,$key";

/// Waits for a tenant's power and gives the address it has then.
async fn until(api: &Api, tenant: &Value, running: bool) -> Option<String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let row = api.get(&format!("tenants/{tenant}?{FIELDS}")).await.body;
        if row["running"] == running {
            return row["ip"].as_str().map(str::to_owned);
        }
        assert!(Instant::now() < deadline, "{row}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn power(api: &Api, tenant: &Value, action: &str) -> Option<String> {
    let body = json!({ "tenant": tenant, "action": action });
    let answer = api.post("tenant_actions", body).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    until(api, tenant, action == "poweron").await
}

/// Asks a tenant's system.
async fn ask(
    api: &Api,
    ip: &str,
    user: (&str, &str),
    method: Method,
    path: &str,
    body: Value,
) -> Answer {
    let base = BaseUrl::parse(&format!("http://{ip}")).unwrap();
    let caller = Caller::new(Arc::new(Http::builder().build().unwrap()), base);
    let body = match method {
        Method::GET | Method::DELETE => RawBody::Empty,
        _ => RawBody::Json(body),
    };
    let who = basic(user.0, user.1);
    api.ask_at(&caller, &who, method, path, body).await
}

#[tokio::test]
async fn each_has_rows_of_its_own() {
    let mut api = Api::start().await;
    let own = api
        .make(
            "tenants",
            json!({ "name": "acme", "password": "tenants own" }),
        )
        .await;
    assert_eq!(until(&api, &own, false).await, None);
    let ip = power(&api, &own, "poweron").await.unwrap();
    assert!(ip.starts_with("127.0.0.1:"), "{ip}");
    let admin = ("admin", "tenants own");

    // Another system: its own name, no rows of the one that holds it, credentials that are its own.
    let system = ask(
        &api,
        &ip,
        admin,
        Method::GET,
        "/api/v4/system?fields=cloud_name",
        json!({}),
    )
    .await;
    assert_eq!(system.body, json!([{ "cloud_name": "acme" }]));
    api.make("vms", json!({ "name": "outside" })).await;
    let vms = ask(&api, &ip, admin, Method::GET, "/api/v4/vms", json!({})).await;
    assert_eq!(vms.body, json!([]));
    let made = ask(
        &api,
        &ip,
        admin,
        Method::POST,
        "/api/v4/vms",
        json!({ "name": "inside" }),
    )
    .await;
    assert_eq!((made.status, &made.body["$row"]), (201, &json!(1)));
    assert_eq!(api.get("vms?fields=name").await.column("name"), ["outside"]);
    let env = api.server.running().unwrap().env();
    let outer = env.get("VERGE_PASSWORD").unwrap().to_owned();
    for user in [("admin", outer.as_str()), ("admin", "wrong")] {
        let refused = ask(&api, &ip, user, Method::GET, "/api/v4/system", json!({})).await;
        assert_eq!(refused.status, 401);
    }
    assert_eq!(
        api.ask_as(
            &basic("admin", "tenants own"),
            Method::GET,
            "/api/v4/system",
            RawBody::Empty
        )
        .await
        .status,
        401
    );
    // Nothing else is at that address.
    for path in [
        "/1.0",
        "/v1/vms",
        "/apps",
        "/healthz",
        "/boxrig/v1/status",
        "/",
    ] {
        let answer = ask(&api, &ip, admin, Method::GET, path, json!({})).await;
        assert_eq!(answer.status, 404, "{path}");
    }

    // A second tenant is a third system.
    let other = api.make("tenants", json!({ "name": "beta" })).await;
    let beta = power(&api, &other, "poweron").await.unwrap();
    assert_ne!(beta, ip);
    let vms = ask(
        &api,
        &beta,
        ("admin", &outer),
        Method::GET,
        "/api/v4/vms",
        json!({}),
    )
    .await;
    assert_eq!(
        vms.body,
        json!([]),
        "without a password of its own, the admin's is the server's"
    );

    // Machines inside have instances of their own.
    let run = |n: i64| json!({ "vm": n, "action": "poweron" });
    assert_eq!(
        ask(&api, &ip, admin, Method::POST, "/api/v4/vm_actions", run(1))
            .await
            .status,
        201
    );
    assert_eq!(api.post("vm_actions", run(1)).await.status, 201);
    let engine = api.server.running().unwrap().core().engine.clone();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let all = engine.list().await.unwrap();
        let ids: Vec<&str> = all.iter().map(|i| i.id().as_str()).collect();
        if ids.iter().any(|id| id.starts_with("verge-t")) && ids.len() == 2 {
            break;
        }
        assert!(Instant::now() < deadline, "{ids:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // Who holds it keeps the next server from it.
    drop(engine);

    // What it holds is there after a restart of the server, and after its own.
    api.server
        .restart(|config| config.engine(Selection::Memory))
        .await
        .unwrap();
    let api = Api::of(api.server);
    let again = until(&api, &own, true).await.unwrap();
    let names = "/api/v4/vms?fields=name";
    let vms = ask(&api, &again, admin, Method::GET, names, json!({})).await;
    assert_eq!(vms.body, json!([{ "name": "inside" }]));
    assert_eq!(power(&api, &own, "poweroff").await, None);
    assert!(tokio::net::TcpStream::connect(&again).await.is_err());
    let ip = power(&api, &own, "poweron").await.unwrap();
    let vms = ask(&api, &ip, admin, Method::GET, names, json!({})).await;
    assert_eq!(vms.body, json!([{ "name": "inside" }]));

    // Deleted, it is gone, and so are its rows.
    power(&api, &own, "poweroff").await;
    assert_eq!(api.delete(&format!("tenants/{own}")).await.status, 200);
    let store = api.server.running().unwrap().core().store.clone();
    let deadline = Instant::now() + Duration::from_secs(30);
    let scope = format!("vergeos@{own}.");
    while store
        .dump()
        .unwrap()
        .iter()
        .any(|(table, ..)| table.starts_with(&scope))
    {
        assert!(
            Instant::now() < deadline,
            "rows of the deleted tenant remain"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn given_files_arrive() {
    let api = Api::start().await;
    let own = api
        .make("tenants", json!({ "name": "acme", "password": "p" }))
        .await;
    let give =
        |file: &Value| json!({ "tenant": own, "action": "give_file", "params": { "file": file } });
    let mut files = Vec::new();
    for name in ["early.iso", "late.iso"] {
        let body = json!({ "name": name, "allocated_bytes": "5" });
        let file = api.make("files", body).await;
        let text = RawBody::Bytes(boxrig_wire::WireBody::full("hello"));
        let put = api
            .ask(Method::PUT, &format!("files/{file}?filepos=0"), text)
            .await;
        assert_eq!(put.status, 200);
        files.push(file);
    }
    // Before its first start, and while it runs.
    assert_eq!(
        api.post("tenant_actions", give(&files[0])).await.status,
        201
    );
    let ip = power(&api, &own, "poweron").await.unwrap();
    assert_eq!(
        api.post("tenant_actions", give(&files[1])).await.status,
        201
    );
    let rows = ask(
        &api,
        &ip,
        ("admin", "p"),
        Method::GET,
        "/api/v4/files?fields=$key,name,filesize",
        json!({}),
    )
    .await;
    let expected = json!([
        { "$key": 1, "name": "early.iso", "filesize": 5 },
        { "$key": 2, "name": "late.iso", "filesize": 5 },
    ]);
    assert_eq!(rows.body, expected);
    let base = BaseUrl::parse(&format!("http://{ip}")).unwrap();
    let caller = Caller::new(Arc::new(Http::builder().build().unwrap()), base);
    let (name, value) = basic("admin", "p");
    let request = boxrig_wire::RawRequest::new(Method::GET, "/api/v4/files/2?download=1").options(
        boxrig_wire::CallOptions::new().header(name, http::HeaderValue::from_str(&value).unwrap()),
    );
    let content = caller.raw_stream(request).await.unwrap().into_body();
    assert_eq!(content.collect(100).await.unwrap(), "hello");
}

/// By our own client, over TLS, as `connect` of the vendor's SDK does it.
#[tokio::test]
async fn our_client_connects_into_a_tenant() {
    let api = Api::start().await;
    let env = api.server.running().unwrap().env().clone();
    let client = Client::builder()
        .host(env.get("VERGE_HOST").unwrap())
        .username("admin")
        .password(env.get("VERGE_PASSWORD").unwrap())
        .ca_file(env.get("BOXRIG_CA_FILE").unwrap())
        .build()
        .unwrap();
    let own = api
        .make("tenants", json!({ "name": "acme", "password": "p" }))
        .await;
    let key = own.as_i64().unwrap();
    let e = client
        .tenants()
        .at(key)
        .connect("admin", "p")
        .await
        .unwrap_err();
    assert!(
        matches!(
            e.kind(),
            Kind::Invalid | Kind::Precondition | Kind::Conflict
        ),
        "{e}"
    );
    power(&api, &own, "poweron").await;
    let inside = client
        .tenants()
        .at(key)
        .connect("admin", "p")
        .await
        .unwrap();
    assert_eq!(
        inside.connect().await.unwrap().cloud_name.as_deref(),
        Some("acme")
    );
    inside.vms().create("inside").await.unwrap();
    assert_eq!(inside.vms().list().await.unwrap().len(), 1);
    assert_eq!(client.vms().list().await.unwrap().len(), 0);
    let e = client.tenants().at(key).connect("admin", "wrong").await;
    let e = match e {
        Ok(client) => client.connect().await.unwrap_err(),
        Err(e) => e,
    };
    assert_eq!(e.kind(), Kind::Unauthenticated, "{e}");
}
