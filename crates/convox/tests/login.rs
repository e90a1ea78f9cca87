//! Who calls: what is given, the environment, the vendor's files; a console's sessions.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use boxrig_convox::{CliConfig, Client, Login};
use boxrig_wire::{Kind, Result, Secret, WireBody};
use common::{Rack, json, ok, reply, with};
use futures_util::future::join_all;

/// `convox:secret-canary`, as basic credentials.
const BASIC: &str = "Basic Y29udm94OnNlY3JldC1jYW5hcnk=";

fn variables(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
    let map: BTreeMap<String, String> = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    move |name| map.get(name).cloned()
}

fn write(dir: &Path, name: &str, text: &str) {
    let file = dir.join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
}

#[tokio::test]
async fn credentials_and_rack_are_on_every_request() {
    let rack = Rack::new(|_| ok());
    let client = rack.builder().rack("org/rack").actor("ci").build().unwrap();
    client.apps().delete("web").await.unwrap();
    let seen = rack.seen().pop().unwrap();
    assert_eq!(seen.header("authorization").unwrap(), BASIC);
    assert_eq!(seen.header("rack").unwrap(), "org/rack");
    assert_eq!(seen.header("x-convox-actor").unwrap(), "ci");
    assert_eq!(
        seen.header("session").unwrap(),
        "",
        "in console mode it is always sent"
    );
    // Defect 18: it does not pose as another client.
    assert!(seen.header("version").is_none());

    let client = rack.client();
    client.apps().delete("web").await.unwrap();
    let seen = rack.seen().pop().unwrap();
    assert!(seen.header("rack").is_none() && seen.header("session").is_none());

    // Defect 13: a token has a user name of its own.
    let client = rack.builder().jwt("tok").build().unwrap();
    client.apps().delete("web").await.unwrap();
    assert_eq!(
        rack.seen().pop().unwrap().header("authorization").unwrap(),
        "Basic and0OnRvaw=="
    );
    assert!(!format!("{client:?}{:?}", rack.builder()).contains("canary"));
}

#[test]
fn hosts_are_urls_or_names() {
    let base = |host: &str| {
        let client = Client::builder().host(host).api_key("k").build();
        client.map(|c| c.caller().base().to_string())
    };
    assert_eq!(
        base("console.convox.com").unwrap(),
        "https://console.convox.com"
    );
    assert_eq!(
        base("rack.example.com:5443").unwrap(),
        "https://rack.example.com:5443"
    );
    assert_eq!(base("http://127.0.0.1:1/").unwrap(), "http://127.0.0.1:1");
    assert_eq!(base("ftp://x").unwrap_err().kind(), Kind::Invalid);
    assert_eq!(
        Client::builder().api_key("k").build().unwrap_err().kind(),
        Kind::Invalid
    );
    assert_eq!(
        Client::builder().host("h").build().unwrap_err().kind(),
        Kind::Unauthenticated
    );
    let direct = Client::builder()
        .rack("rack.example.com")
        .api_key("k")
        .build()
        .unwrap();
    assert_eq!(
        direct.caller().base().to_string(),
        "https://rack.example.com"
    );
    assert!(
        Client::builder()
            .host("h")
            .api_key("k")
            .ca_file("/no/such")
            .build()
            .is_err()
    );
}

fn from(pairs: &[(&str, &str)]) -> Result<String> {
    let client = Client::builder().env_from(variables(pairs)).build()?;
    Ok(client.caller().base().to_string())
}

#[test]
fn the_environment_fills_in() {
    let full = [
        ("CONVOX_HOST", "c.test"),
        ("CONVOX_PASSWORD", "k"),
        ("CONVOX_RACK", "o/r"),
    ];
    assert_eq!(from(&full).unwrap(), "https://c.test");
    assert_eq!(
        from(&[
            ("RACK_URL", "https://convox:p%40ss@r.test:5443"),
            full[0],
            full[1]
        ])
        .unwrap(),
        "https://r.test:5443"
    );
    assert_eq!(
        from(&[("CONVOX_HOST", "c.test"), ("CONVOX_TOKEN", "t")]).unwrap(),
        "https://c.test"
    );
    assert_eq!(from(&[full[0]]).unwrap_err().kind(), Kind::Unauthenticated);
    assert_eq!(from(&[full[1]]).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(
        from(&[full[0], ("CONVOX_PASSWORD", " ")])
            .unwrap_err()
            .kind(),
        Kind::Unauthenticated
    );
    for bad in [
        "canary",
        "https://canary",
        "https://convox:@h",
        "https://u:canary%ff@h",
    ] {
        let e = from(&[("RACK_URL", bad)]).unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid);
        assert!(!format!("{e}{e:?}").contains("canary"), "{e:?}");
    }
    // What is given explicitly counts first.
    let given = Client::builder()
        .host("given.test")
        .api_key("g")
        .env_from(variables(&full))
        .build()
        .unwrap();
    assert_eq!(given.caller().base().to_string(), "https://given.test");
    let given = Client::builder()
        .host("given.test")
        .env_from(variables(&[("RACK_URL", "https://u:p@r.test"), full[1]]))
        .build()
        .unwrap();
    assert_eq!(given.caller().base().to_string(), "https://given.test");
}

