//! The verbs that all platforms share, on an Incus context.

use std::process::Stdio;

use serde_json::json;

use super::lab::Lab;

#[test]
fn launch_power_and_remove() {
    let Some(lab) = Lab::open("verbs.rs::launch_power_and_remove") else {
        return;
    };
    let name = lab.name("verbs");
    lab.later(&["delete", "--force", &name]);
    let made = lab.home.json(&[
        "launch", "--name", &name, "--cpus", "1", "--memory", "128MiB", "--label", "team=web",
        "--env", "A=b c",
    ]);
    assert_eq!(
        (&made["state"], &made["memory"]),
        (&json!("running"), &json!(128 << 20))
    );
    let path = format!("/1.0/instances/{name}");
    let seen = lab.see(&path).unwrap();
    assert_eq!(seen["config"]["user.team"], "web");
    assert_eq!(seen["config"]["limits.cpu"], "1");
    assert_eq!(seen["config"]["environment.A"], "b c");
    lab.confirmed("instances_post");
    let list = lab.home.json(&["ls", "--label", "team=web"]);
    assert_eq!(list[0]["name"], name.as_str());
    assert_eq!(list[0]["raw"]["architecture"], seen["architecture"]);

    lab.home
        .ok(&["wait", &name, "--for", "ip", "--timeout", "30s"]);
    let shown = lab.home.json(&["show", &name]);
    let seen = lab.says(&["list", &name, "--columns", "4", "--format", "csv"]);
    assert!(
        seen.contains(shown["ips"][0].as_str().unwrap()),
        "{shown} {seen}"
    );

    let state = |wanted: &str| assert_eq!(lab.see(&path).unwrap()["status"], wanted);
    for (verb, wanted) in [
        (&["pause"][..], "Frozen"),
        (&["resume"], "Running"),
        (&["restart", "--force"], "Running"),
        (&["stop", "--force"], "Stopped"),
        (&["start"], "Running"),
    ] {
        let mut args = verb.to_vec();
        args.push(&name);
        lab.home.ok(&args);
        state(wanted);
    }
    lab.confirmed("instance_state_put");
    lab.home.ok(&["rm", &name]);
    assert!(lab.see(&path).is_none());
    lab.confirmed("instance_delete");
}

