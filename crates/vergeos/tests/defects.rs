//! What the vendor's SDK gets wrong, one test each; the numbers are those of the list of upstream defects (VergeOS).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use boxrig_vergeos::client::{Transfer, UploadSource};
use boxrig_vergeos::member::{Invocation, Node, invoke};
use boxrig_vergeos::{Changes, Client, Filter, Key, Query, RateBudget, RowType, Wait, rows};
use boxrig_wire::{Kind, RawRequest};
use common::{Reply, Script};
use futures_util::TryStreamExt;
use serde_json::json;

#[tokio::test]
async fn d01_the_last_answer_is_kept_when_retries_end() {
    let script = Script::new(|_, _| Reply::json(503, json!({"err": "node is rebooting"}))).await;
    let e = script.client().vms().list().await.unwrap_err();
    assert_eq!(e.kind(), Kind::Unavailable);
    assert_eq!(e.status().unwrap().as_u16(), 503);
    assert_eq!(e.server_message().unwrap().to_string(), "node is rebooting");
    assert_eq!(e.attempts(), 4);
    assert_eq!(script.seen().len(), 4);
}

#[tokio::test]
async fn d02_a_write_that_may_have_happened_is_not_sent_again() {
    let script = Script::new(|_, _| Reply::json(500, json!({"err": "no"}))).await;
    let e = script.client().vms().create("web").await.unwrap_err();
    assert_eq!(e.kind(), Kind::Failed);
    assert_eq!(script.seen().len(), 1);
    let script = Script::new(|_, _| Reply::empty(0)).await;
    let e = script.client().vms().at(1).power_on().await.unwrap_err();
    assert_eq!(e.kind(), Kind::OutcomeUnknown);
    assert_eq!(
        script
            .lines()
            .iter()
            .filter(|l| l.starts_with("POST"))
            .count(),
        1
    );
}

#[tokio::test]
async fn d03_a_web_page_is_a_typed_error() {
    let script = Script::new(|_, _| Reply::bytes(b"<html>log in</html>")).await;
    let e = script.client().networks().list().await.unwrap_err();
    assert_eq!(e.kind(), Kind::Protocol);
    assert!(e.body().unwrap().to_string().contains("log in"));
}

#[test]
fn d04_trust_is_set_in_words() {
    let b = || Client::builder().host("h").token("t");
    assert!(b().verify_ssl(false).build().is_ok());
    assert!(b().pin_sha256("00").build().is_err());
    let e = b().ca_file("/no/such/ca.pem").build().unwrap_err();
    assert!(e.to_string().contains("/no/such/ca.pem"), "{e}");
}

#[tokio::test]
async fn d05_one_client_serves_many_tasks() {
    fn shared<T: Send + Sync + Clone + 'static>(_: &T) {}
    let script = Script::new(|s, _| {
        Reply::ok(json!([{"$key": 1, "name": s.path.rsplit('/').next().unwrap()}]))
    })
    .await;
    let client = script.client();
    shared(&client);
    let (a, b) = (client.clone(), client);
    let vms = tokio::spawn(async move {
        for _ in 0..20 {
            assert_eq!(a.vms().list().await.unwrap()[0].name(), Some("vms"));
        }
    });
    for _ in 0..20 {
        assert_eq!(b.networks().list().await.unwrap()[0].name(), Some("vnets"));
    }
    vms.await.unwrap();
}

#[tokio::test]
async fn d06_calls_are_futures() {
    let script = Script::new(|_, _| Reply::ok(json!([]))).await;
    let client = script.client();
    let (vms, networks) = (client.vms(), client.networks());
    let (a, b) = futures_util::join!(
        std::future::IntoFuture::into_future(vms.list()),
        std::future::IntoFuture::into_future(networks.list())
    );
    assert!(a.unwrap().is_empty() && b.unwrap().is_empty());
}

#[tokio::test]
async fn d07_the_address_and_the_deadline_can_be_set() {
    let script = Script::new(|_, _| Reply::ok(json!([]))).await;
    let client = script
        .builder()
        .host(format!("{}/behind/a/proxy", script.url))
        .timeout(Duration::from_secs(3))
        .build()
        .unwrap();
    client.vms().list().await.unwrap();
    assert_eq!(script.lines(), ["GET /behind/a/proxy/api/v4/vms"]);
    assert_eq!(client.caller().timeout(), Some(Duration::from_secs(3)));
}