fn login(config: CliConfig, pairs: &[(&str, &str)]) -> Result<Login> {
    config.login_with(&variables(pairs))
}

#[test]
fn the_vendors_files_are_found() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let h = ("HOME", dir.to_str().unwrap());
    let none = login(CliConfig::new(), &[h]).unwrap_err();
    assert_eq!(none.kind(), Kind::Unauthenticated);

    // Version 2, then version 3, then XDG, then CONVOX_CONFIG.
    write(dir, ".convox/auth", r#"{"v2.test": "two"}"#);
    assert_eq!(login(CliConfig::new(), &[h]).unwrap().host, "v2.test");
    write(dir, ".config/convox/auth", r#"{"v3.test": "three"}"#);
    let found = login(CliConfig::new(), &[h]).unwrap();
    assert_eq!(
        (&*found.host, found.password.expose()),
        ("v3.test", "three")
    );
    write(dir, "xdg/convox/auth", r#"{"xdg.test": "x"}"#);
    let xdg = dir.join("xdg");
    assert_eq!(
        login(
            CliConfig::new(),
            &[h, ("XDG_CONFIG_HOME", xdg.to_str().unwrap())]
        )
        .unwrap()
        .host,
        "xdg.test"
    );
    write(
        dir,
        "own/auth",
        r#"{"console.convox.com": "key", "rack.test": "pw", "canary.test": "canary"}"#,
    );
    let own = dir.join("own");
    let c = ("CONVOX_CONFIG", own.to_str().unwrap());

    // A console with a rack; a rack that is addressed directly.
    let found = login(
        CliConfig::new().host("console.convox.com").rack("org/rack"),
        &[c],
    )
    .unwrap();
    assert_eq!(
        (&*found.host, found.rack.as_deref()),
        ("console.convox.com", Some("org/rack"))
    );
    let found = login(CliConfig::new().rack("rack.test"), &[c]).unwrap();
    assert_eq!((&*found.host, found.rack), ("rack.test", None));
    let found = login(CliConfig::new().rack("org/rack"), &[c]).unwrap();
    assert_eq!(
        (&*found.host, found.rack.as_deref()),
        ("console.convox.com", Some("org/rack"))
    );
    write(&own, "console", "rack.test\n");
    assert_eq!(
        login(CliConfig::new().rack("org/rack"), &[c]).unwrap().host,
        "rack.test"
    );
    let e = login(CliConfig::new().host("other.test"), &[c]).unwrap_err();
    assert_eq!(e.kind(), Kind::Unauthenticated);
    assert!(e.hint().unwrap().contains("rack.test") && !format!("{e:?}").contains("pw"));

    // The current rack; racks by URL; one of Terraform's is refused in words.
    write(&own, "current", r#"{"name": "org/now", "type": "console"}"#);
    assert_eq!(
        login(CliConfig::new(), &[c]).unwrap().rack.as_deref(),
        Some("org/now")
    );
    assert_eq!(
        login(CliConfig::new(), &[c, ("CONVOX_RACK", "org/env")])
            .unwrap()
            .rack
            .as_deref(),
        Some("org/env")
    );
    write(&own, "racks/mine", "https://convox:filepw@mine.test\n");
    let found = login(CliConfig::new().rack("mine"), &[c]).unwrap();
    assert_eq!(
        (&*found.host, found.password.expose()),
        ("https://mine.test", "filepw")
    );
    write(&own, "racks/tf/main.tf", "");
    let e = login(CliConfig::new().rack("tf"), &[c]).unwrap_err();
    assert_eq!(e.kind(), Kind::Unsupported);
    assert!(e.hint().unwrap().contains("RACK_URL"));
    assert_eq!(
        login(
            CliConfig::new(),
            &[c, ("RACK_URL", "https://u:p@first.test")]
        )
        .unwrap()
        .host,
        "https://first.test"
    );
    assert!(login(CliConfig::new().rack("../auth"), &[c]).is_ok_and(|l| l.host == "rack.test"));

    // The session of the host; a broken file says where and nothing of what is in it.
    write(&own, "session", r#"{"rack.test": "s1", "x": "s2"}"#);
    let found = login(CliConfig::new().host("rack.test"), &[c]).unwrap();
    assert_eq!(found.session.unwrap().expose(), "s1");
    write(&own, "auth", r#"{"rack.test": ["canary"]}"#);
    let e = login(CliConfig::new(), &[c]).unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid);
    assert!(!format!("{e:?}").contains("canary"), "{e:?}");
}

/// A console: without the session it knows it challenges; `/session` gives one.
fn console(valid: &'static str) -> (Rack, Arc<AtomicUsize>) {
    let given = Arc::new(AtomicUsize::new(0));
    let count = given.clone();
    let rack = Rack::new(move |seen| {
        if seen.line() == "POST /session" {
            assert_eq!(seen.header("authorization").unwrap(), BASIC);
            count.fetch_add(1, Ordering::SeqCst);
            return json(serde_json::json!({"id": valid}));
        }
        if seen.header("session").as_deref() != Some(valid) {
            return with(
                reply(401, ""),
                "www-authenticate",
                "Session path=\"/session\" token=\"false\"",
            );
        }
        match seen.method.as_str() {
            "GET" => json(serde_json::json!([])),
            _ => json(serde_json::json!({"id": "B1"})),
        }
    });
    (rack, given)
}

#[tokio::test]
async fn a_session_is_renewed_once_and_written_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("session");
    std::fs::write(
        &file,
        r#"{"other.test": "keep", "http://rack.test": "old"}"#,
    )
    .unwrap();
    let (rack, given) = console("fresh");
    let client = rack
        .builder()
        .rack("org/rack")
        .session("old")
        .session_file(&file)
        .build()
        .unwrap();
    // Defect 16: many tasks at once ask for one session.
    let calls = join_all((0..8).map(|_| async { client.apps().list().await })).await;
    assert!(calls.into_iter().all(|r| r.is_ok()));
    assert_eq!(given.load(Ordering::SeqCst), 1);
    client
        .builds()
        .create("web", "u", Default::default())
        .await
        .unwrap();
    assert_eq!(given.load(Ordering::SeqCst), 1, "it is kept");
    let kept: BTreeMap<String, String> =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(kept["http://rack.test"], "fresh");
    assert_eq!(kept["other.test"], "keep");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );

    // Streams are covered as well.
    let (rack, given) = console("fresh");
    let client = rack.builder().rack("org/rack").build().unwrap();
    let request = boxrig_wire::RawRequest::new(http::Method::GET, "/apps");
    assert_eq!(client.raw_stream(request).await.unwrap().status(), 200);
    assert_eq!(given.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_streamed_body_is_not_sent_twice() {
    let (rack, _) = console("fresh");
    let client = rack.builder().rack("org/rack").build().unwrap();
    let body = || {
        WireBody::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(
            "tgz".into(),
        )]))
    };
    let e = client
        .builds()
        .import_build("web", body())
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Unauthenticated);
    assert!(e.is_retryable() && e.hint().unwrap().contains("once more"));
    client.builds().import_build("web", body()).await.unwrap();
}

