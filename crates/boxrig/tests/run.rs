//! Commands that really run: `run`, `exec`, `shell`, `cp`, `logs` on the sandbox, in a sealed environment.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod support;

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::Home;

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Reads until `wanted` has been seen.
fn read_until(from: &mut impl Read, wanted: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        assert_eq!(
            from.read(&mut byte).unwrap(),
            1,
            "{}",
            String::from_utf8_lossy(&seen)
        );
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

fn left(home: &Home) -> String {
    home.ok(&["ls", "-o", "name"])
}

#[test]
fn run_gives_the_commands_output_and_code_and_leaves_nothing() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    assert!(home.ok(&["run", "--", "uname", "-a"]).starts_with("Linux "));
    // Without `--` too.
    assert_eq!(home.ok(&["run", "echo", "-n", "a b"]), "a b");
    let out = home.run(&[
        "run",
        "--",
        "sh",
        "-c",
        "printf out; printf err >&2; exit 7",
    ]);
    assert_eq!(
        (out.status.code(), &out.stdout[..], &out.stderr[..]),
        (Some(7), &b"out"[..], &b"err"[..])
    );
    let (code, words) = home.fails(&["run", "--", "/no/such/command"]);
    assert_eq!(code, 127);
    assert!(words.contains("/no/such/command"), "{words}");
    assert_eq!(home.fails(&["run", "--", "/etc"]).0, 126);
    assert_eq!(home.fails(&["run", "--", "sh", "-c", "kill -9 $$"]).0, 137);
    assert_eq!(
        home.ok(&[
            "run",
            "-e",
            "X=a b",
            "--cwd",
            "/tmp",
            "--",
            "sh",
            "-c",
            "echo $X; pwd"
        ]),
        "a b\n/tmp\n"
    );
    let (code, words) = home.fails(&["run", "--timeout", "1s", "--", "sleep", "100"]);
    assert_eq!(code, 125);
    assert!(words.starts_with("error: timeout: "), "{words}");
    assert_eq!(left(&home), "");
    home.ok(&["run", "--keep", "--name", "kept", "--", "touch", "/root/f"]);
    assert_eq!(left(&home), "kept\n");
    assert_eq!(home.ok(&["exec", "kept", "--", "ls", "/root"]), "f\n");
}

#[test]
fn input_is_passed_on_when_asked() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    let feed = |args: &[&str], input: &[u8]| {
        let mut child = home
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let out = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(out.status.success(), "{:?}", out.status);
        out.stdout
    };
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    assert_eq!(feed(&["run", "-i", "--", "cat"], &bytes), bytes);
    // Without -i the command has no input, and ours is not read.
    assert_eq!(feed(&["run", "--", "cat"], b"x"), b"");
    // A command that stops reading does not hold us up.
    assert_eq!(
        feed(&["run", "-i", "--", "head", "-c", "3"], &bytes),
        bytes[..3]
    );
}