#[test]
fn d08_rows_are_typed_and_say_what_was_asked() {
    let row = |v: serde_json::Value| rows::Vm::from_map(v.as_object().cloned().unwrap());
    let vm =
        row(json!({"$key": 7, "name": "web", "ram": "2048", "running": null, "new_column": [1]}));
    assert_eq!((vm.name(), vm.ram()), (Some("web"), Some(2048)));
    assert!(vm.record().has("running") && !vm.record().has("status"));
    assert_eq!(vm.record().extra().unwrap()["new_column"], json!([1]));
    assert_eq!(vm.key(), Some(Key::Number(7)));
    // The projection is the type's: what a getter reads was asked for.
    assert!(rows::Vm::projection().contains("machine#status#running as running"));
}

#[tokio::test]
async fn d09_pages_go_on_from_the_last_key() {
    let script = Script::new(|s, n| {
        assert!(s.query.contains("sort=%2B%24key"), "{}", s.query);
        Reply::ok(match n {
            0 => json!([{"$key": 1}, {"$key": 2}]),
            1 => {
                assert!(s.query.contains("%24key%20gt%202"), "{}", s.query);
                json!([{"$key": 5}])
            }
            _ => panic!("a page too many"),
        })
    })
    .await;
    let all: Vec<rows::Vm> = script
        .client()
        .vms()
        .iter_all()
        .page_size(2)
        .stream()
        .try_collect()
        .await
        .unwrap();
    let keys: Vec<_> = all.iter().filter_map(RowType::key).collect();
    assert_eq!(keys, [Key::Number(1), Key::Number(2), Key::Number(5)]);
}

#[tokio::test]
async fn d10_an_unknown_parameter_is_no_filter() {
    let script = Script::new(|_, _| Reply::ok(json!([]))).await;
    let client = script.client();
    let call = Invocation::new(Node::top(&client, "client.vms"), "get").arg("orderby", "name");
    assert_eq!(invoke(call).await.unwrap_err().kind(), Kind::Invalid);
    assert!(script.seen().is_empty());
    let query = Query::new().sort(boxrig_vergeos::sort::SortKey::down("created"));
    client.table::<rows::Vm>().list(query).await.unwrap();
    assert!(script.seen()[0].query.contains("sort=-created"));
}

#[tokio::test]
async fn d11_two_rows_of_one_name_are_an_error() {
    let script = Script::new(|_, _| Reply::ok(json!([{"$key": 1}, {"$key": 2}]))).await;
    let client = script.client();
    let e = client.vms().get().name("web").await.unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    let e = client.table::<rows::Vm>().find("web").await.unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
}

#[tokio::test]
async fn d12_names_cannot_change_a_filter() {
    let script = Script::new(|_, _| Reply::ok(json!([{"$key": 1}]))).await;
    let client = script.client();
    let hostile = r"O'Hara' or name ne '{x}\";
    client.vms().get().name(hostile).await.unwrap();
    let seen = &script.seen()[0];
    let filter = seen
        .query
        .split('&')
        .find_map(|p| p.strip_prefix("filter="))
        .unwrap();
    let filter = percent(filter);
    let parsed = Filter::parse(&filter).unwrap();
    let literal = boxrig_vergeos::filter::Literal::Text(hostile.to_owned());
    assert!(
        parsed
            .comparisons()
            .iter()
            .any(|(f, _, v)| *f == "name" && **v == literal),
        "{filter}"
    );
    let e = client
        .vms()
        .list()
        .set("name", json!([]))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid);
}

fn percent(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'%' {
            out.push(u8::from_str_radix(&text[i + 1..i + 3], 16).unwrap());
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8(out).unwrap()
}

#[tokio::test]
async fn d13_what_runs_is_found_on_this_side_and_correctly() {
    let script = Script::new(|_, _| {
        Reply::ok(json!([{"$key": 1, "running": true}, {"$key": 2, "running": false}, {"$key": 3, "running": null}]))
    })
    .await;
    let client = script.client();
    let keys = |rows: Vec<rows::Vm>| rows.iter().filter_map(RowType::key).collect::<Vec<_>>();
    assert_eq!(
        keys(client.vms().list_running().await.unwrap()),
        [Key::Number(1)]
    );
    let stopped = client.vms().list_stopped().await.unwrap();
    assert_eq!(keys(stopped), [Key::Number(2), Key::Number(3)]);
}

#[tokio::test]
async fn d14_the_receipt_says_what_was_made() {
    let script = Script::new(|s, _| match s.method.as_str() {
        "POST" => Reply::json(201, json!({"$key": "36", "location": "/v4/vms/36"})),
        _ => Reply::ok(json!({"$key": 36, "name": "web"})),
    })
    .await;
    let start = Instant::now();
    let vm = script.client().vms().create("web").await.unwrap();
    assert_eq!(vm.key(), Some(Key::Number(36)));
    assert_eq!(script.lines(), ["POST /api/v4/vms", "GET /api/v4/vms/36"]);
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "no sleeping on the good way"
    );
}