#[tokio::test]
async fn a_hardware_key_is_explained() {
    let rack = Rack::new(|_| {
        with(
            reply(401, ""),
            "www-authenticate",
            "Session path=\"/session\" token=\"true\"",
        )
    });
    let client = rack.builder().rack("org/rack").build().unwrap();
    let e = client.apps().list().await.unwrap_err();
    assert_eq!(e.kind(), Kind::Unauthenticated);
    assert!(e.hint().unwrap().contains("hardware key") && e.hint().unwrap().contains("deploy key"));
    assert_eq!(rack.seen().len(), 1);
}

#[tokio::test]
async fn a_challenge_does_not_lead_elsewhere() {
    for path in ["//evil.test/x", "https://evil.test/x", "x"] {
        let header = format!("Session path=\"{path}\" token=\"false\"");
        let rack = Rack::new(move |_| with(reply(401, ""), "www-authenticate", &header));
        let client = rack.builder().rack("org/rack").build().unwrap();
        assert_eq!(
            client.apps().list().await.unwrap_err().kind(),
            Kind::Unauthenticated
        );
        assert_eq!(rack.seen().len(), 1, "nothing was sent to {path}");
    }
    let rack = Rack::new(|seen| match seen.line().as_str() {
        "POST /session" => json(serde_json::json!({"id": "a\nb"})),
        _ => with(
            reply(401, ""),
            "www-authenticate",
            "Session path=\"/session\" token=\"false\"",
        ),
    });
    let client = rack
        .builder()
        .rack("org/rack")
        .session(Secret::new("x"))
        .build()
        .unwrap();
    assert_eq!(
        client.apps().list().await.unwrap_err().kind(),
        Kind::Invalid
    );
}

#[test]
fn what_is_given_comes_first_then_the_environment_then_the_files() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "auth", r#"{"file.test": "f"}"#);
    let config = CliConfig::new().dir(dir.path());
    let base = |builder: boxrig_convox::ClientBuilder| {
        builder.build().unwrap().caller().base().to_string()
    };
    let env = variables(&[("CONVOX_HOST", "env.test"), ("CONVOX_PASSWORD", "e")]);
    let none = variables(&[]);
    let given = || Client::builder().host("given.test").api_key("g");
    assert_eq!(
        base(given().env_from(&env).cli_config(&config)),
        "https://given.test"
    );
    assert_eq!(
        base(Client::builder().env_from(&env).cli_config(&config)),
        "https://env.test"
    );
    assert_eq!(
        base(Client::builder().env_from(&none).cli_config(&config)),
        "https://file.test"
    );
}
