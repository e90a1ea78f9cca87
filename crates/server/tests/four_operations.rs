//! The proof that one description serves both halves: the operations that fit the usual shape least,
//! each with the client's call and a handler, over real sockets. (The fourth, FastVM's exec in both forms, is
//! served for good: `fastvm_exec.rs`.) The handlers run real
//! processes; they stand in for servers that come with later issues, the descriptions do not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use boxrig_convox as convox;
use boxrig_convox::ops::processes::{ProcessExec, ProcessExecHeaders};
use boxrig_incus as incus;
use boxrig_incus::models::Operation;
use boxrig_incus::ops::{instances, server};
use boxrig_server::router::{Call, Router};
use boxrig_vergeos as vergeos;
use boxrig_wire::ws::Frame;
use boxrig_wire::{ApiError, Kind, Request, Socket, WebSocket};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

mod common;
use common::{caller, serve};

fn spawn(argv: &[String]) -> Result<Child, ApiError> {
    Command::new(&argv[0])
        .args(&argv[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| ApiError::not_found(format!("Command not found: {e}")))
}

// ---------------------------------------------------------------- Incus: an operation and its sockets

#[derive(Clone, Default)]
struct IncusState(Arc<Mutex<IncusExec>>);

#[derive(Default)]
struct IncusExec {
    child: Option<Child>,
    code: Option<tokio::sync::oneshot::Receiver<i32>>,
    done: Option<tokio::sync::oneshot::Sender<i32>>,
    pending: usize,
}

fn incus_router() -> Router<incus::Incus, IncusState> {
    Router::new()
        .mount(
            instances::InstanceExecPost,
            |cx: Call<IncusState>, rq: Request<instances::InstanceExecPost>| async move {
                let (name,) = rq.path;
                if name != "c1" {
                    return Err(ApiError::not_found("Instance not found"));
                }
                let child = spawn(&rq.body.0.command)?;
                let (tx, rx) = tokio::sync::oneshot::channel();
                *cx.0.lock().unwrap() = IncusExec {
                    child: Some(child),
                    code: Some(rx),
                    done: Some(tx),
                    pending: 2,
                };
                let fds = json!({"0": "s0", "1": "s1", "2": "s2", "control": "sc"});
                let mut view = Operation::default();
                view.id = "op1".into();
                view.class = "websocket".into();
                view.status_code = incus::StatusCode::RUNNING;
                view.metadata.insert("fds".into(), fds);
                Ok(incus::Async(view))
            },
        )
        .mount(
            server::OperationWebsocketGet,
            |cx: Call<IncusState>, rq: Request<server::OperationWebsocketGet>| async move {
                let state = cx.state.clone();
                Ok(Socket::serve(move |ws| {
                    incus_socket(state, rq.query.secret.unwrap_or_default(), ws)
                }))
            },
        )
        .mount(
            server::OperationWaitGet,
            |cx: Call<IncusState>, _| async move {
                let code = cx.0.lock().unwrap().code.take();
                let code = code.ok_or_else(|| ApiError::not_found("Operation not found"))?;
                let code = code
                    .await
                    .map_err(|_| ApiError::new(Kind::Failed, "lost"))?;
                let mut view = Operation::default();
                view.status_code = incus::StatusCode::SUCCESS;
                view.metadata.insert("return".into(), code.into());
                Ok(incus::Sync::new(view))
            },
        )
}

async fn incus_socket(state: IncusState, secret: String, mut ws: WebSocket) {
    match secret.as_str() {
        "s0" => {
            let stdin = state.0.lock().unwrap().child.as_mut().unwrap().stdin.take();
            let mut stdin = stdin.unwrap();
            while let Ok(Some(Frame::Data { text, payload, .. })) = ws.next().await {
                if text && payload.is_empty() {
                    break;
                }
                stdin.write_all(&payload).await.unwrap();
            }
        }
        "s1" | "s2" => {
            let mut output: Box<dyn tokio::io::AsyncRead + Send + Unpin> = {
                let mut exec = state.0.lock().unwrap();
                let child = exec.child.as_mut().unwrap();
                if secret == "s1" {
                    Box::new(child.stdout.take().unwrap())
                } else {
                    Box::new(child.stderr.take().unwrap())
                }
            };
            // What the client says (pongs) is read all the while: a socket that is closed with unread
            // input is reset, and the reset overtakes the output.
            let (mut reader, ws) = ws.split();
            let said = tokio::spawn(async move { while let Ok(Some(_)) = reader.next().await {} });
            ws.send(Frame::Ping(Bytes::from_static(b"keepalive")))
                .await
                .unwrap();
            let mut buf = vec![0; 32 * 1024];
            loop {
                match output.read(&mut buf).await.unwrap() {
                    0 => break,
                    n => ws.send(Frame::binary(buf[..n].to_vec())).await.unwrap(),
                }
            }
            ws.send(Frame::text(Bytes::new())).await.unwrap();
            let last = {
                let mut exec = state.0.lock().unwrap();
                exec.pending -= 1;
                (exec.pending == 0).then(|| (exec.child.take().unwrap(), exec.done.take().unwrap()))
            };
            if let Some((mut child, done)) = last {
                let status = child.wait().await.unwrap();
                let _ = done.send(status.code().unwrap_or(137));
            }
            // Dropped without a close frame, as the daemon does, once the client has gone.
            let _ = said.await;
        }
        _ => while let Ok(Some(_)) = ws.next().await {},
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn incus_exec() {
    let url = serve(incus_router(), IncusState::default()).await;
    let client = incus::Client::new(caller(&url));
    let burst = "cat; i=0; while [ $i -lt 2000 ]; do printf '%01000d' 0; i=$((i+1)); done; echo err >&2; exit 7";
    let exec = incus::Exec::new(["sh", "-c", burst]);
    let mut session = client.instances().exec("c1", exec).await.unwrap();
    session.write("from stdin\n").await.unwrap();
    session.end_input().await.unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut output = Box::pin(session.output());
    while let Some(event) = output.next().await {
        match event.unwrap() {
            incus::ExecEvent::Stdout(b) => out.extend_from_slice(&b),
            incus::ExecEvent::Stderr(b) => err.extend_from_slice(&b),
        }
    }
    drop(output);
    assert_eq!(out.len(), "from stdin\n".len() + 2_000_000);
    assert!(out.starts_with(b"from stdin\n"));
    assert_eq!(err, b"err\n");
    assert_eq!(session.exit_code().await.unwrap(), 7);

    // The envelope's error, by meaning, with the server's words.
    let e = client
        .instances()
        .exec("nope", incus::Exec::new(["true"]))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    assert_eq!(e.server_message().unwrap().raw(), "Instance not found");
    assert_eq!(e.operation(), Some("instance_exec_post"));
}

// ---------------------------------------------------------------- Convox: header options, errors after the 101

fn convox_router() -> Router<convox::Convox, ()> {
    Router::new().mount(
        ProcessExec,
        |_: Call<()>, rq: Request<ProcessExec>| async move {
            Ok(Socket::serve(move |ws| {
                convox_socket(rq.path.0, rq.headers, ws)
            }))
        },
    )
}

async fn convox_socket(app: String, options: ProcessExecHeaders, mut ws: WebSocket) {
    if app != "web" {
        let text = format!("ERROR: app not found: {app}\n");
        let _ = ws.send(Frame::text(text)).await;
        let _ = ws.send(Frame::binary(Bytes::new())).await;
        return;
    }
    assert_eq!(options.tty, Some(false));
    let mut child = spawn(&["sh".into(), "-c".into(), options.command]).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    while let Ok(Some(Frame::Data { text, payload, .. })) = ws.next().await {
        if !text && payload.is_empty() {
            break;
        }
        stdin.write_all(&payload).await.unwrap();
    }
    drop(stdin);
    let done = child.wait_with_output().await.unwrap();
    ws.send(Frame::text(done.stdout)).await.unwrap();
    if let Some(code) = done.status.code() {
        let trailer = format!("{}{code}\n", convox::EXIT_MARK);
        // In two frames: readers must not count on one.
        let (a, b) = trailer.split_at(20);
        ws.send(Frame::text(a.to_owned())).await.unwrap();
        ws.send(Frame::text(b.to_owned())).await.unwrap();
    }
    ws.send(Frame::binary(Bytes::new())).await.unwrap();
}

async fn convox_run(
    client: &convox::Client,
    app: &str,
    command: &str,
) -> (Vec<u8>, boxrig_wire::Result<i32>) {
    let options = ProcessExecHeaders {
        command: command.into(),
        tty: Some(false),
        ..Default::default()
    };
    let (input, mut output) = client.exec(app, "p1", options).await.unwrap().split();
    // The rack may have ended the stream already; that is the output's to tell.
    let _ = input.write(&b"\xff\xfe raw"[..]).await;
    let _ = input.end().await;
    let mut text = Vec::new();
    let mut code = None;
    while let Some(event) = output.next().await {
        match event {
            Ok(convox::ExecEvent::Output(b)) => text.extend_from_slice(&b),
            Ok(convox::ExecEvent::Exit(n)) => code = Some(Ok(n)),
            Err(e) => code = Some(Err(e)),
        }
    }
    (text, code.expect("a stream ends in a code or an error"))
}

#[tokio::test(flavor = "multi_thread")]
async fn convox_process_exec() {
    let url = serve(convox_router(), ()).await;
    let client = convox::Client::new(caller(&url));
    let (text, code) = convox_run(&client, "web", "cat; exit 3").await;
    assert_eq!(text, b"\xff\xfe raw");
    assert_eq!(code.unwrap(), 3);
    let (_, code) = convox_run(&client, "nope", "true").await;
    assert_eq!(code.unwrap_err().kind(), Kind::NotFound);
    // Killed by a signal, so no code: never taken for success.
    let (_, code) = convox_run(&client, "web", "kill -9 $$").await;
    assert_eq!(code.unwrap_err().kind(), Kind::OutcomeUnknown);
}

// ---------------------------------------------------------------- VergeOS: any table, an action

type Power = Arc<Mutex<bool>>;

fn vergeos_router() -> Router<vergeos::VergeOs, Power> {
    Router::new()
        .mount(
            vergeos::TableList,
            |cx: Call<Power>, rq: Request<vergeos::TableList>| async move {
                if rq.path.0 != "vms" {
                    return Err(ApiError::not_found("No such file or directory"));
                }
                assert_eq!(rq.query.filter.as_deref(), Some("name eq 'web'"));
                let on = *cx.lock().unwrap();
                let row = json!({"$key": 7, "name": "web", "powerstate": on});
                Ok(vergeos::RowsReply::new(vec![
                    row.as_object().cloned().unwrap(),
                ]))
            },
        )
        .mount(
            vergeos::TableAction,
            |cx: Call<Power>, rq: Request<vergeos::TableAction>| async move {
                let post = rq.body.0;
                match (rq.path.0.as_str(), post.action.as_str(), &post.row["vm"]) {
                    ("vm", "poweron", key) if key == 7 => {
                        *cx.lock().unwrap() = post.params["preferred_node"] == 2;
                        let mut receipt = vergeos::Receipt::default();
                        receipt.task = Some(11.into());
                        let receipt = serde_json::to_value(receipt).unwrap();
                        Ok(vergeos::Written::created(Some(receipt)))
                    }
                    _ => Err(ApiError::conflict(
                        "the machine is in the wrong power state",
                    )),
                }
            },
        )
}

/// Actions are types: `PowerOnn` would not compile.
#[derive(Serialize)]
struct PowerOn {
    preferred_node: i64,
}

impl vergeos::Action for PowerOn {
    const KIND: &'static str = "vm";
    fn name(&self) -> &'static str {
        "poweron"
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vergeos_list_and_action() {
    let url = serve(vergeos_router(), Power::default()).await;
    let client = vergeos::Client::new(caller(&url));
    let query = || vergeos::ListQuery {
        filter: Some("name eq 'web'".into()),
        ..Default::default()
    };
    let rows = client.list("vms", query()).await.unwrap();
    assert_eq!(rows[0]["powerstate"], false);
    let receipt = client.act(7, PowerOn { preferred_node: 2 }).await.unwrap();
    assert_eq!(receipt.task, Some(11.into()));
    assert_eq!(
        client.list("vms", query()).await.unwrap()[0]["powerstate"],
        true
    );

    let e = client
        .act(8, PowerOn { preferred_node: 2 })
        .await
        .unwrap_err();
    assert_eq!(
        (e.kind(), e.status().unwrap().as_u16()),
        (Kind::Conflict, 409)
    );
    let e = client.list("nope", query()).await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    assert_eq!(
        e.server_message().unwrap().raw(),
        "No such file or directory"
    );
}
