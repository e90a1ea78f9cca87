//! The client against boxrig's own server and instances that really run.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use boxrig_engine::Selection;
use boxrig_fastvm::*;
use boxrig_server::testing::Server;
use boxrig_wire::Kind;
use futures_util::StreamExt;

/// A server with one machine, or a word on why there is none here.
async fn machine() -> Option<(Server, Client, String)> {
    let server = match Server::on(Selection::Sandbox).await {
        Ok(server) => server,
        Err(e) if std::env::var_os("BOXRIG_REQUIRE").is_none() => {
            eprintln!("skipped: no sandbox here: {e}");
            return None;
        }
        Err(e) => panic!("no sandbox here: {e}"),
    };
    let client = Client::builder()
        .api_key(server.api_key())
        .base_url(server.url())
        .build()
        .unwrap();
    let launch = Launch::new("c1m2").name("live");
    let vm = client.vms().launch(launch).await.unwrap().vm;
    assert_eq!(vm.status, VmStatus::Running);
    Some((server, client, vm.id))
}

fn tree(root: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut stack = vec![root.to_owned()];
    while let Some(dir) = stack.pop() {
        for found in fs::read_dir(dir).unwrap() {
            let path = found.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let mtime = boxrig_test_mtime(&meta);
            if meta.is_symlink() {
                out.push(format!(
                    "{name} -> {}",
                    fs::read_link(&path).unwrap().display()
                ));
            } else if meta.is_dir() {
                out.push(format!("{name}/ {:o}", meta.permissions().mode() & 0o777));
                stack.push(path);
            } else {
                let content = fs::read(&path).unwrap();
                out.push(format!(
                    "{name} {:o} {mtime} {content:?}",
                    meta.permissions().mode() & 0o777
                ));
            }
        }
    }
    out.sort();
    out
}

