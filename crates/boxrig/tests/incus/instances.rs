//! Native operations of one instance, and of the server itself.

use std::time::Duration;

use serde_json::{Value, json};

use super::lab::Lab;

#[test]
fn a_life() {
    let Some(lab) = Lab::open("instances.rs::a_life") else {
        return;
    };
    let name = lab.name("life");
    lab.later(&["delete", "--force", &name]);
    let path = format!("/1.0/instances/{name}");
    let new = json!({"name": name, "source": {"type": "image", "alias": "busybox"}, "description": "new"});
    let ended = lab.native("instances_post", &["-d", &new.to_string()]);
    assert_eq!(ended["status_code"], 200);
    assert_eq!(lab.see(&path).unwrap()["description"], "new");
    lab.confirmed("instances_post");

    let got = lab.native("instance_get", &[&name]);
    assert_eq!(got["config"], lab.see(&path).unwrap()["config"]);
    lab.confirmed("instance_get");
    let list = lab.native("instances_get", &["--where", &format!("name eq {name}")]);
    assert_eq!(list, json!([path]));
    lab.confirmed("instances_get");

    lab.native(
        "instance_patch",
        &[&name, "-d", r#"{"config": {"user.a": "1"}}"#],
    );
    assert_eq!(lab.see(&path).unwrap()["config"]["user.a"], "1");
    lab.confirmed("instance_patch");
    let mut whole = lab.see(&path).unwrap();
    whole["description"] = "replaced".into();
    lab.native("instance_put", &[&name, "-d", &whole.to_string()]);
    assert_eq!(lab.see(&path).unwrap()["description"], "replaced");
    lab.confirmed("instance_put");

    let state = |wanted: &str| assert_eq!(lab.see(&path).unwrap()["status"], wanted);
    lab.native("instance_state_put", &[&name, "-d", "action=start"]);
    state("Running");
    lab.confirmed("instance_state_put");
    let got = lab.native("instance_state_get", &[&name]);
    let seen = lab.see(&format!("{path}/state")).unwrap();
    assert_eq!(
        (&got["pid"], &got["status"]),
        (&seen["pid"], &seen["status"])
    );
    lab.confirmed("instance_state_get");
    lab.native(
        "instance_state_put",
        &[&name, "-d", "action=stop", "-d", "force=true"],
    );
    state("Stopped");

    let new_name = format!("{name}b");
    lab.later(&["delete", "--force", &new_name]);
    lab.native(
        "instance_post",
        &[&name, "-d", &json!({"name": new_name}).to_string()],
    );
    assert!(lab.see(&path).is_none());
    let path = format!("/1.0/instances/{new_name}");
    assert!(lab.see(&path).is_some());
    lab.confirmed("instance_post");

    let rebuild = r#"{"source": {"type": "none"}}"#;
    lab.native("instance_rebuild_post", &[&new_name, "-d", rebuild]);
    let config = &lab.see(&path).unwrap()["config"];
    assert_eq!(config.get("image.os"), None, "{config}");
    lab.confirmed("instance_rebuild_post");
    lab.native("instance_delete", &[&new_name]);
    assert!(lab.see(&path).is_none());
    lab.confirmed("instance_delete");
}

#[test]
fn files() {
    let Some(lab) = Lab::open("instances.rs::files") else {
        return;
    };
    let name = lab.instance("files", false);
    let there = format!("{name}/tmp/a b");
    let here = lab.home.path().join("content");
    let content: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    std::fs::write(&here, &content).unwrap();
    let body = format!("@{}", here.display());
    lab.native(
        "instance_files_post",
        &[
            &name, "--path", "/tmp/a b", "--mode", "0640", "--uid", "7", "-d", &body,
        ],
    );
    let out = lab.official(&["file", "pull", &there, "-"]);
    assert!(out.status.success() && out.stdout == content);
    lab.confirmed("instance_files_post");

    lab.says(&[
        "file",
        "push",
        here.to_str().unwrap(),
        &format!("{name}/tmp/pushed"),
    ]);
    let out = lab.home.run(&[
        "incus",
        "instance-files-get",
        &name,
        "--path",
        "/tmp/pushed",
    ]);
    assert!(
        out.status.success() && out.stdout == content,
        "{}",
        out.stdout.len()
    );
    let list = lab.native("instance_files_get", &[&name, "--path", "/tmp"]);
    let has = |file: &str| list.as_array().unwrap().contains(&json!(file));
    assert!(has("a b") && has("pushed"), "{list}");
    lab.confirmed("instance_files_get");
    let (code, _) = lab
        .home
        .fails(&["incus", "instance-files-head", &name, "--path", "/tmp/no"]);
    assert_eq!(code, 3);
    lab.home.ok(&[
        "incus",
        "instance-files-head",
        &name,
        "--path",
        "/tmp/pushed",
    ]);
    lab.confirmed("instance_files_head");
    lab.native("instance_files_delete", &[&name, "--path", "/tmp/a b"]);
    assert!(
        !lab.official(&["file", "pull", &there, "-"])
            .status
            .success()
    );
    lab.confirmed("instance_files_delete");
}

#[test]
fn commands_and_their_records() {
    let Some(lab) = Lab::open("instances.rs::commands_and_their_records") else {
        return;
    };
    let name = lab.instance("exec", true);
    let post = json!({"command": ["sh", "-c", "echo said; touch /tmp/done; exit 3"], "record-output": true});
    let ended = lab.native("instance_exec_post", &[&name, "-d", &post.to_string()]);
    assert_eq!(ended["metadata"]["return"], 3);
    assert!(
        lab.official(&["file", "pull", &format!("{name}/tmp/done"), "-"])
            .status
            .success()
    );
    lab.confirmed("instance_exec_post");
    let at = format!("/1.0/instances/{name}/logs/exec-output");
    let records = lab.native("instance_exec-outputs_get", &[&name]);
    assert_eq!(records, lab.see(&at).unwrap());
    lab.confirmed("instance_exec-outputs_get");
    let file = |n: usize| {
        let url = records[n].as_str().unwrap();
        url.rsplit('/').next().unwrap().to_owned()
    };
    let texts: Vec<String> = (0..2)
        .map(|n| {
            lab.home
                .ok(&["incus", "instance-exec-output-get", &name, &file(n)])
        })
        .collect();
    assert!(texts.contains(&"said\n".to_owned()), "{texts:?}");
    lab.confirmed("instance_exec-output_get");
    lab.native("instance_exec-output_delete", &[&name, &file(0)]);
    assert_eq!(lab.see(&at).unwrap().as_array().unwrap().len(), 1);
    lab.confirmed("instance_exec-output_delete");
}

#[test]
fn logs_console_and_metadata() {
    let Some(lab) = Lab::open("instances.rs::logs_console_and_metadata") else {
        return;
    };
    let name = lab.instance("logs", true);
    let logs = lab.native("instance_logs_get", &[&name]);
    assert_eq!(
        logs,
        lab.see(&format!("/1.0/instances/{name}/logs")).unwrap()
    );
    lab.confirmed("instance_logs_get");
    let file = logs[0].as_str().unwrap().rsplit('/').next().unwrap();
    let seen = lab.says(&["query", &format!("/1.0/instances/{name}/logs/{file}")]);
    let text = lab.home.ok(&["incus", "instance-log-get", &name, file]);
    assert_eq!(text.trim(), seen.trim());
    lab.confirmed("instance_log_get");
    // The daemon shows each line of a running container's console once, to whoever asks first.
    let say = |word: &str| {
        let line = format!("echo {word} > /dev/console; sleep 0.3");
        lab.says(&["exec", &name, "--", "sh", "-c", &line]);
    };
    say("first-word");
    let console = lab.home.ok(&["incus", "instance-console-get", &name]);
    assert!(console.contains("first-word"), "{console:?}");
    let again = lab.says(&["console", &name, "--show-log"]);
    assert!(!again.contains("first-word"), "{again}");
    lab.confirmed("instance_console_get");
    say("second-word");
    lab.native("instance_console_delete", &[&name]);
    let left = lab.says(&["console", &name, "--show-log"]);
    assert!(!left.contains("second-word"), "{left}");
    lab.confirmed("instance_console_delete");

    let at = format!("/1.0/instances/{name}/metadata");
    let metadata = lab.native("instance_metadata_get", &[&name]);
    assert_eq!(metadata["properties"], lab.see(&at).unwrap()["properties"]);
    lab.confirmed("instance_metadata_get");
    let patch = r#"{"properties": {"os": "merged"}}"#;
    lab.native("instance_metadata_patch", &[&name, "-d", patch]);
    assert_eq!(lab.see(&at).unwrap()["properties"]["os"], "merged");
    lab.confirmed("instance_metadata_patch");
    let mut whole = metadata;
    whole["properties"]["os"] = "replaced".into();
    lab.native("instance_metadata_put", &[&name, "-d", &whole.to_string()]);
    assert_eq!(lab.see(&at).unwrap()["properties"]["os"], "replaced");
    lab.confirmed("instance_metadata_put");

    let file = lab.home.path().join("template");
    std::fs::write(&file, "{{ instance.name }}\n").unwrap();
    let body = format!("@{}", file.display());
    let path = ["--path", "t.tpl"];
    lab.native(
        "instance_metadata_templates_post",
        &[&name, path[0], path[1], "-d", &body],
    );
    assert_eq!(
        lab.says(&["config", "template", "show", &name, "t.tpl"]),
        "{{ instance.name }}\n"
    );
    lab.confirmed("instance_metadata_templates_post");
    let got = lab.home.ok(&[
        "incus",
        "instance-metadata-templates-get",
        &name,
        path[0],
        path[1],
    ]);
    assert_eq!(got, "{{ instance.name }}\n");
    lab.confirmed("instance_metadata_templates_get");
    lab.native(
        "instance_metadata_templates_delete",
        &[&name, path[0], path[1]],
    );
    let left = lab.says(&["config", "template", "list", &name, "--format", "csv"]);
    assert!(!left.contains("t.tpl"), "{left}");
    lab.confirmed("instance_metadata_templates_delete");
}

#[test]
fn what_the_server_says() {
    let Some(lab) = Lab::open("instances.rs::what_the_server_says") else {
        return;
    };
    let server = lab.native("server_get", &[]);
    let seen = lab.see("/1.0").unwrap();
    assert_eq!(server["api_extensions"], seen["api_extensions"]);
    lab.confirmed("server_get");
    assert_eq!(lab.native("api_get", &[]), lab.see("/").unwrap());
    lab.confirmed("api_get");
    for (id, path, member) in [
        ("resources_get", "/1.0/resources", "system"),
        (
            "metadata_configuration_get",
            "/1.0/metadata/configuration",
            "configs",
        ),
        ("cluster_get", "/1.0/cluster", "enabled"),
    ] {
        let got = lab.native(id, &[]);
        assert_eq!(got[member], lab.see(path).unwrap()[member], "{id}");
        lab.confirmed(id);
    }
    let fingerprint = lab.see("/1.0/images/aliases/busybox").unwrap()["target"].clone();
    let fingerprint = fingerprint.as_str().unwrap();
    let image = lab.native("image_get", &[fingerprint]);
    let seen = lab.see(&format!("/1.0/images/{fingerprint}")).unwrap();
    assert_eq!(
        (&image["size"], &image["properties"]),
        (&seen["size"], &seen["properties"])
    );
    lab.confirmed("image_get");
    let images = lab.native("images_get", &[]);
    let url = json!(format!("/1.0/images/{fingerprint}"));
    assert!(images.as_array().unwrap().contains(&url));
    lab.confirmed("images_get");
    let out = lab.home.run(&["incus", "image-export-get", fingerprint]);
    assert_eq!(json!(out.stdout.len()), seen["size"]);
    lab.confirmed("image_export_get");
    let secret = lab.native("images_secret_post", &[fingerprint]);
    let operation = format!("/1.0/operations/{}", secret["id"].as_str().unwrap());
    assert_eq!(
        lab.see(&operation).unwrap()["metadata"]["secret"],
        secret["metadata"]["secret"]
    );
    lab.confirmed("images_secret_post");
    lab.native("operation_delete", &[secret["id"].as_str().unwrap()]);
    let warnings = lab.native("warnings_get", &["--recursion", "1"]);
    let seen = lab.see("/1.0/warnings?recursion=1").unwrap();
    assert_eq!(
        warnings.as_array().map(Vec::len),
        seen.as_array().map(Vec::len)
    );
    lab.confirmed("warnings_get");
    // The daemon measures every few seconds only.
    let name = lab.instance("metric", true);
    let begin = std::time::Instant::now();
    while !lab.home.ok(&["incus", "metrics-get"]).contains(&name) {
        assert!(begin.elapsed() < Duration::from_secs(30), "no metrics");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(lab.says(&["query", "/1.0/metrics"]).contains(&name));
    lab.confirmed("metrics_get");
}

#[test]
fn operations_and_tokens() {
    let Some(lab) = Lab::open("instances.rs::operations_and_tokens") else {
        return;
    };
    let name = lab.name("token");
    let post = json!({"type": "client", "token": true, "name": name}).to_string();
    let token = lab.native("certificates_post", &["-d", &post]);
    let id = token["id"].as_str().unwrap();
    let path = format!("/1.0/operations/{id}");
    assert_eq!(token["class"], "token");
    let got = lab.native("operation_get", &[id]);
    assert_eq!(got["created_at"], lab.see(&path).unwrap()["created_at"]);
    lab.confirmed("operation_get");
    let all = lab
        .native("operations_get", &["--recursion", "1"])
        .to_string();
    assert!(all.contains(id));
    lab.confirmed("operations_get");
    lab.native("operation_delete", &[id]);
    assert!(
        !lab.says(&["config", "trust", "list-tokens", "--format", "csv"])
            .contains(&name)
    );
    lab.confirmed("operation_delete");

    let instance = lab.instance("wait", true);
    let post = json!({"command": ["sleep", "1"]}).to_string();
    let started = lab.native("instance_exec_post", &[&instance, "--no-wait", "-d", &post]);
    assert_eq!(started["status_code"], 103, "{started}");
    let id = started["id"].as_str().unwrap();
    let ended = lab.native("operation_wait_get", &[id, "--wait-timeout", "20"]);
    assert_eq!(ended["metadata"]["return"], 0);
    lab.confirmed("operation_wait_get");
}

#[test]
fn events_come_a_line_each() {
    let Some(lab) = Lab::open("instances.rs::events_come_a_line_each") else {
        return;
    };
    let mut events = lab
        .home
        .command(&["incus", "events-get", "--type", "lifecycle", "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (send, lines) = std::sync::mpsc::channel();
    let out = events.stdout.take().unwrap();
    std::thread::spawn(move || {
        use std::io::BufRead;
        for line in std::io::BufReader::new(out).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    std::thread::sleep(Duration::from_millis(700));
    let name = lab.name("event");
    lab.later(&["profile", "delete", &name]);
    lab.says(&["profile", "create", &name]);
    let found = loop {
        let line = lines.recv_timeout(Duration::from_secs(10)).unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["metadata"]["action"] == "profile-created" && line.contains(&name) {
            break event;
        }
    };
    assert_eq!(found["type"], "lifecycle");
    lab.confirmed("events_get");
    events.kill().unwrap();
    events.wait().unwrap();
}

#[test]
fn sftp_goes_through() {
    let Some(lab) = Lab::open("instances.rs::sftp_goes_through") else {
        return;
    };
    let name = lab.instance("sftp", false);
    let mut sftp = lab
        .home
        .command(&["incus", "instance-sftp", &name, "-o", "json"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::{Read, Write};
    // SSH_FXP_INIT of version 3; the answer is SSH_FXP_VERSION (2) of the same.
    let mut input = sftp.stdin.take().unwrap();
    input.write_all(&[0, 0, 0, 5, 1, 0, 0, 0, 3]).unwrap();
    let mut head = [0; 9];
    sftp.stdout.take().unwrap().read_exact(&mut head).unwrap();
    assert_eq!(head[4..], [2, 0, 0, 0, 3]);
    lab.confirmed("instance_sftp");
    drop(input);
    sftp.kill().unwrap();
    sftp.wait().unwrap();
}