#[tokio::test]
async fn d15_waiting_has_a_deadline_and_knows_failure() {
    let script = Script::new(|s, n| {
        Reply::ok(match s.path.as_str() {
            "/api/v4/tasks/1" if n < 3 => {
                json!({"$key": 1, "status": "running", "progress": 10 * n})
            }
            "/api/v4/tasks/1" => json!({"$key": 1, "status": "idle"}),
            "/api/v4/tasks/2" => json!({"$key": 2, "status": "error", "error": "disk is full"}),
            _ => json!({"$key": 3, "status": "running"}),
        })
    })
    .await;
    let client = script.client();
    let quick = Wait::default()
        .interval(Duration::from_millis(2))
        .timeout(Duration::from_secs(5));
    client.tasks().wait(1).waiting(quick).await.unwrap();
    assert!(script.seen().len() >= 4);
    let e = client.tasks().wait(2).waiting(quick).await.unwrap_err();
    assert!(e.to_string().contains("disk is full"), "{e}");
    let e = client
        .tasks()
        .wait(3)
        .waiting(quick.timeout(Duration::from_millis(30)))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Timeout);
}

#[tokio::test]
async fn d16_one_change_is_one_write() {
    let script = Script::new(|_, _| Reply::empty(200)).await;
    let changes = Changes::new()
        .set("description", "x")
        .clear("note")
        .set("ram", 512);
    script
        .client()
        .table::<rows::Vm>()
        .update(36, changes)
        .await
        .unwrap();
    let seen = script.seen();
    assert_eq!(script.lines(), ["PUT /api/v4/vms/36"]);
    assert_eq!(
        seen[0].json(),
        json!({"description": "x", "note": null, "ram": 512})
    );
}

#[tokio::test]
async fn d17_documents_are_merged() {
    let script = Script::new(|s, _| match s.method.as_str() {
        "GET" => Reply::ok(json!({"$key": 1, "settings": {"client_id": "a", "client_secret": "keep me", "debug": 0}})),
        _ => Reply::empty(200),
    })
    .await;
    let client = script.client();
    client
        .auth_sources()
        .update(1)
        .settings(json!({"client_id": "b"}))
        .await
        .unwrap();
    let put = script
        .seen()
        .into_iter()
        .find(|s| s.method == "PUT")
        .unwrap();
    assert_eq!(
        put.json(),
        json!({"settings": {"client_id": "b", "client_secret": "keep me"}})
    );
    let change = json!({"client_id": null, "scope": "x"})
        .as_object()
        .cloned()
        .unwrap();
    client
        .merge_document("auth_sources", 1, "settings", change)
        .await
        .unwrap();
    let put = script
        .seen()
        .into_iter()
        .rfind(|s| s.method == "PUT")
        .unwrap();
    assert_eq!(put.json()["settings"]["client_secret"], "keep me");
    assert!(put.json()["settings"].get("client_id").is_none());
}

#[tokio::test]
async fn d18_an_upload_goes_on_where_it_stopped() {
    let data: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    let script = Script::new(|s, n| match s.method.as_str() {
        "POST" => Reply::json(201, json!({"$key": "9"})),
        // The third piece fails until the upload is run again.
        "PUT" if s.query == "filepos=131072" && n < 12 => Reply::json(400, json!({"err": "disk"})),
        _ => Reply::empty(200),
    })
    .await;
    let client = script.client();
    let settings = Transfer::new().chunk(65536).in_flight(2);
    let source = UploadSource::Bytes(data.clone().into());
    let mut upload = client
        .begin_upload(source, "a.iso", settings)
        .await
        .unwrap();
    assert!(upload.run().await.is_err());
    let (arrived, all) = upload.progress();
    assert!(arrived < all && all == 300_000);
    let before = script.seen().len();
    while script.seen().len() < 12 {
        let _ = client
            .raw(RawRequest::new(http::Method::GET, "/api/v4/x"))
            .await;
    }
    let done = upload.run().await.unwrap();
    assert_eq!(done.bytes, 300_000);
    let again: Vec<_> = script
        .seen()
        .into_iter()
        .filter(|s| s.method == "PUT")
        .collect();
    let second = again.iter().filter(|s| s.query == "filepos=0").count();
    assert_eq!(
        second, 1,
        "pieces that had arrived are not sent again ({before} requests before)"
    );
    let total: usize = [0, 65536, 131072, 196608, 262144]
        .iter()
        .map(|at| {
            let q = format!("filepos={at}");
            again
                .iter()
                .rfind(|s| s.query == q)
                .map_or(0, |s| s.body.len())
        })
        .sum();
    assert_eq!(total, data.len());
    // A zero-length file is an entry and nothing more.
    let empty = UploadSource::Bytes(Default::default());
    let done = client.upload(empty, "none", Transfer::new()).await.unwrap();
    assert_eq!(done.bytes, 0);
    assert_eq!(script.lines().last().unwrap(), "POST /api/v4/files");
}

