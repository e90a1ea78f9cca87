//! Commands: three modes, streams, terminals, signals, codes; consoles.

use boxrig_incus::{Exec, ExecEvent, Signal, WindowSize, exec_code};
use boxrig_wire::Kind;
use futures_util::StreamExt;
use std::time::{Duration, Instant};

use super::support::{incus, live, query, said};

#[tokio::test]
async fn output_input_and_code() {
    let live = live!("exec.rs::output_input_and_code");
    let guest = live.running("exec").await;
    let instances = live.client.instances();
    let script = "cat; echo err >&2; pwd; id -u; echo $A; exit 7";
    let exec = Exec::new(["sh", "-c", script])
        .env("A", "b c")
        .cwd("/tmp")
        .user(1000)
        .group(1000);
    let done = instances.run(&guest.name, exec, "in\n").await.unwrap();
    assert_eq!(
        String::from_utf8(done.stdout).unwrap(),
        "in\n/tmp\n1000\nb c\n"
    );
    assert_eq!((done.stderr.as_slice(), done.code), (&b"err\n"[..], 7));
    // The official client sees what the command did.
    let touch = Exec::new(["sh", "-c", "echo x > /root/made"]);
    assert_eq!(instances.run(&guest.name, touch, "").await.unwrap().code, 0);
    assert_eq!(
        said(&["exec", &guest.name, "--", "cat", "/root/made"]).await,
        "x\n"
    );
    live.confirmed(&[
        "instance_exec_post",
        "operation_websocket_get",
        "operation_wait_get",
    ]);
    guest.remove().await;
}

#[tokio::test]
async fn large_input_comes_back_whole() {
    let live = live!("exec.rs::large_input_comes_back_whole");
    let guest = live.running("cat").await;
    let input: Vec<u8> = (0..8 * 1024 * 1024u32).map(|i| (i % 251) as u8).collect();
    let done = live
        .client
        .instances()
        .run(&guest.name, Exec::new(["cat"]), input.clone())
        .await
        .unwrap();
    assert!(
        done.code == 0 && done.stdout == input,
        "{}",
        done.stdout.len()
    );
    guest.remove().await;
}

#[tokio::test]
async fn signals_and_commands_that_cannot_be_run() {
    let live = live!("exec.rs::signals_and_commands_that_cannot_be_run");
    let guest = live.running("sig").await;
    let instances = live.client.instances();
    let mut session = instances
        .exec(&guest.name, Exec::new(["sleep", "60"]))
        .await
        .unwrap();
    let mut output = Box::pin(session.output());
    tokio::time::sleep(Duration::from_millis(300)).await;
    session.signal(Signal(15)).await.unwrap();
    while let Some(event) = output.next().await {
        event.unwrap();
    }
    drop(output);
    assert_eq!(session.exit_code().await.unwrap(), 128 + 15);

    let e = instances
        .run(&guest.name, Exec::new(["/nope"]), "")
        .await
        .unwrap_err();
    assert_eq!(
        (e.kind(), exec_code(&e)),
        (Kind::NotFound, Some(127)),
        "{e}"
    );
    let e = instances
        .run(&guest.name, Exec::new(["/etc/passwd"]), "")
        .await
        .unwrap_err();
    assert_eq!(exec_code(&e), Some(126), "{e}");
    let by_shell = Exec::new(["sh", "-c", "kill -9 $$"]);
    assert_eq!(
        instances.run(&guest.name, by_shell, "").await.unwrap().code,
        137
    );
    guest.remove().await;
}

