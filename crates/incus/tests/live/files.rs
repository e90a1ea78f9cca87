//! Files one by one, and directories by tar and SFTP; of running instances and stopped ones.

use std::fs;
use std::path::Path;

use boxrig_incus::{FileKind, FileMode, Found, TreeOptions};
use boxrig_wire::Kind;

use super::support::{incus, incus_try, live, said};

#[tokio::test]
async fn one_by_one() {
    let live = live!("files.rs::one_by_one");
    let guest = live.stopped("file").await;
    let name = &*guest.name;
    let files = live.client.instances().files(name);
    let pull = |path: &str| format!("{name}{path}");
    // Owner, mode, and content that a form would have eaten.
    files
        .write(
            "/root/a b?&%",
            "x=1&y=2",
            FileMode::new().mode(0o640).owner(1000, 1001),
        )
        .await
        .unwrap();
    assert_eq!(
        incus(&["file", "pull", &pull("/root/a b?&%"), "-"]).await,
        "x=1&y=2"
    );
    let info = files.info("/root/a b?&%").await.unwrap();
    assert_eq!(
        (info.kind, info.uid, info.gid, info.mode),
        (FileKind::File, Some(1000), Some(1001), Some(0o640))
    );
    files.append("/root/a b?&%", "+").await.unwrap();
    assert_eq!(files.read("/root/a b?&%").await.unwrap(), "x=1&y=2+");
    let (_, found) = files.open_from("/root/a b?&%", 4).await.unwrap();
    let Found::File(body) = found else {
        panic!("a file")
    };
    assert_eq!(body.collect(100).await.unwrap(), "y=2+");
    files
        .write("/root/a b?&%", "", FileMode::new())
        .await
        .unwrap();
    assert_eq!(files.read("/root/a b?&%").await.unwrap(), "");

    let e = files
        .write("/nope/x", "1", FileMode::new())
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
    files
        .mkdir_all("/root/d/e/f", FileMode::new().mode(0o750))
        .await
        .unwrap();
    assert_eq!(files.info("/root/d/e").await.unwrap().mode, Some(0o750));
    files
        .write("/root/d/e/f/g", "1", FileMode::new())
        .await
        .unwrap();
    assert_eq!(files.list("/root/d/e").await.unwrap(), ["f"]);
    files.symlink("/root/d/link", "e/f/g").await.unwrap();
    let (_, found) = files.open("/root/d/link").await.unwrap();
    assert!(matches!(found, Found::Symlink(to) if to == "/root/d/e/f/g"));
    assert_eq!(
        incus(&["file", "pull", &pull("/root/d/e/f/g"), "-"]).await,
        "1"
    );

    files.delete("/root/d/link").await.unwrap();
    assert_eq!(
        files.info("/root/d/link").await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert!(files.delete("/root/d").await.is_err(), "it is not empty");
    files.symlink("/root/d/out", "/etc").await.unwrap();
    files.delete_all("/root/d").await.unwrap();
    assert!(
        incus_try(&["file", "pull", &pull("/root/d/e/f/g"), "-"])
            .await
            .is_err()
    );
    assert!(
        !files.list("/etc").await.unwrap().is_empty(),
        "links are not followed"
    );
    let e = files.read("relative").await.unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid);
    live.confirmed(&[
        "instance_files_get",
        "instance_files_head",
        "instance_files_post",
        "instance_files_delete",
    ]);
    guest.remove().await;
}

#[tokio::test]
async fn local_files_go_and_come_back() {
    let live = live!("files.rs::local_files_go_and_come_back");
    let guest = live.running("updown").await;
    let files = live.client.instances().files(&guest.name);
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let content: Vec<u8> = (0..20 * 1024 * 1024u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::write(&from, &content).unwrap();
    assert_eq!(
        files
            .upload(&from, "/root/big", FileMode::new())
            .await
            .unwrap(),
        content.len() as u64
    );
    assert_eq!(
        files.download("/root/big", &to).await.unwrap(),
        content.len() as u64
    );
    assert!(fs::read(&to).unwrap() == content);
    // The guest's own checksum of what was sent is that of the file here.
    let here = sha256(&from);
    assert_eq!(files.sha256("/root/big").await.unwrap(), here);
    let by_guest = said(&["exec", &guest.name, "--", "sha256sum", "/root/big"]).await;
    assert_eq!(by_guest.split_whitespace().next(), Some(&*here));
    // Both at once, each way.
    let mode = FileMode::new().mode(0o600);
    let sent = files.upload_checked(&from, "/root/b\\ig '$x'", mode).await;
    assert_eq!(sent.unwrap(), content.len() as u64);
    fs::remove_file(&to).unwrap();
    let got = files.download_checked("/root/b\\ig '$x'", &to).await;
    assert_eq!(got.unwrap(), content.len() as u64);
    assert!(fs::read(&to).unwrap() == content);
    let e = files.sha256("/root/none").await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
    // Through a command's input; a name is no shell's. The mode is ours, also of what is there with another.
    for (mode, wanted) in [
        (FileMode::new().mode(0o640), "640"),
        (FileMode::new(), "644"),
    ] {
        let sent = files.send(&from, "/root/p 'i\"$(x)", mode).await.unwrap();
        assert_eq!(sent, content.len() as u64);
        let seen = [
            "exec",
            &guest.name,
            "--",
            "stat",
            "-c",
            "%a %u %s",
            "/root/p 'i\"$(x)",
        ];
        let seen = said(&seen).await;
        assert_eq!(seen.trim(), format!("{wanted} 0 {}", content.len()));
        assert_eq!(files.sha256("/root/p 'i\"$(x)").await.unwrap(), here);
    }
    for (path, kind) in [("/root/no/file", Kind::NotFound), ("/root", Kind::Invalid)] {
        let e = files.send(&from, path, FileMode::new()).await.unwrap_err();
        assert_eq!(e.kind(), kind, "{e:?}");
    }
    // What cannot be read leaves what was there.
    fs::write(&to, "mine").unwrap();
    assert_eq!(
        files.download("/root/none", &to).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(fs::read(&to).unwrap(), b"mine");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        2,
        "no temporary file is left"
    );
    guest.remove().await;
}

fn sha256(file: &Path) -> String {
    let out = std::process::Command::new("sha256sum").arg(file).output();
    let out = String::from_utf8(out.unwrap().stdout).unwrap();
    out.split_whitespace().next().unwrap().to_owned()
}

/// Sums of all files below a folder, and where links point: run here and in the guest.
const SUMS: &str =
    "cd \"$1\" && find . -type f -exec sha256sum {} + | sort && find . -type l -exec readlink {} +";

fn tree(root: &Path) {
    fs::create_dir_all(root.join("sub/deep")).unwrap();
    fs::write(root.join("a"), "1").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("sub/deep/été"), vec![7; 300_000]).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::os::unix::fs::symlink("sub/deep", root.join("link")).unwrap();
        fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn same(a: &Path, b: &Path) {
    let out = std::process::Command::new("diff")
        .arg("-r")
        .arg("--no-dereference")
        .args([a, b])
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stdout)
    );
    use std::os::unix::fs::PermissionsExt;
    let mode = |p: &Path| fs::metadata(p.join("a")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(a), mode(b));
}