fn boxrig_test_mtime(meta: &fs::Metadata) -> u64 {
    let since = meta
        .modified()
        .unwrap()
        .duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_and_stream() {
    let Some((server, client, vm)) = machine().await else {
        return;
    };
    let vms = client.vms();
    let out = vms
        .run(&vm, "echo out; echo err >&2; exit 3")
        .await
        .unwrap();
    assert_eq!(
        (out.exit_code, out.stdout.as_str(), out.stderr.as_str()),
        (3, "out\n", "err\n")
    );
    let out = vms
        .run(&vm, Exec::new(["cat"]).stdin("in\0put"))
        .await
        .unwrap();
    assert_eq!(out.stdout, "in\0put");
    let out = vms
        .stream(&vm, "printf a; printf b >&2; exit 7")
        .await
        .unwrap()
        .output()
        .await;
    assert_eq!(
        (out.stdout.as_slice(), out.stderr.as_slice()),
        (&b"a"[..], &b"b"[..])
    );
    assert_eq!(out.end.unwrap().code, 7);
    // What came until the deadline is given, and the command does not outlive it.
    let exec =
        Exec::new("echo begun; sleep 60; touch /tmp/survived").deadline(Duration::from_millis(400));
    let out = vms.run(&vm, exec).await.unwrap();
    assert!(out.timed_out && out.stdout == "begun\n", "{out:?}");
    let exec = Exec::new("echo begun; sleep 60").timeout(Duration::from_secs(1));
    let out = vms.run(&vm, exec).await.unwrap();
    assert!(out.timed_out && out.stdout == "begun\n", "{out:?}");
    let none_sleeps = "for i in 1 2 3 4 5 6 7 8 9 10; do n=0; for p in /proc/[0-9]*/comm; do read c <$p && [ $c = sleep ] && n=1; done; [ $n = 0 ] && exit 0; sleep 0.2; done; exit 1";
    // The loop's own sleep is over when it looks.
    assert_eq!(vms.run(&vm, none_sleeps).await.unwrap().exit_code, 0);
    // Dropping a stream ends its command.
    let mut events = vms.stream(&vm, "echo on; exec sleep 61").await.unwrap();
    assert_eq!(
        events.next().await.unwrap().unwrap(),
        ExecEvent::Stdout("on\n".into())
    );
    drop(events);
    assert_eq!(vms.run(&vm, none_sleeps).await.unwrap().exit_code, 0);
    // A heartbeat tells a quiet command from a dead connection.
    let exec = Exec::new("sleep 3; echo late").idle_timeout(Duration::from_secs(2));
    let out = vms.stream(&vm, exec).await.unwrap().output().await;
    assert_eq!(out.end.map(|e| e.code).map_err(|e| e.to_string()), Ok(0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_and_come_back() {
    let Some((server, client, vm)) = machine().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let odd = [
        "plain.txt",
        "-dash",
        "a b",
        "q'uo\"te",
        "new\nline",
        "ünï",
        "[x]{y}*?$HOME`id`",
    ];
    for (i, name) in odd.iter().enumerate() {
        let content = vec![b'a' + i as u8; i * 100_000];
        fs::write(at(name), &content).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o640)).unwrap();
        let remote = format!("/root/in/{name}");
        let report = client.upload(&vm, at(name), &remote).await.unwrap();
        assert_eq!(
            (report.bytes, report.checked),
            (content.len() as u64, Checked::Sha256),
            "{name}"
        );
        let local = at("back").join(name);
        let report = client.download(&vm, &remote, &local).await.unwrap();
        assert_eq!(report.checked, Checked::Sha256, "{name}");
        assert_eq!(fs::read(&local).unwrap(), content, "{name}");
        let (a, b) = (
            fs::metadata(at(name)).unwrap(),
            fs::metadata(&local).unwrap(),
        );
        assert_eq!(a.permissions().mode(), b.permissions().mode());
        assert_eq!(boxrig_test_mtime(&a), boxrig_test_mtime(&b));
    }
    // Nothing of ours is left in the machine.
    let left = "find / -xdev -name '*boxrig-*' 2>/dev/null | head";
    assert_eq!(client.vms().run(&vm, left).await.unwrap().stdout, "");
    // Overwriting, also through a link.
    fs::write(at("two"), "two").unwrap();
    client
        .vms()
        .run(&vm, "ln -s /root/in/plain.txt /root/link")
        .await
        .unwrap();
    client.upload(&vm, at("two"), "/root/link").await.unwrap();
    assert_eq!(
        client
            .vms()
            .run(&vm, "cat /root/in/plain.txt; readlink /root/link")
            .await
            .unwrap()
            .stdout,
        "two/root/in/plain.txt\n"
    );
    let e = client.upload(&vm, at("two"), "/root/in").await.unwrap_err();
    assert!(e.to_string().contains("is a directory"), "{e}");
    let e = client.download(&vm, "/no/such", at("x")).await.unwrap_err();
    assert_eq!(
        (e.kind(), e.code().unwrap().raw()),
        (Kind::NotFound, "ENOENT")
    );
    assert!(!at("x").exists());
    let e = client
        .download(&vm, "/root/in/plain.txt", dir.path())
        .await
        .unwrap_err();
    assert!(e.to_string().contains("is a directory"), "{e}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_go_and_come_back() {
    let Some((server, client, vm)) = machine().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let src = dir.path().join("src");
    fs::create_dir_all(src.join("deep/er/empty")).unwrap();
    fs::write(src.join("a"), "a").unwrap();
    fs::write(src.join("empty"), "").unwrap();
    fs::write(src.join("deep/-x 'y\"\n"), vec![7; 300_000]).unwrap();
    let long = "l".repeat(120);
    fs::write(src.join("deep/er").join(&long), "long").unwrap();
    fs::write(src.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(src.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(src.join("a"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(src.join("deep/er/empty"), fs::Permissions::from_mode(0o500)).unwrap();
    symlink("deep/er", src.join("link")).unwrap();
    symlink(&long, src.join("deep/er/here")).unwrap();
    let report = client.upload(&vm, &src, "/root/dst").await.unwrap();
    assert!(report.directory && report.checked == Checked::Sha256);
    assert_eq!((report.entries, report.skipped_count), (11, 0));
    let back = dir.path().join("back");
    let report = client.download(&vm, "/root/dst", &back).await.unwrap();
    assert_eq!(
        (report.checked, report.skipped_count),
        (Checked::Gzip, 0),
        "{report:?}"
    );
    assert_eq!(tree(&back), tree(&src));
    // Merged into what is there; what is not in the archive stays.
    fs::write(back.join("mine"), "mine").unwrap();
    client
        .vms()
        .run(&vm, "echo changed > /root/dst/run.sh")
        .await
        .unwrap();
    client.download(&vm, "/root/dst", &back).await.unwrap();
    assert_eq!(
        fs::read_to_string(back.join("run.sh")).unwrap(),
        "changed\n"
    );
    assert_eq!(fs::read_to_string(back.join("mine")).unwrap(), "mine");
    client.upload(&vm, &src, "/root/dst/").await.unwrap();
    let out = client
        .vms()
        .run(&vm, "cat /root/dst/run.sh; ls /root | wc -l")
        .await
        .unwrap();
    assert_eq!(out.stdout, "#!/bin/sh\n1\n");
    let e = client.upload(&vm, &src, "/root/dst/a").await.unwrap_err();
    assert!(e.to_string().contains("not a directory"), "{e}");
    // Links out of the directory are left out unless asked for, and named.
    client.vms().run(&vm, "mkdir /root/l && cd /root/l && ln -s /etc/passwd abs && ln -s ../../x up && ln -s a/.. odd && mkfifo pipe && chmod 4755 . && touch ok && chmod 4755 ok").await.unwrap();
    let out = dir.path().join("l");
    let report = client.download(&vm, "/root/l", &out).await.unwrap();
    assert_eq!(report.skipped_count, 4, "{report:?}");
    assert_eq!(tree(&out).len(), 1);
    assert_eq!(
        fs::metadata(out.join("ok")).unwrap().permissions().mode() & 0o7777,
        0o755
    );
    let mut options = TransferOptions::new();
    options.outside_links = OutsideLinks::Keep;
    client
        .download_with(&vm, "/root/l", &out, &options)
        .await
        .unwrap();
    assert_eq!(
        fs::read_link(out.join("abs")).unwrap(),
        Path::new("/etc/passwd")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_is_a_terminal() {
    let Some((server, client, vm)) = machine().await else {
        return;
    };
    let size = ConsoleSize {
        cols: 101,
        rows: 33,
    };
    let mut console = client.vms().console(&vm, size).await.unwrap();
    console.write("stty size; exit 0\n").await.unwrap();
    let mut shown = Vec::new();
    while let Some(bytes) = console.read().await.unwrap() {
        shown.extend_from_slice(&bytes);
    }
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("33 101"), "{shown}");
    server.stop().await;
}