/// Dropping a session ends the command: nothing runs on unseen.
#[tokio::test]
async fn a_dropped_session_kills() {
    let live = live!("exec.rs::a_dropped_session_kills");
    let guest = live.running("drop").await;
    let instances = live.client.instances();
    let session = instances
        .exec(&guest.name, Exec::new(["sleep", "4242"]))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(session);
    let begun = Instant::now();
    while said(&["exec", &guest.name, "--", "ps"])
        .await
        .contains("sleep 4242")
    {
        assert!(begun.elapsed() < Duration::from_secs(5), "it still runs");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    guest.remove().await;
}

#[tokio::test]
async fn a_terminal_has_a_size_that_changes() {
    let live = live!("exec.rs::a_terminal_has_a_size_that_changes");
    let guest = live.running("tty").await;
    let size = WindowSize {
        width: 91,
        height: 33,
    };
    // The size travels on a socket of its own, which the input may overtake.
    let script = r#"stty size; read x
        for i in 1 2 3 4 5 6 7 8 9; do [ "$(stty size)" = "50 120" ] && break; sleep 1; done
        stty size; tty; echo got $x; exit 3"#;
    let exec = Exec::new(["sh", "-c", script]).terminal(size);
    let mut session = live
        .client
        .instances()
        .exec(&guest.name, exec)
        .await
        .unwrap();
    let mut output = Box::pin(session.output());
    let mut said = String::new();
    let mut resized = false;
    while let Some(event) = output.next().await {
        let ExecEvent::Stdout(bytes) = event.unwrap() else {
            panic!("stderr on a terminal")
        };
        said.push_str(&String::from_utf8_lossy(&bytes));
        if !resized && said.contains("33 91") {
            resized = true;
            session
                .resize(WindowSize {
                    width: 120,
                    height: 50,
                })
                .await
                .unwrap();
            session.write("hello\r").await.unwrap();
        }
    }
    drop(output);
    assert!(
        said.contains("50 120") && said.contains("/dev/pts/") && said.contains("got hello"),
        "{said:?}"
    );
    assert_eq!(session.exit_code().await.unwrap(), 3);
    guest.remove().await;
}

/// The server's records are fetched and leave nothing behind.
#[tokio::test]
async fn recorded_output_is_fetched_and_deleted() {
    let live = live!("exec.rs::recorded_output_is_fetched_and_deleted");
    let guest = live.running("rec").await;
    let instances = live.client.instances();
    let exec = Exec::new(["sh", "-c", "echo Hello, World!; echo oops >&2; exit 4"]);
    let done = instances.run_recorded(&guest.name, exec).await.unwrap();
    assert_eq!(done.stdout, b"Hello, World!\n");
    assert_eq!((done.stderr.as_slice(), done.code), (&b"oops\n"[..], 4));
    let path = format!("/1.0/instances/{}/logs/exec-output", guest.name);
    assert_eq!(
        query(&path).await.as_array().map_or(0, Vec::len),
        0,
        "they are deleted"
    );
    assert!(
        instances
            .exec_outputs(&guest.name)
            .await
            .unwrap()
            .is_empty()
    );
    let e = instances
        .run_recorded(
            &guest.name,
            Exec::new(["true"]).terminal(WindowSize {
                width: 1,
                height: 1,
            }),
        )
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid);
    live.confirmed(&[
        "instance_exec-output_get",
        "instance_exec-output_delete",
        "instance_exec-outputs_get",
    ]);
    guest.remove().await;
}

#[tokio::test]
async fn a_command_without_streams_is_an_operation() {
    let live = live!("exec.rs::a_command_without_streams_is_an_operation");
    let guest = live.running("fire").await;
    let exec = Exec::new(["sh", "-c", "sleep 1; exit 9"]);
    let operation = live
        .client
        .instances()
        .spawn(&guest.name, exec)
        .await
        .unwrap();
    assert_eq!(operation.poll().await.unwrap(), None);
    assert_eq!(operation.wait().await.unwrap(), 9);
    assert_eq!(operation.wait().await.unwrap(), 9, "the result is kept");
    guest.remove().await;
}