#[tokio::test]
async fn d18_a_download_takes_the_place_of_a_file_in_one_step() {
    let script = Script::new(|s, _| {
        assert!(s.query.contains("download=1"), "{}", s.query);
        Reply::bytes(b"content")
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x.iso");
    let client = script.client();
    let done = client
        .download(9, "x.iso", &target, Transfer::new())
        .await
        .unwrap();
    assert_eq!(
        (done.bytes, std::fs::read(&target).unwrap()),
        (7, b"content".to_vec())
    );
    let e = client
        .download(9, "x.iso", &target, Transfer::new())
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn d19_sessions_are_begun_refreshed_and_ended() {
    let script = Script::new(|s, n| match (s.method.as_str(), s.path.as_str()) {
        ("POST", "/api/sys/tokens") => Reply::json(
            201,
            json!({"$key": format!("{:040x}", n), "location": "/sys/tokens/x"}),
        ),
        ("GET", _) if n == 1 => Reply::json(401, json!({"err": "login required"})),
        _ => Reply::ok(json!([{"$key": 1, "yb_version": "26.1"}])),
    })
    .await;
    let client = script.builder().session().connect().await.unwrap();
    assert_eq!(client.connection().method.as_str(), "session");
    assert!(client.connection().token_expires_in.is_some());
    client.disconnect().await.unwrap();
    let lines = script.lines();
    assert_eq!(
        lines
            .iter()
            .filter(|l| *l == "POST /api/sys/tokens")
            .count(),
        2,
        "{lines:?}"
    );
    assert!(lines.last().unwrap().starts_with("DELETE /api/sys/tokens/"));
    assert_eq!(
        client.vms().list().await.unwrap_err().kind(),
        Kind::Unavailable
    );
    assert!(!format!("{client:?}").contains("secret-word"));
}

#[tokio::test]
async fn d20_a_part_that_fails_is_not_an_empty_list() {
    let script = Script::new(|s, _| match s.path.as_str() {
        "/api/v4/nodes" => Reply::json(403, json!({"err": "no"})),
        _ => Reply::ok(json!([])),
    })
    .await;
    let e = script.client().system().inventory().await.unwrap_err();
    assert_eq!(e.kind(), Kind::Denied);
}

#[tokio::test]
async fn d21_what_the_platform_would_ignore_is_refused_before_it_is_sent() {
    let script = Script::new(|_, _| Reply::ok(json!({}))).await;
    let client = script.client();
    let misspelt = Invocation::new(Node::top(&client, "client.vms"), "power_onn");
    assert_eq!(
        invoke(misspelt).await.unwrap_err().kind(),
        Kind::Unsupported
    );
    let unknown = Invocation::new(Node::top(&client, "client.vms"), "delete")
        .arg("key", 1)
        .arg("force", true);
    assert_eq!(invoke(unknown).await.unwrap_err().kind(), Kind::Invalid);
    assert!(script.seen().is_empty());
}

#[tokio::test]
async fn d22_a_budget_is_kept_before_anything_is_sent() {
    let script = Script::new(|_, _| Reply::ok(json!([]))).await;
    let budget = RateBudget::new(2, Duration::from_secs(3600));
    let client = script.builder().budget(budget).build().unwrap();
    client.vms().list().await.unwrap();
    client.vms().list().await.unwrap();
    let e = client.vms().list().await.unwrap_err();
    assert_eq!(e.kind(), Kind::RateLimited);
    assert!(e.retry_after().is_some());
    assert_eq!(
        (script.seen().len(), client.budget().unwrap().left()),
        (2, 0)
    );
}

#[test]
fn d23_one_clients_trust_is_its_own() {
    let loose = Client::builder()
        .host("h")
        .token("t")
        .verify_ssl(false)
        .build();
    let strict = Client::builder().host("h").token("t").build();
    assert!(loose.is_ok() && strict.is_ok());
}

#[tokio::test]
async fn d24_there_is_a_way_out() {
    let script = Script::new(|s, _| match s.path.as_str() {
        "/api/v4/machine_console/$table" => Reply::ok(json!({"fields": []})),
        _ => Reply::ok(json!([{"$key": 1, "x": 2}])),
    })
    .await;
    let client = script.client();
    let rows = client
        .list("vnet_rule_aliases", Default::default())
        .await
        .unwrap();
    assert_eq!(rows[0]["x"], 2);
    client.schema("machine_console").await.unwrap();
    let raw = client
        .raw(RawRequest::new(
            http::Method::GET,
            "/api/v4/cluster_actions",
        ))
        .await
        .unwrap();
    assert_eq!(raw.status(), 200);
}
