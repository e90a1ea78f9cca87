//! What goes wrong, and the exit code that says so.

use std::time::{Duration, Instant};

use super::lab::{Lab, Network};

#[test]
fn every_failure_has_its_code() {
    let Some(lab) = Lab::open("errors.rs::every_failure_has_its_code") else {
        return;
    };
    let name = lab.instance("err", false);
    let missing = lab.home.path().join("no.socket");
    let nowhere = format!("incus+unix://{}", missing.display());
    lab.home.ok(&["ctx", "add", "nowhere", &nowhere]);
    lab.home.ok(&[
        "ctx",
        "add",
        "bare",
        &format!("incus+unix://{}", lab.socket),
    ]);
    let url = format!("incus+unix://{}", lab.socket);
    lab.home
        .ok(&["ctx", "add", "other", &url, "--project", "no-such-project"]);
    lab.home.ok(&["ctx", "add", "look", &url, "--only-read"]);
    for (args, code, words) in [
        (&["show", "op-no-such"][..], 3, "no such instance"),
        (
            &["launch", "--image", "no-such-image"],
            3,
            "no image is called",
        ),
        (&["launch", "--on", "bare"], 2, "--image"),
        (&["launch", "--name", &name], 4, "there already"),
        (&["launch", "--ttl", "1h"], 7, "time to live"),
        (&["show", &name, "--on", "other"], 3, "no such instance"),
        (&["rm", &name, "--on", "look"], 5, "reading only"),
        (&["ls", "--on", "nowhere"], 6, "no.socket"),
        (&["restore", &name, "none", "--yes"], 3, ""),
        (&["incus", "profile-delete", "default"], 5, ""),
        (
            &["incus", "profiles-post", "-d", "name=default"],
            4,
            "already exists",
        ),
        (
            &["incus", "profiles-post", "-d", "config=3"],
            2,
            "expected a map",
        ),
        (&["incus", "instance-get", ".."], 2, "cannot be addressed"),
        (&["incus", "instance-nvram-get", &name], 7, "instance_nvram"),
        (&["exec", &name, "--", "true"], 125, "conflict"),
        (&["exec", "op-no-such", "--", "true"], 125, "not_found"),
    ] {
        let begin = Instant::now();
        let (got, said) = lab.home.fails(args);
        assert_eq!(got, code, "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        assert!(begin.elapsed() < Duration::from_secs(15), "{args:?}");
    }
    assert!(lab.see(&format!("/1.0/instances/{name}")).is_some());
}

#[test]
fn strangers_are_kept_out() {
    let Some(lab) = Lab::open("errors.rs::strangers_are_kept_out") else {
        return;
    };
    let network = Network::of_daemon().expect("BOXRIG_INCUS_HTTPS names no address");
    let pem = std::fs::read(&network.server_cert).unwrap();
    let pin = boxrig::incus::fingerprint_of_pem(&pem).unwrap();
    let url = format!("incus://{}", network.host);
    let (cert, key) = lab.certificate("stranger");
    use std::os::unix::fs::PermissionsExt;
    let mode = |mode| std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o600);
    let files = [
        "--cert-file",
        cert.to_str().unwrap(),
        "--key-file",
        key.to_str().unwrap(),
    ];
    let add = |name: &str, more: &[&str]| {
        let mut args = vec!["ctx", "add", name, &url];
        args.extend(more);
        lab.home.ok(&args);
    };
    add("unknown", &[&["--pin", &pin][..], &files[..]].concat());
    add("unpinned", &[]);
    add("mistaken", &["--pin", &"ab".repeat(32)]);
    let (code, said) = lab.home.fails(&["ls", "--on", "unknown"]);
    assert_eq!(code, 5, "{said}");
    let (code, said) = lab.home.fails(&["ls", "--on", "unpinned"]);
    assert_eq!(code, 6, "{said}");
    let (code, said) = lab.home.fails(&["ls", "--on", "mistaken"]);
    assert!(
        code == 6 && said.contains("not the pinned one"),
        "{code} {said}"
    );
    // A key that others can read is not used.
    mode(0o644);
    let (code, said) = lab.home.fails(&["ls", "--on", "unknown"]);
    assert!(code == 5 && said.contains("chmod 600"), "{code} {said}");
}