/// A burst with the command's end right after it, many times: all of it arrives. `BOXRIG_INCUS_BURSTS` is how often (5).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_output_is_lost() {
    let live = live!("exec.rs::no_output_is_lost");
    let times = std::env::var("BOXRIG_INCUS_BURSTS").map_or(5, |v| v.parse().unwrap());
    let guest = live.running("burst").await;
    const MIB: usize = 1024 * 1024;
    let begun = Instant::now();
    for i in 0..times {
        let code = i % 100;
        let script = format!("head -c {} /dev/zero; exit {code}", 10 * MIB);
        let mut session = live
            .client
            .instances()
            .exec(&guest.name, Exec::new(["sh", "-c", &script]))
            .await
            .unwrap();
        let mut output = Box::pin(session.output());
        let mut bytes = 0;
        while let Some(event) = output.next().await {
            let ExecEvent::Stdout(chunk) = event.unwrap() else {
                panic!("stderr")
            };
            bytes += chunk.len();
        }
        drop(output);
        assert_eq!(bytes, 10 * MIB, "run {i}");
        assert_eq!(session.exit_code().await.unwrap(), code, "run {i}");
    }
    println!("{times} bursts of 10 MiB in {:?}", begun.elapsed());
    guest.remove().await;
}

/// Commands that are over at once, many at the same time. The official client loses the output of some of these.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_commands_say_all() {
    let live = live!("exec.rs::short_commands_say_all");
    let guest = live.running("short").await;
    let runs = (0..120).map(|i| {
        let (client, name) = (live.client.clone(), guest.name.clone());
        async move {
            let script = format!(
                "echo {i} >&2; find /etc -type f | sort; echo {i}; exit {}",
                i % 100
            );
            let exec = Exec::new(["sh", "-c", &script]);
            let done = client.instances().run(&name, exec, "").await;
            (i, done.unwrap_or_else(|e| panic!("run {i}: {e}")))
        }
    });
    let mut runs = futures_util::stream::iter(runs).buffer_unordered(8);
    while let Some((i, done)) = runs.next().await {
        let text = String::from_utf8(done.stdout).unwrap();
        let whole = text.starts_with("/etc/") && text.ends_with(&format!("\n{i}\n"));
        assert!(
            whole && done.stderr == format!("{i}\n").as_bytes(),
            "{i}: {text:?}"
        );
        assert_eq!(done.code, i % 100);
    }
    drop(runs);
    guest.remove().await;
}

#[tokio::test]
async fn the_console_is_attached_read_and_cleared() {
    let live = live!("exec.rs::the_console_is_attached_read_and_cleared");
    let guest = live.running("console").await;
    let instances = live.client.instances();
    let mut console = instances
        .console(
            &guest.name,
            WindowSize {
                width: 80,
                height: 24,
            },
            true,
        )
        .await
        .unwrap();
    let mut output = Box::pin(console.output());
    console.write("\r\n").await.unwrap();
    console
        .resize(WindowSize {
            width: 100,
            height: 30,
        })
        .await
        .unwrap();
    // What the official client writes there, by a command in the guest, is heard; again and again, since what is written before
    // the daemon has attached us is in the log only.
    let line = "echo word-from-the-guest > /dev/console";
    let write = async {
        loop {
            incus(&["exec", &guest.name, "--", "sh", "-c", line]).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let hear = async {
        let mut said = String::new();
        while !said.contains("word-from-the-guest") {
            let bytes = output.next().await.expect("the console is open").unwrap();
            said.push_str(&String::from_utf8_lossy(&bytes));
        }
    };
    let heard = tokio::time::timeout(Duration::from_secs(60), async {
        tokio::select! {
            () = hear => {}
            () = write => {}
        }
    })
    .await;
    heard.expect("the word is heard");
    drop(output);
    drop(console);
    let log = instances.console_log(&guest.name).await.unwrap();
    log.body.collect(1 << 20).await.unwrap();
    instances.clear_console_log(&guest.name).await.unwrap();
    let after = incus(&["console", &guest.name, "--show-log"]).await;
    assert!(!after.contains("boxrig"), "{after}");
    live.confirmed(&[
        "instance_console_post",
        "instance_console_delete",
        "instance_console_get",
    ]);
    guest.remove().await;
}
