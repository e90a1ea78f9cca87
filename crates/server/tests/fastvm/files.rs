//! Presigned addresses, uploads, downloads, fetch, and what a machine reaches from inside.

use std::time::Duration;

use boxrig_engine::Selection;
use boxrig_fastvm::{FileFetchRequest, FilePresignRequest, FilePresignResponse, ops};
use boxrig_wire::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::api::{Api, post, split};

async fn presign(api: &Api, id: &str) -> FilePresignResponse {
    let request = FilePresignRequest {
        path: "/root/any".to_owned(),
        ..Default::default()
    };
    api.call(post::<ops::PresignFile, _>(id, request))
        .await
        .unwrap()
        .value
}

/// The path and query of a signed address.
fn target(url: &str) -> String {
    let rest = url.split_once("://").unwrap().1;
    rest[rest.find('/').unwrap()..].to_owned()
}

fn put(target: &str, headers: &str, body: &str) -> Vec<u8> {
    let text = format!(
        "PUT {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/octet-stream\r\n{headers}\r\n{body}"
    );
    text.into_bytes()
}

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()
}

async fn fetch(
    api: &Api,
    id: &str,
    url: &str,
    path: &str,
) -> boxrig_wire::Result<boxrig_fastvm::ExecResponse> {
    let request = FileFetchRequest {
        url: url.into(),
        path: path.to_owned(),
        timeout_sec: Some(600),
        ..Default::default()
    };
    api.call(post::<ops::FetchFile, _>(id, request))
        .await
        .map(|r| r.value)
}

