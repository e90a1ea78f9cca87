//! Who may do what: certificates, tokens, restrictions.

use std::time::{Duration, Instant};

use boxrig_incus::{Client, ClientBuilder, Identity, Merge, NewInstance, TrustToken};
use boxrig_wire::Kind;
use serde_json::json;

use super::support::{Live, PROJECTS, gone, incus, live, model, query};

/// Where the daemon listens for HTTPS, and its certificate.
pub(crate) async fn https(live: &Live) -> (String, String) {
    let environment = live.client.info().await.unwrap().environment;
    let address = environment
        .addresses
        .first()
        .expect("the daemon listens for HTTPS");
    (format!("https://{address}"), environment.certificate)
}

fn settings(url: &str, certificate: &str) -> ClientBuilder {
    Client::https(url)
        .unwrap()
        .pin_certificate(certificate.as_bytes())
}

#[tokio::test]
async fn certificates_are_added_narrowed_and_removed() {
    let live = live!("trust.rs::certificates_are_added_narrowed_and_removed");
    let identity = Identity::generate("cl@test").unwrap();
    let fingerprint = identity.fingerprint().unwrap();
    let certificates = live.client.certificates();
    let path = format!("/1.0/certificates/{fingerprint}");
    let post = json!({"type": "client", "name": live.name("cert"), "certificate": identity.certificate_base64().unwrap()});
    certificates.create(model(post)).await.unwrap();
    assert_eq!(query(&path).await["fingerprint"], fingerprint);
    assert!(certificates.names().await.unwrap().contains(&fingerprint));
    assert!(
        certificates
            .list()
            .await
            .unwrap()
            .iter()
            .any(|c| c.fingerprint == fingerprint)
    );
    let (url, server) = https(&live).await;
    let client = settings(&url, &server).identity(&identity).build().unwrap();
    assert_eq!(client.info().await.unwrap().auth, "trusted");
    client.instances().list().await.unwrap();

    certificates
        .patch(
            &fingerprint,
            Merge::new().set("description", "patched"),
            None,
        )
        .await
        .unwrap();
    assert_eq!(query(&path).await["description"], "patched");
    // Narrowed to one project: what is outside is not there or not allowed.
    let project = live.name("narrow");
    live.client
        .projects()
        .create(model(json!({"name": project})))
        .await
        .unwrap();
    certificates
        .update(&fingerprint, |put| {
            put.restricted = true;
            put.projects = vec![project.clone()];
        })
        .await
        .unwrap();
    assert_eq!(query(&path).await["restricted"], true);
    client.project(&project).instances().list().await.unwrap();
    let e = client.server().set([("user.cl", "1")]).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Denied, "{e}");
    let new = NewInstance::from_image("cl-x", "busybox");
    let e = client
        .instances()
        .create(new)
        .await
        .expect_err("it may not");
    assert!(matches!(e.kind(), Kind::Denied | Kind::NotFound), "{e}");
    let new = json!({"name": "cl-x", "driver": "dir"});
    let e = client.storage_pools().create(model(new)).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Denied, "{e}");

    certificates.delete(&fingerprint).await.unwrap();
    assert!(gone(&path).await);
    let again = settings(&url, &server).identity(&identity).build().unwrap();
    assert_eq!(
        again.instances().list().await.unwrap_err().kind(),
        Kind::Denied
    );
    let guard = PROJECTS.read().await;
    live.client.projects().delete(&project).await.unwrap();
    drop(guard);
    live.confirmed(&[
        "certificates_get",
        "certificates_post",
        "certificate_get",
        "certificate_patch",
        "certificate_put",
        "certificate_delete",
    ]);
}

#[tokio::test]
async fn tokens_are_redeemed_once() {
    let live = live!("trust.rs::tokens_are_redeemed_once");
    let name = live.name("token");
    let (text, _) = live
        .client
        .certificates()
        .create_token(&name, &[])
        .await
        .unwrap();
    let token = TrustToken::parse(&text).unwrap();
    assert_eq!(token.client_name, name);
    let identity = Identity::generate("cl@token").unwrap();
    let trusted = token.redeem(&identity).await.unwrap();
    assert_eq!(trusted.client.info().await.unwrap().auth, "trusted");
    let fingerprint = identity.fingerprint().unwrap();
    assert_eq!(
        query(&format!("/1.0/certificates/{fingerprint}")).await["name"],
        name
    );
    // Used: by the same one it is known already, by another one it is nothing.
    let e = token.redeem(&identity).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict, "{e}");
    let other = Identity::generate("cl@other").unwrap();
    let e = token.redeem(&other).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Unauthenticated, "{e}");
    live.client
        .certificates()
        .delete(&fingerprint)
        .await
        .unwrap();

    // A token of the official client's making is the same.
    let name = live.name("official");
    let printed = incus(&["config", "trust", "add", &name, "--quiet"]).await;
    let text = printed.split_whitespace().last().unwrap_or_default();
    let token = TrustToken::parse(text).unwrap();
    let trusted = token.redeem(&other).await.unwrap();
    trusted.client.instances().list().await.unwrap();
    live.client
        .certificates()
        .delete(&other.fingerprint().unwrap())
        .await
        .unwrap();
}