#[test]
fn an_interrupt_is_the_commands_and_the_instance_is_removed() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    let start = |script: &str| {
        let mut child = home
            .command(&["run", "--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        read_until(&mut stdout, "ready\n");
        (child, stdout)
    };
    let (mut child, mut stdout) =
        start("trap 'kill $!; echo caught; exit 3' INT; sleep 100 & echo ready; wait");
    signal(&child, Signal::INT);
    assert_eq!(read_until(&mut stdout, "caught\n"), "caught\n");
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(left(&home), "");
    // One that is deaf to it is killed in the end.
    let (mut child, _stdout) = start("trap '' INT TERM; echo ready; while :; do sleep 0.1; done");
    for _ in 0..3 {
        signal(&child, Signal::INT);
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(child.wait().unwrap().code(), Some(137));
    assert_eq!(left(&home), "");
    let (mut child, _stdout) = start("echo ready; sleep 1000");
    signal(&child, Signal::TERM);
    let begin = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(left(&home), "");
}

/// A rack has no signals for commands: an interrupt ends the process that was made for them.
#[test]
fn an_interrupted_run_on_a_rack_leaves_no_process() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    let variables = home.ok(&["env", "--format", "json"]);
    let variables: serde_json::Value = serde_json::from_str(&variables).unwrap();
    let on_rack = |args: &[&str]| {
        let mut command = home.command(args);
        for name in ["CONVOX_HOST", "CONVOX_PASSWORD"] {
            command.env(name, variables[name].as_str().unwrap());
        }
        command.args(["--on", "env:convox"]);
        command
    };
    let done = |args: &[&str]| {
        let out = on_rack(args).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let manifest = "services:\n  web:\n    image: boxrig/base\n    command: sleep 1000\n";
    let folder = home.path().join("app");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("convox.yml"), manifest).unwrap();
    done(&["deploy", "app", "--app", "web", "--create", "--promote"]);
    let before = done(&["ls", "-o", "name"]);
    assert_eq!(before.lines().count(), 1, "{before}");
    for (how, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let script = "echo ready; sleep 1000";
        let mut run = on_rack(&["run", "--image", "web/web"]);
        let run = run.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = run.args(["--", "sh", "-c", script]).spawn().unwrap();
        read_until(child.stdout.as_mut().unwrap(), "ready\n");
        assert_eq!(done(&["ls", "-o", "name"]).lines().count(), 2);
        let begin = Instant::now();
        signal(&child, how);
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(code), "{out:?}");
        assert!(begin.elapsed() < Duration::from_secs(20));
        assert_eq!(done(&["ls", "-o", "name"]), before);
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_command() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    let mut child = home
        .command(&["run", "--", "yes"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    read_until(&mut stdout, "y\ny\n");
    drop(stdout);
    assert_eq!(child.wait().unwrap().code(), Some(141));
    assert_eq!(left(&home), "");
}

/// Output that nobody takes: we can still be told to go, and leave nothing behind.
#[test]
fn a_reader_that_takes_nothing_does_not_keep_us() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    for (signals, code) in [(&[Signal::TERM][..], 143), (&[Signal::INT; 4], 130)] {
        let mut child = home
            .command(&["run", "--", "yes"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        read_until(&mut stdout, "y\ny\n");
        // All that lies between the command and us is full by then.
        std::thread::sleep(Duration::from_millis(500));
        for told in signals {
            signal(&child, *told);
            std::thread::sleep(Duration::from_millis(200));
        }
        let begin = Instant::now();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(begin.elapsed() < Duration::from_secs(5));
        assert_eq!(left(&home), "");
        drop(stdout);
    }
}

#[test]
fn files_go_in_and_out() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    home.ok(&["launch", "--name", "web"]);
    let here = home.path();
    std::fs::create_dir_all(here.join("dir/empty")).unwrap();
    std::fs::write(here.join("dir/a 'b"), "one").unwrap();
    std::fs::write(here.join("big"), vec![7; 2_000_000]).unwrap();
    home.ok(&["cp", "big", "web:/root/big"]);
    assert_eq!(
        home.ok(&["exec", "web", "--", "wc", "-c", "/root/big"]),
        "2000000 /root/big\n"
    );
    home.ok(&["cp", "dir", "local:web:/srv/dir"]);
    home.ok(&["cp", "web:/srv/dir", "back"]);
    assert_eq!(
        std::fs::read_to_string(here.join("back/a 'b")).unwrap(),
        "one"
    );
    assert!(here.join("back/empty").is_dir());
    home.ok(&["cp", "web:/root/big", "./dir"]);
    assert_eq!(
        std::fs::read(here.join("dir/big")).unwrap().len(),
        2_000_000
    );
    assert_eq!(home.ok(&["cp", "web:/srv/dir/a 'b", "-"]), "one");
    let mut child = home
        .command(&["cp", "-", "web:/root/from-stdin"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"piped").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(
        home.ok(&["exec", "web", "--", "cat", "/root/from-stdin"]),
        "piped"
    );
    assert_eq!(home.fails(&["cp", "web:/no/such", "x"]).0, 3);
    assert_eq!(home.fails(&["cp", "web:/no/such", "-"]).0, 3);
    assert_eq!(home.fails(&["cp", "none-here", "web:/x"]).0, 3);
    assert_eq!(home.fails(&["cp", "a", "b"]).0, 2);
    assert_eq!(home.fails(&["cp", "web:relative", "b"]).0, 2);
    assert_eq!(home.fails(&["cp", "big", "web:/x", "--read-only"]).0, 5);
    assert!(!here.join("x").exists());
}

#[test]
fn snapshot_restore_and_logs() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    home.ok(&["launch", "--name", "web"]);
    home.ok(&["exec", "web", "--", "sh", "-c", "echo old >/root/f"]);
    let snapshot = home.ok(&["snapshot", "web"]);
    home.ok(&["exec", "web", "--", "sh", "-c", "echo new >/root/f"]);
    assert_eq!(home.ok(&["restore", "web", snapshot.trim()]), "local:web\n");
    assert_eq!(home.ok(&["exec", "web", "--", "cat", "/root/f"]), "old\n");
    assert_eq!(home.fails(&["restore", "web", "none"]).0, 3);
    home.ok(&["logs", "web"]);
    home.ok(&["fork", "web", "--name", "copy"]);
    assert_eq!(home.ok(&["exec", "copy", "--", "cat", "/root/f"]), "old\n");
}

#[test]
fn a_terminal_when_asked() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    assert_eq!(home.fails(&["run", "--", "test", "-t", "1"]).0, 1);
    assert_eq!(
        home.ok(&[
            "run",
            "-t",
            "--",
            "sh",
            "-c",
            "test -t 0 && test -t 1 && echo yes"
        ]),
        "yes\r\n"
    );
    home.ok(&["launch", "--name", "web"]);
    let mut child = home
        .command(&["shell", "web"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"hostname; exit 5\n")
        .unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(
        (out.status.code(), &out.stdout[..]),
        (Some(5), &b"web\n"[..])
    );
}

#[test]
fn instances_outlive_the_server() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    home.ok(&["launch", "--name", "web"]);
    home.ok(&["exec", "web", "--", "sh", "-c", "echo here >/run/f"]);
    home.ok(&["down"]);
    // Started again on first need; what ran still runs.
    assert_eq!(home.ok(&["exec", "web", "--", "cat", "/run/f"]), "here\n");
}

/// A terminal with a program on it.
struct Terminal {
    ours: std::fs::File,
    child: Child,
}

impl Terminal {
    fn new(home: &Home, args: &[&str]) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        resize(&ours, 91, 17);
        let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let stdio = || Stdio::from(theirs.try_clone().unwrap());
        let child = home
            .command(args)
            .env("TERM", "xterm")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        Self {
            ours: ours.into(),
            child,
        }
    }

    fn types(&mut self, text: &str) {
        self.ours.write_all(text.as_bytes()).unwrap();
    }

    fn is_raw(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.ours).unwrap().local_modes;
        !modes.contains(rustix::termios::LocalModes::ICANON)
    }
}