#[test]
fn a_token_launches_once() {
    let Some(lab) = Lab::open("verbs.rs::a_token_launches_once") else {
        return;
    };
    let token = lab.name("token");
    let launch = || {
        lab.home.json(&["launch", "--token", &token])["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let first = launch();
    lab.later(&["delete", "--force", &first]);
    assert_eq!(launch(), first);
    let all = lab.says(&[
        "list",
        &format!("user.boxrig.token={token}"),
        "--format",
        "csv",
        "--columns",
        "n",
    ]);
    assert_eq!(all.trim(), first);
}

#[test]
fn commands_end_as_they_end() {
    let Some(lab) = Lab::open("verbs.rs::commands_end_as_they_end") else {
        return;
    };
    let name = lab.instance("cmd", true);
    for (argv, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 42"], 42),
        (&["/no/such/program"], 127),
        (&["/etc/passwd"], 126),
        (&["sh", "-c", "kill -TERM $$"], 143),
    ] {
        let mut args = vec!["exec", &name, "--"];
        args.extend(argv);
        let out = lab.home.run(&args);
        let words = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{argv:?}: {words}");
    }
    let out = lab
        .home
        .run(&["exec", &name, "--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(
        (&out.stdout[..], &out.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    // Standard input goes in, and its end.
    let mut cat = lab
        .home
        .command(&[
            "exec",
            "-i",
            &name,
            "--",
            "sh",
            "-c",
            "cat > /tmp/in; wc -c < /tmp/in",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::Write;
    cat.stdin.take().unwrap().write_all(&[7; 300_000]).unwrap();
    let out = cat.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "300000");
    let pulled = lab.official(&["file", "pull", &format!("{name}/tmp/in"), "-"]);
    assert_eq!(pulled.stdout, [7; 300_000]);
    lab.confirmed("instance_exec_post");
    lab.confirmed("operation_websocket_get");
    lab.home.ok(&["wait", &name, "--for", "exec"]);
    lab.home.ok(&["wait", &name, "--for", "file:/tmp/in"]);
    let (code, words) = lab
        .home
        .fails(&["wait", &name, "--for", "file:/none", "--timeout", "1s"]);
    assert_eq!(code, 6, "{words}");
    let (code, words) = lab.home.fails(&["wait", &name, "--for", "cloud-init"]);
    assert_eq!(code, 7, "{words}");
}

#[test]
fn run_leaves_nothing() {
    let Some(lab) = Lab::open("verbs.rs::run_leaves_nothing") else {
        return;
    };
    let out = lab.home.run(&["run", "--", "sh", "-c", "hostname; exit 7"]);
    let host = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    assert_eq!(out.status.code(), Some(7));
    assert!(host.starts_with("box-"), "{host}");
    assert!(lab.see(&format!("/1.0/instances/{host}")).is_none());
}

#[test]
fn files_and_trees_go_both_ways() {
    let Some(lab) = Lab::open("verbs.rs::files_and_trees_go_both_ways") else {
        return;
    };
    let name = lab.instance("cp", true);
    let dir = lab.home.path();
    std::fs::create_dir_all(dir.join("tree/sub/empty")).unwrap();
    std::fs::write(dir.join("tree/sub/file"), vec![9; 100_000]).unwrap();
    std::fs::write(dir.join("tree/a b"), "x").unwrap();
    std::os::unix::fs::symlink("sub/file", dir.join("tree/link")).unwrap();
    lab.home
        .ok(&["cp", "tree/sub/file", &format!("{name}:/root/one")]);
    let pulled = lab.official(&["file", "pull", &format!("{name}/root/one"), "-"]);
    assert_eq!(pulled.stdout, vec![9; 100_000]);
    lab.home.ok(&["cp", "tree", &format!("{name}:/root/new")]);
    let listed = lab.heard(&["exec", &name, "--", "find", "/root/new"]);
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(
        listed,
        [
            "/root/new",
            "/root/new/a b",
            "/root/new/link",
            "/root/new/sub",
            "/root/new/sub/empty",
            "/root/new/sub/file"
        ]
    );
    lab.home.ok(&["cp", &format!("{name}:/root/new"), "back"]);
    assert_eq!(
        std::fs::read(dir.join("back/sub/file")).unwrap(),
        vec![9; 100_000]
    );
    assert_eq!(
        std::fs::read_link(dir.join("back/link")).unwrap().to_str(),
        Some("sub/file")
    );
    assert!(dir.join("back/sub/empty").is_dir());
    let (code, _) = lab.home.fails(&["cp", &format!("{name}:/root/none"), "x"]);
    assert_eq!(code, 3);
}

#[test]
fn snapshots_and_copies() {
    let Some(lab) = Lab::open("verbs.rs::snapshots_and_copies") else {
        return;
    };
    let name = lab.instance("snap", true);
    let (fork, third) = (lab.name("fork"), lab.name("third"));
    lab.later(&["delete", "--force", &fork]);
    lab.later(&["delete", "--force", &third]);
    let read = |of: &str| {
        let out = lab.official(&["file", "pull", &format!("{of}/root/f"), "-"]);
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let write = |text: &str| {
        let line = format!("printf {text} > /root/f");
        lab.says(&["exec", &name, "--", "sh", "-c", &line]);
    };
    write("old");
    let made = lab.home.json(&["snapshot", &name, "--name", "clean"]);
    let id = made["id"].as_str().unwrap();
    assert_eq!(id, format!("{name}/clean"));
    assert!(
        lab.see(&format!("/1.0/instances/{name}/snapshots/clean"))
            .is_some()
    );
    lab.confirmed("instance_snapshots_post");
    write("new");
    lab.home.ok(&["fork", &name, "--name", &fork]);
    assert_eq!(read(&fork), "new");
    lab.home.ok(&["launch", "--snapshot", id, "--name", &third]);
    assert_eq!(read(&third), "old");
    lab.confirmed("instances_post");
    lab.home.ok(&["restore", &name, "clean", "--yes"]);
    assert_eq!(read(&name), "old");
    lab.confirmed("instance_put");
    // The copy is no launch of the original's token, and lives by itself.
    lab.home.ok(&["rm", &name]);
    assert_eq!(
        lab.see(&format!("/1.0/instances/{fork}")).unwrap()["status"],
        "Running"
    );
}

#[test]
fn logs_are_followed() {
    let Some(lab) = Lab::open("verbs.rs::logs_are_followed") else {
        return;
    };
    let name = lab.instance("log", true);
    let mut logs = lab
        .home
        .command(&["logs", "-f", &name])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (send, lines) = std::sync::mpsc::channel();
    let out = logs.stdout.take().unwrap();
    std::thread::spawn(move || {
        use std::io::BufRead;
        for line in std::io::BufReader::new(out).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    std::thread::sleep(std::time::Duration::from_millis(500));
    lab.says(&[
        "exec",
        &name,
        "--",
        "sh",
        "-c",
        "echo now-heard > /dev/console",
    ]);
    loop {
        let line = lines
            .recv_timeout(std::time::Duration::from_secs(10))
            .unwrap();
        if line.contains("now-heard") {
            break;
        }
    }
    logs.kill().unwrap();
    logs.wait().unwrap();
    // The daemon has shown it to us: nobody is shown it again.
    let again = lab.says(&["console", &name, "--show-log"]);
    assert!(!again.contains("now-heard"), "{again}");
    lab.confirmed("instance_console_get");
}
