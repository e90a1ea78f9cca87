//! The console's websocket.

use std::time::Duration;

use boxrig_fastvm::ops;
use boxrig_wire::ws::Frame;
use boxrig_wire::{CallOptions, Kind, NoBody, NoParams, Request, Result, WebSocket};

use crate::api::{Api, by_id};

async fn token(api: &Api, id: &str) -> String {
    let answer = api
        .call(by_id::<ops::CreateConsoleToken>(id))
        .await
        .unwrap()
        .value;
    assert_eq!(answer.websocket_path, format!("/v1/vms/{id}/console"));
    assert_eq!(answer.expires_in_sec, 60);
    answer.token.expose().to_owned()
}

/// Without the key: the token is enough.
async fn open(api: &Api, id: &str, token: &str) -> Result<WebSocket> {
    let request = Request::<ops::OpenConsole> {
        path: (id.to_owned(),),
        query: ops::ConsoleQuery {
            session: Some(token.to_owned()),
        },
        headers: NoParams,
        body: NoBody,
    };
    let socket = api.nobody().call(request, &CallOptions::default()).await?;
    socket.connected()
}

struct Screen {
    socket: WebSocket,
    text: String,
}

impl Screen {
    async fn until(&mut self, wanted: &str) {
        while !self.text.contains(wanted) {
            let frame = tokio::time::timeout(Duration::from_secs(20), self.socket.next()).await;
            match frame.expect("in time").unwrap() {
                Some(Frame::Data { payload, .. }) => {
                    self.text.push_str(&String::from_utf8_lossy(&payload));
                }
                Some(_) => {}
                None => panic!("the console ended: {:?}", self.text),
            }
        }
    }
    async fn send(&mut self, text: &str) {
        self.socket
            .send(Frame::text(text.to_owned()))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_console_types_resizes_and_ends() {
    let Some(api) = Api::sandbox().await else {
        return;
    };
    let id = api.launch().await.id;
    let used = token(&api, &id).await;
    let socket = open(&api, &id, &used).await.unwrap();
    let mut screen = Screen {
        socket,
        text: String::new(),
    };
    screen
        .send(r#"{"type":"resize","cols":91,"rows":33}"#)
        .await;
    screen.send("stty size; echo do''ne\r").await;
    screen.until("done").await;
    assert!(screen.text.contains("33 91"), "{}", screen.text);
    // In two fragments, and in a binary frame.
    let part = |text: &str, fin| Frame::Data {
        text: true,
        fin,
        payload: text.to_owned().into(),
    };
    screen
        .socket
        .send(part(r#"{"type":"resize","#, false))
        .await
        .unwrap();
    screen
        .socket
        .send(part(r#""cols":70,"rows":20}"#, true))
        .await
        .unwrap();
    screen
        .socket
        .send(Frame::binary(&b"stty size; echo ag''ain\r"[..]))
        .await
        .unwrap();
    screen.until("again").await;
    assert!(screen.text.contains("20 70"), "{}", screen.text);
    screen.send("exit\r").await;
    let closed = async {
        loop {
            match screen.socket.next().await {
                Ok(Some(Frame::Close { code, .. })) => return code,
                Ok(Some(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let code = tokio::time::timeout(Duration::from_secs(20), closed)
        .await
        .unwrap();
    assert_eq!(code, Some(1000));

    assert_eq!(
        open(&api, &id, &used).await.unwrap_err().kind(),
        Kind::Unauthenticated
    );
    assert_eq!(
        open(&api, &id, "guess").await.unwrap_err().kind(),
        Kind::Unauthenticated
    );
    let other = api.launch().await.id;
    let for_one = token(&api, &id).await;
    assert_eq!(
        open(&api, &other, &for_one).await.unwrap_err().kind(),
        Kind::Unauthenticated
    );
    api.server.stop().await;
}

#[tokio::test]
async fn a_closed_console_leaves_no_shell() {
    let Some(api) = Api::sandbox().await else {
        return;
    };
    let id = api.launch().await.id;
    let token = token(&api, &id).await;
    let socket = open(&api, &id, &token).await.unwrap();
    let mut screen = Screen {
        socket,
        text: String::new(),
    };
    screen.send("echo $$ > /root/shell; echo re''ady\r").await;
    screen.until("ready").await;
    drop(screen);
    crate::api::eventually("the shell is gone", async || {
        api.sh(&id, "kill -0 $(cat /root/shell)").await.exit_code != 0
    })
    .await;
    api.server.stop().await;
}

#[tokio::test]
async fn there_is_none_without_a_terminal_or_a_running_machine() {
    let api = Api::memory().await;
    let id = api.launch().await.id;
    let e = api
        .call(by_id::<ops::CreateConsoleToken>(&id))
        .await
        .unwrap_err();
    assert_eq!(e.status().unwrap().as_u16(), 501);
    api.call(by_id::<ops::PauseVm>(&id)).await.unwrap();
    let e = api
        .call(by_id::<ops::CreateConsoleToken>(&id))
        .await
        .unwrap_err();
    assert_eq!(e.status().unwrap().as_u16(), 409);
    let e = api
        .call(by_id::<ops::CreateConsoleToken>("nope"))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
}
