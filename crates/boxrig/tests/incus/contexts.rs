//! Contexts of Incus: by socket, by certificate, by variables, and taken over from the standard tool.

use super::lab::{Lab, Network};

#[test]
fn by_socket_and_by_variables() {
    let Some(lab) = Lab::open("contexts.rs::by_socket_and_by_variables") else {
        return;
    };
    let tested = lab.home.json(&["ctx", "test", "lab"]);
    assert_eq!(tested["reached"], true);
    assert!(tested["can"].to_string().contains("exactly-once-launch"));
    let name = lab.instance("ctx", false);
    let out = lab
        .home
        .command(&["ls", "--on", "env:incus", "-o", "name"])
        .env("INCUS_SOCKET", &lab.socket)
        .output()
        .unwrap();
    let listed = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(listed.lines().any(|l| l == name), "{listed}");
}

#[test]
fn by_certificate_in_a_project() {
    let Some(lab) = Lab::open("contexts.rs::by_certificate_in_a_project") else {
        return;
    };
    let network = Network::of_daemon().expect("BOXRIG_INCUS_HTTPS names no address");
    let pem = std::fs::read(&network.server_cert).unwrap();
    let pin = boxrig::incus::fingerprint_of_pem(&pem).unwrap();
    let project = lab.name("ctxp");
    lab.later(&["project", "delete", &project]);
    lab.says(&[
        "project",
        "create",
        &project,
        "-c",
        "features.images=false",
        "-c",
        "features.profiles=false",
    ]);
    let url = format!("incus://{}", network.host);
    let mut args = vec![
        "ctx",
        "add",
        "far",
        &url,
        "--pin",
        &pin,
        "--project",
        &project,
    ];
    args.extend([
        "--image",
        "busybox",
        "--cert-file",
        &network.cert,
        "--key-file",
        &network.key,
    ]);
    lab.home.ok(&args);
    let name = lab.name("far");
    lab.home.ok(&["launch", "--on", "far", "--name", &name]);
    let seen = lab.says(&[
        "list",
        "--project",
        &project,
        "--format",
        "csv",
        "--columns",
        "n",
    ]);
    assert_eq!(seen.trim(), name);
    assert!(lab.see(&format!("/1.0/instances/{name}")).is_none());
    let native = lab.home.json(&["incus", "instances-get", "--on", "far"]);
    assert!(native[0].as_str().unwrap().contains(&name), "{native}");
    let out = lab
        .home
        .run(&["exec", &format!("far:{name}"), "--", "echo", "over TLS"]);
    assert_eq!(out.stdout, b"over TLS\n");
    lab.home.ok(&["rm", &format!("far:{name}")]);
    lab.confirmed("instances_get");
}

#[test]
fn taken_over_from_the_standard_tool() {
    let Some(lab) = Lab::open("contexts.rs::taken_over_from_the_standard_tool") else {
        return;
    };
    let network = Network::of_daemon().expect("BOXRIG_INCUS_HTTPS names no address");
    let conf = lab.home.path().join("incus-conf");
    std::fs::create_dir_all(conf.join("servercerts")).unwrap();
    let copy = |from: &str, to: &str| {
        std::fs::copy(from, conf.join(to)).unwrap();
    };
    copy(&network.cert, "client.crt");
    copy(&network.key, "client.key");
    copy(&network.server_cert, "servercerts/far.crt");
    let config = format!(
        "default-remote: far\nremotes:\n  far:\n    addr: https://{}\n    auth_type: tls\n    protocol: incus\n    public: false\n",
        network.host
    );
    std::fs::write(conf.join("config.yml"), config).unwrap();
    let run = |args: &[&str]| {
        let mut command = lab.home.command(args);
        command.env("INCUS_CONF", &conf);
        let out = command.output().unwrap();
        assert!(
            out.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap()
    };
    let shown = run(&[
        "ctx",
        "import",
        "--dry-run",
        "--from",
        "incus",
        "-o",
        "json",
    ]);
    assert!(
        shown.contains("\"added\"") && shown.contains("\"far\""),
        "{shown}"
    );
    assert!(!lab.home.ok(&["ctx", "ls"]).contains("far"));
    run(&["ctx", "import", "--from", "incus"]);
    // The context needs nothing of the tool any more but the files that it names.
    let name = lab.instance("imported", false);
    let listed = lab.home.ok(&["ls", "--on", "far", "-o", "name"]);
    assert!(listed.lines().any(|l| l == name), "{listed}");
    let config = std::fs::read_to_string(lab.home.config()).unwrap();
    let key = std::fs::read_to_string(&network.key).unwrap();
    assert!(!config.contains(key.lines().nth(1).unwrap()));
    let again = run(&["ctx", "import", "--from", "incus", "-o", "json"]);
    assert!(again.contains("\"same\""), "{again}");
    // The default remote is what the variables mean, too.
    assert!(
        run(&["ls", "--on", "env:incus", "-o", "name"])
            .lines()
            .any(|l| l == name)
    );
}

#[test]
fn trusted_by_a_token() {
    let Some(lab) = Lab::open("contexts.rs::trusted_by_a_token") else {
        return;
    };
    let client = lab.name("trusted");
    let token = lab.says(&["config", "trust", "add", &client, "--quiet"]);
    let run = |token: &str, name: &str| {
        let mut command = lab.home.command(&["ctx", "trust", name, "env:TOKEN"]);
        command.env("TOKEN", token).output().unwrap()
    };
    let out = run(token.trim(), "far");
    let words = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{words}");
    let cert = lab.home.path().join(".config/boxrig/incus/client.crt");
    let print = boxrig::incus::fingerprint_of_pem(&std::fs::read(cert).unwrap()).unwrap();
    lab.later(&["config", "trust", "remove", &print]);
    let seen = lab.see(&format!("/1.0/certificates/{print}")).unwrap();
    assert_eq!(seen["name"], client.as_str());
    lab.confirmed("certificates_post");
    lab.home.ok(&["ls", "--on", "far"]);
    let key = lab.home.path().join(".config/boxrig/incus/client.key");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // Once is once, and the token is in no message.
    let again = run(token.trim(), "again");
    assert!(
        [Some(4), Some(5)].contains(&again.status.code()),
        "{again:?}"
    );
    assert!(!String::from_utf8_lossy(&again.stderr).contains(token.trim()));
    let none = run("nonsense", "again");
    assert_eq!(none.status.code(), Some(2));
}
