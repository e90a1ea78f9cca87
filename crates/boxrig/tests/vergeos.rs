//! VergeOS end to end: our client, our compute backend and our command line against our server's stocked laboratory.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod support;

use boxrig::compute::conformance;
use boxrig::wire::Secret;
use boxrig::{Connect, vergeos};
use boxrig_engine::Selection;
use boxrig_server::testing::Server;
use serde_json::{Value, json};
use support::Home;
use vergeos::RowType as _;

/// The laboratory on the simulated engine, and a home whose context `lab` it is.
struct Lab {
    server: Server,
    password: String,
    home: Home,
}

impl Lab {
    async fn start() -> Self {
        let server = Server::with(|config| {
            let mut config = config.engine(Selection::Memory);
            config.lab = Some(boxrig_server::vergeos::Lab::default());
            config
        })
        .await
        .unwrap();
        let env = server.running().unwrap().env();
        let password = env.get("VERGE_PASSWORD").unwrap().to_owned();
        let home = Home::new();
        let secret = home.path().join("secret");
        std::fs::write(&secret, &password).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&secret, mode).unwrap();
        let lab = Self {
            server,
            password,
            home,
        };
        let from = format!("file:{}", secret.display());
        let url = lab.url();
        let add = [
            "ctx",
            "add",
            "lab",
            &url,
            "--user",
            "admin",
            "--secret-from",
            &from,
        ];
        lab.home.ok(&add);
        lab.home.ok(&["ctx", "use", "lab"]);
        lab
    }

    fn url(&self) -> String {
        self.server.url().replace("http://", "vergeos+http://")
    }

    async fn compute(&self) -> boxrig::Connection {
        Connect::new(self.url().parse().unwrap())
            .name("lab")
            .user("admin")
            .secret(Secret::new(&*self.password))
            .open()
            .await
            .unwrap()
    }

    fn client(&self) -> vergeos::Client {
        vergeos::Client::builder()
            .host(self.server.url())
            .username("admin")
            .password(&*self.password)
            .build()
            .unwrap()
    }

    /// What the server itself says of a machine, by another way than the one under test.
    async fn vm(&self, name: &str) -> vergeos::rows::Vm {
        self.client().vms().get().name(name).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance() {
    let lab = Lab::start().await;
    let connection = lab.compute().await;
    let before = lab.client().vms().list().await.unwrap().len();
    let report = conformance::run(&*connection.compute).await;
    println!("{report}");
    assert!(report.passed(), "{report}");
    for check in [
        "undeclared_verbs_fail_at_once",
        "what_was_launched_is_listed",
        "an_unknown_id_is_not_found",
        "a_token_launches_once",
        "stopped_and_started",
        "logs_can_be_read",
        "deleted_is_gone",
    ] {
        assert!(report.holds(check), "{check}: {report}");
    }
    // What the suite made it has removed.
    assert_eq!(lab.client().vms().list().await.unwrap().len(), before);
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unified_verbs() {
    let lab = Lab::start().await;
    let home = &lab.home;
    let made = home.json(&[
        "launch", "--name", "box1", "--cpus", "2", "--memory", "512MiB", "--label", "team=web",
    ]);
    assert_eq!(
        (&made["state"], &made["cpus"], &made["memory"]),
        (&json!("running"), &json!(2), &json!(512 << 20)),
        "{made}"
    );
    let seen = lab.vm("box1").await;
    assert_eq!(seen.record().int("ram"), Some(512));
    assert_eq!(seen.record().flag("running"), Some(true));
    let list = home.json(&["ls", "--label", "team=web"]);
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["name"], "box1");
    let all = home.json(&["ls"]);
    assert!(all.as_array().unwrap().iter().any(|i| i["name"] == "web1"));
    assert_eq!(home.json(&["show", "box1"])["labels"]["team"], "web");

    for (verb, running) in [
        (&["stop", "--force"][..], false),
        (&["start"], true),
        (&["restart", "--force"], true),
        (&["restart"], true),
        (&["stop"], false),
        (&["start"], true),
    ] {
        let mut args = verb.to_vec();
        args.push("box1");
        home.ok(&args);
        let now = lab.vm("box1").await.record().flag("running");
        assert_eq!(now, Some(running), "{verb:?}");
    }
    home.ok(&["wait", "box1", "--for", "running", "--timeout", "30s"]);
    let logs = home.ok(&["logs", "box1"]);
    assert!(!logs.trim().is_empty());
    assert_eq!(home.ok(&["logs", "box1", "--tail", "1"]).lines().count(), 1);

    // A restored machine has its old values back.
    let snapshot = home.json(&["snapshot", "box1", "--name", "before"]);
    let id = snapshot["id"].as_str().unwrap().to_owned();
    let key = lab.vm("box1").await.key().unwrap();
    let vms = lab.client().vms();
    vms.update(&key).set("ram", 2048).await.unwrap();
    assert_eq!(lab.vm("box1").await.record().int("ram"), Some(2048));
    home.ok(&["restore", "box1", &id]);
    let now = lab.vm("box1").await;
    assert_eq!(now.key(), Some(key));
    assert_eq!(now.record().int("ram"), Some(512));
    assert_eq!(now.record().flag("running"), Some(true));

    // A copy has a life of its own.
    let fork = home.json(&["fork", "box1", "--name", "box2"]);
    assert_eq!(
        (&fork["name"], &fork["state"]),
        (&json!("box2"), &json!("running"))
    );
    home.ok(&["rm", "box1", "--yes"]);
    assert_eq!(home.fails(&["show", "box1"]).0, 3);
    assert_eq!(lab.vm("box2").await.record().flag("running"), Some(true));
    home.ok(&["rm", "box2", "--yes"]);

    // From a recipe, and as a clone.
    let made = home.json(&["launch", "--name", "box3", "--image", "clone:web1"]);
    assert_eq!(made["name"], "box3");
    let (original, copy) = (lab.vm("web1").await, lab.vm("box3").await);
    assert_eq!(copy.record().int("ram"), original.record().int("ram"));
    home.ok(&["rm", "box3", "--yes"]);
    let made = home.json(&["launch", "--name", "box4", "--image", "recipe:Web server"]);
    assert_eq!(made["state"], "running", "{made}");
    home.ok(&["rm", made["id"].as_str().unwrap(), "--yes"]);
    lab.server.stop().await;
}

/// What VergeOS cannot do is said before anything is sent, with the way that there is.
#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_not_is_said_before_it_is_sent() {
    let lab = Lab::start().await;
    let home = &lab.home;
    let asked = || lab.client().logs().list();
    let before = asked().await.unwrap().len();
    for (args, code, words) in [
        (&["exec", "web1", "--", "true"][..], 125, "SSH"),
        (&["shell", "web1"], 125, "SSH"),
        (&["cp", "web1:/etc/hostname", "x"], 7, "SSH"),
        (&["pause", "web1"], 7, "hibernate"),
        (&["logs", "web1", "--follow"], 7, "logs"),
        (&["launch", "--env", "A=b"], 7, "cloud-init"),
        (&["launch", "--snapshot", "1"], 7, "restore"),
        (&["show", "no-such-machine"], 3, "no-such-machine"),
    ] {
        let (got, said) = home.fails(args);
        assert_eq!(got, code, "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
    assert_eq!(asked().await.unwrap().len(), before);
    // An error has its kind in JSON too.
    let (code, words) = home.fails(&["pause", "web1", "-o", "json"]);
    let error: Value = serde_json::from_str(&words).unwrap();
    assert_eq!((code, &error["error"]["kind"]), (7, &json!("unsupported")));
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn native_members() {
    let lab = Lab::start().await;
    let home = &lab.home;
    let list = home.json(&["vergeos", "vms", "list"]);
    let names: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"web1"), "{names:?}");
    let web1 = home.json(&["vergeos", "vms", "get", "--name", "web1"]);
    let key = web1["$key"].to_string();
    let drives = home.json(&["vergeos", "vms.drives", "list", &key]);
    assert!(!drives.as_array().unwrap().is_empty());
    let filtered = home.json(&["vergeos", "vms", "list", "--where", "name eq 'db1'"]);
    assert_eq!(filtered.as_array().unwrap().len(), 1);

    // A write, read back.
    let made = home.json(&[
        "vergeos",
        "networks",
        "create",
        "--name",
        "cli-net",
        "--network-type",
        "internal",
    ]);
    let net = made["$key"].to_string();
    home.ok(&["vergeos", "networks", "power-on", &net]);
    let rule = [
        "vergeos",
        "networks.rules",
        "create",
        &net,
        "--name",
        "ssh",
        "--direction",
        "incoming",
        "--action",
        "accept",
        "--protocol",
        "tcp",
        "--destination-ports",
        "22",
    ];
    let rule = home.json(&rule);
    let rules = home.json(&["vergeos", "networks.rules", "list", &net]);
    let rules = rules.as_array().unwrap();
    assert!(rules.iter().any(|r| r["$key"] == rule["$key"]));
    let update = [
        "vergeos",
        "networks",
        "update",
        "--key",
        &net,
        "--set",
        "description=of the command line",
    ];
    home.ok(&update);
    let seen = home.json(&["vergeos", "networks", "get", "--key", &net]);
    assert_eq!(seen["description"], "of the command line");

    // Errors by meaning.
    let (code, words) = home.fails(&["vergeos", "vms", "get", "--name", "nobody"]);
    assert_eq!(code, 3, "{words}");
    let twice = [
        "vergeos",
        "networks",
        "create",
        "--name",
        "cli-net",
        "--network-type",
        "internal",
    ];
    let (code, words) = home.fails(&twice);
    assert_eq!(code, 4, "{words}");
    let (code, words) = home.fails(&["vergeos", "networks", "delete", "--key", &net, "--yes"]);
    assert_eq!(code, 4, "a running network: {words}");
    // Nothing is changed where only reading is allowed, and nothing is asked.
    let (code, words) = home.fails(&[
        "vergeos",
        "networks",
        "delete",
        "--key",
        &net,
        "--read-only",
    ]);
    assert_eq!(code, 5, "{words}");
    home.ok(&["vergeos", "networks", "power-off", &net]);
    home.ok(&["vergeos", "networks", "delete", "--key", &net, "--yes"]);
    assert_eq!(
        home.fails(&["vergeos", "networks", "get", "--key", &net]).0,
        3
    );
    lab.server.stop().await;
}

/// The vendor's own variables are a context by name only.
#[tokio::test(flavor = "multi_thread")]
async fn the_variables_are_a_context() {
    let lab = Lab::start().await;
    let mut c = lab
        .home
        .command(&["ls", "--on", "env:vergeos", "-o", "name"]);
    c.env("VERGE_HOST", lab.server.url())
        .env("VERGE_USERNAME", "admin")
        .env("VERGE_PASSWORD", &lab.password);
    let out = c.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("web1"), "{out:?}");
    let mut c = lab.home.command(&["ls", "--on", "env:vergeos"]);
    c.env("VERGE_HOST", lab.server.url())
        .env("VERGE_USERNAME", "admin")
        .env("VERGE_PASSWORD", "wrong");
    let out = c.output().unwrap();
    assert_eq!(out.status.code(), Some(5), "{out:?}");
    lab.server.stop().await;
}