/// A token of one server says nothing to another: its certificate is looked at first, and the token is not sent.
#[tokio::test]
async fn a_token_goes_to_its_server_only() {
    let live = live!("trust.rs::a_token_goes_to_its_server_only");
    let (text, operation) = live
        .client
        .certificates()
        .create_token(&live.name("mitm"), &[])
        .await
        .unwrap();
    let document: serde_json::Value = {
        use base64::Engine as _;
        let json = base64::engine::general_purpose::STANDARD
            .decode(&text)
            .unwrap();
        serde_json::from_slice(&json).unwrap()
    };
    let with = |member: &str, value: &str| {
        use base64::Engine as _;
        let mut document = document.clone();
        document[member] = value.into();
        base64::engine::general_purpose::STANDARD.encode(document.to_string())
    };
    let forged = with("fingerprint", &"ab".repeat(32));
    let identity = Identity::generate("cl@mitm").unwrap();
    let begun = Instant::now();
    let e = TrustToken::parse(&forged)
        .unwrap()
        .redeem(&identity)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Transport, "{e}");
    // A secret that the server does not know, and a token that has ended, which is not sent at all.
    let stranger = Identity::generate("cl@wrong").unwrap();
    for (member, value) in [
        ("secret", "0123456789"),
        ("expires_at", "2001-01-01T00:00:00Z"),
    ] {
        let token = TrustToken::parse(&with(member, value)).unwrap();
        let e = token.redeem(&stranger).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Unauthenticated, "{member}: {e}");
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
    // Not used up: it was not sent.
    assert_eq!(
        query(&format!("/1.0/operations/{}", operation.id)).await["status"],
        "Running"
    );
    live.client
        .operations()
        .cancel(&operation.id)
        .await
        .unwrap();
}

#[tokio::test]
async fn wrong_expired_and_unknown_certificates() {
    let live = live!("trust.rs::wrong_expired_and_unknown_certificates");
    let (url, server) = https(&live).await;
    // Another certificate than the pinned one: nothing is said to it.
    let begun = Instant::now();
    let other = Identity::generate("cl@other").unwrap();
    let pinned = Client::https(&url)
        .unwrap()
        .pin_certificate(other.certificate())
        .build()
        .unwrap();
    let e = pinned.info().await.unwrap_err();
    assert_eq!(
        (e.kind(), e.is_retryable()),
        (Kind::Transport, false),
        "{e}"
    );
    // The system's roots know nothing of it either.
    let e = Client::https(&url)
        .unwrap()
        .build()
        .unwrap()
        .info()
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Transport, "{e}");
    assert!(begun.elapsed() < Duration::from_secs(10));

    // Unknown to the server: a stranger, who may look at little.
    let stranger = settings(&url, &server).identity(&other).build().unwrap();
    assert_eq!(stranger.info().await.unwrap().auth, "untrusted");
    let e = stranger.instances().list().await.unwrap_err();
    assert_eq!(e.kind(), Kind::Denied, "{e}");

    // Known, but over: as good as unknown.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let expired = params.self_signed(&key).unwrap();
    let expired = Identity::from_pem(expired.pem(), key.serialize_pem()).unwrap();
    let post = json!({"type": "client", "name": live.name("expired"), "certificate": expired.certificate_base64().unwrap()});
    let added = live.client.certificates().create(model(post)).await;
    let client = settings(&url, &server).identity(&expired).build().unwrap();
    let e = client.instances().list().await.unwrap_err();
    assert!(
        matches!(
            e.kind(),
            Kind::Denied | Kind::Transport | Kind::Unauthenticated
        ),
        "{e}"
    );
    if added.is_ok() {
        live.client
            .certificates()
            .delete(&expired.fingerprint().unwrap())
            .await
            .unwrap();
    }
}

/// The folder of the standard tool, as it would be for this daemon.
#[tokio::test]
async fn remotes_of_the_standard_tool() {
    let live = live!("trust.rs::remotes_of_the_standard_tool");
    let (url, server) = https(&live).await;
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::load_or_make(dir.path(), "cl@remote").unwrap();
    let post = json!({"type": "client", "name": live.name("remote"), "certificate": identity.certificate_base64().unwrap()});
    live.client
        .certificates()
        .create(model(post))
        .await
        .unwrap();
    std::fs::create_dir(dir.path().join("servercerts")).unwrap();
    std::fs::write(dir.path().join("servercerts/lab.crt"), &server).unwrap();
    let config = format!(
        "default-remote: lab\nremotes:\n  lab:\n    addr: https://127.0.0.1:1,{url}\n    protocol: incus\n    public: false\n"
    );
    std::fs::write(dir.path().join("config.yml"), config).unwrap();
    let folder = dir.path().display().to_string();
    let remotes = boxrig_incus::Remotes::load_in(|name| match name {
        "INCUS_CONF" => Some(folder.clone()),
        "INCUS_GLOBAL_CONF" => Some("/nonexistent".to_owned()),
        _ => None,
    })
    .unwrap();
    // The first address does not answer, the second does.
    let client = remotes.get(None).unwrap().connect_first().await.unwrap();
    assert_eq!(client.info().await.unwrap().auth, "trusted");
    live.client
        .certificates()
        .delete(&identity.fingerprint().unwrap())
        .await
        .unwrap();
}
