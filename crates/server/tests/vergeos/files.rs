//! Content in pieces and whole.

use boxrig_wire::{RawBody, WireBody};
use http::Method;
use serde_json::json;

use super::api::Api;

#[tokio::test]
async fn pieces_come_in_any_order() {
    let api = Api::start().await;
    let content: Vec<u8> = (0..700_000u32).map(|n| (n % 251) as u8).collect();
    let size = content.len().to_string();
    let key = api
        .make(
            "files",
            json!({ "name": "disk.qcow2", "allocated_bytes": size }),
        )
        .await;
    for (n, piece) in content.chunks(262_144).enumerate().rev() {
        let path = format!("files/{key}?filepos={}", n * 262_144);
        let body = RawBody::Bytes(WireBody::full(piece.to_vec()));
        assert_eq!(api.ask(Method::PUT, &path, body).await.status, 200);
    }
    let row = api.row("files", &key).await;
    assert_eq!(
        (&row["type"], &row["filesize"]),
        (&json!("qcow2"), &json!(700_000))
    );
    let got = api
        .get(&format!("files/{key}?download=1&asname=a%22b.bin"))
        .await;
    assert_eq!(got.headers["content-length"], "700000");
    assert_eq!(
        got.headers["content-disposition"],
        "attachment; filename=\"ab.bin\""
    );
    let cx = api
        .server
        .dir()
        .join(format!("data/vergeos/content/files/{key}"));
    assert!(std::fs::read(&cx).unwrap() == content);

    // Past what was said at the creation.
    let body = RawBody::Bytes(WireBody::full(vec![0; 10]));
    let over = api
        .ask(Method::PUT, &format!("files/{key}?filepos=699995"), body)
        .await;
    assert_eq!(over.status, 413);
    // Without a position it is a change of columns.
    assert_eq!(
        api.put(&format!("files/{key}"), json!({ "description": "d" }))
            .await
            .status,
        200
    );
    assert_eq!(api.row("files", &key).await["description"], "d");
    assert_eq!(api.delete(&format!("files/{key}")).await.status, 200);
    assert_eq!(
        api.get(&format!("files/{key}?download=1")).await.status,
        404
    );
    for _ in 0..50 {
        if !cx.exists() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the content stays behind");
}

#[tokio::test]
async fn an_empty_file_has_no_content() {
    let api = Api::start().await;
    let key = api
        .make(
            "files",
            json!({ "name": "empty.iso", "allocated_bytes": "0" }),
        )
        .await;
    let got = api.get(&format!("files/{key}?download=1")).await;
    assert_eq!(
        (got.status, got.headers["content-length"].to_str().unwrap()),
        (200, "0")
    );
}