#[tokio::test]
async fn uploads_in_every_form() {
    let api = Api::memory().await;
    let id = api.launch().await.id;
    let signed = presign(&api, &id).await;
    assert_eq!(signed.max_upload_bytes, 10 << 30);
    assert!(signed.expires_in_sec > 3600);
    assert!(
        !format!("{signed:?}").contains("signature="),
        "an address is a secret"
    );
    let target = target(signed.upload_url.expose());
    let (status, _) = split(&api.raw(&get(&target)).await);
    assert_eq!(status, 404, "nothing there yet");
    for (headers, body, content) in [
        ("Content-Length: 5\r\n", "first", "first"),
        ("Content-Length: 0\r\n", "", ""),
        (
            "Transfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
            "abcdefg",
        ),
        ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n", ""),
        // A key is not needed, and does no harm.
        ("Content-Length: 3\r\nX-API-Key: whatever\r\n", "key", "key"),
        (
            "Content-Length: 3\r\nContent-Digest: sha-256=:LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=:\r\n",
            "foo",
            "foo",
        ),
    ] {
        let answer = api.raw(&put(&target, headers, body)).await;
        assert_eq!(split(&answer).0, 204, "{headers}: {answer}");
        assert!(
            answer.to_lowercase().contains("content-digest: sha-256="),
            "{answer}"
        );
        let answer = api.raw(&get(&target)).await;
        assert_eq!(split(&answer), (200, content.to_owned()));
        assert!(
            answer.contains(&format!("content-length: {}\r\n", content.len())),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_waiting_sender_is_told_to_go_on_or_not_to() {
    let api = Api::memory().await;
    let id = api.launch().await.id;
    let target = target(presign(&api, &id).await.upload_url.expose());
    let ask = async |length: u64| {
        let mut connection = api.connect().await;
        let head = put(
            &target,
            &format!("Content-Length: {length}\r\nExpect: 100-continue\r\n"),
            "",
        );
        connection.write_all(&head).await.unwrap();
        let mut answer = vec![0; 1024];
        let read = connection.read(&mut answer);
        let n = tokio::time::timeout(Duration::from_secs(5), read)
            .await
            .unwrap()
            .unwrap();
        (
            connection,
            String::from_utf8_lossy(&answer[..n]).into_owned(),
        )
    };
    let (mut connection, answer) = ask(4).await;
    assert!(answer.starts_with("HTTP/1.1 100 "), "{answer}");
    connection.write_all(b"late").await.unwrap();
    let mut rest = String::new();
    connection.read_to_string(&mut rest).await.unwrap();
    assert_eq!(split(&rest).0, 204);
    // Larger than the disk: refused before a byte is sent.
    let (_, answer) = ask((10 << 30) + 1).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(split(&api.raw(&get(&target)).await).1, "late");
}

#[tokio::test]
async fn addresses_are_good_as_they_are_and_for_a_day() {
    let api = Api::with(|mut config| {
        config.virtual_clock = true;
        config
    })
    .await;
    let id = api.launch().await.id;
    let signed = presign(&api, &id).await;
    let good = target(signed.upload_url.expose());
    let headers = "Content-Length: 1\r\n";
    assert_eq!(split(&api.raw(&put(&good, headers, "x")).await).0, 204);
    let (path, query) = good.split_once('?').unwrap();
    let forged = [
        (format!("{good}0"), 403),
        (path.to_owned(), 403),
        (
            format!("{path}?{}", query.replace("expires=", "expires=9")),
            403,
        ),
        (good.replace("/v1/objects/", "/v1/objects/0"), 404),
        (format!("/v1/objects/..%2f..%2fstate.redb?{query}"), 404),
    ];
    for (target, wanted) in &forged {
        for request in [get(target), put(target, headers, "y")] {
            let (status, body) = split(&api.raw(&request).await);
            assert_eq!(status, *wanted, "{target}: {body}");
        }
    }
    for (media, wanted) in [
        ("text/plain", 415),
        ("application/octet-stream; charset=x", 415),
    ] {
        let text = format!(
            "PUT {good} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {media}\r\n{headers}\r\nz"
        );
        assert_eq!(split(&api.raw(text.as_bytes()).await).0, wanted);
    }
    assert_eq!(split(&api.raw(&get(&good)).await), (200, "x".to_owned()));
    let clock = api
        .server
        .running()
        .unwrap()
        .core()
        .virtual_clock
        .clone()
        .unwrap();
    clock.advance(Duration::from_secs(signed.expires_in_sec));
    let (status, body) = split(&api.raw(&get(&good)).await);
    assert!(matches!(status, 403 | 404), "{body}");
    let folder = api.server.dir().join("data/fastvm/objects");
    crate::api::eventually("the content is removed", async || {
        std::fs::read_dir(&folder).unwrap().count() == 0
    })
    .await;
}

#[tokio::test]
async fn a_broken_upload_leaves_the_old_content() {
    let api = Api::memory().await;
    let id = api.launch().await.id;
    let target = target(presign(&api, &id).await.upload_url.expose());
    api.raw(&put(&target, "Content-Length: 3\r\n", "old")).await;
    for headers in ["Content-Length: 1000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut connection = api.connect().await;
        let body = "a\r\n0123456789\r\n";
        connection
            .write_all(&put(&target, headers, body))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(connection);
    }
    let folder = api.server.dir().join("data/fastvm/objects");
    crate::api::eventually("only the content is there", async || {
        std::fs::read_dir(&folder).unwrap().count() == 1
    })
    .await;
    assert_eq!(
        split(&api.raw(&get(&target)).await),
        (200, "old".to_owned())
    );
    let wrong = "Content-Length: 3\r\nContent-Digest: sha-256=:AAAA:\r\n";
    assert_eq!(split(&api.raw(&put(&target, wrong, "new")).await).0, 400);
    api.delete(&id).await.unwrap();
    assert_eq!(split(&api.raw(&get(&target)).await).0, 404);
    assert_eq!(
        std::fs::read_dir(&folder).unwrap().count(),
        0,
        "gone with its machine"
    );
}

#[tokio::test]
async fn fetch_takes_what_presign_gave_and_nothing_else() {
    let Some(api) = Api::sandbox().await else {
        return;
    };
    let id = api.launch().await.id;
    let signed = presign(&api, &id).await;
    let url = signed.download_url.expose().to_owned();
    let missing = fetch(&api, &id, &url, "/root/x").await.unwrap();
    assert_ne!(missing.exit_code, 0, "nothing was uploaded");
    assert!(!missing.stderr.is_empty());
    api.raw(&put(&target(&url), "Content-Length: 6\r\n", "staged"))
        .await;
    for path in [
        "/root/made/up/file",
        "/root/work-ab/ünîçødé fïlé.txt",
        "/root/-dash",
        "/root/a'b\"c\nd",
    ] {
        let out = fetch(&api, &id, &url, path).await.unwrap();
        assert_eq!((out.exit_code, out.timed_out), (0, false), "{out:?}");
        let read = boxrig_fastvm::ExecRequest {
            command: boxrig_fastvm::Command::from(["cat", path]),
            ..Default::default()
        };
        assert_eq!(api.exec_with(&id, read).await.unwrap().stdout, "staged");
    }
    let onto_a_directory = fetch(&api, &id, &url, "/root").await.unwrap();
    assert_ne!(onto_a_directory.exit_code, 0);

    let port = api.server.running().unwrap().addr().port();
    let twisted = [
        "http://127.0.0.1:1/x".to_owned(),
        "https://example.com".to_owned(),
        "file:///etc/passwd".to_owned(),
        "".to_owned(),
        format!("{url}0"),
        url.replace("127.0.0.1", "localhost"),
        url.replace("http://", "http://user@"),
        url.replace(&format!(":{port}/"), &format!(":{port}@evil.example/")),
        url.replace("/v1/objects", "/v1/vms"),
    ];
    for bad in twisted {
        match fetch(&api, &id, &bad, "/root/bad").await {
            Err(e) => {
                assert_eq!(
                    (e.kind(), e.status().unwrap().as_u16()),
                    (Kind::Invalid, 400),
                    "{bad}"
                );
                assert!(e.server_message().unwrap().raw().contains("url"));
            }
            Ok(out) => panic!("{bad}: {out:?}"),
        }
    }
    assert_eq!(api.sh(&id, "test -e /root/bad").await.exit_code, 1);
    for path in ["relative", ""] {
        let e = fetch(&api, &id, &url, path).await.unwrap_err();
        assert!(e.server_message().unwrap().raw().contains("path"));
    }
    api.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_inside_only_ones_own_objects_are_reached() {
    let Some(mut api) = Api::sandbox().await else {
        return;
    };
    let (one, two) = (api.launch().await.id, api.launch().await.id);
    let url = presign(&api, &one).await.upload_url.expose().to_owned();
    let upload = |url: &str| {
        format!(
            "head -c 3000000 /dev/zero | tr '\\0' y | \
             curl --fail --silent --show-error -T - -H 'Content-Type: application/octet-stream' '{url}'"
        )
    };
    let out = api.sh(&one, &upload(&url)).await;
    assert_eq!(out.exit_code, 0, "{out:?}");
    let answer = api.raw(&get(&target(&url))).await;
    assert_eq!(split(&answer).1.len(), 3_000_000);
    let back = api
        .sh(&one, &format!("curl --fail --silent '{url}' | wc -c"))
        .await;
    assert_eq!(back.stdout.trim(), "3000000", "{back:?}");

    // Not the other machine's, although the address is good; not the API, not even with the key.
    presign(&api, &two).await;
    let foreign = api
        .sh(&two, &format!("curl --fail --silent --show-error '{url}'"))
        .await;
    assert_ne!(foreign.exit_code, 0);
    assert!(foreign.stdout.is_empty());
    let (origin, key) = (api.server.url(), api.server.api_key());
    for path in ["/v1/vms", "/healthz", "/boxrig/v1/info", "/1.0", "/"] {
        let line =
            format!("curl --fail --silent --show-error -H 'X-API-Key: {key}' '{origin}{path}'");
        let out = api.sh(&one, &line).await;
        assert_ne!(out.exit_code, 0, "{path}: {out:?}");
        assert!(out.stdout.is_empty(), "{path}: {out:?}");
    }
    // A machine for which nothing was presigned has no listener at all.
    let three = api.launch().await.id;
    assert_ne!(
        api.sh(&three, &format!("curl --silent '{origin}/healthz'"))
            .await
            .exit_code,
        0
    );

    // After a restart on the same port the address works again, from both sides.
    let listen = api.server.running().unwrap().addr();
    api.restart(|config| config.engine(Selection::Sandbox).listen(listen))
        .await;
    crate::api::eventually("reached again", async || {
        api.sh(&one, &format!("curl --fail --silent '{url}' | wc -c"))
            .await
            .stdout
            .trim()
            == "3000000"
    })
    .await;
    api.server.stop().await;
}
