//! Running commands.

use std::time::Duration;

use boxrig_engine::{ExecSpec, ExitStatus, Kind, WinSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{collect, id, rig};

#[tokio::test(flavor = "multi_thread")]
async fn output_exit_codes_and_signals() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("codes").await;
    let output = rig.sh(&vm, "echo out; echo err >&2; exit 7").await;
    assert_eq!(
        (
            output.status,
            output.stdout.as_str(),
            output.stderr.as_str()
        ),
        (ExitStatus::Code(7), "out\n", "err\n")
    );
    let output = rig.sh(&vm, "kill -9 $$").await;
    assert_eq!(output.status, ExitStatus::Signal(9));
    assert_eq!(output.status.shell_code(), 137);
    let error = rig
        .run(&vm, ExecSpec::new(["no-such-command"]))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.shell_code()),
        (Kind::CommandNotFound, Some(127))
    );
    let error = rig
        .run(&vm, ExecSpec::new(["/etc/passwd"]))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.shell_code()),
        (Kind::CannotExecute, Some(126))
    );
    let error = rig
        .run(&id("other"), ExecSpec::new(["true"]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    rig.engine.delete(&vm).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_folder_and_ids() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("env").await;
    let mut spec = ExecSpec::new(["sh", "-c", "pwd; echo $A-$HOME; id -u; umask; ulimit -n"]);
    spec.env.insert("A".to_owned(), "b c".to_owned());
    spec.cwd = Some(b"/tmp".to_vec());
    let output = rig.run(&vm, spec).await.unwrap();
    assert_eq!(output.stdout, "/tmp\nb c-/root\n0\n0022\n1024\n");
    let mut spec = ExecSpec::new(["env"]);
    spec.clear_env = true;
    spec.env.insert("ONLY".to_owned(), "1".to_owned());
    assert_eq!(rig.run(&vm, spec).await.unwrap().stdout, "ONLY=1\n");
    let mut spec = ExecSpec::new(["true"]);
    spec.cwd = Some(b"/nowhere".to_vec());
    assert_eq!(rig.run(&vm, spec).await.unwrap_err().kind(), Kind::Invalid);
    let mut spec = ExecSpec::new([
        "sh",
        "-c",
        "id -u; id -g; echo again > /dev/stdout; grep CapEff /proc/self/status",
    ]);
    (spec.uid, spec.gid) = (Some(1000), Some(1001));
    match rig.run(&vm, spec).await {
        // One id is mapped for an ordinary user: there is only root.
        Err(error) if !rustix::process::geteuid().is_root() => {
            assert_eq!(error.kind(), Kind::Invalid)
        }
        output => assert_eq!(
            output.unwrap().stdout,
            "1000\n1001\nagain\nCapEff:\t0000000000000000\n"
        ),
    }
    // Far more than fits into one packet.
    let mut spec = ExecSpec::new(vec![
        "sh".to_owned(),
        "-c".to_owned(),
        "echo $#; echo ${#BIG}".to_owned(),
        "sh".to_owned(),
    ]);
    spec.argv
        .extend((0..20_000).map(|n| format!("argument {n}").into_bytes()));
    spec.env.insert("BIG".to_owned(), "x".repeat(100_000));
    assert_eq!(rig.run(&vm, spec).await.unwrap().stdout, "20000\n100000\n");
    for argv in [vec![], vec![b"".to_vec()], vec![b"a\0b".to_vec()]] {
        let mut spec = ExecSpec::new(["x"]);
        spec.argv = argv;
        assert_eq!(rig.run(&vm, spec).await.unwrap_err().kind(), Kind::Invalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn input_and_big_output() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("streams").await;
    // Input that is longer than a pipe, back as output.
    let mut spec = ExecSpec::new(["cat"]);
    spec.stdin = true;
    let mut exec = rig.engine.exec(&vm, spec).await.unwrap();
    let mut stdin = exec.stdin.take().unwrap();
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let copy = sent.clone();
    let feed = tokio::spawn(async move { stdin.write_all(&copy).await.unwrap() });
    let mut back = Vec::new();
    exec.stdout.read_to_end(&mut back).await.unwrap();
    feed.await.unwrap();
    assert!(back == sent);
    assert!(exec.wait().await.unwrap().success());
    // A command that ends right after a burst: all of it arrives, on both streams.
    for _ in 0..5 {
        let exec = rig
            .engine
            .exec(
                &vm,
                ExecSpec::new(["sh", "-c", "head -c 10485760 /dev/zero; echo end >&2"]),
            )
            .await
            .unwrap();
        let output = collect(exec).await.unwrap();
        assert_eq!(
            (output.stdout.len(), output.stderr.as_str()),
            (10 << 20, "end\n")
        );
    }
    // The end of the command and the end of its output are different things.
    let mut exec = rig
        .engine
        .exec(
            &vm,
            ExecSpec::new(["sh", "-c", "(sleep 0.3; echo late) & echo early"]),
        )
        .await
        .unwrap();
    assert!(exec.wait().await.unwrap().success());
    let mut text = String::new();
    exec.stdout.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "early\nlate\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_and_dropping() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("signals").await;
    let script = "trap 'kill $!; echo got; exit 3' USR1; sleep 100 & echo ready; wait";
    let mut exec = rig
        .engine
        .exec(&vm, ExecSpec::new(["sh", "-c", script]))
        .await
        .unwrap();
    let mut ready = [0; 6];
    exec.stdout.read_exact(&mut ready).await.unwrap();
    exec.control.signal(10).await.unwrap();
    assert_eq!(exec.wait().await.unwrap(), ExitStatus::Code(3));
    assert_eq!(exec.wait().await.unwrap(), ExitStatus::Code(3));
    exec.control.signal(9).await.unwrap();
    assert_eq!(
        exec.control.signal(0).await.unwrap_err().kind(),
        Kind::Invalid
    );
    // Dropped: the whole group is killed.
    let exec = rig
        .engine
        .exec(&vm, ExecSpec::new(["sh", "-c", "sleep 1001 & sleep 1002"]))
        .await
        .unwrap();
    rig.until(&vm, "pgrep -c sleep", "2").await;
    drop(exec);
    rig.until(&vm, "pgrep -c sleep", "0").await;
    // Or goes on, if asked for.
    let mut spec = ExecSpec::new(["sleep", "1003"]);
    spec.kill_on_drop = false;
    drop(rig.engine.exec(&vm, spec).await.unwrap());
    rig.until(&vm, "pgrep -c sleep", "1").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    rig.until(&vm, "pgrep -c sleep", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("tty").await;
    let mut spec = ExecSpec::new([
        "sh",
        "-c",
        "tty; stty size; read line; stty size; echo \"<$line>\"; exec sed -u s/a/MARK/",
    ]);
    spec.tty = Some(WinSize { rows: 33, cols: 77 });
    let mut exec = rig.engine.exec(&vm, spec).await.unwrap();
    assert!(exec.stderr.is_none());
    let mut seen = String::new();
    read_until(&mut exec.stdout, &mut seen, "33 77").await;
    assert!(seen.contains("/dev/pts/"), "{seen}");
    exec.control
        .resize(WinSize {
            rows: 40,
            cols: 100,
        })
        .await
        .unwrap();
    let mut stdin = exec.stdin.take().unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    read_until(&mut exec.stdout, &mut seen, "<hello>").await;
    assert!(seen.contains("40 100"), "{seen}");
    // Only now is the shell itself out of the way, which would take the signal in its own time.
    stdin.write_all(b"a\n").await.unwrap();
    read_until(&mut exec.stdout, &mut seen, "MARK").await;
    stdin.write_all(&[3]).await.unwrap();
    assert_eq!(exec.wait().await.unwrap(), ExitStatus::Signal(2));
    let mut rest = Vec::new();
    exec.stdout.read_to_end(&mut rest).await.unwrap();
    // Without a terminal there is nothing to resize.
    let exec = rig.engine.exec(&vm, ExecSpec::new(["true"])).await.unwrap();
    assert_eq!(
        exec.control
            .resize(WinSize::default())
            .await
            .unwrap_err()
            .kind(),
        Kind::Invalid
    );
}

async fn read_until(stream: &mut boxrig_engine::BoxReader, seen: &mut String, what: &str) {
    let wait = async {
        while !seen.contains(what) {
            let mut buf = [0; 4096];
            let n = stream.read(&mut buf).await.unwrap();
            assert!(n > 0, "ended: {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&buf[..n]));
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .unwrap_or_else(|_| panic!("{what:?} does not come"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_is_a_recorded_shell() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("console").await;
    let mut console = rig.engine.console(&vm, WinSize::default()).await.unwrap();
    let mut stdin = console.stdin.take().unwrap();
    stdin
        .write_all(b"hostname; echo mark-$((40+2)); exit 4\n")
        .await
        .unwrap();
    let mut seen = String::new();
    read_until(&mut console.stdout, &mut seen, "mark-42").await;
    let mut rest = String::new();
    console.stdout.read_to_string(&mut rest).await.unwrap();
    assert!(
        (seen.clone() + &rest).contains("console\r\nmark-42"),
        "{seen}{rest}"
    );
    assert_eq!(console.wait().await.unwrap(), ExitStatus::Code(4));
    let options = boxrig_engine::LogOptions {
        source: boxrig_engine::LogSource::Console,
        ..Default::default()
    };
    let mut log = rig.engine.logs(&vm, options).await.unwrap();
    let mut text = String::new();
    log.content.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, seen + &rest);
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_of_the_host_run() {
    let Some(rig) = rig().await else { return };
    let vm = rig.instance("programs").await;
    assert_eq!(
        rig.ok(
            &vm,
            "/usr/bin/python3 -c 'import ssl, json, multiprocessing; print(6*7)'"
        )
        .await,
        "42"
    );
    assert_eq!(rig.ok(&vm, "perl -MPOSIX -e 'print 6*7'").await, "42");
    assert_eq!(rig.ok(&vm, "echo 'a b' | awk '{print $2}'").await, "b");
    assert_eq!(
        rig.ok(
            &vm,
            "hostname; cat /etc/hostname; getent hosts programs | cut -d' ' -f1"
        )
        .await,
        "programs\nprograms\n127.0.0.1"
    );
    assert_eq!(
        rig.ok(&vm, "whoami; echo ~; ls -ld /root | cut -c1-10")
            .await,
        "root\n/root\ndrwx------"
    );
    assert_eq!(
        rig.ok(
            &vm,
            "touch /usr/local/bin/x /etc/y /var/z /opt/w /home/v && mktemp -u | cut -c1-9"
        )
        .await,
        "/tmp/tmp."
    );
    assert_eq!(
        rig.ok(&vm, "touch /usr/x 2>&1 | grep -c Read-only").await,
        "1"
    );
    assert_eq!(rig.ok(&vm, "bash -c 'exec 3</dev/urandom; head -c 4 <&3 | wc -c; : > /dev/shm/a; echo ok > /dev/null; : < /dev/fd/0'").await, "4");
    rig.ok(&vm, "for f in $(find /etc -type l); do [ -e $f ] || case $f in /etc/alternatives/*|/etc/ssl/certs/*) ;; *) echo dangling $f; exit 1;; esac; done").await;
}