fn resize(terminal: impl std::os::fd::AsFd, cols: u16, rows: u16) {
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_is_carried_resized_and_put_back() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    home.ok(&["launch", "--name", "web"]);
    let mut t = Terminal::new(
        &home,
        &[
            "exec",
            "-t",
            "web",
            "--",
            "sh",
            "-c",
            "stty size; read x; stty size; read y; exit 4",
        ],
    );
    assert!(read_until(&mut t.ours, "17 91").ends_with("17 91"));
    assert!(t.is_raw());
    resize(&t.ours, 77, 33);
    signal(&t.child, Signal::WINCH);
    std::thread::sleep(Duration::from_millis(300));
    t.types("\r");
    read_until(&mut t.ours, "33 77");
    // ^C is typed into the remote terminal, which makes it a signal there.
    t.types("\x03");
    assert_eq!(t.child.wait().unwrap().code(), Some(130));
    assert!(!t.is_raw());
    // However it is ended, our terminal is as it was.
    let mut t = Terminal::new(&home, &["shell", "web"]);
    t.types("echo re''ady\r");
    read_until(&mut t.ours, "ready");
    assert!(t.is_raw());
    signal(&t.child, Signal::TERM);
    assert_eq!(t.child.wait().unwrap().code(), Some(143));
    assert!(!t.is_raw());
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_lost_is_asked_for_on_a_terminal() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    home.ok(&["launch", "--name", "web"]);
    let mut t = Terminal::new(&home, &["rm", "web"]);
    read_until(&mut t.ours, "remove local:web? [y/N]");
    t.types("n\r");
    assert_eq!(t.child.wait().unwrap().code(), Some(1));
    assert_eq!(left(&home), "web\n");
    let mut t = Terminal::new(&home, &["rm", "web", "--yes"]);
    assert!(t.child.wait().unwrap().success());
    assert_eq!(left(&home), "");
}