#[tokio::test]
async fn directories_by_tar_and_by_sftp() {
    let live = live!("files.rs::directories_by_tar_and_by_sftp");
    let guest = live.running("tree").await;
    let files = live.client.instances().files(&guest.name);
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    tree(&from);
    for sftp_only in [false, true] {
        let options = TreeOptions::default();
        let mut options = options;
        options.sftp_only = sftp_only;
        let there = format!("/root/x y/{sftp_only}");
        let sent = files.push_tree(&from, &there, &options).await.unwrap();
        assert_eq!(
            (sent.sftp, sent.bytes, sent.skipped_count),
            (sftp_only, 300_001, 0),
            "{sent:?}"
        );
        // What the guest says of it itself.
        let there_sums = said(&["exec", &guest.name, "--", "sh", "-c", SUMS, "sh", &there]).await;
        let here = std::process::Command::new("sh")
            .args(["-c", SUMS, "sh"])
            .arg(&from)
            .output()
            .unwrap();
        assert!(!here.stdout.is_empty());
        assert_eq!(there_sums, String::from_utf8(here.stdout).unwrap());
        // What the official client sees of it.
        let pulled = dir.path().join(format!("official-{sftp_only}"));
        fs::create_dir(&pulled).unwrap();
        let source = format!("{}{there}", guest.name);
        incus(&["file", "pull", "-r", &source, pulled.to_str().unwrap()]).await;
        same(&from, &pulled.join(sftp_only.to_string()));
        let back = dir.path().join(format!("back-{sftp_only}"));
        let got = files.pull_tree(&there, &back, &options).await.unwrap();
        assert_eq!((got.sftp, got.bytes), (sftp_only, 300_001));
        same(&from, &back);
    }
    let options = TreeOptions::default();
    let e = files
        .pull_tree("/nope", &dir.path().join("n"), &options)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
    assert!(
        !dir.path().join("n").exists(),
        "nothing is made for nothing"
    );
    let e = files
        .push_tree(&from, "/proc/x", &options)
        .await
        .unwrap_err();
    assert!(
        matches!(e.kind(), Kind::NotFound | Kind::Denied | Kind::Failed),
        "{e}"
    );
    live.confirmed(&["instance_sftp"]);
    guest.remove().await;
}

/// A stopped instance runs no tar: it goes by SFTP without being told to.
#[tokio::test]
async fn directories_of_a_stopped_instance() {
    let live = live!("files.rs::directories_of_a_stopped_instance");
    let guest = live.stopped("stree").await;
    let files = live.client.instances().files(&guest.name);
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    tree(&from);
    let sent = files
        .push_tree(&from, "/root/t", &TreeOptions::default())
        .await
        .unwrap();
    assert!(sent.sftp);
    let back = dir.path().join("back");
    assert!(
        files
            .pull_tree("/root/t", &back, &TreeOptions::default())
            .await
            .unwrap()
            .sftp
    );
    same(&from, &back);
    guest.remove().await;
}

/// Links that lead out are left out, and nothing is written through one.
#[tokio::test]
async fn a_hostile_tree_stays_in_its_place() {
    let live = live!("files.rs::a_hostile_tree_stays_in_its_place");
    let guest = live.running("evil").await;
    let files = live.client.instances().files(&guest.name);
    files.mkdir_all("/root/t", FileMode::new()).await.unwrap();
    files.symlink("/root/t/out", "/tmp/cl-out").await.unwrap();
    files
        .write("/root/t/in", "1", FileMode::new())
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let got = files
        .pull_tree("/root/t", dir.path(), &TreeOptions::default())
        .await
        .unwrap();
    assert_eq!(got.skipped_count, 1, "{got:?}");
    assert!(
        dir.path().join("in").exists() && fs::symlink_metadata(dir.path().join("out")).is_err()
    );
    guest.remove().await;
}
