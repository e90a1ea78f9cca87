//! Root runs everything once more as an ordinary user.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// An ordinary user's id; it needs no account.
const USER: u32 = 1000;

#[test]
fn everything_again_as_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        return; // This is that run.
    }
    // The build folder may not be readable for everybody.
    let dir = tempfile::Builder::new()
        .prefix("boxrig-user-")
        .tempdir()
        .unwrap();
    std::os::unix::fs::chown(dir.path(), Some(USER), Some(USER)).unwrap();
    let copy = dir.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(&copy)
        .args(["--nocapture", "--test-threads=2"])
        .uid(USER)
        .gid(USER)
        .current_dir(dir.path())
        .env("TMPDIR", dir.path())
        .env("HOME", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    for line in text
        .lines()
        .filter(|line| line.starts_with("skipped") || line.starts_with("100 instances"))
    {
        println!("as user {USER}: {line}");
    }
}
