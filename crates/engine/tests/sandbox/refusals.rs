//! Machines on which instances cannot run say which step failed, and what to do.

use std::os::unix::process::CommandExt;
use std::process::Command;

use boxrig_engine::Kind;

/// The user the refused servers run as; it needs no account.
const USER: u32 = 1000;

/// Run again in a confined process: prints what opening and probing say.
#[tokio::test]
async fn confined_server() {
    let Ok(dir) = std::env::var("BOXRIG_TEST_CONFINED_DIR") else {
        return;
    };
    let error = crate::support::open(dir.as_ref()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotPermittedHere);
    println!("REFUSED {error}\nEND");
    let report = boxrig_engine::probe(dir.as_ref()).await;
    let failed = report.failed().unwrap();
    println!(
        "STEP {} ERRNO {}",
        failed.name,
        failed.failure.as_ref().unwrap().errno
    );
    assert!(
        report
            .remedies
            .iter()
            .any(|remedy| remedy.text.contains("without any isolation"))
    );
    let left = std::fs::read_dir(std::path::Path::new(&dir).join("instances"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

/// What the confined server printed.
fn confined(confine: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static) -> String {
    let dir = tempfile::Builder::new()
        .prefix("boxrig-refused-")
        .tempdir()
        .unwrap();
    let copy = dir.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut command = Command::new(&copy);
    command
        .args(["refusals::confined_server", "--exact", "--nocapture"])
        .env("BOXRIG_TEST_CONFINED_DIR", dir.path().join("data"));
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(dir.path(), Some(USER), Some(USER)).unwrap();
        command.uid(USER).gid(USER);
    }
    // SAFETY: `confine` only makes system calls.
    let output = unsafe { command.pre_exec(confine) }.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{text}");
    text
}

fn check(done: i64) -> std::io::Result<()> {
    if done < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Denies some system calls with EPERM from now on: of unshare and clone only what makes namespaces.
fn deny(namespaces: bool, mount: bool) -> std::io::Result<()> {
    let op = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let (load, equal, set, ret) = (0x20, 0x15, 0x45, 0x06);
    let eperm = 0x0005_0001;
    let mut program = vec![op(load, 0, 0, 0)];
    if namespaces {
        for number in [libc::SYS_unshare, libc::SYS_clone] {
            program.extend([
                op(equal, 0, 4, number as u32),
                op(load, 0, 0, 16),
                op(set, 0, 1, 0x7e02_0000),
                op(ret, 0, 0, eperm),
                op(ret, 0, 0, 0x7fff_0000),
            ]);
        }
        program.extend([
            op(equal, 0, 1, libc::SYS_clone3 as u32),
            op(ret, 0, 0, 0x0005_0026),
        ]);
    }
    if mount {
        program.extend([
            op(equal, 0, 1, libc::SYS_mount as u32),
            op(ret, 0, 0, eperm),
        ]);
    }
    program.push(op(ret, 0, 0, 0x7fff_0000));
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: numbers, and a filter program that outlives the call.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        check(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter).into())
    }
}

#[test]
fn namespaces_and_mounts_denied() {
    let text = confined(|| deny(true, true));
    assert!(
        text.contains("REFUSED instances cannot run here: the step \"make a user namespace\" failed: Operation not permitted"),
        "{text}"
    );
    assert!(
        text.contains("STEP make a user namespace ERRNO 1"),
        "{text}"
    );
    assert!(text.contains("boxrig up --engine process"), "{text}");
}

/// Whether namespaces can be made here at all, so that a test can take away what comes after.
fn works_here() -> bool {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(crate::support::rig()).is_some()
}

#[test]
fn mounts_denied_after_the_namespaces() {
    if !works_here() {
        return;
    }
    let text = confined(|| deny(false, true));
    assert!(
        text.contains("REFUSED instances cannot run here: the step \"make mounts private\" failed: Operation not permitted"),
        "{text}"
    );
    assert!(text.contains("STEP make mounts private ERRNO 1"), "{text}");
}

#[test]
fn no_user_namespaces_left() {
    if !works_here() {
        return;
    }
    // The number is counted per user namespace, so a namespace of its own can have none without
    // switching them off for the whole machine.
    let text = confined(|| {
        let (uid, gid) = (
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        );
        // Giving up root made /proc/self root's.
        // SAFETY: numbers only.
        check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }.into())?;
        // SAFETY: a number only.
        check(unsafe { libc::unshare(libc::CLONE_NEWUSER) }.into())?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
        std::fs::write("/proc/sys/user/max_user_namespaces", "0")
    });
    assert!(
        text.contains("REFUSED instances cannot run here: the step \"make a user namespace\" failed: No space left on device"),
        "{text}"
    );
    assert!(
        text.contains("STEP make a user namespace ERRNO 28"),
        "{text}"
    );
    assert!(
        text.contains("sysctl -w user.max_user_namespaces=15000"),
        "{text}"
    );
}
